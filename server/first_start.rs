//! The key files in the data folder: the master key of the secrets (`secret.key`), and what the first start on a database
//! makes, the root key (`root.key`) and a key of the default workspace (`default.key`). All are for their owner alone,
//! appear whole or not at all, and are never overwritten.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::clock::Entropy;
use crate::config::Config;
use crate::domain::workspace::{ApiKey, Scope, Scopes};
use crate::error::{Error, Result};
use crate::ids::{ApiKeyId, TypedId, WorkspaceId};
use crate::key_file::{self, read_or_write};
use crate::secrets::{InvalidMasterKey, MasterKey, Sealer};
use crate::store::api_key::{self, Secret};
use crate::store::{Store, Tx};

/// The file of the root key.
pub const ROOT_KEY_FILE: &str = "root.key";
const DEFAULT_KEY_FILE: &str = "default.key";
const FOLDER_OF_OWNER: u32 = 0o700;

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be read or written.
    #[error("the key file {name} can't be read or written")]
    Io {
        /// The file's name, without its folder.
        name: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("the file {name} holds no API key; move it away, or put the key back")]
    NoApiKey {
        /// The file's name.
        name: &'static str,
    },
    /// It holds something else, or the environment does.
    #[error("the master key of the secrets can't be used")]
    MasterKey(#[from] InvalidMasterKey),
    /// The keys can't be kept in the database.
    #[error("the first API keys can't be made")]
    Store(#[from] Error),
}

/// The master key, and whether its file was made just now.
#[derive(Debug)]
pub struct Master {
    /// The key.
    pub key: MasterKey,
    /// Whether this start made it.
    pub is_new: bool,
}

/// Makes the data folder, for its owner alone, unless it is there.
///
/// # Errors
///
/// The system's.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_OF_OWNER).create(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("other users can look into the data folder; `chmod 700` keeps them out");
    }
    Ok(())
}

/// The master key: that of the environment, else that of the key file, which is made if it isn't there.
///
/// # Errors
///
/// See [`KeyFileError`].
pub fn master_key(config: &Config, entropy: &Entropy) -> Result<Master, KeyFileError> {
    if let Some(text) = &config.secrets.key {
        return Ok(Master { key: MasterKey::parse_base64(&text.0)?, is_new: false });
    }
    let path = config.key_file();
    let new = entropy.with(|rng| MasterKey::generate(rng).expose_base64());
    let (text, is_new) = read_or_write(&path, &new)?;
    Ok(Master { key: MasterKey::parse_base64(&text)?, is_new })
}

/// The master key that is to take the present one's place: that of the environment, else what a replacement that was broken
/// off has left in a file beside the key file. It may have been used already.
///
/// # Errors
///
/// See [`KeyFileError`].
pub fn next_master_key(config: &Config) -> Result<Option<MasterKey>, KeyFileError> {
    let text = match &config.secrets.new_key {
        Some(text) => Some(text.0.clone()),
        None => key_file::read(&key_file::next(&config.key_file()))?,
    };
    Ok(text.map(|text| MasterKey::parse_base64(&text)).transpose()?)
}

/// Puts the next master key, by which the database is sealed at present, in the key file's place, and keeps the former one beside
/// it under a name with its id, for backups of the database. Nothing is done where the environment gives the keys, nor with
/// a file that holds another key.
///
/// # Errors
///
/// See [`KeyFileError`].
pub fn adopt_next_master_key(config: &Config, present: &Sealer) -> Result<(), KeyFileError> {
    let path = config.key_file();
    if config.secrets.key.is_some() {
        return Ok(());
    }
    let Some(next) = key_file::read(&key_file::next(&path))? else { return Ok(()) };
    if Sealer::new(&MasterKey::parse_base64(&next)?).key_id() != present.key_id() {
        return Ok(());
    }
    if let Some(text) = key_file::read(&path)? {
        let former = Sealer::new(&MasterKey::parse_base64(&text)?);
        key_file::keep(&path, &former_master_key_file(&path, &former))?;
    }
    key_file::replace(&path)
}

