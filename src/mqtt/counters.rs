//! What the front end counts: what came and went, and what was refused, by
//! reason. Counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Mqtt;
use crate::broker;
use crate::model::count::{ByLabel, Entered, Label as _, Present, labels};
use crate::model::metric::Metric;
use crate::net;

labels!(
    /// Why a published message was not taken, or not retained.
    PublishRefused {
        /// The login may not publish there.
        NotAllowed = "not_allowed",
        /// The topic has more bytes than `limits.topic`, or too many levels.
        TopicTooLong = "topic_too_long",
        /// A topic of pinhook's without a pin, device, code or property that exists.
        NoSuchTopic = "no_such_topic",
        /// The payload is not what the topic takes.
        Payload = "payload",
        /// More than `limits.writes_per_second`.
        Rate = "rate",
        /// A value of more bytes than `limits.value`.
        ValueTooLong = "value_too_long",
        /// A device's properties are as many, or as long, as they may be.
        Properties = "properties",
        /// More pins in one `get/ds` than a device can have.
        TooManyPins = "too_many_pins",
        /// pinhook was stopping.
        Stopping = "stopping",
        /// Passed on, not retained: more messages than `limits.retained`.
        Retained = "retained",
        /// Passed on, not retained: more than `limits.retained_bytes`.
        RetainedBytes = "retained_bytes",
        /// Passed on, not retained: more than `limits.retained_per_device`.
        RetainedPerDevice = "retained_per_device",
    }
);

labels!(
    /// Why a filter was not subscribed to.
    SubscribeRefused {
        /// The login may not subscribe to it.
        NotAllowed = "not_allowed",
        /// It is no filter.
        Invalid = "invalid",
        /// It has more bytes than `limits.topic`, or too many levels.
        TooLong = "too_long",
        /// More than `limits.subscriptions`.
        TooMany = "too_many",
    }
);

labels!(
    /// Why a client was turned away, or its connection closed.
    ClientRefused {
        /// Wrong user name, password or token, or none.
        Login = "login",
        /// A packet of more bytes than `limits.packet`.
        PacketTooLarge = "packet_too_large",
        /// Nothing heard for 1.5 times the keep alive.
        KeepAlive = "keep_alive",
        /// It broke a rule of MQTT.
        Protocol = "protocol",
    }
);

/// Counts while pinhook runs. The numbers order nothing, hence `Relaxed` throughout.
#[derive(Debug, Default)]
pub(super) struct Tally {
    connected: Present,
    received: AtomicU64,
    sent: AtomicU64,
    publishes: ByLabel<PublishRefused>,
    subscriptions: ByLabel<SubscribeRefused>,
    clients: ByLabel<ClientRefused>,
}

