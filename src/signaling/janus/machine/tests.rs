//! The machine against a captured conversation, against refusals, and against mutated JSON.

use super::*;
use crate::signaling::TransportState;
use crate::transport::Failure;
use crate::types::Suite;
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::SocketAddr;

const CAPTURE: &str = include_str!("../../../../tests/fixtures/janus/publisher.jsonl");
const ALICE: u64 = 6_871_843_723_973_616;
const ALICE_RECEIVES: u64 = 7_404_338_022_906_239;
const SESSION: u64 = 3_624_440_102_922_134;

fn part(sends: bool) -> Part {
    Part { room: 1234, display: "alice".into(), sends, credentials: Credentials::default(), trickles: false }
}

/// A machine, and what it said.
struct Bench {
    machine: Machine,
    /// Requests as JSON, oldest first.
    sent: Vec<Value>,
    /// Everything else.
    did: Vec<Output>,
}

impl Bench {
    fn new(part: Part) -> Bench {
        let mut bench = Bench { machine: Machine::new(part), sent: Vec::new(), did: Vec::new() };
        bench.drain();
        bench
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send(text) => self.sent.push(serde_json::from_str(&text).unwrap()),
                other => self.did.push(other),
            }
        }
    }

    fn hear(&mut self, message: Value) {
        self.machine.handle_text(&message.to_string());
        self.drain();
    }

    fn reply(&mut self, reply: Reply) {
        self.machine.handle_reply(reply);
        self.drain();
    }

    fn order(&mut self, order: Order) {
        self.machine.handle_order(order);
        self.drain();
    }

    fn timer(&mut self, timer: Timer) {
        self.machine.handle_timer(timer);
        self.drain();
    }

    /// Transaction of the last request with this name.
    fn transaction(&self, name: &str) -> String {
        let request = self.sent.iter().rev().find(|r| name_of(r, &self.sent) == name);
        request.unwrap_or_else(|| panic!("no {name} in {:?}", self.sent))["transaction"].as_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        self.sent.iter().map(|r| name_of(r, &self.sent)).collect()
    }

    fn last(&self) -> &Value {
        self.sent.last().unwrap()
    }

    fn succeed(&mut self, name: &str, id: u64) {
        self.hear(json!({"janus": "success", "transaction": self.transaction(name), "data": {"id": id}}));
    }

    fn plugin(&mut self, name: &str, sender: u64, data: Value, jsep: Option<Value>) {
        let mut message = json!({
            "janus": "event", "session_id": SESSION, "sender": sender,
            "plugindata": {"plugin": PLUGIN, "data": data},
        });
        if !name.is_empty() {
            message["transaction"] = json!(self.transaction(name));
        }
        if let Some(jsep) = jsep {
            message["jsep"] = jsep;
        }
        self.hear(message);
    }

    fn refuse(&mut self, name: &str, sender: u64, code: i64, error: &str) {
        self.plugin(name, sender, json!({"videoroom": "event", "error_code": code, "error": error}), None);
    }

    fn join(&mut self, publishers: &[u64]) {
        self.succeed("create", SESSION);
        self.succeed("attach publisher", ALICE);
        let publishers: Vec<Value> = publishers.iter().map(|id| json!({"id": id})).collect();
        let data = json!({"videoroom": "joined", "room": 1234, "id": 5, "private_id": 77, "publishers": publishers});
        self.plugin("join publisher", ALICE, data, None);
    }

    /// Joined and publishing; connected.
    fn publish(&mut self) {
        self.join(&[]);
        self.reply(Reply::Offer(Ok("our offer".into())));
        let answer = json!({"type": "answer", "sdp": "janus's answer"});
        self.plugin("configure", ALICE, json!({"videoroom": "event", "configured": "ok"}), Some(answer));
        self.reply(Reply::AnswerApplied(Ok(())));
        self.connected(PUBLISH);
    }

    fn connected(&mut self, slot: u8) {
        let state = TransportState::Connected { suite: Suite::Aes128CmSha1_80, certificate: 0 };
        self.order(Order::Transport { slot, state });
    }

    fn ended(&self) -> Option<&Ended> {
        self.did.iter().find_map(|o| if let Output::Ended(ended) = o { Some(ended) } else { None })
    }

    fn failed(&self) -> (FailReason, &str) {
        match self.ended() {
            Some(Ended::Failed { reason, detail }) => (*reason, detail),
            other => panic!("{other:?}"),
        }
    }

    fn over(&self) -> (LegCause, &str) {
        match self.ended() {
            Some(Ended::Over { cause, detail }) => (*cause, detail),
            other => panic!("{other:?}"),
        }
    }

    fn signaled(&self) -> usize {
        self.did.iter().filter(|o| **o == Output::Signaled).count()
    }

    fn notes(&self, wanted: &str) -> usize {
        self.did.iter().filter(|o| matches!(o, Output::Note { code, .. } if *code == wanted)).count()
    }
}

