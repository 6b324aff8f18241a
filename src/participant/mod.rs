//! One participant's life on its transports: opens them, negotiates, sends, receives, reports, leaves. Pure: datagrams
//! and time come in as arguments, datagrams and events go out through [`World`].

mod adaptation;
mod batch;
mod feedback;
mod flow_gaps;
mod inbound;
mod outbound;
mod room;
mod silence;
mod slot;
#[cfg(test)]
mod tests;

pub use batch::{Batch, DATAGRAM_MAX, Received};
pub use flow_gaps::FlowGap;
pub use room::{Member, Room};
pub use silence::Silence;

use crate::history::Setup;
use crate::measure::{Flow, FlowCounters, Hist, Window10s};
use crate::media::clip::Clip;
use crate::plan::PlannedLeg;
use crate::sdp::{LocalTrack, Negotiation};
use crate::signaling::{MediaError, OfferWant, TransportState};
use crate::transport::{AllowList, Place, Setup as DtlsSetup, Shared, Transport, TransportError};
use crate::types::{Client, Kind, LegId, RoomId, Simulcast};
use adaptation::Adaptation;
use flow_gaps::FlowGaps;
use inbound::SourceEntry;
use outbound::{Layer, TxTrack};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use silence::Listener;
use slot::Slot;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Transports a participant may have at once.
pub const SLOTS_MAX: u8 = 8;
/// How often a participant looks after its streams: NACK repeats, key-frame requests, transport-wide feedback
/// (Chromium's feedback interval is 50 to 250 ms).
const CARE_INTERVAL: Duration = Duration::from_millis(100);
/// RFC 3550 6.2: reports at intervals of 0.5 to 1.5 times this, as Chromium does for video.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Where datagrams go.
pub trait Sink {
    fn send(&mut self, slot: u8, to: SocketAddr, datagram: &[u8]);
}

/// What surrounds a participant during one call into it.
pub struct World<'a> {
    pub now: Instant,
    /// CLOCK_REALTIME in ns, read when `now` was.
    pub now_ns: u64,
    /// Reads CLOCK_REALTIME for a send stamp; virtual in simulations.
    pub clock: fn() -> u64,
    pub room: &'a mut Room,
    /// Distributions of the server that carries the room.
    pub meter: &'a mut Meter,
    /// Actual send time - planned send time of each media packet.
    pub lateness: &'a mut Hist,
    pub sink: &'a mut dyn Sink,
    /// Scratch for outgoing packets, at least 2 KiB.
    pub buf: &'a mut [u8],
    pub events: &'a mut Vec<Event>,
}

/// What a participant tells the engine.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// For the driver and the join's milestones.
    State {
        slot: u8,
        state: TransportState,
        at: Instant,
    },
    /// The selected pair: the socket may be connected to this peer.
    Connect {
        slot: u8,
        peer: SocketAddr,
    },
    /// ICE restarts: the socket must take datagrams from anybody again.
    Disconnect {
        slot: u8,
    },
    /// The transport is closed; its socket can go once what is queued was sent.
    Closed {
        slot: u8,
    },
    /// First media of one expected stream.
    FirstMedia {
        from: LegId,
        rtp_ms: Option<f64>,
        frame_ms: Option<f64>,
        /// What never came, packet and frame, and how long it was waited for.
        in_vain_ms: [Option<f64>; 2],
    },
    Note {
        code: &'static str,
        text: String,
    },
}

/// Distributions that packets are recorded into, by kind.
#[derive(Clone, Default, Debug)]
pub struct Meter {
    pub delay: [Hist; 2],
    pub rtt: [Hist; 2],
}

impl Meter {
    pub fn allocated() -> Meter {
        Meter { delay: [Hist::allocated(), Hist::allocated()], rtt: [Hist::allocated(), Hist::allocated()] }
    }
}

/// What all participants of a process share.
pub struct Common {
    pub run: u32,
    pub transport: Arc<Shared>,
    pub allow: Arc<AllowList>,
    pub client: Client,
    pub simulcast: Simulcast,
}

