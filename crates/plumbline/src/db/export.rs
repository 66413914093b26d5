//! `plumbline db export`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use plumbline_core::SkipReason;
use plumbline_divergence::TokenComparison;
use plumbline_report::{TableFacts, TableSequence, TokenTable};
use plumbline_store::{Filter, Reader, SequenceRow};
use serde::Serialize;

use super::arguments::ExportArguments;
use crate::timestamp::rfc3339;

/// What was written.
#[derive(Default)]
struct Written {
    sequences: u64,
    tokens: u64,
    without_tokens: u64,
}

pub(super) fn export(arguments: &ExportArguments) -> anyhow::Result<()> {
    let reader = Reader::open(&arguments.file.path())?;
    let mut targets = Targets::create(arguments)?;
    let mut written = Written::default();
    let mut failed = None;
    let filter = Filter { run: arguments.run.clone(), ..Filter::default() };
    let mut each = |row: SequenceRow| match take(&reader, &row, &mut targets, &mut written) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    };
    reader.each_sequence(&filter, &mut each)?;
    if let Some(error) = failed {
        return Err(error);
    }
    let to_stdout = targets.finish()?;
    let mut said = format!("{} sequences, {} tokens", written.sequences, written.tokens);
    if written.without_tokens > 0 {
        said += &format!("; the tokens of {} sequences are no longer kept", written.without_tokens);
    }
    if to_stdout {
        eprintln!("{said}");
    } else {
        writeln!(std::io::stdout(), "{said}")?;
    }
    Ok(())
}

fn take(reader: &Reader, row: &SequenceRow, targets: &mut Targets, written: &mut Written) -> anyhow::Result<()> {
    let tokens = match reader.token_rows(row.number)? {
        Some(rows) => Some(rows.open().with_context(|| format!("sequence {}", row.id))?),
        None => None,
    };
    written.sequences += 1;
    written.tokens += tokens.as_ref().map_or(0, |tokens| tokens.len() as u64);
    written.without_tokens += u64::from(tokens.is_none());
    if let (Some((table, _)), Some(tokens)) = (&mut targets.table, &tokens) {
        let sequence = TableSequence {
            run: Some(&row.run),
            engine: &row.engine,
            worker: row.worker.as_deref(),
            policy_version: row.policy_version.as_deref(),
            group: None,
            id: &row.sequence_id,
            prompt: &[],
            tokens,
        };
        table.append(sequence, None)?;
    }
    if let Some((lines, _)) = &mut targets.lines {
        serde_json::to_writer(&mut *lines, &Line::of(row, tokens.as_deref())?)?;
        lines.write_all(b"\n")?;
    }
    Ok(())
}

/// What is written, and where it is to be once it is whole.
struct Targets {
    table: Option<(TokenTable<BufWriter<File>>, PathBuf)>,
    lines: Option<(Box<dyn Write>, Option<PathBuf>)>,
}

impl Targets {
    fn create(arguments: &ExportArguments) -> anyhow::Result<Self> {
        let facts = TableFacts { run: arguments.run.clone(), model: None, created_at: rfc3339(SystemTime::now())? };
        let table = match &arguments.parquet {
            Some(path) => Some((TokenTable::create(&partial(path), &facts)?, path.clone())),
            None => None,
        };
        let lines: Option<(Box<dyn Write>, _)> = match &arguments.ndjson {
            Some(path) if path.as_os_str() == "-" => Some((Box::new(BufWriter::new(std::io::stdout())), None)),
            Some(path) => {
                let file = File::create(partial(path)).with_context(|| format!("cannot write {}", path.display()))?;
                Some((Box::new(BufWriter::new(file)), Some(path.clone())))
            }
            None => None,
        };
        Ok(Self { table, lines })
    }

    /// Gives the files their names. Whether lines went to stdout.
    fn finish(self) -> anyhow::Result<bool> {
        if let Some((table, path)) = self.table {
            table.finish()?;
            put_in_place(&path)?;
        }
        let Some((mut lines, path)) = self.lines else { return Ok(false) };
        lines.flush()?;
        match path {
            Some(path) => put_in_place(&path).map(|()| false),
            None => Ok(true),
        }
    }
}

/// Where a file is written until it is whole.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn put_in_place(path: &Path) -> anyhow::Result<()> {
    std::fs::rename(partial(path), path).with_context(|| format!("cannot write {}", path.display()))
}

/// One sequence.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    verification: &'a str,
    position: u32,
    run: &'a str,
    engine: &'a str,
    worker: Option<&'a str>,
    policy_version: Option<&'a str>,
    at: String,
    sequence_id: &'a str,
    verdict: &'a str,
    verdict_reason: &'a str,
    completion_tokens: u32,
    compared_tokens: u32,
    mae_logprob: Option<f64>,
    kl_k3: Option<f64>,
    /// `None`: no longer kept.
    tokens: Option<Tokens>,
}

/// What is no number is null; `skipped` says what it was.
#[derive(Serialize)]
struct Tokens {
    token_ids: Vec<u32>,
    engine_logprobs: Vec<Option<f64>>,
    reference_logprobs: Vec<Option<f64>>,
    entropy: Vec<Option<f64>>,
    rank: Vec<Option<u32>>,
    eos_probability: Vec<Option<f64>>,
    skipped: Vec<Option<&'static str>>,
}

impl<'a> Line<'a> {
    fn of(row: &'a SequenceRow, tokens: Option<&[TokenComparison]>) -> anyhow::Result<Self> {
        Ok(Self {
            id: &row.id,
            verification: &row.verification,
            position: row.position,
            run: &row.run,
            engine: &row.engine,
            worker: row.worker.as_deref(),
            policy_version: row.policy_version.as_deref(),
            at: rfc3339(row.at)?,
            sequence_id: &row.sequence_id,
            verdict: &row.verdict,
            verdict_reason: &row.verdict_reason,
            completion_tokens: row.tokens,
            compared_tokens: row.compared,
            mae_logprob: row.mae,
            kl_k3: row.kl_k3,
            tokens: tokens.map(Tokens::of),
        })
    }
}

impl Tokens {
    fn of(tokens: &[TokenComparison]) -> Self {
        fn each<T>(tokens: &[TokenComparison], value: impl Fn(&TokenComparison) -> T) -> Vec<T> {
            tokens.iter().map(value).collect()
        }
        Self {
            token_ids: each(tokens, |token| token.token_id),
            engine_logprobs: each(tokens, |token| token.engine),
            reference_logprobs: each(tokens, |token| token.reference),
            entropy: each(tokens, |token| token.entropy),
            rank: each(tokens, |token| token.rank),
            eos_probability: each(tokens, |token| token.eos_probability),
            skipped: each(tokens, |token| token.skipped.map(SkipReason::as_str)),
        }
    }
}
