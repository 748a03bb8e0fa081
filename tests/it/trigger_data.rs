//! The data of the moment: values that a call gives, and the event that set a tag off, in requests and conditions.

use std::collections::BTreeMap;
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;
use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::delivery::State;
use taghook_client::v1::enrollment::State as Enrolled;
use taghook_client::v1::outcome::Kind as OutcomeKind;
use taghook_client::v1::tag::Kind as TagKind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::wait_action::Until;
use taghook_client::v1::webhook::CooldownPolicy;
use taghook_client::v1::webhook_event::default_value::Mode;
use taghook_client::v1::webhook_event::parameter::Source;
use taghook_client::v1::webhook_event::{DefaultValue, Encoding, Parameter};
use taghook_client::v1::{
    self, Campaign, CampaignNode, Contact, DecisionAction, DeliveryReason, ErrorReason, Event, ExitAction, SmartRule,
    Tag, TriggerDecision, WaitAction, Webhook, WebhookAction, WebhookEvent,
};

use crate::support::{
    Api, Database, Hand, Receiver, Taghook, Watch, both, check_error, check_invalid, seconds, within,
};

const HOUR: Duration = Duration::from_hours(1);

fn parameter(name: &str, source: Source) -> Parameter {
    let default_value = Some(DefaultValue { value: "none".into(), mode: Mode::Fallback.into() });
    Parameter { name: name.into(), source: Some(source), default_value }
}

fn value(key: &str) -> Parameter {
    parameter(key, Source::TriggerValue(key.into()))
}

fn attribute(name: &str) -> Parameter {
    parameter(name, Source::EventAttribute(name.into()))
}

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A webhook that posts parameters as JSON.
async fn posting(
    t: &Api,
    receiver: &Receiver,
    tag: &Tag,
    parameters: &[Parameter],
    change: impl FnOnce(&mut Webhook),
) -> Webhook {
    t.webhook(receiver, tag, |webhook| {
        let encoding = Encoding::Json.into();
        webhook.events = vec![WebhookEvent { encoding, parameters: parameters.to_vec(), ..Default::default() }];
        change(webhook);
    })
    .await
}

/// Assigns a tag with values; the decision for the one webhook that it activates.
async fn assign_with(t: &Api, contact: &Contact, tag: &Tag, pairs: &[(&str, &str)]) -> TriggerDecision {
    let request = v1::TagContactRequest {
        contact: by_id(&contact.id),
        tag_ids: vec![tag.id.clone()],
        values: values(pairs),
        ..Default::default()
    };
    let mut tagged = t.client.contacts().tag_contact(request).await.expect("an assignment").into_inner();
    assert_eq!(tagged.triggers.len(), 1, "{tagged:#?}");
    tagged.triggers.remove(0)
}

async fn smart_tag(t: &Api, name: &str, event_type: &str) -> Tag {
    let rule = SmartRule { event_type: event_type.into(), ..Default::default() };
    let tag = Tag { name: name.into(), kind: TagKind::Smart.into(), rule: Some(rule), ..Default::default() };
    let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
    t.client.tags().create_tag(request).await.expect("a smart tag").into_inner()
}

