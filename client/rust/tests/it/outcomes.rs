//! The stream of outcomes over broken connections.

use taghook_client::v1::OutcomeCheckpoint;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::stream_outcomes_request::{Position, Start as StartAt};
use taghook_client::v1::stream_outcomes_response::Entry;
use taghook_client::v1::{ErrorReason, Outcome, OutcomeFilter, StreamOutcomesRequest, StreamOutcomesResponse};
use taghook_client::{Code, Start};
use tonic::Status;

use crate::fake::{Fake, refusal, within};

fn checkpoint(cursor: &str) -> StreamOutcomesResponse {
    StreamOutcomesResponse { cursor: cursor.into(), entry: Some(Entry::Checkpoint(OutcomeCheckpoint::default())) }
}

fn outcome(cursor: &str, delivery_id: &str) -> StreamOutcomesResponse {
    let outcome = Outcome { kind: Kind::Delivered.into(), delivery_id: delivery_id.into(), ..Default::default() };
    StreamOutcomesResponse { cursor: cursor.into(), entry: Some(Entry::Outcome(outcome)) }
}

fn filter() -> OutcomeFilter {
    OutcomeFilter { kinds: vec![Kind::Delivered.into()], ..Default::default() }
}

fn request(position: Position) -> StreamOutcomesRequest {
    StreamOutcomesRequest { position: Some(position), filter: Some(filter()) }
}

#[tokio::test]
async fn it_goes_on_after_the_last_cursor() {
    let mut fake = Fake::start().await;
    let mut outcomes = fake.client().outcomes(filter(), Start::Now);
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        outcomes.ready().await.unwrap();
        assert_eq!(outcomes.cursor(), Some("0"));
        while let Some(entry) = outcomes.next().await {
            let entry = entry.unwrap();
            assert_eq!(outcomes.cursor(), Some(entry.cursor.as_str()));
            sender.send((entry.cursor, entry.outcome.delivery_id)).unwrap();
        }
    });
    let mut expect = async |cursor: &str, id: &str| {
        let next = within(seen.recv()).await.unwrap();
        assert_eq!(next, (cursor.to_owned(), id.to_owned()));
    };

    // A first try that fails leaves the start as it was.
    fake.call().await.refuse(&Status::unavailable(""));
    let call = fake.call().await;
    assert_eq!(call.request::<StreamOutcomesRequest>(), request(Position::StartAt(StartAt::Now.into())));
    assert!(!call.headers.contains_key("grpc-timeout"), "a stream has no deadline");
    let mut open = call.open();
    open.send(&checkpoint("0"));
    open.send(&outcome("1", "a"));
    expect("1", "a").await;
    open.reset();

    // The server ends a stream as it should: the cursor of its last message counts, whatever the message is.
    let call = fake.call().await;
    assert_eq!(call.request::<StreamOutcomesRequest>(), request(Position::AfterCursor("1".into())));
    let mut open = call.open();
    open.send(&checkpoint("1"));
    open.send(&outcome("2", "b"));
    open.send(&StreamOutcomesResponse { cursor: "3".into(), entry: None });
    open.end(&Status::ok(""));
    expect("2", "b").await;

    // A slow watcher, and a call that breaks.
    let call = fake.call().await;
    assert_eq!(call.request::<StreamOutcomesRequest>(), request(Position::AfterCursor("3".into())));
    let mut open = call.open();
    open.send(&outcome("4", "c"));
    open.end(&refusal(Code::ResourceExhausted, "SLOW_CONSUMER", &[("cursor", "4")], None));
    expect("4", "c").await;
    fake.call().await.reset();

    let call = fake.call().await;
    assert_eq!(call.request::<StreamOutcomesRequest>(), request(Position::AfterCursor("4".into())));
    let mut open = call.open();
    open.send(&outcome("5", "d"));
    expect("5", "d").await;
}

#[tokio::test]
async fn an_error_that_stays_ends_it() {
    let refusals = [
        refusal(Code::OutOfRange, "CURSOR_EXPIRED", &[("oldest_cursor", "7")], None),
        refusal(Code::OutOfRange, "CURSOR_AHEAD", &[("newest_cursor", "7")], None),
        refusal(Code::InvalidArgument, "CURSOR_INVALID", &[], None),
        refusal(Code::Unauthenticated, "UNAUTHENTICATED", &[], None),
    ];
    let mut fake = Fake::start().await;
    for status in refusals {
        let mut outcomes = fake.client().outcomes(OutcomeFilter::default(), Start::After("5".into()));
        assert_eq!(outcomes.cursor(), Some("5"));
        let follow = tokio::spawn(async move { (outcomes.next().await, outcomes.next().await) });
        let call = fake.call().await;
        let position = call.request::<StreamOutcomesRequest>().position;
        assert_eq!(position, Some(Position::AfterCursor("5".into())));
        call.refuse(&status);
        let (first, second) = within(follow).await.unwrap();
        let error = first.unwrap().unwrap_err();
        assert_eq!(error.code, status.code());
        assert_ne!(error.reason, ErrorReason::Unspecified);
        assert!(second.is_none());
    }
}

#[tokio::test]
async fn ready_tells_of_a_refusal() {
    let mut fake = Fake::start().await;
    let mut outcomes = fake.client().outcomes(OutcomeFilter::default(), Start::Beginning);
    let follow = tokio::spawn(async move { outcomes.ready().await });
    let call = fake.call().await;
    let position = call.request::<StreamOutcomesRequest>().position;
    assert_eq!(position, Some(Position::StartAt(StartAt::Beginning.into())));
    call.refuse(&Status::permission_denied(""));
    assert_eq!(within(follow).await.unwrap().unwrap_err().code, Code::PermissionDenied);
}

#[tokio::test]
async fn an_outcome_that_comes_first_is_not_lost_by_ready() {
    let mut fake = Fake::start().await;
    let mut outcomes = fake.client().outcomes(OutcomeFilter::default(), Start::Beginning);
    let follow = tokio::spawn(async move {
        outcomes.ready().await.unwrap();
        outcomes.ready().await.unwrap();
        let cursor_before = outcomes.cursor().map(str::to_owned);
        (cursor_before, outcomes.next().await.unwrap().unwrap())
    });
    let mut open = fake.call().await.open();
    open.send(&outcome("1", "a"));
    let (cursor_before, entry) = within(follow).await.unwrap();
    assert_eq!(cursor_before, None);
    assert_eq!(entry.cursor, "1");
}
