//! The test cases, by name.

mod ends;
mod propagation;
mod users;

use std::time::Duration;

use rkube_runtime::{
    ContainerEventKind, ContainerState, ExecSpec, Mount, Resources, Runtime, SandboxSpec,
    SeccompProfile, Security,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Bench, IMAGE, is_running, text, with_bench};

type Case = (&'static str, fn());

pub const ALL: &[Case] = &[
    ("runs_to_its_end", runs_to_its_end),
    ("exit_codes_and_signals", exit_codes_and_signals),
    ("commands_that_cannot_run", commands_that_cannot_run),
    ("sandbox_is_shared", sandbox_is_shared),
    ("exec_is_like_the_container", exec_is_like_the_container),
    ("exec_streams_and_codes", exec_streams_and_codes),
    ("exec_with_a_terminal", exec_with_a_terminal),
    ("attach_feeds_and_shows", attach_feeds_and_shows),
    ("terminal_container", terminal_container),
    ("users_and_groups", users_and_groups),
    ("capabilities_and_seccomp", capabilities_and_seccomp),
    ("read_only_paths", read_only_paths),
    ("mounts", mounts),
    (
        "mounts_propagate_as_they_say",
        propagation::mounts_propagate_as_they_say,
    ),
    ("memory_limit_kills", memory_limit_kills),
    ("stop_asks_then_kills", stop_asks_then_kills),
    (
        "agent_restart_keeps_containers",
        agent_restart_keeps_containers,
    ),
    (
        "dead_shim_is_cleaned_up_after",
        dead_shim_is_cleaned_up_after,
    ),
    ("shared_pid_namespace", shared_pid_namespace),
    ("builtin_image", builtin_image),
    ("host_namespaces", host_namespaces),
    ("log_is_reopened", log_is_reopened),
    (
        "starts_are_announced_before_ends",
        ends::starts_are_announced_before_ends,
    ),
    ("stopped_shim_is_killed", ends::stopped_shim_is_killed),
    (
        "unrecorded_pause_is_killed",
        ends::unrecorded_pause_is_killed,
    ),
    ("child_groups_are_killed", ends::child_groups_are_killed),
    (
        "users_are_others_on_the_node",
        users::users_are_others_on_the_node,
    ),
    ("files_keep_their_owners", users::files_keep_their_owners),
    (
        "users_without_an_id_are_refused",
        users::users_without_an_id_are_refused,
    ),
    (
        "unmasked_and_privileged_stay_in_their_namespace",
        users::unmasked_and_privileged_stay_in_their_namespace,
    ),
    (
        "parameters_of_the_ipc_namespace_are_set",
        users::parameters_of_the_ipc_namespace_are_set,
    ),
    (
        "processes_are_shared_within_the_user_namespace",
        users::processes_are_shared_within_the_user_namespace,
    ),
    (
        "debuggers_join_a_user_namespace",
        users::debuggers_join_a_user_namespace,
    ),
    (
        "user_namespaces_outlive_the_agent",
        users::user_namespaces_outlive_the_agent,
    ),
];

fn runs_to_its_end() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut events = b.runtime.events();
        let spec = b.script("echo out; echo err >&2; pwd; echo $FROM $HOME $0; hostname; exit 0");
        let (status, log) = b.run(&sandbox, spec).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (Some(0), "Completed"),
            "{status:?}"
        );
        assert!(status.started_at <= status.finished_at);
        for line in ["out", "err", "/srv/dir", "image /root sh", "pod-1"] {
            assert!(log.lines().any(|l| l == line), "{line:?} is not in {log:?}");
        }
        let mut kinds = Vec::new();
        while let Ok(event) = events.try_recv() {
            kinds.push(event.kind);
        }
        assert_eq!(
            kinds,
            [
                ContainerEventKind::Created,
                ContainerEventKind::Started,
                ContainerEventKind::Exited
            ]
        );
        b.runtime.remove_container(&status.id).await.unwrap();
        b.runtime.remove_container(&status.id).await.unwrap();
        assert!(b.runtime.container_status(&status.id).is_none());
    });
}

fn exit_codes_and_signals() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let (status, _) = b.run(&sandbox, b.script("exit 42")).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (Some(42), "Error")
        );
        let id = b.start(&sandbox, b.script("sleep 1000")).await;
        assert!(is_running(&b.runtime.container_status(&id).unwrap()));
        b.runtime.kill_container(&id, libc::SIGKILL).await.unwrap();
        let status = b.end(&id).await;
        assert_eq!((status.exit_code, status.signal), (Some(137), Some(9)));
        assert!(b.runtime.kill_container(&id, 9).await.is_err());
    });
}

