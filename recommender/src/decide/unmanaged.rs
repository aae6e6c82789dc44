//! What a domain draws beside its nodes: as it is written, or what its meter tells beyond them.
//!
//! ```text
//!   meter ── less the most that its nodes drew of late, less what is unmanaged in domains within ──▶ rest
//!
//!   rest ──▶ held: rises at once, falls by half in two minutes ──▶ counts: held and a step of 1 % of the cap,
//!            stays without a usable reading                        while held lies within two steps below it
//! ```
//!
//! The most of late, since a meter that is scraped at another time than the nodes still tells of a load that has
//! ended: that is not unmanaged.
//!
//! Must hold: without a usable reading of the meter and of every node nothing falls; a meter that tells less
//! than the nodes draw is not believed; while nobody ever read it, nothing is raised in the domain. What
//! counts stands in the domain's status, so that a new leader begins with it.

use jiff::{SignedDuration, Timestamp};
use powercap_common::{api::PowerDomain, condition::Truth, domain::Domain, reason::Reason, units::Watts};

use super::{
    accounted::{Accounted, accounted},
    domain::DomainView,
    readings::Readings,
    tree,
};
use crate::observation::{Hold, Metered, Sample, fresh};

/// What was held falls by half in this time.
const HALF_LIFE: SignedDuration = SignedDuration::from_secs(120);
/// No meter of a domain tells more than this many times its cap: its breaker would have opened.
const MOST_TIMES_CAP: u32 = 10;
/// A meter below this share of what the nodes draw is not believed…
const BELOW_PERCENT: u32 = 90;
/// …until it is above this one: the nodes' sensors err too.
const AGREES_PERCENT: u32 = 95;

/// What a domain draws unmanaged, those within it apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unmanaged {
    /// What counts.
    pub watts: Watts,
    /// It, or that of a domain within, is not known: nothing may be raised.
    pub unknown: bool,
    /// What the meter tells now, or why it tells nothing; none without a meter.
    meter: Option<Result<Watts, Hold>>,
    /// The meter has told less than the nodes draw for longer than chance explains.
    below_nodes: bool,
}

/// Tells each domain what is unmanaged in it and within it, and returns what to remember of those with a meter.
pub fn settle(views: &mut [DomainView], readings: &Readings<'_>) -> Vec<(String, Metered)> {
    let mut memory = Vec::new();
    for at in tree::leaves_first(views) {
        let within = views.iter().filter(|view| view.ancestors.contains(&at));
        let (mut watts, mut unknown) = (Watts::ZERO, false);
        for view in within {
            watts = watts + view.unmanaged.watts;
            unknown |= view.unmanaged.unknown;
        }
        let view = &mut views[at];
        view.unmanaged_within = watts;
        view.unmanaged.unknown |= unknown;
        let Some(domain) = view.domain.as_ref().ok().filter(|domain| domain.unmanaged.is_none()) else { continue };
        let (unmanaged, metered) = by_meter(view, domain, readings);
        memory.push((domain.name.clone(), metered));
        view.unmanaged = unmanaged;
    }
    memory
}

fn by_meter(view: &DomainView, domain: &Domain, readings: &Readings<'_>) -> (Unmanaged, Metered) {
    let &Readings { observation, now, .. } = readings;
    let shown = view.object.status.as_ref().and_then(|status| status.unmanaged_watts).map(Watts::new);
    let before = observation.metered.get(&domain.name).cloned();
    let mut metered = before.unwrap_or(Metered { held: shown, at: now, ..Metered::default() });
    let meter = usable(domain, readings).map(|sample| sample.value);
    let mut may_fall = false;
    if let (Ok(meter), Ok(nodes)) = (&meter, accounted(view, readings)) {
        let bound = if metered.below_since.is_some() { AGREES_PERCENT } else { BELOW_PERCENT };
        let below = *meter < nodes.power.percent(bound);
        metered.below_since = below.then(|| metered.below_since.unwrap_or(now));
        metered.nodes.retain(|(at, _)| now.duration_since(*at) <= observation.stale_after());
        metered.nodes.push((now, nodes.power));
        may_fall = !below;
        if may_fall {
            let nodes = metered.nodes.iter().map(|(_, watts)| *watts).max().unwrap_or_default();
            let rest = meter.saturating_sub(nodes).saturating_sub(view.unmanaged_within);
            metered.held = metered.held.map(|held| fallen(held, metered.at, now)).max(Some(rest));
        }
    }
    // What passes without a reading lets nothing fall, not even afterwards.
    metered.at = now;
    let watts =
        metered.held.map(|held| counts(shown, held, domain.cap).max(shown.filter(|_| !may_fall).unwrap_or_default()));
    let below_nodes = metered.below_since.is_some_and(|since| now.duration_since(since) > observation.stale_after());
    let unmanaged =
        Unmanaged { watts: watts.unwrap_or_default(), unknown: watts.is_none(), meter: Some(meter), below_nodes };
    (unmanaged, metered)
}

