//! `conv2d`: against plain loops, PyTorch, differences, and the oracle on shapes of all kinds.

use glmc_engine::ops::conv2d::{Config, Geometry, conv2d};

use crate::common::array::{Array, Random};
use crate::common::suite::{Case, Suite};
use crate::common::{convolution, fixtures};

/// (views, parts, 2, filters) -> (views, 2, filters): how many parts there are is the backend's choice.
fn whole_sums(sums: &Array) -> Array {
    let [views, parts, two, filters] = sums.four();
    let mut whole = Array::zeros(&[views, two, filters]);
    for (i, v) in sums.data.iter().enumerate() {
        whole.data[i / (parts * two * filters) * two * filters + i % (two * filters)] += v;
    }
    whole
}

/// One convolution; with inputs `w2` and `dy2` a second one of the same x, whose gradient adds to the first's.
fn case(name: &str, g: &Geometry, inputs: Vec<(&'static str, Array)>) -> Case {
    let config = Config { stride: g.stride, padding: g.padding, views: g.views, groups: g.groups, sums: true };
    let dy = inputs.iter().find(|(name, _)| *name == "dy").expect("a gradient").1.clone();
    let dy2 = inputs.iter().find(|(name, _)| *name == "dy2").map(|(_, dy)| dy.clone());
    let case = Case::new("conv2d", name, inputs, move |rig, i| {
        let x = rig.leaf("x", &i["x"], rig.compute());
        let w = rig.parameter("w", &i["w"], rig.compute())?;
        let (y, sums) = conv2d(&mut rig.tape, rig.backend, x, w, config)?;
        rig.output("y", y);
        rig.output_through("sums", sums.expect("asked for"), whole_sums);
        rig.seed(y, &i["dy"]);
        if let Some(w2) = i.get("w2") {
            let w2 = rig.parameter("w2", w2, rig.compute())?;
            let (y2, _) = conv2d(&mut rig.tape, rig.backend, x, w2, Config { sums: false, ..config })?;
            rig.output("y2", y2);
            rig.seed(y2, &i["dy2"]);
        }
        Ok(())
    })
    .objective("y", dy);
    match dy2 {
        Some(dy2) => case.objective("y2", dy2),
        None => case,
    }
}

/// y, sums, dx and dw by plain loops.
fn naive(g: &Geometry, x: &Array, w: &Array, dy: &Array) -> Vec<(&'static str, Array)> {
    let [y, dx, dw] = convolution::naive(g, &x.data, &w.data, &dy.data);
    let (y, dx, dw) = (Array::new(&g.output(), y), Array::new(&g.input(), dx), Array::new(&g.weight(), dw));
    let mut sums = Array::zeros(&[g.views, 2, g.filters]);
    let view = y.data.len() / g.views;
    for (i, v) in y.data.iter().enumerate() {
        let at = i / view * 2 * g.filters + i % g.filters;
        sums.data[at] += v;
        sums.data[at + g.filters] += v * v;
    }
    vec![("y", y), ("sums", sums), ("dx", dx), ("dw", dw)]
}

fn geometry([batch, height, width]: [usize; 3], channels: [usize; 2], kernel: [usize; 3], views: usize) -> Geometry {
    let ([channels, filters], [kernel, stride, padding]) = (channels, kernel);
    Geometry { batch, height, width, channels, filters, kernel, stride, padding, views, groups: 1 }
}

fn grouped(groups: usize, g: Geometry) -> Geometry {
    Geometry { groups, ..g }
}

fn label(g: &Geometry) -> String {
    format!(
        "{}x{}x{}x{}_to_{}_k{}_s{}_p{}_v{}_g{}",
        g.batch, g.height, g.width, g.channels, g.filters, g.kernel, g.stride, g.padding, g.views, g.groups
    )
}

/// Shapes that networks have, in small, and shapes that none has.
fn geometries() -> Vec<Geometry> {
    let mut all = vec![
        geometry([2, 8, 8], [3, 16], [3, 1, 1], 2),
        geometry([4, 8, 8], [16, 16], [3, 1, 1], 2),
        geometry([2, 8, 8], [16, 32], [3, 2, 1], 2),
        geometry([2, 4, 4], [64, 64], [3, 1, 1], 1),
        geometry([2, 4, 4], [64, 128], [1, 2, 0], 2),
        geometry([1, 9, 9], [3, 8], [7, 2, 3], 1),
        geometry([1, 1, 1], [1, 1], [1, 1, 0], 1),
        geometry([1, 1, 1], [5, 3], [3, 1, 1], 1),
        geometry([2, 2, 9], [2, 33], [3, 2, 1], 2),
        geometry([1, 5, 5], [40, 1], [5, 3, 2], 1),
        geometry([3, 7, 4], [1, 7], [3, 1, 0], 3),
        geometry([1, 33, 17], [4, 8], [3, 1, 1], 1),
    ];
    let mut random = Random::new(1);
    while all.len() < 28 {
        let views = 1 + random.below(2);
        let images = [views * (1 + random.below(3)), 1 + random.below(11), 1 + random.below(11)];
        let channels = [1 + random.below(40), 1 + random.below(40)];
        let kernel = [1, 2, 3, 5][random.below(4)];
        let kernel = [kernel, 1 + random.below(3), random.below(kernel)];
        if images[1].min(images[2]) + 2 * kernel[2] >= kernel[0] {
            all.push(geometry(images, channels, kernel, views));
        }
    }
    all.extend([
        grouped(4, geometry([4, 8, 8], [16, 16], [3, 1, 1], 2)),
        grouped(2, geometry([2, 7, 6], [32, 32], [3, 2, 1], 2)),
        grouped(2, geometry([1, 5, 6], [64, 64], [3, 1, 1], 1)),
        geometry([2, 9, 11], [3, 16], [7, 2, 3], 2),
    ]);
    while all.len() < 39 {
        let groups = 1 + random.below(7);
        let images = [1 + random.below(3), 1 + random.below(9), 1 + random.below(9)];
        let channels = [0; 2].map(|_| groups * (1 + random.below(9)));
        let kernel = [1, 2, 3, 5][random.below(4)];
        let kernel = [kernel, 1 + random.below(2), random.below(kernel)];
        if images[1].min(images[2]) + 2 * kernel[2] >= kernel[0] {
            all.push(grouped(groups, geometry(images, channels, kernel, 1)));
        }
    }
    all
}

fn random_inputs(g: &Geometry, random: &mut Random, twice: bool) -> Vec<(&'static str, Array)> {
    let mut inputs =
        vec![("x", random.normal(&g.input())), ("w", random.normal(&g.weight())), ("dy", random.normal(&g.output()))];
    if twice {
        inputs.extend([("w2", random.normal(&g.weight())), ("dy2", random.normal(&g.output()))]);
    }
    inputs
}

pub fn add(suite: &mut Suite) {
    let mut random = Random::new(2);
    for g in [
        geometry([4, 5, 7], [8, 6], [3, 1, 1], 2),
        geometry([2, 7, 6], [5, 9], [3, 2, 1], 1),
        geometry([2, 4, 4], [16, 16], [3, 1, 1], 2),
        geometry([1, 6, 5], [7, 3], [1, 2, 0], 1),
        geometry([1, 9, 8], [3, 4], [5, 2, 2], 1),
        grouped(3, geometry([2, 5, 6], [6, 9], [3, 2, 1], 2)),
        grouped(4, geometry([2, 4, 4], [16, 16], [3, 1, 1], 1)),
    ] {
        // Small enough that every sum is exact even in bf16.
        let [x, w, dy] = [g.input(), g.weight(), g.output()].map(|shape| random.integers(&shape, 1));
        let wanted = naive(&g, &x, &w, &dy);
        suite.exact(case(&label(&g), &g, vec![("x", x), ("w", w), ("dy", dy)]), wanted);
    }
    for f in fixtures::of("conv2d") {
        let [x, dy, w] = [f.get("x"), f.get("dy"), f.get("w").permuted([0, 2, 3, 1])];
        let ([batch, height, width, channels], [filters, kernel, ..]) = (x.four(), w.four());
        let kernel = [kernel, f.integer("stride"), f.integer("padding")];
        let groups = f.attributes.get("groups").map_or(1, |_| f.integer("groups"));
        let g = grouped(groups, geometry([batch, height, width], [channels, filters], kernel, 1));
        let wanted = vec![("y", f.get("y")), ("dx", f.get("dx")), ("dw", f.get("dw").permuted([0, 2, 3, 1]))];
        suite.close("pytorch", case(&f.name, &g, vec![("x", x), ("w", w), ("dy", dy)]), wanted);
    }
    for (i, g) in geometries().into_iter().enumerate() {
        suite.oracle(case(&label(&g), &g, random_inputs(&g, &mut random, i % 2 == 0)));
    }
    for (g, twice) in [
        (geometry([2, 4, 3], [2, 3], [3, 1, 1], 2), false),
        (geometry([1, 5, 4], [3, 2], [3, 2, 1], 1), true),
        (geometry([2, 3, 3], [2, 2], [1, 2, 0], 1), true),
        (grouped(2, geometry([2, 4, 3], [4, 2], [3, 1, 1], 2)), true),
        (grouped(3, geometry([1, 5, 4], [3, 6], [3, 2, 1], 1)), false),
    ] {
        suite.gradient(case(&label(&g), &g, random_inputs(&g, &mut random, twice)));
    }
}
