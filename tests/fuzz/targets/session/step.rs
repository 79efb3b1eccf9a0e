//! What a client does next, read from the input.

/// How many clients there are.
pub const CLIENTS: usize = 4;

/// Packet ids in use: few, so that they meet.
const IDS: u8 = 8;

/// What a client does.
#[derive(Debug, Clone)]
pub enum Step {
    /// It connects, anew if it was connected.
    Connect {
        is_v5: bool,
        is_clean: bool,
        /// MQTT 5: seconds, of which some are never over here.
        expiry: Option<u32>,
        receive_maximum: Option<u16>,
        alias_maximum: Option<u16>,
        maximum_packet: Option<u32>,
        /// QoS and whether it is retained.
        will: Option<(u8, bool)>,
    },
    /// It publishes something new.
    Publish {
        topic: usize,
        qos: u8,
        retain: bool,
        id: u16,
        /// MQTT 5: none, a new one, or the alias alone.
        alias: Option<(u16, bool)>,
        /// MQTT 5, in seconds.
        expiry: Option<u32>,
        padding: usize,
    },
    /// It publishes again what has not been released.
    Repeat {
        id: u16,
    },
    /// It answers what it got, as it should.
    Answer {
        count: usize,
    },
    /// It sends an acknowledgement, wanted or not: the type of the packet.
    Acknowledge {
        kind: u8,
        id: u16,
        reason: Option<u8>,
    },
    Subscribe {
        filters: Vec<(usize, u8)>,
        id: Option<u8>,
    },
    Unsubscribe {
        filter: usize,
    },
    Ping,
    Disconnect {
        reason: u8,
        expiry: Option<u32>,
    },
    /// It hangs up.
    BreakOff,
    /// It stops to read, or reads on.
    Read {
        is_on: bool,
    },
    /// It sends bytes that may be anything.
    Bytes(Vec<u8>),
}

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

    fn id(&mut self) -> u16 {
        u16::from(self.byte() % IDS) + 1
    }

    /// Every other number is `None`.
    fn choice<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let byte = self.byte();
        (byte & 1 == 1).then(|| of[usize::from(byte >> 1) % of.len()])
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
            0 | 1 => {
                let flags = self.byte();
                Step::Connect {
                    is_v5: flags & 1 == 1,
                    is_clean: flags & 2 == 2,
                    will: (flags & 4 == 4).then_some(((flags >> 3 & 3).min(2), flags & 32 == 32)),
                    expiry: self.choice(&[0, 1000, u32::MAX]),
                    receive_maximum: self.choice(&[1, 2, 5, u16::MAX]),
                    alias_maximum: self.choice(&[1, 2, u16::MAX]),
                    maximum_packet: self.choice(&[64, 200, u32::MAX]),
                }
            }
            2..=4 => {
                let flags = self.byte();
                Step::Publish {
                    qos: (flags & 3).min(2),
                    retain: flags & 4 == 4,
                    topic: usize::from(flags >> 3),
                    id: self.id(),
                    alias: self.choice(&[
                        (1, true),
                        (1, false),
                        (2, true),
                        (2, false),
                        (50, true),
                        (51, true),
                    ]),
                    expiry: self.choice(&[0, 1000]),
                    padding: self.choice(&[100, 1000, 6000]).unwrap_or(0),
                }
            }
            5 => Step::Repeat { id: self.id() },
            6 | 7 => Step::Answer {
                count: usize::from(self.byte()),
            },
            8 => Step::Acknowledge {
                kind: 4 + self.byte() % 4,
                id: self.id(),
                reason: self.choice(&[0, 0x10, 0x80, 0x92]),
            },
            9 | 10 => {
                let count = self.byte() % 4 + 1;
                let mut filter = || (usize::from(self.byte()), self.byte());
                Step::Subscribe {
                    filters: (0..count).map(|_| filter()).collect(),
                    id: self.choice(&[1, 2, 127]),
                }
            }
            11 => Step::Unsubscribe {
                filter: usize::from(self.byte()),
            },
            12 => Step::Ping,
            13 => match self.byte() {
                0..64 => Step::BreakOff,
                reason => Step::Disconnect {
                    reason: if reason < 128 { 0 } else { reason },
                    expiry: self.choice(&[0, 1000, u32::MAX]),
                },
            },
            14 => Step::Read {
                is_on: self.byte() & 1 == 1,
            },
            _ => {
                let length = usize::from(self.byte()).min(self.0.len());
                let (bytes, rest) = self.0.split_at(length);
                self.0 = rest;
                Step::Bytes(bytes.to_vec())
            }
        };
        Some((usize::from(first & 3), step))
    }
}
