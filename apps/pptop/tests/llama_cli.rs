//! Models of the Llama family in folders: train, save, load again, evaluate, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/at_home.rs"]
mod at_home;
#[path = "common/folder.rs"]
#[expect(dead_code, reason = "other tests write files by it")]
mod folder;
#[path = "common/ran.rs"]
mod ran;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use folder::Folder;
use ran::Ran;
use serde_json::{Map, Value, json};

fn pptop(home: &Folder, line: &str) -> Ran {
    Ran::of(&mut at_home::pptop(&home.path(""), line))
}

#[track_caller]
fn well(home: &Folder, line: &str) -> String {
    pptop(home, line).well(line)
}

/// A tokenizer of which each byte is a token, written as byte-level tokenizers write bytes.
const TOKENIZER: &str = include_str!("../../../crates/models/testdata/byte_tokenizer.json");

const TEXT: &str =
    "Ein Schiff fährt über das Meer. 😀 Двенадцать стульев. if x == 42: y += 1    # ok\n";

/// A small model in the folder `made`, and the texts `text.txt` and `text.jsonl`.
fn home(flags: &str) -> Folder {
    let home = Folder::new();
    for folder in ["made", "tuned"] {
        fs::create_dir(home.path(folder)).unwrap();
    }
    well(
        &home,
        &format!(
            "train --headless --model llama --layers 3 --width 24 --ffn 32 --heads 4 --kv-heads 2 --context 32 \
             --batch-size 4 --micro-batches 2 --steps 2 --pp 2 --eval-every 2 --save made/model.safetensors{flags}"
        ),
    );
    fs::write(home.path("made/tokenizer.json"), TOKENIZER).unwrap();
    fs::write(home.path("text.txt"), TEXT.repeat(3)).unwrap();
    let mut lines = String::new();
    for i in 0..60_usize {
        let text = format!("{i} {}", "ab ".repeat(1 + i * 7 % 23));
        writeln!(lines, "{}", json!({"text": text, "more": i})).unwrap();
    }
    fs::write(home.path("text.jsonl"), lines).unwrap();
    home
}

fn loss(home: &Folder, line: &str) -> (f64, u64) {
    let found: Value = serde_json::from_str(&well(home, line)).unwrap();
    (found["loss"].as_f64().unwrap(), found["tokens"].as_u64().unwrap())
}

#[test]
fn what_is_saved_is_loaded_evaluated_and_trained_again() {
    let home = home("");
    let one = loss(&home, "evaluate made --data text.txt --json");
    // Each byte but the first is predicted once.
    assert_eq!(one.1, 3 * TEXT.len() as u64 - 1);
    assert!((4.0..6.0).contains(&one.0), "{one:?}");
    for pp in [2, 4] {
        let line = format!("evaluate made --data text.txt --json --pp {pp}");
        assert_eq!(loss(&home, &line), one, "{pp} ranks");
    }
    assert!(well(&home, "evaluate made --data text.jsonl").contains("nats a token over"));

    let train = "train --headless --json --model ./made --data text.jsonl --batch-size 8 --micro-batches 4 \
                 --lr 1e-2 --lr-schedule constant --eval-every 20";
    let trained = |more: &str| well(&home, &format!("{train} {more}"));
    let lines = trained("--steps 20 --pp 2 --save tuned/model.safetensors");
    let of = |event: &str| -> Vec<Value> {
        let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|line| line["ev"] == event).collect()
    };
    let steps = of("step");
    let losses: Vec<f64> = steps.iter().map(|step| step["loss"].as_f64().unwrap()).collect();
    assert!(losses[19] < 0.7 * losses[0], "{losses:?}");
    assert_eq!(of("eval").len(), 1);
    // Other ranks, schedules and a pause in between: the same bits.
    let hash = |lines: &str| {
        let end = lines.lines().last().unwrap();
        serde_json::from_str::<Value>(end).unwrap()["weights_hash"].as_str().unwrap().to_owned()
    };
    let want = hash(&lines);
    assert_eq!(hash(&trained("--steps 20 --pp 4 --schedule zb-h1")), want);
    assert_eq!(hash(&trained("--steps 20 --pp 2 --schedule zb-v")), want);
    trained("--pp 1 --steps 10 --checkpoint-at-end --checkpoint-dir kept");
    let resumed = "train --headless --json --resume kept --steps 20 --pp 2";
    assert_eq!(hash(&well(&home, resumed)), want, "after a pause");
    // A checkpoint is the folder of a model as well.
    let kept = "evaluate kept/step-00000010 --data text.jsonl --json";
    assert_eq!(loss(&home, &format!("{kept} --pp 2")), loss(&home, kept));

    // The folder that was written is a model again, with all its files.
    for name in ["config.json", "tokenizer.json"] {
        assert!(home.path(&format!("tuned/{name}")).is_file(), "{name}");
    }
    let tuned = loss(&home, "evaluate tuned --data text.jsonl --json").0;
    let before = loss(&home, "evaluate made --data text.jsonl --json").0;
    assert!(tuned < 0.7 * before, "{tuned}, before {before}");
}

