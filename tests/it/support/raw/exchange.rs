//! The exchanges that take more than a packet and its answer: QoS 2, a session
//! that goes on, topic aliases, and properties by name.

use std::net::SocketAddr;

use super::{Hello, Message, Packet, Raw, V, field, kind, packet, properties, variable};

/// Properties of MQTT 5, by their identifiers.
pub mod property {
    pub const PAYLOAD_FORMAT: u8 = 1;
    pub const MESSAGE_EXPIRY: u8 = 2;
    pub const CONTENT_TYPE: u8 = 3;
    pub const RESPONSE_TOPIC: u8 = 8;
    pub const CORRELATION_DATA: u8 = 9;
    pub const SUBSCRIPTION_ID: u8 = 11;
    pub const SESSION_EXPIRY: u8 = 17;
    pub const ASSIGNED_CLIENT_ID: u8 = 18;
    pub const SERVER_KEEP_ALIVE: u8 = 19;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 23;
    pub const WILL_DELAY: u8 = 24;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 25;
    pub const RESPONSE_INFORMATION: u8 = 26;
    pub const RECEIVE_MAXIMUM: u8 = 33;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 34;
    pub const TOPIC_ALIAS: u8 = 35;
    pub const MAXIMUM_QOS: u8 = 36;
    pub const USER: u8 = 38;
    pub const MAXIMUM_PACKET: u8 = 39;
    pub const SHARED_AVAILABLE: u8 = 42;
}

