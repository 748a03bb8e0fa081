//! What is known of the service's methods: which may be repeated. `cargo xtask gen` writes the table from the descriptors.

/// What a method's calls are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    /// One request, one response, nothing changes.
    Read,
    /// One request, one response. Says whether a request may be sent twice.
    Write(IsRepeatable),
    /// A stream, or a method that isn't known here.
    Other,
}

/// Whether a request, given as it is encoded, has a `request_id`.
type IsRepeatable = fn(&[u8]) -> bool;

/// The method of a request with a `request_id`.
macro_rules! repeatable {
    ($request:ident) => {
        Method::Write(|message| v1::$request::decode(message).is_ok_and(|request| !request.request_id.is_empty()))
    };
}

#[allow(clippy::match_same_arms, clippy::too_many_lines, reason = "generated code")]
#[rustfmt::skip]
#[path = "gen/methods.rs"]
mod table;

impl Method {
    /// What is known of the method at a path such as `/taghook.v1.TagService/GetTag`.
    pub(crate) fn at(path: &str) -> Self {
        table::at(path)
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
    use prost::Message;

    use super::*;
    use crate::contact::by_email;
    use crate::v1;

    #[track_caller]
    fn check(path: &str, message: &impl Message, expected: bool) {
        assert_eq!(Method::at(path).may_repeat(&message.encode_to_vec()), expected);
    }

    #[test]
    fn reads_and_writes_with_a_request_id_may_be_repeated() {
        check("/taghook.v1.TagService/GetTag", &v1::GetTagRequest::default(), true);
        check("/taghook.v1.WebhookService/PreviewWebhook", &v1::PreviewWebhookRequest::default(), true);
        let mut request = v1::TagContactRequest { contact: by_email("ada@example.com"), ..Default::default() };
        check("/taghook.v1.ContactService/TagContact", &request, false);
        request.request_id = "1".into();
        check("/taghook.v1.ContactService/TagContact", &request, true);
        check("/taghook.v1.WorkspaceService/CreateApiKey", &v1::CreateApiKeyRequest::default(), false);
        check("/taghook.v1.DeliveryService/StreamOutcomes", &v1::StreamOutcomesRequest::default(), false);
        check("/other.v1.TagService/GetTag", &v1::GetTagRequest::default(), false);
    }
}
