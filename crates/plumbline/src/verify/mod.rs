//! `plumbline verify`: recorded rollouts against the reference.

mod arguments;
mod reading;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use plumbline_core::Rollout;
use plumbline_engines::dumps::DumpRollout;
use plumbline_report::InputFacts;
use plumbline_server::config::LogFormat;

pub(crate) use self::arguments::VerifyArguments;
use self::reading::{Read, Reading};
use crate::offline::{Ending, INTERRUPTED, Incoming, Interrupt, Outcome, Progress, Session, Submitted};
use crate::{logging, threads};

/// The engine under which a trainer's own logprobs are compared with the reference.
const TRAINER: &str = "trainer";

/// The input cannot be used at all; also wrong arguments.
const UNUSABLE: u8 = 2;

/// Bad records that are printed; further ones are counted.
const PRINTED: u64 = 10;

pub(crate) async fn run(arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    logging::start(LogFormat::Text, "warn")?;
    let config = arguments.offline.load()?;
    threads::use_threads(config.threads)?;
    let interrupt = Interrupt::listen()?;
    let options = arguments.dump_options()?;
    let reading = match Reading::open(&arguments.files, &options) {
        Ok(reading) => reading,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let session = tokio::select! {
        session = Session::open(&arguments.offline, config, &interrupt) => session?,
        () = interrupt.asked() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let progress = Progress::bytes(reading.bytes(), reading.bytes_read(), session.scored_tokens());
    let reference = session.reference();
    progress.say(&format!("reference: {} ({}, {})", reference.model, reference.dtype, reference.device));
    let mut verify = Verify { session, progress, inputs: Vec::new(), bad: 0 };
    let interrupted = verify.feed(reading, &interrupt).await?;
    let outcome = verify.finish(arguments, interrupted).await?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", outcome.table()).and_then(|()| stdout.flush()).context("cannot write to stdout")?;
    Ok(ExitCode::from(outcome.exit_code))
}

/// A run of the command.
struct Verify {
    session: Session,
    progress: Progress,
    inputs: Vec<Input>,
    /// Records and rollouts that could not be used.
    bad: u64,
}

/// What was read of one path.
#[derive(Default)]
struct Input {
    name: String,
    format: Option<String>,
    sequences: u64,
    tokens: u64,
    rejected: BTreeMap<String, u64>,
    without_tokens: u64,
}

impl Verify {
    /// Hands everything over that is read, until the end or Ctrl-C; whether it was Ctrl-C.
    async fn feed(&mut self, mut reading: Reading, interrupt: &Interrupt) -> anyhow::Result<bool> {
        loop {
            let read = tokio::select! {
                biased;
                () = interrupt.asked() => return Ok(true),
                read = reading.next() => read,
            };
            match read {
                None => return Ok(false),
                Some(Read::Input(name)) => self.inputs.push(Input { name, ..Input::default() }),
                Some(Read::Format(format)) => {
                    let Some(input) = self.inputs.last_mut() else { continue };
                    self.progress.say(&format!("{}: reading as {format}", input.name));
                    input.format = Some(format);
                }
                Some(Read::Rollout(rollout)) => {
                    tokio::select! {
                        biased;
                        submitted = self.submit(*rollout) => submitted?,
                        // What could not be handed over yet has not been in flight.
                        () = interrupt.asked() => return Ok(true),
                    }
                }
                Some(Read::Bad(error)) => self.reject("bad record", &error.to_string()),
                Some(Read::WithoutTokens(records)) => {
                    if let Some(input) = self.inputs.last_mut() {
                        input.without_tokens += records;
                    }
                }
            }
        }
    }

    async fn submit(&mut self, read: DumpRollout) -> anyhow::Result<()> {
        let DumpRollout { engine, worker, group, rollout, cached_tokens, trainer, run: _ } = read;
        let id = rollout.id.clone();
        let tokens = rollout.completion_token_ids.len() as u64;
        let of_trainer = trainer.map(|trainer| Incoming {
            engine: TRAINER.to_owned(),
            worker: worker.clone(),
            group: group.clone(),
            rollout: Rollout { logprobs: trainer.logprobs, logprobs_mode: trainer.mode, ..rollout.clone() },
            cached_tokens: None,
        });
        let own = Incoming { engine, worker, group, rollout, cached_tokens };
        match self.session.submit(own).await? {
            Submitted::Taken => {
                if let Some(input) = self.inputs.last_mut() {
                    input.sequences += 1;
                    input.tokens += tokens;
                }
            }
            Submitted::Refused { kind, reason } => {
                let name = self.inputs.last().map(|input| input.name.clone()).unwrap_or_default();
                self.reject(kind, &format!("{name}, sequence {id}: {reason}"));
                // The trainer's numbers are of the same tokens.
                return Ok(());
            }
        }
        if let Some(of_trainer) = of_trainer {
            // The same tokens were taken just now; only the mode can be in the way.
            if let Submitted::Refused { kind, reason } = self.session.submit(of_trainer).await? {
                self.reject(kind, &format!("sequence {id}, logprobs of the trainer: {reason}"));
            }
        }
        Ok(())
    }

    fn reject(&mut self, kind: &str, reason: &str) {
        self.bad += 1;
        if self.bad <= PRINTED {
            self.progress.say(&format!("not used: {reason}"));
        } else if self.bad == PRINTED + 1 {
            self.progress.say("not used: more of them, which are counted");
        }
        if let Some(input) = self.inputs.last_mut() {
            *input.rejected.entry(kind.to_owned()).or_default() += 1;
        }
    }

    async fn finish(self, arguments: &VerifyArguments, interrupted: bool) -> anyhow::Result<Outcome> {
        let Self { session, progress, inputs, bad } = self;
        let mut ending = Ending { command: Some(command_line()), interrupted, ..Ending::default() };
        if interrupted {
            ending.notes.push("interrupted: this report covers what had been read until then".into());
        }
        if bad > 0 {
            let what = format!("{bad} records or sequences could not be used");
            match arguments.skip_bad_lines {
                true => ending.notes.push(what),
                false => ending.unusable = Some(format!("{what} (--skip-bad-lines leaves them out)")),
            }
        }
        for input in inputs {
            let format = input.format.map_or_else(String::new, |format| format!(" ({format})"));
            if input.without_tokens > 0 {
                let records = input.without_tokens;
                ending
                    .notes
                    .push(format!("{}: {records} records have no token in the loss and were left out", input.name));
            }
            let Input { name, sequences, tokens, rejected, .. } = input;
            ending.inputs.push(InputFacts { name: format!("{name}{format}"), sequences, tokens, rejected });
        }
        let outcome = session.finish(ending).await;
        drop(progress);
        outcome
    }
}

/// As it was typed; it has no secrets.
fn command_line() -> String {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
