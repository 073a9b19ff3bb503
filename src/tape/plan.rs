//! From a recording to a program: which value lives when, where it lies, which gradients add up.

use std::sync::Arc;

use super::outline::outline;
use super::rotation::Place;
use super::{Cost, Op, Run, Storage, Tape, Value, Var};
use crate::error::Result;
use crate::memory::Outline;
use crate::ops::Backend;
use crate::tensor::{BufferId, DType, Grad, Shape, Tensor};

/// Every value starts at a multiple of this, so that vector and asynchronous copies of any width are aligned.
const ALIGNMENT: usize = 256;

/// The buffer of what has no place yet.
const UNPLACED: BufferId = BufferId(u32::MAX);

/// The two passes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Values, from inputs to losses.
    Forward,
    /// Gradients, from losses to parameters.
    Backward,
}

/// A planned tape: ready to run, as often as wanted, without allocating.
pub struct Program {
    ops: Vec<Box<dyn Op>>,
    values: Vec<Tensor>,
    grads: Vec<Option<Tensor>>,
    /// Per op, the inputs whose gradient it writes.
    targets: Vec<Vec<(Var, Grad)>>,
    /// Per op, scratch of the forward and of the backward.
    scratch: Vec<[Option<Tensor>; 2]>,
    /// Ops whose backward has something to do.
    differentiated: Vec<bool>,
    /// The arena, if it is this program's own.
    arena: Option<BufferId>,
    arena_bytes: usize,
    /// Where the program lies, and for a device that watches it, what lies where.
    placed: BufferId,
    outline: Option<Arc<Outline>>,
}

/// Memory for the values of a program.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    /// The allocation.
    pub buffer: BufferId,
    /// Its size.
    pub bytes: usize,
}

/// A piece of the arena: `bytes` that must stay untouched from time `first` to time `last`, both included.
pub(super) struct Piece {
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
    pub offset: usize,
}

impl Piece {
    fn unused(bytes: usize) -> Piece {
        Piece { bytes, first: usize::MAX, last: 0, offset: 0 }
    }

    fn touch(&mut self, time: usize) {
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }

    /// Bytes that no other piece may have while this one is alive.
    fn room(&self, padding: usize) -> usize {
        self.bytes.next_multiple_of(ALIGNMENT) + padding
    }
}

/// Chooses offsets: largest pieces first, each at the lowest offset where no piece alive at the same time lies.
/// Behind each `padding` bytes (a multiple of [`ALIGNMENT`]) stay free. Returns the arena's size.
fn pack(pieces: &mut [Piece], padding: usize) -> usize {
    let mut order: Vec<usize> = (0..pieces.len()).filter(|&i| pieces[i].first != usize::MAX).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(pieces[i].room(0)), i));
    let mut placed: Vec<usize> = Vec::new(); // by offset
    let mut size = 0;
    for i in order {
        let (mut offset, room) = (0, pieces[i].room(padding));
        for &j in &placed {
            let other = &pieces[j];
            let together = pieces[i].first <= other.last && other.first <= pieces[i].last;
            if together && other.offset < offset + room {
                offset = offset.max(other.offset + other.room(padding));
            }
        }
        pieces[i].offset = offset;
        size = size.max(offset + room);
        let at = placed.partition_point(|&j| pieces[j].offset <= offset);
        placed.insert(at, i);
    }
    size
}

impl Tape {
    /// Plans the tape for a forward pass and, if `train`, a backward pass; allocates the arena on `backend`.
    ///
    /// # Errors
    /// When the backend cannot give that much memory.
    pub fn plan(self, backend: &dyn Backend, train: bool) -> Result<Program> {
        self.plan_in(backend, train, None)
    }

    /// As [`Tape::plan`], but reuses `arena` if it is large enough; its owner must never run at the same time.
    ///
    /// # Errors
    /// When it is not, and the backend has not that much memory.
    pub fn plan_in(self, backend: &dyn Backend, train: bool, arena: Option<Arena>) -> Result<Program> {
        let mut program = self.layout(backend, train);
        match arena.filter(|arena| arena.bytes >= program.arena_bytes) {
            Some(arena) => program.place(arena.buffer),
            None if program.arena_bytes > 0 => {
                let arena = backend.alloc(program.arena_bytes, "activations")?;
                program.place(arena);
                program.arena = Some(arena);
            }
            None => {}
        }
        Ok(program)
    }

