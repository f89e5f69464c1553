//! What connections of one user or of one address use together: an account each, found by name when a connection comes, held by a
//! share while it lives. An account goes when its connections are gone and its buckets are empty. Must not know sockets.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{Bucket, Excess, Levels, Limit, Meters, NodeLimits, Quotas, Rate, Rates};

/// Accounts kept that have no connection, because their buckets are not empty yet; those that would be empty first give way.
const IDLE_MAX: usize = 100_000;
/// Accounts looked at in one sweep, so that it holds nobody up.
const SWEEP_MAX: usize = 10_000;

/// All accounts of a node, and its own rate of handshakes.
#[derive(Default)]
pub struct Accounts {
    book: Mutex<Book>,
    handshakes: Mutex<Bucket>,
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The endpoint's path.
    pub endpoint: &'a Arc<str>,
    /// The network that counts as one address.
    pub network: u128,
    pub user: Option<&'a Arc<str>>,
}

/// Whether a connection is asked for or is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entering {
    /// It may come in only if there is room.
    New,
    /// It is open, and counts from now on by limits that are newer than it.
    Open,
}

/// One connection's part in an account; dropping it gives the part back.
pub struct Share {
    accounts: Arc<Accounts>,
    account: Arc<Account>,
}

/// Who shares an account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    /// An address over all endpoints.
    Node(u128),
    Address(Arc<str>, u128),
    User(Arc<str>, Arc<str>),
}

struct Account {
    key: Key,
    state: Mutex<State>,
}

/// What came in. The account of an address over all endpoints counts handshakes in the bucket of messages.
#[derive(Default)]
pub(super) struct State {
    pub levels: Levels,
    /// When the buckets will be empty, by the rates of the last time.
    empty_ms: u64,
}

#[derive(Default)]
struct Book {
    slots: HashMap<Key, Slot>,
    /// Accounts to look at, at the time when their buckets may be empty: each that has no connection, and perhaps some that have.
    idle: BTreeSet<(u64, Key)>,
}

struct Slot {
    account: Arc<Account>,
    connections: u32,
    /// Stands in `idle`.
    is_idle: bool,
}

impl Accounts {
    /// A handshake from this network: refused if it is one too many for the address, or for the node.
    pub fn knock(&self, now_ms: u64, network: u128, limits: &NodeLimits) -> Result<(), Excess> {
        let excess = |limit| move |retry_after_ms| Excess { limit, retry_after_ms };
        let Some(rate) = limits.handshakes_per_address else {
            let Some(rate) = limits.handshakes else { return Ok(()) };
            return self.handshakes.lock().take(now_ms, 1, rate).map_err(excess(Limit::Handshakes));
        };
        let mut book = self.book.lock();
        let account = book.slot(&Key::Node(network)).account.clone();
        let mut state = account.state.lock();
        let rates = Rates { messages: Some(rate), bytes: None };
        // What its address's limit refuses takes nothing from the others.
        let taken = match state.levels.wait_ms(now_ms, 0, &rates) {
            [0, _] => self.take_handshake(now_ms, limits.handshakes).map_err(excess(Limit::Handshakes)),
            [wait_ms, _] => Err(Excess { limit: Limit::AddressHandshakes, retry_after_ms: wait_ms }),
        };
        if taken.is_ok() {
            state.add(now_ms, 0, &rates);
        }
        drop(state);
        book.settle(&account);
        taken
    }

