//! Seccomp profiles: the built-in default, and parsing from JSON.

use serde::Deserialize;

use super::syscalls::number;

/// The action for a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Allow the call.
    Allow,
    /// Fail the call with this error number.
    Errno(u16),
    /// Kill the thread.
    KillThread,
    /// Kill the process.
    KillProcess,
    /// Send `SIGSYS` to the thread.
    Trap,
    /// Notify the tracer with this value.
    Trace(u16),
    /// Allow the call and log it.
    Log,
}

impl Action {
    /// Returns the value that a filter returns (`SECCOMP_RET_…`).
    pub fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Trace(value) => libc::SECCOMP_RET_TRACE | u32::from(value),
            Self::Log => libc::SECCOMP_RET_LOG,
        }
    }

    /// Returns the action for calls of a foreign ABI, of a profile with this default action.
    /// `named` is whether the profile's `architectures` list the ABI.
    ///
    /// As in libseccomp, calls of an ABI that is not listed kill the thread. The rules are compiled
    /// for native calls only. Therefore a listed ABI gets the default action if that denies calls,
    /// and is treated like one that is not listed otherwise: its programs would evade the rules.
    fn foreign(self, named: bool) -> Self {
        match self {
            Self::Errno(_) | Self::KillProcess | Self::Trap if named => self,
            _ => Self::KillThread,
        }
    }

    /// Parses the name of an action. The default error number is `EPERM`.
    fn parse(name: &str, errno: Option<u32>) -> Result<Self, String> {
        let value = errno.map_or(Ok(libc::EPERM as u16), u16::try_from);
        let value =
            value.map_err(|_| format!("error number {} is out of range", errno.unwrap_or(0)))?;
        Ok(match name {
            "SCMP_ACT_ALLOW" => Self::Allow,
            "SCMP_ACT_ERRNO" => Self::Errno(value),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KillThread,
            "SCMP_ACT_KILL_PROCESS" => Self::KillProcess,
            "SCMP_ACT_TRAP" => Self::Trap,
            "SCMP_ACT_TRACE" => Self::Trace(value),
            "SCMP_ACT_LOG" => Self::Log,
            "SCMP_ACT_NOTIFY" => return Err("action SCMP_ACT_NOTIFY is not supported".into()),
            other => return Err(format!("unknown action {other:?}")),
        })
    }
}

/// A comparison of an argument with a value, as unsigned 64-bit numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Equal.
    Equal,
    /// Greater or equal.
    GreaterOrEqual,
    /// Greater.
    Greater,
    /// Equal after masking the argument with this mask.
    MaskedEqual(u64),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Index of the argument, from 0 to 5.
    pub index: u8,
    /// The comparison.
    pub operator: Operator,
    /// The value that the argument is compared with.
    pub value: u64,
}

/// A rule for one system call. The action applies if all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Number of the system call on this machine.
    pub number: u32,
    /// Conditions on the arguments.
    pub arguments: Vec<Argument>,
    /// The action.
    pub action: Action,
}

/// A profile for the native system calls of this machine. The rules do not apply to calls of other
/// ABIs, whose system calls have other numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Action for calls that no rule matches.
    pub default: Action,
    /// Action for calls of 32-bit programs.
    pub compat: Action,
    /// Action for calls of x32 programs, which exist on x86-64 only.
    pub x32: Action,
    /// The rules. For each call, the first match applies.
    pub rules: Vec<Rule>,
}

/// The flags in the first argument of `clone(2)` that create namespaces.
const CLONE_NEW: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// System calls that are allowed in all containers, as in the default profile of Docker and
/// containerd.
const ALWAYS: &str = "\
accept accept4 access alarm bind brk cachestat capget capset chdir chmod chown clock_adjtime \
clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup \
dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 \
fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr \
flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue \
futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid geteuid \
getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom \
getresgid getresuid getrlimit get_robust_list getrusage getsid getsockname getsockopt \
get_thread_area gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init \
inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents ioprio_get \
ioprio_set io_setup io_submit kill landlock_add_rule landlock_create_ruleset \
landlock_restrict_self lchown lgetxattr link linkat listen listmount listxattr listxattrat \
llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create \
memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr \
mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd \
msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause \
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl \
pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read \
readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr \
removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction \
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max \
sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr \
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop \
sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid setgroups setitimer setpgid setpriority \
setregid setresgid setresuid setreuid setrlimit set_robust_list setsid setsockopt set_thread_area \
set_tid_address setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
signalfd4 socketpair splice stat statfs statmount statx symlink symlinkat sync sync_file_range \
syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname \
unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write writev \
arch_prctl modify_ldt process_vm_readv process_vm_writev ptrace riscv_flush_icache";

/// Additional system calls that a capability allows.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open \
         quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday clock_settime adjtimex"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Execution domains that `personality(2)` may set: Linux, 32-bit, `UNAME26`, the latter two
/// combined, and the value that queries the domain.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x20000, 0x20008, 0xffff_ffff];

/// The address family of sockets between a guest and its host.
const AF_VSOCK: u64 = libc::AF_VSOCK as u64;

