//! What ops and messages cost, from flags or from a file, on whichever placement a schedule wants.

use std::path::{Path, PathBuf};

use pp_schedule::{Costs, RankShare, ScheduleError, Topology};

use super::CliError;
use super::help::headings;
use super::refusal::excerpt;
use super::typed::{cost, read};

/// Some editors begin a text with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const COSTS_HELP: &str = "Costs of every stage as JSON, times and sizes in units of your own";

const COSTS_LONG_HELP: &str =
    "Costs of every stage as JSON, in units of your own; n stages, p ranks:
  {\"forward\": [n],              time of F
   \"input_grad\": [n],           time of I
   \"weight_grad\": [n],          time of W; B = I + W
   \"comm\": x or [[p x p]],      latency, from rank (row) to rank (column) [0]
   \"boundary\": [n],             size of the message to the next stage [0]
   \"bandwidth\": x or [[p x p]], size per time; a message takes boundary/bandwidth [unlimited]
   \"overlapped_comm\": bool,     whether ranks compute during transfers [true]
   \"overlap\": x,                time of an overlapped pair, as a share of F + B [1]
   \"activation\": [n],           memory that F leaves, in boundary's unit [a share of 1]
   \"residue\": [n],              memory kept of that between I and W [all of it]
   \"memory_limit\": x or [p]}    limit per rank, messages included [see --memory-limit]
For example, four stages, the last of which takes twice as long:
  {\"forward\": [1,1,1,2], \"input_grad\": [1,1,1,2], \"weight_grad\": [1,1,1,2], \"comm\": 0.1}";

/// What ops and messages cost: per rank share, or per stage from a file.
#[derive(Debug, clap::Args)]
pub(crate) struct CostArgs {
    /// Time of F over all stages of a rank [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost, help_heading = headings::COSTS)]
    forward: Option<f64>,
    /// Time of I, the gradient of the input [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost, help_heading = headings::COSTS)]
    input_grad: Option<f64>,
    /// Time of W, the gradient of the weights; B = I + W [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost, help_heading = headings::COSTS)]
    weight_grad: Option<f64>,
    /// Latency of a message between two ranks [default: 0]
    #[arg(long, value_name = "TIME", value_parser = cost, help_heading = headings::COSTS)]
    comm: Option<f64>,
    /// Time of an overlapped pair of F and B [default: F + I + W]
    #[arg(long, value_name = "TIME", value_parser = cost, help_heading = headings::COSTS)]
    overlap_cost: Option<f64>,
    /// Share of an activation that stays between I and W [default: 1]
    #[arg(long, value_name = "PART", value_parser = cost, help_heading = headings::COSTS)]
    weight_grad_residue: Option<f64>,
    /// Memory limit of a rank, in activations of one micro-batch on all its stages [default: P for
    /// zb-auto and auto, else none]
    #[arg(long, value_name = "L", value_parser = cost, help_heading = headings::COSTS)]
    memory_limit: Option<f64>,
    /// A file of costs.
    #[arg(long, value_name = "FILE", help_heading = headings::COSTS, help = COSTS_HELP, long_help = COSTS_LONG_HELP, conflicts_with_all = ["forward", "input_grad", "weight_grad", "comm", "overlap_cost", "weight_grad_residue"])]
    costs: Option<PathBuf>,
}

/// Costs, as soon as a placement is known.
#[derive(Debug)]
pub(crate) enum CostSource {
    Share(RankShare),
    File { name: String, text: String, n_stages: Option<u32>, memory_limit: Option<f64> },
}

impl CostArgs {
    /// The file, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.costs.as_deref()
    }

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
        let mut bytes = read(path, COSTS_BYTES_MAX)?;
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let text = String::from_utf8(bytes).map_err(|refused| {
            let offset = refused.utf8_error().valid_up_to();
            CliError::Usage(format!("{name}: byte {offset} is not UTF-8; write JSON with forward, input_grad and weight_grad"))
        })?;
        let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let has_limit = json.as_ref().is_some_and(|json| json.get("memory_limit").is_some());
        if let Some(limit) = self.memory_limit.filter(|_| has_limit) {
            return Err(CliError::Usage(format!(
                "--memory-limit {limit}: {name} has a memory_limit too; leave one of the two out"
            )));
        }
        let n_stages = json.and_then(|json| u32::try_from(json["forward"].as_array()?.len()).ok());
        Ok(CostSource::File { name, text, n_stages, memory_limit: self.memory_limit })
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
        let (name, text, memory_limit) = match self {
            Self::Share(share) => return Ok(Costs::per_rank_share(topology, share)),
            Self::File { name, text, memory_limit, .. } => (name, text, memory_limit),
        };
        let costs = Costs::from_json(text, topology).map_err(|refused| match refused {
            ScheduleError::Costs(why) => {
                let known = if why.contains("; ") {
                    ""
                } else {
                    "; write JSON with forward, input_grad and weight_grad"
                };
                ScheduleError::Costs(format!("{name}: {why}{known}"))
            }
            other => other,
        })?;
        let Some(limit) = memory_limit else { return Ok(costs) };
        let limits = costs.memory_shares(topology).into_iter().map(|share| limit * share);
        Ok(Costs { memory_limit: Some(limits.collect()), ..costs })
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
