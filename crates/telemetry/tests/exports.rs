//! A run in the formats of other programs: each is read back, and holds what the log holds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "a number that was written comes back as it was")]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;

use common::{Job, Times, run};
use pp_schedule::ScheduleName;
use pp_telemetry::{
    Eval, Event, Export, ExportError, ExportFormat, Follower, Gpu, Hello, Mem, Span, SpanKind,
    StepEvent, export,
};
use serde_json::Value;

const TIMES: Times = Times {
    forward_ns: 12_000_007,
    backward_ns: 24_000_011,
    link_ns: 800_003,
    optim_ns: 2_000_001,
};

const HOSTILE: &str = "a\"b' <i>&amp;]]>\\n\n\t\u{1}\u{ffff} {x=\"1\"} #";

fn job() -> Job {
    Job { steps: 4, jitter_per_mille: 37, ends: true, ..Job::one_f_one_b() }
}

fn written(
    events: &[Event],
    format: ExportFormat,
    steps: Option<&str>,
) -> Result<Vec<u8>, ExportError> {
    let mut export = Export::new(format, steps.map(|steps| steps.parse().unwrap()));
    let mut bytes = Vec::new();
    let pushed = events.iter().try_for_each(|event| export.push(event, &mut bytes));
    let ended = pushed.and_then(|()| export.finish(&mut bytes));
    if ended.is_err() {
        assert!(bytes.is_empty(), "what is refused leaves no trace");
    }
    ended.map(|()| bytes)
}

fn text(events: &[Event], format: ExportFormat, steps: Option<&str>) -> String {
    String::from_utf8(written(events, format, steps).unwrap()).unwrap()
}

fn hello(events: &mut [Event]) -> &mut Hello {
    let Event::Hello(hello) = &mut events[0] else { panic!("the first event is hello") };
    hello
}

fn spans(events: &[Event]) -> Vec<Span> {
    let is_span = |event: &Event| if let Event::Span(span) = event { Some(*span) } else { None };
    events.iter().filter_map(is_span).collect()
}

fn steps(events: &[Event]) -> Vec<StepEvent> {
    let is_step =
        |event: &Event| if let Event::Step(step) = event { Some(step.clone()) } else { None };
    events.iter().filter_map(is_step).collect()
}

fn memory(events: &[Event]) -> Vec<Mem> {
    let is_memory = |event: &Event| if let Event::Mem(mem) = event { Some(*mem) } else { None };
    events.iter().filter_map(is_memory).collect()
}

fn set_losses(events: &mut [Event], losses: [f32; 3]) {
    let mut losses = losses.into_iter();
    for event in events {
        if let Event::Step(step) = event
            && let Some(loss) = losses.next()
        {
            step.loss = loss;
            step.loss_bits = StepEvent::bits_of(loss);
        }
    }
}

/// Runs of many kinds, with what their names say.
fn runs() -> Vec<(&'static str, Vec<Event>)> {
    let of = |job: &Job| run(job, TIMES);
    let mut nan = of(&job());
    set_losses(&mut nan, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let mut named = of(&job());
    HOSTILE.clone_into(&mut hello(&mut named).run);
    HOSTILE.clone_into(&mut hello(&mut named).schedule);
    HOSTILE.clone_into(&mut hello(&mut named).device_map[0].device);
    let mut evals = of(&job());
    evals.insert(evals.len() - 1, Event::Eval(Eval { step: 4, loss: 0.1, accuracy: Some(0.875) }));
    let mut without_hello = of(&job());
    without_hello.remove(0);
    let mut torn = of(&job());
    torn.truncate(torn.len() - 30);
    vec![
        ("1f1b", of(&job())),
        ("two replicas", of(&Job { pp: 2, dp: 2, micro_batches: 3, ..job() })),
        ("zb-h1", of(&Job { schedule: ScheduleName::ZbH1, ..job() })),
        (
            "interleaved",
            of(&Job { schedule: ScheduleName::InterleavedOneFOneB, virtual_stages: 2, ..job() }),
        ),
        ("one step", of(&Job { steps: 1, ..job() })),
        ("one rank", of(&Job { pp: 1, ..job() })),
        ("few spans", of(&Job { steps: 9, span_every: 4, ..job() })),
        ("losses that are not finite", nan),
        ("hostile names", named),
        ("a validation", evals),
        ("no hello", without_hello),
        ("torn", torn),
        ("no step", of(&Job { steps: 0, ..job() })),
        ("nothing", Vec::new()),
    ]
}

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

/// Each arrow begins in the slice that makes a tensor and ends in the one that uses it; gives the tensors.
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
        let losses: Vec<f32> =
            steps(&events).iter().map(|step| step.loss).filter(|loss| loss.is_finite()).collect();
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

/// A CSV without quotes, by the names of its columns.
fn table(text: &str) -> Vec<HashMap<&str, &str>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), names.len(), "{line}");
            names.iter().copied().zip(cells).collect()
        })
        .collect()
}

