//! One file from the hub into the cache, continued where a broken transfer stopped.
//!
//! hf-hub 1.0 truncates its `.incomplete` file on every try, stores the body of an error answer as if it were the
//! file, and does not compare lengths; on the hub itself it also moves large files over the Xet protocol, which
//! mirrors and proxies do not speak. Here: a HEAD for the identity, a GET with `Range`, the SHA-256 (the ETag of
//! every large file) checked before the file gets its name. The names are those of `huggingface_hub`, so a
//! transfer that Python began is continued too.

use super::cache::RepoCache;
use super::failure::{self, Subject};
use super::{HubFailure, HubSettings, create_parent, file_url};
use crate::base::{Error, Result, interrupt};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tries in a row that bring no new byte before giving up.
const BARREN_TRIES: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a transfer counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const INTERRUPT_CHECK: Duration = Duration::from_millis(200);
const MAX_RELATIVE_REDIRECTS: usize = 10;
/// Where stderr is no terminal, only files above this are announced, in bytes.
const ANNOUNCED_BYTES: u64 = 1 << 20;

/// A file at a commit.
pub(super) struct RemoteFile<'a> {
    pub subject: Subject<'a>,
    pub commit: &'a str,
    pub file: &'a str,
}

/// What the hub says a file is.
struct Identity {
    /// Its name among the blobs.
    etag: String,
    bytes: u64,
    /// Hexadecimal; known for files in large-file storage.
    sha256: Option<String>,
}

/// The means of a transfer, shared by the files of a repository.
pub(super) struct Transfer {
    runtime: tokio::runtime::Runtime,
    /// Follows redirects, dropping the token where they leave the endpoint.
    client: Client,
    /// Stays, since the identity is in the headers of the redirect itself.
    staying_client: Client,
    token: Option<String>,
}

/// Why one try ended.
enum Broken {
    /// Worth another try.
    Transient(HubFailure),
    Final(HubFailure),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::Final(error.into())
    }
}

impl Transfer {
    pub fn new(settings: &HubSettings) -> Result<Transfer> {
        let failed = |error: String| Error::Hub { what: settings.endpoint.clone(), reason: error };
        let builder = || {
            Client::builder()
                .user_agent(concat!("rmtrain/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
        };
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|e| failed(e.to_string()));
        Ok(Transfer {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| failed(e.to_string()))?,
            client: build(builder())?,
            staying_client: build(builder().redirect(redirect::Policy::none()))?,
            token: settings.token.clone(),
        })
    }

    /// Brings one file into the cache and returns its blob.
    pub fn fetch(&self, remote: &RemoteFile, cache: &RepoCache) -> Result<PathBuf, HubFailure> {
        self.runtime.block_on(self.fetch_into(remote, cache))
    }

    async fn fetch_into(&self, remote: &RemoteFile<'_>, cache: &RepoCache) -> Result<PathBuf, HubFailure> {
        let url = file_url(remote.subject.endpoint, &remote.subject, remote.commit, remote.file);
        let identity = retry(|| self.identify(remote, &url)).await?;
        let blob = cache.blob(&identity.etag);
        if blob.is_file() {
            return Ok(blob);
        }
        create_parent(&blob)?;
        let _lock = cache.lock(&identity.etag)?;
        // Whoever held the lock may have brought the file.
        if blob.is_file() {
            return Ok(blob);
        }
        let mut partial = Partial::open(&blob, identity.bytes)?;
        let bar = progress_bar(remote.file, &identity, partial.received);
        let mut restarted = false;
        loop {
            self.receive_all(remote, &url, &identity, &mut partial, &bar).await?;
            let Some(expected) = &identity.sha256 else { break };
            let found = partial.sha256();
            if found == *expected {
                break;
            }
            // What an earlier try left behind may have been damaged; a second mismatch is the hub's.
            partial.clear()?;
            if std::mem::replace(&mut restarted, true) {
                let what = format!("{}: SHA-256 is {found}, expected {expected}", remote.file);
                return Err(failure::malformed(&remote.subject, &what).into());
            }
            eprintln!("hint: {} arrived damaged; downloading it again", remote.file);
        }
        bar.finish_and_clear();
        partial.finish(&blob)?;
        Ok(blob)
    }

