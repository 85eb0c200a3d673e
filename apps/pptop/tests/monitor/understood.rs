//! What one understands at once: heads on every table, each number once, the verdict in the
//! overview, a legend for all that is drawn, keys that work and no others, and a word where
//! something is cut off.

use std::time::Duration;

use pp_schedule::ScheduleName;
use pp_telemetry::{Event, Log};
use pptop::monitor::{Action, ChildState, Playback, State, Target, View, target};
use ratatui::layout::Rect;

use super::common::{
    COLOUR, MONO, Play, assert_screen, copied, hello_of, log, running, screen, state_in, text,
    whole_log,
};

const SIZES: [(u16, u16); 6] = [(40, 12), (60, 16), (80, 24), (100, 34), (160, 50), (240, 70)];

fn slow_rank() -> Vec<Event> {
    Play { slow: Some((2, 1.5)), ..Play::PLAIN }.events()
}

fn two_cores() -> Vec<Event> {
    Play { starved: 0.4, cores: 2, ..Play::PLAIN }.events()
}

fn overview(events: &[Event]) -> State {
    state_in(View::Overview, events, &[])
}

/// The lines inside of the panel with this title, without its frame.
fn panel(screen: &str, title: &str) -> Vec<String> {
    let lines: Vec<&str> = screen.lines().collect();
    let top = lines.iter().position(|line| line.contains(title)).unwrap();
    let left = lines[top].find(title).unwrap();
    let left = lines[top][..left].rfind('┌').map_or(0, |at| lines[top][..at].chars().count());
    let inside = |line: &str| -> String { line.chars().skip(left + 1).collect() };
    lines[top + 1..]
        .iter()
        .take_while(|line| line.chars().nth(left) == Some('│'))
        .map(|line| inside(line).split('│').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn every_table_of_ranks_has_heads() {
    for pp in [1, 2, 4, 8, 16] {
        let schedule = ScheduleName::Gpipe;
        let events = Play { pp, schedule, ..Play::PLAIN }.events();
        for view in [View::Overview, View::Devices] {
            let state = state_in(view, &events, &[]);
            for (width, height) in [(60, 16), (80, 18), (80, 24), (100, 34), (160, 50)] {
                let drawn = text(&state, width, height);
                let lines = panel(&drawn, "devices ");
                let heads = &lines[0];
                assert!(
                    heads.contains("STATE") && heads.contains("BUSY"),
                    "{pp} {view:?}\n{drawn}"
                );
                assert!(lines.len() > 1, "{pp} {view:?}\n{drawn}");
            }
        }
    }
    let two = Play { pp: 2, ..Play::PLAIN }.events();
    assert_screen!("two_ranks_80x24", &state_in(View::Devices, &two, &[]), MONO, 80, 24);
    assert_screen!("two_ranks_overview_80x24", &overview(&two), MONO, 80, 24);
    assert_screen!("two_ranks_overview_40x12", &overview(&two), MONO, 40, 12);
}

#[test]
fn no_number_of_a_rank_stands_twice() {
    for events in [slow_rank(), two_cores(), log()] {
        for view in [View::Overview, View::Devices] {
            let state = state_in(view, &events, &[]);
            for (width, height) in [(60, 16), (80, 24), (100, 34), (160, 50), (240, 70)] {
                let drawn = text(&state, width, height);
                let rows = panel(&drawn, "devices ");
                assert!(!rows[0].contains("UTIL"), "{drawn}");
                for row in rows[1..].iter().filter(|row| row.contains('%')) {
                    // Several things may be naught at once.
                    let is_share = |word: &&str| word.ends_with('%') && *word != "0.0%";
                    let percents: Vec<&str> = row.split_whitespace().filter(is_share).collect();
                    let mut others = percents.clone();
                    others.sort_unstable();
                    others.dedup();
                    assert_eq!(others.len(), percents.len(), "{row}\n{drawn}");
                }
            }
        }
    }
}

#[test]
fn a_slow_rank_is_understood_from_the_overview_alone() {
    let state = overview(&slow_rank());
    let drawn = text(&state, 80, 24);
    // The table says who waits for whom; the line above the keys says why and what to try.
    let rows = panel(&drawn, "devices ");
    assert!(rows[0].contains("WAITS FOR") && rows[1].contains("r1"), "{drawn}");
    assert!(rows[2].contains("r2") && rows[4].contains("r2"), "{drawn}");
    let verdict = drawn.lines().rev().nth(1).unwrap();
    assert!(verdict.contains("r2") || verdict.contains("rank 2"), "{drawn}");
    let pipeline = panel(&drawn, "pipeline ");
    let slowest = pipeline.iter().find(|line| line.contains("slowest")).unwrap();
    // No rank waits for another for longer than it is idle.
    for row in rows[1..].iter().filter(|row| row.contains("% r")) {
        let percents: Vec<f64> =
            row.split_whitespace().filter_map(|w| w.strip_suffix('%')?.parse().ok()).collect();
        let [.., bubble, waits] = percents[..] else { panic!("{row}") };
        assert!(waits <= bubble + 0.5, "{row}\n{drawn}");
    }
    // One number for one thing: that of the verdict.
    let ratio = slowest.split_once("r2 ").unwrap().1.split_once('x').unwrap().0;
    assert!(verdict.contains(&format!("{ratio}x as slow")), "{drawn}");
    assert_screen!("slow_80x24", &state, MONO, 80, 24);
    assert_screen!("slow_60x16", &state, MONO, 60, 16);
    assert_screen!("slow_100x34", &state, MONO, 100, 34);
    assert_screen!("slow_160x50", &state, MONO, 160, 50);
    assert_screen!("slow_240x70", &state, MONO, 240, 70);
}

#[test]
fn too_few_cores_are_understood_from_the_overview_alone() {
    let state = overview(&two_cores());
    let drawn = text(&state, 80, 24);
    let rows = panel(&drawn, "devices ");
    assert!(rows[0].contains("STARVED"), "{drawn}");
    let verdict = drawn.lines().rev().nth(1).unwrap();
    assert!(verdict.contains("4 ranks share 2 cores"), "{drawn}");
    assert!(panel(&drawn, "pipeline ").iter().any(|line| line.contains("slowest")), "{drawn}");
    assert_screen!("starved_80x24", &state, MONO, 80, 24);
    assert_screen!("starved_60x16", &state, MONO, 60, 16);
    assert_screen!("starved_40x12", &state, MONO, 40, 12);
}

/// The line for it is always there: nothing jumps when a note comes or goes.
#[test]
fn a_note_takes_the_place_of_the_verdict_and_nothing_else() {
    let mut state = overview(&slow_rank());
    let without = text(&state, 80, 24);
    state.set_read_only(true);
    state.act(Action::Stop);
    let with = text(&state, 80, 24);
    let differ = without.lines().zip(with.lines()).filter(|(a, b)| a != b).count();
    // That line, and the keys without the one for stopping.
    assert_eq!(differ, 2, "{with}");
    assert!(with.contains("read-only"), "{with}");
    assert!(state.pass(Duration::from_secs(5)));
    assert!(!text(&state, 80, 24).contains("it cannot end the run"));
}

#[test]
fn changes_are_sorted_by_what_they_gain() {
    for events in [slow_rank(), log()] {
        for (view, size) in [(View::Bubble, (100, 50)), (View::Overview, (160, 50))] {
            let drawn = text(&state_in(view, &events, &[]), size.0, size.1);
            let lines = panel(&drawn, "what if");
            let gains: Vec<f64> = lines
                .iter()
                .filter_map(|line| {
                    let is_gain = |word: &&str| word.starts_with(['+', '-']) && word.ends_with('%');
                    line.split_whitespace().find(is_gain)?.trim_end_matches('%').parse().ok()
                })
                .collect();
            assert!(gains.len() > 3 && gains.is_sorted_by(|a, b| a >= b), "{gains:?}\n{drawn}");
            assert!(lines[1].contains("now"), "{drawn}");
        }
    }
}

#[test]
fn the_legend_names_all_that_is_drawn() {
    for (schedule, virtual_stages) in [
        (ScheduleName::OneFOneB, 1),
        (ScheduleName::ZbH1, 1),
        (ScheduleName::InterleavedOneFOneB, 2),
        (ScheduleName::ZbV, 2),
    ] {
        let events = Play { schedule, virtual_stages, ..Play::PLAIN }.events();
        for view in [View::Overview, View::Timeline] {
            let state = state_in(view, &events, &[]);
            for (width, height) in SIZES.into_iter().skip(1) {
                let drawn = text(&state, width, height);
                let top =
                    drawn.lines().find(|line| line.contains("┌") && line.contains("step 120"));
                let top = top.unwrap_or_else(|| panic!("{drawn}"));
                let rows = panel(&drawn, "step 120");
                for (letter, name) in [('f', "fwd"), ('B', "bwd"), ('I', "grad"), ('W', "grad")] {
                    let is_op = |row: &String| {
                        let row: Vec<char> = row.chars().collect();
                        row.windows(2).any(|two| two[0] == letter && two[1].is_ascii_digit())
                    };
                    if rows.iter().any(is_op) {
                        let said = top.contains(&format!(" {letter} "));
                        assert!(said && top.contains(name), "{letter} {width}x{height}\n{drawn}");
                    }
                }
            }
        }
    }
    let zb = Play { schedule: ScheduleName::ZbH1, ..Play::PLAIN }.events();
    assert_screen!("zb_h1_80x24", &overview(&zb), MONO, 80, 24);
    let chunks =
        Play { schedule: ScheduleName::InterleavedOneFOneB, virtual_stages: 2, ..Play::PLAIN };
    assert_screen!("interleaved_80x24", &overview(&chunks.events()), MONO, 80, 24);
}

#[test]
fn a_large_screen_uses_its_space() {
    let drawn = text(&overview(&slow_rank()), 160, 50);
    for what in ["planned: mean times on a core", "what if", "pipeline", "loss", "messages"] {
        assert!(drawn.contains(what), "{what}\n{drawn}");
    }
    let drawn = text(&overview(&slow_rank()), 240, 70);
    for what in ["planned: mean times on a core", "what if", "each rank, ms of a step"] {
        assert!(drawn.contains(what), "{what}\n{drawn}");
    }
}

/// The last line of the screen.
fn keys(state: &State) -> String {
    text(state, 100, 30).lines().last().unwrap_or_default().to_owned()
}

fn help(state: &mut State) -> String {
    state.act(Action::Help);
    let help = text(state, 100, 60);
    state.act(Action::Back);
    help
}

#[test]
fn only_what_works_is_offered() {
    let mut live = overview(&log());
    assert!(keys(&live).contains("x stop") && keys(&live).contains("Space freeze"));
    assert!(help(&mut live).contains("end the run"));
    let found = |child: ChildState| {
        let mut state = State::new(child, false);
        for event in &log() {
            state.apply(event);
        }
        state
    };
    let host = Some("far".to_owned());
    let gone = ChildState { is_gone: true, ..running() };
    let playback = Playback::new(1.0, false);
    let mut read_only = found(running());
    read_only.set_read_only(true);
    let ended = {
        let mut state = found(ChildState { code: Some(0), ..running() });
        for event in &whole_log() {
            state.apply(event);
        }
        state
    };
    let cannot_be_ended = |mut state: State, what: &str, why: &str| {
        assert!(!keys(&state).contains("stop"), "{what}: {}", keys(&state));
        assert!(!help(&mut state).contains("end the run"), "{what}");
        // The key says why, and asks nothing.
        assert_eq!(state.act(Action::Stop), None, "{what}");
        let drawn = text(&state, 100, 30);
        assert!(drawn.contains(why) && !drawn.contains("end the run?"), "{what}\n{drawn}");
    };
    cannot_be_ended(found(running()).simulated(), "demo", "this is a demo");
    cannot_be_ended(found(ChildState::default()).replayed(playback), "replay", "this is a replay");
    let far = found(ChildState { host, ..running() });
    cannot_be_ended(far, "far", "the run is on far");
    cannot_be_ended(found(gone), "gone", "the run is already over");
    cannot_be_ended(read_only, "read-only", "read-only");
    cannot_be_ended(ended, "ended", "the run is already over");
    let demo = found(running()).simulated();
    assert_screen!("demo_80x24", &demo, MONO, 80, 24);
    let replay = found(ChildState::default()).replayed(Playback::new(1.0, false));
    assert!(keys(&replay).contains("Space pause") && !keys(&replay).contains("freeze"));
    let ended = found(ChildState { code: Some(0), ..running() });
    assert!(!keys(&ended).contains("Space"), "{}", keys(&ended));
    // Before the first step there is nothing to go to, to sort or to measure.
    let starting = State::new(running(), true);
    assert!(!keys(&starting).contains("zoom") && !keys(&starting).contains("step"));
}

/// A run that ends while the screen stands still: the key for that still works.
#[test]
fn what_is_frozen_can_go_on_after_the_end() {
    let mut state = overview(&log());
    state.act(Action::Freeze);
    state.observe(ChildState { code: Some(0), ..running() }, 0.0, 0);
    assert!(keys(&state).contains("Space freeze") && text(&state, 100, 30).contains("FROZEN"));
    state.act(Action::Freeze);
    assert!(!keys(&state).contains("Space") && !text(&state, 100, 30).contains("FROZEN"));
}

#[test]
fn frozen_says_how_far_it_is_behind() {
    let events = log();
    let is_step = |event: &Event, n| matches!(event, Event::Step(step) if step.step == n);
    let at = |n| events.iter().position(|event| is_step(event, n)).unwrap() + 1;
    let mut state = overview(&events[..at(100)]);
    state.act(Action::Freeze);
    assert!(text(&state, 80, 24).contains(" FROZEN  step 100/120"));
    events[at(100)..at(101)].iter().for_each(|event| state.apply(event));
    assert!(text(&state, 80, 24).contains("FROZEN 1 step behind"));
    events[at(101)..at(112)].iter().for_each(|event| state.apply(event));
    for (width, height) in SIZES {
        let drawn = text(&state, width, height);
        assert!(drawn.contains("FROZEN 12 steps behind"), "{drawn}");
    }
}

#[test]
fn what_is_cut_off_is_said() {
    let mut state = overview(&log());
    state.act(Action::Help);
    let drawn = text(&state, 80, 18);
    assert!(drawn.contains("more below: j k"), "{drawn}");
    assert_screen!("help_below_80x18", &state, MONO, 80, 18);
    state.act(Action::Page(1));
    assert!(text(&state, 80, 18).contains("more above"));
    state.act(Action::Back);
    assert!(!text(&state, 80, 18).contains("more below"));
    let many = Play { pp: 16, schedule: ScheduleName::Gpipe, ..Play::PLAIN }.events();
    for view in [View::Overview, View::Timeline, View::Devices, View::Bubble] {
        let mut state = state_in(view, &many, &[]);
        // The bubble has its ranks in a table where there is room for one.
        let sizes = if view == View::Bubble { [(80, 24), (100, 30)] } else { [(60, 16), (80, 18)] };
        for (width, height) in sizes {
            let drawn = text(&state, width, height);
            assert!(drawn.contains("more below"), "{view:?}\n{drawn}");
        }
        (0..20).for_each(|_| assert_eq!(state.act(Action::Scroll(1)), None));
        let drawn = text(&state, sizes[1].0, sizes[1].1);
        assert!(drawn.contains("more above"), "{view:?}\n{drawn}");
    }
    let small = text(&overview(&many), 40, 12);
    assert!(small.contains("more below"), "{small}");
    let mut talks = log();
    for at in 0..40 {
        let message = format!("message {at}");
        talks.push(Event::Log(Log { elapsed_ns: at, message, ..Log::default() }));
    }
    let drawn = text(&state_in(View::Log, &talks, &[]), 80, 24);
    assert!(drawn.contains("more above"), "{drawn}");
    let drawn = text(&overview(&talks), 160, 50);
    assert!(drawn.contains("37 more below: 6"), "{drawn}");
    let detail = state_in(View::Devices, &log(), &[Action::Enter]);
    let drawn = text(&detail, 80, 14);
    assert!(drawn.contains("more below: PageDown PageUp"), "{drawn}");
}

/// The cell of a text in a row of the timeline.
fn cell(state: &State, (width, height): (u16, u16), row: &str, what: &str) -> (u16, u16) {
    let drawn = text(state, width, height);
    let is_row = |line: &str| {
        let line = line.trim_start_matches(['"', '│', ' ', '>']);
        line.starts_with(row) && line.contains(what)
    };
    let (y, line) = drawn
        .lines()
        .enumerate()
        .find(|(_, line)| is_row(line))
        .unwrap_or_else(|| panic!("{row} {what}\n{drawn}"));
    let before = &line[..line.find(what).unwrap()];
    (before.chars().count() as u16 - 1, y as u16)
}

#[test]
fn a_click_on_the_timeline_chooses_an_operation() {
    for size in [(80, 24), (100, 34), (160, 50), (240, 70)] {
        for view in [View::Timeline, View::Overview] {
            let mut state = state_in(view, &slow_rank(), &[]);
            let area = Rect::new(0, 0, size.0, size.1);
            let (x, y) = cell(&state, size, "r2", "B3");
            let clicked = target(&state, area, x, y);
            assert!(matches!(clicked, Some(Target::Op { rank: 2, .. })), "{clicked:?} {size:?}");
            state.point_at(clicked.unwrap());
            let drawn = text(&state, size.0, size.1);
            assert!(drawn.contains("[2]Timeline") && drawn.contains(" r2 B3 "), "{drawn}");
            // Once more: what it has waited for.
            let (x, y) = cell(&state, size, "r2", "B3");
            let again = target(&state, area, x, y).unwrap();
            state.point_at(again);
            let drawn = text(&state, size.0, size.1);
            assert!(
                drawn.contains("goes there") || drawn.contains("here the step begins"),
                "{drawn}"
            );
        }
    }
    // The name of a rank means the rank, and idle time what comes behind it.
    let mut state = state_in(View::Timeline, &slow_rank(), &[]);
    let area = Rect::new(0, 0, 100, 34);
    let (x, y) = cell(&state, (100, 34), "r3", "r3");
    assert_eq!(target(&state, area, x, y), Some(Target::Rank(3)));
    state.point_at(Target::Rank(3));
    assert!(text(&state, 100, 34).contains(">r3"));
    let (x, y) = cell(&state, (100, 34), "r3", "·f0");
    state.point_at(target(&state, area, x, y).unwrap());
    assert!(text(&state, 100, 34).contains(" r3 f0 "), "{}", text(&state, 100, 34));
    // In the plan below stands the same operation.
    let drawn = text(&state, 100, 34);
    let planned = drawn.lines().position(|line| line.contains("planned: mean")).unwrap();
    let (line, y) = drawn.lines().zip(0..).skip(planned).find(|(l, _)| l.contains("r1")).unwrap();
    let x = line[..line.find("B5").unwrap()].chars().count() as u16 - 1;
    state.point_at(target(&state, area, x, y).unwrap());
    assert!(text(&state, 100, 34).contains(" r1 B5 "), "{}", text(&state, 100, 34));
}

#[test]
fn a_rank_is_chosen_in_the_overview_with_keys() {
    let mut state = overview(&copied(8, 2));
    state.act(Action::Scroll(1));
    assert!(text(&state, 80, 24).contains("│>0.0"), "{}", text(&state, 80, 24));
    (0..5).for_each(|_| assert_eq!(state.act(Action::Scroll(1)), None));
    assert!(text(&state, 80, 24).contains("│>5.0"), "{}", text(&state, 80, 24));
    state.act(Action::Enter);
    assert!(text(&state, 80, 24).contains("[3]Devices"));
    state.act(Action::Back);
    state.act(Action::Back);
    assert!(!text(&state, 80, 24).contains("│>"));
}

#[test]
fn more_ranks_than_the_names_of_layers_have_room_for() {
    let mut events = Play {
        pp: 8,
        schedule: ScheduleName::InterleavedOneFOneB,
        virtual_stages: 2,
        ..Play::PLAIN
    }
    .events();
    hello_of(&mut events).cores = 2;
    let drawn = text(&overview(&events), 160, 50);
    assert!(drawn.contains("s7,15") && drawn.contains("21-23,45-47"), "{drawn}");
    screen(&overview(&events), COLOUR, 160, 50);
}
