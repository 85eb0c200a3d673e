//! The clocks of several machines as one.
//!
//! Ranks of one machine share a clock: that of its boot. For another machine, the wall clock gives
//! a first guess, and messages correct it. A message cannot arrive before it was sent. With an
//! offset of d, messages in one direction seem to take d longer, and those in the other direction d
//! less. So half the difference of the shortest times in both directions is the offset, and half
//! their sum is how far that may be off (NTP's rule, RFC 5905, section 8).

use std::collections::{BTreeMap, HashMap};

use pp_trace::{RankHead, Span, SpanKind};

/// What is added to the time of a machine's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Offset {
    /// To have the time of the first machine.
    ns: i64,
    /// What messages have changed of it: by so much the wall clock is off.
    moved_ns: i64,
    /// How far it may be off; `None` if no messages have told.
    error_ns: Option<i64>,
}

/// The offsets of all machines of a job.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// In the order in which they were named; the first is the reference.
    names: Vec<String>,
    offsets: Vec<Offset>,
}

/// The spans of one step of one rank, and its machine.
pub(super) struct Row<'a> {
    pub(super) clock: usize,
    pub(super) replica: u32,
    pub(super) spans: &'a [Span],
}

/// Without the id of a boot, the name of the host has to do.
fn name_of(head: &RankHead) -> &str {
    if head.boot.is_empty() { &head.host } else { &head.boot }
}

impl Clocks {
    /// The machine of a rank; a new one is placed by its wall clock.
    pub(super) fn of(&mut self, head: &RankHead) -> usize {
        if let Some(at) = self.find(head) {
            return at;
        }
        let name = name_of(head);
        let unix_less_own = i128::from(head.unix_ns) - i128::from(head.elapsed_ns);
        let ns = i64::try_from(unix_less_own).unwrap_or(0);
        self.names.push(name.to_owned());
        self.offsets.push(Offset { ns, moved_ns: 0, error_ns: None });
        self.names.len() - 1
    }

    /// The machine of a rank that was named before.
    pub(super) fn find(&self, head: &RankHead) -> Option<usize> {
        self.names.iter().position(|known| known == name_of(head))
    }

    /// A time of a machine's clock as Unix time of the first machine, in nanoseconds.
    pub(super) fn unix_ns(&self, clock: usize, own_ns: u64) -> i64 {
        let offset = self.offsets.get(clock).map_or(0, |offset| offset.ns);
        i64::try_from(own_ns).unwrap_or(i64::MAX).saturating_add(offset)
    }

    /// By how many seconds the wall clock of a machine is off, and how well that is known.
    pub(super) fn moved_seconds(&self, clock: usize) -> (f64, Option<f64>) {
        let Some(offset) = self.offsets.get(clock) else { return (0.0, None) };
        (offset.moved_ns as f64 * 1e-9, offset.error_ns.map(|ns| ns as f64 * 1e-9))
    }

