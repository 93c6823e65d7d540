/* Gates and concatenated ELU on a CPU, each in one pass over the memory, forward and backward.
 *
 * Built twice, with REAL float and double. Tensors are dense, channels first [N][C][H][W] or last [N][H][W][C]; what
 * concat_elu writes may have a border of zeros around it. Threads are OpenMP's, which are PyTorch's own.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "elementary.h"

#define SIGN (sizeof(REAL) == 4 ? (INTEGER)INT32_MIN : (INTEGER)INT64_MIN) /* the bits of -0 */
#define GROUP 4 /* channels that share a counter of Philox */

/* Vectors of 32-bit words, and the products of every second one: in the reach of all processors, but compilers do not
 * find the instruction of x86. */
#if defined(__AVX512F__)
#define WORD_BYTES 64
#define PRODUCTS(a, b) (Products) _mm512_mul_epu32((__m512i)(a), (__m512i)(b))
#elif defined(__AVX2__)
#define WORD_BYTES 32
#define PRODUCTS(a, b) (Products) _mm256_mul_epu32((__m256i)(a), (__m256i)(b))
#else
#define WORD_BYTES 16
#define PRODUCTS(a, b) (((Products)(a) & LOW) * ((Products)(b) & LOW))
#endif
#define LOW 0xFFFFFFFFu
#define CHUNK 64 /* counters that are drawn for at once */
typedef uint32_t WordVector __attribute__((vector_size(WORD_BYTES), may_alias));
typedef uint64_t Products __attribute__((vector_size(WORD_BYTES), may_alias));

/* Words of the counters (pixel, group, image, half), as the reference has them: Philox4x32-10, bit for bit. */
typedef struct {
    uint32_t pixel[CHUNK], group[CHUNK], word[GROUP][CHUNK];
} __attribute__((aligned(64))) Draws;

INLINE void philox(Draws *d, uint64_t seed, uint32_t image, uint32_t half) {
    for (int at = 0; at < CHUNK; at += WORD_BYTES / 4) {
        WordVector x0 = *(WordVector *)(d->pixel + at), x1 = *(WordVector *)(d->group + at), x2 = {0}, x3 = {0};
        WordVector const m0 = x2 + 0xD2511F53u, m1 = x2 + 0xCD9E8D57u;
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        x2 += image;
        x3 += half;
        for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
            Products const even0 = PRODUCTS(x0, m0), odd0 = PRODUCTS((Products)x0 >> 32, m0);
            Products const even1 = PRODUCTS(x2, m1), odd1 = PRODUCTS((Products)x2 >> 32, m1);
            x0 = (WordVector)(even1 >> 32 | (odd1 & ~(uint64_t)LOW)) ^ x1 ^ k0;
            x2 = (WordVector)(even0 >> 32 | (odd0 & ~(uint64_t)LOW)) ^ x3 ^ k1;
            x1 = (WordVector)((even1 & LOW) | odd1 << 32);
            x3 = (WordVector)((even0 & LOW) | odd0 << 32);
        }
        *(WordVector *)(d->word[0] + at) = x0;
        *(WordVector *)(d->word[1] + at) = x1;
        *(WordVector *)(d->word[2] + at) = x2;
        *(WordVector *)(d->word[3] + at) = x3;
    }
}

typedef struct {
    int64_t images, channels, height, width; /* of x, [N, C, H, W] */
    int64_t left, right, top, bottom;        /* the border of y, [N, 2C, top + H + bottom, left + W + right] */
    int64_t last;                            /* whether channels come last */
    uint64_t seed;
    int64_t threshold; /* words below it drop their element */
    double scale;      /* of what stays: 1 / (1 - dropout) */
    int64_t threads;
} Elu;

int elu_bytes(void) { return (int)sizeof(Elu); }

/* elu(v) = max(v, e^-|v| - 1) for v = x and v = -x. A sum of zeros is +0, so that -0 can say what was dropped. */
INLINE void both(REAL x, REAL scale, REAL *positive, REAL *negative) {
    REAL below = expm1_of(-magnitude(x));
    *positive = (x > 0 ? x : below) * scale + 0;
    *negative = (x < 0 ? -x : below) * scale + 0;
}

/* `count` elements that lie side by side. */
INLINE void elu_run(const REAL *restrict x, REAL *restrict positive, REAL *restrict negative, int64_t count, REAL scale) {
    for (int64_t i = 0; i < count; i++) both(x[i], scale, positive + i, negative + i);
}

