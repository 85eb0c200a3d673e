//! What belongs to no step: looks at threads and devices, messages, processes, and the end.

use std::collections::VecDeque;

use pp_trace::{Dropped, End, Event, Warn};

use super::lane::{Lane, Seen};
use super::merged::Merged;

impl Merged {
    /// What belongs to no step.
    pub(super) fn asides(&mut self, lanes: &mut [Lane], ready: &mut VecDeque<Event>) {
        let members = self.crew.members.clone();
        for (at, &member) in members.iter().enumerate() {
            let clock = self.clock(lanes, member);
            let (replica, rank) = (member.replica, member.rank);
            for aside in std::mem::take(&mut lanes[member.lane].held.asides) {
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
                        // Each rank counts from its start.
                        let lane = &mut lanes[member.lane];
                        let more = count.saturating_sub(lane.held.n_dropped);
                        lane.held.n_dropped = lane.held.n_dropped.max(count);
                        self.n_dropped = self.n_dropped.saturating_add(more);
                        let elapsed_ns = self.run_ns(clock, elapsed_ns);
                        Event::Dropped(Dropped { elapsed_ns, count: self.n_dropped })
                    }
                    _ => continue,
                };
                ready.push_back(event);
            }
            let lane = &mut lanes[member.lane];
            if lane.held.n_late > 0 || lane.held.n_of_step_0 > 0 || lane.held.trouble.is_some() {
                let n_late = std::mem::take(&mut lane.held.n_late);
                let n_of_step_0 = std::mem::take(&mut lane.held.n_of_step_0);
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
                if n_of_step_0 > 0 {
                    let name = self.crew.name(&member);
                    say(format!("{n_of_step_0} lines of {name} are of step 0; steps count from 1"));
                }
                if let Some(trouble) = lane.trouble_to_tell() {
                    say(trouble);
                }
            }
        }
    }

    /// Says which processes are gone, are stopped, or go on.
    pub(super) fn tell_processes(&self, lanes: &mut [Lane], ready: &mut VecDeque<Event>) {
        for member in &self.crew.members {
            let lane = &mut lanes[member.lane];
            let Some((was, is)) = lane.change_to_tell() else { continue };
            let pid = lane.held.head.as_ref().map_or(0, |head| head.pid);
            let rank = self.crew.name(member);
            let message = match (was, is) {
                (_, Seen::Gone) => {
                    let last = lane.held.last_begun;
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
    pub(super) fn end(&mut self, lanes: &[Lane], ready: &mut VecDeque<Event>) {
        let members = &self.crew.members;
        let ends = || {
            members
                .iter()
                .filter_map(|member| lanes[member.lane].held.end.as_ref().map(|end| (member, end)))
        };
        let is_read = members.iter().all(|member| {
            let lane = &lanes[member.lane];
            lane.is_at_end() && lane.held.steps.is_empty()
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
