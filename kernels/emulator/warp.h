// Warp-wide functions: a lane leaves its operands in its record and waits; the last lane to arrive computes the result
// of every lane, and all continue. One switch per lane and call.
#pragma once

#if GLMC_CUT
// c plus eight products as a tensor core adds them: the products are exact, all nine terms are aligned to the largest, and what
// lies below its last bit is cut off, as is the end of the sum. By Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of
// NVIDIA tensor cores" (PeerJ CS, 2021); GPUs since Ampere keep a bit or more below, which this does not.
static float glmc_cut_sum(float c, const float* a, const float (*b)[8], u32 n) {
    double terms[9] = {c}, largest = 0.0;
    for (u32 k = 0; k < 8; k++) terms[k + 1] = static_cast<double>(a[k]) * b[k][n];
    for (double term : terms) largest = __builtin_fmax(largest, __builtin_fabs(term));
    if (largest == 0.0 || !__builtin_isfinite(largest)) {
        double sum = 0.0;
        for (double term : terms) sum += term;
        return static_cast<float>(sum);
    }
    int exponent = 0;
    __builtin_frexp(largest, &exponent);
    double unit = __builtin_ldexp(1.0, exponent - 24), units = 0.0;
    for (double term : terms) units += __builtin_trunc(term / unit);
    double sum = units * unit;
    float rounded = static_cast<float>(sum);
    return __builtin_fabs(rounded) > __builtin_fabs(sum) ? __builtin_nextafterf(rounded, 0.0f) : rounded;
}
#endif

// Layouts: see portable.cuh. Operands in `in`: mma has a in 0..3, b in 4..5 and c in 6..9.
static GLMC_QUIET void glmc_mma(GlmcLane* lanes) {
    float a[16][16], b[16][8], c[16][8];
    auto half = [](u32 pair, bool high) {
        u32 bits = high ? pair & 0xffff0000u : pair << 16;
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    };
    for (u32 l = 0; l < 32; l++) {
        const u32* in = lanes[l].in;
        u32 g = l / 4, t = 2 * (l % 4);
        for (u32 h = 0; h < 2; h++) {
            a[g][t + h] = half(in[0], h);
            a[g + 8][t + h] = half(in[1], h);
            a[g][t + 8 + h] = half(in[2], h);
            a[g + 8][t + 8 + h] = half(in[3], h);
            b[t + h][g] = half(in[4], h);
            b[t + 8 + h][g] = half(in[5], h);
            __builtin_memcpy(&c[g][t + h], &in[6 + h], 4);
            __builtin_memcpy(&c[g + 8][t + h], &in[8 + h], 4);
        }
    }
#if GLMC_CUT
    for (u32 m = 0; m < 16; m++)
        for (u32 n = 0; n < 8; n++)
            for (u32 k = 0; k < 16; k += 8) c[m][n] = glmc_cut_sum(c[m][n], a[m] + k, b + k, n);
#else
    for (u32 m = 0; m < 16; m++) {
        float sum[8] = {};
        for (u32 k = 0; k < 16; k++) {
            float left = a[m][k];
            for (u32 n = 0; n < 8; n++) sum[n] += left * b[k][n];
        }
        for (u32 n = 0; n < 8; n++) c[m][n] += sum[n];
    }
#endif
    for (u32 l = 0; l < 32; l++) {
        u32 g = l / 4, t = 2 * (l % 4);
        for (u32 h = 0; h < 2; h++) {
            __builtin_memcpy(&lanes[l].out[h], &c[g][t + h], 4);
            __builtin_memcpy(&lanes[l].out[2 + h], &c[g + 8][t + h], 4);
        }
    }
}

static GLMC_QUIET void glmc_ldmatrix(GlmcLane* lanes, bool transposed) {
    const u16* rows[32];
    for (u32 l = 0; l < 32; l++) {
        u64 address = lanes[l].in[0] | static_cast<u64>(lanes[l].in[1]) << 32;
        rows[l] = reinterpret_cast<const u16*>(address);
    }
    for (u32 l = 0; l < 32; l++) {
        u32 g = l / 4, t = 2 * (l % 4);
        for (u32 i = 0; i < 4; i++) {
            u32 low = transposed ? rows[8 * i + t][g] : rows[8 * i + g][t];
            u32 high = transposed ? rows[8 * i + t + 1][g] : rows[8 * i + g][t + 1];
            lanes[l].out[i] = low | high << 16;
        }
    }
}

