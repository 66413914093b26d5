//! The detector of one run and engine.

use serde::{Deserialize, Serialize};

use super::cusum::{Cusum, Evidence};
use super::history::History;
use super::level::{Level, weight};
use super::trend::Trend;
use super::{
    DriftConfig, DriftConfigError, DriftDirection, DriftEvent, DriftKind, DriftSample, DriftState, DriftUnit,
    DriftUpdate, kinds,
};

/// A change is said to begin with a policy version that began within this many sequences of its estimated beginning.
const VERSION_DISTANCE: u64 = 8;

/// A learned level is learned again from twice and from this many times as many sequences.
const LAST_REFINEMENT: u64 = 4;
/// As long as there is less evidence of a change than this.
const REFINEMENT_SCORE: f64 = 0.2;

/// What a detector remembers: a few tens of kilobytes at most. Stored and restored, it continues where it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DriftMemory {
    unit: Option<DriftUnit>,
    /// Sequences seen.
    sequences: u64,
    /// Weights and levels of the sequences that a level is being learned from.
    samples: Vec<(f64, f64)>,
    /// What sequences are compared with: nothing while learning, except the noise floor at the start.
    reference: Option<Level>,
    learning: bool,
    /// Whether the level in use is still being made more exact.
    refining: bool,
    up: Cusum,
    down: Cusum,
    alarm: Option<Alarm>,
    trend: Trend,
    history: History,
    /// First sequence of the trend that belongs to the present state of things: what came before is explained.
    history_from: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Alarm {
    event: DriftEvent,
    /// The level before.
    healthy: Level,
    /// Step or creep: what the kind is unless it follows the versions.
    creeps: bool,
    follows_versions: bool,
}

/// Watches one run and engine, sequence by sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftDetector {
    config: DriftConfig,
    memory: DriftMemory,
}

impl DriftDetector {
    /// A detector that has seen nothing.
    ///
    /// # Errors
    /// [`DriftConfigError`] if a setting has no meaning.
    pub fn new(config: DriftConfig) -> Result<Self, DriftConfigError> {
        Self::restore(config, DriftMemory::default())
    }

    /// A detector that continues from what another remembered.
    ///
    /// # Errors
    /// [`DriftConfigError`] if a setting has no meaning.
    pub fn restore(config: DriftConfig, memory: DriftMemory) -> Result<Self, DriftConfigError> {
        config.validate()?;
        Ok(Self { config, memory })
    }

    /// What has to be stored to continue later.
    #[must_use]
    pub fn memory(&self) -> &DriftMemory {
        &self.memory
    }

    /// Where the detector stands.
    #[must_use]
    pub fn state(&self) -> DriftState {
        let memory = &self.memory;
        let score = memory.score(self.config.mean_run_length);
        DriftState {
            score: if memory.alarm.is_some() { score.max(1.0) } else { score },
            alarm: memory.alarm.as_ref().map(|alarm| alarm.event.clone()),
            level: memory.reference.filter(|_| !self.is_learning()).map(|level| level.value),
            unit: memory.unit,
            learning: if self.is_learning() { self.still_to_learn() } else { 0 },
        }
    }

    /// Takes in the next sequence, in order of arrival.
    pub fn observe(&mut self, sample: &DriftSample<'_>) -> Option<DriftUpdate> {
        let ended = self.take_unit(sample.unit);
        let sequence = self.memory.sequences;
        self.memory.sequences += 1;
        let weight = weight(sample.tokens);
        // Before any level is known, zeros are kept finite by the least level.
        let scale = self.memory.reference.unwrap_or_else(|| self.fixed_level(self.config.min_level(sample.unit)));
        let log_level = scale.log(sample.level);
        let new_version = self.memory.history.observe(sample, sequence, weight, log_level);
        let new_segment = self.memory.trend.observe(sequence, weight, log_level);
        self.judge_kind(new_version, new_segment);
        if ended.is_some() {
            self.learn(sample, weight);
            return ended;
        }
        self.watch(sample, sequence, weight).or_else(|| self.learn(sample, weight))
    }

