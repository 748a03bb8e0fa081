//! The rows of the tables that are read and written through sea-orm's entities. The hot tables have fixed SQL instead,
//! in the file of their noun.

pub(super) mod api_key;
pub(super) mod campaign;
pub(super) mod contact;
pub(super) mod contact_tag;
pub(super) mod event;
pub(super) mod field;
pub(super) mod smart_link;
pub(super) mod tag;
pub(super) mod webhook;
pub(super) mod webhook_tag;
pub(super) mod workspace;
