//! Stored conditions that are in use. A workspace's config is read anew with each of its versions, and most of its
//! conditions are the same; to read one takes up to some milliseconds.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::{Checked, Condition, Inner, Scope};

/// Those that nobody has any more are looked for when there are so many.
const SWEEP_FROM: usize = 1_024;

static SHARED: LazyLock<Mutex<Shared>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Shared {
    live: HashMap<(Scope, String), Weak<Inner>>,
    sweep_at: usize,
}

/// The condition with this source that others have, or a new one.
pub(super) fn get(source: &str, scope: Scope) -> Condition {
    let key = (scope, source.to_owned());
    if let Some(inner) = lock().live.get(&key).and_then(Weak::upgrade) {
        return Condition(inner);
    }
    // Without the lock, in which others would wait.
    let inner = Arc::new(Inner { source: source.to_owned(), scope, checked: Checked::of(source, scope) });
    let mut shared = lock();
    if shared.live.len() >= shared.sweep_at {
        shared.live.retain(|_, inner| inner.strong_count() > 0);
        shared.sweep_at = SWEEP_FROM.max(shared.live.len() * 2);
    }
    shared.live.insert(key, Arc::downgrade(&inner));
    Condition(inner)
}

fn lock() -> MutexGuard<'static, Shared> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}
