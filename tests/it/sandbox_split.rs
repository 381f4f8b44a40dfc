//! `sandbox` and `split` through the library: what they write, twice the same, and what they refuse.

use predicates::prelude::*;
use predicates::str::contains;
use rmtrain::Error;
use rmtrain::data::config::SandboxConfig;
use rmtrain::data::sandbox;
use rmtrain::data::source::SourceFile;
use rmtrain::data::split::{self, Heldout, MANIFEST, Manifest, SplitConfig};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("reads");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Every file below a folder, by relative path.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("reads") {
            let path = entry.expect("reads").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("is below").to_path_buf();
                found.insert(name, fs::read(&path).expect("reads"));
            }
        }
    }
    found
}

fn config(seed: u64) -> SandboxConfig {
    SandboxConfig { seed, prompts: 200 }
}

#[test]
fn a_sandbox_is_a_function_of_its_seed() {
    let root = tempfile::tempdir().expect("a folder");
    let write = |name: &str, seed| {
        let out = root.path().join(name);
        sandbox::write(&out, config(seed)).expect("written");
        contents(&out)
    };
    let (a, b, other) = (write("a", 1), write("deeper/b", 1), write("c", 2));
    assert_eq!(a, b);
    assert_ne!(a[Path::new("world.jsonl")], other[Path::new("world.jsonl")]);
    let tokenizer = Path::new("tokenizer/tokenizer.json");
    assert_eq!(a[tokenizer], other[tokenizer], "one tokenizer for all seeds");
    let names: Vec<&str> = a.keys().filter_map(|name| name.to_str()).collect();
    assert_eq!(
        names,
        [
            "sandbox.json",
            "splits/in-domain.jsonl",
            "splits/manifest.json",
            "splits/mutual-disjoint.jsonl",
            "splits/prompt-disjoint.jsonl",
            "splits/response-disjoint.jsonl",
            "splits/train.jsonl",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "world.jsonl",
        ]
    );
}

#[test]
fn a_sandbox_is_reused_only_when_it_is_whole_and_the_same() {
    let root = tempfile::tempdir().expect("a folder");
    let out = root.path().join("box");
    assert!(!sandbox::write(&out, config(1)).expect("written").reused);
    let again = sandbox::write(&out, config(1)).expect("reused");
    assert!(again.reused && again.prompts == 200 && again.responses == 1600 && again.sets.len() == 5);
    let refused = |config| sandbox::write(&out, config).expect_err("refused").to_string();
    assert!(refused(config(2)).contains("seed 1, 200 prompts"));
    assert!(refused(SandboxConfig { seed: 1, prompts: 5 }).contains("expected 20 to 100000"));
    let world = out.join("world.jsonl");
    let cut = fs::read(&world).expect("reads");
    fs::write(&world, &cut[..cut.len() / 2]).expect("written");
    assert!(refused(config(1)).contains("world.jsonl is missing or was changed"));
    fs::write(out.join("sandbox.json"), "{").expect("written");
    assert!(refused(config(1)).contains("not a sandbox's stamp"));
    fs::remove_file(out.join("sandbox.json")).expect("removed");
    assert!(refused(config(1)).contains("holds no sandbox.json"));
}

#[test]
fn a_stamp_does_not_lead_out_of_its_folder() {
    let root = tempfile::tempdir().expect("a folder");
    let out = root.path().join("box");
    sandbox::write(&out, config(1)).expect("written");
    let path = out.join("sandbox.json");
    let mut stamp: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
    stamp["sha256"]["../../etc/passwd"] = json!("0");
    fs::write(&path, stamp.to_string()).expect("written");
    assert!(matches!(sandbox::write(&out, config(1)), Err(Error::Data { .. })));
}

