//! Programs of the operating system that a build or a test needs.

use crate::step::{Failure, Step, output_of, say, succeeds};
use std::path::Path;

/// A program, how to find out that it is there, and the Debian packages that bring it.
pub(crate) struct Tool {
    name: &'static str,
    packages: &'static [&'static str],
    present: fn() -> bool,
}

/// What the build of the gateway needs: Pingora compresses with zlib-ng, which is built by cmake.
pub(crate) const BUILD: &[Tool] = &[
    Tool { name: "cmake", packages: &["cmake"], present: || succeeds("cmake", &["--version"]) },
    Tool { name: "make", packages: &["make"], present: || succeeds("make", &["--version"]) },
    Tool {
        name: "a C compiler",
        packages: &["gcc", "libc6-dev"],
        present: || succeeds("cc", &["--version"]),
    },
];

/// What libFuzzer is built with.
pub(crate) const FUZZ: &[Tool] =
    &[Tool { name: "a C++ compiler", packages: &["g++"], present: || succeeds("c++", &["--version"]) }];

/// The clients of the show `tls`.
pub(crate) const TLS: &[Tool] = &[
    Tool { name: "openssl", packages: &["openssl"], present: || succeeds("openssl", &["version"]) },
    Tool { name: "curl", packages: &["curl"], present: || succeeds("curl", &["--version"]) },
];

/// What builds a server's reader in the show `readers`.
pub(crate) const READERS: &[Tool] =
    &[Tool { name: "Go", packages: &["golang-go"], present: || succeeds("go", &["version"]) }];

/// The profiler under which the shows `instructions` and `walk` run the gateway.
pub(crate) const PROFILE: &[Tool] =
    &[Tool { name: "valgrind", packages: &["valgrind"], present: || succeeds("valgrind", &["--version"]) }];

/// What brings the SDK clients of the tests.
pub(crate) const SDK: &[Tool] = &[
    Tool { name: "node", packages: &["nodejs"], present: || succeeds("node", &["--version"]) },
    Tool { name: "npm", packages: &["npm"], present: || succeeds("npm", &["--version"]) },
    Tool {
        name: "Python 3.10 or later with venv",
        packages: &["python3", "python3-venv"],
        present: || python().is_some(),
    },
];

/// Whom the gateway is compared with, and what pins processes to cores.
pub(crate) const COMPARE: &[Tool] = &[
    Tool { name: "nginx", packages: &["nginx"], present: || succeeds("nginx", &["-v"]) },
    Tool { name: "HAProxy", packages: &["haproxy"], present: || succeeds("haproxy", &["-v"]) },
    Tool {
        name: "taskset and prlimit",
        packages: &["util-linux"],
        present: || succeeds("taskset", &["--version"]) && succeeds("prlimit", &["--version"]),
    },
    Tool {
        name: "Python 3.10 or later with venv",
        packages: &["python3", "python3-venv"],
        present: || python().is_some(),
    },
];

/// A Python that can make the environments of the tests.
///
/// Debian ships `venv` without the part that puts pip into an environment, hence `ensurepip`.
pub(crate) fn python() -> Option<&'static str> {
    const PROBE: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"]
        .into_iter()
        .find(|name| succeeds(name, &["-c", PROBE]))
}

/// Makes sure that all of `tools` are there.
///
/// # Errors
/// Without root, or on another system than Debian, the line to run.
pub(crate) fn ensure(tools: &[&[Tool]]) -> Result<(), Failure> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    let (names, packages) = (names.join(", "), packages.join(" "));
    let root = output_of("id", &["-u"]).as_deref() == Some("0");
    match (Path::new("/etc/debian_version").exists(), root) {
        (true, true) => install(&names, &packages)?,
        (true, false) => {
            return Err(Failure {
                problem: format!("not on this machine: {names}"),
                mend: format!("sudo apt-get update && sudo apt-get install -y {packages}"),
            });
        }
        (false, _) => {
            return Err(Failure {
                problem: format!("not on this machine: {names}"),
                mend: format!("install them by your system's packages (on Debian: {packages})"),
            });
        }
    }
    match self::missing(tools).as_slice() {
        [] => Ok(()),
        [tool, ..] => Err(Failure {
            problem: format!("{} is still not found after its packages were installed", tool.name),
            mend: "look whether PATH leads to it, and whether this Debian's version is recent enough"
                .to_owned(),
        }),
    }
}

fn missing<'a>(tools: &[&'a [Tool]]) -> Vec<&'a Tool> {
    tools.iter().copied().flatten().filter(|tool| !(tool.present)()).collect()
}

fn install(names: &str, packages: &str) -> Result<(), Failure> {
    const MEND: &str = "look at the network and at the package sources of this machine";
    say(&format!("Not on this machine, so it is installed now: {names}"));
    Step::new("Read the list of packages", "apt-get update --quiet").mend(MEND).run()?;
    Step::new("Install packages", "apt-get install --yes --quiet --no-install-recommends")
        .with(|command| {
            command.args(packages.split(' ')).env("DEBIAN_FRONTEND", "noninteractive");
        })
        .mend(MEND)
        .run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_absent_is_missing() {
        const SOME: &[Tool] = &[
            Tool { name: "here", packages: &["a"], present: || true },
            Tool { name: "gone", packages: &["b"], present: || false },
        ];
        let names: Vec<&str> = missing(&[SOME, SOME]).iter().map(|tool| tool.name).collect();
        assert_eq!(names, ["gone", "gone"]);
    }
}
