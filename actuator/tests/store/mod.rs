//! An API server's store for one object: applies merge patches as RFC 7396 says, refuses stale ones, and counts
//! versions.

use powercap_actuator::escalate::ceilings::{Change, stored::Stored};
use serde_json::{Value, json};

pub struct Store {
    pub object: Stored,
}

impl Store {
    pub fn new(mut object: Stored) -> Self {
        object.value["metadata"]["uid"] = json!("u-1");
        object.value["metadata"]["resourceVersion"] = json!("1");
        Self { object }
    }

    /// Whether it was accepted.
    pub fn patch(&mut self, change: &Change) -> bool {
        let unchanged = |field: &str| change.patch["metadata"][field] == self.object.value["metadata"][field];
        let accepted = unchanged("uid") && unchanged("resourceVersion");
        if accepted {
            merge(&mut self.object.value, &change.patch);
            self.step();
        }
        accepted
    }

    /// Another writes a field.
    pub fn edit(&mut self, pointer: &str, value: Value) {
        *self.object.value.pointer_mut(pointer).expect("the field is there") = value;
        self.step();
    }

    fn step(&mut self) {
        let metadata = &mut self.object.value["metadata"];
        let version: u64 = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
        metadata["resourceVersion"] = json!((version + 1).to_string());
        // A map without entries is not stored.
        if metadata["annotations"].as_object().is_some_and(serde_json::Map::is_empty) {
            metadata.as_object_mut().unwrap().remove("annotations");
        }
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key.as_str()], value);
        }
    }
}
