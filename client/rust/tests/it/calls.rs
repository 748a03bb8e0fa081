//! What every call gets: the key, a deadline, and retries where they are safe.

use std::time::Duration;

use taghook_client::contact::by_email;
use taghook_client::v1::{ErrorReason, GetTagRequest, Tag, TagContactRequest, TagContactResponse};
use taghook_client::{Client, Code, Error, Options};
use tonic::{Request, Status};

use crate::fake::{Call, Fake, refusal, within};

fn unavailable() -> Status {
    refusal(Code::Unavailable, "DATABASE_UNAVAILABLE", &[], Some(Duration::from_millis(1)))
}

fn tag_contact(request_id: &str) -> TagContactRequest {
    TagContactRequest { contact: by_email("ada@example.com"), request_id: request_id.into(), ..Default::default() }
}

#[tokio::test]
async fn a_call_carries_key_deadline_and_agent() {
    let mut fake = Fake::start().await;
    let client = fake.client();
    let get = tokio::spawn(async move { client.tags().get_tag(GetTagRequest { id: "tag_1".into() }).await });
    let call = fake.call().await;
    assert_eq!(call.path, "/taghook.v1.TagService/GetTag");
    assert_eq!(call.headers["authorization"], "Bearer thk_test");
    let timeout = call.headers["grpc-timeout"].to_str().unwrap();
    let timeout_ms: u32 = timeout.strip_suffix('m').unwrap().parse().unwrap();
    assert!((9_000..=10_000).contains(&timeout_ms), "{timeout}");
    assert!(call.headers["user-agent"].to_str().unwrap().starts_with("taghook-client-rust/"));
    assert_eq!(call.request::<GetTagRequest>().id, "tag_1");
    call.answer(&Tag { name: "customer".into(), ..Default::default() });
    assert_eq!(within(get).await.unwrap().unwrap().into_inner().name, "customer");
}

/// How a call is failed.
type Fail = fn(Call);

const WAYS_TO_BE_UNAVAILABLE: [Fail; 3] =
    [|call| call.refuse(&unavailable()), |call| call.refuse_late(&unavailable()), |call| call.http_status(503)];

#[tokio::test]
async fn reads_are_repeated() {
    let mut fake = Fake::start().await;
    let client = fake.client();
    let get = tokio::spawn(async move { client.tags().get_tag(GetTagRequest::default()).await });
    for fail in WAYS_TO_BE_UNAVAILABLE {
        fail(fake.call().await);
    }
    fake.call().await.answer(&Tag { name: "customer".into(), ..Default::default() });
    assert_eq!(within(get).await.unwrap().unwrap().into_inner().name, "customer");
}

#[tokio::test]
async fn retries_end() {
    let mut fake = Fake::start().await;
    let client = fake.client();
    let get = tokio::spawn(async move { client.tags().get_tag(GetTagRequest::default()).await });
    for _ in 0..4 {
        fake.call().await.refuse(&unavailable());
    }
    let error = Error::from(within(get).await.unwrap().unwrap_err());
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::DatabaseUnavailable));
    assert_eq!(error.retry_after, Some(Duration::from_millis(1)));
    assert!(fake.is_quiet());
}

#[tokio::test]
async fn a_change_is_repeated_only_with_a_request_id() {
    let mut fake = Fake::start().await;
    let client = fake.client();
    let tag = tokio::spawn(async move {
        let without = client.contacts().tag_contact(tag_contact("")).await;
        let with = client.contacts().tag_contact(tag_contact("1")).await;
        (without, with)
    });
    fake.call().await.refuse(&unavailable());
    for _ in 0..2 {
        let call = fake.call().await;
        assert_eq!(call.request::<TagContactRequest>().request_id, "1");
        call.refuse(&unavailable());
    }
    fake.call().await.answer(&TagContactResponse { contact_id: "con_1".into(), ..Default::default() });
    let (without, with) = within(tag).await.unwrap();
    assert_eq!(without.unwrap_err().code(), Code::Unavailable);
    assert_eq!(with.unwrap().into_inner().contact_id, "con_1");
}

#[tokio::test]
async fn other_errors_are_not_repeated() {
    let mut fake = Fake::start().await;
    for code in [Code::Internal, Code::ResourceExhausted, Code::Aborted, Code::NotFound, Code::Unknown] {
        let client = fake.client();
        let get = tokio::spawn(async move { client.tags().get_tag(GetTagRequest::default()).await });
        fake.call().await.refuse(&Status::new(code, ""));
        assert_eq!(within(get).await.unwrap().unwrap_err().code(), code);
    }
    assert!(fake.is_quiet());
}

#[tokio::test]
async fn the_deadline_ends_a_call_that_has_no_answer() {
    let mut fake = Fake::start().await;
    let client = Client::connect(fake.options().deadline(Duration::from_millis(50))).unwrap();
    let error = client.tags().get_tag(GetTagRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);

    // Nor does one help that has begun to answer.
    let get = tokio::spawn(async move { client.tags().get_tag(GetTagRequest::default()).await });
    drop(fake.call().await);
    let open = fake.call().await.open();
    assert_eq!(within(get).await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    drop(open);
}

#[tokio::test]
async fn a_wait_that_would_pass_the_deadline_is_not_begun() {
    let mut fake = Fake::start().await;
    let client = fake.client();
    let get = tokio::spawn(async move { client.tags().get_tag(GetTagRequest::default()).await });
    fake.call().await.refuse(&refusal(Code::Unavailable, "SHUTTING_DOWN", &[], Some(Duration::from_secs(20))));
    assert_eq!(Error::from(within(get).await.unwrap().unwrap_err()).reason, ErrorReason::ShuttingDown);
}

#[tokio::test]
async fn a_timeout_of_the_request_comes_first() {
    let mut fake = Fake::start().await;
    let client = fake.client();
    let get = tokio::spawn(async move {
        let mut request = Request::new(GetTagRequest::default());
        request.set_timeout(Duration::from_mins(2));
        client.tags().get_tag(request).await
    });
    let call = fake.call().await;
    let timeout = call.headers["grpc-timeout"].to_str().unwrap();
    let timeout_ms: u32 = timeout.strip_suffix('m').unwrap().parse().unwrap();
    assert!((110_000..=120_000).contains(&timeout_ms), "{timeout}");
    call.answer(&Tag::default());
    within(get).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    // Nothing may listen on port 1 without being asked to by root.
    let options = Options::new("http://127.0.0.1:1").retries(0);
    let error = Client::connect(options).unwrap().tags().get_tag(GetTagRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}
