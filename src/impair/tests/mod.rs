//! What holds for every link, whatever it is set to.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

const MS: u64 = 1_000_000;

fn conditions() -> impl Strategy<Value = Conditions> {
    let us = |most: u64| (0..most).prop_map(Duration::from_micros);
    let loss = prop_oneof![
        Just(Loss::None),
        (0.0..1.0).prop_map(Loss::Independent),
        (0.01..0.3, 1.0..20.0)
            .prop_map(|(share, mean)| Loss::Bursts { share, mean, bad: 1.0, good: 0.0 }.check().unwrap_or_default()),
    ];
    let jitter = (us(50_000), any::<bool>(), any::<bool>()).prop_map(|(mean, exponential, reorders)| {
        let distribution = if exponential { Distribution::Exponential } else { Distribution::Uniform };
        Some(Jitter { mean, distribution, reorders })
    });
    let queue = prop_oneof![(1500u64..100_000).prop_map(Queue::Bytes), us(500_000).prop_map(Queue::Time)];
    let rate = (64_000u64..20_000_000, queue).prop_map(|(bits_per_s, queue)| Some(Rate { bits_per_s, queue }));
    let hold_back = (0.0..0.3, us(80_000)).prop_map(|(share, by)| Some(HoldBack { share, by }));
    let blackout = (us(1_000_000), us(400_000), prop::option::of(us(3_000_000)))
        .prop_map(|(after, lasts, every)| Some(Blackout { after, lasts, every }));
    let none = |s| prop_oneof![Just(None), s];
    (loss, us(300_000), none(jitter.boxed()), prop_oneof![Just(None), hold_back], 0.0..0.2, 0.0..0.2)
        .prop_flat_map(move |(loss, delay, jitter, hold_back, duplicate, corrupt)| {
            let c = Conditions { loss, delay, jitter, hold_back, duplicate, corrupt, ..Conditions::default() };
            let (rate, blackout) = (rate.clone(), blackout.clone());
            (Just(c), prop_oneof![Just(None), rate], prop_oneof![Just(None), blackout], us(500_000))
        })
        .prop_map(|(c, rate, blackout, after)| Conditions { rate, blackout, after, ..c })
}

/// Sizes and gaps of a flow.
fn flow() -> impl Strategy<Value = Vec<(u64, usize)>> {
    prop::collection::vec((0u64..30 * MS, 1usize..1400), 1..400)
}

/// What came of a flow: datagrams in order of leaving (due, number), and the link.
fn carry(c: Conditions, seed: u64, flow: &[(u64, usize)]) -> (Vec<(u64, u32)>, Link) {
    let mut link = Link::new(c, super::seed(seed, 1, 0)).recorded();
    let mut held = Delayed::default();
    let (mut out, mut now) = (Vec::new(), 1_000 * MS);
    let mut drain = |held: &mut Delayed<u32>, until: u64| {
        while let Some(p) = held.pop(until) {
            out.push((p.due_ns, p.tag));
            held.recycle(p);
        }
    };
    for (n, (gap, size)) in flow.iter().enumerate() {
        now += gap;
        drain(&mut held, now);
        let datagram = vec![0x80; *size];
        if let Fate::Passed(p) = link.offer(now, &datagram) {
            assert!(p.due_ns >= now);
            for _ in 0..=usize::from(p.twice) {
                p.corrupt(held.push(p.due_ns, n as u32, &datagram));
            }
        }
    }
    drain(&mut held, u64::MAX);
    assert!(held.is_empty());
    (out, link)
}

