//! Exact equality with loops over the definition, on small integers, whose sums single precision holds exactly.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::cpu::Level;
use super::{Convolve, correlate, indirect, indirect_grad, patches, weight_grad, widened, winograd, winograd_grad};
use crate::ops::conv2d::Geometry;

fn integers(rng: &mut StdRng, elements: usize) -> Vec<f32> {
    (0..elements).map(|_| rng.random_range(-2i32..=2) as f32).collect()
}

/// Calls `at(output index, weight index, input index)` for every product of the convolution.
fn each_product(g: &Geometry, mut at: impl FnMut(usize, usize, usize)) {
    let [batch, rows, cols, filters] = g.output();
    for n in 0..batch {
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            for (i, j) in (0..g.kernel).flat_map(|i| (0..g.kernel).map(move |j| (i, j))) {
                let (y, x) = (row * g.stride + i, col * g.stride + j);
                let Some((y, x)) = y.checked_sub(g.padding).zip(x.checked_sub(g.padding)) else { continue };
                if y >= g.height || x >= g.width {
                    continue;
                }
                let deep = g.group_channels();
                for (f, c) in (0..filters).flat_map(|f| (0..deep).map(move |c| (f, c))) {
                    at(
                        ((n * rows + row) * cols + col) * filters + f,
                        ((f * g.kernel + i) * g.kernel + j) * deep + c,
                        ((n * g.height + y) * g.width + x) * g.channels + f / g.group_filters() * deep + c,
                    );
                }
            }
        }
    }
}

type Forward = fn(Level, &Geometry, &[f32], &[f32], &mut [f32], Option<&mut [f32]>);
type InputGrad = fn(Level, &Geometry, &[f32], &[f32], &mut [f32], bool);
type WeightGrad = fn(Level, &Geometry, &[f32], &[f32], &mut [f32], &mut [f32]);

/// One of the ways to convolve.
struct Way {
    name: &'static str,
    /// Whether it can take that shape.
    takes: fn(&Geometry) -> bool,
    forward: Forward,
    input_grad: InputGrad,
    weight_grad: WeightGrad,
    scratch: fn(&Geometry) -> usize,
}

const WAYS: [Way; 3] = [
    Way {
        name: "direct",
        takes: |_| true,
        forward: correlate::forward,
        input_grad: correlate::input_grad,
        weight_grad: weight_grad::weight_grad,
        scratch: weight_grad::scratch_floats,
    },
    Way {
        name: "Winograd",
        takes: winograd::applies,
        forward: winograd::forward,
        input_grad: winograd::input_grad,
        weight_grad: winograd_grad::weight_grad,
        scratch: winograd_grad::scratch_floats,
    },
    // Narrow layers as well, which it is not chosen for.
    Way {
        name: "indirect",
        takes: |g| g.groups == 1,
        forward: indirect::forward,
        input_grad: indirect::input_grad,
        weight_grad: indirect_grad::weight_grad,
        scratch: indirect_grad::scratch_floats,
    },
];

