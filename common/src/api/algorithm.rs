//! How a policy or a domain shares out its watts, and what they may cost: fields that both kinds write alike.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How watts are shared out; docs/algorithms.md has what there is to choose from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlgorithmSpec {
    /// One of `uniform`, `proportional` and `priority`. Any other is told in the condition `Ready`, and what
    /// stands stays.
    #[serde(default = "default_name")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Its parameters, by name; each has a default.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(with = "Parameters")]
    pub parameters: Map<String, Value>,
}

impl Default for AlgorithmSpec {
    fn default() -> Self {
        Self { name: default_name(), parameters: Map::new() }
    }
}

fn default_name() -> String {
    "uniform".to_owned()
}

/// An object whose fields depend on the algorithm: the recommender judges them.
struct Parameters;

impl JsonSchema for Parameters {
    fn schema_name() -> Cow<'static, str> {
        "Parameters".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "maxProperties": 16, "x-kubernetes-preserve-unknown-fields": true})
    }
}
