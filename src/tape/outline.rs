//! The names and lives of a program's tensors, for a device that watches its arena.

use std::sync::Arc;

use super::plan::Piece;
use super::{Op, Var};
use crate::memory::{Outline, Part};

/// The outline of an arena that holds, in this order, the pieces of `values` values, of as many gradients, and of the
/// scratch in `scratch`: for each op its passes' pieces, counted from the first.
pub(super) fn outline(
    ops: &[Box<dyn Op>],
    values: usize,
    scratch: &[[Option<(usize, usize)>; 2]],
    pieces: &[Piece],
) -> Arc<Outline> {
    let title = |index: usize| {
        let (op, label) = (&ops[index], ops[index].label());
        let label = if label.is_empty() { label } else { format!(" ({label})") };
        format!("{} {index}{label}", op.name())
    };
    // What no op writes is filled from outside.
    let mut names: Vec<String> = (0..values).map(|var| format!("input {var}")).collect();
    for (index, op) in ops.iter().enumerate() {
        for (number, Var(var)) in op.writes().into_iter().enumerate() {
            let number = if number == 0 { String::new() } else { format!(" {}", number + 1) };
            names[var as usize] = format!("output{number} of {}", title(index));
        }
    }
    let gradients: Vec<String> = names.iter().map(|name| format!("gradient of {name}")).collect();
    names.extend(gradients);
    names.resize(pieces.len(), String::new());
    for (index, passes) in scratch.iter().enumerate() {
        for (pass, piece) in ["forward", "backward"].into_iter().zip(passes) {
            if let Some((piece, _)) = piece {
                names[2 * values + piece] = format!("scratch of {}, {pass}", title(index));
            }
        }
    }
    let used = names.into_iter().zip(pieces).filter(|(_, piece)| piece.first != usize::MAX);
    let part = |(name, piece): (String, &Piece)| Part {
        name,
        offset: piece.offset,
        bytes: piece.bytes,
        alive: [piece.first, piece.last],
    };
    Arc::new(Outline { parts: used.map(part).collect() })
}
