// RMS norm, forward and backward: y = x r w with r = 1 / sqrt(mean(x^2) + eps), per row.
//
// A block takes a row. Thread t owns the spans t, t + 256, ... of it: the first 16 columns that a thread owns, which is
// all of them up to a width of 4096, stay in registers between the sum over the row and the result, so that a row is
// read once; what lies beyond is read a second time, from the cache. The backward walks a run of rows; all its loads of
// a row are under way before the first is needed. Its running weight gradient lies in shared memory, every column
// touched by the thread that owns it alone: in registers it would cost a third of the blocks on a multiprocessor.
//
// Rows that do not lie on 16 bytes take the same steps with nothing kept: the value-by-value loads would otherwise cost
// every row registers.
//
// r is an IEEE quotient and square root, once a row, not the approximate rsqrtf.

#include "span.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
// Columns of a row that a thread keeps in registers.
constexpr int KEPT_COLUMNS = 16;

// The columns that a thread owns: spans of LANES values, STEP apart, the first KEPT of them in registers.
template <class T, bool ALIGNED>
struct Columns {
    static constexpr int LANES = Span<T>::LANES;
    static constexpr int STEP = THREADS * LANES;
    static constexpr int KEPT = ALIGNED ? KEPT_COLUMNS / LANES : 0;

    // The k-th span of this thread, and the first that is not kept.
    __device__ static int kept(int k) { return threadIdx.x * LANES + k * STEP; }
    __device__ static int beyond() { return kept(KEPT); }

    // Zeros where the row has ended.
    __device__ static Span<T> load(const T* row, int column, int width) {
        if (!ALIGNED) return load_span(row + column, width - column, false);
        return column < width ? load_whole_span(row + column) : Span<T>{};
    }
    __device__ static void store(T* row, const Span<T>& span, int column, int width) {
        if (!ALIGNED) store_span(row + column, span, width - column, false);
        else if (column < width) store_whole_span(row + column, span);
    }
};

__device__ inline float inverse_rms(float squares, int width, float eps) {
    return 1.0f / sqrtf(squares / (float)width + eps);
}

template <class T, bool ALIGNED>
__device__ void forward_row(T* y, const T* x, const T* weight, int width, float eps) {
    using Own = Columns<T, ALIGNED>;
    Span<T> kept[Own::KEPT + 1];
#pragma unroll
    for (int k = 0; k < Own::KEPT; ++k) kept[k] = Own::load(x, Own::kept(k), width);
    float squares = 0.0f;
    const auto take = [&](const Span<T>& values) {
#pragma unroll
        for (int lane = 0; lane < Own::LANES; ++lane) squares += values[lane] * values[lane];
    };
#pragma unroll
    for (int k = 0; k < Own::KEPT; ++k) take(kept[k]);
#pragma unroll 1
    for (int column = Own::beyond(); column < width; column += Own::STEP) take(Own::load(x, column, width));
    const float r = inverse_rms(block_sum(squares), width, eps);

    const auto give = [&](int column, const Span<T>& values) {
        const Span<T> w = Own::load(weight, column, width);
        float normed[Own::LANES];
#pragma unroll
        for (int lane = 0; lane < Own::LANES; ++lane) normed[lane] = values[lane] * r * w[lane];
        Own::store(y, Span<T>::of(normed), column, width);
    };
#pragma unroll
    for (int k = 0; k < Own::KEPT; ++k) give(Own::kept(k), kept[k]);
#pragma unroll 1
    for (int column = Own::beyond(); column < width; column += Own::STEP) give(column, Own::load(x, column, width));
}

template <class T>
__device__ void rms_norm_forward(T* y, const T* x, const T* weight, int width, float eps) {
    const bool aligned = lies_on_spans(y, width) && lies_on_spans(x, width) && lies_on_spans(weight, width);
    const long long row = (long long)blockIdx.x * width;
    if (aligned) forward_row<T, true>(y + row, x + row, weight, width, eps);
    else forward_row<T, false>(y + row, x + row, weight, width, eps);
}

