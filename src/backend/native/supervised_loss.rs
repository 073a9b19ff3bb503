//! `supervised_loss` on the CPU: one row of logits at a time, in double.

use super::Native;
use super::load_step;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::supervised_loss::{ClassVector, Form, Head, NAME, Reduction, SupervisedLoss, SupervisedLossKernels};

/// Rows that one thread computes at a time.
const BLOCK: usize = 16;

/// log(1 + e^x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `sigmoid(x)^g log(1 + e^x)` and its derivative.
fn sigmoid_loss(x: f64, g: f64) -> (f64, f64) {
    let (high, low) = (softplus(x), softplus(-x));
    let power = (-g * low).exp();
    (power * high, power * ((-low).exp() + g * (-high).exp() * high))
}

/// p / (1 - p), given both in one unit; the latter may have vanished.
fn odds(part: f64, rest: f64) -> f64 {
    part / rest.max(f64::from(f32::MIN_POSITIVE))
}

/// A head's class vectors and loss.
struct Loss<'a, T> {
    vectors: [&'a [T]; ClassVector::COUNT],
    form: Form,
    scale: f64,
}

/// A row of logits and the classes of its label terms.
struct Row<'a, T> {
    loss: &'a Loss<'a, T>,
    logits: &'a [T],
    labels: [usize; 2],
}

/// Of the classes that are neither label: the largest u and its first class, the sums of `exp(u - largest)`, with and without
/// that class, and of `u - largest`; with sigmoids the sum of their losses.
struct Others {
    count: f64,
    top: Option<usize>,
    largest: f64,
    exponentials: f64,
    without_top: f64,
    sum: f64,
}

/// A label term's loss, its gradient by u of its class, by u of the other term's class, and what [`Row::gradient`] makes those
/// of all others from. Every one is 0 for a term that is left out.
#[derive(Clone, Copy, Default)]
struct Term {
    loss: f64,
    own: f64,
    other: f64,
    top: f64,
    /// Of `exp(u - largest)` of the others.
    share: f64,
    /// What a softmax's gradient is less, of every class alike; the sum of all odds under BCE.
    flat: f64,
    /// Of BCE's gradient.
    each: f64,
}

impl<T: Real> Loss<'_, T> {
    fn of(&self, vector: ClassVector, class: usize) -> f64 {
        self.vectors[vector as usize][class].to_f64()
    }
}

