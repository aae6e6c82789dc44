//! Water-filling: everyone rises to one level, as far as each can.

use powercap_common::units::Watts;

use super::times;

/// Members that rise together from one share to another.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// How many.
    pub size: usize,
    /// What each has.
    pub from: Watts,
    /// What each may have; not less than `from`.
    pub to: Watts,
}

impl Span {
    /// What each has when the water stands at this level.
    pub fn at(&self, level: Watts) -> Watts {
        level.clamp(self.from, self.to.max(self.from))
    }
}

/// The highest level at which all have `whole` at most together. Where not even what they have fits, they keep
/// that.
pub fn level(whole: Watts, spans: &[Span]) -> Watts {
    let fits = |level| spans.iter().map(|span| times(span.at(level), span.size)).sum::<Watts>() <= whole;
    let highest = spans.iter().map(|span| span.to).max().unwrap_or_default().min(whole);
    if fits(highest) {
        return highest;
    }
    let (mut low, mut high) = (0, highest.as_milliwatts());
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(Watts::from_milliwatts(middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Watts::from_milliwatts(low)
}
