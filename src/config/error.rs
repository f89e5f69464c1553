//! Problems of a configuration: where, what, and what to do. A problem never repeats a secret's value.

use std::fmt;

/// A line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    pub line: u64,
    pub column: u64,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// The key path, for instance `endpoints[0].routes[2].upstream`; empty where the whole file is meant.
    pub path: String,
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Every problem of one configuration, in the order of the file.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Problems {
    file: String,
    problems: Vec<Problem>,
}

impl Problems {
    pub fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| a.place.cmp(&b.place).then_with(|| a.path.cmp(&b.path)));
        problems.dedup();
        Self { file: file.to_owned(), problems }
    }

    /// The file itself cannot be used.
    pub fn of_file(file: &str, reason: String) -> Self {
        let problem = Problem { place: Place::default(), path: String::new(), problem: reason, hint: None };
        Self { file: file.to_owned(), problems: vec![problem] }
    }

    pub fn all(&self) -> &[Problem] {
        &self.problems
    }

    /// A line for each problem: `file:line:col: path: problem; hint`.
    pub fn lines(&self) -> Vec<String> {
        self.problems.iter().map(|problem| line(&self.file, problem)).collect()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

fn line(file: &str, problem: &Problem) -> String {
    let mut line = file.to_owned();
    if problem.place.line > 0 {
        line += &format!(":{}:{}", problem.place.line, problem.place.column);
    }
    line += ": ";
    if !problem.path.is_empty() {
        line += &format!("{}: ", problem.path);
    }
    line += &problem.problem;
    if let Some(hint) = &problem.hint {
        line += &format!("; {hint}");
    }
    line
}

/// The known name that is most like `name`, if one is like it.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let scored = known.into_iter().map(|k| (strsim::damerau_levenshtein(name, k), k));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + best.len() / 4).then(|| format!("did you mean `{best}`?"))
}
