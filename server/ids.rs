//! Typed ids: `<prefix>_<26 characters>`, a version 7 UUID in the base 32 of the TypeID specification
//! (<https://github.com/jetify-com/typeid/tree/main/spec>).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Entropy;
use crate::domain::time::Micros;

/// Crockford's base 32 in lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits in groups of five, the first with three.
const SUFFIX_CHARS: usize = 26;

/// Why a text is no id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `{prefix}_` followed by 26 characters of 0-9 and a-z without i, l, o and u, as the server assigns them"
)]
pub struct IdError {
    prefix: &'static str,
}

/// What all typed ids have in common.
pub trait TypedId: Copy + fmt::Display + FromStr<Err = IdError> {
    /// The part before the underscore.
    const PREFIX: &'static str;
    /// What the id names, in messages.
    const RESOURCE: &'static str;

    /// Wraps the UUID that the database keeps.
    fn from_uuid(uuid: Uuid) -> Self;

    /// The UUID that the database keeps.
    fn uuid(self) -> Uuid;

    /// A new id. Ids made later sort later, to a quarter of a microsecond.
    fn generate(now: Micros, entropy: &Entropy) -> Self {
        Self::from_uuid(uuid_v7(now, entropy))
    }
}

/// A version 7 UUID whose 12 bits after the milliseconds are a fraction of one (RFC 9562, section 6.2, method 3).
pub(crate) fn uuid_v7(now: Micros, entropy: &Entropy) -> Uuid {
    let now_us = u64::try_from(now.0).unwrap_or(0);
    let fraction = u16::try_from((now_us % 1_000) * 4_096 / 1_000).unwrap_or(0).to_be_bytes();
    let mut random = entropy.bytes::<10>();
    let [first, second, ..] = &mut random;
    [*first, *second] = fraction;
    uuid::Builder::from_unix_timestamp_millis(now_us / 1_000, &random).into_uuid()
}

/// A version 7 UUID that follows from what it is for: the same each time that it is made.
pub(crate) fn derived_uuid_v7(time: Micros, parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let bytes = digest.first_chunk().copied().unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(time.0).unwrap_or(0) / 1_000, &bytes).into_uuid()
}

/// The time that a UUID of [`uuid_v7`] was made at; `None` for UUIDs of other versions.
pub(crate) fn time_of(uuid: Uuid) -> Option<Micros> {
    if uuid.get_version_num() != 7 {
        return None;
    }
    let bits = uuid.as_u128();
    let (ms, fraction) = (i64::try_from(bits >> 80).ok()?, i64::try_from((bits >> 64) & 0xfff).ok()?);
    // Rounded up, since the fraction was rounded down.
    Some(Micros(ms * 1_000 + (fraction * 1_000 + 4_095) / 4_096))
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $resource:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl TypedId for $name {
            const PREFIX: &'static str = $prefix;
            const RESOURCE: &'static str = $resource;

            fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_id(f, $prefix, self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_id($prefix, text).map(Self)
            }
        }
    )*};
}

typed_ids! {
    /// Names a workspace.
    WorkspaceId = "ws", "workspace";
    /// Names an API key; the secret is something else.
    ApiKeyId = "key", "api_key";
    /// Names a contact.
    ContactId = "con", "contact";
    /// Names a field.
    FieldId = "fld", "field";
    /// Names a tag.
    TagId = "tag", "tag";
    /// Names a webhook.
    WebhookId = "wh", "webhook";
    /// Names a request definition of a webhook.
    WebhookEventId = "whe", "webhook_event";
    /// Names a recorded event.
    EventId = "evt", "event";
    /// Names a delivery; the `webhook-id` header.
    DeliveryId = "dlv", "delivery";
    /// Names a replay of deliveries.
    ReplayId = "rpl", "replay";
    /// Names a link that tags who clicks it.
    SmartLinkId = "lnk", "smart_link";
    /// Names a campaign.
    CampaignId = "cmp", "campaign";
    /// Names a contact's way through a campaign.
    EnrollmentId = "enr", "enrollment";
}

