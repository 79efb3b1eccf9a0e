//! The numbers of all parts for `/metrics` (product.md §7), and of pinhook as a whole.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::blynk::Blynk;
use crate::http::Source;
use crate::hub::Hub;
use crate::model::metric::Metric;
use crate::mqtt::Mqtt;
use crate::net::{Limiter, Refused};

/// What there is to tell from now on, which counts as the start.
pub(super) fn source(hub: Hub, mqtt: Mqtt, blynk: Blynk, limiter: Arc<Limiter>) -> Source {
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    let started = started.map_or(0, |since| since.as_secs());
    Box::new(move || {
        let mut all = hub.metrics();
        all.extend(mqtt.metrics());
        all.extend(blynk.metrics());
        all.extend(of_the_whole(started, limiter.refused()));
        all
    })
}

fn of_the_whole(started: u64, refused: Refused) -> [Metric; 3] {
    let build = Metric::gauge("pinhook_build_info", "1, of the version that runs.");
    let start = Metric::gauge(
        "pinhook_start_time_seconds",
        "When pinhook was started, in Unix time.",
    );
    let connections = Metric::counter(
        "pinhook_connections_refused_total",
        "Connections that were closed as soon as they came, by the limit that was reached.",
    );
    [
        build.with([("version", env!("CARGO_PKG_VERSION"))], 1_u64),
        start.with([], started),
        connections.by_reason([
            ("connections", refused.connections),
            ("connections_per_address", refused.per_address),
        ]),
    ]
}
