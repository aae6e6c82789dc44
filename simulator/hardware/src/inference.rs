//! What serving a language model asks of a board, by batch size.
//!
//! Measured on H100 with Llama-8B at full clock: batch → watts → tokens/s. Between the points it is
//! interpolated over log2 of the batch; a batch of 1 is extended from 8 in proportion (decode is bound
//! by memory there, so tokens grow with the batch).
//! What must hold: more sequences give more tokens a second in all, and fewer each.

use crate::folder::Load;
use crate::spec::BoardSpec;

/// Batch, watts, tokens a second.
const H100_LLAMA_8B: [(f64, f64, f64); 4] =
    [(8.0, 486.0, 1070.0), (32.0, 560.0, 3391.0), (128.0, 669.0, 7037.0), (256.0, 691.0, 9010.0)];
const MEASURED_LIMIT_WATTS: f64 = 700.0;

/// Prompt tokens a second at full clock: 2 × 8·10⁹ operations a token at about 40 % of an H100's
/// 989 TFLOP/s. Computed, not measured.
pub const PREFILL_TOKENS_PER_SECOND: f64 = 25_000.0;

/// A decode step's demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decode {
    /// At full clock, over all sequences.
    pub tokens_per_second: f64,
    /// Share bound by memory: 1 up to a batch of 8, falling to 0.2 at 256 (assumed: a batch shares
    /// one reading of the weights, so arithmetic grows and traffic does not).
    pub memory_share: f64,
    /// For [`Load::intensity`].
    pub intensity: f64,
}

/// Demand of decoding `batch` sequences at once.
#[must_use]
pub fn decode(batch: f64, spec: &BoardSpec) -> Decode {
    let batch = batch.clamp(1.0, 256.0);
    let (watts, tokens_per_second) = measured(batch);
    let memory_share = (1.0 - 0.16 * (batch / 8.0).log2().max(0.0)).clamp(0.2, 1.0);
    let wanted = watts / MEASURED_LIMIT_WATTS * spec.full_watts;
    let intensity = (wanted - spec.idle_watts).max(0.0) / (spec.busy_watts(memory_share, 1.0) - spec.idle_watts);
    Decode { tokens_per_second, memory_share, intensity }
}

fn measured(batch: f64) -> (f64, f64) {
    let first = H100_LLAMA_8B[0];
    if batch <= first.0 {
        // 400 W is the lower end of what decode studies saw near a batch of 1.
        return (400.0 + (first.1 - 400.0) * batch / first.0, first.2 * batch / first.0);
    }
    for pair in H100_LLAMA_8B.windows(2) {
        let (low, high) = (pair[0], pair[1]);
        if batch <= high.0 {
            let share = (batch / low.0).log2() / (high.0 / low.0).log2();
            return (low.1 + share * (high.1 - low.1), low.2 + share * (high.2 - low.2));
        }
    }
    let last = H100_LLAMA_8B[H100_LLAMA_8B.len() - 1];
    (last.1, last.2)
}

/// Power of prefill grows with the prompt: .46 of the limit at 128 tokens to 1.00 at 4096 (measured).
#[must_use]
pub fn prefill_intensity(prompt_tokens: f64) -> f64 {
    let share = (prompt_tokens.clamp(128.0, 4096.0) / 128.0).log2() / 5.0;
    0.46 + share * 0.54
}

impl Load {
    /// A training step: dense arithmetic.
    #[must_use]
    pub fn training(beat: u64, memory_used_mib: u64) -> Self {
        Self { beat, utilisation: 1.0, memory_share: 0.1, intensity: 1.0, memory_used_mib }
    }

    /// Waiting for other ranks: links busy, arithmetic at rest.
    #[must_use]
    pub fn all_reduce(beat: u64, memory_used_mib: u64) -> Self {
        Self { beat, utilisation: 1.0, memory_share: 1.0, intensity: 0.35, memory_used_mib }
    }

    /// Nothing to do, but alive.
    #[must_use]
    pub fn waiting(beat: u64, memory_used_mib: u64) -> Self {
        Self { beat, utilisation: 0.0, memory_share: 0.0, intensity: 0.0, memory_used_mib }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{Board, Traits};

    #[test]
    fn the_measured_batches_come_out_in_watts_and_tokens() {
        let spec = BoardSpec::h100_sxm();
        for (batch, watts, tokens) in H100_LLAMA_8B {
            let demand = decode(batch, &spec);
            assert!((demand.tokens_per_second - tokens).abs() < 1e-6);
            let mut board = Board::new(spec.clone(), Traits::EXACT);
            let request = Board::boot_request(&spec);
            for beat in 1..200 {
                let load = Load {
                    beat,
                    utilisation: 1.0,
                    memory_share: demand.memory_share,
                    intensity: demand.intensity,
                    memory_used_mib: 0,
                };
                board.step(0.005, &request, &load);
            }
            assert!((board.true_watts() / watts - 1.0).abs() < 0.02, "batch {batch}: {} W", board.true_watts());
        }
    }

    #[test]
    fn more_sequences_give_more_tokens_in_all_and_fewer_each() {
        let spec = BoardSpec::h100_sxm();
        let mut previous = decode(1.0, &spec);
        for batch in 2..=256u32 {
            let now = decode(f64::from(batch), &spec);
            assert!(now.tokens_per_second > previous.tokens_per_second);
            assert!(now.intensity > 0.5 && now.intensity < 1.3, "batch {batch}: {now:?}");
            previous = now;
        }
    }
}
