//! Files to paste into an autoscaler's configuration.

use super::{FolderError, folder};
use crate::capacity::{HPA_TOLERANCE, hpa_target};
use crate::profile::Headroom;
use crate::verdict::number;
use std::path::Path;

/// How many servers an autoscaler may keep: lowest, and highest where `[answer]` says how large the fleet is.
#[derive(Clone, Copy)]
pub(super) struct Replicas {
    min: u32,
    max: Option<u32>,
}

impl Replicas {
    pub fn of(answer: Option<Headroom>) -> Replicas {
        let survive = answer.map_or(0, |h| h.survive);
        // Nobody said how large the fleet is to become.
        let max = |h: Headroom| h.servers.saturating_mul(2).max(survive.saturating_add(2));
        Replicas { min: survive.saturating_add(1), max: answer.map(max) }
    }

    /// The two lines, by the names that the autoscaler has for them.
    fn lines(self, min: &str, max: &str) -> String {
        let most = self.max.map_or_else(String::new, |n| format!("  {max}: {n}\n"));
        format!("  {min}: {}\n{most}", self.min)
    }

    /// What a reader has to know of them; `missing`: what comes of a highest number that is left out.
    fn words(self, max: &str, missing: &str) -> String {
        match self.max {
            Some(_) => {
                "# Replicas: at least one more than may be lost, at most twice as many as [answer] has. Put in your \
                        own.\n"
                    .to_owned()
            }
            None => format!("# Replicas: without [answer], the highest number is yours to say: {max}. {missing}\n"),
        }
    }
}

/// A scaler: what each server is to carry at most of something that a query counts over the fleet.
pub(super) struct Scaler<'a> {
    /// Lines of comment.
    pub head: &'a str,
    /// What is counted: `participants`.
    pub unit: &'a str,
    pub at: f64,
    pub replicas: Replicas,
}

impl Scaler<'_> {
    /// The target, and what it has to do with the number: the headroom would else be the tolerance's.
    fn target(&self) -> (f64, String) {
        let target = hpa_target(self.at);
        let percent = number(HPA_TOLERANCE * 100.0);
        let words = format!(
            "# An HPA scales out when the average is {percent} % above its target: {target} for {at}.\n",
            at = self.at
        );
        (target, words)
    }

    /// KEDA's, on a query in PromQL.
    pub fn keda(&self, query: &str) -> String {
        let (Scaler { head, unit, replicas, .. }, (target, tolerance)) = (self, self.target());
        let max = "maxReplicaCount";
        format!(
            "{head}{tolerance}{}# Put in your names, and the query that sums up the {unit} of the fleet.\n\
             apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata:\n  name: media-servers\nspec:\n  scaleTargetRef:\n    \
             name: media-servers\n{}  triggers:\n    - type: prometheus\n      metricType: AverageValue\n      \
             metadata:\n        serverAddress: http://prometheus:9090\n        query: {query}\n        threshold: \"{target}\"\n",
            replicas.words(max, "Left out, KEDA stops at 100."),
            replicas.lines("minReplicaCount", max),
        )
    }

    /// A HorizontalPodAutoscaler's, on an external metric.
    pub fn hpa(&self, metric: &str) -> String {
        let (Scaler { head, unit, replicas, .. }, (target, tolerance)) = (self, self.target());
        let max = "maxReplicas";
        format!(
            "{head}{tolerance}{}# Put in your names; the external metric is the number of {unit} of the whole fleet.\n\
             apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata:\n  name: media-servers\nspec:\n  \
             scaleTargetRef:\n    apiVersion: apps/v1\n    kind: Deployment\n    name: media-servers\n{}  metrics:\n    - type: \
             External\n      external:\n        metric:\n          name: {metric}\n        target:\n          type: AverageValue\n          \
             averageValue: \"{target}\"\n",
            replicas.words(max, "An HPA is not taken without it."),
            replicas.lines("minReplicas", max),
        )
    }
}

/// First words of each of them.
pub(super) const SEARCH: &str = "# One server carries ";
pub(super) const MIXES: &str = "# Of all units ";

/// Writes `files`; those of `names` that an earlier judgement gave and this one does not are taken away, since their number
/// holds no longer. Tries all.
pub(super) fn write(dir: &Path, names: &[&str], files: &[(&str, String)]) -> Result<(), FolderError> {
    let one = |name: &&str| {
        let path = dir.join(name);
        match files.iter().find(|(n, _)| n == name) {
            Some((_, text)) => folder::write_whole(&path, text),
            None => remove(&path),
        }
    };
    names.iter().map(one).fold(Ok(()), Result::and)
}