    /// The plan without its memory: for [`Program::place`].
    pub fn layout(self, backend: &dyn Backend, train: bool) -> Program {
        let Tape { values, ops } = &self;
        let n = ops.len();
        let root = |v: Var| self.root(v).index();
        let differentiated: Vec<bool> =
            ops.iter().map(|op| train && op.differentiates().iter().any(|v| values[v.index()].requires_grad)).collect();

        // Pieces: one per value, one per gradient, two scratches per op; times: op i runs forward at i, backward at 2n - 1 - i.
        let bytes = |v: &Value| v.shape.elements() * v.dtype.bytes();
        let mut value_pieces: Vec<Piece> = values.iter().map(|v| Piece::unused(bytes(v))).collect();
        let mut grad_pieces: Vec<Piece> = values.iter().map(|v| Piece::unused(bytes(v))).collect();
        let mut scratch_pieces: Vec<Piece> = Vec::new();
        let mut scratch_at = vec![[None, None]; n];
        let end = 2 * n;
        for (i, op) in ops.iter().enumerate() {
            let backward = end - 1 - i;
            for v in op.reads().into_iter().chain(op.writes()) {
                value_pieces[root(v)].touch(i);
            }
            let scratch = op.scratch(backend);
            let mut add_scratch = |bytes: usize, time: usize, pass: usize| {
                if bytes > 0 {
                    let mut piece = Piece::unused(bytes);
                    piece.touch(time);
                    scratch_at[i][pass] = Some((scratch_pieces.len(), bytes));
                    scratch_pieces.push(piece);
                }
            };
            add_scratch(scratch.forward, i, 0);
            if !differentiated[i] {
                continue;
            }
            let writes_at = if op.is_loss() { i } else { backward };
            if !op.is_loss() {
                add_scratch(scratch.backward, backward, 1);
                for v in op.saves() {
                    value_pieces[root(v)].touch(backward);
                }
                for v in op.grads_read() {
                    grad_pieces[v.index()].touch(backward);
                }
            }
            for v in op.differentiates() {
                if values[v.index()].requires_grad {
                    grad_pieces[v.index()].touch(writes_at);
                }
            }
        }
        for (i, value) in values.iter().enumerate() {
            if value.keep {
                value_pieces[i].touch(0);
                value_pieces[i].touch(end);
                if value.requires_grad && train {
                    grad_pieces[i].touch(0);
                    grad_pieces[i].touch(end);
                }
            }
            if !matches!(value.storage, Storage::Planned) {
                value_pieces[i] = Piece::unused(0);
            }
            if value.parameter_grad.is_some() {
                grad_pieces[i] = Piece::unused(0);
            }
        }
        let counts = (value_pieces.len(), grad_pieces.len());
        let mut pieces: Vec<Piece> = value_pieces;
        pieces.extend(grad_pieces);
        pieces.extend(scratch_pieces);
        let padding = backend.padding();
        let arena_bytes = pack(&mut pieces, padding);
        let outline = (padding > 0 && arena_bytes > 0).then(|| outline(ops, values.len(), &scratch_at, &pieces));

        let in_arena = |offset: usize, shape: Shape, dtype: DType| Tensor { buffer: UNPLACED, offset, shape, dtype };
        let placed: Vec<Tensor> = (0..values.len())
            .map(|i| {
                let at = root(Var(i as u32));
                match values[at].storage {
                    Storage::External(tensor) => tensor,
                    _ => in_arena(pieces[at].offset, values[at].shape, values[at].dtype),
                }
            })
            .collect();
        let grads: Vec<Option<Tensor>> = (0..values.len())
            .map(|i| {
                let piece = &pieces[counts.0 + i];
                values[i].parameter_grad.filter(|_| train).or_else(|| {
                    (piece.first != usize::MAX).then(|| in_arena(piece.offset, values[i].shape, values[i].dtype))
                })
            })
            .collect();

        // The first op to write a gradient in the order of execution writes, later ones add.
        let mut written = vec![false; values.len()];
        let mut targets: Vec<Vec<(Var, Grad)>> = vec![Vec::new(); n];
        let losses = (0..n).filter(|&i| ops[i].is_loss());
        let others = (0..n).rev().filter(|&i| !ops[i].is_loss());
        for i in losses.chain(others).filter(|&i| differentiated[i]) {
            for v in ops[i].differentiates() {
                if let (true, Some(tensor)) = (values[v.index()].requires_grad, grads[v.index()]) {
                    targets[i].push((v, Grad { tensor, accumulate: written[v.index()] }));
                    written[v.index()] = true;
                }
            }
        }
        let scratch = scratch_at
            .iter()
            .map(|passes| {
                passes.map(|s| {
                    s.map(|(piece, bytes)| {
                        in_arena(pieces[counts.0 + counts.1 + piece].offset, Shape::new(&[bytes]), DType::U8)
                    })
                })
            })
            .collect();
        Program {
            ops: self.ops,
            values: placed,
            grads,
            targets,
            scratch,
            differentiated,
            arena: None,
            arena_bytes,
            placed: UNPLACED,
            outline,
        }
    }
}

