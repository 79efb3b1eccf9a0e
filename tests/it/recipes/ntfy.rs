//! ntfy, as "Publishing" of its documentation describes it; that a 429 comes
//! without `Retry-After` is issue 1173 of binwiederhier/ntfy.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{Kitchen, Recipe};
use crate::support::service::{Answer, Seen, Service};

/// A server that refuses the first `refused` messages as too many.
fn server(refused: usize) -> impl Fn(&Seen) -> Answer + Send + Sync {
    let count = AtomicUsize::new(0);
    move |request| {
        let json = |status, json: Value| {
            let answer = Answer::status(status).header("content-type", "application/json");
            answer.body(json.to_string())
        };
        if count.fetch_add(1, Ordering::Relaxed) < refused {
            let error = "limit reached: too many requests";
            return json(429, json!({"code": 42901, "http": 429, "error": error}));
        }
        let topic = request.target.trim_start_matches('/');
        let message = json!({"id": "sPs71M8A2T", "time": 1_795_000_000, "event": "message",
            "topic": topic, "message": request.body});
        json(200, message)
    }
}

async fn run(recipe: Recipe, service: &Service) -> Kitchen {
    let host = format!("http://{}", service.host());
    let recipe = recipe.with("https://ntfy.sh", &host);
    recipe.run("NTFY_TOPIC=porch-Kx83hfT2").await
}

#[tokio::test]
async fn an_event_becomes_a_notification_and_nothing_comes_back() {
    let mut service = Service::start(server(0)).await;
    let mut kitchen = run(Recipe::new("ntfy"), &service).await;

    kitchen.device.publish("event/doorbell", "Grüß Gott").await;

    let request = service.request().await;
    assert_eq!(request.method, "POST");
    assert_eq!(request.target, "/porch-Kx83hfT2");
    for (header, value) in [
        ("title", "Somebody is at the door"),
        ("priority", "high"),
        ("tags", "bell"),
        ("content-type", "text/plain; charset=utf-8"),
    ] {
        assert_eq!(request.headers[header], value);
    }
    assert_eq!(request.body, "Grüß Gott");
    let report = kitchen.report().await;
    assert_eq!(
        (&report["outcome"], &report["event"]),
        (&json!("ok"), &json!("doorbell"))
    );
    kitchen.device.silence().await;
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn another_event_notifies_nobody() {
    let mut service = Service::start(server(0)).await;
    let mut kitchen = run(Recipe::new("ntfy"), &service).await;

    kitchen.device.publish("event/window", "open").await;

    kitchen.device.silence().await;
    assert_eq!(kitchen.daemon.counts("doorbell").triggered, 0);
    assert!(service.request_now().is_none());
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn too_many_are_tried_once_more_and_then_said_on_diag() {
    for (refused, outcome, status) in [(1, "ok", 200), (2, "failed", 429)] {
        let mut service = Service::start(server(refused)).await;
        let recipe = Recipe::new("ntfy").with("every: 5s", "every: 0");
        let mut kitchen = run(recipe, &service).await;

        kitchen.device.publish("event/doorbell", "ring").await;

        let (first, second) = (service.request().await, service.request().await);
        let id = "x-pinhook-delivery";
        assert_eq!(first.headers[id], second.headers[id]);
        let report = kitchen.report().await;
        assert_eq!(report["outcome"], outcome);
        assert_eq!(
            (&report["status"], &report["attempts"]),
            (&json!(status), &json!(2))
        );
        if outcome == "failed" {
            kitchen.is_told(&["doorbell", "returned 429"]).await;
        }
        kitchen.device.silence().await;
        kitchen.daemon.stop().await;
    }
}
