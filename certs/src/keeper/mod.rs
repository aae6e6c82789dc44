//! Keeps an identity good for as long as somebody shows it.
//!
//! Replicas agree without a leader: each looks at the same Secret, decides the same, and of their writes the API
//! server accepts the one that knew the latest version. The others look again.
//!
//! What must hold for [`Step::Switch`]: a bundle that is published never gets older. A replica that hangs between
//! reading the Secret and publishing could put an old bundle over a new one, and then a leaf of the new authority
//! would be turned down. So the configurations are read *before* the Secret and written only if they are still the
//! same: who published in between had read a Secret that is as new or newer, and wins.

mod healed;
mod registrations;
mod secret;

use std::{
    error::Error,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use self::healed::{Healed, Told};
pub use self::{
    registrations::{Kind, Registration, Registrations},
    secret::Stored,
};
use crate::{
    authority::MakeError,
    carry_out::carry_out,
    decide::{Cause, MOST_AUTHORITIES, Step, decide, stays},
    files::{Files, FilesError},
    held::Held,
    identity::{Identity, IdentityError},
    periods::Periods,
};

/// The Secret's name, in the webhook's own namespace.
pub const SECRET: &str = "powercap-admission-tls";
/// How we sign what we write to the API server.
const MANAGER: &str = "powercap-certs";
/// How long an answer of the API server may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a look is taken again at once because another replica was faster.
const AGAIN: u32 = 5;

/// Where certificates come from.
pub enum Source {
    /// An authority of our own.
    Own(Box<Own>),
    /// `tls.crt` and `tls.key` in this folder, which somebody else keeps, and the bundle too. The API server is not
    /// asked for anything.
    Files(PathBuf),
}

/// An authority of our own, kept in the Secret [`SECRET`].
#[derive(Clone)]
pub struct Own {
    /// For the API server.
    pub client: Client,
    /// The webhook's own namespace.
    pub namespace: String,
    /// What API servers call the webhook by: `SERVICE.NAMESPACE.svc`.
    pub names: Vec<String>,
    /// The name of the webhook configurations, mutating and validating, that get the bundle.
    pub registration: String,
    /// How long things last; the default is meant for clusters.
    pub periods: Periods,
}

/// Why there is no certificate, or no newer one.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The API server refused, or did not understand.
    #[error("cannot {0}")]
    Call(&'static str, #[source] Box<kube::Error>),
    /// No answer.
    #[error("cannot {0}: no answer in time")]
    Timeout(&'static str),
    /// Others wrote at the same time, again and again.
    #[error("others wrote at the same time")]
    Conflict,
    /// A key or certificate could not be made.
    #[error("cannot make what is needed")]
    Make(#[from] MakeError),
    /// What is held cannot be shown.
    #[error("cannot show what is held")]
    Show(#[from] IdentityError),
    /// Files that somebody else keeps are not good.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// There is nothing to rotate.
    #[error("there is no authority yet in the Secret {SECRET}; admission makes it at its first start")]
    NoAuthority,
    /// The bundle would grow without bound.
    #[error("{MOST_AUTHORITIES} authorities are trusted already, until leaves of the earlier ones expire")]
    TooMany,
}

/// Gets an identity, however long that takes, and keeps it good until nobody holds the receiver any more. Show it by
/// [`PerHandshake`](crate::PerHandshake); alert on [`Identity::expires`]. What is wrong on the way is logged.
pub async fn keep(source: Source) -> watch::Receiver<Arc<Identity>> {
    let mut keeper = Keeper::new(source);
    let first = loop {
        match keeper.look().await {
            Ok(identity) => break identity,
            Err(error) => tracing::warn!(error = &error as &dyn Error, "there is no certificate yet"),
        }
        tokio::time::sleep(keeper.pause()).await;
    };
    tracing::info!(certificate = ?first.leaf(), "showing");
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(keeper.pause()) => {}
                () = sender.closed() => return,
            }
            match keeper.look().await {
                Ok(identity) => show(&sender, identity),
                Err(error) => tracing::warn!(error = &error as &dyn Error, "the certificate stays as it is"),
            }
        }
    });
    receiver
}

fn show(sender: &watch::Sender<Arc<Identity>>, identity: Arc<Identity>) {
    if !Arc::ptr_eq(&sender.borrow(), &identity) {
        tracing::info!(certificate = ?identity.leaf(), "showing");
        sender.send_replace(identity);
    }
}

/// One of the two kinds of keeping.
enum Keeper {
    Own(Box<OwnKeeper>),
    Files(Files),
}

impl Keeper {
    fn new(source: Source) -> Self {
        match source {
            Source::Own(own) => Self::Own(Box::new(OwnKeeper::new(*own))),
            Source::Files(folder) => Self::Files(Files::new(folder)),
        }
    }

    async fn look(&mut self) -> Result<Arc<Identity>, KeepError> {
        match self {
            Self::Own(keeper) => keeper.look().await,
            Self::Files(files) => Ok(files.look().await?),
        }
    }

    fn pause(&self) -> Duration {
        match self {
            Self::Own(keeper) => keeper.own.periods.look_every,
            Self::Files(_) => Periods::default().look_every,
        }
    }
}

/// One replica's keeping of the Secret.
struct OwnKeeper {
    own: Own,
    /// The bundle that was seen in every configuration, and since when.
    published: Option<(String, Instant)>,
    shown: Option<Arc<Identity>>,
    told: Told,
}

