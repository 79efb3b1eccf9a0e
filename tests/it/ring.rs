//! The ring: a pin write becomes a request at a real service, and the response
//! reaches the device.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Device, Heard};
use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::service::{Answer, Gate, RawService, Refusing, Service};
use crate::support::{password_hash, token, until, within};

/// The `devices:` of a configuration, each with nothing but its token.
fn devices(names: &[&str]) -> String {
    let device = |name: &&str| format!("  {name}: {{token: {}}}\n", token(name));
    let devices: String = names.iter().map(device).collect();
    format!("devices:\n{devices}")
}

/// The `users:` with one admin, who may subscribe to everything.
fn admin() -> String {
    let hash = password_hash();
    format!(
        "users:\n  root: {{password: '{hash}', admin: true, publish: ['#'], subscribe: ['#']}}\n"
    )
}

/// A client of `device`'s that hears of each delivery and of diag, and nothing else.
async fn observer(daemon: &Daemon, device: &str) -> Raw {
    let mut observer =
        Raw::log_in(daemon.address, Hello::mounted(V::V5, device).id("observer")).await;
    let filters = [("webhook/+", 1), ("downlink/#", 1)];
    assert_eq!(observer.subscribe(&filters).await, [1, 1]);
    observer
}

/// A message's JSON.
fn json_of(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap_or_else(|_| panic!("no JSON: {message:?}"))
}

/// The next report of `webhook`; what else arrives is returned with it.
async fn report(observer: &mut Raw, webhook: &str) -> (Value, Vec<Message>) {
    let topic = format!("webhook/{webhook}");
    let mut others = Vec::new();
    loop {
        let message = observer.message().await;
        if message.topic == topic {
            return (json_of(&message), others);
        }
        others.push(message);
    }
}

#[tokio::test]
async fn a_write_becomes_a_request_and_the_response_a_downlink() {
    for version in BOTH {
        let mut service = Service::start(|_| Answer::ok("05:31")).await;
        let host = service.host();
        let daemon = Daemon::start(&format!(
            "{}
webhooks:
  sunrise: {{device: porch, pin: V0, url: 'http://{host}/json?lat=33&date=%s'}}",
            devices(&["porch"])
        ))
        .await;
        let mut device = Device::connect(daemon.address, version, "porch").await;

        device.publish("ds/V0", "2016-10-01 & more").await;

        let request = service.request().await;
        assert_eq!(request.method, "GET");
        assert_eq!(request.target, "/json?lat=33&date=2016-10-01%20%26%20more");
        let agent = concat!("pinhook/", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.headers["user-agent"], agent);
        assert!(!request.headers["x-pinhook-delivery"].is_empty());
        assert_eq!(request.headers["host"], host.to_string());
        assert_eq!(request.body, "");
        let expected = Heard {
            topic: "downlink/ds/V0".to_owned(),
            payload: b"05:31".to_vec(),
            qos: 1,
            retain: false,
        };
        assert_eq!(device.heard().await, expected);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn body_json_form_and_headers_go_out_as_configured() {
    let mut service = Service::start(|_| Answer::status(204)).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        r#"{}
webhooks:
  text:
    device: porch
    pin: V1
    url: http://{host}/text
    body: "temperature is /pin/"
    headers: {{X-Value: "{{{{ value }}}}", User-Agent: mine, X-Pinhook-Delivery: own}}
  raw:
    device: porch
    pin: V2
    url: http://{host}/raw
    method: PUT
    body: '{{"value": "%s"}}'
  tree:
    device: porch
    pin: V3
    url: http://{host}/tree
    json: {{number: "{{{{ value | float }}}}", all: ["{{{{ values[0] }}}}", true], text: "is /pin/"}}
  form:
    device: porch
    pin: V4
    url: http://{host}/form
    method: PATCH
    form: {{value: "/pin/", "a b": "c&d"}}"#,
        devices(&["porch"])
    ))
    .await;
    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V311, "porch")).await;

    for (pin, value, method, target, content_type, body) in [
        (
            "V1",
            "21.5",
            "POST",
            "/text",
            "text/plain; charset=utf-8",
            "temperature is 21.5",
        ),
        (
            "V2",
            "say \"hi\"",
            "PUT",
            "/raw",
            "application/json",
            r#"{"value": "say \"hi\""}"#,
        ),
        (
            "V3",
            "21.5",
            "POST",
            "/tree",
            "application/json",
            r#"{"number":21.5,"all":["21.5",true],"text":"is 21.5"}"#,
        ),
        (
            "V4",
            "x=1&y",
            "PATCH",
            "/form",
            "application/x-www-form-urlencoded",
            "value=x%3D1%26y&a+b=c%26d",
        ),
    ] {
        device.publish(&format!("ds/{pin}"), value).await;

        let request = service.request().await;
        assert_eq!(
            (request.method.as_str(), request.target.as_str()),
            (method, target)
        );
        assert_eq!(request.headers["content-type"], content_type, "{target}");
        assert_eq!(request.body, body, "{target}");
        if pin == "V1" {
            assert_eq!(request.headers["x-value"], value);
            assert_eq!(request.headers["user-agent"], "mine");
            assert_eq!(request.headers["x-pinhook-delivery"], "own");
        }
    }
}

