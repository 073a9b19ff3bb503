//! `supervised_loss`: every form, with margins and without, one label and two, both divisors.

use glmc_engine::ops::load_step::{StepParams, StepVars};
use glmc_engine::ops::supervised_loss::{ClassVector, Form, HeadLoss, Reduction, supervised_loss};
use glmc_engine::tensor::DType;

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::suite::{Case, Suite};

const PLAIN: Form = Form::Softmax { focal: 0.0 };

/// A head's loss and inputs.
#[derive(Clone)]
struct Head {
    form: Form,
    reduction: Reduction,
    scale: f32,
    /// (views * batch, classes).
    logits: Array,
    /// (5, classes).
    vectors: Array,
}

/// The classes of a step's samples.
#[derive(Clone)]
struct Labels {
    /// Of the originals, then of the partners.
    classes: [Vec<usize>; 2],
    /// The originals'.
    shares: Vec<f64>,
}

impl Labels {
    /// Samples of one label each.
    fn one(classes: &[usize]) -> Labels {
        Labels { classes: [classes.to_vec(), classes.to_vec()], shares: vec![1.0; classes.len()] }
    }

    fn batch(&self) -> usize {
        self.shares.len()
    }
}

/// Class vectors, all neutral but for those given.
fn vectors(classes: usize, given: &[(ClassVector, &[f64])]) -> Array {
    let mut rows: Vec<f64> = ClassVector::ALL.into_iter().flat_map(|v| vec![v.neutral(); classes]).collect();
    for (vector, values) in given {
        rows[*vector as usize * classes..][..classes].copy_from_slice(values);
    }
    Array::new(&[ClassVector::COUNT, classes], rows)
}

/// One or two heads. Image n is of the class of original n, image batch + n of that of partner batch - 1 - n: indices must be
/// followed.
fn case(name: &str, coefficients: [f32; 2], labels: &Labels, heads: &[Head]) -> Case {
    let batch = labels.batch();
    let count = heads[0].logits.shape[0];
    let weights = (0..heads.len() * count).map(|i| f64::from(coefficients[i / count]) / batch as f64).collect();
    let step = StepParams { coefficients: [coefficients[0], coefficients[1], f32::NAN], ..StepParams::default() };
    let [first, second] = &labels.classes;
    let of_images: Vec<f64> = first.iter().chain(second.iter().rev()).map(|&c| c as f64).collect();
    let originals: Vec<f64> = (0..batch).map(|n| n as f64).collect();
    let partners: Vec<f64> = (0..batch).map(|n| (2 * batch - 1 - n) as f64).collect();
    let indices = [of_images, originals, partners].map(|values| Array::vector(&values));
    let shares = Array::vector(&labels.shares);
    let forms: Vec<_> = heads.iter().map(|h| (h.form, h.reduction, h.scale)).collect();
    let names = [("logits", "vectors"), ("logits_cb", "vectors_cb")];
    let inputs: Vec<_> = heads
        .iter()
        .zip(names)
        .flat_map(|(head, (logits, vectors))| [(logits, head.logits.clone()), (vectors, head.vectors.clone())])
        .collect();
    Case::new("supervised_loss", name, inputs, move |rig, i| {
        let dtype = rig.accumulate();
        let mut index = |array: &Array| rig.constant(array, DType::I32);
        let [labels, originals, partners] = [index(&indices[0])?, index(&indices[1])?, index(&indices[2])?];
        let vars =
            StepVars { scalars: rig.step(&step)?, originals, partners, shares: rig.constant(&shares, DType::F32)? };
        let mut heads = Vec::new();
        for (&(form, reduction, scale), (logits, vectors)) in forms.iter().zip(names) {
            let vectors = rig.constant(&i[vectors], dtype)?;
            heads.push(HeadLoss { logits: rig.leaf(logits, &i[logits], dtype), vectors, form, reduction, scale });
        }
        let rows = supervised_loss(&mut rig.tape, rig.backend, &heads, labels, vars)?;
        rig.output("rows", rows);
        Ok(())
    })
    .objective("rows", Array::new(&[heads.len(), count], weights))
}

/// log(1 + e^x), and the logarithm of the sum of exponentials.
fn softplus(x: f64) -> f64 {
    log_sum(&[x, 0.0])
}

fn log_sum(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + values.iter().map(|v| (v - most).exp()).sum::<f64>().ln()
}

