//! TOML as a tree in which every value knows where it was written: files are merged and overridden here, before
//! anybody asks what the values mean.

use super::error::{Errors, Origin};
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it was written.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    pub(super) at: Origin,
    pub(super) value: Value,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    /// A kind that no key takes: date, or a number that is none; with its name for the error.
    Other(&'static str),
    Array(Vec<Node>),
    Table(Table),
}

/// A table in the order in which it was written. Each entry also knows where its key stands.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Table(pub(super) Vec<Entry>);

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) node: Node,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|e| e.key == key).map(|e| &e.node)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|e| e.key == key).map(|e| &mut e.node)
    }

    pub(super) fn set(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(old) => *old = node,
            None => self.0.push(Entry { key: key.to_owned(), node }),
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Node> {
        let i = self.0.iter().position(|e| e.key == key)?;
        Some(self.0.remove(i).node)
    }
}

impl Node {
    pub(super) fn text(text: impl Into<String>, at: Origin) -> Node {
        Node { at, value: Value::Text(text.into()) }
    }

    pub(super) fn table(at: Origin) -> Node {
        Node { at, value: Value::Table(Table::default()) }
    }

    pub(super) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(t) => Some(t),
            _ => None,
        }
    }

    pub(super) fn as_table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(t) => Some(t),
            _ => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }

    /// What it is, for an error: `"x"`, `20`, `a table`.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Text(t) => format!("{t:?}"),
            Value::Integer(i) => i.to_string(),
            Value::Float(f) => f.to_string(),
            Value::Flag(b) => b.to_string(),
            Value::Other(what) => (*what).to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }
}

/// A parsed file. Lines with syntax errors are remembered, because what the parser made of them means nothing.
#[derive(Debug)]
pub(super) struct File {
    pub(super) root: Node,
    pub(super) broken_lines: Vec<u32>,
}

/// Parses one file. Syntax errors go to `errors`; the tree holds what could be read in spite of them.
pub(super) fn parse(name: &str, text: &str, errors: &mut Errors) -> File {
    let maker = Maker { file: name.into(), lines: line_starts(text) };
    let (root, syntax) = DeTable::parse_recoverable(text);
    let mut broken_lines = Vec::new();
    for error in syntax {
        let at = maker.origin(error.span());
        let line = maker.line(error.span());
        if broken_lines.contains(&line) {
            continue;
        }
        broken_lines.push(line);
        errors.push(&at, "", format!("TOML: {}{}", error.message(), unquoted_hint(text, &maker.lines, line)));
    }
    let root = Node { at: maker.origin(Some(0..0)), value: Value::Table(maker.table(root.get_ref())) };
    File { root, broken_lines }
}

/// The likeliest syntax error: `hold = 20s` without quotes.
fn unquoted_hint(text: &str, starts: &[usize], line: u32) -> String {
    let from = starts.get(line as usize - 1).copied().unwrap_or(0);
    let Some((_, value)) = text[from..].lines().next().and_then(|l| l.split_once('=')) else { return String::new() };
    let value = value.split('#').next().unwrap_or("").trim();
    let bare = !value.is_empty()
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "./@%_-".contains(c));
    if bare { format!(" (write it in quotes: \"{value}\")") } else { String::new() }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)).collect()
}

struct Maker {
    file: Arc<str>,
    lines: Vec<usize>,
}

impl Maker {
    fn line(&self, span: Option<Range<usize>>) -> u32 {
        let at = span.map_or(0, |s| s.start);
        self.lines.partition_point(|start| *start <= at).max(1) as u32
    }

    fn origin(&self, span: Option<Range<usize>>) -> Origin {
        Origin::File { file: self.file.clone(), line: self.line(span) }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
            // A table's own span is its header or, for dotted keys, nothing useful; its key's line is what one looks for.
            let mut node = self.node(value);
            if node.as_table().is_some() && value.span().is_empty() {
                node.at = self.origin(Some(key.span()));
            }
            Entry { key: key.get_ref().clone().into_owned(), node }
        };
        Table(table.iter().map(entry).collect())
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let made = match value.get_ref() {
            DeValue::String(s) => Value::Text(s.clone().into_owned()),
            DeValue::Integer(i) => {
                i64::from_str_radix(i.as_str(), i.radix()).map_or(Value::Other("a number out of range"), Value::Integer)
            }
            DeValue::Float(f) => f.as_str().parse().map_or(Value::Other("a number out of range"), Value::Float),
            DeValue::Boolean(b) => Value::Flag(*b),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(a) => Value::Array(a.iter().map(|v| self.node(v)).collect()),
            DeValue::Table(t) => Value::Table(self.table(t)),
        };
        Node { at: self.origin(Some(value.span())), value: made }
    }
}

