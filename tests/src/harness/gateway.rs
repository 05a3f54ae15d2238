//! The gateway as a process.

use super::{Client, Response, within};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

static NEXT: AtomicU32 = AtomicU32::new(0);
static BUILD: Once = Once::new();
static BUILD_MARKING: Once = Once::new();

/// The binary under test: the one that `PORTUNUS_BINARY` names, or else built once if it is not current.
pub(crate) fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("PORTUNUS_BINARY") {
        return named.into();
    }
    BUILD.call_once(|| build(&[]));
    built("portunus")
}

/// The optimised binary: the one that `PORTUNUS_RELEASE` names, or else built if it is not current, which takes minutes.
pub(crate) fn release_binary() -> PathBuf {
    if let Some(named) = std::env::var_os("PORTUNUS_RELEASE") {
        return named.into();
    }
    build(&["--release"]);
    built_as("release", "portunus")
}

/// The binary whose filter marks what it sees, built once if it is not current.
pub(crate) fn marking_binary() -> PathBuf {
    BUILD_MARKING.call_once(|| build(&["--features", "text-marker", "--bin", "portunus-text-marker"]));
    built("portunus-text-marker")
}

fn build(more: &[&str]) {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "portunus-cli"])
        .args(more)
        .status()
        .unwrap();
    assert!(built.success(), "the gateway does not build");
}

/// The test binary is target/PROFILE/deps/NAME; the gateway is target/debug/portunus.
fn built(name: &str) -> PathBuf {
    built_as("debug", name)
}

fn built_as(profile: &str, name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(3).unwrap().join(profile).join(name)
}

/// A folder that goes with the last gateway in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Arc<Scratch> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("portunus-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Arc::new(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A running gateway and its scratch folder; both end with the value.
pub(crate) struct Gateway {
    child: Child,
    folder: Arc<Scratch>,
    log: Arc<Mutex<Vec<Value>>>,
    lines: watch::Receiver<usize>,
    /// Where MCP clients connect.
    pub(crate) address: SocketAddr,
    /// Telemetry surface.
    pub(crate) telemetry: SocketAddr,
    /// Admin surface.
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts a gateway with `/mcp` in front of one upstream.
    pub(crate) async fn before(upstream: SocketAddr) -> Gateway {
        Gateway::start(&format!("upstreams:\n  up: http://{upstream}/mcp\nservers:\n  /mcp: up\n")).await
    }

    /// Starts a gateway on `text` as it is; only the log takes the form that is read here.
    pub(crate) async fn as_written(text: &str) -> Gateway {
        Gateway::as_written_by(text, |_| run()).await
    }

    /// The same by what `command` makes of the scratch folder.
    pub(crate) async fn as_written_by(text: &str, command: impl FnOnce(&Path) -> Command) -> Gateway {
        let folder = Scratch::new();
        let text = format!("{text}\nlog: {{ level: info, format: json }}\n");
        std::fs::write(folder.0.join("gateway.yaml"), text).unwrap();
        let command = command(&folder.0);
        Gateway::launch(folder, command).await
    }

    /// Starts a gateway on `document`, to which listeners, surfaces and state are added.
    pub(crate) async fn start(document: &str) -> Gateway {
        Gateway::start_as(document, |_| run()).await
    }

    /// The same with files beside the document: `(name, text)`.
    pub(crate) async fn start_beside(files: &[(&str, &str)], document: &str) -> Gateway {
        let place = |folder: &Path| {
            for (name, text) in files {
                std::fs::write(folder.join(name), text).unwrap();
            }
            run()
        };
        Gateway::start_as(document, place).await
    }

    /// Starts what `command` makes of the scratch folder, with a configuration in it.
    pub(crate) async fn start_as(document: &str, command: impl FnOnce(&Path) -> Command) -> Gateway {
        let folder = Scratch::new();
        std::fs::write(folder.0.join("gateway.yaml"), complete(document, &folder.0)).unwrap();
        let command = command(&folder.0);
        Gateway::launch(folder, command).await
    }

    /// Starts a successor on what the configuration is now; it serves in place of this gateway.
    pub(crate) async fn succeed(&self) -> Gateway {
        let mut command = run();
        command.arg("--upgrade");
        Gateway::launch(Arc::clone(&self.folder), command).await
    }

