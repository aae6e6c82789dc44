//! The kubelet's gRPC interfaces over unix sockets: device plugins, whose messages are here, and
//! PodResources, which the node agent asks as well and is therefore in `powercap-kubelet`.

pub mod device_plugin;
pub mod messages;
pub mod pod_resources;
