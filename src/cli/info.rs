//! `glmc-engine info`.

use serde_json::{Value, json};

use crate::backend;
use crate::config::{Config, Method, Settings, preset};
use crate::error::{Error, Result};
use crate::nn::model::HIDDEN;
use crate::nn::{Model, ModelConfig, ParameterStore};
use crate::ops::augment_mix::Augmentation;
use crate::tensor::Precision;
use crate::train::report::mebibytes;
use crate::train::session::step_config;
use crate::train::step::predict_arena;

/// Show devices, CPU features and threads, and predict a run's memory.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Predict the memory of this preset instead of a ResNet-32 of width 64
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the subcommand.
pub fn run(args: InfoArgs) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let devices: Vec<Value> = backend::devices()
        .into_iter()
        .map(|(name, state)| match state {
            Ok(what) => json!({"device": name, "usable": true, "description": what}),
            Err(error) => json!({"device": name, "usable": false, "reason": error.to_string()}),
        })
        .collect();
    let memory = predict(&args)?;
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "devices": devices,
        "cpu": {"threads": threads, "features": features()},
        "memory": memory,
    });
    if args.json {
        println!("{info}");
        return Ok(());
    }
    println!("glmc-engine {}", env!("CARGO_PKG_VERSION"));
    for device in &devices {
        let text = |key: &str| device[key].as_str().unwrap_or_default().to_string();
        match device["usable"].as_bool() {
            Some(true) => println!("  {:<10}{}", text("device"), text("description")),
            _ => println!("  {:<10}not usable: {}", text("device"), text("reason")),
        }
    }
    println!("CPU: {threads} threads; {}", features().join(" "));
    println!(
        "Predicted memory of {} (images of the data set not counted):",
        memory["what"].as_str().unwrap_or_default()
    );
    for key in ["parameters_bytes", "activations_bytes", "total_bytes"] {
        let name = key.trim_end_matches("_bytes");
        println!("  {name:<12}{:>12}", mebibytes(memory[key].as_u64().unwrap_or(0) as usize));
    }
    Ok(())
}

fn predict(args: &InfoArgs) -> Result<Value> {
    let base = args.preset.as_deref().map(preset).transpose()?.unwrap_or_default();
    let settings = args.settings.clone().or(base);
    let classes = if args.preset.as_deref().is_some_and(|p| p.starts_with("cifar100")) { 100 } else { 10 };
    let config = Config::resolve(Settings { data: Some("none".into()), ..settings })?;
    // The plan is the same wherever it runs but for what a device's kernels want; the CPU plans for those that are absent.
    let backend = backend::open(&config.device, config.precision, config.threads)
        .or_else(|_| backend::open("cpu", Precision::F32, config.threads))?;
    let backend = backend.as_ref();
    let heads = config.method.heads();
    let description = ModelConfig { name: config.model.clone(), width: config.width, classes, heads, hidden: HIDDEN };
    let model = Model::new(&description, backend.stem_channels())?;
    let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 4, flip: true };
    let step = step_config(&config, &vec![1; classes], augmentation);
    let activations = predict_arena(backend, &model, &step, (32, 32))
        .map_err(|e| Error::Config(format!("no step of this configuration can be planned: {e}")))?;
    let parameters = ParameterStore::unallocated(model.specs().clone(), backend.precision()).bytes();
    let method = if config.method == Method::Glmc { "GLMC" } else { "cross-entropy" };
    Ok(json!({
        "what": format!(
            "{method}, {} width {}, batch {}, 32x32 images, {} in {}",
            config.model, config.width, config.batch, backend.name(), backend.precision()
        ),
        "parameters_bytes": parameters,
        "activations_bytes": activations,
        "total_bytes": parameters + activations,
    }))
}

fn features() -> Vec<&'static str> {
    let mut found = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (name, is_there) in [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ] {
        if is_there {
            found.push(name);
        }
    }
    found
}
