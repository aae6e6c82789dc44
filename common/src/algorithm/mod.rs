//! Algorithms by name, with the schema of their parameters: what a person may write in `spec.algorithm`.
//!
//! The schema that schemars makes of an algorithm's parameters is what they are judged by, and what the
//! page is compared with. All parameters are whole numbers within a range. How an algorithm shares watts out is
//! the recommender's affair.

mod parameters;

use schemars::{Schema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use self::parameters::{Priority, Proportional};
use crate::api::AlgorithmSpec;

/// An algorithm that a person chose, with parameters that it can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Everyone the same.
    #[default]
    Uniform,
    /// Who draws more gets more.
    Proportional(Proportional),
    /// The higher first.
    Priority(Priority),
}

/// An algorithm that may be chosen.
pub struct Kind {
    /// As it stands in `spec.algorithm.name`.
    pub name: &'static str,
    /// What its parameters are; `None`: it has none.
    pub schema: Option<fn() -> Schema>,
    choose: fn(Value) -> Result<Choice, serde_json::Error>,
}

/// All of them, the default first.
pub const KINDS: [Kind; 3] = [
    Kind { name: "uniform", schema: None, choose: |_| Ok(Choice::Uniform) },
    Kind {
        name: "proportional",
        schema: Some(|| schema_for!(Proportional)),
        choose: |parameters| read(parameters).map(Choice::Proportional),
    },
    Kind {
        name: "priority",
        schema: Some(|| schema_for!(Priority)),
        choose: |parameters| read(parameters).map(Choice::Priority),
    },
];

/// Why there is no such algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlgorithmError {
    /// A name that none has.
    #[error("spec.algorithm.name is {name:?}; write {}", names())]
    Name {
        /// As written.
        name: String,
    },
    /// A parameter that it has not.
    #[error("spec.algorithm.parameters.{parameter} is no parameter of {algorithm}, which takes {takes}")]
    Parameter {
        /// The algorithm.
        algorithm: &'static str,
        /// As written.
        parameter: String,
        /// Its parameters.
        takes: String,
    },
    /// A value that the parameter cannot have.
    #[error("spec.algorithm.parameters.{parameter} is {value}; write a whole number from {least} to {most}")]
    Value {
        /// The parameter.
        parameter: String,
        /// As written.
        value: String,
        /// The lowest.
        least: u64,
        /// The highest.
        most: u64,
    },
    /// What the schema allows and the algorithm does not take.
    #[error("spec.algorithm.parameters: {0}")]
    Parameters(String),
}

impl TryFrom<&AlgorithmSpec> for Choice {
    type Error = AlgorithmError;

    fn try_from(spec: &AlgorithmSpec) -> Result<Self, AlgorithmError> {
        let kind = KINDS.iter().find(|kind| kind.name == spec.name);
        let kind = kind.ok_or_else(|| AlgorithmError::Name { name: spec.name.clone() })?;
        if !spec.parameters.is_empty() {
            kind.judge(&spec.parameters)?;
        }
        let parameters = Value::Object(spec.parameters.clone());
        (kind.choose)(parameters).map_err(|error| AlgorithmError::Parameters(error.to_string()))
    }
}

impl Kind {
    /// The parameters' schemas, by name.
    #[must_use]
    pub fn parameters(&self) -> Map<String, Value> {
        let schema = self.schema.map(|schema| schema());
        schema.and_then(|schema| schema.get("properties")?.as_object().cloned()).unwrap_or_default()
    }

    fn judge(&self, written: &Map<String, Value>) -> Result<(), AlgorithmError> {
        let parameters = self.parameters();
        for (name, value) in written {
            let Some(schema) = parameters.get(name) else {
                let takes: Vec<_> = parameters.keys().map(String::as_str).collect();
                let takes = if takes.is_empty() { "none".to_owned() } else { takes.join(" and ") };
                return Err(AlgorithmError::Parameter { algorithm: self.name, parameter: name.clone(), takes });
            };
            let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
            let (least, most) = (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(u32::MAX.into()));
            if !value.as_u64().is_some_and(|value| (least..=most).contains(&value)) {
                let (parameter, value) = (name.clone(), value.to_string());
                return Err(AlgorithmError::Value { parameter, value, least, most });
            }
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(parameters: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(parameters)
}

fn names() -> String {
    KINDS.map(|kind| kind.name).join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_no_algorithm_takes_is_refused_with_the_field_and_the_mend() {
        for (spec, says) in [
            (
                json!({"name": "optimal"}),
                r#"spec.algorithm.name is "optimal"; write uniform or proportional or priority"#,
            ),
            (
                json!({"name": "proportional", "parameters": {"headroom": 1}}),
                "spec.algorithm.parameters.headroom is no parameter of proportional, which takes deadbandPercent and headroomPercent",
            ),
            (json!({"parameters": {"reservedPercent": 1}}), "is no parameter of uniform, which takes none"),
            (
                json!({"name": "priority", "parameters": {"reservedPercent": 101}}),
                "spec.algorithm.parameters.reservedPercent is 101; write a whole number from 0 to 100",
            ),
            (json!({"name": "priority", "parameters": {"reservedPercent": -1}}), "is -1; write a whole number"),
            (json!({"name": "priority", "parameters": {"reservedPercent": "5"}}), r#"is "5"; write a whole number"#),
        ] {
            let spec: AlgorithmSpec = serde_json::from_value(spec).unwrap();
            let error = Choice::try_from(&spec).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn parameters_that_are_not_written_have_their_defaults() {
        for (spec, choice) in [
            (json!({}), Choice::Uniform),
            (json!({"name": "proportional"}), Choice::Proportional(Proportional::default())),
            (
                json!({"name": "priority", "parameters": {"reservedPercent": 50}}),
                Choice::Priority(Priority { reserved_percent: 50 }),
            ),
        ] {
            let spec: AlgorithmSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(Choice::try_from(&spec), Ok(choice));
        }
    }
}
