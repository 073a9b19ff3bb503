//! Shapes that do not fit: each op refuses them when it is recorded, by name, with the shapes.

use glmc_engine::Error;
use glmc_engine::ops::Backend;
use glmc_engine::ops::augment_mix::{Augmentation, Mixing, View, augment_mix, mix_views};
use glmc_engine::ops::augment_photos::{PhotoConfig, Photos, augment_photos};
use glmc_engine::ops::batch_norm_apply::{Parameters, batch_norm_apply};
use glmc_engine::ops::batch_norm_statistics::batch_norm_statistics;
use glmc_engine::ops::classify::classify;
use glmc_engine::ops::conv2d::{self, conv2d};
use glmc_engine::ops::global_avg_pool::global_avg_pool;
use glmc_engine::ops::join_branches::join_branches;
use glmc_engine::ops::linear::linear;
use glmc_engine::ops::load_step::{StepVars, load_step};
use glmc_engine::ops::max_pool::{self, max_pool};
use glmc_engine::ops::negative_cosine::negative_cosine;
use glmc_engine::ops::normalize_rows::normalize_rows;
use glmc_engine::ops::scale_columns::scale_columns;
use glmc_engine::ops::split_views::split_views;
use glmc_engine::ops::supervised_loss::{Form, HeadLoss, Reduction, ViewLabels, supervised_loss};
use glmc_engine::ops::total_loss::total_loss;
use glmc_engine::tape::{Tape, Var};
use glmc_engine::tensor::DType;

use crate::common::devices::{self, ORACLE};
use crate::common::suite::Suite;

struct Attempt<'a> {
    tape: Tape,
    backend: &'a dyn Backend,
}

