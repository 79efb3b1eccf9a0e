//! What waits for a sketch: frames that others cause, bounded, none larger than the
//! sketch takes.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::{APP, HEADER, MAX_BODY};
use crate::access::DeviceLogin;
use crate::hub::{Misfit, Room};
use crate::model::{Device, Pin, PinValue};

/// The largest frame that every sketch takes, in bytes, as long as it has not said
/// otherwise (product.md §5.6): a body of 250.
const UNKNOWN: usize = HEADER + 250;

/// Frames that wait: more than a sketch has pins in use, so that the newest value of
/// each is among them.
const MOST_FRAMES: usize = 100;

/// Bytes of the frames that wait: two of the largest.
const MOST_BYTES: usize = 2 * (HEADER + MAX_BODY);

/// The way to one sketch, for everybody but itself.
#[derive(Debug)]
pub(super) struct Outbox {
    /// As whom it is logged in.
    pub login: Arc<DeviceLogin>,
    /// The largest frame it takes, in bytes.
    limit: AtomicUsize,
    waiting: Mutex<Waiting>,
    news: Notify,
    /// Whether its login holds no longer.
    is_void: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    /// With the pin they are for, if they are for one: the frames of a bridge need not be.
    frames: VecDeque<(Option<Pin>, Bytes)>,
    bytes: usize,
}

impl Outbox {
    pub fn new(login: Arc<DeviceLogin>) -> Arc<Outbox> {
        Arc::new(Outbox {
            login,
            limit: AtomicUsize::new(UNKNOWN),
            waiting: Mutex::default(),
            news: Notify::new(),
            is_void: AtomicBool::new(false),
        })
    }

    /// Takes what the sketch says of its buffer, in bytes.
    pub fn set_buffer(&self, bytes: NonZeroUsize) {
        let limit = bytes.get().min(HEADER + MAX_BODY);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The largest frame that it takes while `device` is configured so, in bytes.
    pub fn limit(&self, device: &Device) -> usize {
        let limit = self.limit.load(Ordering::Relaxed);
        limit.min(device.max_message.unwrap_or(usize::MAX))
    }

    /// Appends a frame, and returns how many gave way to it: an older one for the same
    /// pin, or else the oldest.
    pub fn push(&self, pin: Option<Pin>, frame: Bytes) -> usize {
        let mut guard = self.lock();
        let waiting = &mut *guard;
        let mut dropped = 0;
        while waiting.frames.len() >= MOST_FRAMES
            || (waiting.bytes + frame.len() > MOST_BYTES && !waiting.frames.is_empty())
        {
            let is_same = |(of, _): &(Option<Pin>, Bytes)| *of == pin;
            let oldest = waiting.frames.iter().position(is_same).unwrap_or(0);
            let (_, gone) = waiting.frames.remove(oldest).expect("there is one");
            waiting.bytes -= gone.len();
            dropped += 1;
        }
        waiting.bytes += frame.len();
        waiting.frames.push_back((pin, frame));
        drop(guard);
        self.news.notify_one();
        dropped
    }

    /// Takes the frame that has waited longest.
    pub fn pop(&self) -> Option<Bytes> {
        let mut waiting = self.lock();
        let (_, frame) = waiting.frames.pop_front()?;
        waiting.bytes -= frame.len();
        if waiting.frames.is_empty() {
            // Thousands of sketches are idle most of the time.
            waiting.frames = VecDeque::new();
        }
        Some(frame)
    }

    /// Takes away the writes by the app side to `pin`: its newest value is on its way.
    pub fn forget(&self, pin: Pin) {
        let mut guard = self.lock();
        let Waiting { frames, bytes } = &mut *guard;
        frames.retain(|(of, frame)| {
            let is_kept = *of != Some(pin) || frame[1..3] != APP.to_be_bytes();
            if !is_kept {
                *bytes -= frame.len();
            }
            is_kept
        });
    }

    pub fn is_empty(&self) -> bool {
        self.lock().frames.is_empty()
    }

    /// How many frames wait.
    pub fn length(&self) -> usize {
        self.lock().frames.len()
    }

    /// Says that the login holds no longer.
    pub fn void(&self) {
        self.is_void.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }

    pub fn is_void(&self) -> bool {
        self.is_void.load(Ordering::Relaxed)
    }

    /// Waits for a frame, or for the end of the login. Cancel-safe.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic under this lock")
    }
}

