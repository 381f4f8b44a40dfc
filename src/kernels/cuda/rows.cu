// Rows of a matrix moved, added and summed, and the sums over whole tensors that training needs.
//
// All of it is bound by memory: a thread moves a span at a time, its neighbours the neighbouring spans, and every
// operand is read once. Where rows are summed, a thread owns columns and walks the rows. Who adds what to what, and in
// which order, follows from the launch alone: not from scheduling, nor from how the operands lie in memory.

#include "span.cuh"

namespace {

constexpr int THREADS = 256;

// f32 values of the columns of a `Span<T>`.
template <class T>
struct Columns {
    static constexpr int LANES = Span<T>::LANES, QUAD = Span<float>::LANES;
    float values[LANES];

    // As `load_span` and `store_span`.
    __device__ static Columns load(const float* from, long long count, bool aligned) {
        Span<float> quads[LANES / QUAD];
        Columns columns;
#pragma unroll
        for (int q = 0; q < LANES / QUAD; ++q) quads[q] = load_span(from + q * QUAD, count - q * QUAD, aligned);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) columns.values[lane] = quads[lane / QUAD][lane % QUAD];
        return columns;
    }
    __device__ void store(float* to, long long count, bool aligned) const {
#pragma unroll
        for (int lane = 0; lane < LANES; lane += QUAD) {
            const Span<float> quad =
                Span<float>::of({values[lane], values[lane + 1], values[lane + 2], values[lane + 3]});
            store_span(to + lane, quad, count - lane, aligned);
        }
    }

    __device__ void add(const Span<T>& term) {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) values[lane] += term[lane];
    }
};

// total += load(i) for i = begin, begin + step, .. below end, one after the other, but eight on their way at a time.
template <class T, class Load>
__device__ void add_in_order(Columns<T>& total, int begin, int end, int step, const Load& load) {
    constexpr int AHEAD = 8;
    for (int i = begin; i < end; i += AHEAD * step) {
        Span<T> terms[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            if (i + k * step < end) terms[k] = load(i + k * step);
        }
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            if (i + k * step < end) total.add(terms[k]);
        }
    }
}

// to[0..width] = from[0..width], by the threads of a block.
template <class T>
__device__ void copy_row(T* to, const T* from, int width) {
    constexpr int LANES = Span<T>::LANES;
    const bool aligned = lies_on_spans(to) && lies_on_spans(from);
    for (int column = threadIdx.x * LANES; column < width; column += THREADS * LANES) {
        store_span(to + column, load_span(from + column, width - column, aligned), width - column, aligned);
    }
}

template <class T>
__device__ void gather_rows(T* out, const T* table, const unsigned* rows, int width) {
    copy_row(out + (long long)blockIdx.x * width, table + (long long)rows[blockIdx.x] * width, width);
}

template <class T>
__device__ void scatter_rows(T* out, const T* in, const unsigned* rows, int width) {
    copy_row(out + (long long)rows[blockIdx.x] * width, in + (long long)blockIdx.x * width, width);
}

// A thread owns columns of its block's slot.
template <class T>
__device__ void add_rows_by_slot(float* sum, const T* rows, const unsigned* offsets, const unsigned* order, int width) {
    constexpr int LANES = Span<T>::LANES;
    const bool aligned = lies_on_spans(rows, width);
    const bool sum_aligned = lies_on_spans(sum, width);
    const int begin = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
    if (begin == end) return;
    sum += (long long)blockIdx.x * width;
    for (int column = threadIdx.x * LANES; column < width; column += THREADS * LANES) {
        const int left = width - column;
        Columns<T> total = Columns<T>::load(sum + column, left, sum_aligned);
        add_in_order(total, begin, end, 1, [&](int i) {
            return load_span(rows + (long long)order[i] * width + column, left, aligned);
        });
        total.store(sum + column, left, sum_aligned);
    }
}