// Completes the function that the lanes of `group` wait in.
static GLMC_QUIET void glmc_complete(GlmcLane* lanes, u32 group, u32 op) {
    switch (op) {
        case GLMC_OP_SHUFFLE:  // in: value (2 words), lane to read from
            for (u32 l = 0; l < 32; l++)
                if (group >> l & 1) {
                    u32 from = lanes[l].in[2];
                    if (!(group >> from & 1)) from = l;  // undefined on a GPU; glmc_shuffle has refused it when checked
                    lanes[l].out[0] = lanes[from].in[0];
                    lanes[l].out[1] = lanes[from].in[1];
                }
            break;
        case GLMC_OP_BALLOT: {
            u32 votes = 0;
            for (u32 l = 0; l < 32; l++)
                if ((group >> l & 1) && lanes[l].in[0]) votes |= 1u << l;
            for (u32 l = 0; l < 32; l++)
                if (group >> l & 1) lanes[l].out[0] = votes;
            break;
        }
        case GLMC_OP_SYNCWARP:
            if (group == lanes->warp->present) lanes->warp->syncs++;
            break;
        case GLMC_OP_LDMATRIX:
        case GLMC_OP_LDMATRIX_TRANS:
            glmc_ldmatrix(lanes, op == GLMC_OP_LDMATRIX_TRANS);
            break;
        case GLMC_OP_MMA:
            glmc_mma(lanes);
            break;
    }
}

// Arrives at warp-wide function `op` with the lanes of `mask`; back when all of them have arrived and it is done.
static __attribute__((noinline, no_sanitize("thread"))) void glmc_meet(GlmcLane* lane, u32 op, u32 mask,
                                                                       const char* file, u32 line) {
    GlmcWarp* warp = lane->warp;
    u32 group = mask & warp->present;
    bool whole = op == GLMC_OP_MMA || op == GLMC_OP_LDMATRIX || op == GLMC_OP_LDMATRIX_TRANS;
    if (!(mask >> lane->lane & 1) || (whole && warp->present != 0xffffffffu))
        glmc_fail(GLMC_FAIL_MASK, 0, mask, false, 0, 0, file, line);
    lane->op = op;
    lane->mask = group;
    lane->file = file;
    lane->line = line;
    warp->waiting |= 1u << lane->lane;
    if ((warp->waiting & group) != group) {
        lane->state = GLMC_WARP;
        lane->block->suspend(lane);
        return;
    }
    GlmcLane* lanes = lane - lane->lane;
    for (u32 rest = group; rest != 0; rest &= rest - 1) {
        const GlmcLane* other = lanes + __builtin_ctz(rest);
        if (other->op != op || other->mask != group || other->line != line)
            glmc_fail(GLMC_FAIL_DIVERGED, 0, other->line, false, 0, other->linear, file, line);
    }
    glmc_complete(lanes, group, op);
    warp->waiting &= ~group;
    warp->runnable |= group & ~(1u << lane->lane);
}

template <typename T>
static GLMC_QUIET __attribute__((noinline)) T glmc_shuffle(u32 mask, T value, u32 from, const char* file, u32 line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    GlmcLane* lane = GLMC_LANE();
    if (!((mask & lane->warp->present) >> from & 1)) {
#ifdef GLMC_CHECKED
        glmc_fail(GLMC_FAIL_MASK, 0, mask, false, 0, 0, file, line);
#endif
    }
    __builtin_memcpy(lane->in, &value, sizeof(T));
    lane->in[2] = from;
    glmc_meet(lane, GLMC_OP_SHUFFLE, mask, file, line);
    __builtin_memcpy(&value, lane->out, sizeof(T));
    return value;
}

