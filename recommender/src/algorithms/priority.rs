//! `priority`: the higher first, up to what it can use; the lower get what is left, and their least always.

use std::{cmp::Reverse, collections::BTreeMap};

use powercap_common::{algorithm::Priority, units::Watts};

use super::{
    Algorithm, Party,
    level::{Span, level},
    total,
};

impl Algorithm for Priority {
    fn name(&self) -> &'static str {
        "priority"
    }

    fn shares(&self, whole: Watts, parties: &[Party]) -> Vec<Watts> {
        let least = total(parties, |_, party| party.least);
        let for_all = least + whole.saturating_sub(least).percent(self.reserved_percent.min(100));
        let spans: Vec<_> = parties.iter().map(Party::span).collect();
        let reserved = level(for_all, &spans);
        let mut shares: Vec<_> = spans.iter().map(|span| span.at(reserved)).collect();
        let mut left = whole.saturating_sub(total(parties, |at, _| shares[at]));

        let mut classes = BTreeMap::<Reverse<i64>, Vec<usize>>::new();
        for (at, party) in parties.iter().enumerate() {
            classes.entry(Reverse(party.priority)).or_default().push(at);
        }
        for class in classes.values() {
            let members: Vec<_> = class.iter().map(|&at| Span { from: shares[at], ..spans[at] }).collect();
            let sum = |level: Watts| members.iter().map(|span| super::times(span.at(level), span.size)).sum::<Watts>();
            let had = sum(Watts::ZERO);
            let level = level(had + left, &members);
            left = left.saturating_sub(sum(level).saturating_sub(had));
            class.iter().zip(&members).for_each(|(&at, span)| shares[at] = span.at(level));
        }
        shares
    }
}
