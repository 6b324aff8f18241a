//! Where packets may go.

use std::net::{IpAddr, SocketAddr};

/// Networks that traffic may be sent to. Whatever is not in here gets no packet, not even an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AllowList {
    networks: Vec<(IpAddr, u8)>,
}

impl AllowList {
    /// Networks as address and prefix length; a length beyond the address's own (32, 128) means that one address.
    pub fn new(networks: Vec<(IpAddr, u8)>) -> AllowList {
        AllowList { networks }
    }

    /// True for an address inside one of the networks. IPv4-mapped IPv6 addresses count as the IPv4 they are.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|&(network, prefix)| match (network.to_canonical(), address) {
            (IpAddr::V4(n), IpAddr::V4(a)) => same_prefix(n.to_bits().into(), a.to_bits().into(), 32, prefix),
            (IpAddr::V6(n), IpAddr::V6(a)) => same_prefix(n.to_bits(), a.to_bits(), 128, prefix),
            _ => false,
        })
    }

    /// The `allow` line for a target file that would permit these addresses, and nothing else.
    pub fn suggestion(addresses: &[SocketAddr]) -> String {
        let mut entries: Vec<String> = Vec::new();
        for address in addresses {
            let address = address.ip().to_canonical();
            let entry = format!("\"{address}/{}\"", if address.is_ipv4() { 32 } else { 128 });
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        format!("allow = [{}]", entries.join(", "))
    }

    /// Refused addresses for a message, and what a target file lacks for them.
    pub fn refusal(addresses: &[SocketAddr]) -> String {
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{}; the target file has no {}", list.join(", "), AllowList::suggestion(addresses))
    }
}

fn same_prefix(a: u128, b: u128, bits: u8, prefix: u8) -> bool {
    let ignored = bits - prefix.min(bits);
    // Shifting by all 128 bits would overflow: prefix 0 holds everything.
    ignored == 128 || (a ^ b) >> ignored == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> AllowList {
        let parse = |e: &&str| {
            let (address, prefix) = e.split_once('/').unwrap();
            (address.parse().unwrap(), prefix.parse().unwrap())
        };
        AllowList::new(entries.iter().map(parse).collect())
    }

    fn permits(list: &AllowList, address: &str) -> bool {
        list.permits(address.parse().unwrap())
    }

    #[test]
    fn permits_what_is_inside_a_network_and_nothing_else() {
        let l = list(&["10.77.0.0/24", "192.0.2.7/32", "2001:db8::/32"]);
        for inside in ["10.77.0.1", "10.77.0.255", "192.0.2.7", "2001:db8:1::5", "::ffff:10.77.0.9"] {
            assert!(permits(&l, inside), "{inside}");
        }
        for outside in ["10.77.1.0", "10.76.255.255", "192.0.2.6", "2001:db9::1", "::1", "127.0.0.1", "0.0.0.0"] {
            assert!(!permits(&l, outside), "{outside}");
        }
    }

    #[test]
    fn prefix_zero_holds_its_family_and_an_empty_list_nothing() {
        assert!(permits(&list(&["0.0.0.0/0"]), "203.0.113.9"));
        assert!(!permits(&list(&["0.0.0.0/0"]), "2001:db8::1"));
        assert!(permits(&list(&["::/0"]), "2001:db8::1"));
        assert!(!permits(&AllowList::default(), "127.0.0.1"));
    }

    #[test]
    fn a_prefix_beyond_the_address_is_one_address() {
        let l = list(&["10.0.0.1/200"]);
        assert!(permits(&l, "10.0.0.1"));
        assert!(!permits(&l, "10.0.0.2"));
    }

    #[test]
    fn the_suggested_line_would_permit_the_addresses() {
        let refused = ["192.0.2.7:4000", "[2001:db8::7]:1", "192.0.2.7:4001"].map(|a| a.parse().unwrap());
        let line = AllowList::suggestion(&refused);
        let entries = line.trim_start_matches("allow = [\"").trim_end_matches("\"]");
        let entries: Vec<&str> = entries.split("\", \"").collect();
        assert_eq!(entries.len(), 2, "{line}");
        for address in refused {
            assert!(list(&entries).permits(address.ip()), "{line}");
        }
    }
}
