//! Algorithms by name, with the schema of their parameters: what a person may write in `spec.algorithm`.
//!
//! The schema that schemars makes of an algorithm's parameters is what they are judged by, and what the
//! page is compared with. All parameters are whole numbers within a range.

use powercap_common::api::AlgorithmSpec;
use schemars::{Schema, schema_for};
use serde_json::{Map, Value};

use super::{Algorithm, Priority, Proportional, Uniform};

/// An algorithm that may be chosen.
pub struct Kind {
    /// As it stands in `spec.algorithm.name`.
    pub name: &'static str,
    /// What its parameters are; `None`: it has none.
    pub schema: Option<fn() -> Schema>,
    make: fn(Value) -> Result<Box<dyn Algorithm>, serde_json::Error>,
}

/// All of them, the default first.
pub const KINDS: [Kind; 3] = [
    Kind { name: "uniform", schema: None, make: |_| Ok(Box::new(Uniform)) },
    Kind {
        name: "proportional",
        schema: Some(|| schema_for!(Proportional)),
        make: |parameters| Ok(Box::new(serde_json::from_value::<Proportional>(parameters)?)),
    },
    Kind {
        name: "priority",
        schema: Some(|| schema_for!(Priority)),
        make: |parameters| Ok(Box::new(serde_json::from_value::<Priority>(parameters)?)),
    },
];

/// Why there is no such algorithm.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
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

/// The algorithm that a person chose.
///
/// # Errors
/// Which field is wrong, and what to write.
pub fn named(spec: &AlgorithmSpec) -> Result<Box<dyn Algorithm>, AlgorithmError> {
    let kind = KINDS.iter().find(|kind| kind.name == spec.name);
    let kind = kind.ok_or_else(|| AlgorithmError::Name { name: spec.name.clone() })?;
    if !spec.parameters.is_empty() {
        kind.judge(&spec.parameters)?;
    }
    (kind.make)(Value::Object(spec.parameters.clone())).map_err(|error| AlgorithmError::Parameters(error.to_string()))
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

fn names() -> String {
    KINDS.map(|kind| kind.name).join(" or ")
}
