//! What was written by hand, byte by byte, and what comes of it.

mod foreign;

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::super::packet::{
    Ack, ConnAck, Connect, Disconnect, Filter, Outgoing, OutgoingPublish, OutgoingQos, Password,
    Properties, Publish, Qos, RetainHandling, Subscribe, Unsubscribe, Will,
};
use super::*;

/// Bytes from text: hex digits, and words in quotes for what is readable. Blanks do not count.
fn wire(text: &str) -> Vec<u8> {
    let hex = |part: &str| {
        let digits: Vec<u32> = part.chars().filter_map(|c| c.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0] << 4 | pair[1]) as u8)
            .collect()
    };
    let parts = text.split('\'').enumerate();
    parts
        .flat_map(|(i, part)| {
            if i % 2 == 1 {
                part.as_bytes().to_vec()
            } else {
                hex(part)
            }
        })
        .collect()
}

const CONNECT_311: &str = "10 0d 0004'MQTT' 04 02 003c 0001'c'";
const CONNECT_5: &str = "10 0e 0004'MQTT' 05 02 003c 00 0001'c'";

/// A codec that has read this CONNECT.
fn connected(connect: &str) -> Codec {
    let mut codec = Codec::new(100_000);
    let mut buf = BytesMut::from(&wire(connect)[..]);
    assert!(
        matches!(codec.decode(&mut buf), Ok(Some(Incoming::Connect(_)))),
        "{connect}"
    );
    assert!(buf.is_empty());
    codec
}

fn codec(version: Version) -> Codec {
    connected(if version == Version::V5 {
        CONNECT_5
    } else {
        CONNECT_311
    })
}

fn decode(codec: &mut Codec, bytes: &[u8]) -> Result<Option<Incoming>, DecodeError> {
    codec.decode(&mut BytesMut::from(bytes))
}

fn encode(codec: &Codec, packet: &Outgoing<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    let size = codec.encode(packet, &mut out).expect("encodes");
    assert_eq!(size, out.len());
    out.to_vec()
}

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("not 0")
}

/// A message with QoS 0 and nothing besides.
fn plain<'a>(topic: &'a str, payload: &'a [u8]) -> Outgoing<'a> {
    static NONE: Properties = Properties {
        payload_is_text: None,
        message_expiry: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user: Vec::new(),
    };
    Outgoing::Publish(OutgoingPublish {
        dup: false,
        qos: OutgoingQos::AtMostOnce,
        retain: false,
        topic,
        topic_alias: None,
        payload,
        properties: &NONE,
        subscription_ids: &[],
    })
}

#[test]
fn connect_of_311_is_read_whole() {
    let bytes =
        wire("10 27 0004'MQTT' 04 f6 000a 0002'id' 0003's/t' 0004'gone' 0004'user' 0006'secret'");

    let packet = decode(&mut Codec::new(100), &bytes);

    let Ok(Some(Incoming::Connect(connect))) = packet else {
        panic!("{packet:?}");
    };
    assert_eq!(format!("{:?}", connect.password), "Some(hidden)");
    assert_eq!(
        *connect,
        Connect {
            client_id: "id".to_owned(),
            clean_start: true,
            keep_alive: 10,
            will: Some(Will {
                topic: "s/t".to_owned(),
                payload: Bytes::from_static(b"gone"),
                qos: Qos::ExactlyOnce,
                retain: true,
                delay: 0,
                properties: Properties::default(),
            }),
            username: Some("user".to_owned()),
            password: Some(Password("secret".to_owned())),
            ..plain_connect(Version::V311)
        }
    );
}

fn plain_connect(version: Version) -> Connect {
    Connect {
        version,
        client_id: String::new(),
        clean_start: false,
        keep_alive: 0,
        session_expiry: None,
        receive_maximum: None,
        maximum_packet: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        request_response_information: false,
        authentication_method: None,
        will: None,
        username: None,
        password: None,
    }
}

