// Attention on tensor cores: bf16 products, f32 sums, 64 rows a block, 16 of them a warp.
//
// Scores and their gradients stay in the registers in which a product left them: the accumulators' layout of one product
// is the left operand's of the next. Tiles come by cp.async, one step ahead, into rows whose 16-byte chunks are XORed
// with the row: neither the copies nor ldmatrix meet bank conflicts. After Dao, FlashAttention-2 (arXiv:2307.08691).
#pragma once

#include "attention_tiles.cuh"

namespace mma {

constexpr int THREADS = 128;
constexpr int ROWS = 64;
constexpr int WARP_ROWS = 16;
constexpr float LOG2_E = 1.4426950408889634f;

/// Where chunk `chunk` (8 values) of a row of D values lies in a tile.
template <int D> __device__ __forceinline__ bf16* at(bf16* tile, int row, int chunk) {
    return tile + row * D + (chunk ^ row % 8) * 8;
}

/// Asks for rows first..first+COUNT, zeros from `end` on.
template <int D, int COUNT> __device__ __forceinline__ void copy_rows(bf16* tile, Rows<const bf16> rows, int first, int end) {
    constexpr int CHUNKS = D / 8, APART = THREADS / CHUNKS;
    static_assert(COUNT % APART == 0 && APART % 8 == 0, "all threads copy as many chunks, each in one column");
    int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    SharedAddress to = shared_address(at<D>(tile, row, chunk));
    const bf16* from = rows[first + row] + chunk * 8;
#pragma unroll
    for (int i = 0; i < COUNT; i += APART) {
        cp_async_16(to + i * D * sizeof(bf16), from + i * rows.stride, first + row + i < end);
    }
}

/// What a lane points ldmatrix to: one row of a tile, and its chunks 2k or 2k + 1.
///
/// The address of every other operand of the tile differs from the first one's by constants: added for rows and for
/// runs of eight chunks, XORed within such a run. Written so that a register is spent on few of them.
template <int D> struct LaneRow {
    SharedAddress address;
    unsigned swizzle;

    __device__ __forceinline__ LaneRow(bf16* tile, int row, int odd)
        : address(shared_address(tile) + row * D * sizeof(bf16)), swizzle((odd ^ row % 8) * 16) {}

    /// `rows` below, a multiple of 8; `chunk` to the right, an even number.
    __device__ __forceinline__ SharedAddress operator()(int rows, int chunk) const {
        return address + (swizzle ^ chunk % 8 * 16) + (chunk / 8 * 128 + rows * D * int(sizeof(bf16)));
    }
};

/// Four 8 x 8 matrices of one operand: two below each other, then two to their right. Left operands are read so, and
/// right ones out of rows of the summed dimension, transposed.
template <int D> __device__ __forceinline__ LaneRow<D> down_then_right(bf16* tile, int row) {
    int lane = threadIdx.x % 32;
    return LaneRow<D>(tile, row + lane % 16, lane / 16);
}

/// Two beside each other, then two below them: right operands out of rows of columns.
template <int D> __device__ __forceinline__ LaneRow<D> right_then_down(bf16* tile) {
    int lane = threadIdx.x % 32;
    return LaneRow<D>(tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

/// This warp's 16 rows of a tile as left operands: kept in registers, or read anew for every product.
template <int D, bool KEPT> struct LeftRows;

template <int D> struct LeftRows<D, true> {
    unsigned kept[D / 16][4];
    __device__ __forceinline__ LeftRows(bf16* tile, int row) {
        LaneRow<D> from = down_then_right<D>(tile, row);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            ldmatrix_x4(kept[k], from(0, 2 * k));
        }
    }
    __device__ __forceinline__ void load(unsigned (&a)[4], int k) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = kept[k][i];
        }
    }
};

template <int D> struct LeftRows<D, false> {
    LaneRow<D> from;
    __device__ __forceinline__ LeftRows(bf16* tile, int row) : from(down_then_right<D>(tile, row)) {}
    __device__ __forceinline__ void load(unsigned (&a)[4], int k) const { ldmatrix_x4(a, from(0, 2 * k)); }
};