/// The name that fixtures use for a request: the first attach is the publisher's.
fn name_of(request: &Value, all: &[Value]) -> String {
    let kind = request["janus"].as_str().unwrap();
    match kind {
        "message" => {
            let what = request["body"]["request"].as_str().unwrap();
            request["body"]["ptype"].as_str().map_or(what.to_owned(), |ptype| format!("{what} {ptype}"))
        }
        "attach" => {
            let first = all.iter().find(|r| r["janus"] == "attach") == Some(request);
            format!("attach {}", if first { "publisher" } else { "subscriber" })
        }
        other => other.to_owned(),
    }
}

#[test]
fn says_what_the_browser_said_in_the_captured_conversation() {
    let mut bench = Bench::new(part(true));
    let (mut heard, mut performed) = (0, 0);
    for line in CAPTURE.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut message = line["message"].clone();
        let name = message["transaction"].as_str().unwrap_or_default().to_owned();
        if line["from"] == "janus" {
            if !name.is_empty() {
                message["transaction"] = json!(bench.transaction(&name));
            }
            bench.hear(message);
            heard += 1;
        } else {
            match name.as_str() {
                "keepalive" => bench.timer(Timer::KeepAlive),
                "leave" => bench.order(Order::Leave),
                _ => {}
            }
            let mut ours = bench.sent.iter().rev().find(|r| name_of(r, &bench.sent) == name).cloned().unwrap();
            assert!(ours["transaction"].as_str().unwrap().starts_with('t'));
            ours["transaction"] = json!(name);
            ours.as_object_mut().unwrap().remove("opaque_id");
            if ours.get("jsep").is_some() {
                ours["jsep"]["sdp"] = json!("v=0");
            }
            assert_eq!(ours, message, "{name}");
        }
        // The media path does its part at once.
        while let Some(wish) = bench.did.get(performed).cloned() {
            performed += 1;
            match &wish {
                Output::MakeOffer { ice_restart: false } => bench.reply(Reply::Offer(Ok("v=0\r\n".into()))),
                Output::ApplyAnswer(sdp) => {
                    assert!(sdp.starts_with("v=0\r\n") && sdp.contains("a=ice-ufrag:"));
                    bench.reply(Reply::AnswerApplied(Ok(())));
                    bench.connected(PUBLISH);
                }
                Output::AcceptOffer(sdp) => {
                    assert!(sdp.contains("a=setup:actpass"));
                    bench.reply(Reply::Answer(Ok("v=0\r\n".into())));
                }
                _ => {}
            }
        }
    }
    assert!(heard > 20);
    assert_eq!(bench.signaled(), 1);
    assert_eq!(bench.over(), (LegCause::Left, ""));
    // Bob's offer, and the one Janus made when he stopped.
    let offers = bench.did.iter().filter(|o| matches!(o, Output::AcceptOffer(_))).count();
    assert_eq!(offers, 2);
    assert_eq!(bench.did.iter().filter(|o| matches!(o, Output::Note { .. })).count(), 0, "{:?}", bench.did);
    assert_eq!(bench.names().iter().filter(|n| *n == "destroy").count(), 1);
}

