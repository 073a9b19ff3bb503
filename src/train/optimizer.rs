//! What happens to the parameters in a step besides its passes: the update by groups, SAM's way up and back, projections. All
//! memory is allocated when it is made.

use crate::config::{Every, Norm, OptimizerConfig, Projection};
use crate::error::{Error, Result};
use crate::memory::{read_floats, write_floats};
use crate::nn::parameters::{Kind, part};
use crate::nn::{ParameterStore, Rules};
use crate::ops::Backend;
use crate::ops::load_step::STEP_WORDS;
use crate::ops::project_rows::ProjectRows;
use crate::ops::sam::{Climb, PART};
use crate::ops::sgd::{Sgd, SgdConfig};
use crate::tensor::{DType, Tensor};

/// Parameters side by side that are trained by one rule.
struct Run {
    config: SgdConfig,
    master: Tensor,
    compute: Option<Tensor>,
    grad: Tensor,
    momentum: Tensor,
    /// Where the gradients of a step's parts are summed, if it is made in parts.
    sum: Option<Tensor>,
}

/// What SAM needs of the parameters.
struct Ascent {
    rho: f32,
    factors: [f32; 3],
    /// I32 (16): a step's scalars with the ascent's coefficients.
    scalars: Tensor,
    /// Per run.
    climbs: Vec<(Climb, Tensor)>,
    /// The parts of all runs.
    parts: Tensor,
    backup: Tensor,
    scale: Tensor,
}

/// A weight whose rows are projected.
struct Projected {
    name: String,
    rows: ProjectRows,
    norm: Norm,
    /// Accumulation type (rows): norms at the start.
    norms: Tensor,
}

/// The optimiser of a run on its device.
pub struct Optimizer {
    runs: Vec<Run>,
    ascent: Option<Ascent>,
    projected: Vec<Projected>,
    every: Every,
}

impl Optimizer {
    /// Resolves the groups and allocates what the optimiser needs besides the parameters.
    ///
    /// # Errors
    /// When a setting contradicts another or matches no parameter, or the device has too little memory.
    pub fn new(backend: &dyn Backend, store: &ParameterStore, rules: &Rules, config: &OptimizerConfig) -> Result<Self> {
        config.check()?;
        let runs = store.runs(rules).into_iter().map(|(start, elements, rule)| {
            let piece = |flat: Tensor| part(flat, start, &[elements]);
            Run {
                config: SgdConfig {
                    momentum: config.momentum as f32,
                    weight_decay: rule.weight_decay as f32,
                    nesterov: config.nesterov,
                    lr_factor: rule.lr_factor as f32,
                },
                master: piece(store.master),
                compute: store.compute.map(piece),
                grad: piece(store.grad),
                momentum: piece(store.momentum),
                sum: None,
            }
        });
        let runs: Vec<Run> = runs.collect();
        let ascent = config.sam.map(|sam| Ascent::new(backend, &runs, sam.rho, sam.ascent)).transpose()?;
        let projected = match &config.project {
            Some(projection) => projected(backend, store, rules, projection)?,
            None => Vec::new(),
        };
        let every = config.project.as_ref().map_or(Every::Epoch, |projection| projection.every);
        Ok(Optimizer { runs, ascent, projected, every })
    }

    /// For steps that are made in parts: makes room for the sum of their gradients.
    ///
    /// # Errors
    /// When the device has too little memory.
    pub fn in_parts(mut self, backend: &dyn Backend) -> Result<Self> {
        for run in &mut self.runs {
            run.sum = Some(backend.tensor(run.grad.shape.dims(), run.grad.dtype, "sums of gradients")?);
        }
        Ok(self)
    }

    /// Adds the gradients of a part of a step to the sum, which begins with the first part. Nothing where steps are whole.
    pub fn gather(&self, backend: &dyn Backend, scalars: Tensor, is_first: bool) -> Result<()> {
        // As a momentum that keeps all of what was there, or nothing: sum = factor * sum + grad. At a rate of 0 weights stay.
        let momentum = if is_first { 0.0 } else { 1.0 };
        let config = SgdConfig { momentum, weight_decay: 0.0, nesterov: false, lr_factor: 0.0 };
        self.runs.iter().filter_map(|run| Some((run, run.sum?))).try_for_each(|(run, sum)| {
            let Run { master, compute, grad, .. } = *run;
            backend.sgd(&config, &Sgd { master, compute, grad, momentum: sum, scalars })
        })
    }

