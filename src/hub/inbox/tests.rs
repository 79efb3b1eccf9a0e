use std::collections::{HashMap, HashSet};

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::super::tests::webhook;
use super::*;
use crate::model::DeviceName;
use crate::model::gate::{Limits, Per, Verdict};
use crate::model::webhook::tests::delivery;
use crate::model::webhook::{DeliveryId, Trigger, Triggers};

const MS: Duration = Duration::from_millis(1);

fn hook(every: Duration, stop_after: u32, concurrency: usize) -> Webhook {
    let mut webhook = webhook("hook", &["d0", "d1", "d2"], &["V0", "V1"]);
    webhook.limits = Limits {
        every,
        per: Per::Device,
        stop_after,
        probe: Some(40 * MS),
    };
    webhook.concurrency = concurrency;
    webhook
}

fn inbox(every: Duration, stop_after: u32, concurrency: usize) -> Inbox {
    Inbox::new(Arc::new(hook(every, stop_after, concurrency)))
}

fn ok() -> Attempt {
    Attempt::new(Outcome::Ok, Verdict::Success)
}

fn failed() -> Attempt {
    Attempt::new(Outcome::Failed, Verdict::Failure)
}

fn again(wait: Duration) -> Attempt {
    Attempt {
        retry: Some(wait),
        ..failed()
    }
}

fn go(inbox: &Inbox, now: Instant) -> (Delivery, Ticket) {
    let taken = inbox.take(now).expect("a delivery that may go");
    (taken.delivery, taken.ticket)
}

fn outcomes(after: &Aftermath) -> Vec<(&str, Outcome)> {
    let outcomes = after.ended.iter().map(|(_, outcome)| *outcome);
    let values = after
        .ended
        .iter()
        .map(|(delivery, _)| delivery.value.as_wire());
    values.zip(outcomes).collect()
}

#[test]
fn the_newest_value_waits_for_its_time_and_the_older_is_superseded() {
    let now = Instant::now();
    let inbox = inbox(Duration::from_secs(1), 10, 4);
    inbox.push(delivery("d0", "V0", "10"), now);
    let (first, ticket) = go(&inbox, now);

    inbox.push(delivery("d0", "V0", "11"), now);
    let after = inbox.push(delivery("d0", "V0", "12"), now);
    inbox.finish(first, ticket, &ok(), now);

    assert_eq!(outcomes(&after), [("11", Outcome::Superseded)]);
    assert!(inbox.take(now).is_none());
    assert_eq!(inbox.ready_at(now), Some(now + Duration::from_secs(1)));
    let (next, _) = go(&inbox, now + Duration::from_secs(1));
    assert_eq!(next.value, "12".into());
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
    inbox.finish(first, ticket, &ok(), now);

    assert_eq!(go(&inbox, now).0.device.as_str(), "d2");
}

#[test]
fn a_stop_ends_what_waits_and_what_comes() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 1, 1);
    inbox.push(delivery("d0", "V0", "1"), now);
    let (first, ticket) = go(&inbox, now);
    inbox.push(delivery("d1", "V0", "2"), now);

    let after = inbox.finish(first, ticket, &failed(), now);

    assert_eq!(after.transition, Some(Transition::Stopped { again: false }));
    assert_eq!(
        outcomes(&after),
        [("1", Outcome::Failed), ("2", Outcome::Stopped)]
    );
    let refused = inbox.push(delivery("d2", "V0", "3"), now);
    assert_eq!(outcomes(&refused), [("3", Outcome::Stopped)]);
    assert!(inbox.resume().transition.is_some());
    assert!(inbox.push(delivery("d2", "V0", "4"), now).ended.is_empty());
}

