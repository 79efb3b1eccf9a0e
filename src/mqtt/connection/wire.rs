//! A client's stream with its codec and buffers, and messages as packets.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};

use super::super::codec::{Codec, DecodeError, EncodeError};
use super::super::mount::Mount;
use super::super::packet::{
    ConnAck, Connect, Incoming, Outgoing, OutgoingPublish, OutgoingQos, Properties, Reason, Version,
};
use super::aliases::Told;
use crate::broker;
use std::sync::Arc;

/// Room for a read at first: most packets of devices fit.
const READ_ROOM: usize = 512;

/// Room for a read from a client that fills it again and again.
const MAX_READ_ROOM: usize = 16 * 1024;

/// A buffer that has grown beyond this is given back when it is empty.
const KEPT: usize = 4 * 1024;

/// The stream of one client.
pub(super) struct Wire<S> {
    pub reader: ReadHalf<S>,
    pub writer: WriteHalf<S>,
    /// What was read and not yet decoded.
    pub inbox: BytesMut,
    /// What was encoded and not yet written.
    pub outbox: BytesMut,
    codec: Codec,
    read_room: usize,
}

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    pub fn new(stream: S, max_packet: usize) -> Wire<S> {
        let (reader, writer) = tokio::io::split(stream);
        Wire {
            reader,
            writer,
            inbox: BytesMut::with_capacity(READ_ROOM),
            outbox: BytesMut::new(),
            codec: Codec::new(max_packet),
            read_room: READ_ROOM,
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
            if !matches!(self.reader.read_buf(&mut self.inbox).await, Ok(1..)) {
                return Ok(None);
            }
        }
    }

    /// Waits until the client hangs up or sends something, which is dropped with
    /// the connection.
    pub async fn stirred(&mut self) {
        self.inbox.clear();
        let _ = self.reader.read_buf(&mut self.inbox).await;
    }

    /// Takes the next whole packet out of what was read.
    pub fn decode(&mut self) -> Result<Option<Incoming>, DecodeError> {
        let is_full = !self.inbox.is_empty() && self.inbox.len() == self.inbox.capacity();
        if is_full {
            self.read_room = MAX_READ_ROOM.min(self.read_room * 2);
        }
        let decoded = self.codec.decode(&mut self.inbox);
        if let Ok(None) = decoded {
            self.inbox.reserve(self.read_room);
        }
        decoded
    }

    /// Appends a packet to what is to be written.
    pub fn queue(&mut self, packet: &Outgoing<'_>) {
        // What is too large for the client is left out: the codec has shortened
        // already what it could.
        let _ = self.codec.encode(packet, &mut self.outbox);
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
    pub fn written(&mut self, bytes: usize) {
        self.outbox.advance(bytes);
        if self.outbox.is_empty() && self.outbox.capacity() > KEPT {
            self.outbox = BytesMut::new();
        }
    }

    /// Gives back what grew: the client has nothing to say for now.
    pub fn shrink(&mut self) {
        if self.inbox.is_empty() && self.inbox.capacity() > KEPT {
            self.inbox = BytesMut::with_capacity(READ_ROOM);
            self.read_room = READ_ROOM;
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
        if self.writer.write_all(&self.outbox).await.is_ok() {
            let _ = self.writer.shutdown().await;
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
