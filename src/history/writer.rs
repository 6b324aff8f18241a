//! Appends lines to `history.jsonl`, and survives a disk that is full for a while or for good.

use super::{Event, Line};
use crate::types::mask_urls;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Name of the history in a run folder.
pub const FILE_NAME: &str = "history.jsonl";

/// Bytes that go to the file in one write; also how much may wait before a write is tried without a flush.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes kept in memory while the file takes none.
const BACKLOG_BYTES_MAX: usize = 16 << 20;

/// Could not make the history file.
#[derive(Debug, thiserror::Error)]
#[error("can't create {path}: {source}")]
pub struct CreateError {
    path: PathBuf,
    source: io::Error,
}

/// Writes lines in order. `append` never fails and never loses a line that a verdict rests on: what the file does not
/// take waits in memory and is tried again at every [`Writer::flush`]. When more than 16 MiB wait, the oldest
/// `interval` and `room` lines are dropped and counted.
#[derive(Debug)]
pub struct Writer<W: Write = File> {
    sink: W,
    path: PathBuf,
    /// Bytes on their way, and how many of them the file has taken: a line that was cut short goes on where it was cut.
    chunk: Vec<u8>,
    taken: usize,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    backlog_bytes_max: usize,
    /// Lines dropped so far, and how many of these a `note` line has told about.
    dropped: u64,
    dropped_told: u64,
    first_error: Option<String>,
    stuck: bool,
    last_t: f64,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    droppable: bool,
}

impl Writer<File> {
    /// Creates `history.jsonl` in the run folder. An existing file is an error: a history is never overwritten.
    pub fn create(dir: &Path) -> Result<Writer, CreateError> {
        let path = dir.join(FILE_NAME);
        match File::options().append(true).create_new(true).open(&path) {
            Ok(file) => Ok(Writer::to(file, path)),
            Err(source) => Err(CreateError { path, source }),
        }
    }
}

impl<W: Write> Writer<W> {
    /// Writes to any sink; `path` is what errors name.
    pub fn to(sink: W, path: PathBuf) -> Writer<W> {
        Writer {
            sink,
            path,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            taken: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            backlog_bytes_max: BACKLOG_BYTES_MAX,
            dropped: 0,
            dropped_told: 0,
            first_error: None,
            stuck: false,
            last_t: 0.0,
        }
    }

    /// The file errors name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one line. It is in the file after the next successful [`Writer::flush`].
    pub fn append(&mut self, line: &Line) {
        self.last_t = line.t;
        let mut bytes = Vec::with_capacity(256);
        if let Err(e) = serde_json::to_writer(&mut bytes, line) {
            self.first_error.get_or_insert_with(|| format!("a history line can't be written as JSON: {e}"));
            self.dropped += 1;
            return;
        }
        // Whatever an error or a note quotes: what is secret in a URL gets no further.
        if let Ok(Cow::Owned(masked)) = std::str::from_utf8(&bytes).map(mask_urls) {
            bytes = masked.into_bytes();
        }
        bytes.push(b'\n');
        self.waiting_bytes += bytes.len();
        let droppable = matches!(line.event, Event::Interval(_) | Event::Room(_));
        self.waiting.push_back(Waiting { bytes, droppable });
        if !self.stuck && self.waiting_bytes >= CHUNK_BYTES {
            self.flush();
        }
        if self.waiting_bytes > self.backlog_bytes_max {
            self.shed();
        }
    }

    /// Hands everything that waits to the file. Call it once a second: what was flushed survives a crash of roomful.
    pub fn flush(&mut self) {
        if self.dropped > self.dropped_told && !self.stuck {
            self.tell_dropped();
        }
        let result = self.push_out();
        if let Err(e) = &result {
            self.first_error.get_or_insert_with(|| e.to_string());
        }
        let recovered = self.stuck && result.is_ok();
        self.stuck = result.is_err();
        if recovered && self.dropped > self.dropped_told {
            self.flush();
        }
    }

