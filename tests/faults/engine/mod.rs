//! A small inference engine with switches for everything that goes wrong in real ones.
//!
//! It is not the reference: another forward (one row at a time over a key-value cache, as engines decode), another sampler,
//! and nothing of `plumbline-model`. Without a fault its f32 form agrees with the reference to rounding, and its bf16 form is
//! as far from it as vLLM's is; `sanity` checks both.
//!
//! - `checkpoint`: weights and what may have happened to them; `network`: the decoder over a cache;
//! - `numerics`: number formats; `sampling`: from logits to a token and its reported logprob.

mod checkpoint;
mod network;
mod numerics;
mod sampling;

use std::ops::Range;
use std::sync::Arc;

use plumbline_core::Sampling;

pub(crate) use self::checkpoint::{Adapter, Checkpoint};
use self::network::{Cache, Row};
pub(crate) use self::network::{Network, Positions};
pub(crate) use self::numerics::{BF16, KvFormat, Precision};
use self::numerics::{Rounding, with_mantissa};
pub(crate) use self::sampling::Report;
use crate::rng::Rng;

/// The engine and how it is set up. [`Engine::healthy`] is a faithful one; a plant changes a field.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) network: Arc<Network>,
    pub(crate) precision: Precision,
    pub(crate) head: Head,
    pub(crate) positions: Positions,
    pub(crate) kv_cache: Option<LowCache>,
    /// The weights that computed the blocks of prompts that are in the prefix cache.
    pub(crate) cached_prefix: Option<Arc<Network>>,
    pub(crate) swap: Option<Swap>,
    pub(crate) sampling: Sampling,
    pub(crate) report: Report,
    pub(crate) eos: u32,
}

/// From the last hidden state to logits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// Mantissa bits of the logits; `None` = f32.
    pub(crate) mantissa: Option<u32>,
    pub(crate) softcap: Option<f32>,
    /// Rows of zeros behind the vocabulary that are in the softmax.
    pub(crate) padded_rows: usize,
    /// Added to the logits, by token.
    pub(crate) bias: Option<Arc<Vec<f32>>>,
}

/// A key-value cache of low precision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowCache {
    pub(crate) format: KvFormat,
    /// Index of the first completion token that is stored in it; `None` = the prompt too, after a prefill that is exact.
    pub(crate) from: Option<usize>,
}

/// Weights that are replaced while sequences run.
#[derive(Clone, Debug)]
pub(crate) struct Swap {
    pub(crate) to: Arc<Network>,
    /// Bounds of the completion index, different for each sequence, from which the new weights sample.
    pub(crate) at: Range<usize>,
    /// Whether keys and values of the past are computed anew, or those of the old weights stay.
    pub(crate) recompute: bool,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: usize,
    /// The tokens to take instead of sampled ones: the answer is what the engine reports for them.
    pub(crate) forced: Option<Vec<u32>>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) completion: Vec<u32>,
    pub(crate) logprobs: Vec<f64>,
    /// Whether the end was sampled, not forced by the limit.
    pub(crate) finished: bool,
    /// First completion token that new weights sampled.
    pub(crate) swapped_at: Option<usize>,
}

/// Tokens of a block of the prefix cache.
const BLOCK: usize = 16;

struct Running {
    prompt: Vec<u32>,
    max_tokens: usize,
    forced: Option<Vec<u32>>,
    /// What the head made of the last hidden state.
    vocabulary: Vec<f32>,
    swapped: bool,
    swap_at: Option<usize>,
    answer: Answer,
    rng: Rng,
}

impl Engine {
    /// A faithful engine that reports raw logprobs at temperature 1, in bf16 with a bf16 head.
    pub(crate) fn healthy(network: Arc<Network>, eos: u32) -> Self {
        Self {
            network,
            precision: BF16,
            head: Head { mantissa: Some(7), ..Head::default() },
            positions: Positions { rope_theta: 10_000.0, rope_factor: 1.0, window: None },
            kv_cache: None,
            cached_prefix: None,
            swap: None,
            sampling: Sampling::default(),
            report: Report::Raw,
            eos,
        }
    }

