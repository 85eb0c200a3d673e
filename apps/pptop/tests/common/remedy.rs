//! What every refusal has to say.

/// Whether a refusal says what to do: after what is wrong, and not in the formula of before.
pub(crate) fn has_remedy(line: &str) -> bool {
    const VERBS: [&str; 28] = [
        "add", "bind", "choose", "did", "give", "it", "keep", "leave", "make", "name", "number",
        "put", "raise", "record", "remove", "reorder", "run", "save", "see", "send", "set",
        "start", "the", "type", "use", "wait", "write", "--force",
    ];
    let begins = |rest: &str| VERBS.contains(&rest.split(' ').next().unwrap_or_default());
    line.split("; ").skip(1).any(begins) && !line.contains("accepted:")
}