#[test]
fn the_sandbox_sets_hold_what_their_names_say() {
    let root = tempfile::tempdir().expect("a folder");
    let report = sandbox::write(&root.path().join("box"), config(3)).expect("written");
    let set = |name: &str| rows(&report.splits.join(format!("{name}.jsonl")));
    let heldout_model = |model: &Value| model.as_str().is_some_and(|m| m.starts_with("heldout-"));
    for name in ["train", "in-domain"] {
        for row in set(name) {
            assert!(!heldout_model(&row["chosen-model"]) && !heldout_model(&row["rejected-model"]));
            assert!(row["chosen-rating"].as_f64() > row["rejected-rating"].as_f64());
            let gold = |side: &str| {
                let text = |key: &str| row[key].as_str().expect("text").to_owned();
                sandbox::gold::gold(&text("prompt"), &text(side))
            };
            assert_eq!(gold("chosen"), row["chosen-rating"].as_f64());
            assert_eq!(gold("rejected"), row["rejected-rating"].as_f64());
        }
    }
    for (name, heldout) in
        [("prompt-disjoint", false), ("response-disjoint", true), ("mutual-disjoint", true)]
    {
        for row in set(name) {
            let models = row["models"].as_array().expect("a list");
            assert!(models.iter().all(|m| heldout_model(m) == heldout), "{name}");
            assert!(models.len() >= 2);
            assert_eq!(models.len(), row["responses"].as_array().expect("a list").len());
            assert_eq!(models.len(), row["scores"].as_array().expect("a list").len());
        }
    }
    let ids = |name: &str| -> BTreeSet<String> { set(name).iter().map(|r| r["id"].to_string()).collect() };
    assert!(ids("train").is_disjoint(&ids("mutual-disjoint")));
    assert!(ids("response-disjoint").is_subset(&ids("train")));
    assert!(set("train").len() > 140 && set("prompt-disjoint").len() > 30);
}

/// Rows by eight models, where the gold of model i is i.
fn input(folder: &Path, prompts: usize) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let text: Vec<String> = (0..prompts)
        .map(|p| {
            let completions: Vec<Value> = (0..8)
                .map(|m| json!({ "model": format!("m{m}"), "response": format!("{p} by {m}"), "overall_score": m }))
                .collect();
            json!({ "instruction": format!("Prompt {p}?"), "source": "s", "completions": completions }).to_string()
        })
        .collect();
    fs::write(&path, text.join("\n")).expect("written");
    path
}

fn valid(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|n| (*n).to_owned()).collect())
}

fn manifest(folder: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(folder.join(MANIFEST)).expect("reads")).expect("a manifest")
}

#[test]
fn a_split_counts_and_hashes_what_it_wrote() {
    let root = tempfile::tempdir().expect("a folder");
    let path = input(root.path(), 50);
    let out = root.path().join("out");
    let split_config =
        SplitConfig { valid_models: valid(&["m0", "m7"]), ..SplitConfig::new(vec![SourceFile::local(path)]) };
    let written = split::write(&out, &split_config).expect("split");
    assert_eq!(written, manifest(&out));
    let counts: Vec<u64> = written.outputs.iter().map(|o| o.rows).collect();
    assert_eq!(counts, [40, 40, 10, 40, 10]);
    for output in &written.outputs {
        assert_eq!(rows(&out.join(&output.file)).len() as u64, output.rows);
        assert_eq!(output.sha256.len(), 64);
    }
    assert_eq!(written.inputs[0].file, "rows.jsonl");
    assert_eq!(written.training_models, ["m1", "m2", "m3", "m4", "m5", "m6"]);
    assert!(written.leakage.len() == 8 && written.leakage.values().all(|&n| n == 0));
    for row in rows(&out.join("prompt-disjoint.jsonl")) {
        assert_eq!(row["models"].as_array().map(Vec::len), Some(4), "four of the six are drawn");
    }
    let before = contents(&out);
    split::write(&out, &split_config).expect("an earlier split may be replaced");
    assert_eq!(contents(&out), before);
}

