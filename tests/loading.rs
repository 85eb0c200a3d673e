//! A rank that loads a model from a folder reads the weights of its own stages, one at a time.

use std::alloc::System;
use std::collections::HashMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use pp_models::{LlamaConfig, llama};
use pp_nn::ParameterStore;
use pp_nn::memory::{CountingAllocator, live_bytes, peak_bytes, reset_peak};
use pp_partition::Stage;
use pp_train::open_weights;

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator(System);

/// Beside tensors: heads of files, names, shapes.
const SMALL: i64 = 200 << 10;

#[test]
fn a_stage_is_loaded_in_its_own_bytes_and_those_of_one_tensor() {
    let config = LlamaConfig {
        vocabulary: 3000,
        layers: 12,
        width: 128,
        ffn: 512,
        head_width: 32,
        is_tied: true,
        ..LlamaConfig::default()
    };
    let stack = llama(config, None, 1).unwrap().stack;
    let shapes = stack.shapes().unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let dir = tempfile::tempdir().unwrap();
        let (mut map, mut files) = (HashMap::new(), vec![HashMap::new(), HashMap::new()]);
        for (at, (name, shape)) in shapes.iter().enumerate() {
            let tensor = Tensor::full(at as f32, shape, &Device::Cpu).unwrap();
            files[at % 2].insert(name.clone(), tensor.to_dtype(dtype).unwrap());
            map.insert(name.clone(), format!("model-{}.safetensors", at % 2));
        }
        for (at, tensors) in files.iter().enumerate() {
            let path = dir.path().join(format!("model-{at}.safetensors"));
            candle_core::safetensors::save(tensors, path).unwrap();
        }
        drop(files);
        let index = serde_json::json!({"weight_map": map}).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();

        let n = stack.len();
        for layers in [0..4, 4..9, 9..n, 0..n] {
            let before = live_bytes();
            reset_peak();
            let store =
                ParameterStore::given(open_weights(dir.path(), &shapes, stack.ties()).unwrap());
            let stage =
                Stage::build(&stack, layers.clone(), &store, DType::F32, &Device::Cpu).unwrap();
            let peak = peak_bytes() - before;
            let sizes = stage.parameters().iter().map(|p| 4 * p.var.elem_count() as i64);
            let (own, largest) = (sizes.clone().sum::<i64>(), sizes.max().unwrap());
            assert!(
                (own..own + largest + SMALL).contains(&peak),
                "{dtype:?}, layers {layers:?}: {peak} bytes at most, {own} of its own, {largest} of one"
            );
            // Each has the value of its place among the names.
            for parameter in stage.parameters() {
                let name = stage.first_name(parameter);
                let at = shapes.keys().position(|known| known == name).unwrap();
                let mean: f32 = parameter.var.mean_all().unwrap().to_scalar().unwrap();
                assert!((mean - at as f32).abs() < 0.01, "{name}: {mean}, not {at}");
            }
        }
    }
}
