//! The view of the devices, as text, for a recorded run on four simulated GPUs and for many ranks.

use pp_telemetry::{Cpu, DeviceMapEntry, Event, Gpu, Mem, StageInfo, Unavailable};
use pptop::monitor::{Action, State, Target, View, target};
use ratatui::layout::Rect;

use super::common::{
    ASCII, COLOUR, MONO, assert_screen, hello_of, hundred_steps, log, part_of_the_next_step,
    screen, slow_down_one_backward, state_in, state_of, text,
};

pub(crate) fn uuid(rank: u32) -> String {
    format!("GPU-5f0c3{rank}aa-0000-4000-8000-0000000000{rank}0")
}

/// A look at the GPU of a rank; the ranks are known by the names of their GPUs.
fn gpu(rank: u32, second: u64) -> Gpu {
    let wave = ((second * 7 + u64::from(rank) * 3) % 11) as f64;
    Gpu {
        elapsed_ns: second * 1_000_000_000,
        uuid: uuid(rank),
        pci: Some(format!("00000000:1{rank}:00.0")),
        name: Some("NVIDIA H100 80GB HBM3".to_owned()),
        utilisation: Some(0.70 + 0.01 * wave),
        sm_active: Some(0.66 + 0.01 * f64::from(rank)),
        used_bytes: Some(50 << 30),
        total_bytes: Some(80 << 30),
        power_watts: Some(480.0 + 5.0 * wave),
        energy_joules: Some(1e6 + 500.0 * second as f64),
        temperature_celsius: Some(58.0 + f64::from(rank) + wave / 4.0),
        sm_clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        pcie_sent_bytes_per_second: Some(1.2e9),
        pcie_received_bytes_per_second: Some(8e8),
        processes: Some(1),
        unavailable: vec![Unavailable {
            what: "tensor_active".to_owned(),
            why: "NotSupported".to_owned(),
        }],
        ..Gpu::default()
    }
}

fn cpu(rank: u32, second: u64) -> Event {
    Event::Cpu(Cpu {
        elapsed_ns: second * 1_000_000_000,
        rank,
        cpu_ns: second * 710_000_000,
        run_queue_ns: second * 21_000_000,
        voluntary_switches: second * 240,
        involuntary_switches: second * 3,
        ..Cpu::default()
    })
}

/// The first hundred steps on four GPUs of 80 GB, of which the third is throttled; B3 of rank 2 was
/// slow at last.
pub(crate) fn on_gpus() -> Vec<Event> {
    let mut events = hundred_steps();
    let hello = hello_of(&mut events);
    hello.device_map = (0..4)
        .map(|rank| DeviceMapEntry {
            stage: rank,
            rank,
            device: format!("cuda:{rank}"),
            host: None,
            uuid: Some(uuid(rank)),
            ..DeviceMapEntry::default()
        })
        .collect();
    for event in &mut events {
        if let Event::Mem(memory) = event {
            let large = |bytes: &mut u64| *bytes = bytes.saturating_mul(2000);
            large(&mut memory.live_bytes);
            large(&mut memory.peak_bytes);
            large(&mut memory.parameter_bytes);
            large(&mut memory.gradient_bytes);
            large(&mut memory.optimizer_bytes);
            large(&mut memory.stash_bytes);
        }
    }
    slow_down_one_backward(&mut events);
    events.extend(part_of_the_next_step(&events));
    for second in 1..=40 {
        for rank in 0..4 {
            let mut gpu = gpu(rank, second);
            if rank == 2 && second > 30 {
                gpu.throttle = vec!["SW power cap".to_owned()];
            }
            events.push(Event::Gpu(Box::new(gpu)));
            events.push(cpu(rank, second));
        }
    }
    events
}

/// The view of the devices, after some keys.
fn devices(events: &[Event], actions: &[Action]) -> State {
    state_in(View::Devices, events, actions)
}

#[test]
fn the_list_at_every_size() {
    let state = devices(&on_gpus(), &[Action::Scroll(2)]);
    assert_screen!("list_20x5", &state, MONO, 20, 5);
    assert_screen!("list_40x12", &state, MONO, 40, 12);
    assert_screen!("list_80x24", &state, MONO, 80, 24);
    assert_screen!("list_100x30", &state, MONO, 100, 30);
    assert_screen!("list_160x50", &state, MONO, 160, 50);
    assert_screen!("list_240x70", &state, MONO, 240, 70);
}

