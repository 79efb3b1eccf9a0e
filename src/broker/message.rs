//! What is published: a message, its quality of service and its properties, and the will.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// How surely a message is delivered; the order is the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// QoS 0: sent once, never acknowledged.
    AtMostOnce,
    /// QoS 1: sent until acknowledged.
    AtLeastOnce,
    /// QoS 2: sent and acknowledged in two steps.
    ExactlyOnce,
}

/// One published message. A clone is cheap.
///
/// The broker keeps topic and payload as they are handed over, for as long as the message is
/// queued or retained: a payload must own its bytes and not be a slice of a larger read buffer,
/// which it would keep alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// A valid topic name; see [`validate_topic`](super::topic::validate_topic).
    pub topic: Arc<str>,
    /// What is said; empty together with `retain` deletes the retained message of the topic.
    pub payload: Bytes,
    /// The quality of service that the publisher asked for.
    pub qos: QoS,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// Properties of MQTT 5, if there are any.
    pub properties: Option<Arc<Properties>>,
}

/// The properties of MQTT 5 that travel with a message from publisher to subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Payload format indicator: 0 is bytes, 1 is UTF-8.
    pub payload_format: Option<u8>,
    /// Content type, as the publisher wrote it.
    pub content_type: Option<String>,
    /// Where the publisher awaits a response.
    pub response_topic: Option<String>,
    /// What the publisher knows its request by.
    pub correlation_data: Option<Bytes>,
    /// Names and values, in the publisher's order.
    pub user_properties: Vec<(String, String)>,
    /// Message expiry interval, in seconds from [`publish`](super::Broker::publish). What is left
    /// of it for a receiver is [`Outgoing::expiry`](super::Outgoing::expiry).
    pub expiry: Option<u32>,
}

/// The message that a client leaves behind for the case that it vanishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// What is published then.
    pub message: Message,
    /// How long the client may take to come back to its session first (MQTT-3.1.3-9).
    pub delay: Duration,
}

/// What a kept message takes beside its topic, payload and properties, in bytes: the shared
/// headers, the slot in a queue or in the retained store, and the allocator's rounding.
pub const MESSAGE_OVERHEAD: usize = 192;

/// What one user property takes beside its two texts, in bytes.
const USER_PROPERTY_OVERHEAD: usize = size_of::<(String, String)>();

impl Message {
    /// What the message counts for against a bound in bytes.
    pub fn cost(&self) -> usize {
        MESSAGE_OVERHEAD
            + self.topic.len()
            + self.payload.len()
            + self.properties.as_ref().map_or(0, |p| p.cost())
    }

    /// When it expires if it is published `now`; `None` is never.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let seconds = self.properties.as_ref()?.expiry?;
        now.checked_add(Duration::from_secs(seconds.into()))
    }
}

impl Properties {
    fn cost(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Properties>()
            + text(&self.content_type)
            + text(&self.response_topic)
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + self
                .user_properties
                .iter()
                .map(|(name, value)| USER_PROPERTY_OVERHEAD + name.len() + value.len())
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_kept_counts() {
        let bare = Message {
            topic: "abc".into(),
            payload: Bytes::from_static(b"12345"),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: None,
        };
        let with_properties = Message {
            properties: Some(Arc::new(Properties {
                content_type: Some("t".repeat(10)),
                response_topic: Some("r".repeat(100)),
                correlation_data: Some(Bytes::from(vec![0; 1_000])),
                user_properties: vec![("n".repeat(10_000), "v".repeat(100_000))],
                ..Properties::default()
            })),
            ..bare.clone()
        };

        assert_eq!(bare.cost(), MESSAGE_OVERHEAD + 8);
        assert!(with_properties.cost() > bare.cost() + 111_110);
    }

    #[test]
    fn the_longest_expiry_is_a_deadline() {
        let now = Instant::now();
        let expiring = |expiry| Message {
            topic: "a".into(),
            payload: Bytes::new(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Some(Arc::new(Properties {
                expiry,
                ..Properties::default()
            })),
        };

        assert_eq!(expiring(None).deadline(now), None);
        assert_eq!(
            expiring(Some(7)).deadline(now),
            Some(now + Duration::from_secs(7))
        );
        let _ = expiring(Some(u32::MAX)).deadline(now);
    }
}
