//! The demo's table.

use plumbline_divergence::Verdict;

use super::recordings::Phase;
use super::replay::Verdicts;
use super::scrape::Gauges;

/// What one phase showed.
#[derive(Debug)]
pub(super) struct PhaseResult {
    pub(super) phase: &'static Phase,
    pub(super) verdicts: Verdicts,
    pub(super) gauges: Gauges,
}

impl PhaseResult {
    /// The verdict of most of the phase's sequences that had enough tokens for one.
    pub(super) fn verdict(&self) -> Verdict {
        let judged = Verdict::ALL.into_iter().filter(|verdict| *verdict != Verdict::Insufficient);
        judged.max_by_key(|verdict| self.count(*verdict)).unwrap_or(Verdict::Insufficient)
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict.as_str()).copied().unwrap_or(0)
    }
}

/// One line a phase. Divergence in nats, d = reference - engine.
pub(super) fn render(results: &[PhaseResult]) -> String {
    let mut lines = vec![
        format!(
            "{:14} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7}  {}",
            "phase", "tokens", "MAE", "RMSE", "Pearson", "KL k3", "ESS", "verdict of sequences"
        ),
        "-".repeat(100),
    ];
    for result in results {
        let Gauges { tokens, mae, rmse, pearson, kl_k3, ess } = result.gauges;
        let (verdict, all) = (result.verdict(), result.verdicts.values().sum::<u64>());
        lines.push(format!(
            "{:14} {tokens:>7} {mae:>9.5} {rmse:>9.5} {pearson:>9.6} {kl_k3:>9.6} {ess:>7.4}  {} ({} of {all})",
            result.phase.title,
            verdict.as_str(),
            result.count(verdict),
        ));
    }
    lines.push(String::new());
    lines.extend(results.iter().map(|result| format!("{:14} {}", result.phase.title, result.phase.explanation)));
    lines.push("MAE, RMSE and KL in nats over the log ratio d = reference - engine, read back from /metrics\n".into());
    lines.join("\n")
}
