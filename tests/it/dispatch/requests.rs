//! What is sent, byte for byte.

use serde_json::json;
use taghook_client::v1::webhook::Header;
use taghook_client::v1::webhook_event::parameter::Source;
use taghook_client::v1::webhook_event::{DefaultValue, Encoding, Method, Parameter, default_value};
use taghook_client::v1::{Contact, Webhook, WebhookEvent};

use crate::support::{Received, Receiver, Taghook, both};

/// Characters that every encoding treats in its own way.
const AWKWARD: &str = "Zoë 🦊 &=+%\"\\#/?~*";

fn field(name: &str, key: &str) -> Parameter {
    Parameter { name: name.into(), source: Some(Source::ContactField(key.into())), default_value: None }
}

fn with_default(mut parameter: Parameter, value: &str, mode: default_value::Mode) -> Parameter {
    parameter.default_value = Some(DefaultValue { value: value.into(), mode: mode.into() });
    parameter
}

/// Sends one request for a contact by a webhook with one event.
async fn sent(t: &Taghook, contact: &Contact, event: WebhookEvent, change: impl FnOnce(&mut Webhook)) -> Received {
    let mut receiver = Receiver::start().await;
    let tag = t.tag(&receiver.url("")).await;
    let webhook = t
        .webhook(&receiver, &tag, |webhook| {
            webhook.events = vec![event];
            change(webhook);
        })
        .await;
    t.assign(contact, &tag).await;
    let received = receiver.recv().await;
    received.verify(&t.secret(&webhook).await).unwrap();
    received
}

fn event(method: Method, encoding: Encoding, parameters: &[Parameter]) -> WebhookEvent {
    WebhookEvent {
        method: method.into(),
        encoding: encoding.into(),
        parameters: parameters.to_vec(),
        ..Default::default()
    }
}

both! {
    async fn each_encoding_writes_the_same_values(t: Taghook) {
        let values = [("first_name", AWKWARD), ("lead_value", "12.50"), ("birthday", "1815-12-10")];
        let contact = t.contact_with("ada@example.com", &values).await;
        let parameters =
            [field("n", "first_name"), field("v", "lead_value"), field("b", "birthday"), field("empty", "company")];

        let form = sent(&t, &contact, event(Method::Post, Encoding::Form, &parameters), |_| {}).await;
        assert_eq!(form.header("content-type"), "application/x-www-form-urlencoded");
        let expected = [("email", "ada@example.com"), ("n", AWKWARD), ("v", "12.50"), ("b", "1815-12-10"), ("empty", "")];
        assert_eq!(form.form(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(form.text().contains("&n=Zo%C3%AB+%F0%9F%A6%8A+%26%3D%2B%25%22%5C%23%2F%3F%7E*&"), "{}", form.text());

        let json = sent(&t, &contact, event(Method::Post, Encoding::Json, &parameters), |_| {}).await;
        assert_eq!(json.header("content-type"), "application/json");
        let data = json!({"email": "ada@example.com", "n": AWKWARD, "v": 12.5, "b": "1815-12-10", "empty": null});
        assert_eq!(json.json(), data);

        let standard = sent(&t, &contact, event(Method::Post, Encoding::StandardWebhooks, &parameters), |_| {}).await;
        assert_eq!(standard.header("content-type"), "application/json");
        let body = standard.json();
        assert_eq!((&body["type"], &body["data"]), (&json!("contact.tagged"), &data));
        assert!(body["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{body}");

        let get = sent(&t, &contact, event(Method::Get, Encoding::Unspecified, &parameters), |_| {}).await;
        assert_eq!((get.method.as_str(), get.body.len()), ("GET", 0));
        assert_eq!(get.form(), form.form());
        assert_eq!(get.target, format!("/hook?{}", form.text()));
    }

    async fn placeholders_take_values_out_of_a_query(t: Taghook) {
        let contact = t.contact_with("ada@example.com", &[("first_name", "a/b c"), ("city", "Ä&=")]).await;
        let parameters = [field("name", "first_name"), field("city", "city")];
        let set_url = |webhook: &mut Webhook| {
            webhook.url = webhook.url.replace("/hook", "/people/__name__?place=__city__&fixed=1");
        };
        let get = sent(&t, &contact, event(Method::Get, Encoding::Unspecified, &parameters), set_url).await;
        assert_eq!(get.target, "/people/a%2Fb%20c?place=%C3%84%26%3D&fixed=1&email=ada%40example.com");
        let post = sent(&t, &contact, event(Method::Post, Encoding::Form, &parameters), set_url).await;
        assert_eq!(post.target, "/people/a%2Fb%20c?place=%C3%84%26%3D&fixed=1");
        assert_eq!(post.text(), "email=ada%40example.com&name=a%2Fb+c&city=%C3%84%26%3D");
    }

    async fn default_values_fill_or_replace(t: Taghook) {
        use default_value::Mode;
        let contact = t.contact_with("ada@example.com", &[("first_name", "Ada")]).await;
        let parameters = [
            with_default(field("a", "first_name"), "x", Mode::Fallback),
            with_default(field("b", "company"), "x", Mode::Fallback),
            with_default(field("c", "first_name"), "x", Mode::Fixed),
            Parameter { name: "d".into(), source: Some(Source::StaticValue("y".into())), default_value: None },
        ];
        let mut event = event(Method::Post, Encoding::Form, &parameters);
        event.email_parameter_name = "mail".into();
        let received = sent(&t, &contact, event, |_| {}).await;
        assert_eq!(received.text(), "mail=ada%40example.com&a=Ada&b=x&c=x&d=y");
    }

    async fn headers_of_the_webhook_are_sent(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let header = |name: &str, value: &str, sensitive| Header { name: name.into(), value: value.into(), sensitive };
        let received = sent(&t, &contact, event(Method::Post, Encoding::Form, &[]), |webhook| {
            webhook.headers = vec![header("X-Source", "crm, \"x\"", false), header("Authorization", "Bearer s", true)];
        })
        .await;
        assert_eq!((received.header("x-source"), received.header("authorization")), ("crm, \"x\"", "Bearer s"));
        assert!(received.header("user-agent").to_lowercase().starts_with("taghook"));
    }
}
