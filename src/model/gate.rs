//! May this webhook send now? Rate limit, failure limit and probe, as a state
//! machine that is told the time.
//!
//! The gate has three states (glossary: ready, limited, stopped). *Limited* is
//! a matter of one device: its last request is less than `every` ago, or the
//! third party asked for a pause; with [`Per::Webhook`] of all devices together.
//! *Stopped* is a matter of the webhook: `stop_after` deliveries failed in a row.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::DeviceName;

/// Longest time between two probes, however often they fail (product.md §5.4).
const LONGEST_PROBE: Duration = Duration::from_secs(3600);

/// The limits of one webhook that the gate holds (product.md §5.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Least time between two requests; zero turns it off.
    pub every: Duration,
    /// What that time counts for.
    pub per: Per,
    /// Failed deliveries in a row that stop the webhook; 0: never.
    pub stop_after: u32,
    /// How long after a stop one write is let through; `None`: not at all.
    pub probe: Option<Duration>,
}

/// What the time between two requests counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Each device.
    Device,
    /// All devices of the webhook together.
    Webhook,
}

/// What the gate says to a write that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It may wait for its turn.
    Open,
    /// It came too soon, and is one that may not wait.
    TooSoon,
    /// The webhook is stopped.
    Stopped,
}

/// What the gate says to a write that wants to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Send it, and bring the ticket back with the verdict.
    Now(Ticket),
    /// Too soon; ask again at this time.
    At(Instant),
}

/// Leave for one request. It remembers in which state of the gate it was given,
/// since a request that was in flight at a stop must not change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    era: u64,
}

/// What a delivery says about the health of the third party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answered with a status that counts as success.
    Success,
    /// It answered otherwise, or did not answer.
    Failure,
    /// Nothing was learnt: the request was not sent.
    Unknown,
}

/// A change of state that people are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The webhook stopped, or a probe failed.
    Stopped {
        /// Whether it was stopped before and this is a failed probe.
        again: bool,
    },
    /// It sends again.
    Resumed,
}

/// The state people see (product.md §3.2, `bridge/webhooks/NAME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It sends.
    Ready,
    /// It does not send; the time is when the next write is let through.
    Stopped {
        /// `None`: only when it is resumed.
        next_probe: Option<Instant>,
    },
}

/// Rate, failures and stop of one webhook.
///
/// **Invariant:** for one device, or with [`Per::Webhook`] for all together,
/// [`Admit::Now`] is never given twice within `every`, nor before the end of a
/// [`hold`](Gate::hold).
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    clocks: HashMap<DeviceName, Clock>,
    /// For all devices together.
    clock: Clock,
    failures: u32,
    stop: Option<Stop>,
    /// Rises at every stop, probe and resume: tickets of an older era are void.
    era: u64,
}

/// What the rate counts from.
#[derive(Debug, Default)]
struct Clock {
    /// The last request.
    sent: Option<Instant>,
    /// The last write that was let in while others that come too soon are not,
    /// or further attempt: a write that comes on time must not be too late only
    /// because the one before it was sent a moment after it came.
    came: Option<Instant>,
    /// The third party asked to be left alone until then.
    held_until: Option<Instant>,
}

impl Clock {
    /// When the next request may go.
    fn next(&self, every: Duration) -> Option<Instant> {
        self.sent.map(|sent| sent + every).max(self.held_until)
    }

    /// When the next write is not too soon.
    fn next_entry(&self, every: Duration) -> Option<Instant> {
        self.came.map(|came| came + every).max(self.held_until)
    }
}

#[derive(Debug)]
struct Stop {
    next_probe: Option<Instant>,
    wait: Duration,
    is_probing: bool,
}

impl Gate {
    /// A gate that is ready.
    pub fn new(limits: Limits) -> Gate {
        Gate {
            limits,
            clocks: HashMap::new(),
            clock: Clock::default(),
            failures: 0,
            stop: None,
            era: 0,
        }
    }

