//! `portunus policy eject`: the policy of a configuration as a folder of its own.

use super::{Trouble, policy};
use clap::Args;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Which policy, and where to.
#[derive(Debug, Args)]
pub(crate) struct EjectArguments {
    /// A configuration, a folder of rules, or one `.rego` file.
    path: PathBuf,
    /// The folder that is made; it must not exist.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Writes the rules and the data of a policy: Rego, and `data.json` without what the gateway adds.
///
/// # Errors
/// [`Trouble`] if there is no policy or the folder cannot be made.
pub(crate) fn run(arguments: &EjectArguments) -> Result<String, Trouble> {
    let rules = policy(&arguments.path)?;
    let to = &arguments.to;
    if let Err(error) = fs::create_dir(to) {
        let mend =
            if error.kind() == ErrorKind::AlreadyExists { "; name one that does not exist" } else { "" };
        return Err(format!("{} cannot be made: {error}{mend}", to.display()).into());
    }
    let mut data = rules.source.data.clone();
    data.remove("portunus");
    let text = format!("{:#}\n", serde_json::Value::Object(data));
    write(&to.join("data.json"), &text)?;
    let mut names = std::collections::BTreeSet::new();
    for (index, module) in rules.source.modules.iter().enumerate() {
        let name = Path::new(&module.path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Modules of different folders may have one name.
        let name = if names.contains(&name) { format!("{index}_{name}") } else { name };
        write(&to.join(&name), &module.text)?;
        names.insert(name);
    }
    let files: Vec<String> = names.into_iter().collect();
    Ok(format!(
        "wrote {} and data.json to {}\nuse it with `policy: {}`\n",
        files.join(", "),
        to.display(),
        to.display()
    ))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))
}
