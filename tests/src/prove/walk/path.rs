//! The functions and files of ours that a call passes.

use crate::callgrind::{Function, Profile, crate_of, demangled};
use crate::harness::root;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Functions of ours on the way of a call.
pub(super) struct Path {
    /// By their symbols.
    functions: HashMap<Rc<str>, Passed>,
    /// Pairs of files, of which the first calls the second, with the functions that do.
    edges: BTreeMap<(String, String), BTreeSet<String>>,
}

/// A function that each call passes.
struct Passed {
    file: String,
    number: u32,
    has_await: bool,
}

impl Path {
    /// The functions that were called for `calls` calls more, from `few` to `many`.
    pub(super) fn between(few: &Profile, many: &Profile, calls: u64) -> Path {
        let mut sources = Sources::default();
        let mut functions = HashMap::new();
        for (symbol, function) in &many.functions {
            let before = few.functions.get(symbol);
            let grew = function.called - before.map_or(0, |before| before.called).min(function.called);
            let Some(file) = own_file(symbol, function).filter(|_| is_per_call(grew, calls)) else {
                continue;
            };
            let source = sources.of(&file);
            let lines: Vec<u32> = grown_lines(before, function, calls).collect();
            // A reader sees no code that is derived.
            let is_derived = |line: &u32| source.line(*line).contains("derive(");
            if !lines.is_empty() && lines.iter().all(is_derived) {
                continue;
            }
            let has_await = demangled(symbol).ends_with("{{closure}}")
                && lines.iter().min().is_some_and(|first| source.awaits_around(*first));
            functions.insert(Rc::clone(symbol), Passed { file, number: function.number, has_await });
        }
        let edges = edges(few, many, calls, &functions);
        Path { functions, edges }
    }

    /// Files, in the order in which they were first entered.
    pub(super) fn files(&self) -> Vec<&str> {
        let mut first: BTreeMap<&str, u32> = BTreeMap::new();
        for passed in self.functions.values() {
            let number = first.entry(&passed.file).or_insert(passed.number);
            *number = passed.number.min(*number);
        }
        let mut files: Vec<&str> = first.keys().copied().collect();
        files.sort_by_key(|file| first[file]);
        files
    }

    /// Files with an asynchronous function on the way that waits for another.
    pub(super) fn spine(&self) -> BTreeSet<&str> {
        self.functions.values().filter(|passed| passed.has_await).map(|passed| passed.file.as_str()).collect()
    }

    /// How often a reader comes to a file that is known already.
    pub(super) fn returns(&self) -> usize {
        (self.edges.len() + 1).saturating_sub(self.files().len())
    }

    pub(super) fn print(&self) {
        let spine = self.spine();
        println!(
            "{} functions, in {} files, in order of the first call (* the spine):",
            self.functions.len(),
            self.files().len()
        );
        for file in self.files() {
            let count = |side: fn(&(String, String)) -> &String| {
                self.edges.keys().filter(|edge| side(edge) == file).count()
            };
            let (into, out) = (count(|edge| &edge.1), count(|edge| &edge.0));
            let mark = if spine.contains(file) { '*' } else { ' ' };
            println!("  {mark} {file:<60} called by {into:>2} files, calls {out:>2}");
        }
        println!("{} pairs of files, the first calls the second:", self.edges.len());
        for ((caller, callee), functions) in &self.edges {
            println!(
                "    {caller} -> {callee}: {}",
                functions.iter().cloned().collect::<Vec<_>>().join(", ")
            );
        }
    }
}

/// True if something happened for calls, rather than by the clock or once.
pub(super) fn is_per_call(grew: u64, calls: u64) -> bool {
    2 * grew >= calls
}

/// The file of a function of our crates, from the root of the repository.
pub(super) fn own_file(symbol: &str, function: &Function) -> Option<String> {
    let is_ours = crate_of(&demangled(symbol)).starts_with("portunus");
    let file = std::path::Path::new(&*function.file).strip_prefix(root()).ok()?;
    is_ours.then(|| file.display().to_string())
}

/// Lines in its own file that a function executes for each call.
fn grown_lines(before: Option<&Function>, function: &Function, calls: u64) -> impl Iterator<Item = u32> {
    // Line 0 is code that the compiler adds.
    let own = function.lines.iter().filter(|((file, line), _)| *file == function.file && *line > 0);
    own.filter(move |(place, cost)| {
        let before = before.and_then(|before| before.lines.get(place)).copied().unwrap_or_default();
        is_per_call(cost.saturating_sub(before), calls)
    })
    .map(|((_, line), _)| *line)
}

