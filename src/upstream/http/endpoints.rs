//! The addresses of an upstream: names looked up again over time, and the choice among those whose breakers admit.
//! Must not know what a call is about.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::HttpSettings;
use super::endpoint::{Endpoint, EndpointSettings, Lease, Offer};
use super::meters::Meters;
use super::news::{News, Turn};
use super::target::Target;
use crate::tasks::Tasks;
use crate::upstream::Address;

/// A look-up that takes longer has failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// When a name has no address at all, it is looked up again after this.
const LOOKUP_RETRY: Duration = Duration::from_millis(500);

/// All addresses of one upstream.
pub struct Endpoints {
    targets: Vec<Arc<Target>>,
    has_names: bool,
    list: ArcSwap<Vec<Arc<Endpoint>>>,
    lookup: Mutex<Lookup>,
    settings: EndpointSettings,
    dns_refresh: Duration,
    tasks: Tasks,
    meters: Arc<Meters>,
    news: Arc<News>,
}

struct Lookup {
    due: Instant,
    is_running: bool,
    error: Option<String>,
}

/// When some address will take a call.
enum Chance {
    Now,
    At(Instant),
    /// When something changes.
    Later,
}

impl Endpoints {
    pub fn new(targets: Vec<Arc<Target>>, settings: &HttpSettings, tasks: Tasks, meters: Arc<Meters>) -> Arc<Self> {
        let each = EndpointSettings {
            pool_idle_timeout: settings.pool_idle_timeout,
            breaker_failures: settings.breaker_failures,
            breaker_open: settings.breaker_open,
        };
        Self::with(targets, each, settings.dns_refresh, tasks, meters)
    }

    fn with(
        targets: Vec<Arc<Target>>,
        settings: EndpointSettings,
        dns_refresh: Duration,
        tasks: Tasks,
        meters: Arc<Meters>,
    ) -> Arc<Self> {
        let endpoints = Self {
            has_names: targets.iter().any(|target| target.ip.is_none()),
            list: ArcSwap::default(),
            lookup: Mutex::new(Lookup { due: Instant::now(), is_running: false, error: None }),
            settings,
            dns_refresh,
            news: Arc::new(News::new()),
            targets,
            tasks,
            meters,
        };
        let none_looked_up = endpoints.targets.iter().map(|_| None).collect();
        endpoints.replace(none_looked_up);
        Arc::new(endpoints)
    }

