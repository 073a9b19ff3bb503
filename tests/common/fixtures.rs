//! PyTorch's results for single ops: `tests/fixtures/{ops,imagenet_ops,losses,optimizer,bbn,max_pool,photos}.safetensors`, see the README there.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use glmc_engine::tensor::DType;
use safetensors::{Dtype, SafeTensors};

use super::array::Array;

/// One case of one op.
pub struct Fixture {
    /// The case's name.
    pub name: String,
    pub attributes: serde_json::Value,
    tensors: BTreeMap<String, Array>,
}

impl Fixture {
    /// A tensor of the case.
    pub fn get(&self, name: &str) -> Array {
        self.maybe(name).unwrap_or_else(|| panic!("fixture {} has no {name}", self.name))
    }

    pub fn maybe(&self, name: &str) -> Option<Array> {
        self.tensors.get(name).cloned()
    }

    pub fn number(&self, attribute: &str) -> f64 {
        self.attributes[attribute].as_f64().unwrap_or_else(|| panic!("fixture {} has no {attribute}", self.name))
    }

    pub fn integer(&self, attribute: &str) -> usize {
        self.number(attribute) as usize
    }
}

struct File {
    /// By `OP.CASE`.
    attributes: BTreeMap<String, serde_json::Value>,
    /// By `OP.CASE.NAME`.
    tensors: BTreeMap<String, Array>,
}

fn read(bytes: &[u8]) -> File {
    let (_, header) = SafeTensors::read_metadata(bytes).expect("the fixture's header");
    let attributes = header.metadata().clone().expect("the fixture's metadata");
    let attributes = attributes.into_iter().map(|(case, json)| (case, serde_json::from_str(&json).expect("JSON")));
    let file = SafeTensors::deserialize(bytes).expect("the fixture");
    let array = |view: safetensors::tensor::TensorView<'_>| {
        let dtype = match view.dtype() {
            Dtype::U8 => DType::U8,
            Dtype::I32 => DType::I32,
            Dtype::F64 => DType::F64,
            other => panic!("a fixture of {other:?}"),
        };
        Array::from_bytes(view.shape(), dtype, view.data())
    };
    let tensors = file.tensors().into_iter().map(|(name, view)| (name, array(view))).collect();
    File { attributes: attributes.collect(), tensors }
}

/// All cases of an op; there is at least one.
pub fn of(op: &str) -> Vec<Fixture> {
    static FILES: OnceLock<Vec<File>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let files: &[&[u8]] = &[
            include_bytes!("../fixtures/ops.safetensors"),
            include_bytes!("../fixtures/imagenet_ops.safetensors"),
            include_bytes!("../fixtures/losses.safetensors"),
            include_bytes!("../fixtures/optimizer.safetensors"),
            include_bytes!("../fixtures/bbn.safetensors"),
            include_bytes!("../fixtures/max_pool.safetensors"),
            include_bytes!("../fixtures/photos.safetensors"),
        ];
        files.iter().map(|file| read(file)).collect()
    });
    let cases: Vec<Fixture> = files
        .iter()
        .flat_map(|file| file.attributes.iter().map(move |case| (file, case)))
        .filter_map(|(file, (case, attributes))| {
            let name = case.strip_prefix(op)?.strip_prefix('.')?.to_owned();
            let prefix = format!("{case}.");
            let tensors = file
                .tensors
                .iter()
                .filter_map(|(key, array)| key.strip_prefix(&prefix).map(|name| (name.to_owned(), array.clone())));
            Some(Fixture { name, attributes: attributes.clone(), tensors: tensors.collect() })
        })
        .collect();
    assert!(!cases.is_empty(), "no fixture of {op}");
    cases
}
