//! From files to a profile: base, profile, `--set` and target file are put together, checked as one, and resolved.

use super::error::{Errors, Origin, ProfileErrors};
use super::resolved::{Profile, Target};
use super::scale_in::{Selector, Subject};
use super::target::{self, Secrets};
use super::tree::{self, Node, Value};
use super::{keys, read, write};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 256 << 10;
/// Most parts of a `--set` key; no key is that deep.
const SET_DEPTH_MAX: usize = 16;

/// One value of a resolved profile, and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// E.g. `rooms[0].size`.
    pub key: String,
    /// As TOML.
    pub value: String,
    pub from: Origin,
}

/// Loads a profile, its base and its target file, with `--set key=value` overrides on top, which come last.
///
/// # Errors
/// All that is wrong, at once, each with file, line and key.
pub fn load(path: &Path, sets: &[String]) -> Result<Profile, ProfileErrors> {
    load_explained(path, sets).map(|(profile, _)| profile)
}

/// Like [`load`], and says where every value came from.
pub fn load_explained(path: &Path, sets: &[String]) -> Result<(Profile, Vec<Explained>), ProfileErrors> {
    let surroundings = Surroundings {
        read: &read_file,
        env: &|name| std::env::var(name).ok(),
        seed: &|| std::hash::RandomState::new().hash_one(0u8) & keys::SEED_MAX,
        secrets: true,
    };
    load_in(&surroundings, path, sets)
}

/// Loads a resolved profile ([`Profile::resolved`]) to judge by it again. Secrets are not looked up: the target's are
/// empty.
pub fn parse_resolved(text: &str) -> Result<Profile, ProfileErrors> {
    let surroundings = Surroundings {
        read: &|_| Err("a resolved profile needs no other file".to_owned()),
        env: &|_| None,
        seed: &|| 0,
        secrets: false,
    };
    let mut loader = Loader::new(&surroundings);
    let name = "resolved profile";
    let tree = loader.parse(Path::new(name), text);
    loader.finish(tree, name).map(|(profile, _)| profile)
}

/// A profile as text, and another text for whatever file it names.
#[cfg(any(test, fuzzing))]
pub(crate) fn load_texts(profile: &str, other: &str) -> Result<Profile, ProfileErrors> {
    let path = Path::new("profile.toml");
    let surroundings = Surroundings {
        read: &|asked| Ok(if asked == path { profile } else { other }.to_owned()),
        env: &|_| Some("secret".to_owned()),
        seed: &|| 1,
        secrets: true,
    };
    load_in(&surroundings, path, &[]).map(|(profile, _)| profile)
}

/// What loading needs of the world; tests give their own.
pub(super) struct Surroundings<'a> {
    pub(super) read: &'a dyn Fn(&Path) -> Result<String, String>,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) seed: &'a dyn Fn() -> u64,
    pub(super) secrets: bool,
}

pub(super) fn load_in(
    surroundings: &Surroundings<'_>,
    path: &Path,
    sets: &[String],
) -> Result<(Profile, Vec<Explained>), ProfileErrors> {
    let mut loader = Loader::new(surroundings);
    let Some(mut tree) = loader.file(path, &origin_of(path), "") else {
        return Err(loader.syntax.finish());
    };
    loader.extend(&mut tree, path);
    let (late, early): (Vec<Set>, Vec<Set>) =
        loader.sets(sets).into_iter().partition(|s| s.path.first().is_some_and(|p| p == "target_file"));
    loader.apply(&mut tree, early);
    loader.target_file(&mut tree, path);
    loader.apply(&mut tree, late);
    let stem = path.file_stem().map(|s| s.to_string_lossy().replace(char::is_control, "_"));
    loader.finish(tree, &stem.unwrap_or_default())
}

struct Loader<'a> {
    around: &'a Surroundings<'a>,
    /// Files that cannot be read or parsed, and the lines that mean nothing therefore.
    syntax: Errors,
    broken: Vec<Origin>,
    /// A broken table header moves keys to where they do not belong: what follows would be nonsense.
    header_broken: bool,
    errors: Errors,
    /// Folder and prefix of the target file in errors.
    target_folder: PathBuf,
    target_prefix: &'static str,
}

/// A `--set`.
struct Set {
    path: Vec<String>,
    value: Node,
}

