//! `taghook demo`: the main job from end to end, in one process and a temporary folder.

mod journey;

use std::error::Error;
use std::fmt::Debug;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use taghook::config::{Config, Egress};
use taghook::lifecycle::Signals;
use taghook::{Environment, Server};
use taghook_client::contact::by_email;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::webhook_event::parameter::Source;
use taghook_client::v1::webhook_event::{Parameter, SystemValue};
use taghook_client::{Client, Options, Outcomes, Start, v1};
use tokio::time::{Instant, timeout};

use super::receiver::{Received, Receiver};
use super::show::{self, BOLD, DIM, GOOD, Headers, NAME, Verdict};

const DEADLINE: Duration = Duration::from_secs(30);
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const EMAIL: &str = "ada@example.com";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Tells the story on standard output.
///
/// # Errors
///
/// Whatever went wrong, or that it took over 30 seconds.
pub(crate) async fn run(environment: Environment) -> Result<()> {
    let mut signals = Signals::take()?;
    let folder = tempfile::Builder::new().prefix("taghook-demo-").tempdir()?;
    let told = tokio::select! {
        told = timeout(DEADLINE, start(folder.path(), environment)) => {
            told.unwrap_or_else(|_| Err(format!("it took over {} s", DEADLINE.as_secs()).into()))
        }
        () = signals.next() => Err("it was interrupted".into()),
    };
    folder.close()?;
    told
}

/// The story, with what it needs of the world.
struct Demo {
    client: Client,
    receiver: Receiver,
    outcomes: Outcomes,
    webhook_id: String,
    tag_id: String,
    secrets: Vec<String>,
}

