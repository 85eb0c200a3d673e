//! What ops and messages cost: times of any unit, and memory of any unit.

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::error::ScheduleError;
use crate::ids::{Pipe, Rank, Stage};
use crate::op::{Op, Phase};
use crate::text::clipped;
use crate::topology::Topology;
use crate::work;

/// Times of one micro-batch over everything that a rank holds of one copy of the model: a rank with
/// v stages spends 1/v of them on each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankShare {
    /// F.
    pub forward: f64,
    /// I.
    pub input_grad: f64,
    /// W.
    pub weight_grad: f64,
    /// An overlapped pair of F and B; `None` for F + B.
    pub overlapped: Option<f64>,
    /// The latency of a message between two ranks.
    pub comm: f64,
    /// How much of an activation stays from the end of I to the end of W: 1 for all of it.
    pub residue: f64,
    /// How much a rank may hold at once, in activations of its whole share; `None` for any amount.
    pub memory_limit: Option<f64>,
}

impl Default for RankShare {
    /// F = I = W = 1, messages take no time, an activation stays whole until W, and memory has no
    /// limit.
    fn default() -> Self {
        Self {
            forward: 1.0,
            input_grad: 1.0,
            weight_grad: 1.0,
            overlapped: None,
            comm: 0.0,
            residue: 1.0,
            memory_limit: None,
        }
    }
}

/// One number for each pair of ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "neither one number nor p rows of p numbers")]
pub enum PerEdge {
    /// The same for every pair of ranks.
    Same(f64),
    /// From each rank (row) to each rank (column).
    Matrix(Vec<Vec<f64>>),
}

impl PerEdge {
    /// The number of one edge.
    #[inline]
    fn get(&self, from: Rank, to: Rank) -> f64 {
        match self {
            Self::Same(number) => *number,
            Self::Matrix(rows) => rows[from.idx()][to.idx()],
        }
    }
}

/// The costs of every stage. B takes I + W, an overlapped pair F + B times [`Costs::overlap`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// F of each stage.
    pub forward: Vec<f64>,
    /// I of each stage.
    pub input_grad: Vec<f64>,
    /// W of each stage.
    pub weight_grad: Vec<f64>,
    /// How long an overlapped pair takes, as a part of the F and the B in it: 1 gains nothing.
    pub overlap: f64,
    /// The latency of messages between ranks; none inside a rank.
    pub comm: PerEdge,
    /// How much crosses an edge in a unit of time, in the unit of [`Costs::boundary`]; messages of
    /// one edge queue. `None`: at once.
    pub bandwidth: Option<PerEdge>,
    /// What each stage hands to the next one, and gets back as a gradient: it takes time where
    /// there is a bandwidth, and memory from its arrival until it is used.
    pub boundary: Vec<f64>,
    /// Whether a rank computes while its messages are under way; else it waits until each has
    /// arrived.
    pub overlapped_comm: bool,
    /// The memory that one micro-batch takes on each stage, from the start of F on.
    pub activation: Vec<f64>,
    /// What of it stays between the end of I and the end of W.
    pub residue: Vec<f64>,
    /// The most that each rank may hold; `None` for any amount.
    pub memory_limit: Option<Vec<f64>>,
}

/// A file of costs: what may be left out has a default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object of costs")]
struct CostsFile {
    forward: Vec<f64>,
    input_grad: Vec<f64>,
    weight_grad: Vec<f64>,
    overlap: Option<f64>,
    comm: Option<PerEdge>,
    bandwidth: Option<PerEdge>,
    boundary: Option<Vec<f64>>,
    overlapped_comm: Option<bool>,
    activation: Option<Vec<f64>>,
    residue: Option<Vec<f64>>,
    memory_limit: Option<PerRank>,
}

/// One number for all ranks, or one for each.
#[derive(Deserialize)]
#[serde(untagged, expecting = "neither one number nor one for each rank")]
enum PerRank {
    Same(f64),
    Each(Vec<f64>),
}

