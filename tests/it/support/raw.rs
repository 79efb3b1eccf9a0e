//! An MQTT client by hand, in bytes. It shares no code with `src/mqtt`, so a
//! codec cannot agree with itself, and it can be as rude as a test needs.

mod exchange;

pub use exchange::property;

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{PASSWORD, token, within};

/// A protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.
    V5,
}

/// Both, for tests that hold in each.
pub const BOTH: [V; 2] = [V::V311, V::V5];

/// Types of packets, as the high half of their first byte.
pub mod kind {
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBACK: u8 = 9;
    pub const UNSUBACK: u8 = 11;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
}

/// A packet with these contents, its length in front.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(variable(body.len()));
    bytes.extend(body);
    bytes
}

/// A variable byte integer.
pub fn variable(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number % 128) as u8;
        number /= 128;
        bytes.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return bytes;
        }
    }
}

/// Bytes with their length as 16 bits in front.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a short field");
    [&length.to_be_bytes(), bytes].concat()
}

/// The properties of MQTT 5 in `bytes`, without their length: identifiers and values as bytes.
pub fn properties(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((&id, rest)) = bytes.split_first() {
        let text = |at: usize| 2 + usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        let length = match id {
            1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => 1,
            19 | 33 | 34 | 35 => 2,
            2 | 17 | 24 | 39 => 4,
            11 => 1 + rest.iter().take_while(|byte| **byte & 0x80 != 0).count(),
            38 => text(0) + text(text(0)),
            _ => text(0),
        };
        found.push((id, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    found
}

/// The CONNECT of a client.
#[derive(Debug, Clone)]
pub struct Hello {
    version: V,
    id: String,
    is_clean: bool,
    keep_alive: u16,
    name: Option<String>,
    secret: Option<String>,
    will: Option<Message>,
    properties: Vec<u8>,
}

impl Hello {
    /// A clean session without keep alive, login and will.
    pub fn new(version: V, id: &str) -> Hello {
        Hello {
            version,
            id: id.to_owned(),
            is_clean: true,
            keep_alive: 0,
            name: None,
            secret: None,
            will: None,
            properties: Vec::new(),
        }
    }

    /// A device's mounted login.
    pub fn mounted(version: V, device: &str) -> Hello {
        Hello::new(version, &format!("{device}-mounted")).login("device", &token(device))
    }

    /// A device's unmounted login.
    pub fn unmounted(version: V, device: &str) -> Hello {
        Hello::new(version, &format!("{device}-unmounted")).login(device, &token(device))
    }

    /// A user's login.
    pub fn user(version: V, user: &str) -> Hello {
        Hello::new(version, &format!("{user}-client")).login(user, PASSWORD)
    }

    /// With this user name and password.
    pub fn login(self, name: &str, secret: &str) -> Hello {
        Hello {
            name: Some(name.to_owned()),
            secret: Some(secret.to_owned()),
            ..self
        }
    }

    /// With this client id.
    pub fn id(self, id: &str) -> Hello {
        Hello {
            id: id.to_owned(),
            ..self
        }
    }

    /// With an earlier session, if there is one.
    pub fn unclean(self) -> Hello {
        Hello {
            is_clean: false,
            ..self
        }
    }

    /// With a keep alive of so many seconds.
    pub fn keep_alive(self, seconds: u16) -> Hello {
        Hello {
            keep_alive: seconds,
            ..self
        }
    }

    /// With this will.
    pub fn will(self, will: Message) -> Hello {
        Hello {
            will: Some(will),
            ..self
        }
    }

    /// With one more property of MQTT 5, as bytes.
    pub fn property(mut self, property: &[u8]) -> Hello {
        self.properties.extend(property);
        self
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        let mut flags = u8::from(self.is_clean) << 1;
        flags |= u8::from(self.name.is_some()) << 7;
        flags |= u8::from(self.secret.is_some()) << 6;
        if let Some(will) = &self.will {
            flags |= 0b100 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        let level = if self.version == V::V5 { 5 } else { 4 };
        let mut body = field("MQTT");
        body.extend([level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version == V::V5 {
            body.extend(variable(self.properties.len()));
            body.extend(&self.properties);
        }
        body.extend(field(&self.id));
        if let Some(will) = &self.will {
            if self.version == V::V5 {
                body.extend(variable(will.properties.len()));
                body.extend(&will.properties);
            }
            body.extend(field(&will.topic));
            body.extend(field(&will.payload));
        }
        body.extend(self.name.iter().flat_map(field));
        body.extend(self.secret.iter().flat_map(field));
        packet(0x10, &body)
    }
}

/// A message: to publish, as a will, or as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    /// Above QoS 0.
    pub id: u16,
    /// The properties of MQTT 5, as bytes without their length.
    pub properties: Vec<u8>,
}

impl Message {
    /// QoS 0, not retained.
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Message {
        Message {
            topic: topic.to_owned(),
            payload: payload.as_ref().to_owned(),
            qos: 0,
            retain: false,
            dup: false,
            id: 0,
            properties: Vec::new(),
        }
    }

    /// With this QoS.
    pub fn qos(self, qos: u8) -> Message {
        Message { qos, ..self }
    }

    /// To be retained.
    pub fn retained(self) -> Message {
        Message {
            retain: true,
            ..self
        }
    }

    /// With one more property of MQTT 5, as bytes.
    pub fn property(mut self, property: &[u8]) -> Message {
        self.properties.extend(property);
        self
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.payload.clone()).expect("a text")
    }

    /// The PUBLISH in `version`.
    pub fn bytes(&self, version: V) -> Vec<u8> {
        let mut body = field(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == V::V5 {
            body.extend(variable(self.properties.len()));
            body.extend(&self.properties);
        }
        body.extend(&self.payload);
        let flags = u8::from(self.retain) | self.qos << 1 | u8::from(self.dup) << 3;
        packet(0x30 | flags, &body)
    }

    /// The message of a PUBLISH.
    pub fn parse(version: V, packet: &Packet) -> Message {
        let flags = packet.first & 0x0F;
        let qos = flags >> 1 & 3;
        let mut rest = &packet.body[..];
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count);
            rest = left;
            taken.to_vec()
        };
        let length = take(2);
        let topic = take(usize::from(u16::from_be_bytes([length[0], length[1]])));
        let id = match qos {
            0 => 0,
            _ => {
                let id = take(2);
                u16::from_be_bytes([id[0], id[1]])
            }
        };
        let properties = match version {
            V::V5 => {
                let mut length = 0;
                let mut shift = 0;
                loop {
                    let byte = take(1)[0];
                    length |= usize::from(byte & 0x7F) << shift;
                    shift += 7;
                    if byte & 0x80 == 0 {
                        break;
                    }
                }
                take(length)
            }
            V::V311 => Vec::new(),
        };
        Message {
            topic: String::from_utf8(topic).expect("a topic is text"),
            payload: rest.to_vec(),
            qos,
            retain: flags & 1 == 1,
            dup: flags & 8 == 8,
            id,
            properties,
        }
    }
}

/// A packet as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Packet {
    /// Its type.
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The properties of a CONNACK.
    pub fn connack_properties(&self) -> Vec<(u8, Vec<u8>)> {
        // There are few of them: their length is one byte.
        assert!(self.body[2] < 0x80, "{self:?}");
        properties(&self.body[3..])
    }

    /// The reason of an acknowledgement or DISCONNECT; absent is 0.
    pub fn reason(&self) -> u8 {
        let at = if self.kind() == kind::DISCONNECT {
            0
        } else {
            2
        };
        self.body.get(at).copied().unwrap_or(0)
    }
}

/// A client's connection.
pub struct Raw {
    pub version: V,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Messages that came while something else was awaited.
    early: VecDeque<Packet>,
    next_id: u16,
}

impl Raw {
    /// Connects, and says nothing yet.
    pub async fn connect(address: SocketAddr, version: V) -> Raw {
        Raw::try_connect(address, version, [127, 0, 0, 1])
            .await
            .expect("a connection")
    }

    /// Connects from another address of this machine.
    pub async fn try_connect(
        address: SocketAddr,
        version: V,
        from: [u8; 4],
    ) -> std::io::Result<Raw> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = within("a connection", socket.connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Raw {
            version,
            stream,
            buffer: Vec::new(),
            early: VecDeque::new(),
            next_id: 0,
        })
    }

    /// Connects with a receive buffer so small that not reading is felt soon.
    pub async fn connect_small(address: SocketAddr, version: V) -> Raw {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = within("a connection", socket.connect(address))
            .await
            .expect("a connection");
        Raw {
            version,
            stream,
            buffer: Vec::new(),
            early: VecDeque::new(),
            next_id: 0,
        }
    }

    /// Connects and logs in.
    pub async fn log_in(address: SocketAddr, hello: Hello) -> Raw {
        let mut client = Raw::connect(address, hello.version).await;
        client.greet(&hello).await;
        client
    }

    /// Logs in; returns the CONNACK.
    pub async fn greet(&mut self, hello: &Hello) -> Packet {
        self.send(&hello.bytes()).await;
        let connack = self.packet().await;
        assert_eq!(connack.kind(), kind::CONNACK, "{connack:?}");
        assert_eq!(connack.body[1], 0, "refused: {connack:?} after {hello:?}");
        connack
    }

    /// Tries to log in, and expects a refusal and the end of the connection;
    /// returns the CONNACK's code.
    pub async fn refused(address: SocketAddr, hello: &Hello) -> u8 {
        let mut client = Raw::connect(address, hello.version).await;
        client.send(&hello.bytes()).await;
        let connack = client.packet().await;
        assert_eq!(connack.kind(), kind::CONNACK, "{connack:?}");
        assert_ne!(connack.body[1], 0, "let in: {hello:?}");
        client.closed().await;
        connack.body[1]
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = within("bytes taken by the daemon", self.stream.write_all(bytes)).await;
        sent.expect("the connection lives");
    }

    /// Sends bytes to a daemon that may have closed already.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("bytes taken by the daemon", self.stream.write_all(bytes)).await
    }

    /// Sends bytes for as long as it takes.
    pub async fn try_send_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Whether a byte more cannot be sent because the connection is broken.
    pub fn is_broken(&self) -> bool {
        match self.stream.try_write(&[0xC0]) {
            Ok(_) => false,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// The next packet.
    pub async fn packet(&mut self) -> Packet {
        match self.packet_or_end().await {
            Some(packet) => packet,
            None => panic!("a packet was expected, and the daemon closed the connection"),
        }
    }

    /// The next packet; none if the connection ends.
    pub async fn packet_or_end(&mut self) -> Option<Packet> {
        if let Some(packet) = self.early.pop_front() {
            return Some(packet);
        }
        within("a packet from the daemon", self.read()).await
    }

    /// The next packet if one arrives before `pause` is over.
    pub async fn packet_within(&mut self, pause: std::time::Duration) -> Option<Packet> {
        tokio::time::timeout(pause, self.read())
            .await
            .ok()
            .flatten()
    }

    /// Cancel-safe: what was read stays in the buffer.
    async fn read(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.split() {
                return Some(packet);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    fn split(&mut self) -> Option<Packet> {
        let mut length = 0;
        for at in 1..5 {
            let byte = *self.buffer.get(at)?;
            length |= usize::from(byte & 0x7F) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                let body = self.buffer.get(at + 1..at + 1 + length)?.to_vec();
                let first = self.buffer[0];
                self.buffer.drain(..at + 1 + length);
                return Some(Packet { first, body });
            }
        }
        panic!("a length of more than four bytes: {:?}", &self.buffer[..5]);
    }

    /// Expects the end of the connection with nothing before it.
    pub async fn closed(&mut self) {
        match self.packet_or_end().await {
            None => {}
            Some(packet) => panic!("the end was expected, and {packet:?} came"),
        }
    }

    /// Expects the goodbye of this reason: DISCONNECT and the end in MQTT 5, the
    /// end alone in 3.1.1. Messages on the way are passed over.
    pub async fn dismissed(&mut self, reason: u8) {
        if self.version == V::V5 {
            let goodbye = self.wait_for(kind::DISCONNECT).await;
            assert_eq!(goodbye.reason(), reason, "{goodbye:?}");
            self.early.clear();
        }
        while let Some(packet) = self.packet_or_end().await {
            assert_eq!(packet.kind(), kind::PUBLISH, "{packet:?}");
        }
    }

    /// The next packet that is not a message; messages are kept for later.
    async fn wait_for(&mut self, kind: u8) -> Packet {
        let mut early = std::mem::take(&mut self.early);
        loop {
            let packet = self.packet().await;
            if packet.kind() == kind::PUBLISH {
                early.push_back(packet);
                continue;
            }
            assert_eq!(packet.kind(), kind, "{packet:?}");
            self.early = early;
            return packet;
        }
    }

    /// A packet id that was not used.
    pub fn fresh_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// The SUBSCRIBE for filters with options (QoS and the bits of MQTT 5), its id first.
    pub fn subscribe_bytes(&mut self, filters: &[(&str, u8)]) -> (u16, Vec<u8>) {
        let id = self.fresh_id();
        let mut body = id.to_be_bytes().to_vec();
        if self.version == V::V5 {
            body.push(0);
        }
        for (filter, options) in filters {
            body.extend(field(filter));
            body.push(*options);
        }
        (id, packet(0x82, &body))
    }

    /// Subscribes; returns a code for each filter.
    pub async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        let (id, bytes) = self.subscribe_bytes(filters);
        self.send(&bytes).await;
        let suback = self.wait_for(kind::SUBACK).await;
        assert_eq!(suback.body[..2], id.to_be_bytes(), "{suback:?}");
        let codes = &suback.body[2..];
        match self.version {
            // Of properties there are reason strings at most, which nobody sends here.
            V::V5 => codes[1 + usize::from(codes[0])..].to_vec(),
            V::V311 => codes.to_vec(),
        }
    }

    /// Unsubscribes; returns a code for each filter in MQTT 5.
    pub async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.fresh_id();
        let mut body = id.to_be_bytes().to_vec();
        if self.version == V::V5 {
            body.push(0);
        }
        filters.iter().for_each(|filter| body.extend(field(filter)));
        self.send(&packet(0xA2, &body)).await;
        let unsuback = self.wait_for(kind::UNSUBACK).await;
        assert_eq!(unsuback.body[..2], id.to_be_bytes(), "{unsuback:?}");
        match self.version {
            V::V5 => unsuback.body[3..].to_vec(),
            V::V311 => Vec::new(),
        }
    }

    /// Publishes with QoS 1 and returns the acknowledgement's reason, in 3.1.1 always 0.
    pub async fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> u8 {
        self.publish_message(Message::new(topic, payload).qos(1))
            .await
    }

    /// Publishes a message with QoS 1 likewise.
    pub async fn publish_message(&mut self, mut message: Message) -> u8 {
        message.id = self.fresh_id();
        self.send(&message.bytes(self.version)).await;
        let ack = self.wait_for(kind::PUBACK).await;
        assert_eq!(ack.body[..2], message.id.to_be_bytes(), "{ack:?}");
        ack.reason()
    }

    /// Publishes a message with QoS 0, and returns once it has been handled.
    pub async fn publish_0(&mut self, message: Message) {
        let bytes = message.bytes(self.version);
        self.send(&bytes).await;
        self.ping().await;
    }

    /// A PINGREQ and its answer: everything sent before has been handled then.
    pub async fn ping(&mut self) {
        self.send(&[0xC0, 0]).await;
        self.wait_for(kind::PINGRESP).await;
    }

    /// The next message, acknowledged if it wants that.
    pub async fn message(&mut self) -> Message {
        let message = self.message_unacknowledged().await;
        match message.qos {
            0 => {}
            1 => self.acknowledge(message.id).await,
            _ => self.take(message.id).await,
        }
        message
    }

    /// The next message, not acknowledged.
    pub async fn message_unacknowledged(&mut self) -> Message {
        let packet = self.packet().await;
        assert_eq!(packet.kind(), kind::PUBLISH, "{packet:?}");
        Message::parse(self.version, &packet)
    }

    /// Sends a PUBACK.
    pub async fn acknowledge(&mut self, id: u16) {
        self.send(&packet(0x40, &id.to_be_bytes())).await;
    }

    /// The next message on `topic`; others are passed over.
    pub async fn message_on(&mut self, topic: &str) -> Message {
        let mut others = Vec::new();
        let search = async {
            loop {
                let message = self.message().await;
                if message.topic == topic {
                    return message;
                }
                others.push(message.topic);
            }
        };
        match tokio::time::timeout(super::PATIENCE, search).await {
            Ok(message) => message,
            Err(_) => panic!("no message on {topic}, but on {others:?}"),
        }
    }

    /// Expects that no message has arrived or is about to.
    ///
    /// The second answer comes after everything that was in the session's queue
    /// when the first was sent.
    pub async fn silence(&mut self) {
        self.ping().await;
        self.ping().await;
        if let Some(packet) = self.early.pop_front() {
            panic!(
                "a message nobody expected: {:?}",
                Message::parse(self.version, &packet)
            );
        }
    }

    /// Whether the connection has ended, as far as can be told now.
    pub async fn has_ended(&mut self) -> bool {
        let mut byte = [0];
        matches!(
            tokio::time::timeout(std::time::Duration::ZERO, self.stream.peek(&mut byte)).await,
            Ok(Ok(0) | Err(_))
        )
    }

    /// Says goodbye.
    pub async fn goodbye(mut self) {
        self.send(&[0xE0, 0]).await;
        self.closed().await;
    }

    /// Breaks off with a reset.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}
