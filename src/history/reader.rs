//! Reads a history as often as needed, line by line, and makes the best of a damaged one.

use super::{Event, Line, RunInfo, SCHEMA};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

/// A longer line is garbage.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Damaged lines that are described one by one; more are counted.
const PROBLEMS_MAX: usize = 20;

/// Names of all events this version knows.
const KINDS: [&str; 24] = [
    "relay",
    "run",
    "rooms",
    "server",
    "phase",
    "join_start",
    "joined",
    "join_failed",
    "first_media",
    "leg_end",
    "interval",
    "room",
    "health",
    "trial",
    "search_end",
    "usage",
    "routed",
    "signaling_resumed",
    "silent",
    "moved",
    "step",
    "fleet",
    "mark",
    "note",
];
const KIND_END: &str = "end";

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("can't read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no history: it holds no line that describes a run")]
    NoRun { path: PathBuf },
    #[error("{path} was written by roomful {version} (schema {schema}); this one reads schema {SCHEMA} and newer")]
    Old { path: PathBuf, version: String, schema: u32 },
}

/// A damaged line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Counted from 1.
    pub line: u64,
    pub what: String,
}

/// What one pass over a history met besides its lines.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Scan {
    /// Lines in the middle that could not be read; the rest was. At most 20, see `problems_more`.
    pub problems: Vec<Problem>,
    pub problems_more: u64,
    /// The last line was cut short, as after a crash. Tolerated.
    pub torn: bool,
    /// Lines of kinds that this version does not know, by kind.
    pub unknown: BTreeMap<String, u64>,
}

/// A history that can be gone through. It holds no lines: a run of hours does not fit, and need not.
#[derive(Clone, Debug)]
pub struct Reading {
    /// First line of the history.
    pub run: RunInfo,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    File { path: PathBuf, tail: Vec<u8> },
    Lines(Vec<Line>),
}

/// Opens a history and finds its run.
pub fn read(path: &Path) -> Result<Reading, ReadError> {
    read_with_tail(path, Vec::new())
}

/// The same, with bytes behind the file's end that the disk had no room for (see [`super::Writer::finish`]).
pub fn read_with_tail(path: &Path, tail: Vec<u8>) -> Result<Reading, ReadError> {
    File::open(path).map_err(|source| ReadError::Io { path: path.into(), source })?;
    let source = Source::File { path: path.into(), tail };
    let mut run = None;
    source.each(&mut |kind| kind == "run", &mut |_, line| {
        if let Event::Run(info) = line.event {
            run.get_or_insert(info);
        }
        Go::Stop
    });
    let run = run.ok_or_else(|| ReadError::NoRun { path: path.into() })?;
    if run.schema < SCHEMA {
        return Err(ReadError::Old { path: path.into(), version: run.version, schema: run.schema });
    }
    Ok(Reading { run, source })
}

impl Reading {
    /// A history in memory.
    pub fn of_lines(lines: Vec<Line>) -> Result<Reading, ReadError> {
        let run = lines.iter().find_map(|l| match &l.event {
            Event::Run(info) => Some(info.clone()),
            _ => None,
        });
        let run = run.ok_or_else(|| ReadError::NoRun { path: "history".into() })?;
        Ok(Reading { run, source: Source::Lines(lines) })
    }

    /// Goes through all lines in order. Only those whose kind (`interval`, `leg_end` …) is wanted are parsed whole and
    /// given to `see`. Damaged ones of these are in the result, and so is an error of the disk.
    pub fn each(&self, wanted: impl Fn(&str) -> bool, mut see: impl FnMut(Line)) -> Scan {
        self.each_numbered(wanted, |_, line| see(line))
    }

