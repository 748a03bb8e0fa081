//! The README's tour, run as it stands.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The lines of all shell blocks under a heading.
fn shell_lines(readme: &str, heading: &str) -> Vec<String> {
    let (_, section) = readme.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section
        .split("```sh\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap().lines())
        .map(str::to_owned)
        .collect()
}

/// The folder of grpcurl, which `cargo xtask test --install` has installed.
fn grpcurl() -> PathBuf {
    let tools = Path::new(ROOT).join("target/tools");
    let folder = std::fs::read_dir(&tools)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("grpcurl-")));
    folder.expect("no grpcurl in target/tools; `cargo xtask test --install` installs it").join("bin")
}

/// A port that was free a moment ago. The tour's commands name their ports, so that nobody can hand them open ones.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a tour printed and left.
struct Told {
    stdout: String,
    stderr: String,
    folder: tempfile::TempDir,
}

impl Told {
    /// What stands in a file that the tour has written.
    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// All of it, for whoever has to find out what went wrong.
    fn story(&self) -> String {
        let Self { stdout, stderr, .. } = self;
        format!("stdout:\n{stdout}\nstderr:\n{stderr}\nserver:\n{}", self.file("server.log"))
    }
}

/// Runs the lines of a tour in an empty folder, on ports of its own.
async fn run(lines: &[String]) -> Told {
    let (server, receiver) = (free_port(), free_port());
    let script = lines
        .join("\n")
        .replace("127.0.0.1:50051", &format!("127.0.0.1:{server}"))
        .replace("127.0.0.1:9000", &format!("127.0.0.1:{receiver}"));
    let folder = tempfile::tempdir().unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_taghook")).parent().unwrap();
    let path = format!("{}:{}:{}", binaries.display(), grpcurl().display(), std::env::var("PATH").unwrap());
    // `set -m` makes jobs of what runs in the background, as at a prompt; `timeout` ends all of it if the tour hangs.
    let run = Command::new("timeout")
        .args(["--kill-after=5", "60", "bash", "-m"])
        .current_dir(folder.path())
        .env("PATH", path)
        .env("TAGHOOK_LISTEN", format!("127.0.0.1:{server}"))
        .env("TAGHOOK_LINKS_LISTEN", "127.0.0.1:0")
        .stdin(script_file(folder.path(), &script))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = within_a_minute(run).await;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let told = Told { stdout: text(&output.stdout), stderr: text(&output.stderr), folder };
    assert!(output.status.code().is_some_and(|code| code != 124), "it hung\n{}", told.story());
    told
}

#[tokio::test]
async fn every_line_of_the_tour_works_in_an_empty_folder() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let lines = shell_lines(&readme, "## A tour with grpcurl");
    assert!(lines.len() > 15, "the tour is gone: {lines:?}");
    let told = run(&lines).await;
    let (stdout, stderr, story) = (&told.stdout, &told.stderr, told.story());
    for service in ["taghook.v1.ContactService", "taghook.v1.DeliveryService", "grpc.health.v1.Health"] {
        assert!(stdout.contains(service), "{service} isn't listed\n{story}");
    }
    let received = told.file("received.log");
    assert!(received.contains("POST") && received.contains("/buyers/Ada"), "{received}\n{story}");
    assert!(stdout.contains("/buyers/Ada"), "`cat received.log` showed nothing\n{story}");
    let outcomes = told.file("outcomes.log");
    assert!(outcomes.contains("KIND_DELIVERED") && outcomes.contains("KIND_SUPPRESSED"), "{outcomes}\n{story}");
    for field in ["webhook.name", "webhook.url", "webhook.events[0].parameters[0]"] {
        assert!(stderr.contains(field), "{field} isn't named\n{story}");
    }
    assert!(stderr.contains("InvalidArgument"), "{story}");
}

#[tokio::test]
async fn every_line_of_the_guide_works_in_an_empty_folder() {
    let guide = std::fs::read_to_string(Path::new(ROOT).join("docs/guide.md")).unwrap();
    let lines: Vec<String> =
        guide.split("\n## ").skip(1).flat_map(|section| shell_lines(&format!("\n## {section}"), "\n## ")).collect();
    assert!(lines.len() > 40, "the guide is gone: {lines:?}");
    let told = run(&lines).await;
    let (stdout, story) = (&told.stdout, told.story());
    assert!(!told.stderr.contains("ERROR") && !told.stderr.contains("Failed"), "{story}");
    let received = told.file("received.log");
    for line in ["GET /shop/produkt-a?name=Ada", "POST /crm/coupons", "POST /crm/buyers"] {
        assert!(received.contains(line), "no {line:?} in {received}\n{story}");
    }
    for shown in [
        "flowchart TD",
        "\"clickCount\": \"1\"",
        "Produkt A gekauft",
        "Coupon geschickt",
        "link.clicked",
        "removedTagIds",
    ] {
        assert!(stdout.contains(shown), "no {shown:?}\n{story}");
    }
}

fn script_file(folder: &Path, script: &str) -> Stdio {
    // Beside the folder's own files, under a name that the tour doesn't use.
    let path = folder.join(".tour");
    std::fs::write(&path, script).unwrap();
    std::fs::File::open(path).unwrap().into()
}

async fn within_a_minute(run: impl Future<Output = std::io::Result<std::process::Output>>) -> std::process::Output {
    tokio::time::timeout(std::time::Duration::from_secs(70), run).await.expect("`timeout` ends it").unwrap()
}

#[test]
fn the_first_two_commands_are_those_that_ci_runs() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let first = readme.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let commands: Vec<&str> = first.lines().map(|line| line.split('#').next().unwrap().trim()).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "cargo xtask test"]);
    let ci = std::fs::read_to_string(Path::new(ROOT).join(".ci/run")).unwrap();
    assert!(ci.contains("cargo xtask test"), "{ci}");
}
