//! Writes that wait for their request, in a line for each device.
//!
//! Knows who waits, in which order, and what must make room; not when someone
//! may go: that is the [gate](super::gate)'s to say. It is bounded: under
//! [`Excess::Latest`] by devices × pins and events, else by the length of a line.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use super::DeviceName;
use super::gate::Ticket;
use super::webhook::{Delivery, Outcome};

/// What becomes of a write that must wait (product.md §5.4, `excess`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// The newest of each device and pin or event waits.
    Latest,
    /// All wait, so many of a device; then the oldest makes room.
    Queue(usize),
    /// What comes too soon does not wait; what waits for a request in flight
    /// does, as under `Queue`.
    Drop(usize),
}

impl Excess {
    fn longest_line(self) -> usize {
        match self {
            Excess::Latest => usize::MAX,
            Excess::Queue(length) | Excess::Drop(length) => length,
        }
    }
}

/// A delivery that waits.
#[derive(Debug)]
pub struct Waiting {
    /// The delivery.
    pub delivery: Delivery,
    /// If it waits for another attempt: the gate's leave for the last, which failed.
    pub failed: Option<Ticket>,
    place: u64,
    not_before: Option<Instant>,
}

/// Deliveries of one webhook that wait, in lines by device.
///
/// **Invariant:** a device with something waiting and nothing in flight is in
/// exactly one of `ready` and `later`, by its line's `slot`; any other is in neither.
#[derive(Debug)]
pub struct Pending {
    excess: Excess,
    lines: HashMap<DeviceName, Line>,
    /// Devices that may go, by the place of their first delivery.
    ready: BTreeMap<u64, DeviceName>,
    /// Devices that must wait until a time.
    later: BTreeMap<(Instant, u64), DeviceName>,
    next_place: u64,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Line {
    /// In the order of their places.
    waiting: VecDeque<Waiting>,
    /// The place of the delivery that is in flight.
    in_flight: Option<u64>,
    slot: Slot,
}

/// Where a line is to be found.
#[derive(Debug, Default, Clone, Copy)]
enum Slot {
    #[default]
    Nowhere,
    Ready(u64),
    Later(Instant, u64),
}

impl Pending {
    /// Nothing waits yet.
    pub fn new(excess: Excess) -> Pending {
        Pending {
            excess,
            lines: HashMap::new(),
            ready: BTreeMap::new(),
            later: BTreeMap::new(),
            next_place: 0,
            waiting: 0,
        }
    }

    /// Adds a delivery. What makes room for it is returned: an older one of the
    /// same device and trigger, whose place it takes, or the oldest of a full line.
    pub fn put(&mut self, delivery: Delivery) -> Option<(Waiting, Outcome)> {
        let place = self.next_place;
        self.next_place += 1;
        let device = delivery.device.clone();
        let line = self.lines.entry(device.clone()).or_default();
        let mut new = Waiting {
            delivery,
            failed: None,
            place,
            not_before: None,
        };
        if self.excess == Excess::Latest
            && let Some(older) = line.find(&new.delivery)
        {
            new.place = older.place;
            let older = std::mem::replace(older, new);
            // If it was held for its own sake, the newer is not.
            if older.not_before.is_some() {
                self.reschedule(&device);
            }
            return Some((older, Outcome::Superseded));
        }
        line.waiting.push_back(new);
        if line.waiting.len() > self.excess.longest_line() {
            let oldest = line.waiting.pop_front();
            self.reschedule(&device);
            return oldest.map(|oldest| (oldest, Outcome::QueueFull));
        }
        self.waiting += 1;
        if line.waiting.len() == 1 {
            self.reschedule(&device);
        }
        None
    }

