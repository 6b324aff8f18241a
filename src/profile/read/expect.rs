//! Shape scale-in: `[expect]`.

use super::{RATE_MAX, RATE_MIN, View};
use crate::profile::expect::{Classes, Expect, Herd, JoinPolicy, Others, ScaleOut};

/// The table itself. Everything in it is read before the first that is wrong ends it: all errors at once.
pub(in crate::profile) fn expect(v: &mut View<'_>) -> Option<Expect> {
    let counts = ["exposed_legs", "min_servers"].map(|key| v.count(key).map(|n| n as u32));
    let join_policy = v.word("join_policy").and_then(|w| JoinPolicy::ALL.into_iter().find(|p| p.as_str() == w));
    let times = ["allowance", "drain", "exit", "ghost_allowance", "linger", "registry_ttl", "uncordon", "baseline"]
        .map(|key| v.duration(key));
    let [exclusive, cascade] = ["exclusive", "cascade"].map(|key| v.flag(key));
    let (sessions_per_leg, inconclusive) = (v.number("sessions_per_leg"), v.share("inconclusive_share_max"));
    let mut optional = |key: &str| if v.node(key).is_some() { v.duration(key).map(Some) } else { Some(None) };
    let (migration, removed_within) = (optional("migration"), optional("removed_within"));
    let removed = if v.node("removed").is_some() { v.count("removed").map(|n| Some(n as u32)) } else { Some(None) };
    if v.node("removed_within").is_some() && v.node("removed").is_none() {
        v.wrong("removed_within", "says by when, and `removed` how many servers: write that too");
    }
    let skip = v.words("skip");
    let others = v.inside("others", others);
    let herd = v.inside("herd", herd);
    let scale_out = if v.node("scale_out").is_some() { v.inside("scale_out", scale_out).map(Some) } else { Some(None) };
    let classes = v.inside("classes", classes);
    let [exposed_legs, min_servers] = counts;
    let [allowance, drain, exit, ghost_allowance, linger, registry_ttl, uncordon, baseline] = times;
    if let (Some(exit), Some(drain)) = (exit, drain)
        && exit > drain
    {
        v.wrong("exit", "is longer than `drain`, the time for the whole of it");
    }
    Some(Expect {
        exposed_legs: exposed_legs?,
        join_policy: join_policy?,
        allowance: allowance?,
        drain: drain?,
        exit: exit?,
        ghost_allowance: ghost_allowance?,
        linger: linger?,
        min_servers: min_servers?,
        exclusive: exclusive?,
        sessions_per_leg: sessions_per_leg?,
        cascade: cascade?,
        registry_ttl: registry_ttl?,
        migration: migration?,
        removed: removed?,
        removed_within: removed_within?,
        uncordon: uncordon?,
        baseline: baseline?,
        inconclusive_share_max: inconclusive?,
        skip: skip?,
        others: others?,
        herd: herd?,
        scale_out: scale_out?,
        classes: classes?,
    })
}

fn others(v: &mut View<'_>) -> Option<Others> {
    let (factor, gap, loss, join) = (v.number("factor"), v.duration("gap"), v.share("loss"), v.duration("join"));
    Some(Others { factor: factor?, gap: gap?, loss: loss?, join: join? })
}

fn herd(v: &mut View<'_>) -> Option<Herd> {
    let (rate, back_within) = (v.rate("rate"), v.duration("back_within"));
    if rate.is_some_and(|r| !(RATE_MIN..=RATE_MAX).contains(&r)) {
        v.wrong("rate", format!("a rate of rejoins is between {RATE_MIN}/s and {RATE_MAX}/s"));
        return None;
    }
    Some(Herd { rate: rate?, back_within: back_within? })
}

fn scale_out(v: &mut View<'_>) -> Option<ScaleOut> {
    let (servers, within, failed) = (v.count("servers"), v.duration("within"), v.count("joins_failed_max"));
    Some(ScaleOut { servers: servers? as u32, within: within?, joins_failed_max: failed? as u32 })
}

fn classes(v: &mut View<'_>) -> Option<Classes> {
    let (glitch, drop, one_way) = (v.duration("glitch"), v.duration("drop"), v.duration("one_way"));
    for (key, value) in [("drop", drop), ("one_way", one_way)] {
        if let (Some(glitch), Some(value)) = (glitch, value)
            && value <= glitch
        {
            v.wrong(key, "has to be longer than `glitch`");
        }
    }
    Some(Classes { glitch: glitch?, drop: drop?, one_way: one_way? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::error::{Errors, Origin};
    use crate::profile::keys;
    use crate::profile::tree;

    fn read(text: &str) -> Result<Expect, String> {
        let mut errors = Errors::default();
        let mut file = tree::parse("p.toml", text, &mut errors);
        let top = file.root.as_table_mut().unwrap();
        keys::complete(
            top.get_mut("expect").unwrap().as_table_mut().unwrap(),
            &Origin::Default,
            "expect",
            "expect",
            false,
            &mut errors,
        );
        let node = file.root.as_table().unwrap().get("expect").unwrap();
        let read = View::new(node, "expect", "expect".into(), &mut errors).and_then(|mut v| expect(&mut v));
        match errors.is_empty() {
            true => Ok(read.unwrap()),
            false => Err(errors.finish().to_string()),
        }
    }

    #[test]
    fn an_empty_table_means_the_defaults() {
        assert_eq!(read("[expect]").unwrap(), Expect::default());
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = "[expect]\nexposed_legs = 40\njoin_policy = \"reject\"\nexclusive = true\nmigration = \"300ms\"\nremoved = 2\n\
            removed_within = \"10m\"\nskip = [\"I5\", \"I8\"]\nsessions_per_leg = 2\n[expect.scale_out]\nwithin = \"2m\"\n\
            [expect.herd]\nrate = \"3/s\"\n[expect.classes]\ndrop = \"20s\"";
        let e = read(text).unwrap();
        assert_eq!((e.exposed_legs, e.join_policy, e.removed), (40, JoinPolicy::Reject, Some(2)));
        assert_eq!((e.herd.rate, e.skip.len(), e.scale_out.unwrap().servers), (3.0, 2, 1));
        for e in [e, Expect::default()] {
            assert_eq!(read(&e.written()).unwrap(), e);
        }
    }

    #[test]
    fn all_that_is_wrong_comes_at_once() {
        let text = "[expect]\nexposed_legs = 0\njoin_policy = \"stay\"\nallowance = 2\nexit = \"1h\"\nskip = [\"I99\", 3]\n\
            removed_within = \"1m\"\nghosts = 1\n[expect.others]\nfactor = 0.5\n[expect.herd]\nrate = \"0/s\"\n\
            [expect.classes]\nglitch = \"10s\"";
        let errors = read(text).unwrap_err();
        for words in [
            "p.toml:2: expect.exposed_legs: 0 is out of range",
            "expect.join_policy: \"stay\" is unknown",
            "expect.allowance: a bare number is a count",
            "expect.exit: is longer than `drain`",
            "expect.skip[0]: \"I99\" is unknown",
            "expect.skip[1]: is text in quotes",
            "expect.removed_within: says by when",
            "expect.ghosts: unknown key",
            "expect.others.factor: 0.5 is out of range",
            "expect.herd.rate: a rate of rejoins",
            "expect.classes.one_way: has to be longer",
        ] {
            assert!(errors.contains(words), "{words}\n{errors}");
        }
    }
}