/// What a participant is made from.
pub struct Spec {
    pub leg: PlannedLeg,
    /// The clips of its audio and video, where it sends them.
    pub clips: [Option<Arc<Clip>>; 2],
    /// Simulcast: layers below the video's own clip, the lowest first.
    pub lower_layers: Vec<Arc<Clip>>,
    /// Adaptation: clips that its video may step down to; with none it always sends the same one.
    pub steps: Vec<Arc<Clip>>,
    pub seed: u64,
    /// Planned start, in ns of CLOCK_REALTIME, the clock of stamps.
    pub planned_ns: u64,
    /// What impaired networks may add to the way of this room's media: for so much longer it is still under way.
    pub network_delay_max: Duration,
    pub talk: TalkSpec,
}

/// How its microphone is used.
#[derive(Clone, Default)]
pub struct TalkSpec {
    /// Seed of the room's conversation, the seats that take part, and which one this is; `None`: all speak all the time.
    pub floor: Option<(u64, u32, u32)>,
    /// Seed, and mean time without and with mute.
    pub mutes: Option<(u64, Duration, Duration)>,
    /// When the room's conversation began; `None`: with this participant.
    pub epoch: Option<Instant>,
}

pub struct Participant {
    leg: LegId,
    room: RoomId,
    common: Arc<Common>,
    rng: ChaCha12Rng,
    cname: String,
    planned_ns: u64,
    /// In place: one pointer less to follow for each packet.
    slots: [Option<Box<Slot>>; SLOTS_MAX as usize],
    tracks: Vec<TxTrack>,
    /// Where its video is adapted to the network.
    adaptation: Option<Box<Adaptation>>,
    sources: Vec<SourceEntry>,
    /// Whose video the server forwards, where it says so.
    forwarded: Option<Vec<LegId>>,
    network_delay_max: Duration,
    /// When the next media packet of any track is due.
    media_at: Option<Instant>,
    care_at: Instant,
    report_at: Instant,
    connected_ns: Option<u64>,
    /// Media is no longer sent; the leg is about to leave.
    quiet: bool,
    /// Packet counters that belong to no stream, by kind (malformed datagrams count as video).
    loose: [FlowCounters; 2],
    total: [FlowCounters; 2],
    windows: [Window10s; 2],
    longest_gap: (f64, u64),
    flow_gaps: FlowGaps,
    listener: Listener,
}

/// A participant's last word.
#[derive(Clone, PartialEq, Debug)]
pub struct Totals {
    pub audio: FlowCounters,
    pub video: FlowCounters,
    pub worst_10s_loss: [Option<f64>; 2],
    /// When these ended, ns of CLOCK_REALTIME.
    pub worst_10s_at_ns: [Option<u64>; 2],
    /// Longest inbound gap in ms, and when it began in ns of CLOCK_REALTIME.
    pub longest_gap: (f64, u64),
    /// Gaps of a second and more in one expected inbound flow.
    pub flow_gaps: Vec<FlowGap>,
    /// When media was expected and none arrived at all.
    pub silences: Vec<Silence>,
}

