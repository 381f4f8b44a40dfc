//! Configurations: every problem at once, flags over file, and a resolved file that reads back as itself.

use proptest::prelude::*;
use rmtrain::config::RunConfig;
use rmtrain::data::config::{ChatTemplateSource, Overlong, Pairing, SandboxConfig};
use rmtrain::model::config::{Dtype, HeadInitStd, Source};
use rmtrain::objective::config::{
    Adaptive, Config as Objective, LambdaSchedule, Margin, Scale, Scope, Shape, Signal,
};
use rmtrain::optim::config::{Kind, MomentKind, Schedule, Warmup};
use rmtrain::trainer::config::{Activations, Duration};
use rmtrain::trainer::guard::config::Setting;
use rmtrain::trainer::guard::{Action, Rule};
use rmtrain::{Error, data, model, optim, trainer};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const SMALLEST: &str = r#"
[model]
path = "Qwen/Qwen2.5-3B"
[data]
train = ["train.jsonl"]
[[objective]]
kind = "bradley-terry"
"#;

fn parse(text: &str, sets: &[&str]) -> Result<RunConfig, Vec<String>> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    RunConfig::parse(text, Path::new("run.toml"), &sets).map_err(|error| match error {
        Error::Config { path, problems } => {
            assert_eq!(path, Path::new("run.toml"));
            problems
        }
        other => panic!("{other}"),
    })
}

#[track_caller]
fn valid(text: &str, sets: &[&str]) -> RunConfig {
    parse(text, sets).unwrap_or_else(|problems| panic!("{}", problems.join("\n")))
}

/// A configuration that is valid but for `lines` appended to it has exactly this problem.
#[track_caller]
fn only_problem(lines: &str, expected: &str) {
    let problems = parse(&format!("{SMALLEST}{lines}"), &[]).expect_err(lines);
    assert_eq!(problems, [expected], "{lines}");
}

#[test]
fn the_smallest_configuration_takes_the_documented_defaults() {
    let config = valid(SMALLEST, &[]);
    assert_eq!(config.model.source, Source::Path("Qwen/Qwen2.5-3B".into()));
    assert_eq!(config.model.head_init_std, HeadInitStd::InverseSqrtHidden);
    assert_eq!((config.model.heads, config.model.head_share), (1, 1.0));
    assert_eq!((config.data.max_length, config.data.overlong), (2048, Overlong::Drop));
    assert_eq!(config.objective, [Objective::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 }]);
    assert_eq!(config.optim, optim::Config::default());
    assert_eq!(config.train, trainer::Config::default());
    assert_eq!(config.guard, trainer::guard::Config::default());
    assert_eq!(config.log, trainer::log::Config { tensorboard: false });
}

