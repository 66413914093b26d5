//! Decisions, with time under control. The model takes a millisecond for each token.

use std::collections::{BTreeMap, VecDeque};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn admission() -> Admission {
    let config = SchedulerConfig {
        max_queue_tokens: 100_000,
        max_batch_tokens: 8_000,
        max_batch_sequences: 100,
        keep_versions: 1,
        max_weight_bytes: 0,
        aside_share: 0.0,
        max_aside_jobs: 1,
        interactive_stretch: 2.5,
        quarantine: Duration::ZERO,
        restart_after_panics: 0,
    };
    let mut admission = Admission::new(&config, 1);
    admission.record(1000, SECOND);
    admission
}

fn waiting(tokens: [usize; 3]) -> Waiting {
    tokens.map(|tokens| Amount { tokens, sequences: tokens })
}

fn told(refused: Result<(), SubmitError>) -> Duration {
    match refused {
        Err(SubmitError::TooSlow { retry_after, .. } | SubmitError::QueueFull { retry_after, .. }) => retry_after,
        other => panic!("{other:?}"),
    }
}

#[test]
fn interactive_work_is_bounded_by_time() {
    let (mut admission, now) = (admission(), Instant::now());
    let decide = |admission: &mut Admission, tokens, digest| {
        admission.decide(Class::Interactive, 100, digest, &waiting(tokens), now)
    };
    decide(&mut admission, [0, 0, 0], 1).unwrap();
    admission.started(0, [100, 0, 0], now);
    decide(&mut admission, [0, 0, 0], 2).unwrap();
    assert_eq!(told(decide(&mut admission, [100, 0, 0], 3)), SECOND, "0.3 s are more than 2.5 times 0.1 s");
    admission.idle(0);
    decide(&mut admission, [100, 0, 0], 4).unwrap();
    decide(&mut admission, [0, 50_000, 50_000], 5).unwrap();
}

#[test]
fn other_work_is_bounded_by_tokens_alone() {
    let (mut admission, now) = (admission(), Instant::now());
    admission.started(0, [0, 8000, 0], now);
    for class in [Class::Standard, Class::Bulk] {
        admission.decide(class, 10_000, 1, &waiting([0, 20_000, 20_000]), now).unwrap();
    }
    // 6000 too many: the next batch makes room for them, in 8 s.
    let refused = admission.decide(Class::Standard, 10_000, 2, &waiting([0, 76_000, 20_000]), now);
    assert!((8..=9).contains(&told(refused).as_secs()));
}

#[test]
fn batches_are_short_while_interactive_work_is_about() {
    let (mut admission, now) = (admission(), Instant::now());
    assert_eq!(admission.budgets(now), [usize::MAX; 3]);
    admission.decide(Class::Standard, 200, 1, &waiting([0; 3]), now).unwrap();
    assert_eq!(admission.budgets(now), [usize::MAX, usize::MAX, 250], "bulk makes way for standard work");
    admission.decide(Class::Interactive, 100, 2, &waiting([0; 3]), now).unwrap();
    assert_eq!(admission.budgets(now), [125; 3]);
    assert_eq!(admission.budgets(now + PRESENCE), [usize::MAX; 3], "nobody came since");
}

#[test]
fn who_is_refused_because_of_a_long_batch_gets_in_after_it() {
    let (mut admission, now) = (admission(), Instant::now());
    admission.started(0, [0, 0, 8000], now);
    let backlog = waiting([0, 0, 50_000]);
    let wait = told(admission.decide(Class::Interactive, 100, 1, &backlog, now));
    assert!((8..=9).contains(&wait.as_secs()), "{wait:?}");
    let then = now + wait;
    assert_eq!(admission.budgets(then), [125; 3], "batches have been short since");
    admission.started(0, [0, 0, 125], then - Duration::from_millis(60));
    admission.decide(Class::Interactive, 100, 1, &backlog, then).unwrap();
}

