//! Events and their lines: a written event is read back, and scripts can rely on the keys.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pp_trace::{
    Continues, DeviceMapEntry, Dropped, End, Eval, Event, Hello, Line, LineError, Log, Mem,
    PlannedMem, Span, SpanKind, StageInfo, StepEvent, Warn,
};
use proptest::prelude::*;

fn step(loss: f32, grad_norm: f64) -> StepEvent {
    StepEvent {
        step: 1,
        loss: Some(loss),
        loss_bits: StepEvent::bits_of(loss),
        lr: Some(0.001),
        grad_norm: Some(grad_norm),
        seconds: 0.25,
        elapsed_seconds: 1.5,
        samples: 16,
        tokens: 1024,
        bubble_ratio: 0.25,
        idle_of_step: 0.3,
        starved_ratio: 0.0,
        window_seconds: 0.2,
        dropped: 0,
    }
}

fn read(line: &str) -> Event {
    match Event::parse(line.as_bytes()).unwrap() {
        Line::Event(event) => event,
        Line::Unknown => panic!("unknown kind: {line}"),
    }
}

/// Equal, where not-a-number equals itself.
fn same(a: &Event, b: &Event) -> bool {
    a == b || a.to_json().unwrap() == b.to_json().unwrap()
}

#[test]
fn the_lines_are_these() {
    let span = Span {
        step: 1,
        replica: 0,
        rank: 2,
        stage: 2,
        mb: 3,
        op: SpanKind::WaitGrad,
        start_ns: 10,
        dur_ns: 20,
        cpu_ns: 5,
        bytes: 0,
        starved_ns: 1,
    };
    let lines = [
        Event::Span(span),
        Event::Step(step(1.5, 0.75)),
        Event::Step(step(f32::INFINITY, f64::NAN)),
        Event::Eval(Eval { step: 4, loss: 2.0, accuracy: Some(0.5) }),
        Event::Eval(Eval { step: 4, loss: f32::NAN, accuracy: None }),
        Event::Dropped(Dropped { elapsed_ns: 1, count: 2 }),
        Event::Warn(Warn { elapsed_ns: 1, step: Some(2), rank: None, message: "slow".to_owned() }),
        Event::End(End {
            code: 1,
            reason: "boom".to_owned(),
            rank: Some(1),
            op: Some("1F3".to_owned()),
            ..End::default()
        }),
    ];
    let text: Vec<_> = lines.iter().map(|event| event.to_json().unwrap()).collect();
    assert_eq!(
        text.join("\n"),
        r#"{"ev":"span","step":1,"replica":0,"rank":2,"stage":2,"mb":3,"op":"wait_grad","start_ns":10,"dur_ns":20,"cpu_ns":5,"bytes":0,"starved_ns":1}
{"ev":"step","step":1,"loss":1.5,"loss_bits":"3fc00000","lr":0.001,"grad_norm":0.75,"seconds":0.25,"elapsed_seconds":1.5,"samples":16,"tokens":1024,"bubble_ratio":0.25,"idle_of_step":0.3,"starved_ratio":0.0,"window_seconds":0.2,"dropped":0}
{"ev":"step","step":1,"loss":null,"loss_bits":"7f800000","lr":0.001,"grad_norm":null,"seconds":0.25,"elapsed_seconds":1.5,"samples":16,"tokens":1024,"bubble_ratio":0.25,"idle_of_step":0.3,"starved_ratio":0.0,"window_seconds":0.2,"dropped":0,"nonfinite":"inf","nonfinite_fields":{"grad_norm":"nan","loss":"inf"}}
{"ev":"eval","step":4,"loss":2.0,"accuracy":0.5}
{"ev":"eval","step":4,"loss":null,"accuracy":null,"nonfinite":"nan","nonfinite_fields":{"loss":"nan"}}
{"ev":"dropped","elapsed_ns":1,"count":2}
{"ev":"warn","elapsed_ns":1,"step":2,"message":"slow"}
{"ev":"end","code":1,"reason":"boom","steps":0,"rank":1,"op":"1F3","weights_hash":null,"wall_seconds":0.0}"#
    );
    for (event, line) in lines.iter().zip(&text) {
        assert!(same(&read(line), event), "{line}");
    }
}

