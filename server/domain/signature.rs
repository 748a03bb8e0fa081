//! Signatures of requests: Standard Webhooks 1.0, scheme `v1` (HMAC-SHA256 with a shared secret).
//!
//! A receiver recomputes the signature over `{webhook-id}.{webhook-timestamp}.{body}` and accepts the request if one
//! of the space-separated entries of `webhook-signature` matches. During a rotation there is one entry per live
//! secret. Each entry names its scheme, so that schemes can stand side by side.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderName;
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Header of the delivery's id: the same on every attempt, for the receiver to recognise repeats by.
pub const HEADER_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Header of the attempt's time, in seconds since the Unix epoch.
pub const HEADER_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Header of the signatures, separated by spaces.
pub const HEADER_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const SECRET_PREFIX: &str = "whsec_";
const SECRET_MIN_BYTES: usize = 24;
const SECRET_MAX_BYTES: usize = 64;
const GENERATED_SECRET_BYTES: usize = 32;

/// A webhook's shared secret: 24 to 64 bytes, written `whsec_` and their base64. It isn't shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

impl SigningSecret {
    /// Makes a new secret of 32 random bytes.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new(vec![0; GENERATED_SECRET_BYTES]);
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// Reads the written form, `whsec_` and standard base64 with padding.
    ///
    /// # Errors
    ///
    /// The text has another form, or the secret isn't 24 to 64 bytes long.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(InvalidSecret::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret::Base64)?;
        Self::from_bytes(bytes)
    }

    /// Takes the secret's bytes, as they are kept at rest once unsealed.
    ///
    /// # Errors
    ///
    /// The secret isn't 24 to 64 bytes long.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, InvalidSecret> {
        let bytes = Zeroizing::new(bytes);
        if !(SECRET_MIN_BYTES..=SECRET_MAX_BYTES).contains(&bytes.len()) {
            return Err(InvalidSecret::Length);
        }
        Ok(Self(bytes))
    }

    /// The secret's bytes, to be sealed.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The written form, for the webhook's owner.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(SECRET_PREFIX.len() + SECRET_MAX_BYTES * 2));
        text.push_str(SECRET_PREFIX);
        STANDARD.encode_string(self.0.as_slice(), &mut text);
        text
    }

    /// One entry of the signature header.
    fn signature(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        // A key shorter than the hash's block is padded with zeros (RFC 2104); a secret is at most one block long.
        let mut key = Zeroizing::new([0; SECRET_MAX_BYTES]);
        key.iter_mut().zip(self.0.iter()).for_each(|(to, from)| *to = *from);
        let mut mac = Hmac::<Sha256>::new((&*key).into());
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

/// The text or bytes aren't a signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// The prefix is missing.
    #[error("a signing secret starts with `whsec_`")]
    Prefix,
    /// What follows the prefix isn't base64.
    #[error("after `whsec_`, a signing secret is standard base64 with padding")]
    Base64,
    /// Too short or too long.
    #[error("a signing secret has 24 to 64 bytes")]
    Length,
}

