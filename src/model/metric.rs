//! Numbers for those who watch over pinhook (product.md §7, `/metrics`), as plain
//! data: who has some to tell makes them, and `http` writes them as text.
//!
//! Names begin with `pinhook_`, those of counters end with `_total`; units are seconds
//! and bytes. A device or a webhook may be named in a label, a secret never.

use std::time::Duration;

/// One thing that is counted or measured, with a sample for each set of labels.
///
/// Two of one name, from two parts of pinhook, are shown as one: then the texts must
/// be the same, and the labels must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a sentence without `\` or line break.
    pub help: &'static str,
    /// How its values go.
    pub kind: Kind,
    /// Its values.
    pub samples: Vec<Sample>,
}

/// How the values of a metric go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Up only, from 0 at the start.
    Counter,
    /// Up and down.
    Gauge,
    /// Into the buckets of a [`Histogram`].
    Histogram,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Of what it is the value: names and values of labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// What a sample says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(u64),
    /// Of a histogram.
    Histogram(Histogram),
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number as u64)
    }
}

impl From<Histogram> for Value {
    fn from(histogram: Histogram) -> Value {
        Value::Histogram(histogram)
    }
}

impl Metric {
    /// A counter without a sample yet.
    pub fn counter(name: &'static str, help: &'static str) -> Metric {
        Metric::new(name, help, Kind::Counter)
    }

    /// A gauge without a sample yet.
    pub fn gauge(name: &'static str, help: &'static str) -> Metric {
        Metric::new(name, help, Kind::Gauge)
    }

    /// A histogram without a sample yet.
    pub fn histogram(name: &'static str, help: &'static str) -> Metric {
        Metric::new(name, help, Kind::Histogram)
    }

    fn new(name: &'static str, help: &'static str, kind: Kind) -> Metric {
        Metric {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    /// How many connections of a protocol there are: every front end says it of its own.
    pub fn connections(protocol: &str, count: impl Into<Value>) -> Metric {
        const HELP: &str = "Connections now, by protocol; those of MQTT are clients that are logged \
                            in, over WebSocket, too.";
        Metric::gauge("pinhook_connections", HELP).with([("protocol", protocol)], count)
    }

    /// With one more sample.
    pub fn with<const N: usize>(
        mut self,
        labels: [(&'static str, &str); N],
        value: impl Into<Value>,
    ) -> Metric {
        self.push(labels, value);
        self
    }

    /// With a sample for each reason.
    pub fn by_reason<'a>(mut self, reasons: impl IntoIterator<Item = (&'a str, u64)>) -> Metric {
        for (reason, count) in reasons {
            self.push([("reason", reason)], count);
        }
        self
    }

    /// Adds a sample.
    pub fn push<const N: usize>(
        &mut self,
        labels: [(&'static str, &str); N],
        value: impl Into<Value>,
    ) {
        let labels = labels.map(|(name, value)| (name, value.to_owned()));
        self.samples.push(Sample {
            labels: labels.into(),
            value: value.into(),
        });
    }
}

/// The upper bounds of a [`Histogram`]'s buckets, but for the last, which has none: from a
/// service next door to the longest anybody waits for one, each about three times the one before.
pub const BOUNDS: [Duration; 11] = [
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// How long things took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By bucket; what is over all bounds last.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Counts something that took so long.
    pub fn observe(&mut self, took: Duration) {
        self.counts[BOUNDS.partition_point(|bound| *bound < took)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// How many took at most as long as each bound, and at last how many there were at
    /// all, whose bound is `None`.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS.into_iter().map(Some).chain([None]);
        let counts = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        bounds.zip(counts)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long all of them took together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_as_long_as_a_bound_is_within_it() {
        let mut histogram = Histogram::default();
        for nanos in [0, 1_000_000, 1_000_001, 3_000_000, 60_000_000_000] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        histogram.observe(Duration::from_secs(61));

        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets[0], (Some(Duration::from_millis(1)), 2));
        assert_eq!(buckets[1], (Some(Duration::from_millis(3)), 4));
        assert_eq!(buckets[9], (Some(Duration::from_secs(30)), 4));
        assert_eq!(buckets[10], (Some(Duration::from_secs(60)), 5));
        assert_eq!(buckets[11], (None, 6));
        assert_eq!(buckets.len(), 12);
        assert_eq!(histogram.count(), 6);
        assert_eq!(histogram.sum(), Duration::from_nanos(121_005_000_001));
    }

    #[test]
    fn bounds_go_up() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_sum_that_is_too_long_stays_the_longest_there_is() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::MAX);
        histogram.observe(Duration::MAX);

        assert_eq!((histogram.count(), histogram.sum()), (2, Duration::MAX));
    }
}
