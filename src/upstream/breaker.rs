//! The circuit breaker of one address: when it is set aside, and when one call may probe it.
//! Pure: time is an argument. Must not know what a call is or why it failed.

use std::time::Duration;

use tokio::time::Instant;

/// After this many failed probes in a row the pause grows no more: `breaker_open` times 2 to this power.
const DOUBLINGS_MAX: u32 = 2;

/// A breaker: closed, then open after consecutive failures, then half open while one probe is out.
#[derive(Debug)]
pub struct Breaker {
    failures_max: u32,
    pause: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, doublings: u32 },
    HalfOpen { doublings: u32 },
}

/// How a call was let through; it is given back with the call's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Pass,
    /// The one call that finds out whether an address works again.
    Probe,
}

/// How a call ended, as far as a breaker cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The address answers.
    Alive,
    Failed,
    /// The call was given up before it showed anything.
    Unknown,
}

/// What a result did to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened,
    Closed,
    /// Still set aside, but the next probe is at another time.
    Rescheduled,
}

impl Breaker {
    /// A closed breaker that opens for `pause` after `failures_max` failures in a row (at least one).
    pub fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max: failures_max.max(1), pause, state: State::Closed { failures: 0 } }
    }

    /// True while calls pass freely.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// True if the next call would be let through as the probe.
    pub fn is_probe_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Open { until, .. } if until <= now)
    }

    /// When the next probe is due; none while closed or while a probe is out.
    pub fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Lets a call through, or none.
    pub fn admit(&mut self, now: Instant) -> Option<Admission> {
        match self.state {
            State::Closed { .. } => Some(Admission::Pass),
            State::Open { until, doublings } if until <= now => {
                self.state = State::HalfOpen { doublings };
                Some(Admission::Probe)
            }
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Takes the result of a call that was let through.
    pub fn report(&mut self, admission: Admission, verdict: Verdict, now: Instant) -> Option<Change> {
        match (self.state, admission, verdict) {
            (State::Closed { .. }, _, Verdict::Alive) => {
                self.state = State::Closed { failures: 0 };
                None
            }
            (State::Closed { failures }, _, Verdict::Failed) => {
                if failures + 1 < self.failures_max {
                    self.state = State::Closed { failures: failures + 1 };
                    return None;
                }
                self.state = State::Open { until: now + self.pause, doublings: 0 };
                Some(Change::Opened)
            }
            (State::HalfOpen { .. }, Admission::Probe, Verdict::Alive) => {
                self.state = State::Closed { failures: 0 };
                Some(Change::Closed)
            }
            (State::HalfOpen { doublings }, Admission::Probe, Verdict::Failed) => {
                let doublings = (doublings + 1).min(DOUBLINGS_MAX);
                self.state = State::Open { until: now + self.pause * (1 << doublings), doublings };
                Some(Change::Rescheduled)
            }
            (State::HalfOpen { doublings }, Admission::Probe, Verdict::Unknown) => {
                self.state = State::Open { until: now, doublings };
                Some(Change::Rescheduled)
            }
            // A call from before the breaker opened says nothing about now.
            _ => None,
        }
    }

    /// The state's name.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Closed { .. } => "closed",
            State::HalfOpen { .. } => "half_open",
            State::Open { .. } => "open",
        }
    }

    /// The state as the metric `breaker_state` shows it.
    pub fn gauge(&self) -> i64 {
        match self.state {
            State::Closed { .. } => 0,
            State::HalfOpen { .. } => 1,
            State::Open { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(3, PAUSE);
        for expected in [None, None, Some(Change::Opened)] {
            assert_eq!(breaker.admit(now), Some(Admission::Pass));
            assert_eq!(breaker.report(Admission::Pass, Verdict::Failed, now), expected);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, PAUSE);
        for verdict in [Verdict::Failed, Verdict::Failed, Verdict::Alive, Verdict::Failed, Verdict::Failed] {
            assert_eq!(breaker.report(Admission::Pass, verdict, now), None);
        }
        assert_eq!(breaker.report(Admission::Pass, Verdict::Unknown, now), None);
        assert_eq!(breaker.report(Admission::Pass, Verdict::Failed, now), Some(Change::Opened));
        assert_eq!((breaker.state(), breaker.gauge()), ("open", 2));
        assert_eq!(breaker.admit(now), None);
    }

    #[test]
    fn exactly_one_probe_passes_and_its_success_closes() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.probe_at(), Some(now + PAUSE));
        assert!(!breaker.is_probe_due(now + PAUSE / 2));
        let later = now + PAUSE;
        assert!(breaker.is_probe_due(later));
        assert_eq!(breaker.admit(later), Some(Admission::Probe));
        assert_eq!((breaker.admit(later), breaker.probe_at(), breaker.gauge()), (None, None, 1));
        assert_eq!(breaker.report(Admission::Probe, Verdict::Alive, later), Some(Change::Closed));
        assert!(breaker.is_closed());
    }

    #[test]
    fn failed_probes_lengthen_the_pause_up_to_a_cap() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for factor in [2, 4, 4, 4] {
            now = breaker.probe_at().expect("open");
            assert_eq!(breaker.admit(now), Some(Admission::Probe));
            assert_eq!(breaker.report(Admission::Probe, Verdict::Failed, now), Some(Change::Rescheduled));
            assert_eq!(breaker.probe_at(), Some(now + PAUSE * factor));
        }
    }

    #[test]
    fn a_probe_given_up_leaves_its_place_to_another_at_once() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + PAUSE;
        assert_eq!(breaker.admit(later), Some(Admission::Probe));
        assert_eq!(breaker.report(Admission::Probe, Verdict::Unknown, later), Some(Change::Rescheduled));
        assert_eq!(breaker.admit(later), Some(Admission::Probe));
    }

    #[test]
    fn late_results_from_before_it_opened_change_nothing() {
        let now = Instant::now();
        let mut breaker = opened(now);
        for verdict in [Verdict::Alive, Verdict::Failed, Verdict::Unknown] {
            assert_eq!(breaker.report(Admission::Pass, verdict, now), None);
            assert_eq!(breaker.probe_at(), Some(now + PAUSE));
        }
    }
}
