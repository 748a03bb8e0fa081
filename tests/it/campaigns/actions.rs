//! What the actions do.

use std::time::Duration;

use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::campaign::Reentry;
use taghook_client::v1::delivery::Source;
use taghook_client::v1::enrollment::State;
use taghook_client::v1::field::ValueType;
use taghook_client::v1::smart_rule::AttributeMatch;
use taghook_client::v1::timeline_entry::{Entry, Kind};
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::webhook_event::{Parameter, SystemValue};
use taghook_client::v1::{
    CreateTagRequest, DeleteCampaignRequest, DeleteContactRequest, DeleteWebhookRequest, DeliveryFilter, ErrorReason,
    ExitContactRequest, GetContactRequest, ListEnrollmentsRequest, SmartRule, Tag, tag,
};

use super::{
    activate, ask, assign, call, campaign, create, draft, ended, enroll, enrollments, exit, go_to, node, pause, remove,
    rows, set, stands_at, start, stop, wait, wait_until,
};
use crate::support::{Database, FromDatabase, Hand, Receiver, Taghook, both, check_error, mask, seconds, within};

/// A server whose clock the test moves.
struct Timed {
    t: Taghook,
    clock: Hand,
}

impl FromDatabase for Timed {
    async fn on(database: Database) -> Self {
        let (settings, clock) = database.settings().with_manual_clock();
        Self { t: Taghook::start(database, settings).await, clock }
    }
}

