//! WorkspaceService: tenants and the keys that open them. It takes the root key.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::Services;
use super::call::{Call, check_etag, etag_of};
use super::convert::{parse_duration, parse_time, refuse_nul, timestamp};
use super::mask::Update;
use super::page::{Page, Weight};
use super::write::Answer;
use crate::domain::time::Micros;
use crate::domain::workspace::{ApiKey, Scope, Scopes, Workspace};
use crate::error::{Error, Result, Violations};
use crate::ids::{ApiKeyId, TypedId, WorkspaceId};
use crate::pb;
use crate::store::api_key::Secret;
use crate::store::{self, Tx};

/// How long a former secret of a key goes on working, if the caller doesn't say.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

#[tonic::async_trait]
impl pb::workspace_service_server::WorkspaceService for Services {
    async fn create_workspace(
        &self,
        request: Request<pb::CreateWorkspaceRequest>,
    ) -> Result<Response<pb::Workspace>, Status> {
        let mut call = Call::open_write(request)?;
        let draft = call.message.workspace.take().unwrap_or_default();
        call.finish()?;
        let id = WorkspaceId::generate(self.store.clock().now(), self.store.entropy());
        let draft = &draft;
        let make = |tx: Tx| async move {
            check(draft)?;
            store::workspace::insert(&tx, id, &draft.name).await?;
            store::workspace::get(tx.db(), id).await
        };
        Ok(Response::new(to_pb(call.write(&self.store, make).await?)))
    }

    async fn get_workspace(
        &self,
        request: Request<pb::GetWorkspaceRequest>,
    ) -> Result<Response<pb::Workspace>, Status> {
        let mut call = Call::open(request)?;
        let id = call.only_id(|request| &request.id)?;
        Ok(Response::new(to_pb(store::workspace::get(self.store.read(), id).await?)))
    }