impl Participant {
    pub fn new(now: Instant, spec: Spec, common: &Arc<Common>) -> Participant {
        let mut rng = ChaCha12Rng::seed_from_u64(spec.seed);
        let mut tracks = Vec::new();
        let [audio, video] = spec.clips;
        let mut track = |stream, clip| TxTrack::new(stream, clip, common.run, spec.leg.id, &mut rng, now);
        if let Some(clip) = audio {
            let mut track = track(0, clip);
            track.talk = Some(Box::new(spec.talk));
            tracks.push(track);
        }
        if let Some(clip) = video {
            let layers = spec.lower_layers.len() as u8 + 1;
            let mut video: Vec<TxTrack> = (1..)
                .zip(spec.lower_layers.into_iter().chain([clip]))
                .map(|(stream, clip)| track(stream, clip))
                .collect();
            if let Some(ssrcs) = video.last().map(TxTrack::ssrcs).filter(|_| layers > 1) {
                let layer = |index| Layer { index, layers, highest: ssrcs.0, simulcast: common.simulcast };
                (0..).zip(&mut video).for_each(|(index, t)| t.set_layer(layer(index), ssrcs));
            }
            tracks.extend(video);
        }
        let mut adaptation = None;
        if !spec.steps.is_empty()
            && let Some(video) = tracks.iter_mut().find(|t| t.kind == Kind::Video)
        {
            video.sender.add_steps(spec.steps);
            let clips = video.sender.steps();
            adaptation = (!clips.is_empty()).then(|| Box::new(Adaptation::new(spec.planned_ns, clips, rng.random())));
        }
        // Feedback of thousands that joined together must not come in step.
        let phase = |rng: &mut ChaCha12Rng, d: Duration| now + d.mul_f64(rng.random_range(0.0..1.0));
        Participant {
            leg: spec.leg.id,
            room: spec.leg.room,
            common: common.clone(),
            cname: format!("rf{:08x}", rng.random::<u32>()),
            planned_ns: spec.planned_ns,
            slots: Default::default(),
            tracks,
            adaptation,
            sources: Vec::new(),
            forwarded: None,
            network_delay_max: spec.network_delay_max,
            media_at: None,
            care_at: phase(&mut rng, CARE_INTERVAL),
            report_at: phase(&mut rng, REPORT_INTERVAL),
            rng,
            connected_ns: None,
            quiet: false,
            loose: Default::default(),
            total: Default::default(),
            windows: Default::default(),
            longest_gap: (0.0, 0),
            flow_gaps: FlowGaps::default(),
            listener: Listener::default(),
        }
    }

    pub fn leg(&self) -> LegId {
        self.leg
    }

    pub fn room(&self) -> RoomId {
        self.room
    }

    /// Streams that it sends of each kind: what the room's roster needs.
    pub fn sends(&self) -> [u8; 2] {
        Kind::BOTH.map(|k| self.tracks.iter().filter(|t| t.kind == k).count() as u8)
    }

    /// Opens a transport on a bound socket's or an allocation's address.
    pub fn open(&mut self, now: Instant, slot: u8, place: impl Into<Place>) -> Result<(), MediaError> {
        let t = Transport::new(now, &self.common.transport, &self.common.allow, place, self.rng.random())
            .map_err(|e| local_error(&e))?;
        let n = Negotiation::new(self.common.client, self.rng.random::<u64>() >> 2, self.cname.clone());
        let seed = self.rng.random();
        let place = self.slots.get_mut(usize::from(slot));
        let place = place.ok_or_else(|| MediaError::Local(format!("transport {slot}: at most {SLOTS_MAX}")))?;
        *place = Some(Box::new(Slot::new(t, n, seed)));
        Ok(())
    }

    /// The transport's next ICE restart goes on from another place.
    pub fn relocate(&mut self, slot: u8, place: Place) -> Result<(), MediaError> {
        self.slot(slot)?.transport.relocate(place).map_err(|e| local_error(&e))
    }

    pub fn is_open(&self, slot: u8) -> bool {
        self.slots.get(usize::from(slot)).is_some_and(|s| s.is_some())
    }

    fn slot(&mut self, slot: u8) -> Result<&mut Slot, MediaError> {
        self.slots
            .get_mut(usize::from(slot))
            .and_then(|s| s.as_deref_mut())
            .ok_or_else(|| MediaError::Local(format!("transport {slot} is not open")))
    }

    /// True when this remote offer restarts ICE on a transport that is open.
    pub fn would_restart(&self, slot: u8, sdp: &str) -> bool {
        let open = self.slots.get(usize::from(slot)).and_then(|s| s.as_deref());
        let remote = crate::sdp::Description::parse(sdp);
        open.zip(remote.ok()).is_some_and(|(s, d)| s.transport.is_restart(&d.remote))
    }

