//! For the receiving end: whether a request is Taghook's, by Standard Webhooks 1.0, schemes `v1` (HMAC-SHA256) and `v1a`
//! (Ed25519).
//!
//! The official crate `standardwebhooks` knows `v1` alone, reads the system's clock and takes UTF-8 bodies; here the time
//! is given, and a body is any bytes. The tests compare the two.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Uri};
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use sha2::Sha256;

/// Header of the delivery's id, the same on every attempt: what repeats are recognised by.
pub const HEADER_ID: &str = "webhook-id";
/// Header of the attempt's time, in seconds since the Unix epoch.
pub const HEADER_TIMESTAMP: &str = "webhook-timestamp";
/// Header of the signatures, separated by spaces.
pub const HEADER_SIGNATURE: &str = "webhook-signature";

/// How far the request's time may lie from the receiver's, as the specification advises.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

const SECRET_PREFIX: &str = "whsec_";
const PUBLIC_KEY_PREFIX: &str = "whpk_";

/// Why a request isn't to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The secret isn't one, nor a public key.
    #[error("the secret must be `whsec_` and base64, or the public key `whpk_` and base64 of 32 bytes")]
    InvalidSecret,
    /// A header is missing, or can't be read.
    #[error("the header {0} is missing or malformed")]
    InvalidHeader(&'static str),
    /// Older than the tolerance: perhaps an old request that someone sends again.
    #[error("the request is too old")]
    TooOld,
    /// Newer than the tolerance: a clock is wrong.
    #[error("the request is of the future")]
    TooNew,
    /// No signature is one with this secret: another secret, or another body.
    #[error("no signature matches")]
    NoMatch,
}

/// What signatures of one scheme are checked with.
enum Key {
    /// `whsec_`: scheme `v1`.
    Shared(Hmac<Sha256>),
    /// `whpk_`: scheme `v1a`.
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl Key {
    fn parse(text: &str) -> Result<Self, VerifyError> {
        let decode = |encoded| STANDARD.decode(encoded).map_err(|_| VerifyError::InvalidSecret);
        if let Some(encoded) = text.strip_prefix(SECRET_PREFIX) {
            let secret = decode(encoded)?;
            return Hmac::new_from_slice(&secret).map(Self::Shared).map_err(|_| VerifyError::InvalidSecret);
        }
        let encoded = text.strip_prefix(PUBLIC_KEY_PREFIX).ok_or(VerifyError::InvalidSecret)?;
        let key = decode(encoded)?;
        let is_key = key.len() == ED25519_PUBLIC_KEY_LEN;
        if is_key { Ok(Self::Public(UnparsedPublicKey::new(&ED25519, key))) } else { Err(VerifyError::InvalidSecret) }
    }

    const fn scheme(&self) -> &'static str {
        match self {
            Self::Shared(_) => "v1",
            Self::Public(_) => "v1a",
        }
    }

    fn has_signed(&self, content: &[u8], signature: &[u8]) -> bool {
        match self {
            // In constant time, so that no one can guess a signature byte by byte.
            Self::Shared(mac) => mac.clone().chain_update(content).verify_slice(signature).is_ok(),
            Self::Public(key) => key.verify(content, signature).is_ok(),
        }
    }
}

/// Whether a text is something that [`verify`] takes for a secret.
///
/// # Errors
///
/// [`VerifyError::InvalidSecret`].
pub fn check_secret(text: &str) -> Result<(), VerifyError> {
    Key::parse(text).map(|_| ())
}

/// Checks that a request was signed with `secret` and that its time is at most `tolerance` ([`TOLERANCE`]) from `now`.
///
/// `secret` is the webhook's secret (`whsec_`), or its public key (`whpk_`) if it signs by `v1a`. `signed` is the body, byte for byte as it was received; for GET it is the query string instead, as [`signed_query`]
/// takes it from the URL. While a secret is being replaced a request has a signature by each, so one of the two is
/// enough.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use taghook_client::webhook;
///
/// # fn receive(headers: &http::HeaderMap, body: &[u8], now: SystemTime) -> Result<(), webhook::VerifyError> {
/// webhook::verify("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", headers, body, now, webhook::TOLERANCE)?;
/// // The body can be trusted.
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// See [`VerifyError`].
pub fn verify(
    secret: &str,
    headers: &HeaderMap,
    signed: &[u8],
    now: SystemTime,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    let key = Key::parse(secret)?;
    let id = header(headers, HEADER_ID)?;
    let timestamp = header(headers, HEADER_TIMESTAMP)?;
    let signatures = header(headers, HEADER_SIGNATURE)?;

    let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", signed].concat();
    let is_match = signatures
        .split(' ')
        .filter_map(|entry| entry.split_once(','))
        .filter(|(scheme, _)| *scheme == key.scheme())
        .filter_map(|(_, signature)| STANDARD.decode(signature).ok())
        .any(|signature| key.has_signed(&content, &signature));
    if !is_match {
        return Err(VerifyError::NoMatch);
    }
    check_time(timestamp, now, tolerance)
}

/// What is signed of a GET request: its query string, without `?`.
#[must_use]
pub fn signed_query(uri: &Uri) -> &[u8] {
    uri.query().unwrap_or_default().as_bytes()
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, VerifyError> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.filter(|value| !value.is_empty()).ok_or(VerifyError::InvalidHeader(name))
}

