//! Stock `webrtc` peers that only watch: what they count of the RTP that their tracks give.

use super::signalling::Signalling;
use crate::targets::{self, until};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCSessionDescription, Registry, SettingEngineBuilder, StatsSelector, register_default_interceptors,
};
use webrtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use webrtc::runtime::default_runtime;

use std::time::Duration;

/// One stream as its track gave it.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// Sequence numbers, unwrapped from the first one on.
    pub seqs: BTreeSet<i64>,
    pub packets: i64,
    last: Option<i64>,
}

impl Seen {
    fn add(&mut self, seq: u16) {
        let seq = match self.last {
            Some(last) => last + i64::from(seq.wrapping_sub(last as u16) as i16),
            None => i64::from(seq),
        };
        self.last = Some(seq);
        self.packets += 1;
        self.seqs.insert(seq);
    }

    pub fn expected(&self) -> i64 {
        self.seqs.first().zip(self.seqs.last()).map_or(0, |(first, last)| last - first + 1)
    }
}

/// By SSRC.
type Streams = Arc<Mutex<BTreeMap<u32, Seen>>>;

#[derive(Default)]
struct Handler {
    gathered: Mutex<bool>,
    streams: Streams,
}

type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl PeerConnectionEventHandler for Handler {
    fn on_ice_gathering_state_change<'a, 'b>(&'a self, state: RTCIceGatheringState) -> Boxed<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        if state == RTCIceGatheringState::Complete {
            *self.gathered.lock().unwrap() = true;
        }
        Box::pin(async {})
    }

    fn on_track<'a, 'b>(&'a self, track: Arc<dyn TrackRemote>) -> Boxed<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let streams = self.streams.clone();
        // A task of its own for each track: its channel holds 256 events and drops the rest.
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(p) = event {
                    streams.lock().unwrap().entry(p.header.ssrc).or_default().add(p.header.sequence_number);
                }
            }
        });
        Box::pin(async {})
    }
}

pub struct Stock {
    peer: Box<dyn PeerConnection>,
    streams: Streams,
}

/// What the peer's own statistics say of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub received: i64,
    pub lost: i64,
    pub jitter_ms: f64,
}

impl Stock {
    /// Joins to watch `senders` others, by whatever signalling the server has.
    pub async fn join(signalling: &mut Signalling<'_>, senders: usize) -> Stock {
        let mut media = MediaEngine::default();
        media.register_default_codecs().unwrap();
        let registry = register_default_interceptors(Registry::new(), &mut media).unwrap();
        let handler = Arc::new(Handler::default());
        // There is no way for multicast in the namespace.
        let setting = SettingEngineBuilder::new().with_multicast_dns_mode(MulticastDnsMode::Disabled).build();
        let peer = PeerConnectionBuilder::new()
            .with_media_engine(media)
            .with_interceptor_registry(registry)
            .with_setting_engine(setting)
            .with_handler(handler.clone())
            .with_runtime(default_runtime().unwrap())
            .with_udp_addrs(vec![format!("{}:0", targets::netns::address(4))])
            .build()
            .await
            .unwrap();
        let gathered = async || {
            until("the stock peer has its candidates", Duration::from_secs(10), async || {
                (*handler.gathered.lock().unwrap()).then_some(())
            })
            .await;
            peer.local_description().await.unwrap().sdp
        };
        match signalling {
            Signalling::Embedded { .. } => {
                for _ in 0..senders {
                    for kind in [RtpCodecKind::Audio, RtpCodecKind::Video] {
                        let init = RTCRtpTransceiverInit {
                            direction: RTCRtpTransceiverDirection::Recvonly,
                            ..RTCRtpTransceiverInit::default()
                        };
                        peer.add_transceiver_from_kind(kind, Some(init)).await.unwrap();
                    }
                }
                let offer = peer.create_offer(None).await.unwrap();
                peer.set_local_description(offer).await.unwrap();
                let answer = signalling.answer_to(gathered().await).await;
                peer.set_remote_description(RTCSessionDescription::answer(answer).unwrap()).await.unwrap();
            }
            Signalling::Janus { .. } => {
                let offer = signalling.offer(senders).await;
                peer.set_remote_description(RTCSessionDescription::offer(offer).unwrap()).await.unwrap();
                let answer = peer.create_answer(None).await.unwrap();
                peer.set_local_description(answer).await.unwrap();
                signalling.start(gathered().await).await;
            }
        }
        Stock { peer: Box::new(peer), streams: handler.streams.clone() }
    }

    pub fn seen(&self) -> BTreeMap<u32, Seen> {
        self.streams.lock().unwrap().clone()
    }

    pub async fn said(&self) -> BTreeMap<u32, Said> {
        let report = self.peer.get_stats(Instant::now(), StatsSelector::None).await;
        let each = report.inbound_rtp_streams().map(|s| {
            let r = &s.received_rtp_stream_stats;
            let said = Said { received: r.packets_received as i64, lost: r.packets_lost, jitter_ms: r.jitter * 1000.0 };
            (r.rtp_stream_stats.ssrc, said)
        });
        each.collect()
    }

    pub async fn leave(self) {
        self.peer.close().await.unwrap();
    }
}
