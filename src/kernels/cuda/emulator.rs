//! The CUDA kernels on the CPU: compiled as C++ against an emulation of CUDA (`tests/emulation`), so that tests run
//! them where there is neither nvcc nor a GPU. Needs a C++ compiler.

use libloading::Library;
use sha2::{Digest, Sha256};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, io};

const FLAGS: [&str; 4] = ["-O2", "-std=c++17", "-shared", "-fPIC"];

type Emulate = unsafe extern "C" fn(
    kernel: *const c_char,
    grid: *const c_uint,
    block: *const c_uint,
    shared_bytes: c_uint,
    args: *mut *mut c_void,
    sizes: *const usize,
    count: usize,
    message: *mut c_char,
    message_len: usize,
) -> c_int;

/// Where the value of an argument is, and how many bytes it has.
pub(crate) type Arg = (*mut c_void, usize);

/// Why the kernels cannot be emulated here, if they cannot: there is no compiler. Sources that do not compile are
/// another matter, and fail where a kernel is launched.
pub(crate) fn available() -> Result<(), String> {
    if cfg!(not(target_os = "linux")) {
        return Err("CUDA is emulated on Linux only".into());
    }
    compiler().map(|_| ())
}

/// Runs a kernel as cuLaunchKernel would; pointers among the arguments are to host memory. Their number and sizes are
/// held against the kernel's signature; that a pointer is to what the kernel takes it for is the caller's promise, as
/// with a GPU.
///
/// # Errors
/// No compiler, no such kernel, a launch that CUDA would refuse, or what the emulation found wrong in the kernel.
pub(crate) fn launch(
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    args: &[Arg],
) -> Result<(), String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let library = LIBRARY.get_or_init(load).as_ref().map_err(Clone::clone)?;
    let name = CString::new(kernel).map_err(|error| error.to_string())?;
    let (mut pointers, sizes): (Vec<*mut c_void>, Vec<usize>) = args.iter().copied().unzip();
    let mut message: [c_char; 1024] = [0; 1024];
    // SAFETY: launch.cpp defines the function with this signature. It reads three values each of grid and block, and
    // ends the message with a zero; the arguments are the caller's promise.
    let failed = unsafe {
        let emulate = library.get::<Emulate>(b"rmtrain_emulate").map_err(|error| error.to_string())?;
        emulate(
            name.as_ptr(),
            grid.as_ptr(),
            block.as_ptr(),
            shared_bytes,
            pointers.as_mut_ptr(),
            sizes.as_ptr(),
            sizes.len(),
            message.as_mut_ptr(),
            message.len(),
        )
    };
    if failed == 0 {
        return Ok(());
    }
    // SAFETY: the message ends with a zero.
    Err(unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned())
}

/// Compiles the kernels, unless these very sources were compiled before, and loads them.
fn load() -> Result<Library, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let emulation = root.join("tests/emulation");
    let compiler = compiler()?;
    let digest =
        digest([&root.join("src/kernels/cuda"), &emulation], &compiler).map_err(|error| error.to_string())?;
    let path = temporary_folder()?.join(format!("emulated-kernels-{digest}.so"));
    if !path.exists() {
        compile(&compiler, &emulation.join("launch.cpp"), &path)?;
    }
    // SAFETY: the library's initializers are those of its few globals.
    unsafe { Library::new(&path) }.map_err(|error| format!("{}: {error}", path.display()))
}

