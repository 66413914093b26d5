//! Beginnings and ends, whatever comes: the parts that need no clock and no network, together.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::alert::{Alert, AlertName, Labels, Moment, fingerprint};
use super::book::Book;
use super::episodes::{Episodes, RESOLUTION, Rules};
use super::outbox::{Next, Outbox};
use super::receiver::{Receiver, receivers};
use super::relay::{Batch, Relay};
use super::signals::{Look, Sign, Signal, Trouble};

const GATE: u64 = 100;

fn rules(hold: u64, keep: u64) -> Rules {
    Rules { hold: Duration::from_secs(hold), keep: Duration::from_secs(keep), min_tokens: GATE }
}

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1000)
}

fn labels(engine: &str) -> Labels {
    [("engine".to_owned(), engine.to_owned())].into()
}

fn bad(tokens: u64) -> Sign {
    Sign::Bad(Trouble { tokens: Some(tokens), ..Trouble::default() })
}

fn good() -> Sign {
    Sign::Good("it is well".into())
}

fn signal(engine: &str, sign: Sign) -> Signal {
    Signal::new(AlertName::DivergenceHigh, &labels(engine), sign)
}

fn one(sign: Sign) -> Look {
    Look { signals: vec![signal("a", sign)], whole: true }
}

fn statuses(changes: &[Alert]) -> Vec<&'static str> {
    changes.iter().map(Alert::status).collect()
}

#[test]
fn an_alert_begins_when_it_has_lasted_and_ends_when_it_is_over_for_long() {
    let (mut episodes, rules) = (Episodes::default(), rules(10, 20));
    let mut look = |seconds, sign| statuses(&episodes.observe(at(seconds), &one(sign), &rules));
    assert!(look(0, bad(GATE)).is_empty() && look(9, bad(GATE)).is_empty());
    assert_eq!(look(10, bad(GATE)), ["firing"]);
    assert!(look(11, bad(GATE)).is_empty(), "once");
    assert!(look(12, good()).is_empty() && look(31, good()).is_empty());
    assert!(look(32, bad(GATE)).is_empty(), "it was not over for long enough, and it does not begin anew");
    assert!(look(33, good()).is_empty());
    assert_eq!(look(53, good()), ["resolved"]);
    assert!(look(54, good()).is_empty(), "once");
}

#[test]
fn what_is_well_in_between_has_not_lasted() {
    let (mut episodes, rules) = (Episodes::default(), rules(10, 0));
    let mut look = |seconds, sign| statuses(&episodes.observe(at(seconds), &one(sign), &rules));
    for seconds in (0..100).step_by(10) {
        assert!(look(seconds, bad(GATE)).is_empty());
        assert!(look(seconds + 9, [good(), Sign::Unknown][(seconds as usize / 10) % 2].clone()).is_empty());
    }
}

#[test]
fn few_tokens_begin_nothing_and_silence_ends_nothing() {
    let (mut episodes, rules) = (Episodes::default(), rules(0, 0));
    let mut look = |seconds, sign| statuses(&episodes.observe(at(seconds), &one(sign), &rules));
    assert!(look(0, bad(GATE - 1)).is_empty());
    assert_eq!(look(1, bad(GATE)), ["firing"]);
    assert!(look(2, Sign::Unknown).is_empty() && look(3, bad(1)).is_empty());
    assert_eq!(look(4, good()), ["resolved"]);
}

#[test]
fn what_is_not_watched_any_more_is_over_only_after_a_whole_look() {
    let (mut episodes, rules) = (Episodes::default(), rules(0, 1000));
    assert_eq!(episodes.observe(at(0), &one(bad(GATE)), &rules).len(), 1);
    let loading = Look { signals: Vec::new(), whole: false };
    assert!(episodes.observe(at(1), &loading, &rules).is_empty());
    let gone = episodes.observe(at(2), &Look { whole: true, ..loading }, &rules);
    assert_eq!((statuses(&gone), gone[0].ends_at), (vec!["resolved"], Some(at(2))));
    assert!(gone[0].annotations[RESOLUTION].contains("not watched any more"));
}

