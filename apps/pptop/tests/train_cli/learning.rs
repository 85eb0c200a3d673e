//! It learns what can be learned, and nothing of what it must not see.

use crate::home::{Events, Home};

fn validation(run: &Events) -> Vec<f64> {
    run.kind("eval").iter().map(|eval| eval["loss"].as_f64().unwrap()).collect()
}

/// Bytes without any order (splitmix64).
fn noise(n_bytes: usize) -> Vec<u8> {
    let mut state = 0x5eed_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 56) as u8
    };
    (0..n_bytes).map(|_| next()).collect()
}

const GPT: &str = "--layers 2 --width 64 --heads 2 --context 32 --pp 2 --batch-size 32 --micro-batches 2 --lr 5e-3 \
                   --eval-every 20";

#[test]
fn a_gpt_learns_a_text() {
    let home = Home::new();
    let losses = validation(&home.train(&format!("{GPT} --steps 80")));
    assert_eq!(losses.len(), 4);
    assert!(losses[3] < 3.0, "{losses:?}");
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
}

/// ln 256 = 5.545: a model that saw the byte that it has to guess would be far below.
#[test]
fn a_gpt_cannot_guess_noise() {
    let home = Home::new();
    home.write("noise.bin", &noise(64 << 10));
    let losses = validation(&home.train(&format!("{GPT} --steps 80 --data noise.bin")));
    assert!(losses.iter().all(|&loss| (5.5..6.5).contains(&loss)), "{losses:?}");
    // The same model soon uses what it may see: with every byte twice, it knows half of them.
    let doubled: Vec<u8> = noise(32 << 10).into_iter().flat_map(|byte| [byte; 2]).collect();
    home.write("doubled.bin", &doubled);
    let losses = validation(&home.train(&format!("{GPT} --steps 80 --data doubled.bin")));
    assert!(losses[3] < 4.5, "{losses:?}");
}

#[test]
fn wines_are_told_apart_better_than_by_their_most_frequent_class() {
    let home = Home::new();
    let number = |text: &str, before: &str| -> f64 {
        let (_, rest) = text.rsplit_once(before).unwrap_or_else(|| panic!("{before}: {text}"));
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..digits].parse().unwrap()
    };
    let gains: Vec<f64> = (0..5)
        .map(|seed| {
            let plain = home.stdout(&format!("train --model wine-mlp --seed {seed}"));
            number(&plain, "accuracy ") - number(&plain, "most frequent class: ")
        })
        .collect();
    assert!(gains.iter().all(|&gain| gain >= 0.06), "{gains:?}");
    assert!(gains.iter().sum::<f64>() / 5.0 >= 0.12, "{gains:?}");
}
