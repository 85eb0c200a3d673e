//! A folder for one test, and the program that runs in it with nothing of the tester's environment.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A folder that goes away with the test: `HOME`, the state and the sockets of the program are in it.
pub(crate) struct Home {
    dir: PathBuf,
}

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        static N_HOMES: AtomicU32 = AtomicU32::new(0);
        let number = N_HOMES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pptop-shell-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        DirBuilder::new().recursive(true).mode(0o700).create(dir.join("run")).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
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
        let output = Command::new(env!("CARGO_BIN_EXE_pptop"))
            .args(args)
            .env_clear()
            .env("HOME", &self.dir)
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .envs(variables.iter().copied())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub(crate) fn pptop(&self, args: &[&str]) -> Ran {
        self.with(&[], args)
    }

    /// Runs a command that must succeed quietly.
    pub(crate) fn stdout(&self, line: &str) -> String {
        let ran = self.pptop(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        ran.stdout
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.stdout(line)).unwrap()
    }

    /// Runs a command that must be refused: exit code 2, nothing on standard output, one line of at most 300 characters that
    /// says what would be accepted, with all of `parts` in it.
    pub(crate) fn refused(&self, variables: &[(&str, &str)], args: &[&str], parts: &[&str]) {
        let ran = self.with(variables, args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ran.stderr);
        let line = ran.stderr.trim_end();
        assert!(!line.contains('\n') && line.chars().count() <= 300, "{args:?}: {line}");
        for part in parts.iter().chain(&["; accepted: "]) {
            assert!(line.contains(part), "{args:?}: `{part}` is not in: {line}");
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
