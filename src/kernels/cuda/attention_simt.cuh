// Attention in f32 arithmetic, for any head dim up to 256: 32 rows at a time, 8 of them a warp, against 32 others a step.
//
// In a product of rows with rows a lane has one of the 32 others; in a weighted sum of rows it has every 32nd column.
#pragma once

#include "attention_tiles.cuh"
#include "span.cuh"

namespace simt {

constexpr int WARPS = 4;
constexpr int TILE_ROWS = 64;
constexpr int ROWS = 32;
constexpr int WARP_ROWS = ROWS / WARPS;
constexpr int MAX_DIM = 256;
constexpr int COLUMNS = MAX_DIM / 32;

/// Values from one row in shared memory to the next: rows start on 16 bytes and on different banks.
__host__ __device__ constexpr int pitch(int dim) { return (dim + 3) / 4 * 4 + 4; }

/// A weight for each of a warp's rows and each of a step's.
constexpr int WEIGHTS = WARPS * WARP_ROWS * ROWS;

/// Reads rows first..first+32, zeros from `end` on.
template <class T> __device__ __forceinline__ void read_rows(float* to, Rows<const T> rows, int first, int end, int dim) {
    bool aligned = lies_on_spans(rows.first, dim);
    for (int row = threadIdx.x / 32; row < ROWS; row += WARPS) {
        for (int i = threadIdx.x % 32 * Span<T>::LANES; i < dim; i += 32 * Span<T>::LANES) {
            Span<T> span = {};
            if (first + row < end) {
                span = load_span(rows[first + row] + i, dim - i, aligned);
            }
            float4* place = reinterpret_cast<float4*>(to + row * pitch(dim) + i);
#pragma unroll
            for (int j = 0; j < Span<T>::LANES; j += 4) {
                place[j / 4] = {span[j], span[j + 1], span[j + 2], span[j + 3]};
            }
        }
    }
}

/// s[r] = this warp's r-th row times the lane's row of the others.
__device__ __forceinline__ void multiply(float (&s)[WARP_ROWS], const float* rows, const float* others, int dim) {
    const float* mine = rows + threadIdx.x / 32 * WARP_ROWS * pitch(dim);
    const float* other = others + threadIdx.x % 32 * pitch(dim);
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        s[r] = 0.0f;
    }
    for (int i = 0; i < dim; i += 4) {
        float4 b = *reinterpret_cast<const float4*>(other + i);
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            float4 a = *reinterpret_cast<const float4*>(mine + r * pitch(dim) + i);
            s[r] = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, s[r]))));
        }
    }
}

/// sum[r] += weights of this warp's r-th row, one of each lane, times the others.
__device__ __forceinline__ void add_weighted(float (&sum)[WARP_ROWS][COLUMNS], const float (&weights)[WARP_ROWS], float* exchange,
                                             const float* others, int dim) {
    int lane = threadIdx.x % 32;
    float* mine = exchange + threadIdx.x / 32 * WARP_ROWS * ROWS;
    // The weights that were here before have been read.
    __syncwarp();
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        mine[r * ROWS + lane] = weights[r];
    }
    __syncwarp();
    for (int other = 0; other < ROWS; other += 4) {
        float4 w[WARP_ROWS];
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            w[r] = *reinterpret_cast<const float4*>(mine + r * ROWS + other);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (lane + 32 * c < dim) {
                const float* x = others + other * pitch(dim) + lane + 32 * c;
                float x0 = x[0], x1 = x[pitch(dim)], x2 = x[2 * pitch(dim)], x3 = x[3 * pitch(dim)];
#pragma unroll
                for (int r = 0; r < WARP_ROWS; r++) {
                    sum[r][c] = fmaf(w[r].w, x3, fmaf(w[r].z, x2, fmaf(w[r].y, x1, fmaf(w[r].x, x0, sum[r][c]))));
                }
            }
        }
    }
}

/// Writes the rows of this warp that are before `end`.
template <class T>
__device__ __forceinline__ void write_rows(Rows<T> to, int first_row, int end, const float (&sum)[WARP_ROWS][COLUMNS],
                                           const float (&factor)[WARP_ROWS], int dim) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (first_row + r < end && lane + 32 * c < dim) {
                to[first_row + r][lane + 32 * c] = from_f32<T>(sum[r][c] * factor[r]);
            }
        }
    }
}

__device__ __forceinline__ void fill(float (&values)[WARP_ROWS], float value) {
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        values[r] = value;
    }
}

/// Shared memory of the forward, in bytes: queries, keys, values, weights.
constexpr int forward_shared_bytes(int dim) { return (3 * ROWS * pitch(dim) + WEIGHTS) * int(sizeof(float)); }

