//! The server that is measured: the built program, as its own process.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use taghook_client::v1::webhook_event::{Parameter, parameter::Source};
use taghook_client::v1::{self, Contact, Tag, Webhook, WebhookEvent};
use taghook_client::{Client, Options};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Failure;
use crate::database::Database;
use crate::fake_clock::FakeClock;
use crate::sink::Sink;

/// The contact that others are copied from.
pub(crate) const PATTERN: &str = "pattern@example.com";

/// A running `taghook serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// `host:port`.
    pub(crate) authority: String,
    key: String,
    /// How many lines it has logged since it serves.
    lines: Arc<AtomicUsize>,
}

impl Server {
    /// Starts the program on a database and waits until it serves.
    pub(crate) async fn start(program: &Path, database: &Database) -> Result<Self, Failure> {
        Self::start_with(program, database, None).await
    }

    /// The same, with a clock of its own.
    pub(crate) async fn start_with(
        program: &Path,
        database: &Database,
        clock: Option<&FakeClock>,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--allow-egress", "127.0.0.0/8"])
            .env_clear()
            .env("TAGHOOK_DATA_DIR", database.folder())
            .env("TAGHOOK_DATABASE_URL", database.url())
            .env("TAGHOOK_LOG_FORMAT", "json")
            .envs(clock.map(FakeClock::environment).into_iter().flatten())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let log = child.stderr.take().ok_or("the program has no log")?;
        let mut log = BufReader::new(log).lines();
        let mut seen = Vec::new();
        let authority = loop {
            let Some(line) = log.next_line().await? else {
                return Err(format!("the program ended:\n{}", seen.join("\n")).into());
            };
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            match entry.get("address").and_then(serde_json::Value::as_str) {
                Some(address) => break address.to_owned(),
                None => seen.push(line),
            }
        };
        // What else it says is shown: under load it should say nothing.
        let lines = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                counted.fetch_add(1, Ordering::Relaxed);
                eprintln!("server: {line}");
            }
        });
        let key = std::fs::read_to_string(database.folder().join("default.key"))?.trim().to_owned();
        Ok(Self { child, authority, key, lines })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// How many lines it has logged since it serves.
    pub(crate) fn lines(&self) -> usize {
        self.lines.load(Ordering::Relaxed)
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        client(&self.authority, &self.key)
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        self.kill_at_once().await
    }

    /// SIGKILL; what is left isn't of use any more.
    pub(crate) async fn kill_at_once(&mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }
}

/// A client that tries once and waits long.
pub(crate) fn client(authority: &str, key: &str) -> Result<Client, Failure> {
    let options = Options::new(format!("http://{authority}")).api_key(key).retries(0);
    Ok(Client::connect(options.deadline(Duration::from_secs(60)))?)
}

/// Makes what is to be triggered: the pattern of the contacts, a tag, and its webhook, which posts about 500 bytes. Answers
/// with the tag's id.
pub(crate) async fn prepare(client: &Client, sink: &Sink) -> Result<String, Failure> {
    let values = [
        ("first_name", "Ada Augusta"),
        ("last_name", "King, Countess of Lovelace"),
        ("company", "Analytical Engines & Sons Ltd."),
        ("street1", "12 St James's Square"),
        ("city", "London"),
        ("zip", "SW1Y 4JH"),
        ("country", "United Kingdom"),
        ("website", "https://example.com/analytical-engine/notes?by=translator"),
    ];
    let contact = Contact {
        email: PATTERN.to_owned(),
        values: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    };
    let request = v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
    client.contacts().create_contact(request).await?;
    let tag_id = add_tag(client, "bench").await?;
    let mut parameters: Vec<Parameter> =
        values.iter().map(|(key, _)| parameter(key, Source::ContactField((*key).to_owned()))).collect();
    parameters.push(parameter("note", Source::StaticValue("what every request says, ".repeat(7))));
    let webhook = Webhook {
        name: "bench".to_owned(),
        url: sink.url(),
        activation_tag_ids: vec![tag_id.clone()],
        events: vec![WebhookEvent { parameters, ..Default::default() }],
        ..Default::default()
    };
    add_webhook(client, webhook).await?;
    Ok(tag_id)
}

/// Makes a tag; answers with its id.
pub(crate) async fn add_tag(client: &Client, name: &str) -> Result<String, Failure> {
    let tag = Tag { name: name.to_owned(), ..Default::default() };
    let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
    Ok(client.tags().create_tag(request).await?.into_inner().id)
}

/// Makes a webhook.
pub(crate) async fn add_webhook(client: &Client, webhook: Webhook) -> Result<(), Failure> {
    let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
    client.webhooks().create_webhook(request).await?;
    Ok(())
}

fn parameter(name: &str, source: Source) -> Parameter {
    Parameter { name: name.to_owned(), source: Some(source), default_value: None }
}