#[test]
fn one_rank_at_every_size() {
    let state = devices(&on_gpus(), &[Action::Scroll(2), Action::Enter]);
    assert_screen!("detail_20x5", &state, MONO, 20, 5);
    assert_screen!("detail_40x12", &state, MONO, 40, 12);
    assert_screen!("detail_80x24", &state, MONO, 80, 24);
    assert_screen!("detail_100x30", &state, MONO, 100, 30);
    assert_screen!("detail_160x50", &state, MONO, 160, 50);
    assert_screen!("detail_240x70", &state, MONO, 240, 70);
}

#[test]
fn without_a_gpu() {
    let state = devices(&log(), &[]);
    assert_screen!("cpu_80x24", &state, MONO, 80, 24);
    assert_screen!("cpu_160x50", &state, MONO, 160, 50);
}

#[test]
fn plain_characters() {
    let mut state = devices(&on_gpus(), &[Action::Sort]);
    assert_screen!("ascii_100x30", &state, ASCII, 100, 30);
    state.act(Action::Enter);
    assert_screen!("ascii_detail_160x50", &state, ASCII, 160, 50);
    let drawn = screen(&state, ASCII, 160, 50).backend().to_string();
    assert!(drawn.is_ascii(), "{drawn}");
}

#[test]
fn colours_on_dark_and_on_light() {
    let mut events = on_gpus();
    let lost = Gpu { error: Some("GpuLost".to_owned()), uuid: uuid(1), ..Gpu::default() };
    events.push(Event::Gpu(Box::new(lost)));
    let state = devices(&events, &[Action::Scroll(1)]);
    let dark = COLOUR;
    for (name, theme) in [("dark_60x16", dark), ("light_60x16", dark.on_light())] {
        insta::assert_debug_snapshot!(name, screen(&state, theme, 60, 16).backend().buffer());
    }
}

/// As [`on_gpus`], with so many ranks in so many replicas.
fn many(pp: u32, dp: u32) -> Vec<Event> {
    let mut events = log();
    let hello = hello_of(&mut events);
    (hello.pp, hello.dp) = (pp, dp);
    hello.stages = (0..pp)
        .map(|rank| StageInfo {
            stage: rank,
            rank,
            layers: Some([2 * rank, 2 * rank + 1]),
            parameters: 100_000,
            parameter_bytes: 400_000,
            ..StageInfo::default()
        })
        .collect();
    hello.device_map = (0..dp)
        .flat_map(|replica| (0..pp).map(move |rank| (replica, rank)))
        .map(|(replica, rank)| DeviceMapEntry {
            stage: rank,
            rank,
            replica,
            device: format!("cpu:{}", replica * pp + rank),
            ..DeviceMapEntry::default()
        })
        .collect();
    for replica in 0..dp {
        for rank in 0..pp {
            let live_bytes = 1_000_000 * u64::from(1 + (rank * 5 + replica) % 7);
            let memory = Mem {
                replica,
                rank,
                live_bytes,
                peak_bytes: live_bytes + 500_000,
                ..Mem::default()
            };
            events.push(Event::Mem(memory));
        }
    }
    events
}

#[test]
fn sixteen_ranks_and_two_replicas() {
    let sixteen = many(16, 1);
    assert_screen!("sixteen_80x24", &devices(&sixteen, &[]), MONO, 80, 24);
    let at_the_end = devices(&sixteen, &[Action::Edge { last: true }]);
    assert_screen!("sixteen_end_80x18", &at_the_end, MONO, 80, 18);
    let replicas = many(8, 2);
    let second = devices(&replicas, &[Action::Page(1), Action::Scroll(1)]);
    assert_screen!("replicas_80x24", &second, MONO, 80, 24);
    assert_screen!("replicas_160x50", &second, MONO, 160, 50);
    let by_memory = devices(&replicas, &[Action::Sort, Action::Sort, Action::Sort]);
    assert_screen!("by_memory_100x30", &by_memory, MONO, 100, 30);
}

