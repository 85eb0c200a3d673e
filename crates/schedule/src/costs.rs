//! What ops and messages cost: times of any unit, and memory in activations.

use serde::{Deserialize, Serialize};

use crate::error::ScheduleError;
use crate::ids::{Rank, Stage};
use crate::op::{Op, Phase};
use crate::topology::Topology;

/// Times of one micro-batch over everything that a rank holds: a rank with v stages spends 1/v of them on each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankShare {
    /// F.
    pub forward: f64,
    /// I.
    pub input_grad: f64,
    /// W.
    pub weight_grad: f64,
    /// How much of an activation stays from the end of I to the end of W: 1 for all of it.
    pub residue: f64,
}

impl Default for RankShare {
    /// F = I = W = 1, and an activation stays whole until W.
    fn default() -> Self {
        Self { forward: 1.0, input_grad: 1.0, weight_grad: 1.0, residue: 1.0 }
    }
}

/// How long a message is under way between two ranks. Links are never busy: it is a pure latency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "comm is neither one latency nor p rows of p latencies")]
pub enum Comm {
    /// The same for every pair of ranks.
    Latency(f64),
    /// From each rank (row) to each rank (column).
    Matrix(Vec<Vec<f64>>),
}

impl Comm {
    /// The latency of a message; none inside a rank.
    #[inline]
    pub fn latency(&self, from: Rank, to: Rank) -> f64 {
        match self {
            _ if from == to => 0.0,
            Self::Latency(latency) => *latency,
            Self::Matrix(rows) => rows[from.idx()][to.idx()],
        }
    }
}

/// The costs of every stage. B takes I + W.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// F of each stage.
    pub forward: Vec<f64>,
    /// I of each stage.
    pub input_grad: Vec<f64>,
    /// W of each stage.
    pub weight_grad: Vec<f64>,
    /// Messages between ranks.
    pub comm: Comm,
    /// The memory that one micro-batch takes on each stage, from the start of F on.
    pub activation: Vec<f64>,
    /// What of it stays between the end of I and the end of W.
    pub residue: Vec<f64>,
}

/// A file of costs: what may be left out has a default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CostsFile {
    forward: Vec<f64>,
    input_grad: Vec<f64>,
    weight_grad: Vec<f64>,
    comm: Option<Comm>,
    activation: Option<Vec<f64>>,
    residue: Option<Vec<f64>>,
}

impl Costs {
    /// The same costs on every stage; an activation takes 1 and stays whole until W.
    pub fn uniform(
        n_stages: u32,
        forward: f64,
        input_grad: f64,
        weight_grad: f64,
        comm: Comm,
    ) -> Self {
        let all = |cost: f64| vec![cost; n_stages as usize];
        let (activation, residue) = (all(1.0), all(1.0));
        Self {
            forward: all(forward),
            input_grad: all(input_grad),
            weight_grad: all(weight_grad),
            comm,
            activation,
            residue,
        }
    }

    /// The share of a rank, divided evenly among the stages that the rank holds: times and memory alike.
    pub fn per_rank_share(topology: &Topology, share: &RankShare, comm: Comm) -> Self {
        let mut n_held = vec![0_u32; topology.n_ranks() as usize];
        for rank in topology.ranks() {
            n_held[rank.idx()] += 1;
        }
        let split = |cost: f64| -> Vec<f64> {
            topology.ranks().iter().map(|rank| cost / f64::from(n_held[rank.idx()])).collect()
        };
        Self {
            forward: split(share.forward),
            input_grad: split(share.input_grad),
            weight_grad: split(share.weight_grad),
            comm,
            activation: split(1.0),
            residue: split(share.residue),
        }
    }

    /// Costs from JSON: `forward`, `input_grad` and `weight_grad` with an entry a stage; `comm` (a latency, or p rows of p), 0
    /// where it is left out; `activation`, a rank's share of 1 each where it is left out; `residue`, then all of the activation.
    ///
    /// # Errors
    /// [`ScheduleError::Costs`] for a text that is not this, or lists that do not fit the topology.
    pub fn from_json(text: &str, topology: &Topology) -> Result<Self, ScheduleError> {
        let file: CostsFile = serde_json::from_str(text)
            .map_err(|refused| ScheduleError::Costs(refused.to_string()))?;
        let share = Self::per_rank_share(topology, &RankShare::default(), Comm::Latency(0.0));
        let activation = file.activation.unwrap_or(share.activation);
        let costs = Self {
            forward: file.forward,
            input_grad: file.input_grad,
            weight_grad: file.weight_grad,
            comm: file.comm.unwrap_or(share.comm),
            residue: file.residue.unwrap_or_else(|| activation.clone()),
            activation,
        };
        costs.check(topology)?;
        Ok(costs)
    }

