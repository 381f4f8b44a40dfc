//! The built binary: arguments, streams, exit codes, the configurations that come with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn rmtrain() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rmtrain"));
    // Nothing here may reach the network or find what this machine's user has downloaded.
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", std::env::temp_dir().join("rmtrain-no-hub"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    rmtrain().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn configs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut configs: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    configs.sort();
    configs
}

#[test]
fn every_configuration_that_comes_along_is_valid() {
    let configs = configs();
    for size in ["qwen0.5b", "qwen1.5b", "qwen3b", "qwen7b", "llama1b", "llama3b", "llama8b"] {
        for loss in ["bt", "bsr"] {
            let name = format!("{size}-{loss}.toml");
            assert!(configs.iter().any(|path| path.ends_with(&name)), "no configs/{name}");
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    for path in configs {
        let output = run(&["fit", "--config", path.to_str().unwrap(), "--dry-run"]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{}: {stderr}", path.display());
        assert!(stderr.contains("valid"), "{stderr}");
        // What is printed is a configuration, and says the same as the file.
        let resolved = scratch.path().join("resolved.toml");
        fs::write(&resolved, &output.stdout).unwrap();
        let again = run(&["fit", "--config", resolved.to_str().unwrap(), "--dry-run"]);
        assert_eq!(text(&again.stdout), text(&output.stdout), "{}", path.display());
    }
}

#[test]
fn the_papers_values_are_in_its_configurations() {
    let resolved = |name: &str| -> toml::Table {
        let path = format!("configs/{name}.toml");
        let output = run(&["fit", "--config", &path, "--dry-run"]);
        text(&output.stdout).parse().unwrap()
    };
    for (name, lr) in [("qwen1.5b", 5e-6), ("llama1b", 5e-6), ("qwen3b", 3e-6), ("llama3b", 3e-6)] {
        let (bt, bsr) = (resolved(&format!("{name}-bt")), resolved(&format!("{name}-bsr")));
        assert_eq!(bsr["optim"]["lr"].as_float(), Some(lr), "{name}");
        assert_eq!(bsr["optim"]["warmup_ratio"].as_float(), Some(0.05));
        assert_eq!(bsr["train"]["batch_pairs"].as_integer(), Some(128));
        assert_eq!(bsr["objective"][1]["lambda"].as_float(), Some(1e-3));
        // The baseline differs in the objective and in nothing else.
        let without = |mut table: toml::Table| {
            table.remove("objective");
            table
        };
        assert_eq!(bt["objective"].as_array().map(Vec::len), Some(1));
        assert_eq!(without(bt), without(bsr));
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["fit", "eval", "score", "split", "sandbox", "Exit codes"] {
        assert!(text(&help.stdout).contains(word), "no {word} in the help");
    }
    assert!(help.stderr.is_empty());
    let version = run(&["--version"]);
    assert_eq!(text(&version.stdout), format!("rmtrain {}\n", env!("CARGO_PKG_VERSION")));
    for verb in ["fit", "eval", "score", "split", "sandbox"] {
        let help = run(&[verb, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{verb}");
        assert!(text(&help.stdout).contains("Usage: rmtrain"), "{verb}");
    }
}

#[test]
fn wrong_usage_exits_with_two() {
    for arguments in [
        &[][..],
        &["train"],
        &["fit"],
        &["fit", "--config"],
        &["fit", "--config", "configs/quickstart.toml", "--no-such-flag"],
        &["score"],
        &["split", "--out", "x"],
        &["sandbox"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml");
    let output = rmtrain()
        .args(["fit", "--config", config.to_str().unwrap(), "--out", "run", "--dry-run"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(text(&output.stderr).contains("parameters: "));
}

#[test]
fn flags_show_in_the_resolved_configuration() {
    let flags = ["--set", "objective.sum-to-zero.lambda=0", "--set", "train.max_steps=3"];
    let config = ["fit", "--config", "configs/quickstart.toml", "--dry-run"];
    let output = run(&[&config[..], &flags].concat());
    let resolved: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(resolved["objective"][1]["lambda"].as_float(), Some(0.0));
    assert_eq!(resolved["train"]["max_steps"].as_integer(), Some(3));
    assert!(!resolved["train"].as_table().unwrap().contains_key("epochs"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let script = format!(
        "{} fit --config configs/quickstart.toml --dry-run 2>/dev/null | true; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_rmtrain")
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    assert_eq!(text(&output.unwrap().stdout).trim(), "0");
}

#[cfg(unix)]
#[test]
fn a_full_disk_under_stdout_is_a_failure() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let output = rmtrain()
        .args(["fit", "--config", "configs/quickstart.toml", "--dry-run"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("error: stdout: "));
}
