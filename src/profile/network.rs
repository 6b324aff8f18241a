//! Networks: from the keys of a `network` table to the conditions of its two directions.

use super::read::View;
use super::resolved::Network;
use super::tree::Value;
use super::units::{parse_bit_rate, parse_queue};
use crate::impair::{Blackout, Conditions, Distribution, HoldBack, Jitter, Loss, Queue, Rate, preset};
use std::time::Duration;

/// Longer than any real queue stands; calls and their ends are waited for as long.
const QUEUE_DRAINS_MAX: Duration = Duration::from_secs(60);

/// What a bottleneck holds where nothing is said.
pub(super) const QUEUE: Queue = Queue::Time(Duration::from_millis(200));
/// How long datagrams are held back where nothing is said.
pub(super) const HOLD_BACK: Duration = Duration::from_millis(20);

/// The `network` of a profile or of a group of rooms; empty where it has none. `None` only where errors say why.
pub(super) fn read(v: &mut View<'_>) -> Option<Vec<Network>> {
    let all = v.like("network", one)?;
    let sum: f64 = all.iter().map(|n| n.share).sum();
    if sum > 1.0 + 1e-9 {
        v.wrong("network", format!("its shares add up to {:.4}% of the participants", sum * 100.0));
        return None;
    }
    Some(all)
}

/// The keys of one `network` table.
pub(super) fn one(v: &mut View<'_>) -> Option<Network> {
    let name = optional(v, "preset", View::word)?;
    let named = name.and_then(preset);
    let share = v.share("share");
    let (mut up, mut down) = named.map_or_else(Default::default, |p| (Some(p.up), Some(p.down)));
    for (direction, short, conditions) in [("up", "loss_up", &mut up), ("down", "loss_down", &mut down)] {
        let base = conditions.unwrap_or_default();
        let long = v.node(direction).and_then(|n| n.as_table()).is_some_and(|t| t.get("loss").is_some());
        let plain = optional(v, short, View::share);
        if long && v.node(short).is_some() {
            v.wrong(short, format!("and `{direction}.loss` say the same thing twice"));
            return None;
        }
        *conditions = match v.node(direction) {
            None => Some(base),
            Some(_) if direction == "up" => v.inside("up", |v| conditions_of(v, base)),
            Some(_) => v.like("down", |v| conditions_of(v, base)).and_then(|mut all| all.pop()),
        };
        match (plain, conditions) {
            (Some(Some(share)), Some(c)) => c.loss = plain_loss(share),
            (Some(_), _) => {}
            (None, c) => *c = None,
        }
    }
    Some(Network { preset: named.map(|p| p.name), share: share?, up: up?, down: down? })
}

fn plain_loss(share: f64) -> Loss {
    if share > 0.0 { Loss::Independent(share) } else { Loss::None }
}

/// `Some(None)`: the key is not there. `None`: it is wrong.
fn optional<'a, T>(
    v: &mut View<'a>,
    key: &str,
    read: impl FnOnce(&mut View<'a>, &str) -> Option<T>,
) -> Option<Option<T>> {
    if v.node(key).is_none() {
        return Some(None);
    }
    read(v, key).map(Some)
}

/// The keys of one direction, on top of what a preset says.
fn conditions_of(v: &mut View<'_>, base: Conditions) -> Option<Conditions> {
    let loss = loss(v, base.loss);
    let jitter = jitter(v, base.jitter);
    let hold_back = hold_back(v, base.hold_back);
    let rate = rate(v, base.rate);
    let blackout = blackout(v, base.blackout);
    let delay = optional(v, "delay", View::duration);
    let (duplicate, corrupt) = (optional(v, "duplicate", View::share), optional(v, "corrupt", View::share));
    let after = optional(v, "after", View::duration);
    Some(Conditions {
        loss: loss?,
        delay: delay?.unwrap_or(base.delay),
        jitter: jitter?,
        hold_back: hold_back?,
        duplicate: duplicate?.unwrap_or(base.duplicate),
        corrupt: corrupt?.unwrap_or(base.corrupt),
        rate: rate?,
        blackout: blackout?,
        after: after?.unwrap_or(base.after),
    })
}

/// A key that says nothing without another one.
fn needs(v: &mut View<'_>, key: &str, other: &str) -> Option<()> {
    if v.node(key).is_some() {
        v.wrong(key, format!("means nothing without `{other}`"));
        return None;
    }
    Some(())
}

fn loss(v: &mut View<'_>, base: Loss) -> Option<Loss> {
    let share = optional(v, "loss", View::share);
    let mean = optional(v, "burst", View::number);
    let (bad, good) = (optional(v, "burst_loss", View::share), optional(v, "base_loss", View::share));
    let (share, mean, bad, good) = (share?, mean?, bad?, good?);
    let before = match base {
        Loss::Bursts { mean, bad, good, .. } => Some((mean, bad, good)),
        Loss::None | Loss::Independent(_) => None,
    };
    let touched = mean.is_some() || bad.is_some() || good.is_some();
    let share = match share {
        // A plain share replaces the whole process of the preset.
        Some(share) if !touched => return Some(plain_loss(share)),
        None if !touched => return Some(base),
        Some(share) => share,
        None => base.share(),
    };
    let Some(mean) = mean.or(before.map(|b| b.0)) else {
        for key in ["burst_loss", "base_loss"] {
            needs(v, key, "burst")?;
        }
        return None;
    };
    if share <= 0.0 {
        let key = ["burst", "burst_loss", "base_loss"].into_iter().find(|k| v.node(k).is_some()).unwrap_or("burst");
        v.wrong(key, "means nothing without `loss`");
        return None;
    }
    let (bad, good) = (bad.or(before.map(|b| b.1)).unwrap_or(1.0), good.or(before.map(|b| b.2)).unwrap_or(0.0));
    match (Loss::Bursts { share, mean, bad, good }).check() {
        Ok(loss) => Some(loss),
        Err(why) => {
            let key = if v.node("loss").is_some() { "loss" } else { "burst" };
            v.wrong(key, format!("a loss of {}% {why}", share * 100.0));
            None
        }
    }
}

