//! The key files in the data folder: the master key of the secrets (`secret.key`), and what the first start on a database
//! makes, the root key (`root.key`) and a key of the default workspace (`default.key`). All are for their owner alone,
//! appear whole or not at all, and are never overwritten.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::clock::Entropy;
use crate::config::Config;
use crate::domain::workspace::{ApiKey, Scope, Scopes};
use crate::error::{Error, Result};
use crate::ids::{ApiKeyId, TypedId, WorkspaceId};
use crate::secrets::{InvalidMasterKey, MasterKey};
use crate::store::api_key::{self, Secret};
use crate::store::{Store, Tx};

const ROOT_KEY_FILE: &str = "root.key";
const DEFAULT_KEY_FILE: &str = "default.key";
const OWNER_ALONE: u32 = 0o600;
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
    // Another server was first; what was written here opens nothing.
    for (name, is_made) in [(ROOT_KEY_FILE, made_root), (DEFAULT_KEY_FILE, made_default)] {
        if is_made {
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

fn key<const N: usize>(tx: &Tx, name: &str, workspace_id: Option<WorkspaceId>, scopes: [Scope; N]) -> ApiKey {
    ApiKey {
        id: ApiKeyId::generate(tx.now(), tx.store().entropy()),
        workspace_id,
        name: name.to_owned(),
        scopes: scopes.into_iter().collect::<Scopes>(),
        secret_prefix: String::new(),
        created: tx.now(),
        expires: None,
        revoked: None,
    }
}

/// The secret in a file, which is made with a new one if it isn't there; and whether it was.
fn secret(folder: &Path, name: &'static str, new: &Secret) -> Result<(Secret, bool), KeyFileError> {
    let (text, is_new) = read_or_write(&folder.join(name), new.expose())?;
    let secret = Secret::parse(text.trim()).filter(|secret| secret.is_root() == new.is_root());
    Ok((secret.ok_or(KeyFileError::NoApiKey { name })?, is_new))
}

/// What stands in a file; if it isn't there it is made with `new`. And whether it was.
fn read_or_write(path: &Path, new: &str) -> Result<(Zeroizing<String>, bool), KeyFileError> {
    let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_new = match path.try_exists() {
        Ok(true) => Ok(false),
        Ok(false) => write_new(path, new),
        Err(error) => Err(error),
    };
    let read = |is_new| Ok((Zeroizing::new(fs::read_to_string(path)?), is_new));
    is_new.and_then(read).map_err(|source| KeyFileError::Io { name: name(), source })
}

/// Writes a file that isn't there, whole or not at all; false if it has appeared meanwhile.
fn write_new(path: &Path, text: &str) -> io::Result<bool> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(OWNER_ALONE).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    let is_new = publish(&temporary, path);
    let _ = fs::remove_file(&temporary);
    // The name is durable with the folder.
    File::open(folder)?.sync_all()?;
    is_new
}

/// Gives a file its name, unless the name is taken.
fn publish(temporary: &Path, path: &Path) -> io::Result<bool> {
    match fs::hard_link(temporary, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // A file system without links: a rename is as whole, but could replace a file that appears at this very moment.
        Err(_) => fs::rename(temporary, path).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let (first, is_new) = read_or_write(&path, "one").unwrap();
        assert_eq!((first.as_str(), is_new), ("one\n", true));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (second, is_new) = read_or_write(&path, "two").unwrap();
        assert_eq!((second.as_str(), is_new), ("one\n", false));
        assert!(!write_new(&path, "three").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["root.key"]);
    }

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
