//! Writes that wait for their request: per device, the newest of each pin.
//!
//! Knows who waits and in which order, not when someone may go: that is the
//! [gate](super::gate)'s to say. It does not bound itself by count, because
//! what it holds is bounded by devices × pins: a newer write takes the place
//! of an older one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use super::DeviceName;
use super::webhook::Delivery;

/// Deliveries of one webhook that wait, in lines by device.
///
/// **Invariant:** a device with something waiting and nothing in flight is in
/// exactly one of `ready` and `later`; any other device is in neither.
#[derive(Debug, Default)]
pub struct Pending {
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
    waiting: VecDeque<(u64, Delivery)>,
    in_flight: bool,
}

impl Pending {
    /// Adds a delivery. One of the same device and trigger that waits already
    /// gives up its place to it and is returned: it is superseded.
    pub fn put(&mut self, delivery: Delivery) -> Option<Delivery> {
        let device = delivery.write.device.clone();
        let line = self.lines.entry(device.clone()).or_default();
        let same = |(_, waiting): &&mut (u64, Delivery)| waiting.trigger == delivery.trigger;
        if let Some((_, older)) = line.waiting.iter_mut().find(same) {
            return Some(std::mem::replace(older, delivery));
        }
        let place = self.next_place;
        self.next_place += 1;
        self.waiting += 1;
        line.waiting.push_back((place, delivery));
        if line.waiting.len() == 1 && !line.in_flight {
            self.ready.insert(place, device);
        }
        None
    }

    /// The device that has waited longest among those that may go at `now`.
    pub fn first(&mut self, now: Instant) -> Option<&DeviceName> {
        while let Some(entry) = self.later.first_entry() {
            let (until, place) = *entry.key();
            if until > now {
                break;
            }
            self.ready.insert(place, entry.remove());
        }
        self.ready.values().next()
    }

    /// Keeps the [`first`](Self::first) device back until `until`.
    pub fn hold_first(&mut self, until: Instant) {
        if let Some((place, device)) = self.ready.pop_first() {
            self.later.insert((until, place), device);
        }
    }

    /// Takes the first delivery of the [`first`](Self::first) device, which is
    /// then in flight until [`finish`](Self::finish).
    pub fn take_first(&mut self) -> Option<Delivery> {
        let (_, device) = self.ready.pop_first()?;
        let line = self.lines.get_mut(&device)?;
        let (_, delivery) = line.waiting.pop_front()?;
        line.in_flight = true;
        self.waiting -= 1;
        Some(delivery)
    }

    /// The request of `device` is over.
    pub fn finish(&mut self, device: &DeviceName) {
        let Some(line) = self.lines.get_mut(device) else {
            return;
        };
        line.in_flight = false;
        match line.waiting.front() {
            Some((place, _)) => {
                self.ready.insert(*place, device.clone());
            }
            None => {
                self.lines.remove(device);
            }
        }
    }

    /// Takes everything that waits, oldest first. What is in flight stays so.
    pub fn drain(&mut self) -> Vec<Delivery> {
        let mut all: Vec<_> = self
            .lines
            .values_mut()
            .flat_map(|line| line.waiting.drain(..))
            .collect();
        all.sort_by_key(|(place, _)| *place);
        self.lines.retain(|_, line| line.in_flight);
        self.ready.clear();
        self.later.clear();
        self.waiting = 0;
        all.into_iter().map(|(_, delivery)| delivery).collect()
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::webhook::tests::delivery;
    use super::*;

    fn take(pending: &mut Pending, now: Instant) -> Option<String> {
        pending.first(now)?;
        let taken = pending.take_first()?;
        Some(format!(
            "{} {}",
            taken.write.device,
            taken.write.value.commas()
        ))
    }

    #[test]
    fn the_newest_of_a_pin_takes_the_place_of_the_older() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.put(delivery("a", "V1", "1"));
        pending.put(delivery("b", "V1", "2"));

        let superseded = pending.put(delivery("a", "V1", "3")).unwrap();

        assert_eq!(superseded.write.value.commas(), "1");
        assert_eq!(take(&mut pending, now).as_deref(), Some("a 3"));
        assert_eq!(take(&mut pending, now).as_deref(), Some("b 2"));
        assert_eq!(take(&mut pending, now), None);
    }

    #[test]
    fn a_device_in_flight_waits_and_others_do_not() {
        let now = Instant::now();
        let mut pending = Pending::default();
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
        let mut pending = Pending::default();
        pending.put(delivery("a", "V1", "1"));
        pending.put(delivery("b", "V1", "2"));
        pending.first(now);
        pending.hold_first(later);

        assert_eq!(pending.next_due(), Some(later));
        assert_eq!(pending.first(now).map(|d| d.as_str()), Some("b"));
        assert_eq!(take(&mut pending, later).as_deref(), Some("a 1"));
    }

    proptest! {
        /// Against a plain list: the newest of every device and trigger is sent
        /// in the end, once, and never two of one device at a time.
        #[test]
        fn nothing_newest_is_lost(
            steps in proptest::collection::vec((0usize..4, 0usize..3, 0usize..3), 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut pending = Pending::default();
            let mut newest: BTreeMap<(String, String), usize> = BTreeMap::new();
            let mut in_flight: Vec<DeviceName> = Vec::new();
            let sent = |delivery: Delivery, newest: &mut BTreeMap<_, _>| {
                let key = (delivery.write.device.to_string(), delivery.write.pin.to_string());
                let value: usize = delivery.write.value.commas().parse().unwrap();
                assert_eq!(newest.remove(&key), Some(value), "sent what was newest, once");
            };

            for (index, (action, device, pin)) in steps.into_iter().enumerate() {
                now += Duration::from_millis(1);
                match action {
                    0 | 1 => {
                        let (device, pin) = (format!("d{device}"), format!("V{pin}"));
                        let ended = pending.put(delivery(&device, &pin, &index.to_string()));
                        let before = newest.insert((device, pin), index);
                        prop_assert_eq!(ended.map(|d| d.write.value.commas().parse().unwrap()), before);
                    }
                    2 => {
                        if let Some(first) = pending.first(now).cloned() {
                            prop_assert!(!in_flight.contains(&first));
                            if device == 0 {
                                pending.hold_first(now + Duration::from_millis(7));
                            } else {
                                sent(pending.take_first().unwrap(), &mut newest);
                                in_flight.push(first);
                            }
                        }
                    }
                    _ => if let Some(device) = in_flight.pop() {
                        pending.finish(&device);
                    }
                }
                prop_assert_eq!(pending.len(), newest.len());
            }
            for device in in_flight.drain(..) {
                pending.finish(&device);
            }
            while !newest.is_empty() {
                now += Duration::from_secs(1);
                let first = pending.first(now).cloned();
                prop_assert!(first.is_some(), "something waits for ever");
                sent(pending.take_first().unwrap(), &mut newest);
                pending.finish(&first.unwrap());
            }
            prop_assert!(pending.is_empty());
        }
    }
}
