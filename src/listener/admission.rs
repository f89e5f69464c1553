//! How many connections there are, against how many there may be, on one endpoint and in all.
//! Knows counts; must not know sockets.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::Limit;

/// Counts open connections and handshakes under way.
#[derive(Default)]
pub struct Admission {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    endpoints: HashMap<Arc<str>, usize>,
}

/// One connection's place; dropping it frees the place.
pub struct Place {
    admission: Arc<Admission>,
    endpoint: Arc<str>,
}

impl Admission {
    /// A place on `endpoint`, unless it has `endpoint_max` connections, or all endpoints together have `all_max`.
    pub fn enter(self: &Arc<Self>, endpoint: &Arc<str>, endpoint_max: usize, all_max: usize) -> Result<Place, Limit> {
        let mut counts = self.counts.lock();
        if counts.all >= all_max {
            return Err(Limit::NodeConnections);
        }
        let count = counts.endpoints.get(endpoint).copied().unwrap_or_default();
        if count >= endpoint_max {
            return Err(Limit::Connections);
        }
        counts.endpoints.insert(endpoint.clone(), count + 1);
        counts.all += 1;
        Ok(Place { admission: self.clone(), endpoint: endpoint.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        counts.all -= 1;
        if let Some(count) = counts.endpoints.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                counts.endpoints.remove(&self.endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_per_endpoint_and_in_all() {
        let admission = Arc::new(Admission::default());
        let (a, b) = (Arc::from("/a"), Arc::from("/b"));
        let one = admission.enter(&a, 1, 2).expect("a place");
        assert_eq!(admission.enter(&a, 1, 2).err(), Some(Limit::Connections));
        let _two = admission.enter(&b, 9, 2).expect("a place");
        assert_eq!(admission.enter(&b, 9, 2).err(), Some(Limit::NodeConnections));
        drop(one);
        assert!(admission.enter(&a, 1, 2).is_ok());
        assert_eq!(admission.counts.lock().endpoints.len(), 1, "an empty endpoint is forgotten");
    }
}
