// AdamW: an update of one parameter tensor, with moments in f32 or in blocks of 8 bits.
//
// One pass reads parameter, moments and gradient and writes the first three, and with them the rounded copy that the
// model computes with. All forms share `update`, whose roundings are spelt out (which product goes into which fma), so
// that they agree to the bit however each is compiled. Square root and division are the IEEE ones.
//
// The numbers of an update, on which every form takes the same line:
//   g *= scale; m = beta1 m + complement1 g; v = beta2 v + complement2 g g;
//   p = decay p - step_size * (m / (sqrt(v) * inverse_sqrt_correction2 + eps))

#include "span.cuh"

namespace {

constexpr int THREADS = 256;
// Values that a thread updates together: a span of each f32 operand.
constexpr int LANES = Span<float>::LANES;
// Values that share a scale where moments have 8 bits, one a thread.
constexpr int BLOCK = 256;
// Entries of a map from codes to values.
constexpr int CODES = 256;
// The code of zero in the signed map; in the unsigned one it is 0.
constexpr unsigned char SIGNED_ZERO = 127;

struct Update {
    float decay, beta1, beta2, complement1, complement2, step_size, inverse_sqrt_correction2, eps, scale;
};

// One value. A gradient and moments of zero leave decay * p, to the bit.
__device__ inline void update(const Update& u, float& p, float& m, float& v, float g) {
    g *= u.scale;
    m = fmaf(u.beta1, m, u.complement1 * g);
    v = fmaf(u.beta2, v, u.complement2 * g * g);
    const float denominator = fmaf(sqrtf(v), u.inverse_sqrt_correction2, u.eps);
    p = fmaf(u.decay, p, -(u.step_size * (m / denominator)));
}

// The values of the compute type beside a span of f32.
template <class T>
struct alignas(LANES * sizeof(T)) Rounded {
    T values[LANES];
};

// Where parameter, moments and compute copy lie; those of one row, or all.
template <class T>
struct State {
    float* p;
    float* m;
    float* v;
    // Null where the model computes with the masters.
    T* compute;
    // Whether spans from the start on can be moved whole.
    bool aligned;

    __device__ State(float* p, float* m, float* v, T* compute) : p(p), m(m), v(v), compute(compute) {
        const bool compute_aligned = reinterpret_cast<unsigned long long>(compute) % sizeof(Rounded<T>) == 0;
        aligned = lies_on_spans(p) && lies_on_spans(m) && lies_on_spans(v) && compute_aligned;
    }

    __device__ void write(long long i, const float (&updated)[LANES], long long left) {
        store_span(p + i, Span<float>::of(updated), left, aligned);
        if (!compute) return;
        if (aligned && left >= LANES) {
            Rounded<T> rounded;
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) rounded.values[lane] = from_f32<T>(updated[lane]);
            *reinterpret_cast<Rounded<T>*>(compute + i) = rounded;
            return;
        }
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            if (lane < left) compute[i + lane] = from_f32<T>(updated[lane]);
        }
    }

    // Updates the span at i, of which `left` values or more are there.
    __device__ void step(const Update& u, long long i, const Span<float>& gradient, long long left) {
        const Span<float> old_p = load_span(p + i, left, aligned);
        const Span<float> old_m = load_span(m + i, left, aligned);
        const Span<float> old_v = load_span(v + i, left, aligned);
        float new_p[LANES], new_m[LANES], new_v[LANES];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            new_p[lane] = old_p[lane];
            new_m[lane] = old_m[lane];
            new_v[lane] = old_v[lane];
            update(u, new_p[lane], new_m[lane], new_v[lane], gradient[lane]);
        }
        store_span(m + i, Span<float>::of(new_m), left, aligned);
        store_span(v + i, Span<float>::of(new_v), left, aligned);
        write(i, new_p, left);
    }

    // The same where gradient and moments are zero.
    __device__ void decay(const Update& u, long long i, long long left) {
        const Span<float> old_p = load_span(p + i, left, aligned);
        float new_p[LANES];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) new_p[lane] = u.decay * old_p[lane];
        write(i, new_p, left);
    }
};

