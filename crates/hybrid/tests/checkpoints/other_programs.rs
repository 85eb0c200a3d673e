//! What other programs find in a checkpoint.

use std::collections::BTreeMap;
use std::fs;

use safetensors::SafeTensors;

use crate::{known, states, write};

#[test]
fn the_index_leads_to_every_weight_as_in_hugging_faces_folders() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(dir.path(), 3, None);
    let index = fs::read(checkpoint.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], 14 * 4);
    let map: BTreeMap<String, String> =
        serde_json::from_value(index["weight_map"].clone()).unwrap();
    assert!(map.keys().eq(known().keys()));
    for of in states(3).iter().flatten() {
        for (name, tensor) in &of.weights {
            let bytes = fs::read(checkpoint.path().join(&map[name])).unwrap();
            let (_, head) = SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!(head.metadata().as_ref().unwrap()["format"], "pt");
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let view = file.tensor(name).unwrap();
            let expected = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!((view.shape(), view.data()), (tensor.dims(), &expected[..]));
        }
    }
}
