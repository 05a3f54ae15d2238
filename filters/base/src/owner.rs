//! Who something is counted for.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

/// The caller that something is counted for: a verified principal, else an address. Nothing that a
/// client can choose by itself is part of it, since one that varies it would be many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The gateway itself, or somebody who brings the requests of many: not held to a share.
    #[default]
    Nobody,
    /// A verified principal, by the digest that tells callers apart.
    Principal([u8; 16]),
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 network of 64 bits: one host has all of its addresses.
    V6([u8; 8]),
}

impl Owner {
    /// Who is at an address.
    pub fn at(source: IpAddr) -> Owner {
        match source.to_canonical() {
            IpAddr::V4(address) => Owner::V4(address.octets()),
            IpAddr::V6(address) => {
                let mut network = [0; 8];
                network.copy_from_slice(&address.octets()[..8]);
                Owner::V6(network)
            }
        }
    }
}

/// Hashes in one write, since each call looks its owner up several times. Owners of different kinds with the same bytes
/// share a hash, and are told apart by `Eq`.
impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Owner::Nobody => state.write_u8(0),
            Owner::Principal(digest) => state.write_u128(u128::from_ne_bytes(digest)),
            Owner::V4(address) => state.write_u32(u32::from_ne_bytes(address)),
            Owner::V6(network) => state.write_u64(u64::from_ne_bytes(network)),
        }
    }
}
