//! Tensors that were sent, until their receivers have copied them.

use candle_core::Result;

use super::{Made, Taken};
use crate::boundary::Tensors;

/// What a rank has sent to others that copy it when their turn comes.
#[derive(Default)]
pub(crate) struct Lent(Vec<(Tensors, Taken)>);

/// A rank that ends early must not give memory back that another one still copies: the process
/// ends soon, and the memory with it.
impl Drop for Lent {
    fn drop(&mut self) {
        for (tensors, taken) in self.0.drain(..) {
            if !matches!(taken.is_over(), Ok(true)) {
                std::mem::forget(tensors);
            }
        }
    }
}

impl Lent {
    /// Keeps what was sent, and lets go of what was taken since. Nothing is kept where tensors are
    /// there already when they are sent.
    ///
    /// # Errors
    /// If work on the device has failed.
    pub(crate) fn keep(&mut self, tensors: &Tensors, made: Option<&Made>) -> Result<()> {
        let Some(made) = made else { return Ok(()) };
        self.let_go()?;
        self.0.push((tensors.clone(), made.taken.clone()));
        Ok(())
    }

    /// Lets go of what was taken.
    ///
    /// # Errors
    /// If work on the device has failed.
    pub(crate) fn let_go(&mut self) -> Result<()> {
        let mut failed = None;
        self.0.retain(|(_, taken)| match taken.is_over() {
            Ok(is_over) => !is_over,
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        failed.map_or(Ok(()), Err)
    }

    /// How many messages are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
