//! What is wrong with a run, why, and what to do about it: three lines that follow from its account.

use super::{Account, Part, WhatIf};

/// Below this share of the window there is nothing to be done about a part.
const SMALL: f64 = 0.03;
/// From this share on something is wrong with the run, and not only with its schedule.
const WRONG: f64 = 0.06;
/// What a change has to gain to be worth a word.
const GAIN_MIN: f64 = 0.02;

/// What is wrong, why, and what to do next.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// The part of the window that costs most beside the work; `None` where nothing does.
    pub part: Option<Part>,
    /// What is the matter, with its number.
    pub what: String,
    /// Where it comes from.
    pub why: String,
    /// What to try.
    pub next: String,
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

/// The three lines. `changes` are those of [`what_if`](super::what_if).
pub fn advice(account: &Account, changes: &[WhatIf]) -> Advice {
    let share = |part: Part| account.part(part).seconds / account.window_seconds;
    let cost = |part: Part| {
        format!(
            "{} of {} ({})",
            millis(account.part(part).seconds),
            millis(account.window_seconds),
            percent(share(part))
        )
    };
    let worst_of = |parts: &[Part], least: f64| {
        let costly = parts.iter().copied().filter(|part| share(*part) >= least);
        costly.max_by(|a, b| share(*a).total_cmp(&share(*b)))
    };
    // What went wrong comes before what the schedule costs by itself, however much that is.
    let worst = worst_of(&[Part::Imbalance, Part::Copy, Part::Starved, Part::Other], WRONG)
        .or_else(|| worst_of(&Part::ALL[1..], SMALL));
    let (schedule, pp, m) =
        (&account.hello.schedule, account.hello.pp, account.hello.micro_batches);
    let bubble = format!("bubble {}", percent(account.bubble_ratio));
    let Some(part) = worst else {
        return Advice {
            part: None,
            what: format!("{bubble}: the ranks compute nearly all of the time"),
            why: format!("no cause costs {} of the window", percent(SMALL)),
            next: "nothing: what is left is the work itself".to_owned(),
        };
    };
    let what = format!("{bubble}; {} costs {}", part.name(), cost(part));
    let (why, next) = match part {
        Part::Imbalance => imbalance(account, changes),
        Part::Copy => {
            let why = match account.slowest_edge {
                Some((from, to, delay)) => format!(
                    "a message from rank {from} to rank {to} takes {}: the slowest link",
                    millis(delay)
                ),
                None => "handing tensors over takes time on the ranks themselves".to_owned(),
            };
            let next = "a faster link between these ranks, fewer virtual stages, larger micro-batches; or a schedule that hides messages".to_owned();
            (why, next)
        }
        Part::Starved => match account.hello.ranks_over_cores() {
            Some((n_ranks, cores)) => (
                format!("{n_ranks} ranks share {cores} cores"),
                format!("{cores} ranks in place of {n_ranks}, or {n_ranks} cores; then look again"),
            ),
            None => (
                "something else uses this machine's cores".to_owned(),
                "stop what else runs here, or use fewer ranks".to_owned(),
            ),
        },
        Part::Inherent => {
            let why = format!("fill and drain of {schedule} with {pp} ranks and {m} micro-batches");
            let best = changes
                .iter()
                .skip(1)
                .filter(|line| line.gain > GAIN_MIN)
                .max_by(|a, b| a.gain.total_cmp(&b.gain));
            let next = match best {
                Some(line) => format!(
                    "{}: bubble {}, {} more through, {:.1} activations at most",
                    line.flags,
                    percent(line.bubble_ratio),
                    percent(line.gain),
                    line.peak_activations
                ),
                None => "more micro-batches a step, or fewer ranks".to_owned(),
            };
            (why, next)
        }
        Part::Other | Part::Work => (
            "single operations that took longer than usual, and the time between operations"
                .to_owned(),
            "look at the timeline's overlay of steps, and at the slow operations in the log"
                .to_owned(),
        ),
    };
    Advice { part: Some(part), what, why, next }
}

/// Why ranks differ, and what to do about it.
fn imbalance(account: &Account, changes: &[WhatIf]) -> (String, String) {
    let Some((rank, its)) = account.slowest_rank() else {
        return (
            "stages of one rank differ from those of another".to_owned(),
            "another cut: --partition time".to_owned(),
        );
    };
    let more = (account.share_of_rank(rank) - 1.0) * 100.0;
    let why = format!(
        "rank {rank} takes {more:.0} % more than the mean for each micro-batch: the others lose {} a step",
        millis(its)
    );
    let even = changes.iter().find(|line| line.change == "an even cut");
    let gain = even.filter(|line| line.gain > GAIN_MIN).map_or_else(String::new, |line| {
        format!("; an even cut lets {} more through", percent(line.gain))
    });
    let next = if account.can_be_cut_otherwise() {
        format!("fewer layers on rank {rank}: --partition time{gain}")
    } else {
        format!("a faster device for rank {rank}, or fewer stages: each has one layer already")
    };
    (why, next)
}
