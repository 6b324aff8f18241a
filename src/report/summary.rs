//! `summary.json`: a contract. Keys are added, never renamed; a path in it is a threshold's name.

use crate::verdict::{
    AudioMetrics, FailureRow, FleetUse, Generator, Hold, Joins, Judgement, Legs, NoteRow, Outcome, Participants,
    Relays, RoomRow, ScaleIn, ServerRow, SetupMetrics, Verdict, VideoMetrics,
};
use serde::{Serialize, Serializer};

/// Version of the format of `summary.json`.
pub const SCHEMA: u32 = 1;

/// Times in ms, shares in percent, rates per minute or second; `null` where there is no data.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub schema: u32,
    pub tool: Tool,
    pub run: Run,
    pub units: Units,
    pub verdict: Verdict,
    pub sentence: String,
    pub reasons: Vec<String>,
    pub pass: Vec<Outcome>,
    pub participants: Participants,
    pub joins: Joins,
    pub setup: SetupMetrics,
    pub audio: AudioMetrics,
    pub video: VideoMetrics,
    pub legs: Legs,
    pub generator: Generator,
    /// TURN: allocations, and media by the way it took. All null where nobody was relayed.
    pub relays: Relays,
    pub servers: Vec<ServerRow>,
    /// Worst first, by loss and then delay.
    pub rooms_worst: Vec<RoomRow>,
    /// Failed joins by reason, with the first of each.
    pub failures: Vec<FailureRow>,
    pub notes: Vec<NoteRow>,
    /// Of shape capacity: everything above describes the load that held. Null for other shapes.
    pub capacity: Option<crate::capacity::Answer>,
    /// Of shape scale-in. Null for other shapes.
    pub scale_in: Option<ScaleIn>,
    /// What the servers used while they were judged, all together. Null where nobody observed it.
    pub usage: Option<FleetUse>,
    pub limits: serde_json::Value,
}

#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    pub name: &'static str,
    /// The version that made the history.
    pub version: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub id: String,
    pub profile: String,
    pub shape: String,
    pub seed: u64,
    /// The profile with every default, as TOML without secrets: with the seed, all that is needed to run it again.
    pub resolved: String,
    pub started_at: String,
    /// Length of the run.
    pub wall: f64,
    pub hold: Hold,
    pub interrupted: bool,
    /// False: the history has no end, roomful crashed or was killed.
    pub ended: bool,
}

/// Written as a table from path to unit.
#[derive(Clone, Copy, Debug)]
pub struct Units;

impl Serialize for Units {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let bare = [
            ("run.wall", "ms"),
            ("run.hold.*", "ms"),
            ("pass[].margin", "percent"),
            ("pass[].window.*", "ms"),
            ("audio.lossy_legs_inconclusive", "count"),
            ("video.lossy_legs_inconclusive", "count"),
            ("pass[].value", "that in pass[].unit"),
            ("pass[].limit", "that in pass[].unit"),
            ("pass[].window_seconds", "seconds"),
            ("pass[].legs", "count"),
            ("servers[].participants_max", "count"),
            ("servers[].rooms_max", "count"),
            ("notes[].count", "count"),
            ("video.layer_switches", "count"),
        ];
        let mos = [
            ("audio.mos.{min,p5,p50}", "score"),
            ("audio.mos.count", "count"),
            ("audio.mos.jitter_buffer", "ms"),
            ("audio.mos.coefficients.codec_delay", "ms"),
            ("audio.mos.coefficients.{ie,bpl}", "E-model factor"),
        ];
        let mos = mos.iter().flat_map(|(pattern, unit)| expand(pattern).into_iter().map(move |path| (path, *unit)));
        let rooms = [
            ("rooms_worst[].audio_loss", "percent"),
            ("rooms_worst[].audio_lossy_legs_share", "percent"),
            ("rooms_worst[].video_loss", "percent"),
            ("rooms_worst[].video_lossy_legs_share", "percent"),
            ("rooms_worst[].delay_max", "ms"),
            ("rooms_worst[].silence_max", "ms"),
        ];
        let steps = [
            ("video.paused", "count"),
            ("video.steps.down", "count"),
            ("video.steps.up", "count"),
            ("video.steps.below_share", "percent"),
        ];
        let own =
            |all: Vec<(&str, &'static str)>| all.into_iter().map(|(path, unit)| (path.to_owned(), unit)).collect();
        let [bare, rooms, steps]: [Vec<_>; 3] = [bare.to_vec(), rooms.to_vec(), steps.to_vec()].map(own);
        let search = paths(CAPACITY).chain(paths(USAGE));
        s.collect_map(bare.into_iter().chain(metric_paths()).chain(mos).chain(steps).chain(rooms).chain(search))
    }
}

