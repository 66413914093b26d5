//! Arguments of `plumbline compare`.

use std::path::PathBuf;

use clap::Args;
use plumbline_core::Sampling;

use super::engine_spec::{EngineSpec, KeySource, Mode, OfEngine};
use super::scoring::OfflineArguments;

#[derive(Debug, Args)]
#[command(
    long_about = "Make live engines complete the same prompts, score what they sampled with the reference, and compare every engine \
                  with the reference and with each other.\n\n\
                  All engines get the same token ids (our tokenizer, our chat template), seeds and sampling parameters. Every \
                  exchange is appended to OUT/exchanges.jsonl as it ends; --resume goes on from there, and `plumbline verify` \
                  reads the same file.",
    after_help = "Exit codes: 0 consistent; 1 divergent, or a limit of --fail-on is broken; 2 unusable input, or an engine that cannot be \
                  reached or fails; 130 interrupted."
)]
pub(crate) struct CompareArguments {
    /// An engine: KIND=URL, or NAME=KIND@URL to tell two of a kind apart; KIND is vllm, sglang, llama.cpp, tensorrt-llm or
    /// openai. May be given several times
    #[arg(long = "engine", value_name = "[NAME=]KIND@URL", required_unless_present = "resume")]
    pub(super) engines: Vec<EngineSpec>,
    /// Prompts: one a line (.txt), or {"prompt"}, {"messages"} or {"prompt_token_ids"} a line (.jsonl) or row (.parquet)
    #[arg(long, value_name = "FILE")]
    pub(super) prompts: PathBuf,
    /// Field or column that holds the prompt [default: the first of prompt, messages, prompt_token_ids, text, problem,
    /// question]
    #[arg(long, value_name = "NAME")]
    pub(super) prompt_field: Option<String>,
    /// Use only the first N prompts
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(super) limit: Option<usize>,
    /// Wrap a text prompt in the chat template, as one message of the user [default: if the model has a template]
    #[arg(long, conflicts_with = "no_chat")]
    chat: bool,
    /// Take text prompts as they are
    #[arg(long)]
    no_chat: bool,
    /// Completions of each prompt, each with its own seed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub(super) samples: usize,
    /// Most tokens of a completion
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    pub(super) max_tokens: usize,
    /// Temperature; 0 = greedy
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f64,
    /// Nucleus mass; 1 = off
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Kept tokens; 0 = off
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: i64,
    /// Kept share of the top token's probability; 0 = off
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f64,
    /// Seed of the first completion; the others count up from it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u32,
    /// Requests under way at once, per engine
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    pub(super) concurrency: usize,
    /// Seconds that one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) request_timeout: u64,
    /// Attempts of one request; connections that fail, 429 and 5xx are tried again
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) attempts: u32,
    /// Go on with the run in OUT: what is in its exchanges.jsonl is not asked again, and engines that are only there count too
    #[arg(long)]
    pub(super) resume: bool,
    /// Do not ask engines for the logprobs of what other engines sampled
    #[arg(long)]
    pub(super) no_cross: bool,
    /// Model name to ask an engine for [default: the only one it lists]
    #[arg(long, value_name = "NAME=MODEL")]
    pub(super) engine_model: Vec<OfEngine<String>>,
    /// Where an engine's API key is
    #[arg(long, value_name = "NAME=env:VAR|file:PATH")]
    pub(super) engine_key: Vec<OfEngine<KeySource>>,
    /// Certificate authorities in PEM that https:// engines may have, beside the system's
    #[arg(long, value_name = "FILE")]
    pub(super) engine_ca: Option<PathBuf>,
    /// What an engine's logprobs mean, where it was started with another meaning than its default
    #[arg(long, value_name = "NAME=raw|temperature|processed")]
    pub(super) engine_logprobs_mode: Vec<OfEngine<Mode>>,
    #[command(flatten)]
    pub(super) offline: OfflineArguments,
}

impl CompareArguments {
    pub(super) fn sampling(&self) -> Sampling {
        let Self { temperature, top_p, top_k, min_p, .. } = *self;
        Sampling { temperature, top_p, top_k, min_p, ..Sampling::default() }
    }

    /// Whether text prompts are wrapped; `None` = if the model has a template.
    pub(super) fn wrap_text(&self) -> Option<bool> {
        match (self.chat, self.no_chat) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }

    /// What was said of an engine, if anything.
    pub(super) fn of<'a, T>(list: &'a [OfEngine<T>], name: &str) -> Option<&'a T> {
        list.iter().find(|given| given.name == name).map(|given| &given.value)
    }

    /// Names in the `NAME=` flags that no `--engine` has.
    pub(super) fn unknown_names(&self) -> Vec<&str> {
        let models = self.engine_model.iter().map(|given| given.name.as_str());
        let keys = self.engine_key.iter().map(|given| given.name.as_str());
        let modes = self.engine_logprobs_mode.iter().map(|given| given.name.as_str());
        let known = |name: &&str| self.engines.iter().any(|engine| engine.name == **name);
        models.chain(keys).chain(modes).filter(|name| !known(name)).collect()
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}
