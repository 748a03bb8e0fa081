//! Who calls: the API key of a call, and what it may do.
//!
//! A call brings its secret in the metadata `authorization: Bearer <secret>`. What a secret opens is cached for a second,
//! so that a revocation counts on every server within that time. What each method needs stands in one table.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::domain::workspace::{Scope, Scopes};
use crate::error::{Error, Result};
use crate::ids::WorkspaceId;
use crate::store::Store;
use crate::store::api_key::{self, Grant};

/// How long an answer of the database is used.
const LIFETIME: Duration = Duration::from_secs(1);
/// The age from which on one caller asks again while the others go on with what is known: a busy key is never looked up
/// by all of its callers at once.
const RENEWAL_AGE: Duration = Duration::from_millis(500);
/// How many secrets are kept, known and unknown ones.
const MAX_CACHED: usize = 10_000;
/// The longest secret that is looked at, in bytes; a good one has 47.
const MAX_SECRET_BYTES: usize = 256;

/// Who calls, put beside each request by the authentication layer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The workspace that the key opens; `None` for the root key.
    pub workspace: Option<WorkspaceId>,
    /// What the key may do.
    pub scopes: Scopes,
}

/// What a method needs of the caller's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The deployment's root key.
    Root,
    /// A workspace's key with this scope.
    Scope(Scope),
    /// Any good key.
    AnyKey,
}

const ROOT: Access = Access::Root;
const READ: Access = Access::Scope(Scope::Read);
const WRITE: Access = Access::Scope(Scope::Write);
const ADMIN: Access = Access::Scope(Scope::Admin);

/// Every method of the API by its path, and what it needs.
const METHODS: &[(&str, Access)] = &[
    ("/taghook.v1.WorkspaceService/CreateWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/GetWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/ListWorkspaces", ROOT),
    ("/taghook.v1.WorkspaceService/UpdateWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/DeleteWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/CreateApiKey", ROOT),
    ("/taghook.v1.WorkspaceService/ListApiKeys", ROOT),
    ("/taghook.v1.WorkspaceService/RevokeApiKey", ROOT),
    ("/taghook.v1.ContactService/CreateContact", WRITE),
    ("/taghook.v1.ContactService/GetContact", READ),
    ("/taghook.v1.ContactService/LookupContact", READ),
    ("/taghook.v1.ContactService/ListContacts", READ),
    ("/taghook.v1.ContactService/UpdateContact", WRITE),
    ("/taghook.v1.ContactService/UpsertContact", WRITE),
    ("/taghook.v1.ContactService/DeleteContact", WRITE),
    ("/taghook.v1.ContactService/TagContact", WRITE),
    ("/taghook.v1.ContactService/UntagContact", WRITE),
    ("/taghook.v1.ContactService/BatchTagContacts", WRITE),
    ("/taghook.v1.ContactService/ListContactTags", READ),
    ("/taghook.v1.FieldService/CreateField", ADMIN),
    ("/taghook.v1.FieldService/GetField", READ),
    ("/taghook.v1.FieldService/ListFields", READ),
    ("/taghook.v1.FieldService/UpdateField", ADMIN),
    ("/taghook.v1.FieldService/DeleteField", ADMIN),
    ("/taghook.v1.TagService/CreateTag", ADMIN),
    ("/taghook.v1.TagService/GetTag", READ),
    ("/taghook.v1.TagService/ListTags", READ),
    ("/taghook.v1.TagService/UpdateTag", ADMIN),
    ("/taghook.v1.TagService/DeleteTag", ADMIN),
    ("/taghook.v1.TagService/ListTagUsages", READ),
    ("/taghook.v1.WebhookService/CreateWebhook", ADMIN),
    ("/taghook.v1.WebhookService/GetWebhook", READ),
    ("/taghook.v1.WebhookService/ListWebhooks", READ),
    ("/taghook.v1.WebhookService/UpdateWebhook", ADMIN),
    ("/taghook.v1.WebhookService/DeleteWebhook", ADMIN),
    ("/taghook.v1.WebhookService/PauseWebhook", ADMIN),
    ("/taghook.v1.WebhookService/ResumeWebhook", ADMIN),
    ("/taghook.v1.WebhookService/PreviewWebhook", READ),
    ("/taghook.v1.WebhookService/TestWebhook", WRITE),
    ("/taghook.v1.WebhookService/TriggerWebhook", WRITE),
    ("/taghook.v1.WebhookService/GetWebhookSecret", ADMIN),
    ("/taghook.v1.EventService/RecordEvent", WRITE),
    ("/taghook.v1.EventService/ListEvents", READ),
    ("/taghook.v1.DeliveryService/GetDelivery", READ),
    ("/taghook.v1.DeliveryService/ListDeliveries", READ),
    ("/taghook.v1.DeliveryService/ListAttempts", READ),
    ("/taghook.v1.DeliveryService/RetryDelivery", WRITE),
    ("/taghook.v1.DeliveryService/CancelDelivery", WRITE),
    ("/taghook.v1.DeliveryService/StreamOutcomes", READ),
];

