//! The effects of keys and clicks on the state.

use crossterm::event::KeyEvent;
use pp_telemetry::Request;

use super::{Action, Effect, State};
use crate::monitor::screen::{
    Choice, Dialog, Overlay, Panel, Prompt, PromptKind, Question, Target, View,
};

impl State {
    /// Does what a key asks for, if anything.
    pub fn press(&mut self, key: KeyEvent) -> Option<Effect> {
        let action = self.keymap.action_of(key, self.at(), self.overlay.as_ref())?;
        self.act(action)
    }

    /// Does what a key asks for; what lies outside of the state is returned.
    pub fn act(&mut self, action: Action) -> Option<Effect> {
        self.note = None;
        if let Some(overlay) = self.overlay.take() {
            return self.act_on_overlay(overlay, action);
        }
        match action {
            Action::Quit if self.is_over() => return Some(Effect::Leave),
            Action::Quit if !self.launched_here => return Some(Effect::Detach),
            Action::Quit => self.ask(Question::Quit),
            Action::Stop => match self.stop_refusal() {
                Some(why) => self.set_note(why),
                None => self.ask(Question::Stop(self.out_of_reach.clone())),
            },
            Action::Help => self.overlay = Some(Overlay::Help(0)),
            Action::GoTo => self.overlay = Some(Overlay::Prompt(Prompt::new(PromptKind::Step))),
            Action::Filter => {
                self.view = View::Log;
                self.overlay = Some(Overlay::Prompt(Prompt::new(PromptKind::Filter)));
            }
            Action::Back => self.back(),
            Action::Show(view) => self.view = view,
            Action::Panel(by) => {
                self.panel = Some(self.panel.map_or(Panel::Devices, |panel| panel.neighbour(by)));
            }
            Action::Enter | Action::Full if self.view == View::Overview => {
                let of_rank = self.devices.chosen_by_hand().map(|_| Panel::Devices);
                self.view = self.panel.or(of_rank).unwrap_or(Panel::Timeline).view();
            }
            Action::Full => self.view = View::Overview,
            Action::Freeze => return self.freeze(),
            Action::StepBy(by) => return self.step_by(by),
            Action::NewestStep => self.timeline.follow(),
            Action::ZoomIn => self.timeline.zoom_in(),
            Action::ZoomOut => self.timeline.zoom_out(),
            Action::ZoomFit => self.timeline.fit(),
            Action::Definition => self.bubble.toggle_definitions(),
            Action::Run(by) => return Some(Effect::Run(by)),
            Action::Compare => return Some(Effect::Compare),
            Action::Speed(by) => {
                if let Some(playback) = &mut self.playback {
                    playback.change_speed(by);
                }
            }
            Action::Loop => {
                if let Some(playback) = &mut self.playback {
                    playback.is_loop ^= true;
                }
            }
            Action::ExportTrace => {
                return self.timeline.step(self.shown()).map(|step| Effect::ExportTrace(step.step));
            }
            Action::Snapshot => return Some(Effect::Snapshot),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Choose(_)
            | Action::Answer(_)
            | Action::Type(_)
            | Action::Erase
            | Action::Accept => {}
            _ => self.act_on_view(action),
        }
        None
    }

    fn act_on_overlay(&mut self, overlay: Overlay, action: Action) -> Option<Effect> {
        match (overlay, action) {
            (overlay, Action::Redraw | Action::Suspend) => {
                self.overlay = Some(overlay);
                let redraw = action == Action::Redraw;
                return Some(if redraw { Effect::Redraw } else { Effect::Suspend });
            }
            (Overlay::Ask(dialog), action) => return self.answer(dialog, action),
            (_, Action::Back) | (Overlay::Help(_), Action::Help) => {}
            (Overlay::Help(first), Action::Scroll(by)) => {
                self.overlay = Some(self.help_from(first, by));
            }
            (Overlay::Help(first), Action::Page(by)) => {
                self.overlay = Some(self.help_from(first, by.saturating_mul(10)));
            }
            (Overlay::Prompt(prompt), Action::Accept) => return self.accept(prompt),
            (Overlay::Prompt(mut prompt), Action::Type(letter)) => {
                prompt.push(letter);
                self.overlay = Some(Overlay::Prompt(prompt));
            }
            (Overlay::Prompt(mut prompt), Action::Erase) => {
                prompt.pop();
                self.overlay = Some(Overlay::Prompt(prompt));
            }
            (Overlay::Help(_) | Overlay::Prompt(_), Action::Quit | Action::Show(_)) => {
                return self.act(action);
            }
            (overlay, _) => self.overlay = Some(overlay),
        }
        None
    }

    /// Opens a question.
    fn ask(&mut self, question: Question) {
        self.overlay = Some(Overlay::Ask(Dialog::new(question, self.now)));
    }

