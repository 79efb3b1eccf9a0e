//! Topics and filters that were made to hurt.

use super::Scene;
use crate::support::raw::{BOTH, Hello, Message, Raw, V};

#[tokio::test]
async fn topics_that_do_not_begin_with_ascii() {
    let mut scene = Scene::new().await;
    for version in BOTH {
        let mut client = scene.root(version, "client").await;
        let topics = [
            "é/x",
            "\u{20ac}",
            "日本/語",
            "🐝",
            "é",
            "/é",
            "\u{feff}x",
            "pinhook/é/ds/V0",
            "pinhook/porch/ds/é",
            "pinhook/porch/é",
        ];
        assert_eq!(
            client
                .subscribe(&[("é/+", 1), ("+/x", 1), ("日本/#", 1), ("+/+/é", 1)])
                .await,
            [1; 4]
        );
        for topic in topics {
            client.publish(topic, "x").await;
        }
        for topic in ["é/x", "日本/語", "pinhook/porch/é"] {
            assert_eq!(client.message().await.topic, topic);
        }
        client.silence().await;
    }
    scene.is_open().await;
}

/// A million topics, once each, and as many times nothing of them left.
#[tokio::test]
async fn a_million_distinct_topics() {
    const TOPICS: usize = 1_000_000;
    let mut scene = Scene::new().await;
    let mut client = scene.root(V::V311, "client").await;
    // A subscriber makes the broker look them up in its tree.
    let mut listener = scene.root(V::V311, "listener").await;
    listener.subscribe(&[("some/+/where/else", 0)]).await;
    let flood = async |client: &mut Raw, from: usize, to: usize| {
        for start in (from..to).step_by(1000) {
            let mut bytes = Vec::new();
            for number in start..start + 1000 {
                bytes.extend(Message::new(&format!("some/{number}/where"), "x").bytes(V::V311));
            }
            client.send(&bytes).await;
        }
        client.ping().await;
    };
    // The first tenth warms up what is warmed up once.
    flood(&mut client, 0, TOPICS / 10).await;
    let before = scene.pinhook.resident();

    for tenth in 1..10 {
        flood(&mut client, tenth * TOPICS / 10, (tenth + 1) * TOPICS / 10).await;
        scene.is_served().await;
    }

    scene.settles(before, 4 * 1024).await;
    scene.is_open().await;
}

#[tokio::test]
async fn ten_thousand_distinct_filters() {
    let mut scene = Scene::new().await;
    let mut client = scene.root(V::V5, "client").await;
    // At once they are refused beyond the limit.
    let names: Vec<String> = (0..1000).map(|number| format!("a/{number}/+")).collect();
    let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let codes = client.subscribe(&filters).await;
    assert_eq!(codes.iter().filter(|code| **code == 1).count(), 100);
    assert_eq!(codes.iter().filter(|code| **code == 0x97).count(), 900);
    client.goodbye().await;

    // One after the other they leave nothing behind.
    let mut client = scene.root(V::V5, "client").await;
    let mut before = 0;
    for round in 0..100 {
        let names: Vec<String> = (0..100)
            .map(|number| format!("b{round}/{number}/deep/+/er"))
            .collect();
        let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(client.subscribe(&filters).await, [1; 100]);
        let filters: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(client.unsubscribe(&filters).await, [0; 100]);
        if round == 10 {
            before = scene.pinhook.resident();
        }
    }
    scene.settles(before, 4 * 1024).await;
    scene.is_open().await;
}

#[tokio::test]
async fn topics_as_deep_as_they_can_be() {
    let mut scene = Scene::with_limits("topic: 60KiB").await;
    let idle = scene.pinhook.resident();
    let deep = vec!["a"; 128].join("/");
    let too_deep = vec![""; 60_000].join("/");
    let wild = vec!["+"; 128].join("/");
    for version in BOTH {
        let mut client = scene.root(version, "client").await;
        let refused = if version == V::V5 { 0x8F } else { 0x80 };
        let filters = [(deep.as_str(), 1), (&wild, 1), (&too_deep, 1), ("a/#", 1)];
        assert_eq!(client.subscribe(&filters).await, [1, 1, refused, 1]);
        assert_eq!(client.publish(&deep, "x").await, 0);
        assert_eq!(client.message().await.topic, deep);
        let reason = client.publish(&too_deep, "x").await;
        assert_eq!(reason, if version == V::V5 { 0x90 } else { 0 });
        client.silence().await;
        // A hundred filters with every mix of wildcards, and topics that match many.
        let names: Vec<String> = (0..96_u32)
            .map(|bits| {
                (0..30)
                    .map(|level| {
                        if bits >> (level % 7) & 1 == 1 {
                            "+"
                        } else {
                            "a"
                        }
                    })
                    .collect::<Vec<_>>()
                    .join("/")
            })
            .collect();
        let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
        client.subscribe(&filters).await;
        for _ in 0..100 {
            client.publish(&["a"; 30].join("/"), "x").await;
        }
        client.ping().await;
        scene.is_served().await;
    }
    scene.settles(idle, 8 * 1024).await;
    scene.is_open().await;
}

#[tokio::test]
async fn retained_messages_are_bounded_for_each_login() {
    let mut scene = Scene::new().await;
    let mut shed = Raw::log_in(scene.address(), Hello::mounted(V::V5, "shed")).await;
    let mut reasons = Vec::new();
    for number in 0..300 {
        let message = Message::new(&format!("kept/{number}"), "x")
            .qos(1)
            .retained();
        reasons.push(shed.publish_message(message).await);
    }

    assert!(reasons[..200].iter().all(|reason| *reason < 0x80));
    assert_eq!(reasons[200..], [0x97; 100]);
    // What is kept may still be replaced, and another login has its own.
    let again = Message::new("kept/7", "y").qos(1).retained();
    assert!(shed.publish_message(again).await < 0x80);
    let mut porch = Raw::log_in(scene.address(), Hello::mounted(V::V5, "porch").id("other")).await;
    assert!(
        porch
            .publish_message(Message::new("kept", "x").qos(1).retained())
            .await
            < 0x80
    );
    scene.is_open().await;
}
