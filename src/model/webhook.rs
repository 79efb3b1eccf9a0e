//! Webhooks as they are configured, and how a delivery ends.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::Limits;
use super::pending::Excess;
use super::request::RequestTemplate;
use super::response::{ResponseRule, Statuses};
use super::retry::Retry;
use super::template::Condition;
use super::transport::{Hosts, Transport};
use super::{DeviceName, EventCode, Pin, PinValue, Source, WebhookName};

/// A configured request and what triggers it.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its name, unique among webhooks.
    pub name: WebhookName,
    /// The devices whose writes or events trigger it.
    pub devices: Vec<DeviceName>,
    /// What of those devices triggers it.
    pub on: Triggers,
    /// Whose writes trigger it; `None`: everybody's.
    pub from: Option<Source>,
    /// What must hold for a write to trigger it.
    pub when: Option<Condition>,
    /// The request, to be filled in.
    pub request: RequestTemplate,
    /// The hosts that a request may go to; `None`: any.
    pub allow_hosts: Option<Hosts>,
    /// The HTTP client it needs.
    pub transport: Arc<Transport>,
    /// Time for one attempt, from its start to the last byte of the body.
    pub timeout: Duration,
    /// How many redirects are followed.
    pub redirects: u32,
    /// Which statuses are success.
    pub success: Statuses,
    /// What the gate holds.
    pub limits: Limits,
    /// What becomes of a write that must wait.
    pub excess: Excess,
    /// When it tries again.
    pub retry: Retry,
    /// Requests in flight at a time, at least 1; never two for one device.
    pub concurrency: usize,
    /// What becomes of the response.
    pub response: ResponseRule,
}

/// What a webhook listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Triggers {
    /// Writes to these pins.
    Pins(Vec<Pin>),
    /// Events of this code.
    Event(EventCode),
}

impl Triggers {
    /// Whether `trigger` is one of them.
    pub fn have(&self, trigger: &Trigger) -> bool {
        match (self, trigger) {
            (Triggers::Pins(pins), Trigger::Pin(pin)) => pins.contains(pin),
            (Triggers::Event(own), Trigger::Event(code)) => own == code,
            _ => false,
        }
    }
}

impl Webhook {
    /// Whether a template of it looks up `name`.
    pub fn uses(&self, name: &str) -> bool {
        let mut response = self.response.values.iter().flatten();
        self.request.uses(name) || response.any(|template| template.uses(name))
    }

    /// What a write to `pin` triggers: the webhook's same pin, and for a digital
    /// write also the analog pin of that number (blynk.md §2).
    pub fn matching(&self, pin: Pin) -> Option<Trigger> {
        let Triggers::Pins(pins) = &self.on else {
            return None;
        };
        let is_same = |own: &&Pin| **own == pin;
        let is_analog = |own: &&Pin| {
            use super::PinKind::{Analog, Digital};
            (own.kind, pin.kind) == (Analog, Digital) && own.number == pin.number
        };
        let exact = pins.iter().find(is_same);
        let pin = exact.or_else(|| pins.iter().find(is_analog))?;
        Some(Trigger::Pin(*pin))
    }

    /// What an event of `code` triggers.
    pub fn matching_event(&self, code: &EventCode) -> Option<Trigger> {
        let Triggers::Event(own) = &self.on else {
            return None;
        };
        (own == code).then(|| Trigger::Event(code.clone()))
    }

    /// Whether it still listens to what triggered `delivery`.
    pub fn listens_to(&self, delivery: &Delivery) -> bool {
        self.on.have(&delivery.trigger) && self.devices.contains(&delivery.device)
    }
}

/// What triggered a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The webhook's pin that matched.
    Pin(Pin),
    /// An event of this code.
    Event(EventCode),
}

impl Trigger {
    /// The pin, if it is one.
    pub fn pin(&self) -> Option<Pin> {
        match self {
            Trigger::Pin(pin) => Some(*pin),
            Trigger::Event(_) => None,
        }
    }

