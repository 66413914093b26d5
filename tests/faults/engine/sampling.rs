//! From logits to a sampled token and the number that the engine reports for it, in vLLM's order.

use plumbline_core::Sampling;

use crate::rng::Rng;

/// What the engine's logprob is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Report {
    /// Log-softmax of the logits.
    Raw,
    /// Log-softmax of the logits over T.
    Temperature,
    /// After penalties, temperature, min-p, top-k and top-p.
    Processed,
    /// The raw logprob over T: no logarithm of a distribution.
    RawOverTemperature,
    /// Log-softmax of the logits over T squared.
    TemperatureTwice,
}

/// The logprob of every token.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, logit| largest.max(*logit));
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let total = largest + sum.ln();
    logits.iter().map(|logit| logit - total).collect()
}

fn divided(logits: &[f64], temperature: f64) -> Vec<f64> {
    logits.iter().map(|logit| logit / temperature).collect()
}

/// Logits after every transform that the parameters ask for; what is cut off is minus infinity.
fn processed(logits: &[f64], sampling: &Sampling, prompt: &[u32], completion: &[u32]) -> Vec<f64> {
    let mut logits = logits.to_vec();
    let mut seen: Vec<u32> = prompt.iter().chain(completion).copied().collect();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 { *logit / sampling.repetition_penalty } else { *logit * sampling.repetition_penalty };
    }
    let mut sampled = completion.to_vec();
    sampled.sort_unstable();
    for token in sampled.chunk_by(|a, b| a == b) {
        logits[token[0] as usize] -= sampling.frequency_penalty * token.len() as f64 + sampling.presence_penalty;
    }
    if sampling.is_greedy() {
        return logits;
    }
    let mut logits = divided(&logits, sampling.temperature);
    if sampling.min_p > 0.0 {
        let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, logit| largest.max(*logit));
        cut(&mut logits, largest + sampling.min_p.ln());
    }
    if sampling.top_k > 0 {
        let kth = descending(&logits)[sampling.top_k as usize - 1];
        cut(&mut logits, kth);
    }
    if sampling.top_p < 1.0 {
        let mut before = 0.0;
        let sorted = descending(&log_softmax(&logits));
        let kept = sorted.iter().take_while(|logprob| {
            let keep = before < sampling.top_p;
            before += logprob.exp();
            keep
        });
        let smallest = descending(&logits)[kept.count() - 1];
        cut(&mut logits, smallest);
    }
    logits
}

fn descending(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    sorted
}

fn cut(logits: &mut [f64], smallest: f64) {
    logits.iter_mut().filter(|logit| **logit < smallest).for_each(|logit| *logit = f64::NEG_INFINITY);
}

/// The distribution of one step, before and after the sampling parameters.
pub(crate) struct Drawn<'a> {
    logits: &'a [f64],
    sampling: &'a Sampling,
    raw: Vec<f64>,
    processed: Vec<f64>,
}

impl<'a> Drawn<'a> {
    pub(crate) fn new(logits: &'a [f64], sampling: &'a Sampling, (prompt, completion): (&[u32], &[u32])) -> Self {
        let neutral = sampling.temperature == 1.0 && sampling.active_transforms().is_empty();
        let raw = log_softmax(logits);
        let processed =
            if neutral { raw.clone() } else { log_softmax(&processed(logits, sampling, prompt, completion)) };
        Self { logits, sampling, raw, processed }
    }

    /// Draws one of the first `tokens` of the vocabulary.
    pub(crate) fn token(&self, tokens: usize, rng: &mut Rng) -> u32 {
        if self.sampling.is_greedy() {
            let first = (0..tokens).max_by(|a, b| self.processed[*a].total_cmp(&self.processed[*b]));
            return first.unwrap() as u32;
        }
        loop {
            // What lies behind the vocabulary has a share of the probability, but no engine returns it.
            let token = draw(&self.processed, rng);
            if token < tokens {
                return token as u32;
            }
        }
    }

    /// What the engine says of a token, in f32.
    pub(crate) fn reported(&self, token: u32, report: Report) -> f64 {
        let temperature = if self.sampling.is_greedy() { 1.0 } else { self.sampling.temperature };
        let token = token as usize;
        let reported = match report {
            Report::Raw => self.raw[token],
            Report::Temperature => log_softmax(&divided(self.logits, temperature))[token],
            Report::Processed => self.processed[token],
            Report::RawOverTemperature => self.raw[token] / temperature,
            Report::TemperatureTwice => log_softmax(&divided(self.logits, temperature * temperature))[token],
        };
        f64::from(reported as f32)
    }
}

/// Draws by the inverse of the distribution function.
fn draw(logprobs: &[f64], rng: &mut Rng) -> usize {
    let mut left = rng.uniform();
    let mut last = 0;
    for (token, logprob) in logprobs.iter().enumerate().filter(|(_, logprob)| logprob.is_finite()) {
        last = token;
        left -= logprob.exp();
        if left < 0.0 {
            break;
        }
    }
    last
}
