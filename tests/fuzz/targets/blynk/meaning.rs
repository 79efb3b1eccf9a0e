//! What a frame of a sketch means, read again from blynk.md §1 without a look at `src/blynk`.

/// A pin: the place of its kind in [`KINDS`], and its number.
pub type Pin = (u8, u8);

/// The kinds of pins, in the order in which all of them are sent.
const KINDS: &str = "vda";

/// Pins that a request may name.
const PINS: usize = 256;

/// Properties of pins (blynk.md §1.11).
const PROPERTIES: &str = "label color onBackColor offBackColor onColor offColor onLabel offLabel \
    labels min max isOnPlay url urls step valueFormatting suffix maximumFractionDigits opacity \
    scale rotation";

/// Keys that only a frame about a library has (blynk.md §1.6).
const KEYS: &str = "ver blynk mcu ncp fw fw-type h-beat buff-in dev cpu con conn build tmpl";

/// What follows from a frame.
#[derive(Debug)]
pub enum Meaning {
    /// An answer, and nothing else.
    Answer(u16),
    Write(Pin, String),
    SyncAll,
    /// The pins before the first that is none, and whether there is such a one.
    Sync(Vec<Pin>, bool),
    Info {
        heartbeat: Option<u32>,
        buffer: Option<usize>,
        board: Option<String>,
    },
    Clock,
    Property(u8, String, String),
    /// The webhook's event, and its text.
    Notify(&'static str, String),
    BridgeTo(u8, String),
    Bridge(u8, String),
    Nothing,
}

use Meaning::{Answer, Nothing};

/// What a frame means to who has logged in.
pub fn meaning(code: u8, body: &[u8]) -> Meaning {
    let text = String::from_utf8_lossy(body);
    match code {
        2 | 29 => Answer(4),
        6 => Answer(200),
        12 => notice("tweet", 140, &text),
        13 => Meaning::Notify("email", text.into()),
        14 => notice("notify", 255, &text),
        15 => bridge(&text),
        16 => sync(&text),
        17 => internal(&text),
        18 => notice("sms", 160, &text),
        19 => property(&text),
        20 => write(&text),
        _ => Nothing,
    }
}

pub fn write(text: &str) -> Meaning {
    let letters: Vec<char> = text.chars().take(4).collect();
    if letters.len() < 4 {
        return Answer(2);
    }
    if letters[1] != 'w' {
        return Nothing;
    }
    let parts: Vec<_> = text.splitn(3, '\0').collect();
    match (kind(letters[0]), &parts[..]) {
        (Some(kind), [_, pin, value]) if !value.is_empty() => match number(pin) {
            Some(pin) => Meaning::Write((kind, pin), (*value).to_owned()),
            None => Answer(2),
        },
        _ => Answer(2),
    }
}

/// The body of a write.
pub fn written((kind, number): Pin, value: &str) -> Vec<u8> {
    let kind = KINDS.as_bytes()[usize::from(kind)] as char;
    format!("{kind}w\0{number}\0{value}").into_bytes()
}

fn sync(text: &str) -> Meaning {
    let text = text.trim_end_matches('\0');
    if text.is_empty() {
        return Meaning::SyncAll;
    }
    let fields: Vec<_> = text.split('\0').collect();
    let mut letters = fields[0].chars();
    let Some(kind) = letters.next().and_then(kind) else {
        return Answer(2);
    };
    if fields.len() < 2 {
        return Answer(2);
    }
    if letters.next() != Some('r') {
        return Nothing;
    }
    let pins = fields[1..].iter().map_while(|field| number(field));
    let pins: Vec<_> = pins.take(PINS).collect();
    let is_cut = pins.len() < fields.len() - 1;
    Meaning::Sync(pins.into_iter().map(|pin| (kind, pin)).collect(), is_cut)
}

fn internal(text: &str) -> Meaning {
    let fields: Vec<_> = text.split('\0').collect();
    if fields[0].is_empty() {
        return Answer(2);
    }
    if fields[0] == "rtc" {
        return Meaning::Clock;
    }
    let keys = || fields.iter().step_by(2);
    if !keys().any(|key| KEYS.split(' ').any(|known| known == *key)) {
        return Nothing;
    }
    let last = |wanted: &str| {
        let pairs = fields.chunks_exact(2).filter(|pair| pair[0] == wanted);
        pairs.last().map(|pair| pair[1])
    };
    Meaning::Info {
        heartbeat: last("h-beat")
            .and_then(|n| n.parse().ok())
            .filter(|n| *n > 0),
        buffer: last("buff-in")
            .and_then(|n| n.parse().ok())
            .filter(|n| *n > 0),
        board: last("dev").map(str::to_owned),
    }
}

fn property(text: &str) -> Meaning {
    let parts: Vec<_> = text.splitn(3, '\0').collect();
    let [pin, name, value] = parts[..] else {
        return Answer(11);
    };
    if name.is_empty() || value.is_empty() {
        return Answer(11);
    }
    if !PROPERTIES.split(' ').any(|known| known == name) {
        return Answer(11);
    }
    let Some(pin) = number(pin) else {
        return Answer(2);
    };
    let is_number = || value.trim().parse().is_ok_and(f64::is_finite);
    if matches!(name, "min" | "max") && !is_number() {
        return Answer(2);
    }
    Meaning::Property(pin, name.to_owned(), value.to_owned())
}

fn notice(event: &'static str, most: usize, text: &str) -> Meaning {
    match text.chars().count() {
        length if length == 0 || length > most => Answer(13),
        _ => Meaning::Notify(event, text.to_owned()),
    }
}

fn bridge(text: &str) -> Meaning {
    let parts: Vec<_> = text.splitn(3, '\0').collect();
    let [bridge, operation, rest] = parts[..] else {
        return Answer(2);
    };
    match number(bridge) {
        None => Answer(2),
        Some(bridge) if operation.starts_with('i') => Meaning::BridgeTo(bridge, rest.to_owned()),
        Some(bridge) => Meaning::Bridge(bridge, format!("{operation}\0{rest}")),
    }
}

fn kind(letter: char) -> Option<u8> {
    let place = KINDS.find(letter.to_ascii_lowercase())?;
    u8::try_from(place).ok()
}

/// From 0 to 255; a sign and zeros may stand in front.
fn number(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = digits.bytes().fold(0u32, |value, byte| {
        (value * 10 + u32::from(byte - b'0')).min(1000)
    });
    u8::try_from(value).ok()
}