/// A value by itself, as of `--set key=value` or a default: TOML where it is TOML, else text.
pub(super) fn parse_value(text: &str, at: &Origin) -> Node {
    fn place(node: &mut Node, at: &Origin) {
        node.at = at.clone();
        match &mut node.value {
            Value::Array(items) => items.iter_mut().for_each(|n| place(n, at)),
            Value::Table(t) => t.0.iter_mut().for_each(|e| place(&mut e.node, at)),
            Value::Text(_) | Value::Integer(_) | Value::Float(_) | Value::Flag(_) | Value::Other(_) => {}
        }
    }
    let maker = Maker { file: "".into(), lines: vec![0] };
    match DeValue::parse(text) {
        Ok(value) => {
            let mut node = maker.node(&value);
            place(&mut node, at);
            // A date is no key's value, so it was meant as text.
            if let Value::Other(_) = node.value {
                node.value = Value::Text(text.to_owned());
            }
            node
        }
        Err(_) => Node::text(text, at.clone()),
    }
}

/// `over` on top of `base`: tables merge, everything else (arrays too) replaces.
pub(super) fn merge(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Table(b), Value::Table(o)) => {
            for entry in o.0 {
                match b.get_mut(&entry.key) {
                    Some(old) => merge(old, entry.node),
                    None => b.0.push(entry),
                }
            }
            base.at = over.at;
        }
        (slot, value) => {
            *slot = value;
            base.at = over.at;
        }
    }
}

/// `--set a.b=value` on a tree. Array elements are named by index (`rooms.0.count`) or by their `name` or `id`.
pub(super) fn set(root: &mut Node, path: &[&str], value: Node) -> Result<(), String> {
    let Some((last, parents)) = path.split_last() else { return Err("no key".into()) };
    let mut node = root;
    for (depth, part) in parents.iter().enumerate() {
        let here = path[..=depth].join(".");
        let at = value.at.clone();
        node = step(node, part, &here, || Node::table(at))?;
    }
    let whole = path.join(".");
    *step(node, last, &whole, || value.clone())? = value.clone();
    Ok(())
}

fn step<'a>(
    node: &'a mut Node,
    part: &str,
    here: &str,
    missing: impl FnOnce() -> Node,
) -> Result<&'a mut Node, String> {
    match &mut node.value {
        Value::Table(table) => {
            if table.get(part).is_none() {
                table.set(part, missing());
            }
            table.get_mut(part).ok_or_else(|| format!("`{here}` cannot be set"))
        }
        Value::Array(items) => {
            let named = |n: &Node| {
                let t = n.as_table();
                ["name", "id"].iter().any(|k| t.and_then(|t| t.get(k)).and_then(Node::as_text) == Some(part))
            };
            let count = items.len();
            let index = part.parse::<usize>().ok().or_else(|| items.iter().position(named));
            index
                .and_then(|i| items.get_mut(i))
                .ok_or_else(|| format!("there is no `{here}`: the array has {count} elements, counted from 0"))
        }
        _ => Err(format!("`{here}` is inside a value that is no table")),
    }
}