/// Splits the weights over two files with an index.
fn split(folder: &Path) {
    let whole = fs::read(folder.join("model.safetensors")).unwrap();
    let (head, data) = parts(&whole);
    let names: Vec<&String> = head.keys().filter(|name| *name != "__metadata__").collect();
    let mut map = Map::new();
    for (at, half) in [&names[..names.len() / 2], &names[names.len() / 2..]].into_iter().enumerate()
    {
        let file = format!("model-0000{}-of-00002.safetensors", at + 1);
        let (mut own, mut bytes) = (Map::new(), Vec::new());
        for name in half {
            let mut entry = head[*name].clone();
            let [start, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
            entry["data_offsets"] = json!([bytes.len(), bytes.len() + end - start]);
            bytes.extend(&data[start..end]);
            own.insert((*name).clone(), entry);
            map.insert((*name).clone(), file.clone().into());
        }
        fs::write(folder.join(&file), joined(&own, &bytes)).unwrap();
    }
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let index = json!({"metadata": {}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn split_again(home: &Folder, whole: &[u8]) {
    fs::write(home.path("made/model.safetensors"), whole).unwrap();
    split(&home.path("made"));
}

fn parts(file: &[u8]) -> (Map<String, Value>, &[u8]) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), &file[8 + length..])
}

fn joined(head: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let head = Value::Object(head.clone()).to_string();
    [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), data].concat()
}

