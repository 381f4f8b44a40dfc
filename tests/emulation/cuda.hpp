// CUDA's execution model on the CPU, for a plain C++17 compiler: what `device.cuh` and the kernels use of it.
//
// A block's threads are fibers, blocks run one after another. Everything that a GPU would leave undefined is refused
// or made visible:
// - a barrier or warp collective that not all threads reach is reported, as is one reached from different lines;
// - shared memory holds NaNs when a block starts; dynamic shared memory is exactly as large as launched, between guards;
// - `cp.async` destroys its destination at once and writes it when waited for, so that a wait too few is seen;
// - 16-byte accesses, `ldmatrix` and `cp.async` must be aligned; the latter two must stay within shared memory;
// - one warp runs as far as it can before the next begins, the first warp first in even blocks and the last in odd
//   ones, so that a barrier too few gives wrong results;
// - an access to an unmapped address is reported.
// Collectives work on whole warps only: masks are full, and blocks are multiples of 32 threads.
#pragma once

// Fortified longjmp refuses to enter another stack.
#undef _FORTIFY_SOURCE
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Static shared memory lies in a section of its own, which is overwritten before every block.
#define __shared__ static __attribute__((section("emulated_shared")))

extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __start_emulated_shared[], __stop_emulated_shared[];

struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulation {

constexpr int MAX_THREADS = 1024;
constexpr int MAX_WARPS = MAX_THREADS / 32;
constexpr size_t STACK_BYTES = 256 * 1024;
/// What a block may use at most on Hopper.
constexpr size_t MAX_SHARED_BYTES = 227 * 1024;
constexpr size_t GUARD_BYTES = 1024;
constexpr unsigned char POISON = 0xff;  // a NaN, in f32, f64 and bf16
constexpr unsigned char GUARD = 0xa5;

/// A copy that was asked for and has not arrived.
struct Copy {
    void* to;
    const void* from;
    int bytes, read;
    unsigned group;
};

/// Where a thread stands.
struct Fiber {
    jmp_buf at;
    ucontext_t start;
    bool started, returned;
    const char* waits_at;
    int line;
    std::vector<Copy> copies;
    unsigned groups;
};

/// What the lanes of a warp give to a collective; two sets, because a lane may reach the next one before all have read.
struct Warp {
    uint32_t ready, arrived;
    const char* what;
    int line;
    unsigned generation;
    alignas(16) unsigned char slots[2][32][64];
};

static struct {
    const char* kernel;
    void (*call)(void** args);
    void** args;
    int threads, current, returned, waiting, barrier_line;
    bool backwards;
    Fiber fibers[MAX_THREADS];
    Warp warps[MAX_WARPS];
    jmp_buf launcher;
    pthread_t thread;
    std::string message;
    unsigned char* stacks;
    unsigned char* dynamic;
    size_t dynamic_bytes;
} machine;

inline std::string name_of(const char* format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    return text;
}

/// Ends the launch: the message says where, then what.
[[noreturn]] inline void fault(const std::string& what) {
    auto& m = machine;
    m.message = name_of("%s, block (%u, %u, %u), thread (%u, %u, %u): ", m.kernel, blockIdx.x, blockIdx.y, blockIdx.z,
                        threadIdx.x, threadIdx.y, threadIdx.z) + what;
    _longjmp(m.launcher, 2);
}

/// Nobody can go on, and not all have returned.
[[noreturn]] inline void report_divergence() {
    auto& m = machine;
    struct Place {
        std::string name;
        int first, count;
    };
    std::vector<Place> places;
    for (int i = 0; i < m.threads; i++) {
        Fiber& f = m.fibers[i];
        std::string name = f.returned ? "returned" : name_of("at %s (line %d)", f.waits_at, f.line);
        auto found = std::find_if(places.begin(), places.end(), [&](const Place& p) { return p.name == name; });
        if (found == places.end()) {
            places.push_back({name, i, 1});
        } else {
            found->count++;
        }
    }
    std::string text = "divergence:";
    for (const Place& p : places) {
        text += name_of(" thread %d%s: %s;", p.first, p.count > 1 ? name_of(" and %d more", p.count - 1).c_str() : "",
                        p.name.c_str());
    }
    text.pop_back();
    fault(text);
}

[[noreturn]] inline void resume(int thread) {
    auto& m = machine;
    Fiber& f = m.fibers[thread];
    m.current = thread;
    unsigned t = thread;
    threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    if (f.started) {
        _longjmp(f.at, 1);
    }
    f.started = true;
    setcontext(&f.start);
    fault("setcontext failed");
}

/// The thread that runs next.
inline int next_thread() {
    auto& m = machine;
    int warps = m.threads / 32;
    for (int i = 0; i < warps; i++) {
        int w = m.backwards ? warps - 1 - i : i;
        if (uint32_t ready = m.warps[w].ready) {
            return 32 * w + (m.backwards ? 31 - __builtin_clz(ready) : __builtin_ctz(ready));
        }
    }
    report_divergence();
}

/// Lets others run until this thread is ready again.
inline __attribute__((noinline)) void leave(const char* waits_at, int line) {
    auto& m = machine;
    Fiber& f = m.fibers[m.current];
    f.waits_at = waits_at;
    f.line = line;
    m.warps[m.current / 32].ready &= ~(1u << m.current % 32);
    if (_setjmp(f.at) == 0) {
        resume(next_thread());
    }
}

/// A fiber's life: the same thread of one block after another.
inline void live() {
    auto& m = machine;
    for (;;) {
        m.call(m.args);
        m.fibers[m.current].returned = true;
        m.returned++;
        if (m.returned == m.threads) {
            if (_setjmp(m.fibers[m.current].at) == 0) {
                _longjmp(m.launcher, 1);
            }
        } else {
            leave("", 0);
        }
    }
}

inline __attribute__((noinline)) void block_barrier(int line) {
    auto& m = machine;
    if (m.waiting == 0) {
        m.barrier_line = line;
    } else if (m.barrier_line != line) {
        fault(name_of("divergence: __syncthreads at line %d, while others wait at line %d", line, m.barrier_line));
    }
    if (++m.waiting < m.threads) {
        return leave("__syncthreads", line);
    }
    m.waiting = 0;
    for (int w = 0; w < m.threads / 32; w++) {
        m.warps[w].ready = ~0u;
    }
}

/// Waits for the warp's other lanes. Gives the set of slots that this collective uses.
inline __attribute__((noinline)) int warp_barrier(const char* what, int line, const void* mine, size_t bytes) {
    auto& m = machine;
    Warp& w = m.warps[m.current / 32];
    int lane = m.current % 32, set = w.generation % 2;
    if (bytes > 0) {
        memcpy(w.slots[set][lane], mine, bytes);
    }
    if (w.arrived == 0) {
        w.what = what;
        w.line = line;
    } else if (w.line != line || strcmp(w.what, what) != 0) {
        fault(name_of("divergence: %s at line %d, while other lanes wait at %s, line %d", what, line, w.what, w.line));
    }
    w.arrived |= 1u << lane;
    if (w.arrived != ~0u) {
        leave(what, line);
    } else {
        w.arrived = 0;
        w.generation++;
        w.ready = ~0u;
    }
    return set;
}

/// What each lane of the warp gave.
template <class T> struct Lanes {
    const unsigned char (*slots)[64];
    const T& operator[](int lane) const { return *reinterpret_cast<const T*>(slots[lane]); }
};

template <class T> Lanes<T> exchange(const char* what, int line, const T& mine) {
    static_assert(sizeof(T) <= 64, "a slot has 64 bytes");
    int set = warp_barrier(what, line, &mine, sizeof mine);
    return {machine.warps[machine.current / 32].slots[set]};
}

inline int lane() { return machine.current % 32; }

inline bool within(const void* address, size_t bytes, const unsigned char* from, const unsigned char* to) {
    auto* a = static_cast<const unsigned char*>(address);
    return a >= from && a + bytes <= to;
}

inline void check_shared(const char* what, int line, const void* address, size_t bytes) {
    auto& m = machine;
    if (!within(address, bytes, m.dynamic, m.dynamic + m.dynamic_bytes) &&
        !within(address, bytes, __start_emulated_shared, __stop_emulated_shared)) {
        fault(name_of("%s (line %d) outside of shared memory: byte %td of %zu", what, line,
                      static_cast<const unsigned char*>(address) - m.dynamic, m.dynamic_bytes));
    }
}

inline void check_aligned(const char* what, int line, const void* address, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
        fault(name_of("%s (line %d) is not aligned to %zu bytes", what, line, bytes));
    }
}

