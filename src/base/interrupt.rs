//! Ctrl-C and SIGTERM: the first asks the loop to finish its step and save, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler. Calling it twice is harmless.
pub fn install() {
    install_saying("finishing this step, then saving (once more to stop at once)");
}

/// [`install`] for a command that has something else to finish; the first signal prints `notice`.
pub fn install_saying(notice: &'static str) {
    // An already installed handler is the only error, and it is ours.
    let _ = ctrlc::set_handler(move || {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\ninterrupt: {notice}");
    });
}

/// Whether a stop was asked for.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
