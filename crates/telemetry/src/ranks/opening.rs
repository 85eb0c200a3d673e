//! The first events of a job: what is waited for, `hello`, and what is to be said at once.

use std::collections::VecDeque;
use std::path::Path;

use pp_trace::{Event, Log, Warn};

use super::clocks::Row;
use super::lane::Lane;
use super::merged::Merged;
use super::plan;

impl Merged {
    pub(super) fn tell_waiting(&mut self, lanes: &[Lane], ready: &mut VecDeque<Event>) {
        let n = self.crew.members.len();
        if self.told_waiting == Some(n) {
            return;
        }
        self.told_waiting = Some(n);
        let mut say = |message| {
            ready.push_back(Event::Log(Log { message, ..Log::default() }));
        };
        for (at, why) in &self.crew.odd {
            let name = lanes[*at].file.path.file_name().unwrap_or_default().to_string_lossy();
            say(format!("{name} is left out: {why}"));
        }
        let program = self.crew.members.first().and_then(|member| {
            let head = lanes[member.lane].held.head.as_ref()?;
            Some(plan::program_of(&head.program).to_owned())
        });
        let Some(program) = program else { return };
        let n_ranks = n + self.n_missing();
        say(format!("{n} of {n_ranks} ranks of {program} have a file; waiting for a whole step"));
    }

    /// The first line of the log, and what is to be said at once.
    pub(super) fn begin(&mut self, lanes: &mut [Lane], dir: &Path, ready: &mut VecDeque<Event>) {
        let step = self.next;
        let members = self.crew.members.clone();
        let clocks: Vec<usize> = members.iter().map(|&m| self.clock(lanes, m)).collect();
        let rows: Vec<Row<'_>> = members
            .iter()
            .zip(&clocks)
            .filter_map(|(member, &clock)| {
                let spans = &lanes[member.lane].held.steps.get(&step)?.spans;
                Some(Row { clock, replica: member.replica, spans })
            })
            .collect();
        self.clocks.correct(&rows);
        let starts = rows.iter().flat_map(|row| {
            row.spans.iter().map(|span| self.clocks.unix_ns(row.clock, span.start_ns))
        });
        let begun = members.iter().zip(&clocks).filter_map(|(member, &clock)| {
            let step = lanes[member.lane].held.steps.get(&step)?.step?;
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
            warn(None, format!("{all}{more} has no file here, so the bubble is not known"));
        } else if !has_plan && step > 0 {
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
            let Some(head) = &lanes[member.lane].held.head else { continue };
            let host = if head.host.is_empty() { &head.boot } else { &head.host };
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
                        "no messages relate the clock of {host} to the first host's; its wall clock is trusted"
                    ),
                ),
            }
        }
    }
}
