//! Values of contacts and of the system, byte for byte as they arrive.

use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::attempt::ErrorClass;
use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::field::ValueType;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::preview_webhook_request::Target;
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::webhook_event::{Encoding, Method, Parameter, SystemValue};
use taghook_client::v1::{
    Contact, CreateContactRequest, DeliveryReason, ErrorReason, PreviewWebhookRequest, TestWebhookRequest, WebhookEvent,
};

use crate::support::{Api, Database, Receiver, Taghook, Watch, both, check_error};

fn field(name: &str, key: &str) -> Parameter {
    Parameter { name: name.into(), source: Some(ValueSource::ContactField(key.into())), default_value: None }
}

fn system(name: &str, value: SystemValue) -> Parameter {
    Parameter { name: name.into(), source: Some(ValueSource::SystemValue(value.into())), default_value: None }
}

fn event(method: Method, encoding: Encoding, parameters: &[Parameter]) -> WebhookEvent {
    let parameters = parameters.to_vec();
    WebhookEvent { method: method.into(), encoding: encoding.into(), parameters, ..Default::default() }
}

/// Contact and parameters that have something of each kind.
async fn of_each_kind(api: &Api) -> (Contact, Vec<Parameter>) {
    for (key, r#type) in [
        ("notes", ValueType::Paragraph),
        ("age", ValueType::Integer),
        ("vip", ValueType::Boolean),
        ("seen", ValueType::Datetime),
    ] {
        api.custom_field(key, r#type).await;
    }
    let values = [
        ("notes", "\"a\"\n🦊&=+%"),
        ("age", "-36"),
        ("vip", "true"),
        ("lead_value", "12.50"),
        ("seen", "2025-12-31T23:00:00+02:00"),
        ("birthday", "1815-12-10"),
    ];
    let contact = api.contact_with("ada@example.com", &values).await;
    let parameters = ["notes", "age", "vip", "lead_value", "seen", "birthday", "company"];
    (contact, parameters.iter().map(|key| field(key, key)).collect())
}

both! {
    async fn each_type_of_field_is_written_as_documented(database: Database) {
        let (settings, _clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let (contact, parameters) = of_each_kind(&t).await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| {
            webhook.events = vec![
                event(Method::Post, Encoding::Form, &parameters),
                event(Method::Post, Encoding::Json, &parameters),
                event(Method::Post, Encoding::StandardWebhooks, &parameters),
                event(Method::Get, Encoding::Unspecified, &parameters),
            ];
        })
        .await;
        t.assign(&contact, &tag).await;

        let form = "email=ada%40example.com&notes=%22a%22%0A%F0%9F%A6%8A%26%3D%2B%25&age=-36&vip=true&lead_value=12.50\
            &seen=2025-12-31T21%3A00%3A00Z&birthday=1815-12-10&company=";
        let json = "{\"email\":\"ada@example.com\",\"notes\":\"\\\"a\\\"\\n🦊&=+%\",\"age\":-36,\"vip\":true,\
            \"lead_value\":12.50,\"seen\":\"2025-12-31T21:00:00Z\",\"birthday\":\"1815-12-10\",\"company\":null}";
        let standard =
            format!("{{\"type\":\"contact.tagged\",\"timestamp\":\"2026-01-01T00:00:00Z\",\"data\":{json}}}");
        let mut expected = [
            ("POST".to_owned(), "/hook".to_owned(), form.to_owned()),
            ("POST".to_owned(), "/hook".to_owned(), json.to_owned()),
            ("POST".to_owned(), "/hook".to_owned(), standard),
            ("GET".to_owned(), format!("/hook?{form}"), String::new()),
        ];
        let received = receiver.recv_all(4).await;
        let mut found: Vec<_> = received
            .iter()
            .map(|received| (received.method.clone(), received.target.clone(), received.text().to_owned()))
            .collect();
        // The four go out together, in any order.
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    async fn the_system_tells_what_it_knows(database: Database) {
        let (settings, _clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let parameters = [
            system("contact", SystemValue::ContactId),
            system("tag", SystemValue::ActivationTag),
            system("tag_time", SystemValue::TagTime),
            system("time", SystemValue::TriggerTime),
            system("delivery", SystemValue::DeliveryId),
            system("webhook", SystemValue::WebhookName),
            system("campaign", SystemValue::CampaignName),
        ];
        t.webhook(&receiver, &tag, |webhook| {
            webhook.events = vec![event(Method::Post, Encoding::Json, &parameters)];
        })
        .await;
        let tagged = t.assign(&contact, &tag).await;
        let (contact, delivery) = (&contact.id, &tagged.triggers[0].delivery_ids[0]);
        let expected = format!(
            "{{\"email\":\"ada@example.com\",\"contact\":\"{contact}\",\"tag\":\"customer\",\
             \"tag_time\":\"2026-01-01T00:00:00Z\",\"time\":\"2026-01-01T00:00:00Z\",\"delivery\":\"{delivery}\",\
             \"webhook\":\"test\",\"campaign\":null}}"
        );
        assert_eq!(receiver.recv().await.text(), expected);
    }

    /// The e-mail is there, though empty; the field `phone` falls back to the contact's number.
    async fn a_contact_may_have_only_a_phone(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = Contact { phone: "+44 20 7946 0123".into(), ..Default::default() };
        let request = CreateContactRequest { contact: Some(contact), ..Default::default() };
        let contact = t.client.contacts().create_contact(request).await.expect("a contact").into_inner();
        let tag = t.tag("customer").await;
        let parameters = [field("phone", "phone")];
        t.webhook(&receiver, &tag, |webhook| {
            webhook.events = vec![event(Method::Post, Encoding::Form, &parameters)];
        })
        .await;
        t.assign(&contact, &tag).await;
        assert_eq!(receiver.recv().await.text(), "email=&phone=%2B442079460123");
    }

    /// A value as large as a field can hold passes in a body, and is too much for a URL.
    async fn a_large_value_fits_a_body_but_no_url(t: Taghook) {
        let mut receiver = Receiver::start().await;
        t.custom_field("notes", ValueType::Paragraph).await;
        let large = "x".repeat(64 * 1024);
        let contact = t.contact_with("ada@example.com", &[("notes", &large)]).await;
        let tag = t.tag("customer").await;
        let parameters = [field("notes", "notes")];
        t.webhook(&receiver, &tag, |webhook| {
            webhook.events = vec![
                event(Method::Post, Encoding::Form, &parameters),
                event(Method::Get, Encoding::Unspecified, &parameters),
            ];
        })
        .await;
        let mut watch = Watch::now(&t.client).await;
        let tagged = t.assign(&contact, &tag).await;
        let received = receiver.recv().await;
        assert_eq!(received.text(), format!("email=ada%40example.com&notes={large}"));
        let outcomes = [watch.next().await, watch.next().await];
        let exhausted = outcomes.iter().find(|outcome| outcome.kind() == Kind::Exhausted).expect("the GET");
        assert_eq!(exhausted.reason(), DeliveryReason::RequestTooLarge);
        assert_eq!(exhausted.delivery_id, tagged.triggers[0].delivery_ids[1]);
        let delivery = t.delivery(&exhausted.delivery_id).await;
        assert_eq!((delivery.state(), delivery.next_attempt_time), (State::Exhausted, None));
        assert_eq!(receiver.count(), 1);
    }

    /// The URL may have 8,000 bytes, and not one more.
    async fn the_limit_of_a_url_is_exact(t: Taghook) {
        let mut receiver = Receiver::start().await;
        t.custom_field("notes", ValueType::Paragraph).await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| {
            webhook.url = receiver.url("/__notes__");
            webhook.events = vec![event(Method::Post, Encoding::Form, &[field("notes", "notes")])];
        })
        .await;
        let mut watch = Watch::now(&t.client).await;
        let room = 8_000 - receiver.url("/").len();
        let fits = t.contact_with("ada@example.com", &[("notes", &"x".repeat(room))]).await;
        t.assign(&fits, &tag).await;
        assert_eq!(receiver.recv().await.target, format!("/{}", "x".repeat(room)));
        watch.expect(Kind::Delivered).await;
        let over = t.contact_with("bob@example.com", &[("notes", &"x".repeat(room + 1))]).await;
        t.assign(&over, &tag).await;
        assert_eq!(watch.expect(Kind::Exhausted).await.reason(), DeliveryReason::RequestTooLarge);
        assert_eq!(receiver.count(), 1);
    }

    /// No value leads out of the folder that the URL's author chose; nothing is sent.
    async fn no_value_makes_a_dot_segment(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| {
            webhook.url = receiver.url("/people/__name__/mail");
            webhook.events = vec![event(Method::Post, Encoding::Form, &[field("name", "first_name")])];
        })
        .await;
        let mut watch = Watch::now(&t.client).await;
        for (number, value) in [".", "..", "%2e", "%2E%2e", ".%2e", "%252e", "../admin", "a/../b"].iter().enumerate() {
            let contact = t.contact_with(&format!("{number}@example.com"), &[("first_name", value)]).await;
            t.assign(&contact, &tag).await;
            let outcome = watch.expect(Kind::Exhausted).await;
            assert_eq!(outcome.reason(), DeliveryReason::UnsafePath, "{value}");
            let attempt = outcome.attempt.expect("the attempt");
            assert_eq!((attempt.error_class(), attempt.url.as_str()), (ErrorClass::UnsafePath, ""), "{value}");
            // The text explains the rule, dots and all, and doesn't repeat the value.
            let is_dots = value.chars().all(|symbol| symbol == '.');
            assert!(is_dots || !attempt.error_detail.contains(value), "{}", attempt.error_detail);
        }
        assert_eq!((receiver.count(), receiver.connections()), (0, 0));
    }

    async fn a_preview_is_what_is_sent(database: Database) {
        let (settings, _clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let (contact, parameters) = of_each_kind(&t).await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/of/__age__?day=__birthday__");
                webhook.events = vec![
                    event(Method::Post, Encoding::Form, &parameters),
                    event(Method::Post, Encoding::Json, &parameters),
                    event(Method::Post, Encoding::StandardWebhooks, &parameters),
                    event(Method::Get, Encoding::Unspecified, &parameters),
                ];
            })
            .await;
        let request = PreviewWebhookRequest {
            target: Some(Target::Id(webhook.id.clone())),
            contact_id: contact.id.clone(),
            ..Default::default()
        };
        let preview = t.client.webhooks().preview_webhook(request).await.expect("a preview").into_inner();
        assert_eq!((receiver.connections(), preview.requests.len()), (0, 4), "a preview sends nothing");

        let tagged = t.assign(&contact, &tag).await;
        let received = receiver.recv_all(4).await;
        for ((rendered, event), delivery_id) in
            preview.requests.iter().zip(&webhook.events).zip(&tagged.triggers[0].delivery_ids)
        {
            let sent = received.iter().find(|received| received.webhook_id() == delivery_id).expect("its request");
            assert_eq!(rendered.webhook_event_id, event.id);
            assert_eq!((&rendered.url, rendered.body.as_str()), (&receiver.url(&sent.target), sent.text()));
            // What a preview leaves out are host, length and the like; what it tells is true.
            for header in &rendered.headers {
                if !header.name.starts_with("webhook-") && header.name != "traceparent" {
                    assert_eq!(sent.header(&header.name), header.value, "{}", header.name);
                }
            }
            assert!(rendered.headers.iter().any(|header| header.name == "webhook-signature"));
        }
    }

    async fn a_preview_says_what_cant_be_sent(t: Taghook) {
        let receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "..")]).await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/__name__");
                webhook.events = vec![event(Method::Post, Encoding::Form, &[field("name", "first_name")])];
            })
            .await;
        let request = PreviewWebhookRequest { target: Some(Target::Id(webhook.id)), contact_id: contact.id, ..Default::default() };
        let preview = t.client.webhooks().preview_webhook(request).await.expect("a preview").into_inner();
        let [rendered] = &preview.requests[..] else { panic!("one request") };
        assert_eq!(rendered.reason(), DeliveryReason::UnsafePath);
        assert_eq!((rendered.url.as_str(), rendered.body.as_str(), rendered.headers.len()), ("", "", 0));

        let unknown = PreviewWebhookRequest {
            target: Some(Target::Id("wh_00000000000000000000000000".into())),
            ..Default::default()
        };
        check_error(t.client.webhooks().preview_webhook(unknown).await, Code::NotFound, ErrorReason::NotFound);
    }

    /// A test sends one request, whatever the cooldown says and without using it, and is never repeated.
    async fn a_test_sends_one_request_and_answers_with_its_attempt(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.events = vec![
                    event(Method::Post, Encoding::Form, &[]),
                    event(Method::Get, Encoding::Unspecified, &[]),
                ];
            })
            .await;
        let request = |webhook_event_id: &str| TestWebhookRequest {
            id: webhook.id.clone(),
            contact: by_id(&contact.id),
            webhook_event_id: webhook_event_id.into(),
            ..Default::default()
        };
        let first = t.client.webhooks().test_webhook(request("")).await.expect("a test").into_inner();
        let (delivery, attempt) = (first.delivery.expect("a delivery"), first.attempt.expect("an attempt"));
        assert_eq!((delivery.source(), delivery.state()), (Source::Test, State::Delivered));
        assert_eq!((attempt.number, attempt.status_code), (1, 200));
        let received = receiver.recv().await;
        assert_eq!((received.webhook_id(), received.text()), (delivery.id.as_str(), "email=ada%40example.com"));
        received.verify(&t.secret(&webhook).await).unwrap();

        receiver.answer(crate::support::Answer::status(500));
        let second = t.client.webhooks().test_webhook(request(&webhook.events[1].id)).await.unwrap().into_inner();
        let (delivery, attempt) = (second.delivery.expect("a delivery"), second.attempt.expect("an attempt"));
        assert_eq!((delivery.state(), delivery.next_attempt_time), (State::Exhausted, None));
        assert_eq!((attempt.error_class(), attempt.status_code), (ErrorClass::HttpStatus, 500));
        assert_eq!(receiver.recv().await.target, "/hook?email=ada%40example.com");

        receiver.answer(crate::support::Answer::ok());
        let tagged = t.assign(&contact, &tag).await;
        assert_eq!(tagged.triggers[0].delivery_ids.len(), 2);
        receiver.recv_all(2).await;
        assert_eq!(receiver.count(), 4);
    }

    /// A test of what can't be built says why, and reaches nobody.
    async fn a_test_tells_why_nothing_was_sent(t: Taghook) {
        let receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "..")]).await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/__name__");
                webhook.events = vec![event(Method::Post, Encoding::Form, &[field("name", "first_name")])];
            })
            .await;
        let tested = t.test(&webhook, &contact).await;
        let (delivery, attempt) = (tested.delivery.expect("a delivery"), tested.attempt.expect("an attempt"));
        assert_eq!((attempt.error_class(), attempt.status_code), (ErrorClass::UnsafePath, 0));
        assert_eq!((delivery.state(), delivery.reason()), (State::Exhausted, DeliveryReason::UnsafePath));
        assert_eq!(receiver.connections(), 0);
    }

    /// Names are the endpoint's business: any text, encoded where it stands.
    async fn names_of_parameters_may_be_any_text(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "Ada")]).await;
        let tag = t.tag("customer").await;
        let names = ["a b", "é&=", "x[]", "🦊", "\"\\\n", "__first_name__", "%2e"];
        let parameters = names.map(|name| field(name, "first_name"));
        let mut events = [Encoding::Form, Encoding::Json].map(|encoding| event(Method::Post, encoding, &parameters));
        events[0].email_parameter_name = "e-mail?".into();
        let get = event(Method::Get, Encoding::Unspecified, &parameters);
        let webhook = t
            .webhook(&receiver, &tag, |webhook| webhook.events = events.into_iter().chain([get]).collect())
            .await;
        let tagged = t.assign(&contact, &tag).await;
        let received = receiver.recv_all(3).await;
        let [form, json, get] = [0, 1, 2].map(|index| {
            let id = &tagged.triggers[0].delivery_ids[index];
            received.iter().find(|received| received.webhook_id() == id).expect("its request")
        });
        let pairs = "a+b=Ada&%C3%A9%26%3D=Ada&x%5B%5D=Ada&%F0%9F%A6%8A=Ada&%22%5C%0A=Ada&__first_name__=Ada&%252e=Ada";
        assert_eq!(form.text(), format!("e-mail%3F=ada%40example.com&{pairs}"));
        assert_eq!(get.target, format!("/hook?email=ada%40example.com&{pairs}"));
        let expected = "{\"email\":\"ada@example.com\",\"a b\":\"Ada\",\"é&=\":\"Ada\",\"x[]\":\"Ada\",\
            \"🦊\":\"Ada\",\"\\\"\\\\\\n\":\"Ada\",\"__first_name__\":\"Ada\",\"%2e\":\"Ada\"}";
        assert_eq!(json.text(), expected);
        let secret = t.secret(&webhook).await;
        for received in &received {
            received.verify(&secret).unwrap();
        }
    }
}
