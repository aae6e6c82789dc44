//! A real Kubernetes cluster on one machine, that leaves nothing behind.
//!
//! ```text
//! cluster run ── unshare(net, mount, pid) ── init ── control ─┬─ etcd, kube-apiserver, … , kube-proxy
//!  │   │                                                      ├─ coredns, metrics-server
//!  │   └─ nsenter ── CMD                                      ├─ hardware of node-1, node-2
//!  │                                                          └─ unshare(mount, pid) ── init ── node
//!  veth to the cluster's network                                           containerd, kubelet, pods
//! ```
//! What must hold: all processes live in one PID namespace that dies with its init, which dies with
//! `cluster run`, whatever ends that. Mounts, interfaces and iptables rules live in namespaces that
//! die with their processes. So only cgroup directories and files can stay, and [`sweep`] knows both
//! from the run's directory alone.

pub mod cgroups;
pub mod control;
pub mod controlplane;
pub mod daemon;
pub mod events;
pub mod existing;
pub mod files;
pub mod images;
pub mod init;
pub mod kubeconfig;
pub mod layout;
pub mod logs;
pub mod mounts;
pub mod network;
pub mod node;
pub mod packages;
pub mod pki;
pub mod programs;
pub mod ready;
pub mod run;
pub mod sweep;
