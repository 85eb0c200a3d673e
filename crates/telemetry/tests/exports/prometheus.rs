//! Pages of metrics.

use std::collections::{BTreeMap, BTreeSet};

use pp_telemetry::{Event, ExportFormat, Gpu};

use super::common::{TIMES, hello, job, memory, runs, set_losses, steps, text};
use super::simulated::run;

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
            ("pptop_loss", f64::from(last.loss.unwrap())),
            ("pptop_learning_rate", last.lr.unwrap()),
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
