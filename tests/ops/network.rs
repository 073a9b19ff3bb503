//! A small network with all that the tape must get right: values that several ops read, gradients that add up, both
//! shortcuts, two heads, and a gradient that must stop.

use glmc_engine::Result;
use glmc_engine::ops::batch_norm_apply::{Parameters, batch_norm_apply};
use glmc_engine::ops::batch_norm_statistics::batch_norm_statistics;
use glmc_engine::ops::conv2d::{self, conv2d};
use glmc_engine::ops::global_avg_pool::global_avg_pool;
use glmc_engine::ops::linear::linear;
use glmc_engine::ops::load_step::{StepParams, StepVars};
use glmc_engine::ops::negative_cosine::negative_cosine;
use glmc_engine::ops::supervised_loss::{ClassVector, Form, HeadLoss, Reduction, ViewLabels, supervised_loss};
use glmc_engine::ops::total_loss::total_loss;
use glmc_engine::tape::Var;
use glmc_engine::tensor::DType;

use crate::common::array::{Array, Random};
use crate::common::devices::{self, ORACLE};
use crate::common::rig::{Arrays, Rig};
use crate::common::suite::{Case, Suite};
use crate::common::tolerance;

const VIEWS: usize = 2;
const STEP: StepParams = StepParams {
    seed: [0; 2],
    epoch: 0,
    step: 0,
    lambda: 0.0,
    cut: [0; 4],
    lr: 0.0,
    coefficients: [0.75, 0.25, 0.5],
    row: 0,
    first: 0,
    reserved: 0,
};

/// Convolution, batch normalisation, shortcut, ReLU. Inputs `wK`, `gammaK`, `betaK`.
fn block(rig: &mut Rig<'_>, i: &Arrays, k: usize, x: Var, stride: usize, shortcut: Option<Var>) -> Result<Var> {
    let (compute, accumulate) = (rig.compute(), rig.accumulate());
    let [w, gamma, beta] = ["w", "gamma", "beta"].map(|name| format!("{name}{k}"));
    let channels = i[&gamma].shape.clone();
    let weight = rig.parameter(&w, &i[&w], compute)?;
    let (y, sums) = conv2d(
        &mut rig.tape,
        rig.backend,
        x,
        weight,
        conv2d::Config { stride, padding: 1, views: VIEWS, groups: 1, sums: true },
    )?;
    let parameters = Parameters {
        weight: rig.parameter(&gamma, &i[&gamma], accumulate)?,
        bias: rig.parameter(&beta, &i[&beta], accumulate)?,
        running_mean: rig.constant(&Array::zeros(&channels), accumulate)?,
        running_var: rig.constant(&Array::filled(&channels, 1.0), accumulate)?,
    };
    let sums = sums.expect("asked for");
    let statistics = batch_norm_statistics(&mut rig.tape, rig.backend, y, sums, parameters, true)?;
    batch_norm_apply(&mut rig.tape, rig.backend, y, parameters, Some(statistics), shortcut, true)
}

fn dense(rig: &mut Rig<'_>, i: &Arrays, name: &str, x: Var) -> Result<Var> {
    let dtype = rig.accumulate();
    let bias = format!("{name}_bias");
    let (w, b) = (rig.parameter(name, &i[name], dtype)?, rig.parameter(&bias, &i[&bias], dtype)?);
    linear(&mut rig.tape, rig.backend, x, w, Some(b))
}

/// What the projections are compared with.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    /// The projections of the other view, without gradient.
    Stopped,
    /// The input `target`.
    Given,
}

