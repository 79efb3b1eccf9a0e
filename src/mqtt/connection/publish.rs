//! What the client publishes: topic and alias, QoS 2 exactly once, and the acknowledgement that may
//! have to wait for slow readers.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::counters::PublishRefused;
use super::super::intake::{Publisher, Taken};
use super::super::packet::{Ack, Outgoing, Publish, Qos, Reason, Version};
use super::wire::message_properties;
use super::{Connection, Ending, broker_qos, check_response_topic};
use crate::broker::topic::{TopicError, validate_topic};
use crate::broker::{Cause, Held, Message, Received, STALL};

/// An acknowledgement that waits for readers who have no room for the message.
pub(super) struct Holding {
    pub ack: Option<Outgoing<'static>>,
    pub held: Vec<Held>,
    pub until: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn publish(&mut self, mut publish: Publish, now: Instant) -> Result<(), Ending> {
        let longest = self.shared.settings.topic;
        let alias = publish.topic_alias;
        publish.topic = self
            .aliases_in
            .resolve(publish.topic, alias, longest)
            .map_err(|error| Ending::Fault(error.reason(), error.to_string()))?;
        if publish.topic.is_empty() && self.version == Version::V5 {
            let why = "a topic is empty, and there is no topic alias".to_owned();
            return Err(Ending::Fault(Reason::PROTOCOL_ERROR, why));
        }
        let response_topic = publish.properties.response_topic.as_deref();
        check_response_topic(response_topic)
            .map_err(|error| Ending::Fault(Reason::PROTOCOL_ERROR, error.to_string()))?;
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        if let (Qos::ExactlyOnce, Some(packet_id)) = (qos, packet_id)
            && !self.is_new(packet_id)?
        {
            self.wire
                .queue(&acknowledge(qos, packet_id, Reason::SUCCESS));
            return Ok(());
        }
        let taken = self.take(publish, now).inspect_err(|_| {
            if let Some(packet_id) = packet_id {
                self.session.release(packet_id);
            }
        })?;
        let reason = taken.reason;
        // 3.1.1 cannot be told that a write was not taken because pinhook
        // stops, but without an acknowledgement it sends it again later.
        let is_lost =
            reason == Reason::IMPLEMENTATION_SPECIFIC_ERROR && self.version == Version::V311;
        // A PUBREC that refuses ends the exchange (MQTT-4.3.3-9); 3.1.1 has no such.
        let is_over = reason.is_error() && self.version == Version::V5;
        if let (Qos::ExactlyOnce, Some(packet_id)) = (qos, packet_id)
            && (is_lost || is_over)
        {
            self.session.release(packet_id);
        }
        let ack = packet_id
            .filter(|_| !is_lost)
            .map(|packet_id| acknowledge(qos, packet_id, reason));
        if taken.held.is_empty() {
            if let Some(ack) = ack {
                self.wire.queue(&ack);
            }
            return Ok(());
        }
        self.holding = Some(Holding {
            ack,
            held: taken.held,
            until: now + STALL,
        });
        Ok(())
    }

    /// Whether a QoS 2 message has not come before.
    fn is_new(&self, packet_id: NonZeroU16) -> Result<bool, Ending> {
        let maximum = match self.version {
            Version::V5 => self.shared.settings.receive_maximum,
            Version::V311 => NonZeroU16::MAX,
        };
        match self.session.receive(packet_id, maximum.get().into()) {
            Received::New => Ok(true),
            Received::Again => Ok(false),
            Received::Closed => Err(Ending::Closed(
                self.session.closed().unwrap_or(Cause::TakenOver),
            )),
            Received::TooMany => {
                let why = format!("more than {maximum} messages with QoS 2 are not released");
                Err(Ending::Fault(Reason::RECEIVE_MAXIMUM_EXCEEDED, why))
            }
        }
    }

    fn take(&self, publish: Publish, now: Instant) -> Result<Taken, Ending> {
        let intake = &self.shared.intake;
        if let Some(hint) = self.mount.hint(&publish.topic) {
            intake.tell(&self.principal, &hint, now);
        }
        let topic = self.mount.full(&publish.topic);
        let limit = self.shared.settings.topic;
        let is_mounted = matches!(topic, Cow::Owned(_));
        let full = is_mounted.then(|| validate_topic(&topic, limit));
        match validate_topic(&publish.topic, limit).and(full.unwrap_or(Ok(()))) {
            Err(error @ (TopicError::TooLong { .. } | TopicError::TooManyLevels(_))) => {
                intake.tally.receive();
                intake.tally.refuse_publish(PublishRefused::TopicTooLong);
                let key = match error {
                    TopicError::TooLong { .. } => " (limits.topic)",
                    _ => "",
                };
                let line = format!("publish refused: {error}{key}");
                intake.tell(&self.principal, &line, now);
                return Ok(Taken::at_once(Reason::TOPIC_NAME_INVALID));
            }
            Err(error) => return Err(Ending::Fault(Reason::TOPIC_NAME_INVALID, error.to_string())),
            Ok(()) => {}
        }
        let message = Message {
            topic: topic.into(),
            payload: publish.payload,
            qos: broker_qos(publish.qos),
            retain: publish.retain,
            properties: message_properties(&publish.properties, &self.mount),
        };
        let publisher = Publisher {
            principal: &self.principal,
            client: self.session.client(),
            budget: self.device.as_ref().map(|device| &*device.budget),
        };
        Ok(intake.take(publisher, message, &publish.topic, now))
    }
}

fn acknowledge(qos: Qos, packet_id: NonZeroU16, reason: Reason) -> Outgoing<'static> {
    let ack = Ack { packet_id, reason };
    match qos {
        Qos::ExactlyOnce => Outgoing::PubRec(ack),
        Qos::AtMostOnce | Qos::AtLeastOnce => Outgoing::PubAck(ack),
    }
}
