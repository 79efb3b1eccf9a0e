//! What the two Blynk HTTP APIs count: requests, and those that were refused, by
//! reason. Counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::metric::Metric;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// That of the old server.
    Legacy,
    /// That of today's cloud.
    Cloud,
}

impl Api {
    const ALL: [(Api, &str); 2] = [(Api::Legacy, "legacy"), (Api::Cloud, "cloud")];
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A token that no device has.
    Login,
    /// More than `limits.writes_per_second`.
    Rate,
    /// A value of more bytes than `limits.value`.
    ValueTooLong,
    /// The device's properties are as many, or as long, as they may be.
    Properties,
    /// A body that is larger than any may be.
    TooLarge,
    /// A body that took too long to come.
    Timeout,
    /// Something else in it is wrong.
    Request,
    /// pinhook was stopping.
    Stopping,
}

impl Reason {
    const ALL: [(Reason, &str); 8] = [
        (Reason::Login, "login"),
        (Reason::Rate, "rate"),
        (Reason::ValueTooLong, "value_too_long"),
        (Reason::Properties, "properties"),
        (Reason::TooLarge, "too_large"),
        (Reason::Timeout, "timeout"),
        (Reason::Request, "request"),
        (Reason::Stopping, "stopping"),
    ];
}

/// Counts while pinhook runs. The numbers order nothing, hence `Relaxed` throughout.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: [AtomicU64; Api::ALL.len()],
    refused: [AtomicU64; Reason::ALL.len()],
}

impl Tally {
    pub fn receive(&self, api: Api) {
        self.requests[api as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn refuse(&self, why: Reason) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers for `/metrics`.
    pub fn metrics(&self) -> [Metric; 2] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut requests = Metric::counter(
            "pinhook_http_requests_total",
            "Requests of the two Blynk HTTP APIs.",
        );
        for (api, word) in Api::ALL {
            requests.push([("api", word)], read(&self.requests[api as usize]));
        }
        let refused = Metric::counter(
            "pinhook_http_refused_total",
            "Requests of the two Blynk HTTP APIs that were refused, by reason.",
        );
        let by_reason = Reason::ALL.map(|(why, word)| (word, read(&self.refused[why as usize])));
        [requests, refused.by_reason(by_reason)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_place_of_its_own() {
        for (index, (api, _)) in Api::ALL.into_iter().enumerate() {
            assert_eq!(api as usize, index);
        }
        for (index, (why, _)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
    }
}
