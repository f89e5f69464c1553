//! The one rate limit: GCRA in its leaky-bucket form (ITU-T I.371), in whole numbers, so that a rate is exact over any time.
//! Must not know what is counted.

use super::Rates;

/// A steady pace, and what may come at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

/// How full a bucket is. What comes in fills it, time empties it; what would make it overflow may not come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// In thousandths.
    level: u64,
    at_ms: u64,
}

impl Rate {
    /// The burst is one second's worth unless said otherwise, and never less than a millisecond's, since time counts in those.
    pub fn new(per_second: u32, burst: Option<u32>) -> Self {
        let per_second = per_second.max(1);
        Self { per_second, burst: burst.unwrap_or(per_second).max(per_second.div_ceil(1000)) }
    }

    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// In thousandths. More than the burst at once counts as the burst: it passes when nothing came before.
    fn cost(&self, amount: usize) -> u64 {
        u64::try_from(amount).unwrap_or(u64::MAX).min(self.burst.into()) * 1000
    }
}

impl Bucket {
    /// Lets `amount` in, or says after how many milliseconds it would be.
    pub fn take(&mut self, now_ms: u64, amount: usize, rate: Rate) -> Result<(), u64> {
        match self.wait_ms(now_ms, amount, rate) {
            0 => {
                self.add(now_ms, amount, rate);
                Ok(())
            }
            wait_ms => Err(wait_ms),
        }
    }

    /// The milliseconds until `amount` may come in.
    fn wait_ms(&self, now_ms: u64, amount: usize, rate: Rate) -> u64 {
        let room = u64::from(rate.burst) * 1000 - rate.cost(amount);
        self.level(now_ms, rate).saturating_sub(room).div_ceil(rate.per_second.into())
    }

    fn add(&mut self, now_ms: u64, amount: usize, rate: Rate) {
        self.level = self.level(now_ms, rate) + rate.cost(amount);
        self.at_ms = self.at_ms.max(now_ms);
    }

    fn level(&self, now_ms: u64, rate: Rate) -> u64 {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.level.saturating_sub(passed_ms.saturating_mul(rate.per_second.into()))
    }

    /// When it will be empty, if nothing more comes in.
    fn empty_ms(&self, rate: Rate) -> u64 {
        self.at_ms.saturating_add(self.level.div_ceil(rate.per_second.into()))
    }
}

/// The two buckets of messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Levels {
    pub messages: Bucket,
    pub bytes: Bucket,
}

impl Levels {
    /// The milliseconds until a message of so many bytes may come in, by its number and by its bytes.
    pub fn wait_ms(&self, now_ms: u64, bytes: usize, rates: &Rates) -> [u64; 2] {
        let wait = |bucket: &Bucket, amount, rate: Option<Rate>| rate.map_or(0, |r| bucket.wait_ms(now_ms, amount, r));
        [wait(&self.messages, 1, rates.messages), wait(&self.bytes, bytes, rates.bytes)]
    }

    pub fn add(&mut self, now_ms: u64, bytes: usize, rates: &Rates) {
        let add = |bucket: &mut Bucket, amount, rate: Option<Rate>| rate.map(|r| bucket.add(now_ms, amount, r));
        add(&mut self.messages, 1, rates.messages);
        add(&mut self.bytes, bytes, rates.bytes);
    }

