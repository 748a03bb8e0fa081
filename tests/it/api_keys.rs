//! API keys: changed, rotated and watched; and what a caller learns of its key and the server.

use std::time::Duration;

use taghook_client::v1::api_key::Scope;
use taghook_client::v1::{self, ApiKey, Capability, ErrorReason};
use taghook_client::{Client, Code};

use crate::support::{Database, Taghook, both, check_error, check_invalid, mask, within};

const HOUR: i64 = 3_600;

async fn workspace(t: &Taghook) -> String {
    let me = who_am_i(&t.client).await.expect("the default key");
    me.workspace.expect("its workspace").id
}

async fn who_am_i(client: &Client) -> Result<v1::WhoAmIResponse, tonic::Status> {
    client.info().who_am_i(v1::WhoAmIRequest {}).await.map(tonic::Response::into_inner)
}

/// A key of the default workspace, and its secret.
async fn key(t: &Taghook, scope: Scope) -> (ApiKey, String) {
    let api_key = ApiKey { name: "test".into(), scopes: vec![scope.into()], ..Default::default() };
    let request = v1::CreateApiKeyRequest { workspace_id: workspace(t).await, api_key: Some(api_key) };
    let created = t.root.workspaces().create_api_key(request).await.expect("a key").into_inner();
    (created.api_key.expect("the key"), created.secret)
}

async fn update(t: &Taghook, key: ApiKey, paths: &[&str]) -> Result<tonic::Response<ApiKey>, tonic::Status> {
    let request = v1::UpdateApiKeyRequest { api_key: Some(key), update_mask: mask(paths), ..Default::default() };
    t.root.workspaces().update_api_key(request).await
}

async fn rotate(t: &Taghook, key: &ApiKey, overlap_s: i64) -> Result<v1::RotateApiKeyResponse, tonic::Status> {
    let overlap = Some(prost_types::Duration { seconds: overlap_s, nanos: 0 });
    let request = v1::RotateApiKeyRequest { id: key.id.clone(), overlap };
    t.root.workspaces().rotate_api_key(request).await.map(tonic::Response::into_inner)
}

/// The key as its list shows it.
async fn listed(t: &Taghook, key: &ApiKey) -> ApiKey {
    let request = v1::ListApiKeysRequest { workspace_id: workspace(t).await, page_size: 1_000, ..Default::default() };
    let keys = t.root.workspaces().list_api_keys(request).await.expect("keys").into_inner().api_keys;
    keys.into_iter().find(|listed| listed.id == key.id).expect("the key")
}

async fn opens(t: &Taghook, secret: &str) -> bool {
    t.client_with(Some(secret)).tags().list_tags(v1::ListTagsRequest::default()).await.is_ok()
}

