//! Contact fields: which there are, what their values may be, and how a value is rendered for delivery.

use std::borrow::Cow;
use std::fmt;

use jiff::civil::{Date, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::coded::coded;
use super::contact::{EmailError, check_email};
use super::time::Micros;
use crate::ids::FieldId;

/// Longest value of a text field, in bytes.
pub const MAX_TEXT_BYTES: usize = 4_096;
/// Longest value of a paragraph or html field, in bytes.
pub const MAX_PARAGRAPH_BYTES: usize = 65_536;
/// Longest value of a url field, in bytes.
pub const MAX_URL_BYTES: usize = 2_048;
/// Longest key of a field, in bytes.
pub const MAX_KEY_BYTES: usize = 63;

/// Keys that no custom field may have beside those of the standard fields: a contact has these by itself.
const RESERVED_KEYS: [&str; 7] = ["id", "contact_id", "email", "status", "tags", "create_time", "update_time"];

coded! {
    /// What a field holds; fixed when the field is made.
    pub enum FieldType {
        /// One line, up to 4,096 bytes, without control characters.
        Text = 1, "TEXT";
        /// Several lines, up to 64 KiB, without NUL.
        Paragraph = 2, "PARAGRAPH";
        /// An e-mail address, up to 254 bytes.
        Email = 3, "EMAIL";
        /// A signed 64-bit number.
        Integer = 4, "INTEGER";
        /// A decimal number of up to 28 digits, kept exactly as written.
        Decimal = 5, "DECIMAL";
        /// An absolute http or https URL, up to 2,048 bytes.
        Url = 6, "URL";
        /// A day, `YYYY-MM-DD`.
        Date = 7, "DATE";
        /// A point in time to the microsecond.
        Datetime = 8, "DATETIME";
        /// A time of day to the second.
        Time = 9, "TIME";
        /// True or false.
        Boolean = 10, "BOOLEAN";
        /// Markup, kept as it is, up to 64 KiB, without NUL.
        Html = 11, "HTML";
    }
}

impl FieldType {
    /// What a value of this type looks like, for error messages.
    #[must_use]
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Text => "one line of text",
            Self::Paragraph => "text",
            Self::Email => "an e-mail address",
            Self::Integer => "a whole number from -9223372036854775808 to 9223372036854775807",
            Self::Decimal => "a decimal number of at most 28 digits with a point as separator",
            Self::Url => "an absolute http or https URL",
            Self::Date => "a date YYYY-MM-DD from 0001-01-01 to 9999-12-31",
            Self::Datetime => "an RFC 3339 time with an offset, like 2026-01-31T08:30:00Z",
            Self::Time => "a time of day HH:MM or HH:MM:SS",
            Self::Boolean => "true or false",
            Self::Html => "HTML",
        }
    }
}

/// A standard field: there in every workspace, and fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandardField {
    /// From 1 on; its typed id is made of it, so it is never changed nor reused.
    pub number: u16,
    /// Its key.
    pub key: &'static str,
    /// Its name for people.
    pub display_name: &'static str,
    /// What it holds.
    pub field_type: FieldType,
}

/// The standard fields, by number.
pub const STANDARD_FIELDS: [StandardField; 16] = [
    standard(1, "first_name", "First name", FieldType::Text),
    standard(2, "last_name", "Last name", FieldType::Text),
    standard(3, "company", "Company", FieldType::Text),
    standard(4, "street1", "Street 1", FieldType::Text),
    standard(5, "street2", "Street 2", FieldType::Text),
    standard(6, "city", "City", FieldType::Text),
    standard(7, "state", "State", FieldType::Text),
    standard(8, "zip", "ZIP code", FieldType::Text),
    standard(9, "country", "Country", FieldType::Text),
    standard(10, "phone", "Phone", FieldType::Text),
    standard(11, "private_phone", "Private phone", FieldType::Text),
    standard(12, "mobile_phone", "Mobile phone", FieldType::Text),
    standard(13, "fax", "Fax", FieldType::Text),
    standard(14, "website", "Website", FieldType::Url),
    standard(15, "birthday", "Birthday", FieldType::Date),
    standard(16, "lead_value", "Lead value", FieldType::Decimal),
];

const fn standard(number: u16, key: &'static str, display_name: &'static str, field_type: FieldType) -> StandardField {
    StandardField { number, key, display_name, field_type }
}

impl StandardField {
    /// Its typed id, the same in every workspace.
    #[must_use]
    pub fn id(&self) -> FieldId {
        FieldId(uuid::Uuid::from_u128(u128::from(self.number)))
    }
}

