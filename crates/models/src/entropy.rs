//! The entropy of targets.

/// The entropy of the counted classes, in nats; `None` if all counts are 0.
pub(crate) fn entropy(counts: impl Iterator<Item = usize> + Clone) -> Option<f64> {
    let all = counts.clone().sum::<usize>() as f64;
    let shares = counts.filter(|&count| count > 0).map(|count| count as f64 / all);
    (all > 0.0).then(|| -shares.map(|share| share * share.ln()).sum::<f64>())
}
