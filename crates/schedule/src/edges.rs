//! The edges that messages cross: pairs of ranks, numbered as they come up along the stages.
//!
//! A table of all pairs grows with the square of the ranks: 80,000 of them would take 51 GB.
//! Messages cross at most two edges for each boundary of a copy of the model.

use std::collections::HashMap;

use crate::ids::{Pipe, Rank, Stage};
use crate::topology::Topology;
use crate::work;

/// The number of the edge behind each boundary, in both directions.
#[derive(Debug)]
pub(crate) struct Edges {
    /// By pipe and stage: from this stage to the next one, and back. Inside a rank no message
    /// passes, and the number is never asked for.
    numbers: Vec<[u32; 2]>,
    n_stages: usize,
    len: usize,
}

impl Edges {
    pub(crate) fn new(topology: &Topology) -> Self {
        let mut known: HashMap<(Rank, Rank), u32> = HashMap::new();
        let mut number = |from: Rank, to: Rank| {
            let next = known.len() as u32;
            *known.entry((from, to)).or_insert(next)
        };
        let n_stages = topology.n_stages() as usize;
        let mut numbers = vec![[0; 2]; n_stages * topology.n_pipes() as usize];
        for pipe in topology.pipes() {
            let row = &mut numbers[pipe.idx() * n_stages..][..n_stages];
            for (edge, numbers) in topology.ranks(pipe).windows(2).zip(row) {
                work::done(1);
                if edge[0] != edge[1] {
                    *numbers = [number(edge[0], edge[1]), number(edge[1], edge[0])];
                }
            }
        }
        Self { numbers, n_stages, len: known.len() }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The edge from one stage to a neighbouring one, on another rank.
    #[inline]
    pub(crate) fn between(&self, pipe: Pipe, from: Stage, to: Stage) -> usize {
        let boundary = pipe.idx() * self.n_stages + from.min(to).idx();
        self.numbers[boundary][usize::from(to < from)] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Placement;

    #[test]
    fn an_edge_has_one_number_wherever_it_is_crossed() {
        // 0 1 2 2 1 0: up and down over the same two pairs of ranks, in both directions.
        let edges = Edges::new(&Topology::new(3, 2, Placement::V).unwrap());
        let between = |from, to| edges.between(Pipe(0), Stage(from), Stage(to));
        assert_eq!(edges.len(), 4);
        assert_eq!(between(0, 1), between(5, 4));
        assert_eq!(between(1, 0), between(4, 5));
        assert_ne!(between(0, 1), between(1, 0));
        assert_ne!(between(0, 1), between(1, 2));
        // On a ring the way back to the first rank is an edge of its own.
        assert_eq!(Edges::new(&Topology::new(3, 2, Placement::Loop).unwrap()).len(), 6);
        assert_eq!(Edges::new(&Topology::new(1, 4, Placement::Loop).unwrap()).len(), 0);
    }
}
