//! Configurations: a sound one with one thing replaced, and files that are none.

use super::Bench;

/// Sound, and small enough that the sandbox would be quick if a refusal failed to come.
const SOUND: &str = r#"[model]
tokenizer = "sandbox"
[model.random]
model_type = "llama"
vocab_size = 512
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 512
[data]
sandbox = { seed = 0, prompts = 50 }
max_length = 128
[[objective]]
kind = "bradley-terry"
[[objective]]
kind = "sum-to-zero"
lambda = 1e-3
[optim]
lr = 1e-3
betas = [0.9, 0.999]
[train]
batch_pairs = 8
epochs = 1
"#;

/// What is replaced, by what, and what the message must hold.
const REPLACED: &[(&str, &str, &[&str])] = &[
    // A precision that scores and does not train.
    (
        "tokenizer = \"sandbox\"\n",
        "tokenizer = \"sandbox\"\ndtype = \"f16\"\n",
        &["model.dtype", "\"f16\"", "\"bf16\""],
    ),
    // Syntax.
    ("lr = 1e-3", "lr = ", &["line 21", "not valid TOML"]),
    ("lr = 1e-3", "lr == 1e-3", &["line 21", "not valid TOML"]),
    ("[optim]", "[optim", &["line 20", "not valid TOML"]),
    ("lr = 1e-3", "lr = 1e-3\nlr = 2e-3", &["line 22", "not valid TOML", "duplicate"]),
    ("\"sandbox\"\n", "\"sandbox\n", &["line 2", "not valid TOML"]),
    ("[train]", "[optim]", &["line 23", "duplicate"]),
    // Keys and types.
    ("lr = 1e-3", "learning_rate = 1e-3", &["line 21", "optim.learning_rate", "unknown key"]),
    ("batch_pairs = 8", "batch_pair = 8", &["line 24", "did you mean `batch_pairs`?"]),
    ("[train]", "[trian]", &["line 23", "trian: unknown key", "did you mean `train`?"]),
    ("[optim]\n", "[optim]\n[optim.lr]\n", &["optim.lr", "found a table"]),
    ("lr = 1e-3", "lr = \"1e-3\"", &["line 21", "optim.lr", "found \"1e-3\""]),
    ("batch_pairs = 8", "batch_pairs = 8.0", &["train.batch_pairs", "found 8.0", "an integer"]),
    // Ranges.
    ("lr = 1e-3", "lr = 0", &["optim.lr", "found 0", "above 0"]),
    ("lr = 1e-3", "lr = -1e-3", &["optim.lr", "found -0.001"]),
    ("lr = 1e-3", "lr = nan", &["optim.lr", "found NaN", "finite"]),
    ("lr = 1e-3", "lr = inf", &["optim.lr", "found inf", "finite"]),
    ("[0.9, 0.999]", "[0.9, 1.0]", &["line 22", "optim.betas", "found 1.0", "below 1"]),
    ("[0.9, 0.999]", "[0.9]", &["optim.betas", "a list of 2 numbers"]),
    ("[0.9, 0.999]", "0.9", &["optim.betas", "found 0.9", "a list of 2 numbers"]),
    ("batch_pairs = 8", "batch_pairs = 0", &["train.batch_pairs", "found 0"]),
    ("batch_pairs = 8", "batch_pairs = -8", &["train.batch_pairs", "found -8"]),
    ("batch_pairs = 8", "batch_pairs = 99999999999999999999999999", &["train.batch_pairs"]),
    ("max_length = 128", "max_length = 1", &["line 14", "data.max_length", "found 1"]),
    ("max_length = 128", "max_length = 1024", &["data.max_length", "found 1024", "at most 512"]),
    ("epochs = 1", "epochs = 0", &["train.epochs", "found 0"]),
    ("epochs = 1", "max_steps = 0", &["train.max_steps", "found 0"]),
    ("epochs = 1", "keep_last = 0", &["train.keep_last", "found 0"]),
    ("epochs = 1", "device = \"gpu\"", &["train.device", "found \"gpu\"", "cuda:N"]),
    ("epochs = 1", "device = \"cuda:x\"", &["train.device", "found \"cuda:x\""]),
    ("epochs = 1", "activations = \"some\"", &["train.activations", "\"rewards-first\""]),
    ("epochs = 1", "best_metric = \"loss\"", &["train.best_metric", "SPLIT.accuracy"]),
    ("epochs = 1", "best_metric = \"held-out.accuracy\"", &["found the split \"held-out\"", "in-domain"]),
    (
        "epochs = 1",
        "best_metric = \"in-domain.kendall_tau\"",
        &["train.best_metric: found \"in-domain.kendall_tau\"", "expected \"in-domain.accuracy\""],
    ),
    ("lr = 1e-3", "warmup_ratio = 1.5", &["optim.warmup_ratio", "found 1.5"]),
    ("lr = 1e-3", "schedule = \"linaer\"", &["optim.schedule", "did you mean \"linear\"?"]),
    ("lr = 1e-3", "max_grad_norm = 0", &["optim.max_grad_norm", "or \"none\""]),
    ("prompts = 50", "prompts = 0", &["line 13", "data.sandbox.prompts", "found 0"]),
    ("seed = 0, prompts = 50", "seed = 0", &["data.sandbox.prompts", "found nothing"]),
    ("seed = 0", "seed = -1", &["data.sandbox.seed", "found -1"]),
    // Things at odds with each other.
    ("epochs = 1", "epochs = 1\nmax_steps = 10", &["line 26", "train.max_steps", "beside epochs"]),
    ("lr = 1e-3", "warmup_ratio = 0.1\nwarmup_steps = 5", &["optim.warmup_steps", "beside warmup_ratio"]),
    ("epochs = 1", "early_stopping_patience = 2", &["train.early_stopping_patience", "eval_every"]),
    ("max_length = 128", "train = [\"a.jsonl\"]", &["data.sandbox", "beside train"]),
    ("max_length = 128", "splits_dir = \"d\"", &["data.sandbox", "beside splits_dir"]),
    ("max_length = 128", "eval = [\"a.jsonl\"]", &["line 14", "data.eval", "beside sandbox"]),
    (
        "sandbox = { seed = 0, prompts = 50 }",
        "",
        &["line 12", "data.train", "one of train, splits_dir or sandbox"],
    ),
    ("tokenizer = \"sandbox\"", "path = \"x\"", &["model.random", "beside path"]),
    ("tokenizer = \"sandbox\"", "", &["model.tokenizer", "found nothing"]),
    (
        "tokenizer = \"sandbox\"",
        "tokenizer = \"nowhere to be found\"",
        &["model.tokenizer", "nowhere to be found"],
    ),
    // The objective.
    ("kind = \"bradley-terry\"", "kind = \"bradly-terry\"", &["line 16", "did you mean \"bradley-terry\"?"]),
    ("kind = \"bradley-terry\"", "kind = \"center\"", &["objective.1.kind", "no preference term"]),
    ("kind = \"bradley-terry\"", "margin = 1.0", &["objective.0.kind", "found nothing"]),
    ("kind = \"bradley-terry\"", "kind = \"sum-to-zero\"", &["objective.1.kind", "at most once"]),
    (
        "kind = \"bradley-terry\"",
        "kind = \"bradley-terry\"\nlabel_smoothing = 0.5",
        &["line 17", "label_smoothing"],
    ),
    (
        "kind = \"bradley-terry\"",
        "kind = \"bradley-terry\"\nmargin = \"row\"",
        &["objective.0.margin", "found \"row\""],
    ),
    ("kind = \"bradley-terry\"", "kind = \"direct\"\nmargin = 1", &["objective.0.margin", "unknown key"]),
    ("lambda = 1e-3", "lambda = -1e-3", &["line 19", "objective.1.lambda", "found -0.001"]),
    ("lambda = 1e-3", "scope = \"local\"", &["objective.1.scope", "\"micro-batch\""]),
    // The shape of the model.
    ("hidden_size = 32", "hidden_size = 0", &["model.random", "hidden_size"]),
    ("hidden_size = 32\n", "", &["model.random", "hidden_size"]),
    ("\"llama\"", "\"gpt2\"", &["model.random", "gpt2"]),
    ("num_attention_heads = 2", "num_attention_heads = 3", &["model.random"]),
    ("vocab_size = 512", "vocab_size = 9223372036854775807", &["model.random", "vocab_size"]),
    ("vocab_size = 512", "vocab_size = 2024-01-01", &["line 5", "2024-01-01"]),
    ("vocab_size = 512", "vocab_size = nan", &["line 5", "NaN"]),
    // Files.
    (
        "sandbox = { seed = 0, prompts = 50 }",
        "train = [\"missing.jsonl\"]",
        &["data.train", "no file missing.jsonl"],
    ),
    (
        "sandbox = { seed = 0, prompts = 50 }",
        "train = [\"*.parquet\"]",
        &["data.train", "no file that matches *.parquet"],
    ),
    ("sandbox = { seed = 0, prompts = 50 }", "train = [\"[\"]", &["data.train", "the glob"]),
    ("sandbox = { seed = 0, prompts = 50 }", "train = []", &["data.train", "an empty list"]),
    ("sandbox = { seed = 0, prompts = 50 }", "train = [3]", &["data.train", "found 3"]),
    (
        "sandbox = { seed = 0, prompts = 50 }",
        "train = [\"hf://models/x\"]",
        &["data.train", "hf://datasets/"],
    ),
    ("sandbox = { seed = 0, prompts = 50 }", "train = [\"s3://b/x\"]", &["data.train", "s3://b/x"]),
    (
        "sandbox = { seed = 0, prompts = 50 }",
        "splits_dir = \"out\"",
        &["data.splits_dir", "found no train.jsonl"],
    ),
    (
        "max_length = 128",
        "chat_template = \"missing.jinja\"",
        &["data.chat_template", "found no file missing.jinja"],
    ),
];

