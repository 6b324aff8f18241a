//! JSON Schema of profiles and target files, for editors: made of the list of keys.

use super::keys::{self, Form, KEYS, Key, Need};
use super::metrics::{self, Unit};
use super::units::ENCODINGS;
use serde_json::{Map, Value, json};

const DURATION: &str = r"^[0-9]+(\.[0-9]+)? ?(us|ms|s|m|h|d)$";
const SHARE: &str = r"^[0-9]+(\.[0-9]+)? ?%$";
const RATE: &str = r"[0-9]+(\.[0-9]+)? ?/(s|min)";

/// The schema (JSON Schema 2020-12) of a profile; that of a target file is `$defs.target_file`.
pub fn schema() -> Value {
    let mut profile = table("");
    if let Some(map) = profile.as_object_mut() {
        map.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".into(), json!("roomful profile"));
        map.insert("$defs".into(), json!({ "target_file": table("target_file") }));
    }
    profile
}

fn table(name: &str) -> Value {
    let mut properties = Map::new();
    for key in keys::of_table(name) {
        properties.insert(key.name.to_owned(), property(key));
    }
    // A profile that extends another one may leave out what the base has.
    let required: Vec<&str> = keys::of_table(name)
        .filter(|k| k.need == Need::Required && (!name.is_empty() || keys::shapes_of(k.name).is_none()))
        .map(|k| k.name)
        .collect();
    let mut made = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if let Some(map) = made.as_object_mut() {
        match name {
            "" => {
                map.insert("if".into(), json!({ "not": { "required": ["extends"] } }));
                map.insert("then".into(), json!({ "required": required }));
            }
            "load" | "search" | "answer" | "expect.scale_out" => {}
            _ => {
                map.insert("required".into(), json!(required));
            }
        }
    }
    made
}

fn property(key: &Key) -> Value {
    let inner = |suffix: &str| {
        let path = format!("{}{suffix}", keys::join(key.table, key.name));
        table(KEYS.iter().find(|k| k.table == path).map_or("", |k| k.table))
    };
    let mut made = match key.form {
        Form::Table if key.name == "target_file" => json!({ "$ref": "#/$defs/target_file" }),
        Form::Table => inner(""),
        Form::Like { table: like, many: false } => table(like),
        // Of these keywords, those about objects say nothing of an array, and the other way round.
        Form::Like { table: like, many: true } => {
            let mut made = table(like);
            made["items"] = table(like);
            made["type"] = json!(["object", "array"]);
            made
        }
        Form::Tables => json!({ "type": "array", "minItems": 1, "items": inner("[]") }),
        form => value(form),
    };
    if let Some(map) = made.as_object_mut() {
        map.insert("description".into(), json!(key.doc));
        if let Need::Default(text) = key.need
            && let Some(default) = default(text)
        {
            map.insert("default".into(), default);
        }
    }
    made
}

