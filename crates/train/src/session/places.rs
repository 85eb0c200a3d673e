//! Which rank computes where.

use std::sync::Arc;

use pp_executor::{DeviceSpec, InWorld};
use pp_hybrid::Mesh;
use pp_schedule::{Rank, Replica};

use super::{Prepared, Session};
use crate::config::Config;

/// The place of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPlace {
    /// The rank.
    pub rank: u32,
    /// Its replica.
    pub replica: u32,
    /// Its host.
    pub host: String,
    /// Its device, such as `cpu:0`.
    pub device: String,
    /// Its stages. A schedule that follows from costs may change them.
    pub stages: Vec<u32>,
}

/// The devices of the ranks.
pub(super) type Devices = Arc<dyn Fn(Rank, Replica) -> DeviceSpec + Send + Sync>;

/// Where each rank computes. A process takes the devices of its own host in their order.
fn devices(config: &Config, mesh: Mesh, n_ranks: u32) -> Devices {
    let Some(InWorld(world)) = &config.world else {
        return Arc::new(move |rank, replica| mesh.device(rank, replica));
    };
    let hosts = world.hosts().to_vec();
    Arc::new(move |rank, replica| {
        let index = (replica.0 * n_ranks + rank.0) as usize;
        let host = hosts.get(index);
        let before = hosts.iter().take(index).filter(|other| Some(*other) == host).count();
        mesh.device_of_host(before as u32)
    })
}

/// The host of a rank that is a process.
fn host_of(config: &Config, n_ranks: u32, rank: u32, replica: u32) -> Option<String> {
    let InWorld(world) = config.world.as_ref()?;
    world.hosts().get((replica * n_ranks + rank) as usize).cloned()
}

impl Session {
    /// Where each rank computes.
    pub(crate) fn devices(&self) -> Devices {
        devices(&self.config, self.mesh, self.plan.n_ranks())
    }

    /// The host of a rank that is a process.
    pub(crate) fn host_of(&self, rank: u32, replica: u32) -> Option<String> {
        host_of(&self.config, self.plan.n_ranks(), rank, replica)
    }
}

impl Prepared {
    /// The place of each rank, replica by replica, rank by rank.
    pub fn places(&self) -> Vec<RankPlace> {
        let n_ranks = self.plan.n_ranks();
        let devices = devices(&self.config, self.mesh, n_ranks);
        let place = |replica: u32, rank: u32| RankPlace {
            rank,
            replica,
            host: host_of(&self.config, n_ranks, rank, replica)
                .unwrap_or_else(pp_telemetry::host_name),
            device: devices(Rank(rank), Replica(replica)).to_string(),
            stages: {
                let stages = self.plan.topology().stages_of(Rank(rank));
                stages.iter().map(|(_, stage)| stage.0).collect()
            },
        };
        let of_replica = |replica| (0..n_ranks).map(move |rank| (replica, rank));
        let places = (0..self.config.dp).flat_map(of_replica);
        places.map(|(replica, rank)| place(replica, rank)).collect()
    }
}