template <class T>
__device__ __forceinline__ void forward(T* out, float* lse, const T* q, const T* k, const T* v, const int* tiles, int heads,
                                        int kv_heads, int dim, float scale) {
    int head = blockIdx.y, kv_head = head / (heads / kv_heads);
    int warp_row = threadIdx.x / 32 * WARP_ROWS, lane = threadIdx.x % 32;
    Rows<const T> keys(k, kv_heads, dim, kv_head), values(v, kv_heads, dim, kv_head);
    float* query_rows = dynamic_shared<float>();
    float* key_rows = query_rows + ROWS * pitch(dim);
    float* value_rows = key_rows + ROWS * pitch(dim);
    float* weights = value_rows + ROWS * pitch(dim);

    for (int part = 0; part < TILE_ROWS; part += ROWS) {
        QueryTile tile = QueryTile::read(tiles, blockIdx.x).part(part, ROWS);
        if (tile.queries <= 0) {
            break;
        }
        int first_row = tile.query + warp_row;
        __syncthreads();
        read_rows(query_rows, Rows<const T>(q, heads, dim, head), tile.query, tile.end(), dim);
        float sum[WARP_ROWS][COLUMNS] = {};
        float maximum[WARP_ROWS], denominator[WARP_ROWS] = {};
        fill(maximum, -INFINITY);
        for (int i = 0; i < tile.steps<ROWS>(); i++) {
            KeyStep step = tile.step<ROWS>(i);
            __syncthreads();
            read_rows(key_rows, keys, step.key, step.end, dim);
            read_rows(value_rows, values, step.key, step.end, dim);
            __syncthreads();
            if (!step.seen_up_to(first_row + WARP_ROWS - 1)) {
                continue;
            }
            float s[WARP_ROWS];
            multiply(s, query_rows, key_rows, dim);
#pragma unroll
            for (int r = 0; r < WARP_ROWS; r++) {
                float score = step.key + lane <= step.last(first_row + r) ? s[r] * scale : -INFINITY;
                float greatest = fmaxf(maximum[r], warp_max(score));
                float correction = expf(maximum[r] - greatest);
                maximum[r] = greatest;
                s[r] = expf(score - greatest);
                denominator[r] = denominator[r] * correction + warp_sum(s[r]);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    sum[r][c] *= correction;
                }
            }
            add_weighted(sum, s, weights, value_rows, dim);
        }
        float factor[WARP_ROWS];
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            factor[r] = 1.0f / denominator[r];
            if (lane == 0 && first_row + r < tile.end()) {
                lse[size_t(first_row + r) * heads + head] = maximum[r] + logf(denominator[r]);
            }
        }
        write_rows(Rows<T>(out, heads, dim, head), first_row, tile.end(), sum, factor, dim);
    }
}

/// Shared memory of either backward, in bytes: queries, gradients of the outputs, keys, values, weights.
constexpr int backward_shared_bytes(int dim) { return (4 * ROWS * pitch(dim) + WEIGHTS) * int(sizeof(float)); }

template <class T>
__device__ __forceinline__ void backward_query(T* dq, const T* q, const T* k, const T* v, const T* d_out, const float* lse,
                                               const float* delta, const int* tiles, int heads, int kv_heads, int dim,
                                               float scale) {
    int head = blockIdx.y, kv_head = head / (heads / kv_heads);
    int warp_row = threadIdx.x / 32 * WARP_ROWS, lane = threadIdx.x % 32;
    Rows<const T> keys(k, kv_heads, dim, kv_head), values(v, kv_heads, dim, kv_head);
    float* query_rows = dynamic_shared<float>();
    float* gradient_rows = query_rows + ROWS * pitch(dim);
    float* key_rows = gradient_rows + ROWS * pitch(dim);
    float* value_rows = key_rows + ROWS * pitch(dim);
    float* weights = value_rows + ROWS * pitch(dim);

    for (int part = 0; part < TILE_ROWS; part += ROWS) {
        QueryTile tile = QueryTile::read(tiles, blockIdx.x).part(part, ROWS);
        if (tile.queries <= 0) {
            break;
        }
        int first_row = tile.query + warp_row;
        __syncthreads();
        read_rows(query_rows, Rows<const T>(q, heads, dim, head), tile.query, tile.end(), dim);
        read_rows(gradient_rows, Rows<const T>(d_out, heads, dim, head), tile.query, tile.end(), dim);
        // exp(score - infinity) is zero: rows past the end have no gradient.
        float own_lse[WARP_ROWS], own_delta[WARP_ROWS];
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            bool valid = first_row + r < tile.end();
            own_lse[r] = valid ? lse[size_t(first_row + r) * heads + head] : INFINITY;
            own_delta[r] = valid ? delta[size_t(first_row + r) * heads + head] : 0.0f;
        }
        float sum[WARP_ROWS][COLUMNS] = {};
        for (int i = 0; i < tile.steps<ROWS>(); i++) {
            KeyStep step = tile.step<ROWS>(i);
            __syncthreads();
            read_rows(key_rows, keys, step.key, step.end, dim);
            read_rows(value_rows, values, step.key, step.end, dim);
            __syncthreads();
            if (!step.seen_up_to(first_row + WARP_ROWS - 1)) {
                continue;
            }
            float s[WARP_ROWS], dp[WARP_ROWS];
            multiply(s, query_rows, key_rows, dim);
            multiply(dp, gradient_rows, value_rows, dim);
#pragma unroll
            for (int r = 0; r < WARP_ROWS; r++) {
                bool seen = step.key + lane <= step.last(first_row + r);
                s[r] = seen ? expf(s[r] * scale - own_lse[r]) * (dp[r] - own_delta[r]) : 0.0f;
            }
            add_weighted(sum, s, weights, key_rows, dim);
        }
        float factor[WARP_ROWS];
        fill(factor, scale);
        write_rows(Rows<T>(dq, heads, dim, head), first_row, tile.end(), sum, factor, dim);
    }
}

