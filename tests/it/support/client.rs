//! A real MQTT client, rumqttc, for 3.1.1 and for 5.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, v5};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::raw::V;
use super::{token, within};

/// Requests that wait for the connection.
const CAPACITY: usize = 100;

/// A device's mounted login that is subscribed to `downlink/#`.
pub struct Device {
    client: Client,
    news: mpsc::UnboundedReceiver<News>,
    polling: JoinHandle<()>,
}

enum Client {
    V311(AsyncClient),
    V5(v5::AsyncClient),
}

enum News {
    Subscribed,
    Heard(Heard),
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

impl Device {
    /// Connects and subscribes.
    pub async fn connect(address: SocketAddr, version: V, device: &str) -> Device {
        let (news, heard) = mpsc::unbounded_channel();
        let (host, port) = (address.ip().to_string(), address.port());
        let id = format!("{device}-rumqttc");
        let (client, polling) = match version {
            V::V311 => {
                let mut options = MqttOptions::new(id, host, port);
                options.set_credentials("device", token(device));
                options.set_keep_alive(Duration::from_secs(60));
                let (client, mut events) = AsyncClient::new(options, CAPACITY);
                let polling = tokio::spawn(async move {
                    while let Ok(event) = events.poll().await {
                        let Event::Incoming(packet) = event else {
                            continue;
                        };
                        let is_heard = match packet {
                            Packet::SubAck(_) => news.send(News::Subscribed),
                            Packet::Publish(publish) => news.send(News::Heard(Heard {
                                topic: publish.topic,
                                payload: publish.payload.to_vec(),
                                qos: publish.qos as u8,
                                retain: publish.retain,
                            })),
                            _ => Ok(()),
                        };
                        if is_heard.is_err() {
                            return;
                        }
                    }
                });
                (Client::V311(client), polling)
            }
            V::V5 => {
                let mut options = v5::MqttOptions::new(id, host, port);
                options.set_credentials("device", token(device));
                options.set_keep_alive(Duration::from_secs(60));
                let (client, mut events) = v5::AsyncClient::new(options, CAPACITY);
                let polling = tokio::spawn(async move {
                    use v5::mqttbytes::v5::Packet;
                    while let Ok(event) = events.poll().await {
                        let v5::Event::Incoming(packet) = event else {
                            continue;
                        };
                        let is_heard = match packet {
                            Packet::SubAck(_) => news.send(News::Subscribed),
                            Packet::Publish(publish) => news.send(News::Heard(Heard {
                                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                                payload: publish.payload.to_vec(),
                                qos: publish.qos as u8,
                                retain: publish.retain,
                            })),
                            _ => Ok(()),
                        };
                        if is_heard.is_err() {
                            return;
                        }
                    }
                });
                (Client::V5(client), polling)
            }
        };
        let mut device = Device {
            client,
            news: heard,
            polling,
        };
        match &device.client {
            Client::V311(client) => client
                .subscribe("downlink/#", QoS::AtLeastOnce)
                .await
                .expect("a subscription"),
            Client::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .subscribe("downlink/#", qos)
                    .await
                    .expect("a subscription");
            }
        }
        assert!(matches!(device.next().await, News::Subscribed));
        device
    }

    async fn next(&mut self) -> News {
        within("something for the device", self.news.recv())
            .await
            .expect("the connection lives")
    }

    /// Publishes with QoS 1.
    pub async fn publish(&self, topic: &str, payload: &str) {
        match &self.client {
            Client::V311(client) => {
                client
                    .publish(topic, QoS::AtLeastOnce, false, payload)
                    .await
                    .expect("a publish");
            }
            Client::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .publish(topic, qos, false, payload.to_owned())
                    .await
                    .expect("a publish");
            }
        }
    }

    /// The next message.
    pub async fn heard(&mut self) -> Heard {
        loop {
            if let News::Heard(heard) = self.next().await {
                return heard;
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.polling.abort();
    }
}
