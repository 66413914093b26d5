//! Faults on request, for tests of what follows them. Debug builds only: a release build refuses the variables as unknown.
//!
//! - `PLUMBLINE_FAULT_PANIC_ON_TOKENS=7,2,9`: a forward with a sequence whose scored tokens hold these ids in a row panics.
//! - `PLUMBLINE_FAULT_BROKEN_AFTER_PANIC=1`: after such a panic every forward fails until the weights are loaded again, as
//!   after an error that stays in a device.
//! - `PLUMBLINE_FAULT_MICROSECONDS_PER_TOKEN=50`: each forward sleeps so long for each row: a slow model that needs no CPU.

use std::ffi::{OsStr, OsString};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use plumbline_core::{
    BatchScores, ModelError, PackedBatch, ReferenceInfo, ReferenceModel, ScoringSequence, TokenId, Variant,
};

const PREFIX: &str = "PLUMBLINE_FAULT_";

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    panic_on: Vec<TokenId>,
    broken_after_panic: bool,
    per_token: Duration,
}

/// Variables that are not faults.
pub(crate) fn without_faults(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    variables.filter(|(name, _)| !is_fault(name)).collect()
}

fn is_fault(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PREFIX)
}

impl Faults {
    /// Those that variables ask for.
    ///
    /// # Errors
    /// A variable that is none of these, or has no such value.
    pub(crate) fn from_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> anyhow::Result<Self> {
        let mut faults = Self::default();
        for (name, value) in variables.filter(|(name, _)| is_fault(name)) {
            let (name, value) = (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned());
            let what = || format!("{name}={value}");
            match &name[PREFIX.len()..] {
                "PANIC_ON_TOKENS" => {
                    let ids = value.split(',').map(|id| id.trim().parse().with_context(what));
                    faults.panic_on = ids.collect::<anyhow::Result<_>>()?;
                }
                "BROKEN_AFTER_PANIC" => faults.broken_after_panic = value == "1",
                "MICROSECONDS_PER_TOKEN" => {
                    faults.per_token = Duration::from_micros(value.parse().with_context(what)?);
                }
                _ => anyhow::bail!("{name} is no fault"),
            }
        }
        Ok(faults)
    }

    /// The model with these faults; the model itself if there are none.
    pub(crate) fn wrap(&self, model: Box<dyn ReferenceModel>) -> Box<dyn ReferenceModel> {
        if self.panic_on.is_empty() && self.per_token.is_zero() {
            return model;
        }
        Box::new(Faulty { model, faults: self.clone(), broken: false })
    }
}

struct Faulty {
    model: Box<dyn ReferenceModel>,
    faults: Faults,
    broken: bool,
}

impl Faulty {
    #[expect(clippy::panic, reason = "this is the fault")]
    fn fall(&self) -> ! {
        panic!("the batch holds {:?} (fault injection)", self.faults.panic_on);
    }

    fn holds_the_tokens(&self, batch: &PackedBatch) -> bool {
        let wanted = &self.faults.panic_on;
        !wanted.is_empty()
            && batch.sequence_targets().iter().any(|targets| {
                let tokens: Vec<TokenId> = batch.targets()[targets.clone()].iter().map(|target| target.token).collect();
                tokens.windows(wanted.len()).any(|window| window == wanted)
            })
    }
}

impl ReferenceModel for Faulty {
    fn info(&self) -> &ReferenceInfo {
        self.model.info()
    }

    fn shares_prefixes(&self) -> bool {
        self.model.shares_prefixes()
    }

    fn save_memory(&mut self) -> bool {
        self.model.save_memory()
    }

    fn spend_memory(&mut self) {
        self.model.spend_memory();
    }

    fn supports(&self, variant: &Variant) -> bool {
        self.model.supports(variant)
    }

    fn score_variant(&mut self, batch: &PackedBatch, variant: &Variant) -> Result<BatchScores, ModelError> {
        self.model.score_variant(batch, variant)
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        self.model.logits(sequence, places, visit)
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        if self.broken {
            return Err(ModelError::Device("broken by an earlier panic (fault injection)".into()));
        }
        thread::sleep(self.faults.per_token * u32::try_from(batch.tokens()).unwrap_or(u32::MAX));
        if self.holds_the_tokens(batch) {
            self.broken = self.faults.broken_after_panic;
            self.fall();
        }
        self.model.score(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(variables: &[(&str, &str)]) -> anyhow::Result<Faults> {
        Faults::from_variables(variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }

    #[test]
    fn variables_are_read_or_refused_by_name() {
        let read = faults(&[
            ("PLUMBLINE_FAULT_PANIC_ON_TOKENS", "7, 2"),
            ("PLUMBLINE_FAULT_MICROSECONDS_PER_TOKEN", "50"),
            ("PLUMBLINE_THREADS", "x"),
        ])
        .unwrap();
        assert_eq!(
            (read.panic_on, read.per_token, read.broken_after_panic),
            (vec![7, 2], Duration::from_micros(50), false)
        );
        for (name, value) in [("PANIC_ON_TOKENS", "7,x"), ("MICROSECONDS_PER_TOKEN", "-1"), ("PANIC", "1")] {
            let error = faults(&[(&format!("PLUMBLINE_FAULT_{name}"), value)]).unwrap_err();
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
    }
}
