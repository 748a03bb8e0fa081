//! Files that hold a key: for their owner alone, and written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::first_start::KeyFileError;

const OWNER_ALONE: u32 = 0o600;

/// The file that a key is in until it takes the place of the one in `path`.
pub(crate) fn next(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// A file in the same folder whose name has something more at its end.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    name.into()
}

/// What stands in a file; `None` if it isn't there.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<String>>, KeyFileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// Gives a file a second name, by which it is found when its own one is another file's; nothing is done if it isn't there,
/// or if the second name is taken.
pub(crate) fn keep(path: &Path, second: &Path) -> Result<(), KeyFileError> {
    match read(path)? {
        Some(text) => read_or_write(second, text.trim_end()).map(|_| ()),
        None => Ok(()),
    }
}

/// Puts what is in [`next()`] in a file's place.
pub(crate) fn replace(path: &Path) -> Result<(), KeyFileError> {
    let rename = fs::rename(next(path), path);
    // The name is durable with the folder.
    rename.and_then(|()| File::open(folder_of(path))?.sync_all()).map_err(|source| failed(path, source))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(path: &Path, source: io::Error) -> KeyFileError {
    KeyFileError::Io { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), source }
}

/// What stands in a file; if it isn't there it is made with `new`. And whether it was.
pub(crate) fn read_or_write(path: &Path, new: &str) -> Result<(Zeroizing<String>, bool), KeyFileError> {
    let is_new = match path.try_exists() {
        Ok(true) => Ok(false),
        Ok(false) => write_new(path, new),
        Err(error) => Err(error),
    };
    let read = |is_new| Ok((Zeroizing::new(fs::read_to_string(path)?), is_new));
    is_new.and_then(read).map_err(|source| failed(path, source))
}

/// Writes a file that isn't there, whole or not at all; false if it has appeared meanwhile.
fn write_new(path: &Path, text: &str) -> io::Result<bool> {
    let folder = folder_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(OWNER_ALONE).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    let is_new = publish(&temporary, path);
    let _ = fs::remove_file(&temporary);
    // The name is durable with the folder.
    File::open(folder)?.sync_all()?;
    is_new
}

/// Gives a file its name, unless the name is taken.
fn publish(temporary: &Path, path: &Path) -> io::Result<bool> {
    match fs::hard_link(temporary, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // A file system without links: a rename is as whole, but could replace a file that appears at this very moment.
        Err(_) => fs::rename(temporary, path).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_written_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let (first, is_new) = read_or_write(&path, "one").unwrap();
        assert_eq!((first.as_str(), is_new), ("one\n", true));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (second, is_new) = read_or_write(&path, "two").unwrap();
        assert_eq!((second.as_str(), is_new), ("one\n", false));
        assert!(!write_new(&path, "three").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["root.key"]);
    }

    #[test]
    fn a_file_is_replaced_and_its_former_content_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.key");
        let former = beside(&path, ".a1");
        read_or_write(&path, "one").unwrap();
        read_or_write(&next(&path), "two").unwrap();
        for _ in 0..2 {
            keep(&path, &former).unwrap();
        }
        replace(&path).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().as_str(), "two\n");
        assert_eq!(read(&former).unwrap().unwrap().as_str(), "one\n");
        assert_eq!(read(&next(&path)).unwrap(), None);
        for path in [&path, &former] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(matches!(replace(&path), Err(KeyFileError::Io { name, .. }) if name == "secret.key"));
    }
}
