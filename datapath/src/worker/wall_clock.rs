//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use super::SWEEP_PERIOD_NS;

/// Time of day for flow events: read from the system once a [`SWEEP_PERIOD_NS`], carried on by the monotonic clock in between.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    unix_ns: u64,
    read_at: Option<u64>,
}

impl WallClock {
    pub(super) fn at(&mut self, mono_ns: u64) -> u64 {
        let since = self.read_at.map(|read_at| mono_ns.saturating_sub(read_at));
        match since {
            Some(since) if since < SWEEP_PERIOD_NS => self.unix_ns.saturating_add(since),
            _ => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX);
                self.read_at = Some(mono_ns);
                self.unix_ns
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_goes_on_with_the_monotonic_one_between_readings() {
        let mut wall = WallClock::default();
        let first = wall.at(5);
        assert!(first > 0);
        assert_eq!(wall.at(5 + SWEEP_PERIOD_NS - 1), first + SWEEP_PERIOD_NS - 1);
        let read_again = wall.at(5 + SWEEP_PERIOD_NS);
        assert!(
            read_again != first + SWEEP_PERIOD_NS - 1,
            "the system was not asked"
        );
    }
}
