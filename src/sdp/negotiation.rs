//! One transport's m-lines over its life.

use super::line::{Format, Line, Role};
use super::write::{Head, description};
use super::{Agreed, Description, Direction, MediaSection, SdpError, agreed, catalog};
use crate::client::{Red, Repair, policy};
use crate::transport::{LocalParams, RemoteParams, Setup};
use crate::types::{Client, Codec, Kind, Simulcast};

/// Something that we send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalTrack {
    pub encoding_codec: Codec,
    pub ssrc: u32,
    /// Of retransmissions; only used by clients that do them.
    pub rtx_ssrc: Option<u32>,
    /// More than 1: simulcast. `ssrc` and `rtx_ssrc` are the highest layer's; by rid they only name the track.
    pub layers: u8,
    /// How the layers are told apart: by [`rid`]s, or by [`LocalTrack::layer_ssrcs`].
    pub simulcast: Simulcast,
}

impl LocalTrack {
    /// Of an SSRC group: the layers' SSRCs, and those of their retransmissions, the lowest layer first. They follow each
    /// other, so that one of them stands for all.
    pub fn layer_ssrcs(&self) -> impl Iterator<Item = (u32, Option<u32>)> {
        let (ssrc, rtx) = (self.ssrc, self.rtx_ssrc);
        (0..u32::from(self.layers)).rev().map(move |below| layer_below(ssrc, rtx, below))
    }

    /// Its layers are told apart by SSRCs.
    pub fn is_grouped(&self) -> bool {
        self.layers > 1 && self.simulcast == Simulcast::SsrcGroup
    }
}

/// SSRC and retransmissions' SSRC of the layer that is so many below the highest, of which both are given.
pub fn layer_below(ssrc: u32, rtx_ssrc: Option<u32>, below: u32) -> (u32, Option<u32>) {
    (ssrc.wrapping_sub(below), rtx_ssrc.map(|rtx| rtx.wrapping_sub(below)))
}

/// The name of a layer, from the lowest, 0: quarter, half, full, as livekit-client has it.
pub fn rid(layer: u8) -> &'static str {
    ["q", "h", "f"].get(usize::from(layer)).copied().unwrap_or("f")
}

/// Offers, answers, renegotiation in both directions. m-lines keep their place and mid for ever (RFC 8829 5.2.2);
/// those no longer wanted become inactive, new ones are appended.
#[derive(Clone, Debug)]
pub struct Negotiation {
    client: Client,
    session_id: u64,
    /// Of our last description.
    version: u64,
    cname: Box<str>,
    lines: Vec<Line>,
    /// The m-lines before our open offer, to go back to when a remote offer crosses it.
    stable: Option<Vec<Line>>,
    agreed: Agreed,
}

impl Negotiation {
    /// `session_id` for the o-line (its upper two bits are cleared), `cname` for our SSRCs and msids (RFC 7022: random
    /// and short, one word).
    pub fn new(client: Client, session_id: u64, cname: String) -> Negotiation {
        Negotiation {
            client,
            session_id: session_id & (u64::MAX >> 2),
            version: 0,
            cname: cname.into(),
            lines: Vec::new(),
            stable: None,
            agreed: Agreed::default(),
        }
    }

    /// Our offer: one m-line a track, and as many m-lines that only receive as asked for, audio first. Offered again
    /// before an answer came, it replaces the open offer.
    pub fn offer(
        &mut self,
        local: &LocalParams,
        tracks: &[LocalTrack],
        receive_audio: u16,
        receive_video: u16,
    ) -> String {
        match &self.stable {
            Some(stable) => self.lines.clone_from(stable),
            None => self.stable = Some(self.lines.clone()),
        }
        for line in &mut self.lines {
            if let Role::Send(track) = line.role {
                line.want(tracks.iter().any(|t| t.ssrc == track.ssrc));
            }
        }
        for track in tracks {
            if !self.lines.iter().any(|l| l.track().is_some_and(|t| t.ssrc == track.ssrc)) {
                self.append(Role::Send(*track), &[track.encoding_codec], track.rtx_ssrc.is_some());
            }
        }
        for (kind, count) in [(Kind::Audio, receive_audio), (Kind::Video, receive_video)] {
            self.want_receive(kind, count.into());
        }
        self.version += 1;
        self.describe(local, Setup::Actpass, &self.sections())
    }

    /// Keeps `count` receiving m-lines of a kind; those beyond become inactive.
    fn want_receive(&mut self, kind: Kind, count: usize) {
        let mut have = 0;
        for line in self.lines.iter_mut().filter(|l| matches!(l.role, Role::Receive(k) if k == kind)) {
            line.want(have < count);
            have += 1;
        }
        for _ in have..count {
            self.append(Role::Receive(kind), catalog::codecs(kind), true);
        }
    }

