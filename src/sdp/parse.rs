//! Reading a remote description.

use super::{Description, Direction, MediaSection, Payload, SdpError};
use crate::transport::{RemoteParams, Setup};
use crate::types::M_LINES_MAX;
use std::borrow::Cow;

const LENGTH_MAX: usize = 1 << 20;
const CANDIDATES_MAX: usize = 64;
/// SSRCs and groups of an m-line, feedback values of a payload type; whatever is beyond is left out.
const VALUES_MAX: usize = 256;

impl Description<'_> {
    /// Reads an offer or answer. Attributes that are not ours to understand are skipped; what is understood must be
    /// well-formed. Errors name the line.
    pub fn parse(text: &str) -> Result<Description<'_>, SdpError> {
        if text.len() > LENGTH_MAX {
            return Err(SdpError::Whole(format!("{} bytes are too many", text.len())));
        }
        let mut reader = Reader::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() {
                continue;
            }
            reader.line(i, line).map_err(|what| SdpError::Line { line: i + 1, what })?;
        }
        reader.finish()
    }
}

/// Transport attributes of the session or of one m-line.
#[derive(Clone, Default)]
struct Transport<'a> {
    ufrag: Option<&'a str>,
    pwd: Option<&'a str>,
    fingerprint: Option<&'a str>,
    setup: Option<Setup>,
    candidates: Vec<&'a str>,
}

struct Section<'a> {
    media: MediaSection<'a>,
    transport: Transport<'a>,
    rtcp_mux: bool,
    bundle_only: bool,
}