impl<T: Real> Row<'_, T> {
    fn u(&self, class: usize) -> f64 {
        let (scale, offset) = (self.loss.of(ClassVector::Scale, class), self.loss.of(ClassVector::Offset, class));
        self.loss.scale * scale * self.logits[class].to_f64() + offset
    }

    /// The classes that are neither label.
    fn rest(&self) -> impl Iterator<Item = usize> {
        let [i, j] = self.labels;
        (0..self.logits.len()).filter(move |&c| c != i && c != j)
    }

    fn others(&self) -> Others {
        let mut all = Others {
            count: (self.logits.len() - 1 - usize::from(self.labels[0] != self.labels[1])) as f64,
            top: None,
            largest: f64::NEG_INFINITY,
            exponentials: 0.0,
            without_top: 0.0,
            sum: 0.0,
        };
        if let Form::SigmoidFocal { focal } = self.loss.form {
            all.sum = self.rest().map(|c| sigmoid_loss(self.u(c), f64::from(focal)).0).sum();
            return all;
        }
        for c in self.rest() {
            let u = self.u(c);
            if u > all.largest {
                (all.largest, all.top) = (u, Some(c));
            }
        }
        for c in self.rest() {
            let less = self.u(c) - all.largest;
            all.sum += less;
            let exponential = less.exp();
            all.exponentials += exponential;
            all.without_top += if all.top == Some(c) { 0.0 } else { exponential };
        }
        all
    }

    /// The term of label `t`.
    fn term(&self, all: &Others, t: usize) -> Term {
        let (y, o) = (self.labels[t], self.labels[1 - t]);
        let classes = self.logits.len() as f64;
        let weight = self.loss.of(ClassVector::Weight, y);
        let own = self.u(y) - self.loss.scale * self.loss.of(ClassVector::Margin, y);
        let other = if y == o { f64::NEG_INFINITY } else { self.u(o) };
        if let Form::SigmoidFocal { focal } = self.loss.form {
            let (loss, slope) = sigmoid_loss(-own, f64::from(focal));
            let (more, rise) = if y == o { (0.0, 0.0) } else { sigmoid_loss(other, f64::from(focal)) };
            let loss = weight * (all.sum + loss + more);
            return Term { loss, own: -weight * slope, other: weight * rise, share: weight, ..Term::default() };
        }
        let largest = all.largest.max(own).max(other);
        let (shrink, first, second) = ((all.largest - largest).exp(), (own - largest).exp(), (other - largest).exp());
        let rest = all.exponentials * shrink + second;
        let sum = rest + first;
        // -log softmax, to the last digit also where softmax is 1.
        let loss = if own == largest { rest.ln_1p() } else { largest - own + sum.ln() };
        let share = shrink / sum;
        let focal = match self.loss.form {
            Form::BceOnSoftmax => return self.bce(all, [first, second, shrink, sum], loss, weight / classes),
            Form::Softmax { focal } | Form::SigmoidFocal { focal } => f64::from(focal),
        };
        let smoothing = self.loss.of(ClassVector::Smoothing, y);
        let each = smoothing / classes;
        // The mean of -log softmax is -log softmax of y and the mean of its u less the others'.
        let behind = if all.count > 0.0 { all.count * (own - all.largest) - all.sum } else { 0.0 }
            + if y == o { 0.0 } else { own - other };
        let ce = weight * if smoothing == 0.0 { loss } else { loss + each * behind };
        let (mut loss, mut slope) = (ce, weight);
        if focal > 0.0 {
            let (ce, miss) = (ce.max(0.0), -(-ce.max(0.0)).exp_m1());
            let power = miss.powf(focal);
            loss = power * ce;
            slope *= if miss > 0.0 { power * (1.0 + focal * (-ce).exp() * (ce / miss)) } else { 0.0 };
        }
        Term {
            loss,
            own: slope * (smoothing - each - rest / sum),
            other: if y == o { 0.0 } else { slope * (second / sum - each) },
            share: slope * share,
            flat: slope * each,
            ..Term::default()
        }
    }

    /// A term of binary cross-entropies from the label's own loss, where 1 - p is never the difference of like numbers.
    fn bce(&self, all: &Others, [first, second, shrink, sum]: [f64; 4], loss: f64, each: f64) -> Term {
        let (mut logs, mut spread) = (0.0, 0.0);
        for c in self.rest().filter(|&c| Some(c) != all.top) {
            let p = (self.u(c) - all.largest).exp() * shrink / sum;
            let odds = p / (1.0 - p);
            logs += odds.ln_1p();
            spread += odds;
        }
        let top = if all.top.is_some() { odds(shrink, all.without_top * shrink + first + second) } else { 0.0 };
        let rest = all.exponentials * shrink;
        let other = if second > 0.0 { odds(second, rest + first) } else { 0.0 };
        Term {
            loss: each * (loss + logs + top.ln_1p() + other.ln_1p()),
            own: -each * (rest + second + first * (spread + top + other)) / sum,
            other: each * second / sum * (2.0 - spread - top),
            top: each * shrink / sum * (2.0 - spread - other),
            share: shrink / sum,
            flat: spread + top + other,
            each,
        }
    }

    /// A term's gradient by u of class `c`, which is neither label.
    fn gradient(&self, all: &Others, term: &Term, c: usize) -> f64 {
        let exponential = || (self.u(c) - all.largest).exp();
        match self.loss.form {
            Form::SigmoidFocal { focal } => term.share * sigmoid_loss(self.u(c), f64::from(focal)).1,
            Form::Softmax { .. } => term.share * exponential() - term.flat,
            Form::BceOnSoftmax if all.top == Some(c) => term.top,
            Form::BceOnSoftmax => {
                let p = term.share * exponential();
                term.each * p * (2.0 - term.flat + p / (1.0 - p))
            }
        }
    }

    /// The row's loss, whose terms count `factors`; writes its gradient times `coefficient`.
    fn compute(&self, factors: [f64; 2], dlogits: Option<(&mut [T], bool)>, coefficient: f64) -> f64 {
        let all = self.others();
        // A share of 0 may stand before an infinite loss.
        let term = |t: usize| if factors[t] == 0.0 { Term::default() } else { self.term(&all, t) };
        let terms = [term(0), term(1)];
        if let Some((out, accumulate)) = dlogits {
            let [i, j] = self.labels;
            // The terms of a softmax or of sigmoids differ in factors alone: one exponential serves both.
            let sum = |of: fn(&Term) -> f64| factors[0] * of(&terms[0]) + factors[1] * of(&terms[1]);
            let both = Term { share: sum(|t| t.share), flat: sum(|t| t.flat), ..Term::default() };
            for (c, out) in out.iter_mut().enumerate() {
                let gradient = match (c == i, c == j) {
                    (true, true) => sum(|t| t.own),
                    (true, false) => factors[0] * terms[0].own + factors[1] * terms[1].other,
                    (false, true) => factors[0] * terms[0].other + factors[1] * terms[1].own,
                    (false, false) if self.loss.form == Form::BceOnSoftmax => {
                        factors[0] * self.gradient(&all, &terms[0], c) + factors[1] * self.gradient(&all, &terms[1], c)
                    }
                    (false, false) => self.gradient(&all, &both, c),
                };
                let gradient = coefficient * self.loss.scale * self.loss.of(ClassVector::Scale, c) * gradient;
                *out = T::from_f64(if accumulate { out.to_f64() + gradient } else { gradient });
            }
        }
        factors[0] * terms[0].loss + factors[1] * terms[1].loss
    }
}

