//! Signatures: by each scheme, by several secrets, and by none whose time is over.

use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use taghook::store::retention;
use taghook_client::v1::preview_webhook_request::Target;
use taghook_client::v1::webhook_event::parameter::Source;
use taghook_client::v1::webhook_event::{Encoding, Method, Parameter};
use taghook_client::v1::{
    ErrorReason, PreviewWebhookRequest, RotateWebhookSecretRequest, SignatureScheme, Webhook, WebhookEvent,
    WebhookSecret,
};
use taghook_client::{Code, webhook::VerifyError};
use tonic::{Response, Status};

use crate::support::{
    Answer, Api, Database, Hand, OfficialLibrary, Received, Receiver, Taghook, both, check_error, check_invalid,
    delays, mask, seconds, since_start_us,
};

const HOUR: Duration = Duration::from_hours(1);
const HOUR_US: i64 = 3_600_000_000;
const TICK: Duration = Duration::from_micros(1);
const GIVEN: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const GIVEN_PRIVATE: &str = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=";
const GIVEN_PUBLIC: &str = "whpk_ZlN4eg7dSSqi0moX9hQUk3orrOouK3QVQSlJa248c/g=";

fn schemes(schemes: &[SignatureScheme]) -> Vec<i32> {
    schemes.iter().map(|scheme| (*scheme).into()).collect()
}

async fn try_to_rotate(
    t: &Api,
    webhook: &Webhook,
    change: impl FnOnce(&mut RotateWebhookSecretRequest),
) -> Result<Response<WebhookSecret>, Status> {
    let mut request = RotateWebhookSecretRequest { id: webhook.id.clone(), ..Default::default() };
    change(&mut request);
    t.client.webhooks().rotate_webhook_secret(request).await
}

/// Rotates a secret; the values of those that are live then.
async fn rotate(t: &Api, webhook: &Webhook, change: impl FnOnce(&mut RotateWebhookSecretRequest)) -> Vec<String> {
    let rotated = try_to_rotate(t, webhook, change).await.expect("a rotation").into_inner();
    rotated.secrets.into_iter().map(|secret| secret.value).collect()
}

/// The schemes of a request's signatures, in their order.
fn signed_by(received: &Received) -> Vec<&str> {
    let entries = received.header("webhook-signature").split(' ');
    entries.map(|entry| entry.split_once(',').expect("a scheme").0).collect()
}

/// Which of these secrets have signed a request, by their index.
fn signers(received: &Received, keys: &[String]) -> Vec<usize> {
    let verified = |key: &String| match received.verify(key) {
        Ok(()) => true,
        Err(VerifyError::NoMatch) => false,
        Err(error) => panic!("{error}: {received:?}"),
    };
    keys.iter().enumerate().filter(|(_, key)| verified(key)).map(|(index, _)| index).collect()
}

/// A server whose clock stands, a receiver, and a webhook that calls it.
async fn with_clock(database: Database) -> (Taghook, Hand, Receiver, Webhook) {
    let (settings, clock) = database.settings().with_manual_clock();
    let t = Taghook::start(database, settings).await;
    let receiver = Receiver::start().await;
    let tag = t.tag("customer").await;
    let webhook = t.webhook(&receiver, &tag, |_| {}).await;
    (t, clock, receiver, webhook)
}

/// Whether the official library of Rust takes a request for ours; it reads the system's clock.
fn rust_verifies(received: &Received, secret: &str) -> bool {
    let library = standardwebhooks::Webhook::new(secret).expect("a secret");
    library.verify(received.signed(), &received.headers).is_ok()
}

