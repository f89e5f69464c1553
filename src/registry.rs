//! Who is connected to this node: connections by ID, by user and by group. No guard outlives a call.
//! Knows connections; must not know sessions, HTTP or what is sent.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::connection::{Connection, Joined};
use crate::ids::ConnectionId;

/// Locks that the maps are spread over.
const SHARDS: usize = 64;

/// By their addresses in memory: who writes to all of them in this order finds what is next near what was last, in the kernel too, which
/// saves a tenth of it.
type Members = BTreeMap<usize, Arc<Connection>>;
type Named = HashMap<Arc<str>, Members>;

/// All connections of one node.
pub struct Registry {
    connections: Vec<RwLock<HashMap<ConnectionId, Arc<Connection>>>>,
    users: Vec<RwLock<Named>>,
    groups: Vec<RwLock<Named>>,
    hasher: RandomState,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    pub fn new() -> Self {
        Self { connections: shards(), users: shards(), groups: shards(), hasher: RandomState::new() }
    }

    /// Makes a connection known by its ID and user.
    pub fn insert(&self, connection: Arc<Connection>) {
        if let Some(user) = &connection.user {
            add(&mut self.users[self.shard(user)].write(), user, &connection);
        }
        self.connections[connection.id.spread() % SHARDS].write().insert(connection.id, connection);
    }

    /// Forgets a connection, its groups too. False if it was not known.
    pub fn remove(&self, id: &ConnectionId) -> bool {
        let Some(connection) = self.connections[id.spread() % SHARDS].write().remove(id) else { return false };
        if let Some(user) = &connection.user {
            take(&mut self.users[self.shard(user)].write(), user, &connection);
        }
        connection.leave_all(|group| take(&mut self.groups[self.shard(group)].write(), group, &connection));
        true
    }

    pub fn get(&self, id: &ConnectionId) -> Option<Arc<Connection>> {
        self.connections[id.spread() % SHARDS].read().get(id).cloned()
    }

    pub fn join(&self, id: &ConnectionId, group: &Arc<str>) -> Joined {
        let Some(connection) = self.get(id) else { return Joined::Gone };
        connection.join(group, || add(&mut self.groups[self.shard(group)].write(), group, &connection))
    }

    /// False if the connection is not known. Leaving a group that it is not in is no failure.
    pub fn leave(&self, id: &ConnectionId, group: &str) -> bool {
        let Some(connection) = self.get(id) else { return false };
        connection.leave(group, || take(&mut self.groups[self.shard(group)].write(), group, &connection));
        true
    }

    /// The members of a group, as they are now, in the order of their addresses in memory.
    pub fn group(&self, group: &str) -> Vec<Arc<Connection>> {
        members(&self.groups[self.shard(group)].read(), group)
    }

    /// The connections of a user, as they are now, in that order too.
    pub fn user(&self, user: &str) -> Vec<Arc<Connection>> {
        members(&self.users[self.shard(user)].read(), user)
    }

    /// Every connection, a shard at a time: no lock is held while `each` runs.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<Connection>)) {
        for shard in &self.connections {
            let some: Vec<_> = shard.read().values().cloned().collect();
            some.iter().for_each(&mut each);
        }
    }

    /// Every connection, as they are now, in the order of their addresses in memory.
    pub fn all(&self) -> Vec<Arc<Connection>> {
        let mut all = Vec::with_capacity(self.len());
        self.for_each(|connection| all.push(connection.clone()));
        all.sort_unstable_by_key(address);
        all
    }

    pub fn len(&self) -> usize {
        self.connections.iter().map(|shard| shard.read().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait in all mailboxes.
    pub fn mailbox_bytes(&self) -> usize {
        let mut sum = 0;
        self.for_each(|connection| sum += connection.mailbox.used_bytes());
        sum
    }

    fn shard(&self, name: &str) -> usize {
        self.hasher.hash_one(name) as usize % SHARDS
    }
}

fn shards<T: Default>() -> Vec<RwLock<T>> {
    std::iter::repeat_with(RwLock::default).take(SHARDS).collect()
}

fn add(named: &mut Named, name: &Arc<str>, connection: &Arc<Connection>) {
    named.entry(name.clone()).or_default().insert(address(connection), connection.clone());
}

fn take(named: &mut Named, name: &str, connection: &Arc<Connection>) {
    if let Some(members) = named.get_mut(name) {
        members.remove(&address(connection));
        if members.is_empty() {
            named.remove(name);
        }
    }
}

fn members(named: &Named, name: &str) -> Vec<Arc<Connection>> {
    named.get(name).map(|members| members.values().cloned().collect()).unwrap_or_default()
}

/// It is nobody else's while a map holds the connection.
fn address(connection: &Arc<Connection>) -> usize {
    Arc::as_ptr(connection) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Opening;
    use crate::ids::NodeId;

    fn open(registry: &Registry, user: Option<&str>) -> Arc<Connection> {
        let connection = Connection::new(Opening {
            id: ConnectionId::random(NodeId::random()),
            endpoint: "/ws".into(),
            user: user.map(Into::into),
            context: None,
            grant: None,
            remote_addr: ([127, 0, 0, 1], 1).into(),
            subprotocol: None,
            send_buffer: 1000,
            groups_max: 2,
        });
        registry.insert(connection.clone());
        connection
    }

    #[test]
    fn a_connection_is_found_by_id_user_and_group_until_removed() {
        let registry = Registry::new();
        let one = open(&registry, Some("ann"));
        let two = open(&registry, Some("ann"));
        assert_eq!(registry.join(&one.id, &"g".into()), Joined::New);
        assert_eq!(registry.join(&one.id, &"g".into()), Joined::Already);
        assert_eq!(registry.len(), 2);
        assert_eq!(registry.user("ann").len(), 2);
        assert_eq!(registry.group("g").len(), 1);
        assert!(registry.remove(&one.id));
        assert!(!registry.remove(&one.id));
        assert!(registry.get(&one.id).is_none());
        assert_eq!(registry.user("ann").len(), 1);
        assert!(registry.group("g").is_empty());
        assert!(registry.remove(&two.id));
        assert!(registry.users.iter().all(|shard| shard.read().is_empty()), "no empty name stays");
    }

    #[test]
    fn groups_of_one_connection_are_bounded() {
        let registry = Registry::new();
        let one = open(&registry, None);
        assert_eq!(registry.join(&one.id, &"a".into()), Joined::New);
        assert_eq!(registry.join(&one.id, &"b".into()), Joined::New);
        assert_eq!(registry.join(&one.id, &"c".into()), Joined::TooMany);
        assert!(registry.leave(&one.id, "a"));
        assert_eq!(registry.join(&one.id, &"c".into()), Joined::New);
    }

    #[test]
    fn a_join_after_the_end_leaves_no_ghost() {
        let registry = Registry::new();
        let one = open(&registry, None);
        registry.remove(&one.id);
        let group = Arc::from("g");
        assert_eq!(one.join(&group, || panic!("joined after the end")), Joined::Gone);
        assert_eq!(registry.join(&one.id, &group), Joined::Gone);
    }
}
