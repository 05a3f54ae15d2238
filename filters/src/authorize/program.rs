//! What a compiled program reads of the input, told from its instructions.
//!
//! The second account of the same thing, see [`super::syntax`]. It follows the registers that hold
//! the input or a part of it through one rule body after the other: registers belong to a body, are
//! written before they are read, and a body's instructions lie in the order of their dominance. An
//! instruction that is not known here reads everything.

use super::paths::{InputPath, Reads};
use regorus::Value;
use regorus::rvm::instructions::{GuardMode, Instruction, InstructionData, LiteralOrRegister};
use regorus::rvm::program::Program;
use std::collections::HashMap;
use std::sync::Arc;

/// What the program reads of the input.
pub(super) fn reads(program: &Program) -> Reads {
    let mut tracer = Tracer { program, held: HashMap::new(), result: 0, reads: Reads::default() };
    for instruction in &program.instructions {
        tracer.step(instruction);
    }
    tracer.reads
}

/// What is known of a register.
#[derive(Clone)]
enum Held {
    Part(InputPath),
    Literal(Value),
}

struct Tracer<'p> {
    program: &'p Program,
    held: HashMap<u8, Held>,
    /// The register whose value is the rule's.
    result: u8,
    reads: Reads,
}

impl Tracer<'_> {
    fn step(&mut self, instruction: &Instruction) {
        match *instruction {
            Instruction::RuleInit { result_reg, .. } => {
                self.held.clear();
                self.result = result_reg;
            }
            Instruction::LoadInput { dest } => self.hold(dest, Held::Part(InputPath::default())),
            Instruction::Load { dest, literal_idx } => match self.literal(literal_idx) {
                Some(value) => self.hold(dest, Held::Literal(value)),
                None => self.forget(dest),
            },
            Instruction::Move { dest, src } => self.copy(dest, src),
            Instruction::IndexLiteral { dest, container, literal_idx } => {
                let name = self.name(literal_idx);
                self.follow(dest, container, &[name]);
            }
            Instruction::Index { dest, container, key } => {
                self.read(key);
                self.follow(dest, container, &[None]);
            }
            Instruction::ChainedIndex { params_index } => self.chain(params_index),
            Instruction::BuiltinCall { params_index } => self.builtin(params_index),
            Instruction::Guard { register, mode: GuardMode::NotUndefined } => {
                if let Some(path) = self.part(register) {
                    self.reads.existence(path);
                }
            }
            ref other => self.plain(other),
        }
    }

    fn hold(&mut self, register: u8, held: Held) {
        self.held.insert(register, held);
    }

    fn forget(&mut self, register: u8) {
        self.held.remove(&register);
    }

    fn part(&self, register: u8) -> Option<InputPath> {
        match self.held.get(&register)? {
            Held::Part(path) => Some(path.clone()),
            Held::Literal(_) => None,
        }
    }

    fn literal(&self, index: u16) -> Option<Value> {
        self.program.literals.get(usize::from(index)).cloned()
    }

    fn name(&self, index: u16) -> Option<Arc<str>> {
        self.literal(index).and_then(|value| value.as_string().ok().cloned())
    }

    fn read(&mut self, register: u8) {
        if let Some(path) = self.part(register) {
            self.reads.value(path);
        }
    }

    /// A copy into the rule's result leaves the body.
    fn copy(&mut self, dest: u8, src: u8) {
        if dest == self.result {
            self.read(src);
        }
        match self.held.get(&src).cloned() {
            Some(held) => self.hold(dest, held),
            None => self.forget(dest),
        }
    }

    /// Goes from a register as far as the names are literal; what is read from there on is read as a
    /// whole.
    fn follow(&mut self, dest: u8, root: u8, names: &[Option<Arc<str>>]) {
        let Some(part) = self.part(root) else { return self.forget(dest) };
        let known: Vec<Arc<str>> = names.iter().map_while(Clone::clone).collect();
        let path = part.along(&known);
        if known.len() == names.len() {
            self.hold(dest, Held::Part(path));
        } else {
            self.reads.value(path);
            self.forget(dest);
        }
    }

    fn chain(&mut self, params_index: u16) {
        let Some(params) = self.program.instruction_data.get_chained_index_params(params_index) else {
            return self.everything();
        };
        let mut names = Vec::with_capacity(params.path_components.len());
        for component in &params.path_components {
            match *component {
                LiteralOrRegister::Literal(index) => names.push(self.name(index)),
                LiteralOrRegister::Register(register) => {
                    self.read(register);
                    names.push(None);
                }
            }
        }
        self.follow(params.dest, params.root, &names);
    }

    fn builtin(&mut self, params_index: u16) {
        let Some(params) = self.program.instruction_data.get_builtin_call_params(params_index) else {
            return self.everything();
        };
        let name = self.program.get_builtin_info(params.builtin_index).map(|info| info.name.as_str());
        let mut registers = params.arg_registers();
        if let ([object, key, rest @ ..], Some("object.get")) = (registers, name)
            && let (Some(part), Some(Held::Literal(Value::String(key)))) =
                (self.part(*object), self.held.get(key))
        {
            let member = part.below(key);
            self.reads.value(member);
            registers = rest;
        }
        registers.iter().for_each(|&register| self.read(register));
        self.forget(params.dest);
    }

    fn plain(&mut self, instruction: &Instruction) {
        let Some((read, written)) = registers(instruction, &self.program.instruction_data) else {
            return self.everything();
        };
        read.into_iter().for_each(|register| self.read(register));
        written.into_iter().for_each(|register| self.forget(register));
    }

    fn everything(&mut self) {
        self.reads.value(InputPath::default());
        self.held.clear();
    }
}

