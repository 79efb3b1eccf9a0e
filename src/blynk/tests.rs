//! Conversations over a stream in memory, on a clock that moves when nothing else can
//! happen any more: what is due when.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::command::write_body;
use super::frame::{Frame, HEADER, code};
use super::*;
use crate::access::{self, DeviceLogin, Filters};
use crate::hub::{self, Cause, Downlink, What};
use crate::model::device::tests as devices;
use crate::model::mask::Mask;
use crate::model::{Device, PinMode, Source, Write};

const PORCH: &str = "token-of-the-porch";
const SHED: &str = "token-of-the-shed-";

/// The devices porch, which may write to shed, and shed with this token.
fn logins(shed: &str) -> access::Settings {
    let porch = Device {
        bridge_to: vec!["shed".parse().unwrap()],
        pin_modes: [("D1", PinMode::Out), ("D6", PinMode::In)]
            .map(|(pin, mode)| (pin.parse().unwrap(), mode))
            .into(),
        ..devices::device("porch", PORCH)
    };
    let login = |device| DeviceLogin {
        device: Arc::new(device),
        publish: Filters::default(),
        subscribe: Filters::default(),
    };
    access::Settings {
        devices: vec![login(porch), login(devices::device("shed", shed))],
        users: Vec::new(),
    }
}

fn blynk() -> Blynk {
    let access = logins(SHED);
    let hub = Hub::new(hub::Settings {
        routes: hub::Routes {
            devices: access
                .devices
                .iter()
                .map(|login| Arc::clone(&login.device))
                .collect(),
            webhooks: Vec::new(),
            zone: jiff::tz::TimeZone::UTC,
            owner_email: None,
        },
        writes_per_second: 0,
        value: 1024,
        first_id: 1,
    });
    let gossip = Arc::new(Gossip::new(Mask::default()));
    Blynk::new(hub, Arc::new(Access::new(access)), gossip)
}

impl Blynk {
    /// Writes as the app side.
    fn app_writes(&self, device: &str, pin: &str, value: &str) {
        let write = Write {
            device: device.parse().unwrap(),
            pin: pin.parse().unwrap(),
            value: value.into(),
            source: Source::App,
        };
        self.shared.hub.write(write, Instant::now().into()).unwrap();
    }

    /// Has a webhook's response.
    fn responds(&self, device: &str, pin: &str, value: &str) {
        let device = self.shared.hub.device(device).unwrap();
        let (pin, value) = (pin.parse().unwrap(), value.into());
        let what = What::Value(pin, value, Cause::Response);
        self.shared.sketches.send(&Downlink { device, what });
    }
}

/// A sketch, in frames; fields of a body are written with `·` between them.
struct Sketch {
    stream: DuplexStream,
    serving: JoinHandle<()>,
    inbox: Vec<u8>,
}

/// What a sketch hears: code, id, and body or status.
type Heard = (u8, u16, String);

fn heard(code: u8, id: u16, body: &str) -> Heard {
    (code, id, body.to_owned())
}

fn said(code: u8, id: u16, body: &str) -> Vec<u8> {
    let body = body.replace('·', "\0");
    let frame = Frame::Command {
        code,
        id,
        body: body.as_bytes(),
    };
    frame.encode().unwrap().to_vec()
}

impl Sketch {
    async fn connect(blynk: &Blynk) -> Sketch {
        let (stream, ours) = duplex(64 * 1024);
        // As TLS does, it holds back what is written until it is told to flush.
        let serving = tokio::spawn(blynk.converse(BufStream::new(ours)));
        Sketch {
            stream,
            serving,
            inbox: Vec::new(),
        }
    }

    async fn log_in(blynk: &Blynk, token: &str) -> Sketch {
        let mut sketch = Sketch::connect(blynk).await;
        sketch.say(code::HARDWARE_LOGIN, 1, token).await;
        assert_eq!(sketch.hear().await, heard(code::RESPONSE, 1, "200"));
        sketch
    }

