//! The impairer as a stage inside the engine (`network` in a profile). It keeps no log, so another impairer that does
//! nothing stands in front of the server and writes down what passes. What the stage lost on the way up are the gaps in
//! that. On the way down it is computed: the stage is seeded, so the same link, given the same datagrams, does the same.

use crate::real::{Ran, SEED};
use crate::table::Check;
use crate::truth::{OPUS, streams};
use roomful::history::{Event, LegEnd};
use roomful::impair::{Cause, Conditions, Link, Record, seed};

/// Whether it does nothing on the way up. Else it is not known when what it lost of video, and what was sent again, had been
/// sent first.
pub fn spares_up(stage: &str) -> bool {
    roomful::profile::network::parse(stage).unwrap().iter().all(|n| n.up == Conditions::PERFECT)
}

/// The run with the log that the stage would have kept, and what it counted against that.
pub fn with_log(stage: &str, mut ran: Ran) -> (Ran, Vec<Check>) {
    let networks = roomful::profile::network::parse(stage).unwrap();
    let [network] = &networks[..] else { panic!("one network") };
    let server = ran.server();
    let ends = ran.lines.iter().filter_map(|l| if let Event::LegEnd(e) = &l.event { Some(e) } else { None });
    let ends: Vec<&LegEnd> = ends.filter(|e| e.server == Some(server)).collect();
    let [sender, receiver] = [0, 1].map(|way| *ends.iter().find(|e| (e.audio.sent > 0) == (way == 0)).unwrap());
    let is_audio = |r: &&Record| r.is_rtp() && r.payload_type() == OPUS;
    let mut checks = Vec::new();
    for records in ran.records.values_mut() {
        // What the participant sent and the stage kept: gaps, and what is missing at the end.
        if let Some(stream) = streams(&records[0], &[OPUS]).into_values().next() {
            let passed: Vec<Record> = records[0].iter().filter(is_audio).copied().collect();
            let seen: std::collections::BTreeSet<i64> = stream.packets.iter().map(|p| p.seq).collect();
            let first = *seen.first().unwrap();
            // Nothing is lost in the first seconds, so the first one came.
            for seq in (first..first + sender.audio.sent).filter(|n| !seen.contains(n)) {
                let mut lost = Record { left_ns: 0, lost: Some(Cause::Loss), ..passed[0] };
                lost.head[2..4].copy_from_slice(&(seq as u16).to_be_bytes());
                let behind = stream.packets.iter().rposition(|p| p.seq < seq).map_or(0, |n| n + 1);
                lost.came_ns = passed[behind - 1].came_ns;
                // In the order of sending, as a log is.
                let at = records[0].iter().position(|r| *r == passed[behind - 1]).unwrap() + 1;
                let at = at + records[0][at..].iter().take_while(|r| is_audio(r) && r.lost.is_some()).count();
                records[0].insert(at, lost);
            }
        }
        if !records[1].iter().any(|r| is_audio(&r)) {
            continue;
        }
        let mut passed = std::mem::take(&mut records[1]);
        passed.sort_by_key(|r| r.left_ns);
        let mut link = Link::new(network.down, seed(SEED, receiver.leg.0.into(), 1)).recorded();
        // The last ones came when the participant had left.
        let counted = receiver.impaired.unwrap()[1];
        let datagrams = [passed.len() as f64, counted.received as f64];
        checks.push(Check::within("stage down: datagrams", datagrams[0], datagrams[1], 4.0, ""));
        for r in passed.iter().take(counted.received as usize) {
            let mut datagram = vec![0; usize::from(r.len)];
            let n = datagram.len().min(r.head.len());
            datagram[..n].copy_from_slice(&r.head[..n]);
            link.offer(r.left_ns, &datagram);
        }
        records[1] = link.records().copied().collect();
        let log = link.counters();
        for (what, log, counted) in
            [("stage down: lost", log.lost, counted.lost), ("stage down: doubled", log.duplicated, counted.duplicated)]
        {
            checks.push(Check::exact(what, log as i64, counted as i64));
        }
    }
    (ran, checks)
}
