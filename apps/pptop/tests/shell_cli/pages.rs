//! The pages that users read. Each command in them is run here as it is written, or `.ci/run` runs
//! it, or a comment above it says what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::home::Home;
use super::words::{files, helps, root};

/// The needs of commands that no test can meet. A comment on a line before the block names one:
/// `<!-- needs: gpu -->`.
const NEEDS: [&str; 3] = ["needs: gpu", "needs: download", "takes: minutes"];

/// Commands whose exit code may differ from 0 although all is well.
const OTHER_CODES: [(&str, &[i32]); 1] = [("pptop doctor", &[0, 1])];

/// Commands in running text, which has no room for such a comment.
const IN_TEXT: [(&str, &str); 2] = [
    ("cargo install --path apps/pptop", "takes: minutes"),
    ("cargo install just", "needs: download"),
];

/// The most seconds that a command may take without `takes: minutes`.
const SECONDS_MAX: &str = "60";

/// A command and, in a `console` block, its output.
#[derive(Debug, PartialEq)]
struct Given {
    line: String,
    output: Option<String>,
}

/// A block of code with its comments.
struct Block {
    first_line: usize,
    language: String,
    needs: Vec<String>,
    text: Vec<String>,
}

impl Block {
    fn commands(&self) -> Vec<Given> {
        let mut found: Vec<Given> = Vec::new();
        for line in &self.text {
            match (self.language.as_str(), line.strip_prefix("$ "), found.last_mut()) {
                ("console", Some(command), _) => {
                    found.push(Given { line: command.to_owned(), output: Some(String::new()) });
                }
                ("console", None, Some(Given { output: Some(output), .. })) => {
                    output.push_str(line);
                    output.push('\n');
                }
                ("sh", ..) if !line.is_empty() && !line.starts_with('#') => {
                    found.push(Given { line: line.clone(), output: None });
                }
                _ => {}
            }
        }
        found
    }
}

/// The pages, by their path below the root.
fn pages() -> BTreeMap<String, String> {
    let mut paths = vec!["README.md".to_owned(), "apps/pptop/README.md".to_owned()];
    for (dir, below) in [("docs", ""), ("crates", "/README.md")] {
        for entry in fs::read_dir(root().join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            paths.push(format!("{dir}/{name}{below}"));
        }
    }
    paths.retain(|path| {
        Path::new(path).extension().is_some_and(|ending| ending == "md")
            && root().join(path).exists()
    });
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut inside, mut comments) = (false, Vec::new());
    for (number, line) in page.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            if !inside {
                found.push(Block {
                    first_line: number + 1,
                    language: language.to_owned(),
                    needs: std::mem::take(&mut comments),
                    text: Vec::new(),
                });
            }
            inside = !inside;
        } else if inside {
            found.last_mut().unwrap().text.push(line.to_owned());
        } else if let Some(comment) = line.strip_prefix("<!-- ") {
            comments.push(comment.trim_end_matches(" -->").to_owned());
        } else {
            comments.clear();
        }
    }
    assert!(!inside, "a block does not end");
    for block in &mut found {
        block.needs.retain(|text| text.starts_with("needs:") || text.starts_with("takes:"));
    }
    found
}

/// The commands of a page that a test must run. Panics at a command that is run nowhere.
fn to_run(name: &str, page: &str, ci: &str) -> Vec<Given> {
    let mut found = Vec::new();
    for block in blocks(page) {
        let place = format!("{name}, line {}", block.first_line);
        if block.language.is_empty() {
            let is_command = |line: &String| {
                ["$ ", "pptop ", "cargo ", "just "].iter().any(|start| line.starts_with(start))
            };
            assert!(
                !block.text.iter().any(is_command),
                "{place}: commands stand in a block of `sh`"
            );
        }
        for need in &block.needs {
            assert!(NEEDS.contains(&need.as_str()), "{place}: nobody knows {need:?}");
        }
        for given in block.commands() {
            let line = given.line.split('#').next().unwrap().trim().to_owned();
            if !block.needs.is_empty() || ci.contains(&line) {
                continue;
            }
            assert!(
                line.starts_with("pptop ") || line.starts_with("echo "),
                "{place}: neither a test nor .ci/run runs `{line}`, and no comment says what it needs"
            );
            found.push(given);
        }
    }
    found
}

