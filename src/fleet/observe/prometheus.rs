//! The text that Prometheus endpoints give (exposition format 0.0.4).

/// Sum of the series of this name that have all these labels; `None` where there is none, or none that is a number.
pub(in crate::fleet) fn sum(text: &str, name: &str, labels: &[(String, String)]) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (series, value) = match rest.strip_prefix('{') {
            // A label's value may hold anything, braces too; what follows the last one is a number and a time.
            Some(inner) => inner.rsplit_once('}')?,
            None if rest.starts_with([' ', '\t']) => ("", rest),
            None => return None,
        };
        labels.iter().all(|(label, value)| has(series, label, value)).then_some(())?;
        // NaN is what clients export when they have nothing to say.
        value.split_whitespace().next()?.parse::<f64>().ok().filter(|v| v.is_finite())
    });
    values.reduce(|a, b| a + b)
}

fn has(series: &str, label: &str, value: &str) -> bool {
    let wanted = format!("{label}=\"{value}\"");
    series.match_indices(&wanted).any(|(at, _)| at == 0 || series[..at].trim_end().ends_with(','))
}

#[cfg(test)]
mod tests {
    use super::*;

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
