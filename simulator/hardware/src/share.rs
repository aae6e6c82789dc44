//! How boards are shared: cut into MIG instances, or offered several times (time slices).
//!
//! A MIG instance is a device of its own to programs, without power or clocks of its own: those are the
//! board's. A time slice is the whole board for some of the time. In both cases each tenant has a
//! record of its load, and the board works on all of them. What a tenant gets done is its own to count:
//! that tenants slow each other down is not simulated.
//!
//! What must hold: tenants together never load a board by more than itself; a tenant that died stops
//! counting after a second, whatever the others do.

use serde::{Deserialize, Serialize};

use crate::folder::Load;
use crate::spec::{BoardSpec, fingerprint};

/// A tenant whose beat stands still that long is gone.
const HEARTBEAT_SECONDS: f64 = 1.0;
/// Processors of a board are cut into sevenths.
const PARTS: f64 = 7.0;

/// A size of MIG instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigProfile {
    /// Its name, as in `nvidia.com/mig-1g.10gb`.
    pub name: &'static str,
    /// Sevenths of the board's processors.
    pub sevenths: u32,
    /// How many fit on a board.
    pub count: u32,
    /// Memory of each; somewhat less on a real board.
    pub memory_mib: u64,
}

const fn profile(name: &'static str, sevenths: u32, count: u32, gigabytes: u64) -> MigProfile {
    MigProfile { name, sevenths, count, memory_mib: gigabytes * 1000 * 1000 * 1000 / (1 << 20) }
}

const OF_40_GB: &[MigProfile] = &[
    profile("1g.5gb", 1, 7, 5),
    profile("2g.10gb", 2, 3, 10),
    profile("3g.20gb", 3, 2, 20),
    profile("4g.20gb", 4, 1, 20),
    profile("7g.40gb", 7, 1, 40),
];
const OF_80_GB: &[MigProfile] = &[
    profile("1g.10gb", 1, 7, 10),
    profile("2g.20gb", 2, 3, 20),
    profile("3g.40gb", 3, 2, 40),
    profile("4g.40gb", 4, 1, 40),
    profile("7g.80gb", 7, 1, 80),
];
const OF_141_GB: &[MigProfile] = &[
    profile("1g.18gb", 1, 7, 18),
    profile("2g.35gb", 2, 3, 35),
    profile("3g.71gb", 3, 2, 71),
    profile("4g.71gb", 4, 1, 71),
    profile("7g.141gb", 7, 1, 141),
];
const OF_180_GB: &[MigProfile] = &[
    profile("1g.23gb", 1, 7, 23),
    profile("2g.45gb", 2, 3, 45),
    profile("3g.90gb", 3, 2, 90),
    profile("4g.90gb", 4, 1, 90),
    profile("7g.180gb", 7, 1, 180),
];

/// How a model can be partitioned. Profiles are from NVIDIA's user guide, from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigLayout {
    /// Not at all.
    None,
    /// As a board of 40 GB.
    Of40Gb,
    /// As a board of 80 GB.
    Of80Gb,
    /// As a board of 141 GB.
    Of141Gb,
    /// As a board of 180 GB.
    Of180Gb,
}

impl MigLayout {
    /// The sizes of instances.
    #[must_use]
    pub const fn profiles(self) -> &'static [MigProfile] {
        match self {
            Self::None => &[],
            Self::Of40Gb => OF_40_GB,
            Self::Of80Gb => OF_80_GB,
            Self::Of141Gb => OF_141_GB,
            Self::Of180Gb => OF_180_GB,
        }
    }

    /// The size of that name.
    #[must_use]
    pub fn profile(self, name: &str) -> Option<&'static MigProfile> {
        self.profiles().iter().find(|profile| profile.name == name)
    }
}

/// How each board of a node is shared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sharing {
    /// Not at all.
    #[default]
    Whole,
    /// Cut into as many MIG instances of this profile as fit.
    Mig(String),
    /// Offered that many times.
    TimeSlices(u32),
}

/// A part of a board that a container can hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// What the device plugin calls it: `MIG-…`, or `GPU-…::N` for a time slice.
    pub id: String,
    /// The MIG profile; none for a time slice.
    pub profile: Option<String>,
    /// Its part of the board's processors while it works, 0 to 1.
    pub part: f64,
    /// Its memory.
    pub memory_mib: u64,
}

impl Sharing {
    /// The shares of a board; none when it is whole, or cannot be cut so.
    #[must_use]
    pub fn shares(&self, uuid: &str, spec: &BoardSpec) -> Vec<Share> {
        match self {
            Self::Whole => Vec::new(),
            Self::Mig(name) => {
                let Some(profile) = spec.mig.profile(name) else { return Vec::new() };
                let instance = |index| Share {
                    id: mig_uuid(uuid, index),
                    profile: Some(profile.name.to_owned()),
                    part: f64::from(profile.sevenths) / PARTS,
                    memory_mib: profile.memory_mib,
                };
                (0..profile.count).map(instance).collect()
            }
            Self::TimeSlices(count) => {
                let memory_mib = spec.memory_mib;
                let slice = |index| Share { id: format!("{uuid}::{index}"), profile: None, part: 1.0, memory_mib };
                (0..*count).map(slice).collect()
            }
        }
    }
}

