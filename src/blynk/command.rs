//! What a frame of a sketch means: text <-> [`Command`] (blynk.md §1.2, §1.5 to §1.8,
//! §1.11). Pure; who may do what, and what becomes of it, is the session's.

use std::num::{NonZeroU32, NonZeroUsize};

use super::frame::{Status, code};
use crate::model::pin::PinKind;
use crate::model::{Pin, PinValue, Property, PropertyName};

/// What a sketch wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<'a> {
    /// To log in with this token.
    Login(&'a str),
    /// To hear that pinhook is there.
    Ping,
    /// To put a value to one of its pins.
    Write(Pin, PinValue),
    /// To hear the values of its pins.
    Sync(Asked),
    /// To say what it is.
    Info(Info<'a>),
    /// To hear the time.
    Clock,
    /// To set a property of a pin.
    Property(Property),
    /// To tell the owner something.
    Notify(Notice, &'a str),
    /// To say that something happened: a code, and a text that may be empty.
    Event(&'a str, &'a str),
    /// To reach the device with this token under a number.
    BridgeTo(u8, &'a str),
    /// To send the device with this number what stands in a frame of its own.
    Bridge(u8, &'a str),
    /// Nothing that pinhook does anything about; there is no answer to it either.
    Nothing,
}

/// The values that a sketch asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Those of all pins.
    All,
    /// Those of these pins. What follows a text that is no pin does not count, nor what is
    /// more than there can be; then it is cut.
    Pins {
        /// In the order in which they are wanted.
        pins: Vec<Pin>,
        /// Whether there was more.
        is_cut: bool,
    },
}

/// What a sketch says of itself; nothing stands for what it did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info<'a> {
    /// The version of its library.
    pub library: Option<&'a str>,
    /// The board it runs on.
    pub board: Option<&'a str>,
    /// How often it lets itself be heard, in seconds.
    pub heartbeat: Option<NonZeroU32>,
    /// The largest frame it takes, in bytes.
    pub buffer: Option<NonZeroUsize>,
}

/// A kind of notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// An e-mail: subject and text, and to whom.
    Email,
    /// A text for the owner's phone.
    Push,
    /// A text for Twitter.
    Tweet,
    /// A short message.
    Sms,
}

impl Notice {
    /// The code of the event that it is (product.md §6).
    pub fn event(self) -> &'static str {
        match self {
            Notice::Email => "email",
            Notice::Push => "notify",
            Notice::Tweet => "tweet",
            Notice::Sms => "sms",
        }
    }

    /// The answer where no webhook listens to it (blynk.md §1.11).
    pub fn without_webhook(self) -> Status {
        match self {
            Notice::Email => Status::NotAllowed,
            _ => Status::NotAuthorized,
        }
    }

    /// The answer to a body that it cannot have, and what is wrong with that.
    ///
    /// # Errors
    ///
    /// An e-mail has two fields or more; the texts are not empty, and have at most as
    /// many characters as a phone showed (blynk.md §1.11).
    pub fn check(self, body: &str) -> Result<(), Fault> {
        let most = match self {
            Notice::Email if body.split('\0').count() < 2 => {
                let why = "an e-mail without subject or without text";
                return Err(Fault::illegal(why));
            }
            Notice::Email => return Ok(()),
            Notice::Push => 255,
            Notice::Tweet => 140,
            Notice::Sms => 160,
        };
        match body.chars().take(most + 1).count() {
            1.. if body.chars().nth(most).is_none() => Ok(()),
            _ => Err(Fault {
                status: Status::InvalidText,
                why: format!("a text that is empty or longer than {most} characters"),
            }),
        }
    }
}

/// Why a frame is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The answer to it.
    pub status: Status,
    /// What was found, for people; without what may be a secret.
    pub why: String,
}

impl Fault {
    fn illegal(why: impl Into<String>) -> Fault {
        Fault {
            status: Status::IllegalCommand,
            why: why.into(),
        }
    }
}

