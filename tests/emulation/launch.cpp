// All kernels, by name, on the emulation of CUDA: what the tests load as a library.
#include "cuda.hpp"

#include <mutex>
#include <string>
#include <utility>
#include <vector>

// One unit here, one unit a file under nvcc: namespaces keep their internals apart.
namespace {
#include "../../src/kernels/cuda/device.cuh"
#include "../../src/kernels/cuda/span.cuh"
}
namespace faults {
namespace {
#include "faults.cu"
}
}  // namespace faults
namespace attention {
namespace {
#include "../../src/kernels/cuda/attention.cu"
}
}  // namespace attention
namespace rows {
namespace {
#include "../../src/kernels/cuda/rows.cu"
}
}  // namespace rows
namespace norm {
namespace {
#include "../../src/kernels/cuda/norm.cu"
}
}  // namespace norm
namespace pointwise {
namespace {
#include "../../src/kernels/cuda/pointwise.cu"
}
}  // namespace pointwise
namespace optimizer {
namespace {
#include "../../src/kernels/cuda/optimizer.cu"
}
}  // namespace optimizer

namespace {

template <class... Args, size_t... indices>
void unpack_and_call(void (*kernel)(Args...), void** args, std::index_sequence<indices...>) {
    kernel(*static_cast<Args*>(args[indices])...);
}

template <class... Args> void call(void (*kernel)(Args...), void** args) {
    unpack_and_call(kernel, args, std::index_sequence_for<Args...>());
}

/// What is wrong with arguments of these sizes for `kernel`, or nothing.
template <class... Args> std::string misfit(void (*)(Args...), const size_t* sizes, size_t count) {
    const std::vector<size_t> expected = {sizeof(Args)...};
    if (count != expected.size()) {
        return "found " + std::to_string(count) + " arguments, expected " + std::to_string(expected.size());
    }
    for (size_t i = 0; i < count; ++i) {
        if (sizes[i] != expected[i]) {
            return "argument " + std::to_string(i) + " has " + std::to_string(sizes[i]) + " bytes, expected " +
                   std::to_string(expected[i]);
        }
    }
    return "";
}

struct Kernel {
    const char* name;
    void (*call)(void** args);
    std::string (*misfit)(const size_t* sizes, size_t count);
};

#define KERNEL(space, name)                               \
    {#name, [](void** args) { call(space::name, args); }, \
     [](const size_t* sizes, size_t count) { return misfit(space::name, sizes, count); }},
#define KERNEL_OF_BOTH(space, name) KERNEL(space, name##_f32) KERNEL(space, name##_bf16)

const Kernel KERNELS[] = {
    KERNEL(faults, returns_before_a_barrier)
    KERNEL(faults, waits_at_two_barriers)
    KERNEL(faults, splits_a_warp)
    KERNEL(faults, writes_past_shared_memory)
    KERNEL(faults, reads_unaligned)
    KERNEL(faults, reads_unmapped)
    KERNEL(faults, reads_a_copy_early)
    KERNEL(faults, multiplies_matrices)
    KERNEL(attention, attention_forward_f32_any)
    KERNEL(attention, attention_forward_bf16_any)
    KERNEL(attention, attention_forward_bf16_d64)
    KERNEL(attention, attention_forward_bf16_d128)
    KERNEL_OF_BOTH(attention, attention_delta)
    KERNEL(attention, attention_backward_query_f32_any)
    KERNEL(attention, attention_backward_query_bf16_any)
    KERNEL(attention, attention_backward_query_bf16_d64)
    KERNEL(attention, attention_backward_query_bf16_d128)
    KERNEL(attention, attention_backward_key_f32_any)
    KERNEL(attention, attention_backward_key_bf16_any)
    KERNEL(attention, attention_backward_key_bf16_d64)
    KERNEL(attention, attention_backward_key_bf16_d128)
    KERNEL_OF_BOTH(rows, gather_rows)
    KERNEL_OF_BOTH(rows, scatter_rows)
    KERNEL_OF_BOTH(rows, add_rows_by_slot)
    KERNEL_OF_BOTH(rows, fill_rows)
    KERNEL_OF_BOTH(rows, column_sums)
    KERNEL(rows, sum_partials)
    KERNEL_OF_BOTH(rows, add)
    KERNEL(rows, squares_partials)
    KERNEL(rows, squares_total)
    KERNEL(rows, draw_normal)
    KERNEL_OF_BOTH(norm, rms_norm_forward)
    KERNEL_OF_BOTH(norm, rms_norm_backward)
    KERNEL_OF_BOTH(pointwise, rope)
    KERNEL_OF_BOTH(pointwise, swiglu_forward)
    KERNEL_OF_BOTH(pointwise, swiglu_backward)
    KERNEL_OF_BOTH(optimizer, adamw)
    KERNEL_OF_BOTH(optimizer, adamw_rows)
    KERNEL_OF_BOTH(optimizer, adamw_8bit)
};

std::mutex one_launch_at_a_time;

}  // namespace

/// cuLaunchKernel on the CPU: `args[i]` points to the i-th of `count` arguments, of `sizes[i]` bytes; pointers among them
/// are host pointers. Returns 0, or 1 with what went wrong in `message`.
extern "C" int rmtrain_emulate(const char* kernel, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                               void** args, const size_t* sizes, size_t count, char* message, size_t message_len) {
    std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    std::string failure = std::string("no kernel is called ") + kernel;
    for (const Kernel& k : KERNELS) {
        if (strcmp(k.name, kernel) == 0) {
            failure = k.misfit(sizes, count);
            if (failure.empty()) {
                failure = emulation::launch(k.name, k.call, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                                            shared_bytes, args);
            }
        }
    }
    if (failure.empty()) {
        return 0;
    }
    snprintf(message, message_len, "%s", failure.c_str());
    return 1;
}
