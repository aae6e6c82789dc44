//! Whose pods hold which boards, by what the kubelet tells: pure.
//!
//! ```text
//!   GPU-…        a whole board
//!   GPU-…::N     a replica of a time-sliced board
//!   MIG-…        an instance; NVML tells of which board
//! ```
//!
//! What must hold: that nobody holds a board is said only when every GPU that the kubelet knows of was
//! found a place; what is not known is not told as nobody's.

use std::{collections::BTreeMap, sync::Arc};

use powercap_common::api::Tenant;
use powercap_kubelet::messages::{ContainerResources, ListPodResourcesResponse};

use super::observe::Profiles;

/// More tenants than the status has room for are told as not known, since a part of them would mislead.
const MOST_TENANTS: usize = 64;
/// The DRA driver of NVIDIA's boards. Its devices have names of their own, and no UUID here.
const DRA_DRIVER: &str = "gpu.nvidia.com";

/// What the kubelet said: which pods hold which devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Devices as their plugins name them, and the pod.
    devices: Vec<(Device, Tenant)>,
    /// A GPU was given out under a name that is no UUID.
    nameless: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    id: String,
    /// It is a GPU or a part of one by its resource's name, whatever its identifier looks like.
    gpu: bool,
}

/// The tenants of each board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    held: BTreeMap<Arc<str>, Vec<Tenant>>,
    /// Every GPU that the kubelet knows of was found a place.
    complete: bool,
}

impl Holdings {
    /// What an answer says.
    #[must_use]
    pub fn of(answer: ListPodResourcesResponse) -> Self {
        let mut holdings = Self::default();
        for pod in answer.pod_resources {
            let tenant = Tenant { namespace: pod.namespace, name: pod.name };
            for container in pod.containers {
                holdings.nameless |= claims_a_gpu(&container);
                for devices in container.devices {
                    let gpu = is_gpu(&devices.resource_name);
                    let named = devices.device_ids.into_iter().map(|id| (Device { id, gpu }, tenant.clone()));
                    holdings.devices.extend(named.filter(|(device, _)| gpu || looks_like_a_gpu(&device.id)));
                }
            }
        }
        holdings
    }

    /// Whose each board is. `profiles` are the boards that the node has.
    #[must_use]
    pub fn tenancy(&self, profiles: &Profiles) -> Tenancy {
        let mut tenancy = Tenancy { held: BTreeMap::new(), complete: !self.nameless };
        for (device, tenant) in &self.devices {
            match board_of(&device.id, profiles) {
                Some(board) => {
                    let tenants = tenancy.held.entry(Arc::clone(board)).or_default();
                    if let Err(place) = tenants.binary_search(tenant) {
                        tenants.insert(place, tenant.clone());
                    }
                }
                None => tenancy.complete &= !device.gpu,
            }
        }
        tenancy
    }
}

impl Tenancy {
    /// The pods that hold this board, none where nobody does; `None` while that is not known.
    #[must_use]
    pub fn of(&self, board: &str) -> Option<&[Tenant]> {
        match self.held.get(board) {
            Some(tenants) => (tenants.len() <= MOST_TENANTS).then_some(tenants),
            None => self.complete.then_some(&[]),
        }
    }

    /// Every GPU that the kubelet knows of was found a place.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }
}

/// `nvidia.com/gpu`, `nvidia.com/gpu.shared`, `nvidia.com/mig-1g.10gb`; not network cards of that vendor.
fn is_gpu(resource: &str) -> bool {
    resource.strip_prefix("nvidia.com/").is_some_and(|name| name.starts_with("gpu") || name.starts_with("mig-"))
}

/// A resource of GPUs may have been renamed; their identifiers are UUIDs still.
fn looks_like_a_gpu(device: &str) -> bool {
    device.starts_with("GPU-") || device.starts_with("MIG-")
}

fn claims_a_gpu(container: &ContainerResources) -> bool {
    let claimed = container.dynamic_resources.iter().flat_map(|claim| &claim.claim_resources);
    claimed.into_iter().any(|device| device.driver_name == DRA_DRIVER)
}

/// The board that a device is, or is a part of.
fn board_of<'a>(device: &str, profiles: &'a Profiles) -> Option<&'a Arc<str>> {
    let whole = device.split_once("::").map_or(device, |(board, _)| board);
    if let Some((board, _)) = profiles.get_key_value(whole) {
        return Some(board);
    }
    // Drivers before R470 put the board's own UUID into an instance's: `MIG-GPU-…/instance/compute`.
    let old = whole.strip_prefix("MIG-").and_then(|rest| rest.split('/').next());
    if let Some((board, _)) = old.and_then(|board| profiles.get_key_value(board)) {
        return Some(board);
    }
    let has = |slices: &Vec<Arc<str>>| slices.iter().any(|slice| **slice == *whole);
    profiles.iter().find(|(_, profile)| profile.slices.as_ref().is_some_and(has)).map(|(board, _)| board)
}

