//! A folder for one test, and the program that runs in it with nothing of the tester's environment.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::folder::Folder;
use super::ran::Ran;

/// `HOME`, the state and the sockets of the program are in this folder.
pub(crate) struct Home(Folder);

impl Home {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        DirBuilder::new().mode(0o700).create(folder.path("run")).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        self.0.write(name, content)
    }

    /// The configuration file.
    pub(crate) fn configure(&self, text: &str) -> PathBuf {
        self.write(".config/pptop/config.toml", text.as_bytes())
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// Runs `pptop` with these arguments and, besides where its files are, these variables.
    pub(crate) fn with(&self, variables: &[(&str, &str)], args: &[&str]) -> Ran {
        let dir = self.path("");
        Ran::of(
            Command::new(env!("CARGO_BIN_EXE_pptop"))
                .args(args)
                .env_clear()
                .env("HOME", &dir)
                .env("XDG_RUNTIME_DIR", self.path("run"))
                .envs(variables.iter().copied())
                .current_dir(&dir)
                .stdin(Stdio::null()),
        )
    }

    /// Runs a line as a user types it in a shell, for at most this many seconds. `pptop` is the
    /// program under test.
    pub(crate) fn shell(&self, seconds: &str, line: &str) -> Ran {
        let dir = self.path("");
        let programs = Path::new(env!("CARGO_BIN_EXE_pptop")).parent().unwrap();
        Ran::of(
            Command::new("timeout")
                .args([seconds, "sh", "-c", line])
                .env_clear()
                .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display()))
                .env("HOME", &dir)
                .env("XDG_RUNTIME_DIR", self.path("run"))
                .current_dir(&dir)
                .stdin(Stdio::null()),
        )
    }

    pub(crate) fn pptop(&self, args: &[&str]) -> Ran {
        self.with(&[], args)
    }

    /// Runs a command that must succeed quietly.
    pub(crate) fn stdout(&self, line: &str) -> String {
        self.pptop(&line.split_whitespace().collect::<Vec<_>>()).well(line)
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.stdout(line)).unwrap()
    }

    /// Runs a command that must be refused with a line that says what to do, with all of `parts` in
    /// it.
    pub(crate) fn refused(&self, variables: &[(&str, &str)], args: &[&str], parts: &[&str]) {
        let ran = self.with(variables, args);
        ran.refused(&format!("{args:?}"), parts);
    }
}