impl Tally {
    /// A client is there until the guard is dropped.
    pub fn connect(&self) -> Entered<'_> {
        self.connected.enter()
    }

    /// A message came from a client.
    pub fn receive(&self) {
        add(&self.received);
    }

    /// A message went to a client. What tells these numbers is none of them, or
    /// they would change by being told.
    pub fn send(&self, topic: &str) {
        if !topic.starts_with("$SYS/") {
            add(&self.sent);
        }
    }

    /// A message was not taken, or not retained.
    pub fn refuse_publish(&self, why: PublishRefused) {
        self.publishes.add(why, 1);
    }

    /// A filter was refused.
    pub fn refuse_subscription(&self, why: SubscribeRefused) {
        self.subscriptions.add(why, 1);
    }

    /// A client was turned away.
    pub fn refuse_client(&self, why: ClientRefused) {
        self.clients.add(why, 1);
    }

    /// The numbers now, with those of broker and listeners.
    pub fn counters(&self, broker: broker::Counters, connections: net::Refused) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connected: self.connected.count(),
            received: get(&self.received),
            sent: get(&self.sent),
            publishes_refused: self.publishes.read().collect(),
            subscriptions_refused: self.subscriptions.read().collect(),
            clients_refused: self.clients.read().collect(),
            connections_refused: connections,
            broker,
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What came and went since the start, and what was refused. Reasons come with
/// the word for them, all of them, in one order.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Clients that are connected now.
    pub connected: u64,
    /// Messages that clients published, wills included, refused ones too.
    pub received: u64,
    /// Messages that were sent to clients, those on `$SYS/` not counted.
    pub sent: u64,
    /// Messages that were not taken, or not retained; see [`PublishRefused`].
    pub publishes_refused: Vec<(&'static str, u64)>,
    /// Filters that were refused; see [`SubscribeRefused`].
    pub subscriptions_refused: Vec<(&'static str, u64)>,
    /// Clients that were turned away, or whose connection was closed; see
    /// [`ClientRefused`].
    pub clients_refused: Vec<(&'static str, u64)>,
    /// Connections that were closed as soon as they came.
    pub connections_refused: net::Refused,
    /// What the broker counts: what it holds, and copies that did not reach a
    /// subscriber.
    pub broker: broker::Counters,
}

impl Counters {
    /// Messages that were not taken, or not retained, for this reason.
    pub fn publishes(&self, why: PublishRefused) -> u64 {
        self.publishes_refused[why.index()].1
    }

    /// Filters that were refused for this reason.
    pub fn subscriptions(&self, why: SubscribeRefused) -> u64 {
        self.subscriptions_refused[why.index()].1
    }

    /// Clients that were turned away for this reason.
    pub fn clients(&self, why: ClientRefused) -> u64 {
        self.clients_refused[why.index()].1
    }

    /// Copies of messages that did not reach a subscriber, by reason.
    pub fn dropped(&self) -> [(&'static str, u64); 6] {
        let broker::Dropped {
            queue_full_qos0,
            queue_full_qos1,
            away_qos0,
            expired,
            too_large,
            session_ended,
        } = self.broker.dropped;
        [
            ("queue_full_qos0", queue_full_qos0),
            ("queue_full_qos1", queue_full_qos1),
            ("away_qos0", away_qos0),
            ("expired", expired),
            ("too_large", too_large),
            ("session_ended", session_ended),
        ]
    }
}

impl Mqtt {
    /// The front end's numbers for `/metrics` (product.md §7).
    pub fn metrics(&self) -> Vec<Metric> {
        let counters = self.shared.counters();
        counters.metrics(self.shared.intake.broker.queued())
    }
}

impl Counters {
    fn metrics(&self, queued: broker::Queued) -> Vec<Metric> {
        let broker = &self.broker;
        let gauge = |name, help, value: usize| Metric::gauge(name, help).with([], value);
        let counter = |name, help, value: u64| Metric::counter(name, help).with([], value);
        let refused = |name, help, reasons: &[(&'static str, u64)]| {
            Metric::counter(name, help).by_reason(reasons.iter().copied())
        };
        let ended = [
            ("stalled", broker.stalled),
            ("too_many_away", broker.surplus),
        ];
        vec![
            Metric::connections("mqtt", self.connected),
            gauge(
                "pinhook_mqtt_sessions",
                "Sessions now, those of clients that are away included.",
                broker.sessions,
            ),
            gauge(
                "pinhook_mqtt_sessions_away",
                "Sessions that are kept for clients that are away.",
                broker.away,
            ),
            gauge(
                "pinhook_mqtt_subscriptions",
                "Subscriptions of all sessions now.",
                broker.subscriptions,
            ),
            gauge(
                "pinhook_mqtt_queued_messages",
                "Messages that wait in the queues of all sessions now.",
                queued.messages,
            ),
            gauge(
                "pinhook_mqtt_queued_bytes",
                "Memory of the messages that wait in the queues of all sessions now.",
                queued.bytes,
            ),
            gauge(
                "pinhook_mqtt_retained_messages",
                "Retained messages now, those of pinhook's own included.",
                broker.retained,
            ),
            gauge(
                "pinhook_mqtt_retained_bytes",
                "Memory of the retained messages now.",
                broker.retained_bytes,
            ),
            counter(
                "pinhook_mqtt_messages_received_total",
                "Messages that clients published, refused ones included.",
                self.received,
            ),
            counter(
                "pinhook_mqtt_messages_sent_total",
                "Messages that were sent to clients, those on $SYS not counted.",
                self.sent,
            ),
            refused(
                "pinhook_mqtt_messages_dropped_total",
                "Copies of messages that did not reach a subscriber.",
                &self.dropped(),
            ),
            refused(
                "pinhook_mqtt_messages_refused_total",
                "Messages that were not taken, or not retained.",
                &self.publishes_refused,
            ),
            refused(
                "pinhook_mqtt_subscriptions_refused_total",
                "Filters that were not subscribed to.",
                &self.subscriptions_refused,
            ),
            refused(
                "pinhook_mqtt_clients_refused_total",
                "Clients that were turned away, or whose connection or session was ended.",
                &[&self.clients_refused, &ended[..]].concat(),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_under_its_own_word() {
        let tally = Tally::default();
        tally.refuse_publish(PublishRefused::RetainedPerDevice);
        tally.refuse_publish(PublishRefused::Rate);
        tally.refuse_publish(PublishRefused::Rate);
        tally.refuse_subscription(SubscribeRefused::TooMany);
        tally.refuse_client(ClientRefused::KeepAlive);
        tally.receive();
        tally.send("a");
        tally.send("$SYS/broker/uptime");
        let one = tally.connect();

        let counters = tally.counters(broker::Counters::default(), net::Refused::default());

        assert_eq!(
            (counters.connected, counters.received, counters.sent),
            (1, 1, 1)
        );
        assert_eq!(counters.publishes(PublishRefused::Rate), 2);
        let counted = |reasons: &[(&'static str, u64)]| -> Vec<_> {
            reasons.iter().copied().filter(|(_, n)| *n > 0).collect()
        };
        let publishes = [("rate", 2), ("retained_per_device", 1)];
        assert_eq!(counted(&counters.publishes_refused), publishes);
        assert_eq!(counted(&counters.subscriptions_refused), [("too_many", 1)]);
        assert_eq!(counted(&counters.clients_refused), [("keep_alive", 1)]);
        drop(one);
        let counters = tally.counters(broker::Counters::default(), net::Refused::default());
        assert_eq!(counters.connected, 0);
    }
}