    /// Takes new limits, and resumes (product.md §9). The clocks run on; those of
    /// devices that `is_known` does not know are forgotten.
    pub fn reconfigure(
        &mut self,
        limits: Limits,
        is_known: impl Fn(&DeviceName) -> bool,
    ) -> Option<Transition> {
        self.limits = limits;
        self.clocks.retain(|device, _| is_known(device));
        self.resume()
    }

    /// Whether a write of `device` that arrives at `now` may wait for its turn.
    /// While the webhook is stopped it may not, except for one when a probe is
    /// due. With `drops` it may not either if it comes too soon.
    pub fn enter(&mut self, device: &DeviceName, drops: bool, now: Instant) -> Entry {
        if let Some(stop) = &self.stop {
            let is_due = stop.next_probe.is_some_and(|at| now >= at);
            if !is_due || stop.is_probing {
                return Entry::Stopped;
            }
        }
        if drops && !self.limits.every.is_zero() {
            let every = self.limits.every;
            let clock = match self.limits.per {
                Per::Device => self.clocks.entry(device.clone()).or_default(),
                Per::Webhook => &mut self.clock,
            };
            if clock.next_entry(every).is_some_and(|at| now < at) {
                return Entry::TooSoon;
            }
            clock.came = Some(now);
        }
        if let Some(stop) = &mut self.stop {
            stop.is_probing = true;
            self.era += 1;
        }
        Entry::Open
    }

    /// When a request of any device at all may go, if that is later than `now`.
    pub fn opens_at(&self, now: Instant) -> Option<Instant> {
        let at = match self.limits.per {
            Per::Device => self.clock.held_until,
            Per::Webhook => self.clock.next(self.limits.every),
        };
        at.filter(|at| now < *at)
    }

    /// Asks leave for a request of `device`. Every attempt asks, and every
    /// [`Admit::Now`] counts against the rate.
    pub fn admit(&mut self, device: &DeviceName, is_retry: bool, now: Instant) -> Admit {
        if let Some(at) = self.opens_at(now) {
            return Admit::At(at);
        }
        if !self.clocks.contains_key(device) {
            self.clocks.insert(device.clone(), Clock::default());
        }
        let clock = self.clocks.get_mut(device).expect("it is there now");
        let at = match self.limits.per {
            Per::Device => clock.next(self.limits.every),
            Per::Webhook => clock.held_until,
        };
        if let Some(at) = at.filter(|at| now < *at) {
            return Admit::At(at);
        }
        for clock in [clock, &mut self.clock] {
            clock.sent = Some(now);
            if is_retry {
                clock.came = Some(now);
            }
        }
        Admit::Now(Ticket { era: self.era })
    }

    /// Keeps the line of `device` back until `until`, or with [`Per::Webhook`]
    /// all: the third party asked for it.
    pub fn hold(&mut self, device: &DeviceName, until: Instant) {
        let clock = match self.limits.per {
            Per::Device => self.clocks.entry(device.clone()).or_default(),
            Per::Webhook => &mut self.clock,
        };
        clock.held_until = clock.held_until.max(Some(until));
    }

    /// Whether a delivery with this ticket may have another attempt: the webhook
    /// is not stopped, or the delivery is its probe.
    pub fn may_retry(&self, ticket: Ticket) -> bool {
        self.stop.is_none() || ticket.era == self.era
    }

    /// Learns how a delivery ended.
    pub fn record(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) -> Option<Transition> {
        if ticket.era != self.era {
            return None;
        }
        match (verdict, &mut self.stop) {
            (Verdict::Success, None) => {
                self.failures = 0;
                None
            }
            (Verdict::Success, Some(_)) => self.resume(),
            (Verdict::Failure, None) => {
                self.failures = self.failures.saturating_add(1);
                if self.limits.stop_after == 0 || self.failures < self.limits.stop_after {
                    return None;
                }
                self.era += 1;
                self.stop = Some(Stop {
                    next_probe: self.limits.probe.map(|wait| now + wait),
                    wait: self.limits.probe.unwrap_or_default(),
                    is_probing: false,
                });
                Some(Transition::Stopped { again: false })
            }
            (Verdict::Failure, Some(stop)) => {
                self.failures = self.failures.saturating_add(1);
                self.era += 1;
                stop.wait = (stop.wait * 2).min(LONGEST_PROBE.max(stop.wait));
                stop.next_probe = Some(now + stop.wait);
                stop.is_probing = false;
                Some(Transition::Stopped { again: true })
            }
            (Verdict::Unknown, None) => None,
            // The probe was spent on a request that could not be made: the next
            // write is the probe.
            (Verdict::Unknown, Some(stop)) => {
                stop.is_probing = false;
                None
            }
        }
    }

