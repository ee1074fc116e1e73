//! Direct server return with a real container runtime: a pod that containerd made gets its tunnel.
//!
//! containerd runs with one hand-made image, and a network plugin that gives a pod one address. Everything it needs
//! and writes is below one folder.
#![allow(clippy::disallowed_methods, reason = "the runtime under test is a program")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::model::{PodKey, ServiceKey};
use ferrovia::proxy::cri::Client;
use ferrovia::proxy::dsr::PodSetup;
use ferrovia::proxy::pod_worker::{self, PodState, Timing};
use ferrovia::proxy::pods::KernelPods;
use ferrovia::routing::cni::{CniFile, Gate};
use ferrovia::testing::lab::wait;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::SOON;

const IMAGE: &str = "docker.io/ferrovia/test:1";
/// The addresses the plugin gives.
const POD_ADDRESSES: [&str; 2] = ["10.244.9.2", "fd00:244:9::2"];
const PLUGIN: &str = r#"#!/bin/sh
# A network plugin (CNI 0.4.0): loopback up, or one device with two addresses.
namespace=$(basename "$CNI_NETNS")
case "$CNI_COMMAND $(basename "$0")" in
VERSION*) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
"ADD loopback") ip -n "$namespace" link set lo up && echo '{"cniVersion":"0.3.1"}' ;;
"ADD lab"|"ADD bridge")
    ip -n "$namespace" link add eth0 type dummy >&2
    ip -n "$namespace" addr add 10.244.9.2/24 dev eth0 >&2
    ip -n "$namespace" addr add fd00:244:9::2/64 dev eth0 nodad >&2
    ip -n "$namespace" link set eth0 up >&2
    echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],
        "ips":[{"version":"4","address":"10.244.9.2/24","interface":0},
               {"version":"6","address":"fd00:244:9::2/64","interface":0}]}' ;;
esac
"#;

/// A running containerd. Dropping it ends the runtime; what it runs must be removed before ([`remove_pod`]).
struct Containerd {
    process: Child,
    directory: PathBuf,
    socket: PathBuf,
}

impl Containerd {
    /// With a folder of its own, and what `configure` puts into the one of network configurations.
    fn start(name: &str, configure: impl FnOnce(&Path) -> Result<()>) -> Result<Containerd> {
        let directory = PathBuf::from(format!("/run/containerd-{name}-{}", std::process::id()));
        for folder in ["cni/bin", "cni/conf", "image/rootfs/bin"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        for name in ["lab", "bridge", "loopback"] {
            let plugin = directory.join("cni/bin").join(name);
            fs::write(&plugin, PLUGIN)?;
            fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
        }
        configure(&directory.join("cni/conf"))?;
        let socket = directory.join("containerd.sock");
        let configuration = directory.join("config.toml");
        fs::write(&configuration, configuration_text(&directory, &socket))?;
        let log = fs::File::create(directory.join("log"))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&configuration).arg("--log-level=warn");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("start containerd")?;
        let containerd = Containerd { process, directory, socket };
        wait::until_true("containerd listens", SOON, || Ok(containerd.socket.exists()))?;
        containerd.import().with_context(|| containerd.log())?;
        Ok(containerd)
    }

    /// Makes an image of one static program, and gives it to containerd.
    fn import(&self) -> Result<()> {
        let image = self.directory.join("image");
        fs::copy(which("busybox")?, image.join("rootfs/bin/busybox"))?;
        run(&image, "tar -cf layer.tar -C rootfs .")?;
        let digest = run(&image, "sha256sum layer.tar")?;
        let digest = digest.split_whitespace().next().context("no digest")?.to_owned();
        let configuration = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000000"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        fs::write(image.join("config.json"), configuration.to_string())?;
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        fs::write(image.join("manifest.json"), manifest.to_string())?;
        run(&image, "tar -cf image.tar manifest.json config.json layer.tar")?;
        let address = self.socket.display();
        run(&image, &format!("ctr --address {address} --namespace k8s.io images import image.tar"))?;
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn configuration_text(directory: &Path, socket: &Path) -> String {
    let (directory, socket) = (directory.display(), socket.display());
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{directory}/cni/bin"
conf_dir = "{directory}/cni/conf"
"#
    )
}

/// Where a program is.
fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("no {program} in PATH"))
}

