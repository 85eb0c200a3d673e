//! What the replicas of a job report of a step, taken together.

use pp_trace::RankStep;

use super::jobs::Member;

/// A count over all replicas; 0 if some replica does not report it.
pub(super) fn total(
    closed: &[(Member, RankStep)],
    dp: u32,
    count: impl Fn(&RankStep) -> Option<u64>,
) -> u64 {
    let counts = per_replica(closed, count);
    let is_known = counts.len() == dp as usize;
    if is_known { counts.into_iter().fold(0, u64::saturating_add) } else { 0 }
}

/// What the first rank of each replica that knows a value reports, for the replicas that have one.
pub(super) fn per_replica<T>(
    closed: &[(Member, RankStep)],
    value: impl Fn(&RankStep) -> Option<T>,
) -> Vec<T> {
    let known = closed.iter().filter_map(|(member, step)| Some((member.replica, value(step)?)));
    let mut each: Vec<(u32, T)> = known.collect();
    each.dedup_by_key(|(replica, _)| *replica);
    each.into_iter().map(|(_, value)| value).collect()
}
