//! How long to pause between attempts: exponential, with full jitter. Pure: chance and time are arguments. Must not know what is tried.

use std::time::Duration;

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub min: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The pause after `failed` attempts (from 1), or none if no attempt fits in what `remains` until the deadline.
    /// `chance` is drawn evenly from 0 to 1.
    pub fn delay(
        &self,
        failed: u32,
        retry_after: Option<Duration>,
        remains: Duration,
        chance: f64,
    ) -> Option<Duration> {
        let factor = 2_u32.saturating_pow(failed.min(31));
        let ceiling = self.min.saturating_mul(factor).min(self.max).max(self.min);
        let jittered = self.min + (ceiling - self.min).mul_f64(chance.clamp(0.0, 1.0));
        // Near the deadline the pauses shrink, so that the last attempt comes close to it and not a whole pause before.
        let backoff = jittered.min((remains / 2).max(self.min));
        let delay = backoff.max(retry_after.unwrap_or_default());
        (delay < remains).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const BACKOFF: Backoff = Backoff { min: ms(100), max: ms(1000) };

    #[test]
    fn pauses_double_up_to_the_cap_and_jitter_reaches_from_the_minimum() {
        let remains = Duration::from_secs(3600);
        for (failed, longest) in [(1, 200), (2, 400), (3, 800), (4, 1000), (40, 1000), (u32::MAX, 1000)] {
            assert_eq!(BACKOFF.delay(failed, None, remains, 1.0), Some(ms(longest)), "{failed}");
            assert_eq!(BACKOFF.delay(failed, None, remains, 0.0), Some(ms(100)), "{failed}");
        }
    }

    #[test]
    fn retry_after_is_a_lower_bound() {
        let remains = Duration::from_secs(60);
        assert_eq!(BACKOFF.delay(1, Some(ms(5000)), remains, 1.0), Some(ms(5000)));
        assert_eq!(BACKOFF.delay(4, Some(ms(10)), remains, 1.0), Some(ms(1000)));
    }

    #[test]
    fn nothing_is_tried_past_the_deadline() {
        assert_eq!(BACKOFF.delay(4, None, ms(600), 1.0), Some(ms(300)));
        assert_eq!(BACKOFF.delay(1, None, ms(100), 1.0), None);
        assert_eq!(BACKOFF.delay(1, Some(ms(5000)), ms(4000), 0.0), None);
        assert_eq!(BACKOFF.delay(1, None, ms(0), 0.0), None);
    }
}
