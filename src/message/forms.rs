//! Other forms of a payload that goes to many, for instance compressed ones: each is made once, by the first that needs it.
//! Must not know what a form is.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// A form by its key; none where it is no better than the payload itself.
type Made = (u16, Option<Bytes>);

/// What the copies of one payload share. Says nothing of the payload, so that all are equal.
#[derive(Debug, Clone, Default)]
pub struct Forms(Option<Arc<Mutex<Vec<Made>>>>);

impl Forms {
    /// Forms that every clone from now on shares.
    pub fn shared() -> Self {
        Self(Some(Arc::default()))
    }

    /// The form of this key, made now if nobody has yet. Who comes meanwhile waits: it would take as long to make another.
    pub fn get(&self, key: u16, make: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let Some(shared) = &self.0 else { return make() };
        let mut made = shared.lock();
        if let Some((_, form)) = made.iter().find(|(made, _)| *made == key) {
            return form.clone();
        }
        let form = make();
        made.push((key, form.clone()));
        form
    }
}

impl PartialEq for Forms {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Forms {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_made_once_for_all_copies_and_each_time_where_nothing_is_shared() {
        let mut made = 0;
        let mut make = |forms: &Forms, key| {
            forms.get(key, || {
                made += 1;
                (key != 2).then(|| Bytes::from_static(b"form"))
            })
        };
        let (shared, own) = (Forms::shared(), Forms::default());
        for _ in 0..3 {
            assert_eq!(make(&shared.clone(), 1).as_deref(), Some(&b"form"[..]));
            assert_eq!(make(&shared.clone(), 2), None, "that it is no better is known too");
        }
        make(&own, 1);
        make(&own, 1);
        assert_eq!(made, 4);
    }
}
