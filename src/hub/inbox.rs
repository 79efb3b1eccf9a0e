//! A webhook's inbox: what waits, the gate it waits at, and the count of how
//! deliveries ended, behind one short lock, so that the numbers always add up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use tokio::sync::Notify;

use super::event::WebhookState;
use crate::model::gate::{Admit, Gate, State as GateState, Ticket, Transition, Verdict};
use crate::model::pending::Pending;
use crate::model::webhook::{Delivery, Tally};
use crate::model::{Outcome, Webhook};

/// The inbox of one webhook.
///
/// **Invariant:** triggered = sum of outcomes + waiting + in flight, at every
/// moment at which the lock is free.
#[derive(Debug)]
pub struct Inbox {
    webhook: Arc<Webhook>,
    state: Mutex<State>,
    bell: Notify,
    has_warned: AtomicBool,
}

#[derive(Debug)]
struct State {
    pending: Pending,
    gate: Gate,
    in_flight: usize,
    triggered: u64,
    outcomes: Tally,
    last_status: Option<u16>,
    since: SystemTime,
    is_closed: bool,
}

/// What a finished delivery changed.
#[derive(Debug, Default)]
pub struct Aftermath {
    /// The webhook stopped or resumed.
    pub transition: Option<Transition>,
    /// Deliveries that waited, and ended with it as `stopped`.
    pub ended: Vec<Delivery>,
    /// Whether anything that people see of the state is different now.
    pub is_news: bool,
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
}

impl Inbox {
    /// An empty inbox of a webhook that is ready.
    pub fn new(webhook: Arc<Webhook>) -> Inbox {
        let state = State {
            pending: Pending::default(),
            gate: Gate::new(webhook.limits.clone()),
            in_flight: 0,
            triggered: 0,
            outcomes: Tally::default(),
            last_status: None,
            since: SystemTime::now(),
            is_closed: false,
        };
        Inbox {
            webhook,
            state: Mutex::new(state),
            bell: Notify::new(),
            has_warned: AtomicBool::new(false),
        }
    }

    /// Whose inbox it is.
    pub fn webhook(&self) -> &Arc<Webhook> {
        &self.webhook
    }

    /// Puts a triggered write in. What ends by that is returned: the write
    /// itself at a stopped webhook, or an older one that it supersedes.
    pub fn push(&self, delivery: Delivery, now: Instant) -> Option<(Delivery, Outcome)> {
        let mut state = self.lock();
        state.triggered += 1;
        let ended = if state.is_closed {
            Some((delivery, Outcome::Shutdown))
        } else if !state.gate.lets_in(now) {
            Some((delivery, Outcome::Stopped))
        } else {
            let older = state.pending.put(delivery);
            older.map(|older| (older, Outcome::Superseded))
        };
        if let Some((_, outcome)) = &ended {
            state.outcomes.add(*outcome);
        }
        drop(state);
        // Otherwise it took another one's place, or has none.
        if ended.is_none() {
            self.bell.notify_one();
        }
        ended
    }

    /// Takes what may go at `now`, if something may. The newest value of the pin
    /// is what goes.
    pub fn take(&self, now: Instant) -> Option<(Delivery, Ticket)> {
        self.lock().take(now, self.webhook.concurrency)
    }

    /// When to ask for something: now if it may be that something may go, later
    /// if all that waits is held until then, `None` if something else must
    /// happen first.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        if state.in_flight >= self.webhook.concurrency {
            return None;
        }
        match state.pending.first(now) {
            Some(_) => Some(now),
            None => state.pending.next_due(),
        }
    }

    /// Waits until the inbox has changed. Cancel-safe.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    /// A delivery that was taken has ended.
    pub fn finish(
        &self,
        delivery: &Delivery,
        ticket: Ticket,
        end: &End,
        now: Instant,
    ) -> Aftermath {
        let mut state = self.lock();
        let before = (state.gate.state(), state.gate.failures(), state.last_status);
        state.pending.finish(&delivery.write.device);
        state.in_flight -= 1;
        state.outcomes.add(end.outcome);
        state.last_status = end.status.or(state.last_status);
        let transition = state.gate.record(ticket, end.verdict, now);
        let ended = match transition {
            Some(Transition::Stopped { .. }) => state.end_all(Outcome::Stopped),
            _ => Vec::new(),
        };
        if transition.is_some() {
            state.since = SystemTime::now();
        }
        let after = (state.gate.state(), state.gate.failures(), state.last_status);
        let may_go_on = !state.pending.is_empty();
        drop(state);
        if may_go_on {
            self.bell.notify_one();
        }
        Aftermath {
            transition,
            ended,
            is_news: before != after,
        }
    }

    /// Makes a stopped webhook ready again; false if it was ready.
    pub fn resume(&self) -> bool {
        let mut state = self.lock();
        let is_resumed = state.gate.resume().is_some();
        if is_resumed {
            state.since = SystemTime::now();
        }
        is_resumed
    }

    /// Takes nothing in from here on; what waits ends as `shutdown`.
    pub fn close(&self) -> Vec<Delivery> {
        let mut state = self.lock();
        state.is_closed = true;
        state.end_all(Outcome::Shutdown)
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
            webhook: self.webhook.name.clone(),
            state: gate,
            failures: state.gate.failures(),
            last_status: state.last_status,
            since: state.since,
            next_probe,
        }
    }

    /// True once: for a warning that is said once for each webhook.
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
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

/// How a delivery that was taken ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its outcome.
    pub outcome: Outcome,
    /// What it says about the third party.
    pub verdict: Verdict,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
}

impl State {
    fn take(&mut self, now: Instant, concurrency: usize) -> Option<(Delivery, Ticket)> {
        if self.in_flight >= concurrency {
            return None;
        }
        loop {
            let device = self.pending.first(now)?;
            match self.gate.admit(device, now) {
                Admit::At(at) => self.pending.hold_first(at),
                Admit::Now(ticket) => {
                    let delivery = self.pending.take_first()?;
                    self.in_flight += 1;
                    return Some((delivery, ticket));
                }
            }
        }
    }

    fn end_all(&mut self, outcome: Outcome) -> Vec<Delivery> {
        let ended = self.pending.drain();
        for _ in &ended {
            self.outcomes.add(outcome);
        }
        ended
    }
}

#[cfg(test)]
mod tests;
