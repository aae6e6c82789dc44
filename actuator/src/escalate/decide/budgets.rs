//! PodDisruptionBudgets, found by the labels that they demand: a namespace may have as many as workloads.

use std::collections::HashMap;

use crate::escalate::observation::{Budget, Observation, PodFacts};

/// Budgets by namespace.
pub(super) struct Budgets<'a>(HashMap<&'a str, Here<'a>>);

/// Those of one: by the label that they demand and its value, where they demand one.
#[derive(Default)]
struct Here<'a> {
    demanding: HashMap<&'a str, HashMap<&'a str, Vec<&'a Budget>>>,
    others: Vec<&'a Budget>,
}

impl<'a> Budgets<'a> {
    pub fn of(seen: &'a Observation) -> Self {
        let mut all: HashMap<_, Here<'a>> = HashMap::new();
        for (namespace, budgets) in &seen.budgets {
            let here = all.entry(namespace.as_str()).or_default();
            for budget in budgets {
                match budget.selector.as_ref().and_then(|selector| selector.demanded()) {
                    Some((key, values)) => values.iter().for_each(|value| {
                        here.demanding.entry(key).or_default().entry(value).or_default().push(budget);
                    }),
                    None => here.others.push(budget),
                }
            }
        }
        Self(all)
    }

    /// Those that select a pod.
    pub fn of_pod<'b>(&'b self, namespace: &str, pod: &'b PodFacts) -> impl Iterator<Item = &'b Budget> + use<'a, 'b> {
        let here = self.0.get(namespace);
        let found = here.into_iter().flat_map(|here| {
            let demanding =
                |(key, value): (&'b String, &'b String)| here.demanding.get(key.as_str())?.get(value.as_str());
            pod.labels.iter().filter_map(demanding).flatten().chain(&here.others).copied()
        });
        found.filter(|budget| budget.selector.as_ref().is_none_or(|selector| selector.matches(&pod.labels)))
    }
}