#[test]
fn a_watcher_alone_has_joined_and_one_with_feeds_when_its_answer_is_taken() {
    let mut alone = Bench::new(part(false));
    alone.join(&[]);
    assert_eq!(alone.signaled(), 1);
    assert_eq!(alone.names(), ["create", "attach publisher", "join publisher"]);

    let mut watcher = Bench::new(part(false));
    watcher.join(&[10, 11]);
    assert_eq!(watcher.signaled(), 0);
    watcher.succeed("attach subscriber", ALICE_RECEIVES);
    let join = watcher.last().clone();
    assert_eq!(join["body"]["streams"], json!([{"feed": 10}, {"feed": 11}]));
    assert_eq!((&join["handle_id"], &join["body"]["private_id"]), (&json!(ALICE_RECEIVES), &json!(77)));
    let offer = json!({"type": "offer", "sdp": "o"});
    watcher.plugin("join subscriber", ALICE_RECEIVES, json!({"videoroom": "attached"}), Some(offer));
    watcher.reply(Reply::Answer(Ok("a".into())));
    assert_eq!(watcher.last()["jsep"], json!({"type": "answer", "sdp": "a"}));
    assert_eq!(watcher.signaled(), 0);
    watcher.plugin("start", ALICE_RECEIVES, json!({"videoroom": "event", "started": "ok"}), None);
    assert_eq!(watcher.signaled(), 1);
}

#[test]
fn later_feeds_are_added_one_negotiation_at_a_time() {
    let mut bench = Bench::new(part(true));
    bench.publish();
    let publishers = |ids: &[u64]| {
        let all: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
        json!({"videoroom": "event", "room": 1234, "publishers": all})
    };
    bench.plugin("", ALICE, publishers(&[10]), None);
    bench.succeed("attach subscriber", ALICE_RECEIVES);
    bench.plugin("", ALICE, publishers(&[11]), None);
    bench.plugin("", ALICE, publishers(&[12]), None);
    assert_eq!(bench.last()["body"]["streams"], json!([{"feed": 10}]));
    let offer = || Some(json!({"type": "offer", "sdp": "o"}));
    bench.plugin("join subscriber", ALICE_RECEIVES, json!({"videoroom": "attached"}), offer());
    bench.reply(Reply::Answer(Ok("a".into())));
    bench.plugin("start", ALICE_RECEIVES, json!({"videoroom": "event", "started": "ok"}), None);
    assert_eq!(bench.last()["body"], json!({"request": "update", "subscribe": [{"feed": 11}, {"feed": 12}]}));
    // One of them is gone already; Janus names it, the other goes on.
    bench.plugin("", ALICE, json!({"videoroom": "event", "leaving": 11}), None);
    bench.refuse("update", ALICE_RECEIVES, 428, "No such feed (11)");
    let body = json!({"request": "update", "subscribe": [{"feed": 12}], "unsubscribe": [{"feed": 11}]});
    assert_eq!(bench.last()["body"], body);
    // No change on Janus's side is an answer too.
    bench.plugin("update", ALICE_RECEIVES, json!({"videoroom": "updated"}), None);
    bench.plugin("", ALICE, publishers(&[13]), None);
    assert_eq!(bench.last()["body"], json!({"request": "update", "subscribe": [{"feed": 13}]}));
    assert_eq!(bench.ended(), None);
}

#[test]
fn a_missing_feed_is_asked_for_again_later() {
    let mut bench = Bench::new(part(false));
    bench.join(&[10]);
    bench.succeed("attach subscriber", ALICE_RECEIVES);
    bench.refuse("join subscriber", ALICE_RECEIVES, 428, "No such feed (10)");
    assert!(bench.did.contains(&Output::Arm(Timer::Retry, RETRY)));
    assert_eq!(bench.notes("janus_no_such_feed"), 1);
    let before = bench.sent.len();
    bench.timer(Timer::Retry);
    assert_eq!(bench.sent.len(), before + 1);
    assert_eq!(bench.last()["body"]["streams"], json!([{"feed": 10}]));
    for _ in 0..10 {
        if bench.names().last().unwrap() == "join subscriber" {
            bench.refuse("join subscriber", ALICE_RECEIVES, 428, "No such feed (10)");
            bench.timer(Timer::Retry);
        }
    }
    assert_eq!(bench.signaled(), 1, "nothing left to wait for");
}

