//! Properties of pins: kept, announced, bounded. They never trigger a webhook.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{DeviceState, Hub, WriteError};
use crate::model::{DeviceName, Pin, PinValue, Property, PropertyName};

/// Properties of one device, over all its pins: a board of a hundred widgets
/// with ten each.
pub const MAX_PROPERTIES: usize = 1000;

/// Bytes of all values of one device's properties together. They are words and
/// colours; each alone may be as long as a value of a pin.
pub const MAX_PROPERTY_BYTES: usize = 64 * 1024;

/// The properties of one device's pins.
#[derive(Debug, Default)]
pub(super) struct Properties {
    values: BTreeMap<(Pin, PropertyName), PinValue>,
    bytes: usize,
}

impl Properties {
    /// A property, if it is set.
    pub fn get(&self, pin: Pin, name: PropertyName) -> Option<&PinValue> {
        self.values.get(&(pin, name))
    }

    /// All that are set.
    pub fn names(&self) -> impl Iterator<Item = (Pin, PropertyName)> {
        self.values.keys().copied()
    }

    /// Sets or takes back a property; `None`: there is no room for it, and nothing
    /// has changed. Else whether something has.
    fn set(&mut self, property: &Property) -> Option<bool> {
        let key = (property.pin(), property.name());
        let before = self.values.get(&key);
        if before == property.value() {
            return Some(false);
        }
        let freed = before.map_or(0, length);
        let taken = property.value().map_or(0, length);
        let is_one_more = before.is_none() && property.value().is_some();
        let has_room = self.bytes - freed + taken <= MAX_PROPERTY_BYTES || taken <= freed;
        if !has_room || (is_one_more && self.values.len() >= MAX_PROPERTIES) {
            return None;
        }
        self.bytes = self.bytes - freed + taken;
        match property.value() {
            Some(value) => drop(self.values.insert(key, value.clone())),
            None => drop(self.values.remove(&key)),
        }
        Some(true)
    }
}

fn length(value: &PinValue) -> usize {
    value.as_wire().len()
}

impl Hub {
    /// Takes what a device says of one of its pins: remembers it, or forgets it,
    /// and tells observers. Triggers nothing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); a property counts as a write. And when the
    /// device's properties are as many, or as long, as they may be.
    pub fn property(
        &self,
        name: &DeviceName,
        property: &Property,
        now: Instant,
    ) -> Result<(), WriteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let what = format_args!("{} {}", property.pin(), property.name());
        let nothing = PinValue::from("");
        let value = property.value().unwrap_or(&nothing);
        let device = self.admit(state, name, &what, value, now)?;
        match device.properties.set(property) {
            Some(false) => return Ok(()),
            Some(true) => {}
            None => return Err(self.refuse(device, WriteError::NoRoomForProperty, now)),
        }
        let (pin, property) = (property.pin(), property.name());
        state.dirty.set(name, pin, property);
        drop(guard);
        self.0.news.notify_one();
        Ok(())
    }

    /// A property of a pin, if it is set.
    pub fn read_property(
        &self,
        device: &DeviceName,
        pin: Pin,
        name: PropertyName,
    ) -> Option<PinValue> {
        let state = self.lock();
        let device: &DeviceState = state.devices.get(device)?;
        device.properties.get(pin, name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(pin: u8, name: &str, value: &str) -> Property {
        let pin = format!("V{pin}").parse().unwrap();
        Property::new(pin, name, value.into()).unwrap()
    }

    #[test]
    fn properties_are_bounded_in_number_and_bytes_and_make_room_again() {
        let mut properties = Properties::default();
        let names = ["label", "color", "url", "suffix"];
        for pin in 0..250 {
            for name in names {
                assert_eq!(properties.set(&property(pin, name, "x")), Some(true));
            }
        }
        assert_eq!(properties.values.len(), MAX_PROPERTIES);
        assert_eq!(properties.set(&property(250, "label", "x")), None);
        assert_eq!(properties.set(&property(0, "label", "y")), Some(true));
        assert_eq!(properties.set(&property(0, "label", "y")), Some(false));
        assert_eq!(properties.set(&property(0, "label", "")), Some(true));
        assert_eq!(properties.set(&property(250, "label", "x")), Some(true));

        let long = "x".repeat(MAX_PROPERTY_BYTES - MAX_PROPERTIES + 1);
        assert_eq!(properties.set(&property(1, "label", &long)), Some(true));
        assert_eq!(properties.bytes, MAX_PROPERTY_BYTES);
        assert_eq!(properties.set(&property(2, "label", "xx")), None);
        assert_eq!(properties.set(&property(1, "label", "xx")), Some(true));
        assert_eq!(properties.set(&property(2, "label", "xx")), Some(true));
        for pin in 0..=250 {
            for name in names {
                properties.set(&property(pin, name, ""));
            }
        }
        assert_eq!((properties.values.len(), properties.bytes), (0, 0));
    }
}
