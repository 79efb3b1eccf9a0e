//! The hub: every write comes in here, whatever door it came through, and every
//! delivery ends here. The only shared state of the domain.
//!
//! All calls return at once; nothing here waits. One lock guards the values and
//! what observers are told of them, so that everybody sees writes in one order.

mod event;
pub mod inbox;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Instant, SystemTime};

use tokio::sync::Notify;

use crate::model::bucket::Bucket;
use crate::model::diag::Diag;
use crate::model::gate::{Ticket, Transition, Verdict};
use crate::model::webhook::{Delivery, DeliveryId, Trigger};
use crate::model::{
    Device, DeviceName, Outcome, Pin, PinValue, Source, Webhook, WebhookName, Write,
};
pub use event::{Changes, Downlink, Report, WebhookState, What};
use inbox::End;
pub use inbox::{Counts, Inbox};

/// Reports that wait for the observer; beyond it the oldest is forgotten and
/// counted, since nobody may hold the hub up by not looking.
const MAX_REPORTS: usize = 4096;

/// What the hub is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The devices.
    pub devices: Vec<Arc<Device>>,
    /// The webhooks.
    pub webhooks: Vec<Arc<Webhook>>,
    /// Writes a second of one device, with a burst of twice that; 0: no limit.
    pub writes_per_second: u32,
    /// Longest value, in bytes.
    pub value: usize,
    /// The first delivery's id; the following count up from it.
    pub first_id: u64,
}

/// Why a write was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no such device.
    #[error("there is no device `{0}`")]
    UnknownDevice(DeviceName),
    /// The value is too long.
    #[error("value of {found} bytes for {pin}: at most {limit} are allowed (limits.value)")]
    TooLong {
        /// For which pin.
        pin: Pin,
        /// Its bytes.
        found: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Too many writes.
    #[error("more than {0} writes a second (limits.writes_per_second)")]
    TooMany(u32),
    /// The daemon is stopping.
    #[error("pinhook is stopping")]
    Stopping,
}

/// How a delivery that was sent ended.
#[derive(Debug)]
pub struct Finished {
    /// The delivery.
    pub delivery: Delivery,
    /// The gate's leave for it.
    pub ticket: Ticket,
    /// How it ended.
    pub outcome: Outcome,
    /// What it says about the third party.
    pub verdict: Verdict,
    /// What goes back to the device.
    pub response: Option<(Pin, PinValue)>,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// How long it took.
    pub elapsed: std::time::Duration,
    /// Bytes of body that were read.
    pub bytes: usize,
    /// HTTP requests that were made.
    pub attempts: u32,
    /// What went wrong, in a sentence.
    pub error: Option<String>,
}

/// Where downlinks go. It is called while the hub is locked, so that a device
/// hears in the order in which things happened; it must return at once and must
/// not call the hub.
pub type Sink = Box<dyn Fn(Downlink) + Send + Sync>;

/// The hub; cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    news: Notify,
    sink: OnceLock<Sink>,
    writes_per_second: u32,
    value: usize,
}

struct State {
    devices: HashMap<DeviceName, DeviceState>,
    webhooks: BTreeMap<WebhookName, Arc<Inbox>>,
    next_id: u64,
    is_stopping: bool,
    dirty: Dirty,
}

struct DeviceState {
    device: Arc<Device>,
    values: BTreeMap<Pin, PinValue>,
    webhooks: Vec<Arc<Inbox>>,
    bucket: Bucket,
    diag: Diag,
    connections: usize,
}

/// What the observer has not seen yet.
#[derive(Default)]
struct Dirty {
    /// With the number of the write, so that they come out in order.
    pins: HashMap<(DeviceName, Pin), u64>,
    writes: u64,
    status: HashSet<DeviceName>,
    webhooks: HashSet<WebhookName>,
    reports: VecDeque<Report>,
    /// Reports that were forgotten.
    missed: u64,
}

