//! What each method needs of the caller's key. It stands in one table.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::domain::workspace::{Scope, Scopes};
use crate::error::{Error, Result};
use crate::ids::WorkspaceId;

/// Who calls, put beside each request by the authentication layer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
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

const ROOT: Access = Access::Root;
const READ: Access = Access::Scope(Scope::Read);
const WRITE: Access = Access::Scope(Scope::Write);
const ADMIN: Access = Access::Scope(Scope::Admin);

/// Every method of the API by its path, and what it needs.
const METHODS: &[(&str, Access)] = &[
    ("/taghook.v1.WorkspaceService/CreateWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/GetWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/ListWorkspaces", ROOT),
    ("/taghook.v1.WorkspaceService/UpdateWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/DeleteWorkspace", ROOT),
    ("/taghook.v1.WorkspaceService/CreateApiKey", ROOT),
    ("/taghook.v1.WorkspaceService/ListApiKeys", ROOT),
    ("/taghook.v1.WorkspaceService/RevokeApiKey", ROOT),
    ("/taghook.v1.ContactService/CreateContact", WRITE),
    ("/taghook.v1.ContactService/GetContact", READ),
    ("/taghook.v1.ContactService/LookupContact", READ),
    ("/taghook.v1.ContactService/ListContacts", READ),
    ("/taghook.v1.ContactService/UpdateContact", WRITE),
    ("/taghook.v1.ContactService/UpsertContact", WRITE),
    ("/taghook.v1.ContactService/DeleteContact", WRITE),
    ("/taghook.v1.ContactService/TagContact", WRITE),
    ("/taghook.v1.ContactService/UntagContact", WRITE),
    ("/taghook.v1.ContactService/BatchTagContacts", WRITE),
    ("/taghook.v1.ContactService/ListContactTags", READ),
    ("/taghook.v1.FieldService/CreateField", ADMIN),
    ("/taghook.v1.FieldService/GetField", READ),
    ("/taghook.v1.FieldService/ListFields", READ),
    ("/taghook.v1.FieldService/UpdateField", ADMIN),
    ("/taghook.v1.FieldService/DeleteField", ADMIN),
    ("/taghook.v1.TagService/CreateTag", ADMIN),
    ("/taghook.v1.TagService/GetTag", READ),
    ("/taghook.v1.TagService/ListTags", READ),
    ("/taghook.v1.TagService/UpdateTag", ADMIN),
    ("/taghook.v1.TagService/DeleteTag", ADMIN),
    ("/taghook.v1.TagService/ListTagUsages", READ),
    ("/taghook.v1.SmartLinkService/CreateSmartLink", ADMIN),
    ("/taghook.v1.SmartLinkService/GetSmartLink", READ),
    ("/taghook.v1.SmartLinkService/ListSmartLinks", READ),
    ("/taghook.v1.SmartLinkService/UpdateSmartLink", ADMIN),
    ("/taghook.v1.SmartLinkService/DeleteSmartLink", ADMIN),
    // Whoever has the URL can have the contact tagged.
    ("/taghook.v1.SmartLinkService/CreateTrackedUrl", WRITE),
    ("/taghook.v1.SmartLinkService/GetSmartLinkStats", READ),
    ("/taghook.v1.WebhookService/CreateWebhook", ADMIN),
    ("/taghook.v1.WebhookService/GetWebhook", READ),
    ("/taghook.v1.WebhookService/ListWebhooks", READ),
    ("/taghook.v1.WebhookService/UpdateWebhook", ADMIN),
    ("/taghook.v1.WebhookService/DeleteWebhook", ADMIN),
    ("/taghook.v1.WebhookService/PauseWebhook", ADMIN),
    ("/taghook.v1.WebhookService/ResumeWebhook", ADMIN),
    ("/taghook.v1.WebhookService/PreviewWebhook", READ),
    ("/taghook.v1.WebhookService/TestWebhook", WRITE),
    ("/taghook.v1.WebhookService/TriggerWebhook", WRITE),
    ("/taghook.v1.WebhookService/GetWebhookSecret", ADMIN),
    ("/taghook.v1.WebhookService/RotateWebhookSecret", ADMIN),
    ("/taghook.v1.EventService/RecordEvent", WRITE),
    ("/taghook.v1.EventService/BatchRecordEvents", WRITE),
    ("/taghook.v1.EventService/ListEvents", READ),
    ("/taghook.v1.EventService/ListEventTypes", READ),
    ("/taghook.v1.CampaignService/CreateCampaign", ADMIN),
    ("/taghook.v1.CampaignService/GetCampaign", READ),
    ("/taghook.v1.CampaignService/ListCampaigns", READ),
    ("/taghook.v1.CampaignService/UpdateCampaign", ADMIN),
    ("/taghook.v1.CampaignService/DeleteCampaign", ADMIN),
    ("/taghook.v1.CampaignService/ActivateCampaign", ADMIN),
    ("/taghook.v1.CampaignService/PauseCampaign", ADMIN),
    ("/taghook.v1.CampaignService/EnrollContact", WRITE),
    ("/taghook.v1.CampaignService/ExitContact", WRITE),
    ("/taghook.v1.CampaignService/ListEnrollments", READ),
    ("/taghook.v1.DeliveryService/GetDelivery", READ),
    ("/taghook.v1.DeliveryService/ListDeliveries", READ),
    ("/taghook.v1.DeliveryService/ListAttempts", READ),
    ("/taghook.v1.DeliveryService/RetryDelivery", WRITE),
    ("/taghook.v1.DeliveryService/CancelDelivery", WRITE),
    ("/taghook.v1.DeliveryService/CreateReplay", WRITE),
    ("/taghook.v1.DeliveryService/GetReplay", READ),
    ("/taghook.v1.DeliveryService/ListReplays", READ),
    ("/taghook.v1.DeliveryService/CancelReplay", WRITE),
    ("/taghook.v1.DeliveryService/GetDeliveryStats", READ),
    ("/taghook.v1.DeliveryService/StreamOutcomes", READ),
];

