//! Lines of newline-delimited JSON: each a body of its own, or a recorded rollout as `plumbline verify` reads it.

use plumbline_engines::dumps::{
    DumpFormat, DumpOptions, DumpRollout, Fault, UNNAMED_ENGINE, read_record, record_format,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::IntoParams;

use super::findings::Findings;
use super::origin::Origin;
use super::resolve::{RequestLimits, Verification, check_unique, resolve, wanted};
use super::{native_body, parse};
use crate::problem::{Code, FieldError, Problem};

/// Rollouts without a name are called after this and their line.
const SOURCE: &str = "line";

/// What lines inherit that do not say it themselves. For lines only: a body of JSON says all of it.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LineDefaults {
    /// The run of lines that name none.
    pub(crate) run: Option<String>,
    /// The engine of lines that name none.
    pub(crate) engine: Option<String>,
}

/// What a line holds.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) verification: Verification,
    /// A native body of the same content.
    pub(crate) body: Vec<u8>,
}

/// Reads a line. CPU-bound.
///
/// # Errors
/// 400 if it is no JSON, 422 with everything that is wrong with it; pointers point into the line.
pub(crate) fn read_line(
    line: &[u8],
    number: u64,
    defaults: &LineDefaults,
    limits: &RequestLimits,
) -> Result<Line, Problem> {
    let format = record_format(line).map_err(|fault| refused(line, vec![fault]))?;
    if format == DumpFormat::Request {
        return Ok(Line { verification: resolve(parse(line)?, limits)?, body: line.to_vec() });
    }
    let options = DumpOptions { engine: defaults.engine.clone(), ..DumpOptions::default() };
    let read = read_record(line, format, (SOURCE, number), &options).map_err(|fault| refused(line, vec![fault]))?;
    let (rollouts, faults): (Vec<_>, Vec<_>) = read.into_iter().partition(Result::is_ok);
    let faults: Vec<_> = faults.into_iter().filter_map(Result::err).collect();
    if !faults.is_empty() {
        return Err(refused(line, faults));
    }
    let rollouts: Vec<_> = rollouts.into_iter().flatten().collect();
    let verification = one(rollouts, format == DumpFormat::Plumbline, defaults, limits)?;
    let body = native_body(&verification)
        .map_err(|error| Problem::internal(Code::Internal, "the line cannot be written down", &error))?;
    Ok(Line { verification, body })
}

/// Faults as a problem. What is no JSON at all is malformed.
fn refused(line: &[u8], faults: Vec<Fault>) -> Problem {
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(line)
        && plumbline_engines::quote_non_finite(line).is_none()
    {
        return super::errors::malformed(&error, error.column());
    }
    let error = |fault: Fault| FieldError { code: Code::InvalidValue, pointer: fault.pointer(), detail: fault.reason };
    Problem::fields(faults.into_iter().map(error).collect())
}

/// The rollouts of one record as one verification. `native`: the record is a sequence of the API, so that fields of the rollout are
/// fields of the line.
fn one(
    records: Vec<DumpRollout>,
    native: bool,
    defaults: &LineDefaults,
    limits: &RequestLimits,
) -> Result<Verification, Problem> {
    let mut findings = Findings::default();
    let Some(first) = records.first() else {
        return Err(Problem::field(Code::EmptySequences, "", "has no token in the loss: there is nothing to score"));
    };
    let (run, engine, worker) =
        (first.run.clone().or_else(|| defaults.run.clone()), first.engine.clone(), first.worker.clone());
    let field = |name: &str| if native { name.to_owned() } else { String::new() };
    if records.len() > limits.max_sequences {
        let detail = format!("has {} rollouts, the limit is {}", records.len(), limits.max_sequences);
        return Err(Problem::field(Code::TooManySequences, "", detail));
    }
    if records.iter().any(|own| own.run != first.run || own.engine != first.engine || own.worker != first.worker) {
        findings.report(Code::InvalidValue, String::new(), "has rollouts of several runs, engines or workers".into());
    }
    if run.is_none() {
        let detail = "names no run, and neither does the query: run is missing";
        findings.report(Code::MissingField, String::new(), detail.into());
    }
    if engine == UNNAMED_ENGINE && defaults.engine.is_none() {
        let detail = "names no engine, and neither does the query: engine is missing";
        findings.report(Code::MissingField, String::new(), detail.into());
    }
    findings.check_name(&field("/run"), run.as_deref());
    findings.check_name(&field("/engine"), Some(&engine));
    findings.check_name(&field("/worker"), worker.as_deref());
    let origins: Vec<_> = records.iter().map(|_| Origin::Record { native }).collect();
    let mut rollouts = Vec::with_capacity(records.len());
    let mut cached_tokens = Vec::with_capacity(records.len());
    for DumpRollout { rollout, cached_tokens: cached, .. } in records {
        findings.check_name(&field("/id"), Some(&rollout.id));
        findings.check_name(&field("/policy_version"), rollout.policy_version.as_deref());
        for (index, span) in rollout.weight_versions.iter().enumerate() {
            findings.check_name(&field(&format!("/weight_versions/{index}/version")), Some(&span.version));
        }
        if cached.is_some_and(|cached| cached > rollout.prompt_token_ids.len()) {
            let detail = format!("is more than the prompt's {} tokens", rollout.prompt_token_ids.len());
            findings.report(Code::InvalidValue, field("/cached_tokens"), detail);
        }
        for violation in rollout.violations(&limits.model) {
            findings.report_once(violation.code.into(), field(&violation.pointer), violation.detail);
        }
        rollouts.push(rollout);
        cached_tokens.push(cached);
    }
    check_unique(&mut findings, &rollouts, &origins);
    findings.check()?;
    let wanted = wanted(&rollouts, &origins);
    Ok(Verification {
        run: run.unwrap_or_default(),
        engine,
        worker,
        named: vec![true; rollouts.len()],
        rollouts,
        cached_tokens,
        origins,
        wanted,
        include_tokens: false,
        include_importance_weights: false,
        include_diagnosis: false,
    })
}