    /// Our offer.
    pub fn offer(&mut self, w: &mut World<'_>, slot: u8, want: OfferWant) -> Result<String, MediaError> {
        let tracks: Vec<LocalTrack> = if want.send {
            for t in self.tracks.iter_mut().filter(|_| !want.keep_sending) {
                t.send_on(slot);
            }
            self.tracks.iter().filter_map(TxTrack::local).collect()
        } else {
            vec![]
        };
        let s = self.slot(slot)?;
        if want.ice_restart {
            s.transport.prepare_restart().map_err(|e| local_error(&e))?;
            w.events.push(Event::Disconnect { slot });
        }
        s.offerer = true;
        let local = s.transport.local_params();
        Ok(s.negotiation.offer(&local, &tracks, want.receive_audio, want.receive_video))
    }

    /// The remote answer to our last offer.
    pub fn accept_answer(&mut self, w: &mut World<'_>, slot: u8, sdp: &str) -> Result<(), MediaError> {
        let s = self.slot(slot)?;
        let (remote, agreed) = s.negotiation.accept_answer(sdp).map_err(|e| MediaError::BadSdp(e.to_string()))?;
        // RFC 5763 5: the answerer chose; we are the client when it is passive.
        let client = remote.setup == DtlsSetup::Passive;
        s.transport.start(w.now, &remote, true, client).map_err(|e| start_error(&e))?;
        s.stop_streams(w.room);
        s.agree(agreed, w.now_ns);
        self.after(w, slot);
        Ok(())
    }

    /// A remote offer; gives our answer.
    pub fn accept_offer(&mut self, w: &mut World<'_>, slot: u8, sdp: &str) -> Result<String, MediaError> {
        // Those that go out nowhere yet may go out here, where the other side wants that.
        let nowhere = |t: &&TxTrack| t.slot.is_none_or(|s| s == slot || !self.is_open(s));
        let tracks: Vec<LocalTrack> = self.tracks.iter().filter(nowhere).filter_map(TxTrack::local).collect();
        let s = self.slot(slot)?;
        let text = |e: crate::sdp::SdpError| MediaError::BadSdp(e.to_string());
        let remote = crate::sdp::Description::parse(sdp).map_err(text)?.remote;
        if s.transport.is_restart(&remote) {
            s.transport.prepare_restart().map_err(|e| local_error(&e))?;
            w.events.push(Event::Disconnect { slot });
        }
        // A browser answers "active" to "actpass"; once decided, the role stays.
        let setup = match (s.role, remote.setup) {
            (Some(setup), _) => setup,
            (None, DtlsSetup::Active) => DtlsSetup::Passive,
            (None, DtlsSetup::Passive | DtlsSetup::Actpass) => DtlsSetup::Active,
        };
        s.role = Some(setup);
        let local = s.transport.local_params();
        let (answer, remote, agreed) = s.negotiation.accept_offer(sdp, &local, setup, &tracks).map_err(text)?;
        s.transport.start(w.now, &remote, false, setup == DtlsSetup::Active).map_err(|e| start_error(&e))?;
        s.stop_streams(w.room);
        let sent: Vec<u32> = agreed.sends.iter().map(|a| a.ssrc).collect();
        s.agree(agreed, w.now_ns);
        for t in self.tracks.iter_mut().filter(|t| sent.contains(&t.ssrc)) {
            t.send_on(slot);
        }
        self.after(w, slot);
        Ok(answer)
    }

    /// A trickled remote candidate.
    pub fn candidate(&mut self, w: &mut World<'_>, slot: u8, candidate: &str) {
        if let Ok(s) = self.slot(slot) {
            s.transport.add_remote_candidate(w.now, candidate);
            self.after(w, slot);
        }
    }

    /// One datagram from the socket of a slot. `recv_ns` is the kernel's receive time.
    pub fn on_datagram(&mut self, w: &mut World<'_>, slot: u8, from: SocketAddr, recv_ns: u64, data: &mut [u8]) {
        match data.first() {
            Some(128..=191) => self.on_media(w, slot, recv_ns, data),
            _ => {
                let Ok(s) = self.slot(slot) else { return };
                if s.transport.on_datagram(w.now, from, data) == crate::transport::Kind::Ignored {
                    self.loose[1].malformed += 1;
                }
                self.after(w, slot);
            }
        }
    }

