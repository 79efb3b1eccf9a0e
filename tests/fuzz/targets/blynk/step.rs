//! What an input says: steps of sketches, of the app side, of the owner and of time.

use super::wire::frame;

/// Sketches that may be connected at a time.
pub const SKETCHES: usize = 4;

/// A step.
#[derive(Debug)]
pub enum Step {
    /// A sketch connects, with so much room in the stream; what is written may be kept back
    /// until it is flushed.
    Connect { room: usize, buffer: usize },
    /// It sends these bytes, behind those that it has kept back; so many of them it keeps back.
    Send { bytes: Vec<u8>, kept: usize },
    /// It hangs up.
    HangUp,
    /// It stops to read, or reads on.
    Read { is_on: bool },
    /// The app side writes a value of this length.
    App {
        device: usize,
        pin: u8,
        length: usize,
    },
    /// The owner saves another configuration.
    Reload { to: usize },
    /// Milliseconds pass.
    Pass(u64),
    /// The daemon stops.
    Goodbye,
}

/// Tokens, not all of them known in every configuration.
pub const TOKENS: [&str; 5] = [
    "token-of-the-porch",
    "token-of-the-shed",
    "new-token-of-the-porch",
    "token-of-nobody",
    "",
];

/// Around the limits: a frame of 255 bytes at first, of 64 and 100 in one configuration, of what
/// a sketch says, and a value of 1024.
const LENGTHS: [usize; 20] = [
    0, 1, 2, 3, 5, 20, 50, 54, 55, 56, 90, 91, 92, 243, 244, 245, 246, 1023, 1024, 1025,
];

const PINS: [&str; 12] = [
    "0", "1", "5", "10", "255", "+7", "007", "256", "", "-1", " 1", "x",
];

const KINDS: [&str; 8] = ["v", "v", "v", "d", "a", "V", "D", "x"];

const PROPERTIES: [&str; 8] = ["label", "color", "labels", "min", "max", "Label", "", "url"];

const BUFFERS: [&str; 12] = [
    "1",
    "12",
    "20",
    "64",
    "255",
    "256",
    "1024",
    "70000",
    "0",
    "-1",
    "x",
    "99999999999999999999",
];

const HEARTBEATS: [&str; 8] = ["1", "2", "10", "40", "99999999", "0", "x", "4294967296"];

const TIMES: [u64; 16] = [
    1, 5, 19, 20, 21, 500, 999, 1000, 1001, 2000, 3000, 5000, 10_000, 22_999, 23_001, 61_000,
];

