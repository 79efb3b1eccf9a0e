//! Any bytes at the codec: no panic, however they are cut, and what was read can be written and
//! read again.
//!
//! The first byte of an input says how: bit 0 and 1 which CONNECT goes before (none, 3.1.1, 5),
//! bit 2 whether packets are limited to 64 bytes, the rest in pieces of how many bytes they come.

#![no_main]

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use pinhook::mqtt::codec::{Codec, DecodeError, EncodeError, publish_size};
use pinhook::mqtt::packet::{
    Ack, Incoming, Outgoing, OutgoingPublish, OutgoingQos, Properties, Publish, Qos, Reason,
    Version,
};

/// Largest packet, in bytes.
const LIMITS: [usize; 2] = [64 * 1024, 64];

/// What a decoded packet may take at most for each byte it had: a filter of one character has four
/// bytes, and is a text and its options.
const BYTES_PER_BYTE: usize = 32;

const CONNECT_311: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c";
const CONNECT_5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c";

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else {
        return;
    };
    let start = Codec::new(LIMITS[usize::from(how >> 2 & 1)]);
    let before = [&[][..], CONNECT_311, CONNECT_5, CONNECT_5][usize::from(how & 3)];
    let pieces = usize::from(how >> 3) + 1;

    let whole = read(start, before, bytes, usize::MAX);
    let cut = read(start_again(how), before, bytes, pieces);

    assert_eq!(whole.packets, cut.packets, "pieces of {pieces}");
    assert_eq!(whole.end, cut.end, "pieces of {pieces}");
    for packet in &whole.packets {
        write_and_read_again(&whole.codec, packet);
    }
});

fn start_again(how: u8) -> Codec {
    Codec::new(LIMITS[usize::from(how >> 2 & 1)])
}

/// What became of some bytes.
struct Read {
    codec: Codec,
    packets: Vec<Incoming>,
    /// How many bytes are left of a packet that has not ended, or why no more was taken.
    end: Result<usize, DecodeError>,
}

fn read(mut codec: Codec, before: &[u8], bytes: &[u8], piece: usize) -> Read {
    let mut buffer = BytesMut::from(before);
    let mut packets = Vec::new();
    let greeted = codec.decode(&mut buffer);
    assert_eq!(
        greeted.is_ok_and(|packet| packet.is_some()),
        !before.is_empty()
    );
    for piece in bytes.chunks(piece.min(bytes.len().max(1))) {
        buffer.extend_from_slice(piece);
        let capacity = buffer.capacity();
        loop {
            let length = buffer.len();
            match codec.decode(&mut buffer) {
                Ok(Some(packet)) => {
                    let took = length - buffer.len();
                    let holds = weight(&packet);
                    assert!(
                        holds <= took * BYTES_PER_BYTE,
                        "{holds} of {took} bytes: {packet:?}"
                    );
                    packets.push(packet);
                }
                Ok(None) => {
                    assert_eq!(buffer.len(), length, "half a packet stays");
                    break;
                }
                Err(error) => {
                    assert_eq!(buffer.len(), length, "refused bytes stay");
                    assert_eq!(codec.decode(&mut buffer), Err(error), "asked again");
                    assert!(error.reason().is_error(), "{error}");
                    return Read {
                        codec,
                        packets,
                        end: Err(error),
                    };
                }
            }
        }
        assert!(
            buffer.capacity() <= capacity,
            "a promised length makes no buffer grow"
        );
    }
    Read {
        codec,
        packets,
        end: Ok(buffer.len()),
    }
}

/// The memory behind a packet, in bytes; a payload is part of the buffer.
fn weight(packet: &Incoming) -> usize {
    let of_text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
    let of_properties = |properties: &Properties| {
        let user = properties
            .user
            .iter()
            .map(|(name, value)| name.capacity() + value.capacity());
        of_text(&properties.content_type)
            + of_text(&properties.response_topic)
            + properties.correlation_data.as_ref().map_or(0, Bytes::len)
            + properties.user.capacity() * size_of::<(String, String)>()
            + user.sum::<usize>()
    };
    match packet {
        Incoming::Connect(connect) => {
            let will = connect.will.as_ref();
            connect.client_id.capacity()
                + of_text(&connect.authentication_method)
                + of_text(&connect.username)
                + connect
                    .password
                    .as_ref()
                    .map_or(0, |password| password.0.capacity())
                + will.map_or(0, |will| {
                    will.topic.capacity() + will.payload.len() + of_properties(&will.properties)
                })
        }
        Incoming::Publish(publish) => publish.topic.capacity() + of_properties(&publish.properties),
        Incoming::Subscribe(subscribe) => {
            let filters = &subscribe.filters;
            filters.capacity() * size_of_val(&filters[0])
                + filters
                    .iter()
                    .map(|filter| filter.filter.capacity())
                    .sum::<usize>()
        }
        Incoming::Unsubscribe(unsubscribe) => {
            let filters = &unsubscribe.filters;
            filters.capacity() * size_of_val(&filters[0])
                + filters.iter().map(String::capacity).sum::<usize>()
        }
        _ => 0,
    }
}