    /// Letters and arrows choose, and Enter acts; at first nothing does.
    fn answer(&mut self, mut dialog: Dialog, action: Action) -> Option<Effect> {
        let listens = dialog.listens(self.now);
        match action {
            _ if !listens => {}
            Action::Back => return None,
            Action::Accept => return self.choose(dialog.chosen()),
            Action::Choose(choice) => dialog.choose(choice),
            Action::Answer(by) => dialog.move_by(by),
            _ => {}
        }
        self.overlay = Some(Overlay::Ask(dialog));
        None
    }

    /// Whether a key does what it does also where it came as pasted text does: not where it writes
    /// a file, leaves, or answers.
    pub(crate) fn takes_pasted(&self, action: Action) -> bool {
        match &self.overlay {
            Some(Overlay::Prompt(_)) => true,
            Some(Overlay::Ask(_)) => action != Action::Accept,
            // What is asked about first harms nobody.
            _ if action == Action::Quit => self.launched_here && !self.is_over(),
            _ => !action.has_consequences(),
        }
    }

    /// Takes pasted text where a line is typed. Everywhere else it is dropped: no letter of it is a
    /// key.
    pub fn paste(&mut self, text: &str) {
        match &mut self.overlay {
            Some(Overlay::Prompt(prompt)) => prompt.paste(text),
            _ => self.set_note("pasted text is ignored here".to_owned()),
        }
    }

    /// Scrolls the help by this many lines.
    fn help_from(&self, first: usize, by: isize) -> Overlay {
        let n_lines = self.keymap.help(self.at()).len();
        let last = n_lines.saturating_sub(self.seen_rows.1.get().max(1));
        Overlay::Help(first.saturating_add_signed(by).min(last))
    }

    /// What a key means depends on the view.
    fn act_on_view(&mut self, action: Action) {
        let model = self.frozen.as_deref().unwrap_or(&self.model);
        match self.view {
            View::Timeline => self.timeline.act(action, model),
            View::Devices => self.devices.act(action, model),
            View::Loss => self.loss.act(action, model),
            View::Log => self.log.act(action, model),
            View::Overview | View::Bubble => {}
        }
        let by = match action {
            Action::Pan(by) if self.view == View::Overview => return self.timeline.pan(by),
            Action::Scroll(by) => by,
            Action::Page(by) => by.saturating_mul(8),
            Action::Edge { last: true } => isize::MAX,
            Action::Edge { last: false } => isize::MIN,
            _ => return,
        };
        match self.view {
            View::Overview => self.choose_rank(by),
            View::Bubble => self.scroll(by),
            // The others have a choice of their own, or none.
            View::Timeline | View::Devices | View::Loss | View::Log => {}
        }
    }

    /// Chooses another rank in the overview, the first one that is seen to begin with; the rows
    /// follow it.
    fn choose_rank(&mut self, by: isize) {
        let Some(last) = self.shown().ranks().len().checked_sub(1) else { return };
        let n_rows = self.seen_rows.0.get().max(1);
        let to = match self.devices.chosen_by_hand().filter(|&at| at <= last) {
            Some(at) => at.saturating_add_signed(by).min(last),
            // A step chooses what is there; more than that continues from there.
            None => self.first_rank(n_rows).saturating_add_signed(by - by.signum()).min(last),
        };
        self.devices.choose(to);
        let first = (to + 1).saturating_sub(n_rows);
        self.first_rank = self.first_rank(n_rows).clamp(first, to);
    }

    fn scroll(&mut self, by: isize) {
        let last = self.shown().ranks().len().saturating_sub(1);
        self.first_rank = self.first_rank.saturating_add_signed(by).min(last);
    }

    /// Does what a click means; a second one on a rank or an operation shows more of it.
    pub fn point_at(&mut self, target: Target) {
        let model = self.frozen.as_deref().unwrap_or(&self.model);
        match target {
            // A click chooses, and Enter acts.
            Target::Answer(at) => {
                let now = self.now;
                if let Some(Overlay::Ask(dialog)) = &mut self.overlay
                    && dialog.listens(now)
                {
                    dialog.choose_at(at);
                }
            }
            Target::View(view) => self.view = view,
            Target::Op { rank, at } => {
                let was_chosen =
                    self.view == View::Timeline && self.timeline.is_chosen_at(rank, at, model);
                self.view = View::Timeline;
                if was_chosen {
                    self.timeline.act(Action::Enter, model);
                } else {
                    self.timeline.choose_at(rank, at, model);
                }
            }
            Target::Rank(index) if self.view == View::Timeline => {
                self.timeline.choose_rank(index, model);
            }
            Target::Rank(index) if !self.devices.is_chosen(index) => self.devices.choose(index),
            Target::Rank(_) if self.view == View::Devices => {
                self.devices.act(Action::Enter, model);
            }
            Target::Rank(_) => self.view = View::Devices,
        }
    }

    /// One thing after another, and the overview in the end.
    fn back(&mut self) {
        let is_closed = match self.view {
            View::Timeline => self.timeline.back(),
            View::Devices => self.devices.back(),
            View::Log => self.log.back(),
            View::Bubble => self.bubble.back(),
            View::Loss => self.loss.back(),
            View::Overview => false,
        };
        if is_closed {
            return;
        }
        if self.view == View::Overview && self.panel.take().is_none() && !self.devices.unchoose() {
            self.timeline.reset();
        }
        self.view = View::Overview;
    }

