//! Devices as they are configured: name, token, variables, and what is known of their pins.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{DeviceName, Pin, PinMode};

/// A device of the configuration.
#[derive(Clone)]
pub struct Device {
    /// Its name, unique among devices and users.
    pub name: DeviceName,
    /// Its secret.
    pub token: Token,
    /// The owner's variables, `device.vars.NAME` in templates.
    pub vars: BTreeMap<String, String>,
    /// Names the owner gave to pins, unique in the device.
    pub pin_names: BTreeMap<Pin, String>,
    /// What pins of the board are for; virtual pins are not among them. Where a
    /// digital and an analog pin of one number both have a mode, it is the same.
    pub pin_modes: BTreeMap<Pin, PinMode>,
    /// Whether topics that pinhook publishes carry a pin's name where it has one.
    pub names_in_topics: bool,
    /// Largest MQTT packet or Blynk frame it takes, in bytes; `None`: not known.
    pub max_message: Option<usize>,
    /// The devices that it may bridge to, besides itself (product.md §6).
    pub bridge_to: Vec<DeviceName>,
}

impl fmt::Debug for Device {
    /// Shows the name; the variables may hold the owner's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.name).finish()
    }
}

impl Device {
    /// The pin that `text` stands for: `V5` in any case, or a configured name.
    pub fn pin(&self, text: &str) -> Option<Pin> {
        text.parse().ok().or_else(|| {
            let named = |(pin, name): (&Pin, &String)| (name == text).then_some(*pin);
            self.pin_names.iter().find_map(named)
        })
    }

    /// Whether it may bridge to `other`: to itself always, else if its own
    /// configuration says so.
    pub fn may_bridge_to(&self, other: &DeviceName) -> bool {
        *other == self.name || self.bridge_to.contains(other)
    }

    /// What stands for `pin` in the topics that pinhook publishes.
    pub fn topic_level(&self, pin: Pin) -> String {
        match self.pin_names.get(&pin) {
            Some(name) if self.names_in_topics => name.clone(),
            _ => pin.to_string(),
        }
    }
}

/// A device's secret: 16 to 64 characters of `A-Z a-z 0-9 _ -`.
///
/// It has no `Display`, and `Debug` hides it. It has no `==` either, because a
/// comparison that ends at the first difference tells how much was right:
/// `access` compares in constant time.
#[derive(Clone)]
pub struct Token(String);

/// Why a text is no token; never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too short or too long.
    #[error("token of {0} characters: expected 16 to 64")]
    Length(usize),
    /// A character that is not allowed.
    #[error("token with a character that is not one of A-Z a-z 0-9 _ -")]
    Character,
}

impl Token {
    /// The secret itself, for those who compare or mask it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let length = text.chars().count();
        if !(16..=64).contains(&length) {
            return Err(TokenError::Length(length));
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !text.bytes().all(legal) {
            return Err(TokenError::Character);
        }
        Ok(Token(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A device with a name and a token, and nothing else.
    pub(crate) fn device(name: &str, token: &str) -> Device {
        Device {
            name: name.parse().unwrap(),
            token: token.parse().unwrap(),
            vars: BTreeMap::new(),
            pin_names: BTreeMap::new(),
            pin_modes: BTreeMap::new(),
            names_in_topics: false,
            max_message: None,
            bridge_to: Vec::new(),
        }
    }

    #[test]
    fn a_device_bridges_to_itself_and_to_those_it_lists() {
        let device = Device {
            bridge_to: vec!["shed".parse().unwrap()],
            ..device("porch", "sixteen-letters-")
        };

        let may =
            ["porch", "shed", "attic"].map(|name| device.may_bridge_to(&name.parse().unwrap()));

        assert_eq!(may, [true, true, false]);
    }

    #[test]
    fn a_token_never_shows_itself() {
        let token: Token = "sixteen-letters-".parse().unwrap();

        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(token.expose(), "sixteen-letters-");
    }

    #[test]
    fn a_bad_token_is_refused_without_repeating_it() {
        for (text, says) in [
            ("short", "token of 5 characters: expected 16 to 64"),
            (
                "with a blank in it",
                "token with a character that is not one of A-Z a-z 0-9 _ -",
            ),
        ] {
            assert_eq!(text.parse::<Token>().unwrap_err().to_string(), says);
        }
    }
}
