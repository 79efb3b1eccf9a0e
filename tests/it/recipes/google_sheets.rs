//! Google Apps Script, as "Content Service" and "Web Apps" of its documentation
//! describe it: what a script returns comes from another host, by a redirect
//! that is to be followed with GET.

use serde_json::{Value, json};

use super::{Kitchen, Recipe};
use crate::support::service::{Answer, Service};

/// Where the stand-in of `script.google.com` sends everybody.
async fn google(content: &Service, path: &str) -> Service {
    // Another name than 127.0.0.1, and so another host.
    let port = content.host().port();
    let location = format!("http://localhost:{port}{path}");
    Service::start(move |_| {
        let page = "<HTML><HEAD><TITLE>Moved Temporarily</TITLE></HEAD></HTML>";
        Answer::status(302)
            .header("location", location.clone())
            .body(page)
    })
    .await
}

const ECHO: &str = "/macros/echo?user_content_key=AehSKL-x_y&lib=M1YL";

async fn run(recipe: Recipe, service: &Service) -> Kitchen {
    let host = format!("http://{}", service.host());
    let recipe = recipe.with("https://script.google.com", &host);
    recipe.run("SHEET=AKfycbx0123456789").await
}

#[tokio::test]
async fn the_answer_is_fetched_from_the_other_host_with_get_and_without_the_body() {
    let mut content = Service::start(|_| Answer::ok("row 17")).await;
    let mut script = google(&content, ECHO).await;
    let mut kitchen = run(Recipe::new("google-sheets"), &script).await;

    kitchen.device.publish("ds/V5", "0.42").await;

    let posted = script.request().await;
    assert_eq!(posted.method, "POST");
    assert_eq!(posted.target, "/macros/s/AKfycbx0123456789/exec");
    assert_eq!(posted.headers["content-type"], "application/json");
    let body: Value = serde_json::from_str(&posted.body).expect("JSON");
    assert_eq!(body, json!({"device": "porch", "moisture": 0.42}));
    let fetched = content.request().await;
    assert_eq!(
        (fetched.method.as_str(), fetched.body.as_str()),
        ("GET", "")
    );
    assert_eq!(fetched.target, ECHO);
    for header in ["content-type", "content-length", "transfer-encoding"] {
        assert!(!fetched.headers.contains_key(header), "{fetched:?}");
    }
    // The deployment's id lets anybody write: it stays with Google's first host.
    let sent = format!("{:?}", fetched.headers);
    assert!(!sent.contains("AKfycbx"), "{sent}");
    kitchen.hears("downlink/ds/V5", "row 17").await;
    assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(200)));
    kitchen.daemon.stop().await;
}

#[tokio::test]
async fn without_redirects_the_row_is_written_and_the_device_hears_nothing() {
    let mut content = Service::start(|_| Answer::ok("row 17")).await;
    let mut script = google(&content, ECHO).await;
    let recipe = Recipe::new("google-sheets").with("    redirects: 2\n", "");
    let mut kitchen = run(recipe, &script).await;

    kitchen.device.publish("ds/V5", "0.42").await;

    assert_eq!(script.request().await.method, "POST");
    assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(302)));
    kitchen.device.silence().await;
    assert!(content.request_now().is_none());
    kitchen.daemon.stop().await;
}

/// A deployment that not "Anyone" may use shows the login page, and a script
/// that throws an error page: both with 200.
#[tokio::test]
async fn a_page_of_googles_never_reaches_the_device() {
    let page = format!("<!DOCTYPE html><html>{}</html>", "Sign in ".repeat(300));
    let mut content = Service::start(move |_| Answer::ok(page.clone())).await;
    let script = google(&content, "/ServiceLogin?continue=x").await;
    let mut kitchen = run(Recipe::new("google-sheets"), &script).await;

    kitchen.device.publish("ds/V5", "0.42").await;

    assert_eq!(content.request().await.method, "GET");
    kitchen.is_told(&["sheet", "larger than 256 bytes"]).await;
    assert_eq!(kitchen.outcome().await, ("too_large".to_owned(), Some(200)));
    kitchen.device.silence().await;
    kitchen.daemon.stop().await;
}
