//! `supervised_loss`: every form, with margins and without, one label and two, both divisors.

use glmc_engine::ops::load_step::{StepParams, StepVars};
use glmc_engine::ops::supervised_loss::{ClassVector, Form, HeadLoss, Reduction, ViewLabels, supervised_loss};
use glmc_engine::tensor::DType;

use crate::common::array::{Array, Random};
use crate::common::devices::{self, ORACLE};
use crate::common::fixtures;
use crate::common::suite::{Case, Suite};
use crate::common::tolerance;

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

const MIXED: [ViewLabels; 2] = [ViewLabels::Mixed; 2];

/// The classes of a step's samples.
#[derive(Clone)]
struct Labels {
    /// Of the originals, then of the partners.
    classes: [Vec<usize>; 2],
    /// The originals'.
    shares: Vec<f64>,
    /// Of each view.
    views: [ViewLabels; 2],
}

impl Labels {
    /// Samples of one label each.
    fn one(classes: &[usize]) -> Labels {
        Labels { classes: [classes.to_vec(), classes.to_vec()], shares: vec![1.0; classes.len()], views: MIXED }
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
    let views = labels.views;
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
        let (scalars, shares) = (rig.step(&step)?, rig.constant(&shares, DType::F32)?);
        let vars = StepVars { scalars, logged: scalars, originals, partners, shares };
        let mut heads = Vec::new();
        for (&(form, reduction, scale), (logits, vectors)) in forms.iter().zip(names) {
            let vectors = rig.constant(&i[vectors], dtype)?;
            heads.push(HeadLoss { logits: rig.leaf(logits, &i[logits], dtype), vectors, form, reduction, scale });
        }
        let rows = supervised_loss(&mut rig.tape, rig.backend, &heads, labels, vars, views)?;
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
        let share = match labels.views[n / batch] {
            ViewLabels::Mixed => labels.shares[sample],
            ViewLabels::Original => 1.0,
            ViewLabels::Partner => 0.0,
        };
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
    let views = [0; 2].map(|_| [ViewLabels::Mixed, ViewLabels::Original, ViewLabels::Partner][random.below(3)]);
    Labels { classes, shares, views }
}

const FORMS: [(&str, Form); 6] = [
    ("softmax", PLAIN),
    ("focal", Form::Softmax { focal: 1.0 }),
    ("focal_half", Form::Softmax { focal: 0.5 }),
    ("bce", Form::BceOnSoftmax),
    ("sigmoid", Form::SigmoidFocal { focal: 0.0 }),
    ("sigmoid_focal", Form::SigmoidFocal { focal: 2.0 }),
];

/// The methods' own formulas, by PyTorch.
fn published(suite: &mut Suite) {
    for f in fixtures::of("supervised_loss") {
        let whole = |name: &str| f.get(name).data.iter().map(|&c| c as usize).collect::<Vec<_>>();
        let labels = Labels { classes: [whole("first"), whole("second")], shares: f.get("shares").data, views: MIXED };
        let list = |name: &str| f.attributes[name].as_array().expect("a list over heads").clone();
        let numbers = |name: &str| list(name).iter().map(|v| v.as_f64().expect("a number") as f32).collect::<Vec<_>>();
        let (forms, reductions) = (list("forms"), list("reductions"));
        let (focal, scales, coefficients) = (numbers("focal"), numbers("scales"), numbers("coefficients"));
        let head = |(k, suffix): (usize, &&str)| Head {
            form: match forms[k].as_str() {
                Some("softmax") => Form::Softmax { focal: focal[k] },
                Some("bce_on_softmax") => Form::BceOnSoftmax,
                Some("sigmoid_focal") => Form::SigmoidFocal { focal: focal[k] },
                other => panic!("fixture {} is of {other:?}", f.name),
            },
            reduction: if reductions[k] == "sum_w" { Reduction::SumW } else { Reduction::N },
            scale: scales[k],
            logits: f.get(&format!("logits{suffix}")),
            vectors: f.get(&format!("vectors{suffix}")),
        };
        let heads: Vec<Head> = ["", "_cb"].iter().take(forms.len()).enumerate().map(head).collect();
        let rows = naive(&labels, &heads);
        // The plain formula must agree with PyTorch's losses before it may judge the op's rows.
        let count = rows.shape[1];
        for (rows, want) in rows.data.chunks_exact(count).zip(f.get("loss").data) {
            let sum = rows.iter().sum::<f64>() / labels.batch() as f64;
            assert!((sum - want).abs() <= 1e-12 * want.abs(), "{}: {sum} {want}", f.name);
        }
        let mut wanted = vec![("rows", rows), ("dlogits", f.get("dlogits"))];
        wanted.extend(f.maybe("dlogits_cb").map(|d| ("dlogits_cb", d)));
        let coefficients = [coefficients[0], coefficients.get(1).copied().unwrap_or(0.0)];
        suite.close("pytorch", case(&f.name, coefficients, &labels, &heads), wanted);
    }
}

/// Losses of one sample that were computed by hand, to six digits: logits, class vectors, class, loss.
fn by_hand(suite: &mut Suite) {
    use ClassVector::{Margin, Offset, Scale, Smoothing, Weight};
    type Given<'a> = &'a [(ClassVector, &'a [f64])];
    type Single<'a> = (&'a str, Form, f32, &'a [f64], Given<'a>, usize, f64);
    const Z: &[f64] = &[1.0, 2.0, 0.5];
    let log = |tau: f64| [0.7f64, 0.2, 0.1].map(|pi| tau * pi.ln());
    let weights: Given<'_> = &[(Weight, &[0.5, 1.0, 1.5])];
    let (la, vs) = (log(1.0), log(1.2));
    let la: Given<'_> = &[(Offset, &la)];
    let vs: Given<'_> = &[(Scale, &[1.0, 0.8, 0.5]), (Offset, &vs)];
    let margins: Given<'_> = &[(Margin, &[0.2, 0.3, 0.5])];
    let (cosines, equal): (&[f64], &[f64]) = (&[0.2, 0.5, -0.1], &[3.0; 4]);
    let smoothing: Given<'_> = &[(Smoothing, &[0.5; 3])];
    let (focal, sigmoid) = (Form::Softmax { focal: 1.0 }, Form::SigmoidFocal { focal: 1.0 });
    let ln2 = std::f64::consts::LN_2;
    let cases: [Single<'_>; 18] = [
        ("ce_1", PLAIN, 1.0, Z, &[], 1, 0.464369),
        ("ce_2", PLAIN, 1.0, Z, &[], 2, 1.964369),
        ("la_1", PLAIN, 1.0, Z, la, 1, 0.875112),
        ("la_2", PLAIN, 1.0, Z, la, 2, 3.068259),
        ("sigmoid_focal_1", sigmoid, 1.0, Z, &[], 1, 1.581525),
        ("sigmoid_focal_2", sigmoid, 1.0, Z, &[], 2, 3.012447),
        ("focal_1", focal, 1.0, Z, weights, 1, 0.172498),
        ("focal_2", focal, 1.0, Z, weights, 2, 2.791799),
        ("bce_1", Form::BceOnSoftmax, 1.0, Z, weights, 1, 0.292810),
        ("bce_2", Form::BceOnSoftmax, 1.0, Z, weights, 2, 1.608808),
        ("vs_1", PLAIN, 1.0, Z, vs, 1, 1.275534),
        ("vs_2", PLAIN, 1.0, Z, vs, 2, 3.457310),
        ("ldam_1", PLAIN, 30.0, cosines, margins, 1, 0.693209),
        ("ldam_2", PLAIN, 30.0, cosines, margins, 2, 33.000123),
        // The mean of -log p: 0.464369 and the mean of what the others are behind, (1 + 0 + 1.5) / 3, half of it.
        ("smoothing", PLAIN, 1.0, Z, smoothing, 1, 0.464369 + 2.5 / 6.0),
        ("equal", PLAIN, 1.0, equal, &[], 3, 2.0 * ln2),
        ("equal_bce", Form::BceOnSoftmax, 1.0, equal, &[], 3, (8.0 * ln2 - 3.0 * 3f64.ln()) / 4.0),
        ("equal_sigmoid", sigmoid, 1.0, &[0.0; 4], &[], 3, 2.0 * ln2),
    ];
    for (name, form, scale, logits, given, class, loss) in cases {
        let vectors = vectors(logits.len(), given);
        let head = Head {
            form,
            reduction: Reduction::N,
            scale,
            logits: Array::new(&[1, logits.len()], logits.to_vec()),
            vectors,
        };
        let (labels, heads) = (Labels::one(&[class]), [head]);
        let rows = naive(&labels, &heads);
        assert!((rows.data[0] - loss).abs() <= 1e-6, "{name}: {} {loss}", rows.data[0]);
        suite.close("by_hand", case(name, [1.0, 0.0], &labels, &heads), vec![("rows", rows)]);
    }
    // Two samples of losses ln 4 and ln 4 - 1 with weights 1 and 3: by N (a + 3 b) / 2, by their sum (a + 3 b) / 4, each row
    // times the batch.
    let logits = Array::new(&[2, 4], vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    let vectors = vectors(4, &[(Weight, &[3.0, 1.0, 7.0, 9.0])]);
    let (a, b) = (4f64.ln(), (1.0 + 3.0 * (-1.0f64).exp()).ln());
    for (name, reduction, over) in [("over_n", Reduction::N, 1.0), ("over_sum_w", Reduction::SumW, 2.0)] {
        let head = Head { form: PLAIN, reduction, scale: 1.0, logits: logits.clone(), vectors: vectors.clone() };
        let rows = Array::new(&[1, 2], vec![a / over, 3.0 * b / over]);
        suite.close("by_hand", case(name, [1.0, 0.0], &Labels::one(&[1, 0]), &[head]), vec![("rows", rows)]);
    }
}

/// Two cases whose outputs must be the same, to the bit or within the op's limit; gradients of the first times `factor`.
fn same(suite: &mut Suite, name: &str, bits: bool, factor: f64, [a, b]: [Case; 2]) {
    suite.device("supervised_loss", &format!("identity::{name}"), move |backend| {
        let run = |case: &Case| case.run(backend).map_err(|e| e.to_string());
        let (a, b) = (run(&a)?, run(&b)?);
        for (output, want) in &a {
            let want = if output.starts_with('d') { want.map(|v| factor * v) } else { want.clone() };
            let (got, precision) = (&b[output], backend.precision());
            match bits {
                true => tolerance::exact(got, &want),
                false => tolerance::close("supervised_loss", output, "identity", precision, got, &want),
            }
            .map_err(|e| format!("{output}: {e}"))?;
        }
        Ok(())
    });
}

/// What one loss has in common with another.
fn identities(suite: &mut Suite) {
    let mut random = Random::new(7);
    let plain = Kind { form: PLAIN, reduction: Reduction::N, scale: 1.0, margins: false };
    let labels = random_labels(&mut random, 5, 6, true);
    let bare = |random: &mut Random, given: &[(ClassVector, &[f64])]| {
        let vectors = vectors(6, given);
        Head { vectors, ..random_head(random, plain, [5, 6]) }
    };
    let with = |head: &Head, given: &[(ClassVector, &[f64])]| Head { vectors: vectors(6, given), ..head.clone() };
    let of = |name: &str, head: &Head| case(name, [0.75, 0.0], &labels, std::slice::from_ref(head));

    // Balanced softmax is logit adjustment by tau = 1: offsets that differ by a constant.
    let counts = [80f64, 40.0, 20.0, 10.0, 5.0, 5.0];
    let (log_n, log_pi) = (counts.map(f64::ln), counts.map(|n| (n / 160.0).ln()));
    let head = bare(&mut random, &[(ClassVector::Offset, &log_n)]);
    let pair = [of("bs", &head), of("la", &with(&head, &[(ClassVector::Offset, &log_pi)]))];
    same(suite, "balanced_softmax_is_la", false, 1.0, pair);
    // LDAM without margins is a softmax of 30 cosines.
    let head = bare(&mut random, &[]);
    let ldam = Head { scale: 32.0, logits: head.logits.map(|v| v / 32.0), ..head.clone() };
    same(suite, "ldam_without_margins", true, 32.0, [of("softmax", &head), of("ldam", &ldam)]);
    // One divisor or the other, where all weights are 1.
    for (name, form) in FORMS {
        let [n, sum_w] = [Reduction::N, Reduction::SumW].map(|reduction| Head { form, reduction, ..head.clone() });
        same(suite, &format!("n_is_sum_w_{name}"), true, 1.0, [of("n", &n), of("sum_w", &sum_w)]);
    }
    // A share of 1 leaves no trace of the partner's class, be its loss infinite; and one class twice is that class.
    for (name, form) in FORMS {
        let kind = Kind { form, margins: true, scale: 1.5, ..plain };
        let head = random_head(&mut random, kind, [2, 6]);
        let mixed = |share: f64, partners: [usize; 2]| {
            let labels = Labels { classes: [vec![2, 4], partners.to_vec()], shares: vec![share; 2], views: MIXED };
            case(name, [0.75, 0.0], &labels, std::slice::from_ref(&head))
        };
        same(suite, &format!("share_of_1_{name}"), false, 1.0, [mixed(1.0, [2, 4]), mixed(1.0, [0, 5])]);
        same(suite, &format!("one_class_twice_{name}"), false, 1.0, [mixed(1.0, [2, 4]), mixed(0.375, [2, 4])]);
        // Sigmoids of infinite logits are of no use to anyone.
        if matches!(form, Form::SigmoidFocal { .. }) {
            continue;
        }
        let mut apart = Head { vectors: vectors(6, &[]), ..head.clone() };
        (apart.logits.data[0], apart.logits.data[6 + 5]) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        let labels = Labels { classes: [vec![2, 4], vec![0, 5]], shares: vec![1.0; 2], views: MIXED };
        let case = case(&format!("impossible_partner_{name}"), [0.75, 0.0], &labels, &[apart.clone()]);
        let logits = apart.logits.map(|v| v.max(-1e300));
        let rows = naive(&Labels::one(&[2, 4]), &[Head { logits, ..apart }]);
        assert!(rows.data.iter().all(|row| row.is_finite()), "{rows:?}");
        suite.close("naive", case, vec![("rows", rows)]);
    }
}

/// Logits far apart: nothing overflows, and what is all but 0 or 1 keeps its digits.
fn extremes(suite: &mut Suite) {
    let mut random = Random::new(8);
    for (name, form) in FORMS {
        let kind = Kind { form, reduction: Reduction::SumW, scale: 1.0, margins: false };
        let logits = vec![0.0, 40.0, -40.0, 10.0, 40.0, 0.0, -40.0, 10.0, 39.0, 40.0, 40.0, 38.0];
        let head = Head { logits: Array::new(&[3, 4], logits), ..random_head(&mut random, kind, [3, 4]) };
        let labels = Labels { classes: [vec![1, 2, 0], vec![2, 0, 0]], shares: vec![0.5, 0.75, 0.25], views: MIXED };
        let head = Head { vectors: vectors(4, &[(ClassVector::Weight, &[0.5, 1.0, 1.5, 2.0])]), ..head };
        let case = case(&format!("extreme_{name}"), [0.75, 0.0], &labels, std::slice::from_ref(&head));
        suite.close("naive", case.clone(), vec![("rows", naive(&labels, &[head]))]);
        suite.oracle(case);
    }
    // A class of which a softmax is sure: what is left of the loss is e^-20, to a single's last digits.
    let left = (-20f64).exp();
    for (name, form, want) in [
        ("sure", PLAIN, left.ln_1p()),
        ("sure_focal", Form::Softmax { focal: 1.0 }, -(-left.ln_1p()).exp_m1() * left.ln_1p()),
        ("sure_bce", Form::BceOnSoftmax, left.ln_1p()),
    ] {
        let logits = Array::new(&[1, 2], vec![0.0, 20.0]);
        let head = Head { form, reduction: Reduction::N, scale: 1.0, logits, vectors: vectors(2, &[]) };
        let wanted = vec![("rows", Array::new(&[1, 1], vec![want]))];
        suite.close("naive", case(name, [1.0, 0.0], &Labels::one(&[1]), &[head]), wanted);
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
    by_hand(suite);
    combinations(suite);
    shapes(suite);
    identities(suite);
    extremes(suite);
    // A store's labels are checked when it is opened; the CPU looks again.
    suite.check(format!("supervised_loss::error::class on {}", ORACLE.label()), || {
        let head = Head {
            form: PLAIN,
            reduction: Reduction::N,
            scale: 1.0,
            logits: Array::zeros(&[2, 3]),
            vectors: vectors(3, &[]),
        };
        let error = case("class", [1.0, 0.0], &Labels::one(&[1, 3]), &[head]).run(&*devices::open(&ORACLE)).err();
        match error.map(|e| e.to_string()) {
            Some(error) if error.contains("supervised_loss") && error.contains("class 3 is not in 0..3") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // Logits whose exponentials overflow, and a single class far ahead: the loss is the difference.
    let logits = Array::new(&[2, 3], vec![1e4, 0.0, -1e4, -2e4, -2e4 - 512.0, -3e4]);
    let given: &[(ClassVector, &[f64])] = &[(ClassVector::Weight, &[1.0, 2.0, 1.0])];
    let head = Head { form: PLAIN, reduction: Reduction::N, scale: 1.0, logits, vectors: vectors(3, given) };
    let wanted = vec![("rows", Array::new(&[1, 2], vec![2e4, 1024.0]))];
    suite.exact(case("overflow", [1.0, 0.0], &Labels::one(&[1, 1]), &[head]), wanted);
}