/// A name for what `compiler` makes of the folders' C++ and CUDA files.
fn digest(folders: [&Path; 2], compiler: &str) -> io::Result<String> {
    let mut files = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension != "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    hash.update(format!("{compiler} {FLAGS:?}"));
    for file in files {
        let text = fs::read(&file)?;
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// `target/tmp`: Cargo names it to integration tests only, but they run beside this one, in `target/release/deps`.
fn temporary_folder() -> Result<PathBuf, String> {
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let folder = own.ancestors().nth(3).ok_or("the test is not in a target folder")?.join("tmp");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// The file appears whole: other test processes may compile it at the same time.
fn compile(compiler: &str, source: &Path, library: &Path) -> Result<(), String> {
    let partial = library.with_extension(format!("{}.partial", std::process::id()));
    let output = Command::new(compiler)
        .args(FLAGS)
        .arg("-o")
        .args([&partial, source])
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{compiler}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&partial, library).map_err(|error| format!("{}: {error}", library.display()))
}

/// `CXX`, or the first that runs of the usual names.
fn compiler() -> Result<String, String> {
    static COMPILER: OnceLock<Option<String>> = OnceLock::new();
    let found = COMPILER.get_or_init(|| {
        let named = env::var("CXX").ok().filter(|name| !name.is_empty());
        let usual = ["c++", "g++", "clang++"].map(str::to_owned);
        let runs =
            |name: &String| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
        named.into_iter().chain(usual).find(runs)
    });
    found.clone().ok_or_else(|| {
        "the tests of the CUDA kernels need a C++ compiler: install c++, g++ or clang++, or name one in CXX".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn is_skipped() -> bool {
        available().inspect_err(|reason| eprintln!("skipped: {reason}")).is_err()
    }

    /// One block that gets one pointer. Gives what went wrong.
    fn fault(kernel: &str, threads: u32, shared_bytes: u32) -> String {
        let mut out = vec![0f32; 64];
        let mut pointer = out.as_mut_ptr();
        let args = [((&raw mut pointer).cast(), size_of::<u64>())];
        launch(kernel, [1, 1, 1], [threads, 1, 1], shared_bytes, &args).unwrap_err()
    }

    #[test]
    fn refuses_arguments_that_are_not_those_of_the_kernel() {
        if is_skipped() {
            return;
        }
        let mut value = 0u64;
        let pointer: *mut c_void = (&raw mut value).cast();
        let refused = |args: &[Arg]| launch("reads_unaligned", [1, 1, 1], [32, 1, 1], 0, args).unwrap_err();
        assert!(refused(&[]).contains("found 0 arguments, expected 1"));
        assert!(refused(&[(pointer, 4)]).contains("argument 0 has 4 bytes, expected 8"));
    }

    #[test]
    fn refuses_what_a_gpu_would_leave_undefined() {
        if is_skipped() {
            return;
        }
        let cases = [
            ("returns_before_a_barrier", 64, 0, "thread 5: returned"),
            ("waits_at_two_barriers", 64, 0, "divergence: __syncthreads"),
            ("splits_a_warp", 32, 0, "while other lanes wait at __syncwarp"),
            ("writes_past_shared_memory", 64, 252, "outside of the 252 bytes"),
            ("reads_unaligned", 32, 0, "not aligned to 16 bytes"),
            ("reads_unmapped", 32, 0, "unmapped address 0x10"),
            ("no_such_kernel", 32, 0, "no kernel is called no_such_kernel"),
            ("reads_unaligned", 2048, 0, "a block of 2048 threads"),
            ("reads_unaligned", 32, 1 << 20, "bytes of shared memory"),
        ];
        for (kernel, threads, shared_bytes, expected) in cases {
            let message = fault(kernel, threads, shared_bytes);
            assert!(message.contains(expected), "{kernel}: {message}");
        }
    }

    #[test]
    fn copies_arrive_when_they_are_waited_for() {
        if is_skipped() {
            return;
        }
        let mut out: Vec<f32> = (0..32u8).map(f32::from).collect();
        let mut pointer = out.as_mut_ptr();
        let args = [((&raw mut pointer).cast(), size_of::<u64>())];
        launch("reads_a_copy_early", [1, 1, 1], [32, 1, 1], 128, &args).unwrap();
        assert_eq!(out, [1.0; 32]);
    }

    /// 16-byte aligned.
    #[repr(align(16))]
    struct Matrix<const N: usize>([bf16; N]);

    #[test]
    fn multiplies_matrices_as_the_instruction_set_lays_them_out() {
        if is_skipped() {
            return;
        }
        // Small integers: every product and sum is exact.
        let a = |row: usize, k: usize| ((row * 37 + k * 11) % 19) as f32 - 9.0;
        let b = |k: usize, column: usize| ((k * 29 + column * 7) % 23) as f32 - 11.0;
        let left = Matrix::<256>(std::array::from_fn(|i| bf16::from_f32(a(i / 16, i % 16))));
        let right = Matrix::<128>(std::array::from_fn(|i| bf16::from_f32(b(i / 8, i % 8))));
        let transposed = Matrix::<128>(std::array::from_fn(|i| bf16::from_f32(b(i % 16, i / 16))));
        let (mut c, mut c_transposed) = ([0f32; 128], [0f32; 128]);
        let mut pointers: [*mut c_void; 5] = [
            c.as_mut_ptr().cast(),
            c_transposed.as_mut_ptr().cast(),
            left.0.as_ptr().cast_mut().cast(),
            right.0.as_ptr().cast_mut().cast(),
            transposed.0.as_ptr().cast_mut().cast(),
        ];
        let args = pointers.each_mut().map(|pointer| ((&raw mut *pointer).cast(), size_of::<u64>()));
        launch("multiplies_matrices", [1, 1, 1], [32, 1, 1], 1024, &args).unwrap();
        let expected: [f32; 128] = std::array::from_fn(|i| (0..16).map(|k| a(i / 8, k) * b(k, i % 8)).sum());
        assert_eq!(c, expected);
        assert_eq!(c_transposed, expected);
    }
}