/// Runs a program in a folder; `line` is split at white space. What it printed.
fn run(folder: &Path, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output =
        Command::new(program).args(words).current_dir(folder).output().with_context(|| format!("run {line}"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `runtime.v1.PodSandboxMetadata`.
#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// `runtime.v1.PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
}

/// `runtime.v1.RunPodSandboxRequest`.
#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

/// `runtime.v1.ImageSpec`, `ContainerMetadata`, and every answer that is one text.
#[derive(Clone, PartialEq, Message)]
struct OneText {
    #[prost(string, tag = "1")]
    text: String,
}

/// `runtime.v1.ContainerConfig`.
#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<OneText>,
    #[prost(message, optional, tag = "2")]
    image: Option<OneText>,
    #[prost(string, tag = "11")]
    log_path: String,
}

/// `runtime.v1.CreateContainerRequest`.
#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

/// One call of the kubelet's side of CRI. Most answers are one text; an empty one decodes as such.
async fn call<Q: Message + Send + Sync + 'static>(
    channel: &Channel,
    method: &'static str,
    request: Q,
) -> Result<String> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static(method);
    let answer = grpc.unary(Request::new(request), path, ProstCodec::<Q, OneText>::default()).await;
    Ok(answer.with_context(|| method)?.into_inner().text)
}

/// A pod of one container.
struct MadePod {
    sandbox: String,
    container: String,
}

async fn connect(containerd: &Containerd) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("unix://{}", containerd.socket.display()))?.connect().await?)
}

/// Makes a pod as the kubelet would. A name is taken as long as what was begun under it is not removed.
async fn make_pod(containerd: &Containerd, name: &str) -> Result<MadePod> {
    let channel = connect(containerd).await?;
    let metadata = PodSandboxMetadata { name: name.to_owned(), uid: "1".to_owned(), namespace: "default".to_owned() };
    let logs = containerd.directory.display().to_string();
    let config = PodSandboxConfig { metadata: Some(metadata), log_directory: logs };
    let request = RunPodSandboxRequest { config: Some(config.clone()) };
    let sandbox = call(&channel, "/runtime.v1.RuntimeService/RunPodSandbox", request).await?;
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(ContainerConfig {
            metadata: Some(OneText { text: "server".to_owned() }),
            image: Some(OneText { text: IMAGE.to_owned() }),
            log_path: "server.log".to_owned(),
        }),
        sandbox_config: Some(config),
    };
    let container = call(&channel, "/runtime.v1.RuntimeService/CreateContainer", request).await?;
    let request = OneText { text: container.clone() };
    call(&channel, "/runtime.v1.RuntimeService/StartContainer", request).await?;
    Ok(MadePod { sandbox, container })
}

/// Ends it with its containers and its network namespace.
async fn remove_pod(containerd: &Containerd, sandbox: &str) -> Result<()> {
    let channel = connect(containerd).await?;
    for method in ["/runtime.v1.RuntimeService/StopPodSandbox", "/runtime.v1.RuntimeService/RemovePodSandbox"] {
        call(&channel, method, OneText { text: sandbox.to_owned() }).await?;
    }
    Ok(())
}

/// What a command prints in the network namespace of a process.
fn inside(pid: u32, line: &str) -> Result<String> {
    run(Path::new("/"), &format!("nsenter -t {pid} -n {line}"))
}

