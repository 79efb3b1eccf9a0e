//! MQTT: the wire and the meaning. Clients of 3.1.1 and 5 on one port, a broker
//! for their messages, and pinhook's topics (product.md §3).

mod bell;
mod budget;
pub mod codec;
mod connection;
mod counters;
mod intake;
mod mount;
mod observer;
pub mod packet;
mod pins;
mod system;
mod timekeeper;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, BaseTopic, Gossip};
use crate::broker::{Broker, ClientKey, Message, QoS};
use crate::hub::{Downlink, Hub, What};
use crate::net::{Limiter, Place};
pub use counters::{ClientRefused, Counters, PublishRefused, SubscribeRefused};
use intake::Intake;
use pins::Topics;
use system::System;

/// What the front end is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What pinhook's own topics begin with.
    pub base: BaseTopic,
    /// Largest packet that is taken, in bytes, header included.
    pub packet: usize,
    /// Longest topic, in bytes.
    pub topic: usize,
    /// Subscriptions a session may have.
    pub subscriptions: usize,
    /// What a session's queue holds, in bytes: no longer message gets through.
    pub session_queue_bytes: usize,
    /// How long a session outlives its connection at most, in seconds.
    pub session_expiry: u32,
    /// The longest keep alive of an MQTT 5 client, in seconds; 0: what the client wants.
    pub keep_alive: u16,
    /// Messages with QoS 2 that an MQTT 5 client may have unreleased.
    pub receive_maximum: NonZeroU16,
    /// Topic aliases of an MQTT 5 client, in each direction.
    pub topic_aliases: u16,
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
    access: Arc<Access>,
    intake: Intake,
    system: System,
    limiter: Arc<Limiter>,
}

impl Shared {
    fn counters(&self) -> Counters {
        let Intake { broker, tally, .. } = &self.intake;
        tally.counters(broker.counters(), self.limiter.refused())
    }

    /// For somebody who is about to subscribe to `filter`: brings up to date what
    /// is not kept so all the time.
    fn before_subscribe(&self, filter: &str, now: Instant) {
        if System::is_asked_by(filter) {
            self.system
                .ask(&self.intake.broker, || self.counters(), now);
        }
    }

    fn log_refused_login(&self, name: Option<&str>, peer: SocketAddr) {
        let who = name.unwrap_or_default();
        let why = match name {
            Some(_) => "wrong user name, password or token",
            None => "no user name and password were sent",
        };
        self.intake.tally.refuse_client(ClientRefused::Login);
        let line = format_args!("login of `{who}` from {peer} refused: {why}");
        self.intake.gossip.warn("unknown", line);
    }
}

impl Mqtt {
    /// A front end for `hub`, which sends downlinks through `broker` from here on.
    /// `limiter` is that of the listeners, whose numbers are shown.
    pub fn new(
        hub: Hub,
        broker: Broker,
        access: Arc<Access>,
        gossip: Arc<Gossip>,
        limiter: Arc<Limiter>,
        settings: Settings,
    ) -> Mqtt {
        let topics = Topics::new(settings.base.clone());
        let (downlinks, below) = (broker.clone(), topics.clone());
        hub.add_sink(Box::new(move |downlink| {
            publish_downlink(&downlinks, &below, downlink)
        }));
        Mqtt {
            shared: Arc::new(Shared {
                settings,
                access,
                intake: Intake::new(hub, broker, topics, gossip),
                system: System::new(Instant::now()),
                limiter,
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
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (shared, goodbye) = (Arc::clone(&self.shared), self.goodbye.clone());
        self.connections
            .spawn(connection::serve(stream, peer, place, shared, goodbye));
    }

    /// Serves a stream that is no connection and has no place among them.
    #[cfg(fuzzing)]
    pub fn converse<S>(&self, stream: S, peer: SocketAddr) -> impl Future<Output = ()> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shared = Arc::clone(&self.shared);
        connection::serve(stream, peer, (), shared, self.goodbye.clone())
    }

    /// Publishes what the hub has to tell until `stop`, and then `offline`.
    pub async fn observe(&self, stop: CancellationToken) {
        observer::run(&self.shared, stop).await;
    }

    /// What came and went since the start, and what was refused.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Ends sessions whose time is up, and publishes wills that were delayed, until `stop`.
    pub async fn keep_time(&self, stop: CancellationToken) {
        timekeeper::run(&self.shared, stop).await;
    }

    /// Closes the connections of these logins, as [`Principal::login`] names them;
    /// no other connection notices.
    ///
    /// [`Principal::login`]: crate::access::Principal::login
    pub fn evict(&self, void: &HashSet<String>) {
        let is_void = |client: &ClientKey| void.contains(&*client.login);
        let broker = &self.shared.intake.broker;
        broker.evict(is_void, Instant::now());
    }

    /// Says goodbye to every client and waits until all are gone.
    pub async fn close(&self) {
        self.goodbye.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Called while the hub is locked, so it only hands the message to the broker.
fn publish_downlink(broker: &Broker, topics: &Topics, downlink: &Downlink) {
    let Downlink { device, what } = downlink;
    let (topic, payload) = match what {
        What::Value(pin, value, _) => (
            topics.downlink(device, *pin),
            Bytes::copy_from_slice(value.as_wire().as_bytes()),
        ),
        What::Diag(line) => (topics.diag(&device.name), Bytes::from(line.clone())),
        What::Clock(json) => (topics.clock(&device.name), Bytes::from(json.clone())),
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