/// The value of the signature header: one entry for each secret, in their order.
///
/// `id` and `timestamp_s` (seconds since the Unix epoch) are the values of the two other headers. `body` is what is
/// sent, byte for byte; for a GET request, whose body is empty, it is the query string that is sent, without `?`.
#[must_use]
pub fn sign(secrets: &[SigningSecret], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.signature(id, timestamp_s, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {

    use http::HeaderMap;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const ID: &str = "dlv_01h455vb4pex5vsknk084sn02q";
    const TIMESTAMP_S: i64 = 1_732_406_400;
    const ASCENDING: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const LONGEST: &str =
        "whsec_paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpQ==";
    const SHORTEST: &str = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

    /// Expected values: `hmac.new(secret, f"{id}.{timestamp}.".encode() + body, "sha256")` of Python.
    #[track_caller]
    fn check(secrets: &[&str], body: &[u8], expected: &str) {
        let secrets: Vec<_> = secrets.iter().map(|text| SigningSecret::parse(text).unwrap()).collect();
        assert_eq!(sign(&secrets, ID, TIMESTAMP_S, body), expected);
    }

    #[test]
    fn known_signatures() {
        let json = br#"{"email":"ada@example.com"}"#;
        check(&[ASCENDING], json, "v1,7FCqsZGFUWlCaXMW4ltzjN3xhJSf0BQmFLIDa1HuxZU=");
        check(&[ASCENDING], b"", "v1,YQ1DXoDHky4EuMt5e4f1XTezumAcKtX2jusTHpDm6i4=");
        check(&[ASCENDING], &[0xff, 0x00, 0xfe], "v1,yykR/zPVWGUJMY3f0BBqJDyDisfsviTQ8Iti3EMpdLI=");
        check(&[LONGEST], json, "v1,uPO/lLN61KU5CZUn2FjNDkLol3Gt7IW7EaR6AhAjewM=");
        let query = b"email=ada%40example.com&first_name=Zo%C3%AB";
        check(&[SHORTEST], query, "v1,KbgZsSs/AtjuoFJzGbCCo8lxVp8FuVIc1MMsSqd1Zkk=");
        check(
            &[ASCENDING, LONGEST],
            json,
            "v1,7FCqsZGFUWlCaXMW4ltzjN3xhJSf0BQmFLIDa1HuxZU= v1,uPO/lLN61KU5CZUn2FjNDkLol3Gt7IW7EaR6AhAjewM=",
        );
    }

    /// The official library takes the present time from the system.
    #[test]
    fn the_official_library_verifies() {
        let now_s = crate::clock::Clock::system().now().unix_seconds();
        let mut rng = StdRng::seed_from_u64(7);
        let old = SigningSecret::generate(&mut rng);
        let new = SigningSecret::generate(&mut rng);
        let body = "{\"name\":\"Zoë 🦊\"}".as_bytes();
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_ID, ID.parse().unwrap());
        headers.insert(HEADER_TIMESTAMP, now_s.to_string().parse().unwrap());
        headers.insert(HEADER_SIGNATURE, sign(&[new.clone(), old.clone()], ID, now_s, body).parse().unwrap());
        let verifies = |secret: &SigningSecret, body: &[u8]| {
            standardwebhooks::Webhook::new(&secret.expose_text()).unwrap().verify(body, &headers).is_ok()
        };
        assert!(verifies(&new, body));
        assert!(verifies(&old, body));
        assert!(!verifies(&new, b"{}"));
        assert!(!verifies(&SigningSecret::generate(&mut rng), body));
    }

    #[test]
    fn secrets_are_read_and_written() {
        for text in [ASCENDING, LONGEST, SHORTEST] {
            assert_eq!(*SigningSecret::parse(text).unwrap().expose_text(), text);
        }
        let generated = SigningSecret::generate(&mut StdRng::seed_from_u64(1));
        assert_eq!(generated.expose_bytes().len(), 32);
        assert_ne!(generated, SigningSecret::generate(&mut StdRng::seed_from_u64(2)));
        assert_eq!(SigningSecret::parse(&generated.expose_text()), Ok(generated));
        let cases = [
            ("", InvalidSecret::Prefix),
            ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", InvalidSecret::Prefix),
            ("WHSEC_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", InvalidSecret::Prefix),
            ("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", InvalidSecret::Base64),
            ("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", InvalidSecret::Base64),
            ("whsec_", InvalidSecret::Length),
            ("whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", InvalidSecret::Length),
        ];
        for (text, expected) in cases {
            assert_eq!(SigningSecret::parse(text), Err(expected), "{text:?}");
        }
        assert_eq!(SigningSecret::from_bytes(vec![1; 65]), Err(InvalidSecret::Length));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", SigningSecret::parse(ASCENDING)), "Ok(SigningSecret(..))");
    }
}
