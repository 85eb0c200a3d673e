//! Files of ranks as one run: merged while they grow, and whatever happens to them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use pp_telemetry::{End, Event, Follower, Hello, Run, Span, SpanKind, Standing, StepEvent};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const MS: u64 = 1_000_000;
/// The clock of the machine when a job begins.
const BEGAN: u64 = 5_000_000 * MS;

/// A rank of a job that writes its file.
struct Rank {
    file: File,
    path: PathBuf,
    number: u32,
    pp: u32,
    /// What the clock of its machine is ahead of the first one's.
    ahead_ns: u64,
}

/// What differs from job to job.
#[derive(Clone)]
struct Job<'a> {
    dir: &'a Path,
    pp: u32,
    dp: u32,
    micro_batches: u32,
    key: &'a str,
    /// The number in the names of files: 0 for the first job in a folder.
    count: u32,
    unix_ns: u64,
    /// Whether the ranks say how many there are.
    tells_size: bool,
}

impl<'a> Job<'a> {
    fn of(dir: &'a Path) -> Self {
        let unix_ns = 1_800_000_000_000 * MS;
        Self { dir, pp: 2, dp: 1, micro_batches: 2, key: "a", count: 0, unix_ns, tells_size: true }
    }

    fn rank(&self, replica: u32, rank: u32) -> Rank {
        self.rank_on(replica, rank, "boot-a", 0, 0)
    }

    /// A rank of another machine: its monotonic clock is `ahead_ns` ahead of the first one's, and
    /// its wall clock `wall_ahead_ns`.
    fn rank_on(
        &self,
        replica: u32,
        rank: u32,
        boot: &str,
        ahead_ns: u64,
        wall_ahead_ns: u64,
    ) -> Rank {
        let number = replica * self.pp + rank;
        let name = match self.count {
            0 => format!("rank-{number}.jsonl"),
            count => format!("rank-{number}.{count}.jsonl"),
        };
        let path = self.dir.join(name);
        let file = OpenOptions::new().create_new(true).append(true).open(&path).unwrap();
        let mut rank = Rank { file, path, number: rank, pp: self.pp, ahead_ns };
        let pipeline: Vec<u32> = (replica * self.pp..(replica + 1) * self.pp).collect();
        rank.line(&json!({
            "ev": "rank", "schema": 1, "rank": rank.number, "pp": self.pp, "pipeline": pipeline,
            "world_size": self.tells_size.then_some(self.pp * self.dp), "program": "emitter 1.0",
            "schedule": "ScheduleGPipe", "model": "sleep", "n_stages": self.pp,
            "micro_batches": self.micro_batches, "boot": boot, "host": boot, "job": self.key,
            "stages": [{"stage": rank.number, "parameters": 10, "parameter_bytes": 40}],
            "elapsed_ns": BEGAN + ahead_ns, "unix_ns": self.unix_ns + wall_ahead_ns,
        }));
        rank
    }

    fn ranks(&self) -> Vec<Rank> {
        let each = (0..self.dp).flat_map(|replica| (0..self.pp).map(move |rank| (replica, rank)));
        each.map(|(replica, rank)| self.rank(replica, rank)).collect()
    }
}

impl Rank {
    fn line(&mut self, line: &Value) {
        self.text(&format!("{line}\n"));
    }

    fn text(&mut self, text: &str) {
        self.file.write_all(text.as_bytes()).unwrap();
    }

    /// A step of GPipe in which each operation takes 10 ms and a message none.
    fn step(&mut self, step: u64, micro_batches: u32) {
        self.spans(step, micro_batches);
        let start = start_of(step, self.pp, micro_batches) + self.ahead_ns;
        let end = start_of(step + 1, self.pp, micro_batches) + self.ahead_ns;
        let mut line = json!({"ev": "rank_step", "step": step, "start_ns": start, "end_ns": end});
        if self.number + 1 == self.pp {
            line["loss"] = json!(1.0 / step as f64);
        }
        if self.number == 0 {
            line["samples"] = json!(16);
        }
        self.line(&line);
    }

