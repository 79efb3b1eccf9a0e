//! What the two Blynk HTTP APIs count: requests, and those that were refused, by
//! reason. Counting takes no lock.

use crate::model::count::{ByLabel, labels};
use crate::model::metric::Metric;

labels!(
    /// One of the two.
    Api {
        /// That of the old server.
        Legacy = "legacy",
        /// That of today's cloud.
        Cloud = "cloud",
    }
);

labels!(
    /// Why a request was refused.
    Reason {
        /// A token that no device has.
        Login = "login",
        /// More than `limits.writes_per_second`.
        Rate = "rate",
        /// A value of more bytes than `limits.value`.
        ValueTooLong = "value_too_long",
        /// The device's properties are as many, or as long, as they may be.
        Properties = "properties",
        /// A body that is larger than any may be.
        TooLarge = "too_large",
        /// A body that took too long to come.
        Timeout = "timeout",
        /// Something else in it is wrong.
        Request = "request",
        /// pinhook was stopping.
        Stopping = "stopping",
    }
);

/// Counts while pinhook runs. The numbers order nothing, hence `Relaxed` throughout.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: ByLabel<Api>,
    refused: ByLabel<Reason>,
}

impl Tally {
    pub fn receive(&self, api: Api) {
        self.requests.add(api, 1);
    }

    pub fn refuse(&self, why: Reason) {
        self.refused.add(why, 1);
    }

    /// The numbers for `/metrics`.
    pub fn metrics(&self) -> [Metric; 2] {
        let mut requests = Metric::counter(
            "pinhook_http_requests_total",
            "Requests of the two Blynk HTTP APIs.",
        );
        for (api, count) in self.requests.read() {
            requests.push([("api", api)], count);
        }
        let refused = Metric::counter(
            "pinhook_http_refused_total",
            "Requests of the two Blynk HTTP APIs that were refused, by reason.",
        );
        [requests, refused.by_reason(self.refused.read())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::count::Label as _;

    #[test]
    fn each_has_a_place_of_its_own() {
        for (index, &(api, _)) in Api::ALL.iter().enumerate() {
            assert_eq!(api as usize, index);
        }
        for (index, &(why, _)) in Reason::ALL.iter().enumerate() {
            assert_eq!(why as usize, index);
        }
    }
}
