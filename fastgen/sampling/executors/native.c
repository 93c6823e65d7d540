/* Carries out the steps of a program for a range of images: the start of a row, its pixels, or one of them.
 *
 * Built twice, with REAL float and double. Every sum runs over its terms in the order of the weights whatever the
 * number of images, so an image does not depend on the batch that it is drawn in, nor on the number of threads.
 * Plain C with GCC's vector types, which Clang has too.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "elementary.h"

#ifdef __AVX512F__
#define VECTOR_BYTES 64
#else
#define VECTOR_BYTES 32
#endif
#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))
#define PANEL (2 * LANES) /* columns of a weight that lie side by side in memory */

typedef REAL Vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

enum {
    PRODUCT, ADD, MUL, ADD_PRODUCT, COPY, ZERO, CONCAT_ELU, ELU, EXP, GELU, LEAKY_RELU, NEG, RELU, SIGMOID, SILU,
    SOFTPLUS, TANH, LAYER_NORM, ATTEND, DRAW_MIXTURE, DRAW_CATEGORICAL, DRAW_BERNOULLI,
    UNLESS_GIVEN
};

/* Operands are [images, columns, channels]: distances between images and columns (0: the same for all), and 1 or 0
 * between channels (0: one value for all). */
typedef struct {
    const REAL *at;
    int64_t image, column, channel;
} Operand;

typedef struct {
    int32_t op, channels;
    int32_t k;      /* product: inputs; concat_elu: half; attend: heads; draws: mixtures or levels; unless_given: the
                       steps to skip */
    int32_t first;  /* concat_elu: first channel; attend: 1 if it does not see its own position; draws
                       and unless_given: first colour */
    int32_t column; /* attend, draws, unless_given */
    int32_t columns;
    double params[3];
    REAL *out;
    int64_t out_image, out_column;
    Operand a, b, c;
    Operand history; /* attend: keys [channels][positions], then values alike; the columns of b and c
                        say how many positions back the new key and the new value belong */
    const int64_t *clock; /* attend: the row */
} Step;

/* What the draws of a row need; arrays are [columns, images, ...]. */
typedef struct {
    const float *uniforms; /* [.., draws] */
    const REAL *kept;      /* [.., colours], or null */
    const uint8_t *mask;   /* [.., colours]: 1 where `kept` is taken */
    const double *temperature; /* of every colour */
    double joint_temperature;  /* of what all colours share: the choice of a mixture */
    double margin, min_log_scale, max_log_scale, half; /* of the mixture; half of (levels - 1) */
    int64_t images, draws, colours;
} Row;

int step_bytes(void) { return (int)sizeof(Step); }
int row_bytes(void) { return (int)sizeof(Row); }
int lanes(void) { return LANES; }

/* Elementary functions of pixels. ----------------------------------------------------------------------------------- */

INLINE REAL elu_of(REAL x, REAL negative, REAL scale, REAL input_scale) {
    REAL low = negative * expm1_of((x > 0 ? 0 : x) * input_scale);
    return x > 0 ? x * scale : low;
}

INLINE REAL gelu_of(REAL x, int by_tanh) {
    if (by_tanh)
        return (REAL)0.5 * x * (1 + tanh_of((REAL)0.7978845608028654 * (x + (REAL)0.044715 * x * x * x)));
    return (REAL)0.5 * x * (1 + ERF(x * (REAL)0.7071067811865476));
}

INLINE REAL softplus_of(REAL x, REAL beta, REAL threshold) {
    return x * beta > threshold ? x : LOG1P(exp_of(x * beta)) / beta;
}

/* Products with packed weights: panels of PANEL columns [inputs][PANEL], then at most one of LANES columns. --------- */

INLINE void load(REAL *into, const REAL *from, int valid, int columns) {
    for (int c = 0; c < columns; c++) into[c] = c < valid ? from[c] : 0;
}

/* Number `place` of all columns of the images from `first` on. */
typedef struct {
    const REAL *x, *base;
    REAL *out;
} Place;