    fn spans(&mut self, step: u64, micro_batches: u32) {
        let (pp, rank) = (u64::from(self.pp), u64::from(self.number));
        let start = start_of(step, self.pp, micro_batches) + self.ahead_ns;
        let m = u64::from(micro_batches);
        let forwards = (0..m).map(|mb| ("F", rank + mb, mb));
        let backwards = (0..m).map(|mb| ("B", pp - 1 + m + (pp - 1 - rank) + mb, mb));
        for (op, slot, mb) in forwards.chain(backwards) {
            self.line(&json!({
                "ev": "span", "step": step, "replica": 0, "rank": self.number, "stage": self.number,
                "mb": mb, "op": op, "start_ns": start + slot * 10 * MS, "dur_ns": 10 * MS,
            }));
        }
    }

    fn end(&mut self, code: i32, reason: &str) {
        self.line(&json!({"ev": "rank_end", "code": code, "reason": reason}));
    }

    /// Makes the file look as if nothing had been written for a minute.
    fn rests(&self) {
        let then = SystemTime::now() - Duration::from_mins(1);
        self.file.set_modified(then).unwrap();
    }
}

/// A step takes as long as its slots, and 10 ms more.
fn start_of(step: u64, pp: u32, micro_batches: u32) -> u64 {
    let n_slots = 2 * u64::from(pp - 1 + micro_batches);
    BEGAN + (step - 1) * (n_slots + 1) * 10 * MS
}

/// What a follower has handed over.
#[derive(Default)]
struct Told {
    events: Vec<Event>,
}

impl Told {
    fn poll(&mut self, follower: &mut Follower) {
        while !follower.poll(|event| self.events.push(event)).unwrap().at_end {}
    }

    fn of(path: &Path) -> Self {
        let mut told = Self::default();
        told.poll(&mut Follower::new(path));
        told
    }

