use super::{Example, Message, RowKind};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(value: Value) -> Example {
    Example::from_json(value, "overall_score").unwrap()
}

fn reason(value: Value) -> String {
    Example::from_json(value, "overall_score").unwrap_err()
}

fn texts(messages: &[Message]) -> Vec<(&str, &str)> {
    messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect()
}

fn assert_is_pair(example: &Example, prompt: &[(&str, &str)], chosen: &str, rejected: &str) {
    assert_eq!(example.kind, RowKind::Pair);
    assert_eq!(texts(&example.prompt), prompt);
    assert_eq!(texts(&example.responses[0].messages), [("assistant", chosen)]);
    assert_eq!(texts(&example.responses[1].messages), [("assistant", rejected)]);
}

fn scores(example: &Example) -> Vec<Option<f64>> {
    example.responses.iter().map(|r| r.score).collect()
}

#[test]
fn a_pair_of_strings_keeps_what_is_known_about_it() {
    let example = read(json!({
        "prompt": "p", "chosen": "c", "rejected": "r", "chosen-model": "m1", "rejected-model": "m2",
        "chosen-rating": 4.5, "score_rejected": "2", "margin": 0.5, "id": 7, "source": "s", "subset": 3,
    }));
    assert_is_pair(&example, &[("user", "p")], "c", "r");
    assert_eq!(scores(&example), [Some(4.5), Some(2.0)]);
    assert_eq!(example.responses[1].model.as_deref(), Some("m2"));
    assert_eq!((example.id.as_deref(), example.source.as_deref()), (Some("7"), Some("s")));
    assert_eq!(example.subset.as_deref(), Some("3"));
    assert_eq!(example.margin, Some(0.5));
}

#[test]
fn scores_in_the_metadata_count() {
    let metadata = json!({"score_chosen": 9.0, "score_rejected": 8.0});
    let example = read(json!({"prompt": "p", "chosen": "c", "rejected": "r", "metadata": metadata}));
    assert_eq!(scores(&example), [Some(9.0), Some(8.0)]);
}

#[test]
fn a_prompt_that_the_conversations_repeat_is_taken_once() {
    let user = json!({"role": "user", "content": "p"});
    let system = json!({"role": "system", "content": "s"});
    let says = |text: &str| json!({"role": "assistant", "content": text});
    let (c, r) = (json!([user, says("c")]), json!([user, says("r")]));
    assert_is_pair(&read(json!({"prompt": "p", "chosen": c, "rejected": r})), &[("user", "p")], "c", "r");
    assert_is_pair(&read(json!({"prompt": [user], "chosen": c, "rejected": r})), &[("user", "p")], "c", "r");
    assert_is_pair(&read(json!({"chosen": c, "rejected": r})), &[("user", "p")], "c", "r");
    assert_is_pair(&read(json!({"prompt": null, "chosen": c, "rejected": r})), &[("user", "p")], "c", "r");
    let with_system = [("system", "s"), ("user", "p")];
    let example = read(json!({"prompt": [system, user], "chosen": c, "rejected": r}));
    assert_is_pair(&example, &with_system, "c", "r");
    let (c, r) = (json!([system, user, says("c")]), json!([system, user, says("r")]));
    assert_is_pair(&read(json!({"prompt": "p", "chosen": c, "rejected": r})), &with_system, "c", "r");
    let (c, r) = (json!([says("c")]), json!([says("r")]));
    assert_is_pair(&read(json!({"prompt": "p", "chosen": c, "rejected": r})), &[("user", "p")], "c", "r");
    assert_is_pair(
        &read(json!({"prompt": [user], "chosen": "c", "rejected": "r"})),
        &[("user", "p")],
        "c",
        "r",
    );
}

#[test]
fn the_last_message_is_a_response_even_where_both_are_equal() {
    let same = json!([{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}]);
    assert_is_pair(&read(json!({"chosen": same, "rejected": same})), &[("user", "p")], "x", "x");
}

#[test]
fn conversations_that_contradict_the_prompt_are_refused() {
    let chat = |user: &str, text: &str| json!([{"role": "user", "content": user}, {"role": "assistant", "content": text}]);
    let found = reason(json!({"prompt": "p", "chosen": chat("other", "c"), "rejected": chat("other", "r")}));
    assert!(
        found.contains("chosen: starts with a message of \"user\" that does not repeat the prompt"),
        "{found}"
    );
    let found = reason(json!({"chosen": chat("a", "c"), "rejected": chat("b", "r")}));
    assert!(found.contains("differ in a message of \"user\""), "{found}");
    let found = reason(json!({"chosen": "c", "rejected": "r", "extra": 1}));
    assert!(found.contains("without a prompt") && found.contains("extra"), "{found}");
}

#[test]
fn share_gpt_and_stack_exchange_pairs() {
    let example = read(json!({
        "conversations": [
            {"from": "system", "value": "s"}, {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"},
        ],
        "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"},
    }));
    let prompt = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")];
    assert_is_pair(&example, &prompt, "good", "bad");
    let example = read(json!({"question": "q", "response_j": "good", "response_k": "bad"}));
    assert_is_pair(&example, &[("user", "q")], "good", "bad");
    let found =
        reason(json!({"conversations": [{"from": "alien", "value": "x"}], "chosen": "a", "rejected": "b"}));
    assert!(found.contains("conversations[0].from: found \"alien\""), "{found}");
}

