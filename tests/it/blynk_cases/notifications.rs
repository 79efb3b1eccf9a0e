//! What Blynk's server did for a sketch itself, and what webhooks with an `event` do here
//! (product.md §6): tweets, mails, pushes and SMS.

use serde_json::{Value, json};

use super::porch;
use crate::support::blynk::{Ports, Sketch, TOK, command, response};
use crate::support::service::{Answer, Service};

/// A webhook for each, which says what it was triggered by.
async fn asked() -> (Ports, Service, Sketch) {
    let service = Service::start(|_| Answer::status(204)).await;
    let host = service.host();
    let mut yaml = porch() + "webhooks:\n";
    for event in ["tweet", "email", "notify", "sms"] {
        yaml += &format!(
            "  {event}:
    device: porch
    event: {event}
    every: 0
    url: http://{host}/{event}
    json: {{value: '{{{{ value }}}}', values: '{{{{ values }}}}', event: '{{{{ event }}}}'}}\n"
        );
    }
    let ports = Ports::start(&yaml).await;
    let sketch = ports.sketch(TOK).await;
    (ports, service, sketch)
}

#[tokio::test]
async fn each_triggers_its_webhooks_with_all_its_parts() {
    let (_ports, mut service, mut sketch) = asked().await;

    for (command, body, event, value, values) in [
        (
            command::TWEET,
            "It rains",
            "tweet",
            "It rains",
            json!(["It rains"]),
        ),
        (
            command::EMAIL,
            "to@to.com·subj·body",
            "email",
            "body",
            json!(["to@to.com", "subj", "body"]),
        ),
        (
            command::EMAIL,
            "subj·body",
            "email",
            "body",
            json!(["subj", "body"]),
        ),
        (command::NOTIFY, "yo", "notify", "yo", json!(["yo"])),
        (
            command::SMS,
            "come home",
            "sms",
            "come home",
            json!(["come home"]),
        ),
    ] {
        sketch.say(command, 7, body);
        sketch.expect(&response(7, 200)).await;

        let request = service.request().await;
        assert_eq!(request.target, format!("/{event}"));
        let found: Value = serde_json::from_str(&request.body).expect("JSON");
        let expected = json!({"value": value, "values": values, "event": event});
        assert_eq!(found, expected);
        sketch.quiet().await;
    }
}

#[tokio::test]
async fn what_is_empty_or_too_long_is_refused_before_any_webhook_hears_of_it() {
    let (_ports, mut service, mut sketch) = asked().await;
    let long = |count: usize| "é".repeat(count);

    for (command, body, status) in [
        (command::TWEET, String::new(), 13),
        (command::TWEET, long(141), 13),
        (command::NOTIFY, String::new(), 13),
        (command::NOTIFY, long(256), 13),
        (command::SMS, String::new(), 13),
        (command::SMS, long(161), 13),
        (command::EMAIL, String::new(), 2),
        (command::EMAIL, "body".to_owned(), 2),
    ] {
        sketch.say(command, 7, &body);
        sketch.expect(&response(7, status)).await;
    }

    // Characters are counted, not bytes. What was refused would have been asked before.
    for (command, body) in [
        (command::TWEET, long(140)),
        (command::NOTIFY, long(255)),
        (command::SMS, long(160)),
    ] {
        sketch.say(command, 8, &body);
        sketch.expect(&response(8, 200)).await;
        let request = service.request().await;
        let found: Value = serde_json::from_str(&request.body).expect("JSON");
        assert_eq!(found["value"], body);
    }
}

/// One of them is configured: the others are not.
#[tokio::test]
async fn a_webhook_for_one_is_none_for_another() {
    let service = Service::start(|_| Answer::status(204)).await;
    let host = service.host();
    let hook =
        format!("webhooks:\n  push: {{device: '*', event: notify, url: 'http://{host}/%s'}}\n");
    let ports = Ports::start(&(porch() + &hook)).await;
    let mut sketch = ports.sketch(TOK).await;

    for (command, body, status) in [
        (command::NOTIFY, "yo", 200),
        (command::TWEET, "yo", 14),
        (command::SMS, "yo", 14),
        (command::EMAIL, "a·b", 6),
    ] {
        sketch.say(command, 7, body);
        sketch.expect(&response(7, status)).await;
    }
}
