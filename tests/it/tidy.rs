//! The invariants of ARCHITECTURE.md that can be read off the source.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code that a file of the server may have; what is longer is two things.
const MAX_LINES: usize = 620;

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The code without comments, and without the tests at its end.
    fn code(&self) -> String {
        let code = self.text.split("#[cfg(test)]").next().unwrap_or_default();
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                sources.push(Source { path, text });
            }
        }
    }
    assert!(!sources.is_empty(), "nothing in {folder}");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Fails with every place in `folder` whose code has one of `words`, but for the files `except`.
#[track_caller]
fn check_absent(folder: &str, words: &[&str], except: &[&str], why: &str) {
    let found: Vec<String> = sources(folder)
        .iter()
        .filter(|source| !except.iter().any(|path| source.path.starts_with(path)))
        .flat_map(|source| {
            let code = source.code();
            let path = source.path.clone();
            words.iter().filter(move |word| code.contains(**word)).map(move |word| format!("{path}: `{word}`"))
        })
        .collect();
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn rpc_and_links_never_name_the_database() {
    for folder in ["server/rpc", "server/links"] {
        check_absent(folder, &["sea_orm", "sqlx"], &[], "the store is the only room that knows SQL");
    }
}

#[test]
fn domain_is_pure() {
    let words =
        ["tonic", "prost", "crate::pb", "sea_orm", "sqlx", "tokio", "reqwest", "std::fs", "std::net", "crate::store"];
    check_absent("server/domain", &words, &[], "the domain has no outside");
}

#[test]
fn store_and_automation_never_name_the_wire() {
    for folder in ["server/store", "server/automation", "server/dispatch", "server/outcomes", "server/links"] {
        check_absent(folder, &["tonic::", "crate::pb", "crate::rpc"], &[], "the wire ends in rpc");
    }
}

#[test]
fn rpc_and_dispatch_meet_in_the_store() {
    check_absent("server/dispatch", &["crate::rpc", "crate::outcomes"], &[], "dispatch knows the store alone");
}

#[test]
fn a_status_is_built_in_one_place() {
    let words = [
        "Status::new(",
        "Status::with_",
        "Status::invalid_argument(",
        "Status::not_found(",
        "Status::internal(",
        "Status::unavailable(",
        "Status::permission_denied(",
        "Status::unauthenticated(",
        "Status::failed_precondition(",
        "Status::resource_exhausted(",
        "Status::deadline_exceeded(",
        "Status::aborted(",
    ];
    check_absent("server", &words, &["server/error.rs"], "the table of errors is in error.rs");
}

#[test]
fn the_server_never_uses_the_client() {
    let commands = ["server/main.rs", "server/cli/"];
    check_absent("server", &["taghook_client"], &commands, "the wire is all they share");
}

#[test]
fn tests_await_conditions_and_never_sleep() {
    for folder in ["tests", "client"] {
        check_absent(folder, &["thread::sleep(", "time::sleep("], &["tests/it/tidy.rs"], "await a condition instead");
    }
}

#[test]
fn files_are_short_enough_to_be_one_thing() {
    let long: Vec<String> = sources("server")
        .iter()
        .map(|source| (source.code().lines().count(), &source.path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
