//! Liveness and readiness as facts that the loops report, not as a constant "ok".

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What is known of a process's health; clones share it.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pulses: BTreeMap<&'static str, (Instant, Duration)>,
    waiting_for: BTreeMap<&'static str, String>,
}

/// A loop's sign of life.
#[derive(Clone)]
pub struct Pulse {
    health: Health,
    name: &'static str,
}

/// One thing that the process needs in order to be ready.
#[derive(Clone)]
pub struct Readiness {
    health: Health,
    name: &'static str,
}

impl Health {
    /// A loop that must beat at least every `allowed`, counted from now.
    #[must_use]
    pub fn pulse(&self, name: &'static str, allowed: Duration) -> Pulse {
        self.state().pulses.insert(name, (Instant::now(), allowed));
        Pulse { health: self.clone(), name }
    }

    /// A need that is not met yet.
    #[must_use]
    pub fn needs(&self, name: &'static str, waiting_for: impl Into<String>) -> Readiness {
        self.state().waiting_for.insert(name, waiting_for.into());
        Readiness { health: self.clone(), name }
    }

    /// The loops that have not beaten for their allowed time; none means alive.
    #[must_use]
    pub fn stalled(&self) -> Vec<String> {
        self.state()
            .pulses
            .iter()
            .filter(|(_, (beaten, allowed))| beaten.elapsed() > *allowed)
            .map(|(name, (beaten, _))| format!("{name}: no progress for {} s", beaten.elapsed().as_secs()))
            .collect()
    }

    /// The needs that are not met; none means ready.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        self.state().waiting_for.iter().map(|(name, what)| format!("{name}: {what}")).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    /// The loop has made progress.
    pub fn beat(&self) {
        if let Some((beaten, _)) = self.health.state().pulses.get_mut(self.name) {
            *beaten = Instant::now();
        }
    }
}

impl Readiness {
    /// The need is met.
    pub fn met(&self) {
        self.health.state().waiting_for.remove(self.name);
    }

    /// The need is not met (any more).
    pub fn lost(&self, waiting_for: impl Into<String>) {
        self.health.state().waiting_for.insert(self.name, waiting_for.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stops_beating_is_stalled() {
        let health = Health::default();
        let pulse = health.pulse("loop", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(health.stalled().len(), 1);
        let patient = health.pulse("loop", Duration::from_secs(3600));
        assert!(health.stalled().is_empty());
        pulse.beat();
        patient.beat();
        assert!(health.stalled().is_empty());
    }

    #[test]
    fn readiness_names_what_is_missing() {
        let health = Health::default();
        let nodes = health.needs("nodes", "first list of nodes");
        assert_eq!(health.waiting_for(), ["nodes: first list of nodes"]);
        nodes.met();
        assert!(health.waiting_for().is_empty());
        nodes.lost("watch ended");
        assert_eq!(health.waiting_for(), ["nodes: watch ended"]);
    }
}