#[test]
fn refusals_have_reasons() {
    let cases = [
        (432, FailReason::Full),
        (433, FailReason::Unauthorized),
        (426, FailReason::Rejected),
        (437, FailReason::Rejected),
    ];
    for (code, reason) in cases {
        let mut bench = Bench::new(part(true));
        bench.join(&[]);
        bench.reply(Reply::Offer(Ok("o".into())));
        bench.refuse("configure", ALICE, code, "said no");
        assert_eq!(bench.failed(), (reason, &*format!("{code}: said no")));
        assert_eq!(bench.names().last().unwrap(), "destroy", "no ghost session stays behind");
    }
    for (code, reason) in [(403, FailReason::Unauthorized), (472, FailReason::Rejected)] {
        let mut bench = Bench::new(part(true));
        let error = json!({"code": code, "reason": "not you"});
        bench.hear(json!({"janus": "error", "transaction": bench.transaction("create"), "error": error}));
        assert_eq!(bench.failed(), (reason, &*format!("{code}: not you")));
        assert_eq!(bench.names(), ["create"]);
    }
}

#[test]
fn what_the_media_path_refuses_fails_the_join() {
    let mut bench = Bench::new(part(true));
    bench.join(&[]);
    bench.reply(Reply::Offer(Ok("o".into())));
    bench.plugin("configure", ALICE, json!({"videoroom": "event", "configured": "ok"}), None);
    assert_eq!(bench.failed().0, FailReason::BadSdp);

    let mut bench = Bench::new(part(true));
    bench.join(&[]);
    bench.reply(Reply::Offer(Err(MediaError::Local("no port".into()))));
    assert_eq!(bench.failed(), (FailReason::Local, "no port"));
}

#[test]
fn nonsense_fails_a_join_and_is_counted_in_a_call() {
    let mut bench = Bench::new(part(true));
    bench.machine.handle_text("<html>");
    bench.drain();
    assert_eq!(bench.failed().0, FailReason::BadAnswer);

    let mut bench = Bench::new(part(true));
    bench.publish();
    bench.machine.handle_text("<html>");
    bench.hear(json!({"janus": "brand-new"}));
    assert_eq!((bench.notes("janus_garbage"), bench.notes("janus_unknown")), (1, 1));
    assert_eq!(bench.ended(), None);

    let mut bench = Bench::new(part(true));
    bench.hear(json!({"janus": "success", "transaction": "t1", "data": {}}));
    assert_eq!(bench.failed().0, FailReason::BadAnswer);
}

#[test]
fn ends_that_the_server_made_are_told_apart() {
    let over = |message: Value| {
        let mut bench = Bench::new(part(true));
        bench.publish();
        bench.hear(message);
        let (cause, detail) = bench.over();
        (cause, detail.to_owned())
    };
    let hangup = over(json!({"janus": "hangup", "sender": ALICE, "reason": "DTLS alert"}));
    assert_eq!(hangup, (LegCause::ClosedByServer, "Janus hung up the publishing transport: DTLS alert".into()));
    assert_eq!(over(json!({"janus": "timeout", "session_id": SESSION})).0, LegCause::ClosedByServer);
    let plugin = |data: Value| json!({"janus": "event", "sender": ALICE, "plugindata": {"data": data}});
    let kicked = plugin(json!({"videoroom": "event", "leaving": "ok", "reason": "kicked"}));
    let destroyed = plugin(json!({"videoroom": "destroyed", "room": 1234}));
    for (put_out, detail) in [(kicked, "Janus: kicked out of the room"), (destroyed, "Janus: room destroyed")] {
        // Janus is not done with us: the session stays until it hangs up, or for a while.
        for hangs_up in [true, false] {
            let mut bench = Bench::new(part(true));
            bench.publish();
            bench.hear(put_out.clone());
            assert_eq!(bench.ended(), None);
            assert!(!bench.sent.iter().any(|sent| sent["janus"] == "destroy"));
            match hangs_up {
                true => bench.hear(json!({"janus": "hangup", "sender": ALICE, "reason": "Close PC"})),
                false => {
                    bench.machine.handle_timer(Timer::PutOut);
                    bench.drain();
                }
            }
            assert_eq!(bench.over(), (LegCause::ClosedByServer, detail));
            assert_eq!(bench.last()["janus"], "destroy");
        }
    }

    let mut bench = Bench::new(part(true));
    bench.publish();
    bench.machine.handle_closed("1006");
    bench.drain();
    assert_eq!(bench.over(), (LegCause::SignalingLost, "WebSocket closed: 1006"));

    let mut bench = Bench::new(part(true));
    bench.join(&[]);
    bench.machine.handle_closed("1006");
    bench.drain();
    assert_eq!(bench.failed().0, FailReason::Closed);
}

