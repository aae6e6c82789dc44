//! Messages of `podresources/v1`, with the field numbers of Kubernetes' `api.proto` and the few fields
//! that are used: protobuf skips the rest.

use prost::Message;

/// Which pods hold which devices?
#[derive(Clone, PartialEq, Message)]
pub struct ListPodResourcesRequest {}

/// All pods of the node.
#[derive(Clone, PartialEq, Message)]
pub struct ListPodResourcesResponse {
    /// The pods.
    #[prost(message, repeated, tag = "1")]
    pub pod_resources: Vec<PodResources>,
}

/// One pod.
#[derive(Clone, PartialEq, Message)]
pub struct PodResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Its containers.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

/// One container.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its devices by resource.
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
    /// Its devices by dynamic resource allocation.
    #[prost(message, repeated, tag = "5")]
    pub dynamic_resources: Vec<DynamicResource>,
}

/// Devices of one resource.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerDevices {
    /// The extended resource.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// The devices, as their plugin names them.
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
}

/// Devices of one claim.
#[derive(Clone, PartialEq, Message)]
pub struct DynamicResource {
    /// The devices.
    #[prost(message, repeated, tag = "4")]
    pub claim_resources: Vec<ClaimResource>,
}

/// One device of a claim.
#[derive(Clone, PartialEq, Message)]
pub struct ClaimResource {
    /// Who drives it.
    #[prost(string, tag = "2")]
    pub driver_name: String,
    /// As the driver names it, which is not its UUID.
    #[prost(string, tag = "4")]
    pub device_name: String,
}
