//! What is compared: who, with which configuration, and how it is started.

use super::site::{GATEWAY_CORE, Site};
use crate::root;
use crate::step::{Failure, succeeds};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Open files of a peer: two for each idle connection, and room.
const FILES: u32 = 20_000;

/// Where a peer's standard output and error go, in its folder.
const OUTPUT: &str = "output.log";

/// One worker, as all peers have, and no shared memory with another Envoy of this machine.
const ENVOY: &[&str] =
    &["--concurrency", "1", "--log-level", "warn", "--use-dynamic-base-id", "--config-path"];

/// One row of the comparison.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its name on the command line and in the table.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) about: &'static str,
    program: Program,
    /// Marked lines of its configuration that are in force.
    marks: &'static [&'static str],
    /// What calls are like.
    pub(super) caller: Caller,
    /// The table it is in.
    pub(super) table: Table,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A modern client (2026-07-28) of which nothing is known.
    Bare,
    /// One with a token.
    Token,
    /// A client of the era before (2025-11-25) with a token, in one session.
    LegacyToken,
}

/// Rows that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// Proxies without an access log.
    Quiet,
    /// The same gateway, whose work for a call differs.
    Served,
    /// Proxies with an access log.
    Logging,
}

impl Table {
    /// Every table.
    pub(super) const ALL: [Table; 3] = [Table::Quiet, Table::Served, Table::Logging];
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Nothing: calls go straight to the server.
    Direct,
    Nginx,
    HaProxy,
    Envoy,
    Portunus,
}

const fn quiet(name: &'static str, program: Program, about: &'static str) -> Peer {
    Peer { name, about, program, marks: &["quiet"], caller: Caller::Bare, table: Table::Quiet }
}