#[test]
fn a_watcher_that_joined_alone_stays_joined_while_its_first_feed_connects() {
    let mut bench = Bench::new(part(false));
    bench.join(&[]);
    bench.plugin("", ALICE, json!({"videoroom": "event", "publishers": [{"id": 10}]}), None);
    bench.succeed("attach subscriber", ALICE_RECEIVES);
    let offer = json!({"type": "offer", "sdp": "o"});
    bench.plugin("join subscriber", ALICE_RECEIVES, json!({"videoroom": "attached"}), Some(offer));
    bench.machine.handle_closed("1006");
    bench.drain();
    assert_eq!(bench.over().0, LegCause::SignalingLost);
}

#[test]
fn ends_of_a_transport_end_the_leg() {
    let over = |state: TransportState| {
        let mut bench = Bench::new(part(true));
        bench.publish();
        bench.order(Order::Transport { slot: PUBLISH, state });
        assert_eq!(bench.names().last().unwrap(), "destroy");
        bench.over().0
    };
    assert_eq!(over(TransportState::PeerClosed), LegCause::ClosedByServer);
    assert_eq!(over(TransportState::ConsentExpired), LegCause::ConsentExpired);

    let mut bench = Bench::new(part(true));
    bench.publish();
    let remote: SocketAddr = "10.77.0.1:21000".parse().unwrap();
    bench.order(Order::Transport { slot: PUBLISH, state: TransportState::IceConnected { remote } });
    assert_eq!(bench.ended(), None);

    let address: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let failures = [
        (Failure::Dtls("bad certificate".into()), FailReason::Dtls, LegCause::ClosedByServer),
        (Failure::Fingerprint, FailReason::Dtls, LegCause::ClosedByServer),
        (Failure::DtlsTimeout, FailReason::TimeoutDtls, LegCause::ConsentExpired),
        (Failure::IceTimeout, FailReason::TimeoutIce, LegCause::ConsentExpired),
        (Failure::NoAllowedCandidate(vec![address]), FailReason::NotAllowed, LegCause::ConsentExpired),
    ];
    for (failure, reason, cause) in failures {
        let state = TransportState::Failed { why: failure.to_string() };
        let mut joining = Bench::new(part(true));
        joining.join(&[]);
        joining.order(Order::Transport { slot: PUBLISH, state: state.clone() });
        assert_eq!(joining.failed().0, reason, "{failure}");
        // One that sends, and whose receiving transport never comes up.
        let mut joined = Bench::new(part(true));
        joined.publish();
        joined.order(Order::Transport { slot: SUBSCRIBE, state });
        assert_eq!(joined.over().0, cause, "{failure}");
    }
}

#[test]
fn a_leave_is_left_when_the_session_is_destroyed() {
    let mut bench = Bench::new(part(true));
    bench.publish();
    bench.order(Order::Leave);
    assert_eq!(bench.last()["body"], json!({"request": "leave"}));
    assert!(bench.did.contains(&Output::CloseMedia));
    // Others' events and hang-ups meanwhile are part of it.
    bench.hear(json!({"janus": "hangup", "sender": ALICE, "reason": "Close PC"}));
    bench.plugin("leave", ALICE, json!({"videoroom": "event", "leaving": "ok"}), None);
    assert_eq!(bench.ended(), None);
    bench.hear(json!({"janus": "success", "transaction": bench.transaction("destroy")}));
    assert_eq!(bench.over().0, LegCause::Left);
}

