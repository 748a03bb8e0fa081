//! A wall clock that can be stepped, for one server: libfaketime adds to it what a file says. The monotonic clock goes on.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Failure;

/// The library's name in its folder, which Debian has below `/usr/lib/<architecture>`.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// For how many full seconds the library keeps what it has read beyond the one that it was read in.
const CACHED_S: &str = "0";

/// The clock of a server.
pub(crate) struct FakeClock {
    library: PathBuf,
    folder: TempDir,
}

impl FakeClock {
    /// A clock that is right, so far. `None` where the library isn't installed.
    pub(crate) fn new() -> Result<Option<Self>, Failure> {
        let folders = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path().join(LIBRARY));
        let Some(library) = folders.into_iter().find(|library| library.is_file()) else { return Ok(None) };
        let clock = Self { library, folder: tempfile::tempdir()? };
        clock.set(0)?;
        Ok(Some(clock))
    }

    /// Lets it be so many seconds ahead of the right time.
    pub(crate) fn set(&self, ahead_s: i64) -> Result<(), Failure> {
        // Whole at any time.
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{ahead_s:+}\n"))?;
        Ok(fs::rename(new, self.file())?)
    }

    /// What a server that is to have it finds in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 6] {
        let text = |text: &str| Path::new(text).to_owned();
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file()),
            ("FAKETIME_CACHE_DURATION", text(CACHED_S)),
            ("FAKETIME_DONT_FAKE_MONOTONIC", text("1")),
            // A server that is killed would leave it behind.
            ("FAKETIME_DISABLE_SHM", text("1")),
            ("NO_FAKE_STAT", text("1")),
        ]
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ahead")
    }
}
