//! One line a second while a run goes.

use crate::history::{Health, Interval, Phase};
use crate::measure::{Flow, Hist};
use crate::verdict::{clock, number};
use std::fmt::Write;

/// What the line says; shares in percent, times in ms, `None` where there is nothing yet.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// ms since the start of the run.
    pub t_ms: f64,
    pub phase: Phase,
    /// Participants that are meant to be in when all have joined.
    pub planned: u32,
    pub connected: u32,
    pub joining: u32,
    pub failed: u32,
    pub dropped: u32,
    pub audio: MediaProgress,
    pub video: MediaProgress,
    /// CPU of the busiest shard.
    pub cpu: f64,
    pub lateness_p99: Option<f64>,
    /// The second is inconclusive.
    pub unhealthy: bool,
}

/// The last second of one kind, all servers together.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct MediaProgress {
    pub loss: Option<f64>,
    pub delay_p99: Option<f64>,
}

impl Progress {
    /// From the last second's lines of the history, and what only the engine knows.
    pub fn of(t_ms: f64, phase: Phase, planned: u32, interval: &Interval, health: &Health) -> Progress {
        let (mut audio, mut video, mut lateness) = (Flow::default(), Flow::default(), Hist::new());
        for s in &interval.servers {
            audio.merge(&s.audio);
            video.merge(&s.video);
        }
        for shard in &health.shards {
            lateness.merge(&shard.send_lateness);
        }
        Progress {
            t_ms,
            phase,
            planned,
            connected: interval.connected,
            joining: interval.joining,
            failed: 0,
            dropped: 0,
            audio: MediaProgress::of(&audio),
            video: MediaProgress::of(&video),
            cpu: health.shards.iter().map(|s| s.cpu * 100.0).fold(0.0, f64::max),
            lateness_p99: lateness.quantile_ms(0.99),
            unhealthy: !health.unhealthy.is_empty(),
        }
    }
}

impl MediaProgress {
    fn of(flow: &Flow) -> MediaProgress {
        let loss = flow.count.e2e_loss().or_else(|| flow.count.rtp_loss());
        MediaProgress { loss: loss.map(|l| l * 100.0), delay_p99: flow.delay.quantile_ms(0.99) }
    }
}

/// `00:12 warm-up  48/60 connected, 3 joining, 0 failed | audio loss 0.00 % delay p99 3.1 ms | video … | gen 23 % late
/// p99 0.4 ms`, without colours or line end.
pub fn progress_line(p: &Progress) -> String {
    let phase = match p.phase {
        Phase::Warmup => "warm-up",
        Phase::Hold => "hold",
        Phase::Leaving => "leaving",
    };
    let mut line = format!("{} {phase:<7}  {}/{} connected", clock(p.t_ms), p.connected, p.planned);
    if p.joining > 0 {
        let _ = write!(line, ", {} joining", p.joining);
    }
    let _ = write!(line, ", {} failed", p.failed);
    if p.dropped > 0 {
        let _ = write!(line, ", {} dropped", p.dropped);
    }
    for (kind, m) in [("audio", p.audio), ("video", p.video)] {
        if let Some(loss) = m.loss {
            let _ = write!(line, " | {kind} loss {loss:.2} %");
            if let Some(ms) = m.delay_p99 {
                let _ = write!(line, " delay p99 {} ms", number(ms));
            }
        }
    }
    let _ = write!(line, " | gen {:.0} %", p.cpu);
    if let Some(ms) = p.lateness_p99 {
        let _ = write!(line, " late p99 {} ms", number(ms));
    }
    if p.unhealthy {
        line += " UNHEALTHY";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Event;
    use crate::history::synthetic::Synthetic;

    #[test]
    fn says_what_happens_now() {
        let p = Progress {
            t_ms: 12_000.0,
            phase: Phase::Warmup,
            planned: 60,
            connected: 48,
            joining: 3,
            failed: 0,
            dropped: 0,
            audio: MediaProgress { loss: Some(0.0), delay_p99: Some(3.1) },
            video: MediaProgress::default(),
            cpu: 23.4,
            lateness_p99: Some(0.4),
            unhealthy: false,
        };
        assert_eq!(
            progress_line(&p),
            "00:12 warm-up  48/60 connected, 3 joining, 0 failed | audio loss 0.00 % delay p99 3.1 ms | gen 23 % late p99 0.4 ms"
        );
        let p = Progress { phase: Phase::Hold, joining: 0, dropped: 2, unhealthy: true, ..p };
        let line = progress_line(&p);
        assert!(
            line.starts_with("00:12 hold     48/60 connected, 0 failed, 2 dropped |") && line.ends_with("UNHEALTHY"),
            "{line}"
        );
    }

    #[test]
    fn is_made_from_the_histories_lines() {
        let lines = Synthetic { loss: Some((0, 19..20, 0.5)), ..Synthetic::default() }.lines();
        let at_20 = |t: f64| (19_999.0..20_001.0).contains(&t);
        let interval = lines.iter().filter(|l| at_20(l.t)).find_map(|l| match &l.event {
            Event::Interval(i) => Some(i.clone()),
            _ => None,
        });
        let health = lines.iter().filter(|l| at_20(l.t)).find_map(|l| match &l.event {
            Event::Health(h) => Some(h.clone()),
            _ => None,
        });
        let p = Progress::of(20_000.0, Phase::Hold, 12, &interval.unwrap(), &health.unwrap());
        assert_eq!((p.connected, p.audio.loss, p.video.loss), (12, Some(25.0), Some(0.0)));
        assert!(p.cpu > 5.0 && p.lateness_p99.is_some_and(|ms| ms < 1.0));
    }
}