#[test]
fn empty_and_absent_login_are_told_apart() {
    for (bytes, username, password) in [
        ("10 0c 0004'MQTT' 04 02 0000 0000", None, None),
        ("10 0e 0004'MQTT' 04 82 0000 0000 0000", Some(""), None),
        (
            "10 10 0004'MQTT' 04 c2 0000 0000 0000 0000",
            Some(""),
            Some(""),
        ),
        // MQTT 5 lets a password come alone.
        ("10 0f 0004'MQTT' 05 42 0000 00 0000 0000", None, Some("")),
    ] {
        let packet = decode(&mut Codec::new(100), &wire(bytes));

        let Ok(Some(Incoming::Connect(connect))) = packet else {
            panic!("{bytes}: {packet:?}");
        };
        assert_eq!(connect.username.as_deref(), username);
        assert_eq!(
            connect.password.map(|password| password.0).as_deref(),
            password
        );
    }
}

#[test]
fn a_packet_may_end_after_its_reason() {
    // DISCONNECT that ends after its reason: legal (MQTT 5, 3.14.2.2.1), and how a client asks for its will.
    let with_will = Disconnect {
        reason: Reason::DISCONNECT_WITH_WILL,
        session_expiry: None,
    };
    let read = decode(&mut codec(Version::V5), &wire("e0 01 04"));
    assert_eq!(read, Ok(Some(Incoming::Disconnect(with_will))));

    // An acknowledgement that ends after its reason.
    let ack = Ack {
        packet_id: id(1),
        reason: Reason::NO_MATCHING_SUBSCRIBERS,
    };
    let read = decode(&mut codec(Version::V5), &wire("40 03 0001 10"));
    assert_eq!(read, Ok(Some(Incoming::PubAck(ack))));
}

