//! What becomes of a published message: permission, meaning, and the way to
//! everybody else. PUBLISH and wills go through here alike.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::budget::Budget;
use super::counters::{PublishRefused, SubscribeRefused, Tally};
use super::packet::Reason;
use super::pins::{self, Inbound, Misread, Topics};
use super::publish_own;
use crate::access::{Gossip, Principal, plain};
use crate::broker::{Broker, ClientKey, Held, Message, QoS, RetainRefused};
use crate::hub::{Hub, WriteError};
use crate::model::property::PropertyError;
use crate::model::{DeviceName, Write};

/// Where published messages go.
pub(super) struct Intake {
    pub hub: Hub,
    pub broker: Broker,
    pub topics: Topics,
    pub tally: Tally,
    pub gossip: Arc<Gossip>,
    /// Devices whose retained writes were noted in the log.
    noted: Mutex<HashSet<DeviceName>>,
    /// What the broker's queues had dropped when it was looked at last.
    queue_drops: AtomicU64,
}

/// Who publishes.
#[derive(Clone, Copy)]
pub(super) struct Publisher<'a> {
    /// As whom.
    pub principal: &'a Principal,
    /// As which client.
    pub client: &'a ClientKey,
    /// What its connection takes: of a device, unless the connection is gone.
    pub budget: Option<&'a Budget>,
}

/// Payloads above this, in bytes, are read only while the device may write.
const LONG: usize = 256;

/// What became of a message.
pub(super) struct Taken {
    /// For the acknowledgement; 3.1.1 has none and acknowledges anyway (MQTT-3.3.5-2).
    pub reason: Reason,
    /// Subscribers whose queues are full: the acknowledgement waits for them.
    pub held: Vec<Held>,
}

impl Taken {
    /// Refused, or taken without anybody to pass it on to: nothing to wait for.
    pub fn at_once(reason: Reason) -> Taken {
        Taken {
            reason,
            held: Vec::new(),
        }
    }
}

impl Intake {
    /// Takes messages to these.
    pub fn new(hub: Hub, broker: Broker, topics: Topics, gossip: Arc<Gossip>) -> Intake {
        Intake {
            hub,
            broker,
            topics,
            tally: Tally::default(),
            gossip,
            noted: Mutex::default(),
            queue_drops: AtomicU64::new(0),
        }
    }

    /// Takes a message with its full name; `shown` is the topic as the client
    /// said it, for what it is told.
    pub fn take(
        &self,
        publisher: Publisher<'_>,
        mut message: Message,
        shown: &str,
        now: Instant,
    ) -> Taken {
        let principal = publisher.principal;
        self.tally.receive();
        if let Err(refusal) = principal.may_publish(self.topics.base(), &message.topic) {
            self.tally.refuse_publish(PublishRefused::NotAllowed);
            self.tell(
                principal,
                &format!("publish on {shown} refused: {refusal}"),
                now,
            );
            return Taken::at_once(Reason::NOT_AUTHORIZED);
        }
        let unheard = match self.meaning(&message, publisher, now) {
            Ok(None) => Reason::NO_MATCHING_SUBSCRIBERS,
            Ok(Some(reason)) if reason.is_error() => return Taken::at_once(reason),
            // A write happens once; what is retained is `state/`.
            Ok(Some(_)) => {
                message.retain = false;
                Reason::SUCCESS
            }
            Err(reason) => return Taken::at_once(reason),
        };
        let qos = message.qos;
        let published = self.broker.publish(Some(publisher.client), message, now);
        self.note_drops();
        let reason = match published.retained {
            Ok(()) if published.receivers == 0 => unheard,
            Ok(()) => Reason::SUCCESS,
            Err(refused) => {
                self.tally.refuse_publish(match refused {
                    RetainRefused::Messages => PublishRefused::Retained,
                    RetainRefused::Bytes => PublishRefused::RetainedBytes,
                    RetainRefused::Owner => PublishRefused::RetainedPerDevice,
                });
                self.tell(principal, &retain_line(shown, refused), now);
                // It was passed on: with QoS 2 a refusal would let it come again.
                match qos {
                    QoS::ExactlyOnce => Reason::SUCCESS,
                    QoS::AtMostOnce | QoS::AtLeastOnce => Reason::QUOTA_EXCEEDED,
                }
            }
        };
        Taken {
            reason,
            held: published.held,
        }
    }