#[test]
fn weights_in_several_files_are_the_same() {
    let home = home(" --tied");
    let want = loss(&home, "evaluate made --data text.txt --json");
    // As the hub's cache has them: links to files that are named by their contents.
    let (blobs, snapshot) = (home.path("models--x/blobs"), home.path("models--x/snapshots/0a1b"));
    for folder in [&blobs, &snapshot, &home.path("models--x/refs")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(home.path("models--x/refs/main"), "0a1b").unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(home.path(&format!("made/{name}")), blobs.join(name)).unwrap();
        let link = snapshot.join(name);
        std::os::unix::fs::symlink(format!("../../blobs/{name}"), link).unwrap();
    }
    assert_eq!(loss(&home, "evaluate models--x --data text.txt --json --pp 2"), want);
    assert!(well(&home, "data text.jsonl --model models--x").contains("documents  60, "));
    split(&home.path("made"));
    assert_eq!(loss(&home, "evaluate made --data text.txt --json --pp 2"), want);
    // A folder may have the second place of a tied parameter, if it is the same.
    let whole = fs::read(blobs.join("model.safetensors")).unwrap();
    let (mut head, data) = parts(&whole);
    let at = head["model.embed_tokens.weight"]["data_offsets"].clone();
    let [start, end] = [0, 1].map(|i| at[i].as_u64().unwrap() as usize);
    let mut entry = head["model.embed_tokens.weight"].clone();
    entry["data_offsets"] = json!([data.len(), data.len() + end - start]);
    head.insert("lm_head.weight".to_owned(), entry);
    let mut bytes = [data, &data[start..end]].concat();
    fs::write(blobs.join("model.safetensors"), joined(&head, &bytes)).unwrap();
    assert_eq!(loss(&home, "evaluate models--x --data text.txt --json --pp 2"), want);
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(blobs.join("model.safetensors"), joined(&head, &bytes)).unwrap();
    let line = "evaluate models--x --data text.txt";
    pptop(&home, line).refused(line, &["lm_head.weight is not model.embed_tokens.weight"]);
    // A single file comes first, as it may have been saved beside others.
    fs::write(home.path("made/model.safetensors"), &whole).unwrap();
    let index = home.path("made/model.safetensors.index.json");
    fs::write(&index, "no").unwrap();
    assert_eq!(loss(&home, "evaluate made --data text.txt --json"), want);
    fs::remove_file(home.path("made/model.safetensors")).unwrap();
    split_again(&home, &whole);
    let text = fs::read_to_string(&index).unwrap();
    for (other, why) in [
        (text.replace("model-00002", "../model-00002"), "is no name of a file in this folder"),
        (text.replace("model-00002", "/etc/model-00002"), "is no name of a file in this folder"),
        (text.replace("model-00002", "model-00003"), "model-00003-of-00002.safetensors"),
        (text.replacen("model-00001", "model-00002", 1), "does not say so"),
        ("{}".to_owned(), "cannot be read"),
        ("[".repeat(100_000), "cannot be read"),
    ] {
        fs::write(&index, other).unwrap();
        let line = "evaluate made --data text.txt";
        pptop(&home, line).refused(line, &[why]);
    }
}