/// A flag, and what the message must hold.
const FLAGS: &[(&str, &[&str])] = &[
    ("optim.lr", &["--set optim.lr: found no `=`"]),
    ("=3", &["--set =3: "]),
    ("optim..lr=3", &["--set optim..lr=3: "]),
    ("optim.lr=fast", &["--set optim.lr=fast: optim.lr: found \"fast\""]),
    ("optim.lr=", &["optim.lr: found \"\""]),
    ("optim.lrr=1", &["--set optim.lrr=1: optim.lrr: unknown key, did you mean `lr`?"]),
    ("optim.lr.x=1", &["optim.lr: found 0.001, expected a table"]),
    ("objective.hinge.margin=1", &["the element \"hinge\"", "\"bradley-terry\" or \"sum-to-zero\""]),
    ("objective.2.lambda=1", &["the element \"2\"", "0 to 1"]),
    ("objective=[]", &["objective: found an empty list"]),
    ("objective=[{", &["not valid TOML"]),
    ("nonsense=1", &["nonsense: unknown key"]),
    ("data=1", &["data: found 1, expected a table"]),
];

fn refused(case: &str, config: &[u8], flags: &[&str], needles: &[&str]) {
    let bench = Bench::new();
    bench.write("config.toml", config);
    let mut arguments = vec!["fit", "--config", "config.toml", "--out", "out"];
    flags.iter().for_each(|flag| arguments.extend(["--set", flag]));
    let mut needles = needles.to_vec();
    needles.push("config.toml");
    bench.refused(case, &arguments, b"", &needles);
}