both! {
    async fn a_caller_learns_who_it_is(t: Taghook) {
        let (read, secret) = key(&t, Scope::Read).await;
        let me = who_am_i(&t.client_with(Some(&secret))).await.unwrap();
        let shown = me.api_key.unwrap();
        assert_eq!((&shown.id, shown.scopes().collect::<Vec<_>>()), (&read.id, vec![Scope::Read]));
        assert_eq!(me.workspace.unwrap().id, workspace(&t).await);
        let root = who_am_i(&t.root).await.unwrap();
        assert!(root.workspace.is_none() && root.api_key.unwrap().workspace_id.is_empty());
        check_error(
            who_am_i(&t.client_with(Some("thk_x"))).await.map(tonic::Response::new),
            Code::Unauthenticated,
            ErrorReason::Unauthenticated,
        );
    }

    async fn a_caller_learns_what_the_server_can_do(t: Taghook) {
        let info = t.client.info().get_server_info(v1::GetServerInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(info.links_base_url, t.links_base());
        let limits = info.limits.unwrap();
        assert_eq!((limits.max_request_bytes, limits.max_page_items, limits.max_batch_items), (4 << 20, 1_000, 1_000));
        assert_eq!(limits.call_timeout.unwrap().seconds, 30);
        let capabilities: Vec<Capability> = info.capabilities.iter().filter_map(|it| (*it).try_into().ok()).collect();
        assert_eq!(capabilities.contains(&Capability::SeveralServers), t.database().is_postgres());
        assert!(capabilities.contains(&Capability::Links) && capabilities.contains(&Capability::Web));
    }

    async fn a_key_is_changed_on_every_server(t: Taghook) {
        let (key, secret) = key(&t, Scope::Read).await;
        let create = async || {
            let contact = v1::Contact { email: "ada@example.com".into(), ..Default::default() };
            let request = v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
            t.client_with(Some(&secret)).contacts().create_contact(request).await
        };
        check_error(create().await, Code::PermissionDenied, ErrorReason::ScopeMissing);
        let change = ApiKey { id: key.id.clone(), scopes: vec![Scope::Write.into()], ..Default::default() };
        let changed = update(&t, change, &["scopes"]).await.unwrap().into_inner();
        assert_eq!((changed.name.as_str(), changed.scopes().next()), ("test", Some(Scope::Write)));
        assert!(changed.etag != key.etag && changed.update_time.is_some());
        create().await.expect("a contact");
        let same = ApiKey { id: key.id.clone(), name: "test".into(), ..Default::default() };
        assert_eq!(update(&t, same, &["name"]).await.unwrap().into_inner(), changed, "a change of nothing");
        let stale = ApiKey { id: key.id.clone(), name: "other".into(), etag: key.etag, ..Default::default() };
        check_error(update(&t, stale, &["name"]).await, Code::Aborted, ErrorReason::EtagMismatch);
        let bad = ApiKey { id: key.id.clone(), expire_time: Some(prost_types::Timestamp::default()), ..Default::default() };
        check_invalid(update(&t, bad, &["scopes", "expire_time"]).await, &["api_key.expire_time", "api_key.scopes"]);
        check_invalid(update(&t, ApiKey { id: key.id, ..Default::default() }, &["secret_prefix"]).await, &[
            "update_mask.paths[0]",
        ]);
    }

    async fn a_rotated_key_has_two_secrets_for_the_overlap(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (key, first) = key(&t, Scope::Read).await;
        let rotated = rotate(&t, &key, HOUR).await.unwrap();
        let (second, shown) = (rotated.secret, rotated.api_key.unwrap());
        assert!(second != first && shown.id == key.id && shown.former_secret_expire_time.is_some());
        assert!(second.starts_with(&shown.secret_prefix));
        assert!(opens(&t, &first).await && opens(&t, &second).await);
        clock.advance(Duration::from_secs(3_600));
        assert!(!opens(&t, &first).await && opens(&t, &second).await);

        // One after the other: the first of three is gone at once.
        let third = rotate(&t, &key, HOUR).await.unwrap().secret;
        let fourth = rotate(&t, &key, HOUR).await.unwrap().secret;
        assert!(!opens(&t, &second).await && opens(&t, &third).await && opens(&t, &fourth).await);
        let fifth = rotate(&t, &key, 0).await.unwrap().secret;
        assert!(!opens(&t, &fourth).await && opens(&t, &fifth).await, "without an overlap the former one ends at once");

        let revoke = v1::RevokeApiKeyRequest { id: key.id.clone(), ..Default::default() };
        t.root.workspaces().revoke_api_key(revoke).await.unwrap();
        assert!(!opens(&t, &fifth).await);
        let refused = rotate(&t, &key, HOUR).await.map(tonic::Response::new);
        check_error(refused, Code::FailedPrecondition, ErrorReason::WrongState);
        let long = v1::RotateApiKeyRequest {
            id: key.id,
            overlap: Some(prost_types::Duration { seconds: 7 * 24 * HOUR + 1, nanos: 0 }),
        };
        check_invalid(t.root.workspaces().rotate_api_key(long).await, &["overlap"]);
    }

    async fn a_key_says_when_it_was_used(t: Taghook) {
        let (key, secret) = key(&t, Scope::Read).await;
        assert_eq!(listed(&t, &key).await.last_used_time, None);
        assert!(opens(&t, &secret).await);
        within("the time of the use", async {
            while listed(&t, &key).await.last_used_time.is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
