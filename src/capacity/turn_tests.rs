//! A TURN server as the target: allocations and what it relays stand beside the participants, and its refusals for want of
//! room are its own limit.

use super::*;
use crate::history::{
    Carried, Event, FailReason, Health, Interval, JoinFailure, Line, Relay, RelayFlow, RelayWhat, ServerFlow,
    ServerInfo, Setup,
};
use crate::measure::{Flow, FlowCounters};
use crate::plan::PlannedTrial;
use crate::profile::parse_resolved;
use crate::types::{LegId, RoomId, ServerId, Via};

fn setting() -> Setting {
    let text = "shape = \"capacity\"\ntarget = \"t.toml\"\nseed = 1\n[[rooms]]\nname = \"call\"\ncount = 1\nsize = 2\n\
        audio = \"opus@32kbit/s\"\n[search]\nrange = \"4..40\"\njoin = \"20/s\"\n[objectives]\n\
        \"audio.delay.p99\" = \"<= 80ms\"\n\"setup.relay.p95\" = \"<= 50ms\"\n\"setup.total.p95\" = \"<= 2s\"\n\
        \"joins.failed_share\" = \"<= 1%\"\n[target_file]\ndriver = \"turn\"\n[[target_file.turn]]\nid = \"t1\"\n\
        url = \"turn:10.0.0.3\"\nusername = \"alice\"\npassword_from = \"pw\"\n[target_file.secrets]\npw = \"a\"\n";
    Setting::of(&parse_resolved(text).unwrap_or_else(|e| panic!("{e}"))).unwrap()
}

/// A trial of so many pairs, of which the last `refused` were turned away with this code.
fn trial(pairs: u32, refused: u32, code: u16, allocation_ms: f64) -> TrialRow {
    let setting = setting();
    let seats = setting.seats.clone();
    let mut record = Record::new(setting);
    let mut see = |t: f64, event: Event| record.see(&Line { t, event });
    see(0.0, Event::Server(ServerInfo { id: ServerId(0), name: "t1".into() }));
    for leg in seats.into_iter().take(2 * pairs as usize) {
        let (id, room, seat) = (leg.id, leg.room, leg.seat);
        see(0.0, Event::JoinStart { leg, late_ms: 0.0, rejoins: None });
        let away = room.index() as u32 >= pairs - refused;
        if seat == 0 {
            see(10.0, Event::Relay(relay(id, if away { RelayWhat::Refused } else { RelayWhat::Allocated }, code)));
        }
        if away {
            // The one that asked is refused; the other one waits for it in vain.
            let (reason, after_ms) =
                if seat == 0 { (FailReason::Relay, 10.0) } else { (FailReason::TimeoutSignaling, 9e3) };
            let detail = format!("t1: {code}");
            see(20.0, Event::JoinFailed(JoinFailure { leg: id, room, server: None, reason, detail, after_ms }));
        } else {
            let setup = Setup { total_ms: 100.0, relay_ms: (seat == 0).then_some(allocation_ms), ..Setup::default() };
            see(
                20.0,
                Event::Joined {
                    leg: id,
                    room,
                    server: ServerId(0),
                    suite: None,
                    remote: None,
                    certificate: None,
                    setup,
                },
            );
        }
    }
    let (from_ms, until_ms) = (1000.0, 11_000.0);
    let participants = 2 * pairs;
    see(1000.0, Event::Trial(PlannedTrial { number: 1, rooms: pairs, participants, moved_ms: 0.0, from_ms, until_ms }));
    let there = pairs - refused;
    for second in 2..=11 {
        let mut audio = Flow::default();
        audio.count =
            FlowCounters { received: 100 * i64::from(there), e2e_expected: 100, e2e_received: 100, ..audio.count };
        audio.delay.record_us(1000);
        let server =
            ServerFlow { server: ServerId(0), participants: 2 * there, rooms: there, audio, video: Flow::default() };
        let relay = |via, n: u32| RelayFlow {
            turn: "t1".into(),
            via,
            allocations: n,
            to_peers: Carried { packets: 50 * u64::from(n), bytes: 5000 * u64::from(n) },
            from_peers: Carried { packets: 50 * u64::from(n), bytes: 5000 * u64::from(n) },
        };
        let relays = vec![relay(Via::Udp, there - 1), relay(Via::Tls, 1)];
        let (connected, servers) = (2 * there, vec![server]);
        let interval = Interval { seconds: 1.0, connected, joining: 0, servers, paths: None, relays };
        see(f64::from(second) * 1000.0, Event::Interval(interval));
        let health = serde_json::json!({
            "seconds": 1.0, "machine_cpu": 0.1, "steal": 0.0, "process_cores": 0.1, "resident_bytes": 1, "shards": [],
            "unhealthy": [],
        });
        let health: Health = serde_json::from_value(health).unwrap();
        see(f64::from(second) * 1000.0, Event::Health(health));
    }
    record.close();
    record.trials.remove(0)
}

