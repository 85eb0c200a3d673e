//! The state of the devices view: the chosen rank, the sort order, and whether a rank is shown in
//! full.

use std::cmp::Ordering;

use pp_telemetry::{Model, RankState};

use super::super::input::Action;

/// Ranks that a page is made of.
const PAGE: isize = 8;
/// Lines of the detail that can be scrolled away at most.
const LINES_MAX: usize = 60;

/// What the rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sort {
    /// Replica by replica, along the pipeline.
    #[default]
    Rank,
    /// The busiest first.
    Busy,
    /// The largest bubble first.
    Bubble,
    /// The one that holds most first.
    Memory,
    /// The one that computes longest in a step first.
    Slowest,
}

impl Sort {
    /// What the title says.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rank => "rank",
            Self::Busy => "busy",
            Self::Bubble => "bubble",
            Self::Memory => "memory",
            Self::Slowest => "slowest",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Rank => Self::Busy,
            Self::Busy => Self::Bubble,
            Self::Bubble => Self::Memory,
            Self::Memory => Self::Slowest,
            Self::Slowest => Self::Rank,
        }
    }

    /// The number that decides; what has none stands last.
    fn key(self, rank: &RankState) -> Option<f64> {
        match self {
            Self::Rank => None,
            Self::Busy => rank.computing_of_window(),
            Self::Bubble => rank.bubble_of_window(),
            Self::Memory => rank.memory.map(|memory| memory.live_bytes as f64),
            Self::Slowest => rank.busy_seconds(),
        }
    }
}

/// What the view of the devices shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DevicesState {
    /// The chosen rank, by its place in [`Model::ranks`]; `None` until one was chosen.
    chosen: Option<usize>,
    sort: Sort,
    is_detail: bool,
    /// Lines of the detail that are scrolled away.
    first_line: usize,
}

impl DevicesState {
    /// Does what a key asks for.
    pub(crate) fn act(&mut self, action: Action, model: &Model) {
        match action {
            Action::Sort => self.sort = self.sort.next(),
            Action::Enter => self.is_detail |= !model.ranks().is_empty(),
            Action::Scroll(by) => self.go(by, model),
            Action::Page(by) if self.is_detail => {
                self.first_line =
                    self.first_line.saturating_add_signed(PAGE.saturating_mul(by)).min(LINES_MAX);
            }
            Action::Page(by) => self.go(PAGE.saturating_mul(by), model),
            Action::Edge { last } => self.go(if last { isize::MAX } else { isize::MIN }, model),
            _ => {}
        }
    }

    fn go(&mut self, by: isize, model: &Model) {
        let order = self.order(model);
        let Some(last) = order.len().checked_sub(1) else { return };
        let at = order.iter().position(|&index| index == self.chosen(model)).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(last);
        self.choose(order.get(to).copied().unwrap_or(0));
    }

    /// Chooses a rank, by its place in [`Model::ranks`].
    pub(crate) fn choose(&mut self, index: usize) {
        self.chosen = Some(index);
        self.first_line = 0;
    }

    /// Closes the last thing that was opened, if any.
    pub(crate) fn back(&mut self) -> bool {
        self.first_line = 0;
        std::mem::take(&mut self.is_detail)
    }

    pub(crate) fn sort(&self) -> Sort {
        self.sort
    }

    /// Whether the chosen rank fills the view.
    pub(crate) fn is_detail(&self) -> bool {
        self.is_detail
    }

    pub(crate) fn first_line(&self) -> usize {
        self.first_line
    }

    /// The rank that was chosen by hand.
    pub(crate) fn chosen_by_hand(&self) -> Option<usize> {
        self.chosen
    }

    /// Chooses none; whether one was chosen.
    pub(crate) fn unchoose(&mut self) -> bool {
        self.chosen.take().is_some()
    }

    /// Whether a rank was chosen by hand.
    pub(crate) fn is_chosen(&self, index: usize) -> bool {
        self.chosen == Some(index)
    }

    /// The chosen rank, or the first row.
    pub(crate) fn chosen(&self, model: &Model) -> usize {
        match self.chosen {
            Some(index) if index < model.ranks().len() => index,
            _ => self.order(model).first().copied().unwrap_or(0),
        }
    }

    /// The rows from top to bottom, by their place in [`Model::ranks`].
    pub(crate) fn order(&self, model: &Model) -> Vec<usize> {
        let mut rows: Vec<(usize, Option<f64>)> =
            model.ranks().iter().map(|rank| self.sort.key(rank)).enumerate().collect();
        rows.sort_by(|(_, a), (_, b)| match (a, b) {
            (Some(a), Some(b)) => b.total_cmp(a),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        });
        rows.into_iter().map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use pp_telemetry::{Event, Hello, Mem};

    use super::*;

    fn model() -> Model {
        let mut model = Model::new();
        model.apply(&Event::Hello(Box::new(Hello { pp: 4, dp: 1, ..Hello::default() })));
        for (rank, live_bytes) in [(0, 10), (1, 30), (3, 30)] {
            model.apply(&Event::Mem(Mem { rank, live_bytes, ..Mem::default() }));
        }
        model
    }

    #[test]
    fn the_rows_are_sorted_and_what_is_unknown_stands_last() {
        let model = model();
        let mut devices = DevicesState::default();
        assert_eq!(devices.order(&model), [0, 1, 2, 3]);
        (0..3).for_each(|_| devices.act(Action::Sort, &model));
        assert_eq!((devices.sort(), devices.order(&model)), (Sort::Memory, vec![1, 3, 0, 2]));
        (0..2).for_each(|_| devices.act(Action::Sort, &model));
        assert_eq!(devices.sort(), Sort::Rank);
    }

    #[test]
    fn the_choice_goes_along_the_rows_and_stays_with_its_rank() {
        let model = model();
        let mut devices = DevicesState { sort: Sort::Memory, ..DevicesState::default() };
        assert_eq!(devices.chosen(&model), 1);
        devices.act(Action::Scroll(1), &model);
        assert_eq!(devices.chosen(&model), 3);
        devices.sort = Sort::Rank;
        assert_eq!(devices.chosen(&model), 3);
        devices.act(Action::Scroll(1), &model);
        assert_eq!(devices.chosen(&model), 3);
        devices.act(Action::Edge { last: false }, &model);
        assert_eq!(devices.chosen(&model), 0);
        devices.act(Action::Page(isize::MAX), &Model::new());
        devices.act(Action::Edge { last: true }, &model);
        assert_eq!(devices.chosen(&model), 3);
        assert_eq!(devices.chosen(&Model::new()), 0);
    }

    #[test]
    fn escape_closes_the_detail_first() {
        let mut devices = DevicesState::default();
        devices.act(Action::Enter, &Model::new());
        assert!(!devices.back());
        devices.act(Action::Enter, &model());
        assert!(devices.back() && !devices.back());
    }
}
