//! A convolution by its definition, in double precision.

use glmc_engine::ops::conv2d::Geometry;

/// The output, the gradient of the input and that of the weight.
pub fn naive(g: &Geometry, x: &[f64], weight: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let [oh, ow] = [g.out_height(), g.out_width()];
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
    for (n, i, j) in (0..g.batch).flat_map(|n| (0..oh).flat_map(move |i| (0..ow).map(move |j| (n, i, j)))) {
        for (u, v) in (0..g.kernel).flat_map(|u| (0..g.kernel).map(move |v| (u, v))) {
            let (h, w) = ((i * g.stride + u).wrapping_sub(g.padding), (j * g.stride + v).wrapping_sub(g.padding));
            if h >= g.height || w >= g.width {
                continue;
            }
            let (to, from) = (((n * oh + i) * ow + j) * g.filters, ((n * g.height + h) * g.width + w) * g.channels);
            for f in 0..g.filters {
                let from = from + f / g.group_filters() * g.group_channels();
                let tap = ((f * g.kernel + u) * g.kernel + v) * g.group_channels();
                for c in 0..g.group_channels() {
                    y[to + f] += x[from + c] * weight[tap + c];
                    dx[from + c] += dy[to + f] * weight[tap + c];
                    dw[tap + c] += dy[to + f] * x[from + c];
                }
            }
        }
    }
    [y, dx, dw]
}
