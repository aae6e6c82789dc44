//! Watts in a status move only when it matters, so that a settled cluster is written nothing.

use powercap_common::units::Watts;

/// Values at which a small difference matters: a cap, a threshold.
pub struct Bounds<'a> {
    /// In any order.
    pub edges: &'a [Watts],
}

/// What to show for `power`: what is shown already, unless it is off by more than 10 W and 1 %, or on
/// the other side of an edge.
#[must_use]
pub fn steady(shown: Option<u32>, power: Watts, bounds: &Bounds<'_>) -> u32 {
    let new = power.ceil();
    let Some(shown) = shown else { return new };
    let close = shown.abs_diff(new) <= (shown / 100).max(10);
    let same_side = |edge: &Watts| (Watts::new(shown) > *edge) == (power > *edge);
    if close && bounds.edges.iter().all(same_side) { shown } else { new }
}

/// What to show for watts that only drift, such as a forecast: what is shown already, unless it is off by more
/// than 10 W and 2 %.
#[must_use]
pub fn settled(shown: Option<u32>, watts: Watts) -> u32 {
    let new = watts.ceil();
    shown.filter(|shown| shown.abs_diff(new) <= (shown / 50).max(10)).unwrap_or(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_are_not_shown_unless_they_cross_an_edge() {
        let cap = Bounds { edges: &[Watts::new(1000)] };
        for (shown, power, shows) in [
            (None, 995, 995),
            (Some(995), 990, 995),
            (Some(995), 984, 984),
            (Some(995), 1001, 1001),
            (Some(1003), 1000, 1000),
        ] {
            assert_eq!(steady(shown, Watts::new(power), &cap), shows, "{shown:?} {power}");
        }
        assert_eq!(steady(Some(50_000), Watts::new(50_400), &cap), 50_000);
    }
}