    /// Measures the weights as they are now, where a stage starts: MaxNorm's limits come from them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn begin(&self, backend: &dyn Backend) -> Result<()> {
        for Projected { rows, norm, norms, .. } in &self.projected {
            let limit = match *norm {
                Norm::L2 { radius } => radius,
                Norm::Max { t } => {
                    backend.row_norms(rows.master, *norms)?;
                    let lengths = read_floats(backend, *norms)?;
                    let (low, high) =
                        lengths.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), &n| (low.min(n), high.max(n)));
                    // In this form t = 1 is the longest row's norm itself.
                    (1.0 - t) * low + t * high
                }
            };
            write_floats(backend, rows.limit, &[limit])?;
        }
        Ok(())
    }

    /// The limits that [`Optimizer::begin`] found, by the names of their weights: a checkpoint keeps them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn limits(&self, backend: &dyn Backend) -> Result<Vec<(String, f64)>> {
        let limit = |p: &Projected| Ok((p.name.clone(), read_floats(backend, p.rows.limit)?[0]));
        self.projected.iter().map(limit).collect()
    }

    /// Sets the limits that a checkpoint kept.
    ///
    /// # Errors
    /// When `kept` does not have one, or the device fails.
    pub fn set_limits(&self, backend: &dyn Backend, kept: &dyn Fn(&str) -> Result<f64>) -> Result<()> {
        self.projected.iter().try_for_each(|p| write_floats(backend, p.rows.limit, &[kept(&p.name)?]))
    }

    /// Where the scalars of the ascent lie, if their coefficients are others than the step's.
    pub fn ascent_scalars(&self) -> Option<Tensor> {
        self.ascent.as_ref().filter(|ascent| ascent.factors != [1.0; 3]).map(|ascent| ascent.scalars)
    }

    /// Makes the scalars of the ascent from the step's.
    pub fn prepare(&self, backend: &dyn Backend, scalars: Tensor) -> Result<()> {
        match &self.ascent {
            Some(ascent) if ascent.factors != [1.0; 3] => backend.sam_scalars(ascent.factors, scalars, ascent.scalars),
            _ => Ok(()),
        }
    }

    /// Takes the parameters up along the gradient that they have.
    pub fn climb(&self, backend: &dyn Backend) -> Result<()> {
        let Some(Ascent { rho, climbs, parts, scale, .. }) = &self.ascent else { return Ok(()) };
        climbs.iter().try_for_each(|(climb, parts)| backend.sam_squares(climb.grad, *parts))?;
        backend.sam_scale(*rho, *parts, *scale)?;
        climbs.iter().try_for_each(|(climb, _)| backend.sam_perturb(climb))
    }

    /// Takes the parameters back to where they were before [`Optimizer::climb`].
    pub fn restore(&self, backend: &dyn Backend) -> Result<()> {
        let climbs = self.ascent.iter().flat_map(|ascent| &ascent.climbs);
        climbs.map(|(climb, _)| climb).try_for_each(|climb| backend.sam_restore(climb))
    }

    /// Updates the parameters by the gradient that they have, and projects them if that is due every step.
    pub fn update(&self, backend: &dyn Backend, scalars: Tensor) -> Result<()> {
        self.update_at(backend, scalars, &|tensor| tensor)?;
        if self.every == Every::Step { self.project(backend) } else { Ok(()) }
    }

    /// Updates copies of the parameters and all that belongs to them, which lie where `at` says.
    pub fn update_at(&self, backend: &dyn Backend, scalars: Tensor, at: &dyn Fn(Tensor) -> Tensor) -> Result<()> {
        self.runs.iter().try_for_each(|run| {
            let grad = run.sum.unwrap_or(run.grad);
            let [master, grad, momentum] = [run.master, grad, run.momentum].map(at);
            backend.sgd(&run.config, &Sgd { master, compute: run.compute.map(at), grad, momentum, scalars })
        })
    }

    /// What an update reads and writes of the parameters.
    pub fn operands(&self) -> Vec<Tensor> {
        let of = |run: &Run| [Some(run.master), run.compute, run.sum.or(Some(run.grad)), Some(run.momentum)];
        self.runs.iter().flat_map(of).flatten().collect()
    }

    /// What is due after an epoch's last step.
    pub fn end_epoch(&self, backend: &dyn Backend) -> Result<()> {
        if self.every == Every::Epoch { self.project(backend) } else { Ok(()) }
    }

    fn project(&self, backend: &dyn Backend) -> Result<()> {
        self.projected.iter().try_for_each(|p| backend.project_rows(&p.rows))
    }

    /// Parameters that are updated, and the least bytes that an update moves.
    pub fn traffic(&self) -> (usize, usize) {
        let elements = self.runs.iter().map(|run| run.master.elements()).sum();
        // Master and momentum are read and written, the gradient read, the compute copy written.
        let bytes = |run: &Run| 5 * run.master.bytes() + run.compute.map_or(0, |compute| compute.bytes());
        (elements, self.runs.iter().map(bytes).sum())
    }

    /// Gives its memory back.
    pub fn release(self, backend: &dyn Backend) {
        self.runs.iter().filter_map(|run| run.sum).for_each(|sum| backend.free(sum.buffer));
        for Projected { rows, norms, .. } in &self.projected {
            [rows.limit, *norms].iter().for_each(|tensor| backend.free(tensor.buffer));
        }
        if let Some(Ascent { scalars, parts, backup, scale, .. }) = self.ascent {
            [scalars, parts, backup, scale].iter().for_each(|tensor| backend.free(tensor.buffer));
        }
    }
}

