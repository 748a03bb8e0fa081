//! Gathering the configuration from its sources, with all that is wrong with them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use url::Url;
use zeroize::Zeroizing;

use super::{Config, KeyText, check};

/// What all variables of ours start with.
const ENV_PREFIX: &str = "TAGHOOK_";
/// Names the file.
const ENV_CONFIG: &str = "TAGHOOK_CONFIG";
/// The master key; it has no place in the file.
const ENV_SECRET_KEY: &str = "TAGHOOK_SECRET_KEY";
/// The master key that `taghook keys rotate-master` puts in its place.
const ENV_NEW_SECRET_KEY: &str = "TAGHOOK_NEW_SECRET_KEY";
/// Variables of ours that the client commands read.
const ENV_OF_CLIENTS: [&str; 2] = ["TAGHOOK_ADDRESS", "TAGHOOK_API_KEY"];
/// Variables that Kubernetes sets for a service named `taghook`.
const ENV_OF_KUBERNETES: [&str; 2] = ["TAGHOOK_SERVICE_", "TAGHOOK_PORT"];
/// What stands for a password.
const REDACTED: &str = "REDACTED";

/// The flags that set configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The configuration file, in TOML [env: TAGHOOK_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address and port to listen on [env: TAGHOOK_LISTEN] [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The data folder [env: TAGHOOK_DATA_DIR] [default: ~/.local/share/taghook]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// `sqlite:<path>` or `postgres://..` [env: TAGHOOK_DATABASE_URL] [default: taghook.db in the data folder]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// A range of addresses that webhooks may reach though it isn't public, as 127.0.0.0/8; can be repeated
    /// [env: TAGHOOK_EGRESS_ALLOW]
    #[arg(long, value_name = "CIDR")]
    pub allow_egress: Vec<String>,
    /// Refuse to start if migrations are missing, instead of running them
    #[arg(long)]
    pub no_migrate: bool,
}

/// Where configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The flags.
    pub flags: Flags,
    /// The environment.
    pub environment: BTreeMap<String, String>,
}

/// The configuration, complete and within its bounds.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration, with the data folder filled in.
    pub config: Config,
    /// Variables that look like ours but aren't.
    pub warnings: Vec<String>,
    /// Where each field that isn't at its default was set.
    origins: BTreeMap<String, String>,
}

/// All that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// A field that a source sets.
struct Setting {
    origin: String,
    value: Value,
}

/// Fields by their keys, as `database.url`.
type Settings = BTreeMap<String, Setting>;

/// Gathers the configuration.
///
/// # Errors
///
/// Everything that is wrong: a file that can't be read, unknown keys, values of a wrong type or out of bounds.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let known = known_fields()?;
    let mut settings = Settings::new();
    if let Some(file) = file(sources) {
        read_file(&file, &mut settings)?;
    }
    let warnings = read_environment(&sources.environment, &known, &mut settings);
    read_flags(&sources.flags, &mut settings);
    let mut config = build(&known, &settings)?;
    if config.data_dir.as_os_str().is_empty() {
        let none = || ConfigError(vec!["there is no home folder; set data_dir (TAGHOOK_DATA_DIR)".to_owned()]);
        config.data_dir = default_data_dir(&sources.environment).ok_or_else(none)?;
    }
    let key = |name| sources.environment.get(name).filter(|key| !key.is_empty());
    let key = |name| key(name).map(|key| KeyText(Zeroizing::new(key.clone())));
    (config.secrets.key, config.secrets.new_key) = (key(ENV_SECRET_KEY), key(ENV_NEW_SECRET_KEY));
    Ok(Loaded { config, warnings, origins: settings.into_iter().map(|(key, setting)| (key, setting.origin)).collect() })
}

impl fmt::Display for Loaded {
    /// The effective configuration as TOML, with where each field was set; without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.config.clone();
        shown.database.url = redact(&shown.database_url());
        shown.secrets.key_file = shown.key_file();
        for (key, value) in fields_of(&shown).map_err(|_| fmt::Error)? {
            let text = serde_json::to_string(&value).map_err(|_| fmt::Error)?;
            match self.origins.get(&key) {
                Some(origin) => writeln!(f, "{key} = {text} # {origin}")?,
                None => writeln!(f, "{key} = {text}")?,
            }
        }
        if self.config.secrets.key.is_some() {
            writeln!(f, "# the master key is given by {ENV_SECRET_KEY}")?;
        }
        Ok(())
    }
}

fn file(sources: &Sources) -> Option<PathBuf> {
    let named = || sources.environment.get(ENV_CONFIG).filter(|path| !path.is_empty()).map(PathBuf::from);
    sources.flags.config.clone().or_else(named)
}

/// All fields and their defaults.
fn known_fields() -> Result<BTreeMap<String, Value>, ConfigError> {
    fields_of(&Config::default())
}

fn fields_of(config: &Config) -> Result<BTreeMap<String, Value>, ConfigError> {
    let value = Value::serialize(config).map_err(|error| ConfigError(vec![error.to_string()]))?;
    let mut fields = BTreeMap::new();
    flatten("", value, &mut |key, value| {
        fields.insert(key, value);
    });
    Ok(fields)
}