fn commands_that_cannot_run() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        for (command, reason) in [
            ("nope", "executable file not found in $PATH"),
            ("/bin/nope", "no such file or directory"),
            ("/etc/notes", "permission denied"),
            ("/bin", "is a directory"),
        ] {
            let mut spec = b.script("");
            spec.command = Some(vec![command.into()]);
            let id = b.runtime.create_container(&sandbox, spec).await.unwrap();
            let error = b
                .runtime
                .start_container(&id)
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{command}: {error}");
            let status = b.runtime.container_status(&id).unwrap();
            assert_eq!(status.state, ContainerState::Exited);
            assert_eq!(
                (status.exit_code, status.reason.as_str()),
                (Some(128), "StartError")
            );
            assert!(status.message.contains(reason));
        }
        let mut spec = b.script("");
        spec.image = "test/absent".into();
        let error = b
            .runtime
            .create_container(&sandbox, spec)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("not present"), "{error}");
        let id = b.start(&sandbox, b.script("sleep 1000")).await;
        let command = ExecSpec {
            command: vec!["nope".into()],
            ..ExecSpec::default()
        };
        let error = b.runtime.exec(&id, command).await.unwrap_err().to_string();
        assert!(
            error.contains("executable file not found in $PATH"),
            "{error}"
        );
    });
}

fn sandbox_is_shared() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let first = b
            .start(&sandbox, b.script("echo shared > /dev/shm/x; sleep 1000"))
            .await;
        let second = b.start(&sandbox, b.script("sleep 1000")).await;
        b.sh(&first, "echo done > /dev/shm/done").await;
        assert_eq!(b.out(&second, "cat /dev/shm/done").await, "done");
        for kind in ["net", "ipc", "uts"] {
            let link = format!("readlink /proc/self/ns/{kind}");
            let (one, two) = (b.out(&first, &link).await, b.out(&second, &link).await);
            assert_eq!(one, two);
            let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_ne!(own.to_str().unwrap(), one);
        }
        let pid = "readlink /proc/self/ns/pid";
        assert_ne!(b.out(&first, pid).await, b.out(&second, pid).await);
        assert!(b.out(&first, "ip -o link show lo").await.contains("UP"));
        let bad = SandboxSpec {
            sysctls: [("kernel.panic".to_string(), "1".to_string())].into(),
            ..SandboxSpec::default()
        };
        assert!(b.runtime.run_sandbox(bad).await.is_err());
        let tuned = b
            .sandbox_with(SandboxSpec {
                sysctls: [(
                    "net.ipv4.ip_local_port_range".to_string(),
                    "2000 3000".to_string(),
                )]
                .into(),
                ..SandboxSpec::default()
            })
            .await;
        let id = b.start(&tuned, b.script("sleep 1000")).await;
        assert_eq!(
            b.out(&id, "cat /proc/sys/net/ipv4/ip_local_port_range")
                .await,
            "2000\t3000"
        );
    });
}

/// Prints the identity, privileges and limits of a container's process.
const CHARACTER: &str = "id -u; id -g; id -G; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; \
    grep 'open files' /proc/self/limits; pwd; env | grep -E '^(HOME|FROM|EXTRA|PATH)='; \
    cat /proc/self/oom_score_adj; readlink /proc/self/ns/mnt; umask";

fn exec_is_like_the_container() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        for security in [
            Security {
                seccomp: SeccompProfile::RuntimeDefault,
                ..Security::default()
            },
            Security {
                run_as_user: Some(1000),
                run_as_group: Some(2000),
                supplemental_groups: vec![7],
                no_new_privileges: true,
                seccomp: SeccompProfile::RuntimeDefault,
                drop_capabilities: vec!["CHOWN".into()],
                ..Security::default()
            },
            Security {
                run_as_user_name: Some("web".into()),
                ..Security::default()
            },
            Security {
                privileged: true,
                ..Security::default()
            },
        ] {
            let mut spec = b.script(&format!("{CHARACTER}; sleep 1000"));
            spec.security = security.clone();
            spec.env = vec![("EXTRA".into(), "pod".into())];
            spec.oom_score_adj = Some(500);
            let log = spec.log_path.clone().unwrap();
            let id = b.start(&sandbox, spec).await;
            let mut own = String::new();
            for _ in 0..500 {
                own = text(&log);
                if own.ends_with("0022\n") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let exec = b.sh(&id, CHARACTER).await;
            assert_eq!(exec.exit_code, 0);
            assert_eq!(own, String::from_utf8(exec.stdout).unwrap(), "{security:?}");
            assert!(own.contains("\n500\n"), "{own}");
            assert!(own.contains("EXTRA=pod"));
            let seccomp = if security.seccomp == SeccompProfile::RuntimeDefault {
                "2"
            } else {
                "0"
            };
            assert!(own.contains(&format!("Seccomp:\t{seccomp}")), "{own}");
            b.runtime.remove_container(&id).await.unwrap();
        }
    });
}

