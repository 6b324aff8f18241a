//! The Janus driver against a real Janus: rooms, joins, refusals, ends. The media path is text only, so that what is
//! tested is the signalling.

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;

use roomful::history::{FailReason, LegCause};
use roomful::profile::{ExternalTarget, Secret, ServerEntry};
use roomful::signaling::janus::JanusDriver;
use roomful::signaling::{Driver, Ended, Order, Progress, driver};
use roomful::types::{Client, RoomId};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::chromium::{Chromium, serve_pages};
use support::janus::{ADMIN_KEY, Janus};
use support::leg::{Asked, TextLeg, room};
use support::{netns, until};

fn janus_driver(servers: &[&Janus], admin_key: &str) -> JanusDriver {
    let entry = |janus: &&Janus| ServerEntry {
        id: janus.name.clone(),
        url: janus.url.clone(),
        admin: None,
        pid_file: None,
        metrics: None,
        observe: vec![],
        cores: None,
    };
    let secrets = BTreeMap::from([("admin_key".to_owned(), Secret(admin_key.to_owned()))]);
    let servers = servers.iter().map(entry).collect();
    JanusDriver::new(servers, &secrets, Client::Chrome, true, Duration::from_secs(10)).unwrap()
}

async fn sessions(janus: &Janus, count: usize) {
    until(&format!("{} has {count} sessions", janus.name), Duration::from_secs(10), async || {
        (janus.admin.list_sessions().await.len() == count).then_some(())
    })
    .await;
}

async fn exists(janus: &Janus, id: u64) -> bool {
    janus.ask(json!({"request": "exists", "room": id})).await["exists"] == true
}

fn assert_over(ended: &Ended, wanted: LegCause) {
    assert!(matches!(ended, Ended::Over { cause, .. } if *cause == wanted), "{ended:?}");
}

fn assert_failed(ended: &Ended, wanted: FailReason, words: &str) {
    let right = matches!(ended, Ended::Failed { reason, detail } if *reason == wanted && detail.contains(words));
    assert!(right, "{ended:?}");
}

/// Two servers; watchers with nobody to watch join, are seen by the server, and leave nothing behind.
#[test]
fn watchers_join_and_leave_and_rooms_go() {
    netns::inside("watchers_join_and_leave_and_rooms_go", async || {
        let fleet = [Janus::start(0).await, Janus::start(1).await];
        let janus = Arc::new(janus_driver(&[&fleet[0], &fleet[1]], ADMIN_KEY));
        assert_eq!(janus.hosts(), [netns::address(1)]);
        let rooms = [room(0, 3, 0), room(1, 3, 0)];
        janus.prepare(&rooms).await.unwrap();
        for server in &fleet {
            sessions(server, 0).await;
        }
        let (first, second) = (janus.room(RoomId(0)).unwrap(), janus.room(RoomId(1)).unwrap());
        assert_eq!((first.1, second.1), ("janus-1", "janus-2"));
        assert!(exists(&fleet[0], first.0).await && exists(&fleet[1], second.0).await);
        assert!(!exists(&fleet[1], first.0).await);

        let mut legs: Vec<TextLeg> = (0..3).map(|n| TextLeg::start(janus.clone(), &rooms[0], n, false)).collect();
        for leg in &mut legs {
            leg.signaled().await;
            assert_eq!(leg.reported[0], Progress::Server("janus-1".to_owned()));
            assert!(matches!(leg.reported[1], Progress::Started(_)));
            assert!(leg.asked().is_empty(), "nothing to negotiate");
        }
        sessions(&fleet[0], 3).await;
        let listed = fleet[0].ask(json!({"request": "listparticipants", "room": first.0})).await;
        let mut names: Vec<&str> =
            listed["participants"].as_array().unwrap().iter().map(|p| p["display"].as_str().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["meeting-0/p0", "meeting-0/p1", "meeting-0/p2"]);
        for leg in legs {
            assert_over(&leg.leave().await, LegCause::Left);
        }
        sessions(&fleet[0], 0).await;
        let (first, second) = (first.0, second.0);
        janus.finish().await;
        assert!(!exists(&fleet[0], first).await && !exists(&fleet[1], second).await);
        for server in fleet {
            server.stop().await;
        }
    });
}

