//! Hub downloads against a loopback server that speaks the hub's protocol: description of a repository, HEAD with
//! ETag and X-Linked-* headers, redirects to storage on another host, ranges, tokens and cut connections.
//!
//! Settings come from process-wide environment variables, so every download runs in a child process: this test
//! binary, filtered to [`child_process`].

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

const COMMIT: &str = "1111111111111111111111111111111111111111";
const OTHER_COMMIT: &str = "2222222222222222222222222222222222222222";
const JOB: &str = "RMTRAIN_TEST_HUB_JOB";

/// The other side of [`Client::run`]; passes at once in an ordinary test run.
#[test]
fn child_process() {
    let Ok(job) = std::env::var(JOB) else { return };
    let parts: Vec<&str> = job.split('|').collect();
    let revision = Some(parts[2]).filter(|revision| !revision.is_empty());
    let result = match parts[0] {
        "model" => rmtrain::hub::resolve_model(parts[1], revision),
        "tokenizer" => rmtrain::hub::resolve_tokenizer(parts[1], revision),
        _ => rmtrain::hub::fetch_dataset_file(parts[1], revision, parts[3]),
    };
    match result {
        Ok(path) => println!("\nRESULT ok {}", path.display()),
        Err(error) => println!("\nRESULT error {error}"),
    }
}

struct Client {
    home: tempfile::TempDir,
    endpoint: String,
}

impl Client {
    fn new(hub: &Hub) -> Client {
        Client { home: tempfile::tempdir().unwrap(), endpoint: hub.endpoint.clone() }
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    fn command(&self, job: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["hub::child_process", "--exact", "--nocapture"]);
        for (name, _) in std::env::vars() {
            if name.starts_with("HF_")
                || name.starts_with("HUGGING")
                || name.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(name);
            }
        }
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.endpoint).env(JOB, job);
        command.env_remove("TRANSFORMERS_OFFLINE").envs(variables.iter().copied());
        command
    }

    fn run(&self, job: &str, variables: &[(&str, &str)]) -> (Result<PathBuf, String>, String) {
        let output = self.command(job, variables).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = stdout.lines().find_map(|line| line.strip_prefix("RESULT "));
        let line = line.unwrap_or_else(|| panic!("the child failed\n{stdout}\n{stderr}"));
        let result = match line.split_once(' ').unwrap() {
            ("ok", path) => Ok(PathBuf::from(path)),
            (_, error) => Err(error.to_owned()),
        };
        (result, stderr)
    }

    fn model(&self, revision: &str, variables: &[(&str, &str)]) -> Result<PathBuf, String> {
        self.run(&format!("model|owner/name|{revision}|"), variables).0
    }
}

#[derive(Debug, Clone)]
struct Request {
    storage: bool,
    method: String,
    path: String,
    range: Option<String>,
    authorization: Option<String>,
}

#[derive(Default)]
struct State {
    /// By commit.
    files: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// By revision.
    commits: BTreeMap<String, String>,
    log: Vec<Request>,
    /// Where the hub sends those who want a large file.
    storage: Option<String>,
    /// The token without which everything is refused.
    token: Option<String>,
    /// Bytes after which the next answers of the storage end.
    cuts: VecDeque<usize>,
    /// What the storage answers once the cuts are used up.
    storage_status: Option<u16>,
    ignores_ranges: bool,
    /// What the storage delivers instead of a file.
    forged: Option<Vec<u8>>,
}

struct Hub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    fn start() -> Hub {
        let state = Arc::new(Mutex::new(State::default()));
        let storage = listen(&state, true);
        state.lock().unwrap().storage = Some(storage);
        let endpoint = listen(&state, false);
        Hub { endpoint, state }
    }

    /// A sharded Llama with pickled weights and a readme that nobody asked for.
    fn with_sharded_model() -> Hub {
        let hub = Hub::start();
        let index = json!({"weight_map": {"a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors"}});
        let files = [
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"a\":1}".to_vec()),
            ("chat_template.jinja", b"{{ messages }}".to_vec()),
            ("generation_config.json", b"{}".to_vec()),
            ("heads.safetensors", noise(4, 300)),
            ("model.safetensors.index.json", index.to_string().into_bytes()),
            ("model-00001-of-00002.safetensors", noise(1, 100_000)),
            ("model-00002-of-00002.safetensors", noise(2, 50_000)),
            ("pytorch_model.bin", noise(3, 1000)),
            ("README.md", b"# read".to_vec()),
            ("onnx/model.onnx", b"x".to_vec()),
        ];
        hub.put("main", COMMIT, &files);
        hub
    }

    fn put(&self, revision: &str, commit: &str, files: &[(&str, Vec<u8>)]) {
        let mut state = self.state();
        state.commits.insert(revision.into(), commit.into());
        state.commits.insert(commit.into(), commit.into());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        state.files.insert(commit.into(), files.collect());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().log)
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

