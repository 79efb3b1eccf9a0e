//! Pins and the values they hold.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Virtual, digital or analog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinKind {
    /// A pin that exists in the sketch only, `V`.
    Virtual,
    /// A digital pin of the board, `D`.
    Digital,
    /// An analog pin of the board, `A`.
    Analog,
}

impl PinKind {
    /// The capital letter that stands for the kind in `V5`.
    pub fn letter(self) -> char {
        match self {
            PinKind::Virtual => 'V',
            PinKind::Digital => 'D',
            PinKind::Analog => 'A',
        }
    }
}

/// One pin of a device: a kind and a number from 0 to 255.
///
/// Reads `V5`, `d13` and `A0` in any case, and writes the capital form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    /// Virtual, digital or analog.
    pub kind: PinKind,
    /// 0 to 255, whatever the kind.
    pub number: u8,
}

/// Why a text is no pin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// It does not begin with `V`, `D` or `A`, or no number follows.
    #[error("pin `{0}`: expected V, D or A and a number, as in V5")]
    Shape(String),
    /// The number does not fit.
    #[error("pin `{0}`: number is above 255")]
    Number(String),
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Pin, PinError> {
        let shape = || PinError::Shape(text.chars().take(64).collect());
        let kind = match text.bytes().next().ok_or_else(shape)? {
            b'V' | b'v' => PinKind::Virtual,
            b'D' | b'd' => PinKind::Digital,
            b'A' | b'a' => PinKind::Analog,
            _ => return Err(shape()),
        };
        let digits = &text[1..];
        if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(shape());
        }
        let number = digits
            .parse()
            .map_err(|_| PinError::Number(text.to_owned()))?;
        Ok(Pin { kind, number })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.letter(), self.number)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a digital or analog pin of the board is for, as the device sets it up
/// when it hears of it (blynk.md §1.3, the frame `pm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinMode {
    /// An input.
    In,
    /// An output.
    Out,
    /// An output with pulse-width modulation.
    Pwm,
    /// An input with a pull-up resistor.
    PullUp,
    /// An input with a pull-down resistor.
    PullDown,
}

impl PinMode {
    /// All there are.
    pub const ALL: [PinMode; 5] = [
        PinMode::In,
        PinMode::Out,
        PinMode::Pwm,
        PinMode::PullUp,
        PinMode::PullDown,
    ];

    /// Blynk's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            PinMode::In => "in",
            PinMode::Out => "out",
            PinMode::Pwm => "pwm",
            PinMode::PullUp => "pu",
            PinMode::PullDown => "pd",
        }
    }
}

/// The value of a pin: one or more texts, never none; cheap to clone.
///
/// Kept as it travels on every wire: the texts joined by NUL. A text therefore
/// holds no NUL itself; one that comes in with a NUL is two texts.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PinValue(Arc<str>);

impl PinValue {
    /// Joins `texts` to one value; no texts at all make one empty text.
    pub fn from_texts<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> PinValue {
        let mut joined = String::new();
        for (index, text) in texts.into_iter().enumerate() {
            if index > 0 {
                joined.push('\0');
            }
            joined.push_str(text.as_ref());
        }
        PinValue(joined.into())
    }

    /// The texts in order; at least one.
    pub fn texts(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.split('\0')
    }

    /// The texts that Blynk's `/pin[n]/` can name: trailing empty ones are not
    /// counted, but an empty value has one (blynk.md §3.5).
    pub fn blynk_parts(&self) -> impl Iterator<Item = &str> {
        let kept = match self.0.trim_end_matches('\0') {
            "" if self.0.is_empty() => 1,
            "" => 0,
            trimmed => trimmed.split('\0').count(),
        };
        self.texts().take(kept)
    }

    /// The last of the texts.
    pub fn last(&self) -> &str {
        self.0.rsplit('\0').next().unwrap_or_default()
    }

    /// The texts joined by a comma, as `{{ value }}` and `/pin/` show them.
    pub fn commas(&self) -> Cow<'_, str> {
        if self.0.contains('\0') {
            Cow::Owned(self.0.replace('\0', ","))
        } else {
            Cow::Borrowed(&self.0)
        }
    }

    /// The texts joined by NUL, as MQTT and Blynk carry them.
    pub fn as_wire(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PinValue {
    /// Reads the wire form: texts joined by NUL.
    fn from(wire: &str) -> PinValue {
        PinValue(wire.into())
    }
}

impl fmt::Debug for PinValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_any_case_and_writes_capitals() {
        for (text, shown) in [("V5", "V5"), ("v0", "V0"), ("d13", "D13"), ("A255", "A255")] {
            assert_eq!(text.parse::<Pin>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_pin() {
        for (text, says) in [
            ("V300", "pin `V300`: number is above 255"),
            ("V256", "pin `V256`: number is above 255"),
            ("V", "pin `V`: expected V, D or A and a number, as in V5"),
            ("", "pin ``: expected V, D or A and a number, as in V5"),
            ("5", "pin `5`: expected V, D or A and a number, as in V5"),
            (
                "V-1",
                "pin `V-1`: expected V, D or A and a number, as in V5",
            ),
            (
                "V+1",
                "pin `V+1`: expected V, D or A and a number, as in V5",
            ),
            (
                "V1 ",
                "pin `V1 `: expected V, D or A and a number, as in V5",
            ),
            ("é1", "pin `é1`: expected V, D or A and a number, as in V5"),
        ] {
            assert_eq!(text.parse::<Pin>().unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn a_value_keeps_its_texts_and_their_number() {
        let value = PinValue::from_texts(["1", "", "3"]);

        assert_eq!(value.as_wire(), "1\0\x003");
        assert_eq!(value.texts().collect::<Vec<_>>(), ["1", "", "3"]);
        assert_eq!(value.commas(), "1,,3");
        assert_eq!(PinValue::from_texts([""; 0]), PinValue::from(""));
    }

    #[test]
    fn blynk_parts_end_at_the_last_text_that_is_not_empty() {
        let parts = |wire: &str| PinValue::from(wire).blynk_parts().count();

        assert_eq!(parts("x\0\0z"), 3);
        assert_eq!(parts("x\0"), 1);
        assert_eq!(parts(""), 1);
        assert_eq!(parts("\0\0"), 0);
    }

    proptest! {
        #[test]
        fn a_pin_reads_what_it_wrote(kind in 0..3usize, number: u8) {
            let kind = [PinKind::Virtual, PinKind::Digital, PinKind::Analog][kind];
            let pin = Pin { kind, number };
            prop_assert_eq!(pin.to_string().parse::<Pin>(), Ok(pin));
        }

        #[test]
        fn rubbish_is_refused_without_a_panic(text in ".{0,12}") {
            let _ = text.parse::<Pin>();
        }
    }
}
