//! Home Assistant, as "REST API" of its developer documentation describes it and
//! its components `api` and `webhook` do it.

use serde_json::{Value, json};

use super::{Kitchen, Recipe};
use crate::support::service::{Answer, Seen, Service};

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.long-lived";

/// A Home Assistant with a light, a sensor and a webhook.
fn home(request: &Seen) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    let is_webhook = request.target.starts_with("/api/webhook/");
    if !is_webhook && request.headers.get("authorization") != Some(&bearer) {
        return Answer::status(401).body("401: Unauthorized");
    }
    let json = |status, json: Value| {
        let answer = Answer::status(status).header("content-type", "application/json");
        answer.body(json.to_string())
    };
    match (request.method.as_str(), request.target.as_str()) {
        ("GET", "/api/states/sensor.outside") => json(
            200,
            json!({"entity_id": "sensor.outside", "state": "-3.5",
                "attributes": {"unit_of_measurement": "°C"}}),
        ),
        ("GET", _) => json(404, json!({"message": "Entity not found."})),
        ("POST", "/api/services/light/toggle") => {
            json(200, json!([{"entity_id": "light.kitchen", "state": "on"}]))
        }
        // Also for an id that nobody listens to, so as not to give away which do.
        ("POST", _) if is_webhook => Answer::status(200),
        _ => Answer::status(405).body("405: Method Not Allowed"),
    }
}

async fn run(recipe: Recipe, service: &Service, token: &str) -> Kitchen {
    let host = service.host().to_string();
    let recipe = recipe.with("homeassistant.local:8123", &host);
    let secrets = format!("HA_TOKEN={token}\nHA_WEBHOOK=-9fVSI5bBhJ6");
    recipe.run(&secrets).await
}

#[tokio::test]
async fn every_press_of_the_button_toggles_the_light() {
    let mut service = Service::start(home).await;
    let recipe = Recipe::new("home-assistant");
    let recipe = recipe.with("excess: queue", "every: 0\n    excess: queue");
    let mut kitchen = run(recipe, &service, TOKEN).await;

    for value in ["1", "0", "1", "0", "1"] {
        kitchen.device.publish("ds/V1", value).await;
    }

    for _ in 0..3 {
        let request = service.request().await;
        assert_eq!(request.method, "POST");
        assert_eq!(request.target, "/api/services/light/toggle");
        assert_eq!(request.headers["content-type"], "application/json");
        assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        assert_eq!(body, json!({"entity_id": "light.kitchen"}));
        assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(200)));
    }
    kitchen.device.silence().await;
    kitchen.observer.silence().await;
    assert!(service.request_now().is_none());
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn a_state_comes_to_the_device() {
    let mut service = Service::start(home).await;
    let mut kitchen = run(Recipe::new("home-assistant"), &service, TOKEN).await;

    kitchen.device.publish("ds/V2", "?").await;

    let request = service.request().await;
    assert_eq!(
        (request.method.as_str(), request.body.as_str()),
        ("GET", "")
    );
    assert_eq!(request.target, "/api/states/sensor.outside");
    kitchen.hears("downlink/ds/V2", "-3.5").await;
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn an_automation_gets_its_value_and_the_device_nothing() {
    let mut service = Service::start(home).await;
    let mut kitchen = run(Recipe::new("home-assistant"), &service, TOKEN).await;

    kitchen.device.publish("ds/V3", "0.42").await;

    let request = service.request().await;
    assert_eq!(request.method, "POST");
    assert_eq!(request.target, "/api/webhook/-9fVSI5bBhJ6");
    // By this word Home Assistant decides whether it is `trigger.json`.
    assert!(request.headers["content-type"].contains("json"));
    assert!(!request.headers.contains_key("authorization"));
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(body, json!({"moisture": 0.42}));
    assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(200)));
    kitchen.device.silence().await;
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn a_wrong_token_and_an_unknown_entity_are_said_on_diag() {
    for (token, entity, status) in [
        ("eyJhbGciOiJIUzI1NiJ9.withdrawn", "sensor.outside", 401),
        (TOKEN, "sensor.nowhere", 404),
    ] {
        let service = Service::start(home).await;
        let recipe = Recipe::new("home-assistant").with("sensor.outside", entity);
        let mut kitchen = run(recipe, &service, token).await;

        kitchen.device.publish("ds/V2", "?").await;

        kitchen
            .is_told(&["outside", &format!("returned {status}")])
            .await;
        assert_eq!(kitchen.outcome().await, ("failed".to_owned(), Some(status)));
        kitchen.device.silence().await;
        kitchen.daemon.stop().await;
    }
}
