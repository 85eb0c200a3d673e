//! Trains under every schedule, and under every layout that this number of processes allows, on
//! threads and over MPI, and compares. `tests/mpi/run.py` starts it.
#![expect(clippy::print_stdout, reason = "the caller reads it")]
#![expect(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use pp_executor::World;
use pp_schedule::ScheduleName;

#[path = "../../world/training.rs"]
mod training;
use training::{LAYOUTS, plan, train};

fn main() -> anyhow::Result<()> {
    let session = pp_mpi::Session::begin(Duration::from_secs(20))?;
    let compared = compare(&session);
    match compared {
        Ok(n) => {
            if session.world().index() == 0 {
                println!(
                    "{n} layouts have the bits of threads, plain and with shares of the optimizer"
                );
            }
            Ok(session.end()?)
        }
        Err(error) => {
            println!("{error:#}");
            session.world().abort(1)
        }
    }
}

fn compare(session: &pp_mpi::Session) -> anyhow::Result<usize> {
    let world = session.world();
    let mut n = 0;
    for schedule in ScheduleName::ALL.into_iter().filter(|schedule| schedule.trains()) {
        for (pp, dp) in LAYOUTS.into_iter().filter(|(pp, dp)| pp * dp == world.size()) {
            let Some(plan) = plan(schedule, pp) else { continue };
            let mut whole = train(&plan, dp, false, Some(session.world()));
            let mut sharded = train(&plan, dp, true, Some(session.world()));
            for trained in [&mut whole, &mut sharded] {
                trained.state = gathered(&*world, std::mem::take(&mut trained.state))?;
            }
            if world.index() == 0 {
                let want = train(&plan, dp, false, None);
                let what = format!("{schedule} pp={pp} dp={dp}");
                ensure!(whole == want, "{what}: {whole:?} is not {want:?}");
                ensure!(sharded == want, "{what}, sharded: {sharded:?} is not {want:?}");
            }
            n += 1;
        }
    }
    Ok(n)
}

/// On process 0, what all processes have of the state; else nothing.
fn gathered(
    world: &dyn World,
    own: BTreeMap<u32, String>,
) -> anyhow::Result<BTreeMap<u32, String>> {
    if world.index() > 0 {
        world.note(serde_json::to_vec(&own)?)?;
        // No process is a training ahead, whose notes would come among these.
        world.broadcast(None)?;
        return Ok(BTreeMap::new());
    }
    let (mut all, mut n_heard) = (own, 1);
    let begun = Instant::now();
    while n_heard < world.size() {
        ensure!(begun.elapsed() < Duration::from_secs(20), "a process sent no note of its state");
        for (from, bytes) in world.notes() {
            let of_process: BTreeMap<u32, String> = serde_json::from_slice(&bytes)?;
            for (stage, hash) in of_process {
                let before = all.insert(stage, hash);
                ensure!(before.is_none(), "process {from} has stage {stage}, and another one too");
            }
            n_heard += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    world.broadcast(Some(Vec::new()))?;
    Ok(all)
}
