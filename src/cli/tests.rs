use super::*;
use crate::pages::pages;

/// The words of a command line as a shell splits them, up to what ends the command; none if a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ';' | '|' | '>' | '&' | ')') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Whatever of a line is a call of the program, also behind other words.
fn calls(line: &str) -> impl Iterator<Item = &str> {
    let line = line.trim_start().trim_start_matches("$ ");
    let is_call = |at: usize| at == 0 || line[..at].ends_with("&& ") || line[..at].ends_with("| ");
    line.match_indices("holdfast ").map(|(at, _)| at).filter(move |at| is_call(*at)).map(move |at| &line[at..])
}

#[test]
fn command_lines_in_the_documents_are_taken() {
    let (mut found, mut wrong) = (0, Vec::new());
    for page in pages() {
        let text = page.text.replace("cargo run --release -- ", "holdfast ");
        let shell = crate::pages::Page { text, path: page.path };
        let blocks = shell
            .blocks("sh")
            .into_iter()
            .flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>());
        let is_call = |code: &&str| code.starts_with("holdfast ") && !code.contains(['…', '\n']);
        let inline = shell.text.split('`').skip(1).step_by(2).filter(is_call).map(str::to_owned);
        let lines: Vec<_> = blocks.map(|line| (line, true)).chain(inline.map(|line| (line, false))).collect();
        for (line, is_whole) in lines {
            for call in calls(&line) {
                let Some(words) = words(call) else {
                    wrong.push(format!("{}: {call}: a quote is not closed", shell.path.display()));
                    continue;
                };
                found += 1;
                // Asking for help is no mistake, and in a sentence the name of a command does.
                let may_lack = |kind| !is_whole && kind == clap::error::ErrorKind::MissingRequiredArgument;
                if let Err(error) = Cli::try_parse_from(words)
                    && error.use_stderr()
                    && !may_lack(error.kind())
                {
                    wrong.push(format!("{}: {call}\n{error}", shell.path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 20, "found {found} command lines");
}

#[test]
fn examples_in_the_help_are_taken() {
    let mut command = Cli::command();
    command.build();
    let mut helps = vec![EXAMPLES.to_owned()];
    helps.extend(command.get_subcommands().filter_map(|part| part.get_after_help().map(ToString::to_string)));
    let mut found = 0;
    for line in helps.iter().flat_map(|help| help.lines()) {
        for call in calls(line) {
            // What it is for stands behind it, after several spaces.
            let call = call.split("   ").next().unwrap_or_default();
            let words = words(call).expect("closed quotes");
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{call}: {error}"));
            found += 1;
        }
    }
    assert!(found > 12, "found {found} examples");
}
