//! The bodies of packets -> packets, field by field. Every rule that a body can break by itself is checked here.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::super::packet::{
    Ack, Connect, Disconnect, Filter, Password, Properties, Publish, Qos, Reason, RetainHandling,
    Subscribe, Unsubscribe, Version, Will,
};
use super::{DecodeError, id};

/// The fields of one packet, read from front to back.
pub(super) struct Reader<'a> {
    /// The name of the packet, for errors.
    pub(super) packet: &'static str,
    /// What is not read yet.
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let split = self.rest.split_at_checked(count);
        let (taken, rest) = split.ok_or(DecodeError::Truncated(self.packet))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated(self.packet))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn variable_integer(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for i in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                if byte == 0 && i > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(DecodeError::VariableInteger(self.packet))
    }

    fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A text, checked as MQTT-1.5.4-1 and -2 demand.
    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8(self.packet))?;
        if bytes.contains(&0) {
            return Err(DecodeError::Nul(self.packet));
        }
        Ok(text)
    }

    fn packet_id(&mut self) -> Result<NonZeroU16, DecodeError> {
        NonZeroU16::new(self.u16()?).ok_or(DecodeError::PacketId(self.packet))
    }

    /// The properties that come next; none in 3.1.1.
    fn properties(&mut self, version: Option<Version>) -> Result<PropertyReader<'a>, DecodeError> {
        let length = match version {
            Some(Version::V5) => self.variable_integer()?,
            _ => 0,
        };
        Ok(PropertyReader {
            fields: Reader {
                packet: self.packet,
                rest: self.take(length as usize)?,
            },
            seen: 0,
        })
    }

    /// As [`properties`](Reader::properties), where MQTT 5 lets a packet end before their length.
    fn last_properties(
        &mut self,
        version: Option<Version>,
    ) -> Result<PropertyReader<'a>, DecodeError> {
        let end = self.rest.is_empty();
        self.properties(version.filter(|_| !end))
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Surplus {
            packet: self.packet,
            surplus: self.rest.len(),
        })
    }

    /// A CONNECT. `version` is set as soon as the packet tells it, so that even a refusal can be written.
    pub(super) fn connect(
        &mut self,
        version: &mut Option<Version>,
    ) -> Result<Connect, DecodeError> {
        let protocol = self.binary()?;
        let level = self.u8()?;
        let spoken = match (protocol, level) {
            (b"MQTT", 4) => Version::V311,
            (b"MQTT", 5) => Version::V5,
            (b"MQTT", _) => {
                // mosquitto's bridges set the high bit of level 4 and try again without it when they read CONNACK 1.
                let old = level & 0x7F < 5;
                *version = Some(if old { Version::V311 } else { Version::V5 });
                return Err(DecodeError::Level(level));
            }
            (b"MQIsdp", _) => {
                *version = Some(Version::V311);
                return Err(DecodeError::Mqtt31);
            }
            _ => return Err(DecodeError::NotMqtt),
        };
        *version = Some(spoken);

        let flags = self.u8()?;
        let has = |bit: u8| flags & bit != 0;
        let (has_will, has_password, has_username) = (has(0x04), has(0x40), has(0x80));
        let reserved = has(0x01); // MQTT-3.1.2-3
        let stray_will = !has_will && flags & 0x38 != 0; // MQTT-3.1.2-11 to -15
        let stray_password = spoken == Version::V311 && has_password && !has_username; // MQTT-3.1.2-22
        if reserved || stray_will || stray_password {
            return Err(DecodeError::ConnectFlags(flags));
        }
        let will_qos = Qos::from_bits(flags >> 3 & 0b11).ok_or(DecodeError::Qos(self.packet))?;

        let mut connect = Connect {
            version: spoken,
            client_id: String::new(),
            clean_start: has(0x02),
            keep_alive: self.u16()?,
            session_expiry: None,
            receive_maximum: None,
            maximum_packet: None,
            topic_alias_maximum: 0,
            request_problem_information: true,
            request_response_information: false,
            authentication_method: None,
            will: None,
            username: None,
            password: None,
        };
        self.connect_properties(&mut connect)?;
        connect.client_id = self.text()?.to_owned();
        if has_will {
            connect.will = Some(self.will(spoken, will_qos, has(0x20))?);
        }
        if has_username {
            connect.username = Some(self.text()?.to_owned());
        }
        if has_password {
            let password = std::str::from_utf8(self.binary()?);
            let password = password.map_err(|_| DecodeError::Password)?;
            connect.password = Some(Password(password.to_owned()));
        }
        Ok(connect)
    }

    fn connect_properties(&mut self, connect: &mut Connect) -> Result<(), DecodeError> {
        let mut properties = self.properties(Some(connect.version))?;
        let mut authentication_data = false;
        while let Some(id) = properties.next()? {
            let fields = &mut properties.fields;
            match id {
                id::SESSION_EXPIRY => connect.session_expiry = Some(fields.u32()?),
                id::RECEIVE_MAXIMUM => {
                    connect.receive_maximum = NonZeroU16::new(fields.u16()?);
                    properties.in_range(id, connect.receive_maximum.is_some())?;
                }
                id::MAXIMUM_PACKET => {
                    connect.maximum_packet = NonZeroU32::new(fields.u32()?);
                    properties.in_range(id, connect.maximum_packet.is_some())?;
                }
                id::TOPIC_ALIAS_MAXIMUM => connect.topic_alias_maximum = fields.u16()?,
                id::REQUEST_PROBLEM_INFORMATION => {
                    connect.request_problem_information = properties.flag(id)?;
                }
                id::REQUEST_RESPONSE_INFORMATION => {
                    connect.request_response_information = properties.flag(id)?;
                }
                id::USER_PROPERTY => {
                    properties.pair()?;
                }
                id::AUTHENTICATION_METHOD => {
                    connect.authentication_method = Some(fields.text()?.to_owned());
                }
                id::AUTHENTICATION_DATA => {
                    fields.binary()?;
                    authentication_data = true;
                }
                _ => return Err(properties.misplaced(id)),
            }
        }
        let stray_data = authentication_data && connect.authentication_method.is_none();
        properties.in_range(id::AUTHENTICATION_DATA, !stray_data)
    }

    fn will(&mut self, version: Version, qos: Qos, retain: bool) -> Result<Will, DecodeError> {
        let mut delay = 0;
        let mut carried = Properties::default();
        let mut properties = self.properties(Some(version))?;
        while let Some(id) = properties.next()? {
            match id {
                id::WILL_DELAY => delay = properties.fields.u32()?,
                _ => properties.carried(id, &mut carried)?,
            }
        }
        Ok(Will {
            topic: self.text()?.to_owned(),
            payload: Bytes::copy_from_slice(self.binary()?),
            qos,
            retain,
            delay,
            properties: carried,
        })
    }

    /// Everything of a PUBLISH but the payload, which is what the reader then still holds.
    pub(super) fn publish(
        &mut self,
        first: u8,
        version: Option<Version>,
    ) -> Result<Publish, DecodeError> {
        let dup = first & 0b1000 != 0;
        let qos = Qos::from_bits(first >> 1 & 0b11).ok_or(DecodeError::Qos(self.packet))?;
        if dup && qos == Qos::AtMostOnce {
            return Err(DecodeError::Dup); // MQTT-3.3.1-2
        }
        let topic = self.text()?;
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            _ => Some(self.packet_id()?),
        };
        let mut topic_alias = None;
        let mut carried = Properties::default();
        let mut properties = self.properties(version)?;
        while let Some(id) = properties.next()? {
            match id {
                id::TOPIC_ALIAS => {
                    let alias = NonZeroU16::new(properties.fields.u16()?);
                    topic_alias = Some(alias.ok_or(DecodeError::TopicAlias)?);
                }
                // A subscription identifier has no place here: only a server sends it (MQTT-3.3.4-6).
                _ => properties.carried(id, &mut carried)?,
            }
        }
        Ok(Publish {
            dup,
            qos,
            retain: first & 1 != 0,
            packet_id,
            topic: topic.to_owned(),
            topic_alias,
            payload: Bytes::new(),
            properties: carried,
        })
    }

    pub(super) fn ack(
        &mut self,
        version: Option<Version>,
        allowed: &[u8],
    ) -> Result<Ack, DecodeError> {
        let packet_id = self.packet_id()?;
        let mut reason = Reason::SUCCESS;
        if version == Some(Version::V5) && !self.rest.is_empty() {
            reason = Reason(self.u8()?);
            if !allowed.contains(&reason.0) {
                return Err(DecodeError::Reason {
                    packet: self.packet,
                    code: reason,
                });
            }
            let mut properties = self.last_properties(version)?;
            while let Some(id) = properties.next()? {
                properties.comment(id)?;
            }
        }
        Ok(Ack { packet_id, reason })
    }

    pub(super) fn subscribe(&mut self, version: Option<Version>) -> Result<Subscribe, DecodeError> {
        let packet_id = self.packet_id()?;
        let mut subscription_id = None;
        let mut properties = self.properties(version)?;
        while let Some(id) = properties.next()? {
            match id {
                id::SUBSCRIPTION_ID => {
                    subscription_id = NonZeroU32::new(properties.fields.variable_integer()?);
                    properties.in_range(id, subscription_id.is_some())?;
                }
                id::USER_PROPERTY => {
                    properties.pair()?;
                }
                _ => return Err(properties.misplaced(id)),
            }
        }
        let reserved = match version {
            Some(Version::V5) => 0b1100_0000,
            _ => 0b1111_1100, // MQTT-3-8.3-4
        };
        let mut filters = Vec::new();
        while !self.rest.is_empty() {
            let filter = self.text()?.to_owned();
            let options = self.u8()?;
            if options & reserved != 0 {
                return Err(DecodeError::Options(options));
            }
            filters.push(Filter {
                filter,
                qos: Qos::from_bits(options & 0b11).ok_or(DecodeError::Qos(self.packet))?,
                no_local: options & 0b0100 != 0,
                retain_as_published: options & 0b1000 != 0,
                retain_handling: match options >> 4 {
                    0 => RetainHandling::EverySubscribe,
                    1 => RetainHandling::NewSubscription,
                    2 => RetainHandling::Never,
                    _ => return Err(DecodeError::RetainHandling),
                },
            });
        }
        if filters.is_empty() {
            return Err(DecodeError::NoFilter(self.packet)); // MQTT-3.8.3-2
        }
        Ok(Subscribe {
            packet_id,
            id: subscription_id,
            filters,
        })
    }

    pub(super) fn unsubscribe(
        &mut self,
        version: Option<Version>,
    ) -> Result<Unsubscribe, DecodeError> {
        let packet_id = self.packet_id()?;
        let mut properties = self.properties(version)?;
        while let Some(id) = properties.next()? {
            match id {
                id::USER_PROPERTY => properties.pair()?,
                _ => return Err(properties.misplaced(id)),
            };
        }
        let mut filters = Vec::new();
        while !self.rest.is_empty() {
            filters.push(self.text()?.to_owned());
        }
        if filters.is_empty() {
            return Err(DecodeError::NoFilter(self.packet)); // MQTT-3.10.3-2
        }
        Ok(Unsubscribe { packet_id, filters })
    }

    pub(super) fn disconnect(
        &mut self,
        version: Option<Version>,
    ) -> Result<Disconnect, DecodeError> {
        let mut disconnect = Disconnect {
            reason: Reason::SUCCESS,
            session_expiry: None,
        };
        if version == Some(Version::V5) && !self.rest.is_empty() {
            disconnect.reason = Reason(self.u8()?);
            let mut properties = self.last_properties(version)?;
            while let Some(id) = properties.next()? {
                match id {
                    id::SESSION_EXPIRY => {
                        disconnect.session_expiry = Some(properties.fields.u32()?);
                    }
                    _ => properties.comment(id)?,
                }
            }
        }
        Ok(disconnect)
    }
}

