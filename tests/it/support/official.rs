//! The official Standard Webhooks library of Python, which judges our signatures.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Received, within};

/// Where `cargo xtask test --install` puts it.
const FOLDER: &str = "target/tools/standardwebhooks-1.1.0";
const SCRIPT: &str = "tests/it/support/official.py";

/// The library, installed.
#[derive(Debug)]
pub(crate) struct OfficialLibrary(PathBuf);

impl OfficialLibrary {
    /// Finds it.
    #[track_caller]
    pub(crate) fn find() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
        assert!(folder.is_dir(), "no {FOLDER}; `cargo xtask test --install` installs it");
        Self(folder)
    }

    /// Whether it takes the request for ours; else what it says.
    pub(crate) async fn verify(&self, received: &Received, secret: &str) -> Result<(), String> {
        let headers: serde_json::Map<_, _> = received
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().expect("visible ASCII").into()))
            .collect();
        let question = json!({"secret": secret, "headers": headers, "signed": STANDARD.encode(received.signed())});
        let mut python = Command::new("python3");
        python.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT)).arg(&self.0);
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = python.spawn().expect("python3");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(question.to_string().as_bytes()).await.expect("a question");
        drop(stdin);
        let output = within("the library's verdict", child.wait_with_output()).await.expect("a verdict");
        let verdict = String::from_utf8(output.stdout).expect("text");
        match verdict.trim() {
            "verified" => Ok(()),
            other => Err(other.to_owned()),
        }
    }
}