    fn freeze(&mut self) -> Option<Effect> {
        if let Some(playback) = &mut self.playback {
            if playback.is_at_end {
                playback.is_paused = false;
                return Some(Effect::Restart);
            }
            playback.is_paused ^= true;
            return None;
        }
        self.frozen = match self.frozen {
            Some(_) => None,
            None => Some(Box::new(self.model.clone())),
        };
        None
    }

    fn step_by(&mut self, by: i64) -> Option<Effect> {
        let model = self.frozen.as_deref().unwrap_or(&self.model);
        if self.playback.is_some() {
            let to = i64::try_from(model.step()).unwrap_or(i64::MAX).saturating_add(by).max(1);
            return Some(Effect::Seek(to.unsigned_abs()));
        }
        self.timeline.step_by(model.recorded(), by);
        None
    }

    fn accept(&mut self, prompt: Prompt) -> Option<Effect> {
        match prompt.kind {
            PromptKind::Filter => self.log.set_filter(prompt.text),
            PromptKind::Step => {
                let Ok(step) = prompt.text.trim().parse::<u64>() else {
                    self.set_error(format!("{:?} is not a step: type a number", prompt.text));
                    return None;
                };
                if self.playback.is_some() {
                    return Some(Effect::Seek(step));
                }
                let model = self.frozen.as_deref().unwrap_or(&self.model);
                match self.timeline.go_to(model.recorded(), step) {
                    Some(found) if found == step => {}
                    Some(found) => {
                        self.set_note(format!(
                            "step {step} was not recorded; this is step {found}"
                        ));
                    }
                    None => self.set_note("no step is recorded yet".to_owned()),
                }
            }
        }
        None
    }

    fn choose(&mut self, choice: Choice) -> Option<Effect> {
        if self.is_over() {
            return (choice == Choice::Detach).then_some(Effect::Leave);
        }
        match choice {
            Choice::Detach => Some(Effect::Detach),
            Choice::StopAndLeave | Choice::Stop => {
                self.stopping = true;
                Some(Effect::Stop { then_leave: choice == Choice::StopAndLeave })
            }
            Choice::CheckpointAndStop => {
                self.stopping = true;
                Some(Effect::Ask(Request::CheckpointAndStop))
            }
            Choice::Checkpoint => Some(Effect::Ask(Request::Checkpoint)),
            Choice::Kill => {
                self.stopping = true;
                Some(Effect::Kill)
            }
            // What is recorded is deleted in the list of runs.
            Choice::Delete | Choice::Cancel => None,
        }
    }

    /// What was asked for did not reach the run.
    pub(crate) fn not_stopping(&mut self) {
        self.stopping = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::screen::View;
    use crate::monitor::state::{ChildState, Playback};

    #[test]
    fn the_help_goes_no_further_than_its_last_line() {
        let mut state = State::new(ChildState::default(), false);
        state.act(Action::Help);
        let n_lines = state.keymap().help(state.at()).len();
        state.see_help_rows(5);
        for _ in 0..n_lines {
            state.act(Action::Page(1));
        }
        // The last line stands at the bottom, and one key up is seen.
        assert_eq!(state.overlay(), Some(&Overlay::Help(n_lines - 5)));
        state.act(Action::Page(isize::MIN));
        assert_eq!(state.overlay(), Some(&Overlay::Help(0)));
    }

    #[test]
    fn at_its_end_a_replay_begins_again_and_before_it_pauses() {
        let playback = Playback::new(1.0, false);
        let mut state = State::new(ChildState::default(), false).replayed(playback.clone());
        assert_eq!(state.act(Action::Freeze), None);
        assert!(state.playback().is_some_and(|playback| playback.is_paused));
        let at_end = Playback { is_at_end: true, is_paused: true, ..playback };
        let mut state = State::new(ChildState::default(), false).replayed(at_end);
        assert_eq!(state.act(Action::Freeze), Some(Effect::Restart));
        assert!(state.playback().is_some_and(|playback| !playback.is_paused));
    }

    #[test]
    fn ranks_are_scrolled_only_where_they_are_seen() {
        let log = include_bytes!("../../../tests/fixtures/one_f_one_b_p4_m8.jsonl");
        let mut state = State::new(ChildState::default(), false);
        for line in log.split(|&byte| byte == b'\n') {
            if let Ok(pp_telemetry::Line::Event(event)) = pp_telemetry::Event::parse(line) {
                state.apply(&event);
            }
        }
        for (view, first) in [(View::Loss, 0), (View::Timeline, 0), (View::Bubble, 1)] {
            state.act(Action::Show(view));
            state.act(Action::Scroll(1));
            assert_eq!(state.first_rank(1), first, "{view:?}");
        }
    }
}