#[test]
fn instruction_input_and_system_make_the_prompt() {
    let row = json!({"system": "s", "instruction": "do", "input": "this", "chosen": "c", "rejected": "r"});
    assert_is_pair(&read(row), &[("system", "s"), ("user", "do\nthis")], "c", "r");
    let row = json!({"system": "", "question": "q", "chosen": "c", "rejected": "r"});
    assert_is_pair(&read(row), &[("user", "q")], "c", "r");
}

#[test]
fn lists_of_chosen_and_rejected_strings_are_ranked() {
    let example = read(json!({"prompt": "p", "chosen": ["a", "b"], "rejected": ["c"]}));
    assert_eq!((example.kind, scores(&example)), (RowKind::Ranked, vec![Some(1.0), Some(1.0), Some(0.0)]));
    assert_eq!(texts(&example.responses[2].messages), [("assistant", "c")]);
}

#[test]
fn ultra_feedback_completions_name_their_models() {
    let example = read(json!({
        "source": "s", "instruction": "p", "models": ["y", "x", "w", "v"],
        "completions": [
            {"model": "x", "response": "1", "overall_score": 7.5, "fine-grained_score": 1.0},
            {"model": "y", "response": "2", "overall_score": null},
            {"model": "z", "response": "3"},
            {"model": "v", "response": null, "overall_score": "6"},
        ],
    }));
    assert_eq!(scores(&example), [Some(7.5), None, None, Some(6.0)]);
    let models: Vec<_> = example.responses.iter().map(|r| r.model.as_deref().unwrap()).collect();
    assert_eq!(models, ["x", "y", "z", "v"]);
    assert!(example.responses[3].messages.is_empty());
    assert!(read(json!({"instruction": "p", "completions": []})).responses.is_empty());
}

#[test]
fn without_the_score_field_a_row_has_one_other_scale() {
    let rated = |ratings: &[&str]| {
        let aspects: serde_json::Map<String, Value> =
            ratings.iter().enumerate().map(|(i, r)| (i.to_string(), json!({"Rating": r}))).collect();
        json!({"model": "m", "response": "x", "annotations": aspects, "fine-grained_score": 9.0})
    };
    let example =
        read(json!({"instruction": "p", "completions": [rated(&["2", "N/A", "5"]), rated(&["N/A"])]}));
    assert_eq!(scores(&example), [Some(3.5), None]);
    let example = read(json!({"instruction": "p", "completions": [rated(&[]), rated(&["N/A"])]}));
    assert_eq!(scores(&example), [Some(9.0), Some(9.0)]);
    let mut scored = rated(&["5"]);
    scored["overall_score"] = json!(1);
    let example = read(json!({"instruction": "p", "completions": [scored, rated(&["4"])]}));
    assert_eq!(scores(&example), [Some(1.0), None]);
    let row = json!({"instruction": "p", "completions": [rated(&["5"]), rated(&["4"])]});
    assert_eq!(scores(&Example::from_json(row, "overal_score").unwrap()), [None, None]);
}

#[test]
fn the_mean_of_the_ratings_can_be_asked_for() {
    let completion = |rating: &str| json!({"response": "x", "overall_score": 10, "annotations": {"a": {"Rating": rating}, "b": {"Rating": "4"}}});
    let row = json!({"instruction": "p", "completions": [completion("1"), completion("N/A"), {"response": "y", "overall_score": 9}]});
    let example = Example::from_json(row, "mean-rating").unwrap();
    assert_eq!(scores(&example), [Some(2.5), Some(4.0), None]);
}

#[test]
fn a_null_response_is_one_without_text() {
    let example = read(json!({"prompt": "p", "chosen": null, "rejected": "r"}));
    assert_eq!(texts(&example.responses[0].messages), [("assistant", "")]);
    assert!(read(json!({"prompt": "p", "responses": [null, "a"]})).responses[0].messages.is_empty());
}

#[test]
fn k_responses_with_and_without_scores() {
    let example =
        read(json!({"prompt": "p", "responses": ["a", "b"], "scores": [1, null], "models": ["x", "y"]}));
    assert_eq!((example.kind, scores(&example)), (RowKind::Ranked, vec![Some(1.0), None]));
    assert_eq!(example.responses[0].model.as_deref(), Some("x"));
    let example = read(json!({"instruction": "p", "responses": ["a"]}));
    assert_eq!(scores(&example), [None]);
    let example = read(
        json!({"prompt": "p", "response_1_text": "a", "response_2_text": "b", "all_scores": [0.5, 2.0]}),
    );
    assert_eq!(scores(&example), [Some(0.5), Some(2.0)]);
    let found = reason(json!({"prompt": "p", "responses": ["a"], "scores": [1, 2]}));
    assert_eq!(found, "scores: found 2 entries, expected 1, one a response");
    let found = reason(json!({"prompt": "p", "responses": ["a"], "scores": ["good"]}));
    assert_eq!(found, "scores[0]: found the string \"good\", expected a number");
}

