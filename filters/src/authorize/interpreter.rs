//! Where policies are evaluated.
//!
//! Policies run as they are written, in the engine's interpreter. Its bytecode machine is four times as
//! fast, and was found to decide otherwise than Rego where a rule has two values, where a function is
//! called with what is undefined, and inside of `every`: see `docs/design.md`.
//!
//! The engine's own limit is of time on the wall. What it cuts off counts as too long only if the thread has
//! used that time; otherwise it was waiting for a processor, and the question is asked again.

use super::cpu::CpuTimer;
use super::decision::{Fault, Ruling};
use super::problem::Problem;
use super::slots::Slots;
use super::source::positioned;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use std::num::NonZeroU32;
use std::time::Duration;

/// Steps of an evaluation between two looks at the time that it takes.
const STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(255);

/// Times that a question is asked whose thread did not run.
const MAX_TRIES: usize = 16;

/// A further try may take this many times as long on the wall, and all of them this many times the CPU time:
/// a thread that does not run is no reason for more.
const PATIENCE: u32 = 2;

/// An entry point that is ready to be asked.
#[derive(Debug)]
pub(super) struct Interpreter {
    engine: Engine,
    rule: String,
    slots: Slots<Engine>,
    limit: Duration,
}

/// How evaluations go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Those that take more CPU time end in a fault.
    pub(super) limit: Duration,
    /// What a builtin cannot take ends in a fault, instead of being undefined.
    pub(super) strict: bool,
    /// Threads that ask, about.
    pub(super) slots: usize,
}

impl Interpreter {
    pub(super) fn new(engine: &Engine, rule: &str, terms: Terms) -> Interpreter {
        let mut engine = engine.clone();
        engine.set_strict_builtin_errors(terms.strict);
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: terms.limit, check_interval: STEPS });
        Interpreter { engine, rule: rule.to_owned(), slots: Slots::new(terms.slots), limit: terms.limit }
    }

    /// The same with more or less time; explanations keep theirs.
    pub(super) fn within(self, limit: Duration) -> Interpreter {
        Interpreter { limit, ..self }
    }

    /// What the policy answers to `input`.
    pub(super) fn ask(&self, input: Value) -> Ruling {
        self.run(input).map_or_else(Ruling::fault, |value| Ruling::read(&value))
    }

    /// What the policy answers to `input`, and what `look` tells of an engine that counted the lines.
    pub(super) fn traced<T>(&self, input: Value, look: impl FnOnce(&mut Engine) -> T) -> (Ruling, T) {
        let mut engine = self.engine.clone();
        engine.set_enable_coverage(true);
        engine.set_input(input);
        let value = engine.eval_rule(self.rule.clone());
        let ruling =
            value.map_or_else(|error| Ruling::fault(fault(&error.to_string())), |value| Ruling::read(&value));
        (ruling, look(&mut engine))
    }

    fn run(&self, input: Value) -> Result<Value, Fault> {
        let (mut wall, mut spent) = (self.limit, Duration::ZERO);
        for _ in 1..MAX_TRIES {
            let timer = CpuTimer::start();
            let ended = self.run_within(input.clone(), wall);
            let tried = timer.elapsed();
            spent += tried;
            // Reading the clocks takes time as well.
            let was_held_up = tried < self.limit / 10 * 9 && spent < self.limit * PATIENCE;
            if !was_held_up || !matches!(ended, Err(Fault::TooLong)) {
                return ended;
            }
            wall = self.limit * PATIENCE;
        }
        self.run_within(input, wall)
    }

    fn run_within(&self, input: Value, wall: Duration) -> Result<Value, Fault> {
        let made = || Ok(self.engine.clone());
        self.slots.with(made, |engine| {
            engine.set_execution_timer_config(ExecutionTimerConfig { limit: wall, check_interval: STEPS });
            engine.set_input(input);
            let value = engine.eval_rule(self.rule.clone());
            engine.set_input(Value::Undefined);
            value.map_err(|error| fault(&error.to_string()))
        })
    }
}

/// What an error of the interpreter means. Its words alone tell kinds of errors apart, and they repeat
/// values of the input: of what is unknown only the place is told.
fn fault(error: &str) -> Fault {
    let Problem { path, line, text, .. } = positioned(error);
    let told = |text: &str| Problem::error(&path, line, text).to_string();
    if ["multiple outputs", "conflicts with rule"].iter().any(|words| error.contains(words)) {
        Fault::Conflict(told("this has another value elsewhere"))
    } else if error.contains("time limit") {
        Fault::TooLong
    } else {
        let expected =
            text.split(". Got").next().filter(|words| words.starts_with('`') && words.len() < text.len());
        Fault::Failed(told(expected.unwrap_or("this cannot be evaluated")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_input_is_in_a_fault() {
        let error = "\n--> a.rego:7:5\n  |\n7 | \tx + 1\n  |  ^\nerror: `add` expects numeric argument. Got `\"s3cret\"` instead";
        assert_eq!(fault(error), Fault::Failed("a.rego:7: `add` expects numeric argument".to_owned()));
        let error = "\n--> a.rego:7:5\nerror: bad value s3cret";
        assert_eq!(fault(error), Fault::Failed("a.rego:7: this cannot be evaluated".to_owned()));
    }
}
