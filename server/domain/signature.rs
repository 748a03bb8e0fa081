//! Signatures of requests by Standard Webhooks 1.0: schemes `v1` (HMAC-SHA256 with a shared secret) and `v1a` (Ed25519).
//!
//! A receiver checks the signature over `{webhook-id}.{webhook-timestamp}.{body}` and accepts the request if one of the
//! space-separated entries of `webhook-signature` matches. There is one entry per live secret: during a rotation several
//! of one scheme, and of both schemes where a webhook uses both. Each entry names its scheme.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderName;
use rand::CryptoRng;
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::coded::coded;

/// Header of the delivery's id: the same on every attempt, for the receiver to recognise repeats by.
pub const HEADER_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Header of the attempt's time, in seconds since the Unix epoch.
pub const HEADER_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Header of the signatures, separated by spaces.
pub const HEADER_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const SHARED_PREFIX: &str = "whsec_";
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const SHARED_MIN_BYTES: usize = 24;
const SHARED_MAX_BYTES: usize = 64;
const GENERATED_SHARED_BYTES: usize = 32;
const SEED_BYTES: usize = 32;
/// A seed and its public key.
const PAIR_BYTES: usize = 64;

coded! {
    /// How a request is signed.
    pub enum SignatureScheme {
        /// HMAC-SHA256 with a secret that sender and receiver share.
        V1 = 1, "V1";
        /// Ed25519 with a private key, of which the receiver knows the public one.
        V1a = 2, "V1A";
    }
}

/// What requests of a webhook are signed with: a shared secret of 24 to 64 bytes, written `whsec_` and their base64, or the
/// seed of an Ed25519 key, 32 bytes, written `whsk_` and their base64. It isn't shown by `Debug`.
#[derive(Clone)]
pub struct SigningSecret(Key);

#[derive(Clone)]
enum Key {
    Shared(Zeroizing<Vec<u8>>),
    Private(Arc<Private>),
}

/// A private key. Its public one is derived once.
struct Private {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    pair: Ed25519KeyPair,
}

impl SigningSecret {
    /// Makes a new secret: 32 random bytes.
    pub fn generate(scheme: SignatureScheme, rng: &mut impl CryptoRng) -> Self {
        match scheme {
            SignatureScheme::V1 => {
                let mut bytes = Zeroizing::new(vec![0; GENERATED_SHARED_BYTES]);
                rng.fill_bytes(&mut bytes);
                Self(Key::Shared(bytes))
            }
            SignatureScheme::V1a => {
                let mut seed = Zeroizing::new([0; SEED_BYTES]);
                rng.fill_bytes(seed.as_mut_slice());
                Self::private(seed)
            }
        }
    }