/// The methods that answer with a stream.
const STREAMS: [&str; 1] = ["/taghook.v1.DeliveryService/StreamOutcomes"];

/// What a method needs, and its path as a text that lives on; `None` for a path that is no method of the API.
pub(super) fn method(path: &str) -> Option<(&'static str, Access)> {
    static BY_PATH: LazyLock<HashMap<&str, Access>> = LazyLock::new(|| METHODS.iter().copied().collect());
    BY_PATH.get_key_value(path).map(|(path, access)| (*path, *access))
}

/// Whether a method answers with a stream, which stays open.
pub(super) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

impl Access {
    /// Refuses a caller whose key doesn't give this access.
    pub(super) fn check(self, caller: &Caller) -> Result<()> {
        match (self, caller.workspace) {
            (Self::Root, None) | (Self::AnyKey, _) => Ok(()),
            (Self::Root, Some(_)) => Err(Error::ScopeMissing { scope: "ROOT" }),
            (Self::Scope(scope), Some(_)) if caller.scopes.allows(scope) => Ok(()),
            (Self::Scope(scope), _) => Err(Error::ScopeMissing { scope: scope.as_str() }),
        }
    }
}

/// Tells keys by their secrets. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    store: Store,
    known: Mutex<HashMap<[u8; 32], Entry>>,
}

/// What the database said of a secret.
struct Entry {
    grant: Option<Grant>,
    /// When it was asked.
    asked: Instant,
    /// Whether somebody is asking again.
    is_renewed: bool,
}

