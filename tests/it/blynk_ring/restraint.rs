//! What others cause waits until the sketch was answered, or for a second after its login: blynklib
//! drops a connection whose first frame after the login is not the answer to its introduction
//! (blynk.md §6.3).

use std::time::{Duration, Instant};

use super::{ASK, Ports, Raw, command, config, echo, observer, response, token, written};
use crate::support::blynk::Sketch;

/// How long others wait at most.
const RESTRAINT: Duration = Duration::from_secs(1);

/// Attempts to be faster than that.
const ATTEMPTS: usize = 5;

/// A sketch that has just logged in, while somebody writes for it; and when it began to.
async fn newcomer(ports: &Ports, root: &mut Raw) -> (Sketch, Instant) {
    let start = Instant::now();
    let sketch = ports.sketch(&token("porch")).await;
    assert_eq!(root.publish("pinhook/porch/set/V5", "early").await, 0);
    (sketch, start)
}

/// Says what it is as blynklib does, with 9 for its id.
fn introduce(sketch: &mut Sketch) {
    let info = "ver·0.2.6·buff-in·1024·h-beat·10·dev·python";
    sketch.say(command::INTERNAL, 9, info);
}

#[tokio::test]
async fn what_others_write_comes_after_the_answer_to_the_introduction() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut root = observer(&ports, &["any"]).await;
    for attempt in 1..=ATTEMPTS {
        let (mut sketch, start) = newcomer(&ports, &mut root).await;

        // What it asks for itself comes at once.
        sketch.say(command::PING, 7, "");
        let ping = sketch.frame().await;
        sketch.write("vw·9·own").await;
        sketch.say(command::SYNC, 8, "vr·9");
        let synced = sketch.frame().await;
        introduce(&mut sketch);
        let info = sketch.frame().await;
        let introduced = start.elapsed();
        let held = sketch.hardware().await;

        if introduced > RESTRAINT && attempt < ATTEMPTS {
            // Too slow: the second is over, and what was held back may have come before.
            continue;
        }
        assert_eq!((ping.command, ping.id), (command::RESPONSE, 7));
        assert_eq!((synced.id, synced.body.as_str()), (8, "vw·9·own"));
        assert_eq!((info.id, info.status), (9, 200), "{introduced:?}");
        assert_eq!(held, written("vw·5·early"));
        sketch.quiet().await;
        return;
    }
}

#[tokio::test]
async fn what_others_write_comes_a_second_after_the_login_at_the_latest() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut root = observer(&ports, &["any"]).await;
    let (mut sketch, start) = newcomer(&ports, &mut root).await;
    root.publish("pinhook/porch/set/V5", "second").await;
    root.publish("pinhook/porch/set/V6", "third").await;

    assert_eq!(sketch.hardware().await, written("vw·5·early"));

    let took = start.elapsed();
    assert!(took >= RESTRAINT - Duration::from_millis(50), "{took:?}");
    // All of it, and in its order.
    assert_eq!(sketch.hardware().await, written("vw·5·second"));
    assert_eq!(sketch.hardware().await, written("vw·6·third"));
    // From now on nothing waits.
    nothing_waits(&mut sketch, &mut root).await;
}

/// A webhook's response to a write before the introduction waits as well.
#[tokio::test]
async fn a_response_comes_after_the_answer_to_the_introduction() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut root = observer(&ports, &["pinhook/porch/webhook/ask"]).await;
    for attempt in 1..=ATTEMPTS {
        let start = Instant::now();
        let mut sketch = ports.sketch(&token("porch")).await;
        sketch.write("vw·0·1").await;
        // The response is there, as far as the daemon is concerned.
        assert!(root.message().await.text().contains(r#""outcome":"ok""#));

        introduce(&mut sketch);
        let info = sketch.frame().await;
        let introduced = start.elapsed();
        let held = sketch.hardware().await;

        if introduced > RESTRAINT && attempt < ATTEMPTS {
            continue;
        }
        assert_eq!((info.id, info.status), (9, 200), "{introduced:?}");
        assert_eq!(held, (888, "vw·0·/1".to_owned()));
        return;
    }
}

/// What is held back does not grow without end.
#[tokio::test]
async fn a_login_in_the_middle_of_many_writes_keeps_the_connection() {
    let service = echo().await;
    let yaml = config(&service, "", ASK) + "limits: {writes_per_second: 0}\n";
    let ports = Ports::start(&yaml).await;
    let mut root = observer(&ports, &["any"]).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    for number in 0..300 {
        root.publish("pinhook/porch/set/V5", number.to_string())
            .await;
    }

    introduce(&mut sketch);

    // Whatever is dropped of the many: the newest is not.
    let mut is_introduced = false;
    loop {
        let frame = sketch.frame().await;
        match frame.command {
            command::RESPONSE => {
                assert_eq!((frame.id, frame.status), (9, 200));
                is_introduced = true;
            }
            _ if frame.body == "vw·5·299" => break,
            _ => assert_eq!(frame.id, 111, "{frame:?}"),
        }
    }
    if !is_introduced {
        sketch.expect(&response(9, 200)).await;
    }
    sketch.quiet().await;
}

/// Expects that a write of somebody else comes without delay.
async fn nothing_waits(sketch: &mut Sketch, root: &mut Raw) {
    let mut fastest = Duration::MAX;
    for number in 0..ATTEMPTS {
        let start = Instant::now();
        root.publish("pinhook/porch/set/V7", number.to_string())
            .await;
        assert_eq!(sketch.hardware().await, written(&format!("vw·7·{number}")));
        fastest = fastest.min(start.elapsed());
    }
    assert!(fastest < RESTRAINT / 2, "{fastest:?}");
}
