//! Files to rows, rows to a store of pairs, a store to batches.

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use rmtrain::base::{Error, Result};
use rmtrain::data::config::{ChatTemplateSource, Overlong, Pairing};
use rmtrain::data::source::{HubDatasets, Rows, SourceFile, resolve};
use rmtrain::data::{
    Batch, DataReport, DropReason, EncodeConversation, ListStore, Loader, Message, Order, Preparation,
    TokenList, Tokenizer,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One id a byte, an id for the end of a message, and a BOS.
#[derive(Default)]
struct Bytes {
    encoded: AtomicUsize,
}

const BOS: u32 = 257;

impl EncodeConversation for Bytes {
    fn render(&self, messages: &[Message]) -> Result<String> {
        if messages.iter().any(|m| m.content.contains("unspeakable")) {
            return Err(Error::Template { place: "of the test".into(), reason: "refused".into() });
        }
        Ok(messages.iter().map(|m| format!("{}\n", m.content)).collect())
    }

    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encoded.fetch_add(1, Ordering::Relaxed);
        let text = self.render(messages)?;
        Ok([BOS].into_iter().chain(text.bytes().map(u32::from)).collect())
    }

    fn bos_token_id(&self) -> Option<u32> {
        Some(BOS)
    }

    fn fingerprint(&self) -> String {
        "bytes".into()
    }
}

/// The text that ids stand for, `^` for BOS.
fn text(ids: &[u32]) -> String {
    ids.iter().map(|&id| if id == BOS { '^' } else { char::from(id as u8) }).collect()
}

fn read(bytes: impl Into<Vec<u8>>) -> Result<Vec<(u64, Value)>> {
    let rows = Rows::of_reader("f", Cursor::new(bytes.into()))?;
    rows.map(|row| row.and_then(|row| Ok((row.origin.line, row.value()?)))).collect()
}

fn error(bytes: impl Into<Vec<u8>>) -> String {
    read(bytes).unwrap_err().to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn lines_with_bom_crlf_blank_lines_and_no_last_newline() {
    let found = read("\u{feff}{\"a\":1}\r\n\n  \n {\"a\":\"\u{2028}x\"} \n{}").unwrap();
    assert_eq!(found, [(1, json!({"a": 1})), (4, json!({"a": "\u{2028}x"})), (5, json!({}))]);
    assert_eq!(read("").unwrap(), []);
    assert_eq!(read(" \n\r\n").unwrap(), []);
}

#[test]
fn non_finite_numbers_are_null_outside_strings_only() {
    let found = read(r#"{"a":NaN,"b":[Infinity,-Infinity],"c":"NaN \" -Infinity"}"#).unwrap();
    assert_eq!(found, [(1, json!({"a": null, "b": [null, null], "c": "NaN \" -Infinity"}))]);
}

#[test]
fn what_is_cut_or_malformed_names_its_place() {
    assert!(error("{\"a\":1}\n\n{\"a\":}\n").starts_with("f:3: not JSON"));
    assert!(error("{\"a\":1}\n{\"b\":").starts_with("f:2: not JSON"));
    assert!(error("{\"a\":\"\n").starts_with("f:1: not JSON"), "{}", error("{\"a\":\"\n"));
    for (text, expected) in [
        ("[{\"a\":1}, {\"b\"", "row 2"),
        ("[{\"a\":1}", "cut short"),
        ("[{} {}]", "after row 1, expected ',' or ']'"),
        ("[{},,{}]", "expected row 2"),
        ("[{}] x", "after the array"),
        ("{\n\"a\": 1,\n", "cut short"),
        ("prompt,chosen\n", "text that starts with"),
        ("<html>", "markup"),
    ] {
        let found = error(text);
        assert!(found.starts_with("f: ") && found.contains(expected), "{text:?}: {found}");
    }
    assert!(error(b"{\"a\":\"\xff\"}\n".to_vec()).starts_with("f:1: not JSON"));
    assert!(error(b"\xff\xfe{\0".to_vec()).contains("UTF-16"));
    assert!(error("[".repeat(100_000)).contains("cut short"));
    assert!(error(format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000))).contains("recursion"));
}