    /// Makes a stopped webhook ready again, its count of failures 0.
    pub fn resume(&mut self) -> Option<Transition> {
        self.failures = 0;
        self.stop.take()?;
        self.era += 1;
        Some(Transition::Resumed)
    }

    /// Ready or stopped.
    pub fn state(&self) -> State {
        match &self.stop {
            None => State::Ready,
            Some(stop) => State::Stopped {
                next_probe: stop.next_probe,
            },
        }
    }

    /// Failed deliveries in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn gate(every: Duration, stop_after: u32, probe: Option<Duration>) -> Gate {
        Gate::new(Limits {
            every,
            per: Per::Device,
            stop_after,
            probe,
        })
    }

    fn porch() -> DeviceName {
        "porch".parse().unwrap()
    }

    /// Whether a write of the porch may wait for its turn.
    fn lets_in(gate: &mut Gate, now: Instant) -> bool {
        gate.enter(&porch(), false, now) == Entry::Open
    }

    fn ticket(admit: Admit) -> Ticket {
        match admit {
            Admit::Now(ticket) => ticket,
            Admit::At(_) => panic!("expected leave"),
        }
    }

    /// A gate without rate limit that `failures` deliveries stopped at `now`.
    fn stopped(probe: Option<Duration>, now: Instant) -> Gate {
        let mut gate = gate(Duration::ZERO, 2, probe);
        for _ in 0..2 {
            let leave = ticket(gate.admit(&porch(), false, now));
            gate.record(leave, Verdict::Failure, now);
        }
        gate
    }

    #[test]
    fn a_second_request_waits_until_every_has_passed() {
        let start = Instant::now();
        let mut gate = gate(SECOND, 10, None);

        assert!(matches!(gate.admit(&porch(), false, start), Admit::Now(_)));
        assert_eq!(
            gate.admit(&porch(), false, start + SECOND / 2),
            Admit::At(start + SECOND)
        );
        assert!(matches!(
            gate.admit(&porch(), false, start + SECOND),
            Admit::Now(_)
        ));
    }

    #[test]
    fn devices_do_not_share_the_rate() {
        let start = Instant::now();
        let mut gate = gate(SECOND, 10, None);

        gate.admit(&porch(), false, start);

        let shed = "shed".parse().unwrap();
        assert!(matches!(gate.admit(&shed, false, start), Admit::Now(_)));
    }

    #[test]
    fn the_nth_failure_in_a_row_stops() {
        let now = Instant::now();
        let mut gate = gate(Duration::ZERO, 3, None);
        let mut fail = |verdict| {
            let leave = ticket(gate.admit(&porch(), false, now));
            gate.record(leave, verdict, now)
        };

        assert_eq!(fail(Verdict::Failure), None);
        assert_eq!(fail(Verdict::Failure), None);
        assert_eq!(fail(Verdict::Success), None);
        assert_eq!(fail(Verdict::Failure), None);
        assert_eq!(fail(Verdict::Failure), None);
        assert_eq!(fail(Verdict::Unknown), None);
        assert_eq!(
            fail(Verdict::Failure),
            Some(Transition::Stopped { again: false })
        );
    }

    #[test]
    fn stop_after_zero_never_stops() {
        let now = Instant::now();
        let mut gate = gate(Duration::ZERO, 0, None);

        for _ in 0..50 {
            let leave = ticket(gate.admit(&porch(), false, now));
            assert_eq!(gate.record(leave, Verdict::Failure, now), None);
        }
        assert_eq!(gate.state(), State::Ready);
    }

    #[test]
    fn a_stopped_gate_lets_nothing_in_until_it_is_resumed() {
        let now = Instant::now();
        let mut gate = stopped(None, now);

        assert!(!lets_in(&mut gate, now + Duration::from_secs(1_000_000)));
        assert_eq!(gate.resume(), Some(Transition::Resumed));
        assert!(lets_in(&mut gate, now));
        assert_eq!(gate.failures(), 0);
        assert_eq!(gate.resume(), None);
    }

    #[test]
    fn one_write_probes_and_success_resumes() {
        let now = Instant::now();
        let mut gate = stopped(Some(SECOND), now);

        assert!(!lets_in(&mut gate, now));
        assert!(lets_in(&mut gate, now + SECOND));
        assert!(!lets_in(&mut gate, now + SECOND), "only one at a time");

        let leave = ticket(gate.admit(&porch(), false, now + SECOND));
        assert_eq!(
            gate.record(leave, Verdict::Success, now + SECOND),
            Some(Transition::Resumed)
        );
        assert_eq!(gate.state(), State::Ready);
    }

    #[test]
    fn a_failed_probe_doubles_the_wait_up_to_an_hour() {
        let mut now = Instant::now();
        let mut gate = stopped(Some(Duration::from_secs(300)), now);
        let mut waits = Vec::new();

        for _ in 0..6 {
            let State::Stopped {
                next_probe: Some(at),
            } = gate.state()
            else {
                panic!("expected a probe")
            };
            waits.push((at - now).as_secs());
            now = at;
            assert!(lets_in(&mut gate, now));
            let leave = ticket(gate.admit(&porch(), false, now));
            gate.record(leave, Verdict::Failure, now);
        }

        assert_eq!(waits, [300, 600, 1200, 2400, 3600, 3600]);
    }

    #[test]
    fn a_probe_that_was_never_sent_leaves_the_next_write_to_probe() {
        let now = Instant::now();
        let mut gate = stopped(Some(SECOND), now);
        let later = now + SECOND;

        assert!(lets_in(&mut gate, later));
        let leave = ticket(gate.admit(&porch(), false, later));
        gate.record(leave, Verdict::Unknown, later);

        assert!(lets_in(&mut gate, later));
    }

    #[test]
    fn requests_in_flight_at_a_stop_do_not_change_the_state() {
        let now = Instant::now();
        let mut gate = gate(Duration::ZERO, 1, Some(SECOND));
        let early = ticket(gate.admit(&porch(), false, now));
        let late = ticket(gate.admit(&porch(), false, now));

        gate.record(early, Verdict::Failure, now);

        assert_eq!(gate.record(late, Verdict::Success, now), None);
        assert!(matches!(gate.state(), State::Stopped { .. }));
    }

    proptest! {
        /// Whatever is asked and recorded, no device gets leave twice within `every`.
        #[test]
        fn never_faster_than_every(
            every in 1u64..50,
            steps in proptest::collection::vec((0u64..20, 0usize..3, 0usize..3, any::<bool>()), 0..200),
        ) {
            let every = Duration::from_millis(every);
            let mut now = Instant::now();
            let mut gate = gate(every, 3, Some(Duration::from_millis(30)));
            let mut last: HashMap<usize, Instant> = HashMap::new();

            for (passed, device, verdict, resume) in steps {
                now += Duration::from_millis(passed);
                let name = format!("d{device}").parse().unwrap();
                if resume {
                    gate.resume();
                }
                if !lets_in(&mut gate, now) {
                    continue;
                }
                match gate.admit(&name, false, now) {
                    Admit::Now(leave) => {
                        if let Some(before) = last.insert(device, now) {
                            prop_assert!(now - before >= every);
                        }
                        let verdict = [Verdict::Success, Verdict::Failure, Verdict::Unknown][verdict];
                        gate.record(leave, verdict, now);
                    }
                    Admit::At(at) => {
                        prop_assert!(at > now && at <= now + every);
                        // The write waits; as a probe it must not block the next one.
                        gate.record(Ticket { era: gate.era }, Verdict::Unknown, now);
                    }
                }
            }
        }
    }
}
