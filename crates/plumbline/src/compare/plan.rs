//! What is asked of every engine: decided once, written down, the same for all.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use plumbline_core::{Sampling, TokenId};
use plumbline_engines::drivers::Ask;
use plumbline_model::{Chat, ChatValue, CivilTime, Tokenizer};
use serde::{Deserialize, Serialize};

use super::arguments::CompareArguments;
use super::files;
use super::prompts::{Content, Prompt};

/// Name of the plan in the output folder.
const FILE: &str = "plan.json";
/// Engines hold seeds in signed 32-bit integers at least.
const SEED_MASK: u32 = 0x7fff_ffff;

/// `OUT/plan.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Seconds after the Unix epoch at which the prompts were rendered: a chat template may show the date.
    rendered_at: u64,
    pub(super) sampling: Sampling,
    pub(super) samples: usize,
    pub(super) max_tokens: usize,
    pub(super) seed: u32,
    pub(super) prompts: Vec<PlannedPrompt>,
    /// Places of the prompts by id, made when first needed.
    #[serde(skip)]
    places: OnceLock<HashMap<String, usize>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PlannedPrompt {
    pub(super) id: String,
    pub(super) token_ids: Vec<TokenId>,
}

/// One completion of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Task {
    pub(super) prompt: usize,
    pub(super) sample: usize,
}

impl Plan {
    /// Renders the prompts, and checks them against the plan of the run that is resumed, or writes it down.
    pub(super) fn prepare(
        arguments: &CompareArguments,
        prompts: &[Prompt],
        tokenizer: Option<&Tokenizer>,
        out: &Path,
    ) -> anyhow::Result<Self> {
        let sampling = arguments.sampling();
        let path = out.join(FILE);
        let before = match (path.exists(), arguments.resume) {
            (true, false) => bail!("{} holds a run already: add --resume, or choose another folder", out.display()),
            (false, _) => None,
            (true, true) => Some(files::read_json::<Self>(&path)?),
        };
        let rendered_at = match &before {
            Some(plan) => plan.rendered_at,
            None => SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs(),
        };
        let now = CivilTime::from_unix_utc(rendered_at, 0).context("the clock is beyond the year 9999")?;
        let wrap = arguments.wrap_text();
        let token_ids = |prompt| render(prompt, tokenizer, wrap, now);
        let prompts = prompts
            .iter()
            .map(|prompt| {
                let token_ids =
                    token_ids(prompt).with_context(|| format!("prompt {:?} cannot be rendered", prompt.id))?;
                ensure!(!token_ids.is_empty(), "prompt {:?} has no tokens", prompt.id);
                Ok(PlannedPrompt { id: prompt.id.clone(), token_ids })
            })
            .collect::<anyhow::Result<_>>()?;
        let CompareArguments { samples, max_tokens, seed, .. } = *arguments;
        let plan = Self { rendered_at, sampling, samples, max_tokens, seed, prompts, places: OnceLock::new() };
        match before {
            Some(before) => plan.check_same(&before, out)?,
            None => files::write_json(&path, &plan)?,
        }
        Ok(plan)
    }

    /// All tasks, the samples of a prompt together.
    pub(super) fn tasks(&self) -> impl Iterator<Item = Task> + '_ {
        (0..self.prompts.len()).flat_map(|prompt| (0..self.samples).map(move |sample| Task { prompt, sample }))
    }

    pub(super) fn ask(&self, task: Task) -> Ask {
        let count = (task.prompt * self.samples + task.sample) as u32;
        Ask {
            prompt: self.prompts[task.prompt].token_ids.clone(),
            max_tokens: self.max_tokens,
            sampling: self.sampling,
            seed: self.seed.wrapping_add(count) & SEED_MASK,
        }
    }

    /// The task of a recorded exchange.
    pub(super) fn task(&self, prompt: &str, sample: usize) -> Option<Task> {
        let places = self.places.get_or_init(|| {
            let ids = self.prompts.iter().enumerate();
            ids.map(|(place, planned)| (planned.id.clone(), place)).collect()
        });
        let prompt = *places.get(prompt)?;
        (sample < self.samples).then_some(Task { prompt, sample })
    }

    fn check_same(&self, before: &Self, out: &Path) -> anyhow::Result<()> {
        let differs = [
            ("the sampling parameters", self.sampling != before.sampling),
            ("--samples", self.samples != before.samples),
            ("--max-tokens", self.max_tokens != before.max_tokens),
            ("--seed", self.seed != before.seed),
            ("the prompts, or how they are rendered", self.prompts != before.prompts),
        ];
        let differs: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(what, _)| *what).collect();
        ensure!(differs.is_empty(), "the run in {} was another one: {} differ", out.display(), differs.join(", "));
        Ok(())
    }
}

fn render(
    prompt: &Prompt,
    tokenizer: Option<&Tokenizer>,
    wrap: Option<bool>,
    now: CivilTime,
) -> anyhow::Result<Vec<TokenId>> {
    if let Content::Ids(ids) = &prompt.content {
        return Ok(ids.clone());
    }
    let tokenizer = tokenizer.context("the model has no tokenizer files: give prompts as token ids")?;
    let wrap = wrap.unwrap_or(tokenizer.chat_template().is_some());
    Ok(match &prompt.content {
        Content::Ids(ids) => ids.clone(),
        Content::Chat(chat) => tokenizer.encode_chat(chat, now)?,
        Content::Text(text) if wrap => tokenizer.encode_chat(&user(text), now)?,
        Content::Text(text) => tokenizer.encode(text, true)?,
    })
}

/// A conversation of one message.
fn user(text: &str) -> Chat {
    let message = ChatValue::from(serde_json::json!({"role": "user", "content": text}));
    Chat { messages: vec![message], add_generation_prompt: true, ..Chat::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let prompt = |id: &str| PlannedPrompt { id: id.into(), token_ids: vec![1, 2] };
        Plan {
            rendered_at: 0,
            sampling: Sampling::default(),
            samples: 3,
            max_tokens: 4,
            seed: SEED_MASK,
            prompts: vec![prompt("a"), prompt("b")],
            places: OnceLock::new(),
        }
    }

    #[test]
    fn every_task_has_its_own_seed_and_is_found_again() {
        let plan = plan();
        let tasks: Vec<Task> = plan.tasks().collect();
        assert_eq!(tasks.len(), 6);
        let seeds: Vec<u32> = tasks.iter().map(|task| plan.ask(*task).seed).collect();
        assert_eq!(seeds, [SEED_MASK, 0, 1, 2, 3, 4]);
        for task in tasks {
            assert_eq!(plan.task(&plan.prompts[task.prompt].id, task.sample), Some(task));
        }
        assert_eq!(plan.task("b", 3), None);
        assert_eq!(plan.task("c", 0), None);
    }

    #[test]
    fn another_run_is_not_resumed() {
        let other = Plan { samples: 4, seed: 1, ..plan() };
        let error = other.check_same(&plan(), Path::new("out")).unwrap_err().to_string();
        assert!(error.contains("--samples, --seed differ"), "{error}");
        plan().check_same(&plan(), Path::new("out")).unwrap();
    }
}
