//! One address of one URL: its connections, its breaker and the calls that it has in flight.
//! Must not know the other addresses or what a call is about.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::Address;
use super::super::breaker::{Admission, Breaker, Change, Verdict};
use super::meters::Meters;
use super::news::News;
use super::pool::Pool;
use super::target::Target;
use crate::telemetry::metrics::Label;

/// An address that calls can be sent to. It keeps its state for as long as its name resolves to it.
pub struct Endpoint {
    pub target: Arc<Target>,
    pub address: SocketAddr,
    /// For logs and metrics: host, port, and the address if that is another.
    pub label: Label,
    pub pool: Pool,
    guard: Mutex<Guard>,
    in_flight: AtomicUsize,
    meters: Arc<Meters>,
    news: Arc<News>,
}

struct Guard {
    breaker: Breaker,
    failed_at: Option<SystemTime>,
    last_failure: String,
}

/// Settings that each address of an upstream gets.
#[derive(Clone, Copy)]
pub struct EndpointSettings {
    pub pool_idle_timeout: Duration,
    pub breaker_failures: u32,
    pub breaker_open: Duration,
}

/// What an address has to offer to the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Pass,
    Probe,
    /// Set aside; a probe is due then, or is out now.
    Aside(Option<Instant>),
}

impl Endpoint {
    pub fn new(
        target: Arc<Target>,
        address: SocketAddr,
        settings: EndpointSettings,
        meters: Arc<Meters>,
        news: Arc<News>,
    ) -> Arc<Self> {
        let label = match target.ip {
            Some(_) => address.to_string(),
            None => format!("{}:{} ({})", target.host, target.port, address.ip()),
        };
        let breaker = Breaker::new(settings.breaker_failures, settings.breaker_open);
        let endpoint = Self {
            target,
            address,
            label: label.into(),
            pool: Pool::new(settings.pool_idle_timeout),
            guard: Mutex::new(Guard { breaker, failed_at: None, last_failure: String::new() }),
            in_flight: AtomicUsize::new(0),
            meters,
            news,
        };
        endpoint.show();
        Arc::new(endpoint)
    }

    pub fn offer(&self, now: Instant) -> Offer {
        let guard = self.guard.lock();
        match guard.breaker.is_closed() {
            true => Offer::Pass,
            false if guard.breaker.is_probe_due(now) => Offer::Probe,
            false => Offer::Aside(guard.breaker.probe_at()),
        }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Begins a call, if the breaker lets it.
    pub fn lease(self: &Arc<Self>, now: Instant) -> Option<Lease> {
        let admission = self.guard.lock().breaker.admit(now)?;
        if admission == Admission::Probe {
            self.show();
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.meters.in_flight.inc();
        Some(Lease { endpoint: self.clone(), admission, is_reported: false })
    }

    /// Sets the breaker's gauge.
    pub fn show(&self) {
        let state = self.guard.lock().breaker.gauge();
        self.meters.set_breaker(&self.label, state);
    }

    pub fn status(&self) -> Address {
        let guard = self.guard.lock();
        let last_failure = guard.failed_at.map(|at| (at, guard.last_failure.clone()));
        Address { label: self.label.clone(), breaker: guard.breaker.state(), in_flight: self.in_flight(), last_failure }
    }

    fn report(&self, admission: Admission, verdict: Verdict, reason: &str) {
        let change = {
            let mut guard = self.guard.lock();
            if verdict == Verdict::Failed {
                guard.failed_at = Some(SystemTime::now());
                guard.last_failure.clear();
                guard.last_failure.push_str(reason);
            }
            guard.breaker.report(admission, verdict, Instant::now())
        };
        let Some(change) = change else { return };
        let (upstream, address) = (&*self.meters.upstream, &*self.label);
        match change {
            Change::Opened => tracing::warn!(upstream, address, reason, "the address fails and is set aside"),
            Change::Closed => tracing::warn!(upstream, address, "the address works again"),
            Change::Rescheduled => tracing::debug!(upstream, address, reason, "the address is still set aside"),
        }
        self.show();
        match change {
            Change::Closed => self.news.more_admit(),
            Change::Opened | Change::Rescheduled => self.news.fewer_admit(),
        }
    }
}

/// One call's hold on an address; dropped without a report, it leaves the breaker as it was.
pub struct Lease {
    pub endpoint: Arc<Endpoint>,
    admission: Admission,
    is_reported: bool,
}

impl Lease {
    /// Ends the hold with what it showed; `reason` is there for a failure.
    pub fn report(mut self, verdict: Verdict, reason: &str) {
        self.is_reported = true;
        self.endpoint.report(self.admission, verdict, reason);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.meters.in_flight.dec();
        if !self.is_reported {
            self.endpoint.report(self.admission, Verdict::Unknown, "");
        }
    }
}
