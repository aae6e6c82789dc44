//! Rules of this house that no linter knows.
//!
//! What decides imports no client, no device, no clock and no async runtime: then the same input gives
//! the same plan, and every plan can be replayed. The rule is one of places, which clippy's list of forbidden
//! methods cannot express: the shells around these modules read clocks and talk to the world as they please.
//!
//! Every file of tests is run: most are modules of one program for each crate, since each program is linked anew, and
//! a file that nobody names is silent.
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

#[test]
fn every_file_of_tests_is_run() {
    let (mut forgotten, mut crates) = (Vec::new(), 0);
    for tests in folders().into_iter().filter(|folder| folder.ends_with("tests") && folder.join("main.rs").is_file()) {
        crates += 1;
        let main = fs::read_to_string(tests.join("main.rs")).unwrap();
        let manifest = fs::read_to_string(tests.with_file_name("Cargo.toml")).unwrap();
        for file in sources(&tests).into_iter().filter(|file| !file.ends_with("main.rs")) {
            let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
            let is_module = main.lines().any(|line| line == format!("mod {stem};"));
            let is_program = manifest.contains(&format!("path = \"tests/{stem}.rs\""));
            forgotten.extend((!is_module && !is_program).then_some(file));
        }
    }
    assert!(crates > 3, "only {crates} crates have their tests in one program");
    assert_eq!(forgotten, Vec::<PathBuf>::new(), "name each in the main.rs beside it");
}

/// The lines without comments, up to the tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let tests = text.lines().take_while(|line| *line != "#[cfg(test)]");
    tests.map(|line| line.split("//").next().unwrap_or_default())
}

/// `decide.rs`, all below `decide/`, and the algorithms that decisions ask, in the sources of every crate.
fn decisions() -> Vec<PathBuf> {
    let decides = |path: &Path| {
        path.strip_prefix(workspace()).unwrap().components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.starts_with("decide") || part == "algorithms"
        })
    };
    let is_ours = |folder: &PathBuf| {
        !folder.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples")
    };
    let sources = folders().into_iter().filter(is_ours).flat_map(|folder| sources(&folder));
    sources.filter(|path| decides(path)).collect()
}

/// The folders of the repository, without what was built.
fn folders() -> Vec<PathBuf> {
    let mut found = vec![workspace()];
    let mut next = 0;
    while let Some(folder) = found.get(next) {
        let inner = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name != "target" && !name.starts_with('.')
        };
        let inner: Vec<_> = inner.filter(is_ours).collect();
        found.extend(inner);
        next += 1;
    }
    found
}

/// The Rust files in a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}
