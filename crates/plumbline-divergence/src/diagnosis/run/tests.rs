//! What sequences of a run say together.

use super::*;

fn sequence(worker: &'static str, mae: f64, cached: Option<usize>) -> RunSequence<'static> {
    RunSequence {
        worker: Some(worker),
        policy_version: Some("v"),
        cached_tokens: cached,
        tokens: 50,
        mae,
        floor_mae: 0.01,
    }
}

#[test]
fn one_worker_that_differs_is_named() {
    let mut run = RunDiagnosis::default();
    for index in 0..40 {
        let worker = ["a", "b", "c", "d"][index % 4];
        run.observe(&sequence(worker, if worker == "c" { 0.05 } else { 0.011 }, None));
    }
    let findings = run.findings();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].cause, Cause::WorkerSpecific);
    assert!(findings[0].evidence.contains("worker c"), "{}", findings[0].evidence);
}

#[test]
fn what_all_workers_share_is_no_workers_own() {
    let mut run = RunDiagnosis::default();
    for index in 0..40 {
        run.observe(&sequence(["a", "b", "c", "d"][index % 4], 0.05, None));
    }
    assert_eq!(run.findings(), []);
    let mut healthy = RunDiagnosis::default();
    (0..40).for_each(|index| healthy.observe(&sequence(["a", "b"][index % 2], 0.01, Some(index % 2))));
    assert_eq!(healthy.findings(), []);
}

#[test]
fn cached_prompts_that_differ_are_named() {
    let mut run = RunDiagnosis::default();
    for index in 0..30 {
        run.observe(&sequence(
            "a",
            if index % 3 == 0 { 0.08 } else { 0.01 },
            Some(if index % 3 == 0 { 64 } else { 0 }),
        ));
    }
    assert_eq!(run.findings()[0].cause, Cause::StalePrefixCache);
}

#[test]
fn votes_rank_causes_and_rare_ones_are_left_out() {
    let finding =
        |cause| Finding { cause, explained: Some(0.9), residual_floor_multiple: Some(1.1), evidence: "because".into() };
    let mut run = RunDiagnosis::default();
    for index in 0..40 {
        let cause = match index {
            0 => Cause::RopeMismatch,
            1..9 => Cause::TemperatureApplied,
            _ => Cause::StaleWeights,
        };
        run.vote(&[finding(cause)]);
    }
    run.vote(&[]);
    let causes: Vec<Cause> = run.findings().iter().map(|finding| finding.cause).collect();
    assert_eq!(causes, [Cause::StaleWeights, Cause::TemperatureApplied]);
    assert_eq!(run.findings()[0].explained.map(|value| (value * 10.0).round()), Some(9.0));
}

/// Two halves, put together, say what the whole says.
#[test]
fn parts_of_a_run_can_be_merged() {
    let finding = |explained| Finding {
        cause: Cause::StaleWeights,
        explained: Some(explained),
        residual_floor_multiple: Some(1.0),
        evidence: format!("explains {explained}"),
    };
    let (mut whole, mut halves) = (RunDiagnosis::default(), [RunDiagnosis::default(), RunDiagnosis::default()]);
    for index in 0..40 {
        let worker = ["a", "b", "c", "d"][index % 4];
        let one = sequence(worker, if worker == "c" { 0.05 } else { 0.011 }, Some(index % 3));
        let votes = [finding(0.5 + index as f64 / 128.0)];
        for run in [&mut whole, &mut halves[index % 2]] {
            run.observe(&one);
            run.vote(&votes);
        }
    }
    let [mut merged, second] = halves;
    merged.merge(&second);
    assert_eq!(merged.sequences(), 40);
    let causes = |run: &RunDiagnosis| -> Vec<_> {
        run.findings().into_iter().map(|found| (found.cause, found.evidence)).collect()
    };
    assert_eq!(causes(&merged), causes(&whole));
    assert_eq!(causes(&merged).len(), 2);
}

#[test]
fn the_version_that_differs_is_said() {
    let mut run = RunDiagnosis::default();
    for index in 0..40 {
        let (version, mae) = if index % 4 == 0 { ("41", 0.05) } else { ("42", 0.01) };
        run.observe(&RunSequence { policy_version: Some(version), ..sequence("a", mae, None) });
    }
    assert_eq!(run.findings(), [], "a version alone is no cause");
    run.vote(&[Finding {
        cause: Cause::Unknown,
        explained: None,
        residual_floor_multiple: None,
        evidence: "large".into(),
    }]);
    let evidence = &run.findings()[0].evidence;
    assert!(evidence.contains("only 41 differs, 5.0 times the floor against 1.0"), "{evidence}");
}

#[test]
fn labels_are_bounded() {
    let mut run = RunDiagnosis::default();
    let names: Vec<String> = (0..600).map(|index| format!("w{index}")).collect();
    for name in &names {
        run.observe(&RunSequence { worker: Some(name), ..sequence("", 0.01, None) });
    }
    assert!(run.workers.len() <= MOST_LABELS + 1);
}