    fn request(&self, client: &Client, method: Method, url: Url) -> RequestBuilder {
        // Compressed, lengths and ranges would be those of other bytes.
        let request = client.request(method, url).header(ACCEPT_ENCODING, "identity");
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Asks for a file's ETag and size. A renamed repository redirects on the same host; storage elsewhere does
    /// not know the ETag, so those redirects are not followed.
    async fn identify(&self, remote: &RemoteFile<'_>, url: &str) -> Result<Identity, Broken> {
        let malformed = |what: &str| {
            Broken::Final(failure::malformed(&remote.subject, &format!("{what} for {}", remote.file)).into())
        };
        let mut url = Url::parse(url).map_err(|_| malformed("no valid URL"))?;
        for _ in 0..MAX_RELATIVE_REDIRECTS {
            let response = self.request(&self.staying_client, Method::HEAD, url.clone()).send();
            let response = interruptible(response)
                .await?
                .map_err(|e| Broken::Transient(failure::from_transport(&remote.subject, &e)))?;
            let status = response.status();
            if !status.is_success() && !status.is_redirection() {
                return Err(refused(&remote.subject, &response));
            }
            let headers = response.headers();
            let location = text(headers, LOCATION.as_str()).filter(|_| status.is_redirection());
            if let Some(location) = location
                && !location.starts_with("//")
                && Url::parse(location).is_err()
            {
                url = url.join(location).map_err(|_| malformed("a redirect to no URL"))?;
                continue;
            }
            return identity_of(headers, status.is_success()).map_err(malformed);
        }
        Err(malformed("too many redirects"))
    }

    /// Tries until the file has its full length.
    async fn receive_all(
        &self,
        remote: &RemoteFile<'_>,
        url: &str,
        identity: &Identity,
        partial: &mut Partial,
        bar: &ProgressBar,
    ) -> Result<(), HubFailure> {
        let mut furthest = partial.received;
        let mut barren = 0;
        while partial.received < identity.bytes {
            match self.receive(remote, url, identity, partial, bar).await {
                Ok(()) => {}
                Err(Broken::Final(failure)) => return Err(failure),
                Err(Broken::Transient(failure)) => {
                    // A server that starts over and breaks at the same byte every time makes no progress.
                    barren = if partial.received > furthest { 0 } else { barren + 1 };
                    furthest = furthest.max(partial.received);
                    if barren == BARREN_TRIES {
                        return Err(failure);
                    }
                    pause(barren).await?;
                }
            }
        }
        Ok(())
    }

    /// One GET, from the byte that is missing.
    async fn receive(
        &self,
        remote: &RemoteFile<'_>,
        url: &str,
        identity: &Identity,
        partial: &mut Partial,
        bar: &ProgressBar,
    ) -> Result<(), Broken> {
        let malformed =
            |what: &str| failure::malformed(&remote.subject, &format!("{what} for {}", remote.file));
        let broke = |e: reqwest::Error| Broken::Transient(failure::from_transport(&remote.subject, &e));
        let url = Url::parse(url).map_err(|_| malformed("no valid URL"))?;
        let mut request = self.request(&self.client, Method::GET, url);
        if partial.received > 0 {
            request = request.header(RANGE, format!("bytes={}-", partial.received));
        }
        let mut response = interruptible(request.send()).await?.map_err(broke)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT
                if continues(response.headers(), partial.received, identity.bytes) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if partial.received > 0 => {
                partial.clear()?;
                bar.set_position(0);
                return Err(Broken::Transient(malformed("another range than was asked for").into()));
            }
            // The whole file, whatever was asked for.
            StatusCode::OK => {
                if partial.received > 0 {
                    partial.clear()?;
                }
            }
            _ => return Err(refused(&remote.subject, &response)),
        }
        bar.set_position(partial.received);
        while let Some(bytes) = interruptible(response.chunk()).await?.map_err(broke)? {
            if partial.received + bytes.len() as u64 > identity.bytes {
                partial.clear()?;
                let what = format!("more than the {} bytes that it promised", identity.bytes);
                return Err(malformed(&what).into());
            }
            partial.push(&bytes)?;
            bar.set_position(partial.received);
        }
        if partial.received < identity.bytes {
            let what = format!("{} of {} bytes", partial.received, identity.bytes);
            return Err(Broken::Transient(malformed(&what).into()));
        }
        Ok(())
    }
}

/// Runs a request again while it fails in a way that time may mend.
async fn retry<T>(mut attempt: impl AsyncFnMut() -> Result<T, Broken>) -> Result<T, HubFailure> {
    let mut tries = 0;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(Broken::Final(failure)) => return Err(failure),
            Err(Broken::Transient(failure)) if tries + 1 == BARREN_TRIES => return Err(failure),
            Err(Broken::Transient(_)) => pause(tries).await?,
        }
        tries += 1;
    }
}

/// Waits longer after every failure.
async fn pause(failures: u32) -> Result<()> {
    interruptible(tokio::time::sleep(FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)))
        .await
}

/// Waits, but not past Ctrl-C: a silent server must not hold up the user.
async fn interruptible<T>(work: impl Future<Output = T>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    loop {
        if interrupt::requested() {
            return Err(Error::Interrupted);
        }
        if let Ok(done) = tokio::time::timeout(INTERRUPT_CHECK, &mut work).await {
            return Ok(done);
        }
    }
}

