//! Rights of open connections: new tokens taken over, revocations carried out. Must not know how either came.

use std::sync::Arc;
use std::time::SystemTime;

use super::Deliver;
use crate::claims::Grant;
use crate::codes::{Cause, CloseCode};
use crate::connection::Connection;
use crate::mailbox::Close;
use crate::message::{Command, Ending};
use crate::revocations::{Full, Revocations, Subject};
use crate::tokens::Refused;

impl Deliver {
    /// Gives a connection the rights of a newer token of the same user: claims, groups, an end.
    pub fn renew(&self, connection: &Arc<Connection>, grant: Grant) -> Result<Arc<Grant>, Refused> {
        let old = connection.grant();
        if old.as_ref().and_then(|old| old.user.clone()) != grant.user {
            return Err(Refused::User);
        }
        if self.is_revoked(connection.user.as_deref(), Some(&grant)) {
            return Err(Refused::Revoked);
        }
        let grant = Arc::new(grant);
        connection.set_grant(grant.clone());
        let leave = |group: &Arc<str>| {
            self.run(&Command::Leave { connection: None, group: group.clone() }, Some(&connection.id));
        };
        let before = old.as_ref().map(|old| old.groups.as_slice()).unwrap_or_default();
        before.iter().filter(|group| !grant.groups.contains(group)).for_each(leave);
        // What other ways led into must be allowed by the new claims too.
        let may_stay = |group: &&Arc<str>| self.pipeline.may_join(&connection.endpoint, Some(&grant), group);
        connection.groups().iter().filter(|group| !may_stay(group)).for_each(leave);
        for group in &grant.groups {
            self.run(&Command::Join { connection: None, group: group.clone() }, Some(&connection.id));
        }
        Ok(grant)
    }

    /// Closes every connection that the subject is about, and refuses its handshakes until a time. How many were closed.
    pub fn revoke(&self, subject: Subject, until: SystemTime, reason: &str) -> Result<usize, Full> {
        // Kept first: a handshake under way finds either this, or its own connection closed.
        self.revocations.add(subject.clone(), until, SystemTime::now())?;
        let ending = ending(reason);
        let mut closed = 0;
        self.registry.for_each(|connection| {
            let grant = connection.grant();
            let is_about = subject.is_about(connection.user.as_deref(), grant.as_ref().map(|grant| &grant.claims));
            if is_about && connection.mailbox.close(Close::AfterQueued(ending.clone())) {
                closed += 1;
            }
        });
        Ok(closed)
    }

    /// True if this user, or the bearer of this grant, may not be connected now.
    pub fn is_revoked(&self, user: Option<&str>, grant: Option<&Grant>) -> bool {
        self.revocations.forbid(user, grant.map(|grant| &grant.claims), SystemTime::now())
    }

    /// Closes a connection whose rights were revoked while it opened.
    pub fn close_if_revoked(&self, connection: &Connection) {
        if self.is_revoked(connection.user.as_deref(), connection.grant().as_deref()) {
            connection.mailbox.close(Close::AfterQueued(ending("")));
        }
    }

    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }
}

fn ending(reason: &str) -> Ending {
    let reason = if reason.is_empty() { "revoked" } else { reason };
    Ending::new(CloseCode::REVOKED, reason, Cause::Server)
}
