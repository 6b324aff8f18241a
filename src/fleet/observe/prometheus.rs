//! The text that Prometheus endpoints give (exposition format 0.0.4).

use std::collections::BTreeSet;

/// Sum of the series of this name that have all these labels; `None` where there is none, or none that is a number.
pub(in crate::fleet) fn sum(text: &str, name: &str, labels: &[(String, String)]) -> Option<f64> {
    let of = series(text, name).filter(|(of, _)| labels.iter().all(|(label, value)| has(of, label, value)));
    of.map(|(_, value)| value).reduce(|a, b| a + b)
}

/// Beginnings of the names of interfaces that lead nowhere outside, or whose traffic is counted at another one: the
/// loopback, bridges, the far ends of containers' links, tunnels, bonds.
const INSIDE: &[&str] = &[
    "azv",
    "bond",
    "br",
    "cali",
    "cilium",
    "cni",
    "docker",
    "dummy",
    "eni",
    "flannel",
    "geneve",
    "gke",
    "gre",
    "ifb",
    "ipip",
    "kube",
    "lo",
    "lxc",
    "lxd",
    "nerdctl",
    "nodelocaldns",
    "ovs",
    "podman",
    "sit",
    "tap",
    "team",
    "tun",
    "veth",
    "virbr",
    "vmbr",
    "vxlan",
    "weave",
    "wg",
];

/// True for an interface that leads outside; of those on top of another one (VLANs) only that one does.
fn is_outside(interface: &str) -> bool {
    !INSIDE.iter().any(|inside| interface.starts_with(inside)) && !interface.contains(['.', '@'])
}

/// Sum of the series of this name over the interfaces that lead outside.
pub(super) fn sum_outside(text: &str, name: &str) -> Option<f64> {
    sum_of(text, name, |_| true)
}

fn sum_of(text: &str, name: &str, meant: impl Fn(&str) -> bool) -> Option<f64> {
    let leads_outside = |of: &str| {
        // cAdvisor's label, and the node exporter's.
        let interface = label(of, "interface").or_else(|| label(of, "device"));
        interface.is_none_or(is_outside)
    };
    let of = series(text, name).filter(|(of, _)| meant(of) && leads_outside(of));
    of.map(|(_, value)| value).reduce(|a, b| a + b)
}

/// The only container that an endpoint of cAdvisor's tells of. The cgroups above a container have series of their own,
/// with a beginning of its id. Where it tells of several, nobody knows which one is meant.
pub(super) struct Container {
    /// Cgroups in which nothing else is.
    innermost: Vec<String>,
    /// It is cAdvisor's: series of containers name their cgroups.
    named: bool,
}

impl Container {
    pub fn of(text: &str) -> Container {
        let of_containers = text.lines().filter(|l| l.starts_with("container_"));
        let all: BTreeSet<&str> = of_containers.filter_map(|l| label(l.split_once('{')?.1, "id")).collect();
        let above =
            |id: &str| id == "/" || all.iter().any(|other| other.strip_prefix(id).is_some_and(|r| r.starts_with('/')));
        let innermost = all.iter().filter(|id| !above(id)).map(|id| (*id).to_owned()).collect();
        Container { innermost, named: !all.is_empty() }
    }

    /// Series name the cgroups that they are of.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// There are several.
    pub fn has_others(&self) -> bool {
        self.innermost.len() > 1
    }

    fn only(&self) -> Option<&str> {
        if let [only] = &self.innermost[..] { Some(only) } else { None }
    }

    /// Sum of its series of this name; where no series names a cgroup, of all.
    pub fn sum(&self, text: &str, name: &str) -> Option<f64> {
        if !self.named {
            return sum(text, name, &[]);
        }
        sum(text, name, &[("id".to_owned(), self.only()?.to_owned())])
    }

    /// What it sent over interfaces that lead outside. A pod's network belongs to the cgroup around its containers.
    pub fn sent(&self, text: &str, name: &str) -> Option<f64> {
        if !self.named {
            return sum_outside(text, name);
        }
        let only = self.only()?;
        let around = only.rsplit_once('/').map(|(around, _)| around).filter(|id| !id.is_empty());
        let of = |id: &str| sum_of(text, name, |series| label(series, "id") == Some(id));
        of(only).or_else(|| of(around?))
    }

    /// Cores that its quota allows: the lowest of its own and of those around it.
    pub fn quota(&self, text: &str) -> Option<f64> {
        let of = |name: &str, id: &str| sum(text, name, &[("id".to_owned(), id.to_owned())]);
        let only = self.only()?;
        let ends = only.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([only.len()]);
        let cores = |end: usize| {
            let quota = of("container_spec_cpu_quota", &only[..end]).filter(|q| *q > 0.0)?;
            let period = of("container_spec_cpu_period", &only[..end]).filter(|p| *p > 0.0)?;
            Some(quota / period)
        };
        ends.filter_map(cores).reduce(f64::min)
    }
}

/// Labels and value of each series of this name.
fn series<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (series, value) = match rest.strip_prefix('{') {
            // A label's value may hold anything, braces too; what follows the last one is a number and a time.
            Some(inner) => inner.rsplit_once('}')?,
            None if rest.starts_with([' ', '\t']) => ("", rest),
            None => return None,
        };
        // NaN is what clients export when they have nothing to say.
        let value = value.split_whitespace().next()?.parse::<f64>().ok().filter(|v| v.is_finite())?;
        Some((series, value))
    })
}

