//! A table being read, key by key, with an error for each that is wrong.

use super::size_max;
use crate::profile::error::{Errors, Origin, nearest};
use crate::profile::keys::{self, Form};
use crate::profile::resolved::Size;
use crate::profile::tree::{Node, Table, Value};
use crate::profile::units::{
    self, parse_duration, parse_encoding, parse_percent, parse_rate, parse_size, print_duration, print_percent,
};
use crate::types::{Encoding, Kind};
use std::net::IpAddr;
use std::time::Duration;

/// A table being read: each accessor checks form and range by the key's entry in [`keys::KEYS`].
pub(in crate::profile) struct View<'a> {
    table: &'a Table,
    at: &'a Origin,
    spec: &'a str,
    pub(in crate::profile) path: String,
    pub(in crate::profile) errors: &'a mut Errors,
}

impl<'a> View<'a> {
    /// `spec` names the table in the list of keys, `path` in errors.
    pub(in crate::profile) fn new(
        node: &'a Node,
        spec: &'a str,
        path: String,
        errors: &'a mut Errors,
    ) -> Option<View<'a>> {
        Some(View { table: node.as_table()?, at: &node.at, spec, path, errors })
    }

    /// An error about a key, or about the table where `key` is empty.
    pub(in crate::profile) fn wrong(&mut self, key: &str, why: impl Into<String>) {
        let at = self.table.get(key).map_or(self.at, |n| &n.at);
        let path = if key.is_empty() { self.path.clone() } else { keys::join(&self.path, key) };
        self.errors.push(at, path, why);
    }

    pub(in crate::profile) fn node(&self, key: &str) -> Option<&'a Node> {
        self.table.get(key)
    }

    pub(in crate::profile) fn form(&self, key: &str) -> Option<Form> {
        keys::find(self.spec, key).map(|k| k.form)
    }

    /// A text value; numbers are told about units.
    fn raw(&mut self, key: &str) -> Option<&'a str> {
        let node = self.table.get(key)?;
        let text = node.as_text();
        if text.is_none() {
            let example = self.form(key).map_or("", example);
            let why = match node.value {
                Value::Integer(_) | Value::Float(_) if !example.is_empty() => {
                    format!("a bare number is a count; write {} with its unit, as in {example}", node.describe())
                }
                _ if !example.is_empty() => format!("write it as in {example}, not {}", node.describe()),
                _ => format!("is text in quotes, not {}", node.describe()),
            };
            self.wrong(key, why);
        }
        text
    }

    pub(in crate::profile) fn parsed<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.raw(key)?;
        parse(text).map_err(|why| self.wrong(key, why)).ok()
    }

    /// Non-empty text.
    pub(in crate::profile) fn text(&mut self, key: &str) -> Option<String> {
        self.parsed(key, |t| if t.trim().is_empty() { Err("is empty".into()) } else { Ok(t.to_owned()) })
    }

    /// A name of allowed characters.
    pub(in crate::profile) fn name(
        &mut self,
        key: &str,
        most: usize,
        allowed: impl Fn(char) -> bool,
    ) -> Option<String> {
        let text = self.text(key)?;
        if text.chars().count() > most {
            self.wrong(key, format!("is longer than {most} characters"));
            return None;
        }
        if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
            self.wrong(key, format!("{bad:?} cannot be part of a name"));
            return None;
        }
        Some(text)
    }

    pub(in crate::profile) fn word(&mut self, key: &str) -> Option<&'a str> {
        let Some(Form::Word(words)) = self.form(key) else { return None };
        let text = self.raw(key)?;
        if words.contains(&text) {
            return Some(text);
        }
        let list = || words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" or ");
        let why = match nearest(text, words.iter().copied()) {
            Some(near) => format!("{text:?} is unknown; did you mean {near:?}?"),
            None => format!("{text:?} is unknown; write {}", list()),
        };
        self.wrong(key, why);
        None
    }

    /// An array of known words.
    pub(in crate::profile) fn words(&mut self, key: &str) -> Option<Vec<String>> {
        let Some(Form::Words(words)) = self.form(key) else { return None };
        self.list(key, |text| match words.contains(&text) {
            true => Ok(text.to_owned()),
            false => Err(format!("{text:?} is unknown; known: {}", words.join(", "))),
        })
    }

    pub(in crate::profile) fn flag(&mut self, key: &str) -> Option<bool> {
        let node = self.table.get(key)?;
        match node.value {
            Value::Flag(flag) => Some(flag),
            _ => {
                self.wrong(key, format!("is true or false, not {}", node.describe()));
                None
            }
        }
    }

    pub(in crate::profile) fn count(&mut self, key: &str) -> Option<i64> {
        let Some(Form::Count { min, max }) = self.form(key) else { return None };
        let node = self.table.get(key)?;
        match node.value {
            Value::Integer(n) if (min..=max).contains(&n) => Some(n),
            Value::Integer(n) => {
                self.wrong(key, format!("{n} is out of range: {min} to {max}"));
                None
            }
            _ => {
                self.wrong(key, format!("is a bare number, {min} to {max}, not {}", node.describe()));
                None
            }
        }
    }

    /// A count, or `None` for the word that stands for no limit.
    pub(in crate::profile) fn count_or(&mut self, key: &str) -> Option<Option<i64>> {
        let Some(Form::CountOr { min, max, word }) = self.form(key) else { return None };
        let node = self.table.get(key)?;
        match &node.value {
            Value::Integer(n) if (min..=max).contains(n) => Some(Some(*n)),
            Value::Integer(n) => {
                self.wrong(key, format!("{n} is out of range: {min} to {max}"));
                None
            }
            Value::Text(t) if t == word => Some(None),
            _ => {
                self.wrong(key, format!("is {word:?} or a bare number, {min} to {max}, not {}", node.describe()));
                None
            }
        }
    }

    /// Per second.
    pub(in crate::profile) fn rate(&mut self, key: &str) -> Option<f64> {
        self.parsed(key, parse_rate)
    }

    pub(in crate::profile) fn duration(&mut self, key: &str) -> Option<Duration> {
        let Some(Form::Duration { min, max }) = self.form(key) else { return None };
        self.parsed(key, |text| {
            let d = parse_duration(text)?;
            match (min..=max).contains(&d.as_secs_f64()) {
                true => Ok(d),
                false => {
                    let [min, max] = [min, max].map(|s| print_duration(Duration::from_secs_f64(s)));
                    Err(format!("{text} is out of range: {min} to {max}"))
                }
            }
        })
    }

    pub(in crate::profile) fn share(&mut self, key: &str) -> Option<f64> {
        let Some(Form::Share { max }) = self.form(key) else { return None };
        self.parsed(key, |text| {
            let share = parse_percent(text)?;
            match share <= max / 100.0 {
                true => Ok(share),
                false => Err(format!("{text} is out of range: 0% to {}", print_percent(max / 100.0))),
            }
        })
    }

    /// A share in percent, a number from 0 to 1, or the words for 1 and 0.
    pub(in crate::profile) fn share_or(&mut self, key: &str) -> Option<f64> {
        let Some(Form::ShareOr { all, none }) = self.form(key) else { return None };
        let node = self.table.get(key)?;
        let share = match &node.value {
            Value::Integer(n) => Ok(*n as f64),
            Value::Float(f) => Ok(*f),
            Value::Text(t) if t == all => Ok(1.0),
            Value::Text(t) if t == none => Ok(0.0),
            Value::Text(t) => parse_percent(t),
            _ => Err(String::new()),
        };
        match share {
            Ok(share) if (0.0..=1.0).contains(&share) => Some(share),
            _ => {
                let found = node.describe();
                self.wrong(key, format!("is {all:?}, {none:?}, or a share, 0.3 or \"30%\", not {found}"));
                None
            }
        }
    }

    pub(in crate::profile) fn number(&mut self, key: &str) -> Option<f64> {
        let Some(Form::Number { min, max }) = self.form(key) else { return None };
        let node = self.table.get(key)?;
        let n = match node.value {
            Value::Integer(n) => n as f64,
            Value::Float(f) => f,
            _ => {
                self.wrong(key, format!("is a bare number, {min} to {max}, not {}", node.describe()));
                return None;
            }
        };
        match (min..=max).contains(&n) {
            true => Some(n),
            false => {
                self.wrong(key, format!("{n} is out of range: {min} to {max}"));
                None
            }
        }
    }

    pub(in crate::profile) fn size(&mut self, key: &str) -> Option<Size> {
        let node = self.table.get(key)?;
        let size = match &node.value {
            Value::Integer(n) => {
                u32::try_from(*n).map(Size::Fixed).map_err(|_| format!("{n} is out of range: 1 to 10000"))
            }
            Value::Text(t) => parse_size(t),
            _ => Err(format!("is a number, 4, or a range, \"2..6\", not {}", node.describe())),
        };
        let size = size.and_then(|size| {
            let least = match size {
                Size::Fixed(n) | Size::Range(n, _) => n,
            };
            match least >= 1 && size_max(size) <= 10_000 {
                true => Ok(size),
                false => Err("is out of range: 1 to 10000 participants".to_owned()),
            }
        });
        size.map_err(|why| self.wrong(key, why)).ok()
    }

    /// Lowest and highest.
    pub(in crate::profile) fn range(&mut self, key: &str) -> Option<(u32, u32)> {
        let Some(Form::Range { max }) = self.form(key) else { return None };
        let node = self.table.get(key)?;
        let range = match node.as_text().map(parse_size) {
            Some(Ok(Size::Range(low, high))) if low < high => Ok((low, high)),
            Some(Err(why)) if why.contains("backwards") => Err(why),
            _ => Err("write lowest and highest, as in \"20..600\"".to_owned()),
        };
        let range = range.and_then(|(low, high)| match low >= 1 && i64::from(high) <= max {
            true => Ok((low, high)),
            false => Err(format!("is out of range: 1 to {max} participants")),
        });
        range.map_err(|why| self.wrong(key, why)).ok()
    }

    pub(in crate::profile) fn encoding(&mut self, key: &str) -> Option<Option<Encoding>> {
        let Some(Form::Encoding(kind)) = self.form(key) else { return None };
        self.parsed(key, |text| {
            if text == "none" {
                return Ok(None);
            }
            let encoding = parse_encoding(text)?;
            if encoding.codec.kind() != kind {
                let fit: Vec<String> =
                    units::ENCODINGS.iter().filter(|e| e.codec.kind() == kind).map(|e| format!("\"{e}\"")).collect();
                return Err(format!("{encoding} is {}; write {}", encoding.codec.kind(), fit.join(" or ")));
            }
            Ok(Some(encoding))
        })
    }

    pub(in crate::profile) fn addresses(&mut self, key: &str) -> Option<Vec<IpAddr>> {
        self.list(key, |text| {
            let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
            match ip.is_unspecified() || ip.is_multicast() {
                true => Err(format!("{ip} cannot be a source address")),
                false => Ok(ip),
            }
        })
    }

    /// An array of texts, each parsed; errors name the element.
    pub(in crate::profile) fn list<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let node = self.table.get(key)?;
        let Value::Array(items) = &node.value else {
            self.wrong(key, format!("is an array, [\"…\"], not {}", node.describe()));
            return None;
        };
        let before = self.errors.len();
        let mut made = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let one =
                item.as_text().ok_or_else(|| format!("is text in quotes, not {}", item.describe())).and_then(&parse);
            match one {
                Ok(value) => made.push(value),
                Err(why) => self.errors.push(&item.at, format!("{}[{i}]", keys::join(&self.path, key)), why),
            }
        }
        (self.errors.len() == before).then_some(made)
    }

    pub(in crate::profile) fn inside<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut View<'_>) -> Option<T>,
    ) -> Option<T> {
        let node = self.table.get(key)?;
        let spec = keys::join(self.spec, key);
        let mut view = View::new(node, &spec, keys::join(&self.path, key), self.errors)?;
        read(&mut view)
    }

    /// A table with the keys of another, or an array of such tables; empty where there is none.
    pub(in crate::profile) fn like<T>(
        &mut self,
        key: &str,
        read: impl Fn(&mut View<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(node) = self.table.get(key) else { return Some(Vec::new()) };
        let Some(Form::Like { table: spec, .. }) = self.form(key) else { return None };
        let path = keys::join(&self.path, key);
        match &node.value {
            Value::Array(items) => {
                let made: Vec<Option<T>> = items
                    .iter()
                    .enumerate()
                    .map(|(i, n)| {
                        View::new(n, spec, format!("{path}[{i}]"), self.errors).and_then(|mut v| read(&mut v))
                    })
                    .collect();
                made.into_iter().collect()
            }
            _ => View::new(node, spec, path, self.errors).and_then(|mut v| Some(vec![read(&mut v)?])),
        }
    }

    pub(in crate::profile) fn each<T>(
        &mut self,
        key: &str,
        read: impl Fn(&mut View<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = &self.table.get(key)?.value else { return None };
        let spec = format!("{}[]", keys::join(self.spec, key));
        let mut all = Some(Vec::new());
        for (i, item) in items.iter().enumerate() {
            let path = format!("{}[{i}]", keys::join(&self.path, key));
            let one = View::new(item, &spec, path, self.errors).and_then(|mut v| read(&mut v));
            all = all.and_then(|mut list| {
                list.push(one?);
                Some(list)
            });
        }
        all
    }
}

/// How a value of this form is written.
fn example(form: Form) -> &'static str {
    match form {
        Form::Duration { .. } => "\"20s\"",
        Form::Share { .. } => "\"2%\"",
        Form::BitRate => "\"2Mbit/s\"",
        Form::Queue => "\"200ms\"",
        Form::Encoding(Kind::Audio) => "\"opus@32kbit/s\"",
        Form::Encoding(Kind::Video) => "\"vp8@500kbit/s\"",
        Form::Stay => "\"3m..6m\"",
        Form::Join | Form::Rate => "\"8/s\"",
        Form::Url => "\"ws://10.77.0.1:8188\"",
        Form::TurnUrl => "\"turn:10.77.0.3:3478\"",
        _ => "",
    }
}
