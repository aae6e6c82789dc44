//! What really flows on a node, for the judge alone: no sensor, no error, no lag.
//!
//! One record a node, at most 16 boards. Besides the instant there are running totals (joules, work),
//! so that a reader who looks every 50 ms gets exact means of the time between.
//! What must hold: `steps` and `wall_us` advance while the daemon lives; nothing but the judge reads this.

use crate::record::{Record, Word};

/// Room for boards in a record.
pub const MOST_BOARDS: usize = 16;
const BOARD_WORDS: usize = 6;
const HEAD_WORDS: usize = 9;

/// One board.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BoardTruth {
    /// DC power now.
    pub watts: f64,
    /// DC energy since boot.
    pub joules: f64,
    /// Graphics clock.
    pub clock_mhz: u32,
    /// Share of time with work, 0 to 1.
    pub utilisation: f64,
    /// Work since boot, in seconds at full speed.
    pub work_seconds: f64,
    /// Work by the workload's own count.
    pub work_units: f64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Truth {
    /// Counts the daemon's steps.
    pub steps: u64,
    /// When, in microseconds since 1970.
    pub wall_us: u64,
    /// AC power of the node now.
    pub ac_watts: f64,
    /// AC energy since boot.
    pub ac_joules: f64,
    /// DC power of the CPU packages, the first two.
    pub cpu_watts: [f64; 2],
    /// CPU frequency of the first package.
    pub cpu_khz: u32,
    /// Seconds since boot, as simulated.
    pub uptime_seconds: f64,
    /// The boards by index.
    pub boards: Vec<BoardTruth>,
}

impl Record for Truth {
    const KIND: u64 = 0x7472_7574_6820_2031;
    const WORDS: usize = HEAD_WORDS + MOST_BOARDS * BOARD_WORDS;

    fn encode(&self, words: &mut [u64]) {
        let head = [
            self.steps,
            self.wall_us,
            self.ac_watts.to_word(),
            self.ac_joules.to_word(),
            self.cpu_watts[0].to_word(),
            self.cpu_watts[1].to_word(),
            self.cpu_khz.to_word(),
            self.uptime_seconds.to_word(),
            self.boards.len().min(MOST_BOARDS) as u64,
        ];
        words[..HEAD_WORDS].copy_from_slice(&head);
        let (slots, _) = words[HEAD_WORDS..].as_chunks_mut::<BOARD_WORDS>();
        for (slot, board) in slots.iter_mut().zip(&self.boards) {
            *slot = [
                board.watts.to_word(),
                board.joules.to_word(),
                board.clock_mhz.to_word(),
                board.utilisation.to_word(),
                board.work_seconds.to_word(),
                board.work_units.to_word(),
            ];
        }
    }

    fn decode(words: &[u64]) -> Self {
        let boards = usize::try_from(words[8]).unwrap_or(0).min(MOST_BOARDS);
        let (slots, _) = words[HEAD_WORDS..].as_chunks::<BOARD_WORDS>();
        Self {
            steps: words[0],
            wall_us: words[1],
            ac_watts: Word::from_word(words[2]),
            ac_joules: Word::from_word(words[3]),
            cpu_watts: [Word::from_word(words[4]), Word::from_word(words[5])],
            cpu_khz: Word::from_word(words[6]),
            uptime_seconds: Word::from_word(words[7]),
            boards: slots
                .iter()
                .take(boards)
                .map(|slot| BoardTruth {
                    watts: Word::from_word(slot[0]),
                    joules: Word::from_word(slot[1]),
                    clock_mhz: Word::from_word(slot[2]),
                    utilisation: Word::from_word(slot[3]),
                    work_seconds: Word::from_word(slot[4]),
                    work_units: Word::from_word(slot[5]),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_survives_the_record() {
        let board =
            BoardTruth { watts: 1.5, joules: 2.5, clock_mhz: 3, utilisation: 0.4, work_seconds: 5.0, work_units: 6.0 };
        let truth = Truth {
            steps: 1,
            wall_us: 2,
            ac_watts: 3.0,
            ac_joules: 4.0,
            cpu_watts: [5.0, 6.0],
            cpu_khz: 7,
            uptime_seconds: 8.0,
            boards: vec![board; MOST_BOARDS],
        };
        let mut words = vec![0; Truth::WORDS];
        truth.encode(&mut words);
        assert_eq!(Truth::decode(&words), truth);
    }
}
