//! One room of two of roomful's participants, watched by a browser and a stock peer, all through one impairer in front of
//! the server, whose log is the truth.

use crate::signalling::{BROWSER, Signalling};
use crate::stock::{Said, Seen, Stock};
use crate::support::{PATIENCE, Place, Process, ROOMFUL, signal};
use crate::targets::chromium::{Chromium, serve_pages};
use crate::targets::janus::{ADMIN_KEY, Client, Janus, RTP_PORTS};
use crate::targets::{netns, until};
use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use roomful::history::Line;
use roomful::impair::Record;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Roomful's participants; each sends audio and video and receives the others'.
pub const SENDERS: usize = 2;
const VIDEO: &str = "vp8@500kbit/s";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    Embedded,
    Janus,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Target::Embedded => "embedded fleet",
            Target::Janus => "Janus 1.1.2",
        }
    }
}

/// What somebody said of a flow each time: packets that came by themselves until then, and their jitter.
pub type Looks = Vec<(i64, f64)>;

/// What all said.
#[derive(Clone)]
pub struct Heard {
    /// Roomful's history.
    pub lines: Vec<Line>,
    /// getStats' inbound-rtp of the browser, by SSRC, as it was last.
    pub browser: BTreeMap<u32, Value>,
    /// In ms.
    pub browser_jitter: BTreeMap<u32, Looks>,
    /// SSRCs of what the browser sends.
    pub browser_sends: Vec<u32>,
    pub stock: BTreeMap<u32, Seen>,
    pub stock_said: BTreeMap<u32, Said>,
    /// In thousandths of a unit of the RTP clock.
    pub stock_jitter: BTreeMap<u32, Looks>,
    /// Janus's handle_info of what is published, by SSRC: one entry a medium, as it was last.
    pub janus: BTreeMap<u32, Value>,
    /// In ms.
    pub janus_jitter: BTreeMap<u32, Looks>,
    /// The impairer's log: up and down, by client.
    pub records: BTreeMap<String, [Vec<Record>; 2]>,
    /// Datagrams that the impairer said this machine lost, and that the kernel did for want of buffers: in no log.
    pub machine_drops: [u64; 2],
    /// How late a thread of the test woke meanwhile, in the mean.
    pub late_ms: f64,
}

