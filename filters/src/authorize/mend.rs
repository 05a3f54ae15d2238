//! Where the machine says less than Rego does, mended in the compiled program.
//!
//! Rego's evaluation fails where a rule, a key of an object or a function has two values, and what
//! depends on it is not decided. The machine takes one of the two, or none, and goes on: under a `not`
//! that would allow. And a type error in arithmetic ends one try of a rule's body in Rego, where the
//! machine gives up all of them: a rule that forbids would not.
//!
//! So a program is rewritten before it runs: each value that could be a second one is compared with the
//! first, and where they differ the program goes to a trap, an instruction that fails beyond recovery
//! and whose place names the rule. Arithmetic moves into a function, where an error is no value.

use regorus::Value;
use regorus::rvm::Instruction;
use regorus::rvm::instructions::{ComprehensionMode, FunctionCallParams};
use regorus::rvm::program::{FunctionInfo, Program, RuleInfo, RuleType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A program that says what Rego does.
pub(super) struct Mended {
    pub(super) program: Program,
    /// The places of the traps, and the rules that they are for.
    pub(super) traps: Vec<(usize, String)>,
}

/// Two registers of each rule are used to compare.
const SCRATCH: u8 = 2;
/// Its square is more than a number may be.
const HUGE: f64 = 1e300;

/// # Errors
/// What is too large for the machine.
pub(super) fn mend(program: &Program) -> Result<Mended, String> {
    let mut mending = Mending::new(program)?;
    mending.rewrite(program)?;
    mending.relocate(program)?;
    mending.split()?;
    mending.finish()
}

struct Mending {
    program: Program,
    /// Where each instruction went; one more for the end.
    moved: Vec<u32>,
    /// By rule, the jumps to its trap.
    jumps: BTreeMap<u16, Vec<usize>>,
    /// Functions that stand for arithmetic.
    arithmetic: BTreeMap<&'static str, u16>,
    /// The first of each rule's two registers.
    scratch: Vec<u8>,
}

/// Where the rewriting is.
struct At {
    rule: u16,
    result: u8,
    /// Ends of the loops that are open.
    loops: Vec<usize>,
    /// Result registers of the comprehensions that are open, of those that make objects.
    objects: Vec<Option<u8>>,
}

impl Mending {
    fn new(program: &Program) -> Result<Mending, String> {
        let mut program = program.clone();
        let mut scratch = Vec::with_capacity(program.rule_infos.len());
        for info in &mut program.rule_infos {
            scratch.push(info.num_registers);
            info.num_registers = info
                .num_registers
                .checked_add(SCRATCH)
                .ok_or_else(|| format!("{} is too long; make two rules of it", info.name))?;
        }
        program.instructions.clear();
        program.instruction_spans.clear();
        let (moved, jumps, arithmetic) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Mending { program, moved, jumps, arithmetic, scratch })
    }

    /// Copies the instructions, with comparisons before each that gives a value.
    fn rewrite(&mut self, old: &Program) -> Result<(), String> {
        let mut at = At { rule: 0, result: 0, loops: Vec::new(), objects: Vec::new() };
        for (place, instruction) in old.instructions.iter().enumerate() {
            at.loops.retain(|&end| place < end);
            self.moved.push(self.here()?);
            match *instruction {
                Instruction::RuleInit { result_reg, rule_index } => {
                    at = At { rule: rule_index, result: result_reg, loops: Vec::new(), objects: Vec::new() };
                }
                Instruction::LoopStart { params_index } => {
                    let params = old.instruction_data.get_loop_params(params_index);
                    at.loops.extend(params.map(|params| usize::from(params.loop_end)));
                }
                Instruction::ComprehensionBegin { params_index } => {
                    let params = old.instruction_data.get_comprehension_begin_params(params_index);
                    at.objects.push(params.and_then(|params| {
                        matches!(params.mode, ComprehensionMode::Object).then_some(params.result_reg)
                    }));
                }
                Instruction::ComprehensionEnd {} => drop(at.objects.pop()),
                Instruction::Move { dest, src } if dest == at.result && !at.loops.is_empty() => {
                    self.compare(at.rule, |scratch| vec![ne(scratch, dest, src)]);
                }
                Instruction::ObjectSet { obj, key, value } => self.compare_member(at.rule, (obj, key, value)),
                Instruction::ComprehensionYield { value_reg, key_reg: Some(key) } => {
                    if let Some(Some(object)) = at.objects.last() {
                        self.compare_member(at.rule, (*object, key, value_reg));
                    }
                }
                _ => {}
            }
            let span = old.instruction_spans.get(place).cloned().flatten();
            let instruction = self.without_errors(instruction)?;
            self.program.add_instruction(instruction, span);
        }
        self.moved.push(self.here()?);
        Ok(())
    }

    fn here(&self) -> Result<u32, String> {
        let here = u32::from(small(self.program.instructions.len())?);
        Ok(here)
    }

    fn compare_member(&mut self, rule: u16, (object, key, value): (u8, u8, u8)) {
        self.compare(rule, |scratch| {
            vec![Instruction::Index { dest: scratch, container: object, key }, ne(scratch, scratch, value)]
        });
    }

    /// Adds instructions that make the scratch register true where there is a second value, and a jump
    /// to the trap for that.
    fn compare(&mut self, rule: u16, instructions: impl Fn(u8) -> Vec<Instruction>) {
        let scratch = self.scratch[usize::from(rule)];
        for instruction in instructions(scratch) {
            self.program.add_instruction(instruction, None);
        }
        self.jumps.entry(rule).or_default().push(self.program.instructions.len());
        self.program.add_instruction(jump_if(scratch, 0), None);
    }

    /// The instruction, or a call of a function that does the same where it can fail.
    fn without_errors(&mut self, instruction: &Instruction) -> Result<Instruction, String> {
        use Instruction as I;
        let (name, dest, left, right) = match *instruction {
            I::Add { dest, left, right } => ("+", dest, left, right),
            I::Sub { dest, left, right } => ("-", dest, left, right),
            I::Mul { dest, left, right } => ("*", dest, left, right),
            I::Div { dest, left, right } => ("/", dest, left, right),
            I::Mod { dest, left, right } => ("%", dest, left, right),
            other => return Ok(other),
        };
        let function = match self.arithmetic.get(name) {
            Some(&function) => function,
            None => self.add_arithmetic(name)?,
        };
        Ok(self.call(function, dest, &[left, right]))
    }

    /// A function without a body yet: it is written behind everything else.
    fn add_arithmetic(&mut self, name: &'static str) -> Result<u16, String> {
        let parameters = vec!["left".to_owned(), "right".to_owned()];
        let info =
            RuleInfo::new_function(name.to_owned(), RuleType::Complete, Arc::default(), parameters, 0, 3);
        let function = self.add_rule(info)?;
        self.arithmetic.insert(name, function);
        Ok(function)
    }

    fn add_rule(&mut self, info: RuleInfo) -> Result<u16, String> {
        let index = small(self.program.rule_infos.len())?;
        self.scratch.push(info.num_registers);
        self.program.rule_infos.push(info);
        Ok(index)
    }

    fn call(&mut self, function: u16, dest: u8, arguments: &[u8]) -> Instruction {
        let mut args = [0; 8];
        args.iter_mut().zip(arguments).for_each(|(slot, argument)| *slot = *argument);
        let num_args = u8::try_from(arguments.len().min(args.len())).unwrap_or_default();
        let params = FunctionCallParams { func_rule_index: function, dest, num_args, args };
        Instruction::FunctionCall { params_index: self.program.add_function_call_params(params) }
    }

    /// Leads everything that names a place to where that went.
    fn relocate(&mut self, old: &Program) -> Result<(), String> {
        let moved = |place: usize| self.moved.get(place).copied().ok_or("a jump leads out of the program");
        let short = |place: u16| small(moved(usize::from(place))? as usize);
        for instruction in &mut self.program.instructions {
            if let Instruction::LoopNext { body_start, loop_end } = instruction {
                (*body_start, *loop_end) = (short(*body_start)?, short(*loop_end)?);
            }
        }
        for params in &mut self.program.instruction_data.loop_params {
            (params.body_start, params.loop_end) = (short(params.body_start)?, short(params.loop_end)?);
        }
        for params in &mut self.program.instruction_data.comprehension_begin_params {
            params.body_start = short(params.body_start)?;
            params.comprehension_end = short(params.comprehension_end)?;
        }
        for info in &mut self.program.rule_infos {
            let definitions = info.definitions.iter().map(|bodies| {
                bodies.iter().map(|&body| moved(body as usize)).collect::<Result<Vec<u32>, _>>()
            });
            info.definitions = Arc::new(definitions.collect::<Result<_, _>>()?);
            for block in info.destructuring_blocks.iter_mut().flatten() {
                *block = moved(*block as usize)?;
            }
        }
        for place in self.program.entry_points.values_mut() {
            *place = moved(*place)? as usize;
        }
        self.program.main_entry_point = moved(old.main_entry_point as usize)?;
        Ok(())
    }

    /// Makes a rule of each definition of a rule that has several, and of the rule one that asks them
    /// all.
    fn split(&mut self) -> Result<(), String> {
        for rule in 0..self.program.rule_infos.len() {
            let info = &self.program.rule_infos[rule];
            let complete = info.rule_type == RuleType::Complete;
            if complete && info.definitions.len() > 1 && !info.early_exit_on_first_success {
                self.split_rule(small(rule)?)?;
            }
        }
        Ok(())
    }

    fn split_rule(&mut self, rule: u16) -> Result<(), String> {
        let whole = self.program.rule_infos[usize::from(rule)].clone();
        let parameters = whole.function_info.as_ref().map(|function| function.num_params);
        let arguments: Vec<u8> = (1..=u8::try_from(parameters.unwrap_or_default()).unwrap_or(8)).collect();
        let value = u8::try_from(arguments.len() + 1).unwrap_or_default();
        let scratch = value + 1;
        self.scratch[usize::from(rule)] = scratch;
        let start = self.here()?;
        self.program.add_instruction(Instruction::RuleInit { result_reg: 0, rule_index: rule }, None);
        for definition in 0..whole.definitions.len() {
            let part = self.add_rule(part(&whole, definition))?;
            let call = match parameters {
                Some(_) => self.call(part, value, &arguments),
                None => Instruction::CallRule { dest: value, rule_index: part },
            };
            self.program.add_instruction(call, None);
            self.compare(rule, |scratch| vec![ne(scratch, 0, value)]);
            self.take_if_defined(value, scratch)?;
        }
        self.program.add_instruction(Instruction::RuleReturn {}, None);
        let info = &mut self.program.rule_infos[usize::from(rule)];
        info.definitions = Arc::new(vec![vec![start]]);
        info.destructuring_blocks = vec![None];
        info.else_bodies = vec![vec![false]];
        info.result_reg = 0;
        info.num_registers = scratch + SCRATCH;
        Ok(())
    }

    /// Moves the value into the result, if there is one: what is equal to itself is defined.
    fn take_if_defined(&mut self, value: u8, scratch: u8) -> Result<(), String> {
        let behind = small(self.program.instructions.len() + 3)?;
        for instruction in [
            Instruction::Eq { dest: scratch, left: value, right: value },
            Instruction::Not { dest: scratch, operand: scratch },
            jump_if(scratch, behind),
            Instruction::Move { dest: 0, src: value },
        ] {
            self.program.add_instruction(instruction, None);
        }
        Ok(())
    }

    /// Writes the traps and the arithmetic behind everything else.
    fn finish(mut self) -> Result<Mended, String> {
        let huge = small(self.program.add_literal(Value::from(HUGE)))?;
        let mut traps = Vec::with_capacity(self.jumps.len());
        for (rule, jumps) in std::mem::take(&mut self.jumps) {
            let trap = small(self.program.instructions.len())?;
            let scratch = self.scratch[usize::from(rule)];
            self.program.add_instruction(Instruction::Load { dest: scratch, literal_idx: huge }, None);
            let squared = Instruction::Mul { dest: scratch, left: scratch, right: scratch };
            self.program.add_instruction(squared, None);
            jumps.into_iter().for_each(|jump| self.program.instructions[jump] = jump_if(scratch, trap - 1));
            let name = self.program.rule_infos[usize::from(rule)].name.clone();
            traps.push((usize::from(trap) + 1, name));
        }
        for (name, function) in std::mem::take(&mut self.arithmetic) {
            let start = self.here()?;
            let init = Instruction::RuleInit { result_reg: 0, rule_index: function };
            for instruction in [init, operation(name), Instruction::RuleReturn {}] {
                self.program.add_instruction(instruction, None);
            }
            let info = &mut self.program.rule_infos[usize::from(function)];
            info.definitions = Arc::new(vec![vec![start]]);
            info.destructuring_blocks = vec![None];
            info.else_bodies = vec![vec![false]];
        }
        let widest = self.program.rule_infos.iter().map(|info| info.num_registers).max();
        self.program.max_rule_window_size = widest.unwrap_or_default();
        self.program.validate_limits()?;
        Ok(Mended { program: self.program, traps })
    }
}