#[tokio::test]
async fn a_response_goes_where_and_as_the_webhook_says() {
    let service =
        Service::start(|_| Answer::ok(r#"{"sunrise": "05:31", "sunset": "18:12"}"#)).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        r#"{}
webhooks:
  other: {{device: porch, pin: V1, url: "http://{host}/", response: {{to: V9}}}}
  nowhere: {{device: porch, pin: V2, url: "http://{host}/", response: {{to: none}}}}
  picked: {{device: porch, pin: V3, url: "http://{host}/", response: {{value: "at {{{{ json.sunrise }}}}"}}}}
  several: {{device: porch, pin: V4, url: "http://{host}/", response: {{to: V8, value: ["{{{{ json.sunrise }}}}", "{{{{ json.sunset }}}}", "{{{{ status }}}}"]}}}}
  missing: {{device: porch, pin: V5, url: "http://{host}/", response: {{value: "{{{{ json.nothing }}}}"}}}}"#,
        devices(&["porch"])
    ))
    .await;
    let mut client = observer(&daemon, "porch").await;

    for (pin, webhook, outcome, expected) in [
        (
            "V1",
            "other",
            "ok",
            Some((
                "downlink/ds/V9",
                "{\"sunrise\": \"05:31\", \"sunset\": \"18:12\"}",
            )),
        ),
        ("V2", "nowhere", "ok", None),
        ("V3", "picked", "ok", Some(("downlink/ds/V3", "at 05:31"))),
        (
            "V4",
            "several",
            "ok",
            Some(("downlink/ds/V8", "05:31\x0018:12\x00200")),
        ),
        ("V5", "missing", "response_error", None),
    ] {
        assert_eq!(client.publish(&format!("ds/{pin}"), "1").await, 0);

        let (report, others) = report(&mut client, webhook).await;
        assert_eq!(report["outcome"], outcome, "{report}");
        let values = others.iter().filter(|other| other.topic != "downlink/diag");
        let values: Vec<_> = values
            .map(|value| (value.topic.clone(), value.text()))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(topic, text)| (topic.to_string(), text.to_string()))
            .collect();
        assert_eq!(values, expected, "{webhook}");
        if outcome != "ok" {
            assert_eq!(others.len(), 1, "a line on diag: {others:?}");
            assert!(
                others[0].text().starts_with("missing: response.value: "),
                "{others:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_redirect_and_an_empty_body_write_nothing_and_are_successes() {
    let service = Service::start(|seen| match seen.target.as_str() {
        "/302" => Answer::status(302)
            .header("location", "/elsewhere")
            .body("moved"),
        "/204" => Answer::status(204),
        _ => Answer::ok(""),
    })
    .await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
webhooks:
  moved: {{device: porch, pin: V1, url: 'http://{host}/302', stop_after: 1}}
  nothing: {{device: porch, pin: V2, url: 'http://{host}/204', stop_after: 1}}
  empty: {{device: porch, pin: V3, url: 'http://{host}/200', stop_after: 1}}",
        devices(&["porch"])
    ))
    .await;
    let mut client = observer(&daemon, "porch").await;

    for (pin, webhook, status) in [
        ("V1", "moved", 302),
        ("V2", "nothing", 204),
        ("V3", "empty", 200),
    ] {
        client.publish(&format!("ds/{pin}"), "1").await;

        let (report, others) = report(&mut client, webhook).await;
        let facts = (
            &report["outcome"],
            &report["status"],
            &report["attempts"],
            &report["error"],
        );
        assert_eq!(
            facts,
            (&json!("ok"), &json!(status), &json!(1), &Value::Null)
        );
        assert_eq!(others, [], "{webhook}");
    }
}

