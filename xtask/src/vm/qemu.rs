//! QEMU's command line, and which accelerator works on this machine.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::guest::{Console, Guest, Status};
use super::kernel::Kernel;
use crate::shell;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Accelerator {
    /// The CPU itself.
    Kvm,
    /// Emulation, ten times slower for computing and thirty times for starting programs.
    Tcg,
}

/// A guest machine. Two machines with the same [`Machine::fingerprint`] may share a saved state.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) accelerator: Accelerator,
    pub(crate) memory: &'a str,
    pub(crate) network: bool,
    /// Host folders shared read-write.
    pub(crate) write: &'a [PathBuf],
}

/// How this start of a machine talks to us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start<'a> {
    /// Boot; streams over sockets.
    Cold,
    /// Boot, then wait on the control port; QEMU's monitor on its standard input.
    UntilReady,
    /// Go on from a saved state, which waits on the control port.
    From(&'a Path),
    /// Boot with our terminal as console.
    Terminal,
}

impl Start<'_> {
    /// The ports between us and the guest: one socket each in the run's folder.
    pub(crate) fn ports(self) -> &'static [&'static str] {
        match self {
            Start::Cold => &["out", "err", "in"],
            Start::UntilReady | Start::From(_) => &["out", "err", "in", "ctl"],
            Start::Terminal => &[],
        }
    }
}

impl Machine<'_> {
    /// The QEMU process to start, ended by the kernel when the thread that started it ends.
    pub(crate) fn command(&self, run: &Path, start: Start) -> Result<Command> {
        let qemu = program()?;
        let setpriv = shell::which("setpriv").context("setpriv is missing: run `cargo xtask vm setup`")?;
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "TERM"]).arg(qemu).args(self.fixed());
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(&self.kernel.initramfs);
        let wait = if matches!(start, Start::UntilReady | Start::From(_)) { " ferrovia.wait" } else { "" };
        command.arg("-append").arg(format!("{APPEND}{wait}"));
        share(&mut command, "root", Path::new("/"), ",readonly=on");
        share(&mut command, "run", run, "");
        for (n, folder) in self.write.iter().enumerate() {
            share(&mut command, &format!("rw{}", n + 1), folder, "");
        }
        for port in start.ports() {
            command.arg("-chardev").arg(with_path(&format!("socket,id={port},path="), &run.join(port), ""));
            command.arg("-device").arg(format!("virtserialport,chardev={port},name={port}"));
        }
        if start == Start::Terminal {
            // Ctrl-C belongs to the guest; Ctrl-A X is QEMU's own way out.
            command.args(["-chardev", "stdio,id=terminal,mux=on,signal=off"]);
            command.args(["-serial", "chardev:terminal", "-mon", "chardev=terminal"]);
        } else {
            command.arg("-serial").arg(with_path("file:", &run.join("console"), ""));
        }
        match start {
            Start::UntilReady => {
                command.args(["-monitor", "stdio"]);
            }
            Start::From(state) => {
                command.arg("-incoming").arg(format!("exec:cat {}", quoted(state)));
            }
            Start::Cold | Start::Terminal => {}
        }
        Ok(command)
    }

    /// Names everything a saved state depends on.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let qemu = program()?;
        let file = fs::metadata(&qemu).with_context(|| format!("cannot use {}", qemu.display()))?;
        let changed = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        (&qemu, file.len(), changed, self.fixed(), APPEND, self.write.len()).hash(&mut hasher);
        (&self.kernel.version, &self.kernel.initramfs, Start::UntilReady.ports()).hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// The arguments without any path of this run.
    fn fixed(&self) -> Vec<OsString> {
        // Westmere has neither ERMS nor FSRM: with them the guest copies by `rep movsb`, which is emulated byte
        // by byte and makes netlink work four times slower. One CPU on one thread: with two, older QEMU now and
        // then runs code the guest's kernel has just patched.
        let (accelerator, cpu, cpus) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host", "2"),
            Accelerator::Tcg => ("tcg,thread=single", "Westmere", "1"),
        };
        let network = if self.network { "user,model=virtio-net-pci" } else { "none" };
        let words = [
            "-M",
            "pc,usb=off",
            "-accel",
            accelerator,
            "-cpu",
            cpu,
            "-smp",
            cpus,
            "-m",
            self.memory,
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-device",
            "virtio-serial-pci",
            "-nic",
            network,
            "-device",
            "vmgenid,guid=auto",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ];
        words.into_iter().map(OsString::from).collect()
    }
}

/// Quiet, fast, and over at the first panic. Expedited RCU makes deleting namespaces and flushing IPVS quick.
const APPEND: &str = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check rcupdate.rcu_expedited=1";

/// A host folder as 9p device `tag`.
fn share(command: &mut Command, tag: &str, folder: &Path, options: &str) {
    let device = format!(",security_model=none,multidevs=remap{options}");
    command.arg("-fsdev").arg(with_path(&format!("local,id={tag},path="), folder, &device));
    command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
}

/// A path inside an option of QEMU, where a comma must stand twice.
fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    OsString::from(format!("{before}{path}{after}"))
}

/// A path for the shell inside QEMU's `exec:`.
pub(crate) fn quoted(path: &Path) -> String {
    String::from_utf8_lossy(&shell::quote(path.as_os_str())).into_owned()
}

fn program() -> Result<PathBuf> {
    let name = std::env::var("FERROVIA_VM_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned());
    shell::which(&name).with_context(|| format!("{name} is missing: run `cargo xtask vm setup`"))
}

/// `FERROVIA_VM_ACCEL`, or KVM where a trial guest really ran: the device alone proves nothing. The answer is
/// kept for as long as the host runs.
pub(crate) fn accelerator(kernel: &Kernel) -> Result<Accelerator> {
    match std::env::var("FERROVIA_VM_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok("auto" | "") | Err(_) => {}
        Ok(other) => bail!("FERROVIA_VM_ACCEL={other} is neither kvm, tcg nor auto"),
    }
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_extension = cpu.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    if !has_extension || File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mark = kernel.folder.join(format!("accelerator-{}", boot.trim()));
    if let Ok(tried) = fs::read_to_string(&mark) {
        return Ok(if tried == "kvm" { Accelerator::Kvm } else { Accelerator::Tcg });
    }
    let works = trial(kernel)?;
    fs::write(&mark, if works { "kvm" } else { "tcg" })?;
    Ok(if works { Accelerator::Kvm } else { Accelerator::Tcg })
}

/// One boot with KVM.
fn trial(kernel: &Kernel) -> Result<bool> {
    let mut guest = Guest::new(vec!["true".into()]);
    guest.console = Console::Discarded;
    guest.timeout = Some(Duration::from_secs(20));
    let machine = guest.machine(kernel, Accelerator::Kvm);
    Ok(matches!(guest.attempt(&machine, Start::Cold)?, Status::Ended(0)))
}
