//! Panics of libraries that meet damaged input: turned into reasons, without a word on stderr.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run`; a panic of its own thread in it becomes `Err` with its message.
///
/// For calls into parsers that panic on some damaged files. What they leave behind must not be used again.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !SILENT.get() {
                before(panic);
            }
        }));
    });
    let outer = SILENT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    SILENT.set(outer);
    result.map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("it gave no reason")
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_reason_and_the_thread_speaks_again_afterwards() {
        assert_eq!(caught(|| 3), Ok(3));
        let index = std::hint::black_box(7);
        assert_eq!(
            caught(|| [1][..1][index]),
            Err("index out of bounds: the len is 1 but the index is 7".into())
        );
        assert_eq!(caught(|| panic!("plain")), Err::<(), _>("plain".into()));
        assert_eq!(caught(|| caught(|| panic!("inner"))), Ok(Err::<(), _>("inner".into())));
        assert!(!SILENT.get());
    }
}
