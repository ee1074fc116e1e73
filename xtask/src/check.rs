//! Tests and gates, each in one place, so that a push, CI and a person run the same.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cargo::{TESTING, cargo, executables};
use crate::vm::Selection;
use crate::{generated, shell, supply, tidy, vm};

/// Before a push: everything that needs no guest.
pub(crate) fn check() -> Result<()> {
    format()?;
    lints()?;
    tidy::tidy()?;
    host_tests(&[])
}

/// All tiers, on a machine that is made ready for them first. Git hooks are no part of that: whoever only runs the
/// tests keeps their configuration.
pub(crate) fn test_all() -> Result<u8> {
    vm::setup()?;
    tidy::tidy()?;
    host_tests(&[])?;
    if integration_tests()?.iter().any(|name| name == NAMESPACES) && namespace_tests(&[])? != 0 {
        bail!("the tests in network namespaces failed");
    }
    if integration_tests()?.iter().any(|name| name == INTEROP) && interop_tests(&[])? != 0 {
        bail!("the tests with other BGP daemons failed");
    }
    guest_tests(&[])
}

/// One tier, by name or by its number in the design; arguments go to the test programs.
pub(crate) fn test_tier(tier: &str, arguments: &[&str]) -> Result<u8> {
    match tier {
        "tidy" | "0" if arguments.is_empty() => tidy::tidy().map(|()| 0),
        "host" | "1" | "2" => host_tests(arguments).map(|()| 0),
        "netns" | "3" => namespace_tests(arguments),
        "interop" => interop_tests(arguments),
        "vm" | "4" => guest_tests(arguments),
        _ => bail!("no tier `{tier}`: there are tidy (0), host (1 and 2), netns (3), interop and vm (4)"),
    }
}

/// Everything that needs no privileges: unit, integration and documentation tests, examples that build. Tests that
/// need a guest say so and skip; those that need namespaces have a tier of their own.
fn host_tests(arguments: &[&str]) -> Result<()> {
    step("tests on this machine");
    shell::run(host_command()?.args(arguments))?;
    if arguments.is_empty() {
        shell::run(cargo(["test", "--doc"]).args(TESTING))?;
        shell::run(&mut cargo(["test", "--package", "xtask"]))?;
    }
    Ok(())
}

fn host_command() -> Result<Command> {
    let mut test = cargo(["test", "--lib", "--bins", "--examples"]);
    for name in integration_tests()?.iter().filter(|name| ![NAMESPACES, INTEROP].contains(&name.as_str())) {
        test.args(["--test", name]);
    }
    test.args(TESTING);
    Ok(test)
}

/// The integration test that makes network namespaces on the kernel it finds.
const NAMESPACES: &str = "netns";

/// Runs it on this machine's kernel where that may be done and knows nftables, else in the guest.
fn namespace_tests(arguments: &[&str]) -> Result<u8> {
    step("tests in network namespaces");
    let root = shell::output(&mut shell::command("id", ["-u"]))?.trim() == "0";
    let options = if root { "-n" } else { "-Urn" };
    let mut probe = shell::command("unshare", [options, "nft", "add", "table", "inet", "probe"]);
    if let Err(error) = shell::output(&mut probe) {
        eprintln!("xtask: not on this machine's kernel ({error:#}): in the guest instead");
        return guest_tests(&[&["--bin", NAMESPACES, "--"], arguments].concat());
    }
    let build = ["test", "--no-run", "--test", NAMESPACES, TESTING[0], TESTING[1]];
    let [program] = executables(&build, [NAMESPACES])?;
    let mut test = shell::command("unshare", [options]);
    shell::run(test.arg(program).args(arguments).current_dir(shell::root()))?;
    Ok(0)
}

/// The integration test with BIRD, FRR and GoBGP on the other side, and the speaker it starts.
const INTEROP: &str = "interop";
const SPEAKER: &str = "speaker";

/// Runs it on this machine's kernel where root may make namespaces and links between them, else in the guest.
fn interop_tests(arguments: &[&str]) -> Result<u8> {
    step("tests with BIRD, FRR and GoBGP");
    let build = ["build", TESTING[0], TESTING[1], "--example", SPEAKER];
    let [speaker] = executables(&build, [SPEAKER])?;
    let build = ["test", "--no-run", "--test", INTEROP, TESTING[0], TESTING[1]];
    let [program] = executables(&build, [INTEROP])?;
    let environment = [("FERROVIA_SPEAKER", speaker.into_os_string()), (vm::TOOLS, vm::tools_folder()?.into())];
    let mut probe = shell::command("unshare", ["-n", "ip", "link", "add", "probe", "type", "bridge"]);
    if let Err(error) = shell::output(&mut probe) {
        eprintln!("xtask: not on this machine's kernel ({error:#}): in the guest instead");
        let mut selection = Selection::parse(&os(&[&["--bin", INTEROP, "--"], arguments].concat()))?;
        selection.environment.extend(environment.map(|(name, value)| (name.into(), value)));
        return vm::test(&selection);
    }
    let mut test = Command::new(program);
    test.args(arguments).envs(environment).current_dir(shell::root());
    if !arguments.iter().any(|argument| argument.starts_with("--test-threads")) {
        // Most of a test is waiting for timers of others.
        test.arg("--test-threads=6");
    }
    shell::run(&mut test)?;
    Ok(0)
}

/// Names of the daemon's integration tests.
fn integration_tests() -> Result<Vec<String>> {
    let asked = shell::output(&mut cargo(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&asked)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ours = packages.filter(|package| package["name"] == "ferrovia");
    let targets = ours.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test").filter_map(|target| target["name"].as_str());
    Ok(tests.map(str::to_owned).collect())
}

fn guest_tests(arguments: &[&str]) -> Result<u8> {
    step("tests in a guest with a kernel of its own");
    vm::test(&Selection::parse(&os(arguments))?)
}

fn os(arguments: &[&str]) -> Vec<OsString> {
    arguments.iter().map(OsString::from).collect()
}

/// What CI runs after the tests. The profile of the benches is the tests' own: the point is that they build, and an
/// optimised build of every dependency would cost more than all the rest.
pub(crate) fn ci() -> Result<()> {
    format()?;
    lints()?;
    step("documentation");
    shell::run(cargo(["doc", "--workspace", "--no-deps"]).args(TESTING).env("RUSTDOCFLAGS", "-D warnings"))?;
    step("benches build");
    shell::run(cargo(["bench", "--no-run", "--profile", "dev"]).args(TESTING))?;
    generated::check()?;
    supply::check()
}

fn format() -> Result<()> {
    step("formatting");
    shell::run(&mut cargo(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    step("lints");
    shell::run(cargo(["clippy", "--workspace", "--all-targets"]).args(TESTING).args(["--", "-D", "warnings"]))
}

/// Lets the tests rewrite what they compare with, and shows what that changed.
pub(crate) fn bless() -> Result<()> {
    shell::run(host_command()?.env("FERROVIA_BLESS", "1"))?;
    shell::run(Command::new("git").args(["diff", "--stat"]).current_dir(shell::root()))
}

pub(crate) fn step(what: &str) {
    eprintln!("\nxtask: {what}");
}
