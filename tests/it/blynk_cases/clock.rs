//! What has to do with time: `rtc` (T48, T49), and how long a sketch may be silent (T54 to T56).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::porch;
use crate::support::blynk::{Ports, Sketch, TOK, Way, bytes, command};

/// `rtc` is the local time as if it were UTC, and always answered (product.md §6).
#[tokio::test]
async fn rtc_is_the_time_in_the_zone_of_the_configuration() {
    // Zones whose offset never changes.
    for (zone, offset) in [("Asia/Kolkata", 19_800), ("Etc/GMT+3", -10_800), ("UTC", 0)] {
        let ports = Ports::start(&format!("tz: {zone}\n{}", porch())).await;
        for way in [Way::Tcp, Way::Tls, Way::WebSocket] {
            let mut sketch = ports.connect(way, zone).await;
            sketch.log_in(TOK).await;

            sketch.send(&bytes("1100040003727463"));
            let answer = sketch.frame().await;

            assert_eq!((answer.command, answer.id), (command::INTERNAL, 4));
            let seconds = answer.body.strip_prefix("rtc·").expect("rtc");
            let seconds: i64 = seconds.parse().expect("seconds");
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.expect("after 1970").as_secs() as i64 + offset;
            assert!((now - 60..=now).contains(&seconds), "{zone}: {seconds}");
            sketch.quiet().await;
        }
    }
}

/// T48: nobody has to ask for a clock in the configuration.
#[tokio::test]
async fn rtc_is_answered_without_a_zone_too() {
    let ports = Ports::start(&porch()).await;
    let mut sketch = ports.sketch(TOK).await;

    sketch.send(&bytes("1100040003727463"));

    let answer = sketch.frame().await;
    assert_eq!((answer.command, answer.id), (command::INTERNAL, 4));
    assert!(answer.body.starts_with("rtc·1"), "{answer:?}");
}

/// How much later than it should a connection may be closed: the machine is shared.
const LATE: Duration = Duration::from_secs(8);

/// These take their time, so they take it together.
#[tokio::test]
async fn a_silent_sketch_is_closed_when_its_idle_time_is_over() {
    let ports = Ports::start(&porch()).await;

    tokio::join!(
        // T54: 23 s without an introduction; not a keep alive, so it is not asked.
        closes_after(&ports, None, 23),
        // T55: ceil(3 * 2.3).
        closes_after(&ports, Some("ver·0.6.1·h-beat·3"), 7),
        // Nothing about a heart beat, and one that is no number: nothing changes.
        closes_after(&ports, Some("ver·0.5.4·buff-in·4096·dev·js"), 23),
        closes_after(&ports, Some("ver·0.6.1·h-beat·often"), 23),
        closes_after(&ports, Some("mcu·0.1.0·h-beat·2"), 5),
        any_byte_counts(&ports),
        stays_open(&ports),
    );
}

/// Whoever does not say who he is, but comes and waits, is closed too.
#[tokio::test]
async fn who_begins_and_does_not_log_in_is_closed() {
    let ports = Ports::start(&porch()).await;
    let mut silent = Sketch::tcp(ports.http, "silent").await;
    let mut half = Sketch::tcp(ports.http, "half").await;
    let mut refused = Sketch::tcp(ports.http, "refused").await;
    half.send(&bytes("1d00010020"));
    refused.send(&bytes("1d00010003616263"));
    refused.expect(&bytes("0000010009")).await;

    let patience = Duration::from_secs(23) + LATE;
    tokio::join!(
        silent.closed_within(patience),
        half.closed_within(patience),
        refused.closed_within(patience),
    );
}

/// Says `info` after the login and then nothing more.
async fn closes_after(ports: &Ports, info: Option<&str>, seconds: u64) {
    let mut start = Instant::now();
    let mut sketch = ports.sketch(TOK).await;
    if let Some(info) = info {
        start = Instant::now();
        sketch.say(command::INTERNAL, 2, info);
        sketch.expect(&bytes("00000200c8")).await;
    }

    let idle = Duration::from_secs(seconds);
    sketch.closed_within(idle + LATE).await;

    let took = start.elapsed();
    // Measured from before the last bytes were sent.
    assert!(took >= idle, "{info:?}: {took:?}");
}

/// T56: a PING every five seconds, with an idle time of seven.
async fn stays_open(ports: &Ports) {
    let mut sketch = ports.sketch(TOK).await;
    sketch.say(command::INTERNAL, 2, "ver·0.6.1·h-beat·3");
    sketch.expect(&bytes("00000200c8")).await;
    for _ in 0..4 {
        // The idle time itself is what is tried here.
        tokio::time::sleep(Duration::from_secs(5)).await;
        sketch.quiet().await;
    }
}

/// Parts of a frame count like whole ones (blynk.md §1.6).
async fn any_byte_counts(ports: &Ports) {
    let mut sketch = ports.sketch(TOK).await;
    sketch.say(command::INTERNAL, 2, "ver·0.6.1·h-beat·3");
    sketch.expect(&bytes("00000200c8")).await;
    for byte in bytes("060009") {
        tokio::time::sleep(Duration::from_secs(5)).await;
        sketch.send(&[byte]);
        sketch.flush().await;
    }
    sketch.send(&bytes("0000"));
    sketch.expect(&bytes("00000900c8")).await;
}