INLINE Place place_of(const Step *s, int64_t first, int64_t place) {
    int64_t const image = first + (s->columns == 1 ? place : place / s->columns);
    int64_t const column = s->columns == 1 ? 0 : place % s->columns;
    return (Place){
        s->a.at + image * s->a.image + column * s->a.column,
        s->c.at ? s->c.at + image * s->c.image + column * s->c.column : 0,
        s->out + image * s->out_image + column * s->out_column,
    };
}

/* `rows` places times `panels` panels of `width` vectors each; constants after inlining, so the sums stay in registers. */
INLINE void block(const Step *s, int64_t first, int64_t place, const REAL *weight, int channel, int rows, int panels,
                  int width) {
    Vector sum[8];
    Place at[8];
    int const count = panels * width, channels = count * LANES, k = s->k;
    int const valid = s->channels - channel < channels ? s->channels - channel : channels;
    REAL edge[8 * VECTOR_BYTES / sizeof(REAL)];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) {
        at[m] = place_of(s, first, place + m);
        const REAL *base = at[m].base ? at[m].base + channel : 0;
        if (base && valid < channels) {
            load(edge, base, valid, channels);
            base = edge;
        }
#pragma GCC unroll 8
        for (int j = 0; j < count; j++)
            sum[m * count + j] = base ? *(const Vector *)(base + j * LANES) : (Vector){0};
    }
    for (int i = 0; i < k; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < count; j++) {
            const Vector w = *(const Vector *)(weight + ((int64_t)(j / width) * k + i) * width * LANES
                                               + (j % width) * LANES);
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) sum[m * count + j] += at[m].x[i] * w;
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) {
        REAL *out = at[m].out + channel, *to = valid < channels ? edge : out;
#pragma GCC unroll 8
        for (int j = 0; j < count; j++) *(Vector *)(to + j * LANES) = sum[m * count + j];
        if (valid < channels) memcpy(out, edge, valid * sizeof(REAL));
    }
}

/* All places for one group of channels: its weights stay in the cache from one block to the next. */
#define CHANNELS(PANELS, WIDTH, AT_ONCE)                                                                              \
    {                                                                                                                 \
        int64_t place = 0;                                                                                            \
        for (; place + AT_ONCE <= places; place += AT_ONCE)                                                           \
            block(s, first, place, weight, channel, AT_ONCE, PANELS, WIDTH);                                          \
        for (; place < places; place++) block(s, first, place, weight, channel, 1, PANELS, WIDTH);                    \
    }

static void product(const Step *s, int64_t first, int64_t end) {
    const REAL *weight = s->b.at;
    int64_t const places = (end - first) * s->columns;
    int channel = 0;
    if (places < 4) /* more channels at a time keep the arithmetic units busy */
        for (; s->channels - channel > 3 * PANEL + LANES; channel += 4 * PANEL, weight += (int64_t)4 * PANEL * s->k)
            CHANNELS(4, 2, 1)
    for (; s->channels - channel > LANES; channel += PANEL, weight += (int64_t)PANEL * s->k) CHANNELS(1, 2, 4)
    if (channel < s->channels) CHANNELS(1, 1, 8)
}

/* Draws ---------------------------------------------------------------------------------------------------------- */

/* The index whose interval of the cumulative weights holds `uniform`; the heaviest at temperature 0. */
static int pick(const REAL *logits, int count, REAL uniform, REAL temperature) {
    REAL largest = logits[0], total = 0;
    int heaviest = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > largest) largest = logits[i], heaviest = i;
    if (temperature == 0) return heaviest;
    REAL cumulative[count];
    for (int i = 0; i < count; i++) cumulative[i] = exp_of((logits[i] - largest) / temperature);
    for (int i = 0; i < count; i++) cumulative[i] = total += cumulative[i];
    int chosen = 0;
    for (int i = 0; i < count - 1; i++) chosen += cumulative[i] <= total * uniform;
    return chosen;
}