    /// Puts a delivery that was in flight back to the head of its line, to go
    /// again at `at`. If there is no room for it, it is returned.
    pub fn put_back(
        &mut self,
        delivery: Delivery,
        failed: Ticket,
        at: Instant,
    ) -> Option<(Waiting, Outcome)> {
        let device = delivery.device.clone();
        let line = self.lines.entry(device.clone()).or_default();
        let back = Waiting {
            delivery,
            failed: Some(failed),
            place: line.in_flight.take().expect("it was in flight"),
            not_before: Some(at),
        };
        let refused = if line.waiting.len() >= self.excess.longest_line() {
            Some((back, Outcome::QueueFull))
        } else if self.excess == Excess::Latest && line.find(&back.delivery).is_some() {
            Some((back, Outcome::Superseded))
        } else {
            line.waiting.push_front(back);
            self.waiting += 1;
            None
        };
        self.reschedule(&device);
        refused
    }

    /// The device that has waited longest among those that may go at `now`, and
    /// whether its delivery had an attempt already.
    pub fn first(&mut self, now: Instant) -> Option<(&DeviceName, bool)> {
        while let Some(entry) = self.later.first_entry() {
            let (until, place) = *entry.key();
            if until > now {
                break;
            }
            let device = entry.remove();
            if let Some(line) = self.lines.get_mut(&device) {
                line.slot = Slot::Ready(place);
            }
            self.ready.insert(place, device);
        }
        let device = self.ready.values().next()?;
        let head = self.lines.get(device)?.waiting.front()?;
        Some((device, head.failed.is_some()))
    }

    /// Keeps the [`first`](Self::first) device back until `until`.
    pub fn hold_first(&mut self, until: Instant) {
        let Some((place, device)) = self.ready.pop_first() else {
            return;
        };
        if let Some(line) = self.lines.get_mut(&device) {
            line.slot = Slot::Later(until, place);
        }
        self.later.insert((until, place), device);
    }

    /// Takes the first delivery of the [`first`](Self::first) device, which is
    /// then in flight until [`finish`](Self::finish) or [`put_back`](Self::put_back).
    pub fn take_first(&mut self) -> Option<Delivery> {
        let (_, device) = self.ready.pop_first()?;
        let line = self.lines.get_mut(&device)?;
        let first = line.waiting.pop_front()?;
        line.slot = Slot::Nowhere;
        line.in_flight = Some(first.place);
        self.waiting -= 1;
        Some(first.delivery)
    }

    /// The request of `device` is over.
    pub fn finish(&mut self, device: &DeviceName) {
        if let Some(line) = self.lines.get_mut(device) {
            line.in_flight = None;
            self.reschedule(device);
        }
    }

    /// Takes another rule. What it does not allow to wait is returned, and so is
    /// what `is_wanted` does not want any more.
    pub fn reconfigure(
        &mut self,
        excess: Excess,
        is_wanted: impl Fn(&Delivery) -> bool,
    ) -> Vec<(Waiting, Outcome)> {
        self.excess = excess;
        let mut ended = Vec::new();
        let devices: Vec<DeviceName> = self.lines.keys().cloned().collect();
        for device in devices {
            let Some(line) = self.lines.get_mut(&device) else {
                continue;
            };
            let before = line.waiting.len();
            let mut kept: VecDeque<Waiting> = VecDeque::new();
            // From the newest to the oldest, so that the newest stay.
            for waiting in std::mem::take(&mut line.waiting).into_iter().rev() {
                let is_same = |newer: &Waiting| newer.delivery.trigger == waiting.delivery.trigger;
                if !is_wanted(&waiting.delivery) {
                    ended.push((waiting, Outcome::Removed));
                } else if excess == Excess::Latest && kept.iter().any(is_same) {
                    ended.push((waiting, Outcome::Superseded));
                } else if kept.len() >= excess.longest_line() {
                    ended.push((waiting, Outcome::QueueFull));
                } else {
                    kept.push_front(waiting);
                }
            }
            self.waiting -= before - kept.len();
            line.waiting = kept;
            self.reschedule(&device);
        }
        ended.sort_by_key(|(waiting, _)| waiting.place);
        ended
    }

