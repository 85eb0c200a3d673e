//! What a run reads and writes: plans, weights, and the dump of step 1.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use safetensors::{Dtype, SafeTensors};

use crate::home::Home;

/// A tensor of a file: kind, shape, bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);

fn tensors(home: &Home, name: &str) -> BTreeMap<String, Stored> {
    let bytes = std::fs::read(home.path(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, t)| (name.to_owned(), (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect()
}

fn floats((dtype, _, bytes): &Stored) -> Vec<f32> {
    assert_eq!(*dtype, Dtype::F32);
    bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn a_plan_from_a_file_trains_like_its_name_whatever_its_line_ends() {
    let home = Home::new();
    let flags = "--model wine-mlp --steps 3 --batch-size 16 --partition uniform";
    let named = home.train(&format!("{flags} --pp 2 --micro-batches 4 --schedule 1f1b"));
    assert_eq!(named.bits().len(), 3);
    let lf = home.stdout("schedule export 1f1b --pp 2 --micro-batches 4");
    let split = lf.replace("0B0", "0I0,0W0").replace("1B0", "1I0,1W0");
    let split = [1, 2, 3].iter().fold(split, |text, mb| {
        let on = |stage| (format!("{stage}B{mb}"), format!("{stage}I{mb},{stage}W{mb}"));
        let (first, second) = (on(0), on(1));
        text.replace(&first.0, &first.1).replace(&second.0, &second.1)
    });
    assert!(!split.contains('B'));
    for (name, content) in [
        ("lf.csv", lf.clone()),
        ("crlf.csv", lf.replace('\n', "\r\n")),
        ("no_last_line_end.csv", lf.trim_end().to_owned()),
        ("bubbles.csv", lf.replace("0B0", ",,0B0")),
        ("split.csv", split),
    ] {
        home.write(name, content.as_bytes());
        let run = home.train(&format!("{flags} --schedule {name}"));
        assert_eq!(run.bits(), named.bits(), "{name}");
        assert_eq!(run.weights_hash(), named.weights_hash(), "{name}");
        assert_eq!(run.one("hello")["schedule"], name);
    }
}

#[test]
fn the_dump_of_step_1_can_be_recomputed() {
    let home = Home::new();
    let run = home.train(
        "--model wine-mlp --steps 2 --pp 2 --batch-size 16 --micro-batches 4 --dropout 0 --optimizer sgd --lr 0.5 \
         --lr-schedule constant --warmup 0 --dump-step dump.safetensors --save end.safetensors",
    );
    let dump = tensors(&home, "dump.safetensors");
    // Results are for whom the user lets read new files.
    home.write("other", b"");
    let mode = |name| std::fs::metadata(home.path(name)).unwrap().permissions().mode();
    assert_eq!((mode("dump.safetensors"), mode("end.safetensors")), (mode("other"), mode("other")));
    let parameters: Vec<String> =
        (0..4).flat_map(|i| ["weight", "bias"].map(|kind| format!("layers.{i}.{kind}"))).collect();
    let mut names = vec!["inputs".to_owned(), "loss".to_owned(), "targets".to_owned()];
    for prefix in ["grad", "before", "after"] {
        names.extend(parameters.iter().map(|name| format!("{prefix}.{name}")));
    }
    names.sort();
    assert_eq!(dump.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    let shape = |name: &str| (dump[name].0, dump[name].1.clone());
    assert_eq!(shape("inputs"), (Dtype::F32, vec![16, 11]));
    assert_eq!(shape("targets"), (Dtype::I64, vec![16]));
    assert_eq!(shape("loss"), (Dtype::F32, vec![]));
    assert_eq!(shape("before.layers.0.weight"), (Dtype::F32, vec![64, 11]));
    assert_eq!(format!("{:08x}", floats(&dump["loss"])[0].to_bits()), run.bits()[0]);
    let mut norm = 0.0;
    for name in &parameters {
        let of = |prefix: &str| floats(&dump[&format!("{prefix}.{name}")]);
        let (grad, before, after) = (of("grad"), of("before"), of("after"));
        assert_eq!((grad.len(), before.len()), (after.len(), after.len()), "{name}");
        for ((grad, before), after) in grad.iter().zip(before).zip(after) {
            assert!((before - 0.5 * grad - after).abs() <= 1e-6, "{name}: {before} {grad} {after}");
            norm += f64::from(*grad).powi(2);
        }
    }
    let said = run.kind("step")[0]["grad_norm"].as_f64().unwrap();
    assert!((norm.sqrt() - said).abs() <= 1e-6 * said, "{norm} {said}");
    // Saved are the weights of the end, not those of step 1.
    let end = tensors(&home, "end.safetensors");
    assert_eq!(end.keys().collect::<Vec<_>>(), {
        let mut sorted: Vec<_> = parameters.iter().collect();
        sorted.sort();
        sorted
    });
    assert_ne!(end["layers.0.weight"], dump["after.layers.0.weight"]);
}

#[test]
fn the_dump_of_a_text_model_has_bytes_and_the_bytes_after_them() {
    let home = Home::new();
    home.train(
        "--layers 1 --width 8 --heads 2 --context 16 --pp 2 --steps 1 --batch-size 4 --micro-batches 2 --dump-step d",
    );
    let dump = tensors(&home, "d");
    assert_eq!((dump["inputs"].0, &dump["inputs"].1), (Dtype::U32, &vec![4, 16]));
    assert_eq!((dump["targets"].0, &dump["targets"].1), (Dtype::I64, &vec![4, 16]));
    let inputs: Vec<i64> = dump["inputs"].2.chunks(4).map(|four| i64::from(four[0])).collect();
    let targets: Vec<i64> = dump["targets"].2.chunks(8).map(|eight| i64::from(eight[0])).collect();
    for row in 0..4 {
        assert_eq!(inputs[16 * row + 1..16 * (row + 1)], targets[16 * row..16 * row + 15]);
    }
    for name in ["embedding.token.weight", "blocks.0.attention.qkv.weight", "head.linear.weight"] {
        assert!(dump.contains_key(&format!("grad.{name}")), "{name} in {:?}", dump.keys());
    }
}

#[test]
fn a_run_goes_on_from_saved_weights() {
    let home = Home::new();
    let flags =
        "--model wine-mlp --pp 2 --steps 20 --batch-size 16 --micro-batches 4 --partition uniform";
    let fresh = home.train(&format!("{flags} --save first.safetensors"));
    let next =
        home.train(&format!("{flags} --init first.safetensors --dump-step step.safetensors"));
    let loss = |run: &crate::home::Events| run.kind("step")[0]["loss"].as_f64().unwrap();
    assert!(loss(&next) < loss(&fresh), "{} {}", loss(&next), loss(&fresh));
    assert_ne!(next.weights_hash(), fresh.weights_hash());
    let (saved, step) = (tensors(&home, "first.safetensors"), tensors(&home, "step.safetensors"));
    for (name, tensor) in &saved {
        assert_eq!(&step[&format!("before.{name}")], tensor, "{name}");
    }
    // Whatever the cut.
    let other =
        home.train(&format!("{flags} --init first.safetensors --pp 1").replace("--pp 2", ""));
    assert_eq!((other.bits(), other.weights_hash()), (next.bits(), next.weights_hash()));
}
