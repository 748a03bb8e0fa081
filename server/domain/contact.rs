//! Who a contact is: its e-mail address, phone number, external id and subscription status.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::coded::coded;
use super::field::stored_text;
use super::time::Micros;
use crate::ids::ContactId;

/// Longest e-mail address in bytes (RFC 5321, 4.5.3.1.3, less the angle brackets).
pub const MAX_EMAIL_BYTES: usize = 254;
/// Longest part before the `@` in bytes (RFC 5321, 4.5.3.1.1).
pub const MAX_EMAIL_LOCAL_BYTES: usize = 64;
/// Longest external id in bytes.
pub const MAX_EXTERNAL_ID_BYTES: usize = 200;
/// The most values of a contact.
pub const MAX_VALUES: usize = 500;
/// The most bytes of a contact's keys and values together, as [`Contact::values_bytes`] counts them.
pub const MAX_VALUES_BYTES: usize = 512 * 1_024;
/// Longest label of a domain in bytes (RFC 1035, 2.3.4).
const MAX_DOMAIN_LABEL_BYTES: usize = 63;
/// Fewest and most digits of a phone number, the country code included (ITU-T E.164).
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;
/// Longest text read as a phone number: 15 digits and generous punctuation.
const MAX_PHONE_INPUT_BYTES: usize = 64;

coded! {
    /// Whether the contact agreed to be written to. Never blocks a trigger.
    pub enum ContactStatus {
        /// Was asked to confirm (double opt-in) and hasn't yet.
        Pending = 1, "PENDING";
        /// Agreed, and may be written to: what a contact is made as unless its creator says otherwise.
        Subscribed = 2, "SUBSCRIBED";
        /// Withdrew the agreement.
        Unsubscribed = 3, "UNSUBSCRIBED";
        /// Its address was found not to receive mail.
        Bounced = 4, "BOUNCED";
    }
}

/// A person, known by at least one of an e-mail address, a phone number and an external id. `Debug` shows no data of the
/// person.
#[derive(Clone)]
pub struct Contact {
    /// Its id.
    pub id: ContactId,
    /// Unique in the workspace.
    pub email: Option<Email>,
    /// Unique in the workspace.
    pub phone: Option<Phone>,
    /// Unique in the workspace.
    pub external_id: Option<ExternalId>,
    /// Whether it may be written to.
    pub status: ContactStatus,
    /// The values by field key, as [`super::field::FieldValue::to_stored`] writes them.
    pub values: serde_json::Map<String, serde_json::Value>,
    /// Raised by each change; the etag.
    pub version: i64,
    /// When it was created.
    pub created: Micros,
    /// When it was last changed.
    pub updated: Micros,
}

impl Contact {
    /// The bytes of its keys and values, as text.
    #[must_use]
    pub fn values_bytes(&self) -> usize {
        self.values.iter().map(|(key, value)| key.len() + stored_text(value).len()).sum()
    }
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contact").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A contact's e-mail address in its canonical form: in lower case throughout, so that equal text means the same
/// contact on every database. International domains stay as given (`müller.example` isn't turned into Punycode).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

impl Email {
    /// Trims ASCII white space, checks the address (see [`check_email`]) and lower-cases it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the address, without repeating it.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let lower = text.trim_ascii().to_lowercase();
        // Checked after lower-casing, since some letters grow by it.
        check_email(&lower)?;
        Ok(Self(lower))
    }

