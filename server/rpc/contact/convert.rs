//! Contacts on the wire.
//!
//! Other nouns merge an update into the whole resource and check that again. A contact's values are checked alone: there
//! may be hundreds of them, and those of a field that was just deleted must not make every update fail.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::domain::contact::{Contact, ContactStatus, Email, ExternalId, MAX_VALUES, MAX_VALUES_BYTES, Phone};
use crate::domain::field::{FieldType, FieldValue, standard_field, stored_text};
use crate::domain::time::Micros;
use crate::error::{Result, Violations};
use crate::ids::ContactId;
use crate::pb;
use crate::rpc::call::etag_of;
use crate::rpc::convert::{code, timestamp};
use crate::rpc::mask::Update;
use crate::store::contact::ContactRef;

/// What a contact without any identity is told.
const IDENTITY_RULE: &str = "at least one of email, phone and external_id is needed";
const VALUES: &str = "values";
const CONTACT_PATH: &str = "contact";
const EMAIL_PATH: &str = "contact.email";
const PHONE_PATH: &str = "contact.phone";
const EXTERNAL_ID_PATH: &str = "contact.external_id";
const STATUS_PATH: &str = "contact.status";
const VALUES_PATH: &str = "contact.values";

/// Which parts of a contact a request names.
pub(super) struct Parts {
    email: bool,
    phone: bool,
    external_id: bool,
    status: bool,
    /// A status that isn't given is the default one.
    default_status: bool,
    /// The values that aren't given are dropped.
    replaces_values: bool,
    /// The keys of the values that are set, or cleared.
    keys: Vec<String>,
}

impl Parts {
    /// What is given.
    pub(super) fn given(contact: &pb::Contact) -> Self {
        Self {
            email: !contact.email.is_empty(),
            phone: !contact.phone.is_empty(),
            external_id: !contact.external_id.is_empty(),
            status: contact.status != 0,
            default_status: false,
            replaces_values: false,
            keys: contact.values.keys().cloned().collect(),
        }
    }

    /// What an update names.
    pub(super) fn named(update: &Update<pb::Contact>) -> Self {
        let keys = update.paths.iter().filter_map(|path| path.strip_prefix("values.")).map(str::to_owned);
        let mut keys: Vec<String> = keys.collect();
        if update.names(VALUES) {
            keys.extend(update.given.values.keys().cloned());
        }
        Self {
            email: update.names("email"),
            phone: update.names("phone"),
            external_id: update.names("external_id"),
            status: update.names("status"),
            default_status: update.replaces_all,
            replaces_values: update.names(VALUES),
            keys,
        }
    }

    /// Whether a value is named whose field isn't a standard one.
    pub(super) fn names_custom_fields(&self) -> bool {
        self.keys.iter().any(|key| standard_field(key).is_none())
    }

    /// The named parts alone, for the rules of the proto.
    fn pick(&self, given: &pb::Contact) -> pb::Contact {
        let pick = |is_named: bool, text: &String| if is_named { text.clone() } else { String::new() };
        let values = self.keys.iter().filter_map(|key| given.values.get_key_value(key));
        pb::Contact {
            email: pick(self.email, &given.email),
            phone: pick(self.phone, &given.phone),
            external_id: pick(self.external_id, &given.external_id),
            status: if self.status { given.status } else { 0 },
            values: values.map(|(key, value)| (key.clone(), value.clone())).collect(),
            etag: given.etag.clone(),
            ..pb::Contact::default()
        }
    }
}

/// A change of a contact. What is `None` stays as it is; an inner `None` clears.
#[derive(Default)]
pub(super) struct Patch {
    email: Option<Option<Email>>,
    phone: Option<Option<Phone>>,
    external_id: Option<Option<ExternalId>>,
    status: Option<ContactStatus>,
    replaces_values: bool,
    values: BTreeMap<String, Option<Value>>,
    /// The custom fields among those of the values, with the types that the values were read as.
    custom: Vec<(String, FieldType)>,
}

