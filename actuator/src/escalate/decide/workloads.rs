//! Pods that stand for each other: those of one controller, or of one JobSet.

use std::collections::HashMap;

use powercap_common::target::{Controller, JOB_SET};

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
                if let Some(set) = pod.labels.get(JOB_SET) {
                    all.entry((name.namespace.as_str(), "JobSet", set)).or_default().push(&**pod);
                }
            }
        }
        Self(all)
    }

    /// The pods of a controller, or of a JobSet.
    pub fn pods<'b>(&'b self, namespace: &'b str, controller: &'b Controller) -> &'b [&'b PodFacts] {
        let key = (namespace, controller.kind.as_str(), controller.name.as_str());
        self.0.get(&key).map(Vec::as_slice).unwrap_or_default()
    }
}