/// The properties of one packet, read one after the other: each at most once, but for user properties.
struct PropertyReader<'a> {
    fields: Reader<'a>,
    /// One bit per identifier that was read.
    seen: u64,
}

impl<'a> PropertyReader<'a> {
    /// The identifier of the next property, whose value is to be read from `fields` then.
    fn next(&mut self) -> Result<Option<u8>, DecodeError> {
        if self.fields.rest.is_empty() {
            return Ok(None);
        }
        // A variable byte integer, but no identifier needs a second byte: what looks like more has no place.
        let id = self.fields.u8()?;
        let bit = 1u64.checked_shl(u32::from(id)).unwrap_or(0);
        if id != id::USER_PROPERTY && self.seen & bit != 0 {
            return Err(DecodeError::Repeated {
                packet: self.fields.packet,
                id,
            });
        }
        self.seen |= bit;
        Ok(Some(id))
    }

    fn misplaced(&self, id: u8) -> DecodeError {
        DecodeError::Property {
            packet: self.fields.packet,
            id,
        }
    }

    fn in_range(&self, id: u8, is_in_range: bool) -> Result<(), DecodeError> {
        if is_in_range {
            return Ok(());
        }
        Err(DecodeError::Value {
            packet: self.fields.packet,
            id,
        })
    }

