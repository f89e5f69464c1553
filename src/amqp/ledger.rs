//! Decides what became of publishes when the library reports confirms and returned messages, which it pairs wrongly at times. Pure:
//! must not know channels or messages.
//!
//! A broker returns an unroutable message before it confirms it. The library hands each returned message to whichever confirm
//! completes next, which may be another's: confirms come in batches, and out of order. Two things are sure. The returned message is
//! known by its ID, so its owner is found. And as long as each owner that was found has its own confirm too, no returned message is
//! still to come for any confirm seen so far: whoever was confirmed while its own return still waited took an earlier return along,
//! whose owner was not confirmed yet. So confirms are held back only while some owner is known without its confirm.

use std::collections::HashMap;

use super::Published;

/// What is known of publishes that are not decided yet.
#[derive(Default)]
pub struct Ledger {
    /// Confirmed (true) or refused (false), in the order of arrival.
    completed: Vec<(u64, bool)>,
    /// Owners of returned messages, and why they came back.
    returned: HashMap<u64, String>,
}

impl Ledger {
    /// The broker confirmed or refused the publish `key`.
    pub fn completed(&mut self, key: u64, acked: bool) {
        self.completed.push((key, acked));
    }

    /// The message of the publish `key` came back.
    pub fn returned(&mut self, key: u64, reason: String) {
        self.returned.insert(key, reason);
    }

    /// Everything that is decided now. Call when all that the library knows has been entered.
    pub fn decide(&mut self, mut each: impl FnMut(u64, Published)) {
        let has_confirm = |owner: &u64| self.completed.iter().any(|(key, _)| key == owner);
        if !self.returned.keys().all(has_confirm) {
            return;
        }
        for (key, acked) in self.completed.drain(..) {
            each(
                key,
                match (self.returned.remove(&key), acked) {
                    (Some(reason), _) => Published::Returned { reason },
                    (None, true) => Published::Confirmed,
                    (None, false) => Published::Nacked,
                },
            );
        }
    }

    /// Forgets everything: the channel is gone.
    pub fn clear(&mut self) {
        self.completed.clear();
        self.returned.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn decided(ledger: &mut Ledger) -> Vec<(u64, Published)> {
        let mut decided = Vec::new();
        ledger.decide(|key, published| decided.push((key, published)));
        decided
    }

    #[test]
    fn a_return_that_came_with_another_s_confirm_reaches_its_owner() {
        let mut ledger = Ledger::default();
        ledger.completed(1, true);
        ledger.returned(2, "NO_ROUTE".into());
        assert_eq!(decided(&mut ledger), [], "nobody may be told before 2 is confirmed");
        ledger.completed(2, true);
        let returned = Published::Returned { reason: "NO_ROUTE".into() };
        assert_eq!(decided(&mut ledger), [(1, Published::Confirmed), (2, returned)]);
    }

    #[test]
    fn what_was_refused_is_said_so() {
        let mut ledger = Ledger::default();
        ledger.completed(7, false);
        assert_eq!(decided(&mut ledger), [(7, Published::Nacked)]);
    }

    proptest! {
        /// The library as it is: returns wait in a queue, each completion takes the first. Whatever the order of confirms and
        /// wherever we look, each publish is decided once, and rightly.
        #[test]
        fn every_publish_is_decided_rightly(
            unroutable in prop::collection::vec(any::<bool>(), 1..24),
            // For each step: which open publish goes on, and whether we look afterwards.
            steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 64),
        ) {
            let mut ledger = Ledger::default();
            let mut waiting: VecDeque<u64> = VecDeque::new();
            // Returns still to be sent by the broker, then confirms.
            let mut to_return: Vec<u64> = (0..unroutable.len() as u64).filter(|key| unroutable[*key as usize]).collect();
            let mut to_confirm: Vec<u64> = (0..unroutable.len() as u64).collect();
            let mut seen: HashMap<u64, Published> = HashMap::new();
            for (at, look) in steps {
                // A confirm may come only after the return of its own message.
                let ready: Vec<u64> = to_confirm.iter().copied().filter(|key| !to_return.contains(key)).collect();
                let choices = to_return.len() + ready.len();
                if choices == 0 { break }
                let choice = at.index(choices);
                if choice < to_return.len() {
                    waiting.push_back(to_return.remove(choice));
                } else {
                    let key = ready[choice - to_return.len()];
                    to_confirm.retain(|k| *k != key);
                    ledger.completed(key, true);
                    if let Some(owner) = waiting.pop_front() {
                        ledger.returned(owner, String::new());
                    }
                }
                if look {
                    ledger.decide(|key, published| { assert!(seen.insert(key, published).is_none()); });
                }
            }
            for key in std::mem::take(&mut to_return) { waiting.push_back(key) }
            for key in std::mem::take(&mut to_confirm) {
                ledger.completed(key, true);
                if let Some(owner) = waiting.pop_front() { ledger.returned(owner, String::new()) }
            }
            ledger.decide(|key, published| { assert!(seen.insert(key, published).is_none()); });
            prop_assert_eq!(seen.len(), unroutable.len());
            for (key, published) in seen {
                prop_assert_eq!(matches!(published, Published::Returned { .. }), unroutable[key as usize]);
            }
        }
    }
}
