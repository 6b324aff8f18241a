//! Writing our descriptions.

use super::{Direction, MediaSection};
use crate::transport::{LocalParams, Setup};
use std::fmt::{self, Write};

/// What a description needs besides its m-lines.
pub(super) struct Head<'a> {
    pub session_id: u64,
    pub version: u64,
    pub local: &'a LocalParams,
    pub setup: Setup,
}

/// The whole description.
pub(super) fn description(head: &Head, media: &[MediaSection]) -> String {
    let mut text = String::with_capacity(256 + 1024 * media.len());
    // Writing into a String cannot fail.
    let _ = write_all(&mut text, head, media);
    text
}

fn write_all(s: &mut String, head: &Head, media: &[MediaSection]) -> fmt::Result {
    write!(s, "v=0\r\no=- {} {} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n", head.session_id, head.version)?;
    s.push_str("a=group:BUNDLE");
    for m in media.iter().filter(|m| !m.rejected) {
        write!(s, " {}", m.mid)?;
    }
    s.push_str("\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS *\r\n");
    media.iter().try_for_each(|m| section(s, head, m))
}

fn section(s: &mut String, head: &Head, m: &MediaSection) -> fmt::Result {
    let port = if m.rejected { 0 } else { 9 };
    write!(s, "m={} {port} {} {}\r\n", m.name, m.protocol, m.formats.join(" "))?;
    write!(s, "c=IN IP4 0.0.0.0\r\na=mid:{}\r\n", m.mid)?;
    if m.rejected {
        return write!(s, "a=inactive\r\n");
    }
    transport(s, head)?;
    write!(s, "a={}\r\na=rtcp-mux\r\n", direction(m.direction))?;
    if m.reduced_size {
        s.push_str("a=rtcp-rsize\r\n");
    }
    for (id, uri) in &m.extensions {
        write!(s, "a=extmap:{id} {uri}\r\n")?;
    }
    if let Some(msid) = &m.msid {
        write!(s, "a=msid:{msid}\r\n")?;
    }
    for p in &m.payloads {
        write!(s, "a=rtpmap:{} {}\r\n", p.pt, p.encoding)?;
        for feedback in &p.feedback {
            write!(s, "a=rtcp-fb:{} {feedback}\r\n", p.pt)?;
        }
        if !p.fmtp.is_empty() {
            write!(s, "a=fmtp:{} {}\r\n", p.pt, p.fmtp)?;
        }
    }
    for rid in &m.send_rids {
        write!(s, "a=rid:{rid} send\r\n")?;
    }
    for rid in &m.receive_rids {
        write!(s, "a=rid:{rid} recv\r\n")?;
    }
    let simulcast = [("send", &m.send_rids), ("recv", &m.receive_rids)];
    let simulcast = simulcast.iter().filter(|(_, rids)| !rids.is_empty());
    let simulcast: Vec<String> = simulcast.map(|(way, rids)| format!("{way} {}", rids.join(";"))).collect();
    if !simulcast.is_empty() {
        write!(s, "a=simulcast:{}\r\n", simulcast.join(" "))?;
    }
    if !m.sim.is_empty() {
        s.push_str("a=ssrc-group:SIM");
        for ssrc in &m.sim {
            write!(s, " {ssrc}")?;
        }
        s.push_str("\r\n");
    }
    for (main, rtx) in &m.fid {
        write!(s, "a=ssrc-group:FID {main} {rtx}\r\n")?;
    }
    for ssrc in &m.ssrcs {
        write!(s, "a=ssrc:{ssrc} cname:{}\r\n", m.cname.as_deref().unwrap_or("-"))?;
        if let Some(msid) = &m.msid {
            write!(s, "a=ssrc:{ssrc} msid:{msid}\r\n")?;
        }
    }
    Ok(())
}

fn transport(s: &mut String, head: &Head) -> fmt::Result {
    let LocalParams { ufrag, pwd, fingerprint, candidates } = head.local;
    let setup = match head.setup {
        Setup::Active => "active",
        Setup::Passive => "passive",
        Setup::Actpass => "actpass",
    };
    write!(s, "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\na=ice-options:trickle\r\n")?;
    write!(s, "a=fingerprint:sha-256 {fingerprint}\r\na=setup:{setup}\r\n")?;
    for candidate in candidates {
        write!(s, "a=candidate:{candidate}\r\n")?;
    }
    s.push_str("a=end-of-candidates\r\n");
    Ok(())
}

fn direction(d: Direction) -> &'static str {
    match d {
        Direction::SendRecv => "sendrecv",
        Direction::SendOnly => "sendonly",
        Direction::RecvOnly => "recvonly",
        Direction::Inactive => "inactive",
    }
}
