//! The rung Migrate beside its decisions ([`mod@super::decide`]): what is seen of nodes and places, the placeholder pod,
//! and the writes.

pub mod apply;
pub mod facts;
pub mod observe;
pub mod placeholder;