/// s [16, N] = left [16, D] times the transpose of the tile's N rows.
template <int D, int N, bool KEPT>
__device__ __forceinline__ void multiply_transposed(float (&s)[N / 8][4], const LeftRows<D, KEPT>& left, bf16* tile) {
    LaneRow<D> right = right_then_down<D>(tile);
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        unsigned a[4], b[4];
        left.load(a, k);
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            ldmatrix_x4(b, right(8 * n, 2 * k));
            mma_m16n8k16(s[n], a, b[0], b[1]);
            mma_m16n8k16(s[n + 1], a, b[2], b[3]);
        }
    }
}

/// sum [16, D] += weights [16, K], rounded to bf16, times the tile's K rows.
template <int D, int K>
__device__ __forceinline__ void add_product(float (&sum)[D / 8][4], const float (&weights)[K / 8][4], bf16* tile) {
    LaneRow<D> right = down_then_right<D>(tile, 0);
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
        const float(&first)[4] = weights[2 * k], (&second)[4] = weights[2 * k + 1];
        unsigned a[4] = {pack_bf16(first[0], first[1]), pack_bf16(first[2], first[3]), pack_bf16(second[0], second[1]),
                         pack_bf16(second[2], second[3])};
        unsigned b[4];
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            ldmatrix_x4_trans(b, right(16 * k, n));
            mma_m16n8k16(sum[n], a, b[0], b[1]);
            mma_m16n8k16(sum[n + 1], a, b[2], b[3]);
        }
    }
}

/// Row `first + i` of an accumulator is this thread's i-th of two.
__device__ __forceinline__ int row_of(int i) { return threadIdx.x % 32 / 4 + 8 * i; }

/// The column of an accumulator's value i % 2 in the n-th run of eight.
__device__ __forceinline__ int column_of(int n, int i) { return 8 * n + threadIdx.x % 4 * 2 + i % 2; }

/// Writes this warp's 16 rows of a block's result, by way of the same rows of a tile that no other warp reads any more.
template <int D>
__device__ __forceinline__ void store_rows(Rows<bf16> to, int first, int end, bf16* tile, const float (&values)[D / 8][4],
                                           float factor0, float factor1) {
    int warp_row = threadIdx.x / 32 * WARP_ROWS, lane = threadIdx.x % 32;
    // The warp has read its rows of the tile for the last time.
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        unsigned* upper = reinterpret_cast<unsigned*>(at<D>(tile, warp_row + row_of(0), n));
        unsigned* lower = reinterpret_cast<unsigned*>(at<D>(tile, warp_row + row_of(1), n));
        upper[lane % 4] = pack_bf16(values[n][0] * factor0, values[n][1] * factor0);
        lower[lane % 4] = pack_bf16(values[n][2] * factor1, values[n][3] * factor1);
    }
    __syncwarp();
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < WARP_ROWS * CHUNKS / 32; i++) {
        int index = lane + 32 * i;
        int row = warp_row + index / CHUNKS, chunk = index % CHUNKS;
        if (first + row < end) {
            store_16_bytes(to[first + row] + chunk * 8, load_16_bytes(at<D>(tile, row, chunk)));
        }
    }
}

/// Reduces over the four threads that share a row.
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, 1));
    return fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, 2));
}

__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(WHOLE_WARP, x, 1);
    return x + __shfl_xor_sync(WHOLE_WARP, x, 2);
}

// Forward: 64 keys a step. Shared memory: two steps' keys and values; the queries pass through the second step's place.
constexpr int FORWARD_KEYS = 64;
template <int D> constexpr int forward_shared_bytes() { return 2 * 2 * FORWARD_KEYS * D * int(sizeof(bf16)); }