    /// Takes an address for one call: a probe that is due, or else the less busy of two drawn at random from those that
    /// admit. `avoid` is taken only if there is no other.
    pub fn lease(&self, now: Instant, avoid: Option<&Arc<Endpoint>>) -> Option<Lease> {
        let list = self.list.load();
        if let [only] = list.as_slice() {
            return only.lease(now);
        }
        let mut chosen: [Option<&Arc<Endpoint>>; 2] = [None, None];
        let mut seen = 0;
        let mut fallback = None;
        for endpoint in list.iter() {
            match endpoint.offer(now) {
                Offer::Probe => {
                    if let Some(lease) = endpoint.lease(now) {
                        return Some(lease);
                    }
                }
                Offer::Pass if avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, endpoint)) => fallback = Some(endpoint),
                Offer::Pass => {
                    // Reservoir sampling: each pair is as likely as any other.
                    let place = if seen < 2 { seen } else { rand::rng().random_range(0..=seen) };
                    if let Some(slot) = chosen.get_mut(place) {
                        *slot = Some(endpoint);
                    }
                    seen += 1;
                }
                Offer::Aside(_) => {}
            }
        }
        let best = match chosen {
            [Some(a), Some(b)] if a.in_flight() == b.in_flight() => Some(if rand::random() { a } else { b }),
            [Some(a), Some(b)] => Some(if a.in_flight() < b.in_flight() { a } else { b }),
            [one, _] => one.or(fallback),
        };
        best?.lease(now)
    }

    /// True if an address other than this one takes calls freely.
    pub fn has_other(&self, than: &Arc<Endpoint>, now: Instant) -> bool {
        self.list.load().iter().any(|endpoint| !Arc::ptr_eq(endpoint, than) && endpoint.offer(now) == Offer::Pass)
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.list.load().len()
    }

    /// True if a call would get an address now. Starts a look-up if one is due.
    pub fn admits(self: &Arc<Self>, now: Instant) -> bool {
        self.refresh(now);
        matches!(self.chance(now), Chance::Now)
    }

    /// Waits until an address admits a call; `None` at the deadline. The turn, if there is one, is to be held until the call
    /// has an address or none.
    pub async fn admitting(self: &Arc<Self>, deadline: Instant) -> Option<Option<Turn<'_>>> {
        let mut recovered = pin!(self.news.recovered());
        // From here on a recovery is not missed, though it come before the wait.
        recovered.as_mut().enable();
        if self.list.load().iter().any(|endpoint| endpoint.offer(Instant::now()) == Offer::Pass) {
            return Some(None);
        }
        let turn = tokio::select! {
            biased;
            () = recovered => return Some(None),
            turn = self.news.turn() => turn,
            () = sleep_until(deadline) => return None,
        };
        self.watch(deadline).await.then_some(turn)
    }

    /// Watches for the next probe, for all who wait; false at the deadline.
    async fn watch(self: &Arc<Self>, deadline: Instant) -> bool {
        loop {
            let mut changed = pin!(self.news.changed());
            changed.as_mut().enable();
            let now = Instant::now();
            self.refresh(now);
            let until = match self.chance(now) {
                Chance::Now => return true,
                _ if now >= deadline => return false,
                Chance::At(at) => at.min(deadline),
                Chance::Later => deadline,
            };
            // Whether told or timed out, the next round looks again.
            let _ = timeout_at(until, changed).await;
        }
    }

    /// Why no address admits a call.
    pub fn why_none(&self) -> String {
        let list = self.list.load();
        if list.is_empty() {
            return self.lookup.lock().error.clone().unwrap_or_else(|| "no address is known yet".into());
        }
        let failures: Vec<String> =
            list.iter().filter_map(|endpoint| endpoint.status().last_failure).map(|(_, reason)| reason).collect();
        format!("every address is set aside: {}", failures.join("; "))
    }

    /// Every address as it is now.
    pub fn addresses(&self) -> Vec<Address> {
        self.list.load().iter().map(|endpoint| endpoint.status()).collect()
    }

    /// Closes idle connections and shows gauges again, which a replaced client may have taken along.
    pub fn keep_house(&self) {
        for endpoint in self.list.load().iter() {
            endpoint.pool.evict();
            endpoint.show();
        }
    }

    fn chance(&self, now: Instant) -> Chance {
        let mut earliest: Option<Instant> = None;
        let list = self.list.load();
        for endpoint in list.iter() {
            match endpoint.offer(now) {
                Offer::Pass | Offer::Probe => return Chance::Now,
                Offer::Aside(Some(at)) => earliest = Some(earliest.map_or(at, |earliest| earliest.min(at))),
                Offer::Aside(None) => {}
            }
        }
        if list.is_empty() && self.has_names {
            let lookup = self.lookup.lock();
            earliest = (!lookup.is_running).then_some(lookup.due);
        }
        earliest.map_or(Chance::Later, Chance::At)
    }

    /// Starts a look-up of all names in the background if one is due.
    fn refresh(self: &Arc<Self>, now: Instant) {
        if !self.has_names {
            return;
        }
        {
            let mut lookup = self.lookup.lock();
            if lookup.is_running || now < lookup.due {
                return;
            }
            lookup.is_running = true;
        }
        let endpoints = self.clone();
        self.tasks.spawn(async move { endpoints.look_up().await });
    }

    async fn look_up(&self) {
        let mut found = Vec::with_capacity(self.targets.len());
        let mut error = None;
        for target in &self.targets {
            let addresses = match target.ip {
                Some(_) => None,
                None => match resolve(target).await {
                    Ok(addresses) => Some(addresses),
                    Err(reason) => {
                        // Once, and not for each repeat.
                        if self.lookup.lock().error.as_ref() != Some(&reason) {
                            tracing::warn!(upstream = &*self.meters.upstream, reason, "the look-up failed");
                        }
                        error = Some(reason);
                        None
                    }
                },
            };
            found.push(addresses);
        }
        self.replace(found);
        let mut lookup = self.lookup.lock();
        let pause =
            if error.is_some() { LOOKUP_RETRY.max(self.dns_refresh.min(LOOKUP_TIMEOUT)) } else { self.dns_refresh };
        let pause = if self.list.load().is_empty() { LOOKUP_RETRY } else { pause };
        *lookup = Lookup { due: Instant::now() + pause, is_running: false, error };
        drop(lookup);
        self.news.more_admit();
    }

    /// Puts a new list in place. A target without new addresses keeps its old ones; an address that stays keeps its state.
    fn replace(&self, found: Vec<Option<HashSet<SocketAddr>>>) {
        let old = self.list.load_full();
        let mut new: Vec<Arc<Endpoint>> = Vec::with_capacity(old.len());
        for (target, found) in self.targets.iter().zip(found) {
            let known: Vec<_> = old.iter().filter(|endpoint| Arc::ptr_eq(&endpoint.target, target)).collect();
            let addresses = match (found, target.ip) {
                (Some(found), _) => found,
                (None, Some(ip)) => HashSet::from([SocketAddr::new(ip, target.port)]),
                (None, None) => known.iter().map(|endpoint| endpoint.address).collect(),
            };
            for address in addresses {
                let kept = known.iter().find(|endpoint| endpoint.address == address);
                new.push(kept.map_or_else(|| self.endpoint(target, address), |kept| Arc::clone(kept)));
            }
        }
        for gone in old.iter().filter(|old| !new.iter().any(|new| new.label == old.label)) {
            tracing::debug!(upstream = &*self.meters.upstream, address = &*gone.label, "the address is gone");
            self.meters.remove_breaker(&gone.label);
        }
        self.list.store(Arc::new(new));
    }

    fn endpoint(&self, target: &Arc<Target>, address: SocketAddr) -> Arc<Endpoint> {
        tracing::debug!(upstream = &*self.meters.upstream, host = target.host, %address, "a new address");
        Endpoint::new(target.clone(), address, self.settings, self.meters.clone(), self.news.clone())
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        for endpoint in self.list.load().iter() {
            self.meters.remove_breaker(&endpoint.label);
        }
    }
}

