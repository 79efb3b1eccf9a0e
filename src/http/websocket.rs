//! A WebSocket as a stream of bytes (RFC 6455, the server's side): what comes in
//! binary messages is read, each write goes out as one binary message.
//!
//! The frames are the library's. It collects a message until it is whole, so a
//! message has a limit; and it keeps its buffers at the size they once had, so they
//! begin small and what is sent is cut.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Room for what is sent beside a frame's payload, in bytes: its head, a few pongs,
/// and the close.
const ASIDE: usize = 512;

/// Bytes of one read of the stream, and of the buffer that an idle WebSocket has.
const READ: usize = 2 * 1024;

/// What the messages of a WebSocket are.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    /// The largest that is taken, in bytes; a larger one closes the WebSocket.
    pub most_received: usize,
    /// The largest that is sent, in bytes: a longer write is taken in part.
    pub most_sent: usize,
    /// What becomes of those that are text.
    pub text: Text,
}

/// What becomes of a message that is text, which nobody here speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// It closes the WebSocket (MQTT-6.0.0-1).
    Refused,
    /// Nothing (blynk.md §1.4).
    Ignored,
}

/// A WebSocket, after its handshake.
///
/// What was written is on its way without a flush: what the stream did not take at
/// once goes with the next read.
pub struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// What has not been read yet of the message that came last.
    message: Bytes,
    messages: Messages,
    /// Whether no more data can come.
    is_over: bool,
    /// Whether either side has said goodbye.
    has_closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The WebSocket on `stream`, of which `ahead` was read already.
    pub async fn new(stream: S, ahead: Bytes, messages: Messages) -> WebSocket<S> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_write_buffer_size(messages.most_sent + ASIDE)
            .max_message_size(Some(messages.most_received))
            .max_frame_size(Some(messages.most_received));
        let (ahead, config) = (ahead.to_vec(), Some(config));
        WebSocket {
            frames: WebSocketStream::from_partially_read(stream, ahead, Role::Server, config).await,
            message: Bytes::new(),
            messages,
            is_over: false,
            has_closed: false,
        }
    }

    /// Reads until some data has come. Empty: there will be none any more. Pings and
    /// the client's close are answered by the library.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        while !self.is_over {
            match ready!(self.frames.poll_next_unpin(cx)) {
                Some(Ok(Message::Binary(data))) if !data.is_empty() => {
                    return Poll::Ready(Ok(data));
                }
                Some(Ok(Message::Text(_))) if self.messages.text == Text::Refused => {
                    self.is_over = true;
                    self.close(CloseCode::Unsupported, "binary frames only".into());
                }
                Some(Ok(Message::Close(_))) | None => {
                    self.is_over = true;
                    self.has_closed = true;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.is_over = true;
                    self.fail(error)?;
                }
            }
        }
        // The last words, as far as they go: nobody may come back here.
        if let Poll::Ready(flushed) = self.poll_sent(cx) {
            flushed?;
        }
        Poll::Ready(Ok(Bytes::new()))
    }

    /// Tells the client which rule it broke, if the stream itself is well.
    fn fail(&mut self, error: Error) -> io::Result<()> {
        match error {
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {}
            Error::Capacity(_) => {
                let says = format!("a message may have {} bytes", self.messages.most_received);
                self.close(CloseCode::Size, says.into());
            }
            Error::Utf8(_) => self.close(CloseCode::Invalid, "no UTF-8".into()),
            Error::Protocol(_) => self.close(CloseCode::Protocol, "not a frame".into()),
            error => return Err(broken(error)),
        }
        Ok(())
    }

    /// Says goodbye, unless that was done.
    fn close(&mut self, code: CloseCode, says: Cow<'static, str>) {
        if std::mem::replace(&mut self.has_closed, true) {
            return;
        }
        tracing::debug!("WebSocket closed with {code} {says}");
        let reason = says.into_owned().into();
        let close = Message::Close(Some(CloseFrame { code, reason }));
        // Where it is refused, the stream is broken or full of what the client does not
        // read, which whoever reads or writes next is told.
        let _ = Pin::new(&mut self.frames).start_send(close);
    }

    /// Waits until everything is out.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let frames = Pin::new(&mut self.frames);
        frames.poll_flush(cx).map_err(broken)
    }
}

/// An error of the stream, or what using a WebSocket after its close is for a stream.
fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        _ => io::ErrorKind::BrokenPipe.into(),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.message.is_empty() {
            // Nobody who waits for data need write: what is left goes from here.
            if let Poll::Ready(flushed) = self.poll_sent(cx) {
                flushed?;
            }
            self.message = ready!(self.poll_message(cx))?;
        }
        let length = self.message.len().min(buf.remaining());
        buf.put_slice(&self.message.split_to(length));
        if self.message.is_empty() {
            // Even an empty slice would keep the whole buffer it is a part of.
            self.message = Bytes::new();
        }
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
        ready!(self.poll_sent(cx))?;
        let payload = &buf[..buf.len().min(self.messages.most_sent)];
        if !payload.is_empty() {
            let frame = Message::Binary(Bytes::copy_from_slice(payload));
            let frames = Pin::new(&mut self.frames);
            frames.start_send(frame).map_err(broken)?;
        }
        Poll::Ready(Ok(payload.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx)
    }

    /// Says goodbye, and waits for the client's: whoever calls it sets a time limit.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // First, since there must be room for the close.
        ready!(self.poll_sent(cx))?;
        self.close(CloseCode::Normal, "".into());
        ready!(self.poll_sent(cx))?;
        // What still comes is dropped; it would only have been read to be lost.
        while !ready!(self.poll_message(cx))?.is_empty() {}
        Pin::new(self.frames.get_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