fn exec_streams_and_codes() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let id = b.start(&sandbox, b.script("sleep 1000")).await;
        let output = b.sh(&id, "echo out; echo err >&2; exit 3").await;
        assert_eq!(
            (&output.stdout[..], &output.stderr[..], output.exit_code),
            (&b"out\n"[..], &b"err\n"[..], 3)
        );
        assert_eq!(b.sh(&id, "kill -9 $$").await.exit_code, 137);

        let spec = ExecSpec {
            command: vec!["cat".into()],
            stdin: true,
            ..ExecSpec::default()
        };
        let mut session = b.runtime.exec(&id, spec).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        let mut stdout = session.stdout.take().unwrap();
        let big = vec![b'x'; 1 << 20];
        let sent = big.clone();
        let writer = tokio::spawn(async move {
            stdin.write_all(&sent).await.unwrap();
            drop(stdin);
        });
        let mut back = Vec::new();
        stdout.read_to_end(&mut back).await.unwrap();
        writer.await.unwrap();
        assert_eq!(back.len(), big.len());
        assert_eq!(session.control.wait().await.unwrap(), 0);

        let command = ["sleep".to_string(), "1000".into()];
        let error = b
            .runtime
            .exec_sync(&id, &command, Duration::from_millis(100))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("timed out"), "{error}");
        // Concurrent commands.
        let runs = (0..16).map(|i| {
            let (b, id) = (b.clone(), id.clone());
            async move { assert_eq!(b.out(&id, &format!("echo {i}")).await, i.to_string()) }
        });
        futures::future::join_all(runs).await;
        assert_eq!(b.out(&id, "ps | grep -c '[s]leep'").await, "1");
    });
}

fn exec_with_a_terminal() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut spec = b.script("sleep 1000");
        spec.security.run_as_user = Some(1000);
        let id = b.start(&sandbox, spec).await;
        let spec = ExecSpec {
            command: vec!["sh".into()],
            tty: true,
            stdin: true,
            ..ExecSpec::default()
        };
        let mut session = b.runtime.exec(&id, spec).await.unwrap();
        assert!(session.stderr.is_none());
        session.control.resize(93, 41).unwrap();
        let mut stdin = session.stdin.take().unwrap();
        let mut stdout = session.stdout.take().unwrap();
        stdin
            .write_all(b"stty size; echo again > $(readlink /proc/self/fd/0); exit 5\n")
            .await
            .unwrap();
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).await.unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("41 93"), "{text}");
        assert!(text.contains("\nagain\r\n"), "{text}");
        assert_eq!(session.control.wait().await.unwrap(), 5);
    });
}

fn attach_feeds_and_shows() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut spec =
            b.script("while read line; do echo got $line; echo err >&2; done; echo end; exit 7");
        spec.stdin = true;
        spec.stdin_once = true;
        let log = spec.log_path.clone().unwrap();
        let id = b.start(&sandbox, spec).await;
        let mut session = b.runtime.attach(&id, true).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"one\ntwo\n").await.unwrap();
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        session
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .await
            .unwrap();
        session
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .await
            .unwrap();
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("got one\ngot two\nend\n", "err\nerr\n")
        );
        assert_eq!(session.control.wait().await.unwrap(), 7);
        assert_eq!(b.end(&id).await.exit_code, Some(7));
        assert!(text(&log).contains("got two"));
    });
}

