//! What the command line of the comparison means.

use super::peer::{PEERS, Peer};
use crate::step::Failure;

/// How much is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// How often each peer has its turn.
    pub(super) rounds: u32,
    /// Length of one measurement.
    pub(super) seconds: u32,
    /// Names of peers; none means all.
    pub(super) only: Vec<String>,
    /// Offered calls a second; none means as measured.
    pub(super) rate: Option<u32>,
    /// Whether `benches/RESULTS.md` is written.
    pub(super) write: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { rounds: 7, seconds: 3, only: Vec::new(), rate: None, write: false }
    }
}

impl Options {
    /// Reads the words after `compare`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn parse(words: &[&str]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| format!("`{word}` wants a value"));
            match *word {
                "--rounds" => options.rounds = number(word, value()?)?,
                "--seconds" => options.seconds = number(word, value()?)?,
                "--rate" => options.rate = Some(number(word, value()?)?),
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--write" => options.write = true,
                other => return Err(format!("`compare` does not take `{other}`")),
            }
        }
        Ok(options)
    }

    /// The peers that are asked for, in the order of the list.
    ///
    /// # Errors
    /// If there is none of a name.
    pub(super) fn peers(&self) -> Result<Vec<&'static Peer>, Failure> {
        let known = |name: &String| PEERS.iter().any(|peer| peer.name == name);
        if let Some(name) = self.only.iter().find(|name| !known(name)) {
            let names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
            return Err(Failure {
                problem: format!("nothing to compare is named `{name}`"),
                mend: format!("some of: {}", names.join(",")),
            });
        }
        let asked = |peer: &&Peer| self.only.is_empty() || self.only.iter().any(|name| peer.name == name);
        Ok(PEERS.iter().filter(asked).collect())
    }

    /// The same as it can be typed.
    pub(super) fn line(&self) -> String {
        let mut line = format!("cargo xtask compare --rounds {} --seconds {}", self.rounds, self.seconds);
        if let Some(rate) = self.rate {
            line.push_str(&format!(" --rate {rate}"));
        }
        if !self.only.is_empty() {
            line.push_str(&format!(" --only {}", self.only.join(",")));
        }
        line
    }
}

fn number(word: &str, value: &str) -> Result<u32, String> {
    value.parse().ok().filter(|number| *number > 0).ok_or(format!("`{word}` wants a whole number above 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_change_the_defaults() {
        let words =
            ["--rounds", "1", "--seconds", "2", "--only", "nginx,portunus", "--rate", "900", "--write"];
        let options = Options::parse(&words).unwrap();
        assert_eq!((options.rounds, options.seconds, options.rate, options.write), (1, 2, Some(900), true));
        let names: Vec<&str> = options.peers().unwrap().iter().map(|peer| peer.name).collect();
        assert_eq!(names, ["nginx", "portunus"]);
        assert_eq!(Options::parse(&[]).unwrap().peers().unwrap().len(), PEERS.len());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, part) in
            [(&["--rounds"][..], "`--rounds`"), (&["--rounds", "0"], "`--rounds`"), (&["--fast"], "`--fast`")]
        {
            assert!(Options::parse(words).unwrap_err().contains(part));
        }
        let failure = Options::parse(&["--only", "nginx,squid"]).unwrap().peers().unwrap_err();
        assert!(failure.problem.contains("`squid`"), "{failure}");
    }
}
