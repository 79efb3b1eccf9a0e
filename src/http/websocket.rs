//! A WebSocket as a stream of bytes (RFC 6455, the server's side): what comes in
//! binary frames is read, each write goes out as one binary frame.
//!
//! Nothing is collected: a frame is unmasked in the buffer it is read into, however
//! long it says it is, so a connection costs a few hundred bytes and how frames and
//! packets are cut does not matter (MQTT-6.0.0-2). What limits a packet is whoever
//! reads the bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of a frame that is sent: what is on its way is held in memory twice.
const MAX_FRAME: usize = 16 * 1024;

/// A buffer that has grown beyond this is given back when it is empty.
const KEPT: usize = 512;

/// Most bytes that a control frame carries (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;

/// The longest head of a frame that a client sends: length in eight bytes, mask in four.
const MAX_HEAD: usize = 14;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// The last frame of a message.
const FIN: u8 = 0x80;

/// Why a WebSocket is closed (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;

/// A WebSocket, after its handshake.
///
/// What was written is on its way without a flush: what the stream did not take at
/// once goes with the next read.
pub struct WebSocket<S> {
    stream: S,
    /// What was read with the handshake.
    ahead: Bytes,
    parser: Parser,
    /// Frames on their way out: one, and perhaps the close.
    outbox: Vec<u8>,
    /// How much of them is out.
    sent: usize,
    /// Whether our close frame is among them, or is out.
    has_closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The WebSocket on `stream`, of which `ahead` was read already.
    pub fn new(stream: S, ahead: Bytes) -> WebSocket<S> {
        WebSocket {
            stream,
            ahead: kept(ahead),
            parser: Parser::default(),
            outbox: Vec::new(),
            sent: 0,
            has_closed: false,
        }
    }

