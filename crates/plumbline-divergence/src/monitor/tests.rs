//! What is kept of runs and engines, and what of it is shown.

use proptest::prelude::*;

use super::*;
use crate::{Cause, DriftDirection, DriftUnit, Verdict};

const SECOND: Duration = Duration::from_secs(1);

fn monitor(max_groups: usize) -> Monitor {
    let drift = DriftConfig::default();
    Monitor::new(MonitorConfig { window: 60 * SECOND, slices: 6, max_groups, idle_expiry: 100 * SECOND, drift })
        .unwrap()
}

fn key(run: &str, engine: &str) -> GroupKey {
    GroupKey { run: run.into(), engine: engine.into() }
}

fn tokens(tokens: u64) -> [SequenceSummary; 1] {
    [summary(tokens, 0.01, None)]
}

/// A sequence with a mean `|d|`, and the floor expected of it.
fn summary(tokens: u64, mae: f64, floor: Option<f64>) -> SequenceSummary {
    let count = tokens as f64;
    let mut statistics = SufficientStatistics { tokens, sequences: 1, ..SufficientStatistics::default() };
    statistics.delta_positive = count * mae;
    if let Some(floor) = floor {
        statistics.floor_tokens = tokens;
        statistics.floor_abs_delta = count * mae;
        statistics.floor_expected = count * floor;
    }
    SequenceSummary { statistics, verdict: Some(Verdict::Consistent), ..SequenceSummary::default() }
}

fn finding(cause: Cause) -> Finding {
    Finding { cause, explained: Some(0.5), residual_floor_multiple: Some(1.0), evidence: "because".into() }
}

fn counts(monitor: &Monitor, now: Duration) -> Vec<(GroupKey, u64)> {
    monitor.gauges(now).into_iter().map(|group| (group.key, group.window.tokens)).collect()
}

#[test]
fn runs_and_engines_beyond_the_limit_share_other() {
    let mut monitor = monitor(2);
    assert_eq!(counts(&monitor, SECOND), [(GroupKey::other(), 0)]);
    let names = [("a", "vllm"), ("b", "vllm"), ("a", "sglang"), ("b", "vllm")];
    for (run, engine) in names {
        let key = monitor.resolve(SECOND, run, engine);
        monitor.observe(SECOND, &key, &tokens(1));
    }
    let expected = [(GroupKey::other(), 1), (key("a", "vllm"), 1), (key("b", "vllm"), 2)];
    assert_eq!(counts(&monitor, SECOND), expected);
}

#[test]
fn idle_groups_expire_and_make_room() {
    let mut monitor = monitor(1);
    let first = monitor.resolve(Duration::ZERO, "a", "vllm");
    assert_eq!(monitor.expire(99 * SECOND), []);
    monitor.resolve(50 * SECOND, "a", "vllm");
    assert_eq!(monitor.expire(149 * SECOND), []);
    assert_eq!(monitor.expire(150 * SECOND), std::slice::from_ref(&first));
    assert_eq!(monitor.resolve(150 * SECOND, "b", "vllm"), key("b", "vllm"));
    // Resolved before it expired, observed after: there is no room any more, but nothing is lost.
    monitor.observe(150 * SECOND, &first, &tokens(3));
    assert_eq!(counts(&monitor, 150 * SECOND), [(GroupKey::other(), 3), (key("b", "vllm"), 0)]);
    assert_eq!(monitor.expire(Duration::MAX), [key("b", "vllm")]);
    assert_eq!(counts(&monitor, 150 * SECOND), [(GroupKey::other(), 3)]);
}

#[test]
fn a_sender_may_call_itself_other() {
    let mut monitor = monitor(1);
    assert_eq!(monitor.resolve(SECOND, "other", "other"), GroupKey::other());
    assert_eq!(monitor.resolve(SECOND, "other", "vllm"), key("other", "vllm"));
}