impl Demo {
    /// Makes a contact, a tag and a webhook, and opens the stream.
    async fn prepare(client: Client, receiver: Receiver) -> Result<Self> {
        let contact = v1::Contact {
            email: EMAIL.into(),
            values: [("first_name".into(), "Ada".into()), ("city".into(), "London".into())].into(),
            ..Default::default()
        };
        let request = v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
        client.contacts().create_contact(request).await?;
        let tag = v1::Tag { name: "Newsletter".into(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
        let tag = client.tags().create_tag(request).await?.into_inner();
        let webhook = webhook(format!("http://{}/crm/contacts", receiver.address()), tag.id.clone());
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        let webhook = client.webhooks().create_webhook(request).await?.into_inner();
        let request = v1::GetWebhookSecretRequest { id: webhook.id.clone() };
        let secrets = client.webhooks().get_webhook_secret(request).await?.into_inner().secrets;

        let mut outcomes = client.outcomes(v1::OutcomeFilter::default(), Start::Now);
        outcomes.ready().await?;
        say(&format!("   {DIM}contact{DIM:#}  {EMAIL}"))?;
        say(&format!("   {DIM}tag{DIM:#}      {}", tag.name))?;
        say(&format!("   {DIM}webhook{DIM:#}  {}, POST {}", webhook.name, webhook.url))?;
        Ok(Self {
            client,
            receiver,
            outcomes,
            webhook_id: webhook.id,
            tag_id: tag.id,
            secrets: secrets.into_iter().map(|secret| secret.value).collect(),
        })
    }

    /// Tags the contact: the request arrives.
    async fn tag(&mut self) -> Result<()> {
        let asked = Instant::now();
        expect("the decision", self.tag_contact().await?, Decision::Scheduled)?;
        let received = self.receiver.next().await?;
        let taken_ms = asked.elapsed().as_millis();
        step(1, "TagContact", &format!("sets off the tag's webhook. {taken_ms} ms later the request is there:"))?;
        let verdict = self.verified(&received)?;
        let mut text = Vec::new();
        show::request(&mut text, &received, Headers::Telling, verdict)?;
        String::from_utf8_lossy(&text).lines().try_for_each(quote)?;
        say("")?;
        self.outcome(Kind::Delivered).await
    }

    /// Tags the contact again, within the cooldown: nothing is sent.
    async fn tag_again(&mut self) -> Result<()> {
        step(2, "TagContact", "once more. For one contact, tags set off a webhook once in 6 hours:")?;
        expect("the decision", self.tag_contact().await?, Decision::Suppressed)?;
        self.outcome(Kind::Suppressed).await
    }

    /// Fires the webhook, whatever the cooldown says.
    async fn trigger(&mut self) -> Result<()> {
        step(3, "TriggerWebhook", "fires at once, whatever the cooldown says:")?;
        let request =
            v1::TriggerWebhookRequest { id: self.webhook_id.clone(), contact: by_email(EMAIL), ..Default::default() };
        let trigger = self.client.webhooks().trigger_webhook(request).await?.into_inner().trigger;
        expect("the decision", trigger.unwrap_or_default().decision(), Decision::Scheduled)?;
        let received = self.receiver.next().await?;
        self.verified(&received)?;
        quote(&format!("{BOLD}{} {}{BOLD:#}  {GOOD}✓ signature valid{GOOD:#}", received.method, received.uri))?;
        say("")?;
        self.outcome(Kind::Delivered).await
    }

    async fn tag_contact(&self) -> Result<Decision> {
        let request = v1::TagContactRequest {
            contact: by_email(EMAIL),
            tag_ids: vec![self.tag_id.clone()],
            ..Default::default()
        };
        let answer = self.client.contacts().tag_contact(request).await?.into_inner();
        let trigger = answer.triggers.first().ok_or("the tag triggered no webhook")?;
        Ok(trigger.decision())
    }

    fn verified(&self, received: &Received) -> Result<Verdict> {
        let verdict = Verdict::of(received, &self.secrets);
        expect("the signature", verdict, Verdict::Valid)?;
        Ok(verdict)
    }

    /// Waits for the next outcome and shows it.
    async fn outcome(&mut self, expected: Kind) -> Result<()> {
        let outcome = self.outcomes.next().await.ok_or("the stream of outcomes has ended")??.outcome;
        expect("the outcome", outcome.kind(), expected)?;
        let kind = expected.as_str_name().trim_start_matches("KIND_");
        let detail = match &outcome.attempt {
            Some(attempt) => format!("the receiver answered {}", attempt.status_code),
            None => outcome.reason().as_str_name().trim_start_matches("DELIVERY_REASON_").to_lowercase(),
        };
        say(&format!("   {DIM}outcome{DIM:#}  {GOOD}{kind}{GOOD:#}, {detail}"))
    }
}

/// Starts what the story needs, tells it, and stops everything.
async fn start(folder: &Path, environment: Environment) -> Result<()> {
    say(&format!("{BOLD}Taghook{BOLD:#}: a server on SQLite and a webhook receiver, in a temporary folder."))?;
    say("")?;
    let receiver = Receiver::start(LOOPBACK, StatusCode::OK, environment.clock.clone()).await?;
    let config = Config {
        data_dir: folder.join("data"),
        listen: LOOPBACK,
        egress: Egress { allow: vec!["127.0.0.0/8".parse()?], ..Egress::default() },
        ..Config::default()
    };
    let server = Server::start(&config, environment).await?;
    let key = std::fs::read_to_string(config.data_dir.join("default.key"))?;
    let client = Client::connect(Options::new(format!("http://{}", server.local_addr())).api_key(key.trim()))?;
    let told = tell(client, receiver).await;
    let stopped = server.stop().await;
    told?;
    Ok(stopped?)
}

async fn tell(client: Client, receiver: Receiver) -> Result<()> {
    let mut demo = Demo::prepare(client, receiver).await?;
    demo.tag().await?;
    demo.tag_again().await?;
    demo.trigger().await?;
    demo.journey().await?;
    say("")?;
    say(&format!(
        "Next: {BOLD}taghook serve{BOLD:#} and {BOLD}taghook receive{BOLD:#}, each in a terminal, and the README's tour."
    ))
}

/// The webhook of the story.
fn webhook(url: String, tag_id: String) -> v1::Webhook {
    let parameter = |name: &str, source| Parameter { name: name.into(), source: Some(source), default_value: None };
    let event = v1::WebhookEvent {
        parameters: vec![
            parameter("name", Source::ContactField("first_name".into())),
            parameter("city", Source::ContactField("city".into())),
            parameter("list", Source::SystemValue(SystemValue::ActivationTag.into())),
        ],
        ..Default::default()
    };
    v1::Webhook { name: "CRM".into(), url, activation_tag_ids: vec![tag_id], events: vec![event], ..Default::default() }
}

/// Writes the heading of a step.
fn step(number: u8, call: &str, text: &str) -> Result<()> {
    say(&format!("\n{number}. {NAME}{call}{NAME:#} {text}\n"))
}

/// Writes a line of what was received, behind a bar.
fn quote(line: &str) -> Result<()> {
    say(format!("   {DIM}│{DIM:#} {line}").trim_end())
}

fn say(line: &str) -> Result<()> {
    writeln!(anstream::stdout(), "{line}")?;
    Ok(())
}

fn expect<T: Copy + Debug + PartialEq>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?} and not {expected:?}").into()) }
}
