//! The deployment's own keys: the wrong one is refused, and each can be replaced, whatever happens meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use sea_orm::ConnectionTrait;
use taghook::clock::Clock;
use taghook::config::KeyText;
use taghook::error::Error;
use taghook::secrets::{MasterKey, Sealer};
use taghook::store::{self, Tx, reseal};
use taghook::{Environment, Server};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::webhook::Header;
use taghook_client::v1::{ErrorReason, ListWorkspacesRequest, OutcomeFilter, SignatureScheme, Webhook};
use taghook_client::{Code, Start};

use crate::store::Server as StoreServer;
use crate::support::{Database, Process, Receiver, Taghook, Watch, both, check_error, within};

/// The key of this text, base64 of 32 bytes.
const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaU=";

/// Runs a command of `taghook keys` to its end.
async fn keys(database: &Database, command: &str, environment: &[(&str, &str)]) -> Output {
    let mut process = Process::command(&["keys", command]);
    process
        .envs(environment.iter().copied())
        .env("TAGHOOK_DATA_DIR", database.folder())
        .env("TAGHOOK_DATABASE_URL", database.url());
    within("the end of the command", process.output()).await.expect("the program")
}

/// The same, which must succeed; what it says.
async fn keys_ok(database: &Database, command: &str, environment: &[(&str, &str)]) -> String {
    let output = keys(database, command, environment).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The same, which must fail; what it says.
async fn keys_refused(database: &Database, command: &str, environment: &[(&str, &str)]) -> String {
    let output = keys(database, command, environment).await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

/// Why a server doesn't start.
async fn refusal(database: &Database) -> String {
    let settings = database.settings();
    match Server::start(&settings.config, Environment::system()).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

fn file(database: &Database, name: &str) -> PathBuf {
    database.folder().join(name)
}

fn read(database: &Database, name: &str) -> String {
    fs::read_to_string(file(database, name)).expect("a key file").trim().to_owned()
}

/// The key files of the data folder but those of API keys, sorted.
fn master_key_files(database: &Database) -> Vec<String> {
    let names = fs::read_dir(database.folder()).expect("the data folder");
    let names = names.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("secret.key")).collect();
    names.sort();
    names
}

/// Where the key of a text is kept once it was replaced.
fn former_name(key: &str) -> String {
    format!("secret.key.{}", Sealer::new(&MasterKey::parse_base64(key).expect("a key")).key_id())
}

/// A webhook that is signed by both schemes and has a sensitive header.
async fn webhook(t: &Taghook, receiver: &Receiver) -> Webhook {
    let tag = t.tag("customer").await;
    t.webhook(receiver, &tag, |webhook| {
        webhook.signature_schemes = vec![SignatureScheme::V1.into(), SignatureScheme::V1a.into()];
        webhook.headers = vec![Header { name: "x-token".into(), value: "hush".into(), sensitive: true }];
    })
    .await
}

/// Whether all that is sealed of the webhook is as it was.
async fn check_sends(t: &Taghook, receiver: &mut Receiver, webhook: &Webhook, secrets: &[String]) {
    let contact = t.contact(&format!("c{}@example.com", receiver.count())).await;
    t.test(webhook, &contact).await;
    let received = receiver.recv().await;
    assert_eq!(received.header("x-token"), "hush");
    let shared = secrets.iter().find(|secret| secret.starts_with("whsec_")).expect("a shared one");
    for key in [shared, &webhook.public_keys[0]] {
        received.verify(key).expect("a signature");
    }
    assert_eq!(values(t, webhook).await, secrets);
}

async fn values(t: &Taghook, webhook: &Webhook) -> Vec<String> {
    t.secrets(webhook).await.into_iter().map(|secret| secret.value).collect()
}

both! {
    /// Before anything is served; and a start that made a key leaves none that would be refused for ever.
    async fn the_wrong_master_key_is_refused_at_the_start(database: Database) {
        Taghook::start(database.clone(), database.settings()).await.stop().await;
        let right = read(&database, "secret.key");
        fs::write(file(&database, "secret.key"), OTHER).unwrap();
        let told = refusal(&database).await;
        assert!(told.contains("the database belongs to another master key"), "{told}");
        fs::remove_file(file(&database, "secret.key")).unwrap();
        let told = refusal(&database).await;
        assert!(told.contains("the database belongs to another master key"), "{told}");
        assert_eq!(master_key_files(&database), [] as [&str; 0]);
        fs::write(file(&database, "secret.key"), right).unwrap();
        Taghook::start(database.clone(), database.settings()).await.stop().await;
    }

    async fn the_master_key_is_replaced(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut receiver = Receiver::start().await;
        let webhook = webhook(&t, &receiver).await;
        let secrets = values(&t, &webhook).await;
        let cursor = Watch::now(&t.client).await.cursor().to_owned();
        let former = read(&database, "secret.key");
        t.stop().await;

        let told = keys_ok(&database, "rotate-master", &[]).await;
        assert!(told.starts_with("encrypted the secrets of 1 webhooks with the new master key\n"), "{told}");
        let new = read(&database, "secret.key");
        assert_ne!(new, former);
        assert_eq!(read(&database, &former_name(&former)), former);
        assert_eq!(master_key_files(&database), ["secret.key".to_owned(), former_name(&former)]);
        for name in master_key_files(&database) {
            assert_eq!(fs::metadata(file(&database, &name)).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!told.contains(&read(&database, &name)), "keys aren't shown");
        }
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut watch = Watch::with(&t.client, OutcomeFilter::default(), Start::After(cursor)).await;
        check_sends(&t, &mut receiver, &webhook, &secrets).await;
        watch.expect(Kind::Delivered).await;
        drop(watch);
        t.stop().await;

        // The former one opens nothing any more.
        fs::write(file(&database, "secret.key"), former).unwrap();
        let told = refusal(&database).await;
        assert!(told.contains("the database belongs to another master key"), "{told}");
    }

    /// Killed between any two steps: a server starts with what is there, and the command goes on.
    async fn a_replacement_that_was_broken_off_loses_nothing(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut receiver = Receiver::start().await;
        let webhook = webhook(&t, &receiver).await;
        let secrets = values(&t, &webhook).await;
        let former = read(&database, "secret.key");
        t.stop().await;
        let restarted = async || Taghook::start(database.clone(), database.settings()).await;

        // The new key is written, and the database doesn't know it.
        fs::write(file(&database, "secret.key.new"), ONE).unwrap();
        let t = restarted().await;
        check_sends(&t, &mut receiver, &webhook, &secrets).await;
        t.stop().await;
        assert_eq!(read(&database, "secret.key"), former);
        let told = keys_refused(&database, "rotate-master", &[("TAGHOOK_NEW_SECRET_KEY", OTHER)]).await;
        assert!(told.contains("secret.key.new holds another new master key"), "{told}");
        keys_ok(&database, "rotate-master", &[]).await;
        assert_eq!(read(&database, "secret.key"), ONE);

        // The database has the new key, and the file isn't in its place: neither name is changed, or one of them.
        for has_former in [false, true] {
            for by_command in [false, true] {
                fs::rename(file(&database, "secret.key"), file(&database, "secret.key.new")).unwrap();
                fs::write(file(&database, "secret.key"), &former).unwrap();
                if !has_former {
                    fs::remove_file(file(&database, &former_name(&former))).unwrap();
                }
                if by_command {
                    let told = keys_ok(&database, "rotate-master", &[]).await;
                    assert!(told.starts_with("the database has the new master key already\n"), "{told}");
                }
                let t = restarted().await;
                check_sends(&t, &mut receiver, &webhook, &secrets).await;
                t.stop().await;
                assert_eq!(read(&database, "secret.key"), ONE);
                assert_eq!(master_key_files(&database), ["secret.key".to_owned(), former_name(&former)]);
            }
        }
    }

    async fn master_keys_of_the_environment_are_replaced(database: Database) {
        let (one, new) = (("TAGHOOK_SECRET_KEY", ONE), ("TAGHOOK_NEW_SECRET_KEY", OTHER));
        let serve = async |key: &str, new_key: Option<&str>| {
            let text = |key: &str| KeyText(key.to_owned().into());
            let mut settings = database.settings();
            settings.config.secrets.key = Some(text(key));
            settings.config.secrets.new_key = new_key.map(text);
            Taghook::start(database.clone(), settings).await.stop().await;
        };
        serve(ONE, None).await;
        let told = keys_refused(&database, "rotate-master", &[one]).await;
        assert!(told.contains("set TAGHOOK_NEW_SECRET_KEY to the new one"), "{told}");
        let told = keys_refused(&database, "rotate-master", &[one, ("TAGHOOK_NEW_SECRET_KEY", ONE)]).await;
        assert!(told.contains("the new master key is the present one"), "{told}");
        let told = keys_refused(&database, "rotate-master", &[one, ("TAGHOOK_NEW_SECRET_KEY", "x")]).await;
        assert!(told.contains("a master key is standard base64 of 32 bytes"), "{told}");
        let told = keys_refused(&database, "rotate-master", &[]).await;
        assert!(told.contains("there is no master key"), "{told}");
        // With both a server starts before the replacement and after it.
        serve(ONE, Some(OTHER)).await;
        for expected in ["encrypted the secrets of 0 webhooks", "the database has the new master key already"] {
            let told = keys_ok(&database, "rotate-master", &[one, new]).await;
            assert!(told.starts_with(expected), "{told}");
        }
        serve(ONE, Some(OTHER)).await;
        serve(OTHER, None).await;
        assert_eq!(master_key_files(&database), [] as [&str; 0]);
    }

    async fn no_master_key_is_replaced_under_a_server(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut receiver = Receiver::start().await;
        let webhook = webhook(&t, &receiver).await;
        let secrets = values(&t, &webhook).await;
        let key = read(&database, "secret.key");
        let told = keys_refused(&database, "rotate-master", &[]).await;
        let expected = if database.is_postgres() {
            "servers use the database; stop all of them first"
        } else {
            "the data folder is used by another server"
        };
        assert!(told.contains(expected), "{told}");
        check_sends(&t, &mut receiver, &webhook, &secrets).await;
        assert_eq!(read(&database, "secret.key"), key);
        t.stop().await;
        keys_ok(&database, "rotate-master", &[]).await;
    }

    async fn the_root_key_is_replaced(database: Database) {
        let told = keys_refused(&database, "rotate-root", &[]).await;
        assert!(told.contains("the database has no root key yet"), "{told}");
        Taghook::start(database.clone(), database.settings()).await.stop().await;
        let former = database.key("root.key");
        let told = keys_ok(&database, "rotate-root", &[]).await;
        let new = database.key("root.key");
        assert!(new != former && !told.contains(&new), "{told}");
        assert_eq!(fs::metadata(file(&database, "root.key")).unwrap().permissions().mode() & 0o777, 0o600);
        // As if it had been killed before the file was in its place.
        fs::rename(file(&database, "root.key"), file(&database, "root.key.new")).unwrap();
        fs::write(file(&database, "root.key"), &former).unwrap();
        keys_ok(&database, "rotate-root", &[]).await;
        assert_eq!(database.key("root.key"), new);
        assert!(!file(&database, "root.key.new").exists());

        let t = Taghook::start(database.clone(), database.settings()).await;
        let list = ListWorkspacesRequest::default();
        t.root.workspaces().list_workspaces(list.clone()).await.expect("the new key opens");
        let refused = t.client_with(Some(&former)).workspaces().list_workspaces(list).await;
        check_error(refused, Code::Unauthenticated, ErrorReason::Unauthenticated);
        t.tag("the default workspace's key opens as before").await;
    }
}

/// A server that was killed is told from one that lives.
#[tokio::test]
async fn a_killed_server_does_not_keep_the_master_key_from_being_replaced() {
    let database = Database::postgres().await;
    let server = Process::serve(&database).await;
    let tag = server.tag("customer").await;
    server.kill().await;
    keys_ok(&database, "rotate-master", &[]).await;
    let t = Taghook::start(database.clone(), database.settings()).await;
    assert_eq!(t.tag("other").await.name, "other");
    assert!(tag.id.starts_with("tag_"));
}

/// One that others took for dead, and that comes to after the replacement, seals nothing with the key that it still has.
#[tokio::test]
async fn a_server_that_missed_the_replacement_writes_nothing_with_the_former_key() {
    let url = crate::store::postgres().await;
    let missed = StoreServer::open(&url, Clock::system()).await;
    let mut webhook = missed.webhook(&[], |_| {}).await;
    let other = StoreServer::open(&url, Clock::system()).await;
    let bury = format!("DELETE FROM servers WHERE id = '{}'", missed.store.local().server());
    let to = Sealer::new(&MasterKey::parse_base64(ONE).unwrap());
    assert_eq!(reseal::reseal(&other.store, &to).await.unwrap(), None);
    let bury = &bury;
    other.store.write("bury", |tx: Tx| async move { Ok(tx.db().execute_unprepared(bury).await?) }).await.unwrap();
    assert_eq!(reseal::reseal(&other.store, &to).await.unwrap(), Some(1));

    webhook.version += 1;
    let stored = &webhook;
    let update = |tx: Tx| async move { store::webhook::update(&tx, stored).await };
    let refused = missed.store.write("update", update).await;
    assert!(
        matches!(&refused, Err(Error::Internal(source)) if source.to_string().contains("another master key")),
        "{refused:?}"
    );
    let insert = |tx: Tx| async move { store::webhook::insert(&tx, stored).await };
    assert!(matches!(missed.store.write("insert", insert).await, Err(Error::Internal(_))));
    assert_eq!(other.number("SELECT count(*) FROM webhooks").await, 1);
}
