//! Rows: through `score`, which names the line that it could not read.

use super::models::{SCORE, bench};
use rmtrain::Result;
use rmtrain::data::Rows;
use std::io::Write;

/// What stands in line 2, after a sound row, and what the message must hold besides `rows.jsonl:2`.
const LINES: &[(&str, &[u8], &[&str])] = &[
    ("no JSON", b"hello", &[]),
    ("half an object", b"{\"prompt\": \"hello\", \"resp", &[]),
    ("two objects", b"{\"prompt\": \"a\", \"response\": \"b\"} {}", &[]),
    ("a number", b"42", &[]),
    ("an array", b"[1, 2, 3]", &[]),
    ("a string", b"\"hello\"", &[]),
    ("nothing to score", b"{\"question\": \"hello\"}", &["question"]),
    ("an empty object", b"{}", &[]),
    ("a response that is a number", b"{\"prompt\": \"hello\", \"response\": 4}", &[]),
    ("a prompt that is an object", b"{\"prompt\": {\"a\": 1}, \"response\": \"yes\"}", &[]),
    ("messages without roles", b"{\"messages\": [{\"content\": \"hello\"}]}", &["role"]),
    ("messages that are no list", b"{\"messages\": 3}", &[]),
    ("responses that are no list", b"{\"prompt\": \"hello\", \"responses\": \"yes\"}", &["responses"]),
    ("chosen without rejected", b"{\"prompt\": \"hello\", \"chosen\": \"yes\"}", &["chosen"]),
    (
        "completions without text",
        b"{\"instruction\": \"hello\", \"completions\": [{\"score\": 1}]}",
        &["response"],
    ),
    ("bytes that are no UTF-8", b"{\"prompt\": \"\xff\xfe\", \"response\": \"yes\"}", &[]),
    ("a NUL byte", b"{\"prompt\": \"a\0b\", \"response\": \"yes\"}", &[]),
    ("half a surrogate pair", b"{\"prompt\": \"\\ud800\", \"response\": \"yes\"}", &[]),
];

const SOUND: &[u8] = b"{\"prompt\": \"hello\", \"response\": \"world\"}\n";

#[test]
fn one_bad_line() {
    let bench = bench();
    for (case, line, needles) in LINES {
        bench.write("rows.jsonl", [SOUND, line, b"\n", SOUND].concat());
        let needles = [&["rows.jsonl:2"], *needles].concat();
        bench.refused(case, SCORE, b"", &needles);
    }
}

#[test]
fn one_bad_line_from_a_pipe() {
    let bench = bench();
    let arguments = ["score", "--model", "model", "--output", "out/kept.jsonl"];
    let input = [SOUND, b"oops\n"].concat();
    bench.refused("stdin", &arguments, &input, &["stdin:2"]);
}

#[test]
fn lines_that_nest_without_end() {
    let bench = bench();
    let deep = format!("{{\"prompt\": {}", "[".repeat(1_000_000));
    bench.write("rows.jsonl", [SOUND, deep.as_bytes()].concat());
    bench.refused("deep nesting", SCORE, b"", &["rows.jsonl:2"]);
}

#[test]
fn a_conversation_that_is_too_long() {
    let bench = bench();
    let long = "hello ".repeat(100);
    bench.write("rows.jsonl", format!("{{\"prompt\": \"{long}\", \"response\": \"yes\"}}\n"));
    bench.refused("too long", SCORE, b"", &["rows.jsonl:1", "64"]);
}

#[test]
fn files_that_are_cut_or_are_none() {
    let bench = bench();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&SOUND.repeat(1000)).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&SOUND.repeat(1000)[..], 0).unwrap();
    let cases: &[(&str, &[u8])] =
        &[("rows.jsonl.gz", &gzip[..gzip.len() / 2]), ("rows.jsonl.zst", &zstd[..zstd.len() / 2])];
    for (name, bytes) in cases {
        bench.write(name, bytes);
        let arguments = ["score", "--model", "model", "--input", name, "--output", "out/kept.jsonl"];
        bench.refused(name, &arguments, b"", &[name]);
    }
    for (name, needle) in [("missing.jsonl", "missing.jsonl"), ("out", "found a folder")] {
        let arguments = ["score", "--model", "model", "--input", name, "--output", "out/kept.jsonl"];
        bench.refused(name, &arguments, b"", &[needle]);
    }
}

/// The decoder panics on some of these; nobody may see that.
#[test]
fn parquet_with_a_changed_byte() {
    let bench = bench();
    crate::data::parquet_file(&bench.at("sound.parquet"));
    let whole = std::fs::read(bench.at("sound.parquet")).unwrap();
    let arguments = ["score", "--model", "model", "--input", "rows.parquet", "--output", "out/kept.jsonl"];
    let mut panics = 0;
    for at in (4..whole.len()).step_by(23) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        bench.write("rows.parquet", &damaged);
        // Text has no checksum, so some damage reads as other rows, and they would be scored.
        let rows = Rows::of_file(&bench.at("rows.parquet"))
            .and_then(|rows| rows.map(|row| row?.example("overall_score")).collect::<Result<Vec<_>>>());
        if let Err(error) = rows {
            panics += usize::from(error.to_string().contains("the decoder gave up"));
            bench.refused(&format!("byte {at}"), &arguments, b"", &["rows.parquet"]);
        }
    }
    assert!(panics > 0, "no damage reached a panic of the decoder");
}

#[test]
fn the_input_is_not_the_output() {
    let bench = bench();
    let arguments = ["score", "--model", "model", "--input", "out/kept.jsonl", "--output", "out/kept.jsonl"];
    bench.refused("input is output", &arguments, b"", &["kept.jsonl"]);
}
