//! To be written.
pub fn write(_: &std::path::Path, _: crate::data::config::SandboxConfig) -> crate::Result<()> {
    Ok(())
}