    /// Answers all requests in one batch. Sequences with the same prompt share its prefill.
    pub(crate) fn generate(&self, requests: &[Request], seed: u64) -> Vec<Answer> {
        let mut rounding = Rounding::new(self.precision, seed);
        let mut caches: Vec<Cache> = Vec::new();
        let mut running: Vec<Running> = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let known = requests[..index].iter().position(|earlier| earlier.prompt == request.prompt);
            let (cache, vocabulary) = match known {
                Some(known) => (caches[known].clone(), running[known].vocabulary.clone()),
                None => self.prefill(&request.prompt, &mut rounding),
            };
            caches.push(cache);
            let mut rng = Rng::new(seed.wrapping_mul(1_000_003).wrapping_add(index as u64));
            let swap_at = self.swap.as_ref().map(|swap| swap.at.start + rng.below(swap.at.len()));
            let answer = Answer { completion: vec![], logprobs: vec![], finished: false, swapped_at: None };
            let Request { prompt, max_tokens, forced } = request.clone();
            running.push(Running { prompt, max_tokens, forced, vocabulary, swapped: false, swap_at, answer, rng });
        }
        loop {
            for sequence in running.iter_mut().filter(|sequence| !sequence.done()) {
                self.step(sequence);
            }
            let active: Vec<usize> = (0..running.len()).filter(|index| !running[*index].done()).collect();
            if active.is_empty() {
                return running.into_iter().map(|sequence| sequence.answer).collect();
            }
            self.advance(&active, &mut running, &mut caches, &mut rounding);
        }
    }

    /// Samples the next token.
    fn step(&self, sequence: &mut Running) {
        let logits = self.head.logits(&sequence.vocabulary);
        let context = (sequence.prompt.as_slice(), sequence.answer.completion.as_slice());
        let drawn = sampling::Drawn::new(&logits, &self.sampling, context);
        let token = match &sequence.forced {
            Some(forced) => forced[sequence.answer.completion.len()],
            None => drawn.token(sequence.vocabulary.len(), &mut sequence.rng),
        };
        let logprob = drawn.reported(token, self.report);
        sequence.answer.completion.push(token);
        sequence.answer.logprobs.push(logprob);
        sequence.answer.finished = token == self.eos && sequence.forced.is_none();
    }

    fn network_of(&self, sequence: &Running) -> &Network {
        match &self.swap {
            Some(swap) if sequence.swapped => &swap.to,
            _ => &self.network,
        }
    }

    /// Runs the tokens that were just sampled, by whichever weights are in force for the next one.
    fn advance(&self, active: &[usize], running: &mut [Running], caches: &mut [Cache], rounding: &mut Rounding) {
        for index in active {
            let sequence = &mut running[*index];
            let next = sequence.answer.completion.len();
            if let Some(swap) = self.swap.as_ref().filter(|_| sequence.swap_at == Some(next)) {
                sequence.swapped = true;
                sequence.answer.swapped_at = Some(next);
                if swap.recompute {
                    let sampled = &sequence.answer.completion[..next - 1];
                    let past: Vec<u32> = sequence.prompt.iter().chain(sampled).copied().collect();
                    caches[*index] = Cache::default();
                    run(&swap.to, &past, &mut caches[*index], &self.positions, rounding);
                }
            }
        }
        for swapped in [false, true] {
            let of_network: Vec<usize> =
                active.iter().copied().filter(|index| running[*index].swapped == swapped).collect();
            let Some(first) = of_network.first() else { continue };
            let rows: Vec<Row> = of_network.iter().map(|index| self.row(*index, &running[*index])).collect();
            let network = self.network_of(&running[*first]);
            let hidden = network.forward(&rows, caches, &self.positions, rounding);
            let vocabularies = network.logits(&hidden);
            for (index, vocabulary) in of_network.iter().zip(vocabularies.chunks(vocabularies.len() / rows.len())) {
                running[*index].vocabulary = vocabulary.to_vec();
            }
        }
    }

    fn row(&self, index: usize, sequence: &Running) -> Row {
        let last = sequence.answer.completion.len() - 1;
        let low = self.kv_cache.filter(|low| low.from.is_none_or(|from| last >= from));
        Row { cache: index, token: sequence.answer.completion[last], stored: low.map(|low| low.format) }
    }

    /// The prompt's cache, and what the head makes of its last hidden state.
    fn prefill(&self, prompt: &[u32], rounding: &mut Rounding) -> (Cache, Vec<f32>) {
        let mut cache = Cache::default();
        if let Some(network) = &self.cached_prefix {
            let cached = (prompt.len() - 1) / BLOCK * BLOCK;
            run(network, &prompt[..cached], &mut cache, &self.positions, rounding);
        }
        let rest = &prompt[cache.len()..];
        let hidden = run(&self.network, rest, &mut cache, &self.positions, rounding);
        if let Some(low) = self.kv_cache.filter(|low| low.from.is_none()) {
            cache.lower(low.format);
        }
        let last = &hidden[hidden.len() - hidden.len() / rest.len()..];
        (cache, self.network.logits(last))
    }
}

fn run(
    network: &Network,
    tokens: &[u32],
    cache: &mut Cache,
    positions: &Positions,
    rounding: &mut Rounding,
) -> Vec<f32> {
    let rows: Vec<Row> = tokens.iter().map(|token| Row { cache: 0, token: *token, stored: None }).collect();
    network.forward(&rows, std::slice::from_mut(cache), positions, rounding)
}

impl Running {
    fn done(&self) -> bool {
        self.answer.finished || self.answer.completion.len() == self.max_tokens
    }
}

impl Head {
    fn logits(&self, vocabulary: &[f32]) -> Vec<f64> {
        let mut logits: Vec<f32> = vocabulary.to_vec();
        if let Some(bias) = &self.bias {
            logits.iter_mut().zip(bias.iter()).for_each(|(logit, bias)| *logit += bias);
        }
        if let Some(cap) = self.softcap {
            logits.iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
        if let Some(bits) = self.mantissa {
            logits.iter_mut().for_each(|logit| *logit = with_mantissa(*logit, bits));
        }
        logits.resize(logits.len() + self.padded_rows, 0.0);
        logits.into_iter().map(f64::from).collect()
    }
}
