//! A device as cheap as can be: over a bare socket, its packets made by hand. Here those of MQTT 3.1.1 at QoS 0; the
//! frames of Blynk are in `sketch.rs`.
//!
//! The load must cost little beside what is measured, and must not share a codec with it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::failure::{Failure, within};
use crate::service::DIGITS;
use crate::sketch;

/// A response that takes longer than this is lost.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Who a device is and how it speaks.
pub enum Login {
    /// MQTT, on these topics.
    Mqtt {
        client_id: String,
        user: String,
        password: String,
        write_topic: String,
        response_topic: String,
    },
    /// The Blynk protocol.
    Blynk { token: String },
}

/// A device that is logged in and hears responses.
pub struct Device {
    pub writes: Writes,
    pub responses: Responses,
}

/// The half of a device that writes its pin.
pub struct Writes {
    socket: OwnedWriteHalf,
    /// A packet or frame whose last `DIGITS` bytes are the value.
    packet: Vec<u8>,
}

/// The half of a device that hears the responses.
pub struct Responses {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
    kind: Kind,
}

/// What a response comes in.
enum Kind {
    /// A message on this topic.
    Message(String),
    /// A frame of the Blynk protocol.
    Frame,
}

impl Device {
    /// Connects, logs in, and subscribes to the response topic or says what it is.
    pub async fn connect(address: SocketAddr, login: &Login) -> Result<Device, Failure> {
        within(PATIENCE, "answer to a device's login", open(address, login)).await
    }

    /// Writes `number` to the pin and waits for exactly its response.
    ///
    /// Not cancel-safe: a response may be half read.
    pub async fn turn(&mut self, number: u64) -> Result<(), Failure> {
        self.writes.send(number).await?;
        let got = self.responses.next().await?;
        if got == number {
            Ok(())
        } else {
            Err(Failure::Unexpected(format!(
                "the response to write {number} was that of {got}"
            )))
        }
    }
}

impl Writes {
    /// Sends `number` as the pin's value.
    pub async fn send(&mut self, number: u64) -> Result<(), Failure> {
        let value = self.packet.len() - DIGITS;
        let mut rest = number;
        for digit in self.packet[value..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.socket
            .write_all(&self.packet)
            .await
            .map_err(Failure::io("write to the pin"))
    }
}

impl Responses {
    /// The number in the next response.
    pub async fn next(&mut self) -> Result<u64, Failure> {
        let length = loop {
            if let Some(length) = self.kind.length(&self.buffer) {
                break length;
            }
            let read = self
                .socket
                .read_buf(&mut self.buffer)
                .await
                .map_err(Failure::io("read what a device is sent"))?;
            if read == 0 {
                return Err(Failure::Unexpected(
                    "a device's connection was closed".to_owned(),
                ));
            }
        };
        let packet = &self.buffer[..length];
        let digits = self
            .kind
            .payload(packet)
            .and_then(|it| it.strip_prefix(b"value="));
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let Some(number) = number else {
            return Err(Failure::Unexpected(match &self.kind {
                Kind::Frame if sketch::is_too_many(packet) => {
                    format!("a sketch sent more than {} frames a second", sketch::QUOTA)
                }
                kind => {
                    let packet = String::from_utf8_lossy(packet);
                    format!("{kind} was expected, {packet:?} came")
                }
            }));
        };
        self.buffer.drain(..length);
        Ok(number)
    }
}

impl Kind {
    /// How long the packet or frame is that `buffer` begins with, if it is there in full.
    fn length(&self, buffer: &[u8]) -> Option<usize> {
        match self {
            Kind::Message(_) => bounds(buffer).map(|(_, end)| end),
            Kind::Frame => sketch::length(buffer),
        }
    }

    /// The response in a packet or frame, if it is one.
    fn payload<'p>(&self, packet: &'p [u8]) -> Option<&'p [u8]> {
        let topic = match self {
            Kind::Message(topic) => topic,
            Kind::Frame => return sketch::response(packet),
        };
        let (start, end) = bounds(packet).filter(|_| packet[0] & 0xF6 == 0x30)?;
        let (on, payload) = text(&packet[start..end])?;
        (on == topic.as_bytes()).then_some(payload)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Message(topic) => write!(f, "a response at QoS 0 on {topic}"),
            Kind::Frame => write!(f, "a frame with a response"),
        }
    }
}

