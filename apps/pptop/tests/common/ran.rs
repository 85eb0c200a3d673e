//! How a program ended and what it said.

#[path = "remedy.rs"]
mod remedy;

use std::process::Command;

use remedy::has_remedy;

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Runs a program to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }

    /// It succeeded quietly; returns what it printed.
    #[track_caller]
    pub(crate) fn well(self, what: &str) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{what}");
        self.stdout
    }

    /// It was refused: exit code 2, nothing on standard output, one line of at most 300 characters
    /// with all of `parts` in it, and with what to do.
    #[track_caller]
    pub(crate) fn refused(&self, what: &str, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{what}: {}", self.stderr);
        let line = self.stderr.trim_end();
        assert!(!line.contains('\n') && line.chars().count() <= 300, "{what}: {line}");
        assert!(has_remedy(line), "{what}: nothing to do in: {line}");
        for part in parts {
            assert!(line.contains(part), "{what}: `{part}` is not in: {line}");
        }
    }
}