#[test]
fn adding_rows_leaves_the_draws_of_the_others() {
    let root = tempfile::tempdir().expect("a folder");
    let pairs = |prompts: usize| -> BTreeMap<String, String> {
        let out = root.path().join(format!("out{prompts}"));
        let path = input(root.path(), prompts);
        split::write(
            &out,
            &SplitConfig {
                valid_models: valid(&["m0", "m7"]),
                ..SplitConfig::new(vec![SourceFile::local(path)])
            },
        )
        .expect("split");
        rows(&out.join("train.jsonl")).iter().map(|r| (r["prompt"].to_string(), r.to_string())).collect()
    };
    let (few, many) = (pairs(40), pairs(80));
    let shared = few.iter().filter(|&(prompt, row)| many.get(prompt) == Some(row)).count();
    let both = few.keys().filter(|prompt| many.contains_key(*prompt)).count();
    assert!(both > 20 && shared == both, "{shared} of {both}");
}

#[test]
fn without_valid_models_four_are_drawn_by_the_seed() {
    let root = tempfile::tempdir().expect("a folder");
    let path = input(root.path(), 30);
    let models = |seed: u64| {
        let out = root.path().join(format!("{seed}"));
        split::write(&out, &SplitConfig { seed, ..SplitConfig::new(vec![SourceFile::local(&path)]) })
            .expect("split")
            .valid_models
    };
    assert_eq!(models(1).len(), 4);
    assert!((2..9).any(|seed| models(seed) != models(1)));
}

#[test]
fn what_cannot_be_split_is_refused_with_its_place() {
    let root = tempfile::tempdir().expect("a folder");
    let path = input(root.path(), 20);
    let out = root.path().join("out");
    let base = SplitConfig {
        valid_models: valid(&["m0", "m7"]),
        ..SplitConfig::new(vec![SourceFile::local(&path)])
    };
    let refused = |config: SplitConfig| split::write(&out, &config).expect_err("refused");
    let unknown = refused(SplitConfig { valid_models: valid(&["m0", "gpt"]), ..base.clone() });
    assert!(unknown.to_string().contains("`gpt`") && unknown.to_string().contains("m0, m1"), "{unknown}");
    let count = refused(SplitConfig { heldout_prompts: Heldout::Count(20), ..base.clone() });
    assert!(count.to_string().contains("fewer than the 20 usable rows"), "{count}");
    refused(SplitConfig { valid_models: valid(&["m0", "m0"]), ..base.clone() });
    refused(SplitConfig { responses_per_prompt: 1, ..base.clone() });
    refused(SplitConfig { inputs: Vec::new(), ..base.clone() });
    refused(SplitConfig { heldout_prompts: Heldout::Fraction(f64::NAN), ..base.clone() });
    assert_eq!(
        refused(SplitConfig {
            inputs: vec![SourceFile::local(root.path().join("none.jsonl"))],
            ..base.clone()
        })
        .exit_code(),
        2
    );
    let unscored = refused(SplitConfig { score_field: "gold".into(), ..base.clone() });
    assert!(unscored.to_string().contains("too-few-responses"), "{unscored}");
    let bad = root.path().join("bad.jsonl");
    fs::write(&bad, "{\"instruction\": \"x\", \"completions\": []}\n{\"instr").expect("written");
    let error = refused(SplitConfig { inputs: vec![SourceFile::local(bad)], ..base.clone() });
    assert!(error.to_string().contains("bad.jsonl:2:") && error.exit_code() == 2, "{error}");
    assert!(!out.exists(), "a refusal writes nothing");
    fs::create_dir(&out).expect("created");
    fs::write(out.join("mine.txt"), "precious").expect("written");
    refused(base.clone());
    fs::remove_file(out.join("mine.txt")).expect("removed");
    split::write(&out, &base).expect("an empty folder may be filled");
    fs::write(out.join("mine.txt"), "precious").expect("written");
    assert!(refused(base).to_string().contains("mine.txt"));
    assert!(out.join("mine.txt").exists() && out.join("train.jsonl").exists());
}

#[test]
fn heldout_is_a_share_or_a_count() {
    assert_eq!("0.2".parse(), Ok(Heldout::Fraction(0.2)));
    assert_eq!("500".parse(), Ok(Heldout::Count(500)));
    for text in ["0", "-1", "1.5", "1.0", "nan", "inf", "", "half", "1e-400"] {
        assert!(text.parse::<Heldout>().is_err(), "{text}");
    }
}