#[test]
fn a_view_has_intervals_splits_verdicts_and_diagnoses() {
    let mut monitor = monitor(4);
    let key = monitor.resolve(SECOND, "a", "vllm");
    for (second, version, worker) in [(1, "1", "w1"), (2, "1", "w2"), (90, "2", "w1")] {
        let sequence = SequenceSummary {
            policy_version: Some(version.into()),
            worker: Some(worker.into()),
            ..summary(10, 0.01 * f64::from(second), Some(0.02))
        };
        monitor.observe(second * SECOND, &key, &[sequence]);
    }
    monitor.observe(
        91 * SECOND,
        &key,
        &[SequenceSummary { verdict: Some(Verdict::Insufficient), ..SequenceSummary::default() }],
    );
    let found = [Cause::Unknown, Cause::Unknown, Cause::StaleWeights].map(finding);
    monitor.hear(91 * SECOND, &key, &[&found[..1], &found[1..2], &found[2..], &[]]);
    let [view] = <[_; 1]>::try_from(monitor.view(91 * SECOND, "a")).unwrap();
    assert_eq!((view.window.statistics.tokens, view.totals.statistics.tokens), (10, 30));
    assert_eq!(view.verdicts, [3, 0, 0, 1]);
    assert!(view.totals.clusters.interval("noise_floor_multiple").is_some());
    assert_eq!(view.window.clusters.interval("mae_logprob"), None, "one sequence has no interval");
    let names = |points: &[NamedPoint]| -> Vec<_> {
        points.iter().map(|point| (point.name.clone().unwrap(), point.sums.sequences)).collect()
    };
    assert_eq!(names(&view.versions), [("1".to_owned(), 2), ("2".to_owned(), 1)]);
    assert_eq!(names(&view.workers), [("w1".to_owned(), 2), ("w2".to_owned(), 1)]);
    assert_eq!(view.timeline.len(), 2);
    assert_eq!(view.diagnoses, BTreeMap::from([("stale_weights", 1), ("unknown", 2)]));
    let causes: Vec<_> = view.causes.iter().map(|found| (found.cause, found.explained)).collect();
    assert_eq!(causes, [(Cause::Unknown, Some(0.5)), (Cause::StaleWeights, Some(0.5))]);
    assert!(monitor.view(91 * SECOND, "b").is_empty());
    assert!(monitor.view(91 * SECOND, "other").is_empty(), "it has seen nothing");
    assert_eq!(monitor.list(91 * SECOND).iter().map(|group| group.sequences).collect::<Vec<_>>(), [3]);
}

/// A worker that differs is named without any diagnosis, and no longer when it has not differed for long.
#[test]
fn the_worker_that_differs_is_named_while_it_does() {
    let mut monitor = monitor(4);
    let key = monitor.resolve(SECOND, "a", "vllm");
    let mut feed = |sequences: u32, mae: f64| {
        for number in 0..sequences {
            let worker = ["w1", "w2", "w3"][number as usize % 3];
            let mae = if worker == "w2" { mae } else { 0.01 };
            let sequence = SequenceSummary { worker: Some(worker.into()), ..summary(50, mae, Some(0.01)) };
            monitor.observe(SECOND, &key, &[sequence]);
        }
        monitor.view(SECOND, "a").remove(0).causes
    };
    let causes = feed(60, 0.05);
    assert_eq!(causes.len(), 1);
    assert_eq!(causes[0].cause, Cause::WorkerSpecific);
    assert!(causes[0].evidence.contains("worker w2"), "{}", causes[0].evidence);
    assert_eq!(feed(3 * 4096, 0.01), []);
}

#[test]
fn a_step_is_an_event_with_its_version_and_ends_when_it_is_over() {
    let mut monitor = monitor(4);
    let key = monitor.resolve(SECOND, "a", "vllm");
    let mut updates = Vec::new();
    for number in 0..2000u32 {
        let multiple = if (1000..1400).contains(&number) { 4.0 } else { 1.0 };
        // Uneven, as real ones are.
        let noise = 0.7 + 0.6 * f64::from(number * 37 % 101) / 100.0;
        let version = if number < 1000 { "41" } else { "42" };
        let sequence = SequenceSummary {
            policy_version: Some(version.into()),
            ..summary(100, 0.01 * multiple * noise, Some(0.01))
        };
        updates.extend(monitor.observe(number * SECOND, &key, &[sequence]));
    }
    assert_eq!(updates.len(), 2, "{updates:?}");
    let view = monitor.view(2000 * SECOND, "a").remove(0);
    let [record] = <[_; 1]>::try_from(view.events).unwrap();
    let event = &record.event;
    assert_eq!(
        (event.direction, event.unit, event.at_version_change),
        (DriftDirection::Up, DriftUnit::NoiseFloors, true)
    );
    assert_eq!(event.policy_version.as_deref(), Some("42"));
    assert!(event.size > 3.0 && event.size < 5.0, "{}", event.size);
    assert!(record.ended_at.is_some_and(|at| at > 1400 * SECOND && at < 1450 * SECOND), "{:?}", record.ended_at);
    assert!(view.drift.unwrap().alarm.is_none());
}

