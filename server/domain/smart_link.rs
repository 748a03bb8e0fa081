//! Links that tag who clicks them: where they lead, and how their clicks are counted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use super::contact::Contact;
use super::field::{FieldType, render_stored};
use super::template::{RenderError, RenderedUrl, UrlTemplate};
use super::time::Micros;
use crate::ids::{SmartLinkId, TagId};

const US_PER_DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// The placeholder of the contact's id, which is no field.
const CONTACT_ID: &str = "contact_id";
/// That of the contact's address, which is no field either.
const EMAIL: &str = "email";
const PHONE: &str = "phone";

/// A link that tags who clicks it. What people see of it is its tag's: name, description, version and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartLink {
    /// Its id.
    pub id: SmartLinkId,
    /// The tag that a click assigns.
    pub tag_id: TagId,
    /// What stands in the short URL: [`Code`]s are unique in the deployment.
    pub code: Code,
    /// Its name, and its tag's.
    pub name: String,
    /// The caller's own name of it, unique in the workspace.
    pub key: Option<String>,
    /// Where it leads.
    pub target: UrlTemplate,
    /// For people.
    pub description: String,
    /// Raised by each change; the etag.
    pub version: i64,
    /// When it was created.
    pub created: Micros,
    /// When it was last changed.
    pub updated: Micros,
}

impl SmartLink {
    /// Where the link leads a contact; nobody's values are all empty.
    ///
    /// # Errors
    ///
    /// If the values make a dot segment, or make the URL too long.
    pub fn lead(
        &self,
        contact: Option<&Contact>,
        field_type: &dyn Fn(&str) -> Option<FieldType>,
    ) -> Result<RenderedUrl, RenderError> {
        let value = |name: &str| contact.and_then(|contact| value_of(contact, name, field_type)).unwrap_or_default();
        let values: HashMap<&str, String> = self.target.placeholders().map(|name| (name, value(name))).collect();
        self.target.render(&|name| values.get(name).map(String::as_str))
    }
}

/// The names of the placeholders that can be filled: those of fields and two more.
#[must_use]
pub fn placeholders<'a>(field_keys: &[&'a str]) -> Vec<&'a str> {
    [EMAIL, CONTACT_ID].into_iter().chain(field_keys.iter().copied()).collect()
}

fn value_of(contact: &Contact, name: &str, field_type: &dyn Fn(&str) -> Option<FieldType>) -> Option<String> {
    match name {
        CONTACT_ID => Some(contact.id.to_string()),
        EMAIL => contact.email.as_ref().map(|email| email.as_str().to_owned()),
        _ => {
            // A field that has been deleted is as one that is empty.
            let stored = contact.values.get(name).zip(field_type(name));
            let rendered = stored.and_then(|(stored, field_type)| render_stored(field_type, stored));
            let phone = || contact.phone.as_ref().filter(|_| name == PHONE).map(|phone| Cow::from(phone.as_str()));
            rendered.map(|rendered| rendered.text).or_else(phone).map(Cow::into_owned)
        }
    }
}

/// What names a link in its short URL: 10 characters of 0-9 and a-z without i, l, o and u, which people can type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Code(String);

impl Code {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    const CHARS: usize = 10;

    /// A code of random bytes: 50 bits of them count.
    #[must_use]
    pub fn of(random: [u8; Self::CHARS]) -> Self {
        let symbol = |byte: u8| Self::ALPHABET.get(usize::from(byte % 32)).copied().unwrap_or(b'0');
        Self(random.into_iter().map(|byte| char::from(symbol(byte))).collect())
    }

    /// Reads a code, in any case; `None` for what can't be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_good = |byte: u8| Self::ALPHABET.contains(&byte.to_ascii_lowercase());
        (text.len() == Self::CHARS && text.bytes().all(is_good)).then(|| Self(text.to_ascii_lowercase()))
    }

    /// The code as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A day in UTC, as days since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

impl Day {
    /// The day of a time.
    #[must_use]
    pub const fn of(time: Micros) -> Self {
        Self(time.0.div_euclid(US_PER_DAY))
    }

    /// Reads `YYYY-MM-DD`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Else a time that begins with a date would do.
        (text.len() == 10).then(|| Micros::parse_rfc3339(&format!("{text}T00:00:00Z")).map(Self::of))?
    }
}

/// `YYYY-MM-DD`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Micros(self.0.saturating_mul(US_PER_DAY)).to_rfc3339();
        f.write_str(text.get(..10).unwrap_or_default())
    }
}

/// How many clicks there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clicks {
    /// Of contacts.
    pub contacts: i64,
    /// Of people who aren't known.
    pub anonymous: i64,
    /// Of programs.
    pub machines: i64,
}

impl std::ops::AddAssign for Clicks {
    fn add_assign(&mut self, other: Self) {
        self.contacts += other.contacts;
        self.anonymous += other.anonymous;
        self.machines += other.machines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_in_any_case() {
        let code = Code::of([0, 31, 32, 255, 9, 10, 17, 18, 20, 22]);
        assert_eq!(code.as_str(), "0z0z9ahjmp");
        assert_eq!(Code::parse("0Z0z9AHJMP"), Some(code));
        for bad in ["", "0z0z9ahjm", "0z0z9ahjmpp", "0z0z9ahjm\u{e9}", "0z0z9ahjml", "../0z0z9ah"] {
            assert_eq!(Code::parse(bad), None, "{bad}");
        }
    }

    #[track_caller]
    fn check_day(text: &str, day: i64) {
        assert_eq!(Day::parse(text), Some(Day(day)));
        assert_eq!(Day(day).to_string(), text);
    }

    #[test]
    fn days_are_dates() {
        check_day("1970-01-01", 0);
        check_day("1969-12-31", -1);
        check_day("2024-02-29", 19_782);
        for bad in ["", "2024-02-30", "2024-2-29", "20240229", "2024-02-29T", "heute", "2024-02-2\u{e9}"] {
            assert_eq!(Day::parse(bad), None, "{bad}");
        }
        assert_eq!(Day::of(Micros(US_PER_DAY - 1)), Day(0));
        assert_eq!(Day::of(Micros(-1)), Day(-1));
    }
}
