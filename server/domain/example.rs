//! A made-up contact, for previews of what a webhook sends.

use serde_json::{Map, Value};

use super::contact::{Contact, ContactStatus, Email, ExternalId, Phone};
use super::field::{FieldType, FieldValue, standard_field};
use super::time::Micros;
use crate::ids::ContactId;

/// Reserved by RFC 2606.
const EMAIL: &str = "ada@example.com";
/// Of the range that Ofcom keeps for fiction.
const PHONE: &str = "+442079460123";
const EXTERNAL_ID: &str = "crm-1815";

/// A contact with an example for each of the fields.
#[must_use]
pub fn contact<'a>(id: ContactId, now: Micros, fields: impl IntoIterator<Item = (&'a str, FieldType)>) -> Contact {
    let values: Map<String, Value> = fields
        .into_iter()
        .filter_map(|(key, field_type)| Some((key.to_owned(), value(key, field_type)?.to_stored())))
        .collect();
    Contact {
        id,
        email: Email::parse(EMAIL).ok(),
        phone: Phone::parse(PHONE).ok(),
        external_id: ExternalId::parse(EXTERNAL_ID).ok(),
        status: ContactStatus::Subscribed,
        values,
        version: 1,
        created: now,
        updated: now,
    }
}

fn value(key: &str, field_type: FieldType) -> Option<FieldValue> {
    let text = standard_field(key).and_then(|_| text_of_standard(key));
    FieldValue::parse(field_type, text.unwrap_or_else(|| text_of(field_type))).ok()
}

fn text_of_standard(key: &str) -> Option<&'static str> {
    Some(match key {
        "first_name" => "Ada",
        "last_name" => "Lovelace",
        "company" => "Example Ltd",
        "street1" => "1 Example Street",
        "street2" => "2nd floor",
        "city" => "London",
        "state" => "England",
        "zip" => "N1 9GU",
        "country" => "United Kingdom",
        "phone" => PHONE,
        "private_phone" => "+442079460124",
        "mobile_phone" => "+447700900123",
        "fax" => "+442079460125",
        "website" => "https://example.com/",
        "birthday" => "1985-12-10",
        "lead_value" => "1234.50",
        _ => return None,
    })
}

const fn text_of(field_type: FieldType) -> &'static str {
    match field_type {
        FieldType::Text => "One line",
        FieldType::Paragraph => "First line\nSecond line",
        FieldType::Email => EMAIL,
        FieldType::Integer => "42",
        FieldType::Decimal => "1234.50",
        FieldType::Url => "https://example.com/",
        FieldType::Date => "2026-01-31",
        FieldType::Datetime => "2026-01-31T12:00:00Z",
        FieldType::Time => "09:30:00",
        FieldType::Boolean => "true",
        FieldType::Html => "<p>Text</p>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::field::STANDARD_FIELDS;

    /// An example that doesn't fit its field would be missing.
    #[test]
    fn there_is_an_example_for_each_field() {
        let custom = FieldType::ALL.iter().map(|field_type| (field_type.as_str(), *field_type));
        let standard = STANDARD_FIELDS.iter().map(|field| (field.key, field.field_type));
        let contact = contact(ContactId(uuid::Uuid::nil()), Micros(0), custom.chain(standard));
        assert_eq!(contact.values.len(), FieldType::ALL.len() + STANDARD_FIELDS.len());
        assert!(STANDARD_FIELDS.iter().all(|field| text_of_standard(field.key).is_some()));
        assert!(contact.email.is_some() && contact.phone.is_some() && contact.external_id.is_some());
    }
}
