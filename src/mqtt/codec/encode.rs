//! Packets -> bytes, in the version of the connection. What is written differently in 3.1.1, or not at all, is decided
//! here and nowhere else.

use std::num::NonZeroU16;

use bytes::{BufMut, BytesMut};

use super::super::packet::{
    Ack, ConnAck, Outgoing, OutgoingPublish, OutgoingQos, Properties, Qos, Reason, Version,
};
use super::{
    CONNACK, Codec, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK,
    UNSUBACK, id,
};

/// Why a packet was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The client said that it does not take packets of this size, or MQTT has none.
    #[error("packet of {size} bytes, expected at most {limit}")]
    TooLarge {
        /// The size of the packet, in bytes, header included.
        size: usize,
        /// The most the client takes, in bytes, header included.
        limit: usize,
    },
    /// MQTT cannot express a text or binary field of this length.
    #[error("field of {0} bytes, expected at most 65535")]
    Field(usize),
}

impl Codec {
    /// Appends `packet` to `out` and returns how many bytes it took.
    ///
    /// 0 where the version has no such packet (see [`Outgoing`]), and before a CONNECT named a version.
    ///
    /// # Errors
    /// Nothing was written. A message that does not fit is to be dropped (MQTT-3.1.2-24, -25).
    pub fn encode(&self, packet: &Outgoing<'_>, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let Some(version) = self.version else {
            return Ok(0);
        };
        let start = out.len();
        let written = self.write(version, packet, out);
        if written.is_err() {
            out.truncate(start);
        }
        match (written, without_reason_string(packet)) {
            (Err(EncodeError::TooLarge { .. }), Some(shorter)) => self.encode(&shorter, out),
            (written, _) => written.map(|()| out.len() - start),
        }
    }

    /// Like [`encode`](Self::encode), for a message that may have no more than `limit` bytes, header included, even
    /// where the client takes longer ones.
    ///
    /// # Errors
    /// As there; the limit told is the lower one.
    pub fn encode_publish(
        &self,
        publish: &OutgoingPublish<'_>,
        limit: usize,
        out: &mut BytesMut,
    ) -> Result<usize, EncodeError> {
        let Some(version) = self.version else {
            return Ok(0);
        };
        let start = out.len();
        let written = self.publish(version, publish, limit, out);
        if written.is_err() {
            out.truncate(start);
        }
        written.map(|()| out.len() - start)
    }

    fn write(
        &self,
        version: Version,
        packet: &Outgoing<'_>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let v5 = version == Version::V5;
        match packet {
            Outgoing::Publish(publish) => self.publish(version, publish, usize::MAX, out),
            Outgoing::PubAck(ack) => self.ack(version, PUBACK << 4, ack, out),
            Outgoing::PubRec(ack) => self.ack(version, PUBREC << 4, ack, out),
            Outgoing::PubRel(ack) => self.ack(version, PUBREL << 4 | 0b0010, ack, out),
            Outgoing::PubComp(ack) => self.ack(version, PUBCOMP << 4, ack, out),
            Outgoing::ConnAck(connack) => {
                let code = match version {
                    Version::V5 => connack.reason.0,
                    Version::V311 => match return_code(connack.reason) {
                        Some(code) => code,
                        None => return Ok(()),
                    },
                };
                self.packet(CONNACK << 4, out, |out| {
                    let accepted = connack.reason == Reason::SUCCESS;
                    out.put_u8(u8::from(connack.session_present && accepted));
                    out.put_u8(code);
                    if v5 {
                        prefixed(out, 0, |out| connack_properties(connack, out))?;
                    }
                    Ok(())
                })
            }
            Outgoing::SubAck { packet_id, reasons } => {
                self.packet(SUBACK << 4, out, |out| {
                    out.put_u16(packet_id.get());
                    if v5 {
                        out.put_u8(0); // no properties
                    }
                    out.extend(reasons.iter().map(|reason| match version {
                        Version::V311 if reason.is_error() => 0x80, // MQTT-3.9.3-2
                        _ => reason.0,
                    }));
                    Ok(())
                })
            }
            Outgoing::UnsubAck { packet_id, reasons } => {
                self.packet(UNSUBACK << 4, out, |out| {
                    out.put_u16(packet_id.get());
                    if v5 {
                        out.put_u8(0); // no properties
                        out.extend(reasons.iter().map(|reason| reason.0));
                    }
                    Ok(())
                })
            }
            Outgoing::PingResp => self.packet(PINGRESP << 4, out, |_| Ok(())),
            Outgoing::Disconnect {
                reason,
                reason_string,
            } => {
                if !v5 {
                    return Ok(());
                }
                self.packet(DISCONNECT << 4, out, |out| {
                    out.put_u8(reason.0);
                    prefixed(out, 0, |out| {
                        put_text_property(out, id::REASON_STRING, *reason_string)
                    })
                })
            }
        }
    }

    fn publish(
        &self,
        version: Version,
        publish: &OutgoingPublish<'_>,
        limit: usize,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let size = put_publish_head(version, publish, out)?;
        within(self.peer_max_packet.min(limit), size)?;
        out.extend_from_slice(publish.payload);
        Ok(())
    }

    /// PUBACK, PUBREC, PUBREL and PUBCOMP. MQTT 5 leaves a success out like 3.1.1.
    fn ack(
        &self,
        version: Version,
        first: u8,
        ack: &Ack,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        self.packet(first, out, |out| {
            out.put_u16(ack.packet_id.get());
            if version == Version::V5 && ack.reason != Reason::SUCCESS {
                out.put_u8(ack.reason.0);
            }
            Ok(())
        })
    }

    /// Appends a packet: its first byte, the length, and what `fields` appends.
    fn packet(
        &self,
        first: u8,
        out: &mut BytesMut,
        fields: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let size = put_head(first, 0, out, fields)?;
        within(self.peer_max_packet, size)
    }
}

