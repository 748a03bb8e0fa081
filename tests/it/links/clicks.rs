//! What a click does.

use std::time::Duration;

use taghook::clock::Clock;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::timeline_entry::{Entry, Kind as EntryKind};
use taghook_client::v1::{self, DeliveryFilter, LinkClickedEntry};
use tokio::task::JoinSet;

use super::{check_leads, check_refused, click, counts, refused_for};
use crate::support::{Database, Process, Receiver, Taghook, Watch, both, http, within};

const TARGET: &str =
    "https://shop.example/hello/__first_name__?mail=__email__&tel=__phone__&id=__contact_id__&c=__city__";

both! {
    /// The tag, its webhook, the event and the count come with the redirect.
    async fn a_click_tags_the_contact_and_leads_on(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let link = t.link("sale", TARGET).await;
        t.webhook(&receiver, &t.tag_of(&link).await, |_| {}).await;
        let contact = t.contact_with("Ada+1@example.com", &[("first_name", "A/d ä?&#"), ("phone", "+49301")]).await;
        let url = t.tracked(&link, &contact).await;
        let location = format!(
            "https://shop.example/hello/A%2Fd%20%C3%A4%3F%26%23?mail=ada%2B1%40example.com&tel=%2B49301&id={}&c=",
            contact.id
        );
        check_leads(&click(&url).await, &location);
        assert_eq!(t.held_tags(&contact).await, [link.tag_id.as_str()]);
        assert_eq!(t.clicks(&link).await, [1, 0, 0]);
        let clicked = Entry::LinkClicked(LinkClickedEntry { smart_link_id: link.id.clone() });
        assert_eq!(t.told(&contact, EntryKind::LinkClicked).await, [clicked]);
        assert!(receiver.recv().await.text().contains("ada%2B1%40example.com"));
        // The values are those of the moment, and the tag stays.
        t.set_values(&contact, &[("first_name", "Eve"), ("city", "Berlin")]).await;
        let again = click(&url).await;
        assert!(again.header("location").contains("/hello/Eve?") && again.header("location").ends_with("c=Berlin"));
        assert_eq!(t.clicks(&link).await, [2, 0, 0]);
    }

    /// A hundred clicks, a millisecond apart.
    async fn a_hundred_clicks_are_one_tag_and_one_webhook_call(database: Database) {
        const COUNT: usize = 100;
        let mut receiver = Receiver::start().await;
        let t = Taghook::start(database.clone(), database.settings()).await;
        let link = t.link("sale", TARGET).await;
        let webhook = t.webhook(&receiver, &t.tag_of(&link).await, |_| {}).await;
        let contact = t.contact("ada@example.com").await;
        let url = t.tracked(&link, &contact).await;
        let mut watch = Watch::now(&t.client).await;
        let mut clicks = JoinSet::new();
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        for _ in 0..COUNT {
            pace.tick().await;
            let url = url.clone();
            clicks.spawn(async move { click(&url).await });
        }
        for answer in clicks.join_all().await {
            assert_eq!(answer.status, 302, "{answer:?}");
        }
        assert_eq!(t.held_tags(&contact).await, [link.tag_id.as_str()]);
        assert_eq!(t.clicks(&link).await, [100, 0, 0]);
        assert_eq!(t.told(&contact, EntryKind::LinkClicked).await.len(), COUNT);
        receiver.recv().await;
        let mut kinds = Vec::new();
        for _ in 0..COUNT {
            kinds.push(watch.next().await.kind());
        }
        let of = |kind: Kind| kinds.iter().filter(|is| **is == kind).count();
        assert_eq!((of(Kind::Delivered), of(Kind::Suppressed)), (1, COUNT - 1));
        let filter = DeliveryFilter { webhook_ids: vec![webhook.id.clone()], ..Default::default() };
        let deliveries = t.deliveries(filter).await;
        let sent = deliveries.iter().filter(|delivery| delivery.state() != State::Suppressed).count();
        assert_eq!((sent, receiver.count()), (1, 1));
    }

    /// A smart tag that waits for clicks on a link comes with the redirect as well.
    async fn a_smart_tag_hears_of_clicks(t: Taghook) {
        let attributes = vec![v1::smart_rule::AttributeMatch { name: "name".into(), value: "sale".into() }];
        let rule = v1::SmartRule { event_type: "link.clicked".into(), attributes, ..Default::default() };
        let tag = v1::Tag {
            name: "buyer to be".into(),
            kind: v1::tag::Kind::Smart.into(),
            rule: Some(rule),
            ..Default::default()
        };
        let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
        let smart = t.client.tags().create_tag(request).await.unwrap().into_inner();
        let (sale, other) = (t.link("sale", TARGET).await, t.link("other", TARGET).await);
        let contact = t.contact("ada@example.com").await;
        click(&t.tracked(&other, &contact).await).await;
        assert_eq!(t.held_tags(&contact).await, [other.tag_id.as_str()]);
        click(&t.tracked(&sale, &contact).await).await;
        let mut held = t.held_tags(&contact).await;
        held.sort_unstable();
        let mut expected = [smart.id, sale.tag_id, other.tag_id];
        expected.sort_unstable();
        assert_eq!(held, expected);
    }

    async fn the_short_link_is_everybodys(t: Taghook) {
        let link = t.link("sale", TARGET).await;
        let contact = t.contact("ada@example.com").await;
        let location = "https://shop.example/hello/?mail=&tel=&id=&c=";
        check_leads(&click(&link.short_url).await, location);
        let (base, code) = link.short_url.rsplit_once('/').unwrap();
        check_leads(&click(&format!("{base}/{}", code.to_uppercase())).await, location);
        assert_eq!(t.clicks(&link).await, [0, 2, 0]);
        assert_eq!(t.held_tags(&contact).await, [""; 0]);
        check_refused(&click(&format!("{base}/0000000000")).await, 404, &["0000000000"]);
    }

    /// Whoever isn't a person is led, counted apart, and tags nobody.
    async fn machines_tag_nobody(t: Taghook) {
        let link = t.link("sale", TARGET).await;
        let contact = t.contact("ada@example.com").await;
        let url = t.tracked(&link, &contact).await;
        let person = click(&link.short_url).await;
        let location = format!("https://shop.example/hello/?mail=ada%40example.com&tel=&id={}&c=", contact.id);
        let machines = [
            ("GET", "sec-purpose", "prefetch"),
            ("GET", "Purpose", "prefetch"),
            ("GET", "X-Moz", "prefetch"),
            ("GET", "user-agent", "Mozilla/5.0 (compatible) BingPreview/1.0b"),
            ("GET", "user-agent", "Mozilla/4.0 (compatible; Barracuda Sentinel)"),
            ("GET", "user-agent", "Slackbot-LinkExpanding 1.0"),
            ("GET", "user-agent", "facebookexternalhit/1.1"),
            ("GET", "user-agent", "WhatsApp/2.2"),
            ("HEAD", "user-agent", "Mozilla/5.0"),
        ];
        for (method, name, value) in machines {
            check_leads(&http(method, &url, &[(name, value)]).await, &location);
        }
        let head = http("HEAD", &link.short_url, &[]).await;
        assert_eq!((head.header("location"), head.body.as_str()), (person.header("location"), ""));
        assert_eq!(t.clicks(&link).await, [0, 1, 10]);
        assert_eq!(t.held_tags(&contact).await, [""; 0]);
        assert_eq!(t.told(&contact, EntryKind::LinkClicked).await, []);
        check_leads(&http("GET", &url, &[("user-agent", "Mozilla/5.0 (X11) Chrome/126.0 Safari/537.36")]).await, &location);
        check_leads(&http("GET", &url, &[("user-agent", "curl/8.5.0")]).await, &location);
        assert_eq!(t.clicks(&link).await, [2, 1, 10]);
        assert_eq!(t.held_tags(&contact).await, [link.tag_id.as_str()]);
    }

    async fn clicks_are_counted_by_day(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let link = t.link("sale", TARGET).await;
        let url = t.tracked(&link, &t.contact("ada@example.com").await).await;
        click(&url).await;
        click(&link.short_url).await;
        clock.advance(Duration::from_secs(24 * 60 * 60 - 1));
        click(&url).await;
        clock.advance(Duration::from_secs(1));
        http("HEAD", &url, &[]).await;
        clock.advance(Duration::from_secs(24 * 60 * 60 * 30));
        click(&url).await;
        let ask = async |start_date: &str, end_date: &str| {
            let request = v1::GetSmartLinkStatsRequest { id: link.id.clone(), start_date: start_date.into(), end_date: end_date.into() };
            t.client.smart_links().get_smart_link_stats(request).await
        };
        let days = async |start_date: &str, end_date: &str| {
            let stats = ask(start_date, end_date).await.unwrap().into_inner();
            let days: Vec<_> = stats.days.iter().map(|day| (day.date.clone(), counts(day.clicks))).collect();
            (stats.start_date, stats.end_date, counts(stats.total), days)
        };
        let day = |date: &str, clicks| (date.to_owned(), clicks);
        let (first, second, last) = (day("2026-01-01", [2, 1, 0]), day("2026-01-02", [0, 0, 1]), day("2026-02-01", [1, 0, 0]));
        let expected = |from: &str, to: &str, total, days: &[_]| (from.to_owned(), to.to_owned(), total, days.to_vec());
        assert_eq!(days("", "").await, expected("2026-01-03", "2026-02-01", [1, 0, 0], std::slice::from_ref(&last)));
        assert_eq!(days("2025-02-01", "2026-02-01").await, expected("2025-02-01", "2026-02-01", [3, 1, 1], &[first.clone(), second.clone(), last]));
        assert_eq!(days("2026-01-01", "2026-01-02").await, expected("2026-01-01", "2026-01-02", [2, 1, 1], &[first, second]));
        assert_eq!(days("2026-01-05", "2026-01-05").await, expected("2026-01-05", "2026-01-05", [0, 0, 0], &[]));
        refused_for(ask("2025-01-31", "2026-02-01").await, "end_date");
        refused_for(ask("2026-02-02", "2026-02-01").await, "end_date");
        refused_for(ask("2026-2-1", "").await, "start_date");
        refused_for(ask("", "2026-02-30").await, "end_date");
    }

    /// What was answered is there, whatever happens to the program: it is killed at once after the first of many answers.
    async fn a_kill_after_the_redirect_loses_nothing(database: Database) {
        const ROUNDS: usize = 3;
        let mut server = Process::serve(&database).await;
        let link = server.link("sale", TARGET).await;
        let mut answered = Vec::new();
        for round in 0..ROUNDS {
            let mut urls = Vec::new();
            for number in 0..20 {
                let contact = server.contact(&format!("c{number}@{round}.example")).await;
                urls.push((server.tracked(&link, &contact).await, contact));
            }
            let mut clicks = JoinSet::new();
            for (url, contact) in urls {
                clicks.spawn(async move { (click(&url).await.status, contact) });
            }
            let (status, contact) = within("a redirect", clicks.join_next()).await.unwrap().unwrap();
            server.kill().await;
            assert_eq!(status, 302);
            answered.push(contact);
            clicks.shutdown().await;
            server = Process::serve(&database).await;
        }
        for contact in &answered {
            assert_eq!(server.held_tags(contact).await, [link.tag_id.as_str()], "{}", contact.email);
            assert_eq!(server.told(contact, EntryKind::LinkClicked).await.len(), 1);
        }
        let [counted, ..] = server.clicks(&link).await;
        assert!(usize::try_from(counted).unwrap() >= ROUNDS, "{counted}");
        server.kill().await;
    }

    /// Two servers, one database: each follows what the other has made.
    async fn links_are_good_on_every_server(t: Taghook) {
        if !t.database().is_postgres() {
            return;
        }
        let other = t.another().await;
        let link = t.link("sale", TARGET).await;
        let contact = t.contact("ada@example.com").await;
        let url = t.tracked(&link, &contact).await;
        let elsewhere = url.replace(&t.links_base(), &other.links_base());
        assert_ne!(elsewhere, url);
        let mut clicks = JoinSet::new();
        for number in 0..40 {
            let url = if number % 2 == 0 { url.clone() } else { elsewhere.clone() };
            clicks.spawn(async move { click(&url).await.status });
        }
        assert!(clicks.join_all().await.into_iter().all(|status| status == 302));
        assert_eq!(t.clicks(&link).await, [40, 0, 0]);
        assert_eq!(t.told(&contact, EntryKind::LinkClicked).await.len(), 40);
    }

    async fn urls_outlive_a_restart_and_a_new_master_key(database: Database) {
        let server = Process::serve(&database).await;
        let link = server.link("sale", TARGET).await;
        let contact = server.contact("ada@example.com").await;
        let url = server.tracked(&link, &contact).await;
        let (status, _) = server.terminate().await;
        assert!(status.success());
        let rotated = Process::command(&["keys", "rotate-master"])
            .env("TAGHOOK_DATA_DIR", database.folder())
            .env("TAGHOOK_DATABASE_URL", database.url())
            .output();
        let rotated = within("the rotation", rotated).await.unwrap();
        assert!(rotated.status.success(), "{rotated:?}");
        let mut settings = database.settings();
        settings.clock = Clock::system();
        let t = Taghook::start(database, settings).await;
        let (_, path) = url.split_once("/l/").unwrap();
        let answer = click(&format!("{}/l/{path}", t.links_base())).await;
        assert_eq!(answer.status, 302, "{answer:?}");
        assert_eq!(t.held_tags(&contact).await, [link.tag_id.as_str()]);
    }
}
