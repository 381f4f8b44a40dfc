//! The compiled kernels, as build.rs left them: PTX, which the driver translates for the GPU it finds.

use candle_core::Result;

macro_rules! modules {
    ($($name:literal: $($prefix:literal)|+;)+) => {
        /// The module that holds a kernel, by its name's beginning, and the module's PTX.
        pub(super) fn module_of(kernel: &str) -> Result<(&'static str, &'static str)> {
            $(
                if [$($prefix),+].iter().any(|prefix| kernel.starts_with(prefix)) {
                    const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx"));
                    return Ok((concat!("rmtrain_", $name), PTX));
                }
            )+
            candle_core::bail!("no module has a kernel {kernel}")
        }
    };
}

modules! {
    "attention": "attention_";
    "norm": "rms_norm_";
    "optimizer": "adamw_";
    "pointwise": "rope_" | "swiglu_";
    "rows": "gather_" | "scatter_" | "add_" | "fill_" | "column_" | "sum_" | "scale" | "squares_" | "draw_";
}
