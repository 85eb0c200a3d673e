//! How a job stands, from the first and the last lines of its ranks' files.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use pp_trace::{Event, RankEnd, RankFile, RankHead, RankLine, SCHEMA, State, Status, open_regular};

use super::lane::{Seen, seen};

/// Bytes at the start of a file in which its first line is looked for.
const HEAD_BYTES: u64 = 256 * 1024;
/// Bytes at its end in which its last lines are looked for.
const TAIL_BYTES: u64 = 64 * 1024;
/// Files that are looked at: those of the first ranks.
const FILES_MAX: usize = 1024;

/// What the ends of one file say.
struct Ends {
    number: u32,
    head: RankHead,
    end: Option<RankEnd>,
    last_step: u64,
    step_seconds: Option<f64>,
    bytes: u64,
    modified_ms: u64,
}

/// The summary of the newest job of a folder, as its ranks' files tell it; `None` without such
/// files.
pub(crate) fn status_of_job(dir: &Path) -> Option<Status> {
    let files = RankFile::all_in(dir).ok()?;
    let mut ends: Vec<Ends> = files.iter().take(FILES_MAX).filter_map(ends_of).collect();
    // A job that was started again has a newer file of each rank.
    let newest = ends.iter().max_by_key(|ends| ends.head.unix_ns)?.head.job.clone();
    ends.retain(|ends| ends.head.job == newest);
    let mut of_rank: Vec<Ends> = Vec::new();
    for ends in ends {
        match of_rank.iter_mut().find(|known| known.number == ends.number) {
            Some(known) => *known = ends,
            None => of_rank.push(ends),
        }
    }
    // The rank that says most about the whole: one that is gone, then one that is stopped.
    let first = of_rank.first()?;
    let is_open = |ends: &&Ends| ends.end.is_none();
    let seen_as = |what: Seen| of_rank.iter().filter(is_open).find(|ends| seen(&ends.head) == what);
    let telling = seen_as(Seen::Gone)
        .or_else(|| seen_as(Seen::Suspended))
        .or_else(|| of_rank.iter().find(is_open))
        .unwrap_or(first);
    let is_over = of_rank.iter().all(|ends| ends.end.is_some());
    let failed = of_rank.iter().find_map(|ends| ends.end.as_ref().filter(|end| end.code != 0));
    let mut pipelines: Vec<&Vec<u32>> = of_rank.iter().map(|ends| &ends.head.pipeline).collect();
    pipelines.sort_unstable();
    pipelines.dedup();
    let progressed = of_rank.iter().map(|ends| ends.modified_ms).max().unwrap_or(0);
    let step = of_rank.iter().map(|ends| ends.last_step).min().unwrap_or(0);
    let head = &first.head;
    Some(Status {
        schema: SCHEMA,
        run: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        program: head.program.clone(),
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
        updated_unix_ms: progressed,
        progressed_unix_ms: progressed,
        ..Status::default()
    })
}

fn ends_of(file: &RankFile) -> Option<Ends> {
    let mut open = open_regular(&file.path).ok()?;
    let about = open.metadata().ok()?;
    let mut text = Vec::new();
    (&mut open).take(HEAD_BYTES).read_to_end(&mut text).ok()?;
    let line = text.split(|&byte| byte == b'\n').next()?;
    let Ok(Some(RankLine::Head(head))) = RankLine::parse(line) else { return None };
    open.seek(SeekFrom::Start(about.len().saturating_sub(TAIL_BYTES))).ok()?;
    let mut text = Vec::new();
    (&mut open).take(TAIL_BYTES).read_to_end(&mut text).ok()?;
    let mut found = Ends {
        number: file.number,
        head: *head,
        end: None,
        last_step: 0,
        step_seconds: None,
        bytes: about.len(),
        modified_ms: about
            .modified()
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .unwrap_or(0),
    };
    // The first piece may be the end of a line, and the last the beginning of one.
    for line in text.split(|&byte| byte == b'\n') {
        match RankLine::parse(line) {
            Ok(Some(RankLine::End(end))) => found.end = Some(end),
            Ok(Some(RankLine::Step(step))) => {
                found.last_step = step.step;
                found.step_seconds =
                    Some(step.end_ns.saturating_sub(step.start_ns) as f64 * 1e-9);
            }
            Ok(Some(RankLine::Event(Event::Span(span)))) if found.last_step == 0 => {
                found.last_step = span.step.saturating_sub(1);
            }
            _ => {}
        }
    }
    Some(found)
}
