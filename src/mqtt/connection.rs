//! One client's conversation, from CONNECT to goodbye.
//!
//! One task per client. It waits for nothing but its own socket, its own session
//! and, for [`STALL`] at most, for the readers of what its client published.

mod admit;
mod aliases;
mod presence;
mod publish;
mod subscribe;
mod wire;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::bell::Bell;
use super::codec::{DecodeError, EncodeError};
use super::counters::ClientRefused;
use super::intake::Publisher;
use super::mount::Mount;
use super::packet::{
    Ack, ConnAck, Connect, Disconnect, Incoming, Outgoing, OutgoingPublish, Qos, Reason, Version,
};
use crate::access::Principal;
use crate::broker::topic::{TopicError, validate_topic};
use crate::broker::{self, Cause, ClientKey, End, Next, Open, QoS, Session, Will};
use admit::{Admitted, Refused, admit};
use aliases::Told;
use presence::{Presence, shortened, unsent_line};
use publish::Holding;
use wire::{Traffic, Wire, packet_publish};

/// How long a client may take to send its CONNECT (broker.md, CONNECT).
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long the last words may take to be written. With the four seconds that
/// requests get, a stop stays within its five.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

/// Bytes that wait to be written before nothing more is taken from session or
/// client: what a client does not read stays in its bounded queue.
const HIGH_WATER: usize = 16 * 1024;

/// What a client may have done for it before the others get their turn: packets,
/// long ones counted as several. All clients share one thread.
const TURN: usize = 100;

/// Bytes of a packet that count as one more.
const TURN_BYTES: usize = 512;

/// Why a client must log in again.
const LOGIN_CHANGED: &str = "its login has changed or left the configuration";

/// Serves a client until it or `goodbye` ends the conversation; `place` is its
/// place among the connections, kept until then.
pub(super) async fn serve<S, P>(
    stream: S,
    peer: SocketAddr,
    place: P,
    shared: Arc<Shared>,
    goodbye: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Coming and going are boxed, or a connection would have room for them for
    // as long as it lasts: most of them just wait, thousands at a time.
    let coming = Box::pin(Connection::welcome(
        stream,
        peer,
        Arc::clone(&shared),
        &goodbye,
    ));
    if let Some(mut connection) = coming.await {
        let _connected = shared.intake.tally.connect();
        let ending = connection.run(goodbye).await;
        Box::pin(connection.end(ending)).await;
    }
    drop(place);
}

/// A client that has come in.
struct Connection<S> {
    wire: Wire<S>,
    shared: Arc<Shared>,
    principal: Principal,
    mount: Mount,
    version: Version,
    session: Session,
    device: Option<Presence>,
    bell: Arc<Bell>,
    aliases_in: aliases::Incoming,
    aliases_out: aliases::Outgoing,
    /// Whether the client asked for a session that outlives its connections.
    wants_session: bool,
    keep_alive: Option<Duration>,
    last_heard: Instant,
    holding: Option<Holding>,
    /// What was done since others had their turn; see [`TURN`].
    done: usize,
}

/// How a conversation ended.
enum Ending {
    /// The client said goodbye.
    Disconnected(Disconnect),
    /// The connection broke.
    Broken,
    /// The client broke a rule.
    Fault(Reason, String),
    /// The session was ended from outside.
    Closed(Cause),
    /// pinhook stops.
    Goodbye,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Waits for the CONNECT, and lets the client in or says why not.
    async fn welcome(
        stream: S,
        peer: SocketAddr,
        shared: Arc<Shared>,
        goodbye: &CancellationToken,
    ) -> Option<Connection<S>> {
        let mut wire = Wire::new(stream, shared.settings.packet);
        let connect = tokio::select! {
            first = timeout(CONNECT_TIME, wire.first()) => first,
            () = goodbye.cancelled() => return None,
        };
        let connect = match connect {
            Ok(Ok(connect)) => connect?,
            Ok(Err(error)) => {
                let line = format!("client from {peer} refused: {error}");
                shared.intake.gossip.info("unknown", line);
                let tally = &shared.intake.tally;
                tally.refuse_client(client_refused(error.reason()));
                wire.refuse(error.reason(), &error.to_string()).await;
                return None;
            }
            Err(_) => {
                tracing::debug!(%peer, "no CONNECT within {CONNECT_TIME:?}");
                return None;
            }
        };
        let admitted = tokio::select! {
            admitted = admit(&shared, &mut wire, &connect, peer) => admitted,
            () = goodbye.cancelled() => return None,
        };
        match admitted {
            Ok(admitted) => match Connection::open(wire, shared, *connect, admitted, peer) {
                // To a client that takes no packet of this size nothing can be said at all.
                Ok(connection) if connection.wire.owes => {
                    tracing::debug!(%peer, "the CONNACK is larger than its maximum packet size");
                }
                Ok(connection) => return Some(connection),
                Err(wire) => {
                    let reason = Reason::BAD_USER_NAME_OR_PASSWORD;
                    wire.refuse(reason, LOGIN_CHANGED).await;
                }
            },
            Err(Refused::Answered(reason, why)) => wire.refuse(reason, &why).await,
            Err(Refused::Unanswered) => {}
        }
        None
    }