/// Where a former master key is kept.
pub(crate) fn former_master_key_file(path: &Path, former: &Sealer) -> PathBuf {
    key_file::beside(path, &format!(".{}", former.key_id()))
}

/// Removes a master key that this start made, and that the database refused: it would be refused for ever.
pub fn forget_master_key(config: &Config) {
    let _ = fs::remove_file(config.key_file());
}

/// Makes the first keys of a database that has no root key: on its first start, or when that one died half way.
///
/// The files come first: a key that the database knows and nobody holds couldn't be replaced.
///
/// # Errors
///
/// See [`KeyFileError`].
pub async fn api_keys(store: &Store, folder: &Path) -> Result<(), KeyFileError> {
    if api_key::has_root(store.read()).await? {
        if !folder.join(ROOT_KEY_FILE).exists() {
            tracing::info!(
                "root.key and default.key are in the data folder of the server that first used this database"
            );
        }
        return Ok(());
    }
    let entropy = store.entropy();
    let (root, made_root) = secret(folder, ROOT_KEY_FILE, &Secret::generate_root(entropy))?;
    let (default, made_default) = secret(folder, DEFAULT_KEY_FILE, &Secret::generate(entropy))?;
    let keys = (&root, &default);
    if store.write("first_keys", |tx: Tx| insert(tx, keys)).await? {
        tracing::info!("made root.key and default.key in the data folder");
        return Ok(());
    }
    // Another server was first; what was written here opens nothing, unless it has read it in the folder that we share.
    for (name, is_made, secret) in [(ROOT_KEY_FILE, made_root, &root), (DEFAULT_KEY_FILE, made_default, &default)] {
        if is_made && api_key::find(store.read(), &secret.hash()).await?.is_none() {
            fs::remove_file(folder.join(name)).map_err(|source| KeyFileError::Io { name: name.to_owned(), source })?;
        }
    }
    Ok(())
}

/// Inserts the keys, unless there is a root key by now.
async fn insert(tx: Tx, (root, default): (&Secret, &Secret)) -> Result<bool> {
    tx.gate_exclusive().await?;
    if api_key::has_root(tx.db()).await? {
        return Ok(false);
    }
    api_key::insert(&tx, &key(&tx, "root", None, []), root).await?;
    // The file may be older than the database's root key, if somebody is replacing that one.
    if api_key::find(tx.db(), &default.hash()).await?.is_none() {
        let workspace = tx.store().facts().default_workspace;
        api_key::insert(&tx, &key(&tx, "default", Some(workspace), [Scope::Admin]), default).await?;
    }
    Ok(true)
}

pub(crate) fn key<const N: usize>(
    tx: &Tx,
    name: &str,
    workspace_id: Option<WorkspaceId>,
    scopes: [Scope; N],
) -> ApiKey {
    ApiKey {
        id: ApiKeyId::generate(tx.now(), tx.store().entropy()),
        workspace_id,
        name: name.to_owned(),
        scopes: scopes.into_iter().collect::<Scopes>(),
        secret_prefix: String::new(),
        created: tx.now(),
        expires: None,
        revoked: None,
        former_expires: None,
        last_used: None,
        version: 1,
        updated: None,
    }
}

/// The secret in a file, which is made with a new one if it isn't there; and whether it was.
pub(crate) fn secret(folder: &Path, name: &'static str, new: &Secret) -> Result<(Secret, bool), KeyFileError> {
    let (text, is_new) = read_or_write(&folder.join(name), new.expose())?;
    let secret = Secret::parse(text.trim()).filter(|secret| secret.is_root() == new.is_root());
    Ok((secret.ok_or(KeyFileError::NoApiKey { name })?, is_new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let entropy = Entropy::system();
        let (root, key) = (Secret::generate_root(&entropy), Secret::generate(&entropy));
        fs::write(folder.path().join(ROOT_KEY_FILE), key.expose()).unwrap();
        assert!(matches!(
            secret(folder.path(), ROOT_KEY_FILE, &root),
            Err(KeyFileError::NoApiKey { name: "root.key" })
        ));
    }
}
