//! The built program, for tests of how it starts, is signalled and dies.

use std::ops::Deref;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use taghook_client::{Client, Options};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use super::{Api, Database, within};

/// A `taghook serve`. It is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    /// `host:port`.
    pub(crate) authority: String,
    api: Api,
    /// Reads its log, so that it never waits for a reader.
    log: JoinHandle<Vec<String>>,
}

impl Process {
    /// The built program, without the environment of the tests.
    pub(crate) fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taghook"));
        command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Starts a server and waits until it serves.
    pub(crate) async fn serve(database: &Database) -> Self {
        Self::serve_with(database, &[]).await
    }

    /// The same, with more in its environment.
    pub(crate) async fn serve_with(database: &Database, environment: &[(&str, &str)]) -> Self {
        let mut command = Self::command(&["serve", "--listen", "127.0.0.1:0", "--allow-egress", "127.0.0.0/8"]);
        command
            .envs(environment.iter().copied())
            .env("TAGHOOK_DATA_DIR", database.folder())
            .env("TAGHOOK_DATABASE_URL", database.url())
            .env("TAGHOOK_LOG_FORMAT", "json")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        let mut log = BufReader::new(child.stderr.take().expect("its log")).lines();
        let authority = within("the start of the program", address(&mut log)).await;
        let key = database.key("default.key");
        let options = Options::new(format!("http://{authority}")).api_key(key).retries(0);
        let client = Client::connect(options.deadline(Duration::from_secs(30))).expect("a client");
        Self { child, authority, api: Api { client }, log: tokio::spawn(collect(log)) }
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("the end of the program");
    }

    /// SIGTERM; how it ended, and what it logged since its start.
    pub(crate) async fn terminate(mut self) -> (ExitStatus, Vec<String>) {
        self.signal("TERM");
        within("the graceful stop", self.ended()).await
    }

    /// Sends it a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs");
        let signalled = std::process::Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
        assert!(signalled.expect("the program `kill`").success());
    }

    async fn ended(&mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().await.expect("its end");
        (status, (&mut self.log).await.expect("its log"))
    }
}

impl Deref for Process {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

async fn collect(mut log: Lines<BufReader<ChildStderr>>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(line) = log.next_line().await.expect("its log") {
        lines.push(line);
    }
    lines
}

/// The address that the log tells.
async fn address(log: &mut Lines<BufReader<ChildStderr>>) -> String {
    let mut seen = Vec::new();
    while let Some(line) = log.next_line().await.expect("its log") {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = entry["address"].as_str() {
            return address.to_owned();
        }
        seen.push(line);
    }
    panic!("the program ended:\n{}", seen.join("\n"));
}
