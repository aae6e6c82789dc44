//! Amounts in which decisions reckon.

use powercap_common::{
    api::{Amounts, ControlledResource},
    quantity::Quantity,
};

use crate::pod::{Container, Written};

/// An amount in the smallest part that a pod is given: thousandths of a core, bytes, watts.
pub type Units = u64;

/// So many units of a resource, rounded up.
#[must_use]
pub fn units(resource: ControlledResource, amount: Quantity) -> Units {
    match resource {
        ControlledResource::Cpu => amount.ceil_millis(),
        ControlledResource::Memory | ControlledResource::Watts => amount.ceil(),
    }
}

/// The same as Kubernetes writes it.
#[must_use]
pub fn quantity(resource: ControlledResource, amount: Units) -> Quantity {
    match resource {
        ControlledResource::Cpu => Quantity::millis(amount),
        ControlledResource::Memory | ControlledResource::Watts => Quantity::whole(amount),
    }
}

/// What a policy says of a resource; the API server lets nothing into it that is no quantity.
#[must_use]
pub fn said(amounts: &Amounts, resource: ControlledResource) -> Option<Units> {
    Some(units(resource, amounts.of(resource)?.quantity().ok()?))
}

/// `limit`, as much of it as `to` is of `from`, rounded up; none of nothing.
#[must_use]
pub fn in_proportion(limit: Units, to: Units, from: Units) -> Option<Units> {
    let product = u128::from(limit) * u128::from(to);
    (from > 0).then(|| product.div_ceil(u128::from(from)).try_into().unwrap_or(Units::MAX))
}

/// The same rounded down; nothing of nothing.
#[must_use]
pub fn at_most_in_proportion(limit: Units, to: Units, from: Units) -> Units {
    let product = u128::from(limit) * u128::from(to);
    product.checked_div(from.into()).map_or(0, |amount| amount.try_into().unwrap_or(Units::MAX))
}

/// What a container asks for of one resource now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its request; where there is a limit alone Kubernetes makes it the request.
    pub request: Option<Units>,
    /// Its limit.
    pub limit: Option<Units>,
}

impl Asked {
    /// By a container.
    ///
    /// # Errors
    /// With what is written where that is no amount.
    pub fn by(container: &Container, resource: ControlledResource) -> Result<Self, &Written> {
        let read = |written: &'_ Written| {
            let amount = written.quantity().ok().filter(|amount| !amount.is_negative());
            amount.map(|amount| units(resource, amount))
        };
        let mut asked = Self::default();
        if let Some(written) = container.limits().and_then(|limits| limits.of(resource)) {
            asked.limit = Some(read(written).ok_or(written)?);
        }
        asked.request = asked.limit;
        if let Some(written) = container.requests().and_then(|requests| requests.of(resource)) {
            asked.request = Some(read(written).ok_or(written)?);
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ControlledResource::{Cpu, Memory, Watts};
    use serde_json::{Value, json};

    #[test]
    fn amounts_are_reckoned_in_thousandths_of_cores_in_bytes_and_in_watts() {
        for (resource, text, amount, written) in [
            (Cpu, "1.5", 1500, "1500m"),
            (Cpu, "2000m", 2000, "2"),
            (Memory, "1Ki", 1024, "1024"),
            (Watts, "0.1", 1, "1"),
        ] {
            assert_eq!(units(resource, text.parse().unwrap()), amount);
            assert_eq!(quantity(resource, amount).to_string(), written);
        }
    }

    #[test]
    fn a_limit_alone_is_the_request_too_and_what_is_no_amount_is_handed_back() {
        let asked = |resources: Value| {
            let container: Container = serde_json::from_value(json!({"name": "a", "resources": resources})).unwrap();
            Asked::by(&container, Cpu).map_err(ToString::to_string)
        };
        let of = |request, limit| Ok(Asked { request, limit });
        assert_eq!(asked(json!({})), of(None, None));
        assert_eq!(asked(json!({"limits": {"cpu": "1"}})), of(Some(1000), Some(1000)));
        assert_eq!(asked(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": 1}})), of(Some(500), Some(1000)));
        for amount in ["1e309", "-1", "many"] {
            assert_eq!(asked(json!({"requests": {"cpu": amount}})), Err(amount.to_owned()));
        }
    }

    #[test]
    fn a_proportion_is_rounded_as_asked_and_never_overflows() {
        assert_eq!((in_proportion(3, 1, 2), in_proportion(3, 1, 0)), (Some(2), None));
        assert_eq!(in_proportion(u64::MAX, u64::MAX, 1), Some(u64::MAX));
        assert_eq!((at_most_in_proportion(3, 1, 2), at_most_in_proportion(3, 1, 0)), (1, 0));
    }
}
