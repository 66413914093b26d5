//! Sufficient statistics: sums that merge exactly, so that any window, group or fleet is a sum of sums.

use serde::{Deserialize, Serialize};

use crate::terms::{self, EXPONENT_LIMIT, TRUNCATION_CAP};
use crate::{DeltaHistogram, FloorCurve, PairMoments, SequenceComparison};

/// Defines [`SufficientStatistics`] from one list of its sums, so that `merge` and `counters` cannot miss one.
macro_rules! sufficient_statistics {
    (
        counts { $($(#[$count_doc:meta])* $count:ident,)+ }
        sums { $($(#[$sum_doc:meta])* $sum:ident,)+ }
    ) => {
        /// Everything that the metrics of a set of comparisons need, except the single values.
        ///
        /// The plain fields are sums over compared tokens (per-sequence ones say so) and never negative: observing and
        /// merging only ever raises them, so they can be exported as monotone counters. Signed quantities are kept as
        /// a positive and a negative part. The means and ratios over them are this type's methods, which are the only
        /// place where their formulas are written.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct SufficientStatistics {
            $($(#[$count_doc])* pub $count: u64,)+
            $($(#[$sum_doc])* pub $sum: f64,)+
            /// Tokens by `|d|`.
            pub delta_histogram: DeltaHistogram,
            /// Largest `|d|`. An extreme merges by comparison: no counter.
            pub max_abs_delta: Option<f64>,
            /// Largest `|p_r - p_e|`.
            pub max_abs_prob_delta: Option<f64>,
            /// Smallest `rho`.
            pub min_importance_ratio: Option<f64>,
            /// Largest `rho`.
            pub max_importance_ratio: Option<f64>,
            /// Largest standard error of a noise floor's own level, as a fraction of it.
            pub max_floor_error: Option<f64>,
            /// Centred moments of `(e, r)`.
            pub logprob_moments: PairMoments,
            /// Centred moments of `(exp e, exp r)`.
            pub prob_moments: PairMoments,
        }

        impl SufficientStatistics {
            /// Adds everything that another has observed.
            pub fn merge(&mut self, other: &Self) {
                $(self.$count += other.$count;)+
                $(self.$sum += other.$sum;)+
                self.delta_histogram.merge(&other.delta_histogram);
                self.max_abs_delta = extreme(f64::max, self.max_abs_delta, other.max_abs_delta);
                self.max_abs_prob_delta = extreme(f64::max, self.max_abs_prob_delta, other.max_abs_prob_delta);
                self.min_importance_ratio = extreme(f64::min, self.min_importance_ratio, other.min_importance_ratio);
                self.max_importance_ratio = extreme(f64::max, self.max_importance_ratio, other.max_importance_ratio);
                self.max_floor_error = extreme(f64::max, self.max_floor_error, other.max_floor_error);
                self.logprob_moments.merge(&other.logprob_moments);
                self.prob_moments.merge(&other.prob_moments);
            }

            /// Every monotone sum with its field's name; counts first.
            #[must_use]
            pub fn counters(&self) -> Vec<(&'static str, f64)> {
                vec![$((stringify!($count), self.$count as f64),)+ $((stringify!($sum), self.$sum),)+]
            }
        }
    };
}

sufficient_statistics! {
    counts {
        /// Compared tokens.
        tokens,
        /// Sequences with at least one compared token.
        sequences,
        /// Tokens with a known entropy.
        entropy_tokens,
        /// Tokens with a known rank.
        ranked_tokens,
        /// Tokens that are the reference's first choice (rank 0).
        top1,
        /// Tokens with `rho` outside [0.9, 1.1].
        outside_0_9_1_1,
        /// Tokens with `rho` outside [0.5, 2].
        outside_0_5_2,
        /// Tokens with `rho` outside [0.5, 5] (IcePop's band).
        outside_0_5_5,
        /// Tokens with `rho` below 1e-4 ("catastrophic" in slime).
        below_1e_4,
        /// Exponents that were limited to +-[`EXPONENT_LIMIT`](crate::EXPONENT_LIMIT): at most one per token and three
        /// per sequence (its summed log ratio and its two perplexities).
        clamped_exponents,
        /// Sequences with a known `P_ref(EOS)` at their end.
        eos_sequences,
        /// Tokens of which a noise floor says what to expect.
        floor_tokens,
    }
    sums {
        /// `-e`.
        engine_nll,
        /// `-r` (a reference value above 0 by rounding counts as 0).
        reference_nll,
        /// `e^2`.
        engine_nll_squared,
        /// `r^2`.
        reference_nll_squared,
        /// `(-e)(-r)`.
        nll_product,
        /// `max(d, 0)`.
        delta_positive,
        /// `max(-d, 0)`.
        delta_negative,
        /// `d^2`.
        delta_squared,
        /// `exp(d) - 1 - d`.
        k3,
        /// `exp(-d) - 1 + d`.
        reverse_k3,
        /// Jensen-Shannon terms in NeMo-RL's form.
        js,
        /// `exp |d|`.
        mult_prob_error,
        /// `rho`.
        importance_ratio,
        /// `rho^2`.
        importance_ratio_squared,
        /// `min(rho, 2)`.
        truncated_ratio,
        /// `min(rho, 2)^2`.
        truncated_ratio_squared,
        /// `max(rho^2 - 1, 0)`.
        chi2_token_positive,
        /// `max(1 - rho^2, 0)`.
        chi2_token_negative,
        /// `p_e = exp e`.
        engine_prob,
        /// `p_r = exp r`.
        reference_prob,
        /// `p_e^2`.
        engine_prob_squared,
        /// `p_r^2`.
        reference_prob_squared,
        /// `p_e p_r`.
        prob_product,
        /// `max(p_r - p_e, 0)`.
        prob_delta_positive,
        /// `max(p_e - p_r, 0)`.
        prob_delta_negative,
        /// `(p_r - p_e)^2`.
        prob_delta_squared,
        /// KL of Bernoulli(`p_r`) from Bernoulli(`p_e`).
        bernoulli_kl,
        /// Entropy of the reference's distribution (below 0 by rounding counts as 0).
        entropy,
        /// Over sequences: `exp(-mean e)`.
        ppl_engine,
        /// Over sequences: `exp(-mean r)`.
        ppl_reference,
        /// Over sequences: `max(mean e - mean r, 0)`.
        log_ppl_diff_positive,
        /// Over sequences: `max(mean r - mean e, 0)`.
        log_ppl_diff_negative,
        /// Over sequences: `max(exp(sum d)^2 - 1, 0)`.
        chi2_sequence_positive,
        /// Over sequences: `max(1 - exp(sum d)^2, 0)`.
        chi2_sequence_negative,
        /// Over sequences that ended by EOS: `P_ref(EOS)` there.
        eos_probability,
        /// Over the tokens with a noise floor: `|d|`.
        floor_abs_delta,
        /// Over the tokens with a noise floor: the `|d|` that a faithful engine would show.
        floor_expected,
        /// Over the tokens with a noise floor: the `d^2` that a faithful engine would show.
        floor_expected_squared,
        /// Over the sequences with a noise floor: the variance of a faithful engine's sum of `|d|`.
        floor_variance,
    }
}

impl SufficientStatistics {
    /// Adds one sequence of which no noise floor is known. A sequence without a compared token leaves no trace.
    pub fn observe_sequence(&mut self, sequence: &SequenceComparison) {
        self.observe_sequence_with_floor(sequence, None);
    }

    /// Adds one sequence, and what the floor of the weights that scored it expects of its compared tokens.
    pub fn observe_sequence_with_floor(&mut self, sequence: &SequenceComparison, floor: Option<&FloorCurve>) {
        let mut expected = floor.map(FloorCurve::sequence);
        let (mut tokens, mut engine_sum, mut reference_sum, mut delta_sum) = (0u64, 0.0, 0.0, 0.0);
        for token in &sequence.tokens {
            let Some((engine, reference)) = token.compared() else { continue };
            self.observe_logprobs(engine, reference);
            self.observe_probabilities(engine, reference);
            if let Some(entropy) = token.entropy {
                self.entropy_tokens += 1;
                self.entropy += entropy.max(0.0);
                if let Some(expected) = &mut expected {
                    expected.add(entropy);
                    self.floor_abs_delta += (reference - engine).abs();
                }
            }
            if let Some(rank) = token.rank {
                self.ranked_tokens += 1;
                self.top1 += u64::from(rank == 0);
            }
            tokens += 1;
            engine_sum += engine;
            reference_sum += reference;
            delta_sum += reference - engine;
        }
        if tokens == 0 {
            return;
        }
        if let Some((expected, floor)) = expected.filter(|expected| expected.tokens > 0).zip(floor) {
            self.floor_tokens += expected.tokens;
            self.floor_expected += expected.expected;
            self.floor_expected_squared += expected.expected_squared;
            self.floor_variance += expected.variance();
            self.max_floor_error = extreme(f64::max, self.max_floor_error, Some(floor.relative_error()));
        }
        let count = tokens as f64;
        self.sequences += 1;
        self.ppl_engine += self.counted_limit(-engine_sum / count).exp();
        self.ppl_reference += self.counted_limit(-reference_sum / count).exp();
        add_parts(&mut self.log_ppl_diff_positive, &mut self.log_ppl_diff_negative, -delta_sum / count);
        let excess = (2.0 * self.counted_limit(delta_sum)).exp_m1();
        add_parts(&mut self.chi2_sequence_positive, &mut self.chi2_sequence_negative, excess);
        if let Some(probability) = sequence.eos_probability {
            self.eos_sequences += 1;
            self.eos_probability += probability;
        }
    }

    /// The sums over `e`, `r` and `d` of one token.
    fn observe_logprobs(&mut self, engine: f64, reference: f64) {
        let delta = reference - engine;
        let limited = self.counted_limit(delta);
        let ratio = limited.exp();
        let truncated = ratio.min(TRUNCATION_CAP);
        // Not `-reference` alone: a counter must not fall by a rounding error.
        let reference_nll = (-reference).max(0.0);

        self.tokens += 1;
        self.engine_nll += -engine;
        self.reference_nll += reference_nll;
        self.engine_nll_squared += engine * engine;
        self.reference_nll_squared += reference * reference;
        self.nll_product += -engine * reference_nll;
        self.logprob_moments.observe(engine, reference);

        add_parts(&mut self.delta_positive, &mut self.delta_negative, delta);
        self.delta_squared += delta * delta;
        self.delta_histogram.observe(delta.abs());
        self.max_abs_delta = extreme(f64::max, self.max_abs_delta, Some(delta.abs()));
        self.k3 += terms::k3(delta);
        self.reverse_k3 += terms::k3(-delta);
        self.js += terms::js(delta);
        self.mult_prob_error += limited.abs().exp();

        self.importance_ratio += ratio;
        self.importance_ratio_squared += ratio * ratio;
        self.truncated_ratio += truncated;
        self.truncated_ratio_squared += truncated * truncated;
        add_parts(&mut self.chi2_token_positive, &mut self.chi2_token_negative, (2.0 * limited).exp_m1());
        self.min_importance_ratio = extreme(f64::min, self.min_importance_ratio, Some(ratio));
        self.max_importance_ratio = extreme(f64::max, self.max_importance_ratio, Some(ratio));
        self.outside_0_9_1_1 += u64::from(!(0.9..=1.1).contains(&ratio));
        self.outside_0_5_2 += u64::from(!(0.5..=2.0).contains(&ratio));
        self.outside_0_5_5 += u64::from(!(0.5..=5.0).contains(&ratio));
        self.below_1e_4 += u64::from(ratio < 1e-4);
    }

    /// The sums over `exp e` and `exp r` of one token.
    fn observe_probabilities(&mut self, engine: f64, reference: f64) {
        let (engine_prob, reference_prob) = (engine.exp(), reference.exp());
        let delta = terms::probability_difference(engine, reference);
        self.engine_prob += engine_prob;
        self.reference_prob += reference_prob;
        self.engine_prob_squared += engine_prob * engine_prob;
        self.reference_prob_squared += reference_prob * reference_prob;
        self.prob_product += engine_prob * reference_prob;
        self.prob_moments.observe(engine_prob, reference_prob);
        add_parts(&mut self.prob_delta_positive, &mut self.prob_delta_negative, delta);
        self.prob_delta_squared += delta * delta;
        self.max_abs_prob_delta = extreme(f64::max, self.max_abs_prob_delta, Some(delta.abs()));
        self.bernoulli_kl += terms::bernoulli_kl(engine, reference);
    }

    fn counted_limit(&mut self, exponent: f64) -> f64 {
        self.clamped_exponents += u64::from(exponent.abs() > EXPONENT_LIMIT);
        terms::limit(exponent)
    }
}

fn add_parts(positive: &mut f64, negative: &mut f64, value: f64) {
    if value > 0.0 { *positive += value } else { *negative -= value }
}

/// The more extreme of two values, of which either may not exist yet.
fn extreme(pick: fn(f64, f64) -> f64, a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(pick(a, b)),
        (one, other) => one.or(other),
    }
}
