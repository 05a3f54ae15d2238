//! The sealing key of a process whose configuration names none: made once, and kept in its state folder.
//!
//! So the sessions that it gave out outlive it. It is known to nobody else: replicas need a key in common,
//! which only the configuration can give them.

use crate::state_file;
use portunus_base::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use std::path::Path;

const NAME: &str = "sealing.key";
const BYTES: usize = 32;

/// The key, unless the configuration names others.
///
/// # Errors
/// If there is a file that is no key of ours, it is open to others, or the folder cannot be written to.
pub(crate) fn kept_key(folder: &Path, configured: &[Secret]) -> io::Result<Option<[u8; BYTES]>> {
    if !configured.is_empty() {
        return Ok(None);
    }
    if let Some(key) = read(folder)? {
        return Ok(Some(key));
    }
    let mut key = [0; BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the system has no randomness"))?;
    match state_file::create(&folder.join(NAME), &key) {
        // Another process was first, and its key is the one.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(folder),
        made => made.map(|()| Some(key)),
    }
}

fn read(folder: &Path) -> io::Result<Option<[u8; BYTES]>> {
    let path = folder.join(NAME);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let Some(found) = state_file::read_secret(&path, BYTES as u64).map_err(named)? else { return Ok(None) };
    let wrong = |_| {
        let problem = format!("{} is no sealing key: remove it, and sessions begin anew", path.display());
        io::Error::new(io::ErrorKind::InvalidData, problem)
    };
    found.try_into().map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let folder = std::env::temp_dir().join(format!("portunus-kept-key-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let first = kept_key(&folder, &[]).unwrap().unwrap();
        assert_eq!(kept_key(&folder, &[]).unwrap(), Some(first));
        let path = folder.join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(kept_key(&folder, &[]).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for wrong in [&b"short"[..], &[1; BYTES + 1]] {
            fs::write(&path, wrong).unwrap();
            assert!(kept_key(&folder, &[]).unwrap_err().to_string().contains("sealing.key"));
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