    /// Takes everything that waits, oldest first. What is in flight stays so.
    pub fn drain(&mut self) -> Vec<Waiting> {
        let mut all: Vec<_> = self
            .lines
            .values_mut()
            .flat_map(|line| line.waiting.drain(..))
            .collect();
        all.sort_by_key(|waiting| waiting.place);
        self.lines.retain(|_, line| {
            line.slot = Slot::Nowhere;
            line.in_flight.is_some()
        });
        self.ready.clear();
        self.later.clear();
        self.waiting = 0;
        all
    }

    /// When the next device that was held may go.
    pub fn next_due(&self) -> Option<Instant> {
        self.later.keys().next().map(|(until, _)| *until)
    }

    /// How many deliveries wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Puts the line of `device` where it belongs by its first delivery.
    fn reschedule(&mut self, device: &DeviceName) {
        let Some(line) = self.lines.get_mut(device) else {
            return;
        };
        match std::mem::take(&mut line.slot) {
            Slot::Nowhere => None,
            Slot::Ready(place) => self.ready.remove(&place),
            Slot::Later(until, place) => self.later.remove(&(until, place)),
        };
        if line.in_flight.is_some() {
            return;
        }
        match line.waiting.front() {
            None => drop(self.lines.remove(device)),
            Some(first) => match first.not_before {
                None => {
                    line.slot = Slot::Ready(first.place);
                    self.ready.insert(first.place, device.clone());
                }
                Some(until) => {
                    line.slot = Slot::Later(until, first.place);
                    self.later.insert((until, first.place), device.clone());
                }
            },
        }
    }
}

impl Line {
    fn find(&mut self, delivery: &Delivery) -> Option<&mut Waiting> {
        let is_same = |waiting: &&mut Waiting| waiting.delivery.trigger == delivery.trigger;
        self.waiting.iter_mut().find(is_same)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::gate::{Admit, Gate, Limits, Per};
    use super::super::webhook::tests::delivery;
    use super::*;

    fn take(pending: &mut Pending, now: Instant) -> Option<String> {
        pending.first(now)?;
        let taken = pending.take_first()?;
        Some(format!("{} {}", taken.device, taken.value.commas()))
    }

    fn ended(ended: Option<(Waiting, Outcome)>) -> Option<(String, Outcome)> {
        ended.map(|(waiting, outcome)| (waiting.delivery.value.commas().into_owned(), outcome))
    }

    fn ticket() -> Ticket {
        let mut gate = Gate::new(Limits {
            every: Duration::ZERO,
            per: Per::Device,
            stop_after: 0,
            probe: None,
        });
        match gate.admit(&"a".parse().unwrap(), false, Instant::now()) {
            Admit::Now(ticket) => ticket,
            Admit::At(_) => unreachable!("a fresh gate is open"),
        }
    }

    #[test]
    fn the_newest_of_a_pin_takes_the_place_of_the_older() {
        let now = Instant::now();
        let mut pending = Pending::new(Excess::Latest);
        pending.put(delivery("a", "V1", "1"));
        pending.put(delivery("b", "V1", "2"));

        let superseded = ended(pending.put(delivery("a", "V1", "3")));

        assert_eq!(superseded, Some(("1".to_owned(), Outcome::Superseded)));
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 3"));
        assert_eq!(take(&mut pending, now).as_deref(), Some("b 2"));
        assert_eq!(take(&mut pending, now), None);
    }

    #[test]
    fn a_device_in_flight_waits_and_others_do_not() {
        let now = Instant::now();
        let mut pending = Pending::new(Excess::Latest);
        for (device, value) in [("a", "1"), ("b", "2")] {
            pending.put(delivery(device, "V1", value));
        }
        take(&mut pending, now);
        pending.put(delivery("a", "V1", "3"));

        assert_eq!(take(&mut pending, now).as_deref(), Some("b 2"));
        assert_eq!(take(&mut pending, now), None);
        pending.finish(&"a".parse().unwrap());
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 3"));
    }

    #[test]
    fn a_held_device_lets_others_pass_and_keeps_its_place() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut pending = Pending::new(Excess::Latest);
        pending.put(delivery("a", "V1", "1"));
        pending.put(delivery("b", "V1", "2"));
        pending.first(now);
        pending.hold_first(later);

        assert_eq!(pending.next_due(), Some(later));
        assert_eq!(pending.first(now).map(|(d, _)| d.as_str()), Some("b"));
        assert_eq!(take(&mut pending, later).as_deref(), Some("a 1"));
    }

