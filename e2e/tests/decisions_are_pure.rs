//! What decides imports no client, no device, no clock and no async runtime: then the same input gives
//! the same plan, and every plan can be replayed.
//!
//! The rule is one of places, which clippy's list of forbidden methods cannot express: the shells around
//! these modules read clocks and talk to the world as they please.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers fail it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a decision may not name, and the crates and modules by which it could.
const FORBIDDEN: [&str; 13] = [
    "::now(",
    "Instant",
    "SystemTime",
    "tokio",
    "kube::",
    "reqwest",
    "hyper",
    "nvml",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
];

#[test]
fn no_decision_reads_a_clock_or_talks_to_anything() {
    let mut wrong = Vec::new();
    let decisions = decisions();
    for file in &decisions {
        let text = fs::read_to_string(file).unwrap();
        let names = |line: &str| FORBIDDEN.into_iter().find(|word| line.contains(word));
        for (number, line) in code(&text).enumerate() {
            wrong.extend(names(line).map(|word| format!("{}:{}: {word}", file.display(), number + 1)));
        }
    }
    for binary in ["recommender", "actuator", "admission"] {
        let known = decisions.iter().any(|file| file.starts_with(workspace().join(binary)));
        assert!(known, "the decisions of {binary} are not found");
    }
    assert!(wrong.is_empty(), "take it as an argument of the decision, from its shell:\n{}", wrong.join("\n"));
}

#[test]
fn what_is_forbidden_is_seen_in_code_and_not_in_comments() {
    let text =
        "//! by tokio\nlet a = 1; // Instant\nlet now = jiff::Timestamp::now();\n#[cfg(test)]\nmod tests { tokio }\n";
    let seen: Vec<_> = code(text).map(|line| FORBIDDEN.iter().any(|word| line.contains(word))).collect();
    assert_eq!(seen, [false, false, true]);
}

/// The lines without comments, up to the tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let tests = text.lines().take_while(|line| *line != "#[cfg(test)]");
    tests.map(|line| line.split("//").next().unwrap_or_default())
}

/// `decide.rs`, all below `decide/`, and the algorithms that decisions ask, in the sources of every crate.
fn decisions() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![workspace()];
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            let of_decision = path.strip_prefix(workspace()).unwrap().components().any(|part| {
                let part = part.as_os_str().to_string_lossy();
                part.starts_with("decide") || part == "algorithms"
            });
            if path.is_dir() {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let skipped =
                    ["target", "tests", "examples", "node_modules"].contains(&name.as_str()) || name.starts_with('.');
                open.extend((!skipped).then_some(path));
            } else if is_source && of_decision {
                found.push(path);
            }
        }
    }
    found
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}
