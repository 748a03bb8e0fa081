//! API keys. What is kept of a secret is its SHA-256: with 256 random bits in it, a slow hash would add nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, Set, Statement,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Tx;
use super::entity::api_key;
use crate::clock::Entropy;
use crate::domain::time::Micros;
use crate::domain::workspace::{ApiKey, Scopes};
use crate::error::{Error, Result};
use crate::ids::{ApiKeyId, TypedId, WorkspaceId};

/// The most keys of a workspace that are neither revoked nor expired.
pub const MAX_LIVE_KEYS: u64 = 100;

/// What the secret of a workspace's key starts with.
const WORKSPACE_PREFIX: &str = "thk_";
/// What the secret of the root key starts with.
const ROOT_PREFIX: &str = "thr_";
const RANDOM_BYTES: usize = 32;
/// The readable start of a secret: the prefix and four characters of the 43 random ones.
const SHOWN_CHARS: usize = 8;

/// The secret of a key: `thk_` (a workspace's) or `thr_` (the root key's) and 43 characters of base64url (RFC 4648,
/// section 5), which are 32 random bytes. It isn't shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new secret of a workspace's key.
    #[must_use]
    pub fn generate(entropy: &Entropy) -> Self {
        Self::with_prefix(WORKSPACE_PREFIX, entropy)
    }

    /// A new secret of the root key.
    #[must_use]
    pub fn generate_root(entropy: &Entropy) -> Self {
        Self::with_prefix(ROOT_PREFIX, entropy)
    }

    /// Reads a secret, of a workspace's key or of the root key; `None` if the text is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let random = text.strip_prefix(WORKSPACE_PREFIX).or_else(|| text.strip_prefix(ROOT_PREFIX))?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(random).ok()?);
        (bytes.len() == RANDOM_BYTES).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    fn with_prefix(prefix: &str, entropy: &Entropy) -> Self {
        let bytes = Zeroizing::new(entropy.bytes::<RANDOM_BYTES>());
        let random = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        Self(Zeroizing::new(format!("{prefix}{}", random.as_str())))
    }

    /// Whether it is the root key's.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.starts_with(ROOT_PREFIX)
    }

    /// The text that callers send.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The start, to recognise it by.
    #[must_use]
    pub fn shown_prefix(&self) -> String {
        self.0.chars().take(SHOWN_CHARS).collect()
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a secret opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The key.
    pub key: ApiKeyId,
    /// The workspace; `None` for the root key.
    pub workspace: Option<WorkspaceId>,
    /// What the key may do.
    pub scopes: Scopes,
    /// When the secret stops to work.
    pub expires: Option<Micros>,
    /// When the key was last used, to the minute.
    pub last_used: Option<Micros>,
}

/// What the secret with a hash opens, if its key isn't revoked and its workspace isn't deleted. Whether it has expired
/// is the caller's to see.
///
/// # Errors
///
/// The database's.
pub async fn find(db: &impl ConnectionTrait, hash: &[u8; 32]) -> Result<Option<Grant>> {
    let sql = "SELECT k.id, k.workspace_id, k.scopes, k.expires_us, k.last_used_us, \
               CASE WHEN k.secret_hash = $1 THEN NULL ELSE k.former_expires_us END AS secret_expires_us \
               FROM api_keys k LEFT JOIN workspaces w ON w.id = k.workspace_id \
               WHERE (k.secret_hash = $1 OR k.former_hash = $1) AND k.revoked_us IS NULL \
               AND (k.workspace_id IS NULL OR (w.id IS NOT NULL AND w.deleted_us IS NULL))";
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, [hash.to_vec().into()]);
    let Some(row) = db.query_one_raw(statement).await? else {
        return Ok(None);
    };
    let workspace: Option<uuid::Uuid> = row.try_get("", "workspace_id")?;
    let key_expires: Option<i64> = row.try_get("", "expires_us")?;
    let secret_expires: Option<i64> = row.try_get("", "secret_expires_us")?;
    let last_used: Option<i64> = row.try_get("", "last_used_us")?;
    Ok(Some(Grant {
        key: ApiKeyId(row.try_get("", "id")?),
        workspace: workspace.map(WorkspaceId),
        scopes: Scopes::from_code(row.try_get("", "scopes")?),
        expires: key_expires.into_iter().chain(secret_expires).min().map(Micros),
        last_used: last_used.map(Micros),
    }))
}

/// What changes with every revocation and every change of a key, on any server: how many keys were revoked, and the newest
/// times. Of revocations one of both alone wouldn't do: two servers' clocks differ, and retention removes keys of deleted
/// workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocations {
    count: i64,
    newest: Option<i64>,
    changed: Option<i64>,
}

