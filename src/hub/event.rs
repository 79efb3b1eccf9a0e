//! What leaves the hub: downlinks to devices, and what observers are told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::gate;
use crate::model::webhook::Delivery;
use crate::model::{Device, DeviceName, Outcome, Pin, PinValue, PropertyName, WebhookName};

/// Something for a device.
#[derive(Debug, Clone)]
pub struct Downlink {
    /// Which device.
    pub device: Arc<Device>,
    /// What for it.
    pub what: What,
}

/// What goes to a device.
#[derive(Debug, Clone)]
pub enum What {
    /// A value for a pin, and what it comes from.
    Value(Pin, PinValue, Cause),
    /// A line about something that went wrong.
    Diag(String),
    /// The time, as JSON; see [`utc_json`](crate::model::clock::utc_json).
    Clock(String),
}

/// What a value that goes to a device comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A write by the app side.
    Write,
    /// A webhook's response.
    Response,
    /// The device asked for it on `get/ds`.
    Answer,
    /// Another device wrote to it over a Blynk bridge.
    Bridge,
}

/// What has changed since an observer looked last; of everything only the newest.
#[derive(Debug, Default)]
pub struct Changes {
    /// Pins that were written, and their values, in the order of the writes;
    /// `None`: the value was forgotten.
    pub pins: Vec<(Arc<Device>, Pin, Option<PinValue>)>,
    /// Properties that were set, in that order; `None`: it was taken back.
    pub properties: Vec<(Arc<Device>, Pin, PropertyName, Option<PinValue>)>,
    /// Devices that came or went, and whether they are connected.
    pub status: Vec<(DeviceName, bool)>,
    /// Webhooks whose state changed.
    pub webhooks: Vec<WebhookState>,
    /// What left the configuration; to be told before all else.
    pub gone: Vec<Gone>,
    /// Deliveries that ended, oldest first.
    pub reports: Vec<Report>,
    /// Deliveries that ended and are not among them, because too many did.
    pub missed: u64,
}

/// Something that left the configuration.
#[derive(Debug)]
pub enum Gone {
    /// A device, with its pins that had a value, or only what they were called.
    Pins(Arc<Device>, Vec<Pin>),
    /// The same of its properties.
    Properties(Arc<Device>, Vec<(Pin, PropertyName)>),
    /// A device itself.
    Device(DeviceName),
    /// A webhook.
    Webhook(WebhookName),
}

/// The state of a webhook as people see it (product.md §3.2, `bridge/webhooks/NAME`).
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookState {
    /// Which webhook.
    pub webhook: WebhookName,
    /// Ready or stopped.
    pub state: gate::State,
    /// Failed deliveries in a row.
    pub failures: u32,
    /// The last HTTP status, if there ever was one.
    pub last_status: Option<u16>,
    /// Since when it is ready or stopped.
    pub since: SystemTime,
    /// When a stopped one lets the next write through.
    pub next_probe: Option<SystemTime>,
}

/// One delivery that ended (product.md §3.2, `webhook/NAME`).
#[derive(Debug, Clone)]
pub struct Report {
    /// Of which webhook.
    pub webhook: WebhookName,
    /// The delivery, with what was tried and what went wrong.
    pub delivery: Delivery,
    /// How it ended.
    pub outcome: Outcome,
    /// From the first attempt's start to the end; zero if there was none.
    pub elapsed: Duration,
}
