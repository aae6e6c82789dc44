//! From metric to megahertz: an edit of a cap ends in clocks and watts on boards, and its end in their return.

use powercap_common::{
    api::{GpuCeiling, NodeFrequencies},
    condition::{Truth, kind},
};
use serde_json::json;

use crate::rack::Rack;

#[tokio::test]
async fn a_policy_cut_slows_its_own_boards_alone_and_says_so() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 17_000})).await;
    rack.edit_policy("training", json!({"powerCapLimitWatts": 2800})).await;

    rack.eventually("four boards of each node are held for training, below their highest clock", async |rack| {
        rack.nodes().await.iter().all(|node| {
            let ceilings = node.spec.gpu_frequencies.iter().filter(|ceiling| ceiling.set_by.ends_with("/training"));
            let held: Vec<_> = ceilings.filter(|ceiling| is_held(node, ceiling)).collect();
            held.len() == 4
        })
    })
    .await;
    rack.eventually("the simulator agrees: the boards that train draw at most 350 W, and some do", async |rack| {
        rack.truth().iter().all(|(_, power)| {
            let busy: Vec<_> = power.board_watts.iter().filter(|watts| **watts > 150.0).collect();
            !busy.is_empty() && busy.iter().all(|watts| **watts <= 370.0)
        })
    })
    .await;
    rack.eventually("the policy reports that it is within its cap", async |rack| {
        let power = rack.policy("training").await.status.and_then(|status| status.current_power_watts);
        power.is_some_and(|watts| watts <= 2800)
            && rack.policy_condition("training", kind::WITHIN_CAP).await == (Truth::True, "PowerBelowCap".into())
    })
    .await;
}

/// An eighth of 2,800 W is asked for, and a lower clock than the highest holds it.
fn is_held(node: &NodeFrequencies, ceiling: &GpuCeiling) -> bool {
    let gpus = node.status.iter().flat_map(|status| &status.gpus);
    let gpu = gpus.into_iter().find(|gpu| gpu.uuid == ceiling.uuid);
    ceiling.power_limit_watts.is_some_and(|watts| watts <= 350)
        && gpu.is_some_and(|gpu| gpu.target_graphics_megahertz.is_some_and(|clock| clock < gpu.max_graphics_megahertz))
}

#[tokio::test]
async fn a_domain_cut_holds_at_the_meter_and_returns() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("true power is below 7,200 W", async |rack| rack.true_watts() <= 7200.0).await;
    rack.eventually("both nodes acknowledge", async |rack| rack.all_hold_within(7200).await).await;
    rack.throughout("true power stays below 7,200 W", 10, async |rack| rack.true_watts() <= 7200.0).await;
    rack.eventually("the CPUs are slowed too, by cpufreq, and read back", async |rack| rack.cpus_are_slowed().await)
        .await;

    rack.edit_domain(json!({"powerCapLimitWatts": 17_000})).await;
    rack.eventually("power returns", async |rack| rack.true_watts() > 7500.0).await;
}

#[tokio::test]
async fn a_policy_that_advises_reports_and_changes_nothing() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 17_000})).await;
    rack.edit_policy("training", json!({"powerCapLimitWatts": 2000, "mode": "Advise"})).await;
    rack.eventually("training reports that it is above its cap, and what would keep it", async |rack| {
        let status = rack.policy("training").await.status.unwrap_or_default();
        rack.policy_condition("training", kind::WITHIN_CAP).await.0 == Truth::False
            && status.recommended_max_megahertz.is_some()
            && status.recommended_device_watts.is_some()
    })
    .await;
    rack.eventually("no board is held for training", async |rack| {
        let nodes = rack.nodes().await;
        nodes.iter().flat_map(|node| &node.spec.gpu_frequencies).all(|ceiling| !ceiling.set_by.ends_with("/training"))
    })
    .await;
}

#[tokio::test]
async fn when_the_last_cap_goes_the_boards_are_released() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("every busy board is slowed", async |rack| all_busy(rack, |clock| clock < 1900)).await;

    rack.remove_caps().await;
    rack.eventually("every node says Released", async |rack| {
        rack.nodes().await.iter().all(|node| {
            let conditions = node.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            node.spec.release && conditions.iter().any(|condition| condition.reason == "Released")
        })
    })
    .await;
    rack.eventually("every busy board runs at full clock", async |rack| all_busy(rack, |clock| clock == 1980)).await;
    rack.eventually("every board has its default limit", async |rack| {
        let nodes = rack.nodes().await;
        nodes.iter().flat_map(|node| &node.status.as_ref().unwrap().gpus).all(|gpu| gpu.power_limit_watts == Some(700))
    })
    .await;
}

/// Whether the clocks of the boards that have work now are so. The training pauses where one of its ranks is held up.
fn all_busy(rack: &Rack, is_so: impl Fn(u32) -> bool) -> bool {
    let truth = rack.truth();
    let boards = truth.iter().flat_map(|(_, power)| power.clock_mhz.iter().zip(&power.utilisation));
    let busy: Vec<_> = boards.filter(|(_, busy)| **busy > 0.5).map(|(clock, _)| *clock).collect();
    !busy.is_empty() && busy.into_iter().all(is_so)
}
