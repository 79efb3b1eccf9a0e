//! Hides the owner's secrets in texts that people read.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::template::percent;

/// Shown in place of a secret.
const STARS: &str = "***";

/// Shortest text that is hidden: shorter ones would blot out ordinary words.
const MIN: usize = 6;

/// The texts to hide, as they are, percent-encoded and in base64.
#[derive(Clone, Default)]
pub struct Mask(Vec<String>);

impl Mask {
    /// Hides these from here on; those below 6 characters stay visible.
    pub fn new<T: AsRef<str>>(secrets: impl IntoIterator<Item = T>) -> Mask {
        let mut texts = Vec::new();
        for secret in secrets {
            let secret = secret.as_ref();
            if secret.chars().count() < MIN {
                continue;
            }
            let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            texts.push(percent(secret));
            texts.push(form);
            texts.push(STANDARD_NO_PAD.encode(secret));
            texts.push(URL_SAFE_NO_PAD.encode(secret));
            // The host of a URL is shown in lower case.
            texts.push(secret.to_lowercase());
            texts.push(secret.to_owned());
        }
        // A secret that holds another must go first.
        texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        texts.dedup();
        Mask(texts)
    }

    /// `text` with stars where it had secrets.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut masked = Cow::Borrowed(text);
        for secret in &self.0 {
            if masked.contains(secret.as_str()) {
                masked = Cow::Owned(masked.replace(secret.as_str(), STARS));
            }
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_plain_and_encoded() {
        let mask = Mask::new(["pass word/1", "short", "pass word/1 and more"]);

        assert_eq!(
            mask.apply("a pass word/1 b pass%20word%2F1 c pass+word%2F1 d cGFzcyB3b3JkLzE e short"),
            "a *** b *** c *** d *** e short"
        );
        assert_eq!(mask.apply("pass word/1 and more!"), "***!");
        assert_eq!(Mask::new(["MyTunnel"]).apply("mytunnel.test"), "***.test");
        assert!(matches!(mask.apply("nothing"), Cow::Borrowed(_)));
    }
}