#[tokio::test]
async fn what_goes_wrong_is_an_outcome_and_a_line_for_the_device() {
    let service = Service::start(|seen| match seen.target.as_str() {
        "/404" => Answer::status(404).body("no such page"),
        "/503" => Answer::status(503),
        "/large" => Answer::ok("x".repeat(5000)),
        "/failing-large" => Answer::status(500).body("x".repeat(5000)),
        _ => Answer::never(),
    })
    .await;
    // 2,000 bytes that no header announces.
    let chunked: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n";
    let chunked = [chunked, &[b'x'; 2000], b"\r\n0\r\n\r\n"].concat();
    let chunked = RawService::start(chunked.leak()).await;
    let cut = RawService::start(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let silent = RawService::start(b"").await;
    let garbage = RawService::start(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let refusing = Refusing::new();
    let host = service.host();
    let cases = [
        (
            format!("{host}/404"),
            "failed",
            json!(404),
            "the service returned 404 Not Found".to_owned(),
        ),
        (
            format!("{host}/503"),
            "failed",
            json!(503),
            "the service returned 503 Service Unavailable".to_owned(),
        ),
        (
            format!("{host}/never"),
            "failed",
            Value::Null,
            format!("no response from {host} within 500ms"),
        ),
        (
            format!("{host}/large"),
            "too_large",
            json!(200),
            "the response is larger than 1024 bytes".to_owned(),
        ),
        (
            format!("{}/", chunked.host()),
            "too_large",
            json!(200),
            "the response is larger than 1024 bytes".to_owned(),
        ),
        (
            format!("{host}/failing-large"),
            "failed",
            json!(500),
            "the service returned 500 Internal Server Error".to_owned(),
        ),
        (
            format!("{}/", refusing.host()),
            "failed",
            Value::Null,
            format!("cannot connect to {}", refusing.host()),
        ),
        (
            format!("{}/", cut.host()),
            "failed",
            json!(200),
            format!("{} broke off", cut.host()),
        ),
        (
            format!("{}/", silent.host()),
            "failed",
            Value::Null,
            format!("{} broke off", silent.host()),
        ),
        (
            format!("{}/", garbage.host()),
            "failed",
            Value::Null,
            format!("{} did not respond in HTTP", garbage.host()),
        ),
    ];
    let names: Vec<String> = (0..cases.len())
        .map(|number| format!("d{number}"))
        .collect();
    let mut yaml = devices(&names.iter().map(String::as_str).collect::<Vec<_>>());
    yaml.push_str("defaults: {timeout: 500ms, retry: 0, response: {max_size: 1KiB}}\nwebhooks:\n");
    for (name, (url, ..)) in names.iter().zip(&cases) {
        yaml.push_str(&format!(
            "  {name}: {{device: {name}, pin: V0, url: 'http://{url}'}}\n"
        ));
    }
    let daemon = Daemon::start(&yaml).await;

    for (name, (url, outcome, status, line)) in names.iter().zip(cases) {
        let mut client = observer(&daemon, name).await;
        client.publish("ds/V0", "1").await;

        let (report, others) = report(&mut client, name).await;
        assert_eq!(
            (&report["outcome"], &report["status"]),
            (&json!(outcome), &status),
            "{url}: {report}"
        );
        let error = report["error"].as_str().unwrap_or_default();
        assert!(error.starts_with(&line), "{url}: {error}");
        assert_eq!(others.len(), 1, "{url}: {others:?}");
        assert_eq!(others[0].topic, "downlink/diag", "{url}");
        let said = others[0].text();
        assert!(
            said.starts_with(&format!("{name}: {line}")),
            "{url}: {said}"
        );
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_value_that_cannot_be_filled_in_is_an_outcome_and_no_request() {
    let mut service = Service::start(|_| Answer::ok("fine")).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
webhooks:
  second: {{device: porch, pin: V0, url: 'http://{host}/{{{{ values[1] }}}}', every: 0}}",
        devices(&["porch"])
    ))
    .await;
    let mut client = observer(&daemon, "porch").await;

    client.publish("ds/V0", "only one").await;
    let (refused, others) = report(&mut client, "second").await;
    client.publish("ds/V0", "one\0two").await;
    let (sent, _) = report(&mut client, "second").await;

    assert_eq!(
        (&refused["outcome"], &refused["attempts"]),
        (&json!("render_error"), &json!(0))
    );
    assert!(others[0].text().starts_with("second: url: "), "{others:?}");
    assert_eq!(sent["outcome"], "ok");
    assert_eq!(service.request().await.target, "/two");
    assert!(service.request_now().is_none());
}

#[tokio::test]
async fn what_comes_too_early_waits_and_the_newest_is_what_is_sent() {
    const EVERY: Duration = Duration::from_millis(600);
    let mut service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
webhooks:
  slowly: {{device: porch, pin: V0, url: 'http://{host}/%s', every: 600ms}}",
        devices(&["porch"])
    ))
    .await;
    let mut client = observer(&daemon, "porch").await;

    client.publish("ds/V0", "first").await;
    let first = service.request().await;
    let (sent, _) = report(&mut client, "slowly").await;
    client.publish("ds/V0", "middle").await;
    client.publish("ds/V0", "newest").await;
    let (superseded, _) = report(&mut client, "slowly").await;
    let second = service.request().await;
    let (sent_second, _) = report(&mut client, "slowly").await;

    assert_eq!(
        (first.target.as_str(), second.target.as_str()),
        ("/first", "/newest")
    );
    let outcomes = [&sent, &superseded, &sent_second].map(|report| report["outcome"].clone());
    assert_eq!(outcomes, ["ok", "superseded", "ok"]);
    // The first may have been on its way a little longer than the second.
    assert!(
        second.at - first.at > EVERY / 2,
        "{:?}",
        second.at - first.at
    );
    assert!(service.request_now().is_none());
}