fn check(g: &Geometry, seed: u64, levels: &[Level]) {
    let mut rng = StdRng::seed_from_u64(seed);
    let size = |extents: [usize; 4]| extents.iter().product::<usize>();
    let (x, w) = (integers(&mut rng, size(g.input())), integers(&mut rng, size(g.weight())));
    let (dy, before) = (integers(&mut rng, size(g.output())), integers(&mut rng, size(g.input())));
    let (mut y, mut dx, mut dw) = (vec![0.0f32; dy.len()], vec![0.0f32; x.len()], vec![0.0f32; w.len()]);
    each_product(g, |o, k, i| {
        y[o] += w[k] * x[i];
        dx[i] += w[k] * dy[o];
        dw[k] += dy[o] * x[i];
    });
    let mut sums = vec![0.0f32; g.batch * 2 * g.filters];
    for (i, y) in y.iter().enumerate() {
        let (image, filter) = (i / (g.out_height() * g.out_width() * g.filters), i % g.filters);
        sums[image * 2 * g.filters + filter] += y;
        sums[image * 2 * g.filters + g.filters + filter] += y * y;
    }
    let added: Vec<f32> = dx.iter().zip(&before).map(|(a, b)| a + b).collect();
    let nan = |like: &[f32]| vec![f32::NAN; like.len()];
    for &level in levels {
        for way in WAYS.iter().filter(|way| (way.takes)(g)) {
            let how = format!("{level:?}, {}, {g:?}", way.name);
            let (mut out, mut out_sums) = (nan(&y), nan(&sums));
            (way.forward)(level, g, &x, &w, &mut out, Some(&mut out_sums));
            assert!(out == y, "forward, {how}");
            assert!(out_sums == sums, "sums, {how}");
            out.fill(f32::NAN);
            (way.forward)(level, g, &x, &w, &mut out, None);
            assert!(out == y, "forward without sums, {how}");
            let mut out = nan(&dx);
            (way.input_grad)(level, g, &dy, &w, &mut out, false);
            assert!(out == dx, "input gradient, {how}");
            out.copy_from_slice(&before);
            (way.input_grad)(level, g, &dy, &w, &mut out, true);
            assert!(out == added, "input gradient added, {how}");
            let (mut out, mut scratch) = (nan(&dw), vec![f32::NAN; (way.scratch)(g)]);
            (way.weight_grad)(level, g, &x, &dy, &mut out, &mut scratch);
            assert!(out == dw, "weight gradient, {how}");
        }
    }
    // As the backend chooses, among these and their widths.
    let (mut out, mut out_sums) = (nan(&y), nan(&sums));
    f32::forward(g, &x, &w, &mut out, Some(&mut out_sums));
    assert!(out == y && out_sums == sums, "forward as chosen, {g:?}");
    let mut out = before.clone();
    f32::input_grad(g, &dy, &w, &mut out, true);
    assert!(out == added, "input gradient as chosen, {g:?}");
    let (mut out, mut scratch) = (nan(&dw), vec![f32::NAN; f32::scratch(g)]);
    f32::weight_grad(g, &x, &dy, &mut out, &mut scratch);
    assert!(out == dw, "weight gradient as chosen, {g:?}");
    let double = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let (mut out, mut out_sums) = (double(&nan(&y)), double(&nan(&sums)));
    patches::forward(g, &double(&x), &double(&w), &mut out, Some(&mut out_sums));
    assert!(out == double(&y) && out_sums == double(&sums), "forward, double, {g:?}");
    let mut out = double(&before);
    patches::input_grad(g, &double(&dy), &double(&w), &mut out, true);
    assert!(out == double(&added), "input gradient, double, {g:?}");
    let mut out = double(&nan(&dw));
    patches::weight_grad(g, &double(&x), &double(&dy), &mut out);
    assert!(out == double(&dw), "weight gradient, double, {g:?}");
}

fn geometry(batch: usize, [height, width]: [usize; 2], [channels, filters]: [usize; 2], ksp: [usize; 3]) -> Geometry {
    let [kernel, stride, padding] = ksp;
    Geometry { batch, height, width, channels, filters, kernel, stride, padding, views: 1, groups: 1 }
}

#[test]
fn layers_of_the_networks() {
    let best = &[Level::in_use()];
    for (i, g) in [
        geometry(2, [32, 32], [3, 16], [3, 1, 1]),
        geometry(2, [32, 32], [16, 16], [3, 1, 1]),
        geometry(2, [32, 32], [16, 32], [3, 2, 1]),
        geometry(3, [8, 8], [64, 64], [3, 1, 1]),
        geometry(1, [56, 56], [3, 8], [7, 2, 3]),
        geometry(2, [14, 14], [32, 48], [1, 2, 0]),
        geometry(40, [4, 4], [32, 80], [3, 1, 1]),
        geometry(9, [7, 7], [80, 300], [1, 1, 0]),
        geometry(2, [14, 14], [64, 40], [1, 1, 0]),
        geometry(2, [28, 28], [24, 33], [1, 1, 0]),
        geometry(1, [15, 19], [20, 16], [1, 1, 0]),
        geometry(7, [7, 5], [96, 48], [3, 1, 0]),
        geometry(67, [8, 8], [80, 112], [3, 1, 1]),
        geometry(1, [3, 300], [32, 32], [3, 1, 2]),
        // Several tiles, blocks of terms and panels; small images together; one group of images and several.
        geometry(3, [7, 7], [192, 130], [1, 1, 0]),
        geometry(5, [6, 6], [128, 192], [3, 2, 1]),
        geometry(2, [17, 16], [64, 64], [1, 2, 0]),
        geometry(40, [4, 4], [64, 256], [3, 2, 1]),
        // Too large for one strip: in bands.
        geometry(1, [70, 230], [20, 17], [3, 1, 1]),
        geometry(1, [75, 150], [33, 5], [3, 2, 1]),
    ]
    .iter()
    .enumerate()
    {
        check(g, i as u64, best);
    }
}

