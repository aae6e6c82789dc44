//! `kepler`: CPU power in the text format of Kepler v0.11.4, from the node's RAPL counters.
//!
//! Format read in that version's collector; as a Go client prints it: metrics by name, labels by name,
//! `node_name` on each. Two packages are one zone `package` with the path `aggregated-package`, as
//! Kepler aggregates zones of one name. Active power is the usage ratio's share; it is split among pods
//! equally, pods with boards counting three times (a host works for its boards; Kepler splits by CPU
//! time, which simulated work does not use). The pod's identifier is drawn from its name, since
//! PodResources has none.
//!
//! What must hold: the first sample has no watts (two readings are needed); a counter that wrapped is
//! followed; terminated pods are not shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use powercap_simulated_hardware::spec::fingerprint;
use powercap_simulated_hardware::{Root, State, record::RecordFile};
use tokio::sync::watch;

use super::exposition::Page;
use crate::kubelet::pod_resources::{Owner, Owners, SOCKET};

/// Flags of `kepler`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Folder that holds the node's hardware
    #[arg(long, env = ROOT_VARIABLE, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Address to serve /metrics on
    #[arg(long, default_value = "0.0.0.0:28282")]
    listen: SocketAddr,
    /// Socket of the kubelet's PodResources
    #[arg(long, default_value = SOCKET)]
    pod_resources: PathBuf,
    /// Value of the node_name label
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node_name: String,
    /// How often power is computed (Kepler's default)
    #[arg(long, default_value_t = 5000)]
    interval_ms: u64,
}

/// Serves until SIGTERM.
///
/// # Errors
/// When the boards cannot be found or the address not be listened on.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let root = Root::new(&flags.root);
    let mut states = Vec::new();
    for (_, folder) in root.boards()? {
        states.push(folder.state()?);
    }
    let baseline = root.node().map_or(0.1, |node| node.host.baseline_load);
    let mut owners = Owners::new(flags.pod_resources);
    let mut meter = Meter::new(root.powercap_path());
    let (newest, page) = watch::channel(Arc::from(""));
    let collecting = async {
        loop {
            owners.refresh().await;
            meter.read(Instant::now(), usage(&mut states, baseline), &pods(&owners));
            newest.send_replace(Arc::from(render(&meter, &flags.node_name)));
            tokio::time::sleep(Duration::from_millis(flags.interval_ms.max(100))).await;
        }
    };
    tokio::select! {
        served = super::serve(flags.listen, page) => served,
        () = collecting => Ok(()),
    }
}

/// Share of the CPUs in use: the machine's own would tell of the test, not of the simulated node.
fn usage(states: &mut [RecordFile<State>], baseline: f64) -> f64 {
    let busy: f64 =
        states.iter_mut().filter_map(|state| state.read().ok()).map(|state| f64::from(state.utilisation_percent)).sum();
    #[expect(clippy::cast_precision_loss, reason = "at most 16 boards")]
    let boards = states.len().max(1) as f64;
    (baseline + 0.45 * busy / boards / 100.0).clamp(0.0, 1.0)
}

fn pods(owners: &Owners) -> Vec<(Owner, f64)> {
    let weight = |owner: &Owner| if owners.holds(owner) { 3.0 } else { 1.0 };
    owners.containers().iter().map(|owner| (owner.clone(), weight(owner))).collect()
}

/// Energy of a node's packages, and of the containers on it.
#[derive(Debug)]
pub struct Meter {
    powercap: PathBuf,
    last: BTreeMap<String, u64>,
    last_at: Option<Instant>,
    usage: f64,
    total: Energy,
    active: Energy,
    idle: Energy,
    containers: BTreeMap<Owner, Energy>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Energy {
    joules: f64,
    watts: f64,
}

impl Energy {
    fn add(&mut self, joules: f64, seconds: f64) {
        self.joules += joules;
        self.watts = joules / seconds;
    }
}

impl Meter {
    /// A meter of the zones in a powercap tree.
    #[must_use]
    pub fn new(powercap: PathBuf) -> Self {
        Self {
            powercap,
            last: BTreeMap::new(),
            last_at: None,
            usage: 0.0,
            total: Energy::default(),
            active: Energy::default(),
            idle: Energy::default(),
            containers: BTreeMap::new(),
        }
    }

