//! What becomes of a published message: permission, meaning, and the way to
//! everybody else. PUBLISH and wills go through here alike.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;

use super::budget::Budget;
use super::gossip::{Gossip, plain};
use super::packet::Reason;
use super::pins::{self, Inbound};
use super::publish_own;
use crate::access::Principal;
use crate::broker::{Broker, ClientKey, Held, Message, RetainRefused};
use crate::hub::{Hub, WriteError};
use crate::model::{DeviceName, Write};

/// Where published messages go.
pub(super) struct Intake {
    pub hub: Hub,
    pub broker: Broker,
    pub gossip: Gossip,
    /// Devices whose retained writes were noted in the log.
    noted: Mutex<HashSet<DeviceName>>,
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
    pub fn new(hub: Hub, broker: Broker, gossip: Gossip) -> Intake {
        Intake {
            hub,
            broker,
            gossip,
            noted: Mutex::default(),
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
        if let Err(refusal) = principal.may_publish(&message.topic) {
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
        if !message.retain && !self.broker.has_subscribers(&message.topic) {
            return Taken::at_once(unheard);
        }
        // A payload that is kept must not pin the read buffer it is a slice of.
        message.payload = Bytes::copy_from_slice(&message.payload);
        let published = self.broker.publish(Some(publisher.client), message, now);
        let reason = match published.retained {
            Ok(()) if published.receivers == 0 => unheard,
            Ok(()) => Reason::SUCCESS,
            Err(refused) => {
                self.tell(principal, &retain_line(shown, refused), now);
                Reason::QUOTA_EXCEEDED
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
        if let Some(webhook) = pins::read_resume(topic, &message.payload) {
            self.resume(&webhook, now);
            return Ok(Some(Reason::SUCCESS));
        }
        let Some((name, rest)) = pins::device_of(topic) else {
            return Ok(None);
        };
        let Some(device) = self.hub.device(name) else {
            if !pins::is_for_device(rest) {
                return Ok(None);
            }
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
            return Err(refusal(&error));
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
                Err(match misread {
                    pins::Misread::NotText(_) | pins::Misread::Batch(_) | pins::Misread::Mcu(_) => {
                        Reason::PAYLOAD_FORMAT_INVALID
                    }
                    pins::Misread::NoPin { .. }
                    | pins::Misread::NoCode(_)
                    | pins::Misread::NoSuchTopic(_)
                    | pins::Misread::NotBuilt(_) => Reason::TOPIC_NAME_INVALID,
                    pins::Misread::TooMany => Reason::QUOTA_EXCEEDED,
                })
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
                        reason = refusal(&error);
                        // The rest of a batch would be refused like this one.
                        if matches!(error, WriteError::TooMany(_)) {
                            break;
                        }
                    }
                }
                reason
            }
            Inbound::Get(pins) => match self.hub.answer(device, pins.as_deref(), now) {
                Ok(()) => Reason::SUCCESS,
                Err(error) => refusal(&error),
            },
            Inbound::Event(code, value) => match self.hub.event(device, &code, &value, now) {
                Ok(()) => Reason::SUCCESS,
                Err(error) => refusal(&error),
            },
            Inbound::Mcu(rxbuff) => {
                if let (Some(budget), Some(rxbuff)) = (publisher.budget, rxbuff) {
                    budget.set_rxbuff(rxbuff);
                }
                Reason::SUCCESS
            }
        }
    }

    fn resume(&self, webhook: &str, now: Instant) {
        let result = self.hub.resume(webhook, now);
        let json = pins::resume_json(webhook, &result);
        let topic = pins::topic::resume_response();
        publish_own(&self.broker, topic, json.into(), false);
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

fn refusal(error: &WriteError) -> Reason {
    match error {
        WriteError::TooMany(_) | WriteError::TooLong { .. } => Reason::QUOTA_EXCEEDED,
        WriteError::UnknownDevice(_) => Reason::TOPIC_NAME_INVALID,
        WriteError::Stopping => Reason::IMPLEMENTATION_SPECIFIC_ERROR,
    }
}

fn retain_line(topic: &str, refused: RetainRefused) -> String {
    format!("the message on {topic} was passed on but not retained: {refused}")
}