    /// Whether there is one finite cost of at least 0 for every stage and every pair of ranks.
    ///
    /// # Errors
    /// [`ScheduleError::Costs`] with the list, the place and what was expected.
    pub fn check(&self, topology: &Topology) -> Result<(), ScheduleError> {
        let n_stages = topology.n_stages() as usize;
        let lists = [
            ("forward", &self.forward),
            ("input_grad", &self.input_grad),
            ("weight_grad", &self.weight_grad),
            ("activation", &self.activation),
            ("residue", &self.residue),
        ];
        for (name, list) in lists {
            check_list(name, list, n_stages, "stages")?;
        }
        match &self.comm {
            Comm::Latency(latency) => check_list("comm", &[*latency], 1, "latency"),
            Comm::Matrix(rows) => {
                let n_ranks = topology.n_ranks() as usize;
                if rows.len() != n_ranks {
                    return Err(ScheduleError::Costs(format!(
                        "comm has {} rows for {n_ranks} ranks; accepted: {n_ranks}",
                        rows.len()
                    )));
                }
                rows.iter().enumerate().try_for_each(|(from, row)| {
                    check_list(&format!("comm[{from}]"), row, n_ranks, "ranks")
                })
            }
        }
    }

    /// How long an op takes.
    #[inline]
    pub fn duration(&self, op: Op) -> f64 {
        let stage = op.stage.idx();
        match op.phase {
            Phase::Forward => self.forward[stage],
            Phase::Backward => self.input_grad[stage] + self.weight_grad[stage],
            Phase::InputGrad => self.input_grad[stage],
            Phase::WeightGrad => self.weight_grad[stage],
        }
    }

    /// The latency between the ranks of two stages.
    #[inline]
    pub(crate) fn latency(&self, topology: &Topology, from: Stage, to: Stage) -> f64 {
        self.comm.latency(topology.rank_of(from), topology.rank_of(to))
    }
}

fn check_list(name: &str, list: &[f64], n_wanted: usize, of: &str) -> Result<(), ScheduleError> {
    if list.len() != n_wanted {
        let (n_given, n) = (list.len(), n_wanted);
        return Err(ScheduleError::Costs(format!(
            "{name} has {n_given} entries for {n} {of}; accepted: {n} entries"
        )));
    }
    match list.iter().position(|cost| !cost.is_finite() || *cost < 0.0) {
        Some(at) => Err(ScheduleError::Costs(format!(
            "{name}[{at}] is {}; accepted: a finite number of at least 0",
            list[at]
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Placement;

    fn refusal(text: &str) -> String {
        let topology = Topology::new(2, 1, Placement::Loop).unwrap();
        Costs::from_json(text, &topology).unwrap_err().to_string()
    }

    #[test]
    fn costs_that_do_not_fit_are_refused_by_name() {
        let with = |rest: &str| {
            refusal(&format!(r#"{{"forward":[1,1],"input_grad":[1,1],"weight_grad":[1,1]{rest}}}"#))
        };
        assert!(refusal("{").starts_with("costs: EOF"), "{}", refusal("{"));
        assert!(
            refusal(r#"{"forward":[1],"input_grad":[1,1],"weight_grad":[1,1]}"#)
                .contains("forward has 1 entries for 2 stages")
        );
        assert!(with(r#","comm":"fast""#).contains("neither one latency nor p rows"));
        assert!(with(r#","comm":[[0,1]]"#).contains("comm has 1 rows for 2 ranks"));
        assert!(with(r#","comm":[[0,1],[-1,0]]"#).contains("comm[1][0] is -1"));
        assert!(with(r#","memory_limit":[1,1]"#).contains("unknown field `memory_limit`"));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let topology = Topology::new(1, 2, Placement::Loop).unwrap();
        let costs = Costs::from_json(
            r#"{"forward":[1,2],"input_grad":[3,4],"weight_grad":[5,6]}"#,
            &topology,
        )
        .unwrap();
        assert_eq!(
            (costs.comm, costs.activation, costs.residue),
            (Comm::Latency(0.0), vec![0.5, 0.5], vec![0.5, 0.5])
        );
    }
}
