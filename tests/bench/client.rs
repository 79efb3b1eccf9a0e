//! A device as cheap as can be: MQTT 3.1.1 at QoS 0 over a bare socket, its packets made by hand.
//!
//! The load must cost little beside what is measured, and must not share a codec with it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::failure::{Failure, within};
use crate::service::DIGITS;

/// A response that takes longer than this is lost.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Who a device is and on which topics it speaks.
pub struct Login {
    pub client_id: String,
    pub user: String,
    pub password: String,
    pub write_topic: String,
    pub response_topic: String,
}

/// A connected and subscribed device.
pub struct Device {
    pub writes: Writes,
    pub responses: Responses,
}

/// The half of a device that writes its pin.
pub struct Writes {
    socket: OwnedWriteHalf,
    /// A PUBLISH whose last `DIGITS` bytes are the value.
    packet: Vec<u8>,
}

/// The half of a device that hears the responses.
pub struct Responses {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
    topic: String,
}

impl Device {
    /// Connects, logs in and subscribes to the response topic.
    pub async fn connect(address: SocketAddr, login: &Login) -> Result<Device, Failure> {
        within(PATIENCE, "CONNACK and SUBACK", open(address, login)).await
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
    /// Publishes `number` as the pin's value.
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
            .map_err(Failure::io("publish"))
    }
}

impl Responses {
    /// The number in the next response.
    pub async fn next(&mut self) -> Result<u64, Failure> {
        let (kind, body) = packet(&mut self.socket, &mut self.buffer).await?;
        let payload = if kind & 0xF6 == 0x30 {
            text(&body).and_then(|(topic, payload)| {
                (topic == self.topic.as_bytes())
                    .then_some(payload)?
                    .strip_prefix(b"value=")
            })
        } else {
            None
        };
        payload
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or_else(|| {
                Failure::Unexpected(format!(
                    "a response at QoS 0 on {} was expected, packet {kind:#04x} with {:?} came",
                    self.topic,
                    String::from_utf8_lossy(&body)
                ))
            })
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
    let mut buffer = Vec::with_capacity(512);

    // No keep alive: no pings to count.
    let connect = connect(&login.client_id, &login.user, &login.password, 0);
    let subscribe = subscribe(&login.response_topic, 0);
    for (packet_out, answer) in [
        (connect, (0x20, vec![0, 0])),
        (subscribe, (0x90, vec![0, 1, 0])),
    ] {
        write
            .write_all(&packet_out)
            .await
            .map_err(Failure::io("log in and subscribe"))?;
        let got = packet(&mut read, &mut buffer).await?;
        if got != answer {
            let kind = packet_out[0];
            return Err(Failure::Unexpected(format!(
                "packet {kind:#04x} was answered with {got:02x?}, expected {answer:02x?}"
            )));
        }
    }

    let mut publish = Vec::new();
    push_text(&mut publish, &login.write_topic);
    publish.extend([b'0'; DIGITS]);
    Ok(Device {
        writes: Writes {
            socket: write,
            packet: framed(0x30, &publish),
        },
        responses: Responses {
            socket: read,
            buffer,
            topic: login.response_topic.clone(),
        },
    })
}

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

/// Reads one packet: its first byte and what follows the length. `buffer` keeps what was read beyond it.
async fn packet(
    socket: &mut OwnedReadHalf,
    buffer: &mut Vec<u8>,
) -> Result<(u8, Vec<u8>), Failure> {
    loop {
        if let Some((start, end)) = bounds(buffer) {
            let found = (buffer[0], buffer[start..end].to_vec());
            buffer.drain(..end);
            return Ok(found);
        }
        let read = socket
            .read_buf(buffer)
            .await
            .map_err(Failure::io("read from the broker"))?;
        if read == 0 {
            return Err(Failure::Unexpected(
                "the broker closed a device's connection".to_owned(),
            ));
        }
    }
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