fn value(form: Form) -> Value {
    let text = |pattern: String| json!({ "type": "string", "pattern": pattern });
    let inner = |p: &str| p.trim_start_matches('^').trim_end_matches('$').to_owned();
    match form {
        Form::Text => json!({ "type": "string", "minLength": 1 }),
        Form::Word(words) => json!({ "enum": words }),
        Form::Words(words) => json!({ "type": "array", "items": { "enum": words } }),
        Form::Count { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Form::CountOr { min, max, word } => {
            json!({ "anyOf": [{ "const": word }, { "type": "integer", "minimum": min, "maximum": max }] })
        }
        Form::Flag => json!({ "type": "boolean" }),
        Form::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Form::BitRate => text(r"^(none|[0-9]+(\.[0-9]+)? ?[kM]?bit/s)$".into()),
        Form::Queue => text(r"^[0-9]+(\.[0-9]+)? ?(us|ms|s|B|kB|MB)$".into()),
        Form::Duration { .. } => text(DURATION.into()),
        Form::Share { .. } => text(SHARE.into()),
        Form::ShareOr { all, none } => json!({ "anyOf": [
            { "enum": [all, none] },
            { "type": "number", "minimum": 0, "maximum": 1 },
            { "type": "string", "pattern": SHARE },
        ] }),
        Form::TurnUrl => text("^turns?:.+$".into()),
        Form::Size => json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 10_000 },
            { "type": "string", "pattern": "^ *[0-9]+ *(\\.\\. *[0-9]+ *)?$" },
        ] }),
        Form::Range { .. } => text("^ *[0-9]+ *\\.\\. *[0-9]+ *$".into()),
        Form::Encoding(kind) => {
            let known = ENCODINGS.iter().filter(|e| e.codec.kind() == kind).map(ToString::to_string);
            json!({ "type": "string", "examples": std::iter::once("none".to_owned()).chain(known).collect::<Vec<_>>(),
                    "pattern": "^(none|[a-zA-Z0-9]+@[0-9]+(\\.[0-9]+)? ?[kM]?bit/s)$" })
        }
        Form::Stay => {
            let d = inner(DURATION);
            text(format!(
                r"^(hold|{d}|{d} *\.\. *{d}|exponential *\( *{d} *\)|lognormal *\( *{d} *, *[0-9]+(\.[0-9]+)? *\))$"
            ))
        }
        Form::Join => {
            let d = inner(DURATION);
            text(format!(
                r"^({RATE}|poisson *\( *{RATE} *\)|ramp *\( *{RATE} *\.\. *{RATE} *, *{d} *\)|burst *\( *[0-9]+ *, *{d} *\))$"
            ))
        }
        Form::Rate => text(format!("^{RATE}$")),
        Form::Addresses | Form::Networks | Form::Command => json!({ "type": "array", "items": { "type": "string" } }),
        Form::Url => text("^(ws|wss|http|https|redis)://.+$".into()),
        Form::Counts { max } => json!({ "type": "object", "minProperties": 1,
            "additionalProperties": { "type": "integer", "minimum": 1, "maximum": max } }),
        Form::Pass => pass(),
        Form::Secrets => json!({ "type": "object", "additionalProperties": { "anyOf": [
            { "type": "string" },
            { "type": "object", "additionalProperties": false, "required": ["env"],
              "properties": { "env": { "type": "string" }, "optional": { "type": "boolean" } } },
            { "type": "object", "additionalProperties": false, "required": ["file"],
              "properties": { "file": { "type": "string" }, "optional": { "type": "boolean" } } },
        ] } }),
        Form::Table | Form::Tables | Form::Like { .. } => json!({}),
    }
}

/// Metrics as quoted keys. (Written dotted, without quotes, an editor sees nested tables and cannot check them.)
fn pass() -> Value {
    let mut properties = Map::new();
    for metric in metrics::all() {
        let number = match metric.unit {
            Unit::Ms => DURATION.trim_start_matches('^').trim_end_matches('$').to_owned(),
            Unit::Percent => SHARE.trim_start_matches('^').trim_end_matches('$').to_owned(),
            Unit::PerMinute => r"[0-9]+(\.[0-9]+)? ?/min".to_owned(),
            Unit::PerSecond => r"[0-9]+(\.[0-9]+)? ?/s".to_owned(),
            Unit::Count => r"[0-9]+(\.[0-9]+)?".to_owned(),
        };
        let property = json!({
            "type": "string", "pattern": format!("^ *(<=|>=|==|<|>) *{number} *$"),
            "description": metric.doc, "examples": [metric.unit.example()],
        });
        properties.insert(metric.path.clone(), property);
    }
    json!({ "type": "object", "minProperties": 1, "properties": properties, "additionalProperties": { "type": "object" } })
}

fn default(text: &str) -> Option<Value> {
    let table: toml::Table = format!("x = {text}").parse().ok()?;
    serde_json::to_value(table.get("x")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_every_key_and_metric() {
        let schema = schema();
        for key in KEYS {
            let mut at = if key.table.starts_with("target_file") { &schema["$defs"]["target_file"] } else { &schema };
            for part in key.table.split('.').filter(|p| !p.is_empty() && *p != "target_file") {
                at = &at["properties"][part.trim_end_matches("[]")];
                if part.ends_with("[]") {
                    at = &at["items"];
                }
            }
            assert_eq!(at["properties"][key.name]["description"], key.doc, "{key:?}");
            assert_eq!(at["additionalProperties"], false);
        }
        for metric in metrics::all() {
            assert_eq!(schema["properties"]["pass"]["properties"][&metric.path]["type"], "string");
        }
    }

    #[test]
    fn defaults_are_json_of_their_toml() {
        let schema = schema();
        assert_eq!(schema["properties"]["shards"]["default"], "auto");
        assert_eq!(schema["properties"]["bind"]["default"], json!([]));
        assert_eq!(schema["$defs"]["target_file"]["properties"]["tls_verify"]["default"], true);
    }
}
