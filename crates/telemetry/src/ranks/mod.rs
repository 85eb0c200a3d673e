//! The files of many ranks as one run.
//!
//! Programs of other frameworks write one file for each rank (`pp_trace::RankFile`). A
//! [`RankFolder`] reads them while they grow and hands over the events of one ordinary log: `hello`
//! with the plan that was observed, the spans of each step in the order of time, and a `step` line
//! with the measured bubble.
//!
//! ```text
//! rank-0.jsonl --lane--\                     a step is handed over when all ranks have closed it,
//! rank-1.jsonl --lane---+--crew--clocks-->   or when some are two steps further and the rest of the
//! rank-2.jsonl --lane--/                     files has not grown for 3 s
//! ```

mod asides;
mod clocks;
mod held;
mod jobs;
mod lane;
mod merged;
mod opening;
mod plan;
mod replicas;
mod standing;
mod step;

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pp_trace::{Event, Log, Poll, RankFile, ReadError, Warn};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use lane::Lane;
use merged::Merged;
pub(crate) use standing::status_of_job;

/// Files that a program has open beside those of the ranks.
const OTHER_FILES: u64 = 256;
/// Bytes that are read of each file at once.
const PIECE_BYTES: usize = 1 << 18;
/// How often the folder is looked at for new files, and the processes of the ranks for their state.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The files of a folder as the events of one log.
#[derive(Debug)]
pub(crate) struct RankFolder {
    /// The folder, or the file whose job is meant.
    path: PathBuf,
    dir: PathBuf,
    lanes: Vec<Lane>,
    run: Option<Merged>,
    buffer: Vec<u8>,
    looked: Option<Instant>,
    /// Files whose first line was read.
    n_heads: usize,
    /// Jobs of the folder that were told of.
    n_jobs_told: usize,
    ready: VecDeque<Event>,
}

impl RankFolder {
    /// The newest job of a folder, or the job of a file.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            dir: place(path).0.to_owned(),
            path: path.to_owned(),
            lanes: Vec::new(),
            run: None,
            buffer: vec![0; PIECE_BYTES],
            looked: None,
            n_heads: 0,
            n_jobs_told: 0,
            ready: VecDeque::new(),
        }
    }

    /// Whether a path is a folder with files of ranks, or such a file.
    pub(crate) fn is_one(path: &Path) -> bool {
        RankFile::of(path).is_some() || path.is_dir()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn n_bytes(&self) -> u64 {
        self.lanes.iter().map(Lane::n_bytes).sum()
    }

    pub(crate) fn n_bad_lines(&self) -> u64 {
        self.lanes.iter().map(Lane::n_bad_lines).sum()
    }

    pub(crate) fn first_refusal(&self) -> Option<String> {
        self.lanes.iter().find_map(|lane| {
            let name = lane.file.path.file_name()?.to_string_lossy();
            lane.first_refusal().map(|why| format!("{name}: {why}"))
        })
    }

    /// Reads a piece of each file, and hands over what is complete.
    ///
    /// # Errors
    /// The folder cannot be read, or a file is of a newer format.
    pub(crate) fn poll(&mut self, mut on_event: impl FnMut(Event)) -> Result<Poll, ReadError> {
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if is_due {
            self.looked = Some(Instant::now());
            self.look_for_files()?;
        }
        let mut is_read = vec![self.run.is_none(); self.lanes.len()];
        if let Some(run) = &self.run {
            for &at in &run.job.lanes {
                is_read[at] = true;
            }
        }
        let mut n_read = 0;
        for (lane, is_read) in self.lanes.iter_mut().zip(is_read) {
            // Of another job only the first line is read.
            if is_read || lane.held.head.is_none() {
                n_read += lane.poll(&mut self.buffer)?;
            }
        }
        self.choose();
        if is_due {
            self.lanes.iter_mut().for_each(Lane::look);
        }
        let Self { run, lanes, ready, dir, .. } = self;
        if let Some(run) = run {
            run.hand_over(lanes, dir, ready);
        }
        for lane in lanes.iter_mut().filter(|lane| lane.held.head.is_none()) {
            if let Some(why) = lane.trouble_to_tell() {
                let name = lane.file.path.file_name().unwrap_or_default().to_string_lossy();
                let message = format!("{name} is left out: {why}");
                ready.push_back(Event::Warn(Warn { message, ..Warn::default() }));
            }
        }
        let n_events = ready.len() as u64;
        ready.drain(..).for_each(&mut on_event);
        Ok(Poll { n_events, at_end: n_read == 0 && n_events == 0 })
    }

    fn look_for_files(&mut self) -> Result<(), ReadError> {
        let files = RankFile::all_in(&self.dir)
            .map_err(|source| ReadError::File { path: self.dir.clone(), source })?;
        let known: HashSet<RankFile> = self.lanes.iter().map(|lane| lane.file.clone()).collect();
        self.lanes.extend(files.into_iter().filter(|file| !known.contains(file)).map(Lane::new));
        if self.lanes.len() > known.len() {
            let wanted = self.lanes.len() as u64 + OTHER_FILES;
            allow_open_files(wanted);
        }
        Ok(())
    }

    /// Chooses the job: that of the file that was named, else the newest.
    fn choose(&mut self) {
        let n_heads = self.lanes.iter().filter(|lane| lane.held.head.is_some()).count();
        if std::mem::replace(&mut self.n_heads, n_heads) == n_heads {
            return;
        }
        let heads = self.lanes.iter().enumerate();
        let all = jobs::jobs(
            heads.filter_map(|(at, lane)| Some((at, lane.file.number, lane.held.head.as_ref()?))),
        );
        let named = place(&self.path).1;
        let numbers = |at: usize| (self.lanes[at].file.number, self.lanes[at].file.count);
        let Some(job) = jobs::meant(&all, named, numbers).cloned() else { return };
        let is_new = self.run.as_ref().is_none_or(|run| run.job.key != job.key);
        let n_others = all.len() - 1;
        if is_new {
            self.run = Some(Merged::new(job, &self.lanes));
        } else if let Some(run) = &mut self.run
            && run.job != job
        {
            run.grows(job, &mut self.lanes);
        }
        if n_others > 0 && self.n_jobs_told != all.len() {
            self.n_jobs_told = all.len();
            let which = if named.is_some() { "the one of this file" } else { "the newest" };
            self.ready.push_back(Event::Log(Log {
                message: format!(
                    "this folder has the files of {} jobs, and {which} is shown; name one of its files to see another",
                    all.len()
                ),
                ..Log::default()
            }));
        }
    }
}

/// Raises the limit of open files, as far as this process may: each rank has one.
fn allow_open_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let most = limit.maximum.unwrap_or(wanted);
        let current = Some(wanted.min(most));
        // Files beyond the limit are named as files that cannot be read.
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum });
    }
}

/// The folder of a job and, if one of its files was named, the rank and the number of that file.
fn place(path: &Path) -> (&Path, Option<(u32, u32)>) {
    match RankFile::of(path) {
        Some(file) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            (dir.unwrap_or(Path::new(".")), Some((file.number, file.count)))
        }
        None => (path, None),
    }
}
