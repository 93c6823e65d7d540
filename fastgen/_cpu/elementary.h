/* Elementary functions that the compiler vectorises, for REAL float and double with INTEGER as wide.
 *
 * x = n ln 2 + r, and the Taylor series of e^r - 1; right to a few units of rounding, NaN where x is.
 */
#include <math.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

typedef union {
    REAL real;
    INTEGER bits;
} Bits;

#if defined(REAL_IS_DOUBLE)
#define MANTISSA 52
#define BIAS 1023
#define EXP_LIMIT 708.0
#define LN2_HIGH 0x1.62e42fefp-1
#define LN2_LOW 0x1.473de6af278edp-34
#define FLOOR floor
#define LOG log
#define LOG1P log1p
#define ERF erf
#define SQRT sqrt
#else
#define MANTISSA 23
#define BIAS 127
#define EXP_LIMIT 87.0f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define FLOOR floorf
#define LOG logf
#define LOG1P log1pf
#define ERF erff
#define SQRT sqrtf
#endif

INLINE REAL clamp(REAL x, REAL low, REAL high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

INLINE REAL power_of_two(REAL n) {
    Bits value;
    value.bits = ((INTEGER)n + BIAS) << MANTISSA;
    return value.real;
}

/* e^x - 1 = scale * part + (scale - 1) */
INLINE REAL reduced_expm1(REAL x, REAL *scale) {
    x = clamp(x, -(REAL)EXP_LIMIT, (REAL)EXP_LIMIT);
    REAL n = FLOOR(x * (REAL)1.4426950408889634 + (REAL)0.5);
    REAL r = (x - n * (REAL)LN2_HIGH) - n * (REAL)LN2_LOW;
    *scale = power_of_two(n);
#if defined(REAL_IS_DOUBLE)
    REAL p = 1.0 / 6227020800;
    p = p * r + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
#else
    REAL p = 1.0f / 5040;
#endif
    p = p * r + (REAL)(1.0 / 720);
    p = p * r + (REAL)(1.0 / 120);
    p = p * r + (REAL)(1.0 / 24);
    p = p * r + (REAL)(1.0 / 6);
    p = p * r + (REAL)0.5;
    return p * r * r + r;
}

INLINE REAL expm1_of(REAL x) {
    REAL scale, part = reduced_expm1(x, &scale);
    return scale * part + (scale - 1);
}

INLINE REAL exp_of(REAL x) {
    REAL scale, part = reduced_expm1(x, &scale);
    return x < -(REAL)EXP_LIMIT ? 0 : scale * part + scale;
}

INLINE REAL sigmoid_of(REAL x) { return 1 / (1 + exp_of(-x)); }

INLINE REAL magnitude(REAL x) { return x < 0 ? -x : x; }

INLINE REAL tanh_of(REAL x) {
    REAL e = expm1_of(-2 * magnitude(x)), t = -e / (e + 2);
    return x < 0 ? -t : t;
}
