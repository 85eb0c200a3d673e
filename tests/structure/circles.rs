//! Circles between modules.
//!
//! A folder counts as one: within each module, its children with all that is below them are
//! compared with one another. So `state::ops → view::format` and `view::header → state` are a
//! circle of `state` and `view`, though no file is in it twice. A module and what is below it may
//! name each other.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::{Name, Use};

/// The uses from one neighbour to another, by the pair of them.
type Edges = BTreeMap<(Name, Name), Vec<Use>>;

/// The uses between neighbours; those between a module and what is below it are left out.
fn edges(uses: &[Use]) -> Edges {
    let mut edges = Edges::new();
    for one in uses {
        let common = one.from.iter().zip(&one.to).take_while(|(a, b)| a == b).count();
        if common < one.from.len() && common < one.to.len() {
            let pair = (one.from[..=common].to_vec(), one.to[..=common].to_vec());
            edges.entry(pair).or_default().push(one.clone());
        }
    }
    edges
}

/// The circles in `uses`, as text: the modules that reach one another, and the uses between them.
pub(crate) fn circles(uses: &[Use]) -> Vec<String> {
    let edges = edges(uses);
    let reached: BTreeMap<&Name, BTreeSet<&Name>> =
        edges.keys().map(|(from, _)| (from, reached_from(from, &edges))).collect();
    let both_ways = |a: &Name, b: &Name| {
        let one_way =
            |a: &Name, b: &Name| reached.get(a).is_some_and(|reached| reached.contains(b));
        one_way(a, b) && one_way(b, a)
    };
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for &name in reached.keys() {
        if !both_ways(name, name) || seen.contains(name) {
            continue;
        }
        let circle: Vec<&Name> =
            reached.keys().copied().filter(|other| both_ways(name, other)).collect();
        let names: Vec<String> = circle.iter().map(|name| name.join("::")).collect();
        let mut lines = vec![format!("a circle of {}:", names.join(", "))];
        let inside =
            edges.iter().filter(|((from, to), _)| circle.contains(&from) && circle.contains(&to));
        for one in inside.flat_map(|(_, uses)| uses) {
            let (from, to) = (one.from.join("::"), one.to.join("::"));
            lines.push(format!("    {from} uses {to}: {}", one.path));
        }
        circles.push(lines.join("\n"));
        seen.extend(circle);
    }
    circles
}

/// The modules that are reachable from `start`, along one edge or more.
fn reached_from<'a>(start: &'a Name, edges: &'a Edges) -> BTreeSet<&'a Name> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(name) = open.pop() {
        let next = edges.keys().filter(|(from, _)| from == name).map(|(_, to)| to);
        open.extend(next.filter(|&to| reached.insert(to)));
    }
    reached
}
