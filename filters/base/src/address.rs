//! Which IP addresses a connection may go to.
//!
//! One judgement for the whole process: `compile` applies it to addresses written in a document,
//! the dialler to every address that a name resolves to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressClass {
    /// Reachable from anywhere.
    Public,
    /// This machine.
    Loopback,
    /// This network: RFC 1918, unique local, carrier-grade NAT, benchmarking.
    Private,
    /// Never dialled: instance metadata, link-local, unspecified, multicast, reserved.
    Forbidden,
}

impl AddressClass {
    /// The class of an address; forms that carry an IPv4 address (mapped, NAT64, 6to4) are judged by it.
    pub fn of(address: IpAddr) -> AddressClass {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

/// Which classes beyond the public one an upstream may be dialled at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressGrant {
    /// This machine.
    pub loopback: bool,
    /// This network.
    pub private: bool,
}

impl AddressGrant {
    /// Whether a connection to `address` is allowed.
    pub fn permits(&self, address: IpAddr) -> bool {
        match AddressClass::of(address) {
            AddressClass::Public => true,
            AddressClass::Loopback => self.loopback,
            AddressClass::Private => self.private,
            AddressClass::Forbidden => false,
        }
    }

    /// All that is granted here or by `other`.
    pub fn union(self, other: AddressGrant) -> AddressGrant {
        AddressGrant { loopback: self.loopback || other.loopback, private: self.private || other.private }
    }

    /// Whether everything that `other` grants is granted here.
    pub fn contains(&self, other: &AddressGrant) -> bool {
        (self.loopback || !other.loopback) && (self.private || !other.private)
    }

    /// The names in a document of what is granted.
    pub fn names(&self) -> Vec<&'static str> {
        [("loopback", self.loopback), ("private", self.private)]
            .into_iter()
            .filter_map(|(name, granted)| granted.then_some(name))
            .collect()
    }
}

/// Metadata services outside the link-local range: Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// Metadata services outside the link-local range: AWS, Google Cloud.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

fn of_v4(address: Ipv4Addr) -> AddressClass {
    let [first, second, third, _] = address.octets();
    let forbidden = first == 0 || first >= 224 || address.is_link_local() || METADATA_V4.contains(&address);
    let private = address.is_private()
        || (first == 100 && (64..128).contains(&second))
        || (first == 198 && (second == 18 || second == 19))
        || (first == 192 && second == 0 && third == 0);
    match () {
        () if forbidden => AddressClass::Forbidden,
        () if address.is_loopback() => AddressClass::Loopback,
        () if private => AddressClass::Private,
        () => AddressClass::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> AddressClass {
    if address.is_loopback() {
        return AddressClass::Loopback;
    }
    if let Some(embedded) = embedded_v4(address) {
        return of_v4(embedded);
    }
    let first = address.segments()[0];
    let forbidden = address.is_unspecified()
        || address.is_multicast()
        || first & 0xffc0 == 0xfe80
        || METADATA_V6.contains(&address)
        // Local NAT64 prefixes beyond the plain one (RFC 8215) and Teredo carry addresses that cannot be
        // judged here.
        || address.segments()[..3] == [0x64, 0xff9b, 1]
        || address.segments()[..2] == [0x2001, 0];
    let private = first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0;
    match () {
        () if forbidden => AddressClass::Forbidden,
        () if private => AddressClass::Private,
        () => AddressClass::Public,
    }
}

/// The IPv4 address that packets to `address` end at: mapped, compatible, NAT64 or 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(join(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(join(high, low)),
        // RFC 6052 (NAT64), RFC 2765 (SIIT).
        [0x64, 0xff9b, 0 | 1, 0, 0, 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(join(high, low))
        }
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_classed_by_where_packets_go() {
        use AddressClass::{Forbidden, Loopback, Private, Public};
        let table = [
            ("8.8.8.8", Public),
            ("2606:4700::1", Public),
            ("127.0.0.1", Loopback),
            ("127.8.9.1", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("10.1.2.3", Private),
            ("172.16.0.1", Private),
            ("172.32.0.1", Public),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("100.128.0.1", Public),
            ("198.18.0.1", Private),
            ("192.0.0.8", Private),
            ("fd12::1", Private),
            ("fec0::1", Private),
            ("::ffff:10.0.0.1", Private),
            ("64:ff9b::a00:1", Private),
            ("2002:a00:1::", Private),
            ("::a00:1", Private),
            ("169.254.169.254", Forbidden),
            ("169.254.0.1", Forbidden),
            ("::ffff:169.254.169.254", Forbidden),
            ("64:ff9b::a9fe:a9fe", Forbidden),
            ("100.100.100.200", Forbidden),
            ("168.63.129.16", Forbidden),
            ("fe80::1", Forbidden),
            ("fd00:ec2::254", Forbidden),
            ("fd20:ce::254", Forbidden),
            ("192.0.0.192", Forbidden),
            ("64:ff9b:1:7f00:1::", Forbidden),
            ("::ffff:0:a9fe:a9fe", Forbidden),
            ("2001:0:7f00:1::", Forbidden),
            ("0.0.0.0", Forbidden),
            ("::", Forbidden),
            ("224.0.0.1", Forbidden),
            ("255.255.255.255", Forbidden),
            ("ff02::1", Forbidden),
        ];
        for (address, class) in table {
            assert_eq!(AddressClass::of(address.parse().unwrap()), class, "{address}");
        }
    }

    #[test]
    fn a_grant_permits_what_it_names_and_never_metadata() {
        let all = AddressGrant { loopback: true, private: true };
        let none = AddressGrant::default();
        for (address, with_all, with_none) in [
            ("8.8.8.8", true, true),
            ("127.0.0.1", true, false),
            ("10.0.0.1", true, false),
            ("169.254.169.254", false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((all.permits(address), none.permits(address)), (with_all, with_none), "{address}");
        }
        assert!(all.contains(&none) && !none.contains(&all));
    }
}
