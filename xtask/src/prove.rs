//! `cargo xtask prove`: the shows, which prove at full length what the tests touch briefly.
//!
//! Each show is an ignored test `prove::NAME` of the crate `portunus-tests`, but for those within the gateway's own crate
//! and the one that measures: it is a comparison held against its promises.

use crate::sdk::Kit;
use crate::step::{Failure, Step, say, seconds};
use crate::{compare, machine, sdk, test};
use std::time::Instant;

/// One show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Show {
    name: &'static str,
    about: &'static str,
}

impl Show {
    /// All of them, in the order in which they run.
    pub(crate) const ALL: [Show; 35] = [
        Show {
            name: "first-hour",
            about: "the README's first command ends in a gateway that SDK clients use",
        },
        Show {
            name: "first-tools",
            about: "`init` in front of three public servers, and the text of `connect` for each client, work",
        },
        Show {
            name: "conformance",
            about: "what passes the official suite directly passes through the gateway",
        },
        Show { name: "clients", about: "eight SDK clients do through the gateway what they do directly" },
        Show {
            name: "matrix",
            about: "eight clients pass every step before servers of either era, and all at once",
        },
        Show {
            name: "pairings",
            about: "the official suite of one era passes through to a server of the other",
        },
        Show {
            name: "federation",
            about: "ten servers behind one URL, three of them unwell: the list is in time and honest",
        },
        Show { name: "restart", about: "a server that restarts between two calls causes no empty success" },
        Show {
            name: "counts",
            about: "10,000 calls and a stampede of 1,000 ask the servers for their lists once",
        },
        Show {
            name: "isolation",
            about: "of two callers behind one credential neither sees anything of the other",
        },
        Show {
            name: "replicas",
            about: "two replicas behind a balancer are one, and one that is killed hangs nobody",
        },
        Show {
            name: "records",
            about: "records tell what an upstream took, and 10,000 calls have one each at two replicas",
        },
        Show {
            name: "names",
            about: "what a caller may not see is answered as what does not exist, and as fast",
        },
        Show {
            name: "neighbours",
            about: "hostile callers and servers cost nobody else a call, and memory stays as it is",
        },
        Show { name: Show::HOLDS, about: "after 10,000 calls that broke off in all ways nothing is held" },
        Show { name: "day", about: "50,000 sessions that nobody ends leave every table as it was" },
        Show { name: "bytes", about: "bodies of 0 B to 4 MiB arrive byte for byte, in both directions" },
        Show { name: "swap", about: "150 swaps under load with 1,000 open streams lose no call" },
        Show {
            name: "readers",
            about: "five readers in three languages find in a million messages what was judged, or they are refused",
        },
        Show {
            name: "revisions",
            about: "under ten swaps a second no call runs that the revision in its record refuses",
        },
        Show {
            name: "tls",
            about: "openssl and curl get in as they should, and certificates rotate under load",
        },
        Show { name: "h2", about: "real clients and large bodies pass over HTTP/2, and its floods end" },
        Show { name: "hostile", about: "hostile input is refused, slow input ends, floods are shed" },
        Show {
            name: "identity",
            about: "tokens of a real provider get in or are refused as they should, and SDK clients find it",
        },
        Show { name: "drain", about: "SIGTERM under load loses no call, and the exit follows the last one" },
        Show::POLICY,
        Show {
            name: "roles",
            about: "100,000 questions are answered from the index of roles as the rules of roles answer them",
        },
        Show {
            name: "authorize",
            about: "200 roles see of 1,000 tools what they may call, in 200,000 calls and by arguments",
        },
        Show {
            name: "lists",
            about: "lists of 10,000 tools for 1,000 fresh callers cost little, and hold up nobody else",
        },
        Show {
            name: "limits",
            about: "real clients read why their loop was stopped, and each caller gets what its rate says",
        },
        Show {
            name: "operators",
            about: "four faults of real servers are named by metrics and log, and few files are enough to say so",
        },
        Show { name: "upgrade", about: "five upgrades under load with 100 open streams lose no call" },
        Show::INSTRUCTIONS,
        Show::WALK,
        Show::PRICE,
    ];

    /// The one that measures; it needs release builds and other proxies, and no SDK.
    const PRICE: Show =
        Show { name: "price", about: "a call costs no more beside nginx and Envoy than is promised" };

    /// The one that counts what the optimised binary executes.
    const INSTRUCTIONS: Show = Show {
        name: "instructions",
        about: "a call executes no more instructions than is committed, in six ways",
    };

    /// The one that follows a call through the source.
    const WALK: Show = Show {
        name: "walk",
        about: "a reader of one bridged call meets no more files, returns and locks than is committed",
    };

    /// The one that runs within the gateway's own crate.
    const HOLDS: &str = "holds";

    /// The one that asks another engine.
    const POLICY: Show =
        Show { name: "policy", about: "thousands of questions are decided here as OPA itself decides them" };

    /// The show of this name.
    pub(crate) fn named(name: &str) -> Option<Show> {
        Show::ALL.into_iter().find(|show| show.name == name)
    }