/// Only what was written here: a folder named with `--out` may hold files of others.
fn remove(path: &Path) -> Result<(), FolderError> {
    let ours = match std::fs::read_to_string(path) {
        Ok(text) => text.starts_with(SEARCH) || text.starts_with(MIXES),
        Err(_) => false,
    };
    if !ours {
        return Ok(());
    }
    std::fs::remove_file(path).map_err(|source| FolderError::Remove { path: path.into(), source })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Map, Value, json};
    use std::time::Duration;

    /// The part of YAML that the files are written in, and nothing else: block maps and lists by their columns, plain and
    /// double-quoted scalars, comments on lines of their own.
    pub(in super::super) fn yaml(text: &str) -> Value {
        let bare = |l: &&str| !l.starts_with('#');
        let mut lines: Vec<(usize, &str)> =
            text.lines().filter(bare).map(|l| (l.len() - l.trim_start().len(), l.trim_start())).collect();
        assert!(lines.iter().all(|(_, l)| !l.is_empty() && !l.contains('\t') && l.trim_end() == *l), "{text}");
        let mut at = 0;
        let value = block(&mut lines, &mut at, 0);
        assert_eq!(at, lines.len(), "line {at} is of no block:\n{text}");
        value
    }

    fn block(lines: &mut [(usize, &str)], at: &mut usize, column: usize) -> Value {
        let mut items = Vec::new();
        while let Some(rest) = lines.get(*at).filter(|l| l.0 == column).and_then(|l| l.1.strip_prefix("- ")) {
            lines[*at] = (column + 2, rest);
            items.push(block(lines, at, column + 2));
        }
        if !items.is_empty() {
            return items.into();
        }
        let mut map = Map::new();
        while let Some((_, line)) = lines.get(*at).filter(|l| l.0 == column).copied() {
            let (key, rest) = line.split_once(':').unwrap_or_else(|| panic!("no key: {line}"));
            assert!(!key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric()), "{line}");
            *at += 1;
            let value = match rest.strip_prefix(' ') {
                Some(text) => scalar(text),
                None => {
                    let inner = lines.get(*at).filter(|l| rest.is_empty() && l.0 > column);
                    let inner = inner.unwrap_or_else(|| panic!("nothing under {line}")).0;
                    block(lines, at, inner)
                }
            };
            assert_eq!(map.insert(key.into(), value), None, "{key} twice");
        }
        map.into()
    }

    fn scalar(text: &str) -> Value {
        if let Some(inner) = text.strip_prefix('"') {
            return inner
                .strip_suffix('"')
                .filter(|t| !t.contains(['"', '\\']))
                .unwrap_or_else(|| panic!("{text}"))
                .into();
        }
        assert!(text.starts_with(|c: char| c.is_ascii_alphanumeric()), "{text}");
        assert!(!text.contains(": ") && !text.contains(" #"), "{text}");
        text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
    }

    fn answer(servers: u32, survive: u32) -> Headroom {
        Headroom { servers, survive, growth: 0.0, boot: Duration::ZERO }
    }

    #[test]
    fn scalers_are_what_kubernetes_and_keda_take() {
        let scaler = |answer| Scaler { head: "# x\n", unit: "participants", at: 170.0, replicas: Replicas::of(answer) };
        let keda = |answer| yaml(&scaler(answer).keda("sum(media_server_participants)"));
        let trigger = json!({
            "type": "prometheus", "metricType": "AverageValue",
            "metadata": {
                "serverAddress": "http://prometheus:9090", "query": "sum(media_server_participants)", "threshold": "154",
            },
        });
        let spec = json!({
            "scaleTargetRef": { "name": "media-servers" }, "minReplicaCount": 2, "maxReplicaCount": 24, "triggers": [trigger],
        });
        let whole = json!({
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": { "name": "media-servers" }, "spec": spec,
        });
        assert_eq!(keda(Some(answer(12, 1))), whole);
        let hpa = |answer| yaml(&scaler(answer).hpa("media_server_participants"));
        let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "media-servers" });
        let external = json!({
            "metric": { "name": "media_server_participants" }, "target": { "type": "AverageValue", "averageValue": "154" },
        });
        let spec = json!({
            "scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 24,
            "metrics": [{ "type": "External", "external": external }],
        });
        let whole = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "media-servers" },
            "spec": spec,
        });
        assert_eq!(hpa(Some(answer(12, 1))), whole);
        // With fewer servers than may come to be needed, there is still one to scale out to.
        let bounds = |v: Value| (v["spec"]["minReplicas"].clone(), v["spec"]["maxReplicas"].clone());
        assert_eq!(bounds(hpa(Some(answer(1, 0)))), (1.into(), 2.into()));
        assert_eq!(bounds(hpa(Some(answer(10, 9)))), (10.into(), 20.into()));
        // Nobody said how many: never none at all, and no number of ours for the most.
        assert_eq!(bounds(hpa(None)), (1.into(), Value::Null));
        assert_eq!(
            (&keda(None)["spec"]["minReplicaCount"], &keda(None)["spec"]["maxReplicaCount"]),
            (&1.into(), &Value::Null)
        );
        let text = scaler(None).hpa("media_server_participants");
        assert!(text.contains("yours to say: maxReplicas. An HPA is not taken without it.\n"), "{text}");
        let text = scaler(None).keda("sum(x)");
        assert!(text.contains("yours to say: maxReplicaCount. Left out, KEDA stops at 100.\n"), "{text}");
        assert!(!scaler(Some(answer(12, 1))).keda("sum(x)").contains("yours to say"));
    }

    #[test]
    fn what_an_earlier_judgement_gave_goes_and_what_others_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["capacity.env", "hpa.yaml"];
        let there = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        write(dir.path(), &names, &[("capacity.env", format!("{SEARCH}8 …\n")), ("hpa.yaml", "# mine\n".into())])
            .unwrap();
        assert!(names.iter().all(|n| there(n).is_some()));
        write(dir.path(), &names, &[]).unwrap();
        assert_eq!((there("capacity.env"), there("hpa.yaml")), (None, Some("# mine\n".into())));
        write(dir.path(), &names, &[]).unwrap();
    }
}
