//! The rules of this repository that a compiler does not know, each as a test.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use portunus_filters::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file that one sitting can take in.
const MAX_LINES: usize = 500;

/// Which of our crates a crate may use. Tests, benches and tools, which nothing depends on, may use any.
const DIRECTION: &[(&str, &[&str])] = &[
    ("portunus-base", &[]),
    ("portunus-filters", &["portunus-base"]),
    ("portunus-config", &["portunus-base", "portunus-filters"]),
    ("portunus", &["portunus-base", "portunus-config", "portunus-filters"]),
    ("portunus-demo", &["portunus-filters"]),
    ("portunus-cli", &["portunus", "portunus-base", "portunus-config", "portunus-demo", "portunus-filters"]),
    ("portunus-agent", &["portunus-config", "portunus-filters"]),
    ("portunus-load", &[]),
];

/// What must not be in a crate's closure: a name, or the start of a family's names.
const ABSENT: &[(&str, &[&str])] = &[
    ("portunus-base", &["pingora", "tokio", "tracing", "mio", "hyper"]),
    ("portunus-filters", &["pingora", "tokio", "tracing", "mio", "hyper"]),
    ("portunus-config", &["pingora", "tokio", "mio", "hyper"]),
];

#[test]
fn dependencies_between_our_crates_point_one_way() {
    let metadata = metadata();
    let members = metadata.workspace_packages();
    let ours: BTreeSet<&str> = members.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for (name, allowed) in DIRECTION {
        let Some(package) = members.iter().find(|package| package.name == *name) else {
            wrong.push(format!("there is no crate `{name}`"));
            continue;
        };
        let used = package.dependencies.iter().filter(|used| used.kind != DependencyKind::Development);
        let used = used.map(|used| used.name.as_str()).filter(|used| ours.contains(used));
        wrong.extend(
            used.filter(|used| !allowed.contains(used)).map(|used| format!("`{name}` depends on `{used}`")),
        );
    }
    assert_clean(&wrong);
}

#[test]
fn pure_crates_pull_in_no_runtime() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for (name, families) in ABSENT {
        let closure = closure(&metadata, name);
        assert!(closure.contains(*name), "the closure of `{name}` was not read");
        let banned = |used: &&String| families.iter().any(|family| belongs(used, family));
        wrong.extend(closure.iter().filter(banned).map(|used| format!("`{name}` pulls in `{used}`")));
    }
    assert_clean(&wrong);
}

#[test]
fn every_dependency_and_lint_of_the_workspace_has_a_reason() {
    let manifest = read("Cargo.toml");
    let dependencies = entries(&manifest, "[workspace.dependencies]");
    let lints =
        ["[workspace.lints.rust]", "[workspace.lints.clippy]"].map(|section| entries(&manifest, section));
    assert!(
        !dependencies.is_empty() && lints.iter().all(|lints| !lints.is_empty()),
        "a section was not found"
    );
    let external = dependencies.iter().filter(|entry| !entry.line.contains("path = "));
    // Lints of one kind stand under one reason, whatever their names.
    let unreasoned = external
        .filter(|entry| !entry.has_reason(family))
        .chain(lints.iter().flatten().filter(|entry| !entry.has_reason(|_| "")));
    let wrong: Vec<String> = unreasoned
        .map(|entry| format!("Cargo.toml:{}: no reason above `{}`", entry.number, entry.line))
        .collect();
    assert_clean(&wrong);
}

/// The most top modules of each crate that may import each other in a circle. It may fall, and does not rise.
const MAX_CIRCLE: &[(&str, usize)] = &[
    ("filters/base/src", 1),
    ("filters/src", 2),
    ("config/src", 2),
    ("proxy/src", 4),
    ("proxy/cli/src", 1),
    ("proxy/demo/src", 1),
];

#[test]
fn modules_import_each_other_in_small_circles_alone() {
    let mut wrong = Vec::new();
    for (folder, most) in MAX_CIRCLE {
        let imports = imports(&root().join(folder));
        assert!(!imports.is_empty(), "{folder}: no modules were found");
        let circle = imports.keys().map(|module| circle_of(module, &imports)).max_by_key(BTreeSet::len);
        let circle = circle.unwrap_or_default();
        if circle.len() > *most {
            wrong.push(format!("{folder}: {most} modules may import each other in a circle: {circle:?} do"));
        }
    }
    assert_clean(&wrong);
}

/// Files and folders that are compiled for tests alone.
const TEST_PARTS: [&str; 3] = ["tests", "tests.rs", "testing.rs"];

