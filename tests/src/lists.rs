//! Lists that outlive the process that read them.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature};
use serde_json::{Value, json};
use std::process::Command;

/// A server with `search`, which says whose it is, and a tool of its own.
async fn searching(era: Era, name: &'static str, own: &str) -> Mcp {
    let answer = move |call: Call| async move { Ok(text(format!("{} of {name}", call.tool()))) };
    Mcp::start(Nature::of(era), vec![tool("search"), tool(own)], answer).await
}

async fn listed(caller: &mut Caller) -> (Vec<String>, Value) {
    let said = caller.request("tools/list", json!({})).await.unwrap();
    let result = &said.message["result"];
    let names =
        result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned());
    (names.collect(), result["_meta"]["io.portunus/incomplete"].clone())
}

#[tokio::test]
async fn a_restart_while_a_member_is_down_gives_its_names_to_nobody() {
    let first = searching(Era::Legacy, "first", "alone").await;
    let second = searching(Era::Modern, "second", "other").await;
    let document = format!(
        "upstreams:\n  one: {}\n  two: {}\nservers:\n  /mcp: {{ upstreams: [one, two] }}\n",
        first.url(),
        second.url()
    );
    let mut gateway = Gateway::start(&document).await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    let whole = ["search", "alone", "two_search", "other"];
    assert_eq!(listed(&mut caller).await, (whole.map(str::to_owned).to_vec(), Value::Null));
    assert_eq!(caller.call("search", json!({})).await.unwrap().text(), "search of first");
    let mut known = Caller::new(Era::Modern, gateway.address).presenting("somebody");
    assert_eq!(listed(&mut known).await.0, whole);
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    drop(first);

    let gateway = gateway.again().await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    let (names, incomplete) = listed(&mut caller).await;
    assert_eq!(names, whole, "the last good list stands in");
    assert_eq!((&incomplete[0]["upstream"], &incomplete[0]["state"]), (&json!("one"), &json!("stale")));
    assert_eq!(incomplete.as_array().unwrap().len(), 1, "{incomplete}");
    let refused = caller.call("search", json!({})).await.unwrap();
    assert!(refused.message["error"].is_object(), "{}", refused.all());
    assert_eq!(caller.call("two_search", json!({})).await.unwrap().text(), "search of second");
    assert_eq!(second.counted("tools/call"), 1);

    let mut known = Caller::new(Era::Modern, gateway.address).presenting("somebody");
    let (names, incomplete) = listed(&mut known).await;
    assert_eq!(names, ["two_search", "other"], "its own list was not kept, but nobody gets its names");
    assert_eq!(incomplete[0]["state"], "missing");
    assert!(known.call("search", json!({})).await.unwrap().message["error"].is_object());
    assert_eq!(second.counted("tools/call"), 1);
}

#[tokio::test]
async fn a_damaged_file_is_told_of_and_left_out() {
    let server = searching(Era::Modern, "first", "alone").await;
    let document = format!(
        "upstreams:\n  one: {}\nservers:\n  /mcp: {{ upstreams: [one], names: prefix }}\n",
        server.url()
    );
    let mut gateway = Gateway::start(&document).await;
    listed(&mut Caller::new(Era::Modern, gateway.address)).await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let file = gateway.folder().join("state/lists.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.len() - 9]).unwrap();
    let gateway = gateway.again().await;
    let told = |entry: &Value| entry["message"].as_str().is_some_and(|said| said.contains("are left out"));
    gateway.logged("what is wrong with the file", told).await;
    assert_eq!(listed(&mut Caller::new(Era::Modern, gateway.address)).await.0, ["one_search", "one_alone"]);
}

#[tokio::test]
async fn a_kept_file_that_others_could_have_made_is_left_out_and_holds_up_no_start() {
    let server = searching(Era::Modern, "first", "alone").await;
    let document = format!(
        "upstreams:\n  one: {}\nservers:\n  /mcp: {{ upstreams: [one], names: prefix }}\n",
        server.url()
    );
    let mut gateway = Gateway::start(&document).await;
    listed(&mut Caller::new(Era::Modern, gateway.address)).await;
    let file = gateway.folder().join("state/lists.json");
    let run = |command: &str, argument: &str| {
        let made = Command::new(command).arg(argument).arg(&file).status().unwrap();
        assert!(made.success(), "{command} {argument}");
    };
    type Make<'a> = &'a dyn Fn();
    let cases: [(&str, &str, Make<'_>); 3] = [
        ("written by others", "others may write", &|| run("chmod", "606")),
        ("a FIFO", "no regular file", &|| {
            std::fs::remove_file(&file).unwrap();
            run("mkfifo", "-m600");
        }),
        ("a folder", "no regular file", &|| {
            std::fs::remove_file(&file).unwrap();
            run("mkdir", "-p");
        }),
    ];
    for (name, why, make) in cases {
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        make();
        gateway = gateway.again().await;
        let told = |entry: &Value| {
            let error = entry["error"].as_str().unwrap_or_default();
            entry["message"].as_str().is_some_and(|said| said.contains("are left out")) && error.contains(why)
        };
        gateway.logged(name, told).await;
        assert_eq!(
            listed(&mut Caller::new(Era::Modern, gateway.address)).await.0,
            ["one_search", "one_alone"]
        );
    }
}