/// `.ci/run`, with its commands as users write them.
fn ci() -> String {
    read(".ci/run").replace("--locked ", "")
}

/// Runs the commands of a page one after another in a folder of their own.
fn run(name: &str, commands: &[Given]) {
    let home = Home::new();
    for given in commands {
        let ran = home.shell(SECONDS_MAX, &given.line);
        let command = given.line.split('#').next().unwrap().trim();
        let others = OTHER_CODES.iter().find(|(other, _)| *other == command);
        let code = ran.code.unwrap_or(-1);
        assert!(
            others.map_or(code == 0, |(_, codes)| codes.contains(&code)),
            "{name}: `{}` ended with {code}:\n{}{}",
            given.line,
            ran.stdout,
            ran.stderr
        );
        if let Some(output) = &given.output {
            assert_eq!(&ran.stdout, output, "{name}: `{}` prints something else", given.line);
        }
    }
}

#[test]
fn every_command_in_the_pages_is_run_or_says_what_it_needs() {
    let (pages, ci) = (pages(), ci());
    let found: Vec<(&String, Vec<Given>)> =
        pages.iter().map(|(name, page)| (name, to_run(name, page, &ci))).collect();
    assert!(found.iter().map(|(_, commands)| commands.len()).sum::<usize>() > 20, "{found:?}");
    for (name, commands) in &found {
        run(name, commands);
    }
}

/// Pieces of a page in backticks, outside of its blocks. In a table `|` is written `\|`.
fn spans(page: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if !inside {
            found.extend(line.split('`').skip(1).step_by(2).map(|span| span.replace("\\|", "|")));
        }
    }
    found
}

/// Checks that a command in running text has a name and flags that the program knows.
fn known(place: &str, span: &str, helps: &BTreeMap<String, String>) {
    let mut paths = vec![String::new()];
    for word in span.split_whitespace().skip(1) {
        let word = word.trim_matches(|c| "[]…".contains(c));
        let next: Vec<String> = word
            .split('|')
            .flat_map(|name| paths.iter().map(move |path| format!("{path} {name}")))
            .map(|path| path.trim_start().to_owned())
            .collect();
        if let Some(flag) = word.strip_prefix("--") {
            let flag = format!("--{}", flag.split(['=', '[']).next().unwrap());
            for path in &paths {
                assert!(helps[path].contains(&flag), "{place}: `{span}`: no {flag} in {path:?}");
            }
        } else if next.iter().all(|path| helps.contains_key(path)) {
            paths = next;
        } else {
            let is_command = paths == [""] && word.chars().all(|c| c.is_ascii_lowercase());
            assert!(!is_command, "{place}: `{span}`: there is no command {word}");
        }
    }
}

#[test]
fn commands_in_running_text_have_names_and_flags_that_exist() {
    let mut found = Vec::new();
    helps(&Home::new(), &mut Vec::new(), &mut found);
    let helps: BTreeMap<String, String> = found.into_iter().collect();
    let recipes = read("justfile");
    let is_recipe = |name: &str| {
        let rest = |line: &str| line.strip_prefix(name).map(|rest| rest.starts_with([' ', ':']));
        recipes.lines().any(|line| rest(line) == Some(true))
    };
    let mut n_commands = 0;
    let mut pages = pages();
    pages.insert("ARCHITECTURE.md".to_owned(), read("ARCHITECTURE.md"));
    for (name, page) in &pages {
        for span in spans(page) {
            if span.starts_with("pptop ") {
                known(name, &span, &helps);
                n_commands += 1;
            } else if let Some(rest) = span.strip_prefix("just ") {
                let recipe = rest.split_whitespace().next().unwrap();
                assert!(is_recipe(recipe), "{name}: the justfile has no {recipe}");
                n_commands += 1;
            } else if span.starts_with("cargo ") {
                let needs = IN_TEXT.iter().find(|(command, _)| *command == span);
                assert!(
                    needs.is_some_and(|(_, need)| NEEDS.contains(need)) || ci().contains(&span),
                    "{name}: nobody runs `{span}`"
                );
            }
        }
    }
    assert!(n_commands > 30, "only {n_commands} commands were found");
}

