//! The configuration as a library: what is read is what is written, and flags win over the file.

use proptest::prelude::*;
use rmtrain::config::RunConfig;
use rmtrain::data::config::{ChatTemplateSource, Overlong, Pairing, SandboxConfig};
use rmtrain::model::config::{Dtype, HeadInitStd, Source};
use rmtrain::objective::config::{Margin, Scale, Scope};
use rmtrain::optim::config::{Kind, Schedule, Warmup};
use rmtrain::trainer::config::{Activations, Device, Duration};
use rmtrain::{Error, data, model, objective, optim, trainer};
use serde_json::json;
use std::path::Path;

/// Text that a user could give: anything printable, and a little that is not.
fn text() -> impl Strategy<Value = String> {
    "[ -~é字🦀\t\n\\\\\"']{1,24}".prop_filter("blank or a word", |text| {
        !text.trim().is_empty() && text != "auto" && !text.contains("://")
    })
}

fn positive() -> impl Strategy<Value = f64> {
    prop_oneof![Just(3e-6), Just(1.0), 1e-300..1e300_f64, Just(f64::MIN_POSITIVE), Just(5e-324)]
}

fn model() -> impl Strategy<Value = model::Config> {
    let shape = json!({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 512, "rope_theta": 5e5, "tie_word_embeddings": true,
        "architectures": ["LlamaForCausalLM"],
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256
        },
    });
    let shape = shape.as_object().unwrap().clone();
    let source = prop_oneof![text().prop_map(Source::Path), Just(Source::Random(shape))];
    let dtype = proptest::option::of(proptest::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16]));
    let std = prop_oneof![Just(HeadInitStd::InverseSqrtHidden), positive().prop_map(HeadInitStd::Value)];
    (source, proptest::option::of(text()), proptest::option::of(text()), dtype, std).prop_map(
        |(source, tokenizer, revision, dtype, head_init_std)| model::Config {
            tokenizer: match (&source, tokenizer) {
                (Source::Random(_), None) => Some("sandbox".into()),
                (_, tokenizer) => tokenizer,
            },
            source,
            revision,
            dtype,
            head_init_std,
        },
    )
}

fn data() -> impl Strategy<Value = data::Config> {
    let texts = |range| proptest::collection::vec(text(), range);
    let source = prop_oneof![
        (texts(1..4), texts(0..3)).prop_map(|(train, eval)| (train, eval, None, None)),
        text().prop_map(|folder| (vec![], vec![], Some(folder.into()), None)),
        (any::<u64>(), 1..1000_usize).prop_map(|(seed, prompts)| (
            vec![],
            vec![],
            None,
            Some(SandboxConfig { seed, prompts })
        )),
    ];
    let overlong =
        proptest::sample::select(vec![Overlong::Drop, Overlong::TruncatePromptLeft, Overlong::Error]);
    let pairing = proptest::sample::select(vec![
        Pairing::RandomTwo,
        Pairing::BestWorst,
        Pairing::BestRandom,
        Pairing::All,
    ]);
    (source, 2..100_000_usize, overlong, any::<bool>(), pairing, text(), proptest::option::of(text()))
        .prop_map(|(source, max_length, overlong, shuffle, pairing, score_field, template)| {
            let (train, eval, splits_dir, sandbox) = source;
            data::Config {
                train,
                eval,
                splits_dir,
                sandbox,
                max_length,
                overlong,
                shuffle,
                pairing,
                score_field,
                chat_template: template
                    .map_or(ChatTemplateSource::Auto, |path| ChatTemplateSource::File(path.into())),
            }
        })
}

