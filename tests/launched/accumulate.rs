//! Steps made in parts: the same gradients as those of the parts by themselves, and of the whole batch where no batch
//! normalisation sees the difference; and whole steps on photographs on every device.

use glmc_engine::backend;
use glmc_engine::config::{Config, PlacementSettings, Settings};
use glmc_engine::method::method;
use glmc_engine::nn::Field;
use glmc_engine::ops::augment_mix::Augmentation;
use glmc_engine::tensor::Precision;
use glmc_engine::train::engine::{Data, Engine};

use crate::common::training::{self, Pictures, Rig};

/// The gradients of each of the first `steps` steps, nothing being learned and nothing augmented, and the losses of the epoch's
/// steps.
fn gradients(device: &str, pictures: &Pictures, [batch, accumulate, steps]: [usize; 3]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let backend = backend::open(device, Precision::F32, 2).expect("a device");
    let backend = backend.as_ref();
    let settings = Settings {
        placement: PlacementSettings::on("none"),
        model: Some("resnet20".into()),
        width: Some(4),
        method: Some(method("ce").expect("a method")),
        batch: Some(batch),
        accumulate: Some(accumulate),
        epochs: Some(1),
        lr: Some(0.0),
        weight_decay: Some(0.0),
        // The momentum is the gradient that the update is given.
        momentum: Some(0.0),
        ..Settings::default()
    };
    let config = Config::resolve(settings).expect("a configuration");
    let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 0, flip: false };
    let engine = Engine::new(backend, &config, &Data { augmentation, ..pictures.data() }).expect("memory");
    engine.initialise(backend, 1).expect("a start");
    let plan = engine.draw(0).expect("a plan");
    engine.load(backend, &plan, 0).expect("a table");
    let gradients = (0..steps).map(|step| {
        engine.run(backend, &plan, step).expect("a step");
        let snapshot = engine.parameters.snapshot(backend, Field::Momentum).expect("gradients");
        let learned = engine.parameters.specs().iter().enumerate().filter(|(_, spec)| spec.kind.is_learned());
        learned.flat_map(|(index, _)| snapshot.get(index)).collect()
    });
    let gradients = gradients.collect();
    let log = glmc_engine::memory::read_floats(backend, engine.step.log).expect("a log");
    (gradients, plan.losses(&log))
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let worst = found.iter().zip(expected).fold(0.0, |a: f64, (f, e)| a.max((f - e).abs()));
    assert!(scale > 0.0 && worst <= 1e-5 * scale, "{what}: {worst:.2e} of {scale:.2e}");
}

#[test]
fn a_step_in_parts_has_the_mean_gradient_of_its_parts() {
    // Steps of 6 in parts of 2, and a last one of 5 in parts of 2, 2 and 1.
    let pictures = training::images(12, 17);
    for device in ["cpu", "emulator"] {
        let (whole, losses) = gradients(device, &pictures, [6, 3, 3]);
        let (parts, of_parts) = gradients(device, &pictures, [2, 1, 9]);
        for (step, sizes) in [(0, [2.0, 2.0, 2.0]), (1, [2.0, 2.0, 2.0]), (2, [2.0, 2.0, 1.0])] {
            let all: f64 = sizes.iter().sum();
            let mean =
                |of: &dyn Fn(usize) -> f64| (0..3).map(|part| sizes[part] / all * of(3 * step + part)).sum::<f64>();
            let expected: Vec<f64> = (0..whole[step].len()).map(|at| mean(&|part| parts[part][at])).collect();
            assert_near(&whole[step], &expected, &format!("{device}, step {step}"));
            for column in [0, 3] {
                let expected = mean(&|part| of_parts[4 * part + column]);
                assert_near(
                    &[losses[4 * step + column]],
                    &[expected],
                    &format!("{device}, loss {column} of step {step}"),
                );
            }
        }
    }
}

/// With the encoder's statistics fixed, parts are the whole batch: crops, mixtures and partners included.
#[test]
fn in_parts_or_whole_a_classifier_learns_the_same() {
    let groups: Vec<_> = toml::from_str::<toml::Table>(
        "groups = [{ match = '*', frozen = true, batch_norm = 'running' }, { match = 'fc*' }, { match = '*_head.*' }]",
    )
    .expect("groups")["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .map(|group| group.clone().try_into().expect("a group"))
        .collect();
    for pictures in [training::images(12, 14), training::photographs(12, 14)] {
        for device in ["cpu", "emulator"] {
            for limit in [0, usize::MAX >> 20] {
                let run = |accumulate: usize| {
                    let placement = PlacementSettings { resident_limit: Some(limit), ..PlacementSettings::default() };
                    let (groups, accumulate) = (Some(groups.clone()), Some(accumulate));
                    let settings = Settings { placement, groups, accumulate, ..Settings::default() };
                    let rig = Rig::with(device, Precision::F32, &pictures, (2, 8), settings);
                    (0..2).for_each(|step| rig.run(step));
                    let learned = rig.parameters(Field::Value).into_iter().filter(|(name, _)| name.starts_with("fc"));
                    learned.flat_map(|(_, values)| values).collect::<Vec<f64>>()
                };
                let whole = run(1);
                for parts in [2, 4] {
                    assert_near(&run(parts), &whole, &format!("{device}, {parts} parts, {limit} MiB"));
                }
            }
        }
    }
}

#[test]
fn steps_on_photographs_have_the_same_losses_on_every_device() {
    let pictures = training::photographs(12, 16);
    let table = |device: &str, precision: Precision, limit: usize| {
        let placement = PlacementSettings { resident_limit: Some(limit), ..PlacementSettings::default() };
        let rig = Rig::with(device, precision, &pictures, (4, 6), Settings { placement, ..Settings::default() });
        (0..3).for_each(|step| rig.run(step));
        rig.losses()
    };
    let oracle = table("cpu", Precision::F64, 1000);
    assert!(oracle.iter().all(|loss| loss.is_finite()));
    for (device, precision, limit) in
        [("cpu", Precision::F32, 1e-4), ("emulator", Precision::F32, 1e-4), ("emulator", Precision::Bf16, 1e-1)]
    {
        let found = table(device, precision, 1000);
        let worst = found.iter().zip(&oracle).fold(0.0, |a: f64, (f, o)| a.max((f - o).abs() / o.abs().max(1.0)));
        assert!(worst < limit, "{device} {precision}: {worst:.2e}");
        assert_eq!(table(device, precision, 0), found, "{device} {precision}: streaming changes nothing");
    }
}
