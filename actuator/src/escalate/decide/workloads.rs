//! Pods that stand for each other: those of one controller.

use std::collections::HashMap;

use powercap_common::target::Controller;

use crate::escalate::observation::{Observation, PodFacts};

/// Pods by their namespace and controller.
pub(super) struct Workloads<'a>(HashMap<(&'a str, &'a str, &'a str), Vec<&'a PodFacts>>);

impl<'a> Workloads<'a> {
    pub fn of(seen: &'a Observation) -> Self {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for (name, pod) in &seen.pods {
            if let Some(Controller { kind, name: controller }) = &pod.controller {
                let key = (name.namespace.as_str(), kind.as_str(), controller.as_str());
                all.entry(key).or_default().push(&**pod);
            }
        }
        Self(all)
    }

    /// The pods of a controller.
    pub fn pods<'b>(&'b self, namespace: &'b str, controller: &'b Controller) -> &'b [&'b PodFacts] {
        let key = (namespace, controller.kind.as_str(), controller.name.as_str());
        self.0.get(&key).map(Vec::as_slice).unwrap_or_default()
    }
}
