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
            place: line.in_flight.take().unwrap_or_default(),
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
