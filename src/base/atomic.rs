//! Files that are either the old one or the new one, whatever happens in between.

use super::{Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `path` through a temporary neighbour: write, fsync, rename, fsync the folder.
///
/// # Errors
/// [`Error::Io`] with the path; the old file, if any, is untouched then.
pub fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let temporary =
        tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder).map_err(Error::io(folder))?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    fill(&mut out).and_then(|()| out.flush()).map_err(Error::io(path))?;
    drop(out);
    temporary.as_file().sync_all().map_err(Error::io(path))?;
    // A temporary file is private to its owner; what it becomes is an ordinary file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o644);
        temporary.as_file().set_permissions(mode).map_err(Error::io(path))?;
    }
    temporary.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), source: e.error })?;
    sync_folder(folder)
}

/// [`write`] for bytes that are already in memory.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |out| out.write_all(bytes))
}

/// Makes renames inside `folder` durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
