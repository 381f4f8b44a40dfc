// Runs of 16 bytes of a row, the unit in which the kernels that are bound by memory read and write.
//
// A span is one instruction where it lies on 16 bytes and ends within its row, else it goes value by value. Either way
// one thread has the same values of it, so alignment decides the speed of a kernel and never the order of its sums.
//
// It stays packed until a value is asked for: a load then has nothing to do with what it loaded, and the next one can
// follow it at once.

#pragma once

#include "device.cuh"

template <class T>
struct alignas(16) Span {
    static constexpr int LANES = 16 / sizeof(T);
    unsigned words[4];

    __device__ float operator[](int lane) const {
        if constexpr (sizeof(T) == 4) return __uint_as_float(words[lane]);
        else return __uint_as_float(lane % 2 ? words[lane / 2] & 0xffff0000 : words[lane / 2] << 16);
    }

    // The values, rounded.
    __device__ static Span of(const float (&values)[LANES]) {
        Span span;
#pragma unroll
        for (int word = 0; word < 4; ++word) {
            if constexpr (sizeof(T) == 4) span.words[word] = __float_as_uint(values[word]);
            else span.words[word] = pack_bf16(values[2 * word], values[2 * word + 1]);
        }
        return span;
    }
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
    const uint4 bits = load_16_bytes(from);
    return {{bits.x, bits.y, bits.z, bits.w}};
}

template <class T>
__device__ inline void store_whole_span(T* to, const Span<T>& span) {
    store_16_bytes(to, {span.words[0], span.words[1], span.words[2], span.words[3]});
}

// The first `count` values of a span, zeros after them; `aligned` where it starts on 16 bytes.
template <class T>
__device__ inline Span<T> load_span(const T* from, long long count, bool aligned) {
    if (aligned && count >= Span<T>::LANES) return load_whole_span(from);
    T values[Span<T>::LANES];
#pragma unroll
    for (int lane = 0; lane < Span<T>::LANES; ++lane) values[lane] = lane < count ? from[lane] : from_f32<T>(0.0f);
    Span<T> span;
    memcpy(&span, values, sizeof span);
    return span;
}

// Writes the first `count` values of a span.
template <class T>
__device__ inline void store_span(T* to, const Span<T>& span, long long count, bool aligned) {
    if (aligned && count >= Span<T>::LANES) {
        store_whole_span(to, span);
        return;
    }
    T values[Span<T>::LANES];
    memcpy(values, &span, sizeof span);
#pragma unroll
    for (int lane = 0; lane < Span<T>::LANES; ++lane) {
        if (lane < count) to[lane] = values[lane];
    }
}

// This thread's place in the grid, and the threads of the grid.
__device__ inline long long grid_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline long long grid_threads() { return (long long)gridDim.x * blockDim.x; }
