//! Runs a validated pipeline plan on ranks: one thread a rank, boundaries, stash, links, one training step.
