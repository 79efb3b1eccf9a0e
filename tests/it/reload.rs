//! Another configuration while pinhook runs: SIGHUP (product.md §9, Reload).

use serde_json::Value;

use crate::support::child::Process;
use crate::support::raw::{BOTH, Hello, Raw, V};
use crate::support::service::{Answer, Gate, Service};
use crate::support::{password_hash, token, until};

/// An admin who sees everything, and whatever else.
fn config(rest: &str) -> String {
    format!(
        "users:
  root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}
{rest}",
        password_hash()
    )
}

fn porch(webhooks: &str) -> String {
    let token = token("porch");
    config(&format!(
        "devices:\n  porch: {{token: {token}}}\nwebhooks:\n{webhooks}"
    ))
}

/// Saves `yaml`, asks for a reload and waits until the log has `says` once more.
async fn reload(pinhook: &Process, yaml: &str, says: &str) {
    let file = pinhook.folder.path().join("config.yaml");
    let whole = format!("listen: {{http: off, mqtt: 127.0.0.1:0}}\n{yaml}");
    std::fs::write(file, whole).expect("a written file");
    let count = || pinhook.said().matches(says).count();
    let before = count();
    pinhook.signal("HUP").await;
    until(says, || count() > before).await;
}

const RELOADED: &str = "configuration reloaded: ";
const REFUSED: &str = "the configuration stays as it was: ";

/// The next message on `topic`, as JSON.
async fn json_on(client: &mut Raw, topic: &str) -> Value {
    let message = client.message_on(topic).await;
    serde_json::from_slice(&message.payload).unwrap_or(Value::Null)
}

#[tokio::test]
async fn devices_users_and_webhooks_change_and_nobody_else_is_disturbed() {
    for version in BOTH {
        let mut service = Service::start(|_| Answer::ok("yes")).await;
        let host = service.host();
        let hook = |path: &str| {
            format!("  ask: {{device: '*', pin: V0, url: 'http://{host}/{path}', every: 0}}")
        };
        let devices = |names: &[&str], path: &str| {
            let device = |name: &&str| format!("  {name}: {{token: {}}}\n", token(name));
            let devices: String = names.iter().map(device).collect();
            config(&format!("devices:\n{devices}webhooks:\n{}", hook(path)))
        };
        let mut pinhook = Process::start(&devices(&["porch", "shed"], "old")).await;
        let mut stays = Raw::log_in(pinhook.address, Hello::mounted(version, "porch")).await;
        let mut goes = Raw::log_in(pinhook.address, Hello::mounted(version, "shed")).await;
        let mut root = Raw::log_in(pinhook.address, Hello::user(V::V5, "root")).await;
        stays.subscribe(&[("downlink/#", 1)]).await;
        goes.publish("ds/V7", "kept").await;
        root.subscribe(&[("pinhook/shed/#", 0)]).await;
        let mut retained = Vec::new();
        for _ in 0..2 {
            retained.push(root.message().await.topic);
        }
        retained.sort();
        assert_eq!(retained, ["pinhook/shed/state/V7", "pinhook/shed/status"]);

        reload(&pinhook, &devices(&["porch", "attic"], "new"), RELOADED).await;

        goes.dismissed(0x98).await;
        let mut cleared = Vec::new();
        while cleared.len() < 2 {
            let message = root.message().await;
            if message.payload.is_empty() {
                cleared.push(message.topic);
            }
        }
        cleared.sort();
        assert_eq!(cleared, ["pinhook/shed/state/V7", "pinhook/shed/status"]);
        stays.publish("ds/V0", "1").await;
        assert_eq!(service.request().await.target, "/new");
        assert_eq!(stays.message_on("downlink/ds/V0").await.text(), "yes");
        let mut new = Raw::log_in(pinhook.address, Hello::mounted(version, "attic")).await;
        new.publish("ds/V0", "1").await;
        assert_eq!(service.request().await.target, "/new");
        Raw::refused(pinhook.address, &Hello::mounted(version, "shed")).await;
        pinhook.assert_unharmed();
    }
}