/// The first packets that are refused, and the answer to them.
#[test]
fn bad_first_packets_are_refused() {
    use DecodeError as E;
    #[rustfmt::skip]
    let cases = [
        // A packet that only a server sends, from a stranger: a decoder for both sides may not expect it at all.
        ("20 03 00 00 00", E::NotConnect("CONNACK"), ""),
        ("b0 03 0001 00", E::NotConnect("UNSUBACK"), ""),
        ("c0 00", E::NotConnect("PINGREQ"), ""),
        ("00 00", E::NotConnect("packet type 0"), ""),
        ("f0 00", E::NotConnect("AUTH"), ""),
        ("'GET / HTTP/1.1'", E::NotConnect("PUBACK"), ""),
        ("16 03 01 02 00", E::Flags { packet: "CONNECT", found: 6, expected: 0 }, ""),
        ("11 00", E::Flags { packet: "CONNECT", found: 1, expected: 0 }, ""),
        ("10 ff ff ff 7f", E::TooLarge { packet: "CONNECT", found: 268_435_460, limit: 100 }, ""),
        ("10 ff ff ff ff", E::VariableInteger("CONNECT"), ""),
        ("10 00", E::Truncated("CONNECT"), ""),
        ("10 0c 0006'MQIsdp' 03 02 003c", E::Mqtt31, "20 02 00 01"),
        ("10 07 0004'MQTT' 03", E::Level(3), "20 02 00 01"),
        ("10 07 0004'MQTT' 84", E::Level(0x84), "20 02 00 01"),
        ("10 07 0004'MQTT' 06", E::Level(6), "20 03 00 84 00"),
        ("10 07 0004'HTTP' 04", E::NotMqtt, ""),
        ("10 0c 0004'MQTT' 04 03 0000 0000", E::ConnectFlags(0b0000_0011), ""),
        ("10 0c 0004'MQTT' 04 0a 0000 0000", E::ConnectFlags(0b0000_1010), ""),
        ("10 0c 0004'MQTT' 04 22 0000 0000", E::ConnectFlags(0b0010_0010), ""),
        ("10 0e 0004'MQTT' 04 42 0000 0000 0000", E::ConnectFlags(0b0100_0010), ""),
        ("10 10 0004'MQTT' 04 1e 0000 0000 0000 0000", E::Qos("CONNECT"), ""),
        ("10 0d 0004'MQTT' 04 02 0000 0000 00", E::Surplus { packet: "CONNECT", surplus: 1 }, ""),
        ("10 0c 0004'MQTT' 04 02 0000 0001", E::Truncated("CONNECT"), ""),
        ("10 0d 0004'MQTT' 04 02 0000 0001 ff", E::NotUtf8("CONNECT"), ""),
        ("10 0d 0004'MQTT' 04 02 0000 0001 00", E::Nul("CONNECT"), ""),
        // Bytes that are no text are a wrong password, not a wrong packet.
        ("10 12 0004'MQTT' 04 c2 0000 0000 0001'u' 0001 ff", E::Password, "20 02 00 04"),
        ("10 0d 0004'MQTT' 05 03 0000 00 0000", E::ConnectFlags(0b0000_0011), "20 03 00 81 00"),
        ("10 10 0004'MQTT' 05 02 0000 03 21 0000 0000", E::Value { packet: "CONNECT", id: 0x21 }, "20 03 00 82 00"),
        ("10 12 0004'MQTT' 05 02 0000 05 27 00000000 0000", E::Value { packet: "CONNECT", id: 0x27 }, "20 03 00 82 00"),
        ("10 0f 0004'MQTT' 05 02 0000 02 17 02 0000", E::Value { packet: "CONNECT", id: 0x17 }, "20 03 00 82 00"),
        ("10 11 0004'MQTT' 05 02 0000 04 17 01 17 01 0000", E::Repeated { packet: "CONNECT", id: 0x17 }, "20 03 00 82 00"),
        ("10 10 0004'MQTT' 05 02 0000 03 16 0000 0000", E::Value { packet: "CONNECT", id: 0x16 }, "20 03 00 82 00"),
        ("10 0f 0004'MQTT' 05 02 0000 02 24 01 0000", E::Property { packet: "CONNECT", id: 0x24 }, "20 03 00 81 00"),
        ("10 0f 0004'MQTT' 05 02 0000 02 ff 01 0000", E::Property { packet: "CONNECT", id: 0xff }, "20 03 00 81 00"),
        ("10 0e 0004'MQTT' 05 02 0000 80 00 0000", E::VariableInteger("CONNECT"), "20 03 00 81 00"),
        ("10 0d 0004'MQTT' 05 02 0000 04 1100", E::Truncated("CONNECT"), "20 03 00 81 00"),
    ];
    for (bytes, expected, answer) in cases {
        let mut codec = Codec::new(100);

        let error = decode(&mut codec, &wire(bytes));

        assert_eq!(error, Err(expected), "{bytes}");
        assert_eq!(decode(&mut codec, &wire(bytes)), error, "{bytes}");
        let connack = Outgoing::ConnAck(ConnAck::new(expected.reason()));
        assert_eq!(encode(&codec, &connack), wire(answer), "{bytes}");
    }
}

