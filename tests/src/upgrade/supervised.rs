//! Under a supervisor: what systemd hears, and the sockets that it holds.

use super::{Counted, assert_ends_in_order, assert_serves, pretend};
use crate::harness::{Client, Gateway, Upstream, rpc, run};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a supervisor hears.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn heard(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.0.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next that is no sign of life.
    fn told(&self) -> String {
        loop {
            let heard = self.heard();
            if heard != "WATCHDOG=1\n" {
                return heard;
            }
        }
    }
}

#[tokio::test]
async fn a_supervisor_hears_of_each_step() {
    let upstream = Counted::start().await;
    let mut socket = None;
    let mut old = Gateway::start_as(&upstream.document(""), |folder: &Path| {
        let path = folder.join("notify");
        let bound = UnixDatagram::bind(&path).unwrap();
        bound.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket = Some(bound);
        let mut command = run();
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "20000000");
        command
    })
    .await;
    let supervisor = Supervisor(socket.unwrap());
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving\n");
    drop(pretend(&old));
    assert!(supervisor.told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(supervisor.told(), format!("MAINPID={}\n", old.pid()));
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving after an upgrade that failed\n");

    // The successor learns of the supervisor from the old process, its own environment has none.
    let mut new = old.succeed().await;
    assert!(supervisor.told().starts_with("RELOADING=1\n"));
    assert_eq!(supervisor.told(), format!("MAINPID={}\n", new.pid()));
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving\n");
    assert_ends_in_order(&mut old).await;
    new.signal("TERM");
    assert_eq!(supervisor.told(), "STOPPING=1\nSTATUS=draining\n");
    assert_ends_in_order(&mut new).await;
}

/// The gateway as systemd starts it with this socket.
fn activated(socket: &TcpListener, name: &str) -> Command {
    let mut command = Command::new("sh");
    // The number of the process is not known before it runs, and `exec` keeps it.
    command.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 0</dev/null"#]);
    command.arg(crate::harness::binary()).args(["run", "--config", "gateway.yaml"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap()))).stdout(Stdio::null());
    command
}

#[tokio::test]
async fn with_socket_activation_callers_wait_while_nothing_runs() {
    let upstream = Upstream::answering().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let document = format!(
        "listen: {address}\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    );
    // Connected, and asked, before there is anybody.
    let mut early = Client::connect(address).await;
    early.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    let mut first = Gateway::start_as(&document, |_| activated(&socket, "main")).await;
    assert_eq!(first.address, address);
    assert_eq!(early.response().await.status, 200);
    drop(early);

    // A successor has it from the first process, and must not close it for systemd either.
    let mut second = first.succeed().await;
    assert_ends_in_order(&mut first).await;
    assert_serves(&second).await;
    second.signal("TERM");
    assert_ends_in_order(&mut second).await;
    let mut between = Client::connect(address).await;
    between.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    let third = Gateway::start_as(&document, |_| activated(&socket, "main")).await;
    assert_eq!(between.response().await.status, 200);
    assert_serves(&third).await;
}

#[tokio::test]
async fn a_passed_socket_without_a_listener_is_an_error() {
    let upstream = Counted::start().await;
    let gateway = upstream.gateway().await;
    let stray = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = activated(&stray, "stray");
    // A place of its own: the other gateway only lends its configuration.
    let state = gateway.folder().join("elsewhere");
    let document = format!(
        "version: 1\nlisten: 127.0.0.1:0\nstate: {}\nupstreams:\n  up: http://127.0.0.1:1/mcp\nservers:\n  /mcp: up\n",
        state.display()
    );
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("gateway.yaml"), document).unwrap();
    let output = command.current_dir(&state).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("(`stray`), and no listener of the configuration has that address"), "{text}");
}
