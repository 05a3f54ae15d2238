//! The units in `deploy/systemd` against the binary and the defaults that they speak of.

use crate::harness::{binary, root};
use std::process::Command;

/// Drain deadline, and time for the last errors, of a configuration that says nothing.
const DRAINED_WITHIN_S: u64 = 30 + 2;

struct Unit {
    name: &'static str,
    text: String,
}

impl Unit {
    fn read(name: &'static str) -> Unit {
        let path = root().join("deploy/systemd").join(name);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Unit { name, text }
    }

    /// All values of a key, in their order.
    fn all(&self, key: &str) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    }

    /// The value of a key that stands there once.
    fn one(&self, key: &str) -> &str {
        let [value] = self.all(key)[..] else { panic!("{}: `{key}` does not stand there once", self.name) };
        value
    }

    fn seconds(&self, key: &str) -> u64 {
        self.one(key).parse().unwrap_or_else(|_| panic!("{}: `{key}` is no number of seconds", self.name))
    }
}

#[test]
fn what_the_service_runs_is_what_the_command_line_knows() {
    let service = Unit::read("portunus.service");
    for key in ["ExecStart", "ExecReload"] {
        let mut words = service.one(key).split(' ');
        assert_eq!(words.next(), Some("/usr/bin/portunus"), "{key}");
        // The options are good if the configuration is what is missed.
        let arguments: Vec<String> = words.map(|word| word.replace("/etc/portunus/", "/nowhere/")).collect();
        let output = Command::new(binary()).args(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {text}");
        assert!(text.contains("/nowhere/gateway.yaml"), "{arguments:?}: {text}");
    }
}

#[test]
fn the_service_knows_exit_codes_and_times_of_the_gateway() {
    let service = Unit::read("portunus.service");
    assert_eq!(service.one("RestartPreventExitStatus"), "78");
    assert_eq!((service.one("Type"), service.one("NotifyAccess")), ("notify", "main"));
    assert!(service.seconds("TimeoutStopSec") > DRAINED_WITHIN_S, "the drain would be cut off");
    assert!(service.seconds("WatchdogSec") > 0);
    // The default state folder is relative, and all else is read-only.
    assert_eq!(service.one("WorkingDirectory"), format!("%S/{}", service.one("StateDirectory")));
    assert_eq!(service.one("ProtectSystem"), "strict");
}

#[test]
fn the_socket_is_the_one_of_the_first_example() {
    let socket = Unit::read("portunus.socket");
    let example = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(example.contains(&format!("\nlisten: {}\n", socket.one("ListenStream"))), "another address");
    // A listener in the short form has this name.
    assert_eq!(socket.one("FileDescriptorName"), "main");
}
