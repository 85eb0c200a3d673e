//! Traces for the viewers of Chrome and Perfetto.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pp_telemetry::{Event, ExportFormat, Span, SpanKind};
use serde_json::Value;

use super::common::{HOSTILE, TIMES, job, memory, runs, spans, steps, text};
use super::simulated::run;

/// The nanoseconds of a time in microseconds.
fn ns(value: &Value) -> u64 {
    (value.as_f64().unwrap() * 1000.0).round() as u64
}

type Track = (u64, u64);

fn track(event: &Value) -> Track {
    (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap())
}

/// The span that a slice stands for.
fn span_of(slice: &Value) -> Span {
    let op = SpanKind::ALL.into_iter().find(|kind| slice["cat"] == kind.name()).unwrap();
    let of = |key: &str| slice["args"][key].as_u64().unwrap();
    let (replica, rank) = track(slice);
    let span = Span {
        step: of("step"),
        replica: replica as u32,
        rank: rank as u32,
        stage: of("stage") as u32,
        mb: of("micro_batch") as u32,
        op,
        start_ns: ns(&slice["ts"]),
        dur_ns: ns(&slice["dur"]),
        cpu_ns: ns(&slice["args"]["cpu_us"]),
        bytes: of("bytes"),
        starved_ns: ns(&slice["args"]["starved_us"]),
    };
    if op.is_compute() {
        assert_eq!(slice["name"], format!("{}{}{}", span.stage, op.name(), span.mb));
    }
    span
}

/// Slices of a track lie within each other or apart.
fn check_nesting(spans: &[Span]) {
    let mut tracks: BTreeMap<(u32, u32), Vec<(u64, u64)>> = BTreeMap::new();
    for span in spans {
        let track = tracks.entry((span.replica, span.rank)).or_default();
        track.push((span.start_ns, span.end_ns()));
    }
    for (track, mut slices) in tracks {
        slices.sort_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
        let mut open: Vec<u64> = Vec::new();
        for (start, end) in slices {
            while open.last().is_some_and(|&last| last <= start) {
                open.pop();
            }
            assert!(open.last().is_none_or(|&last| end <= last), "{track:?}: {start} {end}");
            open.push(end);
        }
    }
}

/// For each tensor that one stage makes and another uses: who made it, and who used it.
fn dependencies(spans: &[Span]) -> BTreeSet<(u32, u64, u32, u32, bool)> {
    let is_forward = |span: &Span| span.op == SpanKind::F;
    let is_backward = |span: &Span| matches!(span.op, SpanKind::B | SpanKind::I);
    let key = |span: &Span, stage, forward| (span.replica, span.step, stage, span.mb, forward);
    let used: BTreeSet<_> = spans
        .iter()
        .filter(|span| is_forward(span) || is_backward(span))
        .map(|span| key(span, span.stage, is_forward(span)))
        .collect();
    let forward =
        spans.iter().filter(|span| is_forward(span)).map(|span| key(span, span.stage + 1, true));
    let backward = spans
        .iter()
        .filter(|span| is_backward(span) && span.stage > 0)
        .map(|span| key(span, span.stage - 1, false));
    forward.chain(backward).filter(|tensor| used.contains(tensor)).collect()
}

/// Each arrow begins in the slice that makes a tensor and ends in the one that uses it; gives the
/// tensors.
fn check_arrows(events: &[Value], spans: &[Span]) -> BTreeSet<(u32, u64, u32, u32, bool)> {
    let at = |event: &Value| {
        let ((replica, rank), ts) = (track(event), ns(&event["ts"]));
        let on_track = spans
            .iter()
            .filter(|span| (u64::from(span.replica), u64::from(span.rank)) == (replica, rank));
        let mut holding = on_track.filter(|span| (span.start_ns..span.end_ns()).contains(&ts));
        *holding.next().unwrap()
    };
    let mut ends: HashMap<u64, (Option<&Value>, Option<&Value>)> = HashMap::new();
    for event in events {
        let id = || event["id"].as_u64().unwrap();
        match event["ph"].as_str() {
            Some("s") => assert!(ends.entry(id()).or_default().0.replace(event).is_none()),
            Some("f") => {
                assert_eq!(event["bp"], "e");
                assert!(ends.entry(id()).or_default().1.replace(event).is_none());
            }
            _ => {}
        }
    }
    let n_arrows = ends.len();
    let tensors: BTreeSet<_> = ends
        .into_values()
        .map(|(start, finish)| {
            let (start, finish) = (start.unwrap(), finish.unwrap());
            assert_eq!((&start["name"], &start["cat"]), (&finish["name"], &finish["cat"]));
            let (from, to) = (at(start), at(finish));
            assert_eq!((from.replica, from.step, from.mb), (to.replica, to.step, to.mb));
            assert!(ns(&start["ts"]) <= ns(&finish["ts"]) && to.start_ns == ns(&finish["ts"]));
            let is_forward = start["name"] == "activation";
            if is_forward {
                assert_eq!((from.op, to.op, from.stage + 1), (SpanKind::F, SpanKind::F, to.stage));
            } else {
                let is_backward = |op| matches!(op, SpanKind::B | SpanKind::I);
                assert!(is_backward(from.op) && is_backward(to.op) && from.stage == to.stage + 1);
            }
            (to.replica, to.step, to.stage, to.mb, is_forward)
        })
        .collect();
    assert_eq!(tensors.len(), n_arrows);
    tensors
}

