//! With `--features cuda`: compiles the CUDA kernels to PTX. Needs `nvcc`, which candle's kernels need too.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const SOURCES: &str = "src/kernels/cuda";
const KERNELS: [&str; 5] = ["attention", "norm", "optimizer", "pointwise", "rows"];
/// Ampere: the oldest with bf16 tensor cores and asynchronous copies. The driver translates for newer ones.
const ARCHITECTURE: &str = "compute_80";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let nvcc = match env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/nvcc"),
        None => "nvcc".into(),
    };
    for kernel in KERNELS {
        let mut command = Command::new(&nvcc);
        command.args(["-ptx", "-O3", "--std=c++17", "-arch", ARCHITECTURE, "-o"]);
        command.arg(out.join(kernel).with_extension("ptx"));
        command.arg(Path::new(SOURCES).join(kernel).with_extension("cu"));
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => fail(&format!("{command:?} ended with {status}")),
            Err(error) => fail(&format!(
                "{}: {error}; --features cuda needs the CUDA toolkit: put nvcc on PATH, or set CUDA_HOME to its folder",
                nvcc.display()
            )),
        }
    }
}

fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    exit(1)
}