/// Visits all values that aren't tables.
fn flatten(key: &str, value: Value, visit: &mut impl FnMut(String, Value)) {
    match value {
        Value::Dict(_, dict) => {
            for (name, value) in dict {
                flatten(&if key.is_empty() { name } else { format!("{key}.{name}") }, value, visit);
            }
        }
        value => visit(key.to_owned(), value),
    }
}

fn read_file(path: &Path, settings: &mut Settings) -> Result<(), ConfigError> {
    let origin = path.display().to_string();
    let refuse = |error: String| ConfigError(vec![format!("{origin}: {error}")]);
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let values: Dict = Figment::from(Toml::string(&text)).extract().map_err(|error| refuse(error.kind.to_string()))?;
    flatten("", values.into(), &mut |key, value| {
        settings.insert(key, Setting { origin: origin.clone(), value });
    });
    Ok(())
}

/// Reads the variables of known fields; answers with those that look like ours and aren't.
fn read_environment(
    environment: &BTreeMap<String, String>,
    known: &BTreeMap<String, Value>,
    settings: &mut Settings,
) -> Vec<String> {
    let keys: BTreeMap<String, &String> = known.keys().map(|key| (variable(key), key)).collect();
    let mut warnings = Vec::new();
    for (name, text) in environment.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        match keys.get(name).and_then(|key| Some((*key, known.get(*key)?))) {
            // As if it weren't set: a shell can't always unset.
            Some(_) if text.is_empty() => {}
            Some((key, default)) => {
                settings.insert(key.clone(), Setting { origin: name.clone(), value: like(default, text) });
            }
            None if is_of_others(name) => {}
            None => warnings.push(format!("the environment variable {name} isn't known; it is ignored")),
        }
    }
    warnings
}

fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn is_of_others(name: &str) -> bool {
    name == ENV_CONFIG
        || name == ENV_SECRET_KEY
        || name == ENV_NEW_SECRET_KEY
        || ENV_OF_CLIENTS.contains(&name)
        || ENV_OF_KUBERNETES.iter().any(|prefix| name.starts_with(prefix))
}

/// A text as a value of the same type as the default, if it can be one.
fn like(default: &Value, text: &str) -> Value {
    match default {
        Value::Array(..) => list(text.split(',').map(str::trim).filter(|item| !item.is_empty())),
        Value::Bool(..) => text.parse::<bool>().map_or_else(|_| text.into(), Value::from),
        Value::Num(..) => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        _ => text.into(),
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> Value {
    Value::from(items.map(Value::from).collect::<Vec<_>>())
}

fn read_flags(flags: &Flags, settings: &mut Settings) {
    let mut set = |key: &str, flag: &str, value: Option<Value>| {
        if let Some(value) = value {
            settings.insert(key.to_owned(), Setting { origin: flag.to_owned(), value });
        }
    };
    let allow = &flags.allow_egress;
    set("listen", "--listen", flags.listen.as_deref().map(Value::from));
    set("data_dir", "--data-dir", flags.data_dir.as_ref().map(|path| path.to_string_lossy().as_ref().into()));
    set("database.url", "--database-url", flags.database_url.as_deref().map(Value::from));
    set("egress.allow", "--allow-egress", (!allow.is_empty()).then(|| list(allow.iter().map(String::as_str))));
    set("migrate", "--no-migrate", flags.no_migrate.then(|| false.into()));
}

/// Makes the configuration of the settings, or tells all that is wrong with them.
fn build(known: &BTreeMap<String, Value>, settings: &Settings) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    for (key, setting) in settings {
        let layer = Serialized::default(key, &setting.value);
        if !known.contains_key(key) {
            problems.push(unknown(key, &setting.origin, known));
        } else if let Err(error) =
            Figment::from(Serialized::defaults(Config::default())).merge(&layer).extract::<Config>()
        {
            problems.push(format!("{}: {key}: {}", setting.origin, error.kind));
        } else {
            figment = figment.merge(layer);
        }
    }
    let config: Config = figment.extract().map_err(|error| ConfigError(vec![error.kind.to_string()]))?;
    for (key, message) in check::problems(&config) {
        let origin = settings.get(key).map_or("default", |setting| setting.origin.as_str());
        problems.push(format!("{origin}: {key}: {message}"));
    }
    if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
}

fn unknown(key: &str, origin: &str, known: &BTreeMap<String, Value>) -> String {
    if known.keys().any(|field| field.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))) {
        return format!("{origin}: {key} is a section, as [{key}]");
    }
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let siblings: Vec<&str> = known
        .keys()
        .map(String::as_str)
        .filter(|field| field.rsplit_once('.').map_or("", |(section, _)| section) == section)
        .collect();
    let known = if siblings.is_empty() { known.keys().map(String::as_str).collect() } else { siblings };
    format!("{origin}: there is no {key}; known are {}", known.join(", "))
}

/// The XDG Base Directory Specification takes absolute paths alone.
fn default_data_dir(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let absolute = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("taghook"))
}

/// A database URL without its passwords.
fn redact(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return text.to_owned();
    };
    if url.password().is_some() {
        // It fails only for URLs without a host, which have no password.
        let _ = url.set_password(Some(REDACTED));
    }
    if url.query().is_some_and(|query| query.contains("password")) {
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let shown = pairs
            .into_iter()
            .map(|(name, value)| if name.contains("password") { (name, REDACTED.into()) } else { (name, value) });
        url.query_pairs_mut().clear().extend_pairs(shown);
    }
    url.into()
}

#[cfg(test)]
mod tests;
