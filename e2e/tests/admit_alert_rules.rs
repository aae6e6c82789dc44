//! The rules for Prometheus say what admission says: promtool runs them over series, and each alert fires.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use powercap_common::alert::ALL;
use powercap_e2e::cluster::{packages, programs};
use serde_json::Value;

const MANIFEST: &str = "../manifests/components/alerts-by-prometheus/rules.yaml";
const SERIES: &str = "tests/alert_rules.yaml";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn promtool_finds_every_alert_fire_when_it_should_and_end_when_it_should() {
    let rule: Value = serde_saphyr::from_str(&read(MANIFEST)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // As JSON, which is YAML: Prometheus reads what stands below `spec` of the operator's object.
    fs::write(folder.path().join("rules.yaml"), rule["spec"].to_string()).unwrap();
    fs::write(folder.path().join("series.yaml"), read(SERIES)).unwrap();
    let promtool = packages::unpacked(&programs::cache().unwrap()).join("usr/bin/promtool");
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "series.yaml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(folder.path()).output();
        let output =
            output.unwrap_or_else(|error| panic!("{}: {error}; `make cluster` unpacks it", promtool.display()));
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn every_alert_has_series_over_which_it_fires() {
    let tests: Value = serde_saphyr::from_str(&read(SERIES)).unwrap();
    let tests = tests["tests"].as_array().unwrap().iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let fires = tests.filter(|test| test["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()));
    let fired: BTreeSet<_> = fires.map(|test| test["alertname"].as_str().unwrap().to_owned()).collect();
    let all: BTreeSet<_> = ALL.iter().map(|alert| alert.name.to_owned()).collect();
    assert_eq!(fired, all);
}
