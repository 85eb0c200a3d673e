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

    /// The device of a process that has `before` others before it on its host: the processes of a
    /// host take its CUDA devices in turn.
    pub fn device_of_host(&self, before: u32) -> DeviceSpec {
        match self.kind {
            DeviceKind::Cpu => DeviceSpec::Cpu { index: before },
            DeviceKind::Cuda { devices } => DeviceSpec::Cuda { ordinal: before % devices },
        }
    }

    /// The device of one place. Places are numbered `rank·dp + replica`, so that the replicas of one
    /// stage are neighbours (their gradient mean is the larger traffic). Where several places share
    /// a CUDA device, each device gets a block of neighbours, and the sizes of the blocks differ by
    /// one at most: most messages stay on a device.
    pub fn device(&self, rank: Rank, replica: Replica) -> DeviceSpec {
        let index = rank.0 * self.dp + replica.0;
        match self.kind {
            DeviceKind::Cpu => DeviceSpec::Cpu { index },
            DeviceKind::Cuda { devices } => {
                let n_places = self.pp * self.dp;
                let used = u64::from(devices.min(n_places));
                let ordinal = u64::from(index) * used / u64::from(n_places);
                DeviceSpec::Cuda { ordinal: ordinal as u32 }
            }
        }
    }

    /// Whether several places share a device with a queue.
    pub fn shares_devices(&self) -> bool {
        matches!(self.kind, DeviceKind::Cuda { devices } if devices < self.pp * self.dp)
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
        let ordinals = |mesh: Mesh| {
            let ordinal = |place: Place| match place.device {
                DeviceSpec::Cuda { ordinal } => ordinal,
                other @ DeviceSpec::Cpu { .. } => panic!("{other}"),
            };
            mesh.places().map(ordinal).collect::<Vec<_>>()
        };
        assert_eq!(ordinals(shared), [0, 0, 1, 2]);
        let cuda = |pp, dp, devices| Mesh::new(pp, dp, DeviceKind::Cuda { devices }).unwrap();
        assert_eq!(ordinals(cuda(4, 2, 2)), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(ordinals(cuda(2, 1, 8)), [0, 1], "two ranks use the first two GPUs");
        assert_eq!(ordinals(cuda(5, 1, 2)), [0, 0, 0, 1, 1]);
        assert!(shared.shares_devices() && !cuda(2, 1, 2).shares_devices());
        assert_eq!((mesh.is_on_cpu(), shared.is_on_cpu()), (true, false));
        assert!(Mesh::new(0, 1, DeviceKind::Cpu).is_err());
        assert!(Mesh::new(1, 1, DeviceKind::Cuda { devices: 0 }).is_err());
    }
}
