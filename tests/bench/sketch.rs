//! The frames that a Blynk sketch sends and hears, as bytes: a command, an id, the length of what follows, and texts with
//! NUL between them.
//!
//! Made by hand, as the packets of `client.rs` are.

/// Frames a second that the daemon takes from one sketch; what is above is dropped, and no configuration changes it
/// (product.md §6).
pub const QUOTA: usize = 100;

/// What a sketch that writes says of how often it lets itself be heard, seconds: what sketches come with.
pub const HEARTBEAT: u16 = 10;

/// What a sketch announces of its buffer, bytes.
const BUFFER: u16 = 1024;

/// The answer to [`login`]: status 200.
pub const LOGGED_IN: [u8; HEADER] = [0, 0, 1, 0, 200];

/// The answer to [`info`]: status 200.
pub const INTRODUCED: [u8; HEADER] = [0, 0, 2, 0, 200];

const HEADER: usize = 5;
const RESPONSE: u8 = 0;
const INTERNAL: u8 = 17;
const HARDWARE: u8 = 20;
const LOGIN: u8 = 29;

/// The id of frames that bring a webhook's response.
const OF_WEBHOOK: u16 = 888;

/// What a library says first.
pub fn login(token: &str) -> Vec<u8> {
    framed(LOGIN, 1, token.as_bytes())
}

/// What a library says of itself next, with a heartbeat in seconds. A board that is not `python`: those are sent a frame
/// every 20 ms at most.
pub fn info(heartbeat: u16) -> Vec<u8> {
    let body = format!("ver\x000.6.1\0h-beat\0{heartbeat}\0buff-in\0{BUFFER}\0dev\0ESP32\0");
    framed(INTERNAL, 2, body.as_bytes())
}

/// A write of `value`, which is what the frame ends with, to the pin that triggers.
pub fn write(value: &[u8]) -> Vec<u8> {
    framed(HARDWARE, 3, &[b"vw\x001\0", value].concat())
}

/// How long the frame is that `buffer` begins with, if it is there in full.
pub fn length(buffer: &[u8]) -> Option<usize> {
    let &[code, _, _, high, low] = buffer.first_chunk::<HEADER>()?;
    let body = match code {
        // Its status stands there.
        RESPONSE => 0,
        _ => usize::from(u16::from_be_bytes([high, low])),
    };
    (buffer.len() >= HEADER + body).then_some(HEADER + body)
}

/// The value that a frame writes to the pin, if it is the response of a webhook.
pub fn response(frame: &[u8]) -> Option<&[u8]> {
    let (&[code, high, low, ..], body) = frame.split_first_chunk::<HEADER>()?;
    let is_response = code == HARDWARE && u16::from_be_bytes([high, low]) == OF_WEBHOOK;
    body.strip_prefix(b"vw\x001\0").filter(|_| is_response)
}

/// Whether a frame says that too many came.
pub fn is_too_many(frame: &[u8]) -> bool {
    matches!(frame, [RESPONSE, _, _, 0, 1])
}

fn framed(code: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![code];
    frame.extend(id.to_be_bytes());
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend(body);
    frame
}