fn rmtrain(folder: &Path, arguments: &[&str]) -> assert_cmd::assert::Assert {
    assert_cmd::Command::cargo_bin("rmtrain").expect("built").current_dir(folder).args(arguments).assert()
}

#[test]
fn the_verbs_write_files_and_leave_stdout_empty() {
    let root = tempfile::tempdir().expect("a folder");
    let sandbox = ["sandbox", "--out", "box", "--prompts", "60", "--seed", "4"];
    rmtrain(root.path(), &sandbox).success().stdout("").stderr(contains("hint:").and(contains("box/splits")));
    rmtrain(root.path(), &sandbox).success().stderr(contains("complete already"));
    // The sandbox's own split is the one that the command makes with the held-out generators.
    let valid = "heldout-brook, heldout-creek,heldout-ford,heldout-mere";
    let split =
        ["split", "--input", "b*x/world.jsonl", "--out", "again", "--valid-models", valid, "--seed", "4"];
    // Its prompts are templates, near-duplicates all.
    let split = [&split[..], &["--near-duplicates", "off"]].concat();
    rmtrain(root.path(), &split).success().stdout("").stderr(contains("no leak found"));
    assert_eq!(contents(&root.path().join("again")), contents(&root.path().join("box/splits")));
    let left: BTreeSet<_> =
        fs::read_dir(root.path()).expect("reads").map(|e| e.expect("reads").file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary folder stays behind: {left:?}");
}

#[test]
fn the_verbs_name_what_is_wrong() {
    let root = tempfile::tempdir().expect("a folder");
    let refused = |arguments: &[&str], message: &str| {
        rmtrain(root.path(), arguments).code(2).stdout("").stderr(contains(message.to_owned()));
    };
    refused(&["sandbox"], "--out");
    refused(&["sandbox", "--out", "x", "--prompts", "3"], "found 3 prompts, expected 20 to 100000");
    refused(&["sandbox", "--out", "x", "--seed", "x"], "--seed");
    refused(&["split", "--input", "none.jsonl", "--out", "x"], "none.jsonl");
    refused(&["split", "--input", "none*.jsonl", "--out", "x"], "none*.jsonl");
    input(root.path(), 20);
    let split = ["split", "--input", "rows.jsonl", "--out", "x"];
    let with = |flag: &'static str, value: &'static str| [&split[..], &[flag, value]].concat();
    refused(
        &with("--heldout-prompts", "1.5"),
        "expected a share between 0 and 1 (0.2) or a number of prompts",
    );
    refused(&with("--valid-models", "m1,nobody"), "nobody");
    refused(&with("--valid-models", ""), "distinct names");
    refused(&with("--responses-per-prompt", "1"), "expected 2 to 64");
    refused(&with("--score-field", "stars"), "too-few-responses");
    fs::write(root.path().join("file"), "").expect("written");
    rmtrain(root.path(), &["split", "--input", "rows.jsonl", "--out", "file"])
        .failure()
        .stderr(contains("file"));
    assert!(!root.path().join("x").exists());
}

#[test]
fn real_rows_by_seventeen_models_are_split() {
    let shared = std::env::var_os("RMTRAIN_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = shared.join("data/alpaca_eval_17models.jsonl");
    if !path.is_file() {
        eprintln!("skipped: {} is absent", path.display());
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    let written = split::write(&root.path().join("out"), &SplitConfig::new(vec![SourceFile::local(path)]))
        .expect("split");
    assert_eq!(written.counts.rows_read, 483);
    let dropped: u64 = written.dropped.rows.values().sum();
    assert_eq!(written.counts.rows_usable + dropped, 483);
    assert_eq!(written.counts.heldout_prompts, (written.counts.rows_usable as f64 * 0.2).round() as u64);
    assert_eq!(written.training_models.len(), 13);
}
