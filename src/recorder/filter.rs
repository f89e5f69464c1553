//! What a watcher wants to be told. Must not know how it is told.

use super::About;
use crate::connection::Connection;
use crate::ids::ConnectionId;
use crate::routing::Pattern;

/// Everything that is given must fit; what is not given fits always.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub connection: Option<ConnectionId>,
    /// The endpoint's path.
    pub endpoint: Option<String>,
    pub user: Option<String>,
    pub group: Option<String>,
    /// Takes messages of clients only: nothing else has an event name.
    pub event: Option<Pattern>,
    /// Takes messages only.
    pub outcome: Option<String>,
}

impl Filter {
    /// True if something of this kind, of this connection, may be wanted.
    pub fn takes(&self, connection: &Connection, about: About) -> bool {
        let fits_kind = match about {
            About::In => true,
            About::Out => self.event.is_none(),
            About::Connection => self.event.is_none() && self.outcome.is_none(),
        };
        fits_kind
            && self.connection.as_ref().is_none_or(|id| *id == connection.id)
            && self.endpoint.as_deref().is_none_or(|path| path == &*connection.endpoint)
            && self.user.as_deref().is_none_or(|user| connection.user.as_deref() == Some(user))
            && self.group.as_deref().is_none_or(|group| connection.is_in(group))
    }

    /// True if what a message came to is wanted too.
    pub fn takes_message(&self, event: Option<&str>, outcome: &str) -> bool {
        let fits = |pattern: &Pattern| event.is_some_and(|event| pattern.matches(event));
        self.event.as_ref().is_none_or(fits) && self.outcome.as_deref().is_none_or(|wanted| wanted == outcome)
    }
}
