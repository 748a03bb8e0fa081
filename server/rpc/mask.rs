//! Updates: the fields that a mask names (AIP-134), merged by reflection, so that a new field of a resource needs nothing
//! here.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use prost_types::FieldMask;

use crate::error::{Error, Result, Violations};
use crate::pb;

/// The mask that names every field that can be changed.
const ALL: &str = "*";
/// Checked against the resource's version; never changed by a caller.
const ETAG: &str = "etag";
/// The values of `google.api.field_behavior` for fields that no update changes.
const OUTPUT_ONLY: i32 = 3;
const IMMUTABLE: i32 = 5;
const IDENTIFIER: i32 = 8;

/// A resource as a caller gives it in an update, and the fields of it that count.
pub(super) struct Update<M> {
    /// The resource as given.
    pub(super) given: M,
    /// The fields that count: names of fields, and entries of maps as `values.first_name`.
    pub(super) paths: Vec<String>,
    /// Whether the mask was `*`.
    pub(super) replaces_all: bool,
}

impl<M: Message + Name + Default> Update<M> {
    /// Reads an update request.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if the resource has no descriptor.
    pub(super) fn read(given: Option<M>, mask: Option<FieldMask>, violations: &mut Violations) -> Result<Self> {
        let descriptor = descriptor::<M>()?;
        let updatable: Vec<FieldDescriptor> = descriptor.fields().filter(is_updatable).collect();
        let given = given.unwrap_or_default();
        let paths = mask.unwrap_or_default().paths;
        if paths == [ALL] {
            let paths = updatable.iter().map(|field| field.name().to_owned()).collect();
            return Ok(Self { given, paths, replaces_all: true });
        }
        let allowed = || updatable.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(", ");
        if paths.is_empty() {
            let rule = format!("must name the fields to change, of {}; `*` alone replaces all of them", allowed());
            violations.add_if_new("update_mask", "REQUIRED", rule);
        }
        let mut good = Vec::with_capacity(paths.len());
        for (index, path) in paths.into_iter().enumerate() {
            if updatable.iter().any(|field| is_path_of(&path, field)) {
                good.push(path);
            } else {
                let rule = format!("must be one of {}, or `*` alone", allowed());
                violations.add(format!("update_mask.paths[{index}]"), "MASK_PATH", rule);
            }
        }
        Ok(Self { given, paths: good, replaces_all: false })
    }

    /// Whether the mask names a field.
    pub(super) fn names(&self, field: &str) -> bool {
        self.paths.iter().any(|path| path == field)
    }

    /// The present resource with the named fields replaced by those given.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if the resource can't be reflected.
    pub(super) fn merge(&self, present: &M) -> Result<M> {
        let descriptor = descriptor::<M>()?;
        let mut merged = reflect(&descriptor, present)?;
        let given = reflect(&descriptor, &self.given)?;
        for path in &self.paths {
            match path.split_once('.') {
                None => copy_field(&descriptor, path, &given, &mut merged),
                Some((field, key)) => copy_entry(&descriptor, field, key, &given, &mut merged),
            }
        }
        merged.transcode_to().map_err(Error::internal)
    }
}

fn descriptor<M: Name>() -> Result<MessageDescriptor> {
    let name = M::full_name();
    pb::DESCRIPTORS.get_message_by_name(&name).ok_or_else(|| Error::internal(format!("{name} has no descriptor")))
}

fn reflect(descriptor: &MessageDescriptor, message: &impl Message) -> Result<DynamicMessage> {
    DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice()).map_err(Error::internal)
}

/// Whether callers change the field.
fn is_updatable(field: &FieldDescriptor) -> bool {
    let options = field.options();
    let extension = pb::DESCRIPTORS.get_extension_by_name("google.api.field_behavior");
    let behaviors = extension.map(|extension| options.get_extension(&extension).into_owned());
    let behaviors = behaviors.as_ref().and_then(Value::as_list).unwrap_or_default();
    let is_fixed = |behavior: &Value| matches!(behavior.as_enum_number(), Some(OUTPUT_ONLY | IMMUTABLE | IDENTIFIER));
    field.name() != ETAG && !behaviors.iter().any(is_fixed)
}