#[test]
fn what_is_unknown_is_ignored() {
    assert_eq!(Event::parse(br#"{"ev":"later","uuid":"x","util":[1,2]}"#).unwrap(), Line::Unknown);
    let known = read(r#"{"later":{"a":1},"ev":"eval","step":2,"loss":1.0,"more":[]}"#);
    assert_eq!(known, Event::Eval(Eval { step: 2, loss: 1.0, accuracy: None }));
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let error = Event::parse(br#"{"ev":"hello","schema":2,"pp":"four"}"#).unwrap_err();
    assert!(matches!(error, LineError::NewerSchema { found: 2, supported: 1 }));
    assert_eq!(
        error.to_string(),
        "the log has schema 2, but this program reads schema 1 and older; use a newer version"
    );
}

#[test]
fn what_is_no_event_is_malformed() {
    for line in [
        "",
        "{",
        "null",
        "[]",
        "{}",
        r#"{"ev":3}"#,
        r#"{"ev":"span"}"#,
        r#"{"ev":"span","step":-1}"#,
        "\u{0}",
    ] {
        assert!(matches!(Event::parse(line.as_bytes()), Err(LineError::Malformed(_))), "{line:?}");
    }
}

fn text() -> impl Strategy<Value = String> {
    any::<String>()
}

#[expect(clippy::too_many_lines, reason = "one strategy a kind, side by side")]
fn arbitrary_event() -> impl Strategy<Value = Event> {
    let span =
        (any::<(u64, u32, u32, u32, u32)>(), 0..12_usize, any::<(u64, u64, u64, u64, u64)>())
            .prop_map(
                |(
                    (step, replica, rank, stage, mb),
                    kind,
                    (start_ns, dur_ns, cpu_ns, bytes, starved_ns),
                )| {
                    let op = SpanKind::ALL[kind];
                    Event::Span(Span {
                        step,
                        replica,
                        rank,
                        stage,
                        mb,
                        op,
                        start_ns,
                        dur_ns,
                        cpu_ns,
                        bytes,
                        starved_ns,
                    })
                },
            );
    let step =
        (any::<(u64, f32, f64, f64, f64)>(), any::<(f64, u64, u64, f64, f64, f64, f64, u64)>())
            .prop_map(|((step, loss, lr, grad_norm, seconds), rest)| {
                let (
                    elapsed_seconds,
                    samples,
                    tokens,
                    bubble_ratio,
                    idle_of_step,
                    starved_ratio,
                    window_seconds,
                    dropped,
                ) = rest;
                let loss_bits = StepEvent::bits_of(loss);
                Event::Step(StepEvent {
                    step,
                    loss: Some(loss),
                    loss_bits,
                    lr: Some(lr),
                    grad_norm: Some(grad_norm),
                    seconds,
                    elapsed_seconds,
                    samples,
                    tokens,
                    bubble_ratio,
                    idle_of_step,
                    starved_ratio,
                    window_seconds,
                    dropped,
                })
            });
    let hello = (text(), any::<[u32; 6]>(), any::<[u64; 6]>(), prop::option::of(-1e9..1e9_f64))
        .prop_map(|(name, small, large, theory)| {
            Event::Hello(Box::new(Hello {
                schema: 1,
                run: name.clone(),
                pid: small[0],
                argv: vec![name.clone(), String::new()],
                program: name.clone(),
                model: name.clone(),
                schedule: "1f1b".to_owned(),
                pp: small[1],
                dp: small[2],
                virtual_stages: small[3],
                micro_batches: small[4],
                batch_size: large[0],
                steps: large[1],
                eval_every: large[4],
                cores: small[5],
                host: name.clone(),
                hosts: Vec::new(),
                host_memory_bytes: large[5],
                socket: theory.map(|_| name.clone()),
                continues: Some(Continues {
                    run: "before".to_owned(),
                    step: 7,
                    elapsed_seconds: 2.5,
                }),
                checkpoints: Some("/data/checkpoints".to_owned()),
                omitted: Some("the plan".to_owned()),
                seed: large[2],
                parameters: large[3],
                device_map: vec![DeviceMapEntry {
                    stage: 1,
                    rank: 2,
                    replica: 3,
                    device: name.clone(),
                    host: None,
                    uuid: theory.map(|_| name.clone()),
                    pci: None,
                }],
                stages: vec![StageInfo {
                    copy: 0,
                    stage: 1,
                    rank: 2,
                    layers: Some([3, 4]),
                    parameters: 5,
                    parameter_bytes: 6,
                }],
                plan: vec![name],
                started_unix_ms: large[4],
                clock: "host".to_owned(),
                tokens_per_sample: large[5],
                theory,
                span_every: 1,
                memory_plan: vec![PlannedMem {
                    rank: 1,
                    peak_bytes: large[3],
                    parameter_bytes: large[2],
                    gradient_bytes: 3,
                    optimizer_bytes: 4,
                    packed_bytes: 7,
                    stash_bytes: 5,
                    temporary_bytes: 6,
                    checkpoint_bytes: 8,
                }],
                partition: "3,5".to_owned(),
                kernels: "avx2".to_owned(),
                layer_seconds: vec![0.25, 0.5],
                flops_per_sample: large[4],
                peak_flops: theory,
            }))
        });
    let mem = any::<(u64, u32, u32, [u64; 8])>().prop_map(|(step, replica, rank, bytes)| {
        let [
            live_bytes,
            peak_bytes,
            parameter_bytes,
            gradient_bytes,
            optimizer_bytes,
            packed_bytes,
            stash_bytes,
            temporary_bytes,
        ] = bytes;
        Event::Mem(Mem {
            step,
            replica,
            rank,
            live_bytes,
            peak_bytes,
            parameter_bytes,
            gradient_bytes,
            optimizer_bytes,
            packed_bytes,
            stash_bytes,
            temporary_bytes,
        })
    });
    let eval = (any::<u64>(), any::<f32>(), prop::option::of(0.0..1.0_f64))
        .prop_map(|(step, loss, accuracy)| Event::Eval(Eval { step, loss, accuracy }));
    let log = (any::<u64>(), any::<Option<u64>>(), text())
        .prop_map(|(elapsed_ns, step, message)| Event::Log(Log { elapsed_ns, step, message }));
    let warn = (any::<u64>(), any::<Option<u64>>(), any::<Option<u32>>(), text()).prop_map(
        |(elapsed_ns, step, rank, message)| Event::Warn(Warn { elapsed_ns, step, rank, message }),
    );
    let dropped = any::<(u64, u64)>()
        .prop_map(|(elapsed_ns, count)| Event::Dropped(Dropped { elapsed_ns, count }));
    let end = (
        any::<i32>(),
        text(),
        any::<u64>(),
        any::<Option<u32>>(),
        prop::option::of(text()),
        -1e9..1e9_f64,
    )
        .prop_map(|(code, reason, steps, rank, op, wall_seconds)| {
            Event::End(End {
                code,
                reason,
                steps,
                rank,
                weights_hash: op.clone(),
                saved: Some("step 3 is saved in x".to_owned()),
                op,
                wall_seconds,
            })
        });
    prop_oneof![span, step, hello, mem, eval, log, warn, dropped, end]
}

proptest! {
    #[test]
    fn every_event_comes_back(event in arbitrary_event()) {
        let line = event.to_json().unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert!(same(&read(&line), &event), "{}", line);
        let serde_json::Value::Object(keys) = serde_json::from_str(&line).unwrap() else { panic!("an object") };
        prop_assert!(keys.contains_key("ev"));
    }
}