fn write_and_read_again(codec: &Codec, packet: &Incoming) {
    match packet {
        Incoming::Publish(publish) => publish_again(codec, publish),
        Incoming::PubAck(ack) => ack_again(codec, *ack, Outgoing::PubAck, Incoming::PubAck),
        Incoming::PubRec(ack) => ack_again(codec, *ack, Outgoing::PubRec, Incoming::PubRec),
        Incoming::PubRel(ack) => ack_again(codec, *ack, Outgoing::PubRel, Incoming::PubRel),
        Incoming::PubComp(ack) => ack_again(codec, *ack, Outgoing::PubComp, Incoming::PubComp),
        Incoming::Subscribe(subscribe) => {
            let reasons: Vec<_> = subscribe
                .filters
                .iter()
                .map(|filter| Reason::granted(filter.qos))
                .collect();
            let packet_id = subscribe.packet_id;
            is_one_packet(
                codec,
                &Outgoing::SubAck {
                    packet_id,
                    reasons: &reasons,
                },
            );
        }
        Incoming::Unsubscribe(unsubscribe) => {
            let reasons = vec![Reason::NO_SUBSCRIPTION_EXISTED; unsubscribe.filters.len()];
            let packet_id = unsubscribe.packet_id;
            is_one_packet(
                codec,
                &Outgoing::UnsubAck {
                    packet_id,
                    reasons: &reasons,
                },
            );
        }
        Incoming::Disconnect(disconnect) => {
            is_one_packet(
                codec,
                &Outgoing::Disconnect {
                    reason: disconnect.reason,
                    reason_string: Some("why"),
                },
            );
        }
        Incoming::Connect(_) | Incoming::PingReq => {}
    }
}

fn publish_again(codec: &Codec, publish: &Publish) {
    let id = publish.packet_id.unwrap_or(NonZeroU16::MAX);
    let outgoing = OutgoingPublish {
        dup: publish.dup,
        qos: match publish.qos {
            Qos::AtMostOnce => OutgoingQos::AtMostOnce,
            Qos::AtLeastOnce => OutgoingQos::AtLeastOnce(id),
            Qos::ExactlyOnce => OutgoingQos::ExactlyOnce(id),
        },
        retain: publish.retain,
        topic: &publish.topic,
        topic_alias: publish.topic_alias,
        payload: &publish.payload,
        properties: &publish.properties,
        subscription_ids: &[],
    };
    let version = codec.version().expect("a packet was read");
    let size = publish_size(version, &outgoing).expect("it came over the wire");
    let Some(bytes) = is_one_packet(codec, &Outgoing::Publish(outgoing.clone())) else {
        return;
    };
    assert_eq!(bytes.len(), size);
    assert_eq!(again(codec, &bytes), Incoming::Publish(publish.clone()));

    let mut out = BytesMut::new();
    let within = codec.encode_publish(&outgoing, size - 1, &mut out);
    assert_eq!(
        within,
        Err(EncodeError::TooLarge {
            size,
            limit: size - 1
        })
    );
    assert!(out.is_empty());
}

fn ack_again(
    codec: &Codec,
    ack: Ack,
    out: fn(Ack) -> Outgoing<'static>,
    back: fn(Ack) -> Incoming,
) {
    if let Some(bytes) = is_one_packet(codec, &out(ack)) {
        assert_eq!(again(codec, &bytes), back(ack));
    }
}

/// Writes a packet and checks that its header says how long it is; none if the version has no such
/// packet, or the client takes none of this size.
fn is_one_packet(codec: &Codec, packet: &Outgoing<'_>) -> Option<Vec<u8>> {
    let mut out = BytesMut::new();
    let written = codec.encode(packet, &mut out);
    if !matches!(written, Ok(1..)) {
        assert!(out.is_empty(), "{packet:?}");
        return None;
    }
    let mut length = 0;
    let header = 1
        + out[1..]
            .iter()
            .take_while(|byte| **byte & 0x80 != 0)
            .count()
        + 1;
    for (place, byte) in out[1..header].iter().enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * place);
    }
    assert_eq!(header + length, out.len(), "{packet:?}");
    Some(out.to_vec())
}

/// Reads a packet with another codec of the same version.
fn again(codec: &Codec, bytes: &[u8]) -> Incoming {
    let mut other = Codec::new(usize::MAX);
    let hello = match codec.version() {
        Some(Version::V5) => CONNECT_5,
        _ => CONNECT_311,
    };
    let mut buffer = BytesMut::from(hello);
    other.decode(&mut buffer).expect("a CONNECT");
    buffer.extend_from_slice(bytes);
    let packet = other.decode(&mut buffer).expect("what we write ourselves");
    assert!(buffer.is_empty());
    packet.expect("it is whole")
}
