//! Numbers that name things. Each has its own type, so that a rank can never be passed where a
//! stage is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The number as a position in a slice.
            #[inline]
            pub fn idx(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A place along the pipeline: one device, one row of a plan.
    Rank
}
id! {
    /// A place along data parallelism: one copy of the whole pipeline.
    Replica
}
id! {
    /// Consecutive layers that are computed as one, numbered from the input of the model.
    Stage
}
id! {
    /// One of the copies of the model that a plan runs: Chimera has two, every other schedule one.
    Pipe
}
id! {
    /// One of the stages that a rank owns, counted from its lowest stage.
    Chunk
}
id! {
    /// A slice of the batch that travels through the pipeline on its own.
    MicroBatch
}

impl Stage {
    /// The stage before, unless this is the first.
    #[inline]
    pub fn before(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// The stage after, unless this is the last of `n_stages`.
    #[inline]
    pub fn after(self, n_stages: u32) -> Option<Self> {
        self.0.checked_add(1).filter(|&next| next < n_stages).map(Self)
    }
}
