//! `kubectl powercap`: what people do with power caps beside editing them.
//!
//! It shares the API's types with the components and reaches them through the API server alone, with the
//! rights of the person who calls it. Before it changes anything it says where.
#![forbid(unsafe_code)]

pub mod caps;
pub mod doctor;
pub mod explain;
pub mod flags;
pub mod mend;
pub mod pending;
pub mod release;
pub mod rows;
pub mod table;
pub mod target;
pub mod top;
pub mod violators;
