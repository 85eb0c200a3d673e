//! What costs a run most, what causes it, and what to try: three lines that follow from its
//! account, and a verdict of one line.

use super::{Account, Part, WhatIf};
use pp_trace::Hello;

/// Below this share of the window there is nothing to be done about a part.
const SMALL: f64 = 0.03;
/// From this share on something is wrong with the run, and not only with its schedule.
const WRONG: f64 = 0.06;
/// What a change has to gain to be worth a word, however calm the steps are: simulations from means
/// are no better than that.
const GAIN_MIN: f64 = 0.02;
/// A rank that takes no more than this part longer than the others is not called slow.
const SLOW_MIN: f64 = 0.05;
/// From this share of ranks x window without a core on, cores are what is missing.
const STARVED_MIN: f64 = 0.05;
/// Cells of a verdict at most.
const VERDICT_CELLS: usize = 60;

/// What costs most, what causes it, and what to try.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// The part of the window that costs most beside the work; `None` where nothing does.
    pub part: Option<Part>,
    /// The rank that is the cause, where it is one.
    pub rank: Option<u32>,
    /// What is the matter, with its number.
    pub what: String,
    /// Where it comes from.
    pub why: String,
    /// What to try.
    pub next: String,
    verdict: String,
}

impl Advice {
    /// Who waits, for whom, and what to try, in at most 60 cells: `all wait for r2, 1.5x as slow:
    /// --partition 3,3,2,2`.
    pub fn verdict(&self) -> &str {
        &self.verdict
    }

