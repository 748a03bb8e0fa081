//! FieldService.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::Services;
use super::call::{Call, check_etag, etag_of};
use super::convert::{code, timestamp};
use super::mask::Update;
use super::page::{Page, Weight};
use super::write::{Decided, answer_by_id};
use crate::domain::field::{CustomField, FieldKey, FieldType, STANDARD_FIELDS, StandardField, standard_field};
use crate::domain::request::Source;
use crate::domain::webhook::Webhook;
use crate::error::{Error, Result, Violations};
use crate::ids::{FieldId, TypedId, WorkspaceId};
use crate::pb;
use crate::store::field::{FieldFilter, FieldRef};
use crate::store::{self, Store, Tx};

/// The longest name for people.
const MAX_DISPLAY_NAME_CHARS: usize = 100;
/// How many users of a field an error names.
const NAMED_USERS: usize = 20;
/// How long DeleteField waits for the end of what goes on in the background.
const SWEEP_WAIT: Duration = Duration::from_secs(2);

const BUILT_IN: Error = Error::NotDeletable {
    resource: "field",
    reason: "standard fields are built in; they can't be changed nor deleted",
};

#[tonic::async_trait]
impl pb::field_service_server::FieldService for Services {
    async fn create_field(&self, request: Request<pb::CreateFieldRequest>) -> Result<Response<pb::Field>, Status> {
        let mut call = Call::open_write(request)?;
        let draft = call.message.field.take().unwrap_or_default();
        let draft = parse(&draft, &mut call.violations);
        let draft = call.finish_with(draft)?;
        let (workspace, id) = (call.workspace()?, FieldId::generate(self.store.clock().now(), self.store.entropy()));
        // What a deletion that was cut short has left of a field with this key would become the new field's.
        store::field::sweep_values(&self.store, workspace, &draft.key).await?;
        let draft = &draft;
        let make = |tx: Tx| async move {
            tx.gate_exclusive().await?;
            let field = draft.clone().into_field(id, &tx);
            store::field::insert(&tx, workspace, &field).await?;
            Ok(field)
        };
        Ok(Response::new(custom_to_pb(call.write(&self.store, make).await?)))
    }

    async fn get_field(&self, request: Request<pb::GetFieldRequest>) -> Result<Response<pb::Field>, Status> {
        let mut call = Call::open(request)?;
        let which = parse_ref("id", &call.message.id, &mut call.violations);
        let which = call.finish_with(which)?;
        let workspace = call.workspace()?;
        let field = match standard(&which) {
            Some(field) => standard_to_pb(field),
            None => custom_to_pb(store::field::get(self.store.read(), workspace, &which).await?),
        };
        Ok(Response::new(field))
    }

    async fn list_fields(
        &self,
        request: Request<pb::ListFieldsRequest>,
    ) -> Result<Response<pb::ListFieldsResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListFieldsRequest { page_size, page_token, filter } = std::mem::take(&mut call.message);
        let page = Page::<FieldId>::read(page_size, &page_token, "fields", filter.as_ref(), &mut call.violations);
        let filter = filter.unwrap_or_default();
        let types: Vec<FieldType> = filter.value_types().filter_map(type_of).collect();
        call.finish()?;
        let workspace = call.workspace()?;
        let list = &List { workspace, standard: filter.standard, filter: FieldFilter { types } };
        let fetch = |after, limit| list.fetch(&self.store, after, limit);
        let (fields, next_page_token) = page.collect(Weight::Light, fetch, |(id, _)| *id, |(_, field)| field).await?;
        Ok(Response::new(pb::ListFieldsResponse { fields, next_page_token }))
    }

    async fn update_field(&self, request: Request<pb::UpdateFieldRequest>) -> Result<Response<pb::Field>, Status> {
        let mut call = Call::open_write(request)?;
        let (field, mask) = (call.message.field.take(), call.message.update_mask.take());
        let change = Update::read(field, mask, &mut call.violations)?;
        check_display_name(&change.given.display_name, &mut call.violations);
        let id: Option<FieldId> = call.id("field.id", &change.given.id);
        let which = FieldRef::Id(call.finish_with(id)?);
        let workspace = call.workspace()?;
        if standard(&which).is_some() {
            return Err(BUILT_IN.into());
        }
        let (change, which) = (&change, &which);
        let field = call.write(&self.store, |tx| async move { update(&tx, workspace, which, change).await }).await?;
        Ok(Response::new(custom_to_pb(field)))
    }

    async fn delete_field(
        &self,
        request: Request<pb::DeleteFieldRequest>,
    ) -> Result<Response<pb::DeleteFieldResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let which = parse_ref("id", &call.message.id, &mut call.violations);
        let which = call.finish_with(which)?;
        let workspace = call.workspace()?;
        if standard(&which).is_some() {
            return Err(BUILT_IN.into());
        }
        let (which, etag) = (&which, call.message.etag.as_str());
        let make = |tx: Tx| async move { delete(&tx, workspace, which, etag).await.map(Decided) };
        let Decided(deleted) = call.write(&self.store, make).await?;
        sweep(self.store.clone(), workspace, deleted).await;
        Ok(Response::new(pb::DeleteFieldResponse {}))
    }
}

