//! Runs a few ops on a device through the tape: inputs go up, values and gradients come down.

use std::collections::BTreeMap;

use glmc_engine::Result;
use glmc_engine::ops::Backend;
use glmc_engine::ops::load_step::StepParams;
use glmc_engine::tape::{Tape, Var};
use glmc_engine::tensor::{BufferId, DType, Shape, Tensor};

use super::array::Array;

/// Arrays by name.
pub type Arrays = BTreeMap<String, Array>;

/// Where a result is read when all has run.
enum Source {
    Value(Var),
    Grad(Var),
    Memory(Tensor),
}

/// A tape in the making, with what goes in and what comes out.
pub struct Rig<'a> {
    pub backend: &'a dyn Backend,
    pub tape: Tape,
    /// Whether gradients are wanted.
    pub train: bool,
    inputs: Vec<(Var, Array)>,
    seeds: Vec<(Var, Array)>,
    outputs: Vec<(String, Source)>,
    /// Makes of an output what is compared.
    views: BTreeMap<String, fn(&Array) -> Array>,
    buffers: Vec<BufferId>,
}

impl<'a> Rig<'a> {
    pub fn new(backend: &'a dyn Backend) -> Rig<'a> {
        Rig {
            backend,
            tape: Tape::new(),
            train: true,
            inputs: Vec::new(),
            seeds: Vec::new(),
            outputs: Vec::new(),
            views: BTreeMap::new(),
            buffers: Vec::new(),
        }
    }

    /// Type of activations.
    pub fn compute(&self) -> DType {
        self.backend.precision().compute()
    }

    /// Type of sums, losses, parameter gradients.
    pub fn accumulate(&self) -> DType {
        self.backend.precision().accumulate()
    }

    /// Memory of its own for an array.
    pub fn memory(&mut self, array: &Array, dtype: DType) -> Result<Tensor> {
        let bytes = array.bytes(dtype);
        let buffer = self.backend.alloc(bytes.len(), "a test")?;
        self.buffers.push(buffer);
        let tensor = Tensor::at_start(buffer, &array.shape, dtype);
        self.backend.upload(tensor, &bytes)?;
        Ok(tensor)
    }

    /// An input without gradient.
    pub fn constant(&mut self, array: &Array, dtype: DType) -> Result<Var> {
        let tensor = self.memory(array, dtype)?;
        Ok(self.tape.external(tensor))
    }

    /// An activation with a gradient, `d` + `name` among the outputs.
    pub fn leaf(&mut self, name: &str, array: &Array, dtype: DType) -> Var {
        let var = self.tape.leaf(&array.shape, dtype);
        self.inputs.push((var, array.clone()));
        self.outputs.push((format!("d{name}"), Source::Grad(var)));
        var
    }

    /// A parameter with a gradient, `d` + `name` among the outputs. The gradient starts as NaN: it must be written.
    pub fn parameter(&mut self, name: &str, array: &Array, dtype: DType) -> Result<Var> {
        let tensor = self.memory(array, dtype)?;
        let grad = self.memory(&Array::filled(&array.shape, f64::NAN), self.accumulate())?;
        self.outputs.push((format!("d{name}"), Source::Memory(grad)));
        Ok(self.tape.parameter(tensor, grad))
    }

    /// The scalars of a step.
    pub fn step(&mut self, params: &StepParams) -> Result<Var> {
        let words: &[i32] = bytemuck::cast_slice(std::slice::from_ref(params));
        // Through doubles the words keep their bits: every i32 is a double.
        let words: Vec<f64> = words.iter().map(|&w| f64::from(w)).collect();
        self.constant(&Array::vector(&words), DType::I32)
    }

    /// Names a value as an output.
    pub fn output(&mut self, name: &str, var: Var) {
        self.tape.keep(var);
        self.outputs.push((name.to_owned(), Source::Value(var)));
    }

    /// As [`Rig::output`], through a function: where backends may lay a value out differently.
    pub fn output_through(&mut self, name: &str, var: Var, view: fn(&Array) -> Array) {
        self.output(name, var);
        self.views.insert(name.to_owned(), view);
    }

    /// Names memory as an output: running statistics, logs.
    pub fn output_memory(&mut self, name: &str, tensor: Tensor) {
        self.outputs.push((name.to_owned(), Source::Memory(tensor)));
    }

    /// Gives a value's gradient.
    pub fn seed(&mut self, var: Var, gradient: &Array) {
        self.tape.keep(var);
        self.seeds.push((var, gradient.clone()));
    }

    /// Runs forward and, if wanted, backward; returns the outputs. Gradients that are not computed are left out.
    pub fn run(self) -> Result<Arrays> {
        let Rig { backend, tape, train, inputs, seeds, outputs, views, buffers } = self;
        let program = tape.plan(backend, train)?;
        // What is read from the arena before it is written is NaN.
        let planned = inputs.iter().map(|(var, _)| *var).chain(outputs.iter().filter_map(|(_, s)| match s {
            Source::Value(var) => Some(*var),
            _ => None,
        }));
        let arena = planned.map(|var| program.value(var).buffer).find(|buffer| !buffers.contains(buffer));
        if let Some(buffer) = arena {
            let all = Tensor { buffer, offset: 0, shape: Shape::new(&[program.arena_bytes()]), dtype: DType::U8 };
            backend.upload(all, &vec![0xff; program.arena_bytes()])?;
        }
        for (var, array) in &inputs {
            let to = program.value(*var);
            backend.upload(to, &array.bytes(to.dtype))?;
        }
        program.forward(backend)?;
        if train {
            for (var, array) in &seeds {
                let to = program.grad(*var).expect("a seeded value has a gradient");
                assert_eq!(to.shape.dims(), array.shape, "a gradient has its value's shape");
                backend.upload(to, &array.bytes(to.dtype))?;
            }
            program.backward(backend)?;
        }
        let mut results = Arrays::new();
        for (name, source) in outputs {
            let tensor = match source {
                Source::Value(var) => Some(program.value(var)),
                Source::Grad(var) => program.grad(var).filter(|_| train),
                Source::Memory(tensor) => Some(tensor).filter(|_| train || !name.starts_with('d')),
            };
            let Some(tensor) = tensor else { continue };
            let mut bytes = vec![0; tensor.bytes()];
            backend.download(tensor, &mut bytes)?;
            let array = Array::from_bytes(tensor.shape.dims(), tensor.dtype, &bytes);
            let array = views.get(&name).map_or(array.clone(), |view| view(&array));
            assert!(results.insert(name.clone(), array).is_none(), "two outputs named {name}");
        }
        program.release(backend);
        buffers.into_iter().for_each(|buffer| backend.free(buffer));
        Ok(results)
    }
}
