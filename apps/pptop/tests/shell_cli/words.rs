//! The words of the program: usual ones, and none of those that had to go.

use std::fs;
use std::path::{Path, PathBuf};

use super::home::Home;

/// What stood in messages, on screens and in help texts before, and must not come back. In small
/// letters.
const GONE: [&str; 27] = [
    // The formula at the end of every refusal: a message says what to do instead.
    "accepted:",
    // read-only
    "only looks",
    // by sample
    "by look",
    "looked at",
    "look at devices",
    "two looks",
    // was not recorded
    "at hand",
    // +28 % throughput
    "more through",
    "get through",
    // host RAM free 23.5 of 23.5 GiB
    "left by its",
    " ranks left",
    // cost, cause, try
    "\nwhat  ",
    "\nwhy   ",
    "\nnext  ",
    // no end record
    "last word",
    "without a word",
    "nothing is known of",
    // has finished
    "is over yet",
    "nothing was said",
    "nothing is found",
    "not told",
    "told its plan",
    "so-manieth",
    "learns nothing",
    "nothing known",
    "played through",
    "what would be accepted",
];

/// The same for the pages alone: riddles that had a plain word.
const GONE_FROM_PAGES: [&str; 7] = [
    // the number of micro-batches that each rank holds at the same time
    "where at once",
    // it needs one core per rank
    "wants as many",
    // seek
    "gone to from",
    // a reader that starts at an index record
    "begins at a mark",
    // is not a …
    "that is none",
    // cannot deadlock
    "can't hang",
    // your own
    "of one's own",
];

/// Labels that are wrong only as the whole text.
const GONE_WHOLE: [&str; 4] = ["held", "what", "why", "next"];

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All files below a folder with this ending.
pub(super) fn files(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
}

/// The texts of a source file, outside its tests: string literals, and the comments from which clap
/// makes help texts.
fn texts(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap();
    let letters: Vec<char> = source.chars().collect();
    let starts = |at: usize, text: &str| {
        text.chars().enumerate().all(|(i, c)| letters.get(at + i) == Some(&c))
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < letters.len() {
        if starts(at, "//") {
            let end = (at..letters.len()).find(|&i| letters[i] == '\n').unwrap_or(letters.len());
            at = end;
        } else if letters[at] == 'r' && (starts(at, "r\"") || starts(at, "r#\"")) {
            let closing = if starts(at, "r#") { "\"#" } else { "\"" };
            let begin = at + 1 + closing.len();
            let end = (begin..letters.len()).find(|&i| starts(i, closing)).unwrap_or(letters.len());
            found.push(letters[begin..end].iter().collect());
            at = end + closing.len();
        } else if letters[at] == '"' {
            let mut text = String::new();
            at += 1;
            while at < letters.len() && letters[at] != '"' {
                if letters[at] == '\\' {
                    at += 1;
                    match letters.get(at) {
                        Some('n') => text.push('\n'),
                        // A line that goes on: its indentation is no part of the text.
                        Some('\n') => {
                            while letters.get(at + 1).is_some_and(|c| c.is_whitespace()) {
                                at += 1;
                            }
                        }
                        Some(other) => text.push(*other),
                        None => {}
                    }
                } else {
                    text.push(letters[at]);
                }
                at += 1;
            }
            found.push(text);
            at += 1;
        } else if letters[at] == '\'' {
            // A character, which may be a quotation mark; else a lifetime.
            let n = if letters.get(at + 1) == Some(&'\\') { 3 } else { 2 };
            at += if letters.get(at + n) == Some(&'\'') { n + 1 } else { 1 };
        } else {
            at += 1;
        }
    }
    found
}

fn check(place: &str, text: &str) {
    let small = text.to_lowercase();
    for gone in GONE {
        assert!(!small.contains(gone), "{place}: {gone:?} is in {text:?}");
    }
    assert!(!GONE_WHOLE.contains(&small.trim()), "{place}: {text:?}");
}

#[test]
fn no_text_in_the_sources_has_a_word_that_had_to_go() {
    let mut sources = Vec::new();
    for dir in ["apps/pptop/src", "crates"] {
        files(&root().join(dir), "rs", &mut sources);
    }
    sources.retain(|path| {
        let inside = path.strip_prefix(root()).unwrap();
        !inside.iter().any(|part| part == "tests" || part == "stand-in" || part == "target")
    });
    assert!(sources.len() > 150, "only {} files were found", sources.len());
    let mut n_texts = 0;
    for path in &sources {
        for text in texts(&fs::read_to_string(path).unwrap()) {
            // A key of JSON is a contract, and not read by people.
            let is_key = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_key || text == "held" {
                check(&path.display().to_string(), &text);
                n_texts += 1;
            }
        }
    }
    assert!(n_texts > 1000, "only {n_texts} texts were found");
}

#[test]
fn no_screen_has_a_word_that_had_to_go() {
    let mut screens = Vec::new();
    files(&root().join("apps/pptop/tests"), "snap", &mut screens);
    assert!(screens.len() > 20, "only {} screens were found", screens.len());
    for path in &screens {
        check(&path.display().to_string(), &fs::read_to_string(path).unwrap());
    }
    check("template.toml", include_str!("../../src/config/template.toml"));
    let mut pages = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    files(&root().join("docs"), "md", &mut pages);
    assert!(pages.len() > 6, "only {} pages were found", pages.len());
    for path in &pages {
        let (place, page) = (path.display().to_string(), fs::read_to_string(path).unwrap());
        check(&place, &page);
        for gone in GONE_FROM_PAGES {
            assert!(!page.to_lowercase().contains(gone), "{place}: {gone:?}");
        }
    }
}

/// Every command below one, with its help.
pub(super) fn helps(home: &Home, path: &mut Vec<String>, found: &mut Vec<(String, String)>) {
    let of = |flag: &str| {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push(flag);
        let ran = home.pptop(&args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
        ran.stdout
    };
    let (long, short) = (of("--help"), of("-h"));
    let list = long.split_once("\nCommands:\n").map_or("", |(_, list)| list);
    let names: Vec<String> = list
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    found.push((path.join(" "), format!("{long}\n{short}")));
    for name in names {
        path.push(name);
        helps(home, path, found);
        path.pop();
    }
}

#[test]
fn no_help_has_a_word_that_had_to_go() {
    let mut found = Vec::new();
    helps(&Home::new(), &mut Vec::new(), &mut found);
    assert!(found.len() > 25, "{} commands", found.len());
    for (command, help) in &found {
        check(&format!("pptop {command} --help"), help);
    }
}

#[test]
fn a_word_that_is_put_back_is_found() {
    let source = r#"
//! only looks, in a comment
fn f() -> &'static str { let c = '"'; "this only \
    looks" }
#[cfg(test)]
mod tests { const X: &str = "by look"; }
"#;
    assert_eq!(texts(source), ["this only looks"]);
    let refused = std::panic::catch_unwind(|| check("here", &texts(source)[0]));
    assert!(refused.is_err());
}