/// Takes scores in, gives exp(scores - maximum) back; `maximum` and `sum` are of this thread's two rows, `sum` over this
/// thread's columns only. What was summed before is multiplied by `correction`.
template <int N>
__device__ __forceinline__ void softmax_step(float (&s)[N / 8][4], float (&maximum)[2], float (&sum)[2], float (&correction)[2],
                                             float scale_log2) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float greatest = s[0][2 * r];
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            greatest = fmaxf(greatest, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        }
        greatest = fmaxf(maximum[r], row_max(greatest));
        correction[r] = fast_exp2((maximum[r] - greatest) * scale_log2);
        maximum[r] = greatest;
        float offset = greatest * scale_log2, total = 0.0f;
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++) {
                s[n][i] = fast_exp2(fmaf(s[n][i], scale_log2, -offset));
                total += s[n][i];
            }
        }
        sum[r] = sum[r] * correction[r] + total;
    }
}

template <int D>
__device__ __forceinline__ void forward(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* tiles,
                                        int heads, int kv_heads, float scale) {
    constexpr int KEYS = FORWARD_KEYS;
    int head = blockIdx.y, kv_head = head / (heads / kv_heads);
    QueryTile tile = QueryTile::read(tiles, blockIdx.x);
    Rows<const bf16> keys(k, kv_heads, D, kv_head), values(v, kv_heads, D, kv_head);
    bf16* shared = dynamic_shared<bf16>();
    auto key_tile = [&](int step) { return shared + step % 2 * 2 * KEYS * D; };
    auto value_tile = [&](int step) { return key_tile(step) + KEYS * D; };
    auto copy_step = [&](int i) {
        KeyStep step = tile.step<KEYS>(i);
        copy_rows<D, KEYS>(key_tile(i), keys, step.key, step.end);
        copy_rows<D, KEYS>(value_tile(i), values, step.key, step.end);
        cp_async_commit();
    };

    int first_row = tile.query + int(threadIdx.x) / 32 * WARP_ROWS;
    copy_rows<D, ROWS>(key_tile(1), Rows<const bf16>(q, heads, D, head), tile.query, tile.end());
    copy_step(0);
    cp_async_wait<0>();
    __syncthreads();
    LeftRows<D, true> queries(key_tile(1), first_row - tile.query);

    float sum[D / 8][4] = {};
    float maximum[2] = {-INFINITY, -INFINITY}, denominator[2] = {};
    int steps = tile.steps<KEYS>();
    for (int i = 0; i < steps; i++) {
        // This step has arrived, and nobody reads the place of the next one any more.
        cp_async_wait<0>();
        __syncthreads();
        if (i + 1 < steps) {
            copy_step(i + 1);
        }
        KeyStep step = tile.step<KEYS>(i);
        if (!step.seen_up_to(first_row + WARP_ROWS - 1)) {
            continue;
        }
        float s[KEYS / 8][4];
        multiply_transposed<D, KEYS>(s, queries, key_tile(i));
        if (!step.seen_whole_from(first_row, KEYS)) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    bool seen = step.key + column_of(n, j) <= step.last(first_row + row_of(j / 2));
                    s[n][j] = seen ? s[n][j] : -INFINITY;
                }
            }
        }
        float correction[2];
        softmax_step<KEYS>(s, maximum, denominator, correction, scale * LOG2_E);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                sum[n][j] *= correction[j / 2];
            }
        }
        add_product<D, KEYS>(sum, s, value_tile(i));
    }

    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = row_sum(denominator[r]);
        factor[r] = 1.0f / total;
        int row = first_row + row_of(r);
        if (threadIdx.x % 4 == 0 && row < tile.end()) {
            lse[size_t(row) * heads + head] = maximum[r] * scale + logf(total);
        }
    }
    // Other warps may still read the last step's keys.
    __syncthreads();
    store_rows<D>(Rows<bf16>(out, heads, D, head), tile.query, tile.end(), shared, sum, factor[0], factor[1]);
}

// Backward of the queries: 32 keys a step. Shared memory: queries, gradients of the outputs, two steps' keys and values.
constexpr int BACKWARD_STEP = 32;
template <int D> constexpr int backward_query_shared_bytes() {
    return (2 * ROWS + 2 * 2 * BACKWARD_STEP) * D * int(sizeof(bf16));
}

