//! What the messages of one connection are held against: its own rates, its user's and its address's. Must not know messages.

use std::sync::Arc;

use super::accounts::Share;
use super::{Excess, Levels, Limit, Quotas, Rates};

/// The limits on one connection's messages, and its shares in what others use too. Dropping it gives the shares back.
#[derive(Default)]
pub struct Meters {
    pub(super) quotas: Arc<Quotas>,
    own: Levels,
    pub(super) user: Option<Share>,
    pub(super) address: Option<Share>,
    pub(super) node_address: Option<Share>,
}

impl Meters {
    /// Limits on this connection alone.
    pub fn own(rates: Rates) -> Box<Self> {
        let quotas = Quotas { connection: rates, ..Quotas::default() };
        Box::new(Self { quotas: Arc::new(quotas), ..Self::default() })
    }

    /// Lets a message in everywhere, or nowhere: then the limit that takes longest to let it in.
    pub fn admit(&mut self, now_ms: u64, bytes: usize) -> Result<(), Excess> {
        let Self { quotas, own, user, address, .. } = self;
        // Always the user's lock before the address's.
        let mut user = user.as_ref().filter(|_| quotas.user.rates != Rates::default()).map(Share::state);
        let mut address = address.as_ref().filter(|_| quotas.address.rates != Rates::default()).map(Share::state);
        let mut wait = Excess { limit: Limit::Messages, retry_after_ms: 0 };
        let mut hold = |levels: &Levels, rates: &Rates, limits: [Limit; 2]| {
            for (retry_after_ms, limit) in levels.wait_ms(now_ms, bytes, rates).into_iter().zip(limits) {
                if retry_after_ms > wait.retry_after_ms {
                    wait = Excess { limit, retry_after_ms };
                }
            }
        };
        hold(own, &quotas.connection, [Limit::Messages, Limit::Bytes]);
        if let Some(user) = &user {
            hold(&user.levels, &quotas.user.rates, [Limit::UserMessages, Limit::UserBytes]);
        }
        if let Some(address) = &address {
            hold(&address.levels, &quotas.address.rates, [Limit::AddressMessages, Limit::AddressBytes]);
        }
        if wait.retry_after_ms > 0 {
            return Err(wait);
        }
        own.add(now_ms, bytes, &quotas.connection);
        if let Some(user) = &mut user {
            user.add(now_ms, bytes, &quotas.user.rates);
        }
        if let Some(address) = &mut address {
            address.add(now_ms, bytes, &quotas.address.rates);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").field("quotas", &self.quotas).field("own", &self.own).finish_non_exhaustive()
    }
}
