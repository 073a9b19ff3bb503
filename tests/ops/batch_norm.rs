//! `batch_norm_statistics` and `batch_norm_apply`: with and without ReLU and shortcuts, training and inference.

use glmc_engine::ops::batch_norm_apply::{Parameters, batch_norm_apply};
use glmc_engine::ops::batch_norm_statistics::batch_norm_statistics;

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::rig::{Arrays, Rig};
use crate::common::suite::{Case, Suite};

/// (views, parts, 2, channels): what the convolution before would have summed, in as many parts.
fn sums(x: &Array, views: usize, parts: usize) -> Array {
    let [.., channels] = x.four();
    let mut sums = Array::zeros(&[views, parts, 2, channels]);
    let view = x.data.len() / views;
    for (i, v) in x.data.iter().enumerate() {
        let pixel = i % view / channels;
        let at = ((i / view * parts + pixel % parts) * 2) * channels + i % channels;
        sums.data[at] += v;
        sums.data[at + channels] += v * v;
    }
    sums
}

fn parameters(rig: &mut Rig<'_>, i: &Arrays) -> glmc_engine::Result<Parameters> {
    let dtype = rig.accumulate();
    let [running_mean, running_var] = [rig.memory(&i["running_mean"], dtype)?, rig.memory(&i["running_var"], dtype)?];
    rig.output_memory("running_mean_after", running_mean);
    rig.output_memory("running_var_after", running_var);
    Ok(Parameters {
        weight: rig.parameter("weight", &i["weight"], dtype)?,
        bias: rig.parameter("bias", &i["bias"], dtype)?,
        running_mean: rig.tape.external(running_mean),
        running_var: rig.tape.external(running_var),
    })
}

/// Training; with `dz2` twice, with the same parameters, so that all gradients add up.
fn training(name: &str, inputs: Vec<(&'static str, Array)>, views: usize, relu: bool) -> Case {
    let find = |wanted: &str| inputs.iter().find(|(name, _)| *name == wanted).map(|(_, array)| array.clone());
    let (dz, dz2) = (find("dz").expect("a gradient"), find("dz2"));
    let case = Case::new("batch_norm", name, inputs, move |rig, i| {
        let x = rig.leaf("x", &i["x"], rig.compute());
        let sums = rig.constant(&sums(&i["x"], views, 3), rig.accumulate())?;
        let shortcut = i.get("shortcut").map(|s| rig.leaf("shortcut", s, rig.compute()));
        let parameters = parameters(rig, i)?;
        let record = |rig: &mut Rig<'_>, name: &str, dz: &Array| {
            let statistics = batch_norm_statistics(&mut rig.tape, rig.backend, x, sums, parameters, true)?;
            let z = batch_norm_apply(&mut rig.tape, rig.backend, x, parameters, Some(statistics), shortcut, relu)?;
            rig.output(name, z);
            rig.seed(z, dz);
            glmc_engine::Result::Ok(())
        };
        record(rig, "z", &i["dz"])?;
        i.get("dz2").map_or(Ok(()), |dz2| record(rig, "z2", dz2))
    })
    .objective("z", dz);
    match dz2 {
        Some(dz2) => case.objective("z2", dz2),
        None => case,
    }
}