/// A field that a workspace defined for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomField {
    /// Its id.
    pub id: FieldId,
    /// Its key, unique in the workspace and fixed.
    pub key: FieldKey,
    /// Its name for people.
    pub display_name: String,
    /// What it holds; fixed.
    pub field_type: FieldType,
    /// Raised by each change; the etag.
    pub version: i64,
    /// When it was created.
    pub created: Micros,
    /// When it was last changed.
    pub updated: Micros,
}

/// The standard field with that key.
#[must_use]
pub fn standard_field(key: &str) -> Option<&'static StandardField> {
    STANDARD_FIELDS.iter().find(|field| field.key == key)
}

/// The key of a field: `[a-z][a-z0-9_]{0,62}`, without `__` and without `_` at the end, so that every key can stand
/// in a URL as the placeholder `__key__`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldKey(String);

impl FieldKey {
    /// The key that the text is.
    ///
    /// # Errors
    ///
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, FieldKeyError> {
        if text.is_empty() || text.len() > MAX_KEY_BYTES {
            return Err(FieldKeyError::Length { bytes: text.len() });
        }
        let chars_fit = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !chars_fit || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Err(FieldKeyError::Character);
        }
        if text.contains("__") || text.ends_with('_') {
            return Err(FieldKeyError::Underscore);
        }
        Ok(Self(text.to_owned()))
    }

    /// A key that a custom field may have: none of a standard field, and none of what every contact has.
    ///
    /// # Errors
    ///
    /// Says which rule the text breaks.
    pub fn parse_custom(text: &str) -> Result<Self, FieldKeyError> {
        let key = Self::parse(text)?;
        let has_digit_after_underscore = |pair: &[u8]| matches!(pair, [b'_', digit] if digit.is_ascii_digit());
        if text.as_bytes().windows(2).any(has_digit_after_underscore) {
            return Err(FieldKeyError::DigitAfterUnderscore);
        }
        if standard_field(text).is_some() || RESERVED_KEYS.contains(&text) {
            return Err(FieldKeyError::Reserved);
        }
        Ok(key)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text isn't a field key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldKeyError {
    /// Empty, or longer than [`MAX_KEY_BYTES`].
    #[error("must be 1 to {MAX_KEY_BYTES} bytes; has {bytes}")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// A character that keys don't have.
    #[error("must start with a to z and have only a to z, 0 to 9 and _")]
    Character,
    /// An underscore where it would make the key unusable as a placeholder.
    #[error("must not have __ inside nor _ at the end, so that it can be used as a placeholder")]
    Underscore,
    /// An underscore before a digit, which JSON's spelling of field masks loses.
    #[error("must not have _ before a digit, so that it can be named in a field mask of JSON")]
    DigitAfterUnderscore,
    /// Taken by the system.
    #[error("is the key of a standard field or of what every contact has")]
    Reserved,
}

impl TryFrom<String> for FieldKey {
    type Error = FieldKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<FieldKey> for String {
    fn from(key: FieldKey) -> Self {
        key.0
    }
}

/// A decimal number of up to 28 digits in its canonical text: `-` if below zero, no leading zeros, at least one digit
/// before the point. Digits after the point stay as written (`1.50` isn't `1.5`). Always a valid JSON number.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Decimal(String);

impl Decimal {
    /// Most digits, counted from the first that isn't zero; also the most digits after the point.
    pub const MAX_DIGITS: usize = 28;

    /// Reads an optional sign, digits and an optional fraction; no exponent, no grouping. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = match unsigned.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None if unsigned.is_empty() => return None,
            None => (unsigned, ""),
        };
        if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let leading = if whole.is_empty() { fraction.trim_start_matches('0') } else { fraction };
        if whole.len() + leading.len() > Self::MAX_DIGITS || fraction.len() > Self::MAX_DIGITS {
            return None;
        }
        let is_zero = whole.is_empty() && leading.is_empty();
        let sign = if negative && !is_zero { "-" } else { "" };
        let whole = if whole.is_empty() { "0" } else { whole };
        let point = if fraction.is_empty() { "" } else { "." };
        Some(Self([sign, whole, point, fraction].concat()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value that fits its field's type.
#[derive(Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// One line.
    Text(String),
    /// Several lines.
    Paragraph(String),
    /// Checked, in the case it was given in.
    Email(String),
    /// A whole number.
    Integer(i64),
    /// An exact number.
    Decimal(Decimal),
    /// Checked, written as it was given.
    Url(String),
    /// A day.
    Date(Date),
    /// A point in time.
    Datetime(Micros),
    /// A time of day.
    Time(Time),
    /// True or false.
    Boolean(bool),
    /// Markup.
    Html(String),
}

impl FieldValue {
    /// Reads a value from text. Text, paragraph and html stay exactly as given; around the other types ASCII white
    /// space is dropped.
    ///
    /// # Errors
    ///
    /// [`ValueError::Empty`] for an empty text, else what is allowed; the value itself is never repeated.
    pub fn parse(field_type: FieldType, text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::Empty);
        }
        match field_type {
            FieldType::Text => parse_line(text).map(Self::Text),
            FieldType::Paragraph => parse_block(text).map(Self::Paragraph),
            FieldType::Html => parse_block(text).map(Self::Html),
            _ => match text.trim_ascii() {
                "" => Err(ValueError::Empty),
                trimmed => Self::parse_trimmed(field_type, trimmed),
            },
        }
    }

