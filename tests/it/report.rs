//! `report` through the built binary: the page, the tables, and runs that are odd, unfinished or hostile.

mod groups;

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder with runs in it.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run of these lines.
    fn run(&self, name: &str, lines: &[Value]) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join("config.toml"),
            format!(
                "[optim]\nlr = 1e-3\n[[objective]]\nkind = \"bradley-terry\"\nmargin = {:?}\n",
                name.len()
            ),
        )
        .unwrap();
        fs::write(
            folder.join("metrics.jsonl"),
            lines.iter().map(|line| format!("{line}\n")).collect::<String>(),
        )
        .unwrap();
        folder
    }

    fn report(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rmtrain"));
        command.current_dir(self.0.path()).arg("report").args(args).output().unwrap()
    }

    /// The page about runs.
    fn page(&self, args: &[&str]) -> String {
        let output = self.report(&[args, &["--out", "page.html"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // A slash in text is written as an entity.
        fs::read_to_string(self.path("page.html")).unwrap().replace("&#x2f;", "/")
    }

    /// What is said about a refusal.
    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        let output = self.report(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        stderr
    }
}

fn step(number: u64) -> Value {
    let x = number as f64;
    json!({
        "kind": "step", "step": number, "epoch": 0.1 * x, "loss": 0.7 - 0.001 * x, "loss_bt": 0.7 - 0.001 * x,
        "loss_bsr": 0.01, "accuracy": 0.6, "ties": 0, "margin_mean": 0.1 * x.sin(), "reward_mean": 0.2, "reward_std": 1.0,
        "reward_min": -2.0, "reward_max": 2.5, "head_norm": 1.0, "hidden_norm_mean": 9.0, "hidden_norm_var": 0.01 * x,
        "hidden_norm_skew": 0.1, "hidden_norm_max": 11.0, "hidden_norm_quantiles": [7.0, 8.0, 8.5, 9.0, 9.5, 10.0, 11.0],
        "hidden_norm_chosen_mean": 9.1, "hidden_norm_rejected_mean": 8.9, "hidden_diff_norm_mean": 1.0,
        "cos_mean": 0.0, "grad_norm": 1.5, "head_grad_norm": 0.1, "lr": 1e-3, "pairs": 8, "tokens": 100,
        "seconds": 0.5 + 0.1 * x.cos(),
    })
}

fn evaluation(step: u64, split: &str, accuracy: f64) -> Value {
    json!({
        "kind": "eval", "step": step, "split": split, "rows": 100, "metric": "accuracy", "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05], "ties": 0, "kendall_tau": null, "longest_wins": 0.55,
        "reward_mean": 0.1, "reward_std": 1.0,
    })
}

fn steps(count: u64) -> Vec<Value> {
    (1..=count).map(step).collect()
}

/// What has to hold for any page, whatever the runs are called.
fn assert_is_sound(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    // The one address is SVG's name; nothing is fetched from anywhere.
    assert_eq!(page.replace("http://www.w3.org/2000/svg", "").matches("://").count(), 0);
    for fetching in [" src=", "url(", "@import", "<iframe", "<object", "<base", "NaN", "inf\""] {
        assert!(!page.contains(fetching), "{fetching}");
    }
    for picture in page.split("<svg class=\"plot\"").skip(1) {
        assert!(picture.split('>').next().unwrap().contains("role=\"img\" aria-label=\""));
    }
}

#[test]
fn two_runs_on_one_page() {
    let world = World::new();
    let splits = ["in-domain", "mutual-disjoint"];
    let mut lines = steps(40);
    lines.insert(20, evaluation(20, splits[0], 0.7));
    lines.extend([evaluation(40, splits[0], 0.75), evaluation(40, splits[1], 0.5)]);
    lines.push(json!({"kind": "alarm", "step": 30, "rule": "norm-growth", "value": 11.0, "threshold": 10.0,
                      "message": "guard.norm-growth: it grows"}));
    world.run("bt", &lines);
    fs::create_dir(world.path("bt/final")).unwrap();
    world.run("bsr", &steps(30));
    let page = world.page(&["bsr", "bt"]);
    assert_is_sound(&page);
    for needle in [
        "30 steps, not finished",
        "40 steps, finished",
        // Medians of steps 1 to 4 and 37 to 40.
        "from 0.0250 to 0.385, 15.4 times",
        "Accuracy in-domain minus mutual-disjoint: 0.250, 95% interval 0.179 to 0.321, which excludes 0.",
        "One alarm.",
        "guard.norm-growth: it grows",
        "<g class=\"moment c1 d1\"><title>bt, step 30:",
        "Distribution of hidden norms, bsr",
        "Accuracy on in-domain, in training",
        "objective.bradley-terry.margin",
        "Each run is one draw",
    ] {
        assert!(page.contains(needle), "{needle}");
    }
    assert!(!page.contains("optim.lr</th>"), "what is the same is not among the differences");
    let figures = page.matches("<figure>").count();
    assert!(figures > 20 && page.matches("download=\"").count() == figures, "{figures}");
}

#[test]
fn an_eval_report_brings_histograms_and_slopes() {
    let world = World::new();
    let run = world.run("a", &steps(5));
    let report = json!({
        "model": "a", "gaps": {"mutual-disjoint": {"accuracy": 0.123, "ci95": [-0.1, 0.3]}},
        "comparison": {"model": "runs/other", "splits": {"in-domain": {
            "difference": 0.0125, "ci95": [-0.01, 0.03], "p_bootstrap": 0.75, "mcnemar": {"b": 3, "c": 44, "p": 1e-8}}}},
        "splits": {
            "in-domain": {"rows": 1234, "accuracy": 0.75, "accuracy_ci95": [0.7, 0.8], "reward_mean": 0.5,
                "rewards": {"histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [1, 3]}},
                "calibration": {"ece": 0.0321}, "length": {"reward_slope": 0.456}, "hidden": {"effective_rank": 31.5}},
            "mutual-disjoint": {"rows": 10, "accuracy": 0.5, "rewards": {"histogram": {"edges": [0.0], "counts": [1]}}}
        }
    });
    fs::write(run.join("eval.json"), report.to_string()).unwrap();
    let page = world.page(&["a"]);
    assert_is_sound(&page);
    for needle in [
        "Rewards on in-domain",
        "75.0%",
        "1,234",
        "0.0321",
        "0.456",
        "31.5",
        "a − runs/other",
        "0.013",
        "0.750",
        // Three decimals would make it 0.
        "1.00e-8",
        "minus mutual-disjoint: 0.123, 95% interval -0.100 to 0.300, which includes 0",
    ] {
        assert!(page.contains(needle), "{needle}");
    }
    assert!(!page.contains("Rewards on mutual-disjoint"), "a misshapen histogram is none");
    fs::write(run.join("eval.json"), "{\"splits\": {").unwrap();
    let said = world.refused(&["a"]);
    assert!(said.contains("eval.json: found EOF") && said.contains("expected an eval report"), "{said}");
}

/// What `eval --split mutual-disjoint --out RUN/eval.json` leaves behind.
#[test]
fn a_report_of_some_sets_does_not_hide_the_others() {
    let world = World::new();
    let splits = ["in-domain", "prompt-disjoint", "mutual-disjoint"];
    let lines = [steps(3), splits.map(|split| evaluation(3, split, 0.75)).into()].concat();
    let run = world.run("a", &lines);
    let write = |model: &str, reduce: Value| {
        let report = json!({"model": model, "reduce": reduce, "splits": {"mutual-disjoint": {
            "accuracy": 0.5, "accuracy_ci95": [0.375, 0.5], "reward_mean": 3.25}}});
        fs::write(run.join("eval.json"), report.to_string()).unwrap();
    };
    write("a/final", Value::Null);
    let page = world.page(&["a"]);
    assert_is_sound(&page);
    for needle in [
        "eval.json for mutual-disjoint and the evaluation after step 3 for the other sets.",
        // One-sided: hypot(0.05, 0) below the figure, hypot(0.05, 0.125) above it.
        "Accuracy in-domain minus mutual-disjoint: 0.250, 95% interval 0.200 to 0.385",
        "3.25",
    ] {
        assert!(page.contains(needle), "{needle}");
    }
    let output = world.report(&["a", "--markdown", "-"]);
    let (markdown, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let row = r"| a | 1 | 0.750 \[0.700, 0.800\] | 0.750 \[0.700, 0.800\] | 0.500 \[0.375, 0.500\] |";
    assert!(markdown.contains(row), "{markdown}");
    assert!(!stderr.contains("hint:"), "the run's own model: {stderr}");
    assert!(markdown.contains(r"| gap | 0.250 \[0.200, 0.385\] |"), "{markdown}");

    // What is not the run's own, or not by the mean of its heads, is told, and makes no gap with what is.
    write("a/final", json!("min"));
    assert!(!world.page(&["a"]).contains("Accuracy in-domain minus"));
    write("runs/other/final", Value::Null);
    assert!(!world.page(&["a"]).contains("Accuracy in-domain minus"));
    write("runs/other/final", json!("min"));
    let output = world.report(&["a", "--markdown", "-"]);
    let (markdown, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(markdown.contains("from eval.json by the lowest head for mutual-disjoint and"), "{markdown}");
    assert!(
        stderr.contains("a/eval.json: found figures of runs/other/final, expected a model of"),
        "{stderr}"
    );
    let whole: Value = splits.iter().map(|split| (split.to_string(), json!({"accuracy": 0.5}))).collect();
    fs::write(run.join("eval.json"), json!({"model": "a", "splits": whole}).to_string()).unwrap();
    let page = world.page(&["a"]);
    assert!(page.contains("Figures are from eval.json.") && !page.contains("0.750"));
}

#[test]
fn the_heads_of_an_ensemble_have_their_figures() {
    let world = World::new();
    let mut lines = steps(3);
    for line in &mut lines {
        line["head_spread_mean"] = json!(0.375);
        line["head_accuracy_min"] = json!(0.625);
    }
    let mut set = evaluation(3, "in-domain", 0.75);
    set["head_spread_mean"] = json!(0.875);
    world.run("ensemble", &[lines, vec![set]].concat());
    world.run("one", &[steps(3), vec![evaluation(3, "in-domain", 0.75)]].concat());
    let page = world.page(&["ensemble", "one", "--markdown", "tables.md"]);
    assert_is_sound(&page);
    let markup = |page: &str| page.split("</style>").nth(1).unwrap().to_owned();
    for needle in [
        "<h3>Spread over heads</h3>",
        "<h3>Accuracy of the worst head</h3>",
        "ensemble ends at 0.625",
        "<th scope=\"row\">spread over heads</th><td>0.375 → 0.375</td><td>–</td>",
        "<th scope=\"col\">spread over heads</th>",
        "<td>0.875</td>",
    ] {
        assert!(markup(&page).contains(needle), "{needle}");
    }
    let markdown = fs::read_to_string(world.path("tables.md")).unwrap();
    assert!(markdown.contains("| spread over heads | 0.375 | – |"), "{markdown}");
    let page = world.page(&["one", "--markdown", "tables.md"]);
    let markdown = fs::read_to_string(world.path("tables.md")).unwrap();
    for text in [&markup(&page), &markdown] {
        assert!(!text.to_lowercase().contains("spread over heads") && !text.contains("worst head"));
    }
}

#[test]
fn names_are_text_whatever_they_are() {
    let world = World::new();
    let hostile = "a\"><script>alert(1)<!--'&{{ 7*7 }}{% raw %}";
    let long = format!("{}-ünïcödé-🦀-\u{202e}", "x".repeat(180));
    let split = "</script></svg></style><img onerror=alert(1) src=x>\u{0}\n";
    let lines = [steps(3), vec![evaluation(1, split, 0.5), evaluation(3, split, 0.75)]].concat();
    world.run(hostile, &lines);
    let run = world.run(&long, &lines);
    fs::write(run.join("config.toml"), "[data]\ntrain = [\"</pre><script>alert(2)</script>\"]\n").unwrap();
    let page = world.page(&[hostile, &long]);
    let without_text = page.replace(" src=x&gt;", "");
    assert_is_sound(&without_text);
    assert!(!page.contains("alert(1)<") && !page.contains("<img") && !page.contains("<pre><script"));
    assert!(page.contains("a&quot;&gt;&lt;script&gt;alert(1)"), "the name is there as text");
    assert!(page.contains("7*7"), "a name is no template");
}

#[test]
fn two_runs_of_one_name_go_by_their_paths() {
    let world = World::new();
    world.run("x/run", &steps(2));
    world.run("y/run", &steps(2));
    let page = world.page(&["x/run", "y/run", "x/run"]);
    for name in ["<strong>x/run</strong>", "<strong>y/run</strong>", "<strong>x/run (2)</strong>"] {
        assert!(page.contains(name), "{name}");
    }
}

#[test]
fn null_leaves_a_gap_and_a_missing_field_no_figure() {
    let world = World::new();
    let mut lines = steps(9);
    lines[4]["margin_mean"] = Value::Null;
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("hidden_norm_quantiles");
        line["grad_norm"] = Value::Null;
    }
    world.run("a", &lines);
    let page = world.page(&["a"]);
    assert_is_sound(&page);
    assert!(!page.contains("Distribution of hidden norms") && !page.contains("Gradient norm"));
    let margin = page.split("<h3>Margin</h3>").nth(1).unwrap();
    let curve = margin.split("<path class=\"curve").nth(1).unwrap().split("/>").next().unwrap();
    assert_eq!(curve.matches('M').count(), 2, "{curve}");
}

#[test]
fn extreme_values_make_a_page_all_the_same() {
    let world = World::new();
    let extremes = [1e308, -1e308, 5e-324, 0.0, -0.0, f64::MAX, f64::MIN, 1.0, 1.0 + f64::EPSILON, -1e-300];
    for (name, shift) in [("a", 0), ("b", 3), ("c", 7)] {
        let lines = (1..=12u64).map(|number| {
            let mut line = step(if number == 12 { u64::MAX } else { number });
            for (i, value) in line.as_object_mut().unwrap().values_mut().enumerate() {
                if value.is_f64() {
                    *value = json!(extremes[(i + shift + number as usize) % extremes.len()]);
                }
            }
            line
        });
        world.run(name, &lines.collect::<Vec<_>>());
    }
    world.run("flat", &vec![step(1); 12]);
    world.run(
        "text",
        &[json!({"kind": "step", "step": 1, "loss": "low", "hidden_norm_var": [1, 2], "lr": true})],
    );
    let histogram = json!({"splits": {"s": {"accuracy": 1e308, "accuracy_ci95": [-1e308, 1e308], "kendall_tau": 5e-324,
        "rewards": {"histogram": {"edges": [-1e308, 0.0, 1e308], "counts": [1e308, 1e308]}}}}});
    fs::write(world.path("flat/eval.json"), histogram.to_string()).unwrap();
    for runs in [&["a", "b", "c", "flat", "text"][..], &["a"], &["flat"], &["text"]] {
        assert_is_sound(&world.page(runs));
    }
}

#[test]
fn a_run_that_goes_on_is_read_up_to_its_last_whole_line() {
    let world = World::new();
    let run = world.run("a", &steps(3));
    let whole = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    fs::write(run.join("metrics.jsonl"), format!("{whole}{{\"kind\":\"step\",\"st")).unwrap();
    let output = world.report(&["a"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.contains("metrics.jsonl:4: the last line is not whole"),
        "{stderr}"
    );
    assert!(fs::read_to_string(world.path("report.html")).unwrap().contains("3 steps, not finished"));

    fs::write(run.join("metrics.jsonl"), format!("{{\"kind\":\"step\",\"st\n{whole}")).unwrap();
    let said = world.refused(&["a"]);
    assert!(said.contains("metrics.jsonl:1: found EOF while parsing"), "{said}");
    fs::write(run.join("metrics.jsonl"), format!("{whole}{{\"kind\":\"step\"}}\n")).unwrap();
    assert!(world.refused(&["a"]).contains("metrics.jsonl:4: found"));
}

#[test]
fn what_is_no_run_is_named() {
    let world = World::new();
    assert!(world.refused(&["absent"]).contains("absent/metrics.jsonl"));
    fs::create_dir(world.path("empty")).unwrap();
    let said = world.refused(&["empty"]);
    assert!(said.contains("empty: holds no metrics.jsonl, expected the folder of a run"), "{said}");
    world.run("young", &[]);
    let said = world.refused(&["young"]);
    assert!(said.contains("young/metrics.jsonl: found no line of kind \"step\""), "{said}");
    let run = world.run("broken", &steps(1));
    fs::write(run.join("config.toml"), "[optim\n").unwrap();
    assert!(world.refused(&["broken"]).contains("broken/config.toml"));
    fs::remove_file(run.join("config.toml")).unwrap();
    let page = world.page(&["broken"]);
    assert!(page.contains("No run has a config.toml."));
    assert!(!world.path("report.html").exists(), "nothing is written before everything is read");
}

#[test]
fn tables_hold_every_line_and_every_field() {
    let world = World::new();
    let mut lines = steps(3);
    lines[1]["reward_mean"] = Value::Null;
    lines[2]["extra"] = json!(0.1);
    lines.push(evaluation(3, "a,\"b\"", 0.5));
    world.run("one", &lines);
    world.run("two", &steps(2));
    let output = world.report(&["one", "two", "--csv", "tables"]);
    assert!(output.status.success());
    assert!(!world.path("report.html").exists(), "--csv alone makes no page");
    let read = |name: &str| -> Vec<Vec<String>> {
        let text = fs::read_to_string(world.path(name)).unwrap();
        text.lines().map(|line| line.split(',').map(String::from).collect()).collect()
    };
    let rows = read("tables/metrics.csv");
    assert_eq!(rows.len(), 1 + 3 + 2);
    let cell = |row: usize, name: &str| rows[row][rows[0].iter().position(|n| n == name).unwrap()].as_str();
    assert_eq!((cell(1, "run"), cell(1, "step"), cell(4, "run")), ("one", "1", "two"));
    for (row, line) in lines[..3].iter().enumerate() {
        for (name, value) in line.as_object().unwrap().iter().filter(|(_, value)| value.is_number()) {
            let found: f64 = cell(row + 1, name).parse().unwrap();
            assert_eq!(Some(found), value.as_f64(), "{name}");
        }
    }
    assert_eq!((cell(2, "reward_mean"), cell(1, "extra"), cell(3, "extra")), ("", "", "0.1"));
    assert_eq!(cell(1, "hidden_norm_quantiles.6"), "11");

    let output = world.report(&["one", "--csv", "one.csv", "--out", "-"]);
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("<!doctype html>"));
    let evals = fs::read_to_string(world.path("one-evals.csv")).unwrap();
    assert!(evals.starts_with("run,step,split,rows,"), "{evals}");
    assert!(evals.contains("\none,3,\"a,\"\"b\"\"\",100,accuracy,0.5,0.45,0.55,0,,"), "{evals}");
}

#[test]
fn a_page_of_long_runs_stays_small() {
    let world = World::new();
    for name in ["bt", "bsr"] {
        let mut noise = 1u64;
        let lines: Vec<Value> = (1..=5000)
            .map(|number| {
                let mut line = step(number);
                for value in line.as_object_mut().unwrap().values_mut() {
                    noise =
                        noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if let Some(float) = value.as_f64().filter(|_| value.is_f64()) {
                        *value = json!(float * (1.0 + 0.3 * (noise >> 40) as f64 / (1u64 << 24) as f64));
                    }
                }
                line
            })
            .collect();
        world.run(name, &lines);
    }
    let page = world.page(&["bt", "bsr"]);
    assert_is_sound(&page);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
}