impl Patch {
    /// Reads the named parts of a contact. `custom` has the types of the custom fields.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Internal`] if a rule of the proto can't be applied.
    pub(super) fn read(
        given: &pb::Contact,
        parts: &Parts,
        custom: &HashMap<String, FieldType>,
        violations: &mut Violations,
    ) -> Result<Self> {
        let mut patch = Self { replaces_values: parts.replaces_values, ..Self::default() };
        if parts.email {
            patch.email = read_or_clear(EMAIL_PATH, "EMAIL", &given.email, Email::parse, violations);
        }
        if parts.phone {
            patch.phone = read_or_clear(PHONE_PATH, "PHONE", &given.phone, Phone::parse, violations);
        }
        if parts.external_id {
            let text = given.external_id.as_str();
            patch.external_id = read_or_clear(EXTERNAL_ID_PATH, "EXTERNAL_ID", text, ExternalId::parse, violations);
        }
        if parts.status {
            let default = parts.default_status.then_some(ContactStatus::Subscribed);
            patch.status = status_of(given.status).or(default.filter(|_| given.status == 0));
            if patch.status.is_none() {
                violations.add_if_new(STATUS_PATH, "REQUIRED", "must be a status when the mask names it");
            }
        }
        for key in &parts.keys {
            let text = given.values.get(key).map_or("", String::as_str);
            patch.read_value(key, text, custom, violations);
        }
        Ok(patch)
    }

    /// As [`Patch::read`], for a contact whose proto rules the opening of the call has left out.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Internal`] if a rule of the proto can't be applied.
    pub(super) fn read_with_rules(
        given: &pb::Contact,
        parts: &Parts,
        custom: &HashMap<String, FieldType>,
        violations: &mut Violations,
    ) -> Result<Self> {
        violations.check_rules("contact", &parts.pick(given))?;
        Self::read(given, parts, custom, violations)
    }

    fn read_value(&mut self, key: &str, text: &str, custom: &HashMap<String, FieldType>, violations: &mut Violations) {
        let field_type = standard_field(key).map(|field| field.field_type).or_else(|| custom.get(key).copied());
        let Some(field_type) = field_type else {
            violations.add_if_new(value_path(key), "UNKNOWN_FIELD", "there is no field with this key");
            return;
        };
        if standard_field(key).is_none() {
            self.custom.push((key.to_owned(), field_type));
        }
        let parsed =
            violations.take(&value_path(key), field_type.as_str(), FieldValue::parse_or_clear(field_type, text));
        if let Some(value) = parsed {
            self.values.insert(key.to_owned(), value.map(|value| value.to_stored()));
        }
    }

    /// How a contact is found that may exist already, in the order in which the identities decide. At least one must be
    /// there.
    pub(super) fn identities(&self, violations: &mut Violations) -> Vec<ContactRef> {
        let external_id = self.external_id.clone().flatten().map(ContactRef::ExternalId);
        let email = self.email.clone().flatten().map(ContactRef::Email);
        let phone = self.phone.clone().flatten().map(ContactRef::Phone);
        let identities: Vec<ContactRef> = [external_id, email, phone].into_iter().flatten().collect();
        let is_told = [EMAIL_PATH, PHONE_PATH, EXTERNAL_ID_PATH].iter().any(|path| violations.names(path));
        if identities.is_empty() && !is_told {
            violations.add(CONTACT_PATH, "IDENTITY", IDENTITY_RULE);
        }
        identities
    }

    /// Whether a custom field's value is set or cleared.
    pub(super) fn has_custom_values(&self) -> bool {
        !self.custom.is_empty()
    }

    /// Refuses the change if a field was deleted or made anew since it was read.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Invalid`] that names the values.
    pub(super) fn check_fields(&self, custom: &HashMap<String, FieldType>) -> Result<()> {
        let mut violations = Violations::default();
        for (key, field_type) in &self.custom {
            if custom.get(key) != Some(field_type) {
                violations.add(value_path(key), "UNKNOWN_FIELD", "the field was deleted or changed meanwhile");
            }
        }
        violations.finish()
    }

