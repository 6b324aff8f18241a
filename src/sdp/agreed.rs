//! What both sides agreed on, m-line by m-line.

use super::catalog::common_extensions;
use super::negotiation::LocalTrack;
use super::{ExtIds, MediaSection, Payload};
use crate::types::{Codec, Kind};

/// All m-lines that carry something, or could.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Agreed {
    pub sends: Vec<AgreedSend>,
    pub receives: Vec<AgreedReceive>,
    /// RTCP may be of reduced size (RFC 5506): both sides take it on every m-line of the BUNDLE, whose RTCP is one
    /// (RFC 8859: the attribute is the same on all). Otherwise each datagram is a compound as RFC 3550 6.1 has it.
    pub reduced_size: bool,
}

/// A track that we may send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgreedSend {
    pub mid: String,
    pub codec: Codec,
    pub pt: u8,
    pub ssrc: u32,
    /// Simulcast: the layers that the remote takes, by their names. Empty: one stream, unless it is `grouped`.
    pub rids: Vec<String>,
    /// Simulcast by SSRC group: all layers are sent, since no answer says otherwise.
    pub grouped: bool,
    /// Payload type and SSRC of retransmissions (RFC 4588), where both sides have it.
    pub rtx: Option<(u8, u32)>,
    pub red: Option<AgreedRed>,
    /// The remote would like discontinuous transmission (`usedtx=1`).
    pub dtx_asked: bool,
    pub ext: ExtIds,
    pub nack: bool,
    pub pli: bool,
    pub fir: bool,
    /// Transport-wide feedback; its extension has an id, too.
    pub twcc: bool,
    pub remb: bool,
    /// The remote wants media now.
    pub active: bool,
}

/// Redundant audio (RFC 2198) that both sides have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgreedRed {
    pub pt: u8,
    /// The remote names it before the codec itself.
    pub preferred: bool,
}

/// An m-line on which the remote may send to us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgreedReceive {
    pub mid: String,
    pub kind: Kind,
    /// Payload types of media, the remote's favourite first.
    pub codecs: Vec<(u8, Codec)>,
    /// Payload types of retransmissions and what they retransmit.
    pub rtx: Vec<(u8, u8)>,
    /// Payload types of redundant audio and what they carry.
    pub red: Vec<(u8, u8)>,
    /// Media SSRCs that were signalled, without those of retransmissions. May be empty.
    pub ssrcs: Vec<u32>,
    /// Media SSRC and its retransmissions' SSRC (FID groups).
    pub rtx_ssrcs: Vec<(u32, u32)>,
    pub ext: ExtIds,
    pub nack: bool,
    pub pli: bool,
    pub fir: bool,
    pub twcc: bool,
    pub msid: Option<String>,
    /// The remote sends now.
    pub active: bool,
}

/// `None` when no codec is left.
pub(super) fn send(track: &LocalTrack, ours: &MediaSection, remote: &MediaSection) -> Option<AgreedSend> {
    let (payload, remote_payload) =
        common_payloads(ours, remote).find(|(p, _)| p.codec() == Some(track.encoding_codec))?;
    let rtx_pt = common_payloads(ours, remote).find(|(p, _)| p.rtx_of() == Some(payload.pt)).map(|(p, _)| p.pt);
    let red = common_payloads(ours, remote).find(|(p, _)| p.red_of() == Some(payload.pt)).map(|(p, _)| p.pt);
    let place = |pt: u8| remote.payloads.iter().position(|p| p.pt == pt);
    let ext = common_extensions(ours, remote);
    let both = |name| payload.has_feedback(name) && remote_payload.has_feedback(name);
    Some(AgreedSend {
        mid: ours.mid.to_string(),
        codec: track.encoding_codec,
        pt: payload.pt,
        ssrc: track.ssrc,
        grouped: track.is_grouped(),
        rids: if ext.rid == 0 || track.is_grouped() { Vec::new() } else { both_rids(ours, remote) },
        rtx: rtx_pt.zip(track.rtx_ssrc),
        red: red.map(|pt| AgreedRed { pt, preferred: place(pt) < place(payload.pt) }),
        dtx_asked: remote_payload.asks_for_dtx(),
        ext,
        nack: both("nack"),
        pli: both("nack pli"),
        fir: both("ccm fir"),
        twcc: both("transport-cc") && ext.twcc != 0,
        remb: both("goog-remb"),
        active: ours.direction.sends() && remote.direction.receives(),
    })
}

/// What we offered and the remote takes; only what stands in our description can be agreed on.
fn both_rids(ours: &MediaSection, remote: &MediaSection) -> Vec<String> {
    ours.send_rids.iter().filter(|r| remote.receive_rids.contains(r)).map(ToString::to_string).collect()
}

/// `None` when no codec is left.
pub(super) fn receive(kind: Kind, ours: &MediaSection, remote: &MediaSection) -> Option<AgreedReceive> {
    let codecs: Vec<(u8, Codec)> =
        common_payloads(ours, remote).filter_map(|(p, _)| Some((p.pt, p.codec()?))).collect();
    if codecs.is_empty() {
        return None;
    }
    let is_media = |pt: u8| codecs.iter().any(|(c, _)| *c == pt);
    let rtx = common_payloads(ours, remote)
        .filter_map(|(p, _)| Some((p.pt, p.rtx_of()?)))
        .filter(|(_, apt)| is_media(*apt))
        .collect();
    let red = common_payloads(ours, remote)
        .filter_map(|(p, _)| Some((p.pt, p.red_of()?)))
        .filter(|(_, primary)| is_media(*primary))
        .collect();
    let ext = common_extensions(ours, remote);
    // Feedback is per payload type; real peers say the same for all of an m-line.
    let both = |name| {
        common_payloads(ours, remote)
            .filter(|(p, _)| is_media(p.pt))
            .any(|(p, r)| p.has_feedback(name) && r.has_feedback(name))
    };
    let is_rtx_ssrc = |ssrc: u32| remote.fid.iter().any(|(_, rtx)| *rtx == ssrc);
    Some(AgreedReceive {
        mid: ours.mid.to_string(),
        kind,
        rtx,
        red,
        ssrcs: remote.ssrcs.iter().copied().filter(|s| !is_rtx_ssrc(*s)).collect(),
        rtx_ssrcs: remote.fid.clone(),
        ext,
        nack: both("nack"),
        pli: both("nack pli"),
        fir: both("ccm fir"),
        twcc: both("transport-cc") && ext.twcc != 0,
        msid: remote.msid.as_deref().map(str::to_owned),
        active: ours.direction.receives() && remote.direction.sends(),
        codecs,
    })
}

/// Our payloads and the remote's of the same number, in the remote's order.
fn common_payloads<'a>(
    ours: &'a MediaSection<'_>,
    remote: &'a MediaSection<'_>,
) -> impl Iterator<Item = (&'a Payload<'a>, &'a Payload<'a>)> {
    remote.payloads.iter().filter_map(|r| Some((ours.payloads.iter().find(|p| p.pt == r.pt)?, r)))
}
