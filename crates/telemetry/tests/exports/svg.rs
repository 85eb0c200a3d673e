//! Pictures of steps.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use pp_telemetry::{Event, ExportError, ExportFormat, Span};

use super::common::{TIMES, job, runs, spans, steps, text, written};
use super::simulated::{Job, run};

/// The boxes of a picture that stand for spans: what they say about themselves, their left, their
/// width.
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
    assert!(refused(&events, "6..9").contains("choose steps whose spans were recorded"));
    let many = run(&Job { steps: 30, ..job() }, TIMES);
    assert!(refused(&many, "1..21").contains("choose at most 20"));
    assert!(written(&many, ExportFormat::Svg, Some("11..30")).is_ok());
}