#[test]
fn a_closed_inbox_ends_everything_alike() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 1, 1);
    inbox.push(delivery("d0", "V0", "1"), now);
    let (flying, ticket) = go(&inbox, now);
    inbox.push(delivery("d0", "V0", "2"), now);

    assert_eq!(inbox.close(Outcome::Shutdown).ended.len(), 1);

    let late = inbox.push(delivery("d0", "V0", "3"), now);
    assert_eq!(outcomes(&late), [("3", Outcome::Shutdown)]);
    let after = inbox.finish(flying, ticket, &again(MS), now);
    assert_eq!(outcomes(&after), [("1", Outcome::Failed)]);
    assert_eq!(inbox.counts().outcomes.get(Outcome::Shutdown), 2);
}

#[test]
fn a_delivery_with_its_attempts_counts_once() {
    let mut now = Instant::now();
    let inbox = inbox(Duration::ZERO, 2, 1);
    inbox.push(delivery("d0", "V0", "1"), now);
    let (first, ticket) = go(&inbox, now);

    assert!(
        inbox
            .finish(first, ticket, &again(10 * MS), now)
            .ended
            .is_empty()
    );
    assert_eq!(inbox.counts().waiting, 1);
    assert!(inbox.take(now).is_none());
    assert_eq!(inbox.ready_at(now), Some(now + 10 * MS));
    now += 10 * MS;
    let (first, ticket) = go(&inbox, now);
    let after = inbox.finish(first, ticket, &failed(), now);

    assert_eq!(outcomes(&after), [("1", Outcome::Failed)]);
    assert_eq!(inbox.state().failures, 1);
}

#[test]
fn what_is_superseded_between_its_attempts_has_failed() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 2, 1);
    for (value, failures) in [("1", 0), ("2", 1)] {
        inbox.push(delivery("d0", "V0", value), now);
        assert_eq!(inbox.state().failures, failures);
        let (taken, ticket) = go(&inbox, now);
        inbox.finish(taken, ticket, &again(10 * MS), now);
    }

    let after = inbox.push(delivery("d0", "V0", "3"), now);

    assert_eq!(after.transition, Some(Transition::Stopped { again: false }));
    assert_eq!(
        outcomes(&after),
        [("2", Outcome::Superseded), ("3", Outcome::Stopped)]
    );
    assert!(after.is_news);
}

#[test]
fn what_is_in_flight_at_a_stop_is_not_tried_again() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 1, 2);
    for device in ["d0", "d1"] {
        inbox.push(delivery(device, "V0", device), now);
    }
    let (first, ticket) = go(&inbox, now);
    let (second, late) = go(&inbox, now);
    inbox.finish(first, ticket, &failed(), now);

    let after = inbox.finish(second, late, &again(MS), now);

    assert_eq!(outcomes(&after), [("d1", Outcome::Failed)]);
    assert_eq!(after.transition, None);

    // The probe is.
    let probed = now + 40 * MS;
    inbox.push(delivery("d0", "V0", "probe"), probed);
    let (probe, ticket) = go(&inbox, probed);
    assert!(
        inbox
            .finish(probe, ticket, &again(MS), probed)
            .ended
            .is_empty()
    );
    let (probe, ticket) = go(&inbox, probed + MS);
    let after = inbox.finish(probe, ticket, &ok(), probed + MS);
    assert_eq!(after.transition, Some(Transition::Resumed));
}

#[test]
fn another_attempt_makes_what_comes_after_it_too_soon() {
    let start = Instant::now();
    let mut hook = hook(100 * MS, 0, 1);
    hook.excess = Excess::Drop(5);
    let inbox = Inbox::new(Arc::new(hook));
    inbox.push(delivery("d0", "V0", "1"), start);
    let (first, ticket) = go(&inbox, start);
    inbox.finish(first, ticket, &again(150 * MS), start);
    go(&inbox, start + 150 * MS);

    let after = inbox.push(delivery("d0", "V0", "2"), start + 200 * MS);

    assert_eq!(outcomes(&after), [("2", Outcome::Limited)]);
}