impl Profile {
    /// Returns the default profile of Docker and containerd: an allow list, with `EPERM` for all
    /// other calls.
    pub fn runtime_default(capabilities: &[String]) -> Self {
        let mut rules = Vec::new();
        let mut allow = |names: &str, arguments: &[Argument]| {
            for number in names.split_ascii_whitespace().filter_map(number) {
                rules.push(Rule {
                    number,
                    arguments: arguments.to_vec(),
                    action: Action::Allow,
                });
            }
        };
        allow(ALWAYS, &[]);
        let argument = |operator, value| Argument {
            index: 0,
            operator,
            value,
        };
        for domain in PERSONALITIES {
            allow("personality", &[argument(Operator::Equal, domain)]);
        }
        allow("socket", &[argument(Operator::NotEqual, AF_VSOCK)]);
        for (capability, names) in BY_CAPABILITY {
            if capabilities.iter().any(|c| c == capability) {
                allow(names, &[]);
            }
        }
        if !capabilities.iter().any(|c| c == "CAP_SYS_ADMIN") {
            // On s390, the first two arguments are swapped; rkube does not support it.
            allow("clone", &[argument(Operator::MaskedEqual(CLONE_NEW), 0)]);
            // C libraries fall back to `clone` only on `ENOSYS`.
            rules.extend(number("clone3").map(|number| Rule {
                number,
                arguments: Vec::new(),
                action: Action::Errno(libc::ENOSYS as u16),
            }));
        }
        let denied = Action::Errno(libc::EPERM as u16);
        Self {
            default: denied,
            compat: denied,
            x32: denied,
            rules,
        }
    }

    /// Parses a profile in the JSON format of Docker or OCI. Names of unknown system calls are
    /// ignored, as in libseccomp. `architectures` decides on calls of foreign ABIs.
    pub fn parse(text: &[u8], capabilities: &[String]) -> Result<Self, String> {
        let json: Json = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let default = Action::parse(&json.default_action, json.default_errno_ret)?;
        let mut rules = Vec::new();
        for call in &json.syscalls {
            if !call.includes.matches_all(capabilities) || call.excludes.matches_any(capabilities) {
                continue;
            }
            let action = Action::parse(&call.action, call.errno_ret)?;
            let arguments = call
                .args
                .iter()
                .flatten()
                .map(JsonArgument::parse)
                .collect::<Result<Vec<_>, _>>()?;
            for name in call.names.iter().chain(&call.name) {
                if let Some(number) = number(name) {
                    rules.push(Rule {
                        number,
                        arguments: arguments.clone(),
                        action,
                    });
                }
            }
        }
        let foreign = |abi: &str| {
            let named = json.architectures.iter().any(|a| a == abi);
            default.foreign(named)
        };
        Ok(Self {
            default,
            compat: foreign(COMPAT),
            x32: foreign("SCMP_ARCH_X32"),
            rules,
        })
    }
}

/// Name of the 32-bit ABI of this machine in profiles; empty if it has none.
const COMPAT: &str = if cfg!(target_arch = "x86_64") {
    "SCMP_ARCH_X86"
} else if cfg!(target_arch = "aarch64") {
    "SCMP_ARCH_ARM"
} else {
    ""
};

/// A profile in the JSON format of Docker or OCI.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    syscalls: Vec<JsonCall>,
}

/// A rule for several system calls.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonCall {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<JsonArgument>>,
    #[serde(default)]
    includes: JsonFilter,
    #[serde(default)]
    excludes: JsonFilter,
}

/// Docker's conditions for including or excluding a rule.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonFilter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

impl JsonFilter {
    /// Returns whether the filter names this machine's architecture.
    fn has_arch(&self) -> bool {
        let native = match std::env::consts::ARCH {
            "x86_64" => ["amd64", "x86_64"],
            "aarch64" => ["arm64", "aarch64"],
            other => [other, other],
        };
        self.arches.iter().any(|a| native.contains(&a.as_str()))
    }

    /// Returns whether all conditions hold (`includes`).
    fn matches_all(&self, capabilities: &[String]) -> bool {
        (self.arches.is_empty() || self.has_arch())
            && self.caps.iter().all(|c| capabilities.contains(c))
    }

    /// Returns whether any condition holds (`excludes`).
    fn matches_any(&self, capabilities: &[String]) -> bool {
        self.has_arch() || self.caps.iter().any(|c| capabilities.contains(c))
    }
}

/// A condition on an argument.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArgument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl JsonArgument {
    fn parse(&self) -> Result<Argument, String> {
        if self.index > 5 {
            return Err(format!(
                "argument {} does not exist: there are six",
                self.index
            ));
        }
        let (operator, value) = match self.op.as_str() {
            "SCMP_CMP_NE" => (Operator::NotEqual, self.value),
            "SCMP_CMP_LT" => (Operator::Less, self.value),
            "SCMP_CMP_LE" => (Operator::LessOrEqual, self.value),
            "SCMP_CMP_EQ" => (Operator::Equal, self.value),
            "SCMP_CMP_GE" => (Operator::GreaterOrEqual, self.value),
            "SCMP_CMP_GT" => (Operator::Greater, self.value),
            "SCMP_CMP_MASKED_EQ" => (Operator::MaskedEqual(self.value), self.value_two),
            other => return Err(format!("unknown operator {other:?}")),
        };
        Ok(Argument {
            index: self.index,
            operator,
            value,
        })
    }
}