/// Loss(u, y) times the weight, as the formulas have it.
fn naive_term(head: &Head, logits: &[f64], y: usize) -> f64 {
    let classes = logits.len();
    let of = |vector: ClassVector, c: usize| head.vectors.data[vector as usize * classes + c];
    let u = |c: usize| {
        let margin = if c == y { of(ClassVector::Margin, y) } else { 0.0 };
        f64::from(head.scale) * (of(ClassVector::Scale, c) * logits[c] - margin) + of(ClassVector::Offset, c)
    };
    let u: Vec<f64> = (0..classes).map(u).collect();
    let weight = of(ClassVector::Weight, y);
    let log_p = |c: usize| u[c] - log_sum(&u);
    match head.form {
        Form::Softmax { focal } => {
            let smoothing = of(ClassVector::Smoothing, y);
            let mean = -(0..classes).map(log_p).sum::<f64>() / classes as f64;
            let ce = weight * ((1.0 - smoothing) * -log_p(y) + smoothing * mean);
            (1.0 - (-ce).exp()).powf(f64::from(focal)) * ce
        }
        Form::BceOnSoftmax => {
            let bce = |c: usize| {
                // 1 - p is the sum of the other classes' p.
                let others: Vec<f64> = (0..classes).filter(|&o| o != c).map(|o| u[o]).collect();
                if c == y { -log_p(c) } else { log_sum(&u) - log_sum(&others) }
            };
            weight * (0..classes).map(bce).sum::<f64>() / classes as f64
        }
        Form::SigmoidFocal { focal } => {
            let bce = |c: usize| {
                let x = if c == y { -u[c] } else { u[c] };
                (1.0 / (1.0 + (-x).exp())).powf(f64::from(focal)) * softplus(x)
            };
            weight * (0..classes).map(bce).sum::<f64>()
        }
    }
}

fn naive_rows(labels: &Labels, head: &Head) -> Vec<f64> {
    let ([count, classes], batch) = (head.logits.two(), labels.batch());
    let weight = |c: usize| head.vectors.data[ClassVector::Weight as usize * classes + c];
    let over = |t: usize| match head.reduction {
        Reduction::N => 1.0,
        Reduction::SumW => batch as f64 / labels.classes[t].iter().map(|&c| weight(c)).sum::<f64>(),
    };
    let row = |n: usize| {
        let sample = n % batch;
        let term = |t: usize| naive_term(head, &head.logits.data[n * classes..][..classes], labels.classes[t][sample]);
        let share = labels.shares[sample];
        [share, 1.0 - share]
            .iter()
            .enumerate()
            .filter(|(_, share)| **share != 0.0)
            .map(|(t, s)| s * over(t) * term(t))
            .sum()
    };
    (0..count).map(row).collect()
}

/// The rows of all heads.
fn naive(labels: &Labels, heads: &[Head]) -> Array {
    let count = heads[0].logits.shape[0];
    Array::new(&[heads.len(), count], heads.iter().flat_map(|head| naive_rows(labels, head)).collect())
}

/// What is random about a head.
#[derive(Clone, Copy)]
struct Kind {
    form: Form,
    reduction: Reduction,
    scale: f32,
    margins: bool,
}

fn random_head(random: &mut Random, kind: Kind, [rows, classes]: [usize; 2]) -> Head {
    let Kind { form, reduction, scale, margins } = kind;
    // Sixteenths of f32 and bf16, so that every device computes from the same.
    let mut part = |most: usize| random.integers(&[classes], most).map(|v| v / 16.0).data;
    let (scales, offsets, margin, weights, smoothing) = (part(8), part(32), part(8), part(15), part(8));
    let given = [
        (ClassVector::Scale, scales.iter().map(|v| 1.0 + v).collect()),
        (ClassVector::Offset, offsets),
        (ClassVector::Margin, margin.iter().map(|v| if margins { v.abs() } else { 0.0 }).collect()),
        (ClassVector::Weight, weights.iter().map(|v| 1.0 + v).collect::<Vec<f64>>()),
        (ClassVector::Smoothing, smoothing.iter().map(|v| v.max(0.0)).collect()),
    ];
    let given: Vec<_> = given.iter().map(|(vector, values)| (*vector, values.as_slice())).collect();
    let logits = random.normal(&[rows, classes]).map(|v| (v * 32.0 / f64::from(scale)).round() / 16.0);
    Head { form, reduction, scale, logits, vectors: vectors(classes, &given) }
}

/// One label a sample, or two with shares that include 0 and 1 and, where there are several, twice the same class.
fn random_labels(random: &mut Random, batch: usize, classes: usize, mixed: bool) -> Labels {
    let mut classes =
        [0; 2].map(|_| random.indices(&[batch], classes).data.iter().map(|&c| c as usize).collect::<Vec<_>>());
    if !mixed {
        return Labels::one(&classes[0]);
    }
    classes[1][0] = classes[0][0];
    let mut shares: Vec<f64> = (0..batch).map(|_| random.below(17) as f64 / 16.0).collect();
    for (share, value) in shares.iter_mut().skip(1).zip([0.0, 1.0]) {
        *share = value;
    }
    Labels { classes, shares }
}

const FORMS: [(&str, Form); 6] = [
    ("softmax", PLAIN),
    ("focal", Form::Softmax { focal: 1.0 }),
    ("focal_half", Form::Softmax { focal: 0.5 }),
    ("bce", Form::BceOnSoftmax),
    ("sigmoid", Form::SigmoidFocal { focal: 0.0 }),
    ("sigmoid_focal", Form::SigmoidFocal { focal: 2.0 }),
];