#[test]
fn an_endless_line_is_refused() {
    let endless = Cursor::new(b"{\"a\":\"".to_vec());
    let endless = std::io::Read::chain(endless, std::io::repeat(b'x'));
    let error = Rows::of_reader("f", endless).map(|mut rows| rows.next().unwrap().unwrap_err());
    let error = error.unwrap_or_else(|error| error).to_string();
    assert!(error.contains("line 1 has more than"), "{error}");
}

#[test]
fn compressed_files_are_told_by_content_and_cut_ones_refused() {
    let text: String =
        (0..500).map(|i| format!("{{\"row\":{i},\"text\":\"{}\"}}\n", "x".repeat(i))).collect();
    let expected = read(text.as_str()).unwrap();
    let (first, second) = text.split_at(text.len() / 2);
    let gz = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    let zst =
        [zstd::encode_all(first.as_bytes(), 1).unwrap(), zstd::encode_all(second.as_bytes(), 1).unwrap()];
    for packed in [gz, zst.concat()] {
        assert_eq!(read(packed.clone()).unwrap(), expected);
        for cut in [packed.len() - 1, packed.len() * 3 / 4, packed.len() / 3, 6] {
            let found = error(&packed[..cut]);
            assert!(found.contains("cut short") || found.contains("damaged"), "{cut}: {found}");
        }
        let mut damaged = packed.clone();
        damaged[packed.len() / 2..][..64].fill(0x55);
        assert!(read(damaged).is_err());
    }
    let array = serde_json::to_vec(&expected.iter().map(|(_, row)| row).collect::<Vec<_>>()).unwrap();
    assert_eq!(read(gzip(&array)).unwrap().len(), 500);
}

fn object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[\\\\\"{}\\[\\],\n ]{0,8}".prop_map(Value::from),
    ];
    // At least one field: `{}` looks the same in every layout, and the first line is what tells them apart.
    prop::collection::vec(("\\PC{0,6}", leaf), 1..5)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