#[test]
fn what_is_certain_fires_at_once_and_what_is_said_is_of_the_last_look() {
    let (mut episodes, rules) = (Episodes::default(), rules(60, 0));
    let certain = |text: &str| {
        let annotations = [("summary".to_owned(), text.to_owned())].into();
        one(Sign::Bad(Trouble { certain: true, annotations, ..Trouble::default() }))
    };
    assert_eq!(episodes.observe(at(0), &certain("one"), &rules).len(), 1);
    assert!(episodes.observe(at(1), &certain("two"), &rules).is_empty());
    let firing: Vec<_> = episodes.firing().map(|alert| alert.annotations["summary"].clone()).collect();
    assert_eq!(firing, ["two"]);
    let ended = episodes.resolve_all(at(2), "the service ends");
    assert_eq!(ended[0].annotations[RESOLUTION], "the service ends");
    assert_eq!(episodes.recent().count(), 1);
}

fn alert(engine: &str, starts: u64, ends: Option<u64>) -> Alert {
    Alert {
        labels: labels(engine),
        annotations: Labels::new(),
        generator_url: String::new(),
        starts_at: at(starts),
        ends_at: ends.map(at),
    }
}

fn take(outbox: &mut Outbox, now: Moment) -> String {
    let Next::Send(next) = outbox.next(now) else { panic!("{outbox:?}") };
    outbox.delivered(now, &next.id);
    format!("{} {}", next.alert.labels["engine"], next.alert.status())
}

#[test]
fn what_there_is_no_room_for_is_left_out_as_a_whole_or_told_later() {
    let mut outbox = Outbox::default();
    let dropped: Vec<_> = ["a", "b", "c"].map(|engine| outbox.change(&alert(engine, 1, None), 1)).into();
    assert_eq!((dropped, outbox.waiting()), (vec![0, 0, 0], 1));
    assert_eq!(outbox.change(&alert("b", 1, Some(2)), 1), 2, "b began and ended unseen");
    assert_eq!(outbox.change(&alert("a", 1, Some(3)), 1), 0, "the end of what is told always has room");
    assert_eq!((take(&mut outbox, at(4)), take(&mut outbox, at(4))), ("a firing".into(), "a resolved".into()));
    let firing = [alert("c", 1, None)];
    outbox.refresh(at(5), firing.iter(), Duration::from_secs(100), 1);
    assert_eq!(take(&mut outbox, at(6)), "c firing");
    outbox.refresh(at(7), firing.iter(), Duration::from_secs(100), 1);
    assert_eq!(outbox.next(at(7)), Next::Nothing);
    outbox.refresh(at(106), firing.iter(), Duration::from_secs(100), 1);
    assert_eq!(take(&mut outbox, at(106)), "c firing", "after the repeat interval");
}

#[test]
fn a_failed_try_waits_and_a_refused_beginning_has_no_end() {
    let mut outbox = Outbox::default();
    outbox.change(&alert("a", 1, None), 9);
    outbox.change(&alert("a", 1, Some(2)), 9);
    outbox.change(&alert("b", 1, None), 9);
    let Next::Send(first) = outbox.next(at(3)) else { panic!("{outbox:?}") };
    outbox.failed(&first.id, at(10));
    assert_eq!((outbox.next(at(3)), outbox.failures()), (Next::Wait(at(10)), 1));
    let Next::Send(again) = outbox.next(at(10)) else { panic!("{outbox:?}") };
    assert_eq!(again, first, "the same id at every try");
    assert_eq!(outbox.refused(at(10), &first.id), 2);
    assert_eq!(take(&mut outbox, at(10)), "b firing");
    assert_eq!(outbox.change(&alert("b", 1, Some(11)), 9), 0);
    assert_eq!(take(&mut outbox, at(12)), "b resolved");
    assert_eq!(outbox, Outbox::default(), "nothing is remembered of what is over");
}