impl Hub {
    /// A hub of these devices and webhooks. An observer finds all of them in
    /// its first [`Changes`].
    pub fn new(settings: Settings) -> Hub {
        let inboxes: Vec<_> = settings
            .webhooks
            .into_iter()
            .map(Inbox::new)
            .map(Arc::new)
            .collect();
        let devices = settings.devices.into_iter().map(|device| {
            let listens = |inbox: &&Arc<Inbox>| inbox.webhook().devices.contains(&device.name);
            let state = DeviceState {
                webhooks: inboxes.iter().filter(listens).cloned().collect(),
                values: BTreeMap::new(),
                bucket: Bucket::new(settings.writes_per_second),
                diag: Diag::default(),
                connections: 0,
                device: Arc::clone(&device),
            };
            (device.name.clone(), state)
        });
        let devices: HashMap<_, _> = devices.collect();
        let named = |inbox: Arc<Inbox>| (inbox.webhook().name.clone(), inbox);
        let webhooks: BTreeMap<_, _> = inboxes.into_iter().map(named).collect();
        let dirty = Dirty {
            status: devices.keys().cloned().collect(),
            webhooks: webhooks.keys().cloned().collect(),
            ..Dirty::default()
        };
        let news = Notify::new();
        news.notify_one();
        Hub(Arc::new(Inner {
            state: Mutex::new(State {
                devices,
                webhooks,
                next_id: settings.first_id,
                is_stopping: false,
                dirty,
            }),
            news,
            sink: OnceLock::new(),
            writes_per_second: settings.writes_per_second,
            value: settings.value,
        }))
    }

    /// Says where downlinks go; what happened before is lost. The first call counts.
    pub fn set_sink(&self, sink: Sink) {
        let _ = self.0.sink.set(sink);
    }

