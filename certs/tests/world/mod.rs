//! Replicas, a Secret, a published bundle and API servers that lag, in memory, moved by the functions that the real
//! keeper calls. Each replica does what [`powercap_certs::keep`] does, and may be stopped between any two calls to
//! the API server while the others go on.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use powercap_certs::{
    Periods,
    carry_out::carry_out,
    certificate::Certificate,
    decide::{Cause, MOST_AUTHORITIES, Step, decide, stays},
    held::Held,
};

/// What API servers call the webhook by.
pub const NAME: &str = "powercap-admission.powercap-system.svc";

/// Something with the version that the API server gives it.
#[derive(Clone, Debug, Default)]
struct Versioned<T> {
    version: u64,
    content: T,
}

impl<T> Versioned<T> {
    /// Takes the content if nobody has written since that version.
    fn write(&mut self, read: u64, content: T) -> bool {
        let first = self.version == read;
        if first {
            *self = Self { version: read + 1, content };
        }
        first
    }
}

/// How far a replica is.
#[derive(Clone, Debug, Default)]
enum Look {
    #[default]
    Resting,
    /// It has read the configuration.
    Registration(Versioned<Vec<Certificate>>),
    /// It has read the Secret too, and decided.
    Decided { registration: Versioned<Vec<Certificate>>, read: u64, before: Held, step: Step, now: Timestamp },
    /// It knows what it needs to make the Secret's next content.
    Ready { decided: Box<Look>, trusted: Vec<Certificate> },
    /// It has written the Secret, where it had to.
    Written { registration: Versioned<Vec<Certificate>>, held: Held, now: Timestamp },
    /// It has published the bundle, where it had to.
    Published { registration: Versioned<Vec<Certificate>>, held: Held, now: Timestamp },
}

/// One replica.
#[derive(Clone, Debug, Default)]
struct Replica {
    look: Look,
    /// When its present look began.
    began: Option<Timestamp>,
    published: Option<(Vec<Certificate>, Timestamp)>,
    shown: Option<Certificate>,
}

/// All of it.
pub struct World {
    pub now: Timestamp,
    pub periods: Periods,
    secret: Versioned<Held>,
    registration: Versioned<Vec<Certificate>>,
    /// What was published before, and until when: some API server may still go by it.
    before: Vec<(Vec<Certificate>, Timestamp)>,
    replicas: Vec<Replica>,
    /// When the latest look began that was carried through.
    pub looked: Timestamp,
    /// How often an announced authority began to sign.
    pub switches: u32,
}

impl World {
    /// With so many replicas, all settled.
    pub fn settled(replicas: usize) -> Self {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut world = Self {
            now,
            periods: Periods::default(),
            secret: Versioned::default(),
            registration: Versioned::default(),
            before: Vec::new(),
            replicas: vec![Replica::default(); replicas],
            looked: now,
            switches: 0,
        };
        world.settle();
        world
    }

    /// Every replica looks in peace, and again when the overlap is over.
    pub fn settle(&mut self) {
        for _ in 0..3 {
            for replica in 0..self.replicas.len() {
                self.look(replica);
            }
            self.pass(self.periods.overlap + Duration::from_secs(1));
        }
    }

