// Supervised losses of one or two heads, loss and gradient (src/ops/supervised_loss.rs has the formulas and their sources).
// Head k (grid.y), row n of views * batch, sample n % batch; label terms t: class i of the original with its share (of a view
// that is not mixed 1 or 0), class j of
// the partner with the rest; s, b, m, w, eps the head's class vectors, S its scale, y a term's class, o the other's:
//
//   u[c] = S * s[c] * logits[n][c] + b[c], the term's own u[y] less S * m[y]
//   rows[k][n] = sum_t share_t * (SumW: batch / sum of the batch's w[y_t]) * w[y] * Loss(u, y)
//   dlogits[n][c] (+)= coefficients[k] / batch * d rows[k][n] / d logits[n][c]
//
// logits, dlogits (count, classes), vectors (5, classes), shares (batch), rows (heads, count), f32; labels (images), originals,
// partners (batch) i32; rows =, dlogits = or += as each head's `add` says, null where only the loss is wanted.
//
// One warp per row: lane l takes classes l, l + 32, ...; any number of classes, read again from cache in each pass. The classes
// other than i and j are the same for both terms: their largest logit and their sum are made once, and each term adds its own
// two, which differ by its margin. Sums of the weights are made by each warp, in the same order.
#include "rows.cuh"
#include "step.cuh"

// A head's Loss: -log softmax[y], smoothed; that with LDAM-DRW's focal factor; binary cross-entropies of the softmax; focal
// binary cross-entropies of sigmoids.
#define SOFTMAX 0
#define FOCAL 1
#define BCE 2
#define SIGMOID 3

// Which labels the samples of a view have; `views` has two bits of each view.
#define MIXED 0
#define ORIGINAL 1

#if !defined(FIRST) || !defined(SECOND)
#error "FIRST, SECOND: the heads' losses, 0 to 3; the same where there is one head"
#endif

struct Head {
    const float* logits;
    const float* vectors;
    float* dlogits;
    float scale;
    float focal;
    u32 add;
    u32 sum_w;  // whether a term is divided by the sum of the batch's weights
};

// A row, and the head's vectors.
struct Row {
    const float* logits;
    const float* scales;
    const float* offsets;
    const float* margins;
    const float* weights;
    const float* smoothing;
    float scale;
    u32 classes;
};

// Both terms' classes, and of all others: how many, under BCE the first one of the largest u, that u, the sums of
// exp(u - largest) with and without that class, and of u - largest; with sigmoids that of their losses.
struct Others {
    u32 i, j;
    u32 count;
    u32 top;
    float largest;
    float exponentials;
    float without_top;
    float sum;
};

// A term: its factor of the row, what is left of its gradient for classes. `own` and `other` are those by u of its class and of
// the other's. Of any other class: share * exp(u - largest) - flat; of BCE p (2 - flat + p / (1 - p)), p = share * exp(u -
// largest), and `top` of the top class.
struct Term {
    float factor;
    float loss;
    float own;
    float other;
    float share;
    float flat;
    float top;
};

DEVICE float logit(const Row& row, u32 c) {
    return fmaf(row.scale * row.scales[c], row.logits[c], row.offsets[c]);
}

