//! The page of the algorithms tells what the algorithms are and take, and its examples come out.

use std::{fmt::Write as _, fs, path::Path};

use powercap_common::{api::AlgorithmSpec, units::Watts};
use powercap_recommender::algorithms::{Claim, KINDS, Kind, named, share_out};
use serde_json::json;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/algorithms.md")).unwrap()
}

/// The table of an algorithm's parameters, by their schema.
fn table(kind: &Kind) -> String {
    let mut table = "| parameter | from | to | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for (name, schema) in kind.parameters() {
        let about = schema["description"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        let (from, to, default) = (&schema["minimum"], &schema["maximum"], &schema["default"]);
        writeln!(table, "| `{name}` | {from} | {to} | {default} | {about} |").unwrap();
    }
    table
}

#[test]
fn every_algorithm_and_every_parameter_is_on_the_page() {
    let page = page();
    for kind in &KINDS {
        let section = page.split("\n## ").find(|section| section.lines().next() == Some(kind.name));
        let section = section.unwrap_or_else(|| panic!("{} has no section", kind.name));
        assert!(page.contains(&format!("| `{}` |", kind.name)), "{} is not in the first table", kind.name);
        match kind.schema {
            None => assert!(section.contains("No parameters.")),
            Some(_) => assert!(section.contains(&table(kind)), "{} should have\n{}", kind.name, table(kind)),
        }
    }
}

#[test]
fn the_examples_of_the_page_come_out() {
    let board = |power: u32, priority: i64, most: u32| Claim {
        least: Watts::new(200),
        most: Some(Watts::new(most)),
        power: Some(Watts::new(power)),
        priority,
        ..Claim::default()
    };
    let alike = [1000, 0, 0].map(|priority| board(600, priority, 700));
    let loads = [600, 400, 200].map(|power| board(power, 0, 700));
    let small = [300, 700, 700].map(|most| board(600, 0, most));
    let reserved = json!({"name": "priority", "parameters": {"reservedPercent": 50}});
    for (algorithm, whole, claims, gets) in [
        (json!({}), 1500, &alike, [500, 500, 500]),
        (json!({}), 1500, &small, [300, 600, 600]),
        (json!({"name": "proportional"}), 1010, &loads, [450, 340, 220]),
        (json!({"name": "proportional"}), 1500, &loads, [700, 480, 320]),
        (json!({"name": "priority"}), 1300, &alike, [700, 300, 300]),
        (reserved, 1300, &alike, [666, 316, 316]),
    ] {
        let spec: AlgorithmSpec = serde_json::from_value(algorithm).unwrap();
        let shares = share_out(&*named(&spec).unwrap(), Watts::new(whole), claims);
        assert_eq!(shares.watts, gets.map(Watts::new), "{spec:?}");
    }
}
