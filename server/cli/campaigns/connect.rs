//! Which server is called, and with which key.

use std::path::PathBuf;

use taghook_client::{Client, Code, Error, Options};
use tonic::Status;

use super::{Failure, Result};

/// The flags that say which server is called.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The server.
    #[arg(
        long,
        global = true,
        env = "TAGHOOK_ADDRESS",
        default_value = "http://127.0.0.1:50051",
        hide_env_values = true,
        value_name = "URL"
    )]
    address: String,

    /// A file with the workspace's API key, as `default.key` in the server's data folder. Without it the environment
    /// variable `TAGHOOK_API_KEY` gives the key.
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl Server {
    /// Makes a client; the first call connects.
    ///
    /// # Errors
    ///
    /// There is no key, or no client can be made of the flags.
    pub(super) fn connect(&self) -> Result<Client> {
        let key = match &self.key_file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| format!("the key file {} can't be read: {error}", file.display()))?,
            None => std::env::var("TAGHOOK_API_KEY").map_err(|_| {
                "there is no API key: give --key-file (the first start of a server makes `default.key` in its data folder), \
                 or set TAGHOOK_API_KEY"
            })?,
        };
        Ok(Client::connect(Options::new(&self.address).api_key(key.trim()))?)
    }
}

/// Why a call failed, for people.
pub(super) fn told(status: Status) -> Failure {
    let error = Error::from(status);
    match error.code {
        Code::Unavailable => format!("the server can't be reached: {}", error.message).into(),
        _ => error.message.into(),
    }
}
