//! What each algorithm makes of the same watts, and what none of them can do.

use powercap_common::{api::AlgorithmSpec, units::Watts};
use powercap_recommender::algorithms::{
    Algorithm, Claim, KINDS, Party, Priority, Proportional, Refusal, Uniform, named, share_out,
};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;

fn watts(values: &[u32]) -> Vec<Watts> {
    values.iter().copied().map(Watts::new).collect()
}

/// What these get of so many watts.
fn shares(algorithm: &dyn Algorithm, whole: u32, claims: &[Claim]) -> Vec<Watts> {
    let shares = share_out(algorithm, Watts::new(whole), claims);
    assert_eq!(shares.refused, None);
    shares.watts
}

/// An H100: 200 to 700 W.
fn board(power: u32) -> Claim {
    let (least, most) = (Watts::new(200), Some(Watts::new(700)));
    Claim { least, most, power: Some(Watts::new(power)), ..Claim::default() }
}

fn up_to(most: Option<u32>) -> Claim {
    Claim { most: most.map(Watts::new), ..Claim::default() }
}

#[test]
fn uniform_gives_what_one_cannot_use_to_the_others() {
    let claims = [up_to(Some(100)), up_to(None), up_to(Some(5000))];
    assert_eq!(shares(&Uniform, 1000, &claims), watts(&[100, 450, 450]));
    assert_eq!(shares(&Uniform, 1000, &[None; 3].map(up_to)), watts(&[333, 333, 333]));
    assert_eq!(shares(&Uniform, 9000, &[Some(700); 2].map(up_to)), watts(&[700, 700]));
    assert_eq!(shares(&Uniform, 9000, &[]), []);
}

#[test]
fn everyone_gets_its_least_before_anyone_gets_more() {
    let mut claims = [board(690), board(690), board(690)];
    claims[2].least = Watts::new(500);
    claims[0].priority = 1;
    for algorithm in [&Uniform as &dyn Algorithm, &Proportional::default(), &Priority::default()] {
        let shares = shares(algorithm, 900, &claims);
        assert_eq!(shares, watts(&[200, 200, 500]), "{algorithm:?}");
    }
    // Where that does not fit there is nothing to choose.
    for algorithm in [&Uniform as &dyn Algorithm, &Proportional::default(), &Priority::default()] {
        assert_eq!(shares(algorithm, 600, &claims), watts(&[200, 200, 200]), "{algorithm:?}");
    }
}

#[test]
fn proportional_gives_each_the_same_part_of_what_it_wants_above_its_least() {
    // They want 700, 480 and 240 W: 820 W above their leasts, of which 410 W, a half, are there.
    let claims = [board(600), board(400), board(200)];
    assert_eq!(shares(&Proportional::default(), 1010, &claims), watts(&[450, 340, 220]));
    // Where all wants fit, who draws little finds watts too: up to one level.
    assert_eq!(shares(&Proportional::default(), 1500, &claims), watts(&[700, 480, 320]));
}

#[test]
fn a_board_of_unknown_power_claims_the_most_that_it_can_draw() {
    let mut claims = [board(400), board(400)];
    claims[1].power = None;
    assert_eq!(shares(&Proportional::default(), 800, &claims), watts(&[343, 456]));
}

#[test]
fn a_board_of_unknown_power_keeps_what_it_has_and_loses_it_only_where_that_does_not_fit() {
    let mut claims = [board(600), board(300)];
    claims[1].power = None;
    claims[1].standing = Some(Watts::new(350));
    assert_eq!(shares(&Proportional::default(), 1000, &claims), watts(&[650, 350]));
    assert_eq!(shares(&Proportional::default(), 560, &claims), watts(&[210, 350]));
    assert_eq!(shares(&Proportional::default(), 500, &claims), watts(&[250, 250]));
    // Who comes first is known without any reading.
    assert_eq!(shares(&Priority::default(), 1000, &claims), watts(&[500, 500]));
}

#[test]
fn one_of_which_nobody_knows_what_it_can_use_gets_an_equal_share() {
    let mut claims = [board(650), board(650), up_to(None)];
    claims[0].priority = 1;
    assert_eq!(shares(&Priority::default(), 1200, &claims), watts(&[600, 200, 400]));
    assert_eq!(shares(&Proportional::default(), 1200, &claims), watts(&[400, 400, 400]));
    let unknown = [up_to(None), Claim { priority: 9, ..up_to(None) }];
    assert_eq!(shares(&Priority::default(), 1100, &unknown), watts(&[550, 550]));
}

#[test]
fn a_growing_board_grows_by_its_headroom_at_a_time() {
    let mut claims = [board(650), board(250)];
    let mut grown = Vec::new();
    for _ in 0..5 {
        let shares = shares(&Proportional { deadband_percent: 0, ..Proportional::default() }, 1000, &claims);
        grown.push(shares[1].floor());
        // It draws what it gets, and so does the other.
        claims.iter_mut().zip(&shares).for_each(|(claim, share)| claim.power = Some(*share));
    }
    assert!(grown.is_sorted() && grown[0] >= 275 && grown[4] > 330, "{grown:?}");
}

