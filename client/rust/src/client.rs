//! The client: one connection, an accessor for each service.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::channel::{Channel, Policy};
use crate::outcomes::{Outcomes, Start};
use crate::v1;

const USER_AGENT: &str = concat!("taghook-client-rust/", env!("CARGO_PKG_VERSION"));
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
const DEFAULT_RETRIES: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an open stream asks whether the other end is there, and how long it waits for the answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is taken: a page of large contacts is well over tonic's default of 4 MiB.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A client of one server address with one API key. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// What a client needs to know. Only the address has no default.
#[derive(Clone)]
#[must_use]
pub struct Options {
    address: String,
    api_key: Option<String>,
    deadline: Duration,
    retries: u32,
    ca_certificate: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why no client can be made of the options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// Not a URL that a server can be called at.
    #[error("the address must be http:// or https://, a host, and a port if it isn't the scheme's")]
    Address,
    /// Not something that an HTTP header can carry.
    #[error("the API key has characters that no key has; is a line break in it?")]
    ApiKey,
    /// The certificates can't be used.
    #[error("TLS can't be set up")]
    Tls(#[source] tonic::transport::Error),
}

impl Client {
    /// Makes a client. The connection is made by the first call, and again whenever it was lost; so the server need not
    /// run yet.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`OptionsError`].
    pub fn connect(options: Options) -> Result<Self, OptionsError> {
        let policy =
            Policy { authorization: options.authorization()?, deadline: options.deadline, retries: options.retries };
        let endpoint = options.into_endpoint()?;
        Ok(Self { channel: Channel::new(endpoint.connect_lazy(), Arc::new(policy)) })
    }

    /// Tenants and their API keys; takes the root key.
    #[must_use]
    pub fn workspaces(&self) -> v1::workspace_service_client::WorkspaceServiceClient<Channel> {
        v1::workspace_service_client::WorkspaceServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// The caller's key, and the server's version, limits and capabilities.
    #[must_use]
    pub fn info(&self) -> v1::info_service_client::InfoServiceClient<Channel> {
        v1::info_service_client::InfoServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Contacts and the tags on them.
    #[must_use]
    pub fn contacts(&self) -> v1::contact_service_client::ContactServiceClient<Channel> {
        v1::contact_service_client::ContactServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Campaigns, and where their contacts stand.
    #[must_use]
    pub fn campaigns(&self) -> v1::campaign_service_client::CampaignServiceClient<Channel> {
        v1::campaign_service_client::CampaignServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Definitions of the contacts' fields.
    #[must_use]
    pub fn fields(&self) -> v1::field_service_client::FieldServiceClient<Channel> {
        v1::field_service_client::FieldServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Definitions of tags.
    #[must_use]
    pub fn tags(&self) -> v1::tag_service_client::TagServiceClient<Channel> {
        v1::tag_service_client::TagServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Links that tag who clicks them.
    #[must_use]
    pub fn smart_links(&self) -> v1::smart_link_service_client::SmartLinkServiceClient<Channel> {
        v1::smart_link_service_client::SmartLinkServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Webhooks: which tags activate them, what they send.
    #[must_use]
    pub fn webhooks(&self) -> v1::webhook_service_client::WebhookServiceClient<Channel> {
        v1::webhook_service_client::WebhookServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What happened to contacts.
    #[must_use]
    pub fn events(&self) -> v1::event_service_client::EventServiceClient<Channel> {
        v1::event_service_client::EventServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Deliveries and their attempts. For the stream of outcomes see [`Client::outcomes`].
    #[must_use]
    pub fn deliveries(&self) -> v1::delivery_service_client::DeliveryServiceClient<Channel> {
        v1::delivery_service_client::DeliveryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// The outcomes that `filter` selects, from `start` on. Nothing is called before the stream is first polled;
    /// [`Outcomes::ready`] waits until the start is fixed.
    pub fn outcomes(&self, filter: v1::OutcomeFilter, start: Start) -> Outcomes {
        Outcomes::new(self.deliveries(), self.channel.deadline(), filter, start)
    }

    /// The connection with key, deadline and retries, for stubs of other services such as `grpc.health.v1`.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

impl Options {
    /// Options for a server at an address such as `http://127.0.0.1:50051` or `https://taghook.example.com`. With
    /// `https`, the certificate must lead to one that the system trusts, unless [`Options::ca_certificate`] says
    /// otherwise.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            api_key: None,
            deadline: DEFAULT_DEADLINE,
            retries: DEFAULT_RETRIES,
            ca_certificate: None,
            identity: None,
        }
    }

    /// The API key that comes with every call. Default: none, which only health and reflection may accept.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.api_key = Some(api_key.into());
        self
    }

    /// How long a call may take, with its retries, unless the request has a timeout of its own. Streams have no
    /// deadline. Default: 10 s.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How often a call that met UNAVAILABLE is repeated within its deadline, if repeating it is safe: it only reads, or
    /// it has a `request_id`. Default: 3.
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// The certificates, in PEM, of the authorities that are trusted instead of those of the system.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_certificate = Some(pem.into());
        self
    }

    /// The certificate chain and the private key, in PEM, that this client shows to servers. Default: none.
    pub fn identity(mut self, certificate_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, OptionsError> {
        let Some(api_key) = &self.api_key else { return Ok(None) };
        let mut value = HeaderValue::try_from(format!("Bearer {api_key}")).map_err(|_| OptionsError::ApiKey)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn into_endpoint(self) -> Result<Endpoint, OptionsError> {
        let tls = self.tls();
        let uri: Uri = self.address.parse().map_err(|_| OptionsError::Address)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(OptionsError::Address),
        };
        if uri.host().is_none_or(str::is_empty) {
            return Err(OptionsError::Address);
        }
        let endpoint = Endpoint::from(uri)
            .user_agent(USER_AGENT)
            .map_err(|_| OptionsError::Address)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        if is_tls { endpoint.tls_config(tls).map_err(OptionsError::Tls) } else { Ok(endpoint) }
    }

    fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.ca_certificate {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("deadline", &self.deadline)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(options: Options, expected: Result<(), &str>) {
        let made = Client::connect(options);
        assert_eq!(
            made.map(|_| ()).map_err(|error| error.to_string()).as_ref().map_err(String::as_str),
            expected.as_ref().map_err(|text| *text)
        );
    }

    #[tokio::test]
    async fn options_are_checked() {
        const ADDRESS: &str = "the address must be http:// or https://, a host, and a port if it isn't the scheme's";
        const API_KEY: &str = "the API key has characters that no key has; is a line break in it?";
        check(Options::new("http://127.0.0.1:50051"), Ok(()));
        check(Options::new("https://taghook.example.com"), Ok(()));
        check(Options::new("http://[::1]:50051").api_key("thk_x"), Ok(()));
        check(Options::new("127.0.0.1:50051"), Err(ADDRESS));
        check(Options::new("ftp://127.0.0.1"), Err(ADDRESS));
        check(Options::new("unix:/tmp/socket"), Err(ADDRESS));
        check(Options::new(""), Err(ADDRESS));
        check(Options::new("http://127.0.0.1:50051").api_key("thk_x\n"), Err(API_KEY));
    }

    #[test]
    fn debug_shows_no_key() {
        let options = Options::new("http://127.0.0.1:50051").api_key("thk_x").identity("cert", "key");
        assert_eq!(
            format!("{options:?}"),
            "Options { address: \"http://127.0.0.1:50051\", deadline: 10s, retries: 3, .. }"
        );
    }
}
