//! Links of the documents lead somewhere: files exist, headings too, and the site's table of contents names every page.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::root;

/// Folders whose documents are not this project's own.
const FOREIGN: &[&str] = &["target", "node_modules", "corpus"];

#[test]
fn links_and_anchors_lead_somewhere() {
    let mut pages = Vec::new();
    collect(&root(), &mut pages);
    assert!(pages.len() > 12, "found {} pages", pages.len());
    let texts: HashMap<PathBuf, String> =
        pages.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("UTF-8"))).collect();
    let (mut found, mut wrong) = (0, Vec::new());
    for (path, text) in &texts {
        for target in links(&prose(text)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            found += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = path.parent().expect("a folder");
            let file = if file.is_empty() { path.clone() } else { normal(&folder.join(file)) };
            let ok = match texts.get(&file) {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && file.exists(),
            };
            if !ok {
                wrong.push(format!("{}: {target}", path.strip_prefix(root()).expect("under the root").display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
    assert!(found > 100, "found {found} links");
}

#[test]
fn the_table_of_contents_names_every_page() {
    let docs = root().join("docs");
    let contents = fs::read_to_string(docs.join("SUMMARY.md")).expect("docs/SUMMARY.md");
    let listed: Vec<_> = links(&contents).into_iter().map(|target| docs.join(target)).collect();
    let named: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(named.len(), listed.len(), "docs/SUMMARY.md names a page twice");
    let mut pages = Vec::new();
    collect(&docs, &mut pages);
    pages.retain(|path| !path.ends_with("SUMMARY.md"));
    assert_eq!(pages.into_iter().collect::<BTreeSet<_>>(), named, "docs/SUMMARY.md does not name what there is");
}

#[test]
fn the_prose_of_the_documents_is_wrapped() {
    let mut pages = Vec::new();
    collect(&root().join("docs/guides"), &mut pages);
    for name in ["concepts", "metrics", "start", "troubleshooting"] {
        pages.push(root().join(format!("docs/{name}.md")));
    }
    for path in pages {
        let text = fs::read_to_string(&path).expect("UTF-8");
        for (at, line) in text.lines().enumerate() {
            // Tables and URLs cannot be wrapped.
            let is_long = line.chars().count() > 130 && !line.trim_start().starts_with('|') && !line.contains("://");
            assert!(!is_long, "{}:{}: longer than 130 columns", path.display(), at + 1);
        }
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !FOREIGN.contains(&name.as_str()) {
                collect(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The text without its blocks of code.
fn prose(text: &str) -> String {
    let mut open = false;
    let mut prose = String::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        if !is_fence && !open {
            prose += line;
            prose.push('\n');
        }
        open ^= is_fence;
    }
    prose
}

/// The targets of links and images.
fn links(text: &str) -> Vec<String> {
    let target = |(at, _): (usize, &str)| text[at + 2..].split([')', ' ', '\n']).next().unwrap_or_default().to_owned();
    text.match_indices("](").map(target).collect()
}

/// What headings can be linked to by: in lower case, spaces as hyphens, without what is no letter, digit, `-` or `_`.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let slug: String = heading.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let again = (1..).map(|n| format!("{slug}-{n}")).find(|again| !anchors.contains(again));
        let is_new = anchors.insert(slug);
        anchors.extend(again.filter(|_| !is_new));
    }
    anchors
}

/// Without `..`, so that a file has one name.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part.as_os_str().to_str() {
            Some("..") => drop(normal.pop()),
            _ => normal.push(part),
        }
    }
    normal
}
