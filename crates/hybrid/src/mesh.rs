//! Which device serves which stage of which replica.

use pp_executor::DeviceSpec;
use pp_schedule::{Rank, Replica};

/// Where ranks compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Each rank is a thread of this process: any number of them.
    Cpu,
    /// CUDA devices; with fewer devices than ranks several ranks share one, each with its stream.
    Cuda {
        /// Devices that can be used.
        devices: u32,
    },
}

/// `dp` copies of a pipeline of `pp` ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mesh {
    pp: u32,
    dp: u32,
    kind: DeviceKind,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Along the pipeline.
    pub rank: Rank,
    /// Along data parallelism.
    pub replica: Replica,
    /// What serves it.
    pub device: DeviceSpec,
}

/// Sizes that make no mesh.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MeshError {
    /// No rank or no replica.
    #[error("a mesh of {dp} replicas of {pp} ranks: each number must be at least 1")]
    Empty {
        /// Ranks.
        pp: u32,
        /// Replicas.
        dp: u32,
    },
    /// More places than can be numbered.
    #[error("a mesh of {dp} replicas of {pp} ranks has more than {} places", u32::MAX)]
    TooLarge {
        /// Ranks.
        pp: u32,
        /// Replicas.
        dp: u32,
    },
    /// No device.
    #[error("no CUDA device for {0} ranks")]
    NoDevice(u32),
}

impl Mesh {
    /// A mesh on devices of one kind.
    ///
    /// # Errors
    /// If it has no place, or there is no device.
    pub fn new(pp: u32, dp: u32, kind: DeviceKind) -> Result<Self, MeshError> {
        if pp == 0 || dp == 0 {
            return Err(MeshError::Empty { pp, dp });
        }
        let Some(places) = pp.checked_mul(dp) else {
            return Err(MeshError::TooLarge { pp, dp });
        };
        if kind == (DeviceKind::Cuda { devices: 0 }) {
            return Err(MeshError::NoDevice(places));
        }
        Ok(Self { pp, dp, kind })
    }

    /// Ranks of a pipeline.
    pub fn pp(&self) -> u32 {
        self.pp
    }

    /// Copies of the pipeline.
    pub fn dp(&self) -> u32 {
        self.dp
    }

    /// Whether every rank computes on the processor.
    pub fn is_on_cpu(&self) -> bool {
        matches!(self.kind, DeviceKind::Cpu)
    }

    /// The device of one place: number `rank·dp + replica`, so that the replicas of one stage are
    /// neighbours (their gradient mean is the larger traffic).
    pub fn device(&self, rank: Rank, replica: Replica) -> DeviceSpec {
        let index = rank.0 * self.dp + replica.0;
        match self.kind {
            DeviceKind::Cpu => DeviceSpec::Cpu { index },
            DeviceKind::Cuda { devices } => DeviceSpec::Cuda { ordinal: index % devices },
        }
    }

    /// All places, rank by rank.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        (0..self.pp).flat_map(move |rank| {
            (0..self.dp).map(move |replica| {
                let (rank, replica) = (Rank(rank), Replica(replica));
                Place { rank, replica, device: self.device(rank, replica) }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_by_two_is_the_notebooks_map() {
        let mesh = Mesh::new(2, 2, DeviceKind::Cpu).unwrap();
        let of = |rank| {
            let places = mesh.places().filter(move |p| p.rank == Rank(rank));
            places.map(|p| p.device.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            (of(0), of(1)),
            (vec!["cpu:0".into(), "cpu:1".into()], vec!["cpu:2".into(), "cpu:3".into()])
        );
        let shared = Mesh::new(4, 1, DeviceKind::Cuda { devices: 3 }).unwrap();
        assert_eq!(shared.device(Rank(3), Replica(0)), DeviceSpec::Cuda { ordinal: 0 });
        assert_eq!((mesh.is_on_cpu(), shared.is_on_cpu()), (true, false));
        assert!(Mesh::new(0, 1, DeviceKind::Cpu).is_err());
        assert!(Mesh::new(1, 1, DeviceKind::Cuda { devices: 0 }).is_err());
    }
}