#[test]
fn who_reads_the_texts_alone_is_not_refused_for_what_stands_beside_them() {
    let completion = |score: Value| json!({"response": "a", "overall_score": score, "annotations": {"x": {"Rating": "4/5"}}});
    for (row, responses) in [
        (json!({"instruction": "p", "completions": [completion(json!("10/10")), completion(json!([]))]}), 2),
        (json!({"prompt": "p", "responses": ["a", {"response": "b", "overall_score": {}}], "scores": 3}), 2),
        (json!({"prompt": "p", "responses": ["a"], "scores": ["good"], "models": ["m", "n"]}), 1),
        // Lists with a place for every slot of the table, used or not.
        (
            json!({"instruction": "p", "response_1_text": "a", "response_2_text": null, "all_scores": ["?", 1],
                "models": ["m", "n"]}),
            1,
        ),
        (json!({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "wide"}), 2),
    ] {
        let example = Example::texts_from_json(row.clone()).unwrap();
        assert_eq!(scores(&example), vec![None; responses], "{row}");
        let refused = Example::from_json(row.clone(), "overall_score");
        assert!(refused.is_err(), "{row}");
    }
    let found =
        Example::texts_from_json(json!({"prompt": "p", "completions": [{"model": "m"}]})).unwrap_err();
    assert!(found.contains("expected \"response\""), "{found}");
}

#[test]
fn rows_to_score() {
    let example = read(json!({"prompt": "p", "response": "a"}));
    assert_eq!(
        (example.kind, texts(&example.conversation(0))),
        (RowKind::Single, vec![("user", "p"), ("assistant", "a")])
    );
    let with = |score: Value| {
        let row = json!({"prompt": "p", "response": "a", "score": score, "model": "m", "gold": 2});
        let of = |field| scores(&Example::from_json(row.clone(), field).unwrap())[0];
        (of("overall_score"), of("gold"))
    };
    assert_eq!(with(json!(0.5)), (Some(0.5), Some(2.0)));
    // What can be scored without its score is not refused for it.
    assert_eq!(with(json!("good")), (None, Some(2.0)));
    let example = read(json!({"prompt": "p", "response": "a", "model": "m"}));
    assert_eq!(example.responses[0].model.as_deref(), Some("m"));
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let chat =
        json!([{"role": "user", "content": "p", "name": "n"}, {"role": "assistant", "content": parts}]);
    let example = read(json!({"messages": chat}));
    assert_eq!(texts(&example.conversation(0)), [("user", "p"), ("assistant", "ab")]);
    assert_eq!(example.prompt[0].extra["name"], "n");
}

#[test]
fn what_is_no_row_says_what_was_found_and_expected() {
    let found = reason(json!({"text": "x", "label": 1}));
    assert!(found.contains("text, label") && found.contains("completions[]"), "{found}");
    assert_eq!(reason(json!([1])), "found a list, expected a row: a JSON object");
    assert!(reason(json!({"prompt": "p", "chosen": "c"})).contains("chosen without rejected"));
    assert!(reason(json!({"response": "r"})).contains("expected a prompt"));
    assert!(reason(json!({"messages": []})).contains("an empty list"));
    assert!(reason(json!({"prompt": 3, "response": "r"})).contains("prompt: found a number"));
    assert!(reason(json!({"prompt": "p", "completions": 3})).contains("completions: expected a list"));
    assert!(
        reason(json!({"prompt": "p", "completions": [{"model": "m"}]})).contains("expected \"response\"")
    );
    assert!(reason(json!({"messages": [{"role": 1}]})).contains("role: found a number"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "prompt",
        "chosen",
        "rejected",
        "completions",
        "responses",
        "scores",
        "models",
        "messages",
        "role",
        "content",
        "from",
        "value",
        "response",
        "conversations",
        "annotations",
        "Rating",
        "response_1_text",
        "all_scores",
        "instruction",
        "margin",
        "metadata",
        "score_chosen",
        "overall_score",
        "text",
    ]);
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_value_panics_and_refusals_say_why(value in any_json()) {
        match Example::from_json(value, "overall_score") {
            Ok(example) => for i in 0..example.responses.len() {
                prop_assert!(example.conversation(i).len() >= example.prompt.len());
            },
            Err(reason) => prop_assert!(!reason.is_empty()),
        }
    }
}

#[test]
fn a_label_says_which_response_is_chosen() {
    let row = |label: Value| json!({"question": "q", "response_A": "a", "response_B": "b", "label": label});
    assert_is_pair(&read(row(json!("A>B"))), &[("user", "q")], "a", "b");
    assert_is_pair(&read(row(json!("B>A"))), &[("user", "q")], "b", "a");
    assert_eq!(reason(row(json!("A=B"))), "label: found the string \"A=B\", expected A>B or B>A");
    assert_eq!(reason(row(Value::Null)), "label: found nothing, expected A>B or B>A");
}
