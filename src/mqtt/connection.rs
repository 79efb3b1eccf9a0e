//! One client's conversation, from CONNECT to goodbye.
//!
//! One task per client. It waits for nothing but its own socket, its own session
//! and, for [`STALL`] at most, for the readers of what its client published.

mod admit;
mod presence;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::codec::{DecodeError, EncodeError};
use super::counters::{ClientRefused, PublishRefused, SubscribeRefused};
use super::intake::{Publisher, Taken};
use super::mount::Mount;
use super::packet::{
    Ack, ConnAck, Connect, Disconnect, Incoming, Outgoing, OutgoingPublish, Publish, Qos, Reason,
    RetainHandling, Subscribe, Unsubscribe, Version,
};
use crate::access::Principal;
use crate::broker::topic::{FilterError, TopicError, validate_filter, validate_topic};
use crate::broker::{
    self, Cause, ClientKey, End, Held, Message, Next, Open, QoS, STALL, Session, SubscribeError,
    Subscription, Will,
};
use admit::{Admitted, Refused, admit};
use presence::{Presence, shortened, unsent_line};
use wire::{Wire, message_properties, packet_publish};

/// How long a client may take to send its CONNECT (broker.md, CONNECT).
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long the last words may take to be written. With the four seconds that
/// requests get, a stop stays within its five.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

/// Bytes that wait to be written before nothing more is taken from session or
/// client: what a client does not read stays in its bounded queue.
const HIGH_WATER: usize = 16 * 1024;

/// How many QoS 1 messages a client may send without waiting for our
/// acknowledgements. They are handled one by one, so it is only a promise.
const RECEIVE_MAXIMUM: NonZeroU16 = NonZeroU16::new(100).unwrap();

/// What a client may have done for it before the others get their turn: packets,
/// long ones counted as several. All clients share one thread.
const TURN: usize = 50;

/// Bytes of a packet that count as one more.
const TURN_BYTES: usize = 512;

/// Filters of one SUBSCRIBE that are looked at, if a session may not have more:
/// a packet of 64 KiB has room for 16,000, and each costs a check.
const MAX_FILTERS: usize = 1000;

/// Why a client must log in again.
const LOGIN_CHANGED: &str = "its login has changed or left the configuration";

/// Serves a client until it or `goodbye` ends the conversation.
pub(super) async fn serve<S>(
    stream: S,
    peer: SocketAddr,
    shared: Arc<Shared>,
    goodbye: CancellationToken,
) where
    S: AsyncRead + AsyncWrite,
{
    let mut wire = Wire::new(stream, shared.settings.packet);
    let connect = tokio::select! {
        first = timeout(CONNECT_TIME, wire.first()) => first,
        () = goodbye.cancelled() => return,
    };
    let connect = match connect {
        Ok(Ok(Some(connect))) => connect,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::debug!(%peer, "no MQTT client: {error}");
            shared
                .intake
                .tally
                .refuse_client(client_refused(error.reason()));
            return wire.refuse(error.reason(), &error.to_string()).await;
        }
        Err(_) => {
            tracing::debug!(%peer, "no CONNECT within {CONNECT_TIME:?}");
            return;
        }
    };
    let admitted = tokio::select! {
        admitted = admit(&shared, &mut wire, &connect, peer) => admitted,
        () = goodbye.cancelled() => return,
    };
    match admitted {
        Ok(admitted) => match Connection::open(wire, shared, *connect, admitted, peer) {
            Ok(mut connection) => {
                let shared = Arc::clone(&connection.shared);
                let _connected = shared.intake.tally.connect();
                let ending = connection.run(goodbye).await;
                connection.end(ending).await;
            }
            Err(wire) => {
                let reason = Reason::BAD_USER_NAME_OR_PASSWORD;
                wire.refuse(reason, LOGIN_CHANGED).await;
            }
        },
        Err(Refused::Answered(reason, why)) => wire.refuse(reason, &why).await,
        Err(Refused::Unanswered) => {}
    }
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
    keep_alive: Option<Duration>,
    last_heard: Instant,
    holding: Option<Holding>,
    /// What was done since others had their turn; see [`TURN`].
    done: usize,
}