    async fn introduce(blynk: &Blynk, token: &str, info: &str) -> Sketch {
        let mut sketch = Sketch::log_in(blynk, token).await;
        sketch.say(code::INTERNAL, 2, info).await;
        assert_eq!(sketch.hear().await, heard(code::RESPONSE, 2, "200"));
        sketch
    }

    async fn say(&mut self, code: u8, id: u16, body: &str) {
        self.stream.write_all(&said(code, id, body)).await.unwrap();
    }

    /// The next frame; `None` when the daemon has closed.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some((frame, length)) = Frame::decode(&self.inbox) {
                let heard = match frame {
                    Frame::Response { id, status } => {
                        heard(code::RESPONSE, id, &status.to_string())
                    }
                    Frame::Command { code, id, body } => {
                        let body = String::from_utf8(body.to_vec()).unwrap();
                        (code, id, body.replace('\0', "·"))
                    }
                };
                self.inbox.drain(..length);
                return Some(heard);
            }
            let read = self.stream.read_buf(&mut self.inbox);
            let read = timeout(Duration::from_secs(100_000), read).await;
            if read.expect("something happens").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        self.next().await.expect("the connection is open")
    }
}

const PYTHON: &str = "ver·0.2.6·buff-in·1024·h-beat·10·dev·python";

