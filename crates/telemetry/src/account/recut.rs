//! Another cut of the layers: what each rank would take, had it other layers than it has.
//!
//! What a layer costs stands in the log where the layers were profiled, and then a rank that takes
//! longer than its layers should is slow itself: whatever it gets takes that much longer there.
//! Without a profile each layer of a stage counts with an equal part of the stage.

use pp_schedule::{Pipe, ValidPlan};

use super::Account;
use pp_trace::{Hello, StageInfo};

/// Layers of a model that is cut anew at most: the search is quadratic in them.
const LAYERS_MAX: usize = 512;
/// Moves of a layer from a stage to its neighbour at most.
const MOVES_MAX: usize = 1000;

/// Layers for each stage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recut {
    /// Layers of each stage, in order.
    pub(crate) sizes: Vec<usize>,
    /// How much longer or shorter each stage takes than it would with the layers that it has now.
    pub(crate) factor_of_stage: Vec<f64>,
}

impl Recut {
    /// As `--partition` takes it.
    pub(crate) fn flag(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(ToString::to_string).collect();
        format!("--partition {}", sizes.join(","))
    }
}

/// How many layers each stage has now, in order; `None` where the log does not say so of each, or
/// the model has copies.
fn sizes_of(hello: &Hello, plan: &ValidPlan) -> Option<Vec<usize>> {
    let mut stages: Vec<&StageInfo> = hello.stages.iter().collect();
    stages.sort_by_key(|stage| stage.stage);
    if plan.n_pipes() > 1 || stages.len() != plan.n_stages() as usize {
        return None;
    }
    let mut next = 0;
    let mut sizes = Vec::with_capacity(stages.len());
    for (at, stage) in stages.iter().enumerate() {
        let [first, last] = stage.layers?;
        if stage.stage as usize != at || first != next || last < first {
            return None;
        }
        next = last.checked_add(1)?;
        sizes.push((last - first) as usize + 1);
    }
    Some(sizes)
}

/// What ranks take, and where their stages are.
struct Search<'a> {
    /// The sum of the costs of all layers before each.
    before: Vec<f64>,
    /// How much longer a rank takes for a layer than it costs.
    factor_of_rank: Vec<f64>,
    rank_of_stage: &'a [usize],
}

impl Search<'_> {
    fn cost(&self, from: usize, to: usize) -> f64 {
        self.before[to] - self.before[from]
    }

    /// What the ranks take for a micro-batch: the longest of them, and the sum of the squares,
    /// which tells which of two cuts is on its way to a better one.
    fn load(&self, sizes: &[usize]) -> (f64, f64) {
        let mut loads = vec![0.0; self.factor_of_rank.len()];
        let mut first = 0;
        for (size, &rank) in sizes.iter().zip(self.rank_of_stage) {
            loads[rank] += self.cost(first, first + size) * self.factor_of_rank[rank];
            first += size;
        }
        (loads.iter().copied().fold(0.0, f64::max), loads.iter().map(|load| load * load).sum())
    }

    /// The best cut where each rank has one stage: of the layers up to each, the least that the
    /// slowest of the ranks so far takes.
    fn exact(&self) -> Vec<usize> {
        let n_layers = self.before.len() - 1;
        let n_stages = self.rank_of_stage.len();
        let mut least = vec![vec![f64::INFINITY; n_layers + 1]; n_stages + 1];
        let mut begins = vec![vec![0; n_layers + 1]; n_stages + 1];
        least[0][0] = 0.0;
        for stage in 1..=n_stages {
            let factor = self.factor_of_rank[self.rank_of_stage[stage - 1]];
            for end in stage..=n_layers {
                for begin in stage - 1..end {
                    let load = least[stage - 1][begin].max(self.cost(begin, end) * factor);
                    if load < least[stage][end] {
                        (least[stage][end], begins[stage][end]) = (load, begin);
                    }
                }
            }
        }
        let mut sizes = vec![0; n_stages];
        let mut end = n_layers;
        for stage in (1..=n_stages).rev() {
            let begin = begins[stage][end];
            (sizes[stage - 1], end) = (end - begin, begin);
        }
        sizes
    }

    /// A cut that no layer moved to a neighbouring stage makes better.
    fn climbed(&self, mut sizes: Vec<usize>) -> Vec<usize> {
        for _ in 0..MOVES_MAX {
            let mut best = (self.load(&sizes), None);
            for at in 1..sizes.len() {
                for (from, to) in [(at - 1, at), (at, at - 1)] {
                    if sizes[from] < 2 {
                        continue;
                    }
                    let mut moved = sizes.clone();
                    (moved[from], moved[to]) = (moved[from] - 1, moved[to] + 1);
                    let load = self.load(&moved);
                    if load.0 < best.0.0 * (1.0 - 1e-9)
                        || (load.0 <= best.0.0 && load.1 < best.0.1 * (1.0 - 1e-9))
                    {
                        best = (load, Some(moved));
                    }
                }
            }
            match best.1 {
                Some(moved) => sizes = moved,
                None => break,
            }
        }
        sizes
    }
}

