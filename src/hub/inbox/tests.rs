use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;

use super::super::tests::webhook;
use super::*;
use crate::model::DeviceName;
use crate::model::gate::{Limits, Verdict};
use crate::model::webhook::tests::delivery;

fn inbox(every: Duration, stop_after: u32, concurrency: usize) -> Inbox {
    let mut webhook = webhook("hook", &["d0", "d1", "d2"], &["V0", "V1"]);
    webhook.limits = Limits {
        every,
        stop_after,
        probe: Some(Duration::from_millis(40)),
    };
    webhook.concurrency = concurrency;
    Inbox::new(Arc::new(webhook))
}

fn end(outcome: Outcome, verdict: Verdict) -> End {
    End {
        outcome,
        verdict,
        status: None,
    }
}

fn go(inbox: &Inbox, now: Instant) -> (Delivery, Ticket) {
    inbox.take(now).expect("a delivery that may go")
}

#[test]
fn the_newest_value_waits_for_its_time_and_the_older_is_superseded() {
    let now = Instant::now();
    let inbox = inbox(Duration::from_secs(1), 10, 4);
    inbox.push(delivery("d0", "V0", "10"), now);
    let (first, ticket) = go(&inbox, now);

    inbox.push(delivery("d0", "V0", "11"), now);
    let ended = inbox.push(delivery("d0", "V0", "12"), now);
    inbox.finish(&first, ticket, &end(Outcome::Ok, Verdict::Success), now);

    assert_eq!(
        ended.map(|(d, outcome)| (d.write.value, outcome)),
        Some(("11".into(), Outcome::Superseded))
    );
    assert!(inbox.take(now).is_none());
    assert_eq!(inbox.ready_at(now), Some(now + Duration::from_secs(1)));
    assert_eq!(
        go(&inbox, now + Duration::from_secs(1)).0.write.value,
        "12".into()
    );
}

#[test]
fn no_more_than_concurrency_are_in_flight() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 10, 2);
    for device in ["d0", "d1", "d2"] {
        inbox.push(delivery(device, "V0", "1"), now);
    }

    let (first, ticket) = go(&inbox, now);
    go(&inbox, now);
    assert!(inbox.take(now).is_none());
    assert_eq!(inbox.ready_at(now), None);
    inbox.finish(&first, ticket, &end(Outcome::Ok, Verdict::Success), now);

    assert_eq!(go(&inbox, now).0.write.device.as_str(), "d2");
}

#[test]
fn a_stop_ends_what_waits_and_what_comes() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 1, 1);
    inbox.push(delivery("d0", "V0", "1"), now);
    let (first, ticket) = go(&inbox, now);
    inbox.push(delivery("d1", "V0", "2"), now);

    let after = inbox.finish(&first, ticket, &end(Outcome::Failed, Verdict::Failure), now);

    assert_eq!(after.transition, Some(Transition::Stopped { again: false }));
    assert_eq!(after.ended.len(), 1);
    let refused = inbox.push(delivery("d2", "V0", "3"), now);
    assert!(matches!(refused, Some((_, Outcome::Stopped))));
    assert!(inbox.resume());
    assert!(inbox.push(delivery("d2", "V0", "4"), now).is_none());
}

#[test]
fn a_closed_inbox_ends_everything_as_shutdown() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 1, 1);
    inbox.push(delivery("d0", "V0", "1"), now);

    assert_eq!(inbox.close().len(), 1);

    let late = inbox.push(delivery("d0", "V0", "2"), now);
    assert!(matches!(late, Some((_, Outcome::Shutdown))));
    assert_eq!(inbox.counts().outcomes.get(Outcome::Shutdown), 2);
}