fn configure_a_pod_of_containerd() -> Result<()> {
    let network = r#"{"cniVersion":"0.4.0","name":"lab","type":"lab"}"#;
    let containerd = Containerd::start("pods", |folder| Ok(fs::write(folder.join("10-lab.conf"), network)?))?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (pod, pid, version) = tokio
        .block_on(async {
            let client = Client::new(&containerd.socket)?;
            let pod = make_pod(&containerd, "web-0").await?;
            let pid = client.process_of(&format!("containerd://{}", pod.container)).await?;
            let nobody = client.process_of("containerd://none").await;
            ensure!(nobody.as_ref().is_err_and(|error| error.is_gone()), "{nobody:?}");
            Ok((pod, pid, client.version().await?))
        })
        .with_context(|| containerd.log())?;
    ensure!(version.name == "containerd", "{version:?}");
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    ensure!(command.starts_with("/bin/busybox\0sleep"), "process {pid} is {command:?}");

    let setup = PodSetup {
        pod: PodKey::new("default", "web-0"),
        container_id: Arc::from(format!("containerd://{}", pod.container)),
        addresses: POD_ADDRESSES.iter().map(|address| address.parse()).collect::<Result<_, _>>()?,
        vips: BTreeSet::from(["198.51.100.20".parse()?, "2001:db8:64::20".parse()?]),
        services: BTreeSet::from([ServiceKey::new("default", "web")]),
    };
    let (_desired, wanted) = watch::channel(vec![setup.clone()]);
    let (tell, mut told) = mpsc::unbounded_channel();
    let states = pod_worker::spawn(&containerd.socket, KernelPods, Timing::default(), wanted, tell)?;
    wait::until("the pod is configured", SOON, || match states.borrow().get(&setup.pod) {
        Some(PodState::Configured(_)) => Ok(()),
        state => bail!("it is {state:?}; told: {:?}", told.try_recv()),
    })?;
    for (device, vip) in [("kube-tunnel-if", "198.51.100.20/32"), ("kube-tunnel-v6", "2001:db8:64::20/128")] {
        let listing = inside(pid, &format!("ip -o addr show dev {device}"))?;
        ensure!(listing.contains(vip), "{listing}");
        let here = run(Path::new("/"), "ip -o link show")?;
        ensure!(!here.contains(device), "{device} was made outside the pod: {here}");
    }
    tokio.block_on(remove_pod(&containerd, &pod.sandbox))?;
    let asked = tokio.block_on(async { Client::new(&containerd.socket)?.process_of(&setup.container_id).await });
    ensure!(asked.as_ref().is_err_and(|error| error.is_gone()), "{asked:?}");
    Ok(())
}

/// containerd as it comes up with a node that has just booted: its network configuration is a link that leads nowhere.
fn open_the_gate_before_containerd() -> Result<()> {
    const NETWORK: &str =
        r#"{"cniVersion":"0.4.0","name":"lab","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#;
    // The guest's /run is memory.
    let state = PathBuf::from(format!("/run/containerd-gate-state-{}", std::process::id()));
    let (memory, copies) = (state.join("run"), state.join("copies"));
    let mut made = None;
    let containerd = Containerd::start("gate", |folder| {
        let path = folder.join("10-kuberouter.conflist");
        let gate = Gate::new(&path, &memory, &copies);
        fs::create_dir_all(&copies)?;
        fs::write(copies.join("10-kuberouter.conflist"), NETWORK)?;
        std::os::unix::fs::symlink(gate.content(), &path)?;
        made = Some(CniFile::new(path).gated(gate));
        Ok(())
    })?;
    let file = made.context("no folder for network configurations")?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let refused = tokio.block_on(make_pod(&containerd, "early"));
    let refused = refused.err().context("a pod was started while the gate was closed")?;
    ensure!(format!("{refused:#}").contains("cni plugin not initialized"), "{refused:#}");

    file.ensure(&["10.244.9.0/24".parse()?], None)?;
    let mut tried = 0;
    let pod = wait::until("containerd starts a pod", SOON, || {
        tried += 1;
        tokio.block_on(make_pod(&containerd, &format!("late-{tried}")))
    })?;
    tokio.block_on(remove_pod(&containerd, &pod.sandbox))
}

#[test]
fn containerd_starts_pods_once_the_gate_is_open() {
    guest!();
    open_the_gate_before_containerd().unwrap();
}

#[test]
fn a_pod_of_containerd_gets_its_tunnels() {
    guest!();
    assert!(
        which("containerd").and(which("runc")).is_ok(),
        "containerd and runc must be in PATH; `cargo xtask vm test` fetches them"
    );
    configure_a_pod_of_containerd().unwrap();
}