proptest! {
    #[test]
    fn every_layout_gives_the_same_rows(objects in prop::collection::vec(object(), 0..6)) {
        let lines: String = objects.iter().map(|o| format!("{o}\n")).collect();
        let pretty: String = objects.iter().map(|o| format!("{o:#}\n")).collect();
        let array = Value::from(objects.clone());
        for text in [lines, pretty, array.to_string(), format!("{array:#}")] {
            let found: Vec<Value> = read(text).unwrap().into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(&found, &objects);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\ \nNa1-"[..]), 0..40)) {
        let _ = read(bytes);
    }
}

/// `message m { prompt; chosen: list of {role, content}; rejected; score }`, in two row groups.
pub(crate) fn parquet_file(path: &Path) {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    let list = |name: &str| {
        format!(
            "optional group {name} (LIST) {{ repeated group list {{ optional group element {{ \
             optional binary role (UTF8); optional binary content (UTF8); }} }} }}"
        )
    };
    let schema = format!(
        "message m {{ optional binary prompt (UTF8); {} {} optional double score_chosen; }}",
        list("chosen"),
        list("rejected")
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    for group in 0..2 {
        let mut rows = writer.next_row_group().unwrap();
        let strings =
            |texts: &[String]| texts.iter().map(|t| ByteArray::from(t.as_str())).collect::<Vec<_>>();
        let prompts: Vec<String> = (0..3).map(|i| format!("p{}", group * 3 + i)).collect();
        let roles = vec!["assistant".to_string(); 3];
        let replies = |side: &str| prompts.iter().map(|p| format!("{side} {p}")).collect::<Vec<_>>();
        let columns = [prompts.clone(), roles.clone(), replies("good"), roles, replies("bad")];
        for (i, texts) in columns.iter().enumerate() {
            let mut column = rows.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            match i {
                0 => typed.write_batch(&strings(texts), Some(&[1; 3]), None).unwrap(),
                _ => typed.write_batch(&strings(texts), Some(&[4; 3]), Some(&[0; 3])).unwrap(),
            };
            column.close().unwrap();
        }
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[1.5, f64::NAN], Some(&[1, 0, 1]), None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_rows_are_examples_and_damage_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no-extension");
    parquet_file(&path);
    let read = |path: &Path| -> Result<Vec<_>> {
        Rows::of_file(path)?
            .map(|row| row.and_then(|row| Ok((row.origin.line, row.example("overall_score")?))))
            .collect()
    };
    let rows = read(&path).unwrap();
    assert_eq!(rows.len(), 6);
    let (line, last) = &rows[5];
    assert_eq!((*line, last.prompt[0].content.as_str()), (6, "p5"));
    assert_eq!(last.responses[1].messages, [Message::new("assistant", "bad p5")]);
    assert_eq!((rows[0].1.responses[0].score, rows[1].1.responses[0].score), (Some(1.5), None));
    assert_eq!(last.responses[0].score, None);

    let whole = fs::read(&path).unwrap();
    let broken = folder.path().join("broken");
    for cut in [5, whole.len() / 2, whole.len() - 1] {
        fs::write(&broken, &whole[..cut]).unwrap();
        let error = read(&broken).unwrap_err();
        assert!(matches!(error, Error::Data { .. }) && error.to_string().contains("Parquet"), "{error}");
    }
    for at in (4..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        fs::write(&broken, &damaged).unwrap();
        // Text has no checksum, so some damage reads as other rows; none may panic.
        let _ = read(&broken);
    }
}

struct NoHub;

impl HubDatasets for NoHub {
    fn fetch(&self, repo: &str, _: Option<&str>, _: &str) -> Result<PathBuf> {
        Err(Error::Hub { what: repo.into(), reason: "no network".into() })
    }
}

/// A folder with files of rows, and stores made of them.
struct World {
    folder: tempfile::TempDir,
    preparation: Preparation,
    encoder: Arc<Bytes>,
}

impl World {
    fn new() -> Self {
        let preparation = Preparation {
            max_length: 64,
            overlong: Overlong::Drop,
            pairing: Pairing::RandomTwo,
            max_responses: 3,
            score_field: "overall_score".into(),
            seed: 3,
        };
        Self { folder: tempfile::tempdir().unwrap(), preparation, encoder: Arc::new(Bytes::default()) }
    }

    fn file(&self, name: &str, rows: &[Value]) -> SourceFile {
        let path = self.folder.path().join(name);
        fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        SourceFile::local(path)
    }

    fn store(&self, files: &[SourceFile]) -> Result<ListStore> {
        self.store_with(files, &mut |_| {})
    }

    fn store_with(&self, files: &[SourceFile], progress: &mut dyn FnMut(&DataReport)) -> Result<ListStore> {
        let folder = self.folder.path().join("store");
        ListStore::open_or_build(&folder, files, &self.preparation, self.encoder.as_ref(), progress)
    }

    fn pairs(&self, store: &ListStore) -> Vec<TokenList> {
        (0..store.len()).map(|i| store.token_list(i, self.encoder.as_ref()).unwrap()).collect()
    }
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({"prompt": prompt, "chosen": chosen, "rejected": rejected})
}

fn numbered(count: usize) -> Vec<Value> {
    (0..count).map(|i| pair(&format!("prompt {i}"), &format!("good {i}"), &format!("bad {i}"))).collect()
}

#[test]
fn a_store_has_every_pair_in_order_and_counts_the_others() {
    let world = World::new();
    let long = "x".repeat(100);
    let a = world.file(
        "a.jsonl",
        &[
            json!({"prompt": "p", "chosen": "c", "rejected": "r", "margin": 0.25}),
            pair("p", "same", "same"),
            pair("p", "c", "  "),
            json!({"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 1, "score_rejected": 1.0}),
            pair("p", &long, "r"),
            json!({"prompt": "p", "response": "only one"}),
        ],
    );
    let b = world.file("b.jsonl", &[
        json!({"instruction": "q", "completions": [
            {"response": "low", "overall_score": 1}, {"response": "high", "overall_score": 2},
        ]}),
        json!({"instruction": "q", "completions": [{"response": "x", "overall_score": 1}, {"response": "y"}]}),
    ]);
    let store = world.store(&[a.clone(), b.clone()]).unwrap();
    let pairs = world.pairs(&store);
    let shown: Vec<_> =
        pairs.iter().map(|p| (text(&p.sequences[0]), text(&p.sequences[1]), p.margin)).collect();
    let expected = [("^p\nc\n", "^p\nr\n", Some(0.25)), ("^q\nhigh\n", "^q\nlow\n", None)];
    assert_eq!(shown, expected.map(|(c, r, m)| (c.to_string(), r.to_string(), m)));
    assert_eq!(pairs[1].origin, format!("{}:1", b.path.display()));
    let report = store.report();
    assert_eq!((report.files, report.rows, report.pairs, report.truncated), (2, 8, 2, 0));
    let dropped: Vec<_> = report.dropped.clone().into_iter().collect();
    let reasons: BTreeSet<_> = dropped.iter().map(|(reason, count)| (reason.name(), *count)).collect();
    let expected = [
        ("empty", 1),
        ("identical", 1),
        ("overlong", 1),
        ("tied", 1),
        ("too-few-responses", 1),
        ("unscored", 1),
    ];
    assert_eq!(reasons, expected.into());
    assert!(store.token_list(2, world.encoder.as_ref()).is_err());
}

#[test]
fn the_rule_for_overlong_pairs_is_exact_at_the_limit() {
    // BOS, 40 bytes of prompt, a newline, 5 bytes and a newline: 48 tokens, too many to tell without tokenizing.
    let prompt = "0123456789".repeat(4);
    let rows = [pair(&prompt, "chose", "r")];
    let with = |overlong, max_length| {
        let mut world = World::new();
        world.preparation = Preparation { overlong, max_length, ..world.preparation };
        let file = world.file("a.jsonl", &rows);
        world.store(&[file]).map(|store| (world.pairs(&store), store.report().clone()))
    };
    let (pairs, report) = with(Overlong::Drop, 48).unwrap();
    assert_eq!((pairs[0].sequences[0].len(), report.truncated), (48, 0));
    let error = with(Overlong::Drop, 47).unwrap_err().to_string();
    assert!(error.contains("no pair") && error.contains("1 overlong"), "{error}");
    let error = with(Overlong::Error, 47).unwrap_err();
    assert!(
        matches!(error, Error::Row { line: 1, .. }) && error.to_string().contains("48 tokens"),
        "{error}"
    );
    let (pairs, report) = with(Overlong::TruncatePromptLeft, 20).unwrap();
    assert_eq!(text(&pairs[0].sequences[0]), format!("^{}\nchose\n", &prompt[28..]));
    assert_eq!(text(&pairs[0].sequences[1]), format!("^{}\nr\n", &prompt[28..]));
    assert_eq!(report.truncated, 1);
    assert!(with(Overlong::TruncatePromptLeft, 5).unwrap_err().to_string().contains("1 overlong"));
}

#[test]
fn responses_that_begin_alike_stay_whole_where_the_prompt_is_cut() {
    let prompt = "0123456789".repeat(4);
    let rows = [pair(&prompt, "chose", "choke"), pair("p", "c", "r")];
    let with = |max_length| {
        let mut world = World::new();
        world.preparation =
            Preparation { overlong: Overlong::TruncatePromptLeft, max_length, ..world.preparation };
        let file = world.file("a.jsonl", &rows);
        let store = world.store(&[file]).unwrap();
        (world.pairs(&store), store.report().clone())
    };
    // BOS, the newline after the prompt, and a response: 40 tokens less.
    let (pairs, report) = with(8);
    assert_eq!(
        (text(&pairs[0].sequences[0]), text(&pairs[0].sequences[1])),
        ("^\nchose\n".into(), "^\nchoke\n".into())
    );
    assert_eq!(report.truncated, 1);
    let (pairs, report) = with(7);
    assert_eq!((pairs.len(), report.truncated, report.dropped[&DropReason::Overlong]), (1, 0, 1));
}

#[test]
fn a_row_becomes_one_list_that_does_without_what_cannot_be_compared() {
    let mut world = World::new();
    world.preparation.pairing = Pairing::Listwise;
    let row = |responses: &[(&str, Option<f64>)]| {
        let (responses, scores): (Vec<_>, Vec<_>) = responses.iter().copied().unzip();
        json!({"prompt": "q", "responses": responses, "scores": scores})
    };
    let long = "x".repeat(100);
    // So long that whether it fits is known only when it is tokenized.
    let middle = "y".repeat(57);
    let file = world.file(
        "a.jsonl",
        &[
            row(&[("low", Some(1.0)), ("high", Some(2.0)), ("as high", Some(2.0)), ("unknown", None)]),
            row(&[("low", Some(1.0)), (&long, Some(3.0)), (&middle, Some(2.0))]),
            row(&[(&long, Some(1.0)), ("low", Some(0.0))]),
            row(&[("a", Some(1.0)), ("b", Some(1.0)), ("c", Some(1.0))]),
            row(&[("a", Some(1.0)), ("b", Some(2.0)), ("c", Some(3.0)), ("d", Some(4.0)), ("e", Some(5.0))]),
            pair("p", "c", "r"),
        ],
    );
    let store = world.store(std::slice::from_ref(&file)).unwrap();
    let lists = world.pairs(&store);
    let shown = |list: &TokenList| -> (Vec<String>, Vec<u32>) {
        (list.sequences.iter().map(|ids| text(ids)).collect(), list.ranking.ranks().to_vec())
    };
    let rendered = |texts: &[&str]| -> Vec<String> { texts.iter().map(|t| format!("^q\n{t}\n")).collect() };
    assert_eq!(shown(&lists[0]), (rendered(&["high", "as high", "low"]), vec![0, 0, 1]));
    assert_eq!(shown(&lists[1]), (rendered(&[&middle, "low"]), vec![0, 1]));
    assert_eq!((lists[2].sequences.len(), lists[2].ranking.ranks()), (3, &[0, 1, 2][..]));
    assert_eq!(shown(&lists[3]), (vec!["^p\nc\n".into(), "^p\nr\n".into()], vec![0, 1]));
    let report = store.report();
    assert_eq!((report.rows, report.pairs, report.sequences), (6, 4, 3 + 2 + 3 + 2));
    assert_eq!(report.dropped, [(DropReason::Overlong, 1), (DropReason::Tied, 1)].into());
    let left_out = [(DropReason::Unscored, 1), (DropReason::Overlong, 1), (DropReason::TooManyResponses, 2)];
    assert_eq!(report.left_out, left_out.into());
    assert!(report.to_string().contains("lists"), "{report}");

    world.preparation.overlong = Overlong::Error;
    let error = world.store(&[file]).unwrap_err();
    assert!(
        matches!(error, Error::Row { line: 2, .. }) && error.to_string().contains("response 1 of 3, rank 1"),
        "{error}"
    );
}

#[test]
fn a_bad_row_names_its_place_and_leaves_no_store() {
    for (bad, expected) in [
        ("{\"prompt\": \"p\"}", "found the keys prompt"),
        ("{\"prompt\": ", "not JSON"),
        (
            "{\"prompt\": \"p\", \"chosen\": \"unspeakable\", \"rejected\": \"r\"}",
            "chosen: chat template of the test",
        ),
    ] {
        let world = World::new();
        let file = world.file("a.jsonl", &numbered(2000));
        let mut text = fs::read_to_string(&file.path).unwrap();
        text.push_str(&format!("\n{bad}\n{{broken\n"));
        fs::write(&file.path, text).unwrap();
        let error = world.store(std::slice::from_ref(&file)).unwrap_err().to_string();
        let place = format!("{}:2002: ", file.path.display());
        assert!(error.starts_with(&place) && error.contains(expected), "{error}");
        let left: Vec<_> = fs::read_dir(world.folder.path().join("store")).unwrap().collect();
        assert!(left.iter().all(|f| f.as_ref().unwrap().file_name() == "pairs.lock"), "{left:?}");
    }
    let world = World::new();
    let empty = world.file("empty.jsonl", &[]);
    assert!(world.store(&[empty]).unwrap_err().to_string().contains("no pair to train on in 0 rows"));
    let missing = SourceFile::local(world.folder.path().join("missing.jsonl"));
    assert!(world.store(&[missing]).unwrap_err().to_string().contains("missing.jsonl"));
    let hub = resolve(&["hf://datasets/o/n/f.jsonl".into()], &NoHub).unwrap_err().to_string();
    assert!(hub.contains("no network"), "{hub}");
}

#[test]
fn a_store_is_reused_until_anything_about_it_changes() {
    let mut world = World::new();
    let file = world.file("a.jsonl", &numbered(50));
    let builds = |world: &World| {
        let mut calls = 0;
        let store = world.store_with(std::slice::from_ref(&file), &mut |_| calls += 1).unwrap();
        assert_eq!(store.len(), 50);
        calls > 0
    };
    assert!(builds(&world) && !builds(&world));
    world.preparation.seed += 1;
    assert!(builds(&world) && !builds(&world));
    let mut rows = numbered(50);
    rows[7] = pair("prompt 7", "better", "bad 7");
    world.file("a.jsonl", &rows);
    assert!(builds(&world) && !builds(&world));

    let spool = world.folder.path().join("store/pairs.spool");
    let whole = fs::read(&spool).unwrap();
    for cut in (0..whole.len()).step_by(97) {
        fs::write(&spool, &whole[..cut]).unwrap();
        assert!(builds(&world), "cut at {cut}");
        assert_eq!(fs::read(&spool).unwrap(), whole);
    }
    for at in (0..whole.len()).step_by(101) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&spool, damaged).unwrap();
        assert!(builds(&world), "damaged at {at}");
    }
}

#[test]
fn the_store_does_not_depend_on_the_number_of_threads() {
    let world = World::new();
    let rows: Vec<Value> = (0..3000)
        .map(|i| {
            let completion =
                |k: usize| json!({"response": format!("r{k} {i}"), "overall_score": (i * k) % 7});
            let completions = [1, 2, 3, 4].map(completion);
            json!({"instruction": format!("p{i}"), "completions": completions})
        })
        .collect();
    let file = world.file("a.jsonl", &rows);
    let make = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let _ = fs::remove_dir_all(world.folder.path().join("store"));
        let store = pool.install(|| world.store(std::slice::from_ref(&file))).unwrap();
        (store.content_sha256(), fs::read(world.folder.path().join("store/pairs.spool")).unwrap())
    };
    assert_eq!(make(1), make(5));
}

fn load(world: &World, store: &Arc<ListStore>, order: Order, steps: (u64, u64)) -> Vec<Batch> {
    let loader = Loader::start(store.clone(), world.encoder.clone(), order, 7, steps.0, steps.1).unwrap();
    loader.collect::<Result<_>>().unwrap()
}

#[test]
fn batches_cover_every_epoch_and_a_later_start_sees_the_same() {
    let world = World::new();
    let store = Arc::new(world.store(&[world.file("a.jsonl", &numbered(50))]).unwrap());
    let order = Order { len: 50, shuffle: true, seed: 5 };
    let batches = load(&world, &store, order, (1, 16));
    assert_eq!(batches.iter().map(|b| b.step).collect::<Vec<_>>(), (1..=16).collect::<Vec<_>>());
    let sizes: Vec<usize> = batches.iter().map(|b| b.lists.len()).collect();
    assert_eq!(sizes, [[7, 7, 7, 7, 7, 7, 7, 1], [7, 7, 7, 7, 7, 7, 7, 1]].concat());
    assert_eq!((batches[7].epoch, batches[15].epoch), (1.0, 2.0));
    let epoch =
        |batches: &[Batch]| batches.iter().flat_map(|b| &b.lists).map(|p| p.index).collect::<Vec<_>>();
    let (first, second) = (epoch(&batches[..8]), epoch(&batches[8..]));
    assert_ne!(first, second);
    for items in [first, second] {
        assert_eq!(items.into_iter().collect::<BTreeSet<_>>(), (0..50).collect());
    }
    let later = load(&world, &store, order, (6, 16));
    assert_eq!(later, batches[5..]);
    assert_eq!(load(&world, &store, order, (17, 16)), []);
}

#[test]
fn a_loader_reads_ahead_within_bounds_and_stops_when_dropped() {
    let world = World::new();
    let store = Arc::new(world.store(&[world.file("a.jsonl", &numbered(5000))]).unwrap());
    let before = world.encoder.encoded.load(Ordering::Relaxed);
    let order = Order { len: 5000, shuffle: true, seed: 5 };
    let mut loader = Loader::start(store, world.encoder.clone(), order, 10, 1, 500).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().step, 1);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let started = std::time::Instant::now();
    drop(loader);
    assert!(started.elapsed().as_secs() < 5);
    // The step that was taken, those that are held ready and one in the making, of 10 pairs each.
    let encoded = world.encoder.encoded.load(Ordering::Relaxed) - before;
    assert!(encoded <= 2 * 10 * 7, "{encoded}");
}

#[test]
fn damage_on_disk_comes_in_the_place_of_its_step_and_ends_the_loading() {
    let world = World::new();
    let store = Arc::new(world.store(&[world.file("a.jsonl", &numbered(40))]).unwrap());
    let spool = world.folder.path().join("store/pairs.spool");
    let mut bytes = fs::read(&spool).unwrap();
    let at = bytes.windows(9).position(|w| w == b"prompt 25").unwrap();
    bytes[at..at + 9].fill(0);
    // Written in place: the store has the file open.
    let mut file = fs::File::options().write(true).open(&spool).unwrap();
    file.write_all(&bytes).unwrap();
    let order = Order { len: 40, shuffle: false, seed: 0 };
    let loader = Loader::start(store, world.encoder.clone(), order, 10, 1, 4).unwrap();
    let steps: Vec<_> = loader.map(|b| b.map(|b| b.step).map_err(|e| e.to_string())).collect();
    assert_eq!((&steps[..2], steps.len()), (&[Ok(1), Ok(2)][..], 3));
    assert!(steps[2].as_ref().unwrap_err().contains("example 25"), "{:?}", steps[2]);
}

/// Where real data sets lie, if they do.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("RMTRAIN_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    folder.join("data").is_dir().then_some(folder)
}

