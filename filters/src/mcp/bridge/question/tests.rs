use super::*;

const FORM: &str = r#"{"method":"elicitation/create","params":{"message":"?","requestedSchema":{}}}"#;

fn asked(requests: &str, state: &str) -> Result<(Vec<Question>, Option<String>), Fault> {
    questions_of(&format!(r#"{{"resultType":"input_required"{requests}{state}}}"#))
}

#[test]
fn the_questions_of_a_modern_server_are_read() {
    let (questions, state) =
        asked(&format!(r#","inputRequests":{{"k\u0031":{FORM}}}"#), r#","requestState":"\u0041=""#).unwrap();
    assert_eq!(state.as_deref(), Some(r#""\u0041=""#));
    let expected = Question {
        key: "k1".into(),
        method: "elicitation/create".into(),
        params: r#"{"message":"?","requestedSchema":{}}"#.into(),
        elicitation_id: None,
    };
    assert_eq!(questions, [expected]);

    let roots = asked(r#","inputRequests":{"r":{"method":"roots/list"}}"#, "").unwrap();
    assert_eq!((&*roots.0[0].params, roots.1), ("{}", None));
    assert_eq!(asked("", r#","requestState":"s""#), Ok((Vec::new(), Some("\"s\"".to_owned()))));
    assert_eq!(asked(r#","inputRequests":{}"#, r#","requestState":"s""#).unwrap().0, []);
}

#[test]
fn what_no_client_could_answer_is_refused() {
    let unknown = Fault::Shape("a question must be an elicitation, a sampling, or ask for roots");
    let cases = [
        (
            "nothing",
            String::new(),
            Fault::Shape("a result that asks for input must have `inputRequests` or `requestState`"),
        ),
        ("a list", r#","inputRequests":[]"#.to_owned(), Fault::Shape("`inputRequests` must be an object")),
        (
            "a call",
            r#","inputRequests":{"a":{"method":"tools/call","params":{}}}"#.to_owned(),
            unknown.clone(),
        ),
        ("no method", r#","inputRequests":{"a":{}}"#.to_owned(), unknown),
        (
            "no parameters",
            r#","inputRequests":{"a":{"method":"elicitation/create"}}"#.to_owned(),
            Fault::Shape("the parameters of a question must be an object"),
        ),
        ("the same key", format!(r#","inputRequests":{{"a":{FORM},"\u0061":{FORM}}}"#), Fault::DuplicateKey),
        (
            "the same message",
            r#","inputRequests":{"a":{"method":"elicitation/create","params":{"url":"x","url":"y"}}}"#
                .to_owned(),
            Fault::DuplicateKey,
        ),
        (
            "state of another type",
            r#","requestState":{"a":1}"#.to_owned(),
            Fault::Shape("`requestState` must be a string"),
        ),
    ];
    for (name, requests, fault) in cases {
        assert_eq!(asked(&requests, ""), Err(fault), "{name}");
    }
    assert_eq!(questions_of("{}"), Err(Fault::Shape("the result asks for no input")));
}

#[test]
fn rounds_are_bounded() {
    let many = |count: usize, text: &str| {
        let entries: Vec<String> = (0..count).map(|key| format!("\"k{key}\":{text}")).collect();
        entries.join(",")
    };
    let full = format!(r#","inputRequests":{{{}}}"#, many(MAX_QUESTIONS, FORM));
    assert_eq!(asked(&full, "").unwrap().0.len(), MAX_QUESTIONS);
    let over = format!(r#","inputRequests":{{{}}}"#, many(MAX_QUESTIONS + 1, FORM));
    assert!(matches!(asked(&over, ""), Err(Fault::Bound { limit: MAX_QUESTIONS, .. })));
    let state = format!(r#","requestState":"{}""#, "x".repeat(MAX_STATE_BYTES));
    assert!(matches!(asked("", &state), Err(Fault::Bound { limit: MAX_STATE_BYTES, .. })));
    let retry = format!(r#"{{"inputResponses":{{{}}}}}"#, many(MAX_QUESTIONS + 1, "{}"));
    assert!(matches!(input_responses(&Object::read(&retry).unwrap()), Err(Fault::Bound { .. })));
}

#[test]
fn the_question_of_a_legacy_server_reaches_a_modern_client() {
    let message = r#"{"jsonrpc":"2.0","id":5,"method":"elicitation/create","params":{"_meta":{"progressToken":1,"io.modelcontextprotocol/related-task":{},"a" : 1.0},"mode":"url","url":"u","message" : "?","elicitationId":"e","task":{}}}"#;
    let question = question_of_server_request(message, "r1").unwrap().unwrap();
    assert_eq!(question.elicitation_id.as_deref(), Some("\"e\""));
    assert_eq!(
        input_required(std::slice::from_ref(&question), "a\"b"),
        r#"{"resultType":"input_required","inputRequests":{"r1":{"method":"elicitation/create","params":{"mode":"url","url":"u","message" : "?","_meta":{"a" : 1.0}}}},"requestState":"a\"b"}"#
    );
    assert!(legacy_question(&question, "1", "minted").contains(r#""elicitationId":"e"}"#));
    let (read, state) = questions_of(&input_required(std::slice::from_ref(&question), "a\"b")).unwrap();
    assert_eq!(
        (read, state.as_deref()),
        (vec![Question { elicitation_id: None, ..question }], Some(r#""a\"b""#))
    );
}

#[test]
fn only_questions_are_taken_for_questions() {
    let ask = |method: &str, params: &str| {
        let message = format!(r#"{{"jsonrpc":"2.0","id":5,"method":"{method}"{params}}}"#);
        question_of_server_request(&message, "k").map(|question| question.map(|question| question.params))
    };
    let object = Err(Fault::Shape("the parameters of a question must be an object"));
    assert_eq!(ask("ping", ""), Ok(None));
    assert_eq!(ask("tasks/get", r#","params":{}"#), Ok(None));
    assert_eq!(ask("roots/list", ""), Ok(Some("{}".into())));
    assert_eq!(ask("roots/list", r#","params":null"#), Ok(Some("{}".into())));
    assert_eq!(ask("sampling/createMessage", r#","params":{"a":1.0}"#), Ok(Some(r#"{"a":1.0}"#.into())));
    assert_eq!(ask("sampling/createMessage", ""), object);
    assert_eq!(ask("elicitation/create", r#","params":[]"#), object);
    assert_eq!(ask("elicitation/create", r#","params":{"a":1,"a":2}"#), Err(Fault::DuplicateKey));
}

#[test]
fn the_question_of_a_modern_server_reaches_a_legacy_client() {
    let question = |method: &str, params: &str| Question {
        key: "k".into(),
        method: method.into(),
        params: params.into(),
        elicitation_id: None,
    };
    assert_eq!(
        legacy_question(&question("elicitation/create", r#"{"mode":"url","url":"u"}"#), "\"gw-1\"", "e1"),
        r#"{"jsonrpc":"2.0","id":"gw-1","method":"elicitation/create","params":{"mode":"url","url":"u","elicitationId":"e1"}}"#
    );
    assert_eq!(
        legacy_question(
            &question("roots/list", r#"{"_meta":{"io.modelcontextprotocol/x":1,"progressToken":1}}"#),
            "1",
            "e1"
        ),
        r#"{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{}}"#
    );
    assert_eq!(
        legacy_question(
            &question("roots/list", r#"{"_meta":{"io.modelcontextprotocol/x":1,"a":1.0}}"#),
            "1",
            "e1"
        ),
        r#"{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{"_meta":{"a":1.0}}}"#
    );
    assert_eq!(
        legacy_question(&question("elicitation/create", r#"{"message" : "?"}"#), "1", "e1"),
        r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message" : "?"}}"#
    );
    assert_eq!(
        legacy_question(&question("sampling/createMessage", r#"{"mode":"url"}"#), "1", "e1"),
        r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"mode":"url"}}"#
    );
}

#[test]
fn a_question_says_what_it_takes_to_answer() {
    for (method, params, ability) in [
        ("roots/list", "{}", Ability::Roots),
        ("sampling/createMessage", "{}", Ability::Sample),
        ("sampling/createMessage", r#"{"tools":null}"#, Ability::Sample),
        ("sampling/createMessage", r#"{"tools":[]}"#, Ability::SampleTools),
        ("sampling/createMessage", r#"{"toolChoice":{}}"#, Ability::SampleTools),
        ("elicitation/create", "{}", Ability::Elicit),
        ("elicitation/create", r#"{"mode":"form"}"#, Ability::Elicit),
        ("elicitation/create", r#"{"mode":"\u0075rl"}"#, Ability::ElicitUrl),
    ] {
        let question =
            Question { key: "k".into(), method: method.into(), params: params.into(), elicitation_id: None };
        assert_eq!(question.ability(), ability, "{method} {params}");
    }
}

#[test]
fn what_a_retry_carries_is_read() {
    let read = |params: &str| input_responses(&Object::read(params).unwrap());
    let carried = |responses: &[(&str, &str)], state: Option<&str>| {
        let responses = responses.iter().map(|&(key, text)| (key.into(), text.to_owned())).collect();
        Ok(Some(InputResponses { responses, request_state: state.map(str::to_owned) }))
    };
    assert_eq!(read(r#"{"name":"t"}"#), Ok(None));
    assert_eq!(read(r#"{"inputResponses":null,"requestState":null}"#), Ok(None));
    assert_eq!(read(r#"{"requestState":"a\u0062"}"#), carried(&[], Some("ab")));
    assert_eq!(
        read(r#"{"requestState":"s","inputResponses":{"k":{"action":"accept","content":{"n": 1.0}}}}"#),
        carried(&[("k", r#"{"action":"accept","content":{"n": 1.0}}"#)], Some("s"))
    );
    assert_eq!(read(r#"{"inputResponses":{}}"#), carried(&[], None));
    for (params, fault) in [
        (r#"{"inputResponses":[]}"#, Fault::Shape("`inputResponses` must be an object")),
        (r#"{"inputResponses":{"k":7}}"#, Fault::Shape("each of `inputResponses` must be an object")),
        (r#"{"inputResponses":{"k":{},"k":{}}}"#, Fault::DuplicateKey),
        (r#"{"inputResponses":{"k":{"action":"accept","action":"decline"}}}"#, Fault::DuplicateKey),
        (r#"{"requestState":7}"#, Fault::Shape("`requestState` must be a string")),
        (r#"{"requestState":"\ud800"}"#, Fault::Shape("`requestState` must be a string")),
    ] {
        assert_eq!(read(params), Err(fault), "{params}");
    }
}

#[test]
fn a_legacy_client_answers_or_refuses() {
    let result = r#"{"jsonrpc":"2.0","id":"gw-1","result":{"action" : "accept"}}"#;
    assert_eq!(legacy_reply(result), Ok(Reply::Result(r#"{"action" : "accept"}"#.to_owned())));
    let error = r#"{"jsonrpc":"2.0","id":"gw-1","error":{"code":-1,"message":"no"}}"#;
    assert_eq!(legacy_reply(error), Ok(Reply::Error(r#"{"code":-1,"message":"no"}"#.to_owned())));
    assert!(legacy_reply(r#"{"jsonrpc":"2.0","id":"gw-1","method":"m"}"#).is_err());
}
