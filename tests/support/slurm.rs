//! A real Slurm of several nodes on this machine, in a folder of its own.
//!
//! All daemons listen on loopback and keep their state in the folder. They end with the value.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Need;

const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Slurm {
    folder: PathBuf,
}

impl Slurm {
    /// Starts a controller and `nodes` nodes named n1, n2 … with one processor each. `None` where Slurm is not installed.
    pub(crate) fn start(folder: &Path, nodes: usize) -> Option<Slurm> {
        let is_there = |program: &str| {
            Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        let all = ["slurmctld", "slurmd", "sbatch", "munged"].into_iter().all(is_there);
        let by_root = said(Command::new("id").arg("-u")).trim() == "0";
        Need::Slurm.found(
            (all && by_root).then_some(()),
            "no root, or Slurm (slurm-wlm and munge) is not installed",
        )?;
        let slurm = Slurm { folder: folder.to_owned() };
        fs::create_dir_all(folder.join("munge")).unwrap();
        private(&folder.join("munge"));
        fs::write(slurm.file("munge/key"), [7; 128]).unwrap();
        private(&slurm.file("munge/key"));
        let host = said(Command::new("uname").arg("-n"));
        let port = 20_000 + std::process::id() % 20_000;
        fs::write(slurm.file("slurm.conf"), slurm.config(host.trim(), port, nodes)).unwrap();
        let munge = |option: &str, name: &str| {
            format!("--{option}={}", slurm.file(&format!("munge/{name}")).display())
        };
        slurm.call(
            "munged",
            &[
                "--force",
                &munge("key-file", "key"),
                &munge("socket", "socket"),
                &munge("pid-file", "munged.pid"),
                &munge("log-file", "log"),
                &munge("seed-file", "seed"),
            ],
        );
        slurm.call("slurmctld", &[]);
        for node in 1..=nodes {
            slurm.call("slurmd", &["-N", &format!("n{node}")]);
        }
        slurm.wait("the nodes to be idle", || {
            slurm.call("sinfo", &["-h", "-N", "-o", "%t"]).lines().filter(|state| *state == "idle").count()
                == nodes
        });
        Some(slurm)
    }

    fn config(&self, host: &str, port: u32, nodes: usize) -> String {
        let place = self.folder.display();
        let mut config = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\nSlurmctldPort={port}\n\
             AuthType=auth/munge\nAuthInfo=socket={place}/munge/socket\nCredType=cred/munge\nStateSaveLocation={place}/state\n\
             SlurmdSpoolDir={place}/spool-%n\nSlurmctldPidFile={place}/slurmctld.pid\nSlurmdPidFile={place}/slurmd-%n.pid\n\
             SlurmctldLogFile={place}/slurmctld.log\nSlurmdLogFile={place}/slurmd-%n.log\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_CPU\nMpiDefault=none\nReturnToService=2\nSchedulerParameters=sched_interval=1\n"
        );
        for node in 1..=nodes as u32 {
            let _ = writeln!(
                config,
                "NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=1 RealMemory=2000 State=UNKNOWN",
                port + node
            );
        }
        let _ = writeln!(config, "PartitionName=all Nodes=n[1-{nodes}] Default=YES MaxTime=60 State=UP");
        config
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A program with the environment of this Slurm.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.file("slurm.conf")).current_dir(&self.folder);
        command
    }

    /// Runs a program of Slurm, and returns what it says.
    #[track_caller]
    pub(crate) fn call(&self, program: &str, args: &[&str]) -> String {
        said(self.command(program).args(args))
    }

    /// Waits until no job is in the queue.
    pub(crate) fn drained(&self) {
        self.wait("the queue to be empty", || self.call("squeue", &["-h"]).trim().is_empty());
    }

    /// Waits for something.
    ///
    /// # Panics
    /// After three minutes, with the queue and the log of the controller.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            if begin.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.file("slurmctld.log")).unwrap_or_default();
                panic!("waited for {what}\n{}\n{log}", self.call("squeue", &[]));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let entries = fs::read_dir(&self.folder).into_iter().chain(fs::read_dir(self.file("munge")));
        for path in entries.flatten().flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|ending| ending == "pid")
                && let Ok(pid) = fs::read_to_string(path)
            {
                let _ = Command::new("kill").arg(pid.trim()).status();
            }
        }
    }
}

#[track_caller]
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// For this user alone, as munge demands.
fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o700 } else { 0o400 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