fn listen(state: &Arc<Mutex<State>>, storage: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || answer(stream, &state, storage));
        }
    });
    address
}

/// Answers one request and closes, as the hub or as the storage of its large files.
fn answer(mut stream: TcpStream, state: &Mutex<State>, storage: bool) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut state = state.lock().ok()?;
    let request = Request {
        storage,
        method,
        path,
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
    };
    state.log.push(request.clone());
    let answer = match storage {
        false => hub_answer(&state, &request),
        true => storage_answer(&mut state, &request),
    };
    drop(state);
    let Answer { status, headers, body, sent } = answer;
    let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if request.method != "HEAD" {
        stream.write_all(&body[..sent.min(body.len())]).ok()?;
    }
    stream.flush().ok()
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection ends.
    sent: usize,
}

fn reply(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Answer {
    Answer { status, headers, body, sent: usize::MAX }
}

fn hub_answer(state: &State, request: &Request) -> Answer {
    let refusal = |status, code: &str| reply(status, vec![("X-Error-Code", code.to_owned())], Vec::new());
    if let Some(token) = &state.token
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return refusal(401, "GatedRepo");
    }
    let path = request.path.trim_start_matches("/api/models").trim_start_matches("/api/datasets");
    let path = path.strip_prefix("/datasets").unwrap_or(path);
    let Some(path) = path.strip_prefix("/owner/name/") else { return refusal(404, "RepoNotFound") };
    if let Some(revision) = path.strip_prefix("revision/") {
        let Some(commit) = state.commits.get(&revision.replace("%2F", "/")) else {
            return refusal(404, "RevisionNotFound");
        };
        let siblings: Vec<_> = state.files[commit].keys().map(|name| json!({"rfilename": name})).collect();
        let body = json!({"id": "owner/name", "_id": "x", "sha": commit, "siblings": siblings, "private": false,
            "tags": [], "downloads": 0, "likes": 0});
        return reply(200, vec![("Content-Type", "application/json".into())], body.to_string().into_bytes());
    }
    let file = path.strip_prefix("resolve/").and_then(|path| path.split_once('/'));
    let Some((commit, bytes)) =
        file.and_then(|(commit, name)| Some((commit, state.files.get(commit)?.get(name)?)))
    else {
        return refusal(404, "EntryNotFound");
    };
    let sha: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut headers = vec![("X-Repo-Commit", commit.to_owned())];
    if bytes.len() < 1000 {
        headers.push(("ETag", format!("\"{}\"", &sha[..40])));
        return reply(200, headers, bytes.clone());
    }
    headers.push(("X-Linked-Etag", format!("\"{sha}\"")));
    headers.push(("X-Linked-Size", bytes.len().to_string()));
    // What would make hf-hub itself leave HTTP; there is no such service here.
    headers.push(("X-Xet-Hash", sha.clone()));
    headers.push(("Location", format!("{}/{commit}/{}", state.storage.as_ref().unwrap(), file.unwrap().1)));
    reply(302, headers, b"moved".to_vec())
}