    /// Opens the session, publishes the will of the connection it replaces, and
    /// answers the CONNECT; gives the wire back if the login has become void since
    /// it was checked.
    fn open(
        wire: Wire<S>,
        shared: Arc<Shared>,
        connect: Connect,
        admitted: Admitted,
        peer: SocketAddr,
    ) -> Result<Connection<S>, Wire<S>> {
        let Admitted {
            principal,
            mount,
            will,
        } = admitted;
        let now = Instant::now();
        let is_assigned = connect.client_id.is_empty();
        let client_id = match is_assigned {
            true => format!("pinhook-{:016x}", rand::random::<u64>()),
            false => connect.client_id.clone(),
        };
        let bell = Bell::new();
        let settings = &shared.settings;
        let expiry = session_expiry(&connect, settings.session_expiry);
        let server_keep_alive = server_keep_alive(&connect, settings.keep_alive);
        let keep_alive = server_keep_alive.unwrap_or(connect.keep_alive);
        let key = ClientKey {
            login: principal.login().into(),
            client_id: client_id.as_str().into(),
            owner: match &principal {
                Principal::Device { login, .. } => Some(login.device.name.as_str().into()),
                Principal::User(_) => None,
            },
        };
        let open = Open {
            clean_start: connect.clean_start,
            expiry: Duration::from_secs(expiry.into()),
            receive_maximum: connect.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            will,
            waker: bell.waker(),
        };
        let opened = shared.intake.broker.open(key, open, now);
        // Asked only now: a session that is open already when a login becomes void
        // is found and closed.
        if !shared.access.is_current(&principal) {
            let line = format_args!("`{client_id}` not let in: {LOGIN_CHANGED}");
            shared.intake.gossip.info(&principal.login(), line);
            return Err(wire);
        }
        if let Some(will) = opened.will {
            publish_will(&shared, &principal, opened.session.client(), will);
        }
        let device = match &principal {
            Principal::Device { login, is_mounted } => {
                let (intake, name) = (&shared.intake, &login.device.name);
                let maximum = connect.maximum_packet;
                Some(Presence::new(
                    &intake.hub,
                    &intake.topics,
                    name,
                    connect.version,
                    *is_mounted,
                    maximum,
                    shared.settings.session_queue_bytes,
                ))
            }
            Principal::User(_) => None,
        };
        let version = connect.version;
        let line = format_args!("`{client_id}` connected from {peer} with MQTT {version}");
        shared.intake.gossip.info(&principal.login(), line);
        let mut connection = Connection {
            wire,
            principal,
            mount,
            version: connect.version,
            session: opened.session,
            device,
            bell,
            aliases_in: aliases::Incoming::new(shared.settings.topic_aliases),
            aliases_out: aliases::Outgoing::new(
                connect
                    .topic_alias_maximum
                    .min(shared.settings.topic_aliases),
            ),
            wants_session: connect.session_expiry.is_some_and(|wish| wish > 0),
            // MQTT-3.1.2-22: one and a half times; 0 is none.
            keep_alive: (keep_alive > 0)
                .then(|| Duration::from_secs(u64::from(keep_alive)) * 3 / 2),
            last_heard: now,
            holding: None,
            done: 0,
            shared,
        };
        connection.wire.queue(&Outgoing::ConnAck(ConnAck {
            session_present: opened.present,
            session_expiry: connect
                .session_expiry
                .filter(|wish| *wish != expiry)
                .map(|_| expiry),
            receive_maximum: Some(connection.shared.settings.receive_maximum),
            maximum_packet: u32::try_from(connection.shared.settings.packet)
                .ok()
                .and_then(NonZeroU32::new),
            assigned_client_id: is_assigned.then_some(client_id.as_str()),
            topic_alias_maximum: connection.shared.settings.topic_aliases,
            server_keep_alive,
            ..ConnAck::new(Reason::SUCCESS)
        }));
        Ok(connection)
    }

