//! `portunus init`: looks at MCP servers and writes a configuration in front of them.

mod document;
mod names;

use super::probe::{Progress, Report, Verdict, probe};
use super::screen::{BEAT, Screen};
use super::target::Target;
use clap::Args;
use document::{Looked, Settings, document};
use portunus_base::{Scheme, UpstreamUrl};
use portunus_config::units::parse_duration;
use portunus_config::{ProcessEnvironment, Upstream, load_text};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::interval;

/// Which servers, and where the configuration goes.
#[derive(Debug, Args)]
pub(crate) struct InitArguments {
    /// MCP endpoints, such as `http://127.0.0.1:9101/mcp`.
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// The file to write.
    #[arg(long, short, default_value = "gateway.yaml", value_name = "FILE")]
    output: PathBuf,
    /// Address for MCP clients.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// A bearer token, `env:NAME` or `file:PATH`; with several servers `HOST=env:NAME`, for each host.
    #[arg(long, value_name = "REFERENCE")]
    bearer: Vec<String>,
    /// Certificates (PEM) to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long to wait for each answer of a server.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// Let whoever reaches an address beyond loopback call every tool.
    #[arg(long)]
    allow_anonymous: bool,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
    /// Print the configuration instead of writing it.
    #[arg(long, conflicts_with_all = ["output", "force"])]
    stdout: bool,
}

