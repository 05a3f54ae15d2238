//! `init` in front of three public SDK servers, `run` with what it wrote, and the text of `connect`
//! for each client.
//!
//! Programs are run. What other clients are given is read as they read it, and an SDK client goes
//! to the URL in it. Where `PORTUNUS_CLIENTS` names a folder with the npm packages of the clients
//! (`@anthropic-ai/claude-code`, `@google/gemini-cli`, `@openai/codex`, `mcp-remote`), they are
//! configured with the texts and asked themselves; none of them needs an account for that.

use crate::harness::{Gateway, Runtime, Server, binary, within};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// A server of the show: its path at the gateway, a tool that it has, and whether it speaks each era.
struct Case {
    path: String,
    tool: &'static str,
    legacy: bool,
}

pub(super) async fn run() {
    let scratch = Runtime::Node.folder("first-tools");
    let everything = Server::everything().await;
    let python = Server::start(Runtime::Python1, "upstream_legacy.py").await;
    let modern = Server::start(Runtime::Node, "upstream_modern.mjs").await;
    let urls = [everything.url(), python.url(), modern.url()];
    let text = initialized(&scratch, &urls).await;
    let gateway = Gateway::as_written(&text).await;
    let cases = cases(&text);
    for case in &cases {
        let url = format!("http://{}{}", gateway.address, case.path);
        programs(&scratch, case, &url).await;
        settings(&scratch, case, &url).await;
    }
    match std::env::var_os("PORTUNUS_CLIENTS") {
        Some(clients) => {
            let url = format!("http://{}{}", gateway.address, cases[0].path);
            Installed { clients: clients.into(), home: scratch.clone() }.all(&url).await;
        }
        None => println!("PORTUNUS_CLIENTS is not set: no client itself was asked"),
    }
    fs::remove_dir_all(scratch).unwrap();
}

