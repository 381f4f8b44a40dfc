//! `rmtrain split` through the binary: files joined by prompt, near-duplicates on one side, the leakage report and its
//! exit codes, the preset against a loopback hub, an interrupt.

use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("reads");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn write_rows(path: &Path, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, lines.concat()).expect("written");
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).expect("reads")).expect("JSON")
}

fn rmtrain(folder: &Path, arguments: &[&str]) -> assert_cmd::assert::Assert {
    assert_cmd::Command::cargo_bin("rmtrain").expect("built").current_dir(folder).args(arguments).assert()
}

/// A prompt of 30 words that no other number has.
fn prompt(number: usize) -> String {
    (0..30)
        .map(|word| format!("w{}", (number * 7919 + word * word * 31 + word) % 10_007))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The prompt with one word changed: a Jaccard similarity of 0.81 in 3-grams.
fn near(number: usize) -> String {
    let prompt = prompt(number);
    let (start, last) = prompt.rsplit_once(' ').expect("words");
    let (start, middle) = start.split_at(start.len() / 2);
    let (_, middle) = middle.split_once(' ').expect("words");
    format!("{start}changed {middle} {last}")
}

/// A row by the models `a` to `d`, where later ones are better.
fn row(prompt: &str) -> Value {
    let completions: Vec<Value> = (["a", "b", "c", "d"].iter().enumerate())
        .map(|(score, model)| json!({ "model": model, "response": format!("{model} on {prompt}"), "overall_score": score }))
        .collect();
    json!({ "instruction": prompt, "completions": completions })
}

/// One scored response in a row of its own.
fn single(prompt: &str, model: &str, score: f64) -> Value {
    json!({ "prompt": prompt, "response": format!("{model} on {prompt}"), "score": score, "model": model })
}

#[test]
fn files_are_joined_by_prompt_and_repeated_prompts_within_a_file_are_not() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |name: &str| root.path().join(name);
    let mut base: Vec<Value> = (0..20).map(|n| row(&prompt(n))).collect();
    base.push(row(&format!(" {}\n", prompt(3))));
    write_rows(&at("base.jsonl"), &base);
    // A file a new model, in an order of its own; `v` also answers a prompt twice and one that nobody else has.
    let mut v: Vec<Value> = (0..20).rev().map(|n| single(&prompt(n), "v", 0.5)).collect();
    v.push(single(&prompt(5), "v", 9.0));
    v.push(single("A prompt of its own", "v", 1.0));
    write_rows(&at("v.jsonl"), &v);
    // One file of k responses that answers for `w` and once more for `a`.
    let w = |n: usize| json!({ "instruction": prompt(n), "responses": ["w!", "again"], "scores": [n, 7], "models": ["w", "a"] });
    write_rows(
        &at("w.jsonl"),
        &(0..19)
            .map(w)
            .map(|mut row| {
                row["responses"][0] = json!(format!("w on {}", row["instruction"]));
                row
            })
            .collect::<Vec<_>>(),
    );
    let split = [
        "split",
        "--input",
        "base.jsonl",
        "--join",
        "v.jsonl",
        "w.jsonl",
        "--out",
        "out",
        "--valid-models",
        "v,w",
    ];
    rmtrain(root.path(), &split)
        .success()
        .stdout("")
        .stderr(contains("62 rows read, 39 joined, 20 usable").and(contains("20  rows of v.jsonl joined")));
    let found = manifest(&at("out"));
    let joined: Vec<&Value> =
        found["inputs"].as_array().expect("a list").iter().map(|input| &input["joined"]).collect();
    assert_eq!(joined, [0, 20, 19]);
    // Twice in base, twice by v.
    assert_eq!(found["dropped"]["rows"], json!({ "duplicate-prompt": 2, "too-few-responses": 1 }));
    assert_eq!(found["dropped"]["responses"], json!({ "model-answered-before": 19 }));
    assert_eq!(found["training_models"], json!(["a", "b", "c", "d"]));
    let mut answered = BTreeMap::new();
    for name in ["response-disjoint", "mutual-disjoint"] {
        for row in rows(&at("out").join(format!("{name}.jsonl"))) {
            let prompt = row["prompt"].as_str().expect("text").to_owned();
            assert_eq!(row["models"], json!(["v", "w"]));
            assert_eq!(row["responses"][0], format!("v on {prompt}"));
            answered.insert(prompt, row["scores"].clone());
        }
    }
    // Prompt 19 has only one valid model's response.
    assert_eq!(answered.len(), 19);
    assert_eq!(answered[&prompt(5)], json!([0.5, 5.0]));
    let missing: u64 =
        found["dropped"]["from_sets"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
    assert_eq!(missing, 1);
    for row in rows(&at("out/train.jsonl")) {
        assert_ne!(row["chosen"], "again");
    }
}

#[test]
fn single_responses_of_one_file_join_as_a_table_in_long_form() {
    let root = tempfile::tempdir().expect("a folder");
    let models = ["a", "b", "c", "d", "v", "w"];
    let all = (0..12).flat_map(|n| {
        models.iter().enumerate().map(move |(score, model)| single(&prompt(n), model, score as f64))
    });
    write_rows(&root.path().join("long.jsonl"), &all.collect::<Vec<_>>());
    let split =
        ["split", "--input", "long.jsonl", "--out", "out", "--valid-models", "v,w", "--heldout-prompts", "4"];
    rmtrain(root.path(), &split).success();
    let found = manifest(&root.path().join("out"));
    assert_eq!(found["counts"]["rows_usable"], 12);
    assert_eq!(
        found["outputs"].as_array().expect("a list").iter().map(|o| o["rows"].as_u64()).collect::<Vec<_>>(),
        [8, 8, 4, 8, 4].map(Some)
    );
}

#[test]
fn near_duplicates_lie_on_one_side_and_the_count_is_met() {
    let root = tempfile::tempdir().expect("a folder");
    let mut all: Vec<Value> = (0..60).map(|n| row(&prompt(n))).collect();
    all.extend((0..20).map(|n| row(&near(n))));
    all.extend((0..5).map(|n| row(&prompt(n).to_uppercase())));
    write_rows(&root.path().join("rows.jsonl"), &all);
    let heldout = |out: &str, threads: &str, arguments: &[&str]| -> BTreeSet<String> {
        let split = [
            "split",
            "--input",
            "rows.jsonl",
            "--out",
            out,
            "--valid-models",
            "d",
            "--heldout-prompts",
            "25",
        ];
        let mut command = assert_cmd::Command::cargo_bin("rmtrain").expect("built");
        command.current_dir(root.path()).env("RAYON_NUM_THREADS", threads);
        command.args([&split[..], arguments].concat()).assert().success();
        let set = rows(&root.path().join(out).join("prompt-disjoint.jsonl"));
        set.iter().map(|row| row["prompt"].as_str().expect("text").to_owned()).collect()
    };
    let together = heldout("one", "1", &[]);
    assert_eq!(together.len(), 25);
    for n in 0..20 {
        assert_eq!(together.contains(&prompt(n)), together.contains(&near(n)), "{n}");
    }
    for n in 0..5 {
        assert_eq!(together.contains(&prompt(n)), together.contains(&prompt(n).to_uppercase()), "{n}");
    }
    let found = &manifest(&root.path().join("one"))["near_duplicates"];
    assert_eq!(*found, json!({ "threshold": 0.7, "clusters": 20, "prompts": 45, "largest": 3 }));
    assert_eq!(heldout("two", "3", &[]), together, "threads change nothing");
    assert_eq!(manifest(&root.path().join("two")), manifest(&root.path().join("one")));
    let apart = heldout("off", "2", &["--near-duplicates", "off"]);
    assert!((0..20).any(|n| apart.contains(&prompt(n)) != apart.contains(&near(n))));
    assert_eq!(manifest(&root.path().join("off"))["near_duplicates"]["clusters"], 5);
    // What was asked to be off is not checked, unless it is asked for again.
    rmtrain(root.path(), &["split", "--check", "off"]).success();
    rmtrain(root.path(), &["split", "--check", "off", "--near-duplicates", "0.7"])
        .code(1)
        .stderr(contains("near-duplicate-training-prompts-in-heldout-sets: "));
    let strict = ["split", "--input", "rows.jsonl", "--out", "x", "--near-duplicates", "0.2"];
    rmtrain(root.path(), &strict)
        .code(2)
        .stderr(contains("expected a Jaccard similarity from 0.3 to 1, or off"));
}

#[test]
fn clusters_are_held_out_as_closely_as_they_permit() {
    let root = tempfile::tempdir().expect("a folder");
    // Pairs of look-alikes only: seven cannot be met, six or eight can.
    let all: Vec<Value> = (0..10).flat_map(|n| [row(&prompt(n)), row(&prompt(n).to_uppercase())]).collect();
    write_rows(&root.path().join("rows.jsonl"), &all);
    let split =
        ["split", "--input", "rows.jsonl", "--out", "out", "--valid-models", "d", "--heldout-prompts"];
    for (wanted, found) in [("1", 2), ("6", 6), ("7", 6), ("19", 18)] {
        rmtrain(root.path(), &[&split[..], &[wanted]].concat()).success();
        assert_eq!(manifest(&root.path().join("out"))["counts"]["heldout_prompts"], found, "{wanted}");
    }
    let alike: Vec<Value> = (0..10).map(|n| row(&format!("{}{}", prompt(1), "!".repeat(n)))).collect();
    write_rows(&root.path().join("alike.jsonl"), &alike);
    rmtrain(root.path(), &["split", "--input", "alike.jsonl", "--out", "x", "--valid-models", "d"])
        .code(2)
        .stderr(contains("too much alike to hold out 2 of 10"));
}

/// A folder with a sound split of 60 prompts by `a` to `d`, `v` and `w`.
fn sound() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    let all: Vec<Value> = (0..60)
        .map(|n| {
            let mut row = row(&prompt(n));
            let valid = ["v", "w"].map(|model| json!({ "model": model, "response": format!("{model} on {n}"), "overall_score": model.len() as f64 + n as f64 }));
            row["completions"].as_array_mut().expect("a list").extend(valid);
            row
        })
        .collect();
    write_rows(&root.path().join("rows.jsonl"), &all);
    rmtrain(root.path(), &["split", "--input", "rows.jsonl", "--out", "out", "--valid-models", "v,w"])
        .success();
    root
}

