//! The list as one moves in it. Nothing here reads a file, a clock or the terminal.

use std::path::PathBuf;
use std::time::Duration;

use super::comparison::Comparison;
use super::row::Row;
use crate::monitor::screen::{Choice, Dialog, Prompt, PromptKind, Question};
use crate::monitor::words::{self, format};

/// What a key asks for in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunsAction {
    /// Leave.
    Quit,
    /// Close what lies over the list, or forget the search, the marks.
    Back,
    /// Another run.
    Move(isize),
    /// A screen of them further.
    Page(isize),
    /// The first, or the last.
    Edge {
        /// Whether the last is meant.
        last: bool,
    },
    /// Look for a text.
    Filter,
    /// Sort by something else.
    Sort,
    /// Mark it, or not, to compare it with another one.
    Mark,
    /// Compare the two that are marked.
    Compare,
    /// Watch it.
    Open,
    /// Play it again.
    Replay,
    /// Delete it; that is asked about.
    Delete,
    /// Type a character.
    Type(char),
    /// Take the last character back.
    Erase,
    /// Do what a prompt says, or what is chosen of a question.
    Accept,
    /// Choose another answer.
    Answer(isize),
    /// Choose an answer.
    Choose(Choice),
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back to the shell for a while.
    Suspend,
}

impl RunsAction {
    /// Whether it leaves the list: a letter of pasted text must not do so.
    pub(crate) fn has_consequences(self) -> bool {
        matches!(self, Self::Quit | Self::Open | Self::Replay | Self::Accept)
    }
}

/// What the program has to do for a key. Runs are named by their folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunsEffect {
    /// Leave.
    Leave,
    /// Watch a run.
    Open(PathBuf),
    /// Play a run again.
    Replay(PathBuf),
    /// Remove the files of a run.
    Delete(PathBuf),
    /// Read the logs of two runs.
    Compare([PathBuf; 2]),
    /// Lay the losses of two runs over each other.
    LayOver([PathBuf; 2]),
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back to the shell for a while.
    Suspend,
}

/// What the list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// The newest first.
    Newest,
    /// The lowest loss first.
    Loss,
    /// The longest first.
    Time,
    /// The most steps first.
    Steps,
    /// By name.
    Name,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Newest, Self::Loss, Self::Time, Self::Steps, Self::Name];

    /// What the screen says of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest first",
            Self::Loss => "by loss",
            Self::Time => "by time",
            Self::Steps => "by steps",
            Self::Name => "by name",
        }
    }
}

/// What lies over the list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Over {
    Ask(Dialog),
    Prompt(Prompt),
    Comparison(Comparison),
}

/// The list, and where one is in it.
#[derive(Debug, Clone)]
pub struct RunsState {
    /// The newest first.
    rows: Vec<Row>,
    sort: Sort,
    filter: String,
    /// The folder of the run that is chosen.
    chosen: Option<PathBuf>,
    /// Two at most, in the order in which they were marked.
    marked: Vec<PathBuf>,
    over: Option<Over>,
    note: Option<String>,
    now: Duration,
}

impl RunsState {
    /// A list of runs, the newest first.
    pub fn new(rows: Vec<Row>) -> Self {
        let mut state = Self {
            rows: Vec::new(),
            sort: Sort::Newest,
            filter: String::new(),
            chosen: None,
            marked: Vec::new(),
            over: None,
            note: None,
            now: Duration::ZERO,
        };
        state.set_rows(rows);
        state
    }

    /// Takes the runs as they are now; where one is stays.
    pub fn set_rows(&mut self, rows: Vec<Row>) {
        let at = self.chosen_at();
        self.rows = rows;
        self.marked.retain(|dir| self.rows.iter().any(|row| row.run.dir == *dir));
        let is_there = self
            .chosen
            .as_ref()
            .is_some_and(|dir| self.shown().iter().any(|row| row.run.dir == *dir));
        if !is_there {
            self.choose_at(at.unwrap_or(0));
        }
    }

    /// Takes the time of a clock that only goes on.
    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// What came of the last thing that was asked for.
    pub fn set_note(&mut self, note: String) {
        self.note = Some(note);
    }