/// `roomful impair` in front of a server. Ends with the test.
struct Impairer {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Impairer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Impairer {
    /// At the second address, in front of these ports of `to`.
    async fn start(ports: [u16; 2], to: IpAddr, network: &str) -> Impairer {
        let folder = tempfile::tempdir().unwrap();
        let range = |address| format!("{address}:{}-{}", ports[0], ports[1]);
        let file = |name| std::fs::File::create(folder.path().join(name)).unwrap();
        let mut command = Command::new(ROOMFUL);
        command.args([
            "impair",
            "--listen",
            &range(netns::address(2)),
            "--to",
            &range(to),
            "--network",
            network,
            "--for",
            "10m",
        ]);
        command.arg("--log").arg(folder.path().join("log")).stdin(Stdio::null());
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        let impairer = Impairer { child, folder };
        until("the impairer listens", Duration::from_secs(20), async || {
            impairer.said("stdout").contains("seed").then_some(())
        })
        .await;
        impairer
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Its log, and whether datagrams were lost by this machine.
    fn end(mut self) -> (BTreeMap<String, [Vec<Record>; 2]>, u64) {
        signal(self.child.id(), "TERM");
        assert!(self.child.wait().unwrap().success(), "{}", self.said("stderr"));
        let mut records: BTreeMap<String, [Vec<Record>; 2]> = BTreeMap::new();
        for line in self.said("log").lines() {
            let [client, way, record] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            records.entry(client.into()).or_default()[usize::from(way == "down")].push(record.parse().unwrap());
        }
        let said = self.said("stdout");
        let dropped = said.lines().find(|l| l.contains("dropped by this machine"));
        (records, dropped.map_or(0, |l| l.split(' ').next().unwrap().parse().unwrap()))
    }
}

/// The run is interrupted once there is enough to compare.
fn profile() -> String {
    let rooms = crate::support::rooms("pair", 1, SENDERS as u32, &format!("video = \"{VIDEO}\""));
    crate::support::profile("target.toml", &rooms, "10m", &["legs.dropped == 0"])
}

/// Joins and leaves of the two who watch, and what they say until each has had so many packets of audio of each
/// participant.
#[expect(clippy::too_many_arguments, reason = "one caller a target")]
async fn watch(
    page: &str,
    stats: &str,
    mut signalling: Signalling<'_>,
    run: &mut Process<'_>,
    chromium: &Chromium,
    janus: Option<&Janus>,
    packets: u64,
    heard: &mut Heard,
) {
    chromium.open(page).await;
    let stock = Stock::join(&mut signalling, SENDERS).await;
    let mut interrupted = false;
    let end = Instant::now() + PATIENCE;
    let mut kept = Instant::now();
    while !run.is_over() {
        if kept.elapsed() > Duration::from_secs(10) {
            signalling.keep_alive().await;
            kept = Instant::now();
        }
        let had = |of: &mut dyn Iterator<Item = u64>| of.collect::<Vec<_>>();
        assert!(
            Instant::now() < end,
            "not enough came within {PATIENCE:?}: Chromium had {:?}, the stock peer {:?}",
            had(&mut heard.browser.values().filter_map(|s| s["packetsReceived"].as_u64())),
            had(&mut stock.seen().values().map(|s| s.packets as u64))
        );
        let said = chromium.eval_json(stats).await;
        assert_eq!(said["errors"], json!([]));
        for entry in said["inbound"].as_array().unwrap() {
            if entry["packetsReceived"].as_u64().is_some_and(|n| n > 0) {
                let ssrc = entry["ssrc"].as_u64().unwrap() as u32;
                let n = |key: &str| entry[key].as_i64().unwrap_or(0);
                let arrived = n("packetsReceived") - n("retransmittedPacketsReceived");
                let jitter_ms = entry["jitter"].as_f64().unwrap() * 1000.0;
                heard.browser_jitter.entry(ssrc).or_default().push((arrived, jitter_ms));
                heard.browser.insert(ssrc, entry.clone());
            }
        }
        let sends = said["outbound"].as_array().unwrap().iter();
        heard.browser_sends = sends.map(|e| e["ssrc"].as_u64().unwrap() as u32).collect();
        if let Some(janus) = janus {
            media_of(janus, heard).await;
        }
        for (ssrc, said) in stock.said().await {
            heard.stock_jitter.entry(ssrc).or_default().push((said.received, said.jitter_ms));
        }
        let audio =
            heard.browser.values().filter(|s| s["kind"] == "audio" && s["packetsReceived"].as_u64() >= Some(packets));
        let read = stock.seen().values().filter(|s| s.packets as u64 >= packets).count();
        if !interrupted && audio.count() >= SENDERS && read >= 2 * SENDERS {
            run.signal("INT");
            interrupted = true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    heard.stock_said = stock.said().await;
    heard.stock = stock.seen();
    stock.leave().await;
}

/// What Janus receives of publishers, by their SSRCs.
async fn media_of(janus: &Janus, heard: &mut Heard) {
    for session in janus.admin.list_sessions().await {
        // It may end while we look.
        for handle in janus.admin.list_handles_if_there(session).await {
            let Some(info) = janus.admin.handle_info_if_there(session, handle).await else { continue };
            for medium in info["webrtc"]["media"].as_object().into_iter().flat_map(|m| m.values()) {
                if let (Some(true), Some(ssrc)) =
                    (medium["direction"]["recv"].as_bool(), medium["ssrc"]["ssrc-peer"].as_u64())
                {
                    let n = |value: &Value| value.as_i64().unwrap_or(0);
                    let packets = &medium["stats"]["in"];
                    let came = n(&packets["packets"]) - n(&packets["retransmissions"]);
                    let jitter_ms = n(&medium["rtcp"]["main"]["jitter-local"]) as f64;
                    heard.janus_jitter.entry(ssrc as u32).or_default().push((came, jitter_ms));
                    heard.janus.insert(ssrc as u32, medium.clone());
                }
            }
        }
    }
}

/// Runs one room for so many packets of audio.
pub async fn run(target: Target, network: &str, packets: u64, chromium: &Chromium) -> Heard {
    let mut heard = Heard {
        lines: Vec::new(),
        browser: BTreeMap::new(),
        browser_jitter: BTreeMap::new(),
        browser_sends: Vec::new(),
        stock: BTreeMap::new(),
        stock_said: BTreeMap::new(),
        stock_jitter: BTreeMap::new(),
        janus: BTreeMap::new(),
        janus_jitter: BTreeMap::new(),
        records: BTreeMap::new(),
        machine_drops: [0; 2],
        late_ms: 0.0,
    };
    let sleeper = Sleeper::start();
    let drops_before = udp_drops();
    let place = Place::with(&profile());
    let mut command = Command::new(ROOMFUL);
    command.arg("run").arg(place.path("profile.toml")).arg("--out").arg(place.out()).env("JANUS_ADMIN_KEY", ADMIN_KEY);
    let impairer = match target {
        Target::Embedded => {
            let options = EmbeddedOptions {
                program: Some(ROOMFUL.into()),
                media_ip: netns::address(1),
                advertise: vec![format!("s1={}", netns::address(2)).parse().unwrap()],
                ..EmbeddedOptions::default()
            };
            let fleet = EmbeddedFleet::start(1, 20, &options).await.unwrap();
            let port = fleet.servers()[0].media.port();
            let impairer = Impairer::start([port, port], netns::address(1), network).await;
            let url = fleet.base_url();
            place.write("target.toml", &target_file("embedded", url, ""));
            let mut run = place.start(command);
            run.says("00:01 ");
            let room = "pair-1";
            let page = format!("{url}/?room={room}&name=browser&send=0&slots={SENDERS}&muted");
            let stats = "window.roomful?.stats ? roomful.stats().then(all => ({errors: [], outbound: [], \
                inbound: all.filter(s => s.type === 'inbound-rtp')})) : ({errors: [], outbound: [], inbound: []})";
            let signalling = Signalling::Embedded { base: url, room };
            watch(&page, stats, signalling, &mut run, chromium, None, packets, &mut heard).await;
            ended(run, &place, &mut heard);
            assert_eq!(chromium.eval_json("roomful.leave()").await, 200);
            fleet.stop().await;
            impairer
        }
        Target::Janus => {
            let janus = Janus::start_behind(netns::address(2)).await;
            let impairer = Impairer::start(RTP_PORTS, netns::BEHIND, network).await;
            let admin = "admin = \"http://10.77.0.1:7088/admin\"\n\
                [secrets]\nadmin_key = { env = \"JANUS_ADMIN_KEY\" }\n";
            place.write("target.toml", &target_file("janus", &janus.url, admin));
            let mut run = place.start(command);
            run.says("00:01 ");
            let rooms = janus.ask(json!({"request": "list"})).await;
            let room = rooms["list"].as_array().unwrap().iter().find(|r| r["description"] == "pair-1").unwrap();
            let room = room["room"].as_u64().unwrap();
            let pages = serve_pages().await;
            let page = format!("http://{pages}/janus.html?ws={}&room={room}&people={BROWSER}&codec=vp8", janus.url);
            let client = Client::connect(&janus.url).await.unwrap();
            let signalling = Signalling::Janus { client, room };
            let stats = "window.stats().then(all => all[0])";
            watch(&page, stats, signalling, &mut run, chromium, Some(&janus), packets, &mut heard).await;
            ended(run, &place, &mut heard);
            assert_eq!(chromium.eval_json("window.leave()").await, true);
            janus.stop().await;
            impairer
        }
    };
    (heard.records, heard.machine_drops[0]) = impairer.end();
    heard.machine_drops[1] = udp_drops() - drops_before;
    heard.late_ms = sleeper.stop();
    heard
}

fn target_file(driver: &str, url: &str, more: &str) -> String {
    format!("driver = \"{driver}\"\nallow = [\"10.77.0.0/24\"]\n[[servers]]\nid = \"server\"\nurl = \"{url}\"\n{more}")
}

fn ended(run: Process<'_>, place: &Place, heard: &mut Heard) {
    let said = run.finish();
    assert_eq!(said.code, Some(130), "{said:?}");
    heard.lines = place.lines();
}

/// Datagrams that the kernel dropped for want of buffers in this namespace, which is the test's own.
fn udp_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut udp = text.lines().filter(|l| l.starts_with("Udp: "));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let wanted = |n: &str| ["RcvbufErrors", "SndbufErrors"].contains(&n);
    let each = names.split(' ').zip(values.split(' ')).filter(|(n, _)| wanted(n));
    each.map(|(_, v)| v.parse::<u64>().unwrap()).sum()
}

/// Naps all the time, to see how late this machine's threads wake.
struct Sleeper {
    over: Arc<AtomicBool>,
    thread: JoinHandle<f64>,
}

impl Sleeper {
    fn start() -> Sleeper {
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let thread = std::thread::spawn(move || {
            let (nap, mut naps, mut late) = (Duration::from_millis(5), 0.0, Duration::ZERO);
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(nap);
                late += began.elapsed().saturating_sub(nap);
                naps += 1.0;
            }
            late.as_secs_f64() * 1e3 / naps
        });
        Sleeper { over, thread }
    }

    /// The mean, ms.
    fn stop(self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