/* See dmol_sample_reference: the formula, the layout of the parameters and the constants are its. */
static void draw_mixture(const Step *s, const Row *row, const REAL *params, const float *uniforms, REAL *x) {
    int const colours = s->channels, mixtures = s->k;
    REAL const half = (REAL)row->half;
    int const stride = colours == 3 ? 3 : 2, offset = colours == 3 ? 3 : 1 + 2 * colours, step = colours == 3 ? 3 : 1;
    const REAL *chosen = params + pick(params, mixtures, uniforms[0], (REAL)row->joint_temperature);
    int pair = 0;
    for (int c = 0; c < colours; c++) {
        REAL const t = (REAL)row->temperature[c];
        REAL y = chosen[(1 + stride * c) * mixtures];
        if (t != 0) {
            REAL u = uniforms[1 + c] * (REAL)(1 - 2 * row->margin) + (REAL)row->margin;
            REAL log_scale = chosen[(2 + stride * c) * mixtures];
            REAL scale = exp_of(clamp(log_scale, (REAL)row->min_log_scale, (REAL)row->max_log_scale));
            y += t * scale * LOG(u / (1 - u));
        }
        y *= half;
        for (int earlier = 0; earlier < c; earlier++, pair++)
            y += tanh_of(chosen[(offset + step * pair) * mixtures]) * x[earlier];
        x[c] = FLOOR(clamp(y, -half, half)) + (REAL)0.5; /* levels lie halfway between integers */
    }
    for (int c = 0; c < colours; c++) x[c] /= half;
}

static int all_set(const uint8_t *mask, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!mask[i]) return 0;
    return 1;
}

/* What is given is not drawn; of a mixture, whose channels are drawn together, unless all of them are given. */
static void draw(const Step *s, const Row *row, int64_t image) {
    const REAL *params = s->a.at + image * s->a.image;
    int64_t const at = (int64_t)s->column * row->images + image;
    const float *uniforms = row->uniforms + at * row->draws + s->first;
    int64_t const place = at * row->colours + s->first;
    const REAL *kept = row->kept ? row->kept + place : 0;
    const uint8_t *mask = row->kept ? row->mask + place : 0;
    REAL *out = s->out + image * s->out_image;
    if (mask && all_set(mask, s->channels)) {
        for (int c = 0; c < s->channels; c++) out[c] = kept[c];
        return;
    }
    REAL x[s->channels];
    if (s->op == DRAW_MIXTURE)
        draw_mixture(s, row, params, uniforms, x);
    else
        for (int c = 0; c < s->channels; c++) {
            if (mask && mask[c]) continue;
            int level;
            REAL const t = (REAL)row->temperature[s->first + c];
            if (s->op == DRAW_CATEGORICAL)
                level = pick(params + (int64_t)c * s->k, s->k, uniforms[c], t);
            else if (t == 0)
                level = params[c] > 0;
            else
                level = uniforms[c] < sigmoid_of(params[c] / t);
            x[c] = (level - (REAL)row->half) / (REAL)row->half;
        }
    for (int c = 0; c < s->channels; c++) out[c] = mask && mask[c] ? kept[c] : x[c];
}

/* Whether all colours of a pixel are given for all images; then the step's go to their place. */
static int given(const Step *s, const Row *row, int64_t first, int64_t end) {
    if (!row || !row->kept) return 0;
    int64_t const at = (int64_t)s->column * row->images;
    if (!all_set(row->mask + (at + first) * row->colours, (end - first) * row->colours)) return 0;
    for (int64_t n = first; n < end; n++)
        memcpy(s->out + n * s->out_image, row->kept + (at + n) * row->colours + s->first, s->channels * sizeof(REAL));
    return 1;
}

/* The program ---------------------------------------------------------------------------------------------------- */

/* All columns of all images: OUT and IN give their addresses there. */
#define EVERYWHERE                              \
    for (int64_t n = first; n < end; n++)       \
        for (int64_t q = 0; q < s->columns; q++)
#define OUT (s->out + n * s->out_image + q * s->out_column)
#define IN(OPERAND) ((OPERAND).at + n * (OPERAND).image + q * (OPERAND).column)

