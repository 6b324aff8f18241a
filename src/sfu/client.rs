//! One participant as the server sees it: its transport, the sources it sends, the slots it receives in. Of one that is on
//! another server of the room there is only what it sends.

use super::keyframe::Gate;
use super::red;
use super::rewrite::{Numbers, Rewrite};
use super::speakers::Speech;
use super::terms::{JoinError, RestartError, SfuConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use str0m::change::SdpOffer;
use str0m::format::{Codec, CodecConfig, PayloadParams};
use str0m::media::{ExtensionValues, MediaKind, Mid, Pt, Rid, Rids};
use str0m::rtp::{RtpPacket, RtpWrite, SeqNo, Ssrc, VideoOrientation, Vp8Descriptor};
use str0m::{Candidate, IceCreds, Rtc, RtcConfig};

/// Index into the server's table of clients; reused after a client is gone.
pub(super) type ClientKey = usize;

/// Packets kept for answering NACKs, per video slot.
const RESEND_PACKETS: usize = 1024;
const RESEND_AGE: Duration = Duration::from_secs(3);

/// More layers than anybody sends of one video.
const LAYERS_MAX: usize = 8;

/// Nothing becomes due by itself for somebody on another server.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A layer of which nothing has come for so long is no choice: senders leave out what their network cannot carry.
const LAYER_SILENCE_MAX: Duration = Duration::from_secs(1);

/// An offer that has been answered, not yet let in. Building one costs about a millisecond, so servers do it away
/// from the media thread.
pub struct Joining {
    pub(super) client: Client,
    pub(super) answer: String,
    /// Comes from another server of the fleet, with its room.
    pub moved: bool,
}

/// What a participant sends is held back: a sin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// For so long from its first packet on.
    For(Duration),
    Until(Instant),
    ForGood,
}

pub(super) struct Client {
    /// `None`: it is on another server.
    pub rtc: Option<Rtc>,
    pub remote: Option<Remote>,
    /// Names it to other servers.
    pub number: u32,
    pub room: Arc<str>,
    pub name: Arc<str>,
    /// Our first ICE username fragment: finds the client for a connectivity check, and names its session over HTTP.
    pub ufrag: String,
    /// The one in force after an ICE restart.
    pub restarted_ufrag: Option<String>,
    pub addresses: Vec<SocketAddr>,
    pub joined: Instant,
    pub seen: Instant,
    pub connected: bool,
    pub timeout: Instant,
    /// Has packets queued that wait for the next flush.
    pub dirty: bool,
    pub sources: Vec<Source>,
    pub slots: Vec<Slot>,
    /// Highest layer that it is to get, 0 the lowest.
    pub layer_max: u8,
    pub speech: Speech,
    /// Last-N: of whom it gets video, as it was told; `None`: not told yet.
    pub forwarded: Option<Vec<ClientKey>>,
    pub held: Option<Hold>,
}

/// Where a participant of the room is that is not here: its server, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Remote {
    pub peer: SocketAddr,
    pub number: u32,
}

/// Something a participant sends: one m-line, or of simulcast (RFC 8853) one of its layers.
pub(super) struct Source {
    mid: Mid,
    rid: Option<Rid>,
    /// Of a layer that its SSRC tells from the others.
    ssrc: Option<Ssrc>,
    /// Its index at the participant's own server, and that of its m-line.
    pub origin: u8,
    pub line: u8,
    /// Place among the layers of its m-line, 0 the lowest.
    pub layer: u8,
    /// When its last packet came.
    pub last: Option<Instant>,
    /// Like `subscribers`, but still shown another layer: until this one's next key frame.
    pub switching: Vec<(ClientKey, usize)>,
    kind: MediaKind,
    /// Known from the first packet on.
    pub flow: Option<Flow>,
    /// (receiver, its slot), in the order they were given one.
    pub subscribers: Vec<(ClientKey, usize)>,
    pub gate: Gate,
}

