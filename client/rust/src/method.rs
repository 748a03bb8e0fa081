//! What is known of the service's methods: which may be repeated.

use prost::Message;

use crate::v1;

const PACKAGE: &str = "/taghook.v1.";
/// How the names of methods start that change nothing. CreateTrackedUrl keeps nothing of what it makes.
const READS: [&str; 5] = ["Get", "List", "Lookup", "Preview", "CreateTrackedUrl"];

/// What a method's calls are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    /// One request, one answer, nothing changes.
    Read,
    /// One request, one answer. Says whether a request may be sent twice.
    Write(IsRepeatable),
    /// A stream, or a method that isn't known here.
    Other,
}

/// Whether a request, given as it is encoded, has a `request_id`.
type IsRepeatable = fn(&[u8]) -> bool;

/// The requests with a `request_id`, each named after its method.
macro_rules! repeatable {
    ($($request:ident),* $(,)?) => {
        &[$((stringify!($request), |message| {
            v1::$request::decode(message).is_ok_and(|request| !request.request_id.is_empty())
        })),*]
    };
}

const REPEATABLE: &[(&str, IsRepeatable)] = repeatable![
    CreateContactRequest,
    UpdateContactRequest,
    UpsertContactRequest,
    DeleteContactRequest,
    TagContactRequest,
    UntagContactRequest,
    CreateFieldRequest,
    UpdateFieldRequest,
    DeleteFieldRequest,
    CreateTagRequest,
    UpdateTagRequest,
    DeleteTagRequest,
    CreateSmartLinkRequest,
    UpdateSmartLinkRequest,
    DeleteSmartLinkRequest,
    CreateWebhookRequest,
    UpdateWebhookRequest,
    DeleteWebhookRequest,
    PauseWebhookRequest,
    ResumeWebhookRequest,
    TestWebhookRequest,
    TriggerWebhookRequest,
    RotateWebhookSecretRequest,
    RecordEventRequest,
    CreateCampaignRequest,
    UpdateCampaignRequest,
    DeleteCampaignRequest,
    ActivateCampaignRequest,
    PauseCampaignRequest,
    EnrollContactRequest,
    ExitContactRequest,
    RetryDeliveryRequest,
    CancelDeliveryRequest,
    CreateReplayRequest,
    CancelReplayRequest,
    CreateWorkspaceRequest,
    UpdateWorkspaceRequest,
    DeleteWorkspaceRequest,
    RevokeApiKeyRequest,
];

/// Methods that change something and take no `request_id`.
const NEVER_REPEATED: [&str; 3] = ["BatchRecordEvents", "BatchTagContacts", "CreateApiKey"];

impl Method {
    /// What is known of the method at a path such as `/taghook.v1.TagService/GetTag`.
    pub(crate) fn at(path: &str) -> Self {
        let Some((_, name)) = path.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('/')) else {
            return Self::Other;
        };
        let repeatable = REPEATABLE.iter().find(|(request, _)| request.strip_suffix("Request") == Some(name));
        if let Some((_, is_repeatable)) = repeatable {
            Self::Write(*is_repeatable)
        } else if NEVER_REPEATED.contains(&name) {
            Self::Write(|_| false)
        } else if READS.iter().any(|start| name.starts_with(start)) {
            Self::Read
        } else {
            Self::Other
        }
    }

    /// Whether a request may be sent again when it isn't known whether the first one was taken.
    pub(crate) fn may_repeat(self, message: &[u8]) -> bool {
        match self {
            Self::Read => true,
            Self::Write(is_repeatable) => is_repeatable(message),
            Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(path: &str, message: &impl Message, expected: bool) {
        assert_eq!(Method::at(path).may_repeat(&message.encode_to_vec()), expected);
    }

    #[test]
    fn reads_and_writes_with_a_request_id_may_be_repeated() {
        check("/taghook.v1.TagService/GetTag", &v1::GetTagRequest::default(), true);
        check("/taghook.v1.WebhookService/PreviewWebhook", &v1::PreviewWebhookRequest::default(), true);
        let mut request = v1::TagContactRequest { email: "ada@example.com".into(), ..Default::default() };
        check("/taghook.v1.ContactService/TagContact", &request, false);
        request.request_id = "1".into();
        check("/taghook.v1.ContactService/TagContact", &request, true);
        check("/taghook.v1.ContactService/BatchTagContacts", &v1::BatchTagContactsRequest::default(), false);
        check("/taghook.v1.DeliveryService/StreamOutcomes", &v1::StreamOutcomesRequest::default(), false);
        check("/other.v1.TagService/GetTag", &v1::GetTagRequest::default(), false);
    }

    /// The lists above follow the proto files.
    #[test]
    fn every_method_is_known() {
        let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
        let mut compiler = protox::Compiler::new([protos.join("third_party"), protos.clone()]).unwrap();
        for entry in std::fs::read_dir(protos.join("taghook/v1")).unwrap() {
            compiler.open_file(entry.unwrap().path()).unwrap();
        }
        let files = compiler.file_descriptor_set().file;
        let messages: Vec<_> = files.iter().flat_map(|file| &file.message_type).collect();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let input = method.input_type().rsplit('.').next().unwrap();
                    let request = messages.iter().find(|message| message.name() == input).unwrap();
                    let takes_id = request.field.iter().any(|field| field.name() == "request_id");
                    let known = Method::at(&path);
                    if method.server_streaming() || method.client_streaming() {
                        assert!(matches!(known, Method::Other), "{path}");
                    } else if takes_id {
                        assert!(REPEATABLE.iter().any(|(name, _)| *name == input), "{path} takes a request_id");
                    } else {
                        assert!(!matches!(known, Method::Other), "{path} is missing");
                    }
                }
            }
        }
    }
}