impl Summary {
    pub fn of(j: &Judgement) -> Summary {
        Summary {
            schema: SCHEMA,
            tool: Tool { name: "roomful", version: j.run.version.clone() },
            run: Run {
                id: j.run.id.clone(),
                profile: j.run.profile.clone(),
                shape: j.run.shape.clone(),
                seed: j.run.seed,
                resolved: j.run.resolved.clone(),
                started_at: j.run.started_at.clone(),
                wall: j.wall_ms,
                hold: j.hold,
                interrupted: j.interrupted,
                ended: j.ended,
            },
            units: Units,
            verdict: j.verdict,
            sentence: j.sentence.clone(),
            reasons: j.reasons.clone(),
            pass: j.pass.clone(),
            participants: j.participants.clone(),
            joins: j.joins,
            setup: j.setup,
            audio: j.audio.clone(),
            video: j.video.clone(),
            legs: j.legs,
            generator: j.generator.clone(),
            relays: j.relays.clone(),
            servers: j.servers.clone(),
            rooms_worst: j.rooms_worst.clone(),
            failures: j.failures.clone(),
            notes: j.notes.clone(),
            capacity: None,
            scale_in: j.scale_in.clone(),
            usage: None,
            limits: j.run.limits.clone(),
        }
    }

    /// A number by its threshold name, e.g. `audio.delay.p99`; `None` without data. It is the run's, all servers
    /// together: a threshold looks at each server.
    pub fn lookup(&self, path: &str) -> Option<f64> {
        crate::verdict::lookup(&serde_json::to_value(self).ok()?, path)
    }