both! {
    async fn a_contact_goes_from_its_start_tag_to_the_exit(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("city", "Bonn")]).await;
        let (begin, vip, lead) = (t.tag("begin").await, t.tag("vip").await, t.tag("lead").await);
        let never = t.tag("never").await;
        let webhook = t
            .webhook(&receiver, &never, |webhook| {
                let source = Some(ValueSource::SystemValue(SystemValue::CampaignName.into()));
                let parameter = Parameter { name: "campaign".into(), source, default_value: None };
                webhook.events[0].parameters.push(parameter);
            })
            .await;
        let condition = "contact.fields.city == 'Bonn' && 'lead' in contact.tags";
        let nodes = vec![
            ask("ask", condition, "yes", "no"),
            node("yes", "drop", assign(&vip)),
            node("drop", "call", remove(&lead)),
            node("call", "set", call(&webhook)),
            node("set", "exit", set("company", "Taghook")),
            node("no", "exit", assign(&never)),
            exit(),
        ];
        let campaign = campaign(&t, "welcome", Some(&begin), nodes).await;
        t.assign_all(&contact, &[&lead, &begin]).await;

        let received = receiver.recv().await;
        assert!(received.text().contains("campaign=welcome"), "{}", received.text());
        let delivery = t.delivery(received.webhook_id()).await;
        assert_eq!((delivery.source(), &delivery.contact_id), (Source::Campaign, &contact.id));
        let [way] = &ended(&t, &campaign).await[..] else { panic!("one way") };
        assert_eq!((way.state(), way.node_key.as_str(), way.step_count), (State::Finished, "exit", 6));
        assert!(way.end_time.is_some() && way.due_time.is_none(), "{way:?}");
        let held = t.held_tags(&contact).await;
        assert!(held.contains(&vip.id) && !held.contains(&lead.id) && !held.contains(&never.id), "{held:?}");
        let contact = t.client.contacts().get_contact(GetContactRequest { id: contact.id }).await.unwrap().into_inner();
        assert_eq!(contact.values["company"], "Taghook");
    }

    async fn a_webhook_action_fires_always_and_at_once(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("tag").await;
        // Its cooldown is six hours, and used up.
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        t.assign(&contact, &tag).await;
        receiver.recv().await;
        let nodes = ["a", "b", "c"].windows(2).map(|pair| node(pair[0], pair[1], call(&webhook)));
        let nodes = nodes.chain([node("c", "exit", call(&webhook)), exit()]).collect();
        let campaign = campaign(&t, "thrice", None, nodes).await;
        assert!(enroll(&t, &campaign, &contact).await.newly_enrolled);
        let ids: std::collections::HashSet<_> =
            receiver.recv_all(3).await.iter().map(|received| received.webhook_id().to_owned()).collect();
        assert_eq!(ids.len(), 3);
    }

    async fn a_wait_lasts_as_long_as_it_says(timed: Timed) {
        let Timed { t, clock } = timed;
        let contact = t.contact_with("ada@example.com", &[("birthday", "2026-01-03")]).await;
        let done = t.tag("done").await;
        let nodes = vec![
            node("hour", "birthday", wait(3_600)),
            node("birthday", "past", wait_until("birthday")),
            node("past", "tag", wait_until("birthday")),
            node("tag", "exit", assign(&done)),
            exit(),
        ];
        let campaign = campaign(&t, "waits", None, nodes).await;
        enroll(&t, &campaign, &contact).await;
        let way = stands_at(&t, &campaign, "hour").await;
        assert_eq!(clock.until(way.due_time.unwrap()), Duration::from_secs(3_600));
        clock.advance(Duration::from_secs(3_599));
        assert_eq!(enrollments(&t, &campaign).await[0].node_key, "hour");
        clock.advance(Duration::from_secs(1));
        let way = stands_at(&t, &campaign, "birthday").await;
        // To the midnight of its day.
        assert_eq!(clock.advance_to(way.due_time.unwrap()), Duration::from_secs(47 * 3_600));
        ended(&t, &campaign).await;
        assert_eq!(t.held_tags(&contact).await, [done.id.as_str()]);
    }

    async fn a_loop_with_a_wait_goes_round(timed: Timed) {
        let Timed { t, clock } = timed;
        let contact = t.contact("ada@example.com").await;
        let enough = t.tag("enough").await;
        let nodes = vec![
            ask("ask", "'enough' in contact.tags", "exit", "wait"),
            node("wait", "again", wait(60)),
            go_to("again", "ask"),
            exit(),
        ];
        let campaign = campaign(&t, "round", None, nodes).await;
        enroll(&t, &campaign, &contact).await;
        for round in 1..=3 {
            let way = stands_at(&t, &campaign, "wait").await;
            assert_eq!(way.step_count, 3 * round - 2);
            if round == 3 {
                t.assign(&contact, &enough).await;
            }
            clock.advance_to(way.due_time.unwrap());
            within("the next round", async {
                while enrollments(&t, &campaign).await[0].step_count == way.step_count {}
            })
            .await;
        }
        assert_eq!(ended(&t, &campaign).await[0].state(), State::Finished);
    }

    async fn a_pause_holds_everyone_and_edits_keep_their_places(timed: Timed) {
        let Timed { t, clock } = timed;
        let (contact, other) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let (begin, old, new) = (t.tag("begin").await, t.tag("old").await, t.tag("new").await);
        let nodes = |tag: &Tag| vec![node("wait", "tag", wait(60)), node("tag", "exit", assign(tag)), exit()];
        let campaign = campaign(&t, "c", Some(&begin), nodes(&old)).await;
        t.assign(&contact, &begin).await;
        let way = stands_at(&t, &campaign, "wait").await;
        pause(&t, &campaign).await;
        t.assign(&other, &begin).await;
        clock.advance(Duration::from_secs(61));
        // Nobody new, and nobody further: the second campaign is led while the first one is held.
        let second = super::campaign(&t, "second", None, vec![exit()]).await;
        enroll(&t, &second, &contact).await;
        ended(&t, &second).await;
        let [held] = &enrollments(&t, &campaign).await[..] else { panic!("one way") };
        assert_eq!((held.node_key.as_str(), held.due_time), ("wait", way.due_time));
        let mut edited = draft("c", Some(&begin), nodes(&new));
        edited.id.clone_from(&campaign.id);
        let update_mask = mask(&["nodes"]);
        let request =
            taghook_client::v1::UpdateCampaignRequest { campaign: Some(edited), update_mask, ..Default::default() };
        t.client.campaigns().update_campaign(request).await.unwrap();
        activate(&t, &campaign).await;
        assert_eq!(ended(&t, &campaign).await[0].state(), State::Finished);
        assert_eq!(t.held_tags(&contact).await, [begin.id.as_str(), &new.id]);
    }

    async fn what_was_held_is_spread_over_time(timed: Timed) {
        let Timed { t, clock } = timed;
        let begin = t.tag("begin").await;
        let campaign = campaign(&t, "c", Some(&begin), vec![node("wait", "exit", wait(60)), exit()]).await;
        for index in 0..5 {
            let contact = t.contact(&format!("c{index}@example.com")).await;
            t.assign(&contact, &begin).await;
        }
        within("all at the wait", async {
            while enrollments(&t, &campaign).await.iter().any(|way| way.step_count != 0 || way.due_time.is_none()) {}
        })
        .await;
        pause(&t, &campaign).await;
        clock.advance(Duration::from_secs(3_600));
        // The engine takes them out of its queue one batch after the other.
        within("all held", async {
            while rows(&t, "parked = TRUE").await < 5 {}
        })
        .await;
        activate(&t, &campaign).await;
        within("the first", async {
            while enrollments(&t, &campaign).await.iter().filter(|way| way.state() == State::Finished).count() < 1 {}
        })
        .await;
        // The clock stands: the others are due two milliseconds apart.
        let mut due: Vec<_> = enrollments(&t, &campaign).await.iter().filter_map(|way| way.due_time).collect();
        due.sort_unstable_by_key(|time| (time.seconds, time.nanos));
        let apart: Vec<_> = due.iter().map(|time| clock.until(*time)).collect();
        assert_eq!(apart, [2, 4, 6, 8].map(Duration::from_millis));
        clock.advance(Duration::from_millis(8));
        ended(&t, &campaign).await;
    }

    async fn who_is_in_enters_once_and_who_may_not_again_never(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let begin = t.tag("begin").await;
        let waits = campaign(&t, "waits", Some(&begin), vec![node("wait", "exit", wait(600)), exit()]).await;
        let mut once = draft("once", Some(&begin), vec![exit()]);
        once.reentry = Reentry::Never.into();
        let once = activate(&t, &create(&t, once).await).await;
        let often = campaign(&t, "often", Some(&begin), vec![exit()]).await;
        for round in 1..=2 {
            t.assign(&contact, &begin).await;
            within("the ways", async { while ended(&t, &often).await.len() < round {} }).await;
        }
        assert_eq!((enrollments(&t, &waits).await.len(), ended(&t, &once).await.len()), (1, 1));
        let again = enroll(&t, &waits, &contact).await;
        assert_eq!((again.newly_enrolled, again.enrollment.unwrap().state()), (false, State::Running));
        let again = enroll(&t, &once, &contact).await;
        assert_eq!((again.newly_enrolled, again.enrollment.unwrap().state()), (false, State::Finished));

        let request =
            ExitContactRequest { campaign_id: waits.id.clone(), contact: by_id(&contact.id), ..Default::default() };
        let exited = t.client.campaigns().exit_contact(request.clone()).await.unwrap().into_inner();
        assert_eq!(exited.state(), State::Exited);
        check_error(t.client.campaigns().exit_contact(request).await, Code::NotFound, ErrorReason::NotFound);
        assert!(enroll(&t, &waits, &contact).await.newly_enrolled);
    }

    async fn campaigns_start_and_stop_each_other(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let waits = campaign(&t, "waits", None, vec![node("wait", "exit", wait(600)), exit()]).await;
        let starts = campaign(&t, "starts", None, vec![node("start", "exit", start(&waits)), exit()]).await;
        let stops = campaign(&t, "stops", None, vec![node("stop", "exit", stop(&waits)), exit()]).await;
        enroll(&t, &starts, &contact).await;
        stands_at(&t, &waits, "wait").await;
        enroll(&t, &stops, &contact).await;
        assert_eq!(ended(&t, &waits).await[0].state(), State::Exited);
        ended(&t, &stops).await;
    }

    async fn who_begins_to_wait_and_is_stopped_at_the_same_moment_is_out(t: Taghook) {
        let (contact, begin) = (t.contact("ada@example.com").await, t.tag("begin").await);
        let waits = campaign(&t, "waits", Some(&begin), vec![node("wait", "exit", wait(600)), exit()]).await;
        let nodes = vec![go_to("first", "stop"), node("stop", "exit", stop(&waits)), exit()];
        let stops = campaign(&t, "stops", Some(&begin), nodes).await;
        t.assign(&contact, &begin).await;
        ended(&t, &stops).await;
        assert_eq!(ended(&t, &waits).await[0].state(), State::Exited);
    }

    async fn who_ends_and_is_stopped_at_the_same_moment_ends_once(t: Taghook) {
        let (contact, begin) = (t.contact("ada@example.com").await, t.tag("begin").await);
        let rule = SmartRule { event_type: "campaign.finished".into(), ..Default::default() };
        let heard = Tag { name: "f".into(), kind: tag::Kind::Smart.into(), rule: Some(rule), ..Default::default() };
        let request = CreateTagRequest { tag: Some(heard), ..Default::default() };
        let heard = t.client.tags().create_tag(request).await.unwrap().into_inner();
        let mut receiver = Receiver::start().await;
        t.webhook(&receiver, &heard, |webhook| webhook.cooldown = seconds(0)).await;
        let short = campaign(&t, "short", Some(&begin), vec![exit()]).await;
        let nodes = vec![go_to("first", "stop"), node("stop", "exit", stop(&short)), exit()];
        let stops = campaign(&t, "stops", Some(&begin), nodes).await;
        t.assign(&contact, &begin).await;
        ended(&t, &stops).await;
        assert_eq!(ended(&t, &short).await[0].state(), State::Finished);
        assert_eq!(t.told(&contact, Kind::CampaignEnded).await.len(), 2);
        // Each end was heard, and once.
        assert_eq!(t.deliveries(DeliveryFilter::default()).await.len(), 2);
        receiver.recv().await;
        receiver.recv().await;
    }

    async fn a_value_that_a_contact_has_no_room_for_is_not_set_and_told(t: Taghook) {
        let long = "x".repeat(65_000);
        let keys: Vec<_> = (0..9).map(|index| format!("notes{index}")).collect();
        for key in &keys {
            t.custom_field(key, ValueType::Paragraph).await;
        }
        let values: Vec<_> = keys[..8].iter().map(|key| (key.as_str(), long.as_str())).collect();
        let contact = t.contact_with("ada@example.com", &values).await;
        let nodes = vec![node("set", "city", set(&keys[8], &long)), node("city", "exit", set("city", "Ulm")), exit()];
        let campaign = campaign(&t, "c", None, nodes).await;
        enroll(&t, &campaign, &contact).await;
        assert_eq!(ended(&t, &campaign).await[0].state(), State::Finished);
        let [Entry::CampaignStepFailed(failed)] = &t.told(&contact, Kind::CampaignStepFailed).await[..] else {
            panic!("one step failed")
        };
        assert_eq!((&*failed.node_key, &*failed.error), ("set", "its contact has no room for the value"));
    }

    async fn smart_tags_hear_of_campaigns(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let smart = async |name: &str, event_type: &str| {
            let attributes = vec![AttributeMatch { name: "name".into(), value: "heard".into() }];
            let rule = SmartRule { event_type: event_type.into(), attributes, condition: String::new() };
            let tag = Tag { name: name.into(), kind: tag::Kind::Smart.into(), rule: Some(rule), ..Default::default() };
            let request = CreateTagRequest { tag: Some(tag), ..Default::default() };
            t.client.tags().create_tag(request).await.unwrap().into_inner()
        };
        let (started, finished) = (smart("s", "campaign.started").await, smart("f", "campaign.finished").await);
        let campaign = campaign(&t, "heard", None, vec![exit()]).await;
        enroll(&t, &campaign, &contact).await;
        ended(&t, &campaign).await;
        assert_eq!(t.held_tags(&contact).await, [started.id.as_str(), &finished.id]);
    }

    async fn a_circle_of_campaigns_ends(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let (ping, pong) = (t.tag("ping").await, t.tag("pong").await);
        let other = |tag: &Tag| vec![node("other", "exit", assign(tag)), exit()];
        let first = campaign(&t, "first", Some(&ping), other(&pong)).await;
        let second = campaign(&t, "second", Some(&pong), other(&ping)).await;
        t.assign(&contact, &ping).await;
        within("the end of the circle", async {
            while t.told(&contact, Kind::CampaignHeldBack).await.is_empty() {}
        })
        .await;
        assert_eq!((ended(&t, &first).await.len(), ended(&t, &second).await.len()), (5, 4));
    }

    async fn what_is_gone_is_passed_over_and_told(t: Taghook) {
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let (never, done) = (t.tag("never").await, t.tag("done").await);
        let webhook = t.webhook(&receiver, &never, |webhook| webhook.cooldown = seconds(0)).await;
        let nodes = vec![
            node("call", "ask", call(&webhook)),
            ask("ask", "contact.fields.city == 'Bonn'", "exit", "tag"),
            node("tag", "exit", assign(&done)),
            exit(),
        ];
        let campaign = campaign(&t, "c", None, nodes).await;
        let request = DeleteWebhookRequest { id: webhook.id, ..Default::default() };
        t.client.webhooks().delete_webhook(request).await.unwrap();
        enroll(&t, &campaign, &contact).await;
        assert_eq!(ended(&t, &campaign).await[0].state(), State::Finished);
        assert_eq!(t.held_tags(&contact).await, [done.id.as_str()]);
        assert_eq!(t.told(&contact, Kind::CampaignStepFailed).await.len(), 2);
        assert_eq!(receiver.count(), 0);
    }

    async fn deleted_contacts_and_campaigns_leave_nothing(t: Taghook) {
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let campaign = campaign(&t, "c", None, vec![node("wait", "exit", wait(600)), exit()]).await;
        enroll(&t, &campaign, &ada).await;
        enroll(&t, &campaign, &bob).await;
        let request = DeleteContactRequest { id: ada.id.clone(), ..Default::default() };
        t.client.contacts().delete_contact(request).await.unwrap();
        let [left] = &enrollments(&t, &campaign).await[..] else { panic!("one way") };
        assert_eq!(left.contact_id, bob.id);
        let request = DeleteCampaignRequest { id: campaign.id.clone(), ..Default::default() };
        t.client.campaigns().delete_campaign(request).await.unwrap();
        let request = ListEnrollmentsRequest { campaign_id: campaign.id, ..Default::default() };
        check_error(t.client.campaigns().list_enrollments(request).await, Code::NotFound, ErrorReason::NotFound);
        within("no row", async {
            while rows(&t, "TRUE").await > 0 {}
        })
        .await;
    }
}