    /// The crate and the path of its test; a Rust name has no hyphens.
    fn test(self) -> (&'static str, String) {
        match self.name {
            Show::HOLDS => {
                let module = "frontend::bridge::tests::holds";
                ("portunus", format!("{module}::broken_off_calls_hold_nothing_at_full_length"))
            }
            name => ("portunus-tests", format!("prove::{}", name.replace('-', "_"))),
        }
    }

    /// True if it runs without the SDK clients.
    fn is_without_kit(self) -> bool {
        [Show::PRICE, Show::INSTRUCTIONS, Show::WALK].contains(&self)
    }

    fn run(self, kit: Option<&Kit>) -> Result<(), Failure> {
        if self == Show::PRICE { compare::prove() } else { self.run_test(kit) }
    }

    fn run_test(self, kit: Option<&Kit>) -> Result<(), Failure> {
        let opa = if self == Show::POLICY { Some(sdk::opa()?) } else { None };
        let mut passed = 0;
        let (package, test) = self.test();
        Step::new("Prove", &format!("cargo test --package {package} -- --ignored --exact --nocapture"))
            .with(|command| {
                if let Some(kit) = kit {
                    kit.export(command);
                }
                if let Some(python) = &opa {
                    command.env("PORTUNUS_OPA", python);
                }
                command.arg(&test);
            })
            .mend("the output above says what was expected and what came")
            .run_watched(|line| passed += passed_in(line))?;
        if passed == 1 {
            return Ok(());
        }
        Err(Failure {
            problem: format!("{passed} tests are named `{test}`, where there should be one"),
            mend: "name the ignored test like its show".to_owned(),
        })
    }
}

/// Names the shows.
pub(crate) fn list() {
    for show in Show::ALL {
        say(&format!("{:<12} {}", show.name, show.about));
    }
}

/// Runs shows one after the other, all of them even when one fails, and sums them up.
///
/// # Errors
/// If one of them fails.
pub(crate) fn run(shows: &[Show]) -> Result<(), Failure> {
    if shows.iter().any(|show| show.name == "tls") {
        machine::ensure(&[machine::TLS])?;
    }
    if shows.iter().any(|show| show.name == "readers") {
        machine::ensure(&[machine::READERS])?;
    }
    if shows.contains(&Show::INSTRUCTIONS) || shows.contains(&Show::WALK) {
        machine::ensure(&[machine::BUILD, machine::PROFILE])?;
    }
    let kit = if shows.iter().all(|show| show.is_without_kit()) { None } else { Some(test::prepare()?) };
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for show in shows {
        let start = Instant::now();
        let verdict = match show.run(kit.as_ref()) {
            Ok(()) => "passed",
            Err(failure) => {
                say(&format!("\n{failure}"));
                failed.push(show.name);
                "FAILED"
            }
        };
        rows.push(format!("{:<12} {verdict}  {}", show.name, seconds(start.elapsed())));
    }
    say(&format!("\nshow         result  time\n{}", rows.join("\n")));
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure {
        problem: format!("{} of {} shows failed: {}", failed.len(), shows.len(), failed.join(", ")),
        mend: "its own lines above name what was expected; `cargo xtask prove NAME` runs one again"
            .to_owned(),
    })
}

/// How many tests a line of the test harness says have passed.
fn passed_in(line: &str) -> u32 {
    let Some(counts) = line.strip_prefix("test result: ok. ") else { return 0 };
    counts.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    #[test]
    fn a_show_is_found_by_its_name_and_names_its_test() {
        let test = Show::named("first-hour").unwrap().test();
        assert_eq!(test, ("portunus-tests", "prove::first_hour".to_owned()));
        assert_eq!(Show::named("first_hour"), None);
    }

    #[test]
    fn every_show_has_the_test_that_it_names() {
        for show in Show::ALL.into_iter().filter(|show| *show != Show::PRICE) {
            let (package, test) = show.test();
            let (module, function) = test.rsplit_once("::").unwrap();
            let folder = if package == "portunus" { "proxy" } else { "tests" };
            let file = root().join(folder).join("src").join(module.replace("::", "/"));
            let text = std::fs::read_to_string(file.with_extension("rs"))
                .or_else(|_| std::fs::read_to_string(file.join("mod.rs")))
                .unwrap_or_else(|_| panic!("{test}: no file {}", file.display()));
            assert!(text.contains(&format!("fn {function}() {{")), "{test}");
        }
    }

    #[test]
    fn only_shows_that_measure_run_without_the_sdk_clients() {
        let without: Vec<&str> =
            Show::ALL.into_iter().filter(|show| show.is_without_kit()).map(|show| show.name).collect();
        assert_eq!(without, ["instructions", "walk", "price"]);
    }

    #[test]
    fn passed_tests_are_counted_from_the_summary_line() {
        let cases = [
            (
                "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s",
                1,
            ),
            (
                "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s",
                0,
            ),
            ("test result: FAILED. 1 passed; 1 failed; 0 ignored", 0),
            ("the gateway says: 1 passed", 0),
        ];
        for (line, expected) in cases {
            assert_eq!(passed_in(line), expected, "{line}");
        }
    }
}