/// What a sequence does to an inbox.
#[derive(Debug, Clone)]
enum Step {
    Write { device: usize, pin: usize },
    Take,
    Finish { which: usize, verdict: Verdict },
    Resume,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        2 => Just(Verdict::Success),
        2 => Just(Verdict::Failure),
        1 => Just(Verdict::Unknown),
    ];
    prop_oneof![
        4 => (0usize..3, 0usize..2).prop_map(|(device, pin)| Step::Write { device, pin }),
        4 => Just(Step::Take),
        3 => (0usize..4, verdict).prop_map(|(which, verdict)| Step::Finish { which, verdict }),
        1 => Just(Step::Resume),
        3 => (1u64..30).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens: the numbers add up, the rate holds, no device has two
    /// in flight, and what is sent of a pin is the newest that was let in.
    #[test]
    fn any_sequence_keeps_the_rules(
        every in 0u64..20,
        stop_after in 0u32..4,
        concurrency in 1usize..4,
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let every = Duration::from_millis(every);
        let inbox = inbox(every, stop_after, concurrency);
        let mut now = Instant::now();
        let mut flying: Vec<(Delivery, Ticket)> = Vec::new();
        let mut last: HashMap<DeviceName, Instant> = HashMap::new();
        let mut newest: HashMap<(DeviceName, String), usize> = HashMap::new();
        let mut ended = 0u64;
        let key = |d: &Delivery| (d.write.device.clone(), d.write.pin.to_string());
        let number = |d: &Delivery| -> usize { d.write.value.commas().parse().unwrap() };

        let all = steps.into_iter().map(Some).chain(std::iter::repeat_n(None, 200));
        for (index, step) in all.enumerate() {
            // After the steps: let time pass and finish everything.
            let step = step.unwrap_or(match index % 3 {
                0 => Step::Take,
                1 => Step::Finish { which: 0, verdict: Verdict::Success },
                _ => Step::Pass(25),
            });
            match step {
                Step::Write { device, pin } => {
                    let write = delivery(&format!("d{device}"), &format!("V{pin}"), &index.to_string());
                    let place = key(&write);
                    match inbox.push(write, now) {
                        Some((late, Outcome::Stopped)) => {
                            prop_assert_eq!(number(&late), index);
                            ended += 1;
                        }
                        Some((older, Outcome::Superseded)) => {
                            prop_assert_eq!(newest.insert(place, index), Some(number(&older)));
                            ended += 1;
                        }
                        None => prop_assert_eq!(newest.insert(place, index), None),
                        Some((_, other)) => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Take => {
                    let ready = inbox.ready_at(now);
                    match inbox.take(now) {
                        Some((delivery, ticket)) => {
                            prop_assert_eq!(ready, Some(now));
                            let device = delivery.write.device.clone();
                            if let Some(before) = last.insert(device.clone(), now) {
                                prop_assert!(now - before >= every);
                            }
                            prop_assert!(flying.iter().all(|(d, _)| d.write.device != device));
                            let sent = number(&delivery);
                            prop_assert_eq!(newest.remove(&key(&delivery)), Some(sent));
                            flying.push((delivery, ticket));
                        }
                        None => prop_assert!(inbox.ready_at(now).is_none_or(|at| at > now)),
                    }
                }
                Step::Finish { which, verdict } => if !flying.is_empty() {
                    let (delivery, ticket) = flying.remove(which % flying.len());
                    let outcome = match verdict {
                        Verdict::Success => Outcome::Ok,
                        Verdict::Failure => Outcome::Failed,
                        Verdict::Unknown => Outcome::RenderError,
                    };
                    let after = inbox.finish(&delivery, ticket, &end(outcome, verdict), now);
                    ended += 1 + after.ended.len() as u64;
                    for waited in &after.ended {
                        newest.remove(&key(waited));
                    }
                },
                Step::Resume => {
                    inbox.resume();
                }
                Step::Pass(ms) => now += Duration::from_millis(ms),
            }
            let counts = inbox.counts();
            prop_assert!(counts.in_flight <= concurrency);
            prop_assert_eq!(counts.in_flight, flying.len());
            prop_assert_eq!(counts.waiting, newest.len());
            prop_assert_eq!(counts.outcomes.sum(), ended);
            prop_assert_eq!(counts.triggered, ended + (counts.waiting + counts.in_flight) as u64);
        }
        let waiting: HashSet<_> = newest.into_keys().collect();
        prop_assert!(waiting.is_empty(), "waits for ever: {waiting:?}");
    }
}