#[test]
fn the_sound_configuration_is_accepted() {
    let bench = Bench::new();
    bench.write("config.toml", SOUND);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .args(["fit", "--config", "config.toml", "--dry-run"])
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn one_thing_wrong() {
    for (from, to, needles) in REPLACED {
        assert!(SOUND.contains(from), "{from:?} is not in the sound configuration");
        let mut config = SOUND.replacen(from, to, 1);
        if from.starts_with("sandbox") {
            // The sandbox's tokenizer goes with its data; what is wrong here is the data alone.
            config = config.replacen("tokenizer = \"sandbox\"", "tokenizer = \"none/here\"", 1);
        }
        refused(to, config.as_bytes(), &[], needles);
    }
}

#[test]
fn flags() {
    for (flag, needles) in FLAGS {
        refused(flag, SOUND.as_bytes(), &[flag], needles);
    }
}

#[test]
fn files_that_are_no_configuration() {
    let deep = format!("a = {}", "[".repeat(50_000));
    let many = "= \n".repeat(100_000);
    let cases: &[(&str, &[u8], &[&str])] = &[
        (
            "empty",
            b"",
            &["3 problems", "model: found nothing", "data: found nothing", "objective: found nothing"],
        ),
        ("zeros", &[0; 4096], &["line 1", "not valid TOML"]),
        ("not UTF-8", b"[model]\npath = \"\xff\xfe\"\n", &["line 2", "not UTF-8"]),
        ("UTF-16", b"\xff\xfe[\x00m\x00", &["line 1", "not UTF-8"]),
        ("JSON", b"{\"model\": {\"path\": \"x\"}}", &["line 1", "not valid TOML"]),
        ("deep nesting", deep.as_bytes(), &["line 1", "not valid TOML"]),
        ("errors without end", many.as_bytes(), &["more syntax errors"]),
        ("larger than a configuration", &[b'#'; (1 << 20) + 1], &["more than 1048576 bytes"]),
    ];
    for (case, bytes, needles) in cases {
        refused(case, bytes, &[], needles);
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = SOUND.replace("lr = 1e-3", "lr = 0").replace("batch_pairs = 8", "batch_pair = 8");
    let text = text.replace("\"bradley-terry\"", "\"bt\"");
    let needles = ["4 problems", "line 16", "line 21", "line 24", "--set train.seed=x"];
    refused("four problems", text.as_bytes(), &["train.seed=x"], &needles);
}

#[test]
fn a_config_that_is_not_there() {
    let bench = Bench::new();
    bench.refused("missing", &["fit", "--config", "no.toml"], b"", &["no.toml", "hint: configs/"]);
    bench.refused("folder", &["fit", "--config", "out"], b"", &["out: found a folder"]);
}