#[test]
fn the_contracts_example_is_read_as_written() {
    let config = valid(
        r#"
        [model]
        path = "Qwen/Qwen2.5-3B"
        dtype = "bf16"
        head_init_std = "1/sqrt(hidden)"
        [data]
        train = ["train.jsonl", "more/*.jsonl.zst", "hf://datasets/o/n/d/f.parquet"]
        eval = ["held-out.jsonl"]
        max_length = 1024
        overlong = "truncate-prompt-left"
        shuffle = false
        pairing = "best-worst"
        score_field = "rating"
        chat_template = "mine.jinja"
        [[objective]]
        kind = "bradley-terry"
        margin = "column"
        label_smoothing = 0.1
        [[objective]]
        kind = "sum-to-zero"
        lambda = 1e-2
        scope = "micro-batch"
        scale = "batch"
        [optim]
        kind = "adamw"
        lr = 3e-6
        betas = [0.9, 0.95]
        eps = 1e-10
        weight_decay = 0.1
        max_grad_norm = "none"
        schedule = "wsd"
        warmup_steps = 10
        [train]
        batch_pairs = 64
        micro_batch_tokens = 600
        max_steps = 20
        seed = 18446744073709551615
        eval_every = 5
        save_every = 7
        keep_last = 3
        device = "cuda:1"
        "#,
        &[],
    );
    assert_eq!(config.model.dtype, Some(Dtype::Bf16));
    assert_eq!(config.data.train.len(), 3);
    assert_eq!(config.data.overlong, Overlong::TruncatePromptLeft);
    assert_eq!(config.data.pairing, Pairing::BestWorst);
    assert_eq!(config.data.chat_template, ChatTemplateSource::File("mine.jinja".into()));
    assert_eq!(
        config.objective,
        [
            Objective::BradleyTerry { margin: Margin::Column, label_smoothing: 0.1 },
            Objective::SumToZero {
                lambda: 1e-2,
                scope: Scope::MicroBatch,
                scale: Scale::Batch,
                schedule: LambdaSchedule::default(),
            },
        ]
    );
    assert_eq!((config.optim.max_grad_norm, config.optim.warmup), (None, Warmup::Steps(10)));
    assert_eq!((config.train.duration, config.train.seed), (Duration::MaxSteps(20), u64::MAX));
    assert_eq!(config.train.device.to_string(), "cuda:1");
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    let problems = parse(
        "[model]\npath = 3\n[data]\ntrain = []\nmax_lenght = 1\n[[objective]]\nkind = \"bt\"\n\
         [optim]\nlr = nan\nbetas = [0.9, 1.0]\n[train]\nepochs = 1\nmax_steps = 2\nkeep_last = 0\n[extra]\n",
        &["train.seed=-1", "optim.lr"],
    )
    .unwrap_err();
    let starts = [
        "line 2: model.path: found 3, expected",
        "line 4: data.train: found an empty list",
        "line 5: data.max_lenght: unknown key, did you mean `max_length`?",
        "line 7: objective.0.kind: found \"bt\", expected \"bradley-terry\"",
        "line 9: optim.lr: found NaN, expected a finite number above 0",
        "line 10: optim.betas: found 1.0, expected a number of at least 0 and below 1",
        "line 13: train.max_steps: found beside epochs",
        "line 14: train.keep_last: found 0, expected an integer of at least 1",
        "line 15: extra: unknown key",
        "--set optim.lr: found no `=`",
        "--set train.seed=-1: train.seed: found -1",
    ];
    for start in starts {
        assert!(problems.iter().any(|problem| problem.starts_with(start)), "{start}\nin {problems:#?}");
    }
    let order: Vec<usize> =
        starts.iter().map(|start| problems.iter().position(|p| p.starts_with(start)).unwrap()).collect();
    assert!(order.is_sorted(), "{problems:#?}");
}

#[test]
fn values_out_of_range_say_what_was_expected() {
    for (lines, expected) in [
        (
            "label_smoothing = 0.5",
            "line 8: objective.0.label_smoothing: found 0.5, expected a number of at least 0 and below 0.5",
        ),
        (
            "margin = \"colum\"",
            "line 8: objective.0.margin: found \"colum\", expected a finite number of at least 0, or \"none\" or \"column\"",
        ),
        ("[optim]\nlr = 0", "line 9: optim.lr: found 0, expected a finite number above 0"),
        (
            "[optim]\nwarmup_ratio = 1.5",
            "line 9: optim.warmup_ratio: found 1.5, expected a number of at least 0 and at most 1",
        ),
        (
            "[optim]\nschedule = \"cosin\"",
            "line 9: optim.schedule: found \"cosin\", expected \"constant\", \"linear\", \"cosine\" or \"wsd\"; did you mean \"cosine\"?",
        ),
        (
            "[train]\nbatch_pairs = 0",
            "line 9: train.batch_pairs: found 0, expected an integer from 1 to 16777216",
        ),
        ("[train]\nepochs = inf", "line 9: train.epochs: found inf, expected a finite number above 0"),
        ("[train]\nseed = 1.0", "line 9: train.seed: found 1.0, expected an integer of at least 0"),
        (
            "[train]\ndevice = \"gpu\"",
            "line 9: train.device: found \"gpu\", expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\"",
        ),
    ] {
        only_problem(lines, expected);
    }
}