    async fn list_workspaces(
        &self,
        request: Request<pb::ListWorkspacesRequest>,
    ) -> Result<Response<pb::ListWorkspacesResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListWorkspacesRequest { page_size, page_token } = std::mem::take(&mut call.message);
        let page = Page::<WorkspaceId>::read(page_size, &page_token, "workspaces", None::<&()>, &mut call.violations);
        call.finish()?;
        let db = self.store.read();
        let fetch = |after, limit| store::workspace::list(db, after, limit);
        let (workspaces, next_page_token) = page.collect(Weight::Light, fetch, |workspace| workspace.id, to_pb).await?;
        Ok(Response::new(pb::ListWorkspacesResponse { workspaces, next_page_token }))
    }

    async fn update_workspace(
        &self,
        request: Request<pb::UpdateWorkspaceRequest>,
    ) -> Result<Response<pb::Workspace>, Status> {
        let mut call = Call::open_write(request)?;
        let (workspace, mask) = (call.message.workspace.take(), call.message.update_mask.take());
        let change = Update::read(workspace, mask, &mut call.violations)?;
        let id = call.id("workspace.id", &change.given.id);
        let id = call.finish_with(id)?;
        let change = &change;
        let workspace = call.write(&self.store, |tx| async move { update(&tx, id, change).await }).await?;
        Ok(Response::new(to_pb(workspace)))
    }

    async fn delete_workspace(
        &self,
        request: Request<pb::DeleteWorkspaceRequest>,
    ) -> Result<Response<pb::DeleteWorkspaceResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let id: WorkspaceId = call.only_id(|request| &request.id)?;
        if id == self.store.facts().default_workspace {
            let reason = "the default workspace can't be deleted";
            return Err(Error::NotDeletable { resource: "workspace", reason }.into());
        }
        let etag = call.message.etag.as_str();
        let make = |tx: Tx| async move {
            // Nothing is planned or leased for the workspace while it is being ended.
            tx.gate_exclusive().await?;
            let workspace = store::workspace::get(tx.db(), id).await?;
            check_etag("workspace", etag, workspace.version)?;
            store::workspace::delete(&tx, id).await
        };
        call.write(&self.store, make).await?;
        self.keys.forget();
        Ok(Response::new(pb::DeleteWorkspaceResponse {}))
    }

    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Result<Response<pb::CreateApiKeyResponse>, Status> {
        let mut call = Call::open(request)?;
        let draft = call.message.api_key.take().unwrap_or_default();
        let workspace = call.id("workspace_id", &call.message.workspace_id.clone());
        refuse_nul("api_key.name", &draft.name, &mut call.violations);
        let now = self.store.clock().now();
        let expires = expiry(&draft, now, &mut call.violations);
        let workspace: WorkspaceId = call.finish_with(workspace)?;
        let secret = Secret::generate(self.store.entropy());
        let key = ApiKey {
            id: ApiKeyId::generate(now, self.store.entropy()),
            workspace_id: Some(workspace),
            scopes: draft.scopes().filter_map(scope_of).collect(),
            name: draft.name,
            secret_prefix: secret.shown_prefix(),
            created: now,
            expires,
            revoked: None,
            former_expires: None,
            last_used: None,
            version: 1,
            updated: None,
        };
        let (new, proof) = (&key, &secret);
        let make = |tx: Tx| async move {
            store::workspace::get(tx.db(), workspace).await?;
            store::api_key::insert(&tx, new, proof).await
        };
        self.store.write("create_api_key", make).await?;
        let secret = secret.expose().to_owned();
        Ok(Response::new(pb::CreateApiKeyResponse { api_key: Some(key_to_pb(key)), secret }))
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Result<Response<pb::ListApiKeysResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListApiKeysRequest { workspace_id, page_size, page_token } = std::mem::take(&mut call.message);
        let list = format!("api_keys/{workspace_id}");
        let page = Page::<ApiKeyId>::read(page_size, &page_token, &list, None::<&()>, &mut call.violations);
        let workspace = call.id("workspace_id", &workspace_id);
        let workspace = call.finish_with(workspace)?;
        let db = self.store.read();
        store::workspace::get(db, workspace).await?;
        let fetch = |after, limit| store::api_key::list(db, workspace, after, limit);
        let (api_keys, next_page_token) = page.collect(Weight::Light, fetch, |key| key.id, key_to_pb).await?;
        Ok(Response::new(pb::ListApiKeysResponse { api_keys, next_page_token }))
    }

    async fn update_api_key(&self, request: Request<pb::UpdateApiKeyRequest>) -> Result<Response<pb::ApiKey>, Status> {
        let mut call = Call::open_write(request)?;
        let (api_key, mask) = (call.message.api_key.take(), call.message.update_mask.take());
        let change = Update::read(api_key, mask, &mut call.violations)?;
        let id = call.id("api_key.id", &change.given.id);
        let id = call.finish_with(id)?;
        let change = &change;
        let key = call.write(&self.store, |tx| async move { update_key(&tx, id, change).await }).await?;
        self.keys.forget();
        Ok(Response::new(key_to_pb(key)))
    }

    async fn rotate_api_key(
        &self,
        request: Request<pb::RotateApiKeyRequest>,
    ) -> Result<Response<pb::RotateApiKeyResponse>, Status> {
        let mut call = Call::open(request)?;
        let overlap = parse_duration("overlap", call.message.overlap, &mut call.violations).unwrap_or(DEFAULT_OVERLAP);
        let id = call.only_id(|request| &request.id)?;
        let secret = Secret::generate(self.store.entropy());
        let new = &secret;
        let make = |tx: Tx| async move { store::api_key::rotate(&tx, id, new, tx.now().saturating_add(overlap)).await };
        let key = self.store.write("rotate_api_key", make).await?;
        self.keys.forget();
        let secret = secret.expose().to_owned();
        Ok(Response::new(pb::RotateApiKeyResponse { api_key: Some(key_to_pb(key)), secret }))
    }

    async fn revoke_api_key(&self, request: Request<pb::RevokeApiKeyRequest>) -> Result<Response<pb::ApiKey>, Status> {
        let mut call = Call::open_write(request)?;
        let id: ApiKeyId = call.only_id(|request| &request.id)?;
        let revoked = call.write(&self.store, |tx| async move { store::api_key::revoke(&tx, id).await }).await?;
        self.keys.forget();
        Ok(Response::new(key_to_pb(revoked)))
    }
}

impl Answer for Workspace {
    fn remembered(&self) -> Result<String> {
        Ok(self.id.to_string())
    }

    async fn reload(tx: &Tx, _: Option<WorkspaceId>, remembered: &str) -> Result<Self> {
        store::workspace::get(tx.db(), remembered.parse().map_err(Error::internal)?).await
    }
}

