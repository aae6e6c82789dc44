//! Whatever Prometheus, the exporters, the agents and the meters do, nothing is raised, the condition says what is
//! wrong within 30 s (or three collection intervals), and once it is over everything is as before within the same
//! time, all that is said included, and nothing is written any more.
//!
//! A Prometheus on a real socket misbehaves; everything from the query to the plan is the recommender's own, and time
//! is simulated.

mod faults;
mod scene;

use std::{collections::BTreeMap, time::Duration};

use powercap_common::api::{Epoch, NodeFrequenciesSpec};

use self::{
    faults::{AWAY, FRESH, Fault},
    scene::{PLAIN, SILENT_ROUNDS, Scene, Setting, agents_tell, of},
};
use crate::prometheus::{Manner, State};

/// Nothing stands higher than before, and nothing is released.
fn assert_nothing_raised(before: &BTreeMap<String, NodeFrequenciesSpec>, scene: &Scene, fault: &str) {
    let now = scene.specs();
    assert_eq!(before.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>(), "{fault}");
    let raised = |before: Option<u32>, now: Option<u32>| now.unwrap_or(u32::MAX) > before.unwrap_or(u32::MAX);
    for (node, before) in before {
        let now = &now[node];
        assert!(!now.release && !raised(before.power_limit_watts, now.power_limit_watts), "{fault}: {node}");
        for before in &before.gpu_frequencies {
            let stands = now.gpu_frequencies.iter().find(|gpu| gpu.uuid == before.uuid);
            let stands = stands.unwrap_or_else(|| panic!("{fault}: {} has no ceiling any more", before.uuid));
            assert!(!raised(before.power_limit_watts, stands.power_limit_watts), "{fault}: {stands:?}");
            assert!(!raised(before.max_graphics_megahertz, stands.max_graphics_megahertz), "{fault}: {stands:?}");
        }
        for before in &before.cpu_frequencies {
            let stands = now.cpu_frequencies.iter().find(|cpu| cpu.cpufreq_policy == before.cpufreq_policy);
            let stands = stands.unwrap_or_else(|| panic!("{fault}: a CPU of {node} has no ceiling any more"));
            assert!(stands.max_megahertz <= before.max_megahertz, "{fault}: {stands:?}");
        }
    }
}

/// The claims on one fault, from a settled scene.
async fn survives(scene: &mut Scene, (what, fault, says): &Fault) {
    let what = &format!("{what}, {:?}", scene.setting);
    let (before, conditions) = (scene.specs(), scene.conditions());
    let kinds = says.map(|(kind, _)| kind);
    let (says, most) = (says.map(|(_, says)| says), scene.setting.rounds_to_say_so());
    let mut said = None;
    for round in 0..most + 6 {
        let plan = scene.round(fault).await;
        assert_nothing_raised(&before, scene, what);
        if scene.says_of(kinds) == says {
            said.get_or_insert(round);
        }
        assert!(
            said.is_none_or(|said| said == round) || plan.is_empty(),
            "{what}: said again: {:#?}",
            (plan.nodes, plan.policies, plan.domains)
        );
    }
    assert_eq!(scene.says_of(kinds), says, "{what}");
    assert!(said.unwrap() < most, "{what}: said after {said:?} rounds");
    // Readings are forgotten, and nothing with them.
    scene.world.pass(600);
    for _ in 0..3 {
        scene.round(fault).await;
        assert_nothing_raised(&before, scene, what);
    }
    if says.iter().all(|says| *says != FRESH.1) {
        for (node, spec) in scene.specs() {
            assert!(
                spec.offer_watts <= before[&node].offer_watts,
                "{what}: {node} offers what nobody knows to be free"
            );
        }
    }
    heals(scene, &before, what).await;
    assert_eq!(scene.conditions(), conditions, "{what}: all that is said is as before");
}

/// What new pods are offered follows what the present ones are expected to draw, and that falls with time.
fn without_offer(spec: NodeFrequenciesSpec) -> NodeFrequenciesSpec {
    NodeFrequenciesSpec {
        offer_watts: None,
        requested_watts: None,
        committed_offer_watts: None,
        epoch: Epoch::default(),
        ..spec
    }
}

async fn heals(scene: &mut Scene, before: &BTreeMap<String, NodeFrequenciesSpec>, what: &str) {
    for _ in 0..scene.setting.rounds_to_say_so() {
        scene.round(|_| {}).await;
        assert_nothing_raised(before, scene, what);
    }
    assert_eq!(scene.says(), [FRESH.1; 2], "{what}: healed");
    let kept = |specs: BTreeMap<String, NodeFrequenciesSpec>| -> BTreeMap<_, _> {
        specs.into_iter().map(|(node, spec)| (node, without_offer(spec))).collect()
    };
    assert_eq!(kept(scene.specs()), kept(before.clone()), "{what}: as before");
    for _ in 0..SILENT_ROUNDS {
        let plan = scene.round(|_| {}).await;
        assert!(plan.is_empty(), "{what}: written after it healed: {:#?}", (plan.nodes, plan.policies, plan.domains));
    }
}

