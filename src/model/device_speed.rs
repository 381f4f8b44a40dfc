//! How fast a device multiplies matrices: known for GPUs by name, measured for the CPU.

use super::DecoderConfig;
use crate::Result;
use crate::kernels::linear;
use candle_core::{DType, Device, Tensor};
use std::time::{Duration, Instant};

/// Dense bf16 TFLOP/s with f32 accumulation, without sparsity, at boost clocks. A name matches the first row whose words
/// it all contains.
///
/// # Source
/// NVIDIA's data sheets of each product.
const PEAKS: [(&[&str], f64); 22] = [
    (&["B200"], 2250.0),
    (&["GH200"], 989.4),
    (&["H200", "NVL"], 835.5),
    (&["H200"], 989.4),
    (&["H100", "PCIe"], 756.0),
    (&["H100", "NVL"], 835.5),
    (&["H100"], 989.4),
    (&["H800"], 989.4),
    (&["A100"], 312.0),
    (&["A800"], 312.0),
    (&["L40S"], 362.1),
    (&["L40"], 181.0),
    (&["L4"], 121.0),
    (&["A40"], 149.7),
    (&["A30"], 165.0),
    (&["A10G"], 70.0),
    (&["A10"], 125.0),
    (&["RTX", "6000", "Ada"], 364.2),
    (&["RTX", "A6000"], 154.8),
    (&["RTX", "5090"], 209.5),
    (&["RTX", "4090"], 165.2),
    (&["RTX", "3090"], 71.0),
];

/// The peak of the GPU that calls itself `name` (`NVIDIA H100 80GB HBM3`), in dense bf16 TFLOP/s.
pub fn peak_tflops(name: &str) -> Option<f64> {
    let words: Vec<&str> = name.split([' ', '-']).collect();
    let has = |wanted: &&str| words.iter().any(|word| word.eq_ignore_ascii_case(wanted));
    PEAKS.iter().find(|(wanted, _)| wanted.iter().all(has)).map(|&(_, peak)| peak)
}

/// Operations a second of the product that a decoder of this shape spends most time in, measured for `duration`.
///
/// # Errors
/// If the tensor library fails.
pub fn measure_matmul(decoder: &DecoderConfig, duration: Duration) -> Result<f64> {
    const ROWS: usize = 1024;
    let (hidden, intermediate) = (decoder.hidden_size, decoder.intermediate_size);
    let x = Tensor::ones((ROWS, hidden), DType::F32, &Device::Cpu)?;
    let weight = Tensor::ones((intermediate, hidden), DType::F32, &Device::Cpu)?;
    let run = || {
        let layer = linear::Layer { weight: &weight, bias: None, residual: None };
        linear::forward(&x, [layer]).map(|_| ())
    };
    // The first one wakes the threads.
    run()?;
    let start = Instant::now();
    let mut products = 0_u64;
    while start.elapsed() < duration {
        run()?;
        products += 1;
    }
    let flops = products as f64 * 2.0 * (ROWS * hidden * intermediate) as f64;
    Ok(flops / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_known_by_the_names_that_drivers_give_them() {
        for (name, peak) in [
            ("NVIDIA H100 80GB HBM3", 989.4),
            ("NVIDIA H100 PCIe", 756.0),
            ("NVIDIA H200", 989.4),
            ("NVIDIA A100-SXM4-80GB", 312.0),
            ("NVIDIA L40S", 362.1),
            ("NVIDIA L4", 121.0),
            ("NVIDIA GeForce RTX 4090", 165.2),
        ] {
            assert_eq!(peak_tflops(name), Some(peak), "{name}");
        }
        assert_eq!(peak_tflops("NVIDIA GeForce GTX 1080"), None);
        assert_eq!(peak_tflops("NVIDIA L400"), None);
    }
}