async fn resolve(target: &Target) -> Result<HashSet<SocketAddr>, String> {
    let host = &target.host;
    let lookup = tokio::net::lookup_host((host.as_str(), target.port));
    let addresses: HashSet<SocketAddr> = match timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(format!("the look-up of {host} failed: {error}")),
        Err(_) => return Err(format!("the look-up of {host} took longer than {LOOKUP_TIMEOUT:?}")),
    };
    if addresses.is_empty() { Err(format!("the look-up of {host} found no address")) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use crate::upstream::breaker::Verdict;

    fn endpoints(metrics: &Arc<Metrics>) -> Arc<Endpoints> {
        let targets = ["http://app:3000/", "http://127.0.0.1:3001/"]
            .map(|url| Arc::new(Target::new(&url.parse().expect("a URL")).expect("a target")))
            .into();
        let settings = EndpointSettings {
            pool_idle_timeout: Duration::from_secs(4),
            breaker_failures: 1,
            breaker_open: Duration::from_secs(60),
        };
        let pace = Duration::from_secs(10);
        Endpoints::with(targets, settings, pace, Tasks::new(), Arc::new(Meters::new("app", metrics)))
    }

    fn found(addresses: &[&str]) -> Vec<Option<HashSet<SocketAddr>>> {
        vec![Some(addresses.iter().map(|address| address.parse().expect("an address")).collect()), None]
    }

    fn states(endpoints: &Endpoints) -> Vec<(String, &'static str)> {
        let address = |address: Address| (address.label.to_string(), address.breaker);
        let mut states: Vec<_> = endpoints.addresses().into_iter().map(address).collect();
        states.sort();
        states
    }

    #[tokio::test]
    async fn addresses_come_and_go_and_those_that_stay_keep_their_state() {
        let metrics = Arc::new(Metrics::new());
        let endpoints = endpoints(&metrics);
        assert_eq!(states(&endpoints), [("127.0.0.1:3001".into(), "closed")]);
        endpoints.replace(found(&["10.0.0.1:3000", "10.0.0.2:3000"]));
        let now = Instant::now();
        let fail = |address: &str| {
            let list = endpoints.list.load();
            let endpoint = list.iter().find(|endpoint| endpoint.address.to_string() == address).expect(address);
            endpoint.lease(now).expect("closed").report(Verdict::Failed, "a reason");
        };
        fail("10.0.0.1:3000");
        fail("10.0.0.2:3000");
        endpoints.replace(found(&["10.0.0.3:3000", "10.0.0.2:3000"]));
        let expected = [
            ("127.0.0.1:3001".into(), "closed"),
            ("app:3000 (10.0.0.2)".into(), "open"),
            ("app:3000 (10.0.0.3)".into(), "closed"),
        ];
        assert_eq!(states(&endpoints), expected);
        // A look-up that fails changes nothing.
        endpoints.replace(vec![None, None]);
        assert_eq!(states(&endpoints), expected);
        let text = metrics.encode();
        assert!(text.contains("10.0.0.2") && !text.contains("10.0.0.1"), "{text}");
    }

    #[tokio::test]
    async fn one_set_aside_is_not_taken_and_the_last_to_fail_only_if_alone() {
        let endpoints = endpoints(&Arc::new(Metrics::new()));
        endpoints.replace(found(&["10.0.0.1:3000", "10.0.0.2:3000"]));
        let now = Instant::now();
        let list = endpoints.list.load_full();
        for _ in 0..50 {
            let lease = endpoints.lease(now, Some(&list[0])).expect("two others");
            assert!(!Arc::ptr_eq(&lease.endpoint, &list[0]));
        }
        for endpoint in &list[1..] {
            endpoint.lease(now).expect("closed").report(Verdict::Failed, "a reason");
        }
        for _ in 0..50 {
            let lease = endpoints.lease(now, Some(&list[0])).expect("the one left");
            assert!(Arc::ptr_eq(&lease.endpoint, &list[0]));
        }
        assert!(!endpoints.has_other(&list[0], now) && endpoints.has_other(&list[1], now));
    }
}
