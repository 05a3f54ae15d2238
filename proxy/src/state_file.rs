//! Reads and writes files of the state folder.
//!
//! What such a file says is believed, so that only this user or root may have written it; and what is
//! found under its name is opened so that nothing there can hold up a start.

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The whole content of a file; `None` if there is none.
///
/// # Errors
/// If it is longer than `max_bytes`, is no file, belongs to somebody else, or others may write to it.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    read_closed(path, max_bytes, (0o022, "others may write to it: take it away, or chmod 600 it"))
}

/// The same of a file that nobody else may read either.
///
/// # Errors
/// As [`read`], and if others may read it.
pub fn read_secret(path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let open = "it is open to others than its owner: chmod 600 it if nobody has read it, else take it away";
    read_closed(path, max_bytes, (0o077, open))
}

fn read_closed(path: &Path, max_bytes: u64, closed: (u32, &str)) -> io::Result<Option<Vec<u8>>> {
    // A FIFO without a writer is opened at once, and a link leads nowhere.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(odd("it is a link: put the file itself there".to_owned()));
        }
        file => file?,
    };
    check(&file, closed)?;
    let mut content = Vec::new();
    if file.take(max_bytes + 1).read_to_end(&mut content)? as u64 > max_bytes {
        return Err(odd(format!("it is longer than {max_bytes} bytes")));
    }
    Ok(Some(content))
}

/// A file that is longer was not written here.
const MAX_DOCUMENT: u64 = 64 << 20;

/// A document in a form that has a number.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

/// The JSON document in a file, which is of the form `version`; `None` if there is none.
///
/// # Errors
/// As [`read`], and if it has another form.
pub fn read_document<T: DeserializeOwned>(path: &Path, version: u32) -> io::Result<Option<T>> {
    let Some(text) = read(path, MAX_DOCUMENT)? else { return Ok(None) };
    let document: Versioned<T> = serde_json::from_slice(&text)?;
    if document.version != version {
        return Err(odd("it has the form of another version".to_owned()));
    }
    Ok(Some(document.content))
}

/// Replaces a file by a JSON document of the form `version`.
///
/// # Errors
/// As [`write()`].
pub fn write_document<T: Serialize>(path: &Path, version: u32, content: T) -> io::Result<()> {
    write(path, &serde_json::to_vec(&Versioned { version, content })?)
}

/// Replaces a file as a whole; whoever reads it meanwhile sees the one before.
///
/// # Errors
/// If its folder cannot be written to.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    place(path, content, |beside| fs::rename(beside, path))
}

/// Writes a file that is not there yet, whole or not at all.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if another process was first; if the folder cannot be written to.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    place(path, content, |beside| {
        let linked = fs::hard_link(beside, path);
        fs::remove_file(beside).ok();
        linked
    })
}

fn place(path: &Path, content: &[u8], into_place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = Path::new(&beside);
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let moved = written.and_then(|()| into_place(beside));
    if moved.is_err() {
        fs::remove_file(beside).ok();
    }
    moved
}

fn check(file: &File, (closed, open): (u32, &str)) -> io::Result<()> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(odd("it is no regular file: take it away".to_owned()));
    }
    let own = geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        let owner = found.uid();
        return Err(odd(format!("it belongs to user {owner}, and this process runs as {own}: take it away")));
    }
    if found.mode() & closed != 0 {
        return Err(odd(open.to_owned()));
    }
    Ok(())
}

fn odd(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::process::Command;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn only_own_files_that_nobody_else_can_write_are_read() {
        let folder = Folder(std::env::temp_dir().join(format!("portunus-state-{}", std::process::id())));
        fs::create_dir_all(&folder.0).unwrap();
        let at = |name: &str| folder.0.join(name);
        let with_mode = |name: &str, mode| {
            write(&at(name), b"text").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in [("own", 0o600), ("readable", 0o644), ("group", 0o620), ("world", 0o602)] {
            with_mode(name, mode);
        }
        symlink(at("own"), at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        let cases: [(&str, u64, Result<Option<&[u8]>, &str>); 9] = [
            ("own", 4, Ok(Some(b"text"))),
            ("readable", 4, Ok(Some(b"text"))),
            ("missing", 4, Ok(None)),
            ("own", 3, Err("longer")),
            ("group", 4, Err("others may write")),
            ("world", 4, Err("others may write")),
            ("folder", 4, Err("no regular file")),
            ("fifo", 4, Err("no regular file")),
            ("link", 4, Err("it is a link: put the file itself there")),
        ];
        for (name, max_bytes, expected) in cases {
            let secret = read_secret(&at(name), max_bytes);
            match name {
                "readable" => {
                    let refused = secret.unwrap_err().to_string();
                    assert!(refused.contains("open to others"), "{refused}");
                }
                _ => assert_eq!(secret.is_ok(), expected.is_ok(), "{name}"),
            }
            match (read(&at(name), max_bytes), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{name}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }
}
