//! Aligned columns, and the words for numbers in them: what is not known is `-`, never zero.

use std::fmt::Display;

use jiff::{SignedDuration, Timestamp};

/// One line of a table.
pub trait Row {
    /// The columns.
    const HEADINGS: &'static [&'static str];
    /// What stands in them.
    fn cells(&self) -> Vec<String>;
}

/// The rows below their headings, each column as wide as its widest cell. Ends with a line break.
#[must_use]
pub fn table<R: Row>(rows: &[R]) -> String {
    let headings = R::HEADINGS.iter().map(|heading| (*heading).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(headings).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..R::HEADINGS.len()).filter_map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A value, or `-` for one that is not known.
#[must_use]
pub fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// How long ago that was, as kubectl says it.
#[must_use]
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).max(SignedDuration::ZERO).as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// UUIDs as short as they can be told from each other, but never shorter than `GPU-` and eight digits.
#[must_use]
pub fn shortened(uuids: &[&str]) -> Vec<String> {
    let differ = |length: usize| {
        let mut short: Vec<_> = uuids.iter().map(|uuid| uuid.get(..length).unwrap_or(uuid)).collect();
        short.sort_unstable();
        short.windows(2).all(|pair| pair[0] != pair[1])
    };
    let longest = uuids.iter().map(|uuid| uuid.len()).max().unwrap_or(0);
    let length = (12..=longest).find(|length| differ(*length)).unwrap_or(longest);
    uuids.iter().map(|uuid| uuid.get(..length).unwrap_or(uuid).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_as_kubectl_says_them() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        for (seconds, said) in [(-3, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(age(at(0), at(seconds)), said);
        }
    }

    #[test]
    fn boards_are_named_as_short_as_they_differ() {
        assert_eq!(shortened(&["GPU-0123456789", "GPU-9876543210"]), ["GPU-01234567", "GPU-98765432"]);
        assert_eq!(shortened(&["GPU-0123456789", "GPU-0123456799"]), ["GPU-012345678", "GPU-012345679"]);
        assert_eq!(shortened(&["GPU-1"]), ["GPU-1"]);
    }
}