GLMC_CONTEXT u32 glmc_lane_id() {
    return GLMC_LANE()->lane;
}

template <typename T>
DEVICE T __shfl_xor_sync(u32 mask, T value, int lane_mask, int width = 32, GLMC_HERE) {
    u32 self = glmc_lane_id();
    u32 from = self ^ static_cast<u32>(lane_mask);
    return glmc_shuffle(mask, value, from / width > self / width ? self : from, file, line);
}
template <typename T>
DEVICE T __shfl_down_sync(u32 mask, T value, u32 delta, int width = 32, GLMC_HERE) {
    u32 self = glmc_lane_id();
    return glmc_shuffle(mask, value, self % width + delta < static_cast<u32>(width) ? self + delta : self, file, line);
}
template <typename T>
DEVICE T __shfl_up_sync(u32 mask, T value, u32 delta, int width = 32, GLMC_HERE) {
    u32 self = glmc_lane_id();
    return glmc_shuffle(mask, value, self % width >= delta ? self - delta : self, file, line);
}
template <typename T>
DEVICE T __shfl_sync(u32 mask, T value, int from, int width = 32, GLMC_HERE) {
    u32 self = glmc_lane_id();
    return glmc_shuffle(mask, value, self / width * width + static_cast<u32>(from) % width, file, line);
}
static GLMC_QUIET __attribute__((noinline)) u32 __ballot_sync(u32 mask, int predicate, GLMC_HERE) {
    GlmcLane* lane = GLMC_LANE();
    lane->in[0] = predicate != 0;
    glmc_meet(lane, GLMC_OP_BALLOT, mask, file, line);
    return lane->out[0];
}
DEVICE int __any_sync(u32 mask, int predicate, GLMC_HERE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
DEVICE int __all_sync(u32 mask, int predicate, GLMC_HERE) {
    return __ballot_sync(mask, !predicate, file, line) == 0;
}
static GLMC_QUIET __attribute__((noinline)) void __syncwarp(u32 mask = 0xffffffffu, GLMC_HERE) {
    glmc_meet(GLMC_LANE(), GLMC_OP_SYNCWARP, mask, file, line);
}

struct GlmcFour {
    u32 word[4];
};

static GLMC_QUIET __attribute__((noinline)) GlmcFour glmc_ldmatrix_lane(const void* row, u32 op, const char* file,
                                                                        u32 line) {
    GlmcLane* lane = GLMC_LANE();
    GLMC_CHECK_READ(row, 16);
    u64 address = reinterpret_cast<u64>(row);
    lane->in[0] = static_cast<u32>(address);
    lane->in[1] = static_cast<u32>(address >> 32);
    glmc_meet(lane, op, 0xffffffffu, file, line);
    return {{lane->out[0], lane->out[1], lane->out[2], lane->out[3]}};
}

DEVICE void ldmatrix_x4(u32 (&fragment)[4], const void* row, GLMC_HERE) {
    GlmcFour four = glmc_ldmatrix_lane(row, GLMC_OP_LDMATRIX, file, line);
    for (int i = 0; i < 4; i++) fragment[i] = four.word[i];
}
DEVICE void ldmatrix_x4_trans(u32 (&fragment)[4], const void* row, GLMC_HERE) {
    GlmcFour four = glmc_ldmatrix_lane(row, GLMC_OP_LDMATRIX_TRANS, file, line);
    for (int i = 0; i < 4; i++) fragment[i] = four.word[i];
}

static GLMC_QUIET __attribute__((noinline)) void mma_m16n8k16_bf16(float (&c)[4], const u32 (&a)[4],
                                                                   const u32 (&b)[2], GLMC_HERE) {
    GlmcLane* lane = GLMC_LANE();
    __builtin_memcpy(lane->in, a, 16);
    __builtin_memcpy(lane->in + 4, b, 8);
    __builtin_memcpy(lane->in + 6, c, 16);
    glmc_meet(lane, GLMC_OP_MMA, 0xffffffffu, file, line);
    __builtin_memcpy(c, lane->out, 16);
}
