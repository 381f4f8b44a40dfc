//! `doctor` through the built binary.

use super::cli::rmtrain;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

#[test]
fn the_machine_is_told_and_a_trajectory_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["doctor", "--device", "cpu", "--trajectory", "2", "--json"];
    let output = rmtrain(folder.path()).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["machine"]["threads"].as_u64().is_some_and(|threads| threads > 0), "{report}");
    let trajectory = &report["trajectories"][0];
    assert_eq!((&trajectory["steps"], &trajectory["ok"]), (&2.into(), &true.into()));
    let losses = trajectory["losses"].as_array().unwrap();
    assert_eq!((losses.len(), &trajectory["reference_losses"]), (2, &trajectory["losses"]));
    assert!(losses.iter().all(|loss| loss.as_f64().is_some_and(|loss| loss > 0.0)), "{report}");
    rmtrain(folder.path())
        .args(["doctor", "--device", "cpu"])
        .assert()
        .success()
        .stdout(contains("threads"))
        .stderr(contains("hint: the kernels of the CPU are checked by `cargo test`"));
}

#[test]
fn a_check_that_would_check_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (args, needle) in [
        (&["--trajectory", "0"][..], "0"),
        (&["--speed", "qwen2.5-0.5b", "--trajectory", "50"], "cannot be used with"),
        (&["--speed", "gpt-2"], "qwen2.5-0.5b"),
        (&["--speed", "qwen2.5-0.5b", "--moments", "4-bit"], "\"8-bit\""),
    ] {
        rmtrain(folder.path())
            .arg("doctor")
            .args(args)
            .assert()
            .code(2)
            .stdout("")
            .stderr(contains(needle).and(contains("panicked").not()));
    }
}
