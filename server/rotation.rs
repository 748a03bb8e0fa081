//! Replacing the deployment's own keys by hand: the master key of the secrets, and the root key.
//!
//! A new key is written to a file beside the old one's first, then the database learns of it in one transaction, then the
//! file takes the old one's place. Whoever is killed in between leaves both files, one of which is the database's: a server
//! starts with whichever that is, and running the command again goes on where it was broken off.

use std::path::PathBuf;

use crate::config::Config;
use crate::error::Error;
use crate::first_start::{self, KeyFileError, ROOT_KEY_FILE};
use crate::key_file;
use crate::secrets::{InvalidMasterKey, MasterKey, Sealer};
use crate::server::{self, Environment, StartError};
use crate::store::api_key::{self, Secret};
use crate::store::{Store, Tx, heartbeat, reseal};

/// The root key's file until it takes its place.
const NEXT_ROOT_KEY_FILE: &str = "root.key.new";

/// Why a key isn't replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// There is nothing to replace.
    #[error("there is no master key: neither {0} nor TAGHOOK_SECRET_KEY")]
    NoMasterKey(PathBuf),
    /// The present key is given by the environment, and the new one isn't.
    #[error("TAGHOOK_SECRET_KEY gives the present master key: set TAGHOOK_NEW_SECRET_KEY to the new one")]
    NoNewKey,
    /// The new key is the present one.
    #[error("the new master key is the present one")]
    SameKey,
    /// A replacement that was broken off had another key.
    #[error(
        "{0} holds another new master key, of a replacement that was broken off; finish that one first, without \
             TAGHOOK_NEW_SECRET_KEY"
    )]
    OtherNewKey(PathBuf),
    /// Other servers would go on with the former key.
    #[error("servers use the database; stop all of them first")]
    ServersLive,
    /// The database knows no root key.
    #[error("the database has no root key yet; `taghook serve` makes one")]
    NoRootKey,
    /// The database can't be opened.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A key file can't be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The environment's key is none.
    #[error("TAGHOOK_NEW_SECRET_KEY can't be used")]
    NewKey(#[from] InvalidMasterKey),
    /// The database's error.
    #[error("the database wasn't changed, or didn't say whether it was; run the command again")]
    Store(#[from] Error),
}

/// A master key that was replaced.
#[derive(Debug, PartialEq, Eq)]
pub struct MasterRotation {
    /// The webhooks that were sealed anew; `None` if an earlier run had done it, and this one had only to put the key file
    /// in its place.
    pub webhooks: Option<usize>,
    /// The key file, and where the former key is kept; `None` if the environment gives the keys.
    pub files: Option<(PathBuf, PathBuf)>,
}

/// Replaces the master key by the one of the environment or a new one, and seals everything with it.
///
/// # Errors
///
/// See [`RotationError`].
pub async fn rotate_master(config: &Config, environment: &Environment) -> Result<MasterRotation, RotationError> {
    let present = present_master_key(config)?;
    let next = new_master_key(config, environment)?;
    let (from, to) = (Sealer::new(&present), Sealer::new(&next));
    if from.key_id() == to.key_id() {
        return Err(RotationError::SameKey);
    }
    let (store, _handovers) = server::open_store_with(config, environment, &[&from, &to]).await?;
    let webhooks = if store.is_sealed_with(&to) { Ok(None) } else { seal_anew(&store, &to).await.map(Some) };
    server::leave(&store).await;
    let webhooks = webhooks?;
    let path = config.key_file();
    let is_in_file = config.secrets.key.is_none();
    let files = is_in_file.then(|| (path.clone(), first_start::former_master_key_file(&path, &from)));
    first_start::adopt_next_master_key(config, &to)?;
    Ok(MasterRotation { webhooks, files })
}

async fn seal_anew(store: &Store, to: &Sealer) -> Result<usize, RotationError> {
    if !heartbeat::outlive(store).await? {
        return Err(RotationError::ServersLive);
    }
    reseal::reseal(store, to).await?.ok_or(RotationError::ServersLive)
}

fn present_master_key(config: &Config) -> Result<MasterKey, RotationError> {
    let text = match &config.secrets.key {
        Some(text) => text.0.clone(),
        None => {
            let path = config.key_file();
            key_file::read(&path)?.ok_or(RotationError::NoMasterKey(path))?
        }
    };
    Ok(MasterKey::parse_base64(&text).map_err(KeyFileError::from)?)
}

/// The new key; where the present one is in a file it is in one, too, before anything is sealed with it.
fn new_master_key(config: &Config, environment: &Environment) -> Result<MasterKey, RotationError> {
    let given = config.secrets.new_key.as_ref().map(|text| MasterKey::parse_base64(&text.0)).transpose()?;
    if config.secrets.key.is_some() {
        return given.ok_or(RotationError::NoNewKey);
    }
    let path = key_file::next(&config.key_file());
    let made = given.clone().unwrap_or_else(|| environment.entropy.with(MasterKey::generate));
    let (text, _) = key_file::read_or_write(&path, &made.expose_base64())?;
    let next = MasterKey::parse_base64(&text).map_err(KeyFileError::from)?;
    let is_given = given.is_none_or(|given| Sealer::new(&given).key_id() == Sealer::new(&next).key_id());
    if is_given { Ok(next) } else { Err(RotationError::OtherNewKey(path)) }
}

/// Replaces the root key: the former one opens nothing from now on. Answers with the file of the new one.
///
/// # Errors
///
/// See [`RotationError`].
pub async fn rotate_root(config: &Config, environment: &Environment) -> Result<PathBuf, RotationError> {
    let (store, _handovers) = server::open_store(config, environment).await?;
    let replaced = replace_root(&store, config).await;
    server::leave(&store).await;
    replaced?;
    let path = config.data_dir.join(ROOT_KEY_FILE);
    key_file::replace(&path)?;
    Ok(path)
}

async fn replace_root(store: &Store, config: &Config) -> Result<(), RotationError> {
    if !api_key::has_root(store.read()).await? {
        return Err(RotationError::NoRootKey);
    }
    let new = Secret::generate_root(store.entropy());
    let (secret, _) = first_start::secret(&config.data_dir, NEXT_ROOT_KEY_FILE, &new)?;
    let secret = &secret;
    let replace = |tx: Tx| async move {
        tx.gate_exclusive().await?;
        api_key::replace_root(&tx, &first_start::key(&tx, "root", None, []), secret).await
    };
    Ok(store.write("replace_root", replace).await?)
}