/// A publisher's offer gets Janus's answer; a restart is a second negotiation; the server's ends are told apart.
#[test]
fn publishers_negotiate_and_ends_are_told_apart() {
    netns::inside("publishers_negotiate_and_ends_are_told_apart", async || {
        let mut server = Janus::start(0).await;
        let janus = Arc::new(janus_driver(&[&server], ADMIN_KEY));
        let plan = room(0, 4, 4);
        janus.prepare(std::slice::from_ref(&plan)).await.unwrap();
        let mut restarted = TextLeg::start(janus.clone(), &plan, 0, true);
        restarted.signaled().await;
        restarted.connected(0);
        let answers = |leg: &TextLeg| {
            let asked = leg.asked();
            let answers = asked.into_iter().filter_map(|a| if let Asked::AcceptAnswer(s) = a { Some(s) } else { None });
            answers.collect::<Vec<_>>()
        };
        let answer = answers(&restarted).remove(0);
        assert!(answer.contains("m=audio") && answer.contains("m=video") && answer.contains("a=recvonly"));
        let candidate = format!(" {} ", netns::address(1));
        assert!(answer.lines().any(|line| line.starts_with("a=candidate:") && line.contains(&candidate)), "{answer}");

        restarted.order(Order::RestartIce { slot: 0 });
        until("the restart is answered", Duration::from_secs(10), async || {
            (answers(&restarted).len() == 2).then_some(())
        })
        .await;
        let ufrag = |sdp: &str| sdp.lines().find(|l| l.starts_with("a=ice-ufrag:")).unwrap().to_owned();
        assert_ne!(ufrag(&answers(&restarted)[1]), ufrag(&answer), "new credentials");
        assert!(matches!(restarted.asked()[2], Asked::Offer { ice_restart: true }));
        assert_over(&restarted.leave().await, LegCause::Left);
        sessions(&server, 0).await;

        let mut hung_up = TextLeg::start(janus.clone(), &plan, 1, true);
        hung_up.signaled().await;
        hung_up.connected(0);
        let session = server.admin.list_sessions().await[0];
        let handle = server.admin.list_handles(session).await[0];
        server.admin.hangup_webrtc(session, handle).await;
        assert_over(&hung_up.end().await, LegCause::ClosedByServer);
        sessions(&server, 0).await;

        let mut killed = TextLeg::start(janus.clone(), &plan, 2, true);
        killed.signaled().await;
        killed.connected(0);
        let mut unconnected = TextLeg::start(janus.clone(), &plan, 3, true);
        unconnected.signaled().await;
        server.signal("KILL");
        assert_over(&killed.end().await, LegCause::SignalingLost);
        assert_failed(&unconnected.end().await, FailReason::Closed, "WebSocket closed");
        server.ended().await;
        let refused = TextLeg::start(janus.clone(), &plan, 4, true).end().await;
        assert_failed(&refused, FailReason::Refused, &server.url);
        // Nothing to remove any more, and nothing to wait for.
        janus.finish().await;
    });
}