/// The methods that answer with a stream.
const STREAMS: [&str; 1] = ["/taghook.v1.DeliveryService/StreamOutcomes"];

/// What a method needs, and its path as a text that lives on; `None` for a path that is no method of the API.
pub(super) fn method(path: &str) -> Option<(&'static str, Access)> {
    static BY_PATH: LazyLock<HashMap<&str, Access>> = LazyLock::new(|| METHODS.iter().copied().collect());
    BY_PATH.get_key_value(path).map(|(path, access)| (*path, *access))
}

/// Whether a method answers with a stream, which stays open.
pub(super) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
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
    use prost_reflect::DescriptorPool;
    use uuid::Uuid;

    use super::*;
    use crate::pb;

    /// A method that is missing in the table would be open to nobody; one too many would stand for nothing.
    #[test]
    fn the_table_has_every_method_of_the_api() {
        let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
        let mut declared: Vec<String> = pool
            .services()
            .filter(|service| service.full_name().starts_with("taghook."))
            .flat_map(|service| {
                let name = service.full_name().to_owned();
                service.methods().map(move |method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
            })
            .collect();
        let mut listed: Vec<&str> = METHODS.iter().map(|(path, _)| *path).collect();
        declared.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, declared);
    }

    #[test]
    fn the_streams_are_known() {
        let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            assert_eq!(is_stream(&path), method.is_server_streaming(), "{path}");
        }
    }

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
            workspace: Some(WorkspaceId(Uuid::nil())),
            scopes: scopes.iter().copied().collect(),
        };
        let root = Caller { workspace: None, scopes: Scopes::from_code(7) };
        let (reader, writer, admin) = (key(&[Scope::Read]), key(&[Scope::Write]), key(&[Scope::Admin]));
        check_access(READ, &reader, None);
        check_access(WRITE, &reader, Some("WRITE"));
        check_access(ADMIN, &reader, Some("ADMIN"));
        check_access(READ, &writer, None);
        check_access(WRITE, &writer, None);
        check_access(ADMIN, &writer, Some("ADMIN"));
        check_access(ADMIN, &admin, None);
        check_access(READ, &key(&[]), Some("READ"));
        check_access(ROOT, &root, None);
        check_access(ROOT, &admin, Some("ROOT"));
        check_access(READ, &root, Some("READ"));
    }
}