// A span's column moves on by the same number from turn to turn, so only the first takes a division. A span may run
// over the end of a row where the width is no multiple of it; the bias is then read value by value.
template <class T>
__device__ void fill_rows(T* y, const T* bias, const T* residual, long long n, int width) {
    constexpr int LANES = Span<T>::LANES;
    const bool aligned = lies_on_spans(y) && lies_on_spans(residual);
    const bool bias_aligned = lies_on_spans(bias, width);
    const long long step = grid_threads() * LANES;
    const int column_step = (int)(step % width);
    int column = (int)(grid_thread() * LANES % width);
    for (long long i = grid_thread() * LANES; i < n; i += step) {
        Span<T> added = {}, shift = {};
        if (residual) added = load_span(residual + i, n - i, aligned);
        if (bias && bias_aligned) shift = load_span(bias + column, LANES, true);
        float filled[LANES];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) filled[lane] = shift[lane] + added[lane];
        if (bias && !bias_aligned) {
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) filled[lane] += to_f32(bias[(column + lane) % width]);
        }
        store_span(y + i, Span<T>::of(filled), n - i, aligned);
        column += column_step;
        if (column >= width) column -= width;
    }
}

// A block sums 256 columns over its run of rows. LANES groups of threads take every LANES-th row each, a span of
// columns a thread; their sums are then added in the order of the groups.
template <class T>
__device__ void column_sums(float* partials, const T* x, int rows, int width, int rows_per_block) {
    constexpr int LANES = Span<T>::LANES, GROUPS = LANES, SPANS = THREADS / LANES;
    __shared__ float sums[GROUPS][THREADS];
    const int group = threadIdx.x / SPANS;
    const int within = threadIdx.x % SPANS * LANES;
    const int column = blockIdx.x * THREADS + within;
    const bool aligned = lies_on_spans(x, width);
    const int begin = blockIdx.y * rows_per_block;
    const int end = min(rows, begin + rows_per_block);

    Columns<T> total = {};
    if (column < width) {
        add_in_order(total, begin + group, end, GROUPS, [&](int row) {
            return load_span(x + (long long)row * width + column, width - column, aligned);
        });
    }
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) sums[group][within + lane] = total.values[lane];
    __syncthreads();
    const int own = blockIdx.x * THREADS + threadIdx.x;
    if (own >= width) return;
    float sum = 0.0f;
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) sum += sums[g][threadIdx.x];
    partials[(long long)blockIdx.y * width + own] = sum;
}

template <class T>
__device__ void add(float* sum, const T* term, long long n) {
    constexpr int LANES = Span<T>::LANES;
    const bool aligned = lies_on_spans(sum) && lies_on_spans(term);
    for (long long i = grid_thread() * LANES; i < n; i += grid_threads() * LANES) {
        const Span<T> added = load_span(term + i, n - i, aligned);
        Columns<T> total = Columns<T>::load(sum + i, n - i, aligned);
        total.add(added);
        total.store(sum + i, n - i, aligned);
    }
}

// The finalizer of SplitMix64: every bit of the result depends on every bit of x, and no two x give the same.
__device__ unsigned long long mix(unsigned long long x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

}  // namespace

// out [count, width] = table[rows[i]]; rows [count]. grid(count) block(256).
extern "C" __global__ void gather_rows_f32(float* out, const float* table, const unsigned* rows, int count, int width) {
    gather_rows(out, table, rows, width);
}
extern "C" __global__ void gather_rows_bf16(bf16* out, const bf16* table, const unsigned* rows, int count, int width) {
    gather_rows(out, table, rows, width);
}

// out[rows[i]] = in[i], in [count, width], rows distinct; the rest of out stays. grid(count) block(256).
extern "C" __global__ void scatter_rows_f32(float* out, const float* in, const unsigned* rows, int count, int width) {
    scatter_rows(out, in, rows, width);
}
extern "C" __global__ void scatter_rows_bf16(bf16* out, const bf16* in, const unsigned* rows, int count, int width) {
    scatter_rows(out, in, rows, width);
}

