//! A leg of a driver whose media path is SDP text only: offers and answers that a server takes, and no transport behind
//! them.

use roomful::plan::{PlannedLeg, PlannedRoom};
use roomful::signaling::{Call, Driver, Ended, Media, MediaCommand, Order, Progress, TransportState};
use roomful::types::{Bitrate, Codec, Encoding, LegId, RoomId, Suite};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

const FINGERPRINT: &str =
    "sha-256 3A:F8:AE:EE:5F:8A:EF:70:93:1D:BF:34:92:42:A7:05:B7:B9:B4:96:97:DA:B0:39:EA:C9:69:BB:5E:EC:8A:BC";

/// What the media path was asked.
#[derive(Clone, Debug)]
pub enum Asked {
    Offer { ice_restart: bool },
    AcceptAnswer(String),
    AcceptOffer(String),
}

pub struct TextLeg {
    orders: mpsc::UnboundedSender<Order>,
    progress: mpsc::UnboundedReceiver<Progress>,
    ended: tokio::task::JoinHandle<Ended>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// What was reported so far.
    pub reported: Vec<Progress>,
}

impl TextLeg {
    pub fn start(driver: Arc<dyn Driver>, room: &PlannedRoom, number: u32, sends: bool) -> TextLeg {
        let (to_media, from_driver) = mpsc::unbounded_channel();
        let (orders, orders_in) = mpsc::unbounded_channel();
        let (progress_out, progress) = mpsc::unbounded_channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(answer_media(from_driver, asked.clone()));
        let encoding = |codec, bitrate| sends.then_some(Encoding { codec, bitrate: Bitrate(bitrate) });
        let leg = PlannedLeg {
            id: LegId(number),
            seat: 0,
            room: room.id,
            name: format!("{}/p{number}", room.name),
            join_at: Duration::ZERO,
            leave_at: Duration::from_secs(600),
            audio: encoding(Codec::Opus, 32_000),
            video: encoding(Codec::Vp8, 500_000),
            network: None,
        };
        let media = Media::new(leg.id, to_media);
        let call = Call { leg, room: room.clone(), route: None, media, orders: orders_in, progress: progress_out };
        let ended = tokio::spawn(async move { driver.run(call).await });
        TextLeg { orders, progress, ended, asked, reported: Vec::new() }
    }

    pub fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// Pretends that media flows.
    pub fn connected(&self, slot: u8) {
        self.order(Order::Transport {
            slot,
            state: TransportState::Connected { suite: Suite::Aes128CmSha1_80, certificate: 0 },
        });
    }

    /// Waits until the driver reports that the first negotiation is done.
    pub async fn signaled(&mut self) {
        let wait = async {
            while let Some(progress) = self.progress.recv().await {
                let done = matches!(progress, Progress::Signaled(_));
                self.reported.push(progress);
                if done {
                    return true;
                }
            }
            false
        };
        let signaled = tokio::time::timeout(Duration::from_secs(20), wait).await.expect("no answer of the driver");
        if !signaled {
            panic!("ended before it was signaled: {:?}", (&mut self.ended).await);
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// SDP of Janus's offers, oldest first.
    pub fn offers(&self) -> Vec<String> {
        let asked = self.asked();
        asked.into_iter().filter_map(|a| if let Asked::AcceptOffer(sdp) = a { Some(sdp) } else { None }).collect()
    }

    pub async fn end(self) -> Ended {
        tokio::time::timeout(Duration::from_secs(20), self.ended).await.expect("the leg hangs").unwrap()
    }

    pub async fn leave(self) -> Ended {
        self.order(Order::Leave);
        self.end().await
    }
}

/// A room of the plan.
pub fn room(number: u32, size: u32, senders_max: u32) -> PlannedRoom {
    PlannedRoom { id: RoomId(number), name: format!("meeting-{number}"), group: 0, size, senders_max, server: None }
}

async fn answer_media(mut commands: mpsc::UnboundedReceiver<MediaCommand>, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut offers = 0;
    while let Some(command) = commands.recv().await {
        // A driver that does not wait for the reply has gone.
        match command {
            MediaCommand::Offer { want, reply, .. } => {
                offers += 1;
                asked.lock().unwrap().push(Asked::Offer { ice_restart: want.ice_restart });
                let _ = reply.send(Ok(offer(offers)));
            }
            MediaCommand::AcceptAnswer { sdp, reply, .. } => {
                asked.lock().unwrap().push(Asked::AcceptAnswer(sdp));
                let _ = reply.send(Ok(()));
            }
            MediaCommand::AcceptOffer { sdp, reply, .. } => {
                let _ = reply.send(Ok(answer(&sdp)));
                asked.lock().unwrap().push(Asked::AcceptOffer(sdp));
            }
            MediaCommand::Candidate { .. }
            | MediaCommand::Switch { .. }
            | MediaCommand::Close { .. }
            | MediaCommand::Forwarded { .. } => {}
        }
    }
}

/// Opus and VP8; the n-th offer has credentials of its own, as a restart has.
fn offer(n: u32) -> String {
    let medium = |line: &str, mid: u32, rest: &str| {
        format!(
            "m={line}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=sendonly\r\na=rtcp-mux\r\na=ice-ufrag:uf{n:02}\r\n\
             a=ice-pwd:passwordpasswordpass{n:04}\r\na=fingerprint:{FINGERPRINT}\r\na=setup:actpass\r\n{rest}\
             a=ssrc:{ssrc} cname:text\r\na=candidate:1 1 udp 2130706431 10.77.0.2 {port} typ host\r\n\
             a=end-of-candidates\r\n",
            ssrc = 1000 + mid,
            port = 40_000 + n,
        )
    };
    let audio = medium("audio 9 UDP/TLS/RTP/SAVPF 111", 0, "a=rtpmap:111 opus/48000/2\r\n");
    let video = medium("video 9 UDP/TLS/RTP/SAVPF 96", 1, "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\n");
    format!("v=0\r\no=- 1 {n} IN IP4 10.77.0.2\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n{audio}{video}")
}

/// Takes all of an offer: the same lines, turned round.
fn answer(offer: &str) -> String {
    let ours = |line: &str| {
        let dropped = ["a=candidate", "a=end-of-candidates", "a=ssrc", "a=msid", "a=ice-", "a=fingerprint", "a=extmap"];
        match line {
            "a=sendonly" => "a=recvonly".to_owned(),
            "a=setup:actpass" => format!(
                "a=setup:active\r\na=ice-ufrag:uf99\r\na=ice-pwd:passwordpasswordpass0099\r\na=fingerprint:{FINGERPRINT}"
            ),
            _ if dropped.iter().any(|d| line.starts_with(d)) => String::new(),
            _ => line.to_owned(),
        }
    };
    offer.lines().map(|line| ours(line.trim_end())).filter(|line| !line.is_empty()).map(|line| line + "\r\n").collect()
}