#[test]
fn priority_serves_the_higher_first_and_the_lower_with_what_is_left() {
    let mut claims = [board(600), board(600), board(600), board(600)];
    claims[2].priority = 10;
    claims[3].priority = -5;
    assert_eq!(shares(&Priority::default(), 1500, &claims), watts(&[300, 300, 700, 200]));
    // Of the 700 W above the leasts two fifths are shared by all before that.
    let reserved = Priority { reserved_percent: 40 };
    assert_eq!(shares(&reserved, 1500, &claims), watts(&[270, 270, 690, 270]));
}

#[test]
fn members_of_a_group_get_the_same_and_count_as_many() {
    let in_group = |claim: Claim| Claim { group: Some(7), ..claim };
    let claims = [in_group(board(600)), board(300), in_group(board(300)), in_group(board(600))];
    for algorithm in [&Uniform as &dyn Algorithm, &Proportional::default(), &Priority::default()] {
        let shares = shares(algorithm, 1400, &claims);
        assert!(shares[0] == shares[2] && shares[2] == shares[3], "{algorithm:?}: {shares:?}");
    }
    // What one of them cannot use none of them gets: the others do.
    let mut claims = claims;
    claims[2].most = Some(Watts::new(250));
    assert_eq!(shares(&Uniform, 1400, &claims), watts(&[250, 650, 250, 250]));
}

#[test]
fn noise_moves_no_share_and_a_real_change_does() {
    let noisy = |step: u32| -> Vec<Claim> {
        // Up to 3 % more or less than 600 and 300 W.
        (0..8)
            .map(|at| board([600, 300][at % 2] * (97 + (step * 5 + u32::try_from(at).unwrap() * 3) % 7) / 100))
            .collect()
    };
    let mut standing = shares(&Proportional::default(), 2900, &noisy(0));
    let mut moved = 0;
    for step in 1..200 {
        let mut claims = noisy(step);
        claims.iter_mut().zip(&standing).for_each(|(claim, stands)| claim.standing = Some(*stands));
        let next = shares(&Proportional::default(), 2900, &claims);
        moved += usize::from(next != standing);
        standing = next;
    }
    assert_eq!(moved, 0);
    let mut claims = noisy(0);
    claims.iter_mut().zip(&standing).for_each(|(claim, stands)| claim.standing = Some(*stands));
    claims[1].power = Some(Watts::new(500));
    let next = shares(&Proportional::default(), 2900, &claims);
    assert!(next[1] > standing[1] + Watts::new(40), "{} {}", standing[1], next[1]);
    // A cut is carried out at once, and a raise is not lost in the band.
    assert!(shares(&Proportional::default(), 2800, &claims).into_iter().sum::<Watts>() <= Watts::new(2800));
    claims[1].power = noisy(0)[1].power;
    let raised: Watts = shares(&Proportional::default(), 2990, &claims).into_iter().sum();
    assert!(raised >= Watts::new(2950), "{raised}");
}

#[test]
fn a_name_or_parameter_that_there_is_none_of_is_told_with_its_field_its_value_and_the_mend() {
    for (spec, says) in [
        (json!({"name": "best"}), "spec.algorithm.name is \"best\"; write uniform or proportional or priority"),
        (
            json!({"name": "proportional", "parameters": {"headrom": 5}}),
            "spec.algorithm.parameters.headrom is no parameter of proportional, which takes deadbandPercent and headroomPercent",
        ),
        (json!({"parameters": {"headroomPercent": 5}}), "no parameter of uniform, which takes none"),
        (
            json!({"name": "priority", "parameters": {"reservedPercent": 101}}),
            "spec.algorithm.parameters.reservedPercent is 101; write a whole number from 0 to 100",
        ),
        (json!({"name": "priority", "parameters": {"reservedPercent": "ten"}}), "is \"ten\"; write a whole number"),
        (json!({"name": "priority", "parameters": {"reservedPercent": -1}}), "is -1; write a whole number"),
        (json!({"name": "priority", "parameters": {"reservedPercent": 0.5}}), "is 0.5; write a whole number"),
    ] {
        let spec: AlgorithmSpec = serde_json::from_value(spec).unwrap();
        let error = named(&spec).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn every_algorithm_is_found_by_its_name_with_its_parameters() {
    for kind in &KINDS {
        let lowest = kind.parameters().into_iter().map(|(name, schema)| (name, schema["maximum"].clone()));
        let spec = AlgorithmSpec { name: kind.name.to_owned(), parameters: lowest.collect() };
        assert_eq!(named(&spec).unwrap().name(), kind.name);
        let unset = AlgorithmSpec { name: kind.name.to_owned(), ..AlgorithmSpec::default() };
        assert_eq!(named(&unset).unwrap().name(), kind.name);
    }
}

/// One that returns whatever it likes.
#[derive(Clone, Debug)]
struct Hostile(Vec<Watts>);

impl Algorithm for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
    }

    fn shares(&self, _: Watts, _: &[Party]) -> Vec<Watts> {
        self.0.clone()
    }

    fn deadband_percent(&self) -> u32 {
        50
    }
}

