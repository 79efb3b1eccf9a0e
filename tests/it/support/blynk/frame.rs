//! Frames of the Blynk protocol as bytes (blynk.md §1.1).

use std::fmt::Write as _;

use command::RESPONSE;

/// Commands (blynk.md §1.2).
pub mod command {
    pub const RESPONSE: u8 = 0;
    pub const PING: u8 = 6;
    pub const TWEET: u8 = 12;
    pub const EMAIL: u8 = 13;
    pub const NOTIFY: u8 = 14;
    pub const BRIDGE: u8 = 15;
    pub const SYNC: u8 = 16;
    pub const INTERNAL: u8 = 17;
    pub const SMS: u8 = 18;
    pub const PROPERTY: u8 = 19;
    pub const HARDWARE: u8 = 20;
    pub const LOGIN: u8 = 29;
    pub const EVENT_LOG: u8 = 64;
}

/// The bytes of a frame; `·` in its body is a NUL.
pub fn frame(command: u8, id: u16, body: &str) -> Vec<u8> {
    frame_of(command, id, body.replace('·', "\0").as_bytes())
}

/// The bytes of a frame with any body.
pub fn frame_of(command: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a body that a frame can hold");
    let (id, length) = (id.to_be_bytes(), length.to_be_bytes());
    [&[command], &id[..], &length, body].concat()
}

/// The bytes of a RESPONSE.
pub fn response(id: u16, status: u16) -> Vec<u8> {
    [&[RESPONSE], &id.to_be_bytes()[..], &status.to_be_bytes()].concat()
}

/// The bytes that `text` says in hexadecimal digits; blanks are passed over.
pub fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .collect();
    let digit = |digit: &char| {
        digit
            .to_digit(16)
            .unwrap_or_else(|| panic!("no hex: {text}"))
    };
    let byte = |pair: &[char]| (digit(&pair[0]) * 16 + digit(&pair[1])) as u8;
    assert!(digits.len().is_multiple_of(2), "half a byte: {text}");
    digits.chunks(2).map(byte).collect()
}

/// `bytes` in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a text grows");
    }
    text
}

/// A frame as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub command: u8,
    pub id: u16,
    /// Of a RESPONSE; else 0.
    pub status: u16,
    /// With `·` for each NUL.
    pub body: String,
}

impl Frame {
    /// The frame that these bytes are.
    pub fn parse(bytes: &[u8]) -> Frame {
        let (id, number) = (two(&bytes[1..]), two(&bytes[3..]));
        Frame {
            command: bytes[0],
            id,
            status: if bytes[0] == RESPONSE { number } else { 0 },
            body: String::from_utf8_lossy(&bytes[5..]).replace('\0', "·"),
        }
    }

    /// A RESPONSE.
    pub fn response(id: u16, status: u16) -> Frame {
        Frame {
            command: RESPONSE,
            id,
            status,
            body: String::new(),
        }
    }
}

fn two(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// How many bytes the frame has that begins here, where that is known already.
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..5)?;
    match header[0] {
        RESPONSE => Some(5),
        _ => Some(5 + usize::from(two(&header[3..]))),
    }
}
