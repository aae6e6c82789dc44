//! What a policy's status says of requests: what is recommended, and whose running pods' watts are something else.
//!
//! Where no node advertises watts no pod can request any, and none is stale for the lack of them.

use powercap_common::{
    api::PowerCappingPolicyStatus,
    condition::{Truth, kind},
    policy::Policy,
    reason::Reason,
    units::Watts,
};

use super::{
    domain::DomainView,
    fleet::Fleet,
    policy::PolicyView,
    readings::Readings,
    report::{count, teller},
    requests::{Recommended, largest_offer, recommended},
    reserved,
};
use crate::observation::PodFacts;

/// As many are named.
const MOST: usize = 10;

/// What nodes offer, as far as every policy's requests depend on it.
pub struct Offers {
    /// The most that any could.
    pub largest: Option<Watts>,
    /// Some node advertises watts.
    pub advertised: bool,
}

impl Offers {
    /// Of these nodes.
    pub fn of(domains: &[DomainView], fleet: &Fleet<'_>) -> Self {
        let mut objects = fleet.nodes.iter().filter_map(|node| node.frequencies);
        let advertised = objects.any(|object| object.spec.offer_watts.is_some());
        Self { largest: largest_offer(domains, fleet), advertised }
    }
}

/// Tells it.
pub fn tell(
    status: &mut PowerCappingPolicyStatus,
    view: &PolicyView<'_>,
    policy: &Policy,
    offers: &Offers,
    readings: &Readings<'_>,
) {
    let Recommended { requests, trouble } = recommended(view, policy, offers.largest, readings);
    let mut say = teller(view, readings.now);
    match trouble {
        Some(hold) => say(status, kind::USE_KNOWN, Truth::False, hold.reason, hold.message),
        None => status.conditions.retain(|condition| condition.type_ != kind::USE_KNOWN),
    }
    status.recommendation = requests;
    let recommended = status.recommendation.clone().unwrap_or_default();
    let recommended = reserved::Watted::of(&recommended);
    let stale = view.pods.iter().map(|pod| pod.facts);
    let is_stale = |pod: &&PodFacts| reserved::is_stale(pod, reserved::bounds(pod, &recommended), offers.advertised);
    let stale: Vec<_> = stale.filter(is_stale).collect();
    status.watts_stale_pods = count(stale.len());
    status.watts_stale = stale.iter().take(MOST).map(|pod| pod.name.name.clone()).collect();
    match message(&stale, view.pods.len()) {
        Some(message) => say(status, kind::WATTS_CURRENT, Truth::False, Reason::WattsStale, message),
        None => status.conditions.retain(|condition| condition.type_ != kind::WATTS_CURRENT),
    }
}

fn message(stale: &[&PodFacts], pods: usize) -> Option<String> {
    let first = stale.first()?;
    let absent = stale.iter().filter(|pod| reserved::requested(pod).is_none()).count();
    let (number, others) = (stale.len(), stale.len() - absent);
    Some(format!(
        "{number} of {pods} running pods ({} and so on): {absent} request no watts, {others} others than are recommended; right once they are made anew",
        first.name.name
    ))
}
