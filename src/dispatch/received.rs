//! A response that was read.

use std::time::{Duration, SystemTime};

use encoding_rs::{Encoding, UTF_8};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::model::response::Headers;
use crate::model::retry;

/// A response: read to its end if its status is a success, else only its head.
#[derive(Debug)]
pub(super) struct Received {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Why a redirect was not followed, to be said if its status is a failure.
    pub remark: Option<String>,
}

impl Received {
    /// Its headers, names in lower case; of a repeated one the last.
    pub(super) fn headers(&self) -> Headers {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        };
        self.headers.iter().map(text).collect()
    }

    /// The body as text: in the encoding of its byte order mark, else of its
    /// Content-Type, else UTF-8; what is malformed becomes U+FFFD.
    pub(super) fn text(&self) -> String {
        let declared = self.headers.get(CONTENT_TYPE).and_then(charset);
        let (text, _, _) = declared.unwrap_or(UTF_8).decode(&self.body);
        text.into_owned()
    }

    /// How long the third party asks to be left alone, if it does.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(RETRY_AFTER)?;
        retry::retry_after(value.to_str().ok()?, SystemTime::now())
    }

    /// What its status says, in words: `404 Not Found`.
    pub(super) fn status_text(&self) -> String {
        let status = status_text(self.status);
        match &self.remark {
            Some(remark) => format!("{status}: {remark}"),
            None => status,
        }
    }
}

/// The encoding that a Content-Type declares, if there is one of that name.
fn charset(content_type: &HeaderValue) -> Option<&'static Encoding> {
    let text = String::from_utf8_lossy(content_type.as_bytes());
    let parameters = text.split(';').skip(1);
    let label = parameters
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, label)| label.trim().trim_matches(['"', '\'']).to_owned())?;
    Encoding::for_label(label.as_bytes())
}

/// A status with its usual words.
fn status_text(status: u16) -> String {
    let code = reqwest::StatusCode::from_u16(status).ok();
    match code.and_then(|code| code.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_its_usual_words() {
        assert_eq!(status_text(503), "503 Service Unavailable");
        assert_eq!(status_text(599), "599");
    }

    #[test]
    fn text_is_decoded_as_it_says() {
        for (content_type, body, text) in [
            (None, "21 °C".as_bytes(), "21 °C"),
            (Some("text/plain"), b"21 \xb0C", "21 \u{fffd}C"),
            (Some("text/plain; charset=iso-8859-1"), b"21 \xb0C", "21 °C"),
            (
                Some("text/html;x=y; Charset=\"Windows-1252\""),
                b"5 \x80",
                "5 €",
            ),
            (Some("text/plain; charset=shift_jis"), b"\x82\xa0", "あ"),
            (Some("text/plain; charset=utf-16le"), b"4\x002\x00", "42"),
            (Some("text/plain; charset=klingon"), "é".as_bytes(), "é"),
            (Some("text/plain; charset="), "é".as_bytes(), "é"),
            // The mark says more than the header.
            (
                Some("text/plain; charset=latin1"),
                b"\xef\xbb\xbf\xc3\xa9",
                "é",
            ),
            (None, b"\xff\xfe4\x002\x00", "42"),
            (None, b"", ""),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(content_type) = content_type {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            let received = Received {
                status: 200,
                headers,
                body: body.to_vec(),
                remark: None,
            };

            assert_eq!(received.text(), text, "{content_type:?}");
        }
    }
}
