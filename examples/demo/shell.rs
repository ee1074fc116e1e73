//! A shell among the namespaces, for whoever wants to look further.

use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use ferrovia::testing::lab::Lab;

/// Runs an interactive shell until its user leaves it.
///
/// # Errors
/// Where there is no `bash`.
pub(crate) fn enter(lab: &Lab) -> Result<()> {
    let mut places: Vec<String> = ["edge", "far", "near", "rack"].map(String::from).to_vec();
    for node in lab.nodes() {
        places.push(node.name.clone());
        places.extend(node.pods.iter().filter(|pod| !pod.host_network).map(|pod| pod.name.clone()));
    }
    let mut script = String::from("export PATH=$PATH:/usr/sbin:/sbin\nPS1='lab# '\n");
    for place in &places {
        writeln!(script, "{place}() {{ ip netns exec {place} \"$@\"; }}")?;
    }
    // An HTTP request without curl, which takes half a second to start in an emulated guest.
    script.push_str(
        "get() { exec 3<>/dev/tcp/$1/$2 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 2 tail -n1 <&3; exec 3>&-; }\n\
         export -f get\n",
    );
    writeln!(script, "manifests={}", lab.manifests().path().display())?;
    writeln!(script, "logs={}", lab.directory().display())?;
    writeln!(
        script,
        "cat <<'END'\n\nA shell in the lab. Commands run in a place by its name:\n\
         \x20 n1 ipvsadm -Ln          n1 ip addr show kube-dummy-if     n1 nft list ruleset\n\
         \x20 far ping 192.168.10.11  p11 bash -c 'get 10.96.116.179 80'\n\
         Places: {}\nThe cluster is the folder {} (edit it, the daemons follow); logs are {}/*.log.\n\
         Leave with exit.\nEND",
        places.join(" "),
        lab.manifests().path().display(),
        lab.directory().display()
    )?;
    let rc = lab.directory().join("shell.rc");
    std::fs::write(&rc, script).with_context(|| format!("write {}", rc.display()))?;
    let mut shell = Command::new("bash");
    shell.arg("--rcfile").arg(&rc).arg("-i").arg0("bash");
    shell.status().context("start bash")?;
    Ok(())
}