/// Looks, writes, and says what is next; fails if one of the servers cannot be served.
///
/// # Errors
/// If nothing is written: a wrong argument, a file in the way, no server that can be served; in
/// words for the terminal.
pub(crate) fn run(arguments: &InitArguments) -> Result<ExitCode, String> {
    refuse_what_is_in_the_way(arguments)?;
    let targets = targets(arguments)?;
    let upstreams = compile(&targets)?;
    let mut screen = Screen::stderr();
    let reports = crate::block_on(look(&upstreams, arguments.timeout, &mut screen))
        .map_err(|error| format!("no runtime: {error}"))?;
    let served = reports.iter().filter(|report| report.served()).count();
    if served == 0 {
        return Err(
            "no server can be served, so nothing is written; `portunus probe URL` shows each step".to_owned()
        );
    }
    let looked = targets.iter().zip(&upstreams).zip(&reports);
    let looked: Vec<Looked<'_>> =
        looked.map(|((target, upstream), report)| Looked { target, upstream, report }).collect();
    let file = arguments.output.to_string_lossy();
    let text = document(&looked, Settings { listen: arguments.listen, file: &file });
    // A document that would be refused must not be handed over as a good one.
    load_text(&text, &arguments.output, &ProcessEnvironment)
        .map_err(|report| format!("the configuration for these servers would be refused:\n{report}"))?;
    if arguments.stdout {
        Screen::stdout().line(text.trim_end());
    } else {
        write(&arguments.output, &text, arguments.force)?;
        screen.line(&next(&file, served, reports.len()));
    }
    Ok(if served == reports.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn refuse_what_is_in_the_way(arguments: &InitArguments) -> Result<(), String> {
    if !arguments.stdout && !arguments.force && arguments.output.exists() {
        let file = arguments.output.display();
        return Err(format!(
            "{file} exists; name another file with `--output`, or replace it with `--force`"
        ));
    }
    if !arguments.listen.ip().is_loopback() && !arguments.allow_anonymous {
        return Err(format!(
            "{} is beyond loopback, and this build asks nobody who they are: `--allow-anonymous` lets whoever \
             reaches it call every tool",
            arguments.listen
        ));
    }
    Ok(())
}

/// The servers of the command line, each with the token that is meant for its host.
fn targets(arguments: &InitArguments) -> Result<Vec<Target>, String> {
    let urls = arguments
        .urls
        .iter()
        .map(|url| UpstreamUrl::parse(url).map_err(|problem| format!("{}: the URL {problem}", shown(url))));
    let urls: Vec<UpstreamUrl> = urls.collect::<Result<_, _>>()?;
    for (index, url) in urls.iter().enumerate() {
        if urls[..index].contains(url) {
            return Err(format!("{} is given twice", url.redacted()));
        }
    }
    let tokens = Token::read(&arguments.bearer, &urls)?;
    let secure = |url: &UpstreamUrl| url.scheme == Scheme::Https;
    if arguments.ca.is_some() && !urls.iter().any(secure) {
        return Err("--ca: no URL begins with `https://`".to_owned());
    }
    let target = |(url, text): (&UpstreamUrl, &String)| Target {
        url: text.clone(),
        bearer: tokens.iter().find(|token| token.is_for(url)).map(|token| token.reference.clone()),
        ca: arguments.ca.clone().filter(|_| secure(url)),
        timeout: arguments.timeout,
    };
    Ok(urls.iter().zip(&arguments.urls).map(target).collect())
}

/// A URL that may hold a password is not repeated.
fn shown(url: &str) -> String {
    if url.contains('@') { "one of the URLs".to_owned() } else { portunus_base::text::json(url) }
}

/// A reference to a token, and the host that may see it; `None` for the only one.
struct Token {
    host: Option<String>,
    reference: String,
}

impl Token {
    /// Reads `REFERENCE` and `HOST=REFERENCE`; a token that could go to the wrong server is refused.
    fn read(arguments: &[String], urls: &[UpstreamUrl]) -> Result<Vec<Token>, String> {
        let mut tokens: Vec<Token> = Vec::new();
        for argument in arguments {
            let plain = ["env:", "file:", "secret:"].iter().any(|scheme| argument.starts_with(scheme));
            let token = match argument.split_once('=').filter(|_| !plain) {
                Some((host, reference)) => {
                    Token { host: Some(host.to_ascii_lowercase()), reference: reference.to_owned() }
                }
                None => Token { host: None, reference: argument.clone() },
            };
            if token.host.is_none() && urls.iter().any(|url| url.authority != urls[0].authority) {
                return Err("--bearer: with several hosts, say which one may see the token: `HOST=env:NAME`"
                    .to_owned());
            }
            if !urls.iter().any(|url| token.is_for(url)) {
                return Err("--bearer: no URL is at this host".to_owned());
            }
            tokens.push(token);
        }
        Ok(tokens)
    }

    fn is_for(&self, url: &UpstreamUrl) -> bool {
        match &self.host {
            Some(host) => *host == url.authority || *host == url.host.to_string(),
            None => true,
        }
    }
}

/// Every mistake at once.
fn compile(targets: &[Target]) -> Result<Vec<Arc<Upstream>>, String> {
    let mut upstreams = Vec::new();
    let mut problems = Vec::new();
    for target in targets {
        match target.compile() {
            Ok(upstream) => upstreams.push(upstream),
            Err(problem) => problems.push(format!("{}: {problem}", shown(&target.url))),
        }
    }
    if problems.is_empty() { Ok(upstreams) } else { Err(problems.join("\n")) }
}

/// Looks at all servers at once.
async fn look(upstreams: &[Arc<Upstream>], within: Duration, screen: &mut Screen) -> Vec<Report> {
    let (told, steps) = unbounded_channel();
    let mut looks = JoinSet::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        let (upstream, told) = (Arc::clone(upstream), told.clone());
        looks.spawn(async move {
            let steps = told.clone();
            let report = probe(
                upstream,
                within,
                Box::new(move |progress| {
                    steps.send(News::Progress(index, progress)).ok();
                }),
            )
            .await;
            told.send(News::Done(Box::new(report.clone()))).ok();
            (index, report)
        });
    }
    drop(told);
    let (mut reports, ()) = tokio::join!(looks.join_all(), show(screen, steps, upstreams));
    reports.sort_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}

/// What is heard of the looks under way.
enum News {
    Progress(usize, Progress),
    Done(Box<Report>),
}

async fn show(screen: &mut Screen, mut news: UnboundedReceiver<News>, upstreams: &[Arc<Upstream>]) {
    let since = Instant::now();
    let mut beat = interval(BEAT);
    let mut done = 0;
    let mut latest = String::new();
    loop {
        tokio::select! {
            heard = news.recv() => match heard {
                Some(News::Progress(index, Progress::Begun(stage))) => {
                    latest = format!("{} {}", upstreams[index].url.authority, stage.name());
                }
                Some(News::Progress(_, Progress::Ended(_))) => {}
                Some(News::Done(report)) => {
                    done += 1;
                    screen.line(&line(&report));
                }
                None => return screen.wipe(),
            },
            _ = beat.tick() => {
                let seconds = since.elapsed().as_secs_f32();
                screen.moving(&format!("{done} of {} done, {latest}, {seconds:.1} s", upstreams.len()));
            }
        }
    }
}

/// A server on a line, with what to know about it below.
fn line(report: &Report) -> String {
    let mut line = match report.failure() {
        None => format!("ok    {}: {}", report.url, report.summary()),
        Some(step) => format!("FAIL  {}: {}: {}", report.url, step.stage.name(), step.detail),
    };
    let told = report.steps.iter().filter(|step| matches!(step.verdict, Verdict::Failed | Verdict::Doubt));
    for hint in told.flat_map(|step| &step.hints) {
        line += &format!("\n      {hint}");
    }
    line
}

/// Writes the file as a whole: an old one stays until the new one is complete.
fn write(path: &Path, text: &str, force: bool) -> Result<(), String> {
    let failed = |error: io::Error| format!("{} cannot be written: {error}", path.display());
    if !force {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        return file.write_all(text.as_bytes()).map_err(failed);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let replaced = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    replaced.map_err(|error| {
        fs::remove_file(&beside).ok();
        failed(error)
    })
}

fn next(file: &str, served: usize, all: usize) -> String {
    let left_out = match all - served {
        0 => String::new(),
        1 => "; one is in it as a comment, with what to mend".to_owned(),
        more => format!("; {more} are in it as comments, with what to mend"),
    };
    format!(
        "\n{file} is written, with {served} of {all} servers{left_out}\n\
         Next:\n  portunus check {file}\n  portunus run --config {file}\n  portunus connect CLIENT --config {file}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(bearer: &[&str], urls: &[&str]) -> Result<Vec<Option<String>>, String> {
        let urls: Vec<UpstreamUrl> = urls.iter().map(|url| UpstreamUrl::parse(url).unwrap()).collect();
        let bearer: Vec<String> = bearer.iter().map(|text| (*text).to_owned()).collect();
        let tokens = Token::read(&bearer, &urls)?;
        let of = |url| tokens.iter().find(|token| token.is_for(url)).map(|token| token.reference.clone());
        Ok(urls.iter().map(of).collect())
    }

    #[test]
    fn a_token_goes_to_the_host_it_is_meant_for() {
        let some = |text: &str| Some(text.to_owned());
        let two = ["http://a:1/", "http://b/"];
        let cases = [
            (vec!["env:T"], vec!["http://a/"], Ok(vec![some("env:T")])),
            (vec!["env:T"], vec!["http://a/x", "http://a/y"], Ok(vec![some("env:T"), some("env:T")])),
            (vec!["a:1=env:T"], two.to_vec(), Ok(vec![some("env:T"), None])),
            (vec!["A=env:T", "b=file:/x=y"], two.to_vec(), Ok(vec![some("env:T"), some("file:/x=y")])),
            (vec!["file:/x=y"], vec!["http://a/"], Ok(vec![some("file:/x=y")])),
            (vec!["env:T"], two.to_vec(), Err("with several hosts")),
            (vec!["c=env:T"], two.to_vec(), Err("no URL is at this host")),
        ];
        for (bearer, urls, expected) in cases {
            match (tokens(&bearer, &urls), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{bearer:?}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{bearer:?}: {found}"),
                (found, expected) => panic!("{bearer:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
