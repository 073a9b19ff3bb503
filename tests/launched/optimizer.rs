//! Whole steps with what the optimiser can do besides plain SGD: groups, frozen parts, SAM, projections.

use glmc_engine::config::{Passes, Projection, Sam, Settings};
use glmc_engine::nn::{BatchNorm, Field, Group};
use glmc_engine::tape::Pass;
use glmc_engine::tensor::Precision;

use crate::common::training::{self, Pictures, Rig};

const BATCH: usize = 6;
const STEPS: usize = 3;

/// Two whole steps and a smaller one.
fn pictures() -> Pictures {
    training::images(12, (STEPS - 1) * BATCH + 4)
}

fn rig<'a>(device: &str, precision: Precision, pictures: &'a Pictures, settings: &Settings) -> Rig<'a> {
    Rig::with(device, precision, pictures, (4, BATCH), settings.clone())
}

fn trained<'a>(device: &str, precision: Precision, pictures: &'a Pictures, settings: &Settings) -> Rig<'a> {
    let rig = rig(device, precision, pictures, settings);
    (0..STEPS).for_each(|step| rig.run(step));
    rig.engine.step.optimizer.end_epoch(rig.backend).expect("an end");
    rig
}

fn group(pattern: &str) -> Group {
    let pattern = pattern.into();
    Group { pattern, lr_factor: 1.0, weight_decay: None, frozen: false, batch_norm: BatchNorm::Train }
}

fn groups(groups: Vec<Group>) -> Settings {
    Settings { groups: Some(groups), ..Settings::default() }
}

fn project(text: &str) -> Projection {
    toml::from_str(text).expect("a projection")
}

/// The devices whose bits are compared.
const DEVICES: [(&str, Precision); 3] =
    [("cpu", Precision::F32), ("emulator", Precision::F32), ("emulator", Precision::Bf16)];

fn assert_same(what: &str, found: &Rig<'_>, expected: &Rig<'_>) {
    for field in [Field::Value, Field::Momentum] {
        for ((name, found), (_, expected)) in found.parameters(field).iter().zip(&expected.parameters(field)) {
            assert!(found == expected, "{what}: {field:?} of {name}");
        }
    }
    assert_eq!(found.losses(), expected.losses(), "{what}: losses");
}

#[test]
fn sam_that_does_not_climb_is_sgd() {
    let pictures = pictures();
    // All but the running statistics of a second pass.
    let sam = Sam { running: Passes::First, ..Sam::new(0.0) };
    for (device, precision) in DEVICES {
        let plain = trained(device, precision, &pictures, &Settings::default());
        let sam = trained(device, precision, &pictures, &Settings { sam: Some(sam), ..Settings::default() });
        assert_same(device, &sam, &plain);
    }
}

#[test]
fn sam_updates_running_statistics_in_the_passes_that_it_is_told() {
    let pictures = pictures();
    let mean = |running| {
        let settings = Settings { sam: Some(Sam { running, ..Sam::new(0.0) }), ..Settings::default() };
        let rig = rig("cpu", Precision::F32, &pictures, &settings);
        rig.run(0);
        let parameters = rig.parameters(Field::Value);
        parameters.into_iter().find(|(name, _)| name == "bn1.running_mean").expect("a mean").1
    };
    let (first, both, second) = (mean(Passes::First), mean(Passes::Both), mean(Passes::Second));
    // Without a climb the two passes see the same: one update leaves 0.2 m after two views, a second one 0.8 * 0.2 m more or so.
    assert_eq!(first, second);
    for (once, twice) in first.iter().zip(&both) {
        assert!((twice / once - 1.81).abs() < 1e-3, "{once} {twice}");
    }
}

