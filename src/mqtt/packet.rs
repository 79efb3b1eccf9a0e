//! What a client and pinhook say to each other in MQTT, whatever the version: plain values, no bytes.
//!
//! 3.1.1 and 5 share these types. What 3.1.1 does not know has its neutral value after decoding and is left out by
//! encoding. The rules of the wire (lengths, flags, repeated properties) hold for everything that was decoded; the
//! rules of topics, sessions and permissions are checked by who uses it.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

/// The protocol version a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5, protocol level 5.
    V5,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V311 => "3.1.1",
            Version::V5 => "5",
        })
    }
}

/// How surely a message arrives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl Qos {
    /// The QoS of this number; none for 3 and above.
    pub fn from_bits(bits: u8) -> Option<Qos> {
        match bits {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

/// A reason code of MQTT 5. The codec turns it into what 3.1.1 has for it, or leaves it out there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// Success; granted QoS 0; a normal disconnection.
    pub const SUCCESS: Reason = Reason(0x00);
    /// A client's DISCONNECT that wants its will published.
    pub const DISCONNECT_WITH_WILL: Reason = Reason(0x04);
    /// Accepted, and nobody is subscribed.
    pub const NO_MATCHING_SUBSCRIBERS: Reason = Reason(0x10);
    /// UNSUBACK for a filter that was not subscribed.
    pub const NO_SUBSCRIPTION_EXISTED: Reason = Reason(0x11);
    /// None of the other errors fits, or it is not told.
    pub const UNSPECIFIED_ERROR: Reason = Reason(0x80);
    /// The packet does not have the form its type prescribes.
    pub const MALFORMED_PACKET: Reason = Reason(0x81);
    /// Well formed, but not allowed at this point or with these values.
    pub const PROTOCOL_ERROR: Reason = Reason(0x82);
    /// Valid, but not accepted by this server.
    pub const IMPLEMENTATION_SPECIFIC_ERROR: Reason = Reason(0x83);
    /// Neither 3.1.1 nor 5.
    pub const UNSUPPORTED_PROTOCOL_VERSION: Reason = Reason(0x84);
    /// The client id is not accepted.
    pub const CLIENT_IDENTIFIER_NOT_VALID: Reason = Reason(0x85);
    /// The login is wrong.
    pub const BAD_USER_NAME_OR_PASSWORD: Reason = Reason(0x86);
    /// The login is right, and may not do this.
    pub const NOT_AUTHORIZED: Reason = Reason(0x87);
    /// Not available now.
    pub const SERVER_UNAVAILABLE: Reason = Reason(0x88);
    /// Too busy now.
    pub const SERVER_BUSY: Reason = Reason(0x89);
    /// This client was shut out.
    pub const BANNED: Reason = Reason(0x8A);
    /// The daemon stops.
    pub const SERVER_SHUTTING_DOWN: Reason = Reason(0x8B);
    /// The authentication method is not supported.
    pub const BAD_AUTHENTICATION_METHOD: Reason = Reason(0x8C);
    /// Nothing was heard for 1.5 times the keep alive.
    pub const KEEP_ALIVE_TIMEOUT: Reason = Reason(0x8D);
    /// Another connection came with the same client id.
    pub const SESSION_TAKEN_OVER: Reason = Reason(0x8E);
    /// The topic filter is not valid.
    pub const TOPIC_FILTER_INVALID: Reason = Reason(0x8F);
    /// The topic name is not valid.
    pub const TOPIC_NAME_INVALID: Reason = Reason(0x90);
    /// The packet id is in use.
    pub const PACKET_IDENTIFIER_IN_USE: Reason = Reason(0x91);
    /// The packet id is not known.
    pub const PACKET_IDENTIFIER_NOT_FOUND: Reason = Reason(0x92);
    /// More unacknowledged messages than allowed.
    pub const RECEIVE_MAXIMUM_EXCEEDED: Reason = Reason(0x93);
    /// A topic alias of 0, above the maximum, or never set.
    pub const TOPIC_ALIAS_INVALID: Reason = Reason(0x94);
    /// The packet is larger than allowed.
    pub const PACKET_TOO_LARGE: Reason = Reason(0x95);
    /// Too many messages in too short a time.
    pub const MESSAGE_RATE_TOO_HIGH: Reason = Reason(0x96);
    /// A limit of the server was reached.
    pub const QUOTA_EXCEEDED: Reason = Reason(0x97);
    /// Somebody decided so.
    pub const ADMINISTRATIVE_ACTION: Reason = Reason(0x98);
    /// The payload is not what its properties say.
    pub const PAYLOAD_FORMAT_INVALID: Reason = Reason(0x99);
    /// Retained messages are not supported.
    pub const RETAIN_NOT_SUPPORTED: Reason = Reason(0x9A);
    /// The QoS is above the announced maximum.
    pub const QOS_NOT_SUPPORTED: Reason = Reason(0x9B);
    /// Shared subscriptions are not supported.
    pub const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Reason = Reason(0x9E);
    /// Too many connections in too short a time.
    pub const CONNECTION_RATE_EXCEEDED: Reason = Reason(0x9F);
    /// Subscription identifiers are not supported.
    pub const SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED: Reason = Reason(0xA1);
    /// Wildcard subscriptions are not supported.
    pub const WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED: Reason = Reason(0xA2);

    /// Whether this reason refuses or fails (0x80 and above).
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The SUBACK reason that grants this QoS.
    pub fn granted(qos: Qos) -> Reason {
        Reason(qos as u8)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02X}", self.0)
    }
}

