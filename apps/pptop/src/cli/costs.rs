//! What ops and messages cost, from flags or from a file, on whichever placement a schedule wants.

use std::path::PathBuf;

use pp_schedule::{Costs, RankShare, ScheduleError, Topology};

use super::CliError;
use super::refusal::excerpt;
use super::sizes::{cost, read};

const COSTS_HELP: &str = "Costs of every stage as JSON: {\"forward\":[n],\"input_grad\":[n],\"weight_grad\":[n]}, and if wanted \
    \"comm\":x or [[p×p]], \"bandwidth\":x or [[p×p]], \"boundary\":[n], \"overlapped_comm\":bool, \"overlap\":x, \"activation\":[n], \
    \"residue\":[n], \"memory_limit\":[p]";

/// What ops and messages cost: per rank share, or per stage from a file.
#[derive(Debug, clap::Args)]
pub(crate) struct CostArgs {
    /// Time of F over everything that a rank holds [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    forward: Option<f64>,
    /// Time of I, the gradient of the input [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    input_grad: Option<f64>,
    /// Time of W, the gradient of the weights; B = I + W [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    weight_grad: Option<f64>,
    /// Latency of a message between two ranks [default: 0]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    comm: Option<f64>,
    /// Time of an overlapped pair of F and B [default: F + I + W]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    overlap_cost: Option<f64>,
    /// The part of an activation that stays between I and W [default: 1]
    #[arg(long, value_name = "PART", value_parser = cost)]
    weight_grad_residue: Option<f64>,
    /// The most that a rank may hold, in activations of its whole share [default: P for zb-auto and auto, else any]
    #[arg(long, value_name = "L", value_parser = cost)]
    memory_limit: Option<f64>,
    /// A file of costs.
    #[arg(long, value_name = "FILE", help = COSTS_HELP, conflicts_with_all = ["forward", "input_grad", "weight_grad", "comm", "overlap_cost", "weight_grad_residue", "memory_limit"])]
    costs: Option<PathBuf>,
}

/// Costs, as soon as a placement is known.
#[derive(Debug)]
pub(crate) enum CostSource {
    Share(RankShare),
    File { name: String, text: String, n_stages: Option<u32> },
}

impl CostArgs {
    /// Reads the file, if there is one.
    pub(crate) fn source(&self) -> Result<CostSource, CliError> {
        const COSTS_BYTES_MAX: usize = 1 << 28;
        let Some(path) = &self.costs else {
            let unit = RankShare::default();
            return Ok(CostSource::Share(RankShare {
                forward: self.forward.unwrap_or(unit.forward),
                input_grad: self.input_grad.unwrap_or(unit.input_grad),
                weight_grad: self.weight_grad.unwrap_or(unit.weight_grad),
                overlapped: self.overlap_cost,
                comm: self.comm.unwrap_or(unit.comm),
                residue: self.weight_grad_residue.unwrap_or(unit.residue),
                memory_limit: self.memory_limit,
            }));
        };
        let name = excerpt(&path.display().to_string());
        let bytes = read(path, COSTS_BYTES_MAX)?;
        let text = String::from_utf8(bytes).map_err(|refused| {
            let offset = refused.utf8_error().valid_up_to();
            CliError::Usage(format!("{name}: byte {offset} is no text; accepted: JSON with forward, input_grad and weight_grad"))
        })?;
        let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let n_stages = json.and_then(|json| u32::try_from(json["forward"].as_array()?.len()).ok());
        Ok(CostSource::File { name, text, n_stages })
    }
}

impl Default for CostSource {
    /// F = I = W = 1, and nothing else.
    fn default() -> Self {
        Self::Share(RankShare::default())
    }
}

impl CostSource {
    /// The costs of each stage of a placement.
    pub(crate) fn of(&self, topology: &Topology) -> Result<Costs, ScheduleError> {
        let (name, text) = match self {
            Self::Share(share) => return Ok(Costs::per_rank_share(topology, share)),
            Self::File { name, text, .. } => (name, text),
        };
        Costs::from_json(text, topology).map_err(|refused| match refused {
            ScheduleError::Costs(why) => {
                let known = if why.contains("accepted") {
                    ""
                } else {
                    "; accepted: JSON with forward, input_grad and weight_grad"
                };
                ScheduleError::Costs(format!("{name}: {why}{known}"))
            }
            other => other,
        })
    }

    /// The stages of a rank, where a file of costs says how many stages there are.
    pub(crate) fn virtual_stages(&self, n_ranks: u32) -> Option<u32> {
        match self {
            Self::File { n_stages: Some(n_stages), .. } if n_stages.is_multiple_of(n_ranks) => {
                Some((n_stages / n_ranks).max(1))
            }
            _ => None,
        }
    }
}
