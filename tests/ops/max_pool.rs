//! `max_pool`.

use glmc_engine::ops::max_pool::{Config, max_pool};

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::suite::{Case, Suite};

/// Pools the same x twice where there is a `dy2`.
fn pool(name: &str, config: Config, x: Array, dy: Array, dy2: Option<Array>) -> Case {
    let mut inputs = vec![("x", x), ("dy", dy.clone())];
    inputs.extend(dy2.clone().map(|dy2| ("dy2", dy2)));
    let case = Case::new("max_pool", name, inputs, move |rig, i| {
        let x = rig.leaf("x", &i["x"], rig.compute());
        for (y, dy) in [("y", "dy"), ("y2", "dy2")] {
            let Some(dy) = i.get(dy) else { continue };
            let pooled = max_pool(&mut rig.tape, rig.backend, x, config)?;
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

/// y and dx by the definition: the first of the largest values, row by row.
fn by_hand(config: Config, x: &Array, dy: &Array) -> (Array, Array) {
    let ([n, h, w, c], [_, rows, columns, _]) = (x.four(), dy.four());
    let (mut y, mut dx) = (Array::zeros(&dy.shape), Array::zeros(&x.shape));
    for at in 0..n * rows * columns * c {
        let (channel, q, p, image) = (at % c, at / c % columns, at / (c * columns) % rows, at / (c * columns * rows));
        let mut best: Option<usize> = None;
        for i in 0..config.kernel {
            for j in 0..config.kernel {
                let (row, column) = (p * config.stride + i, q * config.stride + j);
                let (Some(row), Some(column)) = (row.checked_sub(config.padding), column.checked_sub(config.padding))
                else {
                    continue;
                };
                if row < h && column < w {
                    let from = ((image * h + row) * w + column) * c + channel;
                    best = if best.is_none_or(|best| x.data[from] > x.data[best]) { Some(from) } else { best };
                }
            }
        }
        let best = best.expect("a window has a pixel");
        y.data[at] = x.data[best];
        dx.data[best] += dy.data[at];
    }
    (y, dx)
}

pub fn add(suite: &mut Suite) {
    for f in fixtures::of("max_pool") {
        let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|name| f.integer(name));
        let case = pool(&f.name, Config { kernel, stride, padding }, f.get("x"), f.get("dy"), None);
        let wanted = vec![("y", f.get("y")), ("dx", f.get("dx"))];
        match f.attributes["exact"].as_bool() {
            Some(true) => suite.exact(case, wanted),
            _ => suite.close("pytorch", case, wanted),
        }
    }
    let mut random = Random::new(8);
    let imagenet = Config::IMAGENET;
    let (x, dy) = (random.integers(&[2, 5, 8, 16], 3), random.integers(&[2, 3, 4, 16], 4));
    let (y, dx) = by_hand(imagenet, &x, &dy);
    suite.exact(pool("integers", imagenet, x.clone(), dy, None), vec![("y", y.clone()), ("dx", dx)]);
    // Without a gradient no taps are kept.
    let evaluated = Case::new("max_pool", "evaluated", [("x", x)], move |rig, i| {
        let x = rig.constant(&i["x"], rig.compute())?;
        let pooled = max_pool(&mut rig.tape, rig.backend, x, imagenet)?;
        rig.output("y", pooled);
        Ok(())
    });
    suite.exact(evaluated, vec![("y", y)]);
    for (shape, kernel, stride, padding) in [
        ([3, 7, 9, 33], 3, 2, 1),
        ([2, 16, 16, 64], 3, 2, 1),
        ([1, 9, 4, 260], 2, 2, 0),
        ([2, 8, 9, 24], 4, 1, 2),
        ([1, 20, 18, 3], 16, 5, 8),
        ([1, 3, 3, 8], 1, 2, 0),
    ] {
        let config = Config { kernel, stride, padding };
        let side = |extent| config.windows(extent).expect("a window");
        let of_y = [shape[0], side(shape[1]), side(shape[2]), shape[3]];
        let [x, dy, dy2] = [shape, of_y, of_y].map(|s| random.normal(&s));
        suite.oracle(pool(&format!("{shape:?} {kernel} {stride} {padding}"), config, x, dy, Some(dy2)));
    }
    let [x, dy, dy2] = [vec![2, 4, 5, 3], vec![2, 2, 3, 3], vec![2, 2, 3, 3]].map(|s| random.normal(&s));
    suite.gradient(pool("twice", imagenet, x, dy, Some(dy2)));
}
