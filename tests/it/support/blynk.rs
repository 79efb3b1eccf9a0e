//! A sketch in bytes: the other side of the Blynk protocol, written from blynk.md and from
//! nothing of pinhook's own.
//!
//! What it sends is cut and joined at random, since the real ones send header and body apart
//! (blynk.md §1.1). The dice are seeded by the name of the case, so a case that fails fails again.

mod daemon;
mod frame;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{PATIENCE, within};

pub use daemon::{Ports, TOK, http_get, metric};
pub use frame::{Frame, bytes, command, frame, frame_of, hex, response};

use command::{HARDWARE, LOGIN, PING};
use frame::frame_length;

/// How long nothing must happen where there is no frame to wait for instead: the least that the
/// legacy server's own tests take for silence (blynk.md §6.4).
pub const PAUSE: Duration = Duration::from_millis(400);

/// What a sketch's bytes travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Tcp,
    Tls,
    WebSocket,
    WebSocketInTls,
}

/// How the bytes that a sketch says are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Not at all: what is said before the next wait comes at once.
    Whole,
    /// Into single bytes, as long as they are few.
    Bytes,
    /// Into pieces of any length; each time in another way, these two among them.
    Random,
}

/// Bytes up to which a sketch says them one by one: a body of 64 KiB is not to take a minute.
const FEW: usize = 400;

/// A stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

enum Wire {
    Stream(Box<dyn Stream>),
    WebSocket(Box<WebSocketStream<Box<dyn Stream>>>),
}

/// A sketch's connection.
pub struct Sketch {
    wire: Wire,
    dice: Dice,
    cut: Cut,
    /// What was said and is not sent yet.
    held: Vec<u8>,
    received: Vec<u8>,
    next_ping: u16,
}

impl Sketch {
    /// Connects over TCP and says nothing yet; the dice are seeded by `name`.
    pub async fn tcp(address: SocketAddr, name: &str) -> Sketch {
        let stream = within("a connection", TcpStream::connect(address)).await;
        let stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Sketch::over(Box::new(stream), name)
    }

    /// Connects with a receive buffer so small that not reading is felt soon.
    pub async fn small(address: SocketAddr, name: &str) -> Sketch {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = within("a connection", socket.connect(address)).await;
        Sketch::over(Box::new(stream.expect("a connection")), name)
    }

    /// On a stream that is open.
    pub fn over(stream: Box<dyn Stream>, name: &str) -> Sketch {
        Sketch::on(Wire::Stream(stream), name)
    }

    /// On a stream that is to become a WebSocket.
    pub async fn over_websocket(stream: Box<dyn Stream>, name: &str) -> Sketch {
        let upgrading = tokio_tungstenite::client_async_with_config(
            "ws://localhost/websocket",
            stream,
            Some(WebSocketConfig::default()),
        );
        let (socket, _) = within("a WebSocket", upgrading)
            .await
            .unwrap_or_else(|error| panic!("{name}: no WebSocket: {error}"));
        Sketch::on(Wire::WebSocket(Box::new(socket)), name)
    }

    fn on(wire: Wire, name: &str) -> Sketch {
        Sketch {
            wire,
            dice: Dice::new(name),
            cut: Cut::Random,
            held: Vec::new(),
            received: Vec::new(),
            next_ping: 0xEE00,
        }
    }

    /// With its bytes cut so.
    pub fn cut(self, cut: Cut) -> Sketch {
        Sketch { cut, ..self }
    }

    /// Logs in with `token`, and expects to be let in.
    pub async fn log_in(&mut self, token: &str) {
        self.say(LOGIN, 1, token);
        self.expect(&response(1, 200)).await;
    }

    /// Introduces itself, as libraries do after their login, with room for frames of `buff_in`.
    pub async fn introduce(&mut self, buff_in: u32) {
        let info = format!("ver·0.6.1·h-beat·10·buff-in·{buff_in}·dev·Linux·");
        self.say(command::INTERNAL, 2, &info);
        self.expect(&response(2, 200)).await;
    }

