// What the kernels share: bf16, 16-byte accesses, sums over warps and blocks, and the PTX behind the attention.
//
// Without nvcc the same names come from an emulation of CUDA on the CPU, which the tests run the kernels on.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>

/// This block's dynamic shared memory.
template <class T> __device__ __forceinline__ T* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
    return reinterpret_cast<T*>(dynamic_shared_memory);
}

__device__ __forceinline__ uint4 load_16_bytes(const void* from) { return *static_cast<const uint4*>(from); }

__device__ __forceinline__ void store_16_bytes(void* to, uint4 value) { *static_cast<uint4*>(to) = value; }

/// 2^x within 2^-22, subnormal results flushed to zero.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Two values rounded to bf16, `low` in the low half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

/// An address within shared memory, in bytes.
using SharedAddress = unsigned;

__device__ __forceinline__ SharedAddress shared_address(const void* pointer) {
    return static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
}

/// d [16, 8] += a [16, 16] b [16, 8], a warp together: bf16 factors, f32 sums.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices of bf16 out of shared memory; lane i points to row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

/// The same, every matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

/// Copies 16 bytes from global to shared memory in the background, or writes zeros and reads nothing if not `valid`.
__device__ __forceinline__ void cp_async_16(SharedAddress to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

/// The same for 4 bytes.
__device__ __forceinline__ void cp_async_4(SharedAddress to, const void* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

/// Ends a group of copies.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits for this thread's copies, but for those of the last `pending` groups.
template <int pending> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
#else
#include "../../../tests/emulation/cuda.hpp"
#endif

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }

/// Rounds to nearest, ties to even.
template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }

/// Whether 16-byte accesses at this address are possible.
__device__ __forceinline__ bool is_aligned_16(const void* address) {
    return reinterpret_cast<unsigned long long>(address) % 16 == 0;
}

constexpr unsigned WHOLE_WARP = 0xffffffffu;

/// The sum over a warp, in all lanes, the same bits in each.
template <class T> __device__ __forceinline__ T warp_sum(T value) {
    for (int bits = 16; bits > 0; bits /= 2) {
        value += __shfl_xor_sync(WHOLE_WARP, value, bits);
    }
    return value;
}

/// The greatest value of a warp, in all lanes.
__device__ __forceinline__ float warp_max(float value) {
    for (int bits = 16; bits > 0; bits /= 2) {
        value = fmaxf(value, __shfl_xor_sync(WHOLE_WARP, value, bits));
    }
    return value;
}

/// The sum over a block of whole warps, in all threads; f32 or f64. All threads call it.
template <class T> __device__ __forceinline__ T block_sum(T value) {
    __shared__ T partials[32];
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    int warps = blockDim.x * blockDim.y * blockDim.z / 32;
    int lane = thread % 32;
    value = warp_sum(value);
    // An earlier call's partials have been read.
    __syncthreads();
    if (lane == 0) {
        partials[thread / 32] = value;
    }
    __syncthreads();
    return warp_sum(lane < warps ? partials[lane] : T(0));
}
