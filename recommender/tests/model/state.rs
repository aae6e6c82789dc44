//! The state of the model, and what each step makes of it.

use std::collections::BTreeSet;

use powercap_recommender::decide::promise::Fate;

use super::{At, CAP, CAPS, IN_FLIGHT, NAMEPLATE, NODES, Recommender, Rules, Step, UNMANAGED};

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub cap: u8,
    pub unmanaged: u8,
    pub nodes: [Node; NODES],
    pub recommenders: [Recommender; 2],
    pub letters: Vec<Letter>,
    /// The last term that anybody led in.
    pub term: u8,
    /// What may be promised: the cap, or where the last event found more, that, and less as it falls.
    pub bound: u8,
    /// How many more events there are.
    pub events: u8,
}

/// One node: the truth, and what its agent is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub in_domain: bool,
    pub object: Option<Object>,
    /// The most that it draws: by its limits, or without any.
    pub draws: u8,
    /// The orders that its agent read last, and does not carry out yet.
    read: Option<(At, u8)>,
}

/// What the API server holds of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    pub epoch: At,
    pub grant: u8,
    pub committed: Option<u8>,
    pub status: Option<Said>,
}

/// What a node's agent said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Said {
    pub of_this_boot: bool,
    pub acknowledged: Option<(At, u8)>,
}

/// A write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Letter {
    pub node: usize,
    /// Made where no object was known: on any version. Others arrive on the one that they were made on.
    pub creates: bool,
    pub epoch: At,
    pub grant: u8,
    pub committed: Option<u8>,
}

impl State {
    /// A domain at peace. Its second node stands in it too, or is yet to come.
    pub fn settled(grant: u8, both: bool, events: u8) -> Self {
        let told = ((1, 1), grant);
        let status = Some(Said { of_this_boot: true, acknowledged: Some(told) });
        let object = Some(Object { epoch: told.0, grant: told.1, committed: Some(told.1), status });
        let member = Node { in_domain: true, object, draws: told.1, read: None };
        let stranger = Node { in_domain: false, object: None, draws: NAMEPLATE, ..member };
        let nodes = [member, if both { member } else { stranger }];
        let view = nodes.map(|node| node.object);
        let leading =
            Recommender { term: Some(1), sequence: 1, view, current: [true; NODES], ..Recommender::default() };
        let recommenders = [leading, Recommender::default()];
        Self { cap: CAP, unmanaged: 0, nodes, recommenders, letters: Vec::new(), term: 1, bound: CAP, events }
    }

    /// The most that the domain may come to draw by what was written or may arrive yet.
    pub fn promised(&self) -> u8 {
        let of = |(at, node): (usize, &Node)| {
            let coming = self.letters.iter().filter(|letter| letter.node == at).map(|letter| letter.grant);
            let orders = node.read.map(|(_, grant)| grant).into_iter().chain(node.object.map(|object| object.grant));
            coming.chain(orders).fold(node.draws, u8::max)
        };
        let members = self.nodes.iter().enumerate().filter(|(_, node)| node.in_domain);
        self.unmanaged + members.map(of).sum::<u8>()
    }

    /// The leader, when all was heard, carried out and told, and nobody else believes to lead.
    pub fn leader_at_rest(&self) -> Option<&Recommender> {
        let told = |node: &Node| node.object.is_some_and(|object| object.is_told()) && node.is_idle();
        let mut members = self.nodes.iter().filter(|node| node.in_domain);
        let mut leaders = self.recommenders.iter().filter(|recommender| recommender.term.is_some());
        let leader = leaders.next().filter(|leader| leader.current == [true; NODES])?;
        let alone = leader.term == Some(self.term) && leaders.next().is_none();
        (alone && self.letters.is_empty() && members.all(told)).then_some(leader)
    }