    /// The canonical form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A contact's phone number in its canonical form (E.164): `+`, then 7 to 15 digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Phone(String);

impl Phone {
    /// Reads an international number, written with `+` or `00` before the country code; spaces, dashes, dots,
    /// slashes and parentheses are dropped.
    ///
    /// `(0)` is refused: whether the zero belongs to the number differs by country, and a guess would make two
    /// contacts of one person or one of two.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the number, without repeating it.
    pub fn parse(text: &str) -> Result<Self, PhoneError> {
        if text.len() > MAX_PHONE_INPUT_BYTES {
            return Err(PhoneError::Length);
        }
        let compact: String = text.chars().filter(|c| !is_phone_punctuation(*c)).collect();
        if compact.is_empty() {
            return Err(PhoneError::Empty);
        }
        let Some(digits) = compact.strip_prefix('+').or_else(|| compact.strip_prefix("00")) else {
            return Err(PhoneError::NotInternational);
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PhoneError::Character);
        }
        if text.replace(' ', "").contains("(0)") {
            return Err(PhoneError::TrunkPrefix);
        }
        if digits.starts_with('0') {
            return Err(PhoneError::CountryCode);
        }
        if !PHONE_DIGITS.contains(&digits.len()) {
            return Err(PhoneError::Length);
        }
        Ok(Self(format!("+{digits}")))
    }

    /// The canonical form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of a contact in the caller's own system, such as a CRM: 1 to [`MAX_EXTERNAL_ID_BYTES`] bytes without control
/// characters. Compared byte for byte: neither white space nor case is changed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExternalId(String);

impl ExternalId {
    /// Checks the length and the characters.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the id, without repeating it.
    pub fn parse(text: &str) -> Result<Self, ExternalIdError> {
        if !(1..=MAX_EXTERNAL_ID_BYTES).contains(&text.len()) {
            return Err(ExternalIdError::Length { bytes: text.len() });
        }
        if text.contains(char::is_control) {
            return Err(ExternalIdError::Character);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text isn't an external id. Never repeats the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalIdError {
    /// Empty, or longer than [`MAX_EXTERNAL_ID_BYTES`].
    #[error("must be 1 to {MAX_EXTERNAL_ID_BYTES} bytes; has {bytes}")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// A control character.
    #[error("must have no control characters")]
    Character,
}

/// Why a text isn't an e-mail address. Never repeats the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// No text.
    #[error("is empty; an e-mail address is local@domain")]
    Empty,
    /// Longer than [`MAX_EMAIL_BYTES`], or [`MAX_EMAIL_LOCAL_BYTES`] before the `@`.
    #[error("must be at most {MAX_EMAIL_BYTES} bytes, {MAX_EMAIL_LOCAL_BYTES} of them before the @; has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No `@`.
    #[error("must be local@domain; has no @")]
    NoAt,
    /// The part before the `@` is empty or has what it may not.
    #[error("must have a name before the @ made of letters, digits and .!#$%&'*+/=?^_`{{|}}~-")]
    Local,
    /// The part after the `@` is no domain.
    #[error("must have a domain after the @, of labels of 1 to 63 letters, digits and inner hyphens joined by dots")]
    Domain,
}

/// Why a text isn't a phone number. Never repeats the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PhoneError {
    /// No text, or punctuation alone.
    #[error("is empty; a phone number is + and 7 to 15 digits")]
    Empty,
    /// Without country code.
    #[error("must start with + or 00 and the country code, like +49 30 1234567")]
    NotInternational,
    /// A letter or the like.
    #[error("must have nothing but digits, spaces, dashes, dots, slashes and parentheses after the +")]
    Character,
    /// A trunk prefix in parentheses.
    #[error("must be written without (0) after the country code")]
    TrunkPrefix,
    /// A zero where the country code begins.
    #[error("must have a country code, which never starts with 0, after the + or 00")]
    CountryCode,
    /// Too few or too many digits.
    #[error("must have 7 to 15 digits, country code included")]
    Length,
}

/// Checks that a text is an e-mail address as the HTML standard defines a valid one, widened to letters outside ASCII
/// (RFC 6531): no quoted names, no comments, no address literals. Upper case is fine.
///
/// # Errors
///
/// Says what is wrong with the address, without repeating it.
pub fn check_email(text: &str) -> Result<(), EmailError> {
    if text.is_empty() {
        return Err(EmailError::Empty);
    }
    let (local, domain) = text.rsplit_once('@').ok_or(EmailError::NoAt)?;
    if text.len() > MAX_EMAIL_BYTES || local.len() > MAX_EMAIL_LOCAL_BYTES {
        return Err(EmailError::TooLong { bytes: text.len() });
    }
    if local.is_empty() || !local.chars().all(is_local_char) {
        return Err(EmailError::Local);
    }
    if !domain.split('.').all(is_domain_label) {
        return Err(EmailError::Domain);
    }
    Ok(())
}

fn is_local_char(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c) } else { is_visible(c) }
}

