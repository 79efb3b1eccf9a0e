//! How much a sketch may say (product.md §6, `limits.writes_per_second`): whole frames are dropped,
//! and it is told so once a minute.

use super::porch;
use crate::support::blynk::{
    Frame, PAUSE, Ports, Sketch, TOK, command, frame, http_get, metric, response,
};

/// Status for whoever says too much.
const QUOTA: u16 = 1;

/// T79, all at once instead of one each 5 ms: so it does not depend on how fast anything is.
#[tokio::test]
async fn of_two_hundred_writes_the_first_hundred_are_taken_and_the_sketch_is_told_once() {
    let ports = Ports::start(&porch()).await;
    let mut sketch = ports.sketch(TOK).await;
    let mut said = Vec::new();
    for number in 1..=200 {
        said.extend(frame(
            command::HARDWARE,
            number,
            &format!("aw·100·{number}"),
        ));
    }

    sketch.send(&said);
    let refused = sketch.frame().await;

    assert_eq!(
        (refused.command, refused.status),
        (command::RESPONSE, QUOTA)
    );
    assert!(refused.id > 100, "{refused:?}");
    // Frames are counted as well; after a while there is room for a PING, and for a write.
    tokio::time::sleep(PAUSE).await;
    sketch.quiet().await;
    let (status, value) = http_get(ports.http, &format!("/{TOK}/get/A100")).await;
    assert_eq!(status, 200);
    let last: u16 = value
        .trim_matches(['[', ']', '"'])
        .parse()
        .expect("a number");
    assert!(last >= 100, "{last} was taken last");
    sketch.write("aw·100·after").await;
    sketch.quiet().await;
    let (_, value) = http_get(ports.http, &format!("/{TOK}/get/A100")).await;
    assert_eq!(value, r#"["after"]"#);
}

#[tokio::test]
async fn writes_that_are_too_many_are_not_taken() {
    // One a second, and two at first.
    let yaml = format!("limits: {{writes_per_second: 1}}\n{}", porch());
    let ports = Ports::start(&yaml).await;
    let mut sketch = ports.sketch(TOK).await;

    for number in 1..=40 {
        sketch.say(command::HARDWARE, number, &format!("vw·{number}·x"));
    }
    let refused = sketch.frame().await;
    sketch.quiet().await;

    assert_eq!(
        (refused.command, refused.status),
        (command::RESPONSE, QUOTA)
    );
    assert!(refused.id > 2, "{refused:?}");
    let mut taken = 0;
    for number in 1..=40 {
        let (status, _) = http_get(ports.http, &format!("/{TOK}/get/V{number}")).await;
        taken += u32::from(status == 200);
        let is_first = number <= 2;
        assert!(!is_first || status == 200, "V{number}");
    }
    // As long as all that took less than half a minute.
    assert!((2..=30).contains(&taken), "{taken} of 40");
}

/// The legacy server dropped the header alone and lost its place (blynk.md §1.1).
#[tokio::test]
async fn frames_over_the_quota_are_dropped_whole() {
    let ports = Ports::start(&format!("limits: {{writes_per_second: 0}}\n{}", porch())).await;
    let mut sketch = ports.sketch(TOK).await;
    let mut said = Vec::new();
    // What is in the bodies would end the connection, were it read as a frame.
    let body = "d\0\u{1}\0\u{1}xd\0\u{1}\0\u{1}x";
    for number in 1..=1000 {
        said.extend(frame(command::PING, number, body));
    }

    sketch.send(&said);
    let mut answers = Vec::new();
    let mut pings = 1000;
    let last = loop {
        // The burst is over when a PING of later is answered: one in the dropping time is dropped.
        let frames = answers_within(&mut sketch).await;
        answers.extend(frames);
        sketch.say(command::PING, 2000, "");
        pings += 1;
        if let Some(last) = answers_within(&mut sketch).await.pop() {
            break last;
        }
    };

    assert_eq!((last.id, last.status), (2000, 200));
    let refused: Vec<_> = answers
        .iter()
        .filter(|frame| frame.status == QUOTA)
        .collect();
    assert_eq!(refused.len(), 1, "told once a minute: {refused:?}");
    // One place of the burst of 200 went to the login.
    assert!((200..1000).contains(&refused[0].id), "{refused:?}");
    let ids: Vec<_> = answers.iter().map(|frame| frame.id).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let honest = answers.iter().filter(|frame| frame.status == 200).count();
    assert!((199..999).contains(&honest), "{honest} of 1000 answered");
    // Each PING was answered or counted; the last is not among the answers.
    let dropped = metric(ports.http, r#"pinhook_blynk_refused_total{reason="quota"}"#);
    assert_eq!(honest + 1 + dropped.await, pings);
}

/// The frames that come until none came for a while.
async fn answers_within(sketch: &mut Sketch) -> Vec<Frame> {
    let mut answers = Vec::new();
    sketch.flush().await;
    while let Ok(frame) = tokio::time::timeout(PAUSE, sketch.frame()).await {
        answers.push(frame);
    }
    answers
}

/// A quota is of one connection.
#[tokio::test]
async fn another_connection_of_the_same_device_has_a_quota_of_its_own() {
    let ports = Ports::start(&porch()).await;
    let mut loud = ports.sketch(TOK).await;
    let mut other = ports.sketch(TOK).await;
    for number in 1..=400 {
        loud.say(command::PING, number, "");
    }
    loud.flush().await;
    loop {
        let answer = loud.frame().await;
        if answer.status == QUOTA {
            break;
        }
    }

    other.say(command::PING, 5, "");
    other.expect(&response(5, 200)).await;
}
