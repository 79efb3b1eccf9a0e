//! The frames of the Blynk protocol: bytes <-> [`Frame`] (blynk.md §1.1). Pure; any
//! bytes are frames, so nothing here can fail but a body that is too long.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Bytes of a header.
pub const HEADER: usize = 5;

/// Longest body, in bytes: its length has two bytes.
pub const MAX_BODY: usize = u16::MAX as usize;

/// What the first byte of a frame says (blynk.md §1.2 and §1.3).
pub mod code {
    /// An answer: a status and no body.
    pub const RESPONSE: u8 = 0;
    /// A login, as older libraries say it.
    pub const LOGIN: u8 = 2;
    /// Are you there?
    pub const PING: u8 = 6;
    /// A text for Twitter.
    pub const TWEET: u8 = 12;
    /// An e-mail.
    pub const EMAIL: u8 = 13;
    /// A text for the owner's phone.
    pub const NOTIFY: u8 = 14;
    /// A write to another device.
    pub const BRIDGE: u8 = 15;
    /// A request for the values of pins.
    pub const SYNC: u8 = 16;
    /// What the sketch says of itself, and the time.
    pub const INTERNAL: u8 = 17;
    /// A short message.
    pub const SMS: u8 = 18;
    /// A property of a pin.
    pub const PROPERTY: u8 = 19;
    /// A write to a pin, in either direction.
    pub const HARDWARE: u8 = 20;
    /// A login.
    pub const HARDWARE_LOGIN: u8 = 29;
    /// Something happened.
    pub const EVENT_LOG: u8 = 64;
    /// From here on there are no commands: who sends one has lost its place in the
    /// stream.
    pub const FIRST_INVALID: u8 = 100;
}

/// The word for a kind of frame that can be wrong, by its code.
pub fn kind_of(code: u8) -> &'static str {
    match code {
        code::HARDWARE => "write",
        code::SYNC => "sync",
        code::INTERNAL => "internal",
        code::PROPERTY => "property",
        code::BRIDGE => "bridge",
        _ => "frame",
    }
}

/// The id of a frame that brings a write by the app side (blynk.md §1.3).
pub const APP: u16 = 111;

/// The id of a frame that brings a webhook's response.
pub const RESPONSE: u16 = 888;

/// How a command ended, in the answer to it (blynk.md §1.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Ok = 200,
    /// Too many came.
    QuotaLimit = 1,
    /// It was not understood.
    IllegalCommand = 2,
    /// Somebody is logged in on this connection.
    AlreadyRegistered = 4,
    /// There is nothing that could do it, or the device may not.
    NotAllowed = 6,
    /// The other device is not connected.
    DeviceNotInNetwork = 7,
    /// There is no device with this token.
    InvalidToken = 9,
    /// It was understood, and its body cannot be.
    IllegalBody = 11,
    /// The text of a notification is empty or too long.
    InvalidText = 13,
    /// Nobody is configured to take the notification.
    NotAuthorized = 14,
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An answer. Its status stands where other frames have a length.
    Response {
        /// That of the frame it answers.
        id: u16,
        /// How that ended.
        status: u16,
    },
    /// Anything else.
    Command {
        /// Of [`code`], or unknown.
        code: u8,
        /// Chosen by the sender.
        id: u16,
        /// Text whose fields are separated by NUL.
        body: &'a [u8],
    },
}

impl<'a> Frame<'a> {
    /// The first frame in `bytes`, and how many of them it takes. `None`: more must
    /// come.
    pub fn decode(bytes: &'a [u8]) -> Option<(Frame<'a>, usize)> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let [code, id_high, id_low, high, low] = *header;
        let id = u16::from_be_bytes([id_high, id_low]);
        let number = u16::from_be_bytes([high, low]);
        if code == code::RESPONSE {
            let status = number;
            return Some((Frame::Response { id, status }, HEADER));
        }
        let length = usize::from(number);
        let body = rest.get(..length)?;
        Some((Frame::Command { code, id, body }, HEADER + length))
    }

    /// The frame as bytes. `None`: its body is longer than [`MAX_BODY`].
    pub fn encode(&self) -> Option<Bytes> {
        let (code, id, number, body) = match *self {
            Frame::Response { id, status } => (code::RESPONSE, id, status, &[][..]),
            Frame::Command { code, id, body } => (code, id, u16::try_from(body.len()).ok()?, body),
        };
        let mut bytes = BytesMut::with_capacity(HEADER + body.len());
        bytes.put_u8(code);
        bytes.put_u16(id);
        bytes.put_u16(number);
        bytes.put_slice(body);
        Some(bytes.freeze())
    }
}

/// The answer to the frame with `id`.
///
/// Clients take a frame with id 0 for a broken stream, and one of them asks with it
/// (blynk.md §6.3): it is answered with 1.
pub fn response(id: u16, status: Status) -> Bytes {
    let frame = Frame::Response {
        id: id.max(1),
        status: status as u16,
    };
    frame.encode().expect("an answer has no body")
}

/// A command with this text. `None`: it is longer than [`MAX_BODY`].
pub fn command(code: u8, id: u16, body: &str) -> Option<Bytes> {
    let frame = Frame::Command {
        code,
        id: id.max(1),
        body: body.as_bytes(),
    };
    frame.encode()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_read_as_the_specification_writes_them() {
        let login = b"\x1d\x00\x01\x00\x03abc";
        let read = Frame::Command {
            code: code::HARDWARE_LOGIN,
            id: 1,
            body: b"abc",
        };
        assert_eq!(Frame::decode(login), Some((read, 8)));
        // The status of an answer is no length.
        let read = Frame::Response { id: 9, status: 200 };
        assert_eq!(Frame::decode(b"\0\0\x09\0\xC8rest"), Some((read, 5)));
        assert_eq!(&response(9, Status::Ok)[..], b"\0\0\x09\0\xC8");
        assert_eq!(&response(0, Status::InvalidToken)[..], b"\0\0\x01\0\x09");
        let write = command(code::HARDWARE, 888, "vw\x001\0x").unwrap();
        assert_eq!(&write[..], b"\x14\x03\x78\0\x06vw\x001\0x");
    }

    #[test]
    fn a_body_that_is_too_long_has_no_frame() {
        assert!(command(code::HARDWARE, 1, &"x".repeat(MAX_BODY)).is_some());
        assert!(command(code::HARDWARE, 1, &"x".repeat(MAX_BODY + 1)).is_none());
    }

    proptest! {
        #[test]
        fn a_frame_reads_what_it_wrote_and_needs_every_byte(
            code: u8, id: u16, status: u16, body in proptest::collection::vec(any::<u8>(), 0..300),
            behind in proptest::collection::vec(any::<u8>(), 0..10),
        ) {
            let frame = match code {
                code::RESPONSE => Frame::Response { id, status },
                code => Frame::Command { code, id, body: &body },
            };
            let mut bytes = frame.encode().unwrap().to_vec();
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(Frame::decode(&bytes[..cut]), None);
            }
            bytes.extend(behind);
            prop_assert_eq!(Frame::decode(&bytes), Some((frame, length)));
        }

        #[test]
        fn any_bytes_are_frames_and_no_byte_is_lost(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (mut rest, mut again) = (&bytes[..], Vec::new());
            while let Some((frame, length)) = Frame::decode(rest) {
                prop_assert!(length >= HEADER);
                again.extend_from_slice(&frame.encode().unwrap());
                rest = &rest[length..];
            }
            again.extend_from_slice(rest);
            prop_assert_eq!(again, bytes);
        }
    }
}