    /// As [`FieldValue::parse`], but an empty text means that the field is to be cleared: `None`.
    ///
    /// # Errors
    ///
    /// What is allowed; the value itself is never repeated.
    pub fn parse_or_clear(field_type: FieldType, text: &str) -> Result<Option<Self>, ValueError> {
        match Self::parse(field_type, text) {
            Ok(value) => Ok(Some(value)),
            Err(ValueError::Empty) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a value back from the contact's JSON object; `None` if it doesn't fit the type.
    #[must_use]
    pub fn from_stored(field_type: FieldType, stored: &Value) -> Option<Self> {
        let rendered = render_stored(field_type, stored)?;
        Self::parse(field_type, &rendered.text).ok()
    }

    /// The value in the contact's JSON object: integers and booleans as themselves, all else as the rendered text
    /// (decimals too, since a JSON number would pass through a float).
    #[must_use]
    pub fn to_stored(&self) -> Value {
        match self {
            Self::Integer(number) => Value::from(*number),
            Self::Boolean(boolean) => Value::from(*boolean),
            _ => Value::from(self.render().text.into_owned()),
        }
    }

    /// What type of field it fits.
    #[must_use]
    pub const fn field_type(&self) -> FieldType {
        match self {
            Self::Text(_) => FieldType::Text,
            Self::Paragraph(_) => FieldType::Paragraph,
            Self::Email(_) => FieldType::Email,
            Self::Integer(_) => FieldType::Integer,
            Self::Decimal(_) => FieldType::Decimal,
            Self::Url(_) => FieldType::Url,
            Self::Date(_) => FieldType::Date,
            Self::Datetime(_) => FieldType::Datetime,
            Self::Time(_) => FieldType::Time,
            Self::Boolean(_) => FieldType::Boolean,
            Self::Html(_) => FieldType::Html,
        }
    }

    /// The value as a delivery carries it.
    #[must_use]
    pub fn render(&self) -> RenderedValue<'_> {
        let text = match self {
            Self::Text(text) | Self::Paragraph(text) | Self::Html(text) | Self::Email(text) | Self::Url(text) => {
                Cow::Borrowed(text.as_str())
            }
            Self::Decimal(decimal) => Cow::Borrowed(decimal.as_str()),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Boolean(boolean) => Cow::Borrowed(boolean_text(*boolean)),
            Self::Date(date) => Cow::Owned(date.to_string()),
            Self::Datetime(time) => Cow::Owned(time.to_rfc3339()),
            Self::Time(time) => Cow::Owned(format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())),
        };
        RenderedValue { text, json_native: is_json_native(self.field_type()) }
    }

    fn parse_trimmed(field_type: FieldType, text: &str) -> Result<Self, ValueError> {
        let malformed = ValueError::Malformed { field_type, bytes: text.len() };
        match field_type {
            FieldType::Email => check_email(text).map(|()| Self::Email(text.to_owned())).map_err(ValueError::Email),
            FieldType::Url => parse_url(text).map(Self::Url),
            FieldType::Integer => text.parse().map(Self::Integer).map_err(|_| malformed),
            FieldType::Decimal => Decimal::parse(text).map(Self::Decimal).ok_or(malformed),
            FieldType::Date => parse_date(text).map(Self::Date).ok_or(malformed),
            FieldType::Time => parse_time(text).map(Self::Time).ok_or(malformed),
            FieldType::Datetime => Micros::parse_rfc3339(text).map(Self::Datetime).ok_or(malformed),
            FieldType::Boolean if text.eq_ignore_ascii_case("true") => Ok(Self::Boolean(true)),
            FieldType::Boolean if text.eq_ignore_ascii_case("false") => Ok(Self::Boolean(false)),
            FieldType::Boolean | FieldType::Text | FieldType::Paragraph | FieldType::Html => Err(malformed),
        }
    }
}

/// A value as text, and whether JSON carries that text bare (a number, `true` or `false`) instead of as a string.
#[derive(Clone, PartialEq, Eq)]
pub struct RenderedValue<'a> {
    /// The text.
    pub text: Cow<'a, str>,
    /// Whether JSON carries it bare.
    pub json_native: bool,
}

