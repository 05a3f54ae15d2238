//! Compiled programs on machines that are ready to run.
//!
//! A machine is at work for one question at a time. There is one for each thread that asks, in a
//! fixed array; a thread that finds its machine at work waits the microseconds that it takes.

use super::decision::{Fault, Ruling};
use regorus::Value;
use regorus::rvm::RegoVM;
use regorus::rvm::program::Program;
use regorus::rvm::vm::VmError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A program with its data.
pub(super) struct Machine {
    program: Arc<Program>,
    data: Value,
    instruction_cap: usize,
    slots: Box<[Mutex<Option<RegoVM>>]>,
    /// Where the program stops because a rule has two values, and which rule that is.
    traps: Vec<(usize, String)>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({} instructions)", self.program.instructions.len())
    }
}

/// How a machine is built.
pub(super) struct Build {
    pub(super) program: Arc<Program>,
    pub(super) data: Value,
    pub(super) instruction_cap: usize,
    pub(super) slots: usize,
    pub(super) traps: Vec<(usize, String)>,
}

impl Machine {
    /// # Errors
    /// What the engine says, if a rule lies where data does.
    pub(super) fn new(build: Build) -> Result<Machine, String> {
        let slots = (0..build.slots.max(1)).map(|_| Mutex::new(None)).collect();
        let Build { program, data, instruction_cap, traps, .. } = build;
        let machine = Machine { program, data, instruction_cap, slots, traps };
        machine.boot().map(drop).map_err(|error| error.to_string())?;
        Ok(machine)
    }

    /// What the policy answers to `input`.
    pub(super) fn ask(&self, input: Value) -> Ruling {
        self.run(input).map_or_else(Ruling::fault, |value| Ruling::read(&value))
    }

    /// The value of the entry point for `input`.
    pub(super) fn run(&self, input: Value) -> Result<Value, Fault> {
        let slot = &self.slots[ordinal() % self.slots.len()];
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut machine = match slot.take() {
            Some(machine) => machine,
            None => self.boot().map_err(|error| self.fault(&error, 0))?,
        };
        machine.set_input(input);
        // A panic of the engine ends this evaluation and this machine, and nobody else's call.
        let run = catch_unwind(AssertUnwindSafe(|| {
            let result = machine.execute_entry_point_by_index(0);
            machine.set_input(Value::Undefined);
            (result, machine)
        }));
        let Ok((result, machine)) = run else {
            return Err(Fault::Failed("the engine panicked".to_owned()));
        };
        let stopped = machine.get_pc();
        *slot = Some(machine);
        result.map_err(|error| self.fault(&error, stopped))
    }

    fn boot(&self) -> Result<RegoVM, VmError> {
        let mut machine = RegoVM::new();
        machine.load_program(self.program.clone());
        machine.set_data(self.data.clone())?;
        machine.set_max_instructions(self.instruction_cap);
        Ok(machine)
    }

    fn fault(&self, error: &VmError, stopped: usize) -> Fault {
        match error {
            VmError::InstructionLimitExceeded { .. } => Fault::TooLong,
            VmError::NumericOverflow { .. } => match self.traps.iter().find(|(at, _)| *at == stopped) {
                Some((_, rule)) => Fault::Conflict(rule.clone()),
                None => Fault::Failed(error.to_string()),
            },
            other => Fault::Failed(other.to_string()),
        }
    }
}

/// A number of this thread's own, from 0 up.
fn ordinal() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    MINE.with(|mine| *mine)
}