/// The cut that lets the slowest rank take least; `None` where the log does not say what the stages
/// are made of, or where the present cut is as good.
pub(crate) fn recut(account: &Account) -> Option<Recut> {
    let (hello, plan) = (&account.hello, account.plan());
    let sizes = sizes_of(hello, plan)?;
    let n_layers: usize = sizes.iter().sum();
    if n_layers <= sizes.len() || n_layers > LAYERS_MAX {
        return None;
    }
    let ranks = plan.topology().ranks(Pipe(0));
    let rank_of_stage: Vec<usize> = ranks.iter().map(|rank| rank.idx()).collect();
    let measured: Vec<f64> = (0..sizes.len()).map(|stage| account.measured.whole(stage)).collect();
    if measured.iter().any(|seconds| *seconds <= 0.0) {
        return None;
    }
    let is_profiled = hello.layer_seconds.len() == n_layers
        && hello.layer_seconds.iter().all(|seconds| seconds.is_finite() && *seconds > 0.0);
    let costs: Vec<f64> = if is_profiled {
        hello.layer_seconds.clone()
    } else {
        let of_stage = |(seconds, &size): (&f64, &usize)| vec![seconds / size as f64; size];
        measured.iter().zip(&sizes).flat_map(of_stage).collect()
    };
    let mut before = vec![0.0];
    for cost in &costs {
        before.push(before.last().copied().unwrap_or(0.0) + cost);
    }
    let n_ranks = plan.n_ranks() as usize;
    let (mut took, mut should) = (vec![0.0; n_ranks], vec![0.0; n_ranks]);
    let mut first = 0;
    for ((size, rank), seconds) in sizes.iter().zip(&rank_of_stage).zip(&measured) {
        took[*rank] += seconds;
        should[*rank] += before[first + size] - before[first];
        first += size;
    }
    let factor_of_rank: Vec<f64> =
        took.iter().zip(&should).map(|(took, should)| took / should.max(1e-12)).collect();
    let search = Search { before, factor_of_rank, rank_of_stage: &rank_of_stage };
    let better =
        if n_ranks == sizes.len() { search.exact() } else { search.climbed(sizes.clone()) };
    if search.load(&better).0 >= search.load(&sizes).0 * (1.0 - 1e-6) {
        return None;
    }
    let (mut from, mut to) = (0, 0);
    let factor_of_stage = sizes.iter().zip(&better).map(|(size, other)| {
        let (now, then) = (search.cost(from, from + size), search.cost(to, to + other));
        (from, to) = (from + size, to + other);
        then / now
    });
    let factor_of_stage = factor_of_stage.collect();
    Some(Recut { sizes: better, factor_of_stage })
}