impl<'a> Command<'a> {
    /// What the frame with this code and text means.
    ///
    /// # Errors
    ///
    /// When it has to be answered with an error.
    pub fn read(code: u8, body: &'a str) -> Result<Command<'a>, Fault> {
        Ok(match code {
            code::LOGIN | code::HARDWARE_LOGIN => {
                // Java's `trim`, and so what old tokens were copied with.
                Command::Login(body.trim_matches(|c: char| c <= ' '))
            }
            code::PING => Command::Ping,
            code::HARDWARE => write(body)?,
            code::SYNC => sync(body)?,
            code::INTERNAL => internal(body)?,
            code::PROPERTY => property(body)?,
            code::EMAIL => Command::Notify(Notice::Email, body),
            code::NOTIFY => Command::Notify(Notice::Push, body),
            code::TWEET => Command::Notify(Notice::Tweet, body),
            code::SMS => Command::Notify(Notice::Sms, body),
            code::EVENT_LOG => {
                let (code, text) = body.split_once('\0').unwrap_or((body, ""));
                Command::Event(code, text)
            }
            code::BRIDGE => bridge(body)?,
            _ => Command::Nothing,
        })
    }
}

/// A write to a pin (blynk.md §1.5, in the order of its steps).
fn write(body: &str) -> Result<Command<'_>, Fault> {
    if body.chars().nth(3).is_none() {
        return Err(Fault::illegal("a write without a pin or a value"));
    }
    let mut letters = body.chars();
    let (kind, operation) = (letters.next(), letters.next());
    if operation != Some('w') {
        return Ok(Command::Nothing);
    }
    let mut parts = body.splitn(3, '\0').skip(1);
    let (pin, value) = (parts.next(), parts.next().unwrap_or_default());
    let Some(pin) = pin.filter(|_| !value.is_empty()) else {
        return Err(Fault::illegal("a write without a value"));
    };
    let kind = kind.and_then(pin_kind);
    let kind = kind.ok_or_else(|| Fault::illegal("a write to a pin that is none of v, d, a"))?;
    Ok(Command::Write(numbered(kind, pin)?, value.into()))
}

/// Pins that one request may name: as many as there are of a kind.
const MOST_PINS: usize = 256;

/// A request for values (blynk.md §1.7).
fn sync(body: &str) -> Result<Command<'_>, Fault> {
    let body = body.trim_end_matches('\0');
    if body.is_empty() {
        return Ok(Command::Sync(Asked::All));
    }
    let mut fields = body.split('\0');
    let mut letters = fields.next().unwrap_or_default().chars();
    let (kind, operation) = (letters.next(), letters.next());
    let kind = kind.and_then(pin_kind);
    let kind = kind.ok_or_else(|| Fault::illegal("a sync of pins that are none of v, d, a"))?;
    let mut fields = fields.peekable();
    if fields.peek().is_none() {
        return Err(Fault::illegal("a sync without pins"));
    }
    if operation != Some('r') {
        return Ok(Command::Nothing);
    }
    let (mut pins, mut is_cut) = (Vec::new(), false);
    for field in fields {
        match numbered(kind, field) {
            Ok(pin) if pins.len() < MOST_PINS => pins.push(pin),
            _ => {
                is_cut = true;
                break;
            }
        }
    }
    Ok(Command::Sync(Asked::Pins { pins, is_cut }))
}

/// Keys of which one at least is in each frame of a library about itself. Others,
/// `dbg` and `vfs` among them, are something else (blynk.md §1.6).
const INFO_KEYS: [&str; 14] = [
    "ver", "blynk", "mcu", "ncp", "fw", "fw-type", "h-beat", "buff-in", "dev", "cpu", "con",
    "conn", "build", "tmpl",
];