/// What a source's packets are at the moment.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub ssrc: Ssrc,
    pub codec: PayloadParams,
    /// The codec's payload type where all servers have the same.
    pub shared: Option<Pt>,
}

/// A place for one other sender's audio or video: one m-line.
pub(super) struct Slot {
    mid: Mid,
    kind: MediaKind,
    pub ssrc: Ssrc,
    /// Sender, and index of its source.
    pub shows: Option<(ClientKey, usize)>,
    /// Ours for the sender's codec.
    pt: Pt,
    /// Ours for redundant audio, where the receiver has it.
    red: Option<Pt>,
    rewrite: Rewrite,
    /// Video: nothing passes before the next key frame.
    pub waits: bool,
}

/// One incoming packet, looked at once for all its receivers.
pub(super) struct Incoming<'a> {
    pub numbers: Numbers,
    pub marker: bool,
    pub carried: Carried,
    pub payload: &'a Arc<[u8]>,
    pub received: Instant,
    /// Redundant audio: the payload holds earlier frames, too.
    pub redundant: bool,
    pub vp8: Option<Vp8Descriptor>,
    pub starts_key_frame: bool,
}

/// Header extensions that go from sender to receiver.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Carried {
    pub audio_level: Option<i8>,
    pub voice_activity: Option<bool>,
    pub orientation: Option<VideoOrientation>,
}

impl Joining {
    /// Answers an offer: sendonly and sendrecv m-lines become sources, recvonly and sendrecv ones slots.
    ///
    /// # Errors
    /// [`JoinError::BadSdp`] for an offer that can't be parsed, or with an m-line we have no codec for.
    pub fn new(config: &SfuConfig, now: Instant, offer: &str) -> Result<Joining, JoinError> {
        let bad = |why: &dyn std::fmt::Display| JoinError::BadSdp(why.to_string());
        let offer = without_candidates(offer);
        let rtc = rtc_config(config, &offer);
        let mids: Vec<Mid> =
            offer.lines().filter_map(|l| l.strip_prefix("a=mid:")).map(|mid| Mid::from(mid.trim())).collect();
        let groups: Vec<(Mid, Vec<Ssrc>)> = offer.split("\r\nm=").filter_map(ssrc_group).collect();
        let offer = SdpOffer::from_sdp_string(&offer).map_err(|e| bad(&e))?;

        let creds = IceCreds::new();
        let ufrag = creds.ufrag.clone();
        let mut rtc = rtc.set_local_ice_credentials(creds).build(now);
        let candidate = Candidate::host(config.media, "udp").map_err(|e| bad(&e))?;
        rtc.add_local_candidate(candidate);
        let answer = codecs_first(&rtc.sdp_api().accept_offer(offer).map_err(|e| bad(&e))?.to_sdp_string());

        let mut sources = Vec::new();
        let mut slots = Vec::new();
        for mid in mids {
            let Some(media) = rtc.media(mid) else { continue };
            let (kind, direction) = (media.kind(), media.direction());
            if media.stopped() || !(direction.is_sending() || direction.is_receiving()) {
                continue;
            }
            let Some(pt) = media.remote_pts().first().copied() else {
                return Err(JoinError::BadSdp(format!("m-line {mid}: no codec that this server forwards")));
            };
            if direction.is_receiving() {
                let source = |rid, layer| Source::new(mid, rid, layer, kind);
                match media.rids_rx() {
                    // The offer's order is taken for highest first, as Janus does.
                    Rids::Specific(rids) => {
                        sources.extend((0..).zip(rids.iter().rev()).map(|(layer, rid)| source(Some(*rid), layer)));
                    }
                    Rids::Any | Rids::None => match groups.iter().find(|(m, _)| *m == mid) {
                        Some((_, ssrcs)) => sources.extend(
                            (0..).zip(ssrcs).map(|(layer, ssrc)| Source { ssrc: Some(*ssrc), ..source(None, layer) }),
                        ),
                        None => sources.push(source(None, 0)),
                    },
                }
            }
            if direction.is_sending() {
                let mut api = rtc.direct_api();
                let Some(stream) = api.stream_tx_by_mid(mid, None) else {
                    return Err(JoinError::BadSdp(format!(
                        "m-line {mid}: simulcast towards the client is unknown here"
                    )));
                };
                // No cap on the share of retransmissions: under test, loss comes in shares no live network has, and
                // what recovery achieves is one of the numbers wanted.
                stream.set_rtx_cache(RESEND_PACKETS, RESEND_AGE, None);
                let ssrc = stream.ssrc();
                let red = rtc.codec_config().find(|p| p.pt() == pt).and_then(|p| p.red());
                slots.push(Slot::new(mid, kind, ssrc, pt, red));
            }
        }
        if sources.is_empty() && slots.is_empty() {
            return Err(JoinError::BadSdp("neither sends nor receives audio or video".into()));
        }
        for i in 0..sources.len() {
            let line = sources.iter().position(|s: &Source| s.mid == sources[i].mid).unwrap_or(i);
            (sources[i].origin, sources[i].line) = (i as u8, line as u8);
        }
        let client = Client {
            rtc: Some(rtc),
            remote: None,
            number: 0,
            room: "".into(),
            name: "".into(),
            ufrag,
            restarted_ufrag: None,
            addresses: Vec::new(),
            joined: now,
            seen: now,
            connected: false,
            timeout: now,
            dirty: false,
            sources,
            slots,
            layer_max: u8::MAX,
            speech: Speech::default(),
            forwarded: None,
            held: None,
        };
        Ok(Joining { client, answer, moved: false })
    }
}

