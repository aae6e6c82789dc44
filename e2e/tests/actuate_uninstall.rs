//! Uninstalling leaves the hardware as it was before, or says which node is not.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, api::ListParams};
use powercap_common::api::PowerDomain;
use powercap_e2e::cluster::existing::hardware_folders;
use powercap_simulated_hardware::Root;
use serde_json::json;

use crate::rack::{Rack, process::agents};

/// What an administrator had set on a board and on the CPUs of a policy, on each node, before we came.
const LIMIT_MW: u32 = 550_000;
const CEILING_KHZ: &str = "3000000";

#[tokio::test]
async fn what_was_set_before_the_installation_is_set_after_the_removal() {
    // Earlier tests may have installed it.
    let first = uninstall(&[]);
    assert!(first.status.success(), "{}", text(&first));
    let (default_limit_mw, highest_khz) = (700_000, settings_of_cpus().into_values().max().unwrap());
    set_as_an_administrator(LIMIT_MW, CEILING_KHZ);
    let before = settings();

    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("every board's limit and every CPU's ceiling is lower", async |_| {
        let now = settings();
        now.iter().filter(|(name, _)| name.ends_with("limit")).all(|(name, value)| *value != before[name])
            && now.iter().filter(|(name, _)| name.ends_with("max_freq")).all(|(name, value)| *value != before[name])
    })
    .await;

    let removed = uninstall(&[]);
    assert!(removed.status.success(), "{}", text(&removed));
    assert_eq!(settings(), before, "{}", text(&removed));
    let definitions = Api::<CustomResourceDefinition>::all(rack.client.clone());
    let definitions = definitions.list(&ListParams::default()).await.unwrap().items;
    assert!(!definitions.iter().any(|definition| definition.spec.group == "powercapping.io"));
    let namespaces = Api::<Namespace>::all(rack.client.clone());
    assert!(namespaces.get_opt("powercap-node").await.unwrap().is_none());
    assert!(agents().is_empty());

    let again = uninstall(&[]);
    assert!(again.status.success(), "where nothing is installed there is nothing to do: {}", text(&again));
    set_as_an_administrator(default_limit_mw, &highest_khz);
    // Whoever comes next finds it installed.
    Rack::ready().await;
}

#[tokio::test]
async fn a_silent_node_is_named_and_what_it_needs_stays() {
    let rack = Rack::ready().await;
    rack.stop_agents().await;

    let began = Instant::now();
    let removed = uninstall(&["RELEASE_SECONDS=900"]);
    assert!(began.elapsed() < Duration::from_secs(600), "a silent agent is not waited for: {:?}", began.elapsed());
    assert!(!removed.status.success());
    let said = text(&removed);
    for node in rack.nodes().await {
        let name = &node.spec.node_name;
        assert!(said.contains(&format!("{name}: not released: its agent does not answer")), "{said}");
        assert!(node.spec.release, "its agent lets go when it runs again");
    }
    assert!(said.contains("namespace powercap-node"), "{said}");
    let domains = Api::<PowerDomain>::all(rack.client.clone()).list(&ListParams::default()).await.unwrap();
    assert!(domains.items.is_empty());

    rack.start_agents().await;
    rack.eventually("agents that run again let go", async |rack| {
        rack.nodes().await.iter().all(|node| {
            let conditions = node.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|condition| condition.reason == "Released")
        })
    })
    .await;
    let removed = uninstall(&[]);
    assert!(removed.status.success(), "{}", text(&removed));
}

/// `make uninstall`, as an administrator calls it, in the test's own cluster.
fn uninstall(more: &[&str]) -> Output {
    let mut make = Command::new("make");
    make.args(["uninstall", "CLUSTER=existing", "OVERLAY=manifests/overlays/demo", "RELEASE_SECONDS=300"]).args(more);
    make.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Sets one board's limit and one cpufreq policy's ceiling on each node, by no way of ours.
fn set_as_an_administrator(limit_mw: u32, ceiling_khz: &str) {
    for folder in hardware_folders().unwrap() {
        let (identity, board) = Root::new(&folder).boards().unwrap().remove(3);
        let mut request = board.request().unwrap();
        request
            .update(|request| {
                request.limit_mw = limit_mw;
                request.generation += 1;
            })
            .unwrap();
        let file = ceilings(&folder).remove(0);
        fs::write(&file, ceiling_khz).unwrap();
        let begun = Instant::now();
        let (board, file) = (format!("{} limit", identity.uuid), file.display().to_string());
        while settings()[&board] != limit_mw.to_string() || settings()[&file] != ceiling_khz {
            assert!(begun.elapsed() < Duration::from_secs(60), "what was set takes effect: {:#?}", settings());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Every power limit, range of clocks and cpufreq file that is in force.
fn settings() -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for folder in hardware_folders().unwrap() {
        for (identity, board) in Root::new(&folder).boards().unwrap() {
            let state = board.state().unwrap().read().unwrap();
            settings.insert(format!("{} limit", identity.uuid), state.limit_mw.to_string());
            settings
                .insert(format!("{} lock", identity.uuid), format!("{}..{}", state.lock_min_mhz, state.lock_max_mhz));
        }
        for file in ceilings(&folder) {
            for path in [file.with_file_name("scaling_min_freq"), file] {
                let value = fs::read_to_string(&path).unwrap().trim().to_owned();
                settings.insert(path.display().to_string(), value);
            }
        }
    }
    settings
}

fn settings_of_cpus() -> BTreeMap<String, String> {
    settings().into_iter().filter(|(name, _)| name.ends_with("scaling_max_freq")).collect()
}

fn ceilings(folder: &Path) -> Vec<PathBuf> {
    let policies = fs::read_dir(folder.join("cpufreq")).unwrap();
    let mut files: Vec<_> = policies.map(|entry| entry.unwrap().path().join("scaling_max_freq")).collect();
    files.retain(|file| file.exists());
    files.sort();
    files
}
