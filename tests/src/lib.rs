//! Integration tests: one binary, against the real proxy as a process of its own.
//!
//! `harness` starts gateways, scripted upstreams and raw clients; each other module holds the tests
//! of one concern; `prove` holds the long ones, which only run when they are asked for; `tidy` holds
//! the rules of the repository.

#[cfg(test)]
mod answer_wall;
#[cfg(test)]
mod authorize;
#[cfg(test)]
mod bridge;
#[cfg(test)]
mod callgrind;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod dimensions;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod filter_coverage;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod h2;
#[cfg(test)]
mod h2_upstream;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http_sse;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod inspected;
#[cfg(test)]
mod invisible;
#[cfg(test)]
mod kept_text;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod names;
#[cfg(test)]
mod offered;
#[cfg(test)]
mod operate;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod passage;
#[cfg(test)]
mod passed_sessions;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod policy_commands;
#[cfg(test)]
mod policy_time;
#[cfg(test)]
mod projection;
#[cfg(test)]
mod prove;
#[cfg(test)]
mod proxy_protocol;
#[cfg(test)]
mod questions;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod records;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod sdk;
#[cfg(test)]
mod sent;
#[cfg(test)]
mod server_texts;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod signals;
#[cfg(test)]
mod stale;
#[cfg(test)]
mod surfaces;
#[cfg(test)]
mod swap;
#[cfg(test)]
mod tasks;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tls_upstream;
#[cfg(test)]
mod told;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod updates;
#[cfg(test)]
mod upgrade;
