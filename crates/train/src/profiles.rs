//! State that several jobs with one model share: measured layers, kernels, initial weights.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;

use candle_core::Shape;
use pp_executor::DeviceSpec;
use pp_nn::{Ties, Values};
use pp_partition::{Profile, ProfileConfig, profile_with};

use crate::error::TrainError;
use crate::job::Job;
use crate::kernels::{self, Chosen, KernelChoice};
use crate::weights::{self, WeightsError};

/// The most samples in a micro-batch of a profile. It limits the time of measuring, which takes
/// several passes.
const PROFILE_ROWS_MAX: usize = 1024;

/// Scales a profile to `times` as many samples.
fn scale(profile: &mut Profile, times: f64) {
    if times <= 1.0 {
        return;
    }
    #[expect(clippy::cast_sign_loss, reason = "a count times a positive factor")]
    let scaled = |bytes: u64| (bytes as f64 * times) as u64;
    for layer in &mut profile.layers {
        layer.forward_seconds *= times;
        layer.input_grad_seconds *= times;
        layer.weight_grad_seconds *= times;
        layer.activation_bytes = scaled(layer.activation_bytes);
        layer.residue_bytes = scaled(layer.residue_bytes);
        layer.boundary_bytes = scaled(layer.boundary_bytes);
    }
}

/// State that several jobs with one model share. The first job makes it, and the others take it
/// unchanged. Profiles are kept by the samples of a micro-batch.
#[derive(Debug, Default)]
pub struct Profiles {
    by_rows: BTreeMap<usize, Profile>,
    kernels: Option<Chosen>,
    initial: Option<Initial>,
}

/// Initial weights by name.
pub(crate) type Initial = Arc<dyn Values>;

impl Profiles {
    /// The weights in the first job's file, for all jobs: they begin from the same file.
    pub(crate) fn initial(
        &mut self,
        path: &Path,
        known: &BTreeMap<String, Shape>,
        ties: &Ties,
        takes_nonfinite: bool,
    ) -> Result<Initial, WeightsError> {
        let initial: &Initial = match &self.initial {
            Some(initial) => initial,
            None => self.initial.insert(weights::load(path, known, ties, takes_nonfinite)?),
        };
        Ok(Arc::clone(initial))
    }

    /// The first job's choice, for all jobs.
    pub(crate) fn kernels(&mut self, wanted: KernelChoice) -> Chosen {
        self.kernels.get_or_insert_with(|| kernels::choose(wanted)).clone()
    }

    /// The profile of a job whose micro-batches have `rows` samples. It is measured on `place` if
    /// it is not kept yet.
    pub(crate) fn measured(
        &mut self,
        job: &Job,
        rows: usize,
        place: DeviceSpec,
        config: ProfileConfig,
        on_layer: impl FnMut(usize),
    ) -> Result<&Profile, TrainError> {
        match self.by_rows.entry(rows) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(absent) => {
                // The costs of more rows are scaled from fewer.
                let n_measured = rows.min(PROFILE_ROWS_MAX);
                let (inputs, targets) = job.data.batch(1, n_measured)?;
                let device = place.make()?;
                let objective = job.objective.as_ref();
                let mut found = profile_with(
                    &job.stack, objective, &inputs, &targets, &device, config, on_layer,
                )?;
                scale(&mut found, rows as f64 / n_measured as f64);
                Ok(absent.insert(found))
            }
        }
    }
}
