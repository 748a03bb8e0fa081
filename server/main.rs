//! The `taghook` command.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use taghook::clock::Clock;
use taghook::config::{self, Flags, Loaded, Sources};
use taghook::error::chain;
use taghook::lifecycle::Signals;
use taghook::store::open::{Migration, migrate};
use taghook::{Environment, Server, first_start, rotation, server, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Watches contacts and their tags, calls webhooks, and streams what became of each call, over gRPC.
#[derive(Debug, Parser)]
#[command(name = "taghook", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Flags),
    /// See the main job from end to end: a contact is tagged, the webhook arrives, its outcome is streamed
    Demo,
    /// Receive webhooks and show them: every method, every path
    Receive(cli::receive::Args),
    /// Keep campaigns as YAML files
    Campaigns(cli::campaigns::Args),
    /// Migrate the database by hand
    Migrate(MigrateArgs),
    /// Look at the configuration
    Config(ConfigArgs),
    /// Replace the keys of the deployment
    Keys(KeysArgs),
}

#[derive(Debug, Args)]
struct MigrateArgs {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Run the migrations that are missing
    Up(Flags),
    /// Take the last migration back, and all data that it made room for
    Down(Flags),
    /// Show which migrations are applied
    Status(Flags),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    #[command(subcommand)]
    action: ConfigAction,
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Show the effective configuration, or everything that is wrong with it
    Check(Flags),
}

#[derive(Debug, Args)]
struct KeysArgs {
    #[command(subcommand)]
    action: KeysAction,
}

#[derive(Debug, Subcommand)]
enum KeysAction {
    /// Replace the master key of the secrets, and encrypt everything with the new one
    ///
    /// Stop all servers first. The new key is made at random, or taken from TAGHOOK_NEW_SECRET_KEY, and written to the key
    /// file (secret.key); the former one is kept beside it under a name with its id, since backups of the database need it.
    /// If TAGHOOK_SECRET_KEY gives the present key, TAGHOOK_NEW_SECRET_KEY must give the new one. Whatever happens
    /// meanwhile, a server starts with what there is then, and the command can be run again.
    RotateMaster(Flags),
    /// Replace the root key, which administers workspaces and API keys: the former one opens nothing from then on
    ///
    /// The new key is in root.key. On SQLite stop the server first; servers on PostgreSQL refuse the former key within
    /// seconds.
    RotateRoot(Flags),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone there is nobody to tell.
            let _ = writeln!(io::stderr(), "taghook: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(flags) => serve(flags).await,
        Command::Demo => cli::demo::run(Environment::system()).await,
        Command::Receive(args) => Ok(cli::receive::run(&args, Clock::system()).await?),
        Command::Campaigns(args) => cli::campaigns::run(&args).await,
        Command::Migrate(MigrateArgs { step }) => match step {
            Step::Up(flags) => migrate_by_hand(flags, Migration::Up).await,
            Step::Down(flags) => migrate_by_hand(flags, Migration::Down).await,
            Step::Status(flags) => migrate_by_hand(flags, Migration::Status).await,
        },
        Command::Config(ConfigArgs { action: ConfigAction::Check(flags) }) => check_config(flags),
        Command::Keys(KeysArgs { action: KeysAction::RotateMaster(flags) }) => rotate_master(flags).await,
        Command::Keys(KeysArgs { action: KeysAction::RotateRoot(flags) }) => rotate_root(flags).await,
    }
}

async fn serve(flags: Flags) -> Result<(), Failure> {
    let loaded = load(flags)?;
    telemetry::start(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    // Before the log says that calls are served: whoever reads that may stop the server, and mustn't make it crash.
    let mut signals = Signals::take()?;
    let server = tokio::select! {
        started = Server::start(&loaded.config, Environment::system()) => started?,
        () = signals.next() => return Ok(()),
    };
    Ok(server.run(signals).await?)
}

async fn migrate_by_hand(flags: Flags, step: Migration) -> Result<(), Failure> {
    let config = load(flags)?.config;
    first_start::make_folder(&config.data_dir)?;
    let migrations = migrate(&server::open_options(&config, Environment::system()), step).await?;
    let mut out = io::stdout().lock();
    for (name, is_applied) in migrations {
        writeln!(out, "{} {name}", if is_applied { "applied" } else { "missing" })?;
    }
    Ok(())
}

async fn rotate_master(flags: Flags) -> Result<(), Failure> {
    let rotated = rotation::rotate_master(&load(flags)?.config, &Environment::system()).await?;
    let mut out = io::stdout().lock();
    match rotated.webhooks {
        Some(count) => writeln!(out, "encrypted the secrets of {count} webhooks with the new master key")?,
        None => writeln!(out, "the database has the new master key already")?,
    }
    match rotated.files {
        Some((file, former)) => {
            writeln!(out, "the new key is in {}; give it to every server of the database", file.display())?;
            writeln!(out, "the former key is in {}; backups of the database need it", former.display())?;
        }
        None => writeln!(out, "set TAGHOOK_SECRET_KEY to the new key wherever a server starts")?,
    }
    Ok(())
}

async fn rotate_root(flags: Flags) -> Result<(), Failure> {
    let file = rotation::rotate_root(&load(flags)?.config, &Environment::system()).await?;
    writeln!(io::stdout().lock(), "the new root key is in {}; the former one opens nothing", file.display())?;
    Ok(())
}

fn check_config(flags: Flags) -> Result<(), Failure> {
    let loaded = load(flags)?;
    let mut out = io::stdout().lock();
    for warning in &loaded.warnings {
        writeln!(out, "# {warning}")?;
    }
    write!(out, "{loaded}")?;
    Ok(())
}

fn load(flags: Flags) -> Result<Loaded, Failure> {
    // Variables that aren't UTF-8 can't be ours.
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(config::load(&Sources { flags, environment: texts.collect() })?)
}
