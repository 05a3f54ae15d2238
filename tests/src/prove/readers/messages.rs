//! Random messages, the same in each run: honest ones with variants of keys and values at every place.

use crate::prove::policy::Dice;

/// Values that some readers take for another, and others.
const VALUES: &[&str] = &[
    "1",
    "5",
    "-0",
    "1.0",
    "1e0",
    "99",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993",
    "-9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "1152921504606846976",
    "0.1",
    "0.10000000000000001",
    "1e400",
    "\"a\"",
    "\"A\"",
    "\"\\u0061\"",
    "\"x:y\"",
    "\"ref/prompt\"",
    "\"ref/resource\"",
    "\"accept\"",
    "null",
    "true",
    "[]",
    "{}",
    "[{\"id\":\"a\",\"ID\":\"b\"}]",
];

/// JSON text under way: keys as they are written between their quotes.
#[derive(Clone)]
enum Node {
    Object(Vec<(String, Node)>),
    Text(String),
}

impl Node {
    fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    fn object(members: &[(&str, Node)]) -> Node {
        Node::Object(members.iter().map(|(key, node)| ((*key).to_owned(), node.clone())).collect())
    }

    fn write(&self, out: &mut String) {
        match self {
            Node::Text(text) => out.push_str(text),
            Node::Object(members) => {
                out.push('{');
                for (index, (key, node)) in members.iter().enumerate() {
                    out.push_str(if index > 0 { ",\"" } else { "\"" });
                    out.push_str(key);
                    out.push_str("\":");
                    node.write(out);
                }
                out.push('}');
            }
        }
    }

    /// Changes a few places at random.
    fn vary(&mut self, dice: &mut Dice) {
        match self {
            Node::Text(text) if dice.roll(24) == 0 => VALUES[dice.roll(VALUES.len())].clone_into(text),
            Node::Text(_) => {}
            Node::Object(members) => {
                members.iter_mut().for_each(|(_, node)| node.vary(dice));
                if !members.is_empty() && dice.roll(10) == 0 {
                    change(members, dice);
                }
            }
        }
    }
}

/// Writes a key in another way, or adds a second one like it.
fn change(members: &mut Vec<(String, Node)>, dice: &mut Dice) {
    let place = dice.roll(members.len());
    let (key, node) = members[place].clone();
    let key = written(&key, dice);
    if dice.roll(3) == 0 {
        members[place].0 = key;
        return;
    }
    let other = if dice.roll(4) == 0 { node } else { Node::text(VALUES[dice.roll(VALUES.len())]) };
    let place = if dice.roll(2) == 0 { 0 } else { members.len() };
    members.insert(place, (key, other));
}

/// A key as some reader takes it for this one; or another.
fn written(key: &str, dice: &mut Dice) -> String {
    let at = dice.roll(key.len().max(1));
    let each = |change: &mut dyn FnMut(usize, char) -> String| -> String {
        key.chars().enumerate().map(|(index, letter)| change(index, letter)).collect()
    };
    match dice.roll(8) {
        0 => key.to_owned(),
        1 => key.to_uppercase(),
        2 => each(&mut |index, letter| match index == at {
            true => letter.to_uppercase().to_string(),
            false => letter.to_string(),
        }),
        3 => each(&mut |_, letter| match dice.roll(2) {
            0 => letter.to_uppercase().to_string(),
            _ => letter.to_string(),
        }),
        4 => key.replace('s', "\u{17f}").replace('k', "\u{212a}"),
        5 => key.replace('s', "\\u017f").replace('k', "\\u212A"),
        6 => each(&mut |index, letter| match index == at {
            true => format!("\\u{:04x}", u32::from(letter)),
            false => letter.to_string(),
        }),
        _ => format!("{key}x"),
    }
}

/// A message of a client.
pub(super) fn message(dice: &mut Dice) -> String {
    let methods = ["tools/call", "prompts/get", "resources/read", "completion/complete"];
    let method = methods[dice.roll(methods.len())];
    let arguments = Node::object(&[
        ("amount", Node::text("1")),
        ("account", Node::object(&[("id", Node::text("\"a\"")), ("kind", Node::text("\"x\""))])),
        ("filter", Node::object(&[("min", Node::text("1")), ("max", Node::text("5"))])),
        ("region", Node::text("\"us\"")),
        ("tasks", Node::text("[]")),
    ]);
    let mut params = match method {
        "resources/read" => vec![("uri", Node::text("\"x:y\""))],
        "completion/complete" => {
            let reference = match dice.roll(2) {
                0 => [("type", Node::text("\"ref/prompt\"")), ("name", Node::text("\"a\""))],
                _ => [("type", Node::text("\"ref/resource\"")), ("uri", Node::text("\"x:y\""))],
            };
            vec![
                ("ref", Node::object(&reference)),
                ("argument", Node::object(&[("name", Node::text("\"a\""))])),
            ]
        }
        _ => vec![("name", Node::text("\"a\"")), ("arguments", arguments)],
    };
    if dice.roll(4) == 0 {
        let answer = Node::object(&[("action", Node::text("\"accept\"")), ("content", Node::text("{}"))]);
        params.push(("inputResponses", Node::object(&[("q", answer)])));
    }
    let mut message = Node::object(&[
        ("jsonrpc", Node::text("\"2.0\"")),
        ("id", Node::text("1")),
        ("method", Node::Text(format!("\"{method}\""))),
        ("params", Node::object(&params)),
    ]);
    message.vary(dice);
    let mut text = String::with_capacity(512);
    message.write(&mut text);
    text
}
