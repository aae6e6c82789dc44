//! Asks the kubelet whose pods hold which boards.
//!
//! What must hold: the loop never waits for it; a kubelet that does not answer leaves the last tenants
//! for a while, and then none are told; where it is asked in vain, log and metric say so once.

use std::{path::PathBuf, sync::Arc, time::Duration};

use powercap_common::reason::Reason;
use powercap_kubelet::KubeletError;
use tokio::{sync::watch, time::MissedTickBehavior};

use super::Devices;
use crate::node::{
    metrics::Metrics,
    tenants::{Holdings, Tenancy},
};

/// Boards come and go one by one, at the start and after a reset: whose they are is put together anew.
const PERIOD: Duration = Duration::from_secs(1);
/// The kubelet is asked this seldom: a pod that comes or goes is known after ten seconds.
const PERIODS_A_POLL: u32 = 10;
/// So many polls in a row may fail before the last tenants are forgotten: pods do not come and go while
/// their kubelet is restarted.
const FAILURES_BORNE: u32 = 3;

/// Asks every ten seconds, for ever.
pub async fn watch(socket: PathBuf, devices: Devices, tenants: watch::Sender<Arc<Tenancy>>, metrics: Metrics) {
    let mut memory = Memory::default();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for period in (0..PERIODS_A_POLL).cycle() {
        ticks.tick().await;
        if period == 0 {
            let answer = powercap_kubelet::pod_resources(&socket).await;
            metrics.asked_for_tenants(answer.is_ok());
            memory.learn(answer.map(Holdings::of));
        }
        let Some(holdings) = memory.holdings() else {
            tenants.send_if_modified(|told| replace(told, Tenancy::default()));
            continue;
        };
        let tenancy = holdings.tenancy(&devices.profiles());
        if period == 0 && !tenancy.is_complete() {
            devices.profiles_are_old();
        }
        tenants.send_if_modified(|told| replace(told, tenancy));
    }
}

fn replace(told: &mut Arc<Tenancy>, tenancy: Tenancy) -> bool {
    let differs = **told != tenancy;
    if differs {
        *told = Arc::new(tenancy);
    }
    differs
}

/// The last answer, and how often none came since.
#[derive(Default)]
struct Memory {
    last: Option<Holdings>,
    failures: u32,
}

impl Memory {
    fn learn(&mut self, answer: Result<Holdings, KubeletError>) {
        match answer {
            Ok(holdings) => {
                if self.failures > 0 {
                    tracing::info!("the kubelet tells again which pods hold which devices");
                }
                *self = Self { last: Some(holdings), failures: 0 };
            }
            Err(error) => {
                if self.failures == 0 {
                    let reason = Reason::TenantsUnknown;
                    tracing::warn!(%reason, %error, "the kubelet does not tell which pods hold which devices; asking again every 10 s");
                }
                self.failures = self.failures.saturating_add(1);
                if self.failures > FAILURES_BORNE {
                    self.last = None;
                }
            }
        }
    }

    const fn holdings(&self) -> Option<&Holdings> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_that_is_away_leaves_the_last_tenants_for_three_polls() {
        let mut memory = Memory::default();
        let away = || Err(KubeletError::TimedOut { call: "List" });
        memory.learn(away());
        assert!(memory.holdings().is_none());
        memory.learn(Ok(Holdings::default()));
        for _ in 0..FAILURES_BORNE {
            memory.learn(away());
            assert!(memory.holdings().is_some());
        }
        memory.learn(away());
        assert!(memory.holdings().is_none());
        memory.learn(Ok(Holdings::default()));
        memory.learn(away());
        assert!(memory.holdings().is_some(), "one failure after an answer forgets nothing");
    }
}