#[test]
fn refusals_name_what_refused() {
    netns::inside("refusals_name_what_refused", async || {
        let server = Janus::start(0).await;
        let plan = room(0, 2, 2);
        let error = janus_driver(&[&server], "wrong").prepare(std::slice::from_ref(&plan)).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("janus-1") && error.contains("meeting-0") && error.contains("433"), "{error}");

        let janus = Arc::new(janus_driver(&[&server], ADMIN_KEY));
        janus.prepare(std::slice::from_ref(&plan)).await.unwrap();
        // Twice is fine.
        janus.prepare(std::slice::from_ref(&plan)).await.unwrap();
        server.admin.accept_new_sessions(false).await;
        assert_failed(&TextLeg::start(janus.clone(), &plan, 0, false).end().await, FailReason::Rejected, "472");
        let error = format!("{:#}", janus.prepare(std::slice::from_ref(&plan)).await.unwrap_err());
        assert!(error.contains("janus-1") && error.contains("accept_new_sessions"), "{error}");
        server.admin.accept_new_sessions(true).await;

        let (id, _) = janus.room(plan.id).unwrap();
        let mut inside = TextLeg::start(janus.clone(), &plan, 1, false);
        inside.signaled().await;
        server.ask(json!({"request": "destroy", "room": id})).await;
        assert_over(&inside.end().await, LegCause::ClosedByServer);
        assert_failed(&TextLeg::start(janus.clone(), &plan, 2, true).end().await, FailReason::Rejected, "426");
        sessions(&server, 0).await;

        // Through the registry, as a run does it.
        let mut target = ExternalTarget::of(
            "janus",
            vec![ServerEntry {
                id: "j".to_owned(),
                url: server.url.clone(),
                admin: None,
                pid_file: None,
                metrics: None,
                observe: vec![],
                cores: None,
            }],
        );
        assert_eq!(driver(&target, Client::Light, Duration::from_secs(5)).unwrap().name(), "janus");
        target.driver = "jupiter".to_owned();
        let error = driver(&target, Client::Light, Duration::from_secs(5)).err().unwrap().to_string();
        assert!(error.contains("jupiter") && error.contains("janus"), "{error}");
        server.stop().await;
    });
}

/// A browser publishes in a room of the driver's: watchers subscribe when it comes and hear when it goes; a second
/// publisher finds the room full.
#[test]
fn a_browser_comes_and_goes_and_fills_the_room() {
    netns::inside("a_browser_comes_and_goes_and_fills_the_room", async || {
        let server = Janus::start(0).await;
        let janus = Arc::new(janus_driver(&[&server], ADMIN_KEY).with_spare_publishers(0));
        let plan = room(0, 3, 1);
        janus.prepare(std::slice::from_ref(&plan)).await.unwrap();
        let (id, _) = janus.room(plan.id).unwrap();
        let mut early = TextLeg::start(janus.clone(), &plan, 0, false);
        early.signaled().await;

        let pages = serve_pages().await;
        let chromium = Chromium::start(9515).await;
        chromium.open(&format!("http://{pages}/janus.html?ws={}&room={id}&people=ann", server.url)).await;
        until("the early watcher is offered the browser's feed", Duration::from_secs(60), async || {
            (early.offers().len() == 1).then_some(())
        })
        .await;
        assert_eq!(early.offers()[0].matches("a=sendonly").count(), 2, "audio and video");
        let mut late = TextLeg::start(janus.clone(), &plan, 1, false);
        late.signaled().await;
        assert_eq!(late.offers().len(), 1);

        let full = TextLeg::start(janus.clone(), &plan, 2, true).end().await;
        assert_failed(&full, FailReason::Full, "432");

        late.order(Order::RestartIce { slot: 1 });
        until("Janus offers with new credentials", Duration::from_secs(10), async || {
            (late.offers().len() == 2).then_some(())
        })
        .await;

        assert_eq!(chromium.eval_json("window.leave()").await, true);
        until("both are offered inactive m-lines", Duration::from_secs(10), async || {
            let last = |leg: &TextLeg| leg.offers().pop().unwrap();
            [&early, &late].iter().all(|leg| last(leg).matches("a=inactive").count() == 2).then_some(())
        })
        .await;
        for leg in [early, late] {
            // The text behind slot 1 never connected; to the driver, one of them did.
            leg.connected(1);
            assert_over(&leg.leave().await, LegCause::Left);
        }
        sessions(&server, 0).await;
        chromium.quit().await;
        janus.finish().await;
        assert!(!exists(&server, id).await);
        server.stop().await;
    });
}
