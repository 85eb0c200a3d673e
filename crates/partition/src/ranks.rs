//! Which rank runs which stage.

/// Which rank runs which stage, and how often in a step: what a cut is balanced for.
///
/// A number of stages is one stage on each rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// For each copy of the model, the rank of each stage.
    copies: Vec<Vec<usize>>,
    count: usize,
    /// Micro-batches of a step, in all copies.
    micro_batches: usize,
}

impl Ranks {
    /// For each copy of the model, the rank of each stage, and the micro-batches of a step in all
    /// copies, which have the same number each.
    ///
    /// # Panics
    /// If there is no copy, or copies have different numbers of stages.
    pub fn new(copies: Vec<Vec<usize>>, micro_batches: usize) -> Self {
        assert!(!copies.is_empty(), "a model has at least one copy");
        assert!(copies.iter().all(|ranks| ranks.len() == copies[0].len()), "copies are alike");
        let count = copies.iter().flatten().max().map_or(0, |highest| highest + 1);
        Self { copies, count, micro_batches }
    }

    /// The number of stages.
    pub fn n_stages(&self) -> usize {
        self.copies[0].len()
    }

    pub(crate) fn n_ranks(&self) -> usize {
        self.count
    }

    /// Whether each rank has a stage that no other rank has.
    pub(crate) fn is_one_each(&self) -> bool {
        self.copies.len() == 1 && self.count == self.n_stages()
    }

    /// What each rank does in a step, if a stage costs so much for a micro-batch.
    pub(crate) fn loads(&self, stages: &[f64]) -> Vec<f64> {
        let in_a_copy = self.micro_batches as f64 / self.copies.len() as f64;
        let mut loads = vec![0.0; self.count];
        for ranks in &self.copies {
            for (&rank, cost) in ranks.iter().zip(stages) {
                loads[rank] += in_a_copy * cost;
            }
        }
        loads
    }
}

impl From<usize> for Ranks {
    fn from(n_stages: usize) -> Self {
        Self::new(vec![(0..n_stages).collect()], 1)
    }
}