#[test]
fn what_the_optimizer_can_do_is_the_same_on_every_device() {
    let pictures = pictures();
    let decay = |pattern: &str, decay| Group { weight_decay: Some(decay), ..group(pattern) };
    let mut slow = group("layer2.*");
    slow.lr_factor = 0.25;
    let all = vec![decay("*.bias", 0.0), slow, decay("fc_cb.*", 0.1), Group { frozen: true, ..group("bn1.*") }];
    let sam = Some(Sam { ascent: [1.0, 1.0, 0.0], ..Sam::new(0.05) });
    let cases = [
        ("nesterov", Settings { nesterov: Some(true), ..Settings::default() }),
        ("sam", Settings { sam: Some(Sam::new(0.05)), ..Settings::default() }),
        ("groups, sam without L_sim", Settings { sam, nesterov: Some(true), ..groups(all) }),
        (
            "max norm",
            Settings {
                project: Some(project("match = \"fc*.weight\"\nmax_norm = 0.1\nevery = \"step\"")),
                ..Settings::default()
            },
        ),
        (
            "one norm",
            Settings { project: Some(project("match = \"conv1.weight\"\nl2_norm = 0.5")), ..Settings::default() },
        ),
    ];
    let plain = trained("cpu", Precision::F64, &pictures, &Settings::default()).losses();
    for (what, settings) in cases {
        let oracle = trained("cpu", Precision::F64, &pictures, &settings);
        let (losses, wanted) = (oracle.losses(), oracle.parameters(Field::Value));
        let last = 4 * (STEPS - 1);
        assert!(what == "one norm" || losses[last..] != plain[last..], "{what} does nothing");
        for (device, precision) in [("cpu", Precision::F32), ("emulator", Precision::F32)] {
            let found = trained(device, precision, &pictures, &settings);
            for (found, wanted) in found.losses().iter().zip(&losses) {
                assert!((found - wanted).abs() < 1e-5 * wanted.abs().max(1.0), "{what} on {device}: {found} {wanted}");
            }
            for ((name, found), (_, wanted)) in found.parameters(Field::Value).iter().zip(&wanted) {
                let scale = wanted.iter().fold(1e-3, |most: f64, v| most.max(v.abs()));
                let off = found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
                assert!(off < 2e-4 * scale, "{what} on {device}: {name} is off by {off:e}");
            }
        }
    }
}

#[test]
fn the_same_bits_again() {
    let pictures = pictures();
    let project = project("match = \"fc*.weight\"\nmax_norm = 0.1\nevery = \"step\"");
    let settings = Settings { sam: Some(Sam::new(0.05)), project: Some(project), ..Settings::default() };
    for (device, precision) in DEVICES {
        let [first, second] = [0, 1].map(|_| trained(device, precision, &pictures, &settings));
        assert_same(device, &first, &second);
    }
}

#[test]
fn groups_that_change_nothing_keep_the_bits_and_a_factor_is_one_of_the_rate() {
    let pictures = pictures();
    let plain = trained("cpu", Precision::F32, &pictures, &Settings::default());
    // The decay of the rig itself, said once more.
    let same = Group { weight_decay: Some(5e-4), ..group("fc*") };
    assert_same("a group", &trained("cpu", Precision::F32, &pictures, &groups(vec![same])), &plain);
    let half = Settings { lr: Some(0.005), ..Settings::default() };
    let factor = groups(vec![Group { lr_factor: 0.5, ..group("*") }]);
    let [half, factor] = [half, factor].map(|settings| trained("cpu", Precision::F32, &pictures, &settings));
    assert_same("half the rate", &factor, &half);
}

