//! `portunus connect`: the exact text that connects an MCP client to a gateway.

mod clients;
mod place;

use clients::{Client, Entry, Text};

use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Which client to connect to which server.
#[derive(Debug, Args)]
pub(crate) struct ConnectArguments {
    /// The client; without one, all are listed.
    client: Option<Client>,
    /// URL of the server at the gateway, instead of what the configuration says.
    #[arg(long)]
    url: Option<String>,
    /// Configuration of the gateway.
    #[arg(long, short, default_value = "gateway.yaml", value_name = "FILE", conflicts_with = "url")]
    config: PathBuf,
    /// Path or name of one of the configuration's servers.
    #[arg(long, conflicts_with = "url", value_name = "PATH")]
    server: Option<String>,
    /// What the client calls it: letters, digits, `-` and `_`.
    #[arg(long)]
    name: Option<String>,
    /// Print nothing but the text.
    #[arg(long, requires = "client")]
    raw: bool,
}

/// Prints the text.
///
/// # Errors
/// If no server is chosen or its URL cannot be told, in words for the terminal.
#[expect(clippy::print_stdout, reason = "the answer of the command")]
pub(crate) fn run(arguments: &ConnectArguments) -> Result<ExitCode, String> {
    let Some(client) = arguments.client else {
        println!("{}", list());
        return Ok(ExitCode::SUCCESS);
    };
    let found = match &arguments.url {
        Some(url) => place::given(url)?,
        None => place::configured(&arguments.config, arguments.server.as_deref())?,
    };
    let name = match &arguments.name {
        Some(name) if is_plain(name) => name.clone(),
        Some(_) => {
            return Err("--name: clients take letters, digits, `-` and `_`, at most 64".to_owned());
        }
        None => found.name,
    };
    let entry = Entry { name, url: found.url };
    let texts = client.texts(&entry);
    if arguments.raw {
        if let Some(text) = texts.first() {
            println!("{}", text.body);
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: connect to {}", client.title(), entry.url);
    for note in &found.notes {
        println!("Note: {note}.");
    }
    for Text { place, body } in texts {
        println!("\n{place}\n\n{body}");
    }
    println!("\nCheck: {}.", client.check());
    Ok(ExitCode::SUCCESS)
}

fn list() -> String {
    let mut text = "Clients that `portunus connect CLIENT` has a text for:\n".to_owned();
    for client in Client::value_variants() {
        if let Some(value) = client.to_possible_value() {
            text += &format!("\n  {:<15} {}", value.get_name(), client.title());
        }
    }
    text + "\n\nThe URL is taken from `gateway.yaml`, from `--config FILE`, or from `--url URL`."
}

/// A name that every client takes.
fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
