//! The webhook's certificates: an authority of its own, made at first start and agreed on by all replicas, leaves
//! signed by it, and rotation without a gap.
//!
//! ```text
//!   Secret ──▶ held ──▶ decide (pure) ──▶ carry_out ──▶ Secret          agreed on by resourceVersion
//!                                             │
//!                                             ├──▶ caBundle of the webhook configurations, read by API servers
//!                                             └──▶ Identity, shown from the next handshake on
//! ```
//! Must hold: whatever server shows a leaf that is still valid, every bundle that an API server may be holding
//! verifies it. Hence the order of a rotation: a new authority is published beside the present one, and only when
//! that has stood long enough does it sign; the old one leaves the bundle when no leaf of it can be valid.
#![forbid(unsafe_code)]

pub mod authority;
pub mod carry_out;
pub mod certificate;
pub mod decide;
pub mod files;
pub mod flags;
pub mod held;
pub mod identity;
pub mod inspect;
pub mod keeper;
pub mod periods;

pub use identity::{Identity, PerHandshake};
pub use keeper::{Own, Registrations, Source, keep};
pub use periods::Periods;
