//! What is tried.

use crate::virtual_time::Setting;
use roomful::impair::{Blackout, Conditions, Distribution, HoldBack, Jitter, Loss, Queue, Rate, preset};
use roomful::types::{Client, Codec};
use std::time::Duration;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn loss(share: f64) -> Conditions {
    Conditions { loss: Loss::Independent(share), ..Conditions::PERFECT }
}

pub fn jitter(mean: u64, distribution: Distribution, reorders: bool) -> Conditions {
    Conditions { delay: ms(40), jitter: Some(Jitter { mean: ms(mean), distribution, reorders }), ..Conditions::PERFECT }
}

/// The grid in virtual time, each cell so long.
pub fn virtual_time(seconds: u64) -> Vec<Setting> {
    use Distribution::{Exponential, Uniform};
    let no = Conditions::PERFECT;
    let bursts = Conditions { loss: Loss::Bursts { share: 0.05, mean: 8.0, bad: 1.0, good: 0.0 }, ..no };
    let held = Conditions { hold_back: Some(HoldBack { share: 0.05, by: ms(50) }), ..no };
    let narrow = Rate { bits_per_s: 190_000, queue: Queue::Time(ms(150)) };
    let dark = Blackout { after: ms(6000), lasts: ms(700), every: Some(ms(3000)) };
    let chrome = |name, up, down| Setting { name, up, down, client: Client::Chrome, codec: Codec::Vp8, seconds };
    let light = |name, up, down| Setting { client: Client::Light, codec: Codec::H264, ..chrome(name, up, down) };
    let wifi = preset("bad-wifi").unwrap();
    vec![
        chrome("nothing", no, no),
        chrome("0.5 % loss down", no, loss(0.005)),
        chrome("2 % loss down", no, loss(0.02)),
        chrome("10 % loss down", no, loss(0.1)),
        light("2 % loss up", loss(0.02), no),
        light("10 % loss up", loss(0.1), no),
        chrome("5 % loss down in bursts of 8", no, bursts),
        light("5 % loss up in bursts of 8", bursts, no),
        chrome("2 % loss both ways", loss(0.02), loss(0.02)),
        chrome("delay 80 ms up, 40 ms down", Conditions { delay: ms(80), ..no }, Conditions { delay: ms(40), ..no }),
        chrome("delay 40 ms, uniform jitter 10 ms down", no, jitter(10, Uniform, false)),
        chrome("delay 40 ms, exponential jitter 10 ms down", no, jitter(10, Exponential, false)),
        chrome("delay 40 ms, uniform jitter 15 ms down, overtaking", no, jitter(15, Uniform, true)),
        chrome("5 % held back 50 ms down", no, held),
        chrome("3 % doubled down", no, Conditions { duplicate: 0.03, ..no }),
        light("1 % corrupted down", no, Conditions { corrupt: 0.01, ..no }),
        chrome("bottleneck 190 kbit/s down", no, Conditions { rate: Some(narrow), ..no }),
        chrome("black-outs of 700 ms down", no, Conditions { blackout: Some(dark), ..no }),
        chrome("bad Wi-Fi both ways", wifi.up, wifi.down),
        light(
            "everything down",
            no,
            Conditions { duplicate: 0.01, hold_back: Some(HoldBack { share: 0.02, by: ms(30) }), ..wifi.down },
        ),
    ]
}

/// The grid over real sockets.
pub fn real() -> Vec<crate::real::Setting> {
    let settings = [
        ("nothing", "{}"),
        ("2 % loss down", "{ down = { loss = \"2%\", after = \"4s\" } }"),
        ("10 % loss down", "{ down = { loss = \"10%\", after = \"4s\" } }"),
        ("5 % loss up", "{ up = { loss = \"5%\", after = \"4s\" } }"),
        ("5 % loss down in bursts of 8", "{ down = { loss = \"5%\", burst = 8, after = \"4s\" } }"),
        ("delay 50 ms up, 30 ms down", "{ up = { delay = \"50ms\" }, down = { delay = \"30ms\" } }"),
        ("uniform jitter 10 ms down", "{ down = { delay = \"20ms\", jitter = \"10ms\" } }"),
        (
            "3 % doubled, 3 % held back 50 ms down",
            "{ down = { duplicate = \"3%\", reorder = \"3%\", reorder_by = \"50ms\", after = \"4s\" } }",
        ),
    ];
    let stages = [
        (
            "stage: 5 % loss both ways",
            "{ up = { loss = \"5%\", after = \"4s\" }, down = { loss = \"5%\", after = \"4s\" } }",
        ),
        (
            "stage: delay 30 ms, jitter 10 ms, 3 % doubled, 3 % lost down",
            "{ down = { delay = \"30ms\", jitter = \"10ms\", duplicate = \"3%\", loss = \"3%\", after = \"4s\" } }",
        ),
    ];
    let real = |name, network, stage| crate::real::Setting { name, network, stage, hold: 20, strict: false };
    let before_the_server = settings.map(|(name, network)| real(name, network, None));
    before_the_server.into_iter().chain(stages.map(|(name, stage)| real(name, "{}", Some(stage)))).collect()
}

/// docs/calibration.md.
pub fn page(simulated: &[crate::table::Cell], sockets: &[crate::table::Cell]) -> String {
    format!(
        "# Known impairments, and what the report says of them\n\n\
         Made by `make calibrate`; not edited by hand. Each row is a network of the impairer \
         ([impairments.md](impairments.md)). What it did is computed from its own log, packet by packet; what roomful says \
         comes from the receiver's counters and histograms, which know nothing of that log. One number: both say the same, \
         to the packet. `log / report`: they may differ within the bound. *in*: every column is inside its bound; *OUT*: \
         one is not; *unknown*: the machine was not up to it, so nothing is said.\n\n\
         Bounds: counts exact; delay 0.5 ms + 2 %; jitter 5 % of RFC 3550 over the log. Over sockets, jitter is off by up to \
         20 µs of the kernel's, too, and by what 5 ms change in it, since it is not known to the ms when a second's sample \
         was taken. `least–most / report`: the log leaves that open. *Recovered* are packets that came as RTX only: a \
         record has an RTX packet's frame and length, but its number is sealed in it.\n\n\
         ## In virtual time\n\n\
         Whole participants with SRTP on both sides of the embedded SFU, both links through the impairer; no sockets, no \
         scheduler.\n\n{}\n\
         ## Over real sockets\n\n\
         `roomful impair` in front of one of two servers, `roomful run` against both, which is not told. Counts and times \
         apart: a busy machine makes times unknown, and drops of its own make counts unknown. *stage*: the network is the \
         participants' own, `network` in the profile; a second impairer before the server, which does nothing, tells what \
         passed, and the same seeded link run again what the stage did to it.\n\n{}",
        crate::table::markdown(simulated),
        crate::table::markdown(sockets),
    )
}
