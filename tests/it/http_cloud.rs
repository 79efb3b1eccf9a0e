//! The HTTP API of today's Blynk cloud, below `/external/api/` (product.md §7), asked
//! with bytes of our own.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::support::child::Process;
use crate::support::http::{Request, Response, config, start};
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::token;

/// The answer to a call, as in `get?token=TOKEN&V1`.
async fn call(address: SocketAddr, call: &str) -> Response {
    let request = Request::new(&format!("GET /external/api/{call}"));
    request.ask(address).await
}

/// What a refusal says.
fn message(response: &Response) -> String {
    let body: Value = response.body.parse().expect("JSON");
    let message = body["error"]["message"].as_str().expect("a message");
    assert_eq!(body, json!({"error": {"message": message}}));
    message.to_owned()
}

const PLAIN: &str = "text/plain;charset=utf-8";
const JSON: &str = "application/json;charset=utf-8";

#[tokio::test]
async fn what_was_written_is_read_again_in_either_spelling() {
    let (mut pinhook, http) = start("").await;
    for (asked, kind, body) in [
        ("update?token=TOKEN&v1=10", "", ""),
        ("get?token=TOKEN&v1", PLAIN, "10"),
        ("get?token=TOKEN&V1=", PLAIN, "10"),
        ("get?token=TOKEN&pin=v1", PLAIN, "10"),
        ("get?v1&token=TOKEN", PLAIN, "10"),
        ("update?token=TOKEN&pin=V2&value=a+b%26%C2%B0", "", ""),
        ("get?token=TOKEN&v2", PLAIN, "a b&°"),
        (
            "get?token=TOKEN&v2&V1&v3",
            JSON,
            r#"{"v2":"a b&°","V1":"10","v3":null}"#,
        ),
        (
            "get?token=TOKEN&pin=v2&pin=V1",
            JSON,
            r#"{"v2":"a b&°","V1":"10"}"#,
        ),
        ("get?token=TOKEN&v1&V1", PLAIN, "10"),
        // Several values of one pin are a list.
        ("update?token=TOKEN&v3=1&v3=2&V3=", "", ""),
        ("get?token=TOKEN&v3", JSON, r#"["1","2",""]"#),
        ("update?token=TOKEN&pin=V4&value=x&value=y", "", ""),
        (
            "get?token=TOKEN&v4&v1",
            JSON,
            r#"{"v4":["x","y"],"v1":"10"}"#,
        ),
        ("batch/update?token=TOKEN&v1=11&D13=1&a0=2&v1=12", "", ""),
        (
            "get?token=TOKEN&v1&d13&A0",
            JSON,
            r#"{"v1":["11","12"],"d13":"1","A0":"2"}"#,
        ),
        ("update?token=TOKEN&v1=", "", ""),
        ("get?token=TOKEN&v1", PLAIN, ""),
        (
            "getAll?token=TOKEN",
            JSON,
            r#"{"V1":"","V2":"a b&°","V3":["1","2",""],"V4":["x","y"],"D13":"1","A0":"2"}"#,
        ),
        ("isHardwareConnected?token=TOKEN", JSON, "false"),
        // What keeps caches away.
        ("update?token=TOKEN&v1=5&_=1700000000", "", ""),
        ("get?token=TOKEN&v1&_=1700000000", PLAIN, "5"),
    ] {
        let response = call(http, asked).await;

        assert_eq!(response.said(), (200, body), "{asked}");
        let expected = Some(kind).filter(|kind| !kind.is_empty());
        assert_eq!(response.header("content-type"), expected, "{asked}");
        let origin = response.header("access-control-allow-origin");
        assert_eq!(origin, Some("*"), "{asked}");
    }
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn what_is_wrong_is_said_in_a_sentence_and_changes_nothing() {
    let (mut pinhook, http) = start("limits: {value: 100B}\n").await;
    let no_call = "there is no such call; there are get, getAll, update, batch/update, \
                   update/property, isHardwareConnected, logEvent";
    let long = format!("update?token=TOKEN&v1={}", "x".repeat(101));
    let behind = format!("batch/update?token=TOKEN&v9=1&v1={}&v2=3", "x".repeat(101));
    let no_value = "no value is given: expected `&V1=VALUE` or `&pin=V1&value=VALUE`";
    let no_streams = "pinhook has pins and no datastreams: expected `&V1` or `&pin=V1`";
    for (asked, status, says) in [
        ("get?token=wrong-token&v1", 400, "Invalid token."),
        ("get?v1", 400, "`token` is missing"),
        ("get?token=", 400, "Invalid token."),
        (
            "isHardwareConnected?token=wrong-token",
            400,
            "Invalid token.",
        ),
        (
            "get?token=TOKEN",
            400,
            "no pin is named: expected `&V1` or `&pin=V1`",
        ),
        ("get?token=TOKEN&v1", 400, "V1 was never written"),
        (
            "get?token=TOKEN&v1&v256",
            400,
            "pin `v256`: expected V, D or A and a number up to 255, as in V1, or a pin's name",
        ),
        ("get?token=TOKEN&dataStreamId=1", 400, no_streams),
        (
            "update?token=TOKEN&DataStreamName=a&value=1",
            400,
            no_streams,
        ),
        (
            "update/property?token=TOKEN&dataStreamId=1&color=red",
            400,
            no_streams,
        ),
        (
            "update?token=TOKEN&pin=V1&value=1&pin=V2&value=2",
            400,
            "`pin` is there twice: expected `&V1=VALUE&V2=VALUE` for several pins",
        ),
        (
            "update/property?token=TOKEN&pin=V1&color=red&pin=V2",
            400,
            "`pin` is there twice: expected one pin at a time",
        ),
        ("update?token=TOKEN&v1", 400, no_value),
        ("update?token=TOKEN&v2=1&v1", 400, no_value),
        ("update?token=TOKEN&pin=v1&value", 400, no_value),
        ("update?token=TOKEN", 400, no_value),
        ("update?token=TOKEN&pin=V1", 400, no_value),
        ("update?token=TOKEN&value=1", 400, no_value),
        (
            "batch/update?token=TOKEN&v1=1&x=2",
            400,
            "pin `x`: expected V, D or A and a number up to 255, as in V1, or a pin's name",
        ),
        (
            "update?token=TOKEN&v1=%FF",
            400,
            "the value of `v1` is no UTF-8",
        ),
        (
            &long,
            400,
            "value of 101 bytes for V1: at most 100 are allowed (limits.value)",
        ),
        (
            &behind,
            400,
            "value of 101 bytes for V1: at most 100 are allowed (limits.value); V1 was not \
             written, nor what stands behind it",
        ),
        (
            "update/property?token=TOKEN&color=red",
            400,
            "`pin` is missing",
        ),
        (
            "update/property?token=TOKEN&pin=v1",
            400,
            "no property is named: expected one as in `&color=%23D3435C`",
        ),
        (
            "update/property?token=TOKEN&pin=v1&colour=red",
            400,
            "`colour` is no property of a pin; did you mean `color`?",
        ),
        ("logEvent?token=TOKEN", 400, "`code` is missing"),
        (
            "logEvent?token=TOKEN&code=alarm",
            400,
            "no webhook of `porch` has `event: alarm`",
        ),
        (
            "logEvent?token=TOKEN&code=a+b",
            400,
            "event code `a b`: expected 1 to 64 characters of A-Z a-z 0-9 _ -",
        ),
        ("nowhere?token=TOKEN", 404, no_call),
        ("?token=TOKEN", 404, no_call),
    ] {
        let response = call(http, asked).await;

        assert_eq!(response.status, status, "{asked}: {response:?}");
        assert_eq!(message(&response), says, "{asked}");
        assert_eq!(response.header("content-type"), Some(JSON), "{asked}");
        let origin = response.header("access-control-allow-origin");
        assert_eq!(origin, Some("*"), "{asked}");
    }
    let above = Request::new("GET /external/api").ask(http).await;
    assert_eq!((above.status, message(&above).as_str()), (404, no_call));
    // All but what stood before a value that was too long.
    let all = call(http, "getAll?token=TOKEN").await;
    assert_eq!(all.body, r#"{"V9":"1"}"#);
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn only_get_changes_something_and_a_browser_may_ask_first() {
    let (_pinhook, http) = start("").await;
    let ask = async |line: &str| Request::new(line).ask(http).await;

    for method in ["POST", "PUT", "HEAD", "DELETE"] {
        let line = format!("{method} /external/api/update?token=TOKEN&v1=1");
        let request = Request::new(&line);
        // The answer to HEAD has a length and no body.
        let response = match method {
            "HEAD" => request.ask_for_head(http).await,
            _ => request.ask(http).await,
        };
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("GET"));
    }
    let all = ask("GET /external/api/getAll?token=TOKEN").await;
    assert_eq!(all.body, "{}");

    let preflight = ask("OPTIONS /external/api/update").await;
    assert_eq!(preflight.said(), (204, ""));
    let methods = preflight.header("access-control-allow-methods");
    assert_eq!(methods, Some("GET"));
    let origin = preflight.header("access-control-allow-origin");
    assert_eq!(origin, Some("*"));
    let large = Request::new("GET /external/api/get?token=TOKEN").body("x".repeat(524_289));
    let response = large.ask(http).await;
    assert_eq!(response.status, 413);
    assert_eq!(message(&response), "a request may have 512 KiB, not more");
}

#[tokio::test]
async fn writes_events_and_properties_take_the_ways_they_always_take() {
    let mut service = Service::start(|_| Answer::status(204)).await;
    let webhook = |name: &str, on: &str| {
        format!(
            "  {name}: {{device: porch, {on}, url: 'http://{}', method: POST, \
             body: '{{{{ source }}}} {{{{ value }}}}'}}\n",
            service.host()
        )
    };
    let on_pin = webhook("pin", "pin: V1");
    let on_event = webhook("event", "event: alarm");
    let (pinhook, http) = start(&format!("webhooks:\n{on_pin}{on_event}")).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    device
        .subscribe(&[("downlink/ds/#", 1), ("prop/#", 1)])
        .await;

    call(http, "update?token=TOKEN&v1=7&v1=8").await;
    assert_eq!(device.message_on("downlink/ds/V1").await.text(), "7\u{0}8");
    assert_eq!(service.request().await.body, "app 7,8");
    let connected = call(http, "isHardwareConnected?token=TOKEN").await;
    assert_eq!(connected.body, "true");

    let told = call(
        http,
        "logEvent?token=TOKEN&code=alarm&description=door+open",
    )
    .await;
    assert_eq!(told.said(), (200, ""));
    assert_eq!(service.request().await.body, "hardware door open");

    let set = "update/property?token=TOKEN&pin=v1&color=%23D3435C&labels=a&labels=b";
    assert_eq!(call(http, set).await.said(), (200, ""));
    assert_eq!(device.message_on("prop/V1/color").await.text(), "#D3435C");
    assert_eq!(device.message_on("prop/V1/labels").await.text(), "a\0b");
}

#[tokio::test]
async fn pins_have_their_names_here_too() {
    let yaml = config("mqtt: '127.0.0.1:0', http: '127.0.0.1:0'", "");
    let named = "pins: {V5: {name: Soil moisture}, V6: {name: value}}";
    let with_token = format!("token: {}", token("porch"));
    let yaml = yaml.replace(&with_token, &format!("{with_token}, {named}"));
    let folder = tempfile::tempdir().expect("a folder");
    let pinhook = Process::start_in(folder, &yaml, &[]).await;
    let http = pinhook.listens("http").await;

    call(http, "update?token=TOKEN&Soil+moisture=40").await;
    // Words of the API are not names of pins, but where a pin is expected.
    call(http, "update?token=TOKEN&pin=value&value=41").await;

    let read = call(http, "get?token=TOKEN&Soil%20moisture&V5").await;
    assert_eq!(read.body, "40");
    let read = call(http, "get?token=TOKEN&pin=Soil+moisture&V6").await;
    assert_eq!(read.body, r#"{"Soil moisture":"40","V6":"41"}"#);
}

#[tokio::test]
async fn too_many_writes_are_refused_and_who_guesses_waits() {
    let (_pinhook, http) = start("limits: {writes_per_second: 1}\n").await;
    let mut refused = None;
    for _ in 0..100 {
        let response = call(http, "update?token=TOKEN&v1=1").await;
        if response.status != 200 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("100 writes within half a minute are too many");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(
        message(&refused),
        "more than 1 writes a second (limits.writes_per_second)"
    );

    for _ in 0..10 {
        call(http, "get?token=wrong-token&v1").await;
    }
    let start = std::time::Instant::now();
    let response = call(http, "get?token=wrong-token&v1").await;
    assert_eq!(message(&response), "Invalid token.");
    assert!(start.elapsed().as_secs() >= 1);
}

/// As `get/ds` does; a single value is read as often as one likes.
#[tokio::test]
async fn reading_several_values_counts_as_a_write() {
    for several in ["getAll?token=TOKEN", "get?token=TOKEN&v1&v2"] {
        let (_pinhook, http) = start("limits: {writes_per_second: 1}\n").await;
        call(http, "update?token=TOKEN&v1=1").await;
        let mut refused = None;
        for _ in 0..100 {
            let response = call(http, several).await;
            if response.status != 200 {
                refused = Some(response);
                break;
            }
        }
        let refused = refused.expect("100 reads within half a minute are too many");
        assert_eq!(refused.status, 429, "{several}");
        assert_eq!(
            message(&refused),
            "more than 1 writes a second (limits.writes_per_second)"
        );

        for _ in 0..20 {
            let single = call(http, "get?token=TOKEN&v1").await;
            assert_eq!(single.said(), (200, "1"));
        }
    }
}

/// Writes these pins, each of 16000 bytes that take six times as many in JSON.
async fn fill(http: SocketAddr, pins: std::ops::Range<usize>) {
    let value = json!(["\u{1}".repeat(16_000)]).to_string();
    for pin in pins {
        let request = Request::new(&format!("PUT /TOKEN/pin/V{pin}"));
        let response = request.json(value.as_str()).ask(http).await;
        assert_eq!(response.said(), (200, ""));
    }
}

#[tokio::test]
async fn a_response_has_a_mebibyte_of_values_and_not_more() {
    let (_pinhook, http) = start("limits: {writes_per_second: 0}\n").await;
    fill(http, 0..65).await;

    let all = call(http, "getAll?token=TOKEN").await;
    let values: Value = all.body.parse().expect("JSON");
    let values = values.as_object().expect("an object");
    assert_eq!(values.len(), 65);
    let is_whole = |value: &Value| value.as_str().is_some_and(|text| text.len() == 16_000);
    assert!(values.values().all(is_whole));

    fill(http, 65..66).await;
    let says = "the values of these pins have more than 1 MiB together: ask for fewer pins at a \
                time";
    let all = call(http, "getAll?token=TOKEN").await;
    assert_eq!((all.status, message(&all).as_str()), (400, says));
    let project = Request::new("GET /TOKEN/project").ask(http).await;
    assert_eq!(project.said(), (400, says));
    let fewer = call(http, "get?token=TOKEN&v0&v65").await;
    assert_eq!(fewer.status, 200);
}

/// Who asks for everything and reads none of it has no copies of it kept.
#[tokio::test]
async fn who_does_not_read_takes_no_memory() {
    let (pinhook, http) = start("limits: {writes_per_second: 0}\n").await;
    fill(http, 0..60).await;
    let before = pinhook.resident();
    let mut idle = Vec::new();
    for target in ["external/api/getAll?token=TOKEN", "TOKEN/project"] {
        for _ in 0..20 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut stream = socket.connect(http).await.unwrap();
            let request = Request::new(&format!("GET /{target}"));
            stream.write_all(&request.bytes(true)).await.unwrap();
            // It has come to the response.
            stream.readable().await.unwrap();
            idle.push(stream);
        }
    }

    let well = Request::new("GET /healthz").ask(http).await;

    assert_eq!(well.status, 200);
    let grown = pinhook.resident().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
}