#[tokio::test]
async fn while_a_request_is_in_flight_the_devices_newest_value_waits() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut service = Service::start(move |seen| Answer::ok(seen.target.clone()).when(&held)).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
webhooks:
  slow: {{device: [porch, shed], pin: V0, url: 'http://{host}/{{{{ device.name }}}}/%s', every: 0}}",
        devices(&["porch", "shed"])
    ))
    .await;
    let mut porch = observer(&daemon, "porch").await;
    let mut shed = observer(&daemon, "shed").await;

    for value in ["1", "2", "3"] {
        porch.publish("ds/V0", value).await;
    }
    assert_eq!(service.request().await.target, "/porch/1");
    let (superseded, _) = report(&mut porch, "slow").await;
    assert_eq!(superseded["outcome"], "superseded");
    // Another device has a line of its own.
    shed.publish("ds/V0", "1").await;
    assert_eq!(service.request().await.target, "/shed/1");
    let counts = daemon.counts("slow");
    assert_eq!(
        (counts.triggered, counts.waiting, counts.in_flight),
        (4, 1, 2)
    );
    assert!(service.request_now().is_none());

    gate.open(3);

    assert_eq!(service.request().await.target, "/porch/3");
    for expected in ["/porch/1", "/porch/3"] {
        assert_eq!(porch.message_on("downlink/ds/V0").await.text(), expected);
    }
    assert_eq!(shed.message_on("downlink/ds/V0").await.text(), "/shed/1");
}

#[tokio::test]
async fn failures_in_a_row_stop_a_webhook_until_an_admin_resumes_it() {
    let service = Service::start(|seen| match seen.target.as_str() {
        "/good" => Answer::ok("fine"),
        _ => Answer::status(500),
    })
    .await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}{}