impl<'a> Loader<'a> {
    fn new(around: &'a Surroundings<'a>) -> Loader<'a> {
        Loader {
            around,
            syntax: Errors::default(),
            broken: Vec::new(),
            header_broken: false,
            errors: Errors::default(),
            target_folder: PathBuf::new(),
            target_prefix: "target_file",
        }
    }

    fn file(&mut self, path: &Path, asked_at: &Origin, asked_by: &str) -> Option<Node> {
        match (self.around.read)(path) {
            Ok(text) => Some(self.parse(path, &text)),
            Err(why) => {
                let what = if asked_by.is_empty() { String::new() } else { format!("{}: ", path.display()) };
                self.syntax.push(asked_at, asked_by, format!("{what}cannot be read: {why}"));
                None
            }
        }
    }

    fn parse(&mut self, path: &Path, text: &str) -> Node {
        let name = path.display().to_string();
        let mut file = tree::parse(&name, text, &mut self.syntax);
        for line in file.broken_lines {
            let written = text.lines().nth(line as usize - 1).unwrap_or("");
            self.header_broken |= written.trim_start().starts_with('[');
            self.broken.push(Origin::File { file: name.as_str().into(), line });
        }
        tree::flatten_pass(&mut file.root, &mut self.errors);
        file.root
    }

    /// Puts the profile on top of the base it extends.
    fn extend(&mut self, tree: &mut Node, path: &Path) {
        let Some(extends) = tree.as_table_mut().and_then(|t| t.remove("extends")) else { return };
        let Some(base) = extends.as_text() else {
            return self.errors.push(
                &extends.at,
                "extends",
                format!("is the path of a profile, not {}", extends.describe()),
            );
        };
        let base = beside(path, base);
        let Some(mut base) = self.file(&base, &extends.at, "extends") else { return };
        if let Some(twice) = base.as_table_mut().and_then(|t| t.remove("extends")) {
            self.errors.push(&twice.at, "extends", "one level only: a base extends nothing itself");
        }
        tree::merge(&mut base, std::mem::replace(tree, Node::table(Origin::Default)));
        *tree = base;
    }

    fn sets(&mut self, sets: &[String]) -> Vec<Set> {
        let mut out = Vec::new();
        for text in sets {
            let Some((path, value)) = text.split_once('=') else {
                self.errors.push(&Origin::Set(text.as_str().into()), "", "write key=value");
                continue;
            };
            let path = path.trim();
            let thresholds = ["pass", "objectives"];
            let metric = thresholds.iter().find_map(|t| Some((t, path.strip_prefix(t)?.strip_prefix('.')?)));
            let parts: Vec<String> = match metric {
                // A metric is one key, dots and all.
                Some((table, metric)) => vec![(*table).into(), metric.trim_matches('"').into()],
                None => path.split('.').map(str::to_owned).collect(),
            };
            if path.starts_with("target_file.secrets") {
                let at = Origin::Set(path.into());
                self.errors.push(&at, path, "secrets come from the environment or files, not from the command line");
            } else if path == "extends" || parts.len() > SET_DEPTH_MAX || parts.iter().any(String::is_empty) {
                self.errors.push(&Origin::Set(text.as_str().into()), "", format!("{path:?} cannot be set"));
            } else {
                out.push(Set {
                    path: parts,
                    value: tree::parse_value(value.trim(), &Origin::Set(text.as_str().into())),
                });
            }
        }
        out
    }

    fn apply(&mut self, tree: &mut Node, sets: Vec<Set>) {
        for set in sets {
            let path: Vec<&str> = set.path.iter().map(String::as_str).collect();
            let at = set.value.at.clone();
            if let Err(why) = tree::set(tree, &path, set.value) {
                self.errors.push(&at, "", why);
            }
        }
    }

    /// Hangs the target file into the tree, as `target_file`.
    fn target_file(&mut self, tree: &mut Node, profile: &Path) {
        let Some(table) = tree.as_table_mut() else { return };
        let Some((named, at)) = table.get("target").and_then(|n| Some((n.as_text()?.to_owned(), n.at.clone()))) else {
            return;
        };
        if named == "embedded" {
            table.remove("target_file");
            return;
        }
        self.target_folder = profile.parent().unwrap_or(Path::new("")).to_owned();
        if table.get("target_file").is_some() || named.trim().is_empty() {
            return;
        }
        let path = match &at {
            Origin::File { file, .. } => beside(Path::new(&**file), &named),
            Origin::Set(_) | Origin::Default | Origin::Drawn => PathBuf::from(&named),
        };
        self.target_prefix = "";
        self.target_folder = path.parent().unwrap_or(Path::new("")).to_owned();
        if let Some(file) = self.file(&path, &at, "target")
            && let Some(table) = tree.as_table_mut()
        {
            table.set("target_file", file);
        }
    }

    /// Checks, completes and reads the whole.
    fn finish(mut self, mut tree: Node, stem: &str) -> Result<(Profile, Vec<Explained>), ProfileErrors> {
        if self.header_broken {
            return Err(self.syntax.finish());
        }
        let lenient = !self.broken.is_empty();
        let root_at = tree.at.clone();
        if let Some(table) = tree.as_table_mut() {
            keys::complete(table, &root_at, "", "", lenient, &mut self.errors);
            if table.get("seed").is_none() {
                let seed = i64::try_from((self.around.seed)()).unwrap_or(0);
                table.set("seed", Node { at: Origin::Drawn, value: Value::Integer(seed) });
            }
            if table.get("name").is_none() {
                table.set("name", Node::text(stem, Origin::Default));
            }
            if let Some(file) = table.get_mut("target_file") {
                let (at, found) = (file.at.clone(), file.describe());
                match file.as_table_mut() {
                    Some(t) => keys::complete(t, &at, "target_file", self.target_prefix, lenient, &mut self.errors),
                    None => self.errors.push(&at, "target_file", format!("is a table, not {found}")),
                }
            }
        }
        let parts = read::read(&tree, &mut self.errors);
        let (target_text, target) = self.target(&tree);
        let Self { mut syntax, mut errors, broken, .. } = self;
        errors.retain(|e| !broken.contains(&e.at));
        syntax.extend(errors);
        if !syntax.is_empty() {
            return Err(syntax.finish());
        }
        if let (Some(parts), Some((target, _))) = (&parts, &target) {
            unknown_servers(parts, target.as_ref(), &tree, &mut syntax);
            if let Some(search) = &parts.search {
                let embedded;
                let target = match target {
                    Some(target) => target,
                    None => {
                        embedded = Target::Embedded(parts.embedded.clone());
                        &embedded
                    }
                };
                read::search::suits(search, parts.series.as_ref(), target, &tree, &mut syntax);
            }
            super::turn::fit(parts, target.as_ref(), &tree, &mut syntax);
            if !syntax.is_empty() {
                return Err(syntax.finish());
            }
        }
        let (Some(parts), Some((target, secrets))) = (parts, target) else {
            // Every `None` above comes with its error; should one not, the profile must not pass for good.
            syntax.push(&root_at, "", "cannot be understood");
            return Err(syntax.finish());
        };
        let mut profile = Profile {
            name: parts.name.unwrap_or_else(|| stem.to_owned()),
            shape: parts.shape,
            target: target.unwrap_or(Target::Embedded(parts.embedded)),
            client: parts.client,
            rooms: parts.rooms,
            load: parts.load,
            pass: parts.pass,
            search: parts.search,
            scale_in: parts.scale_in,
            ice: parts.ice,
            series: parts.series,
            runs: Vec::new(),
            health: parts.health,
            seed: parts.seed,
            bind: parts.bind,
            shards: parts.shards,
            receive_buffer: parts.receive_buffer,
            resolved: String::new(),
        };
        profile.resolved = write::resolved(&profile, &target_text, &secrets);
        if let Some(series) = &profile.series {
            let mut runs = series.runs(&profile);
            runs.iter_mut().for_each(|run| run.resolved = write::resolved(run, &target_text, &secrets));
            profile.runs = runs;
        }
        let explained = explain(&profile.resolved, &tree);
        Ok((profile, explained))
    }

    /// What `target` says, and the external target it means; the inner `None` stands for the embedded fleet.
    #[expect(clippy::type_complexity, reason = "used once, right above")]
    fn target(&mut self, tree: &Node) -> (String, Option<(Option<Target>, BTreeMap<String, target::SecretSource>)>) {
        let Some(node) = tree.as_table().and_then(|t| t.get("target")) else { return (String::new(), None) };
        let Some(text) = node.as_text() else {
            self.errors.push(
                &node.at,
                "target",
                format!("is \"embedded\" or the path of a target file, not {}", node.describe()),
            );
            return (String::new(), None);
        };
        if text.trim().is_empty() {
            self.errors.push(&node.at, "target", "is empty; write \"embedded\" or the path of a target file");
        }
        if text == "embedded" {
            return (text.to_owned(), Some((None, BTreeMap::new())));
        }
        let Some(file) = tree.as_table().and_then(|t| t.get("target_file")) else {
            if self.syntax.is_empty() {
                self.errors.push(&node.at, "target", "there is no [target_file] to it");
            }
            return (text.to_owned(), None);
        };
        let surroundings = Secrets {
            env: self.around.env,
            read: self.around.read,
            folder: self.target_folder.clone(),
            wanted: self.around.secrets,
        };
        let read = target::read(file, self.target_prefix, &surroundings, &mut self.errors);
        (text.to_owned(), read.map(|(target, secrets)| (Some(Target::External(target)), secrets)))
    }
}