/// The meter's reading, if it can be the domain's power of now.
fn usable(domain: &Domain, readings: &Readings<'_>) -> Result<Sample<Watts>, Hold> {
    let &Readings { observation, now, .. } = readings;
    let reading = observation.telemetry.meters.get(&domain.name);
    let (power, problem) =
        reading.map(|reading| (reading.power.as_ref(), reading.problem.as_ref())).unwrap_or_default();
    // An answer that is none is known at once, and is not told otherwise once the last good one is old.
    if let Some(problem) = problem {
        return Err(Hold::new(Reason::MeterUnavailable, problem.message.clone()));
    }
    let sample = fresh(power, "the domain's power", None, now, observation.stale_after());
    let sample = *sample.map_err(|hold| Hold::new(Reason::MeterUnavailable, hold.message))?;
    if sample.value > domain.cap.percent(MOST_TIMES_CAP * 100) {
        let message =
            format!("the meter tells more than {MOST_TIMES_CAP} times the cap; does the query answer in watts?");
        return Err(Hold::new(Reason::MeterUnavailable, message));
    }
    Ok(sample)
}

fn fallen(held: Watts, since: Timestamp, now: Timestamp) -> Watts {
    let half_lives = now.duration_since(since).as_secs_f64().max(0.0) / HALF_LIFE.as_secs_f64();
    held.scaled(0.5_f64.powf(half_lives))
}

/// In steps, so that grants do not follow every flicker of a meter.
fn counts(shown: Option<Watts>, held: Watts, cap: Watts) -> Watts {
    let step = cap.percent(1).max(Watts::new(1));
    match shown {
        Some(shown) if held <= shown && shown <= held + step + step => shown,
        _ => Watts::new((held + step).ceil()),
    }
}

impl Unmanaged {
    /// What is known of it before the meters are asked: as it is written, or as it counted last.
    pub fn of(object: &PowerDomain) -> Self {
        let shown = object.status.as_ref().and_then(|status| status.unmanaged_watts);
        let watts = Watts::new(shown.unwrap_or_default().max(object.spec.unmanaged_watts));
        Self { watts, ..Self::default() }
    }

    /// What the status shows.
    pub fn shown(&self) -> Option<u32> {
        (self.meter.is_some() && !self.unknown).then(|| self.watts.ceil())
    }

    /// Power of the domain, given that of its nodes: what the meter tells, where that is not less; else with
    /// what counts as unmanaged, here and `within`.
    pub fn with_nodes<'a>(&self, nodes: Accounted<'a>, within: Watts) -> Accounted<'a> {
        let power = match &self.meter {
            Some(Ok(meter)) => nodes.power.max(*meter),
            _ => nodes.power + self.watts + within,
        };
        Accounted { power, ..nodes }
    }

    /// What `DataFresh` says, given that every node's readings are recent.
    pub fn freshness(&self, nodes: usize) -> (Truth, Reason, String) {
        match &self.meter {
            None => (Truth::True, Reason::DataFresh, format!("recent readings of every node ({nodes})")),
            Some(Ok(_)) => {
                (Truth::True, Reason::DataFresh, format!("recent readings of the meter and of every node ({nodes})"))
            }
            Some(Err(hold)) => {
                let stays = match self.shown() {
                    Some(watts) => format!("{watts} W stay unmanaged"),
                    None => "nothing is raised until it was read once".to_owned(),
                };
                (Truth::False, hold.reason, format!("{}; {stays}", hold.message))
            }
        }
    }

    /// What `SourcesAgree` says, where the meter is in doubt.
    pub fn disagreement(&self) -> Option<(Reason, String)> {
        let message = "the meter tells over 10 % less than the nodes draw; the higher counts";
        self.below_nodes.then(|| (Reason::MeterBelowNodes, message.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_moves_in_steps_and_is_never_less_than_what_is_held() {
        let cap = Watts::new(10_000);
        for (shown, held, then) in [
            (None, 0, 100),
            (Some(500), 450, 500),
            (Some(500), 500, 500),
            (Some(500), 501, 601),
            (Some(500), 300, 500),
            (Some(500), 299, 399),
        ] {
            assert_eq!(counts(shown.map(Watts::new), Watts::new(held), cap), Watts::new(then), "{shown:?} {held}");
        }
    }
}