proptest! {
    #[test]
    fn what_came_left_or_was_lost(c in conditions(), seed in any::<u64>(), flow in flow()) {
        let (out, link) = carry(c, seed, &flow);
        let k = link.counters();
        prop_assert_eq!(k.received, flow.len() as u64);
        prop_assert_eq!(k.received + k.duplicated, out.len() as u64 + k.gone());
        let records: Vec<Record> = link.records().copied().collect();
        prop_assert_eq!(records.len(), flow.len());
        prop_assert_eq!(records.iter().filter(|r| r.lost.is_some()).count() as u64, k.gone());
        prop_assert_eq!(records.iter().filter(|r| r.twice).count() as u64, k.duplicated);
        prop_assert_eq!(records.iter().filter(|r| r.corrupted).count() as u64, k.corrupted);
        // Late at most by what the conditions say.
        for r in records.iter().filter(|r| r.lost.is_none()) {
            prop_assert!(Duration::from_nanos(r.left_ns - r.came_ns) <= c.longest() + Duration::from_millis(400), "{r}");
        }
    }

    #[test]
    fn order_is_kept_where_nothing_reorders(c in conditions(), seed in any::<u64>(), flow in flow()) {
        let jitter = c.jitter.map(|j| Jitter { reorders: false, ..j });
        let (out, _) = carry(Conditions { jitter, hold_back: None, ..c }, seed, &flow);
        prop_assert!(out.is_sorted_by_key(|(_, n)| *n));
        prop_assert!(out.is_sorted_by_key(|(due, _)| *due));
    }

    #[test]
    fn the_same_seed_does_the_same_and_another_does_not_share_it(c in conditions(), s in any::<u64>(), flow in flow()) {
        let (a, link) = carry(c, s, &flow);
        let (b, again) = carry(c, s, &flow);
        prop_assert_eq!(a, b);
        prop_assert!(link.records().eq(again.records()));
    }

    #[test]
    fn half_of_the_loss_loses_a_part_of_the_whole(p in 0.01f64..1.0, s in any::<u64>(), flow in flow()) {
        let lost = |p| {
            let (_, link) = carry(Conditions { loss: Loss::Independent(p), ..Conditions::default() }, s, &flow);
            link.records().map(|r| r.lost.is_some()).collect::<Vec<_>>()
        };
        prop_assert!(lost(p / 2.0).iter().zip(lost(p)).all(|(half, whole)| !half || whole));
    }

    #[test]
    fn a_bottleneck_lets_no_more_through_than_its_rate_and_holds_no_more_than_its_queue(
        bits in 64_000u64..5_000_000, queue_us in 0u64..300_000, s in any::<u64>(), flow in flow(),
    ) {
        let queue = Duration::from_micros(queue_us);
        let rate = Rate { bits_per_s: bits, queue: Queue::Time(queue) };
        let (_, link) = carry(Conditions { rate: Some(rate), ..Conditions::default() }, s, &flow);
        let passed: Vec<&Record> = link.records().filter(|r| r.lost.is_none()).collect();
        let bits_of = |r: &Record| (usize::from(r.len) + WIRE_OVERHEAD) as u64 * 8;
        for (i, first) in passed.iter().enumerate().step_by(7) {
            // From the beginning of service of the first to the departure of each later one.
            let mut sent = 0;
            for r in &passed[i..] {
                sent += bits_of(r);
                let ns = r.left_ns - (first.left_ns - rate.longest(0).as_nanos() as u64).min(first.came_ns);
                prop_assert!(sent <= bits * ns / 1_000_000_000 + bits_of(first) + 8);
            }
        }
        for r in passed {
            let service = Duration::from_nanos(bits_of(r) * 1_000_000_000 / bits);
            prop_assert!(Duration::from_nanos(r.left_ns - r.came_ns) <= queue + service + Duration::from_nanos(2));
        }
    }

    #[test]
    fn a_line_of_a_log_reads_back(c in conditions(), s in any::<u64>(), flow in flow()) {
        let (_, link) = carry(c, s, &flow);
        for r in link.records() {
            prop_assert_eq!(r.to_string().parse(), Ok(*r));
        }
    }

    #[test]
    fn no_line_makes_the_reader_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<Record>();
    }
}

fn passes(link: &mut Link, now: u64) -> bool {
    matches!(link.offer(now, &[0; 100]), Fate::Passed(_))
}

#[test]
fn bursts_have_the_loss_and_the_length_that_were_asked_for() {
    for (share, mean, bad, good) in [(0.02, 5.0, 1.0, 0.0), (0.1, 12.0, 0.5, 0.01), (0.3, 3.0, 1.0, 0.0)] {
        let loss = Loss::Bursts { share, mean, bad, good }.check().unwrap();
        let n = 400_000u64;
        let mut link = Link::new(Conditions { loss, ..Conditions::default() }, seed(4, 2, 1));
        let (mut lost, mut runs, mut before) = (0u64, 0u64, false);
        for i in 0..n {
            let l = !passes(&mut link, i * MS);
            lost += u64::from(l);
            runs += u64::from(l && !before);
            before = l;
        }
        let got = lost as f64 / n as f64;
        // A mean over bursts has the spread of as many independent draws as there are bursts, at most.
        let sigma = (share * (1.0 - share) * 2.0 * mean / n as f64).sqrt();
        assert!((got - share).abs() < 5.0 * sigma, "{got} instead of {share}, sigma {sigma}");
        if bad == 1.0 && good == 0.0 {
            let length = lost as f64 / runs as f64;
            assert!((length - mean).abs() < 0.06 * mean, "bursts of {length} instead of {mean}");
        }
    }
    let wrong = |share, mean, bad, good| Loss::Bursts { share, mean, bad, good }.check().unwrap_err();
    assert_eq!(wrong(0.02, 5.0, 0.01, 0.0), Problem::LossOutside);
    assert_eq!(wrong(0.02, 5.0, 1.0, 0.03), Problem::LossOutside);
    assert_eq!(wrong(0.9, 1.0, 1.0, 0.0), Problem::BurstTooShort);
}

