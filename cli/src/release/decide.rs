//! Which nodes are to be released, and how far each of them is: pure.
//!
//! What must hold: released is what a node's agent says about this very release, not about an earlier
//! one; an agent that has not answered for [`SILENT_AFTER`] is silent, so that one dead node does not hold
//! up the others.

use std::{collections::BTreeMap, fmt, time::Duration};

use powercap_common::{api::NodeFrequencies, condition::kind, reason::Reason};

/// An agent takes up a change of its object within a second; after this it is called silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(30);

/// How far a node is with its release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its devices are back as they were.
    Released,
    /// Its agent is at it; what it says.
    Releasing(String),
    /// Its agent has not taken up the release yet.
    Asked,
    /// Its agent does not answer.
    Silent,
    /// Somebody took the release back.
    Withdrawn,
    /// Its object was deleted, which releases nothing.
    Gone,
}

impl Standing {
    /// Whether there is nothing to wait for any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Released | Self::Silent | Self::Withdrawn | Self::Gone)
    }

    /// Whether the node may still be held by ceilings.
    #[must_use]
    pub const fn may_be_held(&self) -> bool {
        !matches!(self, Self::Released)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Released => f.write_str("released"),
            Self::Releasing(says) if says.is_empty() => f.write_str("not released yet"),
            Self::Releasing(says) => write!(f, "not released yet: {says}"),
            Self::Asked => f.write_str("not released yet: its agent has not answered yet"),
            Self::Silent => f.write_str(
                "not released: its agent does not answer; its limits stand in the hardware until the agent runs \
                 again or the node is rebooted",
            ),
            Self::Withdrawn => f.write_str("not released: somebody set spec.release back to false"),
            Self::Gone => f.write_str(
                "not released: its NodeFrequencies were deleted before its agent said Released, and its limits \
                 stand in the hardware until the node is rebooted",
            ),
        }
    }
}

/// Names without NodeFrequencies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no NodeFrequencies are called {}: nothing caps such a node; `kubectl get nodefrequencies` lists those that there are",
    .0.join(", ")
)]
pub struct NotCapped(pub Vec<String>);

/// The objects of these names; of all when there are none.
///
/// # Errors
/// When a name has no object: then nothing is released.
pub fn chosen<'a>(objects: &'a [NodeFrequencies], names: &[String]) -> Result<Vec<&'a NodeFrequencies>, NotCapped> {
    let by_name: BTreeMap<_, _> = objects.iter().map(|object| (name(object), object)).collect();
    if names.is_empty() {
        return Ok(by_name.into_values().collect());
    }
    let unknown: Vec<_> = names.iter().filter(|name| !by_name.contains_key(name.as_str())).cloned().collect();
    if !unknown.is_empty() {
        return Err(NotCapped(unknown));
    }
    Ok(by_name
        .into_iter()
        .filter(|(name, _)| names.iter().any(|wanted| wanted == name))
        .map(|(_, found)| found)
        .collect())
}

/// How far a node is, `since` its release was asked for.
#[must_use]
pub fn standing(object: Option<&NodeFrequencies>, since: Duration) -> Standing {
    let Some(object) = object else { return Standing::Gone };
    if !object.spec.release {
        return Standing::Withdrawn;
    }
    let status = object.status.as_ref();
    let taken_up = status.and_then(|status| status.observed_generation) >= object.metadata.generation;
    match (taken_up, status) {
        (true, Some(status)) => {
            let ready = status.conditions.iter().find(|condition| condition.type_ == kind::READY);
            match ready {
                Some(ready) if ready.reason == Reason::Released.as_str() => Standing::Released,
                ready => Standing::Releasing(ready.map(|ready| ready.message.clone()).unwrap_or_default()),
            }
        }
        _ if since >= SILENT_AFTER => Standing::Silent,
        _ => Standing::Asked,
    }
}

