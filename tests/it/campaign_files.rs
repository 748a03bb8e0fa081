//! Campaigns as files: `taghook campaigns`.

use std::path::PathBuf;

use taghook_client::contact::by_id;
use taghook_client::v1::campaign::{Reentry, State};
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::{self, Campaign};

use crate::support::{Process, Receiver, Taghook, both, within};

const ALL_ACTIONS: &str = r#"name: Onboarding
description: "The first week: begins #1"
start_tag: customer
reentry: never
nodes:
  - key: welcome
    webhook: CRM
  - key: mark
    assign_tags: [welcomed, "007"]
    next: pause
  - key: pause
    wait: 36h
  - key: birthday
    wait_until: birthday
  - key: ask
    decision:
      if: "'welcomed' in contact.tags && has(contact.fields.city)"
      then: set
      else: bye
  - key: set
    set_field:
      field: company
      value: "1.50"
  - key: clear
    set_field: { field: city }
  - key: unmark
    remove_tags: [welcomed]
  - key: other
    start_campaign: Winback
  - key: stop
    stop_campaign: Winback
  - key: again
    go_to: pause
  - key: bye
    exit: true
"#;

/// A file that waits for a day after its start.
const SMALL: &str = "name: Small\nnodes:\n  - key: day\n    wait: 1d\n  - key: end\n    exit: true\n";

/// The command, against a server, with what it is to read from a file.
struct Command<'a> {
    t: &'a Taghook,
}