    /// Reads the written form, a prefix and standard base64 with padding. A `whsk_` key may have its public key after the
    /// seed, as some senders write it.
    ///
    /// # Errors
    ///
    /// See [`InvalidSecret`].
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let decode = |encoded| STANDARD.decode(encoded).map(Zeroizing::new).map_err(|_| InvalidSecret::Base64);
        if let Some(encoded) = text.strip_prefix(SHARED_PREFIX) {
            let bytes = decode(encoded)?;
            let is_good = (SHARED_MIN_BYTES..=SHARED_MAX_BYTES).contains(&bytes.len());
            return if is_good { Ok(Self(Key::Shared(bytes))) } else { Err(InvalidSecret::SharedLength) };
        }
        if let Some(encoded) = text.strip_prefix(PRIVATE_PREFIX) {
            let bytes = decode(encoded)?;
            let (seed, public) = bytes.split_first_chunk::<SEED_BYTES>().ok_or(InvalidSecret::PrivateLength)?;
            let secret = Self::private(Zeroizing::new(*seed));
            return match bytes.len() {
                SEED_BYTES => Ok(secret),
                PAIR_BYTES if secret.public_bytes() == Some(public) => Ok(secret),
                PAIR_BYTES => Err(InvalidSecret::Pair),
                _ => Err(InvalidSecret::PrivateLength),
            };
        }
        Err(if text.starts_with(PUBLIC_PREFIX) { InvalidSecret::Public } else { InvalidSecret::Prefix })
    }

    #[expect(clippy::expect_used, reason = "any 32 bytes are a seed")]
    fn private(seed: Zeroizing<[u8; SEED_BYTES]>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed of 32 bytes");
        Self(Key::Private(Arc::new(Private { seed, pair })))
    }

    /// What it signs by.
    #[must_use]
    pub const fn scheme(&self) -> SignatureScheme {
        match self.0 {
            Key::Shared(_) => SignatureScheme::V1,
            Key::Private(_) => SignatureScheme::V1a,
        }
    }

    /// The written form, for the webhook's owner, and to be sealed.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        let (prefix, bytes) = match &self.0 {
            Key::Shared(bytes) => (SHARED_PREFIX, bytes.as_slice()),
            Key::Private(key) => (PRIVATE_PREFIX, key.seed.as_slice()),
        };
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + SHARED_MAX_BYTES * 2));
        text.push_str(prefix);
        STANDARD.encode_string(bytes, &mut text);
        text
    }

    /// The public key that verifies its signatures, `whpk_` and base64; `None` for a shared secret.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        self.public_bytes().map(|bytes| format!("{PUBLIC_PREFIX}{}", STANDARD.encode(bytes)))
    }

    fn public_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Key::Shared(_) => None,
            Key::Private(key) => Some(key.pair.public_key().as_ref()),
        }
    }

    /// One entry of the signature header.
    fn signature(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp_s}.");
        match &self.0 {
            Key::Shared(bytes) => {
                // A key shorter than the hash's block is padded with zeros (RFC 2104); a secret is at most one block long.
                let mut key = Zeroizing::new([0; SHARED_MAX_BYTES]);
                key.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from);
                let mut mac = Hmac::<Sha256>::new((&*key).into());
                mac.update(head.as_bytes());
                mac.update(body);
                format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
            }
            Key::Private(key) => {
                let signature = key.pair.sign(&[head.as_bytes(), body].concat());
                format!("v1a,{}", STANDARD.encode(signature))
            }
        }
    }
}

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Key::Shared(one), Key::Shared(two)) => one == two,
            (Key::Private(one), Key::Private(two)) => one.seed == two.seed,
            _ => false,
        }
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

/// The text isn't a signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// The prefix is missing.
    #[error("a signing secret starts with `whsec_`, or with `whsk_` for an Ed25519 key")]
    Prefix,
    /// A public key, which can't sign.
    #[error("a `whpk_` key is public and signs nothing; the private one starts with `whsk_`")]
    Public,
    /// What follows the prefix isn't base64.
    #[error("after its prefix, a signing secret is standard base64 with padding")]
    Base64,
    /// Too short or too long.
    #[error("a `whsec_` secret has 24 to 64 bytes")]
    SharedLength,
    /// Neither a seed nor a seed and a public key.
    #[error("a `whsk_` key has 32 bytes, or 64 with its public key")]
    PrivateLength,
    /// The public key is of another seed.
    #[error("the public key in the `whsk_` key isn't that of its seed")]
    Pair,
}

