//! What tests ask of a contact's timeline.

use taghook_client::contact::by_id;
use taghook_client::v1::list_timeline_entries_request::Filter;
use taghook_client::v1::timeline_entry::{Entry, Kind};
use taghook_client::v1::{Contact, Event, ListTimelineEntriesRequest, TimelineEntry};

use super::Api;

impl Api {
    /// The first page of a contact's timeline.
    pub(crate) async fn timeline(&self, contact: &Contact, filter: Filter) -> Vec<TimelineEntry> {
        let request = ListTimelineEntriesRequest {
            contact: by_id(&contact.id),
            page_size: 1_000,
            filter: Some(filter),
            ..Default::default()
        };
        self.client.events().list_timeline_entries(request).await.expect("a timeline").into_inner().entries
    }

    /// What a contact's timeline says of one kind, the newest first.
    pub(crate) async fn told(&self, contact: &Contact, kind: Kind) -> Vec<Entry> {
        let filter = Filter { kinds: vec![kind.into()], ..Default::default() };
        self.timeline(contact, filter).await.into_iter().map(|entry| entry.entry.expect("what happened")).collect()
    }

    /// The events of a contact whose type starts so, the newest first.
    pub(crate) async fn recorded(&self, contact: &Contact, prefix: &str) -> Vec<Event> {
        let filter = Filter { event_type_prefix: prefix.into(), ..Default::default() };
        let event = |entry: TimelineEntry| match entry.entry {
            Some(Entry::EventRecorded(event)) => event,
            other => panic!("no event: {other:?}"),
        };
        self.timeline(contact, filter).await.into_iter().map(event).collect()
    }
}
