//! The truth beside the objects: what each node may be drawing under what it was told, whoever told it.
//!
//! A domain NAME is that of the nodes labelled `rack: NAME`. A node counts from its first acknowledgement on,
//! with its highest grant since the last.

use std::collections::BTreeMap;

use serde_json::Value;

use super::store::{Key, epoch};

/// The account.
#[derive(Default)]
pub struct Ledger {
    /// Grants since the acknowledged one, with it.
    promised: BTreeMap<String, Vec<u64>>,
    /// Writes that raised what is committed above a cap, and epochs that went back.
    pub violations: Vec<String>,
}

impl Ledger {
    /// An object was stored.
    pub fn written(&mut self, old: Option<&Value>, new: &Value, objects: &BTreeMap<Key, Value>) {
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        let grant = new["spec"]["powerLimitWatts"].as_u64().unwrap_or(u64::from(u32::MAX));
        if old.is_some_and(|old| epoch(old) > epoch(new)) {
            self.violations.push(format!("the epoch of {name} went back"));
        }
        let acknowledged = &new["status"]["acknowledged"];
        if acknowledged["epoch"] == new["spec"]["epoch"] && !acknowledged.is_null() {
            self.promised.insert(name.to_owned(), vec![grant]);
            return;
        }
        if old.is_some_and(|old| old["spec"] == new["spec"]) {
            return;
        }
        let domain = rack(name, objects).and_then(|rack| objects.get_key_value(&Key::of("powerdomains", rack)));
        let before = domain.map(|(key, _)| self.committed(&key.name, objects));
        if let Some(promised) = self.promised.get_mut(name) {
            promised.push(grant);
        }
        if let Some(((key, domain), before)) = domain.zip(before) {
            let after = self.committed(&key.name, objects);
            let cap = domain["spec"]["powerCapLimitWatts"].as_u64().unwrap_or_default();
            if after > before && after > cap {
                let violation = format!("{name} was granted {grant} W: {after} W are committed under a cap of {cap} W");
                self.violations.push(violation);
            }
        }
    }

    /// An object is gone, and what its node may draw with it.
    pub fn deleted(&mut self, node: &str) {
        self.promised.remove(node);
    }

    /// What the nodes of a domain may be drawing together.
    pub fn committed(&self, domain: &str, objects: &BTreeMap<Key, Value>) -> u64 {
        let members = self.promised.iter().filter(|(node, _)| rack(node, objects) == Some(domain));
        members.filter_map(|(_, grants)| grants.iter().max()).sum()
    }
}

fn rack<'a>(node: &str, objects: &'a BTreeMap<Key, Value>) -> Option<&'a str> {
    objects.get(&Key::of("nodes", node))?["metadata"]["labels"]["rack"].as_str()
}
