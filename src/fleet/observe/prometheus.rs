//! The text that Prometheus endpoints give (exposition format 0.0.4).

use std::collections::BTreeSet;

/// Sum of the series of this name that have all these labels; `None` where there is none, or none that is a number.
pub(in crate::fleet) fn sum(text: &str, name: &str, labels: &[(String, String)]) -> Option<f64> {
    let of = series(text, name).filter(|(of, _)| labels.iter().all(|(label, value)| has(of, label, value)));
    of.map(|(_, value)| value).reduce(|a, b| a + b)
}

/// The same of the only container that an endpoint of cAdvisor's tells of; `None` where it tells of several, since nobody
/// knows which one is meant. The cgroups above a container have series of their own, with a beginning of its id.
pub(super) fn sum_of_container(text: &str, name: &str) -> Option<f64> {
    let of = |series: &str| label(series, "id").map(str::to_owned);
    let all: BTreeSet<String> = series(text, name).filter_map(|(s, _)| of(s)).collect();
    let above =
        |id: &str| id == "/" || all.iter().any(|other| other.strip_prefix(id).is_some_and(|r| r.starts_with('/')));
    let mut own = all.iter().filter(|id| !above(id));
    let (only, more) = (own.next(), own.next());
    match (only, more) {
        (Some(id), None) => sum(text, name, &[("id".to_owned(), id.clone())]),
        // Not cAdvisor's.
        (None, _) if all.is_empty() => sum(text, name, &[]),
        _ => None,
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
        let one =
            line("/", 100) + &line("/kubepods", 60) + &line("/kubepods/pod1", 41) + &line("/kubepods/pod1/c1", 40);
        assert_eq!(sum_of_container(&one, name), Some(40.0));
        assert_eq!(sum_of_container(&(one.clone() + &line("/kubepods/pod2/c2", 9)), name), None, "which of them?");
        assert_eq!(sum_of_container("container_cpu_usage_seconds_total{pod=\"a\"} 3\n", name), Some(3.0));
        assert_eq!((sum_of_container("", name), sum_of_container(&line("/", 1), name)), (None, None));
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