#[test]
fn shares_are_what_they_say() {
    let c = Conditions {
        loss: Loss::Independent(0.05),
        duplicate: 0.03,
        corrupt: 0.02,
        hold_back: Some(HoldBack { share: 0.1, by: Duration::from_millis(5) }),
        ..Conditions::default()
    };
    let mut link = Link::new(c, seed(1, 2, 3)).recorded();
    for i in 0..100_000 {
        link.offer(i * MS, &[0; 40]);
    }
    let k = link.counters();
    for (got, of, share) in
        [(k.lost, 100_000, 0.05), (k.duplicated, 100_000 - k.lost, 0.03), (k.corrupted, 100_000 - k.lost, 0.02)]
    {
        let n = of as f64;
        let sigma = (n * share * (1.0f64 - share)).sqrt();
        assert!((got as f64 - n * share).abs() < 5.0 * sigma, "{got} of {of} instead of {share}");
    }
    let held = link.records().filter(|r| r.left_ns > r.came_ns).count();
    assert!((9_000..10_000).contains(&held), "{held} of some 95,000");
}

#[test]
fn jitter_has_its_mean_and_its_end() {
    for distribution in [Distribution::Uniform, Distribution::Exponential] {
        let j = Jitter { mean: Duration::from_millis(10), distribution, reorders: true };
        let c = Conditions { delay: Duration::from_millis(30), jitter: Some(j), ..Conditions::default() };
        let mut link = Link::new(c, seed(9, 9, 9)).recorded();
        for i in 0..50_000 {
            link.offer(i * MS, &[0; 40]);
        }
        let added: Vec<u64> = link.records().map(|r| r.left_ns - r.came_ns - 30 * MS).collect();
        let mean = added.iter().sum::<u64>() as f64 / added.len() as f64 / MS as f64;
        assert!((mean - 10.0).abs() < 0.3, "{mean}");
        assert!(added.iter().all(|a| Duration::from_nanos(*a) <= j.longest()));
        let left: Vec<u64> = link.records().map(|r| r.left_ns).collect();
        let overtaken = left.windows(2).filter(|w| w[1] < w[0]).count();
        assert!(overtaken > 10_000, "{overtaken}");
    }
}

#[test]
fn black_outs_come_when_they_are_due() {
    let ms = Duration::from_millis;
    let blackout = Blackout { after: ms(1000), lasts: ms(200), every: Some(ms(500)) };
    let mut link = Link::new(Conditions { blackout: Some(blackout), ..Conditions::default() }, seed(0, 0, 0));
    let dark: Vec<u64> = (0..2000).filter(|i| !passes(&mut link, 5_000 * MS + i * MS)).collect();
    let expected: Vec<u64> = (1000..1200).chain(1500..1700).collect();
    assert_eq!(dark, expected);
    assert_eq!(link.counters().blacked_out, 400);
}

#[test]
fn until_it_begins_the_network_is_perfect() {
    let c = Conditions {
        loss: Loss::Independent(1.0),
        delay: Duration::from_millis(9),
        after: Duration::from_millis(50),
        ..Conditions::default()
    };
    let mut link = Link::new(c, seed(0, 0, 0)).recorded();
    for i in 0..100 {
        assert_eq!(passes(&mut link, i * MS), i < 50);
    }
    assert!(link.records().take(50).all(|r| r.left_ns == r.came_ns));
}

