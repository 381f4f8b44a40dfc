//! The operations of the decoder, each with its hand-written backward.
//!
//! Every operation takes and returns tensors and chooses by device: a fused kernel on the CPU and on CUDA, composed
//! candle operations for what these do not take (f16). The composed form is also the reference that the fused ones are
//! tested against; tests hold all of them against finite differences. None of this goes through candle's autograd, so
//! nothing can silently drop a gradient: what an operation needs for its backward is an argument of that backward.
//!
//! Shape letters: N packed tokens, S sequences, H hidden, I intermediate, A query heads, K key-value heads,
//! D head dimension, V vocabulary.

/// Compiles a function for AVX-512, AVX2 and the platform's least processor; the machine chooses at run time.
///
/// Nothing in these functions may depend on the width of a vector, so that all versions give the same bits.
macro_rules! vectorized {
    ($item:item) => {
        #[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
        $item
    };
}
pub(crate) use vectorized;

pub mod accumulator;
pub mod attention;
pub mod check;
pub mod cuda;
pub mod draw;
pub mod embedding;
mod exp;
pub mod gemm;
pub(crate) mod host;
pub mod indices;
pub mod linear;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

#[cfg(test)]
pub(crate) mod test_support;

pub use accumulator::Accumulator;
pub use indices::Indices;