inline void check_mask(const char* what, int line, unsigned mask) {
    if (mask != 0xffffffffu) {
        fault(name_of("%s (line %d): only whole warps are emulated, not mask %#x", what, line, mask));
    }
}

/// Signals arrive on a stack of their own, because a kernel may have run off the end of its own.
inline void on_signal(int number, siginfo_t* info, void*) {
    if (!pthread_equal(pthread_self(), machine.thread)) {
        // Not ours: it happens again, to its own end.
        signal(number, SIG_DFL);
        return;
    }
    fault(name_of("access to the unmapped address %p (dynamic shared memory at %p)", info->si_addr, (void*)machine.dynamic));
}

inline void run_block() {
    auto& m = machine;
    unsigned char* low = m.dynamic - GUARD_BYTES;
    unsigned char* high = m.dynamic + m.dynamic_bytes;
    memset(low, GUARD, GUARD_BYTES);
    memset(m.dynamic, POISON, m.dynamic_bytes);
    memset(high, GUARD, GUARD_BYTES);
    memset(__start_emulated_shared, POISON, __stop_emulated_shared - __start_emulated_shared);
    m.returned = m.waiting = 0;
    for (int i = 0; i < m.threads; i++) {
        m.fibers[i].returned = false;
        m.fibers[i].copies.clear();
        m.fibers[i].groups = 0;
    }
    for (int w = 0; w < m.threads / 32; w++) {
        m.warps[w].ready = ~0u;
        m.warps[w].arrived = 0;
    }
    if (_setjmp(m.launcher) == 0) {
        resume(next_thread());
    }
    if (!m.message.empty()) {
        return;
    }
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        if (low[i] != GUARD || high[i] != GUARD) {
            m.message = name_of("%s, block (%u, %u, %u): wrote outside of the %zu bytes of dynamic shared memory", m.kernel,
                                blockIdx.x, blockIdx.y, blockIdx.z, m.dynamic_bytes);
            return;
        }
    }
}