#[test]
fn an_alertmanager_is_shown_what_fires_before_it_forgets_it() {
    let (mut relay, interval) = (Relay::default(), Duration::from_secs(60));
    let firing = [alert("a", 0, None)];
    let shown = |relay: &mut Relay, seconds, alerts: &[Alert]| match relay.next(at(seconds), alerts.iter(), interval) {
        Batch::Send(batch) => {
            relay.delivered(at(seconds), &batch);
            batch.into_iter().map(|(alert, end)| (alert.status(), end.0 / 1000)).collect()
        }
        Batch::Wait(_) => Vec::new(),
    };
    assert_eq!(shown(&mut relay, 0, &firing), [("firing", 240)]);
    assert!(shown(&mut relay, 59, &firing).is_empty());
    assert_eq!(shown(&mut relay, 60, &firing), [("firing", 300)]);
    let resolved = [alert("a", 0, Some(70))];
    assert_eq!(relay.waiting(at(71), resolved.iter()), 1);
    assert_eq!(shown(&mut relay, 71, &resolved), [("resolved", 70)]);
    assert_eq!((relay.waiting(at(71), resolved.iter()), shown(&mut relay, 72, &resolved).len()), (0, 0));
    assert_eq!(shown(&mut relay, 131, &resolved), [("resolved", 70)], "it may have restarted");
    // The next episode takes the place of the one before.
    let both = [alert("a", 140, None), alert("a", 0, Some(70))];
    assert_eq!(shown(&mut relay, 140, &both), [("firing", 380)]);
    assert!(shown(&mut relay, 2000, &resolved).is_empty(), "long over");
    assert_eq!(relay, Relay::default(), "and forgotten");
    relay.failed(at(2020));
    assert_eq!(relay.next(at(2010), firing.iter(), interval), Batch::Wait(at(2020)));
    assert!(matches!(relay.next(at(2020), firing.iter(), interval), Batch::Send(_)));
}

#[derive(Clone, Debug)]
enum Step {
    Look { a: Option<Sign>, b: Option<Sign>, whole: bool },
    Deliver,
    Fail,
    Refuse,
    Restart,
}

fn sign() -> impl Strategy<Value = Option<Sign>> {
    prop_oneof![
        4 => Just(Some(bad(GATE))),
        1 => Just(Some(bad(GATE - 1))),
        4 => Just(Some(good())),
        1 => Just(Some(Sign::Unknown)),
        1 => Just(None),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (sign(), sign(), prop::bool::weighted(0.8)).prop_map(|(a, b, whole)| Step::Look { a, b, whole }),
        4 => Just(Step::Deliver),
        1 => Just(Step::Fail),
        1 => Just(Step::Refuse),
        1 => Just(Step::Restart),
    ]
}

/// A webhook and what it was told.
struct World {
    book: Book,
    receivers: Vec<Receiver>,
    now: u64,
    rules: Rules,
    room: usize,
    repeat: u64,
    /// By fingerprint: status and time of what began and ended.
    changes: BTreeMap<String, Vec<Alert>>,
    /// By episode: status and time of what the webhook took.
    told: BTreeMap<String, Vec<(&'static str, u64)>>,
    refused: Vec<String>,
    /// Episodes that began, in all, and notifications that were left out.
    began: u64,
    dropped: u64,
}

impl World {
    fn new(rules: Rules, room: usize, repeat: u64) -> Self {
        let receivers = receivers(&[], &["w=http://h".into()]).unwrap();
        Self {
            book: Book::new(&receivers),
            receivers,
            now: 0,
            rules,
            room,
            repeat,
            changes: BTreeMap::new(),
            told: BTreeMap::new(),
            refused: Vec::new(),
            began: 0,
            dropped: 0,
        }
    }

    fn look(&mut self, look: &Look) -> Result<(), TestCaseError> {
        let now = at(self.now);
        let (changes, dropped) = self.book.look(now, look, &self.rules, self.room);
        self.dropped += dropped.values().sum::<u64>();
        for change in changes {
            if change.ends_at.is_none() {
                self.began += 1;
                let own = look.signals.iter().find(|own| own.fingerprint() == change.fingerprint()).unwrap();
                prop_assert!(
                    matches!(&own.sign, Sign::Bad(trouble) if trouble.tokens >= Some(GATE)),
                    "below the gate nothing begins"
                );
            }
            self.changes.entry(change.fingerprint()).or_default().push(change);
        }
        self.book.refresh(now, Duration::from_secs(self.repeat), self.room);
        let waiting = self.book.waiting(now, &self.receivers[0]);
        prop_assert!(waiting <= 2 * self.room + 2, "{} wait", waiting);
        Ok(())
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.book.outboxes.get_mut("w").unwrap()
    }