    pub fn recommenders_may(&self, terms: u8, steps: &mut Vec<Step>) {
        for (who, recommender) in self.recommenders.iter().enumerate() {
            match recommender.term {
                Some(term) => {
                    let room = IN_FLIGHT - self.letters.len();
                    let masks = (0..1_u8 << NODES).filter(|mask| mask.count_ones() as usize <= room);
                    steps.extend(masks.map(|unheard| Step::Decide { who, unheard }));
                    steps.extend((term < self.term).then_some(Step::Notice { who }));
                }
                None => {
                    let may = self.term < terms;
                    steps.extend([true, false].into_iter().filter(|_| may).map(|late| Step::TakeOver { who, late }));
                    continue;
                }
            }
            let unseen = (0..NODES).filter(|node| !recommender.current[*node]);
            steps.extend(unseen.map(|node| Step::See { who, node }));
        }
    }

    pub fn agents_may(&self, steps: &mut Vec<Step>) {
        for (at, node) in self.nodes.iter().enumerate() {
            let fresh = |object: Object| {
                let orders = Some((object.epoch, object.grant));
                !object.is_told() && node.read != orders
            };
            steps.extend(node.object.is_some_and(fresh).then_some(Step::Read(at)));
            steps.extend(node.read.map(|_| Step::CarryOut(at)));
        }
    }

    pub fn world_may(&self, steps: &mut Vec<Step>) {
        steps.extend(CAPS.into_iter().filter(|cap| *cap != self.cap).map(Step::Cap));
        steps.push(Step::Unmanaged);
        for (at, node) in self.nodes.iter().enumerate() {
            steps.push(if node.in_domain { Step::Boot(at) } else { Step::Join(at) });
            steps.extend((!node.is_idle()).then_some(Step::Restart(at)));
        }
    }

    pub fn happen(&mut self, step: Step, rules: Rules) {
        match step {
            Step::Decide { who, unheard } => self.decide(who, unheard, rules),
            Step::See { who, node } => {
                let recommender = &mut self.recommenders[who];
                (recommender.view[node], recommender.current[node]) = (self.nodes[node].object, true);
            }
            Step::TakeOver { who, late } => {
                self.term += 1;
                let others = &self.recommenders[1 - who];
                let (view, current) = match late {
                    true => (others.view, others.current),
                    false => (self.nodes.map(|node| node.object), [true; NODES]),
                };
                self.recommenders[who] = Recommender { term: Some(self.term), view, current, ..Recommender::default() };
            }
            Step::Notice { who } => self.recommenders[who] = Recommender::default(),
            Step::Arrive(letter) => {
                let letter = self.letters.remove(letter);
                self.arrive(&letter);
            }
            Step::Lose(letter) => drop(self.letters.remove(letter)),
            Step::Read(at) => self.read(at),
            Step::CarryOut(at) => self.carry_out(at),
            Step::Restart(at) => self.nodes[at].read = None,
            Step::Boot(at) => self.boot(at),
            Step::Cap(cap) => self.cap = cap,
            Step::Unmanaged => self.unmanaged = UNMANAGED - self.unmanaged,
            Step::Join(at) => self.nodes[at].in_domain = true,
        }
        self.events -= u8::from(step.is_event());
        let changes_the_bound = step.is_event() && !matches!(step, Step::Restart(_));
        let most = if changes_the_bound { self.promised() } else { self.promised().min(self.bound) };
        self.bound = most.max(self.cap);
        self.rank_sequences();
    }

    fn decide(&mut self, who: usize, unheard: u8, rules: Rules) {
        let letters = self.recommenders[who].decide(self, rules);
        self.recommenders[who].sequence += u8::from(!letters.is_empty());
        for letter in letters {
            let node = letter.node;
            let on_present_version = self.recommenders[who].current[node] || letter.creates;
            let fate = if unheard & (1 << node) != 0 {
                self.letters.extend(on_present_version.then_some(letter));
                self.letters.sort_unstable();
                Fate::Unknown
            } else if on_present_version && self.arrive(&letter) {
                Fate::Arrived
            } else {
                Fate::Refused
            };
            self.recommenders[who].note(&letter, fate, rules);
            if fate == Fate::Arrived && rules != Rules::BelievesTheCache {
                let recommender = &mut self.recommenders[who];
                (recommender.view[node], recommender.current[node]) = (self.nodes[node].object, true);
            }
        }
    }