template <class T>
__device__ void adamw(float* p, float* m, float* v, const float* g, T* compute, long long n, const Update& u) {
    State<T> state(p, m, v, compute);
    const bool aligned = lies_on_spans(g);
    for (long long i = grid_thread() * LANES; i < n; i += grid_threads() * LANES) {
        state.step(u, i, load_span(g + i, n - i, aligned), n - i);
    }
}

// A block takes a row. `reached` is read only where nobody writes it: in rows without a gradient.
template <class T>
__device__ void adamw_rows(float* p, float* m, float* v, const float* g, const int* slots, unsigned char* reached,
                           T* compute, int width, const Update& u) {
    const int slot = slots[blockIdx.x];
    const bool has_moments = slot >= 0 || reached[blockIdx.x];
    if (!has_moments && u.decay == 1.0f) return;
    if (slot >= 0 && threadIdx.x == 0) reached[blockIdx.x] = 1;

    const long long start = (long long)blockIdx.x * width;
    State<T> state(p + start, m + start, v + start, compute ? compute + start : nullptr);
    const float* gradient = g + (long long)max(slot, 0) * width;
    const bool aligned = lies_on_spans(gradient);
    for (int i = threadIdx.x * LANES; i < width; i += THREADS * LANES) {
        const int left = width - i;
        if (slot >= 0) state.step(u, i, load_span(gradient + i, left, aligned), left);
        else if (has_moments) state.step(u, i, Span<float>{}, left);
        else state.decay(u, i, left);
    }
}

// Of a block of values: the greatest |m| and the greatest v.
struct Scales {
    float m, v;
};

// The greatest of both over the block's threads, to every thread.
__device__ inline Scales block_max(Scales own) {
    __shared__ Scales cells[BLOCK / 32];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        own.m = fmaxf(own.m, __shfl_xor_sync(0xffffffff, own.m, mask));
        own.v = fmaxf(own.v, __shfl_xor_sync(0xffffffff, own.v, mask));
    }
    if (threadIdx.x % 32 == 0) cells[threadIdx.x / 32] = own;
    __syncthreads();
    Scales greatest = cells[0];
#pragma unroll
    for (int warp = 1; warp < BLOCK / 32; ++warp) {
        greatest.m = fmaxf(greatest.m, cells[warp].m);
        greatest.v = fmaxf(greatest.v, cells[warp].v);
    }
    return greatest;
}

// The code of the nearest entry of an ascending map; of two equally near, the lower.
__device__ inline unsigned char nearest(const float* map, float x) {
    // The last entry that is not above x, or the first of all.
    int below = 0;
#pragma unroll
    for (int step = CODES / 2; step > 0; step /= 2) {
        if (map[below + step] <= x) below += step;
    }
    const int above = min(below + 1, CODES - 1);
    return (unsigned char)(map[above] - x < x - map[below] ? above : below);
}