    #[test]
    fn a_queue_keeps_all_in_order_and_the_oldest_makes_room() {
        let now = Instant::now();
        let mut pending = Pending::new(Excess::Queue(2));
        for value in ["1", "2"] {
            assert!(pending.put(delivery("a", "V1", value)).is_none());
        }

        let oldest = ended(pending.put(delivery("a", "V1", "3")));

        assert_eq!(oldest, Some(("1".to_owned(), Outcome::QueueFull)));
        assert_eq!(pending.len(), 2);
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 2"));
        pending.put(delivery("a", "V1", "4"));
        pending.finish(&"a".parse().unwrap());
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 3"));
    }

    #[test]
    fn another_attempt_waits_at_the_head_of_its_line_and_holds_nobody_else() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut pending = Pending::new(Excess::Queue(5));
        pending.put(delivery("a", "V1", "1"));
        pending.put(delivery("b", "V1", "2"));
        pending.put(delivery("a", "V1", "3"));
        pending.first(now);
        let first = pending.take_first().unwrap();

        assert!(pending.put_back(first, ticket(), later).is_none());

        assert_eq!(take(&mut pending, now).as_deref(), Some("b 2"));
        assert_eq!(take(&mut pending, now), None);
        assert_eq!(pending.next_due(), Some(later));
        assert_eq!(
            pending.first(later).map(|(_, is_retry)| is_retry),
            Some(true)
        );
        assert_eq!(take(&mut pending, later).as_deref(), Some("a 1"));
    }

    #[test]
    fn a_newer_write_of_the_pin_supersedes_another_attempt_and_need_not_wait_for_it() {
        let now = Instant::now();
        let later = now + Duration::from_secs(9);
        let mut pending = Pending::new(Excess::Latest);
        pending.put(delivery("a", "V1", "1"));
        pending.first(now);
        let first = pending.take_first().unwrap();
        pending.put_back(first, ticket(), later);

        let superseded = pending.put(delivery("a", "V1", "2")).unwrap().0;

        assert!(superseded.failed.is_some());
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 2"));

        pending.put(delivery("a", "V1", "3"));
        let second = delivery("a", "V1", "2");
        let late = ended(pending.put_back(second, ticket(), later));
        assert_eq!(late, Some(("2".to_owned(), Outcome::Superseded)));
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 3"));
    }

    #[test]
    fn a_full_line_has_no_room_for_another_attempt() {
        let now = Instant::now();
        let mut pending = Pending::new(Excess::Drop(1));
        pending.put(delivery("a", "V1", "1"));
        pending.first(now);
        let first = pending.take_first().unwrap();
        pending.put(delivery("a", "V1", "2"));

        let refused = ended(pending.put_back(first, ticket(), now));

        assert_eq!(refused, Some(("1".to_owned(), Outcome::QueueFull)));
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 2"));
    }

    #[test]
    fn another_rule_ends_what_it_does_not_allow() {
        let now = Instant::now();
        let mut pending = Pending::new(Excess::Queue(9));
        for (device, pin, value) in [
            ("a", "V1", "1"),
            ("a", "V2", "2"),
            ("b", "V1", "3"),
            ("a", "V1", "4"),
        ] {
            pending.put(delivery(device, pin, value));
        }

        let is_wanted = |delivery: &Delivery| delivery.device.as_str() == "a";
        let gone = pending.reconfigure(Excess::Latest, is_wanted);

        let gone: Vec<_> = gone
            .into_iter()
            .map(|one| ended(Some(one)).unwrap())
            .collect();
        let expected = [("1", Outcome::Superseded), ("3", Outcome::Removed)];
        assert_eq!(
            gone,
            expected.map(|(value, outcome)| (value.to_owned(), outcome))
        );
        assert_eq!(pending.len(), 2);
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 2"));
    }
}