webhooks:
  failing: {{device: porch, pin: V0, url: 'http://{host}/%s', every: 0, retry: 0, stop_after: 3, probe: off}}",
        devices(&["porch"]),
        admin()
    ))
    .await;
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    let bridge = "pinhook/bridge/webhooks/failing";
    root.subscribe(&[(bridge, 1), ("pinhook/bridge/response/#", 1)])
        .await;
    let ready = root.message().await;
    assert!(ready.retain, "{ready:?}");
    assert_eq!(json_of(&ready)["state"], "ready");
    let mut client = observer(&daemon, "porch").await;

    // A success in between sets the count to 0.
    let mut lines = Vec::new();
    for (value, outcome) in [
        ("1", "failed"),
        ("2", "failed"),
        ("good", "ok"),
        ("3", "failed"),
        ("4", "failed"),
        ("5", "failed"),
    ] {
        client.publish("ds/V0", value).await;
        let (report, others) = report(&mut client, "failing").await;
        assert_eq!(report["outcome"], outcome, "{value}");
        lines.extend(
            others
                .into_iter()
                .filter(|other| other.topic == "downlink/diag"),
        );
    }

    assert_eq!(
        lines.last().expect("a line").text(),
        "failing: stopped after 3 failures in a row until it is resumed"
    );
    let stopped = loop {
        let state = json_of(&root.message().await);
        if state["state"] == "stopped" {
            break state;
        }
    };
    assert_eq!(
        (&stopped["failures"], &stopped["last_status"]),
        (&json!(3), &json!(500))
    );
    assert_eq!(stopped["next_probe"], Value::Null);
    client.publish("ds/V0", "good").await;
    let (refused, _) = report(&mut client, "failing").await;
    assert_eq!(
        (&refused["outcome"], &refused["attempts"]),
        (&json!("stopped"), &json!(0))
    );

    root.publish("pinhook/bridge/request/resume", "failed")
        .await;
    let answer = json_of(&root.message().await);
    assert_eq!(
        (&answer["ok"], &answer["webhook"]),
        (&json!(false), &json!("failed")),
        "{answer}"
    );
    root.publish("pinhook/bridge/request/resume", "failing")
        .await;
    let mut answered = false;
    let mut resumed = false;
    while !(answered && resumed) {
        let message = root.message().await;
        match message.topic == bridge {
            true => resumed = json_of(&message)["state"] == "ready",
            false => answered = json_of(&message)["ok"] == true,
        }
    }
    assert_eq!(
        client.message_on("downlink/diag").await.text(),
        "failing: resumed"
    );
    client.publish("ds/V0", "good").await;
    let (sent, others) = report(&mut client, "failing").await;
    assert_eq!(sent["outcome"], "ok");
    assert!(
        others.iter().any(|other| other.text() == "fine"),
        "{others:?}"
    );
}

#[tokio::test]
async fn a_stopped_webhook_tries_again_with_the_first_write_after_a_while() {
    let mut service = Service::start(|seen| match seen.target.as_str() {
        "/good" => Answer::ok("fine"),
        _ => Answer::status(500),
    })
    .await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
webhooks:
  failing: {{device: porch, pin: V0, url: 'http://{host}/%s', every: 0, retry: 0, stop_after: 1, probe: 1s}}",
        devices(&["porch"])
    ))
    .await;
    let mut client = observer(&daemon, "porch").await;

    client.publish("ds/V0", "bad").await;
    assert_eq!(report(&mut client, "failing").await.0["outcome"], "failed");
    client.publish("ds/V0", "good").await;
    assert_eq!(report(&mut client, "failing").await.0["outcome"], "stopped");
    // Writes until one is let through.
    let resumed = within("a probe", async {
        loop {
            client.publish("ds/V0", "good").await;
            let (report, others) = report(&mut client, "failing").await;
            if report["outcome"] == "ok" {
                return others;
            }
            assert_eq!(report["outcome"], "stopped");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let others = resumed.await;

    let lines: Vec<_> = others.iter().map(Message::text).collect();
    assert!(
        lines.iter().any(|line| line == "failing: resumed"),
        "{lines:?}"
    );
    assert_eq!(service.request().await.target, "/bad");
    assert_eq!(service.request().await.target, "/good");
}

#[tokio::test]
async fn a_digital_write_triggers_an_analog_webhook_and_all_that_match_fire() {
    let mut service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
webhooks:
  analog: {{device: porch, pin: A3, url: 'http://{host}/analog/%s'}}
  one: {{device: '*', pin: V1, url: 'http://{host}/one/%s'}}
  two: {{device: porch, pin: [V0, V1], url: 'http://{host}/two/%s'}}",
        devices(&["porch"])
    ))
    .await;
    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V311, "porch")).await;
    device.subscribe(&[("downlink/#", 1)]).await;

    device.publish("ds/D3", "7").await;
    assert_eq!(service.request().await.target, "/analog/7");
    let answer = device.message().await;
    assert_eq!(
        (answer.topic.as_str(), answer.text().as_str()),
        ("downlink/ds/A3", "/analog/7")
    );

    device.publish("ds/V1", "8").await;
    let mut targets = [
        service.request().await.target,
        service.request().await.target,
    ];
    targets.sort();
    assert_eq!(targets, ["/one/8", "/two/8"]);
    let mut answers = [device.message().await.text(), device.message().await.text()];
    answers.sort();
    assert_eq!(answers, targets);
}