// The two sums of a row that its gradient needs.
struct RowSums {
    float squares;
    float dot;
};

// Both sums over the block, to every thread, warp by warp in order. Rows alternate between two sets of cells, so that
// one barrier a row is enough: nobody writes a set before everyone has passed the barrier of the other.
__device__ inline RowSums block_sums(RowSums sums, int parity) {
    __shared__ RowSums cells[2][WARPS];
    sums.squares = warp_sum(sums.squares);
    sums.dot = warp_sum(sums.dot);
    if (threadIdx.x % 32 == 0) cells[parity][threadIdx.x / 32] = sums;
    __syncthreads();
    RowSums total = cells[parity][0];
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) {
        total.squares += cells[parity][warp].squares;
        total.dot += cells[parity][warp].dot;
    }
    return total;
}

// A sum for every column, in shared memory, by spans of four. Where a thread owns several spans side by side, the first
// ones of all threads lie together, then the second ones: neighbouring threads then meet in no bank.
template <class T, bool ALIGNED>
struct RunningSum {
    static constexpr int PARTS = Span<T>::LANES / Span<float>::LANES;
    float* sums;
    int width;

    // The part-th four columns of those that start at `column`; zeros where the row has ended.
    __device__ Span<float> get(int column, int part) const {
        return load_span(sums + place(column, part), left(column, part), ALIGNED);
    }
    __device__ void set(int column, int part, const Span<float>& sum) const {
        store_span(sums + place(column, part), sum, left(column, part), ALIGNED);
    }

  private:
    __device__ int place(int column, int part) const {
        if (!ALIGNED) return column + part * Span<float>::LANES;
        return column / PARTS + part * (width / PARTS);
    }
    __device__ int left(int column, int part) const {
        return ALIGNED ? Span<float>::LANES : width - column - part * Span<float>::LANES;
    }
};

// What a backward reads and writes; `dw` is this block's row of the partials.
template <class T>
struct Operands {
    T* dx;
    float* dw;
    const T* dy;
    const T* x;
    const T* weight;
    const T* residual;
};

// dx = r (g - x r^2 mean(g x)), g = dy * weight; dw = sum over rows of dy x r.
template <class T, bool ALIGNED>
__device__ void backward_rows(const Operands<T>& at, int begin, int end, int width, float eps) {
    using Own = Columns<T, ALIGNED>;
    RunningSum<T, ALIGNED> dw{dynamic_shared<float>(), width};
#pragma unroll 1
    for (int column = Own::kept(0); column < width; column += Own::STEP) {
        for (int part = 0; part < dw.PARTS; ++part) dw.set(column, part, Span<float>{});
    }

    for (int row = begin; row < end; ++row) {
        const long long start = (long long)row * width;
        const T* const x = at.x + start;
        const T* const dy = at.dy + start;
        const T* const residual = at.residual ? at.residual + start : nullptr;
        Span<T> kept_x[Own::KEPT + 1], kept_dy[Own::KEPT + 1], kept_residual[Own::KEPT + 1];
#pragma unroll
        for (int k = 0; k < Own::KEPT; ++k) {
            kept_x[k] = Own::load(x, Own::kept(k), width);
            kept_dy[k] = Own::load(dy, Own::kept(k), width);
            kept_residual[k] = residual ? Own::load(residual, Own::kept(k), width) : Span<T>{};
        }
        RowSums sums = {0.0f, 0.0f};
        const auto take = [&](int column, const Span<T>& x, const Span<T>& dy) {
            const Span<T> w = Own::load(at.weight, column, width);
#pragma unroll
            for (int lane = 0; lane < Own::LANES; ++lane) {
                sums.squares += x[lane] * x[lane];
                sums.dot += dy[lane] * w[lane] * x[lane];
            }
        };
#pragma unroll
        for (int k = 0; k < Own::KEPT; ++k) take(Own::kept(k), kept_x[k], kept_dy[k]);
#pragma unroll 1
        for (int column = Own::beyond(); column < width; column += Own::STEP) {
            take(column, Own::load(x, column, width), Own::load(dy, column, width));
        }
        sums = block_sums(sums, (row - begin) % 2);
        const float r = inverse_rms(sums.squares, width, eps);
        const float shrink = r * r * (sums.dot / (float)width);

        const auto give = [&](int column, const Span<T>& x, const Span<T>& dy, const Span<T>& residual) {
            if (column >= width) return;
            const Span<T> w = Own::load(at.weight, column, width);
            float dx[Own::LANES];
#pragma unroll
            for (int part = 0; part < dw.PARTS; ++part) {
                const Span<float> before = dw.get(column, part);
                float sum[Span<float>::LANES];
#pragma unroll
                for (int i = 0; i < Span<float>::LANES; ++i) {
                    const int lane = part * Span<float>::LANES + i;
                    dx[lane] = r * (dy[lane] * w[lane] - x[lane] * shrink) + residual[lane];
                    sum[i] = before[i] + dy[lane] * (x[lane] * r);
                }
                dw.set(column, part, Span<float>::of(sum));
            }
            Own::store(at.dx + start, Span<T>::of(dx), column, width);
        };
#pragma unroll
        for (int k = 0; k < Own::KEPT; ++k) give(Own::kept(k), kept_x[k], kept_dy[k], kept_residual[k]);
#pragma unroll 1
        for (int column = Own::beyond(); column < width; column += Own::STEP) {
            const Span<T> added = residual ? Own::load(residual, column, width) : Span<T>{};
            give(column, Own::load(x, column, width), Own::load(dy, column, width), added);
        }
    }

#pragma unroll 1
    for (int column = Own::kept(0); column < width; column += Own::STEP) {
        for (int part = 0; part < dw.PARTS; ++part) {
            const int quad = column + part * Span<float>::LANES;
            store_span(at.dw + quad, dw.get(column, part), width - quad, ALIGNED);
        }
    }
}

