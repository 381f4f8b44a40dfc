// What the emulation must refuse or make visible, and the matrix instructions against a plain product. Tested by
// src/kernels/cuda/emulator.rs; a GPU never sees these.
#include "../../src/kernels/cuda/device.cuh"

extern "C" __global__ void returns_before_a_barrier(float*) {
    if (threadIdx.x != 5) {
        __syncthreads();
    }
}

extern "C" __global__ void waits_at_two_barriers(float*) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

extern "C" __global__ void splits_a_warp(float* out) {
    if (threadIdx.x < 5) {
        __syncwarp();
    } else {
        out[threadIdx.x] = warp_sum(1.0f);
    }
}

/// As many floats as threads; a test launches it with less memory.
extern "C" __global__ void writes_past_shared_memory(float*) { dynamic_shared<float>()[threadIdx.x] = 1.0f; }

extern "C" __global__ void reads_unaligned(float* out) { out[0] = __uint_as_float(load_16_bytes(out + 1).x); }

extern "C" __global__ void reads_unmapped(float* out) {
    volatile uintptr_t address = 16;
    out[0] = *reinterpret_cast<float*>(address);
}

/// out[thread] is 1 where the copy had not arrived, although one had waited for the group before it.
extern "C" __global__ void reads_a_copy_early(float* out) {
    float* place = dynamic_shared<float>() + threadIdx.x;
    *place = 2.0f;
    cp_async_commit();
    cp_async_4(shared_address(place), out + threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<1>();
    bool early = *place == *place;
    cp_async_wait<0>();
    out[threadIdx.x] = !early && *place == out[threadIdx.x];
}

/// c [16, 8] = a [16, 16] b [16, 8], and c_transposed the same from b's transpose [8, 16]. One warp, 1024 bytes.
extern "C" __global__ void multiplies_matrices(float* c, float* c_transposed, const bf16* a, const bf16* b,
                                               const bf16* b_transposed) {
    int lane = threadIdx.x;
    bf16* left = dynamic_shared<bf16>();
    bf16* right = left + 16 * 16;
    bf16* right_transposed = right + 16 * 8;
    cp_async_16(shared_address(left + 8 * lane), a + 8 * lane, true);
    const bf16* from = lane < 16 ? b + 8 * lane : b_transposed + 8 * (lane - 16);
    cp_async_16(shared_address(right + 8 * lane), from, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    unsigned x[4], y[4], z[4];
    ldmatrix_x4(x, shared_address(left + lane % 16 * 16 + lane / 16 * 8));
    ldmatrix_x4_trans(y, shared_address(right + lane % 16 * 8));
    ldmatrix_x4(z, shared_address(right_transposed + lane % 8 * 16 + lane / 8 % 2 * 8));
    float sum[4] = {}, sum_transposed[4] = {};
    mma_m16n8k16(sum, x, y[0], y[1]);
    mma_m16n8k16(sum_transposed, x, z[0], z[1]);
    for (int i = 0; i < 4; i++) {
        int place = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
        c[place] = sum[i];
        c_transposed[place] = sum_transposed[i];
    }
}
