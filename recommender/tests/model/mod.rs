//! The conservation protocol as a model checker walks it: two recommenders, two nodes and an API server,
//! of which anything may be late, lost or restarted.
//!
//! A recommender's step calls what the recommender runs: `Holding::of`, `permitted`, `promise::next`
//! and `promise::note`. The API server refuses what the real one refuses: a write on another version,
//! an epoch that goes back. Events in the domain (a cut, a join, a boot) are seen by everybody at once, since
//! a decision made before one is seen is a decision made before it; objects are seen late.
//!
//! States are kept few by what cannot be told apart: sequences are ranked anew in each state, and a write
//! that must be refused is forgotten.

mod recommender;
pub mod rules;
mod state;

use stateright::{Model, Property};

pub use self::state::State;
use self::{recommender::Recommender, rules::Rules};

/// Watts are in kilowatts here: a raise of one is worth a write.
const KILO: u32 = 1000;
/// The most that a node can draw.
const NAMEPLATE: u8 = 6;
const CAP: u8 = 8;
const CAPS: [u8; 3] = [4, 6, CAP];
const UNMANAGED: u8 = 2;
const NODES: usize = 2;
/// Writes of which nobody hears, at one time.
const IN_FLIGHT: usize = 2;

/// What may be drawn and what is unmanaged never grows above the cap; where a cut, a join, a boot or a rise
/// of the unmanaged left it above, it only falls until it fits.
pub const CONSERVED: &str = "promised and unmanaged watts never grow above the cap";
/// When everything is heard, carried out and told, nothing is left to give, or something is written.
pub const GIVEN_OUT: &str = "at rest every watt is given out";

/// Term and sequence.
type At = (u8, u8);

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A recommender decides and writes; of the writes to nodes in the mask nobody hears again.
    Decide { who: usize, unheard: u8 },
    /// A recommender sees the present version of a node's object.
    See { who: usize, node: usize },
    /// The other recommender takes the Lease, with a view as late as the first one's or of the present; the
    /// first may not know it yet.
    TakeOver { who: usize, late: bool },
    /// A recommender notices that it leads no more.
    Notice { who: usize },
    /// A write of which nobody heard arrives.
    Arrive(usize),
    /// Or never does.
    Lose(usize),
    /// An agent reads its orders; after a boot it says so first.
    Read(usize),
    /// It carries them out, and says so.
    CarryOut(usize),
    /// It is started again: what it had read is forgotten, what stands in hardware stands.
    Restart(usize),
    /// Limits are lost; the kubelet says so.
    Boot(usize),
    /// The cap is edited.
    Cap(u8),
    /// What nobody controls begins to draw, or ends.
    Unmanaged,
    /// A node comes into the domain.
    Join(usize),
}

/// The world, led by certain rules.
pub struct World {
    /// By which a recommender writes.
    pub rules: Rules,
    /// Events in the world, beyond which it is left alone.
    pub events: u8,
    /// Terms, beyond which nobody takes over.
    pub terms: u8,
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        // At peace, just after a raise of the cap, and with a node that is yet to join.
        [(CAP / 2, true), (CAP / 4, true), (CAP / 2, false)]
            .map(|(grant, both)| State::settled(grant, both, self.events))
            .to_vec()
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.recommenders_may(self.terms, steps);
        steps.extend((0..state.letters.len()).flat_map(|letter| [Step::Arrive(letter), Step::Lose(letter)]));
        state.agents_may(steps);
        if state.events > 0 {
            state.world_may(steps);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut after = before.clone();
        after.happen(step, self.rules);
        (after != *before).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(CONSERVED, |_, state: &State| state.promised() <= state.bound),
            Property::always(GIVEN_OUT, |world: &World, state: &State| {
                state.leader_at_rest().is_none_or(|leader| leader.has_given_all_out(state, world.rules))
            }),
        ]
    }
}
