//! The profiles that we ship, the schema and the documentation know the same keys.

use super::*;

fn shipped() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    all.sort();
    assert!(all.len() >= 4, "{all:?}");
    all
}

/// With whatever secrets it asks for.
fn load_shipped(path: &Path) -> Profile {
    let surroundings = Surroundings {
        read: &|path| std::fs::read_to_string(path).map_err(|e| e.to_string()),
        env: &|_| Some("secret".to_owned()),
        seed: &|| 42,
        secrets: true,
    };
    load_in(&surroundings, path, &[]).unwrap_or_else(|e| panic!("{e}")).0
}

#[test]
fn every_profile_that_we_ship_loads_and_explains_itself() {
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{path:?} explains itself in its first lines");
        let profile = load_shipped(&path);
        assert_eq!(parse_resolved(&profile.resolved).unwrap().resolved, profile.resolved);
    }
}

/// Keys of a JSON value that a schema does not know.
fn strangers(
    value: &serde_json::Value,
    schema: &serde_json::Value,
    root: &serde_json::Value,
    path: &str,
    out: &mut Vec<String>,
) {
    let schema = match schema["$ref"].as_str() {
        Some(pointer) => root.pointer(pointer.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    match value {
        serde_json::Value::Object(map) => {
            for (key, inner) in map {
                let path = format!("{path}.{key}");
                match &schema["properties"][key] {
                    serde_json::Value::Null if schema["additionalProperties"].is_object() => {}
                    serde_json::Value::Null => out.push(path),
                    found => strangers(inner, found, root, &path, out),
                }
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|i| strangers(i, &schema["items"], root, path, out));
        }
        _ => {}
    }
}

#[test]
fn the_schema_knows_every_key_of_the_profiles_that_we_ship() {
    let schema = schema();
    let check = |text: &str, part: &serde_json::Value| {
        let json = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
        let mut out = Vec::new();
        strangers(&json, part, &schema, "", &mut out);
        out
    };
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(check(&text, &schema), [""; 0], "{path:?}");
        let resolved = load_shipped(&path).resolved;
        assert_eq!(check(&resolved, &schema), [""; 0], "{path:?}");
    }
    assert_eq!(check(EVERYTHING.split("[pass]").next().unwrap(), &schema), [""; 0]);
    assert_eq!(check(JANUS, &schema["$defs"]["target_file"]), [""; 0]);
    assert_eq!(check("[load]\nhodl = 1", &schema), [".load.hodl"]);
}

#[test]
fn the_documentation_names_every_key_and_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles.md");
    let docs = std::fs::read_to_string(path).unwrap();
    for key in keys::KEYS {
        let row = format!("| `{}` |", key.name);
        assert!(docs.contains(&row), "{row} of {:?}", key.table);
        if let keys::Need::Default(default) = key.need
            && default != "{}"
        {
            assert!(
                docs.lines().any(|l| l.starts_with(&row) && l.contains(&format!("`{default}`"))),
                "default {default} of {row}"
            );
        }
    }
    for (pattern, unit, _) in metrics::TABLE {
        let row = format!("| `{pattern}` | {} |", unit.as_str());
        assert!(docs.contains(&row), "{row}");
    }
}
