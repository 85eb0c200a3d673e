//! Small and damaged files.

use candle_core::DType;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use pp_nn::hash;

use super::*;

/// A small model in a file, and where its tensors begin.
fn small(folder: &Path) -> (Vec<u8>, usize) {
    let path = folder.join("small.gguf");
    let texts = |all: &[&str]| {
        Entry::Array(all.iter().map(|text| Entry::String((*text).to_owned())).collect())
    };
    let mut facts = vec![
        ("general.architecture", Entry::String("llama".to_owned())),
        ("llama.attention.layer_norm_rms_epsilon", Entry::F32(1e-5)),
        ("tokenizer.ggml.model", Entry::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Entry::String("smollm".to_owned())),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "c", "d", "ab", "cd", "<s>", "e"])),
        ("tokenizer.ggml.merges", texts(&["a b", "c d"])),
        ("tokenizer.ggml.bos_token_id", Entry::U32(6)),
    ];
    let sizes = [
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.embedding_length", 8),
        ("llama.feed_forward_length", 4),
        ("llama.block_count", 2),
        ("llama.context_length", 16),
    ];
    facts.extend(sizes.map(|(key, n)| (key, Entry::U32(n))));
    let mut shapes = vec![
        ("token_embd.weight".to_owned(), vec![8, 8]),
        ("output_norm.weight".to_owned(), vec![8]),
    ];
    for block in 0..2 {
        for (part, shape) in [
            ("attn_norm", vec![8]),
            ("attn_q", vec![8, 8]),
            ("attn_k", vec![4, 8]),
            ("attn_v", vec![4, 8]),
            ("attn_output", vec![8, 8]),
            ("ffn_norm", vec![8]),
            ("ffn_gate", vec![4, 8]),
            ("ffn_up", vec![4, 8]),
            ("ffn_down", vec![8, 4]),
        ] {
            shapes.push((format!("blk.{block}.{part}.weight"), shape));
        }
    }
    let tensors: Vec<(String, QTensor)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let ones = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
            (name, QTensor::quantize(&ones, GgmlDType::F32).unwrap())
        })
        .collect();
    let facts: Vec<(&str, &Entry)> = facts.iter().map(|(key, entry)| (*key, entry)).collect();
    let named: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (&**name, t)).collect();
    gguf_file::write(&mut File::create(&path).unwrap(), &facts, &named).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let head = Content::read(&mut File::open(&path).unwrap()).unwrap().tensor_data_offset;
    (bytes, head as usize)
}

#[test]
fn whatever_a_gguf_file_says_it_is_refused_in_a_line_or_gives_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, head) = small(folder.path());
    let (file, made) = (folder.path().join("case.gguf"), folder.path().join("made"));
    let mut n_taken = 0;
    for case in 0..10_000_u64 {
        let mut bytes = whole.clone();
        let draw = |at: u64, below: usize| (hash(&[case, at]) % below as u64) as usize;
        // Case 0 is the file itself.
        for change in 0..draw(0, 4).min(case as usize) as u64 {
            if bytes.is_empty() {
                break;
            }
            let at = draw(10 * change + 1, head.min(bytes.len()));
            let large = (hash(&[case, 10 * change + 3]) >> draw(10 * change + 4, 64)).to_le_bytes();
            match draw(10 * change + 2, 5) {
                0 => bytes[at] = large[0],
                1 => drop(bytes.splice(at..(at + 8).min(bytes.len()), large)),
                2 => {
                    let n = 1 + draw(10 * change + 4, 9);
                    drop(bytes.drain(at..(at + n).min(bytes.len())));
                }
                3 => drop(bytes.splice(at..at, large)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        std::fs::write(&file, &bytes).unwrap();
        match convert(&file, &made) {
            Ok(config) => {
                config.check().unwrap();
                n_taken += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(case > 0 && !text.contains('\n') && text.len() < 500, "{case}: {text}");
            }
        }
        let _ = std::fs::remove_dir_all(&made);
    }
    assert!((300..9_000).contains(&n_taken), "{n_taken} were taken");
}

/// A byte in a list takes 24 bytes of memory or more; here are a hundred million.
#[test]
fn a_head_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.gguf");
    let mut bytes = Vec::from(*b"GGUF\x03\0\0\0");
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(*b"x\x09\0\0\0\0\0\0\0");
    bytes.extend(100_000_000_u64.to_le_bytes());
    std::fs::write(&file, &bytes).unwrap();
    File::options().write(true).open(&file).unwrap().set_len(200_000_000).unwrap();
    let error = convert(&file, &folder.path().join("made")).unwrap_err().to_string();
    assert!(error.contains("only 671088"), "{error}");
}
