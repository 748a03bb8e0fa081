//! The port for links: bounds, its life, its log.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{check_leads, check_refused, click};
use crate::support::postgres::Postgres;
use crate::support::{Database, Process, Taghook, both, http, within};

both! {
    async fn a_client_that_is_too_fast_is_asked_to_wait(database: Database) {
        let (mut settings, clock) = database.settings().with_manual_clock();
        settings.config.links.requests_per_second = 2;
        settings.config.links.burst = 3;
        settings.config.links.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        let t = Taghook::start(database, settings).await;
        let (link, contact) = (t.link("sale", "https://shop.example/").await, t.contact("ada@example.com").await);
        let url = t.tracked(&link, &contact).await;
        for _ in 0..3 {
            check_leads(&click(&url).await, "https://shop.example/");
        }
        let answer = click(&url).await;
        check_refused(&answer, 429, &["shop.example"]);
        assert_eq!(answer.header("retry-after"), "2");
        check_refused(&click(&format!("{}/l/x", t.links_base())).await, 429, &[]);
        // Each client of a trusted proxy has a rate of its own; what the client says of others is hearsay.
        check_leads(&http("GET", &url, &[("x-forwarded-for", "198.51.100.1, 198.51.100.7")]).await, "https://shop.example/");
        for _ in 0..2 {
            http("GET", &url, &[("x-forwarded-for", "198.51.100.7")]).await;
        }
        check_refused(&http("GET", &url, &[("x-forwarded-for", "203.0.113.9, 198.51.100.7")]).await, 429, &[]);
        clock.advance(Duration::from_millis(500));
        check_leads(&click(&url).await, "https://shop.example/");
        check_refused(&click(&url).await, 429, &[]);
        assert_eq!(t.clicks(&link).await, [7, 0, 0]);
    }

    async fn a_header_of_strangers_is_not_believed(database: Database) {
        let (mut settings, _clock) = database.settings().with_manual_clock();
        settings.config.links.burst = 1;
        let t = Taghook::start(database, settings).await;
        let link = t.link("sale", "https://shop.example/").await;
        check_leads(&http("GET", &link.short_url, &[("x-forwarded-for", "198.51.100.7")]).await, "https://shop.example/");
        check_refused(&http("GET", &link.short_url, &[("x-forwarded-for", "198.51.100.8")]).await, 429, &[]);
    }

    /// More connections wait until one closes; a stop ends those that are open.
    async fn connections_are_bounded_and_end_with_the_server(database: Database) {
        let mut settings = database.settings();
        settings.config.links.connections = 2;
        let t = Taghook::start(database, settings).await;
        let link = t.link("sale", "https://shop.example/").await;
        let address = t.links_addr().unwrap();
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /l/x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            assert!(within("an answer", stream.read(&mut [0; 1_024])).await.unwrap() > 0);
            open.push(stream);
        }
        let url = link.short_url.clone();
        let waiting = tokio::spawn(async move { click(&url).await });
        let is_early = tokio::time::timeout(Duration::from_millis(200), async { while !waiting.is_finished() { tokio::task::yield_now().await } }).await;
        assert!(is_early.is_err(), "a third connection was served beside two");
        drop(open.pop());
        check_leads(&within("its turn", waiting).await.unwrap(), "https://shop.example/");
        t.stop().await;
        let mut idle = open.remove(0);
        let mut rest = Vec::new();
        within("the end of the idle connection", idle.read_to_end(&mut rest)).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    }

    /// Neither tokens nor contacts are logged, whatever is asked for.
    async fn the_log_has_no_tokens(database: Database) {
        let filter = "debug,hyper=info,h2=info,sqlx=info,tower=info";
        let server = Process::serve_with(&database, &[("TAGHOOK_LOG_FILTER", filter)]).await;
        let link = server.link("sale", "https://shop.example/__first_name__").await;
        let contact = server.contact_with("markmail@example.com", &[("first_name", "MarkName")]).await;
        let dots = server.contact_with("other@example.com", &[("first_name", "..")]).await;
        let url = server.tracked(&link, &contact).await;
        check_leads(&click(&url).await, "https://shop.example/MarkName");
        check_refused(&click(&server.tracked(&link, &dots).await).await, 404, &[]);
        server.delete_contact(&contact).await;
        check_refused(&click(&url).await, 410, &[]);
        let (status, log) = server.terminate().await;
        assert!(status.success());
        let log = log.join("\n");
        let followed = log.lines().filter(|line| line.contains("followed")).collect::<Vec<_>>();
        assert!(followed.len() == 1 && followed[0].contains(&link.id), "{log}");
        let token = url.rsplit_once('/').unwrap().1;
        for secret in [token, "MarkName", "markmail", "shop.example"] {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
        assert!(!followed[0].contains(&contact.id), "{followed:?}");
    }
}

/// A person waits while the database is away, and so does the click.
#[tokio::test]
async fn without_the_database_the_page_tries_again_by_itself() {
    let postgres = Postgres::start();
    let database = Database::on_server(&postgres).await;
    let t = Taghook::start(database.clone(), database.settings()).await;
    let (link, contact) = (t.link("sale", "https://shop.example/").await, t.contact("ada@example.com").await);
    let url = t.tracked(&link, &contact).await;
    check_leads(&click(&url).await, "https://shop.example/");
    postgres.stop();
    let answer = click(&url).await;
    check_refused(&answer, 503, &["shop.example"]);
    assert_eq!(answer.header("retry-after"), "2");
    assert!(answer.body.contains(r#"http-equiv="refresh""#), "{}", answer.body);
    postgres.begin();
    let mut tries = tokio::time::interval(Duration::from_millis(100));
    let followed = async {
        while click(&url).await.status != 302 {
            tries.tick().await;
        }
    };
    within("the database", followed).await;
    assert_eq!(t.clicks(&link).await, [2, 0, 0]);
}
