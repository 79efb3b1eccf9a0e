//! Bytes <-> packets of MQTT 3.1.1 and 5 on one port. The first CONNECT decides the version.
//!
//! It reads strangers' bytes before any login. What a client may not send, or not now, or not so long, is refused at
//! its first bytes; what is too long is refused before its body has to be held. Nothing here panics, whatever comes.
//! MQTT 3.1 is told apart only to be answered with a refusal that it understands.
//!
//! Not here: what topics and filters may look like (they are only UTF-8 without NUL), topic aliases, packet ids in
//! use, limits announced in CONNACK other than the packet size.
//!
//! **Invariant:** memory per packet is bounded by the packet: a promised length makes no buffer grow.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use bytes::{Buf, BytesMut};

use self::decode::{ARRIVED, RELEASED, Reader};
pub use self::encode::{EncodeError, publish_size};
use super::packet::{Incoming, Reason, Version};

/// The codec of one connection.
#[derive(Debug)]
pub struct Codec {
    /// The largest packet taken from the client, in bytes, header included.
    max_packet: usize,
    /// The largest packet the client takes, in bytes, header included.
    peer_max_packet: usize,
    /// The version answers are written in: known from the moment a CONNECT named it, even if it is refused.
    version: Option<Version>,
    /// Whether a CONNECT was read to its end.
    connected: bool,
}

impl Codec {
    /// A codec that waits for CONNECT and refuses packets of more than `max_packet` bytes, header included.
    pub fn new(max_packet: usize) -> Codec {
        Codec {
            max_packet,
            peer_max_packet: MAX_PACKET,
            version: None,
            connected: false,
        }
    }

    /// The version in which packets are written; none before a CONNECT named one.
    ///
    /// A CONNECT of an unsupported version sets the one whose CONNACK it is most likely to understand.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next packet off the front of `buf`; none if more bytes are needed, which then stay in `buf`.
    ///
    /// The payload of a [`Publish`](super::packet::Publish) is a slice of `buf`'s memory: who keeps it copies it.
    ///
    /// # Errors
    /// The connection is to be closed, with [`DecodeError::reason`] in a CONNACK before the first packet was decoded
    /// and in a DISCONNECT after. The bytes stay in `buf`: the same call gives the same error.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Incoming>, DecodeError> {
        let Some(&first) = buf.first() else {
            return Ok(None);
        };
        self.admit(first)?;
        let kind = first >> 4;
        let Some((header, length)) = self.lengths(kind, &buf[1..])? else {
            return Ok(None);
        };
        let total = header + length;
        if total > self.max_packet {
            return Err(DecodeError::TooLarge {
                packet: name(kind),
                found: total,
                limit: self.max_packet,
            });
        }
        let Some(body) = buf.get(header..total) else {
            return Ok(None);
        };