INLINE void drop_run(REAL *restrict y, const uint32_t *restrict words, int64_t count, uint32_t threshold) {
    for (int64_t i = 0; i < count; i++) y[i] = words[i] < threshold ? (REAL)-0.0 : y[i];
}

/* Channels last: drops from the channels of all pixels of a row, which are `distance` apart. */
static void drop_row(const Elu *e, REAL *y, int64_t distance, int64_t first_pixel, int64_t image, int half) {
    int64_t const groups = (e->channels + GROUP - 1) / GROUP;
    for (int64_t counter = 0; counter < groups * e->width; counter += CHUNK) {
        Draws d;
        int64_t column = counter / groups, group = counter % groups;
        for (int64_t i = 0, c = column, g = group; i < CHUNK; i++) {
            d.pixel[i] = (uint32_t)(first_pixel + c);
            d.group[i] = (uint32_t)g;
            if (++g == groups) g = 0, c++;
        }
        philox(&d, e->seed, (uint32_t)image, (uint32_t)half);
        uint32_t words[GROUP * CHUNK];
        for (int i = 0; i < CHUNK; i++)
            for (int j = 0; j < GROUP; j++) words[GROUP * i + j] = d.word[j][i];
        for (int64_t i = 0; i < CHUNK && column < e->width; column++, group = 0) {
            int64_t const here = groups - group < CHUNK - i ? groups - group : CHUNK - i;
            int64_t const left = e->channels - group * GROUP, count = here * GROUP < left ? here * GROUP : left;
            drop_run(y + column * distance + group * GROUP, words + i * GROUP, count, (uint32_t)e->threshold);
            i += here;
        }
    }
}

static void elu_last(const Elu *e, const REAL *x, REAL *y) {
    int64_t const c = e->channels, rows = e->top + e->height + e->bottom, columns = e->left + e->width + e->right;
#pragma omp parallel for num_threads((int)e->threads) schedule(static)
    for (int64_t at = 0; at < e->images * rows; at++) {
        int64_t const image = at / rows, row = at % rows - e->top;
        REAL *out = y + at * columns * 2 * c;
        if (row < 0 || row >= e->height) {
            memset(out, 0, (size_t)(columns * 2 * c) * sizeof(REAL));
            continue;
        }
        memset(out, 0, (size_t)(e->left * 2 * c) * sizeof(REAL));
        out += e->left * 2 * c;
        const REAL *in = x + (image * e->height + row) * e->width * c;
        for (int64_t column = 0; column < e->width; column++)
            elu_run(in + column * c, out + column * 2 * c, out + column * 2 * c + c, c, (REAL)e->scale);
        for (int half = 0; e->threshold && half < 2; half++)
            drop_row(e, out + half * c, 2 * c, row * e->width, image, half);
        out += e->width * 2 * c;
        memset(out, 0, (size_t)(e->right * 2 * c) * sizeof(REAL));
    }
}

/* Channels first: drops from the channels of a group, pixel..pixel + CHUNK of planes with a border. */
static void drop_chunk(const Elu *e, REAL *planes, int64_t many, int64_t plane, int64_t pixel, int64_t group,
                       int64_t image, int half) {
    int64_t const width = e->width, columns = e->left + width + e->right;
    int64_t const end = pixel + CHUNK < e->height * width ? pixel + CHUNK : e->height * width;
    Draws d;
    for (int i = 0; i < CHUNK; i++) {
        d.pixel[i] = (uint32_t)(pixel + i);
        d.group[i] = (uint32_t)group;
    }
    philox(&d, e->seed, (uint32_t)image, (uint32_t)half);
    for (int64_t at = pixel; at < end;) { /* row by row */
        int64_t const row = at / width, stop = (row + 1) * width < end ? (row + 1) * width : end;
        for (int64_t j = 0; j < many; j++)
            drop_run(planes + j * plane + row * columns + at - row * width, d.word[j] + at - pixel, stop - at,
                     (uint32_t)e->threshold);
        at = stop;
    }
}

