//! The load: calls that each tag another contact, or record an event of one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use taghook_client::Client;
use taghook_client::v1::batch_record_events_response::Result as Recorded;
use taghook_client::v1::batch_record_events_response::result::Result as RecordedItem;
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
        let next = Arc::new(AtomicUsize::new(contacts.start));
        self.run(callers, sink, move |load, client, sink| {
            let (next, end) = (Arc::clone(&next), contacts.end);
            async move {
                let (mut calls, mut answers) = (Vec::new(), Vec::new());
                loop {
                    let contact = next.fetch_add(1, Ordering::Relaxed);
                    if contact >= end {
                        return Ok((calls, answers));
                    }
                    let began = sink.now_ns();
                    client.contacts().tag_contact(load.request(contact)).await?;
                    answers.push(sink.now_ns() - began);
                    calls.push((contact, began));
                }
            }
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
        let next = Arc::new(AtomicUsize::new(contacts.start));
        self.run(callers, sink, move |load, client, sink| {
            let (next, end) = (Arc::clone(&next), contacts.end);
            async move {
                let (mut calls, mut answers) = (Vec::new(), Vec::new());
                loop {
                    let first = next.fetch_add(size, Ordering::Relaxed);
                    let batch = first..end.min(first + size);
                    if batch.is_empty() {
                        return Ok((calls, answers));
                    }
                    let requests = batch.clone().map(|contact| load.request(contact)).collect();
                    let began = sink.now_ns();
                    let request = BatchTagContactsRequest { requests };
                    let answer = client.contacts().batch_tag_contacts(request).await?.into_inner();
                    answers.push(sink.now_ns() - began);
                    calls.extend(batch.map(|contact| (contact, began)));
                    let bad = answer.results.into_iter().find_map(|item| match item.result {
                        Some(ItemAnswer::Response(_)) => None,
                        other => Some(format!("{other:?}")),
                    });
                    if let Some(bad) = bad {
                        return Err(bad.into());
                    }
                }
            }
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
        let next = Arc::new(AtomicUsize::new(contacts.start));
        self.run(callers, sink, move |_, client, sink| {
            let (next, end) = (Arc::clone(&next), contacts.end);
            async move {
                let (mut calls, mut answers) = (Vec::new(), Vec::new());
                loop {
                    let first = next.fetch_add(size, Ordering::Relaxed);
                    let batch = first..end.min(first + size);
                    if batch.is_empty() {
                        return Ok((calls, answers));
                    }
                    let began = sink.now_ns();
                    let mut requests: Vec<RecordEventRequest> = batch.clone().map(event).collect();
                    if let (1, Some(request)) = (size, requests.pop()) {
                        client.events().record_event(request).await?;
                    } else {
                        let requests = batch.clone().map(event).collect();
                        let answer = client.events().batch_record_events(BatchRecordEventsRequest { requests }).await?;
                        let is_bad = |item: &Recorded| !matches!(item.result, Some(RecordedItem::Response(_)));
                        if let Some(bad) = answer.into_inner().results.into_iter().find(is_bad) {
                            return Err(format!("{bad:?}").into());
                        }
                    }
                    answers.push(sink.now_ns() - began);
                    calls.extend(batch.map(|contact| (contact, began)));
                }
            }
        })
        .await
    }

    async fn run<F, Fut>(&self, callers: usize, sink: &Sink, work: F) -> Result<Answered, Failure>
    where
        F: Fn(Self, Client, Sink) -> Fut,
        Fut: Future<Output = Result<(Vec<(usize, u64)>, Vec<u64>), Failure>> + Send + 'static,
    {
        let start = Instant::now();
        let mut running = JoinSet::new();
        for caller in 0..callers {
            running.spawn(work(self.clone(), self.client(caller), sink.clone()));
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
            email: format!("bench-{contact}@example.com"),
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
        email: format!("bench-{contact}@example.com"),
        event: Some(Event {
            r#type: "payment.bought".into(),
            attributes: Some(Struct { fields }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
