//! What the view of the log shows: which lines of it, and how far back.

use std::borrow::Cow;

use pp_telemetry::{Alarm, Level, Lost, Message, Model, SlowGroup};

use super::super::input::Action;
use super::super::words;

/// Lines that a page is made of.
const PAGE: isize = 10;

/// A line of the log, before it is put into words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Entry<'a> {
    /// The run has said it.
    Message(&'a Message),
    /// Something took longer than usual, once or again and again.
    Slow(&'a SlowGroup),
    /// The training goes wrong, and since when that is known.
    Alarm(u64, Alarm),
    /// The recorder could not keep up.
    Lost(Lost),
}

impl<'a> Entry<'a> {
    /// What is drawn, and searched.
    pub(crate) fn text(self) -> Cow<'a, str> {
        match self {
            Self::Message(message) if message.count <= 1 => words::clean(&message.text),
            Self::Message(message) => words::clean(&message.line()).into_owned().into(),
            Self::Slow(slow) => words::clean(&words::slow_group(slow)).into_owned().into(),
            Self::Alarm(_, alarm) => alarm.to_string().into(),
            Self::Lost(lost) => words::lost(&lost).into(),
        }
    }

    /// The step that it belongs to, if any.
    pub(crate) fn step(self) -> Option<u64> {
        match self {
            Self::Message(message) => message.step,
            Self::Slow(slow) => Some(slow.last.step),
            Self::Alarm(_, alarm) => Some(alarm.step()),
            Self::Lost(lost) => lost.step,
        }
    }

    /// When it was known.
    pub(crate) fn elapsed_ns(self) -> u64 {
        match self {
            Self::Message(message) => message.elapsed_ns,
            Self::Slow(slow) => slow.last.elapsed_ns,
            Self::Alarm(elapsed_ns, _) => elapsed_ns,
            Self::Lost(lost) => lost.elapsed_ns,
        }
    }

    fn is_warning(self) -> bool {
        !matches!(self, Self::Message(Message { level: Level::Info, .. }))
    }
}

/// A line that stays on the screen while others arrive: its time, and its place among the lines
/// of that time.
type Held = (u64, usize);

/// The state of the log view.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct LogState {
    filter: String,
    warnings_only: bool,
    /// The line that one has gone back to; `None` follows the newest.
    held: Option<Held>,
}

impl LogState {
    /// Does what a key asks for.
    pub(crate) fn act(&mut self, action: Action, model: &Model) {
        match action {
            Action::Warnings => self.warnings_only ^= true,
            Action::Scroll(by) => self.go(by, model),
            Action::Page(by) => self.go(PAGE.saturating_mul(by), model),
            Action::Edge { last } => self.go(if last { isize::MAX } else { isize::MIN }, model),
            _ => {}
        }
    }

    fn go(&mut self, by: isize, model: &Model) {
        let entries = self.entries(model);
        let Some(last) = entries.len().checked_sub(1) else { return };
        let at = self.held_at(&entries).unwrap_or(last);
        let to = at.saturating_add_signed(by);
        self.held = (to < last).then(|| place(&entries, to)).flatten();
    }

    /// Shows only what contains a text.
    pub(crate) fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.held = None;
    }

    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    pub(crate) fn warnings_only(&self) -> bool {
        self.warnings_only
    }

    /// The line that is held, by its place in `entries`; `None` where the newest is followed.
    pub(crate) fn held_at(&self, entries: &[Entry<'_>]) -> Option<usize> {
        let (time, nth) = self.held?;
        let first = entries.partition_point(|entry| entry.elapsed_ns() < time);
        let last = entries.len().checked_sub(1)?;
        (first.saturating_add(nth) < last).then_some(first + nth)
    }

    /// The lines that are wanted, oldest first.
    pub(crate) fn entries<'a>(&self, model: &'a Model) -> Vec<Entry<'a>> {
        let mut entries: Vec<Entry<'a>> = model.messages().map(Entry::Message).collect();
        entries.extend(model.slow_groups().map(Entry::Slow));
        // A trainer that warns of it itself has said the same.
        let is_told = |alarm: &Alarm| {
            let text = alarm.to_string();
            model.messages().any(|message| message.text == text)
        };
        let alarms = model.alarms().filter(|(_, alarm)| !is_told(alarm));
        entries.extend(alarms.map(|(elapsed_ns, alarm)| Entry::Alarm(elapsed_ns, alarm)));
        entries.extend(model.lost_groups().into_iter().map(Entry::Lost));
        entries.retain(|entry| {
            (!self.warnings_only || entry.is_warning())
                && (self.filter.is_empty() || !words::find(&entry.text(), &self.filter).is_empty())
        });
        entries.sort_by_key(|entry| entry.elapsed_ns());
        entries
    }

    /// Closes the last thing that was opened, if any.
    pub(crate) fn back(&mut self) -> bool {
        let is_held = self.held.take().is_some();
        let is_filtered = !std::mem::take(&mut self.filter).is_empty();
        is_held || is_filtered || std::mem::take(&mut self.warnings_only)
    }
}

/// Where a line stands, in words that stay true when older ones go.
fn place(entries: &[Entry<'_>], at: usize) -> Option<Held> {
    let time = entries.get(at)?.elapsed_ns();
    let first = entries.partition_point(|entry| entry.elapsed_ns() < time);
    Some((time, at - first))
}

#[cfg(test)]
mod tests {
    use pp_telemetry::{Event, Log, Warn};

    use super::*;

    fn model(n_messages: u64) -> Model {
        let mut model = Model::new();
        for at in 0..n_messages {
            let message = format!("message {at}");
            let elapsed_ns = at / 2;
            model.apply(&if at % 5 == 0 {
                Event::Warn(Warn { elapsed_ns, message, ..Warn::default() })
            } else {
                Event::Log(Log { elapsed_ns, message, ..Log::default() })
            });
        }
        model
    }

    fn held(log: &LogState, model: &Model) -> Option<String> {
        let entries = log.entries(model);
        match entries.get(log.held_at(&entries)?)? {
            Entry::Message(message) => Some(message.text.clone()),
            _ => None,
        }
    }

    #[test]
    fn what_is_held_stays_while_others_come_and_go() {
        let mut log = LogState::default();
        log.act(Action::Scroll(-1), &model(20));
        assert_eq!(held(&log, &model(20)).as_deref(), Some("message 18"));
        assert_eq!(held(&log, &model(300)).as_deref(), Some("message 18"));
        log.act(Action::Page(-1), &model(300));
        assert_eq!(held(&log, &model(300)).as_deref(), Some("message 8"));
        // Five hundred are kept: the line itself is gone, and the oldest that is left takes its
        // place.
        assert_eq!(held(&log, &model(700)).as_deref(), Some("message 200"));
        log.act(Action::Edge { last: true }, &model(300));
        assert_eq!(held(&log, &model(300)), None);
    }

    #[test]
    fn at_the_last_line_the_newest_is_followed_again() {
        let (model, mut log) = (model(3), LogState::default());
        log.act(Action::Edge { last: false }, &model);
        assert_eq!(held(&log, &model).as_deref(), Some("message 0"));
        log.act(Action::Scroll(1), &model);
        log.act(Action::Scroll(1), &model);
        assert_eq!(log, LogState::default());
    }

    #[test]
    fn warnings_stand_alone_on_request() {
        let (model, mut log) = (model(20), LogState::default());
        log.act(Action::Warnings, &model);
        assert_eq!(log.entries(&model).len(), 4);
        assert!(log.back() && !log.back());
        assert_eq!(log.entries(&model).len(), 20);
    }
}