    /// Starts another on what this one has left, which has ended.
    pub(crate) async fn again(&self) -> Gateway {
        Gateway::launch(Arc::clone(&self.folder), run()).await
    }

    /// Runs a command of the binary beside this gateway, to its end.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Output {
        // Files, since a pipe would not end with a command that leaves a process behind.
        let files = ["stdout", "stderr"].map(|name| self.folder().join(name));
        let [stdout, stderr] = files.each_ref().map(|path| Stdio::from(File::create(path).unwrap()));
        let mut command = tokio::process::Command::new(binary());
        command.args(arguments).current_dir(self.folder()).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let status = within(20, "the end of the command", child.wait()).await.unwrap();
        let [stdout, stderr] = files.map(|path| std::fs::read(path).unwrap());
        Output { status, stdout, stderr }
    }

    async fn launch(folder: Arc<Scratch>, mut command: Command) -> Gateway {
        command.current_dir(&folder.0).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Sockets that it was given are its own now.
        drop(command);
        let (sender, lines) = watch::channel(0);
        let log: Arc<Mutex<Vec<Value>>> = Arc::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let entry = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.lock().unwrap().push(entry);
                sender.send_modify(|count| *count += 1);
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gateway =
            Gateway { child, folder, log, lines, address: nowhere, telemetry: nowhere, admin: nowhere };
        gateway.logged("the start line", |entry| entry["message"] == "ready").await;
        gateway.address = gateway.listening("mcp");
        gateway.telemetry = gateway.listening("telemetry");
        gateway.admin = gateway.listening("admin");
        gateway
    }

    fn listening(&self, surface: &str) -> SocketAddr {
        let log = self.log.lock().unwrap();
        let entry = log.iter().find(|entry| entry["message"] == "listening" && entry["surface"] == surface);
        entry.unwrap()["address"].as_str().unwrap().parse().unwrap()
    }

    /// Where the listener of this name takes connections.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        let log = self.log.lock().unwrap();
        let entry = log.iter().find(|entry| entry["message"] == "listening" && entry["name"] == name);
        entry.unwrap()["address"].as_str().unwrap().parse().unwrap()
    }

    /// Until this is dropped, nobody reads what it logs, and nothing can be looked up in it.
    pub(crate) fn unread(&self) -> impl Sized + use<> {
        let log = Arc::clone(&self.log);
        let ((held, is_held), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        std::thread::spawn(move || {
            let _log = log.lock().unwrap();
            held.send(()).unwrap();
            released.recv().ok();
        });
        is_held.recv().unwrap();
        release
    }

    /// Waits for a line of the log.
    pub(crate) async fn logged(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let mut lines = self.lines.clone();
        let found = async {
            loop {
                lines.borrow_and_update();
                let found = self.log.lock().unwrap().iter().find(|entry| matches(entry)).cloned();
                if let Some(entry) = found {
                    return entry;
                }
                assert!(lines.changed().await.is_ok(), "the gateway ended: {:?}", self.log.lock().unwrap());
            }
        };
        within(20, what, found).await
    }

    /// Sends a command to the control socket.
    pub(crate) async fn control(&self, path: &str) {
        let socket = self.folder().join("state/control.sock");
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(10, "the answer of the control socket", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }

    /// Everything logged so far, as text.
    pub(crate) fn log_text(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|entry| format!("{entry}\n"))
            .collect()
    }

    /// The records of the access log so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a record.
    pub(crate) async fn recorded(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                if let Some(record) = self.records().into_iter().find(|record| matches(record)) {
                    return record;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within(10, what, found).await
    }

    /// A connection of a client.
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One POST on a connection of its own.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, String)], body: &str) -> Response {
        let mut client = self.connect().await;
        client.post(path, headers, body.as_bytes()).await;
        client.response().await
    }

    /// One GET of an operating surface.
    pub(crate) async fn get(&self, surface: SocketAddr, path: &str) -> Response {
        let mut client = Client::connect(surface).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {surface}\r\n\r\n").as_bytes()).await;
        client.response().await
    }

    /// `/status` as JSON.
    pub(crate) async fn status(&self) -> Value {
        serde_json::from_slice(&self.get(self.admin, "/status").await.body).unwrap()
    }

    /// Waits for a state that `/status` shows.
    pub(crate) async fn reaches(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let reached = async {
            loop {
                let status = self.status().await;
                if matches(&status) {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within(10, what, reached).await
    }

    /// The value of one metric line, labels included in `name`.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = String::from_utf8(self.get(self.telemetry, "/metrics").await.body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// The sum of a counter over all label sets that hold `label`.
    pub(crate) async fn counted(&self, counter: &str, label: &str) -> f64 {
        let text = String::from_utf8(self.get(self.telemetry, "/metrics").await.body).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(counter) && line.contains(label));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until such a sum is reached.
    pub(crate) async fn counts(&self, counter: &str, label: &str, sum: f64) {
        let reached = async {
            while self.counted(counter, label).await < sum {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within(10, &format!("{counter} {label} to be {sum}"), reached).await;
        let now = self.counted(counter, label).await;
        assert!((now - sum).abs() < 0.5, "{counter} {label} is {now}, not {sum}");
    }

    /// Waits until `/refusals` tells a cause.
    pub(crate) async fn tells(&self, cause: &str) {
        let told = async {
            loop {
                let refusals = self.get(self.admin, "/refusals").await.body;
                if String::from_utf8(refusals).unwrap().contains(cause) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within(5, &format!("the refusal `{cause}`"), told).await;
    }

    /// Replaces the configuration in one step.
    pub(crate) fn configure(&self, document: &str) {
        let next = self.folder().join("next.yaml");
        std::fs::write(&next, complete(document, self.folder())).unwrap();
        std::fs::rename(next, self.folder().join("gateway.yaml")).unwrap();
    }

    /// Replaces a file beside the document in one step.
    pub(crate) fn place(&self, name: &str, text: &str) {
        let next = self.folder().join(format!("{name}.next"));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.folder().join(name)).unwrap();
    }

    /// The scratch folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut lines = self.lines.clone();
        // The log closes with the process.
        within(20, "the end of the gateway", async { while lines.changed().await.is_ok() {} }).await;
        self.child.wait().unwrap()
    }

    /// Waits for the end of a process whose log another goes on to write, or nobody reads.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let exited = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within(20, "the end of the gateway", exited).await
    }

    /// Lines of the log that match, so far.
    pub(crate) fn logged_so_far(&self, matches: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|entry| matches(entry)).cloned().collect()
    }

    /// Process id, for reading its memory.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most that resident memory has been since the start.
    pub(crate) fn peak_resident_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// A line of the kernel's account of the process (proc(5), `/proc/pid/status`).
    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let log = self.log_text();
        if std::thread::panicking() {
            println!("log of the gateway:\n{log}");
        }
        self.child.kill().ok();
        self.child.wait().ok();
        if !std::thread::panicking() {
            assert!(!log.contains("panicked"), "the gateway panicked:\n{log}");
        }
    }
}

/// The gateway on the configuration of its folder.
pub(crate) fn run() -> Command {
    run_binary(&binary())
}

/// The same of another binary.
pub(crate) fn run_binary(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["run", "--config", "gateway.yaml"]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A document with what every test needs.
fn complete(document: &str, folder: &Path) -> String {
    let listen = if document.contains("listeners:") || document.contains("listen:") {
        ""
    } else {
        "listen: 127.0.0.1:0\n"
    };
    // Under load a line per packet would be all that is measured: `level: LEVEL` asks for less.
    let (level, document) = match document.strip_prefix("level: ").and_then(|rest| rest.split_once('\n')) {
        Some((level, rest)) => (level, rest),
        None => ("debug", document),
    };
    let document = with_lenient_time_limit(document);
    format!(
        "version: 1\n{listen}telemetry: 127.0.0.1:0\nadmin: 127.0.0.1:0\nstate: {state}\n\
         access_log: {folder}/access.log\nlog: {{ level: {level}, format: json }}\n{document}",
        state = folder.join("state").display(),
        folder = folder.display()
    )
}

/// The document with more time for a decision where it says none: those of a build that is not optimised
/// are slow, and the machine may have other work.
fn with_lenient_time_limit(document: &str) -> String {
    let line = |line: &str| match line.strip_prefix("policy: ") {
        Some(_) if line.contains("time_limit") => line.to_owned(),
        Some(written) => match written.strip_prefix('{') {
            Some(fields) => format!("policy: {{time_limit: 1s, {fields}"),
            None => format!("policy: {{time_limit: 1s, path: {written}}}"),
        },
        None => line.to_owned(),
    };
    document.lines().map(|text| line(text) + "\n").collect()
}