fn objective() -> impl Strategy<Value = Vec<objective::Config>> {
    use objective::Config;
    let margin =
        || prop_oneof![Just(Margin::None), Just(Margin::Column), (0.0..1e6_f64).prop_map(Margin::Constant)];
    let bt = (margin(), 0.0..0.5_f64)
        .prop_map(|(margin, label_smoothing)| Config::BradleyTerry { margin, label_smoothing });
    let scopes = proptest::sample::select(vec![Scope::Global, Scope::MicroBatch]);
    let scales = proptest::sample::select(vec![Scale::Mean, Scale::Batch]);
    let bsr = (0.0..10.0_f64, scopes, scales).prop_map(|(lambda, scope, scale)| Config::SumToZero {
        lambda,
        scope,
        scale,
    });
    let hinge = margin().prop_map(|margin| Config::Hinge { margin });
    let normalized = (positive(), positive())
        .prop_map(|(temperature, epsilon)| Config::Normalized { temperature, epsilon });
    let center = (0.0..10.0_f64).prop_map(|coefficient| Config::Center { coefficient });
    let all = (bt, bsr, hinge, normalized, center).prop_map(|(bt, bsr, hinge, normalized, center)| {
        vec![bt, bsr, hinge, normalized, Config::Direct, center]
    });
    (all, 1..64_usize).prop_filter_map("no preference term", |(terms, mask)| {
        let chosen: Vec<Config> =
            terms.into_iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, term)| term).collect();
        chosen.iter().any(|term| term.kind().is_preference()).then_some(chosen)
    })
}

fn optim() -> impl Strategy<Value = optim::Config> {
    let schedule =
        proptest::sample::select(vec![Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::Wsd]);
    let warmup = prop_oneof![(0.0..=1.0).prop_map(Warmup::Ratio), any::<u64>().prop_map(Warmup::Steps)];
    let betas = [0.0..1.0_f64, 0.0..1.0_f64];
    let ratios = (0.0..=1.0_f64, 0.0..=1.0_f64);
    (positive(), betas, positive(), any::<bool>(), proptest::option::of(positive()), schedule, warmup, ratios)
        .prop_map(
            |(lr, betas, eps, decay_head, max_grad_norm, schedule, warmup, (decay_ratio, min_lr_ratio))| {
                let weight_decay = eps / 2.0;
                optim::Config {
                    kind: Kind::AdamW,
                    lr,
                    betas,
                    eps,
                    weight_decay,
                    decay_head,
                    max_grad_norm,
                    schedule,
                    warmup,
                    decay_ratio,
                    min_lr_ratio,
                }
            },
        )
}

fn train() -> impl Strategy<Value = trainer::Config> {
    let duration =
        prop_oneof![positive().prop_map(Duration::Epochs), (1..u64::MAX).prop_map(Duration::MaxSteps)];
    let device = prop_oneof![Just(Device::Auto), Just(Device::Cpu), (0..9_usize).prop_map(Device::Cuda)];
    let activations = proptest::sample::select(vec![
        Activations::Auto,
        Activations::Keep,
        Activations::Recompute,
        Activations::RewardsFirst,
    ]);
    let every = || proptest::option::of(1..1_000_000_u64);
    let metric = proptest::option::of(text().prop_map(|split| format!("{split}.kendall_tau")));
    let counts = (1..1_000_000_usize, 1..1_000_000_usize, 1..100_usize);
    let memory = proptest::option::of(positive());
    let patience = proptest::option::of(1..u32::MAX);
    (counts, duration, any::<u64>(), (every(), every(), patience), device, metric, activations, memory)
        .prop_map(
            |(
                counts,
                duration,
                seed,
                (eval_every, save_every, patience),
                device,
                best_metric,
                activations,
                memory,
            )| {
                let (batch_pairs, micro_batch_tokens, keep_last) = counts;
                trainer::Config {
                    batch_pairs,
                    micro_batch_tokens,
                    duration,
                    seed,
                    eval_every,
                    save_every,
                    keep_last,
                    device,
                    early_stopping_patience: patience.filter(|_| eval_every.is_some()),
                    best_metric,
                    activations,
                    memory_budget_gib: memory,
                }
            },
        )
}

fn run_config() -> impl Strategy<Value = RunConfig> {
    (model(), data(), objective(), optim(), train()).prop_map(|(model, data, objective, optim, mut train)| {
        if !data.train.is_empty() && data.eval.is_empty() {
            train.eval_every = None;
            train.early_stopping_patience = None;
            train.best_metric = None;
        }
        RunConfig { model, data, objective, optim, train }
    })
}