    /// When both will be empty.
    pub fn empty_ms(&self, rates: &Rates) -> u64 {
        let empty = |bucket: &Bucket, rate: Option<Rate>| rate.map_or(0, |rate| bucket.empty_ms(rate));
        empty(&self.messages, rates.messages).max(empty(&self.bytes, rates.bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTES_MS: u64 = 10 * 60 * 1000;

    #[test]
    fn a_burst_passes_at_once_and_then_the_pace() {
        let (mut bucket, rate) = (Bucket::default(), Rate::new(10, Some(3)));
        assert_eq!([0, 0, 0].map(|now| bucket.take(now, 1, rate)), [Ok(()); 3]);
        assert_eq!(bucket.take(0, 1, rate), Err(100));
        assert_eq!(bucket.take(99, 1, rate), Err(1));
        assert_eq!(bucket.take(100, 1, rate), Ok(()));
        assert_eq!(bucket.take(100, 2, rate), Err(200));
        assert_eq!(
            [5000, 5000, 5000].map(|now| bucket.take(now, 1, rate)),
            [Ok(()); 3],
            "no more than the burst is saved"
        );
        assert_eq!(bucket.take(5000, 1, rate), Err(100));
    }

    /// Rates that do not divide a second are exact too: nothing is lost or gained by rounding over ten minutes.
    #[test]
    fn over_minutes_the_burst_and_the_rate_pass_to_the_last_one() {
        for (per_second, burst) in [(1, 1), (3, 3), (7, 2), (7, 50), (333, 10), (999, 999), (1001, 2), (30_000, 30)] {
            let (mut bucket, rate) = (Bucket::default(), Rate::new(per_second, Some(burst)));
            let mut passed = 0_u64;
            for now_ms in 0..=MINUTES_MS {
                while bucket.take(now_ms, 1, rate).is_ok() {
                    passed += 1;
                }
            }
            let expected = u64::from(burst) + u64::from(per_second) * MINUTES_MS / 1000;
            assert_eq!(passed, expected, "{per_second} a second, {burst} at once");
        }
    }

    #[test]
    fn what_waits_as_told_passes_and_not_a_millisecond_earlier() {
        let (mut bucket, rate) = (Bucket::default(), Rate::new(7, Some(2)));
        let mut now_ms = 0;
        for _ in 0..1000 {
            if let Err(wait_ms) = bucket.take(now_ms, 1, rate) {
                assert!(bucket.clone().take(now_ms + wait_ms - 1, 1, rate).is_err());
                now_ms += wait_ms;
                assert_eq!(bucket.take(now_ms, 1, rate), Ok(()));
            }
        }
    }

    #[test]
    fn a_new_rate_counts_from_its_moment_on() {
        let (slow, fast) = (Rate::new(1, Some(10)), Rate::new(100, Some(10)));
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(0, 10, slow), Ok(()));
        assert_eq!(bucket.take(0, 1, slow), Err(1000));
        assert_eq!(bucket.take(0, 1, fast), Err(10));
        assert_eq!(bucket.take(0, 1, Rate::new(100, Some(5))), Err(60), "a smaller burst is first worked off");
        assert_eq!(bucket.take(100, 10, fast), Ok(()));
    }

    #[test]
    fn more_than_the_burst_passes_when_nothing_came_before() {
        let (mut bucket, rate) = (Bucket::default(), Rate::new(10, Some(10)));
        assert_eq!(bucket.take(0, usize::MAX, rate), Ok(()));
        assert_eq!(bucket.take(999, 11, rate), Err(1));
        assert_eq!(bucket.take(1000, 11, rate), Ok(()));
    }

    #[test]
    fn a_burst_is_at_least_what_one_millisecond_refills() {
        assert_eq!((Rate::new(5, None).burst(), Rate::new(1_000_000, Some(1)).burst()), (5, 1000));
    }

    proptest! {
        /// Whatever comes and whenever: in no window passes more than the burst and what the rate gives in it.
        #[test]
        fn no_window_has_more_than_the_burst_and_the_rate(
            per_second in 1_u32..5000,
            burst in 1_u32..5000,
            sends in prop::collection::vec((0_u64..400, 0_usize..3000), 1..80),
        ) {
            let (mut bucket, rate) = (Bucket::default(), Rate::new(per_second, Some(burst)));
            let (mut now_ms, mut passed) = (0, Vec::new());
            for (pause_ms, amount) in sends {
                now_ms += pause_ms;
                let amount = amount.min(rate.burst() as usize);
                if bucket.take(now_ms, amount, rate).is_ok() {
                    passed.push((now_ms, amount as u64));
                }
            }
            for (at, (from_ms, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (to_ms, amount) in &passed[at..] {
                    sum += amount;
                    let most = u64::from(rate.burst()) * 1000 + u64::from(per_second) * (to_ms - from_ms);
                    prop_assert!(sum * 1000 <= most, "{sum} in {} ms", to_ms - from_ms);
                }
            }
        }

        /// Who keeps to the rate is never refused, however the amounts vary.
        #[test]
        fn who_keeps_to_the_rate_always_passes(
            per_second in 1_u32..5000,
            burst in 1_u32..5000,
            amounts in prop::collection::vec(0_usize..5000, 1..80),
        ) {
            let (mut bucket, rate) = (Bucket::default(), Rate::new(per_second, Some(burst)));
            let mut now_ms = 0;
            for amount in amounts {
                let amount = amount.min(rate.burst() as usize);
                prop_assert_eq!(bucket.take(now_ms, amount, rate), Ok(()));
                now_ms += (amount as u64 * 1000).div_ceil(per_second.into());
            }
        }
    }
}
