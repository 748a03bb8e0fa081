//! Webhooks: what sets them off, and the requests that they send.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::coded::coded;
use super::delivery::{Reason, Source};
use super::header::Header;
use super::labels::Labels;
use super::request::EventDefinition;
use super::retry::Schedule;
use super::signature::{SignatureScheme, SigningSecret};
use super::time::Micros;
use crate::ids::{TagId, WebhookId, WorkspaceId};

/// The cooldown when none is set: 6 hours.
pub const DEFAULT_COOLDOWN: Duration = Duration::from_secs(6 * 60 * 60);
/// The deadline of an attempt when none is set.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long former secrets sign on beside a new one when nothing else is said.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
/// The most secrets of a webhook that sign at the same time.
pub const MAX_LIVE_SECRETS: usize = 5;
/// How many requests of a webhook are in flight at a time when nothing is set.
pub const DEFAULT_MAX_CONCURRENCY: u32 = 32;
/// The slowest rate: one request in a thousand seconds.
pub const MIN_RATE_LIMIT: f64 = 0.001;
/// How long a webhook may fail without a success before it is disabled: 5 days.
pub const MAX_FAILING: Duration = Duration::from_secs(5 * 24 * 60 * 60);

coded! {
    /// Whether a webhook sends.
    pub enum WebhookState {
        /// It sends.
        Active = 1, "ACTIVE";
        /// People paused it.
        Paused = 2, "PAUSED";
        /// The system disabled it.
        Disabled = 3, "DISABLED";
    }
}

coded! {
    /// What becomes of a tag trigger within the cooldown.
    pub enum CooldownPolicy {
        /// Recorded, never sent.
        Suppress = 1, "SUPPRESS";
        /// Sent once at the end of the cooldown, with the newest data.
        Defer = 2, "DEFER";
    }
}

/// An activation.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its name; others of the workspace may have the same.
    pub name: String,
    /// The caller's own name of it, unique in the workspace.
    pub key: Option<String>,
    /// The caller's own marks of it.
    pub labels: Labels,
    /// Whether it sends.
    pub state: WebhookState,
    /// Why it was disabled.
    pub state_reason: Reason,
    /// Since when it is in its state.
    pub state_since: Micros,
    /// What it does; the values of sensitive headers are filled in.
    pub definition: Definition,
    /// Its signing secrets, the newest first; among them some may have expired. Of each scheme that it uses, one has no end.
    pub secrets: Vec<WebhookSecret>,
    /// Since when every attempt has failed.
    pub failing_since: Option<Micros>,
    /// Raised by each change; the etag.
    pub version: i64,
    /// When it was created.
    pub created: Micros,
    /// When it was last changed.
    pub updated: Micros,
}

/// What a webhook does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The URL with its placeholders.
    pub url: String,
    /// The tags that set it off.
    pub activation_tag_ids: Vec<TagId>,
    /// Whether the deletion of a contact sets it off.
    pub on_contact_deleted: bool,
    /// Whether the assignment of a tag that is held already is no trigger.
    pub only_when_newly_assigned: bool,
    /// What must be true for a trigger to be sent, in CEL; `None` for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// How long an accepted tag trigger keeps further ones of the same contact back.
    pub cooldown: Duration,
    /// What becomes of those.
    pub cooldown_policy: CooldownPolicy,
    /// The requests to send for each trigger.
    pub events: Vec<EventDefinition>,
    /// The headers of each request.
    pub headers: Vec<Header>,
    /// The one deadline of an attempt.
    pub timeout: Duration,
    /// When failed attempts are repeated.
    pub schedule: Schedule,
    /// How many requests are in flight at a time at most, on all servers together.
    #[serde(default = "default_max_concurrency")]
    pub max_concurrency: u32,
    /// How many requests are sent per second at most, on all servers together; 0 for no limit.
    #[serde(default)]
    pub rate_limit: f64,
    /// Whether the deliveries of a webhook event to one contact are sent one after the other, in the order of triggers.
    #[serde(default)]
    pub ordered: bool,
}

const fn default_max_concurrency() -> u32 {
    DEFAULT_MAX_CONCURRENCY
}