/// The registers that an instruction reads, and those that it writes; `None` if it is not known.
fn registers(instruction: &Instruction, tables: &InstructionData) -> Option<(Vec<u8>, Vec<u8>)> {
    use Instruction as I;
    Some(match *instruction {
        I::LoadTrue { dest }
        | I::LoadFalse { dest }
        | I::LoadNull { dest }
        | I::LoadBool { dest, .. }
        | I::LoadData { dest }
        | I::ArrayNew { dest }
        | I::SetNew { dest }
        | I::CallRule { dest, .. } => (vec![], vec![dest]),
        I::Add { dest, left, right }
        | I::Sub { dest, left, right }
        | I::Mul { dest, left, right }
        | I::Div { dest, left, right }
        | I::Mod { dest, left, right }
        | I::Eq { dest, left, right }
        | I::Ne { dest, left, right }
        | I::Lt { dest, left, right }
        | I::Le { dest, left, right }
        | I::Gt { dest, left, right }
        | I::Ge { dest, left, right }
        | I::And { dest, left, right }
        | I::Or { dest, left, right }
        | I::Contains { dest, collection: left, value: right } => (vec![left, right], vec![dest]),
        I::Not { dest, operand } | I::Count { dest, collection: operand } => (vec![operand], vec![dest]),
        I::Return { value } => (vec![value], vec![]),
        I::Guard { register, .. } => (vec![register], vec![]),
        I::AssertEq { left, right } => (vec![left, right], vec![]),
        I::ObjectSet { obj, key, value } => (vec![obj, key, value], vec![obj]),
        I::ArrayPush { arr, value } => (vec![arr, value], vec![arr]),
        I::SetAdd { set, value } => (vec![set, value], vec![set]),
        I::ComprehensionYield { value_reg, key_reg } => {
            ([value_reg].into_iter().chain(key_reg).collect(), vec![])
        }
        I::LoopNext { .. }
        | I::RuleReturn {}
        | I::DestructuringSuccess {}
        | I::ComprehensionEnd {}
        | I::Halt {} => (vec![], vec![]),
        _ => return tabled(instruction, tables),
    })
}

/// The same for instructions whose operands lie in tables.
fn tabled(instruction: &Instruction, tables: &InstructionData) -> Option<(Vec<u8>, Vec<u8>)> {
    use Instruction as I;
    Some(match *instruction {
        I::FunctionCall { params_index } => {
            let params = tables.get_function_call_params(params_index)?;
            (params.arg_registers().to_vec(), vec![params.dest])
        }
        I::ObjectCreate { params_index } => {
            let params = tables.get_object_create_params(params_index)?;
            let literal = params.literal_key_field_pairs().iter().map(|&(_, value)| value);
            let computed = params.field_pairs().iter().flat_map(|&(key, value)| [key, value]);
            (literal.chain(computed).collect(), vec![params.dest])
        }
        I::ArrayCreate { params_index } => {
            let params = tables.get_array_create_params(params_index)?;
            (params.elements.clone(), vec![params.dest])
        }
        I::SetCreate { params_index } => {
            let params = tables.get_set_create_params(params_index)?;
            (params.elements.clone(), vec![params.dest])
        }
        I::LoopStart { params_index } => {
            let params = tables.get_loop_params(params_index)?;
            (vec![params.collection], vec![params.key_reg, params.value_reg, params.result_reg])
        }
        I::ComprehensionBegin { params_index } => {
            let params = tables.get_comprehension_begin_params(params_index)?;
            (vec![params.collection_reg], vec![params.result_reg, params.key_reg, params.value_reg])
        }
        I::VirtualDataDocumentLookup { params_index } => {
            let params = tables.get_virtual_data_document_lookup_params(params_index)?;
            (params.register_numbers(), vec![params.dest])
        }
        _ => return None,
    })
}
