//! The table of keys as a JSON Schema for editors and as a page for people. Must not know what the keys are for.

use serde_json::{Map, Value, json};

use super::keys::{Key, Otherwise, ROOT, Shape};

/// The JSON Schema (2020-12) of the configuration.
pub fn json_schema() -> Value {
    let mut schema = schema_of(&ROOT);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Holdfast configuration");
    schema
}

/// `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    let Shape::Map(keys) = &ROOT else { return page };
    section(&mut page, "", keys);
    page
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made from src/config/keys.rs. `UPDATE_DOCS=1 cargo test --lib config` renews it. -->

One YAML file. `holdfast check FILE` names every problem of it as `file:line:col: path: problem; hint` and exits 78 if there is one;
`holdfast schema` prints its JSON Schema for editors. [config/holdfast.yaml](../config/holdfast.yaml) is a commented example.

- Unknown keys are refused.
- `${NAME}` and `${NAME:-default}` in values are replaced by environment variables; `$${` stands for `${`. An empty variable counts
  as missing where there is a default.
- Durations: `250ms`, `5s`, `1m 30s`. Sizes: `64KiB`, `1MB`, or a number of bytes.
- Paths of files are relative to the configuration file. A schema's `$ref` reaches files under the schema's own folder, never the network.
- Secrets never appear in logs, dumps or problems.
- A change of a *hot* key takes effect by a reload: the file changes, SIGHUP, or `POST /v1/config/reload`. A change of any other key is
  refused by name, and the old configuration stays, until a restart.
";

fn section(page: &mut String, path: &str, keys: &'static [Key]) {
    let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    page.push_str(&format!("\n## {title}\n\n| key | value | otherwise | hot | meaning |\n|---|---|---|---|---|\n"));
    for key in keys {
        let Key { name, doc, .. } = key;
        let hot = if key.hot { "yes" } else { "" };
        page.push_str(&format!("| `{name}` | {} | {} | {hot} | {doc} |\n", kind(&key.shape), otherwise(key)));
    }
    for key in keys {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        match &key.shape {
            Shape::Map(keys) | Shape::TextOr(_, keys) => section(page, &path, keys),
            Shape::Named(Shape::Map(keys)) => section(page, &format!("{path}.NAME"), keys),
            Shape::List(Shape::Map(keys)) => section(page, &format!("{path}[]"), keys),
            _ => {}
        }
    }
}

fn otherwise(key: &Key) -> String {
    match (&key.otherwise, &key.shape) {
        (_, Shape::Reserved(_)) => "not available".to_owned(),
        (Otherwise::Required, _) => "**required**".to_owned(),
        (Otherwise::Absent(means), _) => (*means).to_owned(),
        (Otherwise::Is(value), _) => format!("`{value}`"),
    }
}

fn kind(shape: &Shape) -> String {
    use super::raw::show_millis;
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Secret => "secret text".to_owned(),
        Shape::File => "file".to_owned(),
        Shape::Duration(least, most) => format!("duration, {} to {}", show_millis(*least), show_millis(*most)),
        Shape::Size(least, most) => format!("size, {} to {}", bytesize::ByteSize(*least), bytesize::ByteSize(*most)),
        Shape::Integer(least, most) => format!("{least} to {most}"),
        Shape::Ratio => "0 to 1".to_owned(),
        Shape::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "),
        Shape::Texts => "text, or a list".to_owned(),
        Shape::Secrets => "map of names to secret texts".to_owned(),
        Shape::Named(_) => "map of names".to_owned(),
        Shape::List(Shape::Map(_)) => "list of maps".to_owned(),
        Shape::List(_) => "list".to_owned(),
        Shape::Map(_) => "map".to_owned(),
        Shape::TextOr(main, _) => format!("text (the `{main}`), or a map"),
        Shape::Reserved(_) => String::new(),
    }
}

fn schema_of(shape: &Shape) -> Value {
    // A variable may stand for any scalar, and numbers may be written as text.
    match shape {
        Shape::Text | Shape::Secret | Shape::File => json!({"type": ["string", "number", "boolean"]}),
        Shape::Duration(..) => json!({"type": "string", "examples": ["250ms", "5s", "1m 30s"]}),
        Shape::Size(..) => json!({"type": ["string", "integer"], "examples": ["64KiB", "1MB"]}),
        Shape::Integer(least, most) => json!({"anyOf": [
            {"type": "integer", "minimum": least, "maximum": most},
            {"type": "string", "pattern": "\\$\\{"},
        ]}),
        Shape::Ratio => json!({"anyOf": [
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "string", "pattern": "\\$\\{"},
        ]}),
        Shape::Choice(words) => choice(words),
        Shape::Texts => json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        Shape::Secrets => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Shape::Named(shape) => json!({"type": "object", "additionalProperties": schema_of(shape)}),
        Shape::List(shape) => json!({"type": "array", "items": schema_of(shape)}),
        Shape::Map(keys) => map(keys),
        Shape::TextOr(_, keys) => json!({"anyOf": [{"type": "string"}, map(keys)]}),
        Shape::Reserved(_) => json!(false),
    }
}

/// `1.1` and `2` are numbers to YAML, `true` is a boolean.
fn choice(words: &[&str]) -> Value {
    let others: Vec<Value> = words
        .iter()
        .filter_map(|word| serde_json::from_str(word).ok())
        .filter(|v: &Value| v.is_number() || v.is_boolean())
        .collect();
    let all: Vec<Value> = words.iter().map(|word| json!(word)).chain(others).collect();
    json!({"anyOf": [{"enum": all}, {"type": "string", "pattern": "\\$\\{"}]})
}

fn map(keys: &[Key]) -> Value {
    let mut properties = Map::new();
    for key in keys.iter().filter(|key| !matches!(key.shape, Shape::Reserved(_))) {
        let mut schema = schema_of(&key.shape);
        schema["description"] = json!(key.doc);
        if let Otherwise::Is(default) = key.otherwise {
            schema["default"] = json!(default);
        }
        properties.insert(key.name.to_owned(), schema);
    }
    let required = keys.iter().filter(|key| matches!(key.otherwise, Otherwise::Required)).map(|key| key.name);
    json!({
        "type": "object",
        "properties": properties,
        "required": required.collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}