const fn served(name: &'static str, marks: &'static [&'static str], about: &'static str) -> Peer {
    Peer { name, about, program: Program::Portunus, marks, caller: Caller::Token, table: Table::Served }
}

const fn legacy(name: &'static str, marks: &'static [&'static str], about: &'static str) -> Peer {
    Peer { caller: Caller::LegacyToken, ..served(name, marks, about) }
}

const fn logging(name: &'static str, program: Program, about: &'static str) -> Peer {
    Peer { name, about, program, marks: &["log"], caller: Caller::Bare, table: Table::Logging }
}

/// All of them.
pub(super) const PEERS: [Peer; 20] = [
    quiet("direct", Program::Direct, "no proxy: calls go straight to the server"),
    quiet("nginx", Program::Nginx, "nginx, `proxy_pass` with kept-alive upstream connections"),
    quiet("haproxy", Program::HaProxy, "HAProxy, HTTP mode with reused upstream connections"),
    quiet("envoy", Program::Envoy, "Envoy, plain route"),
    Peer {
        marks: &["quiet", "mcp"],
        ..quiet("envoy-mcp", Program::Envoy, "Envoy with its `mcp` filter: parses each call")
    },
    Peer {
        marks: &["quiet", "mcp", "full"],
        caller: Caller::Token,
        ..quiet(
            "envoy-full",
            Program::Envoy,
            "Envoy with `jwt_authn` (token cached), `mcp`, `rbac` on the tool and the role, `local_ratelimit`",
        )
    },
    Peer {
        marks: &["quiet", "plain"],
        ..quiet("portunus", Program::Portunus, "Portunus, one MCP route: parse and route")
    },
    served("passed", &["quiet", "plain"], "the row `portunus`, with a token that does not go through"),
    served(
        "passed-judged",
        &["quiet", "own", "judged"],
        "the token verified (cached) and a policy in Rego asked for the method, the tool and the role; the token goes through",
    ),
    served(
        "served",
        &["quiet", "same"],
        "calls with a token are served: their server knows callers by nothing",
    ),
    served("served-judged", &["quiet", "same", "judged"], "the row `served`, token and policy as above"),
    served("served-several", &["quiet", "several"], "the same with three servers behind one URL"),
    served("served-other-era", &["quiet", "other"], "the same before a server of the era before"),
    legacy("passed-legacy", &["quiet", "plain"], "the row `passed` for a client of the era before"),
    legacy(
        "served-legacy",
        &["quiet", "other"],
        "calls of a client of the era before are served by a server of it",
    ),
    legacy("legacy-other-era", &["quiet", "same"], "the same before a modern server"),
    logging("nginx-log", Program::Nginx, "nginx with its access log in a file"),
    logging("haproxy-log", Program::HaProxy, "HAProxy with its log on standard output"),
    logging("envoy-log", Program::Envoy, "Envoy, plain route, with its access log in a file"),
    Peer {
        marks: &["log", "plain"],
        ..logging("portunus-log", Program::Portunus, "Portunus, one MCP route, with its access log in a file")
    },
];

impl Peer {
    /// Whether it is an Envoy.
    pub(super) fn is_envoy(&self) -> bool {
        self.program == Program::Envoy
    }

    /// Whether there is a process in between.
    pub(super) fn is_proxy(&self) -> bool {
        self.program != Program::Direct
    }

    /// Whether it is measured with calls of this size: those with a log only with small ones, since
    /// a line of a log does not grow with the body, and what serving adds hardly does.
    pub(super) fn takes(&self, size: u32) -> bool {
        self.table == Table::Quiet || size == super::SIZES[0]
    }

    /// Starts it on a core of its own.
    ///
    /// # Errors
    /// If its files cannot be written or its program not be run.
    pub(super) fn start(&self, site: &Site) -> Result<Running, Failure> {
        let folder = site.folder.join(self.name);
        if !self.is_proxy() {
            return Ok(Running {
                peer: self.name,
                listen: site.upstream(),
                child: None,
                caller: Caller::Bare,
                folder,
            });
        }
        let listen = free_address()?;
        let config = self.configure(site, &folder, listen).map_err(|error| Failure {
            problem: format!("{}: {error}", folder.display()),
            mend: "look at the owner of the folder and the space on its disk".to_owned(),
        })?;
        let child = self.spawn(site, &folder, &config).map_err(|error| Failure {
            problem: format!("cannot run {}: {error}", self.name),
            mend: "look whether `taskset` and `prlimit` of util-linux are there".to_owned(),
        })?;
        Ok(Running { peer: self.name, listen, child: Some(child), caller: self.caller, folder })
    }

    /// Writes its configuration and gives the path.
    fn configure(&self, site: &Site, folder: &Path, listen: SocketAddr) -> std::io::Result<PathBuf> {
        // Logs of earlier turns would fill the disk.
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let template = fs::read_to_string(peers_folder().join(self.template()))?;
        let upstream = site.upstream();
        let words = [
            ("@LISTEN@", listen.to_string()),
            ("@LISTEN_HOST@", listen.ip().to_string()),
            ("@LISTEN_PORT@", listen.port().to_string()),
            ("@UPSTREAM@", upstream.to_string()),
            ("@UPSTREAM_HOST@", upstream.ip().to_string()),
            ("@UPSTREAM_PORT@", upstream.port().to_string()),
            ("@FOLDER@", folder.display().to_string()),
            ("@PEERS@", peers_folder().display().to_string()),
        ];
        let path = folder.join(self.template());
        fs::write(&path, fill(&template, self.marks, &words))?;
        Ok(path)
    }

    fn template(&self) -> &'static str {
        match self.program {
            Program::Direct => "",
            Program::Nginx => "nginx.conf",
            Program::HaProxy => "haproxy.cfg",
            Program::Envoy => "envoy.yaml",
            Program::Portunus => "portunus.yaml",
        }
    }

    fn spawn(&self, site: &Site, folder: &Path, config: &Path) -> std::io::Result<Child> {
        let output = File::create(folder.join(OUTPUT))?;
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={FILES}:{FILES}")).args(["taskset", "--cpu-list", GATEWAY_CORE]);
        let envoy = site.envoy.as_deref().unwrap_or(Path::new("envoy"));
        let (words, tail): (&[&OsStr], &[&str]) = match self.program {
            Program::Direct => (&[], &[]),
            Program::Nginx => (&["nginx".as_ref()], &["-e", "stderr", "-c"]),
            Program::HaProxy => (&["haproxy".as_ref()], &["-db", "-f"]),
            Program::Envoy => (&[envoy.as_ref()], ENVOY),
            Program::Portunus => (&[site.portunus.as_ref()], &["run", "--config"]),
        };
        command.args(words).args(tail).arg(config);
        command.current_dir(folder).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output).spawn()
    }
}

