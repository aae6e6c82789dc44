//! How many replicas the watts are enough for.
//!
//! Must hold: never more than the watts are enough for, save the one replica below which nobody scales by power; and
//! what is not known is no number.

use crate::{decide::Replicas, observation::Hold};

/// Fewer than one is not asked for: whether a workload runs at all is not a question of power.
const LEAST: u64 = 1;

/// The replicas that the watts of a policy are enough for.
///
/// # Errors
/// When a part of what it is reckoned from is not known, with the reason.
pub fn budget(replicas: &Result<Replicas, Hold>) -> Result<u32, Hold> {
    let replicas = replicas.as_ref().map_err(Clone::clone)?;
    let enough_for = replicas.available.as_milliwatts() / replicas.each.as_milliwatts().max(1);
    Ok(u32::try_from(enough_for.max(LEAST)).unwrap_or(u32::MAX))
}