    /// The same with the number of each line, from 1: for evidence that anybody can look up.
    pub fn each_numbered(&self, wanted: impl Fn(&str) -> bool, mut see: impl FnMut(u64, Line)) -> Scan {
        let mut scan = self.source.each(&mut |kind| wanted(kind), &mut |number, line| {
            see(number, line);
            Go::On
        });
        if self.run.schema > SCHEMA {
            let what = format!("written by a newer roomful (schema {}, this one knows {SCHEMA})", self.run.schema);
            scan.problems.insert(0, Problem { line: 1, what });
        }
        scan
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

impl Source {
    fn each(&self, wanted: &mut dyn FnMut(&str) -> bool, see: &mut dyn FnMut(u64, Line) -> Go) -> Scan {
        match self {
            Source::Lines(lines) => {
                for (line, number) in lines.iter().zip(1..).filter(|(l, _)| wanted(kind(&l.event))) {
                    if see(number, line.clone()) == Go::Stop {
                        break;
                    }
                }
                Scan::default()
            }
            Source::File { path, tail } => match File::open(path) {
                Ok(file) => scan(BufReader::with_capacity(1 << 18, file.chain(Cursor::new(tail))), wanted, see),
                Err(e) => {
                    let problems = vec![Problem { line: 0, what: format!("can't read {}: {e}", path.display()) }];
                    Scan { problems, ..Scan::default() }
                }
            },
        }
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    ev: Cow<'a, str>,
    t: Option<f64>,
}

impl Head<'_> {
    /// Of a line as we write it, time and kind first: without going through the rest of it.
    fn at_once(bytes: &[u8]) -> Option<Head<'_>> {
        let rest = bytes.strip_prefix(b"{\"t\":")?;
        let comma = rest.iter().take(32).position(|b| *b == b',')?;
        let t = std::str::from_utf8(&rest[..comma]).ok()?.parse().ok()?;
        let rest = rest[comma..].strip_prefix(b",\"ev\":\"")?;
        let quote = rest.iter().take(32).position(|b| *b == b'"')?;
        let ev = std::str::from_utf8(&rest[..quote]).ok().filter(|ev| !ev.contains('\\'))?;
        Some(Head { ev: Cow::Borrowed(ev), t: Some(t) })
    }
}

/// One line. Kinds that make up nearly all of a history are parsed without the detour over a tree that a tag inside an
/// object costs.
fn parse(head: Option<&Head<'_>>, bytes: &[u8]) -> serde_json::Result<Line> {
    let Some((t, ev)) = head.and_then(|h| Some((h.t?, &*h.ev))) else { return serde_json::from_slice(bytes) };
    let event = match ev {
        "interval" => Event::Interval(serde_json::from_slice(bytes)?),
        "room" => Event::Room(serde_json::from_slice(bytes)?),
        "health" => Event::Health(serde_json::from_slice(bytes)?),
        "leg_end" => Event::LegEnd(serde_json::from_slice(bytes)?),
        "fleet" => Event::Fleet(serde_json::from_slice(bytes)?),
        _ => return serde_json::from_slice(bytes),
    };
    Ok(Line { t, event })
}

fn scan(mut from: impl BufRead, wanted: &mut dyn FnMut(&str) -> bool, see: &mut dyn FnMut(u64, Line) -> Go) -> Scan {
    let mut scan = Scan::default();
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let whole = match read_line(&mut from, &mut bytes) {
            Ok(None) => break,
            Ok(Some(whole)) => whole,
            Err(e) => {
                scan.note(number, format!("can't read on: {e}"));
                break;
            }
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        // A line that was cut short is to be noticed, wanted or not.
        let head = match Head::at_once(&bytes).filter(|_| whole) {
            Some(head) => Ok(head),
            None => serde_json::from_slice::<Head<'_>>(&bytes),
        };
        match &head {
            Ok(head) if head.ev != KIND_END && !KINDS.contains(&&*head.ev) => {
                *scan.unknown.entry(head.ev.chars().take(40).collect()).or_default() += 1;
                continue;
            }
            Ok(head) if !wanted(&head.ev) => continue,
            Ok(_) | Err(_) => {}
        }
        match parse(head.as_ref().ok(), &bytes) {
            Ok(line) => {
                if see(number, line) == Go::Stop {
                    break;
                }
            }
            Err(_) if !whole => scan.torn = true,
            Err(e) => scan.note(number, e.to_string()),
        }
    }
    scan
}

/// Reads one line without its newline. `Some(false)`: the file ended before a newline came; `None`: nothing left.
fn read_line(from: &mut impl BufRead, into: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let n = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', into)?;
    if n == 0 {
        return Ok(None);
    }
    if into.last() == Some(&b'\n') {
        into.pop();
        return Ok(Some(true));
    }
    if (n as u64) < LINE_BYTES_MAX {
        return Ok(Some(false));
    }
    // Too long to be ours: keep what shows that, skip the rest.
    into.truncate(64);
    from.skip_until(b'\n')?;
    Ok(Some(true))
}

impl Scan {
    fn note(&mut self, line: u64, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { line, what });
        } else {
            self.problems_more += 1;
        }
    }

    /// Lines that were there and could not be read.
    pub fn damaged(&self) -> u64 {
        // That the first one is of a newer schema is a remark: without it there is no history.
        self.problems.iter().filter(|p| p.line != 1).count() as u64 + self.problems_more
    }

    /// Everything that a reader of the report should know, as text.
    pub fn remarks(&self) -> Vec<String> {
        let mut out: Vec<String> =
            self.problems.iter().map(|p| format!("history line {} could not be read: {}", p.line, p.what)).collect();
        if self.problems_more > 0 {
            out.push(format!("{} more history lines could not be read", self.problems_more));
        }
        if self.torn {
            out.push("the last line of the history is cut short".into());
        }
        for (kind, n) in &self.unknown {
            out.push(format!("{n} history lines of kind \"{kind}\" skipped: this version does not know them"));
        }
        out
    }
}

