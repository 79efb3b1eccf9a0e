//! A webhook's inbox: what waits, the gate it waits at, and the count of how
//! deliveries ended, behind one short lock, so that the numbers always add up.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::event::WebhookState;
use crate::model::gate::{Admit, Entry, Gate, State as GateState, Ticket, Transition, Verdict};
use crate::model::metric::Histogram;
use crate::model::pending::{Excess, Pending, Waiting};
use crate::model::webhook::{Delivery, Tally};
use crate::model::{DeviceName, Outcome, Pin, PinValue, Webhook};

/// The inbox of one webhook.
///
/// **Invariant:** triggered = sum of outcomes + waiting + in flight, at every
/// moment at which the lock is free.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    bell: Notify,
    has_warned: AtomicBool,
}

#[derive(Debug)]
struct State {
    webhook: Arc<Webhook>,
    pending: Pending,
    gate: Gate,
    in_flight: usize,
    triggered: u64,
    outcomes: Tally,
    wait: Histogram,
    request: Histogram,
    last_status: Option<u16>,
    since: SystemTime,
    /// Takes nothing in any more; what comes ends so.
    closed: Option<Outcome>,
}

/// A delivery that may go.
#[derive(Debug)]
pub struct Taken {
    /// The delivery.
    pub delivery: Delivery,
    /// To be brought back with how it ended.
    pub ticket: Ticket,
    /// The webhook as it is configured now.
    pub webhook: Arc<Webhook>,
}

/// How an attempt of a delivery ended.
#[derive(Debug)]
pub struct Attempt {
    /// How the delivery ends, if there is no other attempt.
    pub outcome: Outcome,
    /// What it says about the third party.
    pub verdict: Verdict,
    /// What goes back to the device.
    pub response: Option<Answer>,
    /// How long to wait before another attempt; `None`: there is none.
    pub retry: Option<Duration>,
    /// How long the third party asked to be left alone.
    pub hold: Option<Duration>,
}

/// What a response writes to the device.
#[derive(Debug)]
pub struct Answer {
    /// To which pin.
    pub pin: Pin,
    /// What.
    pub value: PinValue,
    /// Whether it is stored as the pin's value, too.
    pub keep: bool,
}

impl Attempt {
    /// One that ended without a response.
    pub fn new(outcome: Outcome, verdict: Verdict) -> Attempt {
        Attempt {
            outcome,
            verdict,
            response: None,
            retry: None,
            hold: None,
        }
    }
}

/// What a change of the inbox brought with it: mostly nothing.
#[derive(Debug, Default)]
pub struct Aftermath {
    /// The webhook stopped or resumed.
    pub transition: Option<Transition>,
    /// Deliveries that ended by it, oldest first.
    pub ended: Vec<(Delivery, Outcome)>,
    /// Whether anything that people see of the state is different now.
    pub is_news: bool,
}

impl Aftermath {
    /// Whether there is nothing to tell of.
    pub fn is_nothing(&self) -> bool {
        self.ended.is_empty() && self.transition.is_none() && !self.is_news
    }
}

/// The numbers of one webhook at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Writes that triggered it.
    pub triggered: u64,
    /// How they ended.
    pub outcomes: Tally,
    /// How many wait.
    pub waiting: usize,
    /// How many are with the third party.
    pub in_flight: usize,
    /// Ready or stopped.
    pub state: GateState,
    /// Failed deliveries in a row.
    pub failures: u32,
    /// From a write to the first request for it.
    pub wait: Histogram,
    /// From a request to the end of its response, or to giving up.
    pub request: Histogram,
}

impl Inbox {
    /// An empty inbox of a webhook that is ready.
    pub fn new(webhook: Arc<Webhook>) -> Inbox {
        let state = State {
            pending: Pending::new(webhook.excess),
            gate: Gate::new(webhook.limits.clone()),
            webhook,
            in_flight: 0,
            triggered: 0,
            outcomes: Tally::default(),
            wait: Histogram::default(),
            request: Histogram::default(),
            last_status: None,
            since: SystemTime::now(),
            closed: None,
        };
        Inbox {
            state: Mutex::new(state),
            bell: Notify::new(),
            has_warned: AtomicBool::new(false),
        }
    }

    /// Whose inbox it is, as it is configured now.
    pub fn webhook(&self) -> Arc<Webhook> {
        Arc::clone(&self.lock().webhook)
    }

    /// Puts a triggered write in. It may end by that, and so may others.
    pub fn push(&self, delivery: Delivery, now: Instant) -> Aftermath {
        let (after, is_in) = self.lock().push(delivery, now);
        if is_in {
            self.bell.notify_one();
        }
        after
    }

