//! The first hour: `portunus demo` prints what to try, and all of it works.

use crate::harness::{Demo, Runtime, within};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// The printed curl commands, each as one line of a shell.
fn curls(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let starts = line.starts_with("  curl ");
        if starts {
            commands.push(String::new());
        }
        if let Some(command) = commands.last_mut().filter(|_| starts || goes_on) {
            command.push_str(line);
            command.push('\n');
        }
        goes_on = (starts || goes_on) && line.ends_with('\\');
    }
    commands
}

/// What a shell prints for a command, with the HTTP status behind it.
async fn shell(command: &str) -> (String, String) {
    let command = format!("{} -w '\\n%{{http_code}}'", command.trim_end());
    let output = Command::new("sh").args(["-c", &command]).kill_on_drop(true).output();
    let output = within(30, &command, output).await.unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (body.to_owned(), status.to_owned())
}

/// The message of an answer, which may be JSON or an event stream.
fn message(body: &str) -> Value {
    let data = |line: &str| serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).ok();
    body.lines().find_map(data).unwrap_or_else(|| panic!("no message in {body}"))
}

async fn try_what_is_printed(demo: &Demo) {
    let curls = curls(&demo.text);
    assert_eq!(curls.len(), 3, "{}", demo.text);
    let (body, status) = shell(&curls[0]).await;
    assert_eq!(status, "200", "{body}");
    assert_eq!(message(&body)["result"]["content"][0]["text"], "hello", "modern: {body}");
    let (body, status) = shell(&curls[1]).await;
    assert!(status == "200" && body.to_ascii_lowercase().contains("mcp-session-id: "), "legacy: {body}");
    assert_eq!(message(&body)["result"]["protocolVersion"], "2025-11-25", "legacy: {body}");
    let (body, status) = shell(&curls[2]).await;
    assert_eq!((status.as_str(), message(&body)["error"]["code"].as_i64()), ("400", Some(-32020)), "{body}");
    for label in ["metrics", "status"] {
        let (body, status) = shell(&format!("curl -s {}", demo.labelled(label))).await;
        assert!(status == "200" && !body.is_empty(), "{label}: {status} {body}");
    }
    for client in ["Claude Code", "VS Code", "Cursor"] {
        let line = demo.text.lines().find(|line| line.trim_start().starts_with(client)).unwrap();
        assert!(line.contains(demo.url()), "{line}");
    }
    println!("{} printed curl commands answered as the text says", curls.len());
}

/// A client of each SDK and generation: its runtime, its program, and the program's arguments.
pub(super) const CLIENTS: [(Runtime, &str, &str, &str); 4] = [
    (Runtime::Python1, "demo.py", "1", "legacy"),
    (Runtime::Node, "demo.mjs", "1", "legacy"),
    (Runtime::Python2, "demo.py", "2", "2026-07-28"),
    (Runtime::Node, "demo.mjs", "2", "2026-07-28"),
];

pub(super) async fn run() {
    let mut demo = Demo::start().await;
    println!("{}", demo.text);
    assert!(demo.url().ends_with("/mcp"), "{}", demo.url());
    try_what_is_printed(&demo).await;
    for (runtime, program, generation, mode) in CLIENTS {
        print!("{}", runtime.run(90, program, &[generation, mode, demo.url()]).await);
    }
    let pid = demo.process.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = within(5, "the end of the demo", demo.process.wait()).await.unwrap();
    let mut errors = String::new();
    demo.process.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
    assert_eq!(status.code(), Some(0), "Ctrl-C ends it cleanly: {errors}");
    assert!(!errors.contains("ERROR") && !errors.contains("panicked"), "{errors}");
    println!("Ctrl-C ended it with {status} and without an error; on standard error:\n{errors}");
}
