//! What Prometheus, exporters, agents and meters do wrong, and what is said of it.

use powercap_common::condition::kind;

use super::scene::{Setting, of};
use crate::prometheus::{Manner, Series, State};

/// A kind of condition, and its status and reason.
pub type Says = (&'static str, &'static str);

/// What is wrong, and what policy and domain have to say of it.
pub type Fault = (&'static str, Box<dyn Fn(&mut State)>, [Says; 2]);

pub const FRESH: Says = (kind::DATA_FRESH, "True DataFresh");
const NONE: Says = (kind::DATA_FRESH, "False NoData");
const STALE: Says = (kind::DATA_FRESH, "False DataStale");
const ABSURD: Says = (kind::DATA_FRESH, "False ImplausibleReading");
pub const AWAY: Says = (kind::DATA_FRESH, "False PrometheusUnavailable");
const NO_METER: Says = (kind::DATA_FRESH, "False MeterUnavailable");
const MISLABELLED: Says = (kind::SOURCES_AGREE, "False NodesDiffer");
const SILENT: Says = (kind::READY, "False AgentSilent");

/// Every fault that can befall what a scene of this setting has, where it begins now.
pub fn all(setting: Setting, began: f64) -> Vec<Fault> {
    let mut faults = faults_of_prometheus();
    if setting.agents {
        faults.extend(faults_of_agents(began));
    } else {
        faults.extend(faults_of_values());
        faults.extend(faults_of_time(began));
        faults.extend(faults_of_series());
    }
    if setting.metered {
        faults.extend(faults_of_meters(began));
    }
    faults
}

fn faults_of_prometheus() -> Vec<Fault> {
    let answers =
        |what, manner, says| -> Fault { (what, Box::new(move |state: &mut State| state.manner = manner), says) };
    vec![
        answers("away", Manner::Away, [AWAY; 2]),
        answers("500", Manner::Status(500), [AWAY; 2]),
        answers("503", Manner::Status(503), [AWAY; 2]),
        answers("cut mid-body", Manner::CutMidBody, [AWAY; 2]),
        answers("partial", Manner::Partial, [AWAY; 2]),
        answers("empty", Manner::Empty, [NONE; 2]),
        ("5 min ahead of us", Box::new(|state| shift(state, 300.0)), [FRESH; 2]),
        ("5 min behind us", Box::new(|state| shift(state, -300.0)), [FRESH; 2]),
    ]
}

/// Another clock at Prometheus, for evaluations and samples alike.
fn shift(state: &mut State, seconds: f64) {
    state.now += seconds;
    state.series.iter_mut().for_each(|series| series.at += seconds);
}

fn faults_of_values() -> Vec<Fault> {
    let power = |what, value: f64| -> Fault {
        let set = move |state: &mut State| of(state, "DCGM_FI_DEV_POWER").for_each(|series| series.value = value);
        (what, Box::new(set), [ABSURD; 2])
    };
    vec![
        power("NaN", f64::NAN),
        power("+Inf", f64::INFINITY),
        power("-Inf", f64::NEG_INFINITY),
        power("negative", -3.0),
        power("10⁹ W", 1e9),
        power("twice what the board can draw", 1400.0),
        (
            "one board NaN",
            Box::new(|state| of(state, "DCGM_FI_DEV_POWER").next().unwrap().value = f64::NAN),
            [ABSURD; 2],
        ),
        (
            "Kepler NaN",
            Box::new(|state| of(state, "kepler").for_each(|series| series.value = f64::NAN)),
            [FRESH, ABSURD],
        ),
    ]
}

fn faults_of_time(began: f64) -> Vec<Fault> {
    let at = |what, at: f64, says| -> Fault {
        (what, Box::new(move |state: &mut State| state.series.iter_mut().for_each(|series| series.at = at)), says)
    };
    let ahead = |state: &mut State| of(state, "DCGM").for_each(|series| series.at += 300.0);
    vec![
        at("20 min old", began - 1200.0, [STALE; 2]),
        at("frozen", began - 1.0, [STALE; 2]),
        ("an exporter's clock 5 min ahead", Box::new(ahead), [ABSURD; 2]),
    ]
}

fn faults_of_series() -> Vec<Fault> {
    let renamed = |what, start: &'static str, says| -> Fault {
        (what, Box::new(move |state: &mut State| of(state, start).for_each(|series| series.name += "_v2")), says)
    };
    vec![
        renamed("power renamed", "DCGM_FI_DEV_POWER", [NONE; 2]),
        renamed("clock renamed", "DCGM_FI_DEV_SM_CLOCK", [NONE, FRESH]),
        renamed("Kepler renamed", "kepler_node", [FRESH, NONE]),
        ("every exporter gone", Box::new(|state| state.series.clear()), [NONE; 2]),
        ("an exporter gone", Box::new(|state| without(state, "DCGM", "n1")), [STALE; 2]),
        ("duplicated", Box::new(duplicate), [FRESH; 2]),
        ("nodes swapped", Box::new(|state| swap(state, "Hostname")), [MISLABELLED; 2]),
        ("pods swapped", Box::new(|state| swap(state, "exported_pod")), [NONE, FRESH]),
        ("pods lost", Box::new(|state| lose_pods(state, 2)), [NONE, FRESH]),
        ("one pod lost", Box::new(|state| lose_pods(state, 1)), [NONE, FRESH]),
    ]
}

