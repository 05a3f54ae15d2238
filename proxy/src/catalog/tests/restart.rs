//! What a later process knows of lists that it cannot read.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A state folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("portunus-lists-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("lists.json")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The configuration that stages have.
fn snapshot() -> Snapshot {
    let text = "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  a: {url: \"http://127.0.0.1:1/a\"}\n  \
                b: {url: \"http://127.0.0.1:1/b\"}\nservers: {/mcp: [a, b]}\n";
    load_text(text, Path::new("gateway.yaml"), &MapEnvironment::default()).unwrap().snapshot
}

impl Stage {
    /// One in which both members have `search`, and the first `secret` too, was asked by such a caller.
    async fn left(shows: Shows, says: Says, trusted: bool) -> Folder {
        let server = configured([0, 1], NamePolicy::PrefixOnConflict, trusted);
        let stage = Stage { shows, ..Stage::new(server) };
        stage.script.say("a", says);
        stage.script.say("b", Says::Tools(&["search"], None));
        stage.pass(90_000_000);
        stage.show().await;
        let folder = Folder::new();
        stage.catalogs.store(&folder.0).unwrap();
        folder
    }

    /// The next process, an hour later and with the first member down.
    fn after(folder: &Folder, shows: Shows) -> Stage {
        let stage = Stage { shows, ..Stage::plain() };
        stage.pass(93_600_000);
        stage.catalogs.restore(&folder.0, stage.clock.now(), &snapshot()).unwrap();
        stage.script.say("a", Says::Fails(Reason::UpstreamUnavailable));
        stage.script.say("b", Says::Tools(&["search"], None));
        stage
    }
}

const OF_A: Says = Says::Tools(&["search", "secret"], None);

#[tokio::test]
async fn a_list_stands_in_for_those_who_show_no_more_than_whom_it_was_read_for() {
    use Shows::{Gateway, Nothing, Upstreams};
    let whole: &[&str] = &["search", "secret", "b_search"];
    let names: &[&str] = &["b_search"];
    let public = Says::Public(&["search", "secret"]);
    let cases = [
        ("nobody's", Nothing, OF_A, false, Nothing, whole),
        ("nobody's, for one with a credential", Nothing, OF_A, false, Gateway, names),
        ("nobody's, for one with a key", Nothing, OF_A, false, Upstreams, names),
        ("somebody's", Gateway, OF_A, false, Nothing, names),
        ("somebody's, for one like it", Gateway, OF_A, false, Gateway, names),
        ("a key's", Upstreams, OF_A, false, Upstreams, names),
        ("public", Gateway, public, true, Gateway, whole),
        ("public, for nobody", Gateway, public, true, Nothing, whole),
        ("public and not trusted", Gateway, public, false, Nothing, names),
        ("public, of a key", Upstreams, public, true, Nothing, names),
    ];
    for (name, read_for, says, trusted, asks, expected) in cases {
        let folder = Stage::left(read_for, says, trusted).await;
        let stage = Stage::after(&folder, asks);
        assert_eq!(stage.show().await, expected, "{name}");
    }
}

#[tokio::test]
async fn what_stands_in_is_told_of_as_out_of_date_and_leads_to_its_owner() {
    let folder = Stage::left(Shows::Nothing, OF_A, false).await;
    let stage = Stage::after(&folder, Shows::Nothing);
    let merged = stage.merged(stage.caller, Purpose::Show).await;
    let now = stage.clock.now();
    let named = r#"[{"upstream":"a","state":"stale","ageSeconds":3600,"reason":"upstream_unavailable"}]"#;
    assert_eq!(merged.catalog.incomplete(ListKind::Tools, now, &[]).as_deref(), Some(named));
    assert_eq!(merged.catalog.tool("search").unwrap().member, 0);
    stage.pass(600_000);
    let later = stage.merged(caller(2), Purpose::Show).await;
    assert_eq!(names(&later), ["b_search"], "it stands in for as long as any, and its names are not free");
    stage.script.say("a", Says::Tools(&["search"], None));
    stage.pass(60_000);
    stage.show().await;
    stage.settle().await;
    assert_eq!(stage.show().await, ["search", "b_search"], "what comes back has its name");
}

