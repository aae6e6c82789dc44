//! What fuzzing begins from, and what it once found, holds in each `cargo test`.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::{fs, path::Path};

fn corpus(of: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(of);
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.display().to_string(), fs::read(path).unwrap())
    };
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(read).collect();
    assert!(files.len() >= 8, "{of}: some are missing");
    files
}

#[test]
fn each_review_of_the_corpus_is_answered() {
    for (name, body) in corpus("review") {
        assert!(powercap_fuzz::review(&body), "{name} is no review");
    }
}

#[test]
fn each_quantity_of_the_corpus_is_read() {
    for (name, text) in corpus("quantity") {
        assert!(powercap_fuzz::quantity(str::from_utf8(&text).unwrap()), "{name} is no quantity");
    }
}