    /// Counts a triggered write that ended before it got here.
    pub fn count(&self, outcome: Outcome) {
        let mut state = self.lock();
        state.triggered += 1;
        state.outcomes.add(outcome);
    }

    /// Takes what may go at `now`, if something may.
    pub fn take(&self, now: Instant) -> Option<Taken> {
        self.lock().take(now)
    }

    /// When to ask for something: now if it may be that something may go, later
    /// if all that waits is held until then, `None` if something else must
    /// happen first.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        self.lock().ready_at(now)
    }

    /// Waits until the inbox has changed. Cancel-safe.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    /// An attempt of a delivery that was taken has ended. The delivery may go
    /// back to its line; otherwise it is the first of those that ended.
    pub fn finish(
        &self,
        delivery: Delivery,
        ticket: Ticket,
        attempt: &Attempt,
        now: Instant,
    ) -> Aftermath {
        let mut state = self.lock();
        let after = state.finish(delivery, ticket, attempt, now);
        let may_go_on = !state.pending.is_empty();
        drop(state);
        if may_go_on {
            self.bell.notify_one();
        }
        after
    }

    /// Takes another configuration of the webhook, and resumes it: what waits
    /// and the clocks stay (product.md §9). One that was closed is open again.
    pub fn reconfigure(&self, webhook: Arc<Webhook>) -> Aftermath {
        self.has_warned.store(false, Ordering::Relaxed);
        let mut state = self.lock();
        let before = state.seen();
        state.closed = None;
        // A list may have a thousand of them, and is asked for each that waits.
        let devices: HashSet<&DeviceName> = webhook.devices.iter().collect();
        let is_known = |device: &_| devices.contains(device);
        let transition = state.gate.reconfigure(webhook.limits.clone(), is_known);
        let is_wanted =
            |delivery: &Delivery| is_known(&delivery.device) && webhook.on.have(&delivery.trigger);
        let ended = state.pending.reconfigure(webhook.excess, is_wanted);
        let ended = ended.into_iter().map(|(waiting, outcome)| {
            state.outcomes.add(outcome);
            (waiting.delivery, outcome)
        });
        let ended = ended.collect();
        drop(devices);
        state.webhook = webhook;
        if transition.is_some() {
            state.since = SystemTime::now();
        }
        let is_news = before != state.seen();
        drop(state);
        self.bell.notify_one();
        Aftermath {
            transition,
            ended,
            is_news,
        }
    }

    /// Makes a stopped webhook ready again; no transition if it was ready.
    pub fn resume(&self) -> Aftermath {
        let mut state = self.lock();
        let transition = state.gate.resume();
        if transition.is_some() {
            state.since = SystemTime::now();
        }
        Aftermath {
            transition,
            is_news: transition.is_some(),
            ..Aftermath::default()
        }
    }

    /// Takes nothing in from here on; what waits, and what comes, ends with `outcome`.
    pub fn close(&self, outcome: Outcome) -> Aftermath {
        let mut state = self.lock();
        state.closed = Some(outcome);
        let ended = state.end_all(outcome);
        drop(state);
        self.bell.notify_one();
        Aftermath {
            ended,
            ..Aftermath::default()
        }
    }

    /// Whether nothing can come out of it any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// The state as people see it.
    pub fn state(&self) -> WebhookState {
        let state = self.lock();
        let gate = state.gate.state();
        let next_probe = match gate {
            GateState::Stopped {
                next_probe: Some(at),
            } => {
                let wait = at.saturating_duration_since(Instant::now());
                Some(SystemTime::now() + wait)
            }
            _ => None,
        };
        WebhookState {
            webhook: state.webhook.name.clone(),
            state: gate,
            failures: state.gate.failures(),
            last_status: state.last_status,
            since: state.since,
            next_probe,
        }
    }

    /// True once: for a warning that is said once for each configuration.
    pub fn is_first_warning(&self) -> bool {
        !self.has_warned.swap(true, Ordering::Relaxed)
    }

    /// Its numbers.
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            triggered: state.triggered,
            outcomes: state.outcomes,
            waiting: state.pending.len(),
            in_flight: state.in_flight,
            state: state.gate.state(),
            failures: state.gate.failures(),
            wait: state.wait.clone(),
            request: state.request.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

impl State {
    /// What happens by it, and whether the delivery was let in: even where it takes
    /// another one's place, its line may have to wait no longer.
    fn push(&mut self, delivery: Delivery, now: Instant) -> (Aftermath, bool) {
        self.triggered += 1;
        let drops = matches!(self.excess(), Excess::Drop(_));
        let refused = match self.closed {
            Some(outcome) => Some(outcome),
            None => match self.gate.enter(&delivery.device, drops, now) {
                Entry::Open => None,
                Entry::TooSoon => Some(Outcome::Limited),
                Entry::Stopped => Some(Outcome::Stopped),
            },
        };
        let mut after = Aftermath::default();
        if let Some(outcome) = refused {
            self.outcomes.add(outcome);
            after.ended.push((delivery, outcome));
            return (after, false);
        }
        let Some((waiting, outcome)) = self.pending.put(delivery) else {
            return (after, true);
        };
        self.end_waiting(waiting, outcome, now, &mut after);
        (after, true)
    }

