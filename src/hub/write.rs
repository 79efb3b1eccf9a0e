//! What comes in: writes and events, and the webhooks they trigger.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::inbox::Aftermath;
use super::property::{MAX_PROPERTIES, MAX_PROPERTY_BYTES};
use super::{Cause, DeviceState, Hub, Listener, State, What};
use crate::model::clock::utc_json;
use crate::model::template::RenderError;
use crate::model::webhook::{Delivery, DeliveryId, Tries, Trigger};
use crate::model::{DeviceName, EventCode, Outcome, Pin, PinValue, Source, Webhook, Write};

/// Why a write was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no such device.
    #[error("there is no device `{0}`")]
    UnknownDevice(DeviceName),
    /// The value is too long.
    #[error("value of {found} bytes for {what}: at most {limit} are allowed (limits.value)")]
    TooLong {
        /// For which pin or event.
        what: String,
        /// Its bytes.
        found: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Too many writes.
    #[error("more than {0} writes a second (limits.writes_per_second)")]
    TooMany(u32),
    /// The device's properties take all the room they have.
    #[error(
        "the pins of a device have at most {MAX_PROPERTIES} properties, of {MAX_PROPERTY_BYTES} \
         bytes together"
    )]
    NoRoomForProperty,
    /// The daemon is stopping.
    #[error("pinhook is stopping")]
    Stopping,
}

impl Hub {
    /// Takes a write: remembers the value, tells observers, and the device if it
    /// was somebody else's write, and triggers the webhooks that listen.
    ///
    /// # Errors
    ///
    /// A refused write changes nothing. Where the device made a mistake, it is
    /// told on `diag`.
    pub fn write(&self, write: Write, now: Instant) -> Result<(), WriteError> {
        let cause = match write.source {
            Source::App => Some(Cause::Write),
            Source::Hardware => None,
        };
        self.take(write, cause, now)
    }

    /// Takes a write that another device makes over a Blynk bridge: as if this one
    /// had made it, and this one hears of it, too (blynk.md §1.8).
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn bridge(
        &self,
        device: &DeviceName,
        pin: Pin,
        value: PinValue,
        now: Instant,
    ) -> Result<(), WriteError> {
        let write = Write {
            device: device.clone(),
            pin,
            value,
            source: Source::Hardware,
        };
        self.take(write, Some(Cause::Bridge), now)
    }

    /// Takes a write that the device is told of if there is a `cause`.
    fn take(&self, write: Write, cause: Option<Cause>, now: Instant) -> Result<(), WriteError> {
        if write.source == Source::App {
            // Its writer hears of it; it is no mistake of the device's.
            self.check_length(&write.pin, &write.value)?;
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        let device = self.admit(state, &write.device, &write.pin, &write.value, now)?;
        let Write {
            pin, value, source, ..
        } = write;
        device.values.insert(pin, value.clone());
        if let Some(cause) = cause {
            self.send(&device.device, What::Value(pin, value.clone(), cause));
        }
        state.dirty.written(&write.device, pin);
        self.trigger(
            state,
            &write.device,
            |webhook| webhook.matching(pin),
            &value,
            source,
            now,
        );
        drop(guard);
        self.0.news.notify_one();
        Ok(())
    }

    /// Forgets the value of a pin, as if it had never been written. Triggers nothing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); it counts as one.
    pub fn erase(&self, name: &DeviceName, pin: Pin, now: Instant) -> Result<(), WriteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let device = self.admit(state, name, &pin, &PinValue::from(""), now)?;
        if device.values.remove(&pin).is_some() {
            state.dirty.written(name, pin);
        }
        drop(guard);
        self.0.news.notify_one();
        Ok(())
    }

