//! Writes the file of a rank from a trace.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use pp_trace::{Event, RankEnd, RankHead, RankLine, RankStage, RankStep, Span};

use super::ImportError;

/// The file of one rank.
pub(super) struct RankWriter {
    path: PathBuf,
    file: BufWriter<File>,
    line: Vec<u8>,
}

impl RankWriter {
    /// Makes the file in a folder.
    pub(super) fn create(dir: &Path, head: RankHead) -> Result<Self, ImportError> {
        let number = head.pipeline.get(head.rank as usize).copied().unwrap_or(head.rank);
        let path = dir.join(format!("rank-{number}.jsonl"));
        let file = File::create_new(&path)
            .map_err(|source| ImportError::Write { path: path.clone(), source })?;
        let mut writer = Self { path, file: BufWriter::new(file), line: Vec::new() };
        writer.line(&RankLine::Head(Box::new(head)))?;
        Ok(writer)
    }

    pub(super) fn span(&mut self, span: &Span) -> Result<(), ImportError> {
        self.line(&RankLine::Event(Event::Span(*span)))
    }

    pub(super) fn step(
        &mut self,
        step: u64,
        (start_ns, end_ns): (u64, u64),
        loss: Option<f64>,
    ) -> Result<(), ImportError> {
        self.line(&RankLine::Step(RankStep { step, start_ns, end_ns, loss, ..RankStep::default() }))
    }

    /// The last line.
    pub(super) fn finish(mut self) -> Result<(), ImportError> {
        let reason = "finished".to_owned();
        self.line(&RankLine::End(RankEnd { reason, ..RankEnd::default() }))?;
        self.file.flush().map_err(|source| self.failed(source))
    }

    fn line(&mut self, line: &RankLine) -> Result<(), ImportError> {
        self.line.clear();
        line.write_line(&mut self.line).map_err(|source| self.failed(source.into()))?;
        self.file.write_all(&self.line).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> ImportError {
        ImportError::Write { path: self.path.clone(), source }
    }
}

/// Stages of which nothing but the number is known.
pub(super) fn stages(numbers: impl IntoIterator<Item = u32>) -> Vec<RankStage> {
    numbers.into_iter().map(|stage| RankStage { stage, ..RankStage::default() }).collect()
}