#[test]
fn real_data_sets_are_read() {
    let Some(shared) = shared() else {
        eprintln!("skipped: no folder of shared data (RMTRAIN_SHARED)");
        return;
    };
    let mut world = World::new();
    world.preparation.max_length = 1 << 20;
    for (name, rows, pairs, dropped) in [
        (
            "ultrafeedback_pairs.jsonl",
            1000,
            884,
            vec![(DropReason::Empty, 2), (DropReason::Identical, 4), (DropReason::Tied, 110)],
        ),
        ("sharegpt_pairs.json", 300, 300, vec![]),
        ("stack_exchange_paired_tiny.json", 25, 25, vec![]),
    ] {
        let store = world.store(&[SourceFile::local(shared.join("data").join(name))]).unwrap();
        let report = store.report();
        assert_eq!((report.rows, report.pairs), (rows, pairs), "{name}: {report}");
        assert_eq!(report.dropped, dropped.into_iter().collect(), "{name}");
    }
    for (name, rows, responses) in [
        ("alpaca_eval_17models.jsonl", 483, 17),
        ("rm_bench_chat.json", 129, 6),
        ("ultrafeedback_raw_row_ratings_only.json", 1, 4),
    ] {
        let examples: Vec<_> = Rows::of_file(&shared.join("data").join(name))
            .unwrap()
            .map(|row| row.unwrap().example("overall_score").unwrap())
            .collect();
        assert_eq!(examples.len(), rows, "{name}");
        assert!(examples.iter().all(|e| e.responses.len() == responses), "{name}");
        assert!(examples.iter().flat_map(|e| &e.responses).all(|r| r.score.is_some()), "{name}");
    }
}

#[test]
fn real_texts_have_the_ids_that_their_tokenizer_gives() {
    let Some(shared) = shared() else {
        eprintln!("skipped: no folder of shared data (RMTRAIN_SHARED)");
        return;
    };
    let mut texts = Vec::new();
    for name in ["ultrafeedback_pairs.jsonl", "sharegpt_pairs.json", "alpaca_eval_17models.jsonl"] {
        for row in Rows::of_file(&shared.join("data").join(name)).unwrap().take(200) {
            let example = row.unwrap().example("overall_score").unwrap();
            let messages = example.responses.into_iter().take(4).flat_map(|response| response.messages);
            texts.extend(messages.map(|message| message.content));
        }
    }
    for name in ["qwen2.5", "llama3"] {
        let folder = shared.join("tokenizers").join(name);
        let reference = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::load(&folder, &ChatTemplateSource::Auto, None).unwrap();
        for text in &texts {
            let expected = reference.encode_fast(text.as_str(), false).unwrap();
            assert!(tokenizer.encode_text(text).unwrap() == expected.get_ids(), "{name}: {text}");
        }
    }
}
