//! One of our m-lines, kept small: thousands of transports with ten m-lines each live in one process, so texts that the
//! catalogue knows are not stored.

use super::negotiation::{LocalTrack, rid};
use super::{Direction, MediaSection, Payload, catalog};
use crate::client::{Red, Repair, policy};
use crate::types::{Client, Codec, Kind};
use std::borrow::Cow;

const PROTOCOL: &str = "UDP/TLS/RTP/SAVPF";

#[derive(Clone, Debug)]
pub(super) struct Line {
    pub mid: Box<str>,
    pub role: Role,
    /// We want it to carry something; of ours only, the remote may say otherwise.
    pub wanted: bool,
    pub direction: Direction,
    /// As [`MediaSection::reduced_size`]; an answer has it where the offer has.
    pub reduced_size: bool,
    pub formats: Vec<Format>,
    pub extensions: Vec<(u8, &'static str)>,
}

#[derive(Clone, Debug)]
pub(super) enum Role {
    Send(LocalTrack),
    Receive(Kind),
    /// Rejected by either side, or not audio or video. Keeps what an m-line with port 0 has to repeat.
    Dead(Box<Dead>),
}

#[derive(Clone, Debug)]
pub(super) struct Dead {
    name: Box<str>,
    protocol: Box<str>,
    formats: Vec<Box<str>>,
    /// The track that the remote did not want; it is not offered again.
    pub track: Option<LocalTrack>,
}

/// A payload type of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Format {
    pub pt: u8,
    pub carries: Carries,
    /// Parameters, where they are not the catalogue's.
    fmtp: Option<Box<str>>,
    /// Which of the catalogue's feedback values hold, a bit each.
    feedback: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carries {
    Media(Codec),
    /// Retransmissions of this payload type.
    Rtx(u8),
    /// Redundancy around this payload type.
    Red(u8),
}

impl Format {
    /// As our client offers it, under its usual number.
    pub fn offered(client: Client, codec: Codec) -> Format {
        let feedback = (1u8 << catalog::offered_feedback(client, codec.kind()).len()) - 1;
        Format { pt: catalog::offered(codec).0, carries: Carries::Media(codec), fmtp: None, feedback }
    }

    pub fn rtx(pt: u8, apt: u8) -> Format {
        Format { pt, carries: Carries::Rtx(apt), fmtp: None, feedback: 0 }
    }

    pub fn red(pt: u8, primary: u8) -> Format {
        Format { pt, carries: Carries::Red(primary), fmtp: None, feedback: 0 }
    }

    /// Of a remote's offer, what we take.
    fn taken(client: Client, codec: Codec, payload: &Payload) -> Format {
        let known = catalog::feedback(client, codec.kind());
        let bits = known.enumerate().filter(|(_, f)| payload.has_feedback(f));
        let fmtp = (payload.fmtp != catalog::offered(codec).2).then(|| Box::from(&*payload.fmtp));
        let feedback = bits.fold(0, |mask, (i, _)| mask | 1 << i);
        Format { pt: payload.pt, carries: Carries::Media(codec), fmtp, feedback }
    }

    /// Same codec and parameters, under whatever number.
    pub fn means_the_same(&self, other: &Format) -> bool {
        (self.carries, &self.fmtp) == (other.carries, &other.fmtp)
    }

    fn payload(&self, client: Client) -> Payload<'_> {
        let codec = match self.carries {
            Carries::Media(codec) => codec,
            Carries::Rtx(apt) => return catalog::rtx_payload(self.pt, apt),
            Carries::Red(primary) => return catalog::red_payload(self.pt, primary),
        };
        let (_, encoding, fmtp) = catalog::offered(codec);
        let mut feedback = Vec::with_capacity(self.feedback.count_ones() as usize);
        let known = catalog::feedback(client, codec.kind()).enumerate();
        feedback.extend(known.filter(|(bit, _)| self.feedback & 1 << bit != 0).map(|(_, f)| Cow::Borrowed(f)));
        let fmtp = Cow::Borrowed(self.fmtp.as_deref().unwrap_or(fmtp));
        Payload { pt: self.pt, encoding: encoding.into(), fmtp, feedback }
    }
}

impl Line {
    /// Wanted, with nothing in it yet.
    pub fn new(mid: String, role: Role) -> Line {
        let mut line = Line {
            mid: mid.into(),
            role,
            wanted: true,
            direction: Direction::Inactive,
            reduced_size: true,
            formats: Vec::new(),
            extensions: Vec::new(),
        };
        line.want(true);
        line
    }

    pub fn kind(&self) -> Option<Kind> {
        match &self.role {
            Role::Send(track) => Some(track.encoding_codec.kind()),
            Role::Receive(kind) => Some(*kind),
            Role::Dead(_) => None,
        }
    }

    pub fn is_dead(&self) -> bool {
        matches!(self.role, Role::Dead(_))
    }

    /// The track of this m-line, also where the remote rejected it.
    pub fn track(&self) -> Option<LocalTrack> {
        match &self.role {
            Role::Send(track) => Some(*track),
            Role::Receive(_) => None,
            Role::Dead(dead) => dead.track,
        }
    }

