//! From collected sums and facts to the document.

use std::collections::BTreeMap;

use plumbline_core::TokenText;
use plumbline_divergence::{
    ClusteredSums, FloorCurve, FloorHead, Interval, Metrics, NoiseFloor, PointSums, SufficientStatistics, Verdict,
    VerdictLevels,
};

use super::shown::ShownSequence;
use super::views::{Views, density_limit};
use super::{
    CrossDocument, Document, EngineDocument, FloorDocument, GLOSSARY, LabelDocument, SCHEMA_VERSION, SIGN,
    SequencesDocument,
};
use crate::collector::{EngineSums, Labels, OTHER};
use crate::facts::{CrossComparison, EngineFacts, Facts};
use crate::limits::CollectorLimits;

/// Puts everything together.
pub(crate) fn build(
    engines: &BTreeMap<String, EngineSums>,
    pooled: u64,
    limits: &CollectorLimits,
    mut facts: Facts,
    text: Option<&dyn TokenText>,
) -> Document {
    let curve = facts.floor.as_ref().and_then(|floor| floor.curve(FloorHead::USED));
    let limit = density_limit(engines.values());
    let mut sampling = Vec::new();
    if pooled > 0 {
        sampling.push(format!(
            "more than {} engines: {pooled} sequences of further ones are pooled as {OTHER:?}",
            limits.engines
        ));
    }
    let documents: Vec<_> = engines
        .iter()
        .map(|(label, sums)| {
            sampling.extend(sampled(label, sums, limits));
            let own = facts.engines.remove(label).unwrap_or_default();
            let views = Views::of(sums, limit, curve.as_ref());
            EngineDocument::of(label, sums, own, &facts.levels, views, text)
        })
        .collect();
    for (label, own) in facts.engines.into_iter().filter(|(_, own)| !own.not_scored.is_empty()) {
        let count: u64 = own.not_scored.values().sum();
        let reasons: Vec<_> = own.not_scored.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        facts.notes.push(format!("no sequence of {label:?} was scored; {count} were not ({})", reasons.join(", ")));
    }
    let (verdict, verdict_reason) = overall(&documents);
    Document {
        schema: "plumbline-report",
        schema_version: SCHEMA_VERSION,
        plumbline_version: env!("CARGO_PKG_VERSION"),
        title: facts.title,
        created_at: facts.created_at,
        command: facts.command,
        log_ratio_sign: SIGN,
        verdict,
        verdict_reason,
        tokens: documents.iter().map(|engine| engine.metrics.tokens).sum(),
        sequences: documents.iter().map(|engine| engine.metrics.sequences).sum(),
        reference: facts.reference,
        noise_floor: facts.floor.as_ref().map(|floor| FloorDocument::of(floor, curve.as_ref())),
        verdict_levels: facts.levels,
        diagnosis: facts.diagnosis,
        engines: documents,
        cross: facts.cross.into_iter().map(CrossDocument::of).collect(),
        inputs: facts.inputs,
        notes: facts.notes,
        sampling,
        limits: limits.clone(),
        glossary: GLOSSARY,
    }
}

/// The verdict of the worst engine.
fn overall(engines: &[EngineDocument]) -> (Verdict, String) {
    let severity = |verdict| match verdict {
        Verdict::Divergent => 3,
        Verdict::Suspect => 2,
        Verdict::Insufficient => 1,
        Verdict::Consistent => 0,
    };
    match engines.iter().rev().max_by_key(|engine| severity(engine.verdict)) {
        None => (Verdict::Insufficient, "no sequence was compared".into()),
        Some(engine) if engines.len() == 1 => (engine.verdict, engine.verdict_reason.clone()),
        Some(engine) => (engine.verdict, format!("{}: {}", engine.engine, engine.verdict_reason)),
    }
}

