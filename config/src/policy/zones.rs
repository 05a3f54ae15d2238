//! Networks with a name: `data.zones`, from which policy learns where a caller is.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Map, Value};

/// Names of networks; the narrowest that holds an address counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zones {
    /// The narrowest first.
    networks: Vec<(IpNet, Arc<str>)>,
}

impl Zones {
    /// The zones of a document of data: `zones: {office: ["10.0.0.0/8"]}`.
    ///
    /// # Errors
    /// What is wrong with each of them.
    pub(crate) fn read(data: &Map<String, Value>) -> Result<Zones, Vec<String>> {
        let zones = match data.get("zones") {
            None => return Ok(Zones::default()),
            Some(Value::Object(zones)) => zones,
            Some(_) => return Err(vec!["`data.zones` is no mapping".to_owned()]),
        };
        let mut networks = Vec::new();
        let mut problems = Vec::new();
        for (name, listed) in zones {
            let one = std::slice::from_ref(listed);
            for network in listed.as_array().map_or(one, Vec::as_slice) {
                match network.as_str().and_then(network_of) {
                    Some(network) => networks.push((network, Arc::from(name.as_str()))),
                    None => problems.push(format!("`data.zones.{name}` has an entry that is no network")),
                }
            }
        }
        networks.sort_by(|(a, _), (b, _)| b.prefix_len().cmp(&a.prefix_len()).then(a.cmp(b)));
        let twice = networks.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1);
        problems.extend(twice.map(|pair| format!("`{}` is in two zones", pair[0].0)));
        if problems.is_empty() { Ok(Zones { networks }) } else { Err(problems) }
    }

    /// The name of the narrowest network that holds `address`.
    pub fn of(&self, address: IpAddr) -> Option<&str> {
        let address = address.to_canonical();
        self.networks.iter().find(|(network, _)| network.contains(&address)).map(|(_, name)| &**name)
    }
}

/// A network, or one address.
fn network_of(text: &str) -> Option<IpNet> {
    let network: Option<IpNet> = text.parse().ok();
    network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|network| network.trunc())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zones(value: Value) -> Result<Zones, Vec<String>> {
        Zones::read(value.as_object().unwrap())
    }

    #[test]
    fn the_narrowest_network_counts() {
        let zones = zones(json!({"zones": {
            "house": ["10.0.0.0/8", "fd00::/8"], "office": "10.1.0.0/16", "desk": ["10.1.2.3"],
        }}));
        let zones = zones.unwrap();
        let table = [
            ("10.1.2.3", Some("desk")),
            ("10.1.2.4", Some("office")),
            ("10.2.0.1", Some("house")),
            ("::ffff:10.2.0.1", Some("house")),
            ("fd00::1", Some("house")),
            ("192.0.2.1", None),
        ];
        for (address, expected) in table {
            assert_eq!(zones.of(address.parse().unwrap()), expected, "{address}");
        }
        assert_eq!(Zones::default().of("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn wrong_zones_are_named() {
        let table = [
            (json!({"zones": []}), "`data.zones` is no mapping"),
            (json!({"zones": {"a": ["10.0.0.0/33"]}}), "`data.zones.a` has an entry that is no network"),
            (json!({"zones": {"a": [5]}}), "`data.zones.a` has an entry that is no network"),
            (json!({"zones": {"a": ["10.0.0.0/8"], "b": ["10.1.0.0/8"]}}), "`10.0.0.0/8` is in two zones"),
        ];
        for (data, problem) in table {
            assert_eq!(zones(data).unwrap_err(), [problem]);
        }
    }
}