        let mut reader = Reader {
            packet: name(kind),
            rest: body,
        };
        if kind == PUBLISH {
            let mut publish = reader.publish(first, self.version)?;
            let payload = reader.rest.len();
            buf.advance(total - payload);
            // An empty payload must not hold on to the buffer.
            if payload > 0 {
                publish.payload = buf.split_to(payload).freeze();
            }
            return Ok(Some(Incoming::Publish(publish)));
        }
        let packet = match kind {
            CONNECT => Incoming::Connect(Box::new(reader.connect(&mut self.version)?)),
            PUBACK => Incoming::PubAck(reader.ack(self.version, ARRIVED)?),
            PUBREC => Incoming::PubRec(reader.ack(self.version, ARRIVED)?),
            PUBREL => Incoming::PubRel(reader.ack(self.version, RELEASED)?),
            PUBCOMP => Incoming::PubComp(reader.ack(self.version, RELEASED)?),
            SUBSCRIBE => Incoming::Subscribe(reader.subscribe(self.version)?),
            UNSUBSCRIBE => Incoming::Unsubscribe(reader.unsubscribe(self.version)?),
            DISCONNECT => Incoming::Disconnect(reader.disconnect(self.version)?),
            // `admit` lets nothing else through.
            _ => Incoming::PingReq,
        };
        reader.end()?;
        if let Incoming::Connect(connect) = &packet {
            self.connected = true;
            self.peer_max_packet = connect
                .maximum_packet
                .map_or(MAX_PACKET, |limit| MAX_PACKET.min(limit.get() as usize));
        }
        buf.advance(total);
        Ok(Some(packet))
    }

    /// Checks what the first byte alone tells: who may send this packet, whether now, and its flags (MQTT-2.2.2-2).
    fn admit(&self, first: u8) -> Result<(), DecodeError> {
        let (kind, flags) = (first >> 4, first & 0x0F);
        match (kind, self.connected) {
            (CONNECT, true) => return Err(DecodeError::SecondConnect),
            (CONNECT, false) => {}
            (_, false) => return Err(DecodeError::NotConnect(name(kind))),
            (0, true) => return Err(DecodeError::Type0),
            (AUTH, true) => return Err(DecodeError::Auth),
            (CONNACK | SUBACK | UNSUBACK | PINGRESP, true) => {
                return Err(DecodeError::FromServer(name(kind)));
            }
            (_, true) => {}
        }
        let expected = match kind {
            PUBLISH => return Ok(()),
            PUBREL | SUBSCRIBE | UNSUBSCRIBE => 0b0010,
            _ => 0,
        };
        if flags == expected {
            Ok(())
        } else {
            Err(DecodeError::Flags {
                packet: name(kind),
                found: flags,
                expected,
            })
        }
    }

    /// The lengths of header and body, from the bytes after the first; none if the length is not all there.
    fn lengths(&self, kind: u8, bytes: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
        let mut length = 0;
        for (i, &byte) in bytes.iter().take(4).enumerate() {
            length |= usize::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                // 3.1.1 does not forbid a length with needless zeros, MQTT 5 does (MQTT-1.5.5-1).
                if byte == 0 && i > 0 && self.version == Some(Version::V5) {
                    return Err(DecodeError::VariableInteger(name(kind)));
                }
                return Ok(Some((i + 2, length)));
            }
        }
        if bytes.len() < 4 {
            Ok(None)
        } else {
            Err(DecodeError::VariableInteger(name(kind)))
        }
    }
}