#[test]
fn a_loss_needs_a_preference_term_and_each_kind_once() {
    let without = |kind: &str| parse(&SMALLEST.replace("bradley-terry", kind), &[]);
    for kind in ["sum-to-zero", "center", "reward-variance", "norm-variance"] {
        let problems = without(kind).unwrap_err();
        assert!(problems[0].contains("no preference term"), "{problems:?}");
    }
    for kind in ["plackett-luce", "hinge", "normalized", "direct"] {
        assert!(without(kind).is_ok(), "{kind}");
    }
    let problems = parse(&format!("{SMALLEST}[[objective]]\nkind = \"bradley-terry\"\n"), &[]).unwrap_err();
    assert!(problems[0].contains("found a second \"bradley-terry\""), "{problems:?}");
    let problems = parse(SMALLEST.split("[[objective]]").next().unwrap(), &[]).unwrap_err();
    assert!(problems[0].starts_with("the file: objective: found nothing"), "{problems:?}");
}

#[test]
fn lists_are_for_terms_that_mean_something_there() {
    let listwise = |kind: &str| parse(&SMALLEST.replace("bradley-terry", kind), &["data.pairing=listwise"]);
    for kind in ["plackett-luce", "bradley-terry", "hinge", "normalized"] {
        assert_eq!(listwise(kind).unwrap().data.pairing, Pairing::Listwise, "{kind}");
    }
    let problems = listwise("direct").unwrap_err();
    assert!(problems[0].contains("objective: found \"direct\", which speaks of a chosen"), "{problems:?}");
    assert!(problems[0].contains("expected \"plackett-luce\" or"), "{problems:?}");
    let center = r#"objective=[{kind="plackett-luce"},{kind="center"}]"#;
    let problems = parse(SMALLEST, &["data.pairing=listwise", center]).unwrap_err();
    assert!(problems[0].contains("found \"center\"") && problems.len() == 1, "{problems:?}");
    let problems = parse(SMALLEST, &["data.max_responses=1"]).unwrap_err();
    assert!(
        problems[0].contains("data.max_responses: found 1, expected an integer from 2 to 1024"),
        "{problems:?}"
    );
}

#[test]
fn exactly_one_source_of_data() {
    let data = |lines: &str| parse(&SMALLEST.replace("train = [\"train.jsonl\"]", lines), &[]);
    assert!(data("splits_dir = \"data/uf\"").is_ok());
    assert!(data("sandbox = { seed = 0, prompts = 20 }").is_ok());
    for (lines, needle) in [
        ("shuffle = true", "expected one of train, splits_dir or sandbox"),
        ("train = [\"a\"]\nsplits_dir = \"b\"", "data.splits_dir: found beside train"),
        ("splits_dir = \"b\"\neval = [\"a\"]", "data.eval: found beside splits_dir"),
        ("sandbox = { seed = 0 }", "data.sandbox.prompts: found nothing"),
        ("sandbox = { seed = 0, prompts = 19 }", "data.sandbox.prompts: found 19"),
        ("train = [\"s3://bucket/x\"]", "data.train: found \"s3://bucket/x\""),
        ("train = [\"hf://datasets/only-owner\"]", "expected hf://datasets/OWNER/NAME/FILE"),
    ] {
        let problems = data(lines).expect_err(lines);
        assert!(problems.iter().any(|p| p.contains(needle)), "{lines}: {problems:?}");
    }
}

#[test]
fn flags_win_over_the_file_and_displace_its_alternatives() {
    let config = valid(
        SMALLEST,
        &["train.max_steps=3", "optim.warmup_steps=2", "model.path=./2024", "data.splits_dir=d"],
    );
    assert_eq!(config.train.duration, Duration::MaxSteps(3));
    assert_eq!(config.optim.warmup, Warmup::Steps(2));
    assert_eq!(config.model.source, Source::Path("./2024".into()));
    assert_eq!((config.data.train.len(), config.data.splits_dir), (0, Some("d".into())));
    let problems = parse(SMALLEST, &["train.max_steps=3", "train.epochs=2"]).unwrap_err();
    assert!(problems[0].starts_with("--set train.max_steps=3: "), "{problems:?}");
}