static void elu_first(const Elu *e, const REAL *x, REAL *y) {
    int64_t const c = e->channels, h = e->height, w = e->width, columns = e->left + w + e->right;
    int64_t const plane = (e->top + h + e->bottom) * columns, inside = e->top * columns + e->left;
    int64_t const groups = (c + GROUP - 1) / GROUP, runs = columns == w ? 1 : h, length = h * w / runs;
#pragma omp parallel for num_threads((int)e->threads) schedule(static)
    for (int64_t at = 0; at < e->images * groups; at++) {
        int64_t const image = at / groups, group = at % groups, first = group * GROUP;
        int64_t const many = c - first < GROUP ? c - first : GROUP;
        REAL *positive = y + (image * 2 * c + first) * plane, *negative = positive + c * plane;
        if (plane > h * w) {
            memset(positive, 0, (size_t)(many * plane) * sizeof(REAL));
            memset(negative, 0, (size_t)(many * plane) * sizeof(REAL));
        }
        positive += inside;
        negative += inside;
        for (int64_t j = 0; j < many; j++)
            for (int64_t run = 0; run < runs; run++)
                elu_run(x + ((image * c + first + j) * h * w) + run * w, positive + j * plane + run * columns,
                        negative + j * plane + run * columns, length, (REAL)e->scale);
        for (int64_t pixel = 0; e->threshold && pixel < h * w; pixel += CHUNK) {
            drop_chunk(e, positive, many, plane, pixel, group, image, 0);
            drop_chunk(e, negative, many, plane, pixel, group, image, 1);
        }
    }
}

/* y = drop(elu([x, -x])) with its border. */
void concat_elu(const Elu *e, const REAL *x, REAL *y) { e->last ? elu_last(e, x, y) : elu_first(e, x, y); }

/* The derivative by v of what y says: scale where v > 0, scale e^v = y + scale below, none where it was dropped. */
INLINE REAL slope(REAL y, REAL scale) {
    Bits bits = {.real = y};
    REAL kept = y > 0 ? scale : y + scale;
    return bits.bits == SIGN ? 0 : kept;
}

INLINE void elu_backward_run(const REAL *restrict y, const REAL *restrict grad, REAL *restrict by_x, int64_t distance,
                             int64_t count, REAL scale) {
    for (int64_t i = 0; i < count; i++)
        by_x[i] = grad[i] * slope(y[i], scale) - grad[distance + i] * slope(y[distance + i], scale);
}

/* grad, with a border like y's, times the derivative of y by x. */
void concat_elu_backward(const Elu *e, const REAL *y, const REAL *grad, REAL *by_x) {
    int64_t const c = e->channels, h = e->height, w = e->width;
    int64_t const columns = e->left + w + e->right, rows = e->top + h + e->bottom;
    if (e->last) {
#pragma omp parallel for num_threads((int)e->threads) schedule(static)
        for (int64_t at = 0; at < e->images * h; at++) {
            int64_t const image = at / h, row = at % h;
            int64_t const from = (((image * rows + e->top + row) * columns) + e->left) * 2 * c;
            for (int64_t column = 0; column < w; column++)
                elu_backward_run(y + from + column * 2 * c, grad + from + column * 2 * c,
                                 by_x + (at * w + column) * c, c, c, (REAL)e->scale);
        }
        return;
    }
    int64_t const plane = rows * columns, runs = columns == w ? 1 : h, length = h * w / runs;
#pragma omp parallel for num_threads((int)e->threads) schedule(static)
    for (int64_t at = 0; at < e->images * c; at++) {
        int64_t const from = (at / c * 2 * c + at % c) * plane + e->top * columns + e->left;
        for (int64_t run = 0; run < runs; run++)
            elu_backward_run(y + from + run * columns, grad + from + run * columns, by_x + at * h * w + run * w,
                             c * plane, length, (REAL)e->scale);
    }
}

typedef struct {
    int64_t images, channels, pixels; /* of the result, [N, C, S]; of x [N, 2C, S] */
    int64_t last;
    int64_t tanh;       /* tanh(a) s(b), or a s(b) */
    int64_t bias_image; /* distance between the biases of images: 0 or 2C */
    int64_t threads;
} Gate;

int gate_bytes(void) { return (int)sizeof(Gate); }

/* What lies side by side in memory: the plane of a channel, or the channels of a pixel. Offsets of its halves a and b in
 * x, of the bias of a, and of the result. */
typedef struct {
    int64_t a, b, bias, out;
} Run;

INLINE int64_t runs(const Gate *g) { return g->images * (g->last ? g->pixels : g->channels); }

INLINE int64_t length(const Gate *g) { return g->last ? g->channels : g->pixels; }

