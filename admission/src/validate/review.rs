//! A review of an object of ours: what somebody wants to change, and how a verdict on it is told.

use powercap_common::api::{GROUP, PowerCappingPolicy, PowerDomain};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::verdict::Verdict;
use crate::envelope::{self, Answer, Response, Status};

/// A review of an object of ours, whichever it is.
pub type Review = envelope::Review<Value, Value>;
/// What it asks.
pub type Request = envelope::Request<Value, Value>;

/// What somebody wants to change.
#[derive(Debug)]
pub enum Change {
    /// A policy; `old` is what it was, `None` for a new one.
    Policy {
        /// As it is to be.
        new: Box<PowerCappingPolicy>,
        /// As it was.
        old: Option<Box<PowerCappingPolicy>>,
    },
    /// Likewise a domain.
    Domain {
        /// As it is to be.
        new: Box<PowerDomain>,
        /// As it was.
        old: Option<Box<PowerDomain>>,
    },
    /// Nothing that is judged here.
    Nothing,
    /// An object of ours that this version does not understand.
    Unreadable {
        /// Why.
        error: serde_json::Error,
    },
}

impl Change {
    /// What is asked for.
    #[must_use]
    pub fn asked(request: &Request) -> Self {
        let is_write = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
        let (Some(object), GROUP, true) = (&request.object, request.kind.group.as_str(), is_write) else {
            return Self::Nothing;
        };
        let deleted = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
        let old = request.old_object.as_ref().filter(|_| request.operation == "UPDATE");
        let change = match request.kind.kind.as_str() {
            _ if deleted => return Self::Nothing,
            "PowerCappingPolicy" => both(object, old).map(|(new, old)| Self::Policy { new, old }),
            "PowerDomain" => both(object, old).map(|(new, old)| Self::Domain { new, old }),
            _ => return Self::Nothing,
        };
        change.unwrap_or_else(|error| Self::Unreadable { error })
    }
}

type Both<T> = (Box<T>, Option<Box<T>>);

fn both<T: DeserializeOwned>(new: &Value, old: Option<&Value>) -> Result<Both<T>, serde_json::Error> {
    let new = Box::new(T::deserialize(new)?);
    // One that was stored before these rules may be unreadable: then it was another.
    Ok((new, old.and_then(|old| T::deserialize(old).ok()).map(Box::new)))
}

/// The verdict on this request.
#[must_use]
pub fn answer(request: &Request, verdict: Verdict) -> Answer {
    let Verdict { refused, warnings } = verdict;
    let status = refused.map(|message| Status { code: 422, reason: "Invalid", message });
    Answer::from(Response {
        uid: request.uid.clone(),
        allowed: status.is_none(),
        status,
        warnings: envelope::warnings(warnings.into_iter()),
        ..Response::default()
    })
}
