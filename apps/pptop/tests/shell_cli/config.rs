//! `pptop config`, and what it does to other commands.

use std::fs;

use serde_json::json;

use super::home::Home;

#[test]
fn a_new_file_is_the_users_alone_and_changes_nothing() {
    let home = Home::new();
    let before = home.json("config print --json");
    assert_eq!(before["file"], json!(null));
    let path = home.path(".config/pptop/config.toml").display().to_string();
    assert_eq!(home.stdout("config path"), format!("{path}\n"));
    assert_eq!(
        home.stdout("config validate"),
        format!("{path}: does not exist; the defaults apply\n")
    );
    assert_eq!(home.stdout("config init"), format!("{path}\n"));
    assert_eq!(home.mode(".config/pptop"), 0o700);
    assert_eq!(home.mode(".config/pptop/config.toml"), 0o600);
    assert_eq!(home.stdout("config validate"), format!("{path}: valid\n"));
    let after = home.json("config print --json");
    assert_eq!(after["file"], json!(path));
    assert_eq!(after["settings"], before["settings"]);
    assert_eq!(after["settings"]["theme"], json!({"value": "auto", "source": "default"}));
}

#[test]
fn a_file_that_is_there_is_replaced_only_when_asked() {
    let home = Home::new();
    let path = home.configure("theme = \"dark\"\n");
    home.refused(&[], &["config", "init"], &["already exists", "--force"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "theme = \"dark\"\n");
    home.stdout("config init --force");
    assert!(fs::read_to_string(&path).unwrap().contains("# theme = \"auto\""));
    assert_eq!(home.mode(".config/pptop/config.toml"), 0o600);
    assert_eq!(fs::read_dir(home.path(".config/pptop")).unwrap().count(), 1);
    home.write("file", b"");
    let below_a_file = home.path("file").display().to_string();
    home.refused(
        &[("XDG_CONFIG_HOME", &below_a_file)],
        &["config", "init"],
        &["cannot write", "XDG_CONFIG_HOME"],
    );
}

#[test]
fn what_is_printed_says_where_it_comes_from() {
    let home = Home::new();
    home.configure(
        "theme = \"dark\"\ninterval_ms = 300\nascii = true\n[keys]\nquit = [\"q\", \"ctrl-C\"]\n\
         [colors]\nwait = \"bright-black\"\n[keep]\nruns = 7\n",
    );
    let variables = [("PPTOP_THEME", "light"), ("PPTOP_INTERVAL_MS", "400")];
    let args = ["config", "print", "--interval", "500", "--no-mouse", "--json"];
    let ran = home.with(&variables, &args);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let settings = &serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap()["settings"];
    for (name, value, source) in [
        ("theme", json!("light"), "env"),
        ("interval_ms", json!(500), "flag"),
        ("mouse", json!(false), "flag"),
        ("ascii", json!(true), "file"),
        ("color", json!("auto"), "default"),
        ("nvml_lib", json!(null), "default"),
        ("keep.runs", json!(7), "file"),
        ("keys.quit", json!(["q", "Ctrl-c"]), "file"),
        ("colors.wait", json!("bright-black"), "file"),
    ] {
        assert_eq!(settings[name], json!({"value": value, "source": source}), "{name}");
    }
    let text = home.stdout("config print");
    assert!(text.contains("\ntheme        \"dark\"          file\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("keep.mb") && line.ends_with("default")));
}

#[test]
fn a_mistake_is_named_with_its_line() {
    let home = Home::new();
    let path = home.configure("ascii = true\ntheme = \"pink\"\n");
    let path = path.to_str().unwrap();
    let said = ["config.toml, line 2: unknown value \"pink\"; use auto, dark, light, mono"];
    home.refused(&[], &["config", "validate"], &said);
    home.refused(&[], &["config", "validate", path], &said);
    home.refused(&[], &["config", "print"], &said);
    home.refused(&[], &["runs", "prune"], &said);
    // Where the file is can be asked even then.
    home.stdout("config path");
    home.refused(&[], &["config", "validate", "missing.toml"], &["missing.toml does not exist"]);
    home.refused(&[], &["config", "validate", "."], &["not a regular file"]);
    home.refused(&[], &["config", "validate", "/dev/zero"], &["not a regular file"]);
    home.write("large.toml", &vec![b'#'; 65 * 1024]);
    home.refused(&[], &["config", "validate", "large.toml"], &["too large", "65536 bytes"]);
    home.refused(&[], &["config", "print", "--interval", "99"], &["99"]);
    home.refused(&[], &["config", "print", "--theme", "pink"], &["pink", "light"]);
    home.refused(&[("HOME", "")], &["config", "path"], &["no directory", "HOME"]);
}

#[test]
fn a_pipe_is_no_configuration_and_is_not_waited_for() {
    let home = Home::new();
    let pipe = home.path("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    home.refused(&[], &["config", "validate", "pipe"], &["not a regular file"]);
}

#[test]
fn a_variable_with_an_unknown_value_is_refused() {
    let home = Home::new();
    let print = ["config", "print"];
    home.refused(&[("PPTOP_MOUSE", "maybe")], &print, &["PPTOP_MOUSE: unknown value \"maybe\""]);
    home.refused(&[("PPTOP_KEEP_RUNS", "-1")], &["runs", "prune"], &["PPTOP_KEEP_RUNS: -1"]);
}

#[test]
fn prune_keeps_what_is_configured() {
    let home = Home::new();
    let runs = ".local/state/pptop/runs";
    for id in ["a", "b", "c"] {
        let status = format!("{{\"run\":\"{id}\",\"state\":\"ended\",\"code\":0}}");
        home.write(&format!("{runs}/{id}/status.json"), status.as_bytes());
        home.write(&format!("{runs}/{id}/events.jsonl"), b"");
    }
    let n_removed = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut args = vec!["runs", "prune", "--dry-run", "--json"];
        args.extend(flags);
        let ran = home.with(variables, &args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        told["removed"].as_array().unwrap().len()
    };
    assert_eq!(n_removed(&[], &[]), 0);
    home.configure("[keep]\nruns = 2\n");
    assert_eq!(n_removed(&[], &[]), 1);
    assert_eq!(n_removed(&[("PPTOP_KEEP_RUNS", "1")], &[]), 2);
    // The newest run stays, whatever is configured.
    assert_eq!(n_removed(&[("PPTOP_KEEP_RUNS", "1")], &["--keep-runs", "0"]), 2);
    assert_eq!(n_removed(&[], &["--keep-runs", "3"]), 0);
}