    /// Takes the present level for healthy: ends an alarm that is no longer news, and learns anew. Returns the alarm.
    pub fn accept(&mut self) -> Option<DriftEvent> {
        let alarm = self.memory.alarm.take();
        self.memory.start_learning();
        self.memory.history_from = self.memory.sequences;
        alarm.map(|alarm| alarm.event)
    }

    fn is_learning(&self) -> bool {
        self.memory.learning || self.memory.unit.is_none()
    }

    fn still_to_learn(&self) -> u64 {
        self.config.baseline_sequences.saturating_sub(self.memory.samples.len() as u64)
    }

    /// A level that is given, not learned.
    fn fixed_level(&self, value: f64) -> Level {
        Level { value, mean_log: value.ln(), raised: false, tolerance: self.config.floor_tolerance }
    }

    /// Starts from nothing where the unit is not what it was: no level means anything any more.
    fn take_unit(&mut self, unit: DriftUnit) -> Option<DriftUpdate> {
        if self.memory.unit == Some(unit) {
            return None;
        }
        let sequences = self.memory.sequences;
        let before = std::mem::take(&mut self.memory);
        self.memory = DriftMemory { unit: Some(unit), sequences, history_from: sequences, ..DriftMemory::default() };
        self.memory.start_learning();
        if unit == DriftUnit::NoiseFloors {
            self.memory.reference = Some(self.fixed_level(1.0));
        }
        before.alarm.map(|alarm| DriftUpdate::Ended(alarm.event))
    }

    /// Compares the sequence with the reference.
    fn watch(&mut self, sample: &DriftSample<'_>, sequence: u64, weight: f64) -> Option<DriftUpdate> {
        let (config, memory) = (&self.config, &mut self.memory);
        let reference = memory.reference?;
        memory.up.observe(DriftDirection::Up, sample, sequence, weight, &reference, config.cap);
        // Below the floor is no drift, and below the least level nothing is.
        if !memory.learning && !reference.raised {
            memory.down.observe(DriftDirection::Down, sample, sequence, weight, &reference, config.cap);
        }
        let sides = [(DriftDirection::Up, &memory.up), (DriftDirection::Down, &memory.down)];
        let alarming = sides.into_iter().find(|(_, side)| side.score(config.mean_run_length) >= 1.0);
        let (direction, evidence) =
            alarming.and_then(|(direction, side)| Some((direction, side.strongest()?.clone())))?;
        Some(self.raise(direction, &evidence, sample, sequence, reference))
    }

    fn raise(
        &mut self,
        direction: DriftDirection,
        evidence: &Evidence,
        sample: &DriftSample<'_>,
        sequence: u64,
        reference: Level,
    ) -> DriftUpdate {
        let size = (evidence.mean_log() - reference.mean_log).exp();
        if direction == DriftDirection::Down
            && let Some(alarm) = self.memory.alarm.take_if(|alarm| {
                alarm.event.direction == DriftDirection::Up
                    && reference.value * size <= alarm.healthy.value * self.config.tolerance
            })
        {
            // Back where it was: no need to learn what is known.
            self.memory.history_from = evidence.began_sequence;
            if alarm.healthy.tolerance == self.config.tolerance {
                self.memory.start_watching(alarm.healthy);
                (self.memory.samples, self.memory.refining) = (Vec::new(), false);
            } else {
                self.memory.start_learning();
            }
            return DriftUpdate::Ended(alarm.event);
        }
        let change = self.memory.history.version_change_near(evidence.began_sequence, VERSION_DISTANCE);
        let creeps = self.creeps();
        let event = DriftEvent {
            direction,
            kind: if creeps { DriftKind::Creep } else { DriftKind::Step },
            began_at: change.map_or(evidence.began_at, |change| change.at),
            began_sequence: change.map_or(evidence.began_sequence, |change| change.sequence),
            policy_version: change.map_or_else(|| evidence.policy_version.clone(), |change| Some(change.name.clone())),
            at_version_change: change.is_some(),
            seen_at: sample.at,
            seen_sequence: sequence,
            level_before: reference.value,
            unit: sample.unit,
            size,
        };
        self.memory.start_learning();
        if self.memory.alarm.is_none() {
            self.memory.alarm =
                Some(Alarm { event: event.clone(), healthy: reference, creeps, follows_versions: false });
        }
        DriftUpdate::Began(event)
    }

