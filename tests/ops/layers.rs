//! `global_avg_pool`, `linear`, `normalize_rows` and `scale_columns`.

use glmc_engine::ops::global_avg_pool::global_avg_pool;
use glmc_engine::ops::linear::linear;
use glmc_engine::ops::normalize_rows::normalize_rows;
use glmc_engine::ops::scale_columns::scale_columns;

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::suite::{Case, Suite};

/// Pools the same x twice where there is a `dy2`.
fn pool(name: &str, x: Array, dy: Array, dy2: Option<Array>) -> Case {
    let mut inputs = vec![("x", x), ("dy", dy.clone())];
    inputs.extend(dy2.clone().map(|dy2| ("dy2", dy2)));
    let case = Case::new("global_avg_pool", name, inputs, |rig, i| {
        let x = rig.leaf("x", &i["x"], rig.compute());
        for (y, dy) in [("y", "dy"), ("y2", "dy2")] {
            let Some(dy) = i.get(dy) else { continue };
            let pooled = global_avg_pool(&mut rig.tape, rig.backend, x)?;
            rig.output(y, pooled);
            rig.seed(pooled, dy);
        }
        Ok(())
    })
    .objective("y", dy);
    match dy2 {
        Some(dy2) => case.objective("y2", dy2),
        None => case,
    }
}

