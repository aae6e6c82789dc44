//! Messages of KEDA's `externalscaler`, with the field numbers of its `externalscaler.proto`.

use std::collections::HashMap;

use prost::Message;

/// Who asks: a ScaledObject, and what one of its triggers says.
#[derive(Clone, PartialEq, Message)]
pub struct ScaledObjectRef {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// The trigger's metadata.
    #[prost(map = "string, string", tag = "3")]
    pub scaler_metadata: HashMap<String, String>,
}

/// Whether a workload that is at zero is to be woken.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct IsActiveResponse {
    /// Whether.
    #[prost(bool, tag = "1")]
    pub result: bool,
}

/// Which metrics there are.
#[derive(Clone, PartialEq, Message)]
pub struct GetMetricSpecResponse {
    /// The metrics.
    #[prost(message, repeated, tag = "1")]
    pub metric_specs: Vec<MetricSpec>,
}

/// A metric, and how much of it one replica is for.
#[derive(Clone, PartialEq, Message)]
pub struct MetricSpec {
    /// Its name.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// How much, for clients that read no fractions.
    #[prost(int64, tag = "2")]
    pub target_size: i64,
    /// How much.
    #[prost(double, tag = "3")]
    pub target_size_float: f64,
}

/// Asks for a metric.
#[derive(Clone, PartialEq, Message)]
pub struct GetMetricsRequest {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub scaled_object_ref: Option<ScaledObjectRef>,
    /// Which.
    #[prost(string, tag = "2")]
    pub metric_name: String,
}

/// The metric now.
#[derive(Clone, PartialEq, Message)]
pub struct GetMetricsResponse {
    /// Its values.
    #[prost(message, repeated, tag = "1")]
    pub metric_values: Vec<MetricValue>,
}

/// A value.
#[derive(Clone, PartialEq, Message)]
pub struct MetricValue {
    /// Of which metric.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// The value, for clients that read no fractions.
    #[prost(int64, tag = "2")]
    pub metric_value: i64,
    /// The value; read only where it is above zero.
    #[prost(double, tag = "3")]
    pub metric_value_float: f64,
}
