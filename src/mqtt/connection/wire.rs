//! A client's stream with its codec and buffers, and messages as packets.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::super::codec::{Codec, DecodeError, EncodeError};
use super::super::mount::Mount;
use super::super::packet::{
    ConnAck, Connect, Incoming, Outgoing, OutgoingPublish, OutgoingQos, Properties, Reason, Version,
};
use super::aliases::Told;
use crate::broker;
use crate::net::poll_read;

/// A buffer that has grown beyond this is given back when it is empty.
const KEPT: usize = 512;

/// The stream of one client.
pub(super) struct Wire<S> {
    stream: S,
    /// What was read and not yet decoded.
    pub inbox: BytesMut,
    /// What was encoded and not yet written.
    pub outbox: BytesMut,
    /// Whether something may still wait inside the stream: TLS and WebSocket have buffers.
    is_unflushed: bool,
    /// Whether the client was not told something that it is owed, because it takes no packet of
    /// that size.
    pub owes: bool,
    codec: Codec,
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
    pub fn new(stream: S, max_packet: usize) -> Wire<S> {
        Wire {
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            is_unflushed: false,
            owes: false,
            codec: Codec::new(max_packet),
        }
    }

    /// Reads the first packet, which the codec lets be nothing but a CONNECT.
    /// `None`: the connection broke.
    pub async fn first(&mut self) -> Result<Option<Box<Connect>>, DecodeError> {
        loop {
            match self.decode()? {
                Some(Incoming::Connect(connect)) => return Ok(Some(connect)),
                Some(_) => return Ok(None),
                None => {}
            }
            if !matches!(poll_fn(|cx| self.poll_read(cx)).await, Ok(1..)) {
                return Ok(None);
            }
        }
    }

    /// Waits until the client hangs up or sends something, which is dropped with
    /// the connection.
    pub async fn stirred(&mut self) {
        self.inbox.clear();
        let _ = poll_fn(|cx| self.poll_read(cx)).await;
    }

    /// Writes what there is to write, and reads if it may, whichever can be done
    /// first; waits for ever if there is nothing to do. Cancel-safe.
    pub async fn traffic(&mut self, may_read: bool) -> Traffic {
        poll_fn(|cx| self.poll_traffic(cx, may_read)).await
    }

    fn poll_traffic(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<Traffic> {
        if !self.outbox.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outbox) {
                // It hears nothing any more; what it said before still counts, and is read
                // until there is no more of it.
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.outbox.clear();
                    if !may_read {
                        return Poll::Ready(Traffic::Written);
                    }
                }
                Poll::Ready(Ok(written)) => {
                    self.written(written);
                    return Poll::Ready(Traffic::Written);
                }
                Poll::Pending => {}
            }
        } else if self.is_unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(_) => self.is_unflushed = false,
                Poll::Pending => {}
            }
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

    /// Takes the next whole packet out of what was read.
    pub fn decode(&mut self) -> Result<Option<Incoming>, DecodeError> {
        let decoded = self.codec.decode(&mut self.inbox);
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        decoded
    }

    /// Appends a packet to what is to be written.
    pub fn queue(&mut self, packet: &Outgoing<'_>) {
        // The codec has shortened already what it could.
        self.owes |= self.codec.encode(packet, &mut self.outbox).is_err();
    }

    /// Appends a message of at most `limit` bytes; returns how many it has.
    pub fn queue_publish(
        &mut self,
        publish: &OutgoingPublish<'_>,
        limit: usize,
    ) -> Result<usize, EncodeError> {
        self.codec.encode_publish(publish, limit, &mut self.outbox)
    }

    /// Forgets what was written.
    fn written(&mut self, bytes: usize) {
        self.is_unflushed = true;
        self.outbox.advance(bytes);
        if self.outbox.is_empty() && self.outbox.capacity() > KEPT {
            self.outbox = BytesMut::new();
        }
    }

    /// Refuses the client: with CONNACK, which is all it can understand now.
    pub async fn refuse(mut self, reason: Reason, why: &str) {
        self.queue(&Outgoing::ConnAck(ConnAck {
            reason_string: Some(why),
            ..ConnAck::new(reason)
        }));
        let _ = tokio::time::timeout(super::GOODBYE_TIME, self.close()).await;
    }

    /// Writes what is to be written and closes.
    pub async fn close(&mut self) {
        if self.stream.write_all(&self.outbox).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// The properties of a packet as the broker keeps them.
pub(super) fn message_properties(
    properties: &Properties,
    mount: &Mount,
) -> Option<Arc<broker::Properties>> {
    if *properties == Properties::default() {
        return None;
    }
    let response_topic = properties.response_topic.as_deref();
    Some(Arc::new(broker::Properties {
        payload_format: properties.payload_is_text.map(u8::from),
        content_type: properties.content_type.clone(),
        response_topic: response_topic.map(|topic| mount.full(topic).into_owned()),
        correlation_data: properties.correlation_data.clone(),
        user_properties: properties.user.clone(),
        expiry: properties.message_expiry,
    }))
}

/// The properties of a message as its packet carries them. A response topic
/// outside the client's mount is left out (product.md §3.1).
pub(super) fn properties(
    outgoing: &broker::Outgoing,
    mount: &Mount,
    version: Version,
) -> Cow<'static, Properties> {
    static NONE: Properties = Properties {
        payload_is_text: None,
        message_expiry: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user: Vec::new(),
    };
    let properties = outgoing.message.properties.as_ref();
    let Some(properties) = properties.filter(|_| version == Version::V5) else {
        return Cow::Borrowed(&NONE);
    };
    let response_topic = properties.response_topic.as_deref();
    Cow::Owned(Properties {
        payload_is_text: properties.payload_format.map(|format| format == 1),
        message_expiry: outgoing.expiry,
        content_type: properties.content_type.clone(),
        response_topic: response_topic
            .and_then(|topic| mount.local(topic))
            .map(str::to_owned),
        correlation_data: properties.correlation_data.clone(),
        user: properties.user_properties.clone(),
    })
}

/// A message as a packet.
pub(super) fn packet_publish<'a>(
    outgoing: &'a broker::Outgoing,
    topic: &'a str,
    told: Told,
    properties: &'a Properties,
) -> OutgoingPublish<'a> {
    let qos = match (outgoing.qos, outgoing.packet_id) {
        (broker::QoS::ExactlyOnce, Some(id)) => OutgoingQos::ExactlyOnce(id),
        (broker::QoS::AtLeastOnce, Some(id)) => OutgoingQos::AtLeastOnce(id),
        _ => OutgoingQos::AtMostOnce,
    };
    OutgoingPublish {
        dup: outgoing.dup,
        qos,
        retain: outgoing.retain,
        topic: if matches!(told, Told::Number(_)) {
            ""
        } else {
            topic
        },
        topic_alias: match told {
            Told::Name => None,
            Told::Both(number) | Told::Number(number) => Some(number),
        },
        payload: &outgoing.message.payload,
        properties,
        subscription_ids: &outgoing.subscription_ids,
    }
}