/// Name of an event in the file.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Run(_) => "run",
        Event::Rooms { .. } => "rooms",
        Event::Server(_) => "server",
        Event::Phase { .. } => "phase",
        Event::JoinStart { .. } => "join_start",
        Event::Joined { .. } => "joined",
        Event::JoinFailed(_) => "join_failed",
        Event::FirstMedia { .. } => "first_media",
        Event::Relay(_) => "relay",
        Event::LegEnd(_) => "leg_end",
        Event::Interval(_) => "interval",
        Event::Room(_) => "room",
        Event::Health(_) => "health",
        Event::Trial(_) => "trial",
        Event::SearchEnd { .. } => "search_end",
        Event::Usage(_) => "usage",
        Event::Routed { .. } => "routed",
        Event::Moved { .. } => "moved",
        Event::SignalingResumed { .. } => "signaling_resumed",
        Event::Silent { .. } => "silent",
        Event::Step(_) => "step",
        Event::Fleet(_) => "fleet",
        Event::Mark { .. } => "mark",
        Event::Note { .. } => "note",
        Event::End { .. } => KIND_END,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Usage;
    use super::super::synthetic::Synthetic;
    use super::*;
    use crate::history::{FleetRole, FleetView, Relay, RelayWhat, ServerSeen, StepAction, StepEvent, StepStage};
    use crate::plan::PlannedTrial;
    use crate::types::{LegId, ServerId, Via};
    use std::collections::BTreeSet;

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|l| serde_json::to_string(l).unwrap() + "\n").collect()
    }

    fn file(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn all(reading: &Reading) -> (Vec<Line>, Scan) {
        let mut lines = Vec::new();
        let scan = reading.each(|_| true, |l| lines.push(l));
        (lines, scan)
    }

    #[test]
    fn kinds_are_what_serde_writes() {
        let mut seen = BTreeSet::new();
        let mut lines = (Synthetic { drops: 1, join_failures: 1, notes: true, ..Synthetic::default() }).lines();
        let trial = PlannedTrial { number: 1, rooms: 1, participants: 4, moved_ms: 0.0, from_ms: 1.0, until_ms: 2.0 };
        let step = StepEvent {
            op: 1,
            name: "drain".into(),
            action: StepAction::Cordon,
            server: Some("s1".into()),
            stage: StepStage::Begun,
            detail: String::new(),
            rollback: false,
        };
        let view = FleetView {
            backend: "redis".into(),
            role: FleetRole::Discovery,
            servers: vec![ServerSeen { server: "s1".into(), listed: Some(true), ..ServerSeen::default() }],
            rooms: [("a-1".to_owned(), None)].into(),
            error: None,
        };
        let (leg, from, to) = (LegId(0), ServerId(0), ServerId(1));
        let relay = Relay {
            leg,
            slot: 0,
            turn: "turn-1".into(),
            via: Via::Tcp,
            what: RelayWhat::Refused,
            ms: Some(1.5),
            code: Some(486),
            detail: None,
            relayed: None,
        };
        let rare = [
            Event::Relay(relay),
            Event::Trial(trial),
            Event::SearchEnd { why: "width".into() },
            Event::Usage(Usage::default()),
            Event::Routed { leg, server: None, url: "ws://10.77.0.1:8188".into(), after_ms: 3.0 },
            Event::Moved { leg, from, to, from_ms: 1.0, until_ms: 2.0 },
            Event::SignalingResumed { leg, lost_ms: 1.0, back_ms: 2.0 },
            Event::Silent { leg, from_ms: 1.0 },
            Event::Step(step),
            Event::Fleet(view),
            Event::Mark { action: StepAction::Uncordon, server: "s1".into() },
        ];
        lines.extend(rare.map(|event| Line { t: 3.0, event }));
        for line in lines {
            let value = serde_json::to_value(&line).unwrap();
            assert_eq!(value["ev"], kind(&line.event));
            seen.insert(kind(&line.event));
        }
        let known: BTreeSet<&str> = KINDS.into_iter().chain([KIND_END]).collect();
        assert_eq!(seen, known);
    }

    #[test]
    fn reads_back_and_again() {
        let lines = Synthetic::default().lines();
        let (_dir, path) = file(text(&lines));
        let reading = read(&path).unwrap();
        assert!(all(&reading) == (lines.clone(), Scan::default()));
        assert!(all(&reading).0 == lines);
        let mut ends = 0;
        reading.each(|kind| kind == "leg_end", |_| ends += 1);
        assert_eq!(ends, lines.iter().filter(|l| matches!(l.event, Event::LegEnd(_))).count());
    }

    #[test]
    fn tolerates_a_torn_last_line_anywhere() {
        let lines: Vec<Line> = Synthetic::default().lines().into_iter().take(40).collect();
        let whole = text(&lines);
        let last = whole[..whole.len() - 1].rfind('\n').unwrap() + 1;
        for cut in [last + 1, last + 7, whole.len() - 2] {
            let (_dir, path) = file(&whole[..cut]);
            let (read, scan) = all(&read(&path).unwrap());
            assert!(read == lines[..39]);
            assert!(scan.torn && scan.problems.is_empty(), "{scan:?}");
        }
        // Only the newline is missing: the line is whole.
        let (_dir, path) = file(&whole[..whole.len() - 1]);
        assert!(all(&read(&path).unwrap()) == (lines, Scan::default()));
    }

    #[test]
    fn garbage_in_the_middle_is_named_and_the_rest_is_read() {
        let lines: Vec<Line> = Synthetic::default().lines().into_iter().take(10).collect();
        let mut bytes = text(&lines[..5]).into_bytes();
        bytes.extend_from_slice(b"\xff\xfe{nonsense\n{\"t\":1,\"ev\":\"phase\",\"phase\":\"party\"}\n\n");
        bytes.extend_from_slice(b"{\"t\":1,\"ev\":\"cordon\",\"server\":1}\n");
        bytes.extend_from_slice(text(&lines[5..]).as_bytes());
        let (_dir, path) = file(bytes);
        let (read, scan) = all(&read(&path).unwrap());
        assert!(read == lines);
        assert_eq!(scan.problems.iter().map(|p| p.line).collect::<Vec<_>>(), [6, 7]);
        assert_eq!(scan.unknown, BTreeMap::from([("cordon".to_owned(), 1)]));
        assert_eq!(scan.remarks().len(), 3);
    }

    #[test]
    fn finds_kinds_at_once_and_in_any_order() {
        let head = |text: &'static str| Head::at_once(text.as_bytes()).map(|h| (h.t, h.ev.into_owned()));
        assert_eq!(head(r#"{"t":12.5,"ev":"phase","phase":"hold"}"#), Some((Some(12.5), "phase".to_owned())));
        for text in
            ["", "{\"t\":", r#"{"t":1"#, r#"{"t":x,"ev":"phase"}"#, r#"{"t":1,"ev":"pha"#, r#"{"ev":"phase","t":1}"#]
        {
            assert_eq!(head(text), None, "{text}");
        }
        let lines: Vec<Line> = Synthetic::default().lines().into_iter().take(4).collect();
        // Somebody else's JSON of the same: spaces, and the kind behind.
        let phase = r#"{ "phase": "hold", "ev": "phase", "t": 7.5 }"#;
        let (_dir, path) = file(text(&lines) + phase + "\n");
        let read = all(&read(&path).unwrap()).0;
        assert_eq!(read.last().map(|l| (l.t, kind(&l.event))), Some((7.5, "phase")));
    }

    #[test]
    fn says_that_a_history_is_too_old() {
        let mut lines = Synthetic::default().lines();
        if let Event::Run(run) = &mut lines[0].event {
            (run.schema, run.version) = (SCHEMA - 1, "0.0.9".into());
        }
        let (_dir, path) = file(text(&lines));
        let e = read(&path).unwrap_err().to_string();
        assert!(e.contains("history.jsonl") && e.contains("0.0.9") && e.contains("schema"), "{e}");
    }

    #[test]
    fn says_what_is_no_history() {
        let (dir, path) = file("hello\n");
        let e = read(&path).unwrap_err().to_string();
        assert!(e.contains("history.jsonl") && e.contains("no history"), "{e}");
        let e = read(&dir.path().join("none.jsonl")).unwrap_err().to_string();
        assert!(e.contains("none.jsonl") && e.contains("No such file"), "{e}");
    }
}
