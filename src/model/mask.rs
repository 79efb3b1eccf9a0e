//! Hides the owner's secrets in texts that people read.

use std::borrow::Cow;

/// Shown in place of a secret.
const STARS: &str = "***";

/// Shortest text that is hidden: shorter ones would blot out ordinary words.
const MIN: usize = 6;

/// The texts to hide, as they are and percent-encoded.
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
            let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            texts.push(encoded.replace('+', "%20"));
            texts.push(encoded);
            texts.push(secret.to_owned());
        }
        // A secret that holds another must go first.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
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
            mask.apply("a pass word/1 b pass%20word%2F1 c pass+word%2F1 d short"),
            "a *** b *** c *** d short"
        );
        assert_eq!(mask.apply("pass word/1 and more!"), "***!");
        assert!(matches!(mask.apply("nothing"), Cow::Borrowed(_)));
    }
}