/// Codecs with payload types that are the same on every server.
pub(super) fn shared_codecs(config: &SfuConfig) -> CodecConfig {
    rtc_config(config, "").codec_config().clone()
}

fn rtc_config(config: &SfuConfig, offer: &str) -> RtcConfig {
    let rtc = RtcConfig::new()
        .set_crypto_provider(config.crypto.clone())
        .set_dtls_cert(config.certificate.clone())
        .set_ice_lite(true)
        .set_rtp_mode(true)
        .clear_codecs()
        .enable_opus(true, true);
    // Answers list codecs in this order, and a browser sends the first.
    if prefers_h264(offer) { with_h264(rtc).enable_vp8(true) } else { with_h264(rtc.enable_vp8(true)) }
}

fn with_h264(mut rtc: RtcConfig) -> RtcConfig {
    for (pt, rtx, profile_level_id) in
        [(108, 109, 0x42e01f), (127, 121, 0x42001f), (123, 119, 0x4d001f), (114, 115, 0x64001f)]
    {
        let packetization_mode_1 = true;
        rtc.codec_config().add_h264(pt.into(), Some(Pt::from(rtx)), packetization_mode_1, profile_level_id);
    }
    rtc
}

/// Whether the first payload type of the first video m-line is H.264.
fn prefers_h264(offer: &str) -> bool {
    let video = offer.find("m=video ").map_or("", |at| &offer[at..]);
    let first = video.lines().next().and_then(|m| m.split_ascii_whitespace().nth(3)).unwrap_or_default();
    let rtpmap = format!("a=rtpmap:{first} ");
    video
        .lines()
        .find_map(|l| l.strip_prefix(&rtpmap))
        .is_some_and(|codec| codec.to_ascii_uppercase().starts_with("H264/"))
}