/// A property whose value is two bytes.
fn short(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property whose value is four bytes.
fn long(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

impl Hello {
    /// With a session that outlives its connections: in 3.1.1 for as long as the
    /// daemon keeps it, in MQTT 5 for an hour.
    pub fn kept(self) -> Hello {
        match self.version {
            V::V311 => self.unclean(),
            V::V5 => self.unclean().expiry(3600),
        }
    }

    /// With a session expiry of so many seconds.
    pub fn expiry(self, seconds: u32) -> Hello {
        self.property(&long(property::SESSION_EXPIRY, seconds))
    }

    /// Takes so many messages that are not yet acknowledged.
    pub fn receive_maximum(self, messages: u16) -> Hello {
        self.property(&short(property::RECEIVE_MAXIMUM, messages))
    }

    /// Takes so many topic aliases.
    pub fn topic_aliases(self, aliases: u16) -> Hello {
        self.property(&short(property::TOPIC_ALIAS_MAXIMUM, aliases))
    }

    /// Takes packets of so many bytes.
    pub fn maximum_packet(self, bytes: u32) -> Hello {
        self.property(&long(property::MAXIMUM_PACKET, bytes))
    }
}

impl Message {
    /// With this packet id.
    pub fn id(self, id: u16) -> Message {
        Message { id, ..self }
    }

    /// As one that may have been sent before.
    pub fn again(self) -> Message {
        Message { dup: true, ..self }
    }

    /// With a message expiry of so many seconds.
    pub fn expiry(self, seconds: u32) -> Message {
        self.property(&long(property::MESSAGE_EXPIRY, seconds))
    }

    /// As a will that waits for so many seconds.
    pub fn delay(self, seconds: u32) -> Message {
        self.property(&long(property::WILL_DELAY, seconds))
    }

    /// With this topic alias.
    pub fn alias(self, alias: u16) -> Message {
        self.property(&short(property::TOPIC_ALIAS, alias))
    }

    /// The value of a property as bytes, if it is there.
    pub fn value_of(&self, id: u8) -> Option<Vec<u8>> {
        let found = properties(&self.properties).into_iter();
        found
            .filter(|found| found.0 == id)
            .map(|(_, value)| value)
            .next()
    }

    /// Its topic alias.
    pub fn topic_alias(&self) -> Option<u16> {
        let value = self.value_of(property::TOPIC_ALIAS)?;
        Some(u16::from_be_bytes(value.try_into().expect("two bytes")))
    }

    /// What is left of its message expiry, in seconds.
    pub fn seconds_left(&self) -> Option<u32> {
        let value = self.value_of(property::MESSAGE_EXPIRY)?;
        Some(u32::from_be_bytes(value.try_into().expect("four bytes")))
    }

    /// Its subscription identifiers, sorted.
    pub fn subscription_ids(&self) -> Vec<usize> {
        let mut ids: Vec<_> = properties(&self.properties)
            .into_iter()
            .filter(|(id, _)| *id == property::SUBSCRIPTION_ID)
            .map(|(_, bytes)| {
                let bits = bytes.iter().rev().map(|byte| usize::from(byte & 0x7F));
                bits.fold(0, |number, bits| number << 7 | bits)
            })
            .collect();
        ids.sort_unstable();
        ids
    }
}

impl Packet {
    /// The packet id of an acknowledgement.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// The value of a property of a CONNACK as bytes, if it is there.
    pub fn connack_property(&self, id: u8) -> Option<Vec<u8>> {
        let found = self.connack_properties().into_iter();
        found
            .filter(|found| found.0 == id)
            .map(|(_, value)| value)
            .next()
    }
}

impl Raw {
    /// Connects and logs in; says too whether the session was there.
    pub async fn resume(address: SocketAddr, hello: Hello) -> (Raw, bool) {
        let mut client = Raw::connect(address, hello.version).await;
        let connack = client.greet(&hello).await;
        (client, connack.body[0] == 1)
    }

    /// The next packet, which is one of this kind.
    pub async fn expect(&mut self, kind: u8) -> Packet {
        let packet = self.packet().await;
        assert_eq!(packet.kind(), kind, "{packet:?}");
        packet
    }

    /// The next packet, which has this kind and packet id and speaks of success.
    pub async fn expect_success(&mut self, kind: u8, id: u16) {
        let packet = self.expect(kind).await;
        assert_eq!((packet.id(), packet.reason()), (id, 0), "{packet:?}");
        // PUBREL has the flags of its own (MQTT-3.6.1-1), the others have none.
        let flags = if kind == kind::PUBREL { 2 } else { 0 };
        assert_eq!(packet.first & 0x0F, flags, "{packet:?}");
    }

    /// Sends a PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub async fn answer(&mut self, kind: u8, id: u16) {
        self.answer_with(kind, id, &[]).await;
    }

    /// Likewise, with a reason and properties as bytes.
    pub async fn answer_with(&mut self, kind: u8, id: u16, rest: &[u8]) {
        let flags = if kind == kind::PUBREL { 2 } else { 0 };
        let body = [&id.to_be_bytes(), rest].concat();
        self.send(&packet(kind << 4 | flags, &body)).await;
    }

    /// Takes a message of QoS 2 that has arrived, in both steps.
    pub async fn take(&mut self, id: u16) {
        self.answer(kind::PUBREC, id).await;
        let release = self.wait_for(kind::PUBREL).await;
        assert_eq!((release.id(), release.reason()), (id, 0), "{release:?}");
        self.answer(kind::PUBCOMP, id).await;
    }

    /// Publishes a message of QoS 2 in both steps, and returns the reason of the
    /// PUBREC; an error there leaves out the second step.
    pub async fn publish_2(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> u8 {
        let message = Message::new(topic, payload).qos(2);
        self.publish_message_2(message).await
    }

    /// Publishes a message with QoS 2 likewise.
    pub async fn publish_message_2(&mut self, message: Message) -> u8 {
        let id = self.fresh_id();
        self.send(&message.id(id).bytes(self.version)).await;
        let received = self.wait_for(kind::PUBREC).await;
        assert_eq!(received.id(), id, "{received:?}");
        if received.reason() < 0x80 {
            self.answer(kind::PUBREL, id).await;
            let complete = self.wait_for(kind::PUBCOMP).await;
            assert_eq!((complete.id(), complete.reason()), (id, 0), "{complete:?}");
        }
        received.reason()
    }

    /// Publishes a message with its QoS, and returns once it has been handled.
    pub async fn publish_any(&mut self, message: Message) {
        match message.qos {
            0 => self.publish_0(message).await,
            1 => assert!(self.publish_message(message).await < 0x80),
            _ => assert!(self.publish_message_2(message).await < 0x80),
        }
    }

    /// Subscribes with properties of MQTT 5; returns a code for each filter.
    pub async fn subscribe_with(&mut self, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
        let bytes = self.subscribe_bytes_with(properties, filters);
        self.send(&bytes).await;
        let suback = self.wait_for(kind::SUBACK).await;
        suback.body[3 + usize::from(suback.body[2])..].to_vec()
    }

    /// Such a SUBSCRIBE.
    pub fn subscribe_bytes_with(&mut self, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
        let mut body = self.fresh_id().to_be_bytes().to_vec();
        body.extend(variable(properties.len()));
        body.extend(properties);
        for (filter, options) in filters {
            body.extend(field(filter));
            body.push(*options);
        }
        packet(0x82, &body)
    }

    /// Says goodbye with a reason and properties of MQTT 5, and waits for the end.
    pub async fn goodbye_with(mut self, reason: u8, properties: &[u8]) {
        let mut body = vec![reason];
        body.extend(variable(properties.len()));
        body.extend(properties);
        self.send(&packet(0xE0, &body)).await;
        self.closed().await;
    }

    /// Says goodbye, and wishes another session expiry, in seconds.
    pub async fn goodbye_for(self, seconds: u32) {
        self.goodbye_with(0, &long(property::SESSION_EXPIRY, seconds))
            .await;
    }

    /// All packets up to the end of the connection.
    pub async fn last_words(&mut self) -> Vec<Packet> {
        let mut words = Vec::new();
        while let Some(packet) = self.packet_or_end().await {
            words.push(packet);
        }
        words
    }

    /// So many messages, all acknowledged: their texts.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.message().await.text());
        }
        texts
    }

    /// The next message, acknowledged, of those that have arrived or are about to;
    /// none if there is none. See [`silence`](Raw::silence).
    pub async fn message_if_any(&mut self) -> Option<Message> {
        if self.early.is_empty() {
            self.ping().await;
            self.ping().await;
        }
        match self.early.is_empty() {
            true => None,
            false => Some(self.message().await),
        }
    }
}
