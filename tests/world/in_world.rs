//! Ranks that are processes have the bits of ranks that are threads.
//!
//! The processes are threads here, with a world of channels between them, whose messages overtake
//! each other. `tests/mpi` does the same over MPI.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::thread;

use pp_executor::threads_as_processes;
use pp_schedule::ScheduleName;

mod training;
use training::{LAYOUTS, plan, train};

#[test]
fn processes_have_the_bits_of_threads_under_every_schedule_and_layout() {
    let mut n = 0;
    for schedule in ScheduleName::ALL.into_iter().filter(|schedule| schedule.trains()) {
        for (pp, dp) in LAYOUTS {
            let Some(plan) = plan(schedule, pp) else { continue };
            let want = train(&plan, dp, false, None);
            // Shares of the optimizer change nothing, on threads and on processes.
            let n_copies = dp * plan.n_pipes();
            let shards = n % 2 == 0;
            // A single copy has all shares.
            if n_copies > 1 || pp == 1 {
                let sharded = train(&plan, dp, true, None);
                assert_eq!(sharded, want, "{schedule} pp={pp} dp={dp}, sharded");
            }
            let worlds = threads_as_processes(pp * dp);
            let processes: Vec<_> = worlds
                .into_iter()
                .map(|world| {
                    let plan = plan.clone();
                    thread::spawn(move || train(&plan, dp, shards, Some(world)))
                })
                .collect();
            let mut state = BTreeMap::new();
            for (index, process) in processes.into_iter().enumerate() {
                let mut got = process.join().unwrap();
                // Each process has the state of its own stages.
                let of_process = std::mem::take(&mut got.state);
                let is_first_replica = index < pp as usize;
                assert_eq!(of_process.is_empty(), !is_first_replica, "{schedule}, {index}");
                for (stage, hash) in of_process {
                    assert_eq!(
                        state.insert(stage, hash),
                        None,
                        "{schedule}: {stage} is there twice"
                    );
                }
                let what = format!("{schedule} pp={pp} dp={dp}, process {index}");
                assert_eq!((&got.losses, &got.norms), (&want.losses, &want.norms), "{what}");
                assert_eq!(got.evaluated, want.evaluated, "{what}");
                if index == 0 {
                    assert_eq!(
                        (got.weights, got.n_spans),
                        (want.weights.clone(), want.n_spans),
                        "{what}"
                    );
                }
            }
            assert_eq!(state, want.state, "{schedule} pp={pp} dp={dp}");
            n += 1;
        }
    }
    assert!(n >= 60, "only {n} combinations were run");
}