impl Program {
    /// Puts an unplaced plan (see [`Tape::layout`]) into memory that the caller owns: at least
    /// [`Program::arena_bytes`], shared only with programs that do not run at the same time.
    pub fn place(&mut self, arena: BufferId) {
        self.placed = arena;
        let fix = |tensor: &mut Tensor| {
            if tensor.buffer == UNPLACED {
                tensor.buffer = arena;
            }
        };
        self.values.iter_mut().for_each(fix);
        self.grads.iter_mut().flatten().for_each(fix);
        self.scratch.iter_mut().flatten().flatten().for_each(fix);
        self.targets.iter_mut().flatten().for_each(|(_, grad)| fix(&mut grad.tensor));
    }

    /// Size of the arena: all values, gradients and scratch of a step.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Where a value lies. Meaningful outside a step only for values that were kept or are external.
    pub fn value(&self, var: Var) -> Tensor {
        self.values[var.index()]
    }

    /// Where a gradient lies, if the value has one.
    pub fn grad(&self, var: Var) -> Option<Tensor> {
        self.grads[var.index()]
    }

    pub(super) fn grad_target(&self, node: usize, var: Var) -> Option<Grad> {
        self.targets[node].iter().find(|(v, _)| *v == var).map(|(_, grad)| *grad)
    }

    /// Runs the forward pass, and with it the losses' gradients.
    pub fn forward(&self, backend: &dyn Backend) -> Result<()> {
        (0..self.ops.len()).try_for_each(|node| self.run_op(backend, node, Pass::Forward))
    }

    /// Runs the backward pass.
    pub fn backward(&self, backend: &dyn Backend) -> Result<()> {
        (0..self.ops.len()).rev().try_for_each(|node| self.run_op(backend, node, Pass::Backward))
    }

    fn runs(&self, node: usize, pass: Pass) -> bool {
        pass == Pass::Forward || (self.differentiated[node] && !self.ops[node].is_loss())
    }

    /// The passes of a whole step by their ops' numbers, in the order in which they run.
    pub fn passes(&self) -> Vec<(usize, Pass)> {
        let forward = (0..self.ops.len()).map(|node| (node, Pass::Forward));
        let backward = (0..self.ops.len()).rev().map(|node| (node, Pass::Backward));
        forward.chain(backward).filter(|&(node, pass)| self.runs(node, pass)).collect()
    }

    /// The op of that number.
    pub fn op(&self, node: usize) -> &dyn Op {
        self.ops[node].as_ref()
    }

