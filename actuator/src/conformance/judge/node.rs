//! What concerns the node as a whole.

use std::collections::BTreeSet;

use crate::conformance::{
    finding::{Answer, Judgement},
    measured::{Holding, Privileges},
};

/// Whether boards and cpufreq would take ceilings from this process.
#[must_use]
pub fn privileges(privileges: Option<Privileges>) -> Judgement {
    let Some(privileges) = privileges else { return Judgement::fail("/proc/self/status cannot be understood") };
    Judgement::pass()
        .number("user", privileges.user.into(), "")
        .text("CAP_SYS_ADMIN", if privileges.sys_admin { "yes" } else { "no" })
        .fail_if(privileges.user != 0, || format!("this is user {}: run it as root", privileges.user))
        .fail_if(!privileges.sys_admin, || "CAP_SYS_ADMIN is not in effect: add the capability".to_owned())
}

/// The user and the capabilities in effect, from the text of `/proc/self/status`.
#[must_use]
pub fn privileges_of(status: &str) -> Option<Privileges> {
    const SYS_ADMIN: u32 = 21;
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    // Real, effective, saved, file system.
    let user = line("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    let effective = u64::from_str_radix(line("CapEff:")?, 16).ok()?;
    Some(Privileges { user, sys_admin: effective >> SYS_ADMIN & 1 == 1 })
}

/// Whether the kubelet tells which pods hold which devices.
#[must_use]
pub fn pod_resources(holdings: Option<&Answer<Vec<Holding>>>) -> Judgement {
    match holdings {
        None => Judgement::skipped("no such socket: not a node of Kubernetes, or not mounted into this container"),
        Some(Err(error)) => Judgement::fail(error.to_string()),
        Some(Ok(holdings)) => Judgement::pass().count("devices held", holdings.len()),
    }
}

/// A pod that holds the board, or a part or a time slice of it. Parts are named by themselves: on a
/// partitioned board any of them may be of this one.
#[must_use]
pub fn holder<'pod>(holdings: &'pod [Holding], uuid: &str, partitioned: bool) -> Option<&'pod str> {
    let of_board = |id: &str| {
        let board = id.split_once("::").map_or(id, |(board, _slice)| board);
        board == uuid || (partitioned && id.starts_with("MIG-"))
    };
    holdings.iter().find(|holding| of_board(&holding.id)).map(|holding| holding.pod.as_str())
}

/// Whether boards can be addressed.
#[must_use]
pub fn uuids_unique(uuids: &[&Answer<String>]) -> Judgement {
    let known: Vec<_> = uuids.iter().filter_map(|uuid| uuid.as_ref().ok()).collect();
    let distinct: BTreeSet<_> = known.iter().collect();
    Judgement::pass()
        .count("boards", uuids.len())
        .fail_if(distinct.len() != known.len(), || "two boards have the same UUID".to_owned())
        .fail_if(known.len() != uuids.len(), || "a board tells no UUID".to_owned())
        .fail_if(known.iter().any(|uuid| uuid.is_empty()), || "a UUID is empty".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::finding::Verdict;

    #[test]
    fn root_with_its_capability_passes_and_nobody_else() {
        let status = |user: u32, effective: &str| format!("Name:\tx\nUid:\t1000\t{user}\t0\t0\nCapEff:\t{effective}\n");
        for (user, effective, passes) in [
            (0, "000001ffffffffff", true),
            (0, "0000000000200000", true),
            (0, "00000000a80425fb", false),
            (1000, "000001ffffffffff", false),
        ] {
            let judged = privileges(privileges_of(&status(user, effective)));
            assert_eq!(judged.verdict == Verdict::Pass, passes, "{user} {effective}: {:?}", judged.verdict);
        }
        assert!(privileges_of("Uid:\t0\n").is_none());
    }

    #[test]
    fn a_board_is_held_by_whole_by_part_or_by_time_slice() {
        for (id, partitioned, held) in [
            ("GPU-1", false, true),
            ("GPU-1::3", false, true),
            ("GPU-10", false, false),
            ("GPU-2", true, false),
            ("MIG-7", true, true),
            ("MIG-7", false, false),
            ("0000:3b:00.0", true, false),
        ] {
            let holdings = [Holding { id: id.to_owned(), pod: "team/pod".to_owned() }];
            assert_eq!(holder(&holdings, "GPU-1", partitioned), held.then_some("team/pod"), "{id}");
        }
        assert_eq!(holder(&[], "GPU-1", true), None);
    }

    #[test]
    fn two_boards_of_one_uuid_fail() {
        let (one, other): (Answer<String>, Answer<String>) = (Ok("GPU-1".into()), Ok("GPU-2".into()));
        assert_eq!(uuids_unique(&[&one, &other]).verdict, Verdict::Pass);
        assert!(matches!(uuids_unique(&[&one, &one]).verdict, Verdict::Fail(_)));
    }
}
