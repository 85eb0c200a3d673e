//! Reads the curves of the runs before a resumed one.

use std::collections::HashSet;
use std::path::{Component, Path};

use pp_trace::{Continues, log_of};

use crate::follower::Follower;
use crate::model::{Before, Model};

/// The most runs that are followed back.
const RUNS_MAX: usize = 256;

impl Before {
    /// Reads the logs of the runs that led to a checkpoint, each from its last mark on, as far back
    /// as their folders lie in `runs_dir`. `None` if not even the last of them does.
    pub fn read(runs_dir: &Path, continues: &Continues) -> Option<Self> {
        let mut runs = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(continues.clone());
        while let Some(Continues { run, step, .. }) = next.take() {
            if runs.len() >= RUNS_MAX || !seen.insert(run.clone()) {
                break;
            }
            let Some(model) = model_of(runs_dir, &run) else { break };
            next = model.wants_before().filter(|before| before.step < step).cloned();
            runs.push(model);
        }
        let mut before: Option<Self> = None;
        for model in runs.into_iter().rev() {
            let (mut loss, mut metrics) = (model.loss().clone(), model.metrics().clone());
            let mut seams = Vec::new();
            if let Some((continues, earlier)) = model.wants_before().zip(before) {
                loss.follow(&earlier.loss, continues.step);
                metrics.follow(&earlier.metrics, continues.step);
                seams = earlier.seams;
            }
            seams.extend(model.wants_before().cloned());
            before = Some(Self { loss, metrics, seams });
        }
        before
    }
}

/// What the log of a run amounts to, if its folder lies in `runs_dir`.
fn model_of(runs_dir: &Path, id: &str) -> Option<Model> {
    // An id in a log may be any text, also a path to somewhere else.
    let mut parts = Path::new(id).components();
    let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) else { return None };
    let mut model = Model::brief();
    let mut follower = Follower::from_last_mark(&log_of(&runs_dir.join(name)));
    while !follower.poll(|event| model.apply(&event)).ok()?.at_end {}
    model.hello().is_some_and(|hello| hello.run == id).then_some(model)
}