#[test]
fn a_shape_from_toml_reaches_the_model_as_json() {
    let text = SMALLEST.replace("path = \"Qwen/Qwen2.5-3B\"", "tokenizer = \"t\"")
        + "[model.random]\nmodel_type = \"llama\"\nvocab_size = 64\nhidden_size = 32\nintermediate_size = 64\n\
           num_hidden_layers = 1\nnum_attention_heads = 2\nrope_theta = 1e4\n\
           rope_scaling = { rope_type = \"llama3\", factor = 8.0, low_freq_factor = 1.0, high_freq_factor = 4.0, \
           original_max_position_embeddings = 64 }\n";
    let Source::Random(shape) = valid(&text, &[]).model.source else { panic!("not random") };
    assert_eq!(shape["hidden_size"], json!(32));
    assert_eq!(shape["rope_scaling"]["factor"], json!(8.0));

    let problems = parse(&text.replace("hidden_size = 32", "hidden_size = 0"), &[]).unwrap_err();
    assert!(problems[0].contains("model.random.hidden_size: found 0"), "{problems:?}");
    assert!(problems[0].starts_with("line "), "{problems:?}");
    let problems = parse(&text.replace("\"t\"", "\"sandbox\""), &[]).unwrap_err();
    assert!(problems[0].contains("found \"sandbox\" without data.sandbox"), "{problems:?}");
    let problems = parse(&text.replace("tokenizer = \"t\"", ""), &[]).unwrap_err();
    assert!(problems[0].contains("model.tokenizer: found nothing"), "{problems:?}");
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        RunConfig::load(&path, &[]).unwrap_err()
    };
    assert!(
        load("binary.toml", b"a = 1\n\xff\xfe")
            .to_string()
            .contains("line 2: found bytes that are not UTF-8")
    );
    assert!(load("large.toml", &vec![b'#'; (1 << 20) + 1]).to_string().contains("more than 1048576 bytes"));
    assert!(load("empty.toml", b"").to_string().contains("model: found nothing, expected a [model] table"));
    let folder_itself = RunConfig::load(folder.path(), &[]).unwrap_err();
    assert!(folder_itself.to_string().contains("found a folder"), "{folder_itself}");
    let missing = RunConfig::load(&folder.path().join("no.toml"), &[]).unwrap_err();
    assert_eq!(missing.exit_code(), 2);
}

fn number(low: f64, high: f64) -> impl Strategy<Value = f64> {
    // Bounds drawn now and then: that is where ranges go wrong.
    prop_oneof![8 => low..high, 1 => Just(low), 1 => Just(f64::midpoint(low, high))]
}

fn positive() -> impl Strategy<Value = f64> {
    prop_oneof![1e-12..1e3f64, Just(f64::MIN_POSITIVE), Just(1e300), Just(3e-6)]
}

fn text() -> impl Strategy<Value = String> {
    // Whitespace alone counts as absent, and "auto" is a word of its own.
    "[^\\x00]{0,6}[a-z\"'\\\\\u{7f}é🦀]".prop_filter("a word", |text| text != "auto" && text != "sandbox")
}

fn shape() -> impl Strategy<Value = Map<String, Value>> {
    (1usize..5, 1u64..9, any::<bool>(), proptest::option::of(positive())).prop_map(
        |(heads, layers, llama, eps)| {
            let mut shape = json!({
                "model_type": if llama { "llama" } else { "qwen2" },
                "architectures": [if llama { "LlamaForCausalLM" } else { "Qwen2ForCausalLM" }],
                "vocab_size": 100, "hidden_size": heads * 8, "intermediate_size": 24,
                "num_hidden_layers": layers, "num_attention_heads": heads, "tie_word_embeddings": llama,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64
                },
            });
            if let Some(eps) = eps {
                shape["rms_norm_eps"] = json!(eps);
            }
            let Value::Object(shape) = shape else { unreachable!("built as an object") };
            shape
        },
    )
}

