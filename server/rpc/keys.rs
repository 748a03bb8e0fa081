//! API keys: whose call it is.
//!
//! A call brings its secret in the metadata `authorization: Bearer <secret>`. What a secret opens is cached for a second,
//! so that a revocation counts for new calls on every server within that time. Streams that are open end with their key:
//! while there are any, one query a second looks whether keys were revoked or changed anywhere. When a key was last used is
//! written once a minute at most, beside the calls.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auth::Caller;
use crate::domain::time::Micros;
use crate::error::{Error, Result, chain};
use crate::ids::ApiKeyId;
use crate::store::Store;
use crate::store::api_key::{self, Grant, Revocations, Secret};

/// How long an answer of the database is used.
const LIFETIME: Duration = Duration::from_secs(1);
/// The age from which on one caller asks again while the others go on with what is known: a busy key is never looked up
/// by all of its callers at once.
const RENEWAL_AGE: Duration = Duration::from_millis(500);
/// How many secrets are kept, known and unknown ones.
const MAX_CACHED: usize = 10_000;
/// How often it is looked whether keys were revoked, for the streams that are open.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How exact `last_used_time` is.
const USE_PRECISION: Duration = Duration::from_secs(60);

/// Tells keys by their secrets. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    store: Store,
    known: Mutex<HashMap<Hash, Entry>>,
    /// Keys whose last use is to be written.
    used: Mutex<HashSet<ApiKeyId>>,
    /// Moves when keys were revoked; the streams that are open listen.
    revoked: watch::Sender<()>,
}

/// SHA-256 of a secret.
type Hash = [u8; 32];

/// What the database said of a secret.
struct Entry {
    grant: Option<Grant>,
    /// When it was asked.
    asked: Instant,
    /// Whether somebody is asking again.
    is_renewed: bool,
}

/// A key that was good when its call came in.
#[derive(Clone, Copy)]
pub(super) struct Identity {
    /// Whose call it is.
    pub(super) caller: Caller,
    hash: Hash,
    expires: Option<Micros>,
}

