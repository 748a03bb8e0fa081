//! The official Standard Webhooks libraries of several languages, which judge our signatures.
//!
//! They know scheme `v1`. What judges `v1a` in JavaScript and Go is the language's own Ed25519, as the specification says.

use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Received, within};

/// Scripts that ask a library are here.
const SCRIPTS: &str = "tests/it/support";
/// Where `cargo xtask test --install` puts the libraries.
const TOOLS: &str = "target/tools";

/// A library, installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfficialLibrary {
    /// The language.
    pub(crate) language: &'static str,
    /// Whether it judges `v1a` too.
    pub(crate) knows_v1a: bool,
    folder: &'static str,
    run: Run,
}

#[derive(Clone, Copy, Debug)]
enum Run {
    /// A script, run by this program with these arguments before the script's name; it takes the library's folder.
    Script(&'static str, &'static [&'static str], &'static str),
    /// A program in the folder.
    Program(&'static str),
}

const PYTHON: OfficialLibrary = OfficialLibrary {
    language: "Python",
    knows_v1a: false,
    folder: "standardwebhooks-1.1.0",
    run: Run::Script("python3", &["-I"], "official.py"),
};
const JAVASCRIPT: OfficialLibrary = OfficialLibrary {
    language: "JavaScript",
    knows_v1a: true,
    folder: "standardwebhooks-js-1.1.1",
    run: Run::Script("node", &[], "official.mjs"),
};
const GO: OfficialLibrary = OfficialLibrary {
    language: "Go",
    knows_v1a: true,
    folder: "standardwebhooks-go-0.0.1",
    run: Run::Program("bin/official"),
};

impl OfficialLibrary {
    /// Finds all.
    #[track_caller]
    pub(crate) fn all() -> [Self; 3] {
        let all = [PYTHON, JAVASCRIPT, GO];
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for library in all {
            let folder = library.folder;
            let is_there = root.join(TOOLS).join(folder).is_dir();
            assert!(is_there, "no {TOOLS}/{folder}; `cargo xtask test --install` installs it");
        }
        all
    }

    /// Whether it takes the request for ours; else what it says. The key is a secret or a public key.
    pub(crate) async fn verify(&self, received: &Received, key: &str) -> Result<(), String> {
        let headers: serde_json::Map<_, _> = received
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().expect("visible ASCII").into()))
            .collect();
        let question = json!({"secret": key, "headers": headers, "signed": STANDARD.encode(received.signed())});
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
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

    fn command(&self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join(TOOLS).join(self.folder);
        match self.run {
            Run::Script(program, arguments, script) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(root.join(SCRIPTS).join(script)).arg(folder);
                command
            }
            Run::Program(program) => Command::new(folder.join(program)),
        }
    }
}