fn parse(text: &str, sets: &[&str]) -> Result<RunConfig, Error> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    RunConfig::parse(text, Path::new("test.toml"), &sets)
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(config in run_config()) {
        let text = config.to_toml();
        let read = parse(&text, &[]);
        prop_assert!(read.is_ok(), "{}\n{text}", read.unwrap_err());
        prop_assert_eq!(read.unwrap(), config);
    }

    #[test]
    fn no_text_panics(text in "[\\PC\n]{0,200}", set in "\\PC{0,40}") {
        let _ = parse(&text, &[&set]);
    }

    #[test]
    fn no_mutation_of_a_configuration_panics(
        config in run_config(),
        at in any::<proptest::sample::Index>(),
        with in "[\\PC\n]{0,3}",
        set in "(model|data|objective|optim|train)\\.[a-z_0-9-]{0,8}(\\.[a-z]{0,4})?=\\PC{0,12}",
    ) {
        let mut text = config.to_toml();
        let boundaries: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        let at = boundaries[at.index(boundaries.len())];
        let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
        text.replace_range(at..end, &with);
        let _ = parse(&text, &[&set]);
    }
}

const MINIMAL: &str = "model.path = \"m\"\ndata.train = [\"a\"]\n[[objective]]\nkind = \"bradley-terry\"\n";

#[test]
fn what_is_not_said_has_the_documented_default() {
    let config = parse(MINIMAL, &[]).unwrap();
    assert_eq!(config.data, data::Config { train: vec!["a".into()], ..Default::default() });
    assert_eq!(config.optim, optim::Config::default());
    assert_eq!(config.train, trainer::Config::default());
    assert_eq!(
        config.objective,
        [objective::Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 }]
    );
    let terms = "objective=[{kind=\"hinge\"},{kind=\"normalized\"},{kind=\"center\"},{kind=\"sum-to-zero\"}]";
    assert_eq!(
        parse(MINIMAL, &[terms]).unwrap().objective,
        [
            objective::Config::Hinge { margin: Margin::Constant(1.0) },
            objective::Config::Normalized { temperature: 1.0, epsilon: 1e-6 },
            objective::Config::Center { coefficient: 0.01 },
            objective::Config::SumToZero { lambda: 1e-3, scope: Scope::Global, scale: Scale::Mean },
        ]
    );
}

#[test]
fn flags_win_over_the_file_and_displace_what_excludes_them() {
    let text = format!("{MINIMAL}[train]\nepochs = 2\n[optim]\nwarmup_steps = 3\nlr = 1\n");
    let sets = ["train.max_steps=7", "optim.warmup_ratio=0.5", "optim.lr=2e-6", "data.splits_dir=uf"];
    let config = parse(&text, &sets).unwrap();
    assert_eq!(config.train.duration, Duration::MaxSteps(7));
    assert_eq!(config.optim.warmup, Warmup::Ratio(0.5));
    assert_eq!(config.optim.lr, 2e-6);
    assert_eq!(config.data.splits_dir.as_deref(), Some(Path::new("uf")));
    assert!(config.data.train.is_empty());
}

#[test]
fn one_string_is_a_list_of_one() {
    let config =
        parse(MINIMAL, &["data.train=hf://datasets/a/b/c.parquet", "data.eval=[\"x\", \"y\"]"]).unwrap();
    assert_eq!(config.data.train, ["hf://datasets/a/b/c.parquet"]);
    assert_eq!(config.data.eval, ["x", "y"]);
}

#[test]
fn the_word_none_takes_a_setting_back() {
    let text = format!("{MINIMAL}[train]\nsave_every = 5\n[optim]\nmax_grad_norm = 1.0\n");
    let config = parse(&text, &["train.save_every=none", "optim.max_grad_norm=none"]).unwrap();
    assert_eq!((config.train.save_every, config.optim.max_grad_norm), (None, None));
}

#[test]
fn something_to_evaluate_on_is_required_where_evaluations_are() {
    for flag in ["train.eval_every=5", "train.best_metric=x.accuracy"] {
        let error = parse(MINIMAL, &[flag]).unwrap_err().to_string();
        assert!(error.contains("without data.eval"), "{error}");
        assert!(parse(MINIMAL, &[flag, "data.eval=x"]).is_ok());
    }
}
