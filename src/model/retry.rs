//! Another attempt: after what, when, and how long a third party asked to be
//! left alone (product.md §5.4, `retry`).

use std::time::{Duration, SystemTime};

use super::request::Method;

/// Longest time that a `Retry-After` is obeyed (product.md §5.4).
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Longest wait between two attempts without jitter, whatever their number.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How a webhook tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Further attempts after the first.
    pub attempts: u32,
    /// Whether POST and PATCH are repeated like the others, although the third
    /// party may have done what was asked already.
    pub is_unsafe: bool,
}

/// Why an attempt failed, as far as it matters for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of the request was sent: no connection.
    NotSent,
    /// The connection broke, or the time was over, before the response began; or
    /// the connection broke within it.
    Broken,
    /// The response had this status.
    Status {
        /// The status.
        status: u16,
        /// Whether it had a `Retry-After` that can be read.
        has_retry_after: bool,
    },
    /// Another attempt would end like this one, or is not safe to make: a
    /// certificate that is not trusted, a time limit within the response.
    Final,
}

impl Retry {
    /// How long to wait before the next attempt, after `made` of them, the last of
    /// which ended in `failure`; `None`: there is no other. `jitter` is drawn
    /// from 0 to 1 and lengthens the wait by up to a quarter.
    pub fn wait(
        &self,
        method: Method,
        failure: Failure,
        made: u32,
        jitter: f64,
    ) -> Option<Duration> {
        if made > self.attempts || !self.may_repeat(method, failure) {
            return None;
        }
        let seconds = 3u64.saturating_pow(made.saturating_sub(1));
        let wait = Duration::from_secs(seconds).min(LONGEST_WAIT);
        Some(wait.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0))
    }

    fn may_repeat(&self, method: Method, failure: Failure) -> bool {
        let is_safe = self.is_unsafe || !matches!(method, Method::Post | Method::Patch);
        match failure {
            Failure::NotSent => true,
            Failure::Broken => is_safe,
            Failure::Status { status: 429, .. } => true,
            Failure::Status {
                status: 503,
                has_retry_after: true,
            } => true,
            Failure::Status { status, .. } => is_safe && is_temporary(status),
            Failure::Final => false,
        }
    }
}

/// Whether a status says that a later attempt may succeed.
pub fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// The time that a `Retry-After` asks for: seconds or a date in any of the three
/// forms (RFC 9110 §10.2.3, §5.6.7), at most [`LONGEST_RETRY_AFTER`]. A date in the past asks for none.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are as long as it gets.
        true if !value.is_empty() => Duration::from_secs(value.parse().unwrap_or(u64::MAX)),
        _ => {
            let date = httpdate::parse_http_date(value).ok()?;
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, has_retry_after: bool) -> Failure {
        Failure::Status {
            status,
            has_retry_after,
        }
    }

    #[test]
    fn what_is_tried_again() {
        use Method::{Get, Patch, Post, Put};
        for (method, failure, is_unsafe, again) in [
            (Get, Failure::NotSent, false, true),
            (Get, Failure::Broken, false, true),
            (Get, Failure::Final, false, false),
            (Get, status(503, false), false, true),
            (Get, status(500, false), false, true),
            (Get, status(501, false), false, false),
            (Get, status(404, false), false, false),
            (Put, status(408, false), false, true),
            (Put, status(425, false), false, true),
            (Put, status(504, false), false, true),
            (Post, Failure::NotSent, false, true),
            (Post, Failure::Broken, false, false),
            (Post, Failure::Broken, true, true),
            (Post, Failure::Final, true, false),
            (Post, status(429, false), false, true),
            (Post, status(503, false), false, false),
            (Post, status(503, true), false, true),
            (Post, status(500, true), false, false),
            (Post, status(502, false), true, true),
            (Patch, status(502, false), false, false),
            (Patch, status(503, true), false, true),
        ] {
            let retry = Retry {
                attempts: 1,
                is_unsafe,
            };

            let wait = retry.wait(method, failure, 1, 0.0);

            assert_eq!(wait.is_some(), again, "{method:?} {failure:?} {is_unsafe}");
        }
    }

    #[test]
    fn waits_triple_with_some_jitter_until_there_are_no_more() {
        let retry = Retry {
            attempts: 3,
            is_unsafe: false,
        };
        let wait = |made, jitter| retry.wait(Method::Get, Failure::NotSent, made, jitter);

        let seconds: Vec<_> = (1..=4).map(|made| wait(made, 0.0)).collect();

        let expected = [Some(1), Some(3), Some(9), None].map(|s| s.map(Duration::from_secs));
        assert_eq!(seconds, expected);
        assert_eq!(wait(1, 1.0), Some(Duration::from_millis(1250)));
        let stubborn = Retry {
            attempts: u32::MAX,
            is_unsafe: false,
        };
        let long = stubborn.wait(Method::Get, Failure::NotSent, 1000, 0.0);
        assert_eq!(long, Some(LONGEST_WAIT));
    }

    #[test]
    fn retry_after_in_every_form() {
        // 2026-11-23 12:00:00 UTC
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200);
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("601", Some(600)),
            ("99999999999999999999999", Some(600)),
            ("Mon, 23 Nov 2026 12:00:30 GMT", Some(30)),
            ("Mon, 23 Nov 2026 11:00:00 GMT", Some(0)),
            ("Mon, 23 Nov 2099 12:00:00 GMT", Some(600)),
            ("Monday, 23-Nov-26 12:00:30 GMT", Some(30)),
            ("Mon Nov 23 12:00:30 2026", Some(30)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("Mon, 99 Nov 2026 12:00:30 GMT", None),
        ] {
            let wait = retry_after(value, now);

            assert_eq!(wait, seconds.map(Duration::from_secs), "{value}");
        }
    }
}
