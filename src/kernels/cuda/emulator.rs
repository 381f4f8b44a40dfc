//! The emulated device: the `.cu` files compiled for the host by `tests/emulation/launch.cpp`, as a library.

use libloading::Library;
use sha2::{Digest, Sha256};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `rmtrain_emulate` of `launch.cpp`.
type Emulate = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    *const c_uint,
    c_uint,
    *mut *mut c_void,
    *mut c_char,
    usize,
) -> c_int;

/// Why there is no emulation, if there is none.
pub(crate) fn available() -> Result<(), String> {
    library().as_ref().map(|_| ()).map_err(Clone::clone)
}

/// Runs a kernel to its end, with the arguments as `cuLaunchKernel` takes them.
pub(crate) fn launch(
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    args: &mut [*mut c_void],
) -> Result<(), String> {
    let library = library().as_ref().map_err(Clone::clone)?;
    let name = CString::new(kernel).map_err(|error| error.to_string())?;
    let mut message = [0u8; 1024];
    // SAFETY: the symbol has this signature; the arguments are the launch's own business, as on a GPU.
    let code = unsafe {
        let emulate = library.get::<Emulate>(b"rmtrain_emulate").map_err(|error| error.to_string())?;
        let (args, text) = (args.as_mut_ptr(), message.as_mut_ptr().cast());
        emulate(name.as_ptr(), grid.as_ptr(), block.as_ptr(), shared_bytes, args, text, message.len())
    };
    if code == 0 {
        return Ok(());
    }
    let text = message.split(|&byte| byte == 0).next().unwrap_or_default();
    Err(String::from_utf8_lossy(text).into_owned())
}

fn library() -> &'static Result<Library, String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = build()?;
        // SAFETY: the library has no initializers of its own beyond C++'s.
        unsafe { Library::new(&path) }.map_err(|error| format!("{}: {error}", path.display()))
    })
}

/// Compiles the emulation, unless it has been compiled from the same sources before.
fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut digest = Sha256::new();
    let folders = ["src/kernels/cuda", "tests/emulation"].map(|folder| root.join(folder));
    let mut sources: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| {
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
        })
        .filter(|path| path.extension().is_some_and(|end| end != "rs"))
        .collect();
    sources.sort();
    for source in &sources {
        digest.update(std::fs::read(source).map_err(|error| format!("{}: {error}", source.display()))?);
    }
    let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let out = std::env::temp_dir().join(format!("rmtrain-emulation-{digest}.so"));
    if out.exists() {
        return Ok(out);
    }
    let partial = out.with_extension(format!("{}.tmp", std::process::id()));
    let compilers = std::env::var("CXX").into_iter().chain(["c++", "g++", "clang++"].map(str::to_owned));
    for compiler in compilers {
        let mut command = Command::new(&compiler);
        command.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-w", "-o"]).arg(&partial);
        let Ok(output) = command.arg(folders[1].join("launch.cpp")).output() else { continue };
        if !output.status.success() {
            return Err(format!("{compiler}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        std::fs::rename(&partial, &out).map_err(|error| format!("{}: {error}", out.display()))?;
        return Ok(out);
    }
    Err("found no C++ compiler, which the emulation of CUDA is built with".into())
}