#define EACH(EXPRESSION)                                     \
    EVERYWHERE {                                             \
        REAL *out = OUT;                                     \
        const REAL *a = IN(s->a);                            \
        _Pragma("GCC ivdep") for (int i = 0; i < count; i++) { \
            const REAL x = a[i];                             \
            out[i] = EXPRESSION;                             \
        }                                                    \
    }                                                        \
    break

/* Of two operands, the second may hold one value for all channels. */
#define BOTH(EXPRESSION)                                         \
    EVERYWHERE {                                                 \
        REAL *out = OUT;                                         \
        const REAL *a = IN(s->a), *b = IN(s->b);                 \
        if (s->b.channel)                                        \
            _Pragma("GCC ivdep") for (int i = 0; i < count; i++) { \
                const REAL x = a[i], y = b[i];                   \
                out[i] = EXPRESSION;                             \
            }                                                    \
        else                                                     \
            _Pragma("GCC ivdep") for (int i = 0; i < count; i++) { \
                const REAL x = a[i], y = b[0];                   \
                out[i] = EXPRESSION;                             \
            }                                                    \
    }                                                            \
    break

static void concat_elu(const Step *s, int64_t first, int64_t end) {
    int const half = s->k, low = s->first, high = s->first + s->channels;
    EVERYWHERE {
        const REAL *x = IN(s->a);
        REAL *out = OUT;
        if (low == 0 && high == 2 * half) { /* elu(x) = max(x, e), elu(-x) = max(-x, e) with e = expm1(-|x|) */
#pragma GCC ivdep
            for (int i = 0; i < half; i++) {
                const REAL v = x[i], e = expm1_of(-magnitude(v));
                out[i] = v > 0 ? v : e;
                out[half + i] = v < 0 ? -v : e;
            }
            continue;
        }
        for (int i = low; i < high; i++) {
            const REAL v = i < half ? x[i] : -x[i - half];
            out[i - low] = v > 0 ? v : expm1_of(v);
        }
    }
}

static void layer_norm(const Step *s, int64_t first, int64_t end) {
    int const count = s->channels;
    EVERYWHERE {
        const REAL *x = IN(s->a);
        REAL *out = OUT, mean = 0, variance = 0;
        for (int i = 0; i < count; i++) mean += x[i];
        mean /= count;
        for (int i = 0; i < count; i++) variance += (x[i] - mean) * (x[i] - mean);
        REAL const scale = 1 / SQRT(variance / count + (REAL)s->params[0]);
        for (int i = 0; i < count; i++) out[i] = (x[i] - mean) * scale;
    }
}

/* Lane by lane, and the lanes in the end: the same order whatever else is computed. */
static REAL dot(const REAL *a, const REAL *b, int64_t count) {
    Vector sum[4] = {0};
    int64_t p = 0;
    for (; p + 4 * LANES <= count; p += 4 * LANES)
        for (int k = 0; k < 4; k++) sum[k] += *(const Vector *)(a + p + k * LANES) * *(const Vector *)(b + p + k * LANES);
    for (; p + LANES <= count; p += LANES) sum[0] += *(const Vector *)(a + p) * *(const Vector *)(b + p);
    REAL total = 0;
    for (int k = 1; k < 4; k++) sum[0] += sum[k];
    for (int i = 0; i < LANES; i++) total += sum[0][i];
    for (; p < count; p++) total += a[p] * b[p];
    return total;
}

