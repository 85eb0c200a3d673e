//! The invariants of `ARCHITECTURE.md`, and the types and tests that keep them.

/// The errors of the page: invariants that name neither types (`by …`) nor a test, and tests that
/// do not exist. A file in a folder `tests` or `ci` counts as a test. `exists` says whether the
/// workspace has a function of a name.
pub(crate) fn errors(page: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut errors = Vec::new();
    for line in page.lines().filter(|line| line.contains("**Invariant:**")) {
        let names: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let is_file = |name: &&str| {
            name.starts_with("tests/") || name.contains("/tests/") || name.starts_with("ci/")
        };
        if !line.contains("(by ") && !names.iter().any(|name| is_test(name) || is_file(name)) {
            errors.push(format!("neither types nor a test: {line}"));
        }
        let absent = names.into_iter().filter(|name| is_test(name) && !exists(name));
        errors.extend(absent.map(|name| format!("there is no test {name}: {line}")));
    }
    errors
}

/// Whether a name reads like that of a test: three words or more.
fn is_test(name: &str) -> bool {
    let is_word = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.split('_').count() >= 3 && name.split('_').all(is_word)
}