/// Errors about servers that the profile names and the target does not have.
fn unknown_servers(parts: &read::Parts, target: Option<&Target>, tree: &Node, errors: &mut Errors) {
    let names: Vec<String> = match target {
        None | Some(Target::Embedded(_)) => {
            let turn = (1..=parts.embedded.turn).map(|n| format!("turn-{n}"));
            (1..=parts.embedded.servers).map(|n| format!("s{n}")).chain(turn).collect()
        }
        // Only its director knows.
        Some(Target::External(t)) if !t.names_servers() => return,
        Some(Target::External(t)) => {
            t.servers.iter().map(|s| &s.id).chain(t.turn.iter().map(|s| &s.id)).cloned().collect()
        }
    };
    let mut named: Vec<(&str, Option<usize>, &str, &str)> = Vec::new();
    if let Some(s) = &parts.scale_in {
        for (i, step) in s.steps.iter().enumerate() {
            if let Selector::Id(id) = &step.server {
                named.push(("step", Some(i), "server", id));
            }
            if let Some(Subject::Id(id)) = step.condition.as_ref().map(|c| &c.of) {
                named.push(("step", Some(i), "when", id));
            }
        }
        for (i, r) in s.rollback.iter().enumerate() {
            if let Selector::Id(id) = &r.server {
                named.push(("rollback", Some(i), "server", id));
            }
        }
    }
    for (table, index, key, id) in named.into_iter().filter(|(.., id)| !names.iter().any(|n| n == id)) {
        let node = tree.as_table().and_then(|t| t.get(table));
        let node = match (node.map(|n| &n.value), index) {
            (Some(Value::Array(items)), Some(i)) => items.get(i),
            _ => node,
        };
        let at = node.and_then(Node::as_table).and_then(|t| t.get(key)).map_or(&tree.at, |n| &n.at);
        let path = index.map_or(format!("{table}.{key}"), |i| format!("{table}[{i}].{key}"));
        errors.push(at, path, format!("the target has no server {id:?}; it has {}", names.join(", ")));
    }
}