/// The fields that a list has: the standard ones, then the custom ones. The ids of standard fields are smaller than all
/// others, so that one place serves both.
struct List {
    workspace: WorkspaceId,
    standard: Option<bool>,
    filter: FieldFilter,
}

impl List {
    async fn fetch(&self, store: &Store, after: Option<FieldId>, limit: u64) -> Result<Vec<(FieldId, pb::Field)>> {
        let types = &self.filter.types;
        let mut fields = Vec::new();
        if self.standard != Some(false) {
            let chosen = STANDARD_FIELDS.iter().filter(|field| types.is_empty() || types.contains(&field.field_type));
            let chosen = chosen.filter(|field| after.is_none_or(|after| field.id() > after));
            fields.extend(chosen.map(|field| (field.id(), standard_to_pb(field))));
        }
        if self.standard != Some(true) {
            let custom = store::field::list(store.read(), self.workspace, &self.filter, after, limit).await?;
            fields.extend(custom.into_iter().map(|field| (field.id, custom_to_pb(field))));
        }
        fields.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(fields)
    }
}

answer_by_id!(CustomField, |tx, workspace, id| async {
    store::field::get(tx.db(), workspace, &FieldRef::Id(id)).await
});

async fn update(tx: &Tx, workspace: WorkspaceId, which: &FieldRef, change: &Update<pb::Field>) -> Result<CustomField> {
    let present = store::field::get(tx.db(), workspace, which).await?;
    check_etag("field", &change.given.etag, present.version)?;
    let merged = change.merge(&custom_to_pb(present.clone()))?;
    let mut field = CustomField { display_name: display_name(&merged, &present.key), ..present.clone() };
    if field == present {
        return Ok(present);
    }
    field.version += 1;
    field.updated = tx.now();
    store::field::update(tx, workspace, &field).await?;
    Ok(field)
}

async fn delete(tx: &Tx, workspace: WorkspaceId, which: &FieldRef, etag: &str) -> Result<FieldKey> {
    // Webhooks, links and contacts must not come to use a field that is being deleted.
    tx.gate_exclusive().await?;
    let field = store::field::get(tx.db(), workspace, which).await?;
    check_etag("field", etag, field.version)?;
    let config = tx.config(workspace).await?;
    let webhooks = config.webhooks().into_iter().map(|prepared| &prepared.webhook);
    let users: Vec<String> = webhooks
        .filter(|webhook| sends(webhook, field.key.as_str()))
        .take(NAMED_USERS)
        .map(|webhook| format!("{} ({})", webhook.id, webhook.name))
        .collect();
    let links = store::smart_link::using(tx.db(), workspace, field.key.as_str()).await?;
    let links = links.into_iter().map(|link| format!("{} ({})", link.id, link.name));
    let users: Vec<String> = users.into_iter().chain(links).take(NAMED_USERS).collect();
    if !users.is_empty() {
        return Err(Error::InUse { resource: "field", users });
    }
    store::field::delete(tx, workspace, field.id).await?;
    Ok(field.key)
}

