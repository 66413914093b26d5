//! What the differences look like where nothing explains them.

use super::case::Case;
use super::cause::Cause;
use super::health::END;
use super::hypothesis::{Fit, Tried};
use super::observed::{Excess, Observed};
use super::segment::Segment;

/// Stretches: a tail in which the context differs, or the cache is coarse.
pub(super) fn stretches(case: &mut Case<'_>, segments: &[Option<Segment>]) {
    for cause in [Cause::ContextDiffersFromToken, Cause::KvCachePrecision] {
        let mut said = Vec::new();
        let mut fits = Vec::new();
        for (observed, segment) in case.observed.iter().zip(segments) {
            let found = segment.filter(|segment| kind(observed, segment) == Some(cause));
            said.push(found.map_or_else(String::new, |segment| words(cause, observed, &segment)));
            fits.push(found.map(|segment| fit_of(observed, &segment)));
        }
        case.tried.push(Tried { said, least_explained: 0.0, is_counterfactual: false, ..Tried::new(cause, "", fits) });
    }
}

/// Mean `|d|`, in floors and in nats, up to which a tail may be a coarse cache.
const COARSE_FLOORS: f64 = 15.0;
const COARSE_NATS: f64 = 0.25;
/// Tokens before a stretch that must be in order to say that it begins there.
const LEAST_BEFORE: usize = 3;

fn kind(observed: &Observed, segment: &Segment) -> Option<Cause> {
    let to_the_end = segment.to == observed.tokens.len();
    if segment.from < LEAST_BEFORE {
        // Nothing in order before it: not a beginning.
        return (segment.from > 0 && segment.multiple > COARSE_FLOORS).then_some(Cause::ContextDiffersFromToken);
    }
    if to_the_end && segment.to - segment.from <= END {
        return None;
    }
    // Noise is small now and then: a stretch may end a few tokens early.
    let lasts = segment.to + (observed.tokens.len() / 8).max(END) >= observed.tokens.len();
    let coarse =
        segment.multiple < COARSE_FLOORS && segment.mae < COARSE_NATS && segment.bias.abs() < 0.6 * segment.mae;
    Some(if coarse && lasts && segment.decay > 0.3 { Cause::KvCachePrecision } else { Cause::ContextDiffersFromToken })
}

fn words(cause: Cause, observed: &Observed, segment: &Segment) -> String {
    let at = observed.tokens[segment.from].at;
    let Segment { mae, multiple, .. } = segment;
    let what = if cause == Cause::KvCachePrecision {
        "zero-mean noise of a size that coarse keys and values make"
    } else {
        "the context must be another from there"
    };
    format!("noise up to completion token {at}, then mean |d| is {mae:.4} nats, {multiple:.1} times the floor: {what}")
}

fn fit_of(observed: &Observed, segment: &Segment) -> Fit {
    let mut fit = Fit { gain: segment.gain, factor: 1.0, ..Fit::default() };
    for (index, token) in observed.tokens.iter().enumerate() {
        let size = token.log_ratio().abs();
        fit.tokens += 1;
        fit.before += size;
        fit.floor += token.floor;
        fit.variance += token.variance;
        if !(segment.from..segment.to).contains(&index) {
            fit.after += size;
        }
    }
    fit
}

/// Mean `|d|` in floors from which larger noise is no rounding any more.
const NOISE_FLOORS: f64 = 12.0;
/// The same in nats.
const NOISE_NATS: f64 = 0.1;
/// Mean `|d|` in floors from which the weights may be others.
const WEIGHTS_FLOORS: f64 = 4.0;
/// How much larger the difference must be at the beginning to say that it fades.
const FADES: f64 = 1.4;
/// Share of tokens that stay within the floor where a few go to other experts.
const ROUTED_SHARE: f64 = 0.75;