/// Whether a path names a field, or an entry of a field that is a map of texts.
fn is_path_of(path: &str, field: &FieldDescriptor) -> bool {
    match path.split_once('.') {
        None => path == field.name(),
        Some((name, key)) => name == field.name() && !key.is_empty() && has_text_keys(field),
    }
}

fn has_text_keys(field: &FieldDescriptor) -> bool {
    let Kind::Message(entry) = field.kind() else { return false };
    field.is_map() && entry.map_entry_key_field().kind() == Kind::String
}

/// Replaces a field, and clears it if it isn't given. The members of a oneof are named one by one.
fn copy_field(descriptor: &MessageDescriptor, name: &str, given: &DynamicMessage, merged: &mut DynamicMessage) {
    let Some(field) = descriptor.get_field_by_name(name) else { return };
    if given.has_field(&field) {
        merged.set_field(&field, given.get_field(&field).into_owned());
    } else {
        merged.clear_field(&field);
    }
}

/// Replaces an entry of a map, and removes it if it isn't given.
fn copy_entry(
    descriptor: &MessageDescriptor,
    name: &str,
    key: &str,
    given: &DynamicMessage,
    merged: &mut DynamicMessage,
) {
    let Some(field) = descriptor.get_field_by_name(name) else { return };
    let key = MapKey::String(key.to_owned());
    let given = given.get_field(&field);
    let Some(merged) = merged.get_field_mut(&field).as_map_mut() else { return };
    match given.as_map().and_then(|entries| entries.get(&key)) {
        Some(value) => merged.insert(key, value.clone()),
        None => merged.remove(&key),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn update(paths: &[&str], given: pb::Webhook) -> (Update<pb::Webhook>, Violations) {
        let mask = FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        let mut violations = Violations::default();
        (Update::read(Some(given), Some(mask), &mut violations).unwrap(), violations)
    }

    fn present() -> pb::Webhook {
        pb::Webhook { id: "wh_1".into(), name: "Shop".into(), ordered: true, etag: "v1".into(), ..Default::default() }
    }

    #[test]
    fn named_fields_are_replaced_or_cleared() {
        let given = pb::Webhook { name: "New".into(), url: "https://new.example/".into(), ..Default::default() };
        let (update, violations) = update(&["name", "ordered"], given);
        assert!(violations.is_empty());
        let merged = update.merge(&present()).unwrap();
        assert_eq!(merged, pb::Webhook { name: "New".into(), ordered: false, ..present() });
    }

    #[test]
    fn a_star_replaces_what_callers_change() {
        let given = pb::Webhook { id: "wh_2".into(), name: "New".into(), etag: "v2".into(), ..Default::default() };
        let (update, violations) = update(&["*"], given);
        assert!(violations.is_empty() && update.replaces_all);
        let merged = update.merge(&present()).unwrap();
        assert_eq!(merged, pb::Webhook { name: "New".into(), ordered: false, ..present() });
    }

    #[test]
    fn paths_of_fixed_and_unknown_fields_are_refused() {
        for path in ["id", "state", "etag", "create_time", "nothing", "", "name.x", "*"] {
            let (_, violations) = update(&["name", path], pb::Webhook::default());
            assert!(violations.names("update_mask.paths[1]"), "{path}");
        }
        let (_, violations) = update(&[], pb::Webhook::default());
        assert!(violations.names("update_mask"));
    }

    #[test]
    fn entries_of_maps_are_replaced_or_removed() {
        let contact = |values: &[(&str, &str)]| pb::Contact {
            values: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Default::default()
        };
        let mask = FieldMask { paths: vec!["values.city".into(), "values.zip".into()] };
        let mut violations = Violations::default();
        let given = contact(&[("city", "Bonn"), ("state", "NRW")]);
        let update = Update::read(Some(given), Some(mask), &mut violations).unwrap();
        assert!(violations.is_empty());
        let merged = update.merge(&contact(&[("zip", "1"), ("country", "DE")])).unwrap();
        assert_eq!(merged, contact(&[("city", "Bonn"), ("country", "DE")]));
    }
}