    /// Polls until there is such an event, for at most so long.
    fn until(&mut self, follower: &mut Follower, is_it: impl Fn(&Event) -> bool) {
        let began = Instant::now();
        while !self.events.iter().any(&is_it) {
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", self.texts());
            self.poll(follower);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn hello(&self) -> &Hello {
        let last = self.events.iter().rev().find_map(|event| match event {
            Event::Hello(hello) => Some(&**hello),
            _ => None,
        });
        last.expect("no hello")
    }

    fn steps(&self) -> Vec<&StepEvent> {
        let step = |event: &'_ Event| matches!(event, Event::Step(_));
        self.events
            .iter()
            .filter(|event| step(event))
            .map(|event| match event {
                Event::Step(step) => step,
                _ => unreachable!(),
            })
            .collect()
    }

    fn spans(&self) -> Vec<Span> {
        let span = |event: &Event| match event {
            Event::Span(span) => Some(*span),
            _ => None,
        };
        self.events.iter().filter_map(span).collect()
    }

    fn end(&self) -> Option<&End> {
        self.events.iter().find_map(|event| match event {
            Event::End(end) => Some(end),
            _ => None,
        })
    }

    fn texts(&self) -> Vec<&str> {
        let text = |event: &'_ Event| matches!(event, Event::Warn(_) | Event::Log(_));
        self.events
            .iter()
            .filter(|event| text(event))
            .map(|event| match event {
                Event::Warn(warn) => warn.message.as_str(),
                Event::Log(log) => log.message.as_str(),
                _ => unreachable!(),
            })
            .collect()
    }

    fn says(&self, what: &str) -> bool {
        self.texts().iter().any(|text| text.contains(what))
    }
}

#[test]
fn a_job_has_its_plan_its_name_and_the_bubble_of_the_formula() {
    let dir = TempDir::new().unwrap();
    let job = Job { pp: 3, dp: 2, micro_batches: 4, ..Job::of(dir.path()) };
    for mut rank in job.ranks() {
        (1..=3).for_each(|step| rank.step(step, 4));
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    let hello = told.hello();
    assert_eq!((hello.pp, hello.dp, hello.micro_batches, hello.batch_size), (3, 2, 4, 32));
    assert_eq!((hello.schedule.as_str(), hello.model.as_str()), ("gpipe", "sleep"));
    assert_eq!(hello.program, "emitter 1.0");
    assert_eq!(hello.plan[1], "1F0,1F1,1F2,1F3,1B0,1B1,1B2,1B3");
    assert_eq!(hello.stages.len(), 3);
    assert!(hello.stages.iter().all(|stage| stage.layers.is_none()), "nobody has told the layers");
    assert_eq!(hello.device_map.len(), 6);
    // (p - 1) / (m + p - 1)
    let formula = 2.0 / 6.0;
    assert!((hello.theory.unwrap() - formula).abs() < 1e-12);
    let steps = told.steps();
    assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), [1, 2, 3]);
    for step in steps {
        assert!((step.bubble_ratio - formula).abs() < 1e-9, "{}", step.bubble_ratio);
        assert_eq!(step.loss, Some((1.0 / step.step as f64) as f32));
        assert_eq!((step.samples, step.tokens, step.lr, step.grad_norm), (32, 0, None, None));
        assert!((step.seconds - 0.13).abs() < 1e-9);
    }
    assert_eq!(told.spans().len(), 3 * 6 * 8, "each operation once");
    assert_eq!(told.end().map(|end| (end.code, end.steps)), Some((0, 3)));
    assert_eq!(told.texts(), Vec::<&str>::new(), "there is nothing to be warned of");
}

#[test]
fn a_step_is_shown_when_all_ranks_have_closed_it() {
    let dir = TempDir::new().unwrap();
    let job = Job::of(dir.path());
    let mut ranks = job.ranks();
    let mut follower = Follower::new(dir.path());
    let mut told = Told::default();
    ranks[0].step(1, 2);
    told.poll(&mut follower);
    assert!(told.steps().is_empty() && told.says("2 of 2 ranks"), "{:?}", told.texts());
    ranks[1].spans(1, 2);
    told.poll(&mut follower);
    assert!(told.steps().is_empty());
    ranks[1].step(1, 2);
    told.poll(&mut follower);
    assert_eq!(told.steps().len(), 1);
    // A line comes in two pieces.
    ranks[0].step(2, 2);
    ranks[1].text(r#"{"ev":"span","step":2,"replica":0,"rank":1,"stage":1,"mb":0,"op":"F","#);
    told.poll(&mut follower);
    assert_eq!(told.steps().len(), 1);
    ranks[1].text("\"start_ns\":5000090000000,\"dur_ns\":1}\n");
    ranks[1].step(2, 2);
    told.poll(&mut follower);
    assert_eq!(told.steps().len(), 2);
}

/// The other ranks of a real job stop soon, but what they did until then is shown.
#[test]
fn a_rank_that_was_killed_within_a_line_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let mut ranks = Job::of(dir.path()).ranks();
    for rank in &mut ranks {
        rank.step(1, 2);
    }
    ranks[1].text(r#"{"ev":"span","step":2,"repl"#);
    for step in 2..=4 {
        ranks[0].step(step, 2);
    }
    ranks[1].rests();
    let told = Told::of(dir.path());
    let steps = told.steps();
    assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), [1, 2], "3 may still come");
    assert!(steps[0].bubble_ratio.is_finite());
    assert!(steps[1].bubble_ratio.is_nan(), "a rank is missing, so the bubble is not known");
    assert!(told.end().is_none());
}

