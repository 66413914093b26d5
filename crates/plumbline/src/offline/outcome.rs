//! How a session ended: the table on stdout and the exit code.

use std::collections::BTreeMap;
use std::path::PathBuf;

use plumbline_divergence::{Finding, Judgement, Metrics, Verdict};
use plumbline_report::Report;

use super::interrupt::INTERRUPTED;
use super::limit::Limit;
use super::tallies::Tallies;

/// Everything within the floor, or suspect without `--fail-on-suspect`.
const CONSISTENT: u8 = 0;
/// An engine is divergent, or a limit is broken.
const DIVERGENT: u8 = 1;
/// The input, or a part of it, cannot be used, or is too little for a verdict.
const UNUSABLE: u8 = 2;

/// Causes that the table shows of an engine.
const CAUSES_SHOWN: usize = 3;

/// One engine of a session.
#[derive(Clone, Debug)]
pub(crate) struct EngineOutcome {
    pub(crate) engine: String,
    pub(crate) metrics: Metrics,
    pub(crate) judgement: Judgement,
    pub(crate) sequences: u64,
    pub(crate) divergent_sequences: u64,
    pub(crate) not_scored: BTreeMap<String, u64>,
    pub(crate) causes: Vec<Finding>,
}

/// How a session ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) engines: Vec<EngineOutcome>,
    /// Limits that are broken, in words.
    pub(crate) broken_limits: Vec<String>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) unusable: Option<String>,
    pub(crate) exit_code: u8,
}

/// What an outcome rests on beside the report.
pub(super) struct Inputs<'a> {
    pub(super) tallies: &'a Tallies,
    pub(super) causes: BTreeMap<String, Vec<Finding>>,
    pub(super) files: Vec<PathBuf>,
    pub(super) unusable: Option<String>,
    pub(super) interrupted: bool,
}

impl Outcome {
    pub(super) fn new(report: &Report, inputs: Inputs<'_>, limits: &[Limit], fail_on_suspect: bool) -> Self {
        let Inputs { tallies, mut causes, files, unusable, interrupted } = inputs;
        let mut broken_limits = Vec::new();
        let mut engines = Vec::new();
        for result in report.engines() {
            let tally = tallies.get(result.engine);
            // Metrics are numbers and nulls: they always are JSON.
            let values = serde_json::to_value(result.metrics).unwrap_or_default();
            let share = tally.divergent_share();
            broken_limits.extend(limits.iter().filter_map(|limit| limit.broken_by(result.engine, &values, share)));
            engines.push(EngineOutcome {
                engine: result.engine.to_owned(),
                metrics: result.metrics.clone(),
                judgement: Judgement { verdict: result.verdict, reason: result.reason.to_owned() },
                sequences: tally.sequences(),
                divergent_sequences: tally.count(Verdict::Divergent),
                not_scored: tally.not_scored,
                causes: causes.remove(result.engine).unwrap_or_default(),
            });
        }
        let verdicts: Vec<Verdict> = engines.iter().map(|engine| engine.judgement.verdict).collect();
        let exit_code =
            exit_code(&verdicts, !broken_limits.is_empty(), fail_on_suspect, unusable.is_some(), interrupted);
        Self { engines, broken_limits, files, unusable, exit_code }
    }

    /// For people, on stdout.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "{:16} {:>9} {:>10} {:>10} {:>10} {:>10} {:>8}  {}",
                "engine", "sequences", "tokens", "MAE", "KL k3", "Pearson", "x floor", "verdict"
            ),
            "-".repeat(94),
        ];
        for engine in &self.engines {
            let Metrics { tokens, mae_logprob, kl_k3, pearson_logprob, noise_floor_multiple, .. } = &engine.metrics;
            lines.push(format!(
                "{:16} {:>9} {tokens:>10} {:>10} {:>10} {:>10} {:>8}  {}",
                engine.engine,
                engine.sequences,
                number(*mae_logprob, 6),
                number(*kl_k3, 6),
                number(*pearson_logprob, 6),
                number(*noise_floor_multiple, 2),
                engine.judgement.verdict.as_str()
            ));
        }
        lines.push(String::new());
        for engine in &self.engines {
            lines.push(format!("{}: {}", engine.engine, engine.judgement.reason));
            if engine.divergent_sequences > 0 {
                lines.push(format!("  {} of {} sequences are divergent", engine.divergent_sequences, engine.sequences));
            }
            for (reason, sequences) in &engine.not_scored {
                lines.push(format!("  not scored: {sequences} sequences, {reason}"));
            }
            for finding in engine.causes.iter().take(CAUSES_SHOWN) {
                lines.push(format!("  {}: {}", finding.cause.as_str(), finding.evidence));
            }
        }
        lines.extend(self.broken_limits.iter().map(|limit| format!("limit broken: {limit}")));
        lines.extend(self.unusable.iter().map(|reason| format!("unusable input: {reason}")));
        lines.push("MAE and KL in nats over the log ratio d = reference - engine".into());
        lines.extend(self.files.iter().map(|file| format!("written  {}", file.display())));
        lines.join("\n")
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// What stops a pipeline comes first: an interrupted run has seen only a part, and with unusable input there is no verdict on
/// the whole.
fn exit_code(verdicts: &[Verdict], limit_broken: bool, fail_on_suspect: bool, unusable: bool, interrupted: bool) -> u8 {
    let has = |verdict: Verdict| verdicts.contains(&verdict);
    if interrupted {
        INTERRUPTED
    } else if unusable || verdicts.is_empty() {
        UNUSABLE
    } else if has(Verdict::Divergent) || (fail_on_suspect && has(Verdict::Suspect)) || limit_broken {
        DIVERGENT
    } else if has(Verdict::Insufficient) {
        UNUSABLE
    } else {
        CONSISTENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_say_the_worst_that_is_certain() {
        use Verdict as V;
        let code = |verdicts: &[V], limit, suspect, unusable, interrupted| {
            exit_code(verdicts, limit, suspect, unusable, interrupted)
        };
        assert_eq!(code(&[V::Consistent, V::Suspect], false, false, false, false), CONSISTENT);
        assert_eq!(code(&[V::Consistent, V::Suspect], false, true, false, false), DIVERGENT);
        assert_eq!(code(&[V::Consistent], true, false, false, false), DIVERGENT);
        assert_eq!(code(&[V::Divergent, V::Insufficient], false, false, false, false), DIVERGENT);
        assert_eq!(code(&[V::Consistent, V::Insufficient], false, false, false, false), UNUSABLE);
        assert_eq!(code(&[V::Divergent], false, false, true, false), UNUSABLE);
        assert_eq!(code(&[], false, false, false, false), UNUSABLE);
        assert_eq!(code(&[V::Consistent], false, false, true, true), INTERRUPTED);
    }
}