fn storage_answer(state: &mut State, request: &Request) -> Answer {
    let name = request.path.trim_start_matches('/').split_once('/');
    let found = name.and_then(|(commit, name)| state.files.get(commit)?.get(name).cloned());
    let Some(bytes) = found else { return reply(404, vec![], vec![]) };
    let bytes = state.forged.clone().unwrap_or(bytes);
    let cut = state.cuts.pop_front();
    if let (None, Some(status)) = (cut, state.storage_status) {
        return reply(status, vec![], vec![]);
    }
    let begin = request.range.as_ref().filter(|_| !state.ignores_ranges).map(|range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let mut answer = match begin {
        None => reply(200, vec![], bytes),
        Some(begin) => {
            let range = format!("bytes {begin}-{}/{}", bytes.len() - 1, bytes.len());
            reply(206, vec![("Content-Range", range)], bytes[begin..].to_vec())
        }
    };
    answer.sent = cut.unwrap_or(usize::MAX);
    answer
}

fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn a_sharded_model_brings_what_is_needed_and_only_once() {
    let hub = Hub::with_sharded_model();
    let client = Client::new(&hub);
    let folder = client.model("", &[]).unwrap();
    assert_eq!(folder, client.cache().join("models--owner--name/snapshots").join(COMMIT));
    assert_eq!(read(&folder, "model-00001-of-00002.safetensors"), noise(1, 100_000));
    assert_eq!(read(&folder, "model-00002-of-00002.safetensors"), noise(2, 50_000));
    assert_eq!(read(&folder, "chat_template.jinja"), b"{{ messages }}");
    assert_eq!(read(&folder, "heads.safetensors"), noise(4, 300));
    let asked = hub.requests();
    for unwanted in ["pytorch_model.bin", "README.md", "onnx"] {
        assert!(asked.iter().all(|r| !r.path.contains(unwanted)), "{asked:?}");
    }
    assert!(asked.iter().all(|r| r.authorization.is_none()), "a token was invented");
    assert!(std::fs::read_link(folder.join("config.json")).unwrap().is_relative());

    assert_eq!(client.model("", &[]).unwrap(), folder);
    let asked = hub.requests();
    assert!(asked.iter().all(|r| r.path.starts_with("/api/")), "the second call downloads: {asked:?}");
    // A commit cannot have changed: nothing is asked at all.
    assert_eq!(client.model(COMMIT, &[]).unwrap(), folder);
    assert!(hub.requests().is_empty());
}

#[test]
fn python_finds_what_was_downloaded() {
    let python = std::env::var("RMTRAIN_PYTHON").unwrap_or_else(|_| "python3".into());
    let imports = Command::new(&python).args(["-c", "import huggingface_hub"]).output();
    if !imports.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no huggingface_hub (set RMTRAIN_PYTHON)");
        return;
    }
    let hub = Hub::with_sharded_model();
    let client = Client::new(&hub);
    let folder = client.model("", &[]).unwrap();
    let script = "import huggingface_hub as h; print(h.hf_hub_download('owner/name', 'config.json', \
        local_files_only=True)); print(h.snapshot_download('owner/name', local_files_only=True))";
    let output =
        Command::new(python).args(["-c", script]).env("HF_HOME", client.home.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = format!("{}\n{}\n", folder.join("config.json").display(), folder.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn a_killed_download_is_continued() {
    let hub = Hub::with_sharded_model();
    // A server that sends a part, then nothing, and keeps the connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(&hub);
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let storage = hub.state().storage.replace(silent);
    let mut child = client.command("model|owner/name||", &[]).stdout(Stdio::null()).spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
    while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").unwrap();
    stream.write_all(&noise(1, 100_000)[..70_000]).unwrap();
    let blobs = client.cache().join("models--owner--name/blobs");
    let received = || {
        let entries = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).any(|metadata| metadata.len() == 70_000)
    };
    let started = std::time::Instant::now();
    while !received() {
        assert!(started.elapsed().as_secs() < 20, "the part never arrived");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    hub.state().storage = storage;
    hub.requests();
    let folder = client.model("", &[]).unwrap();
    assert_eq!(read(&folder, "model-00001-of-00002.safetensors"), noise(1, 100_000));
    let first = hub.requests().into_iter().find(|r| r.storage).unwrap();
    assert_eq!(first.range.as_deref(), Some("bytes=70000-"));
}

#[test]
fn a_tokenizer_comes_without_weights() {
    let hub = Hub::with_sharded_model();
    let client = Client::new(&hub);
    let folder = client.run("tokenizer|owner/name||", &[]).0.unwrap();
    assert_eq!(read(&folder, "tokenizer.json"), b"{\"a\":1}");
    assert!(hub.requests().iter().all(|r| !r.storage && !r.path.contains("safetensors")));
}

#[test]
fn the_token_opens_a_gated_model_and_stays_with_the_hub() {
    let hub = Hub::with_sharded_model();
    hub.state().token = Some("hf_secret".into());
    let client = Client::new(&hub);
    let refused = client.model("", &[]).unwrap_err();
    assert!(refused.contains("accept the licence at") && refused.contains("set HF_TOKEN"), "{refused}");
    let refused = client.model("", &[("HF_TOKEN", "hf_wrong")]).unwrap_err();
    assert!(
        refused.contains("with the account of your HF_TOKEN") && !refused.contains("hf_wrong"),
        "{refused}"
    );
    hub.requests();
    client.model("", &[("HF_TOKEN", "hf_secret")]).unwrap();
    let asked = hub.requests();
    assert!(asked.iter().any(|r| r.storage) && asked.iter().any(|r| !r.storage));
    for request in asked {
        let expected = (!request.storage).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(request.authorization, expected, "{}", request.path);
    }
}

#[test]
fn a_revision_is_another_snapshot() {
    let hub = Hub::with_sharded_model();
    let weights = noise(9, 5000);
    hub.put(
        "feature/x",
        OTHER_COMMIT,
        &[("config.json", b"[]".to_vec()), ("model.safetensors", weights.clone())],
    );
    let client = Client::new(&hub);
    let folder = client.model("feature/x", &[]).unwrap();
    assert!(folder.ends_with(OTHER_COMMIT));
    assert_eq!(read(&folder, "model.safetensors"), weights);
    assert_eq!(client.model("feature/x", &[("HF_HUB_OFFLINE", "1")]).unwrap(), folder);
    let unknown = client.model("v9", &[]).unwrap_err();
    assert!(unknown.contains("has no revision \"v9\""), "{unknown}");
    let outside = client.model("../../x", &[]).unwrap_err();
    assert!(outside.contains("expected a relative name"), "{outside}");
}

#[test]
fn a_cut_connection_is_continued_with_a_range() {
    let hub = Hub::with_sharded_model();
    hub.state().cuts = [30_000, 1, 20_000].into();
    let client = Client::new(&hub);
    let folder = client.model("", &[]).unwrap();
    assert_eq!(read(&folder, "model-00001-of-00002.safetensors"), noise(1, 100_000));
    let ranges: Vec<_> = hub.requests().into_iter().filter(|r| r.storage).map(|r| r.range).collect();
    let expected = [None, Some("bytes=30000-"), Some("bytes=30001-"), Some("bytes=50001-"), None];
    assert_eq!(ranges, expected.map(|range| range.map(str::to_owned)));
}

#[test]
fn a_later_run_continues_what_an_earlier_one_left() {
    let hub = Hub::with_sharded_model();
    let client = Client::new(&hub);
    {
        let mut state = hub.state();
        state.cuts = [60_000].into();
        state.storage_status = Some(403);
    }
    let refused = client.model("", &[]).unwrap_err();
    assert!(refused.contains("access refused"), "{refused}");
    hub.state().storage_status = None;
    hub.requests();
    let folder = client.model("", &[]).unwrap();
    assert_eq!(read(&folder, "model-00001-of-00002.safetensors"), noise(1, 100_000));
    let first = hub.requests().into_iter().find(|r| r.storage).unwrap();
    assert_eq!(first.range.as_deref(), Some("bytes=60000-"));
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let hub = Hub::with_sharded_model();
    {
        let mut state = hub.state();
        state.cuts = [40_000].into();
        state.ignores_ranges = true;
    }
    let client = Client::new(&hub);
    let folder = client.model("", &[]).unwrap();
    assert_eq!(read(&folder, "model-00001-of-00002.safetensors"), noise(1, 100_000));
}

#[test]
fn damage_in_what_was_left_is_found_and_mended() {
    let hub = Hub::with_sharded_model();
    let client = Client::new(&hub);
    let sha: String = Sha256::digest(noise(1, 100_000)).iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = client.cache().join("models--owner--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{sha}.incomplete")), noise(7, 10_000)).unwrap();
    let (folder, stderr) = client.run("model|owner/name||", &[]);
    assert_eq!(read(&folder.unwrap(), "model-00001-of-00002.safetensors"), noise(1, 100_000));
    assert!(stderr.contains("arrived damaged"), "{stderr}");
}

#[test]
fn forged_files_never_get_their_name() {
    let hub = Hub::with_sharded_model();
    hub.state().forged = Some(noise(8, 100_000));
    let client = Client::new(&hub);
    let message = client.model("", &[]).unwrap_err();
    assert!(message.contains("SHA-256 is"), "{message}");
    // Longer than promised is noticed before it is stored.
    hub.state().forged = Some(noise(8, 100_001));
    let message = client.model("", &[]).unwrap_err();
    assert!(message.contains("more than the 100000 bytes"), "{message}");
    let snapshot = client.cache().join("models--owner--name/snapshots").join(COMMIT);
    assert!(!snapshot.join("model-00001-of-00002.safetensors").exists());
    let message = client.model("", &[("HF_HUB_OFFLINE", "1")]).unwrap_err();
    assert!(message.contains("is not in the cache"), "{message}");
}

#[test]
fn offline_uses_the_cache_and_asks_nobody() {
    let hub = Hub::with_sharded_model();
    let client = Client::new(&hub);
    let offline = [("HF_HUB_OFFLINE", "1")];
    let message = client.model("", &offline).unwrap_err();
    assert!(message.contains("offline") && message.contains("config.json is not in the cache"), "{message}");
    let folder = client.model("", &[]).unwrap();
    hub.requests();
    assert_eq!(client.model("", &offline).unwrap(), folder);
    std::fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    let message = client.model("", &offline).unwrap_err();
    assert!(message.contains("model-00002-of-00002.safetensors is not in the cache"), "{message}");
    assert!(hub.requests().is_empty());
}

/// As transformers leaves the cache, which knows nothing of heads beside the weights.
#[test]
fn an_ensemble_is_not_complete_without_its_heads() {
    let hub = Hub::start();
    let files = [
        ("config.json", b"{\"rmtrain_heads\": 4}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", noise(1, 2000)),
        ("heads.safetensors", noise(2, 300)),
    ];
    hub.put("main", COMMIT, &files);
    let client = Client::new(&hub);
    let folder = client.model("", &[]).unwrap();
    for revision in [COMMIT, ""] {
        std::fs::remove_file(folder.join("heads.safetensors")).unwrap();
        let message = client.model(revision, &[("HF_HUB_OFFLINE", "1")]).unwrap_err();
        assert!(message.contains("heads.safetensors is not in the cache"), "{message}");
        assert_eq!(client.model(revision, &[]).unwrap(), folder);
        assert_eq!(read(&folder, "heads.safetensors"), noise(2, 300));
    }
    hub.requests();
    assert_eq!(client.model(COMMIT, &[("HF_HUB_OFFLINE", "1")]).unwrap(), folder);
    assert!(hub.requests().is_empty());
}

#[test]
fn an_unreachable_hub_leaves_the_cache_in_use() {
    let hub = Hub::with_sharded_model();
    let mut client = Client::new(&hub);
    let folder = client.model("", &[]).unwrap();
    // A port that was ours a moment ago and that nobody listens on.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    client.endpoint = format!("http://{closed}");
    let (found, stderr) = client.run("model|owner/name||", &[]);
    assert_eq!(found.unwrap(), folder);
    assert!(stderr.contains("hint: ") && stderr.contains("using the cached copy"), "{stderr}");
    let message = client.run("model|owner/other||", &[]).0.unwrap_err();
    assert!(message.contains("cannot reach") && message.contains("check the network"), "{message}");
}

#[test]
fn what_the_hub_does_not_have_is_said() {
    let hub = Hub::with_sharded_model();
    let client = Client::new(&hub);
    let message = client.run("model|owner/nothing||", &[]).0.unwrap_err();
    assert!(message.contains("no such folder, and the hub has no such model"), "{message}");
    hub.put("bin", OTHER_COMMIT, &[("config.json", b"{}".to_vec()), ("pytorch_model.bin", noise(1, 10))]);
    let message = client.model("bin", &[]).unwrap_err();
    assert!(message.contains("found only pytorch_model.bin, expected model.safetensors"), "{message}");
    hub.put("none", OTHER_COMMIT, &[("README.md", b"x".to_vec())]);
    let message = client.model("none", &[]).unwrap_err();
    assert!(message.contains("found no config.json"), "{message}");
    let index = json!({"weight_map": {"a": "../../evil.safetensors"}}).to_string().into_bytes();
    let files = [("config.json", b"{}".to_vec()), ("model.safetensors.index.json", index)];
    hub.put("evil", &"3".repeat(40), &files);
    let message = client.model("evil", &[]).unwrap_err();
    assert!(message.contains("weight_map.a: found \"../../evil.safetensors\""), "{message}");
}

#[test]
fn a_dataset_file_is_fetched_into_the_same_cache() {
    let hub = Hub::start();
    let rows = noise(4, 3000);
    let client = Client::new(&hub);
    let fetch = |file: &str, variables: &[_]| client.run(&format!("dataset|owner/name||{file}"), variables).0;
    hub.put("main", OTHER_COMMIT, &[("data/train.jsonl", rows.clone())]);
    let path = fetch("data/train.jsonl", &[]).unwrap();
    assert!(path.starts_with(client.cache().join("datasets--owner--name/snapshots").join(OTHER_COMMIT)));
    assert_eq!(std::fs::read(&path).unwrap(), rows);
    hub.requests();
    assert_eq!(fetch("data/train.jsonl", &[("HF_HUB_OFFLINE", "1")]).unwrap(), path);
    assert!(hub.requests().is_empty());
    let message = fetch("data/other.jsonl", &[]).unwrap_err();
    assert!(message.contains("dataset owner/name: found no data/other.jsonl"), "{message}");
    let message = fetch("../../x", &[]).unwrap_err();
    assert!(message.contains("expected a relative name"), "{message}");
}
