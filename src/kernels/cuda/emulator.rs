pub(crate) fn available() -> Result<(), String> {
    Err("stub".into())
}
pub(crate) fn launch(
    _: &str,
    _: [u32; 3],
    _: [u32; 3],
    _: u32,
    _: &mut [*mut std::ffi::c_void],
) -> Result<(), String> {
    Err("stub".into())
}