impl Room for Outbox {
    fn check(&self, device: &Device, pin: Pin, value: &PinValue) -> Result<(), Misfit> {
        let digits = 1 + usize::from(pin.number >= 10) + usize::from(pin.number >= 100);
        let size = HEADER + "vw\0".len() + digits + "\0".len() + value.as_wire().len();
        let limit = self.limit(device);
        match size > limit {
            true => Err(Misfit { size, limit }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::write_body;
    use super::super::frame::{RESPONSE, code, command};
    use super::*;
    use crate::access::Filters;
    use crate::model::device::tests as devices;

    fn outbox() -> Arc<Outbox> {
        Outbox::new(Arc::new(DeviceLogin {
            device: Arc::new(devices::device("porch", "sixteen-letters-")),
            publish: Filters::default(),
            subscribe: Filters::default(),
        }))
    }

    fn frame(pin: &str, value: &str) -> (Pin, Bytes) {
        let pin = pin.parse().unwrap();
        let body = write_body(pin, &value.into());
        (pin, command(code::HARDWARE, 111, &body).unwrap())
    }

    #[test]
    fn a_value_is_as_large_as_its_frame() {
        let outbox = outbox();
        for (pin, length) in [("V5", 245), ("V25", 244), ("D255", 243)] {
            let value = "x".repeat(length);
            let (at, bytes) = frame(pin, &value);
            assert_eq!(bytes.len(), UNKNOWN);
            let device = &outbox.login.device;
            assert_eq!(outbox.check(device, at, &(&*value).into()), Ok(()));
            let longer = format!("{value}x");
            let misfit = outbox.check(device, at, &(&*longer).into());
            let (size, limit) = (UNKNOWN + 1, UNKNOWN);
            assert_eq!(misfit, Err(Misfit { size, limit }), "{pin}");
        }
    }

    #[test]
    fn the_smaller_of_buffer_and_configuration_counts_and_no_frame_is_larger_than_any() {
        let outbox = outbox();
        let device = |max_message| Device {
            max_message,
            ..devices::device("porch", "sixteen-letters-")
        };
        for (buffer, max_message, limit) in [
            (None, None, UNKNOWN),
            (None, Some(100), 100),
            (Some(1024), None, 1024),
            (Some(1024), Some(100), 100),
            (Some(12), Some(100), 12),
            (Some(1 << 40), None, HEADER + MAX_BODY),
        ] {
            if let Some(buffer) = buffer.and_then(NonZeroUsize::new) {
                outbox.set_buffer(buffer);
            }
            assert_eq!(outbox.limit(&device(max_message)), limit);
        }
    }

    #[test]
    fn when_it_is_full_the_same_pin_gives_way_and_else_the_oldest() {
        let outbox = outbox();
        for n in 0..MOST_FRAMES {
            let (pin, bytes) = frame(&format!("V{n}"), "old");
            assert_eq!(outbox.push(Some(pin), bytes), 0);
        }

        let (pin, bytes) = frame("V50", "new");
        assert_eq!(outbox.push(Some(pin), bytes), 1);
        let (pin, bytes) = frame("D1", "new");
        assert_eq!(outbox.push(Some(pin), bytes), 1);
        assert_eq!(outbox.push(None, Bytes::from_static(b"bridge")), 1);

        let all: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(all.len(), MOST_FRAMES);
        assert_eq!(all[0], frame("V2", "old").1);
        let tail = [frame("V50", "new").1, frame("D1", "new").1];
        assert_eq!(all[MOST_FRAMES - 3..MOST_FRAMES - 1], tail);
        assert!(!all.contains(&frame("V50", "old").1));
        assert!(outbox.is_empty());
        assert_eq!(outbox.lock().bytes, 0);
    }

    #[test]
    fn the_newest_value_makes_older_writes_needless_and_no_responses() {
        let outbox = outbox();
        let (one, write) = frame("V1", "old");
        let (two, other) = frame("V2", "other");
        let response = command(code::HARDWARE, RESPONSE, "vw\x001\0response").unwrap();
        for (pin, frame) in [
            (one, &write),
            (two, &other),
            (one, &response),
            (one, &write),
        ] {
            outbox.push(Some(pin), frame.clone());
        }

        outbox.forget(one);

        let all: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(all, [other, response]);
        assert_eq!(outbox.lock().bytes, 0);
    }

    #[test]
    fn large_frames_are_bounded_by_their_bytes_and_one_always_fits() {
        let outbox = outbox();
        let large = Bytes::from(vec![0; HEADER + MAX_BODY]);
        let pushed: usize = (0..10).map(|_| outbox.push(None, large.clone())).sum();

        assert_eq!((pushed, outbox.length()), (8, 2));
    }
}
