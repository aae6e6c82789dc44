//! The body of an answer to an instant query, read as it arrives.
//!
//! Must hold: an answer that is not complete is an error, never an empty vector. Of a series' labels only
//! those that somebody asks for are kept; the others become one number, which still tells series apart
//! (8,000 boards with twenty labels each, in a dozen answers, would be hundreds of megabytes).

use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    io::{BufReader, Read},
    sync::Arc,
};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::prometheus::PrometheusError;

/// The label that holds the metric's own name.
const METRIC_NAME: &str = "__name__";

/// The names of the labels that are kept.
#[derive(Clone, Debug, Default)]
pub struct Kept(BTreeSet<Arc<str>>);

impl<N: Into<Arc<str>>> FromIterator<N> for Kept {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

/// Labels of one series that were kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesLabels(Vec<(Arc<str>, Box<str>)>);

impl SeriesLabels {
    /// The value of a label.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }
}

impl<N: Into<Arc<str>>, V: Into<Box<str>>> FromIterator<(N, V)> for SeriesLabels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(labels: I) -> Self {
        Self(labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// The labels that were kept.
    pub labels: SeriesLabels,
    /// Stands for all other labels; equal for two series that differ in their metric's name alone.
    pub others: u64,
    /// When the query was evaluated, on Prometheus's clock, in seconds since 1970.
    pub evaluated_at: f64,
    /// The value; NaN and infinities are passed on as they are.
    pub value: f64,
}

impl Element {
    /// What tells the series from others, whatever its metric is called and whatever the label `but` says.
    #[must_use]
    pub fn identity<'a>(&'a self, but: Option<&str>) -> Identity<'a> {
        let mut labels: Vec<_> = self.labels.0.iter().filter(|(name, _)| Some(&**name) != but).collect();
        labels.sort_unstable();
        Identity(self.others, labels)
    }
}

/// What tells one series from others.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity<'a>(u64, Vec<&'a (Arc<str>, Box<str>)>);

/// Reads the body of an answer to an instant query.
///
/// # Errors
/// When it is not a complete vector.
pub fn read(body: impl Read, kept: &Kept) -> Result<Vec<Element>, PrometheusError> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(body));
    let unreadable = |error| PrometheusError::ReadAnswer(Box::new(error));
    let answer = json.deserialize_map(AnswerOf(kept)).map_err(unreadable)?;
    json.end().map_err(unreadable)?;
    // Thanos and Mimir warn when some of what should have been asked was not.
    if !answer.warnings.is_empty() {
        return Err(PrometheusError::Partial(answer.warnings.join("; ")));
    }
    let no_data = || PrometheusError::Partial(answer.error.unwrap_or_else(|| "it carries no data".to_owned()));
    answer.elements.ok_or_else(no_data)
}

#[derive(Default)]
struct Answer {
    elements: Option<Vec<Element>>,
    error: Option<String>,
    warnings: Vec<String>,
}

struct AnswerOf<'k>(&'k Kept);

impl<'de> Visitor<'de> for AnswerOf<'_> {
    type Value = Answer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer of Prometheus")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer, A::Error> {
        let mut answer = Answer::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "data" => answer.elements = map.next_value_seed(DataOf(self.0))?,
                "error" => answer.error = map.next_value()?,
                "warnings" => answer.warnings = map.next_value::<Option<_>>()?.unwrap_or_default(),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(answer)
    }
}

struct DataOf<'k>(&'k Kept);

impl<'de> DeserializeSeed<'de> for DataOf<'_> {
    type Value = Option<Vec<Element>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DataOf<'_> {
    type Value = Option<Vec<Element>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an instant vector")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut is_vector, mut elements) = (false, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "resultType" => is_vector = map.next_value::<String>()? == "vector",
                "result" => elements = Some(map.next_value_seed(ElementsOf(self.0))?),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        if is_vector { Ok(elements) } else { Err(A::Error::custom("the result is no vector")) }
    }
}

struct ElementsOf<'k>(&'k Kept);

impl<'de> DeserializeSeed<'de> for ElementsOf<'_> {
    type Value = Vec<Element>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ElementsOf<'_> {
    type Value = Vec<Element>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of series with a value each")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(series) = seq.next_element::<Series>()? {
            elements.push(series.element(self.0).map_err(A::Error::custom)?);
        }
        Ok(elements)
    }
}

#[derive(serde::Deserialize)]
struct Series {
    metric: std::collections::BTreeMap<String, Box<str>>,
    value: (f64, String),
}

impl Series {
    fn element(self, kept: &Kept) -> Result<Element, std::num::ParseFloatError> {
        let (mut labels, mut others) = (Vec::new(), 0_u64);
        for (name, value) in self.metric {
            if let Some(name) = kept.0.get(name.as_str()) {
                labels.push((Arc::clone(name), value));
            } else if name != METRIC_NAME {
                let mut hasher = DefaultHasher::new();
                (name, value).hash(&mut hasher);
                others = others.wrapping_add(hasher.finish());
            }
        }
        let (evaluated_at, value) = (self.value.0, self.value.1.parse()?);
        Ok(Element { labels: SeriesLabels(labels), others, evaluated_at, value })
    }
}