    /// Says a frame; `·` in its body is a NUL.
    pub fn say(&mut self, command: u8, id: u16, body: &str) {
        self.send(&frame(command, id, body));
    }

    /// Writes a pin, such as `vw·5·21`; nobody answers that.
    pub async fn write(&mut self, body: &str) {
        self.say(HARDWARE, 3, body);
        self.flush().await;
    }

    /// Says bytes, which may wait for those that are said next, or for the next wait.
    pub fn send(&mut self, bytes: &[u8]) {
        self.held.extend(bytes);
    }

    /// Sends what was said, in pieces. Whether the daemon takes it is seen by what it says: it may
    /// have closed the connection in the middle, and rightly.
    pub async fn flush(&mut self) {
        /// Pauses in one go.
        const PAUSES: usize = 10;
        let held = std::mem::take(&mut self.held);
        let cut = match (self.cut, self.dice.below(3)) {
            (Cut::Random, 0) => Cut::Bytes,
            (Cut::Random, 1) => Cut::Random,
            (Cut::Random, _) => Cut::Whole,
            (always, _) => always,
        };
        let most = match cut {
            Cut::Bytes if held.len() <= FEW => 1,
            Cut::Whole => usize::MAX,
            Cut::Bytes | Cut::Random => 7.max(held.len() / 50),
        };
        let (mut rest, mut pauses) = (&held[..], 0);
        while !rest.is_empty() {
            let length = match cut {
                Cut::Whole => rest.len(),
                _ => 1 + self.dice.below(most.min(rest.len())),
            };
            let (piece, after) = rest.split_at(length);
            if !self.pass(piece).await {
                return;
            }
            rest = after;
            match self.dice.below(8) {
                0 if pauses < PAUSES => {
                    pauses += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                1..=4 => tokio::task::yield_now().await,
                _ => {}
            }
        }
    }

    async fn pass(&mut self, piece: &[u8]) -> bool {
        let passing = async {
            match &mut self.wire {
                Wire::Stream(stream) => {
                    stream.write_all(piece).await.is_ok() && stream.flush().await.is_ok()
                }
                Wire::WebSocket(socket) => {
                    let message = Message::Binary(piece.to_vec().into());
                    socket.send(message).await.is_ok()
                }
            }
        };
        within("bytes to be taken", passing).await
    }

    /// Sends a text message, where there are messages.
    pub async fn text_message(&mut self, text: &str) {
        self.flush().await;
        match &mut self.wire {
            Wire::Stream(_) => panic!("only a WebSocket has messages"),
            Wire::WebSocket(socket) => socket.send(text.into()).await.expect("sent"),
        }
    }

    /// Expects exactly these bytes next.
    pub async fn expect(&mut self, expected: &[u8]) {
        self.flush().await;
        let is_there = tokio::time::timeout(PATIENCE, async {
            while self.received.len() < expected.len() {
                // What is wrong is wrong already.
                if !expected.starts_with(&self.received) || !self.receive().await {
                    return false;
                }
            }
            true
        });
        let wrong = match is_there.await {
            Ok(true) if self.received.starts_with(expected) => {
                self.received.drain(..expected.len());
                return;
            }
            Ok(true) => "found",
            Ok(false) if expected.starts_with(&self.received) => "the connection ended after",
            Ok(false) => "found",
            Err(_) => "nothing more came after",
        };
        let found = hex(&self.received);
        panic!("expected {}, {wrong} `{found}`", hex(expected));
    }

    /// Expects these frames next, in any order.
    pub async fn expect_all(&mut self, mut expected: Vec<Vec<u8>>) {
        while !expected.is_empty() {
            let frame = self.whole_frame().await;
            let place = expected.iter().position(|expected| *expected == frame);
            match place {
                Some(place) => drop(expected.swap_remove(place)),
                None => panic!("found {}, expected one of {expected:?}", hex(&frame)),
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Frame {
        Frame::parse(&self.whole_frame().await)
    }

    /// The next HARDWARE frame, as its id and its body; any other frame is a mistake.
    pub async fn hardware(&mut self) -> (u16, String) {
        let frame = self.frame().await;
        assert_eq!(frame.command, HARDWARE, "{frame:?}");
        (frame.id, frame.body)
    }

    /// The next frame; none if the connection ends.
    pub async fn frame_or_end(&mut self) -> Option<Frame> {
        let bytes = self.bytes_or_end().await?;
        Some(Frame::parse(&bytes))
    }

    async fn whole_frame(&mut self) -> Vec<u8> {
        match self.bytes_or_end().await {
            Some(frame) => frame,
            None => panic!("the connection ended after `{}`", hex(&self.received)),
        }
    }

    async fn bytes_or_end(&mut self) -> Option<Vec<u8>> {
        self.flush().await;
        let reading = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(length) = frame_length(&self.received)
                    && self.received.len() >= length
                {
                    return Some(self.received.drain(..length).collect());
                }
                if !self.receive().await {
                    return None;
                }
            }
        });
        match reading.await {
            Ok(frame) => frame,
            Err(_) => panic!(
                "no frame within {PATIENCE:?} after `{}`",
                hex(&self.received)
            ),
        }
    }

    /// Expects that nothing has come and that the connection is served: the answer to a PING is
    /// the very next frame.
    ///
    /// What others cause may be on its way still; a frame that others cause later, and that must
    /// be the next, says more about that.
    pub async fn quiet(&mut self) {
        self.next_ping = self.next_ping.wrapping_add(1).max(0xEE00);
        let id = self.next_ping;
        self.say(PING, id, "");
        self.expect(&response(id, 200)).await;
    }

    /// Expects the end of the connection with nothing before it.
    pub async fn closed(&mut self) {
        self.closed_within(PATIENCE).await;
    }

    /// Expects the end of the connection by then, with nothing before it.
    pub async fn closed_within(&mut self, patience: Duration) {
        self.flush().await;
        let ending = tokio::time::timeout(patience, async {
            while self.received.is_empty() && self.receive().await {}
        });
        let in_time = ending.await.is_ok();
        let found = hex(&self.received);
        assert!(found.is_empty(), "expected the end, found `{found}`");
        assert!(in_time, "the connection did not end within {patience:?}");
    }

    /// Expects that nothing comes for [`PAUSE`], where no PING can be answered.
    pub async fn pause(&mut self) {
        self.flush().await;
        let reading = tokio::time::timeout(PAUSE, self.receive()).await;
        let found = hex(&self.received);
        assert!(found.is_empty(), "expected nothing, found `{found}`");
        assert!(reading.is_err(), "expected nothing, found the end");
    }

    /// Hangs up.
    pub async fn leave(mut self) {
        self.flush().await;
        match &mut self.wire {
            Wire::Stream(stream) => drop(stream.shutdown().await),
            Wire::WebSocket(socket) => drop(socket.close().await),
        }
    }

    /// Waits for bytes; `false` at the end of the connection. Cancel-safe.
    async fn receive(&mut self) -> bool {
        match &mut self.wire {
            Wire::Stream(stream) => {
                // A reset is an end too, and so is TLS that ends without saying so.
                matches!(stream.read_buf(&mut self.received).await, Ok(1..))
            }
            Wire::WebSocket(socket) => loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(data))) => {
                        // One message for each frame (blynk.md §1.4).
                        let length = frame_length(&data);
                        assert_eq!(length, Some(data.len()), "not a frame: {}", hex(&data));
                        self.received.extend(data);
                        return true;
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
                    Some(Ok(other)) => panic!("no such message is expected: {other:?}"),
                }
            },
        }
    }
}

/// Splitmix64, which is short and good enough to cut bytes with.
pub struct Dice(u64);

impl Dice {
    /// Seeded by a name.
    pub fn new(name: &str) -> Dice {
        // FNV-1a.
        let seed = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        Dice(name.bytes().fold(0xCBF2_9CE4_8422_2325, seed))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}
