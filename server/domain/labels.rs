//! Labels: the caller's own marks of webhooks, tags and campaigns.

use std::collections::BTreeMap;

/// The labels of a resource, or those that a filter asks for: values by keys. The rules of the proto bound them.
pub type Labels = BTreeMap<String, String>;