/// str0m lists redundancy (RED) before the codec inside, and a browser sends what stands first. This server takes
/// redundancy and does not ask for it.
fn codecs_first(answer: &str) -> String {
    let red: Vec<&str> = answer
        .lines()
        .filter_map(|l| l.strip_prefix("a=rtpmap:")?.split_once(' '))
        .filter(|(_, codec)| codec.starts_with("red/"))
        .map(|(pt, _)| pt)
        .collect();
    let mut out = String::with_capacity(answer.len());
    for line in answer.lines() {
        let mut words: Vec<&str> = line.split(' ').collect();
        if line.starts_with("m=audio ") {
            // Stable: only what is redundancy moves.
            words.get_mut(3..).unwrap_or_default().sort_by_key(|pt| red.contains(pt));
        }
        out.push_str(&words.join(" "));
        out.push_str("\r\n");
    }
    out
}

/// Of one m-line, its mid and the SSRCs of its `SIM` group, the lowest layer first. str0m knows them as streams of that
/// mid, and no more.
fn ssrc_group(section: &str) -> Option<(Mid, Vec<Ssrc>)> {
    let value = |name: &str| section.lines().find_map(|l| l.strip_prefix(name));
    let ssrcs = value("a=ssrc-group:SIM ")?.split_ascii_whitespace().map_while(|s| s.parse::<u32>().ok());
    let ssrcs: Vec<Ssrc> = ssrcs.take(LAYERS_MAX).map(Ssrc::from).collect();
    Some((Mid::from(value("a=mid:")?.trim()), ssrcs)).filter(|(_, ssrcs)| ssrcs.len() > 1)
}

/// An ICE-lite server never sends to a candidate before it has heard from there, so it needs none; leaving them out
/// spares the parser names that only mDNS could resolve, and the agent their pairs.
fn without_candidates(sdp: &str) -> String {
    sdp.lines().filter(|l| !l.starts_with("a=candidate:")).flat_map(|l| [l.trim_end(), "\r\n"]).collect()
}

impl Client {
    /// Somebody in the room on another server.
    pub fn on_another_server(room: Arc<str>, remote: Remote, now: Instant) -> Client {
        Client {
            rtc: None,
            remote: Some(remote),
            number: 0,
            room,
            name: "".into(),
            ufrag: String::new(),
            restarted_ufrag: None,
            addresses: Vec::new(),
            joined: now,
            seen: now,
            connected: true,
            timeout: now + NEVER,
            dirty: false,
            sources: Vec::new(),
            slots: Vec::new(),
            layer_max: u8::MAX,
            speech: Speech::default(),
            forwarded: None,
            held: None,
        }
    }

    /// Of somebody on another server, the source that has this index there; a new one where there is none yet.
    pub fn source_at(&mut self, origin: u8, line: u8, layer: Option<u8>, kind: MediaKind) -> usize {
        let known = self.sources.iter().position(|s| s.origin == origin);
        known.unwrap_or_else(|| {
            let mid = Mid::from(format!("m{line}").as_str());
            let rid = layer.map(|l| Rid::from(format!("l{l}").as_str()));
            let source = Source { origin, line, ..Source::new(mid, rid, layer.unwrap_or(0), kind) };
            self.sources.push(source);
            self.sources.len() - 1
        })
    }

