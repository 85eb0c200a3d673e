//! Completions and manual pages name every command.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use super::home::Home;

/// The commands that the help of `path` lists, each with all words before it.
fn commands(home: &Home, path: &[&str]) -> Vec<Vec<String>> {
    let mut args = path.to_vec();
    args.push("--help");
    let help = home.pptop(&args).stdout;
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let list = list.split("\n\n").next().unwrap();
    let is_name = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let mut found = Vec::new();
    for line in list.lines().filter(is_name) {
        let name = line.split_whitespace().next().unwrap();
        let whole: Vec<&str> = path.iter().copied().chain([name]).collect();
        found.push(whole.iter().map(|&word| word.to_owned()).collect());
        found.extend(commands(home, &whole));
    }
    found
}

#[test]
fn every_command_can_be_completed_in_every_shell() {
    let home = Home::new();
    let commands = commands(&home, &[]);
    assert!(commands.iter().any(|path| path == &["runs", "prune"]), "{commands:?}");
    assert!(commands.iter().any(|path| path == &["completions"]), "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.stdout(&format!("completions {shell}"));
        let words: BTreeSet<&str> =
            script.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        for path in &commands {
            let name = path.last().unwrap().as_str();
            assert!(words.contains(name), "{shell} knows no {path:?}");
        }
        assert!(script.contains("keep-runs") && script.contains("micro-batches"), "{shell}");
    }
}

#[test]
fn bash_accepts_its_script() {
    let home = Home::new();
    let script = home.write("pptop.bash", home.stdout("completions bash").as_bytes());
    let Ok(checked) = Command::new("bash").arg("-n").arg(&script).stderr(Stdio::piped()).output()
    else {
        return;
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_command_has_a_manual_page() {
    let home = Home::new();
    let listed = home.stdout("man --dir pages");
    let mut wanted: BTreeSet<String> =
        commands(&home, &[]).iter().map(|path| format!("pptop-{}.1", path.join("-"))).collect();
    wanted.insert("pptop.1".to_owned());
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(home.path("pages")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o133, 0, "{name}");
        let page = fs::read_to_string(entry.path()).unwrap();
        assert!(page.contains(".TH ") && page.contains(".SH NAME"), "{name}");
        assert!(listed.contains(&format!("pages/{name}\n")), "{name} is not in {listed}");
        found.insert(name);
    }
    assert_eq!(found, wanted);
    let main = fs::read_to_string(home.path("pages/pptop.1")).unwrap();
    assert_eq!(home.stdout("man"), main);
    // Pages that are there already are renewed.
    assert_eq!(home.stdout("man --dir pages"), listed);
}

#[test]
fn what_cannot_be_made_is_refused() {
    let home = Home::new();
    home.write("file", b"");
    home.refused(&[], &["man", "--dir", "file/pages"], &["file/pages"]);
    home.refused(&[], &["completions", "tcsh"], &["tcsh", "bash", "powershell"]);
    home.refused(&[], &["completions"], &[]);
}

#[test]
fn help_has_two_lengths_and_one_text() {
    let home = Home::new();
    for (words, flag) in [
        ("help", "--help"),
        ("help train", "train --help"),
        ("help schedule show", "schedule show --help"),
        ("help runs", "runs --help"),
    ] {
        assert_eq!(home.stdout(words), home.stdout(flag), "{words}");
    }
    let (long, short) = (home.stdout("train --help"), home.stdout("train -h"));
    let flags = |help: &str| -> Vec<String> {
        let words = help.lines().filter_map(|line| line.trim_start().split_once("--"));
        let shown = |before: &str| before.is_empty() || before.starts_with('-');
        words
            .filter(|(before, _)| shown(before))
            .map(|(_, rest)| rest.split([' ', '=', ',', '[']).next().unwrap().to_owned())
            .collect()
    };
    let first = [
        "model",
        "data",
        "schedule",
        "pp",
        "dp",
        "micro-batches",
        "batch-size",
        "steps",
        "lr",
        "device",
        "help",
    ];
    assert_eq!(flags(&short), first, "{short}");
    assert_eq!(flags(&long)[..first.len()], first, "{long}");
    assert!(flags(&long).len() > 40, "{long}");
    for heading in ["Model:", "Pipeline:", "Optimizer:", "Records and results:", "Screen:"] {
        assert!(long.lines().any(|line| line == heading), "{heading} is not in:\n{long}");
        assert!(!short.contains(heading), "{short}");
    }
    assert!(short.contains("train --help shows ") && short.lines().count() < 40, "{short}");
    for version in ["-v", "-V", "--version"] {
        assert_eq!(home.stdout(version), format!("pptop {}\n", env!("CARGO_PKG_VERSION")));
    }
    assert!(home.stdout("compare -h").contains("--format"));
}
