//! Contacts by each of their identities.

use taghook::automation::{Assignment, Origin, Recording, run_each};
use taghook::clock::Clock;
use taghook::domain::contact::{Contact, Email, ExternalId, Phone};
use taghook::domain::tag::TagRef;
use taghook::error::Error;
use taghook::ids::{ContactId, EventId, TypedId};
use taghook::store;
use taghook::store::contact::{ContactFilter, ContactRef};

use super::{START, Server, both};

fn email(text: &str) -> ContactRef {
    ContactRef::Email(Email::parse(text).unwrap())
}

fn phone(text: &str) -> ContactRef {
    ContactRef::Phone(Phone::parse(text).unwrap())
}

fn external_id(text: &str) -> ContactRef {
    ContactRef::ExternalId(ExternalId::parse(text).unwrap())
}

impl Server {
    /// Changes a contact, as an update does.
    async fn change(&self, id: ContactId, change: impl Fn(&mut Contact)) -> Result<(), Error> {
        let (workspace, change) = (self.workspace, &change);
        let write = |tx: store::Tx| async move {
            let mut contact = store::contact::lock(&tx, workspace, &ContactRef::Id(id)).await?.unwrap();
            change(&mut contact);
            contact.version += 1;
            store::contact::update(&tx, workspace, &contact).await
        };
        self.store.write("change", write).await
    }

    /// Ada, with an identity of each kind.
    async fn ada(&self) -> (ContactId, [ContactRef; 4]) {
        let id = self.contact("ada").await;
        let change = |contact: &mut Contact| {
            contact.phone = Phone::parse("+4930123456").ok();
            contact.external_id = ExternalId::parse("crm/7").ok();
        };
        self.change(id, change).await.unwrap();
        (id, [ContactRef::Id(id), external_id("crm/7"), email("ada@example.com"), phone("+4930123456")])
    }
}

#[tokio::test]
async fn every_identity_finds_the_contact() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let (id, references) = server.ada().await;
        server.contact("bob").await;
        let (workspace, db) = (server.workspace, server.store.read());
        let unknown = [external_id("CRM/7"), external_id("crm/7 "), phone("+4930123457")];
        let wanted: Vec<_> = references.iter().chain(&unknown).map(|which| (workspace, which.clone())).collect();
        let found = store::contact::find_many(db, &wanted).await.unwrap();
        for which in &references {
            assert_eq!(store::contact::get(db, workspace, which).await.unwrap().id, id, "{which:?}");
            assert_eq!(found.get(&(workspace, which.clone())).map(|contact| contact.id), Some(id), "{which:?}");
        }
        assert_eq!(found.len(), references.len());
        for which in &unknown {
            assert!(store::contact::find(db, workspace, which).await.unwrap().is_none(), "{which:?}");
        }
    }
}

#[tokio::test]
async fn tagging_and_recording_take_every_identity() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let ((id, references), tag) = (server.ada().await, server.tag("buyer").await);
        let assignments: Vec<Assignment> = references
            .iter()
            .map(|which| Assignment { contact: which.clone(), ..server.assignment(id, &[tag]) })
            .collect();
        for assigned in server.assign(&assignments).await {
            assert_eq!(assigned.unwrap().contact_id, id);
        }
        let recordings: Vec<Recording> = references
            .iter()
            .map(|which| Recording {
                id: EventId::generate(START, server.store.entropy()),
                workspace_id: server.workspace,
                contact: which.clone(),
                event_type: "mail.opened".into(),
                attributes: None,
                event_time: None,
                origin: Origin::default(),
            })
            .collect();
        let wishes: Vec<_> = recordings.iter().map(|recording| (recording, None)).collect();
        for recorded in run_each(&server.store, &wishes, |_| true).await.unwrap() {
            assert_eq!(recorded.unwrap().contact_id, id);
        }
    }
}

#[tokio::test]
async fn an_identity_belongs_to_one_contact() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let ((ada, _), bob) = (server.ada().await, server.contact("bob").await);
        let take = |field: &'static str| {
            move |contact: &mut Contact| match field {
                "email" => contact.email = Email::parse("ada@example.com").ok(),
                "phone" => contact.phone = Phone::parse("+4930123456").ok(),
                _ => contact.external_id = ExternalId::parse("crm/7").ok(),
            }
        };
        for field in ["email", "phone", "external_id"] {
            match server.change(bob, take(field)).await.unwrap_err() {
                Error::ContactClash { field: named, contact, holder } => {
                    assert_eq!((named, contact, holder), (field, bob.to_string(), ada.to_string()));
                }
                other => panic!("{field}: {other:?}"),
            }
        }
        // An external id is compared byte for byte.
        server.change(bob, |contact| contact.external_id = ExternalId::parse("CRM/7").ok()).await.unwrap();
        let filter = ContactFilter {
            external_ids: vec![ExternalId::parse("CRM/7").unwrap(), ExternalId::parse("none").unwrap()],
            ..Default::default()
        };
        let listed = store::contact::list(server.store.read(), server.workspace, &filter, None, 10).await.unwrap();
        assert_eq!(listed.iter().map(|contact| contact.id).collect::<Vec<_>>(), [bob]);
    }
}

#[tokio::test]
async fn tags_are_named_by_id_and_by_name() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let (contact, tags) = (server.contact("ada").await, [server.tag("buyer").await, server.tag("vip").await]);
        let named = |name: &str| TagRef::Name(name.to_owned());
        let assign = async |tags: Vec<TagRef>| {
            let assignment = Assignment { tags, ..server.assignment(contact, &[]) };
            server.assign(&[assignment]).await.remove(0)
        };
        // One that is named in both ways counts once.
        let assigned = assign(vec![tags[1].into(), named("buyer"), named("vip")]).await.unwrap();
        let ids: Vec<_> = assigned.tags.iter().map(|tag| (tag.tag_id, tag.is_new)).collect();
        assert_eq!(ids, [(tags[1], true), (tags[0], true)]);
        match assign(vec![named("buyer"), named("VIP")]).await.unwrap_err() {
            Error::NotFound { resource, name } => assert_eq!((resource, name.as_str()), ("tag", "VIP")),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_first_identity_that_finds_a_contact_decides() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let ((ada, references), bob) = (server.ada().await, server.contact("bob").await);
        let workspace = server.workspace;
        let first = async |references: &[ContactRef]| {
            let look = |tx: store::Tx| async move { store::contact::lock_first(&tx, workspace, references).await };
            server.store.write("look", look).await.unwrap().map(|contact| contact.id)
        };
        assert_eq!(first(&[external_id("none"), email("bob@example.com"), references[3].clone()]).await, Some(bob));
        assert_eq!(first(&[references[3].clone(), email("bob@example.com")]).await, Some(ada));
        assert_eq!(first(&[external_id("none"), phone("+4930999999")]).await, None);
        assert_eq!(first(&[]).await, None);
    }
}
