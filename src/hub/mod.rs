//! The hub: every write comes in here, whatever door it came through, and every
//! delivery ends here. The only shared state of the domain.
//!
//! All calls return at once; nothing here waits. One lock guards the values and
//! what observers are told of them, so that everybody sees writes in one order.

mod deliver;
mod event;
pub mod inbox;
mod metrics;
mod property;
mod reload;
mod room;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Instant;

use jiff::tz::TimeZone;
use tokio::sync::Notify;

use crate::model::bucket::Bucket;
use crate::model::diag::Diag;
use crate::model::{
    Device, DeviceName, EventCode, Outcome, Pin, PinValue, PropertyName, Webhook, WebhookName,
};
pub use event::{Cause, Changes, Downlink, Gone, Report, WebhookState, What};
pub use inbox::{Answer, Attempt, Counts, Inbox, Taken};
pub use property::{MAX_PROPERTIES, MAX_PROPERTY_BYTES};
pub use room::{Misfit, Room};
pub use write::WriteError;

use property::Properties;

/// Reports that wait for the observer; beyond it the oldest is forgotten and
/// counted, since nobody may hold the hub up by not looking.
const MAX_REPORTS: usize = 4096;

/// What the hub is told by the configuration at the start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What may change with a reload.
    pub routes: Routes,
    /// Writes a second of one device, with a burst of twice that; 0: no limit.
    pub writes_per_second: u32,
    /// Longest value, in bytes.
    pub value: usize,
    /// The first delivery's id; the following count up from it.
    pub first_id: u64,
}

/// Who triggers what: the part of the configuration that may change with a reload.
#[derive(Debug, Clone)]
pub struct Routes {
    /// The devices.
    pub devices: Vec<Arc<Device>>,
    /// The webhooks.
    pub webhooks: Vec<Arc<Webhook>>,
    /// The zone in which templates show the time.
    pub zone: TimeZone,
    /// The owner's address for the placeholder.
    pub owner_email: Option<Arc<str>>,
}

/// Where downlinks go. It is called while the hub is locked, so that a device
/// hears in the order in which things happened; it must return at once and must
/// not call the hub.
pub type Sink = Box<dyn Fn(&Downlink) + Send + Sync>;

/// The hub; cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    news: Notify,
    sinks: RwLock<Vec<Sink>>,
    writes_per_second: u32,
    value: usize,
}

struct State {
    devices: HashMap<DeviceName, DeviceState>,
    webhooks: BTreeMap<WebhookName, Arc<Inbox>>,
    /// Those that left the configuration with requests in flight.
    leaving: BTreeMap<WebhookName, Arc<Inbox>>,
    zone: TimeZone,
    owner_email: Option<Arc<str>>,
    next_id: u64,
    next_connection: u64,
    is_stopping: bool,
    dirty: Dirty,
}

struct DeviceState {
    device: Arc<Device>,
    values: BTreeMap<Pin, PinValue>,
    properties: Properties,
    listeners: Vec<Listener>,
    bucket: Bucket,
    diag: Diag,
    connections: HashMap<u64, Arc<dyn Room>>,
}

/// A webhook that listens to a device.
#[derive(Clone)]
struct Listener {
    webhook: Arc<Webhook>,
    inbox: Arc<Inbox>,
}

impl DeviceState {
    fn new(device: Arc<Device>, writes_per_second: u32) -> DeviceState {
        DeviceState {
            device,
            values: BTreeMap::new(),
            properties: Properties::default(),
            listeners: Vec::new(),
            bucket: Bucket::new(writes_per_second),
            diag: Diag::default(),
            connections: HashMap::new(),
        }
    }
}

/// What the observer has not seen yet.
#[derive(Default)]
struct Dirty {
    /// With the number of the write, so that they come out in order.
    pins: HashMap<(DeviceName, Pin), u64>,
    /// The same of properties.
    properties: HashMap<(DeviceName, Pin, PropertyName), u64>,
    writes: u64,
    status: HashSet<DeviceName>,
    webhooks: HashSet<WebhookName>,
    gone: Vec<Gone>,
    reports: VecDeque<Report>,
    /// Reports that were forgotten.
    missed: u64,
}

