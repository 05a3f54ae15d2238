//! The clients that can be connected, and the text for each.
//!
//! Names and URLs are put into each text as its language quotes them. The forms were taken from the
//! documentation of each client as of November 2026, and tried with those that run in a terminal.

use clap::ValueEnum;
use serde_json::{Value, json};

/// An MCP client, or an SDK to write one with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Client {
    /// Anthropic's agent for the terminal.
    ClaudeCode,
    /// Anthropic's desktop application.
    ClaudeDesktop,
    /// Visual Studio Code with Copilot.
    #[value(name = "vscode")]
    VsCode,
    /// The editor Cursor.
    Cursor,
    /// OpenAI's agent for the terminal.
    Codex,
    /// Google's agent for the terminal.
    Gemini,
    /// A program on the Python SDK, generation 2.
    Python,
    /// A program on the Python SDK, generation 1.
    #[value(name = "python-v1")]
    PythonV1,
    /// A program on the TypeScript SDK, generation 2.
    #[value(name = "typescript")]
    TypeScript,
    /// A program on the TypeScript SDK, generation 1.
    #[value(name = "typescript-v1")]
    TypeScriptV1,
}

/// What is to be connected to.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What the client calls it: letters, digits, `-` and `_`.
    pub name: String,
    /// Where it is: printable ASCII, without a backslash or a `$`.
    pub url: String,
}

/// One way to connect a client.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// Where the text goes.
    pub place: &'static str,
    /// The text, without a line end at its end.
    pub body: String,
}

impl Client {
    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Client::ClaudeCode => "Claude Code",
            Client::ClaudeDesktop => "Claude Desktop",
            Client::VsCode => "Visual Studio Code",
            Client::Cursor => "Cursor",
            Client::Codex => "Codex",
            Client::Gemini => "Gemini CLI",
            Client::Python => "Python SDK 2 (package mcp 2.x)",
            Client::PythonV1 => "Python SDK 1 (package mcp 1.24 or later)",
            Client::TypeScript => "TypeScript SDK 2 (package @modelcontextprotocol/client)",
            Client::TypeScriptV1 => "TypeScript SDK 1 (package @modelcontextprotocol/sdk)",
        }
    }

    /// The texts that connect it, the preferred one first.
    pub(crate) fn texts(self, entry: &Entry) -> Vec<Text> {
        let Entry { name, url } = entry;
        let text = |place, body: String| Text { place, body };
        let json = |place, value: Value| text(place, indented(&value));
        match self {
            Client::ClaudeCode => vec![
                text("In a terminal:", format!("claude mcp add --transport http {name} {}", shell(url))),
                json("Or for everybody in a project, in its `.mcp.json`:", typed("mcpServers", entry)),
            ],
            Client::ClaudeDesktop => vec![json(DESKTOP_PLACE, desktop(entry))],
            Client::VsCode => vec![
                json("In `.vscode/mcp.json` of a workspace:", typed("servers", entry)),
                text(
                    "Or for all workspaces, in a terminal:",
                    format!(
                        "code --add-mcp {}",
                        shell(&json!({"name": name, "type": "http", "url": url}).to_string())
                    ),
                ),
            ],
            Client::Cursor => {
                let place = "In `~/.cursor/mcp.json`, or in `.cursor/mcp.json` of a project:";
                vec![json(place, json!({"mcpServers": {name: {"url": url}}}))]
            }
            Client::Codex => vec![
                text("In `~/.codex/config.toml`:", format!("[mcp_servers.{name}]\nurl = {}", quoted(url))),
                text("Or in a terminal:", format!("codex mcp add {name} --url {}", shell(url))),
            ],
            Client::Gemini => vec![
                json(
                    "In `~/.gemini/settings.json`, or in `.gemini/settings.json` of a project:",
                    json!({"mcpServers": {name: {"httpUrl": url}}}),
                ),
                text("Or in a terminal:", format!("gemini mcp add --transport http {name} {}", shell(url))),
            ],
            Client::Python => vec![text("As `connect.py`:", program(PYTHON, url))],
            Client::PythonV1 => vec![text("As `connect.py`:", program(PYTHON_V1, url))],
            Client::TypeScript => vec![text("As `connect.mjs`:", program(TYPESCRIPT, url))],
            Client::TypeScriptV1 => vec![text("As `connect.mjs`:", program(TYPESCRIPT_V1, url))],
        }
    }

    /// How to see that it worked.
    pub(crate) fn check(self) -> &'static str {
        match self {
            Client::ClaudeCode => {
                "`claude mcp list` says that it is connected; in a session, `/mcp` lists the tools"
            }
            Client::ClaudeDesktop => {
                "quit the application and start it again; Settings, Developer shows the server as running. \
                 The package mcp-remote needs Node 18 or later; its log is `mcp-server-NAME.log` in the log \
                 folder of the application"
            }
            Client::VsCode => {
                "run `MCP: List Servers` in the command palette, start the server, and see its tools"
            }
            Client::Cursor => "the settings list the server under MCP with its tools",
            Client::Codex => "in a session, `/mcp` lists the server with its tools",
            Client::Gemini => {
                "`gemini mcp list` says that it is connected, in a folder that Gemini trusts; in a session, `/mcp` \
                 lists the tools"
            }
            Client::Python => {
                "`pip install 'mcp>=2'`, then `python connect.py` prints the names of the tools"
            }
            Client::PythonV1 => {
                "`pip install 'mcp>=1.24,<2'`, then `python connect.py` prints the names of the tools"
            }
            Client::TypeScript => {
                "`npm install @modelcontextprotocol/client`, then `node connect.mjs` prints the names of the tools"
            }
            Client::TypeScriptV1 => {
                "`npm install @modelcontextprotocol/sdk`, then `node connect.mjs` prints the names of the tools"
            }
        }
    }
}

