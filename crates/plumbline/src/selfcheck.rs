//! `plumbline selfcheck`, and its quick form when a model is loaded.

use std::io::{self, Write};
use std::process::ExitCode;

use plumbline_core::ReferenceModel;
use plumbline_model::{Comparison, Extent, FamilySupport, LoadError, LoadOptions, ModelSource, Outcome, SelfCheck};

use crate::cli::SelfcheckArguments;
use crate::{embedded, threads};

/// The two implementations agree.
const AGREES: u8 = 0;
/// They do not.
const DISAGREES: u8 = 1;
/// There is no second opinion.
const NOT_POSSIBLE: u8 = 3;

pub(crate) fn run(arguments: &SelfcheckArguments) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    if arguments.families {
        let families = plumbline_model::families();
        if arguments.json {
            writeln!(stdout, "{}", serde_json::to_string(&families)?)?;
        } else {
            print_families(&mut stdout, &families)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    threads::use_threads(arguments.threads)?;
    let source = match arguments.model.clone() {
        Some(model) => ModelSource::named(&model, arguments.revision.as_deref())?.pinned()?,
        None => ModelSource::Embedded(embedded::MODEL),
    };
    let options = LoadOptions {
        policy_version: "selfcheck".into(),
        adapter: arguments.adapter.clone(),
        dtype: arguments.dtype,
        head_dtype: arguments.head_dtype,
        device: arguments.device,
        ..LoadOptions::default()
    };
    let mut model = source.load(&options)?;
    let extent = if arguments.quick { Extent::Quick } else { Extent::Full };
    let check = source.self_check(&mut model, &options, extent)?;
    if arguments.json {
        writeln!(stdout, "{}", serde_json::to_string(&check)?)?;
    } else {
        print(&mut stdout, &check)?;
    }
    Ok(ExitCode::from(exit_code(&check.outcome)))
}

fn exit_code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Agrees(_) => AGREES,
        Outcome::Disagrees(_) => DISAGREES,
        Outcome::NotPossible { .. } => NOT_POSSIBLE,
    }
}

/// The quick form. A model that is contradicted must not serve: every number of it would be a lie.
pub(crate) fn at_load(
    source: &ModelSource,
    model: &mut dyn ReferenceModel,
    options: &LoadOptions,
) -> Result<(), LoadError> {
    let SelfCheck { model: name, family, outcome, notes, .. } = source.self_check(model, options, Extent::Quick)?;
    let notes = notes.join("; ");
    match outcome {
        Outcome::Agrees(comparison) => {
            let (with, difference) = (&comparison.implementation, comparison.max_abs_diff_nats);
            tracing::info!(model = name, %with, max_abs_diff_nats = difference, notes, "self-check: the reference agrees");
        }
        Outcome::NotPossible { reason } => {
            tracing::info!(model = name, family, reason, notes, "self-check: not possible");
        }
        Outcome::Disagrees(comparison) => {
            return Err(LoadError::Disagreement { model: name, comparison: Box::new(comparison) });
        }
    }
    Ok(())
}

fn print(out: &mut impl Write, check: &SelfCheck) -> io::Result<()> {
    let SelfCheck { model, family, dtype, head_dtype, device, outcome, notes } = check;
    writeln!(out, "model           {model} ({family}), {dtype} with a {head_dtype} head on {device}")?;
    let numbers = |out: &mut dyn Write, comparison: &Comparison| {
        let lengths: Vec<String> = comparison.sequence_tokens.iter().map(ToString::to_string).collect();
        writeln!(out, "second opinion  {}, f32", comparison.implementation)?;
        writeln!(
            out,
            "compared        {} logprobs of next tokens after {} sequences of {} tokens",
            comparison.logprobs,
            lengths.len(),
            lengths.join(", ")
        )?;
        let worst = comparison.worst;
        writeln!(
            out,
            "largest |diff|  {:.1e} nats (tolerance {:.0e}): token {} after {} tokens, {:.6} here, {:.6} there",
            comparison.max_abs_diff_nats,
            comparison.tolerance_nats,
            worst.token_id,
            worst.sequence_tokens,
            worst.reference_logprob,
            worst.second_opinion_logprob
        )
    };
    match outcome {
        Outcome::Agrees(comparison) => {
            numbers(out, comparison)?;
            writeln!(out, "result          agrees")?;
        }
        Outcome::Disagrees(comparison) => {
            numbers(out, comparison)?;
            writeln!(out, "result          DISAGREES: at least one of the two computes this model wrong")?;
        }
        Outcome::NotPossible { reason } => writeln!(out, "result          not possible: {reason}")?,
    }
    notes.iter().try_for_each(|note| writeln!(out, "note            {note}"))
}

fn print_families(out: &mut impl Write, families: &[FamilySupport]) -> io::Result<()> {
    writeln!(out, "{:<14}{:<31}not cross-checked", "family", "candle-transformers' module")?;
    for FamilySupport { family, implementations, limits } in families {
        let modules = if implementations.is_empty() { "-".into() } else { implementations.join(", ") };
        writeln!(out, "{family:<14}{modules:<31}{limits}")?;
    }
    Ok(())
}

#[cfg(all(test, feature = "selfcheck"))]
mod tests {
    use std::path::Path;

    use super::*;

    fn fixture(name: &str) -> ModelSource {
        ModelSource::Directory(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name))
    }

    #[test]
    fn a_model_that_is_contradicted_does_not_start() {
        let options = LoadOptions::default();
        let mut other_weights = fixture("llama-sharded").load(&options).unwrap();
        let error = at_load(&fixture("llama"), &mut other_weights, &options).unwrap_err();
        assert!(matches!(error, LoadError::Disagreement { .. }), "{error}");
        for part in ["llama", "disagree", "nats", "candle-transformers"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_model_without_a_second_opinion_starts() {
        let (source, options) = (fixture("gpt2"), LoadOptions::default());
        at_load(&source, &mut source.load(&options).unwrap(), &options).unwrap();
    }

    #[test]
    fn a_disagreement_is_printed_as_one() {
        let options = LoadOptions::default();
        let mut other_weights = fixture("llama-sharded").load(&options).unwrap();
        let check = fixture("llama").self_check(&mut other_weights, &options, Extent::Quick).unwrap();
        assert_eq!(exit_code(&check.outcome), DISAGREES);
        let mut printed = Vec::new();
        print(&mut printed, &check).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        assert!(printed.contains("DISAGREES") && printed.contains("tolerance 1e-3"), "{printed}");
    }
}
