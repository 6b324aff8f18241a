//! Remote candidates: which of them may be used.

use super::AllowList;
use rtc_ice::candidate::{Candidate, unmarshal_candidate};
use std::net::{IpAddr, SocketAddr};

/// What becomes of a remote candidate.
pub(super) enum Verdict {
    Use(Box<Candidate>),
    /// Outside the allow-list.
    Refuse(SocketAddr),
    /// Not for us: TCP, mDNS, another address family or component, or not understood.
    Skip,
}

/// Judges `1 1 udp 2015363327 10.0.0.1 33207 typ host` (RFC 8839 5.1), with or without `candidate:` in front.
pub(super) fn judge(text: &str, local: IpAddr, allow: &AllowList) -> Verdict {
    let text = text.trim();
    let text = text.strip_prefix("a=").unwrap_or(text);
    let text = text.strip_prefix("candidate:").unwrap_or(text);
    let Some(address) = address(text) else { return Verdict::Skip };
    if address.is_ipv4() != local.is_ipv4() || address.port() == 0 || !is_unicast(address.ip()) {
        return Verdict::Skip;
    }
    if !allow.permits(address.ip()) {
        return Verdict::Refuse(address);
    }
    match unmarshal_candidate(text) {
        // The address that the agent will use has to be the one that was judged.
        Ok(c) if c.addr() == address => Verdict::Use(Box::new(c)),
        _ => Verdict::Skip,
    }
}

/// Address and port of a UDP candidate for component 1; host names (mDNS) have none.
fn address(text: &str) -> Option<SocketAddr> {
    let mut fields = text.split_whitespace().skip(1);
    let component = fields.next()?;
    let transport = fields.next()?;
    let _priority = fields.next()?;
    let ip: IpAddr = fields.next()?.parse().ok()?;
    let port = fields.next()?.parse().ok()?;
    (component == "1" && transport.eq_ignore_ascii_case("udp")).then_some(SocketAddr::new(ip, port))
}

fn is_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_multicast() || ip.is_unspecified() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> &'static str {
        let allow = AllowList::new(vec![("10.0.0.0".parse().unwrap(), 8), ("224.0.0.0".parse().unwrap(), 3)]);
        match judge(text, "10.0.0.1".parse().unwrap(), &allow) {
            Verdict::Use(_) => "use",
            Verdict::Refuse(_) => "refuse",
            Verdict::Skip => "skip",
        }
    }

    #[test]
    fn uses_udp_inside_the_allow_list() {
        assert_eq!(verdict("1 1 udp 2015363327 10.0.0.2 28496 typ host"), "use");
        assert_eq!(verdict("candidate:1 1 UDP 2015363327 10.0.0.2 28496 typ host generation 0 ufrag x"), "use");
        assert_eq!(verdict("a=candidate:7 1 udp 1 10.9.9.9 1 typ srflx raddr 1.2.3.4 rport 9"), "use");
    }

    #[test]
    fn refuses_what_is_outside() {
        assert_eq!(verdict("1 1 udp 2015363327 192.0.2.1 28496 typ host"), "refuse");
        assert_eq!(verdict("1 1 udp 1 192.0.2.1 1 typ relay raddr 10.0.0.2 rport 9"), "refuse");
    }

    #[test]
    fn skips_what_it_cannot_use() {
        for text in [
            "",
            "candidate:",
            "1 1 tcp 1518280447 10.0.0.2 9 typ host tcptype active",
            "1 2 udp 2015363327 10.0.0.2 28496 typ host",
            "1 1 udp 2015363327 2001:db8::1 28496 typ host",
            "1 1 udp 2015363327 8f3a5a4e-7c1e-4c39-9a6f-0d1b6c1c2a11.local 28496 typ host",
            "1 1 udp 2015363327 media.example 28496 typ host",
            "1 1 udp 2015363327 10.0.0.2 0 typ host",
            "1 1 udp 2015363327 239.1.1.1 5000 typ host",
            "1 1 udp 2015363327 255.255.255.255 5000 typ host",
            "1 1 udp x 10.0.0.2 28496 typ host",
            "1 1 udp 2015363327 10.0.0.2 28496 typ other",
            "1 1 udp 2015363327 10.0.0.2 28496",
            "1 1 udp 2015363327 10.0.0.2 28496 typ srflx raddr",
        ] {
            assert_eq!(verdict(text), "skip", "{text}");
        }
    }
}
