//! The list of the runs that are kept: what it shows at several sizes, and what keys do in it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pp_telemetry::{Model, Run, Standing, StoppedBy};
use pptop::monitor::runs::{
    COLUMNS_OF_TEXT, Comparison, Row, RunsAction, RunsEffect, RunsState, draw_runs, table,
};
use pptop::monitor::{Choice, Theme};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::common::{ASCII, MONO, whole_log};

fn row(id: &str, standing: Standing) -> Row {
    Row {
        run: Run {
            id: id.to_owned(),
            dir: PathBuf::from("/state/runs").join(id),
            log: PathBuf::from("/state/runs").join(id).join("events.jsonl"),
            status: None,
            end: None,
            bytes: 4_200_000,
            modified: SystemTime::now() - Duration::from_mins(3 * 60 + 1),
        },
        standing,
        steps: (600, 600),
        loss: Some(1.8374),
        seconds: Some(91.0),
        model: "gpt".to_owned(),
        schedule: "1f1b".to_owned(),
        sizes: "p4 m8".to_owned(),
    }
}

/// Eight runs, the newest first.
fn rows() -> Vec<Row> {
    let of = |id, standing, loss, seconds| Row { loss, seconds, ..row(id, standing) };
    vec![
        of("gpt-20261128-091500", Standing::Finished, Some(1.837_4), Some(91.2)),
        Row {
            schedule: "interleaved-1f1b".to_owned(),
            sizes: "p4 v2 d2 m128".to_owned(),
            steps: (100_000, 1_000_000),
            ..of("seed-mlp-20261127-174200", Standing::Died, Some(0.25), Some(273_600.0))
        },
        of("wine-mlp-20261127-120000", Standing::Failed(1), None, Some(3.0)),
        of(
            "gpt-a-name-that-somebody-has-chosen-and-that-is-long",
            Standing::Unknown,
            Some(2.5),
            None,
        ),
        of(
            "gpt-20261126-080000",
            Standing::Stopped(StoppedBy::Request),
            Some(f64::NAN),
            Some(7_800.0),
        ),
        Row {
            steps: (0, 0),
            schedule: String::new(),
            sizes: String::new(),
            model: String::new(),
            ..of("empty", Standing::Unknown, None, None)
        },
        of("sleep-20261125-080000", Standing::Finished, Some(12_345.6), Some(59.0)),
        of("sleep-20261124-080000", Standing::Finished, Some(1e-7), Some(0.4)),
    ]
}

fn screen(state: &RunsState, theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw_runs(frame, state, theme)).unwrap();
    terminal
}

macro_rules! assert_list {
    ($name:literal, $state:expr, $theme:expr, $width:literal, $height:literal) => {
        insta::assert_snapshot!($name, screen($state, $theme, $width, $height).backend());
    };
}

fn text(state: &RunsState) -> String {
    screen(state, MONO, 80, 24).backend().to_string()
}

fn acted(state: &mut RunsState, actions: &[RunsAction]) {
    for action in actions {
        assert_eq!(state.act(*action), None, "{action:?}");
    }
}

#[test]
fn sizes() {
    let mut state = RunsState::new(rows());
    acted(&mut state, &[RunsAction::Move(1), RunsAction::Mark]);
    assert_list!("runs_80x24", &state, MONO, 80, 24);
    assert_list!("runs_160x12", &state, MONO, 160, 12);
    assert_list!("runs_40x8", &state, MONO, 40, 8);
    assert_list!("runs_ascii_80x8", &state, ASCII, 80, 8);
    state.act(RunsAction::Edge { last: true });
    assert_list!("runs_end_80x8", &state, MONO, 80, 8);
}

