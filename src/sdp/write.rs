//! Writing our descriptions.

use super::{Direction, MediaSection};
use crate::transport::{LocalParams, Setup};

/// What a description needs besides its m-lines.
pub(super) struct Head<'a> {
    pub session_id: u64,
    pub version: u64,
    pub local: &'a LocalParams,
    pub setup: Setup,
}

/// Pushes texts and numbers one after another: `write!` takes several times as long, and there are hundreds of lines.
macro_rules! put {
    ($to:expr, $($part:expr),+) => {{ $($part.put_to($to);)+ }};
}

trait Put {
    fn put_to(&self, to: &mut String);
}

impl Put for str {
    fn put_to(&self, to: &mut String) {
        to.push_str(self);
    }
}

impl Put for u64 {
    fn put_to(&self, to: &mut String) {
        // 2^64 has 20 digits.
        let (mut digits, mut at, mut rest) = ([0u8; 20], 20, *self);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        digits[at..].iter().for_each(|d| to.push(char::from(*d)));
    }
}

impl Put for u32 {
    fn put_to(&self, to: &mut String) {
        u64::from(*self).put_to(to);
    }
}

impl Put for u8 {
    fn put_to(&self, to: &mut String) {
        u64::from(*self).put_to(to);
    }
}

/// The whole description.
pub(super) fn description(head: &Head, media: &[MediaSection]) -> String {
    // Every m-line says the same of the one transport.
    let mut transport = String::with_capacity(512);
    put_transport(&mut transport, head);
    let mut s = String::with_capacity(256 + (768 + transport.len()) * media.len());
    put!(&mut s, "v=0\r\no=- ", head.session_id, " ", head.version, " IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n");
    put!(&mut s, "a=group:BUNDLE");
    for m in media.iter().filter(|m| !m.rejected) {
        put!(&mut s, " ", m.mid);
    }
    put!(&mut s, "\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS *\r\n");
    media.iter().for_each(|m| section(&mut s, &transport, m));
    s
}

fn section(s: &mut String, transport: &str, m: &MediaSection) {
    put!(s, "m=", m.name, if m.rejected { " 0 " } else { " 9 " }, m.protocol);
    if m.formats.is_empty() {
        m.payloads.iter().for_each(|p| put!(s, " ", p.pt));
    } else {
        m.formats.iter().for_each(|f| put!(s, " ", f));
    }
    put!(s, "\r\nc=IN IP4 0.0.0.0\r\na=mid:", m.mid, "\r\n");
    if m.rejected {
        put!(s, "a=inactive\r\n");
        return;
    }
    put!(s, transport, "a=", direction(m.direction), "\r\na=rtcp-mux\r\n");
    if m.reduced_size {
        put!(s, "a=rtcp-rsize\r\n");
    }
    for (id, uri) in &m.extensions {
        put!(s, "a=extmap:", id, " ", uri, "\r\n");
    }
    if let Some(msid) = &m.msid {
        put!(s, "a=msid:", msid, "\r\n");
    }
    for p in &m.payloads {
        put!(s, "a=rtpmap:", p.pt, " ", p.encoding, "\r\n");
        for feedback in &p.feedback {
            put!(s, "a=rtcp-fb:", p.pt, " ", feedback, "\r\n");
        }
        if !p.fmtp.is_empty() {
            put!(s, "a=fmtp:", p.pt, " ", p.fmtp, "\r\n");
        }
    }
    let ways = [("send", &m.send_rids), ("recv", &m.receive_rids)];
    for (way, rids) in ways {
        rids.iter().for_each(|rid| put!(s, "a=rid:", rid, " ", way, "\r\n"));
    }
    let mut before = "a=simulcast:";
    for (way, rids) in ways.into_iter().filter(|(_, rids)| !rids.is_empty()) {
        put!(s, before, way);
        rids.iter().enumerate().for_each(|(i, rid)| put!(s, if i == 0 { " " } else { ";" }, rid));
        before = " ";
    }
    if before == " " {
        put!(s, "\r\n");
    }
    if !m.sim.is_empty() {
        put!(s, "a=ssrc-group:SIM");
        m.sim.iter().for_each(|ssrc| put!(s, " ", ssrc));
        put!(s, "\r\n");
    }
    for (main, rtx) in &m.fid {
        put!(s, "a=ssrc-group:FID ", main, " ", rtx, "\r\n");
    }
    for ssrc in &m.ssrcs {
        put!(s, "a=ssrc:", ssrc, " cname:", m.cname.as_deref().unwrap_or("-"), "\r\n");
        if let Some(msid) = &m.msid {
            put!(s, "a=ssrc:", ssrc, " msid:", msid, "\r\n");
        }
    }
}

fn put_transport(s: &mut String, head: &Head) {
    let LocalParams { ufrag, pwd, fingerprint, candidates } = head.local;
    let setup = match head.setup {
        Setup::Active => "active",
        Setup::Passive => "passive",
        Setup::Actpass => "actpass",
    };
    put!(s, "a=ice-ufrag:", ufrag, "\r\na=ice-pwd:", pwd, "\r\na=ice-options:trickle\r\n");
    put!(s, "a=fingerprint:sha-256 ", fingerprint, "\r\na=setup:", setup, "\r\n");
    for candidate in candidates {
        put!(s, "a=candidate:", candidate, "\r\n");
    }
    put!(s, "a=end-of-candidates\r\n");
}

fn direction(d: Direction) -> &'static str {
    match d {
        Direction::SendRecv => "sendrecv",
        Direction::SendOnly => "sendonly",
        Direction::RecvOnly => "recvonly",
        Direction::Inactive => "inactive",
    }
}
