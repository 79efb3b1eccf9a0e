//! A token bucket that is told the time: so many a second, with a burst.

use std::time::{Duration, Instant};

/// Allows `rate` a second on average, and twice that in a burst (product.md §3.2).
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u32,
    level: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// A full bucket; a `rate` of 0 allows everything.
    pub fn new(rate: u32) -> Bucket {
        Bucket {
            rate,
            level: Self::burst(rate),
            at: None,
        }
    }

    fn burst(rate: u32) -> f64 {
        f64::from(rate) * 2.0
    }

    /// Whether one more may pass at `now`; if so it is counted.
    pub fn take(&mut self, now: Instant) -> bool {
        let has_one = self.has_one(now);
        if has_one && self.rate > 0 {
            self.level -= 1.0;
        }
        has_one
    }

    /// Whether one more may pass at `now`, without counting it.
    pub fn has_one(&mut self, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let passed = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.level =
            Self::burst(self.rate).min(self.level + passed.as_secs_f64() * f64::from(self.rate));
        self.level >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_twice_the_rate_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(50);

        let burst = (0..500).filter(|_| bucket.take(start)).count();
        let second = (1..=1000)
            .filter(|ms| bucket.take(start + Duration::from_millis(*ms)))
            .count();

        assert_eq!(burst, 100);
        assert!((49..=50).contains(&second), "{second}");
    }

    #[test]
    fn rate_zero_is_no_limit() {
        let start = Instant::now();
        let mut bucket = Bucket::new(0);

        assert!((0..10_000).all(|_| bucket.take(start)));
    }
}