/// A stored value as text, which is the same for all types.
#[must_use]
pub fn stored_text(stored: &Value) -> Cow<'_, str> {
    render_stored(FieldType::Paragraph, stored).map_or(Cow::Borrowed(""), |rendered| rendered.text)
}

/// Renders a value of the contact's JSON object without making a [`FieldValue`] of it: what is stored as a string is
/// stored as rendered. `None` for a value that is empty or can't be one of a field.
#[must_use]
pub fn render_stored(field_type: FieldType, stored: &Value) -> Option<RenderedValue<'_>> {
    let text = match stored {
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => Cow::Borrowed(text.as_str()),
        Value::Number(number) => Cow::Owned(number.to_string()),
        Value::Bool(boolean) => Cow::Borrowed(boolean_text(*boolean)),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(RenderedValue { text, json_native: is_json_native(field_type) })
}

/// Why a value doesn't fit its field. Says what is allowed; never repeats the value, which is personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No text, or white space where it doesn't count.
    #[error("is empty")]
    Empty,
    /// Not of the form.
    #[error("must be {}; the {bytes} bytes given are not", .field_type.expected())]
    Malformed {
        /// The type that it should be of.
        field_type: FieldType,
        /// Its length.
        bytes: usize,
    },
    /// Longer than allowed.
    #[error("must be at most {limit} bytes; has {bytes}")]
    TooLong {
        /// The longest allowed.
        limit: usize,
        /// Its length.
        bytes: usize,
    },
    /// A control character that the type doesn't take.
    #[error("must not have the control character U+{code:04X}, which stands at byte {at}")]
    ControlCharacter {
        /// Its code point.
        code: u32,
        /// Where it stands, in bytes.
        at: usize,
    },
    /// No e-mail address.
    #[error("{0}")]
    Email(EmailError),
}

fn parse_line(text: &str) -> Result<String, ValueError> {
    parse_text(text, MAX_TEXT_BYTES, char::is_control)
}

fn parse_block(text: &str) -> Result<String, ValueError> {
    // PostgreSQL can't store NUL in text or jsonb; all else may have been pasted and harms nobody.
    parse_text(text, MAX_PARAGRAPH_BYTES, |c| c == '\0')
}

fn parse_text(text: &str, limit: usize, is_refused: fn(char) -> bool) -> Result<String, ValueError> {
    if text.len() > limit {
        return Err(ValueError::TooLong { limit, bytes: text.len() });
    }
    match text.char_indices().find(|(_, c)| is_refused(*c)) {
        Some((at, c)) => Err(ValueError::ControlCharacter { code: u32::from(c), at }),
        None => Ok(text.to_owned()),
    }
}

fn parse_url(text: &str) -> Result<String, ValueError> {
    let field_type = FieldType::Url;
    let checked = parse_text(text, MAX_URL_BYTES, char::is_control)?;
    let malformed = ValueError::Malformed { field_type, bytes: text.len() };
    // The URL parser mends what isn't quite a URL (`http:x`, spaces); the value is sent as given, so it must be one.
    let has_scheme = ["http://", "https://"]
        .iter()
        .any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    if !has_scheme || text.contains(char::is_whitespace) || Url::parse(text).is_err() {
        return Err(malformed);
    }
    Ok(checked)
}

fn parse_date(text: &str) -> Option<Date> {
    let [year, month, day] = parse_digits(text, '-', [4, 2, 2])?;
    if year == 0 {
        return None;
    }
    Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

fn parse_time(text: &str) -> Option<Time> {
    let [hour, minute, second] = match parse_digits(text, ':', [2, 2]) {
        Some([hour, minute]) => [hour, minute, 0],
        None => parse_digits(text, ':', [2, 2, 2])?,
    };
    Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, i8::try_from(second).ok()?, 0).ok()
}

/// Reads `N` numbers of exactly these many ASCII digits with `separator` between them.
fn parse_digits<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i16; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split(separator);
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

const fn is_json_native(field_type: FieldType) -> bool {
    matches!(field_type, FieldType::Integer | FieldType::Decimal | FieldType::Boolean)
}

const fn boolean_text(boolean: bool) -> &'static str {
    if boolean { "true" } else { "false" }
}

/// Redacted: values are personal data and must not reach a log through `{:?}`.
impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldValue({}, {} bytes)", self.field_type().as_str(), self.render().text.len())
    }
}

/// Redacted, as [`FieldValue`].
impl fmt::Debug for RenderedValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RenderedValue({} bytes, native: {})", self.text.len(), self.json_native)
    }
}

#[cfg(test)]
mod tests;