    /// When this participant wants [`Participant::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        let mut at = self.care_at.min(self.report_at);
        if let Some(t) = self.media_at {
            at = at.min(t);
        }
        for s in self.slots.iter().flatten() {
            if let Some(t) = s.wake_at {
                at = at.min(t);
            }
            if let Some(t) = s.nack_at {
                at = at.min(t);
            }
        }
        at
    }

    pub fn handle_timeout(&mut self, w: &mut World<'_>) {
        self.send_due(w);
        for i in 0..self.slots.len() {
            let Some(s) = self.slots[i].as_deref_mut() else { continue };
            if s.wake_at.is_some_and(|t| t <= w.now) {
                s.transport.handle_timeout(w.now);
                self.after(w, i as u8);
            }
        }
        if self.care_at <= w.now {
            self.care_at = w.now + CARE_INTERVAL;
            self.care(w);
            self.adapt(w);
        }
        self.send_nacks(w);
        if self.report_at <= w.now {
            self.report_at = w.now + REPORT_INTERVAL.mul_f64(self.rng.random_range(0.5..1.5));
            self.send_reports(w);
        }
    }

    /// True when the leg is about to leave.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The leg is about to leave: its senders stop, what the room knows of it says so.
    pub fn go_quiet(&mut self, w: &mut World<'_>) {
        self.quiet = true;
        for t in &mut self.tracks {
            t.stop(w, true);
        }
        self.look_ahead();
    }

    /// What it sends goes out on another transport from now on; what comes in on the one before ends without a freeze.
    pub fn switch(&mut self, w: &mut World<'_>, slot: u8) -> Result<(), MediaError> {
        self.slot(slot)?;
        for t in &mut self.tracks {
            t.move_to(slot);
        }
        for s in (0..).zip(&mut self.slots).filter(|(k, _)| *k != slot).filter_map(|(_, s)| s.as_deref_mut()) {
            for (.., m) in s.media_streams() {
                m.stream.set_flowing(false, w.now_ns);
            }
        }
        self.start_tracks(w);
        Ok(())
    }

    /// Closes one transport properly: RTCP BYE, then close_notify.
    pub fn close(&mut self, w: &mut World<'_>, slot: u8) {
        if !self.is_open(slot) {
            return;
        }
        self.send_byes(w, slot);
        let for_good = self.quiet;
        for t in self.tracks.iter_mut().filter(|t| t.slot == Some(slot)) {
            t.stop(w, for_good);
        }
        self.look_ahead();
        if let Ok(s) = self.slot(slot) {
            s.transport.close(w.now);
        }
        self.after(w, slot);
        let mut closed = self.slots[usize::from(slot)].take();
        if let Some(s) = &mut closed {
            s.stop_streams(w.room);
            for k in Kind::BOTH {
                self.loose[k.index()] += &s.take_counters(k, w.now_ns);
            }
        }
        w.events.push(Event::Closed { slot });
    }

    /// Once a second: everything since last time, by kind, into `flows`, and the participant's own windows.
    pub fn sample(&mut self, w: &mut World<'_>, flows: &mut [Flow; 2]) -> [FlowCounters; 2] {
        self.meet_sources(w);
        let mut delta = <[FlowCounters; 2]>::default();
        // First, so that streams whose sender stopped know it before they are asked.
        self.settle_sources(w, &mut delta, flows);
        for k in Kind::BOTH {
            delta[k.index()] += &std::mem::take(&mut self.loose[k.index()]);
        }
        for t in &mut self.tracks {
            delta[t.kind.index()] += &t.take_counters();
        }
        for s in self.slots.iter_mut().flatten() {
            for k in Kind::BOTH {
                delta[k.index()] += &s.take_counters(k, w.now_ns);
            }
            s.sample_jitter(w.now_ns, flows);
        }
        for k in Kind::BOTH {
            let (d, f) = (&delta[k.index()], &mut flows[k.index()]);
            f.count += d;
            self.total[k.index()] += d;
            if d.e2e_expected > 0 || d.e2e_received > 0 {
                self.windows[k.index()].push(w.now_ns, d.e2e_expected, d.e2e_received);
                f.leg_seconds += 1;
                f.lossy_leg_seconds += i64::from(d.e2e_expected > d.e2e_received);
            }
        }
        delta
    }

    /// Since when it has heard nobody though somebody sends, as of the last sample; in ns of [`World::now_ns`]'s clock.
    pub fn silent_since(&self) -> Option<u64> {
        self.listener.silent_since()
    }

    /// The last sample of a leg that ends now, and its totals.
    pub fn finish(&mut self, w: &mut World<'_>, flows: &mut [Flow; 2]) -> ([FlowCounters; 2], Totals) {
        self.finish_sources(w);
        let delta = self.sample(w, flows);
        self.keep_open_gaps(w);
        let totals = Totals {
            audio: self.total[0],
            video: self.total[1],
            worst_10s_loss: [self.windows[0].worst(), self.windows[1].worst()],
            worst_10s_at_ns: [self.windows[0].worst_at_ns(), self.windows[1].worst_at_ns()],
            longest_gap: self.longest_gap,
            flow_gaps: self.flow_gaps.take(),
            silences: self.listener.finish(w.now_ns),
        };
        (delta, totals)
    }

    /// Sends what a transport has to send and passes on what it says.
    fn after(&mut self, w: &mut World<'_>, slot: u8) {
        let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { return };
        let mut connected = false;
        while let Some(e) = s.transport.poll_event() {
            connected |= s.on_event(w, slot, e);
        }
        while let Some((to, d)) = s.transport.poll_transmit() {
            w.sink.send(slot, to, &d);
        }
        s.wake_at = s.transport.poll_timeout();
        if connected {
            self.connected_ns.get_or_insert(w.now_ns);
            if let Some(m) = w.room.member_mut(self.leg) {
                m.connected_ns.get_or_insert(w.now_ns);
            }
        }
        self.start_tracks(w);
    }
}