template <class T>
__device__ void adamw_8bit(float* p, unsigned char* m, unsigned char* v, float* m_scales, float* v_scales,
                           const float* signed_map, const float* unsigned_map, const float* g, const int* slots,
                           T* compute, long long n, int width, const Update& u) {
    __shared__ float signed_values[CODES], unsigned_values[CODES];
    const long long i = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const bool is_there = i < n;

    // All of a thread's loads are under way before the first barrier.
    float parameter = 0.0f, gradient = 0.0f;
    unsigned char m_code = 0, v_code = 0;
    if (is_there) {
        parameter = p[i];
        m_code = m[i];
        v_code = v[i];
        if (slots) {
            const long long row = i / width;
            const int slot = slots[row];
            if (slot >= 0) gradient = g[(long long)slot * width + (i - row * width)];
        } else {
            gradient = g[i];
        }
    }
    const float m_scale = m_scales[blockIdx.x], v_scale = v_scales[blockIdx.x];
    signed_values[threadIdx.x] = signed_map[threadIdx.x];
    unsigned_values[threadIdx.x] = unsigned_map[threadIdx.x];
    __syncthreads();

    float first = signed_values[m_code] * m_scale, second = unsigned_values[v_code] * v_scale;
    update(u, parameter, first, second, gradient);
    const Scales scales = block_max(is_there ? Scales{fabsf(first), second} : Scales{0.0f, 0.0f});
    if (threadIdx.x == 0) {
        m_scales[blockIdx.x] = scales.m;
        v_scales[blockIdx.x] = scales.v;
    }
    if (!is_there) return;
    m_code = nearest(signed_values, scales.m > 0.0f ? first / scales.m : 0.0f);
    v_code = nearest(unsigned_values, scales.v > 0.0f ? second / scales.v : 0.0f);
    // A first moment that is not zero has a second one that is not: over sqrt(0) + eps it would be a kick.
    const bool moves = scales.v > 0.0f && m_code != SIGNED_ZERO;
    m[i] = m_code;
    v[i] = moves && v_code == 0 ? 1 : v_code;
    p[i] = parameter;
    if (compute) compute[i] = from_f32<T>(parameter);
}

}  // namespace

// An update's numbers, in the order in which every kernel takes them, and their struct.
#define NUMBERS                                                                                            \
    float decay, float beta1, float beta2, float complement1, float complement2, float step_size,          \
        float inverse_sqrt_correction2, float eps, float scale
#define UPDATE Update{decay, beta1, beta2, complement1, complement2, step_size, inverse_sqrt_correction2, eps, scale}

// p, m, v, g [n] f32; compute [n] null or the new p, rounded. Any grid of block(256).
extern "C" __global__ void adamw_f32(float* p, float* m, float* v, const float* g, float* compute, long long n,
                                     NUMBERS) {
    adamw(p, m, v, g, compute, n, UPDATE);
}
extern "C" __global__ void adamw_bf16(float* p, float* m, float* v, const float* g, bf16* compute, long long n,
                                      NUMBERS) {
    adamw(p, m, v, g, compute, n, UPDATE);
}

// p, m, v, compute [rows, width]; slots [rows]: row r has the gradient g[slots[r]], zero where that is negative;
// reached [rows]: whether a row ever had one. The others have moments of zero: they are decayed, and not touched where
// decay is 1. grid(rows) block(256).
extern "C" __global__ void adamw_rows_f32(float* p, float* m, float* v, const float* g, const int* slots,
                                          unsigned char* reached, float* compute, int rows, int width, NUMBERS) {
    adamw_rows(p, m, v, g, slots, reached, compute, width, UPDATE);
}
extern "C" __global__ void adamw_rows_bf16(float* p, float* m, float* v, const float* g, const int* slots,
                                           unsigned char* reached, bf16* compute, int rows, int width, NUMBERS) {
    adamw_rows(p, m, v, g, slots, reached, compute, width, UPDATE);
}

// p [n] f32, compute [n] as above; m, v [n] codes into the ascending maps [256], times their block's scale
// [ceil(n / 256)]; g [n], or, with slots [n / width], rows of gradients as above. A block of threads is a block of
// values. grid(ceil(n / 256)) block(256).
extern "C" __global__ void adamw_8bit_f32(float* p, unsigned char* m, unsigned char* v, float* m_scales,
                                          float* v_scales, const float* signed_map, const float* unsigned_map,
                                          const float* g, const int* slots, float* compute, long long n, int width,
                                          NUMBERS) {
    adamw_8bit(p, m, v, m_scales, v_scales, signed_map, unsigned_map, g, slots, compute, n, width, UPDATE);
}
extern "C" __global__ void adamw_8bit_bf16(float* p, unsigned char* m, unsigned char* v, float* m_scales,
                                           float* v_scales, const float* signed_map, const float* unsigned_map,
                                           const float* g, const int* slots, bf16* compute, long long n, int width,
                                           NUMBERS) {
    adamw_8bit(p, m, v, m_scales, v_scales, signed_map, unsigned_map, g, slots, compute, n, width, UPDATE);
}
