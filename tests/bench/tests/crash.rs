//! A short crash test of the server that was built beside this test; `cargo xtask crash-test` makes a long one, of the
//! release build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The server in the folder of this test's own build.
fn server() -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_taghook-bench"));
    let server = bench.with_file_name("taghook");
    assert!(server.is_file(), "{} is missing: run the tests of the whole workspace", server.display());
    server
}

#[test]
fn nothing_is_lost_or_stuck_when_everything_is_killed() {
    let mut crash = Command::new(env!("CARGO_BIN_EXE_taghook-bench"));
    crash.args(["crash", "--seconds", "8", "--every-ms", "1000", "--server"]).arg(server());
    let output = crash.output().expect("the program");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(output.status.success(), "{said}");
}
