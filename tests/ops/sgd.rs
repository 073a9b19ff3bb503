//! `sgd`, several steps in a row.

use glmc_engine::ops::load_step::StepParams;
use glmc_engine::ops::sgd::{Sgd, SgdConfig};
use glmc_engine::tensor::DType;

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::suite::{Case, Suite};

const GRADS: [&str; 3] = ["grad0", "grad1", "grad2"];
const PARAMS: [&str; 3] = ["param0", "param1", "param2"];
const MOMENTA: [&str; 3] = ["momentum0", "momentum1", "momentum2"];

/// One step per gradient and rate; outputs `paramS`, `momentumS` after step S, and at last the compute copy.
fn steps(name: &str, config: SgdConfig, rates: Vec<f32>, param: Array, grads: Vec<Array>) -> Case {
    let inputs = [("param", param)].into_iter().chain(GRADS.into_iter().zip(grads));
    Case::new("sgd", name, inputs, move |rig, i| {
        rig.train = false;
        let (dtype, backend) = (rig.accumulate(), rig.backend);
        let elements = &i["param"].shape;
        let mut master = i["param"].clone();
        let mut momentum = Array::zeros(elements);
        for (s, &lr) in rates.iter().enumerate() {
            let copy =
                (rig.compute() != dtype).then(|| rig.memory(&Array::zeros(elements), rig.compute())).transpose()?;
            let scalars = StepParams { lr, ..StepParams::default() };
            let words: &[i32] = bytemuck::cast_slice(std::slice::from_ref(&scalars));
            let words: Vec<f64> = words.iter().map(|&w| f64::from(w)).collect();
            let tensors = Sgd {
                master: rig.memory(&master, dtype)?,
                compute: copy,
                grad: rig.memory(&i[GRADS[s]], dtype)?,
                momentum: rig.memory(&momentum, dtype)?,
                scalars: rig.memory(&Array::vector(&words), DType::I32)?,
            };
            backend.sgd(&config, &tensors)?;
            let down = |tensor: glmc_engine::tensor::Tensor| {
                let mut bytes = vec![0; tensor.bytes()];
                backend.download(tensor, &mut bytes)?;
                glmc_engine::Result::Ok(Array::from_bytes(tensor.shape.dims(), tensor.dtype, &bytes))
            };
            (master, momentum) = (down(tensors.master)?, down(tensors.momentum)?);
            if let Some(copy) = copy {
                assert_eq!(down(copy)?, master.rounded(copy.dtype), "the copy is the master, rounded");
            }
            rig.output_memory(PARAMS[s], tensors.master);
            rig.output_memory(MOMENTA[s], tensors.momentum);
        }
        Ok(())
    })
}

pub fn add(suite: &mut Suite) {
    for f in fixtures::of("sgd") {
        let rates = f.attributes["lr"].as_array().expect("rates").iter().map(|v| v.as_f64().expect("a rate") as f32);
        let plain = SgdConfig::plain(f.number("momentum") as f32, f.number("weight_decay") as f32);
        let config = SgdConfig { nesterov: f.attributes["nesterov"].as_bool().unwrap_or(false), ..plain };
        let grads = GRADS.map(|name| f.get(name)).to_vec();
        let mut wanted: Vec<_> = PARAMS.map(|name| (name, f.get(name))).to_vec();
        wanted.extend(MOMENTA.iter().filter_map(|&name| Some((name, f.maybe(name)?))));
        suite.close("pytorch", steps(&f.name, config, rates.collect(), f.get("param"), grads), wanted);
    }
    // Powers of two and small integers: exact.
    let config = SgdConfig::plain(0.5, 0.25);
    let (param, grad) = (Array::vector(&[8.0, -4.0, 0.0]), Array::vector(&[1.0, 2.0, -3.0]));
    let wanted = vec![
        ("momentum0", Array::vector(&[3.0, 1.0, -3.0])),
        ("param0", Array::vector(&[6.5, -4.5, 1.5])),
        ("momentum1", Array::vector(&[4.125, 1.375, -4.125])),
        ("param1", Array::vector(&[6.5 - 1.03125, -4.5 - 0.34375, 1.5 + 1.03125])),
    ];
    let grads = vec![grad.clone(), grad];
    suite.exact(steps("dyadic", config, vec![0.5, 0.25], param.clone(), grads.clone()), wanted);
    // Half the rate at twice the factor: the same bits. With Nesterov w -= lr * (g + m / 2), g with its decay.
    let config = SgdConfig { lr_factor: 2.0, nesterov: true, ..config };
    let wanted = vec![
        ("momentum0", Array::vector(&[3.0, 1.0, -3.0])),
        ("param0", Array::vector(&[8.0 - 2.25, -4.0 - 0.75, 2.25])),
        ("momentum1", Array::vector(&[1.5 + 2.4375, 0.5 + 0.8125, -1.5 - 2.4375])),
        (
            "param1",
            Array::vector(&[
                5.75 - 0.25 * (2.4375 + 0.5 * 3.9375),
                -4.75 - 0.25 * (0.8125 + 0.5 * 1.3125),
                2.25 + 0.25 * (2.4375 + 0.5 * 3.9375),
            ]),
        ),
    ];
    suite.exact(steps("dyadic nesterov", config, vec![0.25, 0.125], param, grads), wanted);
    let mut random = Random::new(9);
    for elements in [1, 17, 40_001] {
        let param = random.normal(&[elements]);
        let grads = (0..3).map(|_| random.normal(&[elements])).collect();
        let config = SgdConfig::plain(0.9, 5e-3);
        let rates = vec![0.1, 0.05, 0.2];
        let config =
            SgdConfig { nesterov: elements == 17, lr_factor: if elements == 17 { 0.3 } else { 1.0 }, ..config };
        suite.oracle(steps(&format!("{elements}"), config, rates, param, grads));
    }
    suite.check("sgd::exact::cast_weights on cpu f32", || {
        let device = crate::common::devices::all().remove(0);
        let backend = crate::common::devices::open(&device);
        let mut rig = crate::common::rig::Rig::new(&*backend);
        let values = Random::new(10).normal(&[1000]).rounded(DType::F32);
        let cast = || {
            let from = rig.memory(&values, DType::F32)?;
            let to = rig.memory(&Array::zeros(&[1000]), DType::F32)?;
            backend.cast_weights(from, to)?;
            rig.output_memory("to", to);
            rig.run()
        };
        let outputs = { cast }().map_err(|e: glmc_engine::Error| e.to_string())?;
        crate::common::tolerance::exact(&outputs["to"], &values)
    });
}