#[test]
fn other_mixes_streams_and_watches_none() {
    let mut monitor = monitor(0);
    let key = monitor.resolve(SECOND, "a", "vllm");
    (0..3000u32).for_each(|number| {
        let mae = if number < 1000 { 0.01 } else { 1.0 };
        assert!(monitor.observe(number * SECOND, &key, &[summary(100, mae, None)]).is_empty());
    });
    assert_eq!(monitor.gauges(SECOND)[0].drift_score, None);
    assert_eq!(monitor.view(SECOND, "other")[0].drift, None);
}

#[test]
fn what_is_kept_of_a_group_is_bounded() {
    let mut monitor = monitor(1);
    let key = monitor.resolve(SECOND, "a", "vllm");
    for number in 0..30_000u32 {
        // Up and down every 300 sequences, a version and a worker each: as many events as there can be.
        let mae = if number / 300 % 2 == 0 { 0.01 } else { 0.1 };
        let sequence = SequenceSummary {
            policy_version: Some((number / 20).to_string()),
            worker: Some((number % 500).to_string()),
            ..summary(100, mae, None)
        };
        monitor.observe(number * SECOND, &key, &[sequence]);
    }
    let view = monitor.view(30_000 * SECOND, "a").remove(0);
    assert_eq!((view.events.len(), view.versions.len(), view.workers.len()), (32, 64, 64));
    assert!(view.timeline.len() <= 120);
    let kept = |points: &[NamedPoint], rest: PointSums| {
        points.iter().map(|point| point.sums.sequences).sum::<u64>() + rest.sequences
    };
    assert_eq!(kept(&view.versions, view.earlier_versions), 30_000);
    assert_eq!(kept(&view.workers, view.other_workers), 30_000);
}

#[test]
fn drift_settings_without_meaning_are_refused() {
    let drift = DriftConfig { tolerance: 0.5, ..DriftConfig::default() };
    let config = MonitorConfig { window: SECOND, slices: 1, max_groups: 1, idle_expiry: SECOND, drift };
    assert_eq!(Monitor::new(config).unwrap_err().key, "tolerance");
}

proptest! {
    /// Any senders, any times: the number of groups is bounded, no token is lost, and a group keeps its name.
    #[test]
    fn groups_are_bounded_and_lose_nothing(
        calls in prop::collection::vec((0u8..12, 0u8..3, 0u32..50), 0..100),
        max_groups in 0usize..6,
    ) {
        let mut monitor = monitor(max_groups);
        for (run, engine, seconds) in &calls {
            let now = *seconds * SECOND;
            let known: Vec<_> = monitor.gauges(now).into_iter().map(|group| group.key).collect();
            let wanted = key(&format!("run-{run}"), &format!("engine-{engine}"));
            let resolved = monitor.resolve(now, &wanted.run, &wanted.engine);
            if known.contains(&wanted) || known.len() <= max_groups {
                prop_assert_eq!(&resolved, &wanted);
            } else {
                prop_assert_eq!(&resolved, &GroupKey::other());
            }
            monitor.observe(now, &resolved, &tokens(1));
        }
        let counts = counts(&monitor, 50 * SECOND);
        prop_assert!(counts.len() <= max_groups + 1);
        prop_assert_eq!(counts.iter().map(|(_, tokens)| tokens).sum::<u64>(), calls.len() as u64);
    }
}