/// The top modules of a crate, and the other top modules that each imports outside of its tests.
fn imports(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources().into_iter().filter(|path| path.starts_with(source)) {
        let inside = path.strip_prefix(source).unwrap_or(&path);
        let is_test = inside.iter().any(|part| TEST_PARTS.iter().any(|name| part == *name));
        let top = inside.iter().next().and_then(|part| Path::new(part).file_stem()?.to_str());
        let Some(top) = top.filter(|top| !is_test && !matches!(*top, "lib" | "main")) else { continue };
        let text = fs::read_to_string(&path).unwrap_or_default();
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
        let imported = imports.entry(top.to_owned()).or_default();
        for line in code {
            imported.extend(line.split("crate::").skip(1).map(|rest| first_word(rest).to_owned()));
        }
    }
    let modules: BTreeSet<String> = imports.keys().cloned().collect();
    for (module, imported) in &mut imports {
        imported.retain(|other| other != module && modules.contains(other));
    }
    imports
}

/// The modules that a module reaches and that reach it, itself among them.
fn circle_of(module: &str, imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let reached = reached_from(module, imports);
    let back = reached.iter().filter(|other| reached_from(other, imports).contains(module));
    back.cloned().chain([module.to_owned()]).collect()
}

fn reached_from(module: &str, imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let (mut open, mut reached) = (vec![module.to_owned()], BTreeSet::new());
    while let Some(module) = open.pop() {
        for other in imports.get(&module).into_iter().flatten() {
            if reached.insert(other.clone()) {
                open.push(other.clone());
            }
        }
    }
    reached
}

fn first_word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

#[test]
fn files_stay_short_and_finished() {
    // Put together here, so that this file passes its own test.
    let unfinished = [concat!("todo", "!"), concat!("FIX", "ME"), concat!("X", "XX")];
    let files = sources();
    assert!(files.len() > 20, "only {} files were found", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let shown = path.strip_prefix(root()).unwrap_or(&path).display();
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let lines = text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{shown} has {lines} lines; split it by what it is about"));
        }
        for (index, line) in text.lines().enumerate() {
            let words = unfinished.iter().filter(|word| has_word(line, word));
            wrong.extend(
                words.map(|word| format!("{shown}:{}: `{word}`: finish it, or leave it out", index + 1)),
            );
        }
    }
    assert_clean(&wrong);
}

#[test]
fn every_reason_has_its_row_in_the_docs_and_no_other_has_one() {
    let reasons: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let docs = read("docs/errors.md");
    let mut rows = BTreeSet::new();
    let mut wrong = Vec::new();
    for name in docs.lines().filter_map(row_name) {
        if !reasons.contains(name) {
            wrong.push(format!("`{name}` has a row and is no reason"));
        }
        if !rows.insert(name) {
            wrong.push(format!("`{name}` has two rows"));
        }
    }
    wrong.extend(reasons.difference(&rows).map(|name| format!("`{name}` has no row")));
    assert_clean(&wrong);
}

#[test]
fn the_code_map_names_files_that_exist() {
    let readme = read("README.md");
    let paths = code_map_paths(&readme);
    assert!(!paths.is_empty(), "README.md has no section `Code map` with paths in backticks");
    let absent = paths.iter().filter(|path| !root().join(path).exists());
    assert_clean(
        &absent.map(|path| format!("the code map names `{path}`, which does not exist")).collect::<Vec<_>>(),
    );
}

#[test]
fn the_readers_of_these_tests_find_what_they_look_for() {
    let to = |others: &[&str]| others.iter().map(|other| (*other).to_owned()).collect::<BTreeSet<String>>();
    let all = [("a", to(&["b"])), ("b", to(&["c"])), ("c", to(&["a", "d"])), ("d", to(&[]))];
    let all: BTreeMap<String, BTreeSet<String>> =
        all.into_iter().map(|(module, others)| (module.to_owned(), others)).collect();
    assert_eq!((circle_of("b", &all), circle_of("d", &all)), (to(&["a", "b", "c"]), to(&["d"])));

    let manifest = "[a]\n# why\nserde = 1\nserde_json = 1\ntokio = 1\n\nx.workspace = true\n[b]\ny = 1\n";
    let reasons: Vec<(usize, bool)> =
        entries(manifest, "[a]").iter().map(|entry| (entry.number, entry.has_reason(family))).collect();
    assert_eq!(reasons, [(3, true), (4, true), (5, false), (7, false)]);
    assert_eq!(entries(manifest, "[a]").iter().filter(|entry| entry.has_reason(|_| "")).count(), 3);

    let words = ["a XYZ b", "aXYZ", "\\uXYZZ", "(XYZ)", "XYZ", "XYZs XYZ"];
    assert_eq!(words.map(|line| has_word(line, "XYZ")), [true, false, false, true, true, true]);
    assert!(belongs("tokio", "tokio") && belongs("tokio-util", "tokio") && !belongs("tokiox", "tokio"));

    let rows = ["| `too_large` | text |", "| `-31403` | code |", "| reason | header |", "text `word` |"];
    assert_eq!(rows.map(row_name), [Some("too_large"), None, None, None]);

    let readme = "# A\n`no/map.rs`\n## Code map\n`tools/call` `/mcp` `proxy/src/` `a/b.rs`\n### More\n`Cargo.toml`\n## End\n`c/d.rs`\n";
    assert_eq!(code_map_paths(readme), ["proxy/src/", "a/b.rs", "Cargo.toml"]);
}