/// One definition as a rule of its own.
fn part(whole: &RuleInfo, definition: usize) -> RuleInfo {
    RuleInfo {
        definitions: Arc::new(whole.definitions.get(definition).cloned().into_iter().collect()),
        default_literal_index: None,
        destructuring_blocks: vec![whole.destructuring_blocks.get(definition).copied().flatten()],
        else_bodies: whole.else_bodies.get(definition).cloned().into_iter().collect(),
        function_info: whole.function_info.as_ref().map(|function| FunctionInfo {
            param_names: function.param_names.clone(),
            num_params: function.num_params,
        }),
        ..whole.clone()
    }
}

fn ne(dest: u8, left: u8, right: u8) -> Instruction {
    Instruction::Ne { dest, left, right }
}

/// Goes on behind `place` if the register is true.
fn jump_if(register: u8, place: u16) -> Instruction {
    Instruction::AnyOfNext { check: register, result: register, end_pc: place }
}

/// What is done with the two parameters of a function.
fn operation(name: &str) -> Instruction {
    let (dest, left, right) = (0, 1, 2);
    match name {
        "+" => Instruction::Add { dest, left, right },
        "-" => Instruction::Sub { dest, left, right },
        "*" => Instruction::Mul { dest, left, right },
        "/" => Instruction::Div { dest, left, right },
        _ => Instruction::Mod { dest, left, right },
    }
}

fn small(number: usize) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| "the policy is too large for one program; split its bundle".to_owned())
}
