//! The exporters print the golden files.
//!
//! `UPDATE_GOLDEN=1 cargo test -p powercap-simulator` rewrites them: look at the difference.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use powercap_simulated_hardware::{BoardSpec, Identity, NodeSpec, State};
use powercap_simulator::exporters::dcgm::{Seen, render};
use powercap_simulator::exporters::kepler::{self, Meter};
use powercap_simulator::kubelet::pod_resources::Owner;

fn golden(name: &str, stamp: &str, page: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let wanted = format!("{stamp}{page}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), wanted, "{}", path.display());
}

fn owner(pod: &str, container: &str) -> Owner {
    Owner { namespace: "team-a".to_owned(), pod: pod.to_owned(), container: container.to_owned() }
}

fn identity(index: u32) -> Identity {
    let node = NodeSpec::new("node-1", 8, BoardSpec::h100_sxm());
    Identity {
        index,
        uuid: node.uuid(index),
        pci_bus_id: NodeSpec::pci_bus_id(index),
        serial: String::new(),
        spec: BoardSpec::h100_sxm(),
        shares: Vec::new(),
    }
}

#[test]
fn dcgm_exporter_4_8_2() {
    let (training, idle) = (identity(0), identity(1));
    let owner = owner("train-0", "train");
    let busy = State {
        clock_mhz: 1755,
        memory_mhz: 2619,
        average_mw: 612_345,
        energy_mj: 123_456_789_012,
        temperature_celsius: 64,
        memory_temperature_celsius: 72,
        utilisation_percent: 100,
        memory_utilisation_percent: 36,
        memory_used_mib: 70_000,
        tensor_active: 0.69,
        ..State::default()
    };
    let rest = State {
        clock_mhz: 345,
        memory_mhz: 2619,
        average_mw: 69_250,
        energy_mj: 9_876_543,
        temperature_celsius: 32,
        memory_temperature_celsius: 40,
        ..State::default()
    };
    let boards = [
        Seen { identity: &training, state: busy, owner: Some(&owner) },
        Seen { identity: &idle, state: rest, owner: None },
    ];
    let stamp = "# The text format of NVIDIA's DCGM exporter 4.5.3-4.8.2 (default counters, Kubernetes mapping on), as our simulator prints it.\n";
    golden("dcgm-exporter-4.8.2.prom", stamp, &render(&boards, "node-1"));
}

fn zone(tree: &Path, index: u32, energy_uj: u64) {
    let zone = tree.join(format!("intel-rapl:{index}"));
    std::fs::create_dir_all(&zone).unwrap();
    std::fs::write(zone.join("energy_uj"), format!("{energy_uj}\n")).unwrap();
    std::fs::write(zone.join("max_energy_range_uj"), "262143328850\n").unwrap();
}

#[test]
fn kepler_0_11_4() {
    let tree = tempfile::tempdir().unwrap();
    let mut meter = Meter::new(tree.path().to_owned());
    let pods = [(owner("train-0", "train"), 3.0), (owner("web-0", "proxy"), 1.0)];
    let start = Instant::now();
    zone(tree.path(), 0, 1_000_000);
    zone(tree.path(), 1, 262_143_000_000);
    meter.read(start, 0.5, &pods);
    zone(tree.path(), 0, 901_000_000);
    // The second counter wraps.
    zone(tree.path(), 1, 699_671_150);
    meter.read(start + Duration::from_secs(5), 0.5, &pods);
    let page = kepler::render(&meter, "node-1");
    assert!(
        page.contains(r#"kepler_node_cpu_watts{node_name="node-1",path="aggregated-package",zone="package"} 320"#),
        "{page}"
    );
    golden(
        "kepler-0.11.4.prom",
        "# The text format of Kepler v0.11.4 (metrics level node, container, pod; RAPL, two packages), as our simulator prints it.\n",
        &page,
    );
}

#[test]
fn a_meter_has_no_watts_before_its_second_reading() {
    let tree = tempfile::tempdir().unwrap();
    zone(tree.path(), 0, 5);
    let mut meter = Meter::new(tree.path().to_owned());
    meter.read(Instant::now(), 0.5, &[]);
    assert!(kepler::render(&meter, "n").contains(r#"zone="package"} 0"#));
}
