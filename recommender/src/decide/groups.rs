//! Devices that work in step: those of one pod, or of the ranks of one job, on whatever nodes.

use std::{collections::BTreeMap, fmt};

use super::{
    fleet::{Board, Fleet},
    index::Index,
};
use crate::observation::PodFacts;

/// Whose devices work in step.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Who<'a> {
    namespace: &'a str,
    job: Option<&'a str>,
    /// Where it is of no job.
    pod: Option<&'a str>,
}

impl<'a> Who<'a> {
    fn of(pod: &'a PodFacts) -> Self {
        let job = pod.job.as_deref();
        Self { namespace: &pod.name.namespace, job, pod: job.is_none().then_some(&pod.name.name) }
    }
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.job {
            Some(job) => write!(f, "{}/{job}", self.namespace),
            None => write!(f, "{}/Pod/{}", self.namespace, self.pod.unwrap_or_default()),
        }
    }
}

/// The group of each GPU that is in one.
pub struct Groups {
    names: Vec<String>,
    /// By the boards' places.
    of: Vec<Option<u32>>,
}

impl Groups {
    /// A GPU that pods of several jobs share is in no group.
    pub fn of(fleet: &Fleet<'_>) -> Self {
        let mut gpus_of = Index::<Who<'_>, Vec<usize>>::default();
        let mut several = BTreeMap::new();
        for board in &fleet.boards {
            let mut of = fleet.tenants_of(board).map(|pod| Who::of(pod.facts));
            let Some(who) = of.next() else { continue };
            if of.all(|other| other == who) {
                let gpus = gpus_of.entry(who).or_default();
                gpus.push(board.at);
                if gpus.len() == 2 {
                    several.insert(who.to_string(), who);
                }
            }
        }
        let mut groups = Self { names: Vec::new(), of: vec![None; fleet.boards.len()] };
        for (number, (name, who)) in (0..).zip(several) {
            groups.names.push(name);
            for &at in gpus_of.get(&who).into_iter().flatten() {
                groups.of[at] = Some(number);
            }
        }
        groups
    }

    /// Its group's number.
    pub fn number(&self, board: &Board<'_>) -> Option<u32> {
        self.of[board.at]
    }

    /// Its group's name, as nodes are told.
    pub fn name(&self, board: &Board<'_>) -> Option<&str> {
        let number = usize::try_from(self.number(board)?).ok()?;
        self.names.get(number).map(String::as_str)
    }
}