#[test]
fn a_row_of_csv_is_a_step_to_the_last_bit() {
    for (name, events) in runs() {
        let text = text(&events, ExportFormat::StepsCsv, None);
        let rows = table(&text);
        assert_eq!(rows.len(), steps(&events).len(), "{name}");
        for (row, step) in rows.iter().zip(steps(&events)) {
            let float = |key: &str| row[key].parse::<f64>().unwrap();
            let loss: f32 = row["loss"].parse().unwrap();
            assert_eq!(loss.is_nan(), step.loss.is_nan());
            assert!(loss == step.loss || loss.is_nan());
            for (key, value) in [
                ("lr", step.lr),
                ("grad_norm", step.grad_norm),
                ("seconds", step.seconds),
                ("elapsed_seconds", step.elapsed_seconds),
                ("bubble_ratio", step.bubble_ratio),
                ("idle_of_step", step.idle_of_step),
                ("starved_ratio", step.starved_ratio),
                ("window_seconds", step.window_seconds),
                ("samples", step.samples as f64),
                ("tokens", step.tokens as f64),
                ("step", step.step as f64),
            ] {
                assert_eq!(float(key), value, "{name}: {key}");
            }
            let has_eval = name == "a validation" && step.step == 4;
            let wanted = if has_eval { ("0.1", "0.875") } else { ("", "") };
            assert_eq!((row["validation_loss"], row["validation_accuracy"]), wanted, "{name}");
        }
        if name == "losses that are not finite" {
            let losses: Vec<&str> = rows.iter().map(|row| row["loss"]).take(3).collect();
            assert_eq!(losses, ["nan", "inf", "-inf"]);
        }
    }
    // A validation belongs to its own step, also when others follow.
    let events = run(&Job { steps: 45, span_every: 100, ..job() }, TIMES);
    let text = text(&events, ExportFormat::StepsCsv, Some("19..41"));
    let with: Vec<&str> = table(&text)
        .iter()
        .filter(|row| !row["validation_loss"].is_empty())
        .map(|row| row["step"])
        .collect();
    assert_eq!(with, ["20", "40"]);
    assert_eq!(table(&text).len(), 23);
}

#[test]
fn a_row_of_csv_is_a_span() {
    for (name, events) in runs() {
        let text = text(&events, ExportFormat::SpansCsv, None);
        let read: Vec<Span> = table(&text)
            .iter()
            .map(|row| {
                let number = |key: &str| row[key].parse::<u64>().unwrap();
                Span {
                    step: number("step"),
                    replica: number("replica") as u32,
                    rank: number("rank") as u32,
                    stage: number("stage") as u32,
                    mb: number("mb") as u32,
                    op: SpanKind::ALL.into_iter().find(|op| op.name() == row["op"]).unwrap(),
                    start_ns: number("start_ns"),
                    dur_ns: number("dur_ns"),
                    cpu_ns: number("cpu_ns"),
                    bytes: number("bytes"),
                    starved_ns: number("starved_ns"),
                }
            })
            .collect();
        assert_eq!(read, spans(&events), "{name}");
    }
}

/// CRC-32C bit by bit, moved as the records have it.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn records(mut file: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !file.is_empty() {
        let (head, rest) = file.split_at(12);
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(number(&head[8..]), masked_crc(&head[..8]));
        let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
        let (data, rest) = rest.split_at(length);
        let (crc, rest) = rest.split_at(4);
        assert_eq!(number(crc), masked_crc(data));
        found.push(data);
        file = rest;
    }
    found
}

