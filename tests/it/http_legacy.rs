//! The legacy HTTP API (blynk.md §4 and §5.3), asked with bytes of our own.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http::{Request, Response, start};
use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{PATIENCE, token, within};

const WRONG_KIND: &str = "Unexpected content type. Expecting application/json.";

async fn get(address: SocketAddr, target: &str) -> Response {
    Request::new(&format!("GET {target}")).ask(address).await
}

async fn put(address: SocketAddr, target: &str, body: &str) -> Response {
    let request = Request::new(&format!("PUT {target}")).json(body);
    request.ask(address).await
}

/// The cases of blynk.md §5.3, and some between them, in one life of one device.
#[tokio::test]
async fn each_case_of_the_table_is_answered_to_the_letter() {
    let (mut pinhook, http) = start("").await;
    let long = "x".repeat(256);
    let request = |line: &str| Request::new(line);
    let json = |line: &str, body: &str| Request::new(line).json(body);
    let text = |line: &str, body: &str| {
        Request::new(line)
            .header("Content-Type: text/plain")
            .body(body)
    };
    #[rustfmt::skip]
    let cases = [
        ("H4", request("GET /TOKEN/get/v11"), 400, "Requested pin doesn't exist in the app."),
        ("H5", request("GET /TOKEN/get/x8"), 400, "Wrong pin format."),
        ("H6", request("GET /TOKEN/get/v256"), 400, "Wrong pin format."),
        ("H5", request("GET /TOKEN/get/V%FF"), 400, "Wrong pin format."),
        ("H7", request("GET /badtoken/get/d8"), 400, "Invalid token."),
        ("H7", request("GET /badtoken/get/x8"), 400, "Invalid token."),
        ("H8", request("GET /TOKEN/w/d8"), 404, ""),
        ("H8", request("GET /TOKEN/pin/v1"), 404, ""),
        ("H8", request("GET /TOKEN"), 404, ""),
        ("H8", request("GET /TOKEN/get/v1/"), 404, ""),
        ("H8", request("HEAD /TOKEN/update/V1?value=9"), 404, ""),
        ("H8", request("DELETE /TOKEN/update/V1?value=9"), 404, ""),
        ("H9", request("GET /TOKEN/update/V1?value=10"), 200, ""),
        ("H1", request("GET /TOKEN/get/V1"), 200, r#"["10"]"#),
        ("H2", request("GET /TOKEN/get/v1"), 200, r#"["10"]"#),
        ("H1", request("GET /TOKEN/get/V1?any=query"), 200, r#"["10"]"#),
        ("H10", request("GET /TOKEN/update/V1?value=110&value=230"), 200, ""),
        ("H3", request("GET /TOKEN/get/V1"), 200, r#"["110","230"]"#),
        ("H11", request("GET /TOKEN/update/V1"), 400, "Wrong request format."),
        ("H11", request("GET /TOKEN/update/x1"), 400, "Wrong pin format."),
        ("H11", request("GET /TOKEN/update/V1?shape=round"), 400, "Wrong request format."),
        ("H12", request("GET /TOKEN/update/V1?value="), 200, ""),
        ("H12", request("GET /TOKEN/get/V1"), 200, r#"[""]"#),
        ("H13", request("GET /TOKEN/update/V1?value=a+b%26"), 200, ""),
        ("H13", request("GET /TOKEN/get/V1"), 200, r#"["a b&"]"#),
        ("§4", request("GET /TOKEN/update/V1?value=%FF"), 400, "`value` is no UTF-8"),
        ("§4", request("GET /TOKEN/update/V1?value=%C2%B0F"), 200, ""),
        ("T32", request("GET /TOKEN/get/V1"), 200, r#"["°F"]"#),
        ("H14", json("PUT /TOKEN/update/v10", r#"["100"]"#), 200, ""),
        ("H14", request("GET /TOKEN/get/V10"), 200, r#"["100"]"#),
        ("H15", json("PUT /TOKEN/update/v10", r#"["100","101","102"]"#), 200, ""),
        ("H15", request("GET /TOKEN/get/V10"), 200, r#"["100","101","102"]"#),
        ("H14", json("PUT /TOKEN/update/v10", " [ 1.50 , true, \"\\u00b0\" ] "), 200, ""),
        ("H14", request("GET /TOKEN/get/V10"), 200, r#"["1.50","true","°"]"#),
        ("H16", json("PUT /TOKEN/update/v10", "[]"), 400, "No pin for update provided."),
        ("H16", json("PUT /TOKEN/update/x8", "[]"), 400, "No pin for update provided."),
        ("H17", request("PUT /TOKEN/update/v10").body(r#"["100"]"#), 500, WRONG_KIND),
        ("H17", text("PUT /TOKEN/update/v10", r#"["100"]"#), 500, WRONG_KIND),
        ("H18", json("PUT /TOKEN/update/v10", r#""100""#), 500, r#"Error parsing body param. "100""#),
        ("H18", json("PUT /TOKEN/update/v10", "[[1]]"), 500, "Error parsing body param. [[1]]"),
        ("H18", json("PUT /TOKEN/update/v10", "[null]"), 500, "Error parsing body param. [null]"),
        ("H18", json("PUT /badtoken/update/v10", "{"), 500, "Error parsing body param. {"),
        ("H18", json("PUT /TOKEN/update/v10", "null"), 500, ""),
        ("H19", json("PUT /TOKEN/update/v10", ""), 500, "Error parsing body param. "),
        ("H20", json("PUT /badtoken/update/d8", r#"["1"]"#), 400, "Invalid token."),
        ("H20", json("PUT /badtoken/update/d8", "[]"), 400, "Invalid token."),
        ("H21", text("PUT /badtoken/update/d8", r#"["1"]"#), 500, WRONG_KIND),
        ("H22", json("PUT /TOKEN/update/x8", r#"["1"]"#), 400, "Wrong pin format."),
        ("H24", json("PUT /TOKEN/pin/v10", r#"["1"]"#), 200, ""),
        ("H24", request("GET /TOKEN/get/V10"), 200, r#"["1"]"#),
        ("H25", json("PUT /TOKEN/extra/pin/v10", r#"[{"timestamp":123,"value":"100"},{"value":7}]"#), 200, ""),
        ("H25", request("GET /TOKEN/get/V10"), 200, r#"["100"]"#),
        ("H25", json("PUT /TOKEN/extra/pin/v10", "[]"), 400, "No pin for update provided."),
        ("H25", json("PUT /TOKEN/extra/pin/v10", r#"[{"timestamp":1}]"#), 500, r#"Error parsing body param. [{"timestamp":1}]"#),
        ("H26", json("POST /TOKEN/update/v10", r#"["2"]"#), 200, ""),
        ("H26", request("GET /TOKEN/get/V10"), 200, r#"["2"]"#),
        ("H26", json("POST /TOKEN/pin/v10", r#"["3"]"#), 200, ""),
        ("H26", json("POST /TOKEN/extra/pin/v10", r#"[{"value":4}]"#), 200, ""),
        ("H26", request("GET /TOKEN/get/V10"), 200, r#"["4"]"#),
        ("H27", request("GET /TOKEN/isHardwareConnected"), 200, "false"),
        ("R", request("GET /TOKEN/isAppConnected"), 200, "false"),
        ("H29", request("POST /TOKEN/notify").body("{}"), 500, WRONG_KIND),
        ("H30", json("POST /TOKEN/notify", &format!(r#"{{"body":"{long}"}}"#)), 400, "Body is empty or larger than 255 chars."),
        ("H30", json("POST /TOKEN/notify", "{}"), 400, "Body is empty or larger than 255 chars."),
        ("§4", json("POST /TOKEN/notify", &format!(r#"{{"body":"{}"}}"#, &long[1..])), 400, "No notification widget."),
        ("§4", json("POST /TOKEN/notify", "[]"), 500, "Error parsing body param. []"),
        ("§4", json("POST /TOKEN/email", "{}"), 400, "No email widget."),
        ("H31", request("GET /TOKEN/data/v111"), 400, "No data."),
        ("H31", request("GET /TOKEN/data/x"), 400, "Wrong pin format."),
        ("R", request("GET /TOKEN/qr"), 400, "No data."),
        ("R", request("GET /badtoken/qr"), 400, "Invalid token."),
    ];
    for (case, request, status, body) in cases {
        let response = request.ask(http).await;

        assert_eq!(response.said(), (status, body), "{case}: {request:?}");
        // H33.
        let origin = response.header("access-control-allow-origin");
        assert_eq!(origin, Some("*"), "{case}: {request:?}");
        let kind = match (status, body) {
            (_, "") => None,
            (200, _) => Some("application/json;charset=utf-8"),
            _ => Some("text/plain;charset=utf-8"),
        };
        assert_eq!(response.header("content-type"), kind, "{case}: {request:?}");
    }
    pinhook.assert_unharmed();
}

/// H23, and that the answer arrives whatever the client still sends.
#[tokio::test]
async fn a_body_may_have_512_kib() {
    let (mut pinhook, http) = start("limits: {value: 1MiB}\n").await;
    let says = "a request may have 512 KiB, not more";
    let body = |length: usize| format!(r#"["{}"]"#, "x".repeat(length - 4));
    let chunked = |length: usize| {
        let body = body(length);
        let request = Request::new("PUT /TOKEN/pin/v10").header("Content-Type: application/json");
        let mut bytes = request.header("Transfer-Encoding: chunked").bytes(true);
        bytes.extend(format!("{length:x}\r\n{body}\r\n0\r\n\r\n").into_bytes());
        bytes
    };

    for (length, status) in [(524_288, 200), (524_289, 413), (2_000_000, 413)] {
        let response = put(http, "/TOKEN/pin/v10", &body(length)).await;
        assert_eq!(response.status, status, "{length}");
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));

        let mut stream = TcpStream::connect(http).await.unwrap();
        let _ = stream.write_all(&chunked(length)).await;
        let mut bytes = Vec::new();
        let read = within("a response", stream.read_to_end(&mut bytes)).await;
        read.expect("an end that loses nothing");
        let (response, _) = Response::parse(&bytes).unwrap();
        assert_eq!(response.status, status, "{length}, chunked");
        if status == 413 {
            assert_eq!(response.body, says);
        }
    }
    // Before the kind and the token, and behind the path.
    let large = "x".repeat(524_289);
    let strange = Request::new("PUT /badtoken/pin/v10").body(large.clone());
    assert_eq!(strange.ask(http).await.said(), (413, says));
    let nowhere = Request::new("PUT /TOKEN/nowhere").body(large);
    assert_eq!(nowhere.ask(http).await.said(), (404, ""));
    pinhook.assert_unharmed();
}

/// As many clients do it: they read nothing before all is sent.
#[tokio::test]
async fn who_is_refused_early_may_send_to_the_end() {
    let (_pinhook, http) = start("").await;
    let request = Request::new("PUT /TOKEN/pin/v10").header("Content-Length: 1000000");
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(&request.bytes(true)).await.unwrap();
    let mut response = Vec::new();
    let read = within("a response and its end", stream.read_to_end(&mut response)).await;
    read.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 413 "), "{response:?}");

    for part in 0..100 {
        let sent = within("a part", stream.write_all(&[b'x'; 10_000])).await;
        assert!(sent.is_ok(), "part {part}: {sent:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_browser_may_ask_first() {
    let (_pinhook, http) = start("").await;
    for (target, methods) in [
        ("/TOKEN/update/V1", "GET, PUT, POST"),
        ("/TOKEN/get/V1", "GET"),
        ("/badtoken/extra/pin/V1", "PUT, POST"),
        ("/TOKEN/notify", "POST"),
    ] {
        let request = Request::new(&format!("OPTIONS {target}"))
            .header("Origin: http://example.org")
            .header("Access-Control-Request-Method: PUT")
            .header("Access-Control-Request-Headers: content-type");

        let response = request.ask(http).await;

        assert_eq!(response.said(), (204, ""), "{target}");
        for (header, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", methods),
            ("access-control-allow-headers", "Content-Type"),
        ] {
            assert_eq!(response.header(header), Some(value), "{target}");
        }
    }
    let nowhere = Request::new("OPTIONS /TOKEN/nowhere").ask(http).await;
    assert_eq!(nowhere.said(), (404, ""));
}

/// H34.
#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let (_pinhook, http) = start("").await;
    let mut stream = TcpStream::connect(http).await.unwrap();
    let mut received = Vec::new();

    for (request, said) in [
        (Request::new("GET /TOKEN/update/V1?value=7"), (200, "")),
        (Request::new("GET /TOKEN/get/V1"), (200, r#"["7"]"#)),
        (
            Request::new("GET /badtoken/get/V1"),
            (400, "Invalid token."),
        ),
        (Request::new("PUT /TOKEN/pin/V1").json("[8]"), (200, "")),
        (Request::new("GET /TOKEN/get/V1"), (200, r#"["8"]"#)),
    ] {
        stream.write_all(&request.bytes(false)).await.unwrap();
        let response = loop {
            if let Some((response, rest)) = Response::parse(&received) {
                received = rest.to_vec();
                break response;
            }
            let read = within("a response", stream.read_buf(&mut received)).await;
            assert!(read.unwrap() > 0, "the connection has ended");
        };
        assert_eq!(response.said(), said, "{request:?}");
    }

    // HTTP/1.0, as some shields speak it.
    let mut old = TcpStream::connect(http).await.unwrap();
    let request = format!("GET /{}/get/V1 HTTP/1.0\r\n\r\n", token("porch"));
    old.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    let read = within("a response", old.read_to_string(&mut response)).await;
    read.unwrap();
    assert!(response.ends_with("\r\n\r\n[\"8\"]"), "{response}");
}

/// H35.
#[tokio::test]
async fn values_are_escaped_in_json() {
    let (_pinhook, http) = start("").await;
    let value = json!(["say \"hi\"\\", "line\nfeed\u{1}", "</script>"]);

    put(http, "/TOKEN/update/V1", &value.to_string()).await;

    let response = get(http, "/TOKEN/get/V1").await;
    assert_eq!(response.body.parse::<Value>().ok(), Some(value));
}

/// A write over HTTP is an app write: it reaches the device and triggers webhooks.
/// What the device writes is read over HTTP (T20, T21, T80).
#[tokio::test]
async fn a_device_and_http_see_each_others_writes() {
    for version in BOTH {
        let mut service = Service::start(|_| Answer::status(204)).await;
        let hook = format!(
            "webhooks:\n  tell: {{device: porch, pin: V1, url: 'http://{}', method: POST, body: '{}'}}\n",
            service.host(),
            "{{ source }} {{ value }}"
        );
        let (pinhook, http) = start(&hook).await;
        let mut device = Raw::log_in(pinhook.address, Hello::mounted(version, "porch")).await;
        device.subscribe(&[("downlink/ds/#", 1)]).await;
        assert_eq!(get(http, "/TOKEN/isHardwareConnected").await.body, "true");

        let written = get(http, "/TOKEN/update/V1?value=110&value=230&value=330").await;

        assert_eq!(written.said(), (200, ""));
        let heard = device.message().await;
        let heard = (heard.topic.as_str(), heard.text());
        assert_eq!(heard, ("downlink/ds/V1", "110\u{0}230\u{0}330".to_owned()));
        assert_eq!(service.request().await.body, "app 110,230,330");

        device
            .publish_message(Message::new("ds/V2", "10\x0011\x0012").qos(1))
            .await;
        let read = get(http, "/TOKEN/get/V2").await;
        assert_eq!(read.body, r#"["10","11","12"]"#);
        device.goodbye().await;
        let start = Instant::now();
        while get(http, "/TOKEN/isHardwareConnected").await.body != "false" {
            assert!(start.elapsed() < PATIENCE, "it is still there");
        }
    }
}

#[tokio::test]
async fn a_write_that_is_refused_says_why() {
    let rest = "limits: {value: 100B, writes_per_second: 1}\n";
    let (_pinhook, http) = start(rest).await;
    let long = format!("/TOKEN/update/V1?value={}", "x".repeat(101));

    assert_eq!(
        get(http, &long).await.said(),
        (
            400,
            "value of 101 bytes for V1: at most 100 are allowed (limits.value)"
        )
    );
    let mut refused = None;
    for _ in 0..100 {
        let response = get(http, "/TOKEN/update/V1?value=1").await;
        if response.status != 200 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("100 writes within half a minute are too many");
    assert_eq!(
        refused.said(),
        (
            429,
            "more than 1 writes a second (limits.writes_per_second)"
        )
    );
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
    assert_eq!(refused.header("retry-after"), Some("1"));
}

const TOO_MANY: &str = "more than 1 writes a second (limits.writes_per_second)";

/// Asks until it is too much; then what else comes back.
async fn ask_too_often(http: SocketAddr, request: &Request) -> Response {
    for _ in 0..100 {
        let response = request.ask(http).await;
        if response.status == 429 {
            return response;
        }
    }
    panic!("100 requests within half a minute are not too many: {request:?}");
}

#[tokio::test]
async fn who_writes_too_much_is_refused_before_the_body_is_read() {
    let (_pinhook, http) = start("limits: {writes_per_second: 1}\n").await;
    let write = Request::new("GET /TOKEN/update/V1?value=1");
    let head = Request::new("PUT /TOKEN/pin/V1").header("Content-Type: application/json");
    let head = head.header("Content-Length: 500000").bytes(true);
    let mut response = String::new();

    for _ in 0..10 {
        ask_too_often(http, &write).await;
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream.write_all(&head).await.unwrap();
        response.clear();
        let mut read = stream.take(13);
        let read = tokio::time::timeout(PATIENCE / 10, read.read_to_string(&mut response));
        // A place may have become free just then.
        if read.await.is_ok() {
            break;
        }
    }

    assert_eq!(response, "HTTP/1.1 429 ");
}

/// What is read for nothing costs as much as what is written.
#[tokio::test]
async fn bodies_that_are_refused_count_as_writes() {
    for body in ["[[1]]", r#"["way too long"]"#] {
        let (_pinhook, http) = start("limits: {writes_per_second: 1, value: 9B}\n").await;
        let request = Request::new("PUT /TOKEN/pin/V1").json(body);

        assert_eq!(ask_too_often(http, &request).await.said(), (429, TOO_MANY));
    }
}

/// As `get/ds` does; a single value is read as often as one likes.
#[tokio::test]
async fn reading_all_values_counts_as_a_write() {
    let (_pinhook, http) = start("limits: {writes_per_second: 1}\n").await;
    get(http, "/TOKEN/update/V1?value=1").await;
    let project = Request::new("GET /TOKEN/project");

    assert_eq!(ask_too_often(http, &project).await.said(), (429, TOO_MANY));

    for _ in 0..20 {
        assert_eq!(get(http, "/TOKEN/get/V1").await.said(), (200, r#"["1"]"#));
    }
}

#[tokio::test]
async fn a_property_is_set_where_there_is_no_value() {
    let (pinhook, http) = start("").await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V311, "porch")).await;
    device.subscribe(&[("prop/#", 1)]).await;

    for (target, status, body, heard) in [
        (
            "V5?label=Soil+1",
            200,
            "",
            Some(("prop/V5/label", "Soil 1")),
        ),
        // The first in Blynk's order, not in the query's.
        (
            "v5?max=9&unknown=1&color=%23D3435C",
            200,
            "",
            Some(("prop/V5/color", "#D3435C")),
        ),
        (
            "V5?labels=a&labels=b",
            200,
            "",
            Some(("prop/V5/labels", "a\0b")),
        ),
        ("V5?color=red&value=1", 200, "", None),
        ("V5?min=low", 400, "Error setting widget property.", None),
        ("V5?label=%FF", 400, "`label` is no UTF-8", None),
        ("V5?label=", 200, "", Some(("prop/V5/label", ""))),
    ] {
        let response = get(http, &format!("/TOKEN/update/{target}")).await;
        assert_eq!(response.said(), (status, body), "{target}");
        match heard {
            Some((topic, payload)) => {
                let message = device.message().await;
                let text = message.text();
                assert_eq!((message.topic.as_str(), text.as_str()), (topic, payload));
            }
            None => device.ping().await,
        }
    }
}

#[tokio::test]
async fn notifications_trigger_webhooks() {
    let mut service = Service::start(|_| Answer::status(204)).await;
    let webhook = |event: &str| {
        format!(
            "  {event}: {{device: porch, event: {event}, url: 'http://{}', method: POST, \
             body: '{{{{ event }}}}: {{{{ values | join(\"+\") }}}}'}}\n",
            service.host()
        )
    };
    let webhooks = format!("webhooks:\n{}{}", webhook("notify"), webhook("email"));
    let (_pinhook, http) = start(&webhooks).await;
    let post = |line: &str, body: &str| Request::new(&format!("POST {line}")).json(body);

    let pushed = post("/TOKEN/notify", r#"{"body":"rain"}"#).ask(http).await;
    assert_eq!(pushed.said(), (200, ""));
    assert_eq!(service.request().await.body, "notify: rain");

    let mail = r#"{"to":"a@example.org","subj":"rain","title":"it rains"}"#;
    let mailed = post("/TOKEN/email", mail).ask(http).await;
    assert_eq!(mailed.said(), (200, ""));
    let seen = service.request().await.body;
    assert_eq!(seen, "email: a@example.org+rain+it rains");
    let says = "Email body is wrong. Missing or empty fields 'to', 'subj'.";
    for body in ["{}", r#"{"to":"a@example.org","subj":null}"#] {
        let response = post("/TOKEN/email", body).ask(http).await;
        assert_eq!(response.said(), (400, says));
    }
}

#[tokio::test]
async fn the_time_is_that_of_a_clock_on_the_wall() {
    let (_pinhook, http) = start("tz: Asia/Kolkata\n").await;
    let now = || jiff::Timestamp::now().as_second() + 5 * 3600 + 1800;
    let before = now();

    let response = get(http, "/TOKEN/rtc").await;

    let clock: [i64; 1] = serde_json::from_str(&response.body).expect("a number in a list");
    assert!((before..=now()).contains(&clock[0]), "{clock:?}");
}

#[tokio::test]
async fn the_project_is_the_device_and_its_pins_and_no_secret() {
    let yaml = format!(
        "listen: {{mqtt: '127.0.0.1:0', http: '127.0.0.1:0'}}
devices:
  porch:
    token: {}
    vars: {{key: secret-of-the-owner}}
    pins: {{V5: {{name: Soil moisture}}, D3: {{name: lamp}}}}
",
        token("porch")
    );
    let folder = tempfile::tempdir().expect("a folder");
    let pinhook = crate::support::child::Process::start_in(folder, &yaml, &[]).await;
    let http = pinhook.listens("http").await;
    // A pin by its name, as everywhere.
    get(http, "/TOKEN/update/Soil%20moisture?value=40&value=%25").await;
    get(http, "/TOKEN/update/a0?value=7").await;

    let response = get(http, "/TOKEN/project").await;

    let project: Value = response.body.parse().expect("JSON");
    assert_eq!(
        project,
        json!({
            "id": 1,
            "name": "porch",
            "isActive": true,
            "devices": [{"id": 0, "name": "porch", "status": "OFFLINE"}],
            "widgets": [
                {
                    "deviceId": 0,
                    "pinType": "VIRTUAL",
                    "pin": 5,
                    "label": "Soil moisture",
                    "value": "40\u{0}%",
                },
                {"deviceId": 0, "pinType": "DIGITAL", "pin": 3, "label": "lamp"},
                {"deviceId": 0, "pinType": "ANALOG", "pin": 0, "value": "7"},
            ],
        })
    );
}