    fn excess(&self) -> Excess {
        self.webhook.excess
    }

    fn take(&mut self, now: Instant) -> Option<Taken> {
        if self.in_flight >= self.webhook.concurrency || self.gate.opens_at(now).is_some() {
            return None;
        }
        loop {
            let (device, is_retry) = self.pending.first(now)?;
            match self.gate.admit(device, is_retry, now) {
                Admit::At(at) => self.pending.hold_first(at),
                Admit::Now(ticket) => {
                    let mut delivery = self.pending.take_first()?;
                    delivery.tries.sent = None;
                    self.in_flight += 1;
                    return Some(Taken {
                        delivery,
                        ticket,
                        webhook: Arc::clone(&self.webhook),
                    });
                }
            }
        }
    }

    fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        if self.in_flight >= self.webhook.concurrency {
            return None;
        }
        let at = match self.pending.first(now) {
            Some(_) => now,
            None => self.pending.next_due()?,
        };
        self.gate.opens_at(now).max(Some(at))
    }

    fn finish(
        &mut self,
        delivery: Delivery,
        ticket: Ticket,
        attempt: &Attempt,
        now: Instant,
    ) -> Aftermath {
        let before = self.seen();
        self.in_flight -= 1;
        self.measure(&delivery, now);
        self.last_status = delivery.tries.status.or(self.last_status);
        if let Some(hold) = attempt.hold {
            self.gate.hold(&delivery.device, now + hold);
        }
        let mut after = Aftermath::default();
        match attempt.retry {
            Some(wait) if self.may_retry(&delivery, ticket) => {
                if let Some((waiting, outcome)) =
                    self.pending.put_back(delivery, ticket, now + wait)
                {
                    self.end_waiting(waiting, outcome, now, &mut after);
                }
            }
            _ => {
                self.pending.finish(&delivery.device);
                self.outcomes.add(attempt.outcome);
                after.ended.push((delivery, attempt.outcome));
                self.record(ticket, attempt.verdict, now, &mut after);
            }
        }
        after.is_news = before != self.seen();
        after
    }

    /// Notes how long the attempt took that has ended, if a request was sent.
    fn measure(&mut self, delivery: &Delivery, now: Instant) {
        let Some(sent) = delivery.tries.sent else {
            return;
        };
        self.request.observe(now.saturating_duration_since(sent));
        if delivery.tries.made == 1 {
            let waited = sent.saturating_duration_since(delivery.at);
            self.wait.observe(waited);
        }
    }

    fn may_retry(&self, delivery: &Delivery, ticket: Ticket) -> bool {
        self.closed.is_none() && self.webhook.listens_to(delivery) && self.gate.may_retry(ticket)
    }

    /// Something that waited ends. If its attempts have failed, that counts.
    fn end_waiting(
        &mut self,
        waiting: Waiting,
        outcome: Outcome,
        now: Instant,
        after: &mut Aftermath,
    ) {
        let before = self.seen();
        self.outcomes.add(outcome);
        after.ended.push((waiting.delivery, outcome));
        if let Some(ticket) = waiting.failed {
            self.record(ticket, Verdict::Failure, now, after);
            after.is_news |= before != self.seen();
        }
    }

    /// What the gate makes of a verdict.
    fn record(&mut self, ticket: Ticket, verdict: Verdict, now: Instant, after: &mut Aftermath) {
        after.transition = self.gate.record(ticket, verdict, now);
        if !matches!(
            after.transition,
            None | Some(Transition::Stopped { again: true })
        ) {
            self.since = SystemTime::now();
        }
        if let Some(Transition::Stopped { .. }) = after.transition {
            after.ended.extend(self.end_all(Outcome::Stopped));
        }
    }

    fn end_all(&mut self, outcome: Outcome) -> Vec<(Delivery, Outcome)> {
        let ended = self.pending.drain();
        for _ in &ended {
            self.outcomes.add(outcome);
        }
        let ended = ended.into_iter();
        ended.map(|waiting| (waiting.delivery, outcome)).collect()
    }

    /// What people see.
    fn seen(&self) -> (GateState, u32, Option<u16>) {
        (self.gate.state(), self.gate.failures(), self.last_status)
    }
}

#[cfg(test)]
mod tests;