#[test]
fn folders_that_do_not_fit_are_refused_by_name() {
    let home = home("");
    let weights = home.path("made/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let (head, data) = parts(&whole);
    let norm = "model.layers.1.input_layernorm.weight";
    let changed = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut head = head.clone();
        change(&mut head);
        joined(&head, data)
    };
    let cases: [(Vec<u8>, &str); 8] = [
        (
            changed(&|head| drop(head.remove(norm))),
            "it has no model.layers.1.input_layernorm.weight",
        ),
        (changed(&|head| drop(head.insert("x".to_owned(), head[norm].clone()))), "has no x"),
        (
            changed(&|head| head[norm]["shape"] = json!([12, 2])),
            "model.layers.1.input_layernorm.weight is [12, 2]",
        ),
        (changed(&|head| head[norm]["dtype"] = json!("I32")), "holds i32"),
        (changed(&|head| head[norm]["data_offsets"] = json!([0, 96])), "overlap"),
        (
            changed(&|head| {
                head[norm]["data_offsets"] = json!([data.len(), data.len() + 96]);
            }),
            "bytes of weights, its head says",
        ),
        (whole[..whole.len() - 5].to_vec(), "bytes of weights, its head says"),
        (b"no weights at all".to_vec(), "it is no safetensors file"),
    ];
    for (bytes, why) in cases {
        fs::write(&weights, bytes).unwrap();
        for line in [
            "evaluate made --data text.txt",
            "train --headless --model ./made --data text.txt --steps 1 --batch-size 4 --micro-batches 2",
        ] {
            pptop(&home, line).refused(line, &[why]);
        }
    }
    fs::write(&weights, &whole).unwrap();
    let config = home.path("made/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let keys: Map<String, Value> = serde_json::from_str(&text).unwrap();
    for (key, value, why) in [
        ("architectures", json!(["MambaForCausalLM"]), "it says MambaForCausalLM"),
        ("num_hidden_layers", json!(u64::MAX), "num_hidden_layers is 18446744073709551615"),
        ("hidden_size", json!(1 << 20), "[256, 1048576] in the model"),
        ("vocab_size", json!(300), "is [256, 24] there, [300, 24]"),
        ("rope_scaling", json!({"type": "yarn"}), "of type yarn"),
        ("final_logit_softcapping", json!(30), "final_logit_softcapping is 30"),
    ] {
        let mut keys = keys.clone();
        keys.insert(key.to_owned(), value);
        fs::write(&config, Value::Object(keys).to_string()).unwrap();
        let line = "evaluate made --data text.txt";
        pptop(&home, line).refused(line, &[why]);
    }
    fs::write(&config, text).unwrap();
    fs::write(home.path("made/tokenizer.json"), "{}").unwrap();
    let line = "evaluate made --data text.txt";
    pptop(&home, line).refused(line, &["tokenizer.json"]);
}

#[test]
fn a_folder_with_weights_that_are_not_finite_is_read_only_by_whoever_asks_for_it() {
    let home = home("");
    let weights = home.path("made/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let start = parts(&bytes).0["model.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let at = bytes.len() - parts(&bytes).1.len() + start;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let line = "train --headless --model ./made --data text.txt --steps 1 --batch-size 4 --micro-batches 2 --on-nonfinite continue";
    let ran = pptop(&home, line);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("model.norm.weight is not finite in"), "{}", ran.stderr);
    let ran = pptop(&home, &format!("{line} --allow-nonfinite"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("the loss is not finite from step 1 on"), "{}", ran.stderr);
    let alone = "train --headless --model llama --allow-nonfinite";
    pptop(&home, alone).refused(alone, &["--allow-nonfinite", "--init", "--model DIR"]);
}

#[test]
fn texts_that_cannot_be_read_are_refused_by_line() {
    let home = home("");
    for (name, bytes, why) in [
        ("a.jsonl", b"{\"text\": \"fine\"}\n\n{\"text\": 5}\n".to_vec(), "line 3: invalid type"),
        ("b.jsonl", b"{\"text\": \"fine\"}\nno\n".to_vec(), "line 2: expected"),
        ("c.jsonl", b"{\"text\": \"\xff\"}\n".to_vec(), "line 1: invalid unicode"),
        ("d.jsonl", [b"{\"text\": \"", &vec![b'a'; 65 << 20][..]].concat(), "line 1: it is longer"),
        ("e.txt", b"ab\xffcd".to_vec(), "byte 2 is no UTF-8"),
        ("f.txt", b"a".to_vec(), "no two tokens"),
        ("g.jsonl", b"".to_vec(), "no two tokens"),
    ] {
        fs::write(home.path(name), bytes).unwrap();
        let line = format!("evaluate made --data {name}");
        pptop(&home, &line).refused(&line, &[why]);
    }
    // Or they are left out and counted.
    fs::write(
        home.path("h.jsonl"),
        "{\"text\": \"a long and fine text\"}\nno\n{\"text\": \"more of it\"}\n{}\n",
    )
    .unwrap();
    let line =
        "train --headless --model ./made --data h.jsonl --steps 1 --batch-size 2 --micro-batches 2";
    pptop(&home, line).refused(line, &["line 2: expected"]);
    let ran = pptop(&home, &format!("{line} --skip-bad-lines"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let shown = well(&home, "data h.jsonl --model made --skip-bad-lines");
    assert!(shown.contains("documents  2, 0 of them held out, 2 lines left out"), "{shown}");
    assert!(well(&home, "evaluate made --data h.jsonl --skip-bad-lines").contains("2 lines left"));
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("were left out: 2, the first is line 2: expected"), "{said}");
    for (line, why) in [
        ("train --headless --model ./made", "it needs a text to train on; use --data FILE"),
        ("train --headless --model ./made --data text.txt --layers 2", "leave --layers out"),
        ("train --headless --model ./none --data text.txt", "config.json"),
        ("train --headless --model ./made --data text.txt --context 33", "beyond its 32 positions"),
        ("convert text.txt new", "it is no GGUF file"),
        ("train --headless --model llama --data text.txt --skip-bad-lines", "use --model DIR"),
        ("data text.txt --model made --context 4000000000", "beyond its 32 positions"),
        ("evaluate none --data text.txt", "config.json"),
        ("evaluate made --data text.txt --pp 6", "layers"),
    ] {
        pptop(&home, line).refused(line, &[why]);
    }
}