impl Costs {
    /// `stage` runs its forward once more at the beginning of its backward: of a micro-batch it
    /// holds no more than `kept`, its input, until then, and its I takes as much longer as its F
    /// takes (Chen et al. 2016, arXiv:1604.06174).
    ///
    /// # Panics
    /// If there is no such stage.
    pub fn recompute(&mut self, stage: Stage, kept: f64) {
        self.input_grad[stage.idx()] += self.forward[stage.idx()];
        self.activation[stage.idx()] = kept;
    }

    /// The same costs on every stage; an activation takes 1 and stays whole until W.
    pub fn uniform(
        n_stages: u32,
        forward: f64,
        input_grad: f64,
        weight_grad: f64,
        comm: f64,
    ) -> Self {
        let all = |cost: f64| vec![cost; n_stages as usize];
        Self {
            forward: all(forward),
            input_grad: all(input_grad),
            weight_grad: all(weight_grad),
            overlap: 1.0,
            comm: PerEdge::Same(comm),
            bandwidth: None,
            boundary: all(0.0),
            overlapped_comm: true,
            activation: all(1.0),
            residue: all(1.0),
            memory_limit: None,
        }
    }

    /// The share of a rank, divided evenly among the stages that the rank holds of one copy of the
    /// model: times and memory alike.
    pub fn per_rank_share(topology: &Topology, share: &RankShare) -> Self {
        let ranks = topology.ranks(Pipe(0));
        let mut n_held = vec![0_u32; topology.n_ranks() as usize];
        for rank in ranks {
            n_held[rank.idx()] += 1;
        }
        let split = |cost: f64| -> Vec<f64> {
            ranks.iter().map(|rank| cost / f64::from(n_held[rank.idx()])).collect()
        };
        let whole = share.forward + share.input_grad + share.weight_grad;
        let overlapped = share.overlapped.unwrap_or(whole);
        Self {
            forward: split(share.forward),
            input_grad: split(share.input_grad),
            weight_grad: split(share.weight_grad),
            overlap: if whole > 0.0 { overlapped / whole } else { 1.0 },
            activation: split(1.0),
            residue: split(share.residue),
            memory_limit: share.memory_limit.map(|limit| vec![limit; topology.n_ranks() as usize]),
            ..Self::uniform(topology.n_stages(), 0.0, 0.0, 0.0, share.comm)
        }
    }

    /// The memory that one micro-batch takes on all stages of each rank: its activations, or what
    /// is left of them for W where that is more.
    pub fn memory_shares(&self, topology: &Topology) -> Vec<f64> {
        let mut shares = vec![0.0_f64; topology.n_ranks() as usize];
        let stages = self.activation.iter().zip(&self.residue);
        for (rank, (activation, residue)) in topology.ranks(Pipe(0)).iter().zip(stages) {
            shares[rank.idx()] += activation.max(*residue);
        }
        shares
    }

    /// What `zb-auto` and `auto` let a rank hold where no limit is given: p micro-batches on all
    /// its stages, and as many messages on each of its edges.
    pub fn default_memory_limit(&self, topology: &Topology) -> Vec<f64> {
        let mut room = self.memory_shares(topology);
        for (edge, &message) in topology.ranks(Pipe(0)).windows(2).zip(&self.boundary) {
            if edge[0] != edge[1] {
                room[edge[0].idx()] += message;
                room[edge[1].idx()] += message;
            }
        }
        let p = f64::from(topology.n_ranks());
        room.iter().map(|share| p * share).collect()
    }

