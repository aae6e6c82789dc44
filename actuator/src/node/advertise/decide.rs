//! What the Node should advertise: pure.
//!
//! ```text
//!   requested ───────────┬── the node is closed to new pods: exactly that
//!   + what is left of    │
//!     the offer ─────────┴── open: pods that came since the offer was made have used it up
//! ```
//!
//! What must hold: never less than the pods on the node request, or a kubelet that restarts fails them; never
//! more than the recommender has conserved; silence raises nothing; what is lowered is lowered at once.

use powercap_common::{reason::Reason, units::Watts};

use crate::node::orders::{Offer, Orders};

/// A Node that advertises somewhat less than it may is left alone: each raise costs a write.
const LEAST_RAISE: Watts = Watts::new(5);

/// What the orders make of offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// New pods may come as far as the offer goes.
    Open(Offer),
    /// As far as the offer goes, and no further than the Node advertises now: nobody has said so lately.
    Hold(Offer),
    /// No new pods.
    Close,
    /// No new pods, and nothing advertised where no pod requests anything.
    Withdraw,
}

impl Order {
    /// Of these orders as they stand.
    #[must_use]
    pub fn of(orders: &Orders) -> Self {
        if orders.release {
            return Self::Withdraw;
        }
        match (orders.offer, orders.restraint.reason) {
            (Some(offer), None) => Self::Open(offer),
            (Some(offer), Some(Reason::LeaseExpired)) => Self::Hold(offer),
            // A brake, a fallback: the node gets less than its pods were placed by.
            (None, _) | (_, Some(_)) => Self::Close,
        }
    }
}

/// What is known of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What its pods request.
    pub requested: Watts,
    /// What its Node advertises as its capacity.
    pub capacity: Option<Watts>,
    /// What of that pods may have.
    pub allocatable: Option<Watts>,
}

/// A write to the Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It advertises this much.
    Advertise(Watts),
    /// It no longer knows the resource.
    Withdraw,
}

/// What to write, if anything.
#[must_use]
pub fn decide(order: Order, seen: &Seen) -> Option<Change> {
    let Seen { requested, capacity, allocatable } = *seen;
    let present = capacity.max(allocatable);
    let target = match order {
        Order::Open(offer) => offer.beside(requested),
        Order::Hold(offer) => offer.beside(requested).min(present.unwrap_or_default()).max(requested),
        Order::Close | Order::Withdraw => requested,
    };
    if target == Watts::ZERO && (present.is_none() || order == Order::Withdraw) {
        return present.map(|_| Change::Withdraw);
    }
    let stands = capacity.filter(|_| capacity == allocatable);
    let close_enough = stands.is_some_and(|stands| {
        stands == target || (requested <= stands && stands < target && target.saturating_sub(stands) <= LEAST_RAISE)
    });
    (!close_enough).then_some(Change::Advertise(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { watts: Watts::new(1000), requested: Watts::new(2000) };

    fn seen(requested: u32, advertised: Option<u32>) -> Seen {
        let advertised = advertised.map(Watts::new);
        Seen { requested: Watts::new(requested), capacity: advertised, allocatable: advertised }
    }

    fn advertise(watts: u32) -> Option<Change> {
        Some(Change::Advertise(Watts::new(watts)))
    }

    #[test]
    fn an_offer_is_used_up_by_pods_that_came_since_it_was_made() {
        for (requested, advertised) in [(0, 1000), (1500, 2500), (2000, 3000), (2600, 3000), (3000, 3000), (3500, 3500)]
        {
            let change = decide(Order::Open(OFFER), &seen(requested, None));
            assert_eq!(change, advertise(advertised), "{requested} W requested");
        }
    }

    #[test]
    fn a_node_that_is_closed_advertises_what_its_pods_request_and_no_watt_less() {
        for (order, requested, advertised, change) in [
            (Order::Close, 2000, Some(3000), advertise(2000)),
            (Order::Close, 2000, Some(1999), advertise(2000)),
            (Order::Close, 2000, Some(2000), None),
            (Order::Close, 2000, None, advertise(2000)),
            (Order::Close, 0, Some(3000), advertise(0)),
            (Order::Close, 0, Some(0), None),
            (Order::Close, 0, None, None),
            (Order::Withdraw, 2000, Some(3000), advertise(2000)),
            (Order::Withdraw, 0, Some(3000), Some(Change::Withdraw)),
            (Order::Withdraw, 0, Some(0), Some(Change::Withdraw)),
            (Order::Withdraw, 0, None, None),
        ] {
            assert_eq!(decide(order, &seen(requested, advertised)), change, "{order:?} {requested} {advertised:?}");
        }
    }

    #[test]
    fn silence_raises_nothing_and_closes_nothing() {
        for (requested, advertised, change) in [
            (2000, Some(3000), None),
            (2000, Some(2500), None),
            (2000, Some(3500), advertise(3000)),
            (2600, Some(2500), advertise(2600)),
            (2000, None, advertise(2000)),
            (0, None, None),
        ] {
            let held = decide(Order::Hold(OFFER), &seen(requested, advertised));
            assert_eq!(held, change, "{requested} W requested, {advertised:?} advertised");
        }
    }

    #[test]
    fn a_raise_of_a_few_watts_waits_and_no_lowering_does() {
        let open = |advertised| decide(Order::Open(OFFER), &seen(2000, Some(advertised)));
        assert_eq!(open(2995), None);
        assert_eq!(open(2994), advertise(3000));
        assert_eq!(open(3001), advertise(3000));
        let few = Order::Open(Offer { watts: Watts::ZERO, requested: Watts::new(2000) });
        assert_eq!(decide(few, &seen(2000, Some(1999))), advertise(2000), "pods request more than is advertised");
    }

    #[test]
    fn capacity_and_allocatable_are_mended_together() {
        let apart = Seen { capacity: None, allocatable: Some(Watts::new(3000)), requested: Watts::new(2000) };
        assert_eq!(decide(Order::Open(OFFER), &apart), advertise(3000));
        let apart = Seen { capacity: Some(Watts::new(3000)), allocatable: None, requested: Watts::ZERO };
        assert_eq!(decide(Order::Withdraw, &apart), Some(Change::Withdraw));
    }

    #[test]
    fn a_brake_and_a_fallback_close_the_node() {
        let mut orders = Orders { offer: Some(OFFER), ..Orders::default() };
        for (reason, order) in [
            (None, Order::Open(OFFER)),
            (Some(Reason::LeaseExpired), Order::Hold(OFFER)),
            (Some(Reason::FallbackInForce), Order::Close),
            (Some(Reason::BrakePulled), Order::Close),
        ] {
            orders.restraint.reason = reason;
            assert_eq!(Order::of(&orders), order, "{reason:?}");
        }
        assert_eq!(Order::of(&Orders::default()), Order::Close, "nothing is offered");
        orders.release = true;
        assert_eq!(Order::of(&orders), Order::Withdraw);
    }
}