impl Attempt<'_> {
    fn real(&mut self, shape: &[usize]) -> Var {
        self.tape.value(shape, DType::F64)
    }

    fn whole(&mut self, shape: &[usize]) -> Var {
        self.tape.value(shape, DType::I32)
    }

    fn step(&mut self, batch: usize) -> StepVars {
        let shares = self.tape.value(&[batch], DType::F32);
        let [originals, partners] = [0; 2].map(|_| self.whole(&[batch]));
        let scalars = self.whole(&[16]);
        StepVars { scalars, logged: scalars, originals, partners, shares }
    }

    fn conv(&mut self, x: &[usize], w: &[usize], stride: usize, views: usize) -> Result<(), Error> {
        self.conv_in(1, x, w, stride, views)
    }

    /// In groups.
    fn conv_in(&mut self, groups: usize, x: &[usize], w: &[usize], stride: usize, views: usize) -> Result<(), Error> {
        let (x, w) = (self.real(x), self.real(w));
        let config = conv2d::Config { stride, padding: 0, views, groups, sums: true };
        conv2d(&mut self.tape, self.backend, x, w, config).map(drop)
    }

    fn pool(&mut self, x: &[usize], kernel: usize, stride: usize, padding: usize) -> Result<(), Error> {
        let x = self.real(x);
        max_pool(&mut self.tape, self.backend, x, max_pool::Config { kernel, stride, padding }).map(drop)
    }

    fn norm(&mut self, c: usize) -> Parameters {
        let [weight, bias, running_mean, running_var] = [0; 4].map(|_| self.real(&[c]));
        Parameters { weight, bias, running_mean, running_var }
    }

    fn statistics(&mut self, x: &[usize], c: usize, sums: &[usize]) -> Result<(), Error> {
        let (x, sums, parameters) = (self.real(x), self.real(sums), self.norm(c));
        batch_norm_statistics(&mut self.tape, self.backend, x, sums, parameters, true).map(drop)
    }

    fn apply(&mut self, x: &[usize], c: usize, views: usize, source: Option<&[usize]>) -> Result<(), Error> {
        let rows = self.backend.batch_norm_statistics_rows();
        let (x, parameters, statistics) = (self.real(x), self.norm(c), self.real(&[views, rows, 8]));
        let source = source.map(|s| self.real(s));
        batch_norm_apply(&mut self.tape, self.backend, x, parameters, Some(statistics), source, true).map(drop)
    }

    fn dense(&mut self, x: &[usize], w: &[usize], b: usize) -> Result<(), Error> {
        let (x, w, b) = (self.real(x), self.real(w), self.real(&[b]));
        linear(&mut self.tape, self.backend, x, w, Some(b)).map(drop)
    }

    fn scaled(&mut self, x: &[usize], scales: &[usize]) -> Result<(), Error> {
        let (x, scales) = (self.real(x), self.real(scales));
        scale_columns(&mut self.tape, self.backend, x, scales).map(drop)
    }

    fn split(&mut self, x: &[usize]) -> Result<(), Error> {
        let x = self.real(x);
        split_views(&mut self.tape, self.backend, x).map(drop)
    }

    fn join(&mut self, first: &[usize], second: &[usize], shares: usize) -> Result<(), Error> {
        let (branches, shares) = ([self.real(first), self.real(second)], self.tape.value(&[shares], DType::F32));
        join_branches(&mut self.tape, self.backend, branches, Some(shares)).map(drop)
    }

    /// Heads of logits and class vectors, for a step of two samples.
    fn supervised(&mut self, heads: &[[&[usize]; 2]], form: Form, scale: f32) -> Result<(), Error> {
        let head = |[logits, vectors]: &[&[usize]; 2]| {
            let (logits, vectors) = (self.real(logits), self.real(vectors));
            HeadLoss { logits, vectors, form, reduction: Reduction::N, scale }
        };
        let heads: Vec<_> = heads.iter().map(head).collect();
        let (labels, vars) = (self.whole(&[9]), self.step(2));
        supervised_loss(&mut self.tape, self.backend, &heads, labels, vars, [ViewLabels::Mixed; 2]).map(drop)
    }

    fn cosine(&mut self, u: &[usize], target: &[usize]) -> Result<(), Error> {
        let (u, target, step) = (self.real(u), self.real(target), self.whole(&[16]));
        negative_cosine(&mut self.tape, self.backend, u, target, step).map(drop)
    }

    /// Logits of one head or several, for a step of two samples.
    fn classified(&mut self, heads: &[&[usize]]) -> Result<(), Error> {
        let heads: Vec<_> = heads.iter().map(|shape| self.real(shape)).collect();
        let (labels, vars, ranks) = (self.whole(&[9]), self.step(2), self.whole(&[9]));
        let [confidences, losses] = [(); 2].map(|()| self.tape.value(&[9], DType::F32));
        classify(&mut self.tape, self.backend, (&heads, 1.0), labels, vars, [ranks, confidences, losses])
    }

    fn augment(&mut self, pixels: &[usize], dtype: DType) -> Result<(), Error> {
        let (pixels, vars) = (self.tape.value(pixels, dtype), self.step(2));
        let augmentation = Augmentation { mean: [0.5; 3], std: [0.5; 3], padding: 4, flip: true };
        augment_mix(&mut self.tape, self.backend, pixels, vars, Mixing::GLMC, augmentation).map(drop)
    }

    /// Photographs of a step of two samples.
    fn photos(&mut self, index: &[usize], draws: &[usize], size: usize, stride: usize) -> Result<(), Error> {
        let photos =
            Photos { pixels: self.tape.value(&[99], DType::U8), index: self.whole(index), draws: self.whole(draws) };
        let (vars, config) = (self.step(2), PhotoConfig { size, stride, mean: [0.5; 3], std: [0.5; 3] });
        augment_photos(&mut self.tape, self.backend, photos, vars, Mixing::GLMC, config).map(drop)
    }
}

const PLAIN: Form = Form::Softmax { focal: 0.0 };