    /// The event's code, if it is one.
    pub fn event(&self) -> Option<&EventCode> {
        match self {
            Trigger::Pin(_) => None,
            Trigger::Event(code) => Some(code),
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Pin(pin) => pin.fmt(f),
            Trigger::Event(code) => write!(f, "event {code}"),
        }
    }
}

/// Names one delivery in logs, topics and the `X-Pinhook-Delivery` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryId(pub u64);

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One triggered write, or event, on its way out.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// Whose write it was.
    pub device: DeviceName,
    /// What matched.
    pub trigger: Trigger,
    /// The value that was written, or came with the event.
    pub value: PinValue,
    /// Who wrote.
    pub source: Source,
    /// When the write, or the event, came in.
    pub at: Instant,
    /// What has been tried so far.
    pub tries: Tries,
}

/// The attempts of a delivery so far.
#[derive(Debug, Clone, Default)]
pub struct Tries {
    /// How many HTTP requests were made.
    pub made: u32,
    /// When the first began.
    pub began: Option<Instant>,
    /// When the request of the last was sent, if it came to that.
    pub sent: Option<Instant>,
    /// The status of the last response, if there was one.
    pub status: Option<u16>,
    /// Bytes of its body that were read.
    pub bytes: usize,
    /// What went wrong last, in a sentence.
    pub error: Option<String>,
}

/// How a delivery ended; every triggered write ends in exactly one of these
/// (product.md §5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The third party answered with a status that counts as success.
    Ok,
    /// Another status, or a transport error.
    Failed,
    /// It came sooner than `every` allows, and `excess` is `drop`.
    Limited,
    /// A newer write of the same pin took its place.
    Superseded,
    /// More waited than `queue` allows, and it was the oldest.
    QueueFull,
    /// The webhook was stopped.
    Stopped,
    /// Its webhook or device left the configuration.
    Removed,
    /// The daemon was told to stop before it was sent.
    Shutdown,
    /// A template could not be filled in.
    RenderError,
    /// The response was larger than `response.max_size`.
    TooLarge,
    /// The response was larger than every connection of the device takes.
    DoesNotFit,
    /// The response came, and `response.value` could not be filled in.
    ResponseError,
}

impl Outcome {
    /// All of them, in the order of [`Tally`].
    pub const ALL: [Outcome; 12] = [
        Outcome::Ok,
        Outcome::Failed,
        Outcome::Limited,
        Outcome::Superseded,
        Outcome::QueueFull,
        Outcome::Stopped,
        Outcome::Removed,
        Outcome::Shutdown,
        Outcome::RenderError,
        Outcome::TooLarge,
        Outcome::DoesNotFit,
        Outcome::ResponseError,
    ];

    /// The word for it in topics, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Limited => "limited",
            Outcome::Superseded => "superseded",
            Outcome::QueueFull => "queue_full",
            Outcome::Stopped => "stopped",
            Outcome::Removed => "removed",
            Outcome::Shutdown => "shutdown",
            Outcome::RenderError => "render_error",
            Outcome::TooLarge => "too_large",
            Outcome::DoesNotFit => "does_not_fit",
            Outcome::ResponseError => "response_error",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many deliveries ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally([u64; Outcome::ALL.len()]);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, outcome: Outcome) {
        self.0[outcome as usize] += 1;
    }

    /// How many ended so.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// How many ended at all.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A delivery as the hub would make it, for tests of what waits and goes.
    pub(crate) fn delivery(device: &str, pin: &str, value: &str) -> Delivery {
        let pin = pin.parse().unwrap();
        Delivery {
            id: DeliveryId(0),
            device: device.parse().unwrap(),
            trigger: Trigger::Pin(pin),
            value: value.into(),
            source: Source::Hardware,
            at: Instant::now(),
            tries: Tries::default(),
        }
    }

    #[test]
    fn every_outcome_has_its_own_place_in_the_tally() {
        let mut tally = Tally::default();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            tally.add(outcome);
        }

        assert_eq!(tally.sum(), Outcome::ALL.len() as u64);
    }
}
