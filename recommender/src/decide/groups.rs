//! Devices that work in step: those of one pod, or of the ranks of one job, on whatever nodes.

use std::collections::BTreeMap;

use super::fleet::Fleet;
use crate::observation::{Observation, PodName};

/// The group of each GPU that is in one.
#[derive(Default)]
pub struct Groups<'a> {
    names: Vec<String>,
    of: BTreeMap<&'a str, u32>,
}

impl<'a> Groups<'a> {
    /// A GPU that pods of several jobs share is in no group.
    pub fn of(fleet: &Fleet<'a>, observation: &'a Observation) -> Self {
        let mut gpus_of = BTreeMap::<String, Vec<&str>>::new();
        for (uuid, reading) in &observation.telemetry.gpus {
            let tenants = fleet.running_tenants(reading);
            let mut names = tenants.iter().filter_map(|tenant| fleet.pods.get(tenant)).map(|pod| {
                let PodName { namespace, name } = &pod.name;
                pod.job.as_ref().map_or_else(|| format!("{namespace}/Pod/{name}"), |job| format!("{namespace}/{job}"))
            });
            let Some(group) = names.next() else { continue };
            if names.all(|other| other == group) {
                gpus_of.entry(group).or_default().push(uuid);
            }
        }
        let mut groups = Self::default();
        for (number, (name, gpus)) in (0..).zip(gpus_of.into_iter().filter(|(_, gpus)| gpus.len() > 1)) {
            groups.names.push(name);
            groups.of.extend(gpus.into_iter().map(|uuid| (uuid, number)));
        }
        groups
    }

    /// Its group's number.
    pub fn number(&self, uuid: &str) -> Option<u32> {
        self.of.get(uuid).copied()
    }

    /// Its group's name, as nodes are told.
    pub fn name(&self, uuid: &str) -> Option<&str> {
        let number = usize::try_from(self.number(uuid)?).ok()?;
        self.names.get(number).map(String::as_str)
    }
}