/// A field of a message in protocol buffers.
#[derive(Debug, PartialEq)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for at in 0.. {
        let byte = message[0];
        *message = &message[1..];
        value |= u64::from(byte & 127) << (7 * at);
        if byte < 128 {
            break;
        }
    }
    value
}

fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut message)),
            1 => {
                let (head, rest) = message.split_at(8);
                message = rest;
                Field::Fixed64(u64::from_le_bytes(head.try_into().unwrap()))
            }
            2 => {
                let length = varint(&mut message) as usize;
                let (head, rest) = message.split_at(length);
                message = rest;
                Field::Bytes(head)
            }
            5 => {
                let (head, rest) = message.split_at(4);
                message = rest;
                Field::Fixed32(u32::from_le_bytes(head.try_into().unwrap()))
            }
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, field));
    }
    found
}

/// Of each scalar its wall time, step and bits, in the order of the file.
type Scalars = BTreeMap<String, Vec<(f64, u64, u32)>>;

fn scalars(file: &[u8]) -> Scalars {
    let mut found = Scalars::new();
    for (at, record) in records(file).into_iter().enumerate() {
        let (mut time, mut step) = (0.0, 0);
        for (tag, field) in fields(record) {
            match (tag, field) {
                (1, Field::Fixed64(bits)) => time = f64::from_bits(bits),
                (2, Field::Varint(number)) => step = number,
                (3, Field::Bytes(version)) => {
                    assert_eq!((at, version), (0, &b"brain.Event:2"[..]));
                }
                (5, Field::Bytes(summary)) => {
                    assert!(at > 0, "the first record tells the version");
                    for (_, value) in fields(summary) {
                        let Field::Bytes(value) = value else { panic!("{value:?}") };
                        let value = fields(value);
                        let [(1, Field::Bytes(tag)), (2, Field::Fixed32(bits))] = value[..] else {
                            panic!("{value:?}")
                        };
                        let tag = String::from_utf8(tag.to_vec()).unwrap();
                        found.entry(tag).or_default().push((time, step, bits));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    found
}

#[test]
fn an_event_file_holds_every_number() {
    for (name, events) in runs() {
        let file = written(&events, ExportFormat::TensorBoard, None).unwrap();
        let found = scalars(&file);
        let (started, theory, dp) = match events.first() {
            Some(Event::Hello(hello)) => {
                (hello.started_unix_ms as f64 * 1e-3, hello.theory, hello.dp)
            }
            _ => (0.0, None, 1),
        };
        let check = |tag: &str, of: &dyn Fn(&StepEvent) -> f64| {
            let wanted: Vec<(f64, u64, u32)> = steps(&events)
                .iter()
                .map(|step| (step.elapsed_seconds, step.step, (of(step) as f32).to_bits()))
                .collect();
            let shown = found.get(tag).cloned().unwrap_or_default();
            assert_eq!(shown.len(), wanted.len(), "{name}: {tag}");
            for (shown, wanted) in shown.iter().zip(wanted) {
                assert!((shown.0 - started - wanted.0).abs() < 1e-5, "{name}: {tag}");
                assert_eq!((shown.1, shown.2), (wanted.1, wanted.2), "{name}: {tag}");
            }
        };
        check("loss/train", &|step| f64::from(step.loss));
        check("bubble/measured", &|step| step.bubble_ratio);
        check("seconds/step", &|step| step.seconds);
        check("lr", &|step| step.lr);
        check("grad_norm", &|step| step.grad_norm);
        check("rate/samples_per_second", &|step| step.samples as f64 / step.seconds);
        check("rate/tokens_per_second", &|step| step.tokens as f64 / step.seconds);
        if let Some(theory) = theory {
            check("bubble/theory", &|_| theory);
        }
        for mem in memory(&events) {
            let replica = if dp > 1 { format!("replica_{}/", mem.replica) } else { String::new() };
            let tag = format!("memory/{replica}rank_{}/live_bytes", mem.rank);
            let bits = (mem.live_bytes as f32).to_bits();
            let mut of_step = found[&tag].iter().filter(|(_, step, _)| *step == mem.step);
            assert_eq!(of_step.next().unwrap().2, bits, "{name}");
            assert!(of_step.next().is_none());
        }
        let validation = name == "a validation";
        assert_eq!(found.contains_key("loss/validation"), validation, "{name}");
        assert_eq!(found.contains_key("accuracy"), validation, "{name}");
        if validation {
            assert_eq!(found["loss/validation"][0].1, 4);
            assert_eq!(found["loss/validation"][0].2, 0.1_f32.to_bits());
        }
        assert!(!records(&file).is_empty(), "{name}");
    }
}

/// The samples of a page by name and labels, as they are written; each has a type and a help.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut metric = (String::new(), String::new());
    let mut seen = BTreeSet::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(words.len() > 10 && seen.insert(name.to_owned()), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            metric = (name.to_owned(), kind.to_owned());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next().unwrap(), metric.0, "{line}");
            let value = match value {
                "+Inf" => f64::INFINITY,
                "-Inf" => f64::NEG_INFINITY,
                "NaN" => f64::NAN,
                number => number.parse().unwrap(),
            };
            assert!(found.insert(name.to_owned(), value).is_none(), "{line}");
        }
    }
    found
}

#[test]
fn metrics_tell_the_last_state() {
    for (name, events) in runs() {
        let page = text(&events, ExportFormat::Prometheus, None);
        let found = samples(&page);
        let run = match events.first() {
            Some(Event::Hello(hello)) => {
                let escaped =
                    hello.run.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                // Nothing that a terminal would obey.
                escaped.replace(char::is_control, "\u{fffd}")
            }
            _ => String::new(),
        };
        let one = |metric: &str| found.get(&format!("{metric}{{run=\"{run}\"}}")).copied();
        let Some(last) = steps(&events).last().cloned() else {
            assert_eq!((one("pptop_step"), one("pptop_loss")), (Some(0.0), None), "{name}");
            continue;
        };
        for (metric, value) in [
            ("pptop_step", last.step as f64),
            ("pptop_loss", f64::from(last.loss)),
            ("pptop_learning_rate", last.lr),
            ("pptop_step_seconds", last.seconds),
            ("pptop_bubble_ratio", last.bubble_ratio),
            ("pptop_idle_ratio", last.idle_of_step),
            ("pptop_window_seconds", last.window_seconds),
            ("pptop_samples_per_second", last.samples as f64 / last.seconds),
            ("pptop_dropped_events_total", 0.0),
        ] {
            assert_eq!(one(metric), Some(value), "{name}: {metric}");
        }
        if name == "no hello" {
            continue;
        }
        for mem in memory(&events).iter().rev().take(2) {
            let labels =
                format!("{{run=\"{run}\",replica=\"{}\",rank=\"{}\"}}", mem.replica, mem.rank);
            let bytes = found[&format!("pptop_rank_memory_live_bytes{labels}")];
            assert_eq!(bytes, mem.live_bytes as f64, "{name}");
            let busy = found[&format!("pptop_rank_busy_ratio{labels}")];
            assert!(busy > 0.3 && busy <= 1.0, "{name}: {busy}");
        }
    }
}

#[test]
fn metrics_tell_of_gpus_and_of_losses_that_are_not_finite() {
    let mut events = run(&job(), TIMES);
    set_losses(&mut events, [f32::NAN; 3]);
    events.retain(|event| !matches!(event, Event::Step(step) if step.step == 4));
    let entry = &mut hello(&mut events).device_map[1];
    entry.uuid = Some("GPU-1".to_owned());
    let gpu = |utilisation, joules| {
        Event::Gpu(Box::new(Gpu {
            uuid: "GPU-1".to_owned(),
            utilisation: Some(utilisation),
            used_bytes: Some(7),
            energy_joules: Some(joules),
            sm_clock_mhz: Some(1980),
            ..Gpu::default()
        }))
    };
    events.extend([gpu(0.5, 1000.0), gpu(0.75, 1500.0)]);
    let found = samples(&text(&events, ExportFormat::Prometheus, None));
    let run = "run=\"gpt-20261101-141233\"";
    assert!(found[&format!("pptop_loss{{{run}}}")].is_nan());
    let of = |metric: &str| found.get(&format!("{metric}{{{run},uuid=\"GPU-1\"}}")).copied();
    assert_eq!(of("pptop_gpu_utilization_ratio"), Some(0.75));
    assert_eq!(of("pptop_gpu_energy_joules_total"), Some(500.0));
    assert_eq!(of("pptop_gpu_sm_clock_hertz"), Some(1.98e9));
    assert_eq!(of("pptop_gpu_up"), Some(1.0));
    assert_eq!(of("pptop_gpu_power_watts"), None);
    let joined = format!(
        "pptop_rank_info{{{run},replica=\"0\",rank=\"1\",device=\"cpu:1\",uuid=\"GPU-1\"}}"
    );
    assert_eq!(found[&joined], 1.0);
}

/// The boxes of a picture that stand for spans: what they say about themselves, their left, their width.
fn boxes(svg: &roxmltree::Document<'_>) -> Vec<(String, f64, f64)> {
    svg.descendants()
        .filter(|node| node.has_tag_name("rect") && node.first_element_child().is_some())
        .map(|node| {
            let number = |name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
            let about = node.first_element_child().unwrap().text().unwrap().to_owned();
            (about, number("x"), number("width"))
        })
        .collect()
}

/// How a box tells of a span that belongs to a step that began at `first_ns`.
fn about(span: &Span, first_ns: u64) -> String {
    let ms = |ns: u64| {
        let text = format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let mut text = String::new();
    if span.op.is_compute() {
        let _ = write!(text, "{}{}{}", span.stage, span.op.name(), span.mb);
    } else {
        text.push_str(span.op.name());
    }
    let _ = write!(text, ", from {} ms, {} ms long", ms(span.start_ns - first_ns), ms(span.dur_ns));
    text
}

#[test]
fn a_picture_has_a_box_for_each_span_of_the_last_whole_step() {
    for (name, events) in runs() {
        let all = spans(&events);
        let over: BTreeSet<u64> = steps(&events).iter().map(|step| step.step).collect();
        let last = all.iter().map(|span| span.step).filter(|step| over.contains(step)).max();
        let Some(last) = last else {
            let refused = written(&events, ExportFormat::Svg, None).unwrap_err();
            assert!(matches!(refused, ExportError::NothingToDraw { asked: None }), "{name}");
            continue;
        };
        let picture = text(&events, ExportFormat::Svg, None);
        let svg = roxmltree::Document::parse(&picture).unwrap();
        let drawn: Vec<Span> = all.into_iter().filter(|span| span.step == last).collect();
        let first_ns = drawn.iter().map(|span| span.start_ns).min().unwrap();
        let boxes = boxes(&svg);
        assert_eq!(boxes.len(), drawn.len(), "{name}");
        // Pixels a nanosecond, by the widest box.
        let (width, ns) = boxes
            .iter()
            .zip(&drawn)
            .map(|((_, _, width), span)| (*width, span.dur_ns))
            .fold((0.0, 0), |a, b| if a.0 > b.0 { a } else { b });
        let left = boxes.iter().map(|(_, x, _)| *x).fold(f64::INFINITY, f64::min);
        for ((text, x, box_width), span) in boxes.iter().zip(&drawn) {
            assert_eq!(*text, about(span, first_ns), "{name}");
            let pixels = |part: u64| part as f64 * width / ns as f64;
            assert!((box_width - pixels(span.dur_ns)).abs() < 0.1, "{name}");
            assert!((x - left - pixels(span.start_ns - first_ns)).abs() < 0.5, "{name}");
        }
        let title = svg.root_element().first_element_child().unwrap().text().unwrap().to_owned();
        assert!(title.contains(&format!("step {last}: ")), "{name}: {title}");
        let ratio = steps(&events).iter().find(|step| step.step == last).unwrap().bubble_ratio;
        assert!(title.contains(&format!("bubble ratio {:.1} %", 100.0 * ratio)), "{title}");
        let words: String = svg.descendants().filter_map(|node| node.text()).collect();
        assert!(words.contains(" ms") && words.contains("F forward"), "{name}");
        assert_eq!(words.contains("darker: a later stage"), name == "interleaved", "{name}");
        if name == "hostile names" {
            assert!(title.contains("a\"b' <i>&amp;]]>\\n\u{fffd}"), "{title}");
        }
    }
}

#[test]
fn a_picture_of_steps_has_them_below_each_other() {
    let events = run(&Job { steps: 30, span_every: 5, ..job() }, TIMES);
    let picture = text(&events, ExportFormat::Svg, Some("2..11"));
    let svg = roxmltree::Document::parse(&picture).unwrap();
    let title = svg.root_element().first_element_child().unwrap().text().unwrap();
    let named: Vec<&str> = title.split("; ").skip(1).collect();
    // Of the steps between, no spans were recorded.
    assert_eq!(named.len(), 4);
    for (text, step) in named.iter().zip([2, 3, 5, 10]) {
        assert!(text.starts_with(&format!("step {step}: ")), "{text}");
    }
    let n_spans = spans(&events).iter().filter(|span| (2..=11).contains(&span.step)).count();
    assert_eq!(boxes(&svg).len(), n_spans);

    let refused = |events: &[Event], steps| {
        written(events, ExportFormat::Svg, Some(steps)).unwrap_err().to_string()
    };
    assert!(refused(&events, "6..9").contains("accepted: steps of which spans were recorded"));
    let many = run(&Job { steps: 30, ..job() }, TIMES);
    assert!(refused(&many, "1..21").contains("accepted: a range with 20 at most"));
    assert!(written(&many, ExportFormat::Svg, Some("11..30")).is_ok());
}

#[test]
fn steps_that_are_not_there_are_refused_before_anything_is_written() {
    let formats = [
        ExportFormat::ChromeTrace,
        ExportFormat::StepsCsv,
        ExportFormat::SpansCsv,
        ExportFormat::TensorBoard,
        ExportFormat::Svg,
    ];
    for format in formats {
        let refused = written(&run(&job(), TIMES), format, Some("7..9")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no step of 7..9 is in the log; accepted: steps within 1..4",
            "{format:?}"
        );
        let refused = written(&[], format, Some("7..9")).unwrap_err();
        assert!(refused.to_string().contains("accepted: a run that has finished a step"));
    }
}

/// A file that is gone when the test is over.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("pp-exports-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_log_is_exported_from_its_file_plain_or_compressed() {
    let events = run(&Job { steps: 12, ..job() }, TIMES);
    let mut log = Vec::new();
    for event in &events {
        event.write_line(&mut log).unwrap();
    }
    log.extend_from_slice(b"{\"ev\":\"later\"}\nno event\n{\"ev\":\"step\",\"st");
    let plain = TestFile::new("plain.jsonl", &log);
    let packed = TestFile::new("packed.jsonl.zst", &zstd::encode_all(&log[..], 3).unwrap());
    for format in [
        ExportFormat::ChromeTrace,
        ExportFormat::StepsCsv,
        ExportFormat::SpansCsv,
        ExportFormat::TensorBoard,
        ExportFormat::Svg,
        ExportFormat::Prometheus,
    ] {
        let wanted = written(&events, format, None).unwrap();
        for file in [&plain, &packed] {
            let mut bytes = Vec::new();
            let n_bad = export(&mut format.follow(&file.0), format, None, &mut bytes).unwrap();
            assert_eq!((n_bad, bytes == wanted), (1, true), "{format:?}");
        }
    }
}

#[test]
fn what_is_no_log_is_refused() {
    let export_of = |content: &[u8], name| {
        let file = TestFile::new(name, content);
        let mut bytes = Vec::new();
        let done = export(&mut Follower::new(&file.0), ExportFormat::StepsCsv, None, &mut bytes);
        done.map(|_| bytes.len()).map_err(|refused| refused.to_string())
    };
    let refused = export_of(b"one\ntwo\n", "poem.txt").unwrap_err();
    assert_eq!(refused, "none of 2 lines is an event; accepted: the log of a run");
    let newer = export_of(b"{\"ev\":\"hello\",\"schema\":99}\n", "newer.jsonl").unwrap_err();
    assert!(newer.contains("schema 99") && newer.contains("accepted: "), "{newer}");
    let broken = export_of(b"not a frame", "broken.jsonl.zst").unwrap_err();
    assert!(broken.contains("cannot read") && broken.contains("accepted: "), "{broken}");
    // A log in which nothing has happened yet is one.
    assert!(export_of(b"", "empty.jsonl").unwrap() > 0);
}
