//! sunrise-sunset.org, as its page "Sunset and sunrise times API" describes it.
//! The page lists the words of `status` and says nothing of HTTP statuses.

use super::{Kitchen, Recipe};
use crate::support::service::{Answer, Service};

async fn run(service: &Service) -> Kitchen {
    let host = format!("http://{}", service.host());
    let recipe = Recipe::new("sunrise").with("https://api.sunrise-sunset.org", &host);
    recipe.run("").await
}

#[tokio::test]
async fn nested_json_becomes_two_values_of_one_write() {
    let response = r#"{"results": {
        "sunrise": "2026-11-23T07:41:30+01:00", "sunset": "2026-11-23T16:02:11+01:00",
        "solar_noon": "2026-11-23T11:51:50+01:00", "day_length": 30041},
        "status": "OK", "tzid": "Europe/Berlin"}"#;
    let mut service = Service::start(move |_| Answer::ok(response)).await;
    let mut kitchen = run(&service).await;

    kitchen.device.publish("ds/V0", "2026-11-23").await;

    let request = service.request().await;
    assert_eq!(request.method, "GET");
    assert_eq!(
        request.target,
        "/json?lat=52.52&lng=13.405&date=2026-11-23&formatted=0&tzid=Europe/Berlin"
    );
    kitchen.hears("downlink/ds/V0", "07:41\u{0}16:02").await;
    assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(200)));
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn a_date_it_does_not_understand_is_said_on_diag_whatever_the_status() {
    for (status, outcome, why) in [
        (200, "response_error", "response.value"),
        (400, "failed", "returned 400"),
    ] {
        let refused = r#"{"results": "", "status": "INVALID_DATE", "tzid": "UTC"}"#;
        let mut service = Service::start(move |_| Answer::status(status).body(refused)).await;
        let mut kitchen = run(&service).await;

        kitchen.device.publish("ds/V0", "no day & lat=1").await;

        let target = service.request().await.target;
        assert!(
            target.contains("&date=no%20day%20%26%20lat%3D1&"),
            "{target}"
        );
        kitchen.is_told(&["sunrise", why]).await;
        let expected = (outcome.to_owned(), Some(u64::from(status)));
        assert_eq!(kitchen.outcome().await, expected);
        kitchen.device.silence().await;
        kitchen.daemon.stop().await;
    }
}
