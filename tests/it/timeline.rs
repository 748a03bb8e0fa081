//! The timeline of a contact: what it shows, and how it is filtered.

use std::collections::BTreeMap;
use std::time::Duration;

use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Timestamp, Value};
use taghook::store::retention;
use taghook_client::contact::by_email;
use taghook_client::v1::contact::Status;
use taghook_client::v1::enrollment::State;
use taghook_client::v1::list_timeline_entries_request::Filter;
use taghook_client::v1::outcome::Kind as OutcomeKind;
use taghook_client::v1::timeline_entry::{Entry, Kind};
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::{
    CampaignEndedEntry, CampaignEnteredEntry, Contact, Event, RecordEventRequest, TagAssignedEntry, TimelineEntry,
    UpdateContactRequest,
};

use crate::campaigns::{campaign, ended, enroll, exit, node, set};
use crate::support::{Database, Receiver, Taghook, Watch, both, mask, since_start_us};

const SECOND: Duration = Duration::from_secs(1);

/// Seconds after the start of manual clocks, 2026-01-01T00:00:00Z.
fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_767_225_600 + seconds, nanos: 0 })
}

/// Entries as the second after the start of manual clocks at which they happened, and their kind.
fn lines(entries: &[TimelineEntry]) -> Vec<(i64, Kind)> {
    entries.iter().map(|entry| (since_start_us(entry.occur_time) / 1_000_000, kind_of(entry))).collect()
}

fn kind_of(entry: &TimelineEntry) -> Kind {
    match entry.entry.as_ref().expect("what happened") {
        Entry::EventRecorded(_) => Kind::EventRecorded,
        Entry::TagAssigned(_) => Kind::TagAssigned,
        Entry::TagRemoved(_) => Kind::TagRemoved,
        Entry::TagRuleFailed(_) => Kind::TagRuleFailed,
        Entry::TagHeldBack(_) => Kind::TagHeldBack,
        Entry::WebhookTriggered(_) => Kind::WebhookTriggered,
        Entry::DeliveryOutcome(_) => Kind::DeliveryOutcome,
        Entry::CampaignEntered(_) => Kind::CampaignEntered,
        Entry::CampaignEnded(_) => Kind::CampaignEnded,
        Entry::CampaignStepFailed(_) => Kind::CampaignStepFailed,
        Entry::CampaignHeldBack(_) => Kind::CampaignHeldBack,
        Entry::ContactCreated(_) => Kind::ContactCreated,
        Entry::ContactUpdated(_) => Kind::ContactUpdated,
        Entry::ContactUnsubscribed(_) => Kind::ContactUnsubscribed,
        Entry::LinkClicked(_) => Kind::LinkClicked,
    }
}

fn of_kinds(kinds: &[Kind]) -> Filter {
    Filter { kinds: kinds.iter().map(|kind| (*kind).into()).collect(), ..Default::default() }
}

async fn unsubscribe(t: &Taghook, contact: &Contact) {
    let gone = Contact { id: contact.id.clone(), status: Status::Unsubscribed.into(), ..Default::default() };
    let request = UpdateContactRequest { contact: Some(gone), update_mask: mask(&["status"]), ..Default::default() };
    t.client.contacts().update_contact(request).await.expect("a change");
}