#[test]
fn groups() {
    for (i, (groups, g)) in [
        (2, geometry(2, [6, 5], [4, 6], [3, 1, 1])),
        (32, geometry(1, [7, 7], [128, 128], [3, 1, 1])),
        (3, geometry(2, [9, 8], [15, 21], [3, 2, 1])),
        (5, geometry(1, [4, 6], [35, 5], [1, 2, 0])),
        // Groups that end with blocks of sixteen, those that do not, one channel a group, and more filters than channels.
        (4, geometry(2, [8, 8], [64, 128], [3, 1, 1])),
        (4, geometry(2, [5, 7], [80, 80], [3, 2, 1])),
        (3, geometry(2, [6, 6], [57, 69], [3, 1, 1])),
        (24, geometry(3, [5, 6], [24, 48], [3, 1, 1])),
        (2, geometry(1, [9, 9], [4, 10], [5, 2, 2])),
        // Several pieces of filters.
        (64, geometry(2, [4, 4], [256, 128], [3, 1, 1])),
        (2, geometry(2, [4, 4], [64, 300], [1, 1, 0])),
    ]
    .into_iter()
    .enumerate()
    {
        check(&Geometry { groups, ..g }, i as u64, &Level::available());
    }
}

#[test]
fn odd_shapes_on_every_level() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut cases = 0;
    while cases < 150 {
        let extent = |rng: &mut StdRng| rng.random_range(1..=19usize);
        let channels = |rng: &mut StdRng| if rng.random() { 32 } else { rng.random_range(1..=36) };
        let groups = if rng.random() { 1 } else { rng.random_range(1..=9) };
        let g = Geometry {
            batch: rng.random_range(1..=3),
            height: extent(&mut rng),
            width: extent(&mut rng),
            channels: usize::next_multiple_of(channels(&mut rng), groups),
            filters: usize::next_multiple_of(channels(&mut rng), groups),
            kernel: [1, 2, 3, 3, 3, 5][rng.random_range(0..6)],
            stride: [1, 1, 2, 3][rng.random_range(0..4)],
            padding: rng.random_range(0..=3),
            views: 1,
            groups,
        };
        if g.kernel <= g.height.min(g.width) + 2 * g.padding {
            check(&g, cases, &Level::available());
            cases += 1;
        }
    }
}

#[test]
fn a_matrix_product_gets_whole_tiles() {
    let widths = [[56, 56], [28, 28], [14, 14], [7, 7], [9, 9]].map(|extent| {
        let g = widened(&geometry(1, extent, [32, 32], [1, 1, 0]));
        [g.height, g.width]
    });
    assert_eq!(widths, [[196, 16], [49, 16], [49, 4], [1, 49], [9, 9]]);
    for ksp in [[1, 2, 0], [1, 1, 1], [3, 1, 1]] {
        let g = geometry(1, [14, 14], [32, 32], ksp);
        assert_eq!(widened(&g), g);
    }
}