#[test]
fn a_frozen_encoder_stays_to_the_bit_and_has_no_backward_pass() {
    let pictures = pictures();
    for batch_norm in [BatchNorm::Train, BatchNorm::BatchStatistics, BatchNorm::Running] {
        let settings = groups(vec![
            Group { frozen: true, batch_norm, ..group("*") },
            Group { weight_decay: Some(0.1), ..group("fc_cb.*") },
        ]);
        for (device, precision) in DEVICES {
            let what = format!("{batch_norm:?} on {device} in {precision}");
            let before = rig(device, precision, &pictures, &settings).parameters(Field::Value);
            let rig = trained(device, precision, &pictures, &settings);
            for ((name, found), (_, before)) in rig.parameters(Field::Value).iter().zip(&before) {
                let moves = name.starts_with("fc_cb") || (name.contains("running") && batch_norm == BatchNorm::Train);
                assert_eq!(found != before, moves, "{what}: {name}");
            }
            for (name, momentum) in rig.parameters(Field::Momentum) {
                assert_eq!(momentum.iter().any(|m| *m != 0.0), name.starts_with("fc_cb"), "{what}: momentum of {name}");
            }
            let program = rig.engine.step.program().expect("a step");
            let backward = program.passes().into_iter().filter(|(_, pass)| *pass == Pass::Backward);
            let ops: Vec<&str> = backward.map(|(node, _)| program.op(node).name()).collect();
            assert_eq!(ops, ["linear"], "{what}");
        }
    }
}

#[test]
fn half_an_affine_layer_may_be_frozen_and_sam_leaves_it_alone() {
    let pictures = pictures();
    let frozen = vec![Group { frozen: true, ..group("fc.weight") }, Group { frozen: true, ..group("layer1.*") }];
    let settings = Settings { sam: Some(Sam::new(0.5)), ..groups(frozen) };
    let before = rig("cpu", Precision::F32, &pictures, &settings).parameters(Field::Value);
    let after = trained("cpu", Precision::F32, &pictures, &settings).parameters(Field::Value);
    for ((name, found), (_, before)) in after.iter().zip(&before) {
        let stays = name == "fc.weight" || (name.starts_with("layer1") && !name.contains("running"));
        assert_eq!(found == before, stays, "{name}");
    }
}

#[test]
fn max_norm_takes_its_limit_from_the_start_and_keeps_it() {
    let pictures = pictures();
    let norms = |rig: &Rig<'_>| -> Vec<f64> {
        let weights =
            rig.parameters(Field::Value).into_iter().find(|(name, _)| name == "fc_cb.weight").expect("a head").1;
        weights.chunks(weights.len() / 5).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt()).collect()
    };
    for (device, precision) in DEVICES {
        for (t, wanted) in [(0.1, [1.0, 1.2, 1.2, 1.2, 1.2]), (1.0, [1.0, 2.0, 3.0, 2.0, 2.0])] {
            let text = format!("match = \"fc_cb.weight\"\nmax_norm = {t:?}");
            let settings = Settings { project: Some(project(&text)), ..Settings::default() };
            let rig = rig(device, precision, &pictures, &settings);
            let (store, backend) = (&rig.engine.parameters, rig.backend);
            let index = store.specs().iter().position(|spec| spec.name == "fc_cb.weight").expect("a head");
            let mut start = store.snapshot(backend, Field::Value).expect("parameters");
            let columns = start.get(index).len() / 5;
            let of = |norm: f64| (0..columns).map(move |at| if at == 1 { norm } else { 0.0 });
            let rows: Vec<f64> = [1.0, 2.0, 3.0, 2.0, 2.0].into_iter().flat_map(of).collect();
            start.set(index, &rows);
            store.restore(backend, Field::Value, &start).expect("a start");
            let optimizer = &rig.engine.step.optimizer;
            optimizer.begin(backend).expect("limits");
            let limits = optimizer.limits(backend).expect("limits");
            assert_eq!(limits[0].0, "fc_cb.weight");
            optimizer.end_epoch(backend).expect("a projection");
            for (found, wanted) in norms(&rig).iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-6, "t {t} on {device}: {found} {wanted}");
            }
            // A checkpoint's limit counts, not the weights that it finds.
            optimizer.set_limits(backend, &|_| Ok(0.5)).expect("limits");
            optimizer.end_epoch(backend).expect("a projection");
            assert!(norms(&rig).iter().all(|norm| (norm - 0.5).abs() < 1e-6));
        }
    }
}
