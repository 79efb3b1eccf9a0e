//! The hub: every write comes in here, whatever door it came through, and every
//! delivery ends here. The only shared state of the domain.
//!
//! All calls return at once; nothing here waits. One lock guards the values and
//! what observers are told of them, so that everybody sees writes in one order.

mod event;
pub mod inbox;
mod reload;
mod room;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use jiff::tz::TimeZone;
use tokio::sync::Notify;

use crate::model::bucket::Bucket;
use crate::model::diag::Diag;
use crate::model::gate::{Ticket, Transition};
use crate::model::template::{RenderError, Scope};
use crate::model::webhook::{Delivery, DeliveryId, Tries, Trigger};
use crate::model::{
    Device, DeviceName, EventCode, Outcome, Pin, PinValue, Source, Webhook, WebhookName, Write,
};
pub use event::{Changes, Downlink, Gone, Report, WebhookState, What};
use inbox::Aftermath;
pub use inbox::{Answer, Attempt, Counts, Inbox, Taken};
use room::fit;
pub use room::{Misfit, Room};

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
    /// The daemon is stopping.
    #[error("pinhook is stopping")]
    Stopping,
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
                zone: routes.zone.clone(),
                owner_email: None,
                next_id: first_id,
                next_connection: 0,
                is_stopping: false,
                dirty: Dirty::default(),
            }),
            news: Notify::new(),
            sink: OnceLock::new(),
            writes_per_second,
            value,
        }));
        hub.reconfigure(routes);
        hub
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
        if let Err(error) = self.check(&write.pin, &write.value, device, now) {
            return Err(self.refuse(device, error, now));
        }
        let Write {
            pin, value, source, ..
        } = write;
        device.values.insert(pin, value.clone());
        state.dirty.written(&write.device, pin);
        if source == Source::App {
            self.send(&device.device, What::Value(pin, value.clone()));
        }
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
        if state.is_stopping {
            return Err(WriteError::Stopping);
        }
        let Some(device) = state.devices.get_mut(name) else {
            return Err(WriteError::UnknownDevice(name.clone()));
        };
        if let Err(error) = self.check(&format_args!("event {code}"), value, device, now) {
            return Err(self.refuse(device, error, now));
        }
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
            self.tell(state, &webhook, &inbox, after, 0, now);
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

    fn check(
        &self,
        what: &dyn fmt::Display,
        value: &PinValue,
        device: &mut DeviceState,
        now: Instant,
    ) -> Result<(), WriteError> {
        let found = value.as_wire().len();
        if found > self.0.value {
            return Err(WriteError::TooLong {
                what: what.to_string(),
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

    /// What the templates of `delivery` see; `None` if its device is gone. The
    /// values of the device's other pins are there if `with_pins`.
    pub fn scope(&self, delivery: &Delivery, with_pins: bool) -> Option<Scope> {
        self.lock().scope(delivery, with_pins)
    }

    /// Takes note of an attempt that has ended: writes the response to the
    /// device, tells observers, and the device what went wrong. Never triggers a
    /// webhook, so no two of them can feed each other. What was tried stands in
    /// the delivery.
    ///
    /// False if the delivery goes back to its line for another attempt.
    pub fn deliver(
        &self,
        inbox: &Arc<Inbox>,
        mut delivery: Delivery,
        ticket: Ticket,
        mut attempt: Attempt,
        now: Instant,
    ) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(device) = state.devices.get_mut(&delivery.device)
            && let Some(answer) = attempt.response.take()
        {
            let rooms = device.connections.values();
            if let Err(misfit) = fit(rooms, &device.device, answer.pin, &answer.value) {
                attempt.outcome = Outcome::DoesNotFit;
                delivery.tries.error = Some(misfit.to_string());
            } else {
                let value = answer.value.clone();
                self.send(&device.device, What::Value(answer.pin, value));
            }
            if answer.keep {
                self.keep(state, &delivery.device, answer, now);
            }
        }
        let id = delivery.id;
        let after = inbox.finish(delivery, ticket, &attempt, now);
        let is_over = after.ended.first().is_some_and(|(ended, _)| ended.id == id);
        self.tell(state, &inbox.webhook(), inbox, after, attempt.bytes, now);
        drop(guard);
        self.0.news.notify_one();
        is_over
    }

    /// Stores a response as the pin's value (product.md §5.5, `response.keep`).
    fn keep(&self, state: &mut State, name: &DeviceName, answer: Answer, now: Instant) {
        let Some(device) = state.devices.get_mut(name) else {
            return;
        };
        let found = answer.value.as_wire().len();
        if found > self.0.value {
            let error = WriteError::TooLong {
                what: answer.pin.to_string(),
                found,
                limit: self.0.value,
            };
            self.diag_locked(device, &format!("not kept: {error}"), now);
            return;
        }
        device.values.insert(answer.pin, answer.value);
        state.dirty.written(name, answer.pin);
    }

    /// Tells the device and observers what has become of deliveries and webhook.
    fn tell(
        &self,
        state: &mut State,
        webhook: &Arc<Webhook>,
        inbox: &Inbox,
        after: Aftermath,
        bytes: usize,
        now: Instant,
    ) {
        let mut bytes = Some(bytes);
        // Who waited when the webhook stopped hears of that alone.
        let has_stopped = after.transition.is_some();
        for (delivery, outcome) in after.ended {
            let line = diag_line(&delivery, outcome);
            let line = line.filter(|_| outcome != Outcome::Stopped || !has_stopped);
            if let Some(line) = line
                && let Some(device) = state.devices.get_mut(&delivery.device)
            {
                self.diag_locked(device, &format!("{}: {line}", webhook.name), now);
            }
            let began = delivery.tries.began;
            let elapsed = began.map_or(Duration::ZERO, |began| now - began);
            log(&webhook.name, &delivery, outcome, elapsed);
            state.dirty.report(Report {
                webhook: webhook.name.clone(),
                outcome,
                elapsed,
                // The first is the one whose attempt has ended.
                bytes: bytes.take().unwrap_or(0),
                delivery,
            });
        }
        if after.is_news {
            state.dirty.webhooks.insert(webhook.name.clone());
        }
        if let Some(transition) = after.transition {
            let line = match transition {
                Transition::Stopped { again } => stopped_line(inbox, again),
                Transition::Resumed => "works again, resumed".to_owned(),
            };
            self.tell_all(state, webhook, &line);
            let webhook = &webhook.name;
            match transition {
                Transition::Stopped { .. } => tracing::warn!(%webhook, "{line}"),
                Transition::Resumed => tracing::info!(%webhook, "{line}"),
            }
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
        let webhook = inbox.webhook();
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
            let webhook = inbox.webhook().name.clone();
            for waited in inbox.close(Outcome::Shutdown) {
                let report = unsent(&webhook, waited, Outcome::Shutdown);
                state.dirty.report(report);
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
            gone: std::mem::take(&mut state.dirty.gone),
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

    fn report(&mut self, report: Report) {
        if self.reports.len() == MAX_REPORTS {
            self.reports.pop_front();
            self.missed += 1;
        }
        self.reports.push_back(report);
    }
}

impl State {
    fn scope(&self, delivery: &Delivery, with_pins: bool) -> Option<Scope> {
        let device = self.devices.get(&delivery.device)?;
        Some(Scope {
            value: delivery.value.clone(),
            trigger: delivery.trigger.clone(),
            pins: match with_pins {
                true => device.values.clone(),
                false => BTreeMap::new(),
            },
            device: Arc::clone(&device.device),
            now: SystemTime::now(),
            zone: self.zone.clone(),
            owner_email: self.owner_email.clone(),
            source: delivery.source,
            id: delivery.id.to_string(),
            response: None,
        })
    }
}

/// The report of a delivery that ended without another attempt.
fn unsent(webhook: &WebhookName, delivery: Delivery, outcome: Outcome) -> Report {
    Report {
        webhook: webhook.clone(),
        delivery,
        outcome,
        elapsed: Duration::ZERO,
        bytes: 0,
    }
}

/// What the device is told of a delivery that ended so, if anything.
fn diag_line(delivery: &Delivery, outcome: Outcome) -> Option<String> {
    let trigger = &delivery.trigger;
    match outcome {
        // Everyday life, and what the owner has done.
        Outcome::Ok | Outcome::Limited | Outcome::Removed | Outcome::Shutdown => None,
        Outcome::Stopped => Some(format!("is stopped, {trigger} was not sent")),
        Outcome::QueueFull => Some(format!(
            "too many wait, the oldest write of {trigger} was given up (queue)"
        )),
        _ => delivery.tries.error.clone(),
    }
}

fn log(webhook: &WebhookName, delivery: &Delivery, outcome: Outcome, elapsed: Duration) {
    let (device, pin) = (&delivery.device, &delivery.trigger);
    let ms = elapsed.as_millis() as u64;
    let status = delivery.tries.status;
    match &delivery.tries.error {
        Some(error) => {
            tracing::warn!(%webhook, %device, %pin, status, ms, %outcome, "{error}");
        }
        None => tracing::debug!(%webhook, %device, %pin, status, ms, %outcome, "ended"),
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