/// What a client may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The first packet, and the only one of its kind.
    Connect(Box<Connect>),
    /// A message.
    Publish(Publish),
    /// A message with QoS 1 from us has arrived.
    PubAck(Ack),
    /// A message with QoS 2 from us has arrived (first of the two answers).
    PubRec(Ack),
    /// The client will not send its QoS 2 message again.
    PubRel(Ack),
    /// Our QoS 2 message is finished.
    PubComp(Ack),
    /// Filters to subscribe.
    Subscribe(Subscribe),
    /// Filters to forget.
    Unsubscribe(Unsubscribe),
    /// A sign of life that wants an answer.
    PingReq,
    /// The client leaves.
    Disconnect(Disconnect),
}

/// What pinhook sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing<'a> {
    /// The answer to CONNECT. A refusal for which 3.1.1 has no code is not written there: the connection is just
    /// closed (MQTT-3.2.2-6).
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(OutgoingPublish<'a>),
    /// A QoS 1 message of the client is accepted or, in version 5, refused.
    PubAck(Ack),
    /// A QoS 2 message of the client is accepted or, in version 5, refused.
    PubRec(Ack),
    /// We will not send our QoS 2 message again.
    PubRel(Ack),
    /// The client's QoS 2 message is finished.
    PubComp(Ack),
    /// One reason per filter of the SUBSCRIBE, in its order.
    SubAck {
        /// The id of the SUBSCRIBE.
        packet_id: NonZeroU16,
        /// Granted QoS or refusal; every refusal is 0x80 in 3.1.1.
        reasons: &'a [Reason],
    },
    /// One reason per filter of the UNSUBSCRIBE, in its order; 3.1.1 gets the id alone.
    UnsubAck {
        /// The id of the UNSUBSCRIBE.
        packet_id: NonZeroU16,
        /// What became of each filter.
        reasons: &'a [Reason],
    },
    /// The answer to PINGREQ.
    PingResp,
    /// Goodbye with a reason. A server says none in 3.1.1, so nothing is written there.
    Disconnect {
        /// Why the connection ends.
        reason: Reason,
        /// The same in words, for people.
        reason_string: Option<&'a str>,
    },
}

/// CONNECT: who comes, and how it wants to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// The protocol version of everything that follows.
    pub version: Version,
    /// As sent; may be empty.
    pub client_id: String,
    /// Whether an earlier session is to be forgotten (3.1.1: clean session).
    pub clean_start: bool,
    /// Seconds; 0 switches the keep alive off.
    pub keep_alive: u16,
    /// Seconds the session outlives the connection; `u32::MAX` is for ever; absent is 0. Always absent in 3.1.1, where
    /// `clean_start` decides.
    pub session_expiry: Option<u32>,
    /// How many QoS 1 and 2 messages may be on their way to the client; absent is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The largest packet the client takes, in bytes, header included; absent is any. The codec keeps to it.
    pub maximum_packet: Option<NonZeroU32>,
    /// The highest topic alias the client takes; 0 is none.
    pub topic_alias_maximum: u16,
    /// Whether acknowledgements may carry reason strings and user properties.
    pub request_problem_information: bool,
    /// Whether the CONNACK may carry response information.
    pub request_response_information: bool,
    /// The name of an extended authentication the client asks for.
    pub authentication_method: Option<String>,
    /// What to publish if the connection ends badly.
    pub will: Option<Will>,
    /// As sent; an empty name is not an absent one.
    pub username: Option<String>,
    /// As sent; an empty password is not an absent one.
    pub password: Option<Password>,
}

/// A password or token as a client sent it. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// The message that is published for a client which ends badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// UTF-8 without NUL; otherwise as sent.
    pub topic: String,
    /// A copy of its own: a will lives as long as the connection.
    pub payload: Bytes,
    /// As asked for.
    pub qos: Qos,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Seconds to wait for a reconnection before it is published.
    pub delay: u32,
    /// What goes with it.
    pub properties: Properties,
}

