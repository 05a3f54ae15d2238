//! Reads the profiles that callgrind writes.
//!
//! The format is `callgrind.out` (valgrind manual, "Callgrind Format Specification"): names are written once and then
//! stand for themselves as `(number)`, line numbers are relative to the last one. A symbol may be followed by the
//! functions that called it, each after a `'`, where callgrind was told to keep callers apart.

mod symbol;

use std::collections::HashMap;
use std::rc::Rc;
pub(crate) use symbol::{crate_of, demangled};

/// The code that one thread of a process executed.
#[derive(Default)]
pub(crate) struct Profile {
    /// Instructions, all in all.
    pub(crate) instructions: u64,
    /// Functions by their symbols, without callers.
    pub(crate) functions: HashMap<Rc<str>, Function>,
    /// Calls by the symbols of caller and callee, both without their own callers.
    pub(crate) calls: HashMap<(Rc<str>, Rc<str>), Calls>,
    /// Calls of functions whose callers were kept apart, by the symbols of the function and of its callers.
    pub(crate) chains: HashMap<Rc<str>, u64>,
}

/// One function.
#[derive(Default)]
pub(crate) struct Function {
    /// The file that it begins in.
    pub(crate) file: Rc<str>,
    /// The lower, the earlier the function was entered for the first time.
    pub(crate) number: u32,
    /// Calls of it.
    pub(crate) called: u64,
    /// Instructions by file and line, and calls that were made there.
    pub(crate) lines: HashMap<(Rc<str>, u32), u64>,
}

/// Calls of one function by another.
#[derive(Default)]
pub(crate) struct Calls {
    /// Number of calls.
    pub(crate) count: u64,
    /// The last line that calls.
    pub(crate) line: u32,
}

impl Profile {
    /// All instructions, from the text of a file without reading the rest of it.
    pub(crate) fn instructions_in(text: &str) -> u64 {
        let totals = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
        totals.map_or(0, |totals| totals.parse().expect("a number of instructions"))
    }

    /// Reads the text of a file.
    ///
    /// # Panics
    /// If a line is not of the format.
    pub(crate) fn read(text: &str) -> Profile {
        let mut reader = Reader::default();
        for (index, line) in text.lines().enumerate() {
            if reader.read(line).is_none() {
                panic!("line {} is not of the format of callgrind: {line}", index + 1);
            }
        }
        reader.profile
    }
}

/// The symbol itself, without its callers and without the depth of a recursion.
pub(crate) fn own_symbol(symbol: &str) -> &str {
    symbol.split('\'').next().unwrap_or_default()
}

