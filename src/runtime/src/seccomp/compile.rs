//! Compilation of profiles to classic BPF: a binary search over system call numbers, then the
//! conditions of each call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::profile::{Action, Argument, Operator, Profile, Rule};

/// Maximum number of instructions (`BPF_MAXINSNS`).
const MAX_LENGTH: usize = 4096;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_GREATER_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const NATIVE: u32 = 0xc000_00f3;

/// The bit that distinguishes x32 system calls from native ones on x86-64.
const X32: u32 = 0x4000_0000;

/// A compiled filter program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Program(Vec<Instruction>);

/// A classic BPF instruction, with the layout of `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl From<Vec<u64>> for Program {
    fn from(packed: Vec<u64>) -> Self {
        Self(
            packed
                .into_iter()
                .map(|p| Instruction {
                    code: (p >> 48) as u16,
                    jt: (p >> 40) as u8,
                    jf: (p >> 32) as u8,
                    k: p as u32,
                })
                .collect(),
        )
    }
}

impl From<Program> for Vec<u64> {
    fn from(program: Program) -> Self {
        program
            .0
            .into_iter()
            .map(|i| {
                u64::from(i.code) << 48
                    | u64::from(i.jt) << 40
                    | u64::from(i.jf) << 32
                    | u64::from(i.k)
            })
            .collect()
    }
}

impl Program {
    /// Returns the number of instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns a pointer to the instructions, for the kernel.
    pub fn as_ptr(&self) -> *const libc::sock_filter {
        // `Instruction` has the layout of `sock_filter`: the same fields in the same order,
        // repr(C).
        self.0.as_ptr().cast()
    }
}

/// Returns an instruction without jumps.
fn op(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Returns a conditional jump with offsets for true and false.
fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

impl Profile {
    /// Compiles the profile. Fails if the program is too long for the kernel.
    pub fn compile(&self) -> Result<Program, String> {
        let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in &self.rules {
            by_number.entry(rule.number).or_default().push(rule);
        }
        let leaves: Vec<(u32, Vec<Instruction>)> = by_number
            .into_iter()
            .map(|(number, rules)| Ok((number, leaf(&rules, self.default)?)))
            .collect::<Result<_, String>>()?;
        let mut code = vec![
            op(LOAD, ARCHITECTURE),
            branch(JUMP_EQUAL, NATIVE, 1, 0),
            op(RETURN, self.compat.code()),
            op(LOAD, NUMBER),
            branch(JUMP_GREATER_EQUAL, X32, 0, 1),
            op(RETURN, self.x32.code()),
        ];
        code.extend(search(&leaves, self.default));
        if code.len() > MAX_LENGTH {
            return Err(format!(
                "the seccomp profile is too long: {} instructions of {MAX_LENGTH}",
                code.len()
            ));
        }
        Ok(Program(code))
    }
}

/// Returns the code that dispatches to a call's leaf. The accumulator holds its number.
fn search(leaves: &[(u32, Vec<Instruction>)], default: Action) -> Vec<Instruction> {
    match leaves {
        [] => vec![op(RETURN, default.code())],
        // Consecutive calls with the same unconditional action form a range.
        [(first, code), .., (last, _)]
            if code.len() == 1
                && *last - *first == leaves.len() as u32 - 1
                && leaves.iter().all(|(_, other)| other == code) =>
        {
            vec![
                branch(JUMP_GREATER_EQUAL, *first, 0, 2),
                branch(JUMP_GREATER, *last, 1, 0),
                code[0],
                op(RETURN, default.code()),
            ]
        }
        [(number, code)] => {
            let mut out = vec![
                branch(JUMP_EQUAL, *number, 1, 0),
                op(RETURN, default.code()),
            ];
            out.extend(code);
            out
        }
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let low = search(low, default);
            // The halves may be longer than the 8-bit offset of a conditional jump.
            let mut out = vec![
                branch(JUMP_GREATER_EQUAL, high[0].0, 0, 1),
                op(JUMP, low.len() as u32),
            ];
            out.extend(low);
            out.extend(search(high, default));
            out
        }
    }
}

