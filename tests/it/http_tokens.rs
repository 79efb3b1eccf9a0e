//! Tokens in paths and queries of the HTTP APIs: who guesses them waits, who has one
//! does not, and none is ever shown.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http::{Request, start};
use crate::support::raw::{Hello, Raw, V};
use crate::support::{PATIENCE, token, until, within};

/// Who has no token does not fill the memory with bodies.
#[tokio::test]
async fn of_a_body_with_a_wrong_token_only_the_beginning_is_read() {
    let (pinhook, http) = start("").await;
    let before = pinhook.resident();
    let mut strangers = Vec::new();
    for _ in 0..60 {
        let head = Request::new("PUT /badtoken/pin/v10").header("Content-Type: application/json");
        let mut bytes = head.header("Content-Length: 500000").bytes(false);
        bytes.extend(vec![b' '; 400_000]);
        let mut stream = TcpStream::connect(http).await.unwrap();
        strangers.push(tokio::spawn(async move {
            let _ = stream.write_all(&bytes).await;
            let mut response = Vec::new();
            let _ = stream.read_to_end(&mut response).await;
            response
        }));
    }

    // All are told but the few whose answer is held back.
    until("44 are told", || {
        let told = strangers.iter().filter(|stranger| stranger.is_finished());
        told.count() >= 44
    })
    .await;
    let first = strangers.swap_remove(0).await.unwrap();
    assert!(first.ends_with(b"Invalid token."), "{first:?}");
    let grown = pinhook.resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
}

/// product.md §3.1: one penalty for MQTT, Blynk and HTTP.
#[tokio::test]
async fn who_guesses_tokens_waits_and_who_has_one_never_does() {
    let (mut pinhook, http) = start("").await;
    let guess = || async {
        let start = Instant::now();
        let response = Request::new("GET /wrong-token-of-somebody/get/V1")
            .ask(http)
            .await;
        assert_eq!(response.said(), (400, "Invalid token."));
        start.elapsed()
    };
    for _ in 0..10 {
        guess().await;
    }
    let second = Duration::from_secs(1);

    assert!(guess().await >= second);
    assert!(guess().await >= 2 * second);
    // Over MQTT, too, from here on: the next costs 4 s. And none of it holds up who has
    // a token, or comes from elsewhere.
    let hello = Hello::new(V::V311, "x").login("device", "wrong-token-of-somebody");
    let mqtt = pinhook.address;
    let late = tokio::spawn(async move {
        let start = Instant::now();
        Raw::refused(mqtt, &hello).await;
        start.elapsed()
    });
    assert_eq!(
        Request::new("GET /TOKEN/isAppConnected")
            .ask(http)
            .await
            .said(),
        (200, "false")
    );
    let elsewhere = Request::new("GET /wrong-token-of-somebody/get/V1").from([127, 0, 0, 2]);
    assert_eq!(elsewhere.ask(http).await.said(), (400, "Invalid token."));
    assert!(!late.is_finished());
    assert!(late.await.unwrap() >= 4 * second);
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn few_guesses_of_an_address_wait_and_the_others_are_refused_at_once() {
    let (mut pinhook, http) = start("").await;
    let line = "GET /wrong-token-of-somebody/get/V1";
    for _ in 0..10 {
        Request::new(line).ask(http).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream
            .write_all(&Request::new(line).bytes(true))
            .await
            .unwrap();
        waiting.push(stream);
    }

    let start = Instant::now();
    let response = loop {
        // Those before may still be on their way; this one is counted, too.
        let request = Request::new(line);
        let asked = tokio::time::timeout(Duration::from_secs(1), request.ask(http));
        match asked.await {
            Ok(response) if response.status == 429 => break response,
            _ => assert!(start.elapsed() < PATIENCE, "nobody is refused at once"),
        }
    };

    assert_eq!(
        response.body,
        "too many requests with a wrong token from this address"
    );
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert_eq!(response.header("retry-after"), Some("5"));
    assert_eq!(Request::new("GET /TOKEN/rtc").ask(http).await.status, 200);
    drop(waiting);
    // Who leaves waits no longer, and has no place any more.
    let elsewhere = || Request::new("GET /wrong-token-of-somebody/get/V1").from([127, 0, 0, 2]);
    assert_eq!(elsewhere().ask(http).await.status, 400);
    pinhook.assert_unharmed();
}

/// A stop does not wait for a penalty.
#[tokio::test]
async fn a_stop_ends_who_waits_for_a_refusal() {
    let (mut pinhook, http) = start("").await;
    let request = Request::new("GET /wrong-token-of-somebody/get/V1");
    for _ in 0..10 {
        request.ask(http).await;
    }
    let mut streams = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream.write_all(&request.bytes(true)).await.unwrap();
        streams.push(stream);
    }
    // The first to wait has come through: the others are held back.
    let mut first = streams.remove(0);
    let read = first.read_u8();
    within("the first refusal", read).await.unwrap();

    pinhook.signal("TERM").await;

    assert!(pinhook.ended().await.success());
}

/// Tokens stand in paths and queries: they are in no log, and in no error.
#[tokio::test]
async fn the_most_talkative_log_shows_no_token() {
    let (pinhook, http) = start("log: trace\n").await;
    let wrong = "wrong-token-of-somebody";
    let long = format!("GET /TOKEN/update/V1?value={}", "x".repeat(20_000));
    let mut requests: Vec<Request> = [
        "GET /TOKEN/get/V1",
        "GET /TOKEN/update/V1?value=1",
        "GET /TOKEN/nowhere",
        "GET /TOKEN",
        "GET /prefix/TOKEN/get/V1",
        "BREW /TOKEN/get/V1",
        "GET /external/api/get?token=TOKEN&V1",
        "GET /external/api/nowhere?token=TOKEN",
        "GET /healthz?token=TOKEN",
        "GET /mqtt?token=TOKEN",
        "POST /mqtt/TOKEN",
        "GET /wrong-token-of-somebody/get/V1",
        "GET /external/api/get?token=wrong-token-of-somebody&V1",
    ]
    .map(Request::new)
    .to_vec();
    requests.push(Request::new(&long));
    requests.push(Request::new("PUT /TOKEN/pin/V1").body("x".repeat(600_000)));
    requests.push(Request::new("PUT /TOKEN/pin/V1").json(token("porch")));

    for request in &requests {
        let response = request.ask(http).await;
        let echo = format!("Error parsing body param. {}", token("porch"));
        // Only what was sent as a body comes back.
        assert!(!response.body.contains(&token("porch")) || response.body == echo);
    }
    let target = format!("GET /{}/get/V1 NONSENSE\r\n\r\n", token("porch"));
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(target.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let read = stream.read_to_end(&mut response);
    let _ = within("the end of nonsense", read).await;

    let says = "HTTP request from 127.0.0.1 with a wrong token refused";
    until(says, || pinhook.said().contains(says)).await;
    until("nonsense is said", || {
        pinhook.said().contains("HTTP connection ended")
    })
    .await;
    let said = pinhook.said();
    assert_eq!(said.matches(says).count(), 1, "once in a while");
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "{said}");
    assert!(!said.contains(&token("porch")), "{said}");
    assert!(!said.contains(wrong), "{said}");
}