/// Wakes the connection's task when its session has something.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// An acknowledgement that waits for readers who have no room for the message.
struct Holding {
    ack: Option<Ack>,
    held: Vec<Held>,
    until: Instant,
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

impl<S: AsyncRead + AsyncWrite> Connection<S> {
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
            false => connect.client_id,
        };
        let bell = Arc::new(Bell(Notify::new()));
        let key = ClientKey {
            login: principal.login().into(),
            client_id: client_id.as_str().into(),
            owner: match &principal {
                Principal::Device { login, .. } => Some(login.device.name.as_str().into()),
                Principal::User(_) => None,
            },
        };
        let open = Open {
            receive_maximum: connect.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            will,
            waker: Waker::from(Arc::clone(&bell)),
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
            publish_will(&shared, &principal, &opened.session, will);
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
            // MQTT-3.1.2-22: one and a half times; 0 is none.
            keep_alive: (connect.keep_alive > 0)
                .then(|| Duration::from_secs(u64::from(connect.keep_alive)) * 3 / 2),
            last_heard: now,
            holding: None,
            done: 0,
            shared,
        };
        connection.wire.queue(&Outgoing::ConnAck(ConnAck {
            session_present: opened.present,
            // Sessions end with their connection.
            session_expiry: connect.session_expiry.filter(|wish| *wish > 0).map(|_| 0),
            receive_maximum: Some(RECEIVE_MAXIMUM),
            maximum_qos: Qos::AtLeastOnce,
            maximum_packet: u32::try_from(connection.shared.settings.packet)
                .ok()
                .and_then(NonZeroU32::new),
            assigned_client_id: is_assigned.then_some(client_id.as_str()),
            shared_subscriptions: false,
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
            let Wire {
                reader,
                writer,
                inbox,
                outbox,
                ..
            } = &mut self.wire;
            // Reading and writing here are cancel-safe.
            let ended = tokio::select! {
                () = goodbye.cancelled() => Some(Ending::Goodbye),
                written = writer.write(outbox), if !outbox.is_empty() => match written {
                    Ok(0) | Err(_) => Some(Ending::Broken),
                    Ok(written) => {
                        self.wire.written(written);
                        None
                    }
                },
                read = reader.read_buf(inbox), if may_read => match read {
                    Ok(0) | Err(_) => Some(Ending::Broken),
                    Ok(_) => {
                        self.last_heard = Instant::now();
                        None
                    }
                },
                () = self.bell.0.notified() => None,
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
        while !self.is_turn_over() {
            if !self.settle(Instant::now()) {
                return Ok(());
            }
            let before = self.wire.inbox.len();
            match self.wire.decode() {
                Ok(Some(packet)) => {
                    self.done += 1 + (before - self.wire.inbox.len()) / TURN_BYTES;
                    self.handle(packet)?;
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
                held.evict();
            }
        }
        if !holding.held.is_empty() {
            let waker = Waker::from(Arc::clone(&self.bell));
            holding.held.iter().for_each(|held| held.register(&waker));
            return false;
        }
        if let Some(ack) = self.holding.take().and_then(|holding| holding.ack) {
            self.wire.queue(&Outgoing::PubAck(ack));
        }
        true
    }

    fn handle(&mut self, packet: Incoming) -> Result<(), Ending> {
        match packet {
            Incoming::Publish(publish) => self.publish(publish)?,
            Incoming::PubAck(ack) => {
                self.session.acknowledge(ack.packet_id.get());
            }
            Incoming::Subscribe(subscribe) => self.subscribe(&subscribe),
            Incoming::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Incoming::PingReq => {
                self.wire.shrink();
                self.wire.queue(&Outgoing::PingResp);
            }
            Incoming::Disconnect(disconnect) => return Err(Ending::Disconnected(disconnect)),
            // QoS 2 is not offered, so no such id is known.
            Incoming::PubRec(ack) => self.wire.queue(&Outgoing::PubRel(unknown(ack))),
            Incoming::PubRel(ack) => self.wire.queue(&Outgoing::PubComp(unknown(ack))),
            Incoming::PubComp(_) => {}
            // The codec refuses a second one.
            Incoming::Connect(_) => {}
        }
        Ok(())
    }

    fn publish(&mut self, publish: Publish) -> Result<(), Ending> {
        let now = Instant::now();
        if publish.qos == Qos::ExactlyOnce {
            let why = "QoS 2 is not offered: publish with QoS 0 or 1".to_owned();
            return Err(Ending::Fault(Reason::QOS_NOT_SUPPORTED, why));
        }
        if publish.topic_alias.is_some() {
            let why = "topic aliases are not offered".to_owned();
            return Err(Ending::Fault(Reason::TOPIC_ALIAS_INVALID, why));
        }
        let response_topic = publish.properties.response_topic.as_deref();
        check_response_topic(response_topic)
            .map_err(|error| Ending::Fault(Reason::PROTOCOL_ERROR, error.to_string()))?;
        if let Some(hint) = self.mount.hint(&publish.topic) {
            self.shared.intake.tell(&self.principal, &hint, now);
        }
        let topic = self.mount.full(&publish.topic);
        let limit = self.shared.settings.topic;
        let valid =
            validate_topic(&publish.topic, limit).and_then(|()| validate_topic(&topic, limit));
        let taken = match valid {
            Err(error @ (TopicError::TooLong { .. } | TopicError::TooManyLevels(_))) => {
                let intake = &self.shared.intake;
                intake.tally.receive();
                intake.tally.refuse_publish(PublishRefused::TopicTooLong);
                let key = match error {
                    TopicError::TooLong { .. } => " (limits.topic)",
                    _ => "",
                };
                let line = format!("publish refused: {error}{key}");
                intake.tell(&self.principal, &line, now);
                Taken::at_once(Reason::TOPIC_NAME_INVALID)
            }
            Err(error) => return Err(Ending::Fault(Reason::TOPIC_NAME_INVALID, error.to_string())),
            Ok(()) => {
                let message = Message {
                    topic: topic.into(),
                    payload: publish.payload,
                    qos: broker_qos(publish.qos),
                    retain: publish.retain,
                    properties: message_properties(&publish.properties, &self.mount),
                };
                let publisher = Publisher {
                    principal: &self.principal,
                    session: &self.session,
                    budget: self.device.as_ref().map(|device| &*device.budget),
                };
                self.shared
                    .intake
                    .take(publisher, message, &publish.topic, now)
            }
        };
        let ack = publish.packet_id.map(|packet_id| Ack {
            packet_id,
            reason: taken.reason,
        });
        // 3.1.1 cannot be told that a write was not taken because pinhook
        // stops, but without an acknowledgement it sends it again later.
        let is_lost = taken.reason == Reason::IMPLEMENTATION_SPECIFIC_ERROR;
        let ack = ack.filter(|_| !(is_lost && self.version == Version::V311));
        self.holding = Some(Holding {
            ack,
            held: taken.held,
            until: now + STALL,
        });
        Ok(())
    }

    fn subscribe(&mut self, subscribe: &Subscribe) {
        let now = Instant::now();
        let base = self.shared.intake.topics.base();
        let refuse = |filter: &str, refused: SubscribeRefused, why: &dyn fmt::Display| {
            let intake = &self.shared.intake;
            intake.refuse_filter(&self.principal, filter, refused, why, now);
        };
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        for wish in &subscribe.filters {
            if reasons.len() >= self.shared.settings.subscriptions.max(MAX_FILTERS) {
                let why = format_args!("more than {MAX_FILTERS} filters in one packet");
                refuse(&wish.filter, SubscribeRefused::TooMany, &why);
                reasons.push(Reason::QUOTA_EXCEEDED);
                continue;
            }
            if !is_share_valid(&wish.filter) {
                let why = &"expected `$share/GROUP/FILTER`";
                refuse(&wish.filter, SubscribeRefused::Invalid, why);
                reasons.push(Reason::TOPIC_FILTER_INVALID);
                continue;
            }
            let filter = self.mount.full_filter(&wish.filter);
            let limit = self.shared.settings.topic;
            if let Err(error) =
                validate_filter(&wish.filter, limit).and(validate_filter(&filter, limit))
            {
                let key = match error {
                    FilterError::TooLong { .. } => " (limits.topic)",
                    _ => "",
                };
                let why = format_args!("{error}{key}");
                refuse(&wish.filter, refused_filter(&error), &why);
                reasons.push(Reason::TOPIC_FILTER_INVALID);
                continue;
            }
            if let Err(refusal) = self.principal.may_subscribe(base, &filter) {
                refuse(&wish.filter, SubscribeRefused::NotAllowed, &refusal);
                reasons.push(Reason::NOT_AUTHORIZED);
                continue;
            }
            self.shared.before_subscribe(&filter, now);
            let subscription = Subscription {
                filter: filter.into(),
                qos: broker_qos(wish.qos),
                no_local: wish.no_local,
                retain_as_published: wish.retain_as_published,
                retain_handling: match wish.retain_handling {
                    RetainHandling::EverySubscribe => broker::RetainHandling::Always,
                    RetainHandling::NewSubscription => broker::RetainHandling::IfNew,
                    RetainHandling::Never => broker::RetainHandling::Never,
                },
                id: subscribe.id.map(NonZeroU32::get),
            };
            let broker = &self.shared.intake.broker;
            let granted = broker.subscribe(&self.session, &[subscription], now);
            for error in granted.iter().filter_map(|granted| granted.err()) {
                match error {
                    SubscribeError::TooMany { .. } => {
                        let why = format_args!("{error} (limits.subscriptions)");
                        refuse(&wish.filter, SubscribeRefused::TooMany, &why);
                    }
                    SubscribeError::Filter(error) => {
                        refuse(&wish.filter, refused_filter(&error), &error);
                    }
                    SubscribeError::Shared => {
                        refuse(&wish.filter, SubscribeRefused::NotOffered, &error);
                    }
                    SubscribeError::Closed => {}
                }
            }
            reasons.extend(granted.into_iter().map(granted_reason));
        }
        self.wire.queue(&Outgoing::SubAck {
            packet_id: subscribe.packet_id,
            reasons: &reasons,
        });
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) {
        let filters = unsubscribe.filters.iter();
        let filters: Vec<_> = filters
            .map(|filter| self.mount.full_filter(filter))
            .collect();
        let found = self
            .shared
            .intake
            .broker
            .unsubscribe(&self.session, &filters);
        let reasons: Vec<_> = found
            .into_iter()
            .map(|was_there| match was_there {
                true => Reason::SUCCESS,
                false => Reason::NO_SUBSCRIPTION_EXISTED,
            })
            .collect();
        self.wire.queue(&Outgoing::UnsubAck {
            packet_id: unsubscribe.packet_id,
            reasons: &reasons,
        });
    }

    /// Takes messages from the session while there is room for them.
    fn fill(&mut self) -> Result<(), Ending> {
        while self.wire.outbox.len() < HIGH_WATER {
            match self.session.next(Instant::now()) {
                Next::Message(outgoing) => self.send(&outgoing),
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
            if let Some(id) = outgoing.packet_id {
                self.session.acknowledge(id.get());
            }
            return;
        };
        let properties = wire::properties(outgoing, &self.mount, self.version);
        let publish = packet_publish(outgoing, topic, &properties);
        let intake = &self.shared.intake;
        let device = self.device.as_ref();
        let limit = device.and_then(|device| device.limit(&intake.hub));
        let most = limit.unwrap_or(usize::MAX);
        let is_diag = intake.topics.is_diag(&outgoing.message.topic);
        let queued = match self.wire.queue_publish(&publish, most) {
            // Words are worth something cut short; a value is not (product.md §5.6).
            Err(EncodeError::TooLarge { size, limit }) if is_diag => {
                let line = shortened(publish.payload, size - limit).unwrap_or_default();
                let payload = line.as_bytes();
                let publish = OutgoingPublish { payload, ..publish };
                self.wire.queue_publish(&publish, most)
            }
            queued => queued,
        };
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
    async fn end(mut self, ending: Ending) {
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
        let gossip = &self.shared.intake.gossip;
        match (&ending, &goodbye) {
            (Ending::Fault(..) | Ending::Closed(Cause::Stalled), Some((reason, why))) => {
                gossip.warn(&login, format_args!("connection closed: {why} ({reason})"));
            }
            (_, Some((_, why))) => gossip.info(&login, format_args!("disconnected: {why}")),
            (_, None) => gossip.info(&login, "disconnected"),
        }
        let will = self
            .shared
            .intake
            .broker
            .close(&self.session, end, Instant::now());
        if let Some(will) = will {
            publish_will(&self.shared, &self.principal, &self.session, will);
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

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// A will takes the way of every message: it may be a write to a pin.
fn publish_will(shared: &Shared, principal: &Principal, session: &Session, will: Will) {
    let topic = Arc::clone(&will.message.topic);
    let publisher = Publisher {
        principal,
        session,
        budget: None,
    };
    let intake = &shared.intake;
    intake.take(publisher, will.message, &topic, Instant::now());
}

/// A shared subscription's filter has a group and another filter behind it
/// (MQTT-4.8.2-1, -2). Checked before it is mounted: then it is hard to tell.
fn is_share_valid(filter: &str) -> bool {
    match filter.split_once('/') {
        Some(("$share", shared)) => shared.split_once('/').is_some_and(|(group, behind)| {
            !group.is_empty() && !group.contains(['+', '#']) && !behind.is_empty()
        }),
        _ => filter != "$share",
    }
}

/// A response topic is a topic name (MQTT-3.3.2-14).
fn check_response_topic(topic: Option<&str>) -> Result<(), TopicError> {
    topic.map_or(Ok(()), |topic| validate_topic(topic, usize::MAX))
}

fn refused_filter(error: &FilterError) -> SubscribeRefused {
    match error {
        FilterError::TooLong { .. } | FilterError::TooManyLevels(_) => SubscribeRefused::TooLong,
        _ => SubscribeRefused::Invalid,
    }
}

/// As what a connection that was closed for `reason` is counted.
fn client_refused(reason: Reason) -> ClientRefused {
    match reason {
        Reason::PACKET_TOO_LARGE => ClientRefused::PacketTooLarge,
        Reason::KEEP_ALIVE_TIMEOUT => ClientRefused::KeepAlive,
        _ => ClientRefused::Protocol,
    }
}

fn unknown(ack: Ack) -> Ack {
    Ack {
        reason: Reason::PACKET_IDENTIFIER_NOT_FOUND,
        ..ack
    }
}

fn fault(error: &DecodeError) -> Ending {
    let key = match error {
        DecodeError::TooLarge { .. } => " (limits.packet)",
        _ => "",
    };
    Ending::Fault(error.reason(), format!("{error}{key}"))
}

fn granted_reason(granted: Result<QoS, SubscribeError>) -> Reason {
    match granted {
        Ok(QoS::AtMostOnce) => Reason::granted(Qos::AtMostOnce),
        Ok(_) => Reason::granted(Qos::AtLeastOnce),
        Err(SubscribeError::Filter(_)) => Reason::TOPIC_FILTER_INVALID,
        Err(SubscribeError::Shared) => Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
        Err(SubscribeError::TooMany { .. }) => Reason::QUOTA_EXCEEDED,
        Err(SubscribeError::Closed) => Reason::UNSPECIFIED_ERROR,
    }
}

fn broker_qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}
