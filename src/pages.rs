//! The project's documents, for tests that hold what they show to the code. Compiled for tests only.

use std::path::{Path, PathBuf};

/// One document.
pub struct Page {
    pub path: PathBuf,
    pub text: String,
}

impl Page {
    /// The blocks of code in a language, without their indentation.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        let mut blocks: Vec<String> = Vec::new();
        let mut open: Option<(usize, bool)> = None;
        for line in self.text.lines() {
            let bare = line.trim_start();
            match (&open, bare.strip_prefix("```")) {
                (None, Some(info)) => {
                    let wanted = info == language;
                    if wanted {
                        blocks.push(String::new());
                    }
                    open = Some((line.len() - bare.len(), wanted));
                }
                (Some(_), Some("")) => open = None,
                (Some((indent, true)), _) => {
                    let block = blocks.last_mut().expect("an open block");
                    *block += line.get(*indent..).unwrap_or_default();
                    block.push('\n');
                }
                _ => {}
            }
        }
        blocks
    }
}

/// Holds parts of a page of `docs/`, each between its two markers, to what the code says; with `UPDATE_DOCS` set it writes them.
pub fn hold<'a>(page: &str, parts: impl IntoIterator<Item = (&'a str, String)>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{page}.md"));
    let found = std::fs::read_to_string(&path).expect("the page");
    let mut made = found.clone();
    for (name, part) in parts {
        let (head, rest) = made.split_once(&format!("<!-- {name} -->\n")).expect("a marker");
        let (_, tail) = rest.split_once(&format!("<!-- /{name} -->")).expect("a marker");
        made = format!("{head}<!-- {name} -->\n{part}<!-- /{name} -->{tail}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &made).expect("written");
    } else {
        assert_eq!(found, made, "docs/{page}.md is old: UPDATE_DOCS=1 cargo test --lib {page}");
    }
}

/// Every page that is for users: the README, the chart's, all of `docs/` and of the examples.
pub fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md"), root.join("SECURITY.md"), root.join("helm/holdfast/README.md")];
    let mut folders = vec![root.join("docs"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            match path.is_dir() {
                // What package managers have put there is not ours.
                true if path.ends_with("node_modules") || path.ends_with("target") => {}
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "md") => paths.push(path),
                false => {}
            }
        }
    }
    assert!(paths.len() > 12, "found {} pages", paths.len());
    let read = |path: PathBuf| Page { text: std::fs::read_to_string(&path).expect("text"), path };
    paths.into_iter().map(read).collect()
}
