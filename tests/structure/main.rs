//! Rules for the layout of the code: no circles between the modules of a crate, no file that is too
//! long, no module that names something beyond its border, invariants that name what keeps them, and
//! paths for CUDA that name what tests them.
//!
//! Both lists of exceptions can only shrink: one that is no longer needed is an error.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod circles;
mod cuda;
mod invariants;
mod length;
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use circles::circles;
use length::lines_of_code;
use modules::{Crate, Use};

/// Lines of code that a file may have.
const LINES_MAX: usize = 450;

/// A use that closes a circle.
struct Excused {
    /// The root file of the crate.
    root: &'static str,
    from: &'static str,
    to: &'static str,
    reason: &'static str,
}

const TELEMETRY: &str = "crates/telemetry/src/lib.rs";
/// Uses that close a circle and are still to be removed.
const EXCUSED_USES: &[Excused] = &[];

/// Files with more than `LINES_MAX` lines of code, each with its reason.
const EXCUSED_FILES: &[(&str, &str)] = &[];

#[test]
fn modules_form_no_circles() {
    let mut errors = Vec::new();
    let roots = roots();
    for root in &roots {
        let uses = Crate::read(root, &read).uses();
        let excused: Vec<&Excused> =
            EXCUSED_USES.iter().filter(|one| one.root == relative(root)).collect();
        let left = circles(&without(&uses, &excused));
        for one in &excused {
            let others: Vec<&Excused> =
                excused.iter().copied().filter(|other| !std::ptr::eq(*other, *one)).collect();
            if circles(&without(&uses, &others)) == left {
                let Excused { root, from, to, reason } = one;
                errors.push(format!(
                    "{root}: {from} → {to} closes no circle; take it off the list ({reason})"
                ));
            }
        }
        errors.extend(left.iter().map(|circle| format!("{}: {circle}", relative(root))));
    }
    let is_root = |one: &&Excused| roots.iter().any(|root| relative(root) == one.root);
    for one in EXCUSED_USES.iter().filter(|one| !is_root(one)) {
        errors.push(format!("{} is on the list, and is no crate", one.root));
    }
    assert!(errors.is_empty(), "{}", errors.join("\n\n"));
}

fn without(uses: &[Use], excused: &[&Excused]) -> Vec<Use> {
    let is_excused = |one: &&Use| {
        let (from, to) = (one.from.join("::"), one.to.join("::"));
        excused.iter().any(|excused| excused.from == from && excused.to == to)
    };
    uses.iter().filter(|one| !is_excused(one)).cloned().collect()
}

/// What some modules must not name, with all that is below them: root of the crate, module, and the
/// beginnings of names.
const BORDERS: &[(&str, &str, &[&str])] = &[
    // These compute numbers from numbers.
    (
        "crates/schedule/src/lib.rs",
        "",
        &["std::thread", "std::time", "std::fs", "std::net", "std::env", "candle"],
    ),
    ("crates/partition/src/lib.rs", "solve", &["crate::layer", "crate::stack", "candle", "pp_nn"]),
    ("crates/models/src/lib.rs", "", &["pp_executor", "pp_hybrid", "pp_telemetry", "pp_trace"]),
    // The same events give the same screen at any time and on any machine.
    (
        TELEMETRY,
        "model",
        &["std::fs", "std::thread", "std::env", "std::time::Instant", "std::time::SystemTime"],
    ),
    (
        "apps/pptop/src/lib.rs",
        "monitor::state",
        &[
            "crate::monitor::view",
            "crate::monitor::terminal",
            "std::fs",
            "std::thread",
            "std::time::Instant",
            "std::time::SystemTime",
            "candle",
        ],
    ),
    ("apps/pptop/src/lib.rs", "monitor::view", &["std::fs", "std::thread", "candle"]),
];

#[test]
fn borders_are_kept() {
    for (root, module, forbidden) in BORDERS {
        let named = Crate::read(&workspace().join(root), &read).named(module);
        assert!(!named.is_empty(), "{root} has no module {module}");
        for name in named {
            let crossed = forbidden.iter().any(|start| name.starts_with(start));
            assert!(!crossed, "{root}: {module} names {name}");
        }
    }
}

