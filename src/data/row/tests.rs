use super::*;
use proptest::prelude::*;
use serde_json::json;

fn read(row: Value) -> Example {
    Example::from_json(row, "overall_score").unwrap()
}

fn reason(row: Value) -> String {
    Example::from_json(row, "overall_score").unwrap_err()
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// `role:content` of every message, joined.
fn shown(messages: &[Message]) -> String {
    messages.iter().map(|m| format!("{}:{}", m.role, m.content)).collect::<Vec<_>>().join(" ")
}

fn pair(row: Value) -> (String, String, String) {
    let example = read(row);
    assert_eq!((example.kind, example.responses.len()), (RowKind::Pair, 2));
    let side = |i: usize| shown(&example.responses[i].messages);
    (shown(&example.prompt), side(0), side(1))
}

fn parts(prompt: &str, chosen: &str, rejected: &str) -> (String, String, String) {
    (prompt.into(), chosen.into(), rejected.into())
}

#[test]
fn a_pair_of_texts_keeps_what_it_knows() {
    let example = read(json!({
        "prompt": "p", "chosen": "c", "rejected": "r", "chosen-model": "a", "rejected-model": "b",
        "chosen-rating": 4.5, "score_rejected": "3", "margin": 0.25, "id": 7, "source": "s", "extra": [1]
    }));
    assert_eq!(shown(&example.prompt), "user:p");
    let [chosen, rejected] = &example.responses[..] else { panic!() };
    assert_eq!(
        (shown(&chosen.messages), chosen.score, chosen.model.as_deref()),
        ("assistant:c".into(), Some(4.5), Some("a"))
    );
    assert_eq!((rejected.score, rejected.model.as_deref()), (Some(3.0), Some("b")));
    assert_eq!(
        (example.margin, example.id.as_deref(), example.source.as_deref()),
        (Some(0.25), Some("7"), Some("s"))
    );
    let nested = read(json!({
        "prompt": "p", "chosen": "c", "rejected": "r", "metadata": {"score_chosen": 2.0, "score_rejected": null}
    }));
    assert_eq!((nested.responses[0].score, nested.responses[1].score), (Some(2.0), None));
}

#[test]
fn prompts_stand_under_several_names() {
    let sides = |mut row: Value| {
        row["chosen"] = json!("c");
        row["rejected"] = json!("r");
        pair(row).0
    };
    assert_eq!(sides(json!({"instruction": "i"})), "user:i");
    assert_eq!(sides(json!({"instruction": "i", "input": "x"})), "user:i\nx");
    assert_eq!(sides(json!({"instruction": "i", "input": ""})), "user:i");
    assert_eq!(sides(json!({"question": "q", "system": "s"})), "system:s user:q");
    assert_eq!(
        sides(json!({"prompt": [turn("system", "own"), turn("user", "q")], "system": "s"})),
        "system:own user:q"
    );
    assert_eq!(sides(json!({"messages": [turn("user", "m")]})), "user:m");
    assert_eq!(sides(json!({"prompt": null, "instruction": "i"})), "user:i");
}

#[test]
fn conversations_alone_share_their_prompt() {
    let row = |chosen: Value, rejected: Value| json!({"chosen": chosen, "rejected": rejected});
    let (u, v, a, b) = (turn("user", "u"), turn("user", "v"), turn("assistant", "a"), turn("assistant", "b"));
    assert_eq!(pair(row(json!([u, a]), json!([u, b]))), parts("user:u", "assistant:a", "assistant:b"));
    assert_eq!(
        pair(row(json!([u, a, v, a]), json!([u, a, v, b]))),
        parts("user:u assistant:a user:v", "assistant:a", "assistant:b")
    );
    // One goes on where the other ends: the reply that ends it stays a reply.
    assert_eq!(
        pair(row(json!([u, a]), json!([u, a, v, b]))),
        parts("user:u", "assistant:a", "assistant:a user:v assistant:b")
    );
    assert_eq!(pair(row(json!([u, a]), json!([u, a]))), parts("user:u", "assistant:a", "assistant:a"));
    assert_eq!(pair(row(json!([u]), json!([u, a]))), parts("user:u", "", "assistant:a"));
    let differs = reason(row(json!([u, a]), json!([v, a])));
    assert_eq!(
        differs,
        "chosen[0]: chosen and rejected differ in a message of \"user\", expected the same prompt"
    );
    assert!(reason(row(json!([a]), json!([b]))).contains("no message in common"));
}

#[test]
fn a_prompt_that_both_sides_repeat_is_not_doubled() {
    let (s, u, a, b) =
        (turn("system", "s"), turn("user", "u"), turn("assistant", "a"), turn("assistant", "b"));
    let row = |prompt: Value, chosen: Value, rejected: Value| {
        pair(json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    };
    let plain = parts("user:u", "assistant:a", "assistant:b");
    assert_eq!(row(json!("u"), json!([u, a]), json!([u, b])), plain);
    assert_eq!(row(json!([u]), json!([u, a]), json!([u, b])), plain);
    assert_eq!(row(json!([u]), json!([a]), json!([b])), plain);
    assert_eq!(row(json!("u"), json!([a]), json!("b")), plain);
    // The column leaves out the system message, or the sides do.
    let with_system = parts("system:s user:u", "assistant:a", "assistant:b");
    assert_eq!(row(json!("u"), json!([s, u, a]), json!([s, u, b])), with_system);
    assert_eq!(row(json!([s, u]), json!([u, a]), json!([u, b])), with_system);
    // The column holds the last turn of several.
    let (t, x) = (turn("user", "t"), turn("assistant", "x"));
    assert_eq!(
        row(json!("u"), json!([t, x, u, a]), json!([t, x, u, b])),
        parts("user:t assistant:x user:u", "assistant:a", "assistant:b")
    );
    let other = reason(json!({"prompt": "other", "chosen": [u, a], "rejected": [u, b]}));
    assert_eq!(
        other,
        "chosen: starts with a message of \"user\" that does not repeat the prompt, expected the assistant's"
    );
}

#[test]
fn null_fields_of_messages_are_absent_and_others_stay() {
    let example = read(json!({
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"], "name": "n", "tool_calls": null}],
        "chosen": {"role": "assistant", "content": null, "tool_calls": [1]}, "rejected": "r"
    }));
    assert_eq!(example.prompt[0].content, "ab");
    assert_eq!(Value::Object(example.prompt[0].extra.clone()), json!({"name": "n"}));
    assert_eq!(Value::Object(example.responses[0].messages[0].extra.clone()), json!({"tool_calls": [1]}));
}

#[test]
fn ultrafeedback_takes_the_order_of_its_completions() {
    let example = read(json!({
        "source": "flan", "instruction": "i", "models": ["b", "a", "c"],
        "completions": [
            {"model": "a", "response": "ra", "overall_score": 7.5, "fine-grained_score": 1.0},
            {"model": "b", "response": "rb", "overall_score": null,
             "annotations": {"x": {"Rating": "4"}, "y": {"Rating": "1"}, "z": {"Rating": "N/A"}}},
            {"model": "c", "response": "rc", "fine-grained_score": 2.5},
        ]
    }));
    assert_eq!(example.kind, RowKind::Ranked);
    let found: Vec<_> = example.responses.iter().map(|r| (r.model.as_deref().unwrap(), r.score)).collect();
    assert_eq!(found, [("a", Some(7.5)), ("b", None), ("c", Some(2.5))]);
    assert!(read(json!({"instruction": "i", "completions": []})).responses.is_empty());
}

#[test]
fn ratings_stand_in_for_the_default_score_field_only() {
    let row = json!({"instruction": "i", "completions": [
        {"response": "r", "annotations": {"x": {"Rating": "4"}, "y": {"Rating": 1}, "z": {"Rating": "N/A"}, "w": {}}}
    ]});
    assert_eq!(read(row.clone()).responses[0].score, Some(2.5));
    assert_eq!(Example::from_json(row, "overal_score").unwrap().responses[0].score, None);
}

#[test]
fn scores_that_are_no_numbers() {
    let with = |score: Value| {
        let row = json!({"instruction": "i", "completions": [{"response": "r", "overall_score": score}]});
        Example::from_json(row, "overall_score").map(|e| e.responses[0].score)
    };
    for none in [json!(null), json!("N/A"), json!("NaN"), json!("")] {
        assert_eq!(with(none), Ok(None));
    }
    assert_eq!(with(json!(" 3.5 ")), Ok(Some(3.5)));
    let bad = "completions[0].overall_score: found the string \"high\", expected a number";
    assert_eq!(with(json!("high")), Err(bad.into()));
    assert!(with(json!([1])).unwrap_err().ends_with("found a list, expected a number"));
}

#[test]
fn k_responses_in_lists_and_in_numbered_columns() {
    let lists = read(
        json!({"prompt": "p", "responses": ["a", [turn("assistant", "b")], {"response": "c", "model": "m"}],
        "scores": [1, null, "2.5"], "models": ["x", null, null]}),
    );
    let found: Vec<_> =
        lists.responses.iter().map(|r| (shown(&r.messages), r.score, r.model.clone())).collect();
    assert_eq!(found[0], ("assistant:a".into(), Some(1.0), Some("x".into())));
    assert_eq!(found[1], ("assistant:b".into(), None, None));
    assert_eq!(found[2], ("assistant:c".into(), Some(2.5), Some("m".into())));
    assert_eq!(read(json!({"prompt": "p", "responses": []})).kind, RowKind::Ranked);

    let columns = read(json!({"instruction": "i", "response_1_text": "a", "response_2_text": null,
        "response_3_text": "c", "response_4_text": null, "all_scores": [1.0, 2.0, 3.0, null]}));
    let found: Vec<_> = columns.responses.iter().map(|r| (shown(&r.messages), r.score)).collect();
    assert_eq!(found, [("assistant:a".into(), Some(1.0)), ("assistant:c".into(), Some(3.0))]);

    let short = json!({"prompt": "p", "responses": ["a", "b"], "scores": [1]});
    assert_eq!(reason(short), "scores: found 1 entries, expected 2, one a response");
    let short = json!({"prompt": "p", "response_1_text": "a", "response_2_text": "b", "all_scores": [1]});
    assert_eq!(reason(short), "all_scores: found 1 scores, expected 2");
}

#[test]
fn lists_of_right_and_wrong_answers_are_graded() {
    let example =
        read(json!({"id": 8, "prompt": "p", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}));
    assert_eq!(example.kind, RowKind::Ranked);
    let found: Vec<_> = example.responses.iter().map(|r| (shown(&r.messages), r.score.unwrap())).collect();
    assert_eq!(found[2], ("assistant:c".into(), 1.0));
    assert_eq!(found[3], ("assistant:d".into(), 0.0));
    let mixed = json!({"prompt": "p", "chosen": ["a", 1], "rejected": ["d"]});
    assert_eq!(reason(mixed), "chosen[1]: found a number, expected a string");
    let uneven = json!({"prompt": "p", "chosen": ["a"], "rejected": "d"});
    assert!(reason(uneven).starts_with("rejected: found"));
}

#[test]
fn sharegpt_and_stack_exchange_pairs() {
    let sharegpt = json!({
        "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}],
        "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}
    });
    assert_eq!(pair(sharegpt), parts("system:s user:h", "assistant:a", "assistant:b"));
    let stack = json!({"question": "q", "response_j": "a", "response_k": "b"});
    assert_eq!(pair(stack), parts("user:q", "assistant:a", "assistant:b"));
    let speaker =
        json!({"conversations": [{"from": "narrator", "value": "x"}], "chosen": "a", "rejected": "b"});
    assert!(
        reason(speaker).starts_with("conversations[0].from: found \"narrator\", expected human, user, gpt")
    );
}

#[test]
fn rows_to_score() {
    let single = |row: Value| {
        let example = read(row);
        assert_eq!((example.kind, example.responses.len()), (RowKind::Single, 1));
        (shown(&example.prompt), shown(&example.responses[0].messages))
    };
    let expected = ("user:p".to_owned(), "assistant:r".to_owned());
    assert_eq!(single(json!({"prompt": "p", "response": "r"})), expected);
    assert_eq!(single(json!({"messages": [turn("user", "p"), turn("assistant", "r")]})), expected);
    assert_eq!(
        single(json!({"prompt": "p", "response": [turn("user", "p"), turn("assistant", "r")]})),
        expected
    );
    let conversation =
        json!({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}]});
    assert_eq!(single(conversation), expected);
    let unanswered = reason(json!({"messages": [turn("user", "p")]}));
    assert_eq!(unanswered, "messages: ends with a message of \"user\", expected the assistant's to score");
}

