use std::io::Write;

use super::*;

const SAMPLE: &str = include_str!("../../../deploy/taghook.example.toml");

/// The environment of these tests.
fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    let home = ("HOME", "/home/somebody");
    variables.iter().chain([&home]).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A file with this text; it goes with the value.
fn toml(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load_all(text: &str, variables: &[(&str, &str)], flags: Flags) -> Result<Loaded, ConfigError> {
    let file = toml(text);
    let flags = Flags { config: Some(file.path().to_owned()), ..flags };
    load(&Sources { flags, environment: environment(variables) })
}

fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    load_all(text, &[], Flags::default())
}

#[test]
fn the_sample_is_the_defaults_and_names_every_field() {
    let file = toml(SAMPLE);
    let mut settings = Settings::new();
    read_file(file.path(), &mut settings).unwrap();
    let known = known_fields().unwrap();
    assert_eq!(settings.keys().collect::<Vec<_>>(), known.keys().collect::<Vec<_>>());
    assert_eq!(build(&known, &settings).unwrap(), Config::default());
}

#[test]
fn later_sources_win() {
    let text = "listen = \"127.0.0.1:1\"\nmigrate = true\n[dispatch]\nsenders = 1\n[egress]\nallow = [\"10.0.0.0/8\"]";
    let file_alone = load_text(text).unwrap().config;
    assert_eq!(file_alone.listen.port(), 1);
    assert_eq!(file_alone.dispatch.senders, 1);

    let variables =
        [("TAGHOOK_LISTEN", "127.0.0.1:2"), ("TAGHOOK_DISPATCH_SENDERS", "2"), ("TAGHOOK_LOG_FORMAT", "json")];
    let with_environment = load_all(text, &variables, Flags::default()).unwrap().config;
    assert_eq!(with_environment.listen.port(), 2);
    assert_eq!(with_environment.dispatch.senders, 2);
    assert_eq!(with_environment.log.format, crate::config::LogFormat::Json);

    let flags = Flags {
        listen: Some("127.0.0.1:3".to_owned()),
        allow_egress: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
        no_migrate: true,
        ..Flags::default()
    };
    let with_flags = load_all(text, &variables, flags).unwrap().config;
    assert_eq!(with_flags.listen.port(), 3);
    assert_eq!(with_flags.egress.allow, ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert!(!with_flags.migrate);
    assert_eq!(with_flags.dispatch.senders, 2);
}

#[test]
fn the_environment_names_every_field_and_an_empty_variable_is_unset() {
    let variables = [
        ("TAGHOOK_DATA_DIR", "/data"),
        ("TAGHOOK_DATABASE_URL", "postgres://db/taghook"),
        ("TAGHOOK_EGRESS_ALLOW", "10.0.0.0/8, fd00::/8"),
        ("TAGHOOK_WEB_ALLOWED_ORIGINS", "https://app.example.com"),
        ("TAGHOOK_SECRETS_KEY_FILE", "/run/key"),
        ("TAGHOOK_SECRET_KEY", "AAAA"),
        ("TAGHOOK_NEW_SECRET_KEY", "BBBB"),
        ("TAGHOOK_LOG_FILTER", ""),
        // What Kubernetes sets for a service of this name, and what our own commands read, is no mistake.
        ("TAGHOOK_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("TAGHOOK_SERVICE_HOST", "10.0.0.1"),
        ("TAGHOOK_API_KEY", "thk_x"),
        ("TAGHOOK_DATABSE_URL", "postgres://typo"),
    ];
    let loaded = load_all("", &variables, Flags::default()).unwrap();
    let config = &loaded.config;
    assert_eq!(config.data_dir, Path::new("/data"));
    assert_eq!(config.database_url(), "postgres://db/taghook");
    assert_eq!(config.egress.allow.len(), 2);
    assert_eq!(config.web.allowed_origins, ["https://app.example.com"]);
    assert_eq!(config.key_file(), Path::new("/run/key"));
    assert!(config.secrets.key.is_some() && config.secrets.new_key.is_some());
    assert_eq!(config.log, Config::default().log);
    assert_eq!(loaded.warnings, ["the environment variable TAGHOOK_DATABSE_URL isn't known; it is ignored"]);
}

#[test]
fn what_depends_on_the_data_folder_follows_it() {
    let config = load_text("").unwrap().config;
    assert_eq!(config.data_dir, Path::new("/home/somebody/.local/share/taghook"));
    assert_eq!(config.database_url(), "sqlite:/home/somebody/.local/share/taghook/taghook.db");
    assert_eq!(config.key_file(), Path::new("/home/somebody/.local/share/taghook/secret.key"));

    let xdg = load_all("", &[("XDG_DATA_HOME", "/xdg")], Flags::default()).unwrap();
    assert_eq!(xdg.config.data_dir, Path::new("/xdg/taghook"));
    let relative = load_all("", &[("XDG_DATA_HOME", "xdg")], Flags::default()).unwrap();
    assert_eq!(relative.config.data_dir, Path::new("/home/somebody/.local/share/taghook"));

    let homeless = load(&Sources::default()).unwrap_err();
    assert_eq!(homeless.0, ["there is no home folder; set data_dir (TAGHOOK_DATA_DIR)"]);
}

/// `file` stands for the path of the file in what is expected.
#[track_caller]
fn check_refused(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let file = toml(text);
    let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
    let error = load(&Sources { flags, environment: environment(variables) }).unwrap_err();
    let path = file.path().display().to_string();
    let told: Vec<String> = error.0.iter().map(|problem| problem.replace(&path, "file")).collect();
    assert_eq!(told, expected);
}

#[track_caller]
fn check_links_listen(text: &str, expected: Option<&str>) {
    let listen = load_text(text).unwrap().config.links_listen();
    assert_eq!(listen.map(|address| address.to_string()).as_deref(), expected);
}

#[test]
fn links_are_served_beside_the_api_unless_they_are_not() {
    check_links_listen("", Some("127.0.0.1:50080"));
    check_links_listen("listen = \"[::]:9000\"", Some("[::]:50080"));
    check_links_listen("listen = \"127.0.0.1:0\"", Some("127.0.0.1:0"));
    check_links_listen("[links]\nlisten = \"0.0.0.0:80\"", Some("0.0.0.0:80"));
    check_links_listen("[links]\nlisten = \"off\"", None);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    check_refused(
        "listn = \"127.0.0.1:1\"\nmigrate = \"yes\"\ndatabase = 3\n[dispatch]\nsenders = 0\nworkers = 2\n[retention]\nattempts_days = 100",
        &[("TAGHOOK_DATABASE_CONNECTIONS", "many"), ("TAGHOOK_EGRESS_ALLOW", "10.0.0.0/33")],
        &[
            "file: database is a section, as [database]",
            "TAGHOOK_DATABASE_CONNECTIONS: database.connections: invalid type: found string \"many\", expected u32",
            "file: there is no dispatch.workers; known are dispatch.senders",
            "TAGHOOK_EGRESS_ALLOW: egress.allow: \"10.0.0.0/33\" is no range of addresses in CIDR notation, as 10.20.0.0/16",
            "file: there is no listn; known are data_dir, listen, migrate",
            "file: migrate: invalid type: found string \"yes\", expected a boolean",
            "file: dispatch.senders: must be 1 to 10000",
            "default: retention.deliveries_days: must not be less than retention.attempts_days",
        ],
    );
}

#[test]
fn values_out_of_bounds_are_refused() {
    check_refused(
        "[database]\nurl = \"mysql://db\"",
        &[],
        &["file: database.url: a database URL starts with `sqlite:` or `postgres:`"],
    );
    check_refused("[database]\nconnections = 1", &[], &["file: database.connections: must be 2 to 1000"]);
    check_refused(
        "[dispatch]\nsenders = -1",
        &[],
        &["file: dispatch.senders: invalid value signed int `-1`, expected usize"],
    );
    check_refused(
        "[egress]\nports = \"0-99999\"",
        &[],
        &[
            "file: egress.ports: ports are numbers from 1 to 65535 or ranges of them, separated by commas, for example `443, 8000-8999`",
        ],
    );
    check_refused(
        "[web]\nallowed_origins = [\"https://a.example/path\"]",
        &[],
        &[
            "file: web.allowed_origins: \"https://a.example/path\" is neither `*` nor an origin, as https://app.example.com",
        ],
    );
    check_refused(
        "[links]\nlisten = \"on\"\nbase_url = \"go.example.com\"\nburst = 0",
        &[("TAGHOOK_LINKS_TRUSTED_PROXIES", "all")],
        &[
            "TAGHOOK_LINKS_TRUSTED_PROXIES: links.trusted_proxies: \"all\" is no range of addresses in CIDR notation, as \
             10.20.0.0/16",
            "file: links.listen: must be an address and a port, as 0.0.0.0:8080, or `off`",
            "file: links.base_url: must be an http or https URL without query, as https://go.example.com",
            "file: links.burst: must be 1 to 1000000",
        ],
    );
    check_refused("[retention]\ncooldowns_days = 29", &[], &["file: retention.cooldowns_days: must be 30 to 3650"]);
    check_refused(
        "[log]\nfilter = \"taghook=loud\"",
        &[],
        &[
            "file: log.filter: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \
           \"trace\", or a number 0-5",
        ],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let flags = Flags { config: Some("/nowhere/taghook.toml".into()), ..Flags::default() };
    let error = load(&Sources { flags, environment: environment(&[]) }).unwrap_err();
    assert_eq!(error.0, ["/nowhere/taghook.toml: No such file or directory (os error 2)"]);
    assert!(load_text("listen = ").is_err());
}

#[test]
fn what_is_shown_holds_no_password() {
    let variables = [
        ("TAGHOOK_DATABASE_URL", "postgres://taghook:hunter2@db/taghook?sslpassword=hunter2&sslmode=require"),
        ("TAGHOOK_SECRET_KEY", "hunter2"),
    ];
    let loaded = load_all("[dispatch]\nsenders = 7", &variables, Flags::default()).unwrap();
    let shown = loaded.to_string();
    assert!(!shown.contains("hunter2") && !format!("{:?}", loaded.config.secrets).contains("hunter2"), "{shown}");
    let url = "postgres://taghook:REDACTED@db/taghook?sslpassword=REDACTED&sslmode=require";
    assert!(shown.contains(&format!("database.url = \"{url}\" # TAGHOOK_DATABASE_URL\n")), "{shown}");
    assert!(shown.contains("dispatch.senders = 7 # "), "{shown}");
    assert!(shown.contains("\nlisten = \"127.0.0.1:50051\"\n"), "{shown}");
}

/// What is shown can be used as a file.
#[test]
fn what_is_shown_can_be_read_again() {
    let loaded = load_text("").unwrap();
    let again = load_text(&loaded.to_string()).unwrap();
    assert_eq!(again.config.database_url(), loaded.config.database_url());
    assert_eq!(again.config.limits, loaded.config.limits);
}