fn jitter(v: &mut View<'_>, base: Option<Jitter>) -> Option<Option<Jitter>> {
    let mean = optional(v, "jitter", View::duration);
    let shape = optional(v, "jitter_shape", View::word);
    let reorders = optional(v, "jitter_reorders", View::flag);
    let (mean, shape, reorders) = (mean?.or(base.map(|b| b.mean)), shape?, reorders?);
    let Some(mean) = mean.filter(|m| !m.is_zero()) else {
        needs(v, "jitter_shape", "jitter")?;
        needs(v, "jitter_reorders", "jitter")?;
        return Some(None);
    };
    let distribution = match shape {
        Some("exponential") => Distribution::Exponential,
        Some(_) => Distribution::Uniform,
        None => base.map_or(Distribution::Uniform, |b| b.distribution),
    };
    Some(Some(Jitter { mean, distribution, reorders: reorders.unwrap_or(base.is_some_and(|b| b.reorders)) }))
}

fn hold_back(v: &mut View<'_>, base: Option<HoldBack>) -> Option<Option<HoldBack>> {
    let share = optional(v, "reorder", View::share);
    let by = optional(v, "reorder_by", View::duration);
    let (share, by) = (share?.or(base.map(|b| b.share)), by?);
    let Some(share) = share.filter(|s| *s > 0.0) else {
        needs(v, "reorder_by", "reorder")?;
        return Some(None);
    };
    Some(Some(HoldBack { share, by: by.or(base.map(|b| b.by)).unwrap_or(HOLD_BACK) }))
}

fn rate(v: &mut View<'_>, base: Option<Rate>) -> Option<Option<Rate>> {
    let bits = optional(v, "rate", |v, k| v.parsed(k, parse_bit_rate));
    let queue = optional(v, "queue", |v, k| v.parsed(k, parse_queue));
    let (bits, queue) = (bits?, queue?);
    let bits = match bits {
        Some(said) => said,
        None => base.map(|b| b.bits_per_s),
    };
    let Some(bits_per_s) = bits else {
        needs(v, "queue", "rate")?;
        return Some(None);
    };
    let rate = Rate { bits_per_s, queue: queue.or(base.map(|b| b.queue)).unwrap_or(QUEUE) };
    let drains = rate.longest(1500);
    if drains > QUEUE_DRAINS_MAX {
        let key = if v.node("queue").is_some() { "queue" } else { "rate" };
        let text = format!(
            "a full queue would take {:.0} s to leave at this rate; at most {} s",
            drains.as_secs_f64(),
            QUEUE_DRAINS_MAX.as_secs()
        );
        v.wrong(key, text);
        return None;
    }
    Some(Some(rate))
}

fn blackout(v: &mut View<'_>, base: Option<Blackout>) -> Option<Option<Blackout>> {
    let lasts = optional(v, "blackout", View::duration);
    let after = optional(v, "blackout_after", View::duration);
    let every = optional(v, "blackout_every", View::duration);
    let (lasts, after, every) = (lasts?.or(base.map(|b| b.lasts)), after?, every?);
    let Some(lasts) = lasts.filter(|l| !l.is_zero()) else {
        needs(v, "blackout_after", "blackout")?;
        needs(v, "blackout_every", "blackout")?;
        return Some(None);
    };
    let every = every.or(base.and_then(|b| b.every));
    if every.is_some_and(|e| e <= lasts) {
        v.wrong("blackout_every", "a black-out must end before the next one begins");
        return None;
    }
    Some(Some(Blackout { after: after.or(base.map(|b| b.after)).unwrap_or_default(), lasts, every }))
}

/// The networks of an inline table or array by itself, as a command line gives it.
///
/// # Errors
/// As for a profile.
pub fn parse(text: &str) -> Result<Vec<Network>, super::ProfileErrors> {
    let at = super::Origin::Set("--network".into());
    let mut errors = super::error::Errors::default();
    let text = text.trim();
    let text = if text.starts_with(['{', '[']) { text.to_owned() } else { format!("{{ {text} }}") };
    let mut node = super::tree::parse_value(&text, &at);
    if let Value::Text(_) = node.value {
        errors.push(&at, "network", format!("{text} is no TOML table; write it as in {{ up = {{ loss = \"2%\" }} }}"));
        return Err(errors.finish());
    }
    let mut top = super::tree::Table::default();
    node.at = at.clone();
    top.set("network", node);
    super::keys::complete_network(&mut top, &mut errors);
    let root = super::tree::Node { at, value: Value::Table(top) };
    let networks = View::new(&root, "", String::new(), &mut errors).and_then(|mut v| read(&mut v));
    match (networks, errors.is_empty()) {
        (Some(networks), true) => Ok(networks),
        _ => Err(errors.finish()),
    }
}
