//! What a trigger's metadata asks for.

use powercap_common::policy::PolicyId;

use super::messages::ScaledObjectRef;

/// The one metric.
pub const BUDGET: &str = "budget";
const POLICY: &str = "policy";
const METRIC: &str = "metric";
/// The longest name of an object.
const LONGEST_NAME: usize = 253;
/// What somebody wrote is repeated to this length.
const REPEATED: usize = 64;

/// Why metadata is no question. Each says which key is wrong, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// Nobody is named for whom to reckon.
    #[error(
        "the trigger's metadata lacks `policy`: write the name of a PowerCappingPolicy of the ScaledObject's namespace"
    )]
    NoPolicy,
    /// That is no name of an object.
    #[error(
        "`policy: {0}` is no name of a PowerCappingPolicy: write its name alone, which is looked for in the ScaledObject's namespace"
    )]
    PolicyName(String),
    /// There is no such metric.
    #[error("`metric: {0}` is not known: write `budget`, or leave it out")]
    Metric(String),
    /// Only KEDA sends this.
    #[error("the request names no ScaledObject with its namespace")]
    NoScaledObject,
}

/// The policy whose budget a ScaledObject asks for; always one of its own namespace.
///
/// # Errors
/// When a key is missing or says what nobody can answer.
pub fn policy(asks: &ScaledObjectRef) -> Result<PolicyId, BadQuestion> {
    let metric = asks.scaler_metadata.get(METRIC).map_or(BUDGET, String::as_str);
    if metric != BUDGET {
        return Err(BadQuestion::Metric(repeated(metric)));
    }
    let name = asks.scaler_metadata.get(POLICY).filter(|name| !name.is_empty()).ok_or(BadQuestion::NoPolicy)?;
    if !is_name(name) {
        return Err(BadQuestion::PolicyName(repeated(name)));
    }
    if !is_name(&asks.namespace) {
        return Err(BadQuestion::NoScaledObject);
    }
    Ok(PolicyId { namespace: asks.namespace.clone(), name: name.clone() })
}

/// Refuses metrics that [`policy`] has not been asked for.
///
/// # Errors
/// When it is not the one that there is.
pub fn metric(name: &str) -> Result<(), BadQuestion> {
    if name == BUDGET { Ok(()) } else { Err(BadQuestion::Metric(repeated(name))) }
}

fn is_name(name: &str) -> bool {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(ordinary)
}

fn repeated(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(REPEATED).collect()
}
