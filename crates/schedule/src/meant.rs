//! The name that was probably meant by one that does not exist.

/// Beyond this many characters nobody mistyped a name.
const LONGEST: usize = 64;
/// How many names a message can offer before it becomes a list.
const MOST: usize = 3;

/// Of the known names, those that the given one was probably meant to be, the nearest first; three
/// at most.
///
/// Case, hyphens and underscores do not count. A beginning of three letters and more means every
/// name that has it; otherwise a quarter of the letters may be wrong, missing or exchanged, and one
/// of a short name.
pub fn meant<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = folded(given);
    let n_letters = wanted.chars().count();
    if n_letters == 0 || n_letters > LONGEST {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let folded = folded(name);
            if n_letters >= 3 && folded.starts_with(&wanted) {
                return Some((0, name));
            }
            let n_wrong = strsim::osa_distance(&wanted, &folded);
            (n_wrong <= (n_letters / 4).clamp(1, 3) && n_wrong < n_letters)
                .then_some((n_wrong, name))
        })
        .collect();
    near.sort_by_key(|(n_wrong, _)| *n_wrong);
    let least = near.first().map_or(0, |(n_wrong, _)| *n_wrong);
    near.into_iter()
        .take_while(|(n_wrong, _)| *n_wrong == least)
        .map(|(_, name)| name)
        .take(MOST)
        .collect()
}

/// `did you mean a or b?`, or nothing where no known name is near.
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near = meant(given, known);
    (!near.is_empty()).then(|| format!("did you mean {}?", near.join(" or ")))
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 7] =
        ["naive", "gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-h2", "dualpipe-v"];

    #[test]
    fn a_slip_finds_its_name() {
        for (given, wanted) in [
            ("1fb1", &["1f1b"][..]),
            ("1F1B", &["1f1b"]),
            ("gpip", &["gpipe"]),
            ("g-pipe", &["gpipe"]),
            ("gpiep", &["gpipe"]),
            ("zb_h1", &["zb-h1"]),
            ("zb-h9", &["zb-h1", "zb-h2"]),
            ("DualPipe", &["dualpipe-v"]),
            ("interleaved", &["interleaved-1f1b"]),
            ("interleaved-1fb1", &["interleaved-1f1b"]),
        ] {
            assert_eq!(meant(given, KNOWN), wanted, "{given}");
        }
        assert_eq!(did_you_mean("zb-h9", KNOWN).unwrap(), "did you mean zb-h1 or zb-h2?");
    }

    #[test]
    fn what_is_near_nothing_finds_nothing() {
        let long = "1f1b".repeat(1 << 18);
        for given in ["", "-", "x", "plan.csv", "frobnicate", "../../etc", "äöü", &long] {
            assert_eq!(meant(given, KNOWN), [""; 0], "{}", &given[..given.len().min(40)]);
            assert_eq!(did_you_mean(given, KNOWN), None);
        }
    }
}
