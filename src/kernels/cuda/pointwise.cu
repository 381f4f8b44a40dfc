// Operations that take every value by itself: the rotary embedding and the gated activation, forward and backward.
//
// All are bound by memory: a thread reads a span of each operand once and writes a span of each result. Threads are
// dealt over all values at once, never over rows first, so that narrow rows leave no thread idle. A result may lie
// where an operand does: a thread has read all that it needs from there before it writes.
//
// Sigmoids take the precise expf and a division within 2 ulp (__fdividef): the IEEE one, with its branch, would make
// the forward in bf16 bound by arithmetic.

#include "span.cuh"

namespace {

// An item is a span of the first half of a head and the span that it turns with, half a head further.
template <class T>
__device__ void rope(T* y, const T* x, const unsigned* positions, const float* cos, const float* sin, int rows,
                     int heads, int half, float direction) {
    constexpr int LANES = Span<T>::LANES, PARTS = LANES / Span<float>::LANES;
    const bool aligned = lies_on_spans(x, half) && lies_on_spans(y, half);
    const bool tables_aligned = lies_on_spans(cos, half) && lies_on_spans(sin, half);
    const int spans = (half + LANES - 1) / LANES;
    const int row_spans = heads * spans;
    const long long count = (long long)rows * row_spans;
    for (long long item = grid_thread(); item < count; item += grid_threads()) {
        const long long row = item / row_spans;
        const int within = (int)(item - row * row_spans);
        const int head = within / spans;
        const int column = (within - head * spans) * LANES;
        const int left = half - column;

        const long long at = (row * heads + head) * 2 * half + column;
        const Span<T> a = load_span(x + at, left, aligned);
        const Span<T> b = load_span(x + at + half, left, aligned);
        const long long angle = (long long)positions[row] * half + column;
        float ya[LANES], yb[LANES];
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const int skip = part * Span<float>::LANES;
            const Span<float> c = load_span(cos + angle + skip, left - skip, tables_aligned);
            const Span<float> s = load_span(sin + angle + skip, left - skip, tables_aligned);
#pragma unroll
            for (int lane = 0; lane < Span<float>::LANES; ++lane) {
                const float turn = direction * s[lane];
                ya[skip + lane] = a[skip + lane] * c[lane] - b[skip + lane] * turn;
                yb[skip + lane] = b[skip + lane] * c[lane] + a[skip + lane] * turn;
            }
        }
        store_span(y + at, Span<T>::of(ya), left, aligned);
        store_span(y + at + half, Span<T>::of(yb), left, aligned);
    }
}

// Where the exponential overflows, or nearly so, the quotient is zero, as it should be.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

template <class T>
__device__ void swiglu_forward(T* y, const T* gate, const T* up, long long n) {
    constexpr int LANES = Span<T>::LANES;
    const bool aligned = lies_on_spans(y) && lies_on_spans(gate) && lies_on_spans(up);
    for (long long i = grid_thread() * LANES; i < n; i += grid_threads() * LANES) {
        const Span<T> g = load_span(gate + i, n - i, aligned);
        const Span<T> u = load_span(up + i, n - i, aligned);
        float product[LANES];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) product[lane] = g[lane] * sigmoid(g[lane]) * u[lane];
        store_span(y + i, Span<T>::of(product), n - i, aligned);
    }
}

template <class T>
__device__ void swiglu_backward(T* d_gate, T* d_up, T* product, const T* dy, const T* gate, const T* up, long long n) {
    constexpr int LANES = Span<T>::LANES;
    const bool outputs_aligned = lies_on_spans(d_gate) && lies_on_spans(d_up) && lies_on_spans(product);
    const bool aligned = outputs_aligned && lies_on_spans(dy) && lies_on_spans(gate) && lies_on_spans(up);
    for (long long i = grid_thread() * LANES; i < n; i += grid_threads() * LANES) {
        const Span<T> d = load_span(dy + i, n - i, aligned);
        const Span<T> g = load_span(gate + i, n - i, aligned);
        const Span<T> u = load_span(up + i, n - i, aligned);
        float dg[LANES], du[LANES], p[LANES];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            const float s = sigmoid(g[lane]);
            const float silu = g[lane] * s;
            p[lane] = silu * u[lane];
            du[lane] = d[lane] * silu;
            dg[lane] = d[lane] * u[lane] * (s + silu * (1.0f - s));
        }
        store_span(product + i, Span<T>::of(p), n - i, aligned);
        store_span(d_up + i, Span<T>::of(du), n - i, aligned);
        store_span(d_gate + i, Span<T>::of(dg), n - i, aligned);
    }
}

}  // namespace

// x, y [rows, heads * 2 * half]; positions [rows]; cos, sin [positions, half], f32. Per head, halves a and b:
// (a cos - b s, b cos + a s), s = direction * sin. Any grid; grid(rows) block(256) has a thread for every span.
extern "C" __global__ void rope_f32(float* y, const float* x, const unsigned* positions, const float* cos,
                                    const float* sin, int rows, int heads, int half, float direction) {
    rope(y, x, positions, cos, sin, rows, heads, half, direction);
}
extern "C" __global__ void rope_bf16(bf16* y, const bf16* x, const unsigned* positions, const float* cos,
                                     const float* sin, int rows, int heads, int half, float direction) {
    rope(y, x, positions, cos, sin, rows, heads, half, direction);
}

// All [n]: y = silu(gate) * up. Any grid of block(256).
extern "C" __global__ void swiglu_forward_f32(float* y, const float* gate, const float* up, long long n) {
    swiglu_forward(y, gate, up, n);
}
extern "C" __global__ void swiglu_forward_bf16(bf16* y, const bf16* gate, const bf16* up, long long n) {
    swiglu_forward(y, gate, up, n);
}

// All [n]: the gradients of gate and up, and the forward's product once more. Any grid of block(256).
extern "C" __global__ void swiglu_backward_f32(float* d_gate, float* d_up, float* product, const float* dy,
                                               const float* gate, const float* up, long long n) {
    swiglu_backward(d_gate, d_up, product, dy, gate, up, n);
}
extern "C" __global__ void swiglu_backward_bf16(bf16* d_gate, bf16* d_up, bf16* product, const bf16* dy,
                                                const bf16* gate, const bf16* up, long long n) {
    swiglu_backward(d_gate, d_up, product, dy, gate, up, n);
}