    /// What a pass of an op writes or adds to, in an order that is the same on every backend. Running statistics and cursors,
    /// which ops update beside the tape, are not in it.
    pub fn written(&self, node: usize, pass: Pass) -> Vec<Tensor> {
        let op = &self.ops[node];
        let values = if pass == Pass::Forward { op.writes() } else { Vec::new() };
        let grads = if pass == Pass::Backward || op.is_loss() { &self.targets[node][..] } else { &[] };
        let values = values.into_iter().map(|var| self.value(var));
        values.chain(grads.iter().map(|(_, grad)| grad.tensor)).collect()
    }

    /// Runs one pass of one op; nothing where it has none.
    pub fn run_op(&self, backend: &dyn Backend, node: usize, pass: Pass) -> Result<()> {
        self.run_op_at(backend, node, pass, None)
    }

    /// As [`Program::run_op`], on operands in another place.
    pub(super) fn run_op_at(
        &self,
        backend: &dyn Backend,
        node: usize,
        pass: Pass,
        place: Option<&Place>,
    ) -> Result<()> {
        if !self.runs(node, pass) {
            return Ok(());
        }
        let run = Run { backend, program: self, node, scratch: self.scratch[node][pass as usize], place };
        let work = || match pass {
            Pass::Forward => self.ops[node].forward(&run),
            Pass::Backward => self.ops[node].backward(&run),
        };
        let Some(outline) = self.outline.as_ref().filter(|_| place.is_none()) else { return work() };
        let time = if pass == Pass::Forward { node } else { 2 * self.ops.len() - 1 - node };
        backend.outline(self.placed, Some((outline, time)))?;
        let outcome = work();
        // The optimiser, and whoever shares the arena, are not in this plan.
        backend.outline(self.placed, None)?;
        outcome
    }

    /// Every tensor that a pass of an op touches, some of them more than once.
    pub(super) fn operands(&self, node: usize, pass: Pass) -> Vec<Tensor> {
        let op = &self.ops[node];
        let (values, grads) = match pass {
            Pass::Forward => ([op.reads(), op.writes()].concat(), Vec::new()),
            Pass::Backward => (op.saves(), op.grads_read()),
        };
        let grads = grads.into_iter().filter_map(|var| self.grad(var)).chain(self.written(node, pass));
        values.into_iter().map(|var| self.value(var)).chain(grads).chain(self.scratch[node][pass as usize]).collect()
    }

    /// What a pass of an op costs at least. The tensors are those that it declares: [`Op::reads`] and [`Op::writes`]
    /// forward, [`Op::saves`] and [`Op::grads_read`] backward, and the gradients that it writes.
    pub(super) fn cost(&self, node: usize, pass: Pass) -> Cost {
        let op = &self.ops[node];
        let mut seen: Vec<Tensor> = Vec::new();
        let mut bytes = 0;
        let mut count = |tensor: Tensor, touched: Option<usize>| {
            if !seen.contains(&tensor) {
                seen.push(tensor);
                bytes += touched.unwrap_or(tensor.bytes());
            }
        };
        let values = if pass == Pass::Forward { [op.reads(), op.writes()].concat() } else { op.saves() };
        values.into_iter().for_each(|var| count(self.value(var), op.touches(var)));
        if pass == Pass::Backward {
            op.grads_read().into_iter().filter_map(|var| self.grad(var)).for_each(|grad| count(grad, None));
        }
        let mut wanted = Vec::new();
        if pass == Pass::Backward || op.is_loss() {
            for (var, grad) in &self.targets[node] {
                wanted.push(*var);
                let whole = grad.tensor.bytes();
                bytes += if grad.accumulate { 2 * op.touches(*var).unwrap_or(whole) } else { whole };
            }
        }
        Cost { flops: op.flops(pass, &wanted), bytes: bytes as f64 }
    }