/// One layer, or with `weight2` two of the same x; without a bias where there is none.
fn dense(name: &str, inputs: Vec<(&'static str, Array)>) -> Case {
    let find = |wanted: &str| inputs.iter().find(|(name, _)| *name == wanted).map(|(_, array)| array.clone());
    let (dy, dy2) = (find("dy").expect("a gradient"), find("dy2"));
    let case = Case::new("linear", name, inputs, |rig, i| {
        let dtype = rig.accumulate();
        let x = rig.leaf("x", &i["x"], dtype);
        for [weight, bias, y, dy] in [["weight", "bias", "y", "dy"], ["weight2", "bias2", "y2", "dy2"]] {
            let Some(dy) = i.get(dy) else { continue };
            let w = rig.parameter(weight, &i[weight], dtype)?;
            let b = i.get(bias).map(|values| rig.parameter(bias, values, dtype)).transpose()?;
            let out = linear(&mut rig.tape, rig.backend, x, w, b)?;
            rig.output(y, out);
            rig.seed(out, dy);
        }
        Ok(())
    })
    .objective("y", dy);
    match dy2 {
        Some(dy2) => case.objective("y2", dy2),
        None => case,
    }
}

fn dense_inputs(
    [batch, inputs, outputs]: [usize; 3],
    twice: bool,
    mut values: impl FnMut(&[usize]) -> Array,
) -> Vec<(&'static str, Array)> {
    let mut all = vec![
        ("x", values(&[batch, inputs])),
        ("weight", values(&[outputs, inputs])),
        ("bias", values(&[outputs])),
        ("dy", values(&[batch, outputs])),
    ];
    if twice {
        let more = outputs + 2;
        all.extend([("weight2", values(&[more, inputs])), ("bias2", values(&[more])), ("dy2", values(&[batch, more]))]);
    }
    all
}

/// Normalises the same x twice where there is a `dy2`.
fn normalized(name: &str, x: Array, dy: Array, dy2: Option<Array>) -> Case {
    let mut inputs = vec![("x", x), ("dy", dy.clone())];
    inputs.extend(dy2.clone().map(|dy2| ("dy2", dy2)));
    let case = Case::new("normalize_rows", name, inputs, |rig, i| {
        let x = rig.leaf("x", &i["x"], rig.accumulate());
        for (y, dy) in [("y", "dy"), ("y2", "dy2")] {
            let Some(dy) = i.get(dy) else { continue };
            let out = normalize_rows(&mut rig.tape, rig.backend, x)?;
            rig.output(y, out);
            rig.seed(out, dy);
        }
        Ok(())
    })
    .objective("y", dy);
    match dy2 {
        Some(dy2) => case.objective("y2", dy2),
        None => case,
    }
}

/// Scales the columns of x; of the same x by the same scales once more where there is a `dy2`.
fn scaled(name: &str, x: Array, scales: Array, dy: Array, dy2: Option<Array>) -> Case {
    let mut inputs = vec![("x", x), ("scales", scales), ("dy", dy.clone())];
    inputs.extend(dy2.clone().map(|dy2| ("dy2", dy2)));
    let case = Case::new("scale_columns", name, inputs, |rig, i| {
        let dtype = rig.accumulate();
        let (x, scales) = (rig.leaf("x", &i["x"], dtype), rig.parameter("scales", &i["scales"], dtype)?);
        for (y, dy) in [("y", "dy"), ("y2", "dy2")] {
            let Some(dy) = i.get(dy) else { continue };
            let out = scale_columns(&mut rig.tape, rig.backend, x, scales)?;
            rig.output(y, out);
            rig.seed(out, dy);
        }
        Ok(())
    })
    .objective("y", dy);
    match dy2 {
        Some(dy2) => case.objective("y2", dy2),
        None => case,
    }
}

fn scaled_columns(suite: &mut Suite) {
    let mut random = Random::new(17);
    for f in fixtures::of("scale_columns") {
        let wanted = ["y", "dx", "dscales"].map(|name| (name, f.get(name)));
        suite.close("pytorch", scaled(&f.name, f.get("x"), f.get("scales"), f.get("dy"), None), wanted.to_vec());
    }
    for [rows, columns] in [[1, 1], [5, 3], [8, 32], [70, 33], [9, 100], [256, 10], [3, 1000]] {
        let [x, dy] = [0; 2].map(|_| random.integers(&[rows, columns], 4));
        let scales = random.integers(&[columns], 5);
        let of = |at: usize| at % columns;
        let by_scale = |a: &Array| (0..a.data.len()).map(|at| scales.data[of(at)] * a.data[at]).collect();
        let (y, dx) = (Array::new(&x.shape, by_scale(&x)), Array::new(&x.shape, by_scale(&dy)));
        let mut dscales = Array::zeros(&[columns]);
        (0..x.data.len()).for_each(|at| dscales.data[of(at)] += x.data[at] * dy.data[at]);
        let wanted = vec![("y", y), ("dx", dx), ("dscales", dscales)];
        suite.exact(scaled(&format!("{rows}x{columns}"), x, scales.clone(), dy, None), wanted);
        let [x, dy, dy2] = [0; 3].map(|_| random.normal(&[rows, columns]));
        suite.oracle(scaled(&format!("{rows}x{columns}_twice"), x, scales, dy, Some(dy2)));
    }
    let [x, dy, dy2] = [0; 3].map(|_| random.normal(&[4, 5]));
    suite.gradient(scaled("twice", x, random.normal(&[5]), dy, Some(dy2)));
}

/// y, dx, dweight and dbias by plain loops.
fn naive(inputs: &[(&'static str, Array)]) -> Vec<(&'static str, Array)> {
    let [(_, x), (_, w), (_, b), (_, dy)] = inputs else { panic!("one layer") };
    let ([batch, inner], [outputs, _]) = (x.two(), w.two());
    let mut y = Array::zeros(&[batch, outputs]);
    let [mut dx, mut dw, mut db] = [x, w, b].map(|a| Array::zeros(&a.shape));
    for n in 0..batch {
        for o in 0..outputs {
            let gradient = dy.data[n * outputs + o];
            y.data[n * outputs + o] = b.data[o];
            db.data[o] += gradient;
            for i in 0..inner {
                y.data[n * outputs + o] += x.data[n * inner + i] * w.data[o * inner + i];
                dx.data[n * inner + i] += gradient * w.data[o * inner + i];
                dw.data[o * inner + i] += gradient * x.data[n * inner + i];
            }
        }
    }
    vec![("y", y), ("dx", dx), ("dweight", dw), ("dbias", db)]
}

pub fn add(suite: &mut Suite) {
    scaled_columns(suite);
    let mut random = Random::new(4);
    for f in fixtures::of("global_avg_pool") {
        let wanted = vec![("y", f.get("y")), ("dx", f.get("dx"))];
        suite.close("pytorch", pool(&f.name, f.get("x"), f.get("dy"), None), wanted);
    }
    // Sixteen pixels: every mean of small integers is exact.
    let (x, dy) = (random.integers(&[3, 2, 8, 5], 4), random.integers(&[3, 5], 4));
    let mut y = Array::zeros(&[3, 5]);
    x.data.iter().enumerate().for_each(|(i, v)| y.data[i / 80 * 5 + i % 5] += v / 16.0);
    let dx = Array::new(&x.shape, (0..x.data.len()).map(|i| dy.data[i / 80 * 5 + i % 5] / 16.0).collect());
    suite.exact(pool("integers", x, dy, None), vec![("y", y), ("dx", dx)]);
    for shape in [[1, 1, 1, 1], [3, 5, 3, 7], [2, 8, 8, 64], [5, 7, 7, 33], [2, 1, 9, 260]] {
        let [x, dy, dy2] =
            [shape.to_vec(), vec![shape[0], shape[3]], vec![shape[0], shape[3]]].map(|s| random.normal(&s));
        suite.oracle(pool(&format!("{shape:?}"), x, dy, Some(dy2)));
    }
    let [x, dy, dy2] = [vec![2, 3, 2, 3], vec![2, 3], vec![2, 3]].map(|s| random.normal(&s));
    suite.gradient(pool("twice", x, dy, Some(dy2)));

    for f in fixtures::of("linear") {
        let inputs = ["x", "weight", "bias", "dy"].map(|name| (name, f.get(name)));
        let wanted = ["y", "dx", "dweight", "dbias"].map(|name| (name, f.get(name)));
        suite.close("pytorch", dense(&f.name, inputs.to_vec()), wanted.to_vec());
    }
    for extents in [[5, 7, 3], [1, 4, 10], [70, 64, 100], [8, 33, 65]] {
        let inputs = dense_inputs(extents, false, |shape| random.integers(shape, 3));
        let wanted = naive(&inputs);
        suite.exact(dense(&format!("{extents:?}"), inputs), wanted);
    }
    for extents in [[1, 1, 1], [3, 33, 17], [130, 64, 10], [2, 256, 1000], [64, 5, 128], [37, 2048, 3]] {
        let inputs = dense_inputs(extents, true, |shape| random.normal(shape));
        suite.oracle(dense(&format!("{extents:?}"), inputs));
    }
    let inputs = dense_inputs([3, 4, 5], true, |shape| random.normal(shape));
    suite.gradient(dense("twice", inputs));
    // Without a bias, what one of zeros gives; and the layer that has one beside it keeps its own.
    for extents in [[5, 7, 3], [1, 1, 1], [70, 64, 100], [9, 257, 33]] {
        let mut inputs = dense_inputs(extents, true, |shape| random.integers(shape, 3));
        inputs[2].1 = Array::zeros(&[extents[2]]);
        let mut wanted = naive(&inputs[..4]);
        wanted.pop(); // dbias
        // dx is that of both layers.
        wanted.retain(|(name, _)| *name != "dx");
        inputs.remove(2);
        suite.exact(dense(&format!("{extents:?}_no_bias"), inputs), wanted);
    }
    let mut inputs = dense_inputs([3, 4, 5], false, |shape| random.normal(shape));
    inputs.remove(2);
    suite.gradient(dense("no_bias", inputs));

    for f in fixtures::of("normalize_rows") {
        let wanted = vec![("y", f.get("y")), ("dx", f.get("dx"))];
        suite.close("pytorch", normalized(&f.name, f.get("x"), f.get("dy"), None), wanted);
    }
    // Rows of lengths 5 and 0.5, and of zeros; the gradient along a row is gone.
    let x = Array::new(&[3, 2], vec![3.0, 4.0, 0.0, -0.5, 0.0, 0.0]);
    let dy = Array::new(&[3, 2], vec![0.0, 0.0, 2.0, 7.0, 0.0, 0.0]);
    let y = Array::new(&[3, 2], vec![0.6, 0.8, 0.0, -1.0, 0.0, 0.0]);
    let dx = Array::new(&[3, 2], vec![0.0, 0.0, 4.0, 0.0, 0.0, 0.0]);
    suite.close("by_hand", normalized("by_hand", x, dy, None), vec![("y", y), ("dx", dx)]);
    // A row whose length counts as 1e-12 has a constant divisor, as in PyTorch.
    let x = Array::new(&[2, 2], vec![3e-13, -4e-13, 0.0, 0.0]);
    let dy = Array::new(&[2, 2], vec![1.0, 2.0, -3.0, 0.5]);
    let (y, dx) = (x.map(|v| 1e12 * v), dy.map(|v| 1e12 * v));
    suite.close("epsilon", normalized("epsilon", x, dy, None), vec![("y", y), ("dx", dx)]);
    for shape in [[1, 1], [5, 3], [33, 31], [2, 32], [7, 33], [100, 257], [3, 2048]] {
        let [x, dy, dy2] = [0; 3].map(|_| random.normal(&shape));
        suite.oracle(normalized(&format!("{shape:?}"), x, dy, Some(dy2)));
    }
    let [x, dy, dy2] = [0; 3].map(|_| random.normal(&[4, 5]));
    suite.gradient(normalized("twice", x, dy, Some(dy2)));
}
