//! What a load reads from outside the document.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::yaml;

/// What a load reads from outside the document.
pub trait Environment {
    /// An environment variable; `None` if it is not set or not UTF-8.
    fn variable(&self, name: &str) -> Option<String>;

    /// The content of a file.
    ///
    /// # Errors
    /// Whatever the file system says; [`io::ErrorKind::InvalidData`] for text that is not UTF-8 or
    /// larger than any document.
    fn file(&self, path: &Path) -> io::Result<String>;

    /// The names in a folder, sorted, without hidden ones; there is none by default.
    ///
    /// # Errors
    /// Whatever the file system says; [`io::ErrorKind::InvalidData`] for more names than any policy
    /// has, or a name that is not UTF-8.
    fn folder(&self, _path: &Path) -> io::Result<Vec<String>> {
        Err(io::ErrorKind::NotFound.into())
    }

    /// The time since the Unix epoch, for warnings about certificates that expire; the epoch itself
    /// where there is no clock.
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether users other than the owner and the group can read a file.
    fn world_readable(&self, _path: &Path) -> bool {
        false
    }
}

/// Most names of one folder.
const MAX_NAMES: usize = 10_000;

/// The variables and files of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        let bound = yaml::MAX_BYTES + 1;
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        file.take(u64::try_from(bound).unwrap_or(u64::MAX)).read_to_string(&mut text)?;
        match text.len() < bound {
            true => Ok(text),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 8 MiB")),
        }
    }

    fn folder(&self, path: &Path) -> io::Result<Vec<String>> {
        let invalid = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let name = entry?.file_name().into_string().map_err(|_| invalid("a name in it is not UTF-8"))?;
            if !name.starts_with('.') {
                names.push(name);
            }
            if names.len() > MAX_NAMES {
                return Err(invalid("more than 10,000 names are in it"));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    #[expect(clippy::disallowed_methods, reason = "this is where a load reads the time")]
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    #[cfg(unix)]
    fn world_readable(&self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    }
}

/// Variables and files that exist only in memory, for demos and tests.
#[derive(Clone, Debug, Default)]
pub struct MapEnvironment {
    /// Variables by name.
    pub variables: BTreeMap<String, String>,
    /// Contents by path.
    pub files: BTreeMap<PathBuf, String>,
    /// The time since the Unix epoch.
    pub now: Duration,
}

impl Environment for MapEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn folder(&self, path: &Path) -> io::Result<Vec<String>> {
        let below = self.files.keys().filter_map(|file| file.strip_prefix(path).ok());
        let names: BTreeSet<String> = below
            .filter_map(|rest| Some(rest.components().next()?.as_os_str().to_str()?.to_owned()))
            .filter(|name| !name.starts_with('.'))
            .collect();
        match names.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(names.into_iter().collect()),
        }
    }

    fn now(&self) -> Duration {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Severity, load};

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("portunus-config-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn write(&self, name: &str, text: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    const TEXT: &str = "version: 1\n\
        upstreams: {a: {url: 'http://localhost:1/', credentials: {bearer: 'file:token'}}}\n\
                        servers: {/mcp: a}\n";

    #[test]
    fn a_folder_is_loaded_by_its_gateway_file() {
        let folder = Folder::new("folder");
        let file = folder.write("gateway.yaml", TEXT.as_bytes());
        let token = folder.write("token", b"t0k\n");
        let loaded = load(&folder.0, &ProcessEnvironment).unwrap();
        assert_eq!(loaded.sources, [file, token]);
        assert!(loaded.snapshot.upstreams[0].addresses.loopback);
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_that_everyone_can_read_is_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("mode");
        folder.write("gateway.yaml", TEXT.as_bytes());
        let token = folder.write("token", b"t0k\n");
        for (mode, expected) in [(0o600, 0), (0o640, 0), (0o644, 1)] {
            std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
            let warnings = load(&folder.0, &ProcessEnvironment).unwrap().warnings;
            assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
            let count = warnings.iter().filter(|warning| warning.problem.starts_with("every user")).count();
            assert_eq!(count, expected, "{mode:o}");
        }
    }

    #[test]
    fn files_are_text_of_a_bounded_size() {
        let folder = Folder::new("bounded");
        let at_bound = folder.write("at", &vec![b'#'; yaml::MAX_BYTES]);
        let beyond = folder.write("beyond", &vec![b'#'; yaml::MAX_BYTES + 1]);
        let binary = folder.write("binary", &[0xff, 0xfe]);
        assert!(ProcessEnvironment.file(&at_bound).is_ok());
        for path in [beyond, binary] {
            assert_eq!(ProcessEnvironment.file(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