    /// Reads the counters; `usage` is 0 to 1, `pods` are containers with their weights.
    pub fn read(&mut self, now: Instant, usage: f64, pods: &[(Owner, f64)]) {
        let mut joules = 0.0;
        for package in 0.. {
            let zone = self.powercap.join(format!("intel-rapl:{package}"));
            let (Some(energy), Some(range)) =
                (number(&zone.join("energy_uj")), number(&zone.join("max_energy_range_uj")))
            else {
                break;
            };
            if let Some(last) = self.last.insert(package.to_string(), energy) {
                let moved = if energy >= last { energy - last } else { range - last + energy };
                #[expect(clippy::cast_precision_loss, reason = "microjoules of one interval")]
                let moved = moved as f64;
                joules += moved / 1e6;
            }
        }
        self.usage = usage;
        self.containers.retain(|owner, _| pods.iter().any(|(pod, _)| pod == owner));
        if let Some(last_at) = self.last_at.replace(now) {
            let seconds = (now - last_at).as_secs_f64().max(1e-3);
            self.total.add(joules, seconds);
            self.active.add(joules * usage, seconds);
            self.idle.add(joules * (1.0 - usage), seconds);
            let weights: f64 = pods.iter().map(|(_, weight)| weight).sum();
            for (pod, weight) in pods {
                self.containers.entry(pod.clone()).or_default().add(joules * usage * weight / weights, seconds);
            }
        }
    }
}

fn number(path: &std::path::Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The page for a meter.
#[must_use]
pub fn render(meter: &Meter, node_name: &str) -> String {
    let mut page = Page::default();
    page.begin("kepler_build_info", "gauge", "A metric with a constant '1' value labeled with version information");
    let build = [("arch", "amd64"), ("branch", ""), ("goversion", "go1.25"), ("revision", ""), ("version", "v0.11.4")];
    page.sample("kepler_build_info", &build, "1");
    containers(&mut page, meter, node_name);
    for (state, energy) in [("_active", meter.active), ("_idle", meter.idle), ("", meter.total)] {
        let of = match state {
            "" => "cpu".to_owned(),
            state => format!("cpu in {} state", state.trim_start_matches('_')),
        };
        let labels = [("node_name", node_name), ("path", "aggregated-package"), ("zone", "package")];
        for (unit, kind, help, value) in units(energy) {
            if state.is_empty() && unit == "watts" {
                page.begin(
                    "kepler_node_cpu_usage_ratio",
                    "gauge",
                    "CPU usage ratio of a node (value between 0.0 and 1.0)",
                );
                page.sample("kepler_node_cpu_usage_ratio", &[("node_name", node_name)], &meter.usage.to_string());
            }
            let name = format!("kepler_node_cpu{state}_{unit}");
            page.begin(
                &name,
                kind,
                &format!("{help} consumption of {of} at node level in {}", &unit[..unit.len().min(6)]),
            );
            page.sample(&name, &labels, &value.to_string());
        }
    }
    pods_of(&mut page, meter, node_name);
    page.finish()
}

fn units(energy: Energy) -> [(&'static str, &'static str, &'static str, f64); 2] {
    [("joules_total", "counter", "Energy", energy.joules), ("watts", "gauge", "Power", energy.watts)]
}

fn containers(page: &mut Page, meter: &Meter, node_name: &str) {
    if meter.containers.is_empty() {
        return;
    }
    for index in 0..2 {
        let (unit, kind, help, _) = units(Energy::default())[index];
        let name = format!("kepler_container_cpu_{unit}");
        page.begin(
            &name,
            kind,
            &format!("{help} consumption of cpu at container level in {}", &unit[..unit.len().min(6)]),
        );
        for (owner, energy) in &meter.containers {
            let container_id =
                drawn(&format!("{}/{}/{}", owner.namespace, owner.pod, owner.container)).replace('-', "").repeat(2);
            let pod_id = pod_id(owner);
            let labels = [
                ("container_id", container_id.as_str()),
                ("container_name", &owner.container),
                ("node_name", node_name),
                ("pod_id", &pod_id),
                ("runtime", "containerd"),
                ("state", "running"),
                ("zone", "package"),
            ];
            page.sample(&name, &labels, &units(*energy)[index].3.to_string());
        }
    }
}

fn pods_of(page: &mut Page, meter: &Meter, node_name: &str) {
    let mut pods: BTreeMap<(&str, &str), (String, Energy)> = BTreeMap::new();
    for (owner, energy) in &meter.containers {
        let (_, sum) = pods.entry((&owner.namespace, &owner.pod)).or_insert_with(|| (pod_id(owner), Energy::default()));
        sum.joules += energy.joules;
        sum.watts += energy.watts;
    }
    if pods.is_empty() {
        return;
    }
    for index in 0..2 {
        let (unit, kind, help, _) = units(Energy::default())[index];
        let name = format!("kepler_pod_cpu_{unit}");
        page.begin(&name, kind, &format!("{help} consumption of cpu at pod level in {}", &unit[..unit.len().min(6)]));
        for ((namespace, pod), (pod_id, energy)) in &pods {
            let labels = [
                ("node_name", node_name),
                ("pod_id", pod_id),
                ("pod_name", pod),
                ("pod_namespace", namespace),
                ("state", "running"),
                ("zone", "package"),
            ];
            page.sample(&name, &labels, &units(*energy)[index].3.to_string());
        }
    }
}

fn pod_id(owner: &Owner) -> String {
    drawn(&format!("{}/{}", owner.namespace, owner.pod))
}

fn drawn(name: &str) -> String {
    let (high, low) = (fingerprint(name.as_bytes()), fingerprint(format!("{name}+").as_bytes()));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