/// Makes `audio.loss = …` (nested tables) out of `[pass]` the same as `"audio.loss" = …`.
pub(super) fn flatten_pass(root: &mut Node, errors: &mut Errors) {
    fn collect(prefix: &str, table: &str, from: Table, out: &mut Table, errors: &mut Errors) {
        for Entry { key, node } in from.0 {
            let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match node.value {
                Value::Table(inner) => collect(&path, table, inner, out, errors),
                _ if out.get(&path).is_some() => {
                    errors.push(&node.at, format!("{table}.{path}"), "this metric has its threshold already");
                }
                _ => out.set(&path, node),
            }
        }
    }
    for table in ["pass", "objectives"] {
        if let Some(pass) = root.as_table_mut().and_then(|t| t.get_mut(table)).and_then(Node::as_table_mut) {
            let mut flat = Table::default();
            collect("", table, std::mem::take(pass), &mut flat, errors);
            *pass = flat;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        let mut errors = Errors::default();
        let file = parse("x.toml", text, &mut errors);
        assert!(errors.is_empty(), "{:?}", errors.finish());
        file.root
    }

    fn at<'a>(root: &'a Node, path: &[&str]) -> &'a Node {
        path.iter().fold(root, |n, part| match &n.value {
            Value::Table(t) => t.get(part).unwrap(),
            Value::Array(a) => &a[part.parse::<usize>().unwrap()],
            other => panic!("{part} inside {other:?}"),
        })
    }

    fn line(n: &Node) -> u32 {
        match &n.at {
            Origin::File { line, .. } => *line,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn values_and_tables_know_their_lines() {
        let t = tree("a = 1\n\n[load]\nhold = \"20s\"\n[[rooms]]\nname = \"x\"\n[[rooms]]\nn.m = { k = 2 }\n");
        assert_eq!(line(at(&t, &["a"])), 1);
        assert_eq!(line(at(&t, &["load"])), 3);
        assert_eq!(line(at(&t, &["load", "hold"])), 4);
        assert_eq!(line(at(&t, &["rooms", "0"])), 5);
        assert_eq!(line(at(&t, &["rooms", "1"])), 7);
        assert_eq!(line(at(&t, &["rooms", "1", "n"])), 8);
        assert_eq!(line(at(&t, &["rooms", "1", "n", "m", "k"])), 8);
    }

    #[test]
    fn tables_merge_and_arrays_replace() {
        let mut base = tree("a = [1, 2]\n[load]\nhold = \"1s\"\njoin = \"2/s\"\n");
        merge(&mut base, tree("a = [3]\n[load]\nhold = \"9s\"\n"));
        assert_eq!(at(&base, &["load", "hold"]).as_text(), Some("9s"));
        assert_eq!(at(&base, &["load", "join"]).as_text(), Some("2/s"));
        assert!(matches!(&at(&base, &["a"]).value, Value::Array(a) if a.len() == 1));
    }

    #[test]
    fn set_reaches_tables_indices_and_names() {
        let mut t = tree("[[rooms]]\nname = \"m\"\ncount = 1\n[[rooms]]\nname = \"w\"\ncount = 1\n");
        let origin = Origin::Set("x".into());
        set(&mut t, &["rooms", "1", "count"], parse_value("7", &origin)).unwrap();
        set(&mut t, &["rooms", "m", "count"], parse_value("8", &origin)).unwrap();
        set(&mut t, &["load", "hold"], parse_value("20s", &origin)).unwrap();
        assert_eq!(at(&t, &["rooms", "1", "count"]).value, Value::Integer(7));
        assert_eq!(at(&t, &["rooms", "0", "count"]).value, Value::Integer(8));
        assert_eq!(at(&t, &["load", "hold"]).as_text(), Some("20s"));
        assert_eq!(at(&t, &["load", "hold"]).at, origin);
        assert!(set(&mut t, &["rooms", "2", "count"], parse_value("7", &origin)).unwrap_err().contains("2 elements"));
        assert!(set(&mut t, &["load", "hold", "x"], parse_value("7", &origin)).is_err());
    }

    #[test]
    fn a_value_by_itself_is_toml_where_it_can_be() {
        let o = Origin::Default;
        assert_eq!(parse_value("[\"10.0.0.1\"]", &o).describe(), "an array");
        assert_eq!(parse_value("2..6", &o).as_text(), Some("2..6"));
        assert_eq!(parse_value("all", &o).as_text(), Some("all"));
        assert_eq!(parse_value("\"all\"", &o).as_text(), Some("all"));
        assert_eq!(parse_value("<= 1%", &o).as_text(), Some("<= 1%"));
        assert_eq!(parse_value("2026-01-01", &o).as_text(), Some("2026-01-01"));
    }

    #[test]
    fn a_value_without_quotes_gets_the_hint() {
        let mut errors = Errors::default();
        let file = parse("x.toml", "[load]\nhold = 20s\nwarmup = \"3s\"\n", &mut errors);
        assert_eq!(file.broken_lines, [2]);
        let text = errors.finish().to_string();
        assert!(text.starts_with("x.toml:2: TOML: ") && text.contains("\"20s\""), "{text}");
    }

    #[test]
    fn thresholds_may_be_written_dotted_or_quoted() {
        let mut t = tree("[pass]\naudio.loss = \"<= 1%\"\n\"video.loss\" = \"<= 1%\"\n");
        let mut errors = Errors::default();
        flatten_pass(&mut t, &mut errors);
        assert!(errors.is_empty());
        assert_eq!(at(&t, &["pass", "audio.loss"]).as_text(), Some("<= 1%"));
        assert_eq!(at(&t, &["pass", "video.loss"]).as_text(), Some("<= 1%"));
        let mut t = tree("[pass]\naudio.loss = \"<= 1%\"\n\"audio.loss\" = \"<= 1%\"\n");
        flatten_pass(&mut t, &mut errors);
        assert_eq!(errors.len(), 1);
    }
}
