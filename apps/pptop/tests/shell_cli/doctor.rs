//! `pptop doctor`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::home::Home;
use super::ran::Ran;

/// What the check of this name says, and that the exit code is that of the worst of all checks.
fn check(ran: &Ran, name: &str) -> (String, String) {
    assert_eq!(ran.stderr, "");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let checks = told["checks"].as_array().unwrap();
    let codes = checks.iter().map(|check| match check["verdict"].as_str().unwrap() {
        "pass" => 0,
        "warn" => 1,
        "fail" => 2,
        other => panic!("{other}"),
    });
    let worst = codes.max().unwrap();
    assert_eq!(ran.code, Some(worst), "{told}");
    assert_eq!(told["verdict"], ["pass", "warn", "fail"][worst as usize]);
    for check in checks {
        assert_eq!(check["todo"].is_string(), check["verdict"] != "pass", "{check}");
    }
    let check = checks.iter().find(|check| check["name"] == name).unwrap();
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (text("verdict"), format!("{}; {}", text("found"), text("todo")))
}

fn doctor(home: &Home) -> Ran {
    home.pptop(&["doctor", "--json"])
}

#[test]
fn an_empty_home_is_well_and_stays_empty() {
    let home = Home::new();
    let ran = doctor(&home);
    for name in ["state_dir", "socket_dir", "socket_path", "config", "terminal", "runs", "clock"] {
        assert_eq!(check(&ran, name).0, "pass", "{name}: {}", ran.stdout);
    }
    assert!(!home.path(".local").exists() && !home.path("run/pptop").exists());
    let text = home.pptop(&["doctor"]);
    assert_eq!(text.code, ran.code);
    assert!(text.stdout.contains("pass  state_dir"), "{}", text.stdout);
    assert!(text.stdout.ends_with(" fail\n"), "{}", text.stdout);
}

#[test]
fn sockets_that_others_can_reach_fail() {
    let home = Home::new();
    let sockets = home.path("run/pptop");
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = doctor(&home);
    assert_eq!(ran.code, Some(2));
    let (verdict, told) = check(&ran, "socket_dir");
    assert_eq!(verdict, "fail");
    assert!(told.contains("open to others (mode 755)") && told.contains("chmod 700"), "{told}");
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(check(&doctor(&home), "socket_dir").0, "pass");
}

#[test]
fn a_long_way_to_the_sockets_fails() {
    let home = Home::new();
    let long = home.path(&"d".repeat(100));
    fs::create_dir(&long).unwrap();
    let variables = [("XDG_RUNTIME_DIR", long.to_str().unwrap())];
    let ran = home.with(&variables, &["doctor", "--json"]);
    assert_eq!((ran.code, check(&ran, "socket_path").0.as_str()), (Some(2), "fail"));
}

#[test]
fn a_mistake_in_the_configuration_fails() {
    let home = Home::new();
    home.configure("\nthem = 1\n");
    let ran = doctor(&home);
    let (verdict, told) = check(&ran, "config");
    assert_eq!((ran.code, verdict.as_str()), (Some(2), "fail"));
    assert!(told.contains("line 2: unknown field them; did you mean theme?"), "{told}");
    home.configure("theme = \"dark\"\n");
    assert_eq!(check(&doctor(&home), "config").0, "pass");
}

#[test]
fn a_run_that_died_warns() {
    let home = Home::new();
    let host = rustix::system::uname();
    let host = host.nodename().to_str().unwrap();
    let status =
        format!("{{\"run\":\"a\",\"state\":\"running\",\"pid\":4194305,\"host\":\"{host}\"}}");
    home.write(".local/state/pptop/runs/gone/status.json", status.as_bytes());
    let (verdict, told) = check(&doctor(&home), "runs");
    assert_eq!(verdict, "warn");
    assert!(told.contains("gone") && told.contains("pptop runs list"), "{told}");
}

#[test]
fn a_library_that_is_not_there_fails() {
    let home = Home::new();
    let with =
        |variables: &[(&str, &str)]| check(&home.with(variables, &["doctor", "--json"]), "nvml").0;
    assert_eq!(with(&[("PPTOP_NVML_LIB", "/nowhere/libnvidia-ml.so")]), "fail");
    assert_eq!(with(&[("PPTOP_NVML_LIB", "/nowhere/n.so"), ("PPTOP_NVML", "0")]), "pass");
    let library = home.write("n.so", b"");
    assert_eq!(with(&[("PPTOP_NVML_LIB", library.to_str().unwrap())]), "pass");
}