fn mig_uuid(board: &str, index: u32) -> String {
    let high = fingerprint(format!("{board}/mig/{index}/high").as_bytes());
    let low = fingerprint(format!("{board}/mig/{index}/low").as_bytes());
    let (first, second, third) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
    format!("MIG-{first:08x}-{second:04x}-{third:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
}

/// The tenants of one board, and who of them lives.
#[derive(Debug, Clone)]
pub struct Tenants {
    parts: Vec<f64>,
    beats: Vec<(u64, f64)>,
    beat: u64,
}

impl Tenants {
    /// Of a board with these shares.
    #[must_use]
    pub fn of(shares: &[Share]) -> Self {
        let parts: Vec<f64> = shares.iter().map(|share| share.part).collect();
        Self { beats: vec![(0, HEARTBEAT_SECONDS); parts.len()], parts, beat: 0 }
    }

    /// What the board works on, `seconds` after it was asked last.
    pub fn together(&mut self, seconds: f64, loads: &[Load]) -> Load {
        let mut sum = Load::default();
        let mut weight = 0.0;
        for ((load, part), (beat, age_seconds)) in loads.iter().zip(&self.parts).zip(&mut self.beats) {
            *age_seconds = if load.beat == *beat { *age_seconds + seconds } else { 0.0 };
            *beat = load.beat;
            if load.beat == 0 || *age_seconds >= HEARTBEAT_SECONDS {
                continue;
            }
            // The board stays awake while any tenant lives.
            self.beat += 1;
            let work = if load.utilisation.is_finite() { load.utilisation.clamp(0.0, 1.0) * part } else { 0.0 };
            weight += work;
            sum.memory_share += work * load.memory_share;
            sum.intensity += work * load.intensity;
            sum.memory_used_mib += load.memory_used_mib;
        }
        if weight > 0.0 {
            sum.memory_share /= weight;
            sum.intensity /= weight;
        }
        Load { beat: self.beat, utilisation: weight.min(1.0), ..sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(beat: u64, utilisation: f64) -> Load {
        Load { beat, utilisation, memory_share: 0.5, intensity: 0.8, memory_used_mib: 1000 }
    }

    #[test]
    fn an_h100_is_cut_into_seven_small_instances_or_two_large_ones() {
        let spec = BoardSpec::h100_sxm();
        let small = Sharing::Mig("1g.10gb".to_owned()).shares("GPU-1", &spec);
        assert_eq!(small.len(), 7);
        assert!(small.iter().all(|share| share.id.starts_with("MIG-") && share.id.len() == 40), "{small:?}");
        assert!(small.windows(2).all(|pair| pair[0].id != pair[1].id));
        assert_eq!(Sharing::Mig("3g.40gb".to_owned()).shares("GPU-1", &spec).len(), 2);
        assert!(Sharing::Mig("1g.5gb".to_owned()).shares("GPU-1", &spec).is_empty(), "an A100-40G's");
        assert!(Sharing::Mig("1g.10gb".to_owned()).shares("GPU-1", &BoardSpec::l40s()).is_empty());
    }

    #[test]
    fn instances_never_add_up_to_more_than_their_board() {
        for layout in [MigLayout::Of40Gb, MigLayout::Of80Gb, MigLayout::Of141Gb, MigLayout::Of180Gb] {
            for profile in layout.profiles() {
                assert!(profile.sevenths * profile.count <= 7, "{profile:?}");
            }
        }
    }

    #[test]
    fn time_slices_are_named_by_their_board() {
        let shares = Sharing::TimeSlices(2).shares("GPU-1", &BoardSpec::l40s());
        let ids: Vec<&str> = shares.iter().map(|share| share.id.as_str()).collect();
        assert_eq!(ids, ["GPU-1::0", "GPU-1::1"]);
    }

    #[test]
    fn tenants_of_instances_add_up_by_their_parts_and_slices_to_the_whole_at_most() {
        let spec = BoardSpec::h100_sxm();
        let mut instances = Tenants::of(&Sharing::Mig("3g.40gb".to_owned()).shares("GPU-1", &spec));
        let load = instances.together(0.01, &[busy(1, 1.0), busy(1, 0.5)]);
        assert!((load.utilisation - 4.5 / 7.0).abs() < 1e-9, "{load:?}");
        assert!((load.memory_share - 0.5).abs() < 1e-9 && (load.intensity - 0.8).abs() < 1e-9);
        assert_eq!(load.memory_used_mib, 2000);
        let mut slices = Tenants::of(&Sharing::TimeSlices(2).shares("GPU-1", &spec));
        assert!((slices.together(0.01, &[busy(1, 0.9), busy(1, 0.9)]).utilisation - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_tenant_that_died_counts_no_more_though_the_other_lives() {
        let mut tenants = Tenants::of(&Sharing::TimeSlices(2).shares("GPU-1", &BoardSpec::l40s()));
        let mut last = Load::default();
        for beat in 1..=150 {
            let next = tenants.together(0.01, &[busy(beat, 0.2), busy(1, 0.7)]);
            assert!(next.beat > last.beat, "the board sees life");
            last = next;
        }
        assert!((last.utilisation - 0.2).abs() < 1e-9, "{last:?}");
        assert_eq!(last.memory_used_mib, 1000);
    }
}