    /// Changes a contact; answers with whether that made a difference.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Invalid`] if the contact had no identity, or were too large.
    pub(super) fn apply(&self, contact: &mut Contact) -> Result<bool> {
        let before = contact.clone();
        if let Some(email) = &self.email {
            contact.email.clone_from(email);
        }
        if let Some(phone) = &self.phone {
            contact.phone.clone_from(phone);
        }
        if let Some(external_id) = &self.external_id {
            contact.external_id.clone_from(external_id);
        }
        if let Some(status) = self.status {
            contact.status = status;
        }
        if self.replaces_values {
            contact.values.clear();
        }
        for (key, value) in &self.values {
            match value {
                Some(value) => contact.values.insert(key.clone(), value.clone()),
                None => contact.values.remove(key),
            };
        }
        check_whole(contact)?;
        Ok(contact.email != before.email
            || contact.phone != before.phone
            || contact.external_id != before.external_id
            || contact.status != before.status
            || contact.values != before.values)
    }

    /// A new contact.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Invalid`] if it had no identity, or were too large.
    pub(super) fn create(&self, id: ContactId, now: Micros) -> Result<Contact> {
        let mut contact = Contact {
            id,
            email: None,
            phone: None,
            external_id: None,
            status: ContactStatus::Subscribed,
            values: Map::new(),
            version: 1,
            created: now,
            updated: now,
        };
        self.apply(&mut contact)?;
        Ok(contact)
    }
}

fn read_or_clear<T, E: std::fmt::Display>(
    field: &str,
    reason: &'static str,
    text: &str,
    read: impl Fn(&str) -> Result<T, E>,
    violations: &mut Violations,
) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { violations.take(field, reason, read(text)).map(Some) }
}

/// The rules of a whole contact, new or changed.
fn check_whole(contact: &Contact) -> Result<()> {
    let mut violations = Violations::default();
    if contact.email.is_none() && contact.phone.is_none() && contact.external_id.is_none() {
        violations.add(CONTACT_PATH, "IDENTITY", IDENTITY_RULE);
    }
    if contact.values.len() > MAX_VALUES {
        violations.add(VALUES_PATH, "MAP_MAX_PAIRS", format!("a contact has at most {MAX_VALUES} values"));
    }
    let bytes = contact.values_bytes();
    if bytes > MAX_VALUES_BYTES {
        violations.add(
            VALUES_PATH,
            "TOO_LARGE",
            format!("keys and values have {bytes} bytes, more than {MAX_VALUES_BYTES}"),
        );
    }
    violations.finish()
}

/// The path of a value, as the rules of the proto write it.
fn value_path(key: &str) -> String {
    format!("{VALUES_PATH}[{}]", Value::from(key))
}

/// The status on the wire; none for UNSPECIFIED.
pub(super) fn status_of(status: i32) -> Option<ContactStatus> {
    ContactStatus::from_code(code(status))
}