fn edges(
    few: &Profile,
    many: &Profile,
    calls: u64,
    functions: &HashMap<Rc<str>, Passed>,
) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut edges: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (pair, made) in &many.calls {
        let before = few.calls.get(pair).map_or(0, |before| before.count);
        let ends = (functions.get(&pair.0), functions.get(&pair.1));
        let (Some(caller), Some(callee)) = ends else { continue };
        if caller.file != callee.file && is_per_call(made.count.saturating_sub(before), calls) {
            let name = short(&demangled(&pair.1));
            edges.entry((caller.file.clone(), callee.file.clone())).or_default().insert(name);
        }
    }
    edges
}

/// The last two parts of a path, without the closures in it.
fn short(path: &str) -> String {
    let path = path.replace("::{{closure}}", "");
    let parts: Vec<&str> = path.rsplit("::").take(2).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("::")
}

/// Texts of source files.
#[derive(Default)]
struct Sources(HashMap<String, Source>);

struct Source(Vec<String>);

impl Sources {
    fn of(&mut self, file: &str) -> &Source {
        self.0.entry(file.to_owned()).or_insert_with(|| {
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            Source(text.lines().map(str::to_owned).collect())
        })
    }
}

impl Source {
    fn line(&self, number: u32) -> &str {
        let index = number.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.0.get(index)).map_or("", String::as_str)
    }

    /// True if the asynchronous block or function around a line waits for something. As rustfmt writes it, it ends with
    /// the first brace that stands as far left as its beginning.
    fn awaits_around(&self, line: u32) -> bool {
        let Some(first) = self.beginning(line) else { return false };
        let left = indent(self.line(first));
        let rest = self.0.iter().skip(first as usize);
        let within = rest.take_while(|line| indent(line) > left || !line.trim_start().starts_with('}'));
        std::iter::once(self.line(first)).chain(within.map(String::as_str)).any(awaits)
    }

    /// The line by which the asynchronous block or function around a line begins.
    fn beginning(&self, line: u32) -> Option<u32> {
        let mut left = indent(self.line(line)) + 1;
        for number in (1..=line).rev() {
            let text = self.line(number);
            if text.trim().is_empty() || indent(text) >= left {
                continue;
            }
            if text.contains("async ") {
                return Some(number);
            }
            if text.contains("fn ") {
                return None;
            }
            // The end of a signature stands as far left as its beginning.
            left = indent(text) + usize::from(text.trim_start().starts_with(')'));
        }
        None
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn awaits(line: &str) -> bool {
    line.contains(".await") && !line.trim_start().starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source(text.lines().map(str::to_owned).collect())
    }

    #[test]
    fn function_awaits_only_what_stands_before_its_end() {
        let text = source(
            "async fn a(\n    b: u8,\n) {\n    // c.await\n    if d {\n        e();\n    }\n}\n\
             async fn f(\n    g: u8,\n) {\n    if h {\n    }\n    i()\n        .await;\n}\n\
             fn j() {\n    k(|l| l);\n    spawn(async move {\n        m.await;\n    });\n}\n",
        );
        for (line, awaits) in
            [(2, false), (3, false), (6, false), (10, true), (11, true), (13, true), (15, true)]
        {
            assert_eq!(text.awaits_around(line), awaits, "line {line}");
        }
        assert!(!text.awaits_around(18), "a closure of a function that is not asynchronous");
        assert!(text.awaits_around(20) && !text.awaits_around(99));
    }

    #[test]
    fn path_has_what_grows_with_calls_alone() {
        let file = root().join("proxy/src/head.rs").display().to_string();
        let other = root().join("proxy/src/pieces.rs").display().to_string();
        let text = |calls: u64, ticks: u64| {
            format!(
                "fl=(1) {file}\nfn=(1) _ZN8portunus5firstE\n90 1\ncfi=(2) {other}\ncfn=(2) _ZN8portunus6secondE\ncalls={calls} 1\n91 {calls}\n\
                 cfn=(3) _ZN5tokio4pollE\ncalls={calls} 1\n91 1\nfn=(4) _ZN8portunus4tickE\ncfn=(1)\ncalls={calls} 1\n92 1\n\
                 cfn=(4)\ncalls={ticks} 1\n92 1\nfl=(2)\nfn=(2)\n95 {calls}\ntotals: 1\n"
            )
        };
        let (few, many) = (Profile::read(&text(10, 5)), Profile::read(&text(110, 40)));
        let path = Path::between(&few, &many, 100);
        assert_eq!(path.files(), ["proxy/src/head.rs", "proxy/src/pieces.rs"]);
        assert_eq!(path.functions.len(), 2);
        assert_eq!(
            path.edges.keys().map(|edge| edge.1.as_str()).collect::<Vec<_>>(),
            ["proxy/src/pieces.rs"]
        );
        assert_eq!((path.returns(), path.spine().len()), (0, 0));
    }
}