impl Login {
    /// What the device says at first, and what it is answered.
    fn opening(&self) -> [(Vec<u8>, &'static [u8]); 2] {
        match self {
            Login::Mqtt {
                client_id,
                user,
                password,
                response_topic,
                ..
            } => [
                // No keep alive: no pings to count.
                (connect(client_id, user, password, 0), &CONNECTED),
                (subscribe(response_topic, 0), &SUBSCRIBED),
            ],
            Login::Blynk { token } => [
                (sketch::login(token), &sketch::LOGGED_IN),
                (sketch::info(sketch::HEARTBEAT), &sketch::INTRODUCED),
            ],
        }
    }

    /// A write to the pin, with zeros for its value.
    fn write(&self) -> Vec<u8> {
        match self {
            Login::Mqtt { write_topic, .. } => {
                let mut publish = Vec::new();
                push_text(&mut publish, write_topic);
                publish.extend([b'0'; DIGITS]);
                framed(0x30, &publish)
            }
            Login::Blynk { .. } => sketch::write(&[b'0'; DIGITS]),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Login::Mqtt { response_topic, .. } => Kind::Message(response_topic.clone()),
            Login::Blynk { .. } => Kind::Frame,
        }
    }
}

async fn open(address: SocketAddr, login: &Login) -> Result<Device, Failure> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(Failure::io(format!("connect to {address}")))?;
    stream
        .set_nodelay(true)
        .map_err(Failure::io("set TCP_NODELAY"))?;
    let (mut read, mut write) = stream.into_split();
    for (packet, answer) in login.opening() {
        write
            .write_all(&packet)
            .await
            .map_err(Failure::io("log in"))?;
        let mut got = vec![0; answer.len()];
        read.read_exact(&mut got)
            .await
            .map_err(Failure::io("read the answer to a login"))?;
        if got != answer {
            let kind = packet[0];
            return Err(Failure::Unexpected(format!(
                "packet {kind:#04x} was answered with {got:02x?}, expected {answer:02x?}"
            )));
        }
    }
    Ok(Device {
        writes: Writes {
            socket: write,
            packet: login.write(),
        },
        responses: Responses {
            socket: read,
            buffer: Vec::with_capacity(512),
            kind: login.kind(),
        },
    })
}

/// The answer to [`connect`].
pub const CONNECTED: [u8; 4] = [0x20, 2, 0, 0];

/// The answer to [`subscribe`] with QoS 0.
pub const SUBSCRIBED: [u8; 5] = [0x90, 3, 0, 1, 0];

/// A CONNECT: protocol level 4, user name and password, clean session; `keep_alive` in seconds.
pub fn connect(client_id: &str, user: &str, password: &str, keep_alive: u16) -> Vec<u8> {
    let mut connect = b"\x00\x04MQTT\x04\xC2".to_vec();
    connect.extend(keep_alive.to_be_bytes());
    for field in [client_id, user, password] {
        push_text(&mut connect, field);
    }
    framed(0x10, &connect)
}

/// A SUBSCRIBE with packet id 1 and one filter.
pub fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut subscribe = vec![0, 1];
    push_text(&mut subscribe, filter);
    subscribe.push(qos);
    framed(0x82, &subscribe)
}

/// Where the body of a packet lies that is there in full. Lengths of one or two bytes are all this load needs; a
/// longer one is never complete, and so ends as a response that does not come.
pub fn bounds(buffer: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*buffer.get(1)?);
    let (start, length) = if first < 0x80 {
        (2, first)
    } else {
        let second = usize::from(*buffer.get(2)?);
        if second >= 0x80 {
            return None;
        }
        (3, (first & 0x7F) | second << 7)
    };
    (buffer.len() >= start + length).then_some((start, start + length))
}

/// A packet: its first byte, its length, and `body`.
pub fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    if body.len() < 0x80 {
        packet.push(body.len() as u8);
    } else {
        packet.extend([(body.len() & 0x7F) as u8 | 0x80, (body.len() >> 7) as u8]);
    }
    packet.extend(body);
    packet
}

/// Appends a text with its length before it.
pub fn push_text(packet: &mut Vec<u8>, text: &str) {
    packet.extend((text.len() as u16).to_be_bytes());
    packet.extend(text.as_bytes());
}

/// A text with its length before it, and what follows.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
