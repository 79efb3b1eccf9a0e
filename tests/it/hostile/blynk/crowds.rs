//! Many at once: who guesses tokens, and who is only there.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Yard;
use crate::support::blynk::{Sketch, command, frame, metric, response};
use crate::support::{PATIENCE, token, within};

/// How much slower an honest one may be while others attack.
const RATIO: u32 = 100;

/// A connection from `source`.
async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(address).await
}

/// Says a thousand logins with wrong tokens a second, over some connections that stay and over new
/// ones, and takes what is answered; for ever.
async fn guess(source: Ipv4Addr, address: SocketAddr) {
    const EVERY: Duration = Duration::from_millis(50);
    /// Logins each time, of which every second connection says all at once.
    const LOGINS: usize = 50;
    const CONNECTIONS: usize = 10;
    let mut connections: Vec<Option<TcpStream>> = (0..CONNECTIONS).map(|_| None).collect();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for round in 0_u32.. {
        ticks.tick().await;
        for (place, held) in connections.iter_mut().enumerate() {
            if held.is_none() {
                *held = connect_from(source, address).await.ok();
            }
            let Some(stream) = held else { continue };
            let mut said = Vec::new();
            for number in 0..LOGINS / CONNECTIONS {
                let wrong = format!("wrong{round:09}x{place:02}x{number:02}xxxxxxxxxxxxx");
                said.extend(frame(command::LOGIN, 1, &wrong));
            }
            let mut taken = [0; 512];
            // What cannot be sent or taken now is not waited for.
            let is_gone = match stream.try_write(&said) {
                Ok(length) => length < said.len() || matches!(stream.try_read(&mut taken), Ok(0)),
                Err(_) => true,
            };
            if is_gone || (place % 2 == 0 && round % 4 == 0) {
                *held = None;
            }
        }
    }
}

#[tokio::test]
async fn a_thousand_wrong_logins_a_second_next_to_an_honest_sketch() {
    // From elsewhere, and from the very address of the honest one.
    for source in [Ipv4Addr::new(127, 0, 0, 66), Ipv4Addr::LOCALHOST] {
        let mut yard = Yard::new().await;
        let idle = yard.pinhook.resident();
        let calm = yard.ping().await.max(Duration::from_millis(1));
        let mut guessing = JoinSet::new();
        guessing.spawn(guess(source, yard.http));

        let mut logins = Vec::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            let attacked = yard.ping().await;
            assert!(
                attacked <= calm * RATIO,
                "{source}: {calm:?} became {attacked:?}"
            );
            // A right token is never made to wait (product.md §3.1).
            let login = Instant::now();
            let mut newcomer = yard.sketch("shed").await;
            logins.push(login.elapsed());
            newcomer.quiet().await;
            yard.is_served().await;
        }

        logins.sort_unstable();
        let login = logins[logins.len() / 2];
        assert!(login <= calm * RATIO, "{source}: a login took {login:?}");
        guessing.shutdown().await;
        assert!(
            !yard.pinhook.said().contains("wrong0"),
            "a token in the log"
        );
        yard.settles(idle, 10 * 1024).await;
        yard.is_open().await;
    }
}

/// As for every login (product.md §3.1): ten wrong ones in a minute are answered at once, the next
/// ones after a second and more; a right one never waits.
#[tokio::test]
async fn guesses_are_answered_more_and_more_slowly_and_a_right_one_at_once() {
    const WRONG: &str = "not-a-token-of-anybody-at-all-xx";
    let mut yard = Yard::new().await;
    // Whoever does not wait for an answer is owed none, and closed.
    let mut hasty = Sketch::tcp(yard.http, "hasty").await;
    for id in 1..=100 {
        hasty.say(command::LOGIN, id, WRONG);
    }
    let mut answered = 0;
    while let Some(frame) = hasty.frame_or_end().await {
        assert_eq!((frame.command, frame.status), (command::RESPONSE, 9));
        answered += 1;
    }
    assert!(answered < 30, "{answered} of 100 at once");

    let mut slow = Sketch::tcp(yard.http, "slow").await;
    let start = Instant::now();
    slow.say(command::LOGIN, 1, WRONG);
    slow.expect(&response(1, 9)).await;
    let delay = start.elapsed();
    assert!(delay >= Duration::from_secs(1), "{delay:?}");
    let start = Instant::now();
    slow.log_in(&token("shed")).await;
    assert!(start.elapsed() < delay, "{:?}", start.elapsed());
    slow.quiet().await;
    yard.is_open().await;
}

/// What 5,000 sketches take that have nothing to say, and that they are held.
#[tokio::test]
async fn five_thousand_idle_sketches() {
    const SKETCHES: usize = 5000;
    const PER_ADDRESS: usize = 500;
    const AT_ONCE: usize = 100;
    /// KiB for each (product.md §12).
    const EACH: f64 = 6.0;
    let limits = format!("connections: 6000, connections_per_address: {PER_ADDRESS}");
    let mut yard = Yard::with_limits(&limits).await;
    // What the first connections need is not for each.
    drop(yard.sketch("shed").await);
    let before = yard.pinhook.resident();
    let address = yard.http;
    let mut held = Vec::new();
    let said = [
        frame(command::LOGIN, 1, &token("shed")),
        // An hour, so that none is closed meanwhile.
        frame(
            command::INTERNAL,
            2,
            "ver·0.6.1·h-beat·1000·buff-in·256·dev·Linux·",
        ),
        frame(command::PING, 3, ""),
    ]
    .concat();
    let expected = [response(1, 200), response(2, 200), response(3, 200)].concat();
    for first in (0..SKETCHES).step_by(AT_ONCE) {
        let mut coming = JoinSet::new();
        for index in first..first + AT_ONCE {
            let host = u8::try_from(10 + index / PER_ADDRESS).expect("few addresses");
            let (said, expected) = (said.clone(), expected.clone());
            coming.spawn(async move {
                let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, host), address)
                    .await
                    .expect("a connection");
                stream.write_all(&said).await.expect("sent");
                let mut answers = vec![0; expected.len()];
                let reading = stream.read_exact(&mut answers);
                within("the answers", reading).await.expect("a connection");
                assert_eq!(answers, expected);
                stream
            });
        }
        held.extend(coming.join_all().await);
        if first % 1000 == 0 {
            yard.is_served().await;
        }
    }

    // What is free is given back soon, and not at once.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = yard.pinhook.resident().saturating_sub(before) as f64 / SKETCHES as f64;
    println!("{each:.2} KiB for each of {SKETCHES} idle sketches");
    assert!(each <= EACH, "{each:.2} KiB for each idle sketch");
    yard.is_served().await;
    let connected = metric(yard.http, r#"pinhook_connections{protocol="blynk"}"#);
    assert_eq!(connected.await, SKETCHES + 1);
    // They are there: the last and the first are answered, and hear what is written.
    let mut root = yard.root().await;
    root.publish("pinhook/shed/set/V5", "all").await;
    let write = frame(command::HARDWARE, 111, "vw·5·all");
    for stream in &mut held {
        let mut heard = vec![0; write.len()];
        let reading = tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard)).await;
        reading.expect("in time").expect("a connection");
        assert_eq!(heard, write);
    }
    drop(held);
    yard.is_open().await;
}