/// Runs a kernel. Gives what went wrong, or nothing.
inline std::string launch(const char* kernel, void (*call)(void**), uint3 grid, uint3 block, size_t shared_bytes, void** args) {
    auto& m = machine;
    size_t threads = size_t(block.x) * block.y * block.z;
    if (threads == 0 || threads > MAX_THREADS || threads % 32 != 0) {
        return name_of("%s: a block of %zu threads; expected a multiple of 32 up to 1024", kernel, threads);
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
        return name_of("%s: a grid of %u x %u x %u blocks", kernel, grid.x, grid.y, grid.z);
    }
    if (shared_bytes > MAX_SHARED_BYTES) {
        return name_of("%s: %zu bytes of shared memory; a block has at most %zu", kernel, shared_bytes, MAX_SHARED_BYTES);
    }
    if (m.stacks == nullptr) {
        void* mapped = mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            return "no memory for the stacks of a block's threads";
        }
        m.stacks = static_cast<unsigned char*>(mapped);
        // A stack's lowest page is a guard.
        for (int i = 0; i < MAX_THREADS; i++) {
            mprotect(m.stacks + i * STACK_BYTES, 16 * 1024, PROT_NONE);
        }
    }
    for (int i = 0; i < int(threads); i++) {
        Fiber& f = m.fibers[i];
        if (!f.started) {
            getcontext(&f.start);
            f.start.uc_stack.ss_sp = m.stacks + i * STACK_BYTES;
            f.start.uc_stack.ss_size = STACK_BYTES;
            f.start.uc_link = nullptr;
            makecontext(&f.start, live, 0);
        }
    }
    std::vector<unsigned char> memory(shared_bytes + 2 * GUARD_BYTES + 128);
    auto base = reinterpret_cast<uintptr_t>(memory.data()) + GUARD_BYTES;
    m.dynamic = reinterpret_cast<unsigned char*>((base + 127) / 128 * 128);
    m.dynamic_bytes = shared_bytes;
    m.thread = pthread_self();
    m.kernel = kernel;
    m.call = call;
    m.args = args;
    m.threads = int(threads);
    m.message.clear();
    blockDim = block;
    gridDim = grid;

    std::vector<unsigned char> signal_memory(64 * 1024);
    stack_t signal_stack = {}, stack_before;
    signal_stack.ss_sp = signal_memory.data();
    signal_stack.ss_size = signal_memory.size();
    sigaltstack(&signal_stack, &stack_before);
    struct sigaction action = {}, segv_before, bus_before;
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &segv_before);
    sigaction(SIGBUS, &action, &bus_before);
    uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t b = 0; b < blocks && m.message.empty(); b++) {
        blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (uint64_t(grid.x) * grid.y))};
        m.backwards = b % 2 == 1;
        run_block();
    }
    sigaction(SIGSEGV, &segv_before, nullptr);
    sigaction(SIGBUS, &bus_before, nullptr);
    sigaltstack(&stack_before, nullptr);
    if (!m.message.empty()) {
        // The fibers are left somewhere within the kernel: they start anew next time.
        for (Fiber& f : m.fibers) {
            f.started = false;
        }
    }
    return m.message;
}

}  // namespace emulation