fn record(rig: &mut Rig<'_>, i: &Arrays, target: Target) -> Result<()> {
    let dtype = rig.accumulate();
    let step = rig.step(&STEP)?;
    let x = rig.leaf("x", &i["x"], rig.compute());
    let a = block(rig, i, 1, x, 1, None)?;
    let b = block(rig, i, 2, a, 1, Some(a))?;
    let c = block(rig, i, 3, b, 2, Some(b))?;
    let r = global_avg_pool(&mut rig.tape, rig.backend, c)?;
    let h = dense(rig, i, "projection", r)?;
    let u = dense(rig, i, "contrast", h)?;
    let mut heads = Vec::new();
    for name in ["fc", "fc_cb"] {
        let (logits, vectors) = (dense(rig, i, name, r)?, rig.constant(&i[&format!("{name}_vectors")], dtype)?);
        heads.push(HeadLoss {
            logits,
            vectors,
            form: Form::Softmax { focal: 0.0 },
            reduction: Reduction::N,
            scale: 1.0,
        });
    }
    let target = match target {
        Target::Stopped => rig.tape.stop_gradient(h),
        Target::Given => rig.constant(&i["target"], dtype)?,
    };
    rig.output("h", h);
    let cosine = negative_cosine(&mut rig.tape, rig.backend, u, target, step)?;
    let batch = i["shares"].data.len();
    let indices = |start: usize| Array::vector(&(0..batch).map(|n| (start + n) as f64).collect::<Vec<_>>());
    let vars = StepVars {
        scalars: step,
        logged: step,
        originals: rig.constant(&indices(0), DType::I32)?,
        partners: rig.constant(&indices(batch), DType::I32)?,
        shares: rig.constant(&i["shares"], DType::F32)?,
    };
    let labels = rig.constant(&i["labels"], DType::I32)?;
    let rows = supervised_loss(&mut rig.tape, rig.backend, &heads, labels, vars, [ViewLabels::Mixed; 2])?;
    let log = rig.memory(&Array::zeros(&[1, 4]), dtype)?;
    rig.output_memory("log", log);
    let log = rig.tape.external(log);
    total_loss(&mut rig.tape, rig.backend, rows, Some(cosine), step, log, batch)
}

fn inputs(random: &mut Random, batch: usize) -> Vec<(String, Array)> {
    let mut all = vec![("x".to_owned(), random.normal(&[VIEWS * batch, 6, 5, 3]))];
    for (k, [from, to]) in [[3, 4], [4, 4], [4, 8]].into_iter().enumerate() {
        let scale = (2.0 / (9 * from) as f64).sqrt();
        all.push((format!("w{}", k + 1), random.normal(&[to, 3, 3, from]).map(|v| v * scale)));
        all.push((format!("gamma{}", k + 1), random.normal(&[to]).map(|v| 1.0 + 0.2 * v)));
        all.push((format!("beta{}", k + 1), random.normal(&[to]).map(|v| 0.2 * v)));
    }
    for (name, [from, to]) in [("projection", [8, 6]), ("contrast", [6, 6]), ("fc", [8, 5]), ("fc_cb", [8, 5])] {
        all.push((name.to_owned(), random.normal(&[to, from]).map(|v| 0.5 * v)));
        all.push((format!("{name}_bias"), random.normal(&[to]).map(|v| 0.1 * v)));
    }
    all.push(("target".to_owned(), random.normal(&[VIEWS * batch, 6])));
    let mut labels = Random::new(17);
    for name in ["fc", "fc_cb"] {
        let row = |vector: ClassVector| match vector {
            ClassVector::Weight => labels.normal(&[5]).map(|v| v * v),
            other => Array::filled(&[5], other.neutral()),
        };
        let rows: Vec<f64> = ClassVector::ALL.into_iter().map(row).flat_map(|row| row.data).collect();
        all.push((format!("{name}_vectors"), Array::new(&[5, 5], rows)));
    }
    all.push(("labels".to_owned(), labels.indices(&[2 * batch], 5)));
    all.push(("shares".to_owned(), labels.integers(&[batch], 16).map(|v| v.abs() / 16.0)));
    all
}

fn case(name: &str, inputs: Vec<(String, Array)>, target: Target) -> Case {
    let mut case = Case::new("network", name, [], move |rig, i| record(rig, i, target));
    case.inputs.extend(inputs);
    case.objective("log", Array::new(&[1, 4], vec![0.0, 0.0, 0.0, 1.0]))
}

pub fn add(suite: &mut Suite) {
    let mut random = Random::new(11);
    suite.gradient(case("given_target", inputs(&mut random, 3), Target::Given));
    for batch in [1, 3, 8] {
        suite.oracle(case(&format!("batch_{batch}"), inputs(&mut random, batch), Target::Stopped));
    }
    // The gradient through a stopped h must be that of the same h given as a constant, to the bit.
    let mut inputs = inputs(&mut random, 3);
    suite.check(format!("network::exact::stop_gradient on {}", ORACLE.label()), move || {
        let backend = devices::open(&ORACLE);
        let run = |inputs: Vec<(String, Array)>, target| {
            let mut rig = Rig::new(&*backend);
            record(&mut rig, &inputs.into_iter().collect(), target).and_then(|()| rig.run()).map_err(|e| e.to_string())
        };
        let stopped = run(inputs.clone(), Target::Stopped)?;
        inputs.retain(|(name, _)| name != "target");
        inputs.push(("target".to_owned(), stopped["h"].clone()));
        let given = run(inputs, Target::Given)?;
        for (name, want) in &given {
            tolerance::exact(&stopped[name], want).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    });
}
