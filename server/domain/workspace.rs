//! Workspaces and the keys that open them.

use super::time::Micros;
use crate::ids::{ApiKeyId, WorkspaceId};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name, unique in the deployment.
    pub name: String,
    /// Raised by each change; the etag.
    pub version: i64,
    /// When it was created.
    pub created: Micros,
    /// When it was last changed.
    pub updated: Micros,
}

/// What a key may do. Each scope includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Get, list, look up, preview, stream.
    Read,
    /// Change contacts, trigger, retry, cancel.
    Write,
    /// Define fields, tags and webhooks.
    Admin,
}

impl Scope {
    /// The name, as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::Admin => "ADMIN",
        }
    }

    const fn bit(self) -> i16 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Admin => 4,
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scopes(i16);

impl Scopes {
    /// The number that the database keeps: 1 read, 2 write, 4 admin.
    #[must_use]
    pub const fn code(self) -> i16 {
        self.0
    }

    /// The set of a number; unknown bits are dropped.
    #[must_use]
    pub const fn from_code(code: i16) -> Self {
        Self(code & 7)
    }

    /// The scopes that were given, without those that they include.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        [Scope::Read, Scope::Write, Scope::Admin].into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }

    /// Whether the set allows what needs `scope`.
    #[must_use]
    pub fn allows(self, scope: Scope) -> bool {
        self.iter().any(|held| held >= scope)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// A key that opens one workspace, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// The workspace that it opens; `None` for the root key.
    pub workspace_id: Option<WorkspaceId>,
    /// For people.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The readable start of the secret.
    pub secret_prefix: String,
    /// When it was created.
    pub created: Micros,
    /// When it stops to work.
    pub expires: Option<Micros>,
    /// When it was revoked.
    pub revoked: Option<Micros>,
    /// Until when the secret before the last rotation opens the workspace; `None` if there is none such.
    pub former_expires: Option<Micros>,
    /// When it was last used, to the minute.
    pub last_used: Option<Micros>,
    /// Changes with every change.
    pub version: i64,
    /// When it was last changed.
    pub updated: Option<Micros>,
}

impl ApiKey {
    /// Whether the key opens anything at `now`.
    #[must_use]
    pub fn is_live(&self, now: Micros) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}