both! {
    async fn a_timeline_shows_all_that_happened_the_newest_first(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let (tag, contact) = (t.tag("customer").await, t.contact("ada@example.com").await);
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let number = |number| Value { kind: Some(ValueKind::NumberValue(number)) };
        let text = |text: &str| Value { kind: Some(ValueKind::StringValue(text.into())) };
        let attributes =
            Struct { fields: BTreeMap::from([("sum".into(), number(12.5)), ("what".into(), text("é\n"))]) };
        let record = async |event: Event| {
            let request =
                RecordEventRequest { contact: by_email("ADA@example.com"), event: Some(event), ..Default::default() };
            t.client.events().record_event(request).await.unwrap().into_inner().event.unwrap()
        };
        clock.advance(SECOND * 10);
        let bought =
            record(Event { r#type: "shop.bought".into(), attributes: Some(attributes.clone()), ..Default::default() })
                .await;
        assert!(bought.id.starts_with("evt_"));
        assert_eq!((&bought.contact_id, &bought.attributes), (&contact.id, &Some(attributes)));
        assert_eq!((bought.event_time, bought.record_time), (at(10), at(10)));
        clock.advance(SECOND * 10);
        let trigger = t.decide(&contact, &tag).await;
        watch.expect(OutcomeKind::Delivered).await;
        clock.advance(SECOND * 10);
        t.decide(&contact, &tag).await;
        watch.expect(OutcomeKind::Suppressed).await;
        clock.advance(SECOND * 10);
        t.untag(&contact, &tag).await;
        let late = record(Event { r#type: "shop.seen".into(), event_time: at(15), ..Default::default() }).await;
        assert_eq!((late.event_time, late.record_time), (at(15), at(40)));

        let all = t.timeline(&contact, Filter::default()).await;
        let told = [
            (40, Kind::TagRemoved),
            (30, Kind::WebhookTriggered),
            (20, Kind::DeliveryOutcome),
            (20, Kind::WebhookTriggered),
            (20, Kind::TagAssigned),
            (15, Kind::EventRecorded),
            (10, Kind::EventRecorded),
            (0, Kind::ContactCreated),
        ];
        assert_eq!(lines(&all), told);
        let entry = |index: usize| all[index].entry.clone().unwrap();
        assert_eq!((entry(6), entry(5)), (Entry::EventRecorded(bought), Entry::EventRecorded(late)));
        assert_eq!(entry(4), Entry::TagAssigned(TagAssignedEntry { tag_id: tag.id.clone() }));
        let Entry::WebhookTriggered(suppressed) = entry(1) else { panic!("{all:#?}") };
        assert_eq!(suppressed.decision(), Decision::Suppressed);
        let Entry::WebhookTriggered(triggered) = entry(3) else { panic!("{all:#?}") };
        assert_eq!((&triggered.delivery_id, &triggered.webhook_id), (&trigger.delivery_ids[0], &webhook.id));
        assert_eq!(triggered.decision(), Decision::Scheduled);
        let Entry::DeliveryOutcome(outcome) = entry(2) else { panic!("{all:#?}") };
        assert_eq!((outcome.kind(), outcome.attempt_number, outcome.status_code), (OutcomeKind::Delivered, 1, 200));

        let deliveries = of_kinds(&[Kind::WebhookTriggered, Kind::DeliveryOutcome]);
        assert_eq!(t.timeline(&contact, deliveries).await, all[1..4]);
        let tags = of_kinds(&[Kind::TagAssigned, Kind::TagRemoved]);
        assert_eq!(t.timeline(&contact, tags).await, [all[0].clone(), all[4].clone()]);
        let seen = Filter { event_type_prefix: "shop.s".into(), ..Default::default() };
        assert_eq!(t.timeline(&contact, seen.clone()).await, all[5..6]);
        assert_eq!(t.timeline(&contact, Filter { kinds: vec![Kind::TagAssigned.into()], ..seen }).await, []);
        let window = Filter { start_time: at(15), end_time: at(30), ..Default::default() };
        assert_eq!(t.timeline(&contact, window).await, all[2..6]);
    }

    /// Nothing listens to any of it.
    async fn campaigns_and_contacts_show_without_any_rule(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let contact = t.contact("ada@example.com").await;
        let campaign = campaign(&t, "c", None, vec![node("set", "exit", set("city", "Ulm")), exit()]).await;
        clock.advance(SECOND);
        let way = enroll(&t, &campaign, &contact).await.enrollment.unwrap();
        ended(&t, &campaign).await;
        clock.advance(SECOND);
        t.set_values(&contact, &[("city", "Bonn")]).await;
        clock.advance(SECOND);
        unsubscribe(&t, &contact).await;
        clock.advance(SECOND);
        // It is so already.
        unsubscribe(&t, &contact).await;

        let all = t.timeline(&contact, Filter::default()).await;
        let mut told = lines(&all);
        // Of one moment, in the order of their ids.
        told.sort_unstable_by_key(|(time, kind)| (-time, -i32::from(*kind)));
        let expected = [
            (3, Kind::ContactUnsubscribed),
            (3, Kind::ContactUpdated),
            (2, Kind::ContactUpdated),
            (1, Kind::ContactUpdated),
            (1, Kind::CampaignEnded),
            (1, Kind::CampaignEntered),
            (0, Kind::ContactCreated),
        ];
        assert_eq!(told, expected);
        let entered =
            CampaignEnteredEntry { campaign_id: campaign.id.clone(), enrollment_id: way.id.clone() };
        assert_eq!(t.told(&contact, Kind::CampaignEntered).await, [Entry::CampaignEntered(entered)]);
        let left = CampaignEndedEntry {
            campaign_id: campaign.id,
            enrollment_id: way.id,
            state: State::Finished.into(),
            node_key: "exit".into(),
            error: String::new(),
        };
        assert_eq!(t.told(&contact, Kind::CampaignEnded).await, [Entry::CampaignEnded(left)]);

        // What callers write every night doesn't fill the database; all else stays.
        assert_eq!(retention::contact_updates(t.store(), Duration::from_millis(1_500)).await.unwrap(), 2);
        assert_eq!(t.timeline(&contact, Filter::default()).await.len(), expected.len() - 2);
    }
}