/* At one position. The history has positions last, so that scores and sums over positions are vectors of them. */
static void attend(const Step *s, int64_t first, int64_t end) {
    int64_t const positions = (int64_t)s->params[1], position = *s->clock * (int64_t)s->params[2] + s->column;
    int64_t const count = position + 1 - s->first, new_key = position - s->b.column, new_value = position - s->c.column;
    int const keys = (int)s->params[0], values = s->channels, heads = s->k, d = keys / heads, e = values / heads;
    REAL const scale = 1 / SQRT((REAL)d);
    for (int64_t n = first; n < end; n++) {
        REAL *out = s->out + n * s->out_image;
        REAL *key = (REAL *)s->history.at + n * s->history.image, *value = key + keys * positions;
        if (new_key >= 0)
            for (int i = 0; i < keys; i++) key[i * positions + new_key] = (s->b.at + n * s->b.image)[i];
        if (new_value >= 0)
            for (int i = 0; i < values; i++) value[i * positions + new_value] = (s->c.at + n * s->c.image)[i];
        if (count == 0) {
            memset(out, 0, values * sizeof(REAL));
            continue;
        }
        REAL weight[count];
        for (int h = 0; h < heads; h++) {
            const REAL *q = s->a.at + n * s->a.image + h * d, *row = key + h * d * positions;
            memset(weight, 0, sizeof weight);
            int i = 0;
            for (; i + 4 <= d; i += 4, row += 4 * positions) {
                REAL const f0 = q[i] * scale, f1 = q[i + 1] * scale, f2 = q[i + 2] * scale, f3 = q[i + 3] * scale;
                const REAL *r1 = row + positions, *r2 = r1 + positions, *r3 = r2 + positions;
#pragma GCC ivdep
                for (int64_t p = 0; p < count; p++) weight[p] += f0 * row[p] + f1 * r1[p] + f2 * r2[p] + f3 * r3[p];
            }
            for (; i < d; i++, row += positions) {
                REAL const factor = q[i] * scale;
#pragma GCC ivdep
                for (int64_t p = 0; p < count; p++) weight[p] += factor * row[p];
            }
            REAL largest = weight[0], total = 0;
            for (int64_t p = 1; p < count; p++) largest = weight[p] > largest ? weight[p] : largest;
            for (int64_t p = 0; p < count; p++) weight[p] = exp_of(weight[p] - largest);
            for (int64_t p = 0; p < count; p++) total += weight[p];
            for (int c = 0; c < e; c++) out[h * e + c] = dot(weight, value + (h * e + c) * positions, count) / total;
        }
    }
}

void run(const Step *steps, int64_t count_of_steps, const Row *row, int64_t first, int64_t end) {
    for (const Step *s = steps; s < steps + count_of_steps; s++) {
        int const count = s->channels;
        const REAL params[3] = {(REAL)s->params[0], (REAL)s->params[1], (REAL)s->params[2]};
        switch (s->op) {
            case PRODUCT: product(s, first, end); break;
            case ADD: BOTH(x + y);
            case MUL: BOTH(x * y);
            case ADD_PRODUCT:
                EVERYWHERE {
                    REAL *out = OUT;
                    const REAL *a = IN(s->a), *b = IN(s->b), *c = IN(s->c);
#pragma GCC ivdep
                    for (int i = 0; i < count; i++) out[i] = a[i] + b[i] * c[i];
                }
                break;
            case COPY:
                EVERYWHERE memcpy(OUT, IN(s->a), count * sizeof(REAL));
                break;
            case ZERO:
                EVERYWHERE memset(OUT, 0, count * sizeof(REAL));
                break;
            case CONCAT_ELU: concat_elu(s, first, end); break;
            case ELU: EACH(elu_of(x, params[0] * params[1], params[1], params[2]));
            case EXP: EACH(exp_of(x));
            case GELU: EACH(gelu_of(x, params[0] != 0));
            case LEAKY_RELU: EACH(x > 0 ? x : x * params[0]);
            case NEG: EACH(-x);
            case RELU: EACH(x < 0 ? 0 : x);
            case SIGMOID: EACH(sigmoid_of(x));
            case SILU: EACH(x * sigmoid_of(x));
            case SOFTPLUS: EACH(softplus_of(x, params[0], params[1]));
            case TANH: EACH(tanh_of(x));
            case LAYER_NORM: layer_norm(s, first, end); break;
            case ATTEND: attend(s, first, end); break;
            case UNLESS_GIVEN: s += given(s, row, first, end) ? s->k : 0; break;
            default:
                for (int64_t n = first; n < end; n++) draw(s, row, n);
        }
    }
}