template <int D>
__device__ __forceinline__ void backward_query(bf16* dq, const bf16* q, const bf16* k, const bf16* v, const bf16* d_out,
                                               const float* lse, const float* delta, const int* tiles, int heads, int kv_heads,
                                               float scale) {
    constexpr int KEYS = BACKWARD_STEP;
    int head = blockIdx.y, kv_head = head / (heads / kv_heads);
    QueryTile tile = QueryTile::read(tiles, blockIdx.x);
    Rows<const bf16> keys(k, kv_heads, D, kv_head), values(v, kv_heads, D, kv_head);
    bf16* query_tile = dynamic_shared<bf16>();
    bf16* gradient_tile = query_tile + ROWS * D;
    auto key_tile = [&](int step) { return gradient_tile + ROWS * D + step % 2 * 2 * KEYS * D; };
    auto value_tile = [&](int step) { return key_tile(step) + KEYS * D; };
    auto copy_step = [&](int i) {
        KeyStep step = tile.step<KEYS>(i);
        copy_rows<D, KEYS>(key_tile(i), keys, step.key, step.end);
        copy_rows<D, KEYS>(value_tile(i), values, step.key, step.end);
        cp_async_commit();
    };

    int warp_row = int(threadIdx.x) / 32 * WARP_ROWS, first_row = tile.query + warp_row;
    copy_rows<D, ROWS>(query_tile, Rows<const bf16>(q, heads, D, head), tile.query, tile.end());
    copy_rows<D, ROWS>(gradient_tile, Rows<const bf16>(d_out, heads, D, head), tile.query, tile.end());
    copy_step(0);
    // exp2(score - infinity) is zero: rows past the end have no gradient.
    float lse_log2[2] = {INFINITY, INFINITY}, own_delta[2] = {};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = first_row + row_of(r);
        if (row < tile.end()) {
            lse_log2[r] = lse[size_t(row) * heads + head] * LOG2_E;
            own_delta[r] = delta[size_t(row) * heads + head];
        }
    }
    cp_async_wait<0>();
    __syncthreads();
    LeftRows<D, D <= 64> queries(query_tile, warp_row), gradients(gradient_tile, warp_row);

    float sum[D / 8][4] = {};
    int steps = tile.steps<KEYS>();
    for (int i = 0; i < steps; i++) {
        cp_async_wait<0>();
        __syncthreads();
        if (i + 1 < steps) {
            copy_step(i + 1);
        }
        KeyStep step = tile.step<KEYS>(i);
        if (!step.seen_up_to(first_row + WARP_ROWS - 1)) {
            continue;
        }
        float s[KEYS / 8][4], dp[KEYS / 8][4];
        multiply_transposed<D, KEYS>(s, queries, key_tile(i));
        multiply_transposed<D, KEYS>(dp, gradients, value_tile(i));
        bool whole = step.seen_whole_from(first_row, KEYS);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float p = fast_exp2(fmaf(s[n][j], scale * LOG2_E, -lse_log2[j / 2]));
                bool seen = whole || step.key + column_of(n, j) <= step.last(first_row + row_of(j / 2));
                s[n][j] = seen ? p * (dp[n][j] - own_delta[j / 2]) : 0.0f;
            }
        }
        add_product<D, KEYS>(sum, s, key_tile(i));
    }
    store_rows<D>(Rows<bf16>(dq, heads, D, head), tile.query, tile.end(), query_tile, sum, scale, scale);
}

// Backward of keys and values: 32 queries a step. Shared memory: keys, values, two steps' queries, gradients of the
// outputs, lse and delta.
template <int D> constexpr int backward_key_shared_bytes() {
    return (2 * ROWS + 2 * 2 * BACKWARD_STEP) * D * int(sizeof(bf16)) + 2 * 2 * BACKWARD_STEP * int(sizeof(float));
}