impl Answer for ApiKey {
    fn remembered(&self) -> Result<String> {
        Ok(self.id.to_string())
    }

    async fn reload(tx: &Tx, _: Option<WorkspaceId>, remembered: &str) -> Result<Self> {
        store::api_key::get(tx.db(), remembered.parse().map_err(Error::internal)?).await
    }
}

async fn update(tx: &Tx, id: WorkspaceId, change: &Update<pb::Workspace>) -> Result<Workspace> {
    let present = store::workspace::get(tx.db(), id).await?;
    check_etag("workspace", &change.given.etag, present.version)?;
    let merged = change.merge(&to_pb(present.clone()))?;
    check(&merged)?;
    if merged.name == present.name {
        return Ok(present);
    }
    let workspace = Workspace { name: merged.name, version: present.version + 1, updated: tx.now(), ..present };
    store::workspace::update(tx, &workspace).await?;
    Ok(workspace)
}

async fn update_key(tx: &Tx, id: ApiKeyId, change: &Update<pb::ApiKey>) -> Result<ApiKey> {
    let present = store::api_key::get(tx.db(), id).await?;
    check_etag("api_key", &change.given.etag, present.version)?;
    let merged = change.merge(&key_to_pb(present.clone()))?;
    let mut violations = Violations::default();
    violations.check_rules("api_key", &merged)?;
    refuse_nul("api_key.name", &merged.name, &mut violations);
    // A key that has expired can be changed without a new expiry.
    let expires =
        if change.names("expire_time") { expiry(&merged, tx.now(), &mut violations) } else { present.expires };
    violations.finish()?;
    let scopes = merged.scopes().filter_map(scope_of).collect();
    let mut key = ApiKey { name: merged.name, scopes, expires, ..present.clone() };
    if key == present {
        return Ok(present);
    }
    key.version += 1;
    key.updated = Some(tx.now());
    store::api_key::update(tx, &key).await?;
    Ok(key)
}

/// Checks a whole workspace, new or merged.
fn check(workspace: &pb::Workspace) -> Result<()> {
    let mut violations = Violations::default();
    violations.check_rules("workspace", workspace)?;
    refuse_nul("workspace.name", &workspace.name, &mut violations);
    violations.finish()
}

fn expiry(draft: &pb::ApiKey, now: Micros, violations: &mut Violations) -> Option<Micros> {
    let field = "api_key.expire_time";
    let expires = parse_time(field, draft.expire_time, violations)?;
    if expires <= now {
        violations.add_if_new(field, "PAST", "must be in the future");
    }
    Some(expires)
}

fn scope_of(scope: pb::api_key::Scope) -> Option<Scope> {
    match scope {
        pb::api_key::Scope::Unspecified => None,
        pb::api_key::Scope::Read => Some(Scope::Read),
        pb::api_key::Scope::Write => Some(Scope::Write),
        pb::api_key::Scope::Admin => Some(Scope::Admin),
    }
}

fn scopes_to_pb(scopes: Scopes) -> Vec<i32> {
    let to_pb = |scope| match scope {
        Scope::Read => pb::api_key::Scope::Read,
        Scope::Write => pb::api_key::Scope::Write,
        Scope::Admin => pb::api_key::Scope::Admin,
    };
    scopes.iter().map(|scope| to_pb(scope).into()).collect()
}

pub(super) fn to_pb(workspace: Workspace) -> pb::Workspace {
    pb::Workspace {
        id: workspace.id.to_string(),
        name: workspace.name,
        create_time: Some(timestamp(workspace.created)),
        update_time: Some(timestamp(workspace.updated)),
        etag: etag_of(workspace.version),
    }
}

pub(super) fn key_to_pb(key: ApiKey) -> pb::ApiKey {
    pb::ApiKey {
        id: key.id.to_string(),
        workspace_id: key.workspace_id.map(|id| id.to_string()).unwrap_or_default(),
        name: key.name,
        scopes: scopes_to_pb(key.scopes),
        create_time: Some(timestamp(key.created)),
        expire_time: key.expires.map(timestamp),
        revoke_time: key.revoked.map(timestamp),
        secret_prefix: key.secret_prefix,
        former_secret_expire_time: key.former_expires.map(timestamp),
        last_used_time: key.last_used.map(timestamp),
        update_time: key.updated.map(timestamp),
        etag: etag_of(key.version),
    }
}
