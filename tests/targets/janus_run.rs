//! Whole runs of the binary against a real Janus: what it reports beside what Janus, a browser and an impairer say.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;

use roomful::history::{Event, LegCause};
use roomful::media::talk::Floor;
use roomful::plan::{PlannedRoom, talk_seed};
use roomful::types::RoomId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use support::chromium::{Chromium, serve_pages};
use support::janus::{ADMIN_KEY, Client, Janus};
use support::roomful::{Ended, Run, own_profile, probe};
use support::{artifacts, netns, until};

const PROFILE: &str = "profiles/janus.toml";

/// Tests run where others compile: one late moment must not leave the run unproven. Losses and delays tell by themselves.
const BUSY_MACHINE: &str = "health.lateness_p99_max=200ms";

/// What Janus counts of one publisher.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Published {
    /// Audio and video RTP packets received.
    packets: [u64; 2],
    /// By Janus's own receiver reports.
    lost: u64,
    /// Packets that Janus asked for again.
    nacks: u64,
}

fn published(info: &Value) -> Published {
    let mut all = Published::default();
    for medium in info["webrtc"]["media"].as_object().unwrap().values() {
        let kind = usize::from(medium["type"] == "video");
        all.packets[kind] += medium["stats"]["in"]["packets"].as_u64().unwrap();
        all.lost += medium["rtcp"]["main"]["lost"].as_u64().unwrap();
        all.nacks += medium["stats"]["out"]["nacks"].as_u64().unwrap();
    }
    all
}

/// Session, handle and display name of every publisher.
async fn publishers(janus: &Janus) -> Vec<(u64, u64, String)> {
    let mut all = Vec::new();
    for session in janus.admin.list_sessions().await {
        for handle in janus.admin.list_handles(session).await {
            let info = janus.admin.handle_info(session, handle).await;
            if info["plugin_specific"]["type"] == "publisher" {
                all.push((session, handle, info["plugin_specific"]["display"].as_str().unwrap().to_owned()));
            }
        }
    }
    all
}

/// SRTP suites as Janus names them: where a Chromium is the DTLS server (it publishes) and where it is the client.
const SENDING: &str = "\"SRTP_AES128_CM_SHA1_80\"";
const RECEIVING: &str = "\"SRTP_AEAD_AES_256_GCM\"";

/// How many of the handles that receive are on each suite.
async fn subscribers_suites(janus: &Janus) -> BTreeMap<String, u32> {
    let mut suites = BTreeMap::new();
    for session in janus.admin.list_sessions().await {
        for handle in janus.admin.list_handles(session).await {
            let info = janus.admin.handle_info(session, handle).await;
            if info["plugin_specific"]["type"] == "subscriber" {
                *suites.entry(info["webrtc"]["dtls"]["srtp-profile"].to_string()).or_default() += 1;
            }
        }
    }
    suites
}

fn print_figures(run: &Ended) {
    let s = &run.summary;
    println!("{} (exit {})", s["sentence"], run.code);
    println!("set-up {}", s["setup"]);
    for kind in ["audio", "video"] {
        println!("{kind} {}", s[kind]);
    }
    println!("generator {}", s["generator"]);
    println!("notes {} failures {}", s["notes"], s["failures"]);
}

fn assert_no_loss(run: &Ended) {
    for kind in ["audio", "video"] {
        assert!(run.number(&format!("{kind}.e2e.expected")) > 1000.0);
        for count in ["e2e", "rtp"] {
            assert_eq!(run.number(&format!("{kind}.{count}.loss")), 0.0, "{kind}.{count}.loss");
        }
    }
}

