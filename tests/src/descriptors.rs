//! A process that may open few files: it serves within that, and says so.

use crate::harness::{Client, Gateway, Upstream, binary, rpc, within};
use std::path::Path;
use std::process::{Command, Stdio};

/// The gateway under a limit of open files, hard and soft.
pub(crate) fn limited(hard: u32, soft: u32) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" run --config gateway.yaml");
    command.args(["-c", &script]).arg(binary()).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn document(upstream: &Upstream) -> String {
    format!("upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n", upstream.address)
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::start_as(&document(&upstream), |_: &Path| limited(4_096, 64)).await;
    assert_eq!(gateway.metric("process_max_fds").await, Some(4_096.0));
    assert!(gateway.metric("process_open_fds").await > Some(5.0));
}

#[tokio::test]
async fn too_many_clients_are_shed_while_calls_and_surfaces_are_served() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::start_as(&document(&upstream), |_: &Path| limited(256, 256)).await;
    let doubt = gateway.status().await["warnings"].to_string();
    assert!(doubt.contains("a process may have 256 files open"), "{doubt}");
    let mut held: Vec<Client> = Vec::new();
    for _ in 0..300 {
        held.push(Client::connect(gateway.address).await);
    }
    let shed = gateway.logged("the complaint", |entry| {
        entry["message"].as_str().is_some_and(|message| message.starts_with("file descriptors run out"))
    });
    assert_eq!(shed.await["limit"], 256);
    // Those that were let in call, all at once, and each needs a connection to the server.
    let mut served = 0;
    for client in &mut held {
        client.try_post("/mcp", &[], rpc(1, "tools/call", r#"{"name":"echo"}"#).as_bytes()).await.ok();
    }
    for client in &mut held {
        if let Some(response) = within(20, "an answer", client.try_response()).await {
            assert!(matches!(response.status, 200 | 503), "{}", response.status);
            served += u32::from(response.status == 200);
        }
    }
    assert!(served >= 50, "{served} calls were served");
    assert!(gateway.metric("portunus_descriptors_refused_total{for=\"client\"}").await > Some(100.0));
    assert_eq!(gateway.get(gateway.telemetry, "/readyz").await.status, 200);
    assert_eq!(gateway.status().await["phase"], "serving");
    drop(held);
    within(20, "a place", async {
        loop {
            let response = gateway.post("/mcp", &[], &rpc(2, "tools/call", r#"{"name":"echo"}"#)).await;
            if response.status == 200 {
                return;
            }
        }
    })
    .await;
}

#[test]
fn check_compares_the_limit_with_the_connections_that_are_wanted() {
    let folder = std::env::temp_dir().join(format!("portunus-{}-descriptors", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("gateway.yaml");
    let checked = |connections: u32| {
        let text = format!(
            "version: 1\nlisteners:\n  - {{ bind: 127.0.0.1:0, limits: {{ max_connections: {connections} }} }}\n\
             upstreams:\n  up: http://127.0.0.1:1/mcp\nservers:\n  /mcp: up\n"
        );
        std::fs::write(&path, text).unwrap();
        let script = "ulimit -n 512 && exec \"$0\" check \"$1\"";
        let output = Command::new("sh").args(["-c", script]).arg(binary()).arg(&path).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let (few, many) = (checked(100), checked(1_000));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(!few.contains("files open"), "{few}");
    assert!(many.contains("limits.max_connections") && many.contains("1000 connections"), "{many}");
    assert!(many.contains("hint: allow"), "{many}");
}