fn relay(leg: LegId, what: RelayWhat, code: u16) -> Relay {
    let code = (what == RelayWhat::Refused).then_some(code);
    Relay { leg, slot: 0, turn: "t1".into(), via: Via::Udp, what, ms: Some(9.0), code, detail: None, relayed: None }
}

#[test]
fn allocations_and_what_is_relayed_are_counted() {
    let t = trial(8, 0, 0, 9.0);
    assert_eq!((t.outcome, t.broken.len()), (Outcome::Held, 0), "{t:?}");
    let relay = t.servers[0].relay.unwrap();
    // 8 allocations, 50 packets of 100 B a second each way.
    assert_eq!((relay.allocations, relay.pps, relay.bps), (8, 800.0, 640_000.0));
    let t = trial(8, 0, 0, 90.0);
    assert_eq!((t.outcome, t.broken[0].metric.as_str()), (Outcome::Broke, "setup.relay.p95"), "{t:?}");
}

#[test]
fn a_quota_is_an_admission_limit_and_a_wrong_password_is_not() {
    for code in [486, 508] {
        let t = trial(8, 2, code, 9.0);
        assert!(t.outcome == Outcome::Broke && t.admission, "{t:?}");
        assert_eq!(t.hint, Some(6), "what was let in is tried next");
        assert_eq!(t.servers[0].relay.unwrap().allocations, 6);
        assert_eq!(t.servers[0].setup_p95, Some(100.0), "who waits for one that was turned away is no slow join");
    }
    let t = trial(8, 2, 401, 9.0);
    assert!(t.outcome == Outcome::Broke && !t.admission, "{t:?}");
}

#[test]
fn rooms_of_others_are_not_excused() {
    // Each room its own: a refusal in one says nothing of the next.
    let setting = setting();
    let seats = setting.seats.clone();
    let mut record = Record::new(setting);
    for leg in seats.iter().take(4) {
        record.see(&Line { t: 0.0, event: Event::JoinStart { leg: leg.clone(), late_ms: 0.0, rejoins: None } });
    }
    record.see(&Line { t: 1.0, event: Event::Relay(relay(seats[0].id, RelayWhat::Refused, 486)) });
    let failed = |leg: LegId, room: RoomId| {
        let (reason, detail) = (FailReason::TimeoutIce, String::new());
        Line {
            t: 2.0,
            event: Event::JoinFailed(JoinFailure { leg, room, server: None, reason, detail, after_ms: 9.0 }),
        }
    };
    assert_ne!(seats[0].room, seats[2].room);
    record.see(&failed(seats[2].id, seats[2].room));
    let (from_ms, until_ms) = (1000.0, 2000.0);
    let plan = PlannedTrial { number: 1, rooms: 2, participants: 4, moved_ms: 0.0, from_ms, until_ms };
    record.see(&Line { t: 1000.0, event: Event::Trial(plan) });
    record.close();
    assert!(!record.trials[0].admission);
    assert_eq!(record.trials[0].servers[0].joins_failed, 1);
}