#[test]
fn what_lies_over_the_list() {
    let mut state = RunsState::new(rows());
    acted(&mut state, &[RunsAction::Delete]);
    assert_list!("runs_delete_80x24", &state, MONO, 80, 24);
    let mut state = RunsState::new(rows());
    acted(&mut state, &[RunsAction::Filter, RunsAction::Type('g'), RunsAction::Type('p')]);
    assert_list!("runs_search_80x8", &state, MONO, 80, 8);
    let mut models = [Model::new(), Model::new()];
    for model in &mut models {
        for event in &whole_log() {
            model.apply(event);
        }
    }
    let other = {
        let mut model = Model::new();
        let events = whole_log();
        events[..events.len() / 2].iter().for_each(|event| model.apply(event));
        model
    };
    models[1] = other;
    let names = ["gpt-20261128-091500".to_owned(), "gpt-20261126-080000".to_owned()];
    state.act(RunsAction::Back);
    state.show_comparison(Comparison::of(names, &models));
    assert_list!("runs_comparison_80x24", &state, MONO, 80, 24);
}

#[test]
fn one_searches_sorts_and_comes_back() {
    let mut state = RunsState::new(rows());
    let first = |state: &RunsState| {
        let drawn = text(state);
        drawn.lines().nth(2).unwrap().to_owned()
    };
    assert!(first(&state).contains("gpt-20261128"));
    for (by, name) in [
        ("by loss", "sleep-20261124"),
        ("by time", "seed-mlp"),
        ("by steps", "seed-mlp"),
        ("by name", "empty"),
        ("newest first", "gpt-20261128"),
    ] {
        acted(&mut state, &[RunsAction::Sort]);
        assert!(text(&state).contains(by) && first(&state).contains(name), "{}", text(&state));
    }
    for what in ["WINE", "failed", "interleaved", "v2"] {
        acted(&mut state, &[RunsAction::Filter]);
        state.paste(&format!("{what}\nd\n"));
        acted(&mut state, &[RunsAction::Accept]);
        let drawn = text(&state);
        assert!(drawn.contains(&format!("/{what} 1")), "{drawn}");
        acted(&mut state, &[RunsAction::Back]);
    }
    acted(&mut state, &[RunsAction::Filter]);
    state.paste("nothing like it");
    acted(&mut state, &[RunsAction::Accept]);
    assert!(text(&state).contains("no run matches the search"));
    for action in [RunsAction::Open, RunsAction::Delete, RunsAction::Mark, RunsAction::Replay] {
        assert_eq!(state.act(action), None);
    }
}

#[test]
fn where_one_is_stays_when_runs_come_and_go() {
    let mut state = RunsState::new(rows());
    acted(&mut state, &[RunsAction::Move(3)]);
    let chosen = |state: &mut RunsState| match state.act(RunsAction::Open) {
        Some(RunsEffect::Open(dir)) => dir.file_name().unwrap().to_string_lossy().into_owned(),
        other => panic!("{other:?}"),
    };
    let before = chosen(&mut state);
    let mut more = rows();
    more.insert(0, row("gpt-new", Standing::Live));
    state.set_rows(more);
    assert_eq!(chosen(&mut state), before);
    assert!(text(&state).contains("1 live"));
    // Its row is gone: the one in its place is chosen.
    let mut fewer = rows();
    fewer.remove(3);
    state.set_rows(fewer);
    assert_ne!(chosen(&mut state), before);
    state.set_rows(Vec::new());
    assert_eq!(state.act(RunsAction::Open), None);
    text(&state);
}

#[test]
fn only_enter_on_a_chosen_answer_deletes_and_a_run_that_goes_on_stays() {
    let late = Duration::from_millis(300);
    let mut state = RunsState::new(rows());
    acted(
        &mut state,
        &[RunsAction::Delete, RunsAction::Choose(Choice::Delete), RunsAction::Accept],
    );
    state.set_now(late);
    // It was deaf, so it is still there, on Cancel.
    acted(&mut state, &[RunsAction::Accept]);
    assert!(!text(&state).contains("delete the run?"));
    state.set_now(Duration::ZERO);
    acted(&mut state, &[RunsAction::Delete]);
    state.set_now(late);
    acted(&mut state, &[RunsAction::Choose(Choice::Delete)]);
    let dir = PathBuf::from("/state/runs/gpt-20261128-091500");
    assert_eq!(state.act(RunsAction::Accept), Some(RunsEffect::Delete(dir)));
    let mut state = RunsState::new(vec![row("live", Standing::Live)]);
    acted(&mut state, &[RunsAction::Delete]);
    assert!(text(&state).contains("this run has not ended"));
    state.paste("d\n");
    assert!(text(&state).contains("pasted text is ignored"));
}