#[tokio::test]
async fn a_new_token_ends_the_connections_of_the_old() {
    let service = Service::start(|_| Answer::ok("yes")).await;
    let hook = format!(
        "  ask: {{device: porch, pin: V0, url: 'http://{}/'}}",
        service.host()
    );
    let pinhook = Process::start(&porch(&hook)).await;
    let mut mounted = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    let mut unmounted = Raw::log_in(pinhook.address, Hello::unmounted(V::V311, "porch")).await;

    let other = porch(&hook).replace(&token("porch"), "quite-another-token");
    reload(&pinhook, &other, RELOADED).await;

    mounted.dismissed(0x98).await;
    unmounted.dismissed(0x98).await;
    Raw::refused(pinhook.address, &Hello::mounted(V::V5, "porch")).await;
    let new = Hello::new(V::V5, "new").login("device", "quite-another-token");
    Raw::log_in(pinhook.address, new).await;
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_all_that_is_wrong_with_it() {
    let mut service = Service::start(|_| Answer::ok("yes")).await;
    let hook = format!(
        "  ask: {{device: porch, pin: V0, url: 'http://{}/', every: 0}}",
        service.host()
    );
    let mut pinhook = Process::start(&porch(&hook)).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;

    for (bad, says) in [
        ("  ask: {device: porch, pin: V0}", "`url` is missing"),
        (
            "  ask: {device: prch, pin: V0, url: 'http://h/'}",
            "did you mean `porch`?",
        ),
        ("  ask: {", REFUSED),
    ] {
        reload(&pinhook, &porch(bad), REFUSED).await;

        until(says, || pinhook.said().contains(says)).await;
        device.publish("ds/V0", "1").await;
        service.request().await;
    }
    assert!(!pinhook.said().contains(&token("porch")));
    pinhook.assert_unharmed();
}

/// Blynk's gesture: saving resumes, changed or not (blynk.md W42).
#[tokio::test]
async fn saving_resumes_a_stopped_webhook() {
    let mut service = Service::start(|_| Answer::status(500)).await;
    let hook = format!(
        "  ask: {{device: porch, pin: V0, url: 'http://{}/', every: 0, retry: 0, stop_after: 2, probe: off}}",
        service.host()
    );
    let pinhook = Process::start(&porch(&hook)).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    let mut root = Raw::log_in(pinhook.address, Hello::user(V::V5, "root")).await;
    root.subscribe(&[
        ("pinhook/bridge/webhooks/ask", 0),
        ("pinhook/porch/webhook/ask", 0),
    ])
    .await;
    for _ in 0..2 {
        device.publish("ds/V0", "1").await;
        service.request().await;
        assert_eq!(
            json_on(&mut root, "pinhook/porch/webhook/ask").await["outcome"],
            "failed"
        );
    }
    device.publish("ds/V0", "1").await;
    assert_eq!(
        json_on(&mut root, "pinhook/porch/webhook/ask").await["outcome"],
        "stopped"
    );

    reload(&pinhook, &porch(&hook), RELOADED).await;

    device.publish("ds/V0", "1").await;
    service.request().await;
    loop {
        let state = json_on(&mut root, "pinhook/bridge/webhooks/ask").await;
        if state["state"] == "ready" && state["failures"] == 1 {
            break;
        }
    }
}

#[tokio::test]
async fn what_waits_and_what_is_on_its_way_outlive_a_reload() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut service = Service::start(move |_| Answer::ok("at last").when(&held)).await;
    let host = service.host();
    let hooks = |path: &str, more: &str| {
        porch(&format!(
            "  ask: {{device: porch, pin: V0, url: 'http://{host}/{path}/%s', every: 0, excess: queue}}\n{more}"
        ))
    };
    let gone =
        format!("  gone: {{device: porch, pin: V1, url: 'http://{host}/gone/%s', every: 0}}\n");
    let pinhook = Process::start(&hooks("old", &gone)).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    device
        .subscribe(&[("downlink/ds/#", 1), ("webhook/#", 0)])
        .await;
    for value in ["1", "2", "3"] {
        device.publish("ds/V0", value).await;
    }
    assert_eq!(service.request().await.target, "/old/1");
    device.publish("ds/V1", "4").await;
    assert_eq!(service.request().await.target, "/gone/4");
    device.publish("ds/V1", "5").await;

    reload(&pinhook, &hooks("new", ""), RELOADED).await;

    let removed = json_on(&mut device, "webhook/gone").await;
    assert_eq!(
        (removed["outcome"].as_str(), removed["pin"].as_str()),
        (Some("removed"), Some("V1"))
    );
    gate.open(9);
    assert_eq!(service.request().await.target, "/new/2");
    assert_eq!(service.request().await.target, "/new/3");
    let mut heard = Vec::new();
    while heard.len() < 4 {
        let message = device.message().await;
        if message.topic.starts_with("downlink/ds/") {
            assert_eq!(message.text(), "at last");
            heard.push(message.topic);
        }
    }
    heard.sort();
    // One webhook is gone; what it had asked for comes all the same.
    assert_eq!(heard[..3], ["downlink/ds/V0"; 3]);
    assert_eq!(heard[3], "downlink/ds/V1");
}

#[tokio::test]
async fn what_needs_a_restart_is_said_every_time() {
    let hook = "  ask: {device: porch, pin: V0, url: 'http://h/'}";
    let pinhook = Process::start(&porch(hook)).await;

    for _ in 0..2 {
        let other = format!(
            "{}\nlimits: {{value: 1KiB}}\nlog: warn\nbase_topic: home/pins\n",
            porch(hook)
        );
        reload(&pinhook, &other, "in effect after a restart only: ").await;
    }

    for key in ["limits.value", "base_topic"] {
        assert!(pinhook.said().contains(key), "{}", pinhook.said());
    }
    // Until then it stays where it is.
    let mut device = Raw::log_in(pinhook.address, Hello::unmounted(V::V5, "porch")).await;
    assert_eq!(device.publish("pinhook/porch/ds/V1", "1").await, 0);
    assert_eq!(device.publish("home/pins/porch/ds/V1", "1").await, 0x87);
}