/// The configurations as they are kept in the repository.
fn peers_folder() -> PathBuf {
    root().join("benches/peers")
}

/// A configuration with the lines of these marks and no others, and its words filled in.
fn fill(template: &str, marks: &[&str], words: &[(&str, String)]) -> String {
    let mut text = String::new();
    for line in template.lines() {
        let start = line.len() - line.trim_start().len();
        match mark(&line[start..]) {
            Some((mark, rest)) if marks.contains(&mark) => {
                text.push_str(&format!("{}{rest}\n", &line[..start]))
            }
            Some(_) => {}
            None => text.push_str(&format!("{line}\n")),
        }
    }
    words.iter().fold(text, |text, (word, value)| text.replace(word, value))
}

/// `#mark# rest` of a line.
fn mark(line: &str) -> Option<(&str, &str)> {
    let (mark, rest) = line.strip_prefix('#')?.split_once('#')?;
    let word = !mark.is_empty() && mark.bytes().all(|byte| byte.is_ascii_lowercase());
    word.then(|| (mark, rest.strip_prefix(' ').unwrap_or(rest)))
}

/// An address that nobody listens on, below the range from which outgoing connections take theirs.
fn free_address() -> Result<SocketAddr, Failure> {
    (21_000..30_000)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .ok_or_else(|| Failure {
            problem: "no port from 21000 to 29999 is free".to_owned(),
            mend: "end what listens on them".to_owned(),
        })
}

/// A peer at work; dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    /// Its name.
    pub(super) peer: &'static str,
    /// Where calls go.
    pub(super) listen: SocketAddr,
    /// What they are like.
    pub(super) caller: Caller,
    child: Option<Child>,
    folder: PathBuf,
}

impl Running {
    /// That something about it went wrong.
    pub(super) fn failure(&self, why: &str) -> Failure {
        Failure {
            problem: format!("{}: {why}", self.peer),
            mend: format!("its last words are in {}", self.folder.join(OUTPUT).display()),
        }
    }

    /// Its process, if there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Resident memory of it and its children.
    ///
    /// # Errors
    /// If it is gone.
    pub(super) fn resident_kib(&self) -> Result<u64, Failure> {
        let resident = self.pid().and_then(resident_kib);
        resident.ok_or_else(|| self.failure("it has ended"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // A kill would leave the workers of nginx behind.
        if !succeeds("kill", &["-TERM", &child.id().to_string()]) {
            child.kill().ok();
        }
        child.wait().ok();
    }
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let own: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|pid| resident_kib(pid.parse().ok()?));
    Some(own + below.sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_lines_are_in_force_for_their_rows_only() {
        let template = "# about #1\na @WORD@\n  #log# b\n  #quiet# c\n    #log#   d\n";
        let words = [("@WORD@", "x".to_owned())];
        assert_eq!(fill(template, &["log"], &words), "# about #1\na x\n  b\n      d\n");
        assert_eq!(fill(template, &["quiet"], &words), "# about #1\na x\n  c\n");
    }

    #[test]
    fn every_peer_has_a_configuration_without_open_words() {
        for peer in PEERS.iter().filter(|peer| peer.is_proxy()) {
            let template = fs::read_to_string(peers_folder().join(peer.template())).unwrap();
            let lines = template.lines().filter_map(|line| mark(line.trim_start()));
            let known: Vec<&str> = PEERS.iter().flat_map(|peer| peer.marks).copied().collect();
            assert!(lines.clone().all(|(mark, _)| known.contains(&mark)), "{}", peer.name);
            assert!(template.contains("@LISTEN"), "{}", peer.name);
        }
    }
}