/// Sentences about what is not shown whole.
fn sampled(label: &str, sums: &EngineSums, limits: &CollectorLimits) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(totals) = &sums.totals {
        sentences.push(format!(
            "{label}: metrics are over all {} tokens; views and sequences are of the {} tokens in {} sequences that are still held; \
             quantiles and Spearman's correlation are not known",
            totals.statistics.tokens, sums.sums.statistics.tokens, sums.observed
        ));
    }
    if sums.rows.seen() > sums.rows.len() as u64 {
        sentences.push(format!(
            "{label}: the list of sequences is a uniform sample of {} of {} (seed {})",
            sums.rows.len(),
            sums.rows.seen(),
            limits.seed
        ));
    }
    if sums.pairs.is_none() && sums.totals.is_none() {
        sentences.push(format!(
            "{label}: quantiles of |d| are read from a histogram, to 2 %, and Spearman's correlation is not computed: more than {} tokens",
            limits.exact_tokens
        ));
    }
    for (kind, labels) in [("workers", &sums.workers), ("policy versions", &sums.versions)] {
        if labels.others.sequences > 0 {
            sentences.push(format!(
                "{label}: {} sequences of {kind} beyond the first {} are pooled",
                labels.others.sequences, limits.labels
            ));
        }
    }
    sentences
}

impl FloorDocument {
    fn of(floor: &NoiseFloor, curve: Option<&FloorCurve>) -> Self {
        let head = FloorHead::USED;
        Self {
            used_head: head.as_str(),
            tokens: floor.tokens(head),
            sequences: floor.sequences(head),
            mae: floor.mae(head),
            rmse: floor.rmse(head),
            p50: floor.quantile(head, 0.5),
            p99: floor.quantile(head, 0.99),
            relative_error: curve.map(FloorCurve::relative_error),
            by_entropy: floor.buckets(head),
        }
    }
}

impl EngineDocument {
    fn of(
        label: &str,
        sums: &EngineSums,
        facts: EngineFacts,
        levels: &VerdictLevels,
        views: Views,
        text: Option<&dyn TokenText>,
    ) -> Self {
        let totals = sums.totals.as_ref().unwrap_or(&sums.sums);
        let statistics = &totals.statistics;
        let judgement = levels.judge(statistics);
        let (metrics, quantiles) = metrics(sums, statistics);
        let floor = expected(statistics);
        let rows: Vec<_> = sums.rows.in_order();
        Self {
            engine: label.to_owned(),
            verdict: judgement.verdict,
            verdict_reason: judgement.reason,
            floor_multiples: multiples(&metrics, &floor),
            floor,
            intervals: intervals(&totals.clusters),
            metrics,
            quantiles,
            skipped: totals.skipped,
            verdicts: Verdict::ALL.into_iter().map(Verdict::as_str).zip(totals.verdicts).collect(),
            not_scored: facts.not_scored,
            causes: totals.causes.clone(),
            diagnosis: facts.diagnosis,
            facts: facts.facts,
            workers: sums.totals.as_ref().map_or_else(|| labels(&sums.workers), |totals| points(&totals.workers)),
            policy_versions: sums
                .totals
                .as_ref()
                .map_or_else(|| labels(&sums.versions), |totals| points(&totals.policy_versions)),
            views,
            longest: sums
                .kept
                .longest()
                .map(|kept| ShownSequence::of(kept, format!("the longest of {} sequences", sums.observed), text)),
            typical: sums.kept.typical(&rows).map(|typical| {
                let choice = format!(
                    "the medoid by length and mean |d|, chosen among {} of {} sequences",
                    typical.candidates, typical.of
                );
                ShownSequence::of(typical.sequence, choice, text)
            }),
            worst: sums.kept.worst().map(|kept| {
                let choice = format!(
                    "the largest mean k3 of {} sequences; ones that are too short for a verdict come last",
                    sums.observed
                );
                ShownSequence::of(kept, choice, text)
            }),
            sequences: SequencesDocument {
                total: sums.observed,
                sampled: sums.rows.seen() > rows.len() as u64,
                rows: rows.into_iter().cloned().collect(),
            },
        }
    }
}