#[tokio::test]
async fn who_comes_while_a_member_is_down_does_not_see_its_names_with_another() {
    let stage = Stage { shows: Shows::Gateway, ..Stage::plain() };
    stage.script.say("a", OF_A);
    stage.script.say("b", Says::Tools(&["search"], None));
    assert_eq!(stage.show().await, ["search", "secret", "b_search"]);
    stage.script.say("a", Says::Fails(Reason::UpstreamUnavailable));
    assert_eq!(names(&*stage.merged(caller(2), Purpose::Show).await), ["b_search"]);
}

#[tokio::test]
async fn nothing_but_names_of_what_is_somebodys_lies_in_the_folder() {
    let folder = Stage::left(Shows::Gateway, OF_A, false).await;
    let text = folder.text();
    assert!(text.contains("secret") && !text.contains("inputSchema"), "{text}");
    let mode = std::fs::metadata(folder.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "nothing lies beside it");
}

#[tokio::test]
async fn a_file_that_is_damaged_or_of_another_form_is_refused_as_a_whole() {
    let folder = Stage::left(Shows::Nothing, OF_A, false).await;
    let text = folder.text();
    let now = Stage::plain().clock.now();
    let damaged = [
        text[..text.len() / 2].to_owned(),
        String::new(),
        "[]".to_owned(),
        text.replacen("\"version\":1", "\"version\":2", 1),
        "x".repeat((64 << 20) + 1),
    ];
    for text in damaged {
        std::fs::write(folder.file(), &text).unwrap();
        let catalogs = Catalogs::default();
        assert!(catalogs.restore(&folder.0, now, &snapshot()).is_err(), "{:.60}", text);
        assert_eq!(catalogs.sizes()[3], ("last_lists", 0));
    }
    std::fs::remove_file(folder.file()).unwrap();
    Catalogs::default().restore(&folder.0, now, &snapshot()).unwrap();
}

#[tokio::test]
async fn what_no_configuration_has_is_forgotten() {
    let folder = Stage::left(Shows::Nothing, OF_A, false).await;
    let (now, catalogs) = (Stage::plain().clock.now(), Catalogs::default());
    catalogs.restore(&folder.0, now, &loaded().snapshot).unwrap();
    assert_eq!(catalogs.sizes()[3].1, 1, "`/mcp` has but the first of the two");
    let stage = Stage::after(&folder, Shows::Nothing);
    assert_eq!(stage.catalogs.sizes()[3].1, 2);
    stage.catalogs.reconcile(&loaded().snapshot);
    assert_eq!(stage.catalogs.sizes()[3].1, 1);
    assert!(stage.catalogs.store(&folder.0).is_ok());
}

#[tokio::test]
async fn memory_of_lists_is_bounded() {
    let larder = larder::Larder::default();
    let server = configured([0, 1], NamePolicy::PrefixOnConflict, false);
    let upstream = &server.upstreams[0];
    let text = tools(&["x"], &format!(r#","pad":"{}""#, "p".repeat(3 << 20)));
    for number in 0..8_u8 {
        let read = fetch::digest(std::slice::from_ref(&text));
        let listing = larder::Last::listing(std::slice::from_ref(&text), ListKind::Tools).unwrap();
        let kept = ware::Kept::new(
            Some(Arc::new(listing)),
            read,
            None,
            ManualClock::default().now(),
            &portunus_config::CacheRules::default(),
        );
        let fresh = larder::Fresh {
            kept: &kept,
            pages: vec![text.clone()],
            shows: Shows::Nothing,
            may_stand_in: true,
        };
        let id = ServerId(format!("*|/{number}").into());
        larder.keep(&id, upstream, ListKind::Tools, fresh);
        let label = larder::label(&id, upstream, ListKind::Tools);
        assert_eq!(larder.last(&label, Shows::Nothing).is_some(), number < 5, "{number}");
        assert_eq!(larder.names(&label).0.len(), 1, "names are small");
    }
}
