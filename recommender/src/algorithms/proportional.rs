//! `proportional`: who draws more gets more.
//!
//! What a party wants is what it draws and some headroom, within its bounds. Where not all wants fit, each gets
//! its least and the same part of what it wants above that; where they fit, the rest is spread equally, so
//! that who begins to work finds watts.

use powercap_common::{algorithm::Proportional, units::Watts};

use super::{
    Algorithm, Party,
    level::{Span, level},
    total,
};

impl Algorithm for Proportional {
    fn name(&self) -> &'static str {
        "proportional"
    }

    fn shares(&self, whole: Watts, parties: &[Party]) -> Vec<Watts> {
        let wants = |party: &Party| {
            let grown = party.power.percent(self.headroom_percent.saturating_add(100));
            grown.clamp(party.least, party.most.max(party.least))
        };
        let (least, wanted) = (total(parties, |_, party| party.least), total(parties, |_, party| wants(party)));
        if wanted <= whole {
            let spans: Vec<_> = parties.iter().map(|party| Span { from: wants(party), ..party.span() }).collect();
            let level = level(whole, &spans);
            return spans.iter().map(|span| span.at(level)).collect();
        }
        let part = Part { of: whole.saturating_sub(least), to: wanted.saturating_sub(least) };
        parties.iter().map(|party| party.least + part.of(wants(party).saturating_sub(party.least))).collect()
    }

    fn reads_power(&self) -> bool {
        true
    }

    fn deadband_percent(&self) -> u32 {
        self.deadband_percent
    }
}

/// The part of every want that fits.
struct Part {
    of: Watts,
    to: Watts,
}

impl Part {
    fn of(&self, want: Watts) -> Watts {
        let of = |watts: Watts| u128::from(watts.as_milliwatts());
        let part = of(want).saturating_mul(of(self.of)) / of(self.to).max(1);
        Watts::from_milliwatts(u64::try_from(part).unwrap_or_default())
    }
}