#[cfg(test)]
mod tests {
    use powercap_kubelet::messages::{ClaimResource, ContainerDevices, DynamicResource, PodResources};

    use super::*;
    use crate::hardware::Profile;

    fn pod(name: &str, resource: &str, devices: &[&str]) -> PodResources {
        let devices = ContainerDevices {
            resource_name: resource.into(),
            device_ids: devices.iter().map(|id| (*id).to_owned()).collect(),
        };
        let container = ContainerResources { devices: vec![devices], ..ContainerResources::default() };
        PodResources { name: name.into(), namespace: "llm".into(), containers: vec![container] }
    }

    fn profiles() -> Profiles {
        let slices = Some(vec!["MIG-7".into(), "MIG-8".into()]);
        let split = Arc::new(Profile { slices, ..Profile::default() });
        ["GPU-a", "GPU-b"]
            .map(|uuid| (uuid.into(), Arc::default()))
            .into_iter()
            .chain([("GPU-m".into(), split)])
            .collect()
    }

    fn tenancy(pods: Vec<PodResources>) -> Tenancy {
        Holdings::of(ListPodResourcesResponse { pod_resources: pods }).tenancy(&profiles())
    }

    fn names<'a>(tenancy: &'a Tenancy, board: &str) -> Option<Vec<&'a str>> {
        tenancy.of(board).map(|tenants| tenants.iter().map(|tenant| tenant.name.as_str()).collect())
    }

    #[test]
    fn whole_replicated_and_split_boards_are_found_by_their_devices() {
        let tenancy = tenancy(vec![
            pod("train-0", "nvidia.com/gpu", &["GPU-a"]),
            pod("chat-1", "nvidia.com/gpu.shared", &["GPU-b::1", "GPU-b::2"]),
            pod("chat-0", "nvidia.com/gpu.shared", &["GPU-b::0"]),
            pod("mig-0", "nvidia.com/mig-1g.10gb", &["MIG-7"]),
            pod("mig-1", "nvidia.com/gpu", &["MIG-8"]),
            pod("old-0", "nvidia.com/mig-1g.10gb", &["MIG-GPU-m/3/0"]),
        ]);
        assert_eq!(names(&tenancy, "GPU-a"), Some(vec!["train-0"]));
        assert_eq!(names(&tenancy, "GPU-b"), Some(vec!["chat-0", "chat-1"]));
        assert_eq!(names(&tenancy, "GPU-m"), Some(vec!["mig-0", "mig-1", "old-0"]));
    }

    #[test]
    fn a_board_is_nobodys_only_when_every_gpu_was_found_a_place() {
        let told = tenancy(vec![pod("train-0", "nvidia.com/gpu", &["GPU-a"]), pod("web-0", "", &[])]);
        assert_eq!(names(&told, "GPU-b"), Some(vec![]));
        for elsewhere in ["nvidia0", "MIG-9", "GPU-z"] {
            let told = tenancy(vec![
                pod("train-0", "nvidia.com/gpu", &["GPU-a"]),
                pod("odd-0", "nvidia.com/gpu", &[elsewhere]),
            ]);
            assert_eq!((names(&told, "GPU-a"), names(&told, "GPU-b")), (Some(vec!["train-0"]), None), "{elsewhere}");
        }
    }

    #[test]
    fn a_gpu_by_dynamic_allocation_has_no_uuid_and_leaves_the_others_unknown() {
        let mut claimed = pod("dra-0", "", &[]);
        let device = ClaimResource { driver_name: DRA_DRIVER.into(), device_name: "gpu-0".into() };
        claimed.containers[0].dynamic_resources = vec![DynamicResource { claim_resources: vec![device] }];
        let told = tenancy(vec![claimed, pod("train-0", "nvidia.com/gpu", &["GPU-a"])]);
        assert_eq!((names(&told, "GPU-a"), names(&told, "GPU-b")), (Some(vec!["train-0"]), None));
    }

    #[test]
    fn network_cards_are_no_gpus_and_a_renamed_resource_is_understood() {
        let told = tenancy(vec![
            pod("mpi-0", "nvidia.com/hostdev", &["0000:08:00.2"]),
            pod("train-0", "example.com/fast", &["GPU-a"]),
        ]);
        assert_eq!((names(&told, "GPU-a"), names(&told, "GPU-b")), (Some(vec!["train-0"]), Some(vec![])));
    }

    #[test]
    fn before_the_kubelet_answered_nothing_is_known() {
        assert_eq!(Tenancy::default().of("GPU-a"), None);
    }

    #[test]
    fn more_tenants_than_can_be_told_are_not_known() {
        let many = (0..=MOST_TENANTS).map(|at| pod(&format!("p{at}"), "nvidia.com/gpu", &["GPU-a::0"])).collect();
        assert_eq!(tenancy(many).of("GPU-a"), None);
    }
}