fn model() -> impl Strategy<Value = model::Config> {
    let source = prop_oneof![
        (text(), proptest::option::of(text())).prop_map(|(path, tokenizer)| (Source::Path(path), tokenizer)),
        (shape(), text()).prop_map(|(shape, tokenizer)| (Source::Random(shape), Some(tokenizer))),
    ];
    let dtype = proptest::option::of(proptest::sample::select(vec![Dtype::F32, Dtype::Bf16]));
    let std = prop_oneof![Just(HeadInitStd::InverseSqrtHidden), positive().prop_map(HeadInitStd::Value)];
    let heads = prop_oneof![Just((1, 1.0)), (2usize..=64, 0.001..=1.0)];
    let freeze =
        (any::<bool>(), any::<usize>()).prop_map(|(embeddings, layers)| model::Freeze { embeddings, layers });
    (source, proptest::option::of(text()), dtype, std, heads, freeze).prop_map(
        |((source, tokenizer), revision, dtype, head_init_std, (heads, head_share), freeze)| model::Config {
            source,
            tokenizer,
            revision,
            dtype,
            head_init_std,
            heads,
            head_share,
            freeze,
        },
    )
}

fn data() -> impl Strategy<Value = data::Config> {
    let file = "[a-z\"\\\\ ]{0,5}[a-z]";
    let files = (proptest::collection::vec(file, 1..3), proptest::collection::vec(file, 1..3))
        .prop_map(|(train, eval)| data::Config { train, eval, ..data::Config::default() });
    let splits = text().prop_map(|folder| data::Config {
        splits_dir: Some(PathBuf::from(folder)),
        ..data::Config::default()
    });
    let sandbox = (any::<u64>(), 20usize..10_000).prop_map(|(seed, prompts)| data::Config {
        sandbox: Some(SandboxConfig { seed, prompts }),
        ..data::Config::default()
    });
    let overlong = vec![Overlong::Drop, Overlong::TruncatePromptLeft, Overlong::Error];
    // Not listwise, which not every objective allows.
    let pairing = vec![Pairing::RandomTwo, Pairing::BestWorst, Pairing::BestRandom, Pairing::All];
    let template = prop_oneof![
        Just(ChatTemplateSource::Auto),
        text().prop_map(|path| ChatTemplateSource::File(path.into()))
    ];
    (
        prop_oneof![files, splits, sandbox],
        2usize..1 << 24,
        proptest::sample::select(overlong),
        any::<bool>(),
        (proptest::sample::select(pairing), 2usize..=1024),
        text(),
        template,
    )
        .prop_map(|(sources, max_length, overlong, shuffle, lists, score_field, chat_template)| {
            let (pairing, max_responses) = lists;
            data::Config {
                max_length,
                overlong,
                shuffle,
                pairing,
                max_responses,
                score_field,
                chat_template,
                ..sources
            }
        })
}

fn objective() -> impl Strategy<Value = Vec<Objective>> {
    let margin =
        || prop_oneof![Just(Margin::None), Just(Margin::Column), number(0.0, 5.0).prop_map(Margin::Constant)];
    let preference = prop_oneof![
        (margin(), number(0.0, 0.49))
            .prop_map(|(margin, label_smoothing)| Objective::BradleyTerry { margin, label_smoothing }),
        prop_oneof![Just(Margin::Column), number(0.0, 5.0).prop_map(Margin::Constant)]
            .prop_map(|margin| Objective::Hinge { margin }),
        (positive(), positive())
            .prop_map(|(temperature, epsilon)| Objective::Normalized { temperature, epsilon }),
        Just(Objective::Direct),
        Just(Objective::PlackettLuce),
    ];
    let scope = proptest::sample::select(vec![Scope::Global, Scope::MicroBatch]);
    let scale = proptest::sample::select(vec![Scale::Mean, Scale::Batch]);
    let shape = prop_oneof![
        Just(Shape::Constant),
        number(0.0, 2.0).prop_map(|end| Shape::Linear { end }),
        number(0.0, 2.0).prop_map(|end| Shape::Cosine { end }),
    ];
    let signal = proptest::sample::select(vec![Signal::RewardMean, Signal::HiddenNormVar]);
    let schedule = prop_oneof![
        (shape, number(0.0, 1.0))
            .prop_map(|(shape, warmup_ratio)| LambdaSchedule::Planned { shape, warmup_ratio }),
        (signal, positive(), positive(), number(1.0, 9.0)).prop_map(|(signal, target, rate, max)| {
            LambdaSchedule::Adaptive(Adaptive { signal, target, rate, min: f64::MIN_POSITIVE, max })
        }),
    ];
    let lambda = number(f64::MIN_POSITIVE, 1.0);
    let coefficients = proptest::option::of(number(0.0, 1.0));
    let shaping = (lambda, scope, scale, schedule, coefficients, any::<bool>());
    (preference, proptest::option::of(shaping)).prop_map(|(preference, shaping)| {
        let mut terms = vec![preference];
        if let Some((lambda, scope, scale, schedule, coefficient, first)) = shaping {
            let term = Objective::SumToZero { lambda, scope, scale, schedule };
            terms.insert(usize::from(!first), term);
            if let Some(coefficient) = coefficient {
                terms.push(Objective::Center { coefficient });
                terms.push(Objective::RewardVariance { coefficient });
                terms.push(Objective::NormVariance { coefficient });
            }
        }
        terms
    })
}

