//! The cluster's addresses, and the link between it and the host.
//!
//! The cluster has a network namespace of its own. One veth pair leads there: the host has `.1` of a
//! /24, the control plane `.2`, the nodes `.11` and up. So a kubeconfig with `.2` serves inside and
//! outside, and node ports answer on the nodes' addresses. Pods hang on point-to-point links, without
//! a bridge, so that all their traffic is routed and kube-proxy's rules see it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time;

use super::mounts;
use super::ready::PATIENCE;

/// The name of the link's end inside the cluster.
const INSIDE: &str = "host0";

/// Services' addresses.
pub const SERVICE_SUBNET: &str = "10.96.0.0/16";
/// The API server's Service.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The DNS Service.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// All pods' addresses.
pub const POD_SUBNET: &str = "10.244.0.0/16";

/// Why the network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool could not be started.
    #[error("run {tool}; install it by: apt-get install iproute2")]
    Start {
        /// The tool.
        tool: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A tool failed.
    #[error("{command}: {message}")]
    Ip {
        /// The whole command.
        command: String,
        /// What it said.
        message: String,
    },
    /// No subnet is free.
    #[error("each of 10.213.0.0/24 to 10.213.255.0/24 is in use on this host: free one, for the link to the cluster")]
    NoSubnet,
    /// The link did not show up.
    #[error("the link to the host did not appear within {} s", PATIENCE.as_secs())]
    NoLink,
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] mounts::Error),
    /// A kernel setting could not be written.
    #[error("write {path}")]
    Setting {
        /// The setting.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The addresses of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Network {
    /// The host's end of the link, an interface name.
    pub interface: String,
    /// The third number of 10.213.N.0/24.
    pub subnet: u8,
}

impl Network {
    /// Chooses a subnet that nothing on this host uses, beginning from one that depends on `id`.
    ///
    /// # Errors
    /// When `ip` fails or all subnets are taken.
    pub async fn choose(id: &str) -> Result<Self, Error> {
        let taken = ip(&["-4", "-o", "address"]).await? + &ip(&["-4", "route", "show", "table", "all"]).await?;
        let first = id.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        (0..=u8::MAX)
            .map(|step| first.wrapping_add(step))
            .find(|subnet| !taken.contains(&format!("10.213.{subnet}.")))
            .map(|subnet| Self { interface: id.to_owned(), subnet })
            .ok_or(Error::NoSubnet)
    }

    /// The host's address on the link.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 1)
    }

    /// The control plane's address.
    pub fn control_plane(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 2)
    }

    /// The address of the node with this index, from 0; there is room for 200.
    pub fn node(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 11_u8.saturating_add(index))
    }

    /// The API server's URL, inside and outside.
    pub fn api_server(&self) -> String {
        format!("https://{}:6443", self.control_plane())
    }

    /// Makes the link, from the host, to the namespace that the process `pid` lives in.
    ///
    /// # Errors
    /// When `ip` fails.
    pub async fn link_from_host(&self, pid: u32) -> Result<(), Error> {
        let (name, pid) = (self.interface.as_str(), pid.to_string());
        ip(&["link", "add", name, "type", "veth", "peer", "name", INSIDE, "netns", &pid]).await?;
        ip(&["address", "add", &format!("{}/24", self.host()), "dev", name]).await?;
        ip(&["link", "set", name, "up"]).await?;
        Ok(())
    }

    /// Removes the link if it is there. The kernel does so too when the namespace goes, but later.
    ///
    /// # Errors
    /// When `ip` fails.
    pub async fn unlink(interface: &str) -> Result<(), Error> {
        if Path::new("/sys/class/net").join(interface).exists() {
            // It may vanish between the look and the deletion.
            let deleted = ip(&["link", "delete", interface]).await;
            if Path::new("/sys/class/net").join(interface).exists() {
                deleted?;
            }
        }
        Ok(())
    }

    /// Brings up the cluster's side of the link, once it is there, with all addresses.
    ///
    /// # Errors
    /// When the link does not appear or cannot be configured.
    pub async fn link_from_inside(&self, nodes: &[Ipv4Addr]) -> Result<(), Error> {
        let appeared = async {
            while !Path::new("/sys/class/net").join(INSIDE).exists() {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        time::timeout(PATIENCE, appeared).await.map_err(|_| Error::NoLink)?;
        ip(&["link", "set", "lo", "up"]).await?;
        for address in [self.control_plane()].iter().chain(nodes) {
            ip(&["address", "add", &format!("{address}/24"), "dev", INSIDE]).await?;
        }
        ip(&["link", "set", INSIDE, "up"]).await?;
        // A Service's address must have a route, though kube-proxy rewrites it before it is taken. There
        // is no default route: whoever calls the world outside is refused at once, instead of waiting.
        ip(&["route", "add", SERVICE_SUBNET, "dev", INSIDE]).await?;
        let path = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(path, "1").map_err(|source| Error::Setting { path: path.into(), source })
    }
}

/// Makes /sys show this namespace's interfaces, with the cgroup hierarchies back in their place.
///
/// # Errors
/// When a mount fails.
pub fn remount_sysfs(scratch: &Path) -> Result<(), Error> {
    let cgroups = scratch.join("cgroup");
    mounts::directory(&cgroups)?;
    mounts::bind("/sys/fs/cgroup".as_ref(), &cgroups)?;
    mounts::unmount("/sys".as_ref(), UnmountFlags::DETACH)?;
    mounts::fresh("sysfs", "/sys".as_ref())?;
    mounts::bind(&cgroups, "/sys/fs/cgroup".as_ref())?;
    mounts::unmount(&cgroups, UnmountFlags::DETACH)?;
    Ok(())
}

async fn ip(arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .await
        .map_err(|source| Error::Start { tool: "ip".into(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Ip {
        command: format!("ip {}", arguments.join(" ")),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_run_differ() {
        let network = Network { interface: "pcap-x".into(), subnet: 7 };
        assert_eq!(network.host().to_string(), "10.213.7.1");
        assert_eq!(network.api_server(), "https://10.213.7.2:6443");
        assert_eq!(network.node(1).to_string(), "10.213.7.12");
    }
}
