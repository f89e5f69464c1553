//! Messages held back for slow clients, in order by connection. Bounded, by connection and in all, so that those who do not read
//! leave room for those who do. Pure; must not know what a message is.

use std::collections::{HashMap, VecDeque};

use crate::ids::ConnectionId;

/// The share of a prefetch that one connection may hold back, and that all may.
const SHARE_OF_ONE: usize = 16;
const SHARE_OF_ALL: usize = 2;

pub struct HeldBack<T> {
    queues: HashMap<ConnectionId, VecDeque<T>>,
    len: usize,
    one_max: usize,
    all_max: usize,
}

impl<T> HeldBack<T> {
    pub fn new(prefetch: usize) -> Self {
        let share = |of: usize| (prefetch / of).max(1);
        Self { queues: HashMap::new(), len: 0, one_max: share(SHARE_OF_ONE), all_max: share(SHARE_OF_ALL) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True if something waits for this connection.
    pub fn has(&self, id: &ConnectionId) -> bool {
        self.queues.contains_key(id)
    }

    /// Holds an item back behind the others of its connection. Given back where there is no room.
    pub fn push(&mut self, id: ConnectionId, item: T) -> Result<(), T> {
        let waiting = self.queues.get(&id).map_or(0, VecDeque::len);
        if waiting >= self.one_max || self.len >= self.all_max {
            return Err(item);
        }
        self.queues.entry(id).or_default().push_back(item);
        self.len += 1;
        Ok(())
    }

    /// Takes everything out, to be tried again.
    pub fn take_all(&mut self) -> HashMap<ConnectionId, VecDeque<T>> {
        self.len = 0;
        std::mem::take(&mut self.queues)
    }

    /// Puts back what still waits.
    pub fn put_back(&mut self, id: ConnectionId, queue: VecDeque<T>) {
        self.len += queue.len();
        if !queue.is_empty() {
            self.queues.insert(id, queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn each_connection_and_all_together_have_their_share() {
        let node = NodeId::random();
        let ids: Vec<ConnectionId> = (0..20).map(|_| ConnectionId::random(node)).collect();
        let mut held = HeldBack::new(64);
        for n in 0..4 {
            assert_eq!(held.push(ids[0], n), Ok(()));
        }
        assert_eq!(held.push(ids[0], 4), Err(4), "one may hold a sixteenth");
        let taken = ids[1..].iter().flat_map(|id| (0..4).map(move |n| (*id, n)));
        assert_eq!(taken.filter(|(id, n)| held.push(*id, *n).is_ok()).count(), 28, "all may hold a half");
        assert!(held.has(&ids[0]) && held.len() == 32);
        for (id, mut queue) in held.take_all() {
            if id == ids[0] {
                assert_eq!(queue, [0, 1, 2, 3], "in order");
                queue.pop_front();
                held.put_back(id, queue);
            }
        }
        assert!(held.len() == 3 && !held.has(&ids[1]) && !held.is_empty());
    }
}
