//! A real browser follows a link.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::counts;
use crate::support::{Answer, Receiver, Taghook, both};

/// Browsers need a while to start.
const PATIENCE: Duration = Duration::from_secs(90);

/// Chromium, which `cargo xtask test --install` has installed.
fn chromium() -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&folders).map(|folder| folder.join("chromium"));
    programs.find(|program| program.is_file()).expect("no chromium on PATH; `cargo xtask test --install` installs it")
}

/// The page that a browser shows in the end.
async fn browse(url: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let run = Command::new(chromium())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--dump-dom", url])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("a page in time").expect("the browser runs");
    let (shown, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{shown}\n{told}", output.status);
    shown.into_owned()
}

both! {
    async fn a_browser_follows_a_link_to_its_target(t: Taghook) {
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::new(200, &[("content-type", "text/html")], "<!doctype html><p>landed</p>"));
        let link = t.link("sale", &receiver.url("/landing/__first_name__?mail=__email__")).await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "Ada Ä")]).await;
        let shown = browse(&t.tracked(&link, &contact).await).await;
        assert!(shown.contains("<p>landed</p>"), "{shown}");
        let landed = receiver.recv().await;
        assert_eq!((landed.method.as_str(), landed.target.as_str()), ("GET", "/landing/Ada%20%C3%84?mail=ada%40example.com"));
        assert!(landed.headers.get("referer").is_none(), "the target isn't told whose link it was: {landed:?}");
        assert_eq!(t.held_tags(&contact).await, [link.tag_id.as_str()]);
        assert_eq!(counts(t.link_stats(&link).await.total), [1, 0, 0]);

        let refused = browse(&format!("{}/l/x", t.links_base())).await;
        assert!(refused.contains("This link leads nowhere."), "{refused}");
    }
}