    /// Does what the message asks of pinhook. `None`: it is an ordinary message.
    fn meaning(
        &self,
        message: &Message,
        publisher: Publisher<'_>,
        now: Instant,
    ) -> Result<Option<Reason>, Reason> {
        let principal = publisher.principal;
        let topic = &*message.topic;
        if let Some(webhook) = self.topics.read_resume(topic, &message.payload) {
            self.resume(&webhook, now);
            return Ok(Some(Reason::SUCCESS));
        }
        let Some((name, rest)) = self.topics.device_of(topic) else {
            return Ok(None);
        };
        let Some(device) = self.hub.device(name) else {
            if !pins::is_for_device(rest) {
                return Ok(None);
            }
            self.tally.refuse_publish(PublishRefused::NoSuchTopic);
            self.tell(
                principal,
                &format!("{topic}: there is no device `{name}`"),
                now,
            );
            return Err(Reason::TOPIC_NAME_INVALID);
        };
        if message.payload.len() > LONG
            && pins::is_for_device(rest)
            && let Err(error) = self.hub.check_rate(&device.name, now)
        {
            return Err(self.refuse(&device.name, &error));
        }
        match pins::read(&device, rest, &message.payload) {
            Ok(None) => Ok(None),
            Ok(Some(inbound)) => {
                if message.retain && !message.payload.is_empty() {
                    self.note_retained(principal, &device.name, rest);
                }
                Ok(Some(self.carry_out(&device.name, inbound, publisher, now)))
            }
            Err(misread) => {
                self.tell_device(&device.name, &misread.to_string(), now);
                let (reason, counted) = judge(&misread);
                self.tally.refuse_publish(counted);
                Err(reason)
            }
        }
    }

    fn carry_out(
        &self,
        device: &DeviceName,
        inbound: Inbound,
        publisher: Publisher<'_>,
        now: Instant,
    ) -> Reason {
        match inbound {
            Inbound::Writes(source, writes) => {
                let mut reason = Reason::SUCCESS;
                for (pin, value) in writes {
                    let write = Write {
                        device: device.clone(),
                        pin,
                        value,
                        source,
                    };
                    if let Err(error) = self.hub.write(write, now) {
                        reason = self.refuse(device, &error);
                        // The rest of a batch would be refused like this one.
                        if matches!(error, WriteError::TooMany(_)) {
                            break;
                        }
                    }
                }
                reason
            }
            Inbound::Erase(pin) => self.reason(device, self.hub.erase(device, pin, now)),
            Inbound::Property(property) => {
                self.reason(device, self.hub.property(device, &property, now))
            }
            Inbound::Get(pins) => {
                self.reason(device, self.hub.answer(device, pins.as_deref(), now))
            }
            Inbound::Clock => {
                let time = jiff::Timestamp::now();
                self.reason(device, self.hub.tell_time(device, time, now))
            }
            Inbound::Event(code, value) => {
                self.reason(device, self.hub.event(device, &code, &value, now))
            }
            Inbound::Mcu(rxbuff) => {
                if let (Some(budget), Some(rxbuff)) = (publisher.budget, rxbuff) {
                    budget.set_rxbuff(rxbuff);
                }
                Reason::SUCCESS
            }
        }
    }

    /// What a call of the hub's ended with, for the acknowledgement.
    fn reason(&self, device: &DeviceName, result: Result<(), WriteError>) -> Reason {
        match result {
            Ok(()) => Reason::SUCCESS,
            Err(error) => self.refuse(device, &error),
        }
    }

    /// Counts and logs what the hub has refused; it has told the device.
    fn refuse(&self, device: &DeviceName, error: &WriteError) -> Reason {
        let (reason, counted) = match error {
            WriteError::TooMany(_) => (Reason::QUOTA_EXCEEDED, PublishRefused::Rate),
            WriteError::TooLong { .. } => (Reason::QUOTA_EXCEEDED, PublishRefused::ValueTooLong),
            WriteError::NoRoomForProperty => (Reason::QUOTA_EXCEEDED, PublishRefused::Properties),
            WriteError::UnknownDevice(_) => {
                (Reason::TOPIC_NAME_INVALID, PublishRefused::NoSuchTopic)
            }
            WriteError::Stopping => (
                Reason::IMPLEMENTATION_SPECIFIC_ERROR,
                PublishRefused::Stopping,
            ),
        };
        self.tally.refuse_publish(counted);
        match error {
            // As often as the device likes.
            WriteError::TooMany(_) => self.gossip.warn_seldom(device.as_str(), "rate", error),
            WriteError::Stopping => {}
            _ => self.gossip.warn(device.as_str(), error),
        }
        reason
    }

