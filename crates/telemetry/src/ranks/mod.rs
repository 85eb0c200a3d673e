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

mod clocks;
mod jobs;
mod lane;
mod plan;
mod standing;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pp_trace::machine::unix_ms;
use pp_trace::{
    Dropped, End, Event, Hello, Log, Poll, RankFile, RankStep, ReadError, Span, StepEvent, Warn,
    measure,
};

use clocks::{Clocks, Row};
use jobs::{Crew, Job, Member};
use lane::{Lane, Part, Seen};
pub(crate) use standing::status_of_job;

/// Bytes that are read of each file at once.
const PIECE_BYTES: usize = 1 << 18;
/// How often the folder is looked at for new files, and the processes of the ranks for their state.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a rank without a file is waited for, from the start of the last that has one.
const MISSING_MS: u64 = 10_000;

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

/// The job that is handed over.
#[derive(Debug)]
struct Merged {
    job: Job,
    crew: Crew,
    clocks: Clocks,
    /// Unix time at which the clock of the run is 0.
    origin_ns: i64,
    hello: Option<Box<Hello>>,
    /// The next step.
    next: u64,
    n_steps: u64,
    /// The end of what was handed over, on the clock of the run.
    now_ns: u64,
    /// Whether a step with other operations than the plan's was told of.
    told_other_order: bool,
    told_waiting: Option<usize>,
    n_dropped: u64,
    is_over: bool,
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
        let mut n_read = 0;
        for at in 0..self.lanes.len() {
            let is_read = match &self.run {
                Some(run) => run.job.lanes.contains(&at),
                None => true,
            };
            // Of another job only the first line is read.
            if is_read || self.lanes[at].head.is_none() {
                n_read += self.lanes[at].poll(&mut self.buffer)?;
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
        let n_events = ready.len() as u64;
        ready.drain(..).for_each(&mut on_event);
        Ok(Poll { n_events, at_end: n_read == 0 && n_events == 0 })
    }

    fn look_for_files(&mut self) -> Result<(), ReadError> {
        let files = RankFile::all_in(&self.dir)
            .map_err(|source| ReadError::File { path: self.dir.clone(), source })?;
        for file in files {
            if !self.lanes.iter().any(|lane| lane.file == file) {
                self.lanes.push(Lane::new(file));
            }
        }
        Ok(())
    }

    /// Chooses the job: that of the file that was named, else the newest.
    fn choose(&mut self) {
        let n_heads = self.lanes.iter().filter(|lane| lane.head.is_some()).count();
        if std::mem::replace(&mut self.n_heads, n_heads) == n_heads {
            return;
        }
        let heads = self.lanes.iter().enumerate();
        let all = jobs::jobs(
            heads.filter_map(|(at, lane)| Some((at, lane.file.number, lane.head.as_ref()?))),
        );
        let named = place(&self.path).1;
        let chosen = match &named {
            Some(named) => all.iter().find(|job| {
                job.lanes.iter().any(|&at| {
                    let file = &self.lanes[at].file;
                    (file.number, file.count) == *named
                })
            }),
            None => all.last(),
        };
        let Some(job) = chosen.cloned() else { return };
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

impl Crew {
    /// What a member is called in a message.
    fn name(&self, member: &Member) -> String {
        self.name_of(member.replica, member.rank)
    }

    fn name_of(&self, replica: u32, rank: u32) -> String {
        if self.dp > 1 {
            format!("rank {rank} of replica {replica}")
        } else {
            format!("rank {rank}")
        }
    }
}

impl Merged {
    fn new(job: Job, lanes: &[Lane]) -> Self {
        let mut run = Self {
            crew: Crew::of(lanes, &job),
            job,
            clocks: Clocks::default(),
            origin_ns: 0,
            hello: None,
            next: 0,
            n_steps: 0,
            now_ns: 0,
            told_other_order: false,
            told_waiting: None,
            n_dropped: 0,
            is_over: false,
        };
        run.name_clocks(lanes);
        run
    }

    /// More files of the same job have come.
    fn grows(&mut self, job: Job, lanes: &mut [Lane]) {
        self.crew = Crew::of(lanes, &job);
        self.job = job;
        // The new rank belongs into the first line, so the log begins once more, with a step that
        // nobody has seen without it.
        self.hello = None;
        let members = self.crew.members.iter();
        let released = members.map(|member| lanes[member.lane].released).max().unwrap_or(0);
        for member in &self.crew.members {
            lanes[member.lane].skip_to(released);
        }
        self.name_clocks(lanes);
    }

    fn name_clocks(&mut self, lanes: &[Lane]) {
        for member in &self.crew.members {
            if let Some(head) = &lanes[member.lane].head {
                self.clocks.of(head);
            }
        }
    }

    fn clock(&mut self, lanes: &[Lane], member: Member) -> usize {
        lanes[member.lane].head.as_ref().map_or(0, |head| self.clocks.of(head))
    }

    /// A time of a rank on the clock of the run.
    fn run_ns(&self, clock: usize, own_ns: u64) -> u64 {
        let ns = self.clocks.unix_ns(clock, own_ns).saturating_sub(self.origin_ns);
        u64::try_from(ns).unwrap_or(0)
    }

    /// Hands over what is complete.
    fn hand_over(&mut self, lanes: &mut [Lane], dir: &Path, ready: &mut VecDeque<Event>) {
        if self.hello.is_none() {
            let first = self
                .crew
                .members
                .iter()
                .filter_map(|member| lanes[member.lane].steps.keys().next())
                .min();
            match first {
                Some(&first) if self.is_complete(lanes, first) => {
                    self.next = first;
                    self.begin(lanes, dir, ready);
                }
                _ => {
                    self.tell_waiting(lanes, ready);
                    return;
                }
            }
        }
        while self.is_complete(lanes, self.next) {
            self.release(lanes, ready);
        }
        self.asides(lanes, ready);
        self.tell_processes(lanes, ready);
        self.end(lanes, ready);
    }

    /// Whether a step is to be handed over.
    fn is_complete(&self, lanes: &[Lane], step: u64) -> bool {
        let of = |member: &Member| &lanes[member.lane];
        let members = &self.crew.members;
        let mut open = members.iter().filter(|member| !of(member).has_closed(step)).peekable();
        let is_waited_for = !self.crew.missing.is_empty() && !self.gives_up_missing(lanes);
        if open.peek().is_none() {
            // At least one rank has it, or a later one.
            return !members.is_empty()
                && !is_waited_for
                && members.iter().any(|member| of(member).last_begun >= step);
        }
        let last_begun = members.iter().map(|member| of(member).last_begun).max().unwrap_or(0);
        let has_later = last_begun >= step.saturating_add(2);
        let is_last = members.iter().all(|member| of(member).is_final()) && last_begun >= step;
        (has_later || is_last) && !is_waited_for && open.all(|member| of(member).is_quiet())
    }

    /// Whether ranks without a file are not waited for any longer.
    fn gives_up_missing(&self, lanes: &[Lane]) -> bool {
        let of = |member: &Member| &lanes[member.lane];
        let members = &self.crew.members;
        let newest_ms = members
            .iter()
            .filter_map(|member| of(member).head.as_ref())
            .map(|head| head.unix_ns / 1_000_000)
            .max()
            .unwrap_or(0);
        unix_ms().saturating_sub(newest_ms) > MISSING_MS
            || members.iter().all(|member| of(member).is_final())
    }

    fn tell_waiting(&mut self, lanes: &[Lane], ready: &mut VecDeque<Event>) {
        let n = self.crew.members.len();
        if self.told_waiting == Some(n) || n == 0 {
            return;
        }
        self.told_waiting = Some(n);
        let n_ranks = u64::from(self.crew.pp) * u64::from(self.crew.dp);
        let program = lanes[self.crew.members[0].lane]
            .head
            .as_ref()
            .map_or_else(String::new, |head| head.program.clone());
        let of = if program.is_empty() { String::new() } else { format!(" of a job of {program}") };
        let message = format!("{n} of {n_ranks} ranks{of} have a file; waiting for a whole step");
        ready.push_back(Event::Log(Log { message, ..Log::default() }));
    }

    /// The first line of the log, and what is to be said at once.
    fn begin(&mut self, lanes: &mut [Lane], dir: &Path, ready: &mut VecDeque<Event>) {
        let step = self.next;
        let members = self.crew.members.clone();
        let clocks: Vec<usize> = members.iter().map(|&m| self.clock(lanes, m)).collect();
        let rows: Vec<Row<'_>> = members
            .iter()
            .zip(&clocks)
            .filter_map(|(member, &clock)| {
                let spans = &lanes[member.lane].steps.get(&step)?.spans;
                Some(Row { clock, replica: member.replica, spans })
            })
            .collect();
        self.clocks.correct(&rows);
        let starts = rows.iter().flat_map(|row| {
            row.spans.iter().map(|span| self.clocks.unix_ns(row.clock, span.start_ns))
        });
        let begun = members.iter().zip(&clocks).filter_map(|(member, &clock)| {
            let step = lanes[member.lane].steps.get(&step)?.step?;
            Some(self.clocks.unix_ns(clock, step.start_ns))
        });
        self.origin_ns = starts.chain(begun).min().unwrap_or(0);
        let hello = plan::hello(self.origin_ns, &self.crew, lanes, &self.clocks, dir, step);
        let has_plan = !hello.plan.is_empty();
        let hello = Box::new(hello);
        ready.push_back(Event::Hello(hello.clone()));
        self.hello = Some(hello);
        let mut warn = |rank, message| {
            ready.push_back(Event::Warn(Warn { rank, message, ..Warn::default() }));
        };
        if !self.crew.missing.is_empty() {
            let named: Vec<String> = self
                .crew
                .missing
                .iter()
                .take(8)
                .map(|&(replica, rank)| self.crew.name_of(replica, rank))
                .collect();
            let more = if self.crew.missing.len() > 8 { " and others" } else { "" };
            let all = named.join(", ");
            warn(None, format!("{all}{more} left no file here, so the bubble is not known"));
        } else if !has_plan {
            warn(None, format!("step {step} is not complete on all ranks, so no plan is known"));
        }
        for (at, why) in &self.crew.odd {
            let name = lanes[*at].file.path.file_name().unwrap_or_default().to_string_lossy();
            warn(None, format!("{name} is left out: {why}"));
        }
        for clock in 1..self.clocks.len() {
            let (moved, error) = self.clocks.moved_seconds(clock);
            let host = members.iter().zip(&clocks).find(|&(_, &of)| of == clock);
            let Some((member, _)) = host else { continue };
            let host = lanes[member.lane].head.as_ref().map_or("", |head| &head.host);
            match error {
                Some(error) if moved.abs() > 1.0 => warn(
                    None,
                    format!(
                        "the clock of {host} is {:.1} s {}; its times were moved, to within {:.1} ms",
                        moved.abs(),
                        if moved < 0.0 { "ahead" } else { "behind" },
                        error * 1e3
                    ),
                ),
                Some(_) => {}
                None => warn(
                    None,
                    format!(
                        "no messages tell the clock of {host} from the first; its wall clock is trusted"
                    ),
                ),
            }
        }
    }

    /// Hands over the next step.
    fn release(&mut self, lanes: &mut [Lane], ready: &mut VecDeque<Event>) {
        let step = self.next;
        self.next += 1;
        let members = self.crew.members.clone();
        let mut parts: Vec<(Member, usize, Part)> = Vec::with_capacity(members.len());
        for &member in &members {
            let clock = self.clock(lanes, member);
            if let Some(part) = lanes[member.lane].release(step) {
                parts.push((member, clock, part));
            }
        }
        let rows: Vec<Row<'_>> = parts
            .iter()
            .map(|(member, clock, part)| Row {
                clock: *clock,
                replica: member.replica,
                spans: &part.spans,
            })
            .collect();
        self.clocks.correct(&rows);
        let mut spans: Vec<Span> = Vec::new();
        let mut closed: Vec<(Member, RankStep)> = Vec::new();
        for (member, clock, part) in &parts {
            let (replica, rank) = (member.replica, member.rank);
            for span in &part.spans {
                let start_ns = self.run_ns(*clock, span.start_ns);
                spans.push(Span { replica, rank, start_ns, ..*span });
            }
            if let Some(step) = part.step {
                let start_ns = self.run_ns(*clock, step.start_ns);
                let end_ns = self.run_ns(*clock, step.end_ns);
                closed.push((*member, RankStep { start_ns, end_ns, ..step }));
            }
            if let Some(memory) = part.memory {
                let memory = pp_trace::Mem { replica, rank, ..memory };
                ready.push_back(Event::Mem(memory));
            }
        }
        spans.sort_by_key(Span::end_ns);
        self.now_ns = spans.last().map_or(0, Span::end_ns).max(self.now_ns);
        ready.extend(spans.iter().map(|&span| Event::Span(span)));
        // A step that nobody has finished is none; its spans show how far it came.
        if closed.is_empty() {
            return;
        }
        let is_whole = closed.len() == members.len() && self.crew.missing.is_empty();
        self.n_steps = self.n_steps.max(step);
        let event = self.step(step, &spans, &closed, is_whole);
        self.now_ns = self.now_ns.max((event.elapsed_seconds * 1e9).max(0.0) as u64);
        ready.push_back(Event::Step(event));
        if !self.told_other_order
            && is_whole
            && let Some(hello) = &self.hello
            && let Some((rank, replica)) = plan::first_other_order(hello, &spans)
        {
            self.told_other_order = true;
            let name = self.crew.name_of(replica, rank);
            ready.push_back(Event::Warn(Warn {
                elapsed_ns: self.now_ns,
                step: Some(step),
                rank: Some(rank),
                message: format!(
                    "in step {step}, {name} ran other operations than in the first one, whose order counts as the plan"
                ),
            }));
        }
    }

    /// The line of a step.
    fn step(
        &self,
        step: u64,
        spans: &[Span],
        closed: &[(Member, RankStep)],
        is_whole: bool,
    ) -> StepEvent {
        let start_ns = closed.iter().map(|(_, step)| step.start_ns).min().unwrap_or(0);
        let end_ns = closed.iter().map(|(_, step)| step.end_ns).max().unwrap_or(0);
        let step_ns = end_ns.saturating_sub(start_ns);
        let bubble = measure(spans, self.crew.pp, step_ns);
        let told = |ratio: f64| if is_whole { ratio } else { f64::NAN };
        // The mean over the replicas of what the first rank of each tells that knows.
        let per_replica = |value: fn(&RankStep) -> Option<f64>| {
            let mut each: Vec<(u32, f64)> = closed
                .iter()
                .filter_map(|(member, step)| Some((member.replica, value(step)?)))
                .collect();
            each.dedup_by_key(|(replica, _)| *replica);
            each
        };
        let mean = |each: &[(u32, f64)]| {
            (!each.is_empty())
                .then(|| each.iter().map(|(_, value)| value).sum::<f64>() / each.len() as f64)
        };
        let sum = |value: fn(&RankStep) -> Option<u64>| {
            let mut each: Vec<(u32, u64)> = closed
                .iter()
                .filter_map(|(member, step)| Some((member.replica, value(step)?)))
                .collect();
            each.dedup_by_key(|(replica, _)| *replica);
            // If only some replicas tell, the sum is not known.
            if each.len() == self.crew.dp as usize {
                each.iter().fold(0_u64, |sum, (_, value)| sum.saturating_add(*value))
            } else {
                0
            }
        };
        let loss = mean(&per_replica(|step| step.loss)).map(|loss| loss as f32);
        StepEvent {
            step,
            loss,
            loss_bits: loss.map(StepEvent::bits_of).unwrap_or_default(),
            lr: per_replica(|step| step.lr).first().map(|(_, lr)| *lr),
            grad_norm: per_replica(|step| step.grad_norm).first().map(|(_, norm)| *norm),
            seconds: step_ns as f64 * 1e-9,
            elapsed_seconds: end_ns as f64 * 1e-9,
            samples: sum(|step| step.samples),
            tokens: sum(|step| step.tokens),
            bubble_ratio: told(bubble.bubble_ratio),
            idle_of_step: told(bubble.idle_of_step),
            starved_ratio: told(bubble.starved_ratio),
            window_seconds: told(bubble.window_seconds),
            dropped: self.n_dropped,
        }
    }

    /// What belongs to no step.
    fn asides(&mut self, lanes: &mut [Lane], ready: &mut VecDeque<Event>) {
        let members = self.crew.members.clone();
        for (at, &member) in members.iter().enumerate() {
            let clock = self.clock(lanes, member);
            let (replica, rank) = (member.replica, member.rank);
            for aside in std::mem::take(&mut lanes[member.lane].asides) {
                let event = match aside {
                    Event::Cpu(mut cpu) => {
                        cpu.elapsed_ns = self.run_ns(clock, cpu.elapsed_ns);
                        (cpu.replica, cpu.rank) = (replica, rank);
                        Event::Cpu(cpu)
                    }
                    Event::Gpu(mut gpu) => {
                        gpu.elapsed_ns = self.run_ns(clock, gpu.elapsed_ns);
                        Event::Gpu(gpu)
                    }
                    Event::Log(mut log) => {
                        log.elapsed_ns = self.run_ns(clock, log.elapsed_ns);
                        log.message = format!("{}: {}", self.crew.name(&member), log.message);
                        Event::Log(log)
                    }
                    Event::Warn(mut warn) => {
                        warn.elapsed_ns = self.run_ns(clock, warn.elapsed_ns);
                        warn.rank = Some(rank);
                        warn.message = format!("{}: {}", self.crew.name(&member), warn.message);
                        Event::Warn(warn)
                    }
                    // All ranks evaluate together; one of them is enough.
                    Event::Phase(mut phase) if at == 0 => {
                        phase.start_ns = self.run_ns(clock, phase.start_ns);
                        phase.elapsed_ns = self.run_ns(clock, phase.elapsed_ns);
                        Event::Phase(phase)
                    }
                    Event::Dropped(Dropped { elapsed_ns, count }) => {
                        self.n_dropped = self.n_dropped.saturating_add(count);
                        let elapsed_ns = self.run_ns(clock, elapsed_ns);
                        Event::Dropped(Dropped { elapsed_ns, count: self.n_dropped })
                    }
                    _ => continue,
                };
                ready.push_back(event);
            }
            let lane = &mut lanes[member.lane];
            if lane.n_late > 0 || lane.trouble.is_some() {
                let n_late = std::mem::take(&mut lane.n_late);
                let mut say = |message: String| {
                    ready.push_back(Event::Warn(Warn {
                        elapsed_ns: self.now_ns,
                        rank: Some(rank),
                        message,
                        ..Warn::default()
                    }));
                };
                if n_late > 0 {
                    let name = self.crew.name(&member);
                    say(format!("{n_late} lines of {name} came after their step was shown"));
                }
                if let Some(trouble) = lane.trouble_to_tell() {
                    say(trouble);
                }
            }
        }
    }

    /// Says which processes are gone, are stopped, or go on.
    fn tell_processes(&self, lanes: &mut [Lane], ready: &mut VecDeque<Event>) {
        for member in &self.crew.members {
            let lane = &mut lanes[member.lane];
            let Some((was, is)) = lane.change_to_tell() else { continue };
            let pid = lane.head.as_ref().map_or(0, |head| head.pid);
            let rank = self.crew.name(member);
            let message = match (was, is) {
                (_, Seen::Gone) => {
                    let last = lane.last_begun;
                    format!(
                        "{rank} (process {pid}) is gone without its last line; its file ends in step {last}"
                    )
                }
                (_, Seen::Suspended) => format!("{rank} (process {pid}) is stopped by a signal"),
                (Seen::Suspended, Seen::There) => format!("{rank} (process {pid}) goes on"),
                _ => continue,
            };
            ready.push_back(Event::Warn(Warn {
                elapsed_ns: self.now_ns,
                rank: Some(member.rank),
                message,
                ..Warn::default()
            }));
        }
    }

    /// The last line, when all ranks have written theirs and all steps were handed over.
    fn end(&mut self, lanes: &[Lane], ready: &mut VecDeque<Event>) {
        let members = &self.crew.members;
        let ends = || {
            members
                .iter()
                .filter_map(|member| lanes[member.lane].end.as_ref().map(|end| (member, end)))
        };
        let is_read = members.iter().all(|member| {
            let lane = &lanes[member.lane];
            lane.is_at_end() && lane.steps.is_empty()
        });
        if self.is_over || !is_read || ends().count() != members.len() {
            return;
        }
        self.is_over = true;
        let failed = ends().find(|(_, end)| end.code != 0);
        let (code, rank, reason) = match failed {
            Some((member, end)) => {
                let reason = format!("{}: {}", self.crew.name(member), end.reason);
                (end.code, Some(member.rank), reason)
            }
            None => (0, None, "finished".to_owned()),
        };
        ready.push_back(Event::End(End {
            code,
            reason,
            steps: self.n_steps,
            rank,
            wall_seconds: self.now_ns as f64 * 1e-9,
            ..End::default()
        }));
    }
}