    /// Adds the sequence to those that the level is learned from. With the last one, says whether an alarm is over.
    fn learn(&mut self, sample: &DriftSample<'_>, weight: f64) -> Option<DriftUpdate> {
        let (config, memory) = (&self.config, &mut self.memory);
        if !memory.learning && !memory.refining {
            return None;
        }
        memory.samples.push((weight, sample.level));
        let (count, needed) = (memory.samples.len() as u64, config.baseline_sequences);
        // Not only exactly then: a restored detector may have got another setting.
        let last = memory.refining && count >= LAST_REFINEMENT * needed;
        let due = if memory.learning { count >= needed } else { last || count == 2 * needed };
        if !due {
            return None;
        }
        let level = Level::learn(&memory.samples, config.cap, config.min_level(sample.unit), config.tolerance);
        if memory.learning {
            memory.start_watching(level);
            memory.refining = true;
            return self.end_by_level(&level);
        }
        // A change that is being found out must not become part of what it is compared with.
        if memory.score(config.mean_run_length) < REFINEMENT_SCORE {
            memory.reference = Some(level);
        }
        if last {
            (memory.samples, memory.refining) = (Vec::new(), false);
        }
        None
    }

    /// Ends the alarm if the level that was just learned says so.
    fn end_by_level(&mut self, level: &Level) -> Option<DriftUpdate> {
        let alarm = self.memory.alarm.as_mut()?;
        alarm.event.size = (level.mean_log - alarm.healthy.mean_log).exp();
        let over = match alarm.event.direction {
            DriftDirection::Up => level.value <= alarm.healthy.value * alarm.healthy.tolerance,
            DriftDirection::Down => true,
        };
        if !over {
            return None;
        }
        self.memory.history_from = self.memory.sequences;
        self.memory.alarm.take().map(|alarm| DriftUpdate::Ended(alarm.event))
    }

    /// Judges the alarm's kind again, with the versions and segments that have become complete. Whether it creeps is settled
    /// once the new level is learned; that it follows the versions may show later.
    fn judge_kind(&mut self, new_version: bool, new_segment: bool) {
        let creeps = (new_segment && self.memory.learning && self.memory.alarm.is_some()).then(|| self.creeps());
        let history = &self.memory.history;
        let Some(alarm) = &mut self.memory.alarm else { return };
        alarm.creeps = creeps.unwrap_or(alarm.creeps);
        if new_version {
            let versions = history.since_version_before(alarm.event.began_sequence);
            alarm.follows_versions = kinds::steps_with_versions(&versions);
        }
        alarm.event.kind = alarm.kind();
    }

    /// Whether the level creeps, by what belongs to the present state of things.
    fn creeps(&self) -> bool {
        let segments = self.memory.trend.segments().filter(|segment| segment.first >= self.memory.history_from);
        kinds::creeps(&segments.copied().collect::<Vec<_>>())
    }
}

impl DriftMemory {
    fn start_learning(&mut self) {
        (self.samples, self.reference, self.learning, self.refining) = (Vec::new(), None, true, false);
        (self.up, self.down) = (Cusum::default(), Cusum::default());
    }

    fn start_watching(&mut self, reference: Level) {
        (self.reference, self.learning) = (Some(reference), false);
        (self.up, self.down) = (Cusum::default(), Cusum::default());
    }

    fn score(&self, mean_run_length: f64) -> f64 {
        self.up.score(mean_run_length).max(self.down.score(mean_run_length))
    }
}

impl Alarm {
    fn kind(&self) -> DriftKind {
        match (self.follows_versions, self.creeps) {
            (true, _) => DriftKind::VersionSteps,
            (false, true) => DriftKind::Creep,
            (false, false) => DriftKind::Step,
        }
    }
}