fn optim() -> impl Strategy<Value = optim::Config> {
    let ratio = || number(0.0, 1.0);
    let schedule = prop_oneof![
        Just(Schedule::Constant),
        Just(Schedule::Linear),
        ratio().prop_map(|min_lr_ratio| Schedule::Cosine { min_lr_ratio }),
        (ratio(), ratio())
            .prop_map(|(decay_ratio, min_lr_ratio)| Schedule::Wsd { decay_ratio, min_lr_ratio }),
    ];
    let warmup = prop_oneof![number(0.0, 1.0).prop_map(Warmup::Ratio), any::<u64>().prop_map(Warmup::Steps)];
    (
        (positive(), [number(0.0, 0.9999), number(0.0, 0.9999)], positive(), number(0.0, 2.0)),
        (any::<bool>(), proptest::option::of(positive()), schedule, warmup),
        proptest::sample::select(vec![MomentKind::F32, MomentKind::EightBit]),
    )
        .prop_map(
            |((lr, betas, eps, weight_decay), (decay_head, max_grad_norm, schedule, warmup), moments)| {
                optim::Config {
                    kind: Kind::AdamW,
                    lr,
                    betas,
                    eps,
                    moments,
                    weight_decay,
                    decay_head,
                    max_grad_norm,
                    schedule,
                    warmup,
                }
            },
        )
}

fn train() -> impl Strategy<Value = trainer::Config> {
    let duration =
        prop_oneof![positive().prop_map(Duration::Epochs), (1..=u64::MAX).prop_map(Duration::MaxSteps)];
    let activations =
        vec![Activations::Auto, Activations::Keep, Activations::Recompute, Activations::RewardsFirst];
    let device = proptest::sample::select(vec!["auto", "cpu", "cuda", "cuda:7"]);
    let evaluation = proptest::option::of((1..=u64::MAX, proptest::option::of(1..=u32::MAX)));
    (
        (1usize..1 << 24, 1usize..1 << 40, duration, any::<u64>()),
        (evaluation, proptest::option::of(1..=u64::MAX), 1..=usize::MAX, device),
        (
            proptest::option::of(proptest::sample::select(vec!["in-domain.accuracy", "a.b.kendall_tau"])),
            proptest::sample::select(activations),
            proptest::option::of(positive()),
        ),
    )
        .prop_map(
            |(
                (batch_pairs, micro_batch_tokens, duration, seed),
                (evaluation, save_every, keep_last, device),
                (best_metric, activations, memory_budget_gib),
            )| trainer::Config {
                batch_pairs,
                micro_batch_tokens,
                duration,
                seed,
                eval_every: evaluation.map(|(every, _)| every),
                save_every,
                keep_last,
                device: device.parse().expect("a device"),
                early_stopping_patience: evaluation.and_then(|(_, patience)| patience),
                best_metric: best_metric.map(str::to_owned),
                activations,
                memory_budget_gib,
            },
        )
}

