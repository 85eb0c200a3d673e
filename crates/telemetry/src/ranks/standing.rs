//! How a job stands, from the first and the last lines of its ranks' files.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use pp_trace::{Event, RankEnd, RankFile, RankHead, RankLine, SCHEMA, State, Status, open_regular};

use super::jobs::{jobs, meant};
use super::lane::{Seen, seen};
use super::place;
use super::plan::program_of;

/// Bytes at the start of a file in which its first line is looked for.
const HEAD_BYTES: u64 = 256 * 1024;
/// Bytes at its end in which its last lines are looked for.
const TAIL_BYTES: u64 = 16 * 1024;
/// Files that are looked at: those of the first ranks.
const FILES_MAX: usize = 1024;

/// What the ends of one file say.
struct Ends {
    number: u32,
    count: u32,
    head: RankHead,
    end: Option<RankEnd>,
    last_step: u64,
    step_seconds: Option<f64>,
    bytes: u64,
    modified_ms: u64,
    /// When the rank last did anything, by its own clock. Looks at its thread go on whatever it
    /// does.
    progressed_ms: u64,
}

/// The summary of a job, as its ranks' files tell it: of the newest of a folder, or of the one of a
/// file; `None` without such files.
pub(crate) fn status_of_job(path: &Path) -> Option<Status> {
    let (dir, named) = place(path);
    let files = RankFile::all_in(dir).ok()?;
    let ends: Vec<Ends> = files.iter().take(FILES_MAX).filter_map(ends_of).collect();
    let jobs = jobs(ends.iter().enumerate().map(|(at, ends)| (at, ends.number, &ends.head)));
    let job = meant(&jobs, named, |at| (ends[at].number, ends[at].count))?;
    let of_rank: Vec<&Ends> = job.lanes.iter().map(|&at| &ends[at]).collect();
    // The rank that says most about the whole: one that is gone, then one that is stopped.
    let first = *of_rank.first()?;
    let open = || of_rank.iter().copied().filter(|ends| ends.end.is_none());
    let seen_as = |what: Seen| open().find(|ends| seen(&ends.head) == what);
    let telling = seen_as(Seen::Gone)
        .or_else(|| seen_as(Seen::Suspended))
        .or_else(|| open().next())
        .unwrap_or(first);
    let is_over = of_rank.iter().all(|ends| ends.end.is_some());
    let failed = of_rank.iter().find_map(|ends| ends.end.as_ref().filter(|end| end.code != 0));
    let mut pipelines: Vec<&Vec<u32>> = of_rank.iter().map(|ends| &ends.head.pipeline).collect();
    pipelines.sort_unstable();
    pipelines.dedup();
    let updated = of_rank.iter().map(|ends| ends.modified_ms).max().unwrap_or(0);
    let progressed = of_rank.iter().map(|ends| ends.progressed_ms).max().unwrap_or(0);
    let step = of_rank.iter().map(|ends| ends.last_step).min().unwrap_or(0);
    let head = &first.head;
    Some(Status {
        schema: SCHEMA,
        run: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        program: program_of(&head.program).to_owned(),
        pid: telling.head.pid,
        pid_began: telling.head.pid_began,
        pid_namespace: telling.head.pid_namespace,
        boot: telling.head.boot.clone(),
        host: telling.head.host.clone(),
        model: head.model.clone(),
        schedule: head.schedule.clone(),
        pp: head.pp,
        dp: u32::try_from(pipelines.len()).unwrap_or(0),
        micro_batches: head.micro_batches.unwrap_or(0),
        state: if is_over { State::Ended } else { State::Running },
        step,
        steps: head.steps.unwrap_or(0),
        code: is_over.then(|| failed.map_or(0, |end| end.code)),
        reason: is_over.then(|| failed.map_or("finished", |end| &end.reason).to_owned()),
        step_seconds: first.step_seconds,
        events_bytes: of_rank.iter().map(|ends| ends.bytes).sum(),
        started_unix_ms: head.unix_ns / 1_000_000,
        updated_unix_ms: updated,
        progressed_unix_ms: progressed,
        ..Status::default()
    })
}

fn ends_of(file: &RankFile) -> Option<Ends> {
    let mut open = open_regular(&file.path).ok()?;
    let about = open.metadata().ok()?;
    let mut line = Vec::new();
    let mut head = BufReader::with_capacity(4096, (&mut open).take(HEAD_BYTES));
    head.read_until(b'\n', &mut line).ok()?;
    let Ok(Some(RankLine::Head(head))) = RankLine::parse(line.trim_ascii_end()) else {
        return None;
    };
    open.seek(SeekFrom::Start(about.len().saturating_sub(TAIL_BYTES))).ok()?;
    let mut text = Vec::new();
    (&mut open).take(TAIL_BYTES).read_to_end(&mut text).ok()?;
    let mut found = Ends {
        head: RankHead::default(),
        number: file.number,
        count: file.count,
        end: None,
        last_step: 0,
        step_seconds: None,
        bytes: about.len(),
        progressed_ms: head.unix_ns / 1_000_000,
        modified_ms: about
            .modified()
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .unwrap_or(0),
    };
    found.head = *head;
    // The first piece may be the end of a line, and the last the beginning of one.
    for line in text.split(|&byte| byte == b'\n') {
        match RankLine::parse(line) {
            Ok(Some(RankLine::End(end))) => found.end = Some(end),
            Ok(Some(RankLine::Step(step))) => {
                found.last_step = step.step;
                found.progress(step.end_ns);
                found.step_seconds = Some(step.end_ns.saturating_sub(step.start_ns) as f64 * 1e-9);
            }
            Ok(Some(RankLine::Event(Event::Span(span)))) => {
                if found.last_step == 0 {
                    found.last_step = span.step.saturating_sub(1);
                }
                found.progress(span.end_ns());
            }
            _ => {}
        }
    }
    Some(found)
}

impl Ends {
    /// The rank did something at this moment of its own clock.
    fn progress(&mut self, own_ns: u64) {
        let since_ns = own_ns.saturating_sub(self.head.elapsed_ns);
        let unix_ms = self.head.unix_ns.saturating_add(since_ns) / 1_000_000;
        self.progressed_ms = self.progressed_ms.max(unix_ms);
    }
}
