//! Ranks in words.

use pp_telemetry::{Model, RankState};

/// The name of a rank on this screen: with replicas, `rank.replica`.
pub(crate) fn rank_name(model: &Model, replica: u32, rank: u32) -> String {
    if model.hello().is_some_and(|hello| hello.dp > 1) {
        format!("{rank}.{replica}")
    } else {
        rank.to_string()
    }
}

/// The stages of a rank: `s0,3`.
pub(crate) fn stages_text(rank: &RankState) -> String {
    let stages: Vec<_> = rank.stages.iter().map(u32::to_string).collect();
    format!("s{}", stages.join(","))
}

/// The layers of a rank, stage by stage; empty if the run does not tell them.
pub(crate) fn layers_text(rank: &RankState) -> String {
    let layers: Vec<_> = rank
        .layers
        .iter()
        .flatten()
        .map(
            |[first, last]| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    layers.join(",")
}

/// A text about lost operations of the last steps; empty if none were lost.
pub(crate) fn incomplete_text(model: &Model) -> String {
    let incomplete = model.incomplete();
    match (incomplete.n_steps, incomplete.n_expected) {
        (0, _) => String::new(),
        (1, 0) => format!("step {} not complete: left out", incomplete.last_step),
        (1, of) => format!(
            "step {} lost {} of {of} ops: left out",
            incomplete.last_step, incomplete.n_missing
        ),
        (n_steps, _) => {
            format!("{n_steps} steps lost ops, the last {}: left out", incomplete.last_step)
        }
    }
}