fn terminal_container() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut spec = b.script("read line; stty size; echo got $line; test -t 1 && echo terminal");
        spec.tty = true;
        spec.stdin = true;
        let log = spec.log_path.clone().unwrap();
        let id = b.start(&sandbox, spec).await;
        let mut session = b.runtime.attach(&id, true).await.unwrap();
        session.control.resize(80, 25).unwrap();
        // The size and the input take different paths.
        let size = b
            .runtime
            .exec_sync(&id, &["true".into()], Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(size.exit_code, 0);
        session
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"hello\n")
            .await
            .unwrap();
        let mut out = String::new();
        session
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .await
            .unwrap();
        assert!(
            out.contains("got hello") && out.contains("25 80") && out.contains("terminal"),
            "{out:?}"
        );
        assert_eq!(b.end(&id).await.exit_code, Some(0));
        assert!(text(&log).contains("got hello"));
    });
}

fn users_and_groups() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut spec = b.script("exec 2>&1; id -u; id -g; id -G; echo $HOME; cat /etc/notes; touch /tmp/ok && echo wrote; echo x > /proc/self/fd/1");
        spec.security.run_as_user_name = Some("web".into());
        let (status, log) = b.run(&sandbox, spec).await;
        assert!(log.starts_with("33\n33\n33 4\n/home/web\n"), "{log}");
        assert!(
            log.contains("Permission denied") && log.contains("wrote") && log.ends_with("x\n"),
            "{log}"
        );
        assert_eq!((status.user.uid, status.user.groups), (33, vec![33, 4]));
        let mut spec = b.script("true");
        spec.security.run_as_user_name = Some("nobody-here".into());
        let error = b
            .runtime
            .create_container(&sandbox, spec)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("unable to find user"), "{error}");
    });
}

fn capabilities_and_seccomp() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let try_things = "unshare -m true 2>/dev/null && echo unshared; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; mknod /tmp/n c 1 3 && echo node; head -c 1 /dev/zero | wc -c";
        let (_, log) = b.run(&sandbox, b.script(try_things)).await;
        assert_eq!(log, "node\n1\n");
        let mut spec = b.script(try_things);
        spec.security.add_capabilities = vec!["SYS_ADMIN".into()];
        let (_, log) = b.run(&sandbox, spec.clone()).await;
        assert_eq!(log, "unshared\nmounted\nnode\n1\n");
        let profile = b.dir.join("profile.json");
        std::fs::write(
            &profile,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["unshare"],"action":"SCMP_ACT_ERRNO"}]}"#,
        )
        .unwrap();
        spec.log_path = Some(b.dir.join("logs/localhost.log"));
        spec.security.seccomp = SeccompProfile::Localhost(profile.clone());
        let (_, log) = b.run(&sandbox, spec.clone()).await;
        assert_eq!(log, "mounted\nnode\n1\n");
        std::fs::write(&profile, "nonsense").unwrap();
        assert!(b.runtime.create_container(&sandbox, spec).await.is_err());
    });
}

fn read_only_paths() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let script = "for f in /proc/sys/kernel/panic /sys/kernel/mm/x $(ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null); do (echo 1 > $f) 2>/dev/null && echo wrote $f; done; \
            cat /proc/keys 2>/dev/null | wc -c; ls /sys/firmware | wc -l; touch /x 2>/dev/null && echo root; touch /dev/shm/x && echo shm";
        let (_, log) = b.run(&sandbox, b.script(script)).await;
        assert_eq!(log, "0\n0\nroot\nshm\n");
        let mut spec = b.script(script);
        spec.security.read_only_rootfs = true;
        let (_, log) = b.run(&sandbox, spec).await;
        assert_eq!(log, "0\n0\nshm\n");
    });
}

fn mounts() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let volume = b.dir.join("volume");
        std::fs::create_dir_all(volume.join("sub")).unwrap();
        std::fs::write(volume.join("file"), "content").unwrap();
        let mut spec = b.script(
            "cat /data/deep/file /hosts; touch /data/deep/new && echo rw; touch /ro/new 2>/dev/null || echo ro; touch /made/x && echo made; cat /image/etc/notes; touch /image/x 2>/dev/null || echo iro",
        );
        spec.mounts = vec![
            Mount::bind(&volume, "/data/deep"),
            Mount::bind(volume.join("file"), "/hosts").read_only(),
            Mount::bind(&volume, "/ro").read_only(),
            Mount::bind(b.dir.join("missing/dir"), "/made"),
        ];
        spec.image_mounts = vec![rkube_runtime::ImageMount {
            image: IMAGE.into(),
            container_path: "/image".into(),
            sub_path: String::new(),
        }];
        let (status, log) = b.run(&sandbox, spec).await;
        assert_eq!(log, "contentcontentrw\nro\nmade\nsecretiro\n", "{status:?}");
        assert!(volume.join("new").exists() && b.dir.join("missing/dir/x").exists());
        // The container's own writes count towards its writable layer.
        assert!(
            b.runtime
                .writable_layer_usage(&status.id)
                .await
                .unwrap()
                .used_inodes
                > 0
        );
    });
}