#[tokio::test(start_paused = true)]
async fn a_sketch_for_python_has_pauses_between_values_whatever_it_says_later() {
    let blynk = blynk();
    let mut sketch = Sketch::introduce(&blynk, SHED, PYTHON).await;
    sketch.say(code::INTERNAL, 3, "h-beat·20").await;
    assert_eq!(sketch.hear().await, heard(code::RESPONSE, 3, "200"));
    for n in 0..5 {
        blynk.app_writes("shed", "V1", &n.to_string());
    }

    let begun = Instant::now();
    for n in 0..5 {
        let expected = heard(code::HARDWARE, 111, &format!("vw·1·{n}"));
        assert_eq!(sketch.hear().await, expected);
        assert!(begun.elapsed() >= Duration::from_millis(20) * (n + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_waited_for_the_introduction_comes_a_pause_after_the_modes() {
    let blynk = blynk();
    let mut sketch = Sketch::log_in(&blynk, PORCH).await;
    blynk.app_writes("porch", "V1", "x");
    sketch.say(code::INTERNAL, 2, PYTHON).await;
    assert_eq!(sketch.hear().await, heard(code::RESPONSE, 2, "200"));
    let modes = heard(code::HARDWARE, 1, "pm·1·out·6·in");
    assert_eq!(sketch.hear().await, modes);

    let begun = Instant::now();
    assert_eq!(sketch.hear().await, heard(code::HARDWARE, 111, "vw·1·x"));
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn at_a_stop_the_last_values_have_pauses_too_and_responses_come_first() {
    let blynk = blynk();
    let mut sketch = Sketch::introduce(&blynk, SHED, PYTHON).await;
    for n in 0..10 {
        blynk.app_writes("shed", "V1", &n.to_string());
    }
    blynk.responds("shed", "V2", "ok");
    let closing = tokio::spawn(async move { blynk.close().await });

    let begun = Instant::now();
    assert_eq!(sketch.hear().await, heard(code::HARDWARE, 888, "vw·2·ok"));
    assert!(begun.elapsed() >= Duration::from_millis(20));
    for n in 0..10 {
        let begun = Instant::now();
        let expected = heard(code::HARDWARE, 111, &format!("vw·1·{n}"));
        assert_eq!(sketch.hear().await, expected);
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }
    assert_eq!(sketch.next().await, None);
    closing.await.unwrap();
    sketch.serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_heard_during_a_long_sync_is_not_silent() {
    let blynk = blynk();
    for n in 0..=255 {
        blynk.app_writes("shed", &format!("V{n}"), "x");
        blynk.app_writes("shed", &format!("D{n}"), "x");
    }
    let python = "ver·0.2.6·h-beat·2·dev·python";
    let mut sketch = Sketch::introduce(&blynk, SHED, python).await;
    sketch.say(code::SYNC, 3, "").await;

    // Ten seconds, twice the idle limit.
    for n in 0..512 {
        if n % 50 == 0 {
            sketch.say(code::PING, 100 + n, "").await;
        }
        assert_eq!(sketch.hear().await.1, 3);
    }
    for n in (0..512).step_by(50) {
        assert_eq!(sketch.hear().await, heard(code::RESPONSE, 100 + n, "200"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_brings_the_newest_value_and_no_older_one_follows() {
    let blynk = blynk();
    let mut sketch = Sketch::log_in(&blynk, SHED).await;
    blynk.app_writes("shed", "V3", "of the app");
    blynk.app_writes("shed", "V4", "other");
    sketch.say(code::HARDWARE, 2, "vw·3·own").await;
    sketch.say(code::SYNC, 3, "vr·3").await;

    assert_eq!(sketch.hear().await, heard(code::HARDWARE, 3, "vw·3·own"));
    assert_eq!(
        sketch.hear().await,
        heard(code::HARDWARE, 111, "vw·4·other")
    );
    sketch.say(code::PING, 4, "").await;
    assert_eq!(sketch.hear().await, heard(code::RESPONSE, 4, "200"));
}

#[tokio::test(start_paused = true)]
async fn a_sync_ends_when_nobody_hears_it() {
    let blynk = blynk();
    blynk.app_writes("shed", "V1", &"x".repeat(1000));
    let mut sketch = Sketch::introduce(&blynk, SHED, "ver·1·buff-in·2000").await;
    let many = format!("vr{}", "·1".repeat(256));
    for id in 3..100 {
        sketch.say(code::SYNC, id, &many).await;
    }
    let (_, before) = blynk.shared.tally.frames();

    drop(sketch.stream);
    sketch.serving.await.unwrap();

    let (_, sent) = blynk.shared.tally.frames();
    assert!(sent - before < 500, "{} of {}", sent - before, 97 * 256);
}

#[tokio::test(start_paused = true)]
async fn the_modes_of_pins_come_behind_the_introduction_or_after_a_second_in_frames_that_fit() {
    let blynk = blynk();
    let begun = Instant::now();
    let mut silent = Sketch::log_in(&blynk, PORCH).await;
    let both = heard(code::HARDWARE, 1, "pm·1·out·6·in");
    assert_eq!(silent.hear().await, both);
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let begun = Instant::now();
    let mut small = Sketch::introduce(&blynk, PORCH, "ver·1·buff-in·16").await;
    assert_eq!(small.hear().await, heard(code::HARDWARE, 1, "pm·1·out"));
    assert_eq!(small.hear().await, heard(code::HARDWARE, 1, "pm·6·in"));
    assert!(begun.elapsed() < Duration::from_secs(1));

    let mut tiny = Sketch::introduce(&blynk, PORCH, "ver·1·buff-in·3").await;
    tiny.say(code::PING, 3, "").await;
    assert_eq!(tiny.hear().await, heard(code::RESPONSE, 3, "200"));
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_before_a_mistake_is_heard() {
    let blynk = blynk();
    let mut sketch = Sketch::connect(&blynk).await;
    let both = [
        said(code::HARDWARE_LOGIN, 1, "no-token"),
        said(code::PING, 2, ""),
    ];
    sketch.stream.write_all(&both.concat()).await.unwrap();

    assert_eq!(sketch.next().await, Some(heard(code::RESPONSE, 1, "9")));
    assert_eq!(sketch.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_heard_up_to_the_one_that_is_held_back() {
    let blynk = blynk();
    let mut guesser = Sketch::connect(&blynk).await;
    let guesses = (1..=12).map(|id| said(code::HARDWARE_LOGIN, id, "no-token"));
    let guesses: Vec<u8> = guesses.flatten().collect();
    guesser.stream.write_all(&guesses).await.unwrap();

    for id in 1..10 {
        assert_eq!(guesser.next().await, Some(heard(code::RESPONSE, id, "9")));
    }
    while guesser.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_bridge_ends_with_the_token_it_was_opened_with() {
    let blynk = blynk();
    let mut shed = Sketch::introduce(&blynk, SHED, "ver·1").await;
    let mut porch = Sketch::log_in(&blynk, PORCH).await;
    porch.say(code::BRIDGE, 2, &format!("1·i·{SHED}")).await;
    assert_eq!(porch.hear().await, heard(code::RESPONSE, 2, "200"));
    porch.say(code::BRIDGE, 3, "1·vw·5·x").await;
    assert_eq!(shed.hear().await, heard(code::BRIDGE, 3, "vw·5·x"));

    blynk
        .shared
        .access
        .reconfigure(logins("another-token-of-shed"));
    blynk.evict();

    assert_eq!(shed.next().await, None);
    porch.say(code::BRIDGE, 4, "1·vw·5·y").await;
    loop {
        // Its own modes come in between.
        let (code, id, body) = porch.hear().await;
        if code == code::RESPONSE {
            assert_eq!((id, &*body), (4, "6"));
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_over_a_bridge_takes_the_place_of_its_own_frames() {
    let blynk = blynk();
    let mut shed = Sketch::log_in(&blynk, SHED).await;
    blynk.app_writes("shed", "V7", "precious");
    let mut porch = Sketch::log_in(&blynk, PORCH).await;
    porch.say(code::BRIDGE, 2, &format!("1·i·{SHED}")).await;
    for id in 3..180 {
        porch.say(code::BRIDGE, id, "1·vw·1·x").await;
    }

    assert_eq!(
        shed.hear().await,
        heard(code::HARDWARE, 111, "vw·7·precious")
    );
    for _ in 0..99 {
        assert_eq!(shed.hear().await.0, code::BRIDGE);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_has_no_answer_whatever_becomes_of_it() {
    let blynk = blynk();
    let mut sketch = Sketch::log_in(&blynk, SHED).await;
    sketch
        .say(code::EVENT_LOG, 2, &format!("alarm·{}", "x".repeat(2000)))
        .await;
    sketch.say(code::EVENT_LOG, 3, "no code").await;
    sketch.say(code::PING, 4, "").await;

    assert_eq!(sketch.hear().await, heard(code::RESPONSE, 4, "200"));
}

#[tokio::test(start_paused = true)]
async fn the_idle_limit_follows_the_heartbeat_up_to_an_hour_of_it() {
    for (info, seconds) in [
        ("", 23),
        ("ver·1", 23),
        ("ver·1·h-beat·3", 7),
        ("ver·1·h-beat·40", 92),
        ("ver·1·h-beat·0", 23),
        ("ver·1·h-beat·100000", 8280),
    ] {
        let blynk = blynk();
        let mut sketch = match info {
            "" => Sketch::log_in(&blynk, SHED).await,
            info => Sketch::introduce(&blynk, SHED, info).await,
        };
        let begun = Instant::now();

        assert_eq!(sketch.next().await, None, "{info}");

        assert_eq!(begun.elapsed().as_secs(), seconds, "{info}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_is_as_large_as_the_sketch_says_when_it_goes() {
    let blynk = blynk();
    let mut sketch = Sketch::log_in(&blynk, SHED).await;
    blynk.app_writes("shed", "V1", &"x".repeat(200));
    blynk.app_writes("shed", "V2", "short");
    sketch.say(code::INTERNAL, 2, "ver·1·buff-in·100").await;
    assert_eq!(sketch.hear().await, heard(code::RESPONSE, 2, "200"));

    let short = write_body("V2".parse().unwrap(), &"short".into());
    assert!(HEADER + short.len() <= 100);
    assert_eq!(
        sketch.hear().await,
        heard(code::HARDWARE, 111, "vw·2·short")
    );
}