/// The value of the signature header: one entry for each secret, in their order.
///
/// `id` and `timestamp_s` (seconds since the Unix epoch) are the values of the two other headers. `body` is what is
/// sent, byte for byte; for a GET request, whose body is empty, it is the query string that is sent, without `?`.
#[must_use]
pub fn sign<'a>(
    secrets: impl IntoIterator<Item = &'a SigningSecret>,
    id: &str,
    timestamp_s: i64,
    body: &[u8],
) -> String {
    let signatures: Vec<_> = secrets.into_iter().map(|secret| secret.signature(id, timestamp_s, body)).collect();
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
        let old = SigningSecret::generate(SignatureScheme::V1, &mut rng);
        let new = SigningSecret::generate(SignatureScheme::V1, &mut rng);
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
        assert!(!verifies(&SigningSecret::generate(SignatureScheme::V1, &mut rng), body));
    }

    /// From the test of the official library of Go, which is the one that knows the scheme.
    #[test]
    fn a_known_signature_by_a_private_key() {
        let secret = SigningSecret::parse("whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=").unwrap();
        let signed = sign([&secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        let expected = "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==";
        assert_eq!(signed, expected);
    }

    /// RFC 8032, 7.1, test 1; written with its public key as well.
    #[test]
    fn a_private_key_tells_its_public_one() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
            0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let public = [
            0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1,
            0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
        ];
        let text = format!("whsk_{}", STANDARD.encode(seed));
        let secret = SigningSecret::parse(&text).unwrap();
        assert_eq!(secret.public_key(), Some(format!("whpk_{}", STANDARD.encode(public))));
        let with_public =
            |public: &[u8]| SigningSecret::parse(&format!("whsk_{}", STANDARD.encode([&seed, public].concat())));
        let read = with_public(&public).unwrap();
        assert_eq!((&read, read.expose_text().as_str()), (&secret, text.as_str()));
        assert_eq!(with_public(&seed), Err(InvalidSecret::Pair));
        assert_eq!(with_public(&public[1..]), Err(InvalidSecret::PrivateLength));
    }

    #[test]
    fn schemes_stand_side_by_side() {
        let mut rng = StdRng::seed_from_u64(3);
        let secrets = SignatureScheme::ALL.iter().map(|scheme| SigningSecret::generate(*scheme, &mut rng));
        let secrets: Vec<_> = secrets.collect();
        let signed = sign(&secrets, ID, TIMESTAMP_S, b"");
        let entries: Vec<_> = signed.split(' ').map(|entry| (entry.split_once(',').unwrap().0, entry.len())).collect();
        assert_eq!(entries, [("v1", 47), ("v1a", 92)]);
        assert_eq!(secrets.iter().map(SigningSecret::scheme).collect::<Vec<_>>(), SignatureScheme::ALL);
        assert_eq!(secrets[0].public_key(), None);
    }

    #[test]
    fn secrets_are_read_and_written() {
        for text in [ASCENDING, LONGEST, SHORTEST] {
            assert_eq!(*SigningSecret::parse(text).unwrap().expose_text(), text);
        }
        for scheme in SignatureScheme::ALL.iter().copied() {
            let generated = SigningSecret::generate(scheme, &mut StdRng::seed_from_u64(1));
            assert_ne!(generated, SigningSecret::generate(scheme, &mut StdRng::seed_from_u64(2)));
            let text = generated.expose_text();
            assert_eq!(STANDARD.decode(text.split_once('_').unwrap().1).unwrap().len(), 32);
            assert_eq!(SigningSecret::parse(&text), Ok(generated));
        }
        let cases = [
            ("", InvalidSecret::Prefix),
            ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", InvalidSecret::Prefix),
            ("WHSEC_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", InvalidSecret::Prefix),
            ("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", InvalidSecret::Base64),
            ("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", InvalidSecret::Base64),
            ("whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", InvalidSecret::Base64),
            ("whsec_", InvalidSecret::SharedLength),
            ("whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", InvalidSecret::SharedLength),
            ("whsk_", InvalidSecret::PrivateLength),
            ("whsk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH", InvalidSecret::PrivateLength),
            ("whpk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", InvalidSecret::Public),
        ];
        for (text, expected) in cases {
            assert_eq!(SigningSecret::parse(text), Err(expected), "{text:?}");
        }
        let too_long = format!("whsec_{}", STANDARD.encode([1; 65]));
        assert_eq!(SigningSecret::parse(&too_long), Err(InvalidSecret::SharedLength));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", SigningSecret::parse(ASCENDING)), "Ok(SigningSecret(..))");
    }
}