/// What a library says of itself, or a request for the time.
fn internal(body: &str) -> Result<Command<'_>, Fault> {
    let mut fields = body.split('\0');
    let first = fields.clone().next().unwrap_or_default();
    if first.is_empty() {
        return Err(Fault::illegal("an internal command without a name"));
    }
    if first == "rtc" {
        return Ok(Command::Clock);
    }
    let (mut info, mut is_info) = (Info::default(), false);
    while let (Some(key), value) = (fields.next(), fields.next()) {
        is_info |= INFO_KEYS.contains(&key);
        let Some(value) = value else { break };
        match key {
            "ver" | "blynk" => info.library = Some(value),
            "dev" => info.board = Some(value),
            "h-beat" => info.heartbeat = value.parse().ok(),
            "buff-in" => info.buffer = value.parse().ok(),
            _ => {}
        }
    }
    Ok(match is_info {
        true => Command::Info(info),
        false => Command::Nothing,
    })
}

/// A property of a virtual pin (blynk.md §1.11, in the order of its checks).
fn property(body: &str) -> Result<Command<'_>, Fault> {
    let mut parts = body.splitn(3, '\0');
    let (pin, name, value) = (parts.next(), parts.next(), parts.next());
    let is_there = |part: &&str| !part.is_empty();
    let (Some(pin), Some(name), Some(value)) = (pin, name.filter(is_there), value.filter(is_there))
    else {
        return Err(Fault {
            status: Status::IllegalBody,
            why: "a property without pin, name or value".to_owned(),
        });
    };
    // Before the pin, in which a mistake has another answer.
    if let Err(error) = name.parse::<PropertyName>() {
        return Err(Fault {
            status: Status::IllegalBody,
            why: error.to_string(),
        });
    }
    let pin = numbered(PinKind::Virtual, pin)?;
    let property = Property::new(pin, name, value.into());
    let property = property.map_err(|error| Fault::illegal(error.to_string()))?;
    Ok(Command::Property(property))
}

/// The other end of a bridge, or a write over it (blynk.md §1.8).
fn bridge(body: &str) -> Result<Command<'_>, Fault> {
    let mut parts = body.splitn(3, '\0');
    let (Some(number), Some(operation), Some(rest)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::illegal(
            "a bridge frame with fewer than three fields",
        ));
    };
    let Ok(bridge) = number.parse() else {
        let why = "a bridge whose number is not from 0 to 255";
        return Err(Fault::illegal(why));
    };
    Ok(match operation.starts_with('i') {
        true => Command::BridgeTo(bridge, rest),
        false => Command::Bridge(bridge, &body[number.len() + 1..]),
    })
}

fn pin_kind(letter: char) -> Option<PinKind> {
    match letter {
        'v' | 'V' => Some(PinKind::Virtual),
        'd' | 'D' => Some(PinKind::Digital),
        'a' | 'A' => Some(PinKind::Analog),
        _ => None,
    }
}

fn numbered(kind: PinKind, number: &str) -> Result<Pin, Fault> {
    /// Longest text of a sketch's in a message, in characters.
    const SHOWN: usize = 20;
    match number.parse() {
        Ok(number) => Ok(Pin { kind, number }),
        Err(_) => {
            let shown: String = number.chars().take(SHOWN).collect();
            let why = format!("`{shown}` is no pin: expected a number from 0 to 255");
            Err(Fault::illegal(why))
        }
    }
}

