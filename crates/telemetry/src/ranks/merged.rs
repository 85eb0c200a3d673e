//! One job, as its steps are handed over.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use pp_trace::{Event, Hello, RankStep, Span, Warn};

use super::clocks::{Clocks, Row};
use super::held::Part;
use super::jobs::{Crew, Job, Member};
use super::lane::Lane;
use super::plan;

/// How long ranks without a file are waited for, since the last file came.
const MISSING: Duration = Duration::from_secs(10);

/// The job that is handed over.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) job: Job,
    pub(super) crew: Crew,
    pub(super) clocks: Clocks,
    /// Unix time at which the clock of the run is 0.
    pub(super) origin_ns: i64,
    pub(super) hello: Option<Box<Hello>>,
    /// The next step.
    pub(super) next: u64,
    pub(super) n_steps: u64,
    /// The end of what was handed over, on the clock of the run.
    pub(super) now_ns: u64,
    /// Whether a step with other operations than the plan's was told of.
    pub(super) told_other_order: bool,
    pub(super) told_waiting: Option<usize>,
    pub(super) n_dropped: u64,
    pub(super) is_over: bool,
    /// Whether any rank has told of time without a core.
    pub(super) knows_starved: bool,
    /// When the last of its files was found.
    since: Instant,
    /// Ranks of the job, as the files tell; 0 if none does.
    world_size: usize,
}

impl Merged {
    pub(super) fn new(job: Job, lanes: &[Lane]) -> Self {
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
            knows_starved: false,
            since: Instant::now(),
            world_size: 0,
        };
        run.name_clocks(lanes);
        run
    }

    /// More files of the same job have come.
    pub(super) fn grows(&mut self, job: Job, lanes: &mut [Lane]) {
        self.crew = Crew::of(lanes, &job);
        self.job = job;
        // The new rank belongs into the first line, so the log begins once more, with a step that
        // nobody has seen without it.
        self.hello = None;
        self.is_over = false;
        self.since = Instant::now();
        let members = self.crew.members.iter();
        let released = members.map(|member| lanes[member.lane].held.released).max().unwrap_or(0);
        for member in &self.crew.members {
            lanes[member.lane].held.skip_to(released);
        }
        self.name_clocks(lanes);
    }

    pub(super) fn name_clocks(&mut self, lanes: &[Lane]) {
        for member in &self.crew.members {
            if let Some(head) = &lanes[member.lane].held.head {
                self.clocks.of(head);
                let n = head.world_size.unwrap_or(0) as usize;
                self.world_size = self.world_size.max(n);
            }
        }
    }

    pub(super) fn clock(&mut self, lanes: &[Lane], member: Member) -> usize {
        lanes[member.lane].held.head.as_ref().map_or(0, |head| self.clocks.of(head))
    }

    /// A time of a rank on the clock of the run.
    pub(super) fn run_ns(&self, clock: usize, own_ns: u64) -> u64 {
        let ns = self.clocks.unix_ns(clock, own_ns).saturating_sub(self.origin_ns);
        u64::try_from(ns).unwrap_or(0)
    }

    /// Hands over what is complete.
    pub(super) fn hand_over(
        &mut self,
        lanes: &mut [Lane],
        dir: &Path,
        ready: &mut VecDeque<Event>,
    ) {
        if self.hello.is_none() {
            match self.first_held(lanes) {
                Some(first) if self.is_complete(lanes, first) => {
                    self.next = first;
                    self.begin(lanes, dir, ready);
                }
                // A job that failed in its first step has an end, and no step.
                None if self.has_ended(lanes) => {
                    self.next = 0;
                    self.begin(lanes, dir, ready);
                }
                _ => {
                    self.tell_waiting(lanes, ready);
                    return;
                }
            }
        }
        // A number may be missing on all ranks.
        while let Some(step) = self.first_held(lanes)
            && self.is_complete(lanes, step)
        {
            self.next = step;
            self.release(lanes, ready);
        }
        self.asides(lanes, ready);
        self.tell_processes(lanes, ready);
        self.end(lanes, ready);
    }

    /// Whether nothing more can come of any rank.
    fn has_ended(&self, lanes: &[Lane]) -> bool {
        let members = &self.crew.members;
        let all = members.iter().all(|member| lanes[member.lane].is_final());
        all && !members.is_empty() && (self.n_missing() == 0 || self.gives_up_missing(lanes))
    }

    /// The first step that any rank holds.
    fn first_held(&self, lanes: &[Lane]) -> Option<u64> {
        let members = self.crew.members.iter();
        members.filter_map(|member| lanes[member.lane].held.steps.keys().next()).min().copied()
    }

    /// Whether a step is to be handed over.
    pub(super) fn is_complete(&self, lanes: &[Lane], step: u64) -> bool {
        let of = |member: &Member| &lanes[member.lane];
        let members = &self.crew.members;
        let mut open = members.iter().filter(|member| !of(member).held.has_closed(step)).peekable();
        let is_waited_for = self.n_missing() > 0 && !self.gives_up_missing(lanes);
        if open.peek().is_none() {
            // At least one rank has it, or a later one.
            return !members.is_empty()
                && !is_waited_for
                && members.iter().any(|member| of(member).held.last_begun >= step);
        }
        let last_begun = members.iter().map(|member| of(member).held.last_begun).max().unwrap_or(0);
        let has_later = last_begun >= step.saturating_add(2);
        let is_last = members.iter().all(|member| of(member).is_final()) && last_begun >= step;
        (has_later || is_last) && !is_waited_for && open.all(|member| of(member).is_quiet())
    }

    /// How many ranks have no file, as far as the files of the others tell.
    pub(super) fn n_missing(&self) -> usize {
        let of_all = self.world_size.saturating_sub(self.crew.members.len() + self.crew.odd.len());
        self.crew.missing.len().max(of_all)
    }

    /// Whether ranks without a file are not waited for any longer.
    fn gives_up_missing(&self, lanes: &[Lane]) -> bool {
        let silent = |member: &Member| lanes[member.lane].silence().is_some_and(|s| s > MISSING);
        self.since.elapsed() > MISSING
            || self.crew.members.iter().all(|m| silent(m) || lanes[m.lane].is_final())
    }

    /// Hands over the next step.
    pub(super) fn release(&mut self, lanes: &mut [Lane], ready: &mut VecDeque<Event>) {
        let step = self.next;
        let members = self.crew.members.clone();
        let mut parts: Vec<(Member, usize, Part)> = Vec::with_capacity(members.len());
        for &member in &members {
            let clock = self.clock(lanes, member);
            if let Some(part) = lanes[member.lane].held.release(step) {
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
        self.knows_starved |= spans.iter().any(|span| span.starved_ns > 0);
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
}