#[tokio::test]
async fn an_app_write_reaches_the_device_and_triggers_like_any_other() {
    let mut service = Service::start(|_| Answer::status(204)).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}{}
webhooks:
  all: {{device: porch, pin: V1, url: 'http://{host}/{{{{ source }}}}/%s', every: 0}}",
        devices(&["porch"]),
        admin()
    ))
    .await;
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V5, "porch")).await;
    device.subscribe(&[("downlink/#", 1)]).await;

    root.publish("pinhook/porch/set/v1", "on").await;
    let written = device.message().await;
    assert_eq!(
        (written.topic.as_str(), written.text().as_str()),
        ("downlink/ds/V1", "on")
    );
    assert_eq!(service.request().await.target, "/app/on");

    root.publish("pinhook/porch/ds/V1", "off").await;
    assert_eq!(service.request().await.target, "/hardware/off");
    device.silence().await;
}

#[tokio::test]
async fn a_response_is_no_write() {
    let mut service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
webhooks:
  there: {{device: porch, pin: V1, url: 'http://{host}/there', every: 0, response: {{to: V2}}}}
  back: {{device: porch, pin: V2, url: 'http://{host}/back', every: 0, response: {{to: V1}}}}
  self: {{device: porch, pin: V1, url: 'http://{host}/self', every: 0}}",
        devices(&["porch"])
    ))
    .await;
    let mut client = observer(&daemon, "porch").await;

    client.publish("ds/V1", "go").await;
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(client.message().await.topic);
    }
    heard.sort();

    assert_eq!(
        heard,
        [
            "downlink/ds/V1",
            "downlink/ds/V2",
            "webhook/self",
            "webhook/there"
        ]
    );
    assert_eq!(daemon.counts("back").triggered, 0);
    service.request().await;
    service.request().await;
    assert!(service.request_now().is_none());
    // The state of V2 was never written, the one of V1 is what the device wrote.
    client.subscribe(&[("state/#", 1)]).await;
    let state = client.message().await;
    assert_eq!(
        (state.topic.as_str(), state.text().as_str()),
        ("state/V1", "go")
    );
    client.silence().await;
}

#[tokio::test]
async fn pin_names_are_understood_and_used_where_the_device_wants_them() {
    let service = Service::start(|_| Answer::ok("42")).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "devices:
  porch: {{token: {}, names_in_topics: true, pins: {{V5: {{name: soil moisture}}}}}}
  shed: {{token: {}, pins: {{V5: {{name: soil moisture}}}}}}
webhooks:
  soil: {{device: [porch, shed], pin: V5, url: 'http://{host}/'}}",
        token("porch"),
        token("shed")
    ))
    .await;

    for (name, level) in [("porch", "soil moisture"), ("shed", "V5")] {
        let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V5, name)).await;
        device.subscribe(&[("downlink/#", 1), ("state/#", 1)]).await;

        device.publish("ds/soil moisture", "7").await;

        let mut heard = [device.message().await, device.message().await]
            .map(|heard| (heard.topic.clone(), heard.text()));
        heard.sort();
        let expected = [
            (format!("downlink/ds/{level}"), "42".to_owned()),
            (format!("state/{level}"), "7".to_owned()),
        ];
        assert_eq!(heard, expected, "{name}");
    }
}

