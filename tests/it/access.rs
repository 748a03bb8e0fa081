//! Keys: no entry without one, and only as far as it opens.

use prost::Message;
use taghook_client::v1::{ErrorReason, GetTagRequest, ListWorkspacesRequest, Tag};
use taghook_client::{Code, Error};

use crate::support::{Taghook, both, check_error, frame};

both! {
    async fn without_a_good_key_there_is_no_entry(t: Taghook) {
        for key in [None, Some("thk_x"), Some("")] {
            let result = t.client_with(key).tags().get_tag(GetTagRequest { id: "tag_1".into() }).await;
            check_error(result, Code::Unauthenticated, ErrorReason::Unauthenticated);
        }
    }

    async fn the_root_key_opens_workspaces_alone(t: Taghook) {
        let list = ListWorkspacesRequest::default();
        let workspaces = t.root.workspaces().list_workspaces(list.clone()).await.unwrap().into_inner().workspaces;
        assert_eq!(workspaces.len(), 1);
        check_error(
            t.root.tags().get_tag(GetTagRequest { id: "tag_1".into() }).await,
            Code::PermissionDenied,
            ErrorReason::ScopeMissing,
        );
        let refused = t.client.workspaces().list_workspaces(list).await;
        let error: Error = check_error(refused, Code::PermissionDenied, ErrorReason::ScopeMissing);
        assert_eq!(error.metadata["scope"], "ROOT");
    }

    async fn bytes_that_are_no_message_are_refused(t: Taghook) {
        let tag = t.tag("customer").await;
        let raw = t.raw().await;
        let authorization = format!("Bearer {}", t.key());
        let headers = [("authorization", authorization.as_str())];
        let get = frame(&GetTagRequest { id: tag.id.clone() }.encode_to_vec());
        let answer = raw.call("/taghook.v1.TagService/GetTag", &headers, get).await;
        assert_eq!(answer.message::<Tag>(), tag);
        let answer = raw.call("/taghook.v1.TagService/GetTag", &headers, frame(b"\xff\xff\xff")).await;
        assert_eq!(answer.http_status, 200);
        assert_eq!(answer.error().reason, ErrorReason::MalformedRequest, "{answer:?}");
        let answer = raw.call("/taghook.v1.TagService/NoSuchMethod", &headers, frame(b"")).await;
        assert_eq!(answer.status().code(), Code::Unimplemented, "{answer:?}");
    }
}