impl Ascent {
    fn new(backend: &dyn Backend, runs: &[Run], rho: f64, factors: [f64; 3]) -> Result<Ascent> {
        let accumulate = backend.precision().accumulate();
        let flat = |elements: usize, what: &str| backend.tensor(&[elements], accumulate, what);
        let count = |run: &Run| (run.master.elements(), run.master.elements().div_ceil(PART));
        let (elements, blocks) = runs.iter().map(count).fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1));
        let backup = flat(elements, "weights before SAM's ascent")?;
        let parts = flat(blocks, "squares of gradients")?;
        let scale = flat(1, "SAM's scale")?;
        let scalars = backend.tensor(&[STEP_WORDS], DType::I32, "scalars of SAM's ascent")?;
        let (mut element, mut block) = (0, 0);
        let climb = |run: &Run| {
            let (elements, blocks) = count(run);
            let Run { master, compute, grad, .. } = *run;
            let climb = Climb { master, compute, backup: part(backup, element, &[elements]), grad, scale };
            let parts = part(parts, block, &[blocks]);
            (element, block) = (element + elements, block + blocks);
            (climb, parts)
        };
        let climbs = runs.iter().map(climb).collect();
        Ok(Ascent { rho: rho as f32, factors: factors.map(|f| f as f32), scalars, climbs, parts, backup, scale })
    }
}

fn projected(
    backend: &dyn Backend,
    store: &ParameterStore,
    rules: &Rules,
    projection: &Projection,
) -> Result<Vec<Projected>> {
    let pattern = &projection.pattern;
    crate::nn::groups::require_match(store.specs(), pattern)?;
    let norm = projection.norm()?;
    let mut found = Vec::new();
    for (index, spec) in store.specs().iter().enumerate() {
        let has_rows = matches!(spec.kind, Kind::LinearWeight | Kind::CosineWeight | Kind::ConvWeight);
        if !has_rows || !crate::nn::groups::matches(pattern, &spec.name) {
            continue;
        }
        if rules.get(index).frozen {
            let what = format!("project: {} is frozen, so that nothing is to be projected", spec.name);
            return Err(Error::Config(what));
        }
        let (master, compute) = store.weights(index);
        let limit = backend.tensor(&[1], master.dtype, "a limit of norms")?;
        let exact = matches!(norm, Norm::L2 { .. });
        let rows = ProjectRows { master, compute, limit, exact };
        let norms = backend.tensor(&master.shape.dims()[..1], master.dtype, "norms of rows")?;
        found.push(Projected { name: spec.name.clone(), rows, norm, norms });
    }
    if found.is_empty() {
        let what = format!("project: {pattern:?} matches no weight with rows, such as fc.weight");
        return Err(Error::Config(what));
    }
    Ok(found)
}
