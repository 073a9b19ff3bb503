//! The tolerance policy: the one place that says how far from the truth an op's results may be.
//!
//! The error of an array is the largest absolute difference over the largest absolute value that is expected. Where
//! results can be exact, they must be ([`exact`]). Elsewhere one limit per precision, and a few ops with a limit of their own,
//! each with its cause. A limit is widened only with a cause, said in the commit.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use glmc_engine::tensor::Precision;

use super::array::Array;

/// Limits in f64, f32 and bf16.
type Limits = [f64; 3];

/// f64 and f32: a few hundred roundings. bf16: an input, an intermediate and an output rounded to eight bits.
const USUAL: Limits = [1e-13, 3e-6, 1.6e-2];

/// Ops whose limit is another: `(op, output or "" for all, limits)`.
const OTHERS: &[(&str, &str, Limits)] = &[
    // Sums over thousands of pixels of squares, each rounded in the accumulation type.
    ("conv2d", "sums", [1e-13, 1e-5, 1.6e-2]),
    // The variance comes from sums of squares, which loses digits where the mean is far larger than the deviation; a
    // few pixels per channel, as in some of these cases, make that likely.
    ("batch_norm", "", [1e-12, 2e-5, 3e-2]),
    // Values a thousand deviations away from zero: the mean is stored in f32, to a ten-thousandth of the deviation.
    ("batch_norm far from zero", "", [1e-12, 3e-4, 3e-2]),
    // Batch normalisation of few pixels amplifies every rounding before it.
    ("network", "", [1e-12, 1e-5, 3e-1]),
    // The step's learning rate, weight decay and momentum are singles on every device; PyTorch's are doubles.
    ("sgd", "", [1e-7, 1e-6, 1.6e-2]),
    // So are SAM's rho and the rate of its step.
    ("sam", "", [1e-7, 1e-6, 1.6e-2]),
    // Mean, deviation and lambda are singles on every device; PyTorch's are doubles.
    ("augment_mix", "", [1e-6, 1e-6, 8e-3]),
    ("mix_views", "", [1e-7, 1e-6, 8e-3]),
    // Of torchvision's transforms one by one, and of all together: scales, factors and sigmas are singles on every device. A
    // resize divides bytes by a sum of weights; bf16 rounds what comes out once.
    ("augment_photos", "resize", [2e-6, 2e-6, 4e-3]),
    ("augment_photos", "centre", [2e-6, 2e-6, 4e-3]),
    ("augment_photos", "brightness", [1e-13, 1e-6, 4e-3]),
    ("augment_photos", "contrast", [1e-13, 1e-6, 4e-3]),
    ("augment_photos", "saturation", [1e-13, 1e-6, 4e-3]),
    ("augment_photos", "hue", [1e-13, 2e-6, 4e-3]),
    ("augment_photos", "grey", [1e-13, 1e-6, 4e-3]),
    ("augment_photos", "flip", [2e-6, 2e-6, 4e-3]),
    ("augment_photos", "normalise", [1e-6, 2e-6, 4e-3]),
    ("augment_photos", "blur", [1e-13, 1e-6, 4e-3]),
    ("augment_photos", "jitter", [1e-13, 3e-6, 4e-3]),
    ("augment_photos", "all", [3e-6, 5e-6, 4e-3]),
    // Against the CPU in double precision, from the same singles.
    ("augment_photos", "", [1e-13, 5e-6, 8e-3]),
    // Confidences are singles on every device.
    ("classify", "", [1e-6, 1e-6, 1e-6]),
    // Coefficients are singles on every device; PyTorch's are doubles.
    ("negative_cosine", "", [1e-7, 3e-6, 3e-6]),
    ("total_loss", "", [1e-7, 3e-6, 3e-6]),
    // Heads and losses run in the accumulation type in every precision.
    ("supervised_loss", "", [1e-12, 3e-6, 3e-6]),
    ("linear", "", [1e-13, 3e-6, 3e-6]),
    ("normalize_rows", "", [1e-13, 3e-6, 3e-6]),
    ("scale_columns", "", [1e-13, 3e-6, 3e-6]),
    ("join_branches", "", [1e-13, 3e-6, 3e-6]),
];

fn limit(op: &str, output: &str, precision: Precision) -> f64 {
    let own = |name: &str| OTHERS.iter().find(|(o, out, _)| *o == op && *out == name).map(|(.., limits)| limits);
    let limits = own(output).or_else(|| own("")).unwrap_or(&USUAL);
    match precision {
        Precision::F64 => limits[0],
        Precision::F32 => limits[1],
        Precision::Bf16 => limits[2],
    }
}

/// By precision and op: the largest share of its limit, with the output that used it.
type Shares = BTreeMap<(String, &'static str), (f64, String)>;

static USED: Mutex<Shares> = Mutex::new(Shares::new());

/// Says nothing when both are the same numbers (NaN equal to NaN), otherwise where they first differ.
pub fn exact(got: &Array, want: &Array) -> Result<(), String> {
    if got.shape != want.shape {
        return Err(format!("shape {:?}, expected {:?}", got.shape, want.shape));
    }
    let differs = |(g, w): (&f64, &f64)| g != w && !(g.is_nan() && w.is_nan());
    match got.data.iter().zip(&want.data).position(differs) {
        None => Ok(()),
        Some(at) => Err(format!("element {at} of {:?} is {}, expected {}", got.shape, got.data[at], want.data[at])),
    }
}

/// The largest absolute difference over the largest absolute value expected.
fn error(got: &Array, want: &Array) -> f64 {
    let scale = want.data.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    // A NaN anywhere makes the error infinite: no comparison with it may pass.
    let worse = |worst: f64, d: f64| if d.is_nan() { f64::INFINITY } else { worst.max(d) };
    got.data.iter().zip(&want.data).map(|(g, w)| (g - w).abs() / scale).fold(0.0, worse)
}

/// Whether an output of an op is close enough; notes which share of the limit it used.
pub fn close(
    op: &'static str,
    output: &str,
    case: &str,
    precision: Precision,
    got: &Array,
    want: &Array,
) -> Result<(), String> {
    if got.shape != want.shape {
        return Err(format!("{output}: shape {:?}, expected {:?}", got.shape, want.shape));
    }
    let share = error(got, want) / limit(op, output, precision);
    let mut used = USED.lock().map_err(|_| "another trial failed".to_owned())?;
    let most = used.entry((precision.to_string(), op)).or_insert((0.0, String::new()));
    if share >= most.0 {
        *most = (share, format!("{output} of {case}"));
    }
    drop(used);
    if share <= 1.0 {
        return Ok(());
    }
    let at = (0..got.data.len()).max_by(|&a, &b| {
        let difference = |i: usize| (got.data[i] - want.data[i]).abs();
        difference(a).total_cmp(&difference(b))
    });
    let at = at.unwrap_or(0);
    Err(format!(
        "{output} uses {share:.3} of its limit {:.0e}; worst: element {at} of {:?} is {}, expected {}",
        limit(op, output, precision),
        got.shape,
        got.data[at],
        want.data[at]
    ))
}

/// A table of the shares used, for the end of a run.
pub fn report() -> String {
    let used = USED.lock().expect("no trial holds it any more");
    let mut text = String::new();
    for ((precision, op), (share, what)) in &*used {
        let _ = writeln!(text, "{precision:5} {op:26} {share:6.3} of the limit ({what})");
    }
    text
}