/// Runs `init` and `check`; gives what was written.
async fn initialized(scratch: &Path, urls: &[String; 3]) -> String {
    let mut arguments = vec!["init", "--listen", "127.0.0.1:0"];
    arguments.extend(urls.iter().map(String::as_str));
    let output = portunus(scratch, &arguments).await;
    println!("{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(scratch.join("gateway.yaml")).unwrap();
    println!("{text}");
    let output = portunus(scratch, &["check", "gateway.yaml"]).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{told}");
    assert_eq!(told.matches("warning:").count(), 1, "only that there is no policy");
    text
}

async fn portunus(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(60, &arguments.join(" "), command.output()).await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

/// The servers in the order of the document.
fn cases(text: &str) -> Vec<Case> {
    let servers = text.split("\nservers:\n").nth(1).unwrap();
    let paths = servers.lines().filter_map(|line| line.trim().split_once(": "));
    let facts = [("echo", true), ("echo", true), ("echo", false)];
    let cases =
        paths.zip(facts).map(|((path, _), (tool, legacy))| Case { path: path.to_owned(), tool, legacy });
    let cases: Vec<Case> = cases.collect();
    assert_eq!(cases.len(), 3, "{servers}");
    cases
}

async fn text_for(scratch: &Path, client: &str, url: &str) -> String {
    let output = portunus(scratch, &["connect", client, "--url", url, "--raw"]).await;
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the programs for the SDKs that speak an era of the server.
async fn programs(scratch: &Path, case: &Case, url: &str) {
    let all = [
        (Runtime::Python2, "python", "connect.py", true),
        (Runtime::Python1, "python-v1", "connect.py", case.legacy),
        (Runtime::Node, "typescript", "connect.mjs", true),
        (Runtime::Node, "typescript-v1", "connect.mjs", case.legacy),
    ];
    for (runtime, client, file, speaks) in all {
        if !speaks {
            println!("{:<24} {client:<16} speaks no revision of this server", case.path);
            continue;
        }
        let program = scratch.join(file);
        fs::write(&program, text_for(scratch, client, url).await).unwrap();
        let told = runtime.run(60, program.to_str().unwrap(), &[]).await;
        assert!(told.lines().any(|line| line == case.tool), "{client} at {}: {told}", case.path);
        println!("{:<24} {client:<16} ran, {} tools", case.path, told.lines().count());
    }
}

/// Reads what clients are configured with, and sends an SDK client to the URL in it.
async fn settings(scratch: &Path, case: &Case, url: &str) {
    for client in ["claude-code", "claude-desktop", "vscode", "cursor", "codex", "gemini"] {
        let text = text_for(scratch, client, url).await;
        let found = url_in(client, &text);
        let program = scratch.join("settings.mjs");
        fs::write(&program, text_for(scratch, "typescript", &found).await).unwrap();
        let told = Runtime::Node.run(60, program.to_str().unwrap(), &[]).await;
        assert!(told.lines().any(|line| line == case.tool), "{client} at {}: {told}", case.path);
        println!(
            "{:<24} {client:<16} names {found}, an SDK client sees {} tools",
            case.path,
            told.lines().count()
        );
    }
}

/// The URL at the place where the client looks for it.
fn url_in(client: &str, text: &str) -> String {
    let pointer = match client {
        "claude-code" => return text.trim().rsplit(' ').next().unwrap().to_owned(),
        "codex" => {
            let line = text.lines().find_map(|line| line.strip_prefix("url = ")).unwrap();
            return line.trim_matches('"').to_owned();
        }
        "claude-desktop" => "/mcpServers/portunus/args/2",
        "vscode" => "/servers/portunus/url",
        "cursor" => "/mcpServers/portunus/url",
        _ => "/mcpServers/portunus/httpUrl",
    };
    let parsed: Value = serde_json::from_str(text).unwrap();
    parsed.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{client}: {text}")).to_owned()
}

/// Clients that are installed, with a home of their own.
struct Installed {
    clients: PathBuf,
    home: PathBuf,
}

impl Installed {
    async fn all(&self, url: &str) {
        self.claude_code(url).await;
        self.gemini(url).await;
        self.codex(url).await;
        self.bridge(url).await;
    }

    /// The program of a package, if it is there.
    fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.clients.join("node_modules/.bin").join(name);
        if !path.exists() {
            println!("{name} is not installed in {}", self.clients.display());
        }
        path.exists().then_some(path)
    }

    /// Runs a line of a shell in which the client is found by its name.
    async fn shell(&self, line: &str) -> String {
        let node = Runtime::Node.home();
        let system = std::env::var("PATH").unwrap_or_default();
        let path =
            format!("{}:{}:{system}", self.clients.join("node_modules/.bin").display(), node.display());
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&self.home).stdin(Stdio::null()).kill_on_drop(true);
        command.env("PATH", path).env("HOME", &self.home).env("GEMINI_CLI_TRUST_WORKSPACE", "true");
        let output = within(120, line, command.output()).await.unwrap();
        let told = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&told).into_owned()
    }

    async fn claude_code(&self, url: &str) {
        if self.program("claude").is_none() {
            return;
        }
        let added = self.shell(&text_for(&self.home, "claude-code", url).await).await;
        let told = self.shell("claude mcp list").await;
        let line = told.lines().find(|line| line.starts_with("portunus:"));
        assert!(line.is_some_and(|line| line.contains("Connected")), "{added}\n{told}");
        println!("claude mcp list: {}", line.unwrap_or_default());
    }

    async fn gemini(&self, url: &str) {
        if self.program("gemini").is_none() {
            return;
        }
        fs::create_dir_all(self.home.join(".gemini")).unwrap();
        fs::write(self.home.join(".gemini/settings.json"), text_for(&self.home, "gemini", url).await)
            .unwrap();
        let told = self.shell("gemini mcp list").await;
        let line = told.lines().find(|line| line.contains("portunus:"));
        assert!(line.is_some_and(|line| line.contains("Connected")), "{told}");
        println!("gemini mcp list: {}", line.unwrap_or_default());
    }

    async fn codex(&self, url: &str) {
        if self.program("codex").is_none() {
            return;
        }
        fs::create_dir_all(self.home.join(".codex")).unwrap();
        fs::write(self.home.join(".codex/config.toml"), text_for(&self.home, "codex", url).await).unwrap();
        let told = self.shell("codex mcp list --json").await;
        assert!(told.contains(url) && told.contains("streamable_http"), "{told}");
        println!("codex mcp list: reads the server with its URL (it does not connect)");
    }

    /// The bridge that Claude Desktop starts, spoken to as it is spoken to.
    async fn bridge(&self, url: &str) {
        let Some(program) = self.program("mcp-remote") else { return };
        let parsed: Value = serde_json::from_str(&text_for(&self.home, "claude-desktop", url).await).unwrap();
        let server = &parsed["mcpServers"]["portunus"];
        assert_eq!((&server["command"], &server["args"][1]), (&json!("npx"), &json!("mcp-remote")));
        let rest = server["args"].as_array().unwrap().iter().skip(2).filter_map(Value::as_str);
        let mut command = Command::new(Runtime::Node.interpreter());
        command.arg(fs::canonicalize(program).unwrap()).args(rest).env("HOME", &self.home).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut input = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let messages = [
            json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}),
        ];
        for message in &messages[..1] {
            input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
        }
        let answer = |line: Option<String>| -> Value { serde_json::from_str(&line.unwrap()).unwrap() };
        let opened = answer(within(60, "the bridge", lines.next_line()).await.unwrap());
        assert!(opened["result"]["serverInfo"].is_object(), "{opened}");
        for message in &messages[1..] {
            input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
        }
        let listed = answer(within(60, "the tools", lines.next_line()).await.unwrap());
        let tools = listed["result"]["tools"].as_array().map_or(0, Vec::len);
        assert!(tools > 0, "{listed}");
        println!("mcp-remote: {tools} tools");
    }
}
