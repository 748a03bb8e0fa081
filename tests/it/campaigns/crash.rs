//! Ten thousand contacts in a campaign whose server is killed again and again.

use std::collections::HashMap;

use taghook_client::Client;
use taghook_client::v1::campaign::Reentry;
use taghook_client::v1::enrollment::State;
use taghook_client::v1::list_enrollments_request::Filter;
use taghook_client::v1::{
    Contact, ListContactsRequest, ListEnrollmentsRequest, Tag, UpsertContactRequest, list_contacts_request,
};
use tokio::task::JoinSet;

use super::{activate, ask, assign, call, create, draft, exit, node, set};
use crate::support::{Api, Database, Process, Receiver, both, within};

const CONTACTS: usize = 10_000;
/// Calls at a time.
const CALLERS: usize = 32;
const KILLS: usize = 4;

/// Creates a contact with the campaign's tag; every third one lives in Bonn. Answers with whether it must be done again.
async fn enter(client: Client, tag: String, index: usize) -> Option<usize> {
    let city = if index.is_multiple_of(3) { "Bonn" } else { "Berlin" };
    let values = [("city".to_owned(), city.to_owned())].into();
    let contact = Contact { email: format!("c{index}@example.com"), values, ..Default::default() };
    let request = UpsertContactRequest { contact: Some(contact), tag_ids: vec![tag], ..Default::default() };
    client.contacts().upsert_contact(request).await.is_err().then_some(index)
}

/// How many contacts hold a tag.
async fn holders(api: &Api, tag: &Tag) -> usize {
    let filter = list_contacts_request::Filter { tag_ids: vec![tag.id.clone()], ..Default::default() };
    let mut request = ListContactsRequest { page_size: 1_000, filter: Some(filter), ..Default::default() };
    let mut count = 0;
    loop {
        let page = api.client.contacts().list_contacts(request.clone()).await.expect("a page").into_inner();
        count += page.contacts.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return count;
        }
    }
}

async fn first(api: &Api, campaign: &str, state: State) -> Vec<taghook_client::v1::Enrollment> {
    let filter = Filter { states: vec![state.into()], ..Default::default() };
    let request = ListEnrollmentsRequest {
        campaign_id: campaign.into(),
        page_size: 1_000,
        filter: Some(filter),
        ..Default::default()
    };
    api.client.campaigns().list_enrollments(request).await.expect("ways").into_inner().enrollments
}

both! {
    async fn every_contact_ends_where_it_should_whatever_is_killed(database: Database) {
        let mut receiver = Receiver::start().await;
        let mut server = Process::serve(&database).await;
        let tag = async |name: &str| server.tag(name).await;
        let (begin, local, other, never) =
            (tag("begin").await, tag("local").await, tag("other").await, tag("never").await);
        let webhook = server.webhook(&receiver, &never, |webhook| webhook.max_concurrency = 256).await;
        let nodes = vec![
            ask("ask", "contact.fields.city == 'Bonn'", "local", "other"),
            node("local", "set", assign(&local)),
            node("other", "set", assign(&other)),
            node("set", "call", set("company", "Taghook")),
            node("call", "exit", call(&webhook)),
            exit(),
        ];
        let mut draft = draft("c", Some(&begin), nodes);
        draft.reentry = Reentry::Never.into();
        let campaign = activate(&server, &create(&server, draft).await).await;
        let (mut open, mut calls) = ((0..CONTACTS).collect::<Vec<_>>(), JoinSet::new());
        let (mut kills, mut seen) = (0, HashMap::<String, usize>::new());
        // Contacts enter while the server is killed; whoever got no answer is sent again, and let in once.
        while !open.is_empty() || !calls.is_empty() {
            while calls.len() < CALLERS && let Some(index) = open.pop() {
                calls.spawn(enter(server.client.clone(), begin.id.clone(), index));
            }
            open.extend(within("an answer", calls.join_next()).await.expect("a call").expect("its end"));
            while let Some(received) = receiver.try_recv() {
                *seen.entry(received.webhook_id().to_owned()).or_default() += 1;
            }
            if kills < KILLS && seen.len() > (kills + 1) * CONTACTS / (KILLS + 2) {
                kills += 1;
                server.kill().await;
                while let Some(refused) = calls.join_next().await {
                    open.extend(refused.expect("its end"));
                }
                server = Process::serve(&database).await;
            }
        }
        while seen.len() < CONTACTS {
            *seen.entry(receiver.recv().await.webhook_id().to_owned()).or_default() += 1;
        }
        within("the end of all ways", async { while !first(&server, &campaign.id, State::Running).await.is_empty() {} })
            .await;
        assert_eq!(kills, KILLS);
        let bonn = CONTACTS.div_ceil(3);
        assert_eq!((holders(&server, &local).await, holders(&server, &other).await), (bonn, CONTACTS - bonn));
        for state in [State::Exited, State::Failed] {
            assert_eq!(first(&server, &campaign.id, state).await, []);
        }
        // A settled delivery isn't sent again: a few, in flight at a kill, came twice.
        let twice = seen.values().filter(|count| **count > 1).count();
        assert!(twice <= KILLS * 256, "{twice} came twice");
        assert_eq!(seen.len(), CONTACTS);
    }
}
