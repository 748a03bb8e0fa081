//! The values that a call gives to what it sets off.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::automation::Origin;
use crate::domain::trigger_data::TriggerData;
use crate::error::Violations;

/// The origin of what a call with values sets off.
pub(super) fn origin_with(values: BTreeMap<String, String>, origin: &Origin, violations: &mut Violations) -> Origin {
    let data = violations.take("values", "VALUES", TriggerData::of_call(values)).flatten();
    Origin { data: data.map(Arc::new), ..origin.clone() }
}