    fn flag(&mut self, id: u8) -> Result<bool, DecodeError> {
        let byte = self.fields.u8()?;
        self.in_range(id, byte <= 1)?;
        Ok(byte == 1)
    }

    fn pair(&mut self) -> Result<(&'a str, &'a str), DecodeError> {
        Ok((self.fields.text()?, self.fields.text()?))
    }

    /// Checks a property that only explains something to people, and drops it.
    fn comment(&mut self, id: u8) -> Result<(), DecodeError> {
        match id {
            id::REASON_STRING => self.fields.text().map(drop),
            id::USER_PROPERTY => self.pair().map(drop),
            _ => Err(self.misplaced(id)),
        }
    }

    /// Reads a property that travels with the message.
    fn carried(&mut self, id: u8, into: &mut Properties) -> Result<(), DecodeError> {
        let fields = &mut self.fields;
        match id {
            id::PAYLOAD_FORMAT => into.payload_is_text = Some(self.flag(id)?),
            id::MESSAGE_EXPIRY => into.message_expiry = Some(fields.u32()?),
            id::CONTENT_TYPE => into.content_type = Some(fields.text()?.to_owned()),
            id::RESPONSE_TOPIC => into.response_topic = Some(fields.text()?.to_owned()),
            id::CORRELATION_DATA => {
                into.correlation_data = Some(Bytes::copy_from_slice(fields.binary()?));
            }
            id::USER_PROPERTY => {
                let (name, value) = self.pair()?;
                into.user.push((name.to_owned(), value.to_owned()));
            }
            _ => return Err(self.misplaced(id)),
        }
        Ok(())
    }
}

/// The reasons of PUBACK and PUBREC (MQTT 5, 3.4.2.1, 3.5.2.1).
pub(super) const ARRIVED: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// The reasons of PUBREL and PUBCOMP (MQTT 5, 3.6.2.1, 3.7.2.1).
pub(super) const RELEASED: &[u8] = &[0x00, 0x92];