#[test]
fn retry_after_holds_the_line_of_its_device_alone() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 0, 4);
    for device in ["d0", "d1"] {
        inbox.push(delivery(device, "V0", "1"), now);
    }
    let (first, ticket) = go(&inbox, now);
    let held = Attempt {
        hold: Some(600 * MS),
        ..again(MS)
    };

    inbox.finish(first, ticket, &held, now);
    inbox.push(delivery("d0", "V1", "2"), now);

    assert_eq!(go(&inbox, now).0.device.as_str(), "d1");
    assert!(inbox.take(now + 599 * MS).is_none());
    assert_eq!(go(&inbox, now + 600 * MS).0.value, "1".into());
}

#[test]
fn with_per_webhook_retry_after_and_every_hold_all() {
    let now = Instant::now();
    let mut hook = hook(10 * MS, 0, 4);
    hook.limits.per = Per::Webhook;
    let inbox = Inbox::new(Arc::new(hook));
    for device in ["d0", "d1"] {
        inbox.push(delivery(device, "V0", "1"), now);
    }

    let (first, ticket) = go(&inbox, now);
    assert!(inbox.take(now).is_none());
    assert_eq!(inbox.ready_at(now), Some(now + 10 * MS));
    let held = Attempt {
        hold: Some(600 * MS),
        ..failed()
    };
    inbox.finish(first, ticket, &held, now);

    assert_eq!(inbox.ready_at(now), Some(now + 600 * MS));
    assert!(inbox.take(now + 599 * MS).is_none());
    assert_eq!(go(&inbox, now + 600 * MS).0.device.as_str(), "d1");
}

#[test]
fn drop_drops_what_is_too_soon_and_queues_behind_a_request_in_flight() {
    let start = Instant::now();
    let mut hook = hook(Duration::from_secs(1), 0, 4);
    hook.excess = Excess::Drop(1);
    let inbox = Inbox::new(Arc::new(hook));
    let write = |ms: u32, value: &str| {
        let after = inbox.push(delivery("d0", "V0", value), start + ms * MS);
        outcomes(&after)
            .first()
            .map(|(value, outcome)| ((*value).to_owned(), *outcome))
    };
    let ended = |value: &str, outcome| Some((value.to_owned(), outcome));

    assert_eq!(write(0, "10"), None);
    // It was sent a moment after it came: the next is on time for all that.
    let (first, ticket) = go(&inbox, start + MS);
    assert_eq!(write(500, "11"), ended("11", Outcome::Limited));
    assert_eq!(write(1000, "12"), None);
    assert_eq!(write(1999, "13"), ended("13", Outcome::Limited));
    assert_eq!(write(2000, "14"), ended("12", Outcome::QueueFull));
    inbox.finish(first, ticket, &ok(), start + 2500 * MS);
    assert_eq!(go(&inbox, start + 2500 * MS).0.value, "14".into());
}

#[test]
fn a_reload_keeps_what_waits_and_the_clock() {
    let now = Instant::now();
    let inbox = inbox(10 * MS, 1, 1);
    inbox.push(delivery("d0", "V0", "1"), now);
    let (first, ticket) = go(&inbox, now);
    inbox.push(delivery("d0", "V0", "2"), now);
    inbox.push(delivery("d0", "V1", "3"), now);

    let mut new = hook(20 * MS, 1, 1);
    new.on = Triggers::Pins(vec!["V0".parse().unwrap()]);
    let after = inbox.reconfigure(Arc::new(new));

    assert_eq!(outcomes(&after), [("3", Outcome::Removed)]);
    inbox.finish(first, ticket, &ok(), now);
    assert!(inbox.take(now + 19 * MS).is_none());
    assert_eq!(go(&inbox, now + 20 * MS).0.value, "2".into());
}

/// What a sequence does to an inbox.
#[derive(Debug, Clone)]
enum Step {
    Write { device: usize, pin: usize },
    Take,
    Finish { which: usize, result: Result },
    Resume,
    Reload(Setting),
    Pass(u32),
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy)]
enum Result {
    Success,
    Failure,
    Again { wait: u32, hold: Option<u32> },
    Hold(u32),
    Unknown,
}

