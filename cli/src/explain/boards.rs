//! Why boards run as they do: their rows, the causes that hold them back, each said once, and what would
//! free them. Pure.

use std::collections::BTreeMap;

use kube::ResourceExt;
use powercap_common::api::{GpuStatus, NodeFrequencies};

use super::{
    advice::advise,
    answer::{Answer, Cause},
    holder::{Holder, holder},
    particulars::particulars,
};
use crate::{caps::Caps, rows::BoardRow};

/// A board on its node.
pub type Board<'a> = (&'a NodeFrequencies, &'a GpuStatus);

/// How many of some boards are held back by caps, how far, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// All of them.
    pub boards: usize,
    /// Those that a cap holds back.
    pub held: usize,
    /// Those with which something is wrong.
    pub troubled: usize,
    /// How far: the lowest ceiling and the lowest limit of those that are held back, with the most that
    /// these boards could do.
    pub bounds: Vec<String>,
    /// By whom.
    pub by: Vec<String>,
}

impl Held {
    /// All of them, counted.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{} {}", self.boards, if self.boards == 1 { "board" } else { "boards" })
    }

    /// Those that a cap holds back.
    #[must_use]
    pub fn part(&self) -> String {
        match self.boards {
            1 => "its one board".to_owned(),
            all if all == self.held => format!("all its boards ({all})"),
            all => format!("{} of its {all} boards", self.held),
        }
    }

    /// How far they are held back.
    #[must_use]
    pub fn down_to(&self) -> String {
        if self.bounds.is_empty() { String::new() } else { format!(", down to {}", self.bounds.join(" and ")) }
    }

    /// What is to be said of those with which something is wrong.
    #[must_use]
    pub fn trouble(&self) -> String {
        match self.troubled {
            0 => String::new(),
            troubled => format!(" Something is wrong with {troubled} of {}.", self.all()),
        }
    }
}

/// Adds rows, causes and advice to an answer.
pub fn explain(boards: &[Board<'_>], caps: &Caps, answer: &mut Answer) -> Held {
    answer.boards = boards.iter().map(|(node, gpu)| BoardRow::of(node, gpu)).collect();
    BoardRow::shorten(&mut answer.boards);
    let mut causes = BTreeMap::<(String, String, Holder), Vec<Board<'_>>>::new();
    for &(node, gpu) in boards {
        let by = holder(node, gpu, caps);
        if by != Holder::Nobody {
            causes.entry((gpu.reason.clone(), node.name_any(), by)).or_default().push((node, gpu));
        }
    }
    let short: BTreeMap<_, _> = answer.boards.iter().map(|row| (row.uuid.clone(), row.short.clone())).collect();
    let mut held = Held { boards: boards.len(), ..Held::default() };
    let mut capped = Vec::new();
    for ((reason, _, by), of) in &causes {
        let Some((node, _)) = of.first() else { continue };
        answer.why.push(cause(reason, by, node, of.len(), caps, &short));
        if by.caps() {
            held.held += of.len();
            capped.extend(of.iter().map(|(_, gpu)| *gpu));
            held.by.push(by.to_string());
            advise(by, of, caps, answer);
        } else {
            held.troubled += of.len();
        }
    }
    held.by.sort();
    held.by.dedup();
    held.bounds = bounds(&capped);
    held
}

/// The lowest clock ceiling and power limit in force, next to the most of the same board.
fn bounds(gpus: &[&GpuStatus]) -> Vec<String> {
    let ceilings = gpus.iter().filter_map(|gpu| Some((gpu.target_graphics_megahertz?, gpu.max_graphics_megahertz)));
    let limits = gpus.iter().filter_map(|gpu| Some((gpu.power_limit_watts?, gpu.max_power_limit_watts)));
    let lowest = |(bound, most): (u32, u32), unit: &str| format!("{bound} of {most} {unit}");
    let clock = ceilings.filter(|(ceiling, most)| ceiling < most).min().map(|bound| lowest(bound, "MHz"));
    let limit = limits.filter(|(limit, most)| limit < most).min().map(|bound| lowest(bound, "W"));
    clock.into_iter().chain(limit).collect()
}

fn cause(
    reason: &str,
    by: &Holder,
    node: &NodeFrequencies,
    boards: usize,
    caps: &Caps,
    short: &BTreeMap<String, String>,
) -> Cause {
    let of = format!("{boards} {} on node {}", if boards == 1 { "board" } else { "boards" }, node.name_any());
    let (particulars, since) = particulars(by, node, caps, short);
    match reason.parse() {
        Ok(reason) => Cause::new(reason, of, &particulars, since),
        Err(_) => Cause { reason: reason.to_owned(), of, says: particulars, since },
    }
}
