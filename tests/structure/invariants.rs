//! The invariants of `ARCHITECTURE.md`, and what it says keeps them.

/// What is wrong with the page: invariants that nothing keeps, and names that are not there. `read`
/// returns the text of a file that exists, by its path from the root of the workspace.
pub(crate) fn errors(page: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let starting =
        |start: &'static str| page.lines().filter_map(move |line| line.strip_prefix(start));
    let invariants: Vec<&str> = starting("**Invariant:** ").collect();
    let keepers: Vec<(&str, &str)> =
        starting("- *").filter_map(|line| line.split_once("*: ")).collect();
    let mut errors = Vec::new();
    for invariant in &invariants {
        if keepers.iter().filter(|(words, _)| invariant.starts_with(words)).count() != 1 {
            errors
                .push(format!("this invariant needs a line that says what keeps it: {invariant}"));
        }
    }
    for (words, keeper) in keepers {
        if !invariants.iter().any(|invariant| invariant.starts_with(words)) {
            errors.push(format!("no invariant begins with: {words}"));
        }
        errors.extend(absent(keeper, read).map(|what| format!("{words}: {what}")));
    }
    errors
}

/// Files and tests that a line names in backticks, and that are not there: a path with a slash, and
/// behind it its tests.
fn absent<'a>(
    line: &'a str,
    read: &'a dyn Fn(&str) -> Option<String>,
) -> impl Iterator<Item = String> + 'a {
    let mut file: Option<(&str, String)> = None;
    let names = line.split('`').skip(1).step_by(2);
    let is_kept_by_nothing = !line.starts_with("types") && !line.contains('`');
    let nothing = is_kept_by_nothing.then(|| "neither types nor a test".to_owned());
    let absent = names.filter_map(move |name| {
        if name.contains('/') {
            file = read(name).map(|text| (name, text));
            return file.is_none().then(|| format!("{name} is not there"));
        }
        let (path, text) = file.as_ref()?;
        (!text.contains(&format!("fn {name}("))).then(|| format!("{path} has no test {name}"))
    });
    nothing.into_iter().chain(absent)
}
