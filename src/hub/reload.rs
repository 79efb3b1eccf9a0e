//! Another configuration, while everything runs (product.md §9, Reload).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{DeviceState, Gone, Hub, Inbox, Listener, Report, Routes, State};
use crate::model::gate::Transition;
use crate::model::{Device, Outcome, Webhook};

impl Hub {
    /// Takes other devices and webhooks. A device keeps its values, a webhook its
    /// waiting writes and its clocks, by its name; every stopped webhook is
    /// resumed. What waits for something that is gone ends as `removed`.
    pub fn reconfigure(&self, routes: Routes) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.zone = routes.zone;
        state.owner_email = routes.owner_email;
        self.replace_devices(state, routes.devices);
        let resumed = replace_webhooks(state, routes.webhooks);
        for webhook in resumed {
            self.tell_all(state, &webhook, "resumed");
            tracing::info!(webhook = %webhook.name, "resumed");
        }
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
                    let has_moved =
                        |pin: &&_| was.topic_level(**pin) != kept.device.topic_level(**pin);
                    let moved: Vec<_> = kept.values.keys().filter(has_moved).copied().collect();
                    for pin in &moved {
                        state.dirty.written(&name, *pin);
                    }
                    if !moved.is_empty() {
                        state.dirty.gone.push(Gone::Pins(was, moved));
                    }
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
            let pins = gone.values.keys().copied().collect();
            state.dirty.gone.push(Gone::Pins(gone.device, pins));
            state.dirty.gone.push(Gone::Device(name));
        }
    }
}

/// Returns the webhooks that were stopped.
fn replace_webhooks(state: &mut State, webhooks: Vec<Arc<Webhook>>) -> Vec<Arc<Webhook>> {
    let mut before = std::mem::take(&mut state.webhooks);
    let mut resumed = Vec::new();
    let mut listeners: HashMap<_, Vec<Listener>> = HashMap::new();
    for webhook in webhooks {
        let name = webhook.name.clone();
        let inbox = match before.remove(&name) {
            Some(inbox) => {
                let after = inbox.reconfigure(Arc::clone(&webhook));
                for (delivery, outcome) in after.ended {
                    state.dirty.report(Report::unsent(&name, delivery, outcome));
                }
                if after.transition == Some(Transition::Resumed) {
                    resumed.push(Arc::clone(&webhook));
                }
                if after.is_news {
                    state.dirty.webhooks.insert(name.clone());
                }
                inbox
            }
            None => {
                state.dirty.webhooks.insert(name.clone());
                Arc::new(Inbox::new(Arc::clone(&webhook)))
            }
        };
        let devices: HashSet<_> = webhook.devices.iter().collect();
        for device in devices {
            listeners.entry(device.clone()).or_default().push(Listener {
                webhook: Arc::clone(&webhook),
                inbox: Arc::clone(&inbox),
            });
        }
        state.webhooks.insert(name, inbox);
    }
    for (name, gone) in before {
        for delivery in gone.close(Outcome::Removed) {
            state
                .dirty
                .report(Report::unsent(&name, delivery, Outcome::Removed));
        }
        state.dirty.gone.push(Gone::Webhook(name));
    }
    for (name, device) in &mut state.devices {
        device.listeners = listeners.remove(name).unwrap_or_default();
    }
    resumed
}
