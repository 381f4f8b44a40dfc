//! The one integration binary: every module drives the public library or the built `rmtrain`.

mod bench;
mod candle_oracle;
mod chat_template;
mod cli;
mod config;
mod data;
mod doctor;
mod engine;
mod ensemble;
mod eval_score;
mod hub;
mod label;
mod layering;
mod malformed;
mod plan;
mod report;
mod sandbox_split;
mod split;
mod tensorboard;
mod training;
mod weights;

/// A file or folder of the material that is shared between developers but not part of the project.
///
/// `None`, and a line that says so, where it is not there: the test is skipped then.
fn shared(path: &str) -> Option<std::path::PathBuf> {
    let root = std::env::var_os("RMTRAIN_SHARED").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        std::path::PathBuf::from,
    );
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not here (set RMTRAIN_SHARED)", path.display());
    None
}

/// Ctrl-C for a process that a test has started.
#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
    assert!(sent.success(), "no process {pid}");
}
