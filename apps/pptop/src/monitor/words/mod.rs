//! The text of the monitor: the lines of the log in words and, in the modules below, numbers as
//! short text and the names of operations. The same text is drawn and searched.

pub(crate) mod format;
mod ops;
mod ranks;

use std::borrow::Cow;
use std::ops::Range;

use pp_schedule::is_obeyed;
use pp_telemetry::{Lost, Reason, Slow, SlowGroup};

pub(crate) use ops::{letter, name, short_name};
pub(crate) use ranks::{incomplete_text, layers_text, rank_name, stages_text};

/// A slow operation: `rank 2 B3 +41% over its usual 24.7 ms: no core for most
/// of it`.
pub(crate) fn slow(slow: &Slow) -> String {
    let replica =
        if slow.replica > 0 { format!(" of replica {}", slow.replica) } else { String::new() };
    format!("rank {}{replica} {}", slow.rank, slow_op(slow))
}

/// Several slow operations of one rank and cause: `rank 2: 14 slow B in steps 100 to 180, up to
/// 3.1x their median: no core for most of it`.
pub(crate) fn slow_group(group: &SlowGroup) -> String {
    if group.count <= 1 {
        return slow(&group.last);
    }
    let last = &group.last;
    let replica =
        if last.replica > 0 { format!(" of replica {}", last.replica) } else { String::new() };
    format!("rank {}{replica}: {}", last.rank, slow_ops(group))
}

/// The same without its rank.
pub(crate) fn slow_ops(group: &SlowGroup) -> String {
    if group.count <= 1 {
        return slow_op(&group.last);
    }
    let ops: Vec<String> = group.ops.iter().map(|op| letter(*op).to_string()).collect();
    let steps = match (group.first_step, group.last.step) {
        (first, last) if first < last => format!("steps {first} to {last}"),
        (first, _) => format!("step {first}"),
    };
    format!(
        "{} slow {} in {steps}, up to {:.1}x their median: {}",
        group.count,
        ops.join(" "),
        group.worst,
        why(&group.last.reason)
    )
}

fn why(reason: &Reason) -> String {
    match reason {
        Reason::Starved(_) => "no core for most of it".to_owned(),
        Reason::Throttled(why) => format!("the GPU was throttled: {}", why.join(", ")),
        Reason::Unknown => "cause unknown".to_owned(),
    }
}

/// A slow operation without its rank.
pub(crate) fn slow_op(slow: &Slow) -> String {
    let op = letter(slow.op);
    let op = slow.mb.map_or_else(|| format!("every {op}"), |mb| format!("{op}{mb}"));
    let beyond = (slow.seconds / slow.usual_seconds.max(1e-12) - 1.0) * 100.0;
    let why = why(&slow.reason);
    let usual = format::duration(slow.usual_seconds);
    format!("{op} +{beyond:.0}% over its usual {usual}: {why}")
}

/// Events that the recorder has lost.
pub(crate) fn lost(lost: &Lost) -> String {
    let events = if lost.count == 1 { "event" } else { "events" };
    let steps = match lost.first_step.zip(lost.step) {
        Some((from, to)) if from < to => format!(" in steps {from} to {to}"),
        _ => String::new(),
    };
    format!("{} {events} lost{steps}: the recorder could not keep up", lost.count)
}

/// A text without characters that move the cursor, and without spaces at its ends.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(is_obeyed) {
        format::plain(text).trim().to_owned().into()
    } else {
        text.trim().into()
    }
}

/// The places of `what` in `text`, in characters, regardless of case.
pub(crate) fn find(text: &str, what: &str) -> Vec<Range<usize>> {
    let fold = |text: &str| -> Vec<char> {
        text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
    };
    let (text, what) = (fold(text), fold(what));
    let mut found = Vec::new();
    let mut from = 0;
    if what.is_empty() {
        return found;
    }
    while let Some(rest) = text.get(from..).filter(|rest| rest.len() >= what.len()) {
        if rest.starts_with(&what) {
            found.push(from..from + what.len());
            from += what.len();
        } else {
            from += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use pp_telemetry::SpanKind;

    use super::*;

    #[test]
    fn what_was_slow_is_said_with_its_reason() {
        let b3 = Slow {
            step: 98,
            elapsed_ns: 1,
            replica: 0,
            rank: 2,
            stage: 2,
            op: SpanKind::B,
            mb: Some(3),
            seconds: 0.0348,
            usual_seconds: 0.0247,
            reason: Reason::Starved(0.8),
        };
        assert_eq!(slow(&b3), "rank 2 B3 +41% over its usual 24.7 ms: no core for most of it");
        let reason = Reason::Throttled(vec!["SW power cap".to_owned(), "heat".to_owned()]);
        let all = Slow { mb: None, replica: 1, reason, ..b3 };
        assert_eq!(
            slow(&all),
            "rank 2 of replica 1 every B +41% over its usual 24.7 ms: the GPU was throttled: SW power cap, heat"
        );
    }

    #[test]
    fn events_that_are_lost_step_after_step_are_one_line() {
        let lost = |step, count, first_step| Lost { elapsed_ns: 1, step, count, first_step };
        let say = super::lost;
        assert_eq!(say(&lost(Some(7), 1, None)), "1 event lost: the recorder could not keep up");
        assert_eq!(
            say(&lost(Some(9), 12, Some(3))),
            "12 events lost in steps 3 to 9: the recorder could not keep up"
        );
    }

    #[test]
    fn a_text_is_found_whatever_its_letters() {
        assert_eq!(find("GPU gpu", "Gpu"), [0..3, 4..7]);
        assert_eq!(find("aaa aa", "aa"), [0..2, 4..6]);
        assert!(find("Straße İ", "STRASSE").is_empty());
        assert_eq!(find("漢字字", "字"), [1..2, 2..3]);
        assert_eq!((find("", "a"), find("a", "")), (vec![], vec![]));
    }
}
