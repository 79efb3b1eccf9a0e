//! MQTT: the wire and the meaning. Clients of 3.1.1 and 5 on one port, a broker
//! for their messages, and pinhook's topics (product.md §3).

mod budget;
pub mod codec;
mod connection;
mod gossip;
mod intake;
mod mount;
mod observer;
pub mod packet;
mod pins;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{self, Access};
use crate::broker::{Broker, Message, QoS};
use crate::hub::{Downlink, Hub, What};
use crate::model::mask::Mask;
use crate::net::Place;
use gossip::Gossip;
use intake::Intake;

/// What the front end is told by the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Largest packet that is taken, in bytes, header included.
    pub packet: usize,
    /// Longest topic, in bytes.
    pub topic: usize,
    /// Subscriptions a session may have.
    pub subscriptions: usize,
    /// What a session's queue holds, in bytes: no longer message gets through.
    pub session_queue_bytes: usize,
}

/// The MQTT front end; cheap to clone.
#[derive(Clone)]
pub struct Mqtt {
    shared: Arc<Shared>,
    connections: TaskTracker,
    goodbye: CancellationToken,
}

/// What all connections share.
struct Shared {
    settings: Settings,
    access: Access,
    intake: Intake,
}

impl Shared {
    fn log_refused_login(&self, name: Option<&str>, peer: SocketAddr) {
        let who = name.unwrap_or_default();
        let why = match name {
            Some(_) => "wrong user name, password or token",
            None => "no user name and password were sent",
        };
        let line = format_args!("login of `{who}` from {peer} refused: {why}");
        self.intake.gossip.warn("unknown", line);
    }
}

impl Mqtt {
    /// A front end for `hub`, which sends downlinks through `broker` from here on.
    pub fn new(hub: Hub, broker: Broker, access: Access, mask: Mask, settings: Settings) -> Mqtt {
        let downlinks = broker.clone();
        hub.set_sink(Box::new(move |downlink| {
            publish_downlink(&downlinks, downlink)
        }));
        Mqtt {
            shared: Arc::new(Shared {
                settings,
                access,
                intake: Intake::new(hub, broker, Gossip::new(mask)),
            }),
            connections: TaskTracker::new(),
            goodbye: CancellationToken::new(),
        }
    }

    /// Serves the client at the other end of `stream` in a task of its own: a panic
    /// there ends that connection and nothing else. Its place is free again when
    /// it has ended.
    pub fn serve<S>(&self, stream: S, peer: SocketAddr, place: Place)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let serving =
            connection::serve(stream, peer, Arc::clone(&self.shared), self.goodbye.clone());
        self.connections.spawn(async move {
            serving.await;
            drop(place);
        });
    }

    /// Publishes what the hub has to tell until `stop`, and then `offline`.
    pub async fn observe(&self, stop: CancellationToken) {
        let Intake { hub, broker, .. } = &self.shared.intake;
        observer::run(hub, broker, stop).await;
    }

    /// Takes other logins and other secrets to hide, and closes the connections
    /// whose login has changed or is gone; no other connection notices.
    pub fn reconfigure(&self, access: access::Settings, mask: Mask) {
        let intake = &self.shared.intake;
        intake.gossip.reconfigure(mask);
        let void = self.shared.access.reconfigure(access);
        intake.broker.evict(|client| void.contains(&*client.login));
    }

    /// Says goodbye to every client and waits until all are gone.
    pub async fn close(&self) {
        self.goodbye.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Called while the hub is locked, so it only hands the message to the broker.
fn publish_downlink(broker: &Broker, downlink: Downlink) {
    let Downlink { device, what } = downlink;
    let (topic, payload) = match what {
        What::Value(pin, value) => (
            pins::topic::downlink(&device, pin),
            Bytes::copy_from_slice(value.as_wire().as_bytes()),
        ),
        What::Diag(line) => (pins::topic::diag(&device.name), Bytes::from(line)),
    };
    publish_own(broker, topic, payload, false);
}

/// Publishes a message of pinhook's own.
fn publish_own(broker: &Broker, topic: String, payload: Bytes, retain: bool) {
    let message = Message {
        topic: topic.into(),
        payload,
        qos: QoS::AtLeastOnce,
        retain,
        properties: None,
    };
    broker.publish(None, message, Instant::now());
}

#[cfg(test)]
mod tests;
