//! Who does not read, and who says one byte a second.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Yard;
use crate::support::blynk::{Frame, Sketch, command, frame, metric};
use crate::support::raw::{Hello, Raw, V};
use crate::support::{token, until};

/// A sketch that has stopped to read, while the app side writes.
#[tokio::test]
async fn a_sketch_that_never_reads_while_others_write() {
    const WRITES: usize = 10_000;
    /// KiB, of 10 MB that are written.
    const MARGIN: u64 = 6 * 1024;
    let mut yard = Yard::new().await;
    let mut deaf = Sketch::small(yard.http, "deaf").await;
    deaf.log_in(&token("shed")).await;
    deaf.introduce(4096).await;
    let mut reader = yard.sketch("shed").await;
    reader.introduce(4096).await;
    let mut device = Raw::log_in(yard.pinhook.address, Hello::mounted(V::V311, "shed")).await;
    device.subscribe(&[("downlink/ds/V6", 1)]).await;
    let mut root = yard.root().await;
    let idle = yard.pinhook.resident();

    let mut peak = 0;
    for number in 1..=WRITES {
        let value = format!("{number:0>1000}");
        assert_eq!(root.publish("pinhook/shed/set/V5", &value).await, 0);
        if number % 10 == 0 {
            // The other connection of the same device reads, and misses nothing.
            for number in number - 9..=number {
                let expected = format!("vw·5·{number:0>1000}");
                assert_eq!(reader.hardware().await, (111, expected));
            }
        }
        if number % 1000 == 0 {
            reader.quiet().await;
            peak = peak.max(yard.pinhook.resident());
            yard.is_served().await;
        }
    }

    assert!(
        peak <= idle + MARGIN,
        "{idle} KiB idle, {peak} KiB at its peak"
    );
    root.publish("pinhook/shed/set/V6", "still").await;
    assert_eq!(device.message().await.text(), "still");
    assert_eq!(reader.hardware().await.1, "vw·6·still");
    let said = "it reads too slowly, frames for it were dropped";
    until(said, || yard.pinhook.said().contains(said)).await;
    // It reads on: whole frames, and not all of them; or it was closed.
    let (mut heard, mut last, mut has_ended) = (0, 0, true);
    while let Some(Frame { body, .. }) = deaf.frame_or_end().await {
        match body.strip_prefix("vw·5·") {
            Some(value) => {
                let number: usize = value.parse().expect("a number");
                assert!(number > last, "{number} after {last}");
                last = number;
            }
            None => {
                assert_eq!(body, "vw·6·still");
                has_ended = false;
                break;
            }
        }
        heard += 1;
    }
    assert!((1..WRITES).contains(&heard), "{heard} of {WRITES} values");
    let dropped = r#"pinhook_blynk_dropped_total{reason="queue_full"}"#;
    let dropped = metric(yard.http, dropped).await;
    assert!(dropped > 0);
    if !has_ended {
        assert_eq!(heard + dropped, WRITES);
    }
    yard.settles(idle, MARGIN).await;
    yard.is_open().await;
}

/// A sketch that asks and asks, and does not read what it is answered.
#[tokio::test]
async fn a_sketch_that_asks_for_everything_and_reads_nothing() {
    /// KiB.
    const MARGIN: u64 = 8 * 1024;
    /// 32 MiB of questions at the most.
    const MOST: usize = 500;
    let mut yard = Yard::new().await;
    let idle = yard.pinhook.resident();
    let mut writer = yard.sketch("shed").await;
    writer.introduce(60_000).await;
    for pin in 0..100 {
        writer
            .write(&format!("vw·{pin}·{}", "x".repeat(10_000)))
            .await;
        writer.quiet().await;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let address = yard.http;
    let asking = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let hello = [
            frame(command::LOGIN, 1, &token("shed")),
            frame(command::INTERNAL, 2, "ver·1·buff-in·60000"),
        ]
        .concat();
        stream.write_all(&hello).await.expect("sent");
        // 100 values of 10 KB each time.
        let questions = frame(command::SYNC, 3, "").repeat(64 * 1024 / 5);
        for _ in 0..MOST {
            let sending =
                tokio::time::timeout(Duration::from_secs(2), stream.write_all(&questions));
            if !matches!(sending.await, Ok(Ok(()))) {
                break;
            }
        }
        stream
    });

    for _ in 0..20 {
        yard.is_served().await;
        let now = yard.pinhook.resident();
        assert!(now <= idle + MARGIN, "{idle} KiB idle, {now} KiB now");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(asking.await.expect("no panic"));
    yard.settles(idle, MARGIN).await;
    yard.is_open().await;
}

/// Who does not get on with its login does not stay for ever, and holds nobody up.
#[tokio::test]
async fn logins_of_one_byte_a_second() {
    const SLOW: usize = 50;
    /// Not quite a whole login; its time is over long before.
    const MOST: usize = 29;
    let mut yard = Yard::new().await;
    let before = yard.pinhook.descriptors();
    let mut dripping = JoinSet::new();
    for number in 0..SLOW {
        let address = yard.http;
        dripping.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            // Some of a login that would be right, some of one that would never end.
            let login = match number % 2 {
                0 => frame(command::LOGIN, 1, &token("shed")),
                _ => frame(command::LOGIN, 1, &"x".repeat(60_000)),
            };
            for byte in login.into_iter().take(MOST) {
                if stream.write_all(&[byte]).await.is_err() {
                    return true;
                }
                let mut answer = [0];
                let ended = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer));
                match ended.await {
                    Ok(Ok(1..)) => panic!("an answer to part of a login"),
                    Ok(Ok(0) | Err(_)) => return true,
                    Err(_) => {}
                }
            }
            false
        });
    }

    while !dripping.is_empty() {
        yard.is_open().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        while let Some(ended) = dripping.try_join_next() {
            assert!(ended.expect("no panic"), "still there after {MOST} s");
        }
    }
    until("their sockets are closed", || {
        yard.pinhook.descriptors() <= before
    })
    .await;
    yard.is_served().await;
}
