//! Trains under every schedule, and under every layout that this number of processes allows, on
//! threads and over MPI, and compares. `tests/mpi/run.py` starts it.
#![expect(clippy::print_stdout, reason = "the caller reads it")]
#![expect(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::time::Duration;

use anyhow::ensure;
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
            let whole = train(&plan, dp, false, Some(session.world()));
            let sharded = train(&plan, dp, true, Some(session.world()));
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
