//! ThingSpeak, as the pages "Write Data" and "Error Codes" of its documentation
//! describe it. That a refused update answers 200 and `0`, where one would expect
//! 429, is said in mathworks/thingspeak-arduino (return code -401) and in issue 4
//! of angryelectron/thingspeak-java.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Kitchen, Recipe, client};
use crate::support::service::{Answer, Seen, Service};

const KEY: &str = "XXWRITEKEYXXXXXX";

/// A channel that takes an update once in `pause`; somebody else has made the
/// first `updates`.
fn channel(pause: Duration, updates: u32) -> impl Fn(&Seen) -> Answer + Send + Sync {
    let last = (updates > 0).then(Instant::now);
    let state = Mutex::new((updates, last));
    move |request| {
        let mut fields = url::form_urlencoded::parse(request.body.as_bytes());
        let has_key = fields.any(|(name, value)| name == "api_key" && value == KEY);
        if !has_key {
            return Answer::status(401).body("error_auth_required");
        }
        let (updates, last) = &mut *state.lock().expect("no panic under this lock");
        if last.is_some_and(|last| last.elapsed() < pause) {
            return Answer::ok("0");
        }
        *updates += 1;
        *last = Some(Instant::now());
        Answer::ok(updates.to_string())
    }
}

async fn run(recipe: Recipe, service: &Service, key: &str) -> Kitchen {
    let host = format!("http://{}", service.host());
    let recipe = recipe.with("https://api.thingspeak.com", &host);
    recipe.run(&format!("THINGSPEAK_KEY={key}")).await
}

#[tokio::test]
async fn an_update_has_all_fields_and_the_next_waits_its_fifteen_seconds() {
    let mut service = Service::start(channel(Duration::from_secs(15), 0)).await;
    let mut kitchen = run(Recipe::new("thingspeak"), &service, KEY).await;

    let batch = r#"{"V1": 21.5, "V2": "60 %", "V3": 1013}"#;
    kitchen.device.publish("batch_ds", batch).await;

    let request = service.request().await;
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/update")
    );
    let kind = "application/x-www-form-urlencoded";
    assert_eq!(request.headers["content-type"], kind);
    let body = format!("api_key={KEY}&field1=21.5&field2=60+%25&field3=1013");
    assert_eq!(request.body, body);
    kitchen.hears("downlink/ds/V3", "1").await;

    for pressure in ["1014", "1015"] {
        kitchen.device.publish("ds/V3", pressure).await;
    }

    assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(200)));
    assert_eq!(kitchen.outcome().await, ("superseded".to_owned(), None));
    let counts = kitchen.daemon.counts("thingspeak");
    assert_eq!((counts.waiting, counts.in_flight), (1, 0));
    assert!(service.request_now().is_none());
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn devices_of_one_channel_take_turns_and_send_their_newest_values() {
    // Half as long as `every`, so that what the machine adds cannot matter.
    let mut service = Service::start(channel(Duration::from_millis(500), 0)).await;
    let recipe = Recipe::new("thingspeak").with("every: 16s", "every: 1s");
    let recipe = recipe.with("device: porch", "device: '*'");
    let recipe = recipe.with("devices:\n", "devices:\n  shed: {token: '${SHED_TOKEN}'}\n");
    let mut kitchen = run(recipe, &service, KEY).await;
    let mut shed = client(&kitchen.daemon, "shed", "shed", "downlink/#").await;

    let batch = |pressure: u32| format!(r#"{{"V1": 1, "V2": 2, "V3": {pressure}}}"#);
    kitchen.device.publish("batch_ds", batch(1)).await;
    assert!(service.request().await.body.ends_with("field3=1"));
    for pressure in [2, 3] {
        shed.publish("batch_ds", batch(pressure)).await;
        kitchen.device.publish("batch_ds", batch(pressure)).await;
    }

    // Each its own newest; nobody is refused.
    kitchen.hears("downlink/ds/V3", "1").await;
    for _ in 0..2 {
        assert!(service.request().await.body.ends_with("field3=3"));
    }
    let mut ids = [
        shed.message().await.payload,
        kitchen.device.message().await.payload,
    ];
    ids.sort();
    assert_eq!(ids, [b"2", b"3"]);
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn a_refused_update_is_heard_as_0_and_a_wrong_key_on_diag() {
    let long = Duration::from_secs(3600);
    for (key, is_refused) in [(KEY, true), ("ANOTHERKEYXXXXXX", false)] {
        let service = Service::start(channel(long, 7)).await;
        let mut kitchen = run(Recipe::new("thingspeak"), &service, key).await;

        let batch = r#"{"V1": 21.5, "V2": 60, "V3": 1013}"#;
        kitchen.device.publish("batch_ds", batch).await;

        if is_refused {
            kitchen.hears("downlink/ds/V3", "0").await;
            assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(200)));
        } else {
            kitchen.is_told(&["thingspeak", "returned 401"]).await;
            assert_eq!(kitchen.outcome().await, ("failed".to_owned(), Some(401)));
        }
        kitchen.device.silence().await;
        kitchen.daemon.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_sent_before_every_field_was_written() {
    let mut service = Service::start(channel(Duration::ZERO, 0)).await;
    let mut kitchen = run(Recipe::new("thingspeak"), &service, KEY).await;

    kitchen.device.publish("ds/V3", "1013").await;

    kitchen.is_told(&["thingspeak", "field1"]).await;
    assert_eq!(kitchen.outcome().await, ("render_error".to_owned(), None));
    assert!(service.request_now().is_none());
    kitchen.daemon.stop().await;
}