impl OwnKeeper {
    fn new(own: Own) -> Self {
        Self { own, published: None, shown: None, told: Told::default() }
    }

    /// Takes the next step where one is due, publishes the bundle, and says what to show.
    async fn look(&mut self) -> Result<Arc<Identity>, KeepError> {
        for _ in 0..AGAIN {
            match self.look_once(Timestamp::now()).await {
                Err(KeepError::Conflict) => {}
                looked => return looked,
            }
        }
        Err(KeepError::Conflict)
    }

    async fn look_once(&mut self, now: Timestamp) -> Result<Arc<Identity>, KeepError> {
        // The order of these two is what the module's promise rests on.
        let registrations = Registrations::read(&self.own).await?;
        let stored = Stored::read(&self.own).await?;
        // What was published and is not any more, somebody has changed.
        let was_published = self.published.as_ref().is_some_and(|(seen, _)| *seen == stored.held.bundle_pem());
        let began = stored.exists() || self.shown.is_some();
        let standing = self.standing(&registrations, &stored.held);
        let Own { names, periods, .. } = &self.own;
        let step = decide(&stored.held, names, standing, periods, now);
        let held = if step == Step::Nothing {
            stored.held
        } else {
            // Who begins anew carries over what is trusted by now, which may be more than was read before.
            let trusted = match step {
                Step::Found(_) => Registrations::read(&self.own).await?.trusted(),
                _ => Vec::new(),
            };
            let held = carry_out(&step, stored.held.clone(), &trusted, names, periods, now)?;
            stored.write(&self.own, &held).await?;
            tell(&step);
            if let Some(healed) = Healed::by(&step, began) {
                self.told.tell(healed, &self.own);
            }
            held
        };
        match registrations.publish(&self.own, &held.bundle_pem()).await {
            Ok(published) if was_published && step == Step::Nothing && !published.is_empty() => {
                self.told.tell(Healed::bundle(&published), &self.own);
            }
            Ok(_) => {}
            Err(KeepError::Conflict) => return Err(KeepError::Conflict),
            Err(error) => tracing::warn!(error = &error as &dyn Error, "the bundle is not published"),
        }
        let standing = self.standing(&registrations, &held);
        self.show(&held, standing, now)
    }

    fn show(&mut self, held: &Held, standing: Option<Duration>, now: Timestamp) -> Result<Arc<Identity>, KeepError> {
        let Some(leaf) = &held.leaf else { return Err(IdentityError::NoCertificate.into()) };
        let Own { names, periods, .. } = &self.own;
        if let Some(shown) = &self.shown {
            let certificate = shown.leaf();
            if certificate == leaf.certificate() || stays(certificate, held, names, standing, periods, now) {
                return Ok(Arc::clone(shown));
            }
        }
        let identity = Arc::new(Identity::new(leaf.certificate().clone(), Vec::new(), leaf.key())?);
        self.shown = Some(Arc::clone(&identity));
        Ok(identity)
    }

    /// For how long this bundle has been seen in every configuration.
    fn standing(&mut self, registrations: &Registrations, held: &Held) -> Option<Duration> {
        let bundle = held.bundle_pem();
        if !registrations.carry(&bundle) {
            self.published = None;
            return None;
        }
        let since = match self.published.take() {
            Some((seen, since)) if seen == bundle => since,
            _ => Instant::now(),
        };
        self.published = Some((bundle, since));
        Some(since.elapsed())
    }
}

fn tell(step: &Step) {
    match step {
        Step::Nothing => {}
        Step::Found(fault) => tracing::warn!(%fault, "a new authority and a new certificate were made"),
        Step::Announce(cause) => tracing::info!(%cause, "the next authority is announced beside the present one"),
        Step::Switch => tracing::info!("the announced authority signs from now on"),
        Step::SignLeaf(cause @ Cause::Fault(_)) => tracing::warn!(%cause, "a new certificate was signed"),
        Step::SignLeaf(cause) => tracing::info!(%cause, "a new certificate was signed"),
        Step::Retire => tracing::info!("earlier authorities are no longer trusted"),
    }
}

/// Announces the next authority now; admission publishes it, waits, and lets it sign. Gives what the Secret then
/// holds. Where one is announced already, nothing is changed.
///
/// # Errors
/// When there is no authority yet, too many are trusted still, or the API server does not let us.
pub async fn rotate(own: &Own) -> Result<Held, KeepError> {
    for _ in 0..AGAIN {
        let stored = Stored::read(own).await?;
        if stored.held.authority.is_none() {
            return Err(KeepError::NoAuthority);
        }
        if stored.held.next.is_some() {
            return Ok(stored.held);
        }
        if stored.held.bundle.len() >= MOST_AUTHORITIES {
            return Err(KeepError::TooMany);
        }
        let step = Step::Announce(Cause::Asked);
        let held = carry_out(&step, stored.held.clone(), &[], &own.names, &own.periods, Timestamp::now())?;
        match stored.write(own, &held).await {
            Ok(()) => return Ok(held),
            Err(KeepError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Err(KeepError::Conflict)
}

/// Asks the API server, for no longer than [`CALL_TIMEOUT`].
async fn call<T>(what: &'static str, call: impl Future<Output = kube::Result<T>>) -> Result<T, KeepError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Err(_) => Err(KeepError::Timeout(what)),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(KeepError::Conflict),
        Ok(answer) => answer.map_err(|error| KeepError::Call(what, Box::new(error))),
    }
}
