//! `plumbline bench score`: the offline rate of the very path that the service uses, from queue to scores.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use plumbline_core::{Kernels, Processing, ReferenceModel, ScoringSequence, TokenId};
use plumbline_model::{LoadError, LoadOptions, ModelSource, Profile, Stage};
use plumbline_scheduler::{BatchObservation, Observer, Scheduler, SchedulerConfig};
use plumbline_server::config::LogFormat;
use serde::{Deserialize, Serialize};

use crate::cli::BenchScoreArguments;
use crate::{logging, memory, threads};

/// How long the model is waited for in the end.
const DRAIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Line {
    id: serde_json::Value,
    prompt_token_ids: Vec<TokenId>,
    completion_token_ids: Vec<TokenId>,
}

/// The one line on stdout.
#[derive(Serialize)]
struct Report {
    /// Prompt and completion tokens of all sequences.
    tokens: usize,
    scored_tokens: usize,
    sequences: usize,
    /// Forwards of the fastest round.
    batches: u64,
    /// Of the fastest round.
    seconds: f64,
    /// Of each round, in their order.
    seconds_of_rounds: Vec<f64>,
    /// Forwards that ran out of memory and were tried again smaller, of all rounds.
    oom_backoffs: u64,
    tokens_per_second: f64,
    scored_tokens_per_second: f64,
    forward_seconds: f64,
    head_seconds: f64,
    load_seconds: f64,
    rss_after_load_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
    threads: usize,
    max_batch_tokens: usize,
    model: String,
    dtype: String,
    head_dtype: String,
    device: String,
    random_init: bool,
    kernels: Kernels,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<ProfileReport>,
}

/// Where the time of the CPU kernels went, in all rounds.
#[derive(Serialize)]
struct ProfileReport {
    /// Matrix products' share of the time of forward and head.
    gemm_share: f64,
    seconds: BTreeMap<&'static str, f64>,
}

impl ProfileReport {
    fn new(profile: &Profile, total: f64) -> Self {
        let seconds = |stage: Stage| profile.time(stage).as_secs_f64();
        let gemm: f64 = Stage::ALL.into_iter().filter(|stage| stage.is_gemm()).map(seconds).sum();
        Self {
            gemm_share: gemm / total,
            seconds: Stage::ALL.into_iter().map(|stage| (stage.name(), seconds(stage))).collect(),
        }
    }
}

#[derive(Default)]
struct Totals {
    batches: AtomicU64,
    forward_nanos: AtomicU64,
    head_nanos: AtomicU64,
    oom_backoffs: AtomicU64,
}

/// One time through all sequences.
struct Round {
    seconds: f64,
    batches: u64,
    forward_seconds: f64,
    head_seconds: f64,
}

impl Totals {
    /// What was counted since this was last called, but for what ran out of memory: that is counted to the end.
    fn take(&self, seconds: f64) -> Round {
        let seconds_of = |nanos: &AtomicU64| Duration::from_nanos(nanos.swap(0, Relaxed)).as_secs_f64();
        Round {
            seconds,
            batches: self.batches.swap(0, Relaxed),
            forward_seconds: seconds_of(&self.forward_nanos),
            head_seconds: seconds_of(&self.head_nanos),
        }
    }
}

impl Observer for Totals {
    fn batch(&self, batch: &BatchObservation) {
        self.batches.fetch_add(1, Relaxed);
        self.forward_nanos.fetch_add(batch.timing.forward.as_nanos() as u64, Relaxed);
        self.head_nanos.fetch_add(batch.timing.head.as_nanos() as u64, Relaxed);
    }

    fn out_of_memory(&self) {
        self.oom_backoffs.fetch_add(1, Relaxed);
    }
}

