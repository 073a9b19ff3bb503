//! Checkpoints as a forger makes them: changed, with checksums that fit.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

/// The header of a safetensors file, and what follows it.
pub fn header(bytes: &[u8]) -> (Value, &[u8]) {
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).expect("JSON"), &bytes[8 + len..])
}

/// What a checkpoint says about itself.
pub fn manifest(file: &Path) -> Value {
    let bytes = fs::read(file).expect("a checkpoint");
    let json = header(&bytes).0["__metadata__"]["glmc_engine"].clone();
    serde_json::from_str(json.as_str().expect("text")).expect("JSON")
}

/// Changes what a checkpoint says about itself, and gives it a checksum that fits.
pub fn forge(file: &Path, change: impl FnOnce(&mut Value)) {
    let bytes = fs::read(file).expect("a checkpoint");
    let mut manifest = manifest(file);
    change(&mut manifest);
    manifest["checksum"] = "".into();
    let format = manifest["format"].as_u64().unwrap_or_default();
    fs::write(file, with_manifest(&bytes, &manifest.to_string(), format)).expect("writable");
}

/// A checkpoint with another manifest of a format, whose checksum, empty in `text`, is filled in if it has one.
pub fn with_manifest(bytes: &[u8], text: &str, format: u64) -> Vec<u8> {
    let (mut head, data) = header(bytes);
    let tensors = SafeTensors::deserialize(bytes).expect("safetensors");
    let mut views = tensors.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = blake3::Hasher::new();
    hasher.update(text.as_bytes());
    for (name, view) in views {
        let head = match format == 1 {
            true => format!("{name}{:?}", view.shape()),
            false => format!("{name} {:?} {:?}\n", view.dtype(), view.shape()),
        };
        hasher.update(head.as_bytes()).update(view.data());
    }
    let checksum = format!("\"checksum\":\"{}\"", hasher.finalize().to_hex());
    head["__metadata__"]["glmc_engine"] = text.replacen("\"checksum\":\"\"", &checksum, 1).into();
    with_header(&head, data)
}

/// A safetensors file of this header and data.
pub fn with_header(head: &Value, data: &[u8]) -> Vec<u8> {
    let head = head.to_string();
    [&(head.len() as u64).to_le_bytes(), head.as_bytes(), data].concat()
}

/// A store's `meta.json` of this text, which leaves out the checksum and the closing brace.
pub fn with_checksum(body: &[u8]) -> Vec<u8> {
    let checksum = blake3::hash(body).to_hex();
    [body, format!(",\n  \"checksum\": \"{checksum}\"\n}}\n").as_bytes()].concat()
}