const DESKTOP_PLACE: &str = "In `claude_desktop_config.json` (Settings, Developer, Edit Config), which is in\n\
    `~/Library/Application Support/Claude/` on macOS, `%APPDATA%\\Claude\\` on Windows, `~/.config/Claude/` on Linux.\n\
    Its own connectors reach public `https` URLs only; this way the bridge mcp-remote does it:";

const PYTHON: &str = "\
import asyncio

from mcp import Client


async def main() -> None:
    async with Client({url}) as client:
        for tool in (await client.list_tools()).tools:
            print(tool.name)


asyncio.run(main())";

const PYTHON_V1: &str = "\
import asyncio

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main() -> None:
    async with streamable_http_client({url}) as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            for tool in (await session.list_tools()).tools:
                print(tool.name)


asyncio.run(main())";

const TYPESCRIPT: &str = "\
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const client = new Client(
  { name: 'first-hour', version: '1.0.0' },
  // By default it speaks no revision after 2025-11-25.
  { versionNegotiation: { mode: 'auto' } },
);
await client.connect(new StreamableHTTPClientTransport(new URL({url})));
const { tools } = await client.listTools();
console.log(tools.map(tool => tool.name).join('\\n'));
await client.close();";

const TYPESCRIPT_V1: &str = "\
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const client = new Client({ name: 'first-hour', version: '1.0.0' });
const transport = new StreamableHTTPClientTransport(new URL({url}));
await client.connect(transport);
const { tools } = await client.listTools();
console.log(tools.map(tool => tool.name).join('\\n'));
await transport.terminateSession();
await client.close();";

/// `{"KEY": {"NAME": {"type": "http", "url": "URL"}}}`
fn typed(key: &str, Entry { name, url }: &Entry) -> Value {
    json!({key: {name: {"type": "http", "url": url}}})
}

fn desktop(Entry { name, url }: &Entry) -> Value {
    let mut arguments = vec!["-y", "mcp-remote", url];
    // Without TLS the bridge takes these two hosts only.
    let own = ["http://localhost:", "http://localhost/", "http://127.0.0.1:", "http://127.0.0.1/"];
    if url.starts_with("http://") && !own.iter().any(|start| url.starts_with(start)) {
        arguments.push("--allow-http");
    }
    json!({"mcpServers": {name: {"command": "npx", "args": arguments}}})
}

