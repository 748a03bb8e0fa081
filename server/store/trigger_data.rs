//! The data of triggers as the database keeps it.

use std::sync::Arc;

use crate::domain::trigger_data::TriggerData;
use crate::error::{Error, Result};

/// The JSON of a trigger's data; `None` for none.
pub(super) fn to_json(data: Option<&TriggerData>) -> Option<String> {
    // Plain data: it can't fail to serialise.
    data.map(|data| serde_json::to_string(data).unwrap_or_default())
}

/// A trigger's data from its JSON.
///
/// # Errors
///
/// [`Error::Internal`] if the text isn't such data.
pub(super) fn from_json(json: Option<String>) -> Result<Option<Arc<TriggerData>>> {
    json.map(|json| serde_json::from_str(&json).map(Arc::new)).transpose().map_err(Error::internal)
}
