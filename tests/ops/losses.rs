//! `negative_cosine` and `total_loss`.

use glmc_engine::ops::load_step::StepParams;
use glmc_engine::ops::negative_cosine::negative_cosine;
use glmc_engine::ops::total_loss::total_loss;

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::suite::{Case, Suite};

fn cosine(name: &str, gamma: f32, u: Array, target: Array) -> Case {
    let [count, _] = u.two();
    let step = StepParams { coefficients: [f32::NAN, f32::NAN, gamma], ..StepParams::default() };
    let weights = Array::filled(&[count], f64::from(gamma) / (count / 2) as f64);
    Case::new("negative_cosine", name, [("u", u), ("target", target)], move |rig, i| {
        let (dtype, step) = (rig.accumulate(), rig.step(&step)?);
        let (u, target) = (rig.leaf("u", &i["u"], dtype), rig.constant(&i["target"], dtype)?);
        let target = rig.tape.stop_gradient(target);
        let rows = negative_cosine(&mut rig.tape, rig.backend, u, target, step)?;
        rig.output("rows", rows);
        Ok(())
    })
    .objective("rows", weights)
}

/// As [`cosine`] without a stop of the gradient; of u with itself where there is no target.
fn flowing_cosine(name: &str, gamma: f32, u: Array, target: Option<Array>) -> Case {
    let [count, _] = u.two();
    let step = StepParams { coefficients: [f32::NAN, f32::NAN, gamma], ..StepParams::default() };
    let weights = Array::filled(&[count], f64::from(gamma) / (count / 2) as f64);
    let inputs = [("u", u)].into_iter().chain(target.map(|target| ("target", target)));
    Case::new("negative_cosine", name, inputs, move |rig, i| {
        let (dtype, step) = (rig.accumulate(), rig.step(&step)?);
        let u = rig.leaf("u", &i["u"], dtype);
        let target = i.get("target").map_or(u, |target| rig.leaf("target", target, dtype));
        let rows = negative_cosine(&mut rig.tape, rig.backend, u, target, step)?;
        rig.output("rows", rows);
        Ok(())
    })
    .objective("rows", weights)
}

/// The gradient of the target, and of a value that meets itself.
fn flowing_cosines(suite: &mut Suite) {
    for f in fixtures::of("negative_cosine") {
        let (u, h, gamma) = (f.get("u"), f.get("h"), f.number("gamma") as f32);
        let both = flowing_cosine(&f.name, gamma, u, Some(h.clone()));
        suite.close("pytorch_both", both, vec![("du", f.get("du")), ("dtarget", f.get("dh"))]);
        let own = flowing_cosine(&f.name, gamma, h, None);
        suite.close("pytorch_own", own, vec![("du", f.get("dh_own"))]);
    }
    let mut random = Random::new(18);
    for [batch, features] in [[1, 3], [3, 8], [64, 128], [5, 33], [2, 257]] {
        let [u, target] = [0; 2].map(|_| random.normal(&[2 * batch, features]));
        suite.oracle(flowing_cosine(&format!("{batch}x{features}_both"), 4.0, u.clone(), Some(target)));
        suite.oracle(flowing_cosine(&format!("{batch}x{features}_own"), 4.0, u, None));
    }
    let [u, target] = [0; 2].map(|_| random.normal(&[6, 5]));
    suite.gradient(flowing_cosine("both", 0.5, u.clone(), Some(target)));
    suite.gradient(flowing_cosine("own", 0.5, u, None));
}

fn total(name: &str, batch: usize, rows: Array, cosine: Option<Array>, coefficients: [f32; 3]) -> Case {
    let mut inputs = vec![("rows", rows)];
    inputs.extend(cosine.map(|c| ("cosine", c)));
    let step = StepParams { row: 1, coefficients, ..StepParams::default() };
    Case::new("total_loss", name, inputs, move |rig, i| {
        rig.train = false;
        let (dtype, step) = (rig.accumulate(), rig.step(&step)?);
        let rows = rig.constant(&i["rows"], dtype)?;
        let cosine = i.get("cosine").map(|c| rig.constant(c, dtype)).transpose()?;
        let log = rig.memory(&Array::filled(&[3, 4], -1.0), dtype)?;
        rig.output_memory("log", log);
        let log = rig.tape.external(log);
        total_loss(&mut rig.tape, rig.backend, rows, cosine, step, log, batch)
    })
}

fn log(values: [f64; 4]) -> Array {
    let mut log = Array::filled(&[3, 4], -1.0);
    log.data[4..8].copy_from_slice(&values);
    log
}

pub fn add(suite: &mut Suite) {
    flowing_cosines(suite);
    let mut random = Random::new(5);
    for f in fixtures::of("negative_cosine") {
        let (u, h) = (f.get("u"), f.get("h"));
        suite.close("pytorch", cosine(&f.name, f.number("gamma") as f32, u, h), vec![("du", f.get("du"))]);
    }
    for [batch, features] in [[1, 3], [3, 8], [64, 128], [5, 33], [2, 257]] {
        let [u, target] = [0; 2].map(|_| random.normal(&[2 * batch, features]));
        suite.oracle(cosine(&format!("{batch}x{features}"), 4.0, u, target));
    }
    let [u, target] = [0; 2].map(|_| random.normal(&[6, 5]));
    suite.gradient(cosine("3x5", 0.5, u, target));
    // Vectors of zero, and of a length below epsilon: finite, and as torch.nn.CosineSimilarity has the value.
    let u = Array::new(&[2, 2], vec![0.0, 0.0, 3e-9, 4e-9]);
    let target = Array::new(&[2, 2], vec![0.6, 0.8, 3.0, 4.0]);
    let du = Array::new(&[2, 2], vec![-0.6e8, -0.8e8, -0.6e8, -0.8e8]);
    let wanted = vec![("rows", Array::vector(&[0.0, -0.5])), ("du", du)];
    suite.close("naive", cosine("tiny", 1.0, u, target), wanted);

    // A batch of four and factors of two: exact.
    let rows = random.integers(&[2, 8], 9);
    let cosines = random.integers(&[8], 9);
    let sum = |values: &[f64]| values.iter().sum::<f64>() / 4.0;
    let (c, cb, sim) = (sum(&rows.data[..8]), sum(&rows.data[8..]), sum(&cosines.data));
    let wanted = log([c, cb, sim, 0.5 * c + 0.25 * cb + 4.0 * sim]);
    suite.exact(total("integers", 4, rows.clone(), Some(cosines), [0.5, 0.25, 4.0]), vec![("log", wanted)]);
    let one = Array::new(&[1, 8], rows.data[..8].to_vec());
    suite.exact(total("one_head", 4, one, None, [2.0, 9.0, 9.0]), vec![("log", log([c, 0.0, 0.0, 2.0 * c]))]);
    for (heads, batch) in [(2, 64), (1, 3), (2, 1), (2, 120)] {
        let (rows, cosines) =
            (random.normal(&[heads, 2 * batch]).map(f64::abs), random.normal(&[2 * batch]).map(f64::abs));
        suite.oracle(total(&format!("{heads}x{batch}"), batch, rows, Some(cosines), [0.3, 0.7, 2.0]));
    }
}