    async fn run(&mut self, goodbye: CancellationToken) -> Ending {
        loop {
            if self.is_turn_over() {
                self.done = 0;
                tokio::task::yield_now().await;
            }
            // Whose session was ended from outside has no say any more.
            if let Some(cause) = self.session.closed() {
                return Ending::Closed(cause);
            }
            if let Err(ending) = self.take_packets() {
                return ending;
            }
            if self.wire.owes {
                let why = "an answer is larger than the client's maximum packet size".to_owned();
                return Ending::Fault(Reason::PACKET_TOO_LARGE, why);
            }
            // Decided before more is taken from the session, since a client with
            // a backlog that never ends must be heard, too; and not while packets
            // wait that were read already, or they would pile up.
            let may_read = self.holding.is_none()
                && self.wire.outbox.len() < HIGH_WATER
                && !self.is_turn_over();
            if let Err(ending) = self.fill() {
                return ending;
            }
            let deadline = self.deadline();
            let is_turn_over = self.is_turn_over();
            let ended = tokio::select! {
                () = goodbye.cancelled() => Some(Ending::Goodbye),
                traffic = self.wire.traffic(may_read) => match traffic {
                    Traffic::Broken => Some(Ending::Broken),
                    Traffic::Written => None,
                    Traffic::Read => {
                        self.last_heard = Instant::now();
                        None
                    }
                },
                () = self.bell.rung() => None,
                () = until(deadline) => self.is_silent(),
                () = std::future::ready(()), if is_turn_over => None,
            };
            if let Some(ending) = ended {
                return ending;
            }
        }
    }

    fn is_turn_over(&self) -> bool {
        self.done >= TURN
    }

