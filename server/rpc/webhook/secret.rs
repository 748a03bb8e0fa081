//! What requests of a webhook are signed with: its schemes, and RotateWebhookSecret.

use std::time::Duration;

use crate::domain::signature::{SignatureScheme, SigningSecret};
use crate::domain::time::Micros;
use crate::domain::webhook::{DEFAULT_OVERLAP, MAX_LIVE_SECRETS, TooManySecrets, Webhook};
use crate::error::{Error, Result};
use crate::ids::{WebhookId, WorkspaceId};
use crate::pb;
use crate::rpc::call::{Call, check_etag};
use crate::rpc::convert::{code, parse_duration};
use crate::store::{self, Tx};

/// A rotation that is asked for.
pub(super) struct Rotation {
    workspace: WorkspaceId,
    id: WebhookId,
    etag: String,
    scheme: Option<SignatureScheme>,
    secret: Option<SigningSecret>,
    overlap: Duration,
}

impl Rotation {
    /// Parses a call.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with all that is wrong.
    pub(super) fn parse(call: &mut Call<pb::RotateWebhookSecretRequest>) -> Result<Self> {
        let request = std::mem::take(&mut call.message);
        let id = call.id("id", &request.id);
        let mut scheme = SignatureScheme::from_code(code(request.signature_scheme()));
        let mut secret = None;
        if !request.secret.is_empty() && !call.violations.names("secret") {
            secret = call.violations.take("secret", "SECRET", SigningSecret::parse(&request.secret));
        }
        if let Some(secret) = &secret {
            if scheme.is_some_and(|scheme| scheme != secret.scheme()) {
                let description = "must be of the signature_scheme: `whsec_` for V1, `whsk_` for V1A";
                call.violations.add("secret", "SIGNATURE_SCHEME", description);
            }
            scheme = Some(secret.scheme());
        }
        let overlap = parse_duration("overlap", request.overlap, &mut call.violations).unwrap_or(DEFAULT_OVERLAP);
        let id = call.finish_with(id)?;
        Ok(Self { workspace: call.workspace()?, id, etag: request.etag, scheme, secret, overlap })
    }

    /// Gives the webhook its new secret.
    pub(super) async fn make(&self, tx: &Tx) -> Result<Webhook> {
        tx.gate_exclusive().await?;
        let mut webhook = store::webhook::get(tx.db(), tx.store(), self.workspace, self.id).await?;
        check_etag("webhook", &self.etag, webhook.version)?;
        let scheme = self.scheme_of(&webhook)?;
        let new = match &self.secret {
            Some(given) if webhook.live_secrets(tx.now()).any(|live| live.secret == *given) => {
                return Err(Error::invalid("secret", "SECRET_IN_USE", "must not be a live secret of the webhook"));
            }
            Some(given) => given.clone(),
            None => tx.store().entropy().with(|rng| SigningSecret::generate(scheme, rng)),
        };
        webhook.rotate_secret(new, self.overlap, tx.now()).map_err(too_many)?;
        webhook.version += 1;
        webhook.updated = tx.now();
        store::webhook::update(tx, &webhook).await?;
        Ok(webhook)
    }

    fn scheme_of(&self, webhook: &Webhook) -> Result<SignatureScheme> {
        let used = webhook.signature_schemes();
        let field = if self.secret.is_some() { "secret" } else { "signature_scheme" };
        match (self.scheme, used.as_slice()) {
            (Some(scheme), _) if used.contains(&scheme) => Ok(scheme),
            (None, [only]) => Ok(*only),
            (Some(_), _) => {
                let description =
                    "must be of a scheme that the webhook uses; UpdateWebhook adds one to signature_schemes";
                Err(Error::invalid(field, "SIGNATURE_SCHEME", description))
            }
            (None, _) => {
                Err(Error::invalid(field, "SIGNATURE_SCHEME", "must be set: the webhook is signed by two schemes"))
            }
        }
    }
}

/// Makes a webhook sign by the schemes that it is given, with new secrets where it has none.
pub(super) fn sign_by(
    webhook: &mut Webhook,
    schemes: &[SignatureScheme],
    now: Micros,
    entropy: &crate::clock::Entropy,
) -> Result<()> {
    let make = |scheme| entropy.with(|rng| SigningSecret::generate(scheme, rng));
    webhook.sign_by(schemes, now, make).map_err(too_many)
}

/// The schemes of a webhook from the wire, which the proto's rules have passed.
pub(super) fn schemes(webhook: &pb::Webhook) -> Vec<SignatureScheme> {
    let given = webhook.signature_schemes().filter_map(|scheme| SignatureScheme::from_code(code(scheme)));
    let given: Vec<_> = given.collect();
    if given.is_empty() { vec![SignatureScheme::V1] } else { given }
}

fn too_many(error: TooManySecrets) -> Error {
    Error::TooManySecrets { limit: MAX_LIVE_SECRETS, next_expire_time: error.next_expiry }
}
