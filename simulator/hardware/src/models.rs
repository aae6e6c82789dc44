//! The board models, each with where its numbers come from.
//!
//! What must hold: a number without a measurement of that very board is called scaled or assumed.

use crate::curves::Family;
use crate::share::MigLayout;
use crate::spec::BoardSpec;

impl BoardSpec {
    /// Models by the name that the command line takes.
    pub const MODELS: [&'static str; 7] =
        ["h100-sxm", "h200-sxm", "a100-sxm-40gb", "a100-pcie-40gb", "a100-pcie-80gb", "l40s", "b200"];

    /// The model of that name, if known.
    #[must_use]
    pub fn by_name(model: &str) -> Option<Self> {
        match model {
            "h100-sxm" => Some(Self::h100_sxm()),
            "h200-sxm" => Some(Self::h200_sxm()),
            "a100-sxm-40gb" => Some(Self::a100_sxm()),
            "a100-pcie-40gb" => Some(Self::a100_pcie_40gb()),
            "a100-pcie-80gb" => Some(Self::a100_pcie_80gb()),
            "l40s" => Some(Self::l40s()),
            "b200" => Some(Self::b200()),
            _ => None,
        }
    }

    /// H100 SXM: ranges as its data sheet and NVML give them, idle 68–73 W measured.
    #[must_use]
    pub fn h100_sxm() -> Self {
        Self {
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            min_mhz: 345,
            max_mhz: 1980,
            step_mhz: 15.0,
            memory_mhz: 2619,
            default_watts: 700.0,
            min_watts: 200.0,
            max_watts: 700.0,
            idle_watts: 70.0,
            peak_watts: 875.0,
            full_watts: 700.0,
            curves: Family::A100,
            memory_mib: 81559,
            mig: MigLayout::Of80Gb,
            provenance: "ranges: H100 (NVML); idle: measured 68–73 W; power and speed over the clock: \
                         SCALED from A100-PCIe points (f/fmax, W/TDP), not measured on an H100; \
                         decode power and tokens/s by batch: measured on H100; peak: assumed 1.25 TDP"
                .to_owned(),
        }
    }

    /// H200 SXM: the H100's chip with more memory.
    #[must_use]
    pub fn h200_sxm() -> Self {
        Self {
            name: "NVIDIA H200".to_owned(),
            memory_mhz: 3201,
            curves: Family::H200,
            memory_mib: 143_771,
            mig: MigLayout::Of141Gb,
            provenance: "ranges: H200 (NVML, from memory); speed at 500 and 350 W: measured on 8×H200 \
                         nodes (MLPerf); the clocks of those points: SCALED from a B300's; memory-bound \
                         work: SCALED from A100-PCIe points; decode by batch: SCALED from an H100; idle: \
                         assumed as an H100's; peak: assumed 1.25 TDP"
                .to_owned(),
            ..Self::h100_sxm()
        }
    }

    /// A100 SXM 40 GB.
    #[must_use]
    pub fn a100_sxm() -> Self {
        Self {
            name: "NVIDIA A100-SXM4-40GB".to_owned(),
            min_mhz: 210,
            max_mhz: 1410,
            step_mhz: 15.0,
            memory_mhz: 1215,
            default_watts: 400.0,
            min_watts: 100.0,
            max_watts: 400.0,
            idle_watts: 50.0,
            peak_watts: 500.0,
            full_watts: 400.0,
            curves: Family::A100,
            memory_mib: 40960,
            mig: MigLayout::Of40Gb,
            provenance: "ranges: A100-40G (NVML); curves: scaled from A100-PCIe points; idle and peak: assumed"
                .to_owned(),
        }
    }

    /// A100 PCIe 80 GB: the one board here whose curves were measured on itself.
    #[must_use]
    pub fn a100_pcie_80gb() -> Self {
        Self {
            name: "NVIDIA A100 80GB PCIe".to_owned(),
            memory_mhz: 1512,
            default_watts: 300.0,
            max_watts: 300.0,
            peak_watts: 375.0,
            full_watts: 300.0,
            memory_mib: 81920,
            mig: MigLayout::Of80Gb,
            provenance: "clocks: A100 (NVML); curves: MEASURED on an A100-PCIe at 300 W, 1005–1410 MHz; \
                         lowest limit: assumed as an A100-40G's; idle and peak: assumed"
                .to_owned(),
            ..Self::a100_sxm()
        }
    }

    /// A100 PCIe 40 GB: the same chip under a limit of 250 W, which dense work reaches.
    #[must_use]
    pub fn a100_pcie_40gb() -> Self {
        Self {
            name: "NVIDIA A100-PCIE-40GB".to_owned(),
            memory_mhz: 1215,
            default_watts: 250.0,
            max_watts: 250.0,
            memory_mib: 40960,
            mig: MigLayout::Of40Gb,
            provenance: "ranges: A100-40G (NVML; 250 W from its data sheet); watts over the clock: as MEASURED \
                         on an A100-PCIe at 300 W, cut by the limit of 250 W; idle and peak: assumed"
                .to_owned(),
            ..Self::a100_pcie_80gb()
        }
    }

    /// L40S: 155 clocks, more than the 128 that some readers have room for; it cannot be partitioned.
    #[must_use]
    pub fn l40s() -> Self {
        Self {
            name: "NVIDIA L40S".to_owned(),
            min_mhz: 210,
            max_mhz: 2520,
            step_mhz: 15.0,
            memory_mhz: 9001,
            default_watts: 350.0,
            min_watts: 100.0,
            max_watts: 350.0,
            idle_watts: 35.0,
            peak_watts: 440.0,
            full_watts: 350.0,
            curves: Family::A100,
            memory_mib: 46068,
            mig: MigLayout::None,
            provenance: "ranges: L40S (NVML); curves: SCALED from A100-PCIe points; idle and peak: assumed".to_owned(),
        }
    }

    /// B200: 247 clocks of 7.5 MHz.
    #[must_use]
    pub fn b200() -> Self {
        Self {
            name: "NVIDIA B200".to_owned(),
            min_mhz: 120,
            max_mhz: 1965,
            step_mhz: 7.5,
            memory_mhz: 3996,
            default_watts: 1000.0,
            min_watts: 200.0,
            max_watts: 1000.0,
            idle_watts: 140.0,
            peak_watts: 1250.0,
            full_watts: 1000.0,
            curves: Family::B300,
            memory_mib: 183_359,
            mig: MigLayout::Of180Gb,
            provenance: "ranges: B200 (NVML); dense work: SCALED from B300 points; memory-bound work: SCALED from \
                         A100-PCIe points; idle and peak: assumed"
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{Board, Traits};
    use crate::folder::{Load, Request};

    fn models() -> Vec<BoardSpec> {
        BoardSpec::MODELS.iter().map(|model| BoardSpec::by_name(model).unwrap()).collect()
    }

    /// Mean true watts and speed of dense or memory-bound work under a lock.
    fn settled(spec: &BoardSpec, lock_max_mhz: u32, memory_share: f64) -> (f64, f64) {
        let mut board = Board::new(spec.clone(), Traits::EXACT);
        let request = Request { lock_max_mhz, ..Board::boot_request(spec) };
        let load = |beat| Load { beat, utilisation: 1.0, memory_share, intensity: 1.0, memory_used_mib: 0 };
        let mut before = (0.0, 0.0);
        let mut work = 0.0;
        for beat in 1..=800 {
            if beat == 401 {
                before = (board.true_joules(), work);
            }
            work = board.step(0.005, &request, &load(beat)).work_seconds;
        }
        ((board.true_joules() - before.0) / 2.0, (work - before.1) / 2.0)
    }

    #[test]
    fn every_model_has_a_range_of_clocks_and_limits_and_says_where_they_come_from() {
        for spec in models() {
            assert!(spec.clock_count() > 80 && spec.clock(spec.clock_count() - 1) == spec.max_mhz, "{}", spec.name);
            assert!(spec.idle_watts < spec.min_watts && spec.min_watts < spec.max_watts, "{}", spec.name);
            assert!(spec.default_watts <= spec.max_watts && spec.max_watts < spec.peak_watts, "{}", spec.name);
            let provenance = spec.provenance.to_lowercase();
            assert!(["ranges", "clocks"].iter().any(|word| provenance.contains(word)), "{}", spec.name);
            assert!(["scaled", "measured"].iter().any(|word| provenance.contains(word)), "{}", spec.name);
        }
        assert_eq!(BoardSpec::by_name("h100"), None);
    }

    #[test]
    fn an_l40s_has_155_clocks_and_a_b200_247_in_whole_megahertz() {
        let clocks = |spec: &BoardSpec| (0..spec.clock_count()).map(|index| spec.clock(index)).collect::<Vec<_>>();
        let l40s = clocks(&BoardSpec::l40s());
        assert_eq!((l40s.len(), l40s[0], l40s[154]), (155, 210, 2520));
        let b200 = clocks(&BoardSpec::b200());
        assert_eq!((b200.len(), &b200[..4], &b200[244..]), (247, &[120, 127, 135, 142][..], &[1950, 1957, 1965][..]));
    }

    #[test]
    fn an_a100_pcie_draws_what_was_measured() {
        let spec = BoardSpec::a100_pcie_80gb();
        for (megahertz, compute_watts, compute_speed, memory_watts) in [
            (1005, 135.0, 0.724, 145.0),
            (1110, 152.0, 0.789, 155.0),
            (1200, 179.0, 0.854, 170.0),
            (1305, 225.0, 0.929, 190.0),
        ] {
            let (watts, speed) = settled(&spec, megahertz, 0.0);
            assert!((watts - compute_watts).abs() < 0.5, "{megahertz} MHz: {watts} W");
            assert!((speed - compute_speed).abs() < 0.002, "{megahertz} MHz: {speed}");
            let (watts, speed) = settled(&spec, megahertz, 1.0);
            assert!((watts - memory_watts).abs() < 0.5 && (speed - 1.0).abs() < 1e-6, "{megahertz} MHz: {watts} W");
        }
    }

    #[test]
    fn the_40_gb_board_is_cut_by_its_own_limit() {
        let (watts, speed) = settled(&BoardSpec::a100_pcie_40gb(), 0, 0.0);
        assert!((235.0..=251.0).contains(&watts), "{watts} W");
        assert!((0.92..0.97).contains(&speed), "{speed}");
        let (watts, _) = settled(&BoardSpec::a100_pcie_40gb(), 1005, 0.0);
        assert!((watts - 135.0).abs() < 0.5, "below the limit it draws what the chip draws: {watts} W");
    }

    #[test]
    fn an_h200_under_a_lower_limit_loses_what_was_measured() {
        for (limit_mw, kept) in [(500_000, 0.79), (350_000, 0.61)] {
            let spec = BoardSpec::h200_sxm();
            let mut board = Board::new(spec.clone(), Traits::EXACT);
            let request = Request { limit_mw, ..Board::boot_request(&spec) };
            let work = |beat| Load { beat, memory_share: 0.0, ..Load::training(beat, 0) };
            let mut state = Default::default();
            let mut before = 0.0;
            for beat in 1..=2000 {
                state = board.step(0.005, &request, &work(beat));
                if beat == 1000 {
                    before = state.work_seconds;
                }
            }
            let speed = (state.work_seconds - before) / 5.0;
            assert!((speed - kept).abs() < 0.02, "{limit_mw} mW: {speed} against {kept}");
        }
    }
}
