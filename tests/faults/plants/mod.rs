//! Plants: runs of rollouts with one known fault, and the cause codes that name it.
//!
//! A plant builds what a rollout worker would post: the prompt it believes the engine saw, the ids it got back, the engine's
//! numbers, the sampling parameters and what it believes the numbers mean. The engine samples with its fault, as a real one
//! does; only faults of reporting are written over a healthy engine's answers.

mod alignment;
mod context;
mod engine;
mod head;
mod healthy;
mod input;
mod position;
mod recorded;
mod sampling;
mod scene;
mod weights;

use std::collections::BTreeSet;

use plumbline_core::Rollout;

pub(crate) use self::healthy::healthy;
pub(crate) use self::scene::{Format, Scene, rollouts};
use crate::world::World;

/// One posted rollout and its labels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Posted {
    pub(crate) rollout: Rollout,
    /// Sequences of one group have the same prompt.
    pub(crate) group: usize,
    /// Rollouts of different workers come in different requests.
    pub(crate) worker: usize,
    /// Prompt tokens from the prefix cache, if the worker posts that.
    pub(crate) cached_tokens: Option<usize>,
}

/// The reference that a run is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The tiny model.
    Plain,
    /// With the adapter merged.
    Adapted,
    /// The tiny model, which the diagnosis takes for one with experts.
    TakenForExperts,
}

type Build = Box<dyn Fn(&World, u64) -> Vec<Posted> + Send + Sync>;

/// A fault to plant.
pub(crate) struct Plant {
    /// Says the fault and its parameters.
    pub(crate) name: String,
    /// The cause to name first; more than one where they mean the same by construction.
    pub(crate) expected: &'static [&'static str],
    pub(crate) reference: Reference,
    build: Build,
}

impl Plant {
    fn new(
        expected: &'static [&'static str],
        name: impl Into<String>,
        build: impl Fn(&World, u64) -> Vec<Posted> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), expected, reference: Reference::Plain, build: Box::new(build) }
    }

    fn against(mut self, reference: Reference) -> Self {
        self.reference = reference;
        self
    }

    /// The run of this plant with a seed.
    pub(crate) fn run(&self, world: &World, seed: u64) -> Vec<Posted> {
        (self.build)(world, seed)
    }
}

impl std::fmt::Debug for Plant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plant").field("name", &self.name).field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// Every plant.
pub(crate) fn all() -> Vec<Plant> {
    let families = [
        input::plants(),
        alignment::plants(),
        sampling::plants(),
        head::plants(),
        context::plants(),
        position::plants(),
        weights::plants(),
        engine::plants(),
        recorded::plants(),
    ];
    families.into_iter().flatten().collect()
}

/// The first plant of every cause.
pub(crate) fn one_of_each() -> Vec<Plant> {
    let mut seen = BTreeSet::new();
    all().into_iter().filter(|plant| seen.insert(plant.expected)).collect()
}