/// Returns the code for one call's rules. The first rule whose conditions all hold decides.
fn leaf(rules: &[&Rule], default: Action) -> Result<Vec<Instruction>, String> {
    let mut out = Vec::new();
    for rule in rules {
        if rule.arguments.is_empty() {
            out.push(op(RETURN, rule.action.code()));
            return Ok(out);
        }
        // A failing condition jumps past the rule. That distance is known only once the whole rule
        // is compiled.
        let conditions: Vec<Instruction> = rule.arguments.iter().flat_map(condition).collect();
        let total = conditions.len();
        for (position, instruction) in conditions.into_iter().enumerate() {
            let past = u8::try_from(total - position)
                .map_err(|_| "a system call has too many conditions".to_string())?;
            let jump = |target| if target == FAIL { past } else { target };
            out.push(Instruction {
                jt: jump(instruction.jt),
                jf: jump(instruction.jf),
                ..instruction
            });
        }
        out.push(op(RETURN, rule.action.code()));
    }
    out.push(op(RETURN, default.code()));
    Ok(out)
}

/// Placeholder for a jump past the end of the rule, replaced by [`leaf`].
const FAIL: u8 = 0xff;

/// Returns the code of a condition, which falls through if it holds.
fn condition(argument: &Argument) -> Vec<Instruction> {
    let low_offset = ARGUMENTS + 8 * u32::from(argument.index);
    let (low, high) = (op(LOAD, low_offset), op(LOAD, low_offset + 4));
    let (value_low, value_high) = (argument.value as u32, (argument.value >> 32) as u32);
    match argument.operator {
        Operator::Equal => vec![
            high,
            branch(JUMP_EQUAL, value_high, 0, FAIL),
            low,
            branch(JUMP_EQUAL, value_low, 0, FAIL),
        ],
        Operator::NotEqual => vec![
            high,
            branch(JUMP_EQUAL, value_high, 0, 2),
            low,
            branch(JUMP_EQUAL, value_low, FAIL, 0),
        ],
        Operator::MaskedEqual(mask) => vec![
            high,
            op(AND, (mask >> 32) as u32),
            branch(JUMP_EQUAL, value_high, 0, FAIL),
            low,
            op(AND, mask as u32),
            branch(JUMP_EQUAL, value_low, 0, FAIL),
        ],
        Operator::Greater => ordered(high, low, value_high, value_low, JUMP_GREATER, true),
        Operator::GreaterOrEqual => {
            ordered(high, low, value_high, value_low, JUMP_GREATER_EQUAL, true)
        }
        Operator::LessOrEqual => ordered(high, low, value_high, value_low, JUMP_GREATER, false),
        Operator::Less => ordered(high, low, value_high, value_low, JUMP_GREATER_EQUAL, false),
    }
}