    /// For our next offer.
    pub fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        self.direction = match &self.role {
            Role::Send(_) if wanted => Direction::SendOnly,
            Role::Receive(_) if wanted => Direction::RecvOnly,
            _ => Direction::Inactive,
        };
    }

    /// Our m-line in answer to an offered one: its payload types, extension ids and mid (RFC 3264 6.1). `new`: the track
    /// that goes out on it, where it is new.
    pub fn answering(client: Client, old: Option<&Line>, new: Option<LocalTrack>, remote: &MediaSection) -> Line {
        let track = old.and_then(Line::track).filter(|_| old.is_some_and(|l| !l.is_dead())).or(new);
        let kind = remote.kind().filter(|_| !remote.rejected);
        let formats = kind.map_or_else(Vec::new, |kind| take_formats(client, kind, track, remote));
        let Some(kind) = kind.filter(|_| !formats.is_empty()) else {
            let role = Role::Dead(Box::new(Dead::of(remote, track)));
            return Line::new(remote.mid.to_string(), role);
        };
        let wanted = track.is_none() || old.is_none_or(|l| l.wanted);
        let (role, direction) = match track {
            Some(t) if remote.direction.receives() && wanted => (Role::Send(t), Direction::SendOnly),
            Some(t) => (Role::Send(t), Direction::Inactive),
            None if remote.direction.sends() => (Role::Receive(kind), Direction::RecvOnly),
            None => (Role::Receive(kind), Direction::Inactive),
        };
        let known = catalog::extensions(client, kind);
        let extensions = remote
            .extensions
            .iter()
            .filter_map(|(id, uri)| known.iter().find(|(_, k)| k == uri).map(|(_, k)| (*id, *k)))
            .collect();
        let mid = Box::from(&*remote.mid);
        Line { mid, role, wanted, direction, reduced_size: remote.reduced_size, formats, extensions }
    }

    /// The remote rejected our m-line: it stays rejected.
    pub fn reject(&mut self, client: Client, cname: &str) {
        let track = self.track();
        let dead = Dead::of(&self.section(client, cname), track);
        self.role = Role::Dead(Box::new(dead));
        self.want(false);
        self.formats = Vec::new();
        self.extensions = Vec::new();
    }

    /// The m-line as we describe it now.
    pub fn section<'a>(&'a self, client: Client, cname: &'a str) -> MediaSection<'a> {
        let mut section = MediaSection {
            mid: Cow::Borrowed(&self.mid),
            direction: self.direction,
            protocol: PROTOCOL.into(),
            reduced_size: self.reduced_size,
            ..MediaSection::default()
        };
        match &self.role {
            Role::Dead(dead) => {
                section.rejected = true;
                section.name = Cow::Borrowed(&dead.name);
                section.protocol = Cow::Borrowed(&dead.protocol);
                section.formats = dead.formats.iter().map(|f| Cow::Borrowed(&**f)).collect();
                return section;
            }
            Role::Receive(kind) => section.name = kind.as_str().into(),
            Role::Send(track) => {
                section.name = track.encoding_codec.kind().as_str().into();
                let has_rtx = self.formats.iter().any(|f| matches!(f.carries, Carries::Rtx(_)));
                if track.is_grouped() {
                    section.sim = track.layer_ssrcs().map(|(ssrc, _)| ssrc).collect();
                    section.ssrcs.clone_from(&section.sim);
                    if has_rtx {
                        section.fid = track.layer_ssrcs().filter_map(|(ssrc, rtx)| Some((ssrc, rtx?))).collect();
                        section.ssrcs.extend(section.fid.iter().map(|(_, rtx)| *rtx));
                    }
                } else if track.layers > 1 {
                    // The highest first: who takes no simulcast gets that one.
                    section.send_rids = (0..track.layers).rev().map(|n| rid(n).into()).collect();
                } else {
                    section.ssrcs = vec![track.ssrc];
                    if let Some(rtx) = track.rtx_ssrc.filter(|_| has_rtx) {
                        section.ssrcs.push(rtx);
                        section.fid = vec![(track.ssrc, rtx)];
                    }
                }
                section.cname = Some(cname.into());
                section.msid = Some(format!("{cname} {cname}-{}", self.mid).into());
            }
        }
        section.payloads = self.formats.iter().map(|f| f.payload(client)).collect();
        section.extensions = self.extensions.iter().map(|(id, uri)| (*id, Cow::Borrowed(*uri))).collect();
        section
    }
}

impl Dead {
    fn of(section: &MediaSection, track: Option<LocalTrack>) -> Dead {
        let formats = match section.formats.is_empty() {
            true => section.payloads.iter().map(|p| p.pt.to_string().into()).collect(),
            false => section.formats.iter().map(|f| Box::from(&**f)).collect(),
        };
        Dead { name: Box::from(&*section.name), protocol: Box::from(&*section.protocol), formats, track }
    }
}

/// The offer's payloads that we take, and retransmission of these only; empty when no media is left.
fn take_formats(client: Client, kind: Kind, track: Option<LocalTrack>, remote: &MediaSection) -> Vec<Format> {
    let codec = |p: &Payload| {
        let fits = |c: &Codec| c.kind() == kind && track.is_none_or(|t| t.encoding_codec == *c);
        p.codec().filter(fits)
    };
    let is_media = |pt: u8| remote.payloads.iter().any(|p| p.pt == pt && codec(p).is_some());
    let rtx_wanted = policy(client).repair == Repair::Rtx && track.is_none_or(|t| t.rtx_ssrc.is_some());
    let red_wanted = policy(client).red != Red::NotOffered;
    let take = |p: &Payload| {
        if let Some(codec) = codec(p) {
            return Some(Format::taken(client, codec, p));
        }
        let rtx = p.rtx_of().filter(|apt| rtx_wanted && is_media(*apt));
        let red = || p.red_of().filter(|primary| red_wanted && is_media(*primary));
        rtx.map(|apt| Format::rtx(p.pt, apt)).or_else(|| red().map(|primary| Format::red(p.pt, primary)))
    };
    remote.payloads.iter().filter_map(take).collect()
}
