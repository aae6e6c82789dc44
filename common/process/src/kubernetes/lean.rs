//! Objects that are read without their managed fields: the larger half of what an API server sends of most, trees of
//! maps when they are read, and nothing that a cache is asked for.
//!
//! Must hold: all else of an object is read as it would be otherwise.

use std::{borrow::Cow, fmt};

use kube::{Resource, core::ObjectMeta};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor},
    forward_to_deserialize_any,
};

/// An object without its managed fields.
#[derive(Clone, Debug)]
pub struct Lean<K>(pub K);

impl<'de, K: Deserialize<'de>> Deserialize<'de> for Lean<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        K::deserialize(Reading { of: deserializer, place: Place::Object }).map(Self)
    }
}

impl<K: Resource> Resource for Lean<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

/// Where in an object it is read.
#[derive(Clone, Copy)]
enum Place {
    Object,
    Metadata,
}

/// Whoever takes part in reading, at a place.
struct Reading<T> {
    of: T,
    place: Place,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reading<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.of.deserialize_map(Reading { of: visitor, place: self.place })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.of.deserialize_option(Reading { of: visitor, place: self.place })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Reading<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.expecting(formatter)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<V::Value, M::Error> {
        self.of.visit_map(Fields { map, place: self.place, is_metadata: false })
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.of.visit_some(Reading { of: deserializer, place: self.place })
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.of.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.of.visit_unit()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Reading<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.of.deserialize(Reading { of: deserializer, place: self.place })
    }
}

/// The fields of an object, or of its metadata.
struct Fields<M> {
    map: M,
    place: Place,
    /// Whether the value that comes next is the object's metadata.
    is_metadata: bool,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Fields<M> {
    type Error = M::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, M::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            match (self.place, key.as_str()) {
                (Place::Metadata, "managedFields") => _ = self.map.next_value::<IgnoredAny>()?,
                (place, name) => {
                    self.is_metadata = matches!((place, name), (Place::Object, "metadata"));
                    return seed.deserialize(key.into_deserializer()).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, M::Error> {
        if self.is_metadata {
            self.map.next_value_seed(Reading { of: seed, place: Place::Metadata })
        } else {
            self.map.next_value_seed(seed)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use kube::core::PartialObjectMeta;
    use serde_json::{Value, from_value, json};

    #[derive(Debug, PartialEq, Deserialize)]
    struct Thing {
        #[serde(default)]
        metadata: Option<ObjectMeta>,
        #[serde(default)]
        spec: Value,
        status: Option<Value>,
    }

    /// Managed fields where they belong, and things that are only called so.
    fn thing(managed: Value) -> Value {
        let others = json!({"managedFields": ["mine"], "metadata": {"managedFields": 1}});
        let mut thing = json!({
            "apiVersion": "example.com/v1", "kind": "Thing", "spec": others, "status": null,
            "metadata": {"name": "a", "labels": {"managedFields": "b"}, "generation": 3},
        });
        if !managed.is_null() {
            thing["metadata"]["managedFields"] = managed;
        }
        thing
    }

    fn managed() -> Value {
        json!([{"manager": "kubectl", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {".": {}}}}])
    }

    #[test]
    fn all_is_read_but_managed_fields() {
        let lean: Lean<Thing> = from_value(thing(managed())).unwrap();
        assert_eq!(lean.0, from_value(thing(Value::Null)).unwrap());
        assert_eq!(lean.0.spec["managedFields"], json!(["mine"]));
        let text = thing(managed()).to_string();
        assert_eq!(serde_json::from_str::<Lean<Thing>>(&text).unwrap().0, lean.0, "from text");
    }

    #[test]
    fn managed_fields_may_be_anything_since_nobody_reads_them() {
        for managed in [json!("none"), json!([[{}]]), json!({"a": null})] {
            let lean: Lean<Thing> = from_value(thing(managed)).unwrap();
            assert_eq!(lean.0, from_value(thing(Value::Null)).unwrap());
        }
    }

    #[test]
    fn metadata_alone_is_read_likewise() {
        let lean: Lean<PartialObjectMeta<Thing>> = from_value(thing(managed())).unwrap();
        assert_eq!((lean.0.metadata.name.as_deref(), lean.0.metadata.managed_fields), (Some("a"), None));
        assert_eq!(lean.0.types.unwrap().kind, "Thing");
    }

    #[test]
    fn what_is_missing_or_wrong_stays_so() {
        assert_eq!(from_value::<Lean<Thing>>(json!({"metadata": null})).unwrap().0.metadata, None);
        assert_eq!(from_value::<Lean<Thing>>(json!({})).unwrap().0.metadata, None);
        let error = from_value::<Lean<Thing>>(json!({"metadata": {"name": 1}})).unwrap_err().to_string();
        assert!(error.contains("expected a string"), "{error}");
        assert!(from_value::<Lean<Thing>>(json!("thing")).is_err());
    }
}