/// The state of all keys, as far as it may end what they have opened.
///
/// # Errors
///
/// The database's.
pub async fn revocations(db: &impl ConnectionTrait) -> Result<Revocations> {
    let sql =
        "SELECT COUNT(revoked_us) AS revoked, MAX(revoked_us) AS newest, MAX(updated_us) AS changed FROM api_keys";
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    let row = row.ok_or_else(|| Error::internal("an aggregate without a row"))?;
    Ok(Revocations {
        count: row.try_get("", "revoked")?,
        newest: row.try_get("", "newest")?,
        changed: row.try_get("", "changed")?,
    })
}

/// Whether there is a root key.
///
/// # Errors
///
/// The database's.
pub async fn has_root(db: &impl ConnectionTrait) -> Result<bool> {
    let query = api_key::Entity::find().filter(api_key::Column::WorkspaceId.is_null()).limit(1);
    Ok(query.one(db).await?.is_some())
}

/// Makes a key the only root key: inserts it unless it is there, and revokes all others.
///
/// # Errors
///
/// The database's.
pub async fn replace_root(tx: &Tx, key: &ApiKey, secret: &Secret) -> Result<()> {
    if find(tx.db(), &secret.hash()).await?.is_none() {
        insert(tx, key, secret).await?;
    }
    let row = api_key::ActiveModel { revoked_us: Set(Some(tx.now().0)), ..Default::default() };
    api_key::Entity::update_many()
        .set(row)
        .filter(api_key::Column::WorkspaceId.is_null())
        .filter(api_key::Column::SecretHash.ne(secret.hash().to_vec()))
        .filter(api_key::Column::RevokedUs.is_null())
        .exec(tx.db())
        .await?;
    Ok(())
}

/// A key of any workspace, but not the root key, which can't be revoked by a call.
///
/// # Errors
///
/// [`Error::NotFound`]; the database's.
pub async fn get(db: &impl ConnectionTrait, id: ApiKeyId) -> Result<ApiKey> {
    let query = api_key::Entity::find_by_id(id.0).filter(api_key::Column::WorkspaceId.is_not_null());
    query.one(db).await?.map(from_row).ok_or_else(|| Error::not_found(id))
}

/// A key, of any workspace or the root key.
///
/// # Errors
///
/// [`Error::NotFound`]; the database's.
pub async fn get_any(db: &impl ConnectionTrait, id: ApiKeyId) -> Result<ApiKey> {
    api_key::Entity::find_by_id(id.0).one(db).await?.map(from_row).ok_or_else(|| Error::not_found(id))
}

/// The keys of a workspace in the order of their creation, after an id; revoked ones too.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    after: Option<ApiKeyId>,
    limit: u64,
) -> Result<Vec<ApiKey>> {
    let mut query = api_key::Entity::find().filter(api_key::Column::WorkspaceId.eq(workspace.0));
    if let Some(after) = after {
        query = query.filter(api_key::Column::Id.gt(after.0));
    }
    let rows = query.order_by_asc(api_key::Column::Id).limit(limit).all(db).await?;
    Ok(rows.into_iter().map(from_row).collect())
}

/// Inserts a key; its readable prefix is taken from the secret.
///
/// # Errors
///
/// [`Error::LimitReached`]; the database's.
pub async fn insert(tx: &Tx, key: &ApiKey, secret: &Secret) -> Result<()> {
    if let Some(workspace) = key.workspace_id {
        refuse_too_many(tx, workspace).await?;
    }
    let row = api_key::Model {
        id: key.id.0,
        workspace_id: key.workspace_id.map(TypedId::uuid),
        name: key.name.clone(),
        scopes: key.scopes.code(),
        secret_hash: secret.hash().to_vec(),
        secret_prefix: secret.shown_prefix(),
        created_us: key.created.0,
        expires_us: key.expires.map(|time| time.0),
        revoked_us: key.revoked.map(|time| time.0),
        version: key.version,
        updated_us: None,
        former_hash: None,
        former_expires_us: None,
        last_used_us: None,
    };
    row.into_active_model().reset_all().insert(tx.db()).await?;
    Ok(())
}

async fn refuse_too_many(tx: &Tx, workspace: WorkspaceId) -> Result<()> {
    let expires = api_key::Column::ExpiresUs;
    let live = api_key::Entity::find()
        .filter(api_key::Column::WorkspaceId.eq(workspace.0))
        .filter(api_key::Column::RevokedUs.is_null())
        .filter(Condition::any().add(expires.is_null()).add(expires.gt(tx.now().0)))
        .count(tx.db())
        .await?;
    if live < MAX_LIVE_KEYS { Ok(()) } else { Err(Error::LimitReached { resource: "api_key", limit: MAX_LIVE_KEYS }) }
}

/// Revokes a key; one that is revoked already keeps its time.
///
/// # Errors
///
/// [`Error::NotFound`]; the database's.
pub async fn revoke(tx: &Tx, id: ApiKeyId) -> Result<ApiKey> {
    let row = api_key::ActiveModel { revoked_us: Set(Some(tx.now().0)), ..Default::default() };
    api_key::Entity::update_many()
        .set(row)
        .filter(api_key::Column::Id.eq(id.0))
        .filter(api_key::Column::WorkspaceId.is_not_null())
        .filter(api_key::Column::RevokedUs.is_null())
        .exec(tx.db())
        .await?;
    get(tx.db(), id).await
}

