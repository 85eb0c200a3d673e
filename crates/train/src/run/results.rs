//! The results of a run's weights: samples and files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use pp_hybrid::{StepOutcome, first_nonfinite};
use pp_nn::{OptimizerKind, ParameterStore};
use pp_partition::Stage;
use pp_schedule::clean_lines;
use pp_telemetry::{PhaseEvent, Taken, WholeFile};

use super::Run;
use crate::ending::Stopped;
use crate::error::ResultError;
use crate::observer::Notice;
use crate::options::ResultFile;
use crate::results::{Named, Wanted};
use crate::weights::WEIGHTS_FILE;

/// The beginning of the log's line with a sample.
pub const SAMPLE: &str = "sample: ";

impl Run<'_> {
    /// Generates text with the trained weights.
    pub(super) fn sample(
        &mut self,
        weights: &[(String, Tensor)],
        bytes: usize,
    ) -> Result<(), ResultError> {
        let workload = &self.session.config.workload;
        if !workload.makes_samples() {
            return Ok(());
        }
        let stack = &self.session.job.stack;
        let store =
            ParameterStore::given(Arc::new(weights.iter().cloned().collect::<BTreeMap<_, _>>()));
        let model = Stage::build(stack, 0..stack.len(), &store, DType::F32, &Device::Cpu)
            .map_err(|error| ResultError::Rebuild(Box::new(error)))?;
        let (seed, step) = (self.session.config.seed, self.session.config.steps);
        let mut phase = self.phases.begin(PhaseEvent::SAMPLING, Some(step), bytes);
        let mut goes_on = |done| {
            phase.at(done, bytes);
            self.signal().is_none()
        };
        let text =
            workload.sample(&model, bytes, seed, &mut goes_on).map_err(ResultError::Sample)?;
        phase.end();
        // The text may hold control characters that a terminal would obey.
        let text = clean_lines(&String::from_utf8_lossy(&text)).into_owned();
        self.log(format!("{SAMPLE}{text}"));
        self.observer.notice(&Notice::Sample(&text));
        Ok(())
    }

    /// Writes the tensors of the first step, so that another program can check them.
    pub(super) fn dump(
        &mut self,
        outcome: &StepOutcome,
        before: Vec<(String, Tensor)>,
    ) -> Result<(), Stopped> {
        let Some(file) = self.options.dump_step.clone() else { return Ok(()) };
        let wrong = ResultError::Dump;
        let batch = self.session.batch_size as usize;
        let (inputs, targets) = self.session.job.data.batch(outcome.step, batch).map_err(wrong)?;
        let mut tensors = vec![
            ("targets".to_owned(), targets.to_dtype(DType::I64).map_err(wrong)?),
            ("loss".to_owned(), Tensor::new(outcome.loss, &Device::Cpu).map_err(wrong)?),
        ];
        for (i, input) in inputs.into_iter().enumerate() {
            tensors.push((if i == 0 { "inputs".to_owned() } else { format!("inputs.{i}") }, input));
        }
        let prefixed = |prefix: &'static str, list: Vec<(String, Tensor)>| {
            list.into_iter().map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor))
        };
        tensors.extend(prefixed("before", before));
        tensors.extend(prefixed("grad", self.trainer.gradients().map_err(Stopped::Failed)?));
        tensors.extend(prefixed("after", self.trainer.weights().map_err(Stopped::Failed)?));
        let config = &self.session.config;
        let mut about = BTreeMap::from([
            ("model".to_owned(), config.workload.name().to_owned()),
            ("optimizer".to_owned(), config.optimizer.to_string()),
            ("lr".to_owned(), outcome.lr.to_string()),
            (
                "clip_norm".to_owned(),
                config.clip_norm.map_or_else(|| "none".to_owned(), |n| n.to_string()),
            ),
        ]);
        if let OptimizerKind::AdamW { weight_decay } = config.optimizer {
            about.insert("weight_decay".to_owned(), weight_decay.to_string());
        }
        about.extend(config.workload.facts());
        Ok(self.write(&file, &tensors, &about, self.options.force)?)
    }

    /// Writes the weights, and warns if they are not finite. Such weights replace no file.
    pub(super) fn save(&mut self, file: &ResultFile, weights: &Named) -> Result<(), ResultError> {
        let tensors = weights.iter().map(|(name, tensor)| (name, tensor));
        let nonfinite = first_nonfinite(tensors).map_err(ResultError::Hash)?;
        if let Some(name) = nonfinite {
            let called = &file.called;
            self.warn(
                None,
                format!("{called}: {name} is not finite; these weights replace no other file"),
            );
        }
        // Other programs refuse weights that do not say what they were written for.
        let about = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let force = self.options.force && nonfinite.is_none();
        self.write(file, weights, &about, force)?;
        self.save_companions(file, force);
        Ok(())
    }

    /// Writes what belongs beside the weights, if they are where other programs look for them. A
    /// file that is there and differs stays, unless it may be replaced.
    fn save_companions(&mut self, file: &ResultFile, force: bool) {
        if file.path.file_name() != Some(OsStr::new(WEIGHTS_FILE)) || !file.path.exists() {
            return;
        }
        for (name, bytes) in self.companions.clone() {
            let path = file.path.with_file_name(&name);
            if std::fs::read(&path).is_ok_and(|there| there == bytes) {
                continue;
            }
            let called = &file.called;
            if path.exists() && !force {
                let path = path.display();
                self.warn(None, format!("{called}: {path} is there already and stays as it is"));
                continue;
            }
            let written = WholeFile::shared(&path).and_then(|mut whole| {
                let wrote = std::io::Write::write_all(&mut whole, &bytes);
                wrote.map_err(|error| whole.failed(&error))?;
                whole.finish(Taken::Replaced)
            });
            if let Err(failed) = written {
                self.warn(None, format!("{called}: {failed}"));
            }
        }
    }

    /// Writes a result, and warns if it is not at its path.
    fn write(
        &mut self,
        file: &ResultFile,
        tensors: &Named,
        about: &BTreeMap<String, String>,
        force: bool,
    ) -> Result<(), ResultError> {
        let ResultFile { path, called } = file;
        let wanted = Wanted { called, path, force, run_dir: &self.dir };
        let written = wanted.write(tensors, about)?;
        self.note(&written.path);
        if let Some(why) = written.why_elsewhere {
            self.warn(None, why);
        }
        Ok(())
    }

    /// Notes a file with weights, if it is in the folder of the run.
    fn note(&self, path: &Path) {
        let is_here =
            path.parent().and_then(|dir| dir.canonicalize().ok()) == self.dir.canonicalize().ok();
        if let Some(name) = path.file_name().and_then(OsStr::to_str).filter(|_| is_here) {
            self.recorder.note_file(name);
        }
    }
}
