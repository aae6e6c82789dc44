//! A process of which several run and one leads: what ends it, and that it gives the lead back then.

use std::{pin::pin, time::Duration};

use tokio::sync::watch;

use crate::shutdown_signal;

/// The lease is given back within this, or expires.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Tells the parts of a process to end.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    /// Completes when the process is to end.
    pub fn told(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.0.subscribe();
        async move {
            // An error means that the sender is gone, which is a stop too.
            _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    /// Runs `work` until SIGTERM or SIGINT, or until one of the `parts` that it rests on ends; then tells it to
    /// end, and waits a while.
    ///
    /// # Errors
    /// That with which `work` or a part ended.
    pub async fn run<E>(
        self,
        work: impl Future<Output = Result<(), E>>,
        parts: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let mut work = pin!(work);
        let ended = tokio::select! {
            () = shutdown_signal() => Ok(()),
            ended = parts => ended,
            ended = &mut work => return ended,
        };
        _ = self.0.send(true);
        if tokio::time::timeout(ENDS_WITHIN, work).await.is_err() {
            tracing::warn!("the lease was not given back in time; it expires");
        }
        ended
    }
}

/// A name of this process alone: two of one name would both believe that they hold the Lease.
#[must_use]
pub fn identity(name: &str) -> String {
    // Another may have had our PID.
    let started = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    format!("{name}_{}-{started:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_told_when_a_part_ends_and_its_error_is_what_is_said() {
        let stop = Stop::default();
        let (told, said) = (stop.told(), std::cell::Cell::new(false));
        let work = async {
            told.await;
            said.set(true);
            Ok(())
        };
        let ended = stop.run(work, std::future::ready(Err("the server"))).await;
        assert_eq!((ended, said.get()), (Err("the server"), true));
    }

    #[tokio::test]
    async fn work_that_ends_by_itself_ends_the_process() {
        let parts = std::future::pending::<Result<(), &str>>();
        assert_eq!(Stop::default().run(std::future::ready(Err("the caches")), parts).await, Err("the caches"));
    }
}
