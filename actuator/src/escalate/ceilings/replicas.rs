//! Freeze and Scale: how a dial is turned, and turned back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use powercap_common::reason::Reason;
use serde_json::{Value, json};

use super::{
    Change, Hold, Verdict,
    bounds::Bound,
    dial::{Dial, dials},
    memory::{self, By, Held, Memory, TRIES, Was},
    stored::{Stored, put},
};

/// What is wished of a workload's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// No more than there are.
    Freeze,
    /// So many fewer; never below one.
    Lower(u32),
    /// What was set, again, where another undid it.
    Keep,
    /// So many more again, up to what a freeze leaves.
    Raise(u32),
    /// All as it was.
    Lift,
}

/// Decides for an object that bounds replicas.
#[must_use]
pub fn decide(bound: &Bound<'_>, wish: Wish, by: &By<'_>, now: Timestamp) -> Verdict {
    let found = match Memory::of(bound.object.annotation(memory::ANNOTATION)) {
        Ok(found) => found,
        Err(hold) => return Verdict::Refused(hold),
    };
    let mut memory = found.clone().unwrap_or_else(|| Memory::new(now));
    let overruled = memory.yield_to_others(bound.object);
    let reason = match wish {
        Wish::Raise(_) | Wish::Lift => Reason::CeilingRestored,
        Wish::Freeze => Reason::Frozen,
        Wish::Lower(_) | Wish::Keep => Reason::ScaledDown,
    };
    if reason != Reason::CeilingRestored {
        memory.reverts += u32::from(overruled);
        if memory.reverts >= TRIES {
            return Verdict::Refused(contested(bound.object, memory.reverts));
        }
        memory.note(by, bound.object);
    }
    if matches!(wish, Wish::Lower(_)) {
        memory.lowered = Some(now);
    }
    if let Err(hold) = turn(&mut memory, bound, wish) {
        return Verdict::Refused(hold);
    }
    let written = write(bound.object, &mut memory);
    if written.is_empty() && found.as_ref().map_or(Value::Null, Memory::annotation) == memory.annotation() {
        return Verdict::Stands;
    }
    Verdict::Change(change(bound.object, &memory, written, reason))
}

/// Decides what of ours is put back, when `wish` is to raise or to lift.
#[must_use]
pub fn restore(object: &Stored, wish: Wish) -> Verdict {
    decide(&Bound::alone(object), wish, &By::default(), Timestamp::UNIX_EPOCH)
}

/// How many replicas the workload may lose.
#[must_use]
pub fn to_spare(bound: &Bound<'_>) -> u32 {
    dials(bound.object).iter().map(|dial| running(dial, bound).saturating_sub(1)).max().unwrap_or_default()
}

fn contested(object: &Stored, reverts: u32) -> Hold {
    let (_, _, kind) = object.kind.names();
    let message = format!("something else changed {kind} {} back {reverts} times", object.name());
    Hold::new(Reason::Contested, message)
}

/// Sets how far each dial is to be turned.
fn turn(memory: &mut Memory, bound: &Bound<'_>, wish: Wish) -> Result<(), Hold> {
    let dials = dials(bound.object);
    match wish {
        Wish::Keep => {}
        Wish::Freeze => {
            for dial in dials.iter().filter(|dial| dial.grows) {
                let held = memory.dials.entry(dial.name.to_owned()).or_default();
                let (fewest, _) = dial.range(|pointer| original(held, bound.object, pointer));
                held.freeze.get_or_insert(bound.current(dial).max(fewest).max(1));
            }
        }
        Wish::Lower(by) => {
            let running = |dial: &&&Dial| running(dial, bound);
            // Of two the larger; of two alike the one that prefills, whose work is the shorter.
            let dial = dials.iter().max_by_key(running).filter(|dial| running(dial) > 1);
            let nothing = || Hold::new(Reason::NothingToLower, "it runs one replica, or none");
            let dial = dial.ok_or_else(nothing)?;
            let held = memory.dials.entry(dial.name.to_owned()).or_default();
            let before = running(&dial);
            held.from.get_or_insert(before);
            held.scale = Some(before.saturating_sub(by).max(1));
        }
        Wish::Raise(by) => {
            for dial in dials {
                let Some(held) = memory.dials.get_mut(dial.name) else { continue };
                let raised = held.scale.map(|scale| scale.saturating_add(by));
                let within = held.from.unwrap_or(0).min(held.freeze.unwrap_or(u32::MAX));
                // What another changed is not ours to raise.
                let ours = held.fields.contains_key(dial.maximum);
                held.scale = raised.filter(|raised| *raised < within && ours);
                held.from = held.from.filter(|_| held.scale.is_some());
            }
        }
        Wish::Lift => {
            for held in memory.dials.values_mut() {
                (held.freeze, held.scale, held.from) = (None, None, None);
            }
        }
    }
    Ok(())
}

/// How many there are, or may be, whichever is less.
fn running(dial: &Dial, bound: &Bound<'_>) -> u32 {
    let (_, most) = dial.range(|pointer| bound.object.at(pointer).clone());
    bound.current(dial).min(most)
}

/// What a field is without us.
fn original(held: &Held, object: &Stored, pointer: &str) -> Value {
    held.fields.get(pointer).map_or_else(|| object.at(pointer).clone(), |was| was.original.clone())
}

/// What the fields must be as the dials are turned, those that differ; and remembers what they were.
fn write(object: &Stored, memory: &mut Memory) -> BTreeMap<String, Value> {
    let mut written = BTreeMap::new();
    for dial in dials(object) {
        let Some(held) = memory.dials.get_mut(dial.name) else { continue };
        let wanted = wanted(dial, held, object);
        let places: BTreeSet<String> =
            held.fields.keys().cloned().chain(wanted.keys().map(ToString::to_string)).collect();
        for place in places {
            let original = original(held, object, &place);
            let value = match wanted.get(place.as_str()) {
                Some(set) => {
                    held.fields.insert(place.clone(), Was { original, set: set.clone() });
                    set.clone()
                }
                None => {
                    held.fields.remove(&place);
                    original
                }
            };
            if *object.at(&place) != value {
                written.insert(place, value);
            }
        }
    }
    memory.dials.retain(|_, held| !held.fields.is_empty());
    written
}

fn wanted(dial: &Dial, held: &Held, object: &Stored) -> BTreeMap<&'static str, Value> {
    let without_us = |pointer: &str| original(held, object, pointer);
    // Where growth can be paused, the maximum is left to Scale.
    let frozen = held.freeze.filter(|_| dial.pause.is_none());
    let most = frozen.into_iter().chain(held.scale).min();
    let mut wanted = most.map(|most| dial.bounded(most, without_us)).unwrap_or_default();
    let paused = json!("true");
    if let Some(pause) = dial.pause.filter(|pause| held.freeze.is_some() && without_us(pause) != paused) {
        wanted.insert(pause, paused);
    }
    wanted
}

fn change(object: &Stored, memory: &Memory, written: BTreeMap<String, Value>, reason: Reason) -> Change {
    let mut patch = object.precondition();
    put(&mut patch, memory::POINTER, memory.annotation());
    let mut says = Vec::new();
    for (pointer, value) in written {
        let field = pointer.rsplit('/').next().unwrap_or_default().replace("~1", "/");
        says.push(format!("{field} {} → {}", shown(object.at(&pointer)), shown(&value)));
        put(&mut patch, &pointer, value);
    }
    Change { patch, reason, says: says.join(", ") }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