/// A label's value, without quotes in it.
fn label<'a>(series: &'a str, label: &str) -> Option<&'a str> {
    let wanted = format!("{label}=\"");
    let at = series.match_indices(&wanted).map(|(at, _)| at);
    let at = at.into_iter().find(|at| *at == 0 || series[..*at].trim_end().ends_with(','))?;
    series[at + wanted.len()..].split('"').next()
}

fn has(series: &str, label: &str, value: &str) -> bool {
    let wanted = format!("{label}=\"{value}\"");
    series.match_indices(&wanted).any(|(at, _)| at == 0 || series[..at].trim_end().ends_with(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_container_is_told_from_the_groups_above_it_and_from_others() {
        let line = |id: &str, value: u32| {
            format!(
                "container_cpu_usage_seconds_total{{container=\"x\",cpu=\"total\",id=\"{id}\"}} {value} 1700000000000\n"
            )
        };
        let name = "container_cpu_usage_seconds_total";
        let of = |text: &str| Container::of(text).sum(text, name);
        let one =
            line("/", 100) + &line("/kubepods", 60) + &line("/kubepods/pod1", 41) + &line("/kubepods/pod1/c1", 40);
        assert_eq!(of(&one), Some(40.0));
        assert_eq!(of(&(one.clone() + &line("/kubepods/pod2/c2", 9))), None, "which of them?");
        // Another one is there, whatever is told of it.
        assert_eq!(of(&(one.clone() + "container_last_seen{id=\"/kubepods/pod1/c2\"} 1\n")), None);
        assert_eq!(of("container_cpu_usage_seconds_total{pod=\"a\"} 3\n"), Some(3.0));
        assert_eq!((of(""), of(&line("/", 1))), (None, None));
    }

    #[test]
    fn traffic_is_that_of_the_one_container_over_interfaces_that_lead_outside() {
        let name = "container_network_transmit_bytes_total";
        let line = |id: &str, interface: &str, value: u32| {
            format!("{name}{{id=\"{id}\",image=\"x\",interface=\"{interface}\"}} {value} 1700000000000\n")
        };
        let machine = line("/", "eth0", 9000) + &line("/", "veth12ab", 500) + &line("/kubepods", "eth0", 800);
        let one = machine.clone() + &line("/kubepods/c1", "eth0", 70) + &line("/kubepods/c1", "lo", 3000);
        let of = |text: &str| Container::of(text).sent(text, name);
        assert_eq!(of(&one), Some(70.0));
        assert_eq!(of(&(one.clone() + &line("/kubepods/c2", "eth0", 5))), None, "which of them?");
        // The cgroup of a pod has its network; the container in it has none of its own.
        let container = "container_cpu_usage_seconds_total{id=\"/kubepods/pod1/c1\"} 3\n";
        let pod = machine + &line("/kubepods/pod1", "eth0", 60) + container;
        assert_eq!(of(&pod), Some(60.0));
        assert_eq!(of(&(pod.clone() + &container.replace("c1", "c2"))), None, "two in one pod");
        let node = "node_network_transmit_bytes_total";
        let devices = ["lo", "eth0", "enp3s0", "veth1", "docker0", "br-12", "cali9", "eth0.7", "wlan0"];
        let text: String = devices.iter().map(|d| format!("{node}{{device=\"{d}\"}} 10\n")).collect();
        assert_eq!(sum_outside(&text, node), Some(30.0));
    }

    #[test]
    fn a_quota_is_the_lowest_of_those_around_the_one_container() {
        let line = |id: &str, quota: i64, period: u32| {
            format!(
                "container_spec_cpu_quota{{id=\"{id}\"}} {quota}\ncontainer_spec_cpu_period{{id=\"{id}\"}} {period}\n"
            )
        };
        let of = |text: &str| Container::of(text).quota(text);
        let one = line("/", -1, 100_000) + &line("/pods/pod1/c1", 150_000, 100_000);
        assert_eq!(of(&one), Some(1.5));
        assert_eq!(of(&(one.clone() + &line("/pods/pod1", 50_000, 50_000))), Some(1.0));
        assert_eq!(of(&(one.clone() + &line("/pods/pod2/c2", 50_000, 50_000))), None, "which of them?");
        assert_eq!((of(&line("/c1", -1, 100_000)), of(&line("/c1", 5, 0)), of("")), (None, None, None));
    }

    #[test]
    fn series_are_found_by_name_and_labels() {
        let text = "# HELP sessions Sessions\n# TYPE sessions gauge\nsessions 3\nsessions_total 9\n\
            loss{kind=\"audio\",node=\"a\"} 0.5\nloss{kind=\"video\"} 2 1700000000000\nodd{x=\"}\"} 7\nnone NaN\n";
        let of = |name: &str, labels: &[(&str, &str)]| {
            let labels: Vec<_> = labels.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            sum(text, name, &labels)
        };
        assert_eq!(of("sessions", &[]), Some(3.0));
        assert_eq!(of("loss", &[]), Some(2.5));
        assert_eq!(of("loss", &[("kind", "audio")]), Some(0.5));
        assert_eq!(of("loss", &[("kind", "audio"), ("node", "b")]), None);
        assert_eq!(of("loss", &[("ind", "audio")]), None);
        assert_eq!(of("odd", &[]), Some(7.0));
        assert_eq!((of("none", &[]), of("sess", &[]), sum("", "sessions", &[])), (None, None, None));
    }
}