/// Records that a contact paid an amount.
async fn pay(t: &Api, contact: &Contact, amount: f64) {
    let number = Value { kind: Some(Kind::NumberValue(amount)) };
    let order = Struct { fields: [("id".to_owned(), Value { kind: Some(Kind::StringValue("o-7".into())) })].into() };
    let order = Value { kind: Some(Kind::StructValue(order)) };
    let attributes = Struct { fields: [("amount".to_owned(), number), ("order".to_owned(), order)].into() };
    let event = Event { r#type: "shop.paid".into(), attributes: Some(attributes), ..Default::default() };
    let request = v1::RecordEventRequest { contact: by_id(&contact.id), event: Some(event), ..Default::default() };
    t.client.events().record_event(request).await.expect("a recorded event");
}

fn node(key: &str, next: &str, action: Action) -> CampaignNode {
    CampaignNode { key: key.into(), next_key: next.into(), action: Some(action) }
}

fn call(key: &str, next: &str, webhook: &Webhook) -> CampaignNode {
    node(key, next, Action::Webhook(WebhookAction { webhook_id: webhook.id.clone() }))
}

fn wait_an_hour(key: &str, next: &str) -> CampaignNode {
    let duration = prost_types::Duration { seconds: 3_600, nanos: 0 };
    node(key, next, Action::Wait(WaitAction { until: Some(Until::Duration(duration)) }))
}

fn ask(key: &str, condition: &str, then_node: &str, else_node: &str) -> CampaignNode {
    let ask = DecisionAction { condition: condition.into(), then_key: then_node.into(), else_key: else_node.into() };
    node(key, "", Action::Decision(ask))
}

/// An active campaign, which ends at the node `exit`.
async fn campaign(t: &Api, start: Option<&Tag>, mut nodes: Vec<CampaignNode>) -> Campaign {
    nodes.push(node("exit", "", Action::Exit(ExitAction {})));
    let start_tag_id = start.map(|tag| tag.id.clone()).unwrap_or_default();
    let campaign = Campaign { name: "journey".into(), start_tag_id, nodes, ..Default::default() };
    let request = v1::CreateCampaignRequest { campaign: Some(campaign), ..Default::default() };
    let created = t.client.campaigns().create_campaign(request).await.expect("a campaign").into_inner();
    let request = v1::ActivateCampaignRequest { id: created.id, ..Default::default() };
    t.client.campaigns().activate_campaign(request).await.expect("an active campaign").into_inner()
}

async fn enroll_with(t: &Api, campaign: &Campaign, contact: &Contact, pairs: &[(&str, &str)]) {
    let request = v1::EnrollContactRequest {
        campaign_id: campaign.id.clone(),
        contact: by_id(&contact.id),
        values: values(pairs),
        ..Default::default()
    };
    t.client.campaigns().enroll_contact(request).await.expect("an enrollment");
}

/// Waits until the one contact that is in a campaign waits there.
async fn waits(t: &Api, campaign: &Campaign) {
    within("the wait of the contact", async {
        loop {
            let request = v1::ListEnrollmentsRequest { campaign_id: campaign.id.clone(), ..Default::default() };
            let ways = t.client.campaigns().list_enrollments(request).await.expect("enrollments").into_inner();
            let mut running = ways.enrollments.iter().filter(|way| way.state() == Enrolled::Running);
            if running.next().is_some_and(|way| way.due_time != way.create_time) && running.next().is_none() {
                return;
            }
        }
    })
    .await;
}

/// How many rows keep data of triggers.
async fn kept(t: &Taghook) -> i64 {
    let db = t.store().read();
    let sql = "SELECT (SELECT COUNT(*) FROM deliveries WHERE trigger_data IS NOT NULL) \
               + (SELECT COUNT(*) FROM enrollments WHERE trigger_data IS NOT NULL) AS n";
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.expect("the rows");
    row.expect("a count").try_get("", "n").expect("a number")
}

async fn started(database: Database) -> (Taghook, Hand) {
    let (settings, clock) = database.settings().with_manual_clock();
    (Taghook::start(database, settings).await, clock)
}

both! {
    async fn requests_carry_the_values_of_the_call(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = posting(&t, &receiver, &tag, &[value("coupon"), value("order")], |webhook| {
            webhook.cooldown = seconds(0);
        })
        .await;
        let sent = |coupon: &str, order: &str| json!({"email": "ada@example.com", "coupon": coupon, "order": order});

        assign_with(&t, &contact, &tag, &[("coupon", "SPRING"), ("unread", "x")]).await;
        assert_eq!(receiver.recv().await.json(), sent("SPRING", "none"));
        t.assign(&contact, &tag).await;
        assert_eq!(receiver.recv().await.json(), sent("none", "none"));

        let request = v1::TriggerWebhookRequest {
            id: webhook.id.clone(),
            contact: by_id(&contact.id),
            values: values(&[("order", "7"), ("coupon", "")]),
            ..Default::default()
        };
        t.client.webhooks().trigger_webhook(request).await.expect("a trigger");
        assert_eq!(receiver.recv().await.json(), sent("none", "7"));

        let request = v1::UpsertContactRequest {
            contact: Some(Contact { email: "ada@example.com".into(), ..Default::default() }),
            tag_ids: vec![tag.id.clone()],
            values: values(&[("coupon", "UPSERT")]),
            ..Default::default()
        };
        t.client.contacts().upsert_contact(request).await.expect("a contact");
        assert_eq!(receiver.recv().await.json(), sent("UPSERT", "none"));

        let item = |coupon: &str| v1::TagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tag.id.clone()],
            values: values(&[("coupon", coupon)]),
            ..Default::default()
        };
        let request = v1::BatchTagContactsRequest { requests: vec![item("ONE"), item("TWO")] };
        t.client.contacts().batch_tag_contacts(request).await.expect("a batch");
        let mut coupons: Vec<_> =
            receiver.recv_all(2).await.iter().map(|received| received.json()["coupon"].clone()).collect();
        coupons.sort_by_key(ToString::to_string);
        assert_eq!(coupons, ["ONE", "TWO"]);
        assert_eq!(kept(&t).await, 0);
    }

    async fn requests_carry_the_attributes_of_the_event(database: Database) {
        let (t, clock) = started(database).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let paid = smart_tag(&t, "paid", "shop.paid").await;
        let parameters = [attribute("amount"), attribute("order.id"), attribute("order"), attribute("other")];
        posting(&t, &receiver, &paid, &parameters, |_| {}).await;
        let unused = t.tag("unused").await;
        let by_campaign = posting(&t, &receiver, &unused, &parameters, |_| {}).await;
        let way = vec![
            wait_an_hour("wait", "ask"),
            ask("ask", "event.type == 'shop.paid' && event.attributes.amount > 99", "call", "exit"),
            call("call", "exit", &by_campaign),
        ];
        let journey = campaign(&t, Some(&paid), way).await;

        pay(&t, &contact, 99.5).await;
        let expected = json!({
            "email": "ada@example.com", "amount": 99.5, "order.id": "o-7", "order": "{\"id\":\"o-7\"}", "other": "none"
        });
        assert_eq!(receiver.recv().await.json(), expected);
        assert_eq!(kept(&t).await, 1);
        waits(&t, &journey).await;
        clock.advance(HOUR);
        assert_eq!(receiver.recv().await.json(), expected);
    }

    async fn a_deferred_request_carries_the_data_of_its_last_trigger(database: Database) {
        let (t, clock) = started(database).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        posting(&t, &receiver, &tag, &[value("coupon")], |webhook| {
            webhook.cooldown_policy = CooldownPolicy::Defer.into();
            webhook.cooldown = seconds(3_600);
        })
        .await;
        let assign = async |pairs: &[(&str, &str)], expected: Decision| {
            assert_eq!(assign_with(&t, &contact, &tag, pairs).await.decision(), expected);
        };
        assign(&[("coupon", "FIRST")], Decision::Scheduled).await;
        assert_eq!(receiver.recv().await.json()["coupon"], "FIRST");
        assign(&[("coupon", "SECOND")], Decision::Deferred).await;
        assert_eq!(kept(&t).await, 1);
        assign(&[("coupon", "THIRD")], Decision::Deferred).await;
        clock.advance(HOUR);
        assert_eq!(receiver.recv().await.json()["coupon"], "THIRD");
        assert_eq!(kept(&t).await, 0);

        assign(&[("coupon", "FOURTH")], Decision::Deferred).await;
        assign(&[], Decision::Deferred).await;
        clock.advance(HOUR);
        assert_eq!(receiver.recv().await.json()["coupon"], "none");
    }

    async fn an_enrollment_keeps_the_values_until_it_ends(database: Database) {
        let (t, clock) = started(database).await;
        let mut receiver = Receiver::start().await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let unused = t.tag("unused").await;
        let webhook = posting(&t, &receiver, &unused, &[value("coupon")], |_| {}).await;
        let way = vec![
            ask("ask", "has(values.coupon) && values.coupon == 'SPRING'", "wait", "exit"),
            wait_an_hour("wait", "call"),
            call("call", "exit", &webhook),
        ];
        let journey = campaign(&t, None, way).await;
        let mut watch = Watch::now(&t.client).await;
        enroll_with(&t, &journey, &bob, &[("coupon", "AUTUMN")]).await;
        enroll_with(&t, &journey, &ada, &[("coupon", "SPRING")]).await;
        waits(&t, &journey).await;
        clock.advance(HOUR);
        assert_eq!(receiver.recv().await.json(), json!({"email": "ada@example.com", "coupon": "SPRING"}));
        watch.expect(OutcomeKind::Delivered).await;
        assert_eq!((receiver.count(), kept(&t).await), (1, 0));
    }

    async fn the_deletion_of_a_contact_erases_the_data(database: Database) {
        let (t, _clock) = started(database).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = posting(&t, &receiver, &tag, &[value("coupon")], |webhook| {
            webhook.cooldown_policy = CooldownPolicy::Defer.into();
        })
        .await;
        campaign(&t, Some(&tag), vec![wait_an_hour("wait", "call"), call("call", "exit", &webhook)]).await;
        assign_with(&t, &contact, &tag, &[("coupon", "FIRST")]).await;
        receiver.recv().await;
        let deferred = assign_with(&t, &contact, &tag, &[("coupon", "SECOND")]).await;
        assert_eq!((deferred.decision(), kept(&t).await), (Decision::Deferred, 2));

        t.delete_contact(&contact).await;
        assert_eq!(kept(&t).await, 0);
        assert_eq!(t.delivery(&deferred.delivery_ids[0]).await.state(), State::Cancelled);
    }

    async fn a_condition_decides_what_is_sent(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let condition = "contact.status == 'subscribed' && 'customer' in contact.tags && values.plan == 'pro'";
        let webhook = posting(&t, &receiver, &tag, &[value("plan")], |webhook| webhook.condition = condition.into()).await;
        assert_eq!(t.current(&webhook).await.condition, condition);
        let mut watch = Watch::now(&t.client).await;

        for (pairs, reason) in [
            (&[("plan", "free")][..], DeliveryReason::ConditionNotMet),
            (&[], DeliveryReason::ConditionFailed),
        ] {
            let skipped = assign_with(&t, &contact, &tag, pairs).await;
            assert_eq!((skipped.decision(), skipped.reason()), (Decision::Skipped, reason));
            let outcome = watch.expect(OutcomeKind::Skipped).await;
            assert_eq!((outcome.reason(), &outcome.delivery_id), (reason, &skipped.delivery_ids[0]));
            let delivery = t.delivery(&skipped.delivery_ids[0]).await;
            assert_eq!((delivery.state(), delivery.reason(), delivery.parameters.len()), (State::Skipped, reason, 0));
        }
        // Those have used no cooldown.
        assert_eq!(assign_with(&t, &contact, &tag, &[("plan", "pro")]).await.decision(), Decision::Scheduled);
        assert_eq!(receiver.recv().await.json()["plan"], "pro");

        assert_eq!(t.trigger(&webhook, &contact).await.reason(), DeliveryReason::ConditionFailed);
        t.test(&webhook, &contact).await;
        assert_eq!(receiver.recv().await.json()["plan"], "none");

        t.update(&webhook, &["condition"], |webhook| webhook.condition.clear()).await;
        assert_eq!(t.trigger(&webhook, &contact).await.decision(), Decision::Scheduled);
        receiver.recv().await;
    }

    async fn a_campaign_goes_on_where_a_condition_is_not_met(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("unused").await;
        let first = posting(&t, &receiver, &tag, &[], |webhook| webhook.condition = "values.plan == 'pro'".into()).await;
        let second = posting(&t, &receiver, &tag, &[value("plan")], |_| {}).await;
        let journey = campaign(&t, None, vec![call("first", "second", &first), call("second", "exit", &second)]).await;
        let mut watch = Watch::now(&t.client).await;
        enroll_with(&t, &journey, &contact, &[("plan", "free")]).await;
        let skipped = watch.expect(OutcomeKind::Skipped).await;
        assert_eq!((skipped.reason(), &skipped.webhook_id), (DeliveryReason::ConditionNotMet, &first.id));
        assert_eq!(receiver.recv().await.json()["plan"], "free");
        assert_eq!(receiver.count(), 1);
    }

    async fn a_deferred_trigger_is_asked_again_when_it_is_due(database: Database) {
        let (t, clock) = started(database).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("city", "Bonn")]).await;
        let tag = t.tag("customer").await;
        posting(&t, &receiver, &tag, &[], |webhook| {
            webhook.cooldown_policy = CooldownPolicy::Defer.into();
            webhook.cooldown = seconds(3_600);
            webhook.condition = "contact.fields.city == 'Bonn' && values.plan == 'pro'".into();
        })
        .await;
        let assign = async || assign_with(&t, &contact, &tag, &[("plan", "pro")]).await;
        assign().await;
        receiver.recv().await;
        let deferred = assign().await;
        assert_eq!(deferred.decision(), Decision::Deferred);
        t.set_values(&contact, &[("city", "Köln")]).await;
        let mut watch = Watch::now(&t.client).await;
        clock.advance(HOUR);
        let skipped = watch.expect(OutcomeKind::Skipped).await;
        assert_eq!((skipped.reason(), &skipped.delivery_id), (DeliveryReason::ConditionNotMet, &deferred.delivery_ids[0]));
        assert_eq!((receiver.count(), kept(&t).await), (1, 0));
        // Since nothing was sent, no window is open.
        t.set_values(&contact, &[("city", "Bonn")]).await;
        assert_eq!(assign().await.decision(), Decision::Scheduled);
    }

    async fn the_deletion_of_a_contact_is_told_whatever_the_condition_says(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("unused").await;
        posting(&t, &receiver, &tag, &[], |webhook| {
            webhook.on_contact_deleted = true;
            webhook.condition = "values.plan == 'pro'".into();
        })
        .await;
        assert_eq!(t.delete_contact(&contact).await[0].decision(), Decision::Scheduled);
        receiver.recv().await;
    }

    async fn values_that_are_too_many_or_too_large_are_refused(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let half = "x".repeat(32_768);
        let request = |pairs: &[(&str, &str)]| v1::TagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tag.id.clone()],
            values: values(pairs),
            ..Default::default()
        };
        let refused = t.client.contacts().tag_contact(request(&[("a", &half), ("b", &half)])).await;
        check_invalid(refused, &["values"]);
        let refused = t.client.contacts().tag_contact(request(&[("a", "\0")])).await;
        check_invalid(refused, &["values"]);
        let fits = t.client.contacts().tag_contact(request(&[("a", &half), ("b", half.get(2..).unwrap())])).await;
        assert!(fits.is_ok(), "{fits:?}");
        let request = v1::BatchTagContactsRequest {
            requests: vec![request(&[("a", &half), ("b", &half)]), request(&[])],
        };
        let results = t.client.contacts().batch_tag_contacts(request).await.expect("a batch").into_inner().results;
        assert!(matches!(&results[0].result, Some(v1::batch_tag_contacts_response::result::Result::Error(_))), "{results:?}");
        assert!(matches!(&results[1].result, Some(v1::batch_tag_contacts_response::result::Result::Response(_))), "{results:?}");
    }

    async fn a_repeated_request_with_other_values_is_another(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let request = |coupon: &str| v1::TagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tag.id.clone()],
            values: values(&[("coupon", coupon), ("order", "7")]),
            request_id: "once".into(),
            ..Default::default()
        };
        let first = t.client.contacts().tag_contact(request("A")).await.expect("an assignment").into_inner();
        let again = t.client.contacts().tag_contact(request("A")).await.expect("the same").into_inner();
        assert_eq!(first, again);
        let other = t.client.contacts().tag_contact(request("B")).await;
        check_error(other, Code::AlreadyExists, ErrorReason::RequestIdReused);
    }

    async fn a_parameter_is_called_by_its_field_unless_it_has_a_name(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let named = |source| Parameter { name: String::new(), source: Some(source), default_value: None };
        let city = named(Source::ContactField("city".into()));
        let webhook = posting(&t, &receiver, &tag, std::slice::from_ref(&city), |_| {}).await;
        assert_eq!(webhook.events[0].parameters[0].name, "city");

        let create = async |parameters: Vec<Parameter>| {
            let events = vec![WebhookEvent { parameters, ..Default::default() }];
            let webhook =
                Webhook { name: "test".into(), url: receiver.url("/"), events, ..Default::default() };
            t.client.webhooks().create_webhook(v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() }).await
        };
        for source in [
            Source::StaticValue("x".into()),
            Source::SystemValue(1),
            Source::EventAttribute("a".into()),
            Source::TriggerValue("a".into()),
        ] {
            check_invalid(create(vec![named(source)]).await, &["webhook.events[0].parameters[0].name"]);
        }
        check_invalid(create(vec![city.clone(), city]).await, &["webhook.events[0].parameters[1].name"]);
    }

    async fn mistaken_urls_are_refused_with_what_was_meant(t: Taghook) {
        let create = async |url: &str| {
            let webhook = Webhook {
                name: "test".into(),
                url: url.into(),
                events: vec![WebhookEvent::default()],
                ..Default::default()
            };
            t.client.webhooks().create_webhook(v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() }).await
        };
        for url in ["https://127.0.0.1/__ email __", "https://127.0.0.1/__E-Mail__", "https://127.0.0.1/?to=__mail__"] {
            let error = check_invalid(create(url).await, &["webhook.url"]);
            let [violation] = &error.violations[..] else { panic!("{error:?}") };
            assert!(violation.description.contains("did you mean `__email__`? (there are: email)"), "{violation:?}");
        }
        for host in ["...", ".", "a..example"] {
            check_invalid(create(&format!("http://{host}/")).await, &["webhook.url"]);
        }
    }

    async fn blanks_are_no_condition(t: Taghook) {
        let blank = " \n";
        let rule = SmartRule { event_type: "shop.paid".into(), condition: blank.into(), ..Default::default() };
        let tag = Tag { name: "paid".into(), kind: TagKind::Smart.into(), rule: Some(rule), ..Default::default() };
        let refused = t.client.tags().create_tag(v1::CreateTagRequest { tag: Some(tag), ..Default::default() }).await;
        check_blank(refused.expect_err("a refusal"), "tag.rule.condition");

        let nodes = vec![ask("ask", blank, "", "")];
        let journey = Campaign { name: "journey".into(), nodes, ..Default::default() };
        let request = v1::CreateCampaignRequest { campaign: Some(journey), ..Default::default() };
        let refused = t.client.campaigns().create_campaign(request).await;
        check_blank(refused.expect_err("a refusal"), "campaign.nodes[0].decision.condition");

        let webhook = Webhook {
            name: "test".into(),
            url: "https://127.0.0.1/".into(),
            events: vec![WebhookEvent::default()],
            condition: blank.into(),
            ..Default::default()
        };
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        let refused = t.client.webhooks().create_webhook(request).await;
        check_blank(refused.expect_err("a refusal"), "webhook.condition");
    }
}

#[track_caller]
fn check_blank(status: tonic::Status, field: &str) {
    let error = check_invalid(Err::<tonic::Response<()>, _>(status), &[field]);
    assert!(error.violations[0].description.ends_with("must not be blank"), "{error:?}");
}
