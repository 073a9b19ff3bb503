//! `sam` around two gradients, and `project_rows`.

use glmc_engine::memory::{read_floats, write_floats};
use glmc_engine::ops::load_step::StepParams;
use glmc_engine::ops::project_rows::ProjectRows;
use glmc_engine::ops::sam::{Climb, PART};
use glmc_engine::ops::sgd::{Sgd, SgdConfig};
use glmc_engine::tensor::{DType, Tensor};

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::rig::Rig;
use crate::common::suite::{Case, Suite};

const CLIMBED: [&str; 2] = ["climbed0", "climbed1"];
const GRADS: [&str; 2] = ["grad0", "grad1"];
const ABOVE: [&str; 2] = ["above0", "above1"];
const PARAMS: [&str; 2] = ["param0", "param1"];

fn floats(rig: &Rig<'_>, tensor: Tensor) -> glmc_engine::Result<Array> {
    Ok(Array::new(tensor.shape.dims(), read_floats(rig.backend, tensor)?))
}

/// A StepParams in memory.
fn scalars(rig: &mut Rig<'_>, lr: f32) -> glmc_engine::Result<Tensor> {
    let step = StepParams { lr, coefficients: [0.5, 0.25, 2.0], row: 7, ..StepParams::default() };
    let words: &[i32] = bytemuck::cast_slice(std::slice::from_ref(&step));
    let words: Vec<f64> = words.iter().map(|&w| f64::from(w)).collect();
    rig.memory(&Array::vector(&words), DType::I32)
}