/// The metrics, and where their quantiles are from.
fn metrics(sums: &EngineSums, statistics: &SufficientStatistics) -> (Metrics, &'static str) {
    if sums.totals.is_some() {
        return (Metrics::of_statistics(statistics), "none");
    }
    if let Some(pairs) = &sums.pairs {
        return (Metrics::with_pairs(statistics, pairs.iter().copied()), "exact");
    }
    let absolute = sums.deltas.absolute();
    let quantile = |q| absolute.quantile(q, statistics.max_abs()?);
    let metrics = Metrics {
        p50_abs_logprob: quantile(0.5),
        p90_abs_logprob: quantile(0.9),
        p99_abs_logprob: quantile(0.99),
        p999_abs_logprob: quantile(0.999),
        ..Metrics::of_statistics(statistics)
    };
    (metrics, "histogram")
}

/// What a faithful engine would show, where the floor is known of every token. For small `d`, k2 and k3 are `d^2 / 2`.
fn expected(statistics: &SufficientStatistics) -> BTreeMap<&'static str, f64> {
    if statistics.floor_tokens == 0 || statistics.floor_tokens != statistics.tokens {
        return BTreeMap::new();
    }
    let tokens = statistics.floor_tokens as f64;
    let square = statistics.floor_expected_squared / tokens;
    BTreeMap::from([
        ("mae_logprob", statistics.floor_expected / tokens),
        ("rmse_logprob", square.sqrt()),
        ("kl_k2", square / 2.0),
        ("kl_k3", square / 2.0),
    ])
}

fn multiples(metrics: &Metrics, floor: &BTreeMap<&'static str, f64>) -> BTreeMap<&'static str, f64> {
    let value = |key: &str| match key {
        "mae_logprob" => metrics.mae_logprob,
        "rmse_logprob" => metrics.rmse_logprob,
        "kl_k2" => metrics.kl_k2,
        "kl_k3" => metrics.kl_k3,
        _ => None,
    };
    let multiple =
        |(key, floor): (&&'static str, &f64)| Some((*key, value(key)? / floor)).filter(|(_, m)| m.is_finite());
    floor.iter().filter_map(multiple).collect()
}

/// Intervals under the metrics' own keys.
fn intervals(clusters: &ClusteredSums) -> BTreeMap<&'static str, Option<Interval>> {
    let suffix = |key: &'static str| key.strip_suffix("_ci95").unwrap_or(key);
    clusters.intervals().into_iter().map(|(key, interval)| (suffix(key), interval)).collect()
}

fn labels(labels: &Labels) -> Vec<LabelDocument> {
    let named = labels.named.iter().map(|(name, sums)| LabelDocument::of(Some(name.clone()), sums));
    let others = (labels.others.sequences > 0).then(|| LabelDocument::of(None, &labels.others));
    named.chain(others).collect()
}

fn points(points: &[(Option<String>, PointSums)]) -> Vec<LabelDocument> {
    points.iter().map(|(name, sums)| LabelDocument::of(name.clone(), sums)).collect()
}

impl LabelDocument {
    fn of(name: Option<String>, sums: &PointSums) -> Self {
        Self {
            name,
            sequences: sums.sequences,
            tokens: sums.tokens,
            mae_logprob: sums.mae_logprob(),
            mae_logprob_ci95: sums.mae_logprob_ci95(),
            log_ratio_mean: sums.log_ratio_mean(),
            kl_k3: sums.kl_k3(),
            noise_floor_multiple: sums.noise_floor_multiple(),
            noise_floor_multiple_ci95: sums.noise_floor_multiple_ci95(),
        }
    }
}

impl CrossDocument {
    fn of(cross: CrossComparison) -> Self {
        Self {
            sampled_by: cross.sampled_by,
            scored_by: cross.scored_by,
            metrics: Metrics::of_statistics(&cross.statistics),
            intervals: intervals(&cross.clusters),
            note: cross.note,
        }
    }
}
