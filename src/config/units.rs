//! How durations, sizes, addresses and log levels are written (product.md §9).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest duration: times are added to the clock, which must not overflow.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a duration is, for messages.
pub(super) const DURATION: &str = "a duration: 500ms, 10s, 5m, 1h, 7d, or 0";

/// What a size is, for messages.
pub(super) const SIZE: &str = "a size: 512B, 16KiB, 1MiB";

/// What statuses are, for messages.
pub(super) const STATUSES: &str =
    "a status such as 200, a range such as 200-299, or a list of these";

/// The statuses that can be a success: 1xx are no final answer (RFC 9110 §15.2).
const SUCCESS: RangeInclusive<u16> = 200..=599;

/// Why a text is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What was expected.
    pub expected: &'static str,
    /// What was probably meant.
    pub meant: Option<String>,
}

/// Splits `15min` into 15 and `min`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

/// `500ms 10s 5m 1h 7d`, or `0`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let wrong = |meant| Wrong {
        expected: DURATION,
        meant,
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (number, unit) = number_and_unit(text).ok_or_else(|| wrong(None))?;
    let (unit, millis) = match unit {
        "ms" | "msec" | "millis" => ("ms", 1),
        "s" | "sec" | "secs" | "second" | "seconds" | "" => ("s", 1000),
        "m" | "min" | "mins" | "minute" | "minutes" => ("m", 60_000),
        "h" | "hour" | "hours" => ("h", 3_600_000),
        "d" | "day" | "days" => ("d", 86_400_000),
        _ => return Err(wrong(None)),
    };
    let plain = format!("{number}{unit}");
    if plain != text {
        return Err(wrong(Some(plain)));
    }
    let duration = number.checked_mul(millis).map(Duration::from_millis);
    duration.filter(|long| *long <= MAX_DURATION).ok_or(Wrong {
        expected: "at most 366d",
        meant: None,
    })
}

/// `512B 16KiB 1MiB`
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let wrong = |meant| Wrong {
        expected: SIZE,
        meant,
    };
    let (number, unit) = number_and_unit(text).ok_or_else(|| wrong(None))?;
    let (unit, bytes) = match unit.to_ascii_lowercase().as_str() {
        "b" | "" => ("B", 1),
        "k" | "kb" | "kib" => ("KiB", 1024),
        "m" | "mb" | "mib" => ("MiB", 1024 * 1024),
        _ => return Err(wrong(None)),
    };
    let plain = format!("{number}{unit}");
    if plain != text {
        return Err(wrong(Some(plain)));
    }
    number.checked_mul(bytes).ok_or_else(|| wrong(None))
}

/// `302`, `200-299`
pub(super) fn statuses(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let wrong = |meant| Wrong {
        expected: STATUSES,
        meant,
    };
    let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
    if let Some(class) = class.and_then(|class| class.parse::<u16>().ok())
        && (2..=5).contains(&class)
    {
        return Err(wrong(Some(format!("{class}00-{class}99"))));
    }
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let dashes = ["-", "..=", "..", "\u{2013}"];
    let ends = dashes.iter().find_map(|dash| text.split_once(dash));
    let (first, last) = match ends {
        Some((first, last)) => (number(first), number(last)),
        None => (number(text), number(text)),
    };
    let (first, last) = first.zip(last).ok_or_else(|| wrong(None))?;
    if !SUCCESS.contains(&first) || !SUCCESS.contains(&last) {
        return Err(Wrong {
            expected: "a status from 200 to 599",
            meant: None,
        });
    }
    let plain = match ends {
        Some(_) => format!("{}-{}", first.min(last), first.max(last)),
        None => first.to_string(),
    };
    match plain == text {
        true => Ok(first..=last),
        false => Err(wrong(Some(plain))),
    }
}

/// `1883` (all interfaces), `127.0.0.1:1883`, `[::1]:1883`. `usual` is the port that
/// was meant most likely where none is given.
pub(super) fn address(text: &str, usual: u16) -> Result<SocketAddr, Wrong> {
    let wrong = |meant: Option<&str>| Wrong {
        expected: "PORT (all interfaces), 127.0.0.1:PORT, [::1]:PORT, a list of these, or `off`",
        meant: meant.map(str::to_owned),
    };
    if let Ok(port) = text.parse::<u16>() {
        // One socket for both: Linux hands it IPv4 connections too.
        return Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let meant = match text.rsplit_once(':') {
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => format!("127.0.0.1:{port}"),
        Some(("*" | "", port)) if port.parse::<u16>().is_ok() => port.to_owned(),
        _ if text
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_ipv4()) =>
        {
            format!("{text}:{usual}")
        }
        _ if text.parse::<IpAddr>().is_ok() => format!("[{text}]:{usual}"),
        _ => return Err(wrong(None)),
    };
    Err(wrong(Some(&meant)))
}

