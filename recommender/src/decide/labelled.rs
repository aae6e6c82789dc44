//! Which of many labelled things a selector selects, without asking each of them anew.
//!
//! Thousands of pods and hundreds of policies would be millions of comparisons a decision. The things are
//! put in order by a label when a selector first asks for that label; the next one asks only those that
//! have the value.

use std::collections::{BTreeMap, HashMap};

use powercap_common::selector::{Labels, Selector};

/// Things by their labels, in a fixed order.
pub struct Labelled<'a, T> {
    things: Vec<(&'a Labels, T)>,
    by_label: BTreeMap<String, HashMap<&'a str, Vec<usize>>>,
}

impl<'a, T: Copy> Labelled<'a, T> {
    /// Of these things.
    pub fn of(things: impl IntoIterator<Item = (&'a Labels, T)>) -> Self {
        Self { things: things.into_iter().collect(), by_label: BTreeMap::new() }
    }

    /// Those that it selects, in the order of the things.
    pub fn selected(&mut self, selector: &Selector) -> Vec<T> {
        let matching = |(labels, thing): &(&Labels, T)| selector.matches(labels).then_some(*thing);
        let Some((label, values)) = selector.demanded() else {
            return self.things.iter().filter_map(matching).collect();
        };
        if !self.by_label.contains_key(label) {
            let mut by_value = HashMap::<_, Vec<_>>::new();
            for (at, (labels, _)) in self.things.iter().enumerate() {
                if let Some(value) = labels.get(label) {
                    by_value.entry(value.as_str()).or_default().push(at);
                }
            }
            self.by_label.insert(label.to_owned(), by_value);
        }
        let by_value = self.by_label.get(label);
        let having = |value: &String| by_value.and_then(|by_value| by_value.get(value.as_str()));
        let mut candidates: Vec<_> = values.iter().filter_map(having).flatten().copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates.into_iter().filter_map(|at| matching(&self.things[at])).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
    use proptest::prelude::{Strategy, prop, prop_assert_eq, proptest};

    use super::*;

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map("[ab]", "[xyz]", 0..3)
    }

    fn selector() -> impl Strategy<Value = LabelSelector> {
        let operator = prop::sample::select(vec!["In", "NotIn", "Exists", "DoesNotExist"]);
        let expression =
            ("[abc]", operator, prop::collection::vec("[xyz]", 1..3)).prop_map(|(key, operator, values)| {
                let values = if operator.ends_with("In") { values } else { Vec::new() };
                LabelSelectorRequirement { key, operator: operator.to_owned(), values: Some(values) }
            });
        (labels(), prop::collection::vec(expression, 0..3)).prop_map(|(labels, expressions)| LabelSelector {
            match_labels: Some(labels),
            match_expressions: Some(expressions),
        })
    }

    proptest! {
        #[test]
        fn selects_what_asking_each_would(
            things in prop::collection::vec(labels(), 0..20),
            selectors in prop::collection::vec(selector(), 1..5),
        ) {
            let mut labelled = Labelled::of(things.iter().enumerate().map(|(at, labels)| (labels, at)));
            for selector in selectors.iter().filter_map(|selector| Selector::try_from(selector).ok()) {
                let asked: Vec<_> = (0..things.len()).filter(|at| selector.matches(&things[*at])).collect();
                prop_assert_eq!(labelled.selected(&selector), asked);
            }
        }
    }
}