impl Hub {
    /// A hub of these devices and webhooks. An observer finds all of them in
    /// its first [`Changes`].
    pub fn new(settings: Settings) -> Hub {
        let Settings {
            routes,
            writes_per_second,
            value,
            first_id,
        } = settings;
        let hub = Hub(Arc::new(Inner {
            state: Mutex::new(State {
                devices: HashMap::new(),
                webhooks: BTreeMap::new(),
                leaving: BTreeMap::new(),
                zone: routes.zone.clone(),
                owner_email: None,
                next_id: first_id,
                next_connection: 0,
                is_stopping: false,
                dirty: Dirty::default(),
            }),
            news: Notify::new(),
            sinks: RwLock::default(),
            writes_per_second,
            value,
        }));
        hub.reconfigure(routes, Instant::now());
        hub
    }

    /// Says where downlinks go, too: every front end that has devices takes them all.
    /// What happened before is lost.
    pub fn add_sink(&self, sink: Sink) {
        let mut sinks = self.0.sinks.write().expect("no panic under this lock");
        sinks.push(sink);
    }

    /// The value of a pin, if it was ever written.
    pub fn read(&self, device: &DeviceName, pin: Pin) -> Option<PinValue> {
        self.lock().devices.get(device)?.values.get(&pin).cloned()
    }

    /// The values of all pins of a device that were ever written, by pin.
    pub fn values(&self, device: &DeviceName) -> Vec<(Pin, PinValue)> {
        let state = self.lock();
        let values = state.devices.get(device).map(|device| device.values.iter());
        let copy = |(pin, value): (&Pin, &PinValue)| (*pin, value.clone());
        values.into_iter().flatten().map(copy).collect()
    }

    /// How many connections of a device there are, over whatever protocol.
    pub fn connections(&self, device: &DeviceName) -> usize {
        let state = self.lock();
        let device = state.devices.get(device);
        device.map_or(0, |device| device.connections.len())
    }

    /// Whether a device has any connection, over whatever protocol.
    pub fn is_connected(&self, device: &DeviceName) -> bool {
        self.connections(device) > 0
    }

    /// Whether a webhook listens to events of this code of a device.
    pub fn has_listener(&self, device: &DeviceName, code: &EventCode) -> bool {
        let state = self.lock();
        let device = state.devices.get(device);
        device.is_some_and(|device| {
            let mut listeners = device.listeners.iter();
            listeners.any(|listener| listener.webhook.matching_event(code).is_some())
        })
    }

    /// The time at `at` on a clock in the configured zone, in seconds as if that
    /// clock showed Unix time: what Blynk's `rtc` is (blynk.md §1.3).
    pub fn wall_clock(&self, at: jiff::Timestamp) -> i64 {
        let offset = self.lock().zone.to_offset(at);
        at.as_second() + i64::from(offset.seconds())
    }

    /// A configured device.
    pub fn device(&self, name: &str) -> Option<Arc<Device>> {
        let state = self.lock();
        state
            .devices
            .get(name)
            .map(|device| Arc::clone(&device.device))
    }

    /// Notes that a connection of `device` is there, until the attachment is
    /// dropped. `room` is asked what fits it, while the hub is locked.
    pub fn attach(&self, name: &DeviceName, room: Arc<dyn Room>) -> Attachment {
        let mut guard = self.lock();
        let state = &mut *guard;
        let id = state.next_connection;
        state.next_connection += 1;
        if let Some(device) = state.devices.get_mut(name) {
            device.connections.insert(id, room);
            if device.connections.len() == 1 {
                state.dirty.status.insert(name.clone());
            }
        }
        drop(guard);
        self.0.news.notify_one();
        Attachment {
            hub: self.clone(),
            device: name.clone(),
            id,
        }
    }

    fn detach(&self, name: &DeviceName, id: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(device) = state.devices.get_mut(name)
            && device.connections.remove(&id).is_some()
            && device.connections.is_empty()
        {
            state.dirty.status.insert(name.clone());
        }
        drop(guard);
        self.0.news.notify_one();
    }

    /// Tells a device that something it did went wrong; at most one line a
    /// second gets through, [`tick`](Self::tick) brings the rest.
    pub fn diag(&self, device: &DeviceName, line: &str, now: Instant) {
        if let Some(device) = self.lock().devices.get_mut(device) {
            self.diag_locked(device, line, now);
        }
    }