pub(crate) async fn score(arguments: &BenchScoreArguments) -> anyhow::Result<()> {
    logging::start(LogFormat::Text, "warn,plumbline_model=info")?;
    threads::use_threads(arguments.threads)?;
    let (ids, sequences) = read_sequences(&arguments.sequences, arguments.all_tokens)?;
    let tokens = sequences.iter().map(|sequence| sequence.token_ids.len()).sum();
    let scored_tokens = sequences.iter().map(|sequence| sequence.scored.len()).sum();

    let started = Instant::now();
    let model = arguments.model.clone();
    let source = if arguments.random_init {
        ModelSource::RandomInit(model)
    } else {
        ModelSource::named(&model, arguments.revision.as_deref())?
    };
    let profile = arguments.profile.then(|| Arc::new(Profile::default()));
    let options = LoadOptions {
        policy_version: "bench".into(),
        dtype: arguments.dtype,
        head_dtype: arguments.head_dtype,
        device: arguments.device,
        kernels: arguments.kernels,
        profile: profile.clone(),
        ..LoadOptions::default()
    };
    let load = move || -> Result<Box<dyn ReferenceModel>, LoadError> { Ok(Box::new(source.load(&options)?)) };
    let totals = Arc::new(Totals::default());
    let config = SchedulerConfig {
        max_queue_tokens: usize::MAX,
        max_batch_tokens: arguments.max_batch_tokens,
        max_batch_sequences: usize::MAX,
        keep_versions: 1,
        max_weight_bytes: 0,
        aside_share: 0.0,
        max_aside_jobs: 1,
        interactive_stretch: f64::INFINITY,
        quarantine: Duration::ZERO,
        restart_after_panics: 0,
    };
    let scheduler = Scheduler::start(config, totals.clone(), load).context("cannot start the model thread")?;
    let info = scheduler.ready().await?;
    let load_seconds = started.elapsed().as_secs_f64();
    let rss_after_load_bytes = memory::rss_bytes();
    check(&ids, &sequences, &info.limits)?;

    let count = sequences.len();
    let mut rounds = Vec::with_capacity(arguments.rounds);
    let mut outcomes = Vec::new();
    for _ in 0..arguments.rounds {
        let again = sequences.clone();
        let started = Instant::now();
        outcomes = scheduler.submit(again)?.wait().await?;
        rounds.push(totals.take(started.elapsed().as_secs_f64()));
    }
    let seconds_of_rounds: Vec<f64> = rounds.iter().map(|round| round.seconds).collect();
    // The profile counts all rounds.
    let profiled_seconds: f64 = rounds.iter().map(|round| round.forward_seconds + round.head_seconds).sum();
    let fastest = rounds.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).context("no round was run")?;
    let mut output = arguments.output.as_deref().map(create).transpose()?;
    for (id, outcome) in ids.iter().zip(outcomes) {
        let scored = outcome.with_context(|| format!("sequence {id}"))?;
        if let Some(output) = &mut output {
            serde_json::to_writer(&mut *output, &serde_json::json!({"id": id, "logprobs": scored.scores.logprobs}))?;
            output.write_all(b"\n")?;
        }
    }
    // A model must not be released while the process ends: a GPU's driver may be gone by then.
    scheduler.drain(DRAIN).await;
    if let Some(mut output) = output {
        output.flush().context("cannot write the output")?;
    }

    let Round { seconds, batches, forward_seconds, head_seconds } = fastest;
    let report = Report {
        tokens,
        scored_tokens,
        sequences: count,
        batches,
        seconds,
        seconds_of_rounds,
        oom_backoffs: totals.oom_backoffs.load(Relaxed),
        tokens_per_second: tokens as f64 / seconds,
        scored_tokens_per_second: scored_tokens as f64 / seconds,
        forward_seconds,
        head_seconds,
        load_seconds,
        rss_after_load_bytes,
        peak_rss_bytes: memory::peak_rss_bytes(),
        threads: rayon::current_num_threads(),
        max_batch_tokens: arguments.max_batch_tokens,
        model: info.model.clone(),
        dtype: info.dtype.clone(),
        head_dtype: info.head_dtype.clone(),
        device: info.device.clone(),
        random_init: arguments.random_init,
        kernels: arguments.kernels,
        profile: profile.map(|profile| ProfileReport::new(&profile, profiled_seconds)),
    };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

fn read_sequences(path: &Path, all_tokens: bool) -> anyhow::Result<(Vec<serde_json::Value>, Vec<ScoringSequence>)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut ids, mut sequences) = (Vec::new(), Vec::new());
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let parsed: Line =
            serde_json::from_str(&line).with_context(|| format!("{} line {}", path.display(), number + 1))?;
        // Without a prompt the first completion token has no context.
        let first = if all_tokens { 1 } else { parsed.prompt_token_ids.len().max(1) };
        let mut token_ids = parsed.prompt_token_ids;
        token_ids.extend(parsed.completion_token_ids);
        ids.push(parsed.id);
        sequences.push(ScoringSequence {
            scored: first.min(token_ids.len())..token_ids.len(),
            token_ids,
            prompt_tokens: first,
            processing: Processing::default(),
            policy_version: None,
        });
    }
    ensure!(!sequences.is_empty(), "{} has no sequences", path.display());
    Ok((ids, sequences))
}

fn check(
    ids: &[serde_json::Value],
    sequences: &[ScoringSequence],
    limits: &plumbline_core::ModelLimits,
) -> anyhow::Result<()> {
    for (id, sequence) in ids.iter().zip(sequences) {
        if sequence.token_ids.len() > limits.max_positions {
            bail!(
                "sequence {id} has {} tokens, the model's limit is {}",
                sequence.token_ids.len(),
                limits.max_positions
            );
        }
        if let Some(token) = sequence.token_ids.iter().find(|token| **token as usize >= limits.vocab_size) {
            bail!("sequence {id}: token id {token} is not below the vocabulary size {}", limits.vocab_size);
        }
    }
    Ok(())
}

fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    Ok(BufWriter::new(File::create(path).with_context(|| format!("cannot create {}", path.display()))?))
}