    /// When something is due even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let keep_alive = self.keep_alive.map(|span| self.last_heard + span);
        let holding = self.holding.as_ref().map(|holding| holding.until);
        keep_alive.into_iter().chain(holding).min()
    }

    fn is_silent(&self) -> Option<Ending> {
        let keep_alive = self.keep_alive?;
        (self.last_heard.elapsed() >= keep_alive).then(|| {
            let why = format!("nothing heard for {keep_alive:?}, 1.5 times the keep alive");
            Ending::Fault(Reason::KEEP_ALIVE_TIMEOUT, why)
        })
    }

    /// Handles the packets that have arrived, unless an acknowledgement waits,
    /// for one turn at most.
    fn take_packets(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        while !self.is_turn_over() {
            if !self.settle(now) {
                return Ok(());
            }
            let before = self.wire.inbox.len();
            match self.wire.decode() {
                Ok(Some(packet)) => {
                    self.done += 1 + (before - self.wire.inbox.len()) / TURN_BYTES;
                    self.handle(packet, now)?;
                }
                Ok(None) => return Ok(()),
                Err(error) => return Err(fault(&error)),
            }
        }
        Ok(())
    }

    /// Whether nothing is held, or no longer.
    fn settle(&mut self, now: Instant) -> bool {
        let Some(holding) = &mut self.holding else {
            return true;
        };
        holding.held.retain(|held| !held.try_push(now));
        if now >= holding.until {
            for held in holding.held.drain(..) {
                held.evict(now);
            }
        }
        if !holding.held.is_empty() {
            let waker = self.bell.waker();
            holding.held.iter().for_each(|held| held.register(&waker));
            return false;
        }
        if let Some(ack) = self.holding.take().and_then(|holding| holding.ack) {
            self.wire.queue(&ack);
        }
        true
    }

    fn handle(&mut self, packet: Incoming, now: Instant) -> Result<(), Ending> {
        match packet {
            Incoming::Publish(publish) => self.publish(publish, now)?,
            Incoming::PubAck(ack) => {
                self.session.acknowledge(ack.packet_id);
            }
            Incoming::Subscribe(subscribe) => self.subscribe(&subscribe, now)?,
            Incoming::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Incoming::PingReq => {
                self.wire.queue(&Outgoing::PingResp);
            }
            Incoming::Disconnect(disconnect) => return Err(self.leave(disconnect)),
            Incoming::PubRec(ack) => {
                let is_refused = ack.reason.is_error();
                let is_known = self.session.received(ack.packet_id, is_refused);
                if !is_refused {
                    self.wire.queue(&Outgoing::PubRel(settled(ack, is_known)));
                }
            }
            Incoming::PubRel(ack) => {
                let is_known = self.session.release(ack.packet_id);
                self.wire.queue(&Outgoing::PubComp(settled(ack, is_known)));
            }
            Incoming::PubComp(ack) => {
                self.session.complete(ack.packet_id);
            }
            // The codec refuses a second one.
            Incoming::Connect(_) => {}
        }
        Ok(())
    }

    /// The client says goodbye, and maybe for how long its session is to be kept.
    fn leave(&self, disconnect: Disconnect) -> Ending {
        if let Some(wish) = disconnect.session_expiry {
            // MQTT 5 §3.14.2.2.2.
            if wish > 0 && !self.wants_session {
                let why = "DISCONNECT wants the session kept, which CONNECT did not".to_owned();
                return Ending::Fault(Reason::PROTOCOL_ERROR, why);
            }
            let expiry = wish.min(self.shared.settings.session_expiry);
            self.session.set_expiry(Duration::from_secs(expiry.into()));
        }
        Ending::Disconnected(disconnect)
    }

    /// Takes messages from the session while there is room for them.
    fn fill(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        while self.wire.outbox.len() < HIGH_WATER {
            match self.session.next(now) {
                Next::Message(outgoing) => self.send(&outgoing),
                Next::Release(packet_id) => {
                    let reason = Reason::SUCCESS;
                    self.wire
                        .queue(&Outgoing::PubRel(Ack { packet_id, reason }));
                }
                Next::Idle => return Ok(()),
                Next::More => {
                    self.done = TURN;
                    return Ok(());
                }
                Next::Closed(cause) => return Err(Ending::Closed(cause)),
            }
        }
        match self.session.closed() {
            Some(cause) => Err(Ending::Closed(cause)),
            None => Ok(()),
        }
    }

    fn send(&mut self, outgoing: &broker::Outgoing) {
        let Some(topic) = self.mount.local(&outgoing.message.topic) else {
            // `pinhook/NAME`, which `#` matches, has no name inside the mount.
            self.session.skip(outgoing);
            return;
        };
        let properties = wire::properties(outgoing, &self.mount, self.version);
        let intake = &self.shared.intake;
        let device = self.device.as_ref();
        let limit = device.and_then(|device| device.limit(&intake.hub));
        let most = limit.unwrap_or(usize::MAX);
        let is_diag = intake.topics.is_diag(&outgoing.message.topic);
        let mut told = self.aliases_out.find(topic);
        let publish = |told| packet_publish(outgoing, topic, told, &properties);
        let mut queued = self.wire.queue_publish(&publish(told), most);
        if queued.is_err() && matches!(told, Told::Both(_)) {
            // The alias itself takes three bytes.
            told = Told::Name;
            queued = self.wire.queue_publish(&publish(told), most);
        }
        // Words are worth something cut short; a value is not (product.md §5.6).
        if let Err(EncodeError::TooLarge { size, limit }) = queued
            && is_diag
        {
            let publish = publish(told);
            let line = shortened(publish.payload, size - limit).unwrap_or_default();
            let payload = line.as_bytes();
            let publish = OutgoingPublish { payload, ..publish };
            queued = self.wire.queue_publish(&publish, most);
        }
        if queued.is_ok() {
            self.aliases_out.keep(topic, told);
        }
        let line = match queued {
            Ok(size) => {
                intake.tally.send(topic);
                let device = self.device.as_mut().filter(|_| limit.is_none());
                match device.and_then(|device| device.warning(size)) {
                    Some(line) => line,
                    None => return,
                }
            }
            Err(error) => {
                self.session.discard(outgoing);
                // A line about a line that does not fit would not fit either.
                if is_diag {
                    return;
                }
                unsent_line(topic, &error)
            }
        };
        intake.tell(&self.principal, &line, Instant::now());
    }

    /// Says the last words, ends the session and publishes the will.
    async fn end(&mut self, ending: Ending) {
        // However it ended: who may not log in any more leaves no will.
        let ending = match self.session.closed() {
            Some(cause @ Cause::LoginChanged) => Ending::Closed(cause),
            _ => ending,
        };
        let (end, goodbye) = match &ending {
            Ending::Disconnected(disconnect) if disconnect.reason == Reason::SUCCESS => {
                (End::Normal, None)
            }
            Ending::Disconnected(_) => (End::WithWill, None),
            Ending::Broken => (End::Lost, None),
            Ending::Fault(reason, why) => (End::Lost, Some((*reason, why.as_str()))),
            Ending::Closed(Cause::TakenOver) => {
                let why = "the same client id has connected again";
                (End::Lost, Some((Reason::SESSION_TAKEN_OVER, why)))
            }
            Ending::Closed(Cause::Stalled) => {
                let why = "the client does not read what it subscribed to";
                (End::Lost, Some((Reason::QUOTA_EXCEEDED, why)))
            }
            Ending::Closed(Cause::LoginChanged) => (
                End::Normal,
                Some((Reason::ADMINISTRATIVE_ACTION, LOGIN_CHANGED)),
            ),
            Ending::Goodbye => {
                let _ = self.fill();
                (
                    End::Normal,
                    Some((Reason::SERVER_SHUTTING_DOWN, "pinhook stops")),
                )
            }
        };
        if let Ending::Fault(reason, why) = &ending {
            let intake = &self.shared.intake;
            let refused = client_refused(*reason);
            intake.tally.refuse_client(refused);
            if refused == ClientRefused::PacketTooLarge {
                intake.tell_too_large(&self.principal, why, Instant::now());
            }
        }
        let login = self.principal.login();
        let id = &self.session.client().client_id;
        let gossip = &self.shared.intake.gossip;
        match (&ending, &goodbye) {
            (Ending::Fault(..) | Ending::Closed(Cause::Stalled), Some((reason, why))) => {
                let line = format_args!("connection closed: {why} ({reason}); client id `{id}`");
                gossip.warn(&login, line);
            }
            (_, Some((_, why))) => {
                gossip.info(&login, format_args!("`{id}` disconnected: {why}"));
            }
            (_, None) => gossip.info(&login, format_args!("`{id}` disconnected")),
        }
        // Its message was taken; nobody is there to wait for an acknowledgement of it.
        if let Some(holding) = self.holding.take() {
            let held = holding.held.into_iter();
            held.for_each(|held| held.insist(Instant::now()));
        }
        let will = self
            .shared
            .intake
            .broker
            .close(&self.session, end, Instant::now());
        if let Some(will) = will {
            publish_will(&self.shared, &self.principal, self.session.client(), will);
        }
        if let Some((reason, why)) = goodbye {
            self.wire.queue(&Outgoing::Disconnect {
                reason,
                reason_string: Some(why),
            });
        }
        let _ = timeout(GOODBYE_TIME, self.wire.close()).await;
    }
}