/// The body of a write to a pin of a device, in both directions.
pub fn write_body(pin: Pin, value: &PinValue) -> String {
    let kind = pin.kind.letter().to_ascii_lowercase();
    format!("{kind}w\0{}\0{}", pin.number, value.as_wire())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fields are written with `·` between them, as in blynk.md.
    fn read(code: u8, body: &str) -> Result<Command<'static>, Status> {
        let body = body.replace('·', "\0").leak();
        Command::read(code, body).map_err(|fault| fault.status)
    }

    fn pin(text: &str) -> Pin {
        text.parse().unwrap()
    }

    fn written(at: &str, value: &str) -> Result<Command<'static>, Status> {
        let value = PinValue::from(&*value.replace('·', "\0"));
        Ok(Command::Write(pin(at), value))
    }

    const ILLEGAL: Result<Command<'static>, Status> = Err(Status::IllegalCommand);

    #[test]
    fn a_write_is_read_in_the_order_of_its_checks() {
        for (body, expected) in [
            ("vw·1·10", written("V1", "10")),
            ("aw·100·x", written("A100", "x")),
            ("Dw·5·1", written("D5", "1")),
            ("vw·+7·x", written("V7", "x")),
            ("vw·007·x", written("V7", "x")),
            ("vwx·1·2", written("V1", "2")),
            ("vw·1·a·b··c·", written("V1", "a·b··c·")),
            ("vw·1··", written("V1", "·")),
            ("vw·255·x", written("V255", "x")),
            ("vw·256·x", ILLEGAL),
            ("vw·-1·x", ILLEGAL),
            ("vw· 1·x", ILLEGAL),
            ("vw·x·aaaa", ILLEGAL),
            ("vw··x", ILLEGAL),
            ("vw·1·", ILLEGAL),
            ("vw·1", ILLEGAL),
            ("vw", ILLEGAL),
            ("", ILLEGAL),
            ("xw·1·2", ILLEGAL),
            ("vr·1·2", Ok(Command::Nothing)),
            ("pm·1·out", Ok(Command::Nothing)),
            ("xr·1", Ok(Command::Nothing)),
        ] {
            assert_eq!(read(code::HARDWARE, body), expected, "{body}");
        }
    }

    #[test]
    fn a_sync_is_of_all_pins_or_of_those_before_the_first_that_is_none() {
        let pins = |pins: &[&str], is_cut| {
            let pins = pins.iter().map(|text| pin(text)).collect();
            Ok(Command::Sync(Asked::Pins { pins, is_cut }))
        };
        for (body, expected) in [
            ("", Ok(Command::Sync(Asked::All))),
            ("vr·1", pins(&["V1"], false)),
            ("vr·1·2·", pins(&["V1", "V2"], false)),
            ("ar·66", pins(&["A66"], false)),
            ("vr·1·x·2", pins(&["V1"], true)),
            ("dr·300", pins(&[], true)),
            ("vr", ILLEGAL),
            ("vr·", ILLEGAL),
            ("xr·1", ILLEGAL),
            ("vw·1", Ok(Command::Nothing)),
        ] {
            assert_eq!(read(code::SYNC, body), expected, "{body}");
        }
        let many = format!("vr{}", "·1".repeat(257));
        let many = read(code::SYNC, &many);
        assert_eq!(many, pins(&["V1"; 256], true));
    }

    #[test]
    fn a_library_is_known_by_any_of_its_keys_and_nothing_else_is_one() {
        let info = |library, board, heartbeat: Option<u32>, buffer: Option<usize>| {
            Ok(Command::Info(Info {
                library,
                board,
                heartbeat: heartbeat.and_then(NonZeroU32::new),
                buffer: buffer.and_then(NonZeroUsize::new),
            }))
        };
        for (body, expected) in [
            (
                "ver·0.6.1·h-beat·10·buff-in·256·dev·Arduino·",
                info(Some("0.6.1"), Some("Arduino"), Some(10), Some(256)),
            ),
            (
                "mcu·0.0.0·h-beat·40·buff-in·256",
                info(None, None, Some(40), Some(256)),
            ),
            (
                "ver·1·h-beat·x·buff-in·-1",
                info(Some("1"), None, None, None),
            ),
            (
                "ver·1·h-beat·0·buff-in·0",
                info(Some("1"), None, None, None),
            ),
            ("unknown·x·dev·js", info(None, Some("js"), None, None)),
            ("dev", info(None, None, None, None)),
            // Words where values stand are no keys.
            ("meta·ver·x", Ok(Command::Nothing)),
            ("dbg·1", Ok(Command::Nothing)),
            ("vfs·x·y", Ok(Command::Nothing)),
            ("acon", Ok(Command::Nothing)),
            ("utc·time", Ok(Command::Nothing)),
            ("rtc", Ok(Command::Clock)),
            ("rtc·sync", Ok(Command::Clock)),
            ("", ILLEGAL),
            ("·ver·1", ILLEGAL),
        ] {
            assert_eq!(read(code::INTERNAL, body), expected, "{body}");
        }
    }

    #[test]
    fn a_property_needs_all_its_fields_and_a_pin() {
        let labels = Property::new(pin("V5"), "labels", "a\0b".into()).unwrap();
        let labels = Command::Property(labels);
        for (body, expected) in [
            ("5·labels·a·b", Ok(labels)),
            ("4·label", Err(Status::IllegalBody)),
            ("4··x", Err(Status::IllegalBody)),
            ("4·label·", Err(Status::IllegalBody)),
            ("", Err(Status::IllegalBody)),
            ("x·YYY·a", Err(Status::IllegalBody)),
            ("x·label·a", ILLEGAL),
            ("1·min·a", ILLEGAL),
        ] {
            assert_eq!(read(code::PROPERTY, body), expected, "{body}");
        }
    }

    #[test]
    fn a_bridge_is_opened_and_written_over() {
        for (body, expected) in [
            ("1·i·token", Ok(Command::BridgeTo(1, "token"))),
            ("7·vw·5·1", Ok(Command::Bridge(7, "vw\x005\x001"))),
            ("1·i", ILLEGAL),
            ("300·i·token", ILLEGAL),
            ("", ILLEGAL),
        ] {
            assert_eq!(read(code::BRIDGE, body), expected, "{body}");
        }
    }

    #[test]
    fn logins_are_trimmed_and_what_is_unknown_is_nothing() {
        let trimmed = Ok(Command::Login("token"));
        assert_eq!(read(code::HARDWARE_LOGIN, " \ttoken\n·"), trimmed);
        assert_eq!(read(code::LOGIN, "token"), trimmed);
        assert_eq!(read(code::PING, "x"), Ok(Command::Ping));
        assert_eq!(read(code::RESPONSE, ""), Ok(Command::Nothing));
        assert_eq!(read(21, "b"), Ok(Command::Nothing));
        assert_eq!(
            read(code::EVENT_LOG, "alarm·a·b"),
            Ok(Command::Event("alarm", "a\0b"))
        );
        assert_eq!(
            read(code::EVENT_LOG, "alarm"),
            Ok(Command::Event("alarm", ""))
        );
    }

    #[test]
    fn a_notification_has_a_text_of_the_length_that_its_kind_allows() {
        for (notice, body, status) in [
            (Notice::Tweet, "x".repeat(140), None),
            (Notice::Tweet, "é".repeat(141), Some(Status::InvalidText)),
            (Notice::Push, "é".repeat(255), None),
            (Notice::Push, String::new(), Some(Status::InvalidText)),
            (Notice::Sms, "x".repeat(161), Some(Status::InvalidText)),
            (Notice::Email, "to\0subject\0body".to_owned(), None),
            (Notice::Email, "subject\0body".to_owned(), None),
            (
                Notice::Email,
                "body".to_owned(),
                Some(Status::IllegalCommand),
            ),
            (Notice::Email, String::new(), Some(Status::IllegalCommand)),
        ] {
            let found = notice.check(&body).err().map(|fault| fault.status);
            assert_eq!(found, status, "{notice:?} {}", body.len());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_command_or_a_fault(code: u8, body in ".{0,40}") {
            let _ = Command::read(code, &body);
        }

        #[test]
        fn a_sketch_reads_what_is_written_to_it(
            kind in 0..3usize, number: u8, value in "[a-z\0]{1,20}",
        ) {
            let kind = [PinKind::Virtual, PinKind::Digital, PinKind::Analog][kind];
            let (pin, value) = (Pin { kind, number }, PinValue::from(&*value));
            let body = write_body(pin, &value);
            prop_assert_eq!(Command::read(code::HARDWARE, &body), Ok(Command::Write(pin, value)));
        }
    }
}