#[tokio::test]
async fn values_are_kept_batched_asked_for_and_told_to_observers() {
    let daemon = Daemon::start(&format!("{}{}", devices(&["porch"]), admin())).await;
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    root.subscribe(&[("pinhook/bridge/state", 0), ("pinhook/porch/status", 0)])
        .await;
    let mut first = [root.message().await, root.message().await]
        .map(|message| (message.topic.clone(), message.text()));
    first.sort();
    assert_eq!(
        first[0],
        ("pinhook/bridge/state".to_owned(), "online".to_owned())
    );
    assert_eq!(
        first[1],
        ("pinhook/porch/status".to_owned(), "offline".to_owned())
    );

    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V311, "porch")).await;
    assert_eq!(
        root.message_on("pinhook/porch/status").await.text(),
        "online"
    );
    device.subscribe(&[("downlink/#", 1)]).await;
    device
        .publish(
            "batch_ds",
            r#"{"V1": 21.5, "V2": "on", "V3": [1, true, "x"]}"#,
        )
        .await;
    device.publish("ds/V2", "off").await;
    device.publish("get/ds", "v2,V3").await;
    for (pin, value) in [("V2", "off"), ("V3", "1\0true\0x")] {
        let answer = device.message().await;
        assert_eq!(
            (answer.topic, answer.payload),
            (format!("downlink/ds/{pin}"), value.as_bytes().to_vec())
        );
    }
    device.publish("get/ds/all", "").await;
    for (pin, value) in [("V1", "21.5"), ("V2", "off"), ("V3", "1\0true\0x")] {
        let answer = device.message().await;
        assert_eq!(
            (answer.topic, answer.payload),
            (format!("downlink/ds/{pin}"), value.as_bytes().to_vec())
        );
    }
    device.publish("ds/V300", "1").await;
    let line = device.message().await;
    assert_eq!(line.topic, "downlink/diag");
    assert!(line.text().contains("`V300` is no pin"), "{line:?}");

    // A retained write is a write; what is retained is the state.
    assert_eq!(
        device
            .publish_message(Message::new("ds/V4", "kept").qos(1).retained())
            .await,
        0
    );
    root.subscribe(&[("pinhook/porch/state/V4", 0)]).await;
    let state = root.message().await;
    assert_eq!(state.text(), "kept");
    root.unsubscribe(&["pinhook/porch/state/V4"]).await;
    root.subscribe(&[("pinhook/porch/state/V4", 0), ("pinhook/porch/ds/#", 0)])
        .await;
    let state = root.message().await;
    assert_eq!(
        (state.topic.as_str(), state.retain),
        ("pinhook/porch/state/V4", true)
    );
    root.silence().await;

    device.goodbye().await;
    assert_eq!(
        root.message_on("pinhook/porch/status").await.text(),
        "offline"
    );
    daemon.stop().await;
    assert_eq!(
        root.message_on("pinhook/bridge/state").await.text(),
        "offline"
    );
    root.dismissed(0x8B).await;
}

#[tokio::test]
async fn too_many_writes_are_refused_and_told() {
    let daemon = Daemon::start(&format!(
        "{}limits: {{writes_per_second: 5, value: 100B}}",
        devices(&["porch", "shed"])
    ))
    .await;
    let mut device = observer(&daemon, "porch").await;

    let mut reasons = Vec::new();
    for number in 0..100 {
        reasons.push(device.publish("ds/V0", number.to_string()).await);
    }

    // The burst is twice the rate; a slow machine earns a few more.
    assert_eq!(reasons[..10], [0; 10]);
    assert!(reasons.contains(&0x97), "{reasons:?}");
    let line = device.message_on("downlink/diag").await.text();
    assert!(line.contains("more than 5 writes a second"), "{line}");
    let mut shed = observer(&daemon, "shed").await;
    assert_eq!(shed.publish("ds/V0", "x".repeat(101)).await, 0x97);
    assert!(
        shed.message_on("downlink/diag")
            .await
            .text()
            .contains("at most 100 are allowed")
    );
    assert_eq!(shed.publish("ds/V0", "x".repeat(100)).await, 0);
}

