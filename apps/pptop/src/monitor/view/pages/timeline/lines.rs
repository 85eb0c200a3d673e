//! The division of the page's lines between ranks, plan, axis and details.

/// The division of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lines {
    /// Ranks of each block.
    pub(super) n_ranks: u16,
    /// Lines of each rank.
    pub(super) per_rank: u16,
    /// Whether each block has a line above it.
    pub(super) heads: u16,
    pub(super) axis: u16,
    pub(super) details: u16,
    pub(super) with_plan: bool,
}

impl Lines {
    /// Divides `height` rows. `framed_details` is the number of rows for details at the bottom, if
    /// the page has a frame.
    pub(super) fn of(
        height: u16,
        n_ranks: u16,
        lines_max: u16,
        framed_details: Option<u16>,
        wants_plan: bool,
    ) -> Self {
        let is_framed = framed_details.is_some();
        let details = match (height, framed_details) {
            (_, Some(details)) => details,
            (0..=2, None) => 0,
            (3..=7, None) => 1,
            _ => 2,
        };
        let axis = u16::from(height - details >= 4);
        let left = height - details - axis;
        let heads = u16::from(is_framed);
        // All ranks without the plan show more than half of them with it, and a small screen has no
        // room for two heads.
        let with_plan = wants_plan && is_framed && left >= 2 * (heads + n_ranks.clamp(1, 4));
        let n_blocks = 1 + u16::from(with_plan);
        let for_ranks = left.saturating_sub(n_blocks * heads);
        let n_ranks = n_ranks.min(for_ranks / n_blocks);
        let per_rank = (for_ranks / (n_blocks * n_ranks).max(1)).clamp(1, lines_max.max(1));
        let per_rank = if is_framed { per_rank } else { 1 };
        // The rest of a small screen is for text.
        let details = if is_framed { details } else { height - axis - n_ranks };
        Self { n_ranks, per_rank, heads, axis, details, with_plan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_divided_and_never_more_than_there_are() {
        for (height, n_ranks) in (0..80).flat_map(|height| (0..20).map(move |n| (height, n))) {
            for (is_framed, wants_plan) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let height = if is_framed { height.max(10) } else { height };
                let details = is_framed.then_some(3);
                let lines = Lines::of(height, n_ranks, 2, details, wants_plan);
                let n_blocks = 1 + u16::from(lines.with_plan);
                let n = n_blocks * (lines.heads + lines.n_ranks * lines.per_rank);
                assert!(n + lines.axis + lines.details <= height, "{height} {lines:?}");
                assert!(lines.n_ranks > 0 || n_ranks == 0 || height == 0, "{height} {lines:?}");
            }
        }
    }
}
