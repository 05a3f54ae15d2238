//! What a policy does not read never changes what it says: of the samples, and of every policy that is
//! compared with OPA.

use crate::prove::policy::cases;
use portunus_filters::authorize::Ruling;
use serde_json::{Map, Value, json};

/// `input` with everything outside of `places` changed, and more beside it.
fn changed(input: &Value, places: &[String], at: &str) -> Value {
    if places.iter().any(|place| place == at) {
        return input.clone();
    }
    let leads = places.iter().any(|place| place.starts_with(&format!("{at}.")));
    match input {
        Value::Object(members) if leads => {
            let member = |(key, value): (&String, &Value)| {
                (key.clone(), changed(value, places, &format!("{at}.{key}")))
            };
            let mut kept: Map<String, Value> = members.iter().map(member).collect();
            kept.insert("nobody reads this".to_owned(), json!([at]));
            Value::Object(kept)
        }
        // A rule can tell an object from what is none there, and no more.
        _ if leads => json!("none"),
        _ => json!({"other": at}),
    }
}

fn agree(one: &Ruling, other: &Ruling) -> bool {
    one == other || one.fault.is_some() && other.fault.is_some()
}

#[test]
fn what_is_outside_of_what_a_policy_reads_changes_no_decision() {
    let (mut told, mut untold) = (0, Vec::new());
    for case in cases() {
        let policy = case.compiled();
        let places = policy.reads(case.entry);
        if places == ["input"] {
            untold.push(case.name);
            continue;
        }
        for input in case.inputs(7).into_iter().take(100) {
            let (given, other) = (input.to_string(), changed(&input, &places, "input").to_string());
            // A machine that takes the processor away in the middle of a decision books that on it.
            let ask = |text: &String| {
                let mut rulings = (0..20).map(|_| policy.ask_in_full(case.entry, text).unwrap());
                rulings.find(|ruling| !ruling.fault.as_ref().is_some_and(|fault| fault.is_of_time())).unwrap()
            };
            let rulings = [ask(&given), ask(&other)];
            assert!(agree(&rulings[0], &rulings[1]), "{}: {given}\n{other}\n{rulings:?}", case.name);
            told += 1;
        }
    }
    assert!(told > 3_000 && untold.len() < 5, "{told} questions; what is read is not told of {untold:?}");
}