#[test]
fn a_leave_without_answer_still_destroys_and_ends_unacknowledged() {
    let mut bench = Bench::new(part(true));
    bench.publish();
    bench.order(Order::Leave);
    bench.timer(Timer::LeavePatience);
    assert_eq!(bench.names().last().unwrap(), "destroy");
    bench.timer(Timer::LeaveLimit);
    assert_eq!(bench.over().0, LegCause::LeftUnacknowledged);

    let mut bench = Bench::new(part(true));
    bench.publish();
    bench.order(Order::Leave);
    bench.machine.handle_closed("reset");
    bench.drain();
    assert_eq!(bench.over().0, LegCause::LeftUnacknowledged);
}

#[test]
fn a_leave_during_the_join_leaves_no_session() {
    let mut bench = Bench::new(part(true));
    bench.order(Order::Leave);
    assert_eq!(bench.names(), ["create"], "there is nothing to destroy yet");
    bench.succeed("create", SESSION);
    assert_eq!(bench.names(), ["create", "destroy"]);
    bench.hear(json!({"janus": "success", "transaction": bench.transaction("destroy")}));
    assert_eq!(bench.failed().0, FailReason::LeftEarly);
}

#[test]
fn a_join_that_hears_nothing_times_out_and_says_what_it_waited_for() {
    let mut bench = Bench::new(part(true));
    bench.succeed("create", SESSION);
    bench.timer(Timer::Join);
    assert_eq!(bench.failed(), (FailReason::TimeoutSignaling, "no answer to attachpublisher"));
    let mut bench = Bench::new(part(true));
    bench.publish();
    bench.timer(Timer::Join);
    assert_eq!(bench.ended(), None, "too late to fail");
}

#[test]
fn ice_restarts_on_both_transports() {
    let mut bench = Bench::new(part(true));
    bench.publish();
    bench.order(Order::RestartIce { slot: PUBLISH });
    assert!(bench.did.contains(&Output::MakeOffer { ice_restart: true }));
    bench.reply(Reply::Offer(Ok("restarted".into())));
    assert_eq!(bench.last()["jsep"], json!({"type": "offer", "sdp": "restarted"}));
    let answer = json!({"type": "answer", "sdp": "new"});
    bench.plugin("configure", ALICE, json!({"videoroom": "event", "configured": "ok"}), Some(answer));
    assert!(bench.did.contains(&Output::ApplyAnswer("new".into())));
    bench.reply(Reply::AnswerApplied(Ok(())));

    bench.plugin("", ALICE, json!({"videoroom": "event", "publishers": [{"id": 10}]}), None);
    bench.succeed("attach subscriber", ALICE_RECEIVES);
    let offer = || Some(json!({"type": "offer", "sdp": "o"}));
    bench.plugin("join subscriber", ALICE_RECEIVES, json!({"videoroom": "attached"}), offer());
    bench.reply(Reply::Answer(Ok("a".into())));
    bench.plugin("start", ALICE_RECEIVES, json!({"videoroom": "event", "started": "ok"}), None);
    bench.order(Order::RestartIce { slot: SUBSCRIBE });
    assert_eq!(bench.last()["handle_id"], json!(ALICE_RECEIVES));
    assert_eq!(bench.last()["body"], json!({"request": "configure", "restart": true}));
    bench.plugin("configure", ALICE_RECEIVES, json!({"videoroom": "event", "configured": "ok"}), offer());
    assert_eq!(bench.did.iter().filter(|o| matches!(o, Output::AcceptOffer(_))).count(), 2);
    assert_eq!(bench.signaled(), 1);
}

#[test]
fn candidates_wait_for_the_description() {
    let mut bench = Bench::new(part(true));
    bench.join(&[]);
    bench.reply(Reply::Offer(Ok("o".into())));
    let trickle = |line: &str| json!({"janus": "trickle", "sender": ALICE, "candidate": {"candidate": line}});
    bench.hear(trickle("candidate:1 1 udp 1 10.77.0.1 21000 typ host"));
    assert!(!bench.did.iter().any(|o| matches!(o, Output::Candidate { .. })));
    let answer = json!({"type": "answer", "sdp": "a"});
    bench.plugin("configure", ALICE, json!({"videoroom": "event", "configured": "ok"}), Some(answer));
    bench.hear(trickle("candidate:2 1 udp 1 10.77.0.1 21001 typ host"));
    let order: Vec<&Output> =
        bench.did.iter().filter(|o| matches!(o, Output::ApplyAnswer(_) | Output::Candidate { .. })).collect();
    let candidate = |text: &str| Output::Candidate { slot: PUBLISH, candidate: text.into() };
    assert_eq!(
        order,
        [
            &Output::ApplyAnswer("a".into()),
            &candidate("1 1 udp 1 10.77.0.1 21000 typ host"),
            &candidate("2 1 udp 1 10.77.0.1 21001 typ host")
        ]
    );
}