#[test]
fn a_returning_request_goes_before_one_that_has_not_waited() {
    let (mut admission, now) = (admission(), Instant::now());
    let full = waiting([0, 100_000, 0]);
    let wait = told(admission.decide(Class::Standard, 10_000, 1, &full, now));
    let room = waiting([0, 85_000, 0]);
    let newcomer = admission.decide(Class::Standard, 10_000, 2, &room, now + wait);
    assert!(newcomer.is_err(), "the room is kept");
    admission.decide(Class::Standard, 10_000, 1, &room, now + wait).unwrap();
    admission.decide(Class::Standard, 10_000, 3, &room, now + wait).unwrap();
}

/// What a simulated overload was like.
struct Overload {
    /// Seconds from each admission to its answer.
    latencies: Vec<f64>,
    /// Requests that came back when told to, and how many of those got in.
    returned: usize,
    returned_and_admitted: usize,
}

/// So many clients, each with one request of 100 tokens at a time: refused ones come again when told to, answered ones send
/// another. Bulk work fills what they leave.
fn overload(clients: u64, seconds: u64) -> Overload {
    let (mut admission, start) = (admission(), Instant::now());
    let at = |micros: u64| start + Duration::from_micros(micros);
    let mut overload = Overload { latencies: vec![], returned: 0, returned_and_admitted: 0 };
    // Arrivals by time: client, digest, whether it was told to come now. Spread without a pattern.
    let mut arrivals: BTreeMap<(u64, u64), (u64, bool)> =
        (0..clients).map(|client| ((client * 618_034 % 3_000_000, client), (client, false))).collect();
    let mut next_digest = clients;
    let mut queue: VecDeque<(u64, u64)> = VecDeque::new();
    let mut running: Option<(u64, Vec<(u64, u64)>)> = None;
    loop {
        let next_arrival = arrivals.keys().next().map_or(u64::MAX, |(time, _)| *time);
        let batch_end = running.as_ref().map_or(u64::MAX, |(end, _)| *end);
        let time = next_arrival.min(batch_end);
        if time > seconds * 1_000_000 {
            return overload;
        }
        if batch_end <= next_arrival {
            for (client, since) in running.take().map(|(_, batch)| batch).unwrap_or_default() {
                overload.latencies.push((time - since) as f64 / 1e6);
                next_digest += 1;
                arrivals.insert((time + 1 + next_digest * 7_919 % 20_000, client), (next_digest, false));
            }
            admission.idle(0);
        } else if let Some(((_, client), (digest, told_to))) = arrivals.pop_first() {
            overload.returned += usize::from(told_to);
            let tokens = waiting([queue.len() * 100, 0, 50_000]);
            match admission.decide(Class::Interactive, 100, digest, &tokens, at(time)) {
                Ok(()) => {
                    overload.returned_and_admitted += usize::from(told_to);
                    queue.push_back((client, time));
                }
                refused => {
                    let wait = told(refused).as_micros() as u64;
                    // The way there and back takes a while.
                    arrivals.insert((time + wait + 1000 + digest * 104_729 % 5_000, client), (digest, true));
                }
            }
        }
        if running.is_none() {
            let budget = admission.budgets(at(time))[0].min(8000);
            let own = (budget / 100).max(1).min(queue.len());
            let bulk = budget.saturating_sub(own * 100);
            admission.started(0, [own * 100, 0, bulk], at(time));
            running = Some((time + (own * 100 + bulk) as u64 * 1000, queue.drain(..own).collect()));
        }
    }
}

#[test]
fn overload_leaves_the_latency_of_the_admitted_and_keeps_its_promises() {
    for clients in [20, 100, 400] {
        let Overload { mut latencies, returned, returned_and_admitted } = overload(clients, 600);
        latencies.sort_by(f64::total_cmp);
        let p99 = latencies[latencies.len() * 99 / 100];
        assert!(p99 <= 0.3, "{clients} clients: {p99} s, alone it is 0.1 s");
        let kept = returned_and_admitted as f64 / returned as f64;
        assert!(kept >= 0.99, "{clients} clients: {returned_and_admitted} of {returned} got in when they were told to");
        let served = latencies.len() as f64 * 0.1 / 600.0;
        assert!(served >= 0.4, "{clients} clients: {served} of the time was theirs");
    }
}