template <class T>
__device__ void rms_norm_backward(Operands<T> at, int rows, int width, float eps, int rows_per_block) {
    const bool rows_aligned = lies_on_spans(at.dy, width) && lies_on_spans(at.x, width);
    const bool more_aligned = lies_on_spans(at.residual, width) && lies_on_spans(at.weight, width);
    const bool outputs_aligned = lies_on_spans(at.dx, width) && lies_on_spans(at.dw);
    const int begin = blockIdx.x * rows_per_block;
    const int end = min(rows, begin + rows_per_block);
    at.dw += (long long)blockIdx.x * width;
    if (rows_aligned && more_aligned && outputs_aligned) {
        backward_rows<T, true>(at, begin, end, width, eps);
    } else {
        backward_rows<T, false>(at, begin, end, width, eps);
    }
}

}  // namespace

// x, y [rows, width]; weight [width]. grid(rows) block(256).
extern "C" __global__ void __launch_bounds__(THREADS)
    rms_norm_forward_f32(float* y, const float* x, const float* weight, int rows, int width, float eps) {
    rms_norm_forward(y, x, weight, width, eps);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    rms_norm_forward_bf16(bf16* y, const bf16* x, const bf16* weight, int rows, int width, float eps) {
    rms_norm_forward(y, x, weight, width, eps);
}

// dx, dy, x, residual [rows, width], residual null or added to dx; weight [width]; dw_partials [gridDim.x, width], the
// weight's gradient over each run of rows_per_block rows. grid(ceil(rows / rows_per_block)) block(256), dynamic shared
// memory of 4 * width bytes.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    rms_norm_backward_f32(float* dx, float* dw_partials, const float* dy, const float* x, const float* weight,
                          const float* residual, int rows, int width, float eps, int rows_per_block) {
    rms_norm_backward<float>({dx, dw_partials, dy, x, weight, residual}, rows, width, eps, rows_per_block);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    rms_norm_backward_bf16(bf16* dx, float* dw_partials, const bf16* dy, const bf16* x, const bf16* weight,
                           const bf16* residual, int rows, int width, float eps, int rows_per_block) {
    rms_norm_backward<bf16>({dx, dw_partials, dy, x, weight, residual}, rows, width, eps, rows_per_block);
}