#define CALL_SITE int line = __builtin_LINE()

inline void __syncthreads(CALL_SITE) { emulation::block_barrier(line); }

inline void __syncwarp(unsigned mask = 0xffffffffu, CALL_SITE) {
    emulation::check_mask("__syncwarp", line, mask);
    emulation::warp_barrier("__syncwarp", line, nullptr, 0);
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CALL_SITE) {
    emulation::check_mask("__shfl_xor_sync", line, mask);
    int lane = emulation::lane(), from = lane ^ bits;
    auto lanes = emulation::exchange("__shfl_xor_sync", line, value);
    return from / width <= lane / width ? lanes[from] : value;
}

// Types and arithmetic.

using std::max;
using std::min;

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline float __fdividef(float x, float y) { return x / y; }
inline float sinpif(float x) { return float(sin(M_PI * double(x))); }
inline float cospif(float x) { return float(cos(M_PI * double(x))); }
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }

struct __nv_bfloat16 {
    unsigned short bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

/// To nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) {
        return {0x7fff};
    }
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// What device.cuh has of PTX and vector accesses, by the same names.

/// This block's dynamic shared memory.
template <class T> T* dynamic_shared() { return reinterpret_cast<T*>(emulation::machine.dynamic); }

using SharedAddress = uintptr_t;

inline SharedAddress shared_address(const void* pointer) { return reinterpret_cast<SharedAddress>(pointer); }

inline uint4 load_16_bytes(const void* from, CALL_SITE) {
    emulation::check_aligned("a 16-byte load", line, from, 16);
    uint4 value;
    memcpy(&value, from, 16);
    return value;
}

inline void store_16_bytes(void* to, uint4 value, CALL_SITE) {
    emulation::check_aligned("a 16-byte store", line, to, 16);
    memcpy(to, &value, 16);
}

inline float fast_exp2(float x) { return exp2f(x); }

inline unsigned pack_bf16(float low, float high) {
    return __float2bfloat16_rn(low).bits | unsigned(__float2bfloat16_rn(high).bits) << 16;
}

namespace emulation {

struct Pair {
    float low, high;
};

inline Pair unpack(unsigned bits) { return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)}; }

