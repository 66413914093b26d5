//! Hypotheses: what the engine's numbers would be if a cause were at work, and how well that fits.

use super::cause::Cause;
use super::likelihood::{self, log_density_anywhere};
use super::observed::Observed;

/// What a hypothesis says of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Prediction {
    /// The engine's number, in nats.
    Value(f64),
    /// The token has no meaningful number: it may be anything.
    Anything,
    /// The engine could not have sampled this token.
    Impossible,
    /// Nothing: the hypothesis was not worked out for this token.
    Unknown,
}

/// How well a hypothesis fits one sequence, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fit {
    /// Tokens for which the hypothesis was worked out.
    pub(super) tokens: usize,
    /// Log-likelihood above that of "as posted, with larger noise", in nats, after the price of fitted parameters.
    pub(super) gain: f64,
    /// Sum of `|d|` of these tokens as posted.
    pub(super) before: f64,
    /// The same under the hypothesis.
    pub(super) after: f64,
    /// What the floor expects of them.
    pub(super) floor: f64,
    /// Scatter of that expectation, squared.
    pub(super) variance: f64,
    /// Factor of the noise that is left.
    pub(super) factor: f64,
}

impl Fit {
    /// 1 - MAE under the hypothesis / MAE.
    pub(super) fn explained(&self) -> f64 {
        if self.before > 0.0 { 1.0 - self.after / self.before } else { 0.0 }
    }

    /// Mean `|d|` that is left, in multiples of the floor.
    pub(super) fn residual(&self) -> f64 {
        if self.floor > 0.0 { self.after / self.floor } else { f64::INFINITY }
    }

    /// Whether what is left is noise. Few tokens scatter more.
    pub(super) fn reaches(&self, multiple: f64) -> bool {
        self.after <= multiple * self.floor + 3.0 * self.variance.sqrt()
    }

    pub(super) fn mae_before(&self) -> f64 {
        self.before / self.tokens.max(1) as f64
    }

    pub(super) fn mae_after(&self) -> f64 {
        self.after / self.tokens.max(1) as f64
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let tokens = (self.tokens + other.tokens).max(1) as f64;
        self.factor = (self.factor * self.tokens as f64 + other.factor * other.tokens as f64) / tokens;
        self.tokens += other.tokens;
        self.gain += other.gain;
        self.before += other.before;
        self.after += other.after;
        self.floor += other.floor;
        self.variance += other.variance;
    }

    /// The price of a parameter that all sequences share, or of one that this sequence has for itself.
    #[must_use]
    pub(super) fn minus(mut self, price: f64) -> Self {
        self.gain -= price;
        self
    }
}

/// Fits predictions, one per observed token; `None` if there is none among them.
pub(super) fn fit(observed: &Observed, predictions: impl Fn(usize) -> Prediction) -> Option<Fit> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut fit = Fit::default();
    let mut unfitted = 0.0;
    for (index, token) in observed.tokens.iter().enumerate() {
        let posted = token.log_ratio();
        let left = match predictions(index) {
            Prediction::Unknown => continue,
            Prediction::Value(value) if value.is_finite() => {
                after.push((value - token.engine, token.scale));
                value - token.engine
            }
            Prediction::Value(_) | Prediction::Impossible => {
                // As bad as the posted numbers, and one of the tokens that no noise explains.
                unfitted += log_density_anywhere(posted) + UNSUPPORTED;
                posted
            }
            Prediction::Anything => {
                unfitted += log_density_anywhere(posted);
                0.0
            }
        };
        before.push((posted, token.scale));
        fit.tokens += 1;
        fit.before += posted.abs();
        fit.after += left.abs();
        fit.floor += token.floor;
        fit.variance += token.variance;
    }
    if fit.tokens == 0 {
        return None;
    }
    let left = likelihood::fit(&after);
    fit.factor = left.factor;
    fit.gain = left.log_likelihood + unfitted - likelihood::fit(&before).log_likelihood;
    Some(fit)
}

/// Nats that a token costs which the hypothesis does not allow: a wrong truncation must not pass because it forbids little.
const UNSUPPORTED: f64 = -4.0;

/// A cause, what it says of each observed sequence, and the plain words for it.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) cause: Cause,
    /// One per observed sequence, in their order.
    pub(super) fits: Vec<Option<Fit>>,
    /// What the engine did, without numbers of the fit; one for all or one for each sequence.
    pub(super) said: Vec<String>,
    /// Whether the fit alone is no proof: the share of `|d|` that has to be explained where the floor is not reached.
    pub(super) least_explained: f64,
    /// Whether it says what the numbers should be, and not only where they are wrong.
    pub(super) is_counterfactual: bool,
}

/// Share of `|d|` that a hypothesis must explain if what is left is still more than noise.
pub(super) const LEAST_EXPLAINED: f64 = 0.5;

impl Tried {
    pub(super) fn new(cause: Cause, said: impl Into<String>, fits: Vec<Option<Fit>>) -> Self {
        Self { cause, fits, said: vec![said.into()], least_explained: LEAST_EXPLAINED, is_counterfactual: true }
    }

    /// All sequences together.
    pub(super) fn pooled(&self) -> Fit {
        let mut pooled = Fit::default();
        self.fits.iter().flatten().for_each(|fit| pooled.merge(fit));
        pooled
    }

    /// The words for one sequence.
    pub(super) fn words(&self, sequence: usize) -> &str {
        self.said.get(sequence).or(self.said.first()).map_or("", String::as_str)
    }
}