/// Writes a key's name, scopes and expiry.
///
/// # Errors
///
/// The database's.
pub async fn update(tx: &Tx, key: &ApiKey) -> Result<()> {
    let row = api_key::ActiveModel {
        name: Set(key.name.clone()),
        scopes: Set(key.scopes.code()),
        expires_us: Set(key.expires.map(|time| time.0)),
        version: Set(key.version),
        updated_us: Set(key.updated.map(|time| time.0)),
        ..Default::default()
    };
    api_key::Entity::update_many().set(row).filter(api_key::Column::Id.eq(key.id.0)).exec(tx.db()).await?;
    Ok(())
}

/// Gives a key a new secret. The present one opens the workspace until `former_expires`, the one before it no more.
///
/// # Errors
///
/// [`Error::NotFound`]; [`Error::WrongState`] for a key that is revoked or has expired; the database's.
pub async fn rotate(tx: &Tx, id: ApiKeyId, secret: &Secret, former_expires: Micros) -> Result<ApiKey> {
    let key = get(tx.db(), id).await?;
    if !key.is_live(tx.now()) {
        let state = if key.revoked.is_some() { "REVOKED" } else { "EXPIRED" };
        return Err(Error::WrongState { resource: "api_key", state, hint: "create another key" });
    }
    let row = api_key::ActiveModel {
        secret_hash: Set(secret.hash().to_vec()),
        secret_prefix: Set(secret.shown_prefix()),
        former_expires_us: Set(Some(former_expires.0)),
        version: Set(key.version + 1),
        updated_us: Set(Some(tx.now().0)),
        ..Default::default()
    };
    api_key::Entity::update_many()
        .set(row)
        .col_expr(api_key::Column::FormerHash, Expr::col(api_key::Column::SecretHash))
        .filter(api_key::Column::Id.eq(id.0))
        .exec(tx.db())
        .await?;
    get(tx.db(), id).await
}

/// Notes that keys were used now.
///
/// # Errors
///
/// The database's.
pub async fn note_used(tx: &Tx, keys: &[ApiKeyId]) -> Result<()> {
    let row = api_key::ActiveModel { last_used_us: Set(Some(tx.now().0)), ..Default::default() };
    let ids = keys.iter().map(|key| key.0);
    api_key::Entity::update_many().set(row).filter(api_key::Column::Id.is_in(ids)).exec(tx.db()).await?;
    Ok(())
}

/// Revokes all keys of a workspace.
///
/// # Errors
///
/// The database's.
pub(super) async fn revoke_all(tx: &Tx, workspace: WorkspaceId) -> Result<()> {
    let row = api_key::ActiveModel { revoked_us: Set(Some(tx.now().0)), ..Default::default() };
    api_key::Entity::update_many()
        .set(row)
        .filter(api_key::Column::WorkspaceId.eq(workspace.0))
        .filter(api_key::Column::RevokedUs.is_null())
        .exec(tx.db())
        .await?;
    Ok(())
}

fn from_row(row: api_key::Model) -> ApiKey {
    ApiKey {
        id: ApiKeyId(row.id),
        workspace_id: row.workspace_id.map(WorkspaceId),
        name: row.name,
        scopes: Scopes::from_code(row.scopes),
        secret_prefix: row.secret_prefix,
        created: Micros(row.created_us),
        expires: row.expires_us.map(Micros),
        revoked: row.revoked_us.map(Micros),
        former_expires: row.former_expires_us.map(Micros),
        last_used: row.last_used_us.map(Micros),
        version: row.version,
        updated: row.updated_us.map(Micros),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_their_written_form() {
        let entropy = Entropy::system();
        let (key, root) = (Secret::generate(&entropy), Secret::generate_root(&entropy));
        assert!(key.expose().starts_with("thk_") && key.expose().len() == 47);
        assert!(root.expose().starts_with("thr_") && root.expose().len() == 47);
        assert!(root.is_root() && !key.is_root());
        assert!(key.shown_prefix().len() == 8 && key.expose().starts_with(&key.shown_prefix()));
        assert_eq!(Secret::parse(key.expose()).map(|read| read.hash()), Some(key.hash()));
        assert_eq!(format!("{key:?}"), "Secret(..)");
    }

    /// The digest is `sha256sum`'s of the text.
    #[test]
    fn the_hash_is_sha_256_of_the_text() {
        let secret = Secret::parse("thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        let expected = "3ccd772e924f0b1454a62f57a7923b780157be64bc3eb317b8654d2a9e0675d5";
        assert_eq!(data_encoding::HEXLOWER.encode(&secret.hash()), expected);
    }

    #[test]
    fn refuses_what_is_no_secret() {
        for text in [
            "",
            "thk_",
            "thx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=A",
            "thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA A",
            "thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA+",
        ] {
            assert!(Secret::parse(text).is_none(), "{text:?} was taken");
        }
    }
}
