//! Who may no longer be connected: users, and claims with a value, each until a time. Pure: time is an argument. Must not know
//! connections, nor how a revocation came.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use serde_json::Value;

use crate::claims::ClaimPath;

/// Revocations that one node keeps.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Different claims that they may name: each is looked for in every handshake.
const CLAIMS_MAX: usize = 64;
/// How often what has run out is looked for while new ones come in.
const SWEEP: Duration = Duration::from_secs(60);

/// Whom a revocation is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    User(Arc<str>),
    /// Every token whose claim holds this value.
    Claim {
        path: ClaimPath,
        equals: String,
    },
}

/// There is no place for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected at most {REVOCATIONS_MAX} revocations over {CLAIMS_MAX} different claims at once")]
pub struct Full;

/// All revocations in force on this node.
#[derive(Default)]
pub struct Revocations {
    kept: RwLock<Kept>,
    /// How many there are, so that most handshakes ask for nothing.
    count: AtomicUsize,
}

#[derive(Default)]
struct Kept {
    users: HashMap<Arc<str>, SystemTime>,
    claims: HashMap<ClaimPath, HashMap<String, SystemTime>>,
    swept_at: Option<SystemTime>,
}

impl Subject {
    /// True if it is about a connection of this user with these claims.
    pub fn is_about(&self, user: Option<&str>, claims: Option<&Value>) -> bool {
        match self {
            Self::User(name) => user == Some(name),
            Self::Claim { path, equals } => claims.is_some_and(|claims| path.holds(claims, equals)),
        }
    }
}

impl Revocations {
    /// Keeps a revocation until a time; the later one counts where there is one already.
    pub fn add(&self, subject: Subject, until: SystemTime, now: SystemTime) -> Result<(), Full> {
        let mut kept = self.kept.write();
        kept.sweep(now);
        if kept.len() >= REVOCATIONS_MAX {
            kept.forget(now);
        }
        let has_place = match &subject {
            Subject::User(_) => true,
            Subject::Claim { path, .. } => kept.claims.contains_key(path) || kept.claims.len() < CLAIMS_MAX,
        };
        if !has_place || kept.len() >= REVOCATIONS_MAX {
            return Err(Full);
        }
        let end = match subject {
            Subject::User(name) => kept.users.entry(name).or_insert(until),
            Subject::Claim { path, equals } => kept.claims.entry(path).or_default().entry(equals).or_insert(until),
        };
        *end = until.max(*end);
        self.count.store(kept.len(), Ordering::Release);
        Ok(())
    }

    /// Takes a revocation back. False if there was none.
    pub fn remove(&self, subject: &Subject) -> bool {
        let mut kept = self.kept.write();
        let removed = match subject {
            Subject::User(name) => kept.users.remove(name),
            Subject::Claim { path, equals } => kept.claims.get_mut(path).and_then(|values| values.remove(equals)),
        };
        kept.claims.retain(|_, values| !values.is_empty());
        self.count.store(kept.len(), Ordering::Release);
        removed.is_some()
    }

    /// True if this user, or a holder of these claims, may not be connected at `now`.
    pub fn forbid(&self, user: Option<&str>, claims: Option<&Value>, now: SystemTime) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let kept = self.kept.read();
        let in_force = |until: &SystemTime| *until > now;
        if user.and_then(|user| kept.users.get(user)).is_some_and(in_force) {
            return true;
        }
        let Some(claims) = claims else { return false };
        kept.claims.iter().any(|(path, values)| {
            let values = values.iter().filter(|(_, until)| in_force(until));
            values.map(|(equals, _)| equals).any(|equals| path.holds(claims, equals))
        })
    }

    /// Those in force, at most `most`, and how many there are.
    pub fn list(&self, now: SystemTime, most: usize) -> (Vec<(Subject, SystemTime)>, usize) {
        let mut kept = self.kept.write();
        kept.forget(now);
        self.count.store(kept.len(), Ordering::Release);
        let users = kept.users.iter().map(|(name, until)| (Subject::User(name.clone()), *until));
        let claims = kept.claims.iter().flat_map(|(path, values)| {
            let subject = |equals: &String| Subject::Claim { path: path.clone(), equals: equals.clone() };
            values.iter().map(move |(equals, until)| (subject(equals), *until))
        });
        (users.chain(claims).take(most).collect(), kept.len())
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Kept {
    fn len(&self) -> usize {
        self.users.len() + self.claims.values().map(HashMap::len).sum::<usize>()
    }

    fn sweep(&mut self, now: SystemTime) {
        let is_due = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since >= SWEEP);
        if self.swept_at.is_none_or(is_due) {
            self.swept_at = Some(now);
            self.forget(now);
        }
    }

    fn forget(&mut self, now: SystemTime) {
        self.users.retain(|_, until| *until > now);
        self.claims.values_mut().for_each(|values| values.retain(|_, until| *until > now));
        self.claims.retain(|_, values| !values.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn claim(path: &str, equals: &str) -> Subject {
        Subject::Claim { path: ClaimPath::new(path), equals: equals.to_owned() }
    }

    #[test]
    fn a_revocation_holds_until_its_time() {
        let revocations = Revocations::default();
        let claims = json!({"jti": "t1", "tenant": "x", "roles": ["a"]});
        assert!(!revocations.forbid(Some("ann"), Some(&claims), at(0)));
        revocations.add(Subject::User("ann".into()), at(10), at(0)).expect("a place");
        revocations.add(claim("jti", "t2"), at(10), at(0)).expect("a place");
        assert!(revocations.forbid(Some("ann"), None, at(9)) && !revocations.forbid(Some("ann"), None, at(10)));
        assert!(!revocations.forbid(Some("bob"), Some(&claims), at(1)), "another user and another token");
        revocations.add(claim("/roles", "a"), at(10), at(0)).expect("a place");
        assert!(revocations.forbid(Some("bob"), Some(&claims), at(1)), "a list that has the value");
        assert_eq!(revocations.list(at(1), 2).0.len(), 2);
        assert_eq!((revocations.list(at(1), 2).1, revocations.list(at(11), 2).1), (3, 0));
        assert!(revocations.is_empty());
    }

    #[test]
    fn the_later_end_counts_and_one_may_be_taken_back() {
        let revocations = Revocations::default();
        let ann = Subject::User("ann".into());
        revocations.add(ann.clone(), at(10), at(0)).expect("a place");
        revocations.add(ann.clone(), at(5), at(0)).expect("a place");
        assert!(revocations.forbid(Some("ann"), None, at(7)));
        assert!(revocations.remove(&ann) && !revocations.remove(&ann));
        assert!(!revocations.forbid(Some("ann"), None, at(7)));
    }

    #[test]
    fn their_number_is_bounded_and_what_ran_out_makes_place() {
        let revocations = Revocations::default();
        for n in 0..REVOCATIONS_MAX {
            revocations.add(Subject::User(format!("u{n}").into()), at(10), at(0)).expect("a place");
        }
        assert_eq!(revocations.add(Subject::User("more".into()), at(10), at(1)), Err(Full));
        assert_eq!(revocations.add(Subject::User("more".into()), at(20), at(11)), Ok(()));
        assert_eq!(revocations.len(), 1);
        for n in 0..CLAIMS_MAX {
            revocations.add(claim(&format!("c{n}"), "x"), at(20), at(11)).expect("a place");
        }
        assert_eq!(revocations.add(claim("c64", "x"), at(20), at(11)), Err(Full));
    }
}
