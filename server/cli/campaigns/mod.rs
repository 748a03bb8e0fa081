//! `taghook campaigns`: campaigns as files, for people who keep them in version control.
//!
//! [`file`](mod@file) is the format, and its reference; [`names`] finds what a file names; [`connect`] finds the server.

mod apply;
mod connect;
mod duration;
mod export;
mod file;
mod names;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use taghook_client::v1::{GetCampaignRequest, campaign::State};

use connect::{Server, told};
use names::Names;

type Failure = Box<dyn Error + Send + Sync>;
type Result<T, E = Failure> = std::result::Result<T, E>;

/// The flags of `taghook campaigns`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create or update a campaign from a YAML file
    ///
    /// The campaign is found by its name. If nothing differs, nothing is changed. An active campaign that would do something
    /// else is paused, changed and activated again with --activate; without it, it is left alone.
    Apply {
        /// The file; `-` for standard input.
        file: PathBuf,
        /// Activate the campaign. If it can't be activated, an active one stays as it was.
        #[arg(long)]
        activate: bool,
    },
    /// Write a campaign as YAML to standard output
    Export {
        /// Its name or id.
        name: String,
    },
    /// Draw a campaign as a flowchart of Mermaid, with how many contacts wait where
    Show {
        /// Its name or id.
        name: String,
    },
}

/// Does what the flags say.
///
/// # Errors
///
/// The server can't be reached or refuses, the file is wrong, or the output can't be written.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let mut names = Names::new(args.server.connect()?);
    let said = match &args.action {
        Action::Apply { file, activate } => apply::run(&mut names, file, *activate).await?,
        Action::Export { name } => export::run(&mut names, name).await?,
        Action::Show { name } => show(&mut names, name).await?,
    };
    let mut out = io::stdout().lock();
    match out.write_all(said.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read the output, as `head` does, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

async fn show(names: &mut Names, name: &str) -> Result<String> {
    let id = names.existing_campaign(name).await?;
    let request = GetCampaignRequest { id, with_diagram: true, with_node_counts: true };
    let campaign = names.client().campaigns().get_campaign(request).await.map_err(told)?.into_inner();
    // A comment of Mermaid ends with its line.
    let name: String = campaign.name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Ok(format!("%% {name}: {}\n{}", state_text(campaign.state()), campaign.diagram))
}

/// A state as people are told.
fn state_text(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Draft => "draft",
        State::Active => "active",
        State::Paused => "paused",
    }
}