#[test]
fn the_front_page_is_short() {
    let page = read("README.md");
    let (before, rest) = page.split_once("<!-- picture -->").unwrap();
    let (_, after) = rest.split_once("<!-- picture ends -->").unwrap();
    let n_lines = before.lines().count() + after.lines().count();
    let n_bytes = before.len() + after.len();
    assert!(n_lines <= 130 && n_bytes <= 9000, "{n_lines} lines, {n_bytes} bytes");
}

/// The code on the front page is part of a program that is built and run: its lines stand in one of
/// the examples, in the same order.
#[test]
fn the_code_on_the_front_page_is_in_an_example() {
    let mut examples: Vec<String> = Vec::new();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "rs") {
            examples.push(fs::read_to_string(path).unwrap());
        }
    }
    let page = read("README.md");
    let code: Vec<Block> =
        blocks(&page).into_iter().filter(|block| block.language == "rust").collect();
    assert_eq!(code.len(), 1);
    let missing = |example: &String| {
        let mut lines = example.lines().map(str::trim);
        // Comments on the page are its own.
        let mut code =
            code[0].text.iter().map(|line| line.trim()).filter(|line| !line.starts_with("//"));
        code.find(|line| !lines.any(|other| other == *line)).map(str::to_owned)
    };
    let missing: Vec<Option<String>> = examples.iter().map(missing).collect();
    assert!(missing.contains(&None), "no example has these lines: {missing:?}");
}

/// The names of all functions in the sources.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    let mut sources = Vec::new();
    files(dir, "rs", &mut sources);
    for path in sources {
        let text = fs::read_to_string(path).unwrap();
        let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
        found.extend(names.map(str::to_owned));
    }
}

#[test]
fn each_invariant_says_what_keeps_it() {
    let mut known = BTreeSet::new();
    for dir in ["apps", "crates", "tests"] {
        functions(&root().join(dir), &mut known);
    }
    let page = read("ARCHITECTURE.md");
    let invariants: Vec<&str> =
        page.lines().filter(|line| line.contains("**Invariant:**")).collect();
    assert!(invariants.len() > 50, "only {} invariants were found", invariants.len());
    for line in invariants {
        let is_name = |span: &String| {
            span.contains('_') && span.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
        };
        let (names, others): (Vec<_>, Vec<_>) = spans(line).into_iter().partition(is_name);
        for name in &names {
            assert!(known.contains(name), "there is no test {name}: {line}");
        }
        let is_test = |path: &String| path.contains("tests/") || path.ends_with("work.rs");
        assert!(
            !names.is_empty() || line.contains("(by ") || others.iter().any(is_test),
            "nothing is named that keeps this: {line}"
        );
    }
}

#[test]
fn a_command_that_nobody_runs_is_refused() {
    let page = |text: &str| text.replace('\'', "```");
    let refused = |text: &str| {
        let text = page(text);
        std::panic::catch_unwind(move || to_run("page", &text, "cargo run")).is_err()
    };
    assert!(refused("'sh\njust bench\n'\n"));
    assert!(refused("<!-- needs: luck -->\n'sh\njust bench\n'\n"));
    assert!(refused("<!-- takes: minutes -->\n\n'sh\njust bench\n'\n"));
    assert!(refused("'\npptop bubble\n'\n"));
    assert!(!refused("<!-- takes: minutes -->\n'sh\njust bench\n'\n"));
    assert!(!refused("'sh\ncargo run\n'\n"));
    let found = to_run("page", &page("'console\n$ pptop bubble\n1\n\n2\n'\n"), "");
    let output = Some("1\n\n2\n".to_owned());
    assert_eq!(found, [Given { line: "pptop bubble".to_owned(), output }]);
}