template <int D>
__device__ __forceinline__ void backward_key(bf16* dk, bf16* dv, const bf16* q, const bf16* k, const bf16* v, const bf16* d_out,
                                             const float* lse, const float* delta, const int* tiles, int heads, int kv_heads,
                                             float scale) {
    constexpr int QUERIES = BACKWARD_STEP;
    int kv_head = blockIdx.y, group = heads / kv_heads;
    KeyTile tile = KeyTile::read(tiles, blockIdx.x);
    bf16* key_tile = dynamic_shared<bf16>();
    bf16* value_tile = key_tile + ROWS * D;
    float* statistics = reinterpret_cast<float*>(value_tile + ROWS * D + 2 * 2 * QUERIES * D);
    auto query_tile = [&](int step) { return value_tile + ROWS * D + step % 2 * 2 * QUERIES * D; };
    auto gradient_tile = [&](int step) { return query_tile(step) + QUERIES * D; };
    // lse, then delta.
    auto statistics_of = [&](int step) { return statistics + step % 2 * 2 * QUERIES; };

    auto copy_step = [&](int i, int head, int row) {
        copy_rows<D, QUERIES>(query_tile(i), Rows<const bf16>(q, heads, D, head), row, tile.query_end);
        copy_rows<D, QUERIES>(gradient_tile(i), Rows<const bf16>(d_out, heads, D, head), row, tile.query_end);
        if (threadIdx.x < 2 * QUERIES) {
            int asking = row + threadIdx.x % QUERIES;
            bool valid = asking < tile.query_end;
            const float* from = threadIdx.x < QUERIES ? lse : delta;
            cp_async_4(shared_address(statistics_of(i) + threadIdx.x), from + size_t(asking) * heads + head, valid);
        }
        cp_async_commit();
    };

    int warp_row = int(threadIdx.x) / 32 * WARP_ROWS, first_key = tile.key + warp_row;
    copy_rows<D, ROWS>(key_tile, Rows<const bf16>(k, kv_heads, D, kv_head), tile.key, tile.end());
    copy_rows<D, ROWS>(value_tile, Rows<const bf16>(v, kv_heads, D, kv_head), tile.key, tile.end());
    copy_step(0, kv_head * group, tile.key);
    cp_async_wait<0>();
    __syncthreads();
    LeftRows<D, false> keys(key_tile, warp_row), values(value_tile, warp_row);

    float key_sum[D / 8][4] = {}, value_sum[D / 8][4] = {};
    int next_head = kv_head * group, next_row = tile.key, head_end = next_head + group;
    for (int i = 0; next_head < head_end; i++) {
        int row = next_row;
        next_row += QUERIES;
        if (next_row >= tile.query_end) {
            next_row = tile.key;
            next_head++;
        }
        cp_async_wait<0>();
        __syncthreads();
        if (next_head < head_end) {
            copy_step(i + 1, next_head, next_row);
        }
        if (first_key >= tile.end() || row + QUERIES - 1 < first_key) {
            continue;
        }
        // Probabilities and gradients, transposed: a row for each key, a column for each query.
        float s[QUERIES / 8][4], dp[QUERIES / 8][4];
        multiply_transposed<D, QUERIES>(s, keys, query_tile(i));
        bool whole = row >= first_key + WARP_ROWS - 1 && row + QUERIES <= tile.query_end;
        const float* step_lse = statistics_of(i);
        const float* step_delta = step_lse + QUERIES;
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int query = row + column_of(n, j);
                float p = fast_exp2(fmaf(s[n][j], scale * LOG2_E, -step_lse[column_of(n, j)] * LOG2_E));
                bool seen = whole || (query >= first_key + row_of(j / 2) && query < tile.query_end);
                s[n][j] = seen ? p : 0.0f;
            }
        }
        add_product<D, QUERIES>(value_sum, s, gradient_tile(i));
        multiply_transposed<D, QUERIES>(dp, values, gradient_tile(i));
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[n][j] *= dp[n][j] - step_delta[column_of(n, j)];
            }
        }
        add_product<D, QUERIES>(key_sum, s, query_tile(i));
    }
    store_rows<D>(Rows<bf16>(dk, kv_heads, D, kv_head), tile.key, tile.end(), key_tile, key_sum, scale, scale);
    store_rows<D>(Rows<bf16>(dv, kv_heads, D, kv_head), tile.key, tile.end(), value_tile, value_sum, 1.0f, 1.0f);
}

}  // namespace mma
