//! The body of an answer to a query, instant or over a range, read as it arrives.
//!
//! Must hold: an answer that is not complete is an error, never an empty one. Of a series' labels only
//! those that somebody asks for are kept; the others become one number, which still tells series apart
//! (8,000 boards with twenty labels each, in a dozen answers, would be hundreds of megabytes).

use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    io::{BufReader, Read},
    marker::PhantomData,
    sync::Arc,
};

use serde::{
    Deserialize,
    de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

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
pub struct SeriesLabels(Box<[(Arc<str>, Box<str>)]>);

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

/// One series over a range of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The labels that were kept.
    pub labels: SeriesLabels,
    /// When each value was evaluated, on Prometheus's clock, in seconds since 1970, and the value.
    pub points: Box<[(f64, f64)]>,
}

/// What an answer holds of each series.
pub trait OfSeries: Sized {
    /// What Prometheus calls a list of them.
    const RESULT_TYPE: &'static str;
    /// Its values as they stand in the answer: pairs of a time and a number.
    type Values: DeserializeOwned;

    /// Of one series with these labels.
    fn of(labels: SeriesLabels, others: u64, values: Self::Values) -> Self;
}

impl OfSeries for Element {
    const RESULT_TYPE: &'static str = "vector";
    type Values = (f64, Number);

    fn of(labels: SeriesLabels, others: u64, (evaluated_at, Number(value)): (f64, Number)) -> Self {
        Self { labels, others, evaluated_at, value }
    }
}

impl OfSeries for Trace {
    const RESULT_TYPE: &'static str = "matrix";
    type Values = Vec<(f64, Number)>;

    fn of(labels: SeriesLabels, _others: u64, values: Self::Values) -> Self {
        Self { labels, points: values.into_iter().map(|(at, Number(value))| (at, value)).collect() }
    }
}

/// A number, which Prometheus writes as text.
pub struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(NumberInText)
    }
}

struct NumberInText;

impl Visitor<'_> for NumberInText {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number as text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
        text.parse().map(Number).map_err(E::custom)
    }
}

/// What tells one series from others.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity<'a>(u64, Vec<&'a (Arc<str>, Box<str>)>);

/// Reads the body of an answer.
///
/// # Errors
/// When it is not complete.
pub fn read<S: OfSeries>(body: impl Read, kept: &Kept) -> Result<Vec<S>, PrometheusError> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(body));
    let unreadable = |error| PrometheusError::ReadAnswer(Box::new(error));
    let answer = json.deserialize_map(AnswerOf(kept, PhantomData)).map_err(unreadable)?;
    json.end().map_err(unreadable)?;
    // Thanos and Mimir warn when some of what should have been asked was not.
    if !answer.warnings.is_empty() {
        return Err(PrometheusError::Partial(answer.warnings.join("; ")));
    }
    let no_data = || PrometheusError::Partial(answer.error.unwrap_or_else(|| "it carries no data".to_owned()));
    answer.elements.ok_or_else(no_data)
}

struct Answer<S> {
    elements: Option<Vec<S>>,
    error: Option<String>,
    warnings: Vec<String>,
}

struct AnswerOf<'k, S>(&'k Kept, PhantomData<S>);

impl<'de, S: OfSeries> Visitor<'de> for AnswerOf<'_, S> {
    type Value = Answer<S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer of Prometheus")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer<S>, A::Error> {
        let mut answer = Answer { elements: None, error: None, warnings: Vec::new() };
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "data" => answer.elements = map.next_value_seed(DataOf(self.0, PhantomData))?,
                "error" => answer.error = map.next_value()?,
                "warnings" => answer.warnings = map.next_value::<Option<_>>()?.unwrap_or_default(),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(answer)
    }
}

struct DataOf<'k, S>(&'k Kept, PhantomData<S>);

impl<'de, S: OfSeries> DeserializeSeed<'de> for DataOf<'_, S> {
    type Value = Option<Vec<S>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, S: OfSeries> Visitor<'de> for DataOf<'_, S> {
    type Value = Option<Vec<S>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", S::RESULT_TYPE)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut is_of_type, mut elements) = (false, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "resultType" => is_of_type = map.next_value::<String>()? == S::RESULT_TYPE,
                "result" => elements = Some(map.next_value_seed(ElementsOf(self.0, PhantomData))?),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        if is_of_type { Ok(elements) } else { Err(A::Error::custom(format!("the result is no {}", S::RESULT_TYPE))) }
    }
}

struct ElementsOf<'k, S>(&'k Kept, PhantomData<S>);