    /// Answers an offer with new ICE credentials (RFC 8445 9); gives the answer and our new username fragment. Keys,
    /// sources and slots stay.
    pub fn restart(&mut self, offer: &str) -> Result<(String, String), RestartError> {
        let bad = |why: &dyn std::fmt::Display| RestartError::BadSdp(why.to_string());
        let offer = SdpOffer::from_sdp_string(&without_candidates(offer)).map_err(|e| bad(&e))?;
        let rtc = self.rtc.as_mut().ok_or(RestartError::Unknown)?;
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|e| bad(&e))?.to_sdp_string();
        let ufrag = answer.lines().find_map(|l| l.strip_prefix("a=ice-ufrag:")).unwrap_or_default().trim().to_owned();
        Ok((answer, ufrag))
    }

    /// Whether a packet that it sends now is held back.
    pub fn is_held(&mut self, now: Instant) -> bool {
        match self.held {
            None => false,
            Some(Hold::ForGood) => true,
            Some(Hold::Until(at)) => now < at,
            Some(Hold::For(time)) => {
                self.held = Some(Hold::Until(now + time));
                true
            }
        }
    }

    /// The source a packet belongs to.
    pub fn source_of(&mut self, packet: &RtpPacket) -> Option<usize> {
        let ssrc = packet.header.ssrc;
        let known = self.sources.iter().position(|s| s.flow.is_some_and(|f| f.ssrc == ssrc));
        known.or_else(|| {
            let mut api = self.rtc.as_mut()?.direct_api();
            let stream = api.stream_rx(&ssrc)?;
            let (mid, rid) = (stream.mid(), stream.rid());
            let fits = |s: &Source| s.ssrc.map_or(s.rid.is_none() || s.rid == rid, |of| of == ssrc);
            self.sources.iter().position(|s| s.mid == mid && fits(s))
        })
    }

    /// What a packet's payload type stands for here.
    pub fn codec(&self, pt: Pt) -> Option<PayloadParams> {
        self.rtc.as_ref()?.codec_config().find(|p| p.pt() == pt || p.red() == Some(pt)).copied()
    }

    /// Of the layers of one m-line the highest that flows and is not above `layer_max`, or else the lowest that flows.
    /// `None` when none does; of an m-line without layers itself.
    pub fn best_layer(&self, source: usize, layer_max: u8, now: Instant) -> Option<usize> {
        let one = self.sources.get(source)?;
        if !one.is_layer() {
            return Some(source);
        }
        let flows = |s: &Source| s.last.is_some_and(|at| now < at + LAYER_SILENCE_MAX) && s.flow.is_some();
        let flowing = || self.sources.iter().enumerate().filter(|(_, s)| s.mid == one.mid && flows(s));
        let best = flowing().filter(|(_, s)| s.layer <= layer_max).max_by_key(|(_, s)| s.layer);
        best.or_else(|| flowing().min_by_key(|(_, s)| s.layer)).map(|(index, _)| index)
    }

    /// Both are layers of one m-line, or the same.
    pub fn are_layers(&self, a: usize, b: usize) -> bool {
        matches!((self.sources.get(a), self.sources.get(b)), (Some(a), Some(b)) if a.mid == b.mid)
    }

    /// A free slot for media of this kind and codec, and our payload type for it.
    pub fn free_slot(&self, kind: MediaKind, codec: PayloadParams) -> Option<(usize, Pt)> {
        let rtc = self.rtc.as_ref()?;
        let pt = rtc.codec_config().match_params(codec)?.pt();
        let fits = |slot: &Slot| {
            slot.shows.is_none()
                && slot.kind == kind
                && rtc.media(slot.mid).is_some_and(|m| m.remote_pts().contains(&pt))
        };
        self.slots.iter().position(fits).map(|slot| (slot, pt))
    }

    pub fn sends_video(&self) -> bool {
        self.sources.iter().any(|s| s.kind == MediaKind::Video)
    }

    pub fn write(&mut self, slot: usize, now: Instant, incoming: &Incoming) -> Wrote {
        let Some(slot) = self.slots.get_mut(slot) else { return Wrote::Dropped };
        let Some(packet) = slot.next(now, incoming) else {
            return if slot.waits { Wrote::Waiting } else { Wrote::Dropped };
        };
        let ssrc = slot.ssrc;
        let Some(rtc) = &mut self.rtc else { return Wrote::Dropped };
        match rtc.direct_api().stream_tx(&ssrc) {
            Some(stream) => stream.write_rtp(packet),
            None => return Wrote::Dropped,
        }
        Wrote::Queued
    }
}

/// What became of a packet at one receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrote {
    Queued,
    /// The slot's decoder needs a key frame first.
    Waiting,
    /// From before the slot was given to this sender.
    Dropped,
}