/// How many bytes a message takes on the wire, header included.
///
/// # Errors
/// When MQTT cannot express one of its fields.
pub fn publish_size(version: Version, publish: &OutgoingPublish<'_>) -> Result<usize, EncodeError> {
    // Header, packet id and lengths are a dozen bytes.
    let mut head = BytesMut::with_capacity(publish.topic.len() + 16);
    put_publish_head(version, publish, &mut head)
}

/// Appends a PUBLISH up to its payload, and returns what it takes with it.
fn put_publish_head(
    version: Version,
    publish: &OutgoingPublish<'_>,
    out: &mut BytesMut,
) -> Result<usize, EncodeError> {
    let (qos, packet_id) = match publish.qos {
        OutgoingQos::AtMostOnce => (Qos::AtMostOnce, None),
        OutgoingQos::AtLeastOnce(packet_id) => (Qos::AtLeastOnce, Some(packet_id)),
        OutgoingQos::ExactlyOnce(packet_id) => (Qos::ExactlyOnce, Some(packet_id)),
    };
    let dup = publish.dup && packet_id.is_some(); // MQTT-3.3.1-2
    let first = PUBLISH << 4 | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(publish.retain);
    put_head(first, publish.payload.len(), out, |out| {
        put_text(out, publish.topic)?;
        if let Some(packet_id) = packet_id {
            out.put_u16(packet_id.get());
        }
        if version == Version::V5 {
            prefixed(out, 0, |out| {
                if let Some(alias) = publish.topic_alias {
                    out.put_u8(id::TOPIC_ALIAS);
                    out.put_u16(alias.get());
                }
                for &subscription in publish.subscription_ids {
                    out.put_u8(id::SUBSCRIPTION_ID);
                    let (bytes, length) = variable_integer(subscription as usize);
                    out.put_slice(&bytes[..length]);
                }
                carried_properties(publish.properties, out)
            })?;
        }
        Ok(())
    })
}

/// Appends a packet up to its payload, and returns what it takes with it.
fn put_head(
    first: u8,
    payload: usize,
    out: &mut BytesMut,
    fields: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<usize, EncodeError> {
    let start = out.len();
    out.put_u8(first);
    prefixed(out, payload, fields)?;
    Ok(out.len() - start + payload)
}

fn within(limit: usize, size: usize) -> Result<(), EncodeError> {
    match size > limit {
        true => Err(EncodeError::TooLarge { size, limit }),
        false => Ok(()),
    }
}

/// The CONNACK return code of 3.1.1; none where it has none that fits, and the connection is closed without one.
fn return_code(reason: Reason) -> Option<u8> {
    match reason {
        Reason::SUCCESS => Some(0),
        Reason::UNSUPPORTED_PROTOCOL_VERSION => Some(1),
        Reason::CLIENT_IDENTIFIER_NOT_VALID => Some(2),
        Reason::SERVER_UNAVAILABLE
        | Reason::SERVER_BUSY
        | Reason::SERVER_SHUTTING_DOWN
        | Reason::QUOTA_EXCEEDED
        | Reason::CONNECTION_RATE_EXCEEDED => Some(3),
        Reason::BAD_USER_NAME_OR_PASSWORD => Some(4),
        Reason::NOT_AUTHORIZED | Reason::BANNED => Some(5),
        _ => None,
    }
}

/// The same packet without its reason string; none if it has none. The reason string is the one thing that MQTT 5 wants
/// left out rather than the packet (MQTT-3.2.2-19, MQTT-3.14.2-3).
fn without_reason_string<'a>(packet: &Outgoing<'a>) -> Option<Outgoing<'a>> {
    match *packet {
        Outgoing::ConnAck(connack) if connack.reason_string.is_some() => {
            Some(Outgoing::ConnAck(ConnAck {
                reason_string: None,
                ..connack
            }))
        }
        Outgoing::Disconnect {
            reason,
            reason_string: Some(_),
        } => Some(Outgoing::Disconnect {
            reason,
            reason_string: None,
        }),
        _ => None,
    }
}

