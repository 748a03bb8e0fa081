//! What each method needs of the caller's key, as its descriptor says.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::domain::workspace::{Scope, Scopes};
use crate::error::{Error, Result};
use crate::ids::{ApiKeyId, WorkspaceId};

/// Who calls, put beside each request by the authentication layer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The key.
    pub key: ApiKeyId,
    /// The workspace that the key opens; `None` for the root key.
    pub workspace: Option<WorkspaceId>,
    /// What the key may do.
    pub scopes: Scopes,
}

/// What a method needs of the caller's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The deployment's root key.
    Root,
    /// A workspace's key with this scope.
    Scope(Scope),
    /// Any good key.
    AnyKey,
}

/// A method of the API, as its descriptor says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    /// The path of its calls.
    pub(super) path: &'static str,
    /// What it needs of the caller's key: the option `(taghook.v1.access)`.
    pub(super) access: Access,
    /// Whether the response is a stream that stays open.
    pub(super) is_stream: bool,
}

/// Every method of the API, written by `build.rs`. A method without the option doesn't compile.
mod table {
    use super::{Access, Method};
    use crate::domain::workspace::Scope;
    use crate::rpc::repeat::repeatable;

    include!(concat!(env!("OUT_DIR"), "/methods.rs"));
}

/// The method with a path; `None` for a path that is no method of the API.
pub(super) fn method(path: &str) -> Option<&'static Method> {
    static BY_PATH: LazyLock<HashMap<&str, &Method>> =
        LazyLock::new(|| table::METHODS.iter().map(|method| (method.path, method)).collect());
    BY_PATH.get(path).copied()
}

impl Access {
    /// Refuses a caller whose key doesn't give this access.
    pub(super) fn check(self, caller: &Caller) -> Result<()> {
        match (self, caller.workspace) {
            (Self::Root, None) | (Self::AnyKey, _) => Ok(()),
            (Self::Root, Some(_)) => Err(Error::ScopeMissing { scope: "ROOT" }),
            (Self::Scope(scope), Some(_)) if caller.scopes.allows(scope) => Ok(()),
            (Self::Scope(scope), _) => Err(Error::ScopeMissing { scope: scope.as_str() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const READ: Access = Access::Scope(Scope::Read);
    const WRITE: Access = Access::Scope(Scope::Write);
    const ADMIN: Access = Access::Scope(Scope::Admin);

    #[track_caller]
    fn check_access(access: Access, caller: &Caller, missing: Option<&str>) {
        match (access.check(caller), missing) {
            (Ok(()), None) => {}
            (Err(Error::ScopeMissing { scope }), Some(missing)) => assert_eq!(scope, missing),
            (result, _) => panic!("{access:?} for {caller:?}: {result:?}"),
        }
    }

    #[test]
    fn a_scope_includes_those_before_it_and_the_root_key_stands_apart() {
        let key = |scopes: &[Scope]| Caller {
            key: ApiKeyId(Uuid::nil()),
            workspace: Some(WorkspaceId(Uuid::nil())),
            scopes: scopes.iter().copied().collect(),
        };
        let root = Caller { key: ApiKeyId(Uuid::nil()), workspace: None, scopes: Scopes::from_code(7) };
        let (reader, writer, admin) = (key(&[Scope::Read]), key(&[Scope::Write]), key(&[Scope::Admin]));
        check_access(READ, &reader, None);
        check_access(WRITE, &reader, Some("WRITE"));
        check_access(ADMIN, &reader, Some("ADMIN"));
        check_access(READ, &writer, None);
        check_access(WRITE, &writer, None);
        check_access(ADMIN, &writer, Some("ADMIN"));
        check_access(ADMIN, &admin, None);
        check_access(READ, &key(&[]), Some("READ"));
        check_access(Access::Root, &root, None);
        check_access(Access::Root, &admin, Some("ROOT"));
        check_access(READ, &root, Some("READ"));
    }
}