/// Steps of SAM: up along `gradS`, back, and an update by `aboveS`.
fn steps(name: &str, rho: f32, lr: f32, config: SgdConfig, inputs: Vec<(&'static str, Array)>) -> Case {
    Case::new("sam", name, inputs, move |rig, i| {
        rig.train = false;
        let (dtype, backend) = (rig.accumulate(), rig.backend);
        let elements = &i["param"].shape;
        let scalars = scalars(rig, lr)?;
        let [master, momentum, backup] = [&i["param"], &Array::zeros(elements), &Array::filled(elements, f64::NAN)]
            .map(|array| rig.memory(array, dtype));
        let (master, momentum, backup) = (master?, momentum?, backup?);
        let zeros = Array::zeros(elements);
        let copy = (rig.compute() != dtype).then(|| rig.memory(&zeros, rig.compute())).transpose()?;
        let parts = rig.memory(&Array::zeros(&[elements[0].div_ceil(PART)]), dtype)?;
        let scale = rig.memory(&Array::zeros(&[1]), dtype)?;
        for s in 0..GRADS.iter().filter(|&&grad| i.contains_key(grad)).count() {
            let before = floats(rig, master)?;
            let climb = Climb { master, compute: copy, backup, grad: rig.memory(&i[GRADS[s]], dtype)?, scale };
            backend.sam_squares(climb.grad, parts)?;
            backend.sam_scale(rho, parts, scale)?;
            backend.sam_perturb(&climb)?;
            let climbed = floats(rig, master)?;
            if let Some(copy) = copy {
                assert_eq!(floats(rig, copy)?, climbed.rounded(copy.dtype), "the copy climbs, too");
            }
            let up = rig.memory(&climbed, dtype)?;
            rig.output_memory(CLIMBED[s], up);
            backend.sam_restore(&climb)?;
            assert_eq!(floats(rig, master)?, before, "back to the bit");
            if let Some(copy) = copy {
                assert_eq!(floats(rig, copy)?, before.rounded(copy.dtype), "and the copy");
            }
            let grad = rig.memory(&i[ABOVE[s]], dtype)?;
            backend.sgd(&config, &Sgd { master, compute: copy, grad, momentum, scalars })?;
            let after = floats(rig, master)?;
            let after = rig.memory(&after, dtype)?;
            rig.output_memory(PARAMS[s], after);
        }
        Ok(())
    })
}

fn sam(suite: &mut Suite) {
    for f in fixtures::of("sam") {
        let config = SgdConfig::plain(f.number("momentum") as f32, f.number("weight_decay") as f32);
        let names = [&["param"][..], &GRADS, &ABOVE].concat();
        let inputs = names.into_iter().map(|name| (name, f.get(name))).collect();
        let wanted = [CLIMBED, PARAMS].concat().into_iter().map(|name| (name, f.get(name))).collect();
        suite.close("pytorch", steps(&f.name, f.number("rho") as f32, f.number("lr") as f32, config, inputs), wanted);
    }
    // f = w^2 / 2 at w = 1: g(w + eps) = 1.1.
    let one = |value: f64| Array::vector(&[value]);
    let plain = SgdConfig::plain(0.0, 0.0);
    let inputs = vec![("param", one(1.0)), ("grad0", one(1.0)), ("above0", one(1.1))];
    let wanted = vec![("climbed0", one(1.1)), ("param0", one(0.89))];
    suite.close("by hand", steps("half a square", 0.1, 0.1, plain, inputs), wanted);
    // Without a gradient there is no way up: no number becomes infinite.
    let inputs = vec![("param", one(3.0)), ("grad0", one(0.0)), ("above0", one(0.0))];
    suite.exact(steps("no gradient", 0.5, 0.1, plain, inputs), vec![("climbed0", one(3.0)), ("param0", one(3.0))]);
    let mut random = Random::new(31);
    // A part less one element, a part and one more, many parts.
    for elements in [1, 77, PART - 1, PART + 1, 70_001] {
        let inputs = [&["param"][..], &GRADS, &ABOVE].concat();
        let inputs = inputs.into_iter().map(|name| (name, random.normal(&[elements]))).collect();
        let config = SgdConfig::plain(0.9, 5e-3);
        suite.oracle(steps(&format!("{elements}"), 0.7, 0.1, config, inputs));
    }
    let case = Case::new("sam", "scalars", [], |rig, _| {
        rig.train = false;
        let (from, to) = (scalars(rig, 0.5)?, rig.memory(&Array::zeros(&[16]), DType::I32)?);
        rig.backend.sam_scalars([1.0, 2.0, 0.0], from, to)?;
        let mut bytes = [0; 64];
        rig.backend.download(to, &mut bytes)?;
        let step: StepParams = bytemuck::pod_read_unaligned(&bytes);
        let expected = StepParams { lr: 0.5, coefficients: [0.5, 0.5, 0.0], row: 7, ..StepParams::default() };
        assert_eq!(step, expected);
        let found = rig.memory(&Array::vector(&step.coefficients.map(f64::from)), rig.accumulate())?;
        rig.output_memory("coefficients", found);
        Ok(())
    });
    suite.exact(case, vec![("coefficients", Array::vector(&[0.5, 0.5, 0.0]))]);
}

/// The rows' norms before, the weights after, and their norms.
fn projection(name: &str, limit: f64, exact: bool, weights: Array) -> Case {
    Case::new("project_rows", name, [("weights", weights)], move |rig, i| {
        rig.train = false;
        let (dtype, backend) = (rig.accumulate(), rig.backend);
        let master = rig.memory(&i["weights"], dtype)?;
        let rows = i["weights"].shape[0];
        let zeros = Array::zeros(&i["weights"].shape);
        let compute = (rig.compute() != dtype).then(|| rig.memory(&zeros, rig.compute())).transpose()?;
        let limit = rig.memory(&Array::vector(&[limit]), dtype)?;
        let [before, after] = [0, 1].map(|_| rig.memory(&Array::filled(&[rows], f64::NAN), dtype));
        let (before, after) = (before?, after?);
        backend.row_norms(master, before)?;
        // The longest row's own norm as the limit: nothing is longer, whatever is rounded.
        let lengths = floats(rig, before)?;
        let longest = lengths.data.iter().copied().fold(0.0, f64::max);
        let own = rig.memory(&Array::vector(&[longest]), dtype)?;
        let start = floats(rig, master)?;
        backend.project_rows(&ProjectRows { master, compute, limit: own, exact: false })?;
        assert_eq!(floats(rig, master)?, start, "t = 1 changes nothing");
        backend.project_rows(&ProjectRows { master, compute, limit, exact })?;
        if let Some(copy) = compute {
            assert_eq!(floats(rig, copy)?, floats(rig, master)?.rounded(copy.dtype), "the copy follows");
        }
        backend.row_norms(master, after)?;
        rig.output_memory("norms", before);
        rig.output_memory("projected", master);
        rig.output_memory("lengths", after);
        Ok(())
    })
}

pub fn add(suite: &mut Suite) {
    sam(suite);
    let norms = Array::vector(&[1.0, 2.0, 3.0]);
    let rows = Array::new(&[3, 2], vec![1.0, 0.0, 0.0, -2.0, 1.8, 2.4]);
    // min + .1 (max - min) = 1.2.
    let wanted = vec![
        ("norms", norms.clone()),
        ("projected", Array::new(&[3, 2], vec![1.0, 0.0, 0.0, -1.2, 0.72, 0.96])),
        ("lengths", Array::vector(&[1.0, 1.2, 1.2])),
    ];
    suite.close("by hand", projection("longer rows", 1.2, false, rows.clone()), wanted);
    let wanted = vec![
        ("projected", Array::new(&[3, 2], vec![0.5, 0.0, 0.0, -0.5, 0.3, 0.4])),
        ("lengths", Array::vector(&[0.5, 0.5, 0.5])),
    ];
    suite.close("by hand", projection("one norm for all", 0.5, true, rows), wanted);
    let zero = Array::new(&[2, 2], vec![0.0, 0.0, 4.0, 0.0]);
    let wanted = vec![("projected", Array::new(&[2, 2], vec![0.0, 0.0, 8.0, 0.0]))];
    suite.exact(projection("a row of zeros", 8.0, true, zero), wanted);
    let mut random = Random::new(32);
    for shape in [[1, 1], [7, 33], [130, 64], [5, 2048]] {
        let weights = random.normal(&shape);
        let limit = 0.9 * (shape[1] as f64).sqrt();
        for exact in [false, true] {
            suite.oracle(projection(&format!("{}x{} {exact}", shape[0], shape[1]), limit, exact, weights.clone()));
        }
    }
    suite.check("project_rows::errors::on cpu f32", || {
        let device = crate::common::devices::all().remove(0);
        let backend = crate::common::devices::open(&device);
        let mut rig = Rig::new(&*backend);
        let make = |rig: &mut Rig<'_>, shape: &[usize]| {
            let tensor = rig.memory(&Array::zeros(shape), DType::F32)?;
            write_floats(rig.backend, tensor, &vec![1.0; tensor.elements()])?;
            glmc_engine::Result::Ok(tensor)
        };
        let refused = (|| {
            let (master, limit) = (make(&mut rig, &[3, 4])?, make(&mut rig, &[2])?);
            let norms = make(&mut rig, &[2])?;
            let two = backend.project_rows(&ProjectRows { master, compute: None, limit, exact: false });
            glmc_engine::Result::Ok([two, backend.row_norms(master, norms)])
        })();
        let refused = refused.map_err(|e: glmc_engine::Error| e.to_string())?;
        match refused.iter().all(|outcome| outcome.as_ref().is_err_and(|e| e.to_string().starts_with("project_rows"))) {
            true => Ok(()),
            false => Err(format!("not refused: {refused:?}")),
        }
    });
}
