//! What other programs get: traces whose slices nest and whose arrows bind, and pictures that are
//! well-formed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use pp_schedule::{
    Costs, PerEdge, RankShare, ScheduleName, Sizes, ValidPlan, chrome_trace, simulate, svg,
};
use serde_json::Value;

fn plans() -> Vec<(ValidPlan, Costs)> {
    let mut plans = Vec::new();
    for name in ScheduleName::ALL {
        let n_virtual_stages = name.default_virtual_stages();
        let sizes =
            Sizes { n_ranks: 4, n_micro_batches: 8, n_virtual_stages, interleave_group: None };
        let plan = name.generate(&sizes).unwrap();
        let share = RankShare { comm: 0.25, overlapped: Some(2.5), ..RankShare::default() };
        let costs = Costs::per_rank_share(plan.topology(), &share);
        plans.push((plan, costs));
    }
    plans
}

fn number(event: &Value, key: &str) -> f64 {
    event[key].as_f64().unwrap_or_else(|| panic!("no {key} in {event}"))
}

#[test]
fn slices_nest_and_arrows_bind() {
    for (plan, costs) in plans() {
        let trace: Value = serde_json::from_str(&chrome_trace(&plan, &costs).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of_kind = |kind: &'static str| events.iter().filter(move |event| event["ph"] == kind);
        let rank = |event: &Value| event["tid"].as_u64().unwrap() as usize;

        // The slices are the cells with the times of the simulation, a millisecond a unit; none
        // overlaps the next.
        let simulation = simulate(&plan, &costs).unwrap();
        let mut slices: Vec<Vec<&Value>> = vec![Vec::new(); 4];
        of_kind("X").for_each(|slice| slices[rank(slice)].push(slice));
        for (row, slices) in simulation.timeline(&plan, &costs).zip(&slices) {
            let row: Vec<_> = row.collect();
            assert_eq!(row.len(), slices.len());
            for (timed, slice) in row.iter().zip(slices) {
                assert_eq!(slice["name"], timed.action.to_string());
                assert!((number(slice, "ts") - 1000.0 * timed.start).abs() < 1e-6);
                assert!((number(slice, "dur") - 1000.0 * (timed.end - timed.start)).abs() < 1e-6);
            }
            for pair in slices.windows(2) {
                let end = number(pair[0], "ts") + number(pair[0], "dur");
                assert!(end <= number(pair[1], "ts") + 1e-6, "{} overlaps {}", pair[0], pair[1]);
            }
        }

        // Every arrow has one beginning, inside a slice, and one end, at the start of a slice of
        // another rank, later.
        let enclosing = |event: &Value| {
            let ts = number(event, "ts");
            let encloses = |slice: &&&Value| {
                let start = number(slice, "ts");
                start <= ts && ts < start + number(slice, "dur")
            };
            slices[rank(event)].iter().filter(encloses).count()
        };
        let mut begun: HashMap<u64, &Value> = HashMap::new();
        for start in of_kind("s") {
            assert_eq!(enclosing(start), 1, "{start}");
            assert!(begun.insert(start["id"].as_u64().unwrap(), start).is_none(), "{start}");
        }
        let n_arrows = begun.len();
        for end in of_kind("f") {
            assert_eq!((enclosing(end), &end["bp"]), (1, &Value::from("e")), "{end}");
            let start = begun.remove(&end["id"].as_u64().unwrap()).unwrap();
            assert_ne!(rank(start), rank(end));
            assert!(number(start, "ts") < number(end, "ts") && start["cat"] == end["cat"]);
        }
        assert!(begun.is_empty(), "arrows without an end: {begun:?}");
        assert!(n_arrows >= 3 * 8, "{}: {n_arrows} messages", plan.name());
    }
}

/// The names of all elements, in order; panics where a tag is not closed, or an attribute has no
/// quotes.
fn elements(svg: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut found = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').unwrap_or_else(|| panic!("a tag without end"));
        let tag = &rest[start + 1..end];
        assert!(!rest[..start].contains('>') && !tag.contains('<'), "{tag}");
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let closes_itself = tag.ends_with('/');
        let tag = tag.trim_end_matches('/');
        let name = tag.split(' ').next().unwrap().to_owned();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert_eq!(tag.matches("=\"").count(), tag.matches('=').count(), "{tag}");
        if !closes_itself {
            open.push(name.clone());
        }
        found.push(name);
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    found
}

#[test]
fn pictures_are_well_formed_and_complete() {
    for (plan, costs) in plans() {
        let svg = svg(&plan, &costs).unwrap();
        let elements = elements(&svg);
        assert_eq!(elements[0], "svg");
        let n_kinds = {
            let mut kinds: Vec<_> = plan
                .rows()
                .iter()
                .flatten()
                .flat_map(|action| action.ops())
                .map(|op| op.phase)
                .collect();
            kinds.sort_unstable();
            kinds.dedup();
            kinds.len()
        };
        // A box for every op, one for the background, and one a phase in the legend.
        let n_boxes = elements.iter().filter(|name| *name == "rect").count();
        assert_eq!(n_boxes, plan.n_ops() + 1 + n_kinds, "{}", plan.name());
        assert!(svg.contains(&format!("{}: p=4, m=8", plan.name())));
    }
}

#[test]
fn names_and_costs_of_any_kind_make_a_picture() {
    let sizes =
        Sizes { n_ranks: 2, n_micro_batches: 200, n_virtual_stages: 1, interleave_group: None };
    let mut draft = ScheduleName::ZbH1.generate(&sizes).unwrap().into_draft();
    draft.name = "<a&b>\"\u{7}".to_owned();
    let plan = draft.validate().unwrap();
    let mut costs = Costs::uniform(2, 1e-9, 1e9, 0.0, 0.0);
    costs.comm = PerEdge::Same(1e3);
    let svg = svg(&plan, &costs).unwrap();
    elements(&svg);
    assert!(svg.contains("&lt;a&amp;b&gt;&quot;\u{fffd}") && svg.len() < 1 << 20);
    serde_json::from_str::<Value>(&chrome_trace(&plan, &costs).unwrap()).unwrap();
}

#[test]
fn a_small_picture() {
    let sizes =
        Sizes { n_ranks: 2, n_micro_batches: 2, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::ZbH1.generate(&sizes).unwrap();
    let costs = Costs::per_rank_share(plan.topology(), &RankShare::default());
    expect_test::expect_file!["golden/zb_h1_p2_m2.svg"].assert_eq(&svg(&plan, &costs).unwrap());
}