/// GLMC's labels and weights, against PyTorch.
fn published(suite: &mut Suite) {
    for f in fixtures::of("soft_label_cross_entropy") {
        let whole = |name: &str| f.get(name).data.iter().map(|&c| c as usize).collect::<Vec<_>>();
        let classes = [whole("first"), whole("second")];
        let labels = Labels { shares: vec![f.number("lambda"); classes[0].len()], classes };
        let counts: Vec<f64> =
            f.attributes["counts"].as_array().expect("counts").iter().map(|v| v.as_f64().expect("a count")).collect();
        let inverse: Vec<f64> = counts.iter().map(|n| n.powf(-f.number("k"))).collect();
        let sum: f64 = inverse.iter().sum();
        let weights: Vec<f64> = inverse.iter().map(|w| counts.len() as f64 * w / sum).collect();
        let head = |logits: &str, given: &[(ClassVector, &[f64])]| Head {
            form: PLAIN,
            reduction: Reduction::N,
            scale: 1.0,
            logits: f.get(logits),
            vectors: vectors(counts.len(), given),
        };
        let heads = [head("logits", &[]), head("logits_cb", &[(ClassVector::Weight, &weights)])];
        let rows = naive(&labels, &heads);
        // The plain formula must agree with PyTorch's losses before it may judge the op's rows.
        let (alpha, scale, batch) = (f.number("alpha"), f.number("scale"), labels.batch());
        for (rows, loss) in rows.data.chunks_exact(2 * batch).zip(["loss_c", "loss_cb"]) {
            let (sum, want) = (scale * rows.iter().sum::<f64>() / batch as f64, f.get(loss).data[0]);
            assert!((sum - want).abs() <= 1e-12 * want.abs(), "{} {loss}: {sum} {want}", f.name);
        }
        let wanted = vec![("rows", rows), ("dlogits", f.get("dlogits")), ("dlogits_cb", f.get("dlogits_cb"))];
        let coefficients = [alpha * scale, (1.0 - alpha) * scale].map(|c| c as f32);
        suite.close("pytorch", case(&f.name, coefficients, &labels, &heads), wanted);
    }
}

/// Every form with and without margins, of one label and of two, by either divisor: against differences on the oracle, and the
/// plain formula everywhere.
fn combinations(suite: &mut Suite) {
    let mut random = Random::new(5);
    for (name, form) in FORMS {
        for margins in [false, true] {
            for mixed in [false, true] {
                for reduction in [Reduction::N, Reduction::SumW] {
                    let kind = Kind { form, reduction, scale: 1.5, margins };
                    let labels = random_labels(&mut random, 4, 5, mixed);
                    let head = random_head(&mut random, kind, [8, 5]);
                    let part = |on: bool, what: &str| if on { format!("_{what}") } else { String::new() };
                    let sum_w = reduction == Reduction::SumW;
                    let (margin, mixed) = (part(margins, "margins"), part(mixed, "mixed"));
                    let name = format!("{name}{margin}{mixed}{}", part(sum_w, "sum_w"));
                    let case = case(&name, [0.75, 0.0], &labels, std::slice::from_ref(&head));
                    suite.close("naive", case.clone(), vec![("rows", naive(&labels, &[head]))]);
                    suite.gradient(case);
                }
            }
        }
    }
}

/// Odd shapes, one head and two of different losses.
fn shapes(suite: &mut Suite) {
    let mut random = Random::new(6);
    let extents =
        [[1, 1, 1], [1, 2, 2], [3, 1, 2], [2, 2, 3], [64, 2, 10], [3, 2, 1000], [33, 1, 33], [70, 1, 5], [2, 1, 8142]];
    for [batch, views, classes] in extents {
        for (first, (name, form)) in FORMS.into_iter().enumerate() {
            let kind = Kind { form, reduction: Reduction::SumW, scale: 2.0, margins: true };
            let (_, other) = FORMS[(first + 3) % FORMS.len()];
            let second = Kind { form: other, reduction: Reduction::N, scale: 1.0, margins: false };
            let heads = [kind, second].map(|kind| random_head(&mut random, kind, [views * batch, classes]));
            let heads = &heads[..1 + first % 2];
            let labels = random_labels(&mut random, batch, classes, true);
            let case = case(&format!("{name}_{batch}x{views}x{classes}"), [0.75, 0.25], &labels, heads);
            suite.close("naive", case.clone(), vec![("rows", naive(&labels, heads))]);
            suite.oracle(case);
        }
    }
}

pub fn add(suite: &mut Suite) {
    published(suite);
    combinations(suite);
    shapes(suite);
    // Logits whose exponentials overflow, and a single class far ahead: the loss is the difference.
    let logits = Array::new(&[2, 3], vec![1e4, 0.0, -1e4, -2e4, -2e4 - 512.0, -3e4]);
    let given: &[(ClassVector, &[f64])] = &[(ClassVector::Weight, &[1.0, 2.0, 1.0])];
    let head = Head { form: PLAIN, reduction: Reduction::N, scale: 1.0, logits, vectors: vectors(3, given) };
    let wanted = vec![("rows", Array::new(&[1, 2], vec![2e4, 1024.0]))];
    suite.exact(case("overflow", [1.0, 0.0], &Labels::one(&[1, 1]), &[head]), wanted);
}