    /// What the API server makes of a write on the present version.
    fn arrive(&mut self, letter: &Letter) -> bool {
        let node = &mut self.nodes[letter.node];
        if node.object.is_some_and(|object| object.epoch > letter.epoch) {
            return false;
        }
        let status = node.object.and_then(|object| object.status);
        node.object = Some(Object { epoch: letter.epoch, grant: letter.grant, committed: letter.committed, status });
        self.changed(letter.node);
        true
    }

    fn say(&mut self, at: usize, said: Said) {
        if let Some(object) = &mut self.nodes[at].object {
            object.status = Some(said);
            self.changed(at);
        }
    }

    /// There is a newer version: views are of an older one, and letters that can only be refused are gone.
    fn changed(&mut self, at: usize) {
        self.recommenders.iter_mut().for_each(|recommender| recommender.current[at] = false);
        let epoch = self.nodes[at].object.map(|object| object.epoch);
        self.letters.retain(|letter| letter.node != at || (letter.creates && Some(letter.epoch) >= epoch));
    }

    fn read(&mut self, at: usize) {
        let Some(object) = self.nodes[at].object else { return };
        self.nodes[at].read = Some((object.epoch, object.grant));
        if object.status.is_none_or(|said| !said.of_this_boot) {
            self.say(at, Said { of_this_boot: true, acknowledged: None });
        }
    }

    fn carry_out(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let acknowledged = node.read.take();
        node.draws = acknowledged.map_or(node.draws, |(_, grant)| grant);
        self.say(at, Said { of_this_boot: true, acknowledged });
    }

    fn boot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.draws, node.read) = (NAMEPLATE, None);
        let views = self.recommenders.iter_mut().map(|recommender| &mut recommender.view[at]);
        let objects = views.chain([&mut node.object]).flatten();
        objects.filter_map(|object| object.status.as_mut()).for_each(|said| said.of_this_boot = false);
    }

    /// Only the order of sequences matters.
    fn rank_sequences(&mut self) {
        let mut seen = BTreeSet::new();
        self.each_epoch(|epoch| _ = seen.insert(*epoch));
        self.each_epoch(|(term, sequence)| {
            *sequence = seen.range((*term, 0)..(*term, *sequence)).count().try_into().unwrap_or(u8::MAX);
        });
    }

    fn each_epoch(&mut self, mut with: impl FnMut(&mut At)) {
        fn of(object: &mut Object) -> impl Iterator<Item = &mut At> {
            let acknowledged = object.status.as_mut().and_then(|said| said.acknowledged.as_mut());
            [&mut object.epoch].into_iter().chain(acknowledged.map(|(epoch, _)| epoch))
        }
        for node in &mut self.nodes {
            let orders = node.read.iter_mut().map(|(epoch, _)| epoch);
            orders.chain(node.object.iter_mut().flat_map(of)).for_each(&mut with);
        }
        self.letters.iter_mut().for_each(|letter| with(&mut letter.epoch));
        for recommender in &mut self.recommenders {
            recommender.view.iter_mut().flatten().flat_map(of).for_each(&mut with);
            if let Some(term) = recommender.term {
                let mut epoch = (term, recommender.sequence);
                with(&mut epoch);
                recommender.sequence = epoch.1;
            }
        }
    }
}

impl Node {
    fn is_idle(&self) -> bool {
        self.read.is_none()
    }
}

impl Object {
    fn is_told(&self) -> bool {
        self.status.is_some_and(|said| said.of_this_boot && said.acknowledged == Some((self.epoch, self.grant)))
    }
}

impl Step {
    /// Whether it comes from outside of the protocol.
    fn is_event(self) -> bool {
        matches!(self, Self::Cap(_) | Self::Unmanaged | Self::Join(_) | Self::Boot(_) | Self::Restart(_))
    }
}