    /// Costs from JSON: `forward`, `input_grad` and `weight_grad` with an entry a stage. The rest
    /// may be left out: `comm` (a latency, or p rows of p), 0; `bandwidth` (likewise), unlimited;
    /// `boundary` (an entry a stage), 0; `overlapped_comm`, true; `overlap` (a factor for
    /// overlapped pairs), 1; `activation`, a rank's share of 1 each; `residue`, all of the
    /// activation; `memory_limit` (one number for every rank, or an entry a rank), none.
    ///
    /// # Errors
    /// [`ScheduleError::Costs`] for a text that is not this, or lists that do not fit the topology.
    pub fn from_json(text: &str, topology: &Topology) -> Result<Self, ScheduleError> {
        let file: CostsFile = serde_json::from_str(text)
            .map_err(|refused| ScheduleError::Costs(clipped(&refused.to_string())))?;
        let share = Self::per_rank_share(topology, &RankShare::default());
        let activation = file.activation.unwrap_or(share.activation);
        let costs = Self {
            forward: file.forward,
            input_grad: file.input_grad,
            weight_grad: file.weight_grad,
            overlap: file.overlap.unwrap_or(share.overlap),
            comm: file.comm.unwrap_or(share.comm),
            bandwidth: file.bandwidth,
            boundary: file.boundary.unwrap_or(share.boundary),
            overlapped_comm: file.overlapped_comm.unwrap_or(share.overlapped_comm),
            residue: file.residue.unwrap_or_else(|| activation.clone()),
            activation,
            memory_limit: file.memory_limit.map(|limit| match limit {
                PerRank::Same(limit) => vec![limit; topology.n_ranks() as usize],
                PerRank::Each(limits) => limits,
            }),
        };
        costs.check(topology)?;
        Ok(costs)
    }

