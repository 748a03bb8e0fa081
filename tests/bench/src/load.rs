//! The load: calls that each tag another contact, or record an event of one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use taghook_client::Client;
use taghook_client::contact::by_email;
use taghook_client::v1::batch_record_events_response::Result as Recorded;
use taghook_client::v1::batch_record_events_response::result::Result as RecordedItem;
use taghook_client::v1::batch_tag_contacts_response::Result as Tagged;
use taghook_client::v1::batch_tag_contacts_response::result::Result as ItemAnswer;
use taghook_client::v1::{
    BatchRecordEventsRequest, BatchTagContactsRequest, Event, RecordEventRequest, TagContactRequest,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Failure;
use crate::sink::Sink;

/// Who calls, and how.
#[derive(Clone)]
pub(crate) struct Load {
    /// Used in turn; each is a connection.
    pub(crate) clients: Vec<Client>,
    /// What each contact is tagged with.
    pub(crate) tag_id: String,
    /// Whether the calls can be repeated.
    pub(crate) with_request_id: bool,
}

/// What came of calls.
pub(crate) struct Answered {
    /// From the first call to the last answer.
    pub(crate) took: Duration,
    /// Each contact, and when its call began, by the sink's clock.
    pub(crate) calls: Vec<(usize, u64)>,
    /// How long each call took, in nanoseconds.
    pub(crate) answers_ns: Vec<u64>,
}

impl Load {
    /// Tags contacts as fast as `callers` can, each with one call at a time.
    pub(crate) async fn closed(
        &self,
        contacts: Range<usize>,
        callers: usize,
        sink: &Sink,
    ) -> Result<Answered, Failure> {
        self.run(contacts, (callers, 1), sink, |load, client, contacts| async move {
            client.contacts().tag_contact(load.request(contacts.start)).await?;
            Ok(())
        })
        .await
    }

    /// Tags contacts in batches of `size`.
    pub(crate) async fn batches(
        &self,
        contacts: Range<usize>,
        (callers, size): (usize, usize),
        sink: &Sink,
    ) -> Result<Answered, Failure> {
        self.run(contacts, (callers, size), sink, |load, client, contacts| async move {
            let requests = contacts.map(|contact| load.request(contact)).collect();
            let answer = client.contacts().batch_tag_contacts(BatchTagContactsRequest { requests }).await?;
            let is_bad = |item: &Tagged| !matches!(item.result, Some(ItemAnswer::Response(_)));
            answer.into_inner().results.into_iter().find(is_bad).map_or(Ok(()), |bad| Err(format!("{bad:?}").into()))
        })
        .await
    }

    /// Tags `per_second` contacts a second, whether or not earlier calls are answered.
    pub(crate) async fn paced(
        &self,
        contacts: Range<usize>,
        per_second: u32,
        sink: &Sink,
    ) -> Result<Answered, Failure> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let start = Instant::now();
        let mut calls = JoinSet::new();
        for contact in contacts {
            ticks.tick().await;
            let (load, sink, client) = (self.clone(), sink.clone(), self.client(contact));
            calls.spawn(async move {
                let began = sink.now_ns();
                client.contacts().tag_contact(load.request(contact)).await?;
                Ok::<_, Failure>(((contact, began), sink.now_ns() - began))
            });
        }
        let (calls, answers_ns) =
            calls.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        Ok(Answered { took: start.elapsed(), calls, answers_ns })
    }

    /// Records an event of each contact as fast as `callers` can, `size` in a call.
    pub(crate) async fn events(
        &self,
        contacts: Range<usize>,
        (callers, size): (usize, usize),
        sink: &Sink,
    ) -> Result<Answered, Failure> {
        self.run(contacts, (callers, size), sink, move |_, client, contacts| async move {
            if size == 1 {
                client.events().record_event(event(contacts.start)).await?;
                return Ok(());
            }
            let requests = contacts.map(event).collect();
            let answer = client.events().batch_record_events(BatchRecordEventsRequest { requests }).await?;
            let is_bad = |item: &Recorded| !matches!(item.result, Some(RecordedItem::Response(_)));
            answer.into_inner().results.into_iter().find(is_bad).map_or(Ok(()), |bad| Err(format!("{bad:?}").into()))
        })
        .await
    }

    /// Takes `size` contacts after the other, by `callers` at a time; `send` makes the call for them.
    async fn run<F, Fut>(
        &self,
        contacts: Range<usize>,
        (callers, size): (usize, usize),
        sink: &Sink,
        send: F,
    ) -> Result<Answered, Failure>
    where
        F: Fn(Arc<Self>, Client, Range<usize>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send,
    {
        let (start, next) = (Instant::now(), Arc::new(AtomicUsize::new(contacts.start)));
        let (load, mut running) = (Arc::new(self.clone()), JoinSet::new());
        for caller in 0..callers {
            let (next, send, end) = (Arc::clone(&next), send.clone(), contacts.end);
            let (load, client, sink) = (Arc::clone(&load), self.client(caller), sink.clone());
            running.spawn(async move {
                let (mut calls, mut answers_ns) = (Vec::new(), Vec::new());
                loop {
                    let first = next.fetch_add(size, Ordering::Relaxed);
                    let batch = first..end.min(first + size);
                    if batch.is_empty() {
                        return Ok::<_, Failure>((calls, answers_ns));
                    }
                    let began = sink.now_ns();
                    send(Arc::clone(&load), client.clone(), batch.clone()).await?;
                    answers_ns.push(sink.now_ns() - began);
                    calls.extend(batch.map(|contact| (contact, began)));
                }
            });
        }
        let mut answered = Answered { took: Duration::ZERO, calls: Vec::new(), answers_ns: Vec::new() };
        while let Some(done) = running.join_next().await {
            let (calls, answers) = done??;
            answered.calls.extend(calls);
            answered.answers_ns.extend(answers);
        }
        answered.took = start.elapsed();
        Ok(answered)
    }

    fn client(&self, number: usize) -> Client {
        self.clients[number % self.clients.len()].clone()
    }

    fn request(&self, contact: usize) -> TagContactRequest {
        TagContactRequest {
            contact: by_email(format!("bench-{contact}@example.com")),
            tag_ids: vec![self.tag_id.clone()],
            request_id: if self.with_request_id { format!("bench-request-{contact:016}") } else { String::new() },
            ..Default::default()
        }
    }
}

/// What happened to a contact.
fn event(contact: usize) -> RecordEventRequest {
    let amount = Value { kind: Some(Kind::NumberValue(49.9)) };
    let fields = [("amount".to_owned(), amount)].into();
    RecordEventRequest {
        contact: by_email(format!("bench-{contact}@example.com")),
        event: Some(Event {
            r#type: "payment.bought".into(),
            attributes: Some(Struct { fields }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
