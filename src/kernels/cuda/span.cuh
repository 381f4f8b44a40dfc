// Runs of 16 bytes of a row, the unit in which the kernels that are bound by memory read and write.
//
// A span is one instruction where it lies on 16 bytes and ends within its row, else it goes value by value. Either way
// one thread has the same values of it, so alignment decides the speed of a kernel and never the order of its sums.

#pragma once

#include "device.cuh"

template <class T>
struct alignas(16) Span {
    static constexpr int LANES = 16 / sizeof(T);
    T values[LANES];

    __device__ float operator[](int lane) const { return to_f32(values[lane]); }
    __device__ void set(int lane, float value) { values[lane] = from_f32<T>(value); }
};

// Whether every row of `width` values, the first of them at `rows`, starts on 16 bytes. A null pointer does.
template <class T>
__device__ inline bool lies_on_spans(const T* rows, int width) {
    return is_aligned_16(rows) && width % Span<T>::LANES == 0;
}

// The same of one run of values.
template <class T>
__device__ inline bool lies_on_spans(const T* values) {
    return lies_on_spans(values, 0);
}

// A span that starts on 16 bytes.
template <class T>
__device__ inline Span<T> load_whole_span(const T* from) {
    Span<T> span;
    const uint4 bits = load_16_bytes(from);
    memcpy(&span, &bits, sizeof bits);
    return span;
}

template <class T>
__device__ inline void store_whole_span(T* to, const Span<T>& span) {
    uint4 bits;
    memcpy(&bits, &span, sizeof bits);
    store_16_bytes(to, bits);
}

// The first `count` values of a span, zeros after them; `aligned` where it starts on 16 bytes.
template <class T>
__device__ inline Span<T> load_span(const T* from, long long count, bool aligned) {
    if (aligned && count >= Span<T>::LANES) return load_whole_span(from);
    Span<T> span;
#pragma unroll
    for (int lane = 0; lane < Span<T>::LANES; ++lane) {
        span.values[lane] = lane < count ? from[lane] : from_f32<T>(0.0f);
    }
    return span;
}

// Writes the first `count` values of a span.
template <class T>
__device__ inline void store_span(T* to, const Span<T>& span, long long count, bool aligned) {
    if (aligned && count >= Span<T>::LANES) {
        store_whole_span(to, span);
        return;
    }
#pragma unroll
    for (int lane = 0; lane < Span<T>::LANES; ++lane) {
        if (lane < count) to[lane] = span.values[lane];
    }
}

// This thread's place in the grid, and the threads of the grid.
__device__ inline long long grid_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline long long grid_threads() { return (long long)gridDim.x * blockDim.x; }
