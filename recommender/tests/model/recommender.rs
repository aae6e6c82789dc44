//! A recommender of the model: the code that the recommender runs, around a memory of a few bytes.

use std::collections::BTreeMap;

use powercap_common::{
    api::{Acknowledged, Epoch, NodeFrequencies, NodeFrequenciesSpec, NodeFrequenciesStatus},
    units::Watts,
};
use powercap_recommender::{
    algorithms::{Claim, Uniform, share_out},
    decide::{
        grants::{Budget, Holding, permitted},
        promise::{self, Fate},
    },
};

use super::{
    At, KILO, NAMEPLATE, NODES,
    rules::Rules,
    state::{Letter, Object, State},
};

/// A recommender: it leads in a term, or (`None`) stands by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recommender {
    pub term: Option<u8>,
    pub sequence: u8,
    pub view: [Option<Object>; NODES],
    /// Whether its view is of the present version.
    pub current: [bool; NODES],
    pub uncertain: BTreeMap<String, Watts>,
}

impl Recommender {
    /// The writes of one decision.
    pub fn decide(&self, state: &State, rules: Rules) -> Vec<Letter> {
        let Some(term) = self.term else { return Vec::new() };
        let epoch = (term, self.sequence + 1);
        let holdings: Vec<_> = (0..NODES).map(|node| self.holding(node, term, rules)).collect();
        let wishes = self.wishes(state);
        let members = (0..NODES).filter(|node| wishes[*node].is_some()).collect();
        let grants = permitted(&holdings, &[Budget { watts: budget(state), members }], &wishes);
        let write = |node: usize| {
            let (view, grant) = (self.view[node], grants[node]?);
            let standing = view.map(|object| written(object.epoch));
            let changed = view.map(|object| watts(object.grant)) != Some(grant);
            let promise = promise::next(holdings[node], standing, written(epoch), Some(grant), changed)?;
            let committed = promise.committed.map(kilowatts);
            Some(Letter { node, creates: view.is_none(), epoch, grant: kilowatts(grant), committed })
        };
        (0..NODES).filter_map(write).collect()
    }

    /// What became of a write.
    pub fn note(&mut self, letter: &Letter, fate: Fate, rules: Rules) {
        if rules != Rules::ForgetsUnansweredWrites {
            promise::note(&mut self.uncertain, &name(letter.node), Some(watts(letter.grant)), fate);
        }
    }

    /// Whether each node has its share, or a write is due.
    pub fn has_given_all_out(&self, state: &State, rules: Rules) -> bool {
        let holds = |(node, wish): (usize, Option<Watts>)| {
            wish.is_none_or(|wish| self.view[node].is_some_and(|object| watts(object.grant) == wish))
        };
        !self.decide(state, rules).is_empty() || self.wishes(state).into_iter().enumerate().all(holds)
    }

    /// The equal shares of the domain's nodes.
    fn wishes(&self, state: &State) -> Vec<Option<Watts>> {
        let members: Vec<_> = (0..NODES).filter(|node| state.nodes[*node].in_domain).collect();
        let known = |node: &usize| self.view[*node].and_then(|object| object.status).map(|_| watts(NAMEPLATE));
        let claims: Vec<_> = members.iter().map(|node| Claim { most: known(node), ..Claim::default() }).collect();
        let shares = share_out(&Uniform, budget(state), &claims);
        let mut wishes = vec![None; NODES];
        members.into_iter().zip(shares.watts).for_each(|(node, share)| wishes[node] = Some(share));
        wishes
    }

    fn holding(&self, node: usize, term: u8, rules: Rules) -> Holding {
        let Some(object) = self.view[node] else { return Holding::default() };
        let boot_id = if rules == Rules::IgnoresBoots { "" } else { "now" };
        let uncertain = self.uncertain.get(&name(node)).copied();
        let holding = Holding::of(&object.as_kubernetes_has_it(), boot_id, term.into(), uncertain);
        rules.holding(holding.with_nameplate(Some(watts(NAMEPLATE))))
    }
}

impl Object {
    fn as_kubernetes_has_it(&self) -> NodeFrequencies {
        let spec = NodeFrequenciesSpec {
            epoch: written(self.epoch),
            power_limit_watts: Some(watts(self.grant).floor()),
            committed_watts: self.committed.map(|committed| watts(committed).floor()),
            ..NodeFrequenciesSpec::default()
        };
        let mut object = NodeFrequencies::new("", spec);
        object.status = self.status.map(|said| NodeFrequenciesStatus {
            boot_id: Some(if said.of_this_boot { "now" } else { "before" }.to_owned()),
            acknowledged: said.acknowledged.map(|(epoch, grant)| Acknowledged {
                epoch: written(epoch),
                power_limit_watts: Some(watts(grant).floor()),
            }),
            ..NodeFrequenciesStatus::default()
        });
        object
    }
}

fn budget(state: &State) -> Watts {
    watts(state.cap.saturating_sub(state.unmanaged))
}

fn written((term, sequence): At) -> Epoch {
    Epoch { term: term.into(), sequence: sequence.into() }
}

fn watts(kilowatts: u8) -> Watts {
    Watts::new(u32::from(kilowatts) * KILO)
}

fn kilowatts(watts: Watts) -> u8 {
    u8::try_from(watts.ceil().div_ceil(KILO)).unwrap()
}

fn name(node: usize) -> String {
    format!("n{node}")
}