both! {
    /// Form, JSON, Standard Webhooks JSON and a query, each signed by both schemes.
    async fn libraries_of_several_languages_verify_every_kind_of_request(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "Zoë 🦊 = & +%")]).await;
        let tag = t.tag("customer").await;
        let event = |method: Method, encoding: Encoding| WebhookEvent {
            method: method.into(),
            encoding: encoding.into(),
            parameters: vec![Parameter {
                name: "name".into(),
                source: Some(Source::ContactField("first_name".into())),
                default_value: None,
            }],
            ..Default::default()
        };
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/hook/__name__?fixed=%20");
                webhook.signature_schemes = schemes(&[SignatureScheme::V1, SignatureScheme::V1a]);
                webhook.events = vec![
                    event(Method::Post, Encoding::Form),
                    event(Method::Post, Encoding::Json),
                    event(Method::Post, Encoding::StandardWebhooks),
                    event(Method::Get, Encoding::Unspecified),
                ];
            })
            .await;
        let secrets = t.secrets(&webhook).await;
        let secret = &secrets.iter().find(|secret| secret.public_key.is_empty()).expect("a shared one").value;
        let [public_key] = &webhook.public_keys[..] else { panic!("one public key: {webhook:?}") };
        let other_secret = GIVEN;
        t.assign(&contact, &tag).await;
        for received in receiver.recv_all(4).await {
            for library in OfficialLibrary::all() {
                let language = library.language;
                assert_eq!(library.verify(&received, secret).await, Ok(()), "{language}: {received:?}");
                let refused = library.verify(&received, other_secret).await.expect_err(language).to_lowercase();
                assert!(refused.contains("no matching signature found"), "{language}: {refused}");
                if library.knows_v1a {
                    assert_eq!(library.verify(&received, public_key).await, Ok(()), "{language}: {received:?}");
                    let refused = library.verify(&received, GIVEN_PUBLIC).await.expect_err(language).to_lowercase();
                    assert!(refused.contains("no matching signature found"), "{language}: {refused}");
                }
            }
            assert!(rust_verifies(&received, secret) && !rust_verifies(&received, other_secret));
            assert_eq!((received.verify(secret), received.verify(public_key)), (Ok(()), Ok(())));
            assert_eq!(received.verify(GIVEN_PUBLIC), Err(VerifyError::NoMatch));
            let mut changed = received.clone();
            changed.target.push('x');
            changed.body = [&received.body[..], b"x"].concat().into();
            assert_eq!(changed.verify(public_key), Err(VerifyError::NoMatch));
        }
    }

    /// `v1` unless more is said. What an update adds gets a secret, and what it takes away loses its own.
    async fn a_webhook_is_signed_by_the_schemes_that_it_names(t: Taghook) {
        use SignatureScheme::{V1, V1a};
        let mut receiver = Receiver::start().await;
        let (contact, tag) = (t.contact("ada@example.com").await, t.tag("customer").await);
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        assert_eq!((&webhook.signature_schemes, webhook.public_keys.len()), (&schemes(&[V1]), 0));
        let [shared] = &t.secrets(&webhook).await[..] else { panic!("one secret") };
        assert_eq!((shared.signature_scheme(), shared.public_key.as_str(), shared.expire_time), (V1, "", None));
        assert!(shared.value.starts_with("whsec_"));
        t.test(&webhook, &contact).await;
        assert_eq!(signed_by(&receiver.recv().await), ["v1"]);

        let webhook = t.update(&webhook, &["signature_schemes"], |it| it.signature_schemes = schemes(&[V1a, V1])).await;
        assert_eq!(webhook.signature_schemes, schemes(&[V1, V1a]));
        let [private, kept] = &t.secrets(&webhook).await[..] else { panic!("two secrets") };
        assert_eq!((kept, private.signature_scheme(), private.expire_time), (shared, V1a, None));
        assert!(private.value.starts_with("whsk_") && private.public_key.starts_with("whpk_"));
        assert_eq!(webhook.public_keys, [private.public_key.as_str()]);
        t.test(&webhook, &contact).await;
        let received = receiver.recv().await;
        assert_eq!(signed_by(&received), ["v1a", "v1"]);
        let keys = [private.public_key.clone(), shared.value.clone()];
        assert_eq!(signers(&received, &keys), [0, 1]);

        // An update of something else leaves them.
        t.update(&webhook, &["name"], |it| it.name = "other".into()).await;
        let update = taghook_client::v1::UpdateWebhookRequest {
            webhook: Some(Webhook { id: webhook.id.clone(), name: "third".into(), ..Default::default() }),
            update_mask: mask(&["name"]),
            ..Default::default()
        };
        let webhook = t.client.webhooks().update_webhook(update).await.unwrap().into_inner();
        assert_eq!(webhook.signature_schemes, schemes(&[V1, V1a]));
        let webhook = t.update(&webhook, &["signature_schemes"], |it| it.signature_schemes = schemes(&[V1a])).await;
        assert_eq!((&webhook.signature_schemes, &webhook.public_keys[..]), (&schemes(&[V1a]), &keys[..1]));
        t.test(&webhook, &contact).await;
        let received = receiver.recv().await;
        assert_eq!((signed_by(&received), signers(&received, &keys)), (vec!["v1a"], vec![0]));
        // The default is filled in, with a new secret.
        let webhook = t.update(&webhook, &["signature_schemes"], |it| it.signature_schemes.clear()).await;
        assert_eq!((&webhook.signature_schemes, webhook.public_keys.len()), (&schemes(&[V1]), 0));
        assert_ne!(t.secret(&webhook).await, shared.value);
    }

    /// Nothing but the clock ends the former one: no row has changed since.
    async fn a_former_secret_signs_until_its_end(database: Database) {
        let (t, clock, mut receiver, webhook) = with_clock(database).await;
        let contact = t.contact("ada@example.com").await;
        let former = t.secret(&webhook).await;
        clock.advance(HOUR);
        let keys = rotate(&t, &webhook, |_| {}).await;
        assert_eq!((keys.len(), &keys[1]), (2, &former));
        let [new, old] = &t.secrets(&webhook).await[..] else { panic!("two secrets") };
        assert_eq!((since_start_us(new.create_time), new.expire_time), (HOUR_US, None));
        assert_eq!((since_start_us(old.create_time), since_start_us(old.expire_time)), (0, 25 * HOUR_US));
        t.test(&webhook, &contact).await;
        let received = receiver.recv().await;
        assert_eq!((signed_by(&received).len(), signers(&received, &keys)), (2, vec![0, 1]));

        clock.advance(HOUR * 24 - TICK);
        t.test(&webhook, &contact).await;
        assert_eq!(signers(&receiver.recv().await, &keys), [0, 1]);
        clock.advance(TICK);
        t.test(&webhook, &contact).await;
        let received = receiver.recv().await;
        assert_eq!((signed_by(&received).len(), signers(&received, &keys)), (1, vec![0]));
        assert_eq!(t.secrets(&webhook).await.len(), 1);
    }

    /// A delivery that waits is signed with what is live when it is sent.
    async fn each_attempt_is_signed_with_what_is_live_then(database: Database) {
        let (t, clock, mut receiver, webhook) = with_clock(database).await;
        t.update(&webhook, &["retry_policy"], |it| it.retry_policy = delays(&[3_600, 36_000])).await;
        receiver.answer_next([Answer::status(503), Answer::status(503)]);
        let contact = t.contact("ada@example.com").await;
        let mut watch = crate::support::Watch::now(&t.client).await;
        let former = t.secret(&webhook).await;
        t.trigger(&webhook, &contact).await;
        let mut seen = vec![receiver.recv().await];
        let keys = rotate(&t, &webhook, |request| request.overlap = seconds(4 * 3_600)).await;
        for _ in 0..2 {
            let failed = watch.next().await;
            clock.advance_to(failed.next_attempt_time.expect("another attempt"));
            seen.push(receiver.recv().await);
        }
        assert!(seen.iter().all(|received| received.webhook_id() == seen[0].webhook_id()));
        let signers: Vec<_> = seen.iter().map(|received| signers(received, &keys)).collect();
        assert_eq!((signers, &keys[1]), (vec![vec![1], vec![0, 1], vec![0]], &former));
    }

    async fn an_overlap_of_zero_ends_former_secrets_at_once(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (contact, tag) = (t.contact("ada@example.com").await, t.tag("customer").await);
        let webhook = t.webhook(&receiver, &tag, |it| it.signature_schemes = schemes(&[SignatureScheme::V1a])).await;
        let leaked = webhook.public_keys.clone();
        let rotated = try_to_rotate(&t, &webhook, |request| request.overlap = seconds(0)).await.unwrap().into_inner();
        let [new] = &rotated.secrets[..] else { panic!("one secret: {rotated:?}") };
        let shown = t.current(&webhook).await;
        assert_eq!((&shown.public_keys[..], &shown.etag), (&[new.public_key.clone()][..], &rotated.etag));
        t.test(&webhook, &contact).await;
        let received = receiver.recv().await;
        assert_eq!((signers(&received, &shown.public_keys), signers(&received, &leaked)), (vec![0], vec![]));
    }

    async fn a_secret_can_be_given(t: Taghook) {
        use SignatureScheme::{V1, V1a};
        let mut receiver = Receiver::start().await;
        let (contact, tag) = (t.contact("ada@example.com").await, t.tag("customer").await);
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let keys = rotate(&t, &webhook, |request| request.secret = GIVEN.into()).await;
        assert_eq!(keys[0], GIVEN);
        t.test(&webhook, &contact).await;
        assert_eq!(signers(&receiver.recv().await, &keys), [0, 1]);

        for secret in [
            // Twice the same.
            GIVEN,
            // 23 bytes, and 65.
            "whsec_aHVzaGh1c2hodXNoaHVzaGh1c2hodXM=",
            &format!("whsec_{}", "aHVz".repeat(21) + "aHU="),
            "whsec_hush", "whsec_", "hush", "whpk_hush",
            // Ed25519, which the webhook isn't signed by; also with a public key of another seed.
            GIVEN_PRIVATE,
            "whsk_aHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaA==",
        ] {
            let refused = try_to_rotate(&t, &webhook, |request| request.secret = secret.into()).await;
            let error = check_invalid(refused, &["secret"]);
            assert!(!format!("{error:?}").to_lowercase().contains("hush"), "{error:?}");
        }
        let by_v1a = try_to_rotate(&t, &webhook, |request| request.set_signature_scheme(V1a)).await;
        check_invalid(by_v1a, &["signature_scheme"]);

        let webhook = t.update(&webhook, &["signature_schemes"], |it| it.signature_schemes = schemes(&[V1, V1a])).await;
        check_invalid(try_to_rotate(&t, &webhook, |_| {}).await, &["signature_scheme"]);
        let other_scheme = |request: &mut RotateWebhookSecretRequest| {
            request.secret = GIVEN_PRIVATE.into();
            request.set_signature_scheme(V1);
        };
        check_invalid(try_to_rotate(&t, &webhook, other_scheme).await, &["secret"]);
        rotate(&t, &webhook, |request| {
            request.secret = GIVEN_PRIVATE.into();
            request.overlap = seconds(0);
        })
        .await;
        assert_eq!(t.current(&webhook).await.public_keys, [GIVEN_PUBLIC]);
        let keys = rotate(&t, &webhook, |request| {
            request.set_signature_scheme(V1);
            request.overlap = seconds(0);
        })
        .await;
        assert_eq!((keys.len(), keys[1].as_str()), (2, GIVEN_PRIVATE));
        t.test(&webhook, &contact).await;
        let received = receiver.recv().await;
        assert_eq!(signers(&received, &[keys[0].clone(), GIVEN_PUBLIC.into(), GIVEN.into()]), [0, 1]);
    }

    async fn there_is_a_bound_on_live_secrets(database: Database) {
        let (t, clock, mut receiver, webhook) = with_clock(database).await;
        let contact = t.contact("ada@example.com").await;
        for hours in [7, 3, 9, 5] {
            rotate(&t, &webhook, |request| request.overlap = seconds(hours * 3_600)).await;
        }
        let before = t.secrets(&webhook).await;
        let refused = try_to_rotate(&t, &webhook, |_| {}).await;
        let error = check_error(refused, Code::ResourceExhausted, ErrorReason::TooManySecrets);
        assert_eq!((error.metadata["limit"].as_str(), before.len()), ("5", 5));
        assert_eq!(error.metadata["next_expire_time"], "2026-01-01T03:00:00Z");
        assert_eq!(t.secrets(&webhook).await, before);
        let keys: Vec<_> = before.into_iter().map(|secret| secret.value).collect();
        t.test(&webhook, &contact).await;
        assert_eq!(signers(&receiver.recv().await, &keys), [0, 1, 2, 3, 4]);

        clock.advance(HOUR * 3);
        assert_eq!(rotate(&t, &webhook, |_| {}).await.len(), 4);
        assert_eq!(rotate(&t, &webhook, |request| request.overlap = seconds(0)).await.len(), 1);
    }

    async fn a_rotation_is_made_once_for_a_request_id_and_an_etag(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let once = |request: &mut RotateWebhookSecretRequest| {
            request.request_id = "once".into();
            request.etag.clone_from(&webhook.etag);
        };
        let first = rotate(&t, &webhook, once).await;
        assert_eq!(rotate(&t, &webhook, once).await, first);
        let other = try_to_rotate(&t, &webhook, |request| {
            once(request);
            request.overlap = seconds(0);
        });
        check_error(other.await, Code::AlreadyExists, ErrorReason::RequestIdReused);
        let stale = try_to_rotate(&t, &webhook, |request| request.etag.clone_from(&webhook.etag)).await;
        check_error(stale, Code::Aborted, ErrorReason::EtagMismatch);
        assert_eq!(t.secrets(&webhook).await.len(), 2);
        assert_ne!(t.current(&webhook).await.etag, webhook.etag);
    }

    /// By retention; nobody notices, since the etag stays.
    async fn what_has_expired_is_removed_from_the_rows(database: Database) {
        let (t, clock, _receiver, webhook) = with_clock(database).await;
        let length = async || -> i64 {
            let db = t.store().read();
            let sql = "SELECT CAST(length(sealed) AS BIGINT) FROM webhooks";
            let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap().unwrap();
            row.try_get_by_index(0).unwrap()
        };
        let with_one = length().await;
        let keys = rotate(&t, &webhook, |_| {}).await;
        let (with_two, etag) = (length().await, t.current(&webhook).await.etag);
        assert!(with_two > with_one + 60);
        clock.advance(HOUR * 24 - TICK);
        assert_eq!(retention::secrets(t.store()).await.unwrap(), 0);
        assert_eq!(length().await, with_two);
        clock.advance(TICK);
        // The server's own retention may have been quicker.
        retention::secrets(t.store()).await.unwrap();
        assert_eq!(length().await, with_one);
        assert_eq!(retention::secrets(t.store()).await.unwrap(), 0);
        assert_eq!((t.current(&webhook).await.etag, t.secret(&webhook).await), (etag, keys[0].clone()));
    }

    /// A preview looks like a request, and can't be passed off as one.
    async fn a_preview_is_signed_by_the_same_schemes_with_other_secrets(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let both = schemes(&[SignatureScheme::V1, SignatureScheme::V1a]);
        let webhook = t.webhook(&receiver, &tag, |it| it.signature_schemes.clone_from(&both)).await;
        let unwritten = Webhook { id: String::new(), etag: String::new(), ..webhook.clone() };
        let keys: Vec<_> = t.secrets(&webhook).await.into_iter().map(|secret| secret.value).collect();
        for request in [
            PreviewWebhookRequest { target: Some(Target::Id(webhook.id.clone())), ..Default::default() },
            PreviewWebhookRequest { target: Some(Target::Webhook(unwritten)), ..Default::default() },
        ] {
            let preview = t.client.webhooks().preview_webhook(request).await.unwrap().into_inner().requests.remove(0);
            let headers = preview.headers.iter().map(|it| (it.name.parse().unwrap(), it.value.parse().unwrap()));
            let (headers, body) = (headers.collect(), preview.body.clone().into());
            let received = Received { method: "POST".into(), target: "/hook".into(), headers, body };
            let mut signed = signed_by(&received);
            signed.sort_unstable();
            assert_eq!(signed, ["v1", "v1a"]);
            let verifiable = [keys.clone(), webhook.public_keys.clone()].concat();
            let verifiable: Vec<_> = verifiable.into_iter().filter(|key| !key.starts_with("whsk_")).collect();
            assert_eq!((verifiable.len(), signers(&received, &verifiable)), (2, vec![]));
        }
    }
}

/// Another server learns of it before it sends again.
#[tokio::test]
async fn a_rotation_counts_on_every_server() {
    let database = Database::postgres().await;
    let first = Taghook::start(database.clone(), database.settings()).await;
    let second = first.another().await;
    let mut receiver = Receiver::start().await;
    let (contact, tag) = (first.contact("ada@example.com").await, first.tag("customer").await);
    let webhook = first.webhook(&receiver, &tag, |_| {}).await;
    let mut keys = vec![first.secret(&webhook).await];
    for server in [&first, &second, &first] {
        let newest = rotate(server, &webhook, |request| request.overlap = seconds(0)).await.remove(0);
        keys.push(newest);
        for sender in [&first, &second] {
            sender.test(&webhook, &contact).await;
            assert_eq!(signers(&receiver.recv().await, &keys), [keys.len() - 1]);
        }
    }
}