fn is_domain_label(label: &str) -> bool {
    let chars_fit =
        label.chars().all(|c| if c.is_ascii() { c.is_ascii_alphanumeric() || c == '-' } else { is_visible(c) });
    chars_fit && (1..=MAX_DOMAIN_LABEL_BYTES).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

/// Refuses white space, control characters and the invisible ones that pasting brings along, which would make two
/// contacts of what looks like one address.
fn is_visible(c: char) -> bool {
    let invisible = matches!(c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !(invisible || c.is_whitespace() || c.is_control())
}

/// What people put between the digits, the typographic spaces and dashes of pasted numbers included.
fn is_phone_punctuation(c: char) -> bool {
    matches!(c, ' ' | '\t' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2010}'..='\u{2015}')
}

/// Redacted: an address is personal data and must not reach a log through `{:?}`.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Email({} bytes)", self.0.len())
    }
}

/// Redacted: a number is personal data and must not reach a log through `{:?}`.
impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Phone({} bytes)", self.0.len())
    }
}

/// Redacted: an external id may be personal data, such as a customer number, and must not reach a log through `{:?}`.
impl fmt::Debug for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalId({} bytes)", self.0.len())
    }
}

impl TryFrom<String> for Email {
    type Error = EmailError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

impl TryFrom<String> for Phone {
    type Error = PhoneError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Phone> for String {
    fn from(phone: Phone) -> Self {
        phone.0
    }
}

impl TryFrom<String> for ExternalId {
    type Error = ExternalIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ExternalId> for String {
    fn from(id: ExternalId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_address(text: &str, expected: Result<&str, EmailError>) {
        let parsed = Email::parse(text);
        assert_eq!(parsed.as_ref().map(Email::as_str).map_err(|error| *error), expected, "{text:?}");
        if let Ok(email) = parsed {
            assert_eq!(Email::parse(email.as_str()).as_ref(), Ok(&email), "{text:?} again");
        }
    }

    #[test]
    fn normalises_emails() {
        check_address("a@b", Ok("a@b"));
        check_address(" Ada.Lovelace@Example.COM\r\n", Ok("ada.lovelace@example.com"));
        check_address("a+b_c-d'e@sub.example.co.uk", Ok("a+b_c-d'e@sub.example.co.uk"));
        check_address("ÄÖ@MÜLLER.example", Ok("äö@müller.example"));
        check_address("用户@例子.广告", Ok("用户@例子.广告"));
        check_address("x..y.@example.com", Ok("x..y.@example.com"));
        check_address("a@1.2.3.4", Ok("a@1.2.3.4"));
        check_address("İ@x.org", Ok("i\u{307}@x.org"));
    }

    #[test]
    fn refuses_what_is_no_email() {
        check_address("", Err(EmailError::Empty));
        check_address("   ", Err(EmailError::Empty));
        check_address("ada", Err(EmailError::NoAt));
        for local in ["", "a b", "a@b", "\"a b\"", "a,b", "a\u{0}", "a\u{200b}", "a\u{a0}", "<a", "a\nb", "(c)a"] {
            check_address(&format!("{local}@d.org"), Err(EmailError::Local));
        }
        for domain in ["", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "[1.2.3.4]", "a_b", "a b", "a\u{feff}.de", "a>"]
        {
            check_address(&format!("x@{domain}"), Err(EmailError::Domain));
        }
    }

    #[test]
    fn limits_email_length() {
        let label = "d".repeat(63);
        let local = "l".repeat(64);
        // 64 + 1 + 63 + 1 + 63 + 1 + 61 = 254
        let longest = format!("{local}@{label}.{label}.{}", "d".repeat(61));
        assert_eq!(longest.len(), 254);
        check_address(&longest, Ok(&longest));
        check_address(&format!("{longest}d"), Err(EmailError::TooLong { bytes: 255 }));
        check_address(&format!("{local}l@d.org"), Err(EmailError::TooLong { bytes: 71 }));
        check_address(&format!("a@{label}d.org"), Err(EmailError::Domain));
        // 62 + 2 bytes fit before lower-casing, 62 + 3 don't after it.
        check_address(&format!("{}İ@d.org", "l".repeat(62)), Err(EmailError::TooLong { bytes: 71 }));
    }

    #[track_caller]
    fn check_phone(text: &str, expected: Result<&str, PhoneError>) {
        let parsed = Phone::parse(text);
        assert_eq!(parsed.as_ref().map(Phone::as_str).map_err(|error| *error), expected, "{text:?}");
        if let Ok(phone) = parsed {
            assert_eq!(Phone::parse(phone.as_str()).as_ref(), Ok(&phone), "{text:?} again");
        }
    }

    #[test]
    fn normalises_phones() {
        check_phone("+491701234567", Ok("+491701234567"));
        check_phone(" +49 (170) 123-45.67 ", Ok("+491701234567"));
        check_phone("0049/170/1234567", Ok("+491701234567"));
        check_phone("+1\u{a0}202\u{2011}555\u{2013}0143", Ok("+12025550143"));
        check_phone("(+1) 202 555 0143", Ok("+12025550143"));
        check_phone("+1234567", Ok("+1234567"));
        check_phone("+123456789012345", Ok("+123456789012345"));
    }

    #[test]
    fn refuses_what_is_no_phone() {
        check_phone("", Err(PhoneError::Empty));
        check_phone(" - ", Err(PhoneError::Empty));
        check_phone("0170 1234567", Err(PhoneError::NotInternational));
        check_phone("1234567", Err(PhoneError::NotInternational));
        check_phone("+49 170 CALLME", Err(PhoneError::Character));
        check_phone("++491701234567", Err(PhoneError::Character));
        check_phone("+49170\n1234567", Err(PhoneError::Character));
        check_phone("+٤٩١٧٠١٢٣٤٥٦٧", Err(PhoneError::Character));
        check_phone("+49 (0)170 1234567", Err(PhoneError::TrunkPrefix));
        check_phone("+49 ( 0 ) 170 1234567", Err(PhoneError::TrunkPrefix));
        check_phone("+0170 1234567", Err(PhoneError::CountryCode));
        check_phone("000491701234567", Err(PhoneError::CountryCode));
        check_phone("+", Err(PhoneError::Length));
        check_phone("00", Err(PhoneError::Length));
        check_phone("+123456", Err(PhoneError::Length));
        check_phone("+1234567890123456", Err(PhoneError::Length));
        check_phone(&" ".repeat(65), Err(PhoneError::Length));
    }

    #[test]
    fn external_ids_are_kept_byte_for_byte() {
        for text in ["0", " A-1 ", "müller", &"x".repeat(200)] {
            assert_eq!(ExternalId::parse(text).as_ref().map(ExternalId::as_str), Ok(text));
        }
        assert_eq!(ExternalId::parse(""), Err(ExternalIdError::Length { bytes: 0 }));
        assert_eq!(ExternalId::parse(&"x".repeat(201)), Err(ExternalIdError::Length { bytes: 201 }));
        for text in ["a\0", "a\n", "\u{7f}", "\u{85}"] {
            assert_eq!(ExternalId::parse(text), Err(ExternalIdError::Character), "{text:?}");
        }
    }

    #[test]
    fn debug_output_hides_personal_data() {
        let email = Email::parse("ada@example.com").unwrap();
        let phone = Phone::parse("+12025550143").unwrap();
        let external_id = ExternalId::parse("4711").unwrap();
        let shown = format!("{email:?} {phone:?} {external_id:?}");
        assert_eq!(shown, "Email(15 bytes) Phone(12 bytes) ExternalId(4 bytes)");
    }
}
