//! `portunus upgrade`: starts a successor of the running gateway and waits until it serves.
//!
//! The successor is `portunus run --upgrade`, of the binary that this command is; it stays when the
//! command is over. A socket pair as its standard input carries one word back: there is no file to
//! choose, and whatever ends the successor closes it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

/// What a successor says when it serves.
const SERVES: &[u8] = b"serves\n";

/// Starts a successor with this configuration; its exit code if it does not get to serve.
///
/// # Errors
/// If it cannot be started.
#[expect(clippy::print_stdout, reason = "the answer of the command")]
pub(crate) fn start(config: &Path) -> io::Result<ExitCode> {
    let (mut here, there) = UnixStream::pair()?;
    let mut successor = Command::new(std::env::current_exe()?);
    successor.args(["run", "--upgrade", "--report", "--config"]).arg(config);
    // It outlives this command, and with it the terminal's group of processes that Ctrl-C ends.
    successor.stdin(Stdio::from(OwnedFd::from(there))).process_group(0);
    let mut child = successor.spawn()?;
    // It holds the other end of the pair, which would otherwise never close.
    drop(successor);
    let mut said = Vec::new();
    let mut byte = [0];
    while said != SERVES && here.read(&mut byte)? > 0 {
        said.push(byte[0]);
    }
    if said == SERVES {
        println!("process {} serves; the one before it finishes its calls and ends", child.id());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(code_of(child.wait()?))
}

/// Tells the command that started this process that it serves.
pub(crate) fn report() {
    let input = io::stdin();
    let told = input.as_fd().try_clone_to_owned().and_then(|input| UnixStream::from(input).write_all(SERVES));
    if let Err(error) = told {
        tracing::warn!(%error, "the command that started this upgrade does not wait for it any more");
    }
}

/// The successor's code; one that a signal ended has none and failed.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.filter(|_| status.signal().is_none()).map_or(ExitCode::FAILURE, ExitCode::from)
}