    fn append(&mut self, role: Role, codecs: &[Codec], rtx: bool) {
        let mut line = Line::new(self.free_mid(), role);
        let Some(kind) = line.kind() else { return };
        for codec in codecs {
            let media = self.numbered(Format::offered(self.client, *codec), &line);
            let apt = media.pt;
            line.formats.push(media);
            let policy = policy(self.client);
            if rtx && kind == Kind::Video && policy.repair == Repair::Rtx {
                let rtx = self.numbered(Format::rtx(apt.saturating_add(1).min(127), apt), &line);
                line.formats.push(rtx);
            }
            if *codec == Codec::Opus && policy.red != Red::NotOffered {
                let red = self.numbered(Format::red(catalog::RED_PT, apt), &line);
                line.formats.push(red);
            }
        }
        for (id, uri) in catalog::extensions(self.client, kind) {
            if let Some(id) = self.extension_id(*id, uri, &line) {
                line.extensions.push((id, uri));
            }
        }
        if line.track().is_some_and(|t| t.layers > 1 && !t.is_grouped()) {
            // Without these no layer could be told from another, whatever else the client knows.
            for (id, uri) in catalog::LAYER_EXTENSIONS {
                if !line.extensions.iter().any(|(_, u)| u == uri)
                    && let Some(id) = self.extension_id(*id, uri, &line)
                {
                    line.extensions.push((id, uri));
                }
            }
        }
        self.lines.push(line);
    }

    fn free_mid(&self) -> String {
        let taken = |mid: &str| self.lines.iter().any(|l| &*l.mid == mid);
        let mut n = self.lines.len();
        while taken(&n.to_string()) {
            n += 1;
        }
        n.to_string()
    }

    /// A format under the number that the BUNDLE has for it, its own, or a free one: a number has one meaning there
    /// (RFC 9143 10.1.2).
    fn numbered(&self, mut format: Format, line: &Line) -> Format {
        let used = || self.lines.iter().chain([line]).flat_map(|l| &l.formats);
        if let Some(same) = used().find(|f| f.means_the_same(&format)) {
            format.pt = same.pt;
        } else if used().any(|f| f.pt == format.pt) {
            let free = (96..=127).chain(35..=63).find(|pt| !used().any(|f| f.pt == *pt));
            format.pt = free.unwrap_or(format.pt);
        }
        format
    }

    /// The same for header extensions; `None` when all 14 are taken.
    fn extension_id(&self, wanted: u8, uri: &str, line: &Line) -> Option<u8> {
        let used = || self.lines.iter().chain([line]).flat_map(|l| &l.extensions);
        if let Some((id, _)) = used().find(|(_, u)| *u == uri) {
            return Some(*id);
        }
        [wanted].into_iter().chain(1..=14).find(|id| !used().any(|(i, _)| i == id))
    }

