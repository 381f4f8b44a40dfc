// Causal grouped-query attention over packed rows with shared prompts: forward, and backward by FlashAttention's two
// kernels, one a query tile and one a key tile, so that every sum has one order and no memory grows with T x T.
//
// q, out, dq, d_out [N, A * D]; k, v, dk, dv [N, K * D]; lse, delta [N, A] f32. tiles: five ints a QueryTile, three a
// KeyTile (attention_tiles.cuh). Query head a uses key-value head a / (A / K). scale > 0.
#include "attention_mma.cuh"
#include "attention_simt.cuh"

#define FORWARD_ARGUMENTS(T) \
    T *out, float *lse, const T *q, const T *k, const T *v, const int *tiles, int heads, int kv_heads, int dim, float scale
#define BACKWARD_INPUTS(T)                                                                                          \
    const T *q, const T *k, const T *v, const T *d_out, const float *lse, const float *delta, const int *tiles, int heads, \
        int kv_heads, int dim, float scale

// Any dim <= 256, with pitch = round_up(dim, 4) + 4. Dynamic shared memory in bytes:
// - forward: 4 * (96 * pitch + 1024)
// - either backward: 4 * (128 * pitch + 1024)
static_assert(simt::forward_shared_bytes(256) == 4 * (96 * 260 + 1024), "as the comment says");
static_assert(simt::backward_shared_bytes(256) == 4 * (128 * 260 + 1024), "as the comment says");
#define KERNELS_OF_ANY_DIM(T, name)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, 2) attention_forward_##name##_any(FORWARD_ARGUMENTS(T)) {              \
        simt::forward<T>(out, lse, q, k, v, tiles, heads, kv_heads, dim, scale);                                          \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128, 2) attention_backward_query_##name##_any(T* dq, BACKWARD_INPUTS(T)) {  \
        simt::backward_query<T>(dq, q, k, v, d_out, lse, delta, tiles, heads, kv_heads, dim, scale);                      \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128, 2) attention_backward_key_##name##_any(T* dk, T* dv, BACKWARD_INPUTS(T)) { \
        simt::backward_key<T>(dk, dv, q, k, v, d_out, lse, delta, tiles, heads, kv_heads, dim, scale);                    \
    }

KERNELS_OF_ANY_DIM(float, f32)
KERNELS_OF_ANY_DIM(bf16, bf16)

// Head dims D of the tensor-core kernels, 64 and 128. Dynamic shared memory in bytes:
// - forward: 512 * D
// - backward_query: 512 * D
// - backward_key: 512 * D + 512
static_assert(mma::forward_shared_bytes<128>() == 512 * 128, "as the comment says");
static_assert(mma::backward_query_shared_bytes<128>() == 512 * 128, "as the comment says");
static_assert(mma::backward_key_shared_bytes<128>() == 512 * 128 + 512, "as the comment says");
#define KERNELS_OF_DIM(D, forward_blocks, query_blocks, key_blocks)                                                       \
    extern "C" __global__ void __launch_bounds__(128, forward_blocks) attention_forward_bf16_d##D(FORWARD_ARGUMENTS(bf16)) { \
        mma::forward<D>(out, lse, q, k, v, tiles, heads, kv_heads, scale);                                                \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128, query_blocks)                                                       \
        attention_backward_query_bf16_d##D(bf16* dq, BACKWARD_INPUTS(bf16)) {                                             \
        mma::backward_query<D>(dq, q, k, v, d_out, lse, delta, tiles, heads, kv_heads, scale);                            \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128, key_blocks)                                                         \
        attention_backward_key_bf16_d##D(bf16* dk, bf16* dv, BACKWARD_INPUTS(bf16)) {                                     \
        mma::backward_key<D>(dk, dv, q, k, v, d_out, lse, delta, tiles, heads, kv_heads, scale);                          \
    }

KERNELS_OF_DIM(64, 3, 4, 3)
KERNELS_OF_DIM(128, 3, 3, 2)

/// delta[n, a] = d_out[n, a] . out[n, a]: a warp a head. No shared memory.
template <class T>
__device__ __forceinline__ void write_delta(float* delta, const T* d_out, const T* out, int heads, int dim) {
    int row = blockIdx.x, lane = threadIdx.x % 32;
    for (int head = threadIdx.x / 32; head < heads; head += blockDim.x / 32) {
        size_t place = (size_t(row) * heads + head) * dim;
        bool aligned = lies_on_spans(d_out, dim) && lies_on_spans(out, dim);
        float sum = 0.0f;
        for (int i = lane * Span<T>::LANES; i < dim; i += 32 * Span<T>::LANES) {
            Span<T> x = load_span(d_out + place + i, dim - i, aligned), y = load_span(out + place + i, dim - i, aligned);
#pragma unroll
            for (int j = 0; j < Span<T>::LANES; j++) {
                sum = fmaf(x[j], y[j], sum);
            }
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            delta[size_t(row) * heads + head] = sum;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
    attention_delta_f32(float* delta, const float* d_out, const float* out, int rows, int heads, int dim) {
    write_delta(delta, d_out, out, heads, dim);
}

extern "C" __global__ void __launch_bounds__(256)
    attention_delta_bf16(float* delta, const bf16* d_out, const bf16* out, int rows, int heads, int dim) {
    write_delta(delta, d_out, out, heads, dim);
}
