//! Another configuration, while everything runs (product.md §9, Reload).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::{DeviceState, Dirty, Gone, Hub, Inbox, Listener, Routes, State};
use crate::model::{Device, DeviceName, Outcome, Pin, PropertyName, Webhook};

impl Hub {
    /// Takes other devices and webhooks. A device keeps its values, a webhook its
    /// waiting writes and its clocks, by its name; every stopped webhook is
    /// resumed. What waits for something that is gone ends as `removed`.
    pub fn reconfigure(&self, routes: Routes, now: Instant) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.zone = routes.zone;
        state.owner_email = routes.owner_email;
        self.replace_devices(state, routes.devices);
        self.replace_webhooks(state, routes.webhooks, now);
        drop(guard);
        self.0.news.notify_one();
    }

    fn replace_devices(&self, state: &mut State, devices: Vec<Arc<Device>>) {
        let mut before = std::mem::take(&mut state.devices);
        for device in devices {
            let name = device.name.clone();
            let kept = match before.remove(&name) {
                Some(mut kept) => {
                    let was = std::mem::replace(&mut kept.device, device);
                    // Its topics are called otherwise now.
                    let has_moved = |pin: Pin| was.topic_level(pin) != kept.device.topic_level(pin);
                    let (mut pins, mut properties) = told(&state.dirty, &name, &kept);
                    pins.retain(|pin| has_moved(*pin));
                    properties.retain(|(pin, _)| has_moved(*pin));
                    for pin in &pins {
                        state.dirty.written(&name, *pin);
                    }
                    for (pin, property) in &properties {
                        state.dirty.set(&name, *pin, *property);
                    }
                    state.dirty.leave(was, pins, properties);
                    kept
                }
                None => {
                    state.dirty.status.insert(name.clone());
                    DeviceState::new(device, self.0.writes_per_second)
                }
            };
            state.devices.insert(name, kept);
        }
        for (name, gone) in before {
            let (pins, properties) = told(&state.dirty, &name, &gone);
            state.dirty.leave(gone.device, pins, properties);
            state.dirty.gone.push(Gone::Device(name));
        }
    }

    fn replace_webhooks(&self, state: &mut State, webhooks: Vec<Arc<Webhook>>, now: Instant) {
        let mut before = std::mem::take(&mut state.webhooks);
        let mut listeners: HashMap<_, Vec<Listener>> = HashMap::new();
        for webhook in webhooks {
            let name = webhook.name.clone();
            // One that comes back before its last request is over still counts it.
            let known = before.remove(&name).or_else(|| state.leaving.remove(&name));
            let inbox = match known {
                Some(inbox) => {
                    let after = inbox.reconfigure(Arc::clone(&webhook));
                    self.tell(state, &inbox, after, now);
                    inbox
                }
                None => Arc::new(Inbox::new(Arc::clone(&webhook))),
            };
            for device in webhook.devices.iter().collect::<HashSet<_>>() {
                listeners.entry(device.clone()).or_default().push(Listener {
                    webhook: Arc::clone(&webhook),
                    inbox: Arc::clone(&inbox),
                });
            }
            state.dirty.webhooks.insert(name.clone());
            state.webhooks.insert(name, inbox);
        }
        for (name, gone) in before {
            let after = gone.close(Outcome::Removed);
            self.tell(state, &gone, after, now);
            state.dirty.gone.push(Gone::Webhook(name.clone()));
            if gone.counts().in_flight > 0 {
                state.leaving.insert(name, gone);
            }
        }
        for (name, device) in &mut state.devices {
            device.listeners = listeners.remove(name).unwrap_or_default();
        }
    }
}

/// Pins and properties of a device that observers may have been told of: those
/// with a value, and those that lost it a moment ago.
fn told(
    dirty: &Dirty,
    name: &DeviceName,
    device: &DeviceState,
) -> (BTreeSet<Pin>, BTreeSet<(Pin, PropertyName)>) {
    let mut pins: BTreeSet<_> = device.values.keys().copied().collect();
    let of_device = dirty.pins.keys().filter(|(of, _)| of == name);
    pins.extend(of_device.map(|(_, pin)| *pin));
    let mut properties: BTreeSet<_> = device.properties.names().collect();
    let of_device = dirty.properties.keys().filter(|(of, ..)| of == name);
    properties.extend(of_device.map(|(_, pin, property)| (*pin, *property)));
    (pins, properties)
}

impl Dirty {
    /// What these pins of a device were called holds no longer.
    fn leave(
        &mut self,
        device: Arc<Device>,
        pins: BTreeSet<Pin>,
        properties: BTreeSet<(Pin, PropertyName)>,
    ) {
        if !pins.is_empty() {
            let pins = pins.into_iter().collect();
            self.gone.push(Gone::Pins(Arc::clone(&device), pins));
        }
        if !properties.is_empty() {
            let properties = properties.into_iter().collect();
            self.gone.push(Gone::Properties(device, properties));
        }
    }
}