#[test]
fn a_gpu_that_is_lost_is_seen_until_it_is_back() {
    let mut events = on_gpus();
    for error in ["GpuLost", "does not answer"] {
        let gone = Gpu { error: Some(error.to_owned()), uuid: uuid(3), ..Gpu::default() };
        events.push(Event::Gpu(Box::new(gone)));
        let list = devices(&events, &[Action::Edge { last: true }]);
        assert!(text(&list, 100, 30).contains(error), "{error}");
        let detail = devices(&events, &[Action::Edge { last: true }, Action::Enter]);
        assert!(text(&detail, 80, 24).contains(error), "{error}");
    }
    let detail = devices(&events, &[Action::Edge { last: true }, Action::Enter]);
    assert_screen!("lost_100x30", &detail, MONO, 100, 30);
    events.push(Event::Gpu(Box::new(gpu(3, 42))));
    let back = devices(&events, &[Action::Edge { last: true }, Action::Enter]);
    let text = text(&back, 100, 30);
    assert!(!text.contains("does not answer") && text.contains("H100"), "{text}");
}

#[test]
fn what_will_not_fit_is_said() {
    let mut events = on_gpus();
    for event in &mut events {
        if let Event::Mem(memory) = event {
            memory.peak_bytes = 79 << 30;
        }
    }
    let said = text(&devices(&events, &[Action::Enter]), 100, 30);
    assert!(said.contains("barely fits: device memory free 1.0 of 80.0 GiB"), "{said}");
}

/// The cell of a text on the screen.
fn find(state: &State, (width, height): (u16, u16), what: &str) -> (u16, u16) {
    let drawn = text(state, width, height);
    let (y, line) = drawn.lines().enumerate().find(|(_, line)| line.contains(what)).unwrap();
    // Each line of the text is in quotes.
    let before = &line[..line.find(what).unwrap()];
    (before.chars().count() as u16 - 1, y as u16)
}

#[test]
fn clicks_reach_what_is_drawn_there() {
    let replicas = many(8, 2);
    let sizes = [(80, 24), (100, 30), (160, 50), (40, 12), (80, 18)];
    for size in sizes {
        let area = Rect::new(0, 0, size.0, size.1);
        let mut state = devices(&replicas, &[Action::Page(1), Action::Scroll(1)]);
        for (name, index) in [("1.1 ", 9), ("2.1 ", 10), ("0.1 ", 8)] {
            let (x, y) = find(&state, size, name);
            let clicked = target(&state, area, x, y);
            assert_eq!(clicked, Some(Target::Rank(index)), "{name} at {size:?}");
        }
        state.point_at(Target::Rank(10));
        state.point_at(Target::Rank(10));
        assert!(text(&state, size.0, size.1).contains("rank 2.1"), "{size:?}");
    }
    let mut state = devices(&replicas, &[]);
    let area = Rect::new(0, 0, 80, 24);
    for view in View::ALL {
        let (x, y) = find(&state, (80, 24), view.title());
        assert_eq!(target(&state, area, x, y), Some(Target::View(view)));
    }
    state.point_at(Target::View(View::Log));
    assert!(text(&state, 80, 24).contains("[6]Log"));
    state.act(Action::Help);
    assert_eq!(target(&state, area, 3, 1), None);
}

#[test]
fn a_click_on_the_overview_chooses_a_rank_and_a_second_one_shows_it() {
    let mut state = state_of(&on_gpus());
    for size in [(80, 24), (100, 30), (160, 50)] {
        let (x, y) = find(&state, size, "s2 ");
        let area = Rect::new(0, 0, size.0, size.1);
        assert_eq!(target(&state, area, x, y), Some(Target::Rank(2)), "{size:?}");
    }
    assert_eq!(target(&state, Rect::new(0, 0, 80, 24), 5, 23), None);
    state.point_at(Target::Rank(2));
    assert!(text(&state, 80, 24).contains("│>2 "));
    state.point_at(Target::Rank(2));
    assert_eq!(state.act(Action::Enter), None);
    assert!(text(&state, 80, 24).contains("┌ rank 2"));
}

#[test]
fn what_was_slow_stands_in_the_detail() {
    let mut state = devices(&on_gpus(), &[Action::Scroll(2), Action::Enter]);
    let said = text(&state, 100, 30);
    assert!(said.contains("B3 +51%") && said.contains("no core for most of it"), "{said}");
    state.act(Action::Scroll(1));
    let said = text(&state, 100, 30);
    assert!(!said.contains("no core for most of it"), "{said}");
}