/// The domains whose caps no longer hold on a node that is released, if any.
#[must_use]
pub fn still_capped_by(object: &NodeFrequencies) -> Option<String> {
    let spec = &object.spec;
    let by_devices = spec.gpu_frequencies.iter().map(|gpu| gpu.set_by.clone());
    let mut by: Vec<_> = spec.domains.iter().map(|domain| format!("powerdomain/{domain}")).chain(by_devices).collect();
    by.sort();
    by.dedup();
    (!by.is_empty()).then(|| by.join(", "))
}

/// The object's name, which is its node's.
#[must_use]
pub fn name(object: &NodeFrequencies) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use powercap_common::{
        api::{GpuCeiling, NodeFrequenciesSpec, NodeFrequenciesStatus},
        condition::{self, Truth},
    };

    use super::*;

    fn node(name: &str, generation: i64, seen: Option<(i64, Reason)>) -> NodeFrequencies {
        let spec = NodeFrequenciesSpec { node_name: name.into(), release: true, ..Default::default() };
        let mut object = NodeFrequencies::new(name, spec);
        object.metadata.generation = Some(generation);
        object.status = seen.map(|(observed, reason)| {
            let mut status =
                NodeFrequenciesStatus { observed_generation: Some(observed), ..NodeFrequenciesStatus::default() };
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
            let conditions = &mut status.conditions;
            condition::set(conditions, kind::READY, Truth::True, reason, "step by step", Some(observed), now);
            status
        });
        object
    }

    #[test]
    fn released_is_what_the_agent_says_about_this_release() {
        let soon = Duration::from_secs(1);
        for (object, expected) in [
            (node("n", 4, Some((4, Reason::Released))), Standing::Released),
            (node("n", 4, Some((3, Reason::Released))), Standing::Asked),
            (node("n", 4, Some((4, Reason::Pending))), Standing::Releasing("step by step".into())),
            (node("n", 4, None), Standing::Asked),
        ] {
            assert_eq!(standing(Some(&object), soon), expected);
        }
        assert_eq!(standing(None, soon), Standing::Gone);
        let mut withdrawn = node("n", 4, Some((4, Reason::Released)));
        withdrawn.spec.release = false;
        assert_eq!(standing(Some(&withdrawn), soon), Standing::Withdrawn);
    }

    #[test]
    fn an_agent_that_never_answers_is_silent_and_not_waited_for() {
        for object in [node("n", 4, Some((3, Reason::Enforcing))), node("n", 4, None)] {
            assert_eq!(standing(Some(&object), SILENT_AFTER), Standing::Silent);
        }
        assert!(Standing::Silent.is_final() && Standing::Silent.may_be_held());
        let at_it = standing(Some(&node("n", 4, Some((4, Reason::Pending)))), SILENT_AFTER);
        assert!(!at_it.is_final(), "an agent that answers is waited for");
        let released = standing(Some(&node("n", 4, Some((4, Reason::Released)))), Duration::MAX);
        assert!(released.is_final() && !released.may_be_held());
    }

    #[test]
    fn a_name_that_has_no_object_releases_nothing() {
        let objects = [node("a", 1, None), node("b", 1, None), node("c", 1, None)];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let chosen = |wanted: &[&str]| {
            chosen(&objects, &names(wanted)).map(|found| found.into_iter().map(name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]), Ok(vec!["a", "b", "c"]));
        assert_eq!(chosen(&["c", "a", "c"]), Ok(vec!["a", "c"]));
        assert_eq!(chosen(&["a", "x", "y"]), Err(NotCapped(names(&["x", "y"]))));
    }

    #[test]
    fn whose_cap_no_longer_holds_is_named_once() {
        let mut object = node("a", 1, None);
        assert_eq!(still_capped_by(&object), None);
        object.spec.domains = vec!["rack".into()];
        let ceiling = GpuCeiling { set_by: "powercappingpolicy/ml/train".into(), ..GpuCeiling::default() };
        object.spec.gpu_frequencies = vec![ceiling.clone(), ceiling];
        assert_eq!(still_capped_by(&object).unwrap(), "powercappingpolicy/ml/train, powerdomain/rack");
    }
}