impl Keys {
    /// Knows no key yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner {
            store,
            known: Mutex::default(),
            used: Mutex::default(),
            revoked: watch::Sender::default(),
        }))
    }

    /// Forgets what is known, since keys were revoked: that counts on this server at once.
    pub fn forget(&self) {
        self.known().clear();
        self.0.revoked.send_replace(());
    }

    /// Looks for revocations by other servers, while streams are open here, and writes when keys were used, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut seen: Option<Revocations> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.write_uses().await;
            if self.0.revoked.receiver_count() == 0 {
                // Whoever comes first asks the database itself.
                seen = None;
                continue;
            }
            match api_key::revocations(self.0.store.read()).await {
                Ok(now) if seen != Some(now) => {
                    seen = Some(now);
                    self.forget();
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(error = chain(&error), "revocations can't be seen"),
            }
        }
    }

    async fn write_uses(&self) {
        let used: Vec<ApiKeyId> = std::mem::take(&mut *lock(&self.0.used)).into_iter().collect();
        if used.is_empty() {
            return;
        }
        let used = used.as_slice();
        let written = self.0.store.write("note_used", |tx| async move { api_key::note_used(&tx, used).await }).await;
        if let Err(error) = written {
            // The next use is noted again.
            tracing::debug!(error = chain(&error), "the use of keys can't be written");
        }
    }

    /// The store that is asked.
    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Who brings these headers.
    pub(super) async fn identify(&self, headers: &HeaderMap) -> Result<Identity> {
        self.look_up(secret_of(headers)?.hash()).await
    }

    /// Returns when a key has ceased to open anything.
    pub(super) async fn until_lost(self, identity: Identity) -> Error {
        let mut revoked = self.0.revoked.subscribe();
        loop {
            match self.look_up(identity.hash).await {
                Ok(now) if now.caller.scopes == identity.caller.scopes => {}
                Ok(_) => {
                    return Error::Unauthenticated("the scopes of the API key were changed; open the stream again");
                }
                Err(error @ Error::Unauthenticated(_)) => return error,
                // While the database is away, nobody knows.
                Err(_) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
            }
            let expiry = async {
                match identity.expires {
                    Some(expires) => self.0.store.clock().sleep_until(expires).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives as long as this does.
                _ = revoked.changed() => {}
                () = expiry => return expired(),
            }
        }
    }

    async fn look_up(&self, hash: Hash) -> Result<Identity> {
        let grant = match self.recall(&hash) {
            Some(grant) => grant,
            None => self.ask(hash).await?,
        };
        let grant = grant.ok_or(Error::Unauthenticated("the API key isn't known, or it was revoked"))?;
        if grant.expires.is_some_and(|expires| expires <= self.0.store.clock().now()) {
            return Err(expired());
        }
        let caller = Caller { key: grant.key, workspace: grant.workspace, scopes: grant.scopes };
        Ok(Identity { caller, hash, expires: grant.expires })
    }

    /// What is known and fresh; the outer `None` means that the caller must ask.
    fn recall(&self, hash: &Hash) -> Option<Option<Grant>> {
        let mut known = self.known();
        let entry = known.get_mut(hash)?;
        let age = entry.asked.elapsed();
        if age >= LIFETIME {
            return None;
        }
        if age >= RENEWAL_AGE && !entry.is_renewed {
            entry.is_renewed = true;
            return None;
        }
        Some(entry.grant)
    }

    async fn ask(&self, hash: Hash) -> Result<Option<Grant>> {
        let asked = Instant::now();
        let grant = api_key::find(self.0.store.read(), &hash).await?;
        if let Some(grant) = &grant {
            self.note_use(grant);
        }
        let mut known = self.known();
        if known.len() >= MAX_CACHED {
            known.retain(|_, entry| entry.asked.elapsed() < LIFETIME);
        }
        // A flood of secrets that nobody knows must not grow the cache, nor drive out the good ones.
        if known.len() < MAX_CACHED || known.contains_key(&hash) {
            known.insert(hash, Entry { grant, asked, is_renewed: false });
        }
        Ok(grant)
    }

    fn note_use(&self, grant: &Grant) {
        let now = self.0.store.clock().now();
        if grant.last_used.is_none_or(|last| now.saturating_since(last) >= USE_PRECISION) {
            let mut used = lock(&self.0.used);
            if used.len() < MAX_CACHED {
                used.insert(grant.key);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Hash, Entry>> {
        lock(&self.0.known)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn expired() -> Error {
    Error::Unauthenticated("the API key has expired")
}

/// The secret that a call brings (RFC 6750, section 2.1).
fn secret_of(headers: &HeaderMap) -> Result<Secret> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Error::Unauthenticated(
            "no API key came with the call; send the metadata `authorization: Bearer <key>`",
        ));
    };
    let secret = value.to_str().ok().filter(|_| values.next().is_none()).and_then(bearer);
    let secret = secret.ok_or(Error::Unauthenticated("the metadata `authorization` must be `Bearer <key>`, once"))?;
    // What can't be a secret needn't be asked for.
    Secret::parse(secret).ok_or(Error::Unauthenticated("the API key isn't known, or it was revoked"))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GOOD: &str = "thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[track_caller]
    fn check_secret(values: &[&str], is_good: bool) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let secret = secret_of(&headers);
        assert_eq!(secret.as_ref().ok().map(Secret::expose), is_good.then_some(GOOD), "{values:?}");
        assert!(is_good || matches!(secret, Err(Error::Unauthenticated(_))), "{values:?}");
    }

    #[test]
    fn reads_the_secret_of_a_bearer_header() {
        check_secret(&[&format!("Bearer {GOOD}")], true);
        check_secret(&[&format!("bearer  {GOOD} ")], true);
        check_secret(&[], false);
        check_secret(&["Bearer"], false);
        check_secret(&["Bearer "], false);
        check_secret(&["Bearer thk_short"], false);
        check_secret(&[&format!("Basic {GOOD}")], false);
        check_secret(&[GOOD], false);
        check_secret(&["Bearer \u{e9}"], false);
        check_secret(&[&format!("Bearer {GOOD}"), &format!("Bearer {GOOD}")], false);
    }
}
