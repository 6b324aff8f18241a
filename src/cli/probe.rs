//! `roomful check --probe`: one participant joins, and says what it met.

use super::check::CheckArgs;
use super::exit;
use super::stage::Stage;
use crate::history::{Event, Line};
use crate::plan::{self, Plan};
use crate::profile::{self, Profile};
use crate::types::mask_urls;
use anyhow::Result;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long the participant stays once it may have joined.
const STAY: Duration = Duration::from_secs(2);

/// Gives the exit code: 0 joined, 3 not joined, 2 bad profile.
pub fn run(args: &CheckArgs) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    let profile = match profile::load(&args.profile, &args.sets) {
        Ok(p) => Arc::new(p),
        Err(e) => {
            writeln!(std::io::stderr(), "{e}")?;
            return Ok(exit::BAD_PROFILE);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let lines = runtime.block_on(probe(&profile))?;
    let (text, joined) = describe(&lines, &profile);
    write!(out, "{}", mask_urls(&text))?;
    Ok(if joined { exit::PASS } else { exit::FAIL })
}

async fn probe(profile: &Arc<Profile>) -> Result<Vec<Line>> {
    let stage = Stage::set(profile.clone(), Arc::new(one_leg(profile)), std::future::pending()).await?;
    let mut lines = Vec::new();
    let decided = Notify::new();
    let mut record = |l: Line| {
        if matches!(l.event, Event::Joined { .. } | Event::JoinFailed(_)) {
            decided.notify_one();
        }
        lines.push(l);
    };
    let enough = async {
        decided.notified().await;
        tokio::time::sleep(STAY).await;
    };
    let r = stage.conductor.run(&mut record, &mut |_| {}, enough).await;
    stage.strike().await;
    r?;
    Ok(lines)
}

/// The first sending leg of the plan (or the first leg), alone in its room.
fn one_leg(profile: &Profile) -> Plan {
    let mut plan = plan::plan(profile);
    let until = profile.load.join_timeout + 2 * STAY;
    let first = plan.legs.iter().position(plan::PlannedLeg::sends).unwrap_or(0);
    let mut leg = plan.legs.swap_remove(first);
    let mut room = plan.rooms[leg.room.index()].clone();
    (leg.id, leg.room, room.id) = (crate::types::LegId(0), crate::types::RoomId(0), crate::types::RoomId(0));
    (leg.join_at, leg.leave_at) = (Duration::ZERO, until);
    room.name = format!("probe-{}", room.name);
    Plan { seed: plan.seed, rooms: vec![room], legs: vec![leg], hold_from: Duration::ZERO, hold_until: until }
}

fn describe(lines: &[Line], profile: &Profile) -> (String, bool) {
    let (mut s, mut joined) = (String::new(), false);
    let mut names = Vec::new();
    for l in lines {
        // Writing to a String can't fail.
        let _ = match &l.event {
            Event::Server(i) => {
                names.push(i.name.clone());
                Ok(())
            }
            Event::JoinStart { leg, .. } => {
                let sends: Vec<String> = [leg.audio, leg.video].iter().flatten().map(ToString::to_string).collect();
                writeln!(s, "client     {:?}, sends {}", profile.client, sends.join(" and "))
            }
            Event::Joined { server, suite, remote, setup, .. } => {
                joined = true;
                let name = names.get(server.index()).map_or("?", String::as_str);
                let _ = writeln!(s, "server     {name}");
                let _ = writeln!(s, "media to   {}", remote.as_deref().unwrap_or("none: nobody else is in the room"));
                let _ = writeln!(s, "suite      {}", suite.map_or("none", |x| x.as_str()));
                writeln!(
                    s,
                    "set-up     {:.0} ms: signalling {:.0}, ICE {:.0}, DTLS {:.0}",
                    setup.total_ms, setup.signaling_ms, setup.ice_ms, setup.dtls_ms
                )
            }
            Event::JoinFailed(f) => writeln!(s, "not joined after {:.0} ms: {}", f.after_ms, f.detail),
            Event::LegEnd(e) => writeln!(
                s,
                "sent       {} audio and {} video packets, {} retransmitted, {} key frames asked for",
                e.audio.sent,
                e.video.sent,
                e.audio.retransmitted + e.video.retransmitted,
                e.video.plis_received + e.video.firs_received
            ),
            Event::Note { text, count, .. } => writeln!(s, "note       {text} ({count}×)"),
            _ => Ok(()),
        };
    }
    (s, joined)
}
