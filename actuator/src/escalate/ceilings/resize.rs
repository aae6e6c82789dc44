//! Resize: CPU limits of one pod, in place, and back. Pure.
//!
//! Only containers that have a limit, since one that was added in place could not be taken away again. Never below
//! what is requested or recommended, never memory. The resize subresource drops all but resources, so what the limits
//! were is written by a patch of its own: before they are lowered, and taken away after they are back.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use powercap_common::{api::PowerScope, quantity::Quantity, reason::Reason};
use serde_json::{Value, json};

use super::{
    Hold,
    memory::{self, By, Memory, TRIES, Was},
    stored::{Stored, put},
};

/// The one dial of a pod.
const CPU: &str = "cpu";

/// What to do about a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodVerdict {
    /// Write these, one after the other, each on what the one before left.
    Change(PodChange),
    /// It is as it should be.
    Stands,
    /// Nothing can be done here, and why.
    Refused(Hold),
}

/// A change of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodChange {
    /// In this order.
    pub steps: [Step; 2],
    /// Why.
    pub reason: Reason,
    /// Which limits change.
    pub says: String,
}

/// A write to a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A merge patch of its annotation.
    Remember(Value),
    /// A strategic merge patch of its subresource `resize`.
    Resize(Value),
}

/// Whether the rung is for this pod at all.
///
/// # Errors
/// The policy counts no CPU power, or a VerticalPodAutoscaler sets what we would.
pub fn permitted(scope: PowerScope, vpas: &[Value], kind: &str, name: &str) -> Result<(), Hold> {
    if scope != PowerScope::DevicesAndHost {
        let message = "the policy counts no CPU power; powerScope DevicesAndHost does";
        return Err(Hold::new(Reason::NothingToLower, message));
    }
    let is = |vpa: &Value, pointer: &str, word: &str| vpa.pointer(pointer).and_then(Value::as_str) == Some(word);
    let sets = |vpa: &&Value| {
        let mode = vpa.pointer("/spec/updatePolicy/updateMode").and_then(Value::as_str);
        let ours = is(vpa, "/spec/targetRef/kind", kind) && is(vpa, "/spec/targetRef/name", name);
        ours && !matches!(mode, Some("Off" | "Initial"))
    };
    match vpas.iter().find(sets) {
        Some(_) => {
            Err(Hold::new(Reason::AutoscaledByVpa, format!("a VerticalPodAutoscaler sets cpu of {kind} {name}")))
        }
        None => Ok(()),
    }
}

/// Lowers the limits to what is requested, or recommended by container, whichever is more.
#[must_use]
pub fn lower(pod: &Stored, recommended: &BTreeMap<String, Quantity>, by: &By<'_>, now: Timestamp) -> PodVerdict {
    let mut memory = match Memory::of(pod.annotation(memory::ANNOTATION)) {
        Ok(found) => found.unwrap_or_else(|| Memory::new(now)),
        Err(hold) => return PodVerdict::Refused(hold),
    };
    memory.reverts += u32::from(memory.yield_to_others(pod));
    if memory.reverts >= TRIES {
        let message = format!("something else changed the CPU limits back {} times", memory.reverts);
        return PodVerdict::Refused(Hold::new(Reason::Contested, message));
    }
    memory.note(by, pod);
    let mut limits = BTreeMap::new();
    for (at, container) in containers(pod) {
        let pointer = limit_of(at);
        let recommended = name(container).and_then(|name| recommended.get(name)).copied();
        if let Some(lowest) = lowest(container, recommended) {
            limits.insert(at, lowest.clone());
            let was = Was { original: pod.at(&pointer).clone(), set: lowest };
            let held = memory.dials.entry(CPU.to_owned()).or_default();
            held.fields.entry(pointer).and_modify(|held| held.set.clone_from(&was.set)).or_insert(was);
        }
    }
    if limits.is_empty() {
        let message = "no container has a CPU limit above what it requests or should have";
        return PodVerdict::Refused(Hold::new(Reason::NothingToLower, message));
    }
    let steps = [Step::Remember(remember(&memory)), Step::Resize(resize(pod, &limits))];
    PodVerdict::Change(PodChange { steps, reason: Reason::ResizedDown, says: says(pod, &limits) })
}

/// Puts back the limits that are still ours.
#[must_use]
pub fn restore(pod: &Stored) -> PodVerdict {
    let mut memory = match Memory::of(pod.annotation(memory::ANNOTATION)) {
        Ok(Some(found)) => found,
        Ok(None) => return PodVerdict::Stands,
        Err(hold) => return PodVerdict::Refused(hold),
    };
    memory.yield_to_others(pod);
    let fields = memory.dials.remove(CPU).unwrap_or_default().fields;
    let original = |at: usize| Some((at, fields.get(&limit_of(at))?.original.clone()));
    let limits = containers(pod).filter_map(|(at, _)| original(at)).collect();
    let steps = [Step::Resize(resize(pod, &limits)), Step::Remember(remember(&memory))];
    PodVerdict::Change(PodChange { steps, reason: Reason::CeilingRestored, says: says(pod, &limits) })
}

/// The lowest limit that a container may have, when it is lower than the one that it has.
fn lowest(container: &Value, recommended: Option<Quantity>) -> Option<Value> {
    let amount = |pointer: &str| container.pointer(pointer)?.as_str()?.parse::<Quantity>().ok();
    let limit = amount("/resources/limits/cpu")?.ceil_millis();
    let requested = amount("/resources/requests/cpu")?.max(recommended.unwrap_or_default()).ceil_millis();
    let policies = container.get("resizePolicy").and_then(Value::as_array);
    let restarts = policies.into_iter().flatten().any(|policy| {
        policy.get("resourceName") == Some(&json!("cpu"))
            && policy.get("restartPolicy") == Some(&json!("RestartContainer"))
    });
    // A thousandth above: a pod whose limits are all its requests is of another QoS class, which no resize may make.
    let lowest = requested + 1;
    (lowest < limit && !restarts).then(|| Value::String(cores(lowest)))
}

/// As the API server writes it.
fn cores(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

fn containers(pod: &Stored) -> impl Iterator<Item = (usize, &Value)> {
    pod.at("/spec/containers").as_array().into_iter().flatten().enumerate()
}

fn name(container: &Value) -> Option<&str> {
    container.get("name").and_then(Value::as_str)
}

/// The order of a pod's containers never changes.
fn limit_of(at: usize) -> String {
    format!("/spec/containers/{at}/resources/limits/cpu")
}

fn remember(memory: &Memory) -> Value {
    let mut patch = Value::Null;
    put(&mut patch, memory::POINTER, memory.annotation());
    patch
}

fn resize(pod: &Stored, limits: &BTreeMap<usize, Value>) -> Value {
    let changed = containers(pod).filter_map(|(at, container)| {
        Some(json!({"name": name(container)?, "resources": {"limits": {"cpu": limits.get(&at)?}}}))
    });
    json!({"spec": {"containers": changed.collect::<Vec<_>>()}})
}

fn says(pod: &Stored, limits: &BTreeMap<usize, Value>) -> String {
    let shown = |(at, limit): (&usize, &Value)| {
        let before = pod.text(&limit_of(*at)).unwrap_or("unset");
        format!("cpu limit {before} → {}", limit.as_str().unwrap_or("unset"))
    };
    limits.iter().map(shown).collect::<Vec<_>>().join(", ")
}
