//! What there is to a device's connection: that it is there, and how large a
//! packet it takes.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::super::budget::{Budget, PUB_SUB_CLIENT};
use super::super::codec::EncodeError;
use super::super::packet::Version;
use super::super::pins::Topics;
use crate::broker::MESSAGE_OVERHEAD;
use crate::hub::{Attachment, Hub};
use crate::model::DeviceName;

/// More than the topic of a downlink can take, in bytes: names are short.
const LONGEST_TOPIC: usize = 384;

/// A device's connection as the hub knows it, until it is dropped.
pub(super) struct Presence {
    name: DeviceName,
    pub budget: Arc<Budget>,
    /// Whether it was said that it may lose long packets.
    is_warned: bool,
    _attachment: Attachment,
}

impl Presence {
    /// Tells the hub that the device is there. `maximum_packet` is that of the CONNECT.
    pub fn new(
        hub: &Hub,
        topics: &Topics,
        name: &DeviceName,
        version: Version,
        is_mounted: bool,
        maximum_packet: Option<NonZeroU32>,
        session_queue_bytes: usize,
    ) -> Presence {
        let most = session_queue_bytes.saturating_sub(MESSAGE_OVERHEAD + LONGEST_TOPIC);
        let budget = Arc::new(Budget::new(
            topics.clone(),
            version,
            is_mounted,
            maximum_packet,
            most,
        ));
        Presence {
            name: name.clone(),
            _attachment: hub.attach(name, Arc::<Budget>::clone(&budget)),
            budget,
            is_warned: false,
        }
    }

    /// The longest packet it takes, in bytes, as far as anybody has said. Asked
    /// anew for each packet, since the configuration may change.
    pub fn limit(&self, hub: &Hub) -> Option<usize> {
        let device = hub.device(self.name.as_str());
        let max_message = device.and_then(|device| device.max_message);
        self.budget.limit(max_message)
    }

    /// What to tell it once of a packet of `size` bytes that was sent, though
    /// nobody said how long they may be.
    pub fn warning(&mut self, size: usize) -> Option<String> {
        if size <= PUB_SUB_CLIENT || self.is_warned {
            return None;
        }
        self.is_warned = true;
        Some(format!(
            "sent a packet of {size} bytes: PubSubClient loses those above {PUB_SUB_CLIENT} \
             silently; call setBufferSize({size}), or set max_message to what the device takes"
        ))
    }
}

/// What a client is told of a message that it does not take.
pub(super) fn unsent_line(topic: &str, error: &EncodeError) -> String {
    match error {
        EncodeError::TooLarge { size, limit } => {
            format!("{topic} is {size} bytes, this client takes {limit}")
        }
        EncodeError::Field(_) => format!("{topic} was not sent: {error}"),
    }
}

/// A line with at least `surplus` bytes less and `…` at its end; `None` if nothing
/// would be left of it.
pub(super) fn shortened(line: &[u8], surplus: usize) -> Option<String> {
    const CUT: &str = "…";
    let line = std::str::from_utf8(line).ok()?;
    let room = line.len().checked_sub(surplus + CUT.len())?;
    let kept = &line[..line.floor_char_boundary(room)];
    (!kept.is_empty()).then(|| format!("{kept}{CUT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_a_character_by_as_much_as_it_must() {
        let line = "soil: näh".as_bytes();
        assert_eq!(line.len(), 10);
        for (surplus, cut) in [
            (1, Some("soil: …")),
            (2, Some("soil:…")),
            (6, Some("s…")),
            (7, None),
            (100, None),
        ] {
            assert_eq!(shortened(line, surplus).as_deref(), cut, "{surplus}");
        }
        assert_eq!(shortened("äää".as_bytes(), 1).as_deref(), Some("ä…"));
    }
}