INLINE Run run_of(const Gate *g, int64_t at) {
    if (g->last) {
        int64_t const from = at * 2 * g->channels;
        return (Run){from, from + g->channels, at / g->pixels * g->bias_image, at * g->channels};
    }
    int64_t const image = at / g->channels, channel = at % g->channels;
    int64_t const from = (image * 2 * g->channels + channel) * g->pixels;
    return (Run){from, from + g->channels * g->pixels, image * g->bias_image + channel, at * g->pixels};
}

/* Constants after inlining: whether there is a bias for every element or one for all, and the kind. */
INLINE void gate_run(const REAL *restrict a, const REAL *restrict b, const REAL *restrict bias_a,
                     const REAL *restrict bias_b, const REAL *restrict residual, REAL *restrict y, int64_t count,
                     int step, int by_tanh) {
    for (int64_t i = 0; i < count; i++) {
        REAL u = a[i] + bias_a[i * step], value = (by_tanh ? tanh_of(u) : u) * sigmoid_of(b[i] + bias_b[i * step]);
        y[i] = residual ? value + residual[i] : value;
    }
}

INLINE void gate_backward_run(const REAL *restrict a, const REAL *restrict b, const REAL *restrict bias_a,
                              const REAL *restrict bias_b, const REAL *restrict grad, REAL *restrict by_a,
                              REAL *restrict by_b, int64_t count, int step, int by_tanh) {
    for (int64_t i = 0; i < count; i++) {
        REAL u = a[i] + bias_a[i * step], v = b[i] + bias_b[i * step];
        /* s(-v) is not 1 - s(v), and 1 - tanh^2 is 4e / (1 + e)^2: tails keep their digits */
        REAL e = exp_of(-magnitude(v)), near = 1 / (1 + e), s = v > 0 ? near : e * near, rest = v > 0 ? e * near : near;
        REAL below = expm1_of(-2 * magnitude(u)), over = 1 / (below + 2), t = -below * over;
        by_a[i] = by_tanh ? grad[i] * s * 4 * (below + 1) * over * over : grad[i] * s;
        by_b[i] = grad[i] * (by_tanh ? (u < 0 ? -t : t) : u) * s * rest;
    }
}

/* y = gate(x + bias) + residual; bias is zeros where there is none, residual null. */
void gate(const Gate *g, const REAL *x, const REAL *bias, const REAL *residual, REAL *y) {
    int64_t const n = length(g);
#pragma omp parallel for num_threads((int)g->threads) schedule(static)
    for (int64_t at = 0; at < runs(g); at++) {
        Run const r = run_of(g, at);
        const REAL *a = x + r.a, *b = x + r.b, *bias_a = bias + r.bias, *bias_b = bias_a + g->channels;
        const REAL *rest = residual ? residual + r.out : 0;
        if (g->last && g->tanh) gate_run(a, b, bias_a, bias_b, rest, y + r.out, n, 1, 1);
        else if (g->last) gate_run(a, b, bias_a, bias_b, rest, y + r.out, n, 1, 0);
        else if (g->tanh) gate_run(a, b, bias_a, bias_b, rest, y + r.out, n, 0, 1);
        else gate_run(a, b, bias_a, bias_b, rest, y + r.out, n, 0, 0);
    }
}

/* grad times the derivative of gate(x + bias) by x. */
void gate_backward(const Gate *g, const REAL *x, const REAL *bias, const REAL *grad, REAL *by_x) {
    int64_t const n = length(g);
#pragma omp parallel for num_threads((int)g->threads) schedule(static)
    for (int64_t at = 0; at < runs(g); at++) {
        Run const r = run_of(g, at);
        const REAL *a = x + r.a, *b = x + r.b, *bias_a = bias + r.bias, *bias_b = bias_a + g->channels;
        const REAL *by = grad + r.out;
        if (g->last && g->tanh) gate_backward_run(a, b, bias_a, bias_b, by, by_x + r.a, by_x + r.b, n, 1, 1);
        else if (g->last) gate_backward_run(a, b, bias_a, bias_b, by, by_x + r.a, by_x + r.b, n, 1, 0);
        else if (g->tanh) gate_backward_run(a, b, bias_a, bias_b, by, by_x + r.a, by_x + r.b, n, 0, 1);
        else gate_backward_run(a, b, bias_a, bias_b, by, by_x + r.a, by_x + r.b, n, 0, 0);
    }
}
