//! Mutes, and leaving and coming back, by their numbers: neither is loss, silence or a gap, and nothing of it is lost sight of.

use super::support;
use crate::disturbed::beside;
use roomful::history::{Event, LegEnd, Line};
use roomful::media::talk::Mutes;
use roomful::plan::{PlannedLeg, PlannedRoom, mute_seed};
use roomful::types::{LegId, RoomId};
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Place, VIDEO, profile, rooms};

/// Of `profile`.
const SEED: u64 = 7;

/// One leg from its planned start to its end; times in ms since the start of the run.
struct Life {
    planned: PlannedLeg,
    joined: f64,
    ended: f64,
    end: LegEnd,
}

fn lives(lines: &[Line]) -> Vec<Life> {
    let mut starts: BTreeMap<LegId, PlannedLeg> = BTreeMap::new();
    let mut joined: BTreeMap<LegId, f64> = BTreeMap::new();
    let mut lives = Vec::new();
    for line in lines {
        match &line.event {
            Event::JoinStart { leg, .. } => drop(starts.insert(leg.id, leg.clone())),
            Event::Joined { leg, .. } => drop(joined.insert(*leg, line.t)),
            Event::LegEnd(end) => lives.push(Life {
                planned: starts[&end.leg].clone(),
                joined: joined[&end.leg],
                ended: line.t,
                end: end.clone(),
            }),
            _ => {}
        }
    }
    assert_eq!((starts.len(), joined.len()), (lives.len(), lives.len()), "every join has its end");
    lives
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// Seats whose participants come and go at random: each leave and each rejoin counts, and costs nobody a packet.
#[test]
fn who_leaves_and_comes_back_is_counted_and_costs_nobody_a_packet() {
    beside(|| {
        let limits = ["joins.failed == 0", "legs.dropped == 0", "legs.glitched == 0", "video.freezes <= 0/min"];
        let rooms = rooms("churn", 2, 3, &format!("{VIDEO}\nstay = \"exponential(4s)\""));
        let place = Place::with(&profile("embedded", &rooms, "14s", &limits));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let lives = lives(&place.lines());
        let summary = place.summary();
        let all = lives.len() as u64;
        for path in ["planned", "joined", "clean"] {
            assert_eq!(summary["participants"][path], all, "{path}: {}", summary["participants"]);
        }
        assert_eq!(summary["legs"]["clean"], all, "{}", summary["legs"]);

        // A seat is one participant's after the other's.
        let mut seats: BTreeMap<(RoomId, u32), Vec<&Life>> = BTreeMap::new();
        lives.iter().for_each(|l| seats.entry((l.planned.room, l.planned.seat)).or_default().push(l));
        assert_eq!(seats.len(), 6);
        let mut rejoins = 0;
        for seat in seats.values_mut() {
            seat.sort_by_key(|l| l.planned.join_at);
            for (n, pair) in seat.windows(2).enumerate() {
                let gap = pair[1].planned.join_at - pair[0].planned.leave_at;
                assert_eq!(gap, Duration::from_millis(500), "{}", pair[1].planned.name);
                assert!(pair[1].planned.name.ends_with(&format!(".{}", n + 2)), "{}", pair[1].planned.name);
                assert!(pair[0].ended < pair[1].joined, "{} was still there", pair[0].planned.name);
                rejoins += 1;
            }
        }
        assert!(rejoins >= 8 && rejoins == all - 6, "{rejoins} of {all}");

        // Who is there together hears each other for just that long.
        let (mut together, mut expected) = (0.0, 0);
        for l in &lives {
            let [audio, video] = [&l.end.audio, &l.end.video];
            assert_eq!(audio.e2e_expected, audio.e2e_received, "{}: {audio:?}", l.planned.name);
            assert_eq!(video.e2e_expected, video.e2e_received, "{}: {video:?}", l.planned.name);
            assert_eq!(video.freezes, 0, "{}: {video:?}", l.planned.name);
            assert!(l.end.longest_gap_ms < 500.0, "{}: {} ms", l.planned.name, l.end.longest_gap_ms);
            expected += audio.e2e_expected;
            for o in lives.iter().filter(|o| o.planned.room == l.planned.room && o.planned.id != l.planned.id) {
                // Who leaves stops to send, and hears what is under way for some more time.
                let until = l.ended.min(ms(o.planned.leave_at));
                together += (until - l.joined.max(o.joined)).max(0.0);
            }
        }
        let heard = expected as f64 * 20.0 / together;
        assert!((0.93..1.01).contains(&heard), "of {together} ms together {heard} was heard");
    });
}

/// A client that sends nothing while it is muted: as much as its mutes leave, and none of it missed. Beside it a room in
/// which the network is dark for two seconds: that is loss and silence.
#[test]
fn muted_time_is_neither_loss_nor_silence_and_dark_time_is_both() {
    beside(|| {
        let mute = "mute = { after = \"3s\", lasts = \"3s\" }";
        let dark = "network = { down = { blackout = \"2s\", blackout_after = \"6s\" } }";
        let rooms = rooms("quiet", 2, 3, mute) + &rooms("dark", 1, 2, dark);
        let text = profile("embedded", &rooms, "14s", &["joins.failed == 0", "legs.dropped == 0"]);
        let place = Place::with(&format!("client = \"light\"\n{text}"));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let lives = lives(&place.lines());
        assert_eq!(lives.len(), 8);
        let (mut muted, mut whole) = (0.0, 0.0);
        for l in &lives {
            let (name, c) = (&l.planned.name, &l.end.audio);
            let stay = ms(l.planned.leave_at) - l.joined;
            if name.starts_with("dark") {
                assert!((1900.0..2700.0).contains(&l.end.longest_gap_ms), "{name}: {} ms", l.end.longest_gap_ms);
                let lost = c.e2e_expected - c.e2e_received;
                assert!((90..=110).contains(&lost), "{name}: two seconds of 50 packets: {lost}");
                continue;
            }
            assert_eq!(c.e2e_expected, c.e2e_received, "{name}: {c:?}");
            assert_eq!(c.rtp_expected, c.rtp_received, "{name}: {c:?}");
            assert!(l.end.longest_gap_ms < 300.0, "{name}: {} ms", l.end.longest_gap_ms);
            let room = PlannedRoom {
                id: l.planned.room,
                name: name.split('/').next().unwrap().into(),
                group: 0,
                size: 3,
                senders_max: 3,
                server: None,
            };
            let mean = Duration::from_secs(3).as_nanos() as u64;
            let mut mutes = Mutes::new(mute_seed(SEED, &room, l.planned.seat), mean, mean);
            let slots = (l.joined as u64..ms(l.planned.leave_at) as u64).step_by(20);
            let silent = slots.filter(|ms| mutes.at(ms * 1_000_000).0).count() as f64 * 20.0;
            let sent = c.sent as f64 * 20.0;
            assert!((stay - silent - sent).abs() < 300.0, "{name}: {sent} ms sent of {stay} ms, {silent} muted");
            (muted, whole) = (muted + silent, whole + stay);
        }
        assert!((0.2..0.8).contains(&(muted / whole)), "{muted} of {whole} ms were muted");
        let rooms = place.summary()["rooms_worst"].clone();
        for r in rooms.as_array().unwrap() {
            let (silence, loss) = (r["silence_max"].as_f64().unwrap(), r["audio_loss"].as_f64().unwrap());
            let is_dark = r["room"] == "dark-1";
            assert_eq!((silence > 1500.0, loss > 3.0), (is_dark, is_dark), "{r}");
            assert!(is_dark || (silence < 300.0 && loss == 0.0), "{r}");
        }
        assert_eq!(rooms.as_array().unwrap().len(), 3);
    });
}