fn guard() -> impl Strategy<Value = trainer::guard::Config> {
    let action = || proptest::sample::select(vec![Action::Warn, Action::Stop, Action::Off]);
    let rules = proptest::collection::vec((positive(), proptest::option::of(action())), 4);
    (action(), 1usize..1 << 20, positive(), rules).prop_map(|(action, window, min_spread, rules)| {
        let mut config = trainer::guard::Config::default();
        (config.action, config.window, config.min_spread) = (action, window, min_spread);
        for (rule, (threshold, action)) in Rule::ALL.into_iter().zip(rules) {
            config.set(rule, Setting { threshold, action });
        }
        config
    })
}

#[test]
fn a_schedule_has_its_own_keys_and_no_others() {
    let term = |lines: &str| format!("[[objective]]\nkind = \"sum-to-zero\"\n{lines}");
    let parsed = valid(
        &format!("{SMALLEST}{}", term("schedule = \"cosine\"\nlambda_end = 0.5\nwarmup_ratio = 0.1")),
        &["objective.sum-to-zero.lambda=2"],
    );
    let schedule = LambdaSchedule::Planned { shape: Shape::Cosine { end: 0.5 }, warmup_ratio: 0.1 };
    let (scope, scale) = (Scope::Global, Scale::Mean);
    assert_eq!(parsed.objective[1], Objective::SumToZero { lambda: 2.0, scope, scale, schedule });
    for (lines, needle) in [
        ("lambda_end = 1", "lambda_end: unknown key"),
        ("schedule = \"linear\"\ntarget = 1", "target: unknown key"),
        ("schedule = \"adaptive\"", "target: found nothing"),
        ("schedule = \"adaptive\"\ntarget = 0.1\nwarmup_ratio = 0.1", "warmup_ratio: unknown key"),
        ("schedule = \"adaptive\"\ntarget = 0.1\nlambda = 0", "lambda: found 0, expected 0.000001 to 10"),
        ("schedule = \"adaptive\"\ntarget = 1\nlambda_min = 2\nlambda_max = 1", "lambda_max: found 1"),
        ("schedule = \"sine\"", "did you mean \"cosine\"?"),
    ] {
        let problems = parse(&format!("{SMALLEST}{}", term(lines)), &[]).expect_err(lines);
        assert!(problems.len() == 1 && problems[0].contains(needle), "{lines}: {problems:?}");
    }
}

#[test]
fn a_learning_rate_has_the_keys_of_its_schedule_and_no_others() {
    let optim =
        |lines: &str| parse(&format!("{SMALLEST}[optim]\n{lines}"), &[]).map(|config| config.optim.schedule);
    let wsd = Schedule::Wsd { decay_ratio: 0.2, min_lr_ratio: 0.0 };
    assert_eq!(optim("schedule = \"wsd\"\ndecay_ratio = 0.2").unwrap(), wsd);
    let cosine = Schedule::Cosine { min_lr_ratio: 0.1 };
    assert_eq!(optim("schedule = \"cosine\"\nmin_lr_ratio = 0.1").unwrap(), cosine);
    for (lines, needle) in [
        (
            "min_lr_ratio = 0.1",
            "line 9: optim.min_lr_ratio: found with schedule = \"linear\", which does not use it; expected no such key, \
             or schedule = \"cosine\" or \"wsd\"",
        ),
        ("schedule = \"constant\"\nmin_lr_ratio = 0.1", "min_lr_ratio: found with schedule = \"constant\""),
        ("schedule = \"cosine\"\ndecay_ratio = 0.1", "decay_ratio: found with schedule = \"cosine\""),
        ("schedule = \"wsd\"\ndecay_ratio = 2", "decay_ratio: found 2, expected a number of at least 0"),
        // Which keys are wrong is not known before the schedule is.
        ("schedule = \"wds\"\ndecay_ratio = 0.2", "optim.schedule: found \"wds\""),
        ("shedule = \"wsd\"", "optim.shedule: unknown key, did you mean `schedule`?"),
    ] {
        let problems = optim(lines).expect_err(lines);
        assert!(problems.len() == 1 && problems[0].contains(needle), "{lines}: {problems:?}");
    }
    let resolved = valid(SMALLEST, &["optim.schedule=linear"]).to_toml();
    assert!(!resolved.contains("decay_ratio") && !resolved.contains("min_lr_ratio"), "{resolved}");
}