/// Each on a scene of its own.
async fn every_fault_is_survived(setting: Setting) {
    for at in 0..faults::all(setting, 0.0).len() {
        let mut scene = Scene::of(setting).await;
        let fault = faults::all(setting, scene.now()).swap_remove(at);
        survives(&mut scene, &fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_raises_nothing_is_named_heals_and_falls_silent() {
    every_fault_is_survived(PLAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn likewise_where_exporters_collect_twice_a_minute() {
    every_fault_is_survived(Setting { interval: 30, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn likewise_where_shares_follow_what_is_drawn_and_the_domain_has_a_meter() {
    every_fault_is_survived(Setting { algorithm: "proportional", metered: true, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn likewise_where_agents_tell_too() {
    every_fault_is_survived(Setting { agents: true, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_hangs_raises_nothing_and_is_named() {
    let mut scene = Scene::of(Setting { timeout: Duration::from_secs(5), ..PLAIN }).await;
    let hangs = |state: &mut State| state.manner = Manner::Hanging;
    survives(&mut scene, &("hanging", Box::new(hangs), [AWAY; 2])).await;
}

/// What the agents tell now.
fn tell(state: &mut State, watts: f64) {
    let at = state.now - 2.0;
    agents_tell(state, at, watts);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_agents_tell_power_exporters_may_go() {
    let mut scene = Scene::new().await;
    let before = scene.specs();
    // Whose the boards are is what their labels said last.
    for _ in 0..PLAIN.rounds_to_say_so() {
        scene
            .round(|state| {
                of(state, "DCGM_FI_DEV_POWER").for_each(|series| series.value = f64::NAN);
                state.series.retain(|series| !series.name.starts_with("kepler_node"));
                tell(state, 450.0);
            })
            .await;
        assert_eq!(scene.says(), [FRESH.1; 2]);
        assert_eq!(scene.specs(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_repeats_itself_is_found_out_by_the_agents() {
    let mut scene = Scene::new().await;
    let differ = |scene: &Scene| {
        [scene.world.policy_says("chat", "SourcesAgree"), scene.world.domain_says("rack", "SourcesAgree")]
    };
    for _ in 0..4 {
        scene.round(|state| tell(state, 455.0)).await;
        assert_eq!(differ(&scene), ["Unknown -"; 2]);
    }
    for _ in 0..PLAIN.rounds_to_say_so() {
        scene.round(|state| tell(state, 650.0)).await;
    }
    assert_eq!(differ(&scene), ["False SourcesDiffer"; 2]);
    assert_eq!(scene.world.policy_says("chat", "WithinCap"), "False PowerAboveCap");
    for _ in 0..3 * PLAIN.rounds_to_say_so() {
        scene.round(|state| tell(state, 455.0)).await;
    }
    assert_eq!(differ(&scene), ["Unknown -"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_does_not_tell_this_time_or_told_before_leaves_what_is_known() {
    let mut scene = Scene::new().await;
    let told = |scene: &Scene| {
        let gpu = &scene.world.observation.telemetry.agent_gpus["GPU-a"];
        (gpu.node.clone(), gpu.power.unwrap(), gpu.clock.unwrap())
    };
    scene.round(|state| tell(state, 455.0)).await;
    let before = told(&scene);
    // Of a store that lags: what was told ten seconds ago.
    scene
        .round(|state| {
            tell(state, 300.0);
            of(state, "powercap_agent_").for_each(|series| series.at -= 10.0);
        })
        .await;
    assert_eq!(told(&scene), before);
    scene
        .round(|state| {
            tell(state, 455.0);
            state.series.retain(|series| series.name != "powercap_agent_gpu_power_watts");
        })
        .await;
    let (node, power, clock) = told(&scene);
    assert_eq!((node, power), (before.0, before.1));
    assert!(clock.at > before.2.at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_makes_no_reading_younger_and_holds_nothing_up() {
    let mut scene = Scene::new().await;
    scene.round(|state| tell(state, 450.0)).await;
    let specs = |scene: &Scene| scene.specs().into_values().map(without_offer).collect::<Vec<_>>();
    let before = specs(&scene);
    scene.world.pass(-3600);
    scene.round(|state| tell(state, 450.0)).await;
    let telemetry = &scene.world.observation.telemetry;
    for gpu in telemetry.gpus.values().chain(telemetry.agent_gpus.values()) {
        assert!(gpu.power.unwrap().at <= scene.world.now && gpu.clock.unwrap().at <= scene.world.now, "{gpu:?}");
    }
    assert_eq!((scene.says(), specs(&scene)), ([FRESH.1; 2].map(Into::into), before));
    // The exporters fall silent: nobody takes what they told before for fresh.
    for _ in 0..PLAIN.rounds_to_say_so() {
        scene.round(|state| state.series.clear()).await;
    }
    assert!(scene.says().iter().all(|says| says.starts_with("False")), "{:?}", scene.says());
    // And the ceilings move on.
    let clock = |scene: &Scene| scene.world.ceilings("n0")[0].1;
    let low = clock(&scene).unwrap();
    scene.watts = 200.0;
    for _ in 0..4 {
        scene.round(|_| {}).await;
    }
    assert!(clock(&scene).is_none_or(|clock| clock > low), "{:?} of {low}", clock(&scene));
}

/// The claims can fail: what is well is raised.
#[tokio::test(flavor = "multi_thread")]
async fn power_that_falls_on_good_readings_relaxes_the_ceiling() {
    let mut scene = Scene::new().await;
    let clock = |scene: &Scene| scene.world.ceilings("n0")[0].1;
    let before = clock(&scene).unwrap();
    scene.watts = 200.0;
    for _ in 0..4 {
        scene.round(|_| {}).await;
    }
    assert!(clock(&scene).is_none_or(|clock| clock > before));
}
