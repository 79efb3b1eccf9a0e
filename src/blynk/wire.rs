//! The stream of one sketch: whole frames in, and out one write call for each.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::frame::{Frame, HEADER, code};
use crate::net::poll_read;

/// The stream of one sketch.
pub(super) struct Wire<S> {
    stream: S,
    /// What was read and is not taken yet.
    inbox: BytesMut,
    /// What is to be written, each with a call of its own: a library for Python reads
    /// one frame from what comes with one segment, and drops the rest (blynk.md §6.3).
    outgoing: VecDeque<Bytes>,
    /// Whether something may still wait inside the stream: TLS and WebSocket have buffers.
    is_unflushed: bool,
    /// Whether writing has failed: the sketch hears nothing any more. What it said before
    /// still counts, and is read until there is no more of it.
    is_deaf: bool,
}

/// A frame of the sketch.
pub(super) struct Received {
    pub code: u8,
    pub id: u16,
    pub body: Bytes,
}

/// What happened on the stream.
pub(super) enum Traffic {
    /// Some bytes were read.
    Read,
    /// Some bytes were written.
    Written,
    /// The connection broke.
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S) -> Wire<S> {
        Wire {
            stream,
            inbox: BytesMut::new(),
            outgoing: VecDeque::new(),
            is_unflushed: false,
            is_deaf: false,
        }
    }

    /// Writes what there is to write, and reads if it may, whichever can be done first;
    /// waits for ever if there is nothing to do. Cancel-safe.
    pub async fn traffic(&mut self, may_read: bool) -> Traffic {
        poll_fn(|cx| self.poll_traffic(cx, may_read)).await
    }

    fn poll_traffic(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<Traffic> {
        if let Some(frame) = self.outgoing.front_mut() {
            match Pin::new(&mut self.stream).poll_write(cx, frame) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.is_deaf = true;
                    self.outgoing.clear();
                    if !may_read {
                        return Poll::Ready(Traffic::Broken);
                    }
                }
                Poll::Ready(Ok(written)) => {
                    frame.advance(written);
                    if frame.is_empty() {
                        self.outgoing.pop_front();
                    }
                    self.is_unflushed = true;
                    return Poll::Ready(Traffic::Written);
                }
                Poll::Pending => {}
            }
        } else if self.is_unflushed
            && let Poll::Ready(_) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.is_unflushed = false;
        }
        if !may_read {
            return Poll::Pending;
        }
        self.poll_read(cx).map(|read| match read {
            Ok(1..) => Traffic::Read,
            Ok(0) | Err(_) => Traffic::Broken,
        })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let inbox = &mut self.inbox;
        poll_read(&mut self.stream, cx, |read| inbox.extend_from_slice(read))
    }

    /// Takes the next whole frame out of what was read.
    pub fn take(&mut self) -> Option<Received> {
        let (frame, length) = Frame::decode(&self.inbox)?;
        let (code, id) = match frame {
            Frame::Command { code, id, .. } => (code, id),
            Frame::Response { id, .. } => (code::RESPONSE, id),
        };
        let body = self.inbox.split_to(length).freeze().slice(HEADER..);
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        Some(Received { code, id, body })
    }

    /// The header of the frame that comes next, as far as it is there.
    pub fn header(&self) -> Option<&[u8; HEADER]> {
        self.inbox.first_chunk()
    }

    /// Bytes that the sketch has said and that are not taken yet.
    pub fn unread(&self) -> usize {
        self.inbox.len()
    }

    /// Appends a frame to what is to be written.
    pub fn queue(&mut self, frame: Bytes) {
        if !self.is_deaf {
            self.outgoing.push_back(frame);
        }
    }

    /// How many frames are to be written.
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Waits until the sketch says something or hangs up.
    pub async fn stirred(&mut self) {
        let _ = poll_fn(|cx| self.poll_read(cx)).await;
    }

    /// Writes what is to be written, and waits until it is on its way: a stream may hold
    /// it back (TLS, WebSocket).
    pub async fn flush(&mut self) {
        while let Some(frame) = self.outgoing.pop_front() {
            if self.stream.write_all(&frame).await.is_err() {
                self.is_deaf = true;
                self.outgoing.clear();
            }
        }
        let _ = self.stream.flush().await;
    }

    /// Writes what is to be written and closes.
    pub async fn close(&mut self) {
        self.flush().await;
        let _ = self.stream.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, duplex};
    use tokio::runtime::Builder;

    use super::super::frame::{Status, code, command, response};
    use super::*;

    fn frames() -> impl Strategy<Value = Vec<Bytes>> {
        let frame = |(kind, id, body): (u8, u16, String)| match kind {
            code::RESPONSE => response(id, Status::Ok),
            kind => command(kind, id, &body).unwrap(),
        };
        vec(
            (0..100u8, any::<u16>(), "[a-z\0]{0,300}").prop_map(frame),
            1..12,
        )
    }

    fn run<T>(conversation: impl Future<Output = T>) -> T {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(conversation)
    }

    proptest! {
        #[test]
        fn frames_come_whole_and_in_order_however_the_stream_is_cut(
            frames in frames(), cuts in vec(1..600usize, 1..20), room in 1..700usize,
        ) {
            let (stream, mut peer) = duplex(room);
            let mut wire = Wire::new(stream);
            let bytes = frames.concat();
            let say = async move {
                let mut cuts = cuts.into_iter().cycle();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                    peer.write_all(now).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = later;
                }
            };
            let mut headers = Vec::new();
            let hear = async {
                while let Traffic::Read = wire.traffic(true).await {
                    while let Some(header) = wire.header().copied()
                        && wire.take().is_some()
                    {
                        headers.push(header);
                    }
                }
            };
            run(async { tokio::join!(say, hear) });

            let expected: Vec<_> = frames.iter().map(|frame| *frame.first_chunk().unwrap()).collect();
            prop_assert_eq!(headers, expected);
        }

        #[test]
        fn frames_go_out_whole_and_in_order_through_a_stream_of_any_room(
            frames in frames(), room in 1..700usize, by_traffic in 0..12usize,
        ) {
            let (stream, mut peer) = duplex(room);
            let mut wire = Wire::new(stream);
            let expected = frames.concat();
            let total = frames.len();
            frames.into_iter().for_each(|frame| wire.queue(frame));
            let say = async move {
                // The rest are last words; one of them may be half written by then.
                while wire.queued() > total.saturating_sub(by_traffic) {
                    wire.traffic(false).await;
                }
                wire.close().await;
            };
            let mut heard = Vec::new();
            let hear = async { peer.read_to_end(&mut heard).await };
            let ((), read) = run(async { tokio::join!(say, hear) });

            prop_assert_eq!(read.unwrap(), expected.len());
            prop_assert_eq!(heard, expected);
        }
    }
}
