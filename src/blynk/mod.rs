//! The Blynk protocol, as sketches in the field speak it (blynk.md §1, product.md §6):
//! the wire, and what its commands mean. The broker is not involved.

mod command;
mod counters;
mod frame;
mod outbox;
mod session;
mod sketches;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, Gossip};
use crate::hub::Hub;
use crate::model::metric::Metric;
use crate::net::Place;
use counters::Tally;
use sketches::Sketches;

/// The largest frame there is, in bytes.
pub const MAX_FRAME: usize = frame::HEADER + frame::MAX_BODY;

/// The Blynk front end; cheap to clone.
#[derive(Clone)]
pub struct Blynk {
    shared: Arc<Shared>,
    connections: TaskTracker,
    goodbye: CancellationToken,
}

/// What all connections share.
struct Shared {
    hub: Hub,
    access: Arc<Access>,
    gossip: Arc<Gossip>,
    sketches: Arc<Sketches>,
    tally: Arc<Tally>,
}

impl Blynk {
    /// A front end for `hub`, whose downlinks go to sketches from here on.
    pub fn new(hub: Hub, access: Arc<Access>, gossip: Arc<Gossip>) -> Blynk {
        let tally = Arc::new(Tally::default());
        let sketches = Arc::new(Sketches::new(Arc::clone(&gossip), Arc::clone(&tally)));
        let below = Arc::clone(&sketches);
        hub.add_sink(Box::new(move |downlink| below.send(downlink)));
        Blynk {
            shared: Arc::new(Shared {
                hub,
                access,
                gossip,
                sketches,
                tally,
            }),
            connections: TaskTracker::new(),
            goodbye: CancellationToken::new(),
        }
    }

    /// Serves the sketch at the other end of `stream` in a task of its own: a panic
    /// there ends that connection and nothing else. Its place is free again when it
    /// has ended.
    pub fn serve<S>(&self, stream: S, peer: SocketAddr, place: Place)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (shared, goodbye) = (Arc::clone(&self.shared), self.goodbye.clone());
        self.connections
            .spawn(session::serve(stream, peer, place, shared, goodbye));
    }

    /// The front end's numbers (product.md §7, `/metrics`).
    pub fn metrics(&self) -> Vec<Metric> {
        let Shared {
            tally, sketches, ..
        } = &*self.shared;
        let (received, sent) = tally.frames();
        let frames = Metric::counter(
            "pinhook_blynk_frames_total",
            "Frames of the Blynk protocol, by direction.",
        );
        let waiting = Metric::gauge(
            "pinhook_blynk_waiting_frames",
            "Frames that wait for sketches to read.",
        );
        let refused = Metric::counter(
            "pinhook_blynk_refused_total",
            "Frames that were not taken, logins refused and connections closed, by reason.",
        );
        let dropped = Metric::counter(
            "pinhook_blynk_dropped_total",
            "Frames that a sketch did not get, by reason.",
        );
        vec![
            Metric::connections("blynk", tally.connected()),
            frames
                .with([("direction", "received")], received)
                .with([("direction", "sent")], sent),
            waiting.with([], sketches.waiting()),
            refused.by_reason(tally.refused()),
            dropped.by_reason(tally.dropped()),
        ]
    }

    /// Closes the connections whose login holds no longer; no other notices.
    pub fn evict(&self) {
        let access = &self.shared.access;
        let is_void = |login: &_| !access.is_current_token(login);
        self.shared.sketches.evict(is_void);
    }

    /// Serves a stream that is no connection and has no place among them.
    #[cfg(any(test, fuzzing))]
    pub fn converse<S>(&self, stream: S) -> impl Future<Output = ()> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (shared, goodbye) = (Arc::clone(&self.shared), self.goodbye.clone());
        session::serve(stream, ([127, 0, 0, 1], 1).into(), (), shared, goodbye)
    }

    /// Writes what waits to every sketch, closes, and waits until all are gone.
    pub async fn close(&self) {
        self.goodbye.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

#[cfg(test)]
mod tests;