fn check_time(timestamp: &str, now: SystemTime, tolerance: Duration) -> Result<(), VerifyError> {
    let seconds: u64 = timestamp.parse().map_err(|_| VerifyError::InvalidHeader(HEADER_TIMESTAMP))?;
    let sent =
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(VerifyError::InvalidHeader(HEADER_TIMESTAMP))?;
    match now.duration_since(sent) {
        Ok(age) if age > tolerance => Err(VerifyError::TooOld),
        Err(ahead) if ahead.duration() > tolerance => Err(VerifyError::TooNew),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const TIMESTAMP_S: u64 = 1_649_367_553;
    /// From the test of the official library.
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn headers(signature: &str) -> HeaderMap {
        let pairs = [(HEADER_ID, ID), (HEADER_TIMESTAMP, "1649367553"), (HEADER_SIGNATURE, signature)];
        pairs.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[track_caller]
    fn check(secret: &str, signature: &str, body: &[u8], expected: Result<(), VerifyError>) {
        assert_eq!(verify(secret, &headers(signature), body, at(TIMESTAMP_S), TOLERANCE), expected);
    }

    #[test]
    fn signatures() {
        let no_match = Err(VerifyError::NoMatch);
        check(SECRET, SIGNATURE, BODY, Ok(()));
        check(SECRET, &format!("v1,AAAA {SIGNATURE}"), BODY, Ok(()));
        check(SECRET, &format!("v1a,AAAA {SIGNATURE} v2,x"), BODY, Ok(()));
        check(SECRET, SIGNATURE, b"{}", no_match);
        check(OTHER_SECRET, SIGNATURE, BODY, no_match);
        check(SECRET, "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=", BODY, no_match);
        check(SECRET, "v1a,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=", BODY, no_match);
        check(SECRET, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kk", BODY, no_match);
        check(SECRET, "v1,", BODY, no_match);
        check(SECRET, ",", BODY, no_match);
        check("C2FVsBQIhrscChlQIMV+b5sSYspob7oD", SIGNATURE, BODY, Err(VerifyError::InvalidSecret));
        check("whsec_?", SIGNATURE, BODY, Err(VerifyError::InvalidSecret));
    }

    /// Seed and signature are from the test of the official library of Go; the public key is Python's `cryptography`'s.
    #[test]
    fn signatures_by_a_private_key() {
        const PUBLIC: &str = "whpk_ZlN4eg7dSSqi0moX9hQUk3orrOouK3QVQSlJa248c/g=";
        const SIGNED: &str =
            "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==";
        let verify = |key: &str, signatures: &str, body: &[u8]| {
            let mut headers = headers(signatures);
            headers.insert(HEADER_ID, "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap());
            headers.insert(HEADER_TIMESTAMP, "1614265330".parse().unwrap());
            super::verify(key, &headers, body, at(1_614_265_330), TOLERANCE)
        };
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(verify(PUBLIC, SIGNED, body), Ok(()));
        assert_eq!(verify(PUBLIC, &format!("{SIGNATURE} v1a,AAAA {SIGNED}"), body), Ok(()));
        let no_match = Err(VerifyError::NoMatch);
        assert_eq!(verify(PUBLIC, SIGNED, b"{}"), no_match);
        assert_eq!(verify(PUBLIC, &SIGNED.replace("v1a,", "v1,"), body), no_match);
        assert_eq!(verify(&format!("whpk_{}", STANDARD.encode([7; 32])), SIGNED, body), no_match);
        // A public key is no shared secret, whatever its prefix says.
        assert_eq!(verify(&PUBLIC.replace("whpk_", "whsec_"), SIGNED, body), no_match);
        for key in ["whpk_?", "whpk_AAAA", "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk="] {
            assert_eq!(verify(key, SIGNED, body), Err(VerifyError::InvalidSecret));
            assert_eq!(check_secret(key), Err(VerifyError::InvalidSecret));
        }
    }

    #[test]
    fn missing_headers() {
        for name in [HEADER_ID, HEADER_TIMESTAMP, HEADER_SIGNATURE] {
            let mut headers = headers(SIGNATURE);
            headers.remove(name);
            let verified = verify(SECRET, &headers, BODY, at(TIMESTAMP_S), TOLERANCE);
            assert_eq!(verified, Err(VerifyError::InvalidHeader(name)));
        }
    }

    #[track_caller]
    fn check_at(now_s: u64, expected: Result<(), VerifyError>) {
        assert_eq!(verify(SECRET, &headers(SIGNATURE), BODY, at(now_s), TOLERANCE), expected);
    }

    #[test]
    fn times() {
        check_at(TIMESTAMP_S + 300, Ok(()));
        check_at(TIMESTAMP_S + 301, Err(VerifyError::TooOld));
        check_at(TIMESTAMP_S - 300, Ok(()));
        check_at(TIMESTAMP_S - 301, Err(VerifyError::TooNew));
    }

    #[test]
    fn what_the_official_library_signs_is_verified() {
        let official = standardwebhooks::Webhook::new(OTHER_SECRET).unwrap();
        for body in ["", "email=ada%40example.com&first_name=Zo%C3%AB", "{\"name\":\"Zoë 🦊\"}"] {
            let signature = official.sign(ID, TIMESTAMP_S.cast_signed(), body.as_bytes()).unwrap();
            check(OTHER_SECRET, &signature, body.as_bytes(), Ok(()));
        }
    }

    #[test]
    fn the_query_is_what_is_signed_of_a_get() {
        let uri = Uri::from_static("http://example.com/a?email=ada%40example.com&b=%3F");
        assert_eq!(signed_query(&uri), b"email=ada%40example.com&b=%3F");
        assert_eq!(signed_query(&Uri::from_static("http://example.com/a")), b"");
    }
}