#[test]
fn every_invariant_names_types_or_a_test() {
    let mut code = String::new();
    for folder in ["apps", "crates", "tests"] {
        append(&workspace().join(folder), &mut code);
    }
    let page = read(&workspace().join("ARCHITECTURE.md")).unwrap();
    let errors = invariants::errors(&page, &|name| code.contains(&format!("fn {name}(")));
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// Appends the text of all files of code in a folder.
fn append(folder: &Path, code: &mut String) {
    let mut files = Vec::new();
    list(folder, &mut files);
    code.extend(files.iter().map(|file| read(file).unwrap()));
}

/// Appends all files of code in a folder.
fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn an_invariant_that_nothing_keeps_is_found() {
    let page = "- **Invariant:** `a_b` is (by types).\n- **Invariant:** c (`it_is_there`).\n\
        - **Invariant:** d.\n- **Invariant:** e (`it_is_gone`).\n- **Bounds:** f.\n\
        - **Invariant:** g (`crates/g/src/lib.rs`).\n- **Invariant:** h (`crates/h/tests/h.rs`).\n";
    let expected = [
        "neither types nor a test: - **Invariant:** d.",
        "there is no test it_is_gone: - **Invariant:** e (`it_is_gone`).",
        "neither types nor a test: - **Invariant:** g (`crates/g/src/lib.rs`).",
    ];
    assert_eq!(invariants::errors(page, &|name| name == "it_is_there"), expected);
}

#[test]
fn files_hold_one_noun() {
    let mut lengths = BTreeMap::new();
    for root in roots() {
        for file in Crate::read(&root, &read).files() {
            lengths.insert(relative(file), lines_of_code(&read(file).unwrap()));
        }
    }
    let mut errors = Vec::new();
    for (file, &lines) in &lengths {
        let excused = EXCUSED_FILES.iter().any(|(excused, _)| excused == file);
        if lines > LINES_MAX && !excused {
            errors.push(format!(
                "{file} has {lines} lines of code, more than {LINES_MAX}: it holds a second noun"
            ));
        }
    }
    for (file, _) in EXCUSED_FILES {
        match lengths.get(*file) {
            None => {
                errors.push(format!("{file} is on the list of exceptions, and is no file of code"));
            }
            Some(lines) if *lines <= LINES_MAX => {
                errors.push(format!("{file} has {lines} lines of code: take it off the list"));
            }
            Some(_) => {}
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// The root files of the workspace's libraries, programs, examples and benchmarks, as Cargo knows
/// them.
fn roots() -> Vec<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let targets = packages.iter().flat_map(|package| package["targets"].as_array().unwrap());
    let is_code = |target: &&serde_json::Value| {
        let kinds = target["kind"].as_array().unwrap();
        kinds.iter().all(|kind| kind != "test" && kind != "custom-build")
    };
    targets
        .filter(is_code)
        .map(|target| PathBuf::from(target["src_path"].as_str().unwrap()))
        .collect()
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn relative(file: &Path) -> String {
    file.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned()
}

fn read(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

/// Files that say what is not CUDA's own: which modules there are, and which words are used.
const NO_CUDA_PATHS: [&str; 7] = [
    "crates/cuda-loader/src/lib.rs",
    "crates/cuda-loader/src/search.rs",
    "crates/cuda/src/lib.rs",
    "crates/executor/src/device.rs",
    "crates/executor/src/lane.rs",
    "crates/nn/src/lib.rs",
    "crates/train/src/lib.rs",
];

#[test]
fn every_cuda_path_has_its_double_or_its_test() {
    let is_for_cuda = |path: &str, text: &str| {
        path.starts_with("crates/cuda")
            || text.contains("feature = \"cuda\"")
            || path == "crates/executor/src/lane/cuda.rs"
    };
    let mut files = Vec::new();
    for folder in ["apps", "crates", "benches/src"] {
        list(&workspace().join(folder), &mut files);
    }
    let sources: BTreeSet<String> = files
        .iter()
        .filter(|file| {
            let path = relative(file);
            let is_listed = NO_CUDA_PATHS.contains(&path.as_str());
            let is_built_in = !path.contains("/stand-in/") && !path.ends_with("build.rs");
            !is_listed && is_built_in && is_for_cuda(&path, &read(file).unwrap())
        })
        .map(|file| relative(file))
        .collect();
    assert!(sources.contains("crates/cuda/src/stream.rs"), "{sources:?}");
    let mut code = String::new();
    for folder in ["crates", "tests"] {
        append(&workspace().join(folder), &mut code);
    }
    let exists =
        |name: &str| workspace().join(name).exists() || code.contains(&format!("fn {name}("));
    let page = read(&workspace().join("ARCHITECTURE.md")).unwrap();
    let errors = cuda::errors(&page, &sources, &exists);
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn a_cuda_path_without_a_double_is_found() {
    let page = "| path | where | double, or test on a GPU |\n|---|---|---|\n\
        | a | `a.rs` | `there` |\n| b | `b.rs` | none |\n| c | `c.rs` | `gone` |\n\n| d | `d.rs` | `there` |\n";
    let sources = ["a.rs", "b.rs", "c.rs", "d.rs"].map(ToOwned::to_owned).into();
    let expected = [
        "neither a double nor a test: | b | `b.rs` | none |",
        "there is no gone: | c | `c.rs` | `gone` |",
        "d.rs has code for CUDA, and is in no row",
    ];
    assert_eq!(cuda::errors(page, &sources, &|name| name == "there"), expected);
}

/// The circles in a made-up crate of these files.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let files: BTreeMap<&Path, &str> =
        files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    let source = |path: &Path| files.get(path).map(|text| (*text).to_owned());
    circles(&Crate::read(Path::new("lib.rs"), &source).uses())
}

#[test]
fn a_circle_is_found_through_an_export_and_named_with_its_uses() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; pub use b::Thing;"),
        ("a.rs", "use crate::{Thing, c::Other}; pub struct Own;"),
        ("b.rs", "pub struct Thing; fn f() { let _ = super::a::Own; }"),
        ("c.rs", "pub struct Other;"),
    ];
    let expected = "a circle of a, b:\n    a uses b: crate::Thing\n    b uses a: super::a::Own";
    assert_eq!(found(&files), [expected]);
}

#[test]
fn a_folder_counts_as_one_and_macros_are_read() {
    let files = [
        ("lib.rs", "mod state; mod view;"),
        ("state/mod.rs", "pub mod ops; pub mod note;"),
        ("state/ops.rs", "use crate::view::format::{self, plain};"),
        ("state/note.rs", ""),
        ("view.rs", "pub mod format; mod header;"),
        ("view/format.rs", ""),
        ("view/header.rs", "fn f() { println!(\"{}\", [crate::state::note::text()]); }"),
    ];
    let expected = "a circle of state, view:\
        \n    state::ops uses view::format: crate::view::format\
        \n    state::ops uses view::format: crate::view::format::plain\
        \n    view::header uses state::note: crate::state::note::text";
    assert_eq!(found(&files), [expected]);
}

#[test]
fn parents_tests_and_chains_are_no_circles() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; fn own() { a::f() } #[cfg(test)] mod tests;"),
        (
            "a.rs",
            "use crate::own; use super::b; #[cfg(test)] mod tests { use crate::c::f; } pub mod child;",
        ),
        ("a/child.rs", "use super::f; use crate::own;"),
        ("b.rs", "use crate::c; #[cfg(all(test, feature = \"x\"))] use crate::a::f;"),
        ("c.rs", "pub(in crate::a) fn f() {} #[cfg(test)] fn g() { crate::a::f() }"),
    ];
    assert_eq!(found(&files), [""; 0]);
}

#[test]
fn tests_tables_and_comments_are_no_lines_of_code() {
    let text = "//! A file.\n\nuse a::B;\n\n/// A table.\npub(crate) const T: [u8; 2] = [\n    1,\n    2,\n];\n\
        fn f() {\n    // Nothing.\n}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\nfn h() {}\n";
    assert_eq!(lines_of_code(text), 4);
}