// log(1 + e^x).
DEVICE float softplus(float x) {
    return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

// sigmoid(x)^g log(1 + e^x), of which 1 - sigmoid(x) is never taken: it has no digits where x is large.
DEVICE float sigmoid_loss(float x, float g) {
    return expf(-g * softplus(-x)) * softplus(x);
}

DEVICE float sigmoid_slope(float x, float g) {
    float high = softplus(x), low = softplus(-x);
    return expf(-g * low) * (expf(-low) + g * expf(-high) * high);
}

// p / (1 - p), given both in one unit; the latter may have vanished.
DEVICE float odds(float part, float rest) {
    return part / fmaxf(rest, 1.17549435e-38f);
}

template <int FORM>
DEVICE Others survey(const Row& row, u32 i, u32 j, float focal, u32 lane) {
    Others all;
    all.i = i;
    all.j = j;
    all.count = row.classes - (i == j ? 1 : 2);
    all.top = row.classes;
    all.largest = minus_infinity();
    all.exponentials = all.without_top = all.sum = 0.0f;
    if constexpr (FORM == SIGMOID) {
        for (u32 c = lane; c < row.classes; c += 32)
            if (c != i && c != j) all.sum += sigmoid_loss(logit(row, c), focal);
    } else {
        u32 first = row.classes;
        for (u32 c = lane; c < row.classes; c += 32) {
            if (c == i || c == j) continue;
            float u = logit(row, c);
            if (u > all.largest) {
                all.largest = u;
                first = c;
            }
        }
        float largest = warp_max(all.largest);
        if constexpr (FORM == BCE) {
            // Of the lanes that have the largest, the first class.
            all.top = all.largest == largest ? first : row.classes;
            for (int offset = 16; offset > 0; offset /= 2) {
                u32 other = __shfl_xor_sync(0xffffffffu, all.top, offset);
                all.top = other < all.top ? other : all.top;
            }
        }
        all.largest = largest;
        for (u32 c = lane; c < row.classes; c += 32) {
            if (c == i || c == j || c == all.top) continue;
            float less = logit(row, c) - largest;
            all.exponentials += expf(less);
            all.sum += less;
        }
        all.exponentials = warp_sum(all.exponentials);
        all.without_top = all.exponentials;
        if (all.top < row.classes) all.exponentials += 1.0f;
    }
    all.sum = warp_sum(all.sum);
    return all;
}

// The term of class y, whose other class is o; the same in all lanes.
template <int FORM>
DEVICE Term term(const Row& row, const Others& all, u32 y, u32 o, float factor, float focal, u32 lane) {
    bool apart = y != o;
    float own = logit(row, y) - row.scale * row.margins[y], other = apart ? logit(row, o) : minus_infinity();
    float weight = row.weights[y];
    Term t;
    t.factor = factor;
    t.top = 0.0f;
    if constexpr (FORM == SIGMOID) {
        t.loss = weight * (all.sum + sigmoid_loss(-own, focal) + (apart ? sigmoid_loss(other, focal) : 0.0f));
        t.own = -weight * sigmoid_slope(-own, focal);
        t.other = apart ? weight * sigmoid_slope(other, focal) : 0.0f;
        t.share = weight;
        t.flat = 0.0f;
        return t;
    }
    float largest = fmaxf(fmaxf(all.largest, own), other);
    float shrink = expf(all.largest - largest), first = expf(own - largest), second = apart ? expf(other - largest) : 0.0f;
    float rest = all.exponentials * shrink + second, sum = rest + first;
    // -log softmax[y], to the last digit also where softmax[y] is 1.
    float loss = own == largest ? log1pf(rest) : largest - own + logf(sum);
    t.share = shrink / sum;
    if constexpr (FORM == BCE) {
        float logs = 0.0f, spread = 0.0f;
        for (u32 c = lane; c < row.classes; c += 32) {
            if (c == all.i || c == all.j || c == all.top) continue;
            float p = t.share * expf(logit(row, c) - all.largest), ratio = p / (1.0f - p);
            logs += log1pf(ratio);
            spread += ratio;
        }
        logs = warp_sum(logs);
        spread = warp_sum(spread);
        float top = all.count ? odds(shrink, all.without_top * shrink + first + second) : 0.0f;
        float others = apart ? odds(second, all.exponentials * shrink + first) : 0.0f;
        float each = weight / row.classes;
        t.loss = each * (loss + logs + log1pf(top) + log1pf(others));
        t.own = -each * (rest + first * (spread + top + others)) / sum;
        t.other = each * (second / sum) * (2.0f - (spread + top));
        t.top = each * t.share * (2.0f - (spread + others));
        t.flat = spread + top + others;
        t.factor = factor * each;
        return t;
    }
    float smoothing = row.smoothing[y], each = smoothing / row.classes;
    if (smoothing != 0.0f) {
        // The mean of -log softmax is -log softmax[y] and the mean of u[y] - u.
        float behind = (all.count ? all.count * (own - all.largest) - all.sum : 0.0f) + (apart ? own - other : 0.0f);
        loss += each * behind;
    }
    float slope = weight;
    t.loss = weight * loss;
    if constexpr (FORM == FOCAL) {
        float ce = fmaxf(t.loss, 0.0f), miss = -expm1f(-ce);
        float power = powf(miss, focal);
        t.loss = power * ce;
        slope *= miss > 0.0f ? power * (1.0f + focal * expf(-ce) * (ce / miss)) : 0.0f;
    }
    t.own = slope * (smoothing - each - rest / sum);
    t.other = apart ? slope * (second / sum - each) : 0.0f;
    t.share *= slope;
    t.flat = slope * each;
    return t;
}

template <int FORM>
DEVICE void loss_of_row(const Head& head, const i32* labels, const i32* originals, const i32* partners,
                        const float* shares, const StepParams* scalars, float* rows, u32 batch, u32 classes, u32 views,
                        u32 n) {
    u32 lane = threadIdx.x % 32, sample = n % batch;
    u64 start = static_cast<u64>(n) * classes;
    const float* vectors = head.vectors;
    Row row = {head.logits + start, vectors, vectors + classes, vectors + 2 * classes, vectors + 3 * classes,
               vectors + 4 * classes, head.scale, classes};
    u32 i = labels[originals[sample]], j = labels[partners[sample]];
    u32 view = views >> (n < batch ? 0 : 2) & 3;
    float first = view == MIXED ? shares[sample] : view == ORIGINAL ? 1.0f : 0.0f, second = 1.0f - first;
    if (head.sum_w) {
        float weights = 0.0f, others = 0.0f;
        for (u32 k = lane; k < batch; k += 32) {
            weights += row.weights[labels[originals[k]]];
            others += row.weights[labels[partners[k]]];
        }
        // No division where there is nothing to divide: the sum may be 0.
        weights = warp_sum(weights);
        others = warp_sum(others);
        if (first != 0.0f) first *= batch / weights;
        if (second != 0.0f) second *= batch / others;
    }
    Others all = survey<FORM>(row, i, j, head.focal, lane);
    Term one = {}, two = {};
    if (first != 0.0f) one = term<FORM>(row, all, i, j, first, head.focal, lane);
    if (second != 0.0f) two = term<FORM>(row, all, j, i, second, head.focal, lane);
    if (lane == 0) *rows = first * one.loss + second * two.loss;

    if (head.dlogits == nullptr) return;
    float coefficient = head.scale * (scalars->coefficients[blockIdx.y] / batch);
    float of_i = first * one.own + second * two.other, of_j = first * one.other + second * two.own;
    if (i == j) of_i = of_j = first * one.own + second * two.own;
    float share = first * one.share + second * two.share, flat = first * one.flat + second * two.flat;
    float* dlogits = head.dlogits + start;
    for (u32 c = lane; c < classes; c += 32) {
        float gradient;
        if (c == i) {
            gradient = of_i;
        } else if (c == j) {
            gradient = of_j;
        } else if constexpr (FORM == SIGMOID) {
            gradient = share * sigmoid_slope(logit(row, c), head.focal);
        } else {
            float exponential = expf(logit(row, c) - all.largest);
            if constexpr (FORM == BCE) {
                float p = one.share * exponential, q = two.share * exponential;
                gradient = c == all.top ? first * one.top + second * two.top
                                        : one.factor * p * (2.0f - one.flat + p / (1.0f - p)) +
                                              two.factor * q * (2.0f - two.flat + q / (1.0f - q));
            } else {
                gradient = share * exponential - flat;
            }
        }
        gradient *= coefficient * row.scales[c];
        dlogits[c] = head.add ? dlogits[c] + gradient : gradient;
    }
}

// Rows are few: registers that nothing spills are worth more than blocks side by side.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    supervised_loss(Head first, Head second, const i32* __restrict__ labels, const i32* __restrict__ originals,
                    const i32* __restrict__ partners, const float* __restrict__ shares,
                    const StepParams* __restrict__ scalars, float* __restrict__ rows, u32 count, u32 batch, u32 classes,
                    u32 views) {
    u32 n = warp_row();
    if (n >= count) return;
    rows += blockIdx.y * count + n;
    if constexpr (FIRST == SECOND) {
        Head head = second;
        if (blockIdx.y == 0) head = first;
        loss_of_row<FIRST>(head, labels, originals, partners, shares, scalars, rows, batch, classes, views, n);
    } else if (blockIdx.y == 0) {
        loss_of_row<FIRST>(first, labels, originals, partners, shares, scalars, rows, batch, classes, views, n);
    } else {
        loss_of_row<SECOND>(second, labels, originals, partners, shares, scalars, rows, batch, classes, views, n);
    }
}
