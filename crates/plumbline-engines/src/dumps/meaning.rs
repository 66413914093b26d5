//! What the logprobs of a record mean.

use plumbline_core::{LogprobsMode, ProcessingOrder, Sampling};

use super::DumpOptions;
use super::error::Fault;

/// What a record says of its sampling and its logprobs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    pub(super) sampling: Option<Sampling>,
    pub(super) mode: Option<LogprobsMode>,
}

/// The sampling and the mode of a record's logprobs: what the record says, else the options, else `of_format` (what the
/// format's trainer has), else the engine's default. With neutral sampling all modes coincide.
///
/// The same rules as for the bodies of the API.
pub(super) fn settle(
    engine: &str,
    said: Said,
    options: &DumpOptions,
    of_format: Option<LogprobsMode>,
) -> Result<(Sampling, LogprobsMode), Fault> {
    let mut sampling = said.sampling.or(options.sampling).unwrap_or_default();
    sampling.order = sampling.order.or_else(|| ProcessingOrder::of_engine(engine));
    let stated = said.mode.or(options.logprobs_mode);
    let mode = stated.or(of_format).or_else(|| LogprobsMode::default_of_engine(engine));
    let Some(mode) = mode else {
        if sampling.is_neutral() {
            return Ok((sampling, LogprobsMode::Raw));
        }
        return Err(Fault::of(
            "logprobs_mode",
            format!(
                "what the logprobs of {engine} mean is not known, and with this sampling raw, temperature and processed \
                 logprobs differ: the record or --logprobs-mode must say it"
            ),
        ));
    };
    let transforms = sampling.active_transforms();
    let unknown_order = sampling.order.is_none() && ProcessingOrder::is_none_of_these(engine);
    if mode == LogprobsMode::Processed && unknown_order && !transforms.is_empty() {
        return Err(Fault::of(
            "logprobs_mode",
            format!(
                "processed logprobs of {engine} with {} cannot be reproduced: the order of its transforms is not known here",
                transforms.join(", ")
            ),
        ));
    }
    Ok((sampling, mode))
}

/// A mode by its name, as Plumbline or vLLM (`--logprobs-mode`) write it.
pub(super) fn mode_named(name: &str) -> Result<LogprobsMode, Fault> {
    match name {
        "raw" | "raw_logprobs" => Ok(LogprobsMode::Raw),
        "temperature" => Ok(LogprobsMode::Temperature),
        "processed" | "processed_logprobs" => Ok(LogprobsMode::Processed),
        other => {
            Err(Fault::of("logprobs_mode", format!("unknown mode {other:?}, expected raw, temperature or processed")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hot() -> Sampling {
        Sampling { temperature: 0.7, ..Sampling::default() }
    }

    #[test]
    fn the_nearest_word_counts() {
        let options = DumpOptions {
            logprobs_mode: Some(LogprobsMode::Processed),
            sampling: Some(hot()),
            ..DumpOptions::default()
        };
        let of_format = Some(LogprobsMode::Temperature);
        let said = |sampling, mode| Said { sampling, mode };
        let none = DumpOptions::default();
        let settled = |said, options| settle("vllm", said, options, of_format).unwrap();
        assert_eq!(settled(said(None, None), &none).1, LogprobsMode::Temperature);
        assert_eq!(settled(said(None, None), &options).1, LogprobsMode::Processed);
        assert_eq!(settled(said(None, None), &options).0.temperature, 0.7);
        let own = settled(said(Some(Sampling::default()), Some(LogprobsMode::Raw)), &options);
        assert_eq!((own.0.temperature, own.1), (1.0, LogprobsMode::Raw));
        assert_eq!(own.0.order, Some(ProcessingOrder::Vllm));
        assert_eq!(settle("sglang", Said::default(), &none, None).unwrap().1, LogprobsMode::Temperature);
    }

    #[test]
    fn what_is_not_known_is_asked_for_where_it_matters() {
        let options = DumpOptions::default();
        assert_eq!(settle("mine", Said::default(), &options, None).unwrap().1, LogprobsMode::Raw);
        let unsaid = settle("mine", Said { sampling: Some(hot()), mode: None }, &options, None).unwrap_err();
        assert!(unsaid.reason.contains("--logprobs-mode"), "{}", unsaid.reason);
        let nucleus = Sampling { top_p: 0.9, ..Sampling::default() };
        let said = Said { sampling: Some(nucleus), mode: Some(LogprobsMode::Processed) };
        let unknown = settle("llama.cpp", said, &options, None).unwrap_err();
        assert!(unknown.reason.contains("top_p"), "{}", unknown.reason);
    }

    #[test]
    fn modes_have_two_names() {
        assert_eq!(mode_named("raw_logprobs"), Ok(LogprobsMode::Raw));
        assert_eq!(mode_named("processed"), Ok(LogprobsMode::Processed));
        assert!(mode_named("raw_logits").is_err());
    }
}