/// What is configured.
#[derive(Debug, Clone)]
struct Setting {
    every: u32,
    per: Per,
    excess: Excess,
    stop_after: u32,
    concurrency: usize,
    devices: usize,
    pins: usize,
}

impl Setting {
    fn webhook(&self) -> Arc<Webhook> {
        let mut webhook = hook(self.every * MS, self.stop_after, self.concurrency);
        webhook.limits.per = self.per;
        webhook.excess = self.excess;
        webhook.devices.truncate(self.devices);
        let pins = (0..self.pins).map(|pin| format!("V{pin}").parse().unwrap());
        webhook.on = Triggers::Pins(pins.collect());
        Arc::new(webhook)
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    let excess = prop_oneof![
        Just(Excess::Latest),
        (1usize..4).prop_map(Excess::Queue),
        (1usize..4).prop_map(Excess::Drop),
    ];
    let per = prop_oneof![Just(Per::Device), Just(Per::Webhook)];
    (
        0u32..20,
        per,
        excess,
        0u32..4,
        1usize..4,
        1usize..4,
        1usize..3,
    )
        .prop_map(
            |(every, per, excess, stop_after, concurrency, devices, pins)| Setting {
                every,
                per,
                excess,
                stop_after,
                concurrency,
                devices,
                pins,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let result = prop_oneof![
        3 => Just(Result::Success),
        2 => Just(Result::Failure),
        3 => (1u32..40, proptest::option::of(1u32..60))
            .prop_map(|(wait, hold)| Result::Again { wait, hold }),
        1 => (1u32..60).prop_map(Result::Hold),
        1 => Just(Result::Unknown),
    ];
    prop_oneof![
        8 => (0usize..3, 0usize..2).prop_map(|(device, pin)| Step::Write { device, pin }),
        8 => Just(Step::Take),
        6 => (0usize..4, result).prop_map(|(which, result)| Step::Finish { which, result }),
        1 => Just(Step::Resume),
        1 => setting().prop_map(Step::Reload),
        6 => (1u32..30).prop_map(Step::Pass),
    ]
}

/// What the inbox must do, as an outsider sees it.
struct World {
    inbox: Inbox,
    setting: Setting,
    now: Instant,
    /// Numbers of the deliveries that wait, and until when an attempt holds them.
    waiting: HashMap<u64, (DeviceName, Trigger, Option<Instant>)>,
    flying: Vec<(Delivery, Ticket)>,
    ended: HashSet<u64>,
    /// When the last request of each device was made, and the last of all.
    sent: HashMap<DeviceName, Instant>,
    sent_any: Option<Instant>,
    held: HashMap<DeviceName, Instant>,
    held_all: Option<Instant>,
    /// The newest number that was sent of each pin.
    newest: HashMap<(DeviceName, String), u64>,
    /// Whether a line may have been in another order than that of the writes: under
    /// `latest` a newer one takes the place of an older.
    is_mixed: bool,
    /// When something of a device was let in or repeated last.
    came: HashMap<DeviceName, Instant>,
}

impl World {
    fn new(setting: Setting) -> World {
        World {
            inbox: Inbox::new(setting.webhook()),
            setting,
            now: Instant::now(),
            waiting: HashMap::new(),
            flying: Vec::new(),
            ended: HashSet::new(),
            sent: HashMap::new(),
            sent_any: None,
            held: HashMap::new(),
            held_all: None,
            newest: HashMap::new(),
            is_mixed: false,
            came: HashMap::new(),
        }
    }

    fn step(&mut self, number: u64, step: Step) {
        let before = self.inbox.ready_at(self.now);
        let has_passed = matches!(step, Step::Pass(_));
        let _ = self.inbox.changed().now_or_never();
        match step {
            Step::Write { device, pin } => self.write(number, device, pin),
            Step::Take => self.take(),
            Step::Finish { which, result } if !self.flying.is_empty() => self.finish(which, result),
            Step::Finish { .. } => {}
            Step::Resume => drop(self.inbox.resume()),
            Step::Reload(setting) => self.reload(setting),
            Step::Pass(ms) => self.now += ms * MS,
        }
        // Who waits for the time that it was told must hear of an earlier one.
        let after = self.inbox.ready_at(self.now);
        let is_earlier = after.is_some_and(|at| before.is_none_or(|before| at < before));
        let is_rung = self.inbox.changed().now_or_never().is_some();
        assert!(is_rung || has_passed || !is_earlier, "nobody is woken");
        self.check();
    }

    fn write(&mut self, number: u64, device: usize, pin: usize) {
        // The hub sees to it that only what the webhook listens to comes here.
        if device >= self.setting.devices || pin >= self.setting.pins {
            return;
        }
        let write = Delivery {
            id: DeliveryId(number),
            ..delivery(&format!("d{device}"), &format!("V{pin}"), "")
        };
        let (device, trigger) = (write.device.clone(), write.trigger.clone());
        self.waiting.insert(number, (device.clone(), trigger, None));
        let after = self.inbox.push(write, self.now);
        for (ended, outcome) in &after.ended {
            let is_new = ended.id.0 == number;
            match outcome {
                Outcome::Limited => {
                    assert!(is_new && matches!(self.setting.excess, Excess::Drop(_)));
                    assert!(self.is_too_soon(&device), "it was not too soon");
                }
                Outcome::Stopped => assert!(self.setting.stop_after > 0),
                Outcome::Superseded => {
                    assert!(!is_new && self.setting.excess == Excess::Latest);
                }
                Outcome::QueueFull => {
                    assert!(self.setting.excess != Excess::Latest);
                    let same = |id: &&u64| self.waiting[*id].0 == device;
                    let oldest = self.waiting.keys().filter(same).min();
                    assert!(self.is_mixed || oldest == Some(&ended.id.0));
                }
                other => panic!("{other:?}"),
            }
        }
        // One that is refused is all that ends; one that ends by what it brought
        // about had come in.
        if after
            .ended
            .first()
            .is_none_or(|(ended, _)| ended.id.0 != number)
        {
            self.came.insert(device, self.now);
        }
        self.end(&after);
    }

    /// Whether less than `every` has passed since something of `device` came or
    /// went, or the third party asked for a pause.
    fn is_too_soon(&self, device: &DeviceName) -> bool {
        let every = self.setting.every * MS;
        let mut times = match self.setting.per {
            Per::Device => vec![self.came.get(device), self.sent.get(device)],
            Per::Webhook => self.came.values().map(Some).collect(),
        };
        if self.setting.per == Per::Webhook {
            times.push(self.sent_any.as_ref());
        }
        let is_recent = times.into_iter().flatten().any(|at| self.now < *at + every);
        is_recent
            || self
                .held_until(device)
                .is_some_and(|until| self.now < until)
    }

    fn held_until(&self, device: &DeviceName) -> Option<Instant> {
        self.held.get(device).copied().max(self.held_all)
    }

    fn take(&mut self) {
        let now = self.now;
        let could = self.could_go();
        let Some(Taken {
            delivery, ticket, ..
        }) = self.inbox.take(now)
        else {
            assert!(!could, "something may go and does not");
            let ready = self.inbox.ready_at(now);
            assert!(ready.is_none_or(|at| at > now));
            return;
        };
        assert!(could, "what went may not");
        let device = delivery.device.clone();
        let number = delivery.id.0;
        let (_, _, not_before) = self.waiting.remove(&number).expect("it waited");
        assert!(not_before.is_none_or(|at| now >= at), "before its time");
        let is_same = |(other, trigger, _): &(DeviceName, Trigger, _)| {
            (other, trigger) == (&device, &delivery.trigger)
        };
        let is_newest = !self.waiting.values().any(is_same);
        assert!(is_newest || self.setting.excess != Excess::Latest);
        let key = (device.clone(), delivery.trigger.to_string());
        let before = self.newest.insert(key, number);
        assert!(before.is_none_or(|before| before <= number), "out of order");
        if not_before.is_some() {
            self.came.insert(device.clone(), now);
        }
        self.sent.insert(device, now);
        self.sent_any = Some(now);
        self.flying.push((delivery, ticket));
    }

    /// Whether a device may go: the rules of product.md §5.4, said once more.
    fn could_go(&self) -> bool {
        let now = self.now;
        let every = self.setting.every * MS;
        let is_over = |at: Option<Instant>| at.is_none_or(|at| now >= at + every);
        if self.flying.len() >= self.setting.concurrency {
            return false;
        }
        if self.setting.per == Per::Webhook && !is_over(self.sent_any) {
            return false;
        }
        let may_go = |device: &DeviceName| {
            let is_flying = self
                .flying
                .iter()
                .any(|(flying, _)| flying.device == *device);
            let is_held = self.held_until(device).is_some_and(|until| now < until);
            let is_early =
                self.setting.per == Per::Device && !is_over(self.sent.get(device).copied());
            let is_waiting_to_repeat = self
                .waiting
                .values()
                .any(|(other, _, at)| other == device && at.is_some_and(|at| now < at));
            !is_flying && !is_held && !is_early && !is_waiting_to_repeat
        };
        self.waiting.values().any(|(device, _, _)| may_go(device))
    }

    fn finish(&mut self, which: usize, result: Result) {
        let (delivery, ticket) = self.flying.remove(which % self.flying.len());
        let (retry, hold) = match result {
            Result::Again { wait, hold } => (Some(wait * MS), hold.map(|hold| hold * MS)),
            Result::Hold(hold) => (None, Some(hold * MS)),
            _ => (None, None),
        };
        let (outcome, verdict) = match result {
            Result::Success => (Outcome::Ok, Verdict::Success),
            Result::Unknown => (Outcome::RenderError, Verdict::Unknown),
            _ => (Outcome::Failed, Verdict::Failure),
        };
        let attempt = Attempt {
            retry,
            hold,
            ..Attempt::new(outcome, verdict)
        };
        if let Some(hold) = hold {
            let until = Some(self.now + hold);
            match self.setting.per {
                Per::Device => {
                    let held = self.held.get(&delivery.device).copied().max(until);
                    self.held.insert(delivery.device.clone(), held.unwrap());
                }
                Per::Webhook => self.held_all = self.held_all.max(until),
            }
        }
        let (number, device) = (delivery.id.0, delivery.device.clone());
        let place = (
            device.clone(),
            delivery.trigger.clone(),
            retry.map(|wait| self.now + wait),
        );
        self.waiting.insert(number, place);
        let after = self.inbox.finish(delivery, ticket, &attempt, self.now);
        if retry.is_none() {
            assert_eq!(after.ended[0].0.id.0, number);
        }
        self.end(&after);
    }

    fn reload(&mut self, setting: Setting) {
        self.is_mixed |= self.setting.excess == Excess::Latest;
        self.setting = setting;
        let after = self.inbox.reconfigure(self.setting.webhook());
        for (ended, outcome) in &after.ended {
            let is_wanted = self.setting.webhook().listens_to(ended);
            assert_eq!(*outcome == Outcome::Removed, !is_wanted);
        }
        self.end(&after);
        // A device that is gone is forgotten.
        let known = self.setting.webhook().devices.clone();
        self.sent.retain(|device, _| known.contains(device));
        self.held.retain(|device, _| known.contains(device));
    }

    fn end(&mut self, after: &Aftermath) {
        for (ended, _) in &after.ended {
            assert!(self.waiting.remove(&ended.id.0).is_some(), "never waited");
            assert!(self.ended.insert(ended.id.0), "ended twice");
        }
    }

    /// The numbers add up, no device has two in flight, and no line is too long.
    fn check(&self) {
        let counts = self.inbox.counts();
        assert_eq!(counts.in_flight, self.flying.len());
        assert_eq!(counts.waiting, self.waiting.len());
        assert_eq!(counts.outcomes.sum(), self.ended.len() as u64);
        let sum = counts.outcomes.sum() + (counts.waiting + counts.in_flight) as u64;
        assert_eq!(counts.triggered, sum);
        let flying: HashSet<_> = self
            .flying
            .iter()
            .map(|(flying, _)| &flying.device)
            .collect();
        assert_eq!(
            flying.len(),
            self.flying.len(),
            "two in flight for a device"
        );
        let mut lines: HashMap<_, usize> = HashMap::new();
        let webhook = self.setting.webhook();
        for (device, trigger, _) in self.waiting.values() {
            let mut wanted = delivery(device.as_str(), &trigger.to_string(), "");
            wanted.trigger = trigger.clone();
            assert!(webhook.listens_to(&wanted), "waits for nothing");
            let line = match self.setting.excess {
                Excess::Latest => (device, Some(trigger.to_string())),
                _ => (device, None),
            };
            *lines.entry(line).or_default() += 1;
        }
        let most = match self.setting.excess {
            Excess::Latest => 1,
            Excess::Queue(most) | Excess::Drop(most) => most,
        };
        assert!(lines.values().all(|length| *length <= most));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, for each `excess` and `per`, also when they change: the
    /// rate and the pauses hold, no device has two requests in flight, what may
    /// go goes, every write ends in one outcome, and nothing waits for ever.
    #[test]
    fn any_sequence_keeps_the_rules(
        setting in setting(),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(setting);
        let mut number = 0;
        for step in steps {
            number += 1;
            world.step(number, step);
        }
        // Then only time passes, and everything succeeds.
        for _ in 0..60 {
            for _ in 0..4 {
                world.step(0, Step::Take);
                world.step(0, Step::Finish { which: 0, result: Result::Success });
            }
            world.step(0, Step::Pass(30));
        }
        prop_assert!(world.waiting.is_empty(), "waits for ever: {:?}", world.waiting);
        prop_assert!(world.flying.is_empty());
    }
}

/// As the worker does before a request.
fn send(delivery: &mut Delivery, now: Instant) {
    delivery.tries.made += 1;
    delivery.tries.sent = Some(now);
}

#[test]
fn waiting_is_measured_once_for_a_delivery_and_every_request_for_itself() {
    let start = Instant::now();
    let inbox = inbox(Duration::ZERO, 10, 1);
    let write = Delivery {
        at: start,
        ..delivery("d0", "V0", "1")
    };
    inbox.push(write, start);

    let (mut first, ticket) = go(&inbox, start + 2 * MS);
    send(&mut first, start + 2 * MS);
    inbox.finish(first, ticket, &again(5 * MS), start + 5 * MS);
    let (mut second, ticket) = go(&inbox, start + 10 * MS);
    send(&mut second, start + 10 * MS);
    inbox.finish(second, ticket, &ok(), start + 60 * MS);

    let counts = inbox.counts();
    assert_eq!((counts.wait.count(), counts.wait.sum()), (1, 2 * MS));
    assert_eq!((counts.request.count(), counts.request.sum()), (2, 53 * MS));
}

#[test]
fn what_was_never_sent_is_not_measured() {
    let now = Instant::now();
    let inbox = inbox(Duration::ZERO, 10, 1);
    inbox.push(delivery("d0", "V0", "1"), now);
    let (mut first, ticket) = go(&inbox, now);
    send(&mut first, now);
    inbox.finish(first, ticket, &again(Duration::ZERO), now);

    // The end of pinhook, before the retry was on its way.
    let (second, ticket) = go(&inbox, now);
    let shutdown = Attempt::new(Outcome::Shutdown, Verdict::Unknown);
    inbox.finish(second, ticket, &shutdown, now + MS);

    let counts = inbox.counts();
    assert_eq!((counts.wait.count(), counts.request.count()), (1, 1));
    assert_eq!(counts.request.sum(), Duration::ZERO);
}