    /// Reads some bytes as they are on the wire.
    fn poll_raw(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(into.len());
            into[..length].copy_from_slice(&self.ahead.split_to(length));
            self.ahead = kept(std::mem::take(&mut self.ahead));
            return Poll::Ready(Ok(length));
        }
        let mut raw = ReadBuf::new(into);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut raw))?;
        Poll::Ready(Ok(raw.filled().len()))
    }

    /// Reads into `into` until some data has come. 0: there will be none any more.
    fn poll_data(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        while !self.parser.is_over {
            // Nobody who waits for data need write; pongs and what is left go from here.
            if let Poll::Ready(drained) = self.poll_answer(cx) {
                drained?;
            }
            let length = ready!(self.poll_raw(cx, into))?;
            if length == 0 {
                self.parser.is_over = true;
                break;
            }
            let data = self.parser.take(&mut into[..length]);
            if data > 0 {
                return Poll::Ready(Ok(data));
            }
        }
        // The last words, as far as they go: nobody may come back here.
        if let Poll::Ready(drained) = self.poll_answer(cx) {
            drained?;
        }
        Poll::Ready(Ok(0))
    }

    /// Writes what is in the outbox, and what the parser wants to have said. Of the
    /// pings that came meanwhile the last alone is answered: a peer that reads
    /// nothing must not make this grow (RFC 6455 §5.5.3).
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if self.has_closed {
                return Poll::Ready(Ok(()));
            }
            match (self.parser.ping.take(), self.parser.close) {
                (Some(ping), _) => self.queue(PONG, ping.as_slice()),
                (None, Some(code)) => self.close(code),
                (None, None) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn close(&mut self, code: u16) {
        if !self.has_closed {
            self.has_closed = true;
            self.queue(CLOSE, &code.to_be_bytes());
        }
    }

    fn queue(&mut self, opcode: u8, payload: &[u8]) {
        self.outbox.push(FIN | opcode);
        match payload.len() {
            length @ 0..=MAX_CONTROL => self.outbox.push(length as u8),
            length => match u16::try_from(length) {
                Ok(length) => {
                    self.outbox.push(126);
                    self.outbox.extend_from_slice(&length.to_be_bytes());
                }
                Err(_) => {
                    self.outbox.push(127);
                    self.outbox
                        .extend_from_slice(&(length as u64).to_be_bytes());
                }
            },
        }
        self.outbox.extend_from_slice(payload);
    }

    /// Writes what is in the outbox.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outbox.len() {
            let rest = &self.outbox[self.sent..];
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.sent = 0;
        self.outbox.clear();
        if self.outbox.capacity() > KEPT {
            self.outbox = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// Even an empty slice would keep the whole buffer it is a part of.
fn kept(ahead: Bytes) -> Bytes {
    match ahead.is_empty() {
        true => Bytes::new(),
        false => ahead,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let data = ready!(self.poll_data(cx, buf.initialize_unfilled()))?;
        buf.advance(data);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Not before the last frame is out: what a client does not read must not
        // pile up here.
        ready!(self.poll_drain(cx))?;
        if self.has_closed || self.parser.is_over {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = buf.len().min(MAX_FRAME);
        if length > 0 {
            self.queue(BINARY, &buf[..length]);
        }
        if let Poll::Ready(drained) = self.poll_drain(cx) {
            drained?;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says goodbye, and waits for the client's: whoever calls it sets a time limit.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(NORMAL);
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let mut rest = [0; 512];
        while !self.parser.is_over {
            // What still comes is dropped; it would only have been read to be lost.
            if ready!(self.poll_data(cx, &mut rest))? == 0 {
                break;
            }
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Takes the frames of a client apart, wherever their bytes are cut.
#[derive(Default)]
struct Parser {
    head: Control<MAX_HEAD>,
    /// The frame whose payload comes now.
    frame: Option<Frame>,
    /// What a control frame carries.
    control: Control<MAX_CONTROL>,
    /// Whether a message has begun whose last frame has not come.
    is_within: bool,
    /// What the last ping carried.
    ping: Option<Control<MAX_CONTROL>>,
    /// The code that the WebSocket is to be closed with.
    close: Option<u16>,
    /// Whether no more data can come.
    is_over: bool,
}

/// A frame that is being read.
#[derive(Clone, Copy)]
struct Frame {
    opcode: u8,
    /// Bytes that are still to come.
    left: u64,
    mask: [u8; 4],
    /// Which byte of the mask is next.
    turn: usize,
}

/// A few bytes, in place.
#[derive(Clone, Copy)]
struct Control<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Default for Control<N> {
    fn default() -> Control<N> {
        Control {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> Control<N> {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.length)] = byte;
        self.length += 1;
    }
}

impl Parser {
    /// Takes what came; the data in it is moved to its beginning. Returns how many
    /// bytes of data there are.
    fn take(&mut self, raw: &mut [u8]) -> usize {
        let (mut at, mut data) = (0, 0);
        while at < raw.len() && !self.is_over {
            let Some(mut frame) = self.frame else {
                self.head.push(raw[at]);
                at += 1;
                match Frame::begin(self.head.as_slice(), self.is_within) {
                    Ok(None) => {}
                    Ok(Some(frame)) => {
                        if frame.opcode < CLOSE {
                            self.is_within = self.head.bytes[0] & FIN == 0;
                        }
                        self.head = Control::default();
                        self.frame = Some(frame);
                        self.end_if_done();
                    }
                    Err(code) => self.end(code),
                }
                continue;
            };
            let rest = (raw.len() - at) as u64;
            let length = frame.left.min(rest) as usize;
            for _ in 0..length {
                let byte = raw[at] ^ frame.mask[frame.turn];
                frame.turn = (frame.turn + 1) % 4;
                at += 1;
                if frame.opcode < CLOSE {
                    raw[data] = byte;
                    data += 1;
                } else {
                    self.control.push(byte);
                }
            }
            frame.left -= length as u64;
            self.frame = Some(frame);
            self.end_if_done();
        }
        data
    }

    /// Does what a control frame asks for when it is whole.
    fn end_if_done(&mut self) {
        let Some(frame) = self.frame.filter(|frame| frame.left == 0) else {
            return;
        };
        self.frame = None;
        let control = std::mem::take(&mut self.control);
        match frame.opcode {
            PING => self.ping = Some(control),
            CLOSE => self.end(reply(control.as_slice())),
            // A pong that nobody asked for is fine (RFC 6455 §5.5.3).
            _ => {}
        }
    }

    fn end(&mut self, code: u16) {
        self.close = Some(code);
        self.is_over = true;
    }
}

impl Frame {
    /// The frame that `head` begins, once it is whole; or the code for what is wrong.
    fn begin(head: &[u8], is_within: bool) -> Result<Option<Frame>, u16> {
        let [first, second, rest @ ..] = head else {
            return Ok(None);
        };
        let opcode = first & 0x0F;
        let is_final = first & FIN != 0;
        let has_extensions = first & 0x70 != 0;
        let is_masked = second & 0x80 != 0;
        let length = second & 0x7F;
        if has_extensions || !is_masked {
            return Err(PROTOCOL_ERROR);
        }
        match opcode {
            CONTINUATION if is_within => {}
            BINARY if !is_within => {}
            // MQTT-6.0.0-1.
            TEXT if !is_within => return Err(UNSUPPORTED_DATA),
            CLOSE | PING | PONG if is_final && usize::from(length) <= MAX_CONTROL => {}
            _ => return Err(PROTOCOL_ERROR),
        }
        let (length, mask) = match length {
            126 => match rest {
                [a, b, mask @ ..] => (u64::from(u16::from_be_bytes([*a, *b])), mask),
                _ => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, mask)) => (u64::from_be_bytes(*length), mask),
                None => return Ok(None),
            },
            length => (u64::from(length), rest),
        };
        if length >> 63 != 0 {
            return Err(PROTOCOL_ERROR);
        }
        let mask: Result<[u8; 4], _> = mask.try_into();
        Ok(mask.ok().map(|mask| Frame {
            opcode,
            left: length,
            mask,
            turn: 0,
        }))
    }
}

/// The code that answers a close frame (RFC 6455 §5.5.1 and §7.4).
fn reply(close: &[u8]) -> u16 {
    match close {
        [] => NORMAL,
        [a, b, ..] => match u16::from_be_bytes([*a, *b]) {
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => code,
            _ => PROTOCOL_ERROR,
        },
        [_] => PROTOCOL_ERROR,
    }
}

#[cfg(test)]
mod tests;
