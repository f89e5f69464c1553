//! What others may see or change of a connection while it lives: its facts, context, groups and mailbox.
//! Knows messages; must not know the session that serves it, nor the registry that finds it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::claims::Grant;
use crate::ids::ConnectionId;
use crate::mailbox::Mailbox;

/// One open connection. In this order, so that what a send to many looks at lies together, beside the counts of the `Arc`.
#[repr(C)]
pub struct Connection {
    /// The endpoint's path.
    pub endpoint: Arc<str>,
    pub mailbox: Mailbox,
    /// Messages read from the client.
    pub received: AtomicU64,
    bearer: Mutex<Bearer>,
    membership: Mutex<Membership>,
    pub id: ConnectionId,
    pub user: Option<Arc<str>>,
    pub remote_addr: SocketAddr,
    pub subprotocol: Option<Arc<str>>,
    pub opened_at: SystemTime,
}

/// What may change of who a connection is.
struct Bearer {
    context: Option<Arc<str>>,
    grant: Option<Arc<Grant>>,
}

/// The groups of a connection; none once it has left the registry, so that a late join cannot leave a ghost behind.
struct Membership {
    groups: Vec<Arc<str>>,
    groups_max: usize,
    gone: bool,
}

/// What became of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    New,
    Already,
    /// The connection is in as many groups as its endpoint allows.
    TooMany,
    Gone,
}

/// What is needed to make a connection's shared part.
pub struct Opening {
    pub id: ConnectionId,
    pub endpoint: Arc<str>,
    pub user: Option<Arc<str>>,
    pub context: Option<Arc<str>>,
    /// What its token gave it.
    pub grant: Option<Arc<Grant>>,
    pub remote_addr: SocketAddr,
    pub subprotocol: Option<Arc<str>>,
    /// Bytes that may wait for the client to read.
    pub send_buffer: usize,
    pub groups_max: usize,
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 one, since a customer has at least one of those whole.
pub fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() & !u128::from(u64::MAX),
    }
}

impl Connection {
    pub fn new(opening: Opening) -> Arc<Self> {
        Arc::new(Self {
            id: opening.id,
            endpoint: opening.endpoint,
            user: opening.user,
            remote_addr: opening.remote_addr,
            subprotocol: opening.subprotocol,
            opened_at: SystemTime::now(),
            mailbox: Mailbox::new(opening.send_buffer),
            received: AtomicU64::new(0),
            bearer: Mutex::new(Bearer { context: opening.context, grant: opening.grant }),
            membership: Mutex::new(Membership { groups: Vec::new(), groups_max: opening.groups_max, gone: false }),
        })
    }

    pub fn context(&self) -> Option<Arc<str>> {
        self.bearer.lock().context.clone()
    }

    /// What its newest token gave it.
    pub fn grant(&self) -> Option<Arc<Grant>> {
        self.bearer.lock().grant.clone()
    }

    /// Context and grant at once, as each message needs them.
    pub fn bearer(&self) -> (Option<Arc<str>>, Option<Arc<Grant>>) {
        let bearer = self.bearer.lock();
        (bearer.context.clone(), bearer.grant.clone())
    }

    /// Replaces the grant by that of a newer token.
    pub fn set_grant(&self, grant: Arc<Grant>) {
        self.bearer.lock().grant = Some(grant);
    }

    /// Replaces the context; an empty one clears it.
    pub fn set_context(&self, value: Arc<str>) {
        self.bearer.lock().context = (!value.is_empty()).then_some(value);
    }

    /// Changes how many groups it may be in, after a reload. It stays in those that it is in.
    pub fn set_groups_max(&self, groups_max: usize) {
        self.membership.lock().groups_max = groups_max;
    }

    pub fn groups(&self) -> Vec<Arc<str>> {
        self.membership.lock().groups.clone()
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.membership.lock().groups.iter().any(|own| &**own == group)
    }

    /// Notes the membership and runs `enter` under the same lock, so that leaving for good cannot come in between.
    pub fn join(&self, group: &Arc<str>, enter: impl FnOnce()) -> Joined {
        let mut membership = self.membership.lock();
        if membership.gone {
            return Joined::Gone;
        }
        if membership.groups.contains(group) {
            return Joined::Already;
        }
        if membership.groups.len() >= membership.groups_max {
            return Joined::TooMany;
        }
        membership.groups.push(group.clone());
        enter();
        Joined::New
    }

    /// Forgets the membership and runs `exit` under the same lock. False if it was in no such group.
    pub fn leave(&self, group: &str, exit: impl FnOnce()) -> bool {
        let mut membership = self.membership.lock();
        let Some(at) = membership.groups.iter().position(|g| &**g == group) else { return false };
        membership.groups.swap_remove(at);
        exit();
        true
    }

    /// Forgets every membership for good and runs `exit` for each under the same lock.
    pub fn leave_all(&self, mut exit: impl FnMut(&Arc<str>)) {
        let mut membership = self.membership.lock();
        membership.gone = true;
        std::mem::take(&mut membership.groups).iter().for_each(&mut exit);
    }

    pub fn count_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_ipv4_or_a_network_of_ipv6() {
        let of = |ip: &str| network(ip.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("::1"), of("0.0.0.1"));
    }
}