fn sends(webhook: &Webhook, key: &str) -> bool {
    let parameters = webhook.definition.events.iter().flat_map(|event| &event.parameters);
    parameters.into_iter().any(|parameter| matches!(&parameter.source, Source::ContactField(used) if used == key))
}

/// Takes the values of a deleted field off the contacts. It goes on when the caller doesn't wait for the end; what a
/// stop of the server cuts short is done when a field with the key is created again.
async fn sweep(store: Store, workspace: WorkspaceId, key: FieldKey) {
    let task = tokio::spawn(async move {
        if let Err(error) = store::field::sweep_values(&store, workspace, &key).await {
            tracing::warn!(
                error = crate::error::chain(&error),
                "the values of a deleted field are left on some contacts"
            );
        }
    });
    let _ = tokio::time::timeout(SWEEP_WAIT, task).await;
}

/// A field to create.
#[derive(Clone)]
struct Draft {
    key: FieldKey,
    display_name: String,
    field_type: FieldType,
}

impl Draft {
    fn into_field(self, id: FieldId, tx: &Tx) -> CustomField {
        let Self { key, display_name, field_type } = self;
        CustomField { id, key, display_name, field_type, version: 1, created: tx.now(), updated: tx.now() }
    }
}

fn parse(draft: &pb::Field, violations: &mut Violations) -> Option<Draft> {
    let key = violations.take("field.key", "FIELD_KEY", FieldKey::parse_custom(&draft.key));
    if key.is_some() && draft.key.parse::<FieldId>().is_ok() {
        violations.add_if_new("field.key", "FIELD_KEY", "must not look like the id of a field");
    }
    check_display_name(&draft.display_name, violations);
    let key = key?;
    let field_type = type_of(draft.value_type())?;
    Some(Draft { display_name: display_name(draft, &key), key, field_type })
}

fn check_display_name(name: &str, violations: &mut Violations) {
    if name.chars().count() > MAX_DISPLAY_NAME_CHARS {
        violations.add_if_new("field.display_name", "STRING_MAX_LEN", "value length must be at most 100 characters");
    }
    if name.contains(char::is_control) {
        violations.add_if_new("field.display_name", "CONTROL_CHARACTER", "must not have control characters");
    }
}

/// An empty name is the key.
fn display_name(given: &pb::Field, key: &FieldKey) -> String {
    if given.display_name.is_empty() { key.as_str().to_owned() } else { given.display_name.clone() }
}

/// Reads which field is meant: by id, or by key.
fn parse_ref(field: &str, text: &str, violations: &mut Violations) -> Option<FieldRef> {
    if let Ok(id) = text.parse() {
        return Some(FieldRef::Id(id));
    }
    let key = FieldKey::parse(text);
    if key.is_err() {
        violations.add_if_new(field, "ID", "must be the id of a field, as the server assigns them, or its key");
    }
    key.ok().map(FieldRef::Key)
}

fn standard(which: &FieldRef) -> Option<&'static StandardField> {
    match which {
        FieldRef::Id(id) => STANDARD_FIELDS.iter().find(|field| field.id() == *id),
        FieldRef::Key(key) => standard_field(key.as_str()),
    }
}

fn type_of(field_type: pb::field::ValueType) -> Option<FieldType> {
    FieldType::from_code(code(field_type))
}

fn standard_to_pb(field: &StandardField) -> pb::Field {
    pb::Field {
        id: field.id().to_string(),
        key: field.key.to_owned(),
        display_name: field.display_name.to_owned(),
        value_type: field.field_type.code().into(),
        standard: true,
        create_time: None,
        update_time: None,
        etag: etag_of(0),
    }
}

fn custom_to_pb(field: CustomField) -> pb::Field {
    pb::Field {
        id: field.id.to_string(),
        key: field.key.into(),
        display_name: field.display_name,
        value_type: field.field_type.code().into(),
        standard: false,
        create_time: Some(timestamp(field.created)),
        update_time: Some(timestamp(field.updated)),
        etag: etag_of(field.version),
    }
}