fn memory_limit_kills() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut spec = b.script("tail -c 200000000 /dev/zero; echo survived $?");
        spec.command = Some(vec![
            "tail".into(),
            "-c".into(),
            "200000000".into(),
            "/dev/zero".into(),
        ]);
        spec.resources = Resources {
            memory_limit: Some(16 << 20),
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            pids_limit: Some(50),
            ..Resources::default()
        };
        let (status, _) = b.run(&sandbox, spec.clone()).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (Some(137), "OOMKilled"),
            "{status:?}"
        );
        spec.command = Some(vec!["sleep".into(), "1000".into()]);
        let id = b.start(&sandbox, spec).await;
        let stats = b.runtime.stats(&id).unwrap();
        assert_eq!(stats.memory_limit, Some(16 << 20));
        assert!(stats.pids >= 1 && stats.memory_usage > 0, "{stats:?}");
        let more = Resources {
            memory_limit: Some(32 << 20),
            ..Resources::default()
        };
        b.runtime.update_resources(&id, &more).await.unwrap();
        assert_eq!(b.runtime.stats(&id).unwrap().memory_limit, Some(32 << 20));
    });
}

fn stop_asks_then_kills() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let log_of = |spec: &rkube_runtime::ContainerSpec| spec.log_path.clone().unwrap();
        let polite =
            b.script("trap 'echo asked; exit 0' USR1; echo ready; while true; do sleep 0.05; done");
        let mut polite = polite;
        polite.stop_signal = Some("SIGUSR1".into());
        let log = log_of(&polite);
        let id = b.start(&sandbox, polite).await;
        while !text(&log).contains("ready") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        b.runtime
            .stop_container(&id, Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(b.end(&id).await.exit_code, Some(0));
        assert!(text(&log).contains("asked"));
        let deaf = b.start(&sandbox, b.script("sleep 1000")).await;
        b.runtime
            .stop_container(&deaf, Duration::from_millis(50))
            .await
            .unwrap();
        assert_eq!(
            b.runtime.container_status(&deaf).unwrap().exit_code,
            Some(137)
        );
        b.runtime
            .stop_container(&deaf, Duration::from_millis(50))
            .await
            .unwrap();
    });
}

fn agent_restart_keeps_containers() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let running = b.start(&sandbox, b.script("sleep 1000")).await;
        let (ended, _) = b.run(&sandbox, b.script("exit 4")).await;
        let pid = b.runtime.container_status(&running).unwrap().pid;
        let again = Runtime::open(Bench::config(&b.dir, &b.cgroup))
            .await
            .unwrap();
        let status = again.container_status(&running).unwrap();
        assert_eq!((status.state, status.pid), (ContainerState::Running, pid));
        let status = again.container_status(&ended.id).unwrap();
        assert_eq!(
            (status.state, status.exit_code),
            (ContainerState::Exited, Some(4))
        );
        assert_eq!(status.finished_at, ended.finished_at);
        let output = again
            .exec_sync(&running, &["echo".into(), "hi".into()], Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(output.stdout, b"hi\n");
        let mut events = again.events();
        again.kill_container(&running, 9).await.unwrap();
        assert_eq!(
            events.recv().await.unwrap().kind,
            ContainerEventKind::Exited
        );
        // Both runtimes observe the exit.
        assert_eq!(b.end(&running).await.exit_code, Some(137));
        assert_eq!(again.list_images().len(), 1);
        assert!(again.sandbox_status(&sandbox).is_some());
    });
}

fn dead_shim_is_cleaned_up_after() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let id = b.start(&sandbox, b.script("sleep 1000")).await;
        let pid = b.runtime.container_status(&id).unwrap().pid.unwrap();
        let shim = ends::parent(pid);
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::kill(shim, libc::SIGKILL) }, 0);
        let status = b.end(&id).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (Some(137), "Unknown")
        );
        let gone = || !std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists();
        for _ in 0..500 {
            if gone() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(gone(), "the container's process lives on");
        b.runtime.remove_container(&id).await.unwrap();
    });
}