#[test]
fn reasons_say_what_was_found_and_expected() {
    let unknown = reason(json!({"text": "a", "label": 1}));
    assert!(
        unknown.starts_with("found the keys text, label; expected a pair (prompt + chosen + rejected;"),
        "{unknown}"
    );
    assert!(reason(json!({})).starts_with("found the keys (none);"));
    assert_eq!(reason(json!([1])), "found a list, expected a row: a JSON object");
    assert_eq!(
        reason(json!({"prompt": "p", "chosen": "c", "rejected": null})),
        "found chosen without rejected, expected both"
    );
    assert_eq!(
        reason(json!({"prompt": "p", "chosen": 3, "rejected": "r"})),
        "chosen: found a number, expected a string or messages"
    );
    assert!(
        reason(json!({"chosen": "c", "rejected": "r", "id": 1}))
            .contains("without a prompt (other keys: id)")
    );
    assert_eq!(
        reason(json!({"prompt": [turn("user", "u"), {"text": "x"}], "chosen": "c", "rejected": "r"})),
        "prompt[1]: found the keys text, expected \"role\" and \"content\" (or \"from\" and \"value\")"
    );
    assert_eq!(
        reason(json!({"prompt": [{"role": "user"}], "chosen": "c", "rejected": "r"})),
        "prompt[0]: a message of \"user\" without content, expected a string"
    );
    assert_eq!(
        reason(json!({"prompt": [], "chosen": "c", "rejected": "r"})),
        "prompt: found an empty list, expected a list of messages"
    );
    assert_eq!(
        reason(json!({"prompt": "p", "chosen": [], "rejected": []})),
        "chosen: found an empty list, expected a list of messages"
    );
    assert_eq!(
        reason(json!({"prompt": "p", "chosen": "c", "rejected": "r", "margin": "big"})),
        "margin: found the string \"big\", expected a number"
    );
    assert_eq!(
        reason(json!({"instruction": "i", "completions": [{"response": "a"}, {"model": "m"}]})),
        "completions[1]: found the keys (none), expected \"response\""
    );
    assert_eq!(
        reason(json!({"instruction": "i", "completions": ["a"]})),
        "completions[0]: found the string \"a\", expected an object"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "prompt",
        "chosen",
        "rejected",
        "messages",
        "conversations",
        "completions",
        "response",
        "responses",
        "scores",
        "models",
        "instruction",
        "response_1_text",
        "response_2_text",
        "all_scores",
        "role",
        "content",
        "from",
        "value",
        "margin",
        "id",
        "system",
        "overall_score",
        "annotations",
        "metadata",
        "response_j",
        "response_k",
        "question",
    ]);
    let text =
        prop::sample::select(vec!["", "user", "assistant", "system", "human", "gpt", "x", "1.5", "N/A"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..8).prop_map(|fields| fields
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_json_is_an_example_or_a_reason(row in any_json()) {
        match Example::from_json(row, "overall_score") {
            Ok(example) => match example.kind {
                RowKind::Pair => prop_assert_eq!(example.responses.len(), 2),
                RowKind::Single => prop_assert_eq!(example.responses.len(), 1),
                RowKind::Ranked => {}
            },
            Err(reason) => prop_assert!(!reason.is_empty()),
        }
    }
}