    /// How many machines there are.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Corrects the offsets of machines on which a message of this step arrives before it was sent.
    pub(super) fn correct(&mut self, rows: &[Row<'_>]) {
        if self.len() < 2 {
            return;
        }
        let gaps = self.gaps(rows);
        let before: Vec<i64> = self.offsets.iter().map(|offset| offset.ns).collect();
        // From the reference to its neighbours, and on to theirs.
        let mut is_placed = vec![false; self.len()];
        is_placed[0] = true;
        let mut reached = vec![0];
        while let Some(from) = reached.pop() {
            for (to, is_placed) in is_placed.iter_mut().enumerate() {
                if *is_placed {
                    continue;
                }
                let (Some(&there), Some(&back)) = (gaps.get(&(from, to)), gaps.get(&(to, from)))
                else {
                    continue;
                };
                *is_placed = true;
                reached.push(to);
                // `from` may have been moved since the gaps were taken.
                let by = self.offsets[from].ns.saturating_sub(before[from]);
                let (there, back) = (there.saturating_sub(by), back.saturating_add(by));
                let error_ns = (there.saturating_add(back) / 2).max(0);
                if there >= 0 && back >= 0 {
                    // The wall clocks fit, or the last correction still does.
                    self.offsets[to].error_ns.get_or_insert(error_ns);
                    continue;
                }
                let ahead = there.saturating_sub(back) / 2;
                let offset = &mut self.offsets[to];
                offset.ns = offset.ns.saturating_sub(ahead);
                offset.moved_ns = offset.moved_ns.saturating_sub(ahead);
                offset.error_ns = Some(error_ns);
            }
        }
    }

    /// The shortest time between the end of an operation on one machine and the start of the next
    /// one on another, for each pair that exchanges messages.
    fn gaps(&self, rows: &[Row<'_>]) -> HashMap<(usize, usize), i64> {
        // Where and when each stage ran each micro-batch.
        let mut forwards = BTreeMap::new();
        let mut backwards = BTreeMap::new();
        for row in rows {
            for span in row.spans {
                let place = match span.op {
                    SpanKind::F => &mut forwards,
                    SpanKind::B | SpanKind::I => &mut backwards,
                    _ => continue,
                };
                let start = self.unix_ns(row.clock, span.start_ns);
                let end = self.unix_ns(row.clock, span.end_ns());
                place.insert((row.replica, span.stage, span.mb), (row.clock, start, end));
            }
        }
        let mut gaps: HashMap<(usize, usize), i64> = HashMap::new();
        let mut note = |from: (usize, i64, i64), to: (usize, i64, i64)| {
            if from.0 != to.0 {
                let gap = to.1.saturating_sub(from.2);
                let least = gaps.entry((from.0, to.0)).or_insert(gap);
                *least = gap.min(*least);
            }
        };
        for (&(replica, stage, mb), &place) in &forwards {
            if let Some(&next) =
                stage.checked_add(1).and_then(|next| forwards.get(&(replica, next, mb)))
            {
                note(place, next);
            }
        }
        for (&(replica, stage, mb), &place) in &backwards {
            if let Some(&next) =
                stage.checked_sub(1).and_then(|next| backwards.get(&(replica, next, mb)))
            {
                note(place, next);
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn head(boot: &str, elapsed_ns: u64, unix_ns: u64) -> RankHead {
        RankHead { boot: boot.to_owned(), elapsed_ns, unix_ns, ..RankHead::default() }
    }

    fn span(op: SpanKind, stage: u32, start_ns: u64) -> Span {
        Span {
            step: 1,
            replica: 0,
            rank: stage,
            stage,
            mb: 0,
            op,
            start_ns,
            dur_ns: 10 * MS,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        }
    }

    /// Three machines in a row. The clock of the second is 300 s ahead, that of the third 7 s
    /// behind, and their monotonic clocks began at other times. A message takes 2 ms.
    #[test]
    fn wall_clocks_that_are_minutes_off_are_corrected_by_messages() {
        let unix = 1_800_000_000_000 * MS;
        let mut clocks = Clocks::default();
        let (a, b, c) = (1_000_000 * MS, 5_000 * MS, 900 * MS);
        for (name, own, wall) in
            [("a", a, unix), ("b", b, unix + 300_000 * MS), ("c", c, unix - 7_000 * MS)]
        {
            clocks.of(&head(name, own, wall));
        }
        let rows = [
            (a, vec![(SpanKind::F, 0), (SpanKind::B, 60)]),
            (b, vec![(SpanKind::F, 12), (SpanKind::B, 48)]),
            (c, vec![(SpanKind::F, 24), (SpanKind::B, 36)]),
        ];
        let spans: Vec<Vec<Span>> = rows
            .iter()
            .enumerate()
            .map(|(stage, (own, ops))| {
                ops.iter().map(|&(op, ms)| span(op, stage as u32, own + ms * MS)).collect()
            })
            .collect();
        let rows: Vec<Row<'_>> = spans
            .iter()
            .enumerate()
            .map(|(clock, spans)| Row { clock, replica: 0, spans })
            .collect();
        clocks.correct(&rows);
        for (clock, own) in [(0, a), (1, b), (2, c)] {
            assert_eq!(clocks.unix_ns(clock, own), (unix as i64), "machine {clock}");
        }
        assert_eq!(clocks.moved_seconds(1), (-300.0, Some(0.002)));
        assert_eq!(clocks.moved_seconds(2), (7.0, Some(0.002)));
        // What fits is left as it is.
        clocks.correct(&rows);
        assert_eq!(clocks.moved_seconds(1), (-300.0, Some(0.002)));
    }

    #[test]
    fn ranks_of_one_boot_share_a_clock() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.of(&head("a", 5, 100)), 0);
        assert_eq!(clocks.of(&head("a", 7, 900)), 0, "a second wall clock changes nothing");
        assert_eq!(clocks.unix_ns(0, 6), 101);
        assert_eq!(clocks.moved_seconds(0), (0.0, None));
    }
}