/// A signing secret of a webhook.
#[derive(Clone, Debug)]
pub struct WebhookSecret {
    /// The secret.
    pub secret: SigningSecret,
    /// When it was made, or given.
    pub created: Micros,
    /// When it ceases to sign; `None` for the present one of its scheme.
    pub expires: Option<Micros>,
}

/// A webhook would have more than [`MAX_LIVE_SECRETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySecrets {
    /// When the first of those that it has expires; `None` if none of them does.
    pub next_expiry: Option<Micros>,
}

impl WebhookSecret {
    /// A secret that signs until it is replaced.
    #[must_use]
    pub const fn new(secret: SigningSecret, created: Micros) -> Self {
        Self { secret, created, expires: None }
    }

    /// Whether it signs at `now`; not any more exactly at its end.
    #[must_use]
    pub fn is_live(&self, now: Micros) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

impl Webhook {
    /// The secrets that sign at `now`, the newest first.
    pub fn live_secrets(&self, now: Micros) -> impl Iterator<Item = &WebhookSecret> {
        self.secrets.iter().filter(move |secret| secret.is_live(now))
    }

    /// What its requests are signed by. Secrets that only sign on beside a newer one don't count.
    #[must_use]
    pub fn signature_schemes(&self) -> Vec<SignatureScheme> {
        let is_used = |scheme: &SignatureScheme| {
            self.secrets.iter().any(|secret| secret.expires.is_none() && secret.secret.scheme() == *scheme)
        };
        SignatureScheme::ALL.iter().copied().filter(is_used).collect()
    }

    /// Signs by these schemes alone from `now` on: the secrets of others are gone, and of each new one `make` makes one.
    ///
    /// # Errors
    ///
    /// [`TooManySecrets`].
    pub fn sign_by(
        &mut self,
        schemes: &[SignatureScheme],
        now: Micros,
        mut make: impl FnMut(SignatureScheme) -> SigningSecret,
    ) -> Result<(), TooManySecrets> {
        let (present, next_expiry) = (self.signature_schemes(), self.next_expiry(now));
        self.secrets.retain(|secret| schemes.contains(&secret.secret.scheme()));
        for scheme in schemes.iter().copied().filter(|scheme| !present.contains(scheme)) {
            self.add_secret(make(scheme), now, next_expiry)?;
        }
        Ok(())
    }

    /// Replaces the secret of a scheme: those that it had sign on for `overlap`, or for as long as they had yet, if that is
    /// shorter.
    ///
    /// # Errors
    ///
    /// [`TooManySecrets`].
    pub fn rotate_secret(&mut self, new: SigningSecret, overlap: Duration, now: Micros) -> Result<(), TooManySecrets> {
        let (end, next_expiry) = (now.saturating_add(overlap), self.next_expiry(now));
        for former in self.secrets.iter_mut().filter(|former| former.secret.scheme() == new.scheme()) {
            former.expires = Some(former.expires.map_or(end, |earlier| earlier.min(end)));
        }
        self.add_secret(new, now, next_expiry)
    }

    fn next_expiry(&self, now: Micros) -> Option<Micros> {
        self.live_secrets(now).filter_map(|secret| secret.expires).min()
    }

    fn add_secret(
        &mut self,
        new: SigningSecret,
        now: Micros,
        next_expiry: Option<Micros>,
    ) -> Result<(), TooManySecrets> {
        self.secrets.retain(|secret| secret.is_live(now));
        if self.secrets.len() >= MAX_LIVE_SECRETS {
            return Err(TooManySecrets { next_expiry });
        }
        self.secrets.insert(0, WebhookSecret::new(new, now));
        Ok(())
    }

    /// Why a trigger of this source is skipped now; `None` if it isn't. A test goes out in any state.
    #[must_use]
    pub const fn skips(&self, source: Source) -> Option<Reason> {
        match (self.state, source) {
            (WebhookState::Active, _) | (_, Source::Test) => None,
            (WebhookState::Paused, _) => Some(Reason::WebhookPaused),
            (WebhookState::Disabled, _) => Some(Reason::WebhookDisabled),
        }
    }

    /// Whether failing without a success since `failing_since` has lasted too long at `now`.
    #[must_use]
    pub fn has_failed_too_long(failing_since: Micros, now: Micros) -> bool {
        now.saturating_since(failing_since) >= MAX_FAILING
    }
}

#[cfg(test)]
mod tests;