    /// Time goes by.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        let (now, overlap) = (self.now, self.periods.overlap);
        self.before.retain(|(_, until)| Duration::try_from(now.duration_since(*until)).unwrap_or_default() < overlap);
    }

    /// A whole look of one replica, beginning with what it had begun.
    pub fn look(&mut self, replica: usize) {
        loop {
            self.go_on(replica);
            if matches!(self.replicas[replica].look, Look::Resting) {
                return;
            }
        }
    }

    /// A replica does what comes next, up to its next call to the API server.
    pub fn go_on(&mut self, replica: usize) {
        let names = [NAME.to_owned()];
        let look = std::mem::take(&mut self.replicas[replica].look);
        self.replicas[replica].look = match look {
            Look::Resting => {
                self.replicas[replica].began = Some(self.now);
                Look::Registration(self.registration.clone())
            }
            Look::Registration(registration) => {
                let Versioned { version: read, content: before } = self.secret.clone();
                let standing = self.standing(replica, &registration.content, &before);
                let step = decide(&before, &names, standing, &self.periods, self.now);
                Look::Decided { registration, read, before, step, now: self.now }
            }
            Look::Decided { registration, before: held, step: Step::Nothing, now, .. } => {
                Look::Written { registration, held, now }
            }
            decided @ Look::Decided { .. } => {
                Look::Ready { decided: Box::new(decided), trusted: self.registration.content.clone() }
            }
            Look::Ready { decided, trusted } => self.write(*decided, &trusted),
            Look::Written { registration, held, now } => {
                if registration.content == held.bundle || self.publish(registration.version, held.bundle.clone()) {
                    Look::Published { registration, held, now }
                } else {
                    Look::Resting
                }
            }
            Look::Published { registration, held, now } => {
                let standing = self.standing(replica, &registration.content, &held);
                let replica = &mut self.replicas[replica];
                let kept = |shown: &Certificate| stays(shown, &held, &names, standing, &self.periods, now);
                if !replica.shown.as_ref().is_some_and(kept) {
                    replica.shown = held.leaf.as_ref().map(|leaf| leaf.certificate().clone());
                }
                self.looked = replica.began.unwrap_or(now).max(self.looked);
                Look::Resting
            }
        };
    }

    fn write(&mut self, decided: Look, trusted: &[Certificate]) -> Look {
        let Look::Decided { registration, read, before, step, now } = decided else { return Look::Resting };
        let held = carry_out(&step, before, trusted, &[NAME.to_owned()], &self.periods, now).unwrap();
        if !self.secret.write(read, held.clone()) {
            return Look::Resting;
        }
        self.switches += u32::from(step == Step::Switch);
        Look::Written { registration, held, now }
    }

    fn publish(&mut self, read: u64, bundle: Vec<Certificate>) -> bool {
        let before = self.registration.content.clone();
        let first = self.registration.write(read, bundle);
        if first {
            self.before.push((before, self.now));
        }
        first
    }

    fn standing(&mut self, replica: usize, published: &[Certificate], held: &Held) -> Option<Duration> {
        let seen = self.replicas[replica].published.take();
        if published != held.bundle {
            return None;
        }
        let since = seen.filter(|(bundle, _)| *bundle == held.bundle).map_or(self.now, |(_, since)| since);
        self.replicas[replica].published = Some((held.bundle.clone(), since));
        Some(Duration::try_from(self.now.duration_since(since)).unwrap_or_default())
    }

    /// A replica is killed and begins anew.
    pub fn restart(&mut self, replica: usize) {
        self.replicas[replica] = Replica::default();
    }

    /// A person asks for a rotation.
    pub fn rotate(&mut self) {
        let Versioned { version, content: held } = self.secret.clone();
        if held.authority.is_some() && held.next.is_none() && held.bundle.len() < MOST_AUTHORITIES {
            let step = Step::Announce(Cause::Asked);
            let held = carry_out(&step, held, &[], &[NAME.to_owned()], &self.periods, self.now).unwrap();
            self.secret.write(version, held);
        }
    }

    /// Somebody changes the Secret's content.
    pub fn damage(&mut self, how: impl FnOnce(&mut BTreeMap<String, ByteString>)) {
        let mut data = self.secret.content.data();
        how(&mut data);
        self.secret.write(self.secret.version, Held::read(&data));
    }

    /// What the Secret holds.
    pub fn held(&self) -> &Held {
        &self.secret.content
    }

    /// Every replica's valid leaf that some API server would turn down.
    pub fn turned_down(&self) -> Vec<String> {
        let bundles = || self.before.iter().map(|(bundle, _)| bundle).chain([&self.registration.content]);
        let shown = self.replicas.iter().filter_map(|replica| replica.shown.as_ref());
        shown
            .filter(|leaf| leaf.is_valid(self.now))
            .flat_map(|leaf| bundles().map(move |bundle| (leaf, bundle)))
            .filter_map(|(leaf, bundle)| {
                let why = leaf.accepted(bundle, NAME, self.now).err()?;
                Some(format!("{leaf:?}, by who trusts {bundle:?}: {why}"))
            })
            .collect()
    }

    /// Whether every replica shows a leaf that is valid.
    pub fn all_show_a_valid_leaf(&self) -> bool {
        self.replicas.iter().all(|replica| replica.shown.as_ref().is_some_and(|leaf| leaf.is_valid(self.now)))
    }
}
