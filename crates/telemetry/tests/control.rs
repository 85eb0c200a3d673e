//! Requests to a run: who is heard, what is understood, and that nothing else gets through.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use pp_telemetry::{ControlError, ControlServer, REQUEST_BYTES_MAX, Request, ask, understood};
use proptest::prelude::*;

struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        let only_ours = fs::Permissions::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        Self(builder.prefix("pp-control-").permissions(only_ours).tempdir().unwrap())
    }
}

#[test]
fn a_request_arrives_and_is_answered() {
    let dir = TestDir::new();
    let server = ControlServer::listen(dir.0.path(), "run", "this run").unwrap();
    assert_eq!(ask(server.path(), "this run", Request::Ping).unwrap(), "here");
    assert!(server.take().is_empty());
    ask(server.path(), "this run", Request::Checkpoint).unwrap();
    ask(server.path(), "this run", Request::Stop).unwrap();
    assert_eq!(server.take(), [Request::Checkpoint, Request::Stop]);
    assert!(server.take().is_empty());
    let mode = fs::metadata(server.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let path = server.path().to_owned();
    drop(server);
    assert!(!path.exists());
    assert!(matches!(ask(&path, "this run", Request::Ping), Err(ControlError::Unreachable { .. })));
}

/// A process that is gone may have left its number to another run.
#[test]
fn a_request_to_another_run_is_refused() {
    let dir = TestDir::new();
    let server = ControlServer::listen(dir.0.path(), "run", "this run").unwrap();
    let refused = ask(server.path(), "the run before", Request::Stop).unwrap_err();
    assert!(matches!(&refused, ControlError::Refused(why) if why.contains("another run")));
    assert!(server.take().is_empty());
}

/// Makes a socket look as if it had been made two minutes ago.
fn age(path: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
    let about = fs::symlink_metadata(path).unwrap();
    let old = Timespec { tv_sec: about.mtime() - 120, tv_nsec: 0 };
    let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: same, last_modification: old };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A container may see this folder, and not the processes that listen there.
#[test]
fn sockets_of_the_dead_go_and_those_of_the_living_stay() {
    let dir = TestDir::new();
    let name = u32::MAX.to_string();
    // It listens, though no process of this machine has its number.
    let elsewhere = ControlServer::listen(dir.0.path(), &name, "elsewhere").unwrap();
    age(elsewhere.path());
    let deserted = dir.0.path().join(format!("{}.sock", u32::MAX - 1));
    drop(UnixListener::bind(&deserted).unwrap());
    age(&deserted);
    // One that was just bound may listen in a moment.
    let young = dir.0.path().join("young.sock");
    drop(UnixListener::bind(&young).unwrap());
    let other = dir.0.path().join("other");
    drop(UnixListener::bind(&other).unwrap());
    age(&other);
    let _server = ControlServer::listen(dir.0.path(), "run", "this run").unwrap();
    assert!(!deserted.exists());
    assert!(young.exists() && other.exists());
    assert_eq!(ask(elsewhere.path(), "elsewhere", Request::Ping).unwrap(), "here");
}

/// Two processes have the same number in two containers that share the folder.
#[test]
fn two_runs_of_one_name_have_a_socket_each() {
    let dir = TestDir::new();
    let first = ControlServer::listen(dir.0.path(), "7", "first").unwrap();
    let second = ControlServer::listen(dir.0.path(), "7", "second").unwrap();
    assert_ne!(first.path(), second.path());
    assert_eq!(ask(first.path(), "first", Request::Ping).unwrap(), "here");
    assert_eq!(ask(second.path(), "second", Request::Ping).unwrap(), "here");
    drop(second);
    assert_eq!(ask(first.path(), "first", Request::Ping).unwrap(), "here");
}

#[test]
fn a_path_without_room_for_the_name_gets_a_short_one() {
    let dir = TestDir::new();
    let name = "x".repeat(107 - dir.0.path().as_os_str().len() - 14);
    let deep = dir.0.path().join(name);
    fs::create_dir(&deep).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
    let servers: Vec<ControlServer> =
        (0..3).map(|_| ControlServer::listen(&deep, "4194304", "run").unwrap()).collect();
    for server in &servers {
        assert!(server.path().as_os_str().len() <= 107);
        assert_eq!(ask(server.path(), "run", Request::Ping).unwrap(), "here");
    }
}

#[test]
fn a_directory_that_is_open_to_others_is_refused_by_both_ends() {
    let dir = TestDir::new();
    let server = ControlServer::listen(dir.0.path(), "run", "this run").unwrap();
    fs::set_permissions(dir.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = ask(server.path(), "this run", Request::Ping).unwrap_err().to_string();
    assert!(refused.contains("open to others (mode 755)"), "{refused}");
    assert!(ControlServer::listen(dir.0.path(), "other", "this run").is_err());
    let link = dir.0.path().with_extension("link");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(dir.0.path(), &link).unwrap();
    assert!(ControlServer::listen(&link, "other", "this run").is_err());
    fs::remove_file(&link).unwrap();
}

#[test]
fn nothing_that_is_there_is_replaced() {
    let dir = TestDir::new();
    fs::write(dir.0.path().join("a.sock"), "mine").unwrap();
    let listens = UnixListener::bind(dir.0.path().join("b.sock")).unwrap();
    for name in ["a", "b"] {
        let server = ControlServer::listen(dir.0.path(), name, "this run").unwrap();
        assert_eq!(ask(server.path(), "this run", Request::Ping).unwrap(), "here");
    }
    assert_eq!(fs::read_to_string(dir.0.path().join("a.sock")).unwrap(), "mine");
    drop(UnixStream::connect(dir.0.path().join("b.sock")).unwrap());
    drop(listens);
}

/// Sends bytes and returns the answer, which may be empty.
fn send(server: &ControlServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(server.path()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn what_is_too_long_too_slow_or_no_request_does_nothing() {
    let dir = TestDir::new();
    let server = ControlServer::listen(dir.0.path(), "run", "this run").unwrap();
    assert!(send(&server, &vec![b'x'; 100 * REQUEST_BYTES_MAX]).is_empty());
    for bad in [
        "\n",
        "{}\n",
        "{\"request\":\"explode\"}\n",
        "{\"request\":\"stop\",\"run\":\"this run\",\"more\":1}\n",
        "[]\n",
    ] {
        let answer = String::from_utf8(send(&server, bad.as_bytes())).unwrap();
        assert!(answer.contains("\"ok\":false") && answer.contains("; send "), "{bad:?}: {answer}");
    }
    // Somebody who says nothing holds the others up for half a second at most.
    let silent = UnixStream::connect(server.path()).unwrap();
    let began = Instant::now();
    while ask(server.path(), "this run", Request::Ping).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody answers any more");
    }
    drop(silent);
    assert!(server.take().is_empty());
    // A flood is answered and bounded.
    for _ in 0..100 {
        let _ = ask(server.path(), "this run", Request::Checkpoint);
    }
    assert!(server.take().len() <= 64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn only_four_requests_are_understood(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            r#"\{"request":"(ping|stop|checkpoint|[a-z_]{0,20})"(,"run":"[ab]")?(,"[a-z]{1,3}":[0-9])?\}"#.prop_map(String::into_bytes),
            r#"[{}\[\]":,a-z0-9 ]{0,60}"#.prop_map(String::into_bytes),
        ],
    ) {
        match understood(&bytes, "a") {
            Ok(request) => {
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                prop_assert_eq!(serde_json::to_value(request).unwrap(), value["request"].clone());
                prop_assert_eq!(&value["run"], "a");
            }
            Err(why) => prop_assert!(why.len() < 400 && !why.contains('\n'), "{}", why),
        }
    }
}