#[tokio::test]
async fn the_counts_add_up_at_every_moment() {
    const DEVICES: [&str; 4] = ["d0", "d1", "d2", "d3"];
    const WRITES: u64 = 200;
    let service = Service::start(|seen| match seen.target.len() % 3 {
        0 => Answer::status(500),
        1 => Answer::ok("fine").after(Duration::from_millis(3)),
        _ => Answer::ok("x".repeat(3000)),
    })
    .await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "{}
limits: {{writes_per_second: 0}}
webhooks:
  mixed: {{device: '*', pin: [V0, V1], url: 'http://{host}/%s', every: 2ms, stop_after: 9, probe: 20ms, response: {{max_size: 2KiB}}}}
  quick: {{device: '*', pin: V0, url: 'http://{host}/%s', every: 0, stop_after: 0}}",
        devices(&DEVICES)
    ))
    .await;
    let mut writers = tokio::task::JoinSet::new();
    for name in DEVICES {
        let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V311, name)).await;
        writers.spawn(async move {
            for number in 0..WRITES {
                let pin = number % 2;
                device
                    .publish(&format!("ds/V{pin}"), "x".repeat(number as usize % 7))
                    .await;
            }
        });
    }

    let adds_up = |webhook: &str| {
        let counts = daemon.counts(webhook);
        let sum = counts.outcomes.sum() + (counts.waiting + counts.in_flight) as u64;
        assert_eq!(counts.triggered, sum, "{webhook}: {counts:?}");
        assert!(
            counts.in_flight <= DEVICES.len() && counts.waiting <= 2 * DEVICES.len(),
            "{counts:?}"
        );
        counts
    };
    let mut looks = 0;
    while !writers.is_empty() {
        tokio::select! {
            ended = writers.join_next() => ended.expect("one is left").expect("no panic"),
            () = tokio::task::yield_now() => {}
        }
        adds_up("mixed");
        adds_up("quick");
        looks += 1;
    }
    until("the end of all deliveries", || {
        let open = [adds_up("mixed"), adds_up("quick")];
        open.iter()
            .all(|counts| counts.waiting + counts.in_flight == 0)
    })
    .await;

    assert!(looks > 100, "{looks}");
    let all = WRITES * DEVICES.len() as u64;
    assert_eq!(daemon.counts("mixed").triggered, all);
    assert_eq!(daemon.counts("quick").triggered, all / 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_slow_third_party_holds_up_nobody_else() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut slow = Service::start(move |_| Answer::ok("at last").when(&held)).await;
    let fast = Service::start(|seen| Answer::ok(seen.target.clone())).await;
    let daemon = Daemon::start(&format!(
        "{}
limits: {{in_flight: 5}}
webhooks:
  slow: {{device: '*', pin: V0, url: 'http://{}/', concurrency: 4}}
  fast: {{device: '*', pin: V1, url: 'http://{}/%s', every: 0}}",
        devices(&["porch", "shed", "d2", "d3", "d4"]),
        slow.host(),
        fast.host()
    ))
    .await;
    let mut clients = Vec::new();
    for name in ["porch", "shed", "d2", "d3", "d4"] {
        let mut client = Raw::log_in(daemon.address, Hello::mounted(V::V5, name)).await;
        client.subscribe(&[("downlink/#", 1)]).await;
        client.publish("ds/V0", "1").await;
        clients.push(client);
    }
    for _ in 0..4 {
        slow.request().await;
    }

    for client in &mut clients {
        for value in ["/1", "/2", "/3"] {
            client.publish("ds/V1", &value[1..]).await;
            assert_eq!(client.message().await.text(), value);
        }
    }

    assert!(slow.request_now().is_none(), "concurrency is 4");
    gate.open(5);
    for client in &mut clients {
        assert_eq!(client.message().await.text(), "at last");
    }
}

/// A board that sleeps between two readings: write, leave, and hear the response when it wakes
/// (product.md §5.5).
#[tokio::test]
async fn a_device_that_went_to_sleep_finds_response_and_app_write_when_it_wakes() {
    for version in BOTH {
        let gate = Gate::new();
        let held = gate.clone();
        let mut service = Service::start(move |_| Answer::ok("05:31").when(&held)).await;
        let yaml = format!(
            "{}{}webhooks:\n  sunrise: {{device: porch, pin: V0, url: 'http://{}/', from: hardware}}\n",
            devices(&["porch"]),
            admin(),
            service.host()
        );
        let daemon = Daemon::start(&yaml).await;
        let board = || Hello::mounted(version, "porch").id("board").kept();
        let mut root = Raw::log_in(daemon.address, Hello::user(version, "root")).await;
        root.subscribe(&[("pinhook/porch/webhook/sunrise", 1)])
            .await;

        let mut asleep = Raw::log_in(daemon.address, board()).await;
        asleep.subscribe(&[("downlink/ds/+", 1)]).await;
        asleep.publish("ds/V0", "now").await;
        service.request().await;
        asleep.goodbye().await;
        root.publish("pinhook/porch/set/V5", "on").await;
        gate.open(1);
        let report = json_of(&root.message().await);
        assert_eq!(report["outcome"], "ok", "{report}");
        let (mut awake, is_present) = Raw::resume(daemon.address, board()).await;

        assert!(is_present);
        let heard: Vec<_> = [awake.message().await, awake.message().await]
            .map(|message| (message.topic.clone(), message.text().to_owned()))
            .into();
        let expected = [("downlink/ds/V5", "on"), ("downlink/ds/V0", "05:31")];
        let expected = expected.map(|(topic, text)| (topic.to_owned(), text.to_owned()));
        assert_eq!(heard, expected);
        daemon.stop().await;
    }
}