/// A level, or a filter such as `info,pinhook::mqtt=debug`.
pub(super) fn log_filter(text: &str) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_target = |target: &str| {
        let is_legal = |b: u8| b.is_ascii_alphanumeric() || b"_:-".contains(&b);
        !target.is_empty() && target.bytes().all(is_legal)
    };
    for part in text.split(',') {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, part),
        };
        if !LEVELS.contains(&level) || target.is_some_and(|target| !is_target(target)) {
            return Err(Wrong {
                expected: "error, warn, info, debug, trace or off, or a filter such as \
                           `info,pinhook::mqtt=debug`",
                meant: crate::model::nearest::nearest(level, LEVELS)
                    .filter(|_| target.is_none_or(is_target))
                    .map(|near| match target {
                        Some(target) => format!("{target}={near}"),
                        None => near.to_owned(),
                    }),
            });
        }
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant<T: std::fmt::Debug>(result: Result<T, Wrong>) -> Option<String> {
        result.expect_err("not legal").meant
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("366d", 366 * 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, near) in [
            ("10", Some("10s")),
            ("5 min", Some("5m")),
            ("1 hour", Some("1h")),
            ("1.5s", None),
            ("-1s", None),
            ("", None),
            ("s", None),
            ("1w", None),
            ("367d", None),
            ("99999999999999999999s", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(meant(duration(text)).as_deref(), near, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512B", 512),
            ("16KiB", 16_384),
            ("1MiB", 1_048_576),
            ("0B", 0),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, near) in [
            ("512", Some("512B")),
            ("16k", Some("16KiB")),
            ("1 MB", Some("1MiB")),
            ("1GiB", None),
            ("big", None),
            ("9999999999999999999MiB", None),
        ] {
            assert_eq!(meant(size(text)).as_deref(), near, "{text}");
        }
    }

    #[test]
    fn ranges_of_statuses() {
        for (text, range) in [
            ("200", 200..=200),
            ("302", 302..=302),
            ("200-299", 200..=299),
            ("200-599", 200..=599),
        ] {
            assert_eq!(statuses(text), Ok(range), "{text}");
        }
        for (text, near) in [
            ("2xx", Some("200-299")),
            ("299-200", Some("200-299")),
            ("200..299", Some("200-299")),
            ("200..=299", Some("200-299")),
            ("200 - 299", Some("200-299")),
            ("0200", Some("200")),
            ("1xx", None),
            ("199", None),
            ("600", None),
            ("100-299", None),
            ("-200", None),
            ("200-", None),
            ("ok", None),
            ("", None),
        ] {
            assert_eq!(meant(statuses(text)).as_deref(), near, "{text}");
        }
    }

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("1883", "[::]:1883"),
            ("0", "[::]:0"),
            ("127.0.0.1:1883", "127.0.0.1:1883"),
            ("[::1]:1883", "[::1]:1883"),
        ] {
            assert_eq!(address(text, 1883).unwrap().to_string(), shown);
        }
        for (text, near) in [
            ("localhost:1883", Some("127.0.0.1:1883")),
            (":1883", Some("1883")),
            ("*:1883", Some("1883")),
            ("10.0.0.1", Some("10.0.0.1:1883")),
            ("::1", Some("[::1]:1883")),
            ("70000", None),
            ("pi.local:1883", None),
        ] {
            assert_eq!(meant(address(text, 1883)).as_deref(), near, "{text}");
        }
    }

    #[test]
    fn log_filters() {
        for text in [
            "info",
            "off",
            "warn,pinhook::mqtt=debug",
            "a=trace,b-c=error",
        ] {
            assert_eq!(log_filter(text), Ok(text.to_owned()));
        }
        for (text, near) in [
            ("inof", Some("info")),
            ("INFO", Some("info")),
            ("info,pinhook=debg", Some("pinhook=debug")),
            ("verbose", None),
            ("pinhook::mqtt", None),
            ("", None),
            ("info,", None),
        ] {
            assert_eq!(meant(log_filter(text)).as_deref(), near, "{text}");
        }
    }
}