#[test]
fn an_acknowledgement_after_its_event_changes_nothing() {
    let mut bench = Bench::new(part(true));
    bench.join(&[]);
    let sent = bench.sent.len();
    bench.hear(json!({"janus": "ack", "transaction": bench.transaction("join publisher")}));
    bench.hear(json!({"janus": "ack", "transaction": "t999"}));
    bench.hear(json!({"janus": "ack", "transaction": "somebody else's"}));
    assert_eq!((bench.sent.len(), bench.ended()), (sent, None));
}

/// Mutates the captured texts and feeds them, with random orders and replies between: no panic, no endless output, and
/// nothing after the end.
#[test]
fn mutated_conversations_never_panic_or_run_away() {
    let mut texts: Vec<String> =
        CAPTURE.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].to_string()).collect();
    for extra in [
        json!({"janus": "event", "sender": ALICE, "plugindata": {"data": {"videoroom": "event", "error_code": 428,
               "error": "No such feed (99999999999999999999999)"}}}),
        json!({"janus": "trickle", "sender": ALICE, "candidate": {"candidate": "candidate:"}}),
        json!({"janus": "error", "transaction": "t1", "error": {"code": 458}}),
        json!({"janus": "timeout"}),
    ] {
        texts.push(extra.to_string());
    }
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bench = Bench::new(part(rng.random_bool(0.5)));
        for _ in 0..120 {
            let mut text = texts[rng.random_range(0..texts.len())].clone();
            if rng.random_bool(0.7) {
                // So that answers find their request now and then.
                let mut value: Value = serde_json::from_str(&text).unwrap();
                if value.get("transaction").is_some() {
                    value["transaction"] = json!(format!("t{}", rng.random_range(0..=bench.sent.len())));
                }
                text = value.to_string();
            }
            if rng.random_bool(0.4) {
                mutate(&mut text, &mut rng);
            }
            let over = bench.ended().is_some();
            let before = bench.sent.len() + bench.did.len();
            bench.machine.handle_text(&text);
            bench.drain();
            match rng.random_range(0..12) {
                0 => bench.reply(Reply::Offer(Ok("o".into()))),
                1 => bench.reply(Reply::AnswerApplied(Ok(()))),
                2 => bench.reply(Reply::Answer(Ok("a".into()))),
                3 => bench.reply(Reply::Answer(Err(MediaError::BadSdp("no".into())))),
                4 => bench.timer(Timer::Retry),
                5 => bench.order(Order::RestartIce { slot: rng.random_range(0..4) }),
                6 if rng.random_bool(0.05) => bench.order(Order::Leave),
                _ => {}
            }
            let said = bench.sent.len() + bench.did.len() - before;
            assert!(said < 60, "seed {seed}: {said} outputs for one message");
            assert!(!over || said == 0, "seed {seed}: speaks after its end");
        }
        let ends = bench.did.iter().filter(|o| matches!(o, Output::Ended(_))).count();
        assert!(ends <= 1, "seed {seed}");
    }
}

fn mutate(text: &mut String, rng: &mut ChaCha8Rng) {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..rng.random_range(1..6) {
        if chars.is_empty() {
            break;
        }
        let at = rng.random_range(0..chars.len());
        match rng.random_range(0..4) {
            0 => drop(chars.remove(at)),
            1 => chars[at] = char::from(rng.random_range(0x20u8..0x7f)),
            2 => chars.insert(at, ['"', '{', '}', '[', ']', ':', ',', '9', 'é', '\u{0}'][rng.random_range(0..10)]),
            _ => chars.truncate(at),
        }
    }
    *text = chars.into_iter().collect();
}