impl Command<'_> {
    /// Runs it: whether it went well, and what it said.
    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let address = format!("http://{}", self.t.authority());
        let mut command = Process::command(&["campaigns"]);
        command.args(arguments).env("TAGHOOK_ADDRESS", address).env("TAGHOOK_API_KEY", self.t.key());
        let output = within("the end of the command", command.output()).await.expect("the program");
        let (said, complained) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.success(), complained.is_empty(), "{said}{complained}");
        (output.status.success(), if complained.is_empty() { said } else { complained })
    }

    fn file(&self, text: &str) -> String {
        let path: PathBuf = self.t.database().folder().join("campaign.yaml");
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    async fn apply(&self, text: &str, more: &[&str]) -> (bool, String) {
        let file = self.file(text);
        let (is_good, said) = self.run(&[&["apply", file.as_str()], more].concat()).await;
        (is_good, said.replace(&file, "FILE"))
    }

    async fn applied(&self, text: &str, more: &[&str], expected: &str) {
        let (is_good, said) = self.apply(text, more).await;
        assert!(is_good && said.trim_end() == expected, "{said}");
    }

    /// Applies what is refused; each of the words must be in what is said.
    async fn refused(&self, text: &str, more: &[&str], expected: &[&str]) {
        let (is_good, said) = self.apply(text, more).await;
        assert!(!is_good, "{said}");
        for words in expected {
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
    }

    async fn exported(&self, name: &str) -> String {
        let (is_good, said) = self.run(&["export", name]).await;
        assert!(is_good, "{said}");
        said
    }
}

/// All campaigns there are.
async fn campaigns(t: &Taghook) -> Vec<Campaign> {
    let list = t.client.campaigns().list_campaigns(v1::ListCampaignsRequest::default()).await;
    list.expect("campaigns").into_inner().campaigns
}

/// What the file with all actions names; the start tag's id.
async fn make_named(t: &Taghook) -> String {
    let tag = t.tag("customer").await;
    t.tag("customers").await;
    for name in ["welcomed", "007"] {
        t.tag(name).await;
    }
    t.webhook(&Receiver::start().await, &tag, |webhook| webhook.name = "CRM".into()).await;
    let winback = Campaign { name: "Winback".into(), ..Default::default() };
    let request = v1::CreateCampaignRequest { campaign: Some(winback), ..Default::default() };
    t.client.campaigns().create_campaign(request).await.expect("a campaign");
    tag.id
}

both! {
    async fn a_file_becomes_a_campaign_and_a_campaign_a_file(t: Taghook) {
        let start_tag = make_named(&t).await;
        let command = Command { t: &t };
        command.applied(ALL_ACTIONS, &[], r#"created "Onboarding", a draft; --activate lets contacts enter"#).await;
        let made = campaigns(&t).await.pop().expect("the campaign");
        assert_eq!((made.name.as_str(), made.state(), made.reentry()), ("Onboarding", State::Draft, Reentry::Never));
        assert_eq!((made.description.as_str(), made.start_tag_id), ("The first week: begins #1", start_tag));
        let nexts: Vec<_> = made.nodes.iter().map(|node| (node.key.as_str(), node.next_key.as_str())).collect();
        assert_eq!(nexts[..6], [
            ("welcome", "mark"), ("mark", "pause"), ("pause", "birthday"), ("birthday", "ask"), ("ask", ""), ("set", "clear"),
        ]);
        assert_eq!(nexts[10..], [("again", ""), ("bye", "")]);
        let Some(Action::SetField(set)) = &made.nodes[5].action else { panic!("{:?}", made.nodes[5]) };
        assert_eq!((set.field_key.as_str(), set.value.as_str()), ("company", "1.50"));

        let unchanged = r#""Onboarding" is as the file says, draft; nothing was changed"#;
        command.applied(ALL_ACTIONS, &[], unchanged).await;
        let exported = command.exported("Onboarding").await;
        for line in ["start_tag: customer", "wait: 1d12h", "webhook: CRM", "start_campaign: Winback"] {
            assert!(exported.lines().any(|shown| shown.trim() == line), "no {line:?} in:\n{exported}");
        }
        assert!(!exported.contains("next:"), "what follows in the list isn't said:\n{exported}");
        command.applied(&exported, &[], unchanged).await;
        assert_eq!(command.exported(&made.id).await, exported, "an id finds it as well");
        assert_eq!(campaigns(&t).await.pop().map(|campaign| campaign.etag), Some(made.etag), "it was never written again");
    }

    async fn names_that_are_not_there_are_all_told_with_their_lines(t: Taghook) {
        let tag = t.tag("customer").await;
        for _ in 0..2 {
            t.webhook(&Receiver::start().await, &tag, |webhook| webhook.name = "CRM".into()).await;
        }
        let command = Command { t: &t };
        command.refused(ALL_ACTIONS, &[], &[
            "nothing was changed",
            r#"FILE:6: 2 webhooks have the name "CRM"; give the id of one: wh_"#,
            r#"FILE:8: there is no tag "welcomed"; create it first, or correct the name"#,
            r#"FILE:8: there is no tag "007""#,
            r#"FILE:26: there is no tag "welcomed""#,
            r#"FILE:28: there is no campaign "Winback""#,
        ]).await;
        command.refused("name: X\nstart_tag: custom\n", &[], &[r#"FILE:2: there is no tag "custom""#]).await;
        assert!(campaigns(&t).await.is_empty());
        let by_id = format!("name: X\nstart_tag: {}\n", tag.id);
        command.applied(&by_id, &[], r#"created "X", a draft; --activate lets contacts enter"#).await;
        assert_eq!(campaigns(&t).await[0].start_tag_id, tag.id);
    }

    async fn what_is_no_campaign_file_is_refused_with_its_line(t: Taghook) {
        let command = Command { t: &t };
        for (text, expected) in [
            ("name: X\nnodes: [", "FILE:"),
            ("name: X\nnods: []\n", "FILE:2: "),
            ("description: x\n", "name"),
            ("name: X\nname: Y\n", "FILE:2: "),
            ("name: X\nreentry: often\n", "FILE:2: "),
            ("name: X\nnodes:\n  - key: a\n", "FILE:3: node `a`: has no action"),
            ("name: X\nnodes:\n  - key: a\n    exit: true\n    go_to: a\n", "FILE:3: node `a`: has several actions"),
            ("name: X\nnodes:\n  - key: a\n    exit: false\n", "FILE:3: node `a`: `exit` is either true or left out"),
            ("name: X\nnodes:\n  - key: a\n    wait: 5 weeks\n", r#"FILE:3: node `a`: "5 weeks" is no duration"#),
            ("name: X\nnodes:\n  - key: A\n    exit: true\n", "FILE:3: node `A`: key: "),
            ("name: X\nnodes:\n  - key: a\n    wait: 400d\n", "FILE:3: node `a`: wait.duration: "),
            ("name: X\nnodes:\n  - key: a\n    decision: { if: 'contact.', then: a, else: a }\n", "FILE:3: node `a`: decision.condition: "),
        ] {
            command.refused(text, &[], &[expected, "nothing was changed"]).await;
        }
        assert!(campaigns(&t).await.is_empty());
        let (is_good, said) = command.run(&["apply", "no-such-file.yaml"]).await;
        assert!(!is_good && said.contains("no-such-file.yaml can't be read"), "{said}");
        let (is_good, said) = command.run(&["export", "Nobody"]).await;
        assert!(!is_good && said.contains(r#"there is no campaign "Nobody""#), "{said}");
    }

    async fn an_active_campaign_changes_with_activate_alone_and_is_never_left_worse(t: Taghook) {
        let command = Command { t: &t };
        command.applied(SMALL, &["--activate"], r#"created and activated "Small""#).await;
        command.applied(SMALL, &["--activate"], r#""Small" is as the file says, active; nothing was changed"#).await;
        let described = format!("description: D\n{SMALL}");
        command.applied(&described, &[], r#"updated "Small", active: description"#).await;

        let longer = described.replace("1d", "2d");
        command.refused(&longer, &[], &[r#""Small" is active, and the file says otherwise (nodes)"#, "--activate"]).await;
        assert!(command.exported("Small").await.contains("wait: 1d\n"));
        command.applied(&longer, &["--activate"], r#"updated and activated "Small" again: nodes"#).await;
        assert!(command.exported("Small").await.contains("wait: 2d\n"));

        // It can be written, but not be activated.
        let dead_end = longer.replace("  - key: end\n    exit: true\n", "");
        command.refused(&dead_end, &["--activate"], &["FILE:4: node `day`: next: must say which node follows"]).await;
        let after = campaigns(&t).await.remove(0);
        assert_eq!((after.state(), after.nodes.len()), (State::Active, 2), "it does what it did: {after:#?}");

        // A draft that can't be activated is kept.
        let draft = dead_end.replace("Small", "Draft");
        command.refused(&draft, &["--activate"], &[r#""Draft" was created, but stays a draft:"#, "FILE:4: node `day`"]).await;
        assert_eq!(campaigns(&t).await[1].state(), State::Draft);
        let whole = longer.replace("Small", "Draft");
        command.applied(&whole, &["--activate"], r#"updated and activated "Draft": nodes"#).await;
    }

    async fn a_campaign_is_drawn_with_its_state_and_counts(t: Taghook) {
        let command = Command { t: &t };
        command.applied(SMALL, &["--activate"], r#"created and activated "Small""#).await;
        let (id, contact) = (campaigns(&t).await.remove(0).id, t.contact("ada@example.com").await);
        let request = v1::EnrollContactRequest { campaign_id: id.clone(), contact: by_id(contact.id), ..Default::default() };
        t.client.campaigns().enroll_contact(request).await.expect("an enrollment");
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(10));
        let drawn = within("the contact at its wait", async {
            loop {
                let (is_good, said) = command.run(&["show", "Small"]).await;
                assert!(is_good, "{said}");
                if said.contains("1 waiting") {
                    return said;
                }
                looks.tick().await;
            }
        });
        let drawn = drawn.await;
        assert!(drawn.starts_with("%% Small: active\nflowchart TD\n"), "{drawn}");
    }
}

#[tokio::test]
async fn without_a_key_or_a_server_it_says_what_to_do() {
    let run = async |key: Option<&str>| {
        let mut command = Process::command(&["campaigns", "export", "X", "--address", "http://127.0.0.1:1"]);
        command.envs(key.map(|key| ("TAGHOOK_API_KEY", key)));
        let output = within("the end of the command", command.output()).await.expect("the program");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run(None).await;
    assert!(said.contains("there is no API key: give --key-file"), "{said}");
    let said = run(Some("thk_x")).await;
    assert!(said.contains("the server can't be reached"), "{said}");
}
