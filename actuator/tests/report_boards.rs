//! What the status says of boards beside their ceilings: what they can do, and whose they are.

use std::sync::Arc;

use powercap_actuator::{
    hardware::{Knob, Profile},
    node::{
        decide::{State, decide},
        observation::Observation,
        observe::Profiles,
        status::{self, Particulars, Problems},
        tenants::{Holdings, Tenancy},
    },
};
use powercap_common::api::{
    Capability::{self, ClockRange, InstantaneousPower, Partitioned, PowerLimit},
    GpuStatus,
};
use powercap_kubelet::messages::{ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources};

use crate::rack::{BUSY, Rack};

fn stated(seen: &Observation, profiles: &Profiles, tenancy: &Tenancy) -> Vec<GpuStatus> {
    let plan = decide(seen, None, &State::default());
    let particulars = Particulars { profiles, tenancy };
    status::state(seen, None, &plan.account, &Problems::default(), 0, "boot", particulars).status.gpus
}

fn profile(instant_power: bool, slices: Option<&[&str]>) -> Arc<Profile> {
    let slices = slices.map(|slices| slices.iter().map(|slice| (*slice).into()).collect());
    Arc::new(Profile { instant_power, slices })
}

#[test]
fn a_board_can_what_it_has_not_refused() {
    let mut seen = Rack::new(5, 0.0, 0.0, BUSY).observe();
    let profiles: Profiles = [
        ("GPU-0".into(), profile(true, None)),
        ("GPU-1".into(), profile(false, Some(&["MIG-1"]))),
        ("GPU-2".into(), profile(true, Some(&[]))),
    ]
    .into();
    Arc::make_mut(&mut seen.boards[2].traits).clocks = None;
    seen.boards[3].reading.as_mut().unwrap().clock_knob = Knob::Denied;
    seen.boards[3].reading.as_mut().unwrap().limit_knob = Knob::Failed;
    Arc::make_mut(&mut seen.boards[4].traits).min_limit = seen.boards[4].traits.max_limit;
    let can: Vec<_> = stated(&seen, &profiles, &Tenancy::default()).into_iter().map(|gpu| gpu.capabilities).collect();
    let expected: [&[Capability]; 5] = [
        &[ClockRange, PowerLimit, InstantaneousPower],
        &[ClockRange, PowerLimit, Partitioned],
        &[PowerLimit, InstantaneousPower, Partitioned],
        // What failed is tried again, what was denied is not.
        &[PowerLimit],
        &[ClockRange],
    ];
    assert_eq!(can, expected);
}

#[test]
fn unknown_tenants_are_not_told_as_none() {
    let seen = Rack::new(2, 0.0, 0.0, BUSY).observe();
    let profiles: Profiles = [("GPU-0".into(), Arc::default()), ("GPU-1".into(), Arc::default())].into();
    let tenants = |tenancy: &Tenancy| -> Vec<Option<usize>> {
        let gpus = stated(&seen, &profiles, tenancy);
        gpus.iter().map(|gpu| gpu.tenants.as_ref().map(Vec::len)).collect()
    };
    assert_eq!(tenants(&Tenancy::default()), [None, None]);
    let devices = ContainerDevices { resource_name: "nvidia.com/gpu".into(), device_ids: vec!["GPU-0::0".into()] };
    let container = ContainerResources { devices: vec![devices], ..ContainerResources::default() };
    let pod = PodResources { name: "chat-0".into(), namespace: "llm".into(), containers: vec![container] };
    let answer = ListPodResourcesResponse { pod_resources: vec![pod] };
    assert_eq!(tenants(&Holdings::of(answer).tenancy(&profiles)), [Some(1), Some(0)]);
}