/// The fragments of one lane, as the PTX ISA lays them out ("Matrix fragments for mma.m16n8k16", .bf16).
struct Operands {
    Pair a[4];
    Pair b[2];
};

/// One row of eight bf16 for ldmatrix.
struct Row {
    unsigned short values[8];
};

template <bool transposed> void ldmatrix(unsigned (&r)[4], SharedAddress address, const char* what, int line) {
    auto* row = reinterpret_cast<const void*>(address);
    check_aligned(what, line, row, 16);
    check_shared(what, line, row, 16);
    Row mine;
    memcpy(&mine, row, sizeof mine);
    auto rows = exchange(what, line, mine);
    int group = lane() / 4, place = lane() % 4;
    for (int i = 0; i < 4; i++) {
        unsigned low, high;
        if (transposed) {
            low = rows[8 * i + 2 * place].values[group];
            high = rows[8 * i + 2 * place + 1].values[group];
        } else {
            low = rows[8 * i + group].values[2 * place];
            high = rows[8 * i + group].values[2 * place + 1];
        }
        r[i] = low | high << 16;
    }
}

inline void cp_async(SharedAddress address, const void* from, int bytes, bool valid, const char* what, int line) {
    auto* to = reinterpret_cast<void*>(address);
    check_aligned(what, line, to, bytes);
    check_aligned(what, line, from, bytes);
    check_shared(what, line, to, bytes);
    Fiber& f = machine.fibers[machine.current];
    memset(to, POISON, bytes);
    f.copies.push_back({to, from, bytes, valid ? bytes : 0, f.groups});
}

}  // namespace emulation

inline void ldmatrix_x4(unsigned (&r)[4], SharedAddress row, CALL_SITE) {
    emulation::ldmatrix<false>(r, row, "ldmatrix", line);
}

inline void ldmatrix_x4_trans(unsigned (&r)[4], SharedAddress row, CALL_SITE) {
    emulation::ldmatrix<true>(r, row, "ldmatrix.trans", line);
}

/// Products are exact and their sum is rounded once; a tensor core's own order of summation is not documented.
inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, CALL_SITE) {
    using namespace emulation;
    Operands mine;
    for (int i = 0; i < 4; i++) {
        mine.a[i] = unpack(a[i]);
    }
    mine.b[0] = unpack(b0);
    mine.b[1] = unpack(b1);
    auto lanes = exchange("mma", line, mine);
    int group = lane() / 4, place = lane() % 4;
    for (int i = 0; i < 4; i++) {
        int column = 2 * place + i % 2;
        double sum = d[i];
        for (int k = 0; k < 16; k += 2) {
            Pair x = lanes[4 * group + k % 8 / 2].a[i / 2 + 2 * (k / 8)];
            Pair y = lanes[4 * column + k % 8 / 2].b[k / 8];
            sum += double(x.low) * y.low + double(x.high) * y.high;
        }
        d[i] = float(sum);
    }
}

inline void cp_async_16(SharedAddress to, const void* from, bool valid, CALL_SITE) {
    emulation::cp_async(to, from, 16, valid, "cp.async", line);
}

inline void cp_async_4(SharedAddress to, const void* from, bool valid, CALL_SITE) {
    emulation::cp_async(to, from, 4, valid, "cp.async", line);
}

inline void cp_async_commit() { emulation::machine.fibers[emulation::machine.current].groups++; }

/// Waits for all groups but the last `pending`.
template <int pending> void cp_async_wait() {
    emulation::Fiber& f = emulation::machine.fibers[emulation::machine.current];
    auto later = std::stable_partition(f.copies.begin(), f.copies.end(),
                                       [&](const emulation::Copy& c) { return c.group + pending < f.groups; });
    for (auto c = f.copies.begin(); c != later; c++) {
        memset(c->to, 0, c->bytes);
        if (c->read > 0) {
            memcpy(c->to, c->from, c->read);
        }
    }
    f.copies.erase(f.copies.begin(), later);
}

#undef CALL_SITE
