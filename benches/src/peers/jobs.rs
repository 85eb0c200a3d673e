//! The jobs that several programs train, and the ways in which they may train them.

/// A text of one document, so that each row of tokens is full and attends to itself as a whole.
const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/decisions.md");

/// What a model is on both sides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// The notebook's job.
    SeedMlp,
    /// Layers, width and context; 8 heads.
    Gpt(u32, u32, u32),
    /// SmolLM2-135M on rows of 512 tokens.
    SmolLm2,
}

pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) model: Model,
    /// Samples of a step, and the micro-batches that they are cut into.
    batch: u32,
    micro_batches: u32,
    pub(crate) ours: &'static [&'static [&'static str]],
    pub(crate) theirs: &'static [&'static [&'static str]],
    /// The steps of a run in turns, after those that find their sizes.
    pub(crate) steps: usize,
    pub(crate) warm_up: usize,
    /// Runs and steps of each way in the first look.
    pub(crate) first_look: (usize, usize),
    /// Whether one rank alone is measured as well.
    pub(crate) with_alone: bool,
    /// Cuts for plain candle; none where it is left out.
    pub(crate) candle: &'static [&'static str],
}

/// Schedules of ours that may be the fastest.
const OURS: &[&[&str]] = &[
    &["--schedule", "1f1b"],
    &["--schedule", "zb-h1"],
    &["--schedule", "zb-h2"],
    &["--schedule", "zb-v"],
    &["--schedule", "interleaved-1f1b"],
    &["--schedule", "interleaved-zb"],
    &["--schedule", "auto"],
    &["--schedule", "auto", "--virtual-stages", "2"],
];

/// PyTorch's schedules. The first cut has two stages. The second has four, for ranks that take
/// stages round and round, and the third has four for ranks that take them to and fro.
macro_rules! theirs {
    ($two:literal, $four:literal, $v:literal $(, $other:literal)*) => {
        &[
            &["--schedule", "gpipe", "--cut", $two],
            &["--schedule", "1f1b", "--cut", $two],
            $(&["--schedule", "1f1b", "--cut", $other],)*
            &["--schedule", "interleaved-1f1b", "--cut", $four],
            &["--schedule", "looped-bfs", "--cut", $four],
            &["--schedule", "interleaved-zb", "--cut", $four],
            &["--schedule", "zb-v", "--cut", $v],
            &["--schedule", "dualpipe-v", "--cut", $v],
        ]
    };
}

const fn seed_mlp(name: &'static str, batch: u32, micro_batches: u32, steps: usize) -> Job {
    let theirs: &[&[&str]] = theirs!("4,4", "3,1,1,3", "3,1,1,3", "3,5");
    Job { name, model: Model::SeedMlp, batch, micro_batches, theirs, steps, ..JOB }
}

/// What most jobs have.
const JOB: Job = Job {
    name: "",
    model: Model::SeedMlp,
    batch: 0,
    micro_batches: 8,
    ours: OURS,
    theirs: &[],
    steps: 0,
    warm_up: 2,
    first_look: (3, 4),
    with_alone: true,
    candle: &[],
};

pub(crate) const JOBS: [Job; 6] = [
    Job { candle: &["3", "4"], ..seed_mlp("seed-mlp 256/32", 256, 32, 10) },
    seed_mlp("seed-mlp 512/16", 512, 16, 10),
    seed_mlp("seed-mlp 2048/8", 2048, 8, 6),
    Job {
        name: "gpt",
        model: Model::Gpt(8, 256, 128),
        batch: 16,
        theirs: theirs!("5,5", "3,2,2,3", "3,2,2,3"),
        steps: 8,
        candle: &["5"],
        ..JOB
    },
    Job {
        name: "gpt wide",
        model: Model::Gpt(6, 512, 256),
        batch: 8,
        theirs: theirs!("4,4", "2,2,2,2", "3,1,2,2"),
        steps: 6,
        ..JOB
    },
    // A step takes some 20 s. The head has the products of eight blocks.
    Job {
        name: "smollm2",
        model: Model::SmolLm2,
        batch: 8,
        ours: &[
            &["--schedule", "1f1b", "--partition", "21,11"],
            &["--schedule", "zb-h1", "--partition", "21,11"],
            &["--schedule", "zb-v", "--partition", "11,10,9,2"],
            &["--schedule", "interleaved-zb", "--partition", "11,10,9,2"],
        ],
        theirs: &[
            &["--schedule", "1f1b", "--cut", "20,12"],
            &["--schedule", "1f1b", "--cut", "21,11"],
            &["--schedule", "interleaved-1f1b", "--cut", "11,10,9,2"],
            &["--schedule", "interleaved-zb", "--cut", "11,10,9,2"],
            &["--schedule", "zb-v", "--cut", "11,10,9,2"],
            &["--schedule", "dualpipe-v", "--cut", "11,10,9,2"],
        ],
        steps: 2,
        warm_up: 1,
        first_look: (1, 1),
        with_alone: false,
        ..JOB
    },
];

impl Job {
    /// What both programs call it.
    pub(crate) fn model(&self) -> &'static str {
        match self.model {
            Model::SeedMlp => "seed-mlp",
            Model::Gpt(..) => "gpt",
            Model::SmolLm2 => "smollm2",
        }
    }

    /// Flags that both programs have.
    fn sizes(&self) -> Vec<String> {
        let mut flags = vec![("--batch-size", self.batch), ("--micro-batches", self.micro_batches)];
        if let Model::Gpt(layers, width, context) = self.model {
            let sizes = [("--layers", layers), ("--width", width), ("--context", context)];
            flags.extend(sizes.into_iter().chain([("--heads", 8)]));
        }
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_string()]).collect()
    }

    /// Flags of pptop on so many ranks, without the schedule; `SmolLM2` lies in a folder.
    pub(crate) fn of_pptop(&self, ranks: &str, folder: &str) -> Vec<String> {
        let own: &[&str] = match self.model {
            Model::SeedMlp => &["--preset", "seed"],
            Model::Gpt(..) => &["--model", "gpt", "--optimizer", "adam"],
            Model::SmolLm2 => {
                &["--model", folder, "--data", TEXT, "--context", "512", "--optimizer", "adamw"]
            }
        };
        // Of so large a model, each way names its cut: measuring the layers takes half a minute.
        let cut: &[&str] =
            if self.model == Model::SmolLm2 { &[] } else { &["--partition", "time"] };
        [words(own), self.sizes(), words(cut), words(&["--pp", ranks])].concat()
    }

    /// Flags of PyTorch's program, without the schedule.
    pub(crate) fn of_pytorch(&self) -> Vec<String> {
        let own: &[&str] = match self.model {
            Model::SeedMlp => &["--clip-norm", "1"],
            Model::Gpt(..) => &[],
            Model::SmolLm2 => &["--context", "512"],
        };
        [words(&["--job", self.model()]), self.sizes(), words(own)].concat()
    }
}

pub(crate) fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}