#[test]
fn two_are_marked_and_compared() {
    let mut state = RunsState::new(rows());
    acted(&mut state, &[RunsAction::Compare]);
    assert!(text(&state).contains("mark two runs"));
    acted(&mut state, &[RunsAction::Mark, RunsAction::Mark]);
    let dirs = ["gpt-20261128-091500", "seed-mlp-20261127-174200"];
    let dirs = dirs.map(|id| PathBuf::from("/state/runs").join(id));
    assert_eq!(state.act(RunsAction::Compare), Some(RunsEffect::Compare(dirs.clone())));
    // From the table one goes to both losses, and comes back to the list.
    let names = ["one".to_owned(), "other".to_owned()];
    state.show_comparison(Comparison::of(names, &[Model::new(), Model::new()]));
    acted(&mut state, &[RunsAction::Move(1)]);
    assert_eq!(state.act(RunsAction::Open), Some(RunsEffect::LayOver(dirs)));
    // A third takes the place of the first.
    acted(&mut state, &[RunsAction::Move(1), RunsAction::Mark]);
    let Some(RunsEffect::Compare([first, _])) = state.act(RunsAction::Compare) else {
        panic!("two are marked");
    };
    assert!(first.ends_with("seed-mlp-20261127-174200"));
    acted(&mut state, &[RunsAction::Back, RunsAction::Compare]);
}

#[test]
fn a_text_fits_eighty_columns_and_keeps_the_names() {
    let short: Vec<Row> = rows().into_iter().filter(|row| row.run.id.len() < 30).collect();
    let (head, lines) = table(&short, COLUMNS_OF_TEXT);
    for (line, row) in lines.iter().zip(&short) {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(line.starts_with(&row.run.id), "{line}");
    }
    for column in ["run", "state", "step", "loss", "time", "schedule", "sizes"] {
        assert!(head.contains(column), "{column} is not in: {head}");
    }
    assert!(lines[0].contains("gpt-20261128-091500       finished"), "{}", lines[0]);
    for part in ["600/600", "1.837", "1m31s", "1f1b", "p4 m8"] {
        assert!(lines[0].contains(part), "{part} is not in: {}", lines[0]);
    }
    // A name that is longer than all is cut in the middle.
    let (_, lines) = table(&rows(), COLUMNS_OF_TEXT);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
}

fn actions() -> impl Strategy<Value = RunsAction> {
    prop::sample::select(vec![
        RunsAction::Quit,
        RunsAction::Back,
        RunsAction::Move(1),
        RunsAction::Move(-3),
        RunsAction::Page(10),
        RunsAction::Edge { last: true },
        RunsAction::Filter,
        RunsAction::Type('g'),
        RunsAction::Type('漢'),
        RunsAction::Erase,
        RunsAction::Accept,
        RunsAction::Sort,
        RunsAction::Mark,
        RunsAction::Compare,
        RunsAction::Delete,
        RunsAction::Answer(1),
        RunsAction::Choose(Choice::Delete),
        RunsAction::Open,
    ])
}

proptest! {
    #[test]
    fn any_list_of_any_size_can_be_drawn(
        n_rows in 0_usize..=8,
        (width, height) in (0_u16..=200, 0_u16..=40),
        all in prop::collection::vec(actions(), 0..20),
        (is_ascii, colour) in any::<(bool, bool)>(),
        id in ".{0,40}",
    ) {
        let mut rows = rows();
        rows.truncate(n_rows);
        if let Some(row) = rows.last_mut() {
            row.run.id.clone_from(&id);
            row.steps = (u64::MAX, u64::MAX);
            row.loss = Some(f64::INFINITY);
            row.seconds = Some(f64::MAX);
        }
        let mut state = RunsState::new(rows);
        let theme = Theme::plain(colour, is_ascii);
        screen(&state, theme, width, height);
        for (at, action) in all.iter().enumerate() {
            state.set_now(Duration::from_millis(at as u64 * 100));
            state.act(*action);
            screen(&state, theme, width, height);
        }
    }
}
