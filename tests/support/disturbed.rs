//! Tests over real sockets hold counts to the packet, which a machine that is busy with something else can spoil. Those
//! that need much of it run alone; those that mostly wait run beside a few others, and where one fails there, again alone.
//! Where a test fails alone while the machine was disturbed, it runs again: that proves nothing, neither way. On an
//! undisturbed machine a failure is a failure.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tries of one test.
const TRIES: u32 = 4;
/// A sleep of 2 ms that ends this much later.
const LATE_MAX: Duration = Duration::from_millis(25);
/// Shares of the time: a core taken by the hypervisor; something ready to run that had no core (PSI, some).
const STEAL_MAX: f64 = 0.03;
const WAITING_MAX: f64 = 0.6;

/// Tests that run beside each other.
const TOGETHER: usize = 3;

/// Who of this binary's tests has the machine, and who waits to have it alone.
static MACHINE: Mutex<(usize, usize)> = Mutex::new((0, 0));
static FREED: Condvar = Condvar::new();

/// A share of the machine, or all of it.
pub struct Share(usize);

impl Share {
    fn take(places: usize) -> Share {
        let lock = || MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = usize::from(places == TOGETHER);
        let mut machine = lock();
        machine.1 += alone;
        // Whoever wants it alone comes before those who would come beside others, or it would never be free.
        while machine.0 + places > TOGETHER || (alone == 0 && machine.1 > 0) {
            machine = FREED.wait(machine).unwrap_or_else(PoisonError::into_inner);
        }
        machine.0 += places;
        machine.1 -= alone;
        drop(machine);
        FREED.notify_all();
        Share(places)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        MACHINE.lock().unwrap_or_else(PoisonError::into_inner).0 -= self.0;
        FREED.notify_all();
    }
}

/// Whoever holds this is the only test of its binary that needs the machine for itself.
pub fn alone() -> Share {
    Share::take(TOGETHER)
}

/// Runs a test that waits more than it works, beside others; and as [`undisturbed`] where it failed there.
pub fn beside(test: impl Fn()) {
    let first = {
        let _share = Share::take(1);
        catch_unwind(AssertUnwindSafe(&test))
    };
    if first.is_err() {
        eprintln!("failed beside other tests: again, alone");
        undisturbed(test);
    }
}

/// Runs a test alone, and again where it failed on a disturbed machine.
pub fn undisturbed(test: impl Fn()) {
    let _alone = alone();
    for tried in 1.. {
        let watch = Watch::start();
        let result = catch_unwind(AssertUnwindSafe(&test));
        let Err(failure) = result else { return };
        match watch.stop() {
            Some(why) if tried < TRIES => eprintln!("failed on a disturbed machine ({why}): again"),
            why => {
                eprintln!("try {tried}; {}", why.unwrap_or_else(|| "the machine was not disturbed".into()));
                resume_unwind(failure);
            }
        }
    }
}

/// Watches the machine from beside the test.
pub struct Watch {
    over: Arc<AtomicBool>,
    sleeper: JoinHandle<Duration>,
    began: Instant,
    steal: Option<[f64; 2]>,
    waited: Option<f64>,
}

impl Watch {
    pub fn start() -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let sleeper = std::thread::spawn(move || {
            let nap = Duration::from_millis(2);
            let mut latest = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(nap);
                latest = latest.max(began.elapsed().saturating_sub(nap));
            }
            latest
        });
        Watch { over, sleeper, began: Instant::now(), steal: steal(), waited: waited() }
    }

    /// What disturbed the machine meanwhile, if anything did.
    pub fn stop(self) -> Option<String> {
        let seconds = self.began.elapsed().as_secs_f64();
        self.over.store(true, Ordering::Relaxed);
        let late = self.sleeper.join().unwrap();
        let stolen = self.steal.zip(steal()).map_or(0.0, |(a, b)| (b[0] - a[0]) / (b[1] - a[1]).max(1.0));
        let waiting = self.waited.zip(waited()).map_or(0.0, |(a, b)| (b - a) / seconds);
        let said =
            format!("a thread woke {late:.0?} late, {:.0} % stolen, {:.0} % waiting", stolen * 1e2, waiting * 1e2);
        (late > LATE_MAX || stolen > STEAL_MAX || waiting > WAITING_MAX).then_some(said)
    }
}

/// Stolen ticks, and all.
fn steal() -> Option<[f64; 2]> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // User, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
    Some([*ticks.get(7)?, ticks.iter().take(8).sum()])
}

/// Seconds in which something waited for a core; not every kernel tells.
fn waited() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let total = text.lines().next()?.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    Some(total.parse::<f64>().ok()? / 1e6)
}