#[test]
fn shares_that_cannot_be_used_are_equal_ones_and_are_told() {
    let claims = [board(600), board(300)];
    let refusal = |given: &[u32]| {
        let shares = share_out(&Hostile(watts(given)), Watts::new(1000), &claims);
        assert_eq!(shares.watts, watts(&[500, 500]));
        shares.refused.unwrap()
    };
    assert_eq!(refusal(&[500]), Refusal::Count { algorithm: "hostile", given: 1, wanted: 2 });
    let sum = Refusal::Sum { algorithm: "hostile", given: Watts::new(1100), whole: Watts::new(1000) };
    assert_eq!(refusal(&[400, 90_000]), sum);
    // What fits once it is bounded is used.
    assert_eq!(shares(&Hostile(watts(&[0, 90_000])), 1000, &claims), watts(&[200, 700]));
}

fn any_watts() -> impl Strategy<Value = Watts> {
    prop_oneof![
        4 => (0_u64..900_000).prop_map(Watts::from_milliwatts),
        1 => Just(Watts::ZERO),
        1 => any::<u64>().prop_map(Watts::from_milliwatts),
    ]
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let power = prop::option::of(any_watts());
    let standing = prop::option::of((0_u32..900).prop_map(Watts::new));
    (0_u32..300, prop::option::of(1_u32..900), power, -2_i64..3, prop::option::of(0_u32..3), standing).prop_map(
        |(least, most, power, priority, group, standing)| Claim {
            least: Watts::new(least),
            most: most.map(Watts::new),
            power,
            priority,
            group,
            standing,
        },
    )
}

fn any_algorithm() -> impl Strategy<Value = Box<dyn Algorithm>> {
    prop_oneof![
        1 => Just(Uniform).prop_map(|uniform| Box::new(uniform) as Box<dyn Algorithm>),
        2 => (0_u32..=100, 0_u32..=50).prop_map(|(headroom_percent, deadband_percent)| {
            Box::new(Proportional { headroom_percent, deadband_percent }) as Box<dyn Algorithm>
        }),
        2 => (0_u32..=100).prop_map(|reserved_percent| Box::new(Priority { reserved_percent }) as Box<dyn Algorithm>),
        3 => prop::collection::vec(any_watts(), 0..12).prop_map(|shares| Box::new(Hostile(shares)) as Box<dyn Algorithm>),
    ]
}

proptest! {
    #[test]
    fn no_algorithm_gives_more_than_there_is_or_can_be_used_or_less_than_the_least_that_fits(
        whole in 0_u32..6000,
        claims in prop::collection::vec(any_claim(), 0..12),
        algorithm in any_algorithm(),
    ) {
        let shares = share_out(&*algorithm, Watts::new(whole), &claims);
        prop_assert_eq!(shares.watts.len(), claims.len());
        let sum: Watts = shares.watts.iter().copied().sum();
        prop_assert!(sum <= Watts::new(whole), "{} of {}", sum, whole);
        for (claim, share) in claims.iter().zip(&shares.watts) {
            prop_assert!(claim.most.is_none_or(|most| *share <= most), "{:?}: {}", claim, share);
            let group: Vec<_> = claims.iter().filter(|other| claim.group.is_some() && other.group == claim.group).collect();
            let pairs = claims.iter().zip(&shares.watts);
            for (_, same) in pairs.filter(|(other, _)| claim.group.is_some() && other.group == claim.group) {
                prop_assert_eq!(same, share);
            }
            // Where the least of all fits: all that this one can use of its own, or has while nobody reads it.
            let leasts: Watts = claims.iter().map(|claim| claim.least.max(Watts::new(300))).sum();
            if leasts <= Watts::new(whole) {
                let silent = |other: &&Claim| if other.power.is_none() { other.standing } else { None };
                let bounds = group.iter().copied().chain([claim]).flat_map(|one| one.most.into_iter().chain(silent(&one)));
                let least = bounds.chain([claim.least]).min().unwrap();
                prop_assert!(*share >= least, "{:?}: {}", claim, share);
            }
        }
    }

    #[test]
    fn uniform_wastes_nothing_that_someone_could_use(
        whole in 0_u32..100_000,
        maxima in prop::collection::vec(prop::option::of(1_u32..9000), 1..20),
    ) {
        let claims: Vec<_> = maxima.iter().copied().map(up_to).collect();
        let shares = shares(&Uniform, whole, &claims);
        let sum: Watts = shares.iter().copied().sum();
        prop_assert!(sum <= Watts::new(whole));
        let hungry = shares.iter().zip(&claims).filter(|(share, claim)| claim.most.is_none_or(|max| **share < max));
        let hungry: Vec<_> = hungry.map(|(share, _)| *share).collect();
        for share in &hungry {
            prop_assert_eq!(*share, hungry[0]);
            prop_assert!(shares.iter().all(|other| other <= share));
        }
        let unused = Watts::new(whole).saturating_sub(sum);
        prop_assert!(hungry.is_empty() || unused < Watts::new(u32::try_from(maxima.len()).unwrap()));
    }
}