    /// Says now and then that readers lose messages. Which reader it is, is seen
    /// when it stalls.
    fn note_drops(&self) {
        let drops = self.broker.queue_drops();
        let before = self.queue_drops.load(Ordering::Relaxed);
        if drops > before {
            self.queue_drops.store(drops, Ordering::Relaxed);
            let line = format_args!(
                "{drops} messages so far were dropped because their subscribers read too slowly \
                 (limits.session_queue, limits.session_queue_bytes)"
            );
            self.gossip.warn_seldom("broker", "queue", line);
        }
    }

    fn resume(&self, webhook: &str, now: Instant) {
        let result = self.hub.resume(webhook, now);
        let json = pins::resume_json(webhook, &result);
        let topic = self.topics.resume_response();
        publish_own(&self.broker, topic, json.into(), false);
    }

    /// Counts a filter that is refused, and tells who wanted it.
    pub fn refuse_filter(
        &self,
        principal: &Principal,
        filter: &str,
        refused: SubscribeRefused,
        why: &dyn fmt::Display,
        now: Instant,
    ) {
        self.tally.refuse_subscription(refused);
        let line = format!("subscribe to {} refused: {why}", pins::shown(filter));
        self.tell(principal, &line, now);
    }

    /// Tells a device that its connection was closed for a packet that is too
    /// large; in the log it stands anyway.
    pub fn tell_too_large(&self, principal: &Principal, why: &str, now: Instant) {
        if let Principal::Device { login, .. } = principal {
            let line = format!("connection closed: {why}");
            self.hub.diag(&login.device.name, &plain(&line), now);
        }
    }

    /// Tells a device that something it did was refused. A user of MQTT 5 hears
    /// it by the reason; what a user of 3.1.1 did stands in the log.
    pub fn tell(&self, principal: &Principal, line: &str, now: Instant) {
        match principal {
            Principal::Device { login, .. } => self.tell_device(&login.device.name, line, now),
            Principal::User(user) => self.gossip.warn(user.name.as_str(), line),
        }
    }

    /// Tells a device of a mistake; it also stands in the log, since a board that
    /// does not listen on `diag` is the rule.
    fn tell_device(&self, device: &DeviceName, line: &str, now: Instant) {
        self.hub.diag(device, &plain(line), now);
        self.gossip.warn(device.as_str(), line);
    }

    fn note_retained(&self, principal: &Principal, device: &DeviceName, topic: &str) {
        let mut noted = self.noted.lock().expect("no panic under this lock");
        if noted.insert(device.clone()) {
            let line = format_args!(
                "{device}/{topic} was published with the retain flag, which is not kept there; \
                 subscribe to state/ for a pin's current value"
            );
            self.gossip.info(&principal.login(), line);
        }
    }
}

/// What a message that is not understood is answered with, and counted as.
fn judge(misread: &Misread) -> (Reason, PublishRefused) {
    match misread {
        Misread::NotText(_) | Misread::Batch(_) | Misread::Mcu(_) => {
            (Reason::PAYLOAD_FORMAT_INVALID, PublishRefused::Payload)
        }
        Misread::Property { why, .. } => match why {
            PropertyError::NoNumber { .. } => {
                (Reason::PAYLOAD_FORMAT_INVALID, PublishRefused::Payload)
            }
            PropertyError::Unknown { .. } => {
                (Reason::TOPIC_NAME_INVALID, PublishRefused::NoSuchTopic)
            }
        },
        Misread::NoPin { .. } | Misread::NoCode(_) | Misread::NoSuchTopic(_) => {
            (Reason::TOPIC_NAME_INVALID, PublishRefused::NoSuchTopic)
        }
        Misread::TooMany => (Reason::QUOTA_EXCEEDED, PublishRefused::TooManyPins),
    }
}

fn retain_line(topic: &str, refused: RetainRefused) -> String {
    let key = match refused {
        RetainRefused::Messages => "retained",
        RetainRefused::Bytes => "retained_bytes",
        RetainRefused::Owner => "retained_per_device",
    };
    format!("the message on {topic} was passed on but not retained: {refused} (limits.{key})")
}