/// What to call a difference that nothing explains.
pub(super) fn unexplained(case: &Case<'_>, sequences: &[usize]) -> (Cause, String) {
    let mut excess = Excess::default();
    sequences.iter().for_each(|sequence| excess.merge(&case.observed[*sequence].excess()));
    let tokens = || sequences.iter().flat_map(|sequence| &case.observed[*sequence].tokens);
    let (multiple, mae) = (excess.multiple(), excess.mae());
    let bias = tokens().map(super::observed::Token::log_ratio).sum::<f64>() / excess.tokens.max(1) as f64;
    let quiet = tokens().filter(|token| token.log_ratio().abs() < 3.0 * token.scale).count() as f64;
    let quiet = quiet / excess.tokens.max(1) as f64;
    let numbers = format!("mean |d| is {mae:.4} nats, {multiple:.1} times the floor, mean d {bias:+.4}");
    if case.input.model.mixture_of_experts && quiet > ROUTED_SHARE {
        let percent = 100.0 * quiet;
        return (
            Cause::MoeRouting,
            format!(
                "{numbers}; {percent:.0} % of the tokens are within the floor and a few far off: they went to other experts"
            ),
        );
    }
    let from_cache = |sequence: &usize| case.sequence(*sequence).cached_tokens.is_some_and(|cached| cached > 0);
    let fading = fading(case, sequences);
    if sequences.iter().all(from_cache) && fading > FADES {
        let what = "largest after a prompt that came from the prefix cache, and fading along the sequence";
        return (
            Cause::StalePrefixCache,
            format!("{numbers}, {what} (the first third of the tokens is at {fading:.1} times the last)"),
        );
    }
    let systematic = systematic(case, sequences);
    if systematic < 0.0 && multiple < NOISE_FLOORS && mae < NOISE_NATS && bias.abs() < 0.5 * mae {
        let what = "zero-mean noise all through, coarser than bf16, unrelated to the token";
        return (Cause::NumericalNoise, format!("{numbers}: {what}"));
    }
    if multiple > WEIGHTS_FLOORS {
        let what = "all through, and no resident version or known fault explains it";
        return (Cause::DifferentWeights, format!("{numbers}, {what}"));
    }
    (Cause::Unknown, format!("{numbers}, and nothing that was tried explains it"))
}

/// Mean `|d|` in floors of the first third of the tokens over that of the last third.
fn fading(case: &Case<'_>, sequences: &[usize]) -> f64 {
    let mut ends = [Excess::default(); 2];
    for tokens in sequences.iter().map(|sequence| &case.observed[*sequence].tokens) {
        let third = tokens.len().div_ceil(3);
        tokens[..third].iter().for_each(|token| ends[0].add(token));
        tokens[tokens.len() - third..].iter().for_each(|token| ends[1].add(token));
    }
    let last = ends[1].multiple();
    if last > 0.0 { ends[0].multiple() / last } else { 0.0 }
}

/// Above 0 for other weights, below for noise. Other weights treat a token alike wherever it is, and move tokens that are
/// nearly certain as much as others; rounding does neither. On the planted faults of `docs/causes.md` weights are at +0.5 and
/// more, noise at -0.5 and less.
fn systematic(case: &Case<'_>, sequences: &[usize]) -> f64 {
    10.0 * token_share(case, sequences) - 0.5 * growth(case, sequences)
}

/// Slope of the logarithm of `|d|` over that of the floor: 1 = in proportion to it, 0 = the same everywhere.
fn growth(case: &Case<'_>, sequences: &[usize]) -> f64 {
    let points: Vec<(f64, f64)> = sequences
        .iter()
        .flat_map(|sequence| &case.observed[*sequence].tokens)
        .map(|token| (token.floor.max(1e-9).ln(), token.log_ratio().abs().max(1e-6).ln()))
        .collect();
    let count = points.len().max(1) as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / count, sum.1 + point.1 / count));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    if spread > 0.0 { common / spread } else { 0.0 }
}

/// Share of `|d|` that goes away when the mean `d` of the other tokens with the same id is taken off: other weights treat a
/// token alike wherever it is, noise does not.
fn token_share(case: &Case<'_>, sequences: &[usize]) -> f64 {
    let mut by_id: std::collections::BTreeMap<u32, Vec<(f64, f64)>> = std::collections::BTreeMap::new();
    for token in sequences.iter().flat_map(|sequence| &case.observed[*sequence].tokens) {
        by_id.entry(token.id).or_default().push((token.log_ratio(), token.scale));
    }
    let (mut before, mut after) = (0.0, 0.0);
    for group in by_id.values().filter(|group| group.len() > 1) {
        let sum: f64 = group.iter().map(|(ratio, _)| ratio).sum();
        for (ratio, scale) in group {
            let others = (sum - ratio) / (group.len() - 1) as f64;
            // Shrunk, since a mean of few is mostly noise.
            let others = others * (group.len() - 1) as f64 / (group.len() + 1) as f64;
            before += (ratio / scale).abs();
            after += ((ratio - others) / scale).abs();
        }
    }
    if before > 0.0 { 1.0 - after / before } else { 0.0 }
}