fn without(state: &mut State, start: &str, node: &str) {
    let of_node = |series: &Series| series.labels.values().any(|value| value == node);
    state.series.retain(|series| !(series.name.starts_with(start) && of_node(series)));
}

/// A second scrape of the same exporters, which lags.
fn duplicate(state: &mut State) {
    let again = state.series.iter().filter(|series| series.name.starts_with("DCGM")).cloned();
    let again = again.map(|mut series| {
        series.labels.insert("job".to_owned(), "again".to_owned());
        Series { at: series.at - 2.0, ..series }
    });
    let again: Vec<_> = again.collect();
    state.series.extend(again);
}

fn swap(state: &mut State, label: &str) {
    for start in ["DCGM_FI_DEV_POWER", "DCGM_FI_DEV_SM_CLOCK"] {
        let mut both = of(state, start).map(|series| series.labels.get_mut(label).unwrap());
        let (one, other) = (both.next().unwrap(), both.next().unwrap());
        std::mem::swap(one, other);
    }
}

fn swap_agents(state: &mut State) {
    for series in of(state, "powercap_agent") {
        let node = series.labels.get_mut("node").unwrap();
        *node = if node == "n0" { "n1" } else { "n0" }.to_owned();
    }
}

/// The exporter's own pod is all that the labels of the first boards name.
fn lose_pods(state: &mut State, boards: usize) {
    for start in ["DCGM_FI_DEV_POWER", "DCGM_FI_DEV_SM_CLOCK"] {
        of(state, start).take(boards).for_each(|series| series.labels.retain(|name, _| !name.starts_with("exported_")));
    }
}

/// Where agents tell as well, exporters alone may fail.
fn faults_of_agents(began: f64) -> Vec<Fault> {
    let power = |what, start: &'static str, value: f64, says| -> Fault {
        (what, Box::new(move |state: &mut State| of(state, start).for_each(|series| series.value = value)), says)
    };
    let frozen = move |state: &mut State| of(state, "powercap_agent").for_each(|series| series.at = began - 2.0);
    let renamed = |state: &mut State| of(state, "powercap_agent").for_each(|series| series.name += "_v2");
    vec![
        // What an agent does not know it tells so.
        power("agents tell NaN", "powercap_agent_gpu_power", f64::NAN, [FRESH; 2]),
        power("agents tell a negative", "powercap_agent_gpu_power", -3.0, [FRESH; 2]),
        power("agents tell 10⁹ W", "powercap_agent_gpu_power", 1e9, [FRESH; 2]),
        power("agents tell 10⁹ W of CPUs", "powercap_agent_cpu_power", 1e9, [FRESH; 2]),
        power("exporters tell NaN", "DCGM_FI_DEV_POWER", f64::NAN, [FRESH; 2]),
        (
            "all tell NaN",
            Box::new(|state| state.series.iter_mut().for_each(|series| series.value = f64::NAN)),
            [ABSURD; 2],
        ),
        ("agents frozen", Box::new(frozen), [FRESH, SILENT]),
        ("agents renamed", Box::new(renamed), [FRESH, SILENT]),
        ("agents' nodes swapped", Box::new(swap_agents), [MISLABELLED; 2]),
        ("an agent gone", Box::new(|state| without(state, "powercap_agent", "n1")), [FRESH, SILENT]),
    ]
}

fn faults_of_meters(began: f64) -> Vec<Fault> {
    let tells = |what, value: f64| -> Fault {
        let set = move |state: &mut State| of(state, "pdu").for_each(|series| series.value = value);
        (what, Box::new(set), [FRESH, NO_METER])
    };
    let at = |what, at: f64| -> Fault {
        let set = move |state: &mut State| of(state, "pdu").for_each(|series| series.at = at);
        (what, Box::new(set), [FRESH, NO_METER])
    };
    let second = |state: &mut State| {
        let meter = of(state, "pdu").next().unwrap().clone();
        let labels = [("feed".to_owned(), "b".to_owned())].into();
        state.series.push(Series { labels, ..meter });
    };
    vec![
        tells("the meter tells NaN", f64::NAN),
        tells("the meter tells infinity", f64::INFINITY),
        tells("the meter tells a negative", -3.0),
        tells("the meter tells 10⁹ W", 1e9),
        at("the meter is 20 min old", began - 1200.0),
        at("the meter is frozen", began - 1.0),
        at("the meter's clock is ahead", began + 3600.0),
        ("a second meter", Box::new(second), [FRESH, NO_METER]),
        (
            "the meter is gone",
            Box::new(|state| state.series.retain(|series| series.name != "pdu_watts")),
            [FRESH, NO_METER],
        ),
    ]
}