/// The steps of an input, and who takes each.
pub struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    pub fn new(input: &[u8]) -> Steps<'_> {
        Steps(input)
    }

    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn id(&mut self) -> u16 {
        match self.byte() {
            254 => 111,
            255 => u16::from_be_bytes([self.byte(), self.byte()]),
            byte => [0, 1, 2, 3, 4, 5, 888, u16::MAX][usize::from(byte % 8)],
        }
    }

    fn raw(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes.to_vec()
    }

    /// A value of some length: of one text or two, of characters of one byte or more, or of bytes
    /// that are no text.
    fn value(&mut self) -> Vec<u8> {
        let byte = self.byte();
        let length = LENGTHS[usize::from(byte) % LENGTHS.len()];
        let unit: &[u8] = match self.byte() % 8 {
            0 => b"a\0",
            1 => "é".as_bytes(),
            2 => b"\xFF",
            3 => b"7",
            _ => b"x",
        };
        let mut value = unit.repeat(length.div_ceil(unit.len()));
        value.extend(byte.to_string().bytes().take(usize::from(length > 3)));
        value
    }

    fn write(&mut self) -> Vec<u8> {
        let kind = self.one(&KINDS);
        let pin = self.one(&PINS);
        let head = format!("{kind}w\0{pin}\0");
        [head.into_bytes(), self.value()].concat()
    }

    fn info(&mut self) -> Vec<u8> {
        let flags = self.byte();
        let mut fields = Vec::new();
        if flags & 1 == 1 {
            fields.extend(["ver", "1.0"]);
        }
        if flags & 2 == 2 {
            fields.extend(["buff-in", self.one(&BUFFERS)]);
        }
        if flags & 4 == 4 {
            fields.extend(["h-beat", self.one(&HEARTBEATS)]);
        }
        if flags & 8 == 8 {
            fields.extend(["dev", if flags & 16 == 16 { "python" } else { "Linux" }]);
        }
        if flags & 32 == 32 {
            fields.insert(0, "mcu");
            fields.insert(1, "0");
        }
        match flags >> 6 {
            0 => fields.push(""),
            1 => fields.extend(["rtc"; 2]),
            _ => {}
        }
        fields.join("\0").into_bytes()
    }

    /// A frame that makes sense, more or less.
    fn frame(&mut self, kind: u8) -> Vec<u8> {
        let id = self.id();
        let (code, body) = match kind {
            1 => {
                let token = self.one(&TOKENS);
                let flags = self.byte();
                let blanks = if flags & 6 == 6 { " \n" } else { "" };
                let code = if flags & 1 == 1 { 2 } else { 29 };
                (code, format!("{blanks}{token}{blanks}").into_bytes())
            }
            2 | 3 => (20, self.write()),
            4 => {
                let (kind, count) = (self.one(&KINDS), self.byte() % 8);
                match count {
                    0 => (16, Vec::new()),
                    count => {
                        let pins = (1..count).map(|_| self.one(&PINS));
                        let mut fields = vec![format!("{kind}r")];
                        fields.extend(pins.map(str::to_owned));
                        (16, fields.join("\0").into_bytes())
                    }
                }
            }
            5 => (17, self.info()),
            6 => {
                let (pin, name) = (self.one(&PINS), self.one(&PROPERTIES));
                let head = format!("{pin}\0{name}\0");
                (19, [head.into_bytes(), self.value()].concat())
            }
            7 => {
                let (number, token) = (self.byte() % 3, self.one(&TOKENS));
                (15, format!("{number}\0i\0{token}").into_bytes())
            }
            8 => {
                let head = format!("{}\0", self.byte() % 3);
                let mut body = [head.into_bytes(), self.write()].concat();
                // Longer than any value may be.
                if self.byte() % 16 == 0 {
                    body.resize(usize::from(u16::MAX) - 10, b'x');
                }
                (15, body)
            }
            9 => (6, Vec::new()),
            15 => match self.byte() % 6 {
                0 => (64, b"ALARM\0text".to_vec()),
                1 => (64, [b"ALARM\0", &self.value()[..]].concat()),
                2 => (13, [b"subject\0", &self.value()[..]].concat()),
                3 => (13, self.value()),
                4 => (self.one(&[12, 14, 18]), self.value()),
                _ => (17, b"rtc".to_vec()),
            },
            _ => (self.byte(), self.raw()),
        };
        frame(code, id, &body)
    }
}

impl Iterator for Steps<'_> {
    type Item = (usize, Step);

    fn next(&mut self) -> Option<(usize, Step)> {
        if self.0.is_empty() {
            return None;
        }
        let first = self.byte();
        let step = match first >> 2 & 0x0F {
            0 => Step::Connect {
                room: self.one(&[2048, 16, 300]),
                buffer: self.one(&[0, 0, 64, 4096]),
            },
            12 => Step::App {
                device: usize::from(self.byte() % 2),
                pin: self.one(&[1, 5, 10, 255]),
                length: self.one(&LENGTHS),
            },
            13 => Step::Pass(self.one(&TIMES)),
            14 => match self.byte() {
                byte @ 0..128 => Step::Read {
                    is_on: byte & 1 == 1,
                },
                byte @ 128..200 => Step::Reload {
                    to: usize::from(byte),
                },
                200..240 => Step::HangUp,
                _ => Step::Goodbye,
            },
            kind => {
                let mut bytes = match kind {
                    11 => self.raw(),
                    _ => self.frame(kind),
                };
                let is_many = first & 0x80 == 0x80;
                if is_many {
                    bytes = bytes.repeat(usize::from(self.byte()).min(40_000 / bytes.len().max(1)));
                }
                let is_cut = first & 0x40 == 0x40;
                let kept = if is_cut { usize::from(self.byte()) } else { 0 };
                let kept = kept.min(bytes.len());
                Step::Send { bytes, kept }
            }
        };
        Some((usize::from(first & 3), step))
    }
}