fn supervised_loss<T: Real>(native: &Native, t: &SupervisedLoss) -> Result<()> {
    let a = native.memory.access()?;
    let coefficients = load_step::params(&a, t.scalars)?.coefficients;
    if !(1..=2).contains(&t.heads.len()) {
        return Err(Error::op(NAME, format!("one or two heads, not {}", t.heads.len())));
    }
    let (labels, shares) = (a.read::<i32>(t.labels)?, a.read::<f32>(t.shares)?);
    let (originals, partners) = (a.read::<i32>(t.originals)?, a.read::<i32>(t.partners)?);
    let batch = originals.len();
    if (partners.len(), shares.len()) != (batch, batch) || batch == 0 {
        let (partners, shares) = (t.partners.shape, t.shares.shape);
        return Err(Error::op(NAME, format!("{batch} originals, partners {partners}, shares {shares}")));
    }
    let losses = a.write::<T>(t.rows)?;
    let count = losses.len() / t.heads.len();
    for ((head, coefficient), losses) in t.heads.iter().zip(coefficients).zip(losses.chunks_exact_mut(count.max(1))) {
        let (logits, vectors) = (a.read::<T>(head.logits)?, a.read::<T>(head.vectors)?);
        let dlogits = head.dlogits.map(|d| a.write::<T>(d.tensor)).transpose()?;
        let accumulate = head.dlogits.is_some_and(|d| d.accumulate);
        let classes = head.logits.shape.two().map_or(0, |[_, classes]| classes);
        let sizes = (logits.len(), vectors.len(), dlogits.as_ref().map_or(logits.len(), |d| d.len()));
        if sizes != (count * classes, ClassVector::COUNT * classes, count * classes) || classes == 0 {
            let Head { logits, vectors, .. } = head;
            return Err(Error::op(NAME, format!("logits {} and class vectors {}", logits.shape, vectors.shape)));
        }
        let class = |image: i32| -> Result<usize> {
            load_step::index(NAME, "class", labels[load_step::index(NAME, "image", image, labels.len())?], classes)
        };
        let loss = Loss {
            vectors: std::array::from_fn(|vector| &vectors[vector * classes..][..classes]),
            form: head.form,
            scale: f64::from(head.scale),
        };
        let mut weights = [0.0; 2];
        for (&original, &partner) in originals.iter().zip(partners) {
            weights[0] += loss.of(ClassVector::Weight, class(original)?);
            weights[1] += loss.of(ClassVector::Weight, class(partner)?);
        }
        let over = match head.reduction {
            Reduction::N => [1.0; 2],
            Reduction::SumW => weights.map(|sum| batch as f64 / sum),
        };
        let coefficient = f64::from(coefficient) / batch as f64;
        let work = |first: usize, (losses, dlogits): (Rows<'_, T>, Option<Rows<'_, T>>)| {
            let mut dlogits = dlogits.map(|d| d.0.chunks_exact_mut(classes));
            for (n, to) in (first..).zip(losses.0) {
                let out = dlogits.as_mut().and_then(Iterator::next).map(|out| (out, accumulate));
                let sample = n % batch;
                // All were checked above.
                let labels = [originals, partners].map(|images| labels[images[sample] as usize] as usize);
                let share = f64::from(t.views[n / batch % 2].share(shares[sample]));
                let mut factors = [share, 1.0 - share];
                // A share of 0 stays 0 where a sum of weights is 0.
                factors.iter_mut().zip(over).filter(|(f, _)| **f != 0.0).for_each(|(f, over)| *f *= over);
                let row = Row { loss: &loss, logits: &logits[n * classes..][..classes], labels };
                *to = T::from_f64(row.compute(factors, out, coefficient));
            }
        };
        let data = (Rows(losses, 1), dlogits.map(|d| Rows(d, classes)));
        native.pool.install(|| for_chunks(data, count, BLOCK, &work));
    }
    Ok(())
}

impl SupervisedLossKernels for Native {
    fn supervised_loss(&self, t: &SupervisedLoss) -> Result<()> {
        with_real!(self, T => supervised_loss::<T>(self, t))
    }
}
