//! The built binary: arguments, exit codes, what goes to stdout and what to stderr.

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The binary in a folder of its own, without the user's hub settings.
pub(crate) fn rmtrain(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("rmtrain").expect("the binary is built with the tests");
    command.current_dir(folder).env("HF_HOME", folder.join("hub")).env("HF_HUB_OFFLINE", "1");
    for variable in ["HF_TOKEN", "HF_HUB_CACHE", "HF_ENDPOINT", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command
}

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn help_and_version_go_to_stdout() {
    let folder = tempfile::tempdir().unwrap();
    rmtrain(folder.path())
        .arg("--version")
        .assert()
        .success()
        .stdout(format!("rmtrain {}\n", env!("CARGO_PKG_VERSION")));
    rmtrain(folder.path()).arg("--help").assert().success().stdout(contains("Exit codes"));
    for (verb, flag) in
        [("fit", "--dry-run"), ("plan", "--measure"), ("eval", "--splits-dir"), ("score", "--on-error")]
    {
        rmtrain(folder.path()).args([verb, "--help"]).assert().success().stdout(contains(flag));
    }
}

#[test]
fn wrong_usage_exits_2_and_says_nothing_on_stdout() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &[] as &[&str],
        &["train"],
        &["fit"],
        &["fit", "--config", "absent.toml"],
        &["fit", "--config", "."],
        &["fit", "--config", "absent.toml", "--no-such-flag"],
        &["score", "--model", "x", "--on-error", "ignore"],
        &["eval"],
        &["eval", "--model", "not/a/hub/id"],
    ] {
        rmtrain(folder.path()).args(args).assert().code(2).stdout("").stderr(contains("panicked").not());
    }
}

#[test]
fn a_missing_configuration_is_named_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    rmtrain(folder.path())
        .args(["fit", "--config", "absent.toml"])
        .assert()
        .code(2)
        .stderr(contains("error: absent.toml: ").and(contains("hint: configs/")));
}

/// Every configuration that comes with the project, sorted.
fn configurations() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(project().join("configs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    found.sort();
    found
}

#[test]
fn every_configuration_passes_its_dry_run_and_resolves_to_a_fixed_point() {
    let folder = tempfile::tempdir().unwrap();
    // Templates are given relative to the project, from where its configurations are used.
    let hub = folder.path().join("hub");
    let dry_run = |path: &Path| {
        let mut command = rmtrain(&project());
        command.env("HF_HOME", &hub);
        let output = command.args(["fit", "--dry-run", "--config"]).arg(path).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{}: {stderr}", path.display());
        assert!(stderr.contains("parameters: "), "{}: {stderr}", path.display());
        (String::from_utf8(output.stdout).unwrap(), stderr)
    };
    let configurations = configurations();
    let names: Vec<_> = configurations.iter().map(|p| p.file_stem().unwrap().to_str().unwrap()).collect();
    for model in ["qwen0.5b", "qwen1.5b", "qwen3b", "qwen7b", "llama1b", "llama3b", "llama8b"] {
        for loss in ["bt", "bsr"] {
            assert!(names.contains(&format!("{model}-{loss}").as_str()), "{model}-{loss} in {names:?}");
        }
    }
    for path in &configurations {
        let (resolved, _) = dry_run(path);
        let again = folder.path().join("resolved.toml");
        fs::write(&again, &resolved).unwrap();
        assert_eq!(dry_run(&again).0, resolved, "{}", path.display());
    }
}

#[test]
fn a_pair_of_configurations_differs_in_the_regularizer_alone() {
    for path in configurations() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(model) = name.strip_suffix("-bsr.toml") else { continue };
        let read = |path: &Path| rmtrain::config::RunConfig::load(path, &[]).unwrap();
        let regularized = read(&path);
        let mut plain = read(&path.with_file_name(format!("{model}-bt.toml")));
        assert_eq!(regularized.objective.len(), 2, "{name}");
        assert_eq!(plain.objective, regularized.objective[..1], "{name}");
        plain.objective.clone_from(&regularized.objective);
        assert_eq!(plain, regularized, "{name}");
    }
}

#[test]
fn the_quickstarts_dry_run_counts_parameters_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    rmtrain(folder.path())
        .args(["fit", "--dry-run", "--set", "objective.sum-to-zero.lambda=0", "--out", "run", "--config"])
        .arg(project().join("configs/quickstart.toml"))
        .assert()
        .success()
        .stdout(contains("lambda = 0.0").and(contains("[data.sandbox]")))
        .stderr(contains("parameters: ").and(contains("AdamW's moments")));
    rmtrain(folder.path())
        .args([
            "fit",
            "--dry-run",
            "--set",
            "optim.moments=8-bit",
            "--set",
            "model.freeze_layers=1",
            "--config",
        ])
        .arg(project().join("configs/quickstart.toml"))
        .assert()
        .success()
        .stdout(contains("moments = \"8-bit\"").and(contains("freeze_layers = 1")))
        .stderr(contains("of them frozen").and(contains("AdamW's moments (8-bit)")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_dry_run_names_everything_that_is_missing_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("splits")).unwrap();
    fs::create_dir_all(folder.path().join("model")).unwrap();
    fs::write(
        folder.path().join("run.toml"),
        "[model]\npath = \"model\"\n[data]\ntrain = [\"absent.jsonl\", \"no-*.jsonl\"]\nchat_template = \"t.jinja\"\n\
         [[objective]]\nkind = \"bradley-terry\"\n",
    )
    .unwrap();
    rmtrain(folder.path())
        .args(["fit", "--dry-run", "--config", "run.toml"])
        .assert()
        .code(2)
        .stdout("")
        .stderr(
            contains("config.json")
                .and(contains("data.train: found no file absent.jsonl"))
                .and(contains("data.train: found no file that matches no-*.jsonl")),
        );
    rmtrain(folder.path())
        .args(["fit", "--dry-run", "--config", "run.toml", "--set", "data.splits_dir=splits"])
        .assert()
        .code(2)
        .stderr(contains("data.splits_dir: found no train.jsonl, in-domain.jsonl"));
}

#[test]
fn a_dry_run_works_offline_for_hub_ids() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.jsonl"), "{}").unwrap();
    fs::write(
        folder.path().join("run.toml"),
        "[model]\npath = \"Qwen/Qwen2.5-3B\"\n[data]\ntrain = [\"train.jsonl\"]\n\
         [[objective]]\nkind = \"bradley-terry\"\n",
    )
    .unwrap();
    rmtrain(folder.path())
        .args(["fit", "--dry-run", "--config", "run.toml"])
        .assert()
        .success()
        .stdout(contains("path = \"Qwen/Qwen2.5-3B\""))
        .stderr(contains("hint: model.path: Qwen/Qwen2.5-3B is not on this machine yet"));
}

#[test]
#[cfg(unix)]
fn a_closed_stdout_ends_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let binary = rmtrain(folder.path()).get_program().to_owned();
    for args in [&["--help"] as &[&str], &["fit", "--dry-run", "--config"]] {
        let mut child = std::process::Command::new(&binary)
            .args(args)
            .args((args.len() > 1).then(|| project().join("configs/quickstart.toml")))
            .current_dir(project())
            .env("HF_HOME", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked") && !stderr.contains("error"), "{args:?}: {stderr}");
        assert!(output.status.success(), "{args:?}: {:?}", output.status);
    }
}
