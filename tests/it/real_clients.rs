//! Clients nobody here wrote, rumqttc for 3.1.1 and for 5: what our own client in
//! bytes may misread the same way as the daemon, they would not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as packets;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, v5};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::broker::{Broker, root};
use crate::support::raw::{Message, V};
use crate::support::{PASSWORD, within};

/// A client of root's for 3.1.1.
struct Old {
    client: AsyncClient,
    events: mpsc::UnboundedReceiver<Packet>,
    polling: JoinHandle<()>,
}

impl Old {
    /// Connects; says too whether the session was there.
    async fn connect(address: SocketAddr, id: &str, is_clean: bool) -> (Old, bool) {
        let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
        options.set_credentials("root", PASSWORD);
        options.set_keep_alive(Duration::from_secs(60));
        options.set_clean_session(is_clean);
        let (client, mut events) = AsyncClient::new(options, 100);
        let (news, heard) = mpsc::unbounded_channel();
        let polling = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(packet) = event
                    && news.send(packet).is_err()
                {
                    return;
                }
            }
        });
        let mut client = Old {
            client,
            events: heard,
            polling,
        };
        let is_present = client
            .wait("CONNACK", |packet| match packet {
                Packet::ConnAck(connack) => Some(connack.session_present),
                _ => None,
            })
            .await;
        (client, is_present)
    }

    /// The first of the packets to come that `find` finds something in.
    async fn wait<T>(&mut self, what: &str, find: impl Fn(Packet) -> Option<T>) -> T {
        within(what, async {
            loop {
                let packet = self.events.recv().await.expect("the connection lives");
                if let Some(found) = find(packet) {
                    return found;
                }
            }
        })
        .await
    }

    async fn message(&mut self) -> (String, QoS) {
        self.wait("a message", |packet| match packet {
            Packet::Publish(publish) => {
                let text = String::from_utf8_lossy(&publish.payload).into_owned();
                Some((text, publish.qos))
            }
            _ => None,
        })
        .await
    }

    async fn leave(mut self) {
        self.client.disconnect().await.expect("a goodbye");
        let _ = within("the end", &mut self.polling).await;
    }
}

/// A client of root's for MQTT 5.
struct New {
    client: v5::AsyncClient,
    events: mpsc::UnboundedReceiver<packets::Packet>,
    /// What the aliases stand for; rumqttc hands them on as they came.
    topics: HashMap<u16, Bytes>,
    polling: JoinHandle<()>,
}

impl New {
    /// Connects with a session that is kept for a minute and with so many aliases;
    /// says too whether the session was there.
    async fn connect(address: SocketAddr, id: &str, aliases: u16) -> (New, bool) {
        let mut options = v5::MqttOptions::new(id, address.ip().to_string(), address.port());
        options.set_credentials("root", PASSWORD);
        options.set_keep_alive(Duration::from_secs(60));
        options.set_clean_start(false);
        let mut properties = packets::ConnectProperties::new();
        properties.session_expiry_interval = Some(60);
        properties.topic_alias_max = Some(aliases);
        options.set_connect_properties(properties);
        let (client, mut events) = v5::AsyncClient::new(options, 100);
        let (news, heard) = mpsc::unbounded_channel();
        let polling = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let v5::Event::Incoming(packet) = event
                    && news.send(packet).is_err()
                {
                    return;
                }
            }
        });
        let mut client = New {
            client,
            events: heard,
            topics: HashMap::new(),
            polling,
        };
        let is_present = client
            .wait("CONNACK", |packet| match packet {
                packets::Packet::ConnAck(connack) => Some(connack.session_present),
                _ => None,
            })
            .await;
        (client, is_present)
    }

    async fn wait<T>(&mut self, what: &str, find: impl Fn(packets::Packet) -> Option<T>) -> T {
        within(what, async {
            loop {
                let packet = self.events.recv().await.expect("the connection lives");
                if let Some(found) = find(packet) {
                    return found;
                }
            }
        })
        .await
    }

    /// The next message, with the topic that its alias stands for.
    async fn message(&mut self) -> packets::Publish {
        let mut publish = self
            .wait("a message", |packet| match packet {
                packets::Packet::Publish(publish) => Some(publish),
                _ => None,
            })
            .await;
        let properties = publish.properties.as_ref();
        if let Some(alias) = properties.and_then(|properties| properties.topic_alias) {
            if publish.topic.is_empty() {
                publish.topic = self.topics[&alias].clone();
            }
            self.topics.insert(alias, publish.topic.clone());
        }
        publish
    }

    async fn leave(mut self) {
        self.client.disconnect().await.expect("a goodbye");
        let _ = within("the end", &mut self.polling).await;
    }
}