type Try = fn(&mut Attempt<'_>) -> Result<(), Error>;

/// An op, what is wrong, words that the message must have, the attempt.
const WRONG: &[(&str, &str, &[&str], Try)] = &[
    ("conv2d", "input_rank", &["[2, 5, 3]", "four"], |t| t.conv(&[2, 5, 3], &[4, 3, 3, 3], 1, 1)),
    ("conv2d", "weight_rank", &["[4, 27]", "four"], |t| t.conv(&[2, 5, 5, 3], &[4, 27], 1, 1)),
    ("conv2d", "channels", &["[4, 3, 3, 2]", "[4, 3, 3, 3]"], |t| t.conv(&[2, 5, 5, 3], &[4, 3, 3, 2], 1, 1)),
    ("conv2d", "not_square", &["[4, 3, 2, 3]", "[4, 3, 3, 3]"], |t| t.conv(&[2, 5, 5, 3], &[4, 3, 2, 3], 1, 1)),
    ("conv2d", "too_large", &["7x7", "[2, 5, 5, 3]"], |t| t.conv(&[2, 5, 5, 3], &[4, 7, 7, 3], 1, 1)),
    ("conv2d", "stride_0", &["[2, 5, 5, 3]"], |t| t.conv(&[2, 5, 5, 3], &[4, 3, 3, 3], 0, 1)),
    ("conv2d", "empty_batch", &["[0, 5, 5, 3]"], |t| t.conv(&[0, 5, 5, 3], &[4, 3, 3, 3], 1, 1)),
    ("conv2d", "groups_0", &["0 groups", "3 channels"], |t| t.conv_in(0, &[2, 5, 5, 3], &[4, 3, 3, 3], 1, 1)),
    ("conv2d", "groups_of_channels", &["2 groups", "3 channels"], |t| t.conv_in(2, &[2, 5, 5, 3], &[4, 3, 3, 1], 1, 1)),
    ("conv2d", "groups_of_filters", &["2 groups", "5 filters"], |t| t.conv_in(2, &[2, 5, 5, 4], &[5, 3, 3, 2], 1, 1)),
    ("conv2d", "groups_of_the_weight", &["[4, 3, 3, 4]", "[4, 3, 3, 2]"], |t| {
        t.conv_in(2, &[2, 5, 5, 4], &[4, 3, 3, 4], 1, 1)
    }),
    ("conv2d", "views", &["2 views", "batch of 3"], |t| t.conv(&[3, 5, 5, 3], &[4, 3, 3, 3], 1, 2)),
    ("batch_norm_statistics", "input_rank", &["[4, 8]", "four"], |t| t.statistics(&[4, 8], 8, &[2, 1, 2, 8])),
    ("batch_norm_statistics", "sums_rank", &["[2, 8]", "four"], |t| t.statistics(&[4, 2, 2, 8], 8, &[2, 8])),
    ("batch_norm_statistics", "parameters", &["[7]", "[8]"], |t| t.statistics(&[4, 2, 2, 8], 7, &[2, 1, 2, 8])),
    ("batch_norm_statistics", "sums", &["[2, 1, 2, 7]", "[2, 1, 2, 8]"], |t| {
        t.statistics(&[4, 2, 2, 8], 8, &[2, 1, 2, 7])
    }),
    ("batch_norm_statistics", "views", &["2 views", "batch of 3"], |t| t.statistics(&[3, 2, 2, 8], 8, &[2, 1, 2, 8])),
    ("batch_norm_statistics", "one_value", &["more than one value"], |t| t.statistics(&[2, 1, 1, 8], 8, &[2, 1, 2, 8])),
    ("batch_norm_apply", "input_rank", &["[4, 8]", "four"], |t| t.apply(&[4, 8], 8, 2, None)),
    ("batch_norm_apply", "parameters", &["[7]", "[8]"], |t| t.apply(&[4, 2, 2, 8], 7, 2, None)),
    ("batch_norm_apply", "statistics", &["[2, 3, 8]", "[2, 3, 9]"], |t| t.apply(&[4, 2, 2, 9], 9, 2, None)),
    ("batch_norm_apply", "views", &["2 views", "batch of 3"], |t| t.apply(&[3, 2, 2, 8], 8, 2, None)),
    ("batch_norm_apply", "shortcut_rank", &["[4, 8]", "four"], |t| t.apply(&[4, 2, 2, 8], 8, 2, Some(&[4, 8]))),
    ("batch_norm_apply", "shortcut_channels", &["[4, 4, 4, 9]", "[4, 2, 2, 8]"], |t| {
        t.apply(&[4, 2, 2, 8], 8, 2, Some(&[4, 4, 4, 9]))
    }),
    ("batch_norm_apply", "shortcut_rows", &["[4, 5, 4, 8]", "[4, 2, 2, 8]"], |t| {
        t.apply(&[4, 2, 2, 8], 8, 2, Some(&[4, 5, 4, 8]))
    }),
    ("global_avg_pool", "rank", &["[4, 8]", "four"], |t| {
        let x = t.real(&[4, 8]);
        global_avg_pool(&mut t.tape, t.backend, x).map(drop)
    }),
    ("max_pool", "rank", &["[4, 8]", "four"], |t| t.pool(&[4, 8], 3, 2, 1)),
    ("max_pool", "kernel", &["kernel 17"], |t| t.pool(&[1, 20, 20, 8], 17, 2, 1)),
    ("max_pool", "no_kernel", &["kernel 0"], |t| t.pool(&[1, 20, 20, 8], 0, 2, 0)),
    ("max_pool", "stride", &["stride 0"], |t| t.pool(&[1, 4, 4, 8], 3, 0, 1)),
    ("max_pool", "padding", &["padding 2"], |t| t.pool(&[1, 4, 4, 8], 3, 2, 2)),
    ("max_pool", "too_small", &["3x3", "2x9"], |t| t.pool(&[1, 2, 9, 8], 3, 2, 0)),
    ("linear", "input_rank", &["[2, 3, 4, 5]", "two"], |t| t.dense(&[2, 3, 4, 5], &[4, 5], 4)),
    ("linear", "inputs", &["[4, 6]", "[4, 5]"], |t| t.dense(&[2, 5], &[4, 6], 4)),
    ("linear", "bias", &["[3]", "[4]"], |t| t.dense(&[2, 5], &[4, 5], 3)),
    ("normalize_rows", "rank", &["[5]", "two"], |t| {
        let x = t.real(&[5]);
        normalize_rows(&mut t.tape, t.backend, x).map(drop)
    }),
    ("scale_columns", "rank", &["[2, 3, 4, 5]", "two"], |t| t.scaled(&[2, 3, 4, 5], &[5])),
    ("scale_columns", "scales", &["[4]", "[5]"], |t| t.scaled(&[3, 5], &[4])),
    ("split_views", "rank", &["[4, 5]", "four"], |t| t.split(&[4, 5])),
    ("split_views", "odd", &["3 images", "two views"], |t| t.split(&[3, 2, 2, 5])),
    ("split_views", "empty", &["0 images"], |t| t.split(&[0, 2, 2, 5])),
    ("join_branches", "rank", &["[2, 3, 4, 5]", "two"], |t| t.join(&[2, 3, 4, 5], &[2, 5], 2)),
    ("join_branches", "branches", &["[2, 4]", "[2, 5]"], |t| t.join(&[2, 5], &[2, 4], 2)),
    ("join_branches", "shares", &["[3]", "[2]"], |t| t.join(&[2, 5], &[2, 5], 3)),
    ("join_branches", "shares_type", &["F32", "F64"], |t| {
        let [first, second, shares] = [&[2, 5][..], &[2, 5], &[2]].map(|shape| t.real(shape));
        join_branches(&mut t.tape, t.backend, [first, second], Some(shares)).map(drop)
    }),
    ("join_branches", "one_branch", &["two branches are one"], |t| {
        let one = t.real(&[2, 5]);
        join_branches(&mut t.tape, t.backend, [one, one], None).map(drop)
    }),
    ("supervised_loss", "classes", &["[5, 4]", "[5, 5]"], |t| t.supervised(&[[&[4, 5], &[5, 4]]], PLAIN, 1.0)),
    ("supervised_loss", "vectors", &["[4, 5]", "[5, 5]"], |t| t.supervised(&[[&[4, 5], &[4, 5]]], PLAIN, 1.0)),
    ("supervised_loss", "rank", &["[4, 5, 1]", "two"], |t| t.supervised(&[[&[4, 5, 1], &[5, 5]]], PLAIN, 1.0)),
    ("supervised_loss", "batch", &["5 rows", "2 samples"], |t| t.supervised(&[[&[5, 5], &[5, 5]]], PLAIN, 1.0)),
    ("supervised_loss", "heads", &["[4, 6]", "[4, 5]"], |t| {
        t.supervised(&[[&[4, 5], &[5, 5]], [&[4, 6], &[5, 6]]], PLAIN, 1.0)
    }),
    ("supervised_loss", "no_heads", &["one or two heads", "not 0"], |t| t.supervised(&[], PLAIN, 1.0)),
    ("supervised_loss", "three_heads", &["one or two heads", "not 3"], |t| {
        t.supervised(&[[&[4, 5], &[5, 5]], [&[4, 5], &[5, 5]], [&[4, 5], &[5, 5]]], PLAIN, 1.0)
    }),
    ("supervised_loss", "exponent", &["exponent", "-1"], |t| {
        t.supervised(&[[&[4, 5], &[5, 5]]], Form::SigmoidFocal { focal: -1.0 }, 1.0)
    }),
    ("supervised_loss", "scale", &["above 0", "not 0"], |t| t.supervised(&[[&[4, 5], &[5, 5]]], PLAIN, 0.0)),
    ("supervised_loss", "shares", &["[3]", "[2]"], |t| {
        let (logits, vectors, labels, mut vars) = (t.real(&[4, 5]), t.real(&[5, 5]), t.whole(&[9]), t.step(2));
        vars.shares = t.tape.value(&[3], DType::F32);
        let head = HeadLoss { logits, vectors, form: PLAIN, reduction: Reduction::N, scale: 1.0 };
        supervised_loss(&mut t.tape, t.backend, &[head], labels, vars, [ViewLabels::Mixed; 2]).map(drop)
    }),
    ("negative_cosine", "target", &["[4, 6]", "[4, 5]"], |t| t.cosine(&[4, 5], &[4, 6])),
    ("negative_cosine", "odd", &["[3, 5]", "[2, 5]"], |t| t.cosine(&[3, 5], &[3, 5])),
    ("augment_mix", "colours", &["[9, 8, 8, 4]", "[9, 8, 8, 3]"], |t| t.augment(&[9, 8, 8, 4], DType::U8)),
    ("augment_mix", "rank", &["[9, 192]", "four"], |t| t.augment(&[9, 192], DType::U8)),
    ("augment_mix", "type", &["bytes"], |t| t.augment(&[9, 8, 8, 3], DType::F32)),
    ("augment_photos", "index", &["[9, 3]", "[9, 4]"], |t| t.photos(&[9, 3], &[8, 16], 4, 8)),
    ("augment_photos", "draws", &["[8, 15]", "[8, 16]"], |t| t.photos(&[9, 4], &[8, 15], 4, 8)),
    ("augment_photos", "size", &["0 pixels a side"], |t| t.photos(&[9, 4], &[8, 16], 0, 8)),
    ("augment_photos", "stride", &["7 draws a step", "4 sets of 2"], |t| t.photos(&[9, 4], &[8, 16], 4, 7)),
    ("augment_photos", "pixels", &["a row of bytes"], |t| {
        let (pixels, index, draws) = (t.tape.value(&[9, 11], DType::U8), t.whole(&[9, 4]), t.whole(&[8, 16]));
        let (photos, vars) = (Photos { pixels, index, draws }, t.step(2));
        let config = PhotoConfig { size: 4, stride: 8, mean: [0.5; 3], std: [0.5; 3] };
        augment_photos(&mut t.tape, t.backend, photos, vars, Mixing::GLMC, config).map(drop)
    }),
    ("mix_views", "four_views", &["[6, 8, 8, 3]", "[4, 8, 8, 3]"], |t| {
        let (views, step) = (t.real(&[6, 8, 8, 3]), t.whole(&[16]));
        mix_views(&mut t.tape, t.backend, Mixing::GLMC, views, step).map(drop)
    }),
    ("mix_views", "two_sets", &["[5, 8, 8, 3]", "[4, 8, 8, 3]"], |t| {
        let (views, step) = (t.real(&[5, 8, 8, 3]), t.whole(&[16]));
        mix_views(&mut t.tape, t.backend, Mixing::One(View::Cutmix), views, step).map(drop)
    }),
    ("load_step", "row", &["[3, 21]", "[3, 22]"], |t| {
        let (table, cursor) = (t.whole(&[3, 21]), t.whole(&[1]));
        load_step(&mut t.tape, table, cursor, 2).map(drop)
    }),
    ("total_loss", "columns", &["[3, 5]", "[3, 4]"], |t| {
        let (rows, step, log) = (t.real(&[2, 4]), t.whole(&[16]), t.real(&[3, 5]));
        total_loss(&mut t.tape, t.backend, rows, None, step, log, 2)
    }),
    ("classify", "rank", &["[2, 3, 4, 5]", "two"], |t| t.classified(&[&[2, 3, 4, 5]])),
    ("classify", "views", &["5 rows", "2 samples"], |t| t.classified(&[&[5, 3]])),
    ("classify", "heads", &["[2, 4]", "[2, 3]"], |t| t.classified(&[&[2, 3], &[2, 4]])),
    ("classify", "three", &["one head or two", "3"], |t| t.classified(&[&[2, 3], &[2, 3], &[2, 3]])),
];

pub fn add(suite: &mut Suite) {
    for &(op, what, words, attempt) in WRONG {
        suite.check(format!("{op}::error::{what}"), move || {
            let backend = devices::open(&ORACLE);
            match attempt(&mut Attempt { tape: Tape::new(), backend: &*backend }) {
                Ok(()) => Err("it was accepted".to_owned()),
                Err(error @ Error::Op { op: named, .. }) if named == op => {
                    let message = error.to_string();
                    match words.iter().find(|word| !message.contains(**word)) {
                        Some(word) => Err(format!("{message:?} does not say {word}")),
                        None => Ok(()),
                    }
                }
                Err(other) => Err(format!("another error: {other:?}")),
            }
        });
    }
}
