//! Pure state that survives a swap, keyed by stable ids.
//!
//! It holds only what some code reads: the serial of activations, for the process and for each
//! virtual server, and the rules of policy, with which goes what is remembered of their decisions.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::PolicyRules;
use crate::snapshot::{ServerId, Snapshot};

/// State handed from one snapshot to the next.
#[derive(Debug, Default)]
pub struct Carry {
    serial: u64,
    activations: HashMap<ServerId, u64>,
    policy: Option<Arc<PolicyRules>>,
}

impl Carry {
    /// Number of activations so far.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Takes the serial of the next activation, from 1.
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Numbers `snapshot`, counts its virtual servers, and forgets those it no longer has.
    pub fn activate(&mut self, snapshot: &mut Snapshot) {
        snapshot.serial = self.next_serial();
        self.activations.retain(|id, _| snapshot.routes.server(id).is_some());
        for server in snapshot.routes.iter() {
            *self.activations.entry(server.id.clone()).or_default() += 1;
        }
        self.keep_policy(snapshot);
    }

    /// Goes on with the rules that are in force, if `snapshot` has the same ones: what they have said is
    /// still what they say, and a net that has found one of their entry points wanting stays spread.
    fn keep_policy(&mut self, snapshot: &mut Snapshot) {
        if let (Some(before), Some(now)) = (&self.policy, &mut snapshot.policy)
            && now.decides_as(before)
        {
            let now = Arc::make_mut(now);
            (now.policy, now.source) = (Arc::clone(&before.policy), Arc::clone(&before.source));
        }
        self.policy.clone_from(&snapshot.policy);
    }

    /// How many snapshots in a row, up to the present one, have had this server.
    pub fn activations(&self, id: &ServerId) -> u64 {
        self.activations.get(id).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::loaded;

    const ONE: &str = "version: 1\nupstreams: {a: 'http://localhost:1/mcp'}\nservers: {/one: a}\n";
    const TWO: &str = "version: 1\nupstreams: {a: 'http://localhost:1/mcp'}\nservers: {/one: a, /two: a}\n";

    #[test]
    fn servers_are_counted_and_forgotten_by_id() {
        let two = ServerId("*|/two".into());
        let one = ServerId("*|/one".into());
        let mut carry = Carry::default();
        let counts = [TWO, TWO, ONE, TWO].map(|text| {
            let mut snapshot = loaded(text).snapshot;
            carry.activate(&mut snapshot);
            (snapshot.serial, carry.activations(&one), carry.activations(&two))
        });
        assert_eq!(counts, [(1, 1, 1), (2, 2, 2), (3, 3, 0), (4, 4, 1)]);
        assert_eq!(carry.serial(), 4);
    }
}