impl Keys {
    /// Knows no key yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, known: Mutex::default() }))
    }

    /// Forgets what is known, since keys were revoked here: that counts on this server at once.
    pub fn forget(&self) {
        self.known().clear();
    }

    /// The store that is asked.
    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Who brings these headers.
    pub(super) async fn identify(&self, headers: &HeaderMap) -> Result<Caller> {
        let hash = Sha256::digest(secret_of(headers)?).into();
        let grant = match self.recall(&hash) {
            Some(grant) => grant,
            None => self.ask(hash).await?,
        };
        let now = self.0.store.clock().now();
        match grant {
            None => Err(Error::Unauthenticated("the API key isn't known, or it was revoked")),
            Some(grant) if grant.expires.is_some_and(|expires| expires <= now) => {
                Err(Error::Unauthenticated("the API key has expired"))
            }
            Some(grant) => Ok(Caller { workspace: grant.workspace, scopes: grant.scopes }),
        }
    }

    /// What is known and fresh; the outer `None` means that the caller must ask.
    fn recall(&self, hash: &[u8; 32]) -> Option<Option<Grant>> {
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

    async fn ask(&self, hash: [u8; 32]) -> Result<Option<Grant>> {
        let asked = Instant::now();
        let grant = api_key::find(self.0.store.read(), &hash).await?;
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

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], Entry>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The secret that a call brings (RFC 6750, section 2.1).
fn secret_of(headers: &HeaderMap) -> Result<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Error::Unauthenticated(
            "no API key came with the call; send the metadata `authorization: Bearer <key>`",
        ));
    };
    let malformed = || Error::Unauthenticated("the metadata `authorization` must be `Bearer <key>`, once");
    if values.next().is_some() {
        return Err(malformed());
    }
    let (scheme, secret) = value.as_bytes().split_at_checked(b"Bearer ".len()).ok_or_else(malformed)?;
    let is_good = scheme.eq_ignore_ascii_case(b"Bearer ") && !secret.is_empty() && secret.len() <= MAX_SECRET_BYTES;
    if is_good { Ok(secret.trim_ascii()) } else { Err(malformed()) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use prost_reflect::DescriptorPool;
    use uuid::Uuid;

    use super::*;
    use crate::pb;

    /// A method that is missing in the table would be open to nobody; one too many would stand for nothing.
    #[test]
    fn the_table_has_every_method_of_the_api() {
        let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
        let mut declared: Vec<String> = pool
            .services()
            .filter(|service| service.full_name().starts_with("taghook."))
            .flat_map(|service| {
                let name = service.full_name().to_owned();
                service.methods().map(move |method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
            })
            .collect();
        let mut listed: Vec<&str> = METHODS.iter().map(|(path, _)| *path).collect();
        declared.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, declared);
    }

    #[test]
    fn the_streams_are_known() {
        let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            assert_eq!(is_stream(&path), method.is_server_streaming(), "{path}");
        }
    }

    #[track_caller]
    fn check_access(access: Access, caller: &Caller, missing: Option<&str>) {
        match (access.check(caller), missing) {
            (Ok(()), None) => {}
            (Err(Error::ScopeMissing { scope }), Some(missing)) => assert_eq!(scope, missing),
            (result, _) => panic!("{access:?} for {caller:?}: {result:?}"),
        }
    }

    #[test]
    fn a_scope_includes_those_before_it_and_the_root_key_stands_apart() {
        let key = |scopes: &[Scope]| Caller {
            workspace: Some(WorkspaceId(Uuid::nil())),
            scopes: scopes.iter().copied().collect(),
        };
        let root = Caller { workspace: None, scopes: Scopes::from_code(7) };
        let (reader, writer, admin) = (key(&[Scope::Read]), key(&[Scope::Write]), key(&[Scope::Admin]));
        check_access(READ, &reader, None);
        check_access(WRITE, &reader, Some("WRITE"));
        check_access(ADMIN, &reader, Some("ADMIN"));
        check_access(READ, &writer, None);
        check_access(WRITE, &writer, None);
        check_access(ADMIN, &writer, Some("ADMIN"));
        check_access(ADMIN, &admin, None);
        check_access(READ, &key(&[]), Some("READ"));
        check_access(ROOT, &root, None);
        check_access(ROOT, &admin, Some("ROOT"));
        check_access(READ, &root, Some("READ"));
    }

    #[track_caller]
    fn check_secret(values: &[&'static str], secret: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        assert_eq!(secret_of(&headers).ok(), secret.map(str::as_bytes), "{values:?}");
    }

    #[test]
    fn reads_the_secret_of_a_bearer_header() {
        check_secret(&["Bearer thk_x"], Some("thk_x"));
        check_secret(&["bearer  thk_x "], Some("thk_x"));
        check_secret(&[], None);
        check_secret(&["Bearer"], None);
        check_secret(&["Bearer "], None);
        check_secret(&["Basic thk_x"], None);
        check_secret(&["thk_x"], None);
        check_secret(&["Bearer thk_x", "Bearer thk_y"], None);
    }
}