/// What is refused after CONNECT: in both versions, in 3.1.1 alone, in MQTT 5 alone.
#[test]
fn bad_later_packets_are_refused() {
    use DecodeError as E;
    #[rustfmt::skip]
    let both = [
        (CONNECT_311, E::SecondConnect, 0x82),
        (CONNECT_5, E::SecondConnect, 0x82),
        ("20 03 00 00 00", E::FromServer("CONNACK"), 0x82),
        ("90 03 0001 00", E::FromServer("SUBACK"), 0x82),
        ("b0 03 0001 00", E::FromServer("UNSUBACK"), 0x82),
        ("d0 00", E::FromServer("PINGRESP"), 0x82),
        ("00 00", E::Type0, 0x81),
        ("f0 00", E::Auth, 0x82),
        ("c1 00", E::Flags { packet: "PINGREQ", found: 1, expected: 0 }, 0x81),
        ("60 02 0001", E::Flags { packet: "PUBREL", found: 0, expected: 2 }, 0x81),
        ("80 06 0001 0001'a' 00", E::Flags { packet: "SUBSCRIBE", found: 0, expected: 2 }, 0x81),
        ("a0 05 0001 0001'a'", E::Flags { packet: "UNSUBSCRIBE", found: 0, expected: 2 }, 0x81),
        ("e4 00", E::Flags { packet: "DISCONNECT", found: 4, expected: 0 }, 0x81),
        ("30 ff ff ff 7f", E::TooLarge { packet: "PUBLISH", found: 268_435_460, limit: 100_000 }, 0x95),
        ("30 80 80 80 80", E::VariableInteger("PUBLISH"), 0x81),
        ("c0 01 00", E::Surplus { packet: "PINGREQ", surplus: 1 }, 0x81),
        ("30 00", E::Truncated("PUBLISH"), 0x81),
        ("30 03 0005'a'", E::Truncated("PUBLISH"), 0x81),
        ("32 03 0001'a'", E::Truncated("PUBLISH"), 0x81),
        ("32 05 0001'a' 0000", E::PacketId("PUBLISH"), 0x81),
        ("36 06 0001'a' 0001 00", E::Qos("PUBLISH"), 0x81),
        ("38 04 0001'a' 00", E::Dup, 0x81),
        ("30 04 0001 c3 00", E::NotUtf8("PUBLISH"), 0x81),
        // A surrogate: refused by MQTT-1.5.4-1 and by Rust alike.
        ("30 06 0003 eda080 00", E::NotUtf8("PUBLISH"), 0x81),
        ("30 05 0002'a'00 00", E::Nul("PUBLISH"), 0x81),
        ("40 00", E::Truncated("PUBACK"), 0x81),
        ("40 02 0000", E::PacketId("PUBACK"), 0x81),
        ("50 01 00", E::Truncated("PUBREC"), 0x81),
        ("62 02 0000", E::PacketId("PUBREL"), 0x81),
        ("70 02 0000", E::PacketId("PUBCOMP"), 0x81),
    ];
    #[rustfmt::skip]
    let only_311 = [
        ("40 03 0001 00", E::Surplus { packet: "PUBACK", surplus: 1 }, 0x81),
        ("e0 01 00", E::Surplus { packet: "DISCONNECT", surplus: 1 }, 0x81),
        ("82 02 0001", E::NoFilter("SUBSCRIBE"), 0x82),
        ("82 06 0000 0001'a' 00", E::PacketId("SUBSCRIBE"), 0x81),
        ("82 06 0001 0001'a' 03", E::Qos("SUBSCRIBE"), 0x81),
        ("82 06 0001 0001'a' 04", E::Options(4), 0x81),
        ("82 05 0001 0001'a'", E::Truncated("SUBSCRIBE"), 0x81),
        ("a2 02 0001", E::NoFilter("UNSUBSCRIBE"), 0x82),
    ];
    #[rustfmt::skip]
    let only_5 = [
        ("40 03 0001 92", E::Reason { packet: "PUBACK", code: Reason(0x92) }, 0x81),
        ("62 03 0001 10", E::Reason { packet: "PUBREL", code: Reason(0x10) }, 0x81),
        ("40 05 0001 00 00 00", E::Surplus { packet: "PUBACK", surplus: 1 }, 0x81),
        ("40 06 0001 00 02 23 00", E::Property { packet: "PUBACK", id: 0x23 }, 0x81),
        ("40 0a 0001 00 06 1f0000 1f0000", E::Repeated { packet: "PUBACK", id: 0x1f }, 0x82),
        ("82 03 0001 00", E::NoFilter("SUBSCRIBE"), 0x82),
        ("82 07 0001 00 0001'a' 40", E::Options(0x40), 0x81),
        ("82 07 0001 00 0001'a' 30", E::RetainHandling, 0x82),
        ("82 09 0001 02 0b00 0001'a' 00", E::Value { packet: "SUBSCRIBE", id: 0x0b }, 0x82),
        ("82 0b 0001 04 0b01 0b02 0001'a' 00", E::Repeated { packet: "SUBSCRIBE", id: 0x0b }, 0x82),
        ("a2 03 0001 00", E::NoFilter("UNSUBSCRIBE"), 0x82),
        ("a2 05 0001 02 0b01", E::Property { packet: "UNSUBSCRIBE", id: 0x0b }, 0x81),
        ("30 06 0001'a' 02 0b01", E::Property { packet: "PUBLISH", id: 0x0b }, 0x81),
        ("30 07 0001'a' 03 230000", E::TopicAlias, 0x94),
        ("30 06 0001'a' 02 0102", E::Value { packet: "PUBLISH", id: 1 }, 0x82),
        ("30 08 0001'a' 04 0101 0101", E::Repeated { packet: "PUBLISH", id: 1 }, 0x82),
        // A property longer than all of them: it must not be read on into the payload.
        ("30 0b 0001'a' 02 030004'helo'", E::Truncated("PUBLISH"), 0x81),
        ("30 03 0001'a'", E::Truncated("PUBLISH"), 0x81),
        ("c0 80 00", E::VariableInteger("PINGREQ"), 0x81),
        ("e0 07 00 05 13 00 00 00 00", E::Property { packet: "DISCONNECT", id: 0x13 }, 0x81),
    ];
    let versioned = [(Version::V311, &only_311[..]), (Version::V5, &only_5[..])];
    for (version, own) in versioned {
        for &(bytes, expected, reason) in both.iter().chain(own) {
            let error = decode(&mut codec(version), &wire(bytes));

            assert_eq!(error, Err(expected), "{version:?} {bytes}");
            assert_eq!(expected.reason(), Reason(reason), "{bytes}");
        }
    }
}