#[test]
fn a_turned_bit_is_one_bit() {
    let mut link = Link::new(Conditions { corrupt: 1.0, ..Conditions::default() }, seed(3, 0, 0));
    for len in [1usize, 12, 1200] {
        let clean = vec![0u8; len];
        let Fate::Passed(p) = link.offer(0, &clean) else { panic!("lost") };
        let mut dirty = clean.clone();
        p.corrupt(&mut dirty);
        assert_eq!(dirty.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
    }
    assert!(matches!(link.offer(0, &[]), Fate::Passed(Passage { flip: None, .. })), "nothing to turn over");
}

#[test]
fn flows_and_directions_do_not_share_their_fate() {
    let lost = |flow, direction| {
        let c = Conditions { loss: Loss::Independent(0.5), ..Conditions::default() };
        let mut link = Link::new(c, seed(7, flow, direction));
        (0..64).fold(0u64, |bits, i| bits << 1 | u64::from(passes(&mut link, i)))
    };
    assert_eq!(lost(1, 0), lost(1, 0));
    assert_ne!(lost(1, 0), lost(1, 1));
    assert_ne!(lost(1, 0), lost(2, 0));
}

#[test]
fn every_preset_is_one() {
    for name in PRESETS {
        let p = preset(name).unwrap();
        assert_eq!(p.name, *name);
        assert!(!p.source.is_empty());
        for c in [p.up, p.down] {
            assert_eq!(c.loss.check(), Ok(c.loss), "{name}");
            assert!(!c.is_perfect(), "{name}");
            assert!(c.longest() < Duration::from_secs(1), "{name}: {:?}", c.longest());
        }
    }
    assert_eq!(preset("moon"), None);
}

#[test]
fn buffers_are_used_again() {
    let mut held: Delayed<()> = Delayed::default();
    let mut round = |n: u64| {
        for i in 0..100 {
            held.push(n + i, (), &[1; 900]);
        }
        let mut memory = Vec::new();
        while let Some(p) = held.pop(u64::MAX) {
            memory.push(p.data.as_ptr() as usize);
            held.recycle(p);
        }
        memory.sort_unstable();
        memory
    };
    assert_eq!(round(0), round(1000));
}

#[test]
fn records_can_be_taken_while_later_ones_are_still_under_way() {
    let mut link = Link::new(Conditions::PERFECT, seed(0, 0, 0)).recorded();
    let mut numbers = Vec::new();
    for i in 0..10 {
        let Fate::Passed(p) = link.offer(i * MS, &[0; 20]) else { panic!("lost") };
        numbers.push(p.record);
    }
    let mut taken = Vec::new();
    let mut take = |r: &Record| {
        taken.push(r.came_ns / MS);
        Ok::<(), ()>(())
    };
    link.drain_records(4 * MS, &mut take).unwrap();
    assert_eq!(taken, [0, 1, 2, 3]);
    assert_eq!(link.drain_records(u64::MAX, |_| Err("full")), Err("full"));
    link.left(numbers[2], 77);
    link.left(numbers[6], 99);
    let left: Vec<u64> = link.records().map(|r| r.left_ns).collect();
    assert_eq!(left, [4 * MS, 5 * MS, 99, 7 * MS, 8 * MS, 9 * MS]);
}

/// A direction as docs/impairments.md says it.
fn words(c: &Conditions) -> String {
    let ms = |d: Duration| format!("{} ms", d.as_secs_f64() * 1000.0);
    let percent = |share: f64| format!("{} %", (share * 1e8).round() / 1e6);
    let mut parts = vec![ms(c.delay)];
    parts.extend(c.jitter.map(|j| {
        let shape = if j.distribution == Distribution::Uniform { "uniform" } else { "exponential" };
        format!("{shape} jitter {}", ms(j.mean))
    }));
    parts.extend(c.rate.map(|r| match r.queue {
        Queue::Time(t) => format!("{} kbit/s with a queue of {}", r.bits_per_s / 1000, ms(t)),
        Queue::Bytes(b) => format!("{} kbit/s with a queue of {b} bytes", r.bits_per_s / 1000),
    }));
    match c.loss {
        Loss::None => {}
        Loss::Independent(p) => parts.push(format!("{} loss", percent(p))),
        Loss::Bursts { share, mean, bad, good } => parts.push(format!(
            "{} loss in bursts of {mean} ({} inside, {} outside)",
            percent(share),
            percent(bad),
            percent(good)
        )),
    }
    parts.extend(c.hold_back.map(|h| format!("{} held back {}", percent(h.share), ms(h.by))));
    parts.join(", ")
}

#[test]
fn the_documentation_has_every_preset_as_it_is() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/impairments.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let rows = PRESETS.iter().map(|name| {
        let p = preset(name).unwrap();
        let down = if p.down == p.up { "the same".to_owned() } else { words(&p.down) };
        format!("| `{name}` | {} | {down} | {} |\n", words(&p.up), p.source)
    });
    let table: String = rows.collect();
    assert!(docs.contains(&table), "the table should be:\n{table}");
}