    fn sections(&self) -> Vec<MediaSection<'_>> {
        self.lines.iter().map(|l| l.section(self.client, &self.cname)).collect()
    }

    /// Our description with these m-lines, under the version that the caller gave it.
    fn describe(&self, local: &LocalParams, setup: Setup, sections: &[MediaSection]) -> String {
        description(&Head { session_id: self.session_id, version: self.version, local, setup }, sections)
    }

    /// The remote's answer to our open offer. It has to have our m-lines, in number, kind and mid, and our payload
    /// types; on an error the offer stays open and what was agreed stands.
    pub fn accept_answer(&mut self, text: &str) -> Result<(RemoteParams, Agreed), SdpError> {
        if self.stable.is_none() {
            return Err(SdpError::NoOffer);
        }
        let answer = Description::parse(text)?;
        if answer.media.len() != self.lines.len() {
            let what = format!("the answer has {} m-lines, the offer {}", answer.media.len(), self.lines.len());
            return Err(SdpError::Whole(what));
        }
        if answer.remote.setup == Setup::Actpass {
            return Err(SdpError::Whole("the answer does not choose a DTLS role (setup)".into()));
        }
        let sections = self.sections();
        for (index, (ours, remote)) in sections.iter().zip(&answer.media).enumerate() {
            let at = |what| SdpError::Section { index, mid: remote.mid.to_string(), what };
            check_answer(ours, remote).map_err(at)?;
        }
        // Those that are rejected now agree on nothing, as dead ones.
        self.agreed = agree(&self.lines, &sections, &answer.media);
        for (line, remote) in self.lines.iter_mut().zip(&answer.media) {
            if remote.rejected && !line.is_dead() {
                line.reject(self.client, &self.cname);
            }
        }
        self.stable = None;
        Ok((answer.remote, self.agreed.clone()))
    }

    /// A remote offer, and our answer: m-lines that send to us are received where we know a codec, our tracks keep
    /// their m-lines, and the rest is answered inactive or rejected. Payload types and extension ids are the offer's
    /// (RFC 3264 6.1). `tracks` that have none yet go out on new m-lines that want to be sent to, as another participant
    /// offers them (a server's want nothing). `setup` is our wish; the offer may not leave a choice, see
    /// [`Setup::answer`].
    ///
    /// For an offer that restarts ICE, `local` has to hold new credentials. An open offer of ours is rolled back.
    /// After an error nothing has changed.
    pub fn accept_offer(
        &mut self,
        text: &str,
        local: &LocalParams,
        setup: Setup,
        tracks: &[LocalTrack],
    ) -> Result<(String, RemoteParams, Agreed), SdpError> {
        let offer = Description::parse(text)?;
        let before = self.stable.as_ref().unwrap_or(&self.lines);
        if offer.media.len() < before.len() {
            let what = format!("the offer has {} m-lines, there were {}", offer.media.len(), before.len());
            return Err(SdpError::Whole(what));
        }
        for (index, (old, remote)) in before.iter().zip(&offer.media).enumerate() {
            // Only the place of a rejected m-line may be used for another one.
            if *old.mid != *remote.mid && !old.is_dead() {
                let what = format!("its mid was {:?}", old.mid);
                return Err(SdpError::Section { index, mid: remote.mid.to_string(), what });
            }
        }
        let placed = |t: &LocalTrack| before.iter().any(|l| l.track().is_some_and(|p| p.ssrc == t.ssrc));
        // Layers are for servers to choose from.
        let mut free: Vec<LocalTrack> = tracks.iter().filter(|t| t.layers == 1 && !placed(t)).copied().collect();
        let mut answering = |(i, remote): (usize, &MediaSection)| {
            let taken = |t: &LocalTrack| remote.payloads.iter().any(|p| p.codec() == Some(t.encoding_codec));
            let wanted = before.get(i).is_none() && remote.direction == Direction::RecvOnly && !remote.rejected;
            let track = free.iter().position(|t| wanted && taken(t)).map(|n| free.remove(n));
            Line::answering(self.client, before.get(i), track, remote)
        };
        self.lines = offer.media.iter().enumerate().map(&mut answering).collect();
        self.stable = None;
        self.version += 1;
        let sections = self.sections();
        let text = self.describe(local, setup.answer(offer.remote.setup), &sections);
        self.agreed = agree(&self.lines, &sections, &offer.media);
        Ok((text, offer.remote, self.agreed.clone()))
    }

    /// What the last complete exchange agreed on.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }
}

/// `sections` are those of `lines`.
fn agree(lines: &[Line], sections: &[MediaSection], remotes: &[MediaSection]) -> Agreed {
    let mut all = Agreed { reduced_size: true, ..Agreed::default() };
    for ((line, ours), remote) in lines.iter().zip(sections).zip(remotes) {
        if line.is_dead() || remote.rejected {
            continue;
        }
        all.reduced_size &= line.reduced_size && remote.reduced_size;
        match &line.role {
            Role::Send(track) => all.sends.extend(agreed::send(track, ours, remote)),
            Role::Receive(kind) => all.receives.extend(agreed::receive(*kind, ours, remote)),
            Role::Dead(_) => {}
        }
    }
    all
}

fn check_answer(ours: &MediaSection, remote: &MediaSection) -> Result<(), String> {
    if remote.mid != ours.mid {
        return Err(format!("the offer has mid {:?} here", ours.mid));
    }
    if remote.name != ours.name {
        return Err(format!("the offer has {} here", ours.name));
    }
    if remote.rejected {
        return Ok(());
    }
    if ours.rejected {
        return Err("the offer rejects this m-line".into());
    }
    let mut known = false;
    for payload in &remote.payloads {
        let Some(offered) = ours.payloads.iter().find(|p| p.pt == payload.pt) else { continue };
        if !offered.encoding.eq_ignore_ascii_case(&payload.encoding) {
            return Err(format!("payload type {} is {} in the offer", offered.pt, offered.encoding));
        }
        known |= offered.codec().is_some();
    }
    if known { Ok(()) } else { Err("no payload type of the offer".into()) }
}