#[derive(Default)]
struct Reader<'a> {
    started: bool,
    session: Transport<'a>,
    direction: Direction,
    lite: bool,
    bundle: Vec<&'a str>,
    sections: Vec<Section<'a>>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, i: usize, line: &'a str) -> Result<(), String> {
        let Some((kind, value)) = cut(line, b'=').filter(|(k, _)| k.len() == 1) else {
            return Err(format!("expected <letter>=<value>, found {:?}", excerpt(line)));
        };
        if !self.started {
            if (i, kind, value) != (0, "v", "0") {
                return Err(format!("expected v=0, found {:?}", excerpt(line)));
            }
            self.started = true;
        }
        match kind {
            "m" => self.section(value),
            "a" => {
                let (name, value) = cut(value, b':').unwrap_or((value, ""));
                self.attribute(name, value.trim_start())
            }
            _ => Ok(()),
        }
    }

    fn section(&mut self, value: &'a str) -> Result<(), String> {
        if self.sections.len() == M_LINES_MAX {
            return Err(format!("more than {M_LINES_MAX} m-lines"));
        }
        let mut fields = value.split_ascii_whitespace();
        let (Some(name), Some(port), Some(protocol)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(format!("an m-line needs media, port, protocol and formats, found {:?}", excerpt(value)));
        };
        let port = port.split('/').next().unwrap_or(port);
        let port: u16 = port.parse().map_err(|_| format!("{:?} is no port", excerpt(port)))?;
        let formats: Vec<Cow<'a, str>> = fields.map(Cow::Borrowed).collect();
        if formats.is_empty() {
            return Err("an m-line without formats".into());
        }
        let mut media = MediaSection {
            name: name.into(),
            protocol: protocol.into(),
            rejected: port == 0,
            direction: self.direction,
            ..MediaSection::default()
        };
        if media.kind().is_some() {
            for format in &formats {
                let pt = format.parse().ok().filter(|pt| *pt < 128);
                let pt = pt.ok_or_else(|| format!("{:?} is no payload type", excerpt(format)))?;
                if !media.payloads.iter().any(|p| p.pt == pt) {
                    let (encoding, fmtp) = Default::default();
                    media.payloads.push(Payload { pt, encoding, fmtp, feedback: Vec::new() });
                }
            }
        }
        media.formats = formats;
        let (transport, rtcp_mux, bundle_only) = (Transport::default(), false, false);
        self.sections.push(Section { media, transport, rtcp_mux, bundle_only });
        Ok(())
    }

    fn attribute(&mut self, name: &str, value: &'a str) -> Result<(), String> {
        let transport = self.sections.last_mut().map_or(&mut self.session, |s| &mut s.transport);
        if transport.attribute(name, value)? {
            return Ok(());
        }
        match (name, self.sections.last_mut()) {
            ("ice-lite", _) => self.lite = true,
            ("group", None) => {
                if let Some(mids) = value.strip_prefix("BUNDLE") {
                    let mids = mids.split_ascii_whitespace().take(M_LINES_MAX);
                    self.bundle = mids.collect();
                }
            }
            ("rtcp-mux", Some(s)) => s.rtcp_mux = true,
            ("bundle-only", Some(s)) => s.bundle_only = true,
            (_, Some(s)) => return s.media.attribute(name, value),
            (_, None) => {
                if let Some(d) = direction(name) {
                    self.direction = d;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Description<'a>, SdpError> {
        for (i, s) in self.sections.iter_mut().enumerate() {
            if s.media.mid.is_empty() {
                s.media.mid = i.to_string().into();
            }
            if s.bundle_only && self.bundle.contains(&&*s.media.mid) {
                s.media.rejected = false;
            }
            s.media.payloads.retain(|p| !p.encoding.is_empty());
        }
        for (i, s) in self.sections.iter().enumerate() {
            if self.sections[..i].iter().any(|o| o.media.mid == s.media.mid) {
                return Err(section_error(i, s, "another m-line has the same mid"));
            }
        }
        if self.sections.is_empty() {
            return Err(SdpError::Whole("no m-line".into()));
        }
        let remote = self.remote()?;
        Ok(Description { media: self.sections.into_iter().map(|s| s.media).collect(), remote })
    }

    /// The one transport: that of the BUNDLE's first m-line, or of the first one that is not rejected.
    fn remote(&self) -> Result<RemoteParams, SdpError> {
        let live = || self.sections.iter().enumerate().filter(|(_, s)| !s.media.rejected);
        let Some((index, tagged)) =
            self.bundle.iter().find_map(|mid| live().find(|(_, s)| s.media.mid == *mid)).or_else(|| live().next())
        else {
            return Err(SdpError::Whole("every m-line is rejected".into()));
        };
        if tagged.media.kind().is_some() && !tagged.rtcp_mux {
            return Err(section_error(index, tagged, "no rtcp-mux"));
        }
        let missing = |what| section_error(index, tagged, what);
        let (t, s) = (&tagged.transport, &self.session);
        let ufrag = t.ufrag.or(s.ufrag).ok_or_else(|| missing("no ice-ufrag"))?;
        let pwd = t.pwd.or(s.pwd).ok_or_else(|| missing("no ice-pwd"))?;
        let fingerprint = t.fingerprint.or(s.fingerprint);
        let fingerprint = fingerprint.ok_or_else(|| missing("no sha-256 fingerprint"))?;
        let mut candidates: Vec<String> = Vec::new();
        let mut gather = |more: &[&str]| {
            for c in more {
                if candidates.len() < CANDIDATES_MAX && !candidates.iter().any(|known| known == c) {
                    candidates.push((*c).to_owned());
                }
            }
        };
        for (i, other) in live() {
            let bundled = self.bundle.contains(&&*other.media.mid);
            if !bundled && other.transport.ufrag.is_some_and(|u| u != ufrag) {
                return Err(section_error(i, other, "a transport of its own; only BUNDLE is supported"));
            }
            gather(&other.transport.candidates);
        }
        gather(&s.candidates);
        Ok(RemoteParams {
            ufrag: ufrag.to_owned(),
            pwd: pwd.to_owned(),
            fingerprint: fingerprint.to_ascii_uppercase(),
            setup: t.setup.or(s.setup).unwrap_or(Setup::Actpass),
            lite: self.lite,
            candidates,
        })
    }
}

fn section_error(index: usize, section: &Section, what: &str) -> SdpError {
    SdpError::Section { index, mid: section.media.mid.to_string(), what: what.to_string() }
}

impl<'a> Transport<'a> {
    /// True when the attribute was one of a transport.
    fn attribute(&mut self, name: &str, value: &'a str) -> Result<bool, String> {
        match name {
            "ice-ufrag" => self.ufrag = Some(token(value, 4, 256)?),
            "ice-pwd" => self.pwd = Some(token(value, 22, 256)?),
            "fingerprint" => {
                let (hash, value) = value.split_once(' ').ok_or("a fingerprint needs a hash and a value")?;
                // Other hashes may stand beside it (RFC 8122 5).
                if hash.eq_ignore_ascii_case("sha-256") && self.fingerprint.is_none() {
                    let value = value.trim();
                    let hex = value.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                    if value.len() != 95 || !hex {
                        return Err(format!("{:?} is no sha-256 fingerprint", excerpt(value)));
                    }
                    self.fingerprint = Some(value);
                }
            }
            "setup" => {
                self.setup = Some(match value {
                    "active" => Setup::Active,
                    "passive" => Setup::Passive,
                    "actpass" => Setup::Actpass,
                    other => return Err(format!("setup {:?} is not supported", excerpt(other))),
                });
            }
            "candidate" => {
                if self.candidates.len() < CANDIDATES_MAX {
                    self.candidates.push(value);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// An ICE credential (RFC 8839 5.4): ice-chars of a sensible length. Other printable characters are let through.
fn token(value: &str, min: usize, max: usize) -> Result<&str, String> {
    let printable = value.bytes().all(|b| b.is_ascii_graphic());
    if !(min..=max).contains(&value.len()) || !printable {
        return Err(format!("an ICE credential of {} bytes", value.len()));
    }
    Ok(value)
}

impl<'a> MediaSection<'a> {
    fn attribute(&mut self, name: &str, value: &'a str) -> Result<(), String> {
        let (first, rest) = cut(value, b' ').unwrap_or((value, ""));
        let rest = rest.trim();
        match name {
            "mid" if value.is_empty() || value.contains(' ') => return Err("a mid is one word".into()),
            "mid" => self.mid = value.into(),
            "rtpmap" => self.payload(first, |p| {
                if p.encoding.is_empty() {
                    p.encoding = rest.into();
                }
            }),
            "fmtp" => self.payload(first, |p| p.fmtp = rest.into()),
            "rtcp-fb" => self.payload(first, |p| {
                if p.feedback.len() < VALUES_MAX && !p.feedback.iter().any(|f| f == rest) {
                    p.feedback.push(rest.into());
                }
            }),
            "extmap" => self.extension(first, rest)?,
            "ssrc-group" if first == "FID" => {
                let ssrcs = rest.split_ascii_whitespace().map(ssrc).collect::<Result<Vec<_>, _>>()?;
                if let [main, rtx] = ssrcs[..]
                    && main != rtx
                    && self.fid.len() < VALUES_MAX
                {
                    self.fid.push((main, rtx));
                }
            }
            "ssrc-group" if first == "SIM" && self.sim.is_empty() => {
                self.sim = rest.split_ascii_whitespace().take(VALUES_MAX).map(ssrc).collect::<Result<_, _>>()?;
            }
            "ssrc" => {
                let ssrc = ssrc(first)?;
                if self.ssrcs.len() < VALUES_MAX && !self.ssrcs.contains(&ssrc) {
                    self.ssrcs.push(ssrc);
                }
                match rest.split_once(':') {
                    Some(("cname", v)) if self.cname.is_none() => self.cname = Some(v.into()),
                    // Plan B's way of saying it, still written by many.
                    Some(("msid", v)) if self.msid.is_none() => self.msid = Some(v.into()),
                    _ => {}
                }
            }
            "msid" => self.msid = Some(value.into()),
            "simulcast" => self.simulcast(value),
            "rtcp-rsize" => self.reduced_size = true,
            _ => {
                if let Some(d) = direction(name) {
                    self.direction = d;
                }
            }
        }
        Ok(())
    }

    /// RFC 8853 5.1: `send` and `recv`, each with its streams. Of alternatives the first; what is to begin paused (`~`)
    /// is listed like the rest.
    fn simulcast(&mut self, value: &'a str) {
        let words: Vec<&str> = value.split_ascii_whitespace().collect();
        for pair in words.chunks_exact(2).take(2) {
            let first = |stream: &'a str| stream.split(',').next().unwrap_or(stream).trim_start_matches('~');
            let rids = pair[1].split(';').map(first).filter(|r| !r.is_empty());
            let rids = rids.map(Cow::Borrowed).take(VALUES_MAX).collect();
            match pair[0] {
                "send" => self.send_rids = rids,
                "recv" => self.receive_rids = rids,
                _ => {}
            }
        }
    }

    /// For one payload type, or all of them (`*`); those that the m-line does not list are nobody's.
    fn payload(&mut self, id: &str, change: impl Fn(&mut Payload<'a>)) {
        let pt: Option<u8> = id.parse().ok();
        self.payloads.iter_mut().filter(|p| id == "*" || pt == Some(p.pt)).for_each(change);
    }

    /// Ids beyond one byte's are left out, and so are second uses of an id or URI.
    fn extension(&mut self, id: &str, rest: &'a str) -> Result<(), String> {
        let number = id.split('/').next().unwrap_or(id);
        let number: u16 = number.parse().map_err(|_| format!("{:?} is no extension id", excerpt(id)))?;
        let uri = rest.split(' ').next().unwrap_or(rest);
        let known = self.extensions.iter().any(|(i, u)| u16::from(*i) == number || u == uri);
        if let Ok(id @ 1..=14) = u8::try_from(number)
            && !known
            && !uri.is_empty()
        {
            self.extensions.push((id, uri.into()));
        }
        Ok(())
    }
}

/// At the first such character of ASCII. What is looked for stands near the front: `split_once` would take longer to
/// begin than to find it.
fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let i = text.bytes().position(|b| b == at)?;
    Some((&text[..i], &text[i + 1..]))
}

fn ssrc(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{:?} is no SSRC", excerpt(text)))
}

fn direction(name: &str) -> Option<Direction> {
    match name {
        "sendrecv" => Some(Direction::SendRecv),
        "sendonly" => Some(Direction::SendOnly),
        "recvonly" => Some(Direction::RecvOnly),
        "inactive" => Some(Direction::Inactive),
        _ => None,
    }
}

/// Enough of it to find it again.
fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}