fn shared_pid_namespace() {
    with_bench(|b| async move {
        let spec = SandboxSpec {
            share_pid: true,
            hostname: "pod-2".into(),
            ..SandboxSpec::default()
        };
        let sandbox = b.sandbox_with(spec).await;
        let status = b.runtime.sandbox_status(&sandbox).unwrap();
        let first = b.start(&sandbox, b.script("sleep 1000")).await;
        let second = b.start(&sandbox, b.script("sleep 2000 & sleep 3000")).await;
        let seen = b.out(&first, "ps").await;
        assert!(
            seen.contains("sleep 2000") && seen.contains("pause"),
            "{seen}"
        );
        assert!(b.out(&first, "ls /proc/1/root/ 2>/dev/null | wc -l").await == "0");
        // Stopping one container ends all its processes, but not the other container.
        b.runtime
            .stop_container(&second, Duration::ZERO)
            .await
            .unwrap();
        let seen = b.out(&first, "ps").await;
        assert!(!seen.contains("sleep 2000"), "{seen}");
        let mut events = b.runtime.events();
        // SAFETY: no memory is involved.
        unsafe { libc::kill(status.pid.unwrap(), libc::SIGKILL) };
        loop {
            let event = tokio::time::timeout(Duration::from_secs(10), events.recv())
                .await
                .unwrap()
                .unwrap();
            if event.kind == ContainerEventKind::SandboxDied {
                assert_eq!(event.sandbox_id, sandbox);
                break;
            }
        }
        assert_eq!(b.end(&first).await.exit_code, Some(137));
        assert_eq!(
            b.runtime.sandbox_status(&sandbox).unwrap().state,
            rkube_runtime::SandboxState::NotReady
        );
    });
}

fn builtin_image() {
    with_bench(|b| async move {
        let binary = std::env::current_exe().unwrap();
        for _ in 0..2 {
            b.runtime
                .install_builtin_image("rkube/kubia", &["/rkube", "--list"], &["8080/tcp"], &binary)
                .await
                .unwrap();
        }
        let status = b.runtime.image_status("rkube/kubia").unwrap();
        assert_eq!(status.repo_tags, ["docker.io/rkube/kubia:latest"]);
        assert_eq!(status.exposed_ports, ["8080/tcp"]);
        let sandbox = b.sandbox().await;
        let mut spec = b.script("");
        spec.image = "rkube/kubia".into();
        spec.command = None;
        let (status, log) = b.run(&sandbox, spec).await;
        assert_eq!(status.exit_code, Some(0), "{status:?}");
        assert!(log.contains("builtin_image: test"), "{log}");
        let error = b
            .runtime
            .remove_image("rkube/kubia")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("in use"), "{error}");
        b.runtime.remove_container(&status.id).await.unwrap();
        b.runtime.remove_image("rkube/kubia").await.unwrap();
        assert!(b.runtime.image_status("rkube/kubia").is_none());
        assert!(b.runtime.image_status(IMAGE).is_some());
    });
}

fn host_namespaces() {
    with_bench(|b| async move {
        let host = rkube_runtime::HostNamespaces {
            network: true,
            pid: true,
            ipc: true,
        };
        let sandbox = b
            .sandbox_with(SandboxSpec {
                host,
                ..SandboxSpec::default()
            })
            .await;
        assert_eq!(b.runtime.sandbox_status(&sandbox).unwrap().netns_path, None);
        let id = b.start(&sandbox, b.script("sleep 1000 & sleep 1000")).await;
        for kind in ["net", "pid", "ipc", "uts"] {
            let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_eq!(
                b.out(&id, &format!("readlink /proc/self/ns/{kind}")).await,
                own.to_str().unwrap()
            );
        }
        b.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    });
}

fn log_is_reopened() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut spec = b.script("while read line; do echo $line; done");
        spec.stdin = true;
        let log = spec.log_path.clone().unwrap();
        let id = b.start(&sandbox, spec).await;
        let mut session = b.runtime.attach(&id, true).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        let mut stdout = session.stdout.take().unwrap();
        let mut echo = async |line: &str| {
            stdin.write_all(line.as_bytes()).await.unwrap();
            let mut back = vec![0; line.len()];
            stdout.read_exact(&mut back).await.unwrap();
        };
        echo("before\n").await;
        let old = log.with_extension("old");
        std::fs::rename(&log, &old).unwrap();
        b.runtime.reopen_log(&id).await.unwrap();
        echo("after\n").await;
        assert_eq!(
            (text(&old).as_str(), text(&log).as_str()),
            ("before\n", "after\n")
        );
    });
}