#[tokio::test]
async fn a_client_of_3_1_1_exchanges_qos_2_and_finds_what_waited() {
    let broker = Broker::start().await;
    let (mut away, is_present) = Old::connect(broker.address, "away", false).await;
    assert!(!is_present);
    away.client
        .subscribe("a/+", QoS::ExactlyOnce)
        .await
        .expect("a subscribe");
    away.wait("SUBACK", |packet| {
        matches!(packet, Packet::SubAck(_)).then_some(())
    })
    .await;
    for number in 0..3 {
        away.client
            .publish("a/own", QoS::ExactlyOnce, false, number.to_string())
            .await
            .expect("a publish");
    }
    for number in 0..3 {
        let expected = (number.to_string(), QoS::ExactlyOnce);
        assert_eq!(away.message().await, expected);
    }
    // The last exchange is done on both sides once this has come back.
    away.client
        .publish("a/own", QoS::AtLeastOnce, false, "last")
        .await
        .expect("a publish");
    assert_eq!(away.message().await.0, "last");
    away.leave().await;

    let mut from = broker.client(V::V5, "from").await;
    for number in 0..10 {
        let message = Message::new("a/b", number.to_string()).qos(1 + number % 2);
        from.publish_any(message).await;
    }
    let (mut back, is_present) = Old::connect(broker.address, "away", false).await;
    assert!(is_present);
    let mut waited = Vec::new();
    while waited.len() < 10 {
        let (text, qos) = back.message().await;
        // Its goodbye may have been faster than its last acknowledgements.
        if text != "last" {
            waited.push((text, qos as u8));
        }
    }
    let expected: Vec<_> = (0..10)
        .map(|number| (number.to_string(), 1 + number % 2))
        .collect();
    assert_eq!(waited, expected);
    back.leave().await;
    let (fresh, is_present) = Old::connect(broker.address, "away", true).await;
    assert!(!is_present);
    fresh.leave().await;
}

#[tokio::test]
async fn a_client_of_mqtt_5_exchanges_qos_2_with_aliases_and_finds_what_waited() {
    let broker = Broker::start().await;
    let (mut away, is_present) = New::connect(broker.address, "away", 2).await;
    assert!(!is_present);
    let qos = v5::mqttbytes::QoS::ExactlyOnce;
    away.client
        .subscribe("a/+", qos)
        .await
        .expect("a subscribe");
    away.wait("SUBACK", |packet| {
        matches!(packet, packets::Packet::SubAck(_)).then_some(())
    })
    .await;
    for number in 0..4 {
        let properties = packets::PublishProperties {
            topic_alias: Some(1),
            ..Default::default()
        };
        let topic = if number == 0 { "a/own" } else { "" };
        let publish = away
            .client
            .publish_with_properties(topic, qos, false, number.to_string(), properties)
            .await;
        publish.expect("a publish");
    }
    for number in 0..4 {
        let publish = away.message().await;
        assert_eq!(publish.payload, number.to_string());
        assert_eq!(publish.qos, qos);
        assert_eq!(publish.topic, "a/own");
        let properties = publish.properties.expect("an alias");
        assert_eq!(properties.topic_alias, Some(1));
    }
    away.client
        .publish("a/own", v5::mqttbytes::QoS::AtLeastOnce, false, "last")
        .await
        .expect("a publish");
    assert_eq!(away.message().await.payload, "last");
    away.leave().await;

    let mut from = broker.client(V::V5, "from").await;
    let topics = ["a/own", "a/b", "a/c"];
    for number in 0..9 {
        let message = Message::new(topics[number % 3], number.to_string());
        from.publish_any(message.qos(1 + (number % 2) as u8)).await;
    }
    let (mut back, is_present) = New::connect(broker.address, "away", 2).await;
    assert!(is_present);
    let mut number = 0;
    while number < 9 {
        let publish = back.message().await;
        if publish.payload != "last" {
            assert_eq!(publish.payload, number.to_string());
            assert_eq!(publish.topic, topics[number % 3]);
            number += 1;
        }
    }
    back.leave().await;
    broker.join(root(V::V5, "away")).await.goodbye().await;
}