/// Runs `--check` on the folder's split: its JSON and what it says on stderr.
fn check(root: &Path, code: i32) -> (Value, String) {
    let assert = rmtrain(root, &["split", "--check", "out"]).code(code);
    let output = assert.get_output();
    let report = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    (report, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The checks of a report that found something.
fn failed(report: &Value) -> Vec<String> {
    let checks = report["checks"].as_object().expect("checks").iter();
    checks.filter(|(_, found)| found["found"] != 0).map(|(name, _)| name.clone()).collect()
}

#[test]
fn a_sound_split_passes_its_check() {
    let root = sound();
    let (report, stderr) = check(root.path(), 0);
    assert_eq!((&report["sound"], failed(&report).len()), (&json!(true), 0));
    assert_eq!(report["rows"]["train"], 48);
    assert_eq!(report["valid_models"], json!(["v", "w"]));
    assert_eq!(report["near_duplicates"], 0.7);
    let checks = report["checks"].as_object().expect("checks");
    assert!(
        checks.len() == 9 && checks.values().all(|found| found["checked"].as_u64() > Some(0)),
        "{checks:?}"
    );
    assert!(stderr.contains("no leak found in out"), "{stderr}");
}

#[test]
fn a_planted_leak_fails_the_check_and_is_named() {
    // What is done to the training rows, given the held-out prompts' rows and the held-out models'.
    type Edit<'a> = &'a dyn Fn(&mut Vec<Value>, &[Value], &[Value]);
    let plant = |edit: Edit| {
        let root = sound();
        let path = root.path().join("out/train.jsonl");
        let mut train = rows(&path);
        let heldout = rows(&root.path().join("out/prompt-disjoint.jsonl"));
        let valid = rows(&root.path().join("out/response-disjoint.jsonl"));
        edit(&mut train, &heldout, &valid);
        write_rows(&path, &train);
        let (report, stderr) = check(root.path(), 1);
        assert_eq!(report["sound"], false);
        // The file is not the one of the manifest either.
        let mut failed = failed(&report);
        failed.retain(|name| name != "changed-outputs");
        assert_eq!(report["checks"]["changed-outputs"]["found"], 1);
        assert!(stderr.contains("train.jsonl: found SHA-256 "), "{stderr}");
        (failed, report, stderr)
    };
    let pair = |prompt: &Value| json!({ "prompt": prompt, "chosen": "x", "rejected": "y" });

    let (names, report, stderr) = plant(&|train, heldout, _| train.push(pair(&heldout[2]["prompt"])));
    // In both of the sets of held-out prompts.
    assert_eq!(names, ["training-prompts-in-heldout-sets"]);
    let examples = &report["checks"]["training-prompts-in-heldout-sets"]["examples"];
    assert_eq!(examples[0]["place"], json!({ "set": "train", "line": 49 }));
    assert_eq!(examples[0]["other"], json!({ "set": "prompt-disjoint", "line": 3 }));
    let beginning = examples[0]["prompt"].as_str().expect("text");
    assert!(beginning.starts_with('w') && beginning.ends_with("..") && beginning.len() == 62, "{beginning}");
    assert!(stderr.contains(&format!("train:49 and prompt-disjoint:3: \"{beginning}\"")), "{stderr}");

    let shouted = |heldout: &Value| json!(heldout["prompt"].as_str().expect("text").to_uppercase());
    let (names, ..) = plant(&|train, heldout, _| train.push(pair(&shouted(&heldout[0]))));
    assert_eq!(names, ["normalised-training-prompts-in-heldout-sets"]);

    let (names, report, _) = plant(&|train, heldout, _| {
        train.push(pair(&json!(format!("please {}", heldout[1]["prompt"].as_str().expect("text")))));
    });
    assert_eq!(names, ["near-duplicate-training-prompts-in-heldout-sets"]);
    let example = &report["checks"]["near-duplicate-training-prompts-in-heldout-sets"]["examples"][0];
    assert_eq!((&example["place"]["line"], &example["other"]["line"]), (&json!(49), &json!(2)));
    assert!(
        example["detail"].as_str().is_some_and(|detail| detail.starts_with("Jaccard similarity about 0.9"))
    );

    let (names, report, stderr) = plant(&|train, _, valid| {
        train[6]["chosen"] = json!(format!(" {}\n", valid[4]["responses"][1].as_str().expect("text")))
    });
    assert_eq!(names, ["train-responses-in-valid-sets"]);
    let example = &report["checks"]["train-responses-in-valid-sets"]["examples"][0];
    assert_eq!(example["place"], json!({ "set": "train", "line": 7 }));
    assert_eq!(example["other"], json!({ "set": "response-disjoint", "line": 5 }));
    assert!(stderr.contains("response of w"), "{stderr}");

    let (names, report, _) =
        plant(&|train, _, _| train.iter_mut().take(5).for_each(|row| row["chosen-model"] = json!("v")));
    assert_eq!(names, ["valid-models-in-training-sets"]);
    let found = &report["checks"]["valid-models-in-training-sets"];
    assert_eq!((&found["found"], found["examples"].as_array().map(Vec::len)), (&json!(5), Some(3)));
    assert_eq!(found["examples"][2]["place"], json!({ "set": "train", "line": 3 }));
}

#[test]
fn a_changed_file_is_a_check_of_its_own() {
    let root = sound();
    let path = root.path().join("out/in-domain.jsonl");
    let text = fs::read_to_string(&path).expect("reads");
    fs::write(&path, format!("{text}\n")).expect("written");
    assert_eq!(failed(&check(root.path(), 1).0), ["changed-outputs"]);
    fs::remove_file(&path).expect("removed");
    let (report, stderr) = check(root.path(), 1);
    assert_eq!(failed(&report), ["changed-outputs"]);
    assert!(stderr.contains("in-domain.jsonl: found no file, expected "), "{stderr}");
}

#[test]
fn sets_of_other_make_are_checked_without_a_manifest() {
    let root = sound();
    let out = root.path().join("out");
    fs::remove_file(out.join("manifest.json")).expect("removed");
    let (report, _) = check(root.path(), 0);
    assert_eq!(report["valid_models"], json!(["v", "w"]));
    assert_eq!(report["checks"]["changed-outputs"]["checked"], 0);
    // As the hub has them: numbered responses without models, conversations as pairs.
    let heldout: Vec<Value> = rows(&out.join("prompt-disjoint.jsonl"))
        .iter()
        .map(|row| json!({ "instruction": row["prompt"], "response_1_text": "x", "response_2_text": "y", "all_scores": [1, 2] }))
        .collect();
    write_rows(&out.join("prompt-disjoint.jsonl"), &heldout);
    check(root.path(), 0);
    let message = |role: &str, content: &Value| json!({ "role": role, "content": content });
    let leak = json!({ "chosen": [message("user", &heldout[0]["instruction"]), message("assistant", &json!("x"))],
        "rejected": [message("user", &heldout[0]["instruction"]), message("assistant", &json!("y"))] });
    write_rows(&out.join("train.jsonl"), &[rows(&out.join("train.jsonl")), vec![leak]].concat());
    assert_eq!(failed(&check(root.path(), 1).0), ["training-prompts-in-heldout-sets"]);
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let root = sound();
    let out = root.path().join("out");
    let refused = |message: &str| {
        rmtrain(root.path(), &["split", "--check", "out"])
            .code(2)
            .stdout("")
            .stderr(contains(message.to_owned()));
    };
    rmtrain(root.path(), &["split", "--check", "none"]).code(2).stderr(contains("none: found no folder"));
    rmtrain(root.path(), &["split", "--check", "out", "--seed", "1"])
        .code(2)
        .stderr(contains("cannot be used with"));
    rmtrain(root.path(), &["split", "--out", "x"]).code(2).stderr(contains("--input"));
    let manifest = fs::read(out.join("manifest.json")).expect("reads");
    let mut hostile: Value = serde_json::from_slice(&manifest).expect("JSON");
    hostile["outputs"][0]["file"] = json!("../rows.jsonl");
    for (text, message) in [
        ("{", "manifest.json: not JSON"),
        ("{}", "expected \"format\": \"rmtrain-split\""),
        (r#"{"format": "rmtrain-split", "valid_models": 3}"#, "valid_models: expected a list of names"),
        (&hostile.to_string(), "outputs: expected the files of the sets"),
    ] {
        fs::write(out.join("manifest.json"), text).expect("written");
        refused(message);
    }
    fs::write(out.join("manifest.json"), manifest).expect("written");
    fs::write(out.join("train.jsonl"), "{\"prompt\": 1}\n").expect("written");
    refused("train.jsonl:1: ");
    fs::remove_file(out.join("train.jsonl")).expect("removed");
    refused("expected train.jsonl and at least one of");
}

/// Serves the files of one dataset as the hub does; its address.
fn serve(files: BTreeMap<String, Vec<u8>>) -> String {
    const COMMIT: &str = "3333333333333333333333333333333333333333";
    let server = tiny_http::Server::http("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", server.server_addr());
    std::thread::spawn(move || {
        for request in server.incoming_requests() {
            let header =
                |name: &str, value: &str| tiny_http::Header::from_bytes(name, value).expect("a header");
            let path = request.url().trim_start_matches("/api").to_owned();
            let file = |path: &str| files.get(path.rsplit_once('/')?.1).cloned();
            let body = match path.strip_prefix("/datasets/openbmb/UltraFeedback/") {
                Some(path) if path.starts_with("revision/") => {
                    let siblings: Vec<Value> =
                        files.keys().map(|name| json!({ "rfilename": name })).collect();
                    let body = json!({ "id": "openbmb/UltraFeedback", "_id": "x", "sha": COMMIT, "siblings": siblings,
                        "private": false, "tags": [], "downloads": 0, "likes": 0 });
                    Some(body.to_string().into_bytes())
                }
                Some(path) => file(path),
                None => None,
            };
            let status = if body.is_some() { 200 } else { 404 };
            let body = body.unwrap_or_default();
            let tag: String =
                Sha256::digest(&body).iter().take(20).map(|byte| format!("{byte:02x}")).collect();
            let mut response = tiny_http::Response::from_data(body).with_status_code(status);
            response.add_header(header("X-Repo-Commit", COMMIT));
            response.add_header(header("ETag", &format!("\"{tag}\"")));
            let _ = request.respond(response);
        }
    });
    address
}

#[test]
fn the_preset_takes_the_hubs_files_and_tells_where_sizes_differ() {
    let names = ["evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat"];
    // 10 prompts a file. Overall scores are all the same; ratings are what orders the responses.
    let rated = |n: usize| {
        let models = ["bard", "gpt-4", "mpt-30b-chat", "starchat", "alpaca-7b", "llama-2-7b-chat"];
        let completions: Vec<Value> = (models.iter().enumerate())
            .map(|(i, model)| {
                let rating = |add: usize| json!({ "Rating": ((i + add) % 6).to_string() });
                json!({ "model": model, "response": format!("{model} on {n}"), "overall_score": 1,
                    "annotations": { "helpfulness": rating(n), "honesty": rating(n), "truthfulness": { "Rating": "N/A" } } })
            })
            .collect();
        json!({ "instruction": prompt(n), "completions": completions })
    };
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (i, name) in names.iter().enumerate() {
        let mut rows: Vec<Value> = (10 * i..10 * i + 10).map(rated).collect();
        if i == 3 {
            // A prompt of another file: a duplicate, as the six are one table.
            rows.push(rated(0));
        }
        files.insert(
            format!("{name}.jsonl"),
            rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes(),
        );
    }
    let root = tempfile::tempdir().expect("a folder");
    let endpoint = serve(files);
    let new: Vec<Value> = (0..60)
        .flat_map(|n| ["gemma", "olmo"].map(|model| single(&prompt(n), model, model.len() as f64)))
        .collect();
    write_rows(&root.path().join("new.jsonl"), &new);
    let run = |arguments: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("rmtrain").expect("built");
        for (name, _) in std::env::vars() {
            if name.starts_with("HF_")
                || name.starts_with("HUGGING")
                || name.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(name);
            }
        }
        command
            .current_dir(root.path())
            .env("HF_HOME", root.path().join("home"))
            .env("HF_ENDPOINT", &endpoint);
        command.args([&["split", "--preset", "ultrafeedback", "--out", "out"], arguments].concat()).assert()
    };
    // The published number of held-out prompts is more than there are here.
    run(&[])
        .code(2)
        .stderr(contains("found 11082 prompts to hold out, expected fewer than the 60 usable rows"));

    let held = ["--heldout-prompts", "12"];
    run(&held).success().stderr(
        contains("rows: expected 63966, found 61")
            .and(contains("prompt-disjoint: expected 11082, found 12"))
            .and(contains("give their files with --join"))
            .and(contains("bard, gpt-4, mpt-30b-chat, starchat")),
    );
    let found = manifest(&root.path().join("out"));
    assert_eq!(found["dropped"]["rows"], json!({ "duplicate-prompt": 1 }));
    assert_eq!((&found["score_field"], &found["counts"]["rows_joined"]), (&json!("mean-rating"), &json!(0)));
    assert_eq!(found["preset"]["sizes"]["rows"], json!({ "expected": 63966, "found": 61 }));
    assert_eq!(found["inputs"][3]["file"], "sharegpt.jsonl");

    run(&[&held[..], &["--join", "new.jsonl"]].concat()).success().stderr(contains("--join").not());
    let found = manifest(&root.path().join("out"));
    assert_eq!(found["valid_models"], json!(["gemma", "olmo"]));
    assert_eq!(found["valid_models_chosen"], "those of the joined files");
    assert_eq!(found["preset"]["sizes"]["rows"]["found"], 61);
    let sets: Vec<&Value> = found["outputs"].as_array().expect("a list").iter().map(|o| &o["rows"]).collect();
    assert_eq!(sets, [48, 48, 12, 48, 12]);

    // What is given wins: the field (all tied), the models, the input.
    run(&[&held[..], &["--score-field", "overall_score"]].concat())
        .code(2)
        .stderr(contains("all-responses-tied"));
    run(&[&held[..], &["--valid-models", "bard"]].concat())
        .success()
        .stderr(contains("valid models (given): bard"));
    run(&["--input", "none.jsonl"]).code(2).stderr(contains("none.jsonl"));

    // As `label` leaves them: a reward model's scores beside the ratings, of which some tie.
    let labelled = |n: usize| {
        let mut row = rated(n);
        for (i, completion) in row["completions"].as_array_mut().expect("a list").iter_mut().enumerate() {
            completion["overall_score"] = json!(i as f64 / 8.0);
            if n.is_multiple_of(5) {
                completion["annotations"] = json!({ "honesty": { "Rating": "3" } });
            }
        }
        row
    };
    write_rows(&root.path().join("gold.jsonl"), &(0..60).map(labelled).collect::<Vec<_>>());
    let gold = [&held[..], &["--input", "gold.jsonl"]].concat();
    run(&gold)
        .success()
        .stderr(contains("12  rows all-responses-tied").and(contains("with --score-field overall_score")));
    run(&[&gold[..], &["--score-field", "overall_score"]].concat())
        .success()
        .stderr(contains("all-responses-tied").not());
    assert_eq!(manifest(&root.path().join("out"))["counts"]["rows_usable"], 60);
    rmtrain(root.path(), &["split", "--preset", "x", "--out", "y"])
        .code(2)
        .stderr(contains("expected ultrafeedback"));
}

#[test]
#[cfg(unix)]
fn a_pipe_is_refused_before_it_is_read() {
    let root = tempfile::tempdir().expect("a folder");
    let pipe = root.path().join("rows.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    rmtrain(root.path(), &["split", "--input", "rows.jsonl", "--out", "out"])
        .code(2)
        .stderr(contains("rows.jsonl: found a pipe or device, expected a file"));
    assert!(!root.path().join("out").exists());
}

/// An earlier split's manifest, read before any row, is a pipe that the test closes: so the interrupt comes before the
/// first row whatever the machine's speed.
#[test]
#[cfg(unix)]
fn an_interrupt_leaves_nothing_behind() {
    use std::process::{Command, Stdio};
    let root = tempfile::tempdir().expect("a folder");
    write_rows(&root.path().join("rows.jsonl"), &[row("a prompt")]);
    fs::create_dir(root.path().join("out")).expect("created");
    let pipe = root.path().join("out/manifest.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .args(["split", "--input", "rows.jsonl", "--out", "out"])
        .current_dir(root.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // Opens once the other side does.
    let mut writer = fs::File::options().write(true).open(&pipe).expect("opens");
    super::interrupt(&child);
    let mut stderr = child.stderr.take().expect("piped");
    // The handler has run once it has told so.
    let mut told = Vec::new();
    while !String::from_utf8_lossy(&told).contains("half-written") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stderr, &mut byte).expect("the notice");
        told.push(byte[0]);
    }
    writer.write_all(br#"{"format": "rmtrain-split"}"#).expect("written");
    drop(writer);
    assert_eq!(child.wait().expect("ends").code(), Some(3));
    let left = |folder: &Path| -> BTreeSet<_> {
        fs::read_dir(folder).expect("reads").map(|e| e.expect("reads").file_name()).collect()
    };
    assert_eq!(left(root.path()), BTreeSet::from(["out".into(), "rows.jsonl".into()]));
    assert_eq!(left(&root.path().join("out")), BTreeSet::from(["manifest.json".into()]));
}