    /// Shows two runs side by side.
    pub fn show_comparison(&mut self, comparison: Comparison) {
        self.note = None;
        self.over = Some(Over::Comparison(comparison));
    }

    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    pub(crate) fn over(&self) -> Option<&Over> {
        self.over.as_ref()
    }

    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    pub(crate) fn sort(&self) -> Sort {
        self.sort
    }

    pub(crate) fn n_runs(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn n_live(&self) -> usize {
        self.rows.iter().filter(|row| row.standing.is_alive()).count()
    }

    pub(crate) fn is_marked(&self, row: &Row) -> bool {
        self.marked.contains(&row.run.dir)
    }

    pub(crate) fn n_marked(&self) -> usize {
        self.marked.len()
    }

    /// The runs that are looked for, in their order.
    pub(crate) fn shown(&self) -> Vec<&Row> {
        let is_wanted = |row: &&Row| {
            self.filter.is_empty() || !words::find(&row.text(), &self.filter).is_empty()
        };
        let mut rows: Vec<&Row> = self.rows.iter().filter(is_wanted).collect();
        // Unknown values come last.
        let by = |value: Option<f64>| value.filter(|v| v.is_finite()).unwrap_or(f64::MAX);
        match self.sort {
            Sort::Newest => {}
            Sort::Loss => rows.sort_by(|a, b| by(a.loss).total_cmp(&by(b.loss))),
            Sort::Time => {
                rows.sort_by(|a, b| {
                    by(a.seconds.map(|s| -s)).total_cmp(&by(b.seconds.map(|s| -s)))
                });
            }
            Sort::Steps => rows.sort_by_key(|row| std::cmp::Reverse(row.steps.0)),
            Sort::Name => rows.sort_by(|a, b| a.run.id.cmp(&b.run.id)),
        }
        rows
    }

    /// Where the chosen run is in the list.
    pub(crate) fn chosen_at(&self) -> Option<usize> {
        let dir = self.chosen.as_ref()?;
        self.shown().iter().position(|row| row.run.dir == *dir)
    }

    /// The run that is chosen.
    pub(crate) fn chosen(&self) -> Option<&Row> {
        self.chosen_at().map(|at| self.shown()[at])
    }

    /// Chooses the run at a place in the list, or the last.
    pub fn choose_at(&mut self, at: usize) {
        let shown = self.shown();
        let row = shown.get(at).or(shown.last());
        self.chosen = row.map(|row| row.run.dir.clone());
    }

    /// What a click at an answer of the question does: it chooses.
    pub(crate) fn choose_answer(&mut self, at: usize) {
        let now = self.now;
        if let Some(Over::Ask(dialog)) = &mut self.over
            && dialog.listens(now)
        {
            dialog.choose_at(at);
        }
    }

    /// Takes pasted text where a line is typed, and nowhere else.
    pub fn paste(&mut self, text: &str) {
        match &mut self.over {
            Some(Over::Prompt(prompt)) => prompt.paste(text),
            _ => self.note = Some("pasted text is ignored here".to_owned()),
        }
    }

    /// Whether a key does what it does also where it came as pasted text does.
    pub(crate) fn takes_pasted(&self, action: RunsAction) -> bool {
        match &self.over {
            Some(Over::Prompt(_)) => true,
            _ => !action.has_consequences(),
        }
    }

    /// Does what a key asks for; what lies outside of the list is returned.
    pub fn act(&mut self, action: RunsAction) -> Option<RunsEffect> {
        self.note = None;
        match action {
            RunsAction::Redraw => return Some(RunsEffect::Redraw),
            RunsAction::Suspend => return Some(RunsEffect::Suspend),
            _ => {}
        }
        match self.over.take() {
            Some(Over::Ask(dialog)) => return self.answer(dialog, action),
            Some(Over::Prompt(prompt)) => {
                self.type_into(prompt, action);
                return None;
            }
            Some(Over::Comparison(comparison)) => {
                match (action, self.marked.as_slice()) {
                    (RunsAction::Open, [first, second]) => {
                        return Some(RunsEffect::LayOver([first.clone(), second.clone()]));
                    }
                    (RunsAction::Quit | RunsAction::Back, _) => {}
                    _ => self.over = Some(Over::Comparison(comparison)),
                }
                return None;
            }
            None => {}
        }
        let at = self.chosen_at().unwrap_or(0);
        let last = self.shown().len().saturating_sub(1);
        match action {
            RunsAction::Quit => return Some(RunsEffect::Leave),
            RunsAction::Back => self.back(),
            RunsAction::Move(by) | RunsAction::Page(by) => {
                self.choose_at(at.saturating_add_signed(by).min(last));
            }
            RunsAction::Edge { last: true } => self.choose_at(last),
            RunsAction::Edge { last: false } => self.choose_at(0),
            RunsAction::Filter => {
                self.over = Some(Over::Prompt(Prompt::new(PromptKind::Filter)));
            }
            RunsAction::Sort => {
                let at = Sort::ALL.iter().position(|sort| *sort == self.sort).unwrap_or(0);
                self.sort = Sort::ALL[(at + 1) % Sort::ALL.len()];
            }
            RunsAction::Mark => self.mark(at),
            RunsAction::Compare => return self.compare(),
            RunsAction::Open => return self.chosen.clone().map(RunsEffect::Open),
            RunsAction::Replay => return self.chosen.clone().map(RunsEffect::Replay),
            RunsAction::Delete => self.ask_to_delete(),
            RunsAction::Type(_)
            | RunsAction::Erase
            | RunsAction::Accept
            | RunsAction::Answer(_)
            | RunsAction::Choose(_)
            | RunsAction::Redraw
            | RunsAction::Suspend => {}
        }
        None
    }

    fn back(&mut self) {
        if std::mem::take(&mut self.filter).is_empty() {
            self.marked.clear();
        }
    }

    /// Marks the chosen run, and goes on; of two that are marked the first gives way.
    fn mark(&mut self, at: usize) {
        let Some(dir) = self.chosen.clone() else { return };
        if let Some(place) = self.marked.iter().position(|marked| *marked == dir) {
            self.marked.remove(place);
            return;
        }
        if self.marked.len() == 2 {
            self.marked.remove(0);
        }
        self.marked.push(dir);
        if self.marked.len() < 2 {
            self.choose_at(at + 1);
        }
    }

    fn compare(&mut self) -> Option<RunsEffect> {
        if let [first, second] = self.marked.as_slice() {
            self.note = Some("reading both logs".to_owned());
            return Some(RunsEffect::Compare([first.clone(), second.clone()]));
        }
        self.note = Some("mark two runs with Space to compare them".to_owned());
        None
    }

    fn ask_to_delete(&mut self) {
        let Some(row) = self.chosen() else { return };
        if row.standing.is_alive() {
            self.note = Some("this run has not ended; open it and end it first".to_owned());
            return;
        }
        let what = format!(
            "{}: {} in {}. This cannot be undone.",
            row.run.id,
            format::bytes(row.run.bytes),
            row.run.dir.display()
        );
        self.over = Some(Over::Ask(Dialog::new(Question::Delete(what), self.now)));
    }

    fn answer(&mut self, mut dialog: Dialog, action: RunsAction) -> Option<RunsEffect> {
        let listens = dialog.listens(self.now);
        match action {
            _ if !listens => {}
            RunsAction::Back => return None,
            RunsAction::Accept => {
                let is_meant = dialog.chosen() == Choice::Delete;
                return self.chosen.clone().filter(|_| is_meant).map(RunsEffect::Delete);
            }
            RunsAction::Choose(choice) => dialog.choose(choice),
            RunsAction::Answer(by) => dialog.move_by(by),
            _ => {}
        }
        self.over = Some(Over::Ask(dialog));
        None
    }

    fn type_into(&mut self, mut prompt: Prompt, action: RunsAction) {
        match action {
            RunsAction::Accept => {
                self.filter = prompt.text;
                self.choose_at(0);
                return;
            }
            RunsAction::Back | RunsAction::Quit => return,
            RunsAction::Type(letter) => prompt.push(letter),
            RunsAction::Erase => prompt.pop(),
            _ => {}
        }
        self.over = Some(Over::Prompt(prompt));
    }
}