#[cfg(test)]
mod tests {
    use plumbline_core::ModelLimits;

    use super::*;
    use crate::ledger::Identity;

    fn limits() -> RequestLimits {
        RequestLimits { model: ModelLimits { vocab_size: 100, max_positions: 100 }, max_sequences: 10 }
    }

    fn read(line: &str) -> Result<Line, (u16, &'static str, String)> {
        let defaults = LineDefaults { run: Some("default".into()), engine: None };
        read_line(line.as_bytes(), 7, &defaults, &limits()).map_err(|problem| {
            let pointer = problem.errors.first().map(|error| error.pointer.clone()).unwrap_or_default();
            (problem.code.status().as_u16(), problem.code.as_str(), pointer)
        })
    }

    const NATIVE: &str = r#"{"run":"r","engine":"vllm","id":"a","prompt_token_ids":[1],"completion_token_ids":[2,3],"logprobs":[-1,NaN],"reward":1}"#;

    #[test]
    fn lines_are_read_in_any_known_form_and_written_as_native_bodies() {
        let canonical = r#"{"engine":"sglang","token_ids":[1,2,3],"prompt_len":1,"logprobs":[-1,-2],"temperature":0.5,"worker":"w"}"#;
        let request = r#"{"run":"r","engine":"vllm","include":["tokens"],"sequences":[
            {"prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[-1],"weight_versions":[{"version":"2","start":0,"end":1}],"loss_mask":[1]}]}"#;
        let exchange = r#"{"engine":"vllm","request":{"prompt":[1],"n":1},"response":{"choices":[{"index":0,"token_ids":[2],"logprobs":{"token_logprobs":[-1.0]}}]}}"#;
        for line in [NATIVE, canonical, request, exchange] {
            let line = read(line).unwrap();
            let again = resolve(parse(&native_body(&line.verification).unwrap()).unwrap(), &limits()).unwrap();
            assert_eq!(Identity::of(&again, None), Identity::of(&line.verification, None));
            let stored = resolve(parse(&line.body).unwrap(), &limits()).unwrap();
            assert_eq!(Identity::of(&stored, None), Identity::of(&line.verification, None));
        }
        let line = read(canonical).unwrap().verification;
        assert_eq!((line.run.as_str(), line.worker.as_deref()), ("default", Some("w")));
        assert_eq!(line.rollouts[0].id, "line:7");
    }

    #[test]
    fn bad_lines_say_where() {
        let changed = |from: &str, to: &str| {
            assert!(NATIVE.contains(from));
            read(&NATIVE.replace(from, to)).unwrap_err()
        };
        assert_eq!(read("{\"run\":").unwrap_err().1, "malformed_json");
        assert_eq!(read("[]").unwrap_err(), (422, "invalid_value", String::new()));
        assert_eq!(read("{\"a\":1}").unwrap_err().0, 422);
        assert_eq!(changed("[2,3]", "[2,\"x\"]"), (422, "invalid_value", "/completion_token_ids/1".into()));
        assert_eq!(changed("[2,3]", "[2]"), (422, "invalid_value", "/logprobs".into()));
        assert_eq!(changed("[2,3]", "[2,100]"), (422, "token_out_of_vocabulary", "/completion_token_ids/1".into()));
        assert_eq!(changed("\"r\"", "\"\""), (422, "invalid_label", "/run".into()));
        assert_eq!(changed("\"engine\":\"vllm\",", ""), (422, "missing_field", String::new()));
        let unnamed =
            read_line(NATIVE.replace("\"run\":\"r\",", "").as_bytes(), 1, &LineDefaults::default(), &limits());
        assert_eq!(unnamed.unwrap_err().code, Code::MissingField);
        let request = r#"{"run":"r","engine":"vllm","sequences":[{"prompt_token_ids":[1],"completion_token_ids":[200],"logprobs":[-1]}]}"#;
        assert_eq!(read(request).unwrap_err().2, "/sequences/0/completion_token_ids/0");
    }
}
