//! Where runs and their sockets are kept.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pp_telemetry::{LOG_BYTES_MAX, Standing};
use rustix::fs::{Access, access, statvfs};

use super::Check;

/// Bytes of a socket's path that the system takes.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The name that a socket has where the path has room for no longer one: as long as the highest
/// process number.
const LONGEST_SOCKET: &str = "4194304.sock";
/// Runs that are named.
const NAMED_MAX: usize = 3;

/// A directory, or where one would be.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) free_bytes: Option<u64>,
    found: Found,
    /// This user.
    own: u32,
}

#[derive(Debug, Clone)]
enum Found {
    Missing { can_be_made: bool },
    There { is_dir: bool, owner: u32, mode: u32, is_writable: bool },
    Unreadable(String),
}

impl Place {
    /// What is at a path.
    pub(super) fn look(path: &Path) -> Self {
        Self::of(path, fs::metadata(path))
    }

    /// As [`Place::look`], but a symbolic link is looked at itself.
    pub(super) fn look_itself(path: &Path) -> Self {
        Self::of(path, path.symlink_metadata())
    }

    fn of(path: &Path, about: io::Result<Metadata>) -> Self {
        let may_write = |path: &Path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        let nearest = path.ancestors().find(|path| path.exists());
        let found = match about {
            Ok(about) => Found::There {
                is_dir: about.is_dir(),
                owner: about.uid(),
                mode: about.mode() & 0o777,
                is_writable: may_write(path),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Missing {
                can_be_made: nearest.is_some_and(|near| near.is_dir() && may_write(near)),
            },
            Err(error) => Found::Unreadable(error.to_string()),
        };
        let about_disk = nearest.and_then(|near| statvfs(near).ok());
        Self {
            path: path.to_owned(),
            free_bytes: about_disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
            found,
            own: rustix::process::getuid().as_raw(),
        }
    }
}

/// Variables that name folders, of which a relative one is ignored.
pub(super) const VARIABLES: [&str; 4] =
    ["HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"];

/// Whether the variables that name folders are heeded. The XDG specification has relative paths in
/// them ignored; `PPTOP_STATE_DIR` may be relative.
pub(super) fn variables(variables: &[(&str, Option<OsString>)]) -> Check {
    const NAME: &str = "variables";
    let is_ignored = |value: &OsString| !value.is_empty() && !Path::new(value).is_absolute();
    let ignored: Vec<String> = variables
        .iter()
        .filter_map(|(name, value)| {
            value.as_ref().filter(|value| is_ignored(value)).map(|v| (name, v))
        })
        .map(|(name, value)| format!("{name}={}", value.display()))
        .collect();
    if ignored.is_empty() {
        return Check::pass(NAME, "none holds a relative path, which would be ignored");
    }
    let found = format!("ignored, because it is relative: {}", ignored.join(" "));
    Check::warn(NAME, found, "set it to an absolute path; only PPTOP_STATE_DIR may be relative")
}

/// Where runs are written, or why that is not known.
pub(super) fn state_dir(place: Result<&Place, String>) -> Check {
    const NAME: &str = "state_dir";
    const OTHER: &str = "set PPTOP_STATE_DIR to a writable folder";
    let place = match place {
        Ok(place) => place,
        Err(why) => return Check::fail(NAME, why, OTHER),
    };
    let path = place.path.display();
    let (owner, mode) = match &place.found {
        Found::Missing { can_be_made: true } => {
            return Check::pass(NAME, format!("the first run will create {path}"));
        }
        Found::Missing { can_be_made: false } => {
            return Check::fail(
                NAME,
                format!("{path} does not exist and cannot be created"),
                OTHER,
            );
        }
        Found::Unreadable(why) => return Check::fail(NAME, format!("{path}: {why}"), OTHER),
        Found::There { is_dir: false, .. } => {
            return Check::fail(NAME, format!("{path} is not a folder"), OTHER);
        }
        Found::There { is_writable: false, .. } => {
            return Check::fail(NAME, format!("{path} is not writable"), OTHER);
        }
        Found::There { owner, mode, .. } => (*owner, *mode),
    };
    if mode & 0o022 != 0 {
        let found = format!("others can write to {path} (mode {mode:o})");
        return Check::fail(NAME, found, format!("chmod go-w {path}"));
    }
    if owner != place.own {
        let found = format!("{path} belongs to user {owner}, but this is user {}", place.own);
        return Check::warn(NAME, found, "set PPTOP_STATE_DIR to a folder of your own");
    }
    Check::pass(NAME, format!("{path}, mode {mode:o}"))
}

/// Whether there is room for a run, and for as many as are kept.
pub(super) fn free_space(free_bytes: Option<u64>, kept_bytes: u64) -> Check {
    const NAME: &str = "free_space";
    const TODO: &str = "make room, or set PPTOP_STATE_DIR to a folder on another disk; a full disk stops the recording, not the run";
    let Some(free) = free_bytes else {
        return Check::warn(
            NAME,
            "the free space on the disk of the state directory is unknown",
            TODO,
        );
    };
    let found = format!("{} MB free where runs are kept", free / 1_000_000);
    if free < LOG_BYTES_MAX {
        let most = LOG_BYTES_MAX / 1_000_000;
        return Check::fail(NAME, format!("{found}; one run may take {most} MB"), TODO);
    }
    if free < kept_bytes {
        let kept = kept_bytes / 1_000_000;
        return Check::warn(NAME, format!("{found}; runs may take {kept} MB in all"), TODO);
    }
    Check::pass(NAME, found)
}

/// Where runs can be asked to stop.
pub(super) fn socket_dir(place: &Place) -> Check {
    const NAME: &str = "socket_dir";
    const OTHER: &str = "set XDG_RUNTIME_DIR to a folder of your own with mode 700";
    let path = place.path.display();
    match &place.found {
        Found::Missing { can_be_made: true } => {
            Check::pass(NAME, format!("the first run will create {path}"))
        }
        Found::Missing { can_be_made: false } => {
            Check::fail(NAME, format!("{path} does not exist and cannot be created"), OTHER)
        }
        Found::Unreadable(why) => Check::fail(NAME, format!("{path}: {why}"), OTHER),
        Found::There { is_dir: false, .. } => {
            Check::fail(NAME, format!("{path} is not a folder"), format!("remove it, or {OTHER}"))
        }
        Found::There { owner, .. } if *owner != place.own => {
            let own = place.own;
            Check::fail(
                NAME,
                format!("{path} belongs to user {owner}, but this is user {own}"),
                OTHER,
            )
        }
        Found::There { mode, .. } if mode & 0o077 != 0 => {
            let found = format!("{path} is open to others (mode {mode:o})");
            Check::fail(NAME, found, format!("chmod 700 {path}"))
        }
        Found::There { is_writable: false, .. } => {
            Check::fail(NAME, format!("{path} is not writable"), format!("chmod 700 {path}"))
        }
        Found::There { mode, .. } => Check::pass(NAME, format!("{path}, mode {mode:o}")),
    }
}

/// Whether the path of a socket is one that the system takes.
pub(super) fn socket_path(dir: &Path) -> Check {
    const NAME: &str = "socket_path";
    let n_bytes = dir.join(LONGEST_SOCKET).as_os_str().as_bytes().len();
    let found = format!("{n_bytes} bytes; at most {SOCKET_PATH_BYTES_MAX}");
    if n_bytes <= SOCKET_PATH_BYTES_MAX {
        return Check::pass(NAME, found);
    }
    Check::fail(NAME, found, "set XDG_RUNTIME_DIR to a folder with a shorter path")
}

/// Runs that died without a word.
pub(super) fn runs(found: Result<Vec<(String, Standing)>, String>) -> Check {
    const NAME: &str = "runs";
    let runs = match found {
        Ok(runs) => runs,
        Err(why) => {
            return Check::fail(NAME, why, "make it readable, or set PPTOP_STATE_DIR");
        }
    };
    let died: Vec<&str> = runs
        .iter()
        .filter(|(_, standing)| *standing == Standing::Died)
        .map(|(id, _)| id.as_str())
        .collect();
    if died.is_empty() {
        return Check::pass(NAME, format!("{} kept, none died without an end record", runs.len()));
    }
    let mut named = died.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(" ");
    if died.len() > NAMED_MAX {
        named.push_str(" …");
    }
    Check::warn(
        NAME,
        format!("{} of {} died without an end record: {named}", died.len(), runs.len()),
        "pptop runs list shows them; stderr.log in a run's folder may say why",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn place(found: Found) -> Place {
        Place { path: "/s".into(), free_bytes: None, found, own: 7 }
    }

    fn there(owner: u32, mode: u32) -> Found {
        Found::There { is_dir: true, owner, mode, is_writable: true }
    }

    const NO_DIR: Found = Found::There { is_dir: false, owner: 7, mode: 0o700, is_writable: true };
    const READ_ONLY: Found =
        Found::There { is_dir: true, owner: 7, mode: 0o500, is_writable: false };

    #[test]
    fn runs_need_a_place_that_only_their_user_writes_to() {
        let check = |found| state_dir(Ok(&place(found)));
        for (found, verdict) in [
            (Found::Missing { can_be_made: true }, Verdict::Pass),
            (there(7, 0o700), Verdict::Pass),
            (there(7, 0o755), Verdict::Pass),
            (there(8, 0o755), Verdict::Warn),
            (there(7, 0o775), Verdict::Fail),
            (there(7, 0o707), Verdict::Fail),
            (Found::Missing { can_be_made: false }, Verdict::Fail),
            (Found::Unreadable("no".to_owned()), Verdict::Fail),
            (NO_DIR, Verdict::Fail),
            (READ_ONLY, Verdict::Fail),
        ] {
            assert_eq!(check(found.clone()).verdict, verdict, "{found:?}");
            assert_eq!(check(found).todo.is_some(), verdict != Verdict::Pass);
        }
        assert_eq!(check(there(7, 0o777)).todo.unwrap(), "chmod go-w /s");
        assert_eq!(state_dir(Err("nowhere".to_owned())).found, "nowhere");
    }

    #[test]
    fn sockets_need_a_place_of_their_user_alone() {
        let check = |found| socket_dir(&place(found));
        for (found, verdict) in [
            (Found::Missing { can_be_made: true }, Verdict::Pass),
            (there(7, 0o700), Verdict::Pass),
            (there(7, 0o755), Verdict::Fail),
            (there(7, 0o701), Verdict::Fail),
            (there(8, 0o700), Verdict::Fail),
            (Found::Missing { can_be_made: false }, Verdict::Fail),
            (Found::Unreadable("no".to_owned()), Verdict::Fail),
            (NO_DIR, Verdict::Fail),
            (READ_ONLY, Verdict::Fail),
        ] {
            assert_eq!(check(found.clone()).verdict, verdict, "{found:?}");
        }
        assert_eq!(check(there(7, 0o755)).todo.unwrap(), "chmod 700 /s");
    }

    #[test]
    fn a_relative_path_that_is_ignored_is_told() {
        let check =
            |value: &str| variables(&[("HOME", None), ("XDG_STATE_HOME", Some(value.into()))]);
        for (value, verdict) in [("/x", Verdict::Pass), ("", Verdict::Pass), ("x", Verdict::Warn)] {
            assert_eq!(check(value).verdict, verdict, "{value}");
        }
        assert!(check("x/y").found.contains("XDG_STATE_HOME=x/y"));
    }

    #[test]
    fn a_run_needs_room() {
        let kept = 2 * LOG_BYTES_MAX;
        for (free, kept, verdict) in [
            (Some(10_000_000_000), kept, Verdict::Pass),
            (Some(kept), kept, Verdict::Pass),
            (Some(kept - 1), kept, Verdict::Warn),
            (Some(kept - 1), LOG_BYTES_MAX / 2, Verdict::Pass),
            (Some(LOG_BYTES_MAX - 1), kept, Verdict::Fail),
            (Some(LOG_BYTES_MAX - 1), 1, Verdict::Fail),
            (Some(0), kept, Verdict::Fail),
            (None, kept, Verdict::Warn),
        ] {
            assert_eq!(free_space(free, kept).verdict, verdict, "{free:?} {kept}");
        }
    }

    #[test]
    fn the_longest_socket_must_fit() {
        let dir = |n: usize| PathBuf::from(format!("/{}", "d".repeat(n - 1)));
        let most = SOCKET_PATH_BYTES_MAX - LONGEST_SOCKET.len() - 1;
        assert_eq!(socket_path(&dir(most)).verdict, Verdict::Pass);
        assert_eq!(socket_path(&dir(most + 1)).verdict, Verdict::Fail);
    }

    #[test]
    fn runs_that_died_are_named() {
        let run = |id: &str, standing| (id.to_owned(), standing);
        let good = vec![run("a", Standing::Failed(1)), run("b", Standing::Live)];
        assert_eq!(runs(Ok(good)).verdict, Verdict::Pass);
        assert_eq!(runs(Ok(Vec::new())).verdict, Verdict::Pass);
        let bad = ["a", "b", "c", "d"].map(|id| run(id, Standing::Died)).to_vec();
        let check = runs(Ok(bad));
        assert_eq!(check.verdict, Verdict::Warn);
        assert_eq!(check.found, "4 of 4 died without an end record: a b c …");
        assert!(check.todo.unwrap().contains("pptop runs list"));
        assert_eq!(runs(Err("no".to_owned())).verdict, Verdict::Fail);
    }

    #[test]
    fn places_are_looked_at_without_making_them() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().join("base");
        let below = base.join("a/b");
        let place = Place::look(&below);
        assert!(matches!(place.found, Found::Missing { can_be_made: true }), "{place:?}");
        assert!(place.free_bytes.is_some() && !base.exists());
        fs::create_dir(&base).unwrap();
        let there = Place::look(&base);
        assert!(matches!(there.found, Found::There { is_dir: true, .. }), "{there:?}");
        std::os::unix::fs::symlink(&base, base.join("link")).unwrap();
        let link = Place::look_itself(&base.join("link"));
        assert!(matches!(link.found, Found::There { is_dir: false, .. }), "{link:?}");
        fs::write(base.join("file"), b"").unwrap();
        let below_a_file = Place::look(&base.join("file/x"));
        assert!(!matches!(below_a_file.found, Found::Missing { can_be_made: true }));
    }
}
