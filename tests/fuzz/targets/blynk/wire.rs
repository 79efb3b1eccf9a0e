//! Frames by hand, and a stream that watches what is written to it; nothing here is the daemon's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, DuplexStream, ReadBuf};

/// A frame, as far as everybody must agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub code: u8,
    pub id: u16,
    /// The status of an answer, the length of the body of anything else.
    pub number: u16,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn command(code: u8, id: u16, body: Vec<u8>) -> Frame {
        let number = u16::try_from(body.len()).expect("a body of 16 bits");
        Frame {
            code,
            id,
            number,
            body,
        }
    }

    pub fn size(&self) -> usize {
        5 + self.body.len()
    }
}

/// A frame as bytes; its body must be short enough to have one.
pub fn frame(code: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a body of 16 bits");
    let mut bytes = vec![code];
    bytes.extend(id.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Takes a whole frame off the front.
pub fn split(buffer: &mut Vec<u8>) -> Option<Frame> {
    let (frame, length) = first(buffer)?;
    buffer.drain(..length);
    Some(frame)
}

fn first(bytes: &[u8]) -> Option<(Frame, usize)> {
    let header = bytes.get(..5)?;
    let code = header[0];
    let id = u16::from_be_bytes([header[1], header[2]]);
    let number = u16::from_be_bytes([header[3], header[4]]);
    let length = if code == 0 {
        5
    } else {
        5 + usize::from(number)
    };
    let body = bytes.get(5..length)?.to_vec();
    let frame = Frame {
        code,
        id,
        number,
        body,
    };
    Some((frame, length))
}

/// Calls of the daemon's from one moment to the next, beyond which it is running in a circle.
const MOST_CALLS: usize = 100_000;

/// The daemon's end of a stream. Like TLS, it may keep what is written until it is told to flush.
pub struct Watched {
    inner: BufWriter<DuplexStream>,
    /// Bytes that a call wanted to write and that are not taken yet.
    rest: usize,
    calls: usize,
    last: Option<tokio::time::Instant>,
}

impl Watched {
    pub fn new(stream: DuplexStream, buffer: usize) -> Watched {
        Watched {
            inner: BufWriter::with_capacity(buffer, stream),
            rest: 0,
            calls: 0,
            last: None,
        }
    }

    fn count(&mut self) {
        let now = tokio::time::Instant::now();
        if self.last.replace(now) != Some(now) {
            self.calls = 0;
        }
        self.calls += 1;
        assert!(self.calls < MOST_CALLS, "it runs in a circle");
    }

    /// A call is for one frame (blynk.md §6.3).
    fn judge(&mut self, bytes: &[u8]) {
        if self.rest > 0 {
            assert_eq!(bytes.len(), self.rest, "another frame in the midst of one");
            return;
        }
        self.rest = bytes.len();
        let length = first(bytes).map(|(_, length)| length);
        assert_eq!(length, Some(bytes.len()), "one call for {bytes:?}");
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.count();
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.count();
        self.judge(bytes);
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        match written {
            Poll::Ready(Ok(written)) => self.rest -= written,
            // Nobody reads what comes now.
            Poll::Ready(Err(_)) => self.rest = 0,
            Poll::Pending => {}
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count();
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
