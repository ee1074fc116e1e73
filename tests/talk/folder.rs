//! A folder of manifests that changes under the daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrovia::k8s::{Config, Error, Handle, Needs, Source, Timings, start};
use ferrovia::model::{Node, NodeName};
use tokio::sync::watch::{Sender, channel};

use crate::{eventually, services, timings, until};

fn manifest(name: &str, address: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {address}}}\n")
}

/// `poll`: how often the folder is looked at; long where a test shows that the kernel tells.
async fn opened(folder: &Path, poll: Duration) -> (Handle, Sender<bool>) {
    let mut config = Config::new(Source::Folder(folder.to_owned()), NodeName::new("n1"), Needs::default());
    config.timings = timings();
    config.timings.folder_poll = poll;
    let (stop, stopped) = channel(false);
    (start(config, stopped).await.unwrap(), stop)
}

const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(50);

#[tokio::test]
async fn files_that_are_written_replaced_and_removed_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, manifest("a", "10.0.0.1")).unwrap();
    let (mut door, _stop) = opened(folder.path(), NEVER).await;
    until(&mut door, "the first", |snapshot| services(snapshot) == ["a=10.0.0.1"]).await;
    fs::write(&file, manifest("a", "10.0.0.2")).unwrap();
    until(&mut door, "the edit", |snapshot| services(snapshot) == ["a=10.0.0.2"]).await;
    let new = folder.path().join(".a.yaml.new");
    fs::write(&new, manifest("a", "10.0.0.3")).unwrap();
    fs::rename(&new, &file).unwrap();
    until(&mut door, "the rename", |snapshot| services(snapshot) == ["a=10.0.0.3"]).await;
    fs::create_dir(folder.path().join("more")).unwrap();
    fs::write(
        folder.path().join("more/b.json"),
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}}"#,
    )
    .unwrap();
    until(&mut door, "the one below", |snapshot| services(snapshot) == ["a=10.0.0.3", "b="]).await;
    fs::remove_file(&file).unwrap();
    until(&mut door, "the removal", |snapshot| services(snapshot) == ["b="]).await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_swap() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let version = |number: u32, address: &str| {
        let real = root.join(format!("..2024_{number}"));
        fs::create_dir(&real).unwrap();
        fs::write(real.join("a.yaml"), manifest("a", address)).unwrap();
        let link = root.join("..data_tmp");
        symlink(format!("..2024_{number}"), &link).unwrap();
        fs::rename(&link, root.join("..data")).unwrap();
    };
    version(1, "10.0.0.1");
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    let (mut door, _stop) = opened(root, NEVER).await;
    until(&mut door, "the first version", |snapshot| services(snapshot) == ["a=10.0.0.1"]).await;
    version(2, "10.0.0.2");
    until(&mut door, "the second version", |snapshot| services(snapshot) == ["a=10.0.0.2"]).await;
}

#[tokio::test]
async fn a_change_the_kernel_does_not_tell_of_is_found_by_looking() {
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real.yaml");
    fs::write(&real, manifest("a", "10.0.0.1")).unwrap();
    symlink(&real, folder.path().join("a.yaml")).unwrap();
    let (mut door, _stop) = opened(folder.path(), OFTEN).await;
    until(&mut door, "the first", |snapshot| services(snapshot) == ["a=10.0.0.1"]).await;
    fs::write(&real, manifest("a", "10.0.0.200")).unwrap();
    until(&mut door, "the edit elsewhere", |snapshot| services(snapshot) == ["a=10.0.0.200"]).await;
}

#[tokio::test]
async fn a_broken_document_takes_only_its_own_object_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    fs::write(&file, format!("{}---\n{}", manifest("a", "10.0.0.1"), manifest("b", "10.0.0.2"))).unwrap();
    let (mut door, _stop) = opened(folder.path(), NEVER).await;
    until(&mut door, "both", |snapshot| services(snapshot) == ["a=10.0.0.1", "b=10.0.0.2"]).await;
    fs::write(&file, format!("{}---\nkind: [\n", manifest("a", "10.0.0.1"))).unwrap();
    until(&mut door, "the good one", |snapshot| services(snapshot) == ["a=10.0.0.1"]).await;
    let reports: Vec<String> = door.status.reports().iter().map(ToString::to_string).collect();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].starts_with("all.yaml:"), "{}", reports[0]);
    fs::write(&file, format!("{}---\n{}", manifest("a", "10.0.0.1"), manifest("b", "10.0.0.2"))).unwrap();
    until(&mut door, "both again", |snapshot| services(snapshot) == ["a=10.0.0.1", "b=10.0.0.2"]).await;
    assert!(door.status.reports().is_empty());
}

#[tokio::test]
async fn what_a_folder_says_of_several_kinds_becomes_one_snapshot() {
    const N: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let (file, new) = (folder.path().join("all.yaml"), folder.path().join(".all.yaml.new"));
    let write = |version: u32| {
        let mut text = String::new();
        for number in 0..N {
            text.push_str(&manifest(&format!("s{number}"), &format!("10.{version}.{}.{}", number / 200, number % 200)));
            text.push_str(&format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: m{number}, labels: {{version: \"{version}\"}}}}\n---\n"
            ));
        }
        fs::write(&new, text).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    write(1);
    let mut config = Config::new(Source::Folder(folder.path().to_owned()), NodeName::new("n1"), Needs::default());
    // No quiet time at all: each piece that is handed on by itself would be published by itself.
    config.timings = Timings { quiet: Duration::ZERO, most: Duration::ZERO, folder_poll: NEVER, ..timings() };
    let (_stop, stopped) = channel(false);
    let mut door = start(config, stopped).await.unwrap();
    until(&mut door, "the first version", |snapshot| services(snapshot).len() == N).await;
    for version in 2..5 {
        write(version);
        let whole = format!("s0=10.{version}.0.0");
        let published = until(&mut door, "the next version", |snapshot| services(snapshot)[0] == whole).await;
        let old = |node: &Node| node.labels.get("version").is_none_or(|label| **label != *version.to_string());
        let n_old = published.snapshot.nodes.values().filter(|node| old(node)).count();
        assert_eq!((n_old, published.snapshot.generation.0), (0, u64::from(version)));
    }
}

#[tokio::test]
async fn a_folder_that_vanishes_leaves_the_last_content_in_force() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("manifests");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), manifest("a", "10.0.0.1")).unwrap();
    let (mut door, _stop) = opened(&folder, OFTEN).await;
    until(&mut door, "the first", |snapshot| services(snapshot) == ["a=10.0.0.1"]).await;
    fs::rename(&folder, parent.path().join("moved")).unwrap();
    let status = Arc::clone(&door.status);
    eventually("the loss shows", || !status.connected()).await;
    assert_eq!(services(&door.snapshots.borrow().snapshot), ["a=10.0.0.1"]);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("b.yaml"), manifest("b", "10.0.0.2")).unwrap();
    until(&mut door, "the new folder", |snapshot| services(snapshot) == ["b=10.0.0.2"]).await;
    eventually("all is well", || status.connected()).await;
}

#[tokio::test]
async fn a_folder_that_never_was_ends_the_daemon_with_its_name() {
    let (door, _stop) = opened(Path::new("/nowhere/at/all"), NEVER).await;
    let error = door.task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Folder(_)), "{error}");
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}
