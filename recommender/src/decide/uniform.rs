//! The algorithm `uniform`: everyone the same, and what one cannot use goes to the others.

use powercap_common::units::Watts;

/// Equal shares of `whole` in whole watts, none above its maximum (`None`: not known, so unlimited).
/// What some cannot use is shared among the rest (water-filling). The sum never exceeds `whole`.
#[must_use]
pub fn shares(whole: Watts, maxima: &[Option<Watts>]) -> Vec<Watts> {
    let mut order: Vec<usize> = (0..maxima.len()).collect();
    // `None` sorts before `Some`; as a key, unlimited must come last.
    order.sort_by_key(|&at| (maxima[at].is_none(), maxima[at], at));
    let mut shares = vec![Watts::ZERO; maxima.len()];
    let mut rest = whole;
    for (taken, &at) in order.iter().enumerate() {
        let equal = rest.divided(maxima.len() - taken);
        match maxima[at] {
            Some(maximum) if maximum <= equal => {
                shares[at] = Watts::new(maximum.floor());
                rest = rest.saturating_sub(shares[at]);
            }
            // Everyone from here on could use more than an equal part of the rest.
            _ => {
                for &other in &order[taken..] {
                    shares[other] = Watts::new(equal.floor());
                }
                break;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn watts(values: &[u32]) -> Vec<Watts> {
        values.iter().copied().map(Watts::new).collect()
    }

    #[test]
    fn what_one_cannot_use_goes_to_the_others() {
        let maxima = [Some(Watts::new(100)), None, Some(Watts::new(5000))];
        assert_eq!(shares(Watts::new(1000), &maxima), watts(&[100, 450, 450]));
        assert_eq!(shares(Watts::new(1000), &[None; 3]), watts(&[333, 333, 333]));
        assert_eq!(shares(Watts::new(9000), &[Some(Watts::new(700)); 2]), watts(&[700, 700]));
        assert_eq!(shares(Watts::new(9000), &[]), []);
    }

    proptest! {
        #[test]
        fn shares_fit_and_waste_nothing_that_someone_could_use(
            whole in 0_u32..100_000,
            maxima in prop::collection::vec(prop::option::of(1_u32..9000), 1..20)
                .prop_map(|maxima| maxima.into_iter().map(|m| m.map(Watts::new)).collect::<Vec<_>>()),
        ) {
            let shares = shares(Watts::new(whole), &maxima);
            let sum: Watts = shares.iter().copied().sum();
            prop_assert!(sum <= Watts::new(whole));
            let hungry = shares.iter().zip(&maxima).filter(|(share, max)| max.is_none_or(|max| **share < max));
            let hungry: Vec<_> = hungry.map(|(share, _)| *share).collect();
            for share in &hungry {
                prop_assert_eq!(*share, hungry[0]);
                prop_assert!(shares.iter().all(|other| other <= share));
            }
            let unused = Watts::new(whole).saturating_sub(sum);
            prop_assert!(hungry.is_empty() || unused < Watts::new(u32::try_from(maxima.len()).unwrap()));
        }
    }
}
