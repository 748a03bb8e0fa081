//! A small file system of its own for a database, so that it can be filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::Failure;

/// What the filling is written in.
static BLOCK: [u8; 65_536] = [0; 65_536];

/// A mounted file system in a file; unmounted when dropped.
pub(crate) struct Disk {
    folder: PathBuf,
    _image: NamedTempFile,
}

impl Disk {
    /// Mounts one of so many MiB on a folder. `None` if this account or machine can't.
    pub(crate) fn mount(folder: &Path, size_mib: u64) -> Result<Option<Self>, Failure> {
        let image = NamedTempFile::new()?;
        image.as_file().set_len(size_mib * 1_024 * 1_024)?;
        let mut make = Command::new("mkfs.ext4");
        // No room is kept for root, who would find the disk less than full.
        make.args(["-q", "-m", "0"]).arg(image.path());
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(image.path()).arg(folder);
        let is_mounted = succeeds(&mut make)? && succeeds(&mut mount)?;
        Ok(is_mounted.then(|| Self { folder: folder.to_owned(), _image: image }))
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) -> Result<(), Failure> {
        let mut file = File::options().append(true).create(true).open(self.filling())?;
        let mut block = BLOCK.as_slice();
        loop {
            match file.write(block) {
                Ok(_) => {}
                // The last bit may be smaller than a block.
                Err(error) if error.kind() == ErrorKind::StorageFull && block.len() > 1 => {
                    block = &block[..block.len() / 2];
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the room back.
    pub(crate) fn free(&self) -> Result<(), Failure> {
        Ok(fs::remove_file(self.filling())?)
    }

    fn filling(&self) -> PathBuf {
        self.folder.join("filling")
    }
}

/// Runs a command; one that isn't there doesn't succeed.
fn succeeds(command: &mut Command) -> Result<bool, Failure> {
    match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) => Ok(status.success()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still holds a file there keeps it for as long.
        if !Command::new("umount").arg("--lazy").arg(&self.folder).status().is_ok_and(|status| status.success()) {
            eprintln!("taghook-bench: {} is still mounted", self.folder.display());
        }
    }
}