    /// Gives the arena back, if it is this program's own.
    pub fn release(self, backend: &dyn Backend) {
        if let Some(arena) = self.arena {
            backend.free(arena);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: usize, first: usize, last: usize) -> Piece {
        Piece { bytes, first, last, offset: 0 }
    }

    #[test]
    fn pieces_alive_together_do_not_overlap() {
        let mut pieces: Vec<Piece> =
            (0..60).map(|i| piece(250 * (1 + i * 7 % 5), i * 13 % 40, i * 13 % 40 + i * 5 % 11)).collect();
        let (sum, size) = (pieces.iter().map(|p| p.room(0)).sum::<usize>(), pack(&mut pieces, 0));
        apart(&pieces, 0, size);
        assert!(size < sum, "pieces that never meet share memory");
        let padded = pack(&mut pieces, 1024);
        apart(&pieces, 1024, padded);
        assert!(padded > size);
    }

    fn apart(pieces: &[Piece], padding: usize, size: usize) {
        for (i, a) in pieces.iter().enumerate() {
            assert!(a.offset.is_multiple_of(ALIGNMENT) && a.offset + a.room(padding) <= size);
            for b in &pieces[i + 1..] {
                let together = a.first <= b.last && b.first <= a.last;
                let apart = a.offset + a.bytes + padding <= b.offset || b.offset + b.bytes + padding <= a.offset;
                assert!(!together || apart);
            }
        }
    }

    #[test]
    fn costs_count_each_tensor_once_and_what_is_wanted() {
        use crate::backend::native::Native;
        use crate::memory::Memory;
        use crate::ops::augment_mix::{Augmentation, Mixing, augment_mix};
        use crate::ops::conv2d::{Config, conv2d};
        use crate::ops::load_step::{STEP_WORDS, load_step, row_words};
        use crate::tensor::Precision;

        let native = Native::new(Precision::F32, 1).unwrap();
        let mut tape = Tape::new();
        let tensor = |shape: &[usize], dtype: DType| {
            let bytes = shape.iter().product::<usize>() * dtype.bytes();
            Tensor::at_start(native.alloc(bytes, "test").unwrap(), shape, dtype)
        };
        let (table, cursor) = (tensor(&[9, row_words(2)], DType::I32), tensor(&[1], DType::I32));
        let [table, cursor] = [table, cursor].map(|t| tape.external(t));
        let vars = load_step(&mut tape, table, cursor, 2).unwrap();
        let pixels = tape.external(tensor(&[50, 8, 8, 3], DType::U8));
        let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 1, flip: true };
        let images = augment_mix(&mut tape, &native, pixels, vars, Mixing::GLMC, augmentation).unwrap();
        let mut weight = |shape: &[usize]| {
            let [value, grad] = [(); 2].map(|()| tensor(shape, DType::F32));
            tape.parameter(value, grad)
        };
        let (first, second) = (weight(&[5, 3, 3, 3]), weight(&[5, 3, 3, 5]));
        let conv = Config { stride: 1, padding: 1, views: 2, groups: 1, sums: false };
        let (y, _) = conv2d(&mut tape, &native, images, first, conv).unwrap();
        conv2d(&mut tape, &native, y, second, conv).unwrap();
        let program = tape.layout(&native, true);
        let cost = |node, pass| {
            let Cost { flops, bytes } = program.cost(node, pass);
            (flops as usize, bytes as usize)
        };
        let image = 8 * 8 * 3;
        // One row of the table and the cursor; the row's parts.
        assert_eq!(cost(0, Pass::Forward), (0, 4 * (2 * row_words(2) + 1)));
        // Two originals, two partners, their indices, the scalars; two mixtures of both.
        assert_eq!(cost(1, Pass::Forward), (9 * 2 * image, 4 * image + 4 * (4 + STEP_WORDS) + 4 * 4 * image));
        let outputs = 4 * 8 * 8 * 5;
        let (stem, later) = (2 * outputs * 27, 2 * outputs * 45);
        assert_eq!(cost(2, Pass::Forward), (stem, 4 * (4 * image + 5 * 27 + outputs)));
        // Images want no gradient: one product. Read x, weight, dy; written dweight.
        assert_eq!(cost(2, Pass::Backward), (stem, 4 * (4 * image + 2 * 5 * 27 + outputs)));
        // Read x, weight, dy; written dx, dweight.
        assert_eq!(cost(3, Pass::Backward), (2 * later, 4 * (3 * outputs + 2 * 5 * 45)));
    }
}
