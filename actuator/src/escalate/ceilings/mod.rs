//! Ceilings of workloads: no more replicas (Freeze), fewer (Scale), a lower CPU limit (Resize), and back.
//!
//! ```text
//!   a workload ─▶ observe: what stands around it ─▶ bounds: which object bounds its replicas ─▶ replicas: a patch
//!   a pod ──────▶ observe: it, and VPAs ──────────────────────────────────────────────────────▶ resize: two patches
//!                                                        memory: what it was, on the object itself ──▶ apply
//! ```
//!
//! Must hold: what a field was is written down on the object before or with its first change, and never lost; what
//! is put back is what another wrote last, and a field that another changed meanwhile is left as it is. Nothing is
//! raised above what another wrote. Two leaders cannot both change an object.

pub mod apply;
pub mod bounds;
pub mod dial;
pub mod memory;
pub mod observe;
pub mod replicas;
pub mod resize;
pub mod stored;

use powercap_common::reason::Reason;
use serde_json::Value;

/// What to do about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Write this.
    Change(Change),
    /// It is as it should be.
    Stands,
    /// Nothing can be done here, and why: the rung is exhausted as far as this object goes.
    Refused(Hold),
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// In one word.
    pub reason: Reason,
    /// In a sentence.
    pub message: String,
}

impl Hold {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A merge patch, which the API server refuses with a conflict when the object is no longer what was decided on.
///
/// Neither server-side apply nor a JSON patch: an apply that withdraws a field removes it in the place of putting back
/// what it was, and the failed `test` of a JSON patch looks to the caller as a field that was refused does.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The patch, of the object with this UID and resource version alone.
    pub patch: Value,
    /// Why.
    pub reason: Reason,
    /// Which fields change, from what to what: for events and the audit log.
    pub says: String,
}