    fn diag_locked(&self, device: &mut DeviceState, line: &str, now: Instant) {
        match device.diag.tell(line, now) {
            Some(line) => self.send_diag(device, line),
            None => self.0.news.notify_one(),
        }
    }

    fn send_diag(&self, device: &DeviceState, line: String) {
        self.send(&device.device, What::Diag(line));
    }

    /// Sends the lines that were held back and are due; whether some still wait.
    pub fn tick(&self, now: Instant) -> bool {
        let mut is_holding = false;
        for device in self.lock().devices.values_mut() {
            if let Some(line) = device.diag.flush(now) {
                self.send_diag(device, line);
            }
            is_holding |= device.diag.is_holding();
        }
        is_holding
    }

    /// The inboxes of all webhooks, one for each worker.
    pub fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.lock().webhooks.values().cloned().collect()
    }

    /// Refuses writes from here on, and ends what waits as `shutdown`.
    pub fn stop(&self, now: Instant) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.is_stopping = true;
        let inboxes: Vec<_> = state.webhooks.values().cloned().collect();
        for inbox in inboxes {
            let after = inbox.close(Outcome::Shutdown);
            self.tell(state, &inbox, after, now);
        }
        drop(guard);
        self.0.news.notify_one();
    }

    /// Waits until there is something new for the observer. Cancel-safe. There
    /// is one observer: what it takes is gone.
    pub async fn changed(&self) {
        self.0.news.notified().await;
    }

    /// Takes what is new.
    pub fn take_changes(&self) -> Changes {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut changes = Changes {
            reports: state.dirty.reports.drain(..).collect(),
            missed: std::mem::take(&mut state.dirty.missed),
            gone: std::mem::take(&mut state.dirty.gone),
            ..Changes::default()
        };
        let mut pins: Vec<_> = state.dirty.pins.drain().collect();
        pins.sort_unstable_by_key(|(_, number)| *number);
        for ((name, pin), _) in pins {
            let Some(device) = state.devices.get(&name) else {
                continue;
            };
            let value = device.values.get(&pin).cloned();
            let device = Arc::clone(&device.device);
            changes.pins.push((device, pin, value));
        }
        let mut properties: Vec<_> = state.dirty.properties.drain().collect();
        properties.sort_unstable_by_key(|(_, number)| *number);
        for ((name, pin, property), _) in properties {
            let Some(device) = state.devices.get(&name) else {
                continue;
            };
            let value = device.properties.get(pin, property).cloned();
            let device = Arc::clone(&device.device);
            changes.properties.push((device, pin, property, value));
        }
        for name in state.dirty.status.drain() {
            if let Some(device) = state.devices.get(&name) {
                let is_connected = !device.connections.is_empty();
                changes.status.push((name, is_connected));
            }
        }
        for name in state.dirty.webhooks.drain() {
            changes
                .webhooks
                .extend(state.webhooks.get(&name).map(|inbox| inbox.state()));
        }
        changes
    }

    fn send(&self, device: &Arc<Device>, what: What) {
        let device = Arc::clone(device);
        let downlink = Downlink { device, what };
        let sinks = self.0.sinks.read().expect("no panic under this lock");
        sinks.iter().for_each(|sink| sink(&downlink));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic under this lock")
    }
}

/// A connection of a device; dropping it says that it is gone.
pub struct Attachment {
    hub: Hub,
    device: DeviceName,
    id: u64,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.hub.detach(&self.device, self.id);
    }
}

impl Dirty {
    fn written(&mut self, device: &DeviceName, pin: Pin) {
        self.writes += 1;
        self.pins.insert((device.clone(), pin), self.writes);
    }

    fn set(&mut self, device: &DeviceName, pin: Pin, property: PropertyName) {
        self.writes += 1;
        let key = (device.clone(), pin, property);
        self.properties.insert(key, self.writes);
    }

    fn report(&mut self, report: Report) {
        if self.reports.len() == MAX_REPORTS {
            self.reports.pop_front();
            self.missed += 1;
        }
        self.reports.push_back(report);
    }
}

#[cfg(test)]
mod tests;
