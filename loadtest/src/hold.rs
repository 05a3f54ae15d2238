//! Idle connections, to see what each costs.

use crate::calls::{Calls, connect, exchange};
use std::io::Read;
use std::process::ExitCode;

/// Makes one call on each of so many connections, says so, and holds them until standard input
/// ends.
///
/// # Errors
/// If one cannot be opened, or its call is not answered properly.
#[expect(clippy::print_stdout, reason = "who started this waits for the line")]
pub(crate) fn run(calls: &Calls, connections: usize) -> Result<ExitCode, String> {
    crate::process::allow_files(connections)?;
    let mut held = Vec::with_capacity(connections);
    let mut request = Vec::new();
    for number in 0..connections as u64 {
        let mut stream = connect(&calls.target)?;
        calls.write(number, &mut request);
        let answer = exchange(&mut stream, &request)?;
        calls.verify(number, answer.status, &answer.body)?;
        held.push(stream);
    }
    println!("holding {connections}");
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}