fn refused(subject: &Subject, response: &Response) -> Broken {
    let status = response.status();
    let failure = failure::from_status(subject, status.as_u16(), text(response.headers(), "x-error-code"));
    match status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
    {
        true => Broken::Transient(failure),
        false => Broken::Final(failure),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The identity in a HEAD's headers. `of_file`: the answer is the file's own, not a redirect with its own length.
fn identity_of(headers: &HeaderMap, of_file: bool) -> Result<Identity, &'static str> {
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str())).ok_or("no ETag")?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    // It becomes a file name.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(plain) {
        return Err("an unusable ETag");
    }
    let own_length = || text(headers, CONTENT_LENGTH.as_str()).filter(|_| of_file);
    let bytes = text(headers, "x-linked-size")
        .or_else(own_length)
        .and_then(|length| length.parse().ok())
        .ok_or("no length")?;
    let is_sha256 = etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(Identity { etag: etag.to_owned(), bytes, sha256: is_sha256.then(|| etag.to_ascii_lowercase()) })
}

/// Whether a 206 brings exactly the bytes from `first` to the end of `total`.
fn continues(headers: &HeaderMap, first: u64, total: u64) -> bool {
    let range = text(headers, CONTENT_RANGE.as_str()).and_then(|range| {
        let (span, all) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (begin, end) = span.split_once('-')?;
        let all = if all == "*" { total } else { all.parse().ok()? };
        Some((begin.parse::<u64>().ok()?, end.parse::<u64>().ok()?, all))
    });
    range == Some((first, total.saturating_sub(1), total))
}

fn progress_bar(file: &str, identity: &Identity, received: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        if identity.bytes >= ANNOUNCED_BYTES {
            let size = indicatif::HumanBytes(identity.bytes);
            match received {
                0 => eprintln!("downloading {file} ({size})"),
                have => eprintln!("downloading {file} ({size}, {} are there)", indicatif::HumanBytes(have)),
            }
        }
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(identity.bytes);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}")
    {
        bar.set_style(style);
    }
    bar.set_message(file.to_owned());
    bar.set_position(received);
    bar
}

/// A file that is still growing, with the hash of what it holds.
struct Partial {
    path: PathBuf,
    file: File,
    received: u64,
    hash: Sha256,
}

impl Partial {
    /// Opens what an earlier try left, hashing it; something longer than the file is worthless.
    fn open(blob: &Path, total: u64) -> Result<Partial> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io(&path))?;
        let mut partial = Partial { path, file, received: 0, hash: Sha256::new() };
        let mut buffer = vec![0; 1 << 20];
        loop {
            match partial.file.read(&mut buffer).map_err(Error::io(&partial.path))? {
                0 => break,
                n => {
                    partial.hash.update(&buffer[..n]);
                    partial.received += n as u64;
                }
            }
        }
        if partial.received > total {
            partial.clear()?;
        }
        Ok(partial)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        self.hash.update(bytes);
        self.received += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(Error::io(&self.path))?;
        self.received = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn sha256(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Gives the file its name.
    fn finish(self, blob: &Path) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))?;
        std::fs::rename(&self.path, blob).map_err(Error::io(blob))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_continuation_is_exact_or_refused() {
        let fits = |range| continues(&headers(&[("content-range", range)]), 5, 10);
        assert!(fits("bytes 5-9/10") && fits("bytes 5-9/*"));
        for wrong in ["bytes 4-9/10", "bytes 5-8/10", "bytes 5-9/11", "5-9/10", "bytes */10", "bytes 5-9", ""]
        {
            assert!(!fits(wrong), "{wrong}");
        }
        assert!(!continues(&HeaderMap::new(), 5, 10));
    }

    #[test]
    fn the_linked_identity_wins_over_the_redirects_own() {
        let sha = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let of = |pairs: &[_], of_file| identity_of(&headers(pairs), of_file);
        let linked = [
            ("etag", "\"x\""),
            ("x-linked-etag", "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\""),
            ("x-linked-size", "9"),
            ("content-length", "3"),
        ];
        let found = of(&linked, false).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((found.etag.as_str(), found.bytes, found.sha256.as_deref()), (sha, 9, Some(sha)));
        let small =
            of(&[("etag", "W/\"a-b_c1\""), ("content-length", "3")], true).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((small.etag.as_str(), small.bytes, small.sha256), ("a-b_c1", 3, None));
        for (pairs, of_file) in [
            (&[("content-length", "3")][..], true),
            (&[("etag", "\"../../x\""), ("content-length", "3")], true),
            (&[("etag", "\"\""), ("content-length", "3")], true),
            (&[("etag", "\"a\""), ("content-length", "3")], false),
            (&[("etag", "\"a\""), ("x-linked-size", "-1")], true),
        ] {
            assert!(of(pairs, of_file).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn what_was_left_is_continued_and_too_much_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("etag");
        std::fs::write(folder.path().join("etag.incomplete"), "abc").unwrap();
        let mut partial = Partial::open(&blob, 6).unwrap();
        assert_eq!(partial.received, 3);
        partial.push(b"def").unwrap();
        let whole: String = Sha256::digest("abcdef").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(partial.sha256(), whole);
        drop(partial);
        let partial = Partial::open(&blob, 5).unwrap();
        assert_eq!(partial.received, 0);
        partial.finish(&blob).unwrap();
        assert_eq!(std::fs::read(&blob).unwrap(), b"");
    }
}
