//! Last-N: a server that shows only who talked last. What it leaves out, by its own word, is no loss.

use crate::sim::{Network, Sim, encoding, loses};
use roomful::impair::Conditions;
use roomful::media::talk::Floor;
use roomful::participant::TalkSpec;
use roomful::types::{Client, Codec, LegId};
use std::time::Duration;

const CLEAN: Network = [Conditions::PERFECT, Conditions::PERFECT];
const MS: fn(u64) -> Duration = Duration::from_millis;
const FLOOR: u64 = 77;

/// `seats` participants in one conversation, each in sound and picture, on a server with this last-N.
fn conversation(client: Client, seats: u32, last_n: u32) -> Sim {
    let mut sim = Sim::new(21, client, MS(15));
    sim.last_n(last_n);
    for seat in 0..seats {
        join(&mut sim, seats, seat, CLEAN);
    }
    sim
}

fn join(sim: &mut Sim, seats: u32, seat: u32, network: Network) -> usize {
    sim.talk = TalkSpec { floor: Some((FLOOR, seats, seat)), epoch: Some(sim.start), mutes: None };
    let (audio, video) = (encoding(Codec::Opus, 32), encoding(Codec::Vp8, 150));
    sim.join(Some(audio), Some(video), seats as u16 - 1, network)
}

fn end(sim: &mut Sim) {
    let all = (0..sim.members.len()).filter(|n| !sim.members[*n].gone);
    let all: Vec<usize> = all.collect();
    all.iter().for_each(|n| sim.quiet(*n));
    sim.run(MS(2500));
    all.iter().for_each(|n| drop(sim.leave(*n)));
    sim.run(MS(200));
}

#[test]
fn who_talks_is_shown_and_the_rest_is_no_loss() {
    for (client, last_n) in [(Client::Chrome, 1), (Client::LivekitJs, 2)] {
        let mut sim = conversation(client, 4, last_n);
        sim.run(Duration::from_secs(45));
        // Whoever is shown newly has been talking until just now.
        let mut floor = Floor::new(FLOOR, 4);
        let mut shown: Vec<Vec<LegId>> = vec![vec![]; 4];
        let mut switches = 0;
        for (at, receiver, senders) in sim.told.clone() {
            assert!(senders.len() <= last_n as usize && !senders.contains(&LegId(receiver as u32)), "{senders:?}");
            let at = at.duration_since(sim.start);
            let new: Vec<LegId> = senders.iter().filter(|s| !shown[receiver].contains(s)).copied().collect();
            shown[receiver] = senders;
            if at < MS(3000) {
                continue;
            }
            for sender in new {
                // It takes 200 ms of speech, and some time until the server hears it.
                let ago = (40..=220).step_by(20).map(|ms| (at - MS(ms)).as_nanos() as u64);
                let talked = ago.filter(|ns| floor.talks(*ns, sender.0)).count();
                assert!(talked >= 9, "{client:?} {receiver} is shown {sender} at {at:?}: {talked} of 10");
                switches += 1;
            }
        }
        assert!(switches > 20, "{switches}");
        assert!(sim.sfu.stats().speaker_switches >= switches, "{:?}", sim.sfu.stats());

        // Somebody leaves whom others see; somebody else takes the place.
        let seen = shown[0][0].0 as usize;
        sim.quiet(seen);
        sim.run(MS(300));
        sim.leave(seen);
        sim.run(Duration::from_secs(5));
        let (.., now) = sim.told.iter().rfind(|t| t.1 == 0).unwrap();
        assert!(now.len() == last_n as usize && !now.contains(&LegId(seen as u32)), "{now:?}");
        end(&mut sim);
        for (n, m) in sim.members.iter().enumerate() {
            let [audio, video] = &m.counts;
            assert_eq!(audio.e2e_expected, audio.e2e_received, "{client:?} {n}: {audio:?}");
            assert_eq!(video.e2e_expected, video.e2e_received, "{client:?} {n}: {video:?}");
            assert_eq!(video.rtp_expected, video.rtp_received, "{client:?} {n}: {video:?}");
            assert!(video.paused > 4 && video.freezes == 0, "{client:?} {n}: {video:?}");
            // What is shown is most of what comes; the rest is each new sender's first frame, up to its stamp.
            assert!(video.e2e_expected * 10 > video.received * 7, "{client:?} {n}: {video:?}");
            let all = 3 * video.sent;
            assert!(video.received < all / 3 * i64::from(last_n) + all / 10, "{client:?} {n}: {video:?}");
            let gap = m.totals.as_ref().unwrap().longest_gap.0;
            assert!(gap < 400.0, "{client:?} {n}: {gap} ms");
        }
    }
}

/// The word comes a little late (nobody is gone for less than it takes to talk oneself back), or far too late, or not at all: then it is loss as any other.
#[test]
fn what_is_left_out_without_a_word_is_loss() {
    for (word, lossy) in [(Some(MS(150)), false), (Some(MS(6000)), true), (None, true)] {
        let mut sim = conversation(Client::Chrome, 3, 1);
        sim.word_after = word;
        sim.run(Duration::from_secs(30));
        end(&mut sim);
        let (mut expected, mut received) = (0, 0);
        for m in &sim.members {
            expected += m.counts[1].e2e_expected;
            received += m.counts[1].e2e_received;
            assert_eq!(m.counts[0].e2e_loss(), Some(0.0), "sound is everybody's");
        }
        let loss = 1.0 - received as f64 / expected as f64;
        assert_eq!(loss > 0.1, lossy, "{word:?}: {loss}");
        assert!(lossy || expected == received, "{word:?}: {loss}");
    }
}

/// A server that names more than it forwards: what was promised and does not come is lost.
#[test]
fn a_promise_that_is_not_kept_is_loss() {
    let mut sim = conversation(Client::Chrome, 3, 1);
    sim.words_name_all = true;
    sim.run(Duration::from_secs(30));
    end(&mut sim);
    for (n, m) in sim.members.iter().enumerate() {
        let loss = m.counts[1].e2e_loss().unwrap();
        assert!((0.3..0.6).contains(&loss), "{n}: one of two senders comes: {loss}");
    }
}

/// What the network drops of what is shown is loss all the same.
#[test]
fn loss_of_what_is_shown_is_loss() {
    let mut sim = Sim::new(22, Client::Chrome, MS(15));
    sim.last_n(1);
    for seat in 0..3 {
        join(&mut sim, 3, seat, [CLEAN[0], loses(if seat == 2 { 0.05 } else { 0.0 })]);
    }
    sim.run(Duration::from_secs(40));
    end(&mut sim);
    let c = &sim.members[2].counts[1];
    let before = 1.0 - c.rtp_received as f64 / c.rtp_expected as f64;
    assert!((0.02..0.09).contains(&before) && c.recovered > 20, "{before} {c:?}");
    assert_eq!(sim.members[1].counts[1].e2e_loss(), Some(0.0));
}

/// A client without audio levels tells nobody who talks: the first ones stay.
#[test]
fn without_audio_levels_nobody_is_put_in_front() {
    let mut sim = conversation(Client::Light, 3, 1);
    sim.run(Duration::from_secs(5));
    let before = sim.sfu.stats().speaker_switches;
    sim.run(Duration::from_secs(15));
    assert_eq!(sim.sfu.stats().speaker_switches, before);
    end(&mut sim);
    for (n, m) in sim.members.iter().enumerate() {
        let c = &m.counts[1];
        assert_eq!(c.e2e_expected, c.e2e_received, "{n}: {c:?}");
        assert!(c.e2e_expected > 300, "{n}: {c:?}");
    }
}
