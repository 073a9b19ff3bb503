//! `glmc-engine info`.

use serde_json::{Value, json};

use super::stand_in::StandIn;
use crate::backend;
use crate::backend::native::cpu;
use crate::config::{Config, PlacementSettings, Settings, Sides, preset};
use crate::console::{Column, HEADING, Stream, Table, paint, say, tell};
use crate::data::store::Store;
use crate::driver::sources;
use crate::error::{Error, Result};
use crate::train::engine::{Data, Engine, Footprint};
use crate::train::report::mebibytes;
use crate::version;

/// The preset whose data a run is assumed to have unless told otherwise.
const DEFAULT_DATA: &str = "cifar10-lt-if100";

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
    let cpu = cpu::choice()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let devices: Vec<Value> = backend::devices()
        .into_iter()
        .map(|(name, state)| match state {
            Ok(what) => json!({"device": name, "usable": true, "description": what}),
            Err(error) => {
                // The message begins with the device, as it must where it stands alone.
                let what = error.to_string();
                let reason = what.strip_prefix(&format!("{name}: ")).unwrap_or(&what);
                json!({"device": name, "usable": false, "reason": reason})
            }
        })
        .collect();
    let kernels = sources::origin()?;
    let memory = predict(&args)?;
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": version::COMMIT,
        "devices": devices,
        "kernels": kernels,
        "cpu": {"threads": threads, "features": features(), "level": cpu.level.name(), "why": cpu.why},
        "memory": memory,
    });
    if args.json {
        say!("{info}");
        return Ok(());
    }
    say!("{}", paint(Stream::Out, HEADING, &format!("glmc-engine {}", version::VERSION)));
    let mut table = Table::new([Column::text("", 0), Column::text("", 0)]);
    for device in &devices {
        let text = |key: &str| device[key].as_str().unwrap_or_default().to_string();
        let state = match device["usable"].as_bool() {
            Some(true) => text("description"),
            _ => format!("not usable: {}", text("reason")),
        };
        table.row([format!("  {}", text("device")), state]);
    }
    table.print();
    let level = format!("level {} ({})", cpu.level.name(), cpu.why);
    tell!("CPU: {threads} threads; {}; {level}", features().join(" "));
    tell!("Kernels: {kernels}");
    tell!("Predicted device memory of a run: {}", memory["what"].as_str().unwrap_or_default());
    let mut table = Table::new([Column::text("", 0), Column::number("", 0)]);
    for key in ["parameters_bytes", "activations_bytes", "images_bytes", "other_bytes", "total_bytes"] {
        let bytes = memory[key].as_u64().unwrap_or(0) as usize;
        table.row([format!("  {}", key.trim_end_matches("_bytes")), mebibytes(bytes)]);
    }
    table.print();
    Ok(())
}

/// The device memory of a run, from planning it on a stand-in of its device.
fn predict(args: &InfoArgs) -> Result<Value> {
    let of = preset(args.preset.as_deref().unwrap_or(DEFAULT_DATA))?;
    let base = args.preset.as_ref().map(|_| of.settings()).unwrap_or_default();
    let mut settings = args.settings.clone().or(base);
    let store = settings.placement.data.take().map(Store::open).transpose()?;
    let placement = PlacementSettings { data: Some("none".into()), ..settings.placement };
    let mut config = Config::resolve(Settings { placement, ..settings })?;
    let stand_in = StandIn::of(of.data)?;
    match &store {
        Some(store) => config.settle(store)?,
        None => config.settle_shapes(Sides::One([stand_in.size; 2]))?,
    }
    // Any GPU plans alike, so that one that is absent, or too small, is no obstacle.
    let backend = backend::planner(&config.placement.device, config.placement.precision)?;
    let backend = backend.as_ref();
    let plan = |data: &Data<'_>| -> Result<(Footprint, bool)> {
        let engine = Engine::planned(backend, &config, &Data { framing: config.framing(), ..*data })?;
        Ok((engine.footprint(backend), engine.feed.is_resident()))
    };
    let (planned, side, what) = match &store {
        Some(store) => {
            let data = Data::of(store, config.framing());
            (plan(&data), data.train.height, store.path().display().to_string())
        }
        None => (stand_in.with_data(plan), stand_in.size, format!("data of {}'s size", of.name)),
    };
    let side = config.size.unwrap_or(side);
    let (footprint, resident) =
        planned.map_err(|e| Error::Config(format!("no run of this configuration can be planned: {e}")))?;
    let what = format!(
        "{}, {} width {}, batch {}, {side}x{side} images, {what}, {} in {}",
        config.method.title,
        config.model,
        config.width,
        config.batch,
        config.placement.device,
        config.placement.precision
    );
    let mut memory = serde_json::to_value(footprint).map_err(|e| Error::Config(e.to_string()))?;
    memory["what"] = what.into();
    memory["images_resident"] = resident.into();
    Ok(memory)
}

fn features() -> Vec<&'static str> {
    let mut found = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (name, is_there) in [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vl", std::arch::is_x86_feature_detected!("avx512vl")),
        ("avx512bw", std::arch::is_x86_feature_detected!("avx512bw")),
        ("avx512dq", std::arch::is_x86_feature_detected!("avx512dq")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ] {
        if is_there {
            found.push(name);
        }
    }
    found
}