#[test]
fn heads_are_counted_and_shares_need_several() {
    let several = valid(SMALLEST, &["model.heads=4", "model.head_share=0.7"]).model;
    assert_eq!((several.heads, several.head_share), (4, 0.7));
    for (set, expected) in [
        ("model.heads=0", "found 0, expected an integer from 1 to 64"),
        ("model.heads=65", "found 65, expected an integer from 1 to 64"),
        (
            "model.head_share=0.5",
            "found 0.5 with one head, expected 1.0: nobody else learns from the other pairs",
        ),
    ] {
        let (key, _) = set.split_once('=').unwrap();
        let problems = parse(SMALLEST, &[set]).unwrap_err();
        assert_eq!(problems, [format!("--set {set}: {key}: {expected}")]);
    }
    for share in ["0", "1.5", "nan"] {
        let share = format!("model.head_share={share}");
        let problems = parse(SMALLEST, &["model.heads=2", &share]).unwrap_err();
        assert!(problems[0].contains("number above 0 and at most 1"), "{problems:?}");
    }
}

#[test]
fn a_rule_of_the_guard_has_its_own_threshold_and_action() {
    let text = format!("{SMALLEST}[guard]\nwindow = 5\n[guard.gap]\nthreshold = 0.5\naction = \"stop\"\n");
    let guard = valid(&text, &["guard.action=off", "guard.norm-skew.action=warn"]).guard;
    assert_eq!((guard.window, guard.setting(Rule::Gap).threshold), (5, 0.5));
    assert_eq!(
        Rule::ALL.map(|rule| guard.action(rule)),
        [Action::Off, Action::Warn, Action::Off, Action::Stop]
    );
    only_problem(
        "[guard]\nwindow = 0",
        "line 9: guard.window: found 0, expected an integer from 1 to 1048576",
    );
    only_problem(
        "[guard.gap]\nactoin = \"stop\"",
        "line 9: guard.gap.actoin: unknown key, did you mean `action`?",
    );
    only_problem(
        "[guard.gap]\naction = \"halt\"",
        "line 9: guard.gap.action: found \"halt\", expected \"default\", \"warn\", \"stop\" or \"off\"",
    );
}

proptest! {
    #[test]
    fn the_resolved_configuration_reads_back_as_itself(
        model in model(), data in data(), objective in objective(), optim in optim(), train in train(),
        guard in guard(), tensorboard in any::<bool>(),
    ) {
        let log = trainer::log::Config { tensorboard };
        let mut config = RunConfig { model, data, objective, optim, train, guard, log };
        if config.data.sandbox.is_some() && matches!(config.model.source, Source::Random(_)) {
            config.model.tokenizer = Some("sandbox".into());
        }
        let written = config.to_toml();
        let read = RunConfig::parse(&written, Path::new("resolved.toml"), &[]);
        let read = read.map_err(|error| TestCaseError::fail(format!("{error}\n{written}")))?;
        prop_assert_eq!(&read, &config, "{}", written);
    }

    #[test]
    fn no_text_and_no_flag_panics(text in "\\PC{0,200}", flag in "\\PC{0,40}") {
        let _ = RunConfig::parse(&text, Path::new("x.toml"), std::slice::from_ref(&flag));
        let _ = RunConfig::parse(SMALLEST, Path::new("x.toml"), &[flag]);
    }

    #[test]
    fn a_damaged_configuration_is_read_or_refused(at in 0usize..SMALLEST.len(), with in "[\\[\\]{}=\"',.#\n0-9a-z-]{0,3}") {
        let mut damaged = SMALLEST.to_owned();
        damaged.replace_range(at..=at, &with);
        let _ = RunConfig::parse(&damaged, Path::new("x.toml"), &[]);
    }
}
