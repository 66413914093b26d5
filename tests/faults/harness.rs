//! The measurement: planted causes named first, healthy runs left alone.

use std::collections::BTreeSet;

use crate::cases::{Outcome, outcomes};
use crate::matrix::{matrix, mistakes};
use crate::plants::{self, Plant};

/// Least share of cases whose planted cause is named first.
const RIGHT: f64 = 0.95;
/// The same with a single case of each cause: the weak plants (below three floors) weigh more there, and 37 of 40 were right
/// when this was written. It guards against losing more.
const RIGHT_OF_ONE_EACH: f64 = 0.9;
/// Largest share of healthy runs in which anything is named.
const FALSE_ALARMS: f64 = 0.005;

fn judge(planted: &[Outcome], healthy: &[Outcome], least_right: f64) {
    let all: Vec<Outcome> = planted.iter().chain(healthy).cloned().collect();
    println!("{}\n{}", matrix(&all), mistakes(&all));
    let share = |outcomes: &[Outcome], wanted: fn(&Outcome) -> bool| {
        outcomes.iter().filter(|outcome| wanted(outcome)).count() as f64 / outcomes.len() as f64
    };
    let right = share(planted, Outcome::is_right);
    let alarms = share(healthy, |outcome| !outcome.is_right());
    println!(
        "{:.2} % of {} planted cases right, {:.2} % of {} healthy runs with an alarm",
        100.0 * right,
        planted.len(),
        100.0 * alarms,
        healthy.len()
    );
    let causes: BTreeSet<&str> = planted.iter().filter_map(|outcome| outcome.expected.first().copied()).collect();
    assert!(causes.len() >= 20, "only {} causes are planted", causes.len());
    assert!(right >= least_right, "{right} of the planted cases are named right:\n{}", mistakes(&all));
    assert!(alarms <= FALSE_ALARMS, "{alarms} of the healthy runs have a cause:\n{}", mistakes(&all));
}

/// The plants to try: all, or those whose name or cause contains the variable `FAULTS`.
fn chosen(plants: Vec<Plant>) -> Vec<Plant> {
    let Ok(part) = std::env::var("FAULTS") else { return plants };
    plants
        .into_iter()
        .filter(|plant| plant.name.contains(&part) || plant.expected.iter().any(|cause| cause.contains(&part)))
        .collect()
}

/// The seeds to try: `SEEDS=4..7`, or the first two.
fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("SEEDS") else { return 0..2 };
    let (from, to) = range.split_once("..").expect("SEEDS is a range such as 4..7");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
#[ignore = "for work on the diagnosis: only the plants that FAULTS names, asserts no share"]
fn some_plants() {
    let found = outcomes(&chosen([plants::all(), plants::healthy()].into_iter().flatten().collect()), seeds());
    assert!(!found.is_empty(), "FAULTS names no plant");
    println!("{}", matrix(&found));
}

#[test]
fn one_plant_of_each_cause_is_named_and_healthy_runs_are_left_alone() {
    judge(&outcomes(&plants::one_of_each(), 0..1), &outcomes(&plants::healthy(), 100..101), RIGHT_OF_ONE_EACH);
}

#[test]
#[ignore = "takes long: every plant with five seeds, five hundred healthy runs"]
fn planted_causes_are_named_and_healthy_runs_are_left_alone() {
    judge(&outcomes(&plants::all(), 10..15), &outcomes(&plants::healthy(), 1000..1036), RIGHT);
}