    /// The same with all that is known, where there is room for some lines.
    pub fn sentence(&self) -> String {
        format!("{}; {}", self.why, self.next)
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

/// How much more gets through: `+8 %`.
fn more(gain: f64) -> String {
    format!("+{:.0} %", gain * 100.0)
}

/// The first of some verdicts that has room; the last one is cut if it must be.
fn that_fits<const N: usize>(verdicts: &[String; N]) -> String {
    let fits = |verdict: &&String| verdict.chars().count() <= VERDICT_CELLS;
    let chosen = verdicts.iter().find(fits).or(verdicts.last()).cloned().unwrap_or_default();
    chosen.chars().take(VERDICT_CELLS).collect()
}

/// What a change has to gain to be advised: more than the steps differ among themselves, or nobody
/// would see it.
fn gain_min(account: &Account) -> f64 {
    GAIN_MIN.max(account.noise())
}

/// What to try. `changes` are those of [`what_if`](super::what_if).
pub fn advice(account: &Account, changes: &[WhatIf]) -> Advice {
    if let Some((n_ranks, gpu)) = account.hello.ranks_on_one_gpu() {
        return shared_gpu(account, n_ranks, gpu);
    }
    // Too few cores come first: who has to share one takes longer for everything, and any other
    // number is about that as well.
    if let Some((n_ranks, cores)) = account.hello.ranks_over_cores()
        && account.starved_ratio() >= STARVED_MIN
    {
        return too_few_cores(account, n_ranks, cores);
    }
    let share = |part: Part| account.part(part).seconds / account.window_seconds;
    let worst_of = |parts: &[Part], least: f64| {
        let costly = parts.iter().copied().filter(|part| share(*part) >= least);
        costly.max_by(|a, b| share(*a).total_cmp(&share(*b)))
    };
    // What went wrong comes before what the schedule costs by itself, however much that is; but
    // nothing has gone wrong that costs less than the steps differ among themselves.
    let wrong = WRONG.max(account.noise());
    let worst = worst_of(&[Part::Imbalance, Part::Copy, Part::Starved, Part::Other], wrong)
        .filter(|part| *part != Part::Imbalance || slow_rank(account).is_some())
        .or_else(|| worst_of(&[Part::Inherent], SMALL));
    let Some(part) = worst else {
        let computing = 1.0 - account.bubble_ratio;
        return Advice {
            part: None,
            rank: None,
            what: format!(
                "bubble {}: the ranks compute nearly all of the time",
                percent(account.bubble_ratio)
            ),
            why: format!(
                "fill and drain cost less than {} of the window; nothing else stands out",
                percent(SMALL)
            ),
            next: "nothing: there is little left to gain".to_owned(),
            verdict: format!(
                "ranks compute {:.0} % of the time: nothing to improve",
                computing * 100.0
            ),
        };
    };
    let what = what(account, part);
    let mut rank = None;
    let (why, next, verdict) = match part {
        Part::Imbalance => {
            rank = slow_rank(account).map(|(rank, _)| rank);
            imbalance(account, changes)
        }
        Part::Copy => copy(account),
        Part::Starved => {
            let ratio = account.starved_ratio();
            (
                format!(
                    "ranks had no core for {} of the time: something else uses this machine's cores",
                    percent(ratio)
                ),
                "stop other programs on this machine, or use fewer ranks".to_owned(),
                that_fits(&["another program takes cores: stop it, or use fewer ranks".to_owned()]),
            )
        }
        Part::Inherent => inherent(account, changes),
        Part::Other | Part::Work => (
            "single operations that took longer than usual, and the time between operations"
                .to_owned(),
            "look at the timeline's overlay of steps, and at the slow operations in the log"
                .to_owned(),
            that_fits(&[format!(
                "single slow ops cost {} of a step: see the log",
                percent(share(Part::Other))
            )]),
        ),
    };
    Advice { part: Some(part), rank, what, why, next, verdict }
}

/// What a part costs.
fn what(account: &Account, part: Part) -> String {
    let seconds = account.part(part).seconds;
    format!(
        "bubble {}; {} costs {} of {} ({})",
        percent(account.bubble_ratio),
        part.name(),
        millis(seconds),
        millis(account.window_seconds),
        percent(seconds / account.window_seconds)
    )
}

/// Several ranks on one GPU: they share it, whatever the schedule says.
fn shared_gpu(account: &Account, n_ranks: u64, gpu: &str) -> Advice {
    Advice {
        part: None,
        rank: None,
        what: format!(
            "bubble {}; {n_ranks} ranks share {gpu}, so it says little about the schedule",
            percent(account.bubble_ratio)
        ),
        why: "while one rank waits, another one uses the GPU".to_owned(),
        next:
            "compare samples per second; a pipeline gains speed when each rank has a GPU of its own"
                .to_owned(),
        verdict: that_fits(&[
            format!("{n_ranks} ranks share {gpu}: throughput counts, not the bubble"),
            format!("{n_ranks} ranks share one GPU: throughput counts"),
        ]),
    }
}

/// More ranks than cores: no cut and no schedule makes up for that.
fn too_few_cores(account: &Account, n_ranks: u64, cores: u32) -> Advice {
    let name = if cores == 1 { "core" } else { "cores" };
    let ratio = account.starved_ratio();
    let fewer = fewer_ranks(&account.hello, cores);
    let next = match &fewer {
        Some(flags) => format!(
            "{flags}, so that each rank has a core of its own; or a machine with {n_ranks} cores"
        ),
        None => format!("a machine with {n_ranks} cores, or fewer ranks"),
    };
    let try_this = fewer.unwrap_or_else(|| format!("use at most {cores} ranks"));
    Advice {
        part: Some(Part::Starved),
        rank: None,
        what: format!(
            "{n_ranks} ranks share {cores} {name}: ready ranks had no core for {} of the time",
            percent(ratio)
        ),
        why: "ranks wait for a core, and other ranks wait for them; the schedule is not the cause"
            .to_owned(),
        next,
        verdict: that_fits(&[
            format!("{n_ranks} ranks share {cores} {name} and wait for a core: try {try_this}"),
            format!("{n_ranks} ranks share {cores} {name}: use fewer ranks"),
        ]),
    }
}

/// The flags with which no rank shares a core; `None` where the number of ranks is not free, as in
/// a plan from a file.
pub(crate) fn fewer_ranks(hello: &Hello, cores: u32) -> Option<String> {
    let is_named =
        pp_schedule::ScheduleName::ALL.iter().any(|name| name.as_str() == hello.schedule);
    if !is_named || !hello.program.is_empty() {
        return None;
    }
    let is_paired = hello.schedule == pp_schedule::ScheduleName::Chimera.as_str();
    let mut pp = hello.pp.min(cores);
    if is_paired {
        pp = pp / 2 * 2;
    }
    if pp == 0 {
        return None;
    }
    let m = u64::from(hello.micro_batches.max(1));
    let fits = |dp: &u32| hello.batch_size.is_multiple_of(u64::from(*dp) * m);
    let dp = (1..=(cores / pp).min(hello.dp.max(1))).rev().find(fits).unwrap_or(1);
    let mut flags = Vec::new();
    if pp != hello.pp {
        flags.push(format!("--pp {pp}"));
    }
    if dp != hello.dp {
        flags.push(format!("--dp {dp}"));
    }
    (!flags.is_empty()).then(|| flags.join(" "))
}

/// The rank that takes longest, and how many times as long as the median of the others, if that is
/// more than chance.
fn slow_rank(account: &Account) -> Option<(u32, f64)> {
    let (rank, _) = account.slowest_rank()?;
    let ratio = account.ratio_of_rank(rank);
    (ratio - 1.0 >= SLOW_MIN.max(account.noise())).then_some((rank, ratio))
}

/// The other ranks: `r0, r1 and r3`, or `the others` where they are many.
fn others(account: &Account, rank: u32) -> String {
    let n_ranks = account.hello.pp;
    if n_ranks > 5 {
        return "the others".to_owned();
    }
    let names: Vec<String> =
        (0..n_ranks).filter(|&other| other != rank).map(|other| format!("r{other}")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Why ranks differ, and what to do about it.
fn imbalance(account: &Account, changes: &[WhatIf]) -> (String, String, String) {
    let Some((rank, ratio)) = slow_rank(account) else {
        return inherent(account, changes);
    };
    let its = account.slowest_rank().map_or(0.0, |(_, seconds)| seconds);
    let who = others(account, rank);
    let wait = if account.hello.pp == 2 { "waits" } else { "wait" };
    let why = format!(
        "r{rank} takes {ratio:.1}x the median of the others for each micro-batch: {who} {wait} for it, {} of a step",
        millis(its)
    );
    let waiters = if account.hello.pp == 2 { who } else { "all".to_owned() };
    let head = format!("{waiters} {wait} for r{rank}, {ratio:.1}x as slow");
    let change = account.other_cut().and_then(|flags| {
        changes.iter().find(|line| line.flags == flags && line.gain > gain_min(account))
    });
    let Some(change) = change else {
        let next = if account.can_be_cut_otherwise() {
            format!(
                "find what slows r{rank} down: no other cut of the layers gains more than the noise"
            )
        } else {
            format!("a faster device for r{rank}, or fewer stages: each has one layer already")
        };
        let verdict = that_fits(&[
            format!("{head}: give it a faster device"),
            format!("{head}: see its device"),
        ]);
        return (why, next, verdict);
    };
    let next =
        format!("fewer layers on r{rank}: {} ({} throughput)", change.flags, more(change.gain));
    let verdict = that_fits(&[
        format!("{head}: try {}", change.flags),
        format!("{head}: {}", change.flags),
        format!("{head}: move layers off it"),
    ]);
    (why, next, verdict)
}

fn copy(account: &Account) -> (String, String, String) {
    let has_chunks = account.hello.virtual_stages > 1;
    let mut tries = vec!["a faster link between these ranks"];
    if has_chunks {
        tries.push("fewer virtual stages");
    }
    tries.push("larger micro-batches");
    let next = format!("{}; or a schedule that hides communication", tries.join(", "));
    let short = match (has_chunks, account.hello.program.is_empty()) {
        (true, true) => "fewer --virtual-stages",
        (true, false) => "fewer stages",
        (false, _) => "larger micro-batches",
    };
    match account.slowest_edge {
        Some((from, to, delay)) => (
            format!("a message from r{from} to r{to} takes {}: the slowest link", millis(delay)),
            next,
            that_fits(&[format!(
                "r{to} waits {} for messages of r{from}: try {short}",
                millis(delay)
            )]),
        ),
        None => (
            "the ranks spend time copying tensors to each other".to_owned(),
            next,
            that_fits(&[format!("copies between ranks cost most: try {short}")]),
        ),
    }
}

/// Fill and drain, and what has less of them.
fn inherent(account: &Account, changes: &[WhatIf]) -> (String, String, String) {
    let hello = &account.hello;
    let (schedule, pp, m) = (&hello.schedule, hello.pp, hello.micro_batches);
    let why = format!("fill and drain of {schedule} with {pp} ranks and {m} micro-batches");
    let least = gain_min(account);
    let best = changes
        .iter()
        .skip(1)
        .filter(|line| line.gain > least)
        .max_by(|a, b| a.gain.total_cmp(&b.gain));
    let share = account.part(Part::Inherent).seconds / account.window_seconds;
    let head = format!("{schedule} fills and drains {:.0} % of a step", share * 100.0);
    match best {
        Some(line) => (
            why,
            format!(
                "{}: bubble {}, {} throughput, peak {:.1} activations",
                line.flags,
                percent(line.bubble_ratio),
                more(line.gain),
                line.peak_activations
            ),
            that_fits(&[
                format!("{head}: try {}", line.flags),
                format!("fill and drain {:.0} %: try {}", share * 100.0, line.flags),
                format!("fill and drain {:.0} %: try {}", share * 100.0, line.change),
            ]),
        ),
        None => (
            why,
            "more micro-batches per step, or fewer ranks".to_owned(),
            that_fits(&[
                format!("{head}: more micro-batches"),
                "fill and drain cost most: more micro-batches".to_owned(),
            ]),
        ),
    }
}
