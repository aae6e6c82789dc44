//! The objects behind the API server: versions, server-side apply, the rules that the recommender relies on.
//!
//! Field ownership is kept for each field of `spec` and of `status`, not of what is within them: what the
//! recommender applies has one owner down to its leaves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use serde_json::{Map, Value, json};

use super::ledger::Ledger;

/// Changes that a watch can still begin at.
const KEPT: usize = 20_000;

/// Where an object is: the plural of its kind, its namespace and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub plural: String,
    pub namespace: Option<String>,
    pub name: String,
}

impl Key {
    /// An object of the cluster.
    pub fn of(plural: &str, name: &str) -> Self {
        Self { plural: plural.into(), namespace: None, name: name.into() }
    }
}

/// One change, as a watch tells it.
#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub plural: String,
    pub kind: &'static str,
    pub object: Value,
}

/// Who writes what, and how.
pub struct Apply<'a> {
    pub manager: &'a str,
    pub force: bool,
    /// `spec` or `status`.
    pub section: &'static str,
}

/// A refusal: its status, its reason, and why.
#[derive(Debug)]
pub struct Refusal(pub u16, pub &'static str, pub String);

/// The objects.
#[derive(Default)]
pub struct Store {
    objects: BTreeMap<Key, Value>,
    owners: BTreeMap<Key, BTreeMap<String, BTreeSet<String>>>,
    changes: VecDeque<Change>,
    forgotten: u64,
    version: u64,
    pub ledger: Ledger,
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// The objects of a kind, by namespace and name, those after `key` alone.
    pub fn after<'a>(&'a self, plural: &'a str, key: Option<&'a Key>) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        let first = key.cloned().map_or_else(|| Bound::Included(Key::of(plural, "")), Bound::Excluded);
        self.objects.range((first, Bound::Unbounded)).take_while(move |(at, _)| at.plural == plural)
    }

    /// What changed of a kind after this version; `None` when that is too long ago.
    pub fn since(&self, plural: &str, version: u64) -> Option<Vec<Change>> {
        let seen = self.changes.partition_point(|change| change.version <= version);
        let later = self.changes.range(seen..).filter(|change| change.plural == plural);
        (version >= self.forgotten).then(|| later.cloned().collect())
    }

    /// From now on no watch can begin before this moment.
    pub fn forget(&mut self) {
        self.forgotten = self.version + 1;
        self.version += 1;
        self.changes.clear();
    }

    /// An object as it is made or replaced by a person or a controller.
    pub fn put(&mut self, key: &Key, object: Value) -> Result<Value, Refusal> {
        let old = self.objects.get(key);
        let (given, known) =
            (&object["metadata"]["resourceVersion"], old.map(|old| &old["metadata"]["resourceVersion"]));
        if given.is_string() && known != Some(given) {
            return Err(conflict(format!("{} has another version", key.name)));
        }
        Ok(self.store(key, object))
    }

    /// Deletes an object, and with a node what is owned by it.
    pub fn delete(&mut self, key: &Key) -> Option<Value> {
        let object = self.objects.remove(key)?;
        self.owners.remove(key);
        self.note(key, "DELETED", object.clone());
        let uid = object["metadata"]["uid"].clone();
        let owned = |(at, other): (&Key, &Value)| {
            let owners = other["metadata"]["ownerReferences"].as_array()?;
            owners.iter().any(|owner| owner["uid"] == uid).then(|| at.clone())
        };
        let owned: Vec<_> = self.objects.iter().filter_map(owned).collect();
        owned.iter().for_each(|key| drop(self.delete(key)));
        Some(object)
    }

    /// Server-side apply of `patch` to one section.
    pub fn apply(&mut self, key: &Key, patch: &Value, apply: &Apply<'_>) -> Result<Value, Refusal> {
        let Apply { manager, force, section } = *apply;
        let old = self.objects.get(key);
        let given = &patch["metadata"]["resourceVersion"];
        if given.is_string() && old.map(|old| &old["metadata"]["resourceVersion"]) != Some(given) {
            return Err(conflict(format!("{} has another version", key.name)));
        }
        if section == "status" && old.is_none() {
            return Err(Refusal(404, "NotFound", key.name.clone()));
        }
        let empty = Map::new();
        let wanted = patch[section].as_object().unwrap_or(&empty);
        let mut object = old.cloned().unwrap_or_else(|| json!({"metadata": {"name": key.name}}));
        let owners = self.owners.entry(key.clone()).or_default();
        let named = |field: &String| format!("{section}.{field}");
        for (field, value) in wanted.iter().filter(|(field, value)| object[section].get(field) != Some(value)) {
            let others = owners.iter_mut().filter(|(other, _)| other.as_str() != manager);
            for (other, fields) in others.filter(|(_, fields)| fields.contains(&named(field))) {
                if !force {
                    return Err(conflict(format!("{other} owns {section}.{field}; wanted {value}")));
                }
                fields.remove(&named(field));
            }
        }
        let mine = owners.remove(manager).unwrap_or_default();
        let mut fields = object[section].as_object().cloned().unwrap_or_default();
        let others: BTreeSet<_> = owners.values().flatten().cloned().collect();
        let dropped = |field: &String| mine.contains(&named(field)) && !wanted.contains_key(field);
        fields.retain(|field, _| !dropped(field) || others.contains(&named(field)));
        fields.extend(wanted.clone());
        let kept = mine.into_iter().filter(|field| !field.starts_with(section));
        owners.insert(manager.to_owned(), kept.chain(wanted.keys().map(named)).collect());
        object[section] = Value::Object(fields);
        for given in ["apiVersion", "kind"] {
            object[given] = patch[given].clone();
        }
        if let Some(references) = patch["metadata"].get("ownerReferences") {
            object["metadata"]["ownerReferences"] = references.clone();
        }
        if key.plural == "nodefrequencies" && old.is_some_and(|old| epoch(old) > epoch(&object)) {
            return Err(Refusal(422, "Invalid", format!("{}: epoch must never go back", key.name)));
        }
        if old == Some(&object) {
            return Ok(object);
        }
        Ok(self.store(key, object))
    }

    /// A merge patch, whose lists replace what is there.
    pub fn merge(&mut self, key: &Key, patch: &Value) -> Result<Value, Refusal> {
        let old = self.objects.get(key).ok_or_else(|| Refusal(404, "NotFound", key.name.clone()))?;
        let mut object = old.clone();
        merge(&mut object, patch);
        self.put(key, object)
    }

    fn store(&mut self, key: &Key, mut object: Value) -> Value {
        self.version += 1;
        let old = self.objects.get(key);
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        let first = |field: &str, value: Value| old.map_or(value, |old| old["metadata"][field].clone());
        metadata["uid"] = first("uid", json!(format!("uid-{}", self.version)));
        metadata["creationTimestamp"] = first("creationTimestamp", json!("2026-11-22T07:00:00Z"));
        let generation = old.map_or(0, |old| old["metadata"]["generation"].as_u64().unwrap_or_default());
        let same = old.is_some_and(|old| old["spec"] == object["spec"]);
        object["metadata"]["generation"] = json!(if same { generation } else { generation + 1 });
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let before = old.cloned();
        self.objects.insert(key.clone(), object.clone());
        if key.plural == "nodefrequencies" {
            self.ledger.written(before.as_ref(), &object, &self.objects);
        }
        self.note(key, kind, object.clone());
        object
    }

    fn note(&mut self, key: &Key, kind: &'static str, object: Value) {
        if kind == "DELETED" {
            self.version += 1;
            if key.plural == "nodefrequencies" {
                self.ledger.deleted(&key.name);
            }
        }
        self.changes.push_back(Change { version: self.version, plural: key.plural.clone(), kind, object });
        if self.changes.len() > KEPT {
            self.forgotten = self.changes.pop_front().map_or(self.forgotten, |change| change.version);
        }
    }
}

/// The epoch in an object's spec.
pub fn epoch(object: &Value) -> (i64, i64) {
    let epoch = &object["spec"]["epoch"];
    (epoch["term"].as_i64().unwrap_or_default(), epoch["sequence"].as_i64().unwrap_or_default())
}

fn conflict(message: String) -> Refusal {
    Refusal(409, "Conflict", message)
}

fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (field, value) in patch {
        merge(&mut object[field], value);
    }
    if let Some(object) = object.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
}