fn indented(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn program(text: &str, url: &str) -> String {
    text.replace("{url}", &quoted(url))
}

/// A string of JSON, which for printable ASCII is one of TOML, Python and JavaScript too.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// One word of a POSIX shell.
fn shell(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    match text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a URL may hold at its worst.
    const URL: &str = "http://[::1]:8080/a'b;c&d/mcp?x=(1)*~!|";

    fn entry() -> Entry {
        Entry { name: "portunus-a".to_owned(), url: URL.to_owned() }
    }

    fn texts(client: Client) -> Vec<String> {
        client.texts(&entry()).into_iter().map(|text| text.body).collect()
    }

    /// The words of a command line, as a shell takes them apart.
    fn words(command: &str) -> Vec<String> {
        let script = format!("printf '%s\\n' {command}");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn json_texts_hold_the_url_where_the_client_looks_for_it() {
        let cases = [
            (Client::ClaudeCode, 1, "/mcpServers/portunus-a/url"),
            (Client::ClaudeCode, 1, "/mcpServers/portunus-a/type=http"),
            (Client::ClaudeDesktop, 0, "/mcpServers/portunus-a/args/2"),
            (Client::ClaudeDesktop, 0, "/mcpServers/portunus-a/command=npx"),
            (Client::VsCode, 0, "/servers/portunus-a/url"),
            (Client::VsCode, 0, "/servers/portunus-a/type=http"),
            (Client::Cursor, 0, "/mcpServers/portunus-a/url"),
            (Client::Gemini, 0, "/mcpServers/portunus-a/httpUrl"),
        ];
        for (client, index, expected) in cases {
            let text = &texts(client)[index];
            let parsed: Value = serde_json::from_str(text).unwrap();
            let url = entry().url;
            let (pointer, value) = expected.split_once('=').unwrap_or((expected, &url));
            assert_eq!(parsed.pointer(pointer).and_then(Value::as_str), Some(value), "{client:?}: {text}");
        }
    }

    #[test]
    fn commands_reach_the_client_word_by_word() {
        let url = entry().url;
        let cases = [
            (Client::ClaudeCode, 0, vec!["claude", "mcp", "add", "--transport", "http", "portunus-a", &url]),
            (Client::Codex, 1, vec!["codex", "mcp", "add", "portunus-a", "--url", &url]),
            (Client::Gemini, 1, vec!["gemini", "mcp", "add", "--transport", "http", "portunus-a", &url]),
        ];
        for (client, index, expected) in cases {
            assert_eq!(words(&texts(client)[index]), expected, "{client:?}");
        }
        let code = words(&texts(Client::VsCode)[1]);
        assert_eq!(code[..2], ["code", "--add-mcp"]);
        let added: Value = serde_json::from_str(&code[2]).unwrap();
        assert_eq!(added, json!({"name": "portunus-a", "type": "http", "url": url}));
    }

    #[test]
    fn toml_holds_the_url() {
        let parsed: toml::Table = texts(Client::Codex)[0].parse().unwrap();
        assert_eq!(parsed["mcp_servers"]["portunus-a"]["url"].as_str(), Some(entry().url.as_str()));
    }

    #[test]
    fn programs_hold_the_url_as_one_string() {
        for client in [Client::Python, Client::PythonV1, Client::TypeScript, Client::TypeScriptV1] {
            let text = &texts(client)[0];
            assert!(
                text.contains(&format!("({})", quoted(&entry().url))) && !text.contains("{url}"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_bridge_is_told_where_plain_http_leaves_this_machine() {
        let cases = [
            ("http://localhost:8080/mcp", false),
            ("http://127.0.0.1/mcp", false),
            ("https://gw.example.com/mcp", false),
            ("http://gw.example.com/mcp", true),
            ("http://[::1]:8080/mcp", true),
            ("http://localhost.example.com/mcp", true),
        ];
        for (url, told) in cases {
            let entry = Entry { name: "a".to_owned(), url: url.to_owned() };
            assert_eq!(desktop(&entry).to_string().contains("--allow-http"), told, "{url}");
        }
    }
}