fn write_id(f: &mut fmt::Formatter<'_>, prefix: &str, uuid: Uuid) -> fmt::Result {
    let bits = uuid.as_u128();
    write!(f, "{prefix}_")?;
    for group in (0..SUFFIX_CHARS).rev() {
        let value = usize::try_from((bits >> (5 * group)) & 31).unwrap_or(0);
        let symbol = ALPHABET.get(value).copied().unwrap_or(b'0');
        fmt::Write::write_char(f, char::from(symbol))?;
    }
    Ok(())
}

fn parse_id(prefix: &'static str, text: &str) -> Result<Uuid, IdError> {
    decode(prefix, text).ok_or(IdError { prefix })
}

fn decode(prefix: &str, text: &str) -> Option<Uuid> {
    let suffix = text.strip_prefix(prefix)?.strip_prefix('_')?.as_bytes();
    // The first character holds three bits; more would overflow 128.
    if suffix.len() != SUFFIX_CHARS || suffix.first()? > &b'7' {
        return None;
    }
    suffix
        .iter()
        .try_fold(0u128, |bits, symbol| {
            let value = ALPHABET.iter().position(|known| known == symbol)?;
            Some(bits << 5 | u128::try_from(value).ok()?)
        })
        .map(Uuid::from_u128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, uuid: &str) {
        let uuid: Uuid = uuid.parse().unwrap();
        let suffix = format!("tag_{text}");
        assert_eq!(TagId(uuid).to_string(), suffix);
        assert_eq!(suffix.parse::<TagId>(), Ok(TagId(uuid)));
    }

    /// The specification's own vectors (spec/valid.yml).
    #[test]
    fn writes_and_reads_the_vectors_of_the_specification() {
        check("00000000000000000000000000", "00000000-0000-0000-0000-000000000000");
        check("00000000000000000000000001", "00000000-0000-0000-0000-000000000001");
        check("0000000000000000000000000a", "00000000-0000-0000-0000-00000000000a");
        check("0000000000000000000000000g", "00000000-0000-0000-0000-000000000010");
        check("00000000000000000000000010", "00000000-0000-0000-0000-000000000020");
        check("7zzzzzzzzzzzzzzzzzzzzzzzzz", "ffffffff-ffff-ffff-ffff-ffffffffffff");
        check("0123456789abcdefghjkmnpqrs", "0110c853-1d09-52d8-d73e-1194e95b5f19");
        check("01h455vb4pex5vsknk084sn02q", "01890a5d-ac96-774b-bcce-b302099a8057");
    }

    /// The specification's own invalid forms (spec/invalid.yml), and ids of another kind.
    #[test]
    fn refuses_what_is_no_id_of_the_kind() {
        for text in [
            "",
            "tag",
            "tag_",
            "_00000000000000000000000000",
            "00000000000000000000000000",
            "TAG_00000000000000000000000000",
            "con_00000000000000000000000000",
            "tag_1234567890123456789012345",
            "tag_123456789012345678901234567",
            "tag_8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "tag_0123456789ABCDEFGHJKMNPQRS",
            "tag_ooooooiiiiiiuuuuuuulllllll",
            "tag_1123456789-0123456789-0123",
            "tag_0000000000000000000000000é",
            " tag_00000000000000000000000000",
        ] {
            assert!(text.parse::<TagId>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn later_ids_sort_later() {
        let entropy = Entropy::system();
        let at = |us: i64| DeliveryId::generate(Micros(1_700_000_000_000_000 + us), &entropy);
        assert!(at(0) < at(1));
        assert!(at(999) < at(1_000));
        assert_eq!(at(0).0.get_version_num(), 7);
        for us in 0..1_000 {
            assert_eq!(time_of(at(us).0), Some(Micros(1_700_000_000_000_000 + us)));
        }
        assert_eq!(time_of(Uuid::nil()), None);
    }
}
