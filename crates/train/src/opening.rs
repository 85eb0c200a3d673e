//! The summary of a run before its first step.

use std::fmt::Write as _;

use pp_telemetry::Hello;

use crate::session::Session;

/// The model and its sizes, the prediction of its plan, and whether ranks share cores or a GPU.
pub(crate) fn opening(session: &Session, hello: &Hello) -> String {
    let mut opening = format!(
        "{}: {:.2} M parameters in {} stages on {} ranks x {} replicas, {}, {} micro-batches of {} samples, layers {}",
        hello.model,
        hello.parameters as f64 / 1e6,
        session.plan().n_stages(),
        hello.pp,
        hello.dp,
        hello.schedule,
        hello.micro_batches,
        session.rows(),
        session.partition()
    );
    if let Some(promise) = session.promise() {
        let _ = write!(
            opening,
            "\nplanned from measured op times: {:.1} ms a step, bubble_ratio {:.4}, {:.1} % above the lower bound",
            1000.0 * promise.makespan,
            promise.bubble_ratio,
            100.0 * promise.gap
        );
    }
    if let Some((n_ranks, gpu)) = hello.ranks_on_one_gpu() {
        let _ = write!(
            opening,
            "\n{n_ranks} ranks share {gpu}: throughput is what counts there, and no theory predicts the bubble"
        );
    } else if let Some((n_ranks, cores)) = hello.ranks_over_cores() {
        let _ = write!(
            opening,
            "\n{n_ranks} ranks share {cores} cores: time spent waiting for a core is shown as starved, and the schedule is not its cause"
        );
    }
    opening
}