/// All join, nothing is lost by our counts nor by Janus's, and Janus received just what we sent.
#[test]
fn janus_counts_what_we_count() {
    netns::inside("janus_counts_what_we_count", async || {
        let janus = Janus::start(0).await;
        let mut run = Run::start(&janus, "janus_run-whole", PROFILE, &["load.hold=12s", BUSY_MACHINE]);
        run.holds().await;
        let publishers = publishers(&janus).await;
        assert_eq!(publishers.len(), 30);
        let receiving = subscribers_suites(&janus).await;
        // Looks again and again: the last look before a participant leaves falls into the half second in which it no
        // longer sends and what was in flight has arrived.
        let mut seen: BTreeMap<String, Published> = BTreeMap::new();
        let mut suites: BTreeMap<String, u32> = BTreeMap::new();
        while !run.is_over() {
            let looks = publishers.iter().map(|(s, h, _)| janus.admin.handle_info_if_there(*s, *h));
            for ((.., name), info) in publishers.iter().zip(futures_util::future::join_all(looks).await) {
                // A handle that is hung up has no media any more.
                let Some(info) = info.filter(|i| i["webrtc"]["media"].as_object().is_some_and(|m| m.len() == 2)) else {
                    continue;
                };
                if seen.insert(name.clone(), published(&info)).is_none() {
                    *suites.entry(info["webrtc"]["dtls"]["srtp-profile"].to_string()).or_default() += 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        let run = run.ended().await;
        print_figures(&run);
        println!("Janus: suites {suites:?}, of the first {:?}", seen.first_key_value());
        // As a Chromium does, see below.
        assert_eq!(suites.keys().map(String::as_str).collect::<Vec<_>>(), [SENDING]);
        assert_eq!(receiving.keys().map(String::as_str).collect::<Vec<_>>(), [RECEIVING]);

        assert_eq!(run.code, 0, "{}", run.printed);
        assert_eq!(run.summary["verdict"], "pass");
        assert_eq!((run.number("participants.joined"), run.number("participants.clean")), (30.0, 30.0));
        assert_no_loss(&run);
        assert_eq!(run.number("setup.first_frame.count"), 120.0, "each sees the four others");
        let names = run.leg_names();
        let mut compared = 0;
        for end in run.leg_ends() {
            let name = &names[end.leg.index()];
            let sent = [end.audio.sent as u64, end.video.sent as u64];
            assert!(sent[0] > 500 && sent[1] > 500, "{name} sent {sent:?}");
            assert_eq!(seen[name], Published { packets: sent, lost: 0, nacks: 0 }, "{name}: Janus's count and ours");
            compared += 1;
        }
        assert_eq!(compared, 30);
        janus.stop().await;
    });
}

/// Two rooms behind a network that loses 2 % read 2 %, the others 0; H.264 and VP8 alike.
#[test]
fn rooms_behind_a_lossy_network_read_its_loss() {
    netns::inside("rooms_behind_a_lossy_network_read_its_loss", async || {
        let janus = Janus::start(0).await;
        let run =
            Run::start(&janus, "janus_run-lossy", &own_profile("janus-lossy.toml"), &["load.hold=12s", BUSY_MACHINE]);
        let run = run.ended().await;
        print_figures(&run);
        println!("worst rooms {}", run.summary["rooms_worst"]);
        assert_eq!(run.code, 0, "{}", run.printed);
        assert_eq!(run.number("participants.joined"), 30.0);

        let names = run.room_names();
        let mut rooms = vec![[roomful::measure::FlowCounters::default(); 2]; names.len()];
        for end in run.leg_ends() {
            rooms[end.room.index()][0] += &end.audio;
            rooms[end.room.index()][1] += &end.video;
        }
        for (name, [audio, video]) in names.iter().zip(&rooms) {
            println!("{name}: {audio:?}\n    {video:?}");
            if name.starts_with("clean") {
                for count in [audio, video] {
                    assert!(count.e2e_expected > 5000, "{name}");
                    assert_eq!((count.e2e_loss(), count.rtp_loss()), (Some(0.0), Some(0.0)), "{name}: {count:?}");
                }
                continue;
            }
            // Opus has no NACK here, so what the impairer takes stays lost.
            assert_binomial(audio.e2e_expected, audio.e2e_expected - audio.e2e_received, name);
            assert_binomial(audio.rtp_expected, audio.rtp_expected - audio.rtp_received, name);
            // Video is asked for again, see below.
            assert_binomial(video.rtp_expected, video.rtp_expected - video.rtp_received, name);
        }
        // In the hold: Janus keeps nothing for retransmission before a stream's first receiver reports. A retransmission
        // is lost with 2 %, too, and Janus sends none twice within 200 ms.
        let (lost, recovered) = (run.number("video.rtp.lost_before_recovery"), run.number("video.rtp.recovered"));
        assert!(recovered > 0.9 * lost, "{recovered} of {lost} recovered");
        assert_eq!(run.number("generator.socket_drops"), 0.0);
        let worst: Vec<&str> =
            run.summary["rooms_worst"].as_array().unwrap().iter().map(|r| r["room"].as_str().unwrap()).collect();
        assert!(worst.len() >= 2 && worst[..2].iter().all(|name| name.starts_with("lossy")), "{worst:?}");
        janus.stop().await;
    });
}

/// `lost` of `expected` fits 2 % within five standard deviations of the binomial distribution.
fn assert_binomial(expected: i64, lost: i64, what: &str) {
    let (n, p) = (expected as f64, 0.02);
    let off = (lost as f64 - n * p).abs() / (n * p * (1.0 - p)).sqrt();
    assert!(n > 5000.0 && off < 5.0, "{what}: {lost} of {expected} lost, {off:.1} standard deviations from 2 %");
}

/// A browser in a room of the run sees us, and we see it.
#[test]
fn a_browser_and_we_see_each_other() {
    netns::inside("a_browser_and_we_see_each_other", async || {
        let janus = Janus::start(0).await;
        let sets = ["rooms.meeting.count=2", "load.warmup=1s", "load.hold=20s", BUSY_MACHINE];
        let mut run = Run::start(&janus, "janus_run-browser", PROFILE, &sets);
        let (pages, chromium) = (serve_pages().await, Chromium::start(9515).await);
        run.holds().await;
        let rooms = janus.ask(json!({"request": "list"})).await;
        let room = rooms["list"].as_array().unwrap().iter().find(|r| r["description"] == "meeting-2").unwrap();
        let url = format!("http://{pages}/janus.html?ws={}&room={}&people=ann&codec=vp8", janus.url, room["room"]);
        chromium.open(&url).await;
        let inbound = |stats: &Value, kind: &str, key: &str| -> Vec<u64> {
            let all = stats[0]["inbound"].as_array().unwrap().iter().filter(|e| e["kind"] == kind);
            all.map(|e| e[key].as_u64().unwrap_or(0)).collect()
        };
        let stats = until("the browser decodes 50 frames of each of us", Duration::from_secs(15), async || {
            let stats = chromium.eval_json("window.stats()").await;
            assert_eq!(stats[0]["errors"], json!([]));
            let frames = inbound(&stats, "video", "framesDecoded");
            (frames.len() == 5 && frames.iter().all(|n| *n >= 50)).then_some(stats)
        })
        .await;
        println!("browser decoded {:?}", inbound(&stats, "video", "framesDecoded"));
        println!(
            "browser lost {:?} {:?}",
            inbound(&stats, "audio", "packetsLost"),
            inbound(&stats, "video", "packetsLost")
        );
        assert!(inbound(&stats, "audio", "packetsReceived").iter().filter(|n| **n > 50).count() == 5);
        let contrast = chromium.eval_json("window.contrast()").await;
        assert!(contrast.as_array().unwrap().iter().all(|c| c.as_u64().unwrap() > 50), "{contrast}");
        let suites = "Promise.all([people[0].sending, people[0].receiving].map(async c => \
            [...(await c.getStats()).values()].filter(e => e.type === 'transport').map(e => [e.dtlsRole, e.srtpCipher])))";
        let suites = chromium.eval_json(suites).await;
        println!("suites of a browser, sending and receiving: {suites}");
        assert_eq!(suites[0][0], json!(["server", "SRTP_AES128_CM_HMAC_SHA1_80"]));
        assert_eq!(suites[1][0], json!(["client", "SRTP_AEAD_AES_256_GCM"]));
        chromium.screenshot(&artifacts().join("janus_run-browser.png")).await;
        assert_eq!(chromium.eval_json("window.leave()").await, true);
        chromium.quit().await;

        let run = run.ended().await;
        print_figures(&run);
        assert_eq!(run.number("participants.clean"), 10.0);
        let names = run.room_names();
        for (name, legs) in [("meeting-1", false), ("meeting-2", true)] {
            for end in run.leg_ends().filter(|end| names[end.room.index()] == name) {
                let browser = [end.audio.unstamped, end.video.unstamped];
                assert_eq!(browser.map(|n| n > 0), [legs; 2], "{name}, leg {}: {browser:?}", end.leg);
                // Ours are seen as before.
                assert_eq!((end.audio.e2e_loss(), end.video.e2e_loss()), (Some(0.0), Some(0.0)), "{end:?}");
            }
        }
        janus.stop().await;
    });
}

/// Janus is killed in mid-run: all are dropped, the verdict is a failure, and the run ends by itself.
#[test]
fn a_killed_janus_is_reported_as_what_it_was() {
    netns::inside_beside("a_killed_janus_is_reported_as_what_it_was", async || {
        let mut janus = Janus::start(0).await;
        // A hold that nobody could wait for.
        let sets = ["load.join=20/s", "load.warmup=1s", "load.hold=10m", BUSY_MACHINE];
        let mut run = Run::start(&janus, "janus_run-killed", PROFILE, &sets);
        run.holds().await;
        janus.signal("KILL");
        janus.ended().await;
        let run = run.ended().await;
        print_figures(&run);
        assert_eq!(run.code, 3, "{}", run.printed);
        assert_eq!(run.summary["verdict"], "fail");
        assert_eq!((run.number("participants.joined"), run.number("participants.dropped")), (30.0, 30.0));
        assert_eq!(run.number("legs.dropped"), 30.0);
        assert_eq!(run.leg_ends().count(), 30);
        for end in run.leg_ends() {
            assert_eq!(end.cause, LegCause::SignalingLost, "{end:?}");
            assert!(!end.detail.is_empty());
        }
        let sentence = run.summary["sentence"].as_str().unwrap();
        assert!(sentence.contains("janus-1") && sentence.contains("30"), "{sentence}");
        assert!(matches!(run.history.last().unwrap().event, Event::End { interrupted: false }));
    });
}

/// A Janus that stands still answers no checks: both transports of each leg restart ICE, and when it goes on, all are back
/// in the same calls.
#[test]
fn ice_restarts_bring_legs_back_from_a_janus_that_stood_still() {
    netns::inside_beside("ice_restarts_bring_legs_back_from_a_janus_that_stood_still", async || {
        let janus = Janus::start(0).await;
        let sets = ["load.join=20/s", "load.warmup=1s", "load.hold=30s", BUSY_MACHINE];
        let mut run = Run::start(&janus, "janus_run-restarts", PROFILE, &sets);
        run.holds().await;
        janus.signal("STOP");
        // A check each 4 to 6 s, and 10 s without an answer.
        tokio::time::sleep(Duration::from_secs(12)).await;
        janus.signal("CONT");
        let run = run.ended().await;
        print_figures(&run);
        assert_eq!(run.leg_ends().count(), 30);
        for end in run.leg_ends() {
            assert_eq!((end.cause, end.ice_restarts), (LegCause::Left, 2), "{end:?}");
            let long: Vec<f64> =
                end.silences.iter().map(|s| s.until_ms - s.from_ms).filter(|ms| *ms > 5000.0).collect();
            assert!(matches!(long[..], [ms] if ms < 20_000.0), "{end:?}");
        }
        let notes = run.summary["notes"].as_array().unwrap();
        let count = |code: &str| notes.iter().find(|n| n["code"] == code).and_then(|n| n["count"].as_u64());
        assert_eq!((count("ice_restart"), count("ice_restarted")), (Some(60), Some(60)), "{notes:?}");
        janus.stop().await;
    });
}

/// Three layers go up, one comes down; the substream of a subscriber is configured, and its receiver sees the switch.
#[test]
fn janus_switches_layers_and_nothing_is_lost() {
    netns::inside("janus_switches_layers_and_nothing_is_lost", async || layers_are_switched("rid").await);
}

/// The same with layers that their SSRCs tell apart.
#[test]
fn janus_switches_layers_of_an_ssrc_group() {
    netns::inside("janus_switches_layers_of_an_ssrc_group", async || layers_are_switched("ssrc-group").await);
}

async fn layers_are_switched(simulcast: &str) {
    let janus = Janus::start(0).await;
    let by = format!("target_file.simulcast={simulcast}");
    let sets = [
        &*by,
        "rooms.meeting.count=1",
        "rooms.meeting.size=3",
        "rooms.meeting.video=vp8@1500kbit/s",
        "rooms.meeting.simulcast=true",
        "load.hold=9s",
        BUSY_MACHINE,
    ];
    let mut run = Run::start(&janus, &format!("janus_run-layers-{simulcast}"), PROFILE, &sets);
    run.holds().await;
    for substream in [0, 2, 1] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        for (session, handle, mids) in video_subscribers(&janus).await {
            let streams: Vec<Value> = mids.iter().map(|mid| json!({"mid": mid, "substream": substream})).collect();
            janus.tell(session, handle, json!({"request": "configure", "streams": streams})).await;
        }
    }
    let publishers = publishers(&janus).await;
    assert_eq!(publishers.len(), 3);
    for (session, handle, _) in &publishers {
        let info = janus.admin.handle_info(*session, *handle).await;
        let streams = info["plugin_specific"]["streams"].as_array().unwrap();
        assert!(streams.iter().any(|s| s["type"] == "video" && s["simulcast"] == true), "{streams:?}");
        let media = info["webrtc"]["media"].as_object().unwrap();
        let known = &media.values().find(|m| m["type"] == "video").unwrap()["ssrc"];
        let number = |key: &str| known[key].as_u64();
        let lowest = number("ssrc-peer").unwrap();
        match simulcast {
            // What Janus reads of the group: the layers in its order, and the retransmissions of each.
            "ssrc-group" => {
                let layers = ["ssrc-peer-sim-1", "ssrc-peer-sim-2"].map(number);
                assert_eq!(layers, [Some(lowest + 1), Some(lowest + 2)], "{known}");
                let rtx = number("ssrc-peer-rtx").unwrap();
                let layers = ["ssrc-peer-sim-1-rtx", "ssrc-peer-sim-2-rtx"].map(number);
                assert_eq!(layers, [Some(rtx + 1), Some(rtx + 2)], "{known}");
            }
            _ => assert_eq!(number("ssrc-peer-rtx"), None, "by rid, nothing is named: {known}"),
        }
    }
    let run = run.ended().await;
    print_figures(&run);
    // Judged by what each leg counted, whatever else the machine had to do.
    assert_eq!(run.number("participants.joined"), 3.0);
    assert_eq!(run.summary["notes"].as_array().map(Vec::len), Some(0), "{}", run.summary["notes"]);
    // Three receivers of two senders each, three times; Janus may change at the start, too.
    let switches: i64 = run.leg_ends().map(|end| end.video.layer_switches).sum();
    assert!((18..24).contains(&switches), "{switches}");
    for end in run.leg_ends() {
        assert!(end.video.layer_switches >= 6, "{end:?}");
        assert_eq!((end.video.e2e_loss(), end.audio.e2e_loss()), (Some(0.0), Some(0.0)), "{end:?}");
        assert_eq!((end.video.unstamped, end.video.foreign_stamps), (0, 0), "{end:?}");
        // Two of them come in, in fewer packets than three layers go out in.
        assert!(end.video.received < 2 * end.video.sent, "{end:?}");
    }
    janus.stop().await;
}

/// What Janus said of one participant's voice, ns of CLOCK_REALTIME.
#[derive(Default)]
struct Voice {
    changes: Vec<(u64, bool)>,
}

impl Voice {
    fn talks(&self, at_ns: u64) -> bool {
        self.changes.iter().rev().find(|c| c.0 <= at_ns).is_some_and(|c| c.1)
    }
}

/// Levels and silences are such that a server's own speaker detection works on them: Janus's `talking` events follow the
/// conversation that the seed says.
#[test]
fn janus_hears_who_talks() {
    netns::inside_beside("janus_hears_who_talks", async || {
        const SEATS: u32 = 3;
        const SEED: u64 = 11;
        let janus = Janus::start(0).await;
        let room = 4242;
        let made = janus
            .ask(json!({
                "request": "create", "room": room, "admin_key": ADMIN_KEY, "publishers": 9, "audiolevel_event": true,
                // Averages of 10 packets; louder than -45 dBov is speech.
                "audio_active_packets": 10, "audio_level_average": 45,
            }))
            .await;
        assert_eq!(made["videoroom"], "created", "{made}");
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("join.sh");
        std::fs::write(&script, format!("echo '{{\"url\": \"{}\", \"room\": \"{room}\"}}'\n", janus.url)).unwrap();
        let sets = [
            &*format!("seed={SEED}"),
            &*format!("target_file.join.exec=[\"sh\", \"{}\"]", script.display()),
            "rooms.meeting.count=1",
            &*format!("rooms.meeting.size={SEATS}"),
            "rooms.meeting.talk=p59",
            "load.hold=15s",
            BUSY_MACHINE,
        ];
        let mut listener = Client::connect(&janus.url).await.unwrap();
        listener.request(json!({"janus": "create"})).await;
        let attached = listener.request(json!({"janus": "attach", "plugin": "janus.plugin.videoroom"})).await;
        listener.handle = attached["data"]["id"].as_u64();
        let join = json!({"request": "join", "ptype": "publisher", "room": room, "display": "listener"});
        listener.request(json!({"janus": "message", "body": join})).await;

        let mut run = Run::start(&janus, "janus_run-talk", PROFILE, &sets);
        run.holds().await;
        let mut feeds: BTreeMap<u64, String> = BTreeMap::new();
        let listed = janus.ask(json!({"request": "listparticipants", "room": room})).await;
        for p in listed["participants"].as_array().unwrap() {
            feeds.insert(p["id"].as_u64().unwrap(), p["display"].as_str().unwrap().to_owned());
        }
        let mut voices: BTreeMap<String, Voice> = BTreeMap::new();
        let from_ns = now_ns();
        let until = tokio::time::Instant::now() + Duration::from_secs(13);
        while let Some(event) = listener.event(until).await {
            let data = &event["plugindata"]["data"];
            let talks = match data["videoroom"].as_str() {
                Some("talking") => true,
                Some("stopped-talking") => false,
                _ => continue,
            };
            // What was told before the room was listed comes first, and is not looked at.
            let name = feeds[&data["id"].as_u64().unwrap()].clone();
            voices.entry(name).or_default().changes.push((now_ns(), talks));
        }
        let until_ns = now_ns();
        let run = run.ended().await;
        print_figures(&run);
        assert!(run.summary["notes"].as_array().unwrap().iter().all(|n| n["code"] != "janus_unknown"));

        let info = run.history.iter().find_map(|l| if let Event::Run(info) = &l.event { Some(info) } else { None });
        let epoch_ns = info.unwrap().epoch_ns;
        let plan = PlannedRoom {
            id: RoomId(0),
            name: "meeting-1".into(),
            group: 0,
            size: SEATS,
            senders_max: SEATS,
            server: None,
        };
        // Of all moments, those in which Janus says what the conversation was 150 ms before: half of what it averages over,
        // and the way there.
        let agreement = |seed: u64| {
            let (mut same, mut all) = (0, 0);
            let mut floor = Floor::new(talk_seed(seed, &plan), SEATS);
            for at_ns in (from_ns..until_ns).step_by(20_000_000) {
                for seat in 0..SEATS {
                    let said = voices.get(&format!("meeting-1/p{}", seat + 1)).is_some_and(|v| v.talks(at_ns));
                    same += i32::from(said == floor.talks(at_ns - epoch_ns - 150_000_000, seat));
                    all += 1;
                }
            }
            f64::from(same) / f64::from(all)
        };
        let changes: Vec<(&String, usize)> = voices.iter().map(|(n, v)| (n, v.changes.len())).collect();
        let right = agreement(SEED);
        let wrong = (1..=50).map(|n| agreement(SEED + n)).fold(0.0, f64::max);
        println!("{changes:?}: agrees in {right}, with the best of 50 other seeds in {wrong}");
        assert_eq!(voices.len(), SEATS as usize);
        assert!(changes.iter().all(|(_, n)| *n >= 4), "{changes:?}");
        assert!(right > 0.85, "{right}");
        assert!(right > wrong + 0.08, "another conversation is not what it heard: {right}, {wrong}");
        janus.stop().await;
    });
}

fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Senders behind a bottleneck learn of it by Janus's own feedback.
#[test]
fn janus_feedback_brings_senders_down() {
    netns::inside_beside("janus_feedback_brings_senders_down", async || {
        let janus = Janus::start(0).await;
        let sets = [
            "rooms.meeting.count=1",
            "rooms.meeting.size=2",
            "rooms.meeting.video=h264@500kbit/s",
            "rooms.meeting.adapt=true",
            "rooms.meeting.network.up.rate=400kbit/s",
            "rooms.meeting.network.up.after=4s",
            "load.hold=12s",
            BUSY_MACHINE,
        ];
        let run = Run::start(&janus, "janus_run-adapt", PROFILE, &sets).ended().await;
        print_figures(&run);
        println!("{}", run.summary["video"]["steps"]);
        assert_eq!(run.number("participants.joined"), 2.0);
        for end in run.leg_ends() {
            let v = &end.video;
            println!("{v:?}");
            assert!(v.steps_down >= 1 && v.below_ms > 3_000, "{v:?}");
            assert!(v.twcc_received > 50, "Janus gives transport-wide feedback: {v:?}");
            assert_eq!((v.unstamped, v.foreign_stamps, v.malformed), (0, 0, 0), "{v:?}");
        }
        janus.stop().await;
    });
}

/// Session and handle of those that receive, and the mids of their video.
async fn video_subscribers(janus: &Janus) -> Vec<(u64, u64, Vec<String>)> {
    let mut all = Vec::new();
    for session in janus.admin.list_sessions().await {
        for handle in janus.admin.list_handles(session).await {
            let info = janus.admin.handle_info(session, handle).await;
            if info["plugin_specific"]["type"] == "subscriber" {
                let media = info["webrtc"]["media"].as_object().unwrap().values();
                let mids = media.filter(|m| m["type"] == "video").map(|m| m["mid"].as_str().unwrap().to_owned());
                all.push((session, handle, mids.collect()));
            }
        }
    }
    all
}

#[test]
fn a_probe_says_what_it_met() {
    netns::inside_beside("a_probe_says_what_it_met", async || {
        let janus = Janus::start(0).await;
        let met = probe(&janus, PROFILE, &[]);
        let text = String::from_utf8(met.stdout).unwrap();
        println!("{text}");
        assert_eq!(met.status.code(), Some(0), "{text}");
        for part in ["server     janus-1", "media to   10.77.0.1:", "suite      A", "opus@32kbit/s and vp8@500kbit/s"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }

        let nobody = "ws://10.77.0.1:8199";
        let missed = probe(&janus, PROFILE, &[&format!("target_file.servers.janus-1.url={nobody}")]);
        let text = String::from_utf8(missed.stderr).unwrap();
        println!("{text}");
        assert_eq!(missed.status.code(), Some(1), "{text}");
        assert!(text.contains(nobody) && text.contains("refused"), "{text}");
        janus.stop().await;
    });
}