/// Compares a 64-bit argument. `wanted` is whether the comparison `above` must hold or fail.
fn ordered(
    high: Instruction,
    low: Instruction,
    value_high: u32,
    value_low: u32,
    above: u16,
    wanted: bool,
) -> Vec<Instruction> {
    let (yes, no) = if wanted { (0, FAIL) } else { (FAIL, 0) };
    // Different high words decide alone; an offset of 2 or 3 leads past the end.
    let (greater, lesser) = if wanted { (3, FAIL) } else { (FAIL, 2) };
    vec![
        high,
        branch(JUMP_GREATER, value_high, greater, 0),
        branch(JUMP_EQUAL, value_high, 0, lesser),
        low,
        branch(above, value_low, yes, no),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seccomp::syscalls::number;

    /// Interprets a program like the kernel.
    fn run(program: &Program, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        for argument in arguments {
            data.extend(argument.to_le_bytes());
        }
        let (mut accumulator, mut pc) = (0u32, 0usize);
        loop {
            let i = program.0[pc];
            pc += 1;
            let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LOAD => {
                    let at = i.k as usize;
                    accumulator = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                }
                AND => accumulator &= i.k,
                JUMP => pc += i.k as usize,
                JUMP_EQUAL => pc += jump(accumulator == i.k),
                JUMP_GREATER => pc += jump(accumulator > i.k),
                JUMP_GREATER_EQUAL => pc += jump(accumulator >= i.k),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn holds(argument: &Argument, value: u64) -> bool {
        match argument.operator {
            Operator::NotEqual => value != argument.value,
            Operator::Less => value < argument.value,
            Operator::LessOrEqual => value <= argument.value,
            Operator::Equal => value == argument.value,
            Operator::GreaterOrEqual => value >= argument.value,
            Operator::Greater => value > argument.value,
            Operator::MaskedEqual(mask) => value & mask == argument.value,
        }
    }

    /// Evaluates a profile without compiling it.
    fn meaning(profile: &Profile, number: u32, arguments: [u64; 6]) -> Action {
        profile
            .rules
            .iter()
            .find(|r| {
                r.number == number
                    && r.arguments
                        .iter()
                        .all(|a| holds(a, arguments[usize::from(a.index)]))
            })
            .map_or(profile.default, |r| r.action)
    }

    fn any_u64() -> impl Strategy<Value = u64> {
        prop_oneof![
            0u64..4,
            any::<u64>(),
            (0u64..4).prop_map(|v| v << 32 | 1),
            Just(u64::MAX)
        ]
    }

    fn any_argument() -> impl Strategy<Value = Argument> {
        let operator = prop_oneof![
            Just(Operator::NotEqual),
            Just(Operator::Less),
            Just(Operator::LessOrEqual),
            Just(Operator::Equal),
            Just(Operator::GreaterOrEqual),
            Just(Operator::Greater),
            any_u64().prop_map(Operator::MaskedEqual),
        ];
        (0u8..6, operator, any_u64()).prop_map(|(index, operator, value)| Argument {
            index,
            operator,
            value,
        })
    }

    fn any_profile() -> impl Strategy<Value = Profile> {
        let action = prop_oneof![
            Just(Action::Allow),
            (1u16..3).prop_map(Action::Errno),
            Just(Action::KillProcess)
        ];
        let rule = (
            0u32..12,
            prop::collection::vec(any_argument(), 0..3),
            action.clone(),
        )
            .prop_map(|(number, arguments, action)| Rule {
                number,
                arguments,
                action,
            });
        (action, prop::collection::vec(rule, 0..30)).prop_map(|(default, rules)| Profile {
            default,
            compat: Action::KillThread,
            x32: Action::KillThread,
            rules,
        })
    }

    proptest! {
        #[test]
        fn programs_mean_what_profiles_say(
            profile in any_profile(),
            number in 0u32..14,
            arguments in prop::array::uniform6(any_u64()),
        ) {
            let program = profile.compile().unwrap();
            prop_assert_eq!(run(&program, NATIVE, number, arguments), meaning(&profile, number, arguments).code());
            let packed: Vec<u64> = program.clone().into();
            prop_assert_eq!(Program::from(packed), program);
        }
    }

    #[test]
    fn the_default_profile_guards() {
        let profile = Profile::runtime_default(&["CAP_CHOWN".into()]);
        let program = profile.compile().unwrap();
        let verdict = |name: &str, first: u64| {
            run(
                &program,
                NATIVE,
                number(name).unwrap(),
                [first, 0, 0, 0, 0, 0],
            )
        };
        let denied = Action::Errno(libc::EPERM as u16).code();
        for name in [
            "read",
            "write",
            "openat",
            "execve",
            "futex",
            "statx",
            "setresuid",
            "capset",
        ] {
            assert_eq!(verdict(name, 0), Action::Allow.code(), "{name}");
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "reboot",
            "init_module",
            "keyctl",
            "add_key",
            "kexec_load",
        ] {
            assert_eq!(verdict(name, 0), denied, "{name}");
        }
        assert_eq!(verdict("clone", libc::SIGCHLD as u64), Action::Allow.code());
        assert_eq!(verdict("clone", libc::CLONE_NEWUSER as u64), denied);
        assert_eq!(
            verdict("clone3", 0),
            Action::Errno(libc::ENOSYS as u16).code()
        );
        assert_eq!(verdict("socket", libc::AF_VSOCK as u64), denied);
        assert_eq!(verdict("personality", 8), Action::Allow.code());
        assert_eq!(
            run(&program, 0x4000_0003, number("read").unwrap(), [0; 6]),
            denied
        );
        let admin = Profile::runtime_default(&["CAP_SYS_ADMIN".into()])
            .compile()
            .unwrap();
        assert_eq!(
            run(&admin, NATIVE, number("mount").unwrap(), [0; 6]),
            Action::Allow.code()
        );
    }

    /// The 32-bit ABI in profiles, and its audit number.
    #[cfg(target_arch = "x86_64")]
    const COMPAT: (&str, u32) = ("SCMP_ARCH_X86", 0x4000_0003);
    #[cfg(target_arch = "aarch64")]
    const COMPAT: (&str, u32) = ("SCMP_ARCH_ARM", 0x4000_0028);

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn foreign_abis_do_not_evade_the_rules() {
        let verdicts = |default: &str, architectures: &[&str]| {
            let profile = serde_json::json!({
                "defaultAction": default,
                "architectures": architectures,
                "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"}],
            });
            let text = profile.to_string();
            let program = Profile::parse(text.as_bytes(), &[])
                .unwrap()
                .compile()
                .unwrap();
            let call = number("mkdirat").unwrap();
            [
                run(&program, COMPAT.1, call, [0; 6]),
                run(&program, NATIVE, call | X32, [0; 6]),
            ]
        };
        let killed = Action::KillThread.code();
        let denied = Action::Errno(libc::EPERM as u16).code();
        for default in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_ERRNO"] {
            assert_eq!(verdicts(default, &[]), [killed; 2]);
            assert_eq!(verdicts(default, &["SCMP_ARCH_S390X"]), [killed; 2]);
        }
        assert_eq!(verdicts("SCMP_ACT_ALLOW", &[COMPAT.0]), [killed; 2]);
        assert_eq!(verdicts("SCMP_ACT_ERRNO", &[COMPAT.0]), [denied, killed]);
        let all = [COMPAT.0, "SCMP_ARCH_X32"];
        assert_eq!(verdicts("SCMP_ACT_ERRNO", &all), [denied; 2]);
    }

    #[test]
    fn reads_dockers_json() {
        let text = br#"{
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
                {"names": ["chmod"], "action": "SCMP_ACT_KILL_PROCESS", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["personality"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 0, "value": 4, "valueTwo": 0, "op": "SCMP_CMP_GT"}]}
            ]}"#;
        let program = Profile::parse(text, &[]).unwrap().compile().unwrap();
        let verdict = |name: &str, first: u64| {
            run(
                &program,
                NATIVE,
                number(name).unwrap(),
                [first, 0, 0, 0, 0, 0],
            )
        };
        assert_eq!(verdict("mkdir", 0), Action::Errno(5).code());
        assert_eq!(verdict("chmod", 0), Action::Allow.code());
        assert_eq!(verdict("personality", 4), Action::Allow.code());
        assert_eq!(verdict("personality", 5), Action::Errno(1).code());
        for bad in ["{}", r#"{"defaultAction":"X"}"#, "nonsense"] {
            assert!(Profile::parse(bad.as_bytes(), &[]).is_err());
        }
    }
}