/// Why the bytes of a client are not taken. Every one of them ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each variant's sentence is its documentation
pub enum DecodeError {
    #[error("the first packet is {0}, expected CONNECT")]
    NotConnect(&'static str),
    #[error("a second CONNECT, expected one per connection")]
    SecondConnect,
    #[error("{0}, which only a server sends")]
    FromServer(&'static str),
    #[error("packet type 0, expected 1 to 15")]
    Type0,
    #[error("AUTH, but no authentication method was agreed upon")]
    Auth,
    #[error("flags {found:04b} in the first byte of {packet}, expected {expected:04b}")]
    Flags {
        packet: &'static str,
        found: u8,
        expected: u8,
    },
    #[error(
        "a length or identifier in {0} is not a variable byte integer of one to four bytes, none of them needless"
    )]
    VariableInteger(&'static str),
    #[error("{packet} of {found} bytes, expected at most {limit}")]
    TooLarge {
        packet: &'static str,
        found: usize,
        limit: usize,
    },
    #[error("{0} ends inside a field")]
    Truncated(&'static str),
    #[error("{surplus} bytes behind the last field of {packet}, expected none")]
    Surplus {
        packet: &'static str,
        surplus: usize,
    },
    #[error("a text in {0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("a text in {0} has a NUL character, which MQTT forbids")]
    Nul(&'static str),
    #[error("the protocol name in CONNECT is not \"MQTT\"")]
    NotMqtt,
    #[error("protocol MQTT 3.1, expected 3.1.1 or 5")]
    Mqtt31,
    #[error("protocol level {0}, expected 4 (MQTT 3.1.1) or 5 (MQTT 5)")]
    Level(u8),
    #[error("flags {0:08b} in CONNECT contradict each other, or the lowest is set")]
    ConnectFlags(u8),
    #[error("the password is not UTF-8, so it is nobody's")]
    Password,
    #[error("QoS 3 in {0}, expected 0, 1 or 2")]
    Qos(&'static str),
    #[error("PUBLISH with QoS 0 and the DUP flag, which needs QoS 1 or 2")]
    Dup,
    #[error("packet id 0 in {0}, expected 1 to 65535")]
    PacketId(&'static str),
    #[error("{0} without a filter, expected at least one")]
    NoFilter(&'static str),
    #[error("subscription options {0:08b} in SUBSCRIBE have bits that must be 0")]
    Options(u8),
    #[error("retain handling 3 in SUBSCRIBE, expected 0, 1 or 2")]
    RetainHandling,
    #[error("property {id} in {packet}, where it has no place")]
    Property { packet: &'static str, id: u8 },
    #[error("property {id} twice in {packet}, expected once")]
    Repeated { packet: &'static str, id: u8 },
    #[error("property {id} in {packet} has a value outside its range")]
    Value { packet: &'static str, id: u8 },
    #[error("topic alias 0 in PUBLISH, expected 1 or more")]
    TopicAlias,
    #[error("reason {code} in {packet}, where it has no place")]
    Reason { packet: &'static str, code: Reason },
}

impl DecodeError {
    /// The reason to send in CONNACK or DISCONNECT.
    pub fn reason(&self) -> Reason {
        match self {
            DecodeError::NotConnect(_)
            | DecodeError::SecondConnect
            | DecodeError::FromServer(_)
            | DecodeError::Auth
            | DecodeError::NoFilter(_)
            | DecodeError::RetainHandling
            | DecodeError::Repeated { .. }
            | DecodeError::Value { .. } => Reason::PROTOCOL_ERROR,
            DecodeError::TooLarge { .. } => Reason::PACKET_TOO_LARGE,
            DecodeError::NotMqtt | DecodeError::Mqtt31 | DecodeError::Level(_) => {
                Reason::UNSUPPORTED_PROTOCOL_VERSION
            }
            DecodeError::Password => Reason::BAD_USER_NAME_OR_PASSWORD,
            DecodeError::TopicAlias => Reason::TOPIC_ALIAS_INVALID,
            DecodeError::Type0
            | DecodeError::Flags { .. }
            | DecodeError::VariableInteger(_)
            | DecodeError::Truncated(_)
            | DecodeError::Surplus { .. }
            | DecodeError::NotUtf8(_)
            | DecodeError::Nul(_)
            | DecodeError::ConnectFlags(_)
            | DecodeError::Qos(_)
            | DecodeError::Dup
            | DecodeError::PacketId(_)
            | DecodeError::Options(_)
            | DecodeError::Property { .. }
            | DecodeError::Reason { .. } => Reason::MALFORMED_PACKET,
        }
    }
}

/// The largest packet MQTT can express: five bytes of header and four times seven bits of length.
const MAX_PACKET: usize = 5 + 268_435_455;

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

/// The name of a packet type, 0 to 15.
fn name(kind: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "packet type 0",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES[usize::from(kind & 0x0F)]
}

/// Identifiers of properties (MQTT 5, 2.2.2.2).
mod id {
    pub(super) const PAYLOAD_FORMAT: u8 = 1;
    pub(super) const MESSAGE_EXPIRY: u8 = 2;
    pub(super) const CONTENT_TYPE: u8 = 3;
    pub(super) const RESPONSE_TOPIC: u8 = 8;
    pub(super) const CORRELATION_DATA: u8 = 9;
    pub(super) const SUBSCRIPTION_ID: u8 = 11;
    pub(super) const SESSION_EXPIRY: u8 = 17;
    pub(super) const ASSIGNED_CLIENT_ID: u8 = 18;
    pub(super) const SERVER_KEEP_ALIVE: u8 = 19;
    pub(super) const AUTHENTICATION_METHOD: u8 = 21;
    pub(super) const AUTHENTICATION_DATA: u8 = 22;
    pub(super) const REQUEST_PROBLEM_INFORMATION: u8 = 23;
    pub(super) const WILL_DELAY: u8 = 24;
    pub(super) const REQUEST_RESPONSE_INFORMATION: u8 = 25;
    pub(super) const REASON_STRING: u8 = 31;
    pub(super) const RECEIVE_MAXIMUM: u8 = 33;
    pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 34;
    pub(super) const TOPIC_ALIAS: u8 = 35;
    pub(super) const USER_PROPERTY: u8 = 38;
    pub(super) const MAXIMUM_PACKET: u8 = 39;
}
