//! Label selectors, as Kubernetes evaluates them, and never empty: what selects everything by mistake
//! would cap everything by mistake.

mod text;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Labels of a pod or a node.
pub type Labels = BTreeMap<String, String>;

/// A selector that names at least one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

/// Why a selector cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It would select everything.
    #[error("names no label; write for example matchLabels: {{app: llm}}")]
    Empty,
    /// An operator that Kubernetes does not know.
    #[error("operator {operator:?} of key {key:?} is unknown; write In, NotIn, Exists or DoesNotExist")]
    Operator {
        /// The expression's key.
        key: String,
        /// As written.
        operator: String,
    },
    /// `In` or `NotIn` without values, or `Exists` or `DoesNotExist` with some.
    #[error("operator {operator} of key {key:?} {mend}")]
    Values {
        /// The expression's key.
        key: String,
        /// As written.
        operator: String,
        /// What to write.
        mend: &'static str,
    },
    /// A requirement in text form that nobody understands.
    #[error("requirement {requirement:?} cannot be read; as text a selector looks like app=chat,tier in (gold,iron)")]
    Text {
        /// As written.
        requirement: String,
    },
}

impl Selector {
    /// Whether these labels meet every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }

    /// A label that whatever is selected has, and the values of it that will do; `None` where the selector
    /// demands none in so many words.
    #[must_use]
    pub fn demanded(&self) -> Option<(&str, &[String])> {
        self.0.iter().find_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((key.as_str(), values.as_slice())),
            _ => None,
        })
    }
}

impl TryFrom<&LabelSelector> for Selector {
    type Error = SelectorError;

    fn try_from(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<_> =
            labels.map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()])).collect();
        for expression in selector.match_expressions.iter().flatten() {
            requirements.push(requirement(expression)?);
        }
        if requirements.is_empty() { Err(SelectorError::Empty) } else { Ok(Self(requirements)) }
    }
}

fn requirement(expression: &LabelSelectorRequirement) -> Result<Requirement, SelectorError> {
    let key = expression.key.clone();
    let values = expression.values.clone().unwrap_or_default();
    let wrong = |mend| SelectorError::Values { key: key.clone(), operator: expression.operator.clone(), mend };
    match (expression.operator.as_str(), values.is_empty()) {
        ("In", false) => Ok(Requirement::In(key, values)),
        ("NotIn", false) => Ok(Requirement::NotIn(key, values)),
        ("Exists", true) => Ok(Requirement::Exists(key)),
        ("DoesNotExist", true) => Ok(Requirement::DoesNotExist(key)),
        ("In" | "NotIn", true) => Err(wrong("needs at least one value")),
        ("Exists" | "DoesNotExist", false) => Err(wrong("takes no values")),
        (operator, _) => Err(SelectorError::Operator { operator: operator.to_owned(), key }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selector(json: serde_json::Value) -> Result<Selector, SelectorError> {
        Selector::try_from(&serde_json::from_value::<LabelSelector>(json).unwrap())
    }

    #[test]
    fn selects_as_kubernetes_does() {
        let labels: Labels = [("app", "chat"), ("tier", "gold")].map(|(k, v)| (k.into(), v.into())).into();
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (json, expected) in [
            (json!({"matchLabels": {"app": "chat"}}), true),
            (json!({"matchLabels": {"app": "chat", "tier": "iron"}}), false),
            (expression("tier", "In", &["iron", "gold"]), true),
            (expression("zone", "In", &["a"]), false),
            (expression("tier", "NotIn", &["gold"]), false),
            (expression("zone", "NotIn", &["a"]), true),
            (expression("tier", "Exists", &[]), true),
            (expression("tier", "DoesNotExist", &[]), false),
        ] {
            assert_eq!(selector(json.clone()).unwrap().matches(&labels), expected, "{json}");
        }
    }

    #[test]
    fn refuses_what_selects_everything_or_nothing_certain() {
        assert_eq!(selector(json!({})), Err(SelectorError::Empty));
        for (operator, values) in [("In", json!([])), ("Exists", json!(["a"])), ("Near", json!(["a"]))] {
            let json = json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]});
            assert!(selector(json).is_err(), "{operator}");
        }
    }
}
