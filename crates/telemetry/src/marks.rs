//! The marks (index records) of a log: written while a run is recorded, checked when it is read.

use std::io;
use std::path::Path;

use pp_trace::{Event, MarkMaker, MarkReader, Recorder, TraceError};

use crate::mark_v1::MarkV1;
use crate::model::{Frame, LogMark, Model, is_intact, saved, write_mark};

/// Bytes of a log from one mark to the next. A mark has some kilobytes for each rank, and half a
/// megabyte for the rest.
const MARK_BYTES: u64 = 16 << 20;

/// A recorder whose log has marks. It makes the directory of the run where it is missing.
///
/// # Errors
/// The directory or the log cannot be made, or is a symbolic link; the thread that writes cannot be
/// started.
pub fn recorder(run_dir: &Path) -> Result<Recorder, TraceError> {
    Recorder::with_marks(run_dir, Box::new(Marks::default()))
}

/// Folds the events of a run as they are recorded, for the marks of its log.
#[derive(Debug)]
pub struct Marks {
    model: Model,
    frames: Vec<Frame>,
    every_bytes: u64,
}

impl Default for Marks {
    /// With a mark every 16 MiB.
    fn default() -> Self {
        Self::every(MARK_BYTES)
    }
}

impl Marks {
    /// With at least `n_bytes` from one mark to the next.
    pub fn every(n_bytes: u64) -> Self {
        Self { model: Model::brief(), frames: Vec::new(), every_bytes: n_bytes }
    }
}

impl MarkMaker for Marks {
    fn note(&mut self, event: &Event) {
        self.model.apply(event);
    }

    fn every_bytes(&self) -> u64 {
        self.every_bytes
    }

    /// A mark that is too long for a line is written again without the plan.
    fn write_mark(
        &mut self,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let step = self.model.step();
        self.frames.push(Frame { offset, step });
        let mut mark = saved(step, &self.frames, &self.model);
        let start = into.len();
        let mut write = |mark: &MarkV1| {
            into.truncate(start);
            write_mark(mark, into).map(|()| into.len() - start - 1)
        };
        let mut n_bytes = write(&mark)?;
        if n_bytes > bytes_max
            && let Some(hello) = &mut mark.model.hello
        {
            **hello = hello.without_plan(n_bytes);
            n_bytes = write(&mark)?;
        }
        if n_bytes > bytes_max {
            // The log has no mark here; a reader starts at the one before.
            into.truncate(start);
            self.frames.pop();
        }
        Ok(n_bytes)
    }

    fn alarm(&self) -> Option<String> {
        self.model.alarm().map(|alarm| alarm.to_string())
    }
}

/// The one [`KnownMarks`].
pub(crate) static KNOWN_MARKS: &KnownMarks = &KnownMarks;

/// Reads the marks that [`Marks`] makes.
#[derive(Debug)]
pub(crate) struct KnownMarks;

impl MarkReader for KnownMarks {
    fn is_intact(&self, line: &[u8]) -> bool {
        is_intact(line)
    }

    fn can_begin_at(&self, line: &[u8], offset: u64) -> bool {
        LogMark::parse(line).is_ok_and(|mark| mark.is_sound_at(offset))
    }
}