/// A contact on the wire.
pub(super) fn to_pb(contact: &Contact) -> pb::Contact {
    pb::Contact {
        id: contact.id.to_string(),
        email: contact.email.as_ref().map(|email| email.as_str().to_owned()).unwrap_or_default(),
        phone: contact.phone.as_ref().map(|phone| phone.as_str().to_owned()).unwrap_or_default(),
        external_id: contact.external_id.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
        status: contact.status.code().into(),
        values: contact.values.iter().map(|(key, value)| (key.clone(), stored_text(value).into_owned())).collect(),
        create_time: Some(timestamp(contact.created)),
        update_time: Some(timestamp(contact.updated)),
        etag: etag_of(contact.version),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contact(email: &str, values: &[(&str, &str)]) -> pb::Contact {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        pb::Contact { email: email.to_owned(), values, ..pb::Contact::default() }
    }

    fn custom() -> HashMap<String, FieldType> {
        HashMap::from([("score".to_owned(), FieldType::Integer), ("bio".to_owned(), FieldType::Paragraph)])
    }

    fn stored() -> Contact {
        let mut violations = Violations::default();
        let given = contact("ada@example.com", &[("first_name", "Ada"), ("score", "7")]);
        let patch = Patch::read(&given, &Parts::given(&given), &custom(), &mut violations).unwrap();
        assert!(violations.is_empty());
        patch.create(ContactId(uuid::Uuid::nil()), Micros(0)).unwrap()
    }

    fn values_of(contact: &Contact) -> Value {
        Value::Object(contact.values.clone())
    }

    /// The values after an update whose mask is `paths`, or that has none.
    #[track_caller]
    fn check_update(paths: Option<&[&str]>, given: &[(&str, &str)], expected: &Value) {
        let given = contact("", given);
        let parts = match paths {
            None => Parts::given(&given),
            Some(paths) => Parts::named(&Update {
                given: given.clone(),
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
                replaces_all: false,
            }),
        };
        let mut violations = Violations::default();
        let patch = Patch::read_with_rules(&given, &parts, &custom(), &mut violations).unwrap();
        violations.finish().unwrap();
        let mut contact = stored();
        let has_changed = patch.apply(&mut contact).unwrap();
        assert_eq!(values_of(&contact), *expected, "{paths:?}");
        assert_eq!(has_changed, values_of(&stored()) != *expected, "{paths:?}");
    }

    #[test]
    fn masks_reach_into_the_values() {
        let given = &[("score", "8"), ("city", "Bonn")];
        check_update(None, given, &json!({"first_name": "Ada", "score": 8, "city": "Bonn"}));
        check_update(Some(&["values"]), given, &json!({"score": 8, "city": "Bonn"}));
        check_update(Some(&["values.city"]), given, &json!({"first_name": "Ada", "score": 7, "city": "Bonn"}));
        check_update(Some(&["values.first_name"]), given, &json!({"score": 7}));
        check_update(Some(&["values.bio"]), given, &json!({"first_name": "Ada", "score": 7}));
        check_update(None, &[("score", "")], &json!({"first_name": "Ada"}));
        check_update(None, &[("score", "7")], &json!({"first_name": "Ada", "score": 7}));
        check_update(Some(&["values"]), &[], &json!({}));
    }

    #[test]
    fn all_bad_parts_are_told_at_once() {
        let mut given = contact("nobody", &[("score", "x"), ("a\"b", "1"), ("first_name", "\0")]);
        given.phone = "12".to_owned();
        let mut violations = Violations::default();
        Patch::read(&given, &Parts::given(&given), &custom(), &mut violations).unwrap();
        for path in [
            "contact.email",
            "contact.phone",
            "contact.values[\"score\"]",
            "contact.values[\"a\\\"b\"]",
            "contact.values[\"first_name\"]",
        ] {
            assert!(violations.names(path), "{path}: {violations:?}");
        }
    }

    #[test]
    fn a_contact_keeps_an_address_and_its_size() {
        let cleared = Patch { email: Some(None), ..Patch::default() };
        assert!(cleared.apply(&mut stored()).is_err());
        let value = |bytes: usize| Some(Value::from("x".repeat(bytes)));
        // `first_name` with `Ada` has 13 bytes, `score` with `7` has 6, and `bio` has 3 of its own.
        let fits = Patch { values: BTreeMap::from([("bio".to_owned(), value(524_288 - 22))]), ..Patch::default() };
        assert_eq!(fits.apply(&mut stored()).ok(), Some(true));
        let too_large = Patch { values: BTreeMap::from([("bio".to_owned(), value(524_288 - 21))]), ..Patch::default() };
        assert!(too_large.apply(&mut stored()).is_err());
    }

    #[test]
    fn a_field_that_was_replaced_meanwhile_refuses_the_change() {
        let given = contact("", &[("score", "1")]);
        let patch = Patch::read(&given, &Parts::given(&given), &custom(), &mut Violations::default()).unwrap();
        assert!(patch.check_fields(&custom()).is_ok());
        assert!(patch.check_fields(&HashMap::new()).is_err());
        assert!(patch.check_fields(&HashMap::from([("score".to_owned(), FieldType::Text)])).is_err());
    }
}
