//! A plot over participants, drawn as SVG: few points, and marks where something happened.

use crate::verdict::number;
use maud::{Markup, html};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 28.0;
const TICKS: usize = 5;
/// Marks' labels stand in rows above the plot; about so wide is a character of them.
const LABEL_ROW: f64 = 11.0;
const CHARACTER: f64 = 6.2;

pub(super) struct Curve {
    pub title: &'static str,
    pub what: &'static str,
    pub unit: &'static str,
    pub limits: Vec<Limit>,
    pub lines: Vec<Line>,
    pub marks: Vec<Mark>,
}

pub(super) struct Line {
    pub label: &'static str,
    pub color: usize,
    /// Participants and value, by participants.
    pub points: Vec<(f64, f64)>,
}

pub(super) struct Limit {
    pub at: f64,
    /// That of the line which it is for; `None`: of none.
    pub color: Option<usize>,
}

#[derive(Clone)]
pub(super) struct Mark {
    pub at: f64,
    pub label: &'static str,
    pub class: &'static str,
}

pub(super) fn curve(c: &Curve) -> Markup {
    let points = || c.lines.iter().flat_map(|l| &l.points);
    let x_max = points().map(|p| p.0).chain(c.marks.iter().map(|m| m.at)).fold(1.0, f64::max) * 1.04;
    let high = points().map(|p| p.1).fold(0.0, f64::max);
    // Where nothing was ever seen, the scale is that of one.
    let high = if high > 0.0 { high } else { 1.0 };
    // With a limit in sight once values come near it; a collapse must not flatten all that came before.
    let near = c.limits.iter().map(|l| l.at).filter(|l| high > l / 4.0).reduce(f64::max);
    let top = near.map_or(high, |l| high.clamp(l * 1.15, l * 4.0)).max(1e-9) * 1.08;
    let x = |v: f64| LEFT + v / x_max * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - v.min(top) / top * (HEIGHT - TOP - BOTTOM);
    let ticks = |max: f64| {
        let step = nice(max / TICKS as f64);
        (0..).map(move |i| f64::from(i) * step).take_while(move |v| *v <= max)
    };
    let path = |l: &Line| {
        let at = |(i, (px, py)): (usize, &(f64, f64))| {
            format!("{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, x(*px), y(*py))
        };
        l.points.iter().enumerate().map(at).collect::<String>()
    };
    html! {
        figure {
            h3 { (c.title) }
            p.what { (c.what) }
            svg.curve viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" {
                title { (c.title) " over participants" }
                @for v in ticks(top) {
                    line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y(v)) y2=(y(v)) {}
                    text.axis x=(LEFT - 6.0) y=(y(v) + 4.0) text-anchor="end" { (number(v)) " " (c.unit) }
                }
                @for v in ticks(x_max) {
                    text.axis x=(x(v)) y=(HEIGHT - 8.0) text-anchor="middle" { (number(v)) }
                }
                @for l in c.limits.iter().filter(|l| l.at <= top) {
                    @let class = l.color.map_or_else(|| "limit".to_owned(), |color| format!("limit own c{color}"));
                    line.(class) x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y(l.at)) y2=(y(l.at)) {
                        title { "limit " (number(l.at)) " " (c.unit) }
                    }
                }
                @for (m, label) in c.marks.iter().zip(labels(&c.marks, x)) {
                    line.(format!("at {}", m.class)) x1=(x(m.at)) x2=(x(m.at)) y1=(label.y + 3.0) y2=(HEIGHT - BOTTOM) {}
                    text.(format!("axis {}", m.class)) x=(label.x) y=(label.y) text-anchor=(if label.before { "end" } else { "start" }) {
                        (label.text)
                    }
                }
                @for l in &c.lines {
                    path.(format!("line c{}", l.color)) d=(path(l)) {}
                    @for (px, py) in &l.points {
                        circle.(format!("dot c{}", l.color)) cx=(x(*px)) cy=(y(*py)) r="3.5" { title { (l.label) ": " (number(*py)) " " (c.unit) " at " (number(*px)) } }
                    }
                }
            }
            p.legend { @for l in &c.lines { span.(format!("c{}", l.color)) { "● " } (l.label) " \u{2003}" } "over participants" }
        }
    }
}

struct Label {
    text: String,
    x: f64,
    y: f64,
    /// Left of its line.
    before: bool,
}