/// The bytes that end a decoder made for clients and servers alike (dependencies.md, 2).
#[test]
fn connack_and_unsuback_from_a_client_are_refused_at_their_first_byte() {
    for (bytes, name) in [
        ("20", "CONNACK"),
        ("20 03 00 00 00", "CONNACK"),
        ("b0 04 0001 00 00", "UNSUBACK"),
    ] {
        let stranger = decode(&mut Codec::new(100), &wire(bytes));
        let client = decode(&mut codec(Version::V5), &wire(bytes));

        assert_eq!(stranger, Err(DecodeError::NotConnect(name)));
        assert_eq!(client, Err(DecodeError::FromServer(name)));
    }
}

#[test]
fn errors_say_what_was_found_and_what_expected() {
    let texts = [
        (
            DecodeError::NotConnect("CONNACK"),
            "the first packet is CONNACK, expected CONNECT",
        ),
        (
            DecodeError::TooLarge {
                packet: "PUBLISH",
                found: 300,
                limit: 256,
            },
            "PUBLISH of 300 bytes, expected at most 256",
        ),
        (
            DecodeError::Flags {
                packet: "PUBREL",
                found: 0,
                expected: 2,
            },
            "flags 0000 in the first byte of PUBREL, expected 0010",
        ),
        (
            DecodeError::Reason {
                packet: "PUBACK",
                code: Reason(0x92),
            },
            "reason 0x92 in PUBACK, where it has no place",
        ),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn needless_zeros_in_a_length_are_allowed_in_311_only() {
    assert_eq!(
        decode(&mut codec(Version::V311), &wire("c0 80 80 00")),
        Ok(Some(Incoming::PingReq))
    );
    assert!(decode(&mut codec(Version::V5), &wire("c0 80 80 00")).is_err());
}

#[test]
fn packets_follow_each_other_in_one_buffer() {
    let mut codec = Codec::new(100);
    let all = [CONNECT_5, "30 06 0001'a' 00'hi'", "c0 00", "e0 00", "30"]
        .map(wire)
        .concat();
    let mut buf = BytesMut::from(&all[..]);

    let kinds: Vec<_> = std::iter::from_fn(|| codec.decode(&mut buf).expect("decodes"))
        .map(|packet| {
            format!("{packet:?}")
                .split(['(', ' '])
                .next()
                .map(str::to_owned)
        })
        .collect();

    assert_eq!(
        kinds,
        ["Connect", "Publish", "PingReq", "Disconnect"].map(|name| Some(name.to_owned()))
    );
    assert_eq!(buf[..], [0x30]);
}

#[test]
fn a_promised_length_makes_no_buffer_grow() {
    let mut codec = codec(Version::V5);
    let mut buf = BytesMut::with_capacity(16);
    buf.extend_from_slice(&wire("30 80 8d 06 0001'a'"));

    assert_eq!(codec.decode(&mut buf), Ok(None));

    assert!(buf.capacity() <= 16);
    assert_eq!(buf.len(), 7);
}

#[test]
fn the_limit_counts_the_whole_packet() {
    let packet = wire("30 06 0001'a' 00'hi'");
    for (limit, fits) in [(packet.len(), true), (packet.len() - 1, false)] {
        let mut codec = Codec {
            max_packet: limit,
            ..codec(Version::V5)
        };

        assert_eq!(decode(&mut codec, &packet).is_ok(), fits);
    }
}

#[test]
fn payload_is_a_slice_of_the_buffer_and_an_empty_one_holds_nothing() {
    let mut codec = codec(Version::V311);
    let mut buf = BytesMut::from(&wire("30 05 0001'a''hi' 30 03 0001'a'")[..]);
    let place = buf[5..].as_ptr();

    let Ok(Some(Incoming::Publish(full))) = codec.decode(&mut buf) else {
        panic!()
    };
    let Ok(Some(Incoming::Publish(empty))) = codec.decode(&mut buf) else {
        panic!()
    };

    assert_eq!(
        (&full.payload[..], full.payload.as_ptr()),
        (&b"hi"[..], place)
    );
    drop((full, buf));
    assert!(empty.payload.is_empty());
    assert_eq!(empty.payload, Bytes::new());
}

#[test]
fn nothing_is_written_before_a_version_is_known() {
    let mut out = BytesMut::new();

    let written = Codec::new(100).encode(&Outgoing::PingResp, &mut out);

    assert_eq!((written, out.len()), (Ok(0), 0));
}

#[test]
fn disconnect_is_written_for_mqtt_5_only() {
    let disconnect = Outgoing::Disconnect {
        reason: Reason::SERVER_SHUTTING_DOWN,
        reason_string: Some("bye"),
    };

    assert!(encode(&codec(Version::V311), &disconnect).is_empty());
    assert_eq!(
        encode(&codec(Version::V5), &disconnect),
        wire("e0 08 8b 06 1f 0003'bye'")
    );
}

#[test]
fn reasons_become_return_codes_in_311() {
    // Every reason has a code, or there is no CONNACK at all.
    let codec = codec(Version::V311);
    let known = |code: u8| match code {
        0x00 => Some(0),
        0x84 => Some(1),
        0x85 => Some(2),
        0x88 | 0x89 | 0x8B | 0x97 | 0x9F => Some(3),
        0x86 => Some(4),
        0x87 | 0x8A => Some(5),
        _ => None,
    };
    for code in 0..=255 {
        let connack = Outgoing::ConnAck(ConnAck {
            session_present: true,
            ..ConnAck::new(Reason(code))
        });
        let suback = Outgoing::SubAck {
            packet_id: id(7),
            reasons: &[Reason(code)],
        };
        let unsuback = Outgoing::UnsubAck {
            packet_id: id(7),
            reasons: &[Reason(code)],
        };
        let puback = Outgoing::PubAck(Ack {
            packet_id: id(7),
            reason: Reason(code),
        });

        let present = u8::from(code == 0);
        let expected = known(code).map_or(vec![], |known| vec![0x20, 2, present, known]);
        assert_eq!(encode(&codec, &connack), expected);
        assert_eq!(encode(&codec, &suback), [0x90, 3, 0, 7, code.min(0x80)]);
        assert_eq!(encode(&codec, &unsuback), [0xB0, 2, 0, 7]);
        assert_eq!(encode(&codec, &puback), [0x40, 2, 0, 7]);
    }
}

#[test]
fn properties_are_left_out_in_311() {
    let properties = Properties {
        content_type: Some("text/plain".to_owned()),
        ..Default::default()
    };
    let publish = Outgoing::Publish(OutgoingPublish {
        dup: true,
        qos: OutgoingQos::AtMostOnce,
        retain: true,
        topic: "a",
        topic_alias: Some(id(3)),
        payload: b"hi",
        properties: &properties,
        subscription_ids: &[1, 200],
    });

    assert_eq!(
        encode(&codec(Version::V311), &publish),
        wire("31 05 0001'a''hi'")
    );
    assert_eq!(
        encode(&codec(Version::V5), &publish),
        wire("31 1b 0001'a' 15 230003 0b01 0bc801 03000a'text/plain''hi'")
    );
}

#[test]
fn nothing_larger_than_the_client_takes_is_written() {
    // Maximum packet size 12.
    let codec = connected("10 13 0004'MQTT' 05 02 003c 05 27 0000000c 0001'c'");
    let publish = |payload| plain("topic", payload);
    let mut out = BytesMut::from(&b"before"[..]);

    assert_eq!(codec.encode(&publish(b"12"), &mut out), Ok(12));
    let error = codec.encode(&publish(b"123"), &mut out);

    assert_eq!(
        error,
        Err(EncodeError::TooLarge {
            size: 13,
            limit: 12
        })
    );
    assert_eq!(out.len(), "before".len() + 12);
    // A reason string goes before the packet does.
    let long = Some("a long explanation");
    let disconnect = Outgoing::Disconnect {
        reason: Reason::QUOTA_EXCEEDED,
        reason_string: long,
    };
    assert_eq!(encode(&codec, &disconnect), wire("e0 02 97 00"));
    let refused = ConnAck {
        reason_string: long,
        ..ConnAck::new(Reason::NOT_AUTHORIZED)
    };
    assert_eq!(
        encode(&codec, &Outgoing::ConnAck(refused)),
        wire("20 03 00 87 00")
    );
}

#[test]
fn a_message_may_have_no_more_bytes_than_its_limit_and_the_clients() {
    let codec = Codec {
        peer_max_packet: 100,
        ..codec(Version::V311)
    };
    let mut out = BytesMut::from(&b"before"[..]);
    let Outgoing::Publish(publish) = plain("abc", b"12345") else {
        panic!("a message");
    };

    assert_eq!(publish_size(Version::V311, &publish), Ok(12));
    assert_eq!(publish_size(Version::V5, &publish), Ok(13));
    let error = codec.encode_publish(&publish, 11, &mut out);
    let too_large = |size, limit| Err(EncodeError::TooLarge { size, limit });
    assert_eq!(error, too_large(12, 11));
    assert_eq!(out[..], b"before"[..]);
    assert_eq!(codec.encode_publish(&publish, 12, &mut out), Ok(12));
    assert_eq!(out.len(), "before".len() + 12);
    let long = OutgoingPublish {
        payload: &[b'x'; 94],
        ..publish
    };
    assert_eq!(
        codec.encode_publish(&long, 200, &mut out),
        too_large(101, 100)
    );
}

#[test]
fn what_mqtt_cannot_express_is_not_written() {
    let long = "x".repeat(65_536);
    let mut out = BytesMut::from(&b"before"[..]);
    let publish = plain(&long, b"");

    assert_eq!(
        codec(Version::V5).encode(&publish, &mut out),
        Err(EncodeError::Field(65_536))
    );
    assert_eq!(out[..], b"before"[..]);
}

#[test]
fn lengths_are_right_at_every_size_of_their_integer() {
    let mut codec = Codec {
        max_packet: MAX_PACKET,
        ..codec(Version::V5)
    };
    for size in [
        0, 120, 121, 122, 123, 124, 16_376, 16_377, 16_378, 16_379, 2_097_144, 2_097_150,
    ] {
        let payload = vec![b'x'; size];
        let publish = plain("abc", &payload);
        let bytes = encode(&codec, &publish);

        let read = decode(&mut codec, &bytes);

        assert!(
            matches!(read, Ok(Some(Incoming::Publish(read))) if read.payload == payload),
            "{size}"
        );
    }
}
