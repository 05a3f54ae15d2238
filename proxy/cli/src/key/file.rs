//! A file of keys on disk: read, changed and replaced as a whole, by one process at a time.

use portunus_config::{Environment, KeysFile, ProcessEnvironment};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A change under way: nobody else changes a file of this folder until it is dropped.
pub(super) struct Edit {
    /// The keys, to be changed.
    pub(super) keys: KeysFile,
    path: PathBuf,
    /// Access rights of the file that is replaced.
    mode: u32,
    folder: File,
}

/// The keys of a file.
///
/// # Errors
/// If it cannot be read, or something in it is wrong.
pub(super) fn read(path: &Path) -> Result<KeysFile, String> {
    let text = ProcessEnvironment.file(path).map_err(|error| failed(path, &error))?;
    KeysFile::read(&text, path).map_err(|report| format!("{} cannot be used:\n{report}", path.display()))
}

impl Edit {
    /// A change of a file that exists.
    ///
    /// # Errors
    /// If it cannot be read or locked.
    pub(super) fn open(path: &Path) -> Result<Edit, String> {
        // A link, as deployment tools make them, is followed: the file behind it is replaced.
        let path = path.canonicalize().map_err(|error| failed(path, &error))?;
        let folder = lock(&path)?;
        let mode = fs::metadata(&path).map_err(|error| failed(&path, &error))?.permissions().mode();
        Ok(Edit { keys: read(&path)?, path, mode, folder })
    }

    /// The same, of a file that is made with [`Edit::save`] if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read or locked.
    pub(super) fn open_or_create(path: &Path) -> Result<Edit, String> {
        if path.exists() {
            return Edit::open(path);
        }
        let folder = lock(path)?;
        match path.exists() {
            // Somebody else was faster.
            true => {
                drop(folder);
                Edit::open(path)
            }
            false => Ok(Edit { keys: KeysFile::default(), path: path.to_owned(), mode: 0o600, folder }),
        }
    }

    /// Replaces the file: whoever reads it finds the old or the new one, whole.
    ///
    /// # Errors
    /// If it cannot be written; it is then as it was.
    pub(super) fn save(self) -> Result<(), String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let fresh = self.path.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = write(&fresh, &self.keys.to_string(), self.mode)
            .and_then(|()| fs::rename(&fresh, &self.path))
            .and_then(|()| self.folder.sync_all());
        written.map_err(|error| {
            fs::remove_file(&fresh).ok();
            failed(&self.path, &error)
        })
    }
}

/// Waits for its turn with the folder of `path`. The file itself is replaced: a lock on it would be
/// one on the file that was.
fn lock(path: &Path) -> Result<File, String> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let opened = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    opened.map_err(|error| failed(folder, &error))
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    // One that a process of this number left behind.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    file.sync_all()
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => {
            format!("{} does not exist; `portunus key new` makes it", path.display())
        }
        _ => format!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::KeyEntry;
    use portunus_filters::identity::Principal;
    use portunus_filters::identity::api_key::{KnownKey, ServerKey, mint};
    use std::sync::atomic::{AtomicU8, Ordering};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("portunus-keys-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn entry(seed: u8) -> KeyEntry {
        let (id, whole) = mint(&[seed; 42]);
        let holder = Principal::named("acme", "alice");
        KeyEntry { known: KnownKey::new(id, holder, ServerKey::none().store(&whole), None), note: None }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_and_keeps_its_rights() {
        let folder = Folder::new("rights");
        let path = folder.0.join("keys.yaml");
        assert!(Edit::open(&path).is_err_and(|problem| problem.contains("does not exist")));
        Edit::open_or_create(&path).unwrap().save().unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let mut edit = Edit::open(&path).unwrap();
        edit.keys.keys.push(entry(1));
        edit.save().unwrap();
        assert_eq!((mode(&path), read(&path).unwrap().keys), (0o640, vec![entry(1)]));
        let left: Vec<_> = fs::read_dir(&folder.0).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = Folder::new("link");
        let (path, link) = (folder.0.join("real.yaml"), folder.0.join("keys.yaml"));
        Edit::open_or_create(&path).unwrap().save().unwrap();
        std::os::unix::fs::symlink("real.yaml", &link).unwrap();
        let mut edit = Edit::open_or_create(&link).unwrap();
        edit.keys.keys.push(entry(1));
        edit.save().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&path).unwrap().keys, [entry(1)]);
    }

    #[test]
    fn a_file_that_is_wrong_is_left_as_it_is() {
        let folder = Folder::new("wrong");
        let path = folder.0.join("keys.yaml");
        fs::write(&path, "version: 1\nkeys: {mine: {}}\n").unwrap();
        assert!(Edit::open_or_create(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "version: 1\nkeys: {mine: {}}\n");
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let folder = Folder::new("race");
        let path = folder.0.join("keys.yaml");
        let next = AtomicU8::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut edit = Edit::open_or_create(&path).unwrap();
                    edit.keys.keys.push(entry(next.fetch_add(1, Ordering::Relaxed)));
                    edit.save().unwrap();
                });
            }
        });
        assert_eq!(read(&path).unwrap().keys.len(), 8);
    }
}