/// The properties of MQTT 5 that travel with a message from its publisher to its subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Whether the publisher says that the payload is UTF-8 text. It was not checked; saying no and saying nothing are
    /// kept apart, since it is to be handed on unaltered (MQTT-3.3.2-4).
    pub payload_is_text: Option<bool>,
    /// Seconds the message is worth delivering.
    pub message_expiry: Option<u32>,
    /// A content type, by convention a MIME type.
    pub content_type: Option<String>,
    /// Where an answer is expected.
    pub response_topic: Option<String>,
    /// What the answer should carry. A copy of its own.
    pub correlation_data: Option<Bytes>,
    /// Names and values, in order, handed on unaltered (MQTT-3.3.2-17).
    pub user: Vec<(String, String)>,
}

/// PUBLISH from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// As published.
    pub qos: Qos,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Present exactly when the QoS is above 0.
    pub packet_id: Option<NonZeroU16>,
    /// UTF-8 without NUL; otherwise as sent. Empty where only the alias was sent.
    pub topic: String,
    /// The number that stands for the topic, on this connection, in this direction.
    pub topic_alias: Option<NonZeroU16>,
    /// A slice of the read buffer: who keeps it copies it, else a short payload pins the whole buffer.
    pub payload: Bytes,
    /// What goes with it.
    pub properties: Properties,
}

/// PUBLISH to a client, borrowed from wherever the message is kept: a message goes to many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingPublish<'a> {
    /// Whether it was sent before; not written with QoS 0, which is never sent again.
    pub dup: bool,
    /// As subscribed, with the packet id it needs.
    pub qos: OutgoingQos,
    /// The retain flag.
    pub retain: bool,
    /// Empty where the alias alone is sent.
    pub topic: &'a str,
    /// The number that stands for the topic, on this connection, in this direction.
    pub topic_alias: Option<NonZeroU16>,
    /// The message.
    pub payload: &'a [u8],
    /// What goes with it; `message_expiry` is what remains of it.
    pub properties: &'a Properties,
    /// The identifiers of the subscriptions that matched, each 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
}

/// The QoS of a message to a client. A QoS above 0 cannot lack its packet id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutgoingQos {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1 under this id.
    AtLeastOnce(NonZeroU16),
    /// QoS 2 under this id.
    ExactlyOnce(NonZeroU16),
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The id of the PUBLISH it is about.
    pub packet_id: NonZeroU16,
    /// Success in 3.1.1, which has no reasons here.
    pub reason: Reason,
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// To be repeated in the SUBACK.
    pub packet_id: NonZeroU16,
    /// The subscription identifier, 1 to 268,435,455, to be repeated in every message that matches.
    pub id: Option<NonZeroU32>,
    /// At least one.
    pub filters: Vec<Filter>,
}

/// One filter of a SUBSCRIBE and how it is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// UTF-8 without NUL; otherwise as sent.
    pub filter: String,
    /// The highest QoS wanted.
    pub qos: Qos,
    /// Whether the client's own messages are left out. False in 3.1.1.
    pub no_local: bool,
    /// Whether the retain flag is handed on as it was published. False in 3.1.1.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// When a subscription brings the retained messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// At every SUBSCRIBE, as in 3.1.1.
    #[default]
    EverySubscribe,
    /// Only if the subscription is new.
    NewSubscription,
    /// Never.
    Never,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// To be repeated in the UNSUBACK.
    pub packet_id: NonZeroU16,
    /// At least one.
    pub filters: Vec<String>,
}

/// DISCONNECT from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// Any code but `SUCCESS` lets the will be published, so no code is refused. Always `SUCCESS` in 3.1.1.
    pub reason: Reason,
    /// A new value for what CONNECT said.
    pub session_expiry: Option<u32>,
}

/// CONNACK. The properties are written in version 5 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether an earlier session goes on; written only with `SUCCESS` (MQTT-3.2.2-6).
    pub session_present: bool,
    /// Accepted or why not.
    pub reason: Reason,
    /// Seconds, where it differs from what the client asked for.
    pub session_expiry: Option<u32>,
    /// How many QoS 1 and 2 messages we take at once; absent is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The largest packet we take, in bytes, header included.
    pub maximum_packet: Option<NonZeroU32>,
    /// The id given to a client that sent an empty one.
    pub assigned_client_id: Option<&'a str>,
    /// The highest topic alias we take; 0 is none.
    pub topic_alias_maximum: u16,
    /// Why, in words, for people. Left out where the client's maximum packet size has no room for it.
    pub reason_string: Option<&'a str>,
    /// The keep alive the client must use instead of its own, in seconds.
    pub server_keep_alive: Option<u16>,
}

impl ConnAck<'_> {
    /// A CONNACK with this reason and nothing to say besides: no limits; what it does not name is available.
    pub fn new(reason: Reason) -> Self {
        ConnAck {
            session_present: false,
            reason,
            session_expiry: None,
            receive_maximum: None,
            maximum_packet: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            reason_string: None,
            server_keep_alive: None,
        }
    }
}
