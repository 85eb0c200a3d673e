//! The defaults of a job as text for the help, made from the models.

use std::fmt::Write as _;

use pp_models::{GPT, MODELS, Model, Preset, SEED_PRESET};
use pp_nn::LearningRateCurve;
use pp_partition::Cut;
use pp_train::Defaults;

/// Characters of a line at most.
const CHARS_MAX: usize = 80;

const FOR_ALL: &str = "\
For all: --pp as many as GPUs, or min(4, cores) without one, and at most the
layers; --dp 1, --schedule 1f1b, --seed 0, --virtual-stages 2 for schedules with
several stages per rank, else 1 (auto takes the faster), --device auto (or what
PPTOP_DEVICE says), --spans auto.
";

/// All models, the one that is trained by default first.
pub(super) fn models() -> Vec<&'static Model> {
    let others = MODELS.into_iter().filter(|model| model.name != GPT.name);
    std::iter::once(&GPT).chain(others).collect()
}

/// The table for `--help`.
pub(super) fn table() -> String {
    let mut text = String::from(
        "Defaults by model:\n  model     steps  batch  micro-batches  lr    optimizer  clip  evaluates\n",
    );
    for model in models() {
        let Defaults { steps, batch_size, micro_batches, rate, optimizer, .. } = &model.defaults;
        let batch = batch_size.map_or_else(|| format!("{micro_batches}*D"), |n| n.to_string());
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let clip = or_dash(model.defaults.clip_norm.map(|norm| norm.to_string()));
        let evaluates = or_dash(model.defaults.eval_every.map(|n| format!("every {n}")));
        let (lr, optimizer) = (format!("{:e}", rate.peak), optimizer.to_string());
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "  {:<8}  {steps:>5}  {batch:>5}  {micro_batches:>13}  {lr:<4}  {optimizer:<9}  {clip:<4}  {evaluates}",
            model.name
        );
    }
    text + &rates() + &own_defaults() + FOR_ALL + &preset()
}

/// The flags that the preset stands for.
fn preset() -> String {
    let Preset { model, lr_step, lr_gamma, clip_norm, log_every } = &SEED_PRESET;
    format!(
        "--preset seed: {} with --lr-schedule step --lr-step {lr_step} --lr-gamma {lr_gamma},\n\
         --clip-norm {clip_norm}, and a line every {log_every} steps.",
        model.name
    )
}

/// The models that change their learning rate, with the flags that do so.
fn rates() -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for model in models() {
        let curve = match model.defaults.rate.curve {
            LearningRateCurve::Constant => continue,
            LearningRateCurve::Cosine => "cosine".to_owned(),
            LearningRateCurve::Step { every, gamma } => {
                format!("step --lr-step {every} --lr-gamma {gamma}")
            }
        };
        let flags = format!("--lr-schedule {curve} --warmup {}", model.defaults.rate.warmup);
        match groups.iter_mut().find(|(known, _)| *known == flags) {
            Some((_, names)) => names.push(model.name),
            None => groups.push((flags, vec![model.name])),
        }
    }
    let listed = |names: &[&str]| match names {
        [names @ .., last] if !names.is_empty() => format!("{} and {last}", names.join(", ")),
        names => names.concat(),
    };
    let groups = groups.iter().map(|(flags, names)| format!("{}: {flags}; ", listed(names)));
    groups.collect::<String>() + "the others: constant.\n"
}

/// The options of each model, as many models in a line as fit.
fn own_defaults() -> String {
    let mut lines: Vec<String> = Vec::new();
    for model in models() {
        let mut of_model = format!("{}: {}", model.name, (model.own_defaults)());
        let cut = &model.defaults.cut;
        if *cut != Cut::Time {
            let _ = write!(of_model, "; --partition {cut}");
        }
        match lines.last_mut() {
            Some(line) if line.len() + of_model.len() + 3 <= CHARS_MAX => {
                line.push_str("; ");
                line.push_str(&of_model);
            }
            _ => lines.push(of_model),
        }
    }
    lines.join(".\n") + ". Others: --partition time.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_say_it_of_themselves() {
        let expected = "\
Defaults by model:
  model     steps  batch  micro-batches  lr    optimizer  clip  evaluates
  gpt         600     32              8  2e-3  adamw      1     every 100
  seed-mlp     50    256             32  1e-3  adam       -     -
  wine-mlp    600     64              8  3e-3  adam       -     every 100
  llama       600     32              8  2e-3  adamw      1     every 100
  sleep        20   16*D             16  1e-2  sgd        -     -
gpt, wine-mlp and llama: --lr-schedule cosine --warmup 20; the others: constant.
gpt: --layers 6 --width 128 --heads 4 --context 64 --dropout 0.
seed-mlp: dropout .3 .4 .3 .2 in its four places; wine-mlp: --dropout 0.2.
llama: --layers 6 --width 128 --ffn 384 --heads 4 --kv-heads 2 --context 64.
sleep: 4 ms for each of F, I, W; 1 layer a stage; --partition uniform. Others: --partition time.
For all: --pp as many as GPUs, or min(4, cores) without one, and at most the
layers; --dp 1, --schedule 1f1b, --seed 0, --virtual-stages 2 for schedules with
several stages per rank, else 1 (auto takes the faster), --device auto (or what
PPTOP_DEVICE says), --spans auto.
--preset seed: seed-mlp with --lr-schedule step --lr-step 20 --lr-gamma 0.5,
--clip-norm 1, and a line every 10 steps.";
        assert_eq!(table(), expected);
    }

    /// The table of defaults in the pages for users.
    fn markdown() -> String {
        let mut text = String::from(
            "| model | steps | batch | micro-batches | lr | schedule of lr | optimizer | clip | evaluates | its own |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for model in models() {
            let Defaults { steps, batch_size, micro_batches, rate, optimizer, .. } =
                &model.defaults;
            let batch =
                batch_size.map_or_else(|| format!("{micro_batches} x replicas"), |n| n.to_string());
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
            let clip = or_dash(model.defaults.clip_norm.map(|norm| norm.to_string()));
            let evaluates = or_dash(model.defaults.eval_every.map(|n| format!("every {n} steps")));
            let curve = match rate.curve {
                LearningRateCurve::Constant => "constant".to_owned(),
                other => format!("{other:?}, {} warm-up", rate.warmup).to_lowercase(),
            };
            writeln!(
                text,
                "| `{}` | {steps} | {batch} | {micro_batches} | {:e} | {curve} | {optimizer} | {clip} | {evaluates} | {} |",
                model.name,
                rate.peak,
                (model.own_defaults)()
            )
            .unwrap();
        }
        text
    }

    /// One page has the table that is made here, and the flags of the preset. If the table differs,
    /// replace it by the printed one.
    #[test]
    fn the_table_of_a_page_is_made_from_the_models() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut pages = vec![root.join("README.md")];
        let docs = std::fs::read_dir(root.join("docs")).unwrap();
        pages.extend(docs.map(|entry| entry.unwrap().path()));
        let table = markdown();
        let Preset { model, lr_step, lr_gamma, clip_norm, .. } = &SEED_PRESET;
        let preset = format!(
            "`{}` with `--lr-schedule step --lr-step {lr_step} --lr-gamma {lr_gamma} --clip-norm {clip_norm}`",
            model.name
        );
        let has = |page: &std::path::PathBuf| {
            let text = std::fs::read_to_string(page);
            text.is_ok_and(|text| text.contains(&table) && text.contains(&preset))
        };
        assert_eq!(pages.iter().filter(|page| has(page)).count(), 1, "one page has:\n\n{table}");
    }
}