#[test]
fn a_rank_without_a_file_is_named() {
    let dir = TempDir::new().unwrap();
    let job = Job { pp: 3, ..Job::of(dir.path()) };
    for rank in [0, 2] {
        let mut rank = job.rank(0, rank);
        (1..=4).for_each(|step| rank.step(step, 2));
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    assert!(told.says("rank 1 has no file here, so the bubble is not known"), "{:?}", told.texts());
    assert!(told.hello().plan.is_empty());
    assert!(told.steps().iter().all(|step| step.bubble_ratio.is_nan()));
    assert_eq!(told.steps().len(), 4);
}

/// A file may become visible later than the others, over NFS for example.
#[test]
fn a_file_that_comes_late_begins_the_log_once_more() {
    let dir = TempDir::new().unwrap();
    let job = Job { pp: 2, dp: 2, tells_size: false, ..Job::of(dir.path()) };
    let mut first: Vec<Rank> = (0..2).map(|rank| job.rank(0, rank)).collect();
    let mut follower = Follower::new(dir.path());
    let mut told = Told::default();
    for rank in &mut first {
        (1..=2).for_each(|step| rank.step(step, 2));
    }
    told.poll(&mut follower);
    assert_eq!((told.hello().dp, told.steps().len()), (1, 2));
    let mut second: Vec<Rank> = (0..2).map(|rank| job.rank(1, rank)).collect();
    for rank in first.iter_mut().chain(&mut second) {
        rank.step(3, 2);
    }
    told.until(&mut follower, |event| matches!(event, Event::Step(step) if step.step == 3));
    // Until the folder has been looked at again, the first replica may go on alone.
    std::thread::sleep(Duration::from_millis(1100));
    told.poll(&mut follower);
    for rank in first.iter_mut().chain(&mut second) {
        rank.step(4, 2);
    }
    told.until(&mut follower, |event| matches!(event, Event::Hello(hello) if hello.dp == 2));
    told.until(&mut follower, |event| matches!(event, Event::Step(step) if step.step == 4));
    let spans = told.spans();
    assert_eq!(spans.iter().filter(|span| span.step == 4 && span.replica == 1).count(), 8);
    let of_three = spans.iter().filter(|span| span.step == 3 && span.replica == 0).count();
    assert!(of_three <= 8, "no step is shown twice");
}

/// With two replicas of which one is not there yet, nothing is shown that would have to begin anew.
#[test]
fn all_ranks_that_are_announced_are_waited_for() {
    let dir = TempDir::new().unwrap();
    let job = Job { pp: 2, dp: 2, ..Job::of(dir.path()) };
    let mut follower = Follower::new(dir.path());
    let mut told = Told::default();
    for mut rank in (0..2).map(|rank| job.rank(0, rank)) {
        (1..=2).for_each(|step| rank.step(step, 2));
    }
    told.poll(&mut follower);
    assert!(told.steps().is_empty());
    assert!(told.says("2 of 4 ranks of emitter 1.0 have a file"), "{:?}", told.texts());
    for mut rank in (0..2).map(|rank| job.rank(1, rank)) {
        (1..=2).for_each(|step| rank.step(step, 2));
    }
    told.until(&mut follower, |event| matches!(event, Event::Step(step) if step.step == 2));
    assert_eq!((told.hello().dp, told.steps().len()), (2, 2));
}

/// The second machine's wall clock is five minutes ahead, and it was started at another time.
#[test]
fn a_clock_that_is_minutes_off_is_corrected_and_named() {
    let dir = TempDir::new().unwrap();
    let job = Job::of(dir.path());
    let minutes = 5 * 60 * 1000 * MS;
    let mut ranks = [job.rank(0, 0), job.rank_on(0, 1, "boot-b", 77_000 * MS, minutes)];
    for rank in &mut ranks {
        (1..=2).for_each(|step| rank.step(step, 2));
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    assert!(told.says("the clock of boot-b is 300.0 s ahead"), "{:?}", told.texts());
    let formula = 1.0 / 3.0;
    for step in told.steps() {
        assert!((step.bubble_ratio - formula).abs() < 1e-6, "{}", step.bubble_ratio);
    }
    let spans = told.spans();
    for span in spans.iter().filter(|span| span.stage == 1 && span.op == SpanKind::F) {
        let sent = spans.iter().find(|sent| {
            (sent.step, sent.mb, sent.op, sent.stage) == (span.step, span.mb, SpanKind::F, 0)
        });
        assert!(sent.unwrap().end_ns() <= span.start_ns, "a message arrives before it is sent");
    }
    let hosts = &told.hello().hosts;
    assert_eq!(hosts.len(), 2);
    assert!((hosts[1].clock_offset_seconds + 300.0).abs() < 0.1);
}

#[test]
fn a_job_that_was_started_again_is_shown_and_the_earlier_one_by_its_file() {
    let dir = TempDir::new().unwrap();
    let first = Job::of(dir.path());
    for mut rank in first.ranks() {
        (1..=2).for_each(|step| rank.step(step, 2));
        rank.end(1, "ValueError: no");
    }
    // The launcher's variables are the same; the names of the files are not.
    let again = Job { count: 1, unix_ns: first.unix_ns + 60_000 * MS, ..first.clone() };
    for mut rank in again.ranks() {
        (1..=5).for_each(|step| rank.step(step, 2));
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    assert_eq!((told.steps().len(), told.end().unwrap().code), (5, 0));
    assert!(told.says("this folder has the files of 2 jobs, and the newest is shown"));
    let earlier = Told::of(&dir.path().join("rank-1.jsonl"));
    assert_eq!(earlier.steps().len(), 2);
    let end = earlier.end().unwrap();
    assert_eq!((end.code, end.rank), (1, Some(0)));
    assert_eq!(end.reason, "rank 0: ValueError: no");
}

#[test]
fn two_jobs_at_once_are_not_mixed() {
    let dir = TempDir::new().unwrap();
    let one = Job::of(dir.path());
    let two = Job { key: "b", count: 1, unix_ns: one.unix_ns + MS, pp: 2, ..one.clone() };
    let (mut first, mut second) = (one.ranks(), two.ranks());
    let mut follower = Follower::new(dir.path());
    let mut told = Told::default();
    for step in 1..=3 {
        for rank in first.iter_mut().chain(&mut second) {
            rank.step(step, 2);
        }
        told.poll(&mut follower);
    }
    assert_eq!(told.steps().len(), 3);
    assert_eq!(told.spans().len(), 3 * 2 * 4, "the operations of one job");
}

#[test]
fn a_file_that_shrinks_is_left_and_the_others_are_read_on() {
    let dir = TempDir::new().unwrap();
    let mut ranks = Job::of(dir.path()).ranks();
    let mut follower = Follower::new(dir.path());
    let mut told = Told::default();
    for rank in &mut ranks {
        rank.step(1, 2);
    }
    told.poll(&mut follower);
    assert_eq!(told.steps().len(), 1);
    ranks[1].file.set_len(10).unwrap();
    for step in 2..=4 {
        ranks[0].step(step, 2);
    }
    told.poll(&mut follower);
    told.poll(&mut follower);
    assert!(told.says("has shrunk"), "{:?}", told.texts());
    assert_eq!(told.steps().last().unwrap().step, 2);
}

#[test]
fn another_order_than_in_the_first_step_is_told_once() {
    let dir = TempDir::new().unwrap();
    for mut rank in Job::of(dir.path()).ranks() {
        rank.step(1, 2);
        rank.step(2, 2);
        rank.step(3, 3);
        rank.step(4, 3);
    }
    let told = Told::of(dir.path());
    let texts = told.texts();
    let others: Vec<_> = texts.iter().filter(|text| text.contains("other operations")).collect();
    assert_eq!(others.len(), 1, "{texts:?}");
    assert!(others[0].contains("step 3"), "{others:?}");
}

#[test]
fn files_that_do_not_fit_are_left_out_by_name() {
    let dir = TempDir::new().unwrap();
    let job = Job::of(dir.path());
    for mut rank in job.ranks() {
        (1..=2).for_each(|step| rank.step(step, 2));
    }
    std::fs::write(
        dir.path().join("rank-9.jsonl"),
        "{\"ev\":\"rank\",\"rank\":7,\"pp\":2,\"pipeline\":[0,1],\"job\":\"a\"}\n",
    )
    .unwrap();
    let told = Told::of(dir.path());
    assert!(told.says("rank-9.jsonl is left out: it says rank 7 of 2"), "{:?}", told.texts());
    assert_eq!(told.steps().len(), 2);
}

/// A first file that is broken says nothing about the others.
#[test]
fn one_odd_file_does_not_hide_the_others() {
    let dir = TempDir::new().unwrap();
    std::fs::write(
        dir.path().join("rank-0.jsonl"),
        "{\"ev\":\"rank\",\"rank\":0,\"pp\":4000000000,\"pipeline\":[0,1],\"job\":\"a\"}\n",
    )
    .unwrap();
    let job = Job { count: 1, ..Job::of(dir.path()) };
    for mut rank in job.ranks() {
        (1..=2).for_each(|step| rank.step(step, 2));
        rank.end(0, "finished");
    }
    // The second file of rank 0 and the first of rank 1 belong to different jobs by their numbers,
    // so one of them has to be named; it is the others' job that is shown.
    let told = Told::of(&dir.path().join("rank-1.1.jsonl"));
    assert!(told.says("rank-0.jsonl is left out: it says 4000000000 ranks"), "{:?}", told.texts());
    assert_eq!((told.hello().pp, told.steps().len()), (2, 2));
}

/// An error in the first forward leaves no step, but an end.
#[test]
fn a_job_that_fails_before_its_first_operation_is_over_and_says_why() {
    let dir = TempDir::new().unwrap();
    for mut rank in Job::of(dir.path()).ranks() {
        rank.end(1, "RuntimeError: out of memory");
    }
    let told = Told::of(dir.path());
    assert_eq!((told.hello().pp, told.steps().len()), (2, 0));
    let end = told.end().unwrap();
    assert_eq!((end.code, end.reason.as_str()), (1, "rank 0: RuntimeError: out of memory"));
}

#[test]
fn a_file_without_its_first_line_is_named() {
    let dir = TempDir::new().unwrap();
    for mut rank in Job::of(dir.path()).ranks() {
        rank.step(1, 2);
        rank.end(0, "finished");
    }
    let text = std::fs::read_to_string(dir.path().join("rank-0.jsonl")).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    std::fs::write(dir.path().join("rank-2.jsonl"), rest).unwrap();
    let told = Told::of(dir.path());
    assert_eq!(told.steps().len(), 1);
    assert!(told.says("rank-2.jsonl is left out: its first line is missing"), "{:?}", told.texts());
}

/// Each rank has a file, and a process may open 1,024 by default.
#[test]
fn more_ranks_than_a_process_may_open_files_are_shown() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(512), maximum: limit.maximum },
    )
    .unwrap();
    let dir = TempDir::new().unwrap();
    let job = Job { pp: 600, micro_batches: 1, ..Job::of(dir.path()) };
    for rank in 0..600 {
        let mut rank = job.rank(0, rank);
        rank.step(1, 1);
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    assert_eq!((told.hello().pp, told.steps().len()), (600, 1));
    assert_eq!(told.texts(), Vec::<&str>::new());
}

/// Numbers of steps may be anything: one after another would take for ever.
#[test]
fn a_number_of_a_step_that_jumps_is_no_reason_to_count() {
    let dir = TempDir::new().unwrap();
    let mut ranks = Job::of(dir.path()).ranks();
    for rank in &mut ranks {
        rank.step(1, 2);
        for step in [0, 1 << 50, u64::MAX] {
            rank.line(&json!({"ev": "span", "step": step, "rank": rank.number, "op": "F",
                "start_ns": BEGAN, "dur_ns": 1}));
            rank.line(
                &json!({"ev": "rank_step", "step": step, "start_ns": BEGAN, "end_ns": BEGAN}),
            );
        }
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    let steps: Vec<u64> = told.steps().iter().map(|step| step.step).collect();
    assert_eq!(steps, [1, 1 << 50, u64::MAX]);
    assert!(told.says("2 lines of rank 0 are of step 0; steps count from 1"), "{:?}", told.texts());
}

#[test]
fn lost_events_are_added_up_over_the_ranks_and_not_over_time() {
    let dir = TempDir::new().unwrap();
    for mut rank in Job::of(dir.path()).ranks() {
        rank.step(1, 2);
        for count in [10, 25, 40] {
            rank.line(&json!({"ev": "dropped", "elapsed_ns": BEGAN, "count": count}));
        }
        rank.step(2, 2);
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    let last = told.events.iter().rev().find_map(|event| match event {
        Event::Dropped(dropped) => Some(dropped.count),
        _ => None,
    });
    assert_eq!(last, Some(80));
}

/// Looks at the thread of a rank go on while the rank hangs.
#[test]
fn a_rank_that_hangs_makes_no_progress_whatever_is_written_of_its_thread() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let unix_ns = u64::try_from(now.as_nanos()).unwrap() - 100 * 1000 * MS;
    let job = Job { unix_ns, ..Job::of(dir.path()) };
    for mut rank in job.ranks() {
        rank.step(1, 2);
        rank.line(&json!({"ev": "cpu", "elapsed_ns": BEGAN + 99_000 * MS, "cpu_ns": 1}));
    }
    let status = Run::of(dir.path()).unwrap().unwrap().status.unwrap();
    let silent_ms = unix_ns / MS + 100_000 - status.progressed_unix_ms;
    assert!((99_000..=100_000).contains(&silent_ms), "{silent_ms}");
}

/// A folder with files of ranks is a run like any other.
#[test]
fn a_folder_with_files_of_ranks_is_a_run() {
    let dir = TempDir::new().unwrap();
    let mut ranks = Job::of(dir.path()).ranks();
    for rank in &mut ranks {
        rank.step(1, 2);
    }
    let run = Run::of(dir.path()).unwrap().unwrap();
    assert!(run.has_ranks());
    assert_eq!(run.log, dir.path());
    assert_eq!(run.standing(), Standing::Unknown, "its processes are of another machine");
    for rank in &mut ranks {
        rank.end(0, "finished");
    }
    assert_eq!(Run::of(dir.path()).unwrap().unwrap().standing(), Standing::Finished);
    let status = Run::of(dir.path()).unwrap().unwrap().status.unwrap();
    assert_eq!(
        (status.pp, status.dp, status.step, status.program.as_str()),
        (2, 1, 1, "emitter 1.0")
    );
    // A log stands for the files from then on.
    std::fs::write(dir.path().join("events.jsonl"), "").unwrap();
    assert!(!Run::of(dir.path()).unwrap().unwrap().has_ranks());
}

#[test]
fn long_files_are_read_side_by_side_in_bounded_memory() {
    let dir = TempDir::new().unwrap();
    for mut rank in Job::of(dir.path()).ranks() {
        let mut file = std::io::BufWriter::new(rank.file.try_clone().unwrap());
        for step in 1..=5000_u64 {
            let start = start_of(step, 2, 2);
            let (id, stage) = (rank.number, rank.number);
            for (op, mb) in [("F", 0), ("F", 1), ("B", 0), ("B", 1)] {
                writeln!(file, r#"{{"ev":"span","step":{step},"replica":0,"rank":{id},"stage":{stage},"mb":{mb},"op":"{op}","start_ns":{start},"dur_ns":1000,"cpu_ns":0,"bytes":0,"starved_ns":0}}"#).unwrap();
            }
            writeln!(
                file,
                r#"{{"ev":"rank_step","step":{step},"start_ns":{start},"end_ns":{}}}"#,
                start + 5
            )
            .unwrap();
        }
        file.flush().unwrap();
        rank.end(0, "finished");
    }
    let told = Told::of(dir.path());
    assert_eq!(told.steps().len(), 5000);
    assert_eq!(told.spans().len(), 5000 * 8);
    let mut last = 0;
    for event in &told.events {
        match event {
            Event::Span(span) => assert!(span.step == last + 1, "steps come one after another"),
            Event::Step(step) => last = step.step,
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is in the files, nothing panics, and reading ends.
    #[test]
    fn files_of_anything_are_read_to_their_end(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        n_lines_kept in 0_usize..40,
    ) {
        let dir = TempDir::new().unwrap();
        for mut rank in Job::of(dir.path()).ranks() {
            (1..=2).for_each(|step| rank.step(step, 2));
            rank.end(0, "finished");
            let mut text = std::fs::read(&rank.path).unwrap();
            for (at, byte) in &edits {
                let at = at.index(text.len());
                text[at] = *byte;
            }
            let kept: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').take(n_lines_kept).collect();
            std::fs::write(&rank.path, kept.concat()).unwrap();
            rank.rests();
        }
        let mut told = Told::default();
        let mut follower = Follower::new(dir.path());
        for _ in 0..100 {
            match follower.poll(|event| told.events.push(event)) {
                Ok(poll) if poll.at_end => return Ok(()),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
        prop_assert!(false, "it is never at its end");
    }
}
