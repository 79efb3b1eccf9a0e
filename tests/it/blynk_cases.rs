//! The cases of blynk.md §5.1, by TCP, inside TLS and by WebSocket. `blynk_cases/cases.txt` says
//! what its lines mean and which cases are not there; here are those with a clock or with numbers.

mod clock;
mod notifications;
mod quotas;
mod script;

use crate::support::blynk::{
    Cut, Ports, Sketch, TOK, Way, bytes, command, frame, hex, http_get, response,
};
use script::Case;

#[tokio::test]
async fn every_case_over_tcp() {
    script::play(Way::Tcp).await;
}

#[tokio::test]
async fn every_case_inside_tls() {
    script::play(Way::Tls).await;
}

#[tokio::test]
async fn every_case_over_websocket() {
    script::play(Way::WebSocket).await;
}

#[tokio::test]
async fn every_case_over_websocket_inside_tls() {
    script::play(Way::WebSocketInTls).await;
}

/// The table is read as it is meant: cases that are lost prove nothing.
#[test]
fn every_number_is_in_the_table_or_said_to_be_elsewhere() {
    let elsewhere = [11, 48, 49, 53, 54, 55, 56, 78, 79, 81, 82, 83, 85];
    let cases = Case::all();
    for number in 1..=86 {
        let name = format!("T{number}");
        let count = cases.iter().filter(|case| case.name == name).count();
        let expected = usize::from(!elsewhere.contains(&number));
        assert_eq!(count, expected, "{name}");
    }
}

/// What these tests say frames with is what blynk.md says they are.
#[test]
fn frames_are_those_of_the_specification() {
    assert_eq!(frame(command::PING, 3, ""), bytes("0600030000"));
    let write = "14000d000d 76770031003130003131003132";
    assert_eq!(frame(command::HARDWARE, 13, "vw·1·10·11·12"), bytes(write));
    assert_eq!(hex(&response(0x102, 200)), "00010200c8");
    assert_eq!(frame(command::LOGIN, 1, TOK)[..5], [29, 0, 1, 0, 32]);
}

/// The `devices:` of a configuration with the fixture's device alone.
fn porch() -> String {
    format!("devices:\n  porch: {{token: {TOK}}}\n")
}

/// T53: without an introduction, a body may have 250 bytes.
#[tokio::test]
async fn a_body_of_250_bytes_fits_a_sketch_that_has_not_introduced_itself() {
    let ports = Ports::start(&porch()).await;
    let mut sketch = ports.sketch(TOK).await;

    for length in [246, 245] {
        let update = format!("/{TOK}/update/V1?value={}", "x".repeat(length));
        assert_eq!(http_get(ports.http, &update).await.0, 200);
    }

    // Had the longer one been sent, it would come first.
    let expected = frame(command::HARDWARE, 111, &format!("vw·1·{}", "x".repeat(245)));
    assert_eq!(expected.len(), 5 + 250);
    sketch.expect(&expected).await;
    sketch.quiet().await;
}

/// T11: a command that is none, before the login. Its first byte is a letter, so it is
/// told from HTTP by its second, if that comes with it; alone it is left to HTTP.
#[tokio::test]
async fn who_begins_with_a_command_that_is_none_is_closed_without_an_answer() {
    let ports = Ports::start(&porch()).await;
    for way in [Way::Tcp, Way::Tls, Way::WebSocket] {
        let mut sketch = ports.connect(way, "T11").await.cut(Cut::Whole);
        sketch.send(&bytes("640005000178"));
        sketch.closed().await;
    }
}

/// T85: what is for a browser is not for a sketch.
#[tokio::test]
async fn http_is_answered_by_http_on_the_same_port() {
    let ports = Ports::start(&porch()).await;

    let (status, _) = http_get(ports.http, "/").await;

    assert_ne!(status, 301, "nobody is sent to the page of a vendor");
    assert_eq!(http_get(ports.http, "/healthz").await.0, 200);
}

/// Only binary messages are for the sketch's protocol (blynk.md §1.4).
#[tokio::test]
async fn text_messages_of_a_websocket_are_passed_over() {
    let ports = Ports::start(&porch()).await;
    let mut sketch = ports.connect(Way::WebSocket, "text").await;
    sketch.text_message("hello").await;
    sketch.log_in(TOK).await;

    sketch.text_message("\u{6}\0\u{1}\0\0").await;

    sketch.quiet().await;
}

#[tokio::test]
async fn without_the_protocol_http_is_served_and_sketches_are_not() {
    let ports = Ports::start(&format!("blynk: off\n{}", porch())).await;

    let mut sketch = Sketch::tcp(ports.http, "off").await;
    sketch.say(command::LOGIN, 1, TOK);
    sketch.closed().await;

    assert_eq!(http_get(ports.http, "/healthz").await.0, 200);
}

/// Each sketch has its own answers, whatever the others say.
#[tokio::test]
async fn many_sketches_at_once_get_their_own_answers() {
    const SKETCHES: u16 = 30;
    let ports = Ports::start(&porch()).await;
    let mut sketches = Vec::new();
    for number in 0..SKETCHES {
        let mut sketch = Sketch::tcp(ports.http, &format!("sketch {number}")).await;
        sketch.log_in(TOK).await;
        sketches.push(sketch);
    }

    for round in 1..=5 {
        for (number, sketch) in (1..).zip(&mut sketches) {
            sketch.say(command::PING, 1000 * round + number, "");
            sketch.flush().await;
        }
        for (number, sketch) in (1..).zip(&mut sketches) {
            sketch.expect(&response(1000 * round + number, 200)).await;
        }
    }
}