template <class T>
__device__ __forceinline__ void backward_key(T* dk, T* dv, const T* q, const T* k, const T* v, const T* d_out, const float* lse,
                                             const float* delta, const int* tiles, int heads, int kv_heads, int dim,
                                             float scale) {
    int kv_head = blockIdx.y, group = heads / kv_heads;
    int warp_row = threadIdx.x / 32 * WARP_ROWS, lane = threadIdx.x % 32;
    float* key_rows = dynamic_shared<float>();
    float* value_rows = key_rows + ROWS * pitch(dim);
    float* query_rows = value_rows + ROWS * pitch(dim);
    float* gradient_rows = query_rows + ROWS * pitch(dim);
    float* weights = gradient_rows + ROWS * pitch(dim);

    for (int part = 0; part < TILE_ROWS; part += ROWS) {
        KeyTile tile = KeyTile::read(tiles, blockIdx.x).part(part, ROWS);
        if (tile.keys <= 0) {
            break;
        }
        int first_key = tile.key + warp_row;
        __syncthreads();
        read_rows(key_rows, Rows<const T>(k, kv_heads, dim, kv_head), tile.key, tile.end(), dim);
        read_rows(value_rows, Rows<const T>(v, kv_heads, dim, kv_head), tile.key, tile.end(), dim);
        float key_sum[WARP_ROWS][COLUMNS] = {}, value_sum[WARP_ROWS][COLUMNS] = {};
        for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
            for (int row = tile.key; row < tile.query_end; row += ROWS) {
                __syncthreads();
                read_rows(query_rows, Rows<const T>(q, heads, dim, head), row, tile.query_end, dim);
                read_rows(gradient_rows, Rows<const T>(d_out, heads, dim, head), row, tile.query_end, dim);
                __syncthreads();
                if (first_key >= tile.end() || row + ROWS - 1 < first_key) {
                    continue;
                }
                // The lane has one query, whose probabilities and gradients are of the warp's keys.
                int query = row + lane;
                bool valid = query < tile.query_end;
                float query_lse = valid ? lse[size_t(query) * heads + head] : 0.0f;
                float query_delta = valid ? delta[size_t(query) * heads + head] : 0.0f;
                float s[WARP_ROWS], dp[WARP_ROWS];
                multiply(s, key_rows, query_rows, dim);
                multiply(dp, value_rows, gradient_rows, dim);
#pragma unroll
                for (int r = 0; r < WARP_ROWS; r++) {
                    s[r] = valid && query >= first_key + r ? expf(s[r] * scale - query_lse) : 0.0f;
                    dp[r] = s[r] * (dp[r] - query_delta);
                }
                add_weighted(value_sum, s, weights, gradient_rows, dim);
                add_weighted(key_sum, dp, weights, query_rows, dim);
            }
        }
        float factor[WARP_ROWS];
        fill(factor, scale);
        write_rows(Rows<T>(dk, kv_heads, dim, kv_head), first_key, tile.end(), key_sum, factor, dim);
        fill(factor, 1.0f);
        write_rows(Rows<T>(dv, kv_heads, dim, kv_head), first_key, tile.end(), value_sum, factor, dim);
    }
}

}  // namespace simt