    fn deliver(&mut self, how: &Step) {
        let (now, seconds) = (at(self.now), self.now);
        let Next::Send(next) = self.outbox().next(now) else { return };
        match how {
            Step::Fail => self.outbox().failed(&next.id, at(seconds + 3)),
            Step::Refuse => {
                self.dropped += self.outbox().refused(now, &next.id);
                self.refused.push(next.alert.episode());
            }
            _ => {
                self.outbox().delivered(now, &next.id);
                self.told.entry(next.alert.episode()).or_default().push((next.alert.status(), seconds));
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.now += 1;
        match step {
            Step::Look { a, b, whole } => {
                let signals = [("a", a), ("b", b)];
                let seen = signals.into_iter().filter_map(|(name, sign)| Some(signal(name, sign.clone()?)));
                self.look(&Look { signals: seen.collect(), whole: *whole })?;
            }
            Step::Restart => {
                let document = self.book.document().unwrap();
                self.book = Book::new(&self.receivers);
                prop_assert_eq!(self.book.restore(&document).unwrap(), []);
            }
            other => self.deliver(other),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for changes in self.changes.values() {
            for (index, change) in changes.iter().enumerate() {
                prop_assert_eq!(change.status(), ["firing", "resolved"][index % 2], "they take turns");
                prop_assert!(change.ends_at.is_none_or(|end| end >= change.starts_at));
            }
            prop_assert!(
                changes.windows(2).all(|pair| pair[1].status() == "firing" || pair[1].starts_at == pair[0].starts_at)
            );
        }
        for (episode, told) in &self.told {
            prop_assert_eq!(told[0].0, "firing", "no end without its beginning");
            let ends = told.iter().filter(|(status, _)| *status == "resolved").count();
            prop_assert!(ends <= 1 && (ends == 0 || told.last().unwrap().0 == "resolved"), "{:?}", told);
            let beginnings: Vec<_> = told.iter().filter(|(status, _)| *status == "firing").collect();
            if self.refused.contains(episode) {
                continue;
            }
            // Repetitions are queued no earlier than that; what was waiting in the queue may arrive sooner after the one before.
            let most = 1 + (told.last().unwrap().1 - told[0].1) / self.repeat;
            prop_assert!(beginnings.len() as u64 <= most, "{:?}", told);
        }
        Ok(())
    }
}

proptest! {
    /// However what is watched comes and goes, whatever the receiver does and however often the service restarts.
    #[test]
    fn every_beginning_is_told_once_and_has_its_end(
        steps in prop::collection::vec(step(), 1..250),
        (hold, keep) in (0u64..4, 0u64..4),
        room in 1usize..4,
    ) {
        let mut world = World::new(rules(hold, keep), room, 40);
        for step in &steps {
            world.step(step)?;
        }
        world.check()?;
        // Everything becomes well, and the receiver takes what waits.
        for _ in 0..(2 * room as u64 + 20) {
            world.step(&Step::Look { a: Some(good()), b: Some(good()), whole: true })?;
            world.step(&Step::Deliver)?;
        }
        world.check()?;
        prop_assert!(world.changes.values().all(|changes| changes.len() % 2 == 0), "everything that began is over");
        prop_assert_eq!(world.book.outboxes.get("w"), Some(&Outbox::default()), "and nothing waits");
        let complete = world.told.iter().filter(|(episode, _)| !world.refused.contains(episode));
        for (_, told) in complete {
            prop_assert_eq!(told.last().unwrap().0, "resolved", "its end was told");
        }
        if !steps.iter().any(|step| matches!(step, Step::Refuse)) {
            let told = world.told.values().flatten().filter(|(status, _)| *status == "resolved").count() as u64;
            prop_assert_eq!(2 * (world.began - told), world.dropped, "what is not told is counted");
        }
    }
}

#[test]
fn a_document_of_another_form_is_not_taken_over() {
    let receivers = receivers(&[], &["w=http://h".into()]).unwrap();
    let mut book = Book::new(&receivers);
    let mut text = String::from_utf8(book.document().unwrap()).unwrap();
    assert_eq!(book.restore(text.as_bytes()), Ok(Vec::new()));
    text = text.replace("\"form\":1", "\"form\":2").replace("\"w\"", "\"gone\"");
    assert!(book.restore(text.as_bytes()).unwrap_err().contains("form 2"));
    assert_eq!(book.restore(text.replace("\"form\":2", "\"form\":1").as_bytes()), Ok(vec![("gone".to_owned(), 0)]));
    assert!(book.restore(b"{").is_err());
    assert_eq!(fingerprint(&labels("a")).len(), 16);
}