    /// Takes a write: remembers the value, tells observers, and the device if it
    /// was somebody else's write, and triggers the webhooks that listen.
    ///
    /// # Errors
    ///
    /// A refused write changes nothing. Where the device made a mistake, it is
    /// told on `diag`.
    pub fn write(&self, write: Write, now: Instant) -> Result<(), WriteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.is_stopping {
            return Err(WriteError::Stopping);
        }
        let Some(device) = state.devices.get_mut(&write.device) else {
            return Err(WriteError::UnknownDevice(write.device));
        };
        if let Err(error) = self.check(&write, device, now) {
            return Err(self.refuse(device, error, now));
        }
        let (pin, value) = (write.pin, write.value.clone());
        device.values.insert(pin, value.clone());
        state.dirty.written(&write.device, pin);
        if write.source == Source::App {
            self.send(&device.device, What::Value(pin, value));
        }
        let mut stopped = Vec::new();
        for inbox in &device.webhooks {
            let Some(trigger) = inbox.webhook().matching(pin) else {
                continue;
            };
            let delivery = Delivery {
                id: DeliveryId(state.next_id),
                trigger: Trigger::Pin(trigger),
                write: write.clone(),
            };
            state.next_id = state.next_id.wrapping_add(1);
            if let Some((ended, outcome)) = inbox.push(delivery, now) {
                if outcome == Outcome::Stopped {
                    stopped.push(Arc::clone(inbox));
                }
                state.dirty.report(ended_unsent(inbox, ended, outcome));
            }
        }
        for inbox in stopped {
            let line = format!("{}: is stopped, {pin} was not sent", inbox.webhook().name);
            self.diag_locked(device, &line, now);
        }
        drop(guard);
        self.0.news.notify_one();
        Ok(())
    }

    fn check(
        &self,
        write: &Write,
        device: &mut DeviceState,
        now: Instant,
    ) -> Result<(), WriteError> {
        let found = write.value.as_wire().len();
        if found > self.0.value {
            return Err(WriteError::TooLong {
                pin: write.pin,
                found,
                limit: self.0.value,
            });
        }
        match device.bucket.take(now) {
            true => Ok(()),
            false => Err(self.too_many()),
        }
    }

    fn too_many(&self) -> WriteError {
        WriteError::TooMany(self.0.writes_per_second)
    }

    /// Tells the device why it is refused.
    fn refuse(&self, device: &mut DeviceState, error: WriteError, now: Instant) -> WriteError {
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
            self.send(&device.device, What::Value(*pin, value.clone()));
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

    /// The value of a pin, if it was ever written.
    pub fn read(&self, device: &DeviceName, pin: Pin) -> Option<PinValue> {
        self.lock().devices.get(device)?.values.get(&pin).cloned()
    }

    /// The values of all pins of a device.
    pub fn values(&self, device: &DeviceName) -> BTreeMap<Pin, PinValue> {
        let state = self.lock();
        state
            .devices
            .get(device)
            .map(|device| device.values.clone())
            .unwrap_or_default()
    }

    /// A configured device.
    pub fn device(&self, name: &str) -> Option<Arc<Device>> {
        let state = self.lock();
        state
            .devices
            .get(name)
            .map(|device| Arc::clone(&device.device))
    }

    /// Notes that a connection of `device` is there, until the attachment is dropped.
    pub fn attach(&self, device: &DeviceName) -> Attachment {
        self.count_connection(device, |connections| connections + 1);
        Attachment {
            hub: self.clone(),
            device: device.clone(),
        }
    }

    fn count_connection(&self, name: &DeviceName, count: impl Fn(usize) -> usize) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(device) = state.devices.get_mut(name) {
            let was_connected = device.connections > 0;
            device.connections = count(device.connections);
            if was_connected != (device.connections > 0) {
                state.dirty.status.insert(name.clone());
            }
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

    /// Takes note of a delivery that was sent and has ended: writes the response
    /// to the device, tells observers, and the device what went wrong. Never
    /// triggers a webhook, so no two of them can feed each other.
    pub fn deliver(&self, inbox: &Arc<Inbox>, finished: Finished, now: Instant) {
        let end = End {
            outcome: finished.outcome,
            verdict: finished.verdict,
            status: finished.status,
        };
        let after = inbox.finish(&finished.delivery, finished.ticket, &end, now);
        let webhook = &inbox.webhook().name;
        let device_name = finished.delivery.write.device.clone();
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(device) = state.devices.get_mut(&device_name) {
            if let Some((pin, value)) = finished.response {
                self.send(&device.device, What::Value(pin, value));
            }
            if let Some(error) = &finished.error {
                self.diag_locked(device, &format!("{webhook}: {error}"), now);
            }
        }
        let told = after.transition.map(|transition| match transition {
            Transition::Stopped { again } => stopped_line(inbox, again),
            Transition::Resumed => "works again, resumed".to_owned(),
        });
        if let Some(line) = &told {
            self.tell_all(state, inbox.webhook(), line);
        }
        for waited in after.ended {
            state
                .dirty
                .report(ended_unsent(inbox, waited, Outcome::Stopped));
        }
        if after.is_news {
            state.dirty.webhooks.insert(webhook.clone());
        }
        state.dirty.report(Report {
            id: finished.delivery.id,
            webhook: webhook.clone(),
            device: device_name,
            trigger: finished.delivery.trigger,
            outcome: finished.outcome,
            status: finished.status,
            elapsed: finished.elapsed,
            bytes: finished.bytes,
            attempts: finished.attempts,
            error: finished.error,
        });
        drop(guard);
        self.0.news.notify_one();
        match (after.transition, told) {
            (Some(Transition::Stopped { .. }), Some(line)) => tracing::warn!(%webhook, "{line}"),
            (_, Some(line)) => tracing::info!(%webhook, "{line}"),
            (_, None) => {}
        }
    }

    /// Tells every device of a webhook that it stopped or goes on; these lines
    /// are never held back.
    fn tell_all(&self, state: &State, webhook: &Webhook, line: &str) {
        for device in &webhook.devices {
            if let Some(device) = state.devices.get(device) {
                self.send_diag(device, format!("{}: {line}", webhook.name));
            }
        }
    }

    /// Makes a stopped webhook ready again; false if it was ready.
    ///
    /// # Errors
    ///
    /// When there is no webhook of that name: the names that there are.
    pub fn resume(&self, name: &str) -> Result<bool, Vec<WebhookName>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(inbox) = state.webhooks.get(name) else {
            return Err(state.webhooks.keys().cloned().collect());
        };
        if !inbox.resume() {
            return Ok(false);
        }
        let webhook = Arc::clone(inbox.webhook());
        self.tell_all(state, &webhook, "resumed");
        state.dirty.webhooks.insert(webhook.name.clone());
        drop(guard);
        self.0.news.notify_one();
        tracing::info!(webhook = %webhook.name, "resumed");
        Ok(true)
    }

    /// The inboxes of all webhooks, one for each worker.
    pub fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.lock().webhooks.values().cloned().collect()
    }

    /// The numbers of all webhooks.
    pub fn snapshot(&self) -> BTreeMap<WebhookName, Counts> {
        let state = self.lock();
        let counts = |(name, inbox): (&WebhookName, &Arc<Inbox>)| (name.clone(), inbox.counts());
        state.webhooks.iter().map(counts).collect()
    }

    /// Refuses writes from here on, and ends what waits as `shutdown`.
    pub fn stop(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.is_stopping = true;
        for inbox in state.webhooks.values() {
            for waited in inbox.close() {
                state
                    .dirty
                    .report(ended_unsent(inbox, waited, Outcome::Shutdown));
            }
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
            ..Changes::default()
        };
        let mut pins: Vec<_> = state.dirty.pins.drain().collect();
        pins.sort_unstable_by_key(|(_, number)| *number);
        for ((name, pin), _) in pins {
            let Some(device) = state.devices.get(&name) else {
                continue;
            };
            if let Some(value) = device.values.get(&pin) {
                changes
                    .pins
                    .push((Arc::clone(&device.device), pin, value.clone()));
            }
        }
        for name in state.dirty.status.drain() {
            if let Some(device) = state.devices.get(&name) {
                changes.status.push((name, device.connections > 0));
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
        if let Some(sink) = self.0.sink.get() {
            let device = Arc::clone(device);
            sink(Downlink { device, what });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic under this lock")
    }
}

/// A connection of a device; dropping it says that it is gone.
pub struct Attachment {
    hub: Hub,
    device: DeviceName,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.hub
            .count_connection(&self.device, |connections| connections - 1);
    }
}

impl Dirty {
    fn written(&mut self, device: &DeviceName, pin: Pin) {
        self.writes += 1;
        self.pins.insert((device.clone(), pin), self.writes);
    }

    fn report(&mut self, report: Report) {
        if self.reports.len() == MAX_REPORTS {
            self.reports.pop_front();
            self.missed += 1;
        }
        self.reports.push_back(report);
    }
}

/// The report of a delivery that ended before it was sent.
fn ended_unsent(inbox: &Inbox, delivery: Delivery, outcome: Outcome) -> Report {
    Report {
        id: delivery.id,
        webhook: inbox.webhook().name.clone(),
        device: delivery.write.device,
        trigger: delivery.trigger,
        outcome,
        status: None,
        elapsed: std::time::Duration::ZERO,
        bytes: 0,
        attempts: 0,
        error: None,
    }
}

fn stopped_line(inbox: &Inbox, again: bool) -> String {
    let state = inbox.state();
    let what = match again {
        true => "still fails and stays stopped".to_owned(),
        false => format!("stopped after {} failures in a row", state.failures),
    };
    let next = state
        .next_probe
        .and_then(|at| at.duration_since(SystemTime::now()).ok());
    match next {
        Some(wait) => {
            let minutes = wait.as_secs().div_ceil(60);
            format!("{what}; tried again with the first write after {minutes} min, or resume it")
        }
        None => format!("{what} until it is resumed"),
    }
}

#[cfg(test)]
mod tests;
