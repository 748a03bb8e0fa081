//! Who calls: the API key of a call, and what it may do.

use crate::domain::workspace::Scopes;
use crate::ids::WorkspaceId;

/// Who calls, put beside each request by the authentication layer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The workspace that the key opens; `None` for the root key.
    pub workspace: Option<WorkspaceId>,
    /// What the key may do.
    pub scopes: Scopes,
}
