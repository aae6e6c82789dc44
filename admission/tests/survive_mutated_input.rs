//! What is sent may be anything: reviews of a corpus are cut, spliced and garbled, tens of thousands of times, and so
//! are quantities. Nothing of it panics, what is answered is an answer, and a pod is never refused.
//!
//! Chance alone finds what there is: to be guided by coverage, a fuzzer would have all of this compiled once more with
//! instruments, which takes longer than the minute that it then runs. These run in every `cargo test`, a fixed number
//! of times, and shrink what they find.

use std::{fs, path::Path, sync::LazyLock};

use powercap_admission::{cluster::Cluster, review::answer};
use powercap_common::quantity::Quantity;
use proptest::{
    prelude::{ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest},
    sample::Index,
};
use serde_json::Value;

use crate::world::World;

/// What readers of JSON, numbers and Kubernetes stumble over.
const WORDS: [&str; 22] = [
    "null",
    "true",
    "-1",
    "1e309",
    "0.1m",
    "9223372036854775808",
    "1e-400",
    "\"\"",
    "[]",
    "{}",
    "\\u0000",
    "\\ud800",
    "\"",
    "{",
    "[",
    "]",
    "}",
    ",",
    ":",
    "\"uid\":",
    "\"containers\":",
    "\"resources\":{\"requests\":",
];

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/review");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
});

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let mut world = World::new();
    world.control(&["cpu", "memory", "powercapping.io/watts"], "RequestsAndLimits");
    world.cluster()
});

/// One thing that goes wrong with a text.
#[derive(Clone, Debug)]
enum Mishap {
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Index),
    Splice(Index, Index, Index),
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, bits)| Mishap::Flip(at, bits)),
        1 => any::<Index>().prop_map(Mishap::Cut),
        1 => any::<(Index, Index)>().prop_map(|(from, to)| Mishap::Remove(from, to)),
        1 => any::<(Index, Index)>().prop_map(|(from, to)| Mishap::Repeat(from, to)),
        4 => any::<(Index, Index)>().prop_map(|(at, word)| Mishap::Insert(at, word)),
        1 => any::<(Index, Index, Index)>().prop_map(|(at, of, from)| Mishap::Splice(at, of, from)),
    ]
}

impl Mishap {
    fn befall(&self, text: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let place = |index: &Index, text: &[u8]| index.index(text.len() + 1);
        let range = |from: &Index, to: &Index, text: &[u8]| {
            let (from, to) = (place(from, text), place(to, text));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Flip(at, bits) if !text.is_empty() => {
                let at = at.index(text.len());
                text[at] ^= bits;
            }
            Self::Flip(..) => {}
            Self::Cut(at) => text.truncate(place(at, text)),
            Self::Remove(from, to) => drop(text.drain(range(from, to, text))),
            Self::Repeat(from, to) => text.extend_from_within(range(from, to, text)),
            Self::Insert(at, word) => {
                let at = place(at, text);
                text.splice(at..at, word.get(&WORDS).bytes());
            }
            Self::Splice(at, of, from) => {
                let other = of.get(corpus);
                let (at, from) = (place(at, text), place(from, other));
                text.splice(at.., other[from..].iter().copied());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn whatever_becomes_of_a_review_the_answer_allows_or_there_is_none(
        of in any::<Index>(),
        mishaps in prop::collection::vec(mishap(), 0..6),
    ) {
        let mut body = of.get(&CORPUS).clone();
        mishaps.iter().for_each(|mishap| mishap.befall(&mut body, &CORPUS));
        let Ok(answered) = answer(&body, &CLUSTER) else {
            prop_assert!(!mishaps.is_empty(), "what the corpus holds is answered");
            return Ok(());
        };
        let response = serde_json::from_slice::<Value>(&answered.body).unwrap()["response"].clone();
        prop_assert_eq!(&response["allowed"], true);
        prop_assert!(response["uid"].as_str().is_some_and(|uid| !uid.is_empty()));
        prop_assert_eq!(response["patch"].is_null(), response["patchType"].is_null());
        for warning in response["warnings"].as_array().into_iter().flatten() {
            let warning = warning.as_str().unwrap();
            prop_assert!(warning.len() <= 256 && !warning.contains(char::is_control), "{:?}", warning);
        }
    }

    #[test]
    fn whatever_becomes_of_a_quantity_it_is_read_back_as_it_is_written_or_refused(
        of in prop::sample::select(vec!["500m", "1.5Gi", "1e3", ".5", "-2Ki", "9223372036854775807", "0.000000001", "1E"]),
        mishaps in prop::collection::vec(mishap(), 0..4),
    ) {
        let mut text = of.as_bytes().to_vec();
        mishaps.iter().for_each(|mishap| mishap.befall(&mut text, &CORPUS));
        let Ok(text) = String::from_utf8(text) else { return Ok(()) };
        if let Ok(quantity) = text.parse::<Quantity>() {
            let written = quantity.to_string();
            prop_assert_eq!(written.parse::<Quantity>(), Ok(quantity), "{} as {}", text, written);
            prop_assert!(quantity.ceil() as u128 * 1000 >= u128::from(quantity.ceil_millis()));
        }
    }
}