#[test]
fn threads_do_not_change_a_bit_of_groups() {
    for (groups, g) in [
        (8, geometry(37, [9, 11], [48, 80], [3, 1, 1])),
        (1, geometry(37, [7, 7], [48, 80], [1, 1, 0])),
        (2, geometry(19, [8, 9], [48, 80], [1, 2, 0])),
    ] {
        let g = Geometry { groups, ..g };
        let mut rng = StdRng::seed_from_u64(1);
        let mut floats =
            |e: [usize; 4]| (0..e.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let (x, w, dy) = (floats(g.input()), floats(g.weight()), floats(g.output()));
        let results = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut y, mut sums) = (vec![0.0; dy.len()], vec![0.0; g.batch * 2 * g.filters]);
                let (mut dw, mut dx, mut scratch) = (w.clone(), x.clone(), vec![0.0; f32::scratch(&g)]);
                f32::forward(&g, &x, &w, &mut y, Some(&mut sums));
                f32::weight_grad(&g, &x, &dy, &mut dw, &mut scratch);
                f32::input_grad(&g, &dy, &w, &mut dx, false);
                [y, sums, dw, dx].concat().iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
            })
        });
        assert!(results[0] == results[1] && results[0] == results[2], "{g:?}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let g = geometry(37, [9, 11], [48, 80], [3, 1, 1]);
    assert!(WAYS.iter().all(|way| (way.takes)(&g)));
    let mut rng = StdRng::seed_from_u64(1);
    let mut floats = |e: [usize; 4]| (0..e.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
    let (x, w, dy) = (floats(g.input()), floats(g.weight()), floats(g.output()));
    let results = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let level = Level::in_use();
            let mut bits = Vec::new();
            for way in &WAYS {
                let (mut y, mut sums) = (vec![0.0; dy.len()], vec![0.0; g.batch * 2 * g.filters]);
                let (mut dw, mut dx, mut scratch) = (w.clone(), x.clone(), vec![0.0; (way.scratch)(&g)]);
                (way.forward)(level, &g, &x, &w, &mut y, Some(&mut sums));
                (way.weight_grad)(level, &g, &x, &dy, &mut dw, &mut scratch);
                (way.input_grad)(level, &g, &dy, &w, &mut dx, false);
                bits.extend([y, sums, dw, dx].concat().iter().map(|v| v.to_bits()));
            }
            bits
        })
    });
    assert!(results[0] == results[1] && results[0] == results[2]);
}

#[test]
fn every_way_is_about_as_accurate_as_direct() {
    let g = geometry(4, [8, 8], [256, 256], [3, 1, 1]);
    let mut rng = StdRng::seed_from_u64(2);
    let mut floats = |e: [usize; 4]| (0..e.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
    let (x, w, dy) = (floats(g.input()), floats(g.weight()), floats(g.output()));
    let double = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let error = |what: &str, limit: f64, got: &[f32], want: &[f64]| {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
        let difference = norm(&mut got.iter().zip(want).map(|(&a, b)| f64::from(a) - b));
        let error = difference / norm(&mut want.iter().copied());
        println!("{what}: {error:e}, {:.0}% of the limit", 100.0 * error / limit);
        assert!(error < limit, "{what}: {error:e} > {limit:e}");
    };
    let level = Level::in_use();
    let (mut want, mut got) = (vec![0.0; dy.len()], vec![0.0; dy.len()]);
    patches::forward(&g, &double(&x), &double(&w), &mut want, None);
    correlate::forward(level, &g, &x, &w, &mut got, None);
    error("forward, direct", 1e-6, &got, &want);
    winograd::forward(level, &g, &x, &w, &mut got, None);
    error("forward, Winograd", 2e-6, &got, &want);
    indirect::forward(level, &g, &x, &w, &mut got, None);
    error("forward, indirect", 1e-6, &got, &want);
    let (mut want, mut got) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    patches::weight_grad(&g, &double(&x), &double(&dy), &mut want);
    weight_grad::weight_grad(level, &g, &x, &dy, &mut got, &mut vec![0.0; weight_grad::scratch_floats(&g)]);
    error("weight gradient, direct", 1e-6, &got, &want);
    winograd_grad::weight_grad(level, &g, &x, &dy, &mut got, &mut vec![0.0; winograd_grad::scratch_floats(&g)]);
    error("weight gradient, Winograd", 2e-6, &got, &want);
    let mut scratch = vec![0.0; indirect_grad::scratch_floats(&g)];
    indirect_grad::weight_grad(level, &g, &x, &dy, &mut got, &mut scratch);
    error("weight gradient, indirect", 1e-6, &got, &want);
}