    /// What a connection's messages are held against, with its shares in its user's and its address's accounts; none where nothing
    /// is limited. `held` is what it has: of that everything stays that is still right. The limit that is reached, if one is.
    pub fn meter(
        self: &Arc<Self>,
        held: Option<Box<Meters>>,
        who: &Who<'_>,
        (quotas, node): (&Arc<Quotas>, &NodeLimits),
        entering: Entering,
    ) -> Result<Option<Box<Meters>>, Limit> {
        if quotas.is_empty() && node.connections_per_address.is_none() {
            return Ok(None);
        }
        let mut meters = held.unwrap_or_default();
        meters.quotas = quotas.clone();
        let user = who.user.filter(|_| !quotas.user.is_empty());
        let user = user.map(|user| (Key::User(who.endpoint.clone(), user.clone()), quotas.user.connections));
        let address = (!quotas.address.is_empty())
            .then(|| (Key::Address(who.endpoint.clone(), who.network), quotas.address.connections));
        let node_address = node.connections_per_address.map(|most| (Key::Node(who.network), Some(most)));
        for (share, wanted, limit) in [
            (&mut meters.node_address, node_address, Limit::NodeAddressConnections),
            (&mut meters.address, address, Limit::AddressConnections),
            (&mut meters.user, user, Limit::UserConnections),
        ] {
            if share.as_ref().map(|share| &share.account.key) == wanted.as_ref().map(|(key, _)| key) {
                continue;
            }
            *share = match wanted {
                Some((key, most)) => Some(self.enter(&key, most, entering).ok_or(limit)?),
                None => None,
            };
        }
        Ok(Some(meters))
    }

    /// Forgets accounts that nobody uses and whose buckets are empty.
    pub fn sweep(&self, now_ms: u64) {
        let mut book = self.book.lock();
        for _ in 0..SWEEP_MAX {
            if book.idle.first().is_none_or(|(due_ms, _)| *due_ms > now_ms) {
                return;
            }
            book.retire_first(now_ms);
        }
    }

    /// How many accounts there are.
    pub fn len(&self) -> usize {
        self.book.lock().slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_handshake(&self, now_ms: u64, rate: Option<Rate>) -> Result<(), u64> {
        rate.map_or(Ok(()), |rate| self.handshakes.lock().take(now_ms, 1, rate))
    }

    fn enter(self: &Arc<Self>, key: &Key, most: Option<u32>, entering: Entering) -> Option<Share> {
        let mut book = self.book.lock();
        let slot = book.slot(key);
        let account = slot.account.clone();
        if entering == Entering::New && most.is_some_and(|most| slot.connections >= most) {
            book.settle(&account);
            return None;
        }
        slot.connections += 1;
        Some(Share { accounts: self.clone(), account })
    }
}

impl Share {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.account.state.lock()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut book = self.accounts.book.lock();
        if let Some(slot) = book.slots.get_mut(&self.account.key) {
            slot.connections -= 1;
        }
        book.settle(&self.account);
    }
}

impl State {
    pub fn add(&mut self, now_ms: u64, bytes: usize, rates: &Rates) {
        self.levels.add(now_ms, bytes, rates);
        self.empty_ms = self.levels.empty_ms(rates);
    }
}

impl Book {
    fn slot(&mut self, key: &Key) -> &mut Slot {
        self.slots.entry(key.clone()).or_insert_with(|| {
            let account = Account { key: key.clone(), state: Mutex::default() };
            Slot { account: Arc::new(account), connections: 0, is_idle: false }
        })
    }

    /// After a change: an account without connections is forgotten at once if its buckets were never used, else looked at later.
    fn settle(&mut self, account: &Arc<Account>) {
        let Some(slot) = self.slots.get_mut(&account.key) else { return };
        if slot.connections > 0 || slot.is_idle {
            return;
        }
        match account.state.lock().empty_ms {
            0 => drop(self.slots.remove(&account.key)),
            empty_ms => {
                slot.is_idle = true;
                self.idle.insert((empty_ms, account.key.clone()));
            }
        }
        while self.idle.len() > IDLE_MAX {
            self.retire_first(u64::MAX);
        }
    }

    /// Looks at the first idle account: forgotten if nobody uses it and its buckets are empty, else looked at again later.
    fn retire_first(&mut self, now_ms: u64) {
        let Some((_, key)) = self.idle.pop_first() else { return };
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.is_idle = false;
        let empty_ms = slot.account.state.lock().empty_ms;
        match slot.connections {
            0 if empty_ms <= now_ms => drop(self.slots.remove(&key)),
            0 => {
                slot.is_idle = true;
                self.idle.insert((empty_ms, key));
            }
            // Looked at again when the last one leaves.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
