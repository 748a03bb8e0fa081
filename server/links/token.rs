//! What stands after `/l/`: a contact's token, which only this deployment can make, or a link's code.
//!
//! A token is `version (1 byte) | link (16) | contact (16) | expiry (4) | MAC (16)`, in base64url: 71 characters.
//! HMAC-SHA256 over what comes before, cut to 16 bytes. The workspace isn't in it: it is the link's, whose id is unique
//! in the deployment, and the contact is looked up in it.
//!
//! The MAC's key is derived from the cursors' key, which the deployment keeps sealed for all servers: it stays the same
//! when the master key is replaced, and so do the URLs that are out.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::domain::smart_link::Code;
use crate::domain::time::Micros;
use crate::ids::{ContactId, SmartLinkId};
use crate::store::deployment::Facts;

const VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 16 + 16 + 4;
const MAC_BYTES: usize = 16;
/// Parts the links' key from all others that are derived from the same one.
const PURPOSE: &[u8] = b"taghook smart links v1";
/// 2101-01-01T00:00:00Z.
const END_S: u32 = 4_133_980_800;

/// Makes and reads what stands in links. It isn't shown by `Debug`.
#[derive(Clone)]
pub struct Urls {
    key: [u8; 32],
    /// What links start with, without a slash at the end; `None` if they are served nowhere.
    base: Option<String>,
}

/// When a URL leads nowhere any more, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(u32);

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The link.
    pub link_id: SmartLinkId,
    /// Whose it is.
    pub contact_id: ContactId,
    /// Until when.
    pub expiry: Expiry,
}

impl Expiry {
    /// Never.
    pub const NEVER: Self = Self(0);

    /// At a time, without its fraction of a second; `None` for one that a token can't hold.
    #[must_use]
    pub fn at(time: Micros) -> Option<Self> {
        u32::try_from(time.unix_seconds()).ok().filter(|seconds| (1..END_S).contains(seconds)).map(Self)
    }

    /// The time; `None` for never.
    #[must_use]
    pub fn time(self) -> Option<Micros> {
        if self == Self::NEVER { None } else { Micros::from_unix(self.0.into(), 0) }
    }

    /// Whether it is over.
    #[must_use]
    pub fn has_come(self, now: Micros) -> bool {
        self.time().is_some_and(|time| time <= now)
    }
}

impl Urls {
    /// Those of a deployment.
    #[must_use]
    pub fn new(facts: &Facts, base: Option<String>) -> Self {
        Self { key: hmac(&facts.cursor_key, PURPOSE), base }
    }

    /// The link for everybody; `None` if it is served nowhere.
    #[must_use]
    pub fn short(&self, code: &Code) -> Option<String> {
        self.base.as_ref().map(|base| format!("{base}/l/{}", code.as_str()))
    }

    /// What links start with; `None` if they are served nowhere.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// A contact's own link; `None` if it is served nowhere.
    #[must_use]
    pub fn tracked(&self, link_id: SmartLinkId, contact_id: ContactId, expiry: Expiry) -> Option<String> {
        let token = self.token(Claim { link_id, contact_id, expiry });
        self.base.as_ref().map(|base| format!("{base}/l/{token}"))
    }

    /// Writes a token.
    #[must_use]
    pub fn token(&self, claim: Claim) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(claim.link_id.0.as_bytes());
        bytes.extend_from_slice(claim.contact_id.0.as_bytes());
        bytes.extend_from_slice(&claim.expiry.0.to_be_bytes());
        let mac = self.mac(&bytes);
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token, whether its time is over or not; `None` for what this deployment hasn't made.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<Claim> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, given_mac) = bytes.split_at_checked(BODY_BYTES)?;
        if !bool::from(self.mac(body).ct_eq(given_mac)) {
            return None;
        }
        let (version, rest) = body.split_first()?;
        let (link, rest) = rest.split_first_chunk::<16>()?;
        let (contact, expiry) = rest.split_first_chunk::<16>()?;
        (*version == VERSION).then_some(Claim {
            link_id: SmartLinkId(Uuid::from_bytes(*link)),
            contact_id: ContactId(Uuid::from_bytes(*contact)),
            expiry: Expiry(u32::from_be_bytes(*expiry.first_chunk()?)),
        })
    }

    fn mac(&self, body: &[u8]) -> [u8; MAC_BYTES] {
        hmac(&self.key, body).first_chunk().copied().unwrap_or_default()
    }
}

impl fmt::Debug for Urls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Urls(..)")
    }
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WorkspaceId;

    fn urls(key: u8) -> Urls {
        let facts =
            Facts { log_epoch: Uuid::nil(), cursor_key: [key; 32], default_workspace: WorkspaceId(Uuid::nil()) };
        Urls::new(&facts, Some("https://go.example.com".to_owned()))
    }

    fn claim() -> Claim {
        Claim {
            link_id: SmartLinkId(Uuid::from_u128(1)),
            contact_id: ContactId(Uuid::from_u128(2)),
            expiry: Expiry(1_767_225_600),
        }
    }

    #[test]
    fn a_token_says_what_it_was_made_of() {
        let token = urls(1).token(claim());
        assert_eq!((token.len(), urls(1).read(&token), urls(2).read(&token)), (71, Some(claim()), None));
        let url = urls(1).tracked(claim().link_id, claim().contact_id, claim().expiry);
        assert_eq!(url, Some(format!("https://go.example.com/l/{token}")));
        // Not the cursors' key itself.
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert_ne!(hmac(&[1; 32], &bytes[..BODY_BYTES])[..MAC_BYTES], bytes[BODY_BYTES..]);
    }

    #[test]
    fn no_changed_token_is_taken() {
        let bytes = URL_SAFE_NO_PAD.decode(urls(1).token(claim())).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(urls(1).read(&URL_SAFE_NO_PAD.encode(forged)), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(urls(1).read(&URL_SAFE_NO_PAD.encode(&bytes[..length])), None, "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        for text in [URL_SAFE_NO_PAD.encode(longer), String::new(), "null".to_owned(), "\u{e9}".repeat(71)] {
            assert_eq!(urls(1).read(&text), None, "{text:?}");
        }
    }

    #[test]
    fn an_expiry_is_a_second() {
        let second = Expiry::at(Micros(1_767_225_600_999_999)).unwrap();
        assert_eq!(second.time(), Some(Micros(1_767_225_600_000_000)));
        assert!(second.has_come(Micros(1_767_225_600_000_000)));
        assert!(!second.has_come(Micros(1_767_225_599_999_999)));
        assert!(!Expiry::NEVER.has_come(Micros(i64::MAX)) && Expiry::NEVER.time().is_none());
        for seconds in [-1, 0, i64::from(END_S)] {
            assert_eq!(Expiry::at(Micros(seconds * 1_000_000)), None, "{seconds}");
        }
        assert_eq!(Micros(i64::from(END_S) * 1_000_000).to_rfc3339(), "2101-01-01T00:00:00Z");
    }
}