impl Source {
    fn new(mid: Mid, rid: Option<Rid>, layer: u8, kind: MediaKind) -> Source {
        Source {
            mid,
            rid,
            ssrc: None,
            origin: 0,
            line: 0,
            layer,
            last: None,
            switching: Vec::new(),
            kind,
            flow: None,
            subscribers: Vec::new(),
            gate: Gate::default(),
        }
    }

    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    /// One of several of its m-line.
    pub fn is_layer(&self) -> bool {
        self.rid.is_some() || self.ssrc.is_some()
    }
}

impl Slot {
    fn new(mid: Mid, kind: MediaKind, ssrc: Ssrc, pt: Pt, red: Option<Pt>) -> Slot {
        let clock_rate = match kind {
            MediaKind::Audio => 48_000,
            MediaKind::Video => 90_000,
        };
        Slot { mid, kind, ssrc, shows: None, pt, red, rewrite: Rewrite::new(clock_rate), waits: false }
    }

    pub fn show(&mut self, sender: ClientKey, source: usize, pt: Pt) {
        self.shows = Some((sender, source));
        self.pt = pt;
        self.rewrite.restart();
        self.waits = self.kind == MediaKind::Video;
    }

    pub fn clear(&mut self) {
        self.shows = None;
    }

    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    pub fn mid(&self) -> Mid {
        self.mid
    }

    pub fn pt(&self) -> Pt {
        self.pt
    }

    fn next(&mut self, now: Instant, incoming: &Incoming) -> Option<RtpWrite> {
        if self.waits {
            if !incoming.starts_key_frame {
                return None;
            }
            self.waits = false;
        }
        let (numbers, patch) = self.rewrite.apply(now, incoming.numbers, incoming.vp8.as_ref())?;
        let extensions = ExtensionValues {
            audio_level: incoming.carried.audio_level,
            voice_activity: incoming.carried.voice_activity,
            video_orientation: incoming.carried.orientation,
            ..Default::default()
        };
        let seq: SeqNo = numbers.seq.into();
        let (pt, payload) = match self.red {
            Some(red) if incoming.redundant => (red, incoming.payload.clone()),
            None if incoming.redundant => (self.pt, red::newest(incoming.payload)?.into()),
            _ => (self.pt, incoming.payload.clone()),
        };
        let out = RtpWrite::new(pt, seq, numbers.timestamp, incoming.received, payload)
            .marker(incoming.marker)
            .nackable(self.kind == MediaKind::Video)
            .ext_vals(extensions);
        Some(match patch {
            Some(patch) => out.vp8_patch(patch),
            None => out,
        })
    }
}

impl<'a> Incoming<'a> {
    /// From a participant of this server.
    pub fn of(packet: &'a RtpPacket, params: PayloadParams) -> Incoming<'a> {
        let header = &packet.header;
        let carried = Carried {
            audio_level: header.ext_vals.audio_level,
            voice_activity: header.ext_vals.voice_activity,
            orientation: header.ext_vals.video_orientation,
        };
        let numbers = Numbers { seq: *packet.seq_no, timestamp: header.timestamp };
        let redundant = params.red() == Some(header.payload_type);
        let made = Incoming::new(params.spec().codec, &packet.payload, packet.timestamp);
        Incoming { numbers, marker: header.marker, carried, redundant, ..made }
    }

    pub fn new(codec: Codec, payload: &'a Arc<[u8]>, received: Instant) -> Incoming<'a> {
        let vp8 = match codec {
            Codec::Vp8 => Vp8Descriptor::parse(payload).ok(),
            _ => None,
        };
        let starts_key_frame = super::keyframe::starts_key_frame(codec, payload, vp8.as_ref());
        let numbers = Numbers { seq: 0, timestamp: 0 };
        Incoming {
            numbers,
            marker: false,
            carried: Carried::default(),
            payload,
            received,
            redundant: false,
            vp8,
            starts_key_frame,
        }
    }
}