/// What is absent stands for: no limit, everything available, as asked for.
fn connack_properties(connack: &ConnAck<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(seconds) = connack.session_expiry {
        out.put_u8(id::SESSION_EXPIRY);
        out.put_u32(seconds);
    }
    if let Some(maximum) = connack.receive_maximum {
        out.put_u8(id::RECEIVE_MAXIMUM);
        out.put_u16(maximum.get());
    }
    if let Some(maximum) = connack.maximum_packet {
        out.put_u8(id::MAXIMUM_PACKET);
        out.put_u32(maximum.get());
    }
    put_text_property(out, id::ASSIGNED_CLIENT_ID, connack.assigned_client_id)?;
    if let Some(maximum) = NonZeroU16::new(connack.topic_alias_maximum) {
        out.put_u8(id::TOPIC_ALIAS_MAXIMUM);
        out.put_u16(maximum.get());
    }
    put_text_property(out, id::REASON_STRING, connack.reason_string)?;
    if let Some(seconds) = connack.server_keep_alive {
        out.put_u8(id::SERVER_KEEP_ALIVE);
        out.put_u16(seconds);
    }
    Ok(())
}

fn carried_properties(properties: &Properties, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(is_text) = properties.payload_is_text {
        out.put_slice(&[id::PAYLOAD_FORMAT, u8::from(is_text)]);
    }
    if let Some(seconds) = properties.message_expiry {
        out.put_u8(id::MESSAGE_EXPIRY);
        out.put_u32(seconds);
    }
    put_text_property(out, id::CONTENT_TYPE, properties.content_type.as_deref())?;
    put_text_property(
        out,
        id::RESPONSE_TOPIC,
        properties.response_topic.as_deref(),
    )?;
    if let Some(data) = &properties.correlation_data {
        out.put_u8(id::CORRELATION_DATA);
        put_binary(out, data)?;
    }
    for (name, value) in &properties.user {
        out.put_u8(id::USER_PROPERTY);
        put_text(out, name)?;
        put_text(out, value)?;
    }
    Ok(())
}

fn put_text_property(out: &mut BytesMut, id: u8, text: Option<&str>) -> Result<(), EncodeError> {
    if let Some(text) = text {
        out.put_u8(id);
        put_text(out, text)?;
    }
    Ok(())
}

fn put_text(out: &mut BytesMut, text: &str) -> Result<(), EncodeError> {
    put_binary(out, text.as_bytes())
}

fn put_binary(out: &mut BytesMut, bytes: &[u8]) -> Result<(), EncodeError> {
    let length = u16::try_from(bytes.len()).map_err(|_| EncodeError::Field(bytes.len()))?;
    out.put_u16(length);
    out.put_slice(bytes);
    Ok(())
}

/// Appends what `fields` appends, with its length plus `more` in front.
fn prefixed(
    out: &mut BytesMut,
    more: usize,
    fields: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_u8(0);
    fields(out)?;
    let end = out.len();
    let (bytes, length) = variable_integer(end - start - 1 + more);
    // One byte was kept free, which is enough for most.
    out.put_bytes(0, length - 1);
    out.copy_within(start + 1..end, start + length);
    out[start..start + length].copy_from_slice(&bytes[..length]);
    Ok(())
}

/// The bytes of a variable byte integer, and how many they are. A fifth is taken by what MQTT cannot express, and the
/// packet is refused for its size then.
pub(super) fn variable_integer(mut value: usize) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let mut length = 0;
    loop {
        bytes[length] = (value & 0x7F) as u8;
        value >>= 7;
        length += 1;
        if value == 0 || length == bytes.len() {
            return (bytes, length);
        }
        bytes[length - 1] |= 0x80;
    }
}