impl<'de, S: OfSeries> DeserializeSeed<'de> for ElementsOf<'_, S> {
    type Value = Vec<S>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de, S: OfSeries> Visitor<'de> for ElementsOf<'_, S> {
    type Value = Vec<S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of series with their values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(ElementOf(self.0, PhantomData))? {
            elements.push(element);
        }
        Ok(elements)
    }
}

struct ElementOf<'k, S>(&'k Kept, PhantomData<S>);

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Field {
    Metric,
    #[serde(alias = "value")]
    Values,
    #[serde(other)]
    Other,
}

impl<'de, S: OfSeries> DeserializeSeed<'de> for ElementOf<'_, S> {
    type Value = S;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<S, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, S: OfSeries> Visitor<'de> for ElementOf<'_, S> {
    type Value = S;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a series with its values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<S, A::Error> {
        let (mut metric, mut values) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Metric => metric = Some(map.next_value_seed(LabelsOf(self.0))?),
                Field::Values => values = Some(map.next_value::<S::Values>()?),
                Field::Other => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        let (labels, others) = metric.ok_or_else(|| A::Error::missing_field("metric"))?;
        let values = values.ok_or_else(|| A::Error::missing_field("values"))?;
        Ok(S::of(labels, others, values))
    }
}

/// Most labels of most series are not kept, so they are hashed where they stand.
struct LabelsOf<'k>(&'k Kept);

impl<'de> DeserializeSeed<'de> for LabelsOf<'_> {
    type Value = (SeriesLabels, u64);

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for LabelsOf<'_> {
    type Value = (SeriesLabels, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut labels, mut others) = (Vec::new(), 0_u64);
        while let Some(name) = map.next_key_seed(NameOf(self.0))? {
            match name {
                LabelName::Kept(name) => labels.push((name, map.next_value()?)),
                LabelName::OfMetric => _ = map.next_value::<IgnoredAny>()?,
                // Added up, so that the order of labels makes no difference.
                LabelName::Other(name) => others = others.wrapping_add(map.next_value_seed(HashAfter(name))?),
            }
        }
        Ok((SeriesLabels(labels.into()), others))
    }
}

enum LabelName {
    Kept(Arc<str>),
    OfMetric,
    /// The hash of its name, to go on with.
    Other(DefaultHasher),
}

struct NameOf<'k>(&'k Kept);

impl<'de> DeserializeSeed<'de> for NameOf<'_> {
    type Value = LabelName;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<LabelName, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for NameOf<'_> {
    type Value = LabelName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a label")
    }

    fn visit_str<E>(self, name: &str) -> Result<LabelName, E> {
        if name == METRIC_NAME {
            return Ok(LabelName::OfMetric);
        }
        let other = || {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            LabelName::Other(hasher)
        };
        Ok(self.0.0.get(name).map_or_else(other, |name| LabelName::Kept(Arc::clone(name))))
    }
}

struct HashAfter(DefaultHasher);

impl<'de> DeserializeSeed<'de> for HashAfter {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<u64, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for HashAfter {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of a label")
    }

    fn visit_str<E>(mut self, value: &str) -> Result<u64, E> {
        value.hash(&mut self.0);
        Ok(self.0.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(labels: &str) -> Element {
        let body = format!(
            r#"{{"status": "success", "data": {{"resultType": "vector",
                "result": [{{"value": [1.5, "2"], "metric": {{{labels}}}}}]}}}}"#
        );
        read(body.as_bytes(), &["UUID"].into_iter().collect()).unwrap().remove(0)
    }

    #[test]
    fn labels_that_are_not_kept_still_tell_series_apart() {
        let one = series(r#""__name__": "power", "UUID": "a", "job": "x", "pod": "y""#);
        assert_eq!((one.labels.get("UUID"), one.labels.get("job")), (Some("a"), None));
        let same = series(r#""pod": "y", "job": "x", "UUID": "a", "__name__": "clock""#);
        assert_eq!(one.identity(None), same.identity(None));
        for other in [
            r#""UUID": "a", "job": "y", "pod": "x""#,
            r#""UUID": "a", "job": "xpody""#,
            r#""UUID": "a", "job": "x""#,
            r#""UUID": "b", "job": "x", "pod": "y""#,
        ] {
            assert_ne!(one.identity(None), series(other).identity(None), "{other}");
        }
        let of_another_board = series(r#""UUID": "b", "job": "x", "pod": "y""#);
        assert_eq!(one.identity(Some("UUID")), of_another_board.identity(Some("UUID")));
    }
}
