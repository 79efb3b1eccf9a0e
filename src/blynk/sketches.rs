//! The sketches that are connected, and what goes to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::command::write_body;
use super::counters::{Dropped, Tally};
use super::frame::{APP, RESPONSE, code, command};
use super::outbox::Outbox;
use crate::access::{DeviceLogin, Gossip};
use crate::hub::{Cause, Downlink, What};
use crate::model::{Device, DeviceName, Pin};

/// Everybody who is connected, by device: one may be so more than once.
pub(super) struct Sketches {
    connected: Mutex<HashMap<DeviceName, Vec<Arc<Outbox>>>>,
    gossip: Arc<Gossip>,
    tally: Arc<Tally>,
}

impl Sketches {
    /// None yet.
    pub fn new(gossip: Arc<Gossip>, tally: Arc<Tally>) -> Sketches {
        Sketches {
            connected: Mutex::default(),
            gossip,
            tally,
        }
    }

    pub fn add(&self, outbox: &Arc<Outbox>) {
        let name = outbox.login.device.name.clone();
        let mut connected = self.lock();
        connected.entry(name).or_default().push(Arc::clone(outbox));
    }

    pub fn remove(&self, outbox: &Arc<Outbox>) {
        let name = &outbox.login.device.name;
        let mut connected = self.lock();
        let Some(of_device) = connected.get_mut(name) else {
            return;
        };
        of_device.retain(|other| !Arc::ptr_eq(other, outbox));
        if of_device.is_empty() {
            connected.remove(name);
        }
    }

    /// Ends the connections whose login is void.
    pub fn evict(&self, is_void: impl Fn(&Arc<DeviceLogin>) -> bool) {
        let connected = self.lock();
        let all = connected.values().flatten();
        let void = all.filter(|outbox| is_void(&outbox.login));
        void.for_each(|outbox| outbox.void());
    }

    /// Frames that wait for sketches which do not read.
    pub fn waiting(&self) -> usize {
        let connected = self.lock();
        let all = connected.values().flatten();
        all.map(|outbox| outbox.length()).sum()
    }

    /// Takes what the hub has for a device. Called while the hub is locked, so it only
    /// puts frames into outboxes.
    pub fn send(&self, downlink: &Downlink) {
        let What::Value(pin, value, cause) = &downlink.what else {
            return;
        };
        let id = match cause {
            Cause::Write => APP,
            Cause::Response => RESPONSE,
            // Asked for over MQTT; and a bridge has frames of its own.
            Cause::Answer | Cause::Bridge => return,
        };
        let connected = self.lock();
        let Some(outboxes) = connected.get(&downlink.device.name) else {
            return;
        };
        let body = write_body(*pin, value);
        match command(code::HARDWARE, id, &body) {
            Some(frame) => self.hand_out(outboxes.iter(), &downlink.device, Some(*pin), &frame),
            None => self.tally.drop_frames(Dropped::DoesNotFit, outboxes.len()),
        }
    }

    /// Hands a frame, for `pin` if it is for one, to every sketch of a device but for one.
    pub fn forward(&self, device: &Device, but: &Arc<Outbox>, pin: Option<Pin>, frame: &Bytes) {
        let connected = self.lock();
        let of_device = connected.get(&device.name).into_iter().flatten();
        let others = of_device.filter(|other| !Arc::ptr_eq(other, but));
        self.hand_out(others, device, pin, frame);
    }

    fn hand_out<'o>(
        &self,
        outboxes: impl Iterator<Item = &'o Arc<Outbox>>,
        device: &Device,
        pin: Option<Pin>,
        frame: &Bytes,
    ) {
        for outbox in outboxes {
            let limit = outbox.limit(device);
            if frame.len() > limit {
                self.miss(device, frame.len(), limit);
                continue;
            }
            let dropped = outbox.push(pin, frame.clone());
            if dropped > 0 {
                self.tally.drop_frames(Dropped::QueueFull, dropped);
                let line = "it reads too slowly, frames for it were dropped";
                let name = device.name.as_str();
                self.gossip.warn_seldom(name, "slow", line);
            }
        }
    }

    /// Counts a frame that is too large for a sketch, and says so now and then.
    pub fn miss(&self, device: &Device, size: usize, limit: usize) {
        self.tally.drop_frames(Dropped::DoesNotFit, 1);
        let line = format_args!(
            "a frame of {size} bytes was not sent, the sketch takes {limit} \
             (BLYNK_MAX_READBYTES in the sketch, max_message in the configuration)"
        );
        let name = device.name.as_str();
        self.gossip.warn_seldom(name, "does_not_fit", line);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceName, Vec<Arc<Outbox>>>> {
        self.connected.lock().expect("no panic under this lock")
    }
}