    /// What stands between this history and a complete one, naming file and error: lines the file has not taken yet,
    /// or lines that were dropped. `None` when everything that was appended is in the file or in good order on its way.
    pub fn trouble(&self) -> Option<String> {
        if !self.stuck && self.dropped == 0 {
            return None;
        }
        let error = self.first_error.as_deref().unwrap_or("unknown error");
        let mut text = format!("{}: {error}", self.path.display());
        if self.stuck {
            let bytes = self.chunk.len() - self.taken + self.waiting_bytes;
            text += &format!("; {bytes} bytes of history could not be written");
        }
        if self.dropped > 0 {
            text += &format!("; {} lines dropped", self.dropped);
        }
        Some(text)
    }

    /// Last flush. Returns what the file did not take, so that the run can still be judged in full
    /// (see [`super::read_with_tail`]), and [`Writer::trouble`].
    pub fn finish(mut self) -> (Vec<u8>, Option<String>) {
        self.flush();
        let trouble = self.trouble();
        // A chunk that was cut short goes on in the middle of a line, right where the file ends.
        let mut tail = self.chunk.split_off(self.taken);
        for w in &self.waiting {
            tail.extend_from_slice(&w.bytes);
        }
        (tail, trouble)
    }

    fn push_out(&mut self) -> io::Result<()> {
        loop {
            while self.taken < self.chunk.len() {
                match self.sink.write(&self.chunk[self.taken..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => self.taken += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            self.chunk.clear();
            self.taken = 0;
            while self.chunk.len() < CHUNK_BYTES {
                let Some(w) = self.waiting.pop_front() else { break };
                self.waiting_bytes -= w.bytes.len();
                self.chunk.extend_from_slice(&w.bytes);
            }
            if self.chunk.is_empty() {
                return self.sink.flush();
            }
        }
    }

    fn shed(&mut self) {
        // Down to three quarters, so that shedding is rare.
        let goal = self.backlog_bytes_max / 4 * 3;
        let mut excess = self.waiting_bytes.saturating_sub(goal);
        let (mut dropped, mut freed) = (0, 0);
        self.waiting.retain(|w| {
            if excess == 0 || !w.droppable {
                return true;
            }
            excess = excess.saturating_sub(w.bytes.len());
            freed += w.bytes.len();
            dropped += 1;
            false
        });
        self.waiting_bytes -= freed;
        self.dropped += dropped;
    }

    fn tell_dropped(&mut self) {
        let count = self.dropped - self.dropped_told;
        self.dropped_told = self.dropped;
        let text = format!(
            "lines of this history were dropped because it could not be written ({})",
            self.first_error.as_deref().unwrap_or("unknown error")
        );
        let event = Event::Note { code: "history_dropped".into(), text, leg: None, count };
        self.append(&Line { t: self.last_t, event });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Interval, JoinFailure, synthetic};
    use super::*;
    use crate::history::{FailReason, read_with_tail};
    use crate::types::{LegId, RoomId};
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Takes `room` bytes, then says that the disk is full.
    #[derive(Clone, Default)]
    struct Disk(Rc<RefCell<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.borrow_mut();
            let n = buf.len().min(disk.1);
            if n == 0 && !buf.is_empty() {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            disk.1 -= n;
            disk.0.extend_from_slice(&buf[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk {
        fn with_room(bytes: usize) -> Disk {
            Disk(Rc::new(RefCell::new((Vec::new(), bytes))))
        }
        fn grow(&self, bytes: usize) {
            self.0.borrow_mut().1 += bytes;
        }
        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().0.clone()).unwrap()
        }
    }

    fn failed(leg: u32) -> Line {
        let failure = JoinFailure {
            leg: LegId(leg),
            room: RoomId(0),
            server: None,
            reason: FailReason::Refused,
            detail: "connection refused".into(),
            after_ms: 1.0,
        };
        Line { t: f64::from(leg), event: Event::JoinFailed(failure) }
    }

    fn interval(t: f64) -> Line {
        Line {
            t,
            event: Event::Interval(Interval {
                seconds: 1.0,
                connected: 0,
                joining: 0,
                servers: Vec::new(),
                paths: None,
                relays: Vec::new(),
            }),
        }
    }

    #[test]
    fn writes_what_was_appended() {
        let dir = tempfile::tempdir().unwrap();
        let lines = synthetic::Synthetic::default().lines();
        let mut w = Writer::create(dir.path()).unwrap();
        for line in &lines {
            w.append(line);
        }
        let path = w.path().to_path_buf();
        let (tail, trouble) = w.finish();
        assert_eq!((tail, trouble), (Vec::new(), None));
        let text = std::fs::read_to_string(path).unwrap();
        let back: Vec<Line> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(back == lines);
        assert!(Writer::create(dir.path()).unwrap_err().to_string().contains("history.jsonl"));
    }

    #[test]
    fn goes_on_in_mid_line_when_the_disk_has_room_again() {
        let disk = Disk::with_room(100);
        let mut w = Writer::to(disk.clone(), "history.jsonl".into());
        for leg in 0..10 {
            w.append(&failed(leg));
        }
        w.flush();
        let trouble = w.trouble().unwrap();
        assert!(trouble.contains("history.jsonl") && trouble.contains("os error 28"), "{trouble}");
        assert_eq!(disk.text().len(), 100);
        disk.grow(1 << 20);
        w.append(&failed(10));
        w.flush();
        assert_eq!(w.trouble(), None);
        let legs: Vec<Line> = disk.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(legs, (0..=10).map(failed).collect::<Vec<_>>());
    }

    #[test]
    fn sheds_intervals_and_never_failures() {
        let disk = Disk::with_room(0);
        let mut w = Writer::to(disk.clone(), "history.jsonl".into());
        w.backlog_bytes_max = 20_000;
        w.flush();
        for i in 0..1000 {
            w.append(&interval(f64::from(i)));
            if i % 20 == 0 {
                w.append(&failed(i as u32));
            }
            w.flush();
        }
        assert!(w.waiting_bytes <= 20_000, "{}", w.waiting_bytes);
        assert!(w.trouble().unwrap().contains("dropped"));
        disk.grow(1 << 20);
        w.flush();
        let text = disk.text();
        assert_eq!(text.matches("\"join_failed\"").count(), 50);
        let kept = text.matches("\"interval\"").count();
        assert!(kept > 0 && kept < 1000, "{kept}");
        // The newest survive, and the history itself says how many are gone.
        assert!(text.contains("\"t\":999.0,\"ev\":\"interval\""));
        assert!(text.contains("history_dropped") && text.contains(&format!("\"count\":{}", 1000 - kept)), "{kept}");
        assert!(w.trouble().is_some(), "an incomplete history stays trouble");
    }

    #[test]
    fn a_run_on_a_full_disk_can_still_be_judged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let lines = synthetic::Synthetic::default().lines();
        let disk = Disk::with_room(12_345);
        let mut w = Writer::to(disk.clone(), path.clone());
        for line in &lines {
            w.append(line);
        }
        let (tail, trouble) = w.finish();
        assert!(trouble.unwrap().contains("os error 28"));
        std::fs::write(&path, disk.text()).unwrap();
        let mut back = Vec::new();
        let scan = read_with_tail(&path, tail).unwrap().each(|_| true, |line| back.push(line));
        assert_eq!(scan.problems, Vec::new());
        assert!(back == lines);
    }

    #[test]
    fn dev_full_is_trouble_and_no_panic() {
        let Ok(full) = File::options().write(true).open("/dev/full") else { return };
        let mut w = Writer::to(full, "/dev/full".into());
        w.append(&failed(1));
        w.flush();
        w.flush();
        let (tail, trouble) = w.finish();
        assert!(trouble.unwrap().contains("No space left"));
        assert!(String::from_utf8(tail).unwrap().contains("join_failed"));
    }
}