/// A small file: whoever names a device or a recording by mistake is told so.
fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    match text.len() as u64 > FILE_MAX {
        true => Err(format!("is larger than {} KiB", FILE_MAX >> 10)),
        false => Ok(text),
    }
}

fn origin_of(path: &Path) -> Origin {
    Origin::File { file: path.display().to_string().into(), line: 0 }
}

/// A path that a file names, relative to that file.
fn beside(file: &Path, named: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(named)
}

/// Every value of the resolved text with its origin in the tree that was read.
fn explain(resolved: &str, tree: &Node) -> Vec<Explained> {
    let mut nothing = Errors::default();
    let file = tree::parse("", resolved, &mut nothing);
    let mut out = Vec::new();
    walk("", &file.root, Some(tree), &Origin::Default, &mut out);
    out
}

fn walk(path: &str, node: &Node, source: Option<&Node>, above: &Origin, out: &mut Vec<Explained>) {
    let at = source.map_or(above, |s| &s.at);
    match &node.value {
        Value::Table(table) => {
            for entry in &table.0 {
                let key = match entry.key.contains('.') {
                    true => format!("{path}.{:?}", entry.key),
                    false => keys::join(path, &entry.key),
                };
                let source = source.and_then(Node::as_table).and_then(|t| t.get(&entry.key));
                walk(&key, &entry.node, source, at, out);
            }
        }
        Value::Array(items) if items.iter().any(|i| i.as_table().is_some()) => {
            for (i, item) in items.iter().enumerate() {
                let source = source.and_then(|s| match &s.value {
                    Value::Array(a) => a.get(i),
                    _ => None,
                });
                walk(&format!("{path}[{i}]"), item, source, at, out);
            }
        }
        _ => out.push(Explained { key: path.to_owned(), value: show(node), from: at.clone() }),
    }
}

fn show(node: &Node) -> String {
    match &node.value {
        Value::Text(t) => write::quote(t),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        _ => node.describe(),
    }
}