/// Waits until then; for ever if there is no such time. Cancel-safe.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// For how long the client's session is kept when it is away, in seconds.
fn session_expiry(connect: &Connect, most: u32) -> u32 {
    let wish = match connect.version {
        Version::V5 => connect.session_expiry.unwrap_or(0),
        // MQTT-3.1.2-5: until it says otherwise.
        Version::V311 if connect.clean_start => 0,
        Version::V311 => u32::MAX,
    };
    wish.min(most)
}

/// The keep alive that the client is to use instead of its own (MQTT-3.1.2-21); 3.1.1 has no way to
/// say so.
fn server_keep_alive(connect: &Connect, longest: u16) -> Option<u16> {
    let is_longer = connect.keep_alive == 0 || connect.keep_alive > longest;
    (longest > 0 && is_longer && connect.version == Version::V5).then_some(longest)
}

/// A will takes the way of every message: it may be a write to a pin.
pub(super) fn publish_will(shared: &Shared, principal: &Principal, client: &ClientKey, will: Will) {
    let topic = Arc::clone(&will.message.topic);
    let publisher = Publisher {
        principal,
        client,
        budget: None,
    };
    let now = Instant::now();
    let taken = shared.intake.take(publisher, will.message, &topic, now);
    taken.held.into_iter().for_each(|held| held.insist(now));
}

/// A response topic is a topic name (MQTT-3.3.2-14).
fn check_response_topic(topic: Option<&str>) -> Result<(), TopicError> {
    topic.map_or(Ok(()), |topic| validate_topic(topic, usize::MAX))
}

/// What follows a PUBREC or PUBREL.
fn settled(ack: Ack, is_known: bool) -> Ack {
    let reason = match is_known {
        true => Reason::SUCCESS,
        false => Reason::PACKET_IDENTIFIER_NOT_FOUND,
    };
    Ack { reason, ..ack }
}

fn fault(error: &DecodeError) -> Ending {
    let key = match error {
        DecodeError::TooLarge { .. } => " (limits.packet)",
        _ => "",
    };
    Ending::Fault(error.reason(), format!("{error}{key}"))
}

/// As what a connection that was closed for `reason` is counted.
fn client_refused(reason: Reason) -> ClientRefused {
    match reason {
        Reason::PACKET_TOO_LARGE => ClientRefused::PacketTooLarge,
        Reason::KEEP_ALIVE_TIMEOUT => ClientRefused::KeepAlive,
        _ => ClientRefused::Protocol,
    }
}

fn broker_qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}
