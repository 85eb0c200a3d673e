//! One value for each rank of each replica.

use pp_schedule::{Rank, Replica};

/// One value for each rank, in a fixed order: replica by replica, and in each rank by rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerRank<T> {
    n_ranks: usize,
    values: Vec<T>,
}

impl<T> PerRank<T> {
    /// `values` are in order; a replica has `n_ranks` of them.
    pub(crate) fn new(n_ranks: u32, values: Vec<T>) -> Self {
        Self { n_ranks: n_ranks as usize, values }
    }

    /// The value of one rank, or `None` where there is no such rank.
    pub fn get(&self, replica: Replica, rank: Rank) -> Option<&T> {
        if rank.idx() >= self.n_ranks {
            return None;
        }
        self.values.get(replica.idx() * self.n_ranks + rank.idx())
    }

    /// All values, replica by replica, rank by rank.
    pub fn as_slice(&self) -> &[T] {
        &self.values
    }

    /// Each value with its place.
    pub fn into_places(self) -> impl Iterator<Item = ((Replica, Rank), T)> {
        let n_ranks = self.n_ranks;
        let values = self.values.into_iter().enumerate();
        values.map(move |(index, value)| (place(index, n_ranks), value))
    }
}

/// The replica and the rank that a place in the order stands for.
pub(crate) fn place(index: usize, n_ranks: usize) -> (Replica, Rank) {
    (Replica((index / n_ranks) as u32), Rank((index % n_ranks) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_replica_and_rank() {
        let values = PerRank::new(3, vec!["a", "b", "c", "d", "e", "f"]);
        assert_eq!(values.get(Replica(0), Rank(2)), Some(&"c"));
        assert_eq!(values.get(Replica(1), Rank(0)), Some(&"d"));
        // Not the first rank of the next replica.
        assert_eq!(values.get(Replica(0), Rank(3)), None);
        assert_eq!(values.get(Replica(2), Rank(0)), None);
        let last = values.into_places().last();
        assert_eq!(last, Some(((Replica(1), Rank(2)), "f")));
    }
}