// sum [slots, width] += rows[order[i]] for i in offsets[slot]..offsets[slot + 1], in that order; offsets [slots + 1].
// grid(slots) block(256).
extern "C" __global__ void add_rows_by_slot_f32(float* sum, const float* rows, const unsigned* offsets,
                                                const unsigned* order, int slots, int width) {
    add_rows_by_slot(sum, rows, offsets, order, width);
}
extern "C" __global__ void add_rows_by_slot_bf16(float* sum, const bf16* rows, const unsigned* offsets,
                                                 const unsigned* order, int slots, int width) {
    add_rows_by_slot(sum, rows, offsets, order, width);
}

// y [n / width, width] = bias [width] + residual [n], either of which may be null. Any grid of block(256).
extern "C" __global__ void fill_rows_f32(float* y, const float* bias, const float* residual, long long n, int width) {
    fill_rows(y, bias, residual, n, width);
}
extern "C" __global__ void fill_rows_bf16(bf16* y, const bf16* bias, const bf16* residual, long long n, int width) {
    fill_rows(y, bias, residual, n, width);
}

// partials [ceil(rows / rows_per_block), width]: the column sums of x [rows, width] over each run of rows_per_block
// rows. grid(ceil(width / 256), ceil(rows / rows_per_block)) block(256).
extern "C" __global__ void column_sums_f32(float* partials, const float* x, int rows, int width, int rows_per_block) {
    column_sums(partials, x, rows, width, rows_per_block);
}
extern "C" __global__ void column_sums_bf16(float* partials, const bf16* x, int rows, int width, int rows_per_block) {
    column_sums(partials, x, rows, width, rows_per_block);
}

// sum [width] += the column sums of partials [count, width]. grid(ceil(width / 32)) block(32, 8): a thread takes every
// eighth row of a column, and the eight sums are added in order.
extern "C" __global__ void sum_partials(float* sum, const float* partials, int count, int width) {
    __shared__ float sums[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    float total = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (int p = threadIdx.y; p < count; p += 8) total += partials[(long long)p * width + column];
    }
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y > 0 || column >= width) return;
    for (int y = 1; y < 8; ++y) total += sums[y][threadIdx.x];
    sum[column] += total;
}

// sum [n] += term [n]. Any grid of block(256).
extern "C" __global__ void add_f32(float* sum, const float* term, long long n) { add(sum, term, n); }
extern "C" __global__ void add_bf16(float* sum, const bf16* term, long long n) { add(sum, term, n); }

// partials [gridDim.x]: the f64 sum of squares of the part of x [n] that each block takes. Any grid of block(256).
extern "C" __global__ void squares_partials(double* partials, const float* x, long long n) {
    constexpr int LANES = Span<float>::LANES;
    const bool aligned = lies_on_spans(x);
    double sum = 0.0;
    for (long long i = grid_thread() * LANES; i < n; i += grid_threads() * LANES) {
        const Span<float> values = load_span(x + i, n - i, aligned);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) sum += (double)values[lane] * (double)values[lane];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// *out = the sum of partials [count]. grid(1) block(256).
extern "C" __global__ void squares_total(double* out, const double* partials, int count) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += partials[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = sum;
}

// out [n]: normal draws of mean 0, each a function of seed and index alone. A hash gives two uniform values of 32 bits,
// these a pair of draws (Box-Muller), at most 6.7 deviations off. Any grid of block(256).
extern "C" __global__ void draw_normal(float* out, long long n, float std, unsigned long long seed) {
    const unsigned long long start = mix(seed);
    for (long long pair = grid_thread(); 2 * pair < n; pair += grid_threads()) {
        const unsigned long long bits = mix(start + (unsigned long long)(pair + 1) * 0x9e3779b97f4a7c15);
        // In (0, 1], whose logarithm is finite, and in [0, 2), half turns.
        const float uniform = ((float)(unsigned)(bits >> 32) + 1.0f) * 0x1p-32f;
        const float half_turns = (float)(unsigned)bits * 0x1p-31f;
        const float radius = std * sqrtf(-2.0f * logf(uniform));
        float sine, cosine;
        sincospif(half_turns, &sine, &cosine);
        out[2 * pair] = radius * cosine;
        if (2 * pair + 1 < n) out[2 * pair + 1] = radius * sine;
    }
}