/// The callers of a function in a chain, the nearest first.
pub(crate) fn callers(chain: &str) -> impl Iterator<Item = &str> {
    // `'2` is the depth of a recursion.
    chain.split('\'').skip(1).filter(|symbol| !symbol.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Names by their numbers.
#[derive(Default)]
struct Names(HashMap<u32, Rc<str>>);

impl Names {
    /// The number and name of `(1) name` and of a `(1)` that stands for it.
    fn resolve(&mut self, text: &str) -> Option<(u32, Rc<str>)> {
        let (number, name) = text.strip_prefix('(')?.split_once(')')?;
        let number = number.parse().ok()?;
        if let Some(name) = name.strip_prefix(' ') {
            self.0.insert(number, name.into());
        }
        Some((number, Rc::clone(self.0.get(&number)?)))
    }
}

#[derive(Default)]
struct Reader {
    profile: Profile,
    symbols: Names,
    files: Names,
    /// The file that the function begins in, and the one that the lines are of.
    file: Rc<str>,
    line_file: Rc<str>,
    function: Rc<str>,
    callee_file: Option<Rc<str>>,
    callee: Option<(u32, Rc<str>)>,
    /// Calls whose line comes next.
    pending: Option<u64>,
    line: u32,
}

impl Reader {
    /// Reads a line; `None` if it is not of the format.
    fn read(&mut self, line: &str) -> Option<()> {
        match line.as_bytes().first() {
            None | Some(b'#') => return Some(()),
            Some(b'0'..=b'9' | b'+' | b'-' | b'*') => return self.read_cost(line),
            Some(_) => {}
        }
        let Some((key, value)) = line.split_once('=') else {
            // `totals: 123`, and other fields of the head.
            let (key, value) = line.split_once(':')?;
            if key == "totals" {
                self.profile.instructions = value.trim().parse().ok()?;
            }
            return Some(());
        };
        match key {
            "fl" => {
                self.file = self.files.resolve(value)?.1;
                self.line_file = Rc::clone(&self.file);
            }
            "fi" | "fe" => self.line_file = self.files.resolve(value)?.1,
            "fn" => {
                let (number, symbol) = self.symbols.resolve(value)?;
                self.line_file = Rc::clone(&self.file);
                self.function = own_symbol(&symbol).into();
                self.enter(number, Rc::clone(&self.file));
            }
            "cfi" | "cfl" => self.callee_file = Some(self.files.resolve(value)?.1),
            "cfn" => self.callee = Some(self.symbols.resolve(value)?),
            "calls" => self.pending = Some(value.split(' ').next()?.parse().ok()?),
            // Objects, and fields of the head that have a `=` in their value.
            _ => {}
        }
        Some(())
    }

    /// Notes the function that is read.
    fn enter(&mut self, number: u32, file: Rc<str>) {
        let function = self.profile.functions.entry(Rc::clone(&self.function)).or_insert(Function {
            number,
            file: Rc::clone(&file),
            ..Function::default()
        });
        function.number = function.number.min(number);
        // Until now it may have been known as a callee alone, whose file is that of its caller if no other is named.
        function.file = file;
    }

    /// `+3 17`: line and instructions.
    fn read_cost(&mut self, line: &str) -> Option<()> {
        let mut fields = line.split(' ');
        let position = fields.next()?;
        self.line = match position.as_bytes()[0] {
            b'*' => self.line,
            b'+' => self.line.checked_add(position[1..].parse().ok()?)?,
            b'-' => self.line.checked_sub(position[1..].parse().ok()?)?,
            _ => position.parse().ok()?,
        };
        let instructions = fields.next().map_or(Some(0), |cost| cost.parse().ok())?;
        let place = (Rc::clone(&self.line_file), self.line);
        let cost = match self.pending.take() {
            None => instructions,
            Some(count) => {
                self.note_calls(count)?;
                count
            }
        };
        let function = self.profile.functions.get_mut(&self.function)?;
        *function.lines.entry(place).or_default() += cost;
        Some(())
    }

    fn note_calls(&mut self, count: u64) -> Option<()> {
        let (number, symbol) = self.callee.take()?;
        let file = self.callee_file.take().unwrap_or_else(|| Rc::clone(&self.file));
        let callee: Rc<str> = own_symbol(&symbol).into();
        let function = self.profile.functions.entry(Rc::clone(&callee)).or_insert(Function {
            number,
            file,
            ..Function::default()
        });
        function.called += count;
        function.number = function.number.min(number);
        if callers(&symbol).next().is_some() {
            *self.profile.chains.entry(symbol).or_default() += count;
        }
        let calls = self.profile.calls.entry((Rc::clone(&self.function), callee)).or_default();
        calls.count += count;
        calls.line = self.line;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# callgrind format
version: 1
cmd:  ./gateway run --config=a.yaml
positions: line
events: Ir
summary: 99

ob=(1) /bin/gateway
fl=(1) /src/main.rs
fn=(7) main
16 400
+2 5
cfi=(2) /src/lock.rs
cfn=(9) lock'main'start
calls=3 40
* 30
fi=(3) /std/inlined.rs
5 6
fe=(1)
-1 1

fn=(8) start
cfn=(7)
calls=1 16
20 440

fl=(2)
fn=(9)
40 30

fn=(10) lock'2
41 4
totals: 442
";

    #[test]
    fn profile_has_functions_with_their_files_calls_and_lines() {
        let profile = Profile::read(TEXT);
        assert_eq!(profile.instructions, 442);
        let main = &profile.functions["main"];
        assert_eq!((&*main.file, main.number, main.called), ("/src/main.rs", 7, 1));
        let at = |file: &str, line| main.lines.get(&(file.into(), line)).copied();
        assert_eq!((at("/src/main.rs", 16), at("/src/main.rs", 18)), (Some(400), Some(8)));
        assert_eq!((at("/std/inlined.rs", 5), at("/src/main.rs", 4)), (Some(6), Some(1)));
        let calls = &profile.calls[&("main".into(), "lock".into())];
        assert_eq!((calls.count, calls.line), (3, 18));
    }

    #[test]
    fn instructions_are_those_of_the_last_line() {
        assert_eq!((Profile::instructions_in(TEXT), Profile::instructions_in("fl=(1) a.rs\n")), (442, 0));
    }

    #[test]
    fn callers_that_are_kept_apart_stand_beside_the_function() {
        let profile = Profile::read(TEXT);
        let lock = &profile.functions["lock"];
        assert_eq!((&*lock.file, lock.number, lock.called), ("/src/lock.rs", 9, 3));
        assert_eq!(lock.lines.len(), 2);
        assert_eq!(profile.chains.len(), 1);
        assert_eq!(profile.chains["lock'main'start"], 3);
        assert_eq!(callers("lock'2'main'start").collect::<Vec<_>>(), ["main", "start"]);
    }

    #[test]
    fn number_of_an_unknown_name_is_refused() {
        let text = "fl=(1) a.rs\nfn=(2)\n";
        assert!(std::panic::catch_unwind(|| Profile::read(text)).is_err());
        assert!(std::panic::catch_unwind(|| Profile::read("nonsense\n")).is_err());
        assert!(Profile::read("fl=(1) a.rs\nfn=(2) f\n3 4\n").functions.contains_key("f"));
    }
}