    /// The file's text.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

/// Every path of the summary that holds one number of the run, with its unit. `{a,b}` below stands for each word.
pub fn metric_paths() -> impl Iterator<Item = (String, &'static str)> {
    paths(METRICS)
}

fn paths(table: &'static [(&str, &str)]) -> impl Iterator<Item = (String, &'static str)> {
    table.iter().flat_map(|(pattern, unit)| expand(pattern).into_iter().map(move |path| (path, *unit)))
}

/// Of shape capacity.
const CAPACITY: &[(&str, &str)] = &[
    ("capacity.{participants_per_server,lower,upper,lower_rooms,upper_rooms,streams,allocations}", "count"),
    ("capacity.{cpu_at_capacity,cpu_at_breakage}", "percent"),
    ("capacity.knee.{participants,below}", "count"),
    ("capacity.knee.{plateau,delay}", "ms"),
    ("capacity.{join_rate_wanted,join_rate,egress_pps,egress_bps,relayed_pps,relayed_bps}", "per second"),
    ("capacity.setup_p95", "ms"),
    ("capacity.cpu_trigger.at", "percent"),
    ("capacity.cpu_trigger.{participants,late_by,highest}", "count"),
    ("capacity.servers[].{lower,upper,held}", "count"),
    ("capacity.threshold.{participants,capacity,lost,growth,servers,survive}", "count"),
    ("capacity.trials[].{number,rooms,participants}", "count"),
    ("capacity.trials[].{from,until,join_late_max}", "ms"),
    ("capacity.trials[].{loss,broken[].share}", "percent"),
    ("capacity.trials[].broken[].value", "that of its metric"),
    ("capacity.trials[].join_rate", "per second"),
    ("capacity.trials[].servers[].{participants,joined,joins_failed}", "count"),
    ("capacity.trials[].servers[].{loss,audio.loss,video.loss}", "percent"),
    ("capacity.trials[].servers[].{audio,video}.{delay_p50,delay_p99,jitter_p95}", "ms"),
    ("capacity.trials[].servers[].{audio,video}.freezes", "per minute"),
    ("capacity.trials[].servers[].{setup_p95,join_late_max}", "ms"),
    ("capacity.trials[].servers[].{join_rate,egress_pps,egress_bps}", "per second"),
    ("capacity.trials[].servers[].cost.{cpu,cpu_p95,busiest_thread,cpu_pressure,steal,throttled}", "percent"),
    ("capacity.trials[].servers[].cost.cpu_cores", "cores"),
    ("capacity.trials[].servers[].cost.memory_bytes", "bytes"),
    ("capacity.trials[].servers[].cost.run_queue", "count"),
    ("capacity.trials[].servers[].cost.{egress_pps,egress_bps,cascade_pps,cascade_bps}", "per second"),
    ("capacity.trials[].servers[].relay.allocations", "count"),
    ("capacity.trials[].servers[].relay.{pps,bps}", "per second"),
];

const USAGE: &[(&str, &str)] = &[
    ("usage.servers", "count"),
    ("usage.cpu_cores", "cores"),
    ("usage.memory_bytes", "bytes"),
    ("usage.{egress_pps,egress_bps,cascade_pps,cascade_bps}", "per second"),
];

const METRICS: &[(&str, &str)] = &[
    ("participants.{planned,joined,failed,dropped,clean}", "count"),
    ("joins.{planned,failed}", "count"),
    ("joins.failed_share", "percent"),
    ("joins.rate_max", "per second"),
    ("setup.{total,join,signaling,ice,dtls,relay,first_rtp,first_frame}.count", "count"),
    ("setup.{total,join,signaling,ice,dtls,relay,first_rtp,first_frame}.{p50,p95,p99,max}", "ms"),
    ("{audio,video}.sent", "count"),
    ("{audio,video}.{loss,lossy_legs_share}", "percent"),
    ("{audio,video}.stamps.{foreign,missing}", "count"),
    ("{audio,video}.rtp.{expected,received,duplicate,reordered,lost_before_recovery,recovered}", "count"),
    ("{audio,video}.rtp.loss", "percent"),
    ("{audio,video}.up.{expected,lost}", "count"),
    ("{audio,video}.up.loss", "percent"),
    ("{audio,video}.e2e.{expected,received}", "count"),
    ("{audio,video}.e2e.loss", "percent"),
    ("{audio,video}.{jitter,delay,rtt}.{p50,p95,p99}", "ms"),
    ("audio.silence_max", "ms"),
    ("video.frame_jitter.{p50,p95,p99}", "ms"),
    ("video.freezes", "per minute"),
    ("video.frozen_share", "percent"),
    ("generator.{cpu,cpu_max,machine_cpu,steal_max,waited_max,inconclusive_share}", "percent"),
    ("generator.{send_lateness,timer_lateness}.{p50,p99}", "ms"),
    (
        "legs.{judged,clean,glitched,migrated,reconnected,one_way,dropped,unclean_leave,inconclusive,ice_restarts}",
        "count",
    ),
    (
        "relays.{participants,asked,allocated,refused,unreachable,redirected,lost,released,abandoned,inconclusive,open_max}",
        "count",
    ),
    ("relays.{rate_max,pps,bps}", "per second"),
    ("relays.latency.count", "count"),
    ("relays.latency.{p50,p95,p99,max}", "ms"),
    ("generator.{socket_drops,send_errors,cores,resident_bytes_max}", "count"),
    ("generator.udp_errors.{receive,receive_buffer,send_buffer}", "count"),
    ("generator.reference.{expected,received}", "count"),
    ("generator.reference.loss", "percent"),
    ("generator.reference.{delay.p50,delay.p99,jitter_max}", "ms"),
    ("generator.{descriptors_left_min,ports_left_min}", "count"),
    ("generator.clock_step_max", "ms"),
];

fn expand(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (words, tail) = rest.split_once('}').unwrap_or((rest, ""));
    words.split(',').flat_map(|word| expand(&format!("{head}{word}{tail}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::synthetic::Synthetic;
    use crate::profile::{HealthLimits, Op, Threshold, ThresholdValue};
    use crate::verdict::judge;

    fn summary(run: &Synthetic, pass: &[Threshold]) -> Summary {
        Summary::of(&judge(&run.reading(), pass, &HealthLimits::default()))
    }

    #[test]
    fn every_path_is_in_the_file() {
        let json = serde_json::to_value(summary(&Synthetic::default(), &[])).unwrap();
        for (path, _) in metric_paths() {
            let value = path.split('.').try_fold(&json, |v, key| v.get(key));
            assert!(value.is_some_and(|v| v.is_number() || v.is_null()), "{path}: {value:?}");
        }
        assert!(json["capacity"].is_null() && json["scale_in"].is_null());
        assert_eq!(
            (&json["units"]["audio.delay.p99"], &json["units"]["audio.mos.p5"]),
            (&"ms".into(), &"score".into())
        );
        let mos = &json["audio"]["mos"];
        assert!((4.33..4.36).contains(&mos["p50"].as_f64().unwrap()), "{mos}");
        assert_eq!((&mos["coefficients"]["bpl"], &mos["jitter_buffer"]), (&25.1.into(), &60.0.into()));
        assert!(json["run"]["seed"].is_u64() && json["run"]["resolved"].is_string());
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys[..8], ["schema", "tool", "run", "units", "verdict", "sentence", "reasons", "pass"]);
    }

    #[test]
    fn every_metric_a_profile_may_name_is_in_the_file_with_its_unit() {
        let paths: std::collections::BTreeMap<String, &str> = metric_paths().collect();
        for metric in crate::profile::metrics::all() {
            assert_eq!(paths.get(&metric.path), Some(&metric.unit.as_str()), "{}", metric.path);
        }
    }

    #[test]
    fn a_threshold_sees_what_the_file_says() {
        // One server, so that the worst server and the run are the same.
        let run = Synthetic { servers: 1, loss: Some((0, 12..14, 0.1)), ..Synthetic::default() };
        let pass: Vec<Threshold> = metric_paths()
            .map(|(metric, _)| Threshold {
                expr: format!("{metric} >= -1"),
                metric,
                op: Op::Ge,
                value: ThresholdValue::Count(-1.0),
            })
            .collect();
        let summary = summary(&run, &pass);
        let mut known = 0;
        for o in &summary.pass {
            // What had nothing to count is no data for a threshold, and a zero in the table of counts.
            assert!(o.value == summary.lookup(&o.metric) || summary.lookup(&o.metric) == Some(0.0), "{o:?}");
            known += usize::from(o.value.is_some());
        }
        // All but set-up's own join API and relays, and the loss that servers report: here they report nothing.
        assert_eq!(summary.pass.len() - known, 30);
        assert_eq!(summary.lookup("audio.happiness"), None);
        assert_eq!(summary.lookup("audio.loss"), Some(1.0));
    }

    #[test]
    fn no_data_is_null_and_never_zero() {
        let json = serde_json::to_value(summary(&Synthetic { video: false, ..Synthetic::default() }, &[])).unwrap();
        for path in ["loss", "loss_source", "lossy_legs_share", "freezes", "frozen_share"] {
            assert!(json["video"][path].is_null(), "{path}");
        }
        assert!(json["video"]["delay"]["p99"].is_null() && json["setup"]["first_frame"]["p95"].is_null());
    }
}
