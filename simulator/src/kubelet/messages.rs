//! Messages of `deviceplugin/v1beta1`, with the field numbers of Kubernetes' `api.proto` and the few
//! fields that are used: protobuf skips the rest.

use std::collections::HashMap;

use prost::Message;

/// Nothing.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// What a plugin can do besides allocating.
#[derive(Clone, PartialEq, Message)]
pub struct DevicePluginOptions {
    /// Whether to be called before a container starts.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
    /// Whether it has an opinion on which devices go together.
    #[prost(bool, tag = "2")]
    pub get_preferred_allocation_available: bool,
}

/// A plugin announces itself.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterRequest {
    /// `v1beta1`.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Name of its socket in the kubelet's folder.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// The extended resource.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// What it can do.
    #[prost(message, optional, tag = "4")]
    pub options: Option<DevicePluginOptions>,
}

/// All devices of a plugin.
#[derive(Clone, PartialEq, Message)]
pub struct ListAndWatchResponse {
    /// The devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
}

/// One device.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    /// Its identifier.
    #[prost(string, tag = "1")]
    pub id: String,
    /// `Healthy` or `Unhealthy`.
    #[prost(string, tag = "2")]
    pub health: String,
}

/// What containers are about to use.
#[derive(Clone, PartialEq, Message)]
pub struct AllocateRequest {
    /// One for each container.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<ContainerAllocateRequest>,
}

/// What one container is about to use.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerAllocateRequest {
    /// Devices by identifier.
    #[prost(string, repeated, tag = "1")]
    pub devices_ids: Vec<String>,
}

/// What containers need to use their devices.
#[derive(Clone, PartialEq, Message)]
pub struct AllocateResponse {
    /// One for each container.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerAllocateResponse>,
}

/// What one container needs to use its devices.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerAllocateResponse {
    /// Environment.
    #[prost(map = "string, string", tag = "1")]
    pub envs: HashMap<String, String>,
    /// Folders of the host.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
}

/// A folder of the host in a container.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Path in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Path on the host.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether the container may not write.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
}