    /// Whether there is one finite cost of at least 0 for every stage, every rank and every pair of
    /// ranks.
    ///
    /// # Errors
    /// [`ScheduleError::Costs`] with the list, the place and what was expected.
    pub fn check(&self, topology: &Topology) -> Result<(), ScheduleError> {
        let (n_stages, n_ranks) = (topology.n_stages() as usize, topology.n_ranks() as usize);
        let lists = [
            ("forward", &self.forward),
            ("input_grad", &self.input_grad),
            ("weight_grad", &self.weight_grad),
            ("boundary", &self.boundary),
            ("activation", &self.activation),
            ("residue", &self.residue),
        ];
        for (name, list) in lists {
            check_list(name, list, n_stages, "stages")?;
        }
        check_list("overlap", &[self.overlap], 1, "factor")?;
        check_edges("comm", &self.comm, n_ranks)?;
        if let Some(limits) = &self.memory_limit {
            check_list("memory_limit", limits, n_ranks, "ranks")?;
        }
        let Some(bandwidth) = &self.bandwidth else { return Ok(()) };
        check_edges("bandwidth", bandwidth, n_ranks)?;
        let is_absent = |from: usize, to: usize| {
            work::done(1);
            from != to && bandwidth.get(Rank(from as u32), Rank(to as u32)) <= 0.0
        };
        // Of one number for all the first pair says it.
        let n_looked_at = match bandwidth {
            PerEdge::Same(_) => n_ranks.min(2),
            PerEdge::Matrix(_) => n_ranks,
        };
        let mut pairs =
            (0..n_looked_at).flat_map(|from| (0..n_looked_at).map(move |to| (from, to)));
        match pairs.find(|&(from, to)| is_absent(from, to)) {
            Some((from, to)) => Err(ScheduleError::Costs(format!(
                "bandwidth from rank {from} to rank {to} is 0; use a number above 0"
            ))),
            None => Ok(()),
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

    /// How long a cell takes.
    #[inline]
    pub fn duration_of(&self, action: Action) -> f64 {
        match action {
            Action::One(op) => self.duration(op),
            Action::Overlapped(pair) => {
                self.overlap * (self.duration(pair.forward()) + self.duration(pair.backward()))
            }
        }
    }

    /// The latency between two ranks; none inside a rank.
    #[inline]
    pub(crate) fn latency(&self, from: Rank, to: Rank) -> f64 {
        if from == to { 0.0 } else { self.comm.get(from, to) }
    }

    /// How long a message occupies its edge. A stage's boundary is the one to the next stage.
    #[inline]
    pub(crate) fn transfer(&self, from: (Rank, Stage), to: (Rank, Stage)) -> f64 {
        match &self.bandwidth {
            Some(bandwidth) if from.0 != to.0 => {
                self.boundary[from.1.min(to.1).idx()] / bandwidth.get(from.0, to.0)
            }
            _ => 0.0,
        }
    }
}

fn check_edges(name: &str, edges: &PerEdge, n_ranks: usize) -> Result<(), ScheduleError> {
    let rows = match edges {
        PerEdge::Same(number) => return check_list(name, &[*number], 1, "edges"),
        PerEdge::Matrix(rows) => rows,
    };
    if rows.len() != n_ranks {
        return Err(ScheduleError::Costs(format!(
            "{name} has {} rows for {n_ranks} ranks; write one for each rank",
            rows.len()
        )));
    }
    rows.iter()
        .enumerate()
        .try_for_each(|(from, row)| check_list(&format!("{name}[{from}]"), row, n_ranks, "ranks"))
}

fn check_list(name: &str, list: &[f64], n_wanted: usize, of: &str) -> Result<(), ScheduleError> {
    if list.len() != n_wanted {
        let (n_given, n) = (list.len(), n_wanted);
        return Err(ScheduleError::Costs(format!(
            "{name} has {n_given} entries for {n} {of}; write {n} entries"
        )));
    }
    match list.iter().position(|cost| !cost.is_finite() || *cost < 0.0) {
        Some(at) => Err(ScheduleError::Costs(format!(
            "{name}[{at}] is {}; use a finite number of at least 0",
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
        assert!(with(r#","comm":"fast""#).contains("neither one number nor p rows"));
        assert!(with(r#","comm":[[0,1]]"#).contains("comm has 1 rows for 2 ranks"));
        assert!(with(r#","comm":[[0,1],[-1,0]]"#).contains("comm[1][0] is -1"));
        assert!(with(r#","memory_limit":[1]"#).contains("memory_limit has 1 entries for 2 ranks"));
        assert!(with(r#","memory_limit":"low""#).contains("neither one number nor one for each"));
        assert!(refusal("[]").contains("expected an object of costs"), "{}", refusal("[]"));
        assert!(with(r#","memory":[1,1]"#).contains("unknown field `memory`"));
        assert!(with(r#","bandwidth":[[0,1],[0,0]]"#).contains("from rank 1 to rank 0 is 0"));
        assert!(with(r#","overlap":-1"#).contains("overlap[0] is -1"));
        let odd = format!(r#","{}\n\n\u001b[31m":1"#, "x".repeat(5000));
        let text = with(&odd);
        assert!(text.chars().count() < 200 && !text.contains(char::is_control), "{text}");
        assert!(text.contains("unknown field `xxx") && text.contains("line 1"), "{text}");
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
            (PerEdge::Same(0.0), vec![0.5, 0.5], vec![0.5, 0.5])
        );
        assert_eq!(costs.memory_limit, None);
    }

    #[test]
    fn one_memory_limit_is_that_of_every_rank() {
        let topology = Topology::new(2, 1, Placement::Loop).unwrap();
        let text = r#"{"forward":[1,1],"input_grad":[1,1],"weight_grad":[1,1],"memory_limit":3}"#;
        let costs = Costs::from_json(text, &topology).unwrap();
        assert_eq!(costs.memory_limit, Some(vec![3.0, 3.0]));
    }

    #[test]
    fn the_default_limit_has_room_for_messages() {
        let topology = Topology::new(2, 1, Placement::Loop).unwrap();
        let mut costs = Costs::uniform(2, 1.0, 1.0, 1.0, 0.0);
        assert_eq!(costs.default_memory_limit(&topology), [2.0, 2.0]);
        costs.boundary = vec![0.5, 9.0];
        assert_eq!(costs.default_memory_limit(&topology), [3.0, 3.0]);
    }
    #[test]
    fn a_stage_that_runs_again_takes_longer_and_holds_less() {
        let sizes = crate::Sizes {
            n_ranks: 2,
            n_micro_batches: 4,
            n_virtual_stages: 1,
            interleave_group: None,
        };
        let plan = crate::ScheduleName::Gpipe.generate(&sizes).unwrap();
        let simulated = |recompute: bool| {
            let mut costs = Costs::uniform(2, 1.0, 1.0, 1.0, 0.0);
            costs.residue = vec![0.0; 2];
            if recompute {
                costs.recompute(Stage(1), 0.25);
            }
            crate::simulate(&plan, &costs).unwrap()
        };
        let (kept, again) = (simulated(false), simulated(true));
        // Four backwards of the second stage, each an F longer.
        assert_eq!((kept.makespan, again.makespan), (15.0, 19.0));
        assert_eq!((kept.peak_memory, again.peak_memory), (vec![4.0, 4.0], vec![4.0, 1.0]));
    }
}
