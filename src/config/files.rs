//! The files that a configuration names: schemas with what they refer to, certificate bundles. Must not know what they are used for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::Value;

use super::FILE_BYTES_MAX;
use crate::schema::{Origin, Schema};

/// The most files that one schema may reach.
const REACHED_MAX: usize = 1000;
/// Of a schema's hash, as much as people compare by eye.
const SCHEMA_HASH_BYTES: usize = 6;

/// Reads files under the configuration's folder, each once.
pub struct Files {
    folder: PathBuf,
    /// Every file read, with its bytes, for the hash and for the watcher.
    read: BTreeMap<PathBuf, String>,
    schemas: BTreeMap<PathBuf, Result<Arc<Schema>, String>>,
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: BTreeMap::new(), schemas: BTreeMap::new() }
    }

    /// Where a file named by the configuration is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The text of a file named by the configuration.
    pub fn text(&mut self, name: &str) -> Result<String, String> {
        let path = self.path(name);
        self.read(&path)
    }

    /// The compiled schema of a file named by the configuration, with what it refers to.
    pub fn schema(&mut self, name: &str) -> Result<Arc<Schema>, String> {
        let path = self.path(name);
        if let Some(known) = self.schemas.get(&path) {
            return known.clone();
        }
        let compiled = self.compile(name, &path);
        self.schemas.insert(path, compiled.clone());
        compiled
    }

    /// The schema of a file that was asked for as one.
    pub fn compiled(&self, name: &str) -> Option<&Arc<Schema>> {
        self.schemas.get(&self.path(name))?.as_ref().ok()
    }

    /// Every file that was read, with its text.
    pub fn all(&self) -> &BTreeMap<PathBuf, String> {
        &self.read
    }

    fn compile(&mut self, name: &str, path: &Path) -> Result<Arc<Schema>, String> {
        let home = path.parent().unwrap_or(Path::new(""));
        // Symlinks are resolved before the comparison: a mounted folder may consist of them.
        let home = home.canonicalize().map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let root = home.join(path.file_name().unwrap_or_default());
        let mut documents = BTreeMap::new();
        let mut open = vec![root.clone()];
        let mut reached = BTreeSet::new();
        while let Some(next) = open.pop() {
            let uri = uri_of(&next);
            if documents.contains_key(&uri) {
                continue;
            }
            if documents.len() >= REACHED_MAX {
                return Err(format!("{name} reaches more than {REACHED_MAX} files"));
            }
            let document = self.document(&home, &next)?;
            references(&document, &mut |reference| {
                if let Some(target) = local_target(&next, reference) {
                    open.push(target);
                }
            });
            documents.insert(uri, document);
            reached.insert(next);
        }
        let origin = Origin { file: name.to_owned(), hash: self.hash(&home, &root, &reached) };
        let compiled = Schema::compile(&uri_of(&root), &documents).map(|schema| Arc::new(schema.with_origin(origin)));
        compiled.map_err(|error| {
            let place = error.pointer.as_ref().map(|pointer| format!(" at {pointer}")).unwrap_or_default();
            format!("{name}{place}: {error}")
        })
    }

    /// The hash of a schema: of a file that refers to no other what `sha256sum` says of it.
    fn hash(&self, home: &Path, root: &Path, reached: &BTreeSet<PathBuf>) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |path: &Path| context.update(self.read.get(path).map(String::as_bytes).unwrap_or_default());
        add(root);
        for path in reached.iter().filter(|path| *path != root) {
            add(path);
        }
        let names = reached.iter().filter(|path| *path != root).filter_map(|path| path.strip_prefix(home).ok());
        names.for_each(|name| context.update(name.as_os_str().as_encoded_bytes()));
        hex(&context.finish().as_ref()[..SCHEMA_HASH_BYTES])
    }

    fn document(&mut self, home: &Path, path: &Path) -> Result<Value, String> {
        let real = path.canonicalize().map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if !real.starts_with(home) {
            return Err(format!("{} is not under the schema's own folder {}", path.display(), home.display()));
        }
        let text = self.read(path)?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{}:{}:{}: not JSON: {error}", path.display(), error.line(), error.column()))
    }

    fn read(&mut self, path: &Path) -> Result<String, String> {
        if let Some(known) = self.read.get(path) {
            return Ok(known.clone());
        }
        let text = read_text(path)?;
        self.read.insert(path.to_owned(), text.clone());
        Ok(text)
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file of bounded size as UTF-8.
pub fn read_text(path: &Path) -> Result<String, String> {
    let wrong = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(wrong)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display()));
    }
    Ok(text)
}

fn uri_of(path: &Path) -> String {
    let mut uri = String::from("file://");
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// Calls `found` with every `$ref` and `$dynamicRef` of a document.
fn references(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" || key == "$dynamicRef" => found(text),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// The file that a relative reference means; none for one inside the document, or with a scheme, which compiling refuses by name.
fn local_target(from: &Path, reference: &str) -> Option<PathBuf> {
    let file = reference.split('#').next().unwrap_or_default();
    if file.is_empty() || file.contains("://") || file.starts_with("urn:") {
        return None;
    }
    let mut target = from.parent().map(Path::to_owned).unwrap_or_default();
    for part in Path::new(file).components() {
        match part {
            std::path::Component::ParentDir => {
                target.pop();
            }
            std::path::Component::CurDir => {}
            other => target.push(other),
        }
    }
    Some(target)
}
