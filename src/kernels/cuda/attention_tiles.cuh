// Who sees whom, as the attention's kernels walk it.
//
// A family is [prompt | response 1 | response 2 ..] in consecutive rows. A prompt row sees the prompt's rows up to
// itself; a response row sees the whole prompt, and its own segment's rows up to itself.
#pragma once

#include "device.cuh"

/// Rows of keys that some queries ask at once: key.., of which those up to last(row) are seen by row.
struct KeyStep {
    int key, end;
    bool causal;

    __device__ __forceinline__ int last(int row) const { return causal ? min(row, end - 1) : end - 1; }
    /// Whether any of rows up to `row` sees anything.
    __device__ __forceinline__ bool seen_up_to(int row) const { return key <= last(row); }
    /// Whether all rows from `row` on see all of `keys` keys.
    __device__ __forceinline__ bool seen_whole_from(int row, int keys) const { return key + keys - 1 <= last(row); }
};

/// Rows query..query+queries of one segment, which starts at `own`, of a family whose prompt they see whole.
struct QueryTile {
    int query, queries, own, prompt, prompts;

    __device__ __forceinline__ static QueryTile read(const int* tiles, int index) {
        const int* t = tiles + 5 * index;
        return {t[0], t[1], t[2], t[3], t[4]};
    }

    __device__ __forceinline__ int end() const { return query + queries; }

    /// The part of `rows` rows from the `first` on; none, where the tile is shorter.
    __device__ __forceinline__ QueryTile part(int first, int rows) const {
        return {query + first, min(queries - first, rows), own, prompt, prompts};
    }

    /// In how many steps the keys come, the prompt's first.
    template <int KEYS> __device__ __forceinline__ int steps() const {
        return prompt_steps<KEYS>() + (end() - own + KEYS - 1) / KEYS;
    }

    template <int KEYS> __device__ __forceinline__ KeyStep step(int i) const {
        int own_step = i - prompt_steps<KEYS>();
        return own_step < 0 ? KeyStep{prompt + i * KEYS, prompt + prompts, false}
                            : KeyStep{own + own_step * KEYS, end(), true};
    }

  private:
    template <int KEYS> __device__ __forceinline__ int prompt_steps() const { return (prompts + KEYS - 1) / KEYS; }
};

/// Rows key..key+keys of one segment, seen by the rows up to query_end that are not before them.
struct KeyTile {
    int key, keys, query_end;

    __device__ __forceinline__ static KeyTile read(const int* tiles, int index) {
        const int* t = tiles + 3 * index;
        return {t[0], t[1], t[2]};
    }

    __device__ __forceinline__ int end() const { return key + keys; }

    __device__ __forceinline__ KeyTile part(int first, int rows) const {
        return {key + first, min(keys - first, rows), query_end};
    }
};

/// Where head `head` begins in rows of `heads` heads, and how far apart they lie.
template <class T> struct Rows {
    T* first;
    size_t stride;

    __device__ __forceinline__ Rows(T* base, int heads, int dim, int head)
        : first(base + size_t(head) * dim), stride(size_t(heads) * dim) {}
    __device__ __forceinline__ T* operator[](int row) const { return first + row * stride; }
};
