//! The stream of outcomes.

use taghook_client::Start;
use taghook_client::v1::OutcomeFilter;
use taghook_client::v1::outcome::Kind;

use crate::support::{Database, FromDatabase, Receiver, Taghook, Watch};

/// Two servers share the work; either's stream shows all, and a cursor of one is good at the other.
#[tokio::test]
async fn either_server_streams_what_the_other_did() {
    let first = Taghook::on(Database::postgres().await).await;
    let second = first.another().await;
    let receiver = Receiver::start().await;
    let tag = first.tag("customer").await;
    first.webhook(&receiver, &tag, |_| {}).await;
    let mut watch = Watch::now(&second.client).await;

    let ada = first.contact("ada@example.com").await;
    first.assign(&ada, &tag).await;
    assert_eq!(watch.expect(Kind::Delivered).await.contact_id, ada.id);
    let cursor = watch.cursor().to_owned();
    drop(watch);
    let bob = second.contact("bob@example.com").await;
    second.assign(&bob, &tag).await;

    let mut watch = Watch::with(&first.client, OutcomeFilter::default(), Start::After(cursor)).await;
    assert_eq!(watch.expect(Kind::Delivered).await.contact_id, bob.id);
    assert_eq!(receiver.count(), 2);
}