fn inference(name: &str, inputs: Vec<(&'static str, Array)>, relu: bool) -> Case {
    Case::new("batch_norm", format!("{name}_inference"), inputs, move |rig, i| {
        rig.train = false;
        let x = rig.constant(&i["x"], rig.compute())?;
        let shortcut = i.get("shortcut").map(|s| rig.constant(s, rig.compute())).transpose()?;
        let parameters = parameters(rig, i)?;
        let z = batch_norm_apply(&mut rig.tape, rig.backend, x, parameters, None, shortcut, relu)?;
        rig.output("z", z);
        Ok(())
    })
}

/// Normal inputs; x off centre and off scale.
fn random_inputs(random: &mut Random, shape: [usize; 4], source: Option<[usize; 4]>) -> Vec<(&'static str, Array)> {
    let channels = [shape[3]];
    let mut inputs = vec![
        ("x", random.normal(&shape).map(|v| 2.0 * v + 1.0)),
        ("dz", random.normal(&shape)),
        ("weight", random.normal(&channels).map(|v| 1.0 + 0.3 * v)),
        ("bias", random.normal(&channels).map(|v| 0.5 * v)),
        ("running_mean", random.normal(&channels)),
        ("running_var", random.normal(&channels).map(|v| 0.5 + v * v)),
    ];
    inputs.extend(source.map(|source| ("shortcut", random.normal(&source))));
    inputs
}

/// A shape, the shortcut's source, views, ReLU.
type Shape = ([usize; 4], Option<[usize; 4]>, usize, bool);

const SHAPES: &[Shape] = &[
    ([5, 1, 1, 1], None, 1, true),
    ([4, 3, 5, 7], None, 2, true),
    ([4, 3, 5, 7], None, 2, false),
    ([6, 4, 4, 16], Some([6, 4, 4, 16]), 2, true),
    ([2, 5, 3, 33], Some([2, 5, 3, 33]), 1, false),
    ([4, 8, 8, 16], None, 2, true),
    ([2, 16, 16, 64], Some([2, 16, 16, 64]), 2, true),
    ([4, 4, 4, 32], Some([4, 8, 8, 16]), 2, true),
    ([2, 4, 3, 8], Some([2, 7, 6, 2]), 2, true),
    ([2, 3, 3, 12], Some([2, 6, 6, 12]), 1, false),
    ([1, 3, 3, 7], Some([1, 5, 5, 4]), 1, true),
    ([2, 40, 40, 5], None, 1, true),
    ([2, 2, 2, 300], Some([2, 4, 4, 150]), 2, true),
    ([2, 7, 7, 520], None, 2, true),
];

fn label((shape, source, views, relu): &Shape) -> String {
    let shortcut = match source {
        None => "",
        Some(source) if source == shape => "_plus",
        Some(_) => "_option_a",
    };
    let [b, h, w, c] = shape;
    format!("{b}x{h}x{w}x{c}_v{views}{shortcut}{}", if *relu { "_relu" } else { "" })
}

pub fn add(suite: &mut Suite) {
    for f in fixtures::of("batch_norm") {
        let given = ["x", "weight", "bias", "running_mean", "running_var"];
        let mut inputs: Vec<_> = given.map(|name| (name, f.get(name))).into_iter().collect();
        inputs.extend(f.maybe("residual").map(|r| ("shortcut", r)));
        let relu = f.attributes["relu"].as_bool().expect("a flag");
        suite.close("pytorch", inference(&f.name, inputs.clone(), relu), vec![("z", f.get("y_eval"))]);
        inputs.push(("dz", f.get("dy")));
        let mut wanted: Vec<_> = ["running_mean_after", "running_var_after", "dx", "dweight", "dbias"]
            .map(|name| (name, f.get(name)))
            .into_iter()
            .collect();
        wanted.push(("z", f.get("y")));
        wanted.extend(f.maybe("dresidual").map(|d| ("dshortcut", d)));
        suite.close("pytorch", training(&f.name, inputs, f.integer("views"), relu), wanted);
    }
    shortcut_alone(suite);
    let mut random = Random::new(3);
    for shape in SHAPES {
        let (extents, source, views, relu) = *shape;
        let inputs = random_inputs(&mut random, extents, source);
        suite.oracle(inference(&label(shape), inputs.clone(), relu));
        suite.oracle(training(&label(shape), inputs.clone(), views, relu));
        let mut twice = inputs;
        twice.push(("dz2", random.normal(&extents)));
        suite.oracle(training(&format!("{}_twice", label(shape)), twice.clone(), views, relu));
        if extents.iter().product::<usize>() < 300 {
            suite.gradient(training(&label(shape), twice, views, relu));
        }
    }
    sums_of_integers(suite, &mut random);
}

/// Option A by itself: an x of zeros leaves the shortcut.
fn shortcut_alone(suite: &mut Suite) {
    for f in fixtures::of("shortcut_a") {
        let (source, y) = (f.get("x"), f.get("y"));
        let channels = [f.integer("channels")];
        let mut inputs = vec![
            ("x", Array::zeros(&y.shape)),
            ("shortcut", source),
            ("weight", Array::filled(&channels, 1.0)),
            ("bias", Array::zeros(&channels)),
            ("running_mean", Array::zeros(&channels)),
            ("running_var", Array::filled(&channels, 1.0)),
        ];
        let name = format!("shortcut_{}", f.name);
        suite.close("pytorch", inference(&name, inputs.clone(), false), vec![("z", y.clone())]);
        inputs.push(("dz", f.get("dy")));
        suite.close("pytorch", training(&name, inputs, 1, false), vec![("z", y), ("dshortcut", f.get("dx"))]);
    }
}

/// Of small integers, the gradients that are plain sums are exact.
fn sums_of_integers(suite: &mut Suite, random: &mut Random) {
    for (shape, views) in [([4, 6, 6, 16], 2), ([3, 5, 7, 9], 1), ([2, 20, 20, 3], 2)] {
        let mut inputs = random_inputs(random, shape, Some(shape));
        let dz = random.integers(&shape, 8);
        inputs[1].1 = dz.clone();
        let mut dbias = Array::zeros(&shape[3..]);
        dz.data.iter().enumerate().for_each(|(i, v)| dbias.data[i % shape[3]] += v);
        let name = format!("sums_{shape:?}");
        suite.exact(training(&name, inputs, views, false), vec![("dbias", dbias), ("dshortcut", dz)]);
    }
}