/// Shows all that is wrong at once.
fn assert_clean(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} broken rules:\n  {}", wrong.len(), wrong.join("\n  "));
}

fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The graph for this machine only: what other systems would need is not downloaded for a test.
fn metadata() -> Metadata {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8(rustc.stdout).expect("rustc prints text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--filter-platform".to_owned(), host.to_owned()])
        .exec()
        .expect("cargo metadata runs")
}

/// Names of all packages that are built for this one, itself among them; not those of its tests.
fn closure(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().expect("metadata with a graph");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let first = metadata.workspace_packages().into_iter().find(|package| package.name == name);
    let mut open: Vec<&PackageId> = first.map(|package| &package.id).into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            let built = nodes[id].deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
            });
            open.extend(built.map(|dependency| &dependency.pkg));
        }
    }
    seen.into_iter().map(|id| metadata[id].name.to_string()).collect()
}

/// Whether a crate is the one that names its family, or another of it.
fn belongs(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

/// One `key = value` line of a manifest, with the lines directly above it, up to a comment.
struct Entry<'a> {
    number: usize,
    line: &'a str,
    above: Vec<&'a str>,
}

impl Entry<'_> {
    /// Whether a comment stands above, or above lines of the same family that this one follows.
    fn has_reason(&self, family: fn(&str) -> &str) -> bool {
        for line in self.above.iter().rev() {
            if line.starts_with('#') {
                return true;
            }
            if family(line) != family(self.line) {
                return false;
            }
        }
        false
    }
}

/// `serde` of `serde_json = …`: crates of one family share a reason.
fn family(line: &str) -> &str {
    line.split(['-', '_', '.', ' ', '=']).next().unwrap_or_default()
}

/// The entries of one section.
fn entries<'a>(manifest: &'a str, section: &str) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    let mut above = Vec::new();
    let lines = manifest.lines().enumerate().skip_while(|(_, line)| *line != section).skip(1);
    for (index, line) in lines.take_while(|(_, line)| !line.starts_with('[')) {
        if line.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            entries.push(Entry { number: index + 1, line, above: above.clone() });
        }
        if line.is_empty() {
            above.clear();
        } else {
            above.push(line);
        }
    }
    entries
}

/// What people read and write, in the crates and beside them; not what tools wrote.
fn sources() -> Vec<PathBuf> {
    const FOLDERS: [&str; 9] =
        ["filters", "config", "proxy", "control-agent", "loadtest", "benches", "tests", "xtask", "fuzz"];
    const KINDS: [&str; 11] = ["rs", "toml", "py", "mjs", "js", "ts", "sh", "html", "css", "yaml", "yml"];
    const SKIPPED: [&str; 5] = ["target", "node_modules", "__pycache__", "corpus", "artifacts"];
    let mut open: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry of a folder").path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
            if path.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name) {
                open.push(path);
            } else if path.is_file() && KINDS.contains(&kind) {
                files.push(path);
            }
        }
    }
    files
}

/// Whether `word` stands in `line` on its own, not within a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let part = |edge: Option<char>| edge.is_some_and(char::is_alphanumeric);
    line.match_indices(word).any(|(start, _)| {
        let after = &line[start + word.len()..];
        let closed = word.ends_with(char::is_alphanumeric) && part(after.chars().next());
        !part(line[..start].chars().next_back()) && !closed
    })
}

/// The name that a row of the table of reasons is about.
fn row_name(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("| `")?.split_once("` |")?;
    let snake_case = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    snake_case.then_some(name)
}

/// The paths in backticks below the heading `Code map`, up to the next heading of its level.
///
/// A path is a folder (`proxy/`) or a file (`proxy/cli/src/main.rs`); `tools/call` and `/mcp` are none.
fn code_map_paths(readme: &str) -> Vec<&str> {
    let level = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
    let mut lines =
        readme.lines().skip_while(|line| level(line) == 0 || !line.to_lowercase().contains("code map"));
    let Some(heading) = lines.next() else { return Vec::new() };
    let below = lines.take_while(|line| level(line) == 0 || level(line) > level(heading));
    let quoted = below.flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted
        .filter(|text| {
            let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
            let last = text.rsplit('/').next().unwrap_or_default();
            plain && !text.starts_with('/') && (last.is_empty() || last.contains('.'))
        })
        .collect()
}