fn local_error(e: &TransportError) -> MediaError {
    MediaError::Local(e.to_string())
}

fn start_error(e: &TransportError) -> MediaError {
    match e {
        TransportError::NoAllowedCandidate { refused } => MediaError::NotAllowed(AllowList::refusal(refused)),
        _ => MediaError::BadSdp(e.to_string()),
    }
}

/// Set-up of one leg from the milestones that driver and media path reported.
#[derive(Clone, Copy, Default, Debug)]
pub struct Milestones {
    pub started: Option<Instant>,
    pub routed: Option<Instant>,
    /// The other one was there whom it had to wait for.
    pub met: Option<Instant>,
    pub signaled: Option<Instant>,
    /// First transport: allocation asked for, and made.
    pub relay: Option<(Instant, Instant)>,
    /// First transport: pair selected, keys.
    pub ice: Option<Instant>,
    pub keys: Option<Instant>,
}

impl Milestones {
    /// `planned` is where latency counts from. None until the leg is connected: signalled, and keyed where it has
    /// any transport.
    pub fn setup(&self, planned: Instant, has_transport: bool) -> Option<(Setup, Instant)> {
        let (started, signaled) = (self.started?, self.signaled?);
        let done = if has_transport { self.keys?.max(signaled) } else { signaled };
        let ms = |a: Instant, b: Instant| b.saturating_duration_since(a).as_secs_f64() * 1000.0;
        let asked = self.routed.unwrap_or(started);
        let begun = self.met.unwrap_or(asked).max(asked);
        Some((
            Setup {
                total_ms: ms(planned, done) - ms(asked, begun),
                join_ms: self.routed.map(|r| ms(started, r)),
                relay_ms: self.relay.map(|(asked, made)| ms(asked, made)),
                // Drivers wait for the allocation before they have an offer or an answer.
                signaling_ms: ms(begun, signaled)
                    - self.relay.map_or(0.0, |(asked, made)| ms(asked.max(begun), made.min(signaled).max(begun))),
                // Checks start with the answer; a pair may be found before the driver says so.
                ice_ms: self.ice.map_or(0.0, |i| ms(signaled, i)),
                dtls_ms: self.ice.zip(self.keys).map_or(0.0, |(i, k)| ms(i, k)),
            },
            done,
        ))
    }
}