/// Where the marks' labels go: each in the lowest row in which it covers no other, the rightmost first.
fn labels(marks: &[Mark], x: impl Fn(f64) -> f64) -> Vec<Label> {
    let rows = ((TOP - 6.0) / LABEL_ROW) as usize;
    let mut taken: Vec<(usize, f64, f64)> = Vec::new();
    let mut out = Vec::new();
    // From the right: a line that begins higher up is left of the labels below it.
    let mut from_right: Vec<(usize, &Mark)> = marks.iter().enumerate().collect();
    from_right.sort_by(|(_, a), (_, b)| b.at.total_cmp(&a.at));
    for (i, m) in from_right {
        let text = format!("{} {}", m.label, number(m.at));
        let width = text.chars().count() as f64 * CHARACTER;
        let before = x(m.at) + width > WIDTH;
        let (from, to) =
            if before { (x(m.at) - 3.0 - width, x(m.at) - 3.0) } else { (x(m.at) + 3.0, x(m.at) + 3.0 + width) };
        let free = |row: &usize| !taken.iter().any(|(r, a, b)| r == row && from < *b && *a < to);
        let row = (0..rows).find(free).unwrap_or(0);
        taken.push((row, from, to));
        let y = TOP - 8.0 - LABEL_ROW * row as f64;
        out.push((i, Label { text, x: if before { to } else { from }, y, before }));
    }
    out.sort_by_key(|(i, _)| *i);
    out.into_iter().map(|(_, label)| label).collect()
}

/// 1, 2 or 5 times a power of ten.
fn nice(v: f64) -> f64 {
    let power = 10f64.powf(v.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= v).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(at: f64, color: Option<usize>) -> Limit {
        Limit { at, color }
    }

    #[test]
    fn each_line_has_its_own_limit() {
        let line = |label, color, ms| Line { label, color, points: vec![(10.0, 5.0), (20.0, ms)] };
        let lines = || vec![line("audio", 0, 70.0), line("video", 1, 90.0)];
        let limits = || vec![limit(80.0, Some(0)), limit(120.0, Some(1))];
        let c = Curve { title: "Delay", what: "", unit: "ms", limits: limits(), lines: lines(), marks: vec![] };
        let svg = curve(&c).into_string();
        let y = |class: &str| {
            let (_, rest) = svg.split_once(&format!("class=\"limit own {class}\"")).unwrap_or_else(|| panic!("{svg}"));
            rest.split_once("y1=\"").unwrap().1.split('"').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(y("c0") > y("c1") && y("c1") > TOP, "{svg}");
        assert!(svg.contains("<title>limit 80 ms</title>") && svg.contains("<title>limit 120 ms</title>"), "{svg}");
        // One that is far above everything is not drawn, and does not flatten it.
        let far = Curve { limits: vec![limit(80.0, Some(0)), limit(9000.0, Some(1))], lines: lines(), ..c };
        assert_eq!(curve(&far).into_string().matches("class=\"limit").count(), 1);
    }

    #[test]
    fn a_collapse_does_not_flatten_what_came_before() {
        let line = Line { label: "audio", color: 0, points: vec![(10.0, 5.0), (20.0, 9000.0)] };
        let mark = Mark { at: 15.0, label: "held", class: "good" };
        let c = Curve {
            title: "Delay",
            what: "",
            unit: "ms",
            limits: vec![limit(80.0, None)],
            lines: vec![line],
            marks: vec![mark],
        };
        let svg = curve(&c).into_string();
        assert!(svg.contains("class=\"limit\"") && svg.contains("held 15") && !svg.contains("NaN"), "{svg}");
        // The scale ends at some four times the limit; the point itself says what it was.
        assert!(svg.contains("9000 ms at 20") && !svg.contains(">9000 ms<"), "{svg}");
        assert_eq!((nice(0.3), nice(2.1), nice(70.0)), (0.5, 5.0, 100.0));
    }

    #[test]
    fn nothing_at_all_is_drawn_on_a_scale_that_can_be_read() {
        let line = Line { label: "broken", color: 0, points: vec![(10.0, 0.0), (20.0, 0.0)] };
        let c = Curve { title: "Broken", what: "", unit: "%", limits: vec![], lines: vec![line], marks: vec![] };
        let svg = curve(&c).into_string();
        assert_eq!((svg.matches(">0 %<").count(), svg.matches(">1 %<").count()), (1, 1), "{svg}");
    }

    #[test]
    fn labels_cover_no_others() {
        let mark = |at, label| Mark { at, label, class: "good" };
        let marks =
            [mark(73.0, "scale out"), mark(84.0, "held"), mark(88.0, "broke"), mark(64.0, "delay off its plateau")];
        let all = labels(&marks, |v| 60.0 + v * 3.5);
        let span = |l: &Label| {
            let width = l.text.chars().count() as f64 * CHARACTER;
            if l.before { (l.x - width, l.x) } else { (l.x, l.x + width) }
        };
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                let ((a0, a1), (b0, b1)) = (span(a), span(b));
                assert!((a.y - b.y).abs() >= LABEL_ROW || a1 <= b0 || b1 <= a0, "{} over {}", a.text, b.text);
            }
            assert!(span(a).0 >= 0.0 && span(a).1 <= WIDTH && a.y > 0.0);
        }
    }
}