#[test]
fn a_chrome_trace_holds_every_span_exactly() {
    for (name, events) in runs() {
        let trace: Value =
            serde_json::from_str(&text(&events, ExportFormat::ChromeTrace, None)).unwrap();
        let objects = trace["traceEvents"].as_array().unwrap();
        let of = |ph: &'static str| objects.iter().filter(move |event| event["ph"] == ph);
        let drawn: Vec<Span> = of("X").map(span_of).collect();
        assert_eq!(drawn, spans(&events), "{name}");
        check_nesting(&drawn);
        assert_eq!(check_arrows(objects, &drawn), dependencies(&drawn), "{name}");
        if name == "1f1b" {
            // Both ways over three boundaries, eight micro-batches, four steps.
            assert_eq!(of("s").count(), 2 * 3 * 8 * 4);
        }

        let named = |what: &'static str| of("M").filter(move |event| event["name"] == what);
        let tracks: BTreeSet<Track> = named("thread_name").map(track).collect();
        let processes: BTreeSet<u64> =
            named("process_name").map(|event| event["pid"].as_u64().unwrap()).collect();
        assert_eq!(named("thread_name").count(), tracks.len(), "{name}");
        for slice in of("X") {
            assert!(tracks.contains(&track(slice)) && processes.contains(&track(slice).0));
        }
        if name == "two replicas" {
            assert_eq!((tracks.len(), processes.len()), (4, 2));
        }

        let counter = |what: String| {
            of("C").filter(move |event| event["name"] == what.as_str()).collect::<Vec<_>>()
        };
        let losses: Vec<f32> = steps(&events)
            .iter()
            .filter_map(|step| step.loss)
            .filter(|loss| loss.is_finite())
            .collect();
        let shown: Vec<f32> = counter("loss".to_owned())
            .iter()
            .map(|event| event["args"]["loss"].as_f64().unwrap() as f32)
            .collect();
        assert_eq!(shown, losses, "{name}");
        let n_nonfinite = steps(&events).len() - losses.len();
        let said = of("i").filter(|event| event["cat"] == "loss").count();
        assert_eq!(said, n_nonfinite, "{name}");
        for (event, step) in counter("bubble ratio".to_owned()).iter().zip(steps(&events)) {
            assert_eq!(event["args"]["bubble_ratio"].as_f64().unwrap(), step.bubble_ratio);
            assert_eq!(ns(&event["ts"]), (step.elapsed_seconds * 1e9) as u64);
        }
        for rank in 0..4 {
            let wanted: Vec<(u64, u64)> = memory(&events)
                .iter()
                .filter(|mem| mem.rank == rank)
                .map(|mem| (u64::from(mem.replica), mem.live_bytes))
                .collect();
            let shown: Vec<(u64, u64)> = counter(format!("memory of rank {rank}"))
                .iter()
                .map(|event| {
                    let bytes = event["args"]["live_bytes"].as_u64().unwrap();
                    (event["pid"].as_u64().unwrap(), bytes)
                })
                .collect();
            assert_eq!(shown, wanted, "{name}");
        }
        if name == "hostile names" {
            assert_eq!(trace["otherData"]["run"], HOSTILE);
        }
    }
}

#[test]
fn a_part_of_a_trace_is_about_its_steps_alone() {
    let events = run(&job(), TIMES);
    let part = |steps| text(&events, ExportFormat::ChromeTrace, Some(steps));
    let trace: Value = serde_json::from_str(&part("2..3")).unwrap();
    let objects = trace["traceEvents"].as_array().unwrap();
    let drawn: Vec<Span> = objects.iter().filter(|e| e["ph"] == "X").map(span_of).collect();
    let wanted: Vec<Span> =
        spans(&events).into_iter().filter(|span| (2..=3).contains(&span.step)).collect();
    assert_eq!(drawn, wanted);
    assert_eq!(check_arrows(objects, &drawn), dependencies(&drawn));
    assert_eq!(part("1..4"), part("1.."));
    assert_eq!(part("..4"), text(&events, ExportFormat::ChromeTrace, None));
}

#[test]
fn what_touches_in_the_log_touches_in_the_trace() {
    // A hundred days after the start, times have more digits than a float has.
    let start_ns = 8_640_000_000_000_007;
    let span = |mb, start_ns| Span {
        step: 1,
        replica: 0,
        rank: 0,
        stage: 0,
        mb,
        op: SpanKind::F,
        start_ns,
        dur_ns: 1,
        cpu_ns: 1,
        bytes: 0,
        starved_ns: 0,
    };
    let events = [Event::Span(span(0, start_ns)), Event::Span(span(1, start_ns + 1))];
    let trace = text(&events, ExportFormat::ChromeTrace, None);
    assert!(trace.contains(r#""ts":8640000000000.007,"dur":0.001,"#), "{trace}");
    assert!(trace.contains(r#""ts":8640000000000.008,"dur":0.001,"#), "{trace}");
}