    /// Takes an event of a device: triggers the webhooks that listen to its code.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); an event counts as a write.
    pub fn event(
        &self,
        name: &DeviceName,
        code: &EventCode,
        value: &PinValue,
        now: Instant,
    ) -> Result<(), WriteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        self.admit(state, name, &format_args!("event {code}"), value, now)?;
        let matching = |webhook: &Webhook| webhook.matching_event(code);
        self.trigger(state, name, matching, value, Source::Hardware, now);
        drop(guard);
        self.0.news.notify_one();
        Ok(())
    }

    /// Hands a value to every webhook of the device that it triggers.
    fn trigger(
        &self,
        state: &mut State,
        name: &DeviceName,
        matching: impl Fn(&Webhook) -> Option<Trigger>,
        value: &PinValue,
        source: Source,
        now: Instant,
    ) {
        let Some(device) = state.devices.get(name) else {
            return;
        };
        let triggered = |listener: &Listener| {
            let from = listener.webhook.from;
            let trigger = matching(&listener.webhook)?;
            from.is_none_or(|from| from == source)
                .then(|| (listener.clone(), trigger))
        };
        let triggered: Vec<_> = device.listeners.iter().filter_map(triggered).collect();
        for (Listener { webhook, inbox }, trigger) in triggered {
            let mut delivery = Delivery {
                id: DeliveryId(state.next_id),
                device: name.clone(),
                trigger,
                value: value.clone(),
                source,
                at: now,
                tries: Tries::default(),
            };
            let after = match self.holds(state, &webhook, &delivery) {
                Ok(false) => continue,
                Ok(true) => inbox.push(delivery, now),
                Err(error) => {
                    inbox.count(Outcome::RenderError);
                    delivery.tries.error = Some(format!("when: {error}"));
                    Aftermath {
                        ended: vec![(delivery, Outcome::RenderError)],
                        ..Aftermath::default()
                    }
                }
            };
            state.next_id = state.next_id.wrapping_add(1);
            self.tell(state, &inbox, after, now);
        }
    }

    /// Whether `when` lets the delivery be.
    fn holds(
        &self,
        state: &State,
        webhook: &Webhook,
        delivery: &Delivery,
    ) -> Result<bool, RenderError> {
        let Some(when) = &webhook.when else {
            return Ok(true);
        };
        match state.scope(delivery, when.uses("pins")) {
            Some(scope) => when.holds(&Arc::new(scope)),
            None => Ok(false),
        }
    }

    /// The device that may write `value` to `what`. One that may not is told why.
    pub(super) fn admit<'s>(
        &self,
        state: &'s mut State,
        name: &DeviceName,
        what: &dyn fmt::Display,
        value: &PinValue,
        now: Instant,
    ) -> Result<&'s mut DeviceState, WriteError> {
        if state.is_stopping {
            return Err(WriteError::Stopping);
        }
        let Some(device) = state.devices.get_mut(name) else {
            return Err(WriteError::UnknownDevice(name.clone()));
        };
        if let Err(error) = self.check_length(what, value) {
            return Err(self.refuse(device, error, now));
        }
        match device.bucket.take(now) {
            true => Ok(device),
            false => Err(self.refuse(device, self.too_many(), now)),
        }
    }

    /// Whether a value for `what` is short enough to be kept.
    pub(super) fn check_length(
        &self,
        what: &dyn fmt::Display,
        value: &PinValue,
    ) -> Result<(), WriteError> {
        let (found, limit) = (value.as_wire().len(), self.0.value);
        if found <= limit {
            return Ok(());
        }
        Err(WriteError::TooLong {
            what: what.to_string(),
            found,
            limit,
        })
    }

    fn too_many(&self) -> WriteError {
        WriteError::TooMany(self.0.writes_per_second)
    }

    /// Tells the device why it is refused.
    pub(super) fn refuse(
        &self,
        device: &mut DeviceState,
        error: WriteError,
        now: Instant,
    ) -> WriteError {
        self.diag_locked(device, &error.to_string(), now);
        error
    }

    /// Sends the values of `pins` to their device, as an answer to `get/ds`; a
    /// pin that was never written is left out. `None`: all pins.
    ///
    /// # Errors
    ///
    /// A request counts as a write, and is refused like one when it is too many:
    /// it costs as many messages as the device has pins.
    pub fn answer(
        &self,
        name: &DeviceName,
        pins: Option<&[Pin]>,
        now: Instant,
    ) -> Result<(), WriteError> {
        let mut state = self.lock();
        let Some(device) = state.devices.get_mut(name) else {
            return Err(WriteError::UnknownDevice(name.clone()));
        };
        if !device.bucket.take(now) {
            return Err(self.refuse(device, self.too_many(), now));
        }
        let send = |(pin, value): (&Pin, &PinValue)| {
            let what = What::Value(*pin, value.clone(), Cause::Answer);
            self.send(&device.device, what);
        };
        match pins {
            None => device.values.iter().for_each(send),
            Some(pins) => {
                let known = |pin| device.values.get_key_value(pin);
                pins.iter().filter_map(known).for_each(send);
            }
        }
        Ok(())
    }

    /// Sends a device the time `at` in the configured zone.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn tell_time(
        &self,
        name: &DeviceName,
        at: jiff::Timestamp,
        now: Instant,
    ) -> Result<(), WriteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(device) = state.devices.get_mut(name) else {
            return Err(WriteError::UnknownDevice(name.clone()));
        };
        if !device.bucket.take(now) {
            return Err(self.refuse(device, self.too_many(), now));
        }
        self.send(&device.device, What::Clock(utc_json(at, &state.zone)));
        Ok(())
    }

    /// Counts something that is no write and costs as much: as one, and as more up to
    /// `writes` where so many are left.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn charge(&self, name: &DeviceName, writes: usize, now: Instant) -> Result<(), WriteError> {
        let mut state = self.lock();
        let Some(device) = state.devices.get_mut(name) else {
            return Err(WriteError::UnknownDevice(name.clone()));
        };
        if !device.bucket.take(now) {
            return Err(self.refuse(device, self.too_many(), now));
        }
        let _ = (1..writes).all(|_| device.bucket.take(now));
        Ok(())
    }

    /// Whether the device may write one more value, without taking it: asked before
    /// a long message is read for nothing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); the device is told.
    pub fn check_rate(&self, name: &DeviceName, now: Instant) -> Result<(), WriteError> {
        let mut state = self.lock();
        let Some(device) = state.devices.get_mut(name) else {
            return Err(WriteError::UnknownDevice(name.clone()));
        };
        match device.bucket.has_one(now) {
            true => Ok(()),
            false => Err(self.refuse(device, self.too_many(), now)),
        }
    }
}
