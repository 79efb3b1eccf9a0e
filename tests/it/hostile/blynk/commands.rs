//! Every command, with nothing and with as much as a frame can hold; frames cut anywhere.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Yard;
use crate::support::blynk::{Frame, Sketch, command, frame, frame_of, response};
use crate::support::{token, until};

/// As much as a frame can hold.
const MOST: usize = 65_535;

/// What is answered to a command of a sketch that has logged in (blynk.md §1.2); `None`: nothing.
fn answered(command: u8, is_empty: bool) -> Option<u16> {
    match command {
        command::PING => Some(200),
        2 | command::LOGIN => Some(4),
        command::TWEET | command::NOTIFY | command::SMS => Some(13),
        command::EMAIL => Some(6),
        command::BRIDGE => Some(2),
        // All that there is, which is nothing; and a type that is none.
        command::SYNC => (!is_empty).then_some(2),
        // No introduction, as long as it is: passed over.
        command::INTERNAL => is_empty.then_some(2),
        command::PROPERTY => Some(11),
        // An operation that writes nothing is passed over.
        command::HARDWARE => is_empty.then_some(2),
        _ => None,
    }
}

#[tokio::test]
async fn every_command_after_the_login() {
    /// Frames of one connection: a quota is not what is tried here.
    const EACH: usize = 40;
    let mut yard = Yard::new().await;
    for body in [vec![], vec![b'x'; MOST]] {
        let is_empty = body.is_empty();
        let valid: Vec<u8> = (0..100).collect();
        for commands in valid.chunks(EACH) {
            let mut sketch = yard.sketch("shed").await;
            for command in commands {
                // A RESPONSE has no body: what follows is the next frame.
                match command {
                    0 => sketch.send(&response(9, 200)),
                    _ => sketch.send(&frame_of(*command, 9, &body)),
                }
                if let Some(status) = answered(*command, is_empty) {
                    let found = sketch.frame().await;
                    let expected = (command::RESPONSE, 9, status);
                    let found = (found.command, found.id, found.status);
                    assert_eq!(found, expected, "{command} with {} bytes", body.len());
                }
                sketch.quiet().await;
            }
            yard.is_served().await;
        }
        for command in 100..=255 {
            let mut sketch = yard.sketch("shed").await;
            sketch.send(&frame_of(command, 9, &body));
            sketch.closed().await;
        }
        yard.is_open().await;
    }
}

/// Whoever has not logged in may only log in.
#[tokio::test]
async fn every_command_before_the_login() {
    let mut yard = Yard::new().await;
    for body in [vec![], vec![b'x'; MOST]] {
        for command in 0..=255 {
            if [2, command::LOGIN].contains(&command) {
                continue;
            }
            let name = format!("{command} with {} bytes", body.len());
            // What looks like HTTP, TLS or MQTT is for those; within a WebSocket nothing does.
            let is_anothers =
                matches!(command, b'A'..=b'Z' | b'a'..=b'z' | b'\r' | b'\n' | 16 | 22);
            let stream = TcpStream::connect(yard.http).await.expect("a connection");
            let mut sketch = match is_anothers {
                true => Sketch::over_websocket(Box::new(stream), &name).await,
                false => Sketch::over(Box::new(stream), &name),
            };
            sketch.send(&frame_of(command, 9, &body));
            sketch.closed().await;
            yard.pinhook.assert_unharmed();
        }
        yard.is_open().await;
    }
}

/// Whoever is not logged in is heard as far as a login may go, and no further.
#[tokio::test]
async fn logins_with_nothing_and_with_all_that_a_frame_can_hold() {
    let mut yard = Yard::new().await;
    for body in [
        vec![],
        vec![b'x'; 400],
        vec![0; 400],
        vec![b' '; 400],
        vec![0xFF; 32],
    ] {
        let mut sketch = Sketch::tcp(yard.http, "large").await;
        sketch.send(&frame_of(command::LOGIN, 1, &body));
        sketch.expect(&response(1, 9)).await;
        sketch.log_in(&token("shed")).await;
        sketch.quiet().await;
    }
    let mut sketch = Sketch::tcp(yard.http, "blanks").await;
    let body = format!("{:^400}", token("shed"));
    sketch.say(command::LOGIN, 1, &body);
    sketch.expect(&response(1, 200)).await;
    for command in [2, command::LOGIN] {
        let mut sketch = Sketch::tcp(yard.http, "endless").await;
        sketch.send(&frame_of(command, 1, &vec![b'x'; MOST]));
        sketch.closed().await;
        // Not even the header's promise is waited for.
        let mut sketch = Sketch::tcp(yard.http, "header").await;
        sketch.send(&[command, 0, 1, 0xFF, 0xFF]);
        sketch.closed().await;
    }
    yard.is_open().await;
}

/// Any bytes at all, for whoever reads them.
#[tokio::test]
async fn bodies_that_are_nothing_but_separators() {
    let mut yard = Yard::new().await;
    let mut sketch = yard.sketch("shed").await;
    for command in 1..100 {
        if command % 30 == 0 {
            sketch = yard.sketch("shed").await;
        }
        sketch.send(&frame_of(command, 9, &vec![0; MOST]));
        // Whatever is answered: it goes on.
        sketch.say(command::PING, 7, "");
        while sketch.frame().await != Frame::response(7, 200) {}
    }
    yard.is_open().await;
}

/// A whole conversation, which ends after each of its bytes.
#[tokio::test]
async fn frames_cut_anywhere_and_then_nobody_there() {
    let mut yard = Yard::new().await;
    let said = [
        frame(command::LOGIN, 1, &token("shed")),
        frame(
            command::INTERNAL,
            2,
            "ver·0.6.1·h-beat·10·buff-in·256·dev·Linux·",
        ),
        frame(command::HARDWARE, 3, "vw·5·1·2"),
        frame(command::SYNC, 4, "vr·5"),
        frame(command::BRIDGE, 5, &format!("1·i·{}", token("shed"))),
        frame(command::PROPERTY, 6, "5·label·Lamp"),
        frame(command::EVENT_LOG, 7, "alarm·it burns"),
        frame(command::PING, 8, ""),
    ]
    .concat();
    let before = yard.pinhook.descriptors();

    for cut in 0..said.len() {
        let mut stream = TcpStream::connect(yard.http).await.expect("a connection");
        stream.write_all(&said[..cut]).await.expect("sent");
        if cut % 2 == 0 {
            stream.set_zero_linger().expect("a reset");
        }
        drop(stream);
        if cut % 50 == 0 {
            yard.is_served().await;
        }
    }

    until("all of them are forgotten", || {
        yard.pinhook.descriptors() <= before
    })
    .await;
    yard.is_open().await;
}
